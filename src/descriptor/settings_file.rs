//! The settings: file, variables and flags become one complete value in which every setting knows where it comes from.
//!
//! A flag wins over a variable, a variable over the file, the file over the default. What loses is read all the same, so that
//! a mistake in the file does not wait for the day on which the variable is gone.

use super::Flags;
use super::Surroundings;
use super::parse::checked;
use super::parse::is_account;
use super::parse::namespace;
use super::reader::Fields;
use super::reader::Problems;
use super::reader::Source;
use super::reader::Value;
use super::reader::nearest;
use super::reader::shown;
use super::settings::KEYS;
use super::settings::crosses_in_clear;
use super::settings::variable;
use super::settings::{
    Admin, Auth, Catalog, Identity, Log, Origin, PasswordSource, Registry, Servers, Settings,
    Speech, Tls,
};
use super::url;
use super::variables;
use crate::foreign::Foreign;
use crate::os::input;
use crate::report::Problem;
use crate::secret::Secret;
use crate::yaml;
use crate::yaml::Node;
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
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

/// Reads the settings: the file of `--config` (or `/etc/outrigger/outrigger.yaml`, which may be absent), variables, flags.
///
/// # Errors
///
/// Everything that is wrong, with its line or its variable.
pub fn read_settings(flags: &Flags, around: &Surroundings) -> Result<Settings, Vec<Problem>> {
    let path = flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    let unreadable =
        |message: String, help: Option<&str>| Err(vec![Problem::of_whole(path, message, help)]);
    let most = u64::try_from(yaml::MAX_BYTES).unwrap_or(u64::MAX);
    match input::read(path, most).map(String::from_utf8) {
        Ok(Ok(text)) => resolve(path, Some(&text), flags, around),
        Ok(Err(_)) => unreadable("not UTF-8".into(), None),
        Err(input::Error::Unreadable { source, .. })
            if source.kind() == ErrorKind::NotFound && flags.config.is_none() =>
        {
            resolve(path, None, flags, around)
        }
        Err(input::Error::Unreadable { source, .. }) => {
            let help = "name another file with --config; without one variables are enough";
            unreadable(format!("cannot be read: {source}"), Some(help))
        }
        Err(error) => {
            // It begins with the path, which is shown already.
            let text = error.to_string();
            let what = text.strip_prefix(&format!("{}: ", path.display()));
            unreadable(what.unwrap_or(&text).to_owned(), None)
        }
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
            if matches!(
                *key,
                "registry.servers" | "catalog.variables" | "admin.allow_hosts"
            ) {
                let parts = value?.split(',').map(|part| Node::unplaced(part.trim()));
                node.value = yaml::Value::Sequence(parts.collect());
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
        let allow_root = self.or(root, "allow_root", false, |value| value.boolean());

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
            allow_hosts: self.or(&mut fields, "admin.allow_hosts", Vec::new(), hosts),
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
            variables: self.or(&mut fields, "catalog.variables", Vec::new(), listed),
        };
        finish(fields);

        let shutdown_timeout = self.or(root, "shutdown_timeout", secs(10), |value| {
            value.duration(Duration::from_millis(100)..=secs(60 * 60))
        });
        let mut settings = Settings {
            registry,
            state_dir,
            allow_root,
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
        let insecure = self.or(&mut fields, "registry.endpoint_insecure", false, |value| {
            value.boolean()
        });
        let auth = self.auth(&mut fields);
        if let (Some(at), Some(url), Some(_), false) =
            (&endpoint.at, &endpoint.value, &auth, insecure)
            && crosses_in_clear(url)
        {
            at.wrong::<()>(
                "whoever answers here decides who gets the password, and over http:// that can be anybody",
                "use https://, or write `registry.endpoint_insecure: true`",
            );
        }
        let misread = servers.at.is_some() && servers.value.is_none()
            || endpoint.at.is_some() && endpoint.value.is_none();
        let servers = match endpoint.value {
            Some(url) => Servers::Endpoint {
                url,
                refresh,
                insecure,
            },
            None => Servers::List(
                servers
                    .value
                    .unwrap_or_else(|| vec![DEFAULT_SERVER.to_owned()]),
            ),
        };
        let has_tls = (!misread).then(|| servers.has_tls());
        let registry = Registry {
            servers,
            namespace: self.or(
                &mut fields,
                "registry.namespace",
                "public".to_owned(),
                namespace,
            ),
            config_tag: self
                .setting(&mut fields, "registry.config_tag", |value| {
                    checked(value, "tag", 128, ".:_-")
                })
                .value,
            context_path: self.or(
                &mut fields,
                "registry.context_path",
                "/nacos".to_owned(),
                context_path,
            ),
            auth,
            tls: self.tls(&mut fields, has_tls),
            transport: self.or(&mut fields, "registry.transport", Speech::Auto, |value| {
                value.choice(&Speech::WORDS)
            }),
            grpc_offset: self.or(&mut fields, "registry.grpc_offset", 1000, |value| {
                let offset = value.integer("a distance between two ports", 1..=64_000)?;
                u16::try_from(offset).ok()
            }),
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
                let rate = value.integer("a rate", 1..=10_000)?;
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
            // What is written here instead of a path is the password itself.
            if !value.text()?.starts_with('/') {
                return value.wrong_unseen(
                    "not an absolute path",
                    "name a file that holds the password",
                );
            }
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
        let password = file.value.map(PasswordSource::File).or(inline
            .value
            .map(|text| PasswordSource::Inline(Arc::new(Secret::new(text)))));
        Some(Auth {
            username: username.value?,
            password: password?,
        })
    }

    /// `asked` says whether any server is asked over `https://`; nothing where that could not be read.
    fn tls(&mut self, registry: &mut Option<Fields<'a>>, asked: Option<bool>) -> Tls {
        let mut fields = Self::section(registry, "tls", "tls: { ca: /etc/ssl/ca.pem }");
        let ca = self.setting(&mut fields, "registry.tls.ca", tls_file);
        let cert = self.setting(&mut fields, "registry.tls.cert", tls_file);
        let key = self.setting(&mut fields, "registry.tls.key", tls_file);
        let server_name = self.setting(&mut fields, "registry.tls.server_name", |value| {
            spoken(value)?;
            let text = value.text()?;
            match url::is_name(&text) {
                true => Some(text.to_ascii_lowercase()),
                false => value.wrong(
                    format!("`{}` is not a host's name", Foreign::new(text)),
                    "write the name the server's certificate has, without scheme and port",
                ),
            }
        });
        finish(fields);
        match (&cert.at, &key.at) {
            (Some(at), None) => {
                at.wrong::<()>(
                    "a client certificate without its key",
                    "write `registry.tls.key` too",
                );
            }
            (None, Some(at)) => {
                at.wrong::<()>(
                    "a key without its client certificate",
                    "write `registry.tls.cert` too",
                );
            }
            // Whoever writes a certificate believes to be known by it.
            (Some(at), Some(_)) if asked == Some(false) => {
                at.wrong::<()>(
                    "a client certificate, and no server is asked over https://",
                    "write https:// in `registry.servers` or `registry.endpoint`",
                );
            }
            _ => {}
        }
        let identity = cert.value.zip(key.value);
        Tls {
            ca: ca.value,
            identity: identity.map(|(cert, key)| Identity { cert, key }),
            server_name: server_name.value,
        }
    }
}

/// That there is TLS at all.
fn spoken(value: &Value<'_>) -> Option<()> {
    if cfg!(feature = "tls") {
        return Some(());
    }
    value.wrong(
        "means nothing to this binary, it was built without the feature `tls`",
        "leave it out or use a binary with TLS",
    )
}

fn tls_file(value: &Value<'_>) -> Option<PathBuf> {
    spoken(value)?;
    // What is written here instead of a path may be the key itself.
    if !value.text()?.starts_with('/') {
        return value.wrong_unseen("not an absolute path", "name a file in PEM");
    }
    value.path()
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

/// Names of hosts, without a port.
fn hosts(value: &Value<'_>) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut right = true;
    for item in value.list("allow_hosts: [node-7.example.com]")? {
        match item.text() {
            Some(name) if url::is_name(&name) => names.push(name.to_ascii_lowercase()),
            Some(name) => {
                item.wrong::<()>(
                    format!("`{}` is not a host's name", Foreign::new(name)),
                    "write the name alone, without scheme and port: node-7.example.com",
                );
                right = false;
            }
            None => right = false,
        }
    }
    right.then_some(names)
}

/// Names of variables that may be replaced.
fn listed(value: &Value<'_>) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut right = true;
    for item in value.list("variables: [REGION]")? {
        let Some(name) = item.text() else {
            right = false;
            continue;
        };
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.starts_with("OUTRIGGER_")
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(letters)
        {
            item.wrong::<()>(
                format!(
                    "`{}` is not a variable that can be replaced",
                    Foreign::new(name)
                ),
                "letters, digits and _ are allowed; settings of the agent itself are not",
            );
            right = false;
        } else {
            names.push(name);
        }
    }
    right.then_some(names)
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
    // A bare word would be taken for a target's name, and a slip of the pen would then switch the logs off. RUST_LOG is not
    // ours alone: it may say all that other programs take.
    // Beyond ASCII the filter's parser may panic (tracing-subscriber 0.3.23: a blank, such a letter, `=`), and no target needs it.
    let filter = text.is_ascii()
        && (text.contains('=') || value.source() == Path::new("RUST_LOG"))
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
    let identity = registry.tls.identity.as_ref();
    match key {
        "registry.servers" => match &registry.servers {
            Servers::List(servers) => servers.join(", "),
            Servers::Endpoint { .. } => none(),
        },
        "registry.endpoint" => match &registry.servers {
            Servers::List(_) => none(),
            // A query may hold a token.
            Servers::Endpoint { url, .. } => match url.split_once('?') {
                Some((path, _)) => format!("{path}?…"),
                None => url.clone(),
            },
        },
        "registry.endpoint_refresh" => match &registry.servers {
            Servers::List(_) => none(),
            Servers::Endpoint { refresh, .. } => shown(*refresh),
        },
        "registry.endpoint_insecure" => match &registry.servers {
            Servers::List(_) => none(),
            Servers::Endpoint { insecure, .. } => insecure.to_string(),
        },
        "registry.namespace" => registry.namespace.clone(),
        "registry.config_tag" => registry.config_tag.clone().unwrap_or_else(none),
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
        "registry.tls.ca" => registry.tls.ca.as_deref().map_or_else(none, path),
        "registry.tls.cert" => identity.map_or_else(none, |files| path(&files.cert)),
        "registry.tls.key" => identity.map_or_else(none, |files| path(&files.key)),
        "registry.tls.server_name" => registry.tls.server_name.clone().unwrap_or_else(none),
        "registry.transport" => Speech::WORDS
            .iter()
            .find(|(_, speech)| *speech == registry.transport)
            .map_or("", |(word, _)| word)
            .to_owned(),
        "registry.grpc_offset" => registry.grpc_offset.to_string(),
        "registry.connect_timeout" => shown(registry.connect_timeout),
        "registry.request_timeout" => shown(registry.request_timeout),
        "registry.long_poll" => shown(registry.long_poll),
        "registry.write_rate" => registry.write_rate.to_string(),
        "state_dir" => path(&settings.state_dir),
        "allow_root" => settings.allow_root.to_string(),
        "admin.socket" => path(&settings.admin.socket),
        "admin.group" => settings.admin.group.clone().unwrap_or_else(none),
        "admin.listen" => settings
            .admin
            .listen
            .map_or_else(none, |address| address.to_string()),
        "admin.allow_hosts" => match settings.admin.allow_hosts.as_slice() {
            [] => none(),
            names => names.join(", "),
        },
        "log.level" => settings.log.level.clone(),
        "log.format" => if settings.log.json { "json" } else { "text" }.to_owned(),
        "catalog.conf_dir" => path(&settings.catalog.conf_dir),
        "catalog.rescan" => shown(settings.catalog.rescan),
        "catalog.variables" => match settings.catalog.variables.as_slice() {
            [] => none(),
            names => names.join(", "),
        },
        "shutdown_timeout" => shown(settings.shutdown_timeout),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;
    use proptest::prelude::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
        let path = Path::new("/etc/outrigger/outrigger.yaml");
        resolve(
            path,
            Some(text),
            &Flags::default(),
            &Surroundings::with(variables),
        )
    }

    fn shown(text: &str, variables: &[(&str, &str)]) -> String {
        report::render_all(&read(text, variables).unwrap_err(), 1, 1, false)
    }

    fn document(name: &str) -> String {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(here.join(name)).unwrap()
    }

    #[test]
    fn the_documentation_lists_every_key_with_its_variable_and_default() {
        let settings = read("", &[]).unwrap();
        let rows: Vec<Vec<String>> = document("docs/settings.md")
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| {
                line.split('|')
                    .skip(1)
                    .map(|cell| cell.trim().to_owned())
                    .collect()
            })
            .collect();
        let keys: Vec<_> = rows
            .iter()
            .map(|row| row[0].trim_matches('`').to_owned())
            .collect();
        assert_eq!(keys, KEYS);
        for (row, (key, value, origin)) in rows.iter().zip(&settings.origins) {
            assert!(
                row[1].starts_with(&format!("`{}`", variable(key))),
                "{row:?}"
            );
            assert_eq!(*origin, Origin::Default);
            match key.as_str() {
                "registry.endpoint_refresh" | "registry.endpoint_insecure" => {
                    assert_eq!(value, "none");
                }
                "catalog.conf_dir" => assert_eq!(value, "/etc/outrigger/conf.d"),
                _ if row[2].starts_with('`') => {
                    assert!(
                        row[2].starts_with(&format!("`{value}`")),
                        "{row:?}, not {value}"
                    );
                }
                _ => assert_eq!(value, "none", "{row:?}"),
            }
        }
    }

    #[test]
    fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
        let text = "log: { level: debug }\ncatalog:\n  conf_dir: /a\n  rescan: 5s\n";
        let flags = Flags {
            config: None,
            conf_dir: Some("mine".into()),
        };
        let around = Surroundings::with(&[
            ("OUTRIGGER_CATALOG_RESCAN", "7s"),
            ("OUTRIGGER_CATALOG_CONF_DIR", "/b"),
            ("RUST_LOG", "warn,outrigger::nacos=trace"),
            ("OUTRIGGER_REGISTRY_NAMESPACE", ""),
        ]);
        let path = Path::new("/etc/o.yaml");
        let settings = resolve(path, Some(text), &flags, &around).unwrap();
        assert_eq!(settings.catalog.conf_dir, PathBuf::from("mine"));
        let found = |wanted: &str| {
            let (_, value, origin) = settings
                .origins
                .iter()
                .find(|(key, ..)| key == wanted)
                .unwrap();
            (value.as_str(), origin.clone())
        };
        let variable = |name: &str| Origin::Variable(name.into());
        assert_eq!(
            found("catalog.conf_dir"),
            ("mine", Origin::Flag("--conf-dir"))
        );
        assert_eq!(
            found("catalog.rescan"),
            ("7s", variable("OUTRIGGER_CATALOG_RESCAN"))
        );
        assert_eq!(
            found("log.level"),
            ("warn,outrigger::nacos=trace", variable("RUST_LOG"))
        );
        assert_eq!(found("log.format"), ("text", Origin::Default));
        let only_file = resolve(
            path,
            Some(text),
            &Flags::default(),
            &Surroundings::default(),
        );
        let origins = only_file.unwrap().origins;
        assert!(origins.contains(&(
            "catalog.conf_dir".into(),
            "/a".into(),
            Origin::File(path.into(), 3)
        )));
    }

    #[test]
    fn a_filter_is_checked_and_never_panics() {
        let level = |name, text| read("", &[(name, text)]).map(|settings| settings.log.level);
        assert!(level("OUTRIGGER_LOG_LEVEL", "info,outrigger::nacos=debug").is_ok());
        assert!(level("RUST_LOG", "hyper").is_ok());
        for wrong in ["hyper", " \u{ab11}=", "info,outrigger=loud"] {
            assert!(level("OUTRIGGER_LOG_LEVEL", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tls_is_refused_by_a_binary_without_it() {
        let read = read(
            "registry: { servers: [https://a], tls: { ca: /ca.pem, cert: /c.pem, key: /k.pem, server_name: a } }",
            &[],
        );
        assert_eq!(read.is_ok(), cfg!(feature = "tls"), "{read:?}");
        if let Err(problems) = read {
            assert!(
                problems
                    .iter()
                    .all(|problem| problem.message.contains("the feature `tls`"))
            );
        }
    }

    #[test]
    fn a_client_certificate_has_its_key_and_a_server_that_is_asked_over_tls() {
        if !cfg!(feature = "tls") {
            return;
        }
        let with = |server: &str, tls: &str| {
            format!("registry:\n  servers: [\"{server}\"]\n  tls: {{ {tls} }}\n")
        };
        let both = "cert: /c.pem, key: /k.pem, server_name: Nacos.example";
        let tls = read(&with("https://a", both), &[]).unwrap().registry.tls;
        assert_eq!(
            tls,
            Tls {
                ca: None,
                identity: Some(Identity {
                    cert: "/c.pem".into(),
                    key: "/k.pem".into()
                }),
                server_name: Some("nacos.example".into()),
            }
        );
        let from_variables = read(
            &with("https://a", "cert: /c.pem"),
            &[
                ("OUTRIGGER_REGISTRY_TLS_KEY", "/k.pem"),
                ("OUTRIGGER_REGISTRY_TLS_SERVER_NAME", "10.0.0.7"),
            ],
        );
        assert!(from_variables.unwrap().registry.tls.identity.is_some());
        let all = [
            with("https://a", "cert: /c.pem"),
            with("https://a", "key: /k.pem"),
            with("a", "cert: /c.pem, key: /k.pem"),
            with("https://a", "cert: c.pem, key: \"-----BEGIN PRIVATE KEY\""),
            with("https://a", "server_name: \"https://nacos:8848\""),
        ]
        .map(|text| shown(&text, &[]));
        insta::assert_snapshot!(all.concat(), @r#"
        /etc/outrigger/outrigger.yaml:3:16: registry.tls.cert: a client certificate without its key
           3 |   tls: { cert: /c.pem }
             |                ^^^^^^
          help: write `registry.tls.key` too
        1 error in 1 of 1 file
        /etc/outrigger/outrigger.yaml:3:15: registry.tls.key: a key without its client certificate
           3 |   tls: { key: /k.pem }
             |               ^^^^^^
          help: write `registry.tls.cert` too
        1 error in 1 of 1 file
        /etc/outrigger/outrigger.yaml:3:16: registry.tls.cert: a client certificate, and no server is asked over https://
           3 |   tls: { cert: /c.pem, key: /k.pem }
             |                ^^^^^^
          help: write https:// in `registry.servers` or `registry.endpoint`
        1 error in 1 of 1 file
        /etc/outrigger/outrigger.yaml:3:16: registry.tls.cert: not an absolute path
          help: name a file in PEM
        /etc/outrigger/outrigger.yaml:3:28: registry.tls.key: not an absolute path
          help: name a file in PEM
        2 errors in 1 of 1 file
        /etc/outrigger/outrigger.yaml:3:23: registry.tls.server_name: `https://nacos:8848` is not a host's name
           3 |   tls: { server_name: "https://nacos:8848" }
             |                       ^^^^^^^^^^^^^^^^^^^^
          help: write the name the server's certificate has, without scheme and port
        1 error in 1 of 1 file
        "#);
        // What is wrong with the server is said; whether it is asked over TLS is not known.
        let unread = shown(&with("https://a:0", "cert: /c.pem, key: /k.pem"), &[]);
        assert!(unread.contains("1 error"), "{unread}");
    }

    #[test]
    fn servers_come_in_one_form() {
        let text = "registry: { servers: [nacos-0, \"NACOS-1:9999\", \"http://[::1]\", \"[fe80::1]:1\", http://10.0.0.1/] }";
        assert_eq!(
            read(text, &[]).unwrap().registry.servers,
            Servers::List(
                [
                    "http://nacos-0:8848",
                    "http://nacos-1:9999",
                    "http://[::1]:8848",
                    "http://[fe80::1]:1",
                    "http://10.0.0.1:8848"
                ]
                .map(str::to_owned)
                .to_vec()
            )
        );
        let listed = read("", &[("OUTRIGGER_REGISTRY_SERVERS", "a:1, b")]).unwrap();
        assert_eq!(
            listed.registry.servers,
            Servers::List(vec!["http://a:1".into(), "http://b:8848".into()])
        );
    }

    #[test]
    fn a_host_that_may_be_asked_for_is_a_name_alone() {
        let named = |text: &str| {
            read(&format!("admin: {{ allow_hosts: [{text}] }}"), &[])
                .map(|settings| settings.admin.allow_hosts)
        };
        let names = named("Node-7.example.com, \"10.0.0.7\"").unwrap();
        assert_eq!(names, ["node-7.example.com", "10.0.0.7"]);
        for wrong in [
            "\"a:9901\"",
            "\"http://a\"",
            "\"*\"",
            "\"*.example\"",
            "\"\"",
            "[a]",
        ] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn at_most_64_servers_are_named() {
        let with = |count: usize| {
            let servers: Vec<_> = (0..count).map(|n| format!("nacos-{n}")).collect();
            read(
                &format!("registry: {{ servers: [{}] }}", servers.join(", ")),
                &[],
            )
        };
        assert!(with(64).is_ok());
        let problems = with(65).unwrap_err();
        assert_eq!(problems[0].message, "65 servers are more than 64");
    }

    #[test]
    fn a_variable_replaces_what_it_excludes_in_the_file() {
        let endpoint = "http://address:8080/nacos/serverlist";
        let settings = read(
            "registry:\n  servers: [a]\n  endpoint_insecure: true\n  auth: { username: svc, password: x }\n",
            &[
                ("OUTRIGGER_REGISTRY_ENDPOINT", endpoint),
                ("OUTRIGGER_REGISTRY_AUTH_PASSWORD_FILE", "/run/secret"),
            ],
        )
        .unwrap();
        assert!(
            matches!(settings.registry.servers, Servers::Endpoint { ref url, .. } if url == endpoint)
        );
        let password = settings.registry.auth.unwrap().password;
        assert_eq!(password, PasswordSource::File("/run/secret".into()));
        let (_, shown, origin) = &settings.origins[0];
        assert_eq!((shown.as_str(), origin), ("none", &Origin::Default));
    }

    #[test]
    fn a_password_follows_an_address_server_over_http_only_when_that_is_written() {
        let with = |url: &str, more: &str| {
            format!(
                "registry:\n  endpoint: {url}\n  auth: {{ username: svc, password: x }}\n{more}"
            )
        };
        let open = "http://address:8080/nacos/serverlist";
        insta::assert_snapshot!(shown(&with(open, ""), &[]), @r"
        /etc/outrigger/outrigger.yaml:2:13: registry.endpoint: whoever answers here decides who gets the password, and over http:// that can be anybody
           2 |   endpoint: http://address:8080/nacos/serverlist
             |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          help: use https://, or write `registry.endpoint_insecure: true`
        1 error in 1 of 1 file
        ");
        assert!(read(&with(open, "  endpoint_insecure: false\n"), &[]).is_err());
        assert!(read(&with(open, "  endpoint_insecure: true\n"), &[]).is_ok());
        let variable = ("OUTRIGGER_REGISTRY_ENDPOINT_INSECURE", "true");
        assert!(read(&with(open, ""), &[variable]).is_ok());
        for local in [
            "http://127.0.0.1:8080/x",
            "http://localhost/x",
            "http://[::1]:1/x",
        ] {
            assert!(read(&with(local, ""), &[]).is_ok(), "{local}");
        }
        if cfg!(feature = "tls") {
            assert!(read(&with("https://address/x", ""), &[]).is_ok());
        }
        assert!(read(&format!("registry: {{ endpoint: \"{open}\" }}"), &[]).is_ok());
    }

    #[test]
    fn a_password_that_crosses_in_clear_is_known() {
        let plain = |servers: &str, auth: &str| {
            let text = format!("registry: {{ servers: [{servers}]{auth} }}");
            read(&text, &[]).unwrap().registry.has_plaintext()
        };
        let auth = ", auth: { username: svc, password: x }";
        assert!(plain("\"http://nacos:8848\"", auth));
        assert!(plain("\"http://127.0.0.1:8848\", \"10.0.0.7\"", auth));
        assert!(!plain(
            "\"http://127.0.0.1:8848\", localhost, \"[::1]\"",
            auth
        ));
        assert!(!plain("\"http://nacos:8848\"", ""));
        if cfg!(feature = "tls") {
            assert!(!plain("\"https://nacos:8848\"", auth));
        }
    }

    #[test]
    fn only_names_of_variables_are_listed_and_none_of_our_own() {
        let listed = |text: &str| {
            read(&format!("catalog: {{ variables: [{text}] }}"), &[])
                .map(|settings| settings.catalog.variables)
        };
        assert_eq!(listed("REGION, zone_1").unwrap(), ["REGION", "zone_1"]);
        for wrong in [
            "OUTRIGGER_REGISTRY_AUTH_PASSWORD",
            "1A",
            "A-B",
            "\"\"",
            "[A]",
        ] {
            assert!(listed(wrong).is_err(), "{wrong}");
        }
        let settings = read("", &[("OUTRIGGER_CATALOG_VARIABLES", "A, B")]).unwrap();
        assert_eq!(settings.catalog.variables, ["A", "B"]);
        let around = Surroundings::with(&[("REGION", "eu"), ("ZONE", "1")]);
        let mut settings = read("", &[]).unwrap();
        settings.catalog.variables = vec!["REGION".to_owned()];
        let parse = |name| {
            let text =
                format!("services: [{{ name: a, port: 1, metadata: {{ r: '${{{name}}}' }} }}]");
            super::super::parse(Path::new("a"), &text, &settings, &around)
        };
        assert_eq!(parse("REGION").unwrap().services[0].metadata["r"], "eu");
        assert!(parse("ZONE").is_err());
    }

    #[test]
    fn every_mistake_of_the_settings_is_shown_at_once() {
        let text = r#"registry:
  servers: [http://a:8848/nacos, "a:99999", ftp://b, ::1, a, http://a, "http://u:hunter2@c"]
  endpoint: address
  endpoint_refresh: 5
  namespace: "a b"
  context_path: nacos/
  auth: { username: svc }
  tls: ca.pem
  connect_timeout: 0s
  long_poll: 1s
  write_rate: "20"
  timeout: 3s
state_dir: var/../lib
admin: { socket: /run/, listen: localhost, group: "a:b" }
log: { level: inof, format: jsn }
catalog:
  rescan: 1 s
  conf_dir:
shutdown_timout: 10s
"#;
        insta::assert_snapshot!(shown(text, &[("OUTRIGGER_LOG_LEVEL", "loud")]), @r#"
        /etc/outrigger/outrigger.yaml:2:13: registry.servers[0]: `http://a:8848/nacos` names a path
          help: write host and port here; the path in front of every call is `registry.context_path`
        /etc/outrigger/outrigger.yaml:2:34: registry.servers[1]: `a:99999` is not a server
          help: write http://host:8848; an IPv6 address stands in brackets, http://[::1]:8848
        /etc/outrigger/outrigger.yaml:2:45: registry.servers[2]: `ftp://` is not spoken
          help: write http:// or https://
        /etc/outrigger/outrigger.yaml:2:54: registry.servers[3]: `::1` is not a server
          help: write http://host:8848; an IPv6 address stands in brackets, http://[::1]:8848
        /etc/outrigger/outrigger.yaml:2:62: registry.servers[5]: http://a:8848 is written twice
          help: leave it out here
        /etc/outrigger/outrigger.yaml:2:72: registry.servers[6]: credentials do not belong in a URL
          help: write `registry.auth`: username and password_file
        /etc/outrigger/outrigger.yaml:3:13: registry.endpoint: `address` is not a URL
           3 |   endpoint: address
             |             ^^^^^^^
          help: write endpoint: http://host:8080/nacos/serverlist
        /etc/outrigger/outrigger.yaml:3:13: registry.endpoint: `registry.servers` and `registry.endpoint` exclude one another
           3 |   endpoint: address
             |             ^^^^^^^
          help: keep one of them
        /etc/outrigger/outrigger.yaml:4:21: registry.endpoint_refresh: 5 has no unit
           4 |   endpoint_refresh: 5
             |                     ^
          help: write 5s or 5ms
        /etc/outrigger/outrigger.yaml:5:14: registry.namespace: `a b` is not a namespace id
           5 |   namespace: "a b"
             |              ^^^^^
          help: letters, digits and _ - are allowed
        /etc/outrigger/outrigger.yaml:6:17: registry.context_path: `nacos/` is not a context path
           6 |   context_path: nacos/
             |                 ^^^^^^
          help: begin it with / and end it without, as in /nacos; "" means none
        /etc/outrigger/outrigger.yaml:7:21: registry.auth.username: a user without a password
           7 |   auth: { username: svc }
             |                     ^^^
          help: write `registry.auth.password_file` too
        /etc/outrigger/outrigger.yaml:8:8: registry.tls: expected a mapping, found a single value
           8 |   tls: ca.pem
             |        ^^^^^^
          help: write tls: { ca: /etc/ssl/ca.pem }
        /etc/outrigger/outrigger.yaml:9:20: registry.connect_timeout: 0s is too short
           9 |   connect_timeout: 0s
             |                    ^^
          help: at least 10ms
        /etc/outrigger/outrigger.yaml:10:14: registry.long_poll: 1s is too short
          10 |   long_poll: 1s
             |              ^^
          help: at least 10s
        /etc/outrigger/outrigger.yaml:11:15: registry.write_rate: "20" is text
          11 |   write_rate: "20"
             |               ^^^^
          help: write 20 without quotes
        /etc/outrigger/outrigger.yaml:12:3: registry.timeout: unknown key
          12 |   timeout: 3s
             |   ^^^^^^^
          help: keys here are auth, config_tag, connect_timeout, context_path, endpoint,
                endpoint_insecure, endpoint_refresh, grpc_offset, long_poll, namespace, request_timeout,
                servers, tls, transport, write_rate
        /etc/outrigger/outrigger.yaml:13:12: state_dir: `var/../lib` is not an absolute path
          13 | state_dir: var/../lib
             |            ^^^^^^^^^^
          help: begin it with /
        /etc/outrigger/outrigger.yaml:14:18: admin.socket: `/run/` names a directory
          14 | admin: { socket: /run/, listen: localhost, group: "a:b" }
             |                  ^^^^^
          help: leave the / at the end out
        /etc/outrigger/outrigger.yaml:14:33: admin.listen: `localhost` is not an address with a port
          14 | admin: { socket: /run/, listen: localhost, group: "a:b" }
             |                                 ^^^^^^^^^
          help: write 127.0.0.1:9901
        /etc/outrigger/outrigger.yaml:14:51: admin.group: `a:b` is not a group
          14 | admin: { socket: /run/, listen: localhost, group: "a:b" }
             |                                                   ^^^^^
          help: write a group's name or number
        /etc/outrigger/outrigger.yaml:15:15: log.level: `inof` is not a level
          15 | log: { level: inof, format: jsn }
             |               ^^^^
          help: did you mean `info`?
        /etc/outrigger/outrigger.yaml:15:29: log.format: `jsn` is none of text, json
          15 | log: { level: inof, format: jsn }
             |                             ^^^
          help: did you mean `json`?
        /etc/outrigger/outrigger.yaml:17:11: catalog.rescan: `1 s` is not a time
          17 |   rescan: 1 s
             |           ^^^
          help: write a whole number and ms, s, m or h: 500ms, 5s, 2m
        /etc/outrigger/outrigger.yaml:18:3: catalog.conf_dir: has no value
          18 |   conf_dir:
             |   ^^^^^^^^
          help: give it one or leave the key out
        /etc/outrigger/outrigger.yaml:19:1: shutdown_timout: unknown key
          19 | shutdown_timout: 10s
             | ^^^^^^^^^^^^^^^
          help: did you mean `shutdown_timeout`?
        OUTRIGGER_LOG_LEVEL: `loud` is not a level
          help: write error, warn, info, debug or trace, or a filter: info,outrigger::nacos=debug
        27 errors in 1 of 1 file
        "#);
    }

    #[test]
    fn a_secret_is_in_no_excerpt_and_no_message() {
        let texts = [
            "registry: { auth: { username: [], pasword: hunter2 } }\n",
            "registry: { auth: { user: x, password: hunter2, }, x: 1 }\n",
            "registry:\n  auth:\n    username: a\n    password: |\n      hunter2: [\n    password_file: /x\n",
            "registry:\n  auth:\n    username: a\n    password: [hunter2]\n",
            "registry:\n  auth:\n    username: a\n    password:\n      hunter2: 1\n",
            "registry:\n  auth:\n    password: 'hunter2\n",
            "registry:\n  auth:\n    password: hunter2: x\n",
            "registry:\n  servers: ['http://u:hunter2@h', 'http:// ']\n",
            "registry: { auth: { password: hunter2 } }\n",
            "registry: { auth: { username: a, password: &p hunter2 }, namespace: *p, servers: *p }\n",
        ];
        for text in texts {
            let problems = read(text, &[]).unwrap_err();
            let shown = report::render_all(&problems, 1, 1, false);
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
            assert!(shown.contains("outrigger.yaml"), "{shown}");
        }
        let settings = read(
            "",
            &[
                ("OUTRIGGER_REGISTRY_AUTH_USERNAME", "svc"),
                ("OUTRIGGER_REGISTRY_AUTH_PASSWORD", "hunter2"),
            ],
        );
        assert!(!format!("{:?}", settings.unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_named_file_must_be_there_and_the_default_one_need_not() {
        let missing = Flags {
            config: Some("/nowhere/outrigger.yaml".into()),
            conf_dir: None,
        };
        let problems = read_settings(&missing, &Surroundings::default()).unwrap_err();
        assert!(problems[0].message.starts_with("cannot be read: "));
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("outrigger.yaml");
        std::fs::File::create(&path).unwrap();
        let named = Flags {
            config: Some(path),
            conf_dir: None,
        };
        let settings = read_settings(&named, &Surroundings::default()).unwrap();
        assert_eq!(settings.catalog.conf_dir, home.path().join("conf.d"));
    }

    #[test]
    fn the_settings_of_the_documents_are_right() {
        for name in ["README.md", "README.zh-CN.md"] {
            let document = document(name);
            let block = document
                .split("```yaml\n")
                .skip(1)
                .filter_map(|rest| rest.split("```").next())
                .find(|block| block.starts_with("registry:"))
                .unwrap();
            let settings = read(block, &[]).unwrap();
            assert_eq!(settings.registry.auth.unwrap().username, "svc", "{name}");
        }
        for name in ["quick-start", "nginx", "python"] {
            read(&document(&format!("examples/{name}/outrigger.yaml")), &[]).unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(registry|log|admin|catalog|state_dir|auth|servers|level|\\$\\{POD_IP\\}|5s|http://|[:{}\\[\\], \n\"a-]){0,30}") {
            if let Err(problems) = read(&text, &[]) {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(problem.render(false).chars().all(|c| c == '\n' || !c.is_control()));
                }
            }
        }

        #[test]
        fn no_variable_panics(value in "\\PC{0,40}") {
            let set: Vec<_> = KEYS.iter().map(|key| (variable(key), value.clone())).collect();
            let set: Vec<_> = set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            if let Err(problems) = read("", &set) {
                prop_assert!(problems.iter().all(|problem| problem.place.is_none()));
            }
        }
    }
}
