//! What an operator wants, complete: every default filled in, every value checked; made by reading, never by hand elsewhere.

use crate::report::Place;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// One file of `conf.d` (or the service described by `OUTRIGGER_SERVICE` and its fellows).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Descriptor {
    /// Services to keep registered.
    pub services: Vec<Service>,
    /// Configurations to keep as files.
    pub configs: Vec<Config>,
    /// Instance lists to keep as files.
    pub subscriptions: Vec<Subscription>,
    /// Where they are written; made by reading, empty is fine elsewhere.
    pub places: Places,
}

impl Descriptor {
    /// Every file that is kept.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        let configs = self.configs.iter().cloned().map(Kept::Config);
        let subscriptions = self.subscriptions.iter().cloned();
        configs
            .chain(subscriptions.map(Kept::Subscription))
            .collect()
    }
}

/// Where the entries of a descriptor are written, for whoever compares several files.
///
/// All places are equal: an entry that only moved to another line is what it was.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Of each service: its name.
    pub services: Vec<Written>,
    /// Of each configuration: its path.
    pub configs: Vec<Written>,
    /// Of each configuration: its template.
    pub config_templates: Vec<Written>,
    /// Of each subscription: its path.
    pub subscriptions: Vec<Written>,
    /// Of each subscription: its template.
    pub templates: Vec<Written>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Where one value is written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Line and column; `None` in a variable.
    pub place: Option<Place>,
    /// The line, and how many characters of it are the value.
    pub excerpt: Option<(String, usize)>,
}

/// One service of this host: one instance in the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Name without the group.
    pub name: String,
    /// Group; `DEFAULT_GROUP` when not written.
    pub group: String,
    /// Namespace id; the settings' one when not written.
    pub namespace: String,
    /// Cluster; `DEFAULT` when not written.
    pub cluster: String,
    /// Port, 1..=65535.
    pub port: u16,
    /// Which address is registered.
    pub address: Address,
    /// 0..=10000; 1 when not written.
    pub weight: f64,
    /// Whether it takes traffic; true when not written.
    pub enabled: bool,
    /// Removed by the registry when the agent falls silent (true, the default), or kept there with the health that the probe says.
    pub ephemeral: bool,
    /// Metadata without the `preserved.*` keys of the heartbeat.
    pub metadata: BTreeMap<String, String>,
    /// Beats.
    pub heartbeat: Heartbeat,
    /// `None` is `probe: none`: registered without asking the application.
    pub probe: Option<Probe>,
    /// What a failing probe does to a registered instance.
    pub on_failure: OnFailure,
    /// How long an instance that is taken out in order stays alive after the registry confirmed, so that its callers hear of it.
    pub drain_delay: Duration,
}

/// How the registered address is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// As written (or `POD_IP` written out as `${POD_IP}`); loopback and link-local are allowed because somebody wrote them.
    Explicit(IpAddr),
    /// The first that serves: variable `POD_IP`, then the rules, then the route to the registry. Never unspecified, link-local,
    /// multicast; loopback only when the registry is on loopback too.
    Auto(AddressRules),
}

/// Rules of `address: auto` or `address: { cidr: …, interface: …, prefer: … }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Networks the address must be in, first match wins; empty means any.
    pub cidrs: Vec<Cidr>,
    /// Interface it must be on; `None` means any.
    pub interface: Option<String>,
    /// Which family is preferred where both serve; v4 when not written.
    pub prefer_v6: bool,
}

/// A network, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Its first address.
    pub network: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl Cidr {
    /// Whether `ip` is in the network.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix.min(32)))
                    .unwrap_or(0);
                u32::from(network) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix.min(128)))
                    .unwrap_or(0);
                u128::from(network) & mask == u128::from(ip) & mask
            }
            _ => false,
        }
    }
}

/// The heartbeat as written; `None` leaves the server's default (5 s, 15 s, 30 s) and writes no `preserved.*` key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between two beats (`preserved.heart.beat.interval`).
    pub interval: Option<Duration>,
    /// Silence until unhealthy (`preserved.heart.beat.timeout`).
    pub timeout: Option<Duration>,
    /// Silence until removed (`preserved.ip.delete.timeout`).
    pub delete_after: Option<Duration>,
}

/// How the local application is asked whether it lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What is done.
    pub kind: ProbeKind,
    /// Between two probes that agree with the verdict; 1 s when not written.
    pub interval: Duration,
    /// For one probe; 500 ms when not written (5 s for exec).
    pub timeout: Duration,
    /// Passes in a row that make it healthy; 2 when not written.
    pub rise: u32,
    /// Failures in a row that make it unhealthy; 3 when not written.
    pub fall: u32,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    /// Connect, then close with RST so that no TIME_WAIT stays.
    Tcp {
        /// Where; 127.0.0.1 when not written.
        host: IpAddr,
        /// The service's port when not written.
        port: u16,
    },
    /// GET; any 2xx passes.
    Http {
        /// Where; 127.0.0.1 when not written.
        host: IpAddr,
        /// The service's port when not written.
        port: u16,
        /// Path with its query; begins with `/`.
        path: String,
    },
    /// A command; exit code 0 passes.
    Exec(Command),
}

/// What a failing probe does to a registered instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Take it out of the registry; back when the probe rises.
    Deregister,
    /// Keep it listed as unhealthy: registered again with `healthy=false`, and beats stop, because a beat would heal it.
    Unhealthy,
}

/// A configuration, or several, kept as a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the file is made of.
    pub made_of: MadeOf,
    /// The file that is kept.
    pub target: Target,
}

/// What a file of configurations is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum MadeOf {
    /// One, as it is.
    One(Part),
    /// Those with these names, by a template.
    Several {
        /// The template.
        template: Template,
        /// What it is given.
        parts: BTreeMap<String, Part>,
    },
}

impl MadeOf {
    /// Whether something in the file was encrypted.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        match self {
            Self::One(part) => part.decrypt.is_some(),
            Self::Several { parts, .. } => parts.values().any(|part| part.decrypt.is_some()),
        }
    }
}

/// What the data id of an encrypted configuration begins with, as Nacos' own convention is.
pub const ENCRYPTED: &str = "cipher-";

/// One configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// Data id.
    pub data_id: String,
    /// Group; `DEFAULT_GROUP` when not written.
    pub group: String,
    /// Namespace id; the settings' one when not written.
    pub namespace: String,
    /// Reads what is encrypted, writes what it says; `None` where it is taken as it is.
    pub decrypt: Option<Command>,
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The file, beside the descriptor.
    pub file: PathBuf,
    /// What it says; filled in by whoever read it.
    pub text: Arc<str>,
}

/// The instances of a service, kept as a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Service, without the group.
    pub service: String,
    /// Group; `DEFAULT_GROUP` when not written.
    pub group: String,
    /// Namespace id; the settings' one when not written.
    pub namespace: String,
    /// Which instances are kept.
    pub filter: Filter,
    /// What the file looks like.
    pub rendering: Rendering,
    /// Which lists are not believed at once.
    pub guard: Guard,
    /// The file that is kept.
    pub target: Target,
}

/// Which instances of a service are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Only those of these clusters; empty means any.
    pub clusters: Vec<String>,
    /// The first of these clusters that has an instance is taken alone; where none has, all are taken.
    pub prefer_clusters: Vec<String>,
    /// Only healthy ones; true when not written.
    pub healthy_only: bool,
    /// Only those with all of this metadata.
    pub metadata: BTreeMap<String, String>,
    /// Only those in one of these networks; empty means any.
    pub allow_cidrs: Vec<Cidr>,
    /// Whether an instance may be on loopback: where the registry is, too.
    pub loopback: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            clusters: Vec::new(),
            prefer_clusters: Vec::new(),
            healthy_only: true,
            metadata: BTreeMap::new(),
            allow_cidrs: Vec::new(),
            loopback: false,
        }
    }
}

/// What a file of instances looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// An `upstream` block of nginx.
    Nginx {
        /// Its name, `[A-Za-z0-9_.-]`.
        upstream: String,
    },
    /// A `backend` section of HAProxy.
    Haproxy {
        /// Its name, `[A-Za-z0-9_.-]`.
        backend: String,
    },
    /// A map of HAProxy, to the names that `Haproxy` gives its servers.
    HaproxyMap {
        /// The metadata whose value stands in front; `None` is the address.
        key: Option<String>,
    },
    /// Targets of Prometheus' `file_sd_configs`.
    Prometheus {
        /// Metadata that becomes labels.
        labels: Vec<String>,
    },
    /// Endpoints for Envoy's EDS from a file.
    Envoy {
        /// Name of the cluster they are of.
        cluster: String,
        /// Metadata that goes along.
        labels: Vec<String>,
    },
    /// Everything, as data.
    Json,
    /// A block of lines in a hosts file, whose other lines stay as they are.
    Hosts {
        /// The name of all of them.
        host: String,
    },
    /// One assignment.
    Env {
        /// What stands before `_INSTANCES`.
        variable: String,
    },
    /// As a template says.
    Template {
        /// The file, beside the descriptor.
        file: PathBuf,
        /// What it says; filled in by whoever read it.
        text: Arc<str>,
    },
}

/// Instances of one service; a list of more is never written.
pub const MOST_INSTANCES: usize = 10_000;

/// Which lists are not believed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// A list with fewer instances is held; 1 when not written, 0 where an empty one is allowed.
    pub min_instances: usize,
    /// How much of the largest list of the window may be missing, percent; 60 when not written.
    pub max_shrink: u8,
    /// For how long a list counts after it was replaced, and how long a smaller one must be told to be believed; 10 min when not
    /// written.
    pub window: Duration,
    /// How long no smaller list is taken after the registry came back; 30 s when not written.
    pub hold_after_reconnect: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            min_instances: 1,
            max_shrink: 60,
            window: Duration::from_secs(600),
            hold_after_reconnect: Duration::from_secs(30),
        }
    }
}

/// What a file is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// A configuration.
    Config(Config),
    /// The instances of a service.
    Subscription(Subscription),
}

impl Kept {
    /// The file.
    #[must_use]
    pub fn target(&self) -> &Target {
        match self {
            Self::Config(config) => &config.target,
            Self::Subscription(subscription) => &subscription.target,
        }
    }

    /// Whether something in the file was encrypted: it is on no disk but there.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Config(config) if config.made_of.is_secret())
    }

    /// The file, to be changed.
    pub fn target_mut(&mut self) -> &mut Target {
        match self {
            Self::Config(config) => &mut config.target,
            Self::Subscription(subscription) => &mut subscription.target,
        }
    }
}

/// A file that is kept, and what happens when it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Absolute, without `..`.
    pub path: PathBuf,
    /// Permission bits within 0777, never other-writable; 0640 when not written.
    pub mode: u32,
    /// Owner and group by name or number; the agent's own when not written.
    pub owner: Option<Owner>,
    /// `startupz` and `once` wait for it.
    pub required: bool,
    /// What happens when the registry says there is no such configuration.
    pub on_absent: OnAbsent,
    /// A larger content is rejected; bytes; 10 MiB when not written.
    pub max_size: u64,
    /// Asked before the file is replaced.
    pub validate: Option<Validate>,
    /// Done after the file was replaced.
    pub reload: Option<Reload>,
    /// How a new content comes to the file.
    pub publish: Publish,
    /// Whether a copy of what is replaced is kept as `PATH.bak`; never of a secret.
    pub backup: bool,
    /// Whether the content is nobody else's to read: mode 0600 when not written, and no word of it in a message.
    pub secret: bool,
    /// What happens when somebody else changes the file.
    pub on_drift: OnDrift,
    /// When that may begin.
    pub pacing: Pacing,
    /// Asked after that; when it fails the file gets the last good content back.
    pub verify: Option<Verify>,
}

/// `user`, `user:group` or `:group`; names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub user: Option<String>,
    /// Group.
    pub group: Option<String>,
}

/// How a new content comes to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Publish {
    /// A complete file takes its name.
    #[default]
    Rename,
    /// It and all others of its directory and reload are exchanged at once, by a link to a new version of the directory.
    Directory,
    /// It is written over, which is not atomic: for a file that is mounted by itself.
    InPlace,
}

/// What happens when somebody else changes a file that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrift {
    /// It is put right, and the application reloads.
    #[default]
    Repair,
    /// It stays until the source changes or an operator asks, and `status` says so.
    Report,
}

/// What happens to the file when the registry has no such configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAbsent {
    /// It stays as it is, and `status` says `missing`.
    Keep,
    /// It is removed, and the application reloads.
    Remove,
    /// It stays, and the target counts as failed: `once` exits with 69, `startupz` fails.
    Fail,
}

/// Whether a new content may replace the old one.
#[derive(Clone, Debug, PartialEq)]
pub enum Validate {
    /// It parses.
    Format(Format),
    /// It parses as what the registry or the data id says it is.
    Auto,
    /// The command exits with 0; `{staged}` in its words is the staged file's path.
    Exec(Command),
}

/// Formats a content can be checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON value.
    Json,
    /// One YAML document or several.
    Yaml,
    /// TOML.
    Toml,
    /// Java properties.
    Properties,
    /// Well-formed XML without a document type declaration.
    Xml,
}

/// How it is found out whether the application is well with its new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// What is done.
    pub kind: VerifyKind,
    /// For one try; 2 s when not written (a command has its own, 30 s).
    pub timeout: Duration,
    /// How long it may take from the reload until a try passes; 30 s when not written.
    pub within: Duration,
}

/// What is done to find that out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyKind {
    /// It takes a connection.
    Tcp(SocketAddr),
    /// GET.
    Http {
        /// `http://` or `https://`.
        url: String,
        /// What it must answer; any 2xx when not written.
        status: Option<u16>,
        /// What its answer must contain.
        body: Option<String>,
    },
    /// A command; exit code 0 passes.
    Exec(Command),
}

impl VerifyKind {
    /// What it is called in a descriptor.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Http { .. } => "http",
            Self::Exec(_) => "exec",
        }
    }
}

/// How the application hears that its file changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reload {
    /// A signal.
    Signal {
        /// Name without `SIG`: `HUP`, `USR1`, `USR2`, `WINCH`, `TERM`, `INT`, `QUIT`, `ALRM`, `CONT`.
        signal: String,
        /// To whom.
        process: Process,
        /// User the process must run as, by name or number; `None` is anybody the other rules allow.
        user: Option<String>,
    },
    /// A command; exit code 0 is success.
    Exec(Command),
    /// A request without a body; any 2xx is success.
    Http {
        /// `POST` when not written; `GET`, `POST` or `PUT`.
        method: String,
        /// `http://` or `https://`.
        url: String,
        /// 5 s when not written.
        timeout: Duration,
    },
}

/// Who gets a signal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    /// The process whose number is in this file.
    PidFile(PathBuf),
    /// The only process whose executable is this path (when it begins with `/`), else whose name is this.
    Named(String),
}

/// When an application is told that its files have changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pacing {
    /// A burst of changes is over when nothing new came for this long; 50 ms when not written.
    pub quiet: Duration,
    /// A burst is not waited for longer than this after its first change; never shorter than `quiet`; 500 ms when not written.
    pub longest: Duration,
    /// Between the beginnings of two reloads of the application; zero when not written.
    pub at_most_every: Duration,
    /// How hosts are kept from reloading in the same second.
    pub splay: Option<Splay>,
    /// How many instances of a service reload at once.
    pub fleet: Option<Fleet>,
}

impl Pacing {
    /// `quiet` when not written.
    pub const QUIET: Duration = Duration::from_millis(50);
    /// `longest` when not written.
    pub const LONGEST: Duration = Duration::from_millis(500);
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            quiet: Self::QUIET,
            longest: Self::LONGEST,
            at_most_every: Duration::ZERO,
            splay: None,
            fleet: None,
        }
    }
}

/// How long a host waits with a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Splay {
    /// Always less than this.
    pub up_to: Duration,
    /// By what.
    pub by: SplayBy,
}

/// What decides how long a host waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SplayBy {
    /// Chance, each time anew.
    Chance,
    /// The host's name and what is told: the same place each time.
    Host,
}

/// At most so many instances of a service reload at once, over all hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fleet {
    /// So many; the strictest word counts where hosts differ.
    pub at_most: usize,
    /// Service, without the group; only its name counts, it need not be registered.
    pub service: String,
    /// Group; `DEFAULT_GROUP` when not written.
    pub group: String,
    /// Namespace id; the settings' one when not written.
    pub namespace: String,
    /// How long a turn is waited for while nothing moves in the line; 10 min when not written.
    pub wait: Duration,
    /// What happens then.
    pub then: FleetThen,
}

/// What happens when nothing moved in the line for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FleetThen {
    /// The application is told without a turn: a registry that is away must not keep a configuration from it.
    Reload,
    /// It is waited on.
    Wait,
}

/// A command: words, no shell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// TERM after this, KILL 2 s later, both to the whole process group; 30 s when not written.
    pub timeout: Duration,
    /// User it runs as; must be written when the agent is privileged.
    pub run_as: Option<String>,
    /// Whether it may only look: no network, nothing written but in a directory of its own, few resources.
    pub confine: bool,
}
