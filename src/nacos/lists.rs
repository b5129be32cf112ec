//! Watching the instances of services: asks for each list, hears what the server pushes, tells each change.
//!
//! - A list that is new is asked for at once; a known one again at the server's own pace over HTTP v1, and slowly over gRPC, where the
//!   connection pushes what changes and asking only finds what a push that was lost would have told.
//! - A push is newer than any answer that was under way when it came: such an answer is not looked at, and the list asked for again.
//! - A hint (a datagram, which anybody may have sent) is worth one question, and no more than two in a second for one service;
//!   what is being answered meanwhile still counts.
//! - A push does not say in which namespace its service is. Where services of that name are watched in several, each is asked for.
//! - A subscription belongs to its connection. On a new one every list is asked for again at once, which subscribes anew.
//! - Hosts are put in an order of their own, because the server's is another one each time: an unchanged list is equal, and not told.
//! - One answer that fails says nothing; the second in a row is told, with its reason, and so is the next that comes. What was known
//!   still holds meanwhile: whether an application should go on with it is for whoever is told.

use crate::backoff::{Backoff, Dice, Pace};
use crate::machine::{Machine, Moment};
use crate::nacos::model::{ListState, Listed, ServiceKey, ServiceList};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// How many lists are asked for at once.
const ASKS: usize = 16;
/// So soon is asked again what a push has overtaken.
const SOON: Duration = Duration::from_millis(500);
/// Between two questions that hints have caused.
const CALM: Duration = Duration::from_millis(500);
/// Failures in a row that are told.
const TOLD: u32 = 2;

/// How often a known list is asked for when nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// As the server says it may be kept (3 s or 10 s: 1.4 and later tell so whether they hint), within these bounds.
    Told {
        /// At least.
        least: Duration,
        /// At most.
        most: Duration,
    },
    /// At this pace.
    Steady(Duration),
}

impl Every {
    /// Where it hints at best: it remembers us for 10 s after a question (1.4), and the next must come before.
    pub const PULLED: Self = Self::Told {
        least: Duration::from_secs(3),
        most: Duration::from_secs(8),
    };
    /// Where the server pushes.
    pub const PUSHED: Self = Self::Steady(Duration::from_secs(60));

    fn after(self, list: &ServiceList) -> Duration {
        match self {
            Self::Told { least, most } => list.cache.clamp(least, most),
            Self::Steady(every) => every,
        }
    }
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// These services are watched, and no others.
    Wanted(BTreeSet<ServiceKey>),
    /// A list that was asked for.
    Answered(ServiceKey, ServiceList),
    /// No usable answer came; says why.
    Failed(ServiceKey, String),
    /// The server pushed a list: that of this group and name, in a namespace that it does not say.
    Pushed {
        /// Group.
        group: Arc<str>,
        /// Name without group.
        name: Arc<str>,
        /// All of it.
        list: ServiceList,
    },
    /// Somebody says that a list has changed; nothing he says is believed.
    Hinted {
        /// Group, where he says one.
        group: Option<Arc<str>>,
        /// Name without group.
        name: Arc<str>,
    },
    /// There is another connection, or the registry was away and is back: nobody is subscribed to anything.
    Anew,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask for a list, and subscribe to it where one can; [`Event::Answered`] or [`Event::Failed`] answers.
    Ask(ServiceKey),
    /// Subscribe no longer.
    Leave(ServiceKey),
    /// What is known has changed.
    Tell(ServiceKey, ListState),
}

#[derive(Debug)]
struct Entry {
    known: Option<Arc<ServiceList>>,
    /// When it is asked for next.
    ask_at: Moment,
    asking: bool,
    /// When it was asked for last.
    asked_at: Option<Moment>,
    /// Whether it is asked for again because of a hint that came while it was.
    hinted: bool,
    /// Whether what is being asked for is out of date already.
    overtaken: bool,
    failures: Backoff,
    failure_told: bool,
}

impl Entry {
    /// When it may be asked for because of a hint.
    fn calm(&self, now: Moment) -> Moment {
        self.asked_at.map_or(now, |asked| now.max(asked + CALM))
    }
}

/// The machine.
#[derive(Debug)]
pub struct Lists {
    every: Every,
    entries: BTreeMap<ServiceKey, Entry>,
    dice: Dice,
    due: VecDeque<Effect>,
}

impl Lists {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(every: Every, seed: u64) -> Self {
        Self {
            every,
            entries: BTreeMap::new(),
            dice: Dice::new(seed),
            due: VecDeque::new(),
        }
    }

    fn asking(&self) -> usize {
        self.entries.values().filter(|entry| entry.asking).count()
    }

    fn step(&mut self, now: Moment) {
        let mut room = ASKS.saturating_sub(self.asking());
        for (key, entry) in &mut self.entries {
            if room == 0 {
                return;
            }
            if !entry.asking && entry.ask_at <= now {
                room -= 1;
                entry.asking = true;
                entry.asked_at = Some(now);
                entry.hinted = false;
                entry.overtaken = false;
                self.due.push_back(Effect::Ask(key.clone()));
            }
        }
    }

    fn learn(&mut self, key: &ServiceKey, mut list: ServiceList) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let place = |host: &Listed| (host.ip.clone(), host.port, host.cluster.clone());
        list.hosts.sort_by_cached_key(place);
        // Only what the hosts are is news.
        let same = entry
            .known
            .as_ref()
            .is_some_and(|known| known.hosts == list.hosts && known.protected == list.protected);
        if same && !entry.failure_told {
            return;
        }
        entry.failure_told = false;
        let list = Arc::new(list);
        entry.known = Some(Arc::clone(&list));
        self.due
            .push_back(Effect::Tell(key.clone(), ListState::Listed(list)));
    }
}

impl Machine for Lists {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Wanted(keys) => {
                let gone: Vec<ServiceKey> = (self.entries.keys())
                    .filter(|key| !keys.contains(key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.entries.remove(&key);
                    self.due.push_back(Effect::Leave(key));
                }
                for key in keys {
                    let seed = self.dice.seed();
                    self.entries.entry(key).or_insert_with(|| Entry {
                        known: None,
                        ask_at: now,
                        asking: false,
                        asked_at: None,
                        hinted: false,
                        overtaken: false,
                        failures: Backoff::new(Pace::NETWORK, seed),
                        failure_told: false,
                    });
                }
            }
            Event::Answered(key, list) => {
                // A tenth of jitter, so that lists that were asked for together are not for ever.
                let spread = 0.9 + 0.2 * self.dice.draw();
                let wait = self.every.after(&list).mul_f64(spread);
                let Some(entry) = self.entries.get_mut(&key) else {
                    return;
                };
                entry.asking = false;
                entry.failures.reset();
                if entry.overtaken {
                    entry.ask_at = entry.ask_at.max(now);
                } else {
                    entry.ask_at = match entry.hinted {
                        true => entry.calm(now),
                        false => now + wait,
                    };
                    self.learn(&key, list);
                }
            }
            Event::Failed(key, why) => {
                let Some(entry) = self.entries.get_mut(&key) else {
                    return;
                };
                entry.asking = false;
                if entry.overtaken {
                    // It may have been the last word of a connection that is gone.
                    entry.ask_at = entry.ask_at.max(now);
                } else {
                    entry.ask_at = now + entry.failures.next_wait();
                    if entry.failures.failures() >= TOLD && !entry.failure_told {
                        entry.failure_told = true;
                        self.due
                            .push_back(Effect::Tell(key, ListState::Unreachable(why)));
                    }
                }
            }
            Event::Pushed { group, name, list } => {
                let mut meant = Vec::new();
                for (key, entry) in &mut self.entries {
                    if key.group == group && key.name == name {
                        if entry.asking {
                            entry.overtaken = true;
                            entry.ask_at = now + SOON;
                        }
                        meant.push(key.clone());
                    }
                }
                if let [key] = meant.as_slice() {
                    self.learn(key, list);
                } else {
                    for key in meant {
                        if let Some(entry) = self.entries.get_mut(&key) {
                            entry.ask_at = entry.ask_at.min(now + SOON);
                        }
                    }
                }
            }
            Event::Hinted { group, name } => {
                for (key, entry) in &mut self.entries {
                    if key.name == name && group.as_ref().is_none_or(|group| key.group == *group) {
                        if entry.asking {
                            entry.hinted = true;
                        } else if entry.failures.failures() == 0 {
                            // Who does not answer is asked at his own pace.
                            entry.ask_at = entry.ask_at.min(entry.calm(now));
                        }
                    }
                }
            }
            Event::Anew => {
                for entry in self.entries.values_mut() {
                    entry.failures.reset();
                    entry.overtaken = entry.asking;
                    entry.ask_at = now;
                }
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        if self.asking() >= ASKS {
            return None;
        }
        let waiting = self.entries.values().filter(|entry| !entry.asking);
        waiting.map(|entry| entry.ask_at).min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;
    use proptest::prelude::*;

    fn key(n: u8) -> ServiceKey {
        ServiceKey {
            namespace: Namespace::public(),
            group: "DEFAULT_GROUP".into(),
            name: n.to_string().into(),
        }
    }

    fn list(ports: &[i64]) -> ServiceList {
        let host = |port: &i64| Listed {
            ip: "10.0.0.1".into(),
            port: *port,
            cluster: "DEFAULT".into(),
            weight: 1.0,
            healthy: true,
            enabled: true,
            ephemeral: Some(true),
            metadata: BTreeMap::new(),
        };
        ServiceList {
            hosts: ports.iter().map(host).collect(),
            protected: false,
            cache: Duration::from_secs(10),
        }
    }

    fn told(n: u8, ports: &[i64]) -> Effect {
        Effect::Tell(key(n), ListState::Listed(Arc::new(list(ports))))
    }

    fn pushed(n: u8, ports: &[i64]) -> Event {
        Event::Pushed {
            group: "DEFAULT_GROUP".into(),
            name: n.to_string().into(),
            list: list(ports),
        }
    }

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn wanted(keys: impl IntoIterator<Item = u8>) -> Event {
        Event::Wanted(keys.into_iter().map(key).collect())
    }

    fn effects(lists: &mut Lists) -> Vec<Effect> {
        std::iter::from_fn(|| lists.effect()).collect()
    }

    /// One that watches service 1, whose list has just come.
    fn knowing(every: Every, ports: &[i64]) -> Lists {
        let mut lists = Lists::new(every, 1);
        lists.handle(ms(0), wanted([1]));
        assert_eq!(effects(&mut lists), [Effect::Ask(key(1))]);
        lists.handle(ms(10), Event::Answered(key(1), list(ports)));
        assert_eq!(effects(&mut lists), [told(1, ports)]);
        lists
    }

    #[test]
    fn a_list_is_asked_for_at_the_servers_pace_and_only_a_change_is_told() {
        let mut lists = knowing(Every::PULLED, &[1, 2]);
        let next = lists.deadline().unwrap();
        assert!((ms(7_100)..ms(8_900)).contains(&next), "{next:?}");
        lists.wake(next);
        assert_eq!(effects(&mut lists), [Effect::Ask(key(1))]);
        lists.handle(next, Event::Answered(key(1), list(&[2, 1])));
        assert_eq!(effects(&mut lists), [], "another order is no change");
        let next = lists.deadline().unwrap();
        lists.wake(next);
        lists.handle(next, Event::Answered(key(1), list(&[])));
        assert_eq!(effects(&mut lists), [Effect::Ask(key(1)), told(1, &[])]);
    }

    #[test]
    fn a_server_that_says_nothing_of_keeping_is_not_hurried() {
        let mut lists = Lists::new(Every::PULLED, 1);
        lists.handle(ms(0), wanted([1]));
        let hasty = ServiceList {
            cache: Duration::ZERO,
            ..list(&[1])
        };
        lists.handle(ms(0), Event::Answered(key(1), hasty));
        assert!(lists.deadline().unwrap() >= ms(2_700));
    }

    #[test]
    fn a_push_is_told_at_once_and_an_older_answer_is_not_believed() {
        let mut lists = knowing(Every::PUSHED, &[1]);
        lists.handle(ms(20), pushed(1, &[1, 2]));
        assert_eq!(effects(&mut lists), [told(1, &[1, 2])]);
        lists.handle(ms(30), Event::Anew);
        assert_eq!(effects(&mut lists), [Effect::Ask(key(1))]);
        lists.handle(ms(40), pushed(1, &[1, 2, 3]));
        assert_eq!(effects(&mut lists), [told(1, &[1, 2, 3])]);
        lists.handle(ms(50), Event::Answered(key(1), list(&[1, 2])));
        assert_eq!(effects(&mut lists), [], "it was under way before the push");
        assert_eq!(lists.deadline(), Some(ms(40) + SOON));
        lists.wake(ms(40) + SOON);
        assert_eq!(effects(&mut lists), [Effect::Ask(key(1))]);
    }

    #[test]
    fn a_hint_is_worth_one_question_and_a_flood_of_them_two_a_second() {
        let mut lists = knowing(Every::PULLED, &[1]);
        let hint = |group: Option<&str>, n: u8| Event::Hinted {
            group: group.map(Arc::from),
            name: n.to_string().into(),
        };
        lists.handle(ms(2000), hint(Some("OTHER"), 1));
        lists.handle(ms(2000), hint(None, 2));
        assert_eq!(effects(&mut lists), [], "nobody watches those");
        lists.handle(ms(2000), hint(Some("DEFAULT_GROUP"), 1));
        assert_eq!(effects(&mut lists), [Effect::Ask(key(1))]);
        // What is answered after a hint that came meanwhile counts, and is asked for again.
        lists.handle(ms(2010), hint(None, 1));
        lists.handle(ms(2020), Event::Answered(key(1), list(&[1, 2])));
        assert_eq!(effects(&mut lists), [told(1, &[1, 2])]);
        assert_eq!(lists.deadline(), Some(ms(2000) + CALM));
        let mut asked = 0;
        for now in (2500..12_500).map(ms) {
            lists.handle(now, hint(None, 1));
            for effect in effects(&mut lists) {
                assert_eq!(effect, Effect::Ask(key(1)));
                asked += 1;
                lists.handle(now, Event::Answered(key(1), list(&[1, 2])));
            }
        }
        assert_eq!(asked, 20);
    }

    #[test]
    fn a_hint_does_not_hurry_a_server_that_fails() {
        let mut lists = knowing(Every::PULLED, &[1]);
        let now = lists.deadline().unwrap();
        lists.wake(now);
        lists.handle(now, Event::Failed(key(1), "away".to_owned()));
        let next = lists.deadline();
        let hint = Event::Hinted {
            group: None,
            name: "1".into(),
        };
        lists.handle(now, hint);
        assert_eq!(lists.deadline(), next);
    }

    #[test]
    fn a_push_for_a_name_that_is_watched_in_two_namespaces_makes_both_be_asked_for() {
        let mut lists = Lists::new(Every::PUSHED, 1);
        let other = ServiceKey {
            namespace: Namespace::new("test"),
            ..key(1)
        };
        lists.handle(ms(0), Event::Wanted([key(1), other.clone()].into()));
        lists.handle(ms(5), Event::Answered(key(1), list(&[1])));
        lists.handle(ms(5), Event::Answered(other.clone(), list(&[2])));
        assert_eq!(effects(&mut lists).len(), 4);
        lists.handle(ms(10), pushed(1, &[1, 3]));
        assert_eq!(effects(&mut lists), []);
        lists.wake(ms(10) + SOON);
        let both = [Effect::Ask(key(1)), Effect::Ask(other)];
        assert_eq!(effects(&mut lists), both);
    }

    #[test]
    fn the_second_failure_is_told_and_what_comes_after_it_too() {
        let mut lists = knowing(Every::PULLED, &[1]);
        let mut now = lists.deadline().unwrap();
        for _ in 0..3 {
            lists.wake(now);
            lists.handle(now, Event::Failed(key(1), "away".to_owned()));
            now = lists.deadline().unwrap();
        }
        let ask = || Effect::Ask(key(1));
        let away = Effect::Tell(key(1), ListState::Unreachable("away".to_owned()));
        assert_eq!(effects(&mut lists), [ask(), ask(), away, ask()]);
        lists.handle(now, Event::Anew);
        lists.handle(now, Event::Answered(key(1), list(&[1])));
        assert_eq!(effects(&mut lists), [ask(), told(1, &[1])]);
    }

    #[test]
    fn on_another_connection_every_list_is_asked_for_again_though_an_answer_was_under_way() {
        let mut lists = Lists::new(Every::PUSHED, 1);
        lists.handle(ms(0), wanted([1]));
        lists.handle(ms(5), Event::Anew);
        lists.handle(ms(6), Event::Failed(key(1), "cut".to_owned()));
        assert_eq!(
            effects(&mut lists),
            [Effect::Ask(key(1)), Effect::Ask(key(1))]
        );
    }

    #[test]
    fn what_is_wanted_no_more_is_left_and_not_told() {
        let mut lists = knowing(Every::PUSHED, &[1]);
        lists.handle(ms(20), wanted([2]));
        assert_eq!(
            effects(&mut lists),
            [Effect::Leave(key(1)), Effect::Ask(key(2))]
        );
        lists.handle(ms(30), pushed(1, &[]));
        assert_eq!(effects(&mut lists), []);
    }

    proptest! {
        #[test]
        fn each_list_is_asked_for_once_at_a_time_and_never_forgotten(
            steps in prop::collection::vec((0_u8..6, 0_u8..40, 0_u64..3_000), 1..200)
        ) {
            let mut lists = Lists::new(Every::PULLED, 7);
            let mut now = ms(0);
            let mut asking = BTreeSet::new();
            lists.handle(now, wanted(0..40));
            for (what, n, later) in steps {
                now += ms(later);
                match what {
                    0 if asking.remove(&key(n)) => lists.handle(now, Event::Answered(key(n), list(&[i64::from(n)]))),
                    1 if asking.remove(&key(n)) => lists.handle(now, Event::Failed(key(n), "no".to_owned())),
                    2 => lists.handle(now, pushed(n, &[1])),
                    3 => lists.handle(now, Event::Anew),
                    _ => lists.wake(now),
                }
                for effect in effects(&mut lists) {
                    if let Effect::Ask(key) = effect {
                        prop_assert!(asking.insert(key), "asked for twice");
                    }
                }
                prop_assert!(asking.len() <= ASKS);
                // Whatever is not asked for waits for a moment that comes.
                prop_assert!(asking.len() == ASKS || lists.deadline().is_some());
            }
        }
    }
}
