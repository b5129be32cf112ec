//! A cluster is not one server: the agent before nodes that forward, disagree, hang and lag, as live clusters of 2.5.1 and 3.0.3 did.
//!
//! The nodes are played; what they answer is recorded (`tests/cases/nacos-2.5.1-cluster`). The same rules under random faults and in
//! virtual time are the simulator's.

use crate::bad::{Bad, Play, answer, configuration, ok, parameter, properly};
use crate::support::{Agent, LONG, eventually, stays, until};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const BEAT: &str = "PUT /nacos/v1/ns/instance/beat";
const REGISTER: &str = "POST /nacos/v1/ns/instance";
const DEREGISTER: &str = "DELETE /nacos/v1/ns/instance";
const DETAIL: &str = "GET /nacos/v1/ns/instance?";

/// A recorded answer of a cluster's node: status and body.
fn recorded(name: &str) -> (u16, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases/nacos-2.5.1-cluster")
        .join(format!("{name}.json"));
    let case: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let status = case["response"]["status"].as_u64().unwrap();
    let body = case["response"]["body"].as_str().unwrap().to_owned();
    (u16::try_from(status).unwrap(), body)
}

/// What all nodes play together.
#[derive(Clone, Default)]
struct Troubled(Arc<AtomicBool>);

impl Troubled {
    fn set(&self, troubled: bool) {
        self.0.store(troubled, Ordering::SeqCst);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// An agent with one service, beating every 200 ms, that knows these nodes.
fn agent_of(nodes: &[&Bad], more: &str) -> Agent {
    let urls: Vec<String> = nodes.iter().map(|node| node.url()).collect();
    let mut agent = Agent::prepare(&urls, &format!("  request_timeout: 400ms\n{more}"));
    agent.write(
        "conf.d/orders.yaml",
        "services:\n  - name: orders\n    port: 8080\n    probe: none\n    heartbeat: { interval: 200ms, timeout: 5s, delete_after: 10s }\n",
    );
    agent.start();
    agent
}

fn all(nodes: &[Bad], start: &str) -> usize {
    nodes.iter().map(|node| node.count(start)).sum()
}

/// Three nodes that answer beats and registrations with a recorded answer while there is trouble.
fn three_with(trouble: &'static str) -> (Vec<Bad>, Troubled) {
    let troubled = Troubled::default();
    let nodes = (0..3)
        .map(|_| {
            let troubled = troubled.clone();
            Bad::start(move |line| {
                if troubled.is() && (line.starts_with(BEAT) || line.starts_with(REGISTER)) {
                    let (status, body) = recorded(trouble);
                    return answer(status, "", &body);
                }
                properly(line)
            })
        })
        .collect();
    (nodes, troubled)
}

/// Errors that are another node's are tried again, at every node, and change nothing: no deregistration, no new registration,
/// and when they end all is as before.
fn is_sat_out(trouble: &'static str) {
    let (nodes, troubled) = three_with(trouble);
    let agent = agent_of(&[&nodes[0], &nodes[1], &nodes[2]], "");
    agent.until_state("services", "orders", "registered");
    until("it beats", LONG, || match all(&nodes, BEAT) {
        0..2 => Err("no beats yet".to_owned()),
        _ => Ok(()),
    });
    troubled.set(true);
    let before: Vec<usize> = nodes.iter().map(|node| node.count(BEAT)).collect();
    agent.until_state("services", "orders", "unreachable");
    until("every node is asked, again and again", LONG, || {
        let after: Vec<usize> = nodes.iter().map(|node| node.count(BEAT)).collect();
        let grown = after
            .iter()
            .zip(&before)
            .all(|(after, before)| after > &(before + 2));
        if grown {
            Ok(())
        } else {
            Err(format!("{before:?} {after:?}"))
        }
    });
    troubled.set(false);
    agent.until_state("services", "orders", "registered");
    assert_eq!(all(&nodes, DEREGISTER), 0, "nothing was taken out");
    assert_eq!(all(&nodes, REGISTER), 1, "nothing was registered anew");
}

#[test]
fn a_500_for_a_dead_neighbour_is_retried_at_other_nodes_and_changes_nothing_else() {
    is_sat_out("beat-responsible-dead");
}

#[test]
fn the_odd_400_of_nodes_that_disagree_is_retried_and_changes_nothing_else() {
    is_sat_out("beat-invalid-redirect");
}

#[test]
fn a_registration_for_a_dead_neighbour_is_retried_until_it_is_taken() {
    let (nodes, troubled) = three_with("register-responsible-dead");
    troubled.set(true);
    let agent = agent_of(&[&nodes[0], &nodes[1], &nodes[2]], "");
    agent.until_state("services", "orders", "unreachable");
    troubled.set(false);
    agent.until_state("services", "orders", "registered");
}

#[test]
fn a_node_that_hangs_costs_one_time_out_and_the_next_one_hears_the_beat() {
    let hangs = Bad::start(|_| Play::Silence);
    let works = Bad::start(properly);
    let agent = agent_of(&[&hangs, &works], "");
    agent.until_state("services", "orders", "registered");
    until("it beats", LONG, || match works.count(BEAT) {
        0..5 => Err(String::new()),
        _ => Ok(()),
    });
    let asked = hangs.asked.lock().unwrap().len();
    assert!(asked <= 4, "the node that hangs was asked {asked} times");
}

#[test]
fn readiness_is_never_asked_for_and_no_reason_to_stop_beating() {
    let node = Bad::start(|line| {
        if line.contains("readiness") {
            return answer(500, "", "config not in readiness");
        }
        properly(line)
    });
    let agent = agent_of(&[&node], "");
    agent.until_state("services", "orders", "registered");
    until("it beats", LONG, || match node.count(BEAT) {
        0..5 => Err(String::new()),
        _ => Ok(()),
    });
    let asked = node.asked.lock().unwrap().clone();
    assert!(
        !asked.iter().any(|line| line.contains("readiness")),
        "{asked:?}"
    );
}

#[test]
fn no_verdict_comes_from_a_list_before_3_s_after_a_registration() {
    let began = Arc::new(Mutex::new(None::<Instant>));
    let (registered, read) = (Arc::clone(&began), Arc::new(Mutex::new(None::<Duration>)));
    let seen = Arc::clone(&read);
    let node = Bad::start(move |line| {
        if line.starts_with(REGISTER) {
            registered.lock().unwrap().get_or_insert_with(Instant::now);
        }
        if line.starts_with(DETAIL) {
            let since = registered.lock().unwrap().unwrap().elapsed();
            seen.lock().unwrap().get_or_insert(since);
        }
        properly(line)
    });
    let agent = agent_of(&[&node], "");
    agent.until_state("services", "orders", "registered");
    let first = eventually("it is read back", LONG, || *read.lock().unwrap());
    assert!(first >= Duration::from_secs(3), "{first:?}");
}

#[test]
fn leaving_waits_until_no_node_lists_it() {
    let slow = Troubled::default();
    slow.set(true);
    let lists = slow.clone();
    let quick = Bad::start(|line| match line {
        line if line.starts_with(DETAIL) => answer(404, "", "no matched ip found!"),
        line => properly(line),
    });
    let lags = Bad::start(move |line| match line {
        line if line.starts_with(DETAIL) && !lists.is() => answer(404, "", "no matched ip found!"),
        line => properly(line),
    });
    let mut agent = agent_of(&[&quick, &lags], "");
    agent.until_state("services", "orders", "registered");
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    until("the one that lags is asked again", LONG, || {
        match lags.count(DETAIL) {
            0..3 => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    });
    assert_eq!(
        agent.status().unwrap()["services"][0]["state"],
        "draining",
        "one node lists it still"
    );
    slow.set(false);
    assert_eq!(agent.ended(LONG).code(), Some(0));
}

/// A node that has one version of `orders.yaml`, published in that second of a minute, and tells a listener who has another one.
fn node_with(content: Arc<Mutex<(&'static str, u32)>>) -> Bad {
    Bad::start_hearing(move |line, body| {
        let (text, second) = *content.lock().unwrap();
        if line.starts_with("GET /nacos/v1/cs/configs") {
            let headers = format!(
                "Content-MD5: 0\r\nLast-Modified: Sun, 22 Nov 2026 07:36:{second:02} GMT\r\n"
            );
            return answer(200, &headers, text);
        }
        if line.starts_with("POST /nacos/v1/cs/configs/listener") {
            if !body.contains(&outrigger::nacos::wire::md5_hex(text.as_bytes())) {
                return ok("orders.yaml%02DEFAULT_GROUP%01");
            }
            // A hold that ends without news, soon.
            thread::sleep(Duration::from_millis(1100));
            return ok("");
        }
        properly(line)
    })
}

#[test]
fn a_node_that_missed_a_change_never_turns_the_file_back() {
    let [new, old, also_new] = [
        ("version: 2\n", 40),
        ("version: 1\n", 10),
        ("version: 2\n", 40),
    ]
    .map(|has| Arc::new(Mutex::new(has)));
    let contents = [&new, &old, &also_new].map(Arc::clone);
    let nodes = contents.map(node_with);
    let urls: Vec<String> = nodes.iter().map(Bad::url).collect();
    let mut agent = Agent::prepare(&urls, "  request_timeout: 400ms\n");
    let path = agent.path("orders.yaml");
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "configs:\n  - data_id: orders.yaml\n    path: {}\n",
            path.display()
        ),
    );
    agent.start();
    until("the new version is there", LONG, || {
        match agent.read("orders.yaml") {
            text if text == "version: 2\n" => Ok(()),
            text => Err(text),
        }
    });
    let fetches = || nodes[1].count("GET /nacos/v1/cs/configs");
    let before = fetches();
    until(
        "the node that missed the change was asked",
        LONG,
        || match fetches() {
            count if count > before => Ok(()),
            _ => Err("not since".to_owned()),
        },
    );
    stays("the new version", Duration::from_secs(1), || {
        match agent.read("orders.yaml") {
            text if text == "version: 2\n" => Ok(()),
            text => Err(text),
        }
    });
    // The same words published again are news: their date says so.
    for has in [&new, &old, &also_new] {
        *has.lock().unwrap() = ("version: 1\n", 50);
    }
    until("what was published again is there", LONG, || {
        match agent.read("orders.yaml") {
            text if text == "version: 1\n" => Ok(()),
            text => Err(text),
        }
    });
}

#[test]
fn a_configuration_is_asked_for_at_every_node_in_turn() {
    let nodes: Vec<Bad> = (0..3)
        .map(|_| {
            Bad::start(|line| match line {
                line if line.starts_with("GET /nacos/v1/cs/configs") => {
                    configuration("greeting: hello\n")
                }
                // A hold that is over at once, with a length so that the next poll follows.
                line if line.starts_with("POST /nacos/v1/cs/configs/listener") => ok(""),
                line => properly(line),
            })
        })
        .collect();
    let urls: Vec<String> = nodes.iter().map(Bad::url).collect();
    let mut agent = Agent::prepare(&urls, "  request_timeout: 400ms\n");
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "configs:\n  - data_id: orders.yaml\n    path: {}\n",
            agent.path("orders.yaml").display()
        ),
    );
    agent.start();
    until("every node was listened to", LONG, || {
        let polls = |node: &Bad| node.count("POST /nacos/v1/cs/configs/listener");
        match nodes.iter().map(polls).collect::<Vec<_>>() {
            counts if counts.iter().all(|count| *count > 0) => Ok(()),
            counts => Err(format!("{counts:?}")),
        }
    });
    assert!(
        nodes
            .iter()
            .all(|node| parameter(&node.asked.lock().unwrap()[0], "x").is_empty())
    );
}
