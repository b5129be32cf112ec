//! The simulator: the very machines of agent and registry over a virtual network, disk and clock, with faults thrown by a seed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and says so; its only clock beside the virtual one says how fast it is"
)]

mod cluster;
mod host;
mod laws;
mod plan;
mod scenes;
mod wire;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};
use world::{End, World};

/// Rounds of an hour.
const HOUR: u32 = 3;
/// So many seeds without `SIM_SEEDS`: what an unoptimised build plays in half a minute.
const SEEDS: u64 = 25;

/// A number from the environment.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn play(seed: u64, traced: bool) -> End {
    let mut world = World::thrown(seed, HOUR, traced);
    world.play(plan::ROUND * HOUR);
    world.end()
}

/// Plays a seed again, for its trace.
fn tell(seed: u64) -> String {
    let trace = match catch_unwind(AssertUnwindSafe(|| play(seed, true))) {
        Ok(end) => end.trace.join("\n"),
        Err(_) => "(it panics)".to_owned(),
    };
    format!("{trace}\nplay it again: SIM_SEED={seed} cargo test --test sim seeds -- --nocapture\n")
}

#[test]
fn seeds_of_a_simulated_hour_keep_the_laws() {
    let (first, count) = match variable("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, variable("SIM_SEEDS").unwrap_or(SEEDS)),
    };
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let broken: Mutex<Vec<(u64, String)>> = Mutex::default();
    let (sent, busiest) = (AtomicU64::new(0), AtomicU64::new(0));
    let (calm, most) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let why = match catch_unwind(|| play(seed, false)) {
                        Ok(end) => {
                            sent.fetch_add(end.sent, Ordering::Relaxed);
                            busiest.fetch_max(end.busiest, Ordering::Relaxed);
                            calm.fetch_max(end.busiest_calm, Ordering::Relaxed);
                            most.fetch_max(end.most, Ordering::Relaxed);
                            end.broken
                        }
                        Err(_) => Some("it panics".to_owned()),
                    };
                    if let Some(why) = why {
                        broken.lock().unwrap().push((seed, why));
                    }
                }
            });
        }
    });
    let mut broken = broken.into_inner().unwrap();
    broken.sort();
    eprintln!(
        "{count} simulated hours in {:?}: {} requests; of one host at most {}, and at most {} in {:?} ({} in calm); {} broken",
        began.elapsed(),
        sent.into_inner(),
        most.into_inner(),
        busiest.into_inner(),
        laws::LOOK,
        calm.into_inner(),
        broken.len(),
    );
    for (seed, why) in broken.iter().take(10) {
        eprintln!("seed {seed}: {why}");
    }
    if let Some((seed, why)) = broken.first() {
        panic!("{}\nseed {seed}: {why}", tell(*seed));
    }
}

#[test]
fn a_seed_plays_the_same_way_twice() {
    for seed in [1, 2, 3] {
        assert_eq!(play(seed, true), play(seed, true));
    }
}
