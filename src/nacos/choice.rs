//! Which transport is spoken, and why: gRPC where there is a connection and the servers are new enough, HTTP v1 else.
//!
//! - A gRPC connection decides at once. So does a version without gRPC, or one (before 2.1.1) whose gRPC holds a single instance
//!   of a service; else HTTP v1 is waited with for [`PATIENCE`], because a server that is starting answers over HTTP first.
//! - gRPC is looked for all the same, and taken when it comes: so an upgrade of the servers is noticed while we run.
//! - gRPC that is gone for [`GONE`], while the same servers go on answering over HTTP v1, is given up for it.

use crate::backoff::Backoff;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{collections::VecDeque, time::Duration};

/// How long a registry that answers over HTTP alone may take to answer over gRPC.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long gRPC must be gone before HTTP v1 takes its place; a server that restarts is back within a minute, over both.
const GONE: Duration = Duration::from_secs(15);
/// Between questions what the registry is, while that is unknown or gRPC is gone.
const ASK: Pace = Pace {
    base: Duration::from_millis(400),
    cap: Duration::from_secs(5),
    floor: Duration::from_millis(200),
};

/// The numbers of a version.
pub type Version = (u32, u32, u32);

/// The first version that takes several instances of a service over one connection.
const BATCHES: Version = (2, 1, 1);
/// The first version without HTTP v1.
const NO_V1: Version = (3, 2, 0);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody answered over HTTP, and said what it is if it did.
    Answered(Option<Version>),
    /// [`Effect::Ask`] found nobody.
    NobodyThere,
    /// There is a gRPC connection.
    Connected,
    /// There is none any more.
    Lost,
    /// No server can be reached over gRPC; why the last one could not.
    Unreachable(String),
}

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// gRPC.
    Grpc,
    /// HTTP v1.
    Http,
}

/// Why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is there.
    Answers,
    /// The version has no gRPC, or too little of it.
    TooOld(Version),
    /// It answers over HTTP alone; why not over gRPC.
    NoGrpc(String),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask over HTTP what it is; [`Event::Answered`] or [`Event::NobodyThere`] answers.
    Ask,
    /// Speak this from now on.
    Use(Which, Why),
}

/// The machine.
#[derive(Debug)]
pub struct Choice {
    version: Option<Version>,
    /// Since when somebody answers over HTTP, without gRPC.
    http_alone: Option<Moment>,
    connected: bool,
    trouble: String,
    using: Option<(Which, Why)>,
    next_ask: Option<Moment>,
    asks: Backoff,
    due: VecDeque<Effect>,
}

impl Choice {
    /// Knows nothing, and asks.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            version: None,
            http_alone: None,
            connected: false,
            trouble: "no connection yet".to_owned(),
            using: None,
            next_ask: None,
            asks: Backoff::new(ASK, seed),
            due: [Effect::Ask].into(),
        }
    }

    fn is_using(&self, which: Which) -> bool {
        self.using
            .as_ref()
            .is_some_and(|(using, _)| *using == which)
    }

    /// How long HTTP must have answered alone to be taken.
    fn patience(&self) -> Duration {
        if self.using.is_some() { GONE } else { PATIENCE }
    }

    fn decide(&mut self, now: Moment) {
        let alone = |since: Moment| since + self.patience() <= now;
        let choice = match self.version {
            Some(version) if version < BATCHES => (Which::Http, Why::TooOld(version)),
            _ if self.connected => (Which::Grpc, Why::Answers),
            Some(version) if version >= NO_V1 => return,
            _ if self.is_using(Which::Http) || self.http_alone.is_some_and(alone) => {
                (Which::Http, Why::NoGrpc(self.trouble.clone()))
            }
            _ => return,
        };
        if self.using.as_ref() != Some(&choice) {
            self.using = Some(choice.clone());
            self.due.push_back(Effect::Use(choice.0, choice.1));
        }
    }

    /// Whether it matters what the registry answers over HTTP.
    fn is_curious(&self) -> bool {
        self.using.is_none() || self.is_using(Which::Grpc) && !self.connected
    }
}

impl Machine for Choice {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Answered(version) => {
                self.version = version.or(self.version);
                if !self.connected {
                    self.http_alone.get_or_insert(now);
                }
                self.next_ask = Some(now + self.asks.next_wait());
            }
            Event::NobodyThere => {
                self.http_alone = None;
                self.next_ask = Some(now + self.asks.next_wait());
            }
            Event::Connected => {
                self.connected = true;
                self.http_alone = None;
            }
            Event::Lost => {
                self.connected = false;
                self.asks.reset();
                self.next_ask = Some(now + self.asks.next_wait());
            }
            Event::Unreachable(why) => self.trouble = why,
        }
        self.decide(now);
    }

    fn wake(&mut self, now: Moment) {
        if self.next_ask.is_some_and(|next| next <= now) {
            self.next_ask = None;
            if self.is_curious() {
                self.due.push_back(Effect::Ask);
            }
        }
        self.decide(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let ask = self.next_ask.filter(|_| self.is_curious());
        let waits = !self.connected && !self.is_using(Which::Http);
        let may = self.version.is_none_or(|version| version < NO_V1);
        let alone = self.http_alone.filter(|_| waits && may);
        let patience = alone.map(|since| since + self.patience());
        [ask, patience].into_iter().flatten().min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn effects(choice: &mut Choice) -> Vec<Effect> {
        std::iter::from_fn(|| choice.effect()).collect()
    }

    fn new() -> Choice {
        let mut choice = Choice::new(1);
        assert_eq!(effects(&mut choice), [Effect::Ask]);
        choice
    }

    fn uses(choice: &mut Choice) -> Vec<Effect> {
        let mut effects = effects(choice);
        effects.retain(|effect| *effect != Effect::Ask);
        effects
    }

    const GRPC: Effect = Effect::Use(Which::Grpc, Why::Answers);

    #[test]
    fn a_connection_decides_before_anybody_has_said_what_he_is() {
        let mut choice = new();
        choice.handle(ms(1), Event::Connected);
        assert_eq!(effects(&mut choice), [GRPC]);
        choice.handle(ms(2), Event::Answered(Some((2, 5, 1))));
        assert_eq!(effects(&mut choice), []);
        assert_eq!(choice.deadline(), None, "nothing more is asked");
    }

    #[test]
    fn what_has_no_grpc_is_spoken_to_over_http_at_once() {
        for version in [(1, 4, 8), (2, 0, 4)] {
            let mut choice = new();
            choice.handle(ms(1), Event::Answered(Some(version)));
            let http = Effect::Use(Which::Http, Why::TooOld(version));
            assert_eq!(effects(&mut choice), [http]);
        }
    }

    #[test]
    fn an_upgrade_is_noticed() {
        let mut choice = new();
        choice.handle(ms(1), Event::Answered(Some((1, 4, 8))));
        effects(&mut choice);
        choice.handle(ms(900_000), Event::Connected);
        assert_eq!(effects(&mut choice), [], "it may be a stranger's port");
        choice.handle(ms(900_001), Event::Answered(Some((2, 5, 1))));
        assert_eq!(effects(&mut choice), [GRPC]);
        choice.handle(ms(900_002), Event::Answered(Some((3, 0, 3))));
        assert_eq!(effects(&mut choice), []);
    }

    #[test]
    fn a_blocked_port_is_waited_for_two_seconds_then_done_without() {
        let mut choice = new();
        choice.handle(ms(0), Event::Unreachable("connection refused".into()));
        choice.handle(ms(10), Event::Answered(Some((2, 5, 1))));
        choice.wake(ms(2_009));
        assert_eq!(uses(&mut choice), []);
        choice.wake(ms(2_010));
        let why = Why::NoGrpc("connection refused".into());
        assert_eq!(uses(&mut choice), [Effect::Use(Which::Http, why)]);
        choice.handle(ms(60_000), Event::Connected);
        assert_eq!(uses(&mut choice), [GRPC]);
    }

    #[test]
    fn a_restart_of_the_servers_changes_nothing_and_a_port_that_is_closed_does() {
        let mut choice = new();
        choice.handle(ms(0), Event::Connected);
        uses(&mut choice);
        choice.handle(ms(10), Event::Lost);
        choice.handle(ms(20), Event::NobodyThere);
        choice.handle(ms(9_000), Event::Answered(Some((2, 5, 1))));
        choice.wake(ms(20_000));
        choice.handle(ms(21_000), Event::Connected);
        assert_eq!(uses(&mut choice), []);
        choice.handle(ms(30_000), Event::Lost);
        choice.handle(ms(31_000), Event::Answered(Some((2, 5, 1))));
        choice.wake(ms(45_999));
        assert_eq!(uses(&mut choice), []);
        choice.wake(ms(46_000));
        assert!(matches!(
            uses(&mut choice)[..],
            [Effect::Use(Which::Http, Why::NoGrpc(_))]
        ));
    }

    #[test]
    fn where_there_is_no_http_v1_grpc_is_waited_for() {
        let mut choice = new();
        choice.handle(ms(10), Event::Answered(Some((3, 2, 0))));
        choice.wake(ms(60_000));
        assert_eq!(uses(&mut choice), []);
        choice.handle(ms(61_000), Event::Connected);
        assert_eq!(uses(&mut choice), [GRPC]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Event(Event),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let version = prop_oneof![
            Just(None),
            Just(Some((1, 4, 8))),
            Just(Some((2, 5, 1))),
            Just(Some((3, 2, 0)))
        ];
        let event = prop_oneof![
            version.prop_map(Event::Answered),
            Just(Event::NobodyThere),
            Just(Event::Connected),
            Just(Event::Lost),
            Just(Event::Unreachable("x".into())),
        ];
        let step = prop_oneof![
            (1..20_000_u64).prop_map(Step::Wait),
            event.prop_map(Step::Event)
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        #[test]
        fn what_is_used_is_what_is_there_and_nothing_is_said_twice(steps in steps()) {
            let (mut choice, mut now, mut last) = (Choice::new(7), Moment::ZERO, None);
            let (mut connected, mut version) = (false, None);
            for step in steps {
                match step {
                    Step::Wait(wait) => {
                        let until = now + ms(wait);
                        while let Some(due) = choice.deadline().filter(|due| *due <= until) {
                            prop_assert!(due >= now, "a deadline lies behind");
                            let before = (due, choice.due.len());
                            choice.wake(due.max(now));
                            prop_assert!(choice.deadline() != Some(before.0) || choice.due.len() > before.1, "woken for nothing");
                            now = due.max(now);
                        }
                        now = until;
                    }
                    Step::Event(event) => {
                        match &event {
                            Event::Connected => connected = true,
                            Event::Lost => connected = false,
                            Event::Answered(Some(known)) => version = Some(*known),
                            _ => {}
                        }
                        choice.handle(now, event);
                    }
                }
                for effect in effects(&mut choice) {
                    if let Effect::Use(which, why) = effect {
                        prop_assert_ne!(last.replace((which, why.clone())), Some((which, why)));
                    }
                }
                if connected && version.is_none_or(|version| version >= BATCHES) {
                    prop_assert_eq!(last.as_ref().map(|last| last.0), Some(Which::Grpc));
                }
            }
        }
    }
}
