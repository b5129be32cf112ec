//! Files as transactions: what the application has loaded is what the files have, whatever is killed and whenever; what it is not
//! well with goes back.

use crate::support::{Agent, LONG, Registry, run_as, stays, until};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// So often the agent is killed; `OUTRIGGER_TRANSACTION_KILLS` says otherwise.
const KILLS: usize = 30;

/// What an application has loaded.
#[derive(Clone, Debug, Default)]
struct Loaded {
    texts: Vec<String>,
    reloads: usize,
    asked: usize,
    /// Of so many reloads one fails.
    fails: usize,
}

/// An application with files, that reloads when it is told and says how it is: not well with an `ill` content, nor with files
/// that are not of one version.
struct Application {
    port: u16,
    loaded: Arc<Mutex<Loaded>>,
}

impl Application {
    fn start(files: Vec<PathBuf>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let loaded = Arc::new(Mutex::new(Loaded::default()));
        let inside = Arc::clone(&loaded);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut head = [0; 2048];
                let count = connection.read(&mut head).unwrap_or(0);
                let mut inside = inside.lock().unwrap();
                let is_well = if head[..count].starts_with(b"POST /reload ") {
                    inside.reloads += 1;
                    let fails = inside.fails > 0 && inside.reloads.is_multiple_of(inside.fails);
                    if !fails {
                        let read = files.iter().map(fs::read_to_string);
                        inside.texts = read.map(Result::unwrap_or_default).collect();
                    }
                    !fails
                } else {
                    inside.asked += 1;
                    let versions = inside.texts.iter().map(|text| text.split(' ').next());
                    let versions: std::collections::BTreeSet<_> = versions.collect();
                    versions.len() < 2 && !inside.texts.iter().any(|text| text.contains("ill"))
                };
                drop(inside);
                let status = if is_well { "200 OK" } else { "500 Not Well" };
                // Whoever asked may have been killed.
                _ = write!(
                    connection,
                    "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
        });
        Self { port, loaded }
    }

    fn loaded(&self) -> Loaded {
        self.loaded.lock().unwrap().clone()
    }

    /// The keys of a target that this application reads.
    fn keys(&self, verifies: bool) -> String {
        let port = self.port;
        let reload = format!("    reload: {{ http: \"http://127.0.0.1:{port}/reload\" }}\n");
        if verifies {
            format!(
                "{reload}    verify: {{ http: \"http://127.0.0.1:{port}/health\", within: 500ms }}\n"
            )
        } else {
            reload
        }
    }
}

fn descriptor(agent: &Agent, names: &[&str], keys: &str) -> String {
    let entries = names.iter().map(|name| {
        let path = agent.path(name);
        format!("  - data_id: {name}\n    path: {}\n{keys}", path.display())
    });
    format!("configs:\n{}", entries.collect::<String>())
}

#[test]
fn wherever_it_is_killed_the_application_ends_with_what_is_newest_and_never_stays_with_less() {
    let kills = std::env::var("OUTRIGGER_TRANSACTION_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let pair = Application::start(vec![agent.path("a"), agent.path("b")]);
    let alone = Application::start(vec![agent.path("c")]);
    agent.write(
        "conf.d/pair.yaml",
        &descriptor(&agent, &["a", "b"], &pair.keys(true)),
    );
    agent.write(
        "conf.d/alone.yaml",
        &descriptor(&agent, &["c"], &alone.keys(false)),
    );
    let names = ["a", "b", "c"];
    let mut texts = names.map(|name| format!("0 {name}"));
    let publish = |texts: &[String; 3]| {
        for (name, text) in names.iter().zip(texts) {
            registry.publish(name, text);
        }
    };
    // What the application is well with from the beginning: something to go back to.
    publish(&texts);
    agent.start();
    for name in names {
        agent.until_state("configs", name, "applied");
    }
    pair.loaded.lock().unwrap().fails = 7;
    alone.loaded.lock().unwrap().fails = 5;
    let (mut version, mut taken_back, mut due) = (0, 0, 0);
    for round in 0..kills {
        for _ in 0..fastrand::usize(1..4) {
            version += 1;
            texts = names.map(|name| format!("{version} {name}"));
            if fastrand::usize(0..4) == 0 {
                texts[fastrand::usize(0..2)].push_str(" ill");
                taken_back += 1;
            }
            publish(&texts);
        }
        thread::sleep(Duration::from_micros(fastrand::u64(0..60_000)));
        agent.signal(Signal::SIGKILL);
        agent.ended(LONG);
        due += usize::from(alone.loaded().texts != [agent.read("c")]);
        agent.start();
        if round % 2 == 0 {
            continue;
        }
        // Nothing new comes: whatever was due is done, and no more. Where the application is not well with what is newest, it has a
        // version from before.
        let is_ill = texts.iter().any(|text| text.contains("ill"));
        let wanted = if is_ill { "rolled_back" } else { "applied" };
        until("files and applications agree", LONG * 4, || {
            let files = names.map(|name| agent.read(name));
            let (pair, alone) = (pair.loaded(), alone.loaded());
            let states = agent.status()?["configs"].as_array().cloned();
            let states = states.unwrap_or_default();
            let states: Vec<_> = states.iter().map(|one| one["state"].clone()).collect();
            let is_newest = files[..2] == texts[..2];
            let is_right = states == [wanted, wanted, "applied"]
                && pair.texts == files[..2]
                && alone.texts == files[2..]
                && files[2] == texts[2]
                && is_newest != is_ill;
            is_right.then_some(()).ok_or_else(|| {
                let all = agent.status().unwrap_or_default()["configs"].to_string();
                format!("{texts:?} {files:?} {pair:?} {alone:?} {all}")
            })
        });
    }
    let (pair, alone) = (pair.loaded(), alone.loaded());
    eprintln!(
        "{kills} kills, {due} of them between file and reload, {version} versions, {taken_back} not well; reloads {} and {}, asked {}",
        pair.reloads, alone.reloads, pair.asked
    );
    let ledgers = fs::read_dir(agent.path("state")).unwrap();
    let names: Vec<_> = ledgers.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().contains("damaged")),
        "{names:?}"
    );
}

#[test]
fn what_the_application_is_not_well_with_goes_back_until_the_source_changes_or_an_operator_asks() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let application = Application::start(vec![agent.path("a"), agent.path("b")]);
    let both = descriptor(&agent, &["a", "b"], &application.keys(true));
    agent.write("conf.d/both.yaml", &both);
    registry.publish("a", "1 a");
    registry.publish("b", "1 b");
    agent.start();
    agent.until_state("configs", "a", "applied");
    agent.until_state("configs", "b", "applied");
    // Stopped, the agent hears of both at once, however busy the machine is.
    agent.signal(Signal::SIGSTOP);
    registry.publish("a", "2 a ill");
    registry.publish("b", "2 b");
    agent.signal(Signal::SIGCONT);
    let view = agent.until_state("configs", "a", "rolled_back");
    agent.until_state("configs", "b", "rolled_back");
    until("both files are back", LONG, || {
        let files = ["a", "b"].map(|name| agent.read(name));
        (files == ["1 a", "1 b"])
            .then_some(())
            .ok_or_else(|| format!("{files:?}"))
    });
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("http: answered 500, not 2xx"), "{reason}");
    until("the application has the old ones again", LONG, || {
        let texts = application.loaded().texts;
        (texts == ["1 a", "1 b"])
            .then_some(())
            .ok_or_else(|| format!("{texts:?}"))
    });
    let explained = agent.command(&["explain", "config", "a"]).output().unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("outrigger retry"), "{explained}");
    let metrics = agent.admin("GET", "/metrics").unwrap();
    assert!(metrics.contains("outrigger_rollbacks_total 2"), "{metrics}");

    // The next run does not try it either.
    agent.signal(Signal::SIGKILL);
    agent.ended(LONG);
    let before = application.loaded().reloads;
    agent.start();
    agent.until_state("configs", "a", "rolled_back");
    agent.until_state("configs", "b", "rolled_back");
    stays(
        "the application is left alone",
        Duration::from_millis(500),
        || {
            let now = application.loaded();
            (now.reloads == before)
                .then_some(())
                .ok_or_else(|| format!("{now:?}"))
        },
    );

    // An operator asks for it: there and back again.
    let path = agent.path("a").display().to_string();
    let asked = agent.command(&["retry", &path]).output().unwrap();
    assert!(asked.status.success(), "{}", crate::support::said(&asked));
    until("it was tried", LONG, || {
        let now = application.loaded();
        let is_back = now.texts == ["1 a", "1 b"];
        (now.reloads == before + 2 && is_back)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
    let asked = agent.command(&["retry", "/nowhere"]).output().unwrap();
    assert_eq!(
        asked.status.code(),
        Some(64),
        "{}",
        crate::support::said(&asked)
    );

    registry.publish("a", "2 a");
    agent.until_state("configs", "a", "applied");
    agent.until_state("configs", "b", "applied");
    assert_eq!(application.loaded().texts, ["2 a", "2 b"]);
}

#[test]
fn a_start_at_which_nothing_is_due_touches_nothing_and_a_reload_that_is_due_is_done() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let application = Application::start(vec![agent.path("a")]);
    let keys = application.keys(true);
    agent.write("conf.d/a.yaml", &descriptor(&agent, &["a"], &keys));
    registry.publish("a", "1 a");
    agent.start();
    agent.until_state("configs", "a", "applied");
    let looks = |agent: &Agent| {
        let folders = ["state/snapshots", "state/good"].map(|name| {
            let entries = fs::read_dir(agent.path(name)).unwrap();
            entries
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        });
        let files = [agent.path("a"), agent.path("state/ledger")];
        let all = files.into_iter().chain(folders.concat());
        all.map(|path| {
            let found = fs::metadata(&path).unwrap();
            (path, found.ino(), found.mtime_nsec())
        })
        .collect::<Vec<_>>()
    };
    // What was verified last is kept before long.
    until("all is kept", LONG, || {
        let kept = agent.read("state/ledger");
        kept.contains("verified_at").then_some(()).ok_or(kept)
    });
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        agent.signal(signal);
        agent.ended(LONG);
        let (before, loaded) = (looks(&agent), application.loaded());
        agent.start();
        agent.until_state("configs", "a", "applied");
        stays("nothing is touched", Duration::from_millis(700), || {
            let (now, told) = (looks(&agent), application.loaded());
            let same =
                now == before && (told.reloads, told.asked) == (loaded.reloads, loaded.asked);
            same.then_some(())
                .ok_or_else(|| format!("{before:?} {now:?} {told:?}"))
        });
    }

    // Every reload fails; the agent is killed, and the source says nothing new.
    application.loaded.lock().unwrap().fails = 1;
    registry.publish("a", "2 a");
    until("the file is there, and a reload has failed", LONG, || {
        let told = application.loaded();
        let is_so =
            agent.read("a") == "2 a" && agent.read("state/ledger").contains(r#""attempts":1"#);
        is_so.then_some(()).ok_or_else(|| format!("{told:?}"))
    });
    assert_eq!(application.loaded().texts, ["1 a"]);
    agent.signal(Signal::SIGKILL);
    agent.ended(LONG);
    application.loaded.lock().unwrap().fails = 0;
    agent.start();
    agent.until_state("configs", "a", "applied");
    assert_eq!(application.loaded().texts, ["2 a"]);

    // A ledger that is cut: the application is told once more than it had to be.
    agent.signal(Signal::SIGKILL);
    agent.ended(LONG);
    let before = application.loaded().reloads;
    let cut = agent.read("state/ledger").len() / 2;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(agent.path("state/ledger"));
    file.unwrap().set_len(cut as u64).unwrap();
    agent.start();
    agent.until_state("configs", "a", "applied");
    assert_eq!(application.loaded().reloads, before + 1);
    assert!(
        agent
            .read("agent.log")
            .contains("every application is told once more")
    );
}

#[test]
fn one_file_that_is_not_valid_holds_the_other_and_status_says_which() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let reload = format!("    reload: {{ exec: [\"true\"], {} }}\n", run_as());
    let keys = format!("{reload}    validate: {{ format: json }}\n");
    agent.write("conf.d/both.yaml", &descriptor(&agent, &["a", "b"], &keys));
    registry.publish("a", "1");
    registry.publish("b", "1");
    agent.start();
    agent.until_state("configs", "a", "applied");
    agent.until_state("configs", "b", "applied");
    registry.publish("a", "{");
    agent.until_state("configs", "a", "rejected");
    registry.publish("b", "2");
    let view = agent.until_state("configs", "b", "pending");
    let reason = view["reason"].as_str().unwrap();
    let waits = format!("waits for {}: not valid json", agent.path("a").display());
    assert!(reason.starts_with(&waits), "{reason}");
    assert_eq!(agent.read("b"), "1");
    registry.publish("a", "2");
    agent.until_state("configs", "a", "applied");
    agent.until_state("configs", "b", "applied");
    assert_eq!((agent.read("a"), agent.read("b")), ("2".into(), "2".into()));
}
