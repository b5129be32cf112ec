//! `--shadow`: what would be done is said, and nothing is done.

use crate::support::{Agent, LONG, Process, Registry, run_as, said, until};
use nix::sys::signal::Signal;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Output, Stdio},
};

/// Everything below a folder, as it is: content, and which file it is.
fn all_below(folder: &Path) -> BTreeMap<String, (u64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let about = fs::metadata(&path).unwrap();
        if about.is_dir() {
            found.extend(all_below(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(
                path.display().to_string(),
                (about.ino(), about.mtime_nsec(), content),
            );
        }
    }
    found
}

fn once(agent: &Agent) -> (Output, String) {
    let mut command = agent.command(&["once", "--shadow", "--timeout", "5s"]);
    let output = command
        .env("OUTRIGGER_LOG_LEVEL", "error")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let at = format!("{}/", agent.folder.path().display());
    (output, out.replace(&at, ""))
}

/// Four files and a service; the registry has what is published.
fn scene(registry: &Registry) -> Agent {
    let agent = Agent::of(registry);
    fs::create_dir(agent.path("files")).unwrap();
    let at = agent.path("files").display().to_string();
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services:\n  - {{ name: orders, port: 80, probe: none }}\nconfigs:\n\
             \x20 - {{ data_id: same.txt, path: {at}/same.txt, mode: \"0644\", reload: {{ exec: [touch, {at}/reloaded], {run_as} }} }}\n\
             \x20 - {{ data_id: other.txt, path: {at}/other.txt, mode: \"0644\", validate: {{ exec: [touch, {at}/validated], {run_as} }} }}\n\
             \x20 - {{ data_id: new.txt, path: {at}/new.txt }}\n\
             \x20 - {{ data_id: bad.json, path: {at}/bad.json, validate: {{ format: json }} }}\n\
             \x20 - {{ data_id: none.txt, path: {at}/none.txt, on_absent: remove }}\n\
             subscriptions:\n  - {{ service: nobody, path: {at}/nobody.json, format: json }}\n",
            run_as = run_as()
        ),
    );
    for (name, text) in [
        ("same.txt", "a\n"),
        ("other.txt", "a\nold secret\nc\n"),
        ("none.txt", "x"),
    ] {
        fs::write(agent.path("files").join(name), text).unwrap();
    }
    registry.publish("same.txt", "a\n");
    registry.publish("other.txt", "a\nnew secret\nc\n");
    registry.publish("new.txt", "one\ntwo\n");
    registry.publish("bad.json", "{");
    agent
}

#[test]
fn once_in_shadow_says_what_would_change_and_changes_nothing() {
    let registry = Registry::start();
    let agent = scene(&registry);
    let before = all_below(agent.folder.path());
    let (output, out) = once(&agent);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for words in [
        "would register  orders, port 80, group DEFAULT_GROUP",
        "files/same.txt  from DEFAULT_GROUP/same.txt: same\n",
        "files/other.txt  from DEFAULT_GROUP/other.txt: would change: line 2 (1 out, 1 in); its validator was not run\n",
        "files/new.txt  from DEFAULT_GROUP/new.txt: would change: it is not there, and would get 2 lines\n",
        "files/bad.json  from DEFAULT_GROUP/bad.json: would be rejected: ",
        "files/none.txt  from DEFAULT_GROUP/none.txt: missing: the registry has no such configuration; the file would be removed\n",
        "files/nobody.json  from nobody: would be rejected: held by the guard: 0 instances pass\n",
    ] {
        assert!(out.contains(words), "{words}\n{}", said(&output));
    }
    assert!(!said(&output).contains("secret"), "no content is printed");
    assert_eq!(
        all_below(agent.folder.path()),
        before,
        "nothing was written"
    );
    assert_eq!(
        registry.hosts("orders").unwrap().len(),
        0,
        "nothing was registered"
    );
}

#[test]
fn once_in_shadow_is_0_when_all_is_the_same_and_69_without_a_registry() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    let at = agent.path("a.txt").display().to_string();
    agent.write(
        "conf.d/a.yaml",
        &format!("configs: [{{ data_id: a.txt, path: {at}, mode: \"0644\" }}]\n"),
    );
    agent.write("a.txt", "a");
    registry.publish("a.txt", "a");
    let (output, _) = once(&agent);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    drop(registry);
    let (output, _) = once(&agent);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
}

#[test]
fn run_in_shadow_follows_both_sides_beside_a_real_agent() {
    let registry = Registry::start();
    let mut agent = scene(&registry);
    let log = fs::File::create(agent.path("shadow.log")).unwrap();
    let mut command = agent.command(&["run", "--shadow"]);
    command.stdout(Stdio::piped()).stderr(log);
    let mut process = Process::start(&mut command);
    let says = |what: &str| {
        until(what, LONG, || match agent.read("shadow.log") {
            log if log.contains(what) => Ok(()),
            log => Err(log),
        });
    };
    says("would change: line 2 (1 out, 1 in)");
    registry.publish("other.txt", "a\nold secret\n");
    says("would change: line 3 (1 out, 0 in)");
    // The tool it is to replace writes what it should: that is seen too, though nothing tells it.
    fs::write(agent.path("files/other.txt"), "a\nold secret\n").unwrap();
    until("the same", LONG, || {
        let log = agent.read("shadow.log");
        let last = log
            .lines()
            .rfind(|line| line.contains("other.txt"))
            .unwrap_or_default()
            .to_owned();
        if last.contains("state=\"same\"") || last.contains("state=same") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert!(!agent.path("files/reloaded").exists() && !agent.path("files/validated").exists());
    assert_eq!(registry.hosts("orders").unwrap().len(), 0);
    // It has neither the folder nor the socket of the agent that does the work.
    agent.start();
    registry.until_listed("orders", 1, LONG);
    process.signal(Signal::SIGTERM);
    let status = process.ended(LONG);
    let mut out = String::new();
    std::io::Read::read_to_string(process.0.stdout.as_mut().unwrap(), &mut out).unwrap();
    assert_eq!(status.code(), Some(1), "{out}");
    assert!(
        out.contains("would register  orders") && out.contains("bad.json: would be rejected"),
        "{out}"
    );
    assert!(
        !agent.read("shadow.log").contains("secret"),
        "no content is in the log"
    );
    assert_eq!(
        registry.hosts("orders").unwrap().len(),
        1,
        "its end takes nothing out"
    );
}
