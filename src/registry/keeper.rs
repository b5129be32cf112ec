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
use crate::registry::config::ConfigKey;
use crate::registry::config::Configs;
use crate::registry::long_poll;
use crate::registry::long_poll::LongPoll;
use crate::registry::long_poll::Poll;
use crate::registry::naming::Address;
use crate::registry::naming::Naming;
use crate::registry::refusal::Refusal;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time,
};

/// An ephemeral instance, for the beat check.
pub(crate) type Who = (ServiceKey, Address);

/// What the registry knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) naming: Naming,
    pub(crate) beats: BeatCheck<Who>,
    pub(crate) configs: Configs,
    pub(crate) polls: LongPoll,
    /// Who waits for which poll; an entry leaves with its answer or with its client.
    waiting: BTreeMap<Poll, oneshot::Sender<Result<Vec<ConfigKey>, Refusal>>>,
    next: Poll,
}

impl State {
    fn deadline(&self) -> Option<Moment> {
        [
            self.naming.deadline(),
            self.beats.deadline(),
            self.polls.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn tell(&mut self, poll: Poll, told: Result<Vec<ConfigKey>, Refusal>) {
        if let Some(waiting) = self.waiting.remove(&poll) {
            // Who does not listen any more has left, and his guard says so.
            _ = waiting.send(told);
        }
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
        self.polls.wake(now);
        while let Some(effect) = self.polls.effect() {
            match effect {
                long_poll::Effect::Answer { poll, changed } => self.tell(poll, Ok(changed)),
                long_poll::Effect::Refuse { poll } => {
                    self.tell(poll, Err(Refusal::Full("held polls", long_poll::POLLS)));
                }
            }
        }
    }
}

/// Takes a poll out when whoever waits for it goes away.
struct Guard<'a> {
    keeper: &'a Keeper,
    poll: Poll,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.keeper.with(|state, now| {
            state.waiting.remove(&self.poll);
            state.polls.handle(now, long_poll::Event::Left(self.poll));
        });
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
                configs: Configs::default(),
                polls: LongPoll::default(),
                waiting: BTreeMap::new(),
                next: 0,
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

    /// Which of these (key, the client's MD5) changed: at once if any did or `hold` is `None`, else when one does or the hold ends.
    pub(crate) async fn changed(
        &self,
        asked: Vec<(ConfigKey, String)>,
        hold: Option<Duration>,
    ) -> Result<Vec<ConfigKey>, Refusal> {
        let (answer, told) = oneshot::channel();
        let poll = self.with(|state, now| {
            let poll = state.next;
            state.next += 1;
            state.waiting.insert(poll, answer);
            let keys = asked
                .into_iter()
                .map(|(key, md5)| {
                    let differs = state.configs.md5(&key) != md5;
                    (key, differs)
                })
                .collect();
            state
                .polls
                .handle(now, long_poll::Event::Asked { poll, keys, hold });
            poll
        });
        let _guard = Guard { keeper: self, poll };
        // Every poll is answered, at the latest by its deadline; a lost sender would be an empty answer.
        told.await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    /// Lets all held polls go, and holds none from now on.
    pub(crate) fn release(&self) {
        self.with(|state, now| state.polls.handle(now, long_poll::Event::Stopping));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;
    use crate::registry::beat_check::Event;
    use crate::registry::beat_check::Patience;
    use crate::registry::config::Publish;
    use crate::registry::naming::Metadata;
    use crate::registry::naming::Record;

    fn who() -> Who {
        let service = ServiceKey {
            namespace: Namespace::public(),
            group: "DEFAULT_GROUP".into(),
            name: "orders".into(),
        };
        let address = Address {
            ip: "10.0.0.1".into(),
            port: 80,
        };
        (service, address)
    }

    fn key() -> ConfigKey {
        ConfigKey {
            tenant: String::new(),
            group: "g".into(),
            data_id: "a".into(),
        }
    }

    fn asked() -> Vec<(ConfigKey, String)> {
        vec![(key(), String::new())]
    }

    const HOLD: Option<Duration> = Some(Duration::from_secs(10));

    /// Runs the keeper's task beside `work`.
    async fn beside<T>(keeper: &Keeper, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            () = keeper.keep() => unreachable!("it sleeps for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_instance_falls_ill_then_goes_and_its_service_a_minute_later() {
        let keeper = Keeper::new(Epoch::start());
        let (service, address) = who();
        keeper.with(|state, now| {
            let record = Record {
                cluster: "DEFAULT".into(),
                weight: 1.0,
                healthy: true,
                enabled: true,
                metadata: Metadata::new(),
            };
            state
                .naming
                .register(now, &service, false, address.clone(), record)
                .unwrap();
            state.beats.handle(
                now,
                Event::Registered {
                    who: who(),
                    patience: Patience::default(),
                    healthy: true,
                },
            );
        });
        // The lock is taken without settling, so only the keeper's own task can have done it.
        let seen = || {
            let state = keeper.state.lock().unwrap();
            let record = state.naming.seen(&service, &address);
            (record.map(|r| r.healthy), state.naming.knows(&service))
        };
        beside(&keeper, async {
            for (after, then) in [
                (14, (Some(true), true)),
                (2, (Some(false), true)),
                (15, (None, true)),
                (60, (None, false)),
            ] {
                time::sleep(Duration::from_secs(after)).await;
                assert_eq!(seen(), then);
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_ends_with_its_hold() {
        let keeper = Keeper::new(Epoch::start());
        let began = time::Instant::now();
        let told = beside(&keeper, keeper.changed(asked(), HOLD)).await;
        assert_eq!(told, Ok(Vec::new()));
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_publish_and_a_stop_let_held_polls_go() {
        let keeper = Keeper::new(Epoch::start());
        let publish = async {
            keeper.with(|state, now| {
                let publish = Publish {
                    content: "1".into(),
                    kind: "text",
                    encrypted_data_key: String::new(),
                    cas_md5: None,
                };
                let at = keeper.epoch().wall(now);
                assert_eq!(state.configs.publish(at, &key(), publish), Ok(true));
                state.polls.handle(now, long_poll::Event::Changed(key()));
            });
        };
        let (told, ()) = tokio::join!(keeper.changed(asked(), HOLD), publish);
        assert_eq!(told, Ok(vec![key()]));
        let same = vec![(key(), crate::nacos::wire::md5_hex(b"1"))];
        let (told, ()) = tokio::join!(keeper.changed(same, HOLD), async { keeper.release() });
        assert_eq!(told, Ok(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_left_is_held_no_more() {
        let keeper = Keeper::new(Epoch::start());
        let left = time::timeout(Duration::from_secs(1), keeper.changed(asked(), HOLD)).await;
        assert!(left.is_err());
        let state = keeper.state.lock().unwrap();
        assert!(state.waiting.is_empty());
        assert_eq!(state.deadline(), None);
    }
}
