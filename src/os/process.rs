//! Signals that hit the process that is meant, or nobody.
//!
//! A pid file is a claim, not a fact, and a number can be given to another process at any instant. So a process is held by a
//! pidfd; who it is (its user) is read after it was taken hold of, and counts if it lives then; and the signal goes through the
//! pidfd: between the check and the signal the process can end, but nobody else can take its place. (The time a process began
//! would not do: two can have one number within one tick of that clock.)
//!
//! A pid file is believed when root owns it, or when its owner is the user the process runs as: otherwise whoever can write the
//! file could have the agent signal somebody else's process. For the same reason it is no link, and a privileged agent believes
//! root's only where nobody but root (or the owner of the directory) could have put it, and under no second name. A `user` who
//! is written out must be the process's in any case.
//!
//! Everything here blocks, shortly: it reads `/proc`.

use super::input;
use super::rights::{Refused, privileged};
use super::way;
use super::way::Directory;
use crate::foreign::Foreign;
use nix::unistd::User;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fstat, openat},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

/// A pid file is a number and a newline; more than this is something else.
const PID_FILE: u64 = 32;
/// Of `/proc/…/stat`: the process is the kernel's own (`PF_KTHREAD`).
const KERNEL: u64 = 0x0020_0000;
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
    /// The way to the pid file cannot be trusted.
    #[error(transparent)]
    Way(way::Error),
    /// The pid file is somebody's whom we cannot act as.
    #[error("{}: {refused}", path.display())]
    Rights {
        /// The file.
        path: PathBuf,
        /// Why.
        refused: Refused,
    },
    /// Whoever can change links could aim our signals.
    #[error("{}: is a link; write the path of the pid file itself", path.display())]
    Link {
        /// The file.
        path: PathBuf,
    },
    /// Root's file, but somebody else could have put it there.
    #[error("{}: is root's, but {what}; not believed: the agent is privileged", path.display())]
    Planted {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
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
    /// The number is that of a thread of the kernel.
    #[error("process {pid} of {whom} is the kernel's own; not signalled")]
    Kernel {
        /// Pid file or name.
        whom: Foreign,
        /// The number.
        pid: i32,
    },
    /// It runs as somebody else than `user` says.
    #[error(
        "process {pid} of {whom} runs as user {runs_as}, and `user` says {user}; not signalled"
    )]
    OtherUser {
        /// Pid file or name.
        whom: Foreign,
        /// The number.
        pid: i32,
        /// User of the process.
        runs_as: u32,
        /// As written.
        user: Foreign,
    },
    /// `user` names nobody.
    #[error("there is no user {user}; create it, or correct `user`")]
    NoUser {
        /// As written.
        user: Foreign,
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
    #[error("{} processes are {name}: {}; write `user` too, or use a pid file", pids.len(), list(pids))]
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

/// Sends `signal` (a name without `SIG`) and returns whom it reached; never to a process that is not `user`'s where one is given.
///
/// # Errors
/// [`Error`]; nobody was signalled then.
pub fn signal(whom: Whom<'_>, user: Option<&str>, signal: &str) -> Result<i32, Error> {
    let signal = named(signal)?;
    let uid = user.map(number_of).transpose()?;
    let (pid, owner) = match whom {
        Whom::PidFile(path) => read_pid_file(path)?,
        Whom::Named(name) => (only(name, uid)?, 0),
    };
    let held = Held::take(pid, whom)?;
    let runs_as = held.life.user;
    match (uid, whom) {
        (Some(uid), _) if uid != runs_as => Err(Error::OtherUser {
            whom: held.whom,
            pid,
            runs_as,
            user: Foreign::from(user.unwrap_or_default()),
        }),
        (_, Whom::PidFile(path)) if owner != 0 && owner != runs_as => Err(Error::NotTheirs {
            path: path.to_owned(),
            owner,
            pid,
            runs_as,
        }),
        _ => held.signal(signal).map(|()| pid),
    }
}

/// A user by name or number.
fn number_of(user: &str) -> Result<u32, Error> {
    let known = || User::from_name(user).ok().flatten();
    user.parse()
        .ok()
        .or_else(|| known().map(|user| user.uid.as_raw()))
        .ok_or_else(|| Error::NoUser {
            user: Foreign::from(user),
        })
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
    let unreadable = |source: io::Error| Error::PidFile {
        path: path.to_owned(),
        source,
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(unreadable(io::ErrorKind::InvalidInput.into()));
    };
    let directory = Directory::open(parent).map_err(|error| match error {
        way::Error::NoDirectory { .. } => unreadable(io::ErrorKind::NotFound.into()),
        way::Error::Other { errno, .. } => unreadable(errno.into()),
        error => Error::Way(error),
    })?;
    let opened = directory.rights.act(|| {
        let file = openat(
            &directory.fd,
            name,
            input::FLAGS | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        let stat = fstat(&file)?;
        Ok((file, stat))
    });
    let opened = opened.map_err(|refused| Error::Rights {
        path: path.to_owned(),
        refused,
    })?;
    let (file, stat) = opened.map_err(|errno: Errno| match errno {
        Errno::LOOP => Error::Link {
            path: path.to_owned(),
        },
        errno => unreadable(errno.into()),
    })?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_file && stat.st_uid == 0 && privileged() {
        let planted = |what| {
            Err(Error::Planted {
                path: path.to_owned(),
                what,
            })
        };
        if stat.st_nlink != 1 {
            return planted("it has a second name".to_owned());
        }
        if let Some(who) = directory.others() {
            return planted(format!("{who} can write to its directory"));
        }
    }
    let bytes = input::rest(file, &stat, path, PID_FILE).map_err(|error| match error {
        input::Error::TooLarge { .. } => Error::NotANumber {
            path: path.to_owned(),
            found: Foreign::from("more than a number"),
        },
        input::Error::Unreadable { source, .. } => unreadable(source),
        _ => unreadable(io::ErrorKind::InvalidInput.into()),
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<i32>().ok().filter(|pid| digits && *pid > 1);
    let pid = number.ok_or_else(|| Error::NotANumber {
        path: path.to_owned(),
        found: Foreign::from(text),
    })?;
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Err(Error::Ourselves {
            path: path.to_owned(),
            pid,
        });
    }
    Ok((pid, stat.st_uid))
}

/// A process that is held: its number may be given to another, this stays with it.
struct Held {
    fd: OwnedFd,
    pid: i32,
    whom: Foreign,
    life: Life,
}

impl Held {
    /// Takes hold of the process and looks who it is. That it still lives afterwards says that it was looked at, and nobody else:
    /// its number is its own for so long.
    fn take(pid: i32, whom: Whom<'_>) -> Result<Self, Error> {
        let whom = Foreign::new(match whom {
            Whom::PidFile(path) => path.to_string_lossy().into_owned(),
            Whom::Named(name) => name.to_owned(),
        });
        let failed = |errno| Self::failed(&whom, pid, errno);
        let number = Pid::from_raw(pid).ok_or_else(|| failed(Errno::SRCH))?;
        let fd = pidfd_open(number, PidfdFlags::empty()).map_err(failed)?;
        let life = Life::of(pid).ok_or_else(|| failed(Errno::SRCH))?;
        let mut ended = [PollFd::new(&fd, PollFlags::IN)];
        if poll(&mut ended, Some(&Timespec::default())).map_err(failed)? != 0 {
            return Err(failed(Errno::SRCH));
        }
        if life.is_kernels {
            return Err(Error::Kernel { whom, pid });
        }
        Ok(Self {
            fd,
            pid,
            whom,
            life,
        })
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        pidfd_send_signal(&self.fd, signal)
            .map_err(|errno| Self::failed(&self.whom, self.pid, errno))
    }

    fn failed(whom: &Foreign, pid: i32, errno: Errno) -> Error {
        let whom = whom.clone();
        match errno {
            // The last two: the number was given to a thread, so the process that had it is gone.
            Errno::SRCH | Errno::INVAL | Errno::NOENT => Error::Gone { whom, pid },
            Errno::PERM | Errno::ACCESS => Error::NotPermitted { whom, pid },
            errno => Error::Other { whom, pid, errno },
        }
    }
}

/// Who a process is.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// The real user.
    user: u32,
    parent: i32,
    is_kernels: bool,
}

impl Life {
    /// `None` when there is no such process, or only what is left of one.
    fn of(pid: i32) -> Option<Self> {
        let stat = read_proc(pid, "stat")?;
        // The name in parentheses may hold anything, parentheses too: what follows the last one is fields.
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = String::from_utf8_lossy(stat.get(end + 1..)?).into_owned();
        let mut fields = fields.split_ascii_whitespace();
        // proc(5): state is field 3, ppid 4, flags 9.
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let flags = fields.nth(4)?.parse::<u64>().ok()?;
        let status = String::from_utf8_lossy(&read_proc(pid, "status")?).into_owned();
        let user = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))?
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self {
            user,
            parent,
            is_kernels: flags & KERNEL != 0,
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

/// The only process that is `name`, among those of user `uid` where one is given. Never number 1: where processes are shared by
/// containers that is nobody's application.
fn only(name: &str, uid: Option<u32>) -> Result<i32, Error> {
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
            Some(true) if pid > 1 && pid != own && is_of(pid, uid) => _ = found.insert(pid),
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

fn is_of(pid: i32, uid: Option<u32>) -> bool {
    uid.is_none_or(|uid| Life::of(pid).is_some_and(|life| life.user == uid))
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
        os::unix::{
            fs::{PermissionsExt as _, chown, symlink},
            process::ExitStatusExt as _,
        },
        process::{Child, Command},
    };

    struct Sleeper(Child);

    impl Sleeper {
        fn start(program: &Path) -> Self {
            let name = program.file_name().unwrap().to_str().unwrap();
            Self::spawn(Command::new(program).arg("600"), name)
        }

        fn spawn(command: &mut Command, name: &str) -> Self {
            // A copy that was just written may still be open for writing in a child of another test.
            for _ in 0..100 {
                if let Ok(child) = command.spawn() {
                    let started = Self(child);
                    // Starting returns a moment before the kernel gives the process its new name.
                    while is(started.pid(), name) != Some(true) {
                        std::thread::yield_now();
                    }
                    return started;
                }
                std::thread::yield_now();
            }
            panic!("{name} does not start");
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
        assert_eq!(
            signal(Whom::PidFile(&file), None, "USR1").unwrap(),
            sleeper.pid()
        );
        assert_eq!(sleeper.ended_by(), Some(10));
    }

    #[test]
    fn a_pid_file_without_a_process_number_signals_nobody() {
        let folder = tempfile::tempdir().unwrap();
        for text in [
            "",
            "0",
            "1",
            "-5",
            "+5",
            "12 13",
            "12\n13",
            "99999999999",
            &"7".repeat(100),
        ] {
            let file = pid_file(folder.path(), text);
            let error = signal(Whom::PidFile(&file), None, "HUP").unwrap_err();
            assert!(
                matches!(error, Error::NotANumber { .. }),
                "{text:?}: {error}"
            );
        }
        let own = pid_file(folder.path(), &std::process::id().to_string());
        assert!(matches!(
            signal(Whom::PidFile(&own), None, "HUP").unwrap_err(),
            Error::Ourselves { .. }
        ));
        let missing = folder.path().join("none");
        assert_eq!(
            signal(Whom::PidFile(&missing), None, "HUP")
                .unwrap_err()
                .to_string(),
            format!(
                "{}: there is no such pid file; is the application running?",
                missing.display()
            )
        );
        assert!(matches!(
            signal(Whom::PidFile(folder.path()), None, "HUP").unwrap_err(),
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
                signal(Whom::PidFile(&file), None, "HUP").unwrap_err(),
                Error::Gone { .. }
            ));
            sleeper.0.wait().unwrap();
        }
    }

    #[test]
    fn a_pid_file_of_the_application_user_cannot_aim_a_signal_at_root() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root has something that a pid file could be aimed at");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (roots, app) = (folder.path().join("root"), folder.path().join("app"));
        for made in [&roots, &app] {
            fs::create_dir(made).unwrap();
        }
        let sleeper = Sleeper::start(Path::new("sleep"));
        let real = pid_file(&roots, &format!("{}\n", sleeper.pid()));
        let forged = pid_file(&app, &format!("{}\n", sleeper.pid()));
        chown(&forged, Some(54_321), None).unwrap();
        chown(&app, Some(54_321), None).unwrap();
        let said = |file: &Path, user| {
            let outcome = signal(Whom::PidFile(file), user, "TERM");
            outcome.unwrap_err().to_string()
        };
        // A number of root's in a file of its own, a link to root's file, root's file under another name.
        let number = said(&forged, None);
        assert!(number.contains("is owned by user 54321"), "{number}");
        let link = app.join("link");
        symlink(&real, &link).unwrap();
        assert!(said(&link, None).contains("is a link"));
        let second = app.join("second");
        fs::hard_link(&real, &second).unwrap();
        assert!(said(&second, None).contains("it has a second name"));
        fs::remove_file(&second).unwrap();
        // The same by a directory on the way, and in a directory where anybody could have moved it.
        symlink(&roots, app.join("on-the-way")).unwrap();
        assert!(said(&app.join("on-the-way/pid"), None).contains("a link is on the way"));
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(said(&real, None).contains("everybody can write to its directory"));
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o755)).unwrap();
        let other = said(&real, Some("54321"));
        assert!(other.contains("`user` says 54321"), "{other}");
        assert!(said(&real, Some("no-such-user")).contains("there is no user no-such-user"));
        assert!(Life::of(sleeper.pid()).is_some());
        assert_eq!(
            signal(Whom::PidFile(&real), Some("root"), "USR1").unwrap(),
            sleeper.pid()
        );
        assert_eq!(sleeper.ended_by(), Some(10));
    }

    #[test]
    fn a_thread_of_the_kernel_is_nobodys_application() {
        let folder = tempfile::tempdir().unwrap();
        // `kthreadd`, where its processes are to be seen at all.
        if Life::of(2).is_none_or(|life| !life.is_kernels) {
            eprintln!("SKIPPED: no thread of the kernel is to be seen here");
            return;
        }
        let error = signal(Whom::PidFile(&pid_file(folder.path(), "2\n")), None, "TERM");
        assert!(matches!(error.unwrap_err(), Error::Kernel { pid: 2, .. }));
    }

    #[test]
    fn a_reused_pid_gets_no_signal() {
        let mut first = Sleeper::start(Path::new("sleep"));
        let pid = first.pid();
        let held = Held::take(pid, Whom::Named("sleep")).unwrap();
        first.0.kill().unwrap();
        first.0.wait().unwrap();
        // Only root can choose the next number, and only where the kernel lets him; others may be quicker to take it.
        let next = "/proc/sys/kernel/ns_last_pid";
        for _ in 0..1_000 {
            let chosen = fs::OpenOptions::new()
                .write(true)
                .open(next)
                .and_then(|mut file| {
                    io::Write::write_all(&mut file, (pid - 1).to_string().as_bytes())
                });
            if let Err(error) = chosen {
                eprintln!("SKIPPED: no number can be given again here: {error}");
                return;
            }
            let second = Sleeper::start(Path::new("sleep"));
            if second.pid() == pid {
                assert!(matches!(
                    held.signal(Signal::KILL).unwrap_err(),
                    Error::Gone { .. }
                ));
                let now = Held::take(pid, Whom::Named("sleep")).unwrap();
                now.signal(Signal::USR1).unwrap();
                assert_eq!(second.ended_by(), Some(10), "not by KILL");
                return;
            }
        }
        panic!("{pid} was not given again in a thousand tries");
    }

    #[test]
    fn of_two_processes_of_one_name_the_users_own_is_meant() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can start a process of somebody else");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let name = format!("rig{}-u", std::process::id() % 10_000);
        let path = program(folder.path(), &name);
        let ours = Sleeper::start(&path);
        let mut theirs = Command::new(&path);
        theirs.arg("600");
        std::os::unix::process::CommandExt::uid(&mut theirs, 54_321);
        let theirs = Sleeper::spawn(&mut theirs, &name);
        for whom in [Whom::Named(path.to_str().unwrap()), Whom::Named(&name)] {
            let said = signal(whom, None, "USR1").unwrap_err().to_string();
            assert!(said.starts_with("2 processes are "), "{said}");
            assert!(matches!(
                signal(whom, Some("54322"), "USR1").unwrap_err(),
                Error::NoneSuch { .. }
            ));
        }
        let reached = signal(Whom::Named(&name), Some("54321"), "USR1").unwrap();
        assert_eq!(reached, theirs.pid());
        assert_eq!(theirs.ended_by(), Some(10));
        assert!(Life::of(ours.pid()).is_some());
    }

    #[test]
    fn the_only_process_of_an_executable_or_a_name_gets_the_signal_and_two_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("rig{}-and-a-long-name", std::process::id() % 10_000);
        let path = program(folder.path(), &name);
        let path = path.to_str().unwrap();
        for whom in [Whom::Named(path), Whom::Named(&name)] {
            assert!(matches!(
                signal(whom, None, "USR1").unwrap_err(),
                Error::NoneSuch { .. }
            ));
            let one = Sleeper::start(Path::new(path));
            let two = Sleeper::start(Path::new(path));
            let said = signal(whom, None, "USR1").unwrap_err().to_string();
            assert!(said.starts_with("2 processes are "), "{said}");
            assert!(
                said.contains(&one.pid().to_string()) && said.contains(&two.pid().to_string()),
                "{said}"
            );
            drop(two);
            assert_eq!(signal(whom, None, "USR1").unwrap(), one.pid());
            assert_eq!(one.ended_by(), Some(10));
        }
    }

    #[test]
    fn an_unknown_signal_is_refused() {
        assert_eq!(
            signal(Whom::Named("x"), None, "KILL")
                .unwrap_err()
                .to_string(),
            "there is no signal KILL"
        );
    }
}
