//! The nouns of a Nacos registry, as both of our sides use them: typed, checked, without a wire format.

use crate::descriptor::spec::ENCRYPTED;
use crate::foreign::Foreign;
use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

/// The group of services and configurations that name none.
pub const DEFAULT_GROUP: &str = "DEFAULT_GROUP";
/// The cluster of instances that name none.
pub const DEFAULT_CLUSTER: &str = "DEFAULT";
/// How the public namespace is called where it must have a name (naming; in configuration of 1.4 and 2.x it is empty).
pub const PUBLIC: &str = "public";

/// A namespace id. `""`, `public` and nothing at all are the same one on every server when read through this type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace called `id`.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(if id.is_empty() { PUBLIC } else { id }.into())
    }

    /// The public namespace.
    #[must_use]
    pub fn public() -> Self {
        Self(PUBLIC.into())
    }

    /// Whether this is the public one.
    #[must_use]
    pub fn is_public(&self) -> bool {
        &*self.0 == PUBLIC
    }

    /// For `namespaceId` of the naming calls: never empty.
    #[must_use]
    pub fn naming_id(&self) -> &str {
        &self.0
    }

    /// For `tenant` of the configuration calls: empty for public, because 1.4 and 2.x keep `public` as another tenant
    /// (a GET with `tenant=public` is 404 on 2.5.1, a listener with it reports a change on every call).
    #[must_use]
    pub fn tenant(&self) -> &str {
        if self.is_public() { "" } else { &self.0 }
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::public()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which service: namespace, group, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: Namespace,
    /// Group; never empty.
    pub group: Arc<str>,
    /// Name without the group; never empty.
    pub name: Arc<str>,
}

impl ServiceKey {
    /// `group@@name`, the form `serviceName` has inside a beat and in lists of HTTP v1.
    #[must_use]
    pub fn grouped(&self) -> String {
        format!("{}@@{}", self.group, self.name)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_public() {
            write!(f, "{}/", self.namespace)?;
        }
        if &*self.group != DEFAULT_GROUP {
            write!(f, "{}@@", self.group)?;
        }
        f.write_str(&self.name)
    }
}

/// Which instance: the key of `BeatReactor`, service#ip#port. The cluster is not part of it (2.x and 3.x hold one record per
/// service and ip:port).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    /// Service.
    pub service: ServiceKey,
    /// Address.
    pub ip: IpAddr,
    /// Port, 1..=65535.
    pub port: u16,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}#{}", self.service, self.ip, self.port)
    }
}

/// An instance as we want it listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Identity.
    pub key: InstanceKey,
    /// Cluster, `[0-9A-Za-z-]+`.
    pub cluster: Arc<str>,
    /// 0..=10000.
    pub weight: f64,
    /// Health to report.
    pub healthy: bool,
    /// Whether it takes traffic.
    pub enabled: bool,
    /// Removed when silent (true), or kept and marked unhealthy (false).
    pub ephemeral: bool,
    /// Metadata, the `preserved.*` keys of the heartbeat included.
    pub metadata: BTreeMap<String, String>,
}

/// Metadata keys with a meaning to the server; values are decimal milliseconds (`PreservedMetadataKeys`).
pub mod preserved {
    /// What all of them begin with.
    pub const PREFIX: &str = "preserved.";
    /// How often the client beats.
    pub const HEART_BEAT_INTERVAL: &str = "preserved.heart.beat.interval";
    /// Silence after which an ephemeral instance is unhealthy.
    pub const HEART_BEAT_TIMEOUT: &str = "preserved.heart.beat.timeout";
    /// Silence after which an ephemeral instance is removed.
    pub const IP_DELETE_TIMEOUT: &str = "preserved.ip.delete.timeout";
    /// `simple` or `snowflake`.
    pub const INSTANCE_ID_GENERATOR: &str = "preserved.instance.id.generator";
}

/// The server's defaults for the heartbeat of an ephemeral instance.
pub mod heartbeat {
    use super::Duration;
    /// Between two beats.
    pub const INTERVAL: Duration = Duration::from_secs(5);
    /// Silence until unhealthy.
    pub const TIMEOUT: Duration = Duration::from_secs(15);
    /// Silence until removed.
    pub const DELETE_AFTER: Duration = Duration::from_secs(30);
}

/// An instance as a server lists it: nothing in it is trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Address text; need not be an address.
    pub ip: Foreign,
    /// Port; 1.4.8 lists what it was told, -1 and 99999 included.
    pub port: i64,
    /// Cluster.
    pub cluster: Foreign,
    /// Weight.
    pub weight: f64,
    /// Health; a list may mask it (protection), the detail does not.
    pub healthy: bool,
    /// Whether it takes traffic.
    pub enabled: bool,
    /// Kind; `None` where the answer does not say (the detail of HTTP v1).
    pub ephemeral: Option<bool>,
    /// Metadata; null values are left out.
    pub metadata: BTreeMap<Foreign, Foreign>,
}

/// An instance list as a server answered it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceList {
    /// The hosts, in the server's order, which is not stable.
    pub hosts: Vec<Listed>,
    /// Whether the server masked the health of its hosts.
    pub protected: bool,
    /// For how long the server says the list may be kept.
    pub cache: Duration,
}

/// What is known of the instances of a service.
#[derive(Clone, Debug, PartialEq)]
pub enum ListState {
    /// As the registry listed them last, in an order that stays.
    Listed(Arc<ServiceList>),
    /// No server gave a usable answer, more than once; says why. What was known before still holds.
    Unreachable(String),
}

/// Which configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigKey {
    /// Namespace (`tenant` on the wire).
    pub namespace: Namespace,
    /// Group.
    pub group: Arc<str>,
    /// Data id.
    pub data_id: Arc<str>,
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_public() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}/{}", self.group, self.data_id)
    }
}

/// The content of a configuration: bytes as received, never interpreted.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub bytes: Arc<[u8]>,
    /// Lower-case hex MD5 of `bytes`, computed here.
    pub md5: Arc<str>,
    /// When it was published, in seconds since 1970, where the server says so; what was kept from an earlier run has none.
    pub modified: Option<u64>,
    /// What the server says it is: `yaml`, `json`, …; `text` also where nobody said anything.
    pub kind: Option<Arc<str>>,
    /// The encrypted key of an encrypted content.
    pub data_key: Option<Arc<str>>,
    /// Whether the server has decrypted it: `bytes` is clear text, and `md5` that of the encrypted one, by which the server goes on
    /// to know it.
    pub is_opened: bool,
}

impl Content {
    /// As what the server knows it, where that is something else than what was received: the server has decrypted it on its way.
    #[must_use]
    pub(super) fn sealed(mut self, key: &ConfigKey, said: &str) -> Self {
        let is_md5 = said.len() == 32 && said.bytes().all(|byte| byte.is_ascii_hexdigit());
        if key.is_encrypted() && self.data_key.is_some() && is_md5 {
            let said = said.to_ascii_lowercase();
            self.is_opened = *said != *self.md5;
            self.md5 = said.into();
        }
        self
    }
}

impl ConfigKey {
    /// Whether its name says that its content is encrypted, as Nacos' own convention is.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.data_id.starts_with(ENCRYPTED)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A configuration may hold secrets: its bytes are never printed.
        write!(f, "Content({} bytes, md5 {})", self.bytes.len(), self.md5)
    }
}

/// What is known of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigState {
    /// The server has it, with this content.
    Present(Content),
    /// The server says, more than once and not right after a change, that there is no such configuration.
    Absent,
    /// No server could be asked, or none gave a usable answer; says why. What was known before still holds.
    Unreachable(String),
}

/// How well an instance is kept listed by the transport, after its publication was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The last beat was accepted.
    Kept,
    /// The server had forgotten the instance (20404) and took it again.
    Restored,
    /// Beats fail; says why, in one sentence.
    Unreachable(String),
    /// The server will not have it; its words.
    Refused(String),
}

/// The connection to the registry, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Whether the last call was answered.
    pub up: bool,
    /// Base URL of the server in use, without credentials.
    pub server: Option<String>,
    /// `http` or `grpc`.
    pub transport: &'static str,
    /// Why this transport; one sentence. `None` while none is chosen.
    pub chosen: Option<String>,
    /// Version, where the server told it.
    pub version: Option<Foreign>,
    /// Why it is not up, or what to know about it (`plaintext password`); one sentence.
    pub reason: Option<String>,
    /// Since when `up` is what it is.
    pub since: crate::machine::Moment,
    /// How often the registry was away and came back: whoever waits patiently for another try need not wait longer.
    pub returns: u64,
}
