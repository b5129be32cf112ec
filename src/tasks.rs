//! The one place that spawns: every task has a name, hears of the stop, and its panic is logged and counted, never lost.
//!
//! A group ends in two steps: [`Tasks::stop`] asks, [`Tasks::finish`] waits until a deadline and says who did not come home.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
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
        let panics = Arc::clone(&self.panics);
        // Seen in the task itself: a second one that watches it would cost as much again, and there are tasks by the thousand.
        self.tracker.spawn(async move {
            let mut work = pin!(work);
            let seen = poll_fn(|cx| {
                let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
                // What panicked is not polled again.
                polled.map_or(Poll::Ready(true), |ended| ended.map(|()| false))
            });
            if seen.await {
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
