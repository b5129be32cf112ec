//! The sidecar: actors that never import one another, joined here with channels.

pub mod formats;
pub mod materialize;
pub mod snapshot;
pub mod targets;
pub mod view;

use crate::machine::Epoch;
use crate::metrics::Metrics;
use crate::nacos::Transport;
use crate::tasks::Tasks;
use std::sync::Arc;

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
