//! The program as a process, seen from outside: what benchmarks share.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub(crate) fn program(words: &[&str]) -> Process {
    let child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

/// A port that is free, as is the one for gRPC above it.
pub(crate) fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let above = port.checked_add(1000);
        if above.is_some_and(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return port;
        }
    }
}

pub(crate) fn http(port: u16, method: &str, path: &str, form: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Looks again every 0.1 ms; how long it took.
pub(crate) fn until(mut seen: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !seen() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "not seen within a minute"
        );
        sleep(Duration::from_micros(100));
    }
    began.elapsed()
}

pub(crate) fn registry() -> (Process, u16) {
    let port = free_port();
    (registry_at(port), port)
}

pub(crate) fn registry_at(port: u16) -> Process {
    let process = program(&["dev", "--listen", &format!("127.0.0.1:{port}")]);
    until(|| http(port, "GET", "/nacos/v1/console/health/readiness", "").is_some());
    process
}

/// Resident and private memory in kB.
pub(crate) fn memory(process: &Process) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("RssAnon:"))
}

/// CPU time used so far: ns of the scheduler, all threads.
pub(crate) fn cpu(process: &Process) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.0.id())).unwrap();
    let ns = tasks.flatten().map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse().ok());
        first.unwrap_or(0_u64)
    });
    Duration::from_nanos(ns.sum())
}

/// The value below which `share` of the sorted times lie.
pub(crate) fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort();
    let last = times.len() - 1;
    times[(last as f64 * share).round() as usize]
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
