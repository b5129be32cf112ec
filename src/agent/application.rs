//! The application that `outrigger exec` runs: when it is started, told, stopped and started again, and which code is ours at the end.
//!
//! Two lives are told apart: that of the application (not there, starting, running, stopping, over) and that of its registration
//! (kept, resting while the application is started anew, leaving, left). Every rule joins both:
//!
//! * nothing is started before its files are in place; when that takes too long nothing is started at all;
//! * whoever is to be stopped is taken out of the registry first and only then gets its signal, and `KILL` when that did not end it;
//! * an application that ends by itself is taken out too, and its code is ours in any case;
//! * an application that is started anew has no registration meanwhile.
//!
//! A second request to stop does not wait for the registry. Changes come in bursts: they wait for [`QUIET`] without a further one,
//! [`AT_MOST`] in all.

use crate::machine::{Machine, Moment};
use std::{collections::VecDeque, time::Duration};

/// So long nothing must have changed before the application hears of a change.
pub const QUIET: Duration = Duration::from_millis(500);
/// So long it waits for that.
pub const AT_MOST: Duration = Duration::from_secs(5);
/// After `KILL`: who has not ended then hangs in the kernel, and is not waited for.
const BURIAL: Duration = Duration::from_secs(2);

/// What a change of its files means to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// It is stopped and started again.
    Restart,
    /// It gets this signal.
    Signal(i32),
    /// Nothing: it looks for itself, or its targets have a `reload`.
    Nothing,
}

/// What is fixed for its whole life.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long files are waited for.
    pub wait: Duration,
    /// What a change means.
    pub on_change: OnChange,
    /// What stops the application where nobody said another signal.
    pub stop_signal: i32,
    /// Whether it takes the place of every request to stop.
    pub stop_signal_is_written: bool,
    /// From that signal to `KILL`.
    pub kill_after: Duration,
    /// Our code when files are not in place in time.
    pub too_late: u8,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The files it needs are in place.
    InPlace,
    /// What it should hear of has changed.
    Changed,
    /// Somebody wants it stopped, by this signal.
    ToldToStop(i32),
    /// A signal that is passed on.
    Signalled(i32),
    /// It runs.
    Started,
    /// It could not be started; our code.
    NotStarted(u8),
    /// It has ended; its code as shells tell it.
    Ended(u8),
    /// Its registration rests, or has not been confirmed to in time.
    Rested,
    /// The agent has ended, and its registration with it.
    Left,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the application.
    Start,
    /// Give it a signal.
    Signal(i32),
    /// Kill it, with all of its group.
    Kill,
    /// Take its registration out for a while.
    Rest,
    /// Register it again.
    Work,
    /// End the agent in order; the second time, at once.
    Leave,
    /// Say what is not in place.
    GiveUp,
    /// End with this code.
    Exit(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Its files are waited for.
    Waiting,
    Starting,
    Running,
    /// It has its signal; then it is killed, then given up.
    Stopping {
        until: Moment,
        is_killed: bool,
    },
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registration {
    Kept,
    Resting,
    Rested,
    Leaving,
    Left,
}

/// The machine.
#[derive(Debug)]
pub struct Application {
    rules: Rules,
    run: Run,
    registration: Registration,
    /// The end of the wait for files.
    wait_until: Moment,
    /// First and last change that it has not heard of.
    changed: Option<(Moment, Moment)>,
    /// It is to be started again.
    again: bool,
    /// All is to end; the signal that stops the application.
    leaving: Option<i32>,
    /// It is stopped without waiting for the registry.
    hurry: bool,
    code: Option<u8>,
    exited: bool,
    due: VecDeque<Effect>,
}

impl Application {
    /// One whose files are waited for from now on.
    #[must_use]
    pub fn new(rules: Rules, now: Moment) -> Self {
        Self {
            rules,
            run: Run::Waiting,
            registration: Registration::Kept,
            wait_until: now + rules.wait,
            changed: None,
            again: false,
            leaving: None,
            hurry: false,
            code: None,
            exited: false,
            due: VecDeque::new(),
        }
    }

    /// When a change is old enough to be told.
    fn tell_at(&self) -> Option<Moment> {
        let is_idle = self.run == Run::Running && !self.again && self.leaving.is_none();
        let (first, last) = self.changed.filter(|_| is_idle)?;
        Some((last + QUIET).min(first + AT_MOST))
    }

    fn stop(&mut self, now: Moment, signal: i32) {
        self.due.push_back(Effect::Signal(signal));
        self.run = Run::Stopping {
            until: now + self.rules.kill_after,
            is_killed: false,
        };
    }

    fn over(&mut self, code: u8) {
        self.run = Run::Over;
        self.code = Some(code);
    }

    fn start(&mut self) {
        self.due.push_back(Effect::Start);
        self.run = Run::Starting;
        self.changed = None;
    }

    fn step(&mut self, now: Moment) {
        match self.leaving {
            Some(signal) => self.leave(now, signal),
            None if self.again => self.go_again(now),
            None => {}
        }
    }

    fn leave(&mut self, now: Moment, signal: i32) {
        if !matches!(
            self.registration,
            Registration::Leaving | Registration::Left
        ) {
            self.due.push_back(Effect::Leave);
            self.registration = Registration::Leaving;
        }
        let has_left = self.registration == Registration::Left;
        match self.run {
            Run::Running if has_left || self.hurry => self.stop(now, signal),
            Run::Waiting | Run::Over if has_left && !self.exited => {
                self.exited = true;
                // Whoever was told to stop before it ran ends as if the signal had ended it.
                let code = self.code.unwrap_or_else(|| signalled(signal));
                self.due.push_back(Effect::Exit(code));
            }
            _ => {}
        }
    }

    fn go_again(&mut self, now: Moment) {
        if self.registration == Registration::Kept {
            self.due.push_back(Effect::Rest);
            self.registration = Registration::Resting;
        }
        if self.registration != Registration::Rested {
            return;
        }
        match self.run {
            Run::Running => self.stop(now, self.rules.stop_signal),
            Run::Over => {
                self.code = None;
                self.start();
            }
            _ => {}
        }
    }
}

/// The code of a process that a signal ended, as shells tell it.
#[must_use]
pub fn signalled(signal: i32) -> u8 {
    u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX)
}

impl Machine for Application {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::InPlace => {
                if self.run == Run::Waiting && self.leaving.is_none() {
                    self.start();
                }
            }
            Event::Changed => {
                let first = self.changed.map_or(now, |(first, _)| first);
                // Whoever has not begun to start will see it anyway.
                if matches!(self.run, Run::Starting | Run::Running) && !self.again {
                    self.changed = Some((first, now));
                }
            }
            Event::ToldToStop(told) => {
                let signal = if self.rules.stop_signal_is_written {
                    self.rules.stop_signal
                } else {
                    told
                };
                match (self.leaving.replace(signal), self.run) {
                    (None, _) => {}
                    (Some(_), Run::Stopping { .. }) => self.due.push_back(Effect::Signal(signal)),
                    (Some(_), _) => {
                        self.hurry = true;
                        if self.registration == Registration::Leaving {
                            self.due.push_back(Effect::Leave);
                        }
                    }
                }
            }
            Event::Signalled(signal) => {
                if matches!(self.run, Run::Running | Run::Stopping { .. }) {
                    self.due.push_back(Effect::Signal(signal));
                }
            }
            Event::Started => {
                if self.run == Run::Starting {
                    self.run = Run::Running;
                    if std::mem::take(&mut self.again) && self.leaving.is_none() {
                        self.due.push_back(Effect::Work);
                        self.registration = Registration::Kept;
                    }
                }
            }
            Event::NotStarted(code) => {
                self.over(code);
                self.leaving.get_or_insert(self.rules.stop_signal);
            }
            Event::Ended(code) => {
                if self.run != Run::Over {
                    self.over(code);
                    if !self.again {
                        self.leaving.get_or_insert(self.rules.stop_signal);
                    }
                }
            }
            Event::Rested => {
                if self.registration == Registration::Resting {
                    self.registration = Registration::Rested;
                }
            }
            Event::Left => {
                self.registration = Registration::Left;
                self.leaving.get_or_insert(self.rules.stop_signal);
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        if self.run == Run::Waiting && self.leaving.is_none() && now >= self.wait_until {
            self.due.push_back(Effect::GiveUp);
            self.code = Some(self.rules.too_late);
            self.leaving = Some(self.rules.stop_signal);
        }
        if self.tell_at().is_some_and(|at| now >= at) {
            self.changed = None;
            match self.rules.on_change {
                OnChange::Restart => self.again = true,
                OnChange::Signal(signal) => self.due.push_back(Effect::Signal(signal)),
                OnChange::Nothing => {}
            }
        }
        if let Run::Stopping { until, is_killed } = self.run
            && now >= until
        {
            if is_killed {
                self.over(signalled(KILLED));
            } else {
                self.due.push_back(Effect::Kill);
                self.run = Run::Stopping {
                    until: now + BURIAL,
                    is_killed: true,
                };
            }
        }
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        match self.run {
            Run::Waiting if self.leaving.is_none() => Some(self.wait_until),
            Run::Stopping { until, .. } => Some(until),
            _ => self.tell_at(),
        }
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

/// `KILL`.
const KILLED: i32 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERM: i32 = 15;
    const HUP: i32 = 1;

    fn rules(on_change: OnChange) -> Rules {
        Rules {
            wait: Duration::from_secs(60),
            on_change,
            stop_signal: TERM,
            stop_signal_is_written: false,
            kill_after: Duration::from_secs(10),
            too_late: 69,
        }
    }

    struct World {
        machine: Application,
        now: Moment,
    }

    impl World {
        fn new(on_change: OnChange) -> Self {
            Self {
                machine: Application::new(rules(on_change), Duration::ZERO),
                now: Duration::ZERO,
            }
        }

        fn running(on_change: OnChange) -> Self {
            let mut world = Self::new(on_change);
            assert_eq!(world.tell(Event::InPlace), [Effect::Start]);
            assert_eq!(world.tell(Event::Started), []);
            world
        }

        fn effects(&mut self) -> Vec<Effect> {
            std::iter::from_fn(|| self.machine.effect()).collect()
        }

        fn tell(&mut self, event: Event) -> Vec<Effect> {
            self.machine.handle(self.now, event);
            self.effects()
        }

        /// What it does at its next deadline.
        fn pass(&mut self) -> Vec<Effect> {
            self.now = self.machine.deadline().unwrap();
            self.machine.wake(self.now);
            self.effects()
        }
    }

    #[test]
    fn it_leaves_the_registry_before_it_stops_the_application() {
        let mut world = World::running(OnChange::Nothing);
        assert_eq!(world.tell(Event::ToldToStop(TERM)), [Effect::Leave]);
        assert_eq!(world.machine.deadline(), None, "the agent has its own");
        assert_eq!(world.tell(Event::Left), [Effect::Signal(TERM)]);
        assert_eq!(world.pass(), [Effect::Kill]);
        assert_eq!(world.tell(Event::Ended(137)), [Effect::Exit(137)]);
    }

    #[test]
    fn a_second_request_does_not_wait_for_the_registry() {
        let mut world = World::running(OnChange::Nothing);
        world.tell(Event::ToldToStop(TERM));
        assert_eq!(
            world.tell(Event::ToldToStop(TERM)),
            [Effect::Leave, Effect::Signal(TERM)]
        );
        assert_eq!(world.tell(Event::ToldToStop(2)), [Effect::Signal(2)]);
        assert_eq!(world.tell(Event::Ended(0)), []);
        assert_eq!(world.tell(Event::Left), [Effect::Exit(0)]);
    }

    #[test]
    fn the_code_of_an_application_that_ends_by_itself_is_ours() {
        let mut world = World::running(OnChange::Nothing);
        assert_eq!(world.tell(Event::Ended(3)), [Effect::Leave]);
        assert_eq!(world.tell(Event::Left), [Effect::Exit(3)]);
    }

    #[test]
    fn it_is_not_started_without_its_files() {
        let mut world = World::new(OnChange::Nothing);
        assert_eq!(world.pass(), [Effect::GiveUp, Effect::Leave]);
        assert_eq!(world.tell(Event::InPlace), [], "too late");
        assert_eq!(world.tell(Event::Left), [Effect::Exit(69)]);
    }

    #[test]
    fn told_to_stop_while_it_waits_it_ends_as_by_that_signal() {
        let mut world = World::new(OnChange::Nothing);
        assert_eq!(world.tell(Event::Signalled(HUP)), [], "nobody to tell");
        assert_eq!(world.tell(Event::ToldToStop(TERM)), [Effect::Leave]);
        assert_eq!(world.tell(Event::Left), [Effect::Exit(143)]);
    }

    #[test]
    fn a_burst_of_changes_is_one_restart_without_a_registration() {
        let mut world = World::running(OnChange::Restart);
        for _ in 0..5 {
            assert_eq!(world.tell(Event::Changed), []);
            world.now += QUIET / 2;
        }
        assert_eq!(world.pass(), [Effect::Rest]);
        assert_eq!(world.tell(Event::Changed), [], "it will see it anyway");
        assert_eq!(world.tell(Event::Rested), [Effect::Signal(TERM)]);
        assert_eq!(world.tell(Event::Ended(143)), [Effect::Start]);
        assert_eq!(world.tell(Event::Started), [Effect::Work]);
        assert_eq!(world.machine.deadline(), None);
        assert_eq!(world.tell(Event::Ended(0)), [Effect::Leave]);
    }

    #[test]
    fn told_to_stop_while_it_restarts_it_does_not_start_again() {
        let mut world = World::running(OnChange::Restart);
        world.tell(Event::Changed);
        assert_eq!(world.pass(), [Effect::Rest]);
        world.tell(Event::Rested);
        assert_eq!(world.tell(Event::ToldToStop(TERM)), [Effect::Leave]);
        assert_eq!(world.tell(Event::Ended(143)), []);
        assert_eq!(world.tell(Event::Left), [Effect::Exit(143)]);
    }

    #[test]
    fn changes_that_do_not_end_are_told_all_the_same() {
        let mut world = World::running(OnChange::Signal(HUP));
        let mut told = Vec::new();
        while told.is_empty() {
            world.tell(Event::Changed);
            world.now += QUIET / 2;
            world.machine.wake(world.now);
            told = world.effects();
            assert!(world.now <= AT_MOST + QUIET);
        }
        assert_eq!(told, [Effect::Signal(HUP)]);
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let one = prop_oneof![
            Just(Event::InPlace),
            Just(Event::Changed),
            Just(Event::ToldToStop(TERM)),
            Just(Event::Signalled(HUP)),
            Just(Event::Ended(7)),
            Just(Event::Left),
        ];
        prop::collection::vec(one, 0..40)
    }

    proptest! {
        /// Whatever happens in whichever order: one application at a time, no signal without one, and an end that comes, once.
        #[test]
        fn its_laws_hold_in_any_order(events in events(), starts in any::<bool>(), obeys in any::<bool>()) {
            let mut world = World::new(OnChange::Restart);
            let (mut lives, mut left, mut exits) = (false, false, 0);
            // What happens, then all that is asked for is done; at the end somebody wants it to stop.
            let mut script: VecDeque<Event> = events.into();
            script.push_back(Event::ToldToStop(TERM));
            let mut steps = 0;
            while exits == 0 {
                steps += 1;
                prop_assert!(steps < 2_000, "it does not end: {:?}", world.machine);
                let effects = match script.pop_front() {
                    // Nothing ends that does not live; the agent ends once.
                    Some(Event::Ended(_)) if !lives => continue,
                    Some(Event::Left) if left => continue,
                    Some(event) => {
                        lives &= !matches!(event, Event::Ended(_));
                        left |= event == Event::Left;
                        world.tell(event)
                    }
                    None => {
                        prop_assert!(world.machine.deadline().is_some(), "stuck: {:?}", world.machine);
                        world.pass()
                    }
                };
                for effect in effects {
                    match effect {
                        Effect::Start => {
                            prop_assert!(!lives && !left);
                            lives = starts;
                            script.push_front(if starts { Event::Started } else { Event::NotStarted(127) });
                        }
                        Effect::Signal(signal) => {
                            // It may just have ended, which nobody has told yet.
                            if lives && signal == TERM && obeys {
                                script.push_back(Event::Ended(143));
                            }
                        }
                        Effect::Kill => script.push_back(Event::Ended(137)),
                        Effect::Rest => script.push_back(Event::Rested),
                        Effect::Leave => script.push_back(Event::Left),
                        Effect::Work => prop_assert!(lives && !left),
                        Effect::GiveUp => {}
                        Effect::Exit(_) => {
                            prop_assert!(!lives && left);
                            exits += 1;
                        }
                    }
                }
            }
            prop_assert_eq!(world.effects(), []);
        }
    }
}
