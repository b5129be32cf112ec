//! The calls of `/v3/admin/cs`: configurations as an operator's tools see them, which is as they are stored, not as readers see them yet.

use crate::nacos::model::PUBLIC;
use crate::registry::call::Call;
use crate::registry::config_calls;
use crate::registry::config_console_calls as console;
use crate::registry::config_console_calls::Wanted;
use crate::registry::config_parts;
use crate::registry::config_shown;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::history::Record;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::model::Time;
use crate::registry::refusal::Refusal;
use crate::registry::rows::Page;
use crate::registry::rows::Row;
use crate::registry::state::State;
use serde_json::{Map, Value, json};

/// What there is.
pub(crate) const CALLS: &[Row] = &[
    ("GET", "/v3/admin/cs/config", get),
    ("POST", "/v3/admin/cs/config", publish),
    ("DELETE", "/v3/admin/cs/config", delete),
    ("DELETE", "/v3/admin/cs/config/batch", delete_ids),
    ("GET", "/v3/admin/cs/config/beta", beta),
    ("DELETE", "/v3/admin/cs/config/beta", stop_beta),
    ("GET", "/v3/admin/cs/config/list", list),
    ("GET", "/v3/admin/cs/config/listener", listeners),
    ("GET", "/v3/admin/cs/listener", listened),
    ("GET", "/v3/admin/cs/history", past),
    ("GET", "/v3/admin/cs/history/list", history),
    ("GET", "/v3/admin/cs/history/previous", previous),
    ("GET", "/v3/admin/cs/history/configs", names),
];

/// Which configuration is meant.
pub(crate) fn key(params: &Params) -> Result<ConfigKey, Refusal> {
    params.check_config("namespaceId", "groupName")?;
    let group = params.required("groupName")?;
    let data_id = params.required("dataId")?;
    Ok(ConfigKey {
        data_id: data_id.to_owned(),
        group: group.to_owned(),
        tenant: tenant(params).to_owned(),
    })
}

fn tenant(params: &Params) -> &str {
    config_calls::tenant_of(params.get("namespaceId").unwrap_or_default(), true)
}

fn get(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let config = state.configs.stored(&key).ok_or(Refusal::NoConfig)?;
    Ok(config_shown::whole(&key, config))
}

fn publish(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let content = call.params.untrimmed("content");
    let content = content.ok_or(Refusal::Required("content"))?;
    config_calls::put(state, time, call, &config_parts::CAMEL, &key, content)?;
    Ok(true.into())
}

fn delete(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let tag = config_parts::tag(call.params.raw("tag"))?;
    let by = config_calls::author(call, None);
    config_calls::remove(state, time, &key, tag, by);
    Ok(true.into())
}

fn delete_ids(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let ids = call.params.raw("ids").ok_or(Refusal::Unsaid("ids"))?;
    let ids = console::ids(ids)?;
    console::remove_ids(state, time, call, ids);
    Ok(true.into())
}

fn beta(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let variant = state.configs.variant(&key, &Gray::Beta);
    let variant = variant.ok_or(Refusal::NoBeta)?;
    Ok(config_shown::gray(&key, &Gray::Beta, variant))
}

fn stop_beta(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let by = config_calls::author(call, None);
    if state.configs.delete_variant(time, &key, &Gray::Beta, by) {
        Ok(true.into())
    } else {
        Err(Refusal::NoBetaToStop)
    }
}

/// `search=blur` (the default) takes patterns, any other the names themselves.
fn list(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let page = Page::asked(params)?;
    // The original looks at names unless the word itself is there.
    if params.get("search") != Some("blur") {
        forms::check_plain("dataId", 256, params.untrimmed("dataId"))?;
    }
    let wanted = Wanted {
        blur: params.get("search").is_none_or(|search| search == "blur"),
        tenant: tenant(params),
        data_id: params.get("dataId"),
        group: params.get("groupName"),
        app_name: params.get("appName"),
        tags: params.get("configTags"),
        types: params.get("type"),
        content: params.get("configDetail"),
    };
    let (all, found) = (wanted.find(state), wanted.found());
    let count = all.len();
    let items = page.of(all);
    let items = items.map(|(key, config)| config_shown::listed(found, key, config));
    Ok(page.answer(count, page.needed(count), items.collect()))
}

fn status(query: &str, status: Map<String, Value>) -> Value {
    json!({"queryType": query, "listenersStatus": status})
}

fn listeners(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    Ok(status("config", console::who(state, &key)))
}

/// Without `all` and without a namespace the original shows nothing: it looks for one without a name.
fn listened(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let ip = params.raw("ip").ok_or(Refusal::Unsaid("ip"))?;
    let all = params.flag(&["all"], false);
    let wanted = params.get("namespaceId");
    let shown = |tenant: &str| {
        let tenant = if tenant.is_empty() { PUBLIC } else { tenant };
        all || wanted.is_some_and(|wanted| tenant.contains(wanted))
    };
    Ok(status("ip", console::what(state, ip, shown)))
}

fn history(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let key = key(params)?;
    let page = Page::asked(params)?.within(console::RECORDS);
    let all = console::records(state, &key);
    let count = all.len();
    let items = page.of(all);
    let items = items.map(|(id, record)| config_shown::past(id, record, false));
    Ok(page.answer(count, page.needed(count), items.collect()))
}

fn one(record: Option<(u64, &Record)>, key: &ConfigKey) -> Result<Value, Refusal> {
    let (id, record) = console::own(record, key)?.ok_or(Refusal::NoRecord)?;
    Ok(config_shown::past(id, record, true))
}

fn number(params: &Params, name: &'static str) -> Result<u64, Refusal> {
    params.raw(name).ok_or(Refusal::Unsaid(name))?;
    console::id(params, name)
}

fn past(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let nid = number(&call.params, "nid")?;
    one(console::by_number(state, nid), &key)
}

/// What was there before the last change of the configuration with that id.
fn previous(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let id = number(&call.params, "id")?;
    one(state.configs.history().previous(id), &key)
}

fn names(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    params
        .raw("namespaceId")
        .ok_or(Refusal::Unsaid("namespaceId"))?;
    let mut all: Vec<_> = state.configs.of(tenant(params)).collect();
    all.sort_by_key(|(_, config)| config.id);
    let names = all.into_iter();
    Ok(names
        .map(|(key, config)| config_shown::named(key, config))
        .collect())
}
