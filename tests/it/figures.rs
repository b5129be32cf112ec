//! The figures: their form, that they move with what happens, and that nobody outside can make series.

use crate::support::{Agent, App, LONG, Registry, free_port, http, run_as, until};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// What `/metrics` says, read strictly: samples by name and labels, kinds by family.
struct Figures {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Figures {
    fn of(agent: &Agent) -> Result<Self, String> {
        Ok(Self::read(&agent.admin("GET", "/metrics")?))
    }

    fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
        let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = BTreeSet::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (family, help) = rest.split_once(' ').unwrap();
                assert!(help.len() > 10, "{line}");
                assert!(helped.insert(family.to_owned()), "twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (family, kind) = rest.split_once(' ').unwrap();
                assert!(kinds.insert(family.to_owned(), kind.to_owned()).is_none());
            } else {
                assert!(!line.starts_with('#'), "{line}");
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                // A counter's samples have a suffix that its family has not.
                let family = name.strip_suffix("_total").unwrap_or(name);
                let kind = kinds
                    .get(family)
                    .unwrap_or_else(|| panic!("no TYPE before {line}"));
                assert!(helped.contains(family), "no HELP before {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(name.starts_with("outrigger_"), "{line}");
                let before = samples.insert(series.to_owned(), value.parse().unwrap());
                assert!(before.is_none(), "twice: {line}");
            }
        }
        assert_eq!(helped, kinds.keys().cloned().collect());
        Self { samples, kinds }
    }

    fn get(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }
}

/// Waits until each of `series` is more than `before` says.
fn until_more(agent: &Agent, before: &Figures, series: &[&str]) -> Figures {
    until(&format!("all of {series:?} move"), LONG, || {
        let now = Figures::of(agent)?;
        let still: Vec<_> = series
            .iter()
            .filter(|series| now.get(series) <= before.get(series))
            .collect();
        if still.is_empty() {
            Ok(now)
        } else {
            Err(format!("{still:?} did not: {:?}", now.samples))
        }
    })
}

#[test]
fn figures_move_with_what_happens_and_carry_no_name_from_outside() {
    let registry = Registry::start();
    registry.publish("canary.yaml", "greeting: one\n");
    let app = App::start();
    // Beats are of HTTP v1.
    let mut agent = Agent::prepare(&[format!("http://127.0.0.1:{}", registry.port)], "");
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services:\n  - name: canary\n    group: CANARY\n    port: {}\n    metadata: {{ canary: canary }}\n    \
             heartbeat: {{ interval: 100ms, timeout: 5s, delete_after: 10s }}\n    \
             probe: {{ tcp: {{}}, interval: 50ms, rise: 1, fall: 1 }}\n\
             configs:\n  - data_id: canary.yaml\n    path: {}\n    validate: {{ format: yaml }}\n    reload: {{ exec: [\"true\"], {} }}\n",
            app.port,
            agent.path("canary.yaml").display(),
            run_as()
        ),
    );
    agent.start();
    agent.until_state("services", "canary", "registered");
    agent.until_state("configs", "canary.yaml", "applied");
    let nothing = Figures::read("# EOF\n");
    let first = until_more(
        &agent,
        &nothing,
        &[
            r#"outrigger_registry_calls_total{what="register",outcome="ok"}"#,
            r#"outrigger_registry_calls_total{what="beat",outcome="ok"}"#,
            r#"outrigger_registry_calls_total{what="config_get",outcome="ok"}"#,
            r#"outrigger_probes_total{what="tcp",outcome="passed"}"#,
            r#"outrigger_verdicts_total{what="verdict",outcome="healthy"}"#,
            r#"outrigger_writes_total{what="config",outcome="written"}"#,
            r#"outrigger_reloads_total{what="exec",outcome="ok"}"#,
            "outrigger_registry_up",
        ],
    );
    assert_eq!(first.kinds["outrigger_registry_up"], "gauge");
    assert_eq!(first.get("outrigger_catalog_errors_total"), 0.0);
    assert_eq!(first.get("outrigger_restorations_total"), 0.0);

    // All of it again, and what goes wrong: a content, a descriptor, the application.
    registry.publish("canary.yaml", "greeting: two\n");
    let second = until_more(
        &agent,
        &first,
        &[
            r#"outrigger_registry_calls_total{what="beat",outcome="ok"}"#,
            r#"outrigger_registry_calls_total{what="config_listen",outcome="ok"}"#,
            r#"outrigger_probes_total{what="tcp",outcome="passed"}"#,
            r#"outrigger_writes_total{what="config",outcome="written"}"#,
            r#"outrigger_reloads_total{what="exec",outcome="ok"}"#,
        ],
    );
    registry.publish("canary.yaml", "greeting: [\n");
    agent.write(
        "conf.d/b.yaml",
        "services:\n  - name: canary\n    canary: 80\n",
    );
    drop(app);
    let third = until_more(
        &agent,
        &second,
        &[
            r#"outrigger_writes_total{what="config",outcome="rejected"}"#,
            "outrigger_catalog_errors_total",
            r#"outrigger_probes_total{what="tcp",outcome="failed"}"#,
            r#"outrigger_verdicts_total{what="verdict",outcome="unhealthy"}"#,
            r#"outrigger_registry_calls_total{what="deregister",outcome="ok"}"#,
        ],
    );
    drop(registry);
    until("the registry is counted as away", LONG, || {
        let figures = Figures::of(&agent)?;
        let up = figures.get("outrigger_registry_up");
        if up == 0.0 {
            Ok(())
        } else {
            Err(format!("{:?}", figures.samples))
        }
    });

    for figures in [&first, &second, &third, &Figures::of(&agent).unwrap()] {
        for series in figures.samples.keys() {
            assert!(!series.to_lowercase().contains("canary"), "{series}");
            let Some((_, labels)) = series.split_once('{') else {
                continue;
            };
            for label in labels.trim_end_matches('}').split(',') {
                let (name, value) = label.split_once('=').unwrap();
                assert!(matches!(name, "what" | "outcome"), "{series}");
                assert!(WORDS.contains(&value.trim_matches('"')), "{series}");
            }
        }
        assert!(figures.samples.len() < 60, "few series");
    }
}

/// Every value a label may have: words of ours.
const WORDS: [&str; 32] = [
    "beat",
    "busy",
    "config",
    "config_get",
    "config_listen",
    "denied",
    "deregister",
    "detail",
    "exec",
    "failed",
    "garbage",
    "healthy",
    "http",
    "list",
    "login",
    "ok",
    "passed",
    "refused",
    "register",
    "rejected",
    "servers",
    "signal",
    "state",
    "stopped",
    "tcp",
    "unhealthy",
    "unreachable",
    "verdict",
    "written",
    "killed",
    "skipped",
    "timeout",
];

#[test]
fn a_missing_configuration_is_no_garbage() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "configs:\n  - data_id: none\n    path: {}\n",
            agent.path("none").display()
        ),
    );
    agent.start();
    agent.until_state("configs", "none", "missing");
    let figures = Figures::of(&agent).unwrap();
    assert!(
        figures.get(r#"outrigger_registry_calls_total{what="config_get",outcome="ok"}"#) >= 3.0
    );
    assert_eq!(
        figures.get(r#"outrigger_registry_calls_total{what="config_get",outcome="garbage"}"#),
        0.0
    );
}

#[test]
fn restorations_and_killed_commands_are_counted() {
    let registry = Registry::start();
    let mut agent = Agent::prepare(&[format!("http://127.0.0.1:{}", registry.port)], "");
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services:\n  - name: orders\n    port: 8080\n    heartbeat: {{ interval: 100ms, timeout: 5s, delete_after: 10s }}\n    probe: none\n  \
             - name: slow\n    port: 8081\n    probe: {{ exec: {{ command: [sleep, \"30\"], {} }}, interval: 200ms, timeout: 100ms }}\n",
            run_as()
        ),
    );
    agent.start();
    registry.until_listed("orders", 1, LONG);
    agent.until_state("services", "orders", "registered");
    // The first beat is full and would bring it back by itself.
    let beats = r#"outrigger_registry_calls_total{what="beat",outcome="ok"}"#;
    until("beats are light", LONG, || {
        match Figures::of(&agent)?.get(beats) {
            count if count >= 2.0 => Ok(()),
            count => Err(count.to_string()),
        }
    });
    // As a console would; the next beat finds that it is not known any more.
    let path = "/nacos/v1/ns/instance?serviceName=orders&ip=127.0.0.1&port=8080&ephemeral=true";
    assert_eq!(http(registry.port, "DELETE", path, "").unwrap(), "ok");
    let nothing = Figures::read("# EOF\n");
    until_more(
        &agent,
        &nothing,
        &[
            "outrigger_restorations_total",
            "outrigger_command_timeouts_total",
            r#"outrigger_probes_total{what="exec",outcome="failed"}"#,
        ],
    );
}

#[test]
fn the_reading_listener_shows_the_same_figures() {
    let mut agent = Agent::prepare(&["http://127.0.0.1:1".to_owned()], "");
    let port = free_port();
    let settings = agent.read("outrigger.yaml");
    let listen = format!("admin: {{ listen: \"127.0.0.1:{port}\",");
    agent.write("outrigger.yaml", &settings.replace("admin: {", &listen));
    agent.start();
    let text = until("the listener answers", LONG, || {
        http(port, "GET", "/metrics", "")
    });
    let shown = Figures::read(&text);
    assert_eq!(shown.get("outrigger_registry_up"), 0.0);
    assert!(shown.kinds.contains_key("outrigger_catalog_errors"));
    assert!(http(port, "POST", "/drain", "").is_err());
    assert!(fs::exists(agent.path("admin.sock")).unwrap());
}
