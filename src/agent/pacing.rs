//! Decides when an application may be told that its files have changed.
//!
//! An application is whoever hears one `reload`: all groups of files that name the same signal and process, command or URL are its
//! *members*, whatever their descriptors are called, and share its limits. A member whose reload is due asks; it is given its turn
//! when
//!
//! - the *splay* is over: a part of `up_to`, by chance or by the host's name, counted from the first change that is due;
//! - `at_most_every` has passed since the last reload began;
//! - of the *fleet*, fewer instances reload than may at once: that is [`lease`](super::lease)'s, asked last, so that nobody holds
//!   a turn who is not ready to use it.
//!
//! What changes meanwhile is gathered: then every member that is due is asked whether its files are in place
//! ([`Effect::Turn`]), the application is told once for all that are ready, and all of them hear what came of it. A member that is
//! in the middle of a swap passes, and asks again: nothing that is due is lost.
//!
//! The splay is not waited for by a member that is only starting, whose application may wait for its file. Files that went back
//! after the application was not well with newer ones wait for nothing at all: it is unwell until it hears of them.

use crate::backoff::Dice;
use crate::descriptor::spec::{Fleet, Pacing, Splay, SplayBy};
use crate::machine::{Machine, Moment};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// A group of files of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member(pub u64);

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// There is this member.
    Joined(Member, Pacing),
    /// It is no longer there.
    Left(Member),
    /// Its reload is due; said once until it is answered.
    Due {
        /// Who.
        member: Member,
        /// Whether it is only starting.
        is_first: bool,
        /// Whether its files went back because the application was not well.
        is_return: bool,
    },
    /// Answers [`Effect::Turn`]: its files are in place.
    Ready(Member),
    /// Answers [`Effect::Turn`]: not now; it asks again.
    Passed(Member),
    /// Answers [`Effect::Reload`].
    Reloaded,
    /// Answers [`Effect::AskTurn`]: it may reload, or shall without a turn.
    TurnCame,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask the member whether its files are in place; one [`Event::Ready`] or [`Event::Passed`] answers.
    Turn(Member),
    /// Tell the application once, for these; one [`Event::Reloaded`] answers.
    Reload(BTreeSet<Member>),
    /// Ask for a turn in the fleet; one [`Event::TurnCame`] answers, unless [`Effect::EndTurn`] comes first.
    AskTurn(Fleet),
    /// The turn is not needed any more.
    EndTurn,
    /// What these wait for has changed; `None`: nothing.
    Tell(BTreeSet<Member>, Option<Wait>),
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The splay.
    Splay {
        /// When it is over.
        until: Moment,
    },
    /// `at_most_every`.
    Pause {
        /// When it is over.
        until: Moment,
    },
    /// A turn in the fleet.
    Turn,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Resting,
    /// A turn in the fleet is asked for.
    InLine,
    /// Members are asked whether they are ready.
    Gathering {
        asked: BTreeSet<Member>,
        ready: BTreeSet<Member>,
    },
    Running,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    is_first: bool,
    is_return: bool,
}

/// The machine of one application.
#[derive(Debug)]
pub struct Pacer {
    members: BTreeMap<Member, Pacing>,
    due: BTreeMap<Member, Due>,
    /// Since when something is due, and the part of the splay that was drawn for it.
    since: Option<(Moment, f64)>,
    /// When the last reload began.
    began: Option<Moment>,
    phase: Phase,
    has_turn: bool,
    /// The host's place in a splay, within [0, 1).
    place: f64,
    dice: Dice,
    told: (BTreeSet<Member>, Option<Wait>),
    out: VecDeque<Effect>,
}

impl Pacer {
    /// Nobody is a member. `place` is the host's in a splay by host, within [0, 1).
    #[must_use]
    pub fn new(place: f64, seed: u64) -> Self {
        Self {
            members: BTreeMap::new(),
            due: BTreeMap::new(),
            since: None,
            began: None,
            phase: Phase::Resting,
            has_turn: false,
            place,
            dice: Dice::new(seed),
            told: (BTreeSet::new(), None),
            out: VecDeque::new(),
        }
    }

    /// Where members want different things the strictest counts.
    fn strictest<T: Ord>(&self, of: impl Fn(&Pacing) -> Option<T>) -> Option<T> {
        self.members.values().filter_map(of).max()
    }

    fn fleet(&self) -> Option<Fleet> {
        let fleets = self.members.values().filter_map(|one| one.fleet.as_ref());
        fleets.min_by_key(|fleet| fleet.at_most).cloned()
    }

    /// What is still waited for before a turn in the fleet.
    fn wait(&self, now: Moment) -> Option<Wait> {
        if self.due.values().any(|due| due.is_return) {
            return None;
        }
        if let Some((since, drawn)) = self.since
            && !self.due.values().any(|due| due.is_first)
        {
            let parts = self.members.values().filter_map(|one| one.splay);
            let part = |splay: Splay| {
                splay.up_to.mul_f64(match splay.by {
                    SplayBy::Chance => drawn,
                    SplayBy::Host => self.place,
                })
            };
            let until = since + parts.map(part).max().unwrap_or_default();
            if now < until {
                return Some(Wait::Splay { until });
            }
        }
        let pause = self.strictest(|one| Some(one.at_most_every));
        let until = self.began? + pause.unwrap_or(Duration::ZERO);
        (now < until).then_some(Wait::Pause { until })
    }

    fn step(&mut self, now: Moment) {
        if self.due.is_empty() {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some((now, self.dice.draw()));
        }
        while self.moves_on(now) {}
        self.tell(now);
    }

    /// Goes on to the next phase, where that is due.
    fn moves_on(&mut self, now: Moment) -> bool {
        match &self.phase {
            Phase::InLine if self.due.is_empty() => self.rest(),
            Phase::Resting if !self.due.is_empty() && self.wait(now).is_none() => {
                let is_return = self.due.values().any(|due| due.is_return);
                match self.fleet().filter(|_| !is_return) {
                    Some(fleet) => {
                        self.phase = Phase::InLine;
                        self.has_turn = true;
                        self.out.push_back(Effect::AskTurn(fleet));
                    }
                    None => self.gather(),
                }
            }
            Phase::InLine if self.due.values().any(|due| due.is_return) => self.gather(),
            Phase::Gathering { asked, ready } if asked.is_empty() => {
                if ready.is_empty() {
                    self.rest();
                } else {
                    let members = ready.clone();
                    self.began = Some(now);
                    self.since = None;
                    self.phase = Phase::Running;
                    self.out.push_back(Effect::Reload(members));
                }
            }
            _ => return false,
        }
        true
    }

    fn rest(&mut self) {
        self.phase = Phase::Resting;
        if std::mem::take(&mut self.has_turn) {
            self.out.push_back(Effect::EndTurn);
        }
    }

    fn gather(&mut self) {
        let asked: BTreeSet<Member> = self.due.keys().copied().collect();
        self.due.clear();
        self.out.extend(asked.iter().copied().map(Effect::Turn));
        let ready = BTreeSet::new();
        self.phase = Phase::Gathering { asked, ready };
    }

    /// Says what those who are due wait for; one that began to be due during a reload waits for its end, which is soon.
    fn tell(&mut self, now: Moment) {
        let wait = match self.phase {
            Phase::Resting if !self.due.is_empty() => self.wait(now),
            Phase::InLine => Some(Wait::Turn),
            Phase::Resting | Phase::Gathering { .. } | Phase::Running => None,
        };
        let whom: BTreeSet<Member> = match wait {
            Some(_) => self.due.keys().copied().collect(),
            None => BTreeSet::new(),
        };
        if self.told == (whom.clone(), wait) {
            return;
        }
        let before = std::mem::replace(&mut self.told, (whom.clone(), wait));
        let over: BTreeSet<Member> = before.0.difference(&whom).copied().collect();
        if !over.is_empty() {
            self.out.push_back(Effect::Tell(over, None));
        }
        if !whom.is_empty() {
            self.out.push_back(Effect::Tell(whom, wait));
        }
    }
}

impl Machine for Pacer {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Joined(member, pacing) => _ = self.members.insert(member, pacing),
            Event::Left(member) => {
                self.members.remove(&member);
                self.due.remove(&member);
                if let Phase::Gathering { asked, ready } = &mut self.phase {
                    asked.remove(&member);
                    ready.remove(&member);
                }
            }
            Event::Due {
                member,
                is_first,
                is_return,
            } => {
                if self.members.contains_key(&member) {
                    let due = Due {
                        is_first,
                        is_return,
                    };
                    self.due.insert(member, due);
                }
            }
            Event::Ready(member) => {
                if let Phase::Gathering { asked, ready } = &mut self.phase
                    && asked.remove(&member)
                {
                    ready.insert(member);
                }
            }
            Event::Passed(member) => {
                if let Phase::Gathering { asked, .. } = &mut self.phase {
                    asked.remove(&member);
                }
            }
            Event::Reloaded => {
                if self.phase == Phase::Running {
                    self.rest();
                }
            }
            Event::TurnCame => {
                if self.phase == Phase::InLine {
                    self.gather();
                }
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        if self.phase != Phase::Resting || self.due.is_empty() {
            return None;
        }
        match self.told.1? {
            Wait::Splay { until } | Wait::Pause { until } => Some(until),
            Wait::Turn => None,
        }
    }

    fn effect(&mut self) -> Option<Effect> {
        self.out.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const A: Member = Member(0);
    const B: Member = Member(1);

    fn every(pause: Duration) -> Pacing {
        Pacing {
            at_most_every: pause,
            ..Pacing::default()
        }
    }

    fn splayed(by: SplayBy) -> Pacing {
        Pacing {
            splay: Some(Splay { up_to: s(30), by }),
            ..Pacing::default()
        }
    }

    fn fleet() -> Pacing {
        Pacing {
            fleet: Some(Fleet {
                at_most: 1,
                service: "orders".to_owned(),
                group: "G".to_owned(),
                namespace: String::new(),
                wait: s(600),
                then: crate::descriptor::spec::FleetThen::Reload,
            }),
            ..Pacing::default()
        }
    }

    fn due(member: Member) -> Event {
        Event::Due {
            member,
            is_first: false,
            is_return: false,
        }
    }

    fn effects(pacer: &mut Pacer) -> Vec<Effect> {
        std::iter::from_fn(|| pacer.effect()).collect()
    }

    /// Has the machine wait until something other than a word about waiting comes out, at most an hour; and when that was.
    fn next(pacer: &mut Pacer, mut now: Moment) -> (Moment, Vec<Effect>) {
        loop {
            let out: Vec<Effect> = effects(pacer)
                .into_iter()
                .filter(|effect| !matches!(effect, Effect::Tell(..)))
                .collect();
            let deadline = pacer.deadline().filter(|_| out.is_empty());
            match deadline {
                Some(at) => {
                    assert!(at > now, "{at:?} is over at {now:?}");
                    now = at;
                    pacer.wake(now);
                }
                None => return (now, out),
            }
        }
    }

    #[test]
    fn without_limits_the_application_is_told_at_once() {
        let mut pacer = Pacer::new(0.5, 1);
        pacer.handle(s(0), Event::Joined(A, Pacing::default()));
        pacer.handle(s(1), due(A));
        assert_eq!(effects(&mut pacer), [Effect::Turn(A)]);
        pacer.handle(s(1), Event::Ready(A));
        assert_eq!(effects(&mut pacer), [Effect::Reload([A].into())]);
        pacer.handle(s(2), due(A));
        assert_eq!(effects(&mut pacer), []);
        pacer.handle(s(3), Event::Reloaded);
        assert_eq!(effects(&mut pacer), [Effect::Turn(A)]);
    }

    #[test]
    fn members_of_one_application_share_its_pause_and_what_comes_in_it_is_one_reload() {
        let mut pacer = Pacer::new(0.5, 1);
        pacer.handle(s(0), Event::Joined(A, every(s(10))));
        pacer.handle(s(0), Event::Joined(B, Pacing::default()));
        pacer.handle(s(1), due(A));
        pacer.handle(s(1), Event::Ready(A));
        pacer.handle(s(1), Event::Reloaded);
        effects(&mut pacer);
        pacer.handle(s(3), due(B));
        let waits = Wait::Pause { until: s(11) };
        assert_eq!(effects(&mut pacer), [Effect::Tell([B].into(), Some(waits))]);
        pacer.handle(s(5), due(A));
        let (at, out) = next(&mut pacer, s(5));
        assert_eq!((at, out), (s(11), vec![Effect::Turn(A), Effect::Turn(B)]));
        pacer.handle(s(11), Event::Ready(B));
        pacer.handle(s(11), Event::Ready(A));
        let both = Effect::Reload([A, B].into());
        assert_eq!(effects(&mut pacer), [both]);
    }

    #[test]
    fn who_passes_asks_again_and_holds_up_nobody() {
        let mut pacer = Pacer::new(0.5, 1);
        for member in [A, B] {
            pacer.handle(s(0), Event::Joined(member, every(s(10))));
        }
        pacer.handle(s(1), due(A));
        pacer.handle(s(1), Event::Passed(A));
        assert_eq!(effects(&mut pacer), [Effect::Turn(A)]);
        // It was not told of anything: no pause begins.
        pacer.handle(s(2), due(A));
        pacer.handle(s(2), due(B));
        assert_eq!(effects(&mut pacer), [Effect::Turn(A)]);
        pacer.handle(s(2), Event::Ready(A));
        assert_eq!(effects(&mut pacer), [Effect::Reload([A].into())]);
        pacer.handle(s(3), Event::Reloaded);
        assert_eq!(next(&mut pacer, s(3)), (s(12), vec![Effect::Turn(B)]));
    }

    #[test]
    fn a_host_has_its_place_in_a_splay_and_a_start_or_a_return_has_none() {
        for place in [0.0, 0.5, 0.9] {
            for seed in 0..3 {
                let mut pacer = Pacer::new(place, seed);
                pacer.handle(s(0), Event::Joined(A, splayed(SplayBy::Host)));
                pacer.handle(s(1), due(A));
                let at = s(1) + s(30).mul_f64(place);
                assert_eq!(next(&mut pacer, s(1)), (at, vec![Effect::Turn(A)]));
            }
        }
        for (is_first, is_return) in [(true, false), (false, true)] {
            let mut pacer = Pacer::new(0.9, 1);
            pacer.handle(s(0), Event::Joined(A, splayed(SplayBy::Host)));
            let event = Event::Due {
                member: A,
                is_first,
                is_return,
            };
            pacer.handle(s(1), event);
            assert_eq!(next(&mut pacer, s(1)), (s(1), vec![Effect::Turn(A)]));
        }
    }

    #[test]
    fn chance_spreads_hosts_over_the_splay() {
        let mut places = Vec::new();
        for seed in 0..100 {
            let mut pacer = Pacer::new(0.0, seed);
            pacer.handle(s(0), Event::Joined(A, splayed(SplayBy::Chance)));
            pacer.handle(s(0), due(A));
            places.push(next(&mut pacer, s(0)).0);
        }
        assert!(places.iter().all(|at| *at < s(30)));
        for third in [s(0), s(10), s(20)] {
            let within = places
                .iter()
                .filter(|at| **at >= third && **at < third + s(10));
            assert!(within.count() > 15, "{places:?}");
        }
    }

    #[test]
    fn a_turn_is_asked_for_last_and_given_back_after_the_reload() {
        let mut pacer = Pacer::new(0.5, 1);
        let pacing = Pacing {
            at_most_every: s(10),
            ..fleet()
        };
        pacer.handle(s(0), Event::Joined(A, pacing.clone()));
        pacer.handle(s(1), due(A));
        let fleet = pacing.fleet.unwrap();
        let waits = Effect::Tell([A].into(), Some(Wait::Turn));
        assert_eq!(effects(&mut pacer), [Effect::AskTurn(fleet.clone()), waits]);
        pacer.handle(s(5), Event::TurnCame);
        let over = Effect::Tell([A].into(), None);
        assert_eq!(effects(&mut pacer), [Effect::Turn(A), over]);
        pacer.handle(s(5), Event::Ready(A));
        pacer.handle(s(7), Event::Reloaded);
        assert_eq!(
            effects(&mut pacer),
            [Effect::Reload([A].into()), Effect::EndTurn]
        );
        pacer.handle(s(8), due(A));
        let (at, out) = next(&mut pacer, s(8));
        assert_eq!((at, out), (s(15), vec![Effect::AskTurn(fleet)]));
        // The one that waits is no longer there.
        pacer.handle(s(16), Event::Left(A));
        assert!(effects(&mut pacer).contains(&Effect::EndTurn));
    }

    #[test]
    fn files_that_went_back_wait_for_no_turn() {
        let mut pacer = Pacer::new(0.5, 1);
        pacer.handle(s(0), Event::Joined(A, fleet()));
        pacer.handle(s(0), Event::Joined(B, fleet()));
        pacer.handle(s(1), due(A));
        effects(&mut pacer);
        let event = Event::Due {
            member: B,
            is_first: false,
            is_return: true,
        };
        pacer.handle(s(2), event);
        let out = next(&mut pacer, s(2)).1;
        assert_eq!(out, [Effect::Turn(A), Effect::Turn(B)]);
        for member in [A, B] {
            pacer.handle(s(2), Event::Ready(member));
        }
        pacer.handle(s(2), Event::Reloaded);
        assert!(effects(&mut pacer).contains(&Effect::EndTurn));
    }

    proptest! {
        /// Whatever happens in which order: no two reloads at once, none sooner after another than the pause, every member that
        /// is due is asked within pause and splay once things rest, and every turn that was asked for ends.
        #[test]
        fn nothing_due_is_lost_and_nobody_hurries(
            seed: u64,
            steps in prop::collection::vec((0_u8..8, 0_u64..6_000), 0..200),
        ) {
            let mut pacer = Pacer::new(0.7, seed);
            let pacing = Pacing { at_most_every: s(10), splay: Some(Splay { up_to: s(5), by: SplayBy::Chance }), ..fleet() };
            for member in [A, B] {
                pacer.handle(s(0), Event::Joined(member, pacing.clone()));
            }
            let mut now = s(0);
            let (mut is_running, mut in_line, mut asked) = (false, false, Vec::new());
            let (mut waiting, mut ready): (BTreeSet<Member>, BTreeSet<Member>) = Default::default();
            let mut began: Option<Moment> = None;
            let rest = (0..200_u64).map(|number| (u8::try_from(2 + number % 5).unwrap(), 1_000));
            for (what, wait) in steps.into_iter().chain(rest) {
                now += Duration::from_millis(wait);
                if pacer.deadline().is_some_and(|at| at <= now) {
                    pacer.wake(now);
                }
                let event = match what {
                    0 | 1 if !waiting.contains(&Member(what.into())) && !asked.contains(&Member(what.into())) && !ready.contains(&Member(what.into())) => {
                        waiting.insert(Member(what.into()));
                        Some(due(Member(what.into())))
                    }
                    2 if is_running => {
                        is_running = false;
                        ready.clear();
                        Some(Event::Reloaded)
                    }
                    3 if in_line => { in_line = false; Some(Event::TurnCame) }
                    4 | 5 => asked.pop().map(|member| { ready.insert(member); Event::Ready(member) }),
                    7 => asked.pop().map(Event::Passed),
                    _ => None,
                };
                if let Some(event) = event {
                    pacer.handle(now, event);
                }
                while let Some(effect) = pacer.effect() {
                    match effect {
                        Effect::Turn(member) => {
                            prop_assert!(!is_running && waiting.remove(&member));
                            asked.push(member);
                        }
                        Effect::Reload(members) => {
                            prop_assert!(!is_running && members == ready && asked.is_empty());
                            prop_assert!(began.is_none_or(|began| now >= began + s(10)));
                            began = Some(now);
                            is_running = true;
                        }
                        Effect::AskTurn(_) => in_line = true,
                        Effect::EndTurn => in_line = false,
                        Effect::Tell(..) => {}
                    }
                }
            }
            prop_assert!(waiting.is_empty() && asked.is_empty() && !is_running && !in_line, "{pacer:?}");
        }
    }
}
