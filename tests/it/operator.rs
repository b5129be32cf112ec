//! What an operator sets and reads while the registry runs, in virtual time: switches that change behaviour, and read-outs.

use crate::manners::Registry;
use outrigger::registry::Like;
use serde_json::Value;

const ALL: [Like; 3] = [Like::V1_4, Like::V2_5, Like::V3_0];

/// Where the switches are.
fn switches(like: Like) -> &'static str {
    match like {
        Like::V3_0 => "/v3/admin/ns/ops/switches",
        Like::V1_4 | Like::V2_5 => "/v1/ns/operator/switches",
    }
}

fn set(registry: &mut Registry, like: Like, entry: &str, value: &str) -> (u16, String) {
    let target = format!("{}?entry={entry}&value={value}", switches(like));
    registry.ask("PUT", &target)
}

fn shown(registry: &mut Registry, like: Like) -> Value {
    let (_, body) = registry.ask("GET", switches(like));
    let shown: Value = serde_json::from_str(&body).unwrap();
    match like {
        Like::V3_0 => shown["data"].clone(),
        Like::V1_4 | Like::V2_5 => shown,
    }
}

#[test]
fn a_switch_that_is_set_is_shown_and_an_entry_that_is_unknown_is_ok_and_changes_nothing() {
    for like in ALL {
        let mut registry = Registry::like(like);
        let delivered = shown(&mut registry, like);
        assert_eq!(set(&mut registry, like, "noSuch", "1").0, 200);
        assert_eq!(shown(&mut registry, like), delivered);
        for (entry, value, name, there) in [
            ("pushEnabled", "false", "pushEnabled", Value::from(false)),
            ("check", "FALSE", "healthCheckEnabled", false.into()),
            ("healthCheckTimes", "5", "checkTimes", 5.into()),
            (
                "pushCacheMillis",
                "20000",
                "defaultPushCacheMillis",
                20_000.into(),
            ),
            ("distroThreshold", "0.3", "distroThreshold", 0.3.into()),
        ] {
            assert_eq!(set(&mut registry, like, entry, value).0, 200, "{entry}");
            assert_eq!(shown(&mut registry, like)[name], there, "{entry}");
        }
        assert_eq!(
            registry
                .ask("PUT", "/v1/ns/ops/switches?entry=check&value=true")
                .0,
            if like == Like::V3_0 { 410 } else { 200 }
        );
    }
}

#[test]
fn a_switch_is_refused_in_the_words_of_each_generation() {
    let words = "min cache time for http or tcp is too small(<10000)";
    for (like, status, body) in [
        (Like::V1_4, 400, format!("caused: {words};")),
        (Like::V2_5, 400, words.to_owned()),
        (
            Like::V3_0,
            500,
            format!(r#"{{"code":30000,"data":"{words}","message":"server error"}}"#),
        ),
    ] {
        let mut registry = Registry::like(like);
        let answer = set(&mut registry, like, "pushCacheMillis", "9999");
        assert_eq!(answer, (status, body));
    }
    let mut registry = Registry::like(Like::V2_5);
    for (query, answer) in [
        ("entry=check", (400, "Parameter 'value' is missing")),
        ("value=1", (400, "Parameter 'entry' is missing")),
        (
            "entry=clientBeatInterval&value=x",
            (400, "For input string: \"x\""),
        ),
        (
            "entry=pushVersion&value=java",
            (500, "caused: Index 1 out of bounds for length 1;"),
        ),
        (
            "entry=pushVersion&value=rust:1.0.0",
            (400, "unsupported client type: rust"),
        ),
        (
            "entry=limitedUrlMap&value=/nacos/v1/x",
            (400, "invalid input for limited urls"),
        ),
    ] {
        let target = format!("/v1/ns/operator/switches?{query}");
        let (status, body) = registry.ask("PUT", &target);
        assert_eq!((status, body.as_str()), answer, "{query}");
    }
}

#[test]
fn beats_are_answered_with_the_interval_and_the_lightness_that_were_set() {
    for like in ALL {
        let mut registry = Registry::like(like);
        registry.ask("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1");
        set(&mut registry, like, "clientBeatInterval", "7000");
        set(&mut registry, like, "lightBeatEnabled", "no");
        let beat = "/v1/ns/instance/beat?serviceName=s&ip=10.0.0.1&port=1";
        let (_, answer) = registry.ask("PUT", beat);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["clientBeatInterval"], 7_000);
        assert_eq!(answer["lightBeatEnabled"], false);
    }
}

#[test]
fn without_the_health_check_silence_has_no_consequence_until_it_is_switched_on_again() {
    for like in ALL {
        let mut registry = Registry::like(like);
        let list = "/v1/ns/instance/list?serviceName=s";
        let hosts = |registry: &mut Registry| {
            let (_, body) = registry.ask("GET", list);
            let list: Value = serde_json::from_str(&body).unwrap();
            list["hosts"].as_array().unwrap().len()
        };
        registry.ask("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1");
        set(&mut registry, like, "check", "false");
        registry.wait(100);
        assert_eq!(hosts(&mut registry), 1, "{like:?}");
        set(&mut registry, like, "check", "true");
        assert_eq!(hosts(&mut registry), 0, "{like:?}");
    }
}

#[test]
fn what_does_not_say_whether_it_is_ephemeral_is_what_the_switch_says() {
    let mut registry = Registry::like(Like::V2_5);
    set(
        &mut registry,
        Like::V2_5,
        "defaultInstanceEphemeral",
        "false",
    );
    registry.ask("POST", "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1");
    registry.wait(100);
    let (_, list) = registry.ask("GET", "/v1/ns/instance/list?serviceName=s");
    assert!(list.contains(r#""ephemeral":false"#), "{list}");
}

#[test]
fn a_limited_path_and_a_status_shut_out_what_is_under_v1_ns_and_nothing_else() {
    for like in [Like::V1_4, Like::V2_5] {
        let mut registry = Registry::like(like);
        let list = "/nacos/v1/ns/service/list?pageNo=1&pageSize=10";
        set(
            &mut registry,
            like,
            "limitedUrlMap",
            "/nacos/v1/ns/service/list:403",
        );
        assert_eq!(registry.ask("GET", list), (403, String::new()));
        set(&mut registry, like, "overriddenServerStatus", "READ_ONLY");
        let refused = "server is READ_ONLYnow, please try again later!".to_owned();
        let register = "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1";
        assert_eq!(registry.ask("POST", register), (503, refused.clone()));
        assert_eq!(set(&mut registry, like, "check", "true"), (503, refused));
        let (_, metrics) = registry.ask("GET", "/v1/ns/operator/metrics");
        assert!(metrics.contains("READ_ONLY"), "{metrics}");
        assert_eq!(registry.ask("GET", "/v1/console/health/readiness").0, 200);
    }
}
