//! Full-jitter backoff as a pure value: nothing is retried without it.
//!
//! The n-th wait is uniform in `[floor, min(cap, base * 2^n)]`. The randomness is a seed held by the value, so a machine that
//! owns one stays deterministic: same seed, same waits.

use std::time::Duration;

/// How long to wait between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Upper end of the first wait; each further try doubles it.
    pub base: Duration,
    /// Upper end that is never exceeded.
    pub cap: Duration,
    /// No wait is shorter: keeps a lucky draw from becoming a tight loop.
    pub floor: Duration,
}

impl Pace {
    /// For calls to a registry: 0.2 s doubling to 30 s.
    pub const NETWORK: Self = Self {
        base: Duration::from_millis(400),
        cap: Duration::from_secs(30),
        floor: Duration::from_millis(100),
    };
    /// For reload commands and signals: 1 s doubling to 5 min.
    pub const RELOAD: Self = Self {
        base: Duration::from_secs(1),
        cap: Duration::from_secs(300),
        floor: Duration::from_millis(500),
    };
}

/// A run of failed tries.
#[derive(Clone, Debug)]
pub struct Backoff {
    pace: Pace,
    failures: u32,
    dice: Dice,
}

impl Backoff {
    /// Starts with no failures; `seed` decides all its waits.
    #[must_use]
    pub fn new(pace: Pace, seed: u64) -> Self {
        Self {
            pace,
            failures: 0,
            dice: Dice::new(seed),
        }
    }

    /// Notes one more failure and says how long to wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        let doubled = self
            .pace
            .base
            .saturating_mul(1_u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX));
        let ceiling = doubled.min(self.pace.cap).max(self.pace.floor);
        self.failures = self.failures.saturating_add(1);
        let span = ceiling.saturating_sub(self.pace.floor);
        self.pace.floor + span.mul_f64(self.dice.draw())
    }

    /// Forgets the failures: the next wait is a first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last reset.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// Chance as a pure value: the same seed, the same throws (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// All throws follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed for somebody else: what follows from it has nothing to do with what follows here.
    pub fn seed(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn draw(&mut self) -> f64 {
        // 53 bits: what a double holds exactly.
        (self.seed() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform below `end`; 0 for an `end` of 0.
    pub fn below(&mut self, end: usize) -> usize {
        // Cut, not rounded: always below.
        (self.draw() * end as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_wait_is_between_the_floor_and_the_ceiling_of_its_try(seed: u64, tries in 1_usize..80) {
            let mut backoff = Backoff::new(Pace::NETWORK, seed);
            for attempt in 0..tries {
                let wait = backoff.next_wait();
                let ceiling = Pace::NETWORK.base.saturating_mul(1 << attempt.min(20)).min(Pace::NETWORK.cap);
                prop_assert!(wait >= Pace::NETWORK.floor && wait <= ceiling);
            }
            backoff.reset();
            prop_assert!(backoff.next_wait() <= Pace::NETWORK.base);
        }
    }

    #[test]
    fn two_seeds_do_not_march_in_step() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Pace::NETWORK, seed);
            (0..8).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
