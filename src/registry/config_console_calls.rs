//! The calls of `/v1/cs` that the console and operators' scripts make: searching, all parts of a configuration, betas, history, and
//! who listens. They see what is stored, not what readers see yet. 3.0.3 has none of them.

use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::config_calls;
use crate::registry::config_shown;
use crate::registry::config_shown::Found;
use crate::registry::forms::Params;
use crate::registry::gone;
use crate::registry::history::Of;
use crate::registry::history::Record;
use crate::registry::like::Like;
use crate::registry::model::Config;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::model::Time;
use crate::registry::refusal::CONFIG;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Map, Value, json};

/// Bytes of the contents on one page of a search at most.
const PAGE: usize = 32 * 1024 * 1024;
/// Records on one page of a history at most, as in the original.
pub(crate) const RECORDS: usize = 500;

type Run = fn(&mut State, Time, &Call) -> Result<Answer, Refusal>;

/// What there is: method, route with the parameter that makes it another call, since which generation, and what carries it out.
const CALLS: &[(&str, &str, Run)] = &[
    ("GET", "/v1/cs/configs?search=accurate", |state, _, call| {
        search(state, call, "accurate", None)
    }),
    ("GET", "/v1/cs/configs?search=blur", |state, _, call| {
        search(state, call, "blur", None)
    }),
    ("GET", "/v1/cs/configs?show=all", show),
    ("GET", "/v1/cs/configs?beta=true", beta),
    ("DELETE", "/v1/cs/configs?beta=true", stop_beta),
    ("DELETE", "/v1/cs/configs?delType=ids", delete_ids),
    ("GET", "/v1/cs/configs/catalog", catalog),
    ("GET", "/v1/cs/configs/listener", listeners),
    ("GET", "/v1/cs/listener", listened),
    ("GET", "/v1/cs/history?search=accurate", history),
    ("GET", "/v1/cs/history", past),
    ("GET", "/v1/cs/history/previous", previous),
    ("GET", "/v1/cs/history/configs", names),
    ("GET", "/v1/cs/health", |_, _, _| Ok(Answer::text("UP"))),
];

/// Parameters that make another call of the same path.
const APART: &[(&str, &str)] = &[
    ("search", "accurate"),
    ("search", "blur"),
    ("show", "all"),
    ("beta", "true"),
    ("delType", "ids"),
];

/// Answers a call, if it is one of these.
pub(crate) fn answer(
    state: &mut State,
    time: Time,
    call: &Call,
) -> Option<Result<Answer, Refusal>> {
    let (method, route) = (call.method.as_str(), call.route.as_str());
    let apart = APART.iter().filter_map(|(name, value)| {
        let said = call.params.raw(name)? == *value;
        said.then(|| format!("{route}?{name}={value}"))
    });
    let routes: Vec<String> = apart.chain([route.to_owned()]).collect();
    for route in &routes {
        if let Some(message) = gone::gone(state.like, method, route) {
            return Some(Err(Refusal::Gone(message)));
        }
    }
    let (.., run) = routes.iter().find_map(|route| {
        let mut calls = CALLS.iter();
        calls.find(|call| (call.0, call.1) == (method, route.as_str()))
    })?;
    // Not there yet, or not any more.
    if state.like == Like::V1_4 && route == "/v1/cs/history/configs" || state.like == Like::V3_0 {
        return None;
    }
    // The parameter check leaves alone who searches by patterns.
    let checked = state.like.manners().parameter_check && call.params.raw("search") != Some("blur");
    Some(
        if checked {
            call.params.check_config("tenant", "group")
        } else {
            Ok(())
        }
        .and_then(|()| run(state, time, call)),
    )
}

fn json(value: &impl serde::Serialize) -> Answer {
    Answer {
        content_type: Some(CONFIG),
        ..Answer::json(value)
    }
}

/// What is not there is said by an empty body.
fn nothing() -> Answer {
    Answer {
        content_type: Some(CONFIG),
        ..Answer::text("")
    }
}

/// `RestResult`.
fn rest(message: Option<&str>, data: impl Into<Value>) -> Answer {
    json(&json!({"code": 200, "message": message, "data": data.into()}))
}

/// Which configuration is meant, the tenant as it is said.
fn key(like: Like, params: &Params) -> Result<ConfigKey, Refusal> {
    config_calls::key(like, params, false)
}

/// A whole number that must be there.
fn number(params: &Params, name: &'static str, kind: &'static str) -> Result<i64, Refusal> {
    let text = params.parameter(name)?;
    let number = text.trim().parse();
    number.map_err(|_| Refusal::NotConverted(name, text.to_owned(), kind))
}

/// An id.
pub(crate) fn id(params: &Params, name: &'static str) -> Result<u64, Refusal> {
    let id = number(params, name, "java.lang.Long")?;
    // No id is below zero, so nothing has such a one.
    Ok(u64::try_from(id).unwrap_or(0))
}

/// The page that is asked for; of a search, what is searched for is said with a no.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    number: usize,
    size: usize,
}

impl Page {
    /// Both numbers must be above zero.
    pub(crate) fn new(number: i64, size: i64) -> Result<Self, Refusal> {
        let positive = |number| usize::try_from(number).ok().filter(|number| *number > 0);
        match (positive(number), positive(size)) {
            (Some(number), Some(size)) => Ok(Self { number, size }),
            _ => Err(Refusal::Pages(None)),
        }
    }

    /// The answer: that page of `all`, each thing as `show` shows it.
    pub(crate) fn of<T>(self, all: Vec<T>, show: impl Fn(T) -> Value) -> Value {
        let (count, before) = (all.len(), (self.number - 1).saturating_mul(self.size));
        let items = all.into_iter().skip(before).take(self.size);
        json!({
            "totalCount": count,
            "pageNumber": self.number,
            "pagesAvailable": count.div_ceil(self.size),
            "pageItems": items.map(show).collect::<Vec<_>>(),
        })
    }
}

/// What is searched for.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) blur: bool,
    pub(crate) tenant: &'a str,
    pub(crate) data_id: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
    pub(crate) app_name: Option<&'a str>,
    /// Any of these.
    pub(crate) tags: Option<&'a str>,
    /// Any of these.
    pub(crate) types: Option<&'a str>,
    pub(crate) content: Option<&'a str>,
}

impl Wanted<'_> {
    pub(crate) fn found(&self) -> Found {
        Found {
            blur: self.blur,
            by_tags: self.tags.is_some(),
        }
    }

    /// All that fit, in the order in which they were first published.
    pub(crate) fn find<'s>(&self, state: &'s State) -> Vec<(&'s ConfigKey, &'s Config)> {
        let name = |wanted: Option<&str>, text: &str| {
            wanted.is_none_or(|wanted| {
                if self.blur {
                    is_like(wanted, text)
                } else {
                    wanted == text
                }
            })
        };
        // A letter of a namespace stands for itself alone: who has rights in one has them in no other.
        let tenant = |text: &str| {
            if self.blur && self.tenant.contains('*') {
                is_like(self.tenant, text)
            } else {
                self.tenant == text
            }
        };
        let any = |wanted: Option<&str>, fits: &dyn Fn(&str) -> bool| {
            wanted.is_none_or(|wanted| wanted.split(',').any(fits))
        };
        let content = |config: &Config| {
            self.content.is_none_or(|wanted| {
                let content = config_shown::content(config);
                if self.blur {
                    holds(wanted, &content)
                } else {
                    wanted == content
                }
            })
        };
        let fits = |(key, config): &(&ConfigKey, &Config)| {
            tenant(&key.tenant)
                && name(self.data_id, &key.data_id)
                && name(self.group, &key.group)
                && self.app_name.is_none_or(|app| app == config.app_name)
                && any(self.tags, &|tag| config.tags.iter().any(|is| is == tag))
                && any(self.types, &|kind| config.kind == kind)
                && content(config)
        };
        let mut found: Vec<_> = state.configs.all().filter(fits).collect();
        found.sort_by_key(|(_, config)| config.id);
        found
    }
}

/// Whether a name is what a pattern says: `*` and `%` stand for anything, `_` for any one letter.
pub(crate) fn is_like(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut pattern: Vec<char> = pattern.chars().collect();
    let anything = |letter: &char| matches!(letter, '*' | '%');
    // Neither many stars nor a long pattern make work.
    pattern.dedup_by(|one, another| anything(one) && anything(another));
    if pattern.iter().filter(|letter| !anything(letter)).count() > text.len() {
        return false;
    }
    // Which beginnings of the text fit what has been read of the pattern.
    let mut fits = vec![false; text.len() + 1];
    if let Some(first) = fits.first_mut() {
        *first = true;
    }
    for wanted in pattern {
        if anything(&wanted) {
            let mut any = false;
            for fit in &mut fits {
                any |= *fit;
                *fit = any;
            }
        } else {
            let before = fits.clone();
            let letters = before.iter().zip(&text);
            let after = letters.map(|(fit, letter)| *fit && (wanted == '_' || wanted == *letter));
            fits = std::iter::once(false).chain(after).collect();
        }
    }
    fits.last().is_some_and(|fit| *fit)
}

/// Whether a content is what a pattern says, in which `*` stands for anything.
pub(crate) fn holds(pattern: &str, text: &str) -> bool {
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

/// A search of v1, or of v2 in contents too.
pub(crate) fn search(
    state: &State,
    call: &Call,
    by: &str,
    content: Option<&str>,
) -> Result<Answer, Refusal> {
    let params = &call.params;
    let (data_id, group) = (params.parameter("dataId")?, params.parameter("group")?);
    let number = |name| number(params, name, "int");
    let page = Page::new(number("pageNo")?, number("pageSize")?)
        .map_err(|_| Refusal::Pages(Some((data_id.to_owned(), group.to_owned()))))?;
    let blur = by == "blur";
    let wanted = Wanted {
        blur,
        tenant: params.get("tenant").unwrap_or_default(),
        data_id: params.get("dataId"),
        group: params.get("group"),
        app_name: params.get("appName"),
        tags: params.get("config_tags"),
        types: (params.get("types")).filter(|_| blur && state.like != Like::V1_4),
        content,
    };
    let found = wanted.find(state);
    let before = (page.number - 1).saturating_mul(page.size);
    let shown = found.iter().skip(before).take(page.size);
    let bytes: usize = shown.map(|(_, config)| config.content.len()).sum();
    if bytes > PAGE {
        return Err(Refusal::Full("bytes of contents on one page", PAGE));
    }
    let (like, how) = (state.like, wanted.found());
    Ok(json(&page.of(found, |(key, config)| {
        config_shown::item(like, how, key, config)
    })))
}

fn show(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(state.like, &call.params)?;
    let config = state.configs.stored(&key);
    Ok(config.map_or_else(nothing, |config| {
        json(&config_shown::all(state.like, &key, config))
    }))
}

fn catalog(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(state.like, &call.params)?;
    let config = state.configs.stored(&key);
    Ok(rest(None, config.map(config_shown::advance)))
}

fn beta(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(state.like, &call.params)?;
    let variant = state.configs.variant(&key, &Gray::Beta);
    let beta = variant.map(|variant| config_shown::beta(state.like, &key, variant));
    // 1.4.8 says it in the words of the other call.
    let words = if state.like == Like::V1_4 {
        "stop beta ok"
    } else {
        "query beta ok"
    };
    Ok(rest(Some(words), beta))
}

fn stop_beta(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(state.like, &call.params)?;
    let user = call.params.raw("srcUser").unwrap_or_default();
    let by = config_calls::author(call, Some(user));
    let was = state.configs.delete_variant(time, &key, &Gray::Beta, by);
    if was || state.like == Like::V1_4 {
        return Ok(rest(Some("stop beta ok"), true));
    }
    Ok(json(
        &json!({"code": 500, "message": "remove beta data error", "data": false}),
    ))
}

/// The ids of `ids=`.
pub(crate) fn ids(text: &str) -> Result<Vec<u64>, Refusal> {
    let ids = text.split(',').filter(|id| !id.trim().is_empty());
    ids.map(|id| {
        let number: Result<u64, _> = id.trim().parse();
        number.map_err(|_| Refusal::NotConverted("ids", id.to_owned(), "java.util.List"))
    })
    .collect()
}

/// Deletes the configurations of these ids, as far as there are any.
pub(crate) fn remove_ids(state: &mut State, time: Time, call: &Call, ids: Vec<u64>) {
    for id in ids {
        if let Some(key) = state.configs.by_id(id).cloned() {
            let by = config_calls::author(call, None);
            state.configs.delete(time, &key, by);
        }
    }
}

fn delete_ids(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let ids = ids(call.params.parameter("ids")?)?;
    remove_ids(state, time, call, ids);
    Ok(rest(None, true))
}

/// Who listens to a configuration: addresses, and the MD5 that each has.
pub(crate) fn who(state: &State, key: &ConfigKey) -> Map<String, Value> {
    let polls = state.polls.watching(key);
    let polls = polls.filter_map(|poll| state.polls.reader(poll));
    let links = state.listeners.askers(key);
    let links = links.filter_map(|link| state.readers.get(&link));
    // Who is held, or was told last, has what he sees.
    let has = |reader: &_| state.configs.md5(key, reader).into();
    polls
        .chain(links)
        .map(|reader| (reader.ip.clone(), has(reader)))
        .collect()
}

/// To what an address listens, and the MD5 that it has, of the tenants that `shown` lets pass.
pub(crate) fn what(state: &State, ip: &str, shown: impl Fn(&str) -> bool) -> Map<String, Value> {
    let polls = state.polls.all().filter(|(_, reader)| reader.ip == ip);
    let polls = polls.flat_map(|(keys, reader)| keys.map(move |key| (key, reader)));
    let links = state.readers.iter().filter(|(_, reader)| reader.ip == ip);
    let links = links.flat_map(|(link, reader)| {
        let keys = state.listeners.asked(*link);
        keys.map(move |key| (key, reader))
    });
    polls
        .chain(links)
        .filter(|(key, _)| shown(&key.tenant))
        .map(|(key, reader)| {
            let mut name = format!("{}+{}", key.data_id, key.group);
            if state.like == Like::V3_0 && key.tenant.is_empty() {
                name.push_str("+public");
            } else if !key.tenant.is_empty() {
                name.extend(["+", &key.tenant]);
            }
            (name, state.configs.md5(key, reader).into())
        })
        .collect()
}

/// The answer to who listens, misspelt as it is there.
fn status(status: Map<String, Value>) -> Answer {
    json(&json!({"collectStatus": 200, "lisentersGroupkeyStatus": status}))
}

fn listeners(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(state.like, &call.params)?;
    Ok(status(who(state, &key)))
}

fn listened(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let ip = params.parameter("ip")?;
    let all = params.flag(&["all"], false);
    let wanted = params.get("tenant");
    let shown = |tenant: &str| match wanted {
        Some(wanted) if tenant.contains(wanted) => true,
        // 1.4.8 shows who names a tenant that one alone.
        Some(_) if state.like == Like::V1_4 => false,
        _ => all || tenant.is_empty(),
    };
    Ok(status(what(state, ip, shown)))
}

/// The records of a configuration, the newest first. 1.4.8 has none of variants.
pub(crate) fn records<'s>(state: &'s State, key: &ConfigKey) -> Vec<(u64, &'s Record)> {
    let all = state.configs.history().of(key);
    let formal = state.like == Like::V1_4;
    all.filter(|(_, record)| !formal || record.of == Of::Formal)
        .collect()
}

fn history(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let key = key(state.like, params)?;
    let page = history_page(params)?;
    let all = records(state, &key);
    Ok(json(&page.of(all, |(id, record)| {
        config_shown::record(state.like, id, record, false)
    })))
}

/// The page of a history that is asked for.
pub(crate) fn history_page(params: &Params) -> Result<Page, Refusal> {
    let number = |name: &'static str, default| match params.get(name) {
        Some(_) => number(params, name, "java.lang.Integer"),
        None => Ok(default),
    };
    let most = i64::try_from(RECORDS).unwrap_or(i64::MAX);
    Page::new(number("pageNo", 1)?, number("pageSize", 100)?.min(most))
}

/// A record, if it is one of that configuration.
pub(crate) fn own<'s>(
    record: Option<(u64, &'s Record)>,
    key: &ConfigKey,
) -> Result<Option<(u64, &'s Record)>, Refusal> {
    match record {
        Some((_, record)) if record.key != *key => Err(Refusal::OtherConfig),
        record => Ok(record),
    }
}

/// A record by its number.
pub(crate) fn by_number(state: &State, nid: u64) -> Option<(u64, &Record)> {
    let record = state.configs.history().get(nid)?;
    Some((nid, record))
}

fn one(state: &State, record: Option<(u64, &Record)>) -> Answer {
    record.map_or_else(nothing, |(id, record)| {
        json(&config_shown::record(state.like, id, record, true))
    })
}

fn past(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(state.like, &call.params)?;
    let nid = id(&call.params, "nid")?;
    Ok(one(state, own(by_number(state, nid), &key)?))
}

/// What was there before the last change of the configuration with that id.
fn previous(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let key = key(state.like, &call.params)?;
    let id = id(&call.params, "id")?;
    let previous = state.configs.history().previous(id);
    Ok(one(state, own(previous, &key)?))
}

fn names(state: &mut State, _: Time, call: &Call) -> Result<Answer, Refusal> {
    let tenant = call.params.parameter("tenant")?;
    let tenant = config_calls::tenant_of(tenant.trim(), true);
    let mut all: Vec<_> = state.configs.of(tenant).collect();
    all.sort_by_key(|(_, config)| config.id);
    let name = |(key, config): (&ConfigKey, &Config)| config_shown::name(state.like, key, config);
    Ok(json(&all.into_iter().map(name).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_an_underscore_for_one_letter() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abbc"),
            ("*b*", "abc"),
            ("a%c", "abc"),
            ("app_*", "app-a"),
            ("_", "ü"),
            ("*a*a", "aaa"),
        ] {
            assert!(is_like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "ab"),
            ("A*", "ab"),
            ("_", ""),
            ("a*c", "abd"),
            ("", "a"),
        ] {
            assert!(!is_like(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn contents_are_searched_for_words_between_stars() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("a*", "ab"),
            ("*b*", "abc"),
            ("a*b*c", "axbxc"),
        ] {
            assert!(holds(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a_", "ab"), ("a*b", "a"), ("aa*a", "aa")] {
            assert!(!holds(pattern, text), "{pattern} {text}");
        }
    }
}
