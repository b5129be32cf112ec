//! One shape for everything that decides over time, and the one loop that drives it.
//!
//! A machine knows no clock, no socket, no file and no randomness: it is told what happened and when, and says what to do and
//! when to be woken. So its laws are tested in virtual time, and a simulator joins many of them without a runtime. What it
//! needs of chance (jitter) comes in as a seed.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

/// Time since the process (or the simulation) began.
pub type Moment = Duration;

/// Decides. Effects come out in the order in which they must be carried out.
pub trait Machine {
    /// What can happen to it, in the past tense.
    type Event;
    /// What it wants done, in the imperative.
    type Effect;

    /// Takes note of `event`, which happened at `now`.
    fn handle(&mut self, now: Moment, event: Self::Event);
    /// Is called at or after [`deadline`](Self::deadline); calling it early changes nothing.
    fn wake(&mut self, now: Moment);
    /// When it must be woken, if nothing happens before.
    fn deadline(&self) -> Option<Moment>;
    /// The next effect due; `None` when there is nothing to do until the next event or deadline.
    fn effect(&mut self) -> Option<Self::Effect>;
}

/// Where [`Moment`]s are counted from: one per process, so that the moments of all machines compare.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    began: time::Instant,
    wall: SystemTime,
}

impl Epoch {
    /// Starts counting now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "read once: what follows from it is only shown"
    )]
    pub fn start() -> Self {
        Self {
            began: time::Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The moment it is. Monotonic: steps of the wall clock do not move it.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// `moment` as the wall clock would have shown it, had it not been stepped since the start.
    #[must_use]
    pub fn wall(&self, moment: Moment) -> SystemTime {
        self.wall + moment
    }

    /// The instant a timer of the runtime must fire at for `moment`.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> time::Instant {
        self.began + moment
    }
}

/// Drives `machine` until `stop` or until no more events can come: one event or one deadline at a time, effects first.
///
/// `perform` must not wait for the network or for a command: it starts such work as a task and sends the outcome as an event.
pub async fn drive<M: Machine, F: Future<Output = ()>>(
    mut machine: M,
    epoch: Epoch,
    mut events: mpsc::Receiver<M::Event>,
    mut perform: impl FnMut(M::Effect) -> F,
    stop: CancellationToken,
) -> M {
    loop {
        while let Some(effect) = machine.effect() {
            perform(effect).await;
        }
        let deadline = machine.deadline();
        tokio::select! {
            biased;
            () = stop.cancelled() => return machine,
            event = events.recv() => match event {
                Some(event) => machine.handle(epoch.now(), event),
                None => return machine,
            },
            () = time::sleep_until(epoch.instant(deadline.unwrap_or_default())), if deadline.is_some() => machine.wake(epoch.now()),
        }
    }
}
