//! Scenes with a script: each of the failures that have a name, played for some seeds.

use crate::cluster;
use crate::host::{self, Host};
use crate::plan::Step;
use crate::wire::Wire;
use crate::world::World;
use outrigger::descriptor::spec::OnFailure;
use outrigger::registry::Like;
use std::time::Duration;

const fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Each scene is played with these: more where more seeds are asked for.
fn seeds() -> std::ops::Range<u64> {
    0..(crate::variable("SIM_SEEDS").unwrap_or(0) / 50).clamp(5, 20)
}

#[test]
fn a_rolling_restart_of_the_servers_hides_no_instance_for_a_moment() {
    for seed in seeds() {
        let mut world = World::staged(seed, 3, 2, seed % 2 == 0, 0);
        world.pass(s(20));
        assert!(world.is_whole());
        for n in 0..3 {
            world.step(Step::Kill(n));
            let takes = world.wire.between(s(10), s(35));
            let rests = world.wire.between(s(15), s(40));
            world.step(Step::Start(n, takes));
            let end = world.wire.now + takes + rests;
            while world.wire.now < end {
                world.pass(ms(100));
                for m in 0..3 {
                    if world.cluster.is_up(m) {
                        let missing = world.missing(m, false);
                        assert!(
                            missing.is_empty(),
                            "seed {seed}, node {m}: {missing:?} missing at {:?}\n{}",
                            world.wire.now,
                            world.wire.trace().join("\n")
                        );
                    }
                }
            }
            assert!(world.is_whole(), "seed {seed}");
        }
    }
}

#[test]
fn after_a_split_every_instance_is_listed_everywhere_soon_after_it_heals() {
    let mut longest = Duration::ZERO;
    for seed in seeds() {
        let mut world = World::staged(seed, 3, 2, seed % 2 == 0, 1);
        world.pass(s(20));
        let apart = world.wire.dice.below(3);
        // One host hears one side alone.
        for n in (0..3).filter(|n| *n != apart) {
            world.step(Step::Cut(1, n));
        }
        world.step(Step::Split(apart));
        world.pass(s(45));
        world.step(Step::Publish(0));
        world.step(Step::Heal);
        for n in 0..3 {
            world.step(Step::Join(1, n));
        }
        // Nodes drop instances for 6 s, and one may not reach the others for 24 s.
        world.pass(s(6));
        longest = longest.max(world.until(s(40), World::is_whole));
        world.pass(s(30));
        assert!(world.is_whole(), "seed {seed}");
    }
    eprintln!("the slowest was whole {longest:?} after the nodes had dropped what they drop");
}

#[test]
fn a_registry_that_is_absent_at_the_start_has_everything_a_moment_after_it_comes() {
    let mut took = Vec::new();
    for seed in seeds() {
        let mut world = World::staged(seed, 1, 2, false, 1);
        world.step(Step::Kill(0));
        world.step(Step::Publish(0));
        world.pass(s(60) * (1 + seed as u32 % 5));
        world.step(Step::Start(0, s(10)));
        world.pass(s(10));
        took.push(world.until(s(5), World::is_whole));
        world.until(s(10), |world| {
            world
                .hosts
                .iter()
                .all(|host| host.files[0].content.is_some())
        });
    }
    tell(
        "listed after a registry came that was absent at the start",
        took,
    );
}

#[test]
fn a_registry_that_returns_empty_is_told_everything_within_one_beat() {
    let mut took = Vec::new();
    for seed in seeds() {
        let mut world = World::staged(seed, 1, 2, false, 0);
        world.pass(s(20) + ms(211 * seed));
        world.step(Step::Kill(0));
        // From a restart that hardly anybody notices to one of minutes.
        let takes = [ms(50), s(2), s(40), s(240)][seed as usize % 4];
        world.step(Step::Start(0, takes));
        world.pass(takes + ms(1));
        took.push(world.until(s(6), World::is_whole));
    }
    tell("listed after a registry returned empty", took);
}

/// What a scene took, for whoever asks how good it is.
fn tell(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{what}: {median:?} in the median, {last:?} at most");
}

#[test]
fn the_health_of_persistent_instances_that_a_restart_lost_is_told_again() {
    for seed in seeds() {
        let nodes = if seed % 2 == 0 { 1 } else { 3 };
        let mut world = World::staged(seed, nodes, 2, true, 0);
        world.pass(s(20));
        for n in 0..nodes {
            world.step(Step::Kill(n));
        }
        for n in 0..nodes {
            world.step(Step::Start(n, s(10)));
        }
        world.pass(s(16));
        let took = world.until(s(25), World::is_whole);
        world.pass(s(60));
        assert!(world.is_whole(), "seed {seed}, after {took:?}");
    }
}

#[test]
fn whose_probe_never_passed_is_never_listed() {
    for seed in seeds() {
        let mut world = World::staged(seed, 3, 1, true, 0);
        world.hosts[0].crash(&mut world.wire);
        for wanted in &mut world.hosts[0].services {
            wanted.answers = false;
        }
        world.step(Step::Boot(0));
        for _ in 0..60 {
            world.pass(s(1));
            for n in 0..3 {
                assert_eq!(world.missing(n, false).len(), 3, "seed {seed}");
            }
        }
    }
}

#[test]
fn whoever_leaves_in_order_is_gone_at_once_and_whoever_is_killed_when_the_servers_miss_it() {
    for seed in seeds() {
        let mut world = World::staged(seed, 3, 2, false, 0);
        world.pass(s(20));
        world.step(Step::Leave(0));
        world.step(Step::Crash(1));
        world.until(s(4), |world| {
            (0..3).all(|n| world.missing(n, false) == ["orders:8000", "billing:8001"])
        });
        world.pass(s(10));
        world.until(s(22), |world| {
            (0..3).all(|n| world.missing(n, false).len() == 4)
        });
        world.pass(s(60));
        assert!(
            (0..3).all(|n| world.missing(n, false).len() == 4),
            "seed {seed}"
        );
    }
}

#[test]
fn a_reload_that_fails_is_due_until_it_succeeds() {
    for seed in seeds() {
        let mut world = World::staged(seed, 1, 1, false, 3);
        for file in 0..3 {
            world.step(Step::Publish(file));
        }
        world.until(s(10), |world| {
            let files = &world.hosts[0].files;
            files
                .iter()
                .all(|file| file.loaded.is_some() && file.loaded == file.content)
        });
        world.step(Step::Reloads(0, 0, false));
        world.step(Step::Publish(0));
        world.pass(s(60));
        let files = &world.hosts[0].files;
        assert!(files[0].loaded != files[0].content, "seed {seed}");
        world.step(Step::Reloads(0, 0, true));
        world.until(s(300), |world| {
            world.hosts[0].files[0].loaded == world.hosts[0].files[0].content
        });
    }
}

#[test]
fn a_step_of_the_wall_clock_hides_no_instance_and_holds_up_no_file() {
    const DAY: i64 = 86_400_000;
    for seed in seeds() {
        let nodes = if seed % 2 == 0 { 1 } else { 3 };
        let mut world = World::staged(seed, nodes, 2, false, 1);
        world.step(Step::Publish(0));
        world.pass(s(20));
        assert!(world.is_whole(), "seed {seed}");
        // Back twice: what is published then is older than what every agent has.
        for by in [DAY, -2 * DAY, -DAY, 3 * DAY] {
            world.cluster.step_clocks(by);
            let before = world.hosts[0].files[0].content.clone();
            world.step(Step::Publish(0));
            world.until(s(30), |world| {
                let file = &world.hosts[0].files[0];
                file.content != before && file.loaded == file.content
            });
            let end = world.wire.now + s(40);
            while world.wire.now < end {
                world.pass(ms(100));
                assert!(world.is_whole(), "seed {seed}, after a step of {by} ms");
            }
        }
    }
}

#[test]
fn a_thousand_agents_do_not_return_in_the_same_moment() {
    const AGENTS: usize = 1_000;
    let mut wire = Wire::new(1, AGENTS, false);
    let cluster = cluster::Cluster::new(&mut wire, 1, Like::V2_5);
    let hosts = (0..AGENTS).map(|number| {
        let port = 1_000 + number as u16;
        let orders = host::service("orders", port, true, OnFailure::Deregister);
        Host::new(number, 1, vec![orders], Vec::new())
    });
    let hosts = hosts.collect();
    let mut world = World::new(wire, cluster, hosts);
    for number in 0..AGENTS {
        let wait = world.wire.millis(0, 5_000);
        world.plan(vec![(wait, Step::Boot(number))]);
    }
    world.pass(s(12));
    assert!(world.is_whole());
    world.step(Step::Kill(0));
    world.step(Step::Start(0, s(60)));
    world.pass(s(60));
    let mut busiest = 0;
    for _ in 0..50 {
        let before: u64 = world.wire.sent.iter().sum();
        world.pass(ms(100));
        busiest = busiest.max(world.wire.sent.iter().sum::<u64>() - before);
    }
    eprintln!("a thousand agents sent at most {busiest} requests in a tenth of a second");
    // Each knocks, is told the version, and registers: in the mean within the two seconds of the knocks and of what follows.
    assert!(busiest < 400, "{busiest} in a tenth of a second");
    assert!(world.is_whole());
}
