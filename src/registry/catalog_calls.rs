//! What consoles and tools read over `/v1/ns`: the catalog of services, who has subscribed, and what the registry says of itself.
//!
//! Not here, because nobody but the original's own nodes and developers asks: `service/names`, `service/checksum`, `operator/push/state`,
//! `operator/cluster/state`, `operator/log`, `distro`, `raft`, and the `api` of clients before 1.0.

use crate::nacos::model::DEFAULT_CLUSTER;
use crate::nacos::model::DEFAULT_GROUP;
use crate::nacos::model::Namespace;
use crate::nacos::model::ServiceKey;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::console_calls;
use crate::registry::forms::Params;
use crate::registry::like::Like;
use crate::registry::listing;
use crate::registry::model::Time;
use crate::registry::naming::Address;
use crate::registry::naming::Record;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Carries out a call.
type Run = fn(&mut State, Time, &Call) -> Result<Answer, Refusal>;

/// The call of a route, if it is one of these and this generation has it.
pub(crate) fn handler(like: Like, method: &str, route: &str) -> Option<Run> {
    Some(match (method, route) {
        ("GET", "/v1/ns/service/subscribers") => subscribers,
        ("GET", "/v1/ns/instance/statuses") => statuses,
        ("GET", "/v1/ns/catalog/services") => services,
        ("GET", "/v1/ns/catalog/instances") => instances,
        ("GET", "/v1/ns/catalog/service") => service,
        ("GET", "/v1/ns/health/server") => health,
        ("GET", "/v1/ns/service/selector/types") if like != Like::V1_4 => |_, _, _| {
            let kinds = json!({"code": 200, "message": null, "data": ["label", "none"]});
            Ok(Answer::json(&kinds))
        },
        ("GET", "/v1/ns/operator/servers" | "/v1/ns/ops/servers") if like == Like::V1_4 => {
            |state, _, _| {
                Ok(Answer::json(
                    &json!({"servers": [console_calls::node(state)]}),
                ))
            }
        }
        ("GET", "/v1/ns/operator/distro/client" | "/v1/ns/ops/distro/client")
            if like != Like::V1_4 =>
        {
            |state, _, _| {
                let address = console_calls::own_address(state);
                Ok(Answer::json(&json!({"responsibleServer": address})))
            }
        }
        _ => return None,
    })
}

/// A whole number that a call cannot do without, in words of its own.
fn number(params: &Params, name: &'static str) -> Result<usize, Refusal> {
    let Some(number) = params.number(name)? else {
        let words = format!(
            "Optional int parameter '{name}' is present but cannot be translated into a null value due to being declared as a primitive type. Consider declaring it as object wrapper for the corresponding primitive type."
        );
        return Err(Refusal::Unhandled(words));
    };
    Ok(usize::try_from(number).unwrap_or(0))
}

/// The part of `all` that is on a page; pages count from 1, and 0 is the first too.
pub(crate) fn page<T>(all: Vec<T>, number: usize, size: usize) -> impl Iterator<Item = T> {
    let before = number.saturating_sub(1).saturating_mul(size);
    all.into_iter().skip(before).take(size)
}

/// Somebody who is told of changes.
pub(crate) struct Told {
    pub(crate) service: ServiceKey,
    pub(crate) ip: String,
    pub(crate) port: u16,
    /// Known of clients over UDP alone.
    pub(crate) agent: Option<String>,
    pub(crate) app: Option<String>,
    pub(crate) clusters: String,
}

/// Who is told of a service: over gRPC, whose connections of one address look alike and are one unless `each`, and over UDP.
pub(crate) fn told(state: &State, service: &ServiceKey, each: bool) -> Vec<Told> {
    let links = state.subscribers.askers(service);
    let ip = |link| state.links.id(link)?.split('_').nth(1).map(str::to_owned);
    let mut ips: Vec<String> = links.filter_map(ip).collect();
    if !each {
        ips.sort_unstable();
        ips.dedup();
    }
    let over_grpc = ips.into_iter().map(|ip| Told {
        service: service.clone(),
        ip,
        port: 0,
        agent: None,
        app: None,
        clusters: String::new(),
    });
    let over_udp = state.udp.of(service).map(|(peer, wish)| Told {
        service: service.clone(),
        ip: peer.ip().to_string(),
        port: peer.port(),
        agent: Some(wish.agent.to_string()),
        app: Some(wish.app.to_string()),
        clusters: wish.clusters.to_string(),
    });
    over_grpc.chain(over_udp).collect()
}

/// Subscribers of all services whose name and group have those of the call somewhere.
fn subscribers(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let asked = params.service()?;
    let number = params.positive("pageNo", 1)?;
    let size = params.positive("pageSize", 1_000)?;
    let each = !params.flag(&["aggregation"], true);
    // Who waits for a service that is not there is told of it too.
    let waiting = state.udp.services();
    let mut services: Vec<&ServiceKey> = state.naming.of(&asked.namespace).chain(waiting).collect();
    services.sort();
    services.dedup();
    let fits = |key: &&ServiceKey| {
        key.namespace == asked.namespace
            && key.name.contains(&*asked.name)
            && key.group.contains(&*asked.group)
    };
    let services = services.into_iter().filter(fits);
    let all: Vec<Told> = services.flat_map(|key| told(state, key, each)).collect();
    let count = all.len();
    let shown = page(all, number, size).map(|told| {
        let address = match told.port {
            0 => told.ip.clone(),
            port => format!("{}:{port}", told.ip),
        };
        let mut shown = json!({
            "addrStr": address,
            "agent": told.agent,
            "app": told.app,
            "ip": told.ip,
            "namespaceId": told.service.namespace.naming_id(),
            "serviceName": told.service.grouped(),
        });
        if let Some(shown) = shown.as_object_mut()
            && state.like != Like::V1_4
        {
            shown.insert("port".to_owned(), told.port.into());
            shown.insert("cluster".to_owned(), told.clusters.into());
        }
        shown
    });
    let shown: Vec<Value> = shown.collect();
    Ok(Answer::json(&json!({"subscribers": shown, "count": count})))
}

/// `namespace##group@@name` or `group@@name`.
pub(crate) fn key(text: &str) -> Result<ServiceKey, Refusal> {
    let (namespace, grouped) = text.split_once("##").unwrap_or(("", text));
    let (group, name) = grouped.split_once("@@").ok_or(Refusal::NameFormat)?;
    if group.is_empty() || name.is_empty() {
        return Err(Refusal::NameFormat);
    }
    Ok(ServiceKey {
        namespace: Namespace::new(namespace),
        group: group.into(),
        name: name.into(),
    })
}

/// All instances of a service, and how they are.
pub(crate) fn health_of(state: &mut State, service: &ServiceKey) -> Result<Answer, Refusal> {
    let Some(all) = state.naming.all(service) else {
        if state.like == Like::V1_4 {
            let words = format!("service: {} not found.", service.grouped());
            return Err(Refusal::Unhandled(words));
        }
        return Ok(Answer::json(&json!({"ips": []})));
    };
    let one = |(address, record): (Address, Record)| {
        format!("{}:{}_{}", address.ip, address.port, record.healthy)
    };
    let ips: Vec<String> = all.map(one).collect();
    Ok(Answer::json(&json!({"ips": ips})))
}

fn statuses(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let text = call.params.raw("key").ok_or(Refusal::Missing("key"))?;
    health_of(state, &key(text)?)
}

/// The services of a namespace, page by page: one line each, or whole with `withInstances`.
fn services(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let (number, size) = (number(params, "pageNo")?, number(params, "pageSize")?);
    let mut all = found(state, params);
    if let Some(ip) = params.get("containedInstance") {
        all.retain(|key| {
            let mut hosts = state.naming.all(key).into_iter().flatten();
            hosts.any(|(address, _)| format!("{}:{}", address.ip, address.port).contains(ip))
        });
    }
    if params.flag(&["withInstances"], false) {
        let shown: Vec<Value> = page(all, number, size)
            .map(|key| whole(state, &key))
            .collect();
        return Ok(Answer::json(&shown));
    }
    if params.flag(&["hasIpCount"], false) {
        all.retain(|key| state.naming.all(key).into_iter().flatten().next().is_some());
    }
    let count = all.len();
    let lines: Vec<Value> = page(all, number, size)
        .map(|key| view(state, &key))
        .collect();
    Ok(Answer::json(&json!({"serviceList": lines, "count": count})))
}

/// A service and its hosts, as the list with instances has them.
fn whole(state: &mut State, key: &ServiceKey) -> Value {
    let old = state.like == Like::V1_4;
    let (settings, _) = state.naming.describe(key).unwrap_or_default();
    let mut clusters: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (address, record) in state.naming.all(key).into_iter().flatten() {
        let hosts = clusters.entry(record.cluster.to_string()).or_default();
        hosts.push(json!({
            "valid": record.healthy,
            "metadata": record.metadata,
            "port": address.port,
            "ip": &*address.ip,
            "weight": record.weight,
            "enabled": record.enabled,
        }));
    }
    let clusters: Map<String, Value> = clusters
        .into_iter()
        .map(|(name, hosts)| {
            let cluster = if old {
                json!({"hosts": hosts})
            } else {
                json!({"clusterName": null, "healthChecker": null, "metadata": null, "hosts": hosts})
            };
            (name, cluster)
        })
        .collect();
    let mut shown = json!({
        "serviceName": &*key.name,
        "groupName": &*key.group,
        "clusterMap": clusters,
        "metadata": settings.metadata,
    });
    if let Some(shown) = shown.as_object_mut()
        && !old
    {
        let threshold = naming_calls::shortest(settings.threshold);
        shown.insert("protectThreshold".to_owned(), threshold.into());
        for name in ["namespace", "selector", "ephemeral"] {
            shown.insert(name.to_owned(), Value::Null);
        }
    }
    shown
}

/// All hosts of one cluster, disabled ones too, as healthy as they are.
fn instances(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let service = naming_calls::service_said(params)?;
    let cluster = params.raw("clusterName");
    let cluster = cluster.ok_or(Refusal::Missing("clusterName"))?;
    let (number, size) = (number(params, "pageNo")?, number(params, "pageSize")?);
    let cluster = Some(cluster.trim()).filter(|name| !name.is_empty());
    let hosts = hosts(state, &service, cluster.unwrap_or(DEFAULT_CLUSTER))?;
    let count = hosts.len();
    let hosts: Vec<Value> = page(hosts, number, size)
        .map(|(address, record)| json!(listing::host(&service, &address, record)))
        .collect();
    Ok(Answer::json(&json!({"list": hosts, "count": count})))
}

/// A service and its clusters.
fn service(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let service = naming_calls::service_said(&call.params)?;
    let (settings, clusters) = state
        .naming
        .describe(&service)
        .ok_or_else(|| Refusal::NotThere(format!("service {} is not found!", service.grouped())))?;
    let old = state.like == Like::V1_4;
    let clusters: Vec<Value> = clusters
        .iter()
        .map(|name| {
            let said = settings.clusters.get(name).cloned().unwrap_or_default();
            let port = said.port;
            let mut shown = json!({
                "serviceName": service.grouped(),
                "name": &**name,
                "healthChecker": said.checker.shown(),
                "defaultPort": 80,
                "defaultCheckPort": port,
                "useIPPort4Check": said.instance_port,
                "metadata": said.metadata,
            });
            if let Some(shown) = shown.as_object_mut()
                && old
            {
                shown.insert("sitegroup".to_owned(), "".into());
                shown.insert("defCkport".to_owned(), port.into());
                shown.insert("empty".to_owned(), false.into());
                shown.insert("defIPPort".to_owned(), 80.into());
            }
            shown
        })
        .collect();
    Ok(Answer::json(&json!({
        "service": {
            "name": &*service.name,
            "groupName": &*service.group,
            "protectThreshold": naming_calls::shortest(settings.threshold),
            "selector": settings.selector.shown(state.like),
            "metadata": settings.metadata,
        },
        "clusters": clusters,
    })))
}

fn health(state: &mut State, _: Time, _: &Call) -> Result<Answer, Refusal> {
    let raft = if state.like == Like::V1_4 {
        "raft "
    } else {
        ""
    };
    let services = state.naming.counts().services;
    let words = format!(
        "Hello! I am Nacos-Naming and healthy! total services: {raft}{services}, local port:{}",
        state.port
    );
    Ok(Answer::json(&json!({"msg": words})))
}

/// The names of the services of a group, as 1.4 alone selects them: in all groups for `*`, named with them then, and by one thing that
/// a service or one of its instances has in its metadata.
pub(crate) fn names(state: &mut State, params: &Params) -> Vec<String> {
    let namespace = params.namespace();
    let group = params.get("groupName").unwrap_or(DEFAULT_GROUP);
    if state.like != Like::V1_4 {
        return state.naming.names(&namespace, group);
    }
    let mut keys: Vec<ServiceKey> = state.naming.of(&namespace).cloned().collect();
    keys.retain(|key| group == "*" || &*key.group == group);
    if let Some((of_instance, name, value)) = wanted(params) {
        let fits = |metadata: &crate::registry::model::Metadata| {
            let there = metadata.get(&name.as_str().into()).and_then(Option::as_ref);
            there.is_some_and(|there| there.raw() == value)
        };
        keys.retain(|key| {
            if of_instance {
                let mut all = state.naming.all(key).into_iter().flatten();
                all.any(|(_, record)| fits(&record.metadata))
            } else {
                let settings = state.naming.describe(key);
                settings.is_some_and(|(settings, _)| fits(&settings.metadata))
            }
        });
    }
    let name = |key: ServiceKey| {
        if group == "*" {
            key.grouped()
        } else {
            key.name.to_string()
        }
    };
    keys.into_iter().map(name).collect()
}

/// `INSTANCE.metadata.name='value'` or `SERVICE.metadata.…` of a selector of labels.
fn wanted(params: &Params) -> Option<(bool, String, String)> {
    let selector: Value = serde_json::from_str(params.get("selector")?).ok()?;
    if selector.get("type")?.as_str()? != "label" {
        return None;
    }
    let expression: String = selector
        .get("expression")?
        .as_str()?
        .split_whitespace()
        .collect();
    let (what, value) = expression.split_once('=')?;
    let mut factors = what.split('.');
    let of_instance = match factors.next()? {
        "INSTANCE" => true,
        "SERVICE" => false,
        _ => return None,
    };
    let name = factors.next_back()?;
    Some((of_instance, name.to_owned(), value.replace('\'', "")))
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
