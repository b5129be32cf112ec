//! `outrigger dev --faults`: the registry fails as it is asked to, and only then.

use crate::support::{Registry, free_port, http, stays, until};
use serde_json::Value;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

const READY: &str = "/nacos/v1/console/health/readiness";
const CONFIGS: &str = "/nacos/v1/cs/configs?dataId=a&group=g";

fn registry() -> Registry {
    Registry::start_with(free_port(), &["--faults"])
}

/// Switches a fault on; what is on then.
fn order(registry: &Registry, query: &str) -> Value {
    let path = format!("/outrigger/faults?{query}");
    let on = http(registry.port, "POST", &path, "").unwrap();
    serde_json::from_str(&on).unwrap()
}

fn get(registry: &Registry, path: &str) -> Result<String, String> {
    http(registry.port, "GET", path, "")
}

fn post(registry: &Registry, path: &str) {
    http(registry.port, "POST", path, "").unwrap();
}

/// Everything that comes on a connection of its own, and how it ends.
fn raw(registry: &Registry, method: &str, path: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, registry.port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, None),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(error) => return (all, Some(error.kind())),
        }
        if all.len() > 8 * 1024 * 1024 {
            return (all, None);
        }
    }
}

#[test]
fn fault_routes_are_404_without_the_flag() {
    let registry = Registry::start();
    for method in ["GET", "POST"] {
        for path in ["/outrigger/faults?hang", "/outrigger/faults/"] {
            let refused = http(registry.port, method, path, "").unwrap_err();
            assert!(refused.contains(" 404 "), "{method} {path}: {refused}");
        }
    }
    assert_eq!(get(&registry, READY).unwrap(), "OK");
}

#[test]
fn fault_routes_are_closed_to_pages_from_elsewhere() {
    let registry = registry();
    for header in [
        "Host: evil.example",
        "Host: localhost\r\nOrigin: http://evil.example",
    ] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, registry.port)).unwrap();
        let request = format!(
            "POST /outrigger/faults?hang HTTP/1.1\r\n{header}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    assert_eq!(get(&registry, READY).unwrap(), "OK");
}

#[test]
fn a_word_that_is_not_known_is_refused_and_the_known_ones_are_named() {
    let registry = registry();
    let refused = http(registry.port, "POST", "/outrigger/faults", "dealy=2s").unwrap_err();
    assert!(refused.contains(" 400 "), "{refused}");
    assert!(
        refused.contains("'dealy' is not known; known are lag, "),
        "{refused}"
    );
    let on: Value = serde_json::from_str(&get(&registry, "/outrigger/faults").unwrap()).unwrap();
    assert_eq!(on["faults"], Value::Array(Vec::new()));
}

#[test]
fn a_request_is_delayed_where_and_as_often_as_asked() {
    let registry = registry();
    order(&registry, "delay=400ms&path=/v1/console&times=1");
    let began = Instant::now();
    assert!(
        get(&registry, CONFIGS).is_err(),
        "there is none, and it is said at once"
    );
    assert!(began.elapsed() < Duration::from_millis(400));
    assert_eq!(get(&registry, READY).unwrap(), "OK");
    assert!(began.elapsed() >= Duration::from_millis(400));
    let on: Value = serde_json::from_str(&get(&registry, "/outrigger/faults").unwrap()).unwrap();
    assert_eq!(
        on["faults"],
        Value::Array(Vec::new()),
        "it was asked for once"
    );
}

#[test]
fn a_status_is_answered_in_place_of_the_work() {
    let registry = registry();
    order(&registry, "status=503&body=not+now&path=/v1/cs");
    let refused = http(registry.port, "POST", &format!("{CONFIGS}&content=1"), "").unwrap_err();
    assert!(
        refused.contains(" 503 ") && refused.contains("not now"),
        "{refused}"
    );
    assert_eq!(
        order(&registry, "clear")["faults"],
        Value::Array(Vec::new())
    );
    let missing = get(&registry, CONFIGS).unwrap_err();
    assert!(missing.contains(" 404 "), "it was not published: {missing}");
}

#[test]
fn a_fault_ends_with_its_time() {
    let registry = registry();
    order(&registry, "status=500&for=200ms");
    assert!(get(&registry, READY).is_err());
    until("it is over", Duration::from_secs(5), || {
        get(&registry, READY)
    });
}

#[test]
fn a_request_hangs_until_its_client_goes() {
    let registry = registry();
    order(&registry, "hang&times=1");
    let (came, end) = raw(&registry, "GET", READY);
    assert_eq!(came, b"");
    assert!(
        matches!(end, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "{end:?}"
    );
    assert_eq!(get(&registry, READY).unwrap(), "OK");
}

#[test]
fn a_connection_is_reset() {
    let registry = registry();
    order(&registry, "reset&times=1");
    assert_eq!(
        raw(&registry, "GET", READY),
        (Vec::new(), Some(ErrorKind::ConnectionReset))
    );
    assert_eq!(get(&registry, READY).unwrap(), "OK");
}

#[test]
fn garbage_is_answered_in_place_of_http() {
    let registry = registry();
    order(&registry, "garbage&times=1");
    let (came, end) = raw(&registry, "GET", READY);
    assert!(!came.is_empty() && !came.starts_with(b"HTTP"), "{came:?}");
    assert_eq!(end, None);
    assert_eq!(get(&registry, READY).unwrap(), "OK");
}

#[test]
fn an_answer_is_lost_and_its_work_is_done() {
    let registry = registry();
    order(&registry, "drop&times=1");
    let (came, _) = raw(&registry, "POST", &format!("{CONFIGS}&content=1"));
    assert_eq!(came, b"");
    assert_eq!(get(&registry, CONFIGS).unwrap(), "1");
}

#[test]
fn a_body_has_no_end() {
    let registry = registry();
    order(&registry, "big&times=1");
    let (came, _) = raw(&registry, "GET", READY);
    assert!(came.starts_with(b"HTTP/1.1 200 ") && came.len() > 8 * 1024 * 1024);
    assert_eq!(get(&registry, READY).unwrap(), "OK");
}

#[test]
fn all_is_forgotten_at_once() {
    let registry = registry();
    post(
        &registry,
        "/nacos/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=80",
    );
    post(&registry, &format!("{CONFIGS}&content=1"));
    order(&registry, "amnesia");
    assert_eq!(registry.hosts("s").unwrap().len(), 0);
    assert!(get(&registry, CONFIGS).is_err());
    let beat = "/nacos/v1/ns/instance/beat?serviceName=s&ip=10.0.0.1&port=80";
    assert!(
        http(registry.port, "PUT", beat, "")
            .unwrap()
            .contains("20404")
    );
}

#[test]
fn lists_and_details_lag_behind_and_configurations_too() {
    let registry = registry();
    let register = |port| format!("/nacos/v1/ns/instance?serviceName=s&ip=10.0.0.1&port={port}");
    let on = order(&registry, "lag=700ms&config_lag=700ms&config_busy");
    assert_eq!(
        (on["lag"].as_str(), on["config_lag"].as_str()),
        (Some("700ms"), Some("700ms"))
    );
    post(&registry, &register(80));
    assert_eq!(
        registry.hosts("s").unwrap().len(),
        1,
        "the first read is fresh"
    );
    let began = Instant::now();
    post(&registry, &register(81));
    post(&registry, &format!("{CONFIGS}&content=1"));
    // Well before the lag is over, whatever the machine does meanwhile.
    stays("neither is seen", Duration::from_millis(200), || {
        let hosts = registry.hosts("s")?.len();
        let detail = get(&registry, &register(81));
        let config = get(&registry, CONFIGS).unwrap_err();
        let early = began.elapsed() < Duration::from_millis(600);
        let unseen = hosts == 1 && detail.is_err() && config.contains(" 409 ");
        if unseen || !early {
            Ok(())
        } else {
            Err(format!("{hosts}, {detail:?}, {config}"))
        }
    });
    until("both are seen", Duration::from_secs(5), || {
        let hosts = registry.hosts("s")?.len();
        get(&registry, &register(81))?;
        let config = get(&registry, CONFIGS)?;
        if hosts == 2 && config == "1" {
            Ok(())
        } else {
            Err(format!("{hosts}, {config}"))
        }
    });
    assert!(began.elapsed() >= Duration::from_millis(690));
}
