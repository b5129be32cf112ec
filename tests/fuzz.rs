//! Whatever is asked of the registry is answered, once, and leaves it sound: recorded exchanges, mutated by chance.
//!
//! The desk has no socket and no clock, so a second is thousands of requests. What is mutated is what real clients and operators
//! sent (`tests/cases/`): forms and queries, beats, `Listening-Configs`, metadata and selectors, messages of gRPC and the bytes they
//! come as. A round is one registry, a seed, and what is asked of it; each target plays rounds for `FUZZ_SECONDS` (2). A round that
//! fails says its seed: `FUZZ_SEED=SEED cargo test --test fuzz` plays it again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and says so; its clock says only when it is enough"
)]

use fastrand::Rng;
use outrigger::{
    machine::{Machine as _, Moment},
    nacos::rpc::Payload,
    registry::{
        Answer, Desk, Like, Request,
        desk::{Effect, Event, Link, Stream, Ticket},
    },
};
use prost::Message as _;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Requests of a round.
const STEPS: usize = 60;

/// What hurts parsers, and what means something to this one.
const WORDS: &[&[u8]] = &[
    b"&",
    b"=",
    b"%",
    b"%0",
    b"%ff",
    b"%00",
    b"%01",
    b"%02",
    b"%0D%0A",
    b"\x01",
    b"\x02",
    b"\xff\xfe",
    b"@@",
    b"#",
    b"..%2F",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"65536",
    b"99999999999999999999",
    b"NaN",
    b"1e400",
    b"inf",
    b"[",
    b"{",
    b"}",
    b"{\"a\":",
    b"[[[[[[[[",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b",",
    b"a=b,c=d",
    b"ephemeral=false",
    b"serviceName=",
    b"&ip=",
    b"&port=",
    b"&metadata=",
    b"&beat=",
    b"Listening-Configs=",
    b"\xe6\x9c\x8d",
    b"%E6%9C%8D",
    b"public",
    b"DEFAULT",
    b"*",
    b"preserved.heart.beat.timeout=1",
    b"18446744073709551615",
];

#[derive(Clone, Debug)]
struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What real clients asked, over HTTP and over gRPC: class and body.
struct Corpus {
    asked: Vec<Asked>,
    called: Vec<(String, Vec<u8>)>,
}

impl Corpus {
    fn read() -> Self {
        let (mut asked, mut called) = (Vec::new(), Vec::new());
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
        let folders = fs::read_dir(cases).unwrap().flatten();
        let files = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
        // What is no exchange, such as a store, is for other tests.
        let files = files.filter(|file| file.path().extension().is_some_and(|it| it == "json"));
        let mut files: Vec<_> = files.map(|file| file.path()).collect();
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let Ok(case) = serde_json::from_str::<Value>(&text) else {
                continue;
            };
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let request = &case["request"];
            if let (Some(method), Some(target)) =
                (text(&request["method"]), text(&request["target"]))
            {
                let headers = request["headers"].as_object().into_iter().flatten();
                asked.push(Asked {
                    method,
                    target,
                    headers: headers
                        .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
                        .collect(),
                    body: text(&request["body"]).unwrap_or_default().into_bytes(),
                });
            }
            for message in case["messages"].as_array().into_iter().flatten() {
                if let Some(kind) = text(&message["type"])
                    && message["dir"]
                        .as_str()
                        .is_some_and(|way| way.starts_with("C->S"))
                {
                    called.push((kind, message["body"].to_string().into_bytes()));
                }
            }
        }
        assert!(
            asked.len() > 100 && called.len() > 50,
            "the recordings are there"
        );
        Self { asked, called }
    }
}

/// Changes bytes in one of the ways in which they go wrong; pieces of `other` come in.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.usize(0..4) {
        let at = rng.usize(0..=bytes.len());
        let to = rng.usize(at..=bytes.len().min(at + 40));
        match rng.u8(0..8) {
            0 => {
                let word = rng.choice(WORDS).unwrap();
                bytes.splice(at..at, word.iter().copied());
            }
            1 => {
                let word = rng.choice(WORDS).unwrap();
                bytes.splice(at..to, word.iter().copied());
            }
            2 => drop(bytes.drain(at..to)),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..to].to_vec();
                let piece = piece.repeat(rng.usize(1..200));
                bytes.splice(at..at, piece);
            }
            5 => {
                let from = rng.usize(0..=other.len());
                let piece = &other[from..other.len().min(from + 60)];
                bytes.splice(at..to, piece.iter().copied());
            }
            6 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.u8(0..8);
                }
            }
            _ => bytes.insert(at, rng.u8(..)),
        }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A registry, who waits for it, and the laws of both.
struct World {
    desk: Desk,
    now: Moment,
    next: u64,
    held: BTreeSet<u64>,
    answers: Vec<Answer>,
    replies: Vec<Payload>,
}

impl World {
    fn new(like: Like) -> Self {
        Self {
            desk: Desk::new(like),
            now: Duration::ZERO,
            next: 0,
            held: BTreeSet::new(),
            answers: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn happens(&mut self, event: Event) {
        self.desk.handle(self.now, event);
        self.gather();
    }

    fn gather(&mut self) {
        while let Some(effect) = self.desk.effect() {
            match effect {
                Effect::Answer(Ticket(ticket), answer) => {
                    assert!(self.held.remove(&ticket), "{ticket} is answered twice");
                    is_sound(&answer);
                    self.answers.push(answer);
                }
                Effect::Reply(Ticket(ticket), payload) => {
                    assert!(self.held.remove(&ticket), "{ticket} is replied to twice");
                    serde_json::from_slice::<Value>(payload.body()).expect("a reply is JSON");
                    self.replies.push(payload);
                }
                _ => {}
            }
        }
    }

    fn ask(&mut self, request: Request) {
        self.next += 1;
        self.held.insert(self.next);
        let event = Event::Asked {
            ticket: Ticket(self.next),
            at: UNIX_EPOCH + self.now,
            request,
        };
        self.happens(event);
    }

    /// Asks what is answered at once.
    fn answer(&mut self, target: &str) -> Answer {
        self.answers.clear();
        self.ask(Request::new("GET", target, [("", ""); 0], ""));
        assert!(!self.held.contains(&self.next), "{target} is held");
        self.answers.pop().expect("an answer")
    }

    fn json(&mut self, target: &str) -> Value {
        let answer = self.answer(target);
        assert_eq!(answer.status(), 200, "{target}");
        serde_json::from_slice(answer.body()).unwrap()
    }

    fn call(&mut self, link: Link, payload: Payload) {
        self.next += 1;
        self.held.insert(self.next);
        self.replies.clear();
        let event = Event::Called {
            link,
            ticket: Ticket(self.next),
            at: UNIX_EPOCH + self.now,
            payload,
        };
        self.happens(event);
        assert_eq!(self.replies.len(), 1, "each call is replied to at once");
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.desk.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.desk.wake(self.now);
            self.gather();
            assert!(
                self.desk.deadline().is_none_or(|next| next > self.now),
                "time goes on"
            );
        }
        self.now = until;
    }

    /// What it counts is what it lists, within what it may keep.
    fn is_sound(&mut self) {
        let metrics = self.json("/v1/ns/operator/metrics?onlyStatus=false");
        let count = |key: &str| metrics[key].as_u64().expect("a count");
        assert!(count("serviceCount") <= 10_000 && count("instanceCount") <= 100_000);
        let list = self.json("/v1/ns/service/list?pageNo=1&pageSize=500");
        let names = list["doms"].as_array().unwrap().clone();
        assert_eq!(list["count"].as_u64().unwrap(), names.len() as u64);
        assert!(names.len() as u64 <= count("serviceCount"));
        // One without a name, which gRPC lets in, cannot be asked for over HTTP.
        for name in names.iter().filter(|name| **name != "") {
            let name: String = name
                .as_str()
                .unwrap()
                .bytes()
                .map(|byte| format!("%{byte:02X}"))
                .collect();
            let list = self.json(&format!("/v1/ns/instance/list?serviceName={name}"));
            let hosts = list["hosts"].as_array().unwrap();
            assert!(hosts.len() as u64 <= count("instanceCount"));
            for host in hosts {
                assert!((0..=65_535).contains(&host["port"].as_i64().unwrap()));
                assert!(host["weight"].is_number(), "{host}");
            }
        }
    }
}

/// An answer that can be sent, and is JSON where it looks like it.
fn is_sound(answer: &Answer) {
    assert!((200..600).contains(&answer.status()), "{}", answer.status());
    let json = answer
        .header("Content-Type")
        .is_some_and(|kind| kind.starts_with("application/json"));
    // What was published is told as it came.
    let ours = answer.header("Config-Type").is_none();
    if json && ours && answer.body().first() == Some(&b'{') {
        serde_json::from_slice::<Value>(answer.body()).expect("what says that it is JSON is JSON");
    }
}

fn like(rng: &mut Rng) -> Like {
    *rng.choice(&[Like::V1_4, Like::V2_5, Like::V3_0]).unwrap()
}

/// Any recorded request with changed query, body and headers, and what might be an acknowledgement over UDP.
fn over_http(rng: &mut Rng, corpus: &Corpus) {
    let mut world = World::new(like(rng));
    for _ in 0..STEPS {
        let mut asked = rng.choice(&corpus.asked).unwrap().clone();
        let other = rng.choice(&corpus.asked).unwrap();
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let mut query = query.as_bytes().to_vec();
        mutate(rng, &mut query, other.target.as_bytes());
        let mut path = path.as_bytes().to_vec();
        if rng.u8(0..10) == 0 {
            mutate(rng, &mut path, other.target.as_bytes());
        }
        mutate(rng, &mut asked.body, &other.body);
        if rng.u8(0..5) == 0 {
            asked.method.clone_from(&other.method);
        }
        for (_, value) in &mut asked.headers {
            if rng.u8(0..5) == 0 {
                let mut bytes = std::mem::take(value).into_bytes();
                mutate(rng, &mut bytes, b"30000");
                *value = text(bytes);
            }
        }
        let target = format!("{}?{}", text(path), text(query));
        world.ask(Request::new(
            asked.method,
            &target,
            asked.headers,
            asked.body,
        ));
        if rng.u8(0..4) == 0 {
            let mut bytes =
                br#"{"type":"push-ack","lastRefTime":"1700000000000","data":""}"#.to_vec();
            mutate(rng, &mut bytes, &other.body);
            let from = ([127, 0, 0, 1], 5_000 + rng.u16(0..3)).into();
            let bytes = bytes.into();
            world.happens(Event::Datagram { from, bytes });
        }
        if rng.u8(0..6) == 0 {
            world.wait(Duration::from_millis(rng.u64(0..20_000)));
        }
    }
    world.is_sound();
    world.wait(Duration::from_secs(301));
    assert!(world.held.is_empty(), "held for ever: {:?}", world.held);
    world.is_sound();
}

/// The parameters whose values have a grammar of their own.
fn grammars(rng: &mut Rng, _: &Corpus) {
    const BEAT: &str = r#"{"cluster":"DEFAULT","ip":"10.0.0.1","metadata":{"a":"b","preserved.heart.beat.timeout":"100"},"period":5000,"port":8080,"scheduled":false,"serviceName":"DEFAULT_GROUP@@s","stopped":false,"weight":1.0}"#;
    const LISTEN: &str = "d\u{2}g\u{2}0123456789abcdef0123456789abcdef\u{2}t\u{1}e\u{2}g\u{2}\u{1}";
    const METADATA: &str =
        r#"{"a":"1","b":2,"c":null,"d":true,"preserved.ip.delete.timeout":"100"}"#;
    const CHECKER: &str = r#"{"type":"NONE"}"#;
    let mut world = World::new(like(rng));
    for _ in 0..STEPS {
        let (method, path, name, value) = *rng
            .choice(&[
                ("PUT", "/v1/ns/instance/beat?serviceName=s&ip=10.0.0.1&port=8080", "beat", BEAT),
                ("POST", "/v1/cs/configs/listener?", "Listening-Configs", LISTEN),
                ("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=8080", "metadata", METADATA),
                ("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=8080", "metadata", "a=b,c=d"),
                ("PUT", "/v1/ns/cluster?serviceName=s&clusterName=c&checkPort=1&useInstancePort4Check=true", "healthChecker", CHECKER),
                ("POST", "/v1/ns/service?serviceName=s", "selector", CHECKER),
                ("POST", "/v1/cs/configs?dataId=d&group=g&tenant=t", "content", METADATA),
                ("POST", "/v3/admin/ns/instance?serviceName=s&ip=10.0.0.1&port=8080", "metadata", METADATA),
                ("PUT", "/v3/admin/ns/instance/metadata/batch?serviceName=s&consistencyType=ephemeral", "instances", "[{\"ip\":\"10.0.0.1\",\"port\":8080,\"clusterName\":\"DEFAULT\",\"ephemeral\":true}]"),
            ])
            .unwrap();
        let mut value = value.as_bytes().to_vec();
        mutate(rng, &mut value, LISTEN.as_bytes());
        let mut form = format!("{name}=").into_bytes();
        for byte in value {
            if byte.is_ascii_alphanumeric() || rng.u8(0..50) == 0 {
                form.push(byte);
            } else {
                form.extend_from_slice(format!("%{byte:02x}").as_bytes());
            }
        }
        let hold = if rng.bool() { "10500" } else { "-1" };
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Long-Pulling-Timeout", hold),
        ];
        world.ask(Request::new(method, path, headers, form));
    }
    world.is_sound();
    world.wait(Duration::from_secs(301));
    assert!(world.held.is_empty(), "held for ever: {:?}", world.held);
    world.is_sound();
}

/// Recorded messages with changed class and body, and changed bytes of whole messages.
fn over_grpc(rng: &mut Rng, corpus: &Corpus) {
    let mut world = World::new(*rng.choice(&[Like::V2_5, Like::V3_0]).unwrap());
    let (link, stream) = (Link(1), Stream(2));
    let peer = ([127, 0, 0, 1], 4_000).into();
    world.happens(Event::Linked {
        link,
        peer,
        at: UNIX_EPOCH,
    });
    let setup = r#"{"labels":{"module":"naming"},"abilityTable":{}}"#;
    let streamed = |payload, now| Event::Streamed {
        link,
        stream,
        at: UNIX_EPOCH + now,
        payload,
    };
    world.happens(streamed(
        Payload::raw("ConnectionSetupRequest", setup),
        world.now,
    ));
    for _ in 0..STEPS {
        let (kind, mut body) = rng.choice(&corpus.called).unwrap().clone();
        let other = rng.choice(&corpus.called).unwrap();
        mutate(rng, &mut body, &other.1);
        let kind = if rng.u8(0..6) == 0 { &other.0 } else { &kind };
        let mut payload = Payload::raw(kind, body);
        if rng.u8(0..4) == 0 {
            let mut bytes = payload.encode_to_vec();
            mutate(rng, &mut bytes, &other.1);
            match Payload::decode(&bytes[..]) {
                Ok(read) => payload = read,
                // The door refuses what is no message.
                Err(_) => continue,
            }
        }
        if rng.u8(0..4) == 0 {
            let event = streamed(payload, world.now);
            world.happens(event);
        } else {
            world.call(link, payload);
        }
        if rng.u8(0..10) == 0 {
            world.wait(Duration::from_millis(rng.u64(0..4_000)));
        }
    }
    world.is_sound();
    world.happens(Event::Unlinked(link));
    world.wait(Duration::from_secs(301));
    assert!(world.held.is_empty(), "never replied to: {:?}", world.held);
    world.is_sound();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays rounds until it is enough.
fn play(round: fn(&mut Rng, &Corpus)) {
    let corpus = Corpus::read();
    let enough = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    let again = number("FUZZ_SEED");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut seed = again.unwrap_or(since.as_micros() as u64);
    let began = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || (again.is_none() && began.elapsed() < enough) {
        let mut rng = Rng::with_seed(seed);
        if catch_unwind(AssertUnwindSafe(|| round(&mut rng, &corpus))).is_err() {
            panic!("play it again: FUZZ_SEED={seed} cargo test --test fuzz");
        }
        seed += 1;
        rounds += 1;
    }
    eprintln!("{rounds} rounds of {STEPS} requests");
}

#[test]
fn any_request_over_http_is_answered_once_and_leaves_the_registry_sound() {
    play(over_http);
}

#[test]
fn beats_listeners_metadata_and_selectors_of_any_form_leave_the_registry_sound() {
    play(grammars);
}

#[test]
fn any_message_over_grpc_is_replied_to_once_and_leaves_the_registry_sound() {
    play(over_grpc);
}
