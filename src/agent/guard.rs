//! Decides which lists of instances are believed: a registry in trouble must not take a healthy file away.
//!
//! A list that is not smaller than the one in force always passes. A smaller one is *held*, and the file keeps the list in force, while
//!
//! - it has fewer than `min_instances`: an empty one, unless that is allowed;
//! - it lacks more than `max_shrink` of the largest list that was in force within the `window`: the largest and not the last, so
//!   that many small losses are one large one;
//! - the registry came back less than `hold_after_reconnect` ago: applications need that long to register again.
//!
//! While the registry is away nothing that is held is taken: what it said last may be what was wrong with it.
//!
//! A hold ends by itself: when a list comes that passes; when the time after the reconnect is over; and a loss that was too large is
//! believed once the registry has told of such a loss for a whole `window`, without having been away. A list with fewer than
//! `min_instances` is never believed so: it waits for a better one, or for an operator, whose release lets what the registry says now
//! pass, whatever it is. Only a list of more than [`MOST_INSTANCES`] nobody can release.
//!
//! What an earlier run had in force counts as in force from the start.

use crate::descriptor::spec::{Guard as Rules, MOST_INSTANCES};
use crate::machine::{Machine, Moment};
use std::collections::VecDeque;

/// So many earlier lists are remembered; beyond it the smallest that was replaced is forgotten with its neighbour's time.
const MOST_REMEMBERED: usize = 256;

/// What can happen to a subscription.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<T> {
    /// A list came, of so many that passed.
    Listed {
        /// How many instances it has.
        size: usize,
        /// The list.
        list: T,
    },
    /// The list an earlier run had in force; counts only before any other.
    Remembered {
        /// How many instances it has.
        size: usize,
    },
    /// The registry cannot be asked.
    Away,
    /// The registry was away and is back.
    Back,
    /// An operator wants what the registry says now.
    Released,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<T> {
    /// Put this list in force.
    Release(T),
    /// How the hold stands changed; `None`: nothing is held.
    Tell(Option<Held>),
}

/// A list that is not believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Since when lists are held.
    pub since: Moment,
    /// Why this one is.
    pub why: Why,
    /// How many instances it has.
    pub size: usize,
    /// How many the list in force has; `None` when there is none.
    pub kept: Option<usize>,
}

/// Why a list is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// More than [`MOST_INSTANCES`].
    TooMany,
    /// Fewer than `min_instances`.
    TooFew {
        /// `min_instances`.
        least: usize,
    },
    /// Too many of the largest list of the window are missing.
    Shrunk {
        /// Its size.
        largest: usize,
        /// `max_shrink`.
        percent: u8,
        /// When it is believed all the same, if nothing changes.
        until: Moment,
    },
    /// The registry cannot be asked whether it still says so.
    Away,
    /// The registry came back a moment ago.
    Reconnected {
        /// When a smaller list is taken.
        until: Moment,
    },
}

/// The guard of one subscription.
#[derive(Debug)]
pub struct Guard<T> {
    rules: Rules,
    /// Size of the list in force.
    kept: Option<usize>,
    /// The list in force, when this run has put it there.
    list: Option<T>,
    /// Sizes of earlier lists, with the moment when they were replaced.
    replaced: VecDeque<(Moment, usize)>,
    /// What the registry says now, while it is not in force.
    offered: Option<(usize, T)>,
    /// Since when the registry has told of a loss that is too large, without a break.
    lost_since: Option<Moment>,
    back: Option<Moment>,
    /// Whether the registry cannot be asked.
    away: bool,
    held: Option<Held>,
    due: VecDeque<Effect<T>>,
}

impl<T: Clone + PartialEq> Guard<T> {
    /// A guard that has seen nothing.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            kept: None,
            list: None,
            replaced: VecDeque::new(),
            offered: None,
            lost_since: None,
            back: None,
            away: false,
            held: None,
            due: VecDeque::new(),
        }
    }

    /// The largest list that was in force within the window.
    fn largest(&self, now: Moment) -> usize {
        let counts = |(until, _): &&(Moment, usize)| now < *until + self.rules.window;
        let earlier = self.replaced.iter().filter(counts).map(|(_, size)| *size);
        earlier.chain(self.kept).max().unwrap_or(0)
    }

    /// Why a list of this size is not believed now.
    fn doubt(&mut self, now: Moment, size: usize) -> Option<Why> {
        let rules = self.rules;
        if size > MOST_INSTANCES {
            return Some(Why::TooMany);
        }
        if size < rules.min_instances {
            self.lost_since = None;
            return Some(Why::TooFew {
                least: rules.min_instances,
            });
        }
        if self.kept.is_some_and(|kept| size >= kept) {
            return None;
        }
        if self.away {
            self.lost_since = None;
            return Some(Why::Away);
        }
        let largest = self.largest(now);
        let percent = rules.max_shrink;
        // In whole numbers: a loss of exactly the share passes.
        let has_shrunk = (largest - size.min(largest)) * 100 > largest * usize::from(percent);
        if has_shrunk {
            let until = *self.lost_since.get_or_insert(now) + rules.window;
            if now < until {
                return Some(Why::Shrunk {
                    largest,
                    percent,
                    until,
                });
            }
        } else {
            self.lost_since = None;
        }
        let until = self.back? + rules.hold_after_reconnect;
        (self.kept.is_some() && now < until).then_some(Why::Reconnected { until })
    }

    fn accept(&mut self, now: Moment) {
        let Some((size, list)) = self.offered.take() else {
            return;
        };
        if let Some(kept) = self.kept.replace(size)
            && kept > size
        {
            self.replaced.push_back((now, kept));
        }
        self.lost_since = None;
        if self.list.as_ref() != Some(&list) {
            self.list = Some(list.clone());
            self.due.push_back(Effect::Release(list));
        }
    }

    /// Drops what the window has passed, and what a later and larger one covers.
    fn forget(&mut self, now: Moment) {
        let window = self.rules.window;
        self.replaced.retain(|(until, _)| now < *until + window);
        let mut largest = 0;
        let mut kept = VecDeque::new();
        for (until, size) in self.replaced.drain(..).rev() {
            if size > largest {
                largest = size;
                kept.push_front((until, size));
            }
        }
        while kept.len() > MOST_REMEMBERED {
            // The smallest: the one before it, which is larger, counts for as long.
            let last = kept.pop_back();
            if let (Some((until, _)), Some(before)) = (last, kept.back_mut()) {
                before.0 = until;
            }
        }
        self.replaced = kept;
    }

    fn step(&mut self, now: Moment) {
        self.forget(now);
        let mut held = None;
        if let Some(size) = self.offered.as_ref().map(|(size, _)| *size) {
            match self.doubt(now, size) {
                None => self.accept(now),
                Some(why) => {
                    held = Some(Held {
                        since: self.held.as_ref().map_or(now, |held| held.since),
                        why,
                        size,
                        kept: self.kept,
                    });
                }
            }
        }
        if held != self.held {
            self.held.clone_from(&held);
            self.due.push_back(Effect::Tell(held));
        }
    }
}

impl<T: Clone + PartialEq> Machine for Guard<T> {
    type Event = Event<T>;
    type Effect = Effect<T>;

    fn handle(&mut self, now: Moment, event: Event<T>) {
        match event {
            Event::Listed { size, list } => {
                self.away = false;
                if self.list.as_ref() == Some(&list) {
                    // What is in force is told again: whatever was held is over.
                    self.offered = None;
                    self.lost_since = None;
                } else {
                    self.offered = Some((size, list));
                }
            }
            Event::Remembered { size } => {
                if self.kept.is_none() {
                    self.kept = Some(size);
                }
            }
            Event::Away => self.away = true,
            Event::Back => {
                self.away = false;
                self.back = Some(now);
                self.lost_since = None;
            }
            Event::Released => {
                if self
                    .offered
                    .as_ref()
                    .is_some_and(|(size, _)| *size <= MOST_INSTANCES)
                {
                    // The operator knows of the loss: from now on this is what losses are measured against.
                    self.kept = None;
                    self.replaced.clear();
                    self.back = None;
                    self.accept(now);
                }
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        match self.held.as_ref()?.why {
            // A list that is measured against may leave the window before.
            Why::Shrunk { until, .. } => {
                let first = self.replaced.front();
                let leaves = first.map(|(replaced, _)| *replaced + self.rules.window);
                leaves.into_iter().chain([until]).min()
            }
            Why::Reconnected { until } => Some(until),
            Why::TooMany | Why::TooFew { .. } | Why::Away => None,
        }
    }

    fn effect(&mut self) -> Option<Effect<T>> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const WINDOW: Duration = Duration::from_secs(600);
    const HOLD: Duration = Duration::from_secs(30);

    /// A guard in virtual time; a list is a number, and its size stands beside it.
    struct World {
        guard: Guard<u32>,
        now: Moment,
        in_force: Option<(usize, u32)>,
        sizes: std::collections::BTreeMap<u32, usize>,
        held: Option<Held>,
        releases: usize,
        next: u32,
        rules: Rules,
        /// Sizes that were in force, with the moments when they were replaced.
        replaced: Vec<(Moment, usize)>,
        /// Whether an operator is releasing.
        releasing: bool,
        away: bool,
    }

    impl World {
        fn new(rules: Rules) -> Self {
            Self {
                guard: Guard::new(rules),
                now: Moment::ZERO,
                in_force: None,
                sizes: std::collections::BTreeMap::new(),
                held: None,
                releases: 0,
                next: 0,
                rules,
                replaced: Vec::new(),
                releasing: false,
                away: false,
            }
        }

        fn effects(&mut self) {
            while let Some(effect) = self.guard.effect() {
                match effect {
                    Effect::Release(list) => {
                        self.look(self.sizes[&list]);
                        self.in_force = Some((self.sizes[&list], list));
                        self.releases += 1;
                    }
                    Effect::Tell(held) => self.held = held,
                }
            }
        }

        /// The law: no loss beyond the rules is in force, unless it lasted or was released.
        fn look(&mut self, new: usize) {
            let Some((old, _)) = self.in_force else {
                return;
            };
            if self.releasing {
                self.replaced.clear();
                return;
            }
            assert!(new >= self.rules.min_instances);
            assert!(
                new >= old || !self.away,
                "taken while nobody could be asked"
            );
            let within = |(end, _): &&(Moment, usize)| self.now < *end + WINDOW;
            let earlier = self.replaced.iter().filter(within).map(|(_, size)| *size);
            let largest = earlier.chain([old]).max().unwrap();
            let loss = (largest - new.min(largest)) * 100;
            let is_loss = new < old && loss > largest * usize::from(self.rules.max_shrink);
            let held_since = self.held.as_ref().map(|held| held.since);
            let lasted = held_since.is_some_and(|since| since + WINDOW <= self.now);
            assert!(!is_loss || lasted, "{largest} to {new} at {:?}", self.now);
            self.replaced.push((self.now, old));
        }

        fn happens(&mut self, event: Event<u32>) {
            self.releasing = event == Event::Released;
            self.away = match event {
                Event::Away => true,
                Event::Back | Event::Listed { .. } => false,
                _ => self.away,
            };
            self.guard.handle(self.now, event);
            self.effects();
            self.releasing = false;
        }

        /// A new list of this size.
        fn list(&mut self, size: usize) {
            self.next += 1;
            self.sizes.insert(self.next, size);
            let list = self.next;
            self.happens(Event::Listed { size, list });
        }

        fn wait(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(at) = self.guard.deadline().filter(|at| *at <= end) {
                self.now = at.max(self.now);
                self.guard.wake(self.now);
                self.effects();
                assert!(
                    self.guard.deadline().is_none_or(|next| next > self.now),
                    "it spins"
                );
            }
            self.now = end;
        }

        fn size(&self) -> Option<usize> {
            self.in_force.map(|(size, _)| size)
        }

        fn why(&self) -> Option<Why> {
            self.held.as_ref().map(|held| held.why)
        }
    }

    fn world() -> World {
        World::new(Rules::default())
    }

    #[test]
    fn an_empty_list_is_held_for_ever_and_the_next_good_one_is_taken_at_once() {
        let mut world = world();
        world.list(0);
        assert_eq!(world.size(), None);
        world.list(7);
        assert_eq!((world.size(), world.why()), (Some(7), None));
        world.list(0);
        world.wait(10 * WINDOW);
        assert_eq!(world.size(), Some(7));
        let held = world.held.clone().unwrap();
        assert_eq!(
            (held.why, held.size, held.kept),
            (Why::TooFew { least: 1 }, 0, Some(7))
        );
        assert_eq!(held.since, Moment::ZERO);
        world.list(7);
        assert_eq!((world.size(), world.why()), (Some(7), None));
    }

    #[test]
    fn an_empty_list_passes_where_it_is_allowed_but_is_a_loss_like_any_other() {
        let mut world = World::new(Rules {
            min_instances: 0,
            ..Rules::default()
        });
        world.list(0);
        assert_eq!(world.size(), Some(0));
        world.list(4);
        world.list(0);
        assert!(matches!(world.why(), Some(Why::Shrunk { largest: 4, .. })));
        world.wait(WINDOW);
        assert_eq!((world.size(), world.why()), (Some(0), None));
    }

    #[test]
    fn a_loss_of_the_allowed_share_passes_and_one_more_is_held() {
        let mut world = world();
        world.list(10);
        world.list(4);
        assert_eq!(world.size(), Some(4));
        world.list(3);
        let until = WINDOW;
        assert_eq!(
            world.why(),
            Some(Why::Shrunk {
                largest: 10,
                percent: 60,
                until
            })
        );
        assert_eq!(world.size(), Some(4));
        world.list(4);
        assert_eq!((world.size(), world.why()), (Some(4), None));
    }

    #[test]
    fn sixty_small_shrinks_do_not_pass_a_guard_of_sixty_percent() {
        let mut world = world();
        world.list(100);
        for size in (39..100).rev() {
            world.wait(Duration::from_secs(5));
            world.list(size);
        }
        assert_eq!(world.size(), Some(40));
        assert!(matches!(
            world.why(),
            Some(Why::Shrunk { largest: 100, .. })
        ));
    }

    #[test]
    fn what_was_in_force_longer_ago_than_the_window_counts_no_more() {
        let mut world = world();
        world.list(100);
        world.list(50);
        world.wait(WINDOW - Duration::from_secs(1));
        world.list(39);
        assert_eq!(world.size(), Some(50));
        world.list(50);
        world.wait(Duration::from_secs(1));
        world.list(39);
        assert_eq!(world.size(), Some(39));
    }

    #[test]
    fn a_loss_that_is_told_for_a_whole_window_without_a_break_is_believed() {
        let mut world = world();
        world.list(10);
        world.list(2);
        world.wait(WINDOW / 2);
        world.list(3);
        world.wait(WINDOW / 2 - Duration::from_secs(1));
        assert_eq!(world.size(), Some(10));
        // The registry is away: what it said before says nothing about what it says then.
        world.happens(Event::Away);
        world.wait(10 * WINDOW);
        assert_eq!((world.size(), world.why()), (Some(10), Some(Why::Away)));
        world.happens(Event::Back);
        world.wait(WINDOW - Duration::from_secs(1));
        assert_eq!(world.size(), Some(10));
        world.wait(Duration::from_secs(1));
        assert_eq!((world.size(), world.why()), (Some(3), None));
    }

    #[test]
    fn after_a_reconnect_a_smaller_list_waits_and_one_that_is_not_does_not() {
        let mut world = world();
        world.list(10);
        world.wait(Duration::from_secs(60));
        world.happens(Event::Away);
        world.wait(Duration::from_secs(5));
        world.happens(Event::Back);
        world.list(9);
        let until = Duration::from_secs(65) + HOLD;
        assert_eq!(
            (world.size(), world.why()),
            (Some(10), Some(Why::Reconnected { until }))
        );
        // Away again: what it said in between is not taken by and by.
        world.happens(Event::Away);
        world.wait(2 * HOLD);
        assert_eq!((world.size(), world.why()), (Some(10), Some(Why::Away)));
        world.happens(Event::Back);
        world.list(11);
        assert_eq!((world.size(), world.why()), (Some(11), None));
        world.list(8);
        world.wait(HOLD - Duration::from_secs(1));
        assert_eq!(world.size(), Some(11));
        world.wait(Duration::from_secs(1));
        assert_eq!((world.size(), world.why()), (Some(8), None));
    }

    #[test]
    fn what_an_earlier_run_had_in_force_protects_the_next_one() {
        let mut world = world();
        world.happens(Event::Remembered { size: 10 });
        world.list(2);
        assert_eq!(world.size(), None);
        assert_eq!(world.held.as_ref().unwrap().kept, Some(10));
        world.list(10);
        assert_eq!(world.size(), Some(10));
    }

    #[test]
    fn an_operator_releases_what_the_registry_says_now_and_nothing_more() {
        let mut world = world();
        world.list(10);
        world.list(0);
        world.happens(Event::Released);
        assert_eq!((world.size(), world.why()), (Some(0), None));
        world.list(5);
        world.list(0);
        assert_eq!(world.size(), Some(5));
        // Nothing is held: nothing to release.
        world.list(5);
        let before = world.releases;
        world.happens(Event::Released);
        assert_eq!(world.releases, before);
    }

    #[test]
    fn a_list_over_its_limit_is_held_and_nobody_can_release_it() {
        let mut world = world();
        world.list(10);
        world.list(MOST_INSTANCES + 1);
        world.happens(Event::Released);
        assert_eq!((world.size(), world.why()), (Some(10), Some(Why::TooMany)));
        world.list(MOST_INSTANCES);
        assert_eq!(world.size(), Some(MOST_INSTANCES));
    }

    #[derive(Clone, Debug)]
    enum Step {
        List(usize),
        Again,
        Away,
        Back,
        Wait(u64),
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0_usize..30).prop_map(Step::List),
            1 => Just(Step::Again),
            1 => Just(Step::Away),
            1 => Just(Step::Back),
            4 => (0_u64..700).prop_map(Step::Wait),
            1 => Just(Step::Release),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn no_loss_beyond_the_rules_is_ever_in_force_unless_it_lasted_or_was_released(
            steps in steps(), least in 0_usize..4, max_shrink in 0_u8..=100,
        ) {
            let rules = Rules { min_instances: least, max_shrink, ..Rules::default() };
            let mut world = World::new(rules);
            for step in steps {
                match step {
                    Step::List(size) => world.list(size),
                    Step::Again => {
                        if let Some((size, list)) = world.in_force {
                            world.happens(Event::Listed { size, list });
                        }
                    }
                    Step::Away => world.happens(Event::Away),
                    Step::Back => world.happens(Event::Back),
                    Step::Wait(seconds) => world.wait(Duration::from_secs(seconds)),
                    Step::Release => world.happens(Event::Released),
                }
                // Whatever is held says so, and against what.
                if let Some(held) = &world.held {
                    prop_assert_eq!(held.kept, world.in_force.map(|(size, _)| size));
                }
            }
            // Whatever happened, a list that is as large as any before is taken at once.
            world.list(30.max(least));
            prop_assert_eq!(world.size(), Some(30.max(least)));
            prop_assert!(world.held.is_none() && world.guard.deadline().is_none());
        }
    }
}
