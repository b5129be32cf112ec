//! The calls of `/v1/ns`: instances, beats, lists, services, clusters, health by hand, metrics.

use crate::dates;
use crate::foreign::Foreign;
use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::model::DEFAULT_CLUSTER;
use crate::nacos::model::DEFAULT_GROUP;
use crate::nacos::model::Namespace;
use crate::nacos::model::ServiceKey;
use crate::nacos::wire;
use crate::registry::beat_check::Event;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::call::Time;
use crate::registry::desk::State;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::naming::Address;
use crate::registry::naming::DELETE;
use crate::registry::naming::INTERVAL;
use crate::registry::naming::Patch;
use crate::registry::naming::Record;
use crate::registry::naming::Settings;
use crate::registry::naming::TIMEOUT;
use crate::registry::refusal::Refusal;
use serde_json::json;
use std::sync::Arc;

/// The interval that beats are answered with, and that hosts are listed with, unless their metadata say otherwise.
const BEAT: u64 = 5_000;
/// Milliseconds for which a list may be kept.
const CACHE: i64 = 10_000;
/// The same for who asks to be pushed, which is not done here: what 1.4 tells clients that it does not push.
const CACHE_UNPUSHED: i64 = 3_000;

/// Answers a call whose route begins with `/v1/ns`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let no_such_api = || Refusal::NoSuchApi(format!("{}:{}", call.method, call.path));
    let run: fn(&mut State, Time, &Params) -> Result<Answer, Refusal> =
        match (call.method.as_str(), call.route.as_str()) {
            ("POST", "/v1/ns/instance") => register,
            ("DELETE", "/v1/ns/instance") => deregister,
            ("PUT", "/v1/ns/instance") => update,
            ("PATCH", "/v1/ns/instance") => patch,
            ("GET", "/v1/ns/instance") => detail,
            ("GET", "/v1/ns/instance/list") => list,
            ("PUT", "/v1/ns/instance/beat") => beat,
            ("POST", "/v1/ns/service") => create_service,
            ("PUT", "/v1/ns/service") => update_service,
            ("DELETE", "/v1/ns/service") => delete_service,
            ("GET", "/v1/ns/service") => describe_service,
            ("GET", "/v1/ns/service/list") => list_services,
            ("PUT", "/v1/ns/cluster") => update_cluster,
            ("PUT", "/v1/ns/health" | "/v1/ns/health/instance") => health_by_hand,
            ("GET", "/v1/ns/operator/metrics" | "/v1/ns/ops/metrics") => metrics,
            _ => return Err(no_such_api()),
        };
    params.check()?;
    run(state, time, params)
}

fn address(params: &Params) -> Result<Address, Refusal> {
    let ip = params.required("ip")?;
    let port = params.required("port")?;
    Ok(Address {
        ip: ip.into(),
        port: port.parse().map_err(|_| Refusal::PortRange)?,
    })
}

/// An instance as POST and PUT describe it.
fn instance(params: &Params) -> Result<(Address, Record), Refusal> {
    let address = address(params)?;
    let record = Record {
        cluster: params.cluster().into(),
        weight: params.weight()?.unwrap_or(1.0),
        healthy: params.flag(&["healthy"], true),
        enabled: params.flag(&["enabled", "enable"], true),
        metadata: params.metadata()?,
    };
    Ok((address, record))
}

/// `NamingUtils.checkInstanceIsLegal`.
fn check_record(record: &Record) -> Result<(), Refusal> {
    let interval = record.millis(INTERVAL).unwrap_or(BEAT);
    if record.millis(TIMEOUT).unwrap_or(15_000) < interval
        || record.millis(DELETE).unwrap_or(30_000) < interval
    {
        return Err(Refusal::BeatInterval);
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if !record.cluster.bytes().all(legal) {
        return Err(Refusal::ClusterName(record.cluster.to_string()));
    }
    Ok(())
}

/// Registers, and has the beat check watch an ephemeral one.
fn take(
    state: &mut State,
    now: Moment,
    service: &ServiceKey,
    persistent: bool,
    address: &Address,
    record: Record,
) -> Result<(), Refusal> {
    let healthy = record.healthy;
    state
        .naming
        .register(now, service, persistent, address.clone(), record)?;
    if !persistent {
        let who = (service.clone(), address.clone());
        let patience = state
            .naming
            .seen(service, address)
            .and_then(|seen| seen.patience());
        let event = match patience {
            Some(patience) => Event::Registered {
                who,
                patience,
                healthy,
            },
            None => Event::Left { who },
        };
        state.beats.handle(now, event);
    }
    Ok(())
}

fn register(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let (address, record) = instance(params)?;
    check_record(&record)?;
    let persistent = !params.flag(&["ephemeral"], true);
    take(state, time.now, &service, persistent, &address, record)?;
    Ok(Answer::ok())
}

fn deregister(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let address = address(params)?;
    let persistent = !params.flag(&["ephemeral"], true);
    let gone = state
        .naming
        .deregister(time.now, &service, persistent, &address);
    if gone && !persistent {
        let who = (service, address);
        state.beats.handle(time.now, Event::Left { who });
    }
    Ok(Answer::ok())
}

/// What an operator sets may change how long an instance may be silent.
fn overrule(
    state: &mut State,
    now: Moment,
    service: &ServiceKey,
    address: Address,
    cluster: &Arc<str>,
    patch: Patch,
    fresh: bool,
) -> Result<(), Refusal> {
    state
        .naming
        .overrule(now, service, &address, cluster, patch, fresh)?;
    let patience = state
        .naming
        .seen(service, &address)
        .and_then(|seen| seen.patience());
    if let Some(patience) = patience {
        let who = (service.clone(), address);
        state
            .beats
            .handle(now, Event::PatienceChanged { who, patience });
    }
    Ok(())
}

fn update(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let (address, record) = instance(params)?;
    check_record(&record)?;
    if !state.naming.knows(&service) {
        return Err(Refusal::UpdateOfUnknownService {
            namespace: service.namespace.to_string(),
            group: service.group.to_string(),
            name: service.name.to_string(),
            ephemeral: params.flag(&["ephemeral"], true),
        });
    }
    let patch = Patch {
        weight: Some(record.weight),
        enabled: Some(record.enabled),
        metadata: Some(record.metadata),
    };
    overrule(
        state,
        time.now,
        &service,
        address,
        &record.cluster,
        patch,
        true,
    )?;
    Ok(Answer::ok())
}

fn patch(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let address = address(params)?;
    let cluster: Arc<str> = params.cluster().into();
    let metadata = params.metadata()?;
    let enabled = ["enabled", "enable"];
    let patch = Patch {
        weight: params.weight()?,
        enabled: enabled
            .iter()
            .any(|name| params.get(name).is_some())
            .then(|| params.flag(&enabled, true)),
        metadata: (!metadata.is_empty()).then_some(metadata),
    };
    state.naming.detail(&service, &address, &cluster)?;
    overrule(state, time.now, &service, address, &cluster, patch, false)?;
    Ok(Answer::ok())
}

fn instance_id(service: &ServiceKey, address: &Address, cluster: &str) -> String {
    format!(
        "{}#{}#{cluster}#{}",
        address.ip,
        address.port,
        service.grouped()
    )
}

fn detail(state: &mut State, _: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let address = address(params)?;
    // Here alone the original does not know the name `cluster`.
    let cluster = params.get("clusterName").unwrap_or(DEFAULT_CLUSTER);
    let mut record = state.naming.detail(&service, &address, cluster)?;
    record.metadata.retain(|_, value| value.is_some());
    Ok(Answer::json(&wire::Detail {
        instance_id: Some(instance_id(&service, &address, &record.cluster)),
        service: service.grouped(),
        ip: Foreign::from(&*address.ip),
        port: i64::from(address.port),
        cluster_name: Foreign::from(&*record.cluster),
        weight: record.weight,
        healthy: record.healthy,
        metadata: record.metadata,
    }))
}

fn host(service: &ServiceKey, persistent: bool, address: &Address, record: Record) -> wire::Host {
    let millis = |key, default| {
        Some(i64::try_from(record.millis(key).unwrap_or(default)).unwrap_or(i64::MAX))
    };
    wire::Host {
        instance_id: Some(instance_id(service, address, &record.cluster)),
        ip: Foreign::from(&*address.ip),
        port: i64::from(address.port),
        weight: record.weight,
        healthy: record.healthy,
        enabled: record.enabled,
        ephemeral: Some(!persistent),
        cluster_name: Foreign::from(&*record.cluster),
        service_name: Some(service.grouped()),
        instance_heart_beat_interval: millis(INTERVAL, BEAT),
        instance_heart_beat_time_out: millis(TIMEOUT, 15_000),
        ip_delete_timeout: millis(DELETE, 30_000),
        instance_id_generator: record.metadata.is_empty().then(|| "simple".to_owned()),
        metadata: record.metadata,
    }
}

fn list(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let asked = params.get("clusters").unwrap_or_default();
    let clusters: Vec<&str> = asked.split(',').filter(|name| !name.is_empty()).collect();
    let healthy_only = params
        .get("healthyOnly")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let asks_push = params.number("udpPort")?.is_some_and(|port| port > 0);
    let listing = state.naming.list(&service, &clusters, healthy_only);
    let persistent = listing.persistent;
    Ok(Answer::json(&wire::ListAnswer {
        name: service.grouped(),
        group_name: Some(service.group.to_string()),
        clusters: asked.to_owned(),
        cache_millis: if asks_push { CACHE_UNPUSHED } else { CACHE },
        hosts: listing
            .hosts
            .into_iter()
            .map(|(address, record)| host(&service, persistent, &address, record))
            .collect(),
        last_ref_time: dates::millis(time.wall(listing.changed.unwrap_or(time.now))),
        checksum: String::new(),
        all_ips: false,
        reach_protection_threshold: listing.protected,
        valid: true,
    }))
}

/// A full beat as far as it describes an instance.
fn beaten(beat: &wire::Beat, cluster: &str) -> Result<(Address, Record), Refusal> {
    if beat.ip.trim().is_empty() {
        return Err(Refusal::Required("ip"));
    }
    forms::check_ip(Some(&beat.ip))?;
    let metadata = beat
        .metadata
        .iter()
        .map(|(key, value)| {
            (
                Foreign::from(key.as_str()),
                value.0.as_deref().map(Foreign::from),
            )
        })
        .collect();
    forms::check_metadata(&metadata)?;
    let address = Address {
        ip: beat.ip.as_str().into(),
        port: u16::try_from(beat.port).map_err(|_| Refusal::PortRange)?,
    };
    let record = Record {
        cluster: cluster.into(),
        weight: beat.weight,
        healthy: true,
        enabled: true,
        metadata,
    };
    if !(0.0..=10_000.0).contains(&record.weight) {
        return Err(Refusal::Weight);
    }
    check_record(&record)?;
    Ok((address, record))
}

fn beat(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let full: Option<wire::Beat> = params
        .get("beat")
        .map(|json| serde_json::from_str(json).map_err(|e| Refusal::BeatJson(e.to_string())))
        .transpose()?;
    let service = params.service()?;
    let (address, record, alive) = match full {
        None => {
            let address = Address {
                ip: params.get("ip").unwrap_or_default().into(),
                port: params
                    .get("port")
                    .map_or(Ok(0), |port| port.parse().map_err(|_| Refusal::PortRange))?,
            };
            (address, None, Some(service.clone()))
        }
        Some(beat) => {
            let cluster = Some(beat.cluster.trim())
                .filter(|cluster| !cluster.is_empty())
                .unwrap_or_else(|| params.cluster());
            let (address, record) = beaten(&beat, cluster)?;
            // The original keeps that service alive which the beat itself names, `group@@name` or a bare name, whatever
            // `groupName` says; without it, none.
            let named = beat.service_name.as_str();
            let (group, name) = named.split_once("@@").unwrap_or((DEFAULT_GROUP, named));
            let alive = (!named.trim().is_empty()).then(|| ServiceKey {
                namespace: service.namespace.clone(),
                group: group.into(),
                name: name.into(),
            });
            (address, Some((record, !beat.ephemeral)), alive)
        }
    };
    if !state.naming.holds_ephemeral(&service, &address) {
        let Some((record, persistent)) = record else {
            return Ok(beat_answer(wire::BEAT_NOT_FOUND, BEAT));
        };
        take(state, time.now, &service, persistent, &address, record)?;
    }
    if let Some(alive) = alive {
        let who = (alive, address.clone());
        state.beats.handle(time.now, Event::Beat { who });
    }
    let interval = state
        .naming
        .seen(&service, &address)
        .and_then(|seen| seen.millis(INTERVAL));
    Ok(beat_answer(wire::BEAT_OK, interval.unwrap_or(BEAT)))
}

fn beat_answer(code: i64, interval: u64) -> Answer {
    Answer::json(&wire::BeatAnswer {
        client_beat_interval: i64::try_from(interval).unwrap_or(i64::MAX),
        code,
        light_beat_enabled: Some(true),
    })
}

fn threshold(params: &Params) -> Result<Option<f32>, Refusal> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the original keeps a float"
    )]
    Ok(params.fraction("protectThreshold")?.map(|t| t as f32))
}

fn check_selector(params: &Params) -> Result<(), Refusal> {
    let Some(text) = params.get("selector") else {
        return Ok(());
    };
    serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .filter(|selector| selector.get("type").is_some_and(|kind| kind == "none"))
        .map(|_| ())
        .ok_or(Refusal::Selector)
}

/// The service of the calls that demand the parameter itself, in words of their own.
fn service_said(params: &Params) -> Result<ServiceKey, Refusal> {
    params
        .raw("serviceName")
        .ok_or(Refusal::Missing("serviceName"))?;
    params.service()
}

fn create_service(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = service_said(params)?;
    let settings = Settings {
        threshold: threshold(params)?.unwrap_or(0.0),
        metadata: params.metadata()?,
        ..Settings::default()
    };
    check_selector(params)?;
    state.naming.create(time.now, &service, settings)?;
    Ok(Answer::ok())
}

fn update_service(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let threshold = threshold(params)?.ok_or(Refusal::Required("protectThreshold"))?;
    let metadata = params.metadata()?;
    check_selector(params)?;
    state
        .naming
        .update(time.now, &service, threshold, metadata)?;
    Ok(Answer::ok())
}

fn delete_service(state: &mut State, _: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = service_said(params)?;
    state.naming.delete(&service)?;
    Ok(Answer::ok())
}

/// A float as it is written: 0.7 widened would be 0.699999988079071.
fn shortest(threshold: f32) -> f64 {
    threshold.to_string().parse().unwrap_or(threshold.into())
}

fn describe_service(state: &mut State, _: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = service_said(params)?;
    let (settings, clusters) =
        state
            .naming
            .describe(&service)
            .ok_or_else(|| Refusal::ServiceNotFound {
                namespace: service.namespace.to_string(),
                service: service.grouped(),
            })?;
    let clusters: Vec<_> = clusters
        .iter()
        .map(|name| {
            let unchecked = settings.unchecked.contains(name);
            let checker = if unchecked { "NONE" } else { "TCP" };
            json!({"name": &**name, "healthChecker": {"type": checker}, "metadata": {}})
        })
        .collect();
    Ok(Answer::json(&json!({
        "namespaceId": service.namespace.naming_id(),
        "groupName": &*service.group,
        "name": &*service.name,
        "protectThreshold": shortest(settings.threshold),
        "metadata": settings.metadata,
        "selector": {"type": "none", "contextType": "NONE"},
        "clusters": clusters,
    })))
}

fn list_services(state: &mut State, _: Time, params: &Params) -> Result<Answer, Refusal> {
    // What is no number is 0 to the original.
    let page: i64 = params.required("pageNo")?.parse().unwrap_or(0);
    let size: i64 = params.required("pageSize")?.parse().unwrap_or(0);
    let namespace: Namespace = params.namespace();
    let group = params.get("groupName").unwrap_or(DEFAULT_GROUP);
    let names = state.naming.names(&namespace, group);
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

fn update_cluster(state: &mut State, time: Time, params: &Params) -> Result<Answer, Refusal> {
    let cluster = params.required("clusterName")?;
    params.required("checkPort")?;
    params.required("useInstancePort4Check")?;
    let checker = params.required("healthChecker")?;
    let service = params.service()?;
    let kind = serde_json::from_str::<serde_json::Value>(checker)
        .ok()
        .and_then(|checker| Some(checker.get("type")?.as_str()?.to_owned()));
    // The original takes every type it does not know for NONE.
    if matches!(kind.as_deref(), Some("TCP" | "HTTP" | "MYSQL")) {
        return Err(Refusal::NotOffered("health checkers other than NONE"));
    }
    state.naming.uncheck(time.now, &service, cluster)?;
    Ok(Answer::ok())
}

fn health_by_hand(state: &mut State, _: Time, params: &Params) -> Result<Answer, Refusal> {
    let service = params.service()?;
    let address = address(params)?;
    if params
        .get("healthy")
        .or_else(|| params.get("valid"))
        .is_none()
    {
        return Err(Refusal::Required("healthy"));
    }
    let cluster = params.cluster();
    state.naming.health_by_hand(&service, cluster, &address)?;
    Ok(Answer::ok())
}

fn metrics(state: &mut State, _: Time, params: &Params) -> Result<Answer, Refusal> {
    if params.flag(&["onlyStatus"], true) {
        return Ok(Answer::json(&json!({"status": "UP"})));
    }
    let counts = state.naming.counts();
    let instances = counts.ephemeral + counts.persistent;
    Ok(Answer::json(&json!({
        "status": "UP",
        "serviceCount": counts.services,
        "instanceCount": instances,
        "responsibleInstanceCount": instances,
        "subscribeCount": 0,
        "connectionBasedClientCount": 0,
    })))
}
