//! Configurations as files under bad circumstances: kills, full disks, things in the way, commands that misbehave.

use crate::support::{Agent, LONG, Process, Registry, eventually, form, http, run_as, said, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// One entry of `configs`; `more` are further lines of it, with their indent.
fn entry(data_id: &str, path: &Path, more: &str) -> String {
    format!(
        "  - data_id: {data_id}\n    path: {}\n{more}",
        path.display()
    )
}

fn configs(entries: &[String]) -> String {
    format!("configs:\n{}", entries.concat())
}

fn until_content(path: &Path, content: &str) {
    let what = format!("{} has its content", path.display());
    until(&what, LONG, || match fs::read_to_string(path) {
        Ok(text) if text == content => Ok(()),
        Ok(text) => Err(text.chars().take(200).collect()),
        Err(error) => Err(error.to_string()),
    });
}

/// Waits until the configuration is pending with a reason that has all of `words`; answers the reason.
fn until_pending(agent: &Agent, data_id: &str, words: &[&str]) -> String {
    let what = format!("{data_id} is pending and says {words:?}");
    until(&what, LONG, || {
        let status = agent.status()?;
        let of_it = |one: &&Value| one["data_id"] == data_id && one["state"] == "pending";
        status["configs"]
            .as_array()
            .and_then(|all| all.iter().find(of_it))
            .and_then(|one| one["reason"].as_str())
            .filter(|reason| words.iter().all(|word| reason.contains(word)))
            .map(str::to_owned)
            .ok_or_else(|| status["configs"].to_string())
    })
}

fn staged_files(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(".outrigger-"))
        .collect()
}

fn runs(pid: i32) -> bool {
    // A zombie whose new parent does not care for it runs no more.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

/// Version `number`: lines that say so, so many that a torn content cannot look whole.
fn version(number: usize) -> String {
    format!("version {number}\n").repeat(2000 + number)
}

/// The version a content is; an error when it is none.
fn version_of(text: &str) -> Result<usize, String> {
    let first = text.lines().next().unwrap_or_default();
    let number = first
        .strip_prefix("version ")
        .and_then(|number| number.parse::<usize>().ok());
    match number {
        Some(number) if text == version(number) => Ok(number),
        _ => Err(format!("{} bytes that begin with {first:?}", text.len())),
    }
}

#[test]
fn a_reader_sees_whole_versions_only_whenever_the_agent_is_killed() {
    const VERSIONS: usize = 200;
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    fs::create_dir(agent.path("app")).unwrap();
    let target = agent.path("app/target");
    let descriptor = configs(&[entry("target", &target, "")]);
    agent.write("conf.d/target.yaml", &descriptor);
    registry.publish("target", &version(0));
    agent.start();
    agent.until_state("configs", "target", "applied");

    let (stop, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let reader = {
        let (stop, reads, target) = (Arc::clone(&stop), Arc::clone(&reads), target.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let seen = fs::read_to_string(&target)
                    .map_err(|error| error.to_string())
                    .and_then(|text| version_of(&text));
                if let Err(torn) = seen {
                    return Some(torn);
                }
                reads.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(200));
            }
            None
        })
    };
    // Moments of death that differ from run to run would make a failure hard to repeat: these are as good as random.
    let mut chance: u64 = 0x9e37_79b9;
    for number in 1..=VERSIONS {
        registry.publish("target", &version(number));
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        if number % 8 == 0 {
            // Around the quiet moment after a change, when it is written: no condition to wait for, but a moment.
            thread::sleep(Duration::from_micros((chance >> 33) % 90_000));
            agent.signal(Signal::SIGKILL);
            agent.ended(LONG);
            version_of(&agent.read("app/target")).unwrap();
            agent.start();
        }
    }
    until("the last version is in place", LONG, || {
        match version_of(&agent.read("app/target"))? {
            VERSIONS => Ok(()),
            other => Err(other.to_string()),
        }
    });
    stop.store(true, Ordering::SeqCst);
    assert_eq!(reader.join().unwrap(), None, "a reader saw something torn");
    assert!(reads.load(Ordering::SeqCst) > 100, "the reader read");

    // What a death in the middle of a write leaves is swept at the next start; one is there for certain.
    agent.signal(Signal::SIGKILL);
    agent.ended(LONG);
    fs::File::create(agent.path("app/.target.outrigger-0123456789abcdef0123456789abcdef")).unwrap();
    fs::File::create(agent.path("app/.other.outrigger-0123456789abcdef0123456789abcdef")).unwrap();
    agent.start();
    agent.until_state("configs", "target", "applied");
    assert_eq!(
        staged_files(&agent.path("app")),
        [".other.outrigger-0123456789abcdef0123456789abcdef"],
        "its own leftovers are gone, and nothing else"
    );
}

#[test]
fn a_target_that_was_deleted_or_edited_by_hand_is_right_again_after_a_start_and_after_news() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let paths: Vec<PathBuf> = ["deleted", "edited", "linked"]
        .iter()
        .map(|name| agent.path(name))
        .collect();
    let entries: Vec<String> = paths.iter().map(|path| entry("shared", path, "")).collect();
    agent.write("conf.d/all.yaml", &configs(&entries));
    registry.publish("shared", "one\n");
    agent.start();
    let spoil = || {
        fs::remove_file(&paths[0]).unwrap();
        let mut edited = fs::File::create(&paths[1]).unwrap();
        edited.write_all(b"by hand\n").unwrap();
        fs::remove_file(&paths[2]).unwrap();
        std::os::unix::fs::symlink("elsewhere", &paths[2]).unwrap();
    };
    let until_right = |content: &str| {
        for path in &paths {
            until_content(path, content);
            assert!(fs::symlink_metadata(path).unwrap().is_file());
        }
    };
    until_right("one\n");
    spoil();
    registry.publish("shared", "two\n");
    until_right("two\n");
    agent.signal(Signal::SIGTERM);
    agent.ended(LONG);
    spoil();
    agent.start();
    until_right("two\n");
    assert!(!agent.path("elsewhere").exists(), "a link is not followed");
}

#[test]
fn what_is_in_the_way_of_a_target_is_named_holds_up_no_other_and_heals() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let folder = agent.folder.path().to_owned();
    let at = |name: &str| folder.join(name);
    fs::create_dir(at("is-a-directory")).unwrap();
    fs::create_dir(at("locked")).unwrap();
    fs::set_permissions(at("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    if nix::unistd::geteuid().is_root() {
        // Nothing of its own is unwritable to root; in a directory of somebody else it has that one's rights.
        std::os::unix::fs::chown(at("locked"), Some(54_321), None).unwrap();
    }
    let all = [
        ("blocked", at("is-a-directory"), "is a directory"),
        ("homeless", at("none/file"), "no such directory"),
        ("locked", at("locked/file"), "not permitted"),
    ];
    let mut entries: Vec<String> = all
        .iter()
        .map(|(data_id, path, _)| entry(data_id, path, ""))
        .collect();
    entries.push(entry("well", &at("well"), ""));
    agent.write("conf.d/all.yaml", &configs(&entries));
    for (data_id, ..) in &all {
        registry.publish(data_id, "content\n");
    }
    registry.publish("well", "content\n");
    agent.start();
    agent.until_state("configs", "well", "applied");
    for (data_id, path, words) in &all {
        let place = if *data_id == "homeless" {
            at("none")
        } else {
            path.clone()
        };
        until_pending(&agent, data_id, &[words, &place.display().to_string()]);
    }
    // The others go on meanwhile.
    registry.publish("well", "new content\n");
    until_content(&at("well"), "new content\n");

    fs::remove_dir(at("is-a-directory")).unwrap();
    fs::create_dir(at("none")).unwrap();
    fs::set_permissions(at("locked"), fs::Permissions::from_mode(0o755)).unwrap();
    for (data_id, path, _) in &all {
        agent.until_state("configs", data_id, "applied");
        until_content(path, "content\n");
    }
}

#[test]
fn what_gets_in_the_way_of_a_file_that_was_in_place_is_named_and_heals() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    fs::create_dir(agent.path("app")).unwrap();
    let (homeless, blocked) = (agent.path("app/homeless"), agent.path("blocked"));
    let well = agent.path("well");
    agent.write(
        "conf.d/all.yaml",
        &configs(&[
            entry("homeless", &homeless, ""),
            entry("blocked", &blocked, ""),
            entry("well", &well, ""),
        ]),
    );
    let names = ["homeless", "blocked", "well"];
    for name in names {
        registry.publish(name, "old\n");
    }
    agent.start();
    for name in names {
        agent.until_state("configs", name, "applied");
    }
    fs::remove_dir_all(agent.path("app")).unwrap();
    fs::remove_file(&blocked).unwrap();
    fs::create_dir(&blocked).unwrap();
    fs::File::create(blocked.join("theirs")).unwrap();
    for name in names {
        registry.publish(name, "new\n");
    }
    until_pending(
        &agent,
        "homeless",
        &[
            "there is no such directory",
            agent.path("app").to_str().unwrap(),
        ],
    );
    until_pending(
        &agent,
        "blocked",
        &["is a directory", blocked.to_str().unwrap()],
    );
    until_content(&well, "new\n");
    assert!(
        blocked.join("theirs").exists(),
        "nothing of it was taken away"
    );
    assert!(
        !agent.path("app").exists(),
        "a directory is not made: whose would it be?"
    );

    fs::create_dir(agent.path("app")).unwrap();
    fs::remove_dir_all(&blocked).unwrap();
    for (name, path) in [("homeless", &homeless), ("blocked", &blocked)] {
        agent.until_state("configs", name, "applied");
        until_content(path, "new\n");
    }
}

#[test]
fn a_full_disk_keeps_the_old_content_and_heals_when_there_is_room() {
    let registry = Registry::start();
    let agent = Agent::of(&registry);
    fs::create_dir(agent.path("disk")).unwrap();
    let small = agent.path("disk");
    // A user who is not root is root of a user namespace of his own, where the kernel lets him.
    let flags = if nix::unistd::geteuid().is_root() {
        "-m"
    } else {
        "-Urm"
    };
    let mount = "mount -t tmpfs -o size=1m,mode=755 tmpfs \"$0\" && exec \"$@\"";
    let inside = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args([flags, "sh", "-c", mount])
            .arg(&small)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    };
    match inside(&["true"]).output() {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => return eprintln!("SKIPPED: no file system can be mounted: {}", said(&tried)),
        Err(error) => return eprintln!("SKIPPED: there is no unshare: {error}"),
    }
    let target = small.join("target");
    agent.write(
        "conf.d/all.yaml",
        &configs(&[
            entry("target", &target, ""),
            entry("well", &agent.path("well"), ""),
        ]),
    );
    registry.publish("target", "old\n");
    registry.publish("well", "content\n");
    let settings = agent.path("outrigger.yaml");
    let mut command = inside(&[
        env!("CARGO_BIN_EXE_outrigger"),
        "run",
        "--config",
        settings.to_str().unwrap(),
    ]);
    command.stderr(Stdio::null());
    let process = Process::start(&mut command);
    agent.until_state("configs", "target", "applied");
    // The disk as the agent sees it.
    let disk = PathBuf::from(format!("/proc/{}/root{}", process.0.id(), small.display()));
    until_content(&disk.join("target"), "old\n");
    let mut filler = fs::File::create(disk.join("filler")).unwrap();
    while filler.write_all(&[b'.'; 4096]).is_ok() {}
    let new = "new\n".repeat(20_000);
    registry.publish("target", &new);
    until_pending(
        &agent,
        "target",
        &["no space left", &target.display().to_string()],
    );
    assert_eq!(fs::read_to_string(disk.join("target")).unwrap(), "old\n");
    assert_eq!(staged_files(&disk), [""; 0], "nothing half-written stays");
    registry.publish("well", "new content\n");
    until_content(&agent.path("well"), "new content\n");

    drop(filler);
    fs::remove_file(disk.join("filler")).unwrap();
    agent.until_state("configs", "target", "applied");
    until_content(&disk.join("target"), &new);
}

#[test]
fn targets_of_one_descriptor_with_one_reload_are_reloaded_once_for_one_burst() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let log = agent.path("reloads");
    // What the command sees says whether both files were there when it ran.
    let reload = format!(
        "    reload: {{ exec: [sh, -c, \"cat {0}/a {0}/b | tr '\\\\n' ' ' >> {0}/reloads; echo >> {0}/reloads\"], {1} }}\n",
        agent.folder.path().display(),
        run_as()
    );
    let descriptor = configs(&[
        entry("a", &agent.path("a"), &reload),
        entry("b", &agent.path("b"), &reload),
    ]);
    agent.write("conf.d/both.yaml", &descriptor);
    registry.publish("a", "a1\n");
    registry.publish("b", "b1\n");
    agent.start();
    agent.until_state("configs", "a", "applied");
    agent.until_state("configs", "b", "applied");
    assert_eq!(fs::read_to_string(&log).unwrap(), "a1 b1 \n");
    // A deployment publishes both at once; stopped, the agent hears of both at once, however busy the machine is.
    agent.signal(Signal::SIGSTOP);
    registry.publish("a", "a2\n");
    registry.publish("b", "b2\n");
    agent.signal(Signal::SIGCONT);
    until_content(&log, "a1 b1 \na2 b2 \n");
    agent.until_state("configs", "a", "applied");
    agent.until_state("configs", "b", "applied");
    assert_eq!(fs::read_to_string(&log).unwrap(), "a1 b1 \na2 b2 \n");
}

#[test]
fn a_reload_that_hangs_is_killed_with_its_children_and_others_go_on() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    // Deaf to TERM, and so is its child: only KILL for the whole group ends them.
    let script = agent.path("hang.sh");
    let text = format!(
        "trap '' TERM\nsleep 1000 &\necho $! >> {0}/children\necho $$ >> {0}/children\nwait\nsleep 1000\n",
        agent.folder.path().display()
    );
    agent.write("hang.sh", &text);
    let reload = format!(
        "    reload: {{ exec: [sh, {}], timeout: 300ms, {} }}\n",
        script.display(),
        run_as()
    );
    agent.write(
        "conf.d/hangs.yaml",
        &configs(&[entry("hangs", &agent.path("hangs"), &reload)]),
    );
    agent.write(
        "conf.d/well.yaml",
        &configs(&[entry("well", &agent.path("well"), "")]),
    );
    registry.publish("hangs", "content\n");
    registry.publish("well", "content\n");
    agent.start();
    let children = eventually("both run", LONG, || {
        let text = agent.read("children");
        let pids: Vec<i32> = text.lines().filter_map(|pid| pid.parse().ok()).collect();
        (pids.len() >= 2).then_some(pids)
    });
    registry.publish("well", "new content\n");
    until_content(&agent.path("well"), "new content\n");
    until_pending(&agent, "hangs", &["no end within 300ms"]);
    until(
        "the command and its child are gone",
        LONG,
        || match children.iter().take(2).find(|pid| runs(**pid)) {
            None => Ok(()),
            Some(pid) => Err(format!("{pid} runs")),
        },
    );
    let metrics = agent.admin("GET", "/metrics").unwrap();
    let timeouts = metrics
        .lines()
        .find(|line| line.starts_with("outrigger_command_timeouts"));
    assert!(
        timeouts.is_some_and(|line| !line.ends_with(" 0")),
        "{timeouts:?}"
    );
}

#[test]
fn a_reload_that_floods_its_output_is_cut_short_and_others_go_on() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let reload = format!(
        "    reload: {{ exec: [sh, -c, \"yes flooding; exit 3\"], timeout: 500ms, {} }}\n",
        run_as()
    );
    agent.write(
        "conf.d/floods.yaml",
        &configs(&[entry("floods", &agent.path("floods"), &reload)]),
    );
    agent.write(
        "conf.d/well.yaml",
        &configs(&[entry("well", &agent.path("well"), "")]),
    );
    registry.publish("floods", "content\n");
    registry.publish("well", "content\n");
    agent.start();
    until_content(&agent.path("floods"), "content\n");
    registry.publish("well", "new content\n");
    until_content(&agent.path("well"), "new content\n");
    let reason = until_pending(&agent, "floods", &["no end within 500ms", "flooding"]);
    assert!(reason.len() < 1000, "{reason}");
    let pid = agent.process.as_ref().unwrap().0.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().split(' ').next())
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        peak < 200 * 1024,
        "{peak} KiB for output that is thrown away"
    );
}

#[test]
fn a_signal_whose_process_is_gone_stays_due_and_reaches_the_next_one() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let at = |name: &str| agent.folder.path().join(name);
    let pid_file = at("pid");
    let reload = format!(
        "    reload: {{ signal: USR1, pid_file: {} }}\n",
        pid_file.display()
    );
    let descriptor = configs(&[entry("orders", &at("orders"), &reload)]);
    agent.write("conf.d/orders.yaml", &descriptor);
    registry.publish("orders", "content\n");
    agent.start();
    until_pending(
        &agent,
        "orders",
        &["no such pid file", pid_file.to_str().unwrap()],
    );
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    agent.write("pid", &format!("{}\n", gone.id()));
    until_pending(&agent, "orders", &[&gone.id().to_string(), "does not run"]);
    until_content(&agent.path("orders"), "content\n");

    let script = "trap 'echo heard >> heard' USR1; echo > ready; while :; do sleep 0.02; done";
    let mut application = Command::new("sh");
    application
        .args(["-c", script])
        .current_dir(agent.folder.path());
    let application = Process::start(&mut application);
    eventually("the application is up", LONG, || {
        agent.path("ready").exists().then_some(())
    });
    agent.write("pid", &format!("{}\n", application.0.id()));
    agent.until_state("configs", "orders", "applied");
    until_content(&agent.path("heard"), "heard\n");
}

#[test]
fn mode_and_owner_are_set_and_set_right_without_a_reload() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let target = agent.path("target");
    // Only root can give a file away.
    let (uid, gid) = if nix::unistd::geteuid().is_root() {
        (4711, 4712)
    } else {
        eprintln!("SKIPPED in part: only root can give a file to somebody else");
        (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        )
    };
    let written = |mode: &str| {
        configs(&[entry(
            "target",
            &target,
            &format!(
                "    mode: \"{mode}\"\n    owner: \"{uid}:{gid}\"\n    reload: {{ exec: [sh, -c, \"echo x >> {}\"], {} }}\n",
                agent.folder.path().join("reloads").display(),
                run_as()
            ),
        )])
    };
    let first = written("0604");
    let second = written("0640");
    agent.write("conf.d/target.yaml", &first);
    registry.publish("target", "content\n");
    agent.start();
    agent.until_state("configs", "target", "applied");
    let found = || {
        let found = fs::metadata(&target).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    assert_eq!(found(), (0o604, uid, gid));
    until_content(&agent.path("reloads"), "x\n");
    let number = fs::metadata(&target).unwrap().ino();

    agent.write("conf.d/target.yaml", &second);
    until("the mode is set right", LONG, || match found() {
        (0o640, ..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    agent.until_state("configs", "target", "applied");
    assert_eq!(found(), (0o640, uid, gid));
    assert_eq!(
        fs::metadata(&target).unwrap().ino(),
        number,
        "not rewritten"
    );
    assert_eq!(agent.read("reloads"), "x\n", "the content is the same");
}

#[test]
fn a_configuration_that_is_deleted_is_removed_or_kept_as_the_descriptor_says() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let (removed, kept) = (agent.path("removed"), agent.path("kept"));
    agent.write(
        "conf.d/all.yaml",
        &configs(&[
            entry("removed", &removed, "    on_absent: remove\n"),
            entry("kept", &kept, ""),
        ]),
    );
    for data_id in ["removed", "kept"] {
        registry.publish(data_id, "content\n");
    }
    agent.start();
    until_content(&removed, "content\n");
    until_content(&kept, "content\n");
    for data_id in ["removed", "kept"] {
        let path = format!("/nacos/v1/cs/configs?dataId={data_id}&group=DEFAULT_GROUP");
        http(registry.port, "DELETE", &path, "").unwrap();
    }
    for data_id in ["removed", "kept"] {
        agent.until_state("configs", data_id, "missing");
    }
    assert!(!removed.exists());
    assert_eq!(agent.read("kept"), "content\n");
    for data_id in ["removed", "kept"] {
        registry.publish(data_id, "again\n");
    }
    until_content(&removed, "again\n");
    until_content(&kept, "again\n");
}

#[test]
fn contents_arrive_byte_for_byte_large_ones_and_odd_ones() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let large = "0123456789abcde\n".repeat(5 * 65_536);
    let all = [
        ("large", large.as_str()),
        ("nul", "a\0b\0\n"),
        ("no-end", "no line end"),
        ("dos", "one\r\ntwo\r\n\r\n"),
        ("wide", "\u{feff}配置 🛶 \u{1b}[31m\u{202e}\n"),
        ("blanks", " \n x \n "),
    ];
    let entries: Vec<String> = all
        .iter()
        .map(|(data_id, _)| entry(data_id, &agent.path(data_id), ""))
        .collect();
    agent.write("conf.d/all.yaml", &configs(&entries));
    agent.start();
    for (data_id, content) in all {
        registry.publish(data_id, content);
    }
    for (data_id, content) in all {
        agent.until_state("configs", data_id, "applied");
        until(&format!("{data_id} is in place"), LONG, || {
            match fs::read(agent.path(data_id)) {
                Ok(bytes) if bytes == content.as_bytes() => Ok(()),
                Ok(bytes) => Err(format!("{} bytes", bytes.len())),
                Err(error) => Err(error.to_string()),
            }
        });
    }
}

#[test]
fn a_content_above_its_max_size_is_rejected_and_an_empty_one_never_gets_into_the_registry() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let target = agent.path("target");
    agent.write(
        "conf.d/target.yaml",
        &configs(&[entry("target", &target, "    max_size: 1024\n")]),
    );
    registry.publish("target", "content\n");
    agent.start();
    until_content(&target, "content\n");
    let empty = format!("dataId=target&group=DEFAULT_GROUP&content={}", form(""));
    let refused = http(registry.port, "POST", "/nacos/v1/cs/configs", &empty).unwrap_err();
    assert!(refused.contains("content"), "{refused}");
    registry.publish("target", &"x".repeat(1025));
    let rejected = agent.until_state("configs", "target", "rejected");
    assert!(
        rejected["reason"].as_str().unwrap().contains("max_size"),
        "{rejected}"
    );
    assert_eq!(agent.read("target"), "content\n");
    registry.publish("target", &"x".repeat(1024));
    until_content(&target, &"x".repeat(1024));
}

#[test]
fn a_reload_that_was_wrong_and_is_put_right_in_the_descriptor_still_happens() {
    let registry = Registry::start();
    let mut agent = Agent::of(&registry);
    let told = agent.path("told");
    let target = agent.path("app.conf");
    let reload = |words: &str| format!("    reload: {{ exec: {words}, {} }}\n", run_as());
    let wrong = reload("[no-such-program-at-all]");
    let right = reload(&format!("[sh, -c, \"echo x >> {}\"]", told.display()));
    registry.publish("app.conf", "1\n");
    agent.write(
        "conf.d/a.yaml",
        &configs(&[entry("app.conf", &target, &wrong)]),
    );
    agent.start();
    until_pending(&agent, "app.conf", &["no-such-program-at-all"]);
    agent.write(
        "conf.d/a.yaml",
        &configs(&[entry("app.conf", &target, &right)]),
    );
    agent.until_state("configs", "app.conf", "applied");
    assert_eq!(agent.read("told"), "x\n", "the application has heard of it");

    // The same when the mode is edited while a reload is due: the target is a new one, its reload is not.
    agent.write(
        "conf.d/a.yaml",
        &configs(&[entry("app.conf", &target, &wrong)]),
    );
    agent.until_state("configs", "app.conf", "applied");
    registry.publish("app.conf", "2\n");
    until_pending(&agent, "app.conf", &["no-such-program-at-all"]);
    let edited = format!("{wrong}    mode: \"0600\"\n");
    agent.write(
        "conf.d/a.yaml",
        &configs(&[entry("app.conf", &target, &edited)]),
    );
    until("the mode is set", LONG, || match fs::metadata(&target) {
        Ok(found) if found.permissions().mode() & 0o777 == 0o600 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until_pending(&agent, "app.conf", &["no-such-program-at-all"]);
}
