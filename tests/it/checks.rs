//! The registry's own checks of persistent instances: whom they ask what and when, in virtual time; and what comes of real ports.

use crate::rpc::{Client, Stream};
use crate::support::{App, LONG, Registry as Process, free_port, http, until};
use outrigger::{
    machine::{Epoch, Machine as _, Moment},
    registry::{
        self, CheckRules, Desk, Interval, Like, Options, Request, Running,
        desk::{By, Checked, Effect, Event, Fault, Probe, Ticket},
    },
    tasks::Tasks,
};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ALL: [Like; 3] = [Like::V1_4, Like::V2_5, Like::V3_0];
const IT: &str = "serviceName=s&ip=10.0.0.1&port=80";

/// The query of `PUT /cluster`.
fn cluster(checker: &str, port: u16, instance_port: bool) -> String {
    let checker = checker.replace('"', "%22").replace('|', "%7C");
    format!(
        "serviceName=s&clusterName=DEFAULT&checkPort={port}&useInstancePort4Check={instance_port}&healthChecker={checker}"
    )
}

const NONE: &str = r#"{"type":"NONE"}"#;

/// A registry in virtual time, and a network in which every probe ends as the test says.
struct World {
    like: Like,
    desk: Desk,
    now: Moment,
    ends: Checked,
    asked: Vec<(Moment, Probe)>,
    /// Probes that do not end.
    open: Option<Vec<u64>>,
}

impl World {
    fn like(like: Like) -> Self {
        Self {
            like,
            desk: Desk::new(like).checking(CheckRules::default()),
            now: Moment::ZERO,
            ends: Checked::Passed,
            asked: Vec::new(),
            open: None,
        }
    }

    fn effects(&mut self) -> Option<String> {
        let mut answered = None;
        while let Some(effect) = self.desk.effect() {
            match effect {
                Effect::Answer(_, answer) => {
                    answered = Some(String::from_utf8(answer.body().to_vec()).unwrap());
                }
                Effect::Probe { number, probe } => {
                    self.asked.push((self.now, probe));
                    if let Some(open) = &mut self.open {
                        open.push(number);
                        continue;
                    }
                    let outcome = self.ends;
                    self.desk
                        .handle(self.now, Event::Probed { number, outcome });
                }
                other => panic!("nobody is connected over gRPC: {other:?}"),
            }
        }
        answered
    }

    fn ask(&mut self, method: &str, target: &str) -> String {
        let request = Request::new(method, target, [("", ""); 0], "");
        let at = UNIX_EPOCH + self.now;
        let ticket = Ticket(1);
        self.desk.handle(
            self.now,
            Event::Asked {
                ticket,
                at,
                request,
            },
        );
        self.effects().unwrap()
    }

    fn operator(&self) -> &'static str {
        match self.like {
            Like::V3_0 => "/v3/admin/ns",
            Like::V1_4 | Like::V2_5 => "/v1/ns",
        }
    }

    fn put_cluster(&mut self, query: &str) {
        let target = format!("{}/cluster?{query}", self.operator());
        let answer = self.ask("PUT", &target);
        assert!(answer.contains("ok"), "{answer}");
    }

    fn make_service(&mut self) {
        let target = format!("{}/service?serviceName=s&ephemeral=false", self.operator());
        let answer = self.ask("POST", &target);
        assert!(answer.contains("ok"), "{answer}");
    }

    fn register(&mut self, healthy: bool) {
        let target = format!("/v1/ns/instance?{IT}&ephemeral=false&healthy={healthy}");
        assert_eq!(self.ask("POST", &target), "ok");
    }

    fn switch(&mut self, entry: &str, value: &str) {
        let path = match self.like {
            Like::V3_0 => "/v3/admin/ns/ops/switches",
            Like::V1_4 | Like::V2_5 => "/v1/ns/operator/switches",
        };
        let answer = self.ask("PUT", &format!("{path}?entry={entry}&value={value}"));
        assert!(answer.contains("ok"), "{answer}");
    }

    fn health(&mut self) -> bool {
        let detail = self.ask("GET", &format!("{}/instance?{IT}", self.operator()));
        let detail: Value = serde_json::from_str(&detail).unwrap();
        let detail = detail.get("data").unwrap_or(&detail);
        detail["healthy"].as_bool().unwrap()
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.desk.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.desk.wake(self.now);
            assert_eq!(self.effects(), None);
        }
        self.now = until;
        self.desk.wake(self.now);
        self.effects();
    }

    /// Waits for the end of so many more probes.
    fn probes(&mut self, many: usize) {
        let many = self.asked.len() + many;
        for _ in 0..60_000 {
            if self.asked.len() >= many {
                return;
            }
            self.wait(Duration::from_millis(1));
        }
        panic!("no more than {} probes", self.asked.len());
    }
}

#[test]
fn a_new_persistent_instance_is_checked_by_tcp_at_its_port_two_to_seven_seconds_later() {
    for like in ALL {
        let mut world = World::like(like);
        world.register(true);
        let ephemeral = "/v1/ns/instance?serviceName=e&ip=10.0.0.2&port=81";
        assert_eq!(world.ask("POST", ephemeral), "ok");
        world.ends = Checked::Refused;
        world.wait(Duration::from_millis(1_999));
        assert!(world.health() && world.asked.is_empty());
        world.wait(Duration::from_millis(5_001));
        assert!(
            !world.health(),
            "{like:?}: a refused connection is believed"
        );
        world.wait(Duration::from_secs(3_600));
        let probe = Probe {
            ip: "10.0.0.1".into(),
            port: 80,
            by: By::Tcp,
        };
        assert!(world.asked.iter().all(|(_, asked)| *asked == probe));
        let gaps = world.asked.windows(2).map(|pair| pair[1].0 - pair[0].0);
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(5));
        assert!(gaps.into_iter().all(|gap| gap >= least && gap <= most));
    }
}

#[test]
fn health_turns_after_three_results_in_a_row_and_registering_again_protects_from_nothing() {
    for like in ALL {
        let mut world = World::like(like);
        world.register(false);
        for health in [false, false, true] {
            assert!(!world.health());
            world.probes(1);
            assert_eq!(world.health(), health, "{like:?}");
        }
        world.ends = Checked::TimedOut;
        for health in [true, true, false] {
            world.probes(1);
            assert_eq!(world.health(), health, "{like:?}");
        }
        world.register(true);
        // Like 1.4 that says nothing of the health.
        assert_eq!(world.health(), like != Like::V1_4);
        world.ends = Checked::Refused;
        world.probes(1);
        assert!(!world.health());
    }
}

#[test]
fn the_cluster_says_who_is_asked_how_and_none_leaves_the_health_alone_at_once() {
    for like in ALL {
        let mut world = World::like(like);
        world.make_service();
        world.put_cluster(&cluster(NONE, 80, true));
        world.register(true);
        world.ends = Checked::Refused;
        world.wait(Duration::from_secs(600));
        assert!(world.asked.is_empty() && world.health(), "{like:?}");

        let said = r#"{"type":"HTTP","path":"/h","headers":"A:b|C:d","expectedResponseCode":204}"#;
        world.put_cluster(&cluster(said, 8080, false));
        world.ends = Checked::Passed;
        world.probes(1);
        let by = By::Http {
            path: "/h".into(),
            headers: "A:b|C:d".into(),
        };
        let probe = &world.asked[0].1;
        assert_eq!((probe.port, &probe.by), (8080, &by));
        let service = world.ask(
            "GET",
            &format!("{}/service?serviceName=s", world.operator()),
        );
        let service: Value = serde_json::from_str(&service).unwrap();
        let shown = match like {
            Like::V3_0 => &service["data"]["clusterMap"]["DEFAULT"],
            Like::V1_4 | Like::V2_5 => &service["clusters"][0],
        };
        let wanted: Value = serde_json::from_str(said).unwrap();
        assert_eq!(shown["healthChecker"], wanted);

        // What is under way when the checker becomes NONE says nothing any more.
        world.open = Some(Vec::new());
        world.probes(1);
        world.put_cluster(&cluster(NONE, 80, true));
        let number = world.open.take().unwrap()[0];
        let outcome = Checked::Refused;
        world
            .desk
            .handle(world.now, Event::Probed { number, outcome });
        let many = world.asked.len();
        world.wait(Duration::from_secs(60));
        assert!(world.health(), "{like:?}");
        assert_eq!(world.asked.len(), many);
    }
}

#[test]
fn mysql_and_what_cannot_stand_in_a_request_are_refused_with_words() {
    let mut world = World::like(Like::V2_5);
    world.make_service();
    for (checker, words) in [
        (r#"{"type":"MYSQL"}"#, "MYSQL"),
        (r#"{"type":"HTTP","path":"/a%5Cr%5CnX:y"}"#, "path"),
        (
            r#"{"type":"HTTP","headers":"Transfer-Encoding:chunked"}"#,
            "header",
        ),
    ] {
        let target = format!("/v1/ns/cluster?{}", cluster(checker, 80, true));
        let answer = world.ask("PUT", &target);
        assert!(answer.contains(words), "{checker}: {answer}");
    }
}

#[test]
fn who_has_left_is_asked_no_more() {
    let mut world = World::like(Like::V2_5);
    world.register(true);
    world.probes(1);
    let leave = format!("/v1/ns/instance?{IT}&ephemeral=false");
    assert_eq!(world.ask("DELETE", &leave), "ok");
    let many = world.asked.len();
    world.wait(Duration::from_secs(300));
    assert_eq!((world.asked.len(), world.desk.deadline()), (many, None));

    let mut world = World::like(Like::V1_4);
    world.register(true);
    world.probes(1);
    assert_eq!(world.ask("DELETE", "/v1/ns/service?serviceName=s"), "ok");
    let many = world.asked.len();
    world.wait(Duration::from_secs(300));
    assert_eq!(world.asked.len(), many, "it went with its service");

    let mut world = World::like(Like::V2_5);
    world.register(true);
    world.desk.handle(world.now, Event::Faulted(Fault::Amnesia));
    world.wait(Duration::from_secs(300));
    assert_eq!(world.asked, []);
}

#[test]
fn after_a_restart_nobody_is_healthy_before_three_checks_except_like_1_4() {
    for like in ALL {
        let mut world = World::like(like);
        world.register(true);
        world.probes(1);
        world.desk.handle(world.now, Event::Faulted(Fault::Restart));
        let remembers = like == Like::V1_4;
        assert_eq!(world.health(), remembers);
        for health in [remembers, remembers, true] {
            world.probes(1);
            assert_eq!(world.health(), health, "{like:?}");
        }
    }
}

#[test]
fn the_operator_switches_checks_off_and_on_and_sets_how_many_results_turn_a_health() {
    for like in ALL {
        let mut world = World::like(like);
        world.register(true);
        world.ends = Checked::TimedOut;
        world.switch("check", "false");
        world.wait(Duration::from_secs(60));
        assert_eq!(world.asked, []);
        world.switch("healthCheckTimes", "1");
        world.switch("check", "true");
        world.wait(Duration::from_millis(1_999));
        assert_eq!(world.asked, [], "they are spread again");
        world.probes(1);
        assert!(!world.health(), "{like:?}");
        if like != Like::V1_4 {
            let params = r#"{"max":3000,"min":3000,"factor":0.5}"#.replace('"', "%22");
            world.switch("tcpHealthParams", &params);
            world.wait(Duration::from_secs(60));
            let last = &world.asked[world.asked.len() - 2..];
            assert_eq!(last[1].0 - last[0].0, Duration::from_secs(3));
        }
        world.desk.handle(world.now, Event::Stopping);
        let many = world.asked.len();
        world.wait(Duration::from_secs(60));
        assert_eq!(world.asked.len(), many, "a registry that stops asks nobody");
    }
}

/// A registry in this runtime whose checks follow one another quickly.
struct Quick {
    running: Running,
    client: reqwest::Client,
}

impl Quick {
    async fn like(like: Like) -> Self {
        let interval = Interval {
            min: Duration::from_millis(20),
            max: Duration::from_millis(50),
            factor: 0.5,
        };
        let rules = CheckRules {
            first: Duration::from_millis(1),
            tcp: interval,
            http: interval,
            ..CheckRules::default()
        };
        let options = Options {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            open: false,
            allow_hosts: Vec::new(),
            users: None,
            like,
            push_delay: registry::PUSH_DELAY,
            checks: Some(rules),
            faults: true,
            data_dir: None,
        };
        let tasks = Tasks::new();
        let running = registry::start(options, &tasks, Epoch::start());
        Self {
            running: running.await.unwrap(),
            client: reqwest::Client::new(),
        }
    }

    async fn ask(&self, method: &str, target: &str) -> String {
        let url = format!("http://{}{target}", self.running.address());
        let method = method.parse().unwrap();
        let answer = self.client.request(method, url).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{target}: {text}");
        text
    }

    async fn register(&self, service: &str, port: u16, healthy: bool) {
        let it = format!("serviceName={service}&ip=127.0.0.1&port={port}");
        let target = format!("/v1/ns/instance?{it}&ephemeral=false&healthy={healthy}");
        self.ask("POST", &target).await;
    }

    async fn health(&self, service: &str, port: u16) -> bool {
        let target = format!("/v1/ns/instance?serviceName={service}&ip=127.0.0.1&port={port}");
        let detail: Value = serde_json::from_str(&self.ask("GET", &target).await).unwrap();
        detail["healthy"].as_bool().unwrap()
    }

    async fn until(&self, service: &str, port: u16, healthy: bool) {
        let wait = async {
            while self.health(service, port).await != healthy {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(LONG, wait).await;
        assert!(waited.is_ok(), "{service}:{port} is never {healthy}");
    }
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The health of the one host of the next push.
async fn pushed(stream: &mut Stream) -> bool {
    let (kind, push) = stream.next().await;
    assert_eq!(kind, "NotifySubscriberRequest");
    push["serviceInfo"]["hosts"][0]["healthy"]
        .as_bool()
        .unwrap()
}

#[tokio::test]
async fn a_port_that_closes_is_unhealthy_and_back_when_it_opens_and_subscribers_are_pushed() {
    let registry = Quick::like(Like::V2_5).await;
    let (listener, port) = listen();
    registry.register("s", port, true).await;
    let mut client = Client::connect(registry.running.grpc().unwrap()).await;
    let mut stream = client.set_up("naming").await;
    client.subscribe("s").await;
    assert!(pushed(&mut stream).await);
    drop(listener);
    registry.until("s", port, false).await;
    assert!(!pushed(&mut stream).await);
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    registry.until("s", port, true).await;
    assert!(pushed(&mut stream).await);
    registry.running.stop().await;
}

#[tokio::test]
async fn a_cluster_is_checked_at_its_own_port_or_by_http_or_not_at_all() {
    let registry = Quick::like(Like::V2_5).await;
    let (listener, port) = listen();
    for service in ["s", "companion"] {
        let target = format!("/v1/ns/service?serviceName={service}");
        registry.ask("POST", &target).await;
    }
    let put = async |checker: &str, port: u16, own: bool| {
        let target = format!("/v1/ns/cluster?{}", cluster(checker, port, own));
        registry.ask("PUT", &target).await;
    };
    // Nobody listens at the port of the instance.
    let closed = free_port();
    put(r#"{"type":"TCP"}"#, port, false).await;
    registry.register("s", closed, false).await;
    registry.until("s", closed, true).await;
    drop(listener);
    registry.until("s", closed, false).await;

    put(NONE, port, false).await;
    registry.register("s", closed, true).await;
    registry.register("companion", closed, true).await;
    registry.until("companion", closed, false).await;
    assert!(registry.health("s", closed).await, "NONE leaves alone");

    let web = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let web = web.await.unwrap();
    let port = web.local_addr().unwrap().port();
    let status = Arc::new(AtomicU16::new(404));
    let says = Arc::clone(&status);
    let served = tokio::spawn(async move {
        loop {
            let (mut stream, _) = web.accept().await.unwrap();
            let mut asked = [0; 1_024];
            let many = stream.read(&mut asked).await.unwrap();
            let asked = String::from_utf8_lossy(&asked[..many]).into_owned();
            assert!(asked.starts_with("GET /ready HTTP/1.1\r\n"), "{asked}");
            let status = says.load(Ordering::SeqCst);
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
            // A check that has been cut short by the end of the test hears nothing.
            _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    put(r#"{"type":"HTTP","path":"/ready"}"#, port, false).await;
    for (says, healthy) in [(404, false), (200, true), (503, false), (200, true)] {
        status.store(says, Ordering::SeqCst);
        registry.until("s", closed, healthy).await;
    }
    registry.running.stop().await;
    served.abort();
}

#[tokio::test]
async fn after_a_restart_the_checks_find_the_health_again_and_none_waits_for_its_owner() {
    let registry = Quick::like(Like::V2_5).await;
    let (_listener, port) = listen();
    registry.ask("POST", "/v1/ns/service?serviceName=s").await;
    let none = format!("/v1/ns/cluster?{}", cluster(NONE, 80, true));
    registry.ask("PUT", &none).await;
    registry.register("s", port, true).await;
    registry.register("checked", port, true).await;
    registry.ask("POST", "/outrigger/faults?restart").await;
    registry.until("checked", port, true).await;
    assert!(!registry.health("s", port).await);
    registry.register("s", port, true).await;
    assert!(registry.health("s", port).await);
    registry.running.stop().await;
}

#[tokio::test]
async fn five_hundred_instances_with_one_closed_port_among_them_are_told_apart() {
    let registry = Quick::like(Like::V2_5).await;
    let (_listener, port) = listen();
    for number in 0..500_u16 {
        // Addresses of their own on loopback, at one port that listens on one of them.
        let ip = format!("127.0.{}.{}", number / 250, 1 + number % 250);
        let target = format!(
            "/v1/ns/instance?serviceName=s&ip={ip}&port={port}&ephemeral=false&healthy=false"
        );
        registry.ask("POST", &target).await;
    }
    registry.until("s", port, true).await;
    let list = "/v1/ns/instance/list?serviceName=s&healthyOnly=true";
    let list: Value = serde_json::from_str(&registry.ask("GET", list).await).unwrap();
    let ips: Vec<&Value> = list["hosts"].as_array().unwrap().iter().collect();
    assert_eq!(ips.len(), 1);
    assert_eq!(ips[0]["ip"], json!("127.0.0.1"));
    registry.running.stop().await;
}

#[test]
fn without_being_told_otherwise_a_closed_port_is_found_within_seven_seconds_and_with_no_checks_never()
 {
    let app = App::start();
    let port = app.port;
    let (checks, never) = (
        Process::start(),
        Process::start_with(free_port(), &["--no-checks"]),
    );
    let health = |registry: &Process| {
        let path = format!("/nacos/v1/ns/instance?serviceName=s&ip=127.0.0.1&port={port}");
        let detail: Value =
            serde_json::from_str(&http(registry.port, "GET", &path, "").unwrap()).unwrap();
        detail["healthy"].as_bool().unwrap()
    };
    for registry in [&checks, &never] {
        let it = format!("serviceName=s&ip=127.0.0.1&port={port}&ephemeral=false");
        let path = format!("/nacos/v1/ns/instance?{it}");
        http(registry.port, "POST", &path, "").unwrap();
        assert!(health(registry));
    }
    drop(app);
    until("the closed port is found", LONG, || match health(&checks) {
        false => Ok(()),
        true => Err("healthy".to_owned()),
    });
    assert!(health(&never));
}
