//! Registries that are away, return empty, or take their time: what is wanted is there again soon, and nobody is disturbed.

use crate::bad::{Bad, ok, parameter, properly};
use crate::support::{Agent, App, LONG, Registry, free_port, stays, until};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// So long that every wait between two tries has grown beyond the bound that is asserted.
const AWAY: Duration = Duration::from_secs(12);
/// A registry that is back is told everything within this (the aim is one second; a busy machine is given more).
const TOLD: Duration = Duration::from_secs(4);

fn settings(port: u16, app: u16) -> Agent {
    let agent = Agent::prepare(&[format!("http://127.0.0.1:{port}")], "");
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "services:\n  - {{ name: orders, port: {app} }}\n  - {{ name: kept, port: {app}, ephemeral: false }}\n\
             configs:\n  - data_id: orders.yaml\n    path: {}\n",
            agent.path("orders.yaml").display()
        ),
    );
    agent
}

/// Everything of [`settings`] is as wanted.
fn until_all_told(registry: &Registry, agent: &Agent, content: &str) {
    registry.until_listed("orders", 1, TOLD);
    registry.until_listed("kept", 1, TOLD);
    registry.publish("orders.yaml", content);
    until("the file is there", TOLD, || {
        match agent.read("orders.yaml") {
            text if text == content => Ok(()),
            text => Err(text),
        }
    });
}

#[test]
fn a_registry_that_is_absent_for_long_and_returns_empty_is_told_everything_at_once() {
    let (port, app) = (free_port(), App::start());
    let mut agent = settings(port, app.port);
    agent.start();
    agent.until_state("services", "orders", "unreachable");
    stays("the agent lives and says so", AWAY, || {
        let status = agent.status()?;
        let said = status["registry"]["state"] == "unreachable";
        if said {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    let registry = Registry::start_on(port);
    until_all_told(&registry, &agent, "greeting: hello\n");
    drop(registry);
    agent.until_state("services", "orders", "unreachable");
    stays("the file is as it was", AWAY, || {
        match agent.read("orders.yaml") {
            text if text == "greeting: hello\n" => Ok(()),
            text => Err(text),
        }
    });
    let registry = Registry::start_on(port);
    until_all_told(&registry, &agent, "greeting: again\n");
}

#[test]
fn a_registry_that_takes_two_seconds_hears_of_500_services_in_time() {
    const SERVICES: u16 = 500;
    let beats: Arc<Mutex<BTreeMap<u16, (Instant, Duration)>>> = Arc::default();
    let heard = Arc::clone(&beats);
    let slow = Bad::start(move |line| {
        if line.starts_with("PUT /nacos/v1/ns/instance/beat") {
            let now = Instant::now();
            let mut heard = heard.lock().unwrap();
            let (last, longest) = heard
                .entry(parameter(line, "port").parse().unwrap())
                .or_insert((now, Duration::ZERO));
            *longest = now.duration_since(*last).max(*longest);
            *last = now;
        }
        // The fault itself: this server needs two seconds for everything.
        thread::sleep(Duration::from_secs(2));
        match line {
            line if line.starts_with("PUT /nacos/v1/ns/instance/beat") => {
                ok(r#"{"clientBeatInterval":5000,"code":10200,"lightBeatEnabled":true}"#)
            }
            line => properly(line),
        }
    });
    let mut agent = Agent::prepare(&[slow.url()], "  write_rate: 1000\n");
    let services: String = (1..=SERVICES)
        .map(|port| format!("  - {{ name: orders, port: {port}, probe: none }}\n"))
        .collect();
    agent.write("conf.d/orders.yaml", &format!("services:\n{services}"));
    agent.start();
    until("all of them beat", 4 * LONG, || {
        match beats.lock().unwrap().len() {
            count if count == usize::from(SERVICES) => Ok(()),
            count => Err(format!("{count} beat")),
        }
    });
    let began = Instant::now();
    until("three more rounds", 4 * LONG, || {
        let late = beats.lock().unwrap().values().map(|(last, _)| *last).min();
        if late.unwrap().saturating_duration_since(began) > Duration::from_secs(15) {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    let longest = beats
        .lock()
        .unwrap()
        .values()
        .map(|(_, longest)| *longest)
        .max()
        .unwrap();
    assert!(
        longest < Duration::from_secs(12),
        "silent for {longest:?}; the registry allows 15 s"
    );
    agent.admin("GET", "/livez").unwrap();
}
