//! Which request over gRPC is answered by what.

use crate::nacos::rpc::Payload;
use crate::nacos::rpc::{
    HealthCheckRequest, HealthCheckResponse, Outcome, ServerCheckResponse, code,
};
use crate::registry::rpc_calls::error;
use crate::registry::rpc_calls::{Caller, Handler, Unread};
use crate::registry::rpc_config;
use crate::registry::rpc_naming;
use crate::registry::state::State;

/// What answers a request.
///
/// # Errors
/// The answer of what needs none.
pub(crate) fn handler(
    state: &State,
    caller: Caller,
    payload: &Payload,
) -> Result<Handler, Box<Payload>> {
    let kind = payload.kind();
    if kind == "ServerCheckRequest" {
        let id = state.links.id(caller.link).unwrap_or_default();
        let answer = Payload::new(&ServerCheckResponse {
            outcome: Outcome::ok(),
            connection_id: id.to_owned(),
            support_ability_negotiation: true,
        });
        return Err(Box::new(answer));
    }
    let Some(run) = rpc_naming::handler(kind)
        .or_else(|| rpc_config::handler(kind))
        .or_else(|| (kind == "HealthCheckRequest").then_some(health_check as Handler))
    else {
        let answer = error(code::NO_HANDLER, "RequestHandler Not Found");
        return Err(Box::new(answer));
    };
    if !state.links.is_client(caller.link) {
        let answer = error(code::UNREGISTERED, "Connection is unregistered.");
        return Err(Box::new(answer));
    }
    Ok(run)
}

fn health_check(_: &mut State, _: Caller, payload: &Payload) -> Result<Payload, Unread> {
    payload.read::<HealthCheckRequest>().map_err(|_| Unread)?;
    Ok(Payload::new(&HealthCheckResponse::with(Outcome::ok())))
}
