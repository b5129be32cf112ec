//! The agent over gRPC before a registry that dies, comes back, sends it elsewhere, falls mute or fails its calls: what is wanted
//! is listed in the end, once, and nobody who reads a list sees a gap that could have been avoided.

use crate::support::{Agent, App, LONG, Registry, eventually, free_port, http, said, stays, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Until a silent connection is noticed, another one made, and everything said on it.
const NOTICED: Duration = Duration::from_secs(40);

fn faulty(port: u16, like: &str) -> Registry {
    Registry::start_with(port, &["--faults", "--like", like])
}

fn fault(registry: &Registry, query: &str) {
    let path = format!("/outrigger/faults?{query}");
    http(registry.port, "POST", &path, "").unwrap();
}

/// An agent before these registries, with more settings below `registry`.
fn agent(registries: &[u16], more: &str) -> Agent {
    let urls: Vec<String> = registries
        .iter()
        .map(|port| format!("http://127.0.0.1:{port}"))
        .collect();
    Agent::prepare(&urls, more)
}

/// Writes a descriptor: instances by service and port, and one configuration.
fn describe(agent: &Agent, instances: &[(&str, u16)], more: &str) {
    let mut text = "services:\n".to_owned();
    for (name, port) in instances {
        writeln!(
            text,
            "  - {{ name: {name}, port: {port}, probe: {{ tcp: {{}}, interval: 50ms, rise: 1, fall: 2 }}{more} }}"
        )
        .unwrap();
    }
    let path = agent.path("orders.yaml");
    let file = path.display();
    writeln!(
        text,
        "configs:\n  - {{ data_id: orders.yaml, path: {file} }}"
    )
    .unwrap();
    agent.write("conf.d/orders.yaml", &text);
}

/// The ports of a service as they are listed, twice if they are listed twice.
fn ports(port: u16, service: &str) -> Result<Vec<u16>, String> {
    let path = format!("/nacos/v1/ns/instance/list?serviceName={service}");
    let list: Value =
        serde_json::from_str(&http(port, "GET", &path, "")?).map_err(|e| e.to_string())?;
    let hosts = list["hosts"].as_array().ok_or("no hosts")?;
    let mut ports: Vec<u16> = hosts
        .iter()
        .filter(|host| host["healthy"] == true)
        .filter_map(|host| u16::try_from(host["port"].as_u64()?).ok())
        .collect();
    ports.sort_unstable();
    Ok(ports)
}

/// Exactly these are listed, each once.
fn lists(port: u16, wanted: &[(&str, u16)]) -> Result<(), String> {
    let services: BTreeSet<&str> = wanted.iter().map(|(service, _)| *service).collect();
    for service in services {
        let mut ports_wanted: Vec<u16> = wanted
            .iter()
            .filter(|(name, _)| *name == service)
            .map(|(_, port)| *port)
            .collect();
        ports_wanted.sort_unstable();
        let seen = ports(port, service)?;
        if seen != ports_wanted {
            return Err(format!("{service} {seen:?} in place of {ports_wanted:?}"));
        }
    }
    Ok(())
}

fn until_lists(port: u16, wanted: &[(&str, u16)], within: Duration) {
    until("exactly what is wanted is listed", within, || {
        lists(port, wanted)
    });
}

/// Nothing of these services is listed any more.
fn until_nothing(port: u16, services: &[&str], within: Duration) {
    until("nothing is left", within, || {
        for service in services {
            let left = ports(port, service)?;
            if !left.is_empty() {
                return Err(format!("{service} {left:?}"));
            }
        }
        Ok(())
    });
}

fn until_file(agent: &Agent, text: &str, within: Duration) {
    until("the file is as published", within, || {
        match agent.read("orders.yaml") {
            seen if seen == text => Ok(()),
            seen => Err(seen),
        }
    });
}

/// How often it connected, or tried to, with this outcome.
fn connects(agent: &Agent, outcome: &str) -> u64 {
    let metrics = agent.admin("GET", "/metrics").unwrap();
    let start =
        format!("outrigger_registry_calls_total{{what=\"connect\",outcome=\"{outcome}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.trim().parse().unwrap())
}

fn until_connected_again(agent: &Agent, before: u64) {
    until("there is another connection", NOTICED, || {
        match connects(agent, "ok") {
            now if now > before => Ok(()),
            now => Err(now.to_string()),
        }
    });
}

/// Waits until `status` shows this transport, and answers what it says of the registry.
fn until_speaks(agent: &Agent, transport: &str, version: &str, within: Duration) -> Value {
    let what = format!("it speaks {transport} with {version}");
    until(&what, within, || {
        let registry = agent.status()?["registry"].clone();
        let right = registry["transport"] == transport
            && registry["state"] == "connected"
            && (registry["version"].as_str()).is_some_and(|it| it.starts_with(version));
        if right {
            Ok(registry)
        } else {
            Err(registry.to_string())
        }
    })
}

/// Reads the list again and again, and keeps what was wrong with it.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    gaps: Arc<Mutex<Vec<String>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reader {
    fn start(port: u16, wanted: &[(&'static str, u16)]) -> Self {
        let (stop, reads, gaps) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let (ends, counts, keeps) = (Arc::clone(&stop), Arc::clone(&reads), Arc::clone(&gaps));
        let wanted: Vec<(&str, BTreeSet<u16>)> = wanted
            .iter()
            .map(|(service, _)| {
                let same = wanted.iter().filter(|(name, _)| name == service);
                (*service, same.map(|(_, port)| *port).collect())
            })
            .collect();
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                for (service, wanted) in &wanted {
                    // Twice is no gap: two connections may hold it during a move.
                    let seen = ports(port, service).map(BTreeSet::from_iter);
                    if seen.as_ref() != Ok(wanted) {
                        keeps.lock().unwrap().push(format!("{service} {seen:?}"));
                    }
                    counts.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self {
            stop,
            reads,
            gaps,
            thread: Some(thread),
        }
    }

    /// Ends after some more reads, of which none may have seen a gap.
    fn saw_no_gap(mut self, what: &str) {
        let so_far = self.reads.load(Ordering::SeqCst);
        eventually("the reader reads on", LONG, || {
            (self.reads.load(Ordering::SeqCst) > so_far + 50).then_some(())
        });
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        let gaps = self.gaps.lock().unwrap();
        assert!(gaps.is_empty(), "{what}: a reader saw {gaps:?}");
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Two instances of `orders`, one of `billing`, a configuration; listed.
struct Scene {
    registry: Registry,
    apps: [App; 3],
    agent: Agent,
}

impl Scene {
    fn start() -> Self {
        Self::with("")
    }

    fn with(more: &str) -> Self {
        let registry = faulty(free_port(), "2.5");
        let apps = [App::start(), App::start(), App::start()];
        let mut agent = agent(&[registry.port], &format!("  transport: auto\n{more}"));
        registry.publish("orders.yaml", "greeting: hello\n");
        describe(&agent, &wanted(&apps), "");
        agent.start();
        until_lists(registry.port, &wanted(&apps), LONG);
        until_file(&agent, "greeting: hello\n", LONG);
        until_speaks(&agent, "grpc", "2.5", LONG);
        Self {
            registry,
            apps,
            agent,
        }
    }

    fn is_whole(&self, content: &str, within: Duration) {
        until_lists(self.registry.port, &wanted(&self.apps), within);
        self.registry.publish("orders.yaml", content);
        until_file(&self.agent, content, within);
        for service in ["orders", "billing"] {
            self.agent.until_state("services", service, "registered");
        }
    }

    /// The orderly end, after which nothing is left, nor was anything written twice or too loudly.
    fn leaves(mut self) {
        self.agent.signal(Signal::SIGTERM);
        let end = self.agent.ended(LONG);
        let log = self.agent.read("agent.log");
        assert!(end.success(), "{end:?}\n{log}");
        until_nothing(
            self.registry.port,
            &["orders", "billing"],
            Duration::from_secs(2),
        );
        assert!(!log.contains("panic"), "{log}");
    }
}

fn wanted(apps: &[App; 3]) -> [(&'static str, u16); 3] {
    [
        ("orders", apps[0].port),
        ("orders", apps[1].port),
        ("billing", apps[2].port),
    ]
}

#[test]
fn several_instances_of_a_service_live_and_leave_by_themselves_over_grpc() {
    let Scene {
        registry,
        apps,
        agent,
    } = Scene::start();
    let all = wanted(&apps);
    let [one, two, other] = apps;
    drop(two);
    until_lists(registry.port, &[all[0], all[2]], LONG);
    let again = App::start_on(all[1].1);
    until_lists(registry.port, &all, LONG);
    let scene = Scene {
        registry,
        apps: [one, again, other],
        agent,
    };
    scene.is_whole("greeting: again\n", LONG);
    assert_eq!(
        connects(&scene.agent, "ok"),
        1,
        "one connection for all of it"
    );
    scene.leaves();
}

#[test]
fn a_registry_that_was_killed_and_is_back_empty_is_told_everything_once_over_grpc() {
    let mut scene = Scene::start();
    let port = scene.registry.port;
    for round in 0..3 {
        // Dropped first: its ports must be free for the next one.
        scene.registry.process.signal(Signal::SIGKILL);
        scene.registry.process.ended(LONG);
        scene
            .agent
            .until_state("services", "orders", "unreachable");
        scene.registry = faulty(port, "2.5");
        scene.is_whole(&format!("round: {round}\n"), LONG);
    }
    let tries = connects(&scene.agent, "unreachable");
    assert!(tries < 60, "{tries} connects while nobody was there");
    scene.leaves();
}

#[test]
fn cut_connections_are_made_again_and_everything_said_on_them() {
    let scene = Scene::start();
    for (round, cut) in ["restart", "amnesia", "restart"].into_iter().enumerate() {
        let before = connects(&scene.agent, "ok");
        fault(&scene.registry, cut);
        until_connected_again(&scene.agent, before);
        scene.is_whole(&format!("round: {round}\n"), LONG);
    }
    scene.leaves();
}

#[test]
fn who_is_sent_elsewhere_is_never_missed_by_a_reader() {
    let scene = Scene::start();
    let reader = Reader::start(scene.registry.port, &wanted(&scene.apps));
    for round in 0..5 {
        let before = connects(&scene.agent, "ok");
        let elsewhere = format!("connect_reset=127.0.0.1:{}", scene.registry.port);
        let reset = if round % 2 == 0 {
            "connect_reset"
        } else {
            &elsewhere
        };
        fault(&scene.registry, reset);
        until_connected_again(&scene.agent, before);
        // The old connection is closed when everything is said on the new one.
        scene.is_whole(&format!("round: {round}\n"), LONG);
    }
    reader.saw_no_gap("connect_reset");
    scene.leaves();
}

#[test]
fn a_goaway_is_followed_by_another_connection() {
    let scene = Scene::start();
    for round in 0..2 {
        let before = connects(&scene.agent, "ok");
        fault(&scene.registry, "goaway");
        until_connected_again(&scene.agent, before);
        scene.is_whole(&format!("round: {round}\n"), LONG);
    }
    scene.leaves();
}
