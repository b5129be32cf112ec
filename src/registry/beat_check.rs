//! Who has stopped beating: each ephemeral instance is unhealthy after one silence and removed after a longer one.
//!
//! The original looks every 5 s, so its 15 s are 15 to 20; here each instance has its own deadline and nothing is periodic. A
//! registration counts as a beat. The machine tells only changes: an instance that is unhealthy already is not told so again,
//! and a beat heals at once. There are many beats and few silences, so a beat only notes when it came: that a deadline is later than
//! it was planned is seen when it comes.

use crate::machine::{Machine, Moment};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// How much silence an instance may keep (`preserved.heart.beat.timeout`, `preserved.ip.delete.timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Silence after which it is unhealthy.
    pub(crate) unhealthy: Duration,
    /// Silence after which it is removed; may be the shorter one, then there is no unhealthy stage.
    pub(crate) removed: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            unhealthy: Duration::from_secs(15),
            removed: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<K> {
    /// `who` was registered, or registered again.
    Registered {
        who: K,
        patience: Patience,
        healthy: bool,
    },
    /// An operator changed what the metadata of `who` say; not a beat.
    PatienceChanged { who: K, patience: Patience },
    /// `who` beat.
    Beat { who: K },
    /// Somebody else said the health of `who`: it holds until the next beat or silence.
    Told { who: K, healthy: bool },
    /// `who` was deregistered.
    Left { who: K },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<K> {
    /// Health changed.
    Tell { who: K, healthy: bool },
    /// The silence was too long; the machine has forgotten it already.
    Remove { who: K },
}

#[derive(Clone, Debug)]
struct Pulse {
    last: Moment,
    patience: Patience,
    healthy: bool,
    /// Its one entry among those due, at or before its `next`.
    planned: Moment,
}

impl Pulse {
    fn next(&self) -> Moment {
        let removed = self.last.saturating_add(self.patience.removed);
        if self.healthy {
            removed.min(self.last.saturating_add(self.patience.unhealthy))
        } else {
            removed
        }
    }
}

/// The beat check of all ephemeral instances; `K` says which instance.
#[derive(Clone, Debug)]
pub(crate) struct BeatCheck<K> {
    pulses: BTreeMap<K, Pulse>,
    /// One entry for each pulse, at the moment it was planned for.
    due: BTreeSet<(Moment, K)>,
    effects: VecDeque<Effect<K>>,
}

impl<K: Ord + Clone> BeatCheck<K> {
    pub(crate) fn new() -> Self {
        Self {
            pulses: BTreeMap::new(),
            due: BTreeSet::new(),
            effects: VecDeque::new(),
        }
    }

    /// When an instance was heard last.
    pub(crate) fn last(&self, who: &K) -> Option<Moment> {
        self.pulses.get(who).map(|pulse| pulse.last)
    }

    fn forget(&mut self, who: &K) -> Option<Pulse> {
        let pulse = self.pulses.remove(who)?;
        self.due.remove(&(pulse.planned, who.clone()));
        Some(pulse)
    }

    fn plan(&mut self, who: K, mut pulse: Pulse) {
        pulse.planned = pulse.next();
        self.due.insert((pulse.planned, who.clone()));
        self.pulses.insert(who, pulse);
    }
}

impl<K: Ord + Clone> Machine for BeatCheck<K> {
    type Event = Event<K>;
    type Effect = Effect<K>;

    fn handle(&mut self, now: Moment, event: Event<K>) {
        match event {
            Event::Registered {
                who,
                patience,
                healthy,
            } => {
                let pulse = Pulse {
                    last: now,
                    patience,
                    healthy,
                    planned: now,
                };
                match self.pulses.get_mut(&who) {
                    // As before, and later than planned: it is a beat.
                    Some(there) if pulse.next() >= there.planned => {
                        *there = Pulse {
                            planned: there.planned,
                            ..pulse
                        };
                    }
                    _ => {
                        self.forget(&who);
                        self.plan(who, pulse);
                    }
                }
            }
            Event::PatienceChanged { who, patience } => {
                if let Some(pulse) = self.forget(&who) {
                    self.plan(who, Pulse { patience, ..pulse });
                }
            }
            Event::Beat { who } => {
                let Some(pulse) = self.pulses.get_mut(&who) else {
                    return;
                };
                pulse.last = now;
                if !pulse.healthy {
                    pulse.healthy = true;
                    self.effects.push_back(Effect::Tell {
                        who: who.clone(),
                        healthy: true,
                    });
                }
                if pulse.next() < pulse.planned
                    && let Some(pulse) = self.forget(&who)
                {
                    self.plan(who, pulse);
                }
            }
            Event::Told { who, healthy } => {
                if let Some(pulse) = self.forget(&who) {
                    self.plan(who, Pulse { healthy, ..pulse });
                }
            }
            Event::Left { who } => {
                self.forget(&who);
            }
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, who)) = self.due.first().cloned()
            && at <= now
        {
            let Some(pulse) = self.forget(&who) else {
                // Cannot be: every entry has its pulse. Dropping it keeps the loop finite.
                self.due.remove(&(at, who));
                continue;
            };
            if pulse.next() > now {
                self.plan(who, pulse);
            } else if pulse.last.saturating_add(pulse.patience.removed) <= now {
                self.effects.push_back(Effect::Remove { who });
            } else {
                self.effects.push_back(Effect::Tell {
                    who: who.clone(),
                    healthy: false,
                });
                self.plan(
                    who,
                    Pulse {
                        healthy: false,
                        ..pulse
                    },
                );
            }
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    fn effect(&mut self) -> Option<Effect<K>> {
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

    /// Runs to `until`, waking exactly at each deadline; what came out and when.
    fn run(check: &mut BeatCheck<u8>, until: Moment) -> Vec<(Moment, Effect<u8>)> {
        let mut out = Vec::new();
        while let Some(at) = check.deadline().filter(|at| *at <= until) {
            check.wake(at);
            while let Some(effect) = check.effect() {
                out.push((at, effect));
            }
        }
        out
    }

    fn registered(who: u8, healthy: bool) -> Event<u8> {
        Event::Registered {
            who,
            patience: Patience::default(),
            healthy,
        }
    }

    #[test]
    fn silence_is_unhealthy_at_15_s_and_gone_at_30_s() {
        let mut check = BeatCheck::new();
        check.handle(s(1), registered(7, true));
        assert_eq!(
            run(&mut check, s(100)),
            [
                (
                    s(16),
                    Effect::Tell {
                        who: 7,
                        healthy: false
                    }
                ),
                (s(31), Effect::Remove { who: 7 }),
            ]
        );
        assert_eq!(check.deadline(), None);
    }

    #[test]
    fn a_beat_heals_what_was_registered_unhealthy() {
        let mut check = BeatCheck::new();
        check.handle(s(0), registered(7, false));
        check.handle(s(5), Event::Beat { who: 7 });
        assert_eq!(
            check.effect(),
            Some(Effect::Tell {
                who: 7,
                healthy: true
            })
        );
        assert_eq!(check.deadline(), Some(s(20)));
    }

    #[test]
    fn a_delete_timeout_below_the_beat_timeout_removes_without_an_unhealthy_stage() {
        let mut check = BeatCheck::new();
        let patience = Patience {
            unhealthy: s(15),
            removed: s(6),
        };
        check.handle(
            s(0),
            Event::Registered {
                who: 1,
                patience,
                healthy: true,
            },
        );
        assert_eq!(run(&mut check, s(60)), [(s(6), Effect::Remove { who: 1 })]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Register(u8, u64, u64, bool),
        Patience(u8, u64, u64),
        Beat(u8),
        Told(u8, bool),
        Leave(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let who = 0..4_u8;
        let step = prop_oneof![
            (1..20_u64).prop_map(Step::Wait),
            (who.clone(), 1..30_u64, 1..30_u64, any::<bool>())
                .prop_map(|(w, u, r, h)| Step::Register(w, u, r, h)),
            (who.clone(), 1..30_u64, 1..30_u64).prop_map(|(w, u, r)| Step::Patience(w, u, r)),
            who.clone().prop_map(Step::Beat),
            (who.clone(), any::<bool>()).prop_map(|(w, h)| Step::Told(w, h)),
            who.prop_map(Step::Leave),
        ];
        proptest::collection::vec(step, 0..60)
    }

    /// What the law says, without deadlines: last sign of life, patience, health.
    type Model = BTreeMap<u8, (Moment, Patience, bool)>;

    proptest! {
        #[test]
        fn an_instance_is_what_its_silence_says_at_every_moment(steps in steps()) {
            let (mut check, mut now) = (BeatCheck::new(), Moment::ZERO);
            let mut seen: BTreeMap<u8, bool> = BTreeMap::new();
            let mut model: Model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Wait(by) => {
                        let until = now + s(by);
                        for (at, effect) in run(&mut check, until) {
                            match effect {
                                Effect::Tell { who, healthy } => {
                                    prop_assert_ne!(seen.insert(who, healthy), Some(healthy), "only changes are told");
                                    let (last, patience, _) = model[&who];
                                    prop_assert_eq!(at.max(last + patience.unhealthy), at, "not before its time");
                                }
                                Effect::Remove { who } => {
                                    prop_assert!(seen.remove(&who).is_some());
                                    let (last, patience, _) = model.remove(&who).unwrap();
                                    prop_assert!(last + patience.removed <= at);
                                }
                            }
                        }
                        now = until;
                    }
                    Step::Register(who, u, r, healthy) => {
                        let patience = Patience { unhealthy: s(u), removed: s(r) };
                        check.handle(now, Event::Registered { who, patience, healthy });
                        seen.insert(who, healthy);
                        model.insert(who, (now, patience, healthy));
                    }
                    Step::Patience(who, u, r) => {
                        let patience = Patience { unhealthy: s(u), removed: s(r) };
                        check.handle(now, Event::PatienceChanged { who, patience });
                        if let Some(entry) = model.get_mut(&who) { entry.1 = patience; }
                    }
                    Step::Beat(who) => {
                        check.handle(now, Event::Beat { who });
                        if let Some(entry) = model.get_mut(&who) { entry.0 = now; }
                        while let Some(effect) = check.effect() {
                            prop_assert_eq!(&effect, &Effect::Tell { who, healthy: true });
                            prop_assert_eq!(seen.insert(who, true), Some(false));
                        }
                        prop_assert!(seen.get(&who).is_none_or(|healthy| *healthy), "a beat heals");
                    }
                    Step::Told(who, healthy) => {
                        check.handle(now, Event::Told { who, healthy });
                        if let Some(health) = seen.get_mut(&who) { *health = healthy; }
                    }
                    Step::Leave(who) => {
                        check.handle(now, Event::Left { who });
                        seen.remove(&who);
                        model.remove(&who);
                    }
                }
                prop_assert!(seen.keys().eq(model.keys()));
                prop_assert_eq!(check.due.len(), check.pulses.len());
                for (at, who) in &check.due {
                    prop_assert_eq!(check.pulses[who].planned, *at);
                    prop_assert!(check.pulses[who].next() >= *at, "nobody is looked at too late");
                }
            }
            // Left alone, everything ends removed and nothing is left to wake for.
            run(&mut check, now + s(1_000));
            prop_assert_eq!(check.deadline(), None);
            prop_assert!(check.pulses.is_empty());
        }

        #[test]
        fn who_beats_in_time_is_never_told_of(every in 1..15_u64, beats in 1..50_u64) {
            let mut check = BeatCheck::new();
            check.handle(s(0), registered(1, true));
            for beat in 1..=beats {
                prop_assert_eq!(run(&mut check, s(beat * every)), []);
                check.handle(s(beat * every), Event::Beat { who: 1 });
                prop_assert_eq!(check.effect(), None);
            }
        }

        #[test]
        fn waking_early_changes_nothing(early in 0..15_u64) {
            let mut check = BeatCheck::new();
            check.handle(s(0), registered(1, true));
            check.wake(s(early));
            prop_assert_eq!(check.effect(), None);
            prop_assert_eq!(check.deadline(), Some(s(15)));
        }
    }
}
