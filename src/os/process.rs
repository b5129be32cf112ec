//! Signals that hit the process that is meant, or nobody.
//!
//! A pid file is a claim, not a fact, and a number can be given to another process at any instant. So a process is held by a
//! pidfd, who it is (user, start time) is read before and after it was taken hold of, and the signal goes through the pidfd:
//! between the check and the signal the process can end, but nobody else can take its place.
//!
//! A pid file is believed when root owns it, or when its owner is the user the process runs as: otherwise whoever can write the
//! file could have the agent signal somebody else's process.
//!
//! Everything here blocks, shortly: it reads `/proc`.

use crate::foreign::Foreign;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// A pid file is a number and a newline; more than this is something else.
const PID_FILE: u64 = 64;
/// `/proc/…/stat` is below 1 KiB, `status` below 2.
const PROC_FILE: u64 = 16 * 1024;
/// The kernel cuts a process's name at this many bytes.
const COMM: usize = 15;
/// How many processes an error names.
const NAMED: usize = 8;

/// Who gets the signal.
#[derive(Clone, Copy, Debug)]
pub enum Whom<'a> {
    /// The process whose number is in this file.
    PidFile(&'a Path),
    /// The only process whose executable is this path (when it begins with `/`), else whose name is this. A process and its
    /// own children of the same executable (a master and its workers) count as one: the master.
    Named(&'a str),
}

/// Why nobody was signalled. Display names who was meant and the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not one of the names of `spec::Reload::Signal`.
    #[error("there is no signal {name}")]
    NoSignal {
        /// As written.
        name: Foreign,
    },
    /// The pid file cannot be read.
    #[error("{}: {}", path.display(), if source.kind() == io::ErrorKind::NotFound { "there is no such pid file; is the application running?" } else { "the pid file cannot be read" })]
    PidFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pid file has no process number in it.
    #[error("{}: expected a process number above 1, found {found:?}", path.display())]
    NotANumber {
        /// The file.
        path: PathBuf,
        /// The beginning of it.
        found: Foreign,
    },
    /// The number in the pid file is the agent's own.
    #[error("{}: has the agent's own number, {pid}", path.display())]
    Ourselves {
        /// The file.
        path: PathBuf,
        /// Our process number.
        pid: i32,
    },
    /// The process is not there (any more).
    #[error("process {pid} of {whom} does not run; is the application restarting?")]
    Gone {
        /// Pid file or name.
        whom: Foreign,
        /// The number.
        pid: i32,
    },
    /// The pid file could be anybody's.
    #[error(
        "{}: is owned by user {owner} but process {pid} runs as user {runs_as}; not signalled: the file must be root's or the process's own",
        path.display()
    )]
    NotTheirs {
        /// The file.
        path: PathBuf,
        /// Owner of the file.
        owner: u32,
        /// The number.
        pid: i32,
        /// User of the process.
        runs_as: u32,
    },
    /// No process has this executable or name.
    #[error("no process is {name}{}", if *hidden > 0 { "; processes of other users cannot be looked at without the right to: use a pid file, or `exec`" } else { "; is the application running?" })]
    NoneSuch {
        /// As written.
        name: Foreign,
        /// How many processes could not be looked at.
        hidden: usize,
    },
    /// Several processes have it.
    #[error("{} processes are {name}: {}; use a pid file", pids.len(), list(pids))]
    Several {
        /// As written.
        name: Foreign,
        /// Their numbers.
        pids: Vec<i32>,
    },
    /// The agent lacks the right.
    #[error(
        "not permitted to signal process {pid} of {whom}; run the agent as its user, give it CAP_KILL, or use `exec` or `http`"
    )]
    NotPermitted {
        /// Pid file or name.
        whom: Foreign,
        /// The number.
        pid: i32,
    },
    /// Everything else; a kernel before 5.3 has no pidfd.
    #[error("process {pid} of {whom} cannot be signalled: {}", if *errno == Errno::NOSYS { "this kernel has no pidfd (5.3); use `exec` or `http`".to_owned() } else { errno.to_string() })]
    Other {
        /// Pid file or name.
        whom: Foreign,
        /// The number.
        pid: i32,
        /// What the system said.
        errno: Errno,
    },
}

fn list(pids: &[i32]) -> String {
    let mut shown: Vec<String> = pids.iter().take(NAMED).map(i32::to_string).collect();
    if pids.len() > NAMED {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

/// Sends `signal` (a name without `SIG`) and returns whom it reached.
///
/// # Errors
/// [`Error`]; nobody was signalled then.
pub fn signal(whom: Whom<'_>, signal: &str) -> Result<i32, Error> {
    let signal = named(signal)?;
    match whom {
        Whom::PidFile(path) => {
            let (pid, owner) = read_pid_file(path)?;
            send(pid, signal, whom, |runs_as| {
                if owner == 0 || owner == runs_as {
                    Ok(())
                } else {
                    Err(Error::NotTheirs {
                        path: path.to_owned(),
                        owner,
                        pid,
                        runs_as,
                    })
                }
            })
        }
        Whom::Named(name) => send(only(name)?, signal, whom, |_| Ok(())),
    }
}

fn named(name: &str) -> Result<Signal, Error> {
    Ok(match name {
        "HUP" => Signal::HUP,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "WINCH" => Signal::WINCH,
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "ALRM" => Signal::ALARM,
        "CONT" => Signal::CONT,
        _ => {
            return Err(Error::NoSignal {
                name: Foreign::from(name),
            });
        }
    })
}

/// The number in the file and the file's owner.
fn read_pid_file(path: &Path) -> Result<(i32, u32), Error> {
    let unreadable = |source| Error::PidFile {
        path: path.to_owned(),
        source,
    };
    // A pipe in its place would be waited for; it is recognised before it is opened.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::ErrorKind::InvalidInput.into()));
    }
    let file = File::open(path).map_err(unreadable)?;
    let owner = file.metadata().map_err(unreadable)?.uid();
    let mut bytes = Vec::new();
    file.take(PID_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let text = String::from_utf8_lossy(&bytes);
    let number = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1);
    let pid = number.ok_or_else(|| Error::NotANumber {
        path: path.to_owned(),
        found: Foreign::from(text.trim()),
    })?;
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Err(Error::Ourselves {
            path: path.to_owned(),
            pid,
        });
    }
    Ok((pid, owner))
}

/// Takes hold of the process, checks that it is still the same one and that `may` allows its user, and signals it.
fn send(
    pid: i32,
    signal: Signal,
    whom: Whom<'_>,
    may: impl FnOnce(u32) -> Result<(), Error>,
) -> Result<i32, Error> {
    let whom = Foreign::new(match whom {
        Whom::PidFile(path) => path.to_string_lossy().into_owned(),
        Whom::Named(name) => name.to_owned(),
    });
    let failed = |errno| match errno {
        Errno::SRCH => Error::Gone {
            whom: whom.clone(),
            pid,
        },
        Errno::PERM | Errno::ACCESS => Error::NotPermitted {
            whom: whom.clone(),
            pid,
        },
        // A number that was given to a thread: the process that had it is gone.
        Errno::INVAL | Errno::NOENT => Error::Gone {
            whom: whom.clone(),
            pid,
        },
        errno => Error::Other {
            whom: whom.clone(),
            pid,
            errno,
        },
    };
    let number = Pid::from_raw(pid).ok_or_else(|| failed(Errno::SRCH))?;
    let before = Life::of(pid).ok_or_else(|| failed(Errno::SRCH))?;
    let held = pidfd_open(number, PidfdFlags::empty()).map_err(failed)?;
    let after = Life::of(pid).ok_or_else(|| failed(Errno::SRCH))?;
    if before != after {
        return Err(failed(Errno::SRCH));
    }
    may(after.user)?;
    pidfd_send_signal(&held, signal).map_err(failed)?;
    Ok(pid)
}

/// What tells one life of a process number from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    /// Clock ticks since boot.
    began: u64,
    /// The real user.
    user: u32,
    parent: i32,
}

impl Life {
    /// `None` when there is no such process, or only what is left of one.
    fn of(pid: i32) -> Option<Self> {
        let stat = read_proc(pid, "stat")?;
        // The name in parentheses may hold anything, parentheses too: what follows the last one is fields.
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = String::from_utf8_lossy(stat.get(end + 1..)?).into_owned();
        let mut fields = fields.split_ascii_whitespace();
        // proc(5): state is field 3, ppid 4, starttime 22.
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let began = fields.nth(17)?.parse().ok()?;
        let status = String::from_utf8_lossy(&read_proc(pid, "status")?).into_owned();
        let user = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))?
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self {
            began,
            user,
            parent,
        })
    }
}

fn read_proc(pid: i32, file: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{file}"))
        .ok()?
        .take(PROC_FILE)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// The only process that is `name`.
fn only(name: &str) -> Result<i32, Error> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let (mut found, mut hidden) = (BTreeSet::new(), 0);
    let none = |hidden| Error::NoneSuch {
        name: Foreign::from(name),
        hidden,
    };
    for entry in fs::read_dir("/proc").map_err(|_| none(0))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse().ok()) else {
            continue;
        };
        match is(pid, name) {
            Some(true) if pid != own => _ = found.insert(pid),
            Some(_) => {}
            None => hidden += 1,
        }
    }
    let masters: Vec<i32> = found
        .iter()
        .copied()
        .filter(|pid| Life::of(*pid).is_some_and(|life| !found.contains(&life.parent)))
        .collect();
    match masters.as_slice() {
        [pid] => Ok(*pid),
        [] => Err(none(hidden)),
        _ => Err(Error::Several {
            name: Foreign::from(name),
            pids: masters,
        }),
    }
}

/// Whether the process has this executable or name; `None` when we may not look.
fn is(pid: i32, name: &str) -> Option<bool> {
    if name.starts_with('/') {
        let executable = match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(executable) => executable,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            // Gone, or a thread of the kernel.
            Err(_) => return Some(false),
        };
        let bytes = executable.as_os_str().as_bytes();
        // An upgrade replaces the executable under a running process.
        let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
        return Some(OsStr::from_bytes(bytes) == OsStr::new(name));
    }
    let comm = read_proc(pid, "comm").unwrap_or_default();
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    let cut = name.as_bytes().get(..COMM).unwrap_or(name.as_bytes());
    Some(!comm.is_empty() && comm == cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::{fs::chown, process::ExitStatusExt as _},
        process::{Child, Command},
    };

    struct Sleeper(Child);

    impl Sleeper {
        fn start(program: &Path) -> Self {
            // A copy that was just written may still be open for writing in a child of another test.
            for _ in 0..100 {
                if let Ok(child) = Command::new(program).arg("600").spawn() {
                    let started = Self(child);
                    // Starting returns a moment before the kernel gives the process its new name.
                    let name = program.file_name().unwrap().to_str().unwrap();
                    while is(started.pid(), name) != Some(true) {
                        std::thread::yield_now();
                    }
                    return started;
                }
                std::thread::yield_now();
            }
            panic!("{} does not start", program.display());
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }

        /// By which signal it ended. USR1 is what tests send: HUP is ignored by everything below a `nohup`.
        fn ended_by(mut self) -> Option<i32> {
            for _ in 0..1000 {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status.signal();
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            panic!("still running after 10 s");
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            _ = self.0.kill();
            _ = self.0.wait();
        }
    }

    fn pid_file(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("pid");
        io::Write::write_all(&mut File::create(&path).unwrap(), text.as_bytes()).unwrap();
        path
    }

    /// A program of our own, so that no other process of this host is it.
    fn program(folder: &Path, name: &str) -> PathBuf {
        let sleep = ["/bin/sleep", "/usr/bin/sleep"]
            .iter()
            .find(|path| Path::new(path).exists())
            .unwrap();
        let path = fs::canonicalize(folder).unwrap().join(name);
        fs::copy(sleep, &path).unwrap();
        path
    }

    #[test]
    fn the_process_of_a_pid_file_gets_the_signal() {
        let folder = tempfile::tempdir().unwrap();
        let sleeper = Sleeper::start(Path::new("sleep"));
        let file = pid_file(folder.path(), &format!("{}\n", sleeper.pid()));
        assert_eq!(signal(Whom::PidFile(&file), "USR1").unwrap(), sleeper.pid());
        assert_eq!(sleeper.ended_by(), Some(10));
    }

    #[test]
    fn a_pid_file_without_a_process_number_signals_nobody() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "0", "1", "-5", "12 13", "99999999999", &"7".repeat(100)] {
            let file = pid_file(folder.path(), text);
            let error = signal(Whom::PidFile(&file), "HUP").unwrap_err();
            assert!(
                matches!(error, Error::NotANumber { .. }),
                "{text:?}: {error}"
            );
        }
        let own = pid_file(folder.path(), &std::process::id().to_string());
        assert!(matches!(
            signal(Whom::PidFile(&own), "HUP").unwrap_err(),
            Error::Ourselves { .. }
        ));
        let missing = folder.path().join("none");
        assert_eq!(
            signal(Whom::PidFile(&missing), "HUP")
                .unwrap_err()
                .to_string(),
            format!(
                "{}: there is no such pid file; is the application running?",
                missing.display()
            )
        );
        assert!(matches!(
            signal(Whom::PidFile(folder.path()), "HUP").unwrap_err(),
            Error::PidFile { .. }
        ));
    }

    #[test]
    fn a_process_that_ended_is_said_to_be_gone_even_while_it_is_a_zombie() {
        let folder = tempfile::tempdir().unwrap();
        let mut sleeper = Sleeper::start(Path::new("sleep"));
        let file = pid_file(folder.path(), &sleeper.pid().to_string());
        sleeper.0.kill().unwrap();
        while Life::of(sleeper.pid()).is_some() {
            std::thread::yield_now();
        }
        for _ in 0..2 {
            assert!(matches!(
                signal(Whom::PidFile(&file), "HUP").unwrap_err(),
                Error::Gone { .. }
            ));
            sleeper.0.wait().unwrap();
        }
    }

    #[test]
    fn a_pid_file_of_another_user_does_not_reach_a_process_of_root() {
        let folder = tempfile::tempdir().unwrap();
        let sleeper = Sleeper::start(Path::new("sleep"));
        let file = pid_file(folder.path(), &sleeper.pid().to_string());
        // Only root can give a file away; without that there is nothing to test.
        if chown(&file, Some(54321), None).is_ok() {
            let error = signal(Whom::PidFile(&file), "TERM").unwrap_err();
            assert!(
                matches!(error, Error::NotTheirs { owner: 54321, .. }),
                "{error}"
            );
            assert!(Life::of(sleeper.pid()).is_some());
        }
    }

    #[test]
    fn the_only_process_of_an_executable_or_a_name_gets_the_signal_and_two_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("rig{}-and-a-long-name", std::process::id() % 10_000);
        let path = program(folder.path(), &name);
        let path = path.to_str().unwrap();
        for whom in [Whom::Named(path), Whom::Named(&name)] {
            assert!(matches!(
                signal(whom, "USR1").unwrap_err(),
                Error::NoneSuch { .. }
            ));
            let one = Sleeper::start(Path::new(path));
            let two = Sleeper::start(Path::new(path));
            let said = signal(whom, "USR1").unwrap_err().to_string();
            assert!(said.starts_with("2 processes are "), "{said}");
            assert!(
                said.contains(&one.pid().to_string()) && said.contains(&two.pid().to_string()),
                "{said}"
            );
            drop(two);
            assert_eq!(signal(whom, "USR1").unwrap(), one.pid());
            assert_eq!(one.ended_by(), Some(10));
        }
    }

    #[test]
    fn an_unknown_signal_is_refused() {
        assert_eq!(
            signal(Whom::Named("x"), "KILL").unwrap_err().to_string(),
            "there is no signal KILL"
        );
    }
}
