//! The calls of `/v3/admin/cs`: configurations as an operator's tools see them, which is as they are stored, not as readers see them yet.

use crate::dates;
use crate::nacos::model::PUBLIC;
use crate::registry::admin_calls::Page;
use crate::registry::admin_calls::Row;
use crate::registry::call::Call;
use crate::registry::call::Time;
use crate::registry::config::Config;
use crate::registry::config::ConfigKey;
use crate::registry::config_calls;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Map, Value};

/// What there is.
pub(crate) const CALLS: &[Row] = &[
    ("GET", "/v3/admin/cs/config", get),
    ("POST", "/v3/admin/cs/config", publish),
    ("DELETE", "/v3/admin/cs/config", delete),
    ("GET", "/v3/admin/cs/config/list", list),
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

/// What a list says of a configuration. It has no id here, and no application; when it was written is in the detail alone.
fn basic(key: &ConfigKey, config: &Config) -> Map<String, Value> {
    let namespace = if key.tenant.is_empty() {
        PUBLIC
    } else {
        &key.tenant
    };
    let text = |text: &str| Value::from(text);
    [
        ("id", Value::Null),
        ("namespaceId", text(namespace)),
        ("groupName", text(&key.group)),
        ("dataId", text(&key.data_id)),
        ("md5", text(&config.md5)),
        ("type", text(config.kind)),
        ("appName", text("")),
        ("createTime", 0.into()),
        ("modifyTime", 0.into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

fn content(config: &Config) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&config.content)
}

fn get(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    let config = state.configs.stored(&key).ok_or(Refusal::NoConfig)?;
    let mut detail = basic(&key, config);
    for (name, value) in [
        ("createTime", dates::millis(config.created).into()),
        ("modifyTime", dates::millis(config.modified).into()),
        ("content", content(config).into()),
        ("desc", Value::Null),
        (
            "encryptedDataKey",
            config.encrypted_data_key.as_str().into(),
        ),
        ("createUser", Value::Null),
        ("createIp", Value::Null),
        ("configTags", Value::Null),
    ] {
        detail.insert(name.to_owned(), value);
    }
    Ok(detail.into())
}

fn publish(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    config_calls::refuse_variants(call)?;
    let key = key(&call.params)?;
    let content = call.params.untrimmed("content");
    let content = content.ok_or(Refusal::Required("content"))?;
    config_calls::put(state, time, call, key, content)?;
    Ok(true.into())
}

fn delete(state: &mut State, time: Time, call: &Call) -> Result<Value, Refusal> {
    let key = key(&call.params)?;
    // There is no variant for a tag, and the formal content must stay.
    if call.params.get("tag").is_none() {
        config_calls::remove(state, time, &key);
    }
    Ok(true.into())
}

/// `search=blur` (the default) takes patterns with `*`, any other the names themselves.
fn list(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let page = Page::asked(params)?;
    if ["appName", "configTags"]
        .iter()
        .any(|name| params.get(name).is_some())
    {
        return Err(Refusal::NotOffered(
            "applications and tags of configurations",
        ));
    }
    // The original looks at names unless the word itself is there.
    if params.get("search") != Some("blur") {
        forms::check_plain("dataId", 256, params.untrimmed("dataId"))?;
    }
    let blur = params.get("search").is_none_or(|search| search == "blur");
    let fits = |wanted: Option<&str>, text: &str| {
        wanted.is_none_or(|wanted| {
            if blur {
                matches(wanted, text)
            } else {
                wanted == text
            }
        })
    };
    let (data_id, group) = (params.get("dataId"), params.get("groupName"));
    let (detail, types) = (params.get("configDetail"), params.get("type"));
    let all: Vec<_> = state
        .configs
        .of(tenant(params))
        .filter(|(key, _)| fits(data_id, &key.data_id) && fits(group, &key.group))
        .filter(|(_, config)| {
            types.is_none_or(|types| types.split(',').any(|kind| kind == config.kind))
        })
        .filter(|(_, config)| detail.is_none_or(|wanted| matches(wanted, &content(config))))
        .collect();
    let count = all.len();
    let items = page.of(all).map(|(key, config)| basic(key, config).into());
    Ok(page.answer(count, page.needed(count), items.collect()))
}

/// Whether a text is what a pattern says, in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_anything_and_nothing_else_does() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("*", "abc"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "ac"),
            ("*b*", "abc"),
            ("a**c", "abbc"),
            ("*ab*ab", "abxab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "ab"),
            ("", "a"),
            ("a*", "ba"),
            ("a*a", "a"),
            ("*ab*ab", "ab"),
            ("a_c", "abc"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
