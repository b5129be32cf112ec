//! Who may do what to the agent, and what stops the others: its door, its logs, its descriptors, its credentials.

use crate::bad::{Bad, answer, ok, properly};
use crate::support::{Agent, LONG, Process, Proxy, Registry, free_port, until};
use outrigger::{
    agent::{
        Parts,
        services::{self, Services},
        targets::Targets,
    },
    descriptor::{self, Flags, Surroundings},
    foreign::is_harmful,
    machine::Epoch,
    tasks::Tasks,
    telemetry::{self, Form},
};
use rustix::{process::Gid, thread};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::spawn,
    time::{Duration, Instant},
};

/// An agent without a registry, a descriptor or anything else.
fn alone(more: &str) -> Agent {
    Agent::prepare(&[format!("http://127.0.0.1:{}", free_port())], more)
}

/// An agent with a listener on the port that is answered.
fn listening() -> (Agent, u16) {
    let port = free_port();
    let mut agent = alone("").env("OUTRIGGER_ADMIN_LISTEN", &format!("127.0.0.1:{port}"));
    agent.start();
    until("the listener answers", LONG, || {
        match said(
            port,
            "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        ) {
            answer if answer.starts_with("HTTP/1.1 200") => Ok(()),
            answer => Err(answer),
        }
    });
    (agent, port)
}

/// Exit code and standard error of a command that must end by itself.
pub(crate) fn refused(agent: &Agent, words: &[&str]) -> (Option<i32>, String) {
    let file = fs::File::create(agent.path("stderr")).unwrap();
    let mut command = agent.command(words);
    command.stdout(Stdio::null()).stderr(file);
    let code = Process::start(&mut command).ended(LONG).code();
    (code, agent.read("stderr"))
}

/// All that is answered to these bytes.
fn said(port: u16, bytes: &str) -> String {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
        return "no connection".to_owned();
    };
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has said what it had to say.
    _ = stream.write_all(bytes.as_bytes());
    _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// What another user of this group may do; `None` where the test may not become somebody else.
fn as_another_user<T: Send + 'static>(
    gid: u32,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return None;
    }
    // Of this thread alone.
    let thread = spawn(move || {
        thread::set_thread_groups(&[Gid::from_raw(gid)]).unwrap();
        thread::set_thread_gid(Gid::from_raw(gid)).unwrap();
        thread::set_thread_uid(rustix::process::Uid::from_raw(12345)).unwrap();
        work()
    });
    Some(thread.join().unwrap())
}

#[test]
fn a_member_of_the_applications_group_alone_cannot_drain() {
    const GROUP: u32 = 54321;
    let mut agent = alone("");
    fs::set_permissions(agent.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = agent.path("run/admin.sock");
    agent = agent.env("OUTRIGGER_ADMIN_SOCKET", &socket.display().to_string());
    agent.start();
    until("the agent answers", LONG, || {
        crate::support::admin(&socket, "GET", "/livez").map(drop)
    });
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o750);
    let ours = fs::metadata(&socket).unwrap().gid();
    // The directory is what stops them first; the socket stops them too.
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(socket.parent().unwrap(), 0o755).unwrap();
    let at = socket.clone();
    let connected = move || UnixStream::connect(at).map(drop).map_err(|e| e.kind());
    for group in [ours, GROUP] {
        if let Some(tried) = as_another_user(group, connected.clone()) {
            assert_eq!(tried, Err(std::io::ErrorKind::PermissionDenied), "{group}");
        }
    }
    // With the group written out its members may, and they alone.
    let mut agent = agent.env("OUTRIGGER_ADMIN_GROUP", &GROUP.to_string());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a socket to another group");
        return;
    }
    agent.process = None;
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    agent.start();
    until("the agent answers", LONG, || {
        crate::support::admin(&socket, "GET", "/livez").map(drop)
    });
    assert_eq!(
        (mode(&socket), mode(socket.parent().unwrap())),
        (0o660, 0o750)
    );
    assert_eq!(as_another_user(GROUP, connected.clone()), Some(Ok(())));
    open(socket.parent().unwrap(), 0o755).unwrap();
    assert_eq!(
        as_another_user(ours + 1, connected),
        Some(Err(std::io::ErrorKind::PermissionDenied))
    );
}

#[test]
fn whoever_drains_or_reloads_is_named_by_the_kernel() {
    let mut agent = alone("");
    agent.start();
    until("the agent answers", LONG, || {
        agent.admin("GET", "/livez").map(drop)
    });
    for path in ["/drain", "/reload"] {
        agent.admin("POST", path).unwrap();
    }
    let (uid, pid) = (nix::unistd::geteuid(), std::process::id());
    for what in ["asked to drain", "asked to read everything again"] {
        until(what, LONG, || {
            let log = agent.read("agent.log");
            let line = log
                .lines()
                .find(|line| line.contains(what))
                .unwrap_or_default();
            if line.contains(&format!("uid={uid} ")) && line.contains(&format!("pid={pid}")) {
                Ok(())
            } else {
                Err(log)
            }
        });
    }
}

#[test]
fn only_a_dead_socket_of_our_own_is_taken_away() {
    let mut agent = alone("");
    let socket = agent.path("admin.sock");
    let ended = |agent: &Agent| refused(agent, &["run"]);
    // Somebody listens.
    let listener = UnixListener::bind(&socket).unwrap();
    let (code, complaint) = ended(&agent);
    assert_eq!(code, Some(78));
    assert!(complaint.contains("another agent answers"), "{complaint}");
    drop(listener);
    // Nobody listens, but it is somebody else's.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::lchown(&socket, Some(12345), None).unwrap();
        let (code, complaint) = ended(&agent);
        assert_eq!(code, Some(78));
        assert!(complaint.contains("belongs to user 12345"), "{complaint}");
        assert!(socket.exists());
        std::os::unix::fs::lchown(&socket, Some(0), None).unwrap();
    }
    // A link to a dead socket is no socket.
    let moved = agent.path("moved.sock");
    fs::rename(&socket, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &socket).unwrap();
    let (code, complaint) = ended(&agent);
    assert_eq!(code, Some(78));
    assert!(complaint.contains("is no socket"), "{complaint}");
    fs::rename(&moved, &socket).unwrap();
    // A file beside it that is nobody's business.
    agent.write("admin.sock.new", "somebody's work\n");
    agent.start();
    until("the agent answers", LONG, || {
        agent.admin("GET", "/livez").map(drop)
    });
    assert_eq!(agent.read("admin.sock.new"), "somebody's work\n");
    // Another one's socket in the place of ours is not removed when leaving.
    fs::remove_file(&socket).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    agent.ended(LONG);
    assert!(
        fs::symlink_metadata(&socket)
            .unwrap()
            .file_type()
            .is_socket()
    );
}

#[test]
fn the_tcp_listener_has_no_route_that_changes_anything() {
    let (agent, port) = listening();
    until("it is ready", LONG, || agent.admin("GET", "/readyz"));
    let status = |head: &str| {
        let answer = said(port, &format!("{head}Connection: close\r\n\r\n"));
        answer.split(' ').nth(1).unwrap_or("none").to_owned()
    };
    let here = format!("Host: 127.0.0.1:{port}\r\n");
    for path in ["/livez", "/readyz", "/startupz", "/metrics", "/status"] {
        assert_eq!(
            status(&format!("GET {path} HTTP/1.1\r\n{here}")),
            "200",
            "{path}"
        );
        for method in ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"] {
            let answered = status(&format!("{method} {path} HTTP/1.1\r\n{here}"));
            assert_eq!(answered, "405", "{method} {path}");
        }
        for (more, expected) in [
            ("", "400"),
            ("Host: rebound.example\r\n", "421"),
            ("Host: localhost\r\nOrigin: null\r\n", "403"),
            ("Host: localhost\r\nOrigin: http://evil.example\r\n", "403"),
            ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", "403"),
            ("Host: localhost\r\nX-HTTP-Method-Override: POST\r\n", "200"),
        ] {
            assert_eq!(
                status(&format!("GET {path} HTTP/1.1\r\n{more}")),
                expected,
                "{more}"
            );
        }
    }
    for path in [
        "/drain",
        "/reload",
        "/drain?timeout_ms=1",
        "//drain",
        "/DRAIN",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let answered = status(&format!("{method} {path} HTTP/1.1\r\n{here}"));
            assert!(
                ["404", "405"].contains(&&*answered),
                "{method} {path}: {answered}"
            );
        }
    }
    assert_eq!(status(&format!("GET /addresses HTTP/1.1\r\n{here}")), "404");
    assert!(
        !said(
            port,
            &format!("GET /status HTTP/1.1\r\n{here}Connection: close\r\n\r\n")
        )
        .to_lowercase()
        .contains("access-control-")
    );
    let log = agent.read("agent.log");
    assert!(!log.contains("asked to"), "{log}");
}

#[test]
fn the_tcp_listener_names_no_place_of_credentials() {
    let port = free_port();
    let file = "/run/secrets/canary";
    let mut agent = Agent::prepare(
        &[format!("http://127.0.0.1:{}", free_port())],
        &format!("  auth: {{ username: canary-user, password_file: {file} }}\n"),
    )
    .env("OUTRIGGER_ADMIN_LISTEN", &format!("127.0.0.1:{port}"))
    .env("OUTRIGGER_ADMIN_ALLOW_HOSTS", "node-7.example.com");
    agent.start();
    let inside = until("the socket answers", LONG, || agent.admin("GET", "/status"));
    assert!(
        inside.contains(file) && inside.contains("canary-user"),
        "{inside}"
    );
    let asked = |host: &str| {
        said(
            port,
            &format!("GET /status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        )
    };
    let outside = asked("node-7.example.com:9901");
    assert!(
        outside.starts_with("HTTP/1.1 200") && outside.contains("registry.servers"),
        "{outside}"
    );
    let settings = outside.split("\"settings\"").nth(1).unwrap();
    assert!(!settings.contains("canary"), "{outside}");
    assert!(asked("node-8.example.com").starts_with("HTTP/1.1 421"));
}

#[test]
fn heads_and_bodies_end_at_their_limits_at_either_door() {
    let (agent, port) = listening();
    let socket = agent.path("admin.sock");
    let over_socket = |request: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answer = Vec::new();
        _ = stream.write_all(request.as_bytes());
        _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let over_tcp = |request: &str| said(port, request);
    let doors: [&dyn Fn(&str) -> String; 2] = [&over_socket, &over_tcp];
    let end = "Host: localhost\r\nConnection: close\r\n";
    for door in doors {
        let head = |length: usize| {
            let fixed = format!("GET /livez HTTP/1.1\r\n{end}X: \r\n\r\n").len();
            let value = "x".repeat(length - fixed);
            door(&format!("GET /livez HTTP/1.1\r\n{end}X: {value}\r\n\r\n"))
        };
        assert!(head(8 * 1024 - 1).starts_with("HTTP/1.1 200"));
        let refused = head(8 * 1024 + 1);
        assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
        let body = |length: usize| {
            let body = "x".repeat(length);
            door(&format!(
                "GET /livez HTTP/1.1\r\n{end}Content-Length: {length}\r\n\r\n{body}"
            ))
        };
        assert!(body(4 * 1024).starts_with("HTTP/1.1 200"));
        assert!(body(4 * 1024 + 1).starts_with("HTTP/1.1 413"));
        let chunked = door(&format!(
            "GET /livez HTTP/1.1\r\n{end}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        ));
        assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    }
}

#[test]
fn a_full_listener_lets_nobody_in_for_five_seconds_and_leaves_the_socket_alone() {
    let (agent, port) = listening();
    let connect = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    // Two that began a head, the others say nothing.
    let began = Instant::now();
    let mut waiting: Vec<TcpStream> = (0..64).map(|_| connect()).collect();
    for stream in &mut waiting[..2] {
        stream.write_all(b"GET /livez HT").unwrap();
    }
    let probe = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    until("the listener is full", LONG, || match said(port, probe) {
        answer if answer.is_empty() => Ok(()),
        answer => Err(answer),
    });
    agent.admin("GET", "/livez").unwrap();
    for stream in &mut waiting {
        let mut rest = Vec::new();
        // Closed or reset: ended by the other side.
        _ = stream.read_to_end(&mut rest);
    }
    let lasted = began.elapsed();
    assert!(
        (Duration::from_secs(4)..LONG).contains(&lasted),
        "{lasted:?}"
    );
    assert!(said(port, probe).starts_with("HTTP/1.1 200"));
}

/// What a hostile registry would like a terminal to see.
const HOSTILE: &str = "evil\u{1b}[2J\u{1b}]0;title\u{7}\r\n2026-01-01T00:00:00Z ERROR forged\u{7f}\u{85}\u{9b}31m\u{2028}\u{2029}\u{202e}\u{2066}tail";

#[test]
fn a_registry_full_of_escapes_prints_harmless_lines_wherever_it_is_shown() {
    let bad = Bad::start(|line| match line {
        line if line.starts_with("POST /nacos/v1/ns/instance") => answer(
            400,
            "",
            &format!("caused: Param 'serviceName' is illegal, {HOSTILE};"),
        ),
        line if line.starts_with("GET /nacos/v1/cs/configs") => answer(500, "", HOSTILE),
        line if line.starts_with("GET /nacos/v1/console/server/state") => ok(&format!(
            "{{\"version\":{}}}",
            serde_json::Value::from(HOSTILE)
        )),
        line => properly(line),
    });
    for format in ["text", "json"] {
        let mut agent = Agent::prepare(&[bad.url()], &format!("log: {{ format: {format} }}\n"));
        agent.write(
            "conf.d/a.yaml",
            &format!(
                "services: [{{ name: orders, port: 1, probe: none }}]\nconfigs: [{{ data_id: a, path: {} }}]\n",
                agent.path("a").display()
            ),
        );
        // A key that an operator's own tool made, with the same intentions.
        agent.write("conf.d/b.yaml", "\"evil\\e[2J\\nforged\\u202etail\": 1\n");
        agent.start();
        agent.until_state("services", "orders", "refused");
        until("the version and the failure are shown", LONG, || {
            let status = agent.status()?.to_string();
            match status.matches("evil").count() {
                0..4 => Err(status),
                _ => Ok(()),
            }
        });
        let mut shown = vec![
            ("log", agent.read("agent.log")),
            ("admin", agent.admin("GET", "/status").unwrap()),
            ("metrics", agent.admin("GET", "/metrics").unwrap()),
        ];
        for words in [
            ["status", ""],
            ["status", "--json"],
            ["explain", ""],
            ["explain", "--lang=zh"],
            ["check", ""],
        ] {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let output = agent.command(&words).output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(text.contains("evil"), "{words:?}: {text}");
            shown.push((words[0], text));
        }
        for (what, text) in shown {
            let harmful = text.chars().find(|c| *c != '\n' && is_harmful(*c));
            assert_eq!(harmful, None, "{what}: {text:?}");
            let forged = text
                .lines()
                .any(|line| line.trim_start().starts_with("2026-01-01"));
            assert!(!forged, "{what}: {text}");
        }
    }
}

#[test]
fn an_agent_of_somebody_else_moves_no_cursor_of_ours() {
    // Whoever listens on the socket answers what he likes.
    let agent = alone("");
    let listener = UnixListener::bind(agent.path("admin.sock")).unwrap();
    let body = serde_json::json!({
        "registry": { "state": HOSTILE, "server": HOSTILE, "transport": HOSTILE, "transport_reason": HOSTILE, "version": HOSTILE, "plaintext": true, "reason": HOSTILE,
            "since": HOSTILE },
        "services": [{ "name": HOSTILE, "group": HOSTILE, "namespace": HOSTILE, "port": 1, "instance": HOSTILE,
            "state": HOSTILE, "reason": HOSTILE, "since": HOSTILE, "probe": HOSTILE, "ephemeral": true, "address_origin": HOSTILE,
            "history": [{ "at": HOSTILE, "what": HOSTILE }] }],
        "configs": [],
        "subscriptions": [],
        "problems": [{ "at": HOSTILE, "key": HOSTILE, "message": HOSTILE, "help": HOSTILE }],
        "settings": [{ "key": HOSTILE, "value": HOSTILE, "origin": HOSTILE }],
        "version": HOSTILE,
    });
    let body = serde_json::to_string(&body).unwrap();
    spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            _ = stream.read(&mut head);
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
            _ = stream.write_all(answer.as_bytes());
        }
    });
    for words in [&["status"][..], &["status", "--json"], &["explain"]] {
        let output = agent.command(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("evil"), "{words:?}: {text}");
        let harmful = text.chars().find(|c| *c != '\n' && is_harmful(*c));
        assert_eq!(harmful, None, "{words:?}: {text:?}");
    }
}

#[test]
fn an_hour_of_failures_writes_fewer_than_500_lines() {
    // It keeps no connection: an hour has thousands of them.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bad = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            _ = stream.read(&mut [0; 4096]);
            // Never twice the same words.
            let count = counted.fetch_add(1, Ordering::SeqCst);
            let (status, body) = match count % 3 {
                0 => ("HTTP/1.1 500 X", format!("failure number {count}")),
                1 => ("HTTP/1.1 403 X", format!("denial number {count}")),
                _ => ("no HTTP", String::new()),
            };
            let answer = format!(
                "{status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            _ = stream.write_all(answer.as_bytes());
        }
    });
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let agent = Agent::prepare(
        &[bad, nobody],
        "  auth: { username: svc, password: canary }\n  request_timeout: 1s\n",
    );
    let mut descriptor = "services:\n".to_owned();
    for n in 0..6 {
        descriptor += &format!("  - {{ name: s{n}, port: 1, probe: none }}\n");
    }
    descriptor += "  - { name: dead, port: 1, probe: { tcp: {}, interval: 5s } }\nconfigs:\n";
    for n in 0..6 {
        let path = agent.path(&format!("c{n}"));
        descriptor += &format!("  - {{ data_id: c{n}, path: {} }}\n", path.display());
    }
    agent.write("conf.d/a.yaml", &descriptor);
    let flags = Flags {
        config: Some(agent.path("outrigger.yaml")),
        conf_dir: None,
    };
    let around = Surroundings::default();
    let settings = descriptor::read_settings(&flags, &around).unwrap();
    let files = descriptor::read_directory(&settings, &around).unwrap();
    let wanted = files.into_iter().map(|file| file.descriptor.unwrap());
    let wanted = wanted.into_iter().next().unwrap();

    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&lines);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    // The clock runs ahead whenever nothing can be done but wait, so an answer may also come too late: one more failure.
    runtime.block_on(async {
        let (tasks, epoch) = (Tasks::new(), Epoch::start());
        let write = move |line: &str| kept.lock().unwrap().push(line.to_owned());
        let form = Form::Text { coloured: false };
        let (subscriber, journal) = telemetry::subscriber("info", form, epoch, write).unwrap();
        tasks.spawn("journal", journal.run());
        let _guard = tracing::subscriber::set_default(subscriber);
        let (told, standings) = tokio::sync::mpsc::channel(64);
        let parts = Parts::start(&settings.registry, &tasks, epoch, told).unwrap();
        let around = services::Surroundings {
            pod_ip: Some("10.1.2.3".to_owned()),
            servers: Vec::new(),
        };
        let services = Services::start(&parts, standings, around);
        let kept = wanted.kept();
        services.set(wanted.services).await;
        let targets = Targets::start(&parts, settings.state_dir.clone());
        targets.set(vec![("a.yaml".into(), kept)]);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        _ = tasks.finish(Duration::from_secs(5)).await;
        assert!(epoch.now() >= Duration::from_secs(3600));
    });
    let lines = lines.lock().unwrap();
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked > 500, "{asked} calls were made");
    assert!(
        (20..500).contains(&lines.len()),
        "{} lines for {asked} calls:\n{}",
        lines.len(),
        lines[..lines.len().min(600)].concat()
    );
}

#[test]
fn status_says_plaintext_when_a_password_crosses_http() {
    // An address that is none of loopback, and where a packet goes no further.
    let open = format!("http://0.0.0.0:{}", free_port());
    let local = format!("http://127.0.0.1:{}", free_port());
    let auth = "  auth: { username: svc, password: canary }\n";
    for (server, more, plain) in [
        (&open, auth, true),
        (&open, "", false),
        (&local, auth, false),
    ] {
        let mut agent = Agent::prepare(std::slice::from_ref(server), more);
        agent.start();
        let status = until("the agent answers", LONG, || agent.status());
        assert_eq!(status["registry"]["plaintext"], plain, "{status}");
        for words in [&["status"][..], &["explain"], &["explain", "--lang=zh"]] {
            let output = agent.command(words).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let says = text.contains("plaintext") || text.contains("明文");
            assert_eq!(says, plain, "{words:?}: {text}");
        }
        let said = agent
            .read("agent.log")
            .matches("crosses the network unencrypted")
            .count();
        assert_eq!(said, usize::from(plain));
    }
}

#[test]
fn proxy_variables_are_ignored() {
    let registry = Registry::start();
    let proxy = Bad::start(|_| answer(200, "", "a proxy"));
    let mut agent = Agent::of(&registry);
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        agent = agent.env(name, &proxy.url());
    }
    let hook = Bad::start(|_| ok("fine"));
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services: [{{ name: orders, port: 1, probe: {{ http: {{ path: /, port: {} }}, interval: 50ms }} }}]\n\
             configs: [{{ data_id: a.yaml, path: {}, reload: {{ http: \"{}/reload\" }} }}]\n",
            hook.url().rsplit(':').next().unwrap(),
            agent.path("a.yaml").display(),
            hook.url()
        ),
    );
    registry.publish("a.yaml", "a: 1\n");
    agent.start();
    registry.until_listed("orders", 1, LONG);
    agent.until_state("configs", "a.yaml", "applied");
    let asked = hook.asked.lock().unwrap().join("\n");
    assert!(
        asked.contains("/reload") && asked.contains("GET / "),
        "{asked}"
    );
    assert_eq!(*proxy.asked.lock().unwrap(), [""; 0]);
}

#[test]
fn the_password_appears_in_no_output_of_a_full_trace_run() {
    const PASSWORD: &str = "canary-password-7c1e55";
    const TOKEN: &str = "canary-token-0b51d2";
    const CONTENT: &str = "canary-content-91ee07";
    let [denied, failed, logins] = [const { AtomicUsize::new(0) }; 3];
    let bad = Bad::start(move |line| match line {
        // Whatever carries a secret fails once, since failures are what is logged.
        line if line.contains("/auth/login") && logins.fetch_add(1, Ordering::SeqCst) < 1 => {
            answer(503, "", "not now")
        }
        line if line.starts_with("POST /nacos/v1/auth/login") => ok(&format!(
            "{{\"accessToken\":\"{TOKEN}\",\"tokenTtl\":18000}}"
        )),
        line if line.starts_with("GET /nacos/v1/ns/instance?")
            && denied.fetch_add(1, Ordering::SeqCst) < 1 =>
        {
            answer(403, "", "token expired!")
        }
        line if line.starts_with("GET /nacos/v1/cs/configs")
            && failed.fetch_add(1, Ordering::SeqCst) < 1 =>
        {
            answer(500, "", "not now")
        }
        line if line.starts_with("GET /nacos/v1/cs/configs") => answer(
            200,
            "Content-MD5: 0123456789abcdef0123456789abcdef\r\n",
            &format!("[{CONTENT}\n"),
        ),
        line => properly(line),
    });
    let mut agent = Agent::prepare(
        &[bad.url()],
        "  auth: { username: svc, password_file: PASSWORD }\n",
    )
    .env("RUST_LOG", "trace");
    let file = agent.path("password");
    let settings = agent.read("outrigger.yaml");
    agent.write(
        "outrigger.yaml",
        &(settings.replace("PASSWORD", &file.display().to_string()) + "shutdown_timeout: 200ms\n"),
    );
    agent.write("password", PASSWORD);
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services: [{{ name: orders, port: 1, probe: none, heartbeat: {{ interval: 100ms, timeout: 5s, delete_after: 10s }} }}]\n\
             configs:\n  - {{ data_id: good, path: {} }}\n  - {{ data_id: bad, path: {}, validate: {{ format: json }} }}\n",
            agent.path("good").display(),
            agent.path("bad").display()
        ),
    );
    agent.start();
    agent.until_state("services", "orders", "registered");
    agent.until_state("configs", "good", "applied");
    agent.until_state("configs", "bad", "rejected");
    until("the server has heard the password", LONG, || {
        match bad
            .asked
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains("/login"))
            .count()
        {
            0 => Err(String::new()),
            _ => Ok(()),
        }
    });
    assert!(
        agent.read("good").contains(CONTENT),
        "so the check below can fail"
    );
    let mut shown = String::new();
    for path in [
        "/status",
        "/metrics",
        "/addresses",
        "/livez",
        "/startupz",
        "/readyz",
    ] {
        shown += &agent.admin("GET", path).unwrap_or_else(|refused| refused);
    }
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["explain"],
        &["explain", "config", "bad"],
        &["check"],
        &["once", "--timeout=1s"],
        &["drain", "--timeout=200ms"],
    ] {
        let output = agent.command(words).output().unwrap();
        shown += &String::from_utf8_lossy(&output.stdout);
        shown += &String::from_utf8_lossy(&output.stderr);
    }
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    agent.ended(LONG);
    let log = agent.read("agent.log");
    assert!(log.contains("DEBUG"), "{log}");
    shown += &log;
    assert!(!shown.contains(PASSWORD), "the password is in an output");
    assert!(!shown.contains(TOKEN), "the token is in an output");
    assert!(!shown.contains(CONTENT), "a content is in an output");
    // What is kept for later: contents belong there, credentials do not.
    let mut kept = Vec::new();
    let mut folders = vec![agent.path("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                kept.push(String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
            }
        }
    }
    let kept = kept.concat();
    assert!(kept.contains(CONTENT), "the snapshots were looked at");
    assert!(!kept.contains(PASSWORD) && !kept.contains(TOKEN));
}

#[test]
fn registered_names_never_become_metric_labels() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let mut text = String::from("services:\n");
    for n in 0..50 {
        text += &format!(
            "  - {{ name: canary-{n}, port: 1, probe: none, metadata: {{ canary: canary }} }}\n"
        );
    }
    agent.write("conf.d/a.yaml", &text);
    agent.start();
    registry.until_listed("canary-49", 1, LONG);
    agent.until_state("services", "canary-49", "registered");
    let figures = agent.admin("GET", "/metrics").unwrap();
    assert!(!figures.contains("canary"), "{figures}");
    // Fifty services make no more series than one.
    let series = figures
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    assert!((3..100).contains(&series), "{figures}");
}

/// A server that answers each connection with what `play` writes to it, after the head of one request.
fn server(play: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let play = Arc::new(play);
    spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let play = Arc::clone(&play);
            spawn(move || {
                _ = stream.read(&mut [0; 8192]);
                _ = play(&mut stream);
            });
        }
    });
    port
}

/// An agent with one service and one configuration, and credentials, which asks `server`.
fn asking(server: &str, registry: &str) -> Agent {
    let more = format!(
        "  auth: {{ username: svc, password: canary }}\n  request_timeout: 500ms\n{registry}"
    );
    let mut agent = Agent::prepare(&[server.to_owned()], &more);
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services: [{{ name: orders, port: 1, probe: none }}]\nconfigs: [{{ data_id: a.yaml, path: {} }}]\n",
            agent.path("a.yaml").display()
        ),
    );
    agent.start();
    agent
}

/// Waits until the registry is `unreachable` for a reason that has one of `words`.
pub(crate) fn until_unreachable(agent: &Agent, words: &[&str]) {
    until(&format!("it is unreachable: {words:?}"), LONG, || {
        let registry = agent.status()?["registry"].clone();
        let reason = registry["reason"].as_str().unwrap_or_default();
        let said = words.iter().any(|word| reason.contains(word));
        if registry["state"] == "unreachable" && said {
            Ok(())
        } else {
            Err(registry.to_string())
        }
    });
}

#[test]
fn a_body_that_drips_one_byte_at_a_time_ends_at_the_deadline() {
    let longest: Arc<Mutex<Duration>> = Arc::default();
    let seen = Arc::clone(&longest);
    let port = server(move |stream| {
        let began = Instant::now();
        let head = b"HTTP/1.1 200 OK\r\nContent-MD5: 0\r\nContent-Length: 100000\r\n\r\n";
        let mut sent = stream.write_all(head);
        while sent.is_ok() && began.elapsed() < LONG {
            std::thread::sleep(Duration::from_millis(20));
            sent = stream.write_all(b"x");
        }
        let mut longest = seen.lock().unwrap();
        *longest = (*longest).max(began.elapsed());
        Ok(())
    });
    let agent = asking(&format!("http://127.0.0.1:{port}"), "");
    until_unreachable(&agent, &["no answer within 500ms"]);
    until("a connection was ended", LONG, || {
        match *longest.lock().unwrap() {
            none if none.is_zero() => Err(String::new()),
            some => Ok(some),
        }
    });
    let longest = *longest.lock().unwrap();
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(!agent.path("a.yaml").exists());
    agent.admin("GET", "/livez").unwrap();
}

#[test]
fn answers_end_at_their_limits() {
    const SMALL: usize = 64 * 1024;
    let answered = |status: u16, headers: String, length: usize| {
        let bad = Bad::start(move |_| answer(status, &headers, &"x".repeat(length)));
        let agent = asking(&bad.url(), "");
        until("it says what came", LONG, || {
            let status = agent.status()?;
            let reason = status["configs"][0]["reason"].as_str().unwrap_or_default();
            // Not what could not be had for want of a token.
            match reason.contains(&bad.url()) {
                true => Ok(reason.to_owned()),
                false => Err(status.to_string()),
            }
        })
    };
    // A refusal at its limit, and one beyond.
    let at = answered(500, String::new(), SMALL);
    assert!(at.contains("answered 500: xxx"), "{at}");
    assert!(at.len() < 5000, "its words are cut: {}", at.len());
    let beyond = answered(500, String::new(), SMALL + 1);
    assert!(beyond.contains("more than 65536 bytes"), "{beyond}");
    // Heads: a hundred headers, and what is left of them when there are more.
    let many = answered(500, "X: y\r\n".repeat(90), 1);
    assert!(many.contains("answered 500"), "{many}");
    let beyond = answered(500, "X: y\r\n".repeat(101), 1);
    assert!(!beyond.contains("answered 500"), "{beyond}");
    let large = answered(500, format!("X: {}\r\n", "y".repeat(1 << 20)), 1);
    assert!(!large.contains("answered 500"), "{large}");
    // Whatever is compressed was not asked for.
    for encoding in ["gzip", "deflate", "br", "identity, gzip"] {
        let compressed = answered(
            200,
            format!("Content-Encoding: {encoding}\r\nContent-MD5: 0\r\n"),
            10,
        );
        assert!(compressed.contains("compressed with"), "{compressed}");
    }
    // A configuration beyond its limit. (At the limit it is a file, see the next test.)
    let beyond = answered(200, "Content-MD5: 0\r\n".to_owned(), 10 * 1024 * 1024 + 1);
    assert!(beyond.contains("more than"), "{beyond}");
}

#[test]
fn a_configuration_of_10_mib_becomes_a_file() {
    const LENGTH: usize = 10 * 1024 * 1024;
    let bad = Bad::start(move |line| match line {
        line if line.starts_with("GET /nacos/v1/cs/configs") => {
            answer(200, "Content-MD5: 0\r\n", &"x".repeat(LENGTH))
        }
        line => properly(line),
    });
    let mut agent = Agent::prepare(&[bad.url()], "");
    let path = agent.path("a.yaml");
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "configs: [{{ data_id: a.yaml, path: {} }}]\n",
            path.display()
        ),
    );
    agent.start();
    agent.until_state("configs", "a.yaml", "applied");
    assert_eq!(fs::metadata(path).unwrap().len(), LENGTH as u64);
}

#[test]
fn an_address_server_cannot_send_the_token_to_a_server_of_its_own() {
    let play = |token: &'static str| {
        move |line: &str| match line {
            line if line.contains("/auth/login") => ok(&format!(
                "{{\"accessToken\":\"{token}\",\"tokenTtl\":18000}}"
            )),
            line => properly(line),
        }
    };
    let (first, second) = (Bad::start(play("token-one")), Bad::start(play("token-two")));
    let port = |bad: &Bad| bad.url().rsplit(':').next().unwrap().parse().unwrap();
    let (one, two) = (Proxy::to(port(&first)), Proxy::to(port(&second)));
    let named = Arc::new(Mutex::new(format!("127.0.0.1:{}\n", one.port)));
    let answered = Arc::clone(&named);
    let addresses = Bad::start(move |_| ok(&answered.lock().unwrap()));
    let mut agent = Agent::prepare(&[], "");
    let settings = agent.read("outrigger.yaml").replace(
        "  servers: []\n",
        &format!(
            "  endpoint: {}/list\n  endpoint_refresh: 100ms\n  auth: {{ username: svc, password: canary }}\n",
            addresses.url()
        ),
    );
    agent.write("outrigger.yaml", &settings);
    agent.write(
        "conf.d/a.yaml",
        "services: [{ name: orders, port: 1, probe: none, heartbeat: { interval: 100ms, timeout: 5s, delete_after: 10s } }]\n",
    );
    agent.start();
    let until_heard = |proxy: &Proxy, token: &str| {
        until(&format!("{token} is used"), LONG, || match proxy.heard() {
            heard if heard.contains(&format!("Bearer {token}")) => Ok(()),
            heard => Err(heard),
        });
    };
    until_heard(&one, "token-one");
    // Nonsense beside a new server is left out, and the scheme is not the answer's to choose.
    *named.lock().unwrap() = format!(
        "https://127.0.0.1:{0}\nsvc:canary@127.0.0.1:{0}\n127.0.0.1:{1}\n",
        free_port(),
        two.port
    );
    until_heard(&two, "token-two");
    let heard = two.heard();
    assert!(!heard.contains("token-one"), "{heard}");
    assert_eq!(
        agent.status().unwrap()["registry"]["server"],
        format!("http://127.0.0.1:{}", two.port)
    );
}

#[test]
fn a_redirect_of_a_login_a_hook_or_an_address_server_sends_nothing_to_the_second_host() {
    for status in [301, 302, 303, 307, 308] {
        let second = Bad::start(properly);
        let to = format!("Location: {}/nacos/\r\n", second.url());
        let first = Bad::start(move |line| match line {
            line if line.contains("/auth/login") || line.contains("/elsewhere") => {
                answer(status, &to, "")
            }
            line => properly(line),
        });
        let mut agent = Agent::prepare(
            &[first.url()],
            "  auth: { username: svc, password: canary }\n  request_timeout: 200ms\n",
        );
        agent.write(
            "conf.d/a.yaml",
            &format!(
                "services: [{{ name: orders, port: 1, probe: {{ http: {{ path: /elsewhere, port: {} }}, interval: 50ms }} }}]\n\
                 configs: [{{ data_id: a.yaml, path: {}, reload: {{ http: \"{}/elsewhere\" }} }}]\n",
                first.url().rsplit(':').next().unwrap(),
                agent.path("a.yaml").display(),
                first.url()
            ),
        );
        agent.start();
        until("login, hook and probe were redirected", LONG, || {
            let asked = first.asked.lock().unwrap().join("\n");
            let all = ["/auth/login", "POST /elsewhere", "GET /elsewhere"];
            match all.iter().all(|one| asked.contains(one)) {
                true => Ok(()),
                false => Err(asked),
            }
        });
        until("the log says it", LONG, || {
            let log = agent.read("agent.log");
            match log.contains(&format!("{status}, a redirect")) {
                true => Ok(()),
                false => Err(log),
            }
        });
        let mut agent = Agent::prepare(&[], "");
        let settings = agent.read("outrigger.yaml").replace(
            "  servers: []\n",
            &format!(
                "  endpoint: {}/elsewhere\n  endpoint_refresh: 100ms\n",
                first.url()
            ),
        );
        agent.write("outrigger.yaml", &settings);
        agent.start();
        until("the address server's redirect is said", LONG, || {
            let log = agent.read("agent.log");
            match log.contains(&format!("status {status}")) {
                true => Ok(()),
                false => Err(log),
            }
        });
        assert_eq!(*second.asked.lock().unwrap(), [""; 0], "{status}");
    }
}

#[test]
fn a_password_that_was_changed_in_its_file_is_used_when_the_token_is_denied() {
    let denied = Arc::new(AtomicUsize::new(0));
    let deny = Arc::clone(&denied);
    let bad = Bad::start(move |line| match line {
        line if line.contains("/instance/beat") && deny.load(Ordering::SeqCst) == 1 => {
            answer(403, "", "token expired!")
        }
        line => properly(line),
    });
    let proxy = Proxy::to(bad.url().rsplit(':').next().unwrap().parse().unwrap());
    let mut agent = Agent::prepare(
        &[format!("http://127.0.0.1:{}", proxy.port)],
        "  auth: { username: svc, password_file: PASSWORD }\n",
    );
    let settings = agent.read("outrigger.yaml");
    let file = agent.path("password").display().to_string();
    agent.write("outrigger.yaml", &settings.replace("PASSWORD", &file));
    agent.write("password", "canary-old\n");
    agent.write(
        "conf.d/a.yaml",
        "services: [{ name: orders, port: 1, probe: none, heartbeat: { interval: 100ms, timeout: 5s, delete_after: 10s } }]\n",
    );
    agent.start();
    agent.until_state("services", "orders", "registered");
    assert!(proxy.heard().contains("password=canary-old"));
    agent.write("password", "canary-new\n");
    denied.store(1, Ordering::SeqCst);
    until("it logs in with the new one", LONG, || {
        match proxy.heard() {
            heard if heard.contains("password=canary-new") => Ok(()),
            heard => Err(heard),
        }
    });
    denied.store(0, Ordering::SeqCst);
    agent.until_state("services", "orders", "registered");
}

#[test]
fn nothing_that_holds_a_secret_shows_it_when_it_is_printed() {
    use outrigger::nacos::{calls, calls::Answer, model::Content};
    const CANARY: &str = "canary-6f10";
    let answer = Answer {
        server: "http://nacos:8848".into(),
        status: 200,
        data_key: Some(CANARY.into()),
        body: format!("{{\"accessToken\":\"{CANARY}\",\"tokenTtl\":1}}").into_bytes(),
        ..Answer::default()
    };
    let content = Content {
        bytes: CANARY.as_bytes().into(),
        md5: "0".into(),
        data_key: Some(CANARY.into()),
        ..Content::of(Vec::new())
    };
    let variables = [
        ("OUTRIGGER_REGISTRY_AUTH_USERNAME", "svc"),
        ("OUTRIGGER_REGISTRY_AUTH_PASSWORD", CANARY),
    ];
    let around = Surroundings {
        env: variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Surroundings::default()
    };
    let agent = alone("");
    let flags = Flags {
        config: Some(agent.path("outrigger.yaml")),
        conf_dir: None,
    };
    let settings = descriptor::read_settings(&flags, &around).unwrap();
    assert!(settings.registry.auth.is_some());
    let shown = format!(
        "{:?} {answer:?} {content:?} {settings:?} {:?}",
        calls::login("svc", CANARY),
        outrigger::secret::Secret::new(CANARY.to_owned())
    );
    assert!(shown.contains("login") && shown.contains("svc"), "{shown}");
    assert!(!shown.contains(CANARY), "{shown}");
}

mod readers {
    //! Whatever a server answers, it is read as something, and what is kept of its words is bounded.

    use outrigger::nacos::{
        Error,
        calls::{self, Answer},
        model::{ConfigKey, Namespace},
        wire,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let json = "(\\{|\\}|\\[|\\]|:|,|null|true|-1|1e999|18446744073709551616|\"\"|\"\\\\u0000\"|\"hosts\":|\"ip\":|\"port\":|\"code\":|\"accessToken\":|\"tokenTtl\":|\"metadata\":|\"clientBeatInterval\":|\"version\":|\"x\"){0,40}";
        prop_oneof![
            any::<Vec<u8>>(),
            json.prop_map(String::into_bytes),
            "[%\\x01\\x02a-z0-9]{0,60}".prop_map(String::into_bytes),
            (0_usize..20_000).prop_map(|depth| b"[".repeat(depth)),
            (0_usize..20_000).prop_map(|depth| b"{\"a\":".repeat(depth)),
            ".{0,40}".prop_map(|text| format!("caused: {};", text.repeat(1000)).into_bytes()),
        ]
    }

    fn is_bounded(error: &Error) -> bool {
        let words = match error {
            Error::Busy { message, .. }
            | Error::Denied { message, .. }
            | Error::Refused { message, .. } => message.raw().len(),
            _ => 0,
        };
        words <= 4096 && error.to_string().len() <= 4096
    }

    proptest! {
        #[test]
        fn a_random_answer_never_panics_and_says_little(status in prop_oneof![Just(200_u16), 100_u16..1000], body in bodies(), sealed: bool) {
            let answer = Answer {
                server: "http://nacos:8848".into(),
                status,
                sealed: sealed.then(|| "0".into()),
                body,
                ..Answer::default()
            };
            let key = ConfigKey {
                namespace: Namespace::new("public"),
                group: "G".into(),
                data_id: "a".into(),
            };
            let keys = [(key.clone(), Arc::from(""))];
            let again = || answer.clone();
            for call in [
                calls::state(),
                calls::login("svc", "x"),
                calls::config_get(&key),
                calls::config_listen(&keys, std::time::Duration::from_secs(30)),
            ] {
                prop_assert!(call.check(&answer).err().as_ref().is_none_or(is_bounded));
            }
            let errors = [
                again().ok().err(),
                again().done().err(),
                again().beat().err(),
                again().made().err(),
                again().checked_no_more().err(),
                again().set_by_hand().err(),
                again().detail().err(),
                again().list().err(),
                again().content().err(),
                again().changed(&keys).err(),
                again().token().err(),
            ];
            for error in errors.into_iter().flatten() {
                prop_assert!(is_bounded(&error), "{}", error);
            }
            _ = again().version();
            if let Ok(changed) = again().changed(&keys) {
                prop_assert!(changed.iter().all(|changed| *changed == key), "only what was asked for");
            }
            _ = wire::md5_hex(&answer.body);
        }
    }
}

#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_of_ours_is_said_and_stops_nobody() {
    let pipe = |agent: &Agent, name: &str| {
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            agent.path(name),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        );
        made.unwrap();
        agent.path(name)
    };
    // The settings: at once, and with a word.
    let agent = alone("");
    fs::remove_file(agent.path("outrigger.yaml")).unwrap();
    pipe(&agent, "outrigger.yaml");
    let began = Instant::now();
    let (code, complaint) = refused(&agent, &["check"]);
    assert_eq!(code, Some(78), "{complaint}");
    assert!(complaint.contains("is not a regular file"), "{complaint}");
    assert!(began.elapsed() < LONG);
    // The password: a pipe, something endless, nothing.
    let registry = Registry::start();
    for (file, words) in [
        ("pipe", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("empty", "is empty"),
        ("nowhere", "cannot be read"),
    ] {
        let mut agent = Agent::prepare(
            &[format!("http://127.0.0.1:{}", registry.port)],
            "  auth: { username: svc, password_file: PASSWORD }\n",
        );
        let path = agent.path(file).display().to_string();
        let settings = agent.read("outrigger.yaml").replace("PASSWORD", &path);
        agent.write("outrigger.yaml", &settings);
        if file == "pipe" {
            pipe(&agent, "pipe");
        }
        agent.write("empty", "\n");
        agent.write(
            "conf.d/a.yaml",
            "services: [{ name: orders, port: 1, probe: none }]\n",
        );
        agent.start();
        until("the login is said to have failed", LONG, || {
            let log = agent.read("agent.log");
            match log.contains("login user=svc state=\"failed\"") && log.contains(words) {
                true => Ok(()),
                false => Err(log),
            }
        });
        agent.admin("GET", "/livez").unwrap();
        agent.signal(nix::sys::signal::Signal::SIGTERM);
        agent.ended(LONG);
    }
    // The CA bundle: no start without it.
    if cfg!(feature = "tls") {
        let agent = Agent::prepare(
            &["https://127.0.0.1:1".to_owned()],
            "  tls: { ca: /dev/zero }\n",
        );
        let (code, complaint) = refused(&agent, &["run"]);
        assert_eq!(code, Some(78), "{complaint}");
        assert!(
            complaint.contains("registry.tls.ca: /dev/zero: is not a regular file"),
            "{complaint}"
        );
    }
}
