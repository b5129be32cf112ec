//! Who publishes and who subscribes, client by client, as tools ask over v2 and v3.
//!
//! A client is a gRPC connection, or an address: `ip:port#true` has ephemeral instances or is pushed over UDP there, `ip:port#false` has
//! persistent ones. What the originals know of a connection from its setup (program, version) is not kept.

use crate::dates;
use crate::nacos::model::ServiceKey;
use crate::registry::call::Call;
use crate::registry::catalog_calls;
use crate::registry::like::Like;
use crate::registry::links::Link;
use crate::registry::model::Time;
use crate::registry::naming::Address;
use crate::registry::naming::Published;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::SocketAddr};

/// A client that is there.
struct Client {
    id: String,
    address: Option<(Address, bool)>,
    link: Option<Link>,
}

/// What all clients are called.
pub(crate) fn ids(state: &State) -> Vec<String> {
    let publishers = state.naming.clients();
    let publishers = publishers.into_iter();
    let publishers = publishers.map(|(address, persistent)| (address.clone(), persistent));
    let subscribers = state.udp.all().map(|(peer, _)| {
        let ip = peer.ip().to_string().into();
        let port = peer.port();
        (Address { ip, port }, false)
    });
    let all: BTreeSet<(Address, bool)> = publishers.chain(subscribers).collect();
    let called = |(Address { ip, port }, persistent): (Address, bool)| {
        format!("{ip}:{port}#{}", !persistent)
    };
    let mut ids: Vec<String> = all.into_iter().map(called).collect();
    ids.extend(state.links.namers().map(str::to_owned));
    ids
}

fn find(state: &State, call: &Call) -> Result<Client, Refusal> {
    let id = if state.like == Like::V3_0 {
        call.params.required("clientId")?
    } else {
        call.params.parameter("clientId")?
    };
    if !ids(state).iter().any(|there| there == id) {
        return Err(Refusal::NoClient(id.to_owned()));
    }
    let address = id.rsplit_once('#').and_then(|(at, ephemeral)| {
        let (ip, port) = at.rsplit_once(':')?;
        let ip = ip.into();
        let port = port.parse().ok()?;
        Some((Address { ip, port }, ephemeral == "false"))
    });
    Ok(Client {
        id: id.to_owned(),
        address,
        link: state.links.find(id),
    })
}

impl Client {
    fn has(&self, published: &Published) -> bool {
        if published.owner.is_some() {
            return published.owner == self.link;
        }
        let his = |(address, persistent): &(Address, bool)| {
            *address == published.address && *persistent == published.persistent
        };
        self.address.as_ref().is_some_and(his)
    }

    /// Where he is pushed over UDP, if he is.
    fn peer(&self) -> Option<SocketAddr> {
        let (Address { ip, port }, _) = self.address.as_ref().filter(|(_, kind)| !kind)?;
        Some(SocketAddr::new(ip.parse().ok()?, *port))
    }
}

/// `GET …/client/list`.
pub(crate) fn list(state: &mut State, _: Time, _: &Call) -> Result<Value, Refusal> {
    Ok(ids(state).into())
}

/// `GET …/client`.
pub(crate) fn detail(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let client = find(state, call)?;
    let all = state.naming.published(None);
    let his = all.iter().filter(|published| client.has(published));
    let changed = his.map(|published| published.changed).max();
    let mut shown = json!({
        "clientId": client.id,
        "ephemeral": client.address.as_ref().is_none_or(|(_, persistent)| !persistent),
        "lastUpdatedTime": dates::millis(time.wall(changed.unwrap_or(time.now))),
        "clientType": if client.link.is_some() { "connection" } else { "ipPort" },
    });
    let (ip, port) = match (&client.address, client.link) {
        (Some((address, _)), None) => (address.ip.to_string(), address.port.to_string()),
        _ => {
            let mut parts = client.id.split('_').skip(1).map(str::to_owned);
            let (ip, port) = (parts.next(), parts.next());
            (ip.unwrap_or_default(), port.unwrap_or_default())
        }
    };
    if let Some(shown) = shown.as_object_mut() {
        if client.link.is_some() {
            shown.insert("connectType".to_owned(), "GRPC".into());
            shown.insert("appName".to_owned(), Value::Null);
            shown.insert("version".to_owned(), Value::Null);
        }
        let port = match port.parse::<u16>() {
            Ok(port) if state.like == Like::V3_0 => port.into(),
            _ => port.into(),
        };
        shown.insert("clientIp".to_owned(), ip.into());
        shown.insert("clientPort".to_owned(), port);
    }
    Ok(shown)
}

/// The words of a generation for a service.
fn named(like: Like, service: &ServiceKey) -> Value {
    if like == Like::V3_0 {
        json!({
            "namespaceId": service.namespace.naming_id(),
            "groupName": &*service.group,
            "serviceName": &*service.name,
            "publisherInfo": null,
            "subscriberInfo": null,
        })
    } else {
        json!({
            "namespace": service.namespace.naming_id(),
            "group": &*service.group,
            "serviceName": &*service.name,
        })
    }
}

/// The words of a generation for an instance.
fn instance(like: Like, published: &Published, id: Option<&str>) -> Value {
    let (ip, port) = (&*published.address.ip, published.address.port);
    let cluster = &published.cluster;
    match (like, id) {
        (Like::V3_0, id) => json!({"clientId": id, "ip": ip, "port": port, "clusterName": cluster}),
        (_, None) => json!({"ip": ip, "port": port, "cluster": cluster}),
        (_, Some(id)) => json!({"ip": ip, "port": port, "cluster": cluster, "clientId": id}),
    }
}

/// `GET …/client/publish/list`.
pub(crate) fn publishes(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let client = find(state, call)?;
    let like = state.like;
    let what = if like == Like::V3_0 {
        "publisherInfo"
    } else {
        "registeredInstance"
    };
    let all = state.naming.published(None);
    let his = all.iter().filter(|published| client.has(published));
    let line = |published: &Published| {
        let mut line = named(like, &published.service);
        if let Some(line) = line.as_object_mut() {
            line.insert(what.to_owned(), instance(like, published, None));
        }
        line
    };
    Ok(his.map(line).collect())
}

/// `GET …/client/subscribe/list`.
pub(crate) fn subscribes(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let client = find(state, call)?;
    let like = state.like;
    let line = |service: &ServiceKey, app: Option<&str>, agent: Option<&str>, address: String| {
        let who = if like == Like::V3_0 {
            json!({"clientId": null, "appName": app, "agent": agent, "address": address})
        } else {
            json!({"app": app, "agent": agent, "addr": address})
        };
        let mut line = named(like, service);
        if let Some(line) = line.as_object_mut() {
            line.insert("subscriberInfo".to_owned(), who);
        }
        line
    };
    if let Some(link) = client.link {
        let ip = client.id.split('_').nth(1).unwrap_or_default();
        let all = state.subscribers.asked(link);
        return Ok(all
            .map(|service| line(service, None, None, ip.to_owned()))
            .collect());
    }
    let peer = client.peer();
    let his = state.udp.all().filter(|(at, _)| Some(*at) == peer);
    Ok(his
        .map(|(at, wish)| {
            line(
                &wish.service,
                Some(&wish.app),
                Some(&wish.agent),
                at.to_string(),
            )
        })
        .collect())
}

/// `GET …/client/service/publisher/list`: like 2.5 of one `ip` and `port`, which are not optional there.
pub(crate) fn publishers(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let (ip, port) = (call.params.get("ip"), call.params.number("port")?);
    let optional = state.like == Like::V3_0;
    let fits = |published: &&Published| {
        let here = ip.map_or(optional, |ip| ip == &*published.address.ip);
        here && port.map_or(optional, |port| port == i64::from(published.address.port))
    };
    let like = state.like;
    let all = state.naming.published(Some(&service));
    let his = all.iter().filter(fits);
    Ok(his
        .map(|published| {
            let id = match published.owner.and_then(|link| state.links.id(link)) {
                Some(id) => id.to_owned(),
                None => {
                    let Address { ip, port } = &published.address;
                    format!("{ip}:{port}#{}", !published.persistent)
                }
            };
            instance(like, published, Some(&id))
        })
        .collect())
}

/// `GET …/client/service/subscriber/list`.
pub(crate) fn subscribers(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let (ip, port) = (call.params.get("ip"), call.params.number("port")?);
    let links = state.subscribers.askers(&service);
    let connections: Vec<String> = links
        .filter_map(|link| state.links.id(link).map(str::to_owned))
        .collect();
    let mut connections = connections.into_iter();
    let like = state.like;
    let shown = catalog_calls::told(state, &service, true).into_iter().filter_map(|told| {
        let id = match told.agent {
            Some(_) => format!("{}:{}#true", told.ip, told.port),
            // Those over gRPC come first, in the same order.
            None => connections.next()?,
        };
        let here = ip.is_none_or(|ip| ip == told.ip);
        if !here || port.is_some_and(|port| port != i64::from(told.port)) {
            return None;
        }
        let address = match told.port {
            0 => told.ip.clone(),
            port => format!("{}:{port}", told.ip),
        };
        Some(if like == Like::V3_0 {
            json!({"clientId": id, "appName": told.app, "agent": told.agent, "address": address})
        } else {
            json!({"clientId": id, "ip": told.ip, "port": told.port})
        })
    });
    Ok(shown.collect())
}
