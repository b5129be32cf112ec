//! The page at its door: where it is, what it is sent with, and which pages elsewhere may do nothing here. What people see of it is
//! looked at in a browser: `tests/page/run`.

use crate::support::{LONG, Registry, free_port, http};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Where it is.
const PAGES: [&str; 4] = ["/", "/nacos", "/nacos/", "/nacos/index.html"];

/// The head of an answer, in lower case, and its body.
fn said(registry: &Registry, request: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, registry.port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let host = if headers.contains("Host: ") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    let request = format!(
        "{request} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

fn status(registry: &Registry, request: &str, headers: &str) -> String {
    let (head, _) = said(registry, request, headers);
    head.split(' ').nth(1).unwrap().to_owned()
}

fn page(registry: &Registry, query: &str) -> Value {
    let body = http(registry.port, "GET", &format!("/outrigger/page{query}"), "");
    serde_json::from_str(&body.unwrap()).unwrap()
}

#[test]
fn the_page_is_where_one_looks_for_it_and_may_do_nothing_but_its_own() {
    let registry = Registry::start();
    for path in PAGES {
        let (head, body) = said(&registry, &format!("GET {path}"), "");
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(body.starts_with("<!doctype html>"), "{path}");
        for header in [
            "content-type: text/html;charset=utf-8",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "x-frame-options: deny",
        ] {
            assert!(head.contains(&format!("\r\n{header}")), "{path}: {header}");
        }
        let policy = head
            .lines()
            .filter_map(|line| line.strip_prefix("content-security-policy: "));
        let policies: Vec<_> = policy.collect();
        assert_eq!(policies.len(), 1, "{path}");
        for part in [
            "default-src 'none'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policies[0].contains(part), "{part}");
        }
        assert!(!policies[0].contains("unsafe"), "{}", policies[0]);
        assert_eq!(status(&registry, &format!("POST {path}"), ""), "405");
        assert_eq!(
            status(&registry, &format!("GET {path}"), "Host: evil.example\r\n"),
            "403"
        );
    }
    // The calls of the console are what they were.
    assert_eq!(
        status(&registry, "GET /nacos/v1/console/health/liveness", ""),
        "200"
    );
    assert_eq!(status(&registry, "GET /nacos/console-ui", ""), "404");
}

#[test]
fn the_page_is_one_file_that_asks_nobody_else() {
    let page = include_str!("../../src/registry/page.html");
    assert!(page.len() < 64 * 1024, "{} bytes", page.len());
    for never in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "style=\"",
        "onclick=",
        "<link rel=\"stylesheet",
        "<script src",
        "@import",
        "https://",
    ] {
        assert!(!page.contains(never), "{never}");
    }
    // The one address in it is the name of the icon's language.
    assert_eq!(page.matches("http://").count(), 1);
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("<style").count(), 1);
}

#[test]
fn a_page_elsewhere_writes_nothing_whatever_its_browser_says_of_it() {
    let registry = Registry::start();
    let writes = [
        "POST /nacos/v1/ns/instance?serviceName=stolen&ip=1.1.1.1&port=1",
        "PUT /nacos/v1/ns/instance/beat?serviceName=stolen&ip=1.1.1.1&port=1",
        "POST /nacos/v1/cs/configs?dataId=stolen&group=g&content=x",
        "POST /nacos/v1/auth/login?username=nacos&password=nacos",
        "DELETE /nacos/v1/cs/configs?dataId=a&group=g",
        "POST /v3/admin/ns/instance?serviceName=stolen&ip=1.1.1.1&port=1",
        "POST /outrigger/page",
        "POST /outrigger/faults?hang",
        "POST /nothing/here",
        "OPTIONS /nacos/v1/ns/instance",
    ];
    let port = registry.port;
    let foreign = [
        "Origin: null\r\n".to_owned(),
        "Origin: http://evil.example\r\n".to_owned(),
        // Another port of this host is somebody else's.
        "Origin: http://localhost:3000\r\n".to_owned(),
        "Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n".to_owned(),
        // A form whose browser sends no origin.
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n".to_owned(),
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: navigate\r\n".to_owned(),
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n".to_owned(),
        "Sec-Fetch-Site: what-is-to-come\r\n".to_owned(),
        // A name that was rebound to us is the page's own, to the browser.
        format!(
            "Host: rebound.example:{port}\r\nOrigin: http://rebound.example:{port}\r\nSec-Fetch-Site: same-origin\r\n"
        ),
        format!("Host: 127.0.0.1.rebound.example:{port}\r\nSec-Fetch-Site: same-origin\r\n"),
    ];
    for write in writes {
        for headers in &foreign {
            assert_eq!(
                status(&registry, write, headers),
                "403",
                "{write} {headers}"
            );
        }
    }
    let seen = page(&registry, "");
    assert_eq!(seen["counts"]["services"], 0);
    assert_eq!(seen["counts"]["configs"], 0);
    // Neither is anything read by one, except where a link leads.
    for read in [
        "GET /outrigger/page",
        "GET /nacos/v1/ns/instance/list?serviceName=s",
    ] {
        let from = |mode| format!("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: {mode}\r\n");
        assert_eq!(status(&registry, read, &from("no-cors")), "403", "{read}");
        assert_eq!(status(&registry, read, "Origin: null\r\n"), "403", "{read}");
        let (head, _) = said(&registry, read, "");
        assert!(!head.contains("access-control"), "{head}");
    }
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    assert_eq!(status(&registry, "GET /", link), "200");
}

#[test]
fn our_own_page_writes_and_so_does_who_is_no_browser() {
    let registry = Registry::start();
    let port = registry.port;
    let write = "POST /nacos/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1";
    for headers in [
        String::new(),
        format!(
            "Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\n"
        ),
        format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"),
        // A developer's own server hands on what its page asks of it.
        format!(
            "Host: 127.0.0.1:{port}\r\nOrigin: http://localhost:3000\r\nSec-Fetch-Site: same-origin\r\n"
        ),
    ] {
        assert_eq!(status(&registry, write, &headers), "200", "{headers}");
    }
}

#[test]
fn the_page_is_held_until_something_happens_and_shows_it() {
    let registry = Registry::start();
    let number = page(&registry, "")["number"].as_u64().unwrap();
    let port = registry.port;
    let began = Instant::now();
    let waiting = thread::spawn(move || {
        let path = format!("/outrigger/page?seen={number}&hold=4000");
        http(port, "GET", &path, "").unwrap()
    });
    // Not for luck: whether it is held already or comes later, it is told of what happens.
    thread::sleep(Duration::from_millis(100));
    http(
        port,
        "POST",
        "/nacos/v1/ns/instance",
        "serviceName=orders&ip=10.0.0.1&port=80",
    )
    .unwrap();
    let told: Value = serde_json::from_str(&waiting.join().unwrap()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(4));
    assert!(told["number"].as_u64().unwrap() > number);
    let row = &told["view"]["rows"][0];
    assert_eq!(
        (&row["name"], &row["healthy"]),
        (&"orders".into(), &1.into())
    );
    // Reading is nothing that happens.
    let number = page(&registry, "?show=service&service=orders")["number"].clone();
    http(
        port,
        "GET",
        "/nacos/v1/ns/instance/list?serviceName=orders",
        "",
    )
    .unwrap();
    assert_eq!(page(&registry, "")["number"], number);
    let began = Instant::now();
    page(&registry, &format!("?seen={number}&hold=300"));
    assert!(began.elapsed() >= Duration::from_millis(300), "it is held");
}

#[test]
fn an_answer_has_so_many_rows_and_the_next_ones_are_on_the_next_page() {
    let registry = Registry::start();
    for n in 0..201 {
        let form = format!(
            "serviceName=crowd&ip=10.0.0.{}&port={}&ephemeral=false&metadata=%7B%22n%22%3A%22{n}%22%7D",
            n % 250,
            1000 + n
        );
        http(registry.port, "POST", "/nacos/v1/ns/instance", &form).unwrap();
    }
    let rows = |query: &str| {
        let view = page(&registry, &format!("?show=service&service=crowd&{query}"))["view"].clone();
        (
            view["rows"].as_array().unwrap().len(),
            view["total"].as_u64().unwrap(),
        )
    };
    assert_eq!(rows(""), (200, 201));
    assert_eq!(rows("page=2"), (1, 201));
    assert_eq!(rows("page=2147483647"), (0, 201));
    assert_eq!(rows("find=1200"), (1, 1), "by port");
    assert_eq!(rows("unhealthy=true"), (0, 0));
    for (query, status) in [
        ("?show=nothing", " 404 "),
        ("?seen=x", " 400 "),
        ("?page=0", " 400 "),
        ("?show=service", " 400 "),
        ("?show=record&id=9", " 404 "),
    ] {
        let refused =
            http(registry.port, "GET", &format!("/outrigger/page{query}"), "").unwrap_err();
        assert!(refused.contains(status), "{query}: {refused}");
    }
}

#[test]
fn faults_strike_others_and_not_the_page() {
    let registry = Registry::start_with(free_port(), &["--faults"]);
    http(registry.port, "POST", "/outrigger/faults", "status=500").unwrap();
    let other = http(
        registry.port,
        "GET",
        "/nacos/v1/console/health/liveness",
        "",
    );
    assert!(other.is_err(), "{other:?}");
    page(&registry, "");
    assert_eq!(status(&registry, "GET /", ""), "200");
}
