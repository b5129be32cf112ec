//! The calls of `/v3/` that 3.0.3 took out of v1 and that a client cannot do without: what it is, a login, services, checkers, details.
//!
//! It asks for a token there even when it asks for none elsewhere; here nothing does.

use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::call::Time;
use crate::registry::console_calls;
use crate::registry::like::Like;
use crate::registry::listing;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Value, json};

/// Answers a call whose route begins with `/v3/`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let route = call.route.as_str();
    let run: fn(&mut State, Time, &Call) -> Result<Value, Refusal> =
        match (call.method.as_str(), route) {
            _ if state.like != Like::V3_0 => return Err(Refusal::NoPath(call.what())),
            ("POST", "/v3/auth/user/login") => return console_calls::login(call),
            ("GET", "/v3/admin/core/state") => |state, _, _| Ok(console_calls::server_state(state)),
            ("GET", "/v3/admin/core/state/liveness" | "/v3/admin/core/state/readiness") => {
                |_, _, _| Ok("ok".into())
            }
            ("POST", "/v3/admin/ns/service") => create_service,
            ("DELETE", "/v3/admin/ns/service") => |state, time, call| {
                naming_calls::delete_service(state, time, call).map(|_| "ok".into())
            },
            ("PUT", "/v3/admin/ns/cluster") => update_cluster,
            ("GET", "/v3/admin/ns/instance") => detail,
            ("PUT", "/v3/admin/ns/instance") => {
                |state, time, call| naming_calls::update(state, time, call).map(|_| "ok".into())
            }
            ("GET", "/v3/admin/ns/instance/list") => list,
            ("PUT", "/v3/admin/ns/health/instance") => |state, time, call| {
                naming_calls::health_by_hand(state, time, call).map(|_| "ok".into())
            },
            _ => return Err(Refusal::NoPath(call.what())),
        };
    call.params.check()?;
    let data = run(state, time, call)?;
    Ok(Answer::json(
        &json!({"code": 0, "message": "success", "data": data}),
    ))
}

fn create_service(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let persistent = !call.params.flag(&["ephemeral"], false);
    naming_calls::create(state, time, call, persistent)?;
    Ok("ok".into())
}

fn update_cluster(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let cluster = params.required("clusterName")?;
    params.required("checkPort")?;
    params.required("useInstancePort4Check")?;
    let checker = params.required("healthChecker")?;
    naming_calls::uncheck(state, time, &service, cluster, checker)?;
    Ok("ok".into())
}

fn detail(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let address = naming_calls::address(&call.params)?;
    let record = state
        .naming
        .detail(&service, &address, call.params.cluster())?;
    Ok(json!(listing::host(&service, &address, record)))
}

fn list(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let cluster = call.params.get("clusterName");
    let healthy_only = call.params.flag(&["healthyOnly"], false);
    let all = state
        .naming
        .all(&service)
        .ok_or_else(|| Refusal::ServiceNotFound {
            namespace: service.namespace.to_string(),
            service: service.grouped(),
        })?;
    let hosts: Vec<Value> = all
        .filter(|(_, record)| cluster.is_none_or(|cluster| *record.cluster == *cluster))
        .filter(|(_, record)| record.healthy || !healthy_only)
        .map(|(address, record)| json!(listing::host(&service, &address, record)))
        .collect();
    Ok(hosts.into())
}
