//! The calls of `/v3/client`: what a client without gRPC does on 3.x. Nobody is pushed and no configuration is listened to over them.

use crate::dates;
use crate::registry::admin_config_calls;
use crate::registry::call::Call;
use crate::registry::listing;
use crate::registry::model::Reader;
use crate::registry::model::Time;
use crate::registry::naming_calls;
use crate::registry::refusal::Refusal;
use crate::registry::rows::Row;
use crate::registry::state::State;
use serde_json::{Value, json};

/// What there is.
pub(crate) const CALLS: &[Row] = &[
    ("POST", "/v3/client/ns/instance", register_or_beat),
    ("DELETE", "/v3/client/ns/instance", deregister),
    ("GET", "/v3/client/ns/instance/list", list),
    ("GET", "/v3/client/cs/config", config),
];

fn register_or_beat(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    if !call.params.flag(&["heartBeat"], false) {
        return register(state, time, call);
    }
    let service = call.params.service()?;
    let address = naming_calls::address(&call.params)?;
    let cluster = call.params.cluster();
    if state.naming.beaten(&service, &address, cluster).is_none() {
        return Err(Refusal::NoInstance);
    }
    naming_calls::keep_alive(state, time.now, service, &address, cluster);
    Ok("ok".into())
}

pub(crate) fn register(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    naming_calls::enroll(state, time, call, true)?;
    Ok("ok".into())
}

pub(crate) fn deregister(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    naming_calls::deregister(state, time, call)?;
    Ok("ok".into())
}

/// Enabled hosts with their health masked, of the cluster `DEFAULT` unless others are named; `healthyOnly` has never had a say here.
fn list(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let service = call.params.service()?;
    let clusters = call.params.cluster().split(',');
    let among: Vec<&str> = clusters.filter(|name| !name.is_empty()).collect();
    let hosts = state.naming.list(&service, &among, false).hosts;
    let host = |(address, record)| json!(listing::host(&service, &address, record));
    Ok(hosts.into_iter().map(host).collect())
}

/// A content as readers see it: one that is being modified is not there. Betas are seen, tags are not looked at.
fn config(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let key = admin_config_calls::key(&call.params)?;
    let reader = Reader::new(&call.ip(), None);
    let seen = state.configs.get(&key, &reader, None);
    let seen = seen
        .filter(|_| !state.configs.is_busy(&key))
        .ok_or(Refusal::NoConfig)?;
    let config = seen.config;
    let data_key = seen.gray.is_none().then_some(&config.encrypted_data_key);
    Ok(json!({
        "resultCode": 200,
        "errorCode": 0,
        "message": null,
        "requestId": null,
        "content": String::from_utf8_lossy(&config.content),
        "encryptedDataKey": data_key,
        "contentType": seen.kind,
        "md5": config.md5,
        "lastModified": dates::millis(config.modified),
        "tag": null,
        "beta": seen.gray.is_some(),
        "success": true,
    }))
}
