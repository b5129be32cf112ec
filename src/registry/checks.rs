//! When which persistent instance is checked, and what a result means: rounds without bursts, counts before a flip.
//!
//! An instance is checked in rounds. The next one begins an interval after this one began, and the interval follows the response
//! times: `factor` parts of what it was and the rest of what the last check took, between `min` and `max`. A refusal or an error
//! counts as `max`, a time-out as twice the interval, and so does a round that comes while the last check is still under way: it
//! is left out, so nobody is checked twice at a time. Health changes after as many results against it in a row as
//! [`CheckRules::times`] says; a refused connection is believed at once. Registering again begins the counting anew and puts no
//! check off.
//!
//! First checks are spread evenly; at most [`UNDER_WAY`] checks are under way, and [`PER_SLOT`] begin in [`SLOT`]. Who is due
//! beyond that waits in the order of being due, so a fleet is checked less often, and never all at once. What a result is about is
//! known by its number: one that is older than the registration, or whose instance has left, changes nothing.

use crate::backoff::Dice;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Checks under way at most, each with a socket.
pub(crate) const UNDER_WAY: usize = 256;
/// Checks that begin in one [`SLOT`] at most: 2000 a second.
pub(crate) const PER_SLOT: u32 = 20;
/// How long a slot is.
pub(crate) const SLOT: Duration = Duration::from_millis(10);
/// What jitter follows from: it must differ between instances, and need not between registries.
const SEED: u64 = 0x6368_6563_6b73;

/// How often checks of one kind are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// How much of the interval stays after a check, from 0 to 1; the rest follows the response time.
    pub factor: f64,
}

impl Interval {
    /// The interval after a check that took `time`.
    fn after(self, was: Duration, time: Duration) -> Duration {
        let kept = was.as_secs_f64() * self.factor;
        let new = time.as_secs_f64() * (1.0 - self.factor);
        let interval = Duration::try_from_secs_f64(kept + new).unwrap_or(self.max);
        self.bound(interval)
    }

    fn bound(self, interval: Duration) -> Duration {
        interval.min(self.max).max(self.min)
    }
}

/// What the registry's operator can set about checks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CheckRules {
    /// Whether anything is checked (`healthCheckEnabled`).
    pub enabled: bool,
    /// Results in a row that change the health (`checkTimes`).
    pub times: u32,
    /// The shortest time before the first check; up to [`Interval::max`] of TCP is added.
    pub first: Duration,
    /// Of the checker TCP (`tcpHealthParams`).
    pub tcp: Interval,
    /// Of the checker HTTP (`httpHealthParams`).
    pub http: Interval,
}

impl Default for CheckRules {
    fn default() -> Self {
        let interval = |min, max, factor| Interval {
            min: Duration::from_millis(min),
            max: Duration::from_millis(max),
            factor,
        };
        Self {
            enabled: true,
            times: 3,
            first: Duration::from_secs(2),
            tcp: interval(1_000, 5_000, 0.75),
            http: interval(500, 5_000, 0.85),
        }
    }
}

impl CheckRules {
    fn interval(&self, kind: Kind) -> Interval {
        match kind {
            Kind::Tcp => self.tcp,
            Kind::Http => self.http,
        }
    }
}

/// What is asked of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where: an address, or a name.
    pub ip: Arc<str>,
    /// Its port, or the cluster's for checks.
    pub port: u16,
    /// How.
    pub by: By,
}

/// How an instance is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Whether a connection is accepted.
    Tcp,
    /// Whether a GET is answered with 200.
    Http {
        /// What is asked for.
        path: Arc<str>,
        /// Further headers: `name:value|name:value`.
        headers: Arc<str>,
    },
}

impl By {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Tcp => Kind::Tcp,
            Self::Http { .. } => Kind::Http,
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Accepted, or answered with 200.
    Passed,
    /// The connection was refused, or the answer was a plain no.
    Refused,
    /// Nothing came in time.
    TimedOut,
    /// The answer was 503 or 302: perhaps later.
    Busy,
    /// Another error.
    Failed,
    /// Nothing was asked, for a reason that is not the instance's: it says nothing about it.
    Unable,
}

/// Which rules a check follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Http,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event<K> {
    /// `who` is to be checked, is registered again, or is checked in another way from now on.
    Registered { who: K, kind: Kind, healthy: bool },
    /// `who` is to be checked no more.
    Left { who: K },
    /// Nobody is to be checked any more.
    AllLeft,
    /// A check has ended.
    Ended { number: u64, outcome: Checked },
    /// An operator set other rules.
    Ruled(CheckRules),
    /// No check begins from now on.
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<K> {
    /// Check; the end is told with the number, whatever it is.
    Probe { number: u64, who: K },
    /// Health changed.
    Tell { who: K, healthy: bool },
}

#[derive(Clone, Debug)]
struct Round {
    kind: Kind,
    healthy: bool,
    passed: u32,
    failed: u32,
    /// What the response times made of it; bounded when it is used.
    interval: Duration,
    next: Moment,
    /// Results of checks with a lower number are older than what is known.
    since: u64,
}

/// The checks of all persistent instances; `K` says which instance.
#[derive(Clone, Debug)]
pub(crate) struct Checks<K> {
    /// Whether it may check at all; no rule changes that.
    may: bool,
    rules: CheckRules,
    dice: Dice,
    rounds: BTreeMap<K, Round>,
    /// One entry for each round, at its `next`; none while nothing is checked.
    due: BTreeSet<(Moment, K)>,
    /// Whose check is under way since when, by its number.
    under_way: BTreeMap<u64, (K, Moment)>,
    busy: BTreeSet<K>,
    next: u64,
    /// The slot in which checks began last, and how many.
    slot: (u128, u32),
    /// The latest moment it was told of.
    seen: Moment,
    effects: VecDeque<Effect<K>>,
}

impl<K: Ord + Clone> Checks<K> {
    /// Nobody is checked, ever.
    pub(crate) fn never() -> Self {
        Self {
            may: false,
            rules: CheckRules::default(),
            dice: Dice::new(SEED),
            rounds: BTreeMap::new(),
            due: BTreeSet::new(),
            under_way: BTreeMap::new(),
            busy: BTreeSet::new(),
            next: 0,
            slot: (0, 0),
            seen: Moment::ZERO,
            effects: VecDeque::new(),
        }
    }

    /// Whoever is registered is checked by these rules.
    pub(crate) fn by(rules: CheckRules) -> Self {
        Self {
            may: true,
            rules,
            ..Self::never()
        }
    }

    /// The rules that hold.
    pub(crate) fn rules(&self) -> CheckRules {
        self.rules
    }

    fn active(&self) -> bool {
        self.may && self.rules.enabled
    }

    fn forget(&mut self, who: &K) -> Option<Round> {
        let round = self.rounds.remove(who)?;
        self.due.remove(&(round.next, who.clone()));
        Some(round)
    }

    fn plan(&mut self, who: K, round: Round) {
        if self.active() {
            self.due.insert((round.next, who.clone()));
        }
        self.rounds.insert(who, round);
    }

    fn first_delay(&mut self) -> Duration {
        self.rules.first + self.rules.tcp.max.mul_f64(self.dice.draw())
    }

    fn register(&mut self, now: Moment, who: K, kind: Kind, healthy: bool) {
        let (interval, next) = match self.forget(&who) {
            Some(round) => (round.interval, round.next),
            None => {
                let delay = self.first_delay();
                (delay, now.saturating_add(delay))
            }
        };
        let round = Round {
            kind,
            healthy,
            passed: 0,
            failed: 0,
            interval,
            next,
            since: self.next,
        };
        self.plan(who, round);
    }

    /// Lets rounds begin anew after nothing was checked, or end.
    fn rule(&mut self, now: Moment, may: bool, rules: CheckRules) {
        let was = self.active();
        (self.may, self.rules) = (may, rules);
        if was == self.active() {
            return;
        }
        self.due.clear();
        for (who, mut round) in std::mem::take(&mut self.rounds) {
            round.interval = self.first_delay();
            round.next = now.saturating_add(round.interval);
            (round.passed, round.failed, round.since) = (0, 0, self.next);
            self.plan(who, round);
        }
    }

    fn slot_of(at: Moment) -> u128 {
        at.as_millis() / SLOT.as_millis()
    }

    /// Whether the slot of `now` is used up.
    fn is_full(&self, now: Moment) -> bool {
        self.slot.0 == Self::slot_of(now) && self.slot.1 >= PER_SLOT
    }

    fn end(&mut self, now: Moment, number: u64, outcome: Checked) {
        let Some((who, began)) = self.under_way.remove(&number) else {
            return;
        };
        self.busy.remove(&who);
        if !self.active() {
            return;
        }
        let Some(round) = self.rounds.get_mut(&who).filter(|it| number >= it.since) else {
            return;
        };
        let interval = self.rules.interval(round.kind);
        let took = match outcome {
            Checked::Passed => now.saturating_sub(began),
            Checked::Refused | Checked::Failed => interval.max,
            Checked::TimedOut | Checked::Busy | Checked::Unable => round.interval * 2,
        };
        round.interval = interval.after(round.interval, took);
        let turned = match outcome {
            Checked::Unable => return,
            Checked::Passed => {
                round.failed = 0;
                round.passed += u32::from(!round.healthy);
                round.passed >= self.rules.times && !round.healthy
            }
            Checked::Refused => {
                round.passed = 0;
                round.healthy
            }
            Checked::TimedOut | Checked::Busy | Checked::Failed => {
                round.passed = 0;
                round.failed += u32::from(round.healthy);
                round.failed >= self.rules.times && round.healthy
            }
        };
        if turned {
            round.healthy = !round.healthy;
            (round.passed, round.failed) = (0, 0);
            let healthy = round.healthy;
            self.effects.push_back(Effect::Tell { who, healthy });
        }
    }
}

impl<K: Ord + Clone> Machine for Checks<K> {
    type Event = Event<K>;
    type Effect = Effect<K>;

    fn handle(&mut self, now: Moment, event: Event<K>) {
        self.seen = self.seen.max(now);
        match event {
            Event::Registered { who, kind, healthy } => self.register(now, who, kind, healthy),
            Event::Left { who } => {
                self.forget(&who);
            }
            Event::AllLeft => {
                self.rounds.clear();
                self.due.clear();
            }
            Event::Ended { number, outcome } => self.end(now, number, outcome),
            Event::Ruled(rules) => self.rule(now, self.may, rules),
            Event::Stopping => self.rule(now, false, self.rules),
        }
    }

    fn wake(&mut self, now: Moment) {
        self.seen = self.seen.max(now);
        while let Some((at, who)) = self.due.first().cloned()
            && at <= now
        {
            let busy = self.busy.contains(&who);
            if !busy && (self.under_way.len() >= UNDER_WAY || self.is_full(now)) {
                break;
            }
            let Some(mut round) = self.forget(&who) else {
                // Cannot be: every entry has its round. Dropping it keeps the loop finite.
                self.due.remove(&(at, who));
                continue;
            };
            let interval = self.rules.interval(round.kind);
            if busy {
                round.interval = interval.after(round.interval, round.interval * 2);
            } else {
                let number = self.next;
                self.next += 1;
                self.under_way.insert(number, (who.clone(), now));
                self.busy.insert(who.clone());
                let slot = Self::slot_of(now);
                let used = if self.slot.0 == slot { self.slot.1 } else { 0 };
                self.slot = (slot, used + 1);
                let who = who.clone();
                self.effects.push_back(Effect::Probe { number, who });
            }
            // A length of zero would be due again at once, for ever.
            let wait = interval.bound(round.interval).max(SLOT);
            round.next = now.saturating_add(wait);
            self.plan(who, round);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let (at, who) = self.due.first()?;
        let at = (*at).max(self.seen);
        if self.busy.contains(who) {
            return Some(at);
        }
        if self.under_way.len() >= UNDER_WAY {
            // The next end makes room.
            return None;
        }
        if self.is_full(at) {
            let millis = (Self::slot_of(at) + 1).saturating_mul(SLOT.as_millis());
            return Some(Moment::from_millis(
                u64::try_from(millis).unwrap_or(u64::MAX),
            ));
        }
        Some(at)
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

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn registered(who: u32, healthy: bool) -> Event<u32> {
        let kind = Kind::Tcp;
        Event::Registered { who, kind, healthy }
    }

    /// Checks, and a world in which each of them ends `after` so long, by `result`.
    struct World {
        checks: Checks<u32>,
        now: Moment,
        ends: BTreeSet<(Moment, u64, u32)>,
        began: Vec<(Moment, u32)>,
        told: Vec<(Moment, u32, bool)>,
    }

    impl World {
        fn new(rules: CheckRules) -> Self {
            Self {
                checks: Checks::by(rules),
                now: Moment::ZERO,
                ends: BTreeSet::new(),
                began: Vec::new(),
                told: Vec::new(),
            }
        }

        fn happens(&mut self, event: Event<u32>) {
            self.checks.handle(self.now, event);
        }

        fn run(
            &mut self,
            until: Moment,
            mut world: impl FnMut(Moment, u32) -> (Duration, Checked),
        ) {
            loop {
                while let Some(effect) = self.checks.effect() {
                    match effect {
                        Effect::Tell { who, healthy } => self.told.push((self.now, who, healthy)),
                        Effect::Probe { number, who } => {
                            self.began.push((self.now, who));
                            let after = world(self.now, who).0;
                            self.ends.insert((self.now + after, number, who));
                        }
                    }
                }
                let due = self.checks.deadline();
                assert!(
                    due.is_none_or(|due| due >= self.now),
                    "deadlines do not go back"
                );
                let ends = self.ends.first().copied();
                let next = due.into_iter().chain(ends.map(|end| end.0)).min();
                let Some(next) = next.filter(|next| *next <= until) else {
                    break;
                };
                self.now = self.now.max(next);
                if let Some((_, number, who)) = ends.filter(|end| end.0 == next) {
                    self.ends.pop_first();
                    let outcome = world(self.now, who).1;
                    self.happens(Event::Ended { number, outcome });
                } else {
                    self.checks.wake(self.now);
                }
            }
            self.now = until;
        }
    }

    /// The health of one instance, after each of these results.
    fn health(healthy: bool, results: &[Checked]) -> Vec<bool> {
        let mut world = World::new(CheckRules::default());
        world.happens(registered(1, healthy));
        let mut health = healthy;
        let mut seen = Vec::new();
        for result in results {
            let many = world.began.len() + 1;
            while world.began.len() < many || !world.ends.is_empty() {
                let until = world.now + ms(1);
                world.run(until, |_, _| (ms(1), *result));
            }
            health = world.told.last().map_or(health, |told| told.2);
            seen.push(health);
        }
        seen
    }

    #[test]
    fn a_refusal_is_believed_at_once_and_all_else_after_three_in_a_row() {
        use Checked::{Busy, Failed, Passed, Refused, TimedOut, Unable};
        let (up, down) = (true, false);
        assert_eq!(
            health(up, &[Refused, Passed, Passed, Passed]),
            [down, down, down, up]
        );
        assert_eq!(health(up, &[TimedOut, Busy, Failed]), [up, up, down]);
        assert_eq!(
            health(up, &[Failed, Failed, Passed, Failed, Failed, Failed]),
            [up, up, up, up, up, down]
        );
        assert_eq!(
            health(down, &[Passed, Passed, Failed, Passed, Passed, Passed]),
            [down, down, down, down, down, up]
        );
        assert_eq!(
            health(up, &[Failed, Unable, Failed, Unable, Failed]),
            [up, up, up, up, down],
            "who was not asked has not answered"
        );
    }

    #[test]
    fn registering_again_begins_the_counting_anew_and_puts_no_check_off() {
        let mut world = World::new(CheckRules::default());
        world.happens(registered(1, true));
        let fails = |_, _| (ms(1), Checked::Failed);
        let due = world.checks.deadline().unwrap();
        for _ in 0..20 {
            world.now += ms(50);
            world.happens(registered(1, true));
            assert_eq!(world.checks.deadline(), Some(due));
        }
        for _ in 0..5 {
            while world.began.len() < 2 {
                let until = world.now + ms(1);
                world.run(until, fails);
            }
            world.began.clear();
            let until = world.now + ms(1);
            world.run(until, fails);
            world.happens(registered(1, true));
        }
        assert_eq!(world.told, [], "two in a row are no three");
    }

    #[test]
    fn a_quick_answer_shortens_the_interval_to_its_minimum_and_a_slow_one_lengthens_it() {
        let rules = CheckRules::default();
        let gaps = |took: Duration, outcome| {
            let mut world = World::new(rules);
            world.happens(registered(1, true));
            world.run(s(60), |_, _| (took, outcome));
            let pairs = world.began.windows(2);
            pairs
                .map(|pair| pair[1].0 - pair[0].0)
                .collect::<Vec<Duration>>()
        };
        let quick = gaps(ms(2), Checked::Passed);
        assert!(quick.windows(2).all(|pair| pair[1] <= pair[0]), "{quick:?}");
        assert_eq!(quick.last(), Some(&rules.tcp.min));
        let late = gaps(ms(500), Checked::TimedOut);
        assert_eq!(late.last(), Some(&rules.tcp.max));
    }

    #[test]
    fn a_round_that_finds_the_last_check_under_way_is_left_out_and_doubles() {
        let mut world = World::new(CheckRules::default());
        let kind = Kind::Http;
        let healthy = true;
        world.happens(Event::Registered {
            who: 1,
            kind,
            healthy,
        });
        world.run(s(120), |_, _| (ms(2), Checked::Passed));
        let (many, interval) = (world.began.len(), world.checks.rounds[&1].interval);
        assert_eq!(interval, ms(500));
        world.run(s(121), |_, _| (s(100), Checked::Passed));
        assert_eq!(world.began.len(), many + 1);
        assert!(world.checks.rounds[&1].interval > interval);
        world.run(s(180), |_, _| (s(100), Checked::Passed));
        assert_eq!(world.began.len(), many + 1);
        assert_eq!(world.checks.rounds[&1].interval, s(5));
    }

    #[test]
    fn ten_thousand_instances_are_checked_without_a_second_that_stands_out() {
        for many in [100, 1_000, 10_000] {
            let mut world = World::new(CheckRules::default());
            for who in 0..many {
                world.happens(registered(who, true));
            }
            world.run(s(90), |_, _| (ms(1), Checked::Passed));
            let mut seconds = BTreeMap::<u64, f64>::new();
            for (at, _) in &world.began {
                *seconds.entry(at.as_secs()).or_default() += 1.0;
            }
            let most = f64::from(PER_SLOT) * 100.0;
            let mean = f64::from(many).min(most);
            for (second, count) in &seconds {
                assert!(
                    *second < 30 || *count < 1.5 * mean,
                    "{many}: {count} in {second}"
                );
                assert!(*count <= most, "{many}: {count} in {second}");
            }
            let mut each = BTreeMap::<u32, u32>::new();
            for (_, who) in world.began.iter().filter(|it| it.0 >= s(30)) {
                *each.entry(*who).or_default() += 1;
            }
            assert_eq!(each.len(), many as usize, "nobody is forgotten");
            let (least, most) = (each.values().min().unwrap(), each.values().max().unwrap());
            assert!(most - least <= 2, "{many}: from {least} to {most} times");
        }
    }

    #[test]
    fn a_fleet_that_answers_nothing_has_so_many_sockets_open_and_no_more() {
        let mut world = World::new(CheckRules::default());
        for who in 0..2_000 {
            world.happens(registered(who, true));
        }
        let mut most = 0;
        for second in 0..600 {
            world.run(ms(100 * second), |_, _| (ms(500), Checked::TimedOut));
            most = most.max(world.ends.len());
        }
        assert_eq!(most, UNDER_WAY);
        assert_eq!(world.told.len(), 2_000, "each is found out all the same");
    }

    #[test]
    fn nothing_is_checked_while_checks_are_off_and_all_is_spread_again_when_they_are_on() {
        let off = CheckRules {
            enabled: false,
            ..CheckRules::default()
        };
        let mut world = World::new(off);
        let passes = |_, _| (ms(1), Checked::Passed);
        for who in 0..500 {
            world.happens(registered(who, false));
        }
        world.run(s(60), passes);
        assert_eq!(world.checks.deadline(), None);
        world.happens(Event::Ruled(CheckRules::default()));
        world.run(s(60) + ms(1_999), passes);
        assert_eq!(world.began, []);
        world.run(s(90), passes);
        assert_eq!(world.told.len(), 500);
        let many = world.began.len();
        world.happens(Event::Stopping);
        world.happens(Event::Ruled(CheckRules::default()));
        world.run(s(180), passes);
        assert_eq!(
            (world.began.len(), world.checks.deadline()),
            (many, None),
            "no rule undoes that"
        );
        let mut never = Checks::never();
        never.handle(s(0), registered(1, true));
        never.handle(s(0), Event::Ruled(CheckRules::default()));
        assert_eq!(never.deadline(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Register(u32, bool, bool),
        Leave(u32),
        AllLeave,
        End(usize, Checked),
        Rule(bool, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let who = 0..4_u32;
        let outcome = proptest::sample::select(vec![
            Checked::Passed,
            Checked::Refused,
            Checked::TimedOut,
            Checked::Busy,
            Checked::Failed,
            Checked::Unable,
        ]);
        let step = prop_oneof![
            6 => (1..4_000_u64).prop_map(Step::Wait),
            2 => (who.clone(), any::<bool>(), any::<bool>())
                .prop_map(|(who, http, healthy)| Step::Register(who, http, healthy)),
            1 => who.prop_map(Step::Leave),
            1 => Just(Step::AllLeave),
            8 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::End(which, outcome)),
            1 => (any::<bool>(), 1..5_u32).prop_map(|(enabled, times)| Step::Rule(enabled, times)),
        ];
        proptest::collection::vec(step, 0..150)
    }

    /// What the law says of an instance: health, results against it in a row, and the first check that counts.
    #[derive(Clone, Copy, Debug)]
    struct Model {
        healthy: bool,
        against: u32,
        since: u64,
    }

    proptest! {
        #[test]
        fn one_check_at_a_time_no_flip_before_its_time_and_no_word_of_who_is_gone(steps in steps()) {
            let mut rules = CheckRules::default();
            let mut checks = Checks::by(rules);
            let (mut now, mut begun) = (Moment::ZERO, 0);
            let mut open: Vec<(u64, u32)> = Vec::new();
            let mut model: BTreeMap<u32, Model> = BTreeMap::new();
            let mut last: BTreeMap<u32, (Moment, Interval)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Wait(millis) => {
                        let until = now + ms(millis);
                        while let Some(due) = checks.deadline().filter(|due| *due <= until) {
                            now = now.max(due);
                            checks.wake(now);
                            prop_assert!(checks.deadline().is_none_or(|next| next > now), "moves on");
                            while let Some(effect) = checks.effect() {
                                let Effect::Probe { number, who } = effect else {
                                    panic!("time alone says nothing of a health: {effect:?}");
                                };
                                prop_assert!(rules.enabled && model.contains_key(&who), "{who} is gone");
                                prop_assert!(open.iter().all(|it| it.1 != who), "{who} twice at a time");
                                if let Some((before, interval)) = last.get(&who) {
                                    prop_assert!(now - *before >= interval.min, "too soon");
                                }
                                let kind = checks.rounds[&who].kind;
                                let interval = rules.interval(kind);
                                let wait = checks.rounds[&who].next - now;
                                prop_assert!(wait >= interval.min && wait <= interval.max, "{wait:?}");
                                last.insert(who, (now, interval));
                                open.push((number, who));
                                begun = number + 1;
                            }
                        }
                        now = until;
                    }
                    Step::Register(who, http, healthy) => {
                        let kind = if http { Kind::Http } else { Kind::Tcp };
                        checks.handle(now, Event::Registered { who, kind, healthy });
                        model.insert(who, Model { healthy, against: 0, since: begun });
                    }
                    Step::Leave(who) => {
                        checks.handle(now, Event::Left { who });
                        model.remove(&who);
                        last.remove(&who);
                    }
                    Step::AllLeave => {
                        checks.handle(now, Event::AllLeft);
                        model.clear();
                        last.clear();
                    }
                    Step::End(which, outcome) => {
                        if open.is_empty() { continue; }
                        let (number, who) = open.swap_remove(which % open.len());
                        checks.handle(now, Event::Ended { number, outcome });
                        let told = checks.effect();
                        let counts = model.get_mut(&who).filter(|it| number >= it.since && rules.enabled);
                        let Some(it) = counts else {
                            prop_assert_eq!(told, None, "an old result, or of who is gone");
                            continue;
                        };
                        let against = match outcome {
                            Checked::Unable => 0,
                            Checked::Passed => u32::from(!it.healthy),
                            Checked::Refused if it.healthy => rules.times,
                            _ => u32::from(it.healthy),
                        };
                        if outcome != Checked::Unable {
                            it.against = if against == 0 { 0 } else { it.against + against };
                        }
                        let turns = outcome != Checked::Unable && it.against >= rules.times;
                        if turns {
                            *it = Model { healthy: !it.healthy, against: 0, ..*it };
                        }
                        let healthy = it.healthy;
                        prop_assert_eq!(told, turns.then_some(Effect::Tell { who, healthy }));
                    }
                    Step::Rule(enabled, times) => {
                        let turned = enabled != rules.enabled;
                        rules = CheckRules { enabled, times, ..rules };
                        checks.handle(now, Event::Ruled(rules));
                        if turned {
                            last.clear();
                            for it in model.values_mut() { (it.against, it.since) = (0, begun); }
                        }
                    }
                }
                prop_assert_eq!(checks.effect(), None);
                prop_assert!(checks.rounds.keys().eq(model.keys()));
                prop_assert_eq!(checks.due.len(), if rules.enabled { model.len() } else { 0 });
                for (at, who) in &checks.due {
                    prop_assert_eq!(checks.rounds[who].next, *at);
                }
                prop_assert_eq!(checks.under_way.len(), open.len());
                prop_assert!(checks.busy.iter().all(|who| open.iter().any(|it| it.1 == *who)));
            }
        }
    }
}
