//! Namespaces as a console lists, makes and renames them, in v1, v2 and v3.

use crate::dates;
use crate::nacos::wire;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::forms::Params;
use crate::registry::kept::Key;
use crate::registry::like::Like;
use crate::registry::model::Time;
use crate::registry::namespaces::Named;
use crate::registry::refusal::Refusal;
use crate::registry::rows::Row;
use crate::registry::state::State;
use serde_json::{Map, Value, json};

/// Characters of a description at most.
const DESCRIPTION: usize = 256;

/// The calls of v2.
pub(crate) const V2_CALLS: &[Row] = &[
    ("GET", "/v2/console/namespace/list", all),
    ("GET", "/v2/console/namespace", one),
    ("POST", "/v2/console/namespace", create),
    ("PUT", "/v2/console/namespace", rename),
    ("DELETE", "/v2/console/namespace", remove),
];

/// The calls of v3.
pub(crate) const V3_CALLS: &[Row] = &[
    ("GET", "/v3/admin/core/namespace/list", all),
    ("GET", "/v3/admin/core/namespace", one),
    ("POST", "/v3/admin/core/namespace", create),
    ("PUT", "/v3/admin/core/namespace", rename),
    ("DELETE", "/v3/admin/core/namespace", remove),
    ("GET", "/v3/admin/core/namespace/check", |state, _, call| {
        let id = call.params.parameter("namespaceId")?;
        Ok(u8::from(state.namespaces.0.contains_key(id)).into())
    }),
];

/// The id of the public namespace, as it is shown.
fn public(like: Like) -> &'static str {
    if like == Like::V3_0 { "public" } else { "" }
}

/// A namespace as it is listed; only an unknown one is none.
fn shown(state: &State, id: &str, whole: bool) -> Option<Value> {
    let like = state.like;
    let here = |named: &Named| (named.name.clone(), named.description.clone(), 2);
    let (name, description, kind) = if id.is_empty() || id == "public" {
        ("public".to_owned(), "Default Namespace".to_owned(), 0)
    } else {
        state.namespaces.0.get(id).map(here)?
    };
    let tenant = if kind == 0 { "" } else { id };
    let mut shown = Map::new();
    let id = if kind == 0 { public(like) } else { id };
    shown.insert("namespace".into(), id.into());
    shown.insert("namespaceShowName".into(), name.into());
    if like != Like::V1_4 || whole {
        shown.insert("namespaceDesc".into(), description.into());
    }
    shown.insert("quota".into(), 200.into());
    shown.insert("configCount".into(), state.configs.count(tenant).into());
    shown.insert("type".into(), kind.into());
    Some(shown.into())
}

fn list(state: &State) -> Vec<Value> {
    let ids = state.namespaces.0.keys().map(String::as_str);
    let ids = std::iter::once("").chain(ids);
    ids.filter_map(|id| shown(state, id, false)).collect()
}

/// Letters of an id: `^[\w-]+`.
fn is_id(id: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    !id.is_empty() && id.bytes().all(legal)
}

/// `^[^@#$%^&*]+$`.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['@', '#', '$', '%', '^', '&', '*'])
}

/// The id that is made for whoever names none.
fn made(time: Time, name: &str, count: usize) -> String {
    let seed = format!("{} {name} {count}", dates::millis(time.at));
    let hex = wire::md5_hex(seed.as_bytes());
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let parts = parts.map(|(from, to)| hex.get(from..to).unwrap_or_default().to_owned());
    parts.join("-")
}

/// What is said of a namespace, within bounds.
fn named(name: &str, params: &Params) -> Named {
    let description = params.raw("namespaceDesc").unwrap_or_default();
    Named {
        name: name.to_owned(),
        description: description.chars().take(DESCRIPTION).collect(),
    }
}

/// What 2.5 checks of both before any controller.
fn check(like: Like, id: Option<&str>, name: &str) -> Result<(), Refusal> {
    if !like.manners().parameter_check {
        return Ok(());
    }
    crate::registry::forms::check_tenant(id)?;
    if name.chars().count() > 256 {
        return Err(Refusal::TooLong("namespaceShowName", 256));
    }
    if !name.is_empty() && !is_name(name) {
        return Err(Refusal::Characters("namespaceShowName"));
    }
    Ok(())
}

/// `/v1/console/namespaces`.
pub(crate) fn v1(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let like = state.like;
    if call.method != "GET" {
        state.touch(Key::Namespaces);
    }
    let done = match call.method.as_str() {
        "GET" if params.raw("show") == Some("all") => {
            let id = params.parameter("namespaceId")?;
            let shown = shown(state, id, true);
            return Ok(Answer::json(&shown.ok_or_else(|| absent(id))?));
        }
        "GET" if params.is_true("checkNamespaceIdExist") => {
            let id = params.parameter("customNamespaceId")?;
            state.namespaces.has(id)
        }
        "GET" => {
            let all = list(state);
            return Ok(Answer::json(
                &json!({"code": 200, "message": null, "data": all}),
            ));
        }
        "POST" => {
            let id = params.parameter("customNamespaceId")?.trim();
            let name = params.parameter("namespaceName")?;
            check(like, Some(id), name)?;
            let id = match id {
                "" => made(time, name, state.namespaces.0.len()),
                id => id.to_owned(),
            };
            let legal = is_id(&id) && id.len() <= 128 && is_name(name) && name.len() <= 1_024;
            let new = legal && !state.namespaces.has(&id);
            if new {
                state.namespaces.add(id, named(name, params))?;
            }
            new
        }
        "PUT" => {
            let id = params.parameter("namespace")?;
            let name = params.parameter("namespaceShowName")?;
            check(like, Some(id), name)?;
            let legal = is_name(name) && name.len() <= 1_024;
            if let Some(there) = state.namespaces.0.get_mut(id).filter(|_| legal) {
                *there = named(name, params);
            }
            legal
        }
        "DELETE" => {
            let id = params.parameter("namespaceId")?;
            state.namespaces.0.remove(id);
            true
        }
        method => return Err(Refusal::Method(method.to_owned())),
    };
    Ok(Answer::json(&done))
}

fn absent(id: &str) -> Refusal {
    Refusal::NoNamespace(id.to_owned())
}

fn all(state: &mut State, _: Time, _: &Call) -> Result<Value, Refusal> {
    Ok(list(state).into())
}

fn one(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let id = call.params.parameter("namespaceId")?;
    shown(state, id, true).ok_or_else(|| absent(id))
}

/// Id and name of a form.
fn said(call: &Call, like: Like) -> Result<(&str, &str), Refusal> {
    let said = |name| call.params.raw(name);
    let id = said("namespaceId").ok_or(Refusal::Lacks("namespaceId"))?;
    let name = said("namespaceName").ok_or(Refusal::Lacks("namespaceName"))?;
    check(like, Some(id), name)?;
    if !is_name(name) {
        let words = format!("namespaceName [{name}] contains illegal char");
        return Err(Refusal::Namespace(words));
    }
    Ok((id.trim(), name))
}

fn create(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let (id, name) = said(call, state.like)?;
    let id = match id {
        "" => made(time, name, state.namespaces.0.len()),
        id => id.to_owned(),
    };
    if state.namespaces.has(&id) {
        let words = format!("the namespaceId is existed, namespaceId: {id}");
        return Err(Refusal::Namespace(words));
    }
    state.touch(Key::Namespaces);
    state.namespaces.add(id, named(name, &call.params))?;
    Ok(true.into())
}

/// One that is not listed is `true` as well, and not made by it.
fn rename(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let (id, name) = said(call, state.like)?;
    state.touch(Key::Namespaces);
    if let Some(there) = state.namespaces.0.get_mut(id) {
        *there = named(name, &call.params);
    }
    Ok(true.into())
}

fn remove(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let id = call.params.parameter("namespaceId")?;
    state.touch(Key::Namespaces);
    state.namespaces.0.remove(id);
    Ok(true.into())
}
