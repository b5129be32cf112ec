//! The agent's own settings, complete, each with the origin `status` and errors can name.

use crate::authority;
use crate::secret::Secret;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// `outrigger.yaml` with variables and defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The registry.
    pub registry: Registry,
    /// Snapshots; created 0700.
    pub state_dir: PathBuf,
    /// Whether an agent may run as root; it need not.
    pub allow_root: bool,
    /// The operator's door.
    pub admin: Admin,
    /// Logs.
    pub log: Log,
    /// Catalog.
    pub catalog: Catalog,
    /// How long leaving may take in all; 10 s when not written.
    pub shutdown_timeout: Duration,
    /// Each setting (`registry.servers`) with what it is and where it comes from, in the order of the documentation.
    pub origins: Vec<(String, String, Origin)>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote it.
    Default,
    /// The settings file, at this line.
    File(PathBuf, usize),
    /// This variable.
    Variable(String),
    /// This flag.
    Flag(&'static str),
}

/// The registry and how to reach it.
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    /// Where its servers are.
    pub servers: Servers,
    /// Namespace of descriptors that name none.
    pub namespace: String,
    /// The tag this agent carries: it gets contents that are published for it; none when not written.
    pub config_tag: Option<String>,
    /// Path in front of every call; `/nacos` when not written.
    pub context_path: String,
    /// User and password; none when not written.
    pub auth: Option<Auth>,
    /// What `https://` servers are trusted by, and what they are shown.
    pub tls: Tls,
    /// How it is spoken to; what the servers take when not written.
    pub transport: Speech,
    /// From the port of a server's HTTP interface to that of its gRPC one; 1000 when not written.
    pub grpc_offset: u16,
    /// For one connection attempt; 3 s when not written.
    pub connect_timeout: Duration,
    /// For one naming call, from connect to last byte; 3 s when not written (a node that forwards to a dead one hangs longer).
    pub request_timeout: Duration,
    /// What the server is asked to hold a long poll for; 30 s when not written, at least 10 s.
    pub long_poll: Duration,
    /// Registry writes a second, all services together; 20 when not written.
    pub write_rate: u32,
}

/// How the registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// Over gRPC where the servers take it, else over HTTP v1.
    Auto,
    /// Over gRPC alone.
    Grpc,
    /// Over HTTP v1 alone.
    Http,
}

impl Speech {
    /// Each with its word.
    pub(super) const WORDS: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("grpc", Self::Grpc),
        ("http", Self::Http),
    ];
}

/// Where the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Base URLs without path: `http://nacos-0:8848`; at least one, at most 64.
    List(Vec<String>),
    /// An address server: answers one `host:port` a line; asked again every `refresh` (30 s).
    Endpoint {
        /// `http://endpoint:8080/nacos/serverlist`.
        url: String,
        /// Between two questions.
        refresh: Duration,
        /// Whoever answers over `http://` decides who gets the password; somebody wrote that this is all right.
        insecure: bool,
    },
}

impl Servers {
    /// Whether any of them is asked over `https://`.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        match self {
            Self::List(list) => list.iter().any(|server| server.starts_with("https:")),
            // Its servers are spoken to as it is itself.
            Self::Endpoint { url, .. } => url.starts_with("https:"),
        }
    }
}

impl Registry {
    /// Whether a password or token sent to `server` (a URL) can be read on the way.
    #[must_use]
    pub fn is_plaintext(&self, server: &str) -> bool {
        self.auth.is_some() && crosses_in_clear(server)
    }

    /// Whether that is so of one of the servers that are written out.
    #[must_use]
    pub fn has_plaintext(&self) -> bool {
        match &self.servers {
            Servers::List(list) => list.iter().any(|server| self.is_plaintext(server)),
            Servers::Endpoint { url, .. } => self.is_plaintext(url),
        }
    }
}

/// Whether what is sent to a URL leaves this host unencrypted.
pub(super) fn crosses_in_clear(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    !authority::is_this_host(authority::host(authority), |_| false)
}

/// How `https://` servers are spoken to, over HTTP and over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// CA bundle (PEM) that replaces the system's store.
    pub ca: Option<PathBuf>,
    /// What is shown to a server that asks who we are.
    pub identity: Option<Identity>,
    /// The name a server's certificate must have in place of the host's.
    pub server_name: Option<String>,
}

/// A client certificate; read again on change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate (PEM), its intermediates behind it.
    pub cert: PathBuf,
    /// Its private key (PEM, not encrypted).
    pub key: PathBuf,
}

/// Credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Where the password is; read again on change and on 401/403.
    pub password: PasswordSource,
}

/// Where a password comes from.
#[derive(Clone)]
pub enum PasswordSource {
    /// A file; one trailing newline is cut.
    File(PathBuf),
    /// Written into the settings or a variable: works, and `status` advises a file.
    Inline(Arc<Secret>),
}

impl PartialEq for PasswordSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(ours), Self::File(theirs)) => ours == theirs,
            (Self::Inline(ours), Self::Inline(theirs)) => ours.expose() == theirs.expose(),
            _ => false,
        }
    }
}

impl Eq for PasswordSource {}

impl std::fmt::Debug for PasswordSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Inline(_) => f.write_str("Inline([secret])"),
        }
    }
}

/// The operator's door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Unix socket; everything.
    pub socket: PathBuf,
    /// Group that may use it; only then its mode is 0660 instead of 0600.
    pub group: Option<String>,
    /// TCP listener; reading only; none when not written.
    pub listen: Option<SocketAddr>,
    /// Names it may be asked by, beside addresses and names that nobody can own.
    pub allow_hosts: Vec<String>,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter as `RUST_LOG` takes it.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// The directory of descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// `conf.d` beside the settings file when not written.
    pub conf_dir: PathBuf,
    /// The directory is read again this often, whatever the watch says; 30 s when not written.
    pub rescan: Duration,
    /// Variables that are replaced in descriptors, beside `POD_*`, `NODE_*` and `HOST_*`.
    pub variables: Vec<String>,
}

/// Every setting, in the order of the documentation.
pub(super) const KEYS: [&str; 32] = [
    "registry.servers",
    "registry.endpoint",
    "registry.endpoint_refresh",
    "registry.endpoint_insecure",
    "registry.namespace",
    "registry.config_tag",
    "registry.context_path",
    "registry.auth.username",
    "registry.auth.password_file",
    "registry.auth.password",
    "registry.tls.ca",
    "registry.tls.cert",
    "registry.tls.key",
    "registry.tls.server_name",
    "registry.transport",
    "registry.grpc_offset",
    "registry.connect_timeout",
    "registry.request_timeout",
    "registry.long_poll",
    "registry.write_rate",
    "state_dir",
    "allow_root",
    "admin.socket",
    "admin.group",
    "admin.listen",
    "admin.allow_hosts",
    "log.level",
    "log.format",
    "catalog.conf_dir",
    "catalog.rescan",
    "catalog.variables",
    "shutdown_timeout",
];

/// The variable of a setting: `registry.servers` is `OUTRIGGER_REGISTRY_SERVERS`.
pub(super) fn variable(key: &str) -> String {
    format!("OUTRIGGER_{}", key.replace('.', "_").to_ascii_uppercase())
}
