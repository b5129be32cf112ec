//! Who may do what to the agent, and what stops the others: its door, its logs, its descriptors, its credentials.

use crate::support::{Agent, LONG, free_port, until};
use rustix::{process::Gid, thread};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
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
