//! The figures of docs/performance.md: the program as processes, seen from outside. `cargo bench --bench figures`.
//!
//! Everything is measured in one run on one machine, against the embedded registry on loopback, so figures compare with one
//! another and not with another day's. Nothing here passes or fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark that cannot go on stops, and says so; it measures real time"
)]

#[path = "process.rs"]
mod process;

use process::{Process, cpu, http, memory, ms, program, quantile, registry, registry_at, until};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

fn listed(port: u16, service: &str) -> bool {
    let path = format!("/nacos/v1/ns/instance/list?serviceName={service}");
    http(port, "GET", &path, "").is_some_and(|list| list.contains("\"healthy\":true"))
}

fn agent(folder: &Path, registry: u16, transport: &str, descriptor: &str) -> Process {
    let at = folder.display();
    fs::create_dir_all(folder.join("conf.d")).unwrap();
    let settings = format!(
        "registry: {{ servers: [\"http://127.0.0.1:{registry}\"], transport: {transport}, write_rate: 1000 }}\n\
         state_dir: {at}/state\nallow_root: true\nadmin: {{ socket: {at}/admin.sock }}\n"
    );
    fs::write(folder.join("outrigger.yaml"), settings).unwrap();
    fs::write(folder.join("conf.d/figures.yaml"), descriptor).unwrap();
    program(&["run", "--config", &format!("{at}/outrigger.yaml")])
}

fn start_to_registered(port: u16, transport: &str) {
    let mut times: Vec<Duration> = (0..20)
        .map(|round| {
            let folder = tempfile::tempdir().unwrap();
            let service = format!("start-{transport}-{round}");
            let descriptor = format!(
                "services: [ {{ name: {service}, port: 1, probe: none, address: 127.0.0.1 }} ]\n"
            );
            let began = Instant::now();
            let _agent = agent(folder.path(), port, transport, &descriptor);
            until(|| listed(port, &service));
            began.elapsed()
        })
        .collect();
    println!(
        "{transport}: start to registered (process start, no probe)   p50 {}  p90 {}  of 20",
        ms(quantile(&mut times, 0.5)),
        ms(quantile(&mut times, 0.9))
    );
}

fn publish_to_file(port: u16, transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("figures.txt");
    let descriptor = format!(
        "configs: [ {{ data_id: figures.txt, path: \"{}\" }} ]\n",
        file.display()
    );
    let publish = |content: &str| {
        let form = format!("dataId=figures.txt&group=DEFAULT_GROUP&content={content}");
        http(port, "POST", "/nacos/v1/cs/configs", &form).unwrap();
    };
    publish(&format!("first-{transport}"));
    let _agent = agent(folder.path(), port, transport, &descriptor);
    until(|| fs::read_to_string(&file).is_ok_and(|text| text == format!("first-{transport}")));
    let mut times: Vec<Duration> = (0..100)
        .map(|round| {
            // A rest, as between the changes of an operator.
            sleep(Duration::from_millis(600));
            let content = format!("round-{round}");
            let began = Instant::now();
            publish(&content);
            until(|| fs::read_to_string(&file).is_ok_and(|text| text == content));
            began.elapsed()
        })
        .collect();
    println!(
        "{transport}: publish to file in place                        p50 {}  p99 {}  of 100",
        ms(quantile(&mut times, 0.5)),
        ms(quantile(&mut times, 0.99))
    );
}

/// The registry is killed, and an empty one takes its place 5 s later: from when that one answers until it lists the instance.
fn back_again(transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = "services: [ { name: back, port: 1, probe: none, address: 127.0.0.1 } ]\n";
    let (mut registry, port) = registry();
    let _agent = agent(folder.path(), port, transport, descriptor);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            until(|| listed(port, "back"));
            drop(registry.0.kill());
            drop(registry.0.wait());
            sleep(Duration::from_secs(5));
            registry = registry_at(port);
            until(|| listed(port, "back"))
        })
        .collect();
    println!(
        "{transport}: registered again after the registry's return   p50 {}  longest {}  of 5",
        ms(quantile(&mut times, 0.5)),
        ms(quantile(&mut times, 1.0))
    );
}

fn at_rest(port: u16, transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let app_port = application.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in application.incoming() {
            drop(connection);
        }
    });
    let file = folder.path().join("rest.txt");
    let descriptor = format!(
        "services: [ {{ name: rest-{transport}, port: {app_port} }} ]\nconfigs: [ {{ data_id: rest.txt, path: \"{}\" }} ]\n",
        file.display()
    );
    let agent = agent(folder.path(), port, transport, &descriptor);
    until(|| listed(port, &format!("rest-{transport}")));
    sleep(Duration::from_secs(10));
    let (before, began) = (cpu(&agent), Instant::now());
    sleep(Duration::from_secs(60));
    let used = (cpu(&agent) - before).as_secs_f64() * 60.0 / began.elapsed().as_secs_f64();
    let (resident, private) = memory(&agent);
    println!(
        "{transport}: at rest: 1 service, tcp probe 1 s, beat 5 s, 1 file   resident {resident} kB, private {private} kB, CPU {:.1} ms a minute",
        used * 1000.0
    );
}

fn a_thousand_services(transport: &str) {
    let (_registry, port) = registry();
    let folder = tempfile::tempdir().unwrap();
    let mut descriptor = "services:\n".to_owned();
    for at in 0..1000 {
        descriptor +=
            &format!("  - {{ name: many-{at}, port: 1, probe: none, address: 127.0.0.1 }}\n");
    }
    let agent = agent(folder.path(), port, transport, &descriptor);
    let took = until(|| (0..10).all(|tenth| listed(port, &format!("many-{}", tenth * 100 + 99))));
    sleep(Duration::from_secs(12));
    let (before, began) = (cpu(&agent), Instant::now());
    sleep(Duration::from_secs(20));
    let used = (cpu(&agent) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let (resident, private) = memory(&agent);
    println!(
        "{transport}: 1000 services: registered in {}, resident {resident} kB, private {private} kB, keeping them costs {:.1} % of a core",
        ms(took),
        used * 100.0
    );
}

/// Sends `request` again and again on connections that stay open; how many were answered in a second, and what one costs the server.
fn answers(
    process: &Process,
    port: u16,
    what: &str,
    request: impl Fn(u32) -> (String, String) + Sync,
) {
    const CONNECTIONS: u32 = 4;
    const EACH: u32 = 5_000;
    let (before, began) = (cpu(process), Instant::now());
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let request = &request;
            scope.spawn(move || {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = vec![0; 256 * 1024];
                for number in 0..EACH {
                    let (line, body) = request(connection * EACH + number);
                    let head = format!(
                        "{line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                    read_answer(&mut stream, &mut buffer);
                }
            });
        }
    });
    let (took, used) = (began.elapsed(), cpu(process) - before);
    let count = f64::from(CONNECTIONS * EACH);
    println!(
        "embedded registry, {what:<22} {:>7.0} a second on {CONNECTIONS} connections, {:.0} us of its CPU each",
        count / took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count
    );
}

/// Reads one answer with a `Content-Length` to its end.
fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        filled += stream.read(&mut buffer[filled..]).unwrap();
        let text = &buffer[..filled];
        let Some(head) = text.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let words = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
        assert!(words.starts_with("http/1.1 200"), "{words}");
        let length: usize = words
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.trim().parse().unwrap());
        if filled >= head + 4 + length {
            return;
        }
    }
}

fn the_registry_alone() {
    let (process, port) = registry();
    let instance = |n: u32| {
        format!(
            "serviceName=figures&ip=10.0.{}.{}&port=80",
            n / 250 % 250,
            n % 250
        )
    };
    answers(&process, port, "register (1000 of them)", |n| {
        (
            format!("POST /nacos/v1/ns/instance?{}", instance(n % 1000)),
            String::new(),
        )
    });
    answers(&process, port, "light beat", |n| {
        (
            format!("PUT /nacos/v1/ns/instance/beat?{}", instance(n % 1000)),
            String::new(),
        )
    });
    for n in 0..100 {
        let path = format!("/nacos/v1/ns/instance?serviceName=hundred&ip=10.1.0.{n}&port=80");
        http(port, "POST", &path, "").unwrap();
    }
    answers(&process, port, "list of 100", |_| {
        (
            "GET /nacos/v1/ns/instance/list?serviceName=hundred".to_owned(),
            String::new(),
        )
    });
    let content = "greeting: hello\n".repeat(64);
    let form = format!("dataId=figures.yaml&group=DEFAULT_GROUP&content={content}");
    http(port, "POST", "/nacos/v1/cs/configs", &form).unwrap();
    answers(&process, port, "configuration of 1 KiB", |_| {
        (
            "GET /nacos/v1/cs/configs?dataId=figures.yaml&group=DEFAULT_GROUP".to_owned(),
            String::new(),
        )
    });
}

fn main() {
    let (registry, port) = registry();
    for transport in ["grpc", "http"] {
        start_to_registered(port, transport);
        publish_to_file(port, transport);
        back_again(transport);
        at_rest(port, transport);
        a_thousand_services(transport);
    }
    the_registry_alone();
    let (resident, private) = memory(&registry);
    println!("embedded registry after all this: resident {resident} kB, private {private} kB");
}
