//! Lists of instances as files, as somebody who runs nginx, HAProxy or Prometheus has them: a real agent before the embedded
//! registry over both protocols, and the real programs reading what comes of hostile registrations.

use crate::support::{
    Agent, LONG, Process, Registry, eventually, form, free_port, http, said, stays, until,
};
use nix::sys::signal::Signal;
use outrigger::{
    agent::{
        neighbours::{self, Neighbour},
        renderings::{self, About},
    },
    descriptor::spec::{Filter, Rendering},
    foreign::Foreign,
    nacos::model::{Listed, ServiceList},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Registers (`POST`) or takes out (`DELETE`) an instance of `payments`; nobody beats for it, and that is well for an hour.
fn instance(registry: &Registry, method: &str, last: u8, more: &str) {
    let times = r#"{"preserved.heart.beat.timeout":"3600000","preserved.ip.delete.timeout":"3600000","version":"1.4"}"#;
    let path = format!(
        "/nacos/v1/ns/instance?serviceName=payments&ip=10.0.0.{last}&port=8080&metadata={}{more}",
        form(times)
    );
    until("the registry takes it", LONG, || {
        http(registry.port, method, &path, "").map(drop)
    });
}

fn until_servers(agent: &Agent, name: &str, wanted: &[u8]) {
    let wanted: Vec<String> = wanted
        .iter()
        .map(|last| format!("10.0.0.{last}:8080"))
        .collect();
    until(&format!("{name} has {wanted:?}"), LONG, || {
        let text = agent.read(name);
        let found: Vec<&str> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("server ")?.split(' ').next())
            .collect();
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{text}\n{:?}", agent.status()))
        }
    });
}

/// Waits until the subscription of this path is in `state`.
fn until_list(agent: &Agent, path: &str, state: &str) -> Value {
    until(&format!("{path} is {state}"), LONG, || {
        let status = agent.status()?;
        status["subscriptions"]
            .as_array()
            .and_then(|all| {
                all.iter()
                    .find(|one| one["path"].as_str().is_some_and(|p| p.ends_with(path)))
            })
            .filter(|one| one["state"] == state)
            .cloned()
            .ok_or_else(|| status.to_string())
    })
}

#[test]
fn a_server_of_http_alone_says_by_udp_that_a_list_has_changed() {
    let registry = Registry::start_with(free_port(), &["--like", "1.4"]);
    let mut agent = Agent::of(&registry);
    let path = agent.path("payments.conf");
    agent.write(
        "conf.d/web.yaml",
        &format!(
            "subscriptions:\n  - {{ service: payments, path: {}, format: nginx, guard: {{ max_shrink: 100% }} }}\n",
            path.display()
        ),
    );
    instance(&registry, "POST", 1, "");
    agent.start();
    until_servers(&agent, "payments.conf", &[1]);
    // Which it does for those alone whom it knows.
    until("the registry knows whom to tell", LONG, || {
        let path = "/nacos/v1/ns/service/subscribers?serviceName=payments";
        match http(registry.port, "GET", path, "")? {
            all if all.contains("Nacos-Go-Client:v1.0.0-outrigger") => Ok(()),
            all => Err(all),
        }
    });
    // By itself it asks again no sooner than 7 s after the last time, and each change has made it ask.
    instance(&registry, "POST", 2, "");
    until_servers(&agent, "payments.conf", &[1, 2]);
    for last in [3, 4] {
        let began = Instant::now();
        instance(&registry, "POST", last, "");
        let all: Vec<u8> = (1..=last).collect();
        until_servers(&agent, "payments.conf", &all);
        assert!(
            began.elapsed() < Duration::from_secs(7),
            "nothing was pushed"
        );
    }
}

/// An application that counts the HUPs it gets, with its pid file.
fn application(agent: &Agent) -> Process {
    let script = format!(
        "trap 'echo x >> {0}/reloads' HUP; echo $$ > {0}/pid; while :; do sleep 0.05; done",
        agent.folder.path().display()
    );
    let application = Process::start(
        Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null()),
    );
    eventually("the application runs", LONG, || {
        (!agent.read("pid").is_empty()).then_some(())
    });
    application
}

fn reloads(agent: &Agent) -> usize {
    agent.read("reloads").lines().count()
}

fn a_file_follows_its_service(flags: &[&str]) {
    let port = free_port();
    let registry = Registry::start_with(port, flags);
    let mut agent = Agent::of(&registry);
    let at = agent.folder.path().display().to_string();
    let descriptor = format!(
        "subscriptions:
  - service: payments
    path: {at}/payments.conf
    format: nginx
    required: true
    guard: {{ hold_after_reconnect: 5m }}
    reload: {{ signal: HUP, pid_file: {at}/pid }}
  - service: payments
    path: {at}/payments.env
    format: env
    reload: {{ signal: HUP, pid_file: {at}/pid }}
  - service: payments
    path: {at}/hosts
    format: hosts
    host: payments.internal
    reload: {{ signal: HUP, pid_file: {at}/pid }}
"
    );
    agent.write("conf.d/web.yaml", &descriptor);
    agent.write("hosts", "127.0.0.1 localhost\n");
    let _application = application(&agent);
    for last in [1, 2, 3] {
        instance(&registry, "POST", last, "&weight=2");
    }
    agent.start();
    until_servers(&agent, "payments.conf", &[1, 2, 3]);
    for path in ["payments.conf", "payments.env", "hosts"] {
        until_list(&agent, path, "applied");
    }
    // Three files of one list, one burst, one reload.
    eventually("the application reloads", LONG, || {
        (reloads(&agent) > 0).then_some(())
    });
    stays(
        "reloaded once",
        Duration::from_millis(300),
        || match reloads(&agent) {
            1 => Ok(()),
            count => Err(format!("{count} reloads")),
        },
    );
    assert_eq!(
        agent.read("payments.conf"),
        "upstream payments {\n    server 10.0.0.1:8080 weight=2;\n    server 10.0.0.2:8080 weight=2;\n    server 10.0.0.3:8080 weight=2;\n}\n"
    );
    assert_eq!(
        agent.read("payments.env"),
        "PAYMENTS_INSTANCES=10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080\n"
    );
    assert_eq!(
        agent.read("hosts"),
        "127.0.0.1 localhost\n# outrigger: begin payments.internal\n10.0.0.1 payments.internal\n10.0.0.2 payments.internal\n10.0.0.3 payments.internal\n# outrigger: end payments.internal\n"
    );
    instance(&registry, "POST", 4, "&weight=2");
    until_servers(&agent, "payments.conf", &[1, 2, 3, 4]);
    instance(&registry, "DELETE", 4, "");
    until_servers(&agent, "payments.conf", &[1, 2, 3]);

    // The registry goes away: the file stays. It comes back and knows nobody: the file stays, and says why.
    let before = agent.read("payments.conf");
    drop(registry);
    until("the agent sees that it is away", LONG, || {
        let status = agent.status()?;
        if status["registry"]["state"] == "unreachable" {
            Ok(())
        } else {
            Err(status["registry"].to_string())
        }
    });
    assert_eq!(agent.read("payments.conf"), before);
    let registry = Registry::start_with(port, flags);
    let held = until_list(&agent, "payments.conf", "held");
    until("the figure says so", LONG, || {
        match agent.admin("GET", "/metrics")? {
            text if text.contains("outrigger_lists_held 3") => Ok(()),
            text => Err(text),
        }
    });
    assert_eq!(held["kept"], 3, "{held}");
    assert_eq!(held["listed"], 0, "{held}");
    assert_eq!(agent.read("payments.conf"), before);
    let note: Value = eventually("the side file is there", LONG, || {
        serde_json::from_str(&agent.read("payments.conf.held")).ok()
    });
    assert_eq!(note["release"], "outrigger release subscription payments");
    let output = agent
        .command(&["explain", "subscription", "payments", "--lang", "en"])
        .output()
        .unwrap();
    let words = said(&output);
    assert!(
        words.contains("outrigger release subscription payments"),
        "{words}"
    );
    let output = agent.command(&["status"]).output().unwrap();
    assert!(said(&output).contains("held"), "{}", said(&output));

    // One of them is back: too few to be believed. All are: right again, at once.
    instance(&registry, "POST", 1, "&weight=2");
    until("it lists one", LONG, || {
        let list = until_list(&agent, "payments.conf", "held");
        if list["listed"] == 1 {
            Ok(())
        } else {
            Err(list.to_string())
        }
    });
    assert_eq!(agent.read("payments.conf"), before);
    // Two are few enough to be believed, but not so soon after the registry came back.
    instance(&registry, "POST", 2, "&weight=2");
    until("two wait for the third", LONG, || {
        let list = until_list(&agent, "payments.conf", "held");
        let reason = list["reason"].as_str().unwrap_or_default();
        if list["listed"] == 2 && reason.contains("came back a moment ago") {
            Ok(())
        } else {
            Err(list.to_string())
        }
    });
    assert_eq!(agent.read("payments.conf"), before);
    instance(&registry, "POST", 3, "&weight=2");
    until_list(&agent, "payments.conf", "applied");
    eventually("the side file is gone", LONG, || {
        (!agent.path("payments.conf.held").exists()).then_some(())
    });
    assert_eq!(agent.read("payments.conf"), before);

    // What an operator knows to be right, he releases.
    for last in [2, 3] {
        instance(&registry, "DELETE", last, "");
    }
    until_list(&agent, "payments.conf", "held");
    let output = agent
        .command(&["release", "subscription", "payments"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    until_servers(&agent, "payments.conf", &[1]);
    let output = agent
        .command(&["release", "subscription", "payments"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended(LONG).success());
}

#[test]
fn over_grpc_a_file_follows_its_service_and_survives_the_registry() {
    a_file_follows_its_service(&[]);
}

#[test]
fn over_http_a_file_follows_its_service_and_survives_the_registry() {
    a_file_follows_its_service(&["--like", "1.4"]);
}

#[test]
fn once_writes_lists_too_and_waits_for_one_that_is_empty() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    let path = agent.path("payments.json");
    let descriptor = format!(
        "subscriptions:\n  - {{ service: payments, path: {}, format: json }}\n",
        path.display()
    );
    agent.write("conf.d/web.yaml", &descriptor);
    let output = agent
        .command(&["once", "--timeout", "1s"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    assert!(
        said(&output).contains("no instance that passes"),
        "{}",
        said(&output)
    );
    instance(&registry, "POST", 1, "&cluster=east");
    let output = agent.command(&["once"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let list: Value = serde_json::from_str(&agent.read("payments.json")).unwrap();
    assert_eq!(list["service"], "payments");
    assert_eq!(list["instances"][0]["ip"], "10.0.0.1");
    assert_eq!(list["instances"][0]["cluster"], "east");
    assert_eq!(list["instances"][0]["metadata"]["version"], "1.4");
}

#[test]
fn a_template_is_rendered_and_picked_up_when_it_is_edited() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let at = agent.folder.path().display().to_string();
    let descriptor = format!(
        "subscriptions:\n  - {{ service: payments, path: {at}/out, template: payments.j2 }}\n"
    );
    agent.write(
        "conf.d/payments.j2",
        "{% for one in instances %}{{ one.address }}\n{% endfor %}",
    );
    agent.write("conf.d/web.yaml", &descriptor);
    instance(&registry, "POST", 1, "");
    agent.start();
    let until_text = |agent: &Agent, text: &str| {
        until("the file has its text", LONG, || match agent.read("out") {
            found if found == text => Ok(()),
            found => Err(found),
        });
    };
    until_text(&agent, "10.0.0.1:8080\n");
    agent.write("conf.d/payments.j2", "# {{ service }}\n");
    until_text(&agent, "# payments\n");
    // A broken one keeps the last good version, and `check` says where it is broken.
    agent.write("conf.d/payments.j2", "{% for %}\n");
    until("status has the problem", LONG, || {
        let status = agent.status()?;
        let problems = status["problems"].to_string();
        if problems.contains("payments.j2: line 1") {
            Ok(())
        } else {
            Err(problems)
        }
    });
    assert_eq!(agent.read("out"), "# payments\n");
    let output = agent.command(&["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(65), "{}", said(&output));
}

/// What somebody might register to take a proxy over, beside two that are well.
fn hostile() -> Vec<Neighbour> {
    let host = |ip: &str, port, cluster: &str, weight| Listed {
        ip: ip.into(),
        port,
        cluster: cluster.into(),
        weight,
        healthy: true,
        enabled: true,
        ephemeral: None,
        metadata: BTreeMap::from([
            (
                "version".into(),
                Foreign::from("\"}]; include /etc/shadow;\n${HOME}\u{2028}"),
            ),
            ("__address__".into(), "evil:1".into()),
        ]),
    };
    let list = ServiceList {
        hosts: vec![
            host("10.0.0.1", 8080, "DEFAULT", 10_000.0),
            host("2001:db8::1", 443, "a-b_c", 0.01),
            host("10.0.0.2; } server 6.6.6.6", 80, "DEFAULT", 1.0),
            host("unix:/run/docker.sock", 80, "DEFAULT", 1.0),
            host("169.254.169.254", 80, "DEFAULT", 1.0),
            host("10.0.0.3", 99_999, "DEFAULT", 1.0),
            host("10.0.0.4", 80, "x\nfrontend evil", 1.0),
            host("10.0.0.5", 80, "DEFAULT", f64::NAN),
        ],
        protected: false,
        cache: Duration::ZERO,
    };
    let passed = neighbours::pass(&list, &Filter::default());
    assert_eq!(passed.neighbours.len(), 2);
    passed.neighbours
}

fn rendered(rendering: &Rendering, neighbours: &[Neighbour]) -> String {
    let about = About {
        service: "payments",
        group: "G",
        namespace: "public",
    };
    renderings::render(rendering, about, neighbours).unwrap()
}

fn write(path: &Path, text: &str) {
    fs::File::create(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

/// Runs a program that may not be installed; says loudly when it is not.
fn judge(program: &str, words: &[&str]) -> Option<std::process::Output> {
    let ran = Command::new(program)
        .args(words)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output();
    match ran {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!(
                "SKIPPED: {program} is not installed ({error}), so it does not judge the file"
            );
            None
        }
    }
}

#[test]
fn nginx_itself_takes_what_comes_of_hostile_registrations() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for list in [hostile(), Vec::new()] {
        let upstream = Rendering::Nginx {
            upstream: "payments".to_owned(),
        };
        write(&at.join("payments.conf"), &rendered(&upstream, &list));
        let whole = format!(
            "pid {0}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; include {0}/payments.conf;\n server {{ listen 127.0.0.1:1; location / {{ proxy_pass http://payments; }} }} }}\n",
            at.display()
        );
        write(&at.join("nginx.conf"), &whole);
        let path = at.join("nginx.conf").display().to_string();
        let Some(output) = judge(
            "nginx",
            &["-t", "-q", "-p", &at.display().to_string(), "-c", &path],
        ) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn haproxy_itself_takes_what_comes_of_hostile_registrations() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for list in [hostile(), Vec::new()] {
        let backend = Rendering::Haproxy {
            backend: "payments".to_owned(),
        };
        write(&at.join("payments.cfg"), &rendered(&backend, &list));
        let by_version = Rendering::HaproxyMap {
            key: Some("version".to_owned()),
        };
        let by_address = Rendering::HaproxyMap { key: None };
        let (first, second) = (at.join("version.map"), at.join("address.map"));
        write(&first, &rendered(&by_version, &list));
        write(&second, &rendered(&by_address, &list));
        let main = format!(
            "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\nfrontend in\n  bind 127.0.0.1:18081\n  http-request set-header x-node %[req.hdr(x-version),map({})]%[req.hdr(host),map({})]\n  default_backend payments\n",
            first.display(),
            second.display()
        );
        write(&at.join("main.cfg"), &main);
        let (main, ours) = (at.join("main.cfg"), at.join("payments.cfg"));
        let words = [
            "-c",
            "-f",
            &main.display().to_string(),
            "-f",
            &ours.display().to_string(),
        ];
        let Some(output) = judge("haproxy", &words) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn prometheus_itself_takes_what_comes_of_hostile_registrations() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let labels = Rendering::Prometheus {
        labels: vec!["version".to_owned(), "__address__".to_owned()],
    };
    for list in [hostile(), Vec::new()] {
        write(&at.join("payments.json"), &rendered(&labels, &list));
        let whole = format!(
            "scrape_configs:\n- job_name: payments\n  file_sd_configs:\n  - files: [{}/payments.json]\n",
            at.display()
        );
        write(&at.join("prometheus.yml"), &whole);
        let path = at.join("prometheus.yml").display().to_string();
        let Some(output) = judge("promtool", &["check", "config", &path]) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
}
