//! The calls of `/v3/admin/ns`: services, instances, clusters and health as an operator's tools see and set them.

use crate::nacos::model::DEFAULT_CLUSTER;
use crate::nacos::model::ServiceKey;
use crate::registry::admin_calls::Page;
use crate::registry::admin_calls::Row;
use crate::registry::call::Call;
use crate::registry::call::Time;
use crate::registry::checker;
use crate::registry::client_calls;
use crate::registry::console_calls;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::listing;
use crate::registry::naming::Address;
use crate::registry::naming::Metadata;
use crate::registry::naming::Patch;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
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
    (
        "PUT",
        "/v3/admin/ns/instance/metadata/batch",
        |state, time, call| batch(state, time, call, |there, said| there.extend(said)),
    ),
    (
        "DELETE",
        "/v3/admin/ns/instance/metadata/batch",
        |state, time, call| {
            batch(state, time, call, |there, said| {
                there.retain(|key, _| !said.contains_key(key));
            })
        },
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
    ("GET", "/v3/admin/ns/ops/switches", |_, _, _| Ok(switches())),
    ("GET", "/v3/admin/ns/ops/metrics", metrics),
    ("GET", "/v3/admin/ns/client/list", clients),
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
    let cluster = call.params.cluster();
    let healthy_only = call.params.flag(&["healthyOnly"], false);
    let all = state
        .naming
        .all(&service)
        .ok_or_else(|| Refusal::NotThere(format!("service {} is not found!", service.grouped())))?;
    let hosts: Vec<_> = all
        .filter(|(_, record)| &*record.cluster == cluster)
        .collect();
    if hosts.is_empty() {
        let words = format!("cluster {cluster} is not found!");
        return Err(Refusal::NotThere(words));
    }
    Ok(hosts
        .into_iter()
        .filter(|(_, record)| record.healthy || !healthy_only)
        .map(|(address, record)| json!(listing::host(&service, &address, record)))
        .collect())
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
fn named(params: &Params) -> Result<Vec<(Address, Arc<str>, bool)>, Refusal> {
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

fn create_service(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let persistent = !call.params.flag(&["ephemeral"], false);
    naming_calls::create(state, time, call, persistent)?;
    Ok("ok".into())
}

fn update_service(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let threshold = naming_calls::threshold(params)?.unwrap_or(0.0);
    let metadata = params.metadata()?;
    naming_calls::check_selector(params)?;
    state
        .naming
        .update(time.now, &service, threshold, metadata)?;
    Ok("ok".into())
}

/// A service, and its hosts if so wanted.
fn describe(state: &mut State, service: &ServiceKey, hosts: bool) -> Result<Value, Refusal> {
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
        "selector": {"type": "none", "contextType": "NONE"},
        "ephemeral": !persistent,
    }))
}

/// The services of a namespace whose name and group have the words somewhere, page by page.
fn list_services(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let page = Page::asked(params)?;
    let name = params.get("serviceNameParam").unwrap_or_default();
    let group = params.get("groupNameParam").unwrap_or_default();
    let has_words = |key: &&ServiceKey| key.name.contains(name) && key.group.contains(group);
    let namespace = params.namespace();
    let all = state.naming.of(&namespace);
    let mut all: Vec<ServiceKey> = all.filter(has_words).cloned().collect();
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

/// A line of the list of services; `triggerFlag` says that too few are healthy.
fn view(state: &mut State, key: &ServiceKey) -> Value {
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

/// Who is pushed, which is nobody over HTTP. Of a connection its address is known, not what speaks over it; those of one address
/// look alike, and are shown once unless `aggregation=false`.
fn subscribers(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let page = Page::asked(&call.params)?;
    let links = state.subscribers.askers(&service);
    let mut all: Vec<&str> = links
        .filter_map(|link| state.links.id(link)?.split('_').nth(1))
        .collect();
    if call.params.flag(&["aggregation"], true) {
        all.sort_unstable();
        all.dedup();
    }
    let count = all.len();
    let items = page.of(all).map(|ip| {
        json!({
            "namespaceId": service.namespace.naming_id(),
            "groupName": &*service.group,
            "serviceName": &*service.name,
            "ip": ip,
            "port": 0,
            "agent": null,
            "appName": null,
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

fn metrics(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    if call.params.flag(&["onlyStatus"], true) {
        return Ok(json!({"status": "UP"}));
    }
    let counts = state.naming.counts();
    let clients = state.naming.clients();
    let persistent = clients.iter().filter(|(_, persistent)| *persistent).count();
    let connections = state.links.namers().count();
    Ok(json!({
        "status": "UP",
        "serviceCount": counts.services,
        "instanceCount": counts.ephemeral + counts.persistent,
        "subscribeCount": state.subscribers.count(),
        "clientCount": clients.len() + connections,
        "connectionBasedClientCount": connections,
        "ephemeralIpPortClientCount": clients.len() - persistent,
        "persistentIpPortClientCount": persistent,
        "responsibleClientCount": clients.len() + connections,
    }))
}

/// `ip:port#true` for whoever has ephemeral instances, `ip:port#false` for whoever has persistent ones; connections by their names.
fn clients(state: &mut State, _: Time, _: &Call) -> Result<Value, Refusal> {
    let clients = state.naming.clients();
    let id = |(address, persistent): &(&Address, bool)| {
        format!("{}:{}#{}", address.ip, address.port, !persistent)
    };
    let connections = state.links.namers().map(str::to_owned);
    Ok(clients.iter().map(id).chain(connections).collect())
}

/// The node that is responsible for a client: there is but one.
fn responsible(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    naming_calls::address(&call.params)?;
    Ok(json!({"responsibleServer": console_calls::own_address(state)}))
}

/// The switches as 3.0.3 is delivered with them; nothing changes them here.
fn switches() -> Value {
    json!({
        "masters": null,
        "adWeightMap": {},
        "defaultPushCacheMillis": 10_000,
        "clientBeatInterval": listing::BEAT,
        "defaultCacheMillis": 3_000,
        "distroThreshold": 0.7,
        "healthCheckEnabled": true,
        "autoChangeHealthCheckEnabled": true,
        "distroEnabled": true,
        "enableStandalone": true,
        "pushEnabled": true,
        "checkTimes": 3,
        "httpHealthParams": {"max": 5_000, "min": 500, "factor": 0.85},
        "tcpHealthParams": {"max": 5_000, "min": 1_000, "factor": 0.75},
        "mysqlHealthParams": {"max": 3_000, "min": 2_000, "factor": 0.65},
        "incrementalList": [],
        "serverStatusSynchronizationPeriodMillis": 2_000,
        "serviceStatusSynchronizationPeriodMillis": 5_000,
        "disableAddIP": false,
        "sendBeatOnly": false,
        "lightBeatEnabled": true,
        "limitedUrlMap": {},
        "distroServerExpiredMillis": 10_000,
        "pushVersionOfGo": "0.1.0",
        "pushVersionOfJava": "0.1.0",
        "pushVersionOfPython": "0.4.3",
        "pushVersionOfC": "1.0.12",
        "pushVersionOfCsharp": "0.9.0",
        "enableAuthentication": false,
        "overriddenServerStatus": null,
        "defaultInstanceEphemeral": true,
        "healthCheckWhiteList": [],
        "name": "00-00---000-NACOS_SWITCH_DOMAIN-000---00-00",
        "checksum": null,
    })
}
