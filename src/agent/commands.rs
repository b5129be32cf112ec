//! Runs the commands of descriptors, so many at once, and says what came of them.

use crate::descriptor::spec::Command;
use crate::foreign::Foreign;
use crate::metrics::Metrics;
use crate::os::command::{self, Run};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Runs commands, so many at once.
#[derive(Clone)]
pub(super) struct Commands {
    permits: Arc<Semaphore>,
    /// Where commands that were killed are counted.
    pub(super) metrics: Metrics,
}

impl Commands {
    /// Runs so many at once; counts in `metrics`.
    pub(super) fn new(count: usize, metrics: Metrics) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count)),
            metrics,
        }
    }

    /// Runs one; an error names it and has its last words.
    pub(super) async fn run(&self, command: &Command, argv: &[String]) -> Result<(), String> {
        // It is never closed, and to run one too many would be no harm.
        let _permit = self.permits.acquire().await;
        let outcome = command::run(Run {
            argv,
            timeout: command.timeout,
            run_as: command.run_as.as_deref(),
            confine: command.confine,
        })
        .await;
        outcome.map_err(|failure| {
            if failure.timed_out() {
                self.metrics.command_timeouts.inc();
            }
            let program = Foreign::from(argv.first().map(String::as_str).unwrap_or_default());
            format!("{program}: {failure}")
        })
    }
}
