//! Where the generations of Nacos differ in what they do, not only in what they say: the embedded registry without sockets, in virtual time.

use outrigger::{
    machine::{Machine as _, Moment},
    registry::{
        Answer, Desk, Like, Request,
        desk::{Effect, Event, Fault, Ticket},
    },
};
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

const ALL: [Like; 3] = [Like::V1_4, Like::V2_5, Like::V3_0];
const NONE: &str = "clusterName=DEFAULT&checkPort=80&useInstancePort4Check=true&healthChecker=%7B%22type%22:%22NONE%22%7D";

/// A registry, its clock, and whoever asks it.
pub(crate) struct Registry {
    desk: Desk,
    now: Moment,
    tickets: u64,
}

impl Registry {
    pub(crate) fn like(like: Like) -> Self {
        Self {
            desk: Desk::new(like),
            now: Duration::ZERO,
            tickets: 0,
        }
    }

    /// Asks; `None` while the answer is held.
    pub(crate) fn send(&mut self, request: Request) -> Option<Answer> {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let at = UNIX_EPOCH + self.now;
        self.desk.handle(
            self.now,
            Event::Asked {
                ticket,
                at,
                request,
            },
        );
        match self.desk.effect()? {
            Effect::Answer(answered, answer) => {
                assert_eq!(answered, ticket);
                Some(answer)
            }
            other => panic!("nobody is connected over gRPC: {other:?}"),
        }
    }

    /// Asks what is answered at once: status and body.
    pub(crate) fn ask(&mut self, method: &str, target: &str) -> (u16, String) {
        let request = Request::new(method, target, [("", ""); 0], "");
        let answer = self.send(request).unwrap();
        let body = String::from_utf8(answer.body().to_vec()).unwrap();
        (answer.status(), body)
    }

    pub(crate) fn json(&mut self, method: &str, target: &str) -> Value {
        let (status, body) = self.ask(method, target);
        assert_eq!(status, 200, "{target}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn ok(&mut self, method: &str, target: &str) {
        let (status, body) = self.ask(method, target);
        assert_eq!(status, 200, "{target}: {body}");
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.wait_ms(seconds * 1_000);
    }

    pub(crate) fn wait_ms(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.desk.wake(self.now);
    }

    /// The health that the detail shows of the one persistent instance of the recipe.
    fn detail(&mut self, like: Like) -> bool {
        let it = "serviceName=s&ip=10.0.0.1&port=80";
        let seen = if like == Like::V3_0 {
            self.json("GET", &format!("/v3/admin/ns/instance?{it}"))["data"].clone()
        } else {
            self.json("GET", &format!("/v1/ns/instance?{it}"))
        };
        seen["healthy"].as_bool().unwrap()
    }

    /// Service and checker, as each generation wants them.
    fn prepare(&mut self, like: Like) {
        if like == Like::V3_0 {
            self.ok("POST", "/v3/admin/ns/service?serviceName=s&ephemeral=false");
            self.ok("PUT", &format!("/v3/admin/ns/cluster?serviceName=s&{NONE}"));
        } else {
            self.ok("POST", "/v1/ns/service?serviceName=s");
            self.ok("PUT", &format!("/v1/ns/cluster?serviceName=s&{NONE}"));
        }
    }

    fn by_hand(&mut self, like: Like, healthy: bool) -> (u16, String) {
        let path = if like == Like::V3_0 { "v3/admin" } else { "v1" };
        let it = format!("serviceName=s&ip=10.0.0.1&port=80&healthy={healthy}");
        self.ask("PUT", &format!("/{path}/ns/health/instance?{it}"))
    }

    /// The answer to somebody who was held.
    pub(crate) fn desk_answer(&mut self) -> String {
        let Some(Effect::Answer(_, answer)) = self.desk.effect() else {
            panic!("nobody was answered");
        };
        String::from_utf8(answer.body().to_vec()).unwrap()
    }

    /// Lets the registry do something wrong from now on.
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.desk.handle(self.now, Event::Faulted(fault));
    }

    fn hosts(&mut self, query: &str) -> Vec<Value> {
        let list = self.json("GET", &format!("/v1/ns/instance/list?serviceName=s{query}"));
        list["hosts"].as_array().unwrap().clone()
    }
}

fn register(healthy: bool) -> String {
    format!("/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80&ephemeral=false&healthy={healthy}")
}

#[test]
fn the_health_of_a_persistent_instance_follows_what_its_generation_listens_to() {
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.prepare(like);
        registry.ok("POST", &register(false));
        assert!(!registry.detail(like), "{like:?}: as registered at first");
        registry.ok("POST", &register(true));
        let (status, said) = registry.by_hand(like, true);
        if like == Like::V1_4 {
            assert_eq!((status, said.as_str()), (200, "ok"));
        } else {
            assert_eq!(status, 400);
            assert!(said.contains("is persistent service"), "{said}");
        }
        assert!(registry.detail(like), "{like:?}");
        registry.ok("POST", &register(false));
        let by_registration = !registry.detail(like);
        assert_eq!(by_registration, like != Like::V1_4, "{like:?}");
        registry.by_hand(like, false);
        assert!(!registry.detail(like), "{like:?}");
        registry.ok(
            "DELETE",
            "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80&ephemeral=false",
        );
        assert!(registry.hosts("").is_empty());
    }
}

#[test]
fn a_lone_unhealthy_instance_is_listed_healthy_and_only_the_detail_tells() {
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.prepare(like);
        registry.ok("POST", &register(false));
        assert_eq!(registry.hosts("")[0]["healthy"], true, "{like:?}");
        let list = registry.json("GET", "/v1/ns/instance/list?serviceName=s");
        let flag = list.get("reachProtectionThreshold");
        assert_eq!(flag.is_some(), like != Like::V1_4, "1.4 has no flag");
        // On 1.4 not even this tells.
        let healthy = registry.hosts("&healthyOnly=true").len();
        assert_eq!(healthy, usize::from(like == Like::V1_4), "{like:?}");
        assert!(!registry.detail(like));
    }
}

#[test]
fn health_by_hand_of_an_absent_instance_says_ok_and_makes_none() {
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.prepare(like);
        assert_eq!(registry.by_hand(like, false).0, 200, "{like:?}");
        assert!(registry.hosts("").is_empty());
    }
}

#[test]
fn before_its_checker_is_none_the_health_is_not_ours() {
    for like in ALL {
        let mut registry = Registry::like(like);
        let (status, unknown) = registry.by_hand(like, false);
        if like == Like::V1_4 {
            assert_eq!(status, 500);
            assert!(unknown.contains("is null"), "{unknown}");
        } else {
            assert_eq!(status, 400);
            assert!(unknown.contains("health check is still working"));
        }
        registry.ok("POST", &register(true));
        let (status, said) = registry.by_hand(like, false);
        assert_eq!(status, 400, "{like:?}");
        assert!(said.contains("health check is still working"), "{said}");
        assert!(registry.detail(like), "nothing changed");
    }
}

#[test]
fn a_service_that_was_empty_for_a_minute_has_forgotten_its_checker() {
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.prepare(like);
        registry.wait(61);
        registry.ok("POST", &register(true));
        assert_eq!(registry.by_hand(like, false).0, 400, "{like:?}");
    }
}

#[test]
fn like_1_4_the_form_of_a_naming_post_is_lost_and_every_other_form_is_read() {
    let form = |method: &str, path: &str, body: &str| {
        let kind = [("Content-Type", "application/x-www-form-urlencoded")];
        Request::new(method, path, kind, body.to_owned())
    };
    let it = "serviceName=s&ip=10.0.0.1&port=80";
    for like in ALL {
        let mut registry = Registry::like(like);
        let mut status = |request| registry.send(request).unwrap().status();
        let posted = if like == Like::V1_4 { 400 } else { 200 };
        assert_eq!(status(form("POST", "/v1/ns/instance", it)), posted);
        assert_eq!(status(form("PUT", "/v1/ns/instance/beat", it)), 200);
        assert_eq!(status(form("DELETE", "/v1/ns/instance", it)), 200);
        let publish = "dataId=a&group=g&content=1";
        assert_eq!(status(form("POST", "/v1/cs/configs", publish)), 200);
    }
}

#[test]
fn a_light_beat_for_another_cluster_keeps_alive_except_like_1_4() {
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.ok("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80");
        let beat = "/v1/ns/instance/beat?serviceName=s&ip=10.0.0.1&port=80&clusterName=other";
        let answer = registry.json("PUT", beat);
        if like == Like::V1_4 {
            assert_eq!(answer["code"], 20404);
            assert_eq!(answer.get("lightBeatEnabled"), None);
        } else {
            assert_eq!(answer["code"], 10200);
        }
        registry.wait(10);
        registry.json("PUT", beat);
        registry.wait(10);
        assert_eq!(registry.hosts("").len(), 1);
        let healthy = &registry.hosts("&healthyOnly=true");
        // Masked in 1.4's list, where a threshold of 0 hides a lone unhealthy one.
        assert_eq!(healthy.len(), 1, "{like:?}");
        assert_eq!(like == Like::V1_4, {
            registry.wait(11);
            registry.hosts("").is_empty()
        });
    }
}

#[test]
fn a_full_beat_that_names_no_service_keeps_alive_like_1_4_alone() {
    let beat =
        "/v1/ns/instance/beat?serviceName=s&beat=%7B%22ip%22:%2210.0.0.1%22,%22port%22:80%7D";
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.ok("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80");
        for _ in 0..7 {
            registry.wait(4);
            assert_eq!(registry.json("PUT", beat)["code"], 10200, "{like:?}");
        }
        registry.wait(3);
        let alive = registry.hosts("").len() == 1;
        assert_eq!(alive, like == Like::V1_4, "{like:?}");
    }
}

#[test]
fn like_1_4_an_instance_that_is_registered_again_is_as_ill_as_before_until_it_beats() {
    for like in [Like::V1_4, Like::V2_5] {
        let mut registry = Registry::like(like);
        for port in [80, 81] {
            registry.ok(
                "POST",
                &format!("/v1/ns/instance?serviceName=s&ip=10.0.0.1&port={port}"),
            );
        }
        registry.wait(10);
        registry.json(
            "PUT",
            "/v1/ns/instance/beat?serviceName=s&ip=10.0.0.1&port=81",
        );
        registry.wait(6);
        registry.ok("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80");
        assert_eq!(registry.hosts("")[0]["healthy"], like != Like::V1_4);
        registry.json(
            "PUT",
            "/v1/ns/instance/beat?serviceName=s&ip=10.0.0.1&port=80",
        );
        assert_eq!(registry.hosts("")[0]["healthy"], true);
    }
}

#[test]
fn like_1_4_the_last_registration_wins_over_the_operator() {
    let weight = |registry: &mut Registry| registry.hosts("")[0]["weight"].as_f64();
    let it = "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80&weight";
    for (like, after) in [(Like::V1_4, 1.0), (Like::V2_5, 5.0)] {
        let mut registry = Registry::like(like);
        registry.ok("POST", &format!("{it}=1"));
        registry.ok("PUT", &format!("{it}=5"));
        assert_eq!(weight(&mut registry), Some(5.0));
        registry.ok("POST", &format!("{it}=1"));
        assert_eq!(weight(&mut registry), Some(after), "{like:?}");
    }
}

#[test]
fn a_publish_over_another_md5_overwrites_or_is_refused_in_two_ways() {
    for (like, told, kept) in [
        (Like::V1_4, (200, "true"), "2"),
        (
            Like::V2_5,
            (
                500,
                "caused: Cas publish fail, server md5 may have changed.;",
            ),
            "1",
        ),
        (Like::V3_0, (500, "false"), "1"),
    ] {
        let mut registry = Registry::like(like);
        registry.ok("POST", "/v1/cs/configs?dataId=a&group=g&content=1");
        let publish = "/v1/cs/configs?dataId=a&group=g&content=2";
        let request = Request::new("POST", publish, [("casMd5", "0")], "");
        let answer = registry.send(request).unwrap();
        assert_eq!(
            (answer.status(), answer.body().as_ref()),
            (told.0, told.1.as_bytes())
        );
        let (_, content) = registry.ask("GET", "/v1/cs/configs?dataId=a&group=g");
        assert_eq!(content, kept);
    }
}

#[test]
fn the_tenant_called_public_is_another_one_to_some_calls() {
    for (like, get, left) in [
        (Like::V1_4, 200, 200),
        (Like::V2_5, 404, 200),
        (Like::V3_0, 200, 404),
    ] {
        let mut registry = Registry::like(like);
        registry.ok(
            "POST",
            "/v1/cs/configs?dataId=a&group=g&content=1&tenant=public",
        );
        let plain = "/v1/cs/configs?dataId=a&group=g";
        assert_eq!(
            registry.ask("GET", plain).0,
            200,
            "{like:?}: published as ours"
        );
        let public = format!("{plain}&tenant=public");
        assert_eq!(registry.ask("GET", &public).0, get, "{like:?}");
        assert_eq!(registry.ask("DELETE", &public), (200, "true".to_owned()));
        assert_eq!(registry.ask("GET", plain).0, left, "{like:?}");
    }
}

#[test]
fn a_listener_who_names_nothing_that_can_be_read_is_held_like_1_4_and_refused_later() {
    for (like, status) in [
        (Like::V1_4, None),
        (Like::V2_5, Some(500)),
        (Like::V3_0, Some(400)),
    ] {
        let mut registry = Registry::like(like);
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Long-Pulling-Timeout", "30000"),
        ];
        let listen = Request::new(
            "POST",
            "/v1/cs/configs/listener",
            headers,
            "Listening-Configs=garbage",
        );
        let answer = registry.send(listen);
        assert_eq!(answer.map(|answer| answer.status()), status, "{like:?}");
        if status.is_none() {
            assert_eq!(
                registry.desk.deadline(),
                Some(Duration::from_millis(29_500))
            );
        }
    }
}

#[test]
fn who_reads_late_sees_all_of_a_moment_just_when_the_lag_after_its_first_change_is_over() {
    let mut registry = Registry::like(Like::V2_5);
    let lag = Fault::Lag(Duration::from_millis(600));
    registry.desk.handle(registry.now, Event::Faulted(lag));
    let register = |port| format!("/v1/ns/instance?serviceName=s&ip=10.0.0.1&port={port}");
    registry.ok("POST", &register(80));
    assert_eq!(registry.hosts("").len(), 1, "the first read is fresh");
    registry.ok("POST", &register(81));
    registry.wait_ms(599);
    registry.ok("POST", &register(82));
    assert_eq!(registry.hosts("").len(), 1);
    assert_eq!(
        registry.ask("GET", &register(81)).0,
        404,
        "the detail lags as well"
    );
    registry.wait_ms(1);
    assert_eq!(registry.hosts("").len(), 3);
    // Silence of 80 and 81 at 15 s, of 82 at 15.599 s: what changes without a call is late too.
    registry.wait_ms(14_999);
    assert_eq!(registry.hosts("&healthyOnly=true").len(), 3);
    registry.wait_ms(1);
    assert_eq!(registry.hosts("&healthyOnly=true").len(), 0);
}

#[test]
fn a_listener_hears_of_a_late_configuration_when_it_can_be_read() {
    let mut registry = Registry::like(Like::V2_5);
    let fault = Fault::ConfigLag {
        lag: Duration::from_millis(200),
        busy: false,
    };
    registry.desk.handle(registry.now, Event::Faulted(fault));
    let headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Long-Pulling-Timeout", "30000"),
    ];
    let listen = "Listening-Configs=a%02g%02%01";
    let listen = Request::new("POST", "/v1/cs/configs/listener", headers, listen);
    assert_eq!(registry.send(listen), None);
    let config = "/v1/cs/configs?dataId=a&group=g";
    registry.ok("POST", &format!("{config}&content=1"));
    assert_eq!(registry.ask("GET", config).0, 404);
    registry.wait_ms(199);
    assert_eq!(registry.desk.effect(), None);
    registry.wait_ms(1);
    assert!(
        matches!(registry.desk.effect(), Some(Effect::Answer(Ticket(1), told)) if told.body() == "a%02g%01\n")
    );
    assert_eq!(registry.ask("GET", config), (200, "1".to_owned()));
}

#[test]
fn after_a_restart_the_owner_of_a_health_must_say_it_again_except_like_1_4() {
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.prepare(like);
        registry.ok("POST", &register(true));
        registry.ok("POST", "/v1/ns/instance?serviceName=e&ip=10.0.0.1&port=80");
        registry.ok("POST", "/v1/cs/configs?dataId=a&group=g&content=1");
        let now = registry.now;
        registry.desk.handle(now, Event::Faulted(Fault::Restart));
        assert_eq!(registry.detail(like), like == Like::V1_4, "{like:?}");
        assert_eq!(
            registry.hosts("")[0]["healthy"],
            true,
            "{like:?}: the list hides it"
        );
        let beat = "/v1/ns/instance/beat?serviceName=e&ip=10.0.0.1&port=80";
        assert_eq!(registry.json("PUT", beat)["code"], 20404);
        assert_eq!(
            registry.ask("GET", "/v1/cs/configs?dataId=a&group=g").1,
            "1"
        );
        registry.ok("POST", &register(true));
        assert!(registry.detail(like));
    }
}

#[test]
fn like_1_4_health_by_hand_holds_for_an_ephemeral_instance_until_it_beats() {
    let mut registry = Registry::like(Like::V1_4);
    let it = "serviceName=s&ip=10.0.0.1&port=80";
    registry.ok("POST", &format!("/v1/ns/instance?{it}"));
    registry.ok("PUT", &format!("/v1/ns/cluster?serviceName=s&{NONE}"));
    assert_eq!(registry.by_hand(Like::V1_4, false), (200, "ok".to_owned()));
    assert!(!registry.detail(Like::V1_4));
    registry.json("PUT", &format!("/v1/ns/instance/beat?{it}"));
    assert!(registry.detail(Like::V1_4));
}

#[test]
fn a_tiny_weight_and_a_null_in_the_metadata_are_kept_except_like_1_4() {
    for like in ALL {
        let mut registry = Registry::like(like);
        let it = "serviceName=s&ip=10.0.0.1&port=80&weight=0.001&metadata=%7B%22a%22:null%7D";
        registry.ok("POST", &format!("/v1/ns/instance?{it}"));
        let host = registry.hosts("").remove(0);
        let (weight, nulls) = if like == Like::V1_4 {
            (0.01, 0)
        } else {
            (0.001, 1)
        };
        assert_eq!(host["weight"].as_f64(), Some(weight), "{like:?}");
        assert_eq!(
            host["metadata"].as_object().unwrap().len(),
            nulls,
            "{like:?}"
        );
    }
}

#[test]
fn a_list_is_rendered_once_per_change_and_says_when_it_changed_or_like_1_4_when_it_was_asked_for() {
    for like in ALL {
        let mut registry = Registry::like(like);
        let register = "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80&metadata=lastRefTime%3D1";
        let list = "/v1/ns/instance/list?serviceName=s";
        let body = |registry: &mut Registry, more: &str| {
            let target = format!("{list}{more}");
            let request = Request::new("GET", &target, [("", ""); 0], "");
            registry.send(request).unwrap().body().clone()
        };
        let time = |body: &[u8]| {
            let list: Value = serde_json::from_slice(body).unwrap();
            list["lastRefTime"].as_i64().unwrap()
        };
        registry.ok("POST", register);
        let first = body(&mut registry, "");
        registry.wait(5);
        registry.ok(
            "PUT",
            "/v1/ns/instance/beat?serviceName=s&ip=10.0.0.1&port=80",
        );
        let again = body(&mut registry, "");
        if like == Like::V1_4 {
            assert_eq!((time(&first), time(&again)), (0, 5_000));
        } else {
            assert_eq!(first.as_ptr(), again.as_ptr(), "{like:?}: the same text");
            assert_eq!(time(&again), 0);
        }
        // Another question is another text, and a change makes all new.
        assert_ne!(body(&mut registry, "&clusters=c"), again);
        assert_eq!(body(&mut registry, "&healthyOnly=true").len(), again.len());
        registry.ok("POST", &register.replace("port=80", "port=81"));
        assert_eq!(registry.hosts("").len(), 2, "{like:?}");
        assert_eq!(time(&body(&mut registry, "")), 5_000);
        // Silence is a change too: the second one has beaten last.
        registry.wait(12);
        assert_eq!(registry.hosts("&healthyOnly=true").len(), 2, "{like:?}");
        registry.wait(4);
        let list = registry.hosts("");
        let healthy = list.iter().filter(|host| host["healthy"] == true).count();
        assert_eq!(healthy, if like == Like::V1_4 { 2 } else { 0 }, "{like:?}");
        registry.wait(20);
        assert_eq!(registry.hosts("").len(), 0, "{like:?}");
    }
}
