//! Persistent instances: the probe's verdict is their health in the registry, and they stay listed until somebody takes them out.

use crate::support::{Agent, App, LONG, Proxy, Registry, free_port, http, until};
use serde_json::Value;

/// The health the registry has, from the detail: the list masks it. `None` when there is no such instance.
fn health(registry: &Registry, port: u16) -> Option<bool> {
    let query = format!("instance?serviceName=orders&ip=127.0.0.1&port={port}");
    let detail = |path: &str| -> Option<Value> {
        let answer = http(registry.port, "GET", &format!("/nacos/{path}/{query}"), "");
        serde_json::from_str(&answer.ok()?).ok()
    };
    // 3.0 has it in an envelope.
    let found = detail("v1/ns").or_else(|| detail("v3/admin/ns"))?;
    let detail = found.get("data").unwrap_or(&found);
    detail["healthy"].as_bool()
}

fn until_health(registry: &Registry, port: u16, wanted: Option<bool>) {
    until(
        &format!("the health of {port} is {wanted:?}"),
        LONG,
        || match health(registry, port) {
            seen if seen == wanted => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    );
}

/// Settings and one persistent service whose application is on `port`; `through` is where the registry is reached.
fn prepare(through: u16, port: u16) -> Agent {
    of(&[format!("http://127.0.0.1:{through}")], "", port)
}

fn of(servers: &[String], more: &str, port: u16) -> Agent {
    let agent = Agent::prepare(servers, more);
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "services:\n  - name: orders\n    port: {port}\n    ephemeral: false\n    probe: {{ tcp: {{}}, interval: 100ms }}\n"
        ),
    );
    agent
}

/// A registry with the manners of this generation.
fn like(generation: &str) -> Registry {
    Registry::start_with(free_port(), &["--like", generation])
}

#[test]
fn the_verdict_of_the_probe_is_the_health_on_1_4() {
    // There registering again does not change the health: it is set by hand.
    let by_hand = lives_and_leaves("1.4");
    assert_eq!(
        by_hand, 2,
        "once for each change, and not for what was registered so"
    );
}

#[test]
fn the_verdict_of_the_probe_is_the_health_on_2_5() {
    assert_eq!(
        lives_and_leaves("2.5"),
        0,
        "there it is refused, and not tried"
    );
}

#[test]
fn the_verdict_of_the_probe_is_the_health_on_3_0_and_over_grpc() {
    for (generation, transport) in [("3.0", "http"), ("3.0", "grpc"), ("2.5", "grpc")] {
        let (registry, app) = (like(generation), App::start());
        let port = app.port;
        let server = format!("http://127.0.0.1:{}", registry.port);
        let mut agent = of(&[server], &format!("  transport: {transport}\n"), port);
        agent.start();
        until_health(&registry, port, Some(true));
        drop(app);
        until_health(&registry, port, Some(false));
        agent.until_state("services", "orders", "unhealthy");
        let app = App::start_on(port);
        until_health(&registry, port, Some(true));
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(
            agent.ended(LONG).code(),
            Some(0),
            "{generation} {transport}"
        );
        assert_eq!(health(&registry, port), None);
        drop(app);
    }
}

/// Nothing is taken out before the end; answers how often the health was set by hand.
fn lives_and_leaves(generation: &str) -> usize {
    let (registry, app) = (like(generation), App::start());
    let port = app.port;
    let proxy = Proxy::to(registry.port);
    let mut agent = prepare(proxy.port, port);
    agent.start();
    until_health(&registry, port, Some(true));
    let order = |word: &[&str]| {
        let requests = proxy.requests();
        requests
            .iter()
            .position(|line| word.iter().all(|word| line.contains(word)))
            .unwrap_or_else(|| panic!("{word:?} in {requests:#?}"))
    };
    let (service, checker, instance) = (
        order(&["POST", "/v1/ns/service"]),
        order(&["PUT", "/v1/ns/cluster", "NONE"]),
        order(&["POST", "/v1/ns/instance"]),
    );
    assert!(service < checker && checker < instance);
    drop(app);
    until_health(&registry, port, Some(false));
    agent.until_state("services", "orders", "unhealthy");
    let app = App::start_on(port);
    until_health(&registry, port, Some(true));
    assert_eq!(proxy.count(&["PUT", "/v1/ns/cluster"]), 1, "prepared once");
    assert_eq!(proxy.count(&["DELETE"]), 0);
    assert_eq!(proxy.count(&["/instance/beat"]), 0, "nobody beats for it");
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.ended(LONG).code(), Some(0));
    assert_eq!(health(&registry, port), None);
    drop(app);
    proxy.count(&["PUT", "/v1/ns/health/instance"])
}

/// A registry in which a killed agent left its application listed as healthy, which has died since.
fn left_behind() -> (Registry, Agent, u16) {
    let (registry, app) = (Registry::start(), App::start());
    let port = app.port;
    let mut agent = prepare(registry.port, port);
    agent.start();
    until_health(&registry, port, Some(true));
    agent.signal(nix::sys::signal::Signal::SIGKILL);
    agent.ended(LONG);
    drop(app);
    let left = health(&registry, port);
    assert_eq!(left, Some(true), "nobody told the registry");
    (registry, agent, port)
}

#[test]
fn what_a_killed_agent_left_healthy_is_set_right_by_the_next_one() {
    let (registry, mut agent, port) = left_behind();
    agent.start();
    until_health(&registry, port, Some(false));
    agent.until_state("services", "orders", "unhealthy");
}

#[test]
fn what_a_killed_agent_left_is_taken_out_when_the_next_one_leaves_before_its_probe_passed() {
    let (registry, mut agent, port) = left_behind();
    agent.start();
    until("the next one lives", LONG, || agent.admin("GET", "/readyz"));
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.ended(LONG).code(), Some(0));
    assert_eq!(health(&registry, port), None);
}

#[test]
fn a_service_that_never_passed_is_not_made() {
    let registry = Registry::start();
    let port = free_port();
    let mut agent = prepare(registry.port, port);
    agent.start();
    let waiting = agent.until_state("services", "orders", "waiting");
    assert!(waiting["reason"].as_str().is_some(), "{waiting}");
    until("its probe failed", LONG, || {
        let state = agent.until_state("services", "orders", "waiting");
        match state["probe"].as_str() {
            Some(words) if words.contains("refused x") => Ok(()),
            _ => Err(state.to_string()),
        }
    });
    assert!(
        http(
            registry.port,
            "GET",
            "/nacos/v1/ns/service?serviceName=orders",
            ""
        )
        .is_err()
    );
}

#[test]
fn a_health_the_registry_lost_or_an_instance_it_forgot_is_told_again() {
    let (registry, app) = (Registry::start(), App::start());
    let port = app.port;
    let mut agent = prepare(registry.port, port);
    agent.start();
    until_health(&registry, port, Some(true));
    // As after the restart of a whole cluster: the instance is there, its health is not.
    let path = format!(
        "/nacos/v1/ns/instance?serviceName=orders&ip=127.0.0.1&port={port}&ephemeral=false"
    );
    http(registry.port, "POST", &format!("{path}&healthy=false"), "").unwrap();
    assert_eq!(health(&registry, port), Some(false));
    until_health(&registry, port, Some(true));
    http(registry.port, "DELETE", &path, "").unwrap();
    assert_eq!(health(&registry, port), None);
    until_health(&registry, port, Some(true));
    let history = agent.status().unwrap()["services"][0]["history"].to_string();
    assert!(history.contains("had another health for it"), "{history}");
    assert!(history.contains("had lost it"), "{history}");
}

#[test]
fn beside_ephemeral_instances_it_is_refused_before_anything_is_written() {
    let (registry, app) = (Registry::start(), App::start());
    let other = "/nacos/v1/ns/instance?serviceName=orders&ip=10.0.0.9&port=1";
    http(registry.port, "POST", other, "").unwrap();
    let proxy = Proxy::to(registry.port);
    let mut agent = prepare(proxy.port, app.port);
    agent.start();
    let refused = agent.until_state("services", "orders", "refused");
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("instances of one kind only"), "{reason}");
    assert_eq!(
        proxy.count(&["PUT"]) + proxy.count(&["POST"]),
        0,
        "nothing was written"
    );
}
