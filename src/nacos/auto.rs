//! Which transport is spoken.

use super::client::{self, Client, StartError};
use super::{Standings, Transport, http};
use crate::descriptor::settings::Registry;
use crate::machine::Epoch;
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use std::sync::Arc;

/// Starts the transport.
///
/// # Errors
/// When no HTTP client can be made from the settings.
pub fn start(
    settings: &Registry,
    tasks: &Tasks,
    epoch: Epoch,
    metrics: Metrics,
    seed: u64,
    standings: Standings,
) -> Result<Arc<dyn Transport>, StartError> {
    let client: Arc<Client> = client::start(settings, tasks, epoch, metrics, seed)?;
    Ok(http::start(&client, standings))
}
