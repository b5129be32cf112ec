//! The command line as a person and a script meet it: words in; exit codes, places and next steps out.

use crate::support::{
    Agent, App, LONG, Process, Proxy, Registry, admin, free_port, http, outrigger, run_as, said,
    until,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

/// Runs a command that must end by itself.
fn run(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(command);
    // What these commands print fits into a pipe.
    process.ended(LONG);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let child = &mut process.0;
    std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut out).unwrap();
    std::io::Read::read_to_end(child.stderr.as_mut().unwrap(), &mut err).unwrap();
    Output {
        status: child.wait().unwrap(),
        stdout: out,
        stderr: err,
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// An agent's folder; nobody runs yet and no registry is meant to answer.
fn alone() -> Agent {
    Agent::prepare(&["http://127.0.0.1:1".to_owned()], "")
}

fn service(name: &str, port: u16, probe: &str) -> String {
    format!("services:\n  - name: {name}\n    port: {port}\n    probe: {probe}\n")
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// Names in the order of the alphabet, as [`keys`] answers them.
fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}

#[test]
fn wrong_words_are_64_and_lead_to_the_help_on_standard_error() {
    for words in [
        "",
        "nonsense",
        "--nope",
        "run --nope",
        "run surplus",
        "check --config",
        "dev --listen nowhere",
        "drain --timeout 5",
        "once --timeout 5 s",
        "explain nothing",
        "explain service",
        "explain --lang fr",
        "completions tcsh",
    ] {
        let refused = run(outrigger().args(words.split_whitespace()));
        assert_eq!(
            refused.status.code(),
            Some(64),
            "{words}: {}",
            said(&refused)
        );
        assert!(refused.stdout.is_empty(), "{words}: {}", said(&refused));
        let complaint = text(&refused.stderr);
        assert!(complaint.contains("help"), "{words}: {complaint}");
        if !words.is_empty() && !complaint.contains("a value is required") {
            assert!(complaint.starts_with("error: "), "{words}: {complaint}");
        }
    }
    let unknown = run(outrigger().args(["run", "--nope"]));
    assert!(
        text(&unknown.stderr).contains("Usage: outrigger run"),
        "{}",
        said(&unknown)
    );
    let nearly = run(outrigger().args(["statsu"]));
    assert!(
        text(&nearly.stderr).contains("'status'"),
        "{}",
        said(&nearly)
    );
}

#[test]
fn the_help_of_every_command_is_what_it_was() {
    for words in [
        "",
        "run",
        "exec",
        "dev",
        "demo",
        "check",
        "once",
        "status",
        "explain",
        "explain service",
        "explain config",
        "explain subscription",
        "explain address",
        "drain",
        "release",
        "release subscription",
        "import",
        "completions",
    ] {
        let help = run(outrigger().args(words.split_whitespace()).arg("--help"));
        assert_eq!(help.status.code(), Some(0), "{words}: {}", said(&help));
        assert!(help.stderr.is_empty());
        let help = text(&help.stdout);
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{words}: {line}");
        }
        let name = format!("help {words}").trim().replace(' ', "-");
        insta::assert_snapshot!(name, help);
    }
    let version = run(outrigger().arg("--version"));
    assert_eq!(
        text(&version.stdout),
        format!("outrigger {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let printed = run(outrigger().args(["completions", shell]));
        assert!(printed.status.success(), "{}", said(&printed));
        let script = text(&printed.stdout);
        assert!(script.contains("outrigger") && script.contains("explain"));
        assert!(
            !script.contains("demo-app"),
            "{shell}: hidden words stay hidden"
        );
    }
}

#[test]
fn check_prints_every_mistake_of_every_file_in_order_and_ends_with_65() {
    let agent = alone();
    agent.write("conf.d/a.yaml", "services: [\n");
    agent.write(
        "conf.d/b.yaml",
        "services:\n  - name: orders\n    port: 99999\n    wieght: 3\n",
    );
    agent.write("conf.d/c.yaml", &service("fine", 80, "none"));
    agent.write("conf.d/d.yaml", &service("fine", 80, "none"));
    agent.write(
        "conf.d/e.yml",
        "configs:\n  - data_id: x\n    path: relative\n    reload: { signal: KILL, pid_file: /p }\n",
    );
    let checked = run(&mut agent.command(&["check"]));
    assert_eq!(checked.status.code(), Some(65), "{}", said(&checked));
    let folder = format!("{}/", agent.folder.path().display());
    insta::assert_snapshot!(text(&checked.stdout).replace(&folder, ""), @r"
    conf.d/a.yaml:1:11: unclosed bracket '['
       1 | services: [
         |           ^
    conf.d/b.yaml:3:11: services[0].port: 99999 is not a port
       3 |     port: 99999
         |           ^^^^^
      help: a port goes from 1 to 65535
    conf.d/b.yaml:4:5: services[0].wieght: unknown key
       4 |     wieght: 3
         |     ^^^^^^
      help: did you mean `weight`?
    conf.d/d.yaml:2:11: services[0].name: DEFAULT_GROUP/fine on port 80 in namespace public is already written in conf.d/c.yaml:2:11
       2 |   - name: fine
         |           ^^^^
      help: leave one out, or give each its own port or a written address
    conf.d/e.yml:3:11: configs[0].path: `relative` is not an absolute path
       3 |     path: relative
         |           ^^^^^^^^
      help: begin it with /
    conf.d/e.yml:4:23: configs[0].reload.signal: `KILL` is not a signal
       4 |     reload: { signal: KILL, pid_file: /p }
         |                       ^^^^
      help: signals are HUP, USR1, USR2, WINCH, TERM, INT, QUIT, ALRM, CONT
    6 errors in 4 of 5 files
    ");

    for name in ["a.yaml", "b.yaml", "d.yaml", "e.yml"] {
        fs::remove_file(agent.path("conf.d").join(name)).unwrap();
    }
    let checked = run(&mut agent.command(&["check"]));
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
    assert_eq!(text(&checked.stdout), "no errors in 1 file\n");
}

#[test]
fn wrong_settings_are_78_for_every_command_that_reads_them() {
    let agent = alone();
    agent.write(
        "outrigger.yaml",
        "registry: { servers: 5 }\nlog: { level: loud }\n",
    );
    for words in [
        &["run"][..],
        &["check"],
        &["once"],
        &["status"],
        &["explain"],
        &["drain"],
    ] {
        let refused = run(&mut agent.command(words));
        assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
        let complaint = text(&refused.stderr);
        assert!(
            complaint.contains("outrigger.yaml:1:22: registry.servers")
                && complaint.contains("outrigger.yaml:2:15: log.level")
                && complaint.ends_with("2 errors in 1 of 1 file\n"),
            "{complaint}"
        );
    }
    let absent = run(outrigger().args(["check", "--config", "/nowhere/outrigger.yaml"]));
    assert_eq!(absent.status.code(), Some(78), "{}", said(&absent));
}

#[test]
fn an_unknown_variable_of_ours_is_78_and_names_the_nearest() {
    let agent = alone().env("OUTRIGGER_REGISTRY_SERVER", "http://127.0.0.1:1");
    for words in [&["run"][..], &["check"]] {
        let refused = run(&mut agent.command(words));
        assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
        let complaint = text(&refused.stderr);
        assert!(
            complaint.contains("OUTRIGGER_REGISTRY_SERVER: unknown variable")
                && complaint.contains("did you mean OUTRIGGER_REGISTRY_SERVERS?"),
            "{complaint}"
        );
    }
}

#[test]
fn questions_without_an_agent_are_69_and_one_line() {
    let agent = alone();
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["explain"],
        &["explain", "service", "orders"],
        &["explain", "address"],
        &["drain", "--timeout", "1s"],
    ] {
        let refused = run(&mut agent.command(words));
        assert_eq!(
            refused.status.code(),
            Some(69),
            "{words:?}: {}",
            said(&refused)
        );
        assert!(refused.stdout.is_empty(), "{}", said(&refused));
        let complaint = text(&refused.stderr);
        let socket = agent.path("admin.sock").display().to_string();
        assert!(
            complaint.lines().count() == 1
                && complaint.starts_with("outrigger: no agent answers on")
                && complaint.contains(&socket),
            "{complaint}"
        );
    }
}

#[test]
fn a_second_agent_on_the_same_socket_is_78_and_leaves_the_first_alone() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    agent.write("conf.d/orders.yaml", &service("orders", 8080, "none"));
    agent.start();
    registry.until_listed("orders", 1, LONG);
    let mut second = agent.command(&["run"]);
    let second = run(second.env("OUTRIGGER_STATE_DIR", agent.path("second")));
    assert_eq!(second.status.code(), Some(78), "{}", said(&second));
    let complaint = text(&second.stderr);
    assert!(
        complaint.contains("another agent answers on")
            && complaint.contains(&agent.path("admin.sock").display().to_string()),
        "{complaint}"
    );
    agent.until_state("services", "orders", "registered");
    assert_eq!(registry.hosts("orders").unwrap().len(), 1);
}

#[test]
fn a_socket_that_a_dead_agent_left_is_taken_over() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    agent.write("conf.d/orders.yaml", &service("orders", 8080, "none"));
    agent.start();
    agent.until_state("services", "orders", "registered");
    agent.signal(Signal::SIGKILL);
    agent.ended(LONG);
    assert!(agent.path("admin.sock").exists(), "it is left behind");
    agent.start();
    agent.until_state("services", "orders", "registered");
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    assert!(!agent.path("admin.sock").exists(), "and goes in order");
}

#[test]
fn the_embedded_registry_refuses_the_world_and_names_a_taken_address() {
    let port = free_port();
    let open = format!("0.0.0.0:{port}");
    let refused = run(outrigger().args(["dev", "--listen", &open]));
    assert_eq!(refused.status.code(), Some(64), "{}", said(&refused));
    assert!(text(&refused.stderr).contains(&open), "{}", said(&refused));

    let taken = App::start();
    let address = format!("127.0.0.1:{}", taken.port);
    let refused = run(outrigger().args(["dev", "--listen", &address]));
    assert_eq!(refused.status.code(), Some(69), "{}", said(&refused));
    assert!(
        text(&refused.stderr).contains(&address),
        "{}",
        said(&refused)
    );
}

#[test]
fn dev_with_a_conf_dir_keeps_its_services_registered_with_itself() {
    let folder = tempfile::tempdir().unwrap();
    let agent = alone();
    agent.write("conf.d/orders.yaml", &service("orders", 8080, "none"));
    let port = free_port();
    let mut command = outrigger();
    command
        .args(["dev", "--listen", &format!("127.0.0.1:{port}")])
        .arg("--conf-dir")
        .arg(agent.path("conf.d"))
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = Process::start(&mut command);
    let hosts = until("it is listed", LONG, || {
        let path = "/nacos/v1/ns/instance/list?serviceName=orders";
        let list: Value = serde_json::from_str(&http(port, "GET", path, "")?)
            .map_err(|error| error.to_string())?;
        match list["hosts"].as_array() {
            Some(hosts) if hosts.len() == 1 => Ok(hosts.clone()),
            _ => Err(list.to_string()),
        }
    });
    assert_eq!(hosts[0]["port"], 8080);
    let socket = folder.path().join(format!(
        "outrigger-dev-{}-{port}/admin.sock",
        nix::unistd::geteuid()
    ));
    assert!(
        admin(&socket, "GET", "/status")
            .unwrap()
            .contains("\"orders\"")
    );
    process.signal(Signal::SIGTERM);
    assert!(process.ended(LONG).success());
}

#[test]
fn commands_that_are_ruled_out_are_mistakes_and_everything_else_runs() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry).env("OUTRIGGER_FORBID", "exec");
    let touched = agent.path("touched");
    let probe = format!(
        "{{ exec: {{ command: [touch, {}], {} }} }}",
        touched.display(),
        run_as()
    );
    agent.write("conf.d/bad.yaml", &service("bad", 8080, &probe));
    agent.write("conf.d/good.yaml", &service("good", 8081, "none"));
    let checked = run(&mut agent.command(&["check"]));
    assert_eq!(checked.status.code(), Some(65), "{}", said(&checked));
    let complaint = text(&checked.stdout);
    assert!(
        complaint.contains("bad.yaml:4:") && complaint.contains("OUTRIGGER_FORBID=exec"),
        "{complaint}"
    );
    agent.start();
    registry.until_listed("good", 1, LONG);
    let status = agent.status().unwrap();
    assert_eq!(status["services"].as_array().unwrap().len(), 1, "{status}");
    assert!(
        status["problems"].to_string().contains("OUTRIGGER_FORBID"),
        "{status}"
    );
    assert!(!touched.exists());
}

#[test]
fn explain_speaks_english_and_chinese_and_knows_addresses() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let port = free_port();
    agent.write(
        "conf.d/orders.yaml",
        &service("orders", port, "{ tcp: {} }"),
    );
    agent.write(
        "conf.d/file.yaml",
        &format!(
            "configs:\n  - data_id: orders.yaml\n    path: {}\n",
            agent.path("orders.yaml").display()
        ),
    );
    agent.start();
    agent.until_state("configs", "orders.yaml", "missing");
    until("the probe has spoken", LONG, || {
        let waiting = agent.until_state("services", "orders", "waiting");
        match waiting["reason"].as_str() {
            Some(reason) if reason.contains("nothing listens") => Ok(()),
            _ => Err(waiting.to_string()),
        }
    });
    let asked = |words: &[&str], lang: &str| {
        let answer = run(agent.command(words).env("LANG", lang));
        assert!(answer.status.success(), "{}", said(&answer));
        text(&answer.stdout).to_owned()
    };
    let service = &["explain", "service", "orders"];
    for (words, lang, expected) in [
        (
            &service[..],
            "en_US.UTF-8",
            &[
                "service orders",
                "wanted",
                "actual",
                "waiting for",
                "nothing listens on",
                "next",
                "start the application",
            ][..],
        ),
        (service, "C", &["service orders", "wanted"]),
        (
            service,
            "zh_CN.UTF-8",
            &[
                "服务 orders",
                "期望",
                "现状",
                "waiting，已持续",
                "原因",
                "nothing listens on",
                "启动应用",
            ],
        ),
        (
            &["explain", "config", "orders.yaml"],
            "en_US.UTF-8",
            &["configuration orders.yaml", "missing", "publish it"],
        ),
        (
            &["explain", "--lang", "zh"],
            "en_US.UTF-8",
            &["注册中心", "服务 orders", "配置 orders.yaml"],
        ),
        (
            &["explain", "address"],
            "en_US.UTF-8",
            &["ADDRESS", "VERDICT", "127.0.0.1"],
        ),
        (
            &["explain", "address"],
            "zh_CN.UTF-8",
            &["地址", "结论", "127.0.0.1"],
        ),
    ] {
        let answer = asked(words, lang);
        for part in expected {
            assert!(
                answer.contains(part),
                "{words:?} in {lang}: {part}:\n{answer}"
            );
        }
    }
    let none = run(&mut agent.command(&["explain", "service", "ordres"]));
    assert_eq!(none.status.code(), Some(64), "{}", said(&none));
    assert!(
        text(&none.stderr).contains("known: orders"),
        "{}",
        said(&none)
    );
}

#[test]
fn status_as_json_has_the_keys_of_the_contract_and_no_others() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    agent.write("conf.d/orders.yaml", &service("orders", 8080, "none"));
    agent.write(
        "conf.d/file.yaml",
        &format!(
            "configs:\n  - data_id: orders.yaml\n    path: {}\nsubscriptions:\n  - {{ service: orders, path: {}, format: json }}\n",
            agent.path("orders.yaml").display(),
            agent.path("orders.json").display()
        ),
    );
    agent.write("conf.d/broken.yaml", "services: [\n");
    registry.publish("orders.yaml", "greeting: hello\n");
    agent.start();
    agent.until_state("services", "orders", "registered");
    agent.until_state("configs", "orders.yaml", "applied");
    let printed = run(&mut agent.command(&["status", "--json"]));
    assert!(printed.status.success(), "{}", said(&printed));
    let status: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(
        keys(&status),
        sorted([
            "registry",
            "services",
            "configs",
            "subscriptions",
            "problems",
            "settings",
            "version"
        ])
    );
    assert_eq!(
        keys(&status["registry"]),
        sorted([
            "state",
            "server",
            "transport",
            "transport_reason",
            "version",
            "plaintext",
            "reason",
            "since"
        ])
    );
    assert_eq!(
        keys(&status["services"][0]),
        sorted([
            "name",
            "group",
            "namespace",
            "port",
            "instance",
            "state",
            "reason",
            "since",
            "probe",
            "address_origin",
            "ephemeral",
            "history"
        ])
    );
    assert_eq!(
        keys(&status["services"][0]["history"][0]),
        sorted(["at", "what"])
    );
    assert_eq!(
        keys(&status["configs"][0]),
        sorted([
            "data_id",
            "group",
            "namespace",
            "sources",
            "path",
            "required",
            "state",
            "reason",
            "since",
            "applied_once",
            "md5",
            "history"
        ])
    );
    assert_eq!(
        keys(&status["problems"][0]),
        sorted(["at", "key", "message", "help"])
    );
    assert_eq!(
        keys(&status["settings"][0]),
        sorted(["key", "value", "origin"])
    );
    assert_eq!(status["registry"]["state"], "connected");
    assert_eq!(status["services"][0]["reason"], Value::Null, "all is well");
    assert_eq!(
        keys(&status["subscriptions"][0]),
        sorted([
            "service",
            "group",
            "namespace",
            "path",
            "required",
            "state",
            "reason",
            "since",
            "applied_once",
            "listed",
            "passed",
            "kept",
            "left_out",
            "held",
            "history"
        ])
    );
}

#[test]
fn logs_as_json_are_one_object_a_line() {
    let registry = Registry::start();
    let mut agent = Agent::prepare(
        &[format!("http://127.0.0.1:{}", registry.port)],
        "log: { format: json, level: debug }\n",
    );
    agent.write("conf.d/orders.yaml", &service("orders", 8080, "none"));
    agent.write("conf.d/broken.yaml", "services: [\n  - \u{1b}[31m\"\n");
    agent.start();
    agent.until_state("services", "orders", "registered");
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
    let log = agent.read("agent.log");
    assert!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for key in ["timestamp", "level", "message"] {
            assert!(entry[key].is_string(), "{key}: {line}");
        }
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
    assert!(log.contains("broken.yaml"), "{log}");
}

#[test]
fn nothing_is_logged_for_beats_and_probes() {
    let registry = Registry::start();
    let proxy = Proxy::to(registry.port);
    let app = App::start();
    let mut agent = Agent::prepare(&[format!("http://127.0.0.1:{}", proxy.port)], "");
    agent.write(
        "conf.d/orders.yaml",
        &format!(
            "services:\n  - name: orders\n    port: {}\n    heartbeat: {{ interval: 100ms, timeout: 5s, delete_after: 10s }}\n    \
             probe: {{ tcp: {{}}, interval: 50ms }}\n",
            app.port
        ),
    );
    agent.start();
    agent.until_state("services", "orders", "registered");
    let beats = || proxy.count(&["PUT /nacos/v1/ns/instance/beat"]);
    let until_beats = |count: usize| {
        until(&format!("{count} beats"), LONG, || match beats() {
            seen if seen >= count => Ok(()),
            seen => Err(seen.to_string()),
        });
    };
    until_beats(2);
    let before = agent.read("agent.log");
    assert!(before.lines().count() >= 2, "it logs at all: {before}");
    until_beats(beats() + 20);
    assert_eq!(agent.read("agent.log"), before);
}

/// Exit code, standard output and standard error of a command that must end by itself.
fn asked(command: &mut Command) -> (Option<i32>, String, String) {
    let output = run(command);
    let texts = (
        text(&output.stdout).to_owned(),
        text(&output.stderr).to_owned(),
    );
    (output.status.code(), texts.0, texts.1)
}

/// A text without the folder of this test.
fn placeless(agent: &Agent, text: &str) -> String {
    text.replace(&agent.folder.path().display().to_string(), "DIR")
}

#[test]
fn status_shows_a_broken_descriptor_until_it_is_gone() {
    let mut agent = alone();
    agent.write(
        "conf.d/wrong.yaml",
        "services:\n  - name: wrong\n    prot: 80\n",
    );
    agent.start();
    until("the agent is ready", LONG, || agent.admin("GET", "/readyz"));
    let (code, out, _) = asked(&mut agent.command(&["status"]));
    assert_eq!(code, Some(0));
    assert!(
        placeless(&agent, &out).ends_with(
            "PROBLEMS\nDIR/conf.d/wrong.yaml:3:5: services[0].prot: unknown key\n  help: did you mean `port`?\n"
        ),
        "{out}"
    );
    fs::remove_file(agent.path("conf.d/wrong.yaml")).unwrap();
    until("the problem is gone", LONG, || {
        let (_, out, _) = asked(&mut agent.command(&["status"]));
        if out.contains("PROBLEMS") {
            Err(out)
        } else {
            Ok(())
        }
    });
}

#[test]
fn check_of_what_is_right_ends_with_0_and_says_where_nothing_is() {
    let agent = alone();
    let (code, out, _) = asked(&mut agent.command(&["check"]));
    assert_eq!(code, Some(0));
    assert_eq!(
        placeless(&agent, &out),
        "no errors in 0 files\n  note: no descriptors in DIR/conf.d\n"
    );
    agent.write(
        "conf.d/good.yaml",
        "services:\n  - name: good\n    port: 80\n",
    );
    let (code, out, _) = asked(&mut agent.command(&["check"]));
    assert_eq!((code, out.as_str()), (Some(0), "no errors in 1 file\n"));
}

#[test]
fn a_wrong_variable_or_directory_is_counted_among_the_files() {
    let agent = alone();
    let (code, out, _) = asked(agent.command(&["check"]).env("OUTRIGGER_SERVICE", "cart"));
    assert_eq!(code, Some(65));
    assert!(out.ends_with("1 error in 1 of 1 file\n"), "{out}");
    let file = agent.path("outrigger.yaml");
    let (code, out, _) = asked(agent.command(&["check"]).arg("--conf-dir").arg(file));
    assert_eq!(code, Some(65));
    assert!(out.ends_with("1 error in 1 of 1 file\n"), "{out}");
}

#[test]
fn a_level_that_is_none_is_78_wherever_it_is_written() {
    let agent = alone();
    for (name, value) in [
        ("OUTRIGGER_LOG_LEVEL", "loud"),
        ("RUST_LOG", "outrigger=lo=ud"),
    ] {
        let (code, _, err) = asked(agent.command(&["run"]).env(name, value));
        assert_eq!(code, Some(78));
        assert!(
            err.starts_with(&format!("{name}: `{value}` is not a level\n  help: ")),
            "{err}"
        );
    }
}

#[test]
fn a_password_in_a_wrong_place_is_never_printed() {
    let agent = alone();
    for settings in [
        "registry: { auth: { username: svc, pasword: canary-1 } }",
        "registry: { auth: { username: svc, Password: canary-1 } }",
        "registry: { auth: canary-1 }",
        "registry: { auth: canary-1, lnog_poll: 1s }",
        "registry: { auth: { username: svc, password_file: canary-1 }, lnog_poll: 1s }",
        "registry: { endpoint: \"http://nacos/list?accessToken=canary-1\", lnog_poll: 1s }",
        "registry: { password: canary-1 }",
        "password: canary-1",
        "registry: { servers: [\"http://svc:canary-1@nacos:8848\"] }",
        "registry: { servers: [\"http://svc:can/canary-1@nacos:8848\"] }",
        "registry: { servers: [\"http://svc:can?canary-1@nacos:8848\"] }",
        "registry: { servers: [\"http://nacos:8848?accessToken=canary-1\"] }",
        "registry: { servers: \"http://svc:canary-1@nacos:8848\" }",
        "registry: { endpoint: \"http://svc:canary-1@nacos/list\" }",
        "registry: { endpoint: \"http://svc:can/canary-1@nacos/list\" }",
        "registry: { auth: { username: svc, password_file: canary-1 } }",
        "registry: { auth: { username: svc, password: [canary-1] } }",
        "registry: { auth: { username: svc, password: { canary-1: x } } }",
        "registry: { auth: { password: canary-1 } }",
        "registry: { auth: { username: svc, password: canary-1, password: canary-1 } }",
        "registry: { auth: { username: svc, password: canary-1, password_file: /x } }",
        "registry: { auth: { username: svc, password: canary-1: x } }",
        "registry: { auth: { username: svc, password: \"canary-1 } }",
        "registry: { tls: { key: canary-1 } }",
        "registry: { tls: { cert: c.pem, key: canary-1 } }",
        "registry: { tls: { kye: \"-----BEGIN PRIVATE KEY-----canary-1\" } }",
        "registry: { tls: { cert: \"-----BEGIN PRIVATE KEY-----canary-1\" } }",
        "registry:\n  tls:\n    key: |\n      -----BEGIN PRIVATE KEY-----\n      canary-1",
        "registry: { tls: { key: \"-----BEGIN PRIVATE KEY-----canary-1 } }",
        "registry: { auth: { username: svc, password: !x canary-1 } }",
        "registry: { auth: { username: svc, password: *canary-1 } }",
        "registry:\n  auth:\n    username: svc\n   password: canary-1",
        "registry:\n  auth:\n    username: svc\n    password: \"x\\canary-1\"",
    ] {
        agent.write("outrigger.yaml", &format!("{settings}\n"));
        let (code, out, err) = asked(&mut agent.command(&["check"]));
        assert_eq!(code, Some(78), "{settings}: {out}{err}");
        assert!(out.is_empty() && !err.is_empty());
        assert!(!err.contains("canary"), "{settings}: {err}");
    }
    for (name, value) in [
        ("OUTRIGGER_PASSWORD", "canary-1"),
        ("OUTRIGGER_REGISTRY_AUTH_PASSWORD", "canary-1"),
        ("OUTRIGGER_REGISTRY_AUTH_PASSWORD_FILE", "canary-1"),
        ("OUTRIGGER_REGISTRY_TLS_KEY", "canary-1"),
        ("OUTRIGGER_REGISTRY_SERVERS", "http://svc:canary-1@nacos,b"),
        (
            "OUTRIGGER_REGISTRY_SERVERS",
            "http://nacos?accessToken=canary-1",
        ),
        (
            "OUTRIGGER_REGISTRY_ENDPOINT",
            "http://svc:canary-1@nacos/list",
        ),
    ] {
        let (code, _, err) = asked(outrigger().arg("check").env(name, value));
        assert_eq!(code, Some(78), "{name}: {err}");
        assert!(
            err.contains(name) && !err.contains("canary"),
            "{name}: {err}"
        );
    }
}

#[test]
fn every_setting_says_where_it_comes_from_and_the_nearer_wins() {
    let mut agent = Agent::prepare(
        &["http://127.0.0.1:1".to_owned()],
        "log: { level: warn, format: json }\ncatalog: { conf_dir: /nonexistent/file, rescan: 7s }\nshutdown_timeout: 5s\n",
    )
    .env("OUTRIGGER_CATALOG_CONF_DIR", "/nonexistent/variable")
    .env("OUTRIGGER_SHUTDOWN_TIMEOUT", "400ms")
    .env("OUTRIGGER_LOG_FORMAT", "")
    .env("OUTRIGGER_REGISTRY_AUTH_USERNAME", "svc")
    .env("OUTRIGGER_REGISTRY_AUTH_PASSWORD", "canary-1")
    .env("RUST_LOG", "error");
    let mut command = agent.command(&["run"]);
    command
        .arg("--conf-dir")
        .arg(agent.path("conf.d"))
        .stderr(Stdio::null());
    agent.process = Some(Process::start(&mut command));
    let status = until("the agent answers", LONG, || agent.status());
    let file = agent.path("outrigger.yaml").display().to_string();
    for (key, value, origin) in [
        (
            "registry.servers",
            "http://127.0.0.1:1".to_owned(),
            format!("{file}:2"),
        ),
        (
            "registry.namespace",
            "public".to_owned(),
            "default".to_owned(),
        ),
        (
            "registry.auth.username",
            "svc".to_owned(),
            "variable OUTRIGGER_REGISTRY_AUTH_USERNAME".to_owned(),
        ),
        (
            "registry.auth.password",
            "[secret]".to_owned(),
            "variable OUTRIGGER_REGISTRY_AUTH_PASSWORD".to_owned(),
        ),
        (
            "log.level",
            "error".to_owned(),
            "variable RUST_LOG".to_owned(),
        ),
        ("log.format", "json".to_owned(), format!("{file}:6")),
        (
            "catalog.conf_dir",
            agent.path("conf.d").display().to_string(),
            "flag --conf-dir".to_owned(),
        ),
        ("catalog.rescan", "7s".to_owned(), format!("{file}:7")),
        (
            "shutdown_timeout",
            "400ms".to_owned(),
            "variable OUTRIGGER_SHUTDOWN_TIMEOUT".to_owned(),
        ),
    ] {
        let settings = status["settings"].as_array().unwrap();
        let found = settings
            .iter()
            .find(|setting| setting["key"] == key)
            .unwrap();
        assert_eq!(
            (found["value"].as_str(), found["origin"].as_str()),
            (Some(&*value), Some(&*origin)),
            "{key}"
        );
    }
    assert_eq!(
        status["settings"].as_array().unwrap().len(),
        32,
        "one line of docs/settings.md each"
    );
    assert!(!status.to_string().contains("canary"), "{status}");
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let agent = alone();
    agent.write("admin.sock", "somebody's work\n");
    let (code, _, err) = asked(&mut agent.command(&["run"]));
    assert_eq!(code, Some(78));
    assert!(
        placeless(&agent, &err).contains("admin.socket: DIR/admin.sock is there and is no socket"),
        "{err}"
    );
    assert_eq!(agent.read("admin.sock"), "somebody's work\n");
}

#[test]
fn the_group_of_the_socket_may_be_a_number_and_opens_it_for_the_group() {
    let gid = nix::unistd::getegid();
    let mut agent = alone().env("OUTRIGGER_ADMIN_GROUP", &gid.to_string());
    agent.start();
    until("the agent answers", LONG, || agent.admin("GET", "/livez"));
    let mode = fs::metadata(agent.path("admin.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let (code, _, err) = asked(
        agent
            .command(&["run"])
            .env("OUTRIGGER_ADMIN_SOCKET", agent.path("other.sock"))
            .env("OUTRIGGER_STATE_DIR", agent.path("other"))
            .env("OUTRIGGER_ADMIN_GROUP", "nosuchgroup"),
    );
    assert_eq!(code, Some(78));
    assert!(
        err.contains("admin.group: there is no group nosuchgroup"),
        "{err}"
    );
}

#[test]
fn a_state_dir_that_cannot_be_made_is_78() {
    let agent = alone();
    // Below a file: that stops root too.
    agent.write("file", "");
    let mut command = agent.command(&["run"]);
    let (code, _, err) = asked(command.env("OUTRIGGER_STATE_DIR", agent.path("file/state")));
    assert_eq!(code, Some(78));
    assert_eq!(
        placeless(&agent, &err),
        "outrigger: state_dir: cannot make DIR/file/state: Not a directory (os error 20)\n"
    );
}

#[test]
fn the_level_in_force_is_the_one_that_status_shows() {
    for (own, usual, origin, talks) in [
        (Some("info"), "off", "variable OUTRIGGER_LOG_LEVEL", true),
        (Some("off"), "info", "variable OUTRIGGER_LOG_LEVEL", false),
        (None, "off", "variable RUST_LOG", false),
        (None, "", "default", true),
    ] {
        let mut agent = alone().env("RUST_LOG", usual);
        if let Some(own) = own {
            agent = agent.env("OUTRIGGER_LOG_LEVEL", own);
        }
        agent.start();
        let status = until("the agent answers", LONG, || {
            agent.admin("GET", "/readyz")?;
            agent.status()
        });
        let settings = status["settings"].as_array().unwrap();
        let level = settings
            .iter()
            .find(|setting| setting["key"] == "log.level")
            .unwrap();
        assert_eq!(level["origin"], origin);
        assert_eq!(
            !agent.read("agent.log").is_empty(),
            talks,
            "{own:?} {usual:?}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = outrigger();
    command
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        said(&output)
    );
}
