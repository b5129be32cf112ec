//! Readers of services who lag behind the writers, as on 2.x and 3.x: a fault that can be switched on.
//!
//! Nobody has read a service: the first read takes a snapshot, fresh. After a change the snapshot stays what it was for the lag,
//! counted from the first change it does not show, and is then renewed with all there was by that moment.

use crate::machine::Moment;
use crate::nacos::model::ServiceKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

#[derive(Clone, Debug)]
struct Shown<S> {
    service: S,
    renewed: Option<Moment>,
}

/// What readers see of services; of all of them the truth while the lag is zero.
#[derive(Clone, Debug)]
pub(crate) struct Late<S> {
    lag: Duration,
    shown: BTreeMap<ServiceKey, Shown<S>>,
    due: BTreeSet<(Moment, ServiceKey)>,
    /// Of which services another state is to be seen, since that was asked last.
    told: BTreeSet<ServiceKey>,
}

impl<S: Clone> Late<S> {
    /// Readers who lag so much.
    pub(crate) fn new(lag: Duration) -> Self {
        Self {
            lag,
            shown: BTreeMap::new(),
            due: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    /// From now on they lag so much, and the first read of each service is fresh again.
    pub(crate) fn start_again(&mut self, lag: Duration) {
        self.lag = lag;
        self.shown.clear();
        for (_, key) in std::mem::take(&mut self.due) {
            self.told.insert(key);
        }
    }

    /// Takes note that another state of a service is to be seen.
    pub(crate) fn tell(&mut self, key: ServiceKey) {
        self.told.insert(key);
    }

    /// Of which services another state is to be seen since this was asked last.
    pub(crate) fn take_told(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.told)
    }

    /// How much they lag.
    pub(crate) fn lag(&self) -> Duration {
        self.lag
    }

    /// Takes note that a service changed, came or went.
    pub(crate) fn changed(&mut self, now: Moment, key: &ServiceKey) {
        match self.shown.get_mut(key) {
            // Who has not been read is read fresh.
            None => _ = self.told.insert(key.clone()),
            Some(shown) if shown.renewed.is_none() => {
                let due = now.saturating_add(self.lag);
                shown.renewed = Some(due);
                self.due.insert((due, key.clone()));
            }
            Some(_) => {}
        }
    }

    /// What a reader sees of a service that is `truth`.
    pub(crate) fn read<'a>(&'a mut self, key: &ServiceKey, truth: Option<&'a S>) -> Option<&'a S> {
        if self.lag.is_zero() {
            return truth;
        }
        if !self.shown.contains_key(key) {
            let shown = Shown {
                service: truth?.clone(),
                renewed: None,
            };
            self.shown.insert(key.clone(), shown);
        }
        self.shown.get(key).map(|shown| &shown.service)
    }

    /// Renews what is due with the truth.
    pub(crate) fn wake(&mut self, now: Moment, truth: &BTreeMap<ServiceKey, S>) {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, key)) = self.due.pop_first() else {
                return;
            };
            // Who is gone is forgotten, so that his first read is fresh when he comes back.
            self.shown.remove(&key);
            self.read(&key, truth.get(&key));
            self.told.insert(key);
        }
    }

    /// When [`Late::wake`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;
    use proptest::prelude::*;

    fn key() -> ServiceKey {
        ServiceKey {
            namespace: Namespace::public(),
            group: "DEFAULT_GROUP".into(),
            name: "s".into(),
        }
    }

    proptest! {
        #[test]
        fn a_reader_sees_what_was_true_within_the_lag_and_never_steps_back(
            steps in proptest::collection::vec((0..3_u8, 0..900_u64), 0..60),
        ) {
            let lag = Duration::from_millis(600);
            let (mut late, mut now) = (Late::new(lag), Duration::ZERO);
            let mut truth = BTreeMap::new();
            // Every value the service ever had, and until when it was the truth.
            let mut ended: Vec<(u32, Moment)> = Vec::new();
            let (mut value, mut last) = (0, 0);
            for (what, wait) in steps {
                match what {
                    0 => {
                        ended.push((value, now));
                        value += 1;
                        truth.insert(key(), value);
                        late.changed(now, &key());
                    }
                    1 => {
                        let until = now + Duration::from_millis(wait);
                        while let Some(due) = late.deadline().filter(|due| *due <= until) {
                            late.wake(due, &truth);
                        }
                        now = until;
                    }
                    _ => {
                        let seen = late.read(&key(), truth.get(&key())).copied().unwrap_or(0);
                        prop_assert!(seen >= last, "steps back");
                        last = seen;
                        let over = ended.iter().find(|(value, _)| *value == seen);
                        if let Some((_, ended)) = over {
                            prop_assert!(now < *ended + lag, "{seen} was over at {ended:?}, is read at {now:?}");
                        }
                    }
                }
            }
        }
    }
}
