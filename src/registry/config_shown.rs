//! What configurations and their history look like to operators and their tools, in each generation and version of the interface.
//!
//! The original has no time of creation to show: where it shows one, it shows the last change; a record was always created on one
//! day of 2010, and the operation is padded to the width of its column.

use crate::dates;
use crate::nacos::model::PUBLIC;
use crate::registry::history::History;
use crate::registry::history::Of;
use crate::registry::history::Op;
use crate::registry::history::Record;
use crate::registry::like::Like;
use crate::registry::model::Config;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::model::Variant;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// When every record was created.
const CREATED: &str = "2010-05-05T00:00:00.000+00:00";
const CREATED_MS: i64 = 1_273_017_600_000;

pub(crate) fn content(config: &Config) -> Cow<'_, str> {
    String::from_utf8_lossy(&config.content)
}

fn tags(config: &Config) -> Value {
    if config.tags.is_empty() {
        Value::Null
    } else {
        config.tags.join(",").into()
    }
}

/// The namespace as v3 names it.
fn namespace(key: &ConfigKey) -> &str {
    if key.tenant.is_empty() {
        PUBLIC
    } else {
        &key.tenant
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let own = |(name, value): (&str, Value)| (name.to_owned(), value);
    fields.into_iter().map(own).collect()
}

/// What v1 and v2 say of every configuration.
fn base(like: Like, id: u64, key: &ConfigKey, config: &Config) -> Map<String, Value> {
    let mut base = object([
        ("id", id.to_string().into()),
        ("dataId", key.data_id.as_str().into()),
        ("group", key.group.as_str().into()),
        ("content", content(config).into()),
        ("md5", Value::Null),
        ("tenant", key.tenant.as_str().into()),
        ("appName", config.app_name.as_str().into()),
        ("type", config.kind.into()),
    ]);
    if like.manners().encrypted_data_key {
        base.insert("encryptedDataKey".to_owned(), Value::Null);
    }
    base
}

/// How a search found what it found, which decides about two fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) blur: bool,
    pub(crate) by_tags: bool,
}

impl Found {
    /// Whether the type is known: not to a search by tags and words, nor to one by patterns on 1.4.
    fn has_kind(self, like: Like) -> bool {
        if self.blur {
            like != Like::V1_4
        } else {
            !self.by_tags
        }
    }
}

/// One of those that a search of v1 or v2 found.
pub(crate) fn item(like: Like, found: Found, key: &ConfigKey, config: &Config) -> Value {
    let mut item = base(like, config.id, key, config);
    if !found.has_kind(like) {
        item.insert("type".to_owned(), Value::Null);
    }
    if found.blur && !found.by_tags && like.manners().encrypted_data_key {
        let data_key = config.encrypted_data_key.as_str().into();
        item.insert("encryptedDataKey".to_owned(), data_key);
    }
    item.into()
}

/// `catalog` of v1: all but the content.
pub(crate) fn advance(config: &Config) -> Map<String, Value> {
    let words = &config.words;
    object([
        ("createTime", dates::millis(config.modified).into()),
        ("modifyTime", dates::millis(config.modified).into()),
        ("createUser", config.by.user.clone().into()),
        ("createIp", config.by.ip.as_str().into()),
        ("desc", words.desc.clone().into()),
        ("use", words.usage.clone().into()),
        ("effect", words.effect.clone().into()),
        ("type", config.kind.into()),
        ("schema", words.schema.clone().into()),
        ("configTags", tags(config)),
    ])
}

/// `show=all` of v1.
pub(crate) fn all(like: Like, key: &ConfigKey, config: &Config) -> Value {
    let mut all = base(like, config.id, key, config);
    all.extend(advance(config));
    all.insert("md5".to_owned(), config.md5.as_str().into());
    if like.manners().encrypted_data_key {
        let data_key = config.encrypted_data_key.as_str().into();
        all.insert("encryptedDataKey".to_owned(), data_key);
    }
    all.into()
}

/// `beta=true` of v1.
pub(crate) fn beta(like: Like, key: &ConfigKey, variant: &Variant) -> Value {
    let config = &variant.config;
    let mut beta = base(like, config.id, key, config);
    beta.insert("type".to_owned(), Value::Null);
    if like != Like::V1_4 {
        beta.insert("md5".to_owned(), config.md5.as_str().into());
    }
    beta.insert("betaIps".to_owned(), variant.ips.as_str().into());
    beta.into()
}

/// `history/configs` of v1 and v2: the names in a namespace.
pub(crate) fn name(like: Like, key: &ConfigKey, config: &Config) -> Value {
    let mut name = base(like, 0, key, config);
    name.insert("content".to_owned(), Value::Null);
    let modified = dates::millis(config.modified).into();
    name.insert("lastModified".to_owned(), modified);
    name.into()
}

fn gray_name(of: &Of) -> String {
    match of {
        Of::Formal => String::new(),
        Of::Variant(gray, _) => gray.name(),
    }
}

fn publish_type(of: &Of) -> &'static str {
    match of {
        Of::Formal => "formal",
        Of::Variant(..) => "gray",
    }
}

/// The rule of a variant: type, expression, and priority.
fn rule<'a>(gray: &'a Gray, ips: &'a str) -> (&'static str, &'a str, i64) {
    match gray {
        Gray::Beta => ("beta", ips, i64::from(i32::MAX)),
        Gray::Tag(tag) => ("tag", tag, i64::from(i32::MAX) - 1),
    }
}

/// A JSON object as text, its fields in this order, those without value left out.
fn text(fields: &[(&str, Option<&str>)]) -> String {
    let mut text = String::from("{");
    for (name, value) in fields {
        let Some(value) = value.filter(|value| !value.trim().is_empty()) else {
            continue;
        };
        if text.len() > 1 {
            text.push(',');
        }
        text.extend([
            &Value::from(*name).to_string(),
            ":",
            &Value::from(value).to_string(),
        ]);
    }
    text.push('}');
    text
}

/// What a record says besides, as text.
fn ext_info(record: &Record) -> String {
    let config = &record.config;
    let (words, user) = (&config.words, config.by.user.as_deref());
    let tags = config.tags.join(",");
    match &record.of {
        Of::Variant(gray, ips) => {
            let (kind, expr, priority) = rule(gray, ips);
            let rule = text(&[
                ("type", Some(kind)),
                ("expr", Some(expr)),
                ("version", Some("1.0.0")),
                ("priority", Some(&priority.to_string())),
            ]);
            text(&[
                ("gray_name", Some(&gray.name())),
                ("src_user", user),
                ("gray_rule", Some(&rule)),
            ])
        }
        Of::Formal => {
            let (kind, tags) = (("type", Some(config.kind)), ("config_tags", Some(&*tags)));
            let (user, effect) = (("src_user", user), ("effect", words.effect.as_deref()));
            let desc = ("c_desc", words.desc.as_deref());
            let usage = ("c_use", words.usage.as_deref());
            let schema = ("c_schema", words.schema.as_deref());
            match record.op {
                Op::Insert => text(&[user, schema, usage, effect, kind, tags, desc]),
                Op::Update | Op::Delete => text(&[kind, tags, effect, user, desc, usage, schema]),
            }
        }
    }
}

/// A record of v1 and v2; a list shows no contents.
pub(crate) fn record(like: Like, id: u64, record: &Record, whole: bool) -> Value {
    let config = &record.config;
    let shown = |value: Value| if whole { value } else { Value::Null };
    let key = &record.key;
    let mut row = object([
        ("id", id.to_string().into()),
        ("lastId", (-1).into()),
        ("dataId", key.data_id.as_str().into()),
        ("group", key.group.as_str().into()),
        ("tenant", key.tenant.as_str().into()),
        ("appName", config.app_name.as_str().into()),
        ("md5", shown(config.md5.as_str().into())),
        ("content", shown(content(config).into())),
        ("srcIp", record.by.ip.as_str().into()),
        ("srcUser", record.by.user.clone().into()),
        ("opType", format!("{:10}", record.op.letter()).into()),
        ("createdTime", CREATED.into()),
        ("lastModifiedTime", dates::iso(record.at).into()),
    ]);
    if like != Like::V1_4 {
        let data_key = shown(config.encrypted_data_key.as_str().into());
        row.extend(object([
            ("publishType", publish_type(&record.of).into()),
            ("grayName", gray_name(&record.of).into()),
            ("extInfo", ext_info(record).into()),
            ("encryptedDataKey", data_key),
        ]));
    }
    row.into()
}

/// What a record led from and to, of v2; `now` is the content that is there today, which the last update led to.
pub(crate) fn detail(history: &History, id: u64, record: &Record, now: Option<&Config>) -> Value {
    let key = &record.key;
    let mut detail = object([
        ("id", id.into()),
        ("lastId", (-1).into()),
        ("dataId", key.data_id.as_str().into()),
        ("group", key.group.as_str().into()),
        ("tenant", key.tenant.as_str().into()),
        ("opType", record.op.letter().into()),
        ("publishType", publish_type(&record.of).into()),
        ("grayName", gray_name(&record.of).into()),
        ("appName", record.config.app_name.as_str().into()),
        ("srcIp", record.by.ip.as_str().into()),
        ("srcUser", record.by.user.clone().into()),
        ("createdTime", CREATED.into()),
        ("lastModifiedTime", dates::iso(record.at).into()),
    ]);
    let parts = |config: &Config| {
        [
            Value::from(config.md5.as_str()),
            content(config).into(),
            config.encrypted_data_key.as_str().into(),
        ]
    };
    let mut was = [Value::Null, Value::Null, Value::Null, Value::Null];
    let mut is = was.clone();
    let fill = |into: &mut [Value; 4], config: &Config, info: Value| {
        let [md5, content, data_key] = parts(config);
        *into = [md5, content, data_key, info];
    };
    match record.op {
        Op::Insert => {
            was = ["", "", "", ""].map(Value::from);
            fill(&mut is, &record.config, ext_info(record).into());
        }
        Op::Update => {
            fill(&mut was, &record.config, ext_info(record).into());
            match (history.next(id), now) {
                (Some(next), _) => fill(&mut is, &next.config, ext_info(next).into()),
                (None, Some(now)) => fill(&mut is, now, Value::Null),
                (None, None) => {}
            }
        }
        Op::Delete => fill(&mut was, &record.config, ext_info(record).into()),
    }
    let [md5, content, data_key, info] = was;
    detail.extend(object([
        ("originalMd5", md5),
        ("originalContent", content),
        ("originalEncryptedDataKey", data_key),
        ("originalExtInfo", info),
    ]));
    let [md5, content, data_key, info] = is;
    detail.extend(object([
        ("updatedMd5", md5),
        ("updatedContent", content),
        ("updatedEncryptedDataKey", data_key),
        ("updateExtInfo", info),
    ]));
    detail.into()
}

/// What v3 says of every configuration; when it was written is in the detail alone.
pub(crate) fn basic(id: u64, key: &ConfigKey, config: &Config) -> Map<String, Value> {
    object([
        ("id", id.to_string().into()),
        ("namespaceId", namespace(key).into()),
        ("groupName", key.group.as_str().into()),
        ("dataId", key.data_id.as_str().into()),
        ("md5", config.md5.as_str().into()),
        ("type", config.kind.into()),
        ("appName", config.app_name.as_str().into()),
        ("createTime", 0.into()),
        ("modifyTime", 0.into()),
    ])
}

/// One of those that a list of v3 found.
pub(crate) fn listed(found: Found, key: &ConfigKey, config: &Config) -> Value {
    let mut item = basic(config.id, key, config);
    if found.by_tags {
        item.insert("md5".to_owned(), Value::Null);
    }
    if !found.has_kind(Like::V3_0) {
        item.insert("type".to_owned(), Value::Null);
    }
    item.into()
}

/// A configuration of v3.
pub(crate) fn whole(key: &ConfigKey, config: &Config) -> Value {
    let mut detail = basic(config.id, key, config);
    detail.extend(object([
        ("createTime", dates::millis(config.modified).into()),
        ("modifyTime", dates::millis(config.modified).into()),
        ("content", content(config).into()),
        ("desc", config.words.desc.clone().into()),
        (
            "encryptedDataKey",
            config.encrypted_data_key.as_str().into(),
        ),
        ("createUser", config.by.user.clone().into()),
        ("createIp", config.by.ip.as_str().into()),
        ("configTags", tags(config)),
    ]));
    detail.into()
}

/// A beta of v3.
pub(crate) fn gray(key: &ConfigKey, gray: &Gray, variant: &Variant) -> Value {
    let config = &variant.config;
    let (kind, expr, priority) = rule(gray, &variant.ips);
    let expr = Value::from(expr);
    let rule =
        format!(r#"{{"type":"{kind}","version":"1.0.0","expr":{expr},"priority":{priority}}}"#);
    let mut detail = basic(config.id, key, config);
    detail.extend(object([
        ("type", Value::Null),
        ("modifyTime", dates::millis(config.modified).into()),
        ("content", content(config).into()),
        ("desc", Value::Null),
        ("encryptedDataKey", Value::Null),
        ("createUser", config.by.user.clone().into()),
        ("createIp", Value::Null),
        ("configTags", Value::Null),
        ("grayName", gray.name().into()),
        ("grayRule", rule.into()),
    ]));
    detail.into()
}

/// `history/configs` of v3.
pub(crate) fn named(key: &ConfigKey, config: &Config) -> Value {
    let mut name = basic(0, key, config);
    name.insert("md5".to_owned(), Value::Null);
    let modified = dates::millis(config.modified).into();
    name.insert("modifyTime".to_owned(), modified);
    name.into()
}

/// A record of v3; a list shows no contents.
pub(crate) fn past(id: u64, record: &Record, whole: bool) -> Value {
    let config = &record.config;
    let mut row = basic(id, &record.key, config);
    row.extend(object([
        ("type", Value::Null),
        ("createTime", CREATED_MS.into()),
        ("modifyTime", dates::millis(record.at).into()),
        ("srcIp", record.by.ip.as_str().into()),
        ("srcUser", record.by.user.clone().into()),
        ("opType", format!("{:10}", record.op.letter()).into()),
        ("publishType", publish_type(&record.of).into()),
    ]));
    if whole {
        row.extend(object([
            ("content", content(config).into()),
            (
                "encryptedDataKey",
                config.encrypted_data_key.as_str().into(),
            ),
            ("grayName", gray_name(&record.of).into()),
            ("extInfo", ext_info(record).into()),
        ]));
    } else {
        row.insert("md5".to_owned(), Value::Null);
    }
    row.into()
}
