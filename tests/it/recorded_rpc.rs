//! Over gRPC the registry says what Nacos 2.5.1 and 3.0.3 said: the recorded connections of `tests/cases/`, in virtual time.
//!
//! Each file is one connection. What came over it is played at the recorded moment, and what others did meanwhile is put in
//! (`MEANWHILE`). Answers must be the recorded ones; what was pushed must be the same, within [`NEAR`] of its moment, in whatever
//! order: the original's pushes of configurations wait for a disk. Left out are times, numbers and ids ([`MASKED`]), and where
//! this registry differs on purpose there is a line in [`DIFFERENCES`].

use outrigger::machine::{Machine, Moment};
use outrigger::{
    nacos::rpc::Payload,
    registry::{
        Desk, Like, Request,
        desk::{Effect, Event, Fault, Link, Stream, Ticket},
    },
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// The delay of the servers that were recorded.
const PUSH_DELAY: Duration = Duration::from_millis(500);
/// How far a push may be from its recorded moment: what wakes the original is a clock, and its phase is chance.
const NEAR: Duration = Duration::from_millis(2_500);
/// Keys whose values are times, numbers and ids.
const MASKED: &[&str] = &["connectionId", "requestId", "lastRefTime", "lastModified"];

/// Files, by what their name begins with, and why they are not played.
const NOT_PLAYED: &[(&str, &str)] = &[(
    "auth",
    "of a server that asks for a password: played by `auth`",
)];

/// Where this registry answers otherwise: file (any when empty), class, key and why. The key is not compared.
const DIFFERENCES: &[(&str, &str, &str, &str)] = &[
    (
        "",
        "SetupAckRequest",
        "abilityTable",
        "3.0.3 offers fuzzyWatch, lock and mcp too, which are not served here; what is offered is compared apart",
    ),
    (
        "naming-errors",
        "ServiceListResponse",
        "count",
        "the recorded server had other services from before",
    ),
    (
        "naming-errors",
        "ServiceListResponse",
        "serviceNames",
        "the recorded server had other services from before",
    ),
];

/// Pushes that come here, once each, and are not in a file: a part of it, and why.
const BEYOND_THE_RECORDING: &[(&str, &str, &str)] = &[
    (
        "nacos-2.5.1",
        r#""dataId":"gcfg2""#,
        "removed in the last 10 ms of the recording, which ends before the push",
    ),
    (
        "nacos-3.0.3",
        r#""dataId":"gcfg","#,
        "of what was published before the second half, which this file leaves out",
    ),
];

/// What others did meanwhile: file, millisecond, what. A target is asked over HTTP, JSON is an instance that another connection
/// registers.
const MEANWHILE: &[(&str, &str, u64, &str)] = &[
    (
        "",
        "naming-errors",
        0,
        "POST /v1/ns/instance?serviceName=ph-none&ip=10.0.0.1&port=1&ephemeral=false",
    ),
    (
        "",
        "naming-errors",
        0,
        r#"{"serviceName":"g1","ip":"10.0.0.9","port":9}"#,
    ),
    (
        "nacos-2.5.1",
        "push-not-acked",
        0,
        r#"{"serviceName":"g1","metadata":{"after":"unsub"}}"#,
    ),
    (
        "nacos-2.5.1",
        "push-not-acked",
        300,
        r#"{"serviceName":"g1","metadata":{"n":"1"}}"#,
    ),
    (
        "",
        "config-notify-not-acked",
        265,
        "POST /v1/cs/configs?dataId=gcfg4&group=DEFAULT_GROUP&content=x",
    ),
    ("nacos-2.5.1", "connect-reset", 1_400, "reset"),
    // What was published before the second half was not kept: its MD5 is put in place of the recorded one.
    (
        "",
        "config-edge",
        4_300,
        "POST /v1/cs/configs?dataId=gcfg&group=DEFAULT_GROUP&content=before",
    ),
];

/// MD5 of what the recorded server had there, and of `before`.
const BEFORE: (&str, &str) = (
    "3b770ebe9b04f171f0ead0e07d8e2882",
    "2f44417567bc123bd7c60de8c2a2b444",
);

const RECORDED: (Link, Stream) = (Link(1), Stream(1));
const OTHER: (Link, Stream) = (Link(2), Stream(2));

struct Play {
    desk: Desk,
    now: Moment,
    ticket: u64,
    acknowledges: bool,
    reply: Option<Payload>,
    pushed: Vec<(Moment, Payload)>,
}

impl Play {
    fn start(like: Like) -> Self {
        let mut play = Self {
            desk: Desk::new(like).pushing_after(PUSH_DELAY),
            now: Duration::ZERO,
            ticket: 0,
            acknowledges: true,
            reply: None,
            pushed: Vec::new(),
        };
        for (link, port) in [(RECORDED.0, 40_000), (OTHER.0, 40_001)] {
            let at = UNIX_EPOCH;
            let peer = ([127, 0, 0, 1], port).into();
            play.happens(Event::Linked { link, peer, at });
        }
        let setup = json!({"labels": {"module": "naming"}});
        play.over_stream(OTHER, "ConnectionSetupRequest", &setup);
        play
    }

    fn happens(&mut self, event: Event) {
        self.desk.handle(self.now, event);
        self.gather();
    }

    fn gather(&mut self) {
        while let Some(effect) = self.desk.effect() {
            match effect {
                Effect::Reply(_, payload) => self.reply = Some(payload),
                Effect::Push(link, _, payload) if link == RECORDED.0 => {
                    let body: Value = payload.read_value();
                    self.pushed.push((self.now, payload.clone()));
                    if self.acknowledges && body["requestId"].is_string() {
                        // Some libraries acknowledge everything with this class.
                        let answer = json!({"resultCode": 200, "errorCode": 0, "requestId": body["requestId"]});
                        self.over_stream(RECORDED, "NotifySubscriberResponse", &answer);
                    }
                }
                _ => {}
            }
        }
    }

    fn until(&mut self, moment: Moment) {
        while let Some(due) = self.desk.deadline().filter(|due| *due <= moment) {
            self.now = self.now.max(due);
            self.desk.wake(self.now);
            self.gather();
        }
        self.now = self.now.max(moment);
    }

    fn over_stream(&mut self, (link, stream): (Link, Stream), kind: &str, body: &Value) {
        let event = Event::Streamed {
            link,
            stream,
            at: UNIX_EPOCH + self.now,
            payload: Payload::raw(kind, body.to_string()),
        };
        self.happens(event);
    }

    fn call(&mut self, link: Link, kind: &str, body: String) -> Payload {
        self.ticket += 1;
        let event = Event::Called {
            link,
            ticket: Ticket(self.ticket),
            at: UNIX_EPOCH + self.now,
            payload: Payload::raw(kind, body),
        };
        self.happens(event);
        self.reply.take().expect("a call is answered at once")
    }

    fn meanwhile(&mut self, what: &str) {
        if what == "reset" {
            self.happens(Event::Faulted(Fault::Reset { to: None }));
        } else if what.starts_with('{') {
            let mut instance = json!({"ip": "10.0.0.1", "port": 1, "clusterName": "DEFAULT"});
            let said: Value = serde_json::from_str(what).unwrap();
            for (key, value) in said.as_object().unwrap() {
                instance[key] = value.clone();
            }
            let body = json!({
                "namespace": "public", "groupName": "DEFAULT_GROUP", "serviceName": said["serviceName"],
                "type": "registerInstance", "instance": instance,
            });
            let answer = self.call(OTHER.0, "InstanceRequest", body.to_string());
            assert_eq!(answer.kind(), "InstanceResponse", "{what}");
        } else {
            let (method, target) = what.split_once(' ').unwrap();
            self.ticket += 1;
            let event = Event::Asked {
                ticket: Ticket(self.ticket),
                at: UNIX_EPOCH + self.now,
                request: Request::new(method, target, [("", ""); 0], ""),
            };
            self.happens(event);
        }
    }
}

trait ReadValue {
    fn read_value(&self) -> Value;
}

impl ReadValue for Payload {
    fn read_value(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap()
    }
}

/// A message as it is compared.
fn essence(file: &str, kind: &str, body: &Value) -> String {
    let mut body = body.clone();
    let all = body.as_object_mut().unwrap();
    all.remove("_type");
    for (of, class, key, _) in DIFFERENCES {
        if (of.is_empty() || *of == file) && *class == kind {
            all.remove(*key);
        }
    }
    mask(&mut body);
    format!("{kind} {body}")
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(all) => {
            for (key, value) in all.iter_mut() {
                if MASKED.contains(&key.as_str()) {
                    *value = Value::Null;
                } else {
                    mask(value);
                }
            }
            if let Some(Value::String(message)) = all.get_mut("message")
                && let Some((before, rest)) = message.split_once("Client [")
                && let Some((_, after)) = rest.split_once(']')
            {
                *message = format!("{before}Client []{after}");
            }
        }
        Value::Array(all) => {
            all.iter_mut().for_each(mask);
            all.sort_by_key(|host| host["instanceId"].to_string());
        }
        // Weights are written with a fraction or without.
        Value::Number(number) => *value = json!(number.as_f64()),
        _ => {}
    }
}

fn folder(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/cases").join(name)
}

fn read(place: &str, file: &str) -> Vec<Value> {
    let path = folder(place).join(format!("grpc-{file}.json"));
    let text = fs::read_to_string(path).unwrap();
    let case: Value = serde_json::from_str(&text).unwrap();
    case["messages"].as_array().unwrap().clone()
}

/// Plays one file after what has been played already; every difference.
fn play(play: &mut Play, place: &str, file: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut told, mut asked) = (Vec::new(), None);
    play.acknowledges = !file.contains("not-acked") && file != "client-detection";
    play.pushed.clear();
    // A connection that goes on counts from where it began.
    let began = Duration::ZERO;
    let messages = read(place, file);
    let others = |(where_, of, at, what): &(&str, &str, u64, &str)| {
        let fits = (where_.is_empty() || *where_ == place) && *of == file;
        fits.then(|| (began + Duration::from_millis(*at), (*what).to_owned()))
    };
    let mut others: Vec<(Moment, String)> = MEANWHILE.iter().filter_map(others).collect();
    if file == "subscribe-push" {
        // Whoever was pushed something had seen another register it, half a second before.
        for message in
            (messages.iter()).filter(|message| message["type"] == "NotifySubscriberRequest")
        {
            let at = Duration::from_millis(message["at_ms"].as_u64().unwrap()) - PUSH_DELAY;
            let host = &message["body"]["serviceInfo"]["hosts"][0];
            if host.is_object() {
                let instance = json!({"serviceName": "g1", "metadata": host["metadata"]});
                others.push((began + at, instance.to_string()));
            }
        }
    }
    others.sort();
    for message in &messages {
        let at = began + Duration::from_millis(message["at_ms"].as_u64().unwrap_or(0));
        while others.first().is_some_and(|(due, _)| *due <= at) {
            let (due, what) = others.remove(0);
            play.until(due);
            play.meanwhile(&what);
        }
        play.until(at);
        let kind = message["type"].as_str().unwrap();
        let body = &message["body"];
        match message["dir"].as_str().unwrap() {
            "C->S unary" => {
                let body = body.to_string().replace(BEFORE.0, BEFORE.1);
                asked = Some(play.call(RECORDED.0, kind, body));
            }
            "C->S stream" if body["requestId"].is_null() => play.over_stream(RECORDED, kind, body),
            "C->S stream" => {}
            "S->C unary" => {
                let answer = asked.take().unwrap_or_else(|| {
                    // A body that is no JSON has no place in the file.
                    let setup = json!({"labels": {"module": "naming"}});
                    play.over_stream(RECORDED, "ConnectionSetupRequest", &setup);
                    play.call(RECORDED.0, "HealthCheckRequest", "no JSON".to_owned())
                });
                let recorded = essence(file, kind, body);
                let answered = essence(file, answer.kind(), &answer.read_value());
                if recorded != answered {
                    wrong.push(format!(
                        "{place} {file}:\n  recorded {recorded}\n  answered {answered}"
                    ));
                }
            }
            _ => told.push((essence(file, kind, body), at)),
        }
    }
    play.until(play.now + PUSH_DELAY);
    let mut pushed: Vec<(String, Moment)> = std::mem::take(&mut play.pushed)
        .iter()
        .map(|(at, payload)| (essence(file, payload.kind(), &payload.read_value()), *at))
        .collect();
    for (recorded, at) in told {
        let near = |(push, when): &(String, Moment)| *push == recorded && when.abs_diff(at) <= NEAR;
        match pushed.iter().position(near) {
            Some(found) => _ = pushed.remove(found),
            None => wrong.push(format!("{place} {file}: at {at:?} not pushed: {recorded}")),
        }
    }
    let mut beyond = BEYOND_THE_RECORDING.to_vec();
    for (push, at) in pushed {
        let known = |(of, part, _): &(&str, &str, &str)| *of == place && push.contains(part);
        if let Some(known) = beyond.iter().position(known) {
            beyond.remove(known);
        } else {
            wrong.push(format!(
                "{place} {file}: at {at:?} pushed beyond the recording: {push}"
            ));
        }
    }
    wrong
}

const PLACES: [(&str, Like); 2] = [("nacos-2.5.1", Like::V2_5), ("nacos-3.0.3", Like::V3_0)];

/// Two files are one connection.
const GOES_ON: (&str, &str) = ("config-flow", "config-edge");

#[test]
fn over_grpc_it_says_what_2_5_1_and_3_0_3_said() {
    let mut wrong = Vec::new();
    for (place, like) in PLACES {
        let names = fs::read_dir(folder(place)).unwrap();
        let mut names: Vec<String> = names
            .filter_map(|file| {
                let name = file.unwrap().file_name().into_string().unwrap();
                let name = name.strip_prefix("grpc-")?.strip_suffix(".json")?;
                Some(name.to_owned())
            })
            .collect();
        names.sort();
        assert!(names.len() > 15, "{place} has them");
        for name in names {
            if name == GOES_ON.1
                || NOT_PLAYED
                    .iter()
                    .any(|(begins, _)| name.starts_with(begins))
            {
                continue;
            }
            let mut it = Play::start(like);
            wrong.extend(play(&mut it, place, &name));
            if name == GOES_ON.0 {
                wrong.extend(play(&mut it, place, GOES_ON.1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_offered_that_the_recorded_servers_did_not_offer() {
    for (place, like) in PLACES {
        let recorded = read(place, "handshake");
        let ack = recorded
            .iter()
            .find(|message| message["type"] == "SetupAckRequest");
        let recorded = ack.unwrap()["body"]["abilityTable"]
            .as_object()
            .unwrap()
            .clone();
        let mut play = Play::start(like);
        let setup = json!({"abilityTable": {}});
        play.over_stream(RECORDED, "ConnectionSetupRequest", &setup);
        let body = play.pushed[0].1.read_value();
        let offered = body["abilityTable"].as_object().unwrap();
        assert!(!offered.is_empty());
        for (ability, value) in offered {
            assert_eq!(recorded.get(ability), Some(value), "{place}: {ability}");
        }
    }
}
