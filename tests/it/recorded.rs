//! The embedded registry answers what a Nacos 2.5.1 answered: `tests/cases/nacos-2.5.1/` holds exchanges with a live one, word for word.
//!
//! Each scene starts from an empty registry and plays recorded requests in an order that makes their answers follow. Status, body
//! and the headers that clients read must be the recorded ones; times and counts of things outside the scene are left out, and
//! hosts are compared as a set, because the original's order is that of a hash.

use crate::support::{LONG, eventually};
use outrigger::{
    machine::Epoch,
    registry::{self, Options},
    tasks::Tasks,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    sync::mpsc,
    thread,
};

/// Headers that clients of 2.5.1 read.
const READ: &[&str] = &[
    "content-type",
    "config-type",
    "content-md5",
    "encrypted-data-key",
    "probe-modify-response",
    "probe-modify-response-new",
];

/// A registry on a thread of its own, for as long as `work` runs.
fn with_registry(work: impl FnOnce(u16)) {
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let options = Options {
                listen: (Ipv4Addr::LOCALHOST, 0).into(),
                open: false,
                allow_hosts: vec!["registry.test".to_owned()],
            };
            let tasks = Tasks::new();
            let running = registry::start(options, &tasks, Epoch::start())
                .await
                .unwrap();
            tell.send(running.address().port()).unwrap();
            // An error is the end of `work` by panic.
            _ = stopped.await;
            running.stop().await;
            tasks.finish(LONG).await.unwrap();
        });
    });
    work(told.recv().unwrap());
    stop.send(()).unwrap();
    thread.join().unwrap();
}

struct Answer {
    status: u64,
    headers: BTreeMap<String, String>,
    body: String,
}

fn ask(port: u16, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    Answer {
        status: status.parse().unwrap(),
        headers: lines
            .map(|line| {
                line.split_once(": ")
                    .unwrap_or((line.trim_end_matches(':'), ""))
            })
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}

/// A body without what may differ: times, and how many configurations the recorded server had.
fn essence(body: &str) -> Value {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else {
        return Value::String(body.to_owned());
    };
    for key in ["timestamp", "lastRefTime"] {
        if let Some(field) = value.get_mut(key) {
            *field = Value::Null;
        }
    }
    if let Some(count) = value.pointer_mut("/data/0/configCount") {
        *count = Value::Null;
    }
    if let Some(hosts) = value.get_mut("hosts").and_then(Value::as_array_mut) {
        hosts.sort_by_key(|host| host["instanceId"].to_string());
    }
    if let Some(clusters) = value.get_mut("clusters").and_then(Value::as_array_mut) {
        clusters.sort_by_key(|cluster| cluster["name"].to_string());
    }
    value
}

fn play(cases: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/nacos-2.5.1");
    with_registry(|port| {
        let mut wrong = Vec::new();
        for name in cases {
            let text = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
            let case: Value = serde_json::from_str(&text).unwrap();
            let (asked, told) = (&case["request"], &case["response"]);
            let headers: Vec<(&str, &str)> = asked["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
                .collect();
            let answer = ask(
                port,
                asked["method"].as_str().unwrap(),
                asked["target"].as_str().unwrap(),
                &headers,
                asked["body"].as_str().unwrap_or_default(),
            );
            let mut differs = |what: &str, wanted: String, got: String| {
                if wanted != got {
                    wrong.push(format!(
                        "{name}: {what}\n  recorded {wanted}\n  answered {got}"
                    ));
                }
            };
            differs(
                "status",
                told["status"].to_string(),
                answer.status.to_string(),
            );
            differs(
                "body",
                essence(told["body"].as_str().unwrap()).to_string(),
                essence(&answer.body).to_string(),
            );
            for header in READ {
                let wanted = told["headers"].get(header).and_then(Value::as_str);
                let got = answer.headers.get(*header).map(String::as_str);
                differs(header, format!("{wanted:?}"), format!("{got:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn refuses_what_was_refused() {
    play(&[
        "register-bad-missing-service",
        "register-bad-missing-ip",
        "register-bad-missing-port",
        "register-bad-port-text",
        "register-bad-port-range",
        "register-bad-port-negative",
        "register-bad-weight-text",
        "register-bad-weight-large",
        "register-bad-weight-negative",
        "register-bad-ip-space",
        "register-bad-namespace-chars",
        "register-bad-group-chars",
        "register-bad-service-space",
        "register-bad-service-cjk",
        "register-bad-service-at",
        "register-bad-service-long",
        "register-bad-service-empty-group",
        "register-bad-service-empty-name",
        "register-bad-blank-service",
        "register-bad-cluster-chars",
        "register-bad-cluster-space",
        "register-bad-cluster-underscore",
        "register-bad-beat-interval",
        "register-bad-metadata-long",
        "register-bad-metadata-json",
        "register-bad-metadata-text",
        "register-bad-metadata-nonstring",
        "deregister-missing-port",
        "deregister-unknown",
        "deregister-unknown-service",
        "beat-missing-service",
        "beat-light-missing-ip",
        "beat-light-unknown-instance",
        "beat-light-unknown-service",
        "get-instance-unknown-service",
        "update-instance-unknown-service",
        "health-put-unknown-service",
        "health-put-missing-healthy",
        "cluster-none-unknown-service",
        "service-get-unknown",
        "service-delete-unknown",
        "service-list-no-page",
        "list-missing-service",
        "list-unknown-service",
        "list-other-namespace",
        "unknown-ns-path",
        "unknown-cs-path",
        "unknown-path",
        "wrong-method",
        "auth-login-missing",
    ]);
}

#[test]
fn answers_the_console() {
    play(&[
        "console-liveness",
        "console-readiness",
        "console-namespaces",
        "metrics",
    ]);
}

#[test]
fn keeps_ephemeral_instances() {
    play(&[
        "register-ephemeral",
        "get-instance",
        "beat-light",
        "beat-light-bare-name",
        "beat-light-wrong-cluster",
        "beat-full",
        "beat-full-form",
        "beat-full-no-service-in-beat",
        "get-instance-unknown",
        "get-instance-unknown-cluster",
        "register-persistent-into-ephemeral",
        "register-bad-ephemeral-text",
        "service-delete-nonempty",
        "list-clusters-none",
        "register-query-minimal",
        "register-grouped-name",
        "register-disabled",
        "register-metadata-kv",
        "register-unhealthy",
        "list-grouped-name",
        "list-group-param",
        "list-java-ua",
        "list-clusters",
        "list-healthy-only",
        "beat-full-unknown-instance",
        "list-after-full-beat",
        "register-bad-ip",
        "register-bad-ip-text",
        "register-bad-ipv6",
        "register-bad-port-zero",
        "register-bad-metadata-null",
        "list-after-bad",
        "deregister-form",
        "deregister",
        "list-after-deregister",
        "register-bad-service-slash",
        "list-ab-slash",
        "register-form-body",
        "beat-custom-interval-register",
        "beat-custom-interval",
        "list-custom-interval",
    ]);
}

#[test]
fn keeps_persistent_instances() {
    play(&[
        "register-persistent",
        "list-persistent",
        "beat-light-persistent",
        "register-ephemeral-into-persistent",
        "beat-full-into-persistent",
        "deregister-persistent-as-ephemeral",
        "list-persistent-after-wrong-deregister",
        "deregister-persistent",
        "list-persistent-after-deregister",
        "persistent-register",
        "cluster-none",
        "health-put-none-checker",
        "health-put-unknown-instance",
        "persistent-reregister-unhealthy",
        "get-instance-persistent-unhealthy",
        "list-persistent-unhealthy-alone",
        "persistent-reregister-healthy",
    ]);
}

#[test]
fn keeps_services() {
    play(&[
        "service-create",
        "service-create-again",
        "service-get",
        "register-ephemeral-into-created-service",
        "service-update",
        "service-delete",
        "service-create-for-none",
        "cluster-none-empty-service",
        "service-get-after-none",
    ]);
}

#[test]
fn takes_what_clients_write_by_hand() {
    play(&[
        "hand-register-unhealthy",
        // Of a client that names its service without the group: the instance lives.
        "hand-beat-bare-name",
        "hand-get-after-bare-name",
        "hand-beat-loose",
        "hand-beat-loose-null",
        "hand-register-metadata-numbers",
        "hand-register-metadata-commas",
        "hand-register-cluster-alias",
        "hand-list",
        "hand-get-metadata-numbers",
        "hand-get-cluster-alias",
        "hand-get-cluster-name",
        "hand-service-get-clusters",
        "hand-list-blank-after-name",
        "hand-service-list-text-page",
        "hand-service-create",
        "hand-service-update",
        "hand-service-get-threshold",
    ]);
}

#[test]
fn refuses_what_is_badly_written_by_hand() {
    play(&[
        "hand-register-blank-port",
        "hand-register-blank-ip",
        "hand-register-blank-group",
        "hand-register-blank-namespace",
        "hand-register-blank-cluster",
        "hand-list-udp-port-text",
        "hand-service-get-no-name",
        "hand-service-delete-no-name",
        "hand-service-create-no-name",
    ]);
}

#[test]
fn a_client_that_asks_to_be_pushed_is_told_to_look_again_sooner() {
    with_registry(|port| {
        let cache = |udp: &str| {
            let list = format!("/v1/ns/instance/list?serviceName=orders{udp}");
            essence(&ask(port, "GET", &list, &[], "").body)["cacheMillis"].clone()
        };
        assert_eq!(cache(""), 10_000);
        assert_eq!(cache("&udpPort=0"), 10_000);
        assert_eq!(cache("&udpPort=54321"), 3_000);
    });
}

#[test]
fn configurations_asked_for_by_hand_are_answered_as_there() {
    play(&[
        "hand-config-get-empty-dataid",
        "hand-config-get-blank-group",
        "hand-config-get-blank-after-dataid",
        "hand-config-delete-empty-dataid",
        "hand-config-publish-blank-before-dataid",
        "hand-config-wrong-method",
        "hand-config-head-missing",
        "hand-config-publish",
        "hand-config-head",
        "hand-listener-two-words",
        "hand-listener-five-words",
        "hand-listener-not-ended",
        "hand-listener-timeout-text",
        "hand-listener-timeout-text-changed",
        "hand-listener-timeout-negative-changed",
    ]);
}

#[test]
fn a_listener_may_name_ten_thousand_configurations_and_not_one_more() {
    with_registry(|port| {
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Long-Pulling-Timeout", "30000"),
            ("Long-Pulling-Timeout-No-Hangup", "true"),
        ];
        let listen = |count: usize| {
            let keys: String = (0..count).map(|i| format!("{i}%02g%02%01")).collect();
            let body = format!("Listening-Configs={keys}");
            let answer = ask(port, "POST", "/v1/cs/configs/listener", &headers, &body);
            (answer.status, answer.body)
        };
        assert_eq!(listen(10_000), (200, String::new()));
        assert_eq!(
            listen(10_001),
            (400, "caused: invalid probeModify;".to_owned())
        );
    });
}

#[test]
fn keeps_configurations() {
    play(&[
        "config-get-missing",
        "config-publish-empty",
        "config-publish-blank",
        "config-publish-no-content",
        "config-publish-no-dataid",
        "config-publish-bad-dataid",
        "config-publish-bad-group",
        "config-publish-bad-tenant",
        "config-get-missing-param",
        "config-get-missing-group",
        "config-get-bad-dataid",
        "config-get-space-dataid",
        "config-publish",
        "config-get",
        "config-get-tenant-empty",
        "config-get-tenant-public",
        "config-get-tenant-other",
        "config-cas-wrong",
        "config-get-after-cas-wrong",
        "config-cas-right",
        "config-get-after-cas-right",
        "config-cas-absent",
        "config-publish-query",
        "config-publish-json-type",
        "config-get-json-type",
        "config-publish-bad-type",
        "config-get-bad-type",
        "config-publish-unknown-tenant",
        "config-get-unknown-tenant",
        "listener-no-field",
        "listener-garbage",
        "listener-unknown-empty-md5",
        "listener-deleted-config",
        "listener-changed",
        "listener-empty-md5-existing",
        "listener-two-changed",
        "listener-no-header",
        "listener-unchanged-no-hangup",
        "listener-tenant-empty",
        "listener-tenant-public",
        "listener-tenant-public-wrong-md5",
        "listener-other-tenant",
        "listener-other-tenant-changed",
        "config-delete",
        "config-get-deleted",
        "config-delete-again",
    ]);
}

#[test]
fn a_content_of_the_full_size_comes_back_as_it_went_and_one_more_character_is_refused() {
    with_registry(|port| {
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let content = "x".repeat(10_485_760);
        let body = format!("dataId=big&group=g&content={content}");
        assert_eq!(
            ask(port, "POST", "/v1/cs/configs", &form, &body).body,
            "true"
        );
        let path = "/v1/cs/configs?dataId=big&group=g";
        assert!(ask(port, "GET", path, &[], "").body == content);
        let refused = ask(port, "POST", "/v1/cs/configs", &form, &format!("{body}x"));
        assert_eq!(
            (refused.status, refused.body.as_str()),
            (400, "caused: invalid content, over 10485760;")
        );
    });
}

#[test]
fn who_falls_silent_is_removed_and_his_next_light_beat_is_20404() {
    with_registry(|port| {
        let metadata = r#"{"preserved.heart.beat.interval":"20","preserved.heart.beat.timeout":"40","preserved.ip.delete.timeout":"60"}"#;
        let it = "serviceName=quiet&ip=10.0.0.1&port=80";
        let body = format!("{it}&metadata={metadata}");
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        assert_eq!(
            ask(port, "POST", "/v1/ns/instance", &form, &body).body,
            "ok"
        );
        let list = "/v1/ns/instance/list?serviceName=quiet";
        eventually("the instance is gone", LONG, || {
            let answer = essence(&ask(port, "GET", list, &[], "").body);
            answer["hosts"].as_array().unwrap().is_empty().then_some(())
        });
        let beat = format!("/v1/ns/instance/beat?{it}");
        let answer = essence(&ask(port, "PUT", &beat, &[], "").body);
        assert_eq!(answer["code"], 20404);
    });
}

#[test]
fn a_held_poll_is_answered_when_its_configuration_changes() {
    with_registry(|port| {
        let waiting = thread::spawn(move || {
            ask(
                port,
                "POST",
                "/nacos/v1/cs/configs/listener",
                &[
                    ("Content-Type", "application/x-www-form-urlencoded"),
                    ("Long-Pulling-Timeout", "30000"),
                ],
                "Listening-Configs=a%02g%02%01",
            )
        });
        // Publishes another content each time, so it does not matter whether the poll is held before the first or the last.
        let mut round = 0;
        while !waiting.is_finished() {
            round += 1;
            let body = format!("dataId=a&group=g&content={round}");
            let form = [("Content-Type", "application/x-www-form-urlencoded")];
            assert_eq!(
                ask(port, "POST", "/v1/cs/configs", &form, &body).body,
                "true"
            );
        }
        assert_eq!(waiting.join().unwrap().body, "a%02g%01\n");
    });
}

#[test]
fn answers_only_to_its_own_names_and_to_no_page_from_elsewhere() {
    with_registry(|port| {
        let path = "/nacos/v1/console/health/readiness";
        let status = |headers: &[(&str, &str)]| ask(port, "GET", path, headers, "").status;
        for host in ["127.0.0.1:8848", "LOCALHOST", "[::1]:1", "registry.test:80"] {
            assert_eq!(status(&[("Host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:8848",
            "10.0.0.1",
            "",
        ] {
            assert_eq!(status(&[("Host", host)]), 403, "{host}");
        }
        assert_eq!(status(&[("Origin", "http://localhost:3000")]), 200);
        for origin in ["https://evil.example", "null"] {
            assert_eq!(status(&[("Origin", origin)]), 403, "{origin}");
        }
    });
}

#[test]
fn any_context_path_will_do_and_a_body_over_its_bound_is_refused() {
    with_registry(|port| {
        for path in [
            "/v1/console/health/liveness",
            "/a/b/v1/console/health/liveness",
        ] {
            assert_eq!(ask(port, "GET", path, &[], "").body, "OK");
        }
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
            .write_all(b"PUT /v1/ns/instance HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n")
            .unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 413");
    });
}

#[tokio::test]
async fn beyond_loopback_only_when_opened() {
    let options = Options {
        listen: (Ipv4Addr::UNSPECIFIED, 0).into(),
        open: false,
        allow_hosts: Vec::new(),
    };
    let refused = registry::start(options.clone(), &Tasks::new(), Epoch::start()).await;
    assert!(matches!(refused, Err(registry::StartError::NotLoopback(_))));
    let open = Options {
        open: true,
        ..options
    };
    let running = registry::start(open, &Tasks::new(), Epoch::start())
        .await
        .unwrap();
    let taken = Options {
        listen: (Ipv4Addr::LOCALHOST, running.address().port()).into(),
        open: false,
        allow_hosts: Vec::new(),
    };
    let taken = registry::start(taken, &Tasks::new(), Epoch::start()).await;
    assert!(matches!(taken, Err(registry::StartError::Bind { .. })));
    running.stop().await;
}
