//! The way to a directory, walked so that nobody who can write somewhere along it leads us elsewhere.
//!
//! From the root on, as long as nobody but root and us can write to a directory, its entries were put there by somebody who is
//! trusted, links too (`/var/run`): they are followed. From the first directory on to which somebody else can write, there are
//! no links: the rest is opened in one call that follows none and cannot leave (`openat2`), or, where the kernel or its filter
//! does not know that call, step by step without following any. What is done in the directory is done through the descriptor
//! that comes of it, with the rights that [`Rights`] gives there.
//!
//! Everything here blocks.

use super::rights::{Rights, privileged};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat, openat2,
        readlinkat, statat,
    },
    io::Errno,
    process::geteuid,
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Component, Path, PathBuf},
};

/// Links on one way; the kernel follows as many.
const LINKS: u32 = 40;
/// A directory on the way is only passed through.
const PASS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Why a directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there.
    #[error("{}: there is no such directory; create it, or correct `path`", directory.display())]
    NoDirectory {
        /// As written.
        directory: PathBuf,
    },
    /// A link where others can write.
    #[error("{}: a link is on the way, in a directory where others can write; write the path it leads to", directory.display())]
    Link {
        /// As written.
        directory: PathBuf,
    },
    /// Others could exchange what a privileged agent does in it.
    #[error("{}: {who} can write to this directory; take that right away (chmod {chmod}), or run the agent without privileges", directory.display())]
    Writable {
        /// As written.
        directory: PathBuf,
        /// `everybody`, or the group.
        who: String,
        /// What takes the right away.
        chmod: &'static str,
    },
    /// Everything else.
    #[error("{}: the directory cannot be opened: {errno}", directory.display())]
    Other {
        /// As written.
        directory: PathBuf,
        /// What the system said.
        errno: Errno,
    },
}

/// A directory held open.
#[derive(Debug)]
pub(super) struct Directory {
    /// For everything that is done in it.
    pub(super) fd: OwnedFd,
    /// Whose rights count in it.
    pub(super) rights: Rights,
    stat: Stat,
    path: PathBuf,
}

/// What tells one file from any other.
pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Directory {
    /// Opens the directory at an absolute path.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let us = geteuid().as_raw();
        let walk = Walk {
            trusts: |stat: &Stat| (stat.st_uid == 0 || stat.st_uid == us) && others(stat).is_none(),
            in_one_call: true,
        };
        let failed = |errno| match errno {
            Errno::NOENT | Errno::NOTDIR => Error::NoDirectory {
                directory: path.to_owned(),
            },
            Errno::LOOP | Errno::XDEV => Error::Link {
                directory: path.to_owned(),
            },
            errno => Error::Other {
                directory: path.to_owned(),
                errno,
            },
        };
        let passed = walk.to(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&passed, ".", flags, Mode::empty()).map_err(failed)?;
        let stat = fstat(&fd).map_err(failed)?;
        Ok(Self {
            fd,
            rights: Rights::within(stat.st_uid, stat.st_gid),
            stat,
            path: path.to_owned(),
        })
    }

    /// Refuses a directory in which others could exchange what we do with privileges. In a sticky one of root's (`/tmp`) they
    /// can add and not exchange; in one of theirs that only their group can change, we have no more rights than they.
    ///
    /// # Errors
    /// [`Error::Writable`].
    pub(super) fn is_safe(&self) -> Result<(), Error> {
        let by_all = self.stat.st_mode & 0o002 != 0;
        match self.others().filter(|_| privileged()) {
            Some(who) if by_all || matches!(self.rights, Rights::Own) => Err(Error::Writable {
                directory: self.path.clone(),
                who,
                chmod: if by_all { "o-w" } else { "g-w" },
            }),
            _ => Ok(()),
        }
    }

    /// Who beside its owner can put something into it; nobody where root made it sticky, because what is there already cannot be
    /// exchanged.
    pub(super) fn others(&self) -> Option<String> {
        let sticky = self.stat.st_uid == 0 && self.stat.st_mode & 0o1000 != 0;
        others(&self.stat).filter(|_| !sticky)
    }

    /// Owner, mode and what tells it from others, when it was opened.
    pub(super) fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Whether its path still leads to it.
    pub(super) fn is_still_there(&self) -> bool {
        Self::open(&self.path).is_ok_and(|now| identity(&now.stat) == identity(&self.stat))
    }
}

/// Who can write to a directory beside its owner; root's group is root.
fn others(stat: &Stat) -> Option<String> {
    if stat.st_mode & 0o002 != 0 {
        Some("everybody".to_owned())
    } else if stat.st_mode & 0o020 != 0 && stat.st_gid != 0 {
        Some(format!("group {}", stat.st_gid))
    } else {
        None
    }
}

/// How a way is walked.
struct Walk<T> {
    /// Whether only root and we can write to a directory.
    trusts: T,
    /// Whether `openat2` is tried.
    in_one_call: bool,
}

impl<T: Fn(&Stat) -> bool> Walk<T> {
    fn to(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let root = open("/", PASS | OFlags::DIRECTORY, Mode::empty())?;
        let mut above = Vec::new();
        let mut here = root;
        let mut left = steps(path);
        let mut links = 0;
        while let Some(step) = left.pop_front() {
            let stat = fstat(&here)?;
            if !(self.trusts)(&stat) {
                left.push_front(step);
                return self.below(&here, &left);
            }
            if step == ".." {
                // What is above the root is the root.
                here = above.pop().unwrap_or(here);
                continue;
            }
            // As a directory, else what is mounted on demand would not be mounted.
            match enter(&here, &step) {
                Ok(next) => above.push(std::mem::replace(&mut here, next)),
                Err(Errno::LOOP) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP);
                    }
                    let to = readlinkat(&here, &step, Vec::new())?.into_bytes();
                    let to = PathBuf::from(OsString::from_vec(to));
                    if to.is_absolute()
                        && let Some(root) = above.drain(..).next()
                    {
                        here = root;
                    }
                    for step in steps(&to).into_iter().rev() {
                        left.push_front(step);
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(here)
    }

    /// The rest of a way, where others can write.
    fn below(&self, from: &OwnedFd, left: &VecDeque<OsString>) -> Result<OwnedFd, Errno> {
        // Only the text of a link has it, and from here on no link counts.
        if left.iter().any(|step| step == "..") {
            return Err(Errno::LOOP);
        }
        if self.in_one_call {
            let rest: PathBuf = left.iter().collect();
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match openat2(
                from,
                &rest,
                PASS | OFlags::DIRECTORY,
                Mode::empty(),
                resolve,
            ) {
                // Older than 5.6, or a filter of system calls that is.
                Err(Errno::NOSYS | Errno::PERM) => {}
                opened => return opened,
            }
        }
        let mut here = None;
        for step in left {
            let above = here.as_ref().unwrap_or(from);
            here = Some(enter(above, step)?);
        }
        here.ok_or(Errno::NOENT)
    }
}

/// One step down, not through a link.
fn enter(above: &OwnedFd, step: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = PASS | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    openat(above, step, flags, Mode::empty()).map_err(|errno| {
        // For a link the kernel says that it is no directory.
        let is_link = statat(above, step, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if is_link { Errno::LOOP } else { errno }
    })
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    /// Where only the folders called `open` are anybody's.
    fn to(path: &Path, trusted: &[&Path], in_one_call: bool) -> Result<(u64, u64), Errno> {
        let trusted: Vec<_> = trusted
            .iter()
            .map(|path| identity(&rustix::fs::stat(*path).unwrap()))
            .collect();
        let walk = Walk {
            trusts: |stat: &Stat| trusted.contains(&identity(stat)),
            in_one_call,
        };
        let opened = walk.to(path)?;
        Ok(identity(&fstat(&opened)?))
    }

    #[test]
    fn links_are_followed_where_only_we_can_write_and_nowhere_below() {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let at = |name: &str| base.join(name);
        fs::create_dir_all(at("shared/deep/er")).unwrap();
        fs::create_dir(at("ours")).unwrap();
        symlink("shared/deep", at("to-deep")).unwrap();
        symlink(at("to-deep"), at("to-to-deep")).unwrap();
        symlink("../ours/../to-deep", at("ours/around")).unwrap();
        symlink("deep", at("shared/inside")).unwrap();
        symlink("/", at("shared/outside")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let mut trusted: Vec<&Path> = base.ancestors().collect();
        let ours = at("ours");
        trusted.push(&ours);
        let deeper = identity(&rustix::fs::stat(at("shared/deep/er")).unwrap());
        for in_one_call in [true, false] {
            for way in [
                "shared/deep/er",
                "to-deep/er",
                "to-to-deep/er",
                "ours/around/er",
            ] {
                assert_eq!(to(&at(way), &trusted, in_one_call), Ok(deeper), "{way}");
            }
            for way in ["shared/inside/er", "shared/outside/tmp", "loop/x"] {
                let led = to(&at(way), &trusted, in_one_call);
                assert_eq!(led, Err(Errno::LOOP), "{way}");
            }
            let missing = to(&at("shared/none"), &trusted, in_one_call);
            assert_eq!(missing, Err(Errno::NOENT));
        }
        // With nobody trusted at all, the plain way still leads there.
        assert_eq!(to(&at("shared/deep/er"), &[], true), Ok(deeper));
        assert_eq!(to(&at("shared/deep/er"), &[], false), Ok(deeper));
        assert_eq!(to(&at("to-deep/er"), &[], true), Err(Errno::LOOP));
    }

    #[test]
    fn a_directory_that_anybody_can_write_to_is_refused_to_the_privileged_unless_root_made_it_sticky()
     {
        let folder = tempfile::tempdir().unwrap();
        let directory = fs::canonicalize(folder.path()).unwrap();
        let safe = |mode| {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            Directory::open(&directory).unwrap().is_safe()
        };
        safe(0o755).unwrap();
        if !geteuid().is_root() {
            eprintln!("SKIPPED in part: only a privileged agent refuses");
            return safe(0o777).unwrap();
        }
        safe(0o1777).unwrap();
        assert_eq!(
            safe(0o777).unwrap_err().to_string(),
            format!(
                "{}: everybody can write to this directory; take that right away (chmod o-w), or run the agent without privileges",
                directory.display()
            )
        );
        safe(0o775).unwrap();
        std::os::unix::fs::chown(&directory, None, Some(54_321)).unwrap();
        let said = safe(0o775).unwrap_err().to_string();
        assert!(said.contains("group 54321 can write"), "{said}");
        // In a directory of theirs we have their rights only; their group can do no more than they.
        std::os::unix::fs::chown(&directory, Some(54_321), None).unwrap();
        safe(0o775).unwrap();
        safe(0o1777).unwrap_err();
    }
}
