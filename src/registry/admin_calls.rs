//! The calls of `/v3/`, which 3.0.3 alone has: which there are, how they are answered, and those about the server itself.
//!
//! Every answer is JSON with a code; only a code of 0 is a yes. 3.0.3 asks for a token under `/v3/admin` even when it asks for none
//! elsewhere; here it is asked for everywhere or nowhere.

use crate::registry::admin_config_calls;
use crate::registry::admin_naming_calls;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::client_calls;
use crate::registry::console_calls;
use crate::registry::like::Like;
use crate::registry::model::Time;
use crate::registry::namespace_calls;
use crate::registry::refusal::Refusal;
use crate::registry::rows;
use crate::registry::rows::Row;
use crate::registry::state::State;
use serde_json::{Value, json};

const LOGIN: &str = "/v3/auth/user/login";

const CORE: &[Row] = &[
    ("GET", "/v3/admin/core/state", |state, _, _| {
        Ok(console_calls::server_state(state))
    }),
    ("GET", "/v3/admin/core/state/liveness", rows::ok),
    ("GET", "/v3/admin/core/state/readiness", rows::ok),
    ("GET", "/v3/admin/core/cluster/node/self", |state, _, _| {
        Ok(console_calls::node(state))
    }),
    ("GET", "/v3/admin/core/cluster/node/list", nodes),
];

/// Answers a call whose route begins with `/v3/`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let route = call.route.as_str();
    if state.like != Like::V3_0 {
        return Err(Refusal::NoPath(call.what()));
    }
    if (call.method.as_str(), route) == ("POST", LOGIN) {
        return console_calls::login(call);
    }
    let all = [
        CORE,
        namespace_calls::V3_CALLS,
        client_calls::CALLS,
        admin_naming_calls::CALLS,
        admin_config_calls::CALLS,
    ];
    let here = || all.iter().copied().flatten().filter(|row| row.1 == route);
    let Some((.., run)) = here().find(|row| row.0 == call.method) else {
        return Err(if route == LOGIN || here().next().is_some() {
            Refusal::Method(call.method.clone())
        } else {
            Refusal::NoPath(call.what())
        });
    };
    if route.starts_with("/v3/client/ns/") || route.starts_with("/v3/admin/ns/") {
        call.params.check()?;
    }
    let data = run(state, time, call)?;
    Ok(Answer::json(
        &json!({"code": 0, "message": "success", "data": data}),
    ))
}

pub(crate) fn nodes(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let up = match params.get("state").map(str::to_ascii_uppercase).as_deref() {
        None | Some("UP") => true,
        Some("STARTING" | "SUSPICIOUS" | "DOWN" | "ISOLATION") => false,
        Some(_) => {
            return Err(Refusal::NodeState(
                params.get("state").unwrap_or_default().to_owned(),
            ));
        }
    };
    let begins = params.get("address").unwrap_or_default();
    let meant = up && console_calls::own_address(state).starts_with(begins);
    Ok(meant
        .then(|| console_calls::node(state))
        .into_iter()
        .collect())
}
