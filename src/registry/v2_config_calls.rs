//! The calls of `/v2/cs`, which 2.5.1 has: the same configurations and history as v1's, said in JSON with a code. 3.0.3 answers 410.

use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::config_calls;
use crate::registry::config_console_calls as console;
use crate::registry::config_parts;
use crate::registry::config_shown;
use crate::registry::forms::Params;
use crate::registry::gone;
use crate::registry::history::Of;
use crate::registry::history::Record;
use crate::registry::like::Like;
use crate::registry::model::ConfigKey;
use crate::registry::model::Time;
use crate::registry::refusal::CONFIG;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Value, json};

type Run = fn(&mut State, Time, &Call) -> Result<Answer, Refusal>;

/// What there is.
const CALLS: &[(&str, &str, Run)] = &[
    ("GET", "/v2/cs/config", get),
    ("POST", "/v2/cs/config", publish),
    ("DELETE", "/v2/cs/config", delete),
    ("GET", "/v2/cs/config/searchDetail", search),
    ("GET", "/v2/cs/history", past),
    ("GET", "/v2/cs/history/list", history),
    ("GET", "/v2/cs/history/detail", detail),
    ("GET", "/v2/cs/history/previous", previous),
    ("GET", "/v2/cs/history/configs", names),
];

/// Answers a call whose route begins with `/v2/cs/`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let (method, route) = (call.method.as_str(), call.route.as_str());
    if let Some(message) = gone::gone(state.like, method, route) {
        return Err(Refusal::Gone(message));
    }
    let here = || CALLS.iter().filter(|row| row.1 == route);
    if state.like != Like::V2_5 || here().next().is_none() {
        return Err(Refusal::NoPath(call.what()));
    }
    let Some((.., run)) = here().find(|row| row.0 == method) else {
        return Err(Refusal::ConfigMethod(method.to_owned()));
    };
    // The parameter check leaves alone who searches.
    if route != "/v2/cs/config/searchDetail" {
        call.params.check_config("namespaceId", "group")?;
    }
    run(state, time, call)
}

fn success(data: impl Into<Value>) -> Answer {
    Answer::json(&json!({"code": 0, "message": "success", "data": data.into()}))
}

/// A parameter that must be there; blank is there.
fn said<'p>(params: &'p Params, name: &'static str) -> Result<&'p str, Refusal> {
    params.raw(name).ok_or(Refusal::Unsaid(name))
}

/// Which configuration is meant; `public` is the empty tenant where the call asks for that.
fn key(params: &Params, public_is_empty: bool) -> Result<ConfigKey, Refusal> {
    let (data_id, group) = (said(params, "dataId")?, said(params, "group")?);
    for (name, value) in [("dataId", data_id), ("group", group)] {
        if value.trim().is_empty() {
            return Err(Refusal::Part(format!("invalid {name} : {value}")));
        }
    }
    let tenant = params.get("namespaceId").unwrap_or_default();
    Ok(ConfigKey {
        data_id: data_id.to_owned(),
        group: group.to_owned(),
        tenant: config_calls::tenant_of(tenant, public_is_empty).to_owned(),
    })
}

fn get(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let key = key(params, false)?;
    let tag = config_parts::tag(params.raw("tag"))?;
    // A no goes without a type, and with the line feed of all that is printed as a line.
    let no = |status, code: i64, message: &str, words: &str| {
        let body = json!({"code": code, "message": message, "data": words});
        Answer {
            status,
            content_type: None,
            ..Answer::text(format!("{body}\n"))
        }
    };
    if state.configs.is_busy(&key) {
        let words = "requested file is being modified, please try later.";
        return Ok(no(409, 20_005, "resource conflict", words));
    }
    let Some(seen) = state.configs.get(&key, &call.reader(), tag) else {
        let words = "config data not exist";
        return Ok(no(404, 20_004, "resource not found", words));
    };
    let data = config_shown::content(seen.config).into_owned();
    Ok(Answer {
        content_type: Some(CONFIG),
        headers: config_calls::headers(state.like.manners(), seen, tag.is_some()),
        ..success(data)
    })
}

fn publish(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    for name in ["dataId", "group", "content"] {
        params.required(name)?;
    }
    let content = params.untrimmed("content");
    let content = content.ok_or(Refusal::Required("content"))?;
    let key = key(params, true)?;
    config_calls::put(state, time, call, &config_parts::CAMEL, &key, content)?;
    Ok(success(true))
}

fn delete(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(&call.params, true)?;
    let tag = config_parts::tag(call.params.raw("tag"))?;
    let by = config_calls::author(call, None);
    config_calls::remove(state, time, &key, tag, by);
    Ok(success(true))
}

fn search(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    for name in ["dataId", "group", "config_detail", "pageNo", "pageSize"] {
        said(params, name)?;
    }
    let by = params.get("search").unwrap_or("blur");
    let content = params.untrimmed("config_detail");
    Ok(Answer {
        content_type: Some(crate::registry::refusal::JSON),
        ..console::search(state, call, by, content)?
    })
}

fn history(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(&call.params, true)?;
    let page = console::history_page(&call.params)?;
    let all = console::records(state, &key);
    Ok(success(page.of(all, |(id, record)| {
        config_shown::record(state.like, id, record, false)
    })))
}

fn one(state: &State, record: Option<(u64, &Record)>) -> Answer {
    success(record.map(|(id, record)| config_shown::record(state.like, id, record, true)))
}

fn past(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(&call.params, true)?;
    said(&call.params, "nid")?;
    let nid = console::id(&call.params, "nid")?;
    let record = console::own(console::by_number(state, nid), &key)?;
    Ok(one(state, record))
}

fn detail(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(&call.params, false)?;
    said(&call.params, "nid")?;
    let nid = console::id(&call.params, "nid")?;
    let record = console::own(console::by_number(state, nid), &key)?;
    Ok(success(record.map(|(id, record)| {
        let now = match &record.of {
            Of::Formal => state.configs.stored(&key),
            Of::Variant(gray, _) => state.configs.variant(&key, gray).map(|it| &it.config),
        };
        config_shown::detail(state.configs.history(), id, record, now)
    })))
}

fn previous(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(&call.params, true)?;
    said(&call.params, "id")?;
    let id = console::id(&call.params, "id")?;
    let record = console::own(state.configs.history().previous(id), &key)?;
    Ok(one(state, record))
}

fn names(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let tenant = said(&call.params, "namespaceId")?;
    let tenant = config_calls::tenant_of(tenant.trim(), true);
    let mut all: Vec<_> = state.configs.of(tenant).collect();
    all.sort_by_key(|(_, config)| config.id);
    let names = all
        .into_iter()
        .map(|(key, config)| config_shown::name(state.like, key, config));
    Ok(success(names.collect::<Vec<_>>()))
}
