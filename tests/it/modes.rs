//! How files are put in place: over a mount, without room, against hands that edit them; and commands that may only look.

use crate::support::{Agent, LONG, Process, Registry, run_as, said, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

fn config(path: &Path, more: &str) -> String {
    format!(
        "configs:\n  - {{ data_id: app.conf, path: {}{more} }}\n",
        path.display()
    )
}

/// Waits until the configuration is in this state with a reason that has `words`.
fn until_says(agent: &Agent, state: &str, words: &str) -> String {
    until(&format!("it is {state} and says {words:?}"), LONG, || {
        let status = agent.status()?;
        status["configs"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["state"] == state))
            .map(|one| one["reason"].as_str().unwrap_or_default().to_owned())
            .filter(|reason| reason.contains(words))
            .ok_or_else(|| status["configs"].to_string())
    })
}

fn until_content(path: &Path, content: &str) {
    until(
        &format!("{} has its content", path.display()),
        LONG,
        || match fs::read_to_string(path) {
            Ok(text) if text == content => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

/// `words` where `mount`, a line of shell with `$0`, was done before; `None` (said aloud) where nothing can be mounted.
fn mounted(mount: &str, place: &Path, words: &[&str]) -> Option<Command> {
    let flags = if nix::unistd::geteuid().is_root() {
        "-m"
    } else {
        "-Urm"
    };
    let script = format!("{mount} && exec \"$@\"");
    let of = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args([flags, "sh", "-c", &script])
            .arg(place)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    };
    match of(&["true"]).output() {
        Ok(tried) if tried.status.success() => Some(of(words)),
        Ok(tried) => {
            eprintln!("SKIPPED: nothing can be mounted: {}", said(&tried));
            None
        }
        Err(error) => {
            eprintln!("SKIPPED: there is no unshare: {error}");
            None
        }
    }
}

/// An agent that sees what is mounted.
fn agent_within(agent: &Agent, mount: &str, place: &Path) -> Option<Process> {
    let settings = agent.path("outrigger.yaml");
    let words = [OUTRIGGER, "run", "--config", settings.to_str().unwrap()];
    let mut command = mounted(mount, place, &words)?;
    command.stderr(Stdio::null());
    Some(Process::start(&mut command))
}

#[test]
fn a_file_that_is_mounted_by_itself_is_written_over_where_the_descriptor_says_so_and_only_there() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    let (outside, inside) = (agent.path("outside"), agent.path("inside"));
    for path in [&outside, &inside] {
        fs::File::create(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let before = fs::metadata(&outside).unwrap().ino();
    agent.write("conf.d/a.yaml", &config(&inside, ""));
    registry.publish("app.conf", "a long first content\n");
    let mount = format!("mount --bind '{}' \"$0\"", outside.display());
    let Some(_process) = agent_within(&agent, &mount, &inside) else {
        return;
    };
    let why = until_says(&agent, "pending", "publish: in_place");
    assert!(why.contains(inside.to_str().unwrap()), "{why}");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "");
    agent.write("conf.d/a.yaml", &config(&inside, ", publish: in_place"));
    until_content(&outside, "a long first content\n");
    registry.publish("app.conf", "second\n");
    until_content(&outside, "second\n");
    until_says(&agent, "applied", "");
    assert_eq!(fs::metadata(&outside).unwrap().ino(), before);
    assert_eq!(fs::read_to_string(&inside).unwrap(), "", "not mounted here");
}

#[test]
fn a_disk_without_room_for_one_more_file_and_one_that_is_read_only_say_so_lose_nothing_and_heal() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    let disk = agent.path("disk");
    fs::create_dir(&disk).unwrap();
    let target = disk.join("app.conf");
    agent.write("conf.d/a.yaml", &config(&target, ""));
    registry.publish("app.conf", "old\n");
    let mount = "mount -t tmpfs -o size=1m,nr_inodes=8,mode=755 tmpfs \"$0\"";
    let Some(process) = agent_within(&agent, mount, &disk) else {
        return;
    };
    agent.until_state("configs", "app.conf", "applied");
    let seen = PathBuf::from(format!("/proc/{}/root{}", process.0.id(), disk.display()));
    until_content(&seen.join("app.conf"), "old\n");
    let fillers: Vec<PathBuf> = (0..8).map(|n| seen.join(format!("filler{n}"))).collect();
    assert!(
        fillers.iter().any(|path| fs::File::create(path).is_err()),
        "it is full of files"
    );
    registry.publish("app.conf", "new\n");
    until_says(&agent, "pending", "no room for one more file");
    assert_eq!(fs::read_to_string(seen.join("app.conf")).unwrap(), "old\n");
    for filler in fillers {
        _ = fs::remove_file(filler);
    }
    agent.until_state("configs", "app.conf", "applied");
    until_content(&seen.join("app.conf"), "new\n");

    let within = |words: &[&str]| {
        let pid = process.0.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m"]).args(words).output()
    };
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        within(&["mount", "-o", &options, disk.to_str().unwrap()])
    };
    match remount("ro") {
        Ok(done) if done.status.success() => {}
        other => return eprintln!("SKIPPED in part: it cannot be made read-only: {other:?}"),
    }
    registry.publish("app.conf", "newer\n");
    until_says(
        &agent,
        "pending",
        "is read-only; mount a writable one there",
    );
    assert_eq!(fs::read_to_string(seen.join("app.conf")).unwrap(), "new\n");
    assert!(remount("rw").unwrap().status.success());
    agent.until_state("configs", "app.conf", "applied");
    until_content(&seen.join("app.conf"), "newer\n");
}

#[test]
fn a_file_edited_by_hand_stays_so_where_that_is_only_to_be_reported_until_the_source_changes_or_somebody_asks()
 {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let target = agent.path("app.conf");
    agent.write(
        "conf.d/a.yaml",
        &config(
            &target,
            &format!(
                ", on_drift: report, verify: {{ exec: [\"true\"], {} }}",
                run_as()
            ),
        ),
    );
    registry.publish("app.conf", "first\n");
    agent.start();
    agent.until_state("configs", "app.conf", "applied");
    until_content(&target, "first\n");
    // What was put in place is remembered a moment after it is.
    let good = agent.path("state/good");
    until("the good content is kept", LONG, || {
        match fs::read_dir(&good).map(Iterator::count) {
            Ok(1..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    agent.signal(Signal::SIGTERM);
    agent.ended(LONG);
    fs::OpenOptions::new()
        .append(true)
        .open(&target)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"by hand\n"))
        .unwrap();
    agent.start();
    until_says(
        &agent,
        "applied",
        "drifted: somebody else has changed the file",
    );
    assert_eq!(fs::read_to_string(&target).unwrap(), "first\nby hand\n");
    registry.publish("app.conf", "second\n");
    until_content(&target, "second\n");
    until_says(&agent, "applied", "");
}

#[test]
fn a_secret_is_nobody_elses_and_no_message_quotes_it_and_a_backup_is_what_was_there_before() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let (secret, plain) = (agent.path("secret"), agent.path("plain"));
    let script = "if grep -q canary \"$0\"; then cat \"$0\"; exit 1; fi";
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "configs:\n  - {{ data_id: app.conf, path: {}, secret: true, validate: {{ exec: [sh, -c, '{script}', '{{staged}}'], {} }} }}\n  - {{ data_id: plain, path: {}, backup: true, mode: \"0600\" }}\n",
            secret.display(),
            run_as(),
            plain.display()
        ),
    );
    registry.publish("app.conf", "password\n");
    registry.publish("plain", "one\n");
    agent.start();
    until_content(&secret, "password\n");
    until_content(&plain, "one\n");
    assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o777, 0o600);
    assert!(
        !agent.path("plain.bak").exists(),
        "there was nothing before"
    );
    registry.publish("plain", "two\n");
    until_content(&plain, "two\n");
    assert_eq!(
        fs::read_to_string(agent.path("plain.bak")).unwrap(),
        "one\n"
    );
    let mode = fs::metadata(agent.path("plain.bak")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    registry.publish("app.conf", "canary\n");
    let why = until_says(&agent, "rejected", "secret: true");
    assert!(!why.contains("canary"), "{why}");
    let status: Value = agent.status().unwrap();
    assert!(!status.to_string().contains("canary"), "{status}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "password\n");
}

/// Runs words confined; `None` (said aloud) where the kernel cannot.
fn confined(temp: &Path, words: &[&str]) -> Option<Output> {
    let output = Command::new(OUTRIGGER)
        .args(["confine", "--cpu=20"])
        .arg(format!("--temp={}", temp.display()))
        .arg("--")
        .args(words)
        .output()
        .unwrap();
    if said(&output).contains("does not enforce Landlock") {
        eprintln!("SKIPPED: this kernel has no Landlock");
        return None;
    }
    Some(output)
}

#[test]
fn a_confined_command_reads_everything_and_changes_nothing_but_in_its_own_directory() {
    let folder = tempfile::tempdir().unwrap();
    let (temp, outside) = (folder.path().join("temp"), folder.path().join("outside"));
    fs::create_dir(&temp).unwrap();
    fs::File::create(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(&outside).unwrap();
    let script = "cat \"$1\" && echo in > \"$2/in\" && echo null > /dev/null || exit 1
        echo out > \"$1.new\" && exit 2
        echo out >> \"$1\" && exit 3
        chmod 666 \"$1\" && exit 4
        touch -d 2001-01-01 \"$1\" && exit 5
        rm \"$1\" && exit 6
        mkdir \"$1.d\" && exit 7
        ln \"$1\" \"$1.l\" && exit 8
        kill -0 $PPID && exit 9
        exit 0";
    let words = ["sh", "-c", script, "sh"];
    let places = [outside.to_str().unwrap(), temp.to_str().unwrap()];
    let Some(output) = confined(&temp, &[&words[..], &places[..]].concat()) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(fs::read_to_string(temp.join("in")).unwrap(), "in\n");
    let after = fs::metadata(&outside).unwrap();
    assert_eq!(
        (
            before.ino(),
            before.mode(),
            before.ctime_nsec(),
            before.len()
        ),
        (after.ino(), after.mode(), after.ctime_nsec(), after.len())
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    let missing = confined(&temp, &["no-such-program-at-all"]).unwrap();
    assert!(!missing.status.success());
    assert!(
        said(&missing).contains("cannot start no-such-program-at-all"),
        "{}",
        said(&missing)
    );
}

#[test]
fn a_confined_command_speaks_to_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let script = format!("echo canary > /dev/tcp/127.0.0.1/{port}");
    let words = ["bash", "-c", &script];
    if Command::new("bash").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: there is no bash");
    }
    let free = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(free.status.success(), "unconfined it can: {}", said(&free));
    let mut heard = String::new();
    let (mut connection, _) = listener.accept().unwrap();
    connection.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "canary\n");
    let Some(output) = confined(folder.path(), &words) else {
        return;
    };
    assert!(!output.status.success());
    assert!(said(&output).contains("not permitted"), "{}", said(&output));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody came");
}

#[test]
fn nginx_confined_checks_a_configuration_and_makes_no_file_that_a_hostile_one_names() {
    if Command::new("nginx").arg("-v").output().is_err() {
        return eprintln!("SKIPPED: there is no nginx");
    }
    let folder = tempfile::tempdir().unwrap();
    let evil = folder.path().join("evil.log");
    let temp = folder.path().join("temp");
    fs::create_dir(&temp).unwrap();
    let own = temp.display();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let text = |more: &str| {
        format!(
            "user root; pid {own}/pid; {more}\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {own}/b; proxy_temp_path {own}/p; fastcgi_temp_path {own}/f; uwsgi_temp_path {own}/u; scgi_temp_path {own}/s; server {{ listen 127.0.0.1:{port}; }} }}\n"
        )
    };
    let check = |name: &str, text: &str| {
        let path = folder.path().join(name);
        let mut file = fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let path = path.to_str().unwrap();
        confined(&temp, &["nginx", "-e", "stderr", "-t", "-c", path])
    };
    let Some(good) = check("good.conf", &text("error_log stderr;")) else {
        return;
    };
    assert!(good.status.success(), "{}", said(&good));
    let hostile = text(&format!("error_log {};", evil.display()));
    let bad = check("bad.conf", &hostile).unwrap();
    assert!(!bad.status.success(), "{}", said(&bad));
    assert!(!evil.exists());
}

#[test]
fn the_agent_confines_the_validator_that_is_to_be_confined() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let (target, outside) = (agent.path("app.conf"), agent.path("outside"));
    let script = "cp \"$0\" \"$1/copy\" && cmp \"$0\" \"$1/copy\" && test \"$TMPDIR\" = \"$1\" || exit 1; echo x > \"$2\" && exit 2; exit 0";
    let more = format!(
        ", validate: {{ exec: [sh, -c, '{script}', '{{staged}}', '{{temp}}', {}], confine: true, {} }}",
        outside.display(),
        run_as()
    );
    agent.write("conf.d/a.yaml", &config(&target, &more));
    registry.publish("app.conf", "content\n");
    agent.start();
    let state = until("it is decided", LONG, || {
        let status = agent.status()?;
        let one = &status["configs"][0];
        match one["state"].as_str() {
            Some("applied" | "rejected") => Ok(one.clone()),
            _ => Err(one.to_string()),
        }
    });
    if state["reason"].to_string().contains("Landlock") {
        return eprintln!("SKIPPED: this kernel has no Landlock");
    }
    assert_eq!(state["state"], "applied", "{state}");
    until_content(&target, "content\n");
    assert!(!outside.exists());
}

#[test]
fn files_of_one_directory_are_exchanged_at_once_by_the_rename_of_a_link_to_a_version_named_by_its_content()
 {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let folder = agent.path("app");
    fs::create_dir(&folder).unwrap();
    let (log, a, b) = (agent.path("log"), folder.join("a"), folder.join("b"));
    // What an application loads that opens the version once.
    let load = format!(
        "cd {}/..data && echo $(cat a b) >> {}",
        folder.display(),
        log.display()
    );
    let one = |id: &str| {
        format!(
            "  - {{ data_id: {id}, path: {}, publish: directory, validate: {{ format: json }}, reload: {{ exec: [sh, -c, '{load}'], {} }} }}\n",
            folder.join(id).display(),
            run_as()
        )
    };
    agent.write(
        "conf.d/a.yaml",
        &format!("configs:\n{}{}", one("a"), one("b")),
    );
    registry.publish("a", "1");
    registry.publish("b", "1");
    agent.start();
    until_content(&log, "11\n");
    assert_eq!(fs::read_link(&a).unwrap(), Path::new("..data/a"));
    let first = fs::read_link(folder.join("..data")).unwrap();
    assert!(first.to_str().unwrap().starts_with("..v-"), "{first:?}");

    // One that is not valid holds the other.
    registry.publish("b", "not json");
    agent.until_state("configs", "b", "rejected");
    registry.publish("a", "2");
    agent.until_state("configs", "a", "pending");
    assert_eq!(fs::read_link(folder.join("..data")).unwrap(), first);
    registry.publish("b", "2");
    until_content(&log, "11\n22\n");
    assert_eq!(fs::read_to_string(&b).unwrap(), "2");
    let versions = fs::read_dir(&folder)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("..v-")
        })
        .count();
    assert_eq!(versions, 2, "the current one and the one before");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        5,
        "and nothing half-made"
    );
}
