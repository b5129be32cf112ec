//! The calls of `/v1/cs`: publish, get, delete and the listener's long poll.

use crate::dates;
use crate::nacos::wire;
use crate::nacos::wire::LINE_SEPARATOR;
use crate::nacos::wire::Listening;
use crate::nacos::wire::WORD_SEPARATOR;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::config::Seen;
use crate::registry::config_parts;
use crate::registry::config_parts::Aim;
use crate::registry::config_parts::Names;
use crate::registry::forms;
use crate::registry::forms::Params;
use crate::registry::like::Like;
use crate::registry::like::Manners;
use crate::registry::long_poll;
use crate::registry::long_poll::Watched;
use crate::registry::model::Author;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::model::Time;
use crate::registry::refusal::CONFIG;
use crate::registry::refusal::Refusal;
use crate::registry::refusal::TEXT;
use crate::registry::state::State;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use std::time::Duration;

/// Where contents are published: what is sent there may be large.
pub(crate) const PUBLISHES: &[&str] = &["/v1/cs/configs", "/v2/cs/config", "/v3/admin/cs/config"];

/// Configurations of one listener at most, as on 2.5.1.
const KEYS: usize = 10_000;

/// What came of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is answered.
    Answer(Answer),
    /// It is a listener's, who is answered when [`LongPoll`](long_poll::LongPoll) says so.
    Listen {
        /// Which configurations.
        keys: Vec<Watched>,
        /// How long to hold; `None` answers at once.
        hold: Option<Duration>,
        /// Writes the answer.
        write: fn(&[ConfigKey]) -> Answer,
    },
}

/// Answers a call whose route begins with `/v1/cs`, and which is none of consoles.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Outcome, Refusal> {
    let known = match call.route.as_str() {
        "/v1/cs/configs" => ["POST", "GET", "HEAD", "DELETE"].as_slice(),
        "/v1/cs/configs/listener" => &["POST"],
        _ => &[],
    };
    if known.is_empty() {
        return Err(Refusal::NoPath(call.what()));
    }
    if !known.contains(&call.method.as_str()) {
        return Err(Refusal::ConfigMethod(call.method.clone()));
    }
    if call.route == "/v1/cs/configs/listener" {
        return listen(state, call);
    }
    if state.like.manners().parameter_check {
        call.params.check_config("tenant", "group")?;
    }
    match call.method.as_str() {
        "POST" => publish(state, time, call),
        "GET" | "HEAD" => get(state, call),
        _ => delete(state, time, call),
    }
    .map(Outcome::Answer)
}

/// What 1.4 checks in its controllers instead: letters and digits of any script, and `_-.:`.
fn legal_in_1_4(value: &str) -> bool {
    value
        .chars()
        .all(|c| c.is_alphanumeric() || "_-.:".contains(c))
}

/// Which configuration is meant, to a call for which `public` may be the empty tenant; `params` have passed [`Params::check_config`].
pub(crate) fn key(
    like: Like,
    params: &Params,
    public_is_empty: bool,
) -> Result<ConfigKey, Refusal> {
    let (data_id, group) = (params.parameter("dataId")?, params.parameter("group")?);
    let tenant = params.get("tenant").unwrap_or_default();
    let checked = like.manners().parameter_check;
    if !checked && !legal_in_1_4(tenant) {
        return Err(Refusal::InvalidTenant);
    }
    for (name, value) in [("dataId", data_id), ("group", group)] {
        if value.trim().is_empty() || !(checked || legal_in_1_4(value)) {
            return Err(Refusal::InvalidName(name, value.to_owned()));
        }
    }
    Ok(ConfigKey {
        data_id: data_id.to_owned(),
        group: group.to_owned(),
        tenant: tenant_of(tenant, public_is_empty).to_owned(),
    })
}

fn yes() -> Answer {
    Answer {
        content_type: Some(CONFIG),
        ..Answer::text("true")
    }
}

/// `NamespaceUtil.processNamespaceParameter`, where a call asks it.
pub(crate) fn tenant_of(tenant: &str, public_is_empty: bool) -> &str {
    let public = tenant.eq_ignore_ascii_case("null") || tenant.eq_ignore_ascii_case("public");
    if public_is_empty && public {
        ""
    } else {
        tenant
    }
}

fn publish(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    // All three must be there before any is looked at.
    params.parameter("dataId")?;
    params.parameter("group")?;
    let content = params.parameter("content")?;
    let key = key(
        state.like,
        params,
        state.like.manners().public_is_empty.publish,
    )?;
    if content.trim().is_empty() {
        return Err(Refusal::BlankContent(content.to_owned()));
    }
    put(state, time, call, &config_parts::SNAKE, &key, content)?;
    Ok(yes())
}

/// Publishes a content as a call describes it in the words of its interface.
pub(crate) fn put(
    state: &mut State,
    time: Time,
    call: &Call,
    names: &Names,
    key: &ConfigKey,
    content: &str,
) -> Result<(), Refusal> {
    let params = &call.params;
    let tag = config_parts::tag(params.raw("tag"))?;
    let aim = Aim::read(tag, call.header("betaIps"));
    let like = state.like;
    let said = |name: &str| params.raw(name);
    let publish = config_parts::read(like, names, content, call.ip(), said)?;
    let cas_md5 = call.header("casMd5");
    config_parts::put(&mut state.configs, like, time, key, &aim, cas_md5, publish)
}

fn get(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let params = &call.params;
    let manners = state.like.manners();
    let key = key(state.like, params, manners.public_is_empty.get)?;
    let tag = config_parts::tag(params.raw("tag"))?;
    if state.configs.is_busy(&key) {
        return Err(Refusal::BeingModified);
    }
    if let Some(seen) = state.configs.get(&key, &call.reader(), tag) {
        return Ok(shown(manners, seen, tag.is_some()));
    }
    match state.configs.kind(&key) {
        // 1.4.8 has begun to write the answer when it finds out.
        Some(kind) if manners.typed_content => Ok(Answer {
            status: 404,
            content_type: Some(content_type(manners, kind)),
            headers: vec![("Config-Type", kind.to_owned())],
            ..Answer::text("config data not exist\n")
        }),
        _ => Err(Refusal::NoConfig),
    }
}

/// A content to a reader; `asked` is whether he asked for a tag himself.
fn shown(manners: &Manners, seen: Seen<'_>, asked: bool) -> Answer {
    Answer {
        status: 200,
        content_type: Some(content_type(manners, seen.kind)),
        headers: headers(manners, seen, asked),
        body: seen.config.content.clone(),
    }
}

/// What goes with a content.
pub(crate) fn headers(
    manners: &Manners,
    seen: Seen<'_>,
    asked: bool,
) -> Vec<(&'static str, String)> {
    let config = seen.config;
    let mut headers = vec![
        ("Config-Type", seen.kind.to_owned()),
        ("Content-MD5", config.md5.clone()),
        ("Last-Modified", dates::http(config.modified)),
    ];
    match seen.gray {
        // The key of a variant is kept for its history alone.
        None if manners.encrypted_data_key => {
            headers.push(("Encrypted-Data-Key", config.encrypted_data_key.clone()));
        }
        None => {}
        Some(Gray::Beta) => headers.push(("isBeta", "true".to_owned())),
        Some(Gray::Tag(tag)) => {
            let tag = url_encoded(tag);
            if !manners.typed_content {
                headers.push(("tag", tag));
            } else if !asked {
                headers.push(("Vipserver-Tag", tag));
            }
        }
    }
    headers.extend(not_cached());
    headers
}

fn content_type(manners: &Manners, kind: &str) -> &'static str {
    match kind {
        "json" if manners.typed_content => CONFIG,
        "xml" if manners.typed_content => "application/xml;charset=UTF-8",
        "html" if manners.typed_content => "text/html;charset=UTF-8",
        _ => TEXT,
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
    let public_is_empty = state.like.manners().public_is_empty.delete;
    let key = key(state.like, params, public_is_empty)?;
    let tag = config_parts::tag(params.raw("tag"))?;
    remove(state, time, &key, tag, author(call, None));
    Ok(yes())
}

/// Who calls, and as which user he says to do it.
pub(crate) fn author(call: &Call, user: Option<&str>) -> Author {
    Author {
        user: user.map(str::to_owned),
        ip: call.ip(),
    }
}

/// Deletes a configuration, or its variant for a tag.
pub(crate) fn remove(
    state: &mut State,
    time: Time,
    key: &ConfigKey,
    tag: Option<&str>,
    by: Author,
) {
    let Some(tag) = tag else {
        state.configs.delete(time, key, by);
        return;
    };
    for gray in config_parts::grays(tag).into_iter().flatten() {
        if state.configs.delete_variant(time, key, &gray, by.clone()) {
            return;
        }
    }
}

/// What a listener asks about: the form's value is decoded once more, as the original does.
pub(crate) fn asked(like: Like, params: &Params) -> Result<Vec<Listening>, Refusal> {
    let text = params
        .get("Listening-Configs")
        .ok_or(Refusal::NothingListened)?;
    let text = forms::decode(text);
    let checked = like.manners().parameter_check;
    // The parameter check's look: pieces by their number of words, those empty at the end left out, as Java splits.
    let pieces = text.trim_end_matches(LINE_SEPARATOR).split(LINE_SEPARATOR);
    for piece in pieces.filter(|_| checked) {
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
    for entry in entries.iter().filter(|_| checked) {
        forms::check_tenant(Some(&entry.tenant))?;
        forms::check_plain("dataId", 256, Some(&entry.data_id))?;
        forms::check_plain("group", 128, Some(&entry.group))?;
    }
    Ok(entries)
}

fn listen(state: &State, call: &Call) -> Result<Outcome, Refusal> {
    let public_is_empty = state.like.manners().public_is_empty.listen;
    let reader = call.reader();
    let keys: Vec<_> = asked(state.like, &call.params)?
        .into_iter()
        .map(|entry| {
            let tenant = tenant_of(&entry.tenant, public_is_empty).to_owned();
            let named = (tenant != entry.tenant).then_some(entry.tenant);
            let key = ConfigKey {
                tenant,
                group: entry.group,
                data_id: entry.data_id,
            };
            Watched {
                differs: state.configs.md5(&key, &reader) != entry.md5,
                named,
                key,
            }
        })
        .collect();
    let Some(timeout) = call.header("Long-Pulling-Timeout") else {
        return Ok(Outcome::Listen {
            keys,
            hold: None,
            write: if reads_headers(call) { short } else { unread },
        });
    };
    let number = timeout.trim().parse::<i64>();
    let number = number.map_err(|_| Refusal::NotANumber(timeout.to_owned()));
    if state.like.manners().hold_first {
        number.clone()?;
    }
    let hang_up = call
        .header("Long-Pulling-Timeout-No-Hangup")
        .is_some_and(|said| said.eq_ignore_ascii_case("true"));
    // Only who is to be held is asked how long, but by 1.4: a negative time is the shortest hold.
    let hold = if hang_up || keys.iter().any(|watched| watched.differs) {
        None
    } else {
        let millis = Duration::from_millis(number?.try_into().unwrap_or(0));
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

/// Whether a short poll is answered in headers, as to clients whose version says that they are older than 2.0.4, or says nothing.
fn reads_headers(call: &Call) -> bool {
    let version = call.header("Client-Version").unwrap_or_default();
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let version = (next(), next(), next());
    version < (Some(2), Some(0), Some(4))
}

/// The short poll of newer clients: the original puts what changed where nothing reads it.
fn unread(_: &[ConfigKey]) -> Answer {
    Answer {
        content_type: Some(CONFIG),
        headers: not_cached().into(),
        ..Answer::text("")
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
    url_encoded(&text)
}

/// As `URLEncoder.encode` writes what has no blanks.
pub(crate) fn url_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, URL_ENCODED).to_string()
}
