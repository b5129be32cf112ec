//! The agent against servers that are no registry, or a bad one: it lives, says who answered what, and heals with a real one.

use crate::bad::{Bad, Play, agent, answer, ok, properly};
use crate::support::{Agent, LONG, Registry, eventually, free_port, until};
use serde_json::Value;
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Waits until the reason of `kind` names the server and has all of `words`.
fn until_said(agent: &Agent, bad: &Bad, kind: &str, words: &[&str]) {
    until(
        &format!("{kind} say {words:?} of {}", bad.url()),
        LONG,
        || {
            let status = agent.status()?;
            let entry = if kind == "registry" {
                &status[kind]
            } else {
                &status[kind][0]
            };
            match entry["reason"].as_str() {
                Some(reason)
                    if reason.contains(&bad.url())
                        && words.iter().all(|word| reason.contains(word)) =>
                {
                    Ok(())
                }
                _ => Err(entry.to_string()),
            }
        },
    );
}

/// The agent has lived through it, and with a real registry on the same port all becomes well.
fn heals(agent: &Agent, bad: Bad) {
    agent.admin("GET", "/livez").unwrap();
    let port = bad.port;
    drop(bad);
    let registry = Registry::start_on(port);
    registry.publish("orders.yaml", "greeting: hello\n");
    registry.until_listed("orders", 1, 2 * LONG);
    until("the file is there", 2 * LONG, || {
        match agent.read("orders.yaml") {
            text if text == "greeting: hello\n" => Ok(()),
            text => Err(format!("{text}: {:?}", agent.status())),
        }
    });
    until("all is well", LONG, || {
        let status = agent.status()?;
        let well = status["registry"]["state"] == "connected"
            && status["services"][0]["state"] == "registered"
            && status["services"][0]["reason"] == Value::Null
            && status["configs"][0]["state"] == "applied";
        if well {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert!(!agent.read("agent.log").contains("panicked"));
}

#[test]
fn garbage_instead_of_http() {
    let bad = Bad::start(|_| Play::Raw(b"\x00\xff\x1b[2J certainly no HTTP\r\n\r\n".to_vec()));
    let agent = agent(&bad, "request_timeout: 300ms");
    for kind in ["registry", "services", "configs"] {
        until_said(&agent, &bad, kind, &["HTTP"]);
    }
    heals(&agent, bad);
}

#[test]
fn a_page_for_people_with_status_200_never_becomes_a_file() {
    let bad = Bad::start(|_| ok("<html>\u{1b}[2J<h1>Welcome</h1></html>"));
    let agent = agent(&bad, "request_timeout: 300ms");
    until_said(
        &agent,
        &bad,
        "registry",
        &["something else than Nacos does"],
    );
    until_said(
        &agent,
        &bad,
        "services",
        &[
            "something else than Nacos does",
            "expected \"ok\"",
            "<html>",
        ],
    );
    until_said(
        &agent,
        &bad,
        "configs",
        &["something else than Nacos does", "Content-MD5"],
    );
    assert!(!agent.path("orders.yaml").exists());
    assert!(
        !agent.status().unwrap().to_string().contains("\\u001b"),
        "nothing raw is shown"
    );
    heals(&agent, bad);
}

#[test]
fn a_beat_that_is_answered_with_something_else() {
    for (body, words) in [
        (r#"{"clientBeatInterval":200,"code":10500}"#, "code 10500"),
        (r#"["code",10200]"#, "something else than Nacos does"),
        ("", "something else than Nacos does"),
    ] {
        let bad = Bad::start(move |line| match line {
            line if line.starts_with("PUT ") => ok(body),
            line => properly(line),
        });
        let agent = agent(&bad, "request_timeout: 300ms");
        until_said(&agent, &bad, "services", &[words]);
        if body.is_empty() {
            heals(&agent, bad);
        }
    }
}

#[test]
fn a_server_that_can_only_say_500() {
    let bad = Bad::start(|_| answer(500, "", "caused: the disk is \u{202e}full;"));
    let agent = agent(&bad, "request_timeout: 300ms");
    for kind in ["registry", "services", "configs"] {
        until_said(
            &agent,
            &bad,
            kind,
            &["answered 500: the disk is \\u{202e}full"],
        );
    }
    let log = agent.read("agent.log");
    assert_eq!(
        log.matches("registry state=\"unreachable\"").count(),
        1,
        "said once:\n{log}"
    );
    heals(&agent, bad);
}

#[test]
fn a_server_that_denies_everything_to_somebody_without_a_name() {
    let bad = Bad::start(|_| answer(403, "", r#"{"status":403,"message":"unknown user!"}"#));
    let agent = agent(&bad, "request_timeout: 300ms");
    for kind in ["services", "configs"] {
        until_said(&agent, &bad, kind, &["denied access: unknown user!"]);
    }
    assert_eq!(bad.count("POST /nacos/v1/auth/login"), 0);
    heals(&agent, bad);
}

#[test]
fn a_server_that_denies_every_token_gets_few_logins() {
    let bad = Bad::start(|line| match line {
        line if line.contains("/auth/login") => properly(line),
        _ => answer(403, "", r#"{"status":403,"message":"token invalid!"}"#),
    });
    let began = Instant::now();
    let agent = agent(
        &bad,
        "auth: { username: svc, password: canary-1 }\n  request_timeout: 300ms",
    );
    for kind in ["services", "configs"] {
        until_said(&agent, &bad, kind, &["denied access: token invalid!"]);
    }
    eventually("the token is renewed", LONG, || {
        (bad.count("POST /nacos/v1/auth/login") > 1).then_some(())
    });
    until("5 s are over", LONG, || match began.elapsed() {
        over if over > Duration::from_secs(5) => Ok(()),
        yet => Err(format!("{yet:?}")),
    });
    let logins = bad.count("POST /nacos/v1/auth/login");
    assert!(logins <= 12, "{logins} logins in {:?}", began.elapsed());
    heals(&agent, bad);
}

#[test]
fn an_unknown_user_is_said_once_and_is_no_failure_of_the_server() {
    // As 2.5.1 does without authentication: a 500 for the login, and calls need no token.
    let bad = Bad::start(|line| match line {
        line if line.contains("/auth/login") => answer(500, "", "User svc not found"),
        line => properly(line),
    });
    let agent = agent(
        &bad,
        "auth: { username: svc, password: canary-1 }\n  request_timeout: 100ms",
    );
    agent.until_state("services", "orders", "registered");
    eventually("it tries to log in again", LONG, || {
        (bad.count("POST /nacos/v1/auth/login") > 3).then_some(())
    });
    let log = agent.read("agent.log");
    assert_eq!(
        log.matches("login user=svc state=\"failed\"").count(),
        1,
        "{log}"
    );
    assert!(log.contains("User svc not found"), "{log}");
    assert_eq!(
        log.matches("registry state=\"unreachable\"").count(),
        0,
        "{log}"
    );
    assert!(!log.contains("canary"), "{log}");
    heals(&agent, bad);
}

#[test]
fn a_body_without_end_is_given_up_and_memory_stays_bounded() {
    let bad = Bad::start(|_| Play::Endless);
    let agent = agent(&bad, "request_timeout: 20s");
    until_said(
        &agent,
        &bad,
        "configs",
        &["an answer of more than 10485760 bytes"],
    );
    until_said(
        &agent,
        &bad,
        "services",
        &["an answer of more than 16777216 bytes"],
    );
    let pid = agent.process.as_ref().unwrap().0.id();
    let about = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = about
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 160 * 1024, "{peak} kB");
    heals(&agent, bad);
}

#[test]
fn a_server_that_accepts_and_never_answers() {
    let bad = Bad::start(|_| Play::Silence);
    let agent = agent(&bad, "request_timeout: 300ms");
    for kind in ["registry", "services", "configs"] {
        until_said(&agent, &bad, kind, &["no answer within 300ms"]);
    }
    heals(&agent, bad);
}

#[test]
fn a_redirect_is_said_and_not_followed() {
    let elsewhere = Bad::start(properly);
    let to = format!("Location: {}/nacos/\r\n", elsewhere.url());
    let bad = Bad::start(move |_| answer(307, &to, ""));
    let agent = agent(
        &bad,
        "auth: { username: svc, password: canary-1 }\n  request_timeout: 300ms",
    );
    for kind in ["services", "configs"] {
        until_said(
            &agent,
            &bad,
            kind,
            &["307, a redirect; write the address it leads to"],
        );
    }
    assert!(
        elsewhere.asked.lock().unwrap().is_empty(),
        "the password stays here"
    );
    heals(&agent, bad);
}

/// Polls and fetches that a server gets in three seconds which answers every poll at once with `body`.
fn hurried(body: &'static str) -> (Agent, Bad) {
    let bad = Bad::start(move |line| match line {
        line if line.starts_with("POST /nacos/v1/cs/configs/listener") => ok(body),
        line => properly(line),
    });
    let agent = agent(&bad, "request_timeout: 300ms");
    agent.until_state("configs", "orders.yaml", "applied");
    let (polls, fetches) = (
        || bad.count("POST /nacos/v1/cs/configs/listener"),
        || bad.count("GET /nacos/v1/cs/configs"),
    );
    let (before, began) = (polls() + fetches(), Instant::now());
    until("3 s are over", LONG, || match began.elapsed() {
        over if over > Duration::from_secs(3) => Ok(()),
        yet => Err(format!("{yet:?}")),
    });
    let asked = polls() + fetches() - before;
    assert!(
        polls() > 0 && asked < 40,
        "{asked} calls in 3 s, {:?}",
        bad.asked.lock().unwrap()
    );
    assert_eq!(agent.read("orders.yaml"), "greeting: bad\n");
    (agent, bad)
}

#[test]
fn a_listener_that_says_changed_for_ever_makes_no_tight_loop() {
    let (agent, bad) = hurried("orders.yaml%02DEFAULT_GROUP%01");
    heals(&agent, bad);
}

#[test]
fn a_listener_that_never_holds_makes_no_tight_loop() {
    let (agent, bad) = hurried("");
    heals(&agent, bad);
}

#[test]
fn a_listener_that_names_what_nobody_asked_for_is_not_obeyed() {
    let (agent, bad) = hurried("other.yaml%02DEFAULT_GROUP%01..%2F..%2Fpasswd%02G%01");
    let others = bad
        .asked
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line.contains("other.yaml") || line.contains("passwd"))
        .count();
    assert_eq!(others, 0);
    heals(&agent, bad);
}

#[test]
fn one_404_is_not_believed() {
    let asked = AtomicBool::new(false);
    let bad = Bad::start(move |line| match line {
        line if line.starts_with("GET /nacos/v1/cs/configs")
            && !asked.swap(true, Ordering::SeqCst) =>
        {
            answer(404, "", "config data not exist")
        }
        line => properly(line),
    });
    let agent = agent(&bad, "request_timeout: 300ms");
    let applied = agent.until_state("configs", "orders.yaml", "applied");
    assert!(
        bad.count("GET /nacos/v1/cs/configs") >= 2,
        "it was asked again"
    );
    assert!(
        !applied["history"].to_string().contains("missing"),
        "{applied}"
    );
    heals(&agent, bad);
}

#[test]
fn a_404_that_is_not_nacos_own_is_no_missing_configuration() {
    let bad = Bad::start(|_| answer(404, "", "404 page not found"));
    let agent = agent(&bad, "request_timeout: 300ms");
    for kind in ["services", "configs"] {
        until_said(
            &agent,
            &bad,
            kind,
            &["404, no such path; is registry.context_path right"],
        );
    }
    heals(&agent, bad);
}

#[test]
fn a_bad_server_beside_a_good_one_does_no_harm() {
    let plays: [fn(&str) -> Play; 4] = [
        |_| answer(503, "", "server is STARTING now, please try again later!"),
        |_| ok("<html>Welcome</html>"),
        |_| answer(404, "", "404 page not found"),
        |_| Play::Raw(b"220 mail.example ESMTP\r\n".to_vec()),
    ];
    let good = Registry::start();
    good.publish("orders.yaml", "greeting: hello\n");
    for (nth, play) in plays.into_iter().enumerate() {
        let bad = Bad::start(play);
        let nobody = format!("http://127.0.0.1:{}", free_port());
        let mut agent = Agent::prepare(
            &[bad.url(), nobody, format!("http://127.0.0.1:{}", good.port)],
            "  request_timeout: 300ms\n",
        );
        let name = format!("orders-{nth}");
        agent.write(
            "conf.d/a.yaml",
            &format!(
                "services:\n  - name: {name}\n    port: 8080\n    probe: none\nconfigs:\n  - data_id: orders.yaml\n    path: {}\n",
                agent.path("orders.yaml").display()
            ),
        );
        agent.start();
        good.until_listed(&name, 1, LONG);
        agent.until_state("services", &name, "registered");
        agent.until_state("configs", "orders.yaml", "applied");
        assert_eq!(agent.read("orders.yaml"), "greeting: hello\n");
        let log = agent.read("agent.log");
        assert!(
            !log.contains("registry state=\"unreachable\""),
            "the registry was never away:\n{log}"
        );
    }
}
