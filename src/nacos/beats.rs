//! The beat book: what it takes to stay listed over HTTP v1, with `BeatReactor`'s rules and a few of our own.
//!
//! - One entry per service#ip#port; keeping an instance again replaces the entry, and nothing of the old one counts any more.
//! - The first beat comes one interval after the registration and is full; once the server says `lightBeatEnabled`, beats are
//!   light. The server's `clientBeatInterval` wins over ours.
//! - The next beat is due one interval after the last one *began*, whatever became of it; one that failed is tried again
//!   sooner, with full jitter. Deadlines, not periods: a process that slept for a minute beats at once on waking, once.
//! - 20404 means that the server has forgotten the instance: the complete instance is registered at once.
//! - An instance that is to be listed as unhealthy is registered again instead of beaten: a beat would heal it, and a
//!   registration counts as a sign of life.

use super::model::{Instance, InstanceKey, Standing, heartbeat, preserved};
use crate::backoff::Backoff;
use crate::backoff::Dice;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// No server and no descriptor makes us beat more often.
const SHORTEST: Duration = Duration::from_millis(100);
/// No server makes us beat less often: its own default for an instance without metadata is 5 s, its limit 15 s.
const LONGEST: Duration = Duration::from_secs(60);

/// Which keeping of an instance an answer belongs to; grows with every [`Event::Keep`].
pub type Turn = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The instance was registered and must stay so; the caller chose the number.
    Keep(Instance, Turn),
    /// The instance must not be beaten for any more.
    Forget(InstanceKey),
    /// A beat was answered 10200, or a registration was accepted.
    Taken {
        /// Instance.
        key: InstanceKey,
        /// Turn of the beat.
        turn: Turn,
        /// `clientBeatInterval`, where the answer had one.
        interval: Option<Duration>,
        /// `lightBeatEnabled`, where the answer had it.
        light: Option<bool>,
    },
    /// A beat was answered 20404.
    Unknown {
        /// Instance.
        key: InstanceKey,
        /// Turn of the beat.
        turn: Turn,
    },
    /// A beat or a registration got no usable answer; the text says why.
    Failed {
        /// Instance.
        key: InstanceKey,
        /// Turn of the beat.
        turn: Turn,
        /// Why, in one sentence.
        why: String,
    },
    /// The server will not have it (the kind of the service changed, say).
    Refused {
        /// Instance.
        key: InstanceKey,
        /// Turn of the beat.
        turn: Turn,
        /// The server's words.
        why: String,
    },
}

/// What to do. Exactly one event answers each [`Effect::Beat`] and [`Effect::Register`].
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send a beat.
    Beat {
        /// For whom; a light beat needs no more than its key and cluster.
        instance: Instance,
        /// Turn to answer with.
        turn: Turn,
        /// Without the `beat` parameter.
        light: bool,
        /// The interval to write into a full beat.
        period: Duration,
    },
    /// Register the complete instance.
    Register {
        /// Instance.
        instance: Instance,
        /// Turn to answer with.
        turn: Turn,
    },
    /// How well the instance is kept has changed.
    Tell(InstanceKey, Standing),
}

#[derive(Debug)]
struct Entry {
    instance: Instance,
    turn: Turn,
    interval: Duration,
    light: bool,
    /// When the next beat is due; `None` while one is under way.
    due: Option<Moment>,
    /// When the last one began.
    began: Moment,
    /// The last answer was 20404: the registration under way, or the next try, is a restoration.
    forgotten: bool,
    failures: Backoff,
    standing: Option<Standing>,
}

/// The machine.
#[derive(Debug)]
pub struct BeatBook {
    entries: BTreeMap<InstanceKey, Entry>,
    /// The entries by when they are due: with a thousand of them nobody is searched for.
    agenda: BTreeSet<(Moment, InstanceKey)>,
    dice: Dice,
    due: VecDeque<Effect>,
}

impl BeatBook {
    /// An empty book.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            agenda: BTreeSet::new(),
            dice: Dice::new(seed),
            due: VecDeque::new(),
        }
    }

    fn plan(&mut self, key: &InstanceKey, at: Moment) {
        if let Some(entry) = self.entries.get_mut(key) {
            if let Some(old) = entry.due.replace(at) {
                self.agenda.remove(&(old, key.clone()));
            }
            self.agenda.insert((at, key.clone()));
        }
    }

    fn forget(&mut self, key: &InstanceKey) {
        if let Some(entry) = self.entries.remove(key)
            && let Some(at) = entry.due
        {
            self.agenda.remove(&(at, key.clone()));
        }
    }

    /// The entry that an answer belongs to; `None` for an answer to what is not kept any more.
    fn current(&mut self, key: &InstanceKey, turn: Turn) -> Option<&mut Entry> {
        self.entries
            .get_mut(key)
            .filter(|entry| entry.turn == turn && entry.due.is_none())
    }

    fn tell(&mut self, key: &InstanceKey, standing: Standing) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.standing.as_ref() != Some(&standing)
        {
            entry.standing = Some(standing.clone());
            self.due.push_back(Effect::Tell(key.clone(), standing));
        }
    }
}

/// The interval an instance asks for in its metadata, else the default.
fn wanted_interval(instance: &Instance) -> Duration {
    instance
        .metadata
        .get(preserved::HEART_BEAT_INTERVAL)
        .and_then(|text| text.parse().ok())
        .map_or(heartbeat::INTERVAL, Duration::from_millis)
        .clamp(SHORTEST, LONGEST)
}

impl Machine for BeatBook {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Keep(instance, turn) => {
                let key = instance.key.clone();
                self.forget(&key);
                let interval = wanted_interval(&instance);
                let pace = Pace {
                    cap: interval,
                    ..Pace::NETWORK
                };
                let entry = Entry {
                    instance,
                    turn,
                    interval,
                    light: false,
                    due: None,
                    began: now,
                    forgotten: false,
                    failures: Backoff::new(pace, self.dice.seed()),
                    // Whoever kept it knows that it was registered.
                    standing: Some(Standing::Kept),
                };
                self.entries.insert(key.clone(), entry);
                self.plan(&key, now + interval);
            }
            Event::Forget(key) => self.forget(&key),
            Event::Taken {
                key,
                turn,
                interval,
                light,
            } => {
                let Some(entry) = self.current(&key, turn) else {
                    return;
                };
                entry.failures.reset();
                if let Some(interval) = interval.filter(|interval| !interval.is_zero()) {
                    entry.interval = interval.clamp(SHORTEST, LONGEST);
                }
                if let Some(light) = light {
                    entry.light = light;
                }
                let restored = std::mem::take(&mut entry.forgotten);
                let next = entry.began + entry.interval;
                if restored {
                    // Told even when it was told before: each restoration is news.
                    entry.standing = Some(Standing::Kept);
                }
                if restored {
                    self.due
                        .push_back(Effect::Tell(key.clone(), Standing::Restored));
                } else {
                    self.tell(&key, Standing::Kept);
                }
                self.plan(&key, next.max(now));
            }
            Event::Unknown { key, turn } => {
                let Some(entry) = self.current(&key, turn) else {
                    return;
                };
                entry.light = false;
                entry.forgotten = true;
                entry.began = now;
                let instance = entry.instance.clone();
                self.due.push_back(Effect::Register { instance, turn });
            }
            Event::Failed { key, turn, why } => {
                let Some(entry) = self.current(&key, turn) else {
                    return;
                };
                // Whoever answers next may be another server, which must be told everything.
                entry.light = false;
                let wait = entry.failures.next_wait().min(entry.interval);
                self.tell(&key, Standing::Unreachable(why));
                self.plan(&key, now + wait);
            }
            Event::Refused { key, turn, why } => {
                if self.current(&key, turn).is_some() {
                    self.tell(&key, Standing::Refused(why));
                    self.forget(&key);
                }
            }
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, key)) = self.agenda.first().cloned()
            && at <= now
        {
            self.agenda.remove(&(at, key.clone()));
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.due = None;
            entry.began = now;
            let (instance, turn) = (entry.instance.clone(), entry.turn);
            self.due.push_back(if entry.forgotten || !instance.healthy {
                Effect::Register { instance, turn }
            } else {
                Effect::Beat {
                    instance,
                    turn,
                    light: entry.light,
                    period: entry.interval,
                }
            });
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.agenda.first().map(|(at, _)| *at)
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::{Namespace, ServiceKey};
    use proptest::prelude::*;

    fn instance(port: u16) -> Instance {
        Instance {
            key: InstanceKey {
                service: ServiceKey {
                    namespace: Namespace::public(),
                    group: "DEFAULT_GROUP".into(),
                    name: "orders".into(),
                },
                ip: [10, 0, 0, 1].into(),
                port,
            },
            cluster: "DEFAULT".into(),
            weight: 1.0,
            healthy: true,
            enabled: true,
            ephemeral: true,
            metadata: BTreeMap::new(),
        }
    }

    fn taken(port: u16, turn: Turn, interval: u64) -> Event {
        Event::Taken {
            key: instance(port).key,
            turn,
            interval: Some(Duration::from_millis(interval)),
            light: Some(true),
        }
    }

    fn secs(secs: u64) -> Moment {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_first_beat_is_full_and_the_next_ones_are_light_at_the_servers_interval() {
        let mut book = BeatBook::new(1);
        book.handle(secs(0), Event::Keep(instance(1), 1));
        assert_eq!(book.deadline(), Some(secs(5)));
        book.wake(secs(5));
        assert!(matches!(
            book.effect(),
            Some(Effect::Beat { light: false, .. })
        ));
        book.handle(secs(5), taken(1, 1, 8000));
        assert_eq!(book.deadline(), Some(secs(13)));
        book.wake(secs(13));
        assert!(matches!(
            book.effect(),
            Some(Effect::Beat { light: true, .. })
        ));
    }

    #[test]
    fn an_instance_the_server_forgot_is_registered_at_once_and_told_restored() {
        let mut book = BeatBook::new(1);
        book.handle(secs(0), Event::Keep(instance(1), 1));
        book.wake(secs(5));
        book.effect();
        let key = instance(1).key;
        book.handle(
            secs(5),
            Event::Unknown {
                key: key.clone(),
                turn: 1,
            },
        );
        assert_eq!(
            book.effect(),
            Some(Effect::Register {
                instance: instance(1),
                turn: 1
            })
        );
        // The registration fails: the next try is a registration again, not a beat.
        book.handle(
            secs(5),
            Event::Failed {
                key: key.clone(),
                turn: 1,
                why: "gone".into(),
            },
        );
        let next = book.deadline().unwrap();
        book.wake(next);
        let effects: Vec<_> = std::iter::from_fn(|| book.effect()).collect();
        assert!(matches!(
            &effects[..],
            [
                Effect::Tell(_, Standing::Unreachable(_)),
                Effect::Register { .. }
            ]
        ));
        book.handle(next, taken(1, 1, 5000));
        assert_eq!(book.effect(), Some(Effect::Tell(key, Standing::Restored)));
    }

    #[test]
    fn a_process_that_slept_for_a_minute_beats_once_on_waking() {
        let mut book = BeatBook::new(1);
        book.handle(secs(0), Event::Keep(instance(1), 1));
        book.wake(secs(65));
        assert!(matches!(book.effect(), Some(Effect::Beat { .. })));
        assert_eq!(book.effect(), None);
        book.handle(secs(65), taken(1, 1, 5000));
        assert_eq!(book.deadline(), Some(secs(70)));
    }

    #[test]
    fn an_unhealthy_instance_is_registered_again_instead_of_beaten() {
        let mut book = BeatBook::new(1);
        let mut ill = instance(1);
        ill.healthy = false;
        book.handle(secs(0), Event::Keep(ill.clone(), 1));
        book.wake(secs(5));
        assert_eq!(
            book.effect(),
            Some(Effect::Register {
                instance: ill,
                turn: 1
            })
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Keep(u16),
        Forget(u16),
        Answer(u16, u8),
        Sleep(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_u16..4).prop_map(Step::Keep),
            (1_u16..4).prop_map(Step::Forget),
            (1_u16..4, 0_u8..4).prop_map(|(port, how)| Step::Answer(port, how)),
            (0_u64..20_000).prop_map(Step::Sleep),
        ]
    }

    proptest! {
        /// Under any order of events: at most one call under way per instance and turn; never a call for what was forgotten;
        /// what is kept has a call under way or one planned within an interval; met deadlines are over.
        #[test]
        fn what_is_kept_is_beaten_for_and_nothing_else(seed: u64, steps in prop::collection::vec(step(), 0..120)) {
            let mut book = BeatBook::new(seed);
            let mut now = Moment::ZERO;
            let mut kept: BTreeMap<u16, (Turn, bool)> = BTreeMap::new();
            let mut turn = 0;
            for step in steps {
                match step {
                    Step::Keep(port) => {
                        turn += 1;
                        kept.insert(port, (turn, false));
                        book.handle(now, Event::Keep(instance(port), turn));
                    }
                    Step::Forget(port) => {
                        kept.remove(&port);
                        book.handle(now, Event::Forget(instance(port).key));
                    }
                    Step::Answer(port, how) => {
                        if let Some((turn, under_way)) = kept.get(&port).copied()
                            && under_way
                        {
                            let key = instance(port).key;
                            kept.insert(port, (turn, false));
                            book.handle(now, match how {
                                0 => taken(port, turn, 5000),
                                1 => Event::Unknown { key, turn },
                                2 => Event::Failed { key, turn, why: "no".into() },
                                _ => { kept.remove(&port); Event::Refused { key, turn, why: "no".into() } }
                            });
                        }
                    }
                    Step::Sleep(ms) => {
                        now += Duration::from_millis(ms);
                        book.wake(now);
                        prop_assert!(book.deadline().is_none_or(|next| next > now));
                    }
                }
                while let Some(effect) = book.effect() {
                    let (port, turn) = match &effect {
                        Effect::Beat { instance, turn, .. } | Effect::Register { instance, turn } => (instance.key.port, *turn),
                        Effect::Tell(..) => continue,
                    };
                    let (current, under_way) = kept.get(&port).copied().expect("a call for what is kept");
                    prop_assert_eq!(current, turn);
                    prop_assert!(!under_way, "two calls at a time");
                    kept.insert(port, (turn, true));
                }
                for (port, (_, under_way)) in &kept {
                    let entry = &book.entries[&instance(*port).key];
                    prop_assert_eq!(*under_way, entry.due.is_none());
                    prop_assert!(entry.due.is_none_or(|due| due <= now + entry.interval));
                }
                prop_assert_eq!(book.entries.len(), kept.len());
            }
        }
    }
}
