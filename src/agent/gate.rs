//! Rise and fall: turns the results of single probes into the verdict that the registry is told.
//!
//! A verdict changes after `rise` passes or `fall` failures in a row. A first contrary result is neither believed nor waited
//! out: the next probes follow at [`CONFIRM`], so a closed port is known after the phase of one interval, not of three. A probe
//! never overlaps itself: the next one is planned only when the result of the last one is in.

use crate::machine::Machine;
use crate::machine::Moment;
use std::{collections::VecDeque, time::Duration};

/// Pause before a probe that confirms a contrary result, where the interval is not shorter.
pub const CONFIRM: Duration = Duration::from_millis(200);

/// How patient a gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Pause between probes while they agree with the verdict.
    pub interval: Duration,
    /// Passes in a row that open the gate; at least 1.
    pub rise: u32,
    /// Failures in a row that close it; at least 1.
    pub fall: u32,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The probe passed.
    Passed,
    /// The probe failed.
    Failed,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Probe now; exactly one [`Event`] answers.
    Probe,
    /// The verdict is another one than before (or the first).
    Tell {
        /// The verdict.
        healthy: bool,
    },
}

/// The machine. Nothing is known until `rise` or `fall` was reached once.
#[derive(Debug)]
pub struct Gate {
    patience: Patience,
    healthy: Option<bool>,
    /// The last result, and how many like it came in a row.
    streak: Option<(bool, u32)>,
    next_probe: Option<Moment>,
    due: VecDeque<Effect>,
}

impl Gate {
    /// Probes at once.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            healthy: None,
            streak: None,
            next_probe: None,
            due: VecDeque::from([Effect::Probe]),
        }
    }
}

impl Machine for Gate {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        let passed = event == Event::Passed;
        let run = match self.streak {
            Some((same, run)) if same == passed => run.saturating_add(1),
            _ => 1,
        };
        self.streak = Some((passed, run));
        let needed = if passed {
            self.patience.rise
        } else {
            self.patience.fall
        };
        if self.healthy != Some(passed) && run >= needed {
            self.healthy = Some(passed);
            self.due.push_back(Effect::Tell { healthy: passed });
        }
        let settled = self.healthy == Some(passed);
        self.next_probe = Some(
            now + if settled {
                self.patience.interval
            } else {
                CONFIRM.min(self.patience.interval)
            },
        );
    }

    fn wake(&mut self, now: Moment) {
        if self.next_probe.is_some_and(|at| at <= now) {
            self.next_probe = None;
            self.due.push_back(Effect::Probe);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.next_probe
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Patience = Patience {
        interval: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    };

    /// Answers every probe with the next of `results`; what was told and when.
    fn play(patience: Patience, results: &[bool]) -> Vec<(Moment, bool)> {
        let (mut gate, mut now, mut told) = (Gate::new(patience), Moment::ZERO, Vec::new());
        let mut results = results.iter();
        loop {
            while let Some(effect) = gate.effect() {
                match effect {
                    Effect::Tell { healthy } => told.push((now, healthy)),
                    Effect::Probe => match results.next() {
                        Some(true) => gate.handle(now, Event::Passed),
                        Some(false) => gate.handle(now, Event::Failed),
                        None => return told,
                    },
                }
            }
            now = gate.deadline().expect("a probe is out or planned");
            gate.wake(now);
        }
    }

    #[test]
    fn a_closed_port_is_known_400_ms_after_the_first_failure() {
        assert_eq!(
            play(PATIENCE, &[true, true, false, false, false]),
            [
                (Duration::from_millis(200), true),
                (Duration::from_millis(1600), false),
            ]
        );
    }

    proptest! {
        /// What is told is exactly what a reading of the results says: a change after `rise` passes or `fall` failures in a row.
        #[test]
        fn tells_what_the_results_say_and_nothing_twice(rise in 1_u32..5, fall in 1_u32..5, results: Vec<bool>) {
            let told: Vec<bool> = play(Patience { rise, fall, ..PATIENCE }, &results).into_iter().map(|(_, healthy)| healthy).collect();
            let (mut expected, mut run, mut last) = (Vec::new(), 0, None);
            for result in results {
                run = if last == Some(result) { run + 1 } else { 1 };
                last = Some(result);
                let needed = if result { rise } else { fall };
                if run >= needed && expected.last() != Some(&result) {
                    expected.push(result);
                }
            }
            prop_assert_eq!(told, expected);
        }

        /// No result, no further probe; a result, one probe within an interval.
        #[test]
        fn a_probe_never_overlaps_itself(results: Vec<bool>, pauses in prop::collection::vec(0_u64..3000, 1..40)) {
            let mut gate = Gate::new(PATIENCE);
            let mut now = Moment::ZERO;
            let mut under_way = false;
            for (passed, pause) in results.into_iter().zip(pauses) {
                while let Some(effect) = gate.effect() {
                    if effect == Effect::Probe {
                        prop_assert!(!under_way);
                        under_way = true;
                    }
                }
                now += Duration::from_millis(pause);
                gate.wake(now);
                if under_way {
                    under_way = false;
                    gate.handle(now, if passed { Event::Passed } else { Event::Failed });
                    prop_assert!(gate.deadline().is_some_and(|next| next <= now + PATIENCE.interval));
                }
            }
        }
    }
}
