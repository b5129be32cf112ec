//! The calls of `/v3/admin/ns`: services, instances, clusters and health as an operator's tools see and set them.

use crate::nacos::model::ServiceKey;
use crate::registry::batches;
use crate::registry::call::Call;
use crate::registry::catalog_calls;
use crate::registry::checker;
use crate::registry::client_calls;
use crate::registry::clients;
use crate::registry::console_calls;
use crate::registry::listing;
use crate::registry::model::Time;
use crate::registry::naming::Patch;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::rows::Page;
use crate::registry::rows::Row;
use crate::registry::selector::Selector;
use crate::registry::state::State;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What there is.
pub(crate) const CALLS: &[Row] = &[
    ("POST", "/v3/admin/ns/instance", client_calls::register),
    ("DELETE", "/v3/admin/ns/instance", client_calls::deregister),
    ("PUT", "/v3/admin/ns/instance", |state, time, call| {
        naming_calls::update(state, time, call)?;
        Ok("ok".into())
    }),
    ("PUT", "/v3/admin/ns/instance/partial", patch),
    ("GET", "/v3/admin/ns/instance", detail),
    ("GET", "/v3/admin/ns/instance/list", list),
    (
        "PUT",
        "/v3/admin/ns/instance/metadata/batch",
        batches::add_metadata,
    ),
    (
        "DELETE",
        "/v3/admin/ns/instance/metadata/batch",
        batches::take_metadata,
    ),
    ("POST", "/v3/admin/ns/service", create_service),
    ("PUT", "/v3/admin/ns/service", update_service),
    ("DELETE", "/v3/admin/ns/service", |state, time, call| {
        naming_calls::delete_service(state, time, call)?;
        Ok("ok".into())
    }),
    ("GET", "/v3/admin/ns/service", |state, _, call| {
        let service = call.params.service()?;
        describe(state, &service, false)
    }),
    ("GET", "/v3/admin/ns/service/list", list_services),
    ("GET", "/v3/admin/ns/service/subscribers", subscribers),
    ("PUT", "/v3/admin/ns/cluster", update_cluster),
    (
        "PUT",
        "/v3/admin/ns/health/instance",
        |state, time, call| {
            naming_calls::health_by_hand(state, time, call)?;
            Ok("ok".into())
        },
    ),
    ("GET", "/v3/admin/ns/health/checkers", |_, _, _| {
        Ok(checker::kinds())
    }),
    ("GET", "/v3/admin/ns/ops/switches", |state, _, _| {
        Ok(state.switches.shown(state.like))
    }),
    ("PUT", "/v3/admin/ns/ops/switches", switch),
    ("GET", "/v3/admin/ns/ops/metrics", metrics),
    ("GET", "/v3/admin/ns/service/selector/types", |_, _, _| {
        Ok(json!(["label", "none"]))
    }),
    ("GET", "/v3/admin/ns/client/list", clients::list),
    ("GET", "/v3/admin/ns/client", clients::detail),
    (
        "GET",
        "/v3/admin/ns/client/publish/list",
        clients::publishes,
    ),
    (
        "GET",
        "/v3/admin/ns/client/subscribe/list",
        clients::subscribes,
    ),
    (
        "GET",
        "/v3/admin/ns/client/service/publisher/list",
        clients::publishers,
    ),
    (
        "GET",
        "/v3/admin/ns/client/service/subscriber/list",
        clients::subscribers,
    ),
    ("GET", "/v3/admin/ns/client/distro", responsible),
];

/// Where 3.0.3 means to leave what is not said as it is, it takes a weight of 1 and `enabled`; only metadata are left.
fn patch(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let address = naming_calls::address(params)?;
    let cluster: Arc<str> = params.cluster().into();
    let metadata = params.metadata()?;
    let patch = Patch {
        weight: Some(params.weight()?.unwrap_or(1.0)),
        enabled: Some(params.flag(&["enabled"], true)),
        metadata: params.get("metadata").is_some().then_some(metadata),
        healthy: None,
    };
    state.naming.detail(&service, &address, &cluster)?;
    naming_calls::overrule(state, time.now, &service, &address, &cluster, patch, false)?;
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

/// All hosts of one cluster, disabled ones too, as healthy as they are.
fn list(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let healthy_only = call.params.flag(&["healthyOnly"], false);
    let hosts = catalog_calls::hosts(state, &service, call.params.cluster())?;
    Ok(hosts
        .into_iter()
        .filter(|(_, record)| record.healthy || !healthy_only)
        .map(|(address, record)| json!(listing::host(&service, &address, record)))
        .collect())
}

/// Changes a switch; a blank is nothing said.
pub(crate) fn switch(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    for name in ["entry", "value"] {
        call.params.required(name)?;
    }
    naming_calls::switch(state, time, call)?;
    Ok("ok".into())
}

pub(crate) fn create_service(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let persistent = !call.params.flag(&["ephemeral"], false);
    naming_calls::create(state, time, call, persistent)?;
    Ok("ok".into())
}

pub(crate) fn update_service(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let threshold = naming_calls::threshold(params)?.unwrap_or(0.0);
    let metadata = params.metadata()?;
    let selector = Selector::read(params)?;
    state
        .naming
        .update(time.now, &service, threshold, metadata, selector)?;
    Ok("ok".into())
}

/// A service, and its hosts if so wanted.
pub(crate) fn describe(
    state: &mut State,
    service: &ServiceKey,
    hosts: bool,
) -> Result<Value, Refusal> {
    let (Some((settings, names)), Some(persistent)) = (
        state.naming.describe(service),
        state.naming.is_persistent(service),
    ) else {
        return Err(Refusal::ServiceNotFound {
            namespace: service.namespace.to_string(),
            service: service.grouped(),
        });
    };
    let mut clusters: Map<String, Value> = names
        .iter()
        .map(|name| {
            let said = settings.clusters.get(name).cloned().unwrap_or_default();
            let cluster = json!({
                "clusterName": &**name,
                "healthChecker": said.checker.shown(),
                "healthyCheckPort": said.port,
                "useInstancePortForCheck": said.instance_port,
                "metadata": said.metadata,
                "hosts": if hosts { json!([]) } else { Value::Null },
            });
            (name.to_string(), cluster)
        })
        .collect();
    for (address, record) in state.naming.all(service).into_iter().flatten() {
        if let Some(cluster) = clusters.get_mut(&*record.cluster)
            && let Some(hosts) = cluster.get_mut("hosts").and_then(Value::as_array_mut)
        {
            hosts.push(json!(listing::host(service, &address, record)));
        }
    }
    Ok(json!({
        "namespaceId": service.namespace.naming_id(),
        "serviceName": &*service.name,
        "groupName": &*service.group,
        "clusterMap": clusters,
        "metadata": settings.metadata,
        "protectThreshold": naming_calls::shortest(settings.threshold),
        "selector": settings.selector.shown(state.like),
        "ephemeral": !persistent,
    }))
}

/// The services of a namespace whose name and group have the words somewhere, page by page.
fn list_services(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let page = Page::asked(params)?;
    let mut all = catalog_calls::found(state, params);
    let with_hosts = params.flag(&["withInstances"], false);
    if params.flag(&["ignoreEmptyService"], false) && !with_hosts {
        all.retain(|key| {
            let mut hosts = state.naming.all(key).into_iter().flatten();
            hosts.next().is_some()
        });
    }
    let count = all.len();
    let items = page
        .of(all)
        .map(|key| {
            if with_hosts {
                describe(state, &key, true)
            } else {
                Ok(catalog_calls::view(state, &key))
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(page.answer(count, page.available(count), items))
}

/// Who is pushed. Of a connection its address is known, not what speaks over it; those of one address look alike, and are shown
/// once unless `aggregation=false`.
fn subscribers(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let page = Page::asked(&call.params)?;
    let each = !call.params.flag(&["aggregation"], true);
    let all = catalog_calls::told(state, &service, each);
    let count = all.len();
    let items = page.of(all).map(|told| {
        json!({
            "namespaceId": service.namespace.naming_id(),
            "groupName": &*service.group,
            "serviceName": &*service.name,
            "ip": told.ip,
            "port": told.port,
            "agent": told.agent,
            "appName": told.app,
        })
    });
    Ok(page.answer(count, page.available(count), items.collect()))
}

fn update_cluster(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let (cluster, said) = naming_calls::cluster_said(&call.params)?;
    state
        .naming
        .set_cluster(time.now, &service, cluster, said)?;
    Ok("ok".into())
}

pub(crate) fn metrics(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let status = state.switches.status().name();
    if call.params.flag(&["onlyStatus"], true) {
        return Ok(json!({"status": status}));
    }
    let counts = state.naming.counts();
    let clients = clients::ids(state);
    let persistent = clients.iter().filter(|id| id.ends_with("#false")).count();
    let connections = state.links.namers().count();
    Ok(json!({
        "status": status,
        "serviceCount": counts.services,
        "instanceCount": counts.ephemeral + counts.persistent,
        "subscribeCount": state.subscribers.count() + state.udp.count(),
        "clientCount": clients.len(),
        "connectionBasedClientCount": connections,
        "ephemeralIpPortClientCount": clients.len() - connections - persistent,
        "persistentIpPortClientCount": persistent,
        "responsibleClientCount": clients.len(),
    }))
}

/// The node that is responsible for a client: there is but one.
fn responsible(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    naming_calls::address(&call.params)?;
    Ok(json!({"responsibleServer": console_calls::own_address(state)}))
}
