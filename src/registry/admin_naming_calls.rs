//! The calls of `/v3/admin/ns`: services, instances, clusters and health as an operator's tools see and set them.

use crate::nacos::model::DEFAULT_CLUSTER;
use crate::nacos::model::ServiceKey;
use crate::registry::admin_calls::Page;
use crate::registry::admin_calls::Row;
use crate::registry::call::Call;
use crate::registry::call::Time;
use crate::registry::catalog_calls;
use crate::registry::checker;
use crate::registry::client_calls;
use crate::registry::clients;
use crate::registry::console_calls;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::listing;
use crate::registry::naming::Address;
use crate::registry::naming::Metadata;
use crate::registry::naming::Patch;
use crate::registry::naming::Record;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::selector::Selector;
use crate::registry::state::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, sync::Arc};

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
    ("PUT", "/v3/admin/ns/instance/metadata/batch", add_metadata),
    (
        "DELETE",
        "/v3/admin/ns/instance/metadata/batch",
        take_metadata,
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
    let hosts = hosts(state, &service, call.params.cluster())?;
    Ok(hosts
        .into_iter()
        .filter(|(_, record)| record.healthy || !healthy_only)
        .map(|(address, record)| json!(listing::host(&service, &address, record)))
        .collect())
}

/// The hosts of one cluster, of which there must be one.
pub(crate) fn hosts(
    state: &mut State,
    service: &ServiceKey,
    cluster: &str,
) -> Result<Vec<(Address, Record)>, Refusal> {
    let all = state
        .naming
        .all(service)
        .ok_or_else(|| Refusal::NotThere(format!("service {} is not found!", service.grouped())))?;
    let hosts: Vec<_> = all
        .filter(|(_, record)| &*record.cluster == cluster)
        .collect();
    if hosts.is_empty() {
        let words = format!("cluster {cluster} is not found!");
        return Err(Refusal::NotThere(words));
    }
    Ok(hosts)
}

/// One of the `instances` of a batch.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    ip: String,
    port: i64,
    #[serde(default)]
    cluster_name: Option<String>,
    /// Repeated in the answer as it was said, and used for nothing else.
    #[serde(default = "yes")]
    ephemeral: bool,
}

fn yes() -> bool {
    true
}

/// Which instances are named; none is all of the service.
pub(crate) fn named(params: &Params) -> Result<Vec<(Address, Arc<str>, bool)>, Refusal> {
    let Some(text) = params.get("instances") else {
        return Ok(Vec::new());
    };
    let named: Vec<Named> =
        serde_json::from_str(text).map_err(|error| Refusal::Instances(error.to_string()))?;
    named
        .into_iter()
        .map(|named| {
            let cluster = named.cluster_name.filter(|name| !name.trim().is_empty());
            let cluster = cluster.unwrap_or_else(|| DEFAULT_CLUSTER.into());
            forms::check_ip(Some(&named.ip))?;
            forms::check_cluster(&cluster)?;
            let address = Address {
                ip: named.ip.into(),
                port: u16::try_from(named.port).map_err(|_| Refusal::PortRange)?,
            };
            Ok((address, cluster.into(), named.ephemeral))
        })
        .collect()
}

/// Adds to the metadata of several instances.
pub(crate) fn add_metadata(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    batch(state, time, call, |there, said| there.extend(said))
}

/// Takes keys from the metadata of several instances.
pub(crate) fn take_metadata(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    batch(state, time, call, |there, said| {
        there.retain(|key, _| !said.contains_key(key));
    })
}

/// Changes a switch; a blank is nothing said.
pub(crate) fn switch(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    for name in ["entry", "value"] {
        call.params.required(name)?;
    }
    naming_calls::switch(state, time, call)?;
    Ok("ok".into())
}

/// Changes what an operator set as metadata of several instances; those that are not there are passed over.
///
/// Like any first word of an operator it brings the weight 1 and `enabled` with it. `consistencyType` chooses nothing in 3.0.3.
fn batch(
    state: &mut State,
    time: Time,
    call: &Call,
    change: fn(&mut Metadata, Metadata),
) -> Result<Value, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    params.required("metadata")?;
    let said = params.metadata()?;
    let mut those = named(params)?;
    if those.is_empty() {
        let all = state.naming.all(&service).into_iter().flatten();
        those = all
            .map(|(address, record)| (address, record.cluster, !record.persistent))
            .collect();
    }
    let mut updated = Vec::new();
    for (address, cluster, ephemeral) in those {
        if state.naming.detail(&service, &address, &cluster).is_err() {
            continue;
        }
        let there = state.naming.overruled(&service, &address, &cluster);
        let mut metadata = there.cloned().unwrap_or_default();
        change(&mut metadata, said.clone());
        let patch = Patch {
            metadata: Some(metadata),
            ..Patch::default()
        };
        naming_calls::overrule(state, time.now, &service, &address, &cluster, patch, false)?;
        let kind = if ephemeral { "ephemeral" } else { "persist" };
        updated.push(format!(
            "{}:{}:unknown:{cluster}:{kind}",
            address.ip, address.port
        ));
    }
    Ok(json!({"updated": updated}))
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
    let mut all = found(state, params);
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
                Ok(view(state, &key))
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(page.answer(count, page.available(count), items))
}

/// The services of a namespace whose name and group have the words somewhere.
pub(crate) fn found(state: &State, params: &Params) -> Vec<ServiceKey> {
    let name = params.get("serviceNameParam").unwrap_or_default();
    let group = params.get("groupNameParam").unwrap_or_default();
    let has_words = |key: &&ServiceKey| key.name.contains(name) && key.group.contains(group);
    let namespace = params.namespace();
    let all = state.naming.of(&namespace);
    all.filter(has_words).cloned().collect()
}

/// A line of the list of services; `triggerFlag` says that too few are healthy.
pub(crate) fn view(state: &mut State, key: &ServiceKey) -> Value {
    let threshold = state.naming.describe(key);
    let threshold = threshold.map_or(0.0, |(settings, _)| settings.threshold);
    let (mut clusters, mut count, mut healthy) = (BTreeSet::new(), 0_u32, 0_u32);
    for (_, record) in state.naming.all(key).into_iter().flatten() {
        count += 1;
        healthy += u32::from(record.healthy);
        clusters.insert(record.cluster);
    }
    let few = count > 0 && f64::from(healthy) / f64::from(count) <= f64::from(threshold);
    json!({
        "name": &*key.name,
        "groupName": &*key.group,
        "clusterCount": clusters.len(),
        "ipCount": count,
        "healthyInstanceCount": healthy,
        "triggerFlag": few.to_string(),
    })
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
