//! The protection threshold as live servers showed it: the same in lists, in pushes over UDP and over gRPC, of whole services and of
//! clusters.

use flate2::read::GzDecoder;
use outrigger::{
    machine::{Machine as _, Moment},
    nacos::rpc::Payload,
    registry::{
        Desk, Like, Request,
        desk::{Effect, Event, Link, Stream, Ticket},
    },
};
use serde_json::{Value, json};
use std::{
    io::Read as _,
    time::{Duration, UNIX_EPOCH},
};

const LINK: Link = Link(1);
const STREAM: Stream = Stream(1);

/// A service, and whoever is told of it in each way.
struct Watched {
    desk: Desk,
    now: Moment,
    ticket: u64,
    answer: String,
    /// Whether the first instance is healthy, and its cluster.
    first: (bool, &'static str),
    over_udp: Option<Value>,
    over_grpc: Option<Value>,
}

impl Watched {
    /// With so many instances, the first `healthy` of them healthy, all in the cluster `c` but the last one.
    fn service(like: Like, settings: &str, healthy: usize, count: usize) -> Self {
        let mut it = Self {
            desk: Desk::new(like),
            now: Duration::ZERO,
            ticket: 0,
            answer: String::new(),
            first: (healthy > 0, if count == 1 { "last" } else { "c" }),
            over_udp: None,
            over_grpc: None,
        };
        if !settings.is_empty() {
            let ephemeral = if like == Like::V3_0 {
                "&ephemeral=true"
            } else {
                ""
            };
            let path = if like == Like::V3_0 { "v3/admin" } else { "v1" };
            // Like 2.5 `POST /service` makes it persistent, so an instance is there first and the settings are changed.
            if like == Like::V2_5 {
                it.register(1, true, "c");
                it.ask("PUT", &format!("/v1/ns/service?serviceName=s&{settings}"));
            } else {
                it.ask(
                    "POST",
                    &format!("/{path}/ns/service?serviceName=s&{settings}{ephemeral}"),
                );
            }
        }
        for port in 1..=count {
            let cluster = if port == count { "last" } else { "c" };
            if port == 1 {
                // What was there is told its health anew.
                it.ask(
                    "DELETE",
                    "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1&clusterName=c",
                );
            }
            it.register(port, port <= healthy, cluster);
        }
        it
    }

    fn happens(&mut self, event: Event) {
        self.desk.handle(self.now, event);
        self.gather();
    }

    fn gather(&mut self) {
        while let Some(effect) = self.desk.effect() {
            match effect {
                Effect::Answer(_, answer) => {
                    self.answer = String::from_utf8(answer.body().to_vec()).unwrap();
                }
                Effect::Datagram(_, bytes) => {
                    let mut text = String::new();
                    let plain = bytes.starts_with(b"{");
                    if plain {
                        text = String::from_utf8(bytes.to_vec()).unwrap();
                    } else {
                        GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
                    }
                    let told: Value = serde_json::from_str(&text).unwrap();
                    let data = told["data"].as_str().unwrap();
                    self.over_udp = Some(serde_json::from_str(data).unwrap());
                }
                Effect::Push(_, _, payload) if payload.kind() == "NotifySubscriberRequest" => {
                    let told: Value = serde_json::from_slice(payload.body()).unwrap();
                    self.over_grpc = Some(told["serviceInfo"].clone());
                }
                _ => {}
            }
        }
    }

    fn ask(&mut self, method: &str, target: &str) -> Value {
        self.ticket += 1;
        let agent = [("User-Agent", "Nacos-Java-Client:v1.4.8")];
        let request = Request::new(method, target, agent, "").from([127, 0, 0, 1].into());
        self.happens(Event::Asked {
            ticket: Ticket(self.ticket),
            at: UNIX_EPOCH,
            request,
        });
        serde_json::from_str(&self.answer).unwrap_or(Value::Null)
    }

    fn register(&mut self, port: usize, healthy: bool, cluster: &str) {
        let of = format!("serviceName=s&ip=10.0.0.1&port={port}&clusterName={cluster}");
        self.ask("POST", &format!("/v1/ns/instance?{of}&healthy={healthy}"));
    }

    fn grpc(&mut self, kind: &str, body: &Value) {
        self.ticket += 1;
        self.happens(Event::Called {
            link: LINK,
            ticket: Ticket(self.ticket),
            at: UNIX_EPOCH,
            payload: Payload::raw(kind, body.to_string()),
        });
    }

    /// What subscribers of these clusters are told after a change that changes no health.
    fn told(&mut self, like: Like, clusters: &str) -> Vec<Value> {
        let list = format!("/v1/ns/instance/list?serviceName=s&udpPort=4000&clusters={clusters}");
        self.ask("GET", &list);
        if like != Like::V1_4 {
            self.happens(Event::Linked {
                link: LINK,
                peer: ([127, 0, 0, 1], 1).into(),
                at: UNIX_EPOCH,
            });
            let setup = r#"{"labels":{"module":"naming"}}"#;
            self.happens(Event::Streamed {
                link: LINK,
                stream: STREAM,
                at: UNIX_EPOCH,
                payload: Payload::raw("ConnectionSetupRequest", setup),
            });
            let subscribe = json!({"namespace": "public", "groupName": "DEFAULT_GROUP", "serviceName": "s", "subscribe": true, "clusters": clusters});
            self.grpc("SubscribeServiceRequest", &subscribe);
        }
        // Like 1.4 nobody is told without a change: one that changes no health.
        let (healthy, cluster) = self.first;
        self.register(1, healthy, cluster);
        self.now += Duration::from_secs(1);
        self.desk.wake(self.now);
        self.gather();
        let told = [self.over_udp.take(), self.over_grpc.take()];
        told.into_iter().flatten().collect()
    }
}

/// How many hosts a list shows, how many of them healthy, and whether it says that it is masked.
fn seen(list: &Value) -> (usize, usize, bool) {
    let hosts = list["hosts"].as_array().unwrap();
    let healthy = hosts.iter().filter(|host| host["healthy"] == true).count();
    (
        hosts.len(),
        healthy,
        list["reachProtectionThreshold"] == true,
    )
}

#[test]
fn lists_and_pushes_are_masked_alike_where_too_few_are_healthy() {
    let (old, new) = (&[Like::V1_4][..], &[Like::V2_5, Like::V3_0][..]);
    let every = "/v1/ns/instance/list?serviceName=s";
    let sound = "/v1/ns/instance/list?serviceName=s&healthyOnly=true";
    for (likes, settings, (healthy, count), list, healthy_only, flag) in [
        // 1 of 3 with 0.6: all are shown healthy; later the flag tells, and `healthyOnly` shows the one.
        (new, "protectThreshold=0.6", (1, 3), (3, 3), (1, 1), true),
        (old, "protectThreshold=0.6", (1, 3), (3, 3), (3, 3), false),
        // Just at the threshold is too few; above it is not.
        (new, "protectThreshold=0.5", (1, 2), (2, 2), (1, 1), true),
        (new, "protectThreshold=0.5", (2, 3), (3, 2), (2, 2), false),
        (old, "protectThreshold=0.5", (2, 3), (3, 2), (2, 2), false),
        // None at all: only a service with settings is masked later, like 1.4 every one is, even for `healthyOnly`.
        (new, "protectThreshold=0", (0, 2), (2, 2), (0, 0), true),
        (new, "", (0, 2), (2, 0), (0, 0), false),
        (old, "", (0, 2), (2, 2), (2, 2), false),
        // Below 0 it is off like 1.4, and as 0 later.
        (old, "protectThreshold=-1", (0, 2), (2, 0), (0, 0), false),
        (new, "protectThreshold=-1", (0, 2), (2, 2), (0, 0), true),
        // All healthy ones alone are too few for 1 and more.
        (new, "protectThreshold=1", (1, 2), (2, 2), (1, 1), true),
    ] {
        for like in likes {
            let what = format!("{like:?} {settings} {healthy}/{count}");
            let mut it = Watched::service(*like, settings, healthy, count);
            let (shown, well, told) = seen(&it.ask("GET", every));
            assert_eq!(((shown, well), told), (list, flag), "{what}");
            let (shown, well, _) = seen(&it.ask("GET", sound));
            assert_eq!((shown, well), healthy_only, "{what} healthyOnly");
            let pushed = it.told(*like, "");
            assert_eq!(
                pushed.len(),
                if *like == Like::V1_4 { 1 } else { 2 },
                "{what}"
            );
            for (n, push) in pushed.iter().enumerate() {
                // Over UDP nothing tells.
                let tells = flag && n == 1;
                let (shown, well, told) = seen(push);
                assert_eq!(((shown, well), told), (list, tells), "{what}: push {n}");
            }
        }
    }
}

#[test]
fn only_the_hosts_of_the_clusters_that_were_asked_for_count() {
    for like in [Like::V1_4, Like::V2_5, Like::V3_0] {
        // Two healthy ones in `c`, an ill one in `last`.
        let mut it = Watched::service(like, "protectThreshold=0.3", 2, 3);
        for (clusters, list) in [("c", (2, 2)), ("last", (1, 1)), ("", (3, 2))] {
            let target = format!("/v1/ns/instance/list?serviceName=s&clusters={clusters}");
            let (shown, well, _) = seen(&it.ask("GET", &target));
            assert_eq!((shown, well), list, "{like:?} {clusters}");
        }
        for push in it.told(like, "last") {
            let (shown, well, _) = seen(&push);
            assert_eq!((shown, well), (1, 1), "{like:?}");
        }
    }
}

#[test]
fn a_disabled_host_counts_like_1_4_alone_and_is_never_shown() {
    for (like, list) in [
        (Like::V1_4, (1, 1)),
        (Like::V2_5, (1, 0)),
        (Like::V3_0, (1, 0)),
    ] {
        // One ill and one healthy but disabled: 1 of 2 like 1.4, 0 of 1 later.
        let settings = if like == Like::V1_4 {
            "protectThreshold=0.5"
        } else {
            ""
        };
        let mut it = Watched::service(like, settings, 0, 1);
        it.ask(
            "POST",
            "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=2&enabled=false",
        );
        let (shown, well, _) = seen(&it.ask("GET", "/v1/ns/instance/list?serviceName=s"));
        assert_eq!((shown, well), list, "{like:?}");
    }
    // With one more that is enabled and ill, 1 of 3 is above 0.3 like 1.4 and 0 of 2 is not later.
    for (like, well) in [(Like::V1_4, 0), (Like::V2_5, 2), (Like::V3_0, 2)] {
        let mut it = Watched::service(like, "protectThreshold=0.3", 0, 2);
        it.ask(
            "POST",
            "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=9&enabled=false",
        );
        let list = it.ask("GET", "/v1/ns/instance/list?serviceName=s");
        assert_eq!(seen(&list).1, well, "{like:?}");
    }
}
