//! The Nacos protocol: the nouns ([`model`]), what crosses the wire ([`wire`], shared with the embedded registry), and the client.
//!
//! [`Transport`] is what the agent sees: its verbs say what one wants of a registry, not how a transport does it. What it
//! takes to stay listed (beats over HTTP v1, a connection and its redo list over gRPC) is the transport's own business; what
//! should be listed is the registrar's.

pub mod answer;
pub mod auto;
pub mod beats;
mod book;
pub mod calls;
mod channel;
pub mod choice;
pub mod client;
mod grpc;
mod hints;
mod http;
pub mod link;
pub mod lists;
pub mod model;
pub mod poll;
pub mod roll;
pub mod route;
pub mod rpc;
pub mod servers;
pub mod session;
mod tickets;
#[cfg(feature = "tls")]
pub mod tls;
mod watching;
pub mod wire;

use crate::foreign::Foreign;
use model::{
    ConfigKey, ConfigState, Connection, Instance, InstanceKey, ListState, Listed, ServiceKey,
    Standing,
};
use std::{collections::BTreeSet, future::Future, pin::Pin, time::Duration};
use tokio::sync::{mpsc, watch};

/// The answer to come of a call on a [`Transport`].
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'static>>;

/// What one wants of a Nacos registry. Every call ends within a deadline of its own and has tried other servers where that
/// can help; who calls again later, and when, is up to the caller ([`Error::retry`] says whether it makes sense).
pub trait Transport: Send + Sync + 'static {
    /// Lists `instance` and keeps it listed until [`Transport::withdraw`]; publishing again replaces all of it.
    fn publish(&self, instance: Instance) -> Reply<()>;
    /// Stops keeping it listed at once, then takes it out; succeeds when it was not there.
    fn withdraw(&self, instance: Instance) -> Reply<()>;
    /// The instance as a server has it now (its health never masked), `None` when it has none; each time another server of a
    /// cluster is asked. Reads lag writes by up to 0.6 s on one server and 3 s on another one: no verdict before.
    fn read_back(&self, instance: Instance) -> Reply<Option<Listed>>;
    /// Whether no server that answers has the instance any more.
    fn is_gone(&self, instance: Instance) -> Reply<bool>;
    /// Watches the configurations in `keys`, whatever they become, and tells each change of what is known; a key that is
    /// added is told at once. To be called once; runs until the transport's tasks stop.
    fn watch_configs(
        &self,
        keys: watch::Receiver<BTreeSet<ConfigKey>>,
        told: mpsc::Sender<(ConfigKey, ConfigState)>,
    );
    /// Watches the instances of `services`, all clusters, healthy or not, and tells each change of what is known. To be called
    /// once; runs until the transport's tasks stop.
    fn watch_services(
        &self,
        services: watch::Receiver<BTreeSet<ServiceKey>>,
        told: mpsc::Sender<(ServiceKey, ListState)>,
    );
    /// The state of the connection, for `status` and `explain`.
    fn connection(&self) -> watch::Receiver<Connection>;
}

/// Where a transport tells how the instances it keeps are doing: only changes, one receiver for all.
pub type Standings = mpsc::Sender<(InstanceKey, Standing)>;

/// Whether a call that failed should be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call will fail for ever: something must be changed by a person.
    Never,
    /// Later, with growing waits.
    Backoff,
    /// After this long.
    After(Duration),
}

/// Why a call failed, after other servers were tried where that can help.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No connection, or it broke.
    #[error("{server}: {what}")]
    Unreachable {
        /// Base URL of the last server tried.
        server: String,
        /// What happened, in words: "connection refused", "no answer within 3s".
        what: String,
    },
    /// The server answered that it cannot now (5xx, 409, 503, "invalid redirect request"): not our fault, passing.
    #[error("{server} answered {status}: {message}")]
    Busy {
        /// Base URL.
        server: String,
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: Foreign,
    },
    /// The answer is not one of Nacos'.
    #[error("{server} answered with something else than Nacos does: {what}")]
    Garbage {
        /// Base URL.
        server: String,
        /// What was expected and found.
        what: String,
    },
    /// The credentials were refused, also with a new token.
    #[error("{server} denied access: {message}")]
    Denied {
        /// Base URL.
        server: String,
        /// The server's words.
        message: Foreign,
    },
    /// The server will not have it, now or later: a bad name, the wrong kind of service.
    #[error("{server} refused it: {message}")]
    Refused {
        /// Base URL.
        server: String,
        /// HTTP status.
        status: u16,
        /// The server's words, stripped of its wrapping (`caused: …;`).
        message: Foreign,
    },
    /// On 2.x and 3.x the instances of a service are all ephemeral or all persistent; nothing was written.
    #[error(
        "{service} has ephemeral instances, and a service has instances of one kind only: drop `ephemeral: false`, or take the others out first"
    )]
    WrongKind {
        /// The service.
        service: ServiceKey,
    },
    /// It is listed, but with another health than it has.
    #[error("listed, but its health could not be told: {why}")]
    HealthNotTold {
        /// Why the last call failed, in words.
        why: String,
    },
    /// The transport was stopped while the call was under way.
    #[error("the agent is stopping")]
    Stopped,
}

impl Error {
    /// One word for figures: `unreachable`, `busy`, `garbage`, `denied`, `refused`, `stopped`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Busy { .. } | Self::HealthNotTold { .. } => "busy",
            Self::Garbage { .. } => "garbage",
            Self::Denied { .. } => "denied",
            Self::Refused { .. } | Self::WrongKind { .. } => "refused",
            Self::Stopped => "stopped",
        }
    }

    /// Whether to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Garbage { .. }
            | Self::HealthNotTold { .. }
            | Self::Denied { .. } => Retry::Backoff,
            Self::Refused { .. } | Self::WrongKind { .. } | Self::Stopped => Retry::Never,
        }
    }
}
