//! Descriptor files: every key of `docs/descriptors.md`, its default and its limits.

use super::Surroundings;
use super::reader::Fields;
use super::reader::Problems;
use super::reader::Source;
use super::reader::Value;
use super::reader::nearest;
use super::reader::shown;
use super::settings::Settings;
use super::spec::{
    Address, AddressRules, Cidr, Command, Config, Descriptor, Format, Heartbeat, OnAbsent,
    OnFailure, Owner, Probe, ProbeKind, Process, Reload, Service, Target, Validate, Written,
};
use super::url;
use crate::foreign::Foreign;
use crate::report::Problem;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};

/// Group of services and configurations that name none, as Nacos calls it.
const DEFAULT_GROUP: &str = "DEFAULT_GROUP";
/// Cluster of instances that name none, as Nacos calls it.
const DEFAULT_CLUSTER: &str = "DEFAULT";
/// Metadata of one instance, names and values together (the server's `nacos.naming.service.metadata.length`).
const MAX_METADATA: usize = 1024;
/// What the server assumes where the heartbeat is not written.
const SERVER_INTERVAL: Duration = Duration::from_secs(5);
const SERVER_TIMEOUT: Duration = Duration::from_secs(15);
const SERVER_DELETE_AFTER: Duration = Duration::from_secs(30);
/// Each heartbeat key with the metadata it becomes.
const PRESERVED: [(&str, &str); 3] = [
    ("interval", "preserved.heart.beat.interval"),
    ("timeout", "preserved.heart.beat.timeout"),
    ("delete_after", "preserved.ip.delete.timeout"),
];
const DEFAULT_MAX_SIZE: u64 = 10 * 1024 * 1024;
/// A content is held in memory while it is checked.
const MAX_SIZE: u64 = 100 * 1024 * 1024;
const SIGNALS: [&str; 9] = [
    "HUP", "USR1", "USR2", "WINCH", "TERM", "INT", "QUIT", "ALRM", "CONT",
];
/// Words of one command.
const MAX_WORDS: usize = 256;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two probes or beats.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// For one probe, command or request.
const TIMEOUTS: RangeInclusive<Duration> = MS..=Duration::from_secs(60 * 60);

/// Reads one descriptor; touches nothing but its arguments.
///
/// # Errors
///
/// Everything that is wrong with it, by line.
pub fn parse(
    source: &Path,
    text: &str,
    settings: &Settings,
    around: &Surroundings,
) -> Result<Descriptor, Vec<Problem>> {
    let problems = Problems::default();
    let (source, root) = Source::file(source, text, Some(&around.env), &problems);
    let mut descriptor = Descriptor::default();
    if let Some(root) = root.filter(|root| !root.is_null()) {
        let context = Context::new(settings, around);
        if let Some(mut fields) = Value::root(&source, &root).fields("services: [...]") {
            context.descriptor(&mut fields, &mut descriptor);
            fields.finish();
        }
    }
    problems.or(descriptor)
}

/// What reading an entry takes beside the entry.
pub(super) struct Context<'a> {
    namespace: &'a str,
    privileged: bool,
    /// `OUTRIGGER_FORBID=exec`.
    no_commands: bool,
}

impl<'a> Context<'a> {
    pub(super) fn new(settings: &'a Settings, around: &Surroundings) -> Self {
        Self {
            namespace: &settings.registry.namespace,
            privileged: around.privileged,
            no_commands: around
                .env
                .get("OUTRIGGER_FORBID")
                .is_some_and(|forbidden| forbidden.split(',').any(|word| word.trim() == "exec")),
        }
    }

    fn descriptor(&self, fields: &mut Fields<'_>, descriptor: &mut Descriptor) {
        let services = fields
            .get("services")
            .and_then(|value| value.list("a list: - name: orders"));
        for value in services.unwrap_or_default() {
            if let Some(mut fields) = value.fields("- name: orders") {
                let (service, written) = self.service(&mut fields);
                fields.finish();
                descriptor.services.push(service);
                descriptor.places.services.push(written);
            }
        }
        let configs = fields
            .get("configs")
            .and_then(|value| value.list("a list: - data_id: orders.yaml"));
        for value in configs.unwrap_or_default() {
            if let Some(mut fields) = value.fields("- data_id: orders.yaml") {
                let (config, written) = self.config(&mut fields);
                fields.finish();
                descriptor.configs.push(config);
                descriptor.places.configs.push(written);
            }
        }
        fields.not_yet("subscriptions", "keep services and configs, leave it out");
    }

    /// A service; where something was noted, with defaults in place of it.
    pub(super) fn service(&self, fields: &mut Fields<'_>) -> (Service, Written) {
        let name = fields.need("name");
        let written = name.as_ref().map(Value::written).unwrap_or_default();
        let port = fields.need("port").and_then(|value| port(&value));
        let heartbeat = fields.get("heartbeat").and_then(|value| heartbeat(&value));
        let heartbeat = heartbeat.unwrap_or_default();
        let metadata = fields
            .get("metadata")
            .and_then(|value| metadata(&value, &heartbeat));
        let probe = match fields.get("probe") {
            Some(value) => self.probe(&value, port.unwrap_or_default()),
            None => Some(default_probe(port.unwrap_or_default())),
        };
        let on_failure = fields.get("on_failure").and_then(|value| {
            value.choice(&[
                ("deregister", OnFailure::Deregister),
                ("unhealthy", OnFailure::Unhealthy),
            ])
        });
        let drain_delay = fields.get("drain").and_then(|value| {
            let mut fields = value.fields("drain: { delay: 5s }")?;
            let delay = fields.get("delay");
            let delay = delay.and_then(|value| value.duration(Duration::ZERO..=DAY));
            fields.finish();
            delay
        });
        if let Some(value) = fields.get("ephemeral")
            && value.boolean() == Some(false)
        {
            value.wrong::<()>(
                "not in this version",
                "leave it out: instances are ephemeral and go when the agent falls silent",
            );
        }
        let service = Service {
            name: name
                .and_then(|value| service_name(&value))
                .unwrap_or_default(),
            group: group(fields),
            namespace: self.namespace(fields),
            cluster: fields
                .get("cluster")
                .and_then(|value| checked(&value, "cluster", 64, "-"))
                .unwrap_or_else(|| DEFAULT_CLUSTER.to_owned()),
            port: port.unwrap_or_default(),
            address: fields
                .get("address")
                .and_then(|value| address(&value))
                .unwrap_or_else(|| Address::Auto(AddressRules::default())),
            weight: fields
                .get("weight")
                .and_then(|value| {
                    value.number(
                        "a weight",
                        0.0..=10_000.0,
                        "weights go from 0 to 10000; 0 takes the instance out of traffic",
                    )
                })
                .unwrap_or(1.0),
            enabled: fields
                .get("enabled")
                .and_then(|value| value.boolean())
                .unwrap_or(true),
            metadata: metadata.unwrap_or_default(),
            heartbeat,
            probe,
            on_failure: on_failure.unwrap_or(OnFailure::Deregister),
            drain_delay: drain_delay.unwrap_or_default(),
        };
        (service, written)
    }

    fn namespace(&self, fields: &mut Fields<'_>) -> String {
        fields
            .get("namespace")
            .and_then(|value| namespace(&value))
            .unwrap_or_else(|| self.namespace.to_owned())
    }

    fn probe(&self, value: &Value<'_>, port: u16) -> Option<Probe> {
        if value.is_scalar() {
            value.choice(&[("none", ())]);
            return None;
        }
        let example = "probe: { tcp: {} }, { http: { path: /health } }, { exec: { command: [...] } }, or none";
        let mut fields = value.fields(example)?;
        let timeout = fields
            .get("timeout")
            .and_then(|value| value.duration(TIMEOUTS));
        let kind = fields.exactly_one(&["tcp", "http", "exec"], example);
        let kind = kind.and_then(|name| {
            let value = fields.get(name)?;
            match name {
                "tcp" => {
                    let mut fields = value.fields("tcp: {}")?;
                    let (host, port) = self.host_and_port(&mut fields, port);
                    fields.finish();
                    Some(ProbeKind::Tcp { host, port })
                }
                "http" => {
                    let mut fields = value.fields("http: { path: /health }")?;
                    let (host, port) = self.host_and_port(&mut fields, port);
                    let path = fields.need("path").and_then(|value| request_path(&value));
                    fields.finish();
                    Some(ProbeKind::Http {
                        host,
                        port,
                        path: path?,
                    })
                }
                _ => {
                    let mut fields = value.fields("exec: { command: [/usr/bin/check] }")?;
                    let words = fields.need("command");
                    let run_as = fields.get("run_as");
                    fields.finish();
                    let timeout = timeout.unwrap_or(Duration::from_secs(5));
                    self.command(&words?, run_as, timeout).map(ProbeKind::Exec)
                }
            }
        });
        let interval = fields
            .get("interval")
            .and_then(|value| value.duration(INTERVALS));
        let mut times = |name| {
            let value = fields.get(name)?;
            let count = value.integer(&format!("`{name}`"), 1..=1000)?;
            u32::try_from(count).ok()
        };
        let (rise, fall) = (times("rise"), times("fall"));
        fields.finish();
        let kind = kind?;
        let default = match kind {
            ProbeKind::Exec(_) => Duration::from_secs(5),
            _ => Duration::from_millis(500),
        };
        Some(Probe {
            kind,
            interval: interval.unwrap_or(Duration::from_secs(1)),
            timeout: timeout.unwrap_or(default),
            rise: rise.unwrap_or(2),
            fall: fall.unwrap_or(3),
        })
    }

    fn host_and_port(&self, fields: &mut Fields<'_>, default: u16) -> (IpAddr, u16) {
        let host = fields.get("host").and_then(|value| {
            let text = value.text()?;
            match text.parse::<IpAddr>() {
                Ok(host) => Some(host),
                Err(_) => value.wrong(
                    format!("`{}` is not an IP address", Foreign::new(text)),
                    "write 127.0.0.1 or another address of this host; names are not looked up",
                ),
            }
        });
        let port = fields.get("port").and_then(|value| port(&value));
        (
            host.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            port.unwrap_or(default),
        )
    }

    fn command(
        &self,
        words: &Value<'_>,
        run_as: Option<Value<'_>>,
        timeout: Duration,
    ) -> Option<Command> {
        if self.no_commands {
            words.wrong::<()>(
                "commands are ruled out by OUTRIGGER_FORBID=exec",
                "use tcp or http, a format, or a signal instead",
            );
        }
        if self.privileged && run_as.is_none() {
            words.wrong::<()>(
                "a command of a privileged agent needs `run_as`",
                "write run_as: root to keep root's rights, or a user",
            );
        }
        let run_as = run_as.and_then(|value| {
            let text = value.text()?;
            match is_account(&text) {
                true => Some(text),
                false => value.wrong(
                    format!("`{}` is not a user", Foreign::new(text)),
                    "write a user's name or number",
                ),
            }
        });
        let items = words.list("a list of words, there is no shell: [nginx, -s, reload]")?;
        if items.len() > MAX_WORDS {
            return words.wrong(
                format!("{} words are more than {MAX_WORDS}", items.len()),
                "put the command into a script",
            );
        }
        let Some(program) = items.first() else {
            return words.wrong("an empty command", "write the program and its arguments");
        };
        program.text()?;
        let argv = items
            .iter()
            .map(|word| {
                let text = word.any_text()?;
                if text.contains('\0') {
                    return word.wrong("holds a NUL character", "");
                }
                Some(text)
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Command {
            argv,
            timeout,
            run_as,
        })
    }

    /// A configuration; where something was noted, with defaults in place of it.
    fn config(&self, fields: &mut Fields<'_>) -> (Config, Written) {
        let path = fields.need("path");
        let written = path.as_ref().map(Value::written).unwrap_or_default();
        let data_id = fields
            .need("data_id")
            .and_then(|value| checked(&value, "data id", 256, ".:_-"));
        let on_absent = fields.get("on_absent").and_then(|value| {
            value.choice(&[
                ("keep", OnAbsent::Keep),
                ("remove", OnAbsent::Remove),
                ("fail", OnAbsent::Fail),
            ])
        });
        fields.not_yet(
            "verify",
            "leave it out; `validate` checks a content before it replaces the file",
        );
        let target = Target {
            path: path.and_then(|value| value.path()).unwrap_or_default(),
            mode: fields
                .get("mode")
                .and_then(|value| mode(&value))
                .unwrap_or(0o640),
            owner: fields.get("owner").and_then(|value| owner(&value)),
            required: fields
                .get("required")
                .and_then(|value| value.boolean())
                .unwrap_or(false),
            on_absent: on_absent.unwrap_or(OnAbsent::Keep),
            max_size: fields
                .get("max_size")
                .and_then(|value| value.integer("a size in bytes", 1..=MAX_SIZE))
                .unwrap_or(DEFAULT_MAX_SIZE),
            validate: fields
                .get("validate")
                .and_then(|value| self.validate(&value)),
            reload: fields.get("reload").and_then(|value| self.reload(&value)),
        };
        let config = Config {
            data_id: data_id.unwrap_or_default(),
            group: group(fields),
            namespace: self.namespace(fields),
            target,
        };
        (config, written)
    }

    fn validate(&self, value: &Value<'_>) -> Option<Validate> {
        let example = "validate: { format: json } or { exec: [nginx, -t, -c, \"{staged}\"] }";
        let mut fields = value.fields(example)?;
        let form = fields.exactly_one(&["format", "exec"], example);
        let validate = form.and_then(|name| {
            let value = fields.get(name)?;
            if name == "exec" {
                return self.own_command(&value, &mut fields).map(Validate::Exec);
            }
            fields.idle(&["timeout", "run_as"], "format");
            let format = value.choice(&[
                ("json", Format::Json),
                ("yaml", Format::Yaml),
                ("toml", Format::Toml),
                ("properties", Format::Properties),
                ("xml", Format::Xml),
            ]);
            format.map(Validate::Format)
        });
        if form.is_some() {
            fields.finish();
        }
        validate
    }

    fn reload(&self, value: &Value<'_>) -> Option<Reload> {
        let example = "reload: { signal: HUP, pid_file: /run/app/pid }, { exec: [...] } or { http: \"http://...\" }";
        let mut fields = value.fields(example)?;
        let form = fields.exactly_one(&["signal", "exec", "http"], example);
        let reload = form.and_then(|name| {
            let value = fields.get(name)?;
            match name {
                "signal" => {
                    fields.idle(&["timeout", "run_as", "method"], name);
                    let process = process(&mut fields);
                    Some(Reload::Signal {
                        signal: signal(&value)?,
                        process: process?,
                    })
                }
                "exec" => {
                    fields.idle(&["pid_file", "process", "method"], name);
                    self.own_command(&value, &mut fields).map(Reload::Exec)
                }
                _ => {
                    fields.idle(&["pid_file", "process", "run_as"], name);
                    let method = fields.get("method").and_then(|value| {
                        value.choice(&[("POST", "POST"), ("PUT", "PUT"), ("GET", "GET")])
                    });
                    let timeout = fields
                        .get("timeout")
                        .and_then(|value| value.duration(TIMEOUTS));
                    Some(Reload::Http {
                        method: method.unwrap_or("POST").to_owned(),
                        url: url::whole(&value, "http: \"http://127.0.0.1:9000/reload\"")?,
                        timeout: timeout.unwrap_or(Duration::from_secs(5)),
                    })
                }
            }
        });
        if form.is_some() {
            fields.finish();
        }
        reload
    }

    /// `exec` with the `timeout` and `run_as` beside it.
    fn own_command(&self, words: &Value<'_>, fields: &mut Fields<'_>) -> Option<Command> {
        let timeout = fields
            .get("timeout")
            .and_then(|value| value.duration(TIMEOUTS));
        let run_as = fields.get("run_as");
        self.command(words, run_as, timeout.unwrap_or(Duration::from_secs(30)))
    }
}

fn default_probe(port: u16) -> Probe {
    Probe {
        kind: ProbeKind::Tcp {
            host: Ipv4Addr::LOCALHOST.into(),
            port,
        },
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
    }
}

fn port(value: &Value<'_>) -> Option<u16> {
    u16::try_from(value.integer("a port", 1..=65_535)?).ok()
}

fn group(fields: &mut Fields<'_>) -> String {
    fields
        .get("group")
        .and_then(|value| checked(&value, "group", 128, ".:_-"))
        .unwrap_or_else(|| DEFAULT_GROUP.to_owned())
}

/// A namespace id; nothing is `public`, as on every server.
pub(super) fn namespace(value: &Value<'_>) -> Option<String> {
    if value.any_text()?.is_empty() {
        return Some("public".to_owned());
    }
    checked(value, "namespace id", 64, "_-")
}

fn service_name(value: &Value<'_>) -> Option<String> {
    if let Some((group, name)) = value.any_text()?.split_once("@@") {
        return value.wrong(
            "a group stands in front of the name",
            &format!(
                "write name: {} and group: {}",
                Foreign::new(name),
                Foreign::new(group)
            ),
        );
    }
    checked(value, "service name", 512, ".:_-")
}

/// ASCII letters, digits and `marks`: what all servers take.
fn checked(value: &Value<'_>, what: &str, most: usize, marks: &str) -> Option<String> {
    let text = value.text()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    if !text.chars().all(allowed) {
        let apart: Vec<String> = marks.chars().map(String::from).collect();
        return value.wrong(
            format!("`{}` is not a {what}", Foreign::new(text)),
            &format!("letters, digits and {} are allowed", apart.join(" ")),
        );
    }
    if text.len() > most {
        return value.wrong(
            format!("a {what} of {} characters", text.len()),
            &format!("at most {most} are allowed"),
        );
    }
    Some(text)
}

fn address(value: &Value<'_>) -> Option<Address> {
    let help = "write an IP address, auto, or { cidr: [10.0.0.0/8], interface: eth0, prefer: v4 }";
    if value.is_scalar() {
        let text = value.text()?;
        if text == "auto" {
            return Some(Address::Auto(AddressRules::default()));
        }
        return match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                value.wrong(format!("nobody can call {ip}"), help)
            }
            Ok(ip) => Some(Address::Explicit(ip)),
            Err(_) => value.wrong(
                format!("`{}` is not an IP address", Foreign::new(text)),
                help,
            ),
        };
    }
    let mut fields = value.fields(help)?;
    let cidrs = fields.get("cidr").and_then(|value| {
        let items = value.list("cidr: [10.0.0.0/8]")?;
        items.iter().map(cidr).collect::<Option<Vec<_>>>()
    });
    let interface = fields.get("interface").and_then(|value| {
        let text = value.text()?;
        // IFNAMSIZ without its NUL.
        let right = text.len() <= 15 && !text.contains(|c: char| c == '/' || c.is_whitespace());
        match right {
            true => Some(text),
            false => value.wrong(
                format!("`{}` is not an interface", Foreign::new(text)),
                "write its name as `ip link` shows it",
            ),
        }
    });
    let prefer_v6 = fields
        .get("prefer")
        .and_then(|value| value.choice(&[("v4", false), ("v6", true)]));
    fields.finish();
    Some(Address::Auto(AddressRules {
        cidrs: cidrs.unwrap_or_default(),
        interface,
        prefer_v6: prefer_v6.unwrap_or(false),
    }))
}

fn cidr(value: &Value<'_>) -> Option<Cidr> {
    let text = value.text()?;
    let parsed = text.split_once('/').and_then(|(network, prefix)| {
        let network = network.parse::<IpAddr>().ok()?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix
            .parse::<u8>()
            .ok()
            .filter(|bits| digits && *bits <= most)?;
        Some(Cidr { network, prefix })
    });
    match parsed {
        Some(cidr) => Some(cidr),
        None => value.wrong(
            format!("`{}` is not a network", Foreign::new(text)),
            "write an address and its leading bits: 10.0.0.0/8",
        ),
    }
}

fn heartbeat(value: &Value<'_>) -> Option<Heartbeat> {
    let example = "heartbeat: { interval: 5s, timeout: 15s, delete_after: 30s }";
    let mut fields = value.fields(example)?;
    let mut time = |name| {
        let value = fields.get(name);
        let time = value.as_ref().and_then(|value| value.duration(INTERVALS));
        (value, time)
    };
    let (at, interval) = time("interval");
    let (_, timeout) = time("timeout");
    let (_, delete_after) = time("delete_after");
    let written = [interval, timeout, delete_after]
        .iter()
        .any(Option::is_some);
    let beat = interval.unwrap_or(SERVER_INTERVAL);
    let limits = [
        ("timeout", timeout, SERVER_TIMEOUT),
        ("delete_after", delete_after, SERVER_DELETE_AFTER),
    ];
    for (name, limit, default) in limits {
        // A limit with a mistake of its own was noted and says nothing about the others.
        let wrong = fields.has(name) && limit.is_none();
        let limit = limit.unwrap_or(default);
        if written && !wrong && beat >= limit && !(at.is_some() && interval.is_none()) {
            at.as_ref().unwrap_or(value).wrong::<()>(
                format!(
                    "a beat every {} is not shorter than `{name}`, {}",
                    shown(beat),
                    shown(limit)
                ),
                "the registry demands it; the server's own times are 5s, 15s and 30s",
            );
        }
    }
    fields.finish();
    Some(Heartbeat {
        interval,
        timeout,
        delete_after,
    })
}

fn metadata(value: &Value<'_>, heartbeat: &Heartbeat) -> Option<BTreeMap<String, String>> {
    let fields = value.fields("metadata: { version: \"1.4\" }")?;
    let mut metadata = BTreeMap::new();
    for (key, value) in fields.all() {
        if let Some((name, _)) = PRESERVED.iter().find(|(_, preserved)| *preserved == key) {
            value.wrong::<()>(
                "is written by the heartbeat",
                &format!("write heartbeat: {{ {name}: ... }} instead"),
            );
            continue;
        }
        if key.is_empty() {
            value.wrong::<()>("a name is missing", "");
            continue;
        }
        if value.is_null() {
            value.wrong::<()>(
                "has no value",
                "give it one (\"\" for an empty text) or leave it out",
            );
            continue;
        }
        if let Some(text) = value.any_text() {
            metadata.insert(key.to_owned(), text);
        }
    }
    let own: usize = metadata
        .iter()
        .map(|(key, text)| key.chars().count() + text.chars().count())
        .sum();
    let times = [
        heartbeat.interval,
        heartbeat.timeout,
        heartbeat.delete_after,
    ];
    let beats: usize = PRESERVED
        .iter()
        .zip(times)
        .filter_map(|((_, key), time)| Some(key.len() + time?.as_millis().to_string().len()))
        .sum();
    if own + beats > MAX_METADATA {
        return value.wrong(
            format!("{} characters are more than {MAX_METADATA}", own + beats),
            "the server takes no more, names, values and heartbeat together",
        );
    }
    Some(metadata)
}

fn request_path(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.contains("://") {
        return value.wrong(
            format!("`{}` is a URL", Foreign::new(text)),
            "write the path here, host and port beside it",
        );
    }
    let right = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    match right {
        true => Some(text),
        false => value.wrong(
            format!("`{}` is not a path of a request", Foreign::new(text)),
            "begin it with /, and escape blanks and letters beyond ASCII as in a URL",
        ),
    }
}

fn mode(value: &Value<'_>) -> Option<u32> {
    let text = value.quoted("it in quotes: mode: \"0640\"")?;
    let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let bits = u32::from_str_radix(&text, 8).ok().filter(|_| octal);
    match bits {
        Some(bits) if bits > 0o777 => value.wrong(
            format!("\"{text}\" sets more than read, write and execute"),
            "modes go from \"0000\" to \"0775\"",
        ),
        Some(bits) if bits & 0o002 != 0 => value.wrong(
            format!("\"{text}\" lets everybody write"),
            "leave the write bit of others out, as in \"0640\" or \"0644\"",
        ),
        Some(bits) => Some(bits),
        None => value.wrong(
            format!("\"{}\" is not a mode", Foreign::new(text)),
            "write octal digits: \"0640\"",
        ),
    }
}

fn owner(value: &Value<'_>) -> Option<Owner> {
    let text = value.text()?;
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text.as_str(), None),
    };
    let right = match group {
        Some(group) => is_account(group) && (user.is_empty() || is_account(user)),
        None => is_account(user),
    };
    if !right {
        return value.wrong(
            format!("`{}` is not an owner", Foreign::new(text)),
            "write user, user:group or :group, names or numbers",
        );
    }
    Some(Owner {
        user: (!user.is_empty()).then(|| user.to_owned()),
        group: group.map(str::to_owned),
    })
}

/// A user's or group's name, or a number.
pub(super) fn is_account(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    !name.is_empty() && name.len() <= 32 && !name.starts_with('-') && name.chars().all(letters)
}

fn signal(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if SIGNALS.contains(&text.as_str()) {
        return Some(text);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let help = match nearest(bare, SIGNALS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("signals are {}", SIGNALS.join(", ")),
    };
    value.wrong(format!("`{}` is not a signal", Foreign::new(text)), &help)
}

fn process(fields: &mut Fields<'_>) -> Option<Process> {
    let example = "pid_file: /run/app/pid, or process: /usr/sbin/nginx, beside the signal";
    let name = fields.exactly_one(&["pid_file", "process"], example)?;
    let value = fields.get(name)?;
    if name == "pid_file" {
        return value.path().map(Process::PidFile);
    }
    let text = value.text()?;
    if text.starts_with('/') {
        let path = value.path()?;
        return path.to_str().map(|path| Process::Named(path.to_owned()));
    }
    if text.contains('/') || text.chars().any(char::is_control) {
        return value.wrong(
            format!("`{}` is not a process", Foreign::new(text)),
            "write the executable's absolute path, or the process's name",
        );
    }
    Some(Process::Named(text))
}
