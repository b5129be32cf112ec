//! The server list: which servers there are, which one is used, and which are left out after a failure.
//!
//! The first choice is random and stayed with, so that many agents spread over a cluster and one agent does not wander. A server
//! that fails is left out with growing waits; while all are left out they are asked all the same, the one longest out first:
//! there is nobody better. With an address server the list is fetched at the start with growing waits and then every
//! `refresh`; an empty or broken answer keeps the list that was good.
//!
//! While the registry is away (a call found nobody who answered) it is knocked at, about once a second, with a question that
//! costs it nothing; whoever answers ends the wait of everything that had grown patient. So it is told again who we are within
//! a second or two of its return, however long it was away. A registry that answers and fails in turns is knocked at less and
//! less often, and is "back" at most once in [`BACK`].

use crate::backoff::Backoff;
use crate::backoff::Dice;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// How long a failed server is left out: from 1 s, doubling to 30 s.
const LEFT_OUT: Pace = Pace {
    base: Duration::from_secs(2),
    cap: Duration::from_secs(30),
    floor: Duration::from_secs(1),
};
/// How long a server is left out that answered with somebody else's trouble: it does not grow, since no other may be better.
const STUMBLED: Pace = Pace {
    base: Duration::from_secs(2),
    cap: Duration::from_secs(2),
    floor: Duration::from_secs(1),
};
/// Between two knocks at a registry that is away; the mean is a second.
const KNOCKS: Pace = Pace {
    base: Duration::from_millis(400),
    cap: Duration::from_millis(1800),
    floor: Duration::from_millis(200),
};
/// Before the first knock at a registry that was back only just now.
const FLAPS: Pace = Pace {
    base: Duration::from_secs(2),
    cap: Duration::from_secs(30),
    floor: Duration::from_secs(1),
};
/// A registry that stays for this long is no flapping one.
const BACK: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call to this server was answered, in whatever words.
    Answered(Arc<str>),
    /// A call to this server failed: no connection, no answer in time, none of Nacos', or it is starting.
    Failed(Arc<str>),
    /// A call to this server was answered with trouble that need not be its own (500, an invalid redirect).
    Stumbled(Arc<str>),
    /// No server answered a call usably: the registry is away.
    Away,
    /// [`Effect::Knock`] found nobody.
    NobodyThere,
    /// The address server answered with these base URLs.
    Listed(Vec<String>),
    /// The address server did not answer, or not with a list.
    NotListed,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask servers in this order from now on.
    Prefer(Order),
    /// Ask whether anybody answers; [`Event::Answered`] or [`Event::NobodyThere`] tells.
    Knock,
    /// The registry was away and is back: what waited need not wait longer.
    Back,
    /// Ask the address server; [`Event::Listed`] or [`Event::NotListed`] answers.
    Fetch,
}

/// Whether the registry counts as away after a call that nobody answered usably, `since` the last answer to any call.
///
/// Trouble that is another node's, or one part's of a server (no leader for writes), comes with answers to other calls: then it is
/// that call's trouble alone.
#[must_use]
pub fn is_away(last: &Event, since: Duration) -> bool {
    !matches!(last, Event::Stumbled(_)) || since >= BACK
}

/// The servers in the order of choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// All of them.
    pub servers: Vec<Arc<str>>,
    /// So many of the first are not left out.
    pub usable: usize,
}

#[derive(Debug)]
struct Out {
    until: Moment,
    backoff: Backoff,
}

/// The machine.
#[derive(Debug)]
pub struct Servers {
    /// In order of choice; shuffled once.
    all: Vec<Arc<str>>,
    out: BTreeMap<Arc<str>, Out>,
    /// Between two fetches; `None` when the list was written out.
    refresh: Option<Duration>,
    next_fetch: Option<Moment>,
    fetch_backoff: Backoff,
    seed: u64,
    stumbles: Backoff,
    away: bool,
    next_knock: Option<Moment>,
    knocks: Backoff,
    flaps: Backoff,
    /// When the registry last came back.
    back: Option<Moment>,
    /// When [`Effect::Back`] may be said again.
    back_not_before: Moment,
    back_due: bool,
    told: Order,
    due: VecDeque<Effect>,
}

impl Servers {
    /// A list that was written out.
    #[must_use]
    pub fn fixed(servers: Vec<String>, seed: u64) -> Self {
        let mut machine = Self::empty(None, seed);
        machine.replace(servers);
        machine.tell(Moment::ZERO);
        machine
    }

    /// A list from an address server, asked at once and then every `refresh`.
    #[must_use]
    pub fn fetched(refresh: Duration, seed: u64) -> Self {
        let mut machine = Self::empty(Some(refresh), seed);
        machine.due.push_back(Effect::Fetch);
        machine
    }

    fn empty(refresh: Option<Duration>, seed: u64) -> Self {
        Self {
            all: Vec::new(),
            out: BTreeMap::new(),
            refresh,
            next_fetch: None,
            fetch_backoff: Backoff::new(Pace::NETWORK, seed ^ 0xfe7c),
            seed,
            stumbles: Backoff::new(STUMBLED, seed ^ 0x57),
            away: false,
            next_knock: None,
            knocks: Backoff::new(KNOCKS, seed ^ 0x6b6e),
            flaps: Backoff::new(FLAPS, seed ^ 0xf1a9),
            back: None,
            back_not_before: Moment::ZERO,
            back_due: false,
            told: Order::default(),
            due: VecDeque::new(),
        }
    }

    /// Takes `servers` over; those already known keep their place, so that a refresh does not make the agent wander.
    fn replace(&mut self, servers: Vec<String>) {
        let mut fresh: Vec<Arc<str>> = Vec::new();
        for server in servers {
            let server: Arc<str> = server.into();
            if !fresh.contains(&server) {
                fresh.push(server);
            }
        }
        self.all.retain(|known| fresh.contains(known));
        self.out.retain(|known, _| fresh.contains(known));
        fresh.retain(|server| !self.all.contains(server));
        // Fisher-Yates; the draw decides which server of many a first choice falls on.
        let mut dice = Dice::new(self.seed);
        for last in (1..fresh.len()).rev() {
            fresh.swap(last, dice.below(last + 1));
        }
        self.all.append(&mut fresh);
    }

    /// Those in use first, in order of choice; then those left out, the one whose time comes first in front.
    fn order(&self, now: Moment) -> Order {
        let out_until = |server: &Arc<str>| {
            self.out
                .get(server)
                .map(|out| out.until)
                .filter(|until| *until > now)
                .unwrap_or(Moment::ZERO)
        };
        let mut servers = self.all.clone();
        servers.sort_by_key(out_until);
        let usable = servers
            .iter()
            .take_while(|server| out_until(server).is_zero())
            .count();
        Order { servers, usable }
    }

    fn leave_out(&mut self, now: Moment, server: Arc<str>, wait: Option<Duration>) {
        let seed = self.seed;
        let out = self.out.entry(Arc::clone(&server)).or_insert_with(|| Out {
            until: Moment::ZERO,
            backoff: Backoff::new(LEFT_OUT, seed ^ server.len() as u64),
        });
        // Many calls under way fail together: that is one failure.
        if out.until <= now {
            out.until = now + wait.unwrap_or_else(|| out.backoff.next_wait());
        }
        // It goes to the end, so that it is not the first choice again when its time is over.
        self.all.retain(|known| *known != server);
        self.all.push(server);
    }

    fn is_away(&mut self, now: Moment) {
        if self.away {
            return;
        }
        self.away = true;
        self.back_due = false;
        let flaps = self.back.is_some_and(|back| now < back + BACK);
        let wait = if flaps {
            self.flaps.next_wait()
        } else {
            self.flaps.reset();
            self.knocks.reset();
            self.knocks.next_wait()
        };
        self.next_knock = Some(now + wait);
    }

    fn is_back(&mut self, now: Moment) {
        if !std::mem::take(&mut self.away) {
            return;
        }
        self.next_knock = None;
        self.back = Some(now);
        self.back_due = true;
        self.tell_back(now);
    }

    fn tell_back(&mut self, now: Moment) {
        if self.back_due && self.back_not_before <= now {
            self.back_due = false;
            self.back_not_before = now + BACK;
            self.due.push_back(Effect::Back);
        }
    }

    fn tell(&mut self, now: Moment) {
        let order = self.order(now);
        if order != self.told {
            self.told.clone_from(&order);
            self.due.push_back(Effect::Prefer(order));
        }
    }
}

impl Machine for Servers {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Answered(server) => {
                self.out.remove(&server);
                self.is_back(now);
            }
            Event::Failed(server) if self.all.contains(&server) => {
                self.leave_out(now, server, None);
            }
            Event::Stumbled(server) if self.all.contains(&server) => {
                let wait = self.stumbles.next_wait();
                self.leave_out(now, server, Some(wait));
            }
            Event::Failed(_) | Event::Stumbled(_) => {}
            Event::Away => self.is_away(now),
            Event::NobodyThere => {
                if self.away {
                    self.next_knock = Some(now + self.knocks.next_wait());
                }
            }
            Event::Listed(servers) if !servers.is_empty() => {
                self.replace(servers);
                self.fetch_backoff.reset();
                self.next_fetch = self.refresh.map(|refresh| now + refresh);
            }
            Event::Listed(_) | Event::NotListed => {
                let wait = self.fetch_backoff.next_wait();
                self.next_fetch = self.refresh.map(|refresh| now + wait.min(refresh));
            }
        }
        self.tell(now);
    }

    fn wake(&mut self, now: Moment) {
        if self.next_fetch.is_some_and(|at| at <= now) {
            self.next_fetch = None;
            self.due.push_back(Effect::Fetch);
        }
        if self.next_knock.is_some_and(|at| at <= now) {
            self.next_knock = None;
            self.due.push_back(Effect::Knock);
        }
        self.tell_back(now);
        for out in self.out.values_mut().filter(|out| out.until <= now) {
            out.until = Moment::ZERO;
        }
        self.tell(now);
    }

    fn deadline(&self) -> Option<Moment> {
        // With one server there is nothing to choose.
        let returns = self
            .out
            .values()
            .map(|out| out.until)
            .filter(|until| *until > Moment::ZERO && self.all.len() > 1)
            .min();
        let back = self.back_due.then_some(self.back_not_before);
        [self.next_fetch, self.next_knock, back, returns]
            .into_iter()
            .flatten()
            .min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn three() -> Vec<String> {
        ["a", "b", "c"].map(str::to_owned).to_vec()
    }

    fn preferred(machine: &mut Servers) -> Vec<Arc<str>> {
        let mut last = machine.told.clone();
        while let Some(effect) = machine.effect() {
            if let Effect::Prefer(order) = effect {
                last = order;
            }
        }
        last.servers
    }

    #[test]
    fn the_first_choice_falls_on_every_server_for_some_seed() {
        let firsts: std::collections::BTreeSet<_> = (0..64)
            .map(|seed| preferred(&mut Servers::fixed(three(), seed))[0].clone())
            .collect();
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn a_registry_that_answers_other_calls_is_not_away_for_the_trouble_of_one() {
        let stumbled = Event::Stumbled("a".into());
        assert!(!is_away(&stumbled, Duration::from_secs(2)));
        assert!(is_away(&stumbled, Duration::from_secs(60)));
        assert!(is_away(&Event::Failed("a".into()), Duration::ZERO));
    }

    #[test]
    fn an_empty_answer_of_the_address_server_keeps_the_list() {
        let mut machine = Servers::fetched(Duration::from_secs(30), 1);
        assert_eq!(machine.effect(), Some(Effect::Fetch));
        machine.handle(Moment::ZERO, Event::Listed(three()));
        assert_eq!(preferred(&mut machine).len(), 3);
        machine.handle(Duration::from_secs(30), Event::Listed(Vec::new()));
        assert_eq!(preferred(&mut machine).len(), 3);
        assert!(machine.deadline().unwrap() <= Duration::from_secs(60));
    }

    #[test]
    fn an_address_server_that_is_away_is_asked_again_with_growing_waits() {
        let mut machine = Servers::fetched(Duration::from_secs(30), 1);
        let mut now = Moment::ZERO;
        for _ in 0..20 {
            assert_eq!(machine.effect(), Some(Effect::Fetch));
            machine.handle(now, Event::NotListed);
            let next = machine.deadline().unwrap();
            assert!(next > now && next <= now + Duration::from_secs(30));
            now = next;
            machine.wake(now);
        }
    }

    #[test]
    fn a_thousand_agents_after_an_outage_spread_over_the_backoff_window() {
        // All at once see the registry go; after ten minutes whoever knocks finds it there.
        let back = Duration::from_secs(600);
        let mut returns = Vec::new();
        for seed in 0..1000 {
            let mut servers =
                Servers::fixed(vec!["http://a:8848".to_owned()], Dice::new(seed).seed());
            let (mut now, mut knocks) = (Moment::ZERO, 0);
            servers.handle(now, Event::Failed("http://a:8848".into()));
            servers.handle(now, Event::Away);
            let returned = 'outage: loop {
                while let Some(effect) = servers.effect() {
                    match effect {
                        Effect::Knock if now < back => {
                            knocks += 1;
                            servers.handle(now, Event::NobodyThere);
                        }
                        Effect::Knock => {
                            servers.handle(now, Event::Answered("http://a:8848".into()))
                        }
                        Effect::Back => break 'outage now,
                        _ => {}
                    }
                }
                now = servers.deadline().unwrap();
                servers.wake(now);
            };
            assert!(knocks < 900, "{knocks} knocks in ten minutes");
            returns.push(returned);
        }
        let last = returns.iter().max().unwrap();
        assert!(*last < back + Duration::from_secs(2), "{last:?}");
        let most = (0..20)
            .map(|tenth| {
                let from = back + Duration::from_millis(tenth * 100);
                let slot = from..from + Duration::from_millis(100);
                returns.iter().filter(|at| slot.contains(*at)).count()
            })
            .max()
            .unwrap();
        assert!(most < 150, "{most} of a thousand in a tenth of a second");
    }

    proptest! {
        /// Whatever fails or answers: every server stays in the order, and while one works it comes first.
        #[test]
        fn a_server_that_works_comes_first_and_none_is_forgotten(seed: u64, failures in prop::collection::vec((0_usize..3, 0_u64..5000), 0..60)) {
            let mut machine = Servers::fixed(three(), seed);
            let mut now = Moment::ZERO;
            for (which, wait) in failures {
                now += Duration::from_millis(wait);
                machine.wake(now);
                machine.handle(now, Event::Failed(["a", "b", "c"][which].into()));
                let order = preferred(&mut machine);
                prop_assert_eq!(order.len(), 3);
                let is_out = |server: &Arc<str>| machine.out.get(server).is_some_and(|out| out.until > now);
                if order.iter().any(|server| !is_out(server)) {
                    prop_assert!(!is_out(&order[0]));
                }
            }
            machine.handle(now, Event::Answered("b".into()));
            prop_assert!(!machine.out.contains_key("b"));
        }

        /// Waking at a deadline moves it on: the loop that drives the machine never spins.
        #[test]
        fn a_deadline_that_was_met_is_over(seed: u64, failures in prop::collection::vec((0_usize..3, 0_u64..5000), 0..60)) {
            let mut machine = Servers::fixed(three(), seed);
            let mut now = Moment::ZERO;
            for (which, wait) in failures {
                now += Duration::from_millis(wait);
                machine.handle(now, Event::Failed(["a", "b", "c"][which].into()));
                if let Some(deadline) = machine.deadline() {
                    now = now.max(deadline);
                    machine.wake(now);
                    prop_assert!(machine.deadline().is_none_or(|next| next > now));
                }
            }
        }

        /// A registry that is away is knocked at until it answers, about once a second; however it flaps, it is told to be back
        /// at most once in ten seconds, and a return that lasts is told.
        #[test]
        fn a_registry_that_is_away_is_knocked_at_and_its_return_is_told(seed: u64, answers in prop::collection::vec(any::<bool>(), 1..60)) {
            let mut machine = Servers::fixed(three(), seed);
            let (mut now, mut last_back) = (Duration::from_secs(1), None::<Moment>);
            machine.handle(now, Event::Away);
            let end = Duration::from_secs(5000);
            let (mut away, mut told, mut index) = (true, false, 0);
            while now < end {
                let mut knock = false;
                while let Some(effect) = machine.effect() {
                    match effect {
                        Effect::Knock => knock = true,
                        Effect::Back => {
                            prop_assert!(!away, "back while away");
                            prop_assert!(last_back.is_none_or(|last| now >= last + BACK));
                            last_back = Some(now);
                            told = true;
                        }
                        _ => {}
                    }
                }
                if knock && answers.get(index).copied().unwrap_or(true) {
                    machine.handle(now, Event::Answered("a".into()));
                    (away, told) = (false, false);
                } else if knock {
                    machine.handle(now, Event::NobodyThere);
                } else if !away && index < answers.len() {
                    // Gone again soon after.
                    now += Duration::from_millis(700);
                    machine.handle(now, Event::Away);
                    away = true;
                } else {
                    now = machine.deadline().unwrap_or(end).max(now + Duration::from_millis(1));
                    machine.wake(now);
                }
                index += usize::from(knock);
            }
            prop_assert!(told && !away, "the last return was not told");
        }

        /// Trouble that is another node's leaves a server out for two seconds at most, however often it comes.
        #[test]
        fn a_server_that_stumbles_is_back_within_two_seconds(seed: u64, stumbles in 1_usize..20) {
            let mut machine = Servers::fixed(three(), seed);
            let mut now = Duration::from_secs(1);
            for _ in 0..stumbles {
                machine.handle(now, Event::Stumbled("a".into()));
                now += Duration::from_millis(300);
            }
            now += Duration::from_secs(2);
            machine.wake(now);
            preferred(&mut machine);
            prop_assert_eq!(machine.told.usable, 3);
        }

        /// A server in use is not left for another one without a failure.
        #[test]
        fn answers_never_change_the_choice(seed: u64, answers in prop::collection::vec(0_usize..3, 0..20)) {
            let mut machine = Servers::fixed(three(), seed);
            let first = preferred(&mut machine);
            for which in answers {
                machine.handle(Duration::from_secs(1), Event::Answered(["a", "b", "c"][which].into()));
            }
            prop_assert_eq!(preferred(&mut machine), first);
        }
    }
}
