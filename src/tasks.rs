//! The one place that spawns: every task has a name, hears of the stop, and its panic is logged and counted, never lost.
//!
//! A group ends in two steps: [`Tasks::stop`] asks, [`Tasks::finish`] waits until a deadline and says who did not come home.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A group of tasks that stop together. Clones are the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    panics: Arc<AtomicU64>,
}

/// Tasks that had not ended when the deadline came.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{left} tasks had not ended after {waited:?}")]
pub struct Unfinished {
    /// How many are left.
    pub left: usize,
    /// How long they were waited for.
    pub waited: Duration,
}

impl Tasks {
    /// An empty group.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops with this one, and can stop before it; `finish` of this one waits for it too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            stop: self.stop.child_token(),
            panics: Arc::clone(&self.panics),
        }
    }

    /// Runs `work` as a task called `name` until it ends or the group stops, whichever comes first.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn_to_end(name, async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Runs `work` to its own end: for tasks that take [`Tasks::token`] and leave in order.
    pub fn spawn_to_end(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.tracker.spawn(work);
        let panics = Arc::clone(&self.panics);
        // The watcher is tracked as well, so `finish` cannot outrun the report of a panic.
        self.tracker.spawn(async move {
            if let Err(end) = handle.await
                && end.is_panic()
            {
                panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    task = name,
                    "task panicked; this is a bug of ours, the others go on"
                );
            }
        });
    }

    /// Resolves when the group is asked to stop.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks every task of the group to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// How many tasks of this group and its children have panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Stops the group and waits for its tasks.
    ///
    /// # Errors
    /// [`Unfinished`] when some are still running after `within`.
    pub async fn finish(&self, within: Duration) -> Result<(), Unfinished> {
        self.stop();
        self.tracker.close();
        match tokio::time::timeout(within, self.tracker.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Unfinished {
                left: self.tracker.len(),
                waited: within,
            }),
        }
    }
}
