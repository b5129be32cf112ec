//! The embedded registry answers what Nacos 1.4.8, 2.5.1 and 3.0.3 answered: `tests/cases/` holds exchanges with live ones, word for word.
//!
//! Each scene starts from an empty registry and plays recorded requests in an order that makes their answers follow (`scenes`). Status, body
//! and the headers that clients read must be the recorded ones; times and counts of things outside the scene are left out, and
//! hosts are compared as a set, because the original's order is that of a hash.

use crate::scenes::{self, Server};
use crate::support::{LONG, eventually};
use outrigger::{
    machine::Epoch,
    registry::{self, Like, Options},
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

/// Headers that clients read.
const READ: &[&str] = &[
    "content-type",
    "config-type",
    "content-md5",
    "encrypted-data-key",
    "isbeta",
    "tag",
    "vipserver-tag",
    "probe-modify-response",
    "probe-modify-response-new",
];

/// A registry on a thread of its own, for as long as `work` runs.
fn with_registry(work: impl FnOnce(u16)) {
    with_registry_like(Like::default(), work);
}

fn with_registry_like(like: Like, work: impl FnOnce(u16)) {
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
                users: None,
                allow_hosts: vec!["registry.test".to_owned()],
                like,
                push_delay: registry::PUSH_DELAY,
                checks: None,
                data_dir: None,
                faults: false,
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

/// A body without what may differ: times, tokens, the state of the machine, how many things the recorded server had, and the order
/// of what is a set there.
fn essence(body: &str) -> Value {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else {
        let mut keys: Vec<&str> = body.split_inclusive("%01").collect();
        keys.sort_unstable();
        return Value::String(keys.concat());
    };
    if value.get("cpu").is_some() {
        return Value::from_iter(value.as_object().unwrap().keys().cloned());
    }
    for key in [
        "timestamp",
        "lastRefTime",
        "checksum",
        "accessToken",
        "tokenTtl",
    ] {
        if let Some(field) = value.get_mut(key) {
            *field = Value::Null;
        }
    }
    blank(&mut value);
    for path in [
        "/data/0/configCount",
        // Who published it, which the recorded server knew from a token.
        "/data/createUser",
    ] {
        if let Some(field) = value.pointer_mut(path) {
            *field = Value::Null;
        }
    }
    if let Some(hosts) = value.get_mut("hosts").and_then(Value::as_array_mut) {
        hosts.sort_by_key(|host| host["instanceId"].to_string());
    }
    if let Some(clusters) = value.get_mut("clusters").and_then(Value::as_array_mut) {
        clusters.sort_by_key(|cluster| cluster["name"].to_string());
    }
    value
}

/// Leaves out when something was written, and in which row of a database it is.
fn blank(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(blank),
        Value::Object(fields) => {
            for (name, field) in fields {
                let number = || field.as_str().is_some_and(|id| id.parse::<u64>().is_ok());
                match name.as_str() {
                    "createTime" | "modifyTime" | "lastModified" | "lastModifiedTime" => {
                        *field = Value::Null;
                    }
                    "id" if number() => *field = Value::Null,
                    _ => blank(field),
                }
            }
        }
        _ => {}
    }
}

/// What a file of `tests/cases` says was asked and answered.
fn recorded(folder: &Path, name: &str) -> Value {
    let text = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Plays one exchange; every way in which the answer is another than the recorded one.
fn exchange(port: u16, name: &str, case: &Value) -> Vec<String> {
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
    let mut wrong = Vec::new();
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
    wrong
}

/// Plays the scenes of a server, each against an empty registry that is like it.
fn play(server: &Server) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(server.folder);
    let mut all = Vec::new();
    for (scene, lines) in server.scenes.iter().chain(server.configs) {
        with_registry_like(server.like, |port| {
            let mut wrong = Vec::new();
            for line in *lines {
                if let Some((method, target)) = line.split_once(' ') {
                    let set = ask(port, method, target, &[], "");
                    assert_eq!(set.status, 200, "{scene}: {line}: {}", set.body);
                } else {
                    wrong.extend(exchange(port, line, &recorded(&folder, line)));
                }
            }
            all.extend(wrong.into_iter().map(|wrong| format!("{scene}: {wrong}")));
        });
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn like_1_4_it_answers_what_1_4_8_answered() {
    play(&scenes::NACOS_1_4);
}

#[test]
fn like_2_5_it_answers_what_2_5_1_answered() {
    play(&scenes::NACOS_2_5);
}

#[test]
fn like_3_0_it_answers_what_3_0_3_answered() {
    play(&scenes::NACOS_3_0);
}

#[test]
fn every_recorded_exchange_is_played_or_has_its_reason() {
    let mut silent = Vec::new();
    for server in [&scenes::NACOS_1_4, &scenes::NACOS_2_5, &scenes::NACOS_3_0] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/cases")
            .join(server.folder);
        let played: Vec<&str> = server
            .scenes
            .iter()
            .chain(server.configs)
            .flat_map(|(_, lines)| lines.iter().copied())
            .collect();
        let files: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            // Those are played by `recorded_rpc`.
            .filter(|name| !name.starts_with("grpc-"))
            .collect();
        for (begins, why) in server.not_played {
            let unplayed = |file: &String| {
                let name = file.strip_suffix(".json").unwrap();
                name.starts_with(begins) && !played.contains(&name)
            };
            assert!(files.iter().any(unplayed), "no {begins} of which: {why}");
        }
        for file in &files {
            let name = file.strip_suffix(".json").unwrap();
            let reason = |(begins, _): &(&str, &str)| name.starts_with(begins);
            if !played.contains(&name) && !server.not_played.iter().any(reason) {
                silent.push(format!("{}/{name}", server.folder));
            }
        }
    }
    silent.sort();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
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
        users: None,
        allow_hosts: Vec::new(),
        like: Like::V2_5,
        push_delay: registry::PUSH_DELAY,
        checks: None,
        data_dir: None,
        faults: false,
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
        users: None,
        allow_hosts: Vec::new(),
        like: Like::V2_5,
        push_delay: registry::PUSH_DELAY,
        checks: None,
        data_dir: None,
        faults: false,
    };
    let taken = registry::start(taken, &Tasks::new(), Epoch::start()).await;
    assert!(matches!(taken, Err(registry::StartError::Bind { .. })));
    running.stop().await;
}
