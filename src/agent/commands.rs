//! Runs the commands of targets (validators, reloads, verifications), a bounded number at once, and puts their failures in words.

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
    metrics: Metrics,
}

impl Commands {
    /// Runs `count` at once.
    pub(super) fn new(count: usize, metrics: Metrics) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count)),
            metrics,
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Runs one; an error names it and has its last words.
    pub(super) async fn run(&self, command: &Command, argv: &[String]) -> Result<(), String> {
        // It is never closed, and to run one too many would be no harm.
        let _permit = self.permits.acquire().await;
        let outcome = command::run(Run {
            argv,
            timeout: command.timeout,
            run_as: command.run_as.as_deref(),
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
