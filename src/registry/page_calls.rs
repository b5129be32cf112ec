//! The page for people, and what it shows: one file of HTML, style and script, and one call that tells it all of what it looks at.
//!
//! `GET /outrigger/page` answers with one view (`show`): a list by the page, or one service or configuration whole. It says the
//! number of what happened last; who asks with it (`seen`) is held until something happens (`page_wait`). It shows the truth, not
//! what readers see yet, and changes nothing: the page writes through Nacos' own calls, as everybody does.
//!
//! The page may run only the script and the style that it was built with: the policy names both by their SHA-256, and a test
//! holds the hashes to the file.

use crate::dates;
use crate::machine::Moment;
use crate::nacos::model::DEFAULT_GROUP;
use crate::nacos::model::Namespace;
use crate::nacos::model::PUBLIC;
use crate::nacos::model::ServiceKey;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::history;
use crate::registry::like::Like;
use crate::registry::model::ConfigKey;
use crate::registry::model::Time;
use crate::registry::naming::Glance;
use crate::registry::naming::Place;
use crate::registry::naming::Record;
use crate::registry::page_wait;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, time::Duration};

/// Where its data are.
const DATA: &str = "/outrigger/page";
/// Where the page is: where one looks first, and where tools open the original's console.
const PAGES: [&str; 4] = ["/", "/nacos", "/nacos/", "/nacos/index.html"];
/// Rows of a list in one answer at most.
const ROWS: usize = 200;
/// Bytes of the rows in one answer at most: one instance may have 64 KiB of metadata.
const ROW_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of a content that is shown.
const SHOWN: usize = 1024 * 1024;
/// Records of the history of a configuration that are named at most.
const RECORDS: usize = 50;
/// Namespaces, and subscribers of a service, that are named at most.
const NAMED: usize = 200;

const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script, ask its own server, and nothing else.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-FizJ97XqsIg16HT/XTi5Pb8qn5PqSqfdlTFU+TyFQkE='; \
    style-src 'sha256-S4cjw07JWG1qjR4n/kWmGavtxWvx48ES92DD5ARJXss='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What came of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is answered.
    Answer(Answer),
    /// It is a page's, who is shown what is when [`PageWait`](page_wait::PageWait) says so.
    Look {
        /// The number that it has seen.
        seen: Option<u64>,
        /// How long it may be held.
        hold: Duration,
    },
}

/// Whether this path is the page's, or that of its data.
pub(crate) fn is_here(path: &str) -> bool {
    path == DATA || PAGES.contains(&path)
}

/// Whose things a request for data shows.
#[derive(Debug)]
pub(crate) enum Sees<'a> {
    /// Those in a namespace.
    Namespace(&'a str),
    /// Those of all clients.
    Everybody,
}

/// What a call would show; `None` when it is not for the page's data.
pub(crate) fn sees(call: &Call) -> Option<Sees<'_>> {
    (call.path == DATA).then(|| match call.params.get("show") {
        Some("connections") => Sees::Everybody,
        _ => Sees::Namespace(call.params.get("namespace").unwrap_or_default()),
    })
}

/// Whether a request may change what a page shows.
pub(crate) fn is_news(call: &Call) -> bool {
    !matches!(call.method.as_str(), "GET" | "HEAD") && call.route != "/v1/cs/configs/listener"
}

/// Answers a call whose path [`is_here`].
pub(crate) fn answer(call: &Call) -> Result<Outcome, Refusal> {
    if !matches!(call.method.as_str(), "GET" | "HEAD") {
        return Err(Refusal::Method(call.method.clone()));
    }
    if call.path != DATA {
        return Ok(Outcome::Answer(page()));
    }
    let seen = call.params.get("seen").map(|seen| {
        let number = seen.parse();
        number.map_err(|_| Refusal::NotANumber(seen.to_owned()))
    });
    let hold = call.params.number("hold")?.map(u64::try_from);
    Ok(Outcome::Look {
        seen: seen.transpose()?,
        // A negative time is none.
        hold: hold.map_or(page_wait::HOLD, |millis| {
            Duration::from_millis(millis.unwrap_or(0))
        }),
    })
}

fn page() -> Answer {
    Answer {
        content_type: Some("text/html;charset=UTF-8"),
        headers: [("Content-Security-Policy", POLICY)]
            .into_iter()
            .chain(PRIVATE)
            .map(|(name, value)| (name, value.to_owned()))
            .collect(),
        ..Answer::text(PAGE)
    }
}

/// Nothing of this is kept by anybody, framed, or told to where a link leads.
const PRIVATE: [(&str, &str); 4] = [
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
];

/// Draws what a page looks at.
pub(crate) fn show(state: &State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let asked = Asked::read(call)?;
    let view = match call.params.get("show").unwrap_or("services") {
        "services" => services(state, &asked),
        "service" => service(state, time, call, &asked)?,
        "configs" => configs(state, &asked),
        "config" => config(state, call, &asked)?,
        "record" => record(state, call, &asked)?,
        "connections" => connections(state, time, &asked),
        other => return Err(Refusal::NotThere(format!("the page has no view '{other}'"))),
    };
    let mut answer = Answer::json(&json!({
        "number": state.pages.number(),
        "now": dates::millis(time.at),
        "registry": {
            "version": state.like.manners().version,
            "like": match state.like {
                Like::V1_4 => "1.4",
                Like::V2_5 => "2.5",
                Like::V3_0 => "3.0",
            },
            "compares": state.like.manners().cas == crate::registry::like::Cas::Refused,
        },
        "counts": {
            "services": state.naming.of(&asked.namespace).count(),
            "configs": state.configs.count(asked.tenant()),
            "connections": state.links.all().count(),
        },
        "namespaces": namespaces(state),
        "view": view,
    }));
    let private = PRIVATE.map(|(name, value)| (name, value.to_owned()));
    answer.headers.extend(private);
    Ok(answer)
}

/// What every view is asked for.
struct Asked {
    namespace: Namespace,
    /// In lower case.
    find: String,
    /// How many rows to leave out.
    from: usize,
    /// Only services that have an unhealthy instance, and such instances.
    unhealthy: bool,
}

impl Asked {
    fn read(call: &Call) -> Result<Self, Refusal> {
        let params = &call.params;
        Ok(Self {
            namespace: Namespace::new(params.get("namespace").unwrap_or_default()),
            find: params.get("find").unwrap_or_default().to_lowercase(),
            from: params.positive("page", 1)?.saturating_sub(1) * ROWS,
            unhealthy: params.flag(&["unhealthy"], false),
        })
    }

    fn finds<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> bool {
        let mut texts = texts.into_iter();
        self.find.is_empty() || texts.any(|text| text.to_lowercase().contains(&self.find))
    }

    fn tenant(&self) -> &str {
        if self.namespace.is_public() {
            ""
        } else {
            self.namespace.naming_id()
        }
    }

    /// A list: the page that is asked for, of all there are.
    fn list<T>(&self, all: &[T], row: impl FnMut(&T) -> Value) -> Map<String, Value> {
        let mut bytes = 0;
        let rows: Vec<Value> = all
            .iter()
            .skip(self.from)
            .take(ROWS)
            .map(row)
            .take_while(|row| {
                let fits = bytes < ROW_BYTES;
                bytes += row.to_string().len();
                fits
            })
            .collect();
        [
            ("total", all.len().into()),
            ("from", self.from.into()),
            ("page", ROWS.into()),
            ("rows", rows.into()),
        ]
        .map(|(name, value): (&str, Value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }
}

fn namespaces(state: &State) -> Vec<&str> {
    let naming = state.naming.namespaces().into_iter();
    let tenants = state.configs.tenants().into_iter();
    let all: BTreeSet<&str> = naming
        .map(Namespace::naming_id)
        .chain(tenants.map(|tenant| if tenant.is_empty() { PUBLIC } else { tenant }))
        .chain([PUBLIC])
        .collect();
    all.into_iter().take(NAMED).collect()
}

fn services(state: &State, asked: &Asked) -> Value {
    let all: Vec<(&ServiceKey, Glance)> = state
        .naming
        .of(&asked.namespace)
        .filter(|key| asked.finds([&*key.name, &*key.group]))
        .filter_map(|key| Some((key, state.naming.glance(key)?)))
        .filter(|(_, glance)| !asked.unhealthy || glance.healthy < glance.instances)
        .collect();
    let ill: usize = all
        .iter()
        .map(|(_, glance)| glance.instances - glance.healthy)
        .sum();
    let instances: usize = all.iter().map(|(_, glance)| glance.instances).sum();
    let mut list = asked.list(&all, |(key, glance)| {
        json!({
            "name": &*key.name,
            "group": &*key.group,
            "instances": glance.instances,
            "healthy": glance.healthy,
            "persistent": glance.persistent,
            "subscribers": state.subscribers.askers(key).count() + state.udp.of(key).count(),
        })
    });
    list.insert("instances".to_owned(), instances.into());
    list.insert("unhealthy".to_owned(), ill.into());
    list.into()
}

fn service(state: &State, time: Time, call: &Call, asked: &Asked) -> Result<Value, Refusal> {
    let key = ServiceKey {
        namespace: asked.namespace.clone(),
        group: call
            .params
            .untrimmed("group")
            .unwrap_or(DEFAULT_GROUP)
            .into(),
        name: call
            .params
            .untrimmed("service")
            .ok_or(Refusal::Required("service"))?
            .into(),
    };
    let found = |place: &Place, record: &Record| {
        let port = place.address.port.to_string();
        let pairs = record.metadata.iter().flat_map(|(name, value)| {
            let value = value.as_ref().map(|value| value.raw());
            [Some(name.raw()), value].into_iter().flatten()
        });
        (!asked.unhealthy || !record.healthy)
            && asked.finds(
                [&*place.address.ip, &*port, &*record.cluster]
                    .into_iter()
                    .chain(pairs),
            )
    };
    let all: Vec<(&Place, Record)> = state
        .naming
        .placed(&key)
        .filter(|(place, record)| found(place, record))
        .collect();
    let mut view = asked.list(&all, |(place, record)| {
        let beat = (!record.persistent && place.owner().is_none())
            .then(|| state.beats.last(&(key.clone(), (*place).clone())))
            .flatten();
        json!({
            "ip": &*place.address.ip,
            "port": place.address.port,
            "cluster": &*record.cluster,
            "weight": record.weight,
            "healthy": record.healthy,
            "enabled": record.enabled,
            "ephemeral": !record.persistent,
            "metadata": record.metadata,
            "beat": beat.map(|beat| millis(time, beat)),
            "connection": place.owner().and_then(|link| state.links.id(link)),
        })
    });
    let glance = state.naming.glance(&key);
    let over_grpc = state.subscribers.askers(&key);
    let over_grpc = over_grpc.filter_map(|link| state.links.id(link).map(str::to_owned));
    let over_udp = state.udp.of(&key).map(|(peer, _)| format!("{peer} (UDP)"));
    let subscribers: Vec<String> = over_grpc.chain(over_udp).take(NAMED).collect();
    for (name, value) in [
        ("name", Value::from(&*key.name)),
        ("group", Value::from(&*key.group)),
        ("known", glance.is_some().into()),
        ("subscribers", subscribers.into()),
    ] {
        view.insert(name.to_owned(), value);
    }
    if let Some(glance) = glance {
        view.insert("instances".to_owned(), glance.instances.into());
        view.insert("healthy".to_owned(), glance.healthy.into());
        view.insert("threshold".to_owned(), glance.threshold.into());
    }
    Ok(view.into())
}

fn millis(time: Time, moment: Moment) -> i64 {
    dates::millis(time.wall(moment))
}

fn configs(state: &State, asked: &Asked) -> Value {
    let all: Vec<_> = state
        .configs
        .of(asked.tenant())
        .filter(|(key, _)| asked.finds([&*key.data_id, &*key.group]))
        .collect();
    asked
        .list(&all, |(key, config)| {
            json!({
                "dataId": key.data_id,
                "group": key.group,
                "type": config.kind,
                "md5": config.md5,
                "bytes": config.content.len(),
                "modified": dates::millis(config.modified),
                "listeners": listeners(state, key),
            })
        })
        .into()
}

fn listeners(state: &State, key: &ConfigKey) -> usize {
    state.polls.watching(key).count() + state.listeners.askers(key).count()
}

fn config(state: &State, call: &Call, asked: &Asked) -> Result<Value, Refusal> {
    let params = &call.params;
    let key = ConfigKey {
        tenant: asked.tenant().to_owned(),
        group: params
            .untrimmed("group")
            .unwrap_or(DEFAULT_GROUP)
            .to_owned(),
        data_id: params
            .untrimmed("dataId")
            .ok_or(Refusal::Required("dataId"))?
            .to_owned(),
    };
    let past = state.configs.history().of(&key).take(RECORDS);
    let past: Vec<Value> = past
        .map(|(id, record)| {
            json!({
                "id": id,
                "at": dates::millis(record.at),
                "op": record.op.letter(),
                "variant": match &record.of {
                    history::Of::Formal => None,
                    history::Of::Variant(gray, _) => Some(gray.name()),
                },
                "bytes": record.config.content.len(),
                "by": record.by.user.as_deref().unwrap_or(&record.by.ip),
            })
        })
        .collect();
    let Some(config) = state.configs.stored(&key) else {
        return Ok(json!({
            "known": false,
            "dataId": key.data_id,
            "group": key.group,
            "history": past,
        }));
    };
    // A page that has the content is not sent it again.
    let has = params.get("have") == Some(&*config.md5);
    let fits = config.content.len() <= SHOWN;
    let text = || String::from_utf8_lossy(&config.content);
    Ok(json!({
        "known": true,
        "history": past,
        // A publish that does not say these again removes them.
        "words": {
            "desc": config.words.desc,
            "use": config.words.usage,
            "effect": config.words.effect,
            "schema": config.words.schema,
            "encryptedDataKey": config.encrypted_data_key,
        },
        "dataId": key.data_id,
        "group": key.group,
        "type": config.kind,
        "md5": config.md5,
        "bytes": config.content.len(),
        "created": dates::millis(config.created),
        "modified": dates::millis(config.modified),
        "listeners": listeners(state, &key),
        "tooLong": !fits,
        "content": (fits && !has).then(text),
    }))
}

/// What one record of the history holds.
fn record(state: &State, call: &Call, asked: &Asked) -> Result<Value, Refusal> {
    let params = &call.params;
    let id = params.get("id").ok_or(Refusal::Required("id"))?;
    let number = id.parse().map_err(|_| Refusal::NotANumber(id.to_owned()))?;
    let record = state.configs.history().get(number);
    let record = record.filter(|record| record.key.tenant == asked.tenant());
    let record =
        record.ok_or_else(|| Refusal::NotThere(format!("the history has no record {number}")))?;
    let fits = record.config.content.len() <= SHOWN;
    let text = || String::from_utf8_lossy(&record.config.content);
    Ok(json!({
        "id": number,
        "type": record.config.kind,
        "content": fits.then(text),
    }))
}

fn connections(state: &State, time: Time, asked: &Asked) -> Value {
    let all: Vec<_> = state
        .links
        .seen()
        .filter(|(_, id, ..)| asked.finds([*id]))
        .collect();
    asked
        .list(&all, |(link, id, heard, client)| {
            json!({
                "id": id,
                "client": client,
                "heard": millis(time, *heard),
                "subscribes": state.subscribers.asked(*link).count(),
                "listens": state.listeners.asked(*link).count(),
                "publishes": state.naming.published_by(*link),
            })
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_policy_names_the_script_and_the_style_of_the_page() {
        for tag in ["script", "style"] {
            let (_, rest) = PAGE.split_once(&format!("<{tag}>")).unwrap();
            let (inside, _) = rest.split_once(&format!("</{tag}>")).unwrap();
            let hash = STANDARD.encode(Sha256::digest(inside.as_bytes()));
            let expected = format!("{tag}-src 'sha256-{hash}'");
            assert!(POLICY.contains(&expected), "POLICY is to have {expected}");
        }
    }
}
