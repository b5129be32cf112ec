//! The calls of `/v2/`, which 2.5.1 alone has of what is listened to: services and instances as in v1, with a code in each answer.

use crate::nacos::model::DEFAULT_GROUP;
use crate::registry::admin_calls;
use crate::registry::admin_naming_calls;
use crate::registry::batches;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::catalog_calls;
use crate::registry::client_calls;
use crate::registry::clients;
use crate::registry::console_calls;
use crate::registry::gone;
use crate::registry::like::Like;
use crate::registry::listing;
use crate::registry::listing::Asked;
use crate::registry::model::Time;
use crate::registry::namespace_calls;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::rows;
use crate::registry::rows::Row;
use crate::registry::state::State;
use serde_json::{Value, json};

const CALLS: &[Row] = &[
    ("POST", "/v2/ns/instance", client_calls::register),
    ("DELETE", "/v2/ns/instance", client_calls::deregister),
    ("PUT", "/v2/ns/instance", |state, time, call| {
        naming_calls::update(state, time, call)?;
        Ok("ok".into())
    }),
    ("PATCH", "/v2/ns/instance", patch),
    ("GET", "/v2/ns/instance", detail),
    ("GET", "/v2/ns/instance/list", list),
    (
        "PUT",
        "/v2/ns/instance/metadata/batch",
        batches::add_metadata,
    ),
    (
        "DELETE",
        "/v2/ns/instance/metadata/batch",
        batches::take_metadata,
    ),
    ("POST", "/v2/ns/service", admin_naming_calls::create_service),
    ("PUT", "/v2/ns/service", admin_naming_calls::update_service),
    ("DELETE", "/v2/ns/service", |state, time, call| {
        naming_calls::delete_service(state, time, call)?;
        Ok("ok".into())
    }),
    ("GET", "/v2/ns/service", describe),
    ("GET", "/v2/ns/service/list", list_services),
    ("PUT", "/v2/ns/health", health),
    ("PUT", "/v2/ns/health/instance", health),
    ("GET", "/v2/ns/operator/switches", |state, _, _| {
        Ok(state.switches.shown(state.like))
    }),
    (
        "PUT",
        "/v2/ns/operator/switches",
        admin_naming_calls::switch,
    ),
    (
        "GET",
        "/v2/ns/operator/metrics",
        admin_naming_calls::metrics,
    ),
    ("GET", "/v2/ns/client/list", clients::list),
    ("GET", "/v2/ns/client", clients::detail),
    ("GET", "/v2/ns/client/publish/list", clients::publishes),
    ("GET", "/v2/ns/client/subscribe/list", clients::subscribes),
    (
        "GET",
        "/v2/ns/client/service/publisher/list",
        clients::publishers,
    ),
    (
        "GET",
        "/v2/ns/client/service/subscriber/list",
        clients::subscribers,
    ),
    ("GET", "/v2/ns/catalog/instances", catalog),
    ("GET", "/v2/console/health/liveness", rows::ok),
    ("GET", "/v2/console/health/readiness", rows::ok),
    ("GET", "/v2/core/cluster/node/self", |state, _, _| {
        Ok(console_calls::node(state))
    }),
    ("GET", "/v2/core/cluster/node/self/health", |_, _, _| {
        Ok("UP".into())
    }),
    ("GET", "/v2/core/cluster/node/list", admin_calls::nodes),
];

const BEAT: &str = "/v2/ns/instance/beat";
const STATUSES: &str = "/v2/ns/instance/statuses/";

/// Answers a call whose route begins with `/v2/`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    if let Some(message) = gone::gone(state.like, &call.method, &call.route) {
        return Err(Refusal::Gone(message));
    }
    if state.like != Like::V2_5 {
        return Err(Refusal::NoPath(call.what()));
    }
    // Two names for one thing.
    let route = call.route.replacen("/v2/ns/ops/", "/v2/ns/operator/", 1);
    let naming = route.starts_with("/v2/ns/");
    if naming {
        call.params.check()?;
    }
    // These two are answered as in v1.
    if (call.method.as_str(), route.as_str()) == ("PUT", BEAT) {
        grouped(call)?;
        return naming_calls::beat(state, time, call);
    }
    if let Some(key) = route.strip_prefix(STATUSES)
        && call.method == "GET"
    {
        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy();
        return catalog_calls::health_of(state, &catalog_calls::key(&key)?);
    }
    let all = [CALLS, namespace_calls::V2_CALLS];
    let here = || all.iter().copied().flatten().filter(|row| row.1 == route);
    let Some((.., run)) = here().find(|row| row.0 == call.method) else {
        let known = route == BEAT || here().next().is_some();
        return Err(if known {
            Refusal::Method(call.method.clone())
        } else {
            Refusal::NoPath(call.what())
        });
    };
    let data = run(state, time, call)?;
    Ok(Answer::json(
        &json!({"code": 0, "message": "success", "data": data}),
    ))
}

/// Refuses a name without its group, which the calls that are v1's want.
fn grouped(call: &Call) -> Result<(), Refusal> {
    let name = call.params.required("serviceName")?;
    if name.contains("@@") {
        Ok(())
    } else {
        Err(Refusal::IllegalName)
    }
}

fn patch(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    call.params.parameter("enabled")?;
    grouped(call)?;
    naming_calls::patch(state, time, call)?;
    Ok("ok".into())
}

fn detail(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let address = naming_calls::address(&call.params)?;
    let cluster = call.params.cluster();
    let record = state.naming.detail(&service, &address, cluster)?;
    let id =
        (!record.without_id).then(|| listing::instance_id(&service, &address, &record.cluster));
    Ok(json!({
        "serviceName": service.grouped(),
        "ip": &*address.ip,
        "port": address.port,
        "clusterName": &*record.cluster,
        "weight": record.weight,
        "healthy": record.healthy,
        "instanceId": id,
        "metadata": record.metadata,
    }))
}

/// A list of one cluster or of all; `port` is where its client is pushed over UDP, at the address it asks from.
fn list(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    params.parameter("serviceName")?;
    let service = params.service()?;
    let clusters = params.get("clusterName").unwrap_or_default();
    let port = params.number("port")?;
    let cache = naming_calls::subscribe(state, time.now, call, &service, clusters, port);
    let among: Vec<&str> = clusters
        .split(',')
        .filter(|name| !name.is_empty())
        .collect();
    let healthy_only = params.flag(&["healthyOnly"], false);
    let listing = state.naming.list(&service, &among, healthy_only);
    let asked = Asked {
        service: &service,
        clusters,
        cache,
        env: "",
        java: call.is_java(),
    };
    Ok(listing::in_2_5(state.like, time, &asked, listing))
}

fn describe(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let mut shown = admin_naming_calls::describe(state, &service, false)?;
    if let Some(shown) = shown.as_object_mut() {
        if let Some(id) = shown.remove("namespaceId") {
            shown.insert("namespace".to_owned(), id);
        }
        let clusters = shown.get_mut("clusterMap").and_then(Value::as_object_mut);
        for cluster in clusters.into_iter().flat_map(|all| all.values_mut()) {
            if let Some(cluster) = cluster.as_object_mut() {
                cluster.remove("healthyCheckPort");
                cluster.remove("useInstancePortForCheck");
            }
        }
    }
    Ok(shown)
}

fn list_services(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let positive = |number: Option<i64>, default| {
        number.map_or(default, |number| usize::try_from(number).unwrap_or(0))
    };
    let number = positive(params.number("pageNo")?, 1);
    let size = positive(params.number("pageSize")?, 20).min(500);
    let group = params.get("groupName").unwrap_or(DEFAULT_GROUP);
    let names = state.naming.names(&params.namespace(), group);
    let count = names.len();
    let names: Vec<String> = catalog_calls::page(names, number, size).collect();
    Ok(json!({"count": count, "services": names}))
}

fn health(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    naming_calls::health_by_hand(state, time, call)?;
    Ok("ok".into())
}

/// All hosts of a service; with `healthyOnly` or `enabledOnly` those that are as it says, true or false.
fn catalog(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let number = |name| {
        let number = params.number(name)?.ok_or(Refusal::Missing(name))?;
        Ok(usize::try_from(number).unwrap_or(0))
    };
    let (page, size) = (number("pageNo")?, number("pageSize")?);
    let said = |name: &'static str| params.get(name).map(|_| params.flag(&[name], false));
    let (healthy, enabled) = (said("healthyOnly"), said("enabledOnly"));
    let all = state.naming.all(&service);
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.retain(|(_, record)| {
        healthy.is_none_or(|healthy| record.healthy == healthy)
            && enabled.is_none_or(|enabled| record.enabled == enabled)
    });
    let count = all.len();
    let hosts: Vec<Value> = catalog_calls::page(all, page, size)
        .map(|(address, record)| json!(listing::host(&service, &address, record)))
        .collect();
    Ok(if hosts.is_empty() {
        json!({"count": count})
    } else {
        json!({"instances": hosts, "count": count})
    })
}
