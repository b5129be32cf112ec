//! Descriptor files: every key of `docs/descriptors.md`, its default and its limits.

use super::Surroundings;
use super::reader::Fields;
use super::reader::Problems;
use super::reader::Replaced;
use super::reader::Source;
use super::reader::Value;
use super::reader::nearest;
use super::reader::shown;
use super::settings::{Origin, PasswordSource, Servers, Settings};
use super::spec::{
    Address, AddressRules, Cidr, Command, Descriptor, Fleet, FleetThen, Format, Heartbeat,
    OnAbsent, OnDrift, OnFailure, Owner, Pacing, Probe, ProbeKind, Process, Publish, Reload,
    Service, Splay, SplayBy, Target, Validate, Verify, VerifyKind, Written,
};
use super::url;
use crate::authority;
use crate::foreign::Foreign;
use crate::report::Problem;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
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
/// Nacos' own limit; a larger content is not fetched.
const MAX_SIZE: u64 = 10 * 1024 * 1024;
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
/// How long nothing new must come before a burst of changes is over.
const QUIETS: RangeInclusive<Duration> = MS..=Duration::from_secs(60);
/// How long a burst of changes is waited for.
const LONGESTS: RangeInclusive<Duration> = MS..=Duration::from_secs(600);
/// `at_most_every`, `splay`.
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
/// How long a turn is waited for while nothing moves.
const WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// How many instances of a service may reload at once.
const MAX_TURNS: u64 = 1000;
/// A service's name is part of another one's.
const MAX_FLEET_NAME: usize = 400;

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
    let replace = Replaced {
        env: &around.env,
        listed: &settings.catalog.variables,
    };
    let (source, root) = Source::file(source, text, Some(replace), &problems);
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
    /// What the agent itself lives on, with the setting that says where: no target.
    reserved: Vec<(PathBuf, &'static str)>,
    privileged: bool,
    /// `OUTRIGGER_FORBID=exec`.
    no_commands: bool,
    /// Whether the registry is on this host.
    pub(super) loopback: bool,
}

impl<'a> Context<'a> {
    pub(super) fn new(settings: &'a Settings, around: &Surroundings) -> Self {
        Self {
            namespace: &settings.registry.namespace,
            reserved: reserved(settings),
            privileged: around.privileged,
            loopback: on_loopback(&settings.registry.servers),
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
                let (config, [written, template]) = self.config(&mut fields);
                fields.finish();
                descriptor.configs.push(config);
                descriptor.places.configs.push(written);
                descriptor.places.config_templates.push(template);
            }
        }
        let subscriptions = fields
            .get("subscriptions")
            .and_then(|value| value.list("a list: - service: payments"));
        for value in subscriptions.unwrap_or_default() {
            if let Some(mut fields) = value.fields("- service: payments") {
                let (subscription, [written, template]) = self.subscription(&mut fields);
                fields.finish();
                descriptor.subscriptions.push(subscription);
                descriptor.places.subscriptions.push(written);
                descriptor.places.templates.push(template);
            }
        }
    }

    /// A service; where something was noted, with defaults in place of it.
    pub(super) fn service(&self, fields: &mut Fields<'_>) -> (Service, Written) {
        let name = fields.need("name");
        let written = name.as_ref().map(Value::written).unwrap_or_default();
        let port = fields.need("port").and_then(|value| port(&value));
        let ephemeral = fields.get("ephemeral").and_then(|value| value.boolean());
        let ephemeral = ephemeral.unwrap_or(true);
        let heartbeat = fields.get("heartbeat").and_then(|value| {
            if !ephemeral {
                return value.wrong(
                    "a persistent instance has no heartbeat",
                    "leave it out, or leave out `ephemeral: false`",
                );
            }
            heartbeat(&value)
        });
        let heartbeat = heartbeat.unwrap_or_default();
        let metadata = fields
            .get("metadata")
            .and_then(|value| metadata(&value, &heartbeat));
        let probe = match fields.get("probe") {
            Some(value) => self.probe(&value, port.unwrap_or_default()),
            None => Some(default_probe(port.unwrap_or_default())),
        };
        let on_failure = fields.get("on_failure").and_then(|value| {
            let choice = value.choice(&[
                ("deregister", OnFailure::Deregister),
                ("unhealthy", OnFailure::Unhealthy),
            ]);
            if choice == Some(OnFailure::Deregister) && !ephemeral {
                value.wrong::<()>(
                    "a persistent instance is not taken out by a failing probe",
                    "leave it out: with `ephemeral: false` the verdict is the instance's health in the registry",
                );
            }
            choice
        });
        let drain_delay = fields.get("drain").and_then(|value| {
            let mut fields = value.fields("drain: { delay: 5s }")?;
            let delay = fields.get("delay");
            let delay = delay.and_then(|value| value.duration(Duration::ZERO..=DAY));
            fields.finish();
            delay
        });
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
            ephemeral,
            on_failure: match on_failure {
                Some(choice) if ephemeral => choice,
                None if ephemeral => OnFailure::Deregister,
                _ => OnFailure::Unhealthy,
            },
            drain_delay: drain_delay.unwrap_or_default(),
        };
        (service, written)
    }

    pub(super) fn namespace(&self, fields: &mut Fields<'_>) -> String {
        fields
            .get("namespace")
            .and_then(|value| namespace(&value))
            .unwrap_or_else(|| self.namespace.to_owned())
    }

    fn probe(&self, value: &Value<'_>, port: u16) -> Option<Probe> {
        let example = "probe: { tcp: {} }, { http: { path: /health } }, { exec: { command: [...] } }, or none";
        if value.is_scalar() {
            let text = value.text()?;
            if text != "none" {
                value.wrong::<()>(
                    format!("`{}` is not a probe", Foreign::new(text)),
                    &format!("write {example}"),
                );
            }
            return None;
        }
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
                    let confine = fields.get("confine").and_then(|value| value.boolean());
                    fields.finish();
                    let timeout = timeout.unwrap_or(Duration::from_secs(5));
                    self.command(&words?, run_as, confine, timeout)
                        .map(ProbeKind::Exec)
                }
            }
        });
        let interval = fields
            .get("interval")
            .and_then(|value| value.duration(INTERVALS));
        let mut times = |name| {
            let value = fields.get(name)?;
            let count = value.integer("a count", 1..=1000)?;
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
        confine: Option<bool>,
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
        let run_as = run_as.and_then(|value| user(&value));
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
            confine: confine.unwrap_or(false),
        })
    }

    /// What every kept file has.
    pub(super) fn target(
        &self,
        fields: &mut Fields<'_>,
        path: Option<Value<'_>>,
        on_absent: OnAbsent,
        default_mode: u32,
        is_secret: bool,
    ) -> Target {
        let boolean = |value: Option<Value<'_>>| value.and_then(|value| value.boolean());
        let secret = boolean(fields.get("secret")).unwrap_or(false) || is_secret;
        let default_mode = if secret { 0o600 } else { default_mode };
        let backup = fields.get("backup").and_then(|value| {
            if value.boolean()? && secret {
                return value.wrong(
                    "a secret has no backup",
                    "leave it out: what was replaced is at the registry, in its history",
                );
            }
            value.boolean()
        });
        let mode = fields.get("mode").and_then(|value| {
            let mode = mode(&value)?;
            if secret && mode & 0o007 != 0 {
                return value.wrong(
                    "a secret is nobody else's",
                    "write a mode that ends with 0, and give the application's group with `owner`",
                );
            }
            Some(mode)
        });
        let publish = fields.get("publish").and_then(|value| {
            let way = value.choice(&[
                ("rename", Publish::Rename),
                ("directory", Publish::Directory),
                ("in_place", Publish::InPlace),
            ])?;
            if way == Publish::Directory && backup == Some(true) {
                return value.wrong(
                    "has no backup beside it",
                    "leave `backup` out: the version before is kept anyway",
                );
            }
            Some(way)
        });
        let on_drift = fields.get("on_drift").and_then(|value| {
            value.choice(&[("repair", OnDrift::Repair), ("report", OnDrift::Report)])
        });
        let reload = fields.get("reload").and_then(|value| self.reload(&value));
        let (reload, pacing) =
            reload.map_or_else(Default::default, |(reload, pacing)| (Some(reload), pacing));
        Target {
            path: path
                .and_then(|value| self.place(&value))
                .unwrap_or_default(),
            mode: mode.unwrap_or(default_mode),
            publish: publish.unwrap_or_default(),
            backup: backup.unwrap_or(false),
            secret,
            on_drift: on_drift.unwrap_or_default(),
            owner: fields.get("owner").and_then(|value| owner(&value)),
            required: fields
                .get("required")
                .and_then(|value| value.boolean())
                .unwrap_or(false),
            on_absent,
            max_size: fields
                .get("max_size")
                .and_then(|value| value.integer("a size in bytes", 1..=MAX_SIZE))
                .unwrap_or(MAX_SIZE),
            validate: fields
                .get("validate")
                .and_then(|value| self.validate(&value)),
            reload,
            pacing,
            verify: fields.get("verify").and_then(|value| self.verify(&value)),
        }
    }

    /// The path of a file that may be written.
    fn place(&self, value: &Value<'_>) -> Option<PathBuf> {
        let path = value.path()?;
        match self
            .reserved
            .iter()
            .find(|(kept, _)| path.starts_with(kept))
        {
            Some((kept, key)) => value.wrong(
                format!("is in the way of `{key}`, {}", kept.display()),
                "the agent lives on that itself: keep the file somewhere else",
            ),
            None => Some(path),
        }
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
            fields.idle(&["timeout", "run_as", "confine"], "format");
            value
                .choice(&[
                    ("json", Some(Format::Json)),
                    ("yaml", Some(Format::Yaml)),
                    ("toml", Some(Format::Toml)),
                    ("properties", Some(Format::Properties)),
                    ("xml", Some(Format::Xml)),
                    ("auto", None),
                ])
                .map(|format| format.map_or(Validate::Auto, Validate::Format))
        });
        if form.is_some() {
            fields.finish();
        }
        validate
    }

    fn reload(&self, value: &Value<'_>) -> Option<(Reload, Pacing)> {
        let example = "reload: { signal: HUP, pid_file: /run/app/pid }, { exec: [...] } or { http: \"http://...\" }";
        let mut fields = value.fields(example)?;
        let form = fields.exactly_one(&["signal", "exec", "http"], example);
        let reload = form.and_then(|name| {
            let value = fields.get(name)?;
            match name {
                "signal" => {
                    fields.idle(&["timeout", "run_as", "confine", "method"], name);
                    let process = process(&mut fields);
                    let user = fields.get("user").and_then(|value| user(&value));
                    Some(Reload::Signal {
                        signal: signal(&value)?,
                        process: process?,
                        user,
                    })
                }
                "exec" => {
                    fields.idle(&["pid_file", "process", "user", "method"], name);
                    self.own_command(&value, &mut fields).map(Reload::Exec)
                }
                _ => {
                    fields.idle(&["pid_file", "process", "user", "run_as", "confine"], name);
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
        let pacing = self.pacing(&mut fields);
        if form.is_some() {
            fields.finish();
        }
        Some((reload?, pacing))
    }

    /// What stands beside every form of `reload`.
    fn pacing(&self, fields: &mut Fields<'_>) -> Pacing {
        let default = Pacing::default();
        let quiet = fields
            .get("quiet")
            .and_then(|value| value.duration(QUIETS))
            .unwrap_or(default.quiet);
        let longest = match fields.get("longest") {
            Some(value) => value.duration(LONGESTS).and_then(|longest| {
                if longest < quiet {
                    let help = format!("`quiet` is {}", shown(quiet));
                    return value.wrong("is shorter than `quiet`", &help);
                }
                Some(longest)
            }),
            None => None,
        };
        Pacing {
            quiet,
            // Who wants more quiet than the cap has a cap of ten times that, as the defaults have.
            longest: longest.unwrap_or_else(|| default.longest.max(quiet * 10)),
            at_most_every: fields
                .get("at_most_every")
                .and_then(|value| value.duration(PAUSES))
                .unwrap_or(default.at_most_every),
            splay: fields.get("splay").and_then(|value| splay(&value)),
            fleet: fields.get("fleet").and_then(|value| self.fleet(&value)),
        }
    }

    fn fleet(&self, value: &Value<'_>) -> Option<Fleet> {
        let mut fields = value.fields("fleet: { at_most: 1, service: orders }")?;
        let at_most = fields
            .need("at_most")
            .and_then(|value| value.integer("a number of instances", 1..=MAX_TURNS));
        let service = fields.need("service").and_then(|value| {
            let name = service_name(&value)?;
            if name.len() > MAX_FLEET_NAME {
                let most =
                    format!("at most {MAX_FLEET_NAME} characters, whatever the service is called");
                return value.wrong("is too long for a line of hosts", &most);
            }
            Some(name)
        });
        let group = group(&mut fields);
        let namespace = self.namespace(&mut fields);
        let wait = fields
            .get("wait")
            .and_then(|value| value.duration(WAITS))
            .unwrap_or(Duration::from_secs(600));
        let then = fields.get("then").and_then(|value| {
            value.choice(&[("reload", FleetThen::Reload), ("wait", FleetThen::Wait)])
        });
        fields.finish();
        Some(Fleet {
            at_most: usize::try_from(at_most?).ok()?,
            service: service?,
            group,
            namespace,
            wait,
            then: then.unwrap_or(FleetThen::Reload),
        })
    }

    fn verify(&self, value: &Value<'_>) -> Option<Verify> {
        let example = "verify: { tcp: 127.0.0.1:8080 }, { http: \"http://127.0.0.1:8080/health\" } or { exec: [...] }";
        let mut fields = value.fields(example)?;
        let form = fields.exactly_one(&["tcp", "http", "exec"], example);
        let within = fields
            .get("within")
            .and_then(|value| value.duration(TIMEOUTS));
        let verify = form.and_then(|name| {
            let value = fields.get(name)?;
            let mut timeout = Duration::from_secs(2);
            let kind = if name == "exec" {
                fields.idle(&["status", "body"], name);
                let command = self.own_command(&value, &mut fields)?;
                timeout = command.timeout;
                VerifyKind::Exec(command)
            } else {
                if let Some(value) = fields.get("timeout") {
                    timeout = value.duration(TIMEOUTS)?;
                }
                fields.idle(&["run_as", "confine"], name);
                if name == "tcp" {
                    fields.idle(&["status", "body"], name);
                    VerifyKind::Tcp(socket_address(&value)?)
                } else {
                    let status = fields.get("status");
                    let status = status.and_then(|value| value.integer("a status", 100..=599));
                    let body = fields.get("body").and_then(|value| value.any_text());
                    VerifyKind::Http {
                        url: url::whole(&value, "http: \"http://127.0.0.1:8080/health\"")?,
                        status: status.and_then(|status| u16::try_from(status).ok()),
                        body,
                    }
                }
            };
            Some(Verify {
                kind,
                timeout,
                within: within.unwrap_or(Duration::from_secs(30)),
            })
        });
        if form.is_some() {
            fields.finish();
        }
        verify
    }

    /// `exec` with the `timeout` and `run_as` beside it.
    pub(super) fn own_command(
        &self,
        words: &Value<'_>,
        fields: &mut Fields<'_>,
    ) -> Option<Command> {
        let timeout = fields
            .get("timeout")
            .and_then(|value| value.duration(TIMEOUTS));
        let run_as = fields.get("run_as");
        let confine = fields.get("confine").and_then(|value| value.boolean());
        self.command(
            words,
            run_as,
            confine,
            timeout.unwrap_or(Duration::from_secs(30)),
        )
    }
}

/// `30s`, or a mapping.
fn splay(value: &Value<'_>) -> Option<Splay> {
    if value.is_scalar() {
        let up_to = value.duration(PAUSES)?;
        let by = SplayBy::Chance;
        return Some(Splay { up_to, by });
    }
    let mut fields = value.fields("splay: 30s or splay: { up_to: 30s, by: host }")?;
    let up_to = fields
        .need("up_to")
        .and_then(|value| value.duration(PAUSES));
    let by = fields
        .get("by")
        .and_then(|value| value.choice(&[("host", SplayBy::Host), ("chance", SplayBy::Chance)]));
    fields.finish();
    Some(Splay {
        up_to: up_to?,
        by: by.unwrap_or(SplayBy::Chance),
    })
}

/// Whether a server of the list is on this host.
fn on_loopback(servers: &Servers) -> bool {
    let Servers::List(list) = servers else {
        return false;
    };
    list.iter().any(|server| {
        let rest = server
            .split_once("://")
            .map_or(server.as_str(), |(_, rest)| rest);
        let host = authority::host(rest.split('/').next().unwrap_or_default());
        authority::is_this_host(host, |_| false)
    })
}

/// What no configuration may replace: descriptors would come from the registry, and secrets with them.
fn reserved(settings: &Settings) -> Vec<(PathBuf, &'static str)> {
    let registry = &settings.registry;
    let password = registry
        .auth
        .as_ref()
        .and_then(|auth| match &auth.password {
            PasswordSource::File(path) => Some(path),
            PasswordSource::Inline(_) => None,
        });
    let identity = registry.tls.identity.as_ref();
    [
        (Some(&settings.catalog.conf_dir), "catalog.conf_dir"),
        (Some(&settings.state_dir), "state_dir"),
        (Some(&settings.admin.socket), "admin.socket"),
        (password, "registry.auth.password_file"),
        (registry.tls.ca.as_ref(), "registry.tls.ca"),
        (identity.map(|files| &files.cert), "registry.tls.cert"),
        (identity.map(|files| &files.key), "registry.tls.key"),
    ]
    .into_iter()
    .filter_map(|(path, key)| Some((std::path::absolute(path?).ok()?, key)))
    .chain(
        settings
            .origins
            .iter()
            .find_map(|(_, _, origin)| match origin {
                Origin::File(path, _) => Some((std::path::absolute(path).ok()?, "--config")),
                _ => None,
            }),
    )
    .collect()
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

pub(super) fn group(fields: &mut Fields<'_>) -> String {
    group_or(fields, DEFAULT_GROUP)
}

pub(super) fn group_or(fields: &mut Fields<'_>, default: &str) -> String {
    fields
        .get("group")
        .and_then(|value| checked(&value, "group", 128, ".:_-"))
        .unwrap_or_else(|| default.to_owned())
}

/// A namespace id; nothing is `public`, as on every server.
pub(super) fn namespace(value: &Value<'_>) -> Option<String> {
    if value.any_text()?.is_empty() {
        return Some("public".to_owned());
    }
    checked(value, "namespace id", 64, "_-")
}

pub(super) fn service_name(value: &Value<'_>) -> Option<String> {
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
pub(super) fn checked(value: &Value<'_>, what: &str, most: usize, marks: &str) -> Option<String> {
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

pub(super) fn cidr(value: &Value<'_>) -> Option<Cidr> {
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

/// A user by name or number.
fn user(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    match is_account(&text) {
        true => Some(text),
        false => value.wrong(
            format!("`{}` is not a user", Foreign::new(text)),
            "write a user's name or number",
        ),
    }
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

fn socket_address(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.text()?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => value.wrong(
            format!("`{}` is not an address with a port", Foreign::new(text)),
            "write 127.0.0.1:8080",
        ),
    }
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

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::settings_file::resolve;
    use super::super::spec::MadeOf;
    use super::*;
    use crate::report;
    use proptest::prelude::*;

    fn read_in(text: &str, around: &Surroundings) -> Result<Descriptor, Vec<Problem>> {
        let none = Surroundings::default();
        let settings = resolve(Path::new("x.yaml"), None, &Flags::default(), &none)?;
        parse(Path::new("conf.d/orders.yaml"), text, &settings, around)
    }

    fn read(text: &str) -> Result<Descriptor, Vec<Problem>> {
        read_in(text, &Surroundings::with(&[]))
    }

    fn shown(text: &str) -> String {
        report::render_all(&read(text).unwrap_err(), 1, 1, false)
    }

    fn document(name: &str) -> String {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(here.join(name)).unwrap()
    }

    fn target(keys: &str) -> Result<Target, Vec<Problem>> {
        let text = format!("configs:\n- {{ data_id: a, path: /run/a, {keys} }}\n");
        read(&text).map(|mut found| found.configs.remove(0).target)
    }

    fn service(keys: &str) -> Result<Service, Vec<Problem>> {
        let text = format!("services:\n- {{ name: a, port: 8080, {keys} }}\n");
        read(&text).map(|mut found| found.services.remove(0))
    }

    fn messages<T: std::fmt::Debug>(read: Result<T, Vec<Problem>>) -> Vec<String> {
        let problems = read.unwrap_err();
        problems
            .into_iter()
            .map(|problem| match problem.help {
                Some(help) => format!("{}: {} ({help})", problem.key, problem.message),
                None => format!("{}: {}", problem.key, problem.message),
            })
            .collect()
    }

    #[test]
    fn a_target_inside_conf_d_or_the_state_dir_or_in_place_of_a_secret_is_refused() {
        let around = Surroundings::with(&[]);
        let text = "state_dir: /var/state\ncatalog: { conf_dir: /etc/rig/conf.d }\nadmin: { socket: /run/rig.sock }\n\
                    registry: { auth: { username: a, password_file: /run/password } }\n";
        let file = Path::new("/etc/rig/rig.yaml");
        let settings = resolve(file, Some(text), &Flags::default(), &around).unwrap();
        let read = |path: &str| {
            let text = format!("configs: [{{ data_id: a, path: {path} }}]\n");
            parse(Path::new("a.yaml"), &text, &settings, &around)
        };
        for (path, key) in [
            ("/etc/rig/conf.d/more.yaml", "catalog.conf_dir"),
            ("/etc/rig//conf.d/sub/more.yaml", "catalog.conf_dir"),
            ("/var/state/snapshots/a", "state_dir"),
            ("/run/rig.sock", "admin.socket"),
            ("/run/password", "registry.auth.password_file"),
            ("/etc/rig/rig.yaml", "--config"),
        ] {
            let said = messages(read(path)).concat();
            assert!(
                said.starts_with("configs[0].path: is in the way of ") && said.contains(key),
                "{path}: {said}"
            );
        }
        for path in ["/etc/rig/conf.data", "/var/stateful/a", "/run/passwords"] {
            read(path).unwrap();
        }
    }

    #[test]
    fn what_is_not_written_has_the_documented_default() {
        let found = read("services:\n- name: orders\n  port: 8080\nconfigs:\n- data_id: orders.yaml\n  path: /run/orders\n").unwrap();
        let service = &found.services[0];
        assert_eq!(service.namespace, "public");
        assert_eq!(
            (service.group.as_str(), service.cluster.as_str()),
            ("DEFAULT_GROUP", "DEFAULT")
        );
        assert_eq!((service.weight, service.enabled), (1.0, true));
        assert_eq!(service.heartbeat, Heartbeat::default());
        assert_eq!(service.probe, Some(default_probe(8080)));
        assert_eq!(service.address, Address::Auto(AddressRules::default()));
        assert_eq!(
            (service.on_failure, service.drain_delay),
            (OnFailure::Deregister, Duration::ZERO)
        );
        let target = &found.configs[0].target;
        assert_eq!(
            (target.mode, target.max_size, target.required),
            (0o640, 10_485_760, false)
        );
        assert_eq!(target.on_absent, OnAbsent::Keep);
        assert_eq!(
            (&target.owner, &target.validate, &target.reload),
            (&None, &None, &None)
        );
        assert_eq!(read("").unwrap(), Descriptor::default());
        assert_eq!(read("# nothing yet\n").unwrap(), Descriptor::default());
    }

    #[test]
    fn every_example_of_the_documents_is_right() {
        let mut read_blocks = 0;
        for name in ["docs/descriptors.md", "README.md", "README.zh-CN.md"] {
            let document = document(name);
            for block in document.split("```yaml\n").skip(1) {
                let block = block.split("```").next().unwrap();
                let found = if block.starts_with("address:") {
                    read(&format!("services:\n- name: a\n  port: 1\n  {block}"))
                } else if block.starts_with("registry:") {
                    continue;
                } else {
                    read(block)
                };
                found.unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
                read_blocks += 1;
            }
        }
        assert!(read_blocks >= 5, "{read_blocks}");
        for example in [
            "quick-start/conf.d/greeter.yaml",
            "nginx/conf.d/nginx.yaml",
            "python/conf.d/python.yaml",
        ] {
            let text = document(&format!("examples/{example}"));
            // Its script says who it is.
            read(&text.replace("${HOST_USER}", "somebody"))
                .unwrap_or_else(|problems| panic!("{example}: {problems:?}"));
        }
        let pod = document("examples/pod/pod.yaml");
        let descriptor = pod.split("orders.yaml: |\n").nth(1).unwrap();
        let descriptor = descriptor.split("\n---").next().unwrap();
        read(&descriptor.replace("\n    ", "\n").replacen("    ", "", 1)).unwrap();
    }

    #[test]
    fn when_a_reload_may_begin_is_read_with_its_defaults_and_bounds() {
        let pacing = |text: &str| {
            let all = format!("reload: {{ http: \"http://127.0.0.1:1/\"{text} }}");
            target(&all).map(|target| target.pacing)
        };
        assert_eq!(pacing("").unwrap(), Pacing::default());
        assert_eq!(Pacing::default().quiet, Duration::from_millis(50));
        assert_eq!(Pacing::default().longest, Duration::from_millis(500));
        let found = pacing(", quiet: 2s, at_most_every: 10s, splay: 30s").unwrap();
        assert_eq!(found.longest, Duration::from_secs(20));
        assert_eq!(found.at_most_every, Duration::from_secs(10));
        let thirty = Duration::from_secs(30);
        let by_chance = (thirty, SplayBy::Chance);
        assert_eq!(found.splay.map(|one| (one.up_to, one.by)), Some(by_chance));
        let found = pacing(
            ", splay: { up_to: 30s, by: host }, fleet: { at_most: 2, service: orders, wait: 1m, then: wait }",
        )
        .unwrap();
        assert_eq!(found.splay.unwrap().by, SplayBy::Host);
        let fleet = found.fleet.unwrap();
        assert_eq!((fleet.at_most, fleet.service.as_str()), (2, "orders"));
        assert_eq!(
            (fleet.group.as_str(), fleet.namespace.as_str()),
            ("DEFAULT_GROUP", "public")
        );
        assert_eq!(
            (fleet.wait, fleet.then),
            (Duration::from_secs(60), FleetThen::Wait)
        );
        let default = pacing(", fleet: { at_most: 1, service: orders }").unwrap();
        let fleet = default.fleet.unwrap();
        assert_eq!(
            (fleet.wait, fleet.then),
            (Duration::from_secs(600), FleetThen::Reload)
        );
        for (text, message) in [
            (", quiet: 61s", "reload.quiet: 61s is too long"),
            (
                ", quiet: 1s, longest: 500ms",
                "reload.longest: is shorter than `quiet`",
            ),
            (
                ", at_most_every: 1ms",
                "reload.at_most_every: 1ms is too short",
            ),
            (", splay: { by: host }", "reload.splay: `up_to` is missing"),
            (
                ", splay: { up_to: 1s, by: hosts }",
                "reload.splay.by: `hosts` is none of host, chance (did you mean `host`?)",
            ),
            (
                ", fleet: { at_most: 0, service: a }",
                "reload.fleet.at_most: 0 is not a number of instances",
            ),
            (
                ", fleet: { at_most: 1, service: a, of: 2 }",
                "reload.fleet.of: unknown key",
            ),
        ] {
            let all = format!("reload: {{ http: \"http://127.0.0.1:1/\"{text} }}");
            let found = messages(target(&all));
            assert!(found.len() == 1 && found[0].contains(message), "{found:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_verification_is_named_with_the_next_step() {
        let said = |keys: &str| messages(target(&format!("verify: {{ {keys} }}"))).join("; ");
        for (keys, words) in [
            (
                "tcp: 8080",
                "`8080` is not an address with a port (write 127.0.0.1:8080)",
            ),
            (
                "tcp: 127.0.0.1:80, status: 200",
                "status: means nothing beside `tcp`",
            ),
            ("http: \"unix:/x\"", "`unix:/x` is not a URL"),
            (
                "http: \"http://u:p@h/\"",
                "credentials do not belong in a URL",
            ),
            ("http: \"http://h/\", status: 99", "status"),
            ("exec: check", "expected a list"),
            ("exec: [a], body: UP", "body: means nothing beside `exec`"),
            ("tcp: 127.0.0.1:80, within: 0s", "within"),
            ("tcp: 127.0.0.1:80, exec: [a]", "exclude one another"),
        ] {
            let said = said(keys);
            assert!(
                said.contains(words) && !said.contains("u:p"),
                "{keys}: {said}"
            );
        }
        let exec = target("verify: { exec: [a], timeout: 3s }").unwrap().verify;
        let exec = exec.unwrap();
        assert_eq!(
            (exec.timeout, exec.within),
            (Duration::from_secs(3), Duration::from_secs(30))
        );
    }

    #[test]
    fn a_secret_is_closed_and_has_no_backup_and_each_way_of_putting_a_file_in_place_is_read() {
        let secret = target("secret: true").unwrap();
        assert!(secret.secret && secret.mode == 0o600 && !secret.backup);
        assert_eq!(target("secret: true, mode: \"0640\"").unwrap().mode, 0o640);
        let plain = target("backup: true").unwrap();
        assert!(plain.backup && plain.mode == 0o640 && plain.on_drift == OnDrift::Repair);
        assert_eq!(
            target("on_drift: report").unwrap().on_drift,
            OnDrift::Report
        );
        for (word, way) in [
            ("rename", Publish::Rename),
            ("directory", Publish::Directory),
            ("in_place", Publish::InPlace),
        ] {
            assert_eq!(target(&format!("publish: {word}")).unwrap().publish, way);
        }
        for wrong in [
            "secret: true, backup: true",
            "secret: true, mode: \"0604\"",
            "publish: directory, backup: true",
            "publish: swap",
            "validate: { format: json, confine: true }",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        let confined = target("validate: { exec: [a], confine: true, run_as: app }").unwrap();
        assert!(matches!(confined.validate, Some(Validate::Exec(command)) if command.confine));
    }

    #[test]
    fn every_form_and_default_in_the_tables_of_the_document_is_right() {
        let document = document("docs/descriptors.md");
        let (before, after) = document.split_once("### `verify`").unwrap();
        for (key, part, count) in [("reload", before, 4), ("verify", after, 3)] {
            let forms: Vec<_> = part
                .lines()
                .filter_map(|line| line.strip_prefix("| `{ ")?.split("` |").next())
                .collect();
            assert_eq!(forms.len(), count);
            for form in forms {
                target(&format!("{key}: {{ {form}")).unwrap();
            }
        }
        let service_part = document.split("## `configs`").next().unwrap();
        for line in service_part.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let (key, default) = (cells[1].trim_matches('`'), cells[2]);
            let plain = key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if plain
                && default.starts_with('`')
                && !default.contains(',')
                && !["interval", "path"].contains(&key)
            {
                service(&format!("{key}: {}", default.trim_matches('`'))).unwrap();
            }
        }
    }

    #[test]
    fn everything_that_can_be_written_is_read() {
        let around = Surroundings::with(&[("POD_IP", "10.1.2.3"), ("NODE_NAME", "n1")]);
        let text = r#"
services:
  - name: orders
    group: PAYMENTS
    namespace: dev-1
    cluster: c1
    port: 8080
    address: ${POD_IP}
    weight: 0.5
    enabled: false
    ephemeral: true
    metadata: { version: 1.10, node: "${NODE_NAME}", literal: "$${x}", flag: yes, empty: "" }
    heartbeat: { interval: 1s, timeout: 3s, delete_after: 1m }
    probe:
      http: { host: 10.0.0.1, port: 9000, path: "/health?full=1" }
      interval: 2s
      timeout: 1500ms
      rise: 1
      fall: 5
    on_failure: unhealthy
    drain: { delay: 5s }
  - { name: "1", port: 1, probe: none, address: auto }
  - { name: b, port: 2, probe: { exec: { command: [/bin/check, ""], run_as: app } } }
configs:
  - data_id: orders.yaml
    group: PAYMENTS
    namespace: ""
    path: /run//orders/orders.yaml
    mode: "0600"
    owner: ":1000"
    required: true
    on_absent: remove
    max_size: 1024
    validate: { exec: [nginx, -t, -c, "{staged}"], timeout: 10s, run_as: www-data }
    reload: { http: "https://127.0.0.1:9000/reload?x", method: PUT, timeout: 1s }
    verify: { http: "http://127.0.0.1:8080/health", status: 204, body: UP, timeout: 1s, within: 5s }
"#;
        let text = if cfg!(feature = "tls") {
            text.to_owned()
        } else {
            text.replace("https", "http")
        };
        let found = read_in(&text, &around).unwrap();
        let orders = &found.services[0];
        assert_eq!(
            orders.address,
            Address::Explicit("10.1.2.3".parse().unwrap())
        );
        let metadata: Vec<_> = orders
            .metadata
            .iter()
            .map(|(key, text)| format!("{key}={text}"))
            .collect();
        assert_eq!(
            metadata,
            [
                "empty=",
                "flag=yes",
                "literal=${x}",
                "node=n1",
                "version=1.10"
            ]
        );
        assert_eq!(orders.heartbeat.delete_after, Some(Duration::from_secs(60)));
        let probe = orders.probe.as_ref().unwrap();
        assert!(
            matches!(&probe.kind, ProbeKind::Http { port: 9000, path, .. } if path == "/health?full=1")
        );
        assert_eq!(
            (probe.rise, probe.fall, probe.timeout),
            (1, 5, Duration::from_millis(1500))
        );
        assert_eq!(found.services[1].probe, None);
        let exec = found.services[2].probe.as_ref().unwrap();
        assert_eq!(exec.timeout, Duration::from_secs(5));
        assert!(
            matches!(&exec.kind, ProbeKind::Exec(command) if command.argv == ["/bin/check", ""])
        );
        let config = &found.configs[0];
        assert!(matches!(&config.made_of, MadeOf::One(part) if part.namespace == "public"));
        assert_eq!(config.target.mode, 0o600);
        assert_eq!(config.target.path, Path::new("/run/orders/orders.yaml"));
        let owner = config.target.owner.as_ref().unwrap();
        assert_eq!(
            (owner.user.as_deref(), owner.group.as_deref()),
            (None, Some("1000"))
        );
        assert!(
            matches!(&config.target.reload, Some(Reload::Http { method, .. }) if method == "PUT")
                && config.target.verify
                    == Some(Verify {
                        kind: VerifyKind::Http {
                            url: "http://127.0.0.1:8080/health".to_owned(),
                            status: Some(204),
                            body: Some("UP".to_owned()),
                        },
                        timeout: Duration::from_secs(1),
                        within: Duration::from_secs(5),
                    })
        );
    }

    #[test]
    fn a_slip_of_the_pen_in_a_key_is_one_mistake() {
        let read = read("services:\n- name: a\n  prot: 8080\n");
        assert_eq!(
            messages(read),
            ["services[0].prot: unknown key (did you mean `port`?)"]
        );
    }

    #[test]
    fn an_entry_that_only_moved_is_what_it_was() {
        let text = "services:\n- { name: a, port: 1 }\n";
        assert_eq!(read(text), read(&format!("# one line more\n\n{text}")));
    }

    #[test]
    fn a_persistent_instance_beats_not_and_is_not_taken_out_by_its_probe() {
        let text = "services:\n- { name: a, port: 1, ephemeral: false, on_failure: deregister, heartbeat: { interval: 1s } }\n";
        insta::assert_snapshot!(shown(text), @r"
        conf.d/orders.yaml:2:53: services[0].on_failure: a persistent instance is not taken out by a failing probe
           2 | …e: a, port: 1, ephemeral: false, on_failure: deregister, heartbeat: { interval: 1s } }
             |                                               ^^^^^^^^^^
          help: leave it out: with `ephemeral: false` the verdict is the instance's health in the registry
        conf.d/orders.yaml:2:76: services[0].heartbeat: a persistent instance has no heartbeat
           2 | …l: false, on_failure: deregister, heartbeat: { interval: 1s } }
             |                                               ^
          help: leave it out, or leave out `ephemeral: false`
        2 errors in 1 of 1 file
        ");
        let read = read("services:\n- { name: a, port: 1, ephemeral: false }\n");
        assert_eq!(read.unwrap().services[0].on_failure, OnFailure::Unhealthy);
    }

    #[test]
    fn every_mistake_of_a_service_is_shown_at_once() {
        let text = r#"services:
  - name: PAY@@orders
    prot: 8080
    port: "8080"
    group: "a b"
    cluster: c_1
    weight: 20000
    enabled: yes
    ephemeral: no
    metadata: { preserved.heart.beat.interval: 5000, empty: , list: [a] }
    heartbeat: { interval: 15s }
    probe: { tcp: {}, http: {}, interval: 5, rise: 0, path: /x }
    on_failure: unhealty
    drain: 5s
    address: localhost
  - { name: ok, port: 70000, address: { cidr: 10.0.0.0/8, prefer: ipv6 }, probe: nope }
  - { port: 08, address: { cidr: [10.0.0.0/33] }, probe: { interval: 1s } }
  - { name: x, port: 1, probe: { exec: { command: [] }, timeout: 1d } }
  - { name: x, port: 1, probe: { http: { host: localhost, port: 0, path: health } } }
  - orders
"#;
        insta::assert_snapshot!(shown(text), @r#"
        conf.d/orders.yaml:2:11: services[0].name: a group stands in front of the name
           2 |   - name: PAY@@orders
             |           ^^^^^^^^^^^
          help: write name: orders and group: PAY
        conf.d/orders.yaml:3:5: services[0].prot: unknown key
           3 |     prot: 8080
             |     ^^^^
          help: `port` is written already, leave this one out
        conf.d/orders.yaml:4:11: services[0].port: "8080" is text
           4 |     port: "8080"
             |           ^^^^^^
          help: write 8080 without quotes
        conf.d/orders.yaml:5:12: services[0].group: `a b` is not a group
           5 |     group: "a b"
             |            ^^^^^
          help: letters, digits and . : _ - are allowed
        conf.d/orders.yaml:6:14: services[0].cluster: `c_1` is not a cluster
           6 |     cluster: c_1
             |              ^^^
          help: letters, digits and - are allowed
        conf.d/orders.yaml:7:13: services[0].weight: 20000 is not a weight
           7 |     weight: 20000
             |             ^^^^^
          help: weights go from 0 to 10000; 0 takes the instance out of traffic
        conf.d/orders.yaml:8:14: services[0].enabled: `yes` is not true or false
           8 |     enabled: yes
             |              ^^^
          help: write true
        conf.d/orders.yaml:9:16: services[0].ephemeral: `no` is not true or false
           9 |     ephemeral: no
             |                ^^
          help: write false
        conf.d/orders.yaml:10:48: services[0].metadata.preserved.heart.beat.interval: is written by the heartbeat
          10 |     metadata: { preserved.heart.beat.interval: 5000, empty: , list: [a] }
             |                                                ^^^^
          help: write heartbeat: { interval: ... } instead
        conf.d/orders.yaml:10:59: services[0].metadata.empty: has no value
          10 |     metadata: { preserved.heart.beat.interval: 5000, empty: , list: [a] }
             |                                                           ^
          help: give it one ("" for an empty text) or leave it out
        conf.d/orders.yaml:10:69: services[0].metadata.list: expected text, found a list
          10 |     metadata: { preserved.heart.beat.interval: 5000, empty: , list: [a] }
             |                                                                     ^
        conf.d/orders.yaml:11:28: services[0].heartbeat.interval: a beat every 15s is not shorter than `timeout`, 15s
          11 |     heartbeat: { interval: 15s }
             |                            ^^^
          help: the registry demands it; the server's own times are 5s, 15s and 30s
        conf.d/orders.yaml:12:23: services[0].probe.http: `tcp` and `http` exclude one another
          12 |     probe: { tcp: {}, http: {}, interval: 5, rise: 0, path: /x }
             |                       ^^^^
          help: keep one of them
        conf.d/orders.yaml:12:43: services[0].probe.interval: 5 has no unit
          12 |     probe: { tcp: {}, http: {}, interval: 5, rise: 0, path: /x }
             |                                           ^
          help: write 5s or 5ms
        conf.d/orders.yaml:12:52: services[0].probe.rise: 0 is not a count
          12 |     probe: { tcp: {}, http: {}, interval: 5, rise: 0, path: /x }
             |                                                    ^
          help: a count goes from 1 to 1000
        conf.d/orders.yaml:12:55: services[0].probe.path: unknown key
          12 |     probe: { tcp: {}, http: {}, interval: 5, rise: 0, path: /x }
             |                                                       ^^^^
          help: keys here are exec, fall, http, interval, rise, tcp, timeout
        conf.d/orders.yaml:13:17: services[0].on_failure: `unhealty` is none of deregister, unhealthy
          13 |     on_failure: unhealty
             |                 ^^^^^^^^
          help: did you mean `unhealthy`?
        conf.d/orders.yaml:14:12: services[0].drain: expected a mapping, found a single value
          14 |     drain: 5s
             |            ^^
          help: write drain: { delay: 5s }
        conf.d/orders.yaml:15:14: services[0].address: `localhost` is not an IP address
          15 |     address: localhost
             |              ^^^^^^^^^
          help: write an IP address, auto, or { cidr: [10.0.0.0/8], interface: eth0, prefer: v4 }
        conf.d/orders.yaml:16:23: services[1].port: 70000 is not a port
          16 |   - { name: ok, port: 70000, address: { cidr: 10.0.0.0/8, prefer: ipv6 }, probe: nope }
             |                       ^^^^^
          help: a port goes from 1 to 65535
        conf.d/orders.yaml:16:47: services[1].address.cidr: expected a list, found a single value
          16 |   - { name: ok, port: 70000, address: { cidr: 10.0.0.0/8, prefer: ipv6 }, probe: nope }
             |                                               ^^^^^^^^^^
          help: write cidr: [10.0.0.0/8]
        conf.d/orders.yaml:16:67: services[1].address.prefer: `ipv6` is none of v4, v6
          16 |   - { name: ok, port: 70000, address: { cidr: 10.0.0.0/8, prefer: ipv6 }, probe: nope }
             |                                                                   ^^^^
        conf.d/orders.yaml:16:82: services[1].probe: `nope` is not a probe
          16 |   - { name: ok, port: 70000, address: { cidr: 10.0.0.0/8, prefer: ipv6 }, probe: nope }
             |                                                                                  ^^^^
          help: write probe: { tcp: {} }, { http: { path: /health } }, { exec: { command: [...] } }, or
                none
        conf.d/orders.yaml:17:5: services[2]: `name` is missing
          17 |   - { port: 08, address: { cidr: [10.0.0.0/33] }, probe: { interval: 1s } }
             |     ^
        conf.d/orders.yaml:17:13: services[2].port: 08 begins with 0
          17 |   - { port: 08, address: { cidr: [10.0.0.0/33] }, probe: { interval: 1s } }
             |             ^^
          help: leave the zeros out: some readers of YAML take them for octal
        conf.d/orders.yaml:17:35: services[2].address.cidr[0]: `10.0.0.0/33` is not a network
          17 |   - { port: 08, address: { cidr: [10.0.0.0/33] }, probe: { interval: 1s } }
             |                                   ^^^^^^^^^^^
          help: write an address and its leading bits: 10.0.0.0/8
        conf.d/orders.yaml:17:58: services[2].probe: names none of `tcp`, `http` and `exec`
          17 |   - { port: 08, address: { cidr: [10.0.0.0/33] }, probe: { interval: 1s } }
             |                                                          ^
          help: write probe: { tcp: {} }, { http: { path: /health } }, { exec: { command: [...] } }, or
                none
        conf.d/orders.yaml:18:51: services[3].probe.exec.command: an empty command
          18 |   - { name: x, port: 1, probe: { exec: { command: [] }, timeout: 1d } }
             |                                                   ^
          help: write the program and its arguments
        conf.d/orders.yaml:18:66: services[3].probe.timeout: `1d` is not a time
          18 |   - { name: x, port: 1, probe: { exec: { command: [] }, timeout: 1d } }
             |                                                                  ^^
          help: write a whole number and ms, s, m or h: 500ms, 5s, 2m
        conf.d/orders.yaml:19:48: services[4].probe.http.host: `localhost` is not an IP address
          19 |   - { name: x, port: 1, probe: { http: { host: localhost, port: 0, path: health } } }
             |                                                ^^^^^^^^^
          help: write 127.0.0.1 or another address of this host; names are not looked up
        conf.d/orders.yaml:19:65: services[4].probe.http.port: 0 is not a port
          19 |   - { name: x, port: 1, probe: { http: { host: localhost, port: 0, path: health } } }
             |                                                                 ^
          help: a port goes from 1 to 65535
        conf.d/orders.yaml:19:74: services[4].probe.http.path: `health` is not a path of a request
          19 |   - { name: x, port: 1, probe: { http: { host: localhost, port: 0, path: health } } }
             |                                                                          ^^^^^^
          help: begin it with /, and escape blanks and letters beyond ASCII as in a URL
        conf.d/orders.yaml:20:5: services[5]: expected a mapping, found a single value
          20 |   - orders
             |     ^^^^^^
          help: write - name: orders
        33 errors in 1 of 1 file
        "#);
    }

    #[test]
    fn every_mistake_of_a_configuration_is_shown_at_once() {
        let text = r#"configs:
  - data_id: a/b
    path: run/a
    mode: 0640
    owner: "a b"
    required: "true"
    on_absent: delete
    max_size: 10MiB
    validate: { format: jsn, run_as: x }
    reload: { signal: SIGHUP, timeout: 5s }
    verify: {}
    dataid: x
  - { path: /run/../a, mode: "0666", reload: { signal: KILL, pid_file: pid, process: a } }
  - { data_id: a, path: /run/, mode: "4755", reload: { exec: nginx -s reload } }
  - { data_id: a, path: /, mode: "99", validate: {}, reload: { http: "http://u:p@h/", method: DELETE } }
  - { data_id: a, path: /x, mode: "", validate: { exec: [a], format: xml }, reload: { http: "unix:/x" } }
"#;
        insta::assert_snapshot!(shown(text), @r#"
        conf.d/orders.yaml:2:14: configs[0].data_id: `a/b` is not a data id
           2 |   - data_id: a/b
             |              ^^^
          help: letters, digits and . : _ - are allowed
        conf.d/orders.yaml:3:11: configs[0].path: `run/a` is not an absolute path
           3 |     path: run/a
             |           ^^^^^
          help: begin it with /
        conf.d/orders.yaml:4:11: configs[0].mode: 0640 is not in quotes
           4 |     mode: 0640
             |           ^^^^
          help: write it in quotes: mode: "0640"
        conf.d/orders.yaml:5:12: configs[0].owner: `a b` is not an owner
           5 |     owner: "a b"
             |            ^^^^^
          help: write user, user:group or :group, names or numbers
        conf.d/orders.yaml:6:15: configs[0].required: "true" is text
           6 |     required: "true"
             |               ^^^^^^
          help: write true without quotes
        conf.d/orders.yaml:7:16: configs[0].on_absent: `delete` is none of keep, remove, fail
           7 |     on_absent: delete
             |                ^^^^^^
        conf.d/orders.yaml:8:15: configs[0].max_size: `10MiB` is not a whole number
           8 |     max_size: 10MiB
             |               ^^^^^
          help: a size in bytes goes from 1 to 10485760
        conf.d/orders.yaml:9:25: configs[0].validate.format: `jsn` is none of json, yaml, toml, properties, xml, auto
           9 |     validate: { format: jsn, run_as: x }
             |                         ^^^
          help: did you mean `json`?
        conf.d/orders.yaml:9:30: configs[0].validate.run_as: means nothing beside `format`
           9 |     validate: { format: jsn, run_as: x }
             |                              ^^^^^^
          help: leave it out
        conf.d/orders.yaml:10:13: configs[0].reload: names none of `pid_file` and `process`
          10 |     reload: { signal: SIGHUP, timeout: 5s }
             |             ^
          help: write pid_file: /run/app/pid, or process: /usr/sbin/nginx, beside the signal
        conf.d/orders.yaml:10:23: configs[0].reload.signal: `SIGHUP` is not a signal
          10 |     reload: { signal: SIGHUP, timeout: 5s }
             |                       ^^^^^^
          help: did you mean `HUP`?
        conf.d/orders.yaml:10:31: configs[0].reload.timeout: means nothing beside `signal`
          10 |     reload: { signal: SIGHUP, timeout: 5s }
             |                               ^^^^^^^
          help: leave it out
        conf.d/orders.yaml:11:13: configs[0].verify: names none of `tcp`, `http` and `exec`
          11 |     verify: {}
             |             ^
          help: write verify: { tcp: 127.0.0.1:8080 }, { http: "http://127.0.0.1:8080/health" } or { exec:
                [...] }
        conf.d/orders.yaml:12:5: configs[0].dataid: unknown key
          12 |     dataid: x
             |     ^^^^^^
          help: `data_id` is written already, leave this one out
        conf.d/orders.yaml:13:5: configs[1]: `data_id` is missing
          13 |   - { path: /run/../a, mode: "0666", reload: { signal: KILL, pid_file: pid, process: a } }
             |     ^
        conf.d/orders.yaml:13:13: configs[1].path: `/run/../a` goes through `.` or `..`
          13 |   - { path: /run/../a, mode: "0666", reload: { signal: KILL, pid_file: pid, process: a } }
             |             ^^^^^^^^^
          help: write the path without them
        conf.d/orders.yaml:13:30: configs[1].mode: "0666" lets everybody write
          13 |   - { path: /run/../a, mode: "0666", reload: { signal: KILL, pid_file: pid, process: a } }
             |                              ^^^^^^
          help: leave the write bit of others out, as in "0640" or "0644"
        conf.d/orders.yaml:13:56: configs[1].reload.signal: `KILL` is not a signal
          13 |   - { path: /run/../a, mode: "0666", reload: { signal: KILL, pid_file: pid, process: a } }
             |                                                        ^^^^
          help: signals are HUP, USR1, USR2, WINCH, TERM, INT, QUIT, ALRM, CONT
        conf.d/orders.yaml:13:77: configs[1].reload.process: `pid_file` and `process` exclude one another
          13 |   - { path: /run/../a, mode: "0666", reload: { signal: KILL, pid_file: pid, process: a } }
             |                                                                             ^^^^^^^
          help: keep one of them
        conf.d/orders.yaml:14:25: configs[2].path: `/run/` names a directory
          14 |   - { data_id: a, path: /run/, mode: "4755", reload: { exec: nginx -s reload } }
             |                         ^^^^^
          help: leave the / at the end out
        conf.d/orders.yaml:14:38: configs[2].mode: "4755" sets more than read, write and execute
          14 |   - { data_id: a, path: /run/, mode: "4755", reload: { exec: nginx -s reload } }
             |                                      ^^^^^^
          help: modes go from "0000" to "0775"
        conf.d/orders.yaml:14:62: configs[2].reload.exec: expected a list, found a single value
          14 |   - { data_id: a, path: /run/, mode: "4755", reload: { exec: nginx -s reload } }
             |                                                              ^^^^^^^^^^^^^^^
          help: write a list of words, there is no shell: [nginx, -s, reload]
        conf.d/orders.yaml:15:25: configs[3].path: `/` names a directory
          help: leave the / at the end out
        conf.d/orders.yaml:15:34: configs[3].mode: "99" is not a mode
          help: write octal digits: "0640"
        conf.d/orders.yaml:15:50: configs[3].validate: names none of `format` and `exec`
          help: write validate: { format: json } or { exec: [nginx, -t, -c, "{staged}"] }
        conf.d/orders.yaml:15:70: configs[3].reload.http: credentials do not belong in a URL
          help: leave them out
        conf.d/orders.yaml:15:95: configs[3].reload.method: `DELETE` is none of POST, PUT, GET
        conf.d/orders.yaml:16:35: configs[4].mode: "" is not a mode
          16 |   - { data_id: a, path: /x, mode: "", validate: { exec: [a], format: xml }, reload: { http…
             |                                   ^^
          help: write octal digits: "0640"
        conf.d/orders.yaml:16:51: configs[4].validate.exec: `format` and `exec` exclude one another
          16 | … data_id: a, path: /x, mode: "", validate: { exec: [a], format: xml }, reload: { http: "u…
             |                                               ^^^^
          help: keep one of them
        conf.d/orders.yaml:16:93: configs[4].reload.http: `unix:/x` is not a URL
          16 | … { exec: [a], format: xml }, reload: { http: "unix:/x" } }
             |                                               ^^^^^^^^^
          help: write http: "http://127.0.0.1:9000/reload"
        30 errors in 1 of 1 file
        "#);
    }

    #[test]
    fn a_variable_is_replaced_inside_a_value_and_can_never_add_a_key() {
        let around = Surroundings::with(&[
            ("POD_NAME", "a, enabled: false }"),
            ("POD_PORT", "80"),
            ("HOME", "/root"),
        ]);
        let text = "services:\n- { name: n, port: 1, metadata: { pod: \"${POD_NAME}\" } }\n- name: p\n  port: ${POD_PORT}\n";
        let found = read_in(text, &around).unwrap();
        assert_eq!(found.services[0].metadata["pod"], "a, enabled: false }");
        assert!(found.services[0].enabled);
        assert_eq!(found.services[1].port, 80);
        let text = "services:\n- name: n\n  port: 1\n  metadata:\n    a: ${HOME}\n    b: ${POD_UID}\n    c: ${POD_IP\n    d: $HOME $$ {x}\n    e: $${HOME}\n";
        insta::assert_snapshot!(messages(read_in(text, &around)).join("\n"), @r"
        services[0].metadata.a: `${HOME}` is not replaced here (only POD_*, NODE_*, HOST_* and what catalog.variables lists are; write $${ where ${ itself is meant)
        services[0].metadata.b: the variable POD_UID is not set (set it in the agent's environment, or write the value itself)
        services[0].metadata.c: `${` without a closing `}` (write $${ where ${ itself is meant)
        ");
    }

    #[test]
    fn commands_are_problems_where_they_are_ruled_out_or_run_as_root() {
        let text = "services:\n- { name: a, port: 1, probe: { exec: { command: [x] } } }\nconfigs:\n- { data_id: a, path: /a, validate: { exec: [x] }, reload: { exec: [x], run_as: root } }\n";
        let root = Surroundings {
            privileged: true,
            ..Surroundings::default()
        };
        let banned = Surroundings::with(&[("OUTRIGGER_FORBID", "exec")]);
        assert!(read(text).is_ok());
        let shown = [
            messages(read_in(text, &root)),
            messages(read_in(text, &banned)),
        ]
        .concat();
        insta::assert_snapshot!(shown.join("\n"), @r"
        services[0].probe.exec.command: a command of a privileged agent needs `run_as` (write run_as: root to keep root's rights, or a user)
        configs[0].validate.exec: a command of a privileged agent needs `run_as` (write run_as: root to keep root's rights, or a user)
        services[0].probe.exec.command: commands are ruled out by OUTRIGGER_FORBID=exec (use tcp or http, a format, or a signal instead)
        configs[0].validate.exec: commands are ruled out by OUTRIGGER_FORBID=exec (use tcp or http, a format, or a signal instead)
        configs[0].reload.exec: commands are ruled out by OUTRIGGER_FORBID=exec (use tcp or http, a format, or a signal instead)
        ");
    }

    #[test]
    fn a_beat_is_shorter_than_what_waits_for_it_written_or_not() {
        for right in [
            "interval: 1s",
            "interval: 20s, timeout: 30s, delete_after: 40s",
            "timeout: 6s",
            "interval: 14999ms",
        ] {
            assert!(
                service(&format!("heartbeat: {{ {right} }}")).is_ok(),
                "{right}"
            );
        }
        for wrong in [
            "interval: 5s, timeout: 5s",
            "timeout: 5s",
            "delete_after: 1s",
            "interval: 20s, timeout: 30s, delete_after: 20s",
        ] {
            assert_eq!(
                messages(service(&format!("heartbeat: {{ {wrong} }}"))).len(),
                1,
                "{wrong}"
            );
        }
    }

    #[test]
    fn metadata_has_the_servers_limit_with_the_heartbeat_counted() {
        let of = |length: usize, more: &str| {
            service(&format!(
                "metadata: {{ k: {} }}, {more}",
                "v".repeat(length)
            ))
        };
        assert!(of(1023, "").is_ok());
        assert!(of(1024, "").is_err());
        // preserved.heart.beat.interval and 1000
        assert!(of(1023 - 29 - 4, "heartbeat: { interval: 1s }").is_ok());
        assert!(of(1023 - 29 - 3, "heartbeat: { interval: 1s }").is_err());
    }

    #[test]
    fn names_have_the_servers_limits() {
        let name = |length: usize| {
            read(&format!(
                "services: [{{ name: {}, port: 1 }}]",
                "n".repeat(length)
            ))
        };
        assert!(name(512).is_ok() && name(513).is_err());
        for (key, most) in [("group", 128), ("cluster", 64), ("namespace", 64)] {
            assert!(service(&format!("{key}: {}", "n".repeat(most))).is_ok());
            assert!(service(&format!("{key}: {}", "n".repeat(most + 1))).is_err());
        }
    }

    #[test]
    fn a_file_full_of_mistakes_shows_a_hundred() {
        let text = (0..5000).map(|n| format!("k{n}: 1\n")).collect::<String>();
        let problems = read(&text).unwrap_err();
        assert_eq!(problems.len(), MAX_SHOWN + 1);
        let last = problems.iter().find(|problem| problem.place.is_none());
        assert_eq!(
            last.unwrap().message,
            "more than 100 mistakes; the rest is not shown"
        );
    }

    const MAX_SHOWN: usize = 100;

    proptest! {
        #[test]
        fn no_text_panics(text in "(services:|configs:|- |name: |port: |probe: |address: |weight: |metadata: |reload: |mode: |path: |\\$\\{POD_IP\\}|\\$\\{|5s|[0-9]{1,3}|[:{}\\[\\], \n\"'a-z/&*é-]){0,40}") {
            if let Err(problems) = read(&text) {
                prop_assert!(!problems.is_empty());
                let lines = text.lines().count().max(1);
                for problem in problems {
                    prop_assert!(problem.place.is_none_or(|at| at.line >= 1 && at.line <= lines + 1 && at.column >= 1));
                    prop_assert!(problem.render(false).chars().all(|c| c == '\n' || !c.is_control()));
                }
            }
        }

        #[test]
        fn what_is_right_says_what_was_written(port in 1_u16.., weight in 0_u32..=10_000, millis in 10_u64..5_000, rise in 1_u32..=1000) {
            let read = service(&format!("weight: {weight}, probe: {{ tcp: {{ port: {port} }}, interval: {millis}ms, rise: {rise} }}")).unwrap();
            prop_assert_eq!(read.weight, f64::from(weight));
            let probe = read.probe.unwrap();
            let host = Ipv4Addr::LOCALHOST.into();
            prop_assert_eq!(probe.kind, ProbeKind::Tcp { host, port });
            prop_assert_eq!((probe.interval, probe.rise), (Duration::from_millis(millis), rise));
        }
    }
}
