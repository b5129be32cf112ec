//! Who may do what to the agent, and what stops the others: its door, its logs, its descriptors, its credentials.

use crate::bad::{Bad, answer, ok, properly};
use crate::support::{Agent, LONG, Registry, free_port, until};
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
    let ended = |agent: &Agent| {
        let output = agent.command(&["run"]).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
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
        "registry": { "state": HOSTILE, "server": HOSTILE, "transport": HOSTILE, "version": HOSTILE, "plaintext": true, "reason": HOSTILE,
            "since": HOSTILE },
        "services": [{ "name": HOSTILE, "group": HOSTILE, "namespace": HOSTILE, "port": 1, "instance": HOSTILE,
            "state": HOSTILE, "reason": HOSTILE, "since": HOSTILE, "probe": HOSTILE, "address_origin": HOSTILE,
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
    for n in 0..20 {
        descriptor += &format!("  - {{ name: s{n}, port: 1, probe: none }}\n");
    }
    descriptor += "  - { name: dead, port: 1, probe: { tcp: {}, interval: 5s } }\nconfigs:\n";
    for n in 0..20 {
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
        services.set(wanted.services).await;
        let targets = Targets::start(&parts, settings.state_dir.clone());
        targets.set(vec![("a.yaml".into(), wanted.configs)]);
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
    let (denied, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let bad = Bad::start(move |line| match line {
        line if line.starts_with("POST /nacos/v1/auth/login") => ok(&format!(
            "{{\"accessToken\":\"{TOKEN}\",\"tokenTtl\":18000}}"
        )),
        // Once the token is not good enough, once the server repeats it.
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
