//! Who waits for a configuration to change, how long, and what is answered.
//!
//! A poll compares first: what differs is answered at once, all of it. Else it is held for `max(10 s, timeout − 0.5 s)`; any change
//! of a watched configuration answers with that one only, the end of the hold with nothing. `No-Hangup` compares and does not
//! wait. The machine does not know contents: a poll says of each key whether it differs.

use crate::machine::{Machine, Moment};
use crate::registry::model::ConfigKey;
use crate::registry::model::Reader;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Polls held at most.
pub(crate) const POLLS: usize = 20_000;
/// Configurations watched by all held polls together at most.
pub(crate) const WATCHED: usize = 200_000;
/// A hold is never shorter.
const SHORTEST: Duration = Duration::from_secs(10);
/// A hold is never longer, whatever the client says.
const LONGEST: Duration = Duration::from_secs(300);
/// The server answers this much before the client's time is over.
const AHEAD: Duration = Duration::from_millis(500);

/// Which poll; never used twice.
pub(crate) type Poll = u64;

/// How long the server holds for a client's `Long-Pulling-Timeout`.
pub(crate) fn hold(timeout: Duration) -> Duration {
    timeout.saturating_sub(AHEAD).clamp(SHORTEST, LONGEST)
}

/// A configuration that a client asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) key: ConfigKey,
    /// The tenant as the client spelt it, where that is another spelling: he is answered in it.
    pub(crate) named: Option<String>,
    /// Whether the client's MD5 is another than the stored one.
    pub(crate) differs: bool,
}

impl Watched {
    fn as_named(&self) -> ConfigKey {
        let mut key = self.key.clone();
        if let Some(named) = &self.named {
            key.tenant.clone_from(named);
        }
        key
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client asked about these; `hold` is `None` for `No-Hangup`.
    Asked {
        poll: Poll,
        /// In the client's order.
        keys: Vec<Watched>,
        hold: Option<Duration>,
        /// As whom he reads.
        reader: Reader,
    },
    /// A configuration got another MD5, or went, as these polls see it.
    Changed { key: ConfigKey, polls: Vec<Poll> },
    /// The client went away.
    Left(Poll),
    /// The registry stops: nobody is held any more.
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Answer `poll` with what changed; nothing is an empty answer.
    Answer { poll: Poll, changed: Vec<ConfigKey> },
    /// Too many are held.
    Refuse { poll: Poll },
}

#[derive(Clone, Debug)]
struct Held {
    until: Moment,
    keys: Vec<Watched>,
    reader: Reader,
}

/// All held polls.
#[derive(Clone, Debug, Default)]
pub(crate) struct LongPoll {
    held: BTreeMap<Poll, Held>,
    due: BTreeSet<(Moment, Poll)>,
    watchers: BTreeMap<ConfigKey, BTreeSet<Poll>>,
    watched: usize,
    stopping: bool,
    effects: VecDeque<Effect>,
}

impl LongPoll {
    /// Takes a poll out of every index; whether it was held.
    fn release(&mut self, poll: Poll) -> bool {
        let Some(held) = self.held.remove(&poll) else {
            return false;
        };
        self.due.remove(&(held.until, poll));
        self.watched -= held.keys.len();
        for watched in held.keys {
            if let Some(polls) = self.watchers.get_mut(&watched.key) {
                polls.remove(&poll);
                if polls.is_empty() {
                    self.watchers.remove(&watched.key);
                }
            }
        }
        true
    }

    /// The held polls that watch a configuration.
    pub(crate) fn watching(&self, key: &ConfigKey) -> impl Iterator<Item = Poll> + '_ {
        self.watchers.get(key).into_iter().flatten().copied()
    }

    /// As whom a held poll reads.
    pub(crate) fn reader(&self, poll: Poll) -> Option<&Reader> {
        self.held.get(&poll).map(|held| &held.reader)
    }

    /// What all held polls watch, and as whom they read.
    pub(crate) fn all(&self) -> impl Iterator<Item = (impl Iterator<Item = &ConfigKey>, &Reader)> {
        let held = self.held.values();
        held.map(|held| (held.keys.iter().map(|watched| &watched.key), &held.reader))
    }

    fn answer(&mut self, poll: Poll, changed: Vec<ConfigKey>) {
        self.release(poll);
        self.effects.push_back(Effect::Answer { poll, changed });
    }
}

impl Machine for LongPoll {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Asked {
                poll,
                keys,
                hold,
                reader,
            } => {
                let differing: Vec<ConfigKey> = keys
                    .iter()
                    .filter(|watched| watched.differs)
                    .map(Watched::as_named)
                    .collect();
                let hold = hold.filter(|_| differing.is_empty() && !self.stopping);
                let Some(hold) = hold else {
                    self.answer(poll, differing);
                    return;
                };
                if self.held.len() >= POLLS || self.watched + keys.len() > WATCHED {
                    self.effects.push_back(Effect::Refuse { poll });
                    return;
                }
                for watched in &keys {
                    let polls = self.watchers.entry(watched.key.clone());
                    polls.or_default().insert(poll);
                }
                let until = now.saturating_add(hold);
                self.watched += keys.len();
                self.due.insert((until, poll));
                let held = Held {
                    until,
                    keys,
                    reader,
                };
                self.held.insert(poll, held);
            }
            Event::Changed { key, polls } => {
                for poll in polls {
                    let Some(held) = self.held.get(&poll) else {
                        continue;
                    };
                    let mut held = held.keys.iter();
                    let watched = held.find(|watched| watched.key == key);
                    if let Some(changed) = watched.map(Watched::as_named) {
                        self.answer(poll, vec![changed]);
                    }
                }
            }
            Event::Left(poll) => {
                self.release(poll);
            }
            Event::Stopping => {
                self.stopping = true;
                while let Some(poll) = self.held.keys().next().copied() {
                    self.answer(poll, Vec::new());
                }
            }
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, poll)) = self.due.first().copied()
            && at <= now
        {
            self.answer(poll, Vec::new());
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(id: u8) -> ConfigKey {
        ConfigKey {
            tenant: String::new(),
            group: "DEFAULT_GROUP".into(),
            data_id: id.to_string(),
        }
    }

    fn asked(poll: Poll, keys: &[(u8, bool)], hold: Option<Duration>) -> Event {
        Event::Asked {
            poll,
            keys: keys
                .iter()
                .map(|(id, differs)| Watched {
                    key: key(*id),
                    named: None,
                    differs: *differs,
                })
                .collect(),
            hold,
            reader: Reader::default(),
        }
    }

    fn drain(polls: &mut LongPoll) -> Vec<Effect> {
        std::iter::from_fn(|| polls.effect()).collect()
    }

    fn change(polls: &mut LongPoll, now: Moment, id: u8) {
        let key = key(id);
        let all = polls.watching(&key).collect();
        polls.handle(now, Event::Changed { key, polls: all });
    }

    fn answer(poll: Poll, changed: &[u8]) -> Effect {
        Effect::Answer {
            poll,
            changed: changed.iter().map(|id| key(*id)).collect(),
        }
    }

    #[test]
    fn holds_are_those_of_the_original() {
        for (asked, held) in [(5_000, 10_000), (12_000, 11_500), (30_000, 29_500)] {
            assert_eq!(
                hold(Duration::from_millis(asked)),
                Duration::from_millis(held)
            );
        }
        assert_eq!(hold(Duration::MAX), LONGEST);
    }

    #[test]
    fn what_differs_is_answered_at_once_and_whole() {
        let mut polls = LongPoll::default();
        polls.handle(
            s(0),
            asked(1, &[(1, true), (2, false), (3, true)], Some(s(10))),
        );
        assert_eq!(drain(&mut polls), [answer(1, &[1, 3])]);
        assert_eq!(polls.deadline(), None);
    }

    #[test]
    fn a_change_answers_with_that_key_only_and_only_who_watches_it() {
        let mut polls = LongPoll::default();
        polls.handle(s(0), asked(1, &[(1, false), (2, false)], Some(s(10))));
        polls.handle(s(0), asked(2, &[(3, false)], Some(s(20))));
        change(&mut polls, s(1), 2);
        assert_eq!(drain(&mut polls), [answer(1, &[2])]);
        assert_eq!(polls.deadline(), Some(s(20)));
    }

    #[test]
    fn who_spells_the_tenant_in_another_way_is_answered_in_it() {
        let mut polls = LongPoll::default();
        let named = |differs| Watched {
            key: key(1),
            named: Some("public".into()),
            differs,
        };
        let mut spelt = key(1);
        spelt.tenant = "public".into();
        for (poll, differs) in [(1, true), (2, false)] {
            polls.handle(
                s(0),
                Event::Asked {
                    poll,
                    keys: vec![named(differs)],
                    hold: Some(s(10)),
                    reader: Reader::default(),
                },
            );
        }
        change(&mut polls, s(1), 1);
        for poll in [1, 2] {
            let changed = vec![spelt.clone()];
            assert_eq!(polls.effect(), Some(Effect::Answer { poll, changed }));
        }
    }

    #[test]
    fn no_hangup_never_waits() {
        let mut polls = LongPoll::default();
        polls.handle(s(0), asked(1, &[(1, false)], None));
        assert_eq!(drain(&mut polls), [answer(1, &[])]);
    }

    #[test]
    fn stopping_lets_everybody_go_and_holds_nobody_after() {
        let mut polls = LongPoll::default();
        polls.handle(s(0), asked(1, &[(1, false)], Some(s(10))));
        polls.handle(s(1), Event::Stopping);
        polls.handle(s(1), asked(2, &[(1, false)], Some(s(10))));
        assert_eq!(drain(&mut polls), [answer(1, &[]), answer(2, &[])]);
    }

    #[test]
    fn more_than_can_be_held_are_refused() {
        let mut polls = LongPoll::default();
        let most = Poll::try_from(POLLS).unwrap();
        for poll in 0..=most {
            polls.handle(s(0), asked(poll, &[(1, false)], Some(s(10))));
        }
        assert_eq!(drain(&mut polls), [Effect::Refuse { poll: most }]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(Vec<(u8, bool)>, u64, bool),
        Change(u8),
        Leave(u64),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let keys = proptest::collection::vec((0..5_u8, proptest::bool::weighted(0.1)), 1..5);
        let step = prop_oneof![
            3 => (keys, 1..40_u64, proptest::bool::weighted(0.2)).prop_map(|(k, h, n)| Step::Ask(k, h, n)),
            2 => (0..5_u8).prop_map(Step::Change),
            1 => (0..30_u64).prop_map(Step::Leave),
            2 => (1..15_u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Each poll is answered exactly once unless its client left, in time, with cause; and leaves nothing behind.
        #[test]
        fn every_poll_is_answered_once_in_time_and_with_cause(steps in steps()) {
            let (mut polls, mut now, mut next) = (LongPoll::default(), Moment::ZERO, 0);
            // Of the polls that are out: the end of the hold and what is watched.
            let mut out: BTreeMap<Poll, (Moment, BTreeSet<u8>)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Ask(keys, hold, hangup) => {
                        polls.handle(now, asked(next, &keys, (!hangup).then(|| s(hold))));
                        let differing: Vec<u8> = keys.iter().filter(|(_, d)| *d).map(|(k, _)| *k).collect();
                        if hangup || !differing.is_empty() {
                            prop_assert_eq!(drain(&mut polls), [answer(next, &differing)]);
                        } else {
                            prop_assert_eq!(drain(&mut polls), []);
                            out.insert(next, (now + s(hold), keys.iter().map(|(k, _)| *k).collect()));
                        }
                        next += 1;
                    }
                    Step::Change(id) => {
                        change(&mut polls, now, id);
                        let woken: Vec<Effect> = out.extract_if(.., |_, (_, keys)| keys.contains(&id))
                            .map(|(poll, _)| answer(poll, &[id])).collect();
                        prop_assert_eq!(drain(&mut polls), woken);
                    }
                    Step::Leave(poll) => {
                        polls.handle(now, Event::Left(poll));
                        out.remove(&poll);
                        prop_assert_eq!(drain(&mut polls), []);
                    }
                    Step::Wait(by) => {
                        let until = now + s(by);
                        while let Some(at) = polls.deadline().filter(|at| *at <= until) {
                            polls.wake(at);
                            for effect in drain(&mut polls) {
                                let Effect::Answer { poll, changed } = effect else { panic!("{effect:?}") };
                                prop_assert_eq!(changed, []);
                                prop_assert_eq!(out.remove(&poll).map(|(until, _)| until), Some(at));
                            }
                        }
                        now = until;
                        prop_assert!(out.values().all(|(until, _)| *until > now));
                    }
                }
                prop_assert_eq!(polls.held.len(), out.len());
                prop_assert_eq!(polls.due.len(), out.len());
                prop_assert_eq!(polls.watched, polls.held.values().map(|held| held.keys.len()).sum::<usize>());
            }
            polls.handle(now, Event::Stopping);
            prop_assert_eq!(drain(&mut polls).len(), out.len());
            prop_assert!(polls.watchers.is_empty() && polls.due.is_empty() && polls.watched == 0);
        }
    }
}
