//! The few calls outside naming and configuration that clients make: login, version, health, namespaces, nodes.

use crate::nacos::wire;
use crate::registry::access::Token;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::gone;
use crate::registry::like::Like;
use crate::registry::model::Time;
use crate::registry::namespace_calls;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Value, json};
use std::time::Duration;

/// What every login is given where the registry asks for no token: it opens nothing. The word 3.x uses with authentication off.
const TOKEN: &str = "AUTH_DISABLED";

/// Answers a call whose route is neither of naming nor of configuration.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    if let Some(message) = gone::gone(state.like, &call.method, &call.route) {
        return Err(Refusal::Gone(message));
    }
    match (call.method.as_str(), call.route.as_str()) {
        ("POST", "/v1/auth/login" | "/v1/auth/users/login") => login(call),
        ("GET", "/v1/console/server/state") => Ok(Answer::json(&server_state(state))),
        ("GET", "/v1/console/health/liveness" | "/v1/console/health/readiness") => {
            Ok(Answer::text("OK"))
        }
        (_, "/v1/console/namespaces") => namespace_calls::v1(state, time, call),
        ("GET", "/v1/core/cluster/nodes") if state.like == Like::V2_5 => Ok(Answer::json(
            &json!({"code": 200, "message": null, "data": [node(state)]}),
        )),
        (
            method,
            "/v1/auth/login"
            | "/v1/auth/users/login"
            | "/v1/console/server/state"
            | "/v1/console/health/liveness"
            | "/v1/console/health/readiness",
        ) => Err(Refusal::Method(method.to_owned())),
        _ => Err(Refusal::NoPath(call.what())),
    }
}

pub(crate) fn login(call: &Call) -> Result<Answer, Refusal> {
    let username = call.params.parameter("username")?;
    call.params.parameter("password")?;
    let token = Token {
        text: TOKEN.to_owned(),
        ttl: Duration::from_secs(18_000),
        administrator: true,
    };
    Ok(logged_in(username, token))
}

/// The answer to who has logged in.
pub(crate) fn logged_in(username: &str, token: Token) -> Answer {
    let header = format!("Bearer {}", token.text);
    let mut answer = Answer::json(&wire::Login {
        access_token: token.text,
        token_ttl: i64::try_from(token.ttl.as_secs()).unwrap_or(i64::MAX),
        global_admin: token.administrator,
        username: Some(username.to_owned()),
    });
    answer.headers.push(("Authorization", header));
    answer
}

/// What the registry says it is.
pub(crate) fn server_state(state: &State) -> Value {
    let version = state.like.manners().version;
    if state.like == Like::V1_4 {
        return json!({
            "version": version,
            "standalone_mode": "standalone",
            "function_mode": null,
        });
    }
    json!({
        "version": version,
        "startup_mode": "standalone",
        "function_mode": null,
        "auth_enabled": state.asks.to_string(),
        "auth_system_type": "nacos",
        "auth_admin_request": "false",
        "login_page_enabled": "false",
        "console_ui_enabled": "false",
        "server_port": state.port.to_string(),
        "maxContent": super::config::CONTENT.to_string(),
    })
}

/// Where the registry says it is, for whoever asks which node to talk to.
pub(crate) fn own_address(state: &State) -> String {
    format!("127.0.0.1:{}", state.port)
}

/// The registry as a node of a cluster of one, which has no other to report to.
pub(crate) fn node(state: &State) -> Value {
    json!({
        "ip": "127.0.0.1",
        "port": state.port,
        "state": "UP",
        "extendInfo": {"version": state.like.manners().version},
        "address": own_address(state),
        "abilities": {
            "remoteAbility": {"supportRemoteConnection": false, "grpcReportEnabled": false},
            "configAbility": {"supportRemoteMetrics": false},
            "namingAbility": {"supportJraft": false},
        },
        "grpcReportEnabled": false,
        "failAccessCnt": 0,
    })
}
