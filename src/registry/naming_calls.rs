//! Instances, beats, lists, services, clusters, health by hand, switches: as v1 calls them, and later versions in part.

use crate::dates;
use crate::foreign::Foreign;
use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::model::DEFAULT_CLUSTER;
use crate::nacos::model::DEFAULT_GROUP;
use crate::nacos::model::ServiceKey;
use crate::nacos::wire;
use crate::registry::beat_check::Event;
use crate::registry::call;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::checker::Checker;
use crate::registry::checks;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::kept::Key;
use crate::registry::like::Like;
use crate::registry::listing;
use crate::registry::listing::Asked;
use crate::registry::listing::BEAT;
use crate::registry::listing::instance_id;
use crate::registry::model::Time;
use crate::registry::naming::Address;
use crate::registry::naming::Cluster;
use crate::registry::naming::DELETE;
use crate::registry::naming::INTERVAL;
use crate::registry::naming::Patch;
use crate::registry::naming::Record;
use crate::registry::naming::Settings;
use crate::registry::naming::TIMEOUT;
use crate::registry::refusal::Refusal;
use crate::registry::rendered::Query;
use crate::registry::rendered::Text;
use crate::registry::selector::Selector;
use crate::registry::state::State;
use crate::registry::udp;
use crate::registry::udp::Wish;
use flate2::{Compression, write::GzEncoder};
use hyper::body::Bytes;
use serde_json::json;
use std::{io::Write as _, sync::Arc, time::Duration};

/// From so many bytes on a datagram is compressed.
const COMPRESSED: usize = 1024;
/// From so many bytes on nothing makes a datagram of it.
const HOPELESS: usize = 4 * 1024 * 1024;
/// Bytes of a datagram at most, over IPv4.
const DATAGRAM: usize = 65_507;

pub(crate) fn address(params: &Params) -> Result<Address, Refusal> {
    let ip = params.required("ip")?;
    let port = params.port(params.required("port")?)?;
    Ok(Address {
        ip: ip.into(),
        port,
    })
}

/// An instance as POST and PUT describe it, which is `ephemeral` unless it says what it is.
fn instance(params: &Params, ephemeral: bool) -> Result<(Address, Record), Refusal> {
    let address = address(params)?;
    let healthy = params.flag(&["healthy"], true);
    let record = Record {
        persistent: !params.flag(&["ephemeral"], ephemeral),
        cluster: params.cluster().into(),
        weight: params.weight()?.unwrap_or(1.0),
        healthy,
        enabled: params.flag(&["enabled", "enable"], true),
        metadata: params.metadata()?,
        said: healthy,
        bare: false,
        without_id: false,
    };
    Ok((address, record))
}

/// What must be right about an instance: `NamingUtils.checkInstanceIsLegal`, on 1.4 the names.
pub(crate) fn check_record(
    like: Like,
    service: &ServiceKey,
    record: &Record,
) -> Result<(), Refusal> {
    if !like.manners().parameter_check {
        forms::check_grouped(service)?;
    } else {
        let interval = record.millis(INTERVAL).unwrap_or(BEAT);
        if record.millis(TIMEOUT).unwrap_or(15_000) < interval
            || record.millis(DELETE).unwrap_or(30_000) < interval
        {
            return Err(Refusal::BeatInterval);
        }
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if !record.cluster.bytes().all(legal) {
        return Err(Refusal::ClusterName(record.cluster.to_string()));
    }
    Ok(())
}

/// Registers, and has the beat check watch an ephemeral one.
pub(crate) fn take(
    state: &mut State,
    now: Moment,
    service: &ServiceKey,
    address: &Address,
    record: Record,
) -> Result<(), Refusal> {
    let place = state
        .naming
        .place(address, &record.cluster, record.persistent);
    let persistent = record.persistent;
    let healthy = state.naming.register(now, service, address, record)?;
    if !persistent {
        let patience = state
            .naming
            .seen(service, &place)
            .and_then(|seen| seen.patience());
        let who = (service.clone(), place);
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

pub(crate) fn register(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    enroll(state, time, call, false)?;
    Ok(Answer::ok())
}

/// Registers the instance of a call, and gives it no id if so wanted.
pub(crate) fn enroll(
    state: &mut State,
    time: Time,
    call: &Call,
    without_id: bool,
) -> Result<(), Refusal> {
    let service = call.params.service()?;
    let (address, mut record) = instance(&call.params, state.switches.default_instance_ephemeral)?;
    record.without_id = without_id;
    check_record(state.like, &service, &record)?;
    take(state, time.now, &service, &address, record)
}

pub(crate) fn deregister(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let address = address(params)?;
    let persistent = !params.flag(&["ephemeral"], state.switches.default_instance_ephemeral);
    let gone = state
        .naming
        .deregister(time.now, &service, &address, params.cluster(), persistent);
    if let Some(place) = gone.filter(|_| !persistent) {
        let who = (service, place);
        state.beats.handle(time.now, Event::Left { who });
    }
    Ok(Answer::ok())
}

/// What an operator sets may change how long an instance may be silent.
pub(crate) fn overrule(
    state: &mut State,
    now: Moment,
    service: &ServiceKey,
    address: &Address,
    cluster: &Arc<str>,
    patch: Patch,
    fresh: bool,
) -> Result<(), Refusal> {
    state
        .naming
        .overrule(now, service, address, cluster, patch, fresh)?;
    let place = state.naming.place(address, cluster, false);
    let patience = state
        .naming
        .seen(service, &place)
        .and_then(|seen| seen.patience());
    if let Some(patience) = patience {
        let who = (service.clone(), place);
        state
            .beats
            .handle(now, Event::PatienceChanged { who, patience });
    }
    Ok(())
}

pub(crate) fn update(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let (address, record) = instance(params, state.switches.default_instance_ephemeral)?;
    check_record(state.like, &service, &record)?;
    if !state.like.manners().operator_overrules {
        return update_as_registration(state, time, call, &service, &address, record);
    }
    if !state.naming.knows(&service) {
        return Err(unknown(&service, params));
    }
    let patch = Patch {
        weight: Some(record.weight),
        enabled: Some(record.enabled),
        metadata: Some(record.metadata),
        healthy: None,
    };
    overrule(
        state,
        time.now,
        &service,
        &address,
        &record.cluster,
        patch,
        true,
    )?;
    Ok(Answer::ok())
}

fn unknown(service: &ServiceKey, params: &Params) -> Refusal {
    Refusal::UpdateOfUnknownService {
        namespace: service.namespace.to_string(),
        group: service.group.to_string(),
        name: service.name.to_string(),
        ephemeral: params.flag(&["ephemeral"], true),
    }
}

/// 1.4 registers once more, and only for a Java client looks first whether there is something to update.
fn update_as_registration(
    state: &mut State,
    time: Time,
    call: &Call,
    service: &ServiceKey,
    address: &Address,
    record: Record,
) -> Result<Answer, Refusal> {
    if call.is_java() {
        if !state.naming.knows(service) {
            return Err(unknown(service, &call.params));
        }
        if !state.naming.anywhere(service, address, record.persistent) {
            return Err(Refusal::NothingToUpdate(format!(
                "{}:{}:unknown:{}_{:?}_{}_false_{}",
                address.ip,
                address.port,
                record.cluster,
                record.weight,
                record.healthy,
                record.cluster
            )));
        }
    }
    take(state, time.now, service, address, record)?;
    Ok(Answer::ok())
}

pub(crate) fn patch(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let address = address(params)?;
    let cluster: Arc<str> = params.cluster().into();
    let metadata = params.metadata()?;
    let said = |names: &[&str]| {
        let any = names.iter().any(|name| params.get(name).is_some());
        any.then(|| params.flag(names, true))
    };
    let patch = Patch {
        weight: params.weight()?,
        enabled: said(&["enabled", "enable"]),
        metadata: (!metadata.is_empty()).then_some(metadata),
        healthy: said(&["healthy"]),
    };
    if state.like.manners().operator_overrules {
        state.naming.detail(&service, &address, &cluster)?;
        overrule(state, time.now, &service, &address, &cluster, patch, false)?;
        return Ok(Answer::ok());
    }
    let place = state
        .naming
        .find(&service, &address, &cluster)
        .ok_or(Refusal::NothingToPatch)?;
    state.naming.amend(time.now, &service, &place, patch);
    if let Some(record) = state.naming.seen(&service, &place) {
        take(state, time.now, &service, &address, record)?;
    }
    Ok(Answer::ok())
}

pub(crate) fn detail(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
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

pub(crate) fn list(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let clusters = params.get("clusters").unwrap_or_default();
    let among: Vec<&str> = clusters
        .split(',')
        .filter(|name| !name.is_empty())
        .collect();
    let healthy_only = params.is_true("healthyOnly");
    let port = params.number("udpPort")?;
    let cache = subscribe(state, time.now, call, &service, clusters, port);
    if state.like == Like::V1_4 && params.is_true("isCheck") {
        return Ok(Answer::json(&json!({})));
    }
    let query = Query {
        clusters: clusters.to_owned(),
        healthy_only,
        cache,
        env: params.get("env").unwrap_or_default().to_owned(),
        java: call.is_java(),
    };
    if let Some(text) = state.rendered.get(&service, &query) {
        return Ok(Answer::rendered(text.at(dates::millis(time.at))));
    }
    let listing = state.naming.list(&service, &among, healthy_only);
    let asked = Asked {
        service: &service,
        clusters,
        cache,
        env: &query.env,
        java: query.java,
    };
    if listing.changed.is_none() {
        // Nobody would tell that it is there now.
        return Ok(listing::answer(state.like, time, &asked, listing));
    }
    let text = Text::new(listing::answer(state.like, time, &asked, listing).body);
    let body = text.at(dates::millis(time.at));
    state.rendered.keep(&service, query, text);
    Ok(Answer::rendered(body))
}

/// Has a client pushed over UDP that asks for it, at the address it asks from, whatever `clientIP` says; milliseconds for which it may
/// keep the list.
pub(crate) fn subscribe(
    state: &mut State,
    now: Moment,
    call: &Call,
    service: &ServiceKey,
    clusters: &str,
    port: Option<i64>,
) -> i64 {
    let (switches, manners) = (&state.switches, state.like.manners());
    let pushed = switches.default_push_cache_millis;
    let unpushed = switches.default_cache_millis;
    let of_all = if manners.cache_follows_push {
        unpushed
    } else {
        pushed
    };
    let agent = call.agent();
    let Some(peer) = udp::peer(call.from, port).filter(|_| switches.pushes_to(agent)) else {
        return of_all;
    };
    let wish = Wish {
        service: service.clone(),
        clusters: clusters.into(),
        agent: agent.into(),
        app: call.params.get("app").unwrap_or_default().into(),
    };
    if !state.udp.has_room(peer, &wish) {
        // He has to look by himself.
        return unpushed;
    }
    let millis = u64::try_from(pushed).unwrap_or(0);
    let life = manners.subscribed.max(Duration::from_millis(millis));
    let event = udp::Event::Asked { peer, wish, life };
    state.udp.handle(now, event);
    pushed
}

/// What a subscriber over UDP is told, compressed when it is long; `None` when no datagram can hold it.
pub(crate) fn datagram(state: &mut State, time: Time, wish: &Wish, number: u64) -> Option<Bytes> {
    let among: Vec<&str> = wish.clusters.split(',').collect();
    let among: Vec<&str> = among.into_iter().filter(|name| !name.is_empty()).collect();
    let listing = state.naming.list(&wish.service, &among, false);
    let asked = Asked {
        service: &wish.service,
        clusters: &wish.clusters,
        cache: state.switches.default_push_cache_millis,
        env: "",
        java: call::is_java(&wish.agent),
    };
    let datagram = listing::datagram(state.like, time, &asked, listing, number);
    let plain = serde_json::to_vec(&datagram).ok()?;
    if plain.len() < COMPRESSED {
        return Some(plain.into());
    }
    if plain.len() > HOPELESS {
        return None;
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    // Into memory nothing fails.
    gzip.write_all(&plain).ok()?;
    let gzip = gzip.finish().ok()?;
    (gzip.len() <= DATAGRAM).then(|| gzip.into())
}

/// A full beat as far as it describes an instance.
fn beaten(
    like: Like,
    service: &ServiceKey,
    beat: &wire::Beat,
    cluster: &str,
) -> Result<(Address, Record), Refusal> {
    if beat.ip.trim().is_empty() {
        return Err(Refusal::Required("ip"));
    }
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
    if like.manners().parameter_check {
        forms::check_ip(Some(&beat.ip))?;
        forms::check_metadata(&metadata)?;
    }
    let address = Address {
        ip: beat.ip.as_str().into(),
        port: u16::try_from(beat.port).map_err(|_| Refusal::PortRange)?,
    };
    let record = Record {
        persistent: !beat.ephemeral,
        cluster: cluster.into(),
        weight: beat.weight,
        healthy: true,
        enabled: true,
        said: true,
        bare: metadata.is_empty(),
        without_id: false,
        metadata,
    };
    if !(0.0..=10_000.0).contains(&record.weight) {
        return Err(Refusal::Weight);
    }
    check_record(like, service, &record)?;
    Ok((address, record))
}

pub(crate) fn beat(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let full: Option<wire::Beat> = params
        .get("beat")
        .map(|json| serde_json::from_str(json).map_err(|e| Refusal::BeatJson(e.to_string())))
        .transpose()?;
    let service = params.service()?;
    let (address, record, cluster, alive) = match full {
        None => {
            let address = Address {
                ip: params.get("ip").unwrap_or_default().into(),
                port: params.get("port").map_or(Ok(0), |port| params.port(port))?,
            };
            (
                address,
                None,
                params.cluster().to_owned(),
                Some(service.clone()),
            )
        }
        Some(beat) => {
            let cluster = Some(beat.cluster.trim())
                .filter(|cluster| !cluster.is_empty())
                .unwrap_or_else(|| params.cluster());
            let (address, record) = beaten(state.like, &service, &beat, cluster)?;
            let alive = if state.like.manners().beat_names_service {
                // `group@@name` or a bare name, whatever `groupName` says; without it, none.
                let named = beat.service_name.as_str();
                let (group, name) = named.split_once("@@").unwrap_or((DEFAULT_GROUP, named));
                (!named.trim().is_empty()).then(|| ServiceKey {
                    namespace: service.namespace.clone(),
                    group: group.into(),
                    name: name.into(),
                })
            } else {
                Some(service.clone())
            };
            (address, Some(record), cluster.to_owned(), alive)
        }
    };
    if state.naming.beaten(&service, &address, &cluster).is_none() {
        let Some(record) = record else {
            return Ok(beat_answer(state, wire::BEAT_NOT_FOUND, None));
        };
        take(state, time.now, &service, &address, record)?;
    }
    if let Some(alive) = alive {
        keep_alive(state, time.now, alive, &address, &cluster);
    }
    let interval = state
        .naming
        .beaten(&service, &address, &cluster)
        .and_then(|place| state.naming.seen(&service, &place)?.millis(INTERVAL));
    Ok(beat_answer(state, wire::BEAT_OK, interval))
}

/// Tells the beat check that an instance is alive.
pub(crate) fn keep_alive(
    state: &mut State,
    now: Moment,
    service: ServiceKey,
    address: &Address,
    cluster: &str,
) {
    let who = (service, state.naming.place(address, cluster, false));
    state.beats.handle(now, Event::Beat { who });
}

/// With the interval of the instance, else that of all.
fn beat_answer(state: &State, code: i64, interval: Option<u64>) -> Answer {
    let switches = &state.switches;
    let own = interval.map(|millis| i64::try_from(millis).unwrap_or(i64::MAX));
    let light = state.like != Like::V1_4 || code == wire::BEAT_OK;
    Answer::json(&wire::BeatAnswer {
        client_beat_interval: own.unwrap_or(switches.client_beat_interval),
        code,
        light_beat_enabled: light.then_some(switches.light_beat_enabled),
    })
}

pub(crate) fn threshold(params: &Params) -> Result<Option<f32>, Refusal> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the original keeps a float"
    )]
    Ok(params.fraction("protectThreshold")?.map(|t| t as f32))
}

/// The service of the calls that demand the parameter itself, in words of their own.
pub(crate) fn service_said(params: &Params) -> Result<ServiceKey, Refusal> {
    params
        .raw("serviceName")
        .ok_or(Refusal::Missing("serviceName"))?;
    params.service()
}

pub(crate) fn create_service(
    state: &mut State,
    time: Time,
    call: &Call,
) -> Result<Answer, Refusal> {
    create(state, time, call, true)?;
    Ok(Answer::ok())
}

/// Makes a service, whose instances will all be `persistent` or not where a service is of one kind.
pub(crate) fn create(
    state: &mut State,
    time: Time,
    call: &Call,
    persistent: bool,
) -> Result<(), Refusal> {
    let params = &call.params;
    let service = service_said(params)?;
    let settings = Settings {
        threshold: threshold(params)?.unwrap_or(0.0),
        metadata: params.metadata()?,
        selector: Selector::read(params)?,
        ..Settings::default()
    };
    if !state.like.manners().parameter_check {
        forms::check_grouped(&service)?;
    }
    state
        .naming
        .create(time.now, &service, persistent, settings)
}

pub(crate) fn update_service(
    state: &mut State,
    time: Time,
    call: &Call,
) -> Result<Answer, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    let threshold = threshold(params)?.ok_or(Refusal::Required("protectThreshold"))?;
    let metadata = params.metadata()?;
    let selector = Selector::read(params)?;
    state
        .naming
        .update(time.now, &service, threshold, metadata, selector)?;
    Ok(Answer::ok())
}

pub(crate) fn delete_service(
    state: &mut State,
    time: Time,
    call: &Call,
) -> Result<Answer, Refusal> {
    let service = service_said(&call.params)?;
    for place in state.naming.delete(time.now, &service)? {
        let who = (service.clone(), place);
        state.beats.handle(time.now, Event::Left { who });
    }
    Ok(Answer::ok())
}

/// A float as it is written: 0.7 widened would be 0.699999988079071.
pub(crate) fn shortest(threshold: f32) -> f64 {
    threshold.to_string().parse().unwrap_or(threshold.into())
}

pub(crate) fn describe_service(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let service = service_said(&call.params)?;
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
            let said = settings.clusters.get(name).cloned().unwrap_or_default();
            json!({
                "name": &**name,
                "healthChecker": said.checker.shown(),
                "metadata": said.metadata,
            })
        })
        .collect();
    let selector = settings.selector.shown(state.like);
    Ok(Answer::json(&json!({
        "namespaceId": service.namespace.naming_id(),
        "groupName": &*service.group,
        "name": &*service.name,
        "protectThreshold": shortest(settings.threshold),
        "metadata": settings.metadata,
        "selector": selector,
        "clusters": clusters,
    })))
}

pub(crate) fn update_cluster(
    state: &mut State,
    time: Time,
    call: &Call,
) -> Result<Answer, Refusal> {
    let (cluster, said) = cluster_said(&call.params)?;
    let service = call.params.service()?;
    state
        .naming
        .set_cluster(time.now, &service, cluster, said)?;
    Ok(Answer::ok())
}

/// What is said of which cluster.
pub(crate) fn cluster_said(params: &Params) -> Result<(&str, Cluster), Refusal> {
    let cluster = params.required("clusterName")?;
    let port = params.required("checkPort")?;
    params.required("useInstancePort4Check")?;
    let checker = params.required("healthChecker")?;
    let said = Cluster {
        checker: Checker::read(checker)?,
        // What is no number is 0 to the original.
        port: port.parse().unwrap_or(0),
        instance_port: params.flag(&["useInstancePort4Check"], true),
        metadata: params.metadata()?,
    };
    Ok((cluster, said))
}

pub(crate) fn health_by_hand(
    state: &mut State,
    time: Time,
    call: &Call,
) -> Result<Answer, Refusal> {
    let params = &call.params;
    let names = ["healthy", "valid"];
    if names.iter().all(|name| params.get(name).is_none()) {
        return Err(Refusal::Required("healthy"));
    }
    let healthy = params.flag(&names, true);
    let service = params.service()?;
    let address = address(params)?;
    let cluster = params.cluster();
    let place = state
        .naming
        .health_by_hand(time.now, &service, cluster, &address, healthy)?;
    if let Some(place) = place {
        let who = (service, place);
        state.beats.handle(time.now, Event::Told { who, healthy });
    }
    Ok(Answer::ok())
}

/// Changes a switch. `debug` means this node alone, and there is no other.
pub(crate) fn switch(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let said = |name| call.params.raw(name).ok_or(Refusal::Missing(name));
    let (entry, value) = (said("entry")?, said("value")?);
    state.touch(Key::Switches);
    state.switches.set(state.like, entry, value)?;
    let rules = state.switches.check_rules(state.checks.rules());
    if rules != state.checks.rules() {
        let event = checks::Event::Ruled(rules);
        state.checks.handle(time.now, event);
    }
    Ok(Answer::ok())
}
