//! What the agent's hands may do: whose rights files are written with, what commands are given, what others see of us.

use crate::support::{Agent, LONG, Process, Registry, outrigger, run_as, said, stays, until};
use nix::sys::signal::Signal;
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Users of this host that run nothing.
const APP: u32 = 54_321;
const CHECKER: u32 = 54_322;

fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {what}");
    }
    root
}

/// A descriptor with one configuration called `conf`.
fn config(path: &Path, more: &str) -> String {
    format!(
        "configs:\n  - data_id: conf\n    path: {}\n{more}",
        path.display()
    )
}

fn log(agent: &Agent) -> String {
    agent.read("agent.log")
}

fn until_logged(agent: &Agent, words: &[&str]) -> String {
    until(&format!("the log says {words:?}"), LONG, || {
        let log = log(agent);
        log.lines()
            .find(|line| words.iter().all(|word| line.contains(word)))
            .map(str::to_owned)
            .ok_or(log)
    })
}

#[test]
fn a_root_agent_keeps_the_files_of_an_application_with_its_rights_and_validates_as_a_third() {
    if !is_root("only root acts as somebody else") {
        return;
    }
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    fs::set_permissions(agent.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let app = agent.path("app");
    fs::create_dir(&app).unwrap();
    chown(&app, Some(APP), Some(APP)).unwrap();
    let at = agent.folder.path().display();
    fs::create_dir(agent.path("reports")).unwrap();
    fs::set_permissions(agent.path("reports"), fs::Permissions::from_mode(0o1777)).unwrap();
    // What the validator is: it can read what is staged, and not write it.
    let validator =
        format!("id -u > {at}/reports/validator; cat $0 > {at}/reports/saw; ! echo x >> $0");
    let more = format!(
        "    mode: \"0600\"\n    validate: {{ exec: [sh, -c, \"{validator}\", \"{{staged}}\"], run_as: \"{CHECKER}\" }}\n    reload: {{ exec: [sh, -c, \"id -u > {at}/reports/reload\"], run_as: \"{APP}\" }}\n"
    );
    let target = app.join("conf");
    agent.write("conf.d/app.yaml", &config(&target, &more));
    registry.publish("conf", "content\n");
    agent.start();
    agent.until_state("configs", "conf", "applied");
    let found = fs::metadata(&target).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o7777),
        (APP, APP, 0o600)
    );
    assert_eq!(fs::read_to_string(&target).unwrap(), "content\n");
    assert_eq!(agent.read("reports/validator"), format!("{CHECKER}\n"));
    assert_eq!(agent.read("reports/saw"), "content\n");
    assert_eq!(agent.read("reports/reload"), format!("{APP}\n"));

    // What the application may not change, root does not change for it.
    fs::set_permissions(&app, fs::Permissions::from_mode(0o555)).unwrap();
    registry.publish("conf", "new\n");
    until("the rights are missing", LONG, || {
        let status = agent.status()?;
        let reason = status["configs"][0]["reason"].as_str().unwrap_or_default();
        if reason.contains("not permitted") {
            Ok(())
        } else {
            Err(status["configs"].to_string())
        }
    });
    assert_eq!(fs::read_to_string(&target).unwrap(), "content\n");
    fs::set_permissions(&app, fs::Permissions::from_mode(0o755)).unwrap();
    until("it is written", LONG, || {
        match fs::read_to_string(&target).unwrap().as_str() {
            "new\n" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}

#[test]
fn a_link_that_somebody_else_could_have_made_leads_no_write_anywhere() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    // As `/tmp` is: everybody may make links, nobody may exchange what is another's.
    let shared = agent.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir(agent.path("elsewhere")).unwrap();
    symlink(agent.path("elsewhere"), shared.join("app")).unwrap();
    let target = shared.join("app/conf");
    agent.write("conf.d/app.yaml", &config(&target, ""));
    registry.publish("conf", "content\n");
    agent.start();
    until("the link is named", LONG, || {
        let status = agent.status()?;
        let reason = status["configs"][0]["reason"].as_str().unwrap_or_default();
        let words = format!("{}: a link is on the way", shared.join("app").display());
        if reason.contains(&words) {
            Ok(())
        } else {
            Err(status["configs"].to_string())
        }
    });
    assert_eq!(fs::read_dir(agent.path("elsewhere")).unwrap().count(), 0);
    fs::remove_file(shared.join("app")).unwrap();
    fs::create_dir(shared.join("app")).unwrap();
    agent.until_state("configs", "conf", "applied");
    assert_eq!(fs::read_to_string(&target).unwrap(), "content\n");
}

#[test]
fn a_staged_file_that_is_exchanged_or_rewritten_while_it_is_validated_is_not_published() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let at = agent.folder.path().display();
    // Says yes to everything, and puts something else in the place of what it was asked about.
    agent.write(
        "validator.sh",
        "grep -q exchange \"$1\" && rm \"$1\" && echo evil > \"$1\"\ngrep -q rewrite \"$1\" && echo evil > \"$1\"\ntrue\n",
    );
    let more = format!(
        "    validate: {{ exec: [sh, {at}/validator.sh, \"{{staged}}\"], {0} }}\n    reload: {{ exec: [sh, -c, \"echo x >> {at}/reloads\"], {0} }}\n",
        run_as()
    );
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), &more));
    registry.publish("conf", "good\n");
    agent.start();
    agent.until_state("configs", "conf", "applied");
    for bad in ["exchange me\n", "rewrite me\n"] {
        registry.publish("conf", bad);
        until(&format!("{bad:?} is noticed"), LONG, || {
            let status = agent.status()?;
            let one = &status["configs"][0];
            let reason = one["reason"].as_str().unwrap_or_default();
            if one["state"] == "pending" && reason.contains("changed or exchanged by somebody") {
                Ok(())
            } else {
                Err(status["configs"].to_string())
            }
        });
        assert_eq!(agent.read("conf"), "good\n");
        assert_eq!(agent.read("reloads"), "x\n", "nobody was told");
        registry.publish("conf", "good\n");
        agent.until_state("configs", "conf", "applied");
    }
    registry.publish("conf", "better\n");
    until("the next good one arrives", LONG, || {
        match agent.read("conf").as_str() {
            "better\n" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}

#[test]
fn a_command_sees_no_secret_no_descriptor_above_two_and_no_byte_of_an_answer() {
    let registry = Registry::start();
    let agent = Agent::of(&registry)
        .env("OUTRIGGER_SHUTDOWN_TIMEOUT", "9s")
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("WATCHDOG_USEC", "60000000")
        .env("LISTEN_FDS", "1")
        .env("CREDENTIALS_DIRECTORY", "/nowhere")
        .env("LD_PRELOAD_CANARY", "canary");
    let at = agent.folder.path().display();
    // `ls` takes the place of the shell, so the directory that it opens itself comes right after what it was given.
    let report = |name: &str| {
        format!(
            "tr '\\\\0' '\\\\n' < /proc/$$/environ > {at}/{name}.env; tr '\\\\0' ' ' < /proc/$$/cmdline > {at}/{name}.argv; exec ls /proc/self/fd > {at}/{name}.fd"
        )
    };
    let more = format!(
        "    validate: {{ exec: [sh, -c, \"{}\", \"{{staged}}\"], {} }}\n    reload: {{ exec: [sh, -c, \"{}\"], {} }}\n",
        report("validate"),
        run_as(),
        report("reload"),
        run_as()
    );
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), &more));
    registry.publish("conf", "marker-of-an-answer: $(marker-of-an-answer)\n");
    // Whoever starts the agent has files open that are not marked to be closed.
    let mut command = agent.command(&["run"]);
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "exec 7</etc/passwd 9>/dev/null; exec \"$@\"",
            "sh",
            command.get_program().to_str().unwrap(),
        ])
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.stdin(Stdio::null());
    let process = Process::start(&mut shell);
    agent.until_state("configs", "conf", "applied");
    for name in ["validate", "reload"] {
        let env = agent.read(&format!("{name}.env"));
        let mut names: Vec<&str> = env
            .lines()
            .filter_map(|line| line.split('=').next())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "LANG", "PATH"], "{name}");
        let open = agent.read(&format!("{name}.fd"));
        assert_eq!(
            open.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"],
            "{name}"
        );
        let argv = agent.read(&format!("{name}.argv"));
        assert!(argv.starts_with("sh -c "), "{argv}");
        assert!(!argv.contains("marker"), "{argv}");
        assert!(!env.contains("canary") && !env.contains("marker"), "{env}");
    }
    // The agent itself keeps none of them open either, once the settings are read.
    let own = fs::read_link(format!("/proc/{}/fd/7", process.0.id()));
    assert!(own.is_err() || own.unwrap() != Path::new("/etc/passwd"));
}

#[test]
fn a_command_has_the_umask_limits_and_privileges_we_were_started_with() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    let at = agent.folder.path().display();
    // Of signals the lower 28: among the others are two that belong to the C library alone.
    let what = "umask; ulimit -n; ulimit -c; grep -E '^(Sig(Blk|Ign)|NoNewPrivs|Seccomp|Cap(Eff|Bnd)):' /proc/self/status | sed 's/^Sig.*\\(.......\\)$/\\1/'";
    agent.write("report.sh", &format!("({what}) > {at}/report\n"));
    let more = format!(
        "    mode: \"0644\"\n    reload: {{ exec: [sh, {at}/report.sh], {} }}\n",
        run_as()
    );
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), &more));
    registry.publish("conf", "content\n");
    let limits = "umask 077; ulimit -n 700; ulimit -S -c 0; ulimit -H -c 0; exec \"$@\"";
    let command = agent.command(&["run"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", limits, "sh", command.get_program().to_str().unwrap()])
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _process = Process::start(&mut shell);
    agent.until_state("configs", "conf", "applied");
    let direct = Command::new("sh")
        .args(["-c", limits, "sh", "sh", "-c", what])
        .output()
        .unwrap();
    assert!(direct.status.success(), "{}", said(&direct));
    assert_eq!(
        agent.read("report"),
        String::from_utf8(direct.stdout).unwrap()
    );
    // And the umask does not narrow what a descriptor says.
    let mode = fs::metadata(agent.path("conf")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn a_process_of_the_same_user_can_read_neither_our_environment_nor_our_root() {
    // Root may read everything; so both are somebody else.
    let user = |command: &mut Command| {
        if nix::unistd::geteuid().is_root() {
            command.uid(APP).gid(APP);
        }
    };
    let mut dev = outrigger();
    dev.args(["dev", "--listen", "127.0.0.1:0"])
        .env("PASSWORD", "canary")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    user(&mut dev);
    let Ok(child) = dev.spawn() else {
        return eprintln!("SKIPPED: another user cannot reach the program here");
    };
    let ours = Process(child);
    let mut sleep = Command::new("sleep");
    sleep.arg("600").env("PASSWORD", "canary");
    user(&mut sleep);
    let theirs = Process::start(&mut sleep);
    let reads = |pid: u32| {
        let script = format!(
            "tr '\\0' '\\n' < /proc/{pid}/environ | grep -q canary && echo environ; ls /proc/{pid}/root/ > /dev/null && echo root; ls /proc/{pid}/fd/ > /dev/null && echo fd"
        );
        let mut sh = Command::new("sh");
        sh.args(["-c", &script]);
        user(&mut sh);
        let output = sh.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    until("such a process can read others", LONG, || {
        match reads(theirs.0.id()).as_str() {
            "environ\nroot\nfd\n" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    until("ours is closed", LONG, || {
        match reads(ours.0.id()).as_str() {
            "" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    // It is alive all the while: what is gone cannot be read either.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(ours.0.id()).unwrap());
    nix::sys::signal::kill(pid, None).unwrap();
}

#[test]
fn run_refuses_to_be_root_unless_told_and_everything_else_does_not_ask() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry).env("OUTRIGGER_ALLOW_ROOT", "false");
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), ""));
    registry.publish("conf", "content\n");
    for words in [&["check"][..], &["once"]] {
        let done = agent.command(words).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
    }
    assert_eq!(agent.read("conf"), "content\n");
    if !is_root("to anybody else it does not matter") {
        agent.start();
        agent.until_state("configs", "conf", "applied");
        return;
    }
    let refused = agent.command(&["run"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(
        complaint.contains("runs as root, which nothing it does needs")
            && complaint.contains("allow_root: true"),
        "{complaint}"
    );
    let mut told = Agent::of(&registry).env("OUTRIGGER_ALLOW_ROOT", "true");
    told.write("conf.d/app.yaml", &config(&told.path("conf"), ""));
    told.start();
    told.until_state("configs", "conf", "applied");
}

#[test]
fn a_second_agent_or_a_single_run_in_the_same_state_dir_is_78_and_says_who_has_it() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), ""));
    registry.publish("conf", "content\n");
    agent.start();
    agent.until_state("configs", "conf", "applied");
    let holder = agent.process.as_ref().unwrap().0.id();
    for words in [&["run"][..], &["once"]] {
        let mut second = agent.command(words);
        let second = second
            .env("OUTRIGGER_ADMIN_SOCKET", agent.path("other.sock"))
            .output()
            .unwrap();
        assert_eq!(second.status.code(), Some(78), "{}", said(&second));
        let complaint = String::from_utf8_lossy(&second.stderr);
        let words = format!("another agent uses it (process {holder})");
        assert!(complaint.contains(&words), "{complaint}");
    }
    agent.signal(Signal::SIGKILL);
    agent.ended(LONG);
    agent.start();
    agent.until_state("configs", "conf", "applied");
}

#[test]
fn a_reload_that_fails_leaves_the_new_content_says_why_and_is_tried_until_it_succeeds() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let at = agent.folder.path().display();
    let more = format!(
        "    reload: {{ exec: [sh, -c, \"echo x >> {at}/tries; echo no such upstream >&2; test -e {at}/allowed\"], {} }}\n",
        run_as()
    );
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), &more));
    registry.publish("conf", "content\n");
    agent.start();
    until("the failure is told", LONG, || {
        let status = agent.status()?;
        let one = &status["configs"][0];
        let reason = one["reason"].as_str().unwrap_or_default();
        if one["state"] == "pending" && reason.contains("exit status 1: no such upstream") {
            Ok(())
        } else {
            Err(status["configs"].to_string())
        }
    });
    assert_eq!(agent.read("conf"), "content\n");
    until("it is tried again", LONG, || {
        match agent.read("tries").lines().count() {
            2.. => Ok(()),
            tries => Err(tries.to_string()),
        }
    });
    fs::File::create(agent.path("allowed")).unwrap();
    agent.until_state("configs", "conf", "applied");
}

fn lists_children() -> bool {
    let lists = Path::new("/proc/thread-self/children").exists();
    if !lists {
        eprintln!("SKIPPED: this kernel does not list the children of a process");
    }
    lists
}

#[test]
fn what_a_reload_leaves_behind_is_killed_and_what_has_left_its_group_is_told_and_buried() {
    if !lists_children() {
        return;
    }
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let at = agent.folder.path().display();
    // One child stays in the group; another makes a session of its own and loses its parent, as a daemon does.
    let more = format!(
        "    reload: {{ exec: [sh, -c, \"sleep 1000 & echo $! > {at}/child; setsid sh -c 'sleep 1001 > /dev/null 2>&1 & echo $! > {at}/daemon'; test -s {at}/daemon\"], {} }}\n",
        run_as()
    );
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), &more));
    registry.publish("conf", "content\n");
    agent.start();
    agent.until_state("configs", "conf", "applied");
    let pid = |name: &str| agent.read(name).trim().parse::<i32>().unwrap();
    let (child, daemon) = (pid("child"), pid("daemon"));
    let state = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.chars().next()
    };
    until("the child is gone", LONG, || match state(child) {
        None | Some('Z') => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let line = until_logged(
        &agent,
        &["left a process that goes on by itself", &daemon.to_string()],
    );
    assert!(line.contains("sleep"), "{line}");
    stays(
        "the daemon runs",
        Duration::from_millis(300),
        || match state(daemon) {
            None | Some('Z') => Err("it is gone".to_owned()),
            _ => Ok(()),
        },
    );
    // Dead, it is ours to bury, when the next command has ended; so is the child of the first.
    let gone = nix::unistd::Pid::from_raw(daemon);
    nix::sys::signal::kill(gone, Signal::SIGKILL).unwrap();
    until("it is a zombie of ours", LONG, || match state(daemon) {
        Some('Z') => Ok(()),
        other => Err(format!("{other:?}")),
    });
    registry.publish("conf", "new content\n");
    until("nothing of the first is left", LONG, || {
        match (state(child), state(daemon)) {
            (None, None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let second = until("the second daemon is there", LONG, || {
        match agent.read("daemon").trim().parse::<i32>() {
            Ok(second) if second != daemon => Ok(second),
            other => Err(format!("{other:?}")),
        }
    });
    until_logged(&agent, &["goes on by itself", &second.to_string()]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second), Signal::SIGKILL).unwrap();
}

#[test]
fn a_process_that_left_the_group_of_a_reload_that_was_killed_is_told() {
    if !lists_children() {
        return;
    }
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let at = agent.folder.path().display();
    // It is alive as long as there is something to clear away: its file.
    let more = format!(
        "    reload: {{ exec: [sh, -c, \"setsid sh -c 'touch {at}/alive; while test -e {at}/alive; do sleep 0.1; done' & sleep 1000\"], timeout: 300ms, {} }}\n",
        run_as()
    );
    agent.write("conf.d/app.yaml", &config(&agent.path("conf"), &more));
    registry.publish("conf", "content\n");
    agent.start();
    until_logged(&agent, &["a process that left its group goes on"]);
    agent.signal(Signal::SIGTERM);
    agent.ended(LONG);
    fs::remove_file(agent.path("alive")).unwrap();
}
