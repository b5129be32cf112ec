//! Metadata of several instances at once: an operator's, over all registrations, or the instances' own.

use crate::nacos::model::DEFAULT_CLUSTER;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::model::Metadata;
use crate::registry::model::Time;
use crate::registry::naming::Address;
use crate::registry::naming::Patch;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

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

/// Adds metadata to several instances, or takes their keys away: where an operator's values lie over all registrations, his; else
/// the instances' own.
pub(crate) fn v1(state: &mut State, time: Time, call: &Call, add: bool) -> Result<Answer, Refusal> {
    let change: fn(&mut State, Time, &Call) -> Result<Value, Refusal> =
        match (state.like.manners().operator_overrules, add) {
            (true, true) => add_metadata,
            (true, false) => take_metadata,
            (false, true) => |state, time, call| batch_of_own(state, time, call, true),
            (false, false) => |state, time, call| batch_of_own(state, time, call, false),
        };
    Ok(Answer::json(&change(state, time, call)?))
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

/// 1.4 takes all of the kind that `consistencyType` says, else those that are named; what cannot be read names nobody.
fn batch_of_own(state: &mut State, time: Time, call: &Call, add: bool) -> Result<Value, Refusal> {
    let params = &call.params;
    let service = params.service()?;
    params.required("metadata")?;
    let said = params.metadata()?;
    let kind = match params.get("consistencyType") {
        Some("ephemeral") => Some(false),
        Some("persist") => Some(true),
        _ => None,
    };
    let those: Vec<(Address, Arc<str>, bool)> = match kind {
        Some(persistent) => {
            let all = state.naming.all(&service).into_iter().flatten();
            all.filter(|(_, record)| record.persistent == persistent)
                .map(|(address, record)| (address, record.cluster, persistent))
                .collect()
        }
        None => named(params)
            .unwrap_or_default()
            .into_iter()
            .map(|(address, cluster, ephemeral)| (address, cluster, !ephemeral))
            .collect(),
    };
    let mut updated = Vec::new();
    for (address, cluster, persistent) in those {
        let place = state.naming.place(&address, &cluster, persistent);
        let Some(record) = state.naming.seen(&service, &place) else {
            continue;
        };
        let mut metadata = record.metadata;
        if add {
            metadata.extend(said.clone());
        } else {
            metadata.retain(|key, _| !said.contains_key(key));
        }
        let patch = Patch {
            metadata: Some(metadata),
            ..Patch::default()
        };
        state.naming.amend(time.now, &service, &place, patch);
        let kind = if persistent { "persist" } else { "ephemeral" };
        let Address { ip, port } = &address;
        updated.push(format!("{ip}:{port}:unknown:{cluster}:{kind}"));
    }
    Ok(json!({"updated": updated}))
}
