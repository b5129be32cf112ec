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

/// Waits until `status` says that the registry cannot be reached for this reason; answers all of it.
fn until_unreachable(agent: &Agent, why: &str) -> String {
    let what = format!("it is unreachable: {why}");
    until(&what, LONG, || {
        let registry = agent.status()?["registry"].clone();
        match registry["reason"].as_str() {
            Some(reason) if registry["state"] == "unreachable" && reason.contains(why) => {
                Ok(reason.to_owned())
            }
            _ => Err(registry.to_string()),
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
        scene.agent.until_state("services", "orders", "unreachable");
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
fn a_goaway_is_followed_by_another_connection_and_never_missed_by_a_reader() {
    let scene = Scene::start();
    let reader = Reader::start(scene.registry.port, &wanted(&scene.apps));
    for round in 0..2 {
        let before = connects(&scene.agent, "ok");
        fault(&scene.registry, "goaway");
        until_connected_again(&scene.agent, before);
        scene.is_whole(&format!("round: {round}\n"), LONG);
    }
    reader.saw_no_gap("goaway");
    scene.leaves();
}

#[test]
fn a_registration_that_was_given_up_is_followed_by_a_move_that_nobody_sees() {
    let scene = Scene::with("  request_timeout: 1s\n");
    let reader = Reader::start(scene.registry.port, &wanted(&scene.apps));
    let before = connects(&scene.agent, "ok");
    fault(&scene.registry, "path=InstanceRequest&times=1&hang");
    describe(&scene.agent, &wanted(&scene.apps), ", weight: 7");
    until_connected_again(&scene.agent, before);
    until("the new weight is listed", LONG, || {
        let hosts = [
            scene.registry.hosts("orders")?,
            scene.registry.hosts("billing")?,
        ];
        match hosts.concat() {
            hosts if hosts.iter().all(|host| host["weight"] == 7.0) => Ok(()),
            hosts => Err(format!("{hosts:?}")),
        }
    });
    reader.saw_no_gap("a call without an answer");
    scene.is_whole("greeting: again\n", LONG);
    scene.leaves();
}

#[test]
fn a_mute_stream_costs_no_instance_and_its_news_come_when_it_speaks_again() {
    let scene = Scene::start();
    let reader = Reader::start(scene.registry.port, &wanted(&scene.apps));
    fault(&scene.registry, "mute=8s");
    scene
        .registry
        .publish("orders.yaml", "said: while it was mute\n");
    until_file(&scene.agent, "said: while it was mute\n", NOTICED);
    reader.saw_no_gap("mute");
    scene.is_whole("greeting: again\n", LONG);
    scene.leaves();
}

#[test]
fn a_cut_before_a_mute_server_is_made_good_when_it_hears_again() {
    let scene = Scene::start();
    fault(&scene.registry, "mute=5s&amnesia");
    until_nothing(scene.registry.port, &["orders"], LONG);
    scene.agent.until_state("services", "orders", "unreachable");
    scene.is_whole("greeting: again\n", NOTICED);
    scene.leaves();
}

#[test]
fn a_registry_that_hangs_is_noticed_within_seconds_and_told_everything_again() {
    let scene = Scene::start();
    scene.registry.process.signal(Signal::SIGSTOP);
    scene.agent.until_state("services", "orders", "unreachable");
    scene.registry.process.signal(Signal::SIGCONT);
    scene.is_whole("greeting: again\n", NOTICED);
    scene.leaves();
}

#[test]
fn a_server_that_is_starting_is_waited_for_and_it_is_said_so() {
    let scene = Scene::start();
    fault(&scene.registry, "starting=4s&amnesia");
    until_unreachable(&scene.agent, "starting");
    scene.is_whole("greeting: again\n", NOTICED);
    scene.leaves();
}

#[test]
fn a_server_at_its_limit_is_knocked_at_seldom_until_there_is_room() {
    let scene = Scene::start();
    let before = connects(&scene.agent, "unreachable");
    fault(&scene.registry, "clients=0");
    stays("who is in stays in", Duration::from_millis(500), || {
        lists(scene.registry.port, &wanted(&scene.apps))
    });
    fault(&scene.registry, "amnesia");
    let reason = until_unreachable(&scene.agent, "closed the connection on setup");
    let explained = scene.agent.command(&["explain"]).output().unwrap();
    assert!(said(&explained).contains(&reason), "{}", said(&explained));
    let began = Instant::now();
    until("it knocks on", LONG, || {
        match connects(&scene.agent, "unreachable") - before {
            tries @ ..6 => Err(tries.to_string()),
            _ => Ok(()),
        }
    });
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "six knocks in {:?}",
        began.elapsed()
    );
    fault(&scene.registry, "clients=100");
    scene.is_whole("greeting: again\n", LONG);
    scene.leaves();
}

/// Passes connections on to a port; or takes them and says nothing.
struct Door {
    port: u16,
    open: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// Both ends of what is passed on, and what is kept waiting.
    held: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Door {
    fn start(port: u16, to: u16, opens: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let (open, stop) = (
            Arc::new(AtomicBool::new(opens)),
            Arc::<AtomicBool>::default(),
        );
        let held = Arc::<Mutex<Vec<TcpStream>>>::default();
        let (opened, ends, keeps) = (Arc::clone(&open), Arc::clone(&stop), Arc::clone(&held));
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                keeps.lock().unwrap().push(client.try_clone().unwrap());
                if !opened.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else {
                    let _closed = client.shutdown(Shutdown::Both);
                    continue;
                };
                for end in [&client, &server] {
                    end.set_nodelay(true).unwrap();
                }
                keeps.lock().unwrap().push(server.try_clone().unwrap());
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (mut from, mut to) in [(client, server), back] {
                    thread::spawn(move || {
                        let _end = io::copy(&mut from, &mut to);
                        let _closed = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self {
            port,
            open,
            stop,
            held,
            thread: Some(thread),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _woken = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        for end in self.held.lock().unwrap().iter() {
            let _closed = end.shutdown(Shutdown::Both);
        }
    }
}

fn until_reason(agent: &Agent, why: &str) {
    until(&format!("status says {why}"), LONG, || {
        let registry = agent.status()?["registry"].clone();
        match registry["transport_reason"].as_str() {
            Some(reason) if reason.contains(why) => Ok(()),
            _ => Err(registry.to_string()),
        }
    });
}

/// Two instances before a registry whose gRPC port cannot be reached: over HTTP soon, over gRPC when it can, without a gap.
fn is_blocked_for_a_while(mut grpc: Option<Door>, port: u16, registry: &Registry, why: &str) {
    let _http = Door::start(port, registry.port, true);
    let apps = [App::start(), App::start(), App::start()];
    let mut agent = agent(&[port], "  transport: auto\n");
    registry.publish("orders.yaml", "greeting: hello\n");
    describe(&agent, &wanted(&apps), "");
    agent.start();
    until_lists(registry.port, &wanted(&apps), LONG);
    until_file(&agent, "greeting: hello\n", LONG);
    until_speaks(&agent, "http", "2.5", LONG);
    until_reason(&agent, why);

    let reader = Reader::start(registry.port, &wanted(&apps));
    match &grpc {
        None => grpc = Some(Door::start(port + 1000, registry.port + 1000, true)),
        Some(door) => {
            door.open.store(true, Ordering::SeqCst);
        }
    }
    until_speaks(&agent, "grpc", "2.5", Duration::from_secs(90));
    until_lists(registry.port, &wanted(&apps), LONG);
    reader.saw_no_gap("the way back to gRPC");
    registry.publish("orders.yaml", "greeting: over gRPC\n");
    until_file(&agent, "greeting: over gRPC\n", LONG);

    drop(grpc);
    until_speaks(&agent, "http", "2.5", Duration::from_secs(60));
    until_reason(&agent, "connection refused");
    until_lists(registry.port, &wanted(&apps), LONG);
    registry.publish("orders.yaml", "greeting: over HTTP\n");
    until_file(&agent, "greeting: over HTTP\n", LONG);
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    until_nothing(registry.port, &["orders", "billing"], LONG);
}

#[test]
fn where_nothing_listens_for_grpc_http_does_the_work_until_something_does() {
    let registry = faulty(free_port(), "2.5");
    is_blocked_for_a_while(None, free_port(), &registry, "connection refused");
}

#[test]
fn where_grpc_never_answers_http_does_the_work_until_it_does() {
    let registry = faulty(free_port(), "2.5");
    let port = free_port();
    let mute = Door::start(port + 1000, registry.port + 1000, false);
    is_blocked_for_a_while(Some(mute), port, &registry, "no answer within");
}

#[test]
fn an_upgrade_from_1_4_to_2_5_to_3_0_is_noticed_while_it_runs() {
    let port = free_port();
    let apps = [App::start(), App::start(), App::start()];
    let mut agent = agent(&[port], "  transport: auto\n");
    describe(&agent, &wanted(&apps), "");
    let mut before: Option<Registry> = None;
    for (like, transport, version) in [
        ("1.4", "http", "1.4"),
        ("2.5", "grpc", "2.5"),
        ("3.0", "grpc", "3.0"),
    ] {
        drop(before.take());
        let registry = faulty(port, like);
        if like == "1.4" {
            agent.start();
        }
        // A registry of ours is empty after its restart: so its configurations are published again.
        let content = format!("like: {like}\n");
        registry.publish("orders.yaml", &content);
        let says = until_speaks(&agent, transport, version, Duration::from_secs(90));
        let reason = says["transport_reason"].as_str().unwrap();
        assert!(
            reason.contains(if transport == "http" {
                "1.4.8 has no gRPC"
            } else {
                "takes gRPC"
            }),
            "{reason}"
        );
        until_lists(port, &wanted(&apps), NOTICED);
        until_file(&agent, &content, LONG);
        before = Some(registry);
    }
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    until_nothing(port, &["orders", "billing"], LONG);
}

/// What to throw for, or so long as the environment says.
fn storm_lasts() -> Duration {
    let seconds = std::env::var("STORM_SECONDS").ok();
    let seconds = seconds.map_or(10, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// How long something of a storm lasts.
fn a_while(dice: &mut outrigger::backoff::Dice, most_ms: usize) -> Duration {
    Duration::from_millis(u64::try_from(dice.below(most_ms)).unwrap())
}

/// Three registries that are no cluster: each has a list of its own, and what is wanted belongs on that of the one in use. On the others
/// nothing may be left, because what was published there lived as long as a connection that is closed.
#[test]
fn a_storm_of_restarts_ends_with_exactly_what_is_wanted() {
    let seed = std::env::var("STORM_SEED").map_or_else(
        |_| u64::from(std::process::id()) << 20 | u64::from(free_port()),
        |seed| seed.parse().unwrap(),
    );
    eprintln!("STORM_SEED={seed}");
    let mut dice = outrigger::backoff::Dice::new(seed);
    let ports_of_all = [free_port(), free_port(), free_port()];
    let mut registries: Vec<Option<Registry>> = ports_of_all
        .iter()
        .map(|port| Some(faulty(*port, "2.5")))
        .collect();
    let apps: Vec<App> = (0..6).map(|_| App::start()).collect();
    let every: Vec<(&str, u16)> = apps
        .iter()
        .zip(["orders", "orders", "orders", "billing", "billing", "stock"])
        .map(|(app, name)| (name, app.port))
        .collect();
    let services = ["orders", "billing", "stock"];
    let mut agent = agent(
        &ports_of_all,
        "  transport: auto\n  request_timeout: 1s\n  write_rate: 200\n",
    );
    let mut wanted = every.clone();
    describe(&agent, &wanted, "");
    agent.start();
    agent.until_state("services", "orders", "registered");

    let (began, lasts) = (Instant::now(), storm_lasts());
    let mut happened = std::collections::BTreeMap::<&str, u32>::new();
    while began.elapsed() < lasts {
        let place = dice.below(3);
        let port = ports_of_all[place];
        let what = match (dice.below(10), registries[place].take()) {
            (0..4, Some(registry)) => {
                drop(registry);
                "kill"
            }
            (_, None) => {
                registries[place] = Some(faulty(port, "2.5"));
                "start"
            }
            (4, Some(registry)) => {
                // Half dead, for less or more time than it takes to notice.
                registry.process.signal(Signal::SIGSTOP);
                thread::sleep(a_while(&mut dice, 6_000));
                registry.process.signal(Signal::SIGCONT);
                registries[place] = Some(registry);
                "stop"
            }
            (5, registry) => {
                registries[place] = registry;
                wanted = every
                    .iter()
                    .copied()
                    .filter(|_| dice.below(3) > 0)
                    .collect();
                describe(&agent, &wanted, "");
                "edit"
            }
            (_, Some(registry)) => {
                let faults = [
                    "restart",
                    "amnesia",
                    "goaway",
                    "connect_reset",
                    "mute=2s",
                    "starting=2s",
                    "path=InstanceRequest&times=2&hang",
                    "path=BatchInstanceRequest&times=2&drop",
                    "path=BatchInstanceRequest&times=1&delay=1500ms",
                ];
                let query = faults[dice.below(faults.len())];
                fault(&registry, query);
                registries[place] = Some(registry);
                query
            }
        };
        *happened.entry(what).or_default() += 1;
        // The pace of the storm itself, nothing that is waited for.
        thread::sleep(a_while(&mut dice, 700));
    }
    eprintln!("{happened:?}");

    for (place, port) in ports_of_all.iter().enumerate() {
        let registry = registries[place].take();
        let registry = registry.unwrap_or_else(|| faulty(*port, "2.5"));
        fault(&registry, "clear&mute=0s");
        registry.publish("orders.yaml", "greeting: after the storm\n");
        registries[place] = Some(registry);
    }
    // Long enough for the slowest wait between two tries, and for what HTTP left behind: these servers are no cluster, so what was
    // registered at one of them over HTTP cannot be taken out at another, and falls silent there.
    const CALM: Duration = Duration::from_secs(150);
    until(
        "exactly what is wanted is listed where it is in use",
        CALM,
        || {
            let registry = agent.status()?["registry"].clone();
            if registry["transport"] != "grpc" {
                return Err(registry.to_string());
            }
            for port in ports_of_all {
                let here = registry["server"] == format!("http://127.0.0.1:{port}");
                for service in services {
                    let mut right: Vec<u16> = wanted
                        .iter()
                        .filter(|(name, _)| here && *name == service)
                        .map(|(_, port)| *port)
                        .collect();
                    right.sort_unstable();
                    let seen = ports(port, service)?;
                    if seen != right {
                        return Err(format!(
                            "{port} {service} {seen:?}, not {right:?}; {registry}"
                        ));
                    }
                }
            }
            Ok(())
        },
    );
    until_file(&agent, "greeting: after the storm\n", CALM);
    let tried = connects(&agent, "ok") + connects(&agent, "unreachable");
    let most = 60 + 5 * began.elapsed().as_secs();
    assert!(tried < most, "{tried} connects");
    agent.signal(Signal::SIGTERM);
    let end = agent.ended(LONG);
    let log = agent.read("agent.log");
    assert!(end.success(), "{end:?}\n{log}");
    for port in ports_of_all {
        until_nothing(port, &services, LONG);
    }
    eprintln!("{tried} connects");
}

/// The requests that the agent makes over gRPC.
const CLASSES: [&str; 9] = [
    "ServerCheckRequest",
    "HealthCheckRequest",
    "InstanceRequest",
    "BatchInstanceRequest",
    "PersistentInstanceRequest",
    "ServiceQueryRequest",
    "SubscribeServiceRequest",
    "ConfigQueryRequest",
    "ConfigBatchListenRequest",
];

/// All reasons that `status` gives at present.
fn reasons(agent: &Agent) -> Result<BTreeSet<String>, String> {
    let status = agent.status()?;
    let mut all = vec![status["registry"].clone()];
    for kind in ["services", "configs"] {
        all.extend(status[kind].as_array().cloned().unwrap_or_default());
    }
    let reason = |one: &Value| one["reason"].as_str().map(str::to_owned);
    Ok(all.iter().filter_map(reason).collect())
}

/// A registry that fails the first requests of these classes so; status says why in `words`, and all is well in the end.
fn is_borne(harm: &str, times: u32, words: &str, classes: &[&str]) {
    let registry = faulty(free_port(), "2.5");
    for class in classes {
        fault(&registry, &format!("path={class}&times={times}&{harm}"));
    }
    registry.publish("orders.yaml", "greeting: hello\n");
    let apps = [App::start(), App::start(), App::start()];
    let mut agent = agent(
        &[registry.port],
        "  transport: grpc\n  request_timeout: 1s\n",
    );
    describe(&agent, &wanted(&apps), "");
    agent.write(
        "conf.d/kept.yaml",
        &format!(
            "services:\n  - {{ name: kept, port: {}, ephemeral: false }}\n\
             subscriptions:\n  - {{ service: kept, path: {}, format: env }}\n",
            apps[2].port,
            agent.path("kept.env").display()
        ),
    );
    agent.start();
    let mut seen = BTreeSet::new();
    // The last of them is asked when nothing else was said for a while.
    until(&format!("{harm}: every class was struck"), NOTICED, || {
        seen.extend(reasons(&agent).unwrap_or_default());
        let shown = http(registry.port, "GET", "/outrigger/faults", "")?;
        let shown: Value = serde_json::from_str(&shown).map_err(|e| e.to_string())?;
        match shown["faults"].as_array() {
            Some(left) if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}; {seen:?}")),
        }
    });
    let mut all = wanted(&apps).to_vec();
    all.push(("kept", apps[2].port));
    until_lists(registry.port, &all, NOTICED);
    until_file(&agent, "greeting: hello\n", NOTICED);
    let list = format!("KEPT_INSTANCES=127.0.0.1:{}\n", apps[2].port);
    until(&format!("{harm}: the list"), NOTICED, || {
        let found = agent.read("kept.env");
        (found == list).then_some(()).ok_or(found)
    });
    for service in ["orders", "billing", "kept"] {
        agent.until_state("services", service, "registered");
    }
    registry.publish("orders.yaml", "greeting: again\n");
    until_file(&agent, "greeting: again\n", LONG);
    assert!(
        words.is_empty() || seen.iter().any(|reason| reason.contains(words)),
        "{harm}: {words} is not among {seen:#?}"
    );
    agent.signal(Signal::SIGTERM);
    let end = agent.ended(LONG);
    let log = agent.read("agent.log");
    assert!(
        end.success() && !log.contains("panic"),
        "{harm}: {end:?}\n{log}"
    );
    until_nothing(registry.port, &["orders", "billing", "kept"], LONG);
}

#[test]
fn whatever_happens_to_each_class_of_request_is_said_and_made_good() {
    // What breaks the connection is spread over two agents: connections that do not last are made less and less often.
    let (some, others) = CLASSES.split_at(4);
    let rows: [(&str, u32, &str, &[&str]); 9] = [
        ("delay=300ms", 1, "", &CLASSES),
        ("status=500&body=made+up", 2, "made up", &CLASSES),
        ("garbage", 1, "the connection broke", some),
        ("garbage", 1, "the connection broke", others),
        ("drop", 2, "the connection broke", &CLASSES),
        ("hang", 2, "no answer within", &CLASSES),
        ("reset", 1, "the connection broke", some),
        ("reset", 1, "the connection broke", others),
        ("big", 2, "message length too large", &CLASSES),
    ];
    // All at once: each waits for the slowest class.
    thread::scope(|all| {
        for (harm, times, words, classes) in rows {
            all.spawn(move || is_borne(harm, times, words, classes));
        }
    });
}
