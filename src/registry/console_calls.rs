//! The few calls outside naming and configuration that clients make: login, version, health, namespaces.

use crate::nacos::wire;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::desk::State;
use crate::registry::refusal::Refusal;
use serde_json::json;

/// What every login is given: the registry asks for no token, so this opens nothing. The word 3.x uses with authentication off.
const TOKEN: &str = "AUTH_DISABLED";

/// Answers a call whose route is neither of naming nor of configuration.
pub(crate) fn answer(state: &State, call: &Call) -> Result<Answer, Refusal> {
    match (call.method.as_str(), call.route.as_str()) {
        ("POST", "/v1/auth/login" | "/v1/auth/users/login") => login(call),
        ("GET", "/v1/console/server/state") => Ok(server_state(state.port)),
        ("GET", "/v1/console/health/liveness" | "/v1/console/health/readiness") => {
            Ok(Answer::text("OK"))
        }
        ("GET", "/v1/console/namespaces") => Ok(namespaces(state)),
        (
            method,
            "/v1/auth/login"
            | "/v1/auth/users/login"
            | "/v1/console/server/state"
            | "/v1/console/health/liveness"
            | "/v1/console/health/readiness"
            | "/v1/console/namespaces",
        ) => Err(Refusal::Method(method.to_owned())),
        _ => Err(Refusal::NoPath),
    }
}

fn login(call: &Call) -> Result<Answer, Refusal> {
    let username = call.params.parameter("username")?;
    call.params.parameter("password")?;
    let mut answer = Answer::json(&wire::Login {
        access_token: TOKEN.to_owned(),
        token_ttl: 18_000,
        global_admin: true,
        username: Some(username.to_owned()),
    });
    answer
        .headers
        .push(("Authorization", format!("Bearer {TOKEN}")));
    Ok(answer)
}

fn server_state(port: u16) -> Answer {
    Answer::json(&json!({
        "version": "2.5.1",
        "startup_mode": "standalone",
        "function_mode": null,
        "auth_enabled": "false",
        "auth_system_type": "nacos",
        "auth_admin_request": "false",
        "login_page_enabled": "false",
        "console_ui_enabled": "false",
        "server_port": port.to_string(),
        "maxContent": super::config::CONTENT.to_string(),
    }))
}

fn namespaces(state: &State) -> Answer {
    let count = state.configs.count("");
    Answer::json(&json!({
        "code": 200,
        "message": null,
        "data": [{
            "namespace": "",
            "namespaceShowName": "public",
            "namespaceDesc": "Default Namespace",
            "quota": 200,
            "configCount": count,
            "type": 0,
        }],
    }))
}
