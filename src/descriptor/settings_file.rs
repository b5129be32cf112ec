//! The settings: file, variables and flags become one complete value in which every setting knows where it comes from.
//!
//! A flag wins over a variable, a variable over the file, the file over the default. What loses is read all the same, so that
//! a mistake in the file does not wait for the day on which the variable is gone.

use super::Flags;
use super::Surroundings;
use super::parse::is_account;
use super::parse::namespace;
use super::reader::Fields;
use super::reader::Problems;
use super::reader::Source;
use super::reader::Value;
use super::reader::nearest;
use super::reader::shown;
use super::settings::{
    Admin, Auth, Catalog, Log, Origin, PasswordSource, Registry, Servers, Settings,
};
use super::url;
use super::variables;
use crate::foreign::Foreign;
use crate::report::Problem;
use crate::yaml;
use crate::yaml::Node;
use std::{
    collections::BTreeMap,
    io::Read as _,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the settings are when `--config` names nothing.
const DEFAULT_FILE: &str = "/etc/outrigger/outrigger.yaml";
const DEFAULT_SERVER: &str = "http://127.0.0.1:8848";
const MAX_SERVERS: usize = 64;
/// Bytes of `sockaddr_un.sun_path` without its NUL.
const MAX_SOCKET_PATH: usize = 107;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// For one call or connection.
const CALLS: RangeInclusive<Duration> = Duration::from_millis(10)..=secs(300);
/// Between two looks at something.
const LOOKS: RangeInclusive<Duration> = Duration::from_millis(100)..=secs(24 * 60 * 60);
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Every setting, in the order of the documentation.
pub(super) const KEYS: [&str; 22] = [
    "registry.servers",
    "registry.endpoint",
    "registry.endpoint_refresh",
    "registry.namespace",
    "registry.context_path",
    "registry.auth.username",
    "registry.auth.password_file",
    "registry.auth.password",
    "registry.tls.ca",
    "registry.connect_timeout",
    "registry.request_timeout",
    "registry.long_poll",
    "registry.write_rate",
    "state_dir",
    "admin.socket",
    "admin.group",
    "admin.listen",
    "log.level",
    "log.format",
    "catalog.conf_dir",
    "catalog.rescan",
    "shutdown_timeout",
];

/// The variable of a setting: `registry.servers` is `OUTRIGGER_REGISTRY_SERVERS`.
pub(super) fn variable(key: &str) -> String {
    format!("OUTRIGGER_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Reads the settings: the file of `--config` (or `/etc/outrigger/outrigger.yaml`, which may be absent), variables, flags.
///
/// # Errors
///
/// Everything that is wrong, with its line or its variable.
pub fn read_settings(flags: &Flags, around: &Surroundings) -> Result<Settings, Vec<Problem>> {
    let path = flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    let unreadable = |message: String| {
        Err(vec![Problem {
            source: path.to_owned(),
            place: None,
            key: String::new(),
            message,
            help: Some(
                "name the settings with --config, or leave them out: variables are enough".into(),
            ),
            excerpt: None,
        }])
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(yaml::MAX_BYTES).unwrap_or(u64::MAX);
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && flags.config.is_none() => {
            return resolve(path, None, flags, around);
        }
        Err(error) => return unreadable(format!("cannot be read: {error}")),
    }
    match String::from_utf8(bytes) {
        Ok(text) => resolve(path, Some(&text), flags, around),
        Err(_) => unreadable("not UTF-8".into()),
    }
}

/// As [`read_settings`] with the file's text at hand.
pub(super) fn resolve(
    path: &Path,
    text: Option<&str>,
    flags: &Flags,
    around: &Surroundings,
) -> Result<Settings, Vec<Problem>> {
    let problems = Problems::default();
    variables::check(around, &problems);
    let (source, root) = match text {
        Some(text) => Source::file(path, text, None, &problems),
        None => (Source::variable("", None, &problems), None),
    };
    let root = root.filter(|root| !root.is_null());
    let written = written(around, &problems);
    let mut reading = Reading {
        path,
        variables: written
            .iter()
            .map(|(key, source, node)| (*key, Value::root(source, node)))
            .collect(),
        origins: BTreeMap::new(),
    };
    let mut fields = root
        .as_ref()
        .and_then(|root| Value::root(&source, root).fields("registry: { servers: [...] }"));
    let settings = reading.settings(&mut fields, flags);
    finish(fields);
    problems.or(settings)
}

/// The variables of settings that are set; one that is empty counts as not set.
fn written<'a>(
    around: &Surroundings,
    problems: &'a Problems,
) -> Vec<(&'static str, Source<'a>, Node)> {
    let set = |name: &str| around.env.get(name).filter(|value| !value.is_empty());
    KEYS.iter()
        .filter_map(|key| {
            let mut name = variable(key);
            let mut value = set(&name);
            if value.is_none() && *key == "log.level" {
                name = "RUST_LOG".to_owned();
                value = set(&name);
            }
            let mut node = Node::unplaced(value?.as_str());
            if *key == "registry.servers" {
                let servers = value?.split(',').map(|part| Node::unplaced(part.trim()));
                node.value = yaml::Value::Sequence(servers.collect());
            }
            Some((*key, Source::variable(&name, None, problems), node))
        })
        .collect()
}

fn finish(fields: Option<Fields<'_>>) {
    if let Some(fields) = fields {
        fields.finish();
    }
}

/// One setting as it was written, or not.
struct Setting<'a, T> {
    /// `None` when nobody wrote it, or when it is wrong.
    value: Option<T>,
    /// The writing that wins.
    at: Option<Value<'a>>,
    origin: Origin,
}

impl<T> Setting<'_, T> {
    fn is_written(&self) -> bool {
        self.at.is_some()
    }

    /// Which of two writings wins.
    fn rank(&self) -> u8 {
        match (&self.at, &self.origin) {
            (None, _) | (_, Origin::Default) => 0,
            (_, Origin::File(..)) => 1,
            (_, Origin::Variable(_)) => 2,
            (_, Origin::Flag(_)) => 3,
        }
    }
}

struct Reading<'a> {
    path: &'a Path,
    variables: BTreeMap<&'static str, Value<'a>>,
    origins: BTreeMap<&'static str, Origin>,
}

impl<'a> Reading<'a> {
    /// Reads a setting from the file and from its variable.
    fn setting<T>(
        &mut self,
        fields: &mut Option<Fields<'a>>,
        key: &'static str,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Setting<'a, T> {
        let name = key.rsplit('.').next().unwrap_or(key);
        let filed = fields.as_mut().and_then(|fields| fields.get(name));
        let varied = self.variables.get(key).cloned();
        let from_file = filed.as_ref().and_then(&read);
        let (at, value, origin) = match (varied, filed) {
            (Some(at), _) => {
                let name = at.source().to_string_lossy().into_owned();
                let value = read(&at);
                (Some(at), value, Origin::Variable(name))
            }
            (None, Some(at)) => {
                let line = at.line().unwrap_or_default();
                let origin = Origin::File(self.path.to_owned(), line);
                (Some(at), from_file, origin)
            }
            (None, None) => (None, None, Origin::Default),
        };
        self.origins.insert(key, origin.clone());
        Setting { value, at, origin }
    }

    /// Reads a setting that has a default.
    fn or<T>(
        &mut self,
        fields: &mut Option<Fields<'a>>,
        key: &'static str,
        default: T,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> T {
        self.setting(fields, key, read).value.unwrap_or(default)
    }

    /// Of two settings that exclude one another, makes the weaker one unwritten; equals are a problem.
    fn one_of<A, B>(
        &mut self,
        a: &mut Setting<'a, A>,
        b: &mut Setting<'a, B>,
        keys: [&'static str; 2],
    ) {
        let [first, second] = keys;
        if !(a.is_written() && b.is_written()) {
            return;
        }
        match a.rank().cmp(&b.rank()) {
            std::cmp::Ordering::Less => {
                (a.value, a.at) = (None, None);
                self.origins.insert(first, Origin::Default);
            }
            std::cmp::Ordering::Greater => {
                (b.value, b.at) = (None, None);
                self.origins.insert(second, Origin::Default);
            }
            std::cmp::Ordering::Equal => {
                if let Some(at) = &b.at {
                    at.wrong::<()>(
                        format!("`{first}` and `{second}` exclude one another"),
                        "keep one of them",
                    );
                }
            }
        }
    }

    fn section(
        fields: &mut Option<Fields<'a>>,
        name: &'static str,
        example: &str,
    ) -> Option<Fields<'a>> {
        fields
            .as_mut()
            .and_then(|fields| fields.get(name))
            .and_then(|value| value.fields(example))
    }

    fn settings(&mut self, root: &mut Option<Fields<'a>>, flags: &Flags) -> Settings {
        let registry = self.registry(root);
        let state_dir = self.or(root, "state_dir", "/var/lib/outrigger".into(), |value| {
            value.directory()
        });

        let mut fields = Self::section(root, "admin", "admin: { listen: \"127.0.0.1:9901\" }");
        let admin = Admin {
            socket: self.or(
                &mut fields,
                "admin.socket",
                "/run/outrigger/admin.sock".into(),
                socket,
            ),
            group: self.setting(&mut fields, "admin.group", account).value,
            listen: self.setting(&mut fields, "admin.listen", listen).value,
        };
        finish(fields);

        let mut fields = Self::section(root, "log", "log: { level: info }");
        let log = Log {
            level: self.or(&mut fields, "log.level", "info".to_owned(), level),
            json: self.or(&mut fields, "log.format", false, |value| {
                value.choice(&[("text", false), ("json", true)])
            }),
        };
        finish(fields);

        let mut fields = Self::section(root, "catalog", "catalog: { rescan: 30s }");
        let beside = self.path.parent().unwrap_or(Path::new("")).join("conf.d");
        let mut conf_dir = self.or(&mut fields, "catalog.conf_dir", beside, |value| {
            value.directory()
        });
        if let Some(flag) = &flags.conf_dir {
            conf_dir.clone_from(flag);
            self.origins
                .insert("catalog.conf_dir", Origin::Flag("--conf-dir"));
        }
        let catalog = Catalog {
            conf_dir,
            rescan: self.or(&mut fields, "catalog.rescan", secs(30), |value| {
                value.duration(LOOKS)
            }),
        };
        finish(fields);

        let shutdown_timeout = self.or(root, "shutdown_timeout", secs(10), |value| {
            value.duration(Duration::from_millis(100)..=secs(60 * 60))
        });
        let mut settings = Settings {
            registry,
            state_dir,
            admin,
            log,
            catalog,
            shutdown_timeout,
            origins: Vec::new(),
        };
        settings.origins = KEYS
            .iter()
            .map(|key| {
                let origin = self.origins.remove(key).unwrap_or(Origin::Default);
                ((*key).to_owned(), text_of(&settings, key), origin)
            })
            .collect();
        settings
    }

    fn registry(&mut self, root: &mut Option<Fields<'a>>) -> Registry {
        let mut fields = Self::section(root, "registry", "registry: { servers: [...] }");
        let mut servers = self.setting(&mut fields, "registry.servers", servers);
        let mut endpoint = self.setting(&mut fields, "registry.endpoint", |value| {
            url::whole(value, "endpoint: http://host:8080/nacos/serverlist")
        });
        self.one_of(
            &mut servers,
            &mut endpoint,
            ["registry.servers", "registry.endpoint"],
        );
        let refresh = self.or(
            &mut fields,
            "registry.endpoint_refresh",
            secs(30),
            |value| value.duration(LOOKS),
        );
        let registry = Registry {
            servers: match endpoint.value {
                Some(url) => Servers::Endpoint { url, refresh },
                None => Servers::List(
                    servers
                        .value
                        .unwrap_or_else(|| vec![DEFAULT_SERVER.to_owned()]),
                ),
            },
            namespace: self.or(
                &mut fields,
                "registry.namespace",
                "public".to_owned(),
                namespace,
            ),
            context_path: self.or(
                &mut fields,
                "registry.context_path",
                "/nacos".to_owned(),
                context_path,
            ),
            auth: self.auth(&mut fields),
            tls_ca: self.tls(&mut fields),
            connect_timeout: self.or(&mut fields, "registry.connect_timeout", secs(3), |value| {
                value.duration(CALLS)
            }),
            request_timeout: self.or(&mut fields, "registry.request_timeout", secs(3), |value| {
                value.duration(CALLS)
            }),
            long_poll: self.or(&mut fields, "registry.long_poll", secs(30), |value| {
                value.duration(secs(10)..=secs(300))
            }),
            write_rate: self.or(&mut fields, "registry.write_rate", 20, |value| {
                let rate = value.integer("`write_rate`", 1..=10_000)?;
                u32::try_from(rate).ok()
            }),
        };
        finish(fields);
        registry
    }

    fn auth(&mut self, registry: &mut Option<Fields<'a>>) -> Option<Auth> {
        let example = "auth: { username: svc, password_file: /run/secrets/nacos }";
        let mut fields = Self::section(registry, "auth", example);
        let username = self.setting(&mut fields, "registry.auth.username", |value| value.text());
        let mut file = self.setting(&mut fields, "registry.auth.password_file", |value| {
            value.path()
        });
        let mut inline = self.setting(&mut fields, "registry.auth.password", |value| value.text());
        self.one_of(
            &mut file,
            &mut inline,
            ["registry.auth.password_file", "registry.auth.password"],
        );
        finish(fields);
        match (&username.at, file.at.as_ref().or(inline.at.as_ref())) {
            (Some(name), None) => {
                return name.wrong(
                    "a user without a password",
                    "write `registry.auth.password_file` too",
                );
            }
            (None, Some(password)) => {
                return password.wrong(
                    "a password without a user",
                    "write `registry.auth.username` too",
                );
            }
            _ => {}
        }
        let password = file
            .value
            .map(PasswordSource::File)
            .or(inline.value.map(PasswordSource::Inline));
        Some(Auth {
            username: username.value?,
            password: password?,
        })
    }

    fn tls(&mut self, registry: &mut Option<Fields<'a>>) -> Option<PathBuf> {
        let mut fields = Self::section(registry, "tls", "tls: { ca: /etc/ssl/ca.pem }");
        let ca = self.setting(&mut fields, "registry.tls.ca", |value| {
            if !cfg!(feature = "tls") {
                return value.wrong(
                    "means nothing to this binary, it was built without the feature `tls`",
                    "leave it out or use a binary with TLS",
                );
            }
            value.path()
        });
        finish(fields);
        ca.value
    }
}

fn servers(value: &Value<'_>) -> Option<Vec<String>> {
    let items = value.list("servers: [http://nacos-0:8848]")?;
    if items.is_empty() {
        return value.wrong("no server", "write servers: [http://nacos-0:8848]");
    }
    if items.len() > MAX_SERVERS {
        return value.wrong(
            format!("{} servers are more than {MAX_SERVERS}", items.len()),
            "name a few servers of the cluster, or an address server with `registry.endpoint`",
        );
    }
    let mut servers: Vec<String> = Vec::new();
    let mut right = true;
    for item in &items {
        match url::server(item) {
            Some(server) if servers.contains(&server) => {
                item.wrong::<()>(format!("{server} is written twice"), "leave it out here");
                right = false;
            }
            Some(server) => servers.push(server),
            None => right = false,
        }
    }
    right.then_some(servers)
}

fn context_path(value: &Value<'_>) -> Option<String> {
    let text = value.any_text()?;
    let segment = |part: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
        !part.is_empty() && part != "." && part != ".." && part.chars().all(letters)
    };
    match text.strip_prefix('/') {
        None if text.is_empty() => Some(text),
        Some("") => Some(String::new()),
        Some(path) if path.split('/').all(segment) => Some(text),
        _ => value.wrong(
            format!("`{}` is not a context path", Foreign::new(text)),
            "begin it with / and end it without, as in /nacos; \"\" means none",
        ),
    }
}

fn socket(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.path()?;
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return value.wrong(
            format!("a path of {length} bytes"),
            &format!("the path of a socket has at most {MAX_SOCKET_PATH}"),
        );
    }
    Some(path)
}

fn account(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    match is_account(&text) {
        true => Some(text),
        false => value.wrong(
            format!("`{}` is not a group", Foreign::new(text)),
            "write a group's name or number",
        ),
    }
}

fn listen(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.text()?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => value.wrong(
            format!("`{}` is not an address with a port", Foreign::new(text)),
            "write 127.0.0.1:9901",
        ),
    }
}

fn level(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if LEVELS.contains(&text.as_str()) {
        return Some(text);
    }
    // A bare word would be taken for a target's name, and a slip of the pen would then switch the logs off.
    let filter = text.contains('=')
        && tracing_subscriber::EnvFilter::builder()
            .parse(&text)
            .is_ok();
    if filter {
        return Some(text);
    }
    let help = match nearest(&text, LEVELS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write error, warn, info, debug or trace, or a filter: info,outrigger::nacos=debug"
            .to_owned(),
    };
    value.wrong(format!("`{}` is not a level", Foreign::new(text)), &help)
}

/// A setting as `status` shows it.
fn text_of(settings: &Settings, key: &str) -> String {
    let none = || "none".to_owned();
    let path = |path: &Path| path.display().to_string();
    let registry = &settings.registry;
    let auth = registry.auth.as_ref();
    match key {
        "registry.servers" => match &registry.servers {
            Servers::List(servers) => servers.join(", "),
            Servers::Endpoint { .. } => none(),
        },
        "registry.endpoint" => match &registry.servers {
            Servers::List(_) => none(),
            Servers::Endpoint { url, .. } => url.clone(),
        },
        "registry.endpoint_refresh" => match &registry.servers {
            Servers::List(_) => none(),
            Servers::Endpoint { refresh, .. } => shown(*refresh),
        },
        "registry.namespace" => registry.namespace.clone(),
        "registry.context_path" => registry.context_path.clone(),
        "registry.auth.username" => auth.map_or_else(none, |auth| auth.username.clone()),
        "registry.auth.password_file" => match auth.map(|auth| &auth.password) {
            Some(PasswordSource::File(file)) => path(file),
            _ => none(),
        },
        "registry.auth.password" => match auth.map(|auth| &auth.password) {
            Some(PasswordSource::Inline(_)) => "[secret]".to_owned(),
            _ => none(),
        },
        "registry.tls.ca" => registry.tls_ca.as_deref().map_or_else(none, path),
        "registry.connect_timeout" => shown(registry.connect_timeout),
        "registry.request_timeout" => shown(registry.request_timeout),
        "registry.long_poll" => shown(registry.long_poll),
        "registry.write_rate" => registry.write_rate.to_string(),
        "state_dir" => path(&settings.state_dir),
        "admin.socket" => path(&settings.admin.socket),
        "admin.group" => settings.admin.group.clone().unwrap_or_else(none),
        "admin.listen" => settings
            .admin
            .listen
            .map_or_else(none, |address| address.to_string()),
        "log.level" => settings.log.level.clone(),
        "log.format" => if settings.log.json { "json" } else { "text" }.to_owned(),
        "catalog.conf_dir" => path(&settings.catalog.conf_dir),
        "catalog.rescan" => shown(settings.catalog.rescan),
        "shutdown_timeout" => shown(settings.shutdown_timeout),
        _ => String::new(),
    }
}
