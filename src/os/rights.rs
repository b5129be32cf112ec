//! Whose rights file work is done with: in a directory of somebody else a privileged agent has that somebody's rights, no more.
//!
//! Whoever owns a directory can exchange what is in it at any instant, and root would follow: checks before the work do not help,
//! because the exchange comes after them. So work in a directory that is neither root's nor our own is done by a thread that has
//! taken on the owner's user and groups and has given up every capability over files; then the kernel itself asks for the
//! owner's rights, whatever is exchanged. The thread lives as long as the work: nothing has to be given back afterwards, and no
//! thread of a pool can keep what is not its own.
//!
//! Everything here blocks.

use nix::unistd::{Gid, Uid, User, getgrouplist, setfsgid, setfsuid};
use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities, set_capabilities, set_thread_groups},
};
use std::{ffi::CString, io, panic::resume_unwind, thread};

/// What makes a process more than its user where files are concerned.
const OVER_FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::LINUX_IMMUTABLE)
    .union(CapabilitySet::MKNOD);

/// Whether the kernel grants us more than it grants our user: root, or a capability over files.
#[must_use]
pub fn privileged() -> bool {
    geteuid().is_root()
        || capabilities(None).is_ok_and(|sets| sets.effective.intersects(OVER_FILES))
}

/// Why work was not begun.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Root without the right to be somebody else.
    #[error(
        "cannot act as user {uid}, whose directory it is: grant CAP_SETUID and CAP_SETGID, or run the agent as that user"
    )]
    NotAs {
        /// The owner of the directory.
        uid: u32,
    },
    /// No thread could be started.
    #[error("no thread can be started")]
    Thread(#[source] io::Error),
}

/// With whose rights.
#[derive(Debug)]
pub(super) enum Rights {
    /// As we are.
    Own,
    /// As the owner of a directory.
    Of(Person),
}

/// Somebody else.
#[derive(Debug)]
pub(super) struct Person {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Rights {
    /// For work in a directory that belongs to `uid` and `gid`.
    pub(super) fn within(uid: u32, gid: u32) -> Self {
        if uid == 0 || uid == geteuid().as_raw() || !privileged() {
            return Self::Own;
        }
        Self::Of(Person::of(uid, gid))
    }

    /// The user that files made here belong to.
    pub(super) fn uid(&self) -> u32 {
        match self {
            Self::Own => geteuid().as_raw(),
            Self::Of(person) => person.uid.as_raw(),
        }
    }

    /// Does `work` with these rights.
    ///
    /// # Errors
    /// [`Refused`] when it was not begun.
    pub(super) fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Refused> {
        let Self::Of(person) = self else {
            return Ok(work());
        };
        thread::scope(|scope| {
            thread::Builder::new()
                .name(format!("as user {}", person.uid))
                .spawn_scoped(scope, || {
                    person.become_it()?;
                    Ok(work())
                })
                .map_err(Refused::Thread)?
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Person {
    fn of(uid: u32, gid: u32) -> Self {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let Some(user) = user else {
            // A number nobody named is common in containers: what it has is the group of its directory, unless that is root's.
            let gid = Gid::from_raw(if gid == 0 { uid } else { gid });
            return Self {
                uid: Uid::from_raw(uid),
                gid,
                groups: Vec::new(),
            };
        };
        let groups = CString::new(user.name)
            .ok()
            .and_then(|name| getgrouplist(&name, user.gid).ok());
        Self {
            uid: user.uid,
            gid: user.gid,
            groups: groups.unwrap_or_default(),
        }
    }

    /// Makes the calling thread this person where files are concerned; it never becomes anybody else again.
    fn become_it(&self) -> Result<(), Refused> {
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|gid| rustix::process::Gid::from_raw(gid.as_raw()))
            .collect();
        // Group rights first: they cannot be changed any more once the user is.
        let grouped = set_thread_groups(&groups).is_ok();
        // Neither says whether it did anything; the second call answers with what is in force.
        setfsgid(self.gid);
        setfsuid(self.uid);
        let became = grouped && setfsgid(self.gid) == self.gid && setfsuid(self.uid) == self.uid;
        let plain = capabilities(None).and_then(|mut sets| {
            // A change from root to somebody takes them away by itself, unless the process is set up otherwise.
            sets.effective.remove(OVER_FILES);
            set_capabilities(None, sets)
        });
        // Whoever is not root and lost the capabilities has but the rights of its own user.
        match plain {
            Ok(()) if became || !geteuid().is_root() => Ok(()),
            _ => Err(Refused::NotAs {
                uid: self.uid.as_raw(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, File},
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    };

    #[test]
    fn what_root_does_as_somebody_has_the_rights_of_that_somebody_and_leaves_no_trace() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can act as somebody else");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
        for made in [&theirs, &ours] {
            fs::create_dir(made).unwrap();
        }
        chown(&theirs, Some(54_321), Some(54_322)).unwrap();
        let secret = folder.path().join("secret");
        File::create(&secret).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

        let rights = Rights::within(54_321, 54_322);
        assert_eq!(rights.uid(), 54_321);
        rights
            .act(|| {
                File::create(theirs.join("a")).unwrap();
                assert!(File::create(ours.join("a")).is_err());
                assert!(File::open(&secret).is_err());
                assert!(chown(theirs.join("a"), Some(0), None).is_err());
            })
            .unwrap();
        let made = fs::metadata(theirs.join("a")).unwrap();
        assert_eq!((made.uid(), made.gid()), (54_321, 54_322));
        // This thread is who it was.
        File::create(ours.join("b")).unwrap();
        assert_eq!(fs::metadata(ours.join("b")).unwrap().uid(), 0);
        assert!(matches!(Rights::within(0, 54_322), Rights::Own));
    }

    #[test]
    fn a_panic_within_the_work_is_the_callers() {
        let rights = Rights::Of(Person::of(geteuid().as_raw(), 0));
        match std::panic::catch_unwind(|| rights.act(|| panic!("on purpose"))) {
            Err(panic) => assert_eq!(panic.downcast_ref(), Some(&"on purpose")),
            Ok(refused) => {
                let refused: Result<(), _> = refused;
                eprintln!("SKIPPED: {}", refused.unwrap_err());
            }
        }
    }
}
