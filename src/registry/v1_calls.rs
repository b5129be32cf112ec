//! Naming over HTTP v1: which call is which, and what only v1 tells.

use crate::nacos::wire;
use crate::registry::admin_naming_calls;
use crate::registry::batches;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::catalog_calls;
use crate::registry::checker;
use crate::registry::gone;
use crate::registry::like::Like;
use crate::registry::model::Time;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::json;

/// Answers a call whose route begins with `/v1/ns`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    if let Some(message) = gone::gone(state.like, &call.method, &call.route) {
        return Err(Refusal::Gone(message));
    }
    state
        .switches
        .admits(&call.method, &call.target, call.agent())?;
    let no_such_api = || Refusal::NoSuchApi(format!("{}:{}", call.method, call.path));
    let run: fn(&mut State, Time, &Call) -> Result<Answer, Refusal> =
        match (call.method.as_str(), call.route.as_str()) {
            ("POST", "/v1/ns/instance") => naming_calls::register,
            ("DELETE", "/v1/ns/instance") => naming_calls::deregister,
            ("PUT", "/v1/ns/instance") => naming_calls::update,
            ("PATCH", "/v1/ns/instance") => naming_calls::patch,
            ("GET", "/v1/ns/instance") => naming_calls::detail,
            ("GET", "/v1/ns/instance/list") => naming_calls::list,
            ("PUT", "/v1/ns/instance/beat") => naming_calls::beat,
            ("POST", "/v1/ns/service") => naming_calls::create_service,
            ("PUT", "/v1/ns/service") => naming_calls::update_service,
            ("DELETE", "/v1/ns/service") => naming_calls::delete_service,
            ("GET", "/v1/ns/service") => naming_calls::describe_service,
            ("GET", "/v1/ns/service/list") => list_services,
            ("PUT", "/v1/ns/cluster") => naming_calls::update_cluster,
            ("PUT", "/v1/ns/health" | "/v1/ns/health/instance") => naming_calls::health_by_hand,
            ("GET", "/v1/ns/health/checkers") if state.like != Like::V1_4 => checkers,
            ("GET", "/v1/ns/operator/metrics" | "/v1/ns/ops/metrics") => metrics,
            ("GET", "/v1/ns/operator/switches" | "/v1/ns/ops/switches") => switches,
            ("PUT", "/v1/ns/operator/switches" | "/v1/ns/ops/switches") => naming_calls::switch,
            ("PUT", "/v1/ns/instance/metadata/batch") => {
                |state, time, call| batches::v1(state, time, call, true)
            }
            ("DELETE", "/v1/ns/instance/metadata/batch") => {
                |state, time, call| batches::v1(state, time, call, false)
            }
            (method, route) => {
                catalog_calls::handler(state.like, method, route).ok_or_else(no_such_api)?
            }
        };
    if state.like.manners().parameter_check {
        call.params.check()?;
    } else {
        call.params.check_name()?;
    }
    run(state, time, call)
}

fn list_services(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    // What is no number is 0 to the original.
    let page: i64 = params.required("pageNo")?.parse().unwrap_or(0);
    let size: i64 = params.required("pageSize")?.parse().unwrap_or(0);
    let names = catalog_calls::names(state, params);
    let count = i64::try_from(names.len()).unwrap_or(i64::MAX);
    let size = usize::try_from(size).unwrap_or(0);
    let skip = usize::try_from(page.saturating_sub(1).max(0))
        .unwrap_or(0)
        .saturating_mul(size);
    Ok(Answer::json(&wire::ServiceNames {
        doms: names.into_iter().skip(skip).take(size).collect(),
        count,
    }))
}

fn metrics(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    if state.like == Like::V1_4 {
        let status = state.switches.status().name();
        let counts = state.naming.counts();
        let instances = counts.ephemeral + counts.persistent;
        return Ok(Answer::json(&json!({
            "status": status,
            "serviceCount": counts.services,
            "instanceCount": instances,
            "raftNotifyTaskCount": 0,
            "responsibleServiceCount": counts.services,
            "responsibleInstanceCount": instances,
            "cpu": 0.0,
            "load": 0.0,
            "mem": 0.0,
        })));
    }
    let mut figures = admin_naming_calls::metrics(state, time, call)?;
    if let Some(figures) = figures.as_object_mut()
        && let Some(instances) = figures.get("instanceCount").cloned()
    {
        // What v3 leaves out: there is but one node.
        figures.insert("responsibleInstanceCount".to_owned(), instances);
    }
    Ok(Answer::json(&figures))
}

/// The kinds of health checkers, which 1.4 does not tell.
fn checkers(_: &mut State, _: Time, _: &Call) -> Result<Answer, Refusal> {
    Ok(Answer::json(&checker::kinds()))
}

fn switches(state: &mut State, _: Time, _: &Call) -> Result<Answer, Refusal> {
    Ok(Answer::json(&state.switches.shown(state.like)))
}
