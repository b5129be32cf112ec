//! What this process shows of itself and hands on: nothing to others of its own user, no descriptor to its commands.
//!
//! Only what ends with `exec` is changed (whether our memory can be read, which descriptors we hold): umask, limits and
//! privileges are as we were started with, because commands and the applications they restart have them too. A process that
//! starts no commands may raise one limit, that of its open files ([`raise_open_files`]).

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use std::{fs, io};

/// Closes `/proc/…/environ`, `root`, `fd` and our memory to processes of our own user, and keeps secrets out of core dumps.
///
/// # Errors
/// What the system says; it says it where a filter forbids the call.
pub fn close_to_others() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Into::into)
}

/// The host's name as the kernel has it; in a pod that is the pod's. Empty where it cannot be read.
#[must_use]
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    })
}

/// Raises that as far as it may be, `enough` at most. Not where commands are started: they would have it too, and some cannot bear it.
///
/// # Errors
/// What the system says.
pub fn raise_open_files(enough: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(enough, |most| most.min(enough));
    if limit.current.is_none_or(|now| now >= most) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).map_err(Into::into)
}

/// Descriptors beyond standard error that whoever started us left open; every command would inherit them.
#[derive(Debug, Default)]
pub struct Inherited(Vec<i32>);

impl Inherited {
    /// Notes them. Right only before we opened anything ourselves.
    #[must_use]
    pub fn note() -> Self {
        let open: Vec<i32> = match fs::read_dir("/proc/self/fd") {
            Ok(entries) => entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .filter(|fd| *fd > 2)
                .collect(),
            // Without /proc nothing can be said of them.
            Err(_) => return Self::default(),
        };
        // The directory that was just read is in its own list, and closed by now.
        let is_open = |fd: &i32| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
        Self(open.into_iter().filter(is_open).collect())
    }

    /// Closes them: after the settings were read, which may be one of them (`--config /dev/fd/9`).
    pub fn close(self) {
        for fd in self.0 {
            // It was open, and it was not ours: there is nobody to tell what went wrong.
            _ = nix::unistd::close(fd);
        }
    }
}
