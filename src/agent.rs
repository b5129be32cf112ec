//! The sidecar: actors that never import one another, joined here with channels.

pub mod admin;
mod applications;
pub mod catalog;
mod commands;
mod following;
pub mod formats;
pub mod gate;
pub mod guard;
pub mod lease;
pub mod ledger;
pub mod locate;
pub mod materialize;
pub mod neighbours;
pub mod pacing;
pub mod probe;
pub mod registrar;
pub mod renderings;
pub mod services;
pub mod snapshot;
pub mod status;
pub mod supervisor;
pub mod targets;
mod verify;
pub mod view;

use crate::descriptor::settings;
use crate::machine::Epoch;
use crate::metrics::Metrics;
use crate::nacos::Standings;
use crate::nacos::Transport;
use crate::nacos::auto;
use crate::nacos::client;
use crate::tasks::Tasks;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// What every actor is given: where to run, what time it is, whom to ask, what to count.
#[derive(Clone)]
pub struct Parts {
    /// Tasks of the actor.
    pub tasks: Tasks,
    /// The process's epoch.
    pub epoch: Epoch,
    /// The registry.
    pub transport: Arc<dyn Transport>,
    /// Figures.
    pub metrics: Metrics,
    /// Start of all jitter; actors derive their own from it.
    pub seed: u64,
}

impl Parts {
    /// Starts the registry client that `registry` describes; `standings` is told how the instances it keeps are doing.
    ///
    /// # Errors
    /// When no HTTP client can be made from the settings.
    pub fn start(
        registry: &settings::Registry,
        tasks: &Tasks,
        epoch: Epoch,
        standings: Standings,
    ) -> Result<Self, client::StartError> {
        let seed = fastrand::u64(..);
        let metrics = Metrics::default();
        let transport = auto::start(registry, tasks, epoch, metrics.clone(), seed, standings)?;
        Ok(Self {
            tasks: tasks.clone(),
            epoch,
            transport,
            metrics,
            seed,
        })
    }
}

/// What the operator's door asks of the supervisor; each is answered once.
#[derive(Debug)]
pub enum Command {
    /// Whether the loop still turns.
    Ping(oneshot::Sender<()>),
    /// Whether descriptors have been read.
    Ready(oneshot::Sender<bool>),
    /// Take everything out of the registry for good; answers whether that was confirmed in time.
    Drain {
        /// How long to wait for the confirmation.
        within: Duration,
        /// The answer.
        answer: oneshot::Sender<bool>,
    },
    /// Read settings and descriptors again; answers how many problems there are.
    Reload(oneshot::Sender<usize>),
    /// Let pass what the registry says of a service, where the guard holds it; answers how many targets that are.
    Release {
        /// Name of the service.
        service: String,
        /// The answer.
        answer: oneshot::Sender<usize>,
    },
    /// Try again what was taken back, rejected or failed of the file at a path; answers how many targets that are.
    Retry {
        /// The path as the descriptor has it.
        path: PathBuf,
        /// The answer.
        answer: oneshot::Sender<usize>,
    },
    /// The candidates for an automatic address.
    Addresses(oneshot::Sender<Vec<locate::Considered>>),
}
