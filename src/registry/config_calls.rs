//! The calls of `/v1/cs`: publish, get, delete and the listener's long poll.

use crate::dates;
use crate::machine::Machine;
use crate::nacos::wire;
use crate::nacos::wire::LINE_SEPARATOR;
use crate::nacos::wire::Listening;
use crate::nacos::wire::WORD_SEPARATOR;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::call::Time;
use crate::registry::config;
use crate::registry::config::Config;
use crate::registry::config::ConfigKey;
use crate::registry::config::Publish;
use crate::registry::desk::State;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::long_poll;
use crate::registry::refusal::CONFIG;
use crate::registry::refusal::Refusal;
use crate::registry::refusal::TEXT;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::time::Duration;

/// Configurations of one listener at most, as on 2.5.1.
const KEYS: usize = 10_000;

/// What came of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is answered.
    Answer(Answer),
    /// It is a listener's, who is answered when [`LongPoll`](long_poll::LongPoll) says so.
    Listen {
        /// Which configurations, and whether the client's MD5 is another than the stored one.
        keys: Vec<(ConfigKey, bool)>,
        /// How long to hold; `None` answers at once.
        hold: Option<Duration>,
        /// Writes the answer.
        write: fn(&[ConfigKey]) -> Answer,
    },
}

/// Answers a call whose route begins with `/v1/cs`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Outcome, Refusal> {
    let known = match call.route.as_str() {
        "/v1/cs/configs" => ["POST", "GET", "HEAD", "DELETE"].as_slice(),
        "/v1/cs/configs/listener" => &["POST"],
        _ => return Err(Refusal::NoPath),
    };
    if !known.contains(&call.method.as_str()) {
        return Err(Refusal::ConfigMethod(call.method.clone()));
    }
    if call.route == "/v1/cs/configs/listener" {
        return listen(state, call);
    }
    check(&call.params)?;
    match call.method.as_str() {
        "POST" => publish(state, time, call),
        "GET" | "HEAD" => get(state, call),
        _ => delete(state, time, call),
    }
    .map(Outcome::Answer)
}

/// What `ParamCheckerFilter` does before any controller of configuration.
fn check(params: &Params) -> Result<(), Refusal> {
    forms::check_tenant(params.untrimmed("tenant"))?;
    forms::check_plain("dataId", 256, params.untrimmed("dataId"))?;
    forms::check_plain("group", 128, params.untrimmed("group"))
}

/// Which configuration is meant; `params` have passed [`check`].
fn key(params: &Params) -> Result<ConfigKey, Refusal> {
    let (data_id, group) = (params.parameter("dataId")?, params.parameter("group")?);
    for (name, value) in [("dataId", data_id), ("group", group)] {
        if value.trim().is_empty() {
            return Err(Refusal::InvalidName(name, value.to_owned()));
        }
    }
    Ok(ConfigKey {
        data_id: data_id.to_owned(),
        group: group.to_owned(),
        tenant: params.get("tenant").unwrap_or_default().to_owned(),
    })
}

fn yes() -> Answer {
    Answer {
        content_type: Some(CONFIG),
        ..Answer::text("true")
    }
}

/// `NamespaceUtil.processNamespaceParameter`: only publishing knows that `public` is the empty tenant.
fn published_tenant(tenant: &str) -> &str {
    if tenant.eq_ignore_ascii_case("null") || tenant == "public" {
        ""
    } else {
        tenant
    }
}

fn publish(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    if params.get("tag").is_some() || call.header("betaIps").is_some_and(|ips| !ips.is_empty()) {
        return Err(Refusal::NotOffered("variants for tags or beta addresses"));
    }
    // All three must be there before any is looked at.
    params.parameter("dataId")?;
    params.parameter("group")?;
    let content = params.parameter("content")?;
    let mut key = key(params)?;
    key.tenant = published_tenant(&key.tenant).to_owned();
    if content.trim().is_empty() {
        return Err(Refusal::BlankContent(content.to_owned()));
    }
    let publish = Publish {
        content: content.to_owned(),
        kind: config::kind(params.get("type")),
        encrypted_data_key: params
            .get("encryptedDataKey")
            .unwrap_or_default()
            .to_owned(),
        cas_md5: call
            .header("casMd5")
            .filter(|md5| !md5.trim().is_empty())
            .map(str::to_owned),
    };
    if state.configs.publish(time.at, &key, publish)? {
        state.polls.handle(time.now, long_poll::Event::Changed(key));
    }
    Ok(yes())
}

fn get(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    if params.get("search").is_some() || params.get("show").is_some() {
        return Err(Refusal::NotOffered(
            "what the console asks of configurations",
        ));
    }
    let key = key(params)?;
    // No variant is kept, so one that is asked for by parameter is missing; the header falls back to the formal content.
    if params.get("tag").is_some() {
        return Err(Refusal::NoConfig);
    }
    state
        .configs
        .get(&key)
        .cloned()
        .map(shown)
        .ok_or(Refusal::NoConfig)
}

fn shown(config: Config) -> Answer {
    let mut headers = vec![
        ("Config-Type", config.kind.to_owned()),
        ("Content-MD5", config.md5),
        ("Last-Modified", dates::http(config.modified)),
        ("Encrypted-Data-Key", config.encrypted_data_key),
    ];
    headers.extend(not_cached());
    Answer {
        status: 200,
        content_type: Some(TEXT),
        headers,
        body: config.content,
    }
}

fn not_cached() -> [(&'static str, String); 3] {
    [
        ("Pragma", "no-cache".to_owned()),
        ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT".to_owned()),
        ("Cache-Control", "no-cache,no-store".to_owned()),
    ]
}

fn delete(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    if params.get("delType").is_some() || params.flag(&["beta"], false) {
        return Err(Refusal::NotOffered(
            "what the console asks of configurations",
        ));
    }
    let key = key(params)?;
    if params.get("tag").is_some() {
        // There is no such variant, and the formal content must stay.
        return Ok(yes());
    }
    if state.configs.delete(&key) {
        state.polls.handle(time.now, long_poll::Event::Changed(key));
    }
    Ok(yes())
}

/// What a listener asks about: the form's value is decoded once more, as the original does.
fn asked(params: &Params) -> Result<Vec<(ConfigKey, String)>, Refusal> {
    let text = params
        .get("Listening-Configs")
        .ok_or(Refusal::NothingListened)?;
    let text = forms::decode(text);
    // The parameter check's look: pieces by their number of words, those empty at the end left out, as Java splits.
    let pieces = text.trim_end_matches(LINE_SEPARATOR).split(LINE_SEPARATOR);
    for piece in pieces {
        let words = piece.trim_end_matches(WORD_SEPARATOR).split(WORD_SEPARATOR);
        if !(2..=4).contains(&words.count()) {
            return Err(Refusal::BadListening);
        }
    }
    // The controller's look: what its separator does not end counts for nothing.
    let ended = text.rfind(LINE_SEPARATOR).and_then(|end| text.get(..end));
    let entries = Listening::read_asked(ended.unwrap_or_default())
        .filter(|entries| entries.len() <= KEYS)
        .ok_or(Refusal::NothingListened)?;
    entries
        .into_iter()
        .map(|entry| {
            forms::check_tenant(Some(&entry.tenant))?;
            forms::check_plain("dataId", 256, Some(&entry.data_id))?;
            forms::check_plain("group", 128, Some(&entry.group))?;
            let key = ConfigKey {
                tenant: entry.tenant,
                group: entry.group,
                data_id: entry.data_id,
            };
            Ok((key, entry.md5))
        })
        .collect()
}

fn listen(state: &State, call: &Call) -> Result<Outcome, Refusal> {
    let keys: Vec<_> = asked(&call.params)?
        .into_iter()
        .map(|(key, md5)| {
            let differs = state.configs.md5(&key) != md5;
            (key, differs)
        })
        .collect();
    let Some(timeout) = call.header("Long-Pulling-Timeout") else {
        return Ok(Outcome::Listen {
            keys,
            hold: None,
            write: short,
        });
    };
    let hang_up = call
        .header("Long-Pulling-Timeout-No-Hangup")
        .is_some_and(|said| said.eq_ignore_ascii_case("true"));
    // Only who is to be held is asked how long: a negative time is the shortest hold.
    let hold = if hang_up || keys.iter().any(|(_, differs)| *differs) {
        None
    } else {
        let millis: i64 = timeout
            .trim()
            .parse()
            .map_err(|_| Refusal::NotANumber(timeout.to_owned()))?;
        let millis = Duration::from_millis(millis.try_into().unwrap_or(0));
        Some(long_poll::hold(millis))
    };
    Ok(Outcome::Listen {
        keys,
        hold,
        write: long,
    })
}

/// The long poll's answer.
fn long(changed: &[ConfigKey]) -> Answer {
    if changed.is_empty() {
        return Answer {
            content_type: Some(CONFIG),
            ..Answer::text("")
        };
    }
    let mut body = encoded(changed);
    body.push('\n');
    Answer {
        content_type: Some(CONFIG),
        headers: not_cached().into(),
        ..Answer::text(body)
    }
}

/// The short poll of clients without `Long-Pulling-Timeout`: what changed is in headers, the body stays empty.
fn short(changed: &[ConfigKey]) -> Answer {
    let mut old = String::new();
    for key in changed {
        old.extend([&key.data_id, ":", &key.group, ";"]);
    }
    let mut headers = vec![
        ("Probe-Modify-Response", old),
        ("Probe-Modify-Response-New", encoded(changed)),
    ];
    headers.extend(not_cached());
    Answer {
        content_type: Some(CONFIG),
        headers,
        ..Answer::text("")
    }
}

/// `URLEncoder.encode` leaves these.
const URL_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'*')
    .remove(b'_');

fn encoded(changed: &[ConfigKey]) -> String {
    let mut text = String::new();
    for key in changed {
        wire::Listening {
            data_id: key.data_id.clone(),
            group: key.group.clone(),
            md5: String::new(),
            tenant: key.tenant.clone(),
        }
        .write_changed(&mut text);
    }
    percent_encoding::utf8_percent_encode(&text, URL_ENCODED).to_string()
}
