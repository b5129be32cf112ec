//! The switches of the registry: what an operator can change while it runs, by `PUT /v1/ns/operator/switches?entry=…&value=…`.
//!
//! All of the original's are kept and shown. Those that change something here: `pushEnabled`, `pushVersion`, `pushCacheMillis`,
//! `defaultCacheMillis`, `clientBeatInterval`, `lightBeatEnabled`, `defaultInstanceEphemeral`, `check` (the check of beats and of
//! persistent instances), `healthCheckTimes` and the three sets of health parameters, `limitedUrlMap`, and
//! `overriddenServerStatus`. The others are about a cluster, or nobody reads them in the original either. An entry that is not
//! known is `ok` there, and changes nothing; so it does here.

use crate::registry::checks::CheckRules;
use crate::registry::checks::Interval;
use crate::registry::like::Like;
use crate::registry::refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Characters of one value at most, as many paths may be limited, and masters be named.
const VALUE: usize = 16 * 1024;

/// How often what is checked is checked: a delay that follows how long the last checks took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HealthParams {
    /// Milliseconds at most.
    pub(crate) max: i32,
    /// Milliseconds at least.
    pub(crate) min: i32,
    /// The weight of the past, 0 to 1.
    pub(crate) factor: f32,
}

/// The same as it is said: what is left out is as the original is delivered.
#[derive(Debug, Default, Deserialize)]
struct Said {
    max: Option<i32>,
    min: Option<i32>,
    factor: Option<f32>,
}

const HTTP: HealthParams = HealthParams {
    max: 5_000,
    min: 500,
    factor: 0.85,
};
const TCP: HealthParams = HealthParams {
    max: 5_000,
    min: 1_000,
    factor: 0.75,
};
const MYSQL: HealthParams = HealthParams {
    max: 3_000,
    min: 2_000,
    factor: 0.65,
};

/// What is let in; all but [`Status::Up`] have to be said by an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Status {
    /// Everything.
    #[default]
    Up,
    /// Nothing.
    Down,
    /// Nothing.
    Starting,
    /// Nothing.
    Paused,
    /// All but GET.
    WriteOnly,
    /// GET alone.
    ReadOnly,
}

impl Status {
    const ALL: [Self; 6] = [
        Self::Up,
        Self::Down,
        Self::Starting,
        Self::Paused,
        Self::WriteOnly,
        Self::ReadOnly,
    ];

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Starting => "STARTING",
            Self::Paused => "PAUSED",
            Self::WriteOnly => "WRITE_ONLY",
            Self::ReadOnly => "READ_ONLY",
        }
    }
}

/// All of them, by the names under which they are shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Switches {
    masters: Option<Vec<String>>,
    /// Milliseconds for which who is pushed may keep a list, and like 1.4 how long a subscription over UDP lives.
    pub(crate) default_push_cache_millis: i64,
    /// Milliseconds between beats, as they are answered.
    pub(crate) client_beat_interval: i64,
    /// Milliseconds for which who is not pushed may keep a list, like 1.4.
    pub(crate) default_cache_millis: i64,
    distro_threshold: f32,
    /// Whether silence makes an instance unhealthy, and persistent ones are probed.
    pub(crate) health_check_enabled: bool,
    auto_change_health_check_enabled: bool,
    distro_enabled: bool,
    enable_standalone: bool,
    /// Whether anybody is pushed.
    pub(crate) push_enabled: bool,
    /// So many results in a row turn the health of a persistent instance.
    pub(crate) check_times: i32,
    /// Of the HTTP checker.
    pub(crate) http_health_params: HealthParams,
    /// Of the TCP checker.
    pub(crate) tcp_health_params: HealthParams,
    /// Of the MySQL checker.
    pub(crate) mysql_health_params: HealthParams,
    server_status_synchronization_period_millis: i64,
    service_status_synchronization_period_millis: i64,
    #[serde(rename = "disableAddIP")]
    disable_add_ip: bool,
    send_beat_only: bool,
    /// What a beat is answered, whether it may be light.
    pub(crate) light_beat_enabled: bool,
    /// Beginnings of paths, and with which status they are refused.
    limited_url_map: BTreeMap<String, i32>,
    distro_server_expired_millis: i64,
    push_go_version: String,
    push_java_version: String,
    push_python_version: String,
    push_c_version: String,
    #[serde(rename = "pushCSharpVersion")]
    push_csharp_version: String,
    overridden_server_status: Option<String>,
    /// What an instance is that does not say whether it is ephemeral.
    pub(crate) default_instance_ephemeral: bool,
    #[serde(skip)]
    status: Status,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            masters: None,
            default_push_cache_millis: 10_000,
            client_beat_interval: 5_000,
            default_cache_millis: 3_000,
            distro_threshold: 0.7,
            health_check_enabled: true,
            auto_change_health_check_enabled: true,
            distro_enabled: true,
            enable_standalone: true,
            push_enabled: true,
            check_times: 3,
            http_health_params: HTTP,
            tcp_health_params: TCP,
            mysql_health_params: MYSQL,
            server_status_synchronization_period_millis: 2_000,
            service_status_synchronization_period_millis: 5_000,
            disable_add_ip: false,
            send_beat_only: false,
            light_beat_enabled: true,
            limited_url_map: BTreeMap::new(),
            distro_server_expired_millis: 10_000,
            push_go_version: "0.1.0".to_owned(),
            push_java_version: "0.1.0".to_owned(),
            push_python_version: "0.4.3".to_owned(),
            push_c_version: "1.0.12".to_owned(),
            push_csharp_version: "0.9.0".to_owned(),
            overridden_server_status: None,
            default_instance_ephemeral: true,
            status: Status::Up,
        }
    }
}

/// A number of Java's `long`.
fn long(value: &str) -> Result<i64, Refusal> {
    let not = |_| Refusal::NotANumber(value.to_owned());
    value.parse().map_err(not)
}

fn at_least(value: &str, least: i64, words: &str) -> Result<i64, Refusal> {
    let millis = long(value)?;
    if millis < least {
        return Err(Refusal::Switch(words.to_owned()));
    }
    Ok(millis)
}

/// `Boolean.parseBoolean`.
fn strict(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

/// `ConvertUtils.toBoolean`.
fn loose(value: &str) -> bool {
    let yes = ["true", "on", "yes", "t", "y", "1"];
    yes.iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

fn params(value: &str, default: HealthParams, check: bool) -> Result<HealthParams, Refusal> {
    let bad = |_| Refusal::Switch("json param invalid.".to_owned());
    let said: Said = serde_json::from_str(value).map_err(bad)?;
    let params = HealthParams {
        max: said.max.unwrap_or(default.max),
        min: said.min.unwrap_or(default.min),
        factor: said.factor.unwrap_or(default.factor),
    };
    if check {
        params.check()?;
    }
    Ok(params)
}

impl HealthParams {
    fn said(interval: Interval) -> Self {
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the original keeps a float"
        )]
        let factor = interval.factor as f32;
        Self {
            max: millis(interval.max),
            min: millis(interval.min),
            factor,
        }
    }

    fn interval(self) -> Interval {
        let time = |millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        Interval {
            min: time(self.min),
            max: time(self.max),
            factor: self.factor.into(),
        }
    }

    fn check(self) -> Result<(), Refusal> {
        let words = if self.min < 500 {
            "min check time for http or tcp is too small(<500)"
        } else if self.max < 3_000 {
            "max check time for http or tcp is too small(<3000)"
        } else if !(0.0..=1.0).contains(&self.factor) {
            "malformed factor"
        } else {
            return Ok(());
        };
        Err(Refusal::Switch(words.to_owned()))
    }
}

/// `type:version`.
fn version(value: &str) -> Result<(&str, &str), Refusal> {
    let mut parts = value.trim_end_matches(':').split(':');
    let (Some(kind), Some(version)) = (parts.next(), parts.next()) else {
        let words = "Index 1 out of bounds for length 1";
        return Err(Refusal::Unhandled(words.to_owned()));
    };
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if version.split('.').count() != 3 || !version.split('.').all(number) {
        let words = r"illegal version, must match: [0-9]+\.[0-9]+\.[0-9]+";
        return Err(Refusal::Switch(words.to_owned()));
    }
    Ok((kind, version))
}

fn limited(value: &str) -> Result<BTreeMap<String, i32>, Refusal> {
    let refused = |words: String| Err(Refusal::Switch(words));
    let mut limited = BTreeMap::new();
    for entry in value.split(',') {
        let Some((url, status)) = entry.split_once(':').filter(|(_, s)| !s.is_empty()) else {
            return refused("invalid input for limited urls".to_owned());
        };
        if url.is_empty() {
            return refused("url can not be empty, url: ".to_owned());
        }
        let status = status.split(':').next().unwrap_or_default();
        let code = status
            .parse()
            .map_err(|_| Refusal::NotANumber(status.to_owned()))?;
        // The original takes whatever is above 0, and cannot answer it.
        if !(200..600).contains(&code) {
            return refused(format!("illegal normal status code: {code}"));
        }
        limited.insert(url.to_owned(), code);
    }
    Ok(limited)
}

impl Switches {
    /// Changes one.
    pub(crate) fn set(&mut self, like: Like, entry: &str, value: &str) -> Result<(), Refusal> {
        if value.len() > VALUE {
            return Err(Refusal::Full("characters of a switch", VALUE));
        }
        match entry {
            "batch" if like == Like::V1_4 => self.set_all(value)?,
            "distroThreshold" => {
                let not = |_| Refusal::NotANumber(value.to_owned());
                let threshold: f32 = value.parse().map_err(not)?;
                if threshold <= 0.0 {
                    let words =
                        format!("distroThreshold can not be zero or negative: {threshold:?}");
                    return Err(Refusal::Switch(words));
                }
                self.distro_threshold = threshold;
            }
            "clientBeatInterval" => self.client_beat_interval = long(value)?,
            "pushVersion" => self.set_version(like, value)?,
            "pushCacheMillis" => {
                let words = "min cache time for http or tcp is too small(<10000)";
                self.default_push_cache_millis = at_least(value, 10_000, words)?;
            }
            "defaultCacheMillis" => {
                let words = "min default cache time  is too small(<1000)";
                self.default_cache_millis = at_least(value, 1_000, words)?;
            }
            "masters" => {
                let masters = value.trim_end_matches(',').split(',').map(str::to_owned);
                self.masters = Some(masters.collect());
            }
            "distro" => self.distro_enabled = strict(value),
            "check" => self.health_check_enabled = strict(value),
            "pushEnabled" => self.push_enabled = strict(value),
            "serviceStatusSynchronizationPeriodMillis" => {
                let words = "serviceStatusSynchronizationPeriodMillis is too small(<5000)";
                self.service_status_synchronization_period_millis = at_least(value, 5_000, words)?;
            }
            "serverStatusSynchronizationPeriodMillis" => {
                let words = "serverStatusSynchronizationPeriodMillis is too small(<15000)";
                self.server_status_synchronization_period_millis = at_least(value, 1_000, words)?;
            }
            "healthCheckTimes" => {
                let not = |_| Refusal::NotANumber(value.to_owned());
                self.check_times = value.parse().map_err(not)?;
            }
            "disableAddIP" => self.disable_add_ip = strict(value),
            "sendBeatOnly" => self.send_beat_only = strict(value),
            // The empty one leaves what there was.
            "limitedUrlMap" if value.is_empty() => {}
            "limitedUrlMap" => self.limited_url_map = limited(value)?,
            // Like the original, which reads a value that is empty and passes over one that is not.
            "enableStandalone" if value.is_empty() => self.enable_standalone = false,
            "overriddenServerStatus" => self.override_status(value),
            "defaultInstanceEphemeral" => self.default_instance_ephemeral = strict(value),
            "distroServerExpiredMillis" => self.distro_server_expired_millis = long(value)?,
            "lightBeatEnabled" => self.light_beat_enabled = loose(value),
            "autoChangeHealthCheckEnabled" => self.auto_change_health_check_enabled = loose(value),
            // 1.4 knows these in a batch alone.
            "httpHealthParams" if like != Like::V1_4 => {
                self.http_health_params = params(value, HTTP, true)?;
            }
            "tcpHealthParams" if like != Like::V1_4 => {
                self.tcp_health_params = params(value, TCP, true)?;
            }
            "mysqlHealthParams" if like != Like::V1_4 => {
                self.mysql_health_params = params(value, MYSQL, false)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// All at once; what is left out is as the original is delivered.
    fn set_all(&mut self, value: &str) -> Result<(), Refusal> {
        let mut all: Self = serde_json::from_str(value)
            .map_err(|error| Refusal::Unhandled(format!("batch: {error}")))?;
        for params in [all.http_health_params, all.tcp_health_params] {
            params.check()?;
        }
        all.limited_url_map
            .retain(|_, status| (200..600).contains(status));
        all.enable_standalone = self.enable_standalone;
        all.status = self.status;
        let status = all.overridden_server_status.clone();
        all.override_status(&status.unwrap_or_default());
        *self = all;
        Ok(())
    }

    fn set_version(&mut self, like: Like, value: &str) -> Result<(), Refusal> {
        let (kind, version) = version(value)?;
        let there = match kind {
            "java" => &mut self.push_java_version,
            "python" => &mut self.push_python_version,
            "c" => &mut self.push_c_version,
            "go" => &mut self.push_go_version,
            "csharp" if like != Like::V1_4 => &mut self.push_csharp_version,
            _ => {
                let words = format!("unsupported client type: {kind}");
                return Err(Refusal::Switch(words));
            }
        };
        version.clone_into(there);
        Ok(())
    }

    /// What is no status is shown, and changes nothing.
    fn override_status(&mut self, value: &str) {
        let value = if value == "null" { "" } else { value };
        let named = |status: &Status| status.name() == value;
        if value.trim().is_empty() {
            self.status = Status::Up;
        } else if let Some(status) = Status::ALL.into_iter().find(named) {
            self.status = status;
        }
        self.overridden_server_status = Some(value.to_owned());
    }

    /// The same as it comes back from where it was kept.
    pub(crate) fn recalled(&self) -> Self {
        let mut switches = self.clone();
        if let Some(status) = &self.overridden_server_status {
            switches.override_status(status);
        }
        switches
    }

    /// Shows the rules of the checks as they are.
    pub(crate) fn take_check_rules(&mut self, rules: &CheckRules) {
        self.health_check_enabled = rules.enabled;
        self.check_times = i32::try_from(rules.times).unwrap_or(i32::MAX);
        self.tcp_health_params = HealthParams::said(rules.tcp);
        self.http_health_params = HealthParams::said(rules.http);
    }

    /// The rules of the checks as they are set here; what no switch sets stays.
    pub(crate) fn check_rules(&self, rules: CheckRules) -> CheckRules {
        CheckRules {
            enabled: self.health_check_enabled,
            // Without one result nothing turns there either.
            times: u32::try_from(self.check_times).unwrap_or(0).max(1),
            tcp: self.tcp_health_params.interval(),
            http: self.http_health_params.interval(),
            ..rules
        }
    }

    /// What the registry says it is.
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Whether a call under `/v1/ns` is let in: the first beginning of its path that is limited, then the status.
    pub(crate) fn admits(&self, method: &str, target: &str, agent: &str) -> Result<(), Refusal> {
        let limited = self.limited_url_map.iter();
        let begins = |(url, _): &(&String, &i32)| target.starts_with(url.as_str());
        if let Some((_, status)) = limited.clone().find(begins) {
            return Err(Refusal::Limited(u16::try_from(*status).unwrap_or(503)));
        }
        let admitted = match self.status {
            Status::Up => true,
            Status::WriteOnly => method != "GET",
            Status::ReadOnly => method == "GET",
            Status::Down | Status::Starting | Status::Paused => false,
        };
        // The original's own word for another node of its cluster, and the one way to take a status back that admits nothing.
        if admitted || agent.starts_with("Nacos-Server") {
            return Ok(());
        }
        Err(Refusal::Status(self.status.name()))
    }

    /// Whether a client that calls itself so is pushed over UDP.
    pub(crate) fn pushes_to(&self, agent: &str) -> bool {
        let least = [
            ("Nacos-Java-Client", &self.push_java_version),
            ("Nacos-DNS", &self.push_python_version),
            ("Nacos-C-Client", &self.push_c_version),
            ("vip-client4cpp", &self.push_c_version),
            ("Nacos-Go-Client", &self.push_go_version),
            ("Nacos-CSharp-Client", &self.push_csharp_version),
        ];
        let known = least.iter().find(|(begins, _)| agent.starts_with(begins));
        let version = agent.split_once(":v").map(|(_, version)| version);
        self.push_enabled
            && known
                .zip(version)
                .is_some_and(|((_, least), version)| numbers(version) >= numbers(least))
    }

    /// As they are shown.
    pub(crate) fn shown(&self, like: Like) -> Value {
        let mut shown = json!(self);
        let Some(all) = shown.as_object_mut() else {
            // Cannot be: a struct is an object.
            return shown;
        };
        if like == Like::V3_0 {
            for (is, was) in [
                ("pushVersionOfGo", "pushGoVersion"),
                ("pushVersionOfJava", "pushJavaVersion"),
                ("pushVersionOfPython", "pushPythonVersion"),
                ("pushVersionOfC", "pushCVersion"),
                ("pushVersionOfCsharp", "pushCSharpVersion"),
            ] {
                let version = all.remove(was).unwrap_or_default();
                all.insert(is.to_owned(), version);
            }
        }
        // A float as it is written: 0.7 widened would be 0.699999988079071.
        all.insert("distroThreshold".to_owned(), short(self.distro_threshold));
        for (name, params) in [
            ("httpHealthParams", self.http_health_params),
            ("tcpHealthParams", self.tcp_health_params),
            ("mysqlHealthParams", self.mysql_health_params),
        ] {
            let HealthParams { max, min, factor } = params;
            let params = json!({"max": max, "min": min, "factor": short(factor)});
            all.insert(name.to_owned(), params);
        }
        for (name, value) in [
            ("adWeightMap", json!({})),
            ("incrementalList", json!([])),
            ("healthCheckWhiteList", json!([])),
            ("enableAuthentication", json!(false)),
            ("name", json!("00-00---000-NACOS_SWITCH_DOMAIN-000---00-00")),
            ("checksum", Value::Null),
        ] {
            all.insert(name.to_owned(), value);
        }
        shown
    }
}

fn short(number: f32) -> Value {
    let number: f64 = number.to_string().parse().unwrap_or(number.into());
    json!(number)
}

/// The first three numbers of a version; what is none is 0.
fn numbers(version: &str) -> [u64; 3] {
    let mut parts = version.split(['-', '_', '.', '/', ';', ':']);
    [(); 3].map(|()| {
        let part = parts.next().unwrap_or_default();
        let end = part.find(|c: char| !c.is_ascii_digit());
        let digits = part.get(..end.unwrap_or(part.len()));
        digits.unwrap_or_default().parse().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(like: Like, entry: &str, value: &str) -> Result<Value, Refusal> {
        let mut switches = Switches::default();
        switches.set(like, entry, value)?;
        Ok(switches.shown(like))
    }

    #[test]
    fn health_parameters_are_checked_and_filled_from_the_delivered_ones() {
        let shown = set(Like::V2_5, "tcpHealthParams", r#"{"min":1500}"#).unwrap();
        let filled = json!({"max": 5_000, "min": 1_500, "factor": 0.75});
        assert_eq!(shown["tcpHealthParams"], filled);
        for bad in [
            r#"{"min":499}"#,
            r#"{"max":2999}"#,
            r#"{"factor":1.5}"#,
            "x",
        ] {
            assert!(set(Like::V2_5, "tcpHealthParams", bad).is_err(), "{bad}");
        }
        // 1.4 does not know the entry, and takes them in a batch.
        assert!(set(Like::V1_4, "tcpHealthParams", "x").is_ok());
        let batch = r#"{"tcpHealthParams":{"max":4000,"min":1500,"factor":0.5}}"#;
        let shown = set(Like::V1_4, "batch", batch).unwrap();
        assert_eq!(shown["tcpHealthParams"]["max"], 4_000);
    }

    #[test]
    fn who_is_pushed_is_a_matter_of_name_and_version() {
        let mut switches = Switches::default();
        for (agent, pushed) in [
            ("Nacos-Java-Client:v1.4.8", true),
            ("Nacos-Java-Client:v0.0.9", false),
            ("Nacos-Java-Client", false),
            ("Nacos-Go-Client:v1.1.6", true),
            ("Nacos-C-Client:v1.0.12", true),
            ("Nacos-C-Client:v1.0.9", false),
            ("Nacos-Python-Client:v1.0.0", false),
            ("Nacos-Rust-Client:v0.8.3", false),
            ("", false),
        ] {
            assert_eq!(switches.pushes_to(agent), pushed, "{agent}");
        }
        switches
            .set(Like::V2_5, "pushVersion", "java:1.4.9")
            .unwrap();
        assert!(!switches.pushes_to("Nacos-Java-Client:v1.4.8"));
        assert!(switches.pushes_to("Nacos-Java-Client:v1.10.0"));
        switches.set(Like::V2_5, "pushEnabled", "no").unwrap();
        assert!(!switches.pushes_to("Nacos-Go-Client:v1.1.6"));
    }

    #[test]
    fn a_status_lets_in_what_it_says_and_nonsense_changes_nothing() {
        let mut switches = Switches::default();
        let mut say = |status: &str| {
            let entry = "overriddenServerStatus";
            switches.set(Like::V2_5, entry, status).unwrap();
            ["GET", "PUT"].map(|method| switches.admits(method, "/x", "").is_ok())
        };
        assert_eq!(say("READ_ONLY"), [true, false]);
        assert_eq!(say("NONSENSE"), [true, false]);
        assert_eq!(say("WRITE_ONLY"), [false, true]);
        assert_eq!(say("DOWN"), [false, false]);
        assert_eq!(say("null"), [true, true]);
    }
}
