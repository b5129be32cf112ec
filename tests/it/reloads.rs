//! When applications are told: together, not too often, and in a fleet one after the other.

use crate::support::{Agent, LONG, Registry, free_port, http, run_as, until};
use nix::sys::signal::Signal;
use std::{fs, path::Path, time::Duration};

/// A turn that passes on from hand to hand, or from a dead one.
const TURNS: Duration = Duration::from_secs(150);

/// A reload that says when it begins and ends, and by whom.
fn tells(log: &Path, name: &str, lasts: &str) -> String {
    let log = log.display();
    format!(
        "exec: [sh, -c, \"echo begin {name} >> {log}; sleep {lasts}; echo end {name} >> {log}\"], timeout: 3s, {}",
        run_as()
    )
}

fn describe(agent: &Agent, data_id: &str, reload: &str) {
    let path = agent.path(data_id);
    let text = format!(
        "configs:\n  - data_id: {data_id}\n    path: {}\n    reload: {{ {reload} }}\n",
        path.display()
    );
    agent.write(&format!("conf.d/{data_id}"), &text);
}

/// How often it began, and how many were under way at once at most. Who was killed in the middle of it has ended.
fn seen(log: &Path, killed: &str) -> (Vec<String>, usize) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let (mut began, mut running, mut most) = (Vec::new(), Vec::new(), 0);
    for line in text.lines() {
        let (what, name) = line.split_once(' ').unwrap();
        if what == "begin" {
            running.retain(|one| *one != killed);
            began.push(name.to_owned());
            running.push(name);
            most = most.max(running.len());
        } else {
            running.retain(|one| *one != name);
        }
    }
    (began, most)
}

/// `count` agents whose applications are one fleet: one by one, also when the one whose turn it is dies.
fn a_fleet_reloads_one_by_one(transport: &str, count: usize) {
    let registry = Registry::start_on(free_port());
    registry.publish("orders.yaml", "one");
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let url = format!("http://127.0.0.1:{}", registry.port);
    let mut agents: Vec<Agent> = (0..count)
        .map(|number| {
            let more = format!("  transport: {transport}\n");
            let mut agent = Agent::prepare(std::slice::from_ref(&url), &more);
            let reload = tells(&log, &number.to_string(), "0.7");
            let fleet = "fleet: { at_most: 1, service: orders, then: wait }";
            describe(&agent, "orders.yaml", &format!("{reload}, {fleet}"));
            agent.start();
            agent
        })
        .collect();
    let mut was_shown = false;
    until("all have reloaded", TURNS, || {
        was_shown |= agents.iter().any(|agent| {
            let shown = agent
                .status()
                .map(|status| status["configs"][0].to_string());
            shown.is_ok_and(|text| text.contains("it waits for its turn: "))
        });
        match seen(&log, "") {
            (began, _) if began.len() == count => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for agent in &agents {
        agent.until_state("configs", "orders.yaml", "applied");
    }
    assert!(was_shown, "who waits says so");
    assert_eq!(seen(&log, "").1, 1);
    registry.publish("orders.yaml", "two");
    let holder = until("somebody has his turn", TURNS, || {
        let (began, _) = seen(&log, "");
        began.get(count).cloned().ok_or(format!("{began:?}"))
    });
    let killed: usize = holder.parse().unwrap();
    drop(agents.remove(killed));
    until("the others have had theirs", TURNS, || {
        match seen(&log, &holder) {
            (began, _) if began.len() == 2 * count => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for agent in &agents {
        agent.until_state("configs", "orders.yaml", "applied");
        assert_eq!(agent.read("orders.yaml"), "two");
    }
    assert_eq!(seen(&log, &holder).1, 1);
    // Nobody leaves a ticket behind.
    registry.until_listed("outrigger-turns-orders", 0, TURNS);
}

#[test]
fn a_fleet_reloads_one_by_one_over_grpc_and_a_dead_holders_turn_passes_on() {
    a_fleet_reloads_one_by_one("grpc", 5);
}

#[test]
fn a_fleet_reloads_one_by_one_over_http_and_a_dead_holders_turn_passes_on() {
    a_fleet_reloads_one_by_one("http", 5);
}

#[test]
fn two_descriptors_that_tell_the_same_share_its_pause_and_what_waits_outlives_a_term() {
    let registry = Registry::start_on(free_port());
    for data_id in ["a.yaml", "b.yaml"] {
        registry.publish(data_id, "one");
    }
    let mut agent = Agent::of(&registry);
    let log = agent.path("log");
    let reload = tells(&log, "x", "0");
    describe(&agent, "a.yaml", &format!("{reload}, at_most_every: 1h"));
    agent.start();
    agent.until_state("configs", "a.yaml", "applied");
    describe(&agent, "b.yaml", &reload);
    let waits = "written; the reload is due; the next one may begin at ";
    until("it waits", LONG, || {
        let reason = agent.until_state("configs", "b.yaml", "pending")["reason"].to_string();
        let is_said = reason.contains(waits) && reason.contains("(at_most_every)");
        is_said.then_some(()).ok_or(reason)
    });
    let figures = agent.admin("GET", "/metrics").unwrap();
    assert!(figures.contains("outrigger_reloads_waiting 1"), "{figures}");
    assert_eq!(seen(&log, "").0.len(), 1);
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    assert_eq!(seen(&log, "").0.len(), 1);
    // The next run begins with what is due.
    agent.start();
    for data_id in ["a.yaml", "b.yaml"] {
        agent.until_state("configs", data_id, "applied");
    }
    assert_eq!(seen(&log, "").0.len(), 2);
}

#[test]
fn who_leaves_while_he_waits_for_his_turn_leaves_the_line() {
    let registry = Registry::start_on(free_port());
    registry.publish("orders.yaml", "one");
    // Somebody holds the only turn and does not give it back.
    let ticket = "serviceName=outrigger-turns-orders&ip=240.0.0.1&port=1&ephemeral=true&metadata=%7B%22turn.id%22%3A%221%22%2C%22turn.number%22%3A%221%22%2C%22turn.mark%22%3A%221%22%2C%22turn.stage%22%3A%22claim%22%2C%22turn.longest_ms%22%3A%221000%22%7D";
    http(registry.port, "POST", "/nacos/v1/ns/instance", ticket).unwrap();
    let mut agent = Agent::of(&registry);
    let log = agent.path("log");
    let reload = tells(&log, "x", "0");
    let fleet = "fleet: { at_most: 1, service: orders }";
    describe(&agent, "orders.yaml", &format!("{reload}, {fleet}"));
    agent.start();
    until("it waits", LONG, || {
        let reason = agent.until_state("configs", "orders.yaml", "pending")["reason"].to_string();
        let is_said = reason.contains("it waits for its turn: 1 instance of orders is before it")
            && reason.contains("if nothing moves it goes on at ");
        is_said.then_some(()).ok_or(reason)
    });
    until("its ticket is listed", LONG, || {
        let hosts = registry.hosts("outrigger-turns-orders")?;
        (hosts.len() == 2).then_some(()).ok_or(format!("{hosts:?}"))
    });
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    until("its ticket is out", LONG, || {
        let hosts = registry.hosts("outrigger-turns-orders")?;
        (hosts.len() < 2).then_some(()).ok_or(format!("{hosts:?}"))
    });
    assert!(seen(&log, "").0.is_empty());
}
