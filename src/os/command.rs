//! Runs one command to its end: no shell, a clean environment, a time limit that holds for its whole process group.
//!
//! The command leads a process group of its own. That group gets TERM at the time limit and KILL [`GRACE`] later; it also gets
//! KILL as soon as the leader has ended, so that no forgotten child outlives a probe or a reload (a daemon that is meant to stay
//! makes a session of its own, which is another group). The leader is waited for with a pidfd and reaped only after its group
//! was signalled: until then its number cannot be given to somebody else, so a signal never hits a stranger. What has left the
//! group is not killed, it may be the daemon that a reload is meant to restart; it is found and told ([`children`]).
//!
//! Output is read until the end, so that a talkative child never blocks on a full pipe, but only its last [`KEPT`] bytes are
//! kept, and those are shown through `Foreign` only.

use super::children;
use super::confine::Temp;
use crate::foreign::Foreign;
use nix::unistd::User;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use std::{
    collections::VecDeque,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest, unix::AsyncFd},
    net::unix::pipe,
    process::{Child, Command},
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

/// Between TERM and KILL.
pub const GRACE: Duration = Duration::from_secs(2);
/// How many bytes of output are kept, the last ones.
pub const KEPT: usize = 4096;
/// How many characters of the output an error shows: `Foreign` cuts at the end, and the end is what tells.
const SHOWN: usize = 240;
/// Where programs are looked for; what the agent itself was started with is nobody's business.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long output is waited for when the group is dead: only a process that left the group can still hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long a killed leader may take to disappear before it is left to the runtime (it hangs in the kernel).
const REAP: Duration = Duration::from_secs(2);
/// How often the leader is looked at on a kernel without pidfd.
const LOOK: Duration = Duration::from_millis(20);

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Program and arguments; a program without `/` is looked for in the usual folders.
    pub argv: &'a [String],
    /// TERM to the whole group after this.
    pub timeout: Duration,
    /// User by name or number; `None` is the agent's own. The command gets that user's primary group and no other one.
    pub run_as: Option<&'a str>,
    /// Whether it may only look ([`super::confine`]). `{temp}` in its words is then the one directory that it may write to.
    pub confine: bool,
}

/// What a command is given that makes something of it.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Its standard input.
    pub bytes: &'a [u8],
    /// Variables beside the usual ones.
    pub env: &'a [(&'static str, &'a str)],
    /// Bytes that may come out.
    pub most: usize,
}

/// Why a command did not succeed. Display has the command's last words, harmless to print.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started.
    #[error("cannot start {program}: {}", plainly(source))]
    Start {
        /// Its first word.
        program: Foreign,
        /// What the system said.
        source: io::Error,
    },
    /// A confined command has nowhere to write.
    #[error("{source}; give the agent a directory for temporary files (TMPDIR)")]
    Temp {
        /// Says where.
        source: io::Error,
    },
    /// `run_as` names nobody.
    #[error("cannot run as {name}: there is no such user")]
    User {
        /// As written.
        name: Foreign,
    },
    /// It ended with another code than 0.
    #[error("exit status {code}{}", tail(words))]
    Exit {
        /// Exit code, 1..=255.
        code: i32,
        /// The end of what it printed.
        words: Foreign,
    },
    /// A signal ended it that we did not send.
    #[error("ended by signal {signal}{}", tail(words))]
    Signalled {
        /// Signal number.
        signal: i32,
        /// The end of what it printed.
        words: Foreign,
    },
    /// It was still running at its time limit, and was killed.
    #[error("no end within {after:?}, killed{}", tail(words))]
    Timeout {
        /// The limit.
        after: Duration,
        /// The end of what it printed.
        words: Foreign,
    },
    /// It wrote more than there may be, and was killed.
    #[error("more than {most} bytes come out, killed")]
    TooMuch {
        /// The limit.
        most: usize,
    },
    /// Something that it left behind may still write.
    #[error("it ended, but a process that it left holds its output open")]
    Unfinished,
    /// The agent stops.
    #[error("the agent is stopping")]
    Stopping,
}

impl Failure {
    /// Whether it was killed at its time limit (to be counted in `command_timeouts`).
    #[must_use]
    pub fn timed_out(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}

/// The reason of a failed start in words that need no error number.
fn plainly(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such program",
        io::ErrorKind::PermissionDenied => "not permitted",
        io::ErrorKind::InvalidInput => "a word of it has a zero byte, or there is none",
        _ => "the system refused",
    }
}

/// `: last words`, or nothing when it said nothing.
fn tail(words: &Foreign) -> String {
    if words.raw().is_empty() {
        String::new()
    } else {
        format!(": {words}")
    }
}

/// Runs the command and waits for its end. Dropping the future kills the whole group.
///
/// # Errors
/// [`Failure`] unless the exit code is 0. Ends at the latest [`GRACE`] and a little more after the time limit.
pub async fn run(run: Run<'_>) -> Result<(), Failure> {
    perform(run, None).await.map(drop)
}

/// Runs the command with an input and waits for its end; what it wrote. Its errors alone are words that are shown. Dropping the
/// future kills the whole group.
///
/// # Errors
/// As [`run`], and when more comes out than may.
pub async fn filter(run: Run<'_>, input: Input<'_>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    perform(run, Some(input)).await
}

async fn perform(run: Run<'_>, input: Option<Input<'_>>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let (argv, run_as) = (run.argv.to_vec(), run.run_as.map(str::to_owned));
    let (cpu, filter) = (run.confine.then_some(run.timeout), input.map(Filter::new));
    // Looking up a user reads files, and starting a process waits for its exec.
    let starting = move || Running::start(&argv, run_as.as_deref(), cpu, filter);
    let mut running = tokio::task::spawn_blocking(starting)
        .await
        .map_err(|_| Failure::Stopping)??;
    let in_time = running.ended_within(run.timeout).await;
    if !in_time {
        running.signal(Signal::TERM);
        running.ended_within(GRACE).await;
    }
    running.signal(Signal::KILL);
    // The leader is dead or dying and is about to be reaped: from here on its number may be somebody else's.
    running.armed = false;
    let status = timeout(REAP, running.child.wait()).await;
    let patience = if running.filter.is_some() {
        REAP
    } else {
        LAST_WORDS
    };
    _ = timeout(patience, running.rest()).await;
    let words = running.words.last();
    running.tell_what_is_left(run.argv, in_time).await;
    let (out, is_too_much, is_whole) = match running.filter.take() {
        Some(filter) => (filter.out, filter.is_too_much, filter.reader.is_none()),
        None => (Zeroizing::default(), false, true),
    };
    match status {
        _ if is_too_much => Err(Failure::TooMuch {
            most: input.map_or(0, |input| input.most),
        }),
        // Half of what it says may be worse than nothing.
        Ok(Ok(status)) if in_time && status.success() && !is_whole => Err(Failure::Unfinished),
        Ok(Ok(status)) if in_time => judge(status, words).map(|()| out),
        Ok(Err(source)) if in_time => Err(Failure::Start {
            program: Foreign::new(run.argv.first().cloned().unwrap_or_default()),
            source,
        }),
        _ => Err(Failure::Timeout {
            after: run.timeout,
            words,
        }),
    }
}

fn judge(status: ExitStatus, words: Foreign) -> Result<(), Failure> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::Exit { code, words }),
        (None, signal) => Err(Failure::Signalled {
            signal: signal.unwrap_or_default(),
            words,
        }),
    }
}

/// Ourselves, who become the command when they have given up what it does not need.
fn confined_command(argv: &[String], temp: &Temp, cpu: Duration) -> Command {
    let place = temp.path().to_string_lossy();
    // By this name it is the program that runs now, also when the file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("confine")
        .arg(format!("--cpu={}", cpu.as_secs()))
        .arg(format!("--temp={place}"))
        .arg("--")
        .args(argv.iter().map(|word| word.replace("{temp}", &place)));
    command
}

/// A started command; dropping it kills its group.
struct Running {
    child: Child,
    /// Keeps whoever buries our children from waiting for this one; goes after `child`.
    entry: Option<children::Leader>,
    group: Option<Pid>,
    leader: Leader,
    words: Words,
    filter: Option<Filter>,
    /// Whether the leader is not reaped yet, so that its number is still its own.
    armed: bool,
    /// Where a confined command may write.
    _temp: Option<Temp>,
}

/// How the end of the leader is seen without reaping it.
enum Leader {
    Held(AsyncFd<OwnedFd>),
    /// The kernel has no pidfd (older than 5.3).
    Watched(Option<Pid>),
}

impl Running {
    /// Blocking, within a runtime.
    fn start(
        argv: &[String],
        run_as: Option<&str>,
        confined: Option<Duration>,
        mut filter: Option<Filter>,
    ) -> Result<Self, Failure> {
        let program = argv.first().map(String::as_str).unwrap_or_default();
        let refused = |source| Failure::Start {
            program: Foreign::from(program),
            source,
        };
        let (reader, writer) = io::pipe().map_err(refused)?;
        let user = match run_as {
            Some(name) => Some(Person::find(name)?),
            None => None,
        };
        let home = match &user {
            Some(user) => user.home.clone(),
            None => Person::home_of(rustix::process::geteuid().as_raw()),
        };
        let (mut command, temp) = match confined {
            None => {
                let mut command = Command::new(program);
                command.args(argv.get(1..).unwrap_or_default());
                (command, None)
            }
            Some(cpu) => {
                let owner = user.as_ref().map(|user| (user.uid, user.gid));
                let temp = Temp::make(owner).map_err(|source| Failure::Temp { source })?;
                (confined_command(argv, &temp, cpu), Some(temp))
            }
        };
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", home)
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(refused)?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        if let Some(temp) = &temp {
            command.env("TMPDIR", temp.path());
        }
        if let Some(filter) = &mut filter {
            let (stdin, stdout) = filter.open().map_err(refused)?;
            command
                .stdin(stdin)
                .stdout(stdout)
                .envs(filter.env.iter().map(|(name, value)| (name, value)));
        }
        if let Some(user) = user
            && user.uid != rustix::process::geteuid().as_raw()
        {
            // Setting a user also drops every supplementary group of ours.
            command.uid(user.uid).gid(user.gid);
        }
        let (child, entry) =
            children::Leader::start(|| command.spawn(), Child::id).map_err(refused)?;
        // The command holds our copies of the writing end: without this the output would never end.
        drop(command);
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        #[expect(
            deprecated,
            reason = "the replacement is unsafe; an OwnedFd is the same open descriptor for its whole life, which is all it asks"
        )]
        let held = group
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE).ok());
        Ok(Self {
            child,
            entry,
            group,
            leader: held.map_or(Leader::Watched(group), Leader::Held),
            words: Words {
                pipe: Some(pipe::Receiver::from_owned_fd(reader.into()).map_err(refused)?),
                kept: VecDeque::with_capacity(KEPT),
            },
            filter,
            armed: true,
            _temp: temp,
        })
    }

    /// Reads output until the leader has ended; false when it has not after `limit`.
    async fn ended_within(&mut self, limit: Duration) -> bool {
        let over = sleep(limit);
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = self.leader.ended() => return true,
                () = &mut over => return false,
                () = self.words.more(), if self.words.pipe.is_some() => {}
                () = Filter::more(&mut self.filter), if self.filter.as_ref().is_some_and(Filter::is_open) => {
                    if self.filter.as_ref().is_some_and(|filter| filter.is_too_much) {
                        self.signal(Signal::KILL);
                    }
                }
            }
        }
    }

    /// What is still in the pipes.
    async fn rest(&mut self) {
        while self
            .filter
            .as_ref()
            .is_some_and(|filter| filter.reader.is_some())
        {
            Filter::more(&mut self.filter).await;
        }
        self.words.rest().await;
    }

    async fn tell_what_is_left(&mut self, argv: &[String], in_time: bool) {
        let Some(entry) = self.entry.take() else {
            return;
        };
        // It waits for commands that are being started.
        let left = tokio::task::spawn_blocking(move || entry.left_behind()).await;
        let program = Foreign::from(argv.first().map(String::as_str).unwrap_or_default());
        for (pid, name) in left.unwrap_or_default() {
            if in_time {
                tracing::info!(%program, pid, %name, "the command left a process that goes on by itself");
            } else {
                tracing::warn!(%program, pid, %name, "the command was killed; a process that left its group goes on");
            }
        }
    }

    /// To the whole group; a group that is gone already is what we want anyway.
    fn signal(&self, signal: Signal) {
        if self.armed
            && let Some(group) = self.group
        {
            _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The leader itself is killed and reaped by `kill_on_drop`.
        self.signal(Signal::KILL);
    }
}

impl Leader {
    /// Resolves when the leader has ended; it stays a zombie.
    async fn ended(&self) {
        match self {
            Self::Held(fd) => {
                // An error can only mean that the runtime ends, and this future with it.
                _ = fd.readable().await;
            }
            Self::Watched(pid) => loop {
                let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
                match pid.map(|pid| waitid(WaitId::Pid(pid), look)) {
                    Some(Ok(None)) => sleep(LOOK).await,
                    _ => return,
                }
            },
        }
    }
}

/// What goes in and what comes out of a command that makes something of it. None of it is ever shown.
struct Filter {
    input: Zeroizing<Vec<u8>>,
    /// How much of it is written.
    written: usize,
    env: Vec<(&'static str, Zeroizing<String>)>,
    most: usize,
    out: Zeroizing<Vec<u8>>,
    is_too_much: bool,
    writer: Option<pipe::Sender>,
    reader: Option<pipe::Receiver>,
}

impl Filter {
    fn new(input: Input<'_>) -> Self {
        let env = input.env.iter();
        Self {
            input: input.bytes.to_vec().into(),
            written: 0,
            env: env
                .map(|(name, value)| (*name, (*value).to_owned().into()))
                .collect(),
            most: input.most,
            out: Zeroizing::default(),
            is_too_much: false,
            writer: None,
            reader: None,
        }
    }

    /// Makes both pipes; the command's ends of them. Within a runtime.
    fn open(&mut self) -> io::Result<(io::PipeReader, io::PipeWriter)> {
        let (stdin, writer) = io::pipe()?;
        let (reader, stdout) = io::pipe()?;
        self.writer = Some(pipe::Sender::from_owned_fd(writer.into())?);
        self.reader = Some(pipe::Receiver::from_owned_fd(reader.into())?);
        Ok((stdin, stdout))
    }

    fn is_open(&self) -> bool {
        self.writer.is_some() || self.reader.is_some()
    }

    /// Writes or reads once, whichever can be done; what was begun and dropped is done by the next.
    async fn more(this: &mut Option<Self>) {
        let Some(filter) = this else { return };
        let left = filter.input.get(filter.written..).unwrap_or_default();
        let mut piece = Zeroizing::new([0; KEPT]);
        let (writes, reads) = (filter.writer.is_some(), filter.reader.is_some());
        let write = async {
            match &mut filter.writer {
                Some(writer) if !left.is_empty() => writer.write(left).await,
                _ => Ok(0),
            }
        };
        let read = async {
            match &mut filter.reader {
                Some(reader) => reader.read(&mut piece[..]).await,
                None => Ok(0),
            }
        };
        tokio::select! {
            written = write, if writes => match written {
                Ok(count) if count > 0 => filter.written += count,
                // All is written, or it does not want to know: its exit code says whether that is well.
                _ => filter.writer = None,
            },
            read = read, if reads => match read {
                Ok(count) if count > 0 => {
                    let piece = piece.get(..count).unwrap_or_default();
                    if filter.out.len() + count > filter.most {
                        filter.is_too_much = true;
                        filter.reader = None;
                        filter.writer = None;
                    } else {
                        filter.out.extend_from_slice(piece);
                    }
                }
                _ => filter.reader = None,
            },
            else => {}
        }
    }
}

/// What a command prints: read to its end, kept in part.
struct Words {
    pipe: Option<pipe::Receiver>,
    kept: VecDeque<u8>,
}

impl Words {
    /// Reads once.
    async fn more(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut piece = [0; KEPT];
        match pipe.read(&mut piece).await {
            Ok(count) if count > 0 => {
                let piece = piece.get(..count).unwrap_or_default();
                let surplus = (self.kept.len() + piece.len()).saturating_sub(KEPT);
                self.kept.drain(..surplus.min(self.kept.len()));
                self.kept.extend(piece);
            }
            // The end, or a broken pipe: nothing more will come.
            _ => self.pipe = None,
        }
    }

    async fn rest(&mut self) {
        while self.pipe.is_some() {
            self.more().await;
        }
    }

    /// The end of the last lines, as one line.
    fn last(&self) -> Foreign {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let line = lines.join("; ");
        let surplus = line.chars().count().saturating_sub(SHOWN);
        Foreign::new(line.chars().skip(surplus).collect::<String>())
    }
}

/// User and group number that a command has which runs as `name`. Blocks.
///
/// # Errors
/// [`Failure::User`] when nobody is called so.
pub fn account(name: &str) -> Result<(u32, u32), Failure> {
    Person::find(name).map(|person| (person.uid, person.gid))
}

/// Whom a command runs as.
struct Person {
    uid: u32,
    gid: u32,
    home: String,
}

impl Person {
    fn find(name: &str) -> Result<Self, Failure> {
        let unknown = || Failure::User {
            name: Foreign::from(name),
        };
        if let Ok(uid) = name.parse::<u32>() {
            let known = User::from_uid(uid.into()).ok().flatten();
            // A number nobody named is common in containers: its group is the same number, never one of ours.
            return Ok(known.map_or_else(
                || Self {
                    uid,
                    gid: uid,
                    home: "/".to_owned(),
                },
                Self::from,
            ));
        }
        User::from_name(name)
            .ok()
            .flatten()
            .map(Self::from)
            .ok_or_else(unknown)
    }

    fn home_of(uid: u32) -> String {
        User::from_uid(uid.into())
            .ok()
            .flatten()
            .map_or_else(|| "/".to_owned(), |user| Self::from(user).home)
    }
}

impl From<User> for Person {
    fn from(user: User) -> Self {
        Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir.to_string_lossy().into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    fn words(argv: &[&str]) -> Vec<String> {
        argv.iter().map(|word| (*word).to_owned()).collect()
    }

    async fn sh(script: &str, timeout: Duration) -> Result<(), Failure> {
        run(Run {
            argv: &words(&["sh", "-c", script]),
            timeout,
            run_as: None,
            confine: false,
        })
        .await
    }

    const LONG: Duration = Duration::from_secs(20);

    /// Whether the process in the file lives (a zombie does not).
    fn lives(pid_file: &Path) -> bool {
        let Ok(pid) = fs::read_to_string(pid_file) else {
            return false;
        };
        fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 5s: {what}");
    }

    async fn filtered(
        script: &str,
        bytes: &[u8],
        most: usize,
        timeout: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let argv = words(&["sh", "-c", script]);
        let run = Run {
            argv: &argv,
            timeout,
            run_as: None,
            confine: false,
        };
        let input = Input {
            bytes,
            env: &[("KEY", "k")],
            most,
        };
        filter(run, input).await.map(|out| out.to_vec())
    }

    #[tokio::test]
    async fn a_filter_gets_its_input_and_what_it_writes_comes_back() {
        let large: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let most = large.len();
        assert_eq!(filtered("cat", &large, most, LONG).await.unwrap(), large);
        let out = filtered("echo $KEY; cat >/dev/null", b"x", 10, LONG).await;
        assert_eq!(out.unwrap(), b"k\n");
        // Who does not read his input may still have an answer.
        assert_eq!(
            filtered("echo ok", &large, 10, LONG).await.unwrap(),
            b"ok\n"
        );
        assert_eq!(filtered(":", &large, 10, LONG).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn what_a_filter_writes_is_bounded_and_never_among_its_last_words() {
        let failed = filtered("echo hunter2; echo no key >&2; exit 3", b"", 100, LONG).await;
        assert_eq!(failed.unwrap_err().to_string(), "exit status 3: no key");
        let most = filtered("yes hunter2", b"", 1000, LONG).await.unwrap_err();
        assert_eq!(most.to_string(), "more than 1000 bytes come out, killed");
        let hangs = filtered(
            "echo hunter2; sleep 100",
            b"",
            100,
            Duration::from_millis(200),
        )
        .await;
        let said = hangs.unwrap_err();
        assert!(
            said.timed_out() && !said.to_string().contains("hunter2"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn success_is_exit_code_0_and_a_failure_has_its_code_and_last_words() {
        sh("echo fine", LONG).await.unwrap();
        let failure = sh("echo first; echo 'no such\tupstream' >&2; exit 3", LONG)
            .await
            .unwrap_err();
        assert_eq!(
            failure.to_string(),
            "exit status 3: first; no such\\tupstream"
        );
        let failure = sh("kill -9 $$", LONG).await.unwrap_err();
        assert_eq!(failure.to_string(), "ended by signal 9");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_and_a_user_nobody_knows_are_named() {
        let there_is_none = words(&["no-such-program-at-all"]);
        let there_is_none = run(Run {
            argv: &there_is_none,
            timeout: LONG,
            run_as: None,
            confine: false,
        });
        assert_eq!(
            there_is_none.await.unwrap_err().to_string(),
            "cannot start no-such-program-at-all: there is no such program"
        );
        let nobody = run(Run {
            argv: &words(&["true"]),
            timeout: LONG,
            run_as: Some("no-such-user"),
            confine: false,
        })
        .await;
        assert_eq!(
            nobody.unwrap_err().to_string(),
            "cannot run as no-such-user: there is no such user"
        );
        let no_words = run(Run {
            argv: &[],
            timeout: LONG,
            run_as: None,
            confine: false,
        });
        assert!(no_words.await.is_err());
    }

    #[tokio::test]
    async fn the_environment_is_path_home_and_lang_and_nothing_is_read_from_stdin() {
        sh(
            "test \"$(env | cut -d= -f1 | grep -vx -e PWD -e _ -e SHLVL -e OLDPWD | sort | tr '\\n' ' ')\" = 'HOME LANG PATH ' && ! read line",
            LONG,
        )
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn at_the_time_limit_grandchildren_die_too() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!(
            "sh -c 'sleep 600 & echo $! > {}; wait' & wait",
            pid.display()
        );
        let failure = sh(&script, Duration::from_millis(500)).await.unwrap_err();
        assert!(failure.timed_out(), "{failure}");
        assert!(pid.exists(), "the grandchild had started");
        until("the grandchild is gone", || !lives(&pid)).await;
    }

    #[tokio::test]
    async fn one_that_ignores_term_is_killed_after_the_grace() {
        let began = tokio::time::Instant::now();
        let failure = sh(
            "trap '' TERM; while :; do sleep 1; done",
            Duration::from_millis(200),
        )
        .await
        .unwrap_err();
        assert!(failure.timed_out());
        assert!(began.elapsed() >= GRACE);
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_leader_that_leaves_children_behind_does_not_leave_them_running() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        sh(&format!("sleep 600 & echo $! > {}", pid.display()), LONG)
            .await
            .unwrap();
        until("the child is gone", || !lives(&pid)).await;
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
        tokio::select! {
            end = sh(&script, LONG) => panic!("it ended: {end:?}"),
            () = until("it runs", || lives(&pid)) => {}
        }
        until("it is gone", || !lives(&pid)).await;
    }

    #[tokio::test]
    async fn a_flood_of_output_neither_blocks_nor_is_kept() {
        let failure = sh(
            "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end; exit 1",
            LONG,
        )
        .await
        .unwrap_err();
        let shown = failure.to_string();
        assert!(shown.ends_with("xxx; end"), "{shown}");
        assert!(shown.len() < 300);
    }

    #[tokio::test]
    async fn our_own_user_by_number_needs_no_right() {
        let own = rustix::process::geteuid().as_raw().to_string();
        run(Run {
            argv: &words(&["true"]),
            timeout: LONG,
            run_as: Some(&own),
            confine: false,
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn as_another_user_it_has_neither_our_number_nor_our_groups() {
        let outcome = run(Run {
            argv: &words(&["sh", "-c", "echo $(id -u) $(id -g) $(id -G); exit 1"]),
            timeout: LONG,
            run_as: Some("54321"),
            confine: false,
        })
        .await
        .unwrap_err()
        .to_string();
        if rustix::process::geteuid().is_root() {
            assert_eq!(outcome, "exit status 1: 54321 54321 54321");
        } else {
            assert_eq!(outcome, "cannot start sh: not permitted");
        }
    }
}
