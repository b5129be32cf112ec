//! The naming requests of gRPC: instances of a connection and persistent ones, queries, subscriptions, names of services.

use crate::machine::Machine;
use crate::nacos::model::DEFAULT_CLUSTER;
use crate::nacos::model::DEFAULT_GROUP;
use crate::nacos::model::Namespace;
use crate::nacos::model::ServiceKey;
use crate::nacos::rpc;
use crate::nacos::rpc::BatchInstanceRequest;
use crate::nacos::rpc::BatchInstanceResponse;
use crate::nacos::rpc::InstanceRequest;
use crate::nacos::rpc::InstanceResponse;
use crate::nacos::rpc::NotifySubscriberRequest;
use crate::nacos::rpc::Outcome;
use crate::nacos::rpc::Payload;
use crate::nacos::rpc::PersistentInstanceRequest;
use crate::nacos::rpc::QueryServiceResponse;
use crate::nacos::rpc::ServiceInfo;
use crate::nacos::rpc::ServiceListRequest;
use crate::nacos::rpc::ServiceListResponse;
use crate::nacos::rpc::ServiceQueryRequest;
use crate::nacos::rpc::SubscribeServiceRequest;
use crate::nacos::rpc::SubscribeServiceResponse;
use crate::nacos::wire::Host;
use crate::registry::forms;
use crate::registry::listing;
use crate::registry::model::Time;
use crate::registry::naming::Address;
use crate::registry::naming::Record;
use crate::registry::naming_calls;
use crate::registry::naming_calls::check_record;
use crate::registry::pushes;
use crate::registry::refusal::Refusal;
use crate::registry::rpc_calls::Caller;
use crate::registry::rpc_calls::Handler;
use crate::registry::rpc_calls::Thrown;
use crate::registry::rpc_calls::run;
use crate::registry::state::State;

/// What answers requests of this kind.
pub(crate) fn handler(kind: &str) -> Option<Handler> {
    let handler: Handler = match kind {
        "InstanceRequest" => |state, caller, payload| {
            run::<InstanceRequest>(
                state,
                caller,
                payload,
                |r| {
                    check(
                        &r.namespace,
                        &r.service_name,
                        &r.group_name,
                        r.instance.as_ref(),
                    )
                },
                instance,
            )
        },
        "PersistentInstanceRequest" => |state, caller, payload| {
            run::<PersistentInstanceRequest>(
                state,
                caller,
                payload,
                |r| {
                    check(
                        &r.namespace,
                        &r.service_name,
                        &r.group_name,
                        r.instance.as_ref(),
                    )
                },
                persistent,
            )
        },
        "BatchInstanceRequest" => |state, caller, payload| {
            run::<BatchInstanceRequest>(
                state,
                caller,
                payload,
                |r| check(&r.namespace, &r.service_name, &r.group_name, &r.instances),
                batch,
            )
        },
        "ServiceQueryRequest" => |state, caller, payload| {
            run::<ServiceQueryRequest>(
                state,
                caller,
                payload,
                |r| check_asked(&r.namespace, &r.service_name, &r.group_name, &r.cluster),
                query,
            )
        },
        "SubscribeServiceRequest" => |state, caller, payload| {
            run::<SubscribeServiceRequest>(
                state,
                caller,
                payload,
                |r| check_asked(&r.namespace, &r.service_name, &r.group_name, &r.clusters),
                subscribe,
            )
        },
        "ServiceListRequest" => |state, caller, payload| {
            run::<ServiceListRequest>(
                state,
                caller,
                payload,
                |r| check_asked(&r.namespace, &r.service_name, &r.group_name, ""),
                list,
            )
        },
        _ => return None,
    };
    Some(handler)
}

fn check_names(namespace: &Option<String>, service: &str, group: &str) -> Result<(), Refusal> {
    forms::check_tenant(namespace.as_deref())?;
    forms::check_service(Some(service))?;
    forms::check_plain("group", 128, Some(group))
}

/// The parameter check of what registers.
fn check<'a>(
    namespace: &Option<String>,
    service: &str,
    group: &str,
    instances: impl IntoIterator<Item = &'a Host>,
) -> Result<(), Refusal> {
    check_names(namespace, service, group)?;
    for host in instances {
        forms::check_ip(Some(host.ip.raw()))?;
        port(host)?;
        forms::check_cluster(host.cluster_name.raw())?;
        forms::check_metadata(&host.metadata)?;
    }
    Ok(())
}

/// The parameter check of what reads.
fn check_asked(
    namespace: &Option<String>,
    service: &str,
    group: &str,
    clusters: &str,
) -> Result<(), Refusal> {
    check_names(namespace, service, group)?;
    clusters.split(',').try_for_each(forms::check_cluster)
}

fn port(host: &Host) -> Result<u16, Refusal> {
    u16::try_from(host.port).map_err(|_| Refusal::PortRange)
}

fn service(namespace: Option<String>, group: &str, name: &str) -> Result<ServiceKey, Thrown> {
    let namespace = namespace.ok_or(Thrown::NoNamespace)?;
    let group = if group.trim().is_empty() {
        DEFAULT_GROUP
    } else {
        group
    };
    Ok(ServiceKey {
        namespace: Namespace::new(&namespace),
        group: group.into(),
        name: name.into(),
    })
}

/// An instance as it is kept, if it is one that may be.
fn legal(
    state: &State,
    service: &ServiceKey,
    host: Host,
    persistent: bool,
) -> Result<(Address, Record), Refusal> {
    let address = Address {
        ip: host.ip.raw().into(),
        port: port(&host)?,
    };
    let cluster = host.cluster_name.raw();
    let cluster = if cluster.trim().is_empty() {
        DEFAULT_CLUSTER
    } else {
        cluster
    };
    let record = Record {
        persistent,
        cluster: cluster.into(),
        weight: host.weight,
        healthy: host.healthy,
        enabled: host.enabled,
        said: host.healthy,
        metadata: host.metadata,
        bare: false,
        without_id: false,
    };
    check_record(state.like, service, &record)?;
    Ok((address, record))
}

/// Only a connection that was set up to name services may publish and subscribe.
fn named(state: &State, caller: Caller) -> Result<(), Thrown> {
    if state.links.names(caller.link) {
        return Ok(());
    }
    let id = state.links.id(caller.link).unwrap_or_default();
    Err(Thrown::Disconnected(id.to_owned()))
}

fn done(kind: String) -> InstanceResponse {
    InstanceResponse {
        outcome: Outcome::ok(),
        r#type: Some(kind),
    }
}

fn instance(
    state: &mut State,
    caller: Caller,
    request: InstanceRequest,
) -> Result<InstanceResponse, Thrown> {
    let service = service(
        request.namespace,
        &request.group_name,
        &request.service_name,
    )?;
    let Caller { link, time } = caller;
    match request.r#type.as_str() {
        rpc::REGISTER => {
            let host = request.instance.ok_or(Thrown::NoInstance)?;
            let instance = legal(state, &service, host, false)?;
            // A service of the other kind is seen before the connection is looked at.
            state.naming.admits(&service, false)?;
            named(state, caller)?;
            state
                .naming
                .publish(time.now, &service, link, vec![instance])?;
        }
        rpc::DEREGISTER if state.naming.knows(&service) => {
            named(state, caller)?;
            state.naming.unpublish(time.now, link, Some(&service));
        }
        rpc::DEREGISTER => {}
        _ => return Err(Thrown::RequestType(request.r#type)),
    }
    Ok(done(request.r#type))
}

fn batch(
    state: &mut State,
    caller: Caller,
    request: BatchInstanceRequest,
) -> Result<BatchInstanceResponse, Thrown> {
    let service = service(
        request.namespace,
        &request.group_name,
        &request.service_name,
    )?;
    if request.r#type != rpc::BATCH_REGISTER {
        return Err(Thrown::RequestType(request.r#type));
    }
    let instances = (request.instances.into_iter())
        .map(|host| legal(state, &service, host, false))
        .collect::<Result<Vec<_>, _>>()?;
    state.naming.admits(&service, false)?;
    named(state, caller)?;
    let Caller { link, time } = caller;
    state.naming.publish(time.now, &service, link, instances)?;
    Ok(BatchInstanceResponse {
        outcome: Outcome::ok(),
        r#type: Some(request.r#type),
    })
}

fn persistent(
    state: &mut State,
    caller: Caller,
    request: PersistentInstanceRequest,
) -> Result<InstanceResponse, Thrown> {
    let service = service(
        request.namespace,
        &request.group_name,
        &request.service_name,
    )?;
    let now = caller.time.now;
    match request.r#type.as_str() {
        rpc::REGISTER => {
            let host = request.instance.ok_or(Thrown::NoInstance)?;
            let (address, record) = legal(state, &service, host, true)?;
            naming_calls::take(state, now, &service, &address, record)?;
        }
        rpc::DEREGISTER => {
            let host = request.instance.ok_or(Thrown::NoInstance)?;
            let (address, record) = legal(state, &service, host, true)?;
            state
                .naming
                .deregister(now, &service, &address, &record.cluster, true);
        }
        _ => return Err(Thrown::RequestType(request.r#type)),
    }
    Ok(done(request.r#type))
}

/// A list as it is now.
fn info(
    state: &mut State,
    time: Time,
    service: &ServiceKey,
    clusters: &str,
    healthy_only: bool,
) -> ServiceInfo {
    let among: Vec<&str> = clusters
        .split(',')
        .filter(|name| !name.is_empty())
        .collect();
    let listing = state.naming.list(service, &among, healthy_only);
    let cache = state.switches.default_push_cache_millis;
    listing::info(state.like, time, service, clusters, cache, listing)
}

fn query(
    state: &mut State,
    caller: Caller,
    request: ServiceQueryRequest,
) -> Result<QueryServiceResponse, Thrown> {
    let service = service(
        request.namespace,
        &request.group_name,
        &request.service_name,
    )?;
    let info = info(
        state,
        caller.time,
        &service,
        &request.cluster,
        request.healthy_only,
    );
    Ok(QueryServiceResponse {
        outcome: Outcome::ok(),
        service_info: Some(info),
    })
}

fn subscribe(
    state: &mut State,
    caller: Caller,
    request: SubscribeServiceRequest,
) -> Result<SubscribeServiceResponse, Thrown> {
    let service = service(
        request.namespace,
        &request.group_name,
        &request.service_name,
    )?;
    named(state, caller)?;
    let Caller { link, time } = caller;
    let info = info(state, time, &service, &request.clusters, false);
    let event = if request.subscribe {
        if !state.subscribers.has_room(link, 1) {
            return Err(Refusal::Full("subscriptions", pushes::ALL_ASKED).into());
        }
        pushes::Event::Asked {
            link,
            key: service,
            said: request.clusters.as_str().into(),
        }
    } else {
        let key = service;
        pushes::Event::Declined { link, key }
    };
    state.subscribers.handle(time.now, event);
    Ok(SubscribeServiceResponse {
        outcome: Outcome {
            message: Some("success".to_owned()),
            ..Outcome::ok()
        },
        service_info: Some(info),
    })
}

/// What a subscriber is told.
pub(crate) fn push(
    state: &mut State,
    time: Time,
    service: &ServiceKey,
    clusters: &str,
    number: u64,
) -> Payload {
    Payload::new(&NotifySubscriberRequest {
        request_id: number.to_string(),
        service_info: Some(info(state, time, service, clusters, false)),
        module: "naming".to_owned(),
        ..NotifySubscriberRequest::default()
    })
}

fn list(
    state: &mut State,
    _: Caller,
    request: ServiceListRequest,
) -> Result<ServiceListResponse, Thrown> {
    let namespace = request.namespace.ok_or(Thrown::NoNamespace)?;
    let names = state
        .naming
        .names(&Namespace::new(&namespace), &request.group_name);
    let size = usize::try_from(request.page_size).unwrap_or(0);
    let skip = usize::try_from(request.page_no.saturating_sub(1).max(0))
        .unwrap_or(0)
        .saturating_mul(size);
    Ok(ServiceListResponse {
        outcome: Outcome::ok(),
        count: i64::try_from(names.len()).unwrap_or(i64::MAX),
        service_names: names.into_iter().skip(skip).take(size).collect(),
    })
}
