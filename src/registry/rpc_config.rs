//! The requests of gRPC about configurations: query, publish, remove, listen, and what listeners are told.

use crate::dates;
use crate::machine::Machine;
use crate::nacos::rpc::ChangedConfig;
use crate::nacos::rpc::ConfigBatchListenRequest;
use crate::nacos::rpc::ConfigChangeBatchListenResponse;
use crate::nacos::rpc::ConfigChangeNotifyRequest;
use crate::nacos::rpc::ConfigPublishRequest;
use crate::nacos::rpc::ConfigPublishResponse;
use crate::nacos::rpc::ConfigQueryRequest;
use crate::nacos::rpc::ConfigQueryResponse;
use crate::nacos::rpc::ConfigRemoveRequest;
use crate::nacos::rpc::ConfigRemoveResponse;
use crate::nacos::rpc::ListenContext;
use crate::nacos::rpc::Outcome;
use crate::nacos::rpc::Payload;
use crate::nacos::rpc::code;
use crate::registry::config_calls;
use crate::registry::config_calls::tenant_of;
use crate::registry::config_parts;
use crate::registry::config_parts::Aim;
use crate::registry::forms;
use crate::registry::model::Author;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::model::Reader;
use crate::registry::pushes;
use crate::registry::refusal::Refusal;
use crate::registry::rpc_calls::Caller;
use crate::registry::rpc_calls::Handler;
use crate::registry::rpc_calls::Thrown;
use crate::registry::rpc_calls::Unread;
use crate::registry::rpc_calls::caught;
use crate::registry::rpc_calls::run;
use crate::registry::state::State;
use std::sync::Arc;

/// What answers requests of this kind.
pub(crate) fn handler(kind: &str) -> Option<Handler> {
    let handler: Handler = match kind {
        "ConfigQueryRequest" => |state, caller, payload| {
            run::<ConfigQueryRequest>(
                state,
                caller,
                payload,
                |r| check(&r.data_id, &r.group, &r.tenant),
                query,
            )
        },
        "ConfigPublishRequest" => |state, caller, payload| {
            // A content that is null is refused in other words than an empty one.
            let said: Said = serde_json::from_slice(payload.body()).map_err(|_| Unread)?;
            let work = if said.content.is_some() {
                publish
            } else {
                |_: &mut State, _: Caller, _: ConfigPublishRequest| {
                    Ok(caught(&Refusal::BlankContent("null".to_owned())))
                }
            };
            run::<ConfigPublishRequest>(
                state,
                caller,
                payload,
                |r| check(&r.data_id, &r.group, &r.tenant),
                work,
            )
        },
        "ConfigRemoveRequest" => |state, caller, payload| {
            run::<ConfigRemoveRequest>(
                state,
                caller,
                payload,
                |r| check(&r.data_id, &r.group, &r.tenant),
                remove,
            )
        },
        "ConfigBatchListenRequest" => |state, caller, payload| {
            // Who has no labels, as clients before 2.5, carries his tag in a header here.
            if let (Some(tag), Some(reader)) = (
                payload.header("Vipserver-Tag"),
                state.readers.get_mut(&caller.link),
            ) {
                *reader = Reader::new(&reader.ip, Some(tag));
            }
            run::<ConfigBatchListenRequest>(
                state,
                caller,
                payload,
                |r| {
                    (r.config_listen_contexts.iter())
                        .try_for_each(|it| check(&it.data_id, &it.group, &it.tenant))
                },
                listen,
            )
        },
        _ => return None,
    };
    Some(handler)
}

/// As much of a publish as tells null from empty.
#[derive(serde::Deserialize)]
struct Said {
    content: Option<serde::de::IgnoredAny>,
}

fn check(data_id: &str, group: &str, tenant: &str) -> Result<(), Refusal> {
    forms::check_tenant(Some(tenant))?;
    forms::check_plain("dataId", 256, Some(data_id))?;
    forms::check_plain("group", 128, Some(group))
}

fn key(data_id: String, group: String, tenant: &str, public_is_empty: bool) -> ConfigKey {
    ConfigKey {
        tenant: tenant_of(tenant, public_is_empty).to_owned(),
        group,
        data_id,
    }
}

/// As whom a client reads and writes: as it said when it was set up.
fn reader(state: &State, caller: Caller) -> Reader {
    state.readers.get(&caller.link).cloned().unwrap_or_default()
}

fn query(
    state: &mut State,
    caller: Caller,
    request: ConfigQueryRequest,
) -> Result<ConfigQueryResponse, Thrown> {
    // Unlike over HTTP, `public` is the empty tenant on 2.5 too.
    let key = key(request.data_id, request.group, &request.tenant, true);
    let tag = request.tag.filter(|tag| !tag.trim().is_empty());
    let no = |code, refusal: Refusal| ConfigQueryResponse {
        tag: tag.clone(),
        ..ConfigQueryResponse::with(Outcome::failed(code, refusal.over_grpc().1))
    };
    if state.configs.is_busy(&key) {
        return Ok(no(code::CONFIG_BUSY, Refusal::BeingModified));
    }
    let seen = state
        .configs
        .get(&key, &reader(state, caller), tag.as_deref());
    let Some(seen) = seen else {
        return Ok(no(code::NO_CONFIG, Refusal::NoConfig));
    };
    let config = seen.config;
    let data_key = seen.gray.is_none().then_some(&config.encrypted_data_key);
    Ok(ConfigQueryResponse {
        content: Some(String::from_utf8_lossy(&config.content).into_owned()),
        encrypted_data_key: data_key.cloned(),
        content_type: Some(seen.kind.to_owned()),
        md5: Some(config.md5.clone()),
        last_modified: dates::millis(config.modified),
        tag: match seen.gray {
            Some(Gray::Tag(tag)) => Some(config_calls::url_encoded(tag)),
            _ => None,
        },
        beta: seen.gray == Some(&Gray::Beta),
        ..ConfigQueryResponse::with(Outcome::ok())
    })
}

fn publish(
    state: &mut State,
    caller: Caller,
    request: ConfigPublishRequest,
) -> Result<ConfigPublishResponse, Thrown> {
    let published = try_publish(state, caller, request);
    Ok(published.unwrap_or_else(|refusal| caught(&refusal)))
}

fn try_publish(
    state: &mut State,
    caller: Caller,
    request: ConfigPublishRequest,
) -> Result<ConfigPublishResponse, Refusal> {
    let said = |name: &str| request.addition_map.get(name)?.as_deref();
    for (name, value) in [("dataId", &request.data_id), ("group", &request.group)] {
        if value.trim().is_empty() {
            return Err(Refusal::InvalidName(name, value.clone()));
        }
    }
    if request.content.trim().is_empty() {
        return Err(Refusal::BlankContent(request.content));
    }
    let aim = Aim::read(config_parts::tag(said("tag"))?, said("betaIps"));
    let (like, ip) = (state.like, reader(state, caller).ip);
    let publish = config_parts::read(like, &config_parts::SNAKE, &request.content, ip, said)?;
    let cas_md5 = request.cas_md5.as_deref();
    let key = key(request.data_id, request.group, &request.tenant, true);
    let configs = &mut state.configs;
    config_parts::put(configs, like, caller.time, &key, &aim, cas_md5, publish)?;
    Ok(ConfigPublishResponse::with(Outcome::ok()))
}

fn remove(
    state: &mut State,
    caller: Caller,
    request: ConfigRemoveRequest,
) -> Result<ConfigRemoveResponse, Thrown> {
    let tag = match config_parts::tag(request.tag.as_deref()) {
        Ok(tag) => tag,
        Err(refusal) => return Ok(caught(&refusal)),
    };
    let key = key(request.data_id, request.group, &request.tenant, true);
    let by = Author {
        user: None,
        ip: reader(state, caller).ip,
    };
    config_calls::remove(state, caller.time, &key, tag, by);
    Ok(ConfigRemoveResponse::with(Outcome::ok()))
}

fn listen(
    state: &mut State,
    caller: Caller,
    request: ConfigBatchListenRequest,
) -> Result<ConfigChangeBatchListenResponse, Thrown> {
    let Caller { link, time } = caller;
    let contexts = request.config_listen_contexts;
    if request.listen && !state.listeners.has_room(link, contexts.len()) {
        return Err(Refusal::Full("listened configurations", pushes::ALL_ASKED).into());
    }
    // A listener of `public` hears nothing on 2.5: that is the name of no tenant there.
    let public_is_empty = state.like.manners().public_is_empty.listen;
    let reader = reader(state, caller);
    let mut changed = Vec::new();
    for ListenContext {
        group,
        md5,
        data_id,
        tenant,
    } in contexts
    {
        let key = key(data_id, group, &tenant, public_is_empty);
        if !request.listen {
            let event = pushes::Event::Declined { link, key };
            state.listeners.handle(time.now, event);
            continue;
        }
        if state.configs.md5(&key, &reader) != md5 {
            changed.push(ChangedConfig {
                group: key.group.clone(),
                data_id: key.data_id.clone(),
                tenant: Some(tenant.clone()),
            });
        }
        let said: Arc<str> = tenant.into();
        let event = pushes::Event::Asked { link, key, said };
        state.listeners.handle(time.now, event);
    }
    Ok(ConfigChangeBatchListenResponse {
        changed_configs: changed,
        ..ConfigChangeBatchListenResponse::with(Outcome::ok())
    })
}

/// What a listener is told; `said` is the tenant as he spelt it, and left out where it is empty.
pub(crate) fn push(key: &ConfigKey, said: &str, number: u64) -> Payload {
    Payload::new(&ConfigChangeNotifyRequest {
        request_id: number.to_string(),
        data_id: key.data_id.clone(),
        group: key.group.clone(),
        tenant: (!said.is_empty()).then(|| said.to_owned()),
        module: "config".to_owned(),
        ..ConfigChangeNotifyRequest::default()
    })
}
