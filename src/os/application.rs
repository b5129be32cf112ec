//! The application that we start and that outlives no more than it should: a process with a group of its own.
//!
//! It gets our standard input, output and error, our working directory, and our environment but for what is taken out; no
//! descriptor, no blocked signal, no ignored `PIPE`. Its group is the terminal's foreground where ours was, so a key reaches it
//! once, and not through us; when it is stopped there (`Ctrl-Z`) we stop too, so that the shell hears of it, and go on with it.
//!
//! That it has ended is seen without reaping it: until then its number is nobody else's, and what is left of its group can be
//! killed. Then it is reaped here, and nowhere else ([`children`]).

use super::children::{self, Leader};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as Name};
use rustix::{
    process::{
        Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, kill_process_group, waitid,
    },
    termios::{isatty, tcgetpgrp, tcsetpgrp},
};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command},
};

/// What is started.
#[derive(Clone, Debug)]
pub struct Words {
    /// Program and arguments; a program without `/` is looked for in `PATH`.
    pub argv: Vec<OsString>,
    /// Variables that it does not inherit.
    pub without: Vec<OsString>,
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {}: {}", .program.to_string_lossy(), plainly(source))]
pub struct StartError {
    program: OsString,
    source: io::Error,
}

impl StartError {
    /// The code of shells: 127 where there is no such program, else 126.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self.source.kind() {
            io::ErrorKind::NotFound => 127,
            _ => 126,
        }
    }
}

fn plainly(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such program, or no interpreter of it".to_owned(),
        io::ErrorKind::PermissionDenied => "it may not be executed".to_owned(),
        io::ErrorKind::InvalidInput => "a word of it has a zero byte".to_owned(),
        io::ErrorKind::ArgumentListTooLong => {
            "its arguments and variables are longer than the system takes".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A started application. Dropping it leaves it alone.
#[derive(Debug)]
pub struct Application {
    child: Child,
    pid: Pid,
    _entry: Option<Leader>,
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Lives,
    /// It ended with this code.
    Exited(u8),
    /// A signal ended it.
    Signalled(i32),
}

impl Application {
    /// Starts it, with these variables beside those it inherits. Blocks until it runs.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(words: &Words, variables: &BTreeMap<String, String>) -> Result<Self, StartError> {
        let nothing = OsString::new();
        let program = words.argv.first().unwrap_or(&nothing);
        let refused = |source| StartError {
            program: program.clone(),
            source,
        };
        let mut command = Command::new(program);
        command
            .args(words.argv.get(1..).unwrap_or_default())
            .process_group(0);
        for name in &words.without {
            command.env_remove(name);
        }
        command.envs(variables);
        let (child, entry) =
            Leader::start(|| command.spawn(), |child| Some(child.id())).map_err(refused)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| refused(io::ErrorKind::Other.into()))?;
        let started = Self {
            child,
            pid,
            _entry: entry,
        };
        started.to_the_front();
        Ok(started)
    }

    /// Its process number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a signal, by its number.
    pub fn signal(&self, signal: i32) {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // It may have ended, and is not reaped yet: then nobody hears it.
            _ = kill_process(self.pid, signal);
        }
    }

    /// Kills it with all of its group.
    pub fn kill(&self) {
        _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// Looks whether it lives; reaps it when it does not, after what is left of its group was killed.
    pub fn look(&mut self) -> Fate {
        let over = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if matches!(waitid(WaitId::Pid(self.pid), over), Ok(None)) {
            self.stop_with_it();
            return Fate::Lives;
        }
        self.kill();
        match self.child.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Fate::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
                (None, signal) => Fate::Signalled(signal.unwrap_or_default()),
            },
            // Somebody else has reaped it: nobody can say how it ended.
            Err(_) => Fate::Exited(u8::MAX),
        }
    }

    /// Gives its group the terminal, if that is ours to give.
    fn to_the_front(&self) {
        let terminal = io::stdin();
        let front = isatty(&terminal).then(|| tcgetpgrp(&terminal));
        if let Some(Ok(front)) = front
            && (Some(front) == our_group() || front == self.pid || !lives(front))
        {
            give(self.pid);
            // It may have read before it was in front, which stops it.
            _ = kill_process_group(self.pid, Signal::CONT);
        }
    }

    /// Where a key has stopped it, stops us too until the shell says otherwise.
    fn stop_with_it(&self) {
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        if !matches!(waitid(WaitId::Pid(self.pid), stopped), Ok(Some(_))) {
            return;
        }
        let terminal = io::stdin();
        let in_front = isatty(&terminal) && tcgetpgrp(&terminal).is_ok_and(|g| g == self.pid);
        if !in_front {
            return;
        }
        if let Some(ours) = our_group() {
            give(ours);
        }
        // As process 1 we cannot be stopped: then it goes on at once.
        _ = kill_process(getpid(), Signal::STOP);
        self.to_the_front();
        _ = kill_process_group(self.pid, Signal::CONT);
    }
}

/// Ours; none where its leader is outside of our pid namespace.
fn our_group() -> Option<Pid> {
    Pid::from_raw(nix::unistd::getpgrp().as_raw())
}

/// Whether a group has anybody in it.
fn lives(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group).is_ok()
}

/// Makes a group the terminal's foreground, also from the background.
fn give(group: Pid) {
    let mut aside = SigSet::empty();
    aside.add(Name::SIGTTOU);
    let Ok(before) = aside.thread_swap_mask(SigmaskHow::SIG_BLOCK) else {
        return;
    };
    // A terminal that is not ours any more.
    _ = tcsetpgrp(io::stdin(), group);
    _ = before.thread_set_mask();
}

/// Lets every signal through to us, and so to what we start: whoever started us may have held some back. Before any thread begins.
///
/// # Errors
/// What the system says.
pub fn hold_nothing_back() -> io::Result<()> {
    SigSet::empty().thread_set_mask().map_err(Into::into)
}

/// Reaps what others have left to us.
pub fn bury() {
    children::bury();
}

/// The names of these that are ours or our starter's: what a service manager says to us, and what may have our secrets.
#[must_use]
pub fn is_ours_alone(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"OUTRIGGER_")
        || matches!(
            name,
            b"NOTIFY_SOCKET"
                | b"WATCHDOG_PID"
                | b"WATCHDOG_USEC"
                | b"LISTEN_PID"
                | b"LISTEN_FDS"
                | b"LISTEN_FDNAMES"
        )
}
