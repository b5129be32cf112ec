//! `outrigger exec` with real applications: what they get, how they end, and what the registry knows meanwhile.

use crate::support::{Agent, App, LONG, Process, Registry, eventually, run_as, stays, until};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// An agent whose `exec` is started with these options and this script of the shell.
fn exec(agent: &Agent, options: &[&str], script: &str) -> Command {
    let mut command = agent.command(&["exec"]);
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(agent.path("agent.log"))
        .unwrap();
    command
        .args(options)
        .args(["--", "/bin/sh", "-c", script])
        .current_dir(agent.folder.path())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

fn no_registry() -> Agent {
    Agent::prepare(&["http://127.0.0.1:1".to_owned()], "shutdown_timeout: 1s\n")
}

fn until_there(agent: &Agent, name: &str) {
    until(&format!("{name} is there"), LONG, || {
        if agent.path(name).exists() {
            Ok(())
        } else {
            Err(agent.read("agent.log"))
        }
    });
}

fn config(data_id: &str, agent: &Agent, more: &str) -> String {
    let at = agent.path("files").display().to_string();
    format!("configs:\n  - {{ data_id: {data_id}, path: {at}/{data_id}, required: true{more} }}\n")
}

fn code(process: &mut Process) -> Option<i32> {
    process.ended(LONG).code()
}

/// A script that does this for ever: the shell hears its signals only between two commands.
fn for_ever(before: &str) -> String {
    format!("{before}; touch up; while :; do sleep 0.02; done")
}

#[test]
fn the_code_of_the_application_is_ours_also_without_a_registry() {
    let agent = no_registry();
    // The registry can confirm nothing, and the code is the application's all the same.
    agent.write(
        "conf.d/a.yaml",
        "services:\n  - { name: a, port: 80, probe: none }\n",
    );
    for (script, expected) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let began = Instant::now();
        let mut process = Process::start(&mut exec(&agent, &[], script));
        assert_eq!(
            code(&mut process),
            Some(expected),
            "{script}: {}",
            agent.read("agent.log")
        );
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn what_cannot_be_started_is_127_or_126_with_one_line() {
    let agent = no_registry();
    agent.write("no-program", "#!/bin/sh\n");
    let dead = agent.path("no-program").display().to_string();
    for (program, expected, words) in [
        (
            "/nowhere/app",
            127,
            "cannot start /nowhere/app: there is no such program",
        ),
        (
            "no-such-app",
            127,
            "cannot start no-such-app: there is no such program",
        ),
        (dead.as_str(), 126, "it may not be executed"),
        ("/", 126, "it may not be executed"),
    ] {
        let mut command = agent.command(&["exec"]);
        command.args(["--", program]);
        let ended = command
            .env("OUTRIGGER_LOG_LEVEL", "error")
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(expected), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn the_application_gets_nothing_of_ours() {
    let agent = no_registry();
    let script = "env > env; grep Sig /proc/self/status > signals; ls -l /proc/self/fd > fds; \
                  cut -d' ' -f 5 /proc/$$/stat > group; echo $$ > pid; exit 0";
    let mut command = exec(&agent, &[], script);
    command
        .env("OUTRIGGER_REGISTRY_AUTH_USERNAME", "nacos")
        .env("OUTRIGGER_REGISTRY_AUTH_PASSWORD", "canary")
        .env("NOTIFY_SOCKET", "/run/canary")
        .env("ORDERS", "mine");
    assert_eq!(
        code(&mut Process::start(&mut command)),
        Some(0),
        "{}",
        agent.read("agent.log")
    );
    let env = agent.read("env");
    assert!(
        env.contains("ORDERS=mine") && env.contains("PATH="),
        "{env}"
    );
    assert!(
        !env.contains("OUTRIGGER") && !env.contains("canary"),
        "{env}"
    );
    // The listing itself has the directory open, and nothing else.
    let fds = agent.read("fds");
    let open = fds
        .lines()
        .filter(|line| line.contains(" -> ") && !line.ends_with("/fd"));
    assert_eq!(open.count(), 3, "{fds}");
    let signals = agent.read("signals");
    let mask = |name: &str| {
        let line = signals
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0, "{signals}");
    assert_eq!(
        mask("SigIgn:") & (1 << 12),
        0,
        "PIPE is not ignored: {signals}"
    );
    assert_eq!(
        agent.read("group").trim(),
        agent.read("pid").trim(),
        "a group of its own"
    );
}

#[test]
fn signals_reach_the_application_once_each() {
    let agent = no_registry();
    let script = for_ever(
        "for s in HUP USR1 USR2 QUIT WINCH ALRM; do trap \"echo $s >> heard\" $s; done; trap 'echo TERM >> heard; exit 4' TERM",
    );
    let mut process = Process::start(&mut exec(&agent, &[], &script));
    until_there(&agent, "up");
    let mut expected = String::new();
    for (signal, name) in [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGWINCH, "WINCH"),
        (Signal::SIGALRM, "ALRM"),
    ] {
        process.signal(signal);
        expected = format!("{expected}{name}\n");
        until(name, LONG, || match agent.read("heard") {
            heard if heard == expected => Ok(()),
            heard => Err(heard),
        });
    }
    process.signal(Signal::SIGTERM);
    assert_eq!(code(&mut process), Some(4));
    assert_eq!(agent.read("heard"), format!("{expected}TERM\n"));
}

#[test]
fn it_leaves_the_registry_before_the_application_is_stopped() {
    let registry = Registry::start();
    let app = App::start();
    let agent = Agent::of(&registry);
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services:\n  - {{ name: orders, port: {}, probe: {{ tcp: {{}}, interval: 50ms }}, drain: {{ delay: 300ms }} }}\n",
            app.port
        ),
    );
    let script = for_ever("trap 'date +%s.%N > termed; sleep 0.1; exit 5' TERM");
    let mut process = Process::start(&mut exec(&agent, &[], &script));
    registry.until_listed("orders", 1, LONG);
    until_there(&agent, "up");
    process.signal(Signal::SIGTERM);
    let mut gone: Option<Instant> = None;
    loop {
        let is_termed = agent.path("termed").exists();
        let listed = registry.hosts("orders").unwrap().len();
        assert!(
            !is_termed || listed == 0,
            "it was told to stop while it was listed"
        );
        if listed == 0 {
            gone.get_or_insert_with(Instant::now);
        }
        if is_termed {
            break;
        }
    }
    let lingered = gone.unwrap().elapsed();
    assert!(
        lingered >= Duration::from_millis(200),
        "drain.delay is waited for: {lingered:?}"
    );
    assert_eq!(code(&mut process), Some(5), "{}", agent.read("agent.log"));
}

#[test]
fn an_application_that_ends_by_itself_is_taken_out() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    agent.write(
        "conf.d/a.yaml",
        "services:\n  - { name: orders, port: 80, probe: none }\n",
    );
    let script = "while ! [ -e end ]; do sleep 0.02; done; exit 6";
    let mut process = Process::start(&mut exec(&agent, &[], script));
    registry.until_listed("orders", 1, LONG);
    agent.write("end", "");
    assert_eq!(code(&mut process), Some(6), "{}", agent.read("agent.log"));
    assert_eq!(registry.hosts("orders").unwrap().len(), 0);
}

#[test]
fn who_does_not_stop_is_killed_with_all_of_its_group() {
    let agent = no_registry();
    let script = for_ever("trap '' TERM; (trap '' TERM; sleep 600) & echo $! > below");
    let mut process = Process::start(&mut exec(&agent, &["--kill-after", "300ms"], &script));
    until_there(&agent, "up");
    let below: i32 = agent.read("below").trim().parse().unwrap();
    process.signal(Signal::SIGTERM);
    assert_eq!(code(&mut process), Some(137), "{}", agent.read("agent.log"));
    eventually("its child is gone too", LONG, || {
        let stat = fs::read_to_string(format!("/proc/{below}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_second_request_does_not_wait_for_the_registry() {
    let agent = Agent::prepare(
        &["http://127.0.0.1:1".to_owned()],
        "shutdown_timeout: 60s\n",
    );
    agent.write(
        "conf.d/a.yaml",
        "services:\n  - { name: a, port: 80, probe: none }\n",
    );
    let script = for_ever("trap 'exit 9' TERM");
    let mut process = Process::start(&mut exec(&agent, &[], &script));
    until_there(&agent, "up");
    process.signal(Signal::SIGTERM);
    until("it leaves", LONG, || match agent.read("agent.log") {
        log if log.contains("leaving: everything") => Ok(()),
        log => Err(log),
    });
    process.signal(Signal::SIGTERM);
    assert_eq!(code(&mut process), Some(9), "{}", agent.read("agent.log"));
}

#[test]
fn the_stop_signal_that_is_written_takes_the_place_of_others() {
    for asked in [Signal::SIGTERM, Signal::SIGQUIT] {
        let agent = no_registry();
        let script = for_ever("trap 'exit 1' TERM; trap 'exit 33' QUIT");
        let mut process = Process::start(&mut exec(&agent, &["--stop-signal", "QUIT"], &script));
        until_there(&agent, "up");
        process.signal(asked);
        assert_eq!(code(&mut process), Some(33), "{asked}");
    }
}

/// The children of a process: of any of its threads.
fn children(of: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let lists = threads
        .flatten()
        .map(|thread| thread.path().join("children"));
    let all: Vec<String> = lists
        .filter_map(|list| fs::read_to_string(list).ok())
        .collect();
    all.iter()
        .flat_map(|list| list.split_whitespace())
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn orphans_of_the_application_are_reaped() {
    let agent = no_registry();
    let script = for_ever(
        "i=0; while [ $i -lt 60 ]; do (setsid sh -c 'sleep 0.05' &) ; (sleep 0.05 &); i=$((i+1)); done; touch forked",
    );
    let process = Process::start(&mut exec(&agent, &[], &script));
    until_there(&agent, "forked");
    let pid = process.0.id();
    // The shell itself is the only one that stays.
    let alone = || match children(pid).len() {
        1 => Ok(()),
        many => Err(format!("{many} children")),
    };
    until("no zombie is left", LONG, alone);
    assert!(agent.path("up").exists(), "the application has not ended");
}

#[test]
fn as_process_1_of_a_container_it_ends_with_the_application() {
    let can = Command::new("unshare")
        .args(["-pf", "--mount-proc", "true"])
        .output();
    if !can.is_ok_and(|ran| ran.status.success()) {
        eprintln!("SKIPPED: no pid namespace can be made here");
        return;
    }
    let agent = no_registry();
    let own = exec(
        &agent,
        &[],
        &for_ever(
            "trap 'exit 21' TERM; echo $PPID > parent; (setsid sh -c 'sleep 0.05; touch orphaned' &)",
        ),
    );
    let mut command = Command::new("unshare");
    command
        .args(["-pf", "--mount-proc", "--kill-child=TERM"])
        .arg(own.get_program())
        .args(own.get_args())
        .current_dir(agent.folder.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(agent.path("agent.log")).unwrap());
    let mut process = Process::start(&mut command);
    until_there(&agent, "up");
    until_there(&agent, "orphaned");
    assert_eq!(agent.read("parent").trim(), "1");
    // unshare waits for process 1; told from outside, that gets the signal as a runtime of containers sends it.
    let unshare = process.0.id();
    let inner = children(unshare)[0];
    until("its orphan is reaped", LONG, || {
        match children(inner).len() {
            1 => Ok(()),
            many => Err(many.to_string()),
        }
    });
    let inner = i32::try_from(inner).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(inner), Signal::SIGTERM).unwrap();
    assert_eq!(code(&mut process), Some(21), "{}", agent.read("agent.log"));
}

#[test]
fn it_starts_when_required_files_are_in_place_and_not_before() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    fs::create_dir(agent.path("files")).unwrap();
    agent.write("conf.d/a.yaml", &config("a.txt", &agent, ""));
    let script = "cp files/a.txt seen; exit 0";
    let mut process = Process::start(&mut exec(&agent, &[], script));
    until("it waits", LONG, || match agent.read("agent.log") {
        log if log.contains("waits for its files") && log.contains("missing") => Ok(()),
        log => Err(log),
    });
    stays("it has not started", Duration::from_millis(300), || {
        if agent.path("seen").exists() {
            Err("it has".to_owned())
        } else {
            Ok(())
        }
    });
    registry.publish("a.txt", "here");
    assert_eq!(code(&mut process), Some(0), "{}", agent.read("agent.log"));
    assert_eq!(agent.read("seen"), "here");
    // The next start needs no registry: the snapshot is enough, and the file is there.
    drop(registry);
    fs::remove_file(agent.path("files/a.txt")).unwrap();
    fs::remove_file(agent.path("seen")).unwrap();
    let mut process = Process::start(&mut exec(&agent, &[], script));
    assert_eq!(code(&mut process), Some(0), "{}", agent.read("agent.log"));
    assert_eq!(agent.read("seen"), "here");
}

#[test]
fn without_its_files_it_gives_up_with_69_and_says_which() {
    let agent = no_registry();
    fs::create_dir(agent.path("files")).unwrap();
    agent.write("conf.d/a.yaml", &config("a.txt", &agent, ""));
    let mut command = exec(&agent, &["--wait", "200ms"], "touch started");
    assert_eq!(code(&mut Process::start(&mut command)), Some(69));
    let log = agent.read("agent.log");
    assert!(
        log.contains("the application is not started: ") && log.contains("files/a.txt is"),
        "{log}"
    );
    assert!(!agent.path("started").exists());
}

#[test]
fn told_to_stop_while_it_waits_it_ends_as_by_that_signal() {
    let agent = no_registry();
    fs::create_dir(agent.path("files")).unwrap();
    agent.write("conf.d/a.yaml", &config("a.txt", &agent, ""));
    let mut process = Process::start(&mut exec(&agent, &[], "touch started"));
    until("it waits", LONG, || match agent.read("agent.log") {
        log if log.contains("waits for its files") => Ok(()),
        log => Err(log),
    });
    process.signal(Signal::SIGTERM);
    assert_eq!(code(&mut process), Some(143), "{}", agent.read("agent.log"));
    assert!(!agent.path("started").exists());
}

#[test]
fn variables_of_a_configuration_reach_the_application_and_a_change_restarts_it_unregistered() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    fs::create_dir(agent.path("files")).unwrap();
    agent.write(
        "conf.d/a.yaml",
        &format!(
            "services:\n  - {{ name: orders, port: 80, probe: none }}\n{}",
            config("orders.env", &agent, "")
        ),
    );
    registry.publish("orders.env", "COLOUR=blue\nTEXT='two words'\n");
    let script = for_ever(
        "trap 'touch stopped; while [ -e stay ]; do sleep 0.02; done; exit 0' TERM; echo \"$COLOUR $TEXT\" >> seen",
    );
    let mut process = Process::start(&mut exec(&agent, &["--env-from", "orders.env"], &script));
    let seen = |expected: &str| {
        until(expected, LONG, || match agent.read("seen") {
            seen if seen == expected => Ok(()),
            seen => Err(format!("{seen}\n{}", agent.read("agent.log"))),
        });
    };
    seen("blue two words\n");
    registry.until_listed("orders", 1, LONG);
    // What may not be set is not used, and nothing restarts.
    registry.publish("orders.env", "COLOUR=red\nLD_PRELOAD=/tmp/evil.so\n");
    until("it is refused", LONG, || match agent.read("agent.log") {
        log if log.contains("line 2: LD_PRELOAD decides which code runs") => Ok(()),
        log => Err(log),
    });
    agent.write("stay", "");
    registry.publish("orders.env", "COLOUR=green\nTEXT=one\n");
    until_there(&agent, "stopped");
    assert_eq!(
        registry.hosts("orders").unwrap().len(),
        0,
        "not listed while it restarts"
    );
    fs::remove_file(agent.path("stay")).unwrap();
    seen("blue two words\ngreen one\n");
    registry.until_listed("orders", 1, LONG);
    assert!(
        !agent.read("agent.log").contains("evil"),
        "values are in no log"
    );
    process.signal(Signal::SIGTERM);
    assert_eq!(code(&mut process), Some(0));
}

#[test]
fn a_change_is_one_signal_for_a_burst_and_none_where_the_target_has_a_reload() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    fs::create_dir(agent.path("files")).unwrap();
    let at = agent.path("").display().to_string();
    let own = format!(
        "{}  - {{ data_id: own.txt, path: {at}files/own.txt, reload: {{ exec: [touch, {at}own], {} }} }}\n",
        config("a.txt", &agent, ""),
        run_as()
    );
    agent.write("conf.d/a.yaml", &own);
    registry.publish("a.txt", "1");
    let script = for_ever("trap 'echo HUP >> heard' HUP; trap 'exit 0' TERM");
    let mut process = Process::start(&mut exec(&agent, &["--on-change", "signal:HUP"], &script));
    until_there(&agent, "up");
    registry.publish("own.txt", "1");
    until_there(&agent, "own");
    for content in ["2", "3", "4"] {
        registry.publish("a.txt", content);
        until("it is in place", LONG, || match agent.read("files/a.txt") {
            found if found == content => Ok(()),
            found => Err(found),
        });
    }
    until_there(&agent, "heard");
    stays("one signal", Duration::from_secs(1), || {
        match agent.read("heard") {
            heard if heard == "HUP\n" => Ok(()),
            heard => Err(heard),
        }
    });
    process.signal(Signal::SIGTERM);
    assert_eq!(code(&mut process), Some(0));
}

#[test]
fn at_a_terminal_the_application_is_in_front_and_a_key_reaches_it_once() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no script(1) here, which makes terminals");
        return;
    }
    let agent = no_registry();
    let script = "trap 'echo INT >> heard' INT; trap 'exit 11' TERM; touch up; while [ -z \"$line\" ]; do read line; done; echo $line > line; read end; exit 12";
    agent.write("app.sh", script);
    let own = exec(&agent, &[], "");
    let words = format!(
        "{} exec --config {} -- /bin/sh {}",
        own.get_program().to_string_lossy(),
        agent.path("outrigger.yaml").display(),
        agent.path("app.sh").display()
    );
    let mut command = Command::new("script");
    command
        .args(["-qefc", &words, "/dev/null"])
        .current_dir(agent.folder.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = Process::start(&mut command);
    let mut keys = process.0.stdin.take().unwrap();
    until_there(&agent, "up");
    keys.write_all(b"\x03").unwrap();
    until_there(&agent, "heard");
    keys.write_all(b"hello\n").unwrap();
    until_there(&agent, "line");
    assert_eq!(agent.read("heard"), "INT\n");
    assert_eq!(agent.read("line"), "hello\n");
    keys.write_all(b"end\n").unwrap();
    let status = process.ended(LONG);
    assert_eq!((status.code(), status.signal()), (Some(12), None));
}
