//! Takes from this process, for good, all that a command does not need that may only look: then it becomes that command.
//!
//! A validator reads what somebody else has written, and some of them do what it says: `nginx -t` loads the modules and makes the
//! files that a configuration names. So [`become_command`] closes doors that no descendant can open again. Landlock leaves the
//! whole file system to be read and one directory to be written to. A filter of system calls leaves no way to speak to anybody:
//! sockets can be made and bound (a check of `listen` needs that), but neither connect, accept nor send; signals, tracing and
//! namespaces are refused too, as is whatever changes a file without writing to it (its mode, owner, attributes and times). No
//! program gives privileges any more, capabilities are gone but the one to bind low ports, and CPU, memory and files are limited.
//!
//! Rejected: namespaces. Most containers may make none, and an empty network still has every socket in the file system. The
//! filter works without privileges, wherever there is Landlock (Linux 5.13); without it nothing is run.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use nix::libc;
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        set_capabilities, set_no_new_privs,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Address space; a runtime that reserves more than it uses still starts.
const MEMORY: u64 = 4 << 30;
/// Open files.
const FILES: u64 = 256;
/// The longest file.
const FILE: u64 = 64 << 20;

/// Why nothing was run. Display has the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No program was named.
    #[error("there is no command to confine")]
    NoCommand,
    /// The kernel has no Landlock, or it is switched off.
    #[error(
        "cannot confine: this kernel does not enforce Landlock (Linux 5.13 and `landlock` among its `lsm`); leave `confine` out"
    )]
    NoLandlock,
    /// Landlock refused.
    #[error("cannot confine: what may be read and written cannot be limited: {0}")]
    Landlock(RulesetError),
    /// The filter was refused.
    #[error("cannot confine: system calls cannot be filtered: {0}")]
    Filter(String),
    /// Limits or privileges were not taken.
    #[error("cannot confine: cannot {doing}: {errno}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// It was confined, and the program is not there.
    #[error("cannot start {program}: {reason}")]
    Start {
        /// As written.
        program: String,
        /// What the system said; part of the text, because it is all there is to say.
        reason: io::Error,
    },
}

/// Confines this process and becomes the command; returns only when that failed. `temp` is what it may write to, `cpu` how long it
/// may compute.
///
/// Right only where there is but one thread.
#[must_use]
pub fn become_command(words: &[OsString], temp: &Path, cpu: Duration) -> Error {
    let Some((program, arguments)) = words.split_first() else {
        return Error::NoCommand;
    };
    if let Err(error) = confine(temp, cpu) {
        return error;
    }
    Error::Start {
        program: program.to_string_lossy().into_owned(),
        reason: Command::new(program).args(arguments).exec(),
    }
}

fn confine(temp: &Path, cpu: Duration) -> Result<(), Error> {
    limit(cpu)?;
    give_up_privileges()?;
    let signals_are_scoped = only_look(temp)?;
    let program = filter(!signals_are_scoped).map_err(|error| Error::Filter(error.to_string()))?;
    seccompiler::apply_filter(&program).map_err(|error| Error::Filter(error.to_string()))
}

fn limit(cpu: Duration) -> Result<(), Error> {
    for (resource, most) in [
        (Resource::Cpu, cpu.as_secs() + 1),
        (Resource::As, MEMORY),
        (Resource::Nofile, FILES),
        (Resource::Fsize, FILE),
        (Resource::Core, 0),
    ] {
        let already = getrlimit(resource).maximum;
        let most = Some(already.map_or(most, |already| already.min(most)));
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        setrlimit(resource, limit).map_err(refused("set its limits"))?;
    }
    Ok(())
}

fn refused(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Refused { doing, errno }
}

fn give_up_privileges() -> Result<(), Error> {
    const DOING: &str = "give up privileges";
    set_no_new_privs(true).map_err(refused(DOING))?;
    let has = capabilities(None).map_err(refused(DOING))?;
    // An older kernel has no ambient ones.
    _ = clear_ambient_capability_set();
    let left = has.permitted & CapabilitySet::NET_BIND_SERVICE;
    let sets = CapabilitySets {
        effective: left,
        permitted: left,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(refused(DOING))
}

/// Leaves everything to be read and `temp` to be written; true when signals cannot leave either.
fn only_look(temp: &Path) -> Result<bool, Error> {
    let abi = ABI::V6;
    let scoped = |level| {
        Ruleset::default()
            .set_compatibility(level)
            .scope(Scope::Signal)
    };
    let signals_are_scoped = scoped(CompatLevel::HardRequirement).is_ok();
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::ConnectTcp))
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket))
        .and_then(Ruleset::create)
        .map_err(Error::Landlock)?;
    let mut rules = rules;
    for (path, access) in [
        (Path::new("/"), AccessFs::from_read(abi)),
        (temp, AccessFs::from_all(abi)),
        (Path::new("/dev/null"), AccessFs::from_file(abi)),
    ] {
        // Without a null device there is nothing to write to there.
        let Ok(fd) = PathFd::new(path) else {
            if path == temp {
                return Err(Error::Refused {
                    doing: "open its temporary directory",
                    errno: Errno::NOENT,
                });
            }
            continue;
        };
        rules = rules
            .add_rule(PathBeneath::new(fd, access))
            .map_err(Error::Landlock)?;
    }
    let status = rules.restrict_self().map_err(Error::Landlock)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(Error::NoLandlock);
    }
    Ok(signals_are_scoped)
}

type Numbers = Vec<libc::c_long>;

/// What is refused whatever its arguments are.
fn never(signals: bool) -> Numbers {
    let mut never: Numbers = vec![
        // To speak to anybody.
        libc::SYS_connect,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_io_uring_setup,
        // To reach other processes of the same user, or to leave the group that is killed at the end.
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_pidfd_send_signal,
        libc::SYS_pidfd_getfd,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_setsid,
        libc::SYS_setpgid,
        // To change a file without writing to it.
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchmodat2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_truncate,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        // Its flags cannot be looked at: see below.
        libc::SYS_openat2,
        // To get another view of the system.
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_mount_setattr,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        SETXATTRAT,
        REMOVEXATTRAT,
    ];
    if signals {
        never.push(libc::SYS_tgkill);
    }
    #[cfg(target_arch = "x86_64")]
    never.extend([
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
    ]);
    never
}

/// Newer than the tables of our libraries; the same number everywhere.
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
/// SCTP connects with a socket option.
const SCTP: u64 = 132;
/// Linux' other set of numbers on x86-64, with shorter pointers.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

fn filter(signals: bool) -> Result<BpfProgram, seccompiler::BackendError> {
    let is =
        |argument, how, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value);
    let number = |value: libc::c_int| u64::try_from(value).unwrap_or_default();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = never(signals)
        .into_iter()
        .map(|call| (call, Vec::new()))
        .collect();
    // What is connected already (a pair of sockets) may go on; an address may not be named.
    let address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    rules.insert(libc::SYS_sendto, vec![SeccompRule::new(vec![address])?]);
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6]
        .into_iter()
        .map(|family| is(0, SeccompCmpOp::Ne, number(family)))
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(
        libc::SYS_socket,
        vec![
            SeccompRule::new(families)?,
            SeccompRule::new(vec![is(2, SeccompCmpOp::Eq, SCTP)?])?,
        ],
    );
    // Somebody else's limits.
    rules.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![is(0, SeccompCmpOp::Ne, 0)?])?],
    );
    // Opening for reading can empty a file, which the first versions of Landlock do not see.
    let flags = number(libc::O_TRUNC | libc::O_ACCMODE);
    let empties = |argument| {
        let empties = is(
            argument,
            SeccompCmpOp::MaskedEq(flags),
            number(libc::O_TRUNC),
        )?;
        Ok::<_, seccompiler::BackendError>(vec![SeccompRule::new(vec![empties])?])
    };
    rules.insert(libc::SYS_openat, empties(2)?);
    #[cfg(target_arch = "x86_64")]
    {
        rules.insert(libc::SYS_open, empties(1)?);
        let others: Vec<_> = rules
            .iter()
            .map(|(call, rules)| (call | X32, rules.clone()))
            .collect();
        rules.extend(others);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// Where a confined command may write.
#[derive(Debug)]
pub struct Temp(PathBuf);

impl Temp {
    /// Makes a directory that only `owner` (user and group; `None` is ours) may enter. Blocks. It goes with the value.
    ///
    /// # Errors
    /// What the system says, with the place.
    pub fn make(owner: Option<(u32, u32)>) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("outrigger-{:016x}", fastrand::u64(..)));
        let told = |error: io::Error| {
            let place = path.display();
            io::Error::new(error.kind(), format!("{place}: cannot be made: {error}"))
        };
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(told)?;
        let temp = Self(path.clone());
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(told)?;
        }
        Ok(temp)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "a temporary directory cannot be removed");
        }
    }
}
