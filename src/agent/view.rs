//! What is true now, as `status`, `explain` and `/metrics` show it: plain values that actors publish and nobody else changes.

use crate::nacos::model::{ConfigKey, InstanceKey, ServiceKey};
use std::{collections::VecDeque, fmt, path::PathBuf, time::SystemTime};

/// So many things that happened are kept of each service and target.
const KEPT: usize = 16;

/// The last things that happened, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(VecDeque<(SystemTime, String)>);

impl History {
    /// Adds one sentence; the oldest gives way.
    pub fn add(&mut self, now: SystemTime, sentence: String) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, sentence));
    }

    /// When, and one sentence.
    pub fn iter(&self) -> impl Iterator<Item = &(SystemTime, String)> {
        self.0.iter()
    }
}

/// State of one service (the contract of `status --json`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// The probe has not passed yet (or the address is not known yet).
    Waiting,
    /// Told to the registry, not confirmed yet.
    Registering,
    /// Listed and kept.
    Registered,
    /// The probe fails: taken out or listed as unhealthy.
    Unhealthy,
    /// Being taken out in order.
    Draining,
    /// Taken out in order, confirmed.
    Drained,
    /// The registry will not have it.
    Refused,
    /// The registry cannot be reached.
    Unreachable,
}

impl ServiceState {
    /// The word of the contract.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

impl TargetState {
    /// The word of the contract.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled_back",
            Self::Held => "held",
            Self::Missing => "missing",
            Self::Unreachable => "unreachable",
        }
    }
}

/// State of one target (the contract of `status --json`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// Nothing was fetched yet.
    Waiting,
    /// The file has the registry's content, and the application was told.
    Applied,
    /// Written; the reload is still due.
    Pending,
    /// The content is not valid; the last good one is kept.
    Rejected,
    /// The application was not well with the content; the last good one is back.
    RolledBack,
    /// The registry lists what the guard does not believe; the file keeps what it has.
    Held,
    /// The registry has no such configuration.
    Missing,
    /// The registry cannot be reached, and nothing was applied since the start.
    Unreachable,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// Service.
    pub service: ServiceKey,
    /// Port.
    pub port: u16,
    /// Instance; `None` while the address is not known.
    pub instance: Option<InstanceKey>,
    /// State.
    pub state: ServiceState,
    /// One sentence; `None` when all is well.
    pub reason: Option<String>,
    /// Since when the state is what it is.
    pub since: SystemTime,
    /// The probe in words: `tcp ok, 0.2 ms`, `tcp refused x 3`, `none`.
    pub probe: String,
    /// How the address was chosen, in words: `explicit`, `POD_IP`, `route to 10.0.0.5`.
    pub address_origin: Option<String>,
    /// False for a persistent instance.
    pub ephemeral: bool,
    /// The last things that happened.
    pub history: History,
}

/// What a target is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A configuration.
    Config(ConfigKey),
    /// The instances of a service.
    Service(ServiceKey),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(key) => key.fmt(f),
            Self::Service(key) => key.fmt(f),
        }
    }
}

/// The instances of a service, for a target that is made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListView {
    /// How many the registry lists; `None` before it said anything.
    pub listed: Option<usize>,
    /// How many of them passed the gate.
    pub passed: usize,
    /// Why others did not, a sentence each.
    pub left_out: Vec<String>,
    /// How many are in force; `None` when none were put there since the start.
    pub kept: Option<usize>,
    /// Why what the registry says is not in force.
    pub held: Option<HeldView>,
    /// Why no content could be made of what the registry says.
    pub rejected: Option<String>,
}

/// Why a list is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldView {
    /// Since when.
    pub since: SystemTime,
    /// One sentence.
    pub reason: String,
    /// When it ends by itself, if nothing changes.
    pub until: Option<SystemTime>,
}

/// One target.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetView {
    /// What it is made of.
    pub source: Source,
    /// The instances, where it is made of them.
    pub list: Option<ListView>,
    /// File.
    pub path: PathBuf,
    /// Whether `startupz` and `once` wait for it.
    pub required: bool,
    /// State.
    pub state: TargetState,
    /// One sentence; `None` when all is well. (`applied` may carry a note: `reloaded by HUP`.)
    pub reason: Option<String>,
    /// Since when the state is what it is.
    pub since: SystemTime,
    /// Whether it was applied since the agent started.
    pub applied_once: bool,
    /// MD5 of the content in the file, where known.
    pub md5: Option<String>,
    /// The last things that happened.
    pub history: History,
}
