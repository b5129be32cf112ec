//! The agent as a process against the embedded registry as a process: the main job and its bad moments.

use crate::support::{
    Agent, App, LONG, Proxy, Registry, admin, eventually, form, http, outrigger, run_as, said,
    stays, until,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Stdio,
    time::{Duration, Instant},
};

/// A descriptor of one service with beats and probes fast enough for a test.
fn service(name: &str, port: u16) -> String {
    format!(
        "services:\n  - name: {name}\n    port: {port}\n    heartbeat: {{ interval: 200ms, timeout: 600ms, delete_after: 1200ms }}\n    \
         probe: {{ tcp: {{}}, interval: 50ms, rise: 2, fall: 2 }}\n"
    )
}

fn config(agent: &Agent, data_id: &str, more: &str) -> String {
    format!(
        "configs:\n  - data_id: {data_id}\n    path: {}\n{more}",
        agent.path(data_id).display()
    )
}

/// A registry, an application, and an agent that has just registered it as `orders`.
fn listed() -> (Registry, App, Agent) {
    listed_over("auto")
}

fn listed_over(transport: &str) -> (Registry, App, Agent) {
    let registry = Registry::start();
    let app = App::start();
    let server = format!("http://127.0.0.1:{}", registry.port);
    let mut agent = Agent::prepare(&[server], &format!("  transport: {transport}\n"));
    agent.write("conf.d/orders.yaml", &service("orders", app.port));
    agent.start();
    registry.until_listed("orders", 1, LONG);
    (registry, app, agent)
}

#[test]
fn registers_once_the_probe_passes_and_is_gone_after_term() {
    let registry = Registry::start();
    let port = crate::support::free_port();
    let mut agent = Agent::of(&registry);
    agent.write("conf.d/orders.yaml", &service("orders", port));
    agent.start();
    until("the reason names the port", LONG, || {
        let waiting = agent.until_state("services", "orders", "waiting");
        match waiting["reason"].as_str() {
            Some(reason) if reason.contains(&port.to_string()) => Ok(()),
            _ => Err(waiting.to_string()),
        }
    });
    assert_eq!(
        registry.hosts("orders").unwrap().len(),
        0,
        "nothing is listed before the probe passed"
    );

    let app = App::start_on(port);
    let hosts = registry.until_listed("orders", 1, LONG);
    assert_eq!(
        (hosts[0]["ip"].as_str(), hosts[0]["port"].as_u64()),
        (Some("127.0.0.1"), Some(u64::from(port)))
    );
    assert_eq!(hosts[0]["metadata"]["preserved.heart.beat.interval"], "200");
    agent.until_state("services", "orders", "registered");

    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    assert_eq!(
        registry.hosts("orders").unwrap().len(),
        0,
        "nothing is left after an orderly exit"
    );
    let log = agent.read("agent.log");
    assert!(!log.contains("WARN"), "nothing went wrong:\n{log}");
    drop(app);
}

#[test]
fn a_dead_application_leaves_the_list_and_comes_back_with_its_port() {
    let registry = Registry::start();
    let app = App::start();
    let port = app.port;
    let mut agent = Agent::of(&registry);
    agent.write("conf.d/orders.yaml", &service("orders", port));
    agent.start();
    registry.until_listed("orders", 1, LONG);
    drop(app);
    registry.until_listed("orders", 0, LONG);
    let unhealthy = agent.until_state("services", "orders", "unhealthy");
    assert!(
        unhealthy["reason"]
            .as_str()
            .unwrap()
            .contains("nothing listens"),
        "{unhealthy}"
    );
    let _app = App::start_on(port);
    registry.until_listed("orders", 1, LONG);
}

#[test]
fn on_failure_unhealthy_keeps_the_instance_listed_as_unhealthy() {
    let registry = Registry::start();
    let app = App::start();
    let port = app.port;
    let mut agent = Agent::of(&registry);
    agent.write(
        "conf.d/orders.yaml",
        &format!("{}    on_failure: unhealthy\n", service("orders", port)),
    );
    agent.start();
    registry.until_listed("orders", 1, LONG);
    drop(app);
    let listed_unhealthy = || match registry.hosts("orders") {
        Ok(hosts) if hosts.len() == 1 && hosts[0]["healthy"] == false => Ok(()),
        other => Err(format!("{other:?}")),
    };
    until("listed as unhealthy", LONG, listed_unhealthy);
    // Longer than the delete time-out: something must keep it listed without healing it.
    stays(
        "listed as unhealthy",
        Duration::from_millis(1800),
        listed_unhealthy,
    );
    let _app = App::start_on(port);
    registry.until_listed("orders", 1, LONG);
}

#[test]
fn a_registry_that_comes_back_empty_is_told_again() {
    let (registry, _app, agent) = listed();
    let port = registry.port;
    drop(registry);
    agent.until_state("services", "orders", "unreachable");
    let registry = Registry::start_on(port);
    registry.until_listed("orders", 1, Duration::from_secs(5));
    agent.until_state("services", "orders", "registered");
}

#[test]
fn an_operators_delete_is_healed_by_a_beat() {
    let (registry, app, _agent) = listed();
    let delete = format!(
        "/nacos/v1/ns/instance?serviceName=orders&ip=127.0.0.1&port={}",
        app.port
    );
    assert_eq!(http(registry.port, "DELETE", &delete, "").unwrap(), "ok");
    registry.until_listed("orders", 1, Duration::from_secs(3));
}

#[test]
fn a_process_stopped_for_longer_than_its_time_outs_is_back_on_waking() {
    // Over gRPC a server takes 28 s to notice.
    let (registry, _app, agent) = listed_over("http");
    agent.signal(Signal::SIGSTOP);
    registry.until_listed("orders", 0, LONG);
    agent.signal(Signal::SIGCONT);
    registry.until_listed("orders", 1, Duration::from_secs(2));
}

#[test]
fn a_second_term_exits_at_once() {
    let (registry, _app, mut agent) = listed();
    // A registry that answers nothing makes the orderly way long.
    registry.process.signal(Signal::SIGSTOP);
    agent.signal(Signal::SIGTERM);
    agent.until_state("services", "orders", "draining");
    let began = Instant::now();
    agent.signal(Signal::SIGTERM);
    agent.ended(LONG);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    registry.process.signal(Signal::SIGCONT);
}

#[test]
fn leaving_ends_at_the_deadline_when_the_registry_is_mute() {
    let registry = Registry::start();
    let app = App::start();
    let mut agent = Agent::prepare(
        &[format!("http://127.0.0.1:{}", registry.port)],
        "shutdown_timeout: 1s\n",
    );
    agent.write("conf.d/orders.yaml", &service("orders", app.port));
    agent.start();
    registry.until_listed("orders", 1, LONG);
    registry.process.signal(Signal::SIGSTOP);
    let began = Instant::now();
    agent.signal(Signal::SIGTERM);
    agent.ended(LONG);
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    registry.process.signal(Signal::SIGCONT);
}

#[test]
fn an_edit_touches_only_what_changed() {
    let registry = Registry::start();
    let (orders, billing) = (App::start(), App::start());
    let proxy = Proxy::to(registry.port);
    let mut agent = Agent::prepare(&[format!("http://127.0.0.1:{}", proxy.port)], "");
    agent.write("conf.d/orders.yaml", &service("orders", orders.port));
    agent.write("conf.d/billing.yaml", &service("billing", billing.port));
    agent.start();
    registry.until_listed("orders", 1, LONG);
    registry.until_listed("billing", 1, LONG);
    let register = |service: &str| proxy.count(&["POST /nacos/v1/ns/instance?", service]);
    assert_eq!((register("orders"), register("billing")), (1, 1));

    agent.write(
        "conf.d/orders.yaml",
        &format!("{}    weight: 7\n", service("orders", orders.port)),
    );
    until("the new weight is listed", LONG, || {
        match registry.hosts("orders") {
            Ok(hosts) if hosts.len() == 1 && hosts[0]["weight"] == 7.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(
        (register("orders"), register("billing")),
        (2, 1),
        "{:#?}",
        proxy.requests()
    );
    assert_eq!(registry.hosts("billing").unwrap().len(), 1);

    fs::remove_file(agent.path("conf.d/orders.yaml")).unwrap();
    registry.until_listed("orders", 0, LONG);
    assert_eq!(registry.hosts("billing").unwrap().len(), 1);
    assert_eq!(register("billing"), 1);
}

#[test]
fn a_broken_edit_keeps_the_last_good_version_running_and_says_so() {
    let (registry, app, agent) = listed();
    agent.write(
        "conf.d/orders.yaml",
        &format!("{}    weight: 20000\n", service("orders", app.port)),
    );
    let problem = until("status names the mistake", LONG, || {
        let status = agent.status()?;
        let first = status["problems"].get(0).map(ToString::to_string);
        first
            .filter(|text| text.contains("weight"))
            .ok_or_else(|| status.to_string())
    });
    assert!(problem.contains("orders.yaml:6:13"), "{problem}");
    registry.until_listed("orders", 1, LONG);
    agent.write("conf.d/orders.yaml", &service("orders", app.port));
    until("the mistake is gone", LONG, || {
        let status = agent.status()?;
        if status["problems"].as_array().is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

#[test]
fn a_service_of_the_wrong_kind_is_refused_with_the_servers_words_and_disturbs_nobody() {
    let registry = Registry::start();
    let app = App::start();
    // POST /service makes a persistent service; an ephemeral instance does not fit into it.
    http(
        registry.port,
        "POST",
        "/nacos/v1/ns/service?serviceName=orders",
        "",
    )
    .unwrap();
    let mut agent = Agent::of(&registry);
    agent.write("conf.d/orders.yaml", &service("orders", app.port));
    agent.write("conf.d/billing.yaml", &service("billing", app.port));
    agent.start();
    let refused = agent.until_state("services", "orders", "refused");
    assert!(
        refused["reason"]
            .as_str()
            .unwrap()
            .contains("persistent service"),
        "{refused}"
    );
    registry.until_listed("billing", 1, LONG);
}

#[test]
fn a_dead_first_server_is_left_out() {
    let registry = Registry::start();
    let app = App::start();
    let dead = format!("http://127.0.0.1:{}", crate::support::free_port());
    let mut agent = Agent::prepare(
        &[
            dead.clone(),
            format!("http://127.0.0.1:{}", registry.port),
            dead.replace("127.0.0.1", "127.0.0.2"),
        ],
        "",
    );
    agent.write("conf.d/orders.yaml", &service("orders", app.port));
    agent.start();
    registry.until_listed("orders", 1, LONG);
    agent.until_state("services", "orders", "registered");
}

#[test]
fn servers_can_come_from_an_address_server() {
    let registry = Registry::start();
    let app = App::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().port();
    let body = format!("127.0.0.1:{}\n", registry.port);
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 2048];
            let _asked = stream.read(&mut head);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _told = stream.write_all(answer.as_bytes());
        }
    });
    let mut agent = Agent::prepare(&[], "");
    let at = agent.folder.path().display().to_string();
    agent.write(
        "outrigger.yaml",
        &format!("registry:\n  endpoint: http://127.0.0.1:{endpoint}/nacos/serverlist\nstate_dir: {at}/state\nallow_root: true\nadmin: {{ socket: {at}/admin.sock }}\n"),
    );
    agent.write("conf.d/orders.yaml", &service("orders", app.port));
    agent.start();
    registry.until_listed("orders", 1, LONG);
}

#[test]
fn drain_takes_everything_out_and_the_agent_goes_on() {
    let (registry, app, agent) = listed();
    for _ in 0..2 {
        let drained = agent.command(&["drain"]).output().unwrap();
        assert!(drained.status.success(), "{}", said(&drained));
        assert_eq!(registry.hosts("orders").unwrap().len(), 0);
    }
    agent.until_state("services", "orders", "drained");
    // A changed descriptor does not bring a drained agent back.
    agent.write(
        "conf.d/orders.yaml",
        &format!("{}    weight: 7\n", service("orders", app.port)),
    );
    agent.admin("POST", "/reload").unwrap();
    stays(
        "out of the registry",
        Duration::from_millis(500),
        || match registry.hosts("orders") {
            Ok(hosts) if hosts.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

#[test]
fn one_service_needs_no_file() {
    let registry = Registry::start();
    let app = App::start();
    let folder = tempfile::tempdir().unwrap();
    let mut command = outrigger();
    command
        .arg("run")
        .env("OUTRIGGER_ALLOW_ROOT", "true")
        .env(
            "OUTRIGGER_REGISTRY_SERVERS",
            format!("127.0.0.1:{}", registry.port),
        )
        .env("OUTRIGGER_STATE_DIR", folder.path().join("state"))
        .env("OUTRIGGER_ADMIN_SOCKET", folder.path().join("admin.sock"))
        .env("OUTRIGGER_CATALOG_CONF_DIR", folder.path().join("conf.d"))
        .env("OUTRIGGER_SERVICE", "orders")
        .env("OUTRIGGER_PORT", app.port.to_string())
        .env("OUTRIGGER_METADATA", "version=1.4,zone=a")
        .stderr(Stdio::null());
    let _agent = crate::support::Process::start(&mut command);
    let hosts = registry.until_listed("orders", 1, LONG);
    assert_eq!(hosts[0]["metadata"]["zone"], "a");
}

#[test]
fn a_published_configuration_becomes_the_file_with_its_mode_and_the_reload_happens() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let reloads = agent.path("reloads");
    let descriptor = format!(
        "{}    mode: \"0600\"\n    validate: {{ format: yaml }}\n    reload: {{ exec: [sh, -c, \"echo x >> {}\"], {} }}\n",
        config(&agent, "orders.yaml", ""),
        reloads.display(),
        run_as()
    );
    agent.write("conf.d/orders.yaml", &descriptor);
    agent.start();
    agent.until_state("configs", "orders.yaml", "missing");
    registry.publish("orders.yaml", "greeting: hello\n");
    until("the file has the content", LONG, || {
        match agent.read("orders.yaml") {
            text if text == "greeting: hello\n" => Ok(()),
            other => Err(other),
        }
    });
    agent.until_state("configs", "orders.yaml", "applied");
    assert_eq!(
        fs::metadata(agent.path("orders.yaml"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o600
    );
    assert_eq!(agent.read("reloads"), "x\n");

    registry.publish("orders.yaml", "greeting: [never closed\n");
    let rejected = agent.until_state("configs", "orders.yaml", "rejected");
    assert!(
        rejected["reason"].as_str().unwrap().contains("yaml"),
        "{rejected}"
    );
    assert_eq!(agent.read("orders.yaml"), "greeting: hello\n");
    assert_eq!(agent.read("reloads"), "x\n");
}

#[test]
fn a_file_that_is_already_right_is_not_touched_at_start() {
    let registry = Registry::start();
    registry.publish("orders.yaml", "greeting: hello\n");
    let mut agent = Agent::of(&registry);
    let reloads = agent.path("reloads");
    let descriptor = format!(
        "{}    reload: {{ exec: [touch, {}], {} }}\n",
        config(&agent, "orders.yaml", ""),
        reloads.display(),
        run_as()
    );
    agent.write("conf.d/orders.yaml", &descriptor);
    agent.start();
    agent.until_state("configs", "orders.yaml", "applied");
    until("the first reload happened", LONG, || {
        if reloads.exists() {
            Ok(())
        } else {
            Err("none".into())
        }
    });
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    fs::remove_file(&reloads).unwrap();
    let before = fs::metadata(agent.path("orders.yaml")).unwrap();
    agent.start();
    agent.until_state("configs", "orders.yaml", "applied");
    let after = fs::metadata(agent.path("orders.yaml")).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec()),
        (after.ino(), after.mtime_nsec())
    );
    assert!(!reloads.exists(), "nothing was due");
}

#[test]
fn a_failing_reload_stays_due_and_disturbs_no_other_file() {
    let registry = Registry::start();
    registry.publish("a.txt", "one\n");
    registry.publish("b.txt", "one\n");
    let mut agent = Agent::of(&registry);
    let allowed = agent.path("allowed");
    let failing = format!(
        "{}    reload: {{ exec: [test, -e, {}], {} }}\n",
        config(&agent, "a.txt", ""),
        allowed.display(),
        run_as()
    );
    agent.write("conf.d/a.yaml", &failing);
    agent.write("conf.d/b.yaml", &config(&agent, "b.txt", ""));
    agent.start();
    until("the reload has failed", LONG, || {
        let pending = agent.until_state("configs", "a.txt", "pending");
        match pending["reason"].as_str() {
            Some(reason) if reason.contains("exit status 1") => Ok(()),
            _ => Err(pending.to_string()),
        }
    });
    agent.until_state("configs", "b.txt", "applied");
    fs::File::create(&allowed).unwrap();
    agent.until_state("configs", "a.txt", "applied");
}

#[test]
fn starts_from_its_snapshot_while_the_registry_is_away() {
    let registry = Registry::start();
    registry.publish("orders.yaml", "greeting: hello\n");
    let mut agent = Agent::of(&registry);
    agent.write(
        "conf.d/orders.yaml",
        &config(&agent, "orders.yaml", "    required: true\n"),
    );
    agent.start();
    agent.until_state("configs", "orders.yaml", "applied");
    agent.signal(Signal::SIGTERM);
    agent.ended(LONG);
    drop(registry);
    fs::remove_file(agent.path("orders.yaml")).unwrap();
    agent.start();
    until("the file is there again", LONG, || {
        match agent.read("orders.yaml") {
            text if text == "greeting: hello\n" => Ok(()),
            other => Err(other),
        }
    });
    until("started", LONG, || {
        agent.admin("GET", "/startupz").map(drop)
    });
}

#[test]
fn once_writes_and_exits_0_or_says_69() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    agent.write(
        "conf.d/orders.yaml",
        &config(
            &agent,
            "orders.yaml",
            "    required: true\n    on_absent: fail\n",
        ),
    );
    let missing = agent
        .command(&["once", "--timeout", "5s"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(69), "{}", said(&missing));
    registry.publish("orders.yaml", "greeting: hello\n");
    let written = agent
        .command(&["once", "--timeout", "10s"])
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", said(&written));
    assert_eq!(agent.read("orders.yaml"), "greeting: hello\n");
    drop(registry);
    fs::remove_dir_all(agent.path("state")).unwrap();
    fs::remove_file(agent.path("orders.yaml")).unwrap();
    let away = agent
        .command(&["once", "--timeout", "1s"])
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(69), "{}", said(&away));
}

#[test]
fn no_request_of_a_whole_session_has_a_secret_in_its_request_line_and_no_output_shows_it() {
    const PASSWORD: &str = "canary-7c1e55";
    let registry = Registry::start();
    registry.publish("orders.yaml", "key: content-canary-91\n");
    let app = App::start();
    let proxy = Proxy::to(registry.port);
    let mut agent = Agent::prepare(
        &[format!("http://127.0.0.1:{}", proxy.port)],
        "  auth: { username: svc, password_file: PASSWORD_FILE }\n",
    )
    .env("RUST_LOG", "trace");
    let settings = agent.read("outrigger.yaml").replace(
        "PASSWORD_FILE",
        &agent.path("password").display().to_string(),
    );
    agent.write("outrigger.yaml", &settings);
    agent.write("password", &format!("{PASSWORD}\n"));
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "{}{}",
            service("orders", app.port),
            config(&agent, "orders.yaml", "")
        ),
    );
    agent.start();
    registry.until_listed("orders", 1, LONG);
    agent.until_state("configs", "orders.yaml", "applied");
    until("beats were sent", LONG, || {
        if proxy.count(&["PUT", "/instance/beat"]) > 2 {
            Ok(())
        } else {
            Err("few".into())
        }
    });

    assert!(
        proxy.heard().contains(&format!("password={PASSWORD}")),
        "the login was seen, so the check below can fail"
    );
    let lines = proxy.requests().join("\n");
    assert!(
        !lines.contains(PASSWORD) && !lines.contains("accessToken"),
        "{lines}"
    );
    let mut shown = agent.read("agent.log");
    for path in ["/status", "/metrics", "/explain"] {
        shown += &agent.admin("GET", path).unwrap_or_else(|e| e);
    }
    assert!(shown.len() > 1000, "trace logs something");
    assert!(!shown.contains(PASSWORD), "the password is in an output");
    assert!(
        !shown.contains("content-canary-91"),
        "a configuration's content is in an output"
    );
    let token = proxy.heard().lines().find_map(|line| {
        line.strip_prefix("authorization: Bearer ")
            .map(str::to_owned)
    });
    if let Some(token) = token {
        assert!(!shown.contains(&token), "the token is in an output");
    }
}

#[test]
fn livez_readyz_startupz_and_metrics_answer() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    agent.write(
        "conf.d/orders.yaml",
        &config(&agent, "orders.yaml", "    required: true\n"),
    );
    agent.start();
    until("ready", LONG, || agent.admin("GET", "/readyz").map(drop));
    agent.admin("GET", "/livez").unwrap();
    assert!(
        agent.admin("GET", "/startupz").unwrap_err().contains("503"),
        "a required file is not there yet"
    );
    registry.publish("orders.yaml", "greeting: hello\n");
    until("started", LONG, || {
        agent.admin("GET", "/startupz").map(drop)
    });
    let metrics = agent.admin("GET", "/metrics").unwrap();
    assert!(
        metrics.contains("# HELP outrigger_registry_calls") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );
    let mode = fs::metadata(agent.path("admin.sock"))
        .unwrap()
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o600);
    assert!(admin(&agent.path("admin.sock"), "POST", "/reload").is_ok());
    assert!(
        admin(&agent.path("admin.sock"), "GET", "/drain").is_err(),
        "a GET changes nothing"
    );
}

#[test]
fn a_registered_name_with_escapes_prints_harmlessly_wherever_it_is_shown() {
    let (_registry, _app, agent) = listed();
    let status = agent.command(&["status"]).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(
        text.contains("orders") && text.contains("registered"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colour in a pipe: {text:?}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "nothing wraps at 100 columns:\n{text}"
    );
    assert_eq!(form("a b"), "a%20b");
}

#[test]
fn the_tour_ends_with_0() {
    let tour = outrigger().arg("demo").output().unwrap();
    assert!(tour.status.success(), "{}", said(&tour));
    let text = String::from_utf8(tour.stdout).unwrap();
    for seen in [
        "registered: orders",
        "answers \"bonjour\"",
        "rejected it",
        "told the new registry",
        "left the registry",
    ] {
        assert!(text.contains(seen), "{seen}:\n{text}");
    }
}

#[test]
fn a_supervisor_that_asks_hears_of_readiness_of_life_and_of_leaving() {
    let registry = Registry::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let hear = |wanted: &str| {
        eventually(wanted, LONG, || {
            let mut said = [0; 512];
            let count = socket.recv(&mut said).ok()?;
            String::from_utf8_lossy(&said[..count])
                .lines()
                .any(|line| line == wanted)
                .then_some(())
        });
    };
    let mut agent = Agent::of(&registry)
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000");
    agent.start();
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    agent.signal(Signal::SIGTERM);
    hear("STOPPING=1");
    assert!(agent.ended(LONG).success());
}
