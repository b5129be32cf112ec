//! Keeps the state of the registry, and wakes when the next thing is due: nothing here is periodic.
//!
//! One lock, never held across an await. Whoever asks first lets everything happen that was due before ([`Keeper::with`]), so an
//! answer never shows what should be gone already. One task sleeps until the next deadline and is told when it comes sooner.

use crate::machine::Epoch;
use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::model::ServiceKey;
use crate::registry::beat_check;
use crate::registry::beat_check::BeatCheck;
use crate::registry::naming::Address;
use crate::registry::naming::Naming;
use std::sync::{Mutex, PoisonError};
use tokio::{sync::Notify, time};

/// An ephemeral instance, for the beat check.
pub(crate) type Who = (ServiceKey, Address);

/// What the registry knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) naming: Naming,
    pub(crate) beats: BeatCheck<Who>,
}

impl State {
    fn deadline(&self) -> Option<Moment> {
        [self.naming.deadline(), self.beats.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets happen what is due, and carries out what the machines want.
    fn settle(&mut self, now: Moment) {
        self.beats.wake(now);
        while let Some(effect) = self.beats.effect() {
            match effect {
                beat_check::Effect::Tell { who, healthy } => {
                    self.naming.tell(now, &who.0, &who.1, healthy);
                }
                beat_check::Effect::Remove { who } => {
                    self.naming.deregister(now, &who.0, false, &who.1);
                }
            }
        }
        self.naming.wake(now);
    }
}

/// The state, its clock and its alarm.
#[derive(Debug)]
pub(crate) struct Keeper {
    epoch: Epoch,
    state: Mutex<State>,
    sooner: Notify,
}

impl Keeper {
    /// An empty registry.
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            state: Mutex::new(State {
                naming: Naming::default(),
                beats: BeatCheck::new(),
            }),
            sooner: Notify::new(),
        }
    }

    /// Where moments are counted from.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Reads or changes the state at this moment.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State, Moment) -> T) -> T {
        // A panic under the lock is a bug that the tasks report; the state is plain data and goes on serving.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.epoch.now();
        let before = state.deadline();
        state.settle(now);
        let answer = work(&mut state, now);
        state.settle(now);
        if state.deadline() != before {
            self.sooner.notify_one();
        }
        answer
    }

    /// Sleeps until the next deadline, for ever.
    pub(crate) async fn keep(&self) {
        loop {
            let deadline = self.with(|state, _| state.deadline());
            tokio::select! {
                () = self.sooner.notified() => {}
                () = time::sleep_until(self.epoch.instant(deadline.unwrap_or_default())), if deadline.is_some() => {}
            }
        }
    }
}
