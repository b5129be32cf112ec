//! What crosses the wire over HTTP v1, as both of our sides read and write it; the only place where Nacos' spelling is renamed.
//!
//! Reading is lenient (fields that may be missing on one of 1.4, 2.x, 3.x have defaults, unknown ones are ignored, null is
//! nothing), writing is exact. Because both sides share this file they could agree on a mistake: the recorded exchanges in
//! `tests/cases/` are what proves it.

use super::model::{self, Content, Listed};
use crate::foreign::Foreign;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, time::Duration};

/// `code` of a beat's answer: taken.
pub const BEAT_OK: i64 = 10200;
/// `code` of a beat's answer: the instance is not known, register again (`NamingResponseCode.RESOURCE_NOT_FOUND`).
pub const BEAT_NOT_FOUND: i64 = 20404;

/// The `beat` parameter of `PUT /v1/ns/instance/beat`: a full beat (client: `BeatInfo`, server: `RsInfo`).
///
/// Read as Jackson reads it, from text only: clients written by hand send `"port":"8080"` and metadata that are not texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beat {
    /// Address.
    #[serde(default, deserialize_with = "loose_text")]
    pub ip: String,
    /// Port.
    #[serde(default, deserialize_with = "loose_whole")]
    pub port: i64,
    /// `group@@name`; 2.x and 3.x take a bare name to be of `DEFAULT_GROUP`. Without it they answer 10200 and let the instance die.
    #[serde(default, deserialize_with = "loose_text")]
    pub service_name: String,
    /// Cluster; wins over the parameter `clusterName` when not blank.
    #[serde(default, deserialize_with = "loose_text")]
    pub cluster: String,
    /// Weight, for an instance that the server does not know yet.
    #[serde(default, deserialize_with = "loose_fraction")]
    pub weight: f64,
    /// Metadata, for an instance that the server does not know yet; 2.x and 3.x keep a null value.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, Loose>,
    /// Of the Java client's scheduler; sent as it does, and never read.
    #[serde(default, skip_deserializing)]
    pub scheduled: bool,
    /// Milliseconds to the next beat; never read.
    #[serde(default, skip_deserializing)]
    pub period: i64,
    /// Of the Java client's scheduler; never read.
    #[serde(default, skip_deserializing)]
    pub stopped: bool,
    /// Kind; true when absent.
    #[serde(default = "yes", deserialize_with = "loose_flag")]
    pub ephemeral: bool,
}

/// A text, a number or a flag as its text, or null: what Jackson takes where a text belongs. A number keeps its spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Loose(pub Option<String>);

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        let json = raw.get();
        match json.as_bytes().first() {
            Some(b'"') => serde_json::from_str(json)
                .map(Self)
                .map_err(D::Error::custom),
            Some(b'{' | b'[') => Err(D::Error::custom(
                "expected a text, found an object or an array",
            )),
            Some(b'n') | None => Ok(Self(None)),
            Some(_) => Ok(Self(Some(json.to_owned()))),
        }
    }
}

fn loose_text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Loose::deserialize(from)?.0.unwrap_or_default())
}

/// A number, a text that is one, or nothing for 0.
fn loose_fraction<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    match loose_text(from)?.trim() {
        "" => Ok(0.0),
        text => text
            .parse()
            .map_err(|_| D::Error::custom("expected a number")),
    }
}

/// As [`loose_fraction`], cut to its whole part.
fn loose_whole<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let text = loose_text(from)?;
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    let whole = text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        format!("{:.0}", number.trunc()).parse().ok()
    });
    whole.ok_or_else(|| D::Error::custom("expected a whole number"))
}

/// A flag, a text that is one, or nothing for false.
fn loose_flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match loose_text(from)?.trim() {
        "true" | "True" | "TRUE" => Ok(true),
        "" | "false" | "False" | "FALSE" => Ok(false),
        text => text
            .parse::<i64>()
            .map(|number| number != 0)
            .map_err(|_| D::Error::custom("expected true or false")),
    }
}

/// The answer to a beat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BeatAnswer {
    /// Milliseconds to the next beat: the server's word wins over the client's interval.
    #[serde(default)]
    pub client_beat_interval: i64,
    /// [`BEAT_OK`] or [`BEAT_NOT_FOUND`].
    pub code: i64,
    /// Whether the next beats may leave `beat` out. 1.4.8 leaves this out of a 20404.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light_beat_enabled: Option<bool>,
}

/// A host in the answer to `GET /v1/ns/instance/list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Display id, `ip#port#cluster#group@@name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Address; any text.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ip: Foreign,
    /// Port.
    #[serde(default)]
    pub port: i64,
    /// Weight.
    #[serde(default = "one")]
    pub weight: f64,
    /// Health.
    #[serde(default = "yes")]
    pub healthy: bool,
    /// Whether it takes traffic.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// Cluster.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cluster_name: Foreign,
    /// `group@@name` (2.x, 3.x).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Metadata; a value may be null on 2.x and 3.x, the whole may be null on 1.4.8.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<Foreign, Option<Foreign>>,
    /// Milliseconds, from the metadata or the default (2.x, 3.x).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_heart_beat_interval: Option<i64>,
    /// Milliseconds (2.x, 3.x).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_heart_beat_time_out: Option<i64>,
    /// Milliseconds (2.x, 3.x).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_delete_timeout: Option<i64>,
    /// `simple` or `snowflake`; only there when the metadata is empty (2.x, 3.x).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id_generator: Option<String>,
}

impl From<Host> for Listed {
    fn from(host: Host) -> Self {
        Self {
            ip: host.ip,
            port: host.port,
            cluster: host.cluster_name,
            weight: host.weight,
            healthy: host.healthy,
            enabled: host.enabled,
            ephemeral: host.ephemeral,
            metadata: host
                .metadata
                .into_iter()
                .filter_map(|(k, v)| Some((k, v?)))
                .collect(),
        }
    }
}

/// The answer to `GET /v1/ns/instance/list` as 2.5.1 writes it (3.0.3: `allIps`; 1.4.8 has other keys beside these).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListAnswer {
    /// `group@@name`.
    #[serde(default)]
    pub name: String,
    /// Group (2.x, 3.x).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    /// As asked.
    #[serde(default, deserialize_with = "null_is_default")]
    pub clusters: String,
    /// Milliseconds for which the list may be kept.
    #[serde(default)]
    pub cache_millis: i64,
    /// The hosts.
    #[serde(default, deserialize_with = "null_is_default")]
    pub hosts: Vec<Host>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub last_ref_time: i64,
    /// Empty on 2.x and 3.x.
    #[serde(default, deserialize_with = "null_is_default")]
    pub checksum: String,
    /// Always false.
    #[serde(default, rename = "allIPs", alias = "allIps")]
    pub all_ips: bool,
    /// Whether the health of the hosts is masked.
    #[serde(default)]
    pub reach_protection_threshold: bool,
    /// Always true.
    #[serde(default = "yes")]
    pub valid: bool,
}

impl From<ListAnswer> for model::ServiceList {
    fn from(answer: ListAnswer) -> Self {
        Self {
            hosts: answer.hosts.into_iter().map(Listed::from).collect(),
            protected: answer.reach_protection_threshold,
            cache: Duration::from_millis(u64::try_from(answer.cache_millis).unwrap_or(0)),
        }
    }
}

/// The answer to `GET /v1/ns/instance`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    /// `group@@name`.
    #[serde(default)]
    pub service: String,
    /// Address.
    pub ip: Foreign,
    /// Port.
    pub port: i64,
    /// Cluster.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cluster_name: Foreign,
    /// Weight.
    #[serde(default = "one")]
    pub weight: f64,
    /// The true health, never masked.
    pub healthy: bool,
    /// Display id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Metadata.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<Foreign, Option<Foreign>>,
}

/// The answer to `GET /v1/ns/service/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNames {
    /// All, not only this page.
    pub count: i64,
    /// Names without their group.
    pub doms: Vec<String>,
}

/// What 3.x wraps its answers in.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Envelope {
    /// 0, or what went wrong; the HTTP status does not tell.
    pub code: i64,
    /// What was asked for.
    #[serde(default)]
    pub data: serde_json::Value,
}

/// The answer to a login.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// The token; never parsed.
    pub access_token: String,
    /// Seconds it lives.
    pub token_ttl: i64,
    /// Whether the user is an administrator.
    #[serde(default)]
    pub global_admin: bool,
    /// User (2.x, 3.x).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// Between the fields of an entry of `Listening-Configs`.
pub const WORD_SEPARATOR: char = '\u{2}';
/// After each entry of `Listening-Configs`.
pub const LINE_SEPARATOR: char = '\u{1}';

/// One entry of `Listening-Configs`, or (without `md5`) of a listener's answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// Data id.
    pub data_id: String,
    /// Group.
    pub group: String,
    /// MD5 the client has; empty when it has none.
    pub md5: String,
    /// Tenant; empty for public.
    pub tenant: String,
}

impl Listening {
    /// As the client sends it: `dataId 02 group 02 md5 [02 tenant] 01`. Before form encoding.
    pub fn write_asked(&self, out: &mut String) {
        for part in [&self.data_id, &self.group] {
            out.push_str(part);
            out.push(WORD_SEPARATOR);
        }
        out.push_str(&self.md5);
        if !self.tenant.is_empty() {
            out.push(WORD_SEPARATOR);
            out.push_str(&self.tenant);
        }
        out.push(LINE_SEPARATOR);
    }

    /// As the server answers it: `dataId 02 group [02 tenant] 01`. Before URL encoding.
    pub fn write_changed(&self, out: &mut String) {
        out.push_str(&self.data_id);
        out.push(WORD_SEPARATOR);
        out.push_str(&self.group);
        if !self.tenant.is_empty() {
            out.push(WORD_SEPARATOR);
            out.push_str(&self.tenant);
        }
        out.push(LINE_SEPARATOR);
    }

    /// Reads what [`Listening::write_asked`] writes, for any number of entries; `None` for anything else ("invalid probeModify").
    #[must_use]
    pub fn read_asked(text: &str) -> Option<Vec<Self>> {
        Self::read(text, |words| match words {
            [data_id, group, md5] => Some((data_id, group, md5, "")),
            [data_id, group, md5, tenant] => Some((data_id, group, md5, tenant)),
            _ => None,
        })
    }

    /// Reads what [`Listening::write_changed`] writes; `md5` is empty.
    #[must_use]
    pub fn read_changed(text: &str) -> Option<Vec<Self>> {
        Self::read(text, |words| match words {
            [data_id, group] => Some((data_id, group, "", "")),
            [data_id, group, tenant] => Some((data_id, group, "", tenant)),
            _ => None,
        })
    }

    fn read(
        text: &str,
        split: impl for<'a> Fn(&[&'a str]) -> Option<(&'a str, &'a str, &'a str, &'a str)>,
    ) -> Option<Vec<Self>> {
        text.split(LINE_SEPARATOR)
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                let words: Vec<&str> = entry.split(WORD_SEPARATOR).collect();
                let (data_id, group, md5, tenant) = split(&words)?;
                (!data_id.is_empty() && !group.is_empty()).then(|| Self {
                    data_id: data_id.to_owned(),
                    group: group.to_owned(),
                    md5: md5.to_owned(),
                    tenant: tenant.to_owned(),
                })
            })
            .collect()
    }
}

/// The beginning of every HTTP client of the program: no redirects, no proxy variables, no delay of small writes, a name.
/// Without `https` no CA store is looked for: a machine that has none must not fail where only `http://` is spoken.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where clients begin"
)]
pub fn http_client(connect_timeout: Duration, https: bool) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(connect_timeout)
        // Tomcat closes idle connections after 20 s; beats come every 5 s, so the one connection stays.
        .pool_idle_timeout(Duration::from_secs(15))
        .pool_max_idle_per_host(4)
        .user_agent(concat!("outrigger/", env!("CARGO_PKG_VERSION")));
    #[cfg(feature = "tls")]
    if !https {
        return builder.tls_certs_only([]);
    }
    #[cfg(not(feature = "tls"))]
    let _unused = https;
    builder
}

/// Lower-case hex MD5, as Nacos compares configurations by it; of nothing known it is the empty text, not this.
#[must_use]
pub fn md5_hex(bytes: &[u8]) -> String {
    use md5::{Digest, Md5};
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(32);
    for byte in Md5::digest(bytes) {
        // Writing to a String cannot fail.
        _ = write!(hex, "{byte:02x}");
    }
    hex
}

impl Content {
    /// A content of these bytes, of which nothing else is known.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Self {
        Self {
            md5: md5_hex(&bytes).into(),
            bytes: bytes.into(),
            modified: None,
            kind: None,
            data_key: None,
            is_opened: false,
        }
    }
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

/// For fields that some server writes as `null` where it means "nothing".
pub(super) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
