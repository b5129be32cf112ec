//! Who is to be told of which changes, until he says that he was told: subscribers of services, listeners of configurations.
//!
//! Changes within a short delay are one push. Who does not acknowledge is told again and again, each time under a new number;
//! an acknowledgement counts by its number, whatever it is called. A change makes a push that is waited for obsolete: the next
//! one says all. The machine knows no contents: a push says of what, and in which words the client asked.

use crate::machine::Machine;
use crate::machine::Moment;
use crate::registry::links::Link;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Things that one connection may ask about at most.
pub(crate) const ASKED: usize = 10_000;
/// Things that all connections together may ask about at most.
pub(crate) const ALL_ASKED: usize = 200_000;

/// Numbers of pushes go on by so much: those of services, those of configurations and what else a client is asked differ.
pub(crate) const STEP: u64 = 3;

/// How it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How long changes are gathered.
    pub(crate) delay: Duration,
    /// Whether who asks for the first time is told too, without a change.
    pub(crate) greets: bool,
    /// How long after the try of this number, from 1, comes the next one.
    pub(crate) again: fn(u32) -> Duration,
    /// After so many tries the client is given up.
    pub(crate) tries: u32,
    /// Numbers of pushes start here and go on by [`STEP`].
    pub(crate) first: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<K> {
    /// A client wants to be told of `key`; how he spelt what he wants.
    Asked { link: Link, key: K, said: Arc<str> },
    /// He does not any more.
    Declined { link: Link, key: K },
    /// Something changed.
    Changed(K),
    /// Something changed as this client sees it.
    ChangedFor { link: Link, key: K },
    /// A push of this number was acknowledged.
    Acknowledged { link: Link, number: u64 },
    /// A client is gone, or cannot be pushed to.
    Left(Link),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<K> {
    /// Tell a client.
    Push {
        link: Link,
        key: K,
        said: Arc<str>,
        number: u64,
    },
    /// He has been told too often.
    GiveUp(Link),
}

#[derive(Clone, Debug)]
struct Wish {
    said: Arc<str>,
    /// Its one entry among those due.
    due: Option<Moment>,
    /// Tries of what is being told, and the number of the last one; 0 before the first.
    tries: u32,
    number: u64,
}

/// All wishes; `K` says of what.
#[derive(Clone, Debug)]
pub(crate) struct Pushes<K> {
    manner: Manner,
    wishes: BTreeMap<Link, BTreeMap<K, Wish>>,
    count: usize,
    askers: BTreeMap<K, BTreeSet<Link>>,
    /// Pushes that are waited for.
    sent: BTreeMap<(Link, u64), K>,
    due: BTreeSet<(Moment, Link, K)>,
    next: u64,
    effects: VecDeque<Effect<K>>,
}

impl<K: Ord + Clone> Pushes<K> {
    /// Nobody wants anything.
    pub(crate) fn new(manner: Manner) -> Self {
        Self {
            manner,
            wishes: BTreeMap::new(),
            count: 0,
            askers: BTreeMap::new(),
            sent: BTreeMap::new(),
            due: BTreeSet::new(),
            next: manner.first,
            effects: VecDeque::new(),
        }
    }

    /// Whether a client may ask about so many more.
    pub(crate) fn has_room(&self, link: Link, more: usize) -> bool {
        let his = self.wishes.get(&link).map_or(0, BTreeMap::len);
        his + more <= ASKED && self.count + more <= ALL_ASKED
    }

    /// Who wants to be told of `key`.
    pub(crate) fn askers(&self, key: &K) -> impl Iterator<Item = Link> + '_ {
        self.askers.get(key).into_iter().flatten().copied()
    }

    /// What a client wants to be told of.
    pub(crate) fn asked(&self, link: Link) -> impl Iterator<Item = &K> + '_ {
        self.wishes.get(&link).into_iter().flat_map(BTreeMap::keys)
    }

    /// How many wishes there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn plan(&mut self, link: Link, key: &K, due: Option<Moment>) {
        let wish = self.wishes.get_mut(&link).and_then(|all| all.get_mut(key));
        let Some(wish) = wish else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut wish.due, due) {
            self.due.remove(&(old, link, key.clone()));
        }
        if let Some(due) = due {
            self.due.insert((due, link, key.clone()));
        }
    }

    /// What is to be told is told from the beginning, after the delay.
    fn tell(&mut self, now: Moment, link: Link, key: &K) {
        let wish = self.wishes.get_mut(&link).and_then(|all| all.get_mut(key));
        let Some(wish) = wish else {
            return;
        };
        if wish.due.is_some() && wish.tries == 0 {
            // It is gathered already.
            return;
        }
        wish.tries = 0;
        self.sent.remove(&(link, wish.number));
        self.plan(link, key, Some(now.saturating_add(self.manner.delay)));
    }

    fn decline(&mut self, link: Link, key: &K) {
        self.plan(link, key, None);
        let Some(all) = self.wishes.get_mut(&link) else {
            return;
        };
        if let Some(wish) = all.remove(key) {
            self.count -= 1;
            self.sent.remove(&(link, wish.number));
        }
        if all.is_empty() {
            self.wishes.remove(&link);
        }
        if let Some(links) = self.askers.get_mut(key) {
            links.remove(&link);
            if links.is_empty() {
                self.askers.remove(key);
            }
        }
    }
}

impl<K: Ord + Clone> Machine for Pushes<K> {
    type Event = Event<K>;
    type Effect = Effect<K>;

    fn handle(&mut self, now: Moment, event: Event<K>) {
        match event {
            Event::Asked { link, key, said } => {
                let all = self.wishes.entry(link).or_default();
                if let Some(wish) = all.get_mut(&key) {
                    wish.said = said;
                    return;
                }
                let wish = Wish {
                    said,
                    due: None,
                    tries: 0,
                    number: 0,
                };
                all.insert(key.clone(), wish);
                self.count += 1;
                self.askers.entry(key.clone()).or_default().insert(link);
                if self.manner.greets {
                    self.tell(now, link, &key);
                }
            }
            Event::Declined { link, key } => self.decline(link, &key),
            Event::Changed(key) => {
                for link in self.askers.get(&key).cloned().unwrap_or_default() {
                    self.tell(now, link, &key);
                }
            }
            Event::ChangedFor { link, key } => self.tell(now, link, &key),
            Event::Acknowledged { link, number } => {
                if let Some(key) = self.sent.remove(&(link, number)) {
                    self.plan(link, &key, None);
                }
            }
            Event::Left(link) => {
                let keys: Vec<K> = (self.wishes.get(&link))
                    .map(|all| all.keys().cloned().collect())
                    .unwrap_or_default();
                for key in keys {
                    self.decline(link, &key);
                }
            }
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, _, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, link, key)) = self.due.pop_first() else {
                return;
            };
            let wish = self.wishes.get_mut(&link).and_then(|all| all.get_mut(&key));
            let Some(wish) = wish else {
                // Cannot be: every entry has its wish.
                continue;
            };
            wish.due = None;
            self.sent.remove(&(link, wish.number));
            if wish.tries >= self.manner.tries {
                self.effects.push_back(Effect::GiveUp(link));
                continue;
            }
            let number = self.next;
            self.next += STEP;
            wish.tries += 1;
            wish.number = number;
            let again = now.saturating_add((self.manner.again)(wish.tries));
            self.effects.push_back(Effect::Push {
                link,
                key: key.clone(),
                said: Arc::clone(&wish.said),
                number,
            });
            self.sent.insert((link, number), key.clone());
            self.plan(link, &key, Some(again));
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(at, _, _)| *at)
    }

    fn effect(&mut self) -> Option<Effect<K>> {
        self.effects.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const LINK: Link = Link(1);

    fn manner(greets: bool) -> Manner {
        Manner {
            delay: ms(10),
            greets,
            again: |tries| ms(3_000 + 2_000 * u64::from(tries)),
            tries: 3,
            first: 1,
        }
    }

    fn asked(link: Link, key: u8) -> Event<u8> {
        Event::Asked {
            link,
            key,
            said: "".into(),
        }
    }

    /// Runs to `until`, waking exactly at each deadline; who was told of what, under which number, and when.
    fn run(pushes: &mut Pushes<u8>, until: Moment) -> Vec<(Moment, Link, u8, u64)> {
        let mut out = Vec::new();
        while let Some(at) = pushes.deadline().filter(|at| *at <= until) {
            pushes.wake(at);
            while let Some(effect) = pushes.effect() {
                if let Effect::Push {
                    link, key, number, ..
                } = effect
                {
                    out.push((at, link, key, number));
                }
            }
        }
        out
    }

    #[test]
    fn changes_within_the_delay_are_one_push_and_it_comes_again_until_it_is_acknowledged() {
        let mut pushes = Pushes::new(manner(false));
        pushes.handle(ms(0), asked(LINK, 7));
        assert_eq!(pushes.deadline(), None);
        for at in [0, 5, 9] {
            pushes.handle(ms(at), Event::Changed(7));
        }
        assert_eq!(
            run(&mut pushes, ms(12_010)),
            [
                (ms(10), LINK, 7, 1),
                (ms(5_010), LINK, 7, 4),
                (ms(12_010), LINK, 7, 7)
            ]
        );
        let number = 7;
        pushes.handle(ms(12_011), Event::Acknowledged { link: LINK, number });
        assert_eq!(pushes.deadline(), None);
    }

    #[test]
    fn a_change_makes_what_was_told_obsolete() {
        let mut pushes = Pushes::new(manner(true));
        pushes.handle(ms(0), asked(LINK, 7));
        assert_eq!(run(&mut pushes, ms(20)), [(ms(10), LINK, 7, 1)], "greeted");
        pushes.handle(ms(20), Event::Changed(7));
        let number = 1;
        pushes.handle(ms(21), Event::Acknowledged { link: LINK, number });
        assert_eq!(run(&mut pushes, ms(100)), [(ms(30), LINK, 7, 4)]);
        pushes.handle(ms(100), asked(LINK, 7));
        let number = 4;
        pushes.handle(ms(101), Event::Acknowledged { link: LINK, number });
        assert_eq!(pushes.deadline(), None, "greeted once");
    }

    #[test]
    fn who_never_acknowledges_is_given_up() {
        let mut pushes = Pushes::new(manner(true));
        pushes.handle(ms(0), asked(LINK, 7));
        while let Some(at) = pushes.deadline() {
            pushes.wake(at);
        }
        let last = std::iter::from_fn(|| pushes.effect()).last();
        assert_eq!(last, Some(Effect::GiveUp(LINK)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Ask(u64, u8),
        Decline(u64, u8),
        Change(u8),
        Acknowledge(usize),
        Leave(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (link, key) = (0..3_u64, 0..3_u8);
        let step = prop_oneof![
            3 => (1..8_000_u64).prop_map(Step::Wait),
            3 => (link.clone(), key.clone()).prop_map(|(link, key)| Step::Ask(link, key)),
            1 => (link.clone(), key.clone()).prop_map(|(link, key)| Step::Decline(link, key)),
            3 => key.prop_map(Step::Change),
            3 => (0..9_usize).prop_map(Step::Acknowledge),
            1 => link.prop_map(Step::Leave),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn who_asked_is_told_of_every_change_and_who_acknowledged_is_left_alone(steps in steps()) {
            let mut pushes = Pushes::new(Manner { tries: u32::MAX, ..manner(false) });
            let mut now = Moment::ZERO;
            // Who wants what, and since when there is something that he has not been told; what he was told last, unacknowledged.
            let mut wanted: BTreeMap<(u64, u8), Option<Moment>> = BTreeMap::new();
            let mut open: Vec<(u64, u8, u64)> = Vec::new();
            for step in steps.into_iter().chain([Step::Wait(100)]) {
                match step {
                    Step::Wait(by) => {
                        let until = now + ms(by);
                        for (at, Link(link), key, number) in run(&mut pushes, until) {
                            let since = wanted.get_mut(&(link, key));
                            prop_assert!(since.is_some(), "told only who asks");
                            if let Some(since) = since.unwrap().take() {
                                prop_assert_eq!(at, since + ms(10));
                            } else {
                                prop_assert!(open.iter().any(|(l, k, _)| (*l, *k) == (link, key)), "again only what is open");
                            }
                            open.retain(|(l, k, _)| (*l, *k) != (link, key));
                            open.push((link, key, number));
                        }
                        now = until;
                        prop_assert!(wanted.values().flatten().all(|since| *since + ms(10) > now), "told in time");
                    }
                    Step::Ask(link, key) => {
                        pushes.handle(now, asked(Link(link), key));
                        wanted.entry((link, key)).or_default();
                    }
                    Step::Decline(link, key) => {
                        pushes.handle(now, Event::Declined { link: Link(link), key });
                        wanted.remove(&(link, key));
                        open.retain(|(l, k, _)| (*l, *k) != (link, key));
                    }
                    Step::Change(key) => {
                        pushes.handle(now, Event::Changed(key));
                        for ((_, of), since) in &mut wanted {
                            if *of == key { since.get_or_insert(now); }
                        }
                        open.retain(|(_, k, _)| *k != key);
                    }
                    Step::Acknowledge(which) => {
                        if which < open.len() {
                            let (link, _, number) = open.remove(which);
                            pushes.handle(now, Event::Acknowledged { link: Link(link), number });
                        }
                    }
                    Step::Leave(link) => {
                        pushes.handle(now, Event::Left(Link(link)));
                        wanted.retain(|(l, _), _| *l != link);
                        open.retain(|(l, _, _)| *l != link);
                    }
                }
                prop_assert_eq!(pushes.count(), wanted.len());
                prop_assert_eq!(pushes.askers.values().map(BTreeSet::len).sum::<usize>(), wanted.len());
                prop_assert_eq!(pushes.sent.len(), open.len());
                let due = pushes.wishes.values().flat_map(BTreeMap::values).filter(|wish| wish.due.is_some());
                prop_assert_eq!(pushes.due.len(), due.count());
            }
            for link in 0..3 { pushes.handle(now, Event::Left(Link(link))); }
            prop_assert!(pushes.deadline().is_none() && pushes.wishes.is_empty() && pushes.askers.is_empty() && pushes.sent.is_empty());
        }
    }
}
