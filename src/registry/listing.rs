//! What a list of instances looks like in each generation.

use crate::dates;
use crate::foreign::Foreign;
use crate::nacos::model::ServiceKey;
use crate::nacos::rpc::ServiceInfo;
use crate::nacos::wire;
use crate::registry::call::Answer;
use crate::registry::like::Like;
use crate::registry::model::Time;
use crate::registry::naming::Address;
use crate::registry::naming::DELETE;
use crate::registry::naming::INTERVAL;
use crate::registry::naming::Listing;
use crate::registry::naming::Record;
use crate::registry::naming::TIMEOUT;
use crate::registry::rendered;
use serde::Serialize;
use serde_json::{Value, json};

/// The interval that beats are answered with, and that hosts are listed with, unless their metadata say otherwise.
pub(crate) const BEAT: u64 = 5_000;

/// What was asked for, as far as the answer repeats it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) service: &'a ServiceKey,
    pub(crate) clusters: &'a str,
    /// Milliseconds for which the list may be kept.
    pub(crate) cache: i64,
    /// What 1.4 repeats.
    pub(crate) env: &'a str,
    /// A Java client of 1.0 or later, to whom 1.4 names services with their group.
    pub(crate) java: bool,
}

/// The answer to a list; like 1.4 with a mark for the time of the request.
pub(crate) fn answer(like: Like, time: Time, asked: &Asked<'_>, listing: Listing) -> Answer {
    if like == Like::V1_4 {
        return Answer::json(&in_1_4(rendered::TIME, asked, &listing));
    }
    Answer::json(&in_2_5(like, time, asked, listing))
}

/// A list in a datagram, where it has no group and does not tell that health is masked.
pub(crate) fn datagram(
    like: Like,
    time: Time,
    asked: &Asked<'_>,
    mut listing: Listing,
    number: u64,
) -> Datagram {
    let data = if like == Like::V1_4 {
        in_1_4(dates::millis(time.at), asked, &listing)
    } else {
        listing.protected = false;
        let mut list = in_2_5(like, time, asked, listing);
        if let Some(list) = list.as_object_mut() {
            list.remove("groupName");
        }
        list
    };
    Datagram {
        kind: "dom",
        data: data.to_string(),
        last_ref_time: number,
    }
}

/// What is pushed over UDP: JSON in JSON, under the number that an acknowledgement repeats.
#[derive(Debug, Serialize)]
pub(crate) struct Datagram {
    #[serde(rename = "type")]
    kind: &'static str,
    data: String,
    #[serde(rename = "lastRefTime")]
    last_ref_time: u64,
}

/// A list as 2.5 and 3.0 have it.
pub(crate) fn in_2_5(like: Like, time: Time, asked: &Asked<'_>, listing: Listing) -> Value {
    let list = wire::ListAnswer {
        name: asked.service.grouped(),
        group_name: Some(asked.service.group.to_string()),
        clusters: asked.clusters.to_owned(),
        cache_millis: asked.cache,
        last_ref_time: dates::millis(time.wall(listing.changed.unwrap_or(time.now))),
        hosts: listing
            .hosts
            .into_iter()
            .map(|(address, record)| host(asked.service, &address, record))
            .collect(),
        checksum: String::new(),
        all_ips: false,
        reach_protection_threshold: listing.protected,
        valid: true,
    };
    let mut list = json!(list);
    // 3.0 spells one key differently.
    if like == Like::V3_0
        && let Some(list) = list.as_object_mut()
        && let Some(all) = list.remove("allIPs")
    {
        list.insert("allIps".to_owned(), all);
    }
    list
}

/// A list over gRPC, where the service is named without its group.
pub(crate) fn info(
    like: Like,
    time: Time,
    service: &ServiceKey,
    clusters: &str,
    cache: i64,
    listing: Listing,
) -> ServiceInfo {
    let all_ips = |is: Like| (like == is).then_some(false);
    ServiceInfo {
        name: service.name.to_string(),
        group_name: service.group.to_string(),
        clusters: clusters.to_owned(),
        cache_millis: cache,
        last_ref_time: dates::millis(time.wall(listing.changed.unwrap_or(time.now))),
        hosts: listing
            .hosts
            .into_iter()
            .map(|(address, record)| host(service, &address, record))
            .collect(),
        checksum: String::new(),
        all_ips_of_2: all_ips(Like::V2_5),
        all_ips_of_3: all_ips(Like::V3_0),
        reach_protection_threshold: listing.protected,
        valid: true,
    }
}

/// A host as 2.5 and 3.0 write it.
pub(crate) fn host(service: &ServiceKey, address: &Address, record: Record) -> wire::Host {
    let millis = |key, default| {
        Some(i64::try_from(record.millis(key).unwrap_or(default)).unwrap_or(i64::MAX))
    };
    wire::Host {
        instance_id: (!record.without_id).then(|| instance_id(service, address, &record.cluster)),
        ip: Foreign::from(&*address.ip),
        port: i64::from(address.port),
        weight: record.weight,
        healthy: record.healthy,
        enabled: record.enabled,
        ephemeral: Some(!record.persistent),
        cluster_name: Foreign::from(&*record.cluster),
        service_name: Some(service.grouped()),
        instance_heart_beat_interval: millis(INTERVAL, BEAT),
        instance_heart_beat_time_out: millis(TIMEOUT, 15_000),
        ip_delete_timeout: millis(DELETE, 30_000),
        instance_id_generator: record.metadata.is_empty().then(|| "simple".to_owned()),
        metadata: record.metadata,
    }
}

/// `ip#port#cluster#group@@name`.
pub(crate) fn instance_id(service: &ServiceKey, address: &Address, cluster: &str) -> String {
    format!(
        "{}#{}#{cluster}#{}",
        address.ip,
        address.port,
        service.grouped()
    )
}

/// An unknown service has four keys only.
fn in_1_4(millis: i64, asked: &Asked<'_>, listing: &Listing) -> Value {
    let (service, name) = (asked.service, asked.service.grouped());
    if listing.changed.is_none() {
        return json!({
            "name": name,
            "clusters": asked.clusters,
            "cacheMillis": asked.cache,
            "hosts": [],
        });
    }
    let called = if asked.java { &name } else { &*service.name };
    let hosts: Vec<Value> = listing
        .hosts
        .iter()
        .map(|(address, record)| {
            json!({
                "ip": &*address.ip,
                "port": address.port,
                "valid": record.healthy,
                "healthy": record.healthy,
                "marked": false,
                "instanceId": instance_id(service, address, &record.cluster),
                "metadata": (!record.bare).then_some(&record.metadata),
                "enabled": record.enabled,
                "weight": record.weight,
                "clusterName": &*record.cluster,
                "serviceName": called,
                "ephemeral": !record.persistent,
            })
        })
        .collect();
    let checksum = wire::md5_hex(Value::from(hosts.clone()).to_string().as_bytes());
    json!({
        "hosts": hosts,
        "dom": called,
        "name": name,
        "cacheMillis": asked.cache,
        "lastRefTime": millis,
        "checksum": checksum,
        "useSpecifiedURL": false,
        "clusters": asked.clusters,
        "env": asked.env,
        "metadata": listing.metadata,
    })
}
