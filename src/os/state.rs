//! A folder of our own, the agent's or the registry's: ours, and of one at a time.
//!
//! A privileged agent refuses a folder that anybody else can write to, because what lies in it is written into files of
//! applications later. Without privileges a volume that somebody else made for us (an `emptyDir` is root's, and everybody's) is
//! taken as it is: what we put into it is ours alone, and what is not ours in it is not believed.
//!
//! Everything here blocks.

use super::way;
use super::way::Directory;
use rustix::{
    fs::{
        AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fsync, ftruncate, openat, renameat,
        statat, unlinkat,
    },
    io::{Errno, pwrite},
    process::geteuid,
};
use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

/// Held while an agent lives; has its process number for whoever finds it taken.
const LOCK: &str = "lock";
/// A process number and a line end.
const NUMBER: u64 = 16;

/// Why the folder is not ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The way to it cannot be trusted.
    #[error(transparent)]
    Way(way::Error),
    /// Somebody else could write what we would believe.
    #[error("{}: {what}; give it to the {tenant}'s user alone, or name another one", path.display())]
    Theirs {
        /// The folder, or what is in it.
        path: PathBuf,
        /// Whose, or what it is.
        what: String,
        /// Whose it should be.
        tenant: &'static str,
    },
    /// Another one lives in it.
    #[error("{}: another {tenant} uses it (process {by}); give each {tenant} its own, or stop that one", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
        /// Its process number, or `unknown`.
        by: String,
        /// What it is.
        tenant: &'static str,
    },
}

/// The folder, taken; dropping it lets another agent take it.
#[derive(Debug)]
pub struct StateDir {
    directory: Directory,
    _lock: OwnedFd,
}

impl StateDir {
    /// Makes the agent's folder, 0700, with its parents, and takes it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn take(path: &Path) -> Result<Self, Error> {
        Self::take_for(AGENT, path, &[SNAPSHOTS, GOOD, LEDGER])
    }

    /// Makes a folder for a tenant of that name, who believes what lies in it under these names, and takes it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn take_for(tenant: &'static str, path: &Path, names: &[&str]) -> Result<Self, Error> {
        let directory = make(tenant, path)?;
        for name in [LOCK].iter().chain(names) {
            is_ours_in(tenant, &directory, path, name)?;
        }
        let failed = |errno: Errno| Error::Make {
            path: path.join(LOCK),
            source: errno.into(),
        };
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let lock = openat(&directory.fd, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // A file system without locks: then it is not found out that somebody else is here.
            Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut by = String::new();
                let read = File::from(lock).take(NUMBER).read_to_string(&mut by);
                let by = by.trim().parse::<u32>().ok().filter(|_| read.is_ok());
                return Err(Error::Taken {
                    path: path.to_owned(),
                    by: by.map_or_else(|| "unknown".to_owned(), |by| by.to_string()),
                    tenant,
                });
            }
            Err(errno) => return Err(failed(errno)),
        }
        // The number only helps a person: on a full disk the lock holds without it.
        let number = format!("{}\n", std::process::id());
        _ = ftruncate(&lock, 0).and_then(|()| pwrite(&lock, number.as_bytes(), 0));
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Opens a file in it for reading and writing, closed to others; makes it if it must be `new`, else it must be there.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(&self, name: &str, new: bool) -> io::Result<File> {
        let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if new {
            flags |= OFlags::CREATE | OFlags::EXCL;
        }
        let file = openat(&self.directory.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(file))
    }

    /// Takes a file out, if it is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.directory.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Gives a file another name, for good.
    ///
    /// # Errors
    /// What the system says.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let folder = &self.directory.fd;
        renameat(folder, from, folder, to)?;
        Ok(fsync(folder)?)
    }
}

/// Whose the folder is, in words.
const AGENT: &str = "agent";
/// The folder of snapshots in the state directory.
pub const SNAPSHOTS: &str = "snapshots";
/// The folder of contents that files may have to get back.
pub const GOOD: &str = "good";
/// What was written, told and verified.
pub const LEDGER: &str = "ledger";

/// Makes a folder, 0700, with its parents, that must be our own user's.
///
/// # Errors
/// [`Error`].
pub fn own_folder(path: &Path) -> Result<(), Error> {
    let directory = make(AGENT, path)?;
    let owner = directory.stat().st_uid;
    if owner == geteuid().as_raw() {
        Ok(())
    } else {
        Err(Error::Theirs {
            path: path.to_owned(),
            what: format!("belongs to user {owner}"),
            tenant: AGENT,
        })
    }
}

fn make(tenant: &'static str, path: &Path) -> Result<Directory, Error> {
    let failed = |source| Error::Make {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let directory = Directory::open(path).map_err(Error::Way)?;
    // What exists keeps its mode: it may be a folder that others need (`/var/lib`), and what we put into it is closed anyway.
    if super::rights::privileged() {
        let stat = directory.stat();
        if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
            return Err(Error::Theirs {
                path: path.to_owned(),
                what: format!("belongs to user {}", stat.st_uid),
                tenant,
            });
        }
        directory.is_safe().map_err(Error::Way)?;
    }
    Ok(directory)
}

/// The bits of a mode with which what is in the folder is not believed. A volume of a pod may be opened, with all that is in it,
/// to a group by whoever mounts it (`fsGroup`); only a privileged agent does without that.
#[must_use]
pub fn others_write() -> u32 {
    if super::rights::privileged() {
        0o022
    } else {
        0o002
    }
}

/// What is called so is not there, or ours.
fn is_ours_in(
    tenant: &'static str,
    directory: &Directory,
    path: &Path,
    name: &str,
) -> Result<(), Error> {
    let Ok(stat) = statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let what = if kind == FileType::Symlink {
        "is a link".to_owned()
    } else if stat.st_uid != geteuid().as_raw() {
        format!("belongs to user {}", stat.st_uid)
    } else if stat.st_mode & others_write() != 0 {
        "others can write to it".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Theirs {
        path: path.join(name),
        what,
        tenant,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, chown, symlink},
    };

    #[test]
    fn the_folder_is_ours_alone_and_a_second_agent_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("var/state");
        let first = StateDir::take(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&path.join(LOCK))), (0o700, 0o600));
        assert_eq!(
            StateDir::take(&path).unwrap_err().to_string(),
            format!(
                "{}: another agent uses it (process {}); give each agent its own, or stop that one",
                path.display(),
                std::process::id()
            )
        );
        drop(first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let again = StateDir::take(&path).unwrap();
        assert_eq!(mode(&path), 0o755, "what is there stays as it is");
        drop(again);
        own_folder(&path).unwrap();
    }

    #[test]
    fn what_somebody_else_could_have_put_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let said = || StateDir::take(&path).unwrap_err().to_string();
        fs::create_dir(&path).unwrap();
        symlink("elsewhere", path.join(SNAPSHOTS)).unwrap();
        assert!(said().contains("snapshots: is a link"), "{}", said());
        fs::remove_file(path.join(SNAPSHOTS)).unwrap();
        symlink("elsewhere", path.join(LOCK)).unwrap();
        assert!(said().contains("lock: is a link"), "{}", said());
        fs::remove_file(path.join(LOCK)).unwrap();
        fs::create_dir(path.join(SNAPSHOTS)).unwrap();
        fs::set_permissions(path.join(SNAPSHOTS), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(said().contains("others can write to it"), "{}", said());
        fs::remove_dir(path.join(SNAPSHOTS)).unwrap();
        // In a folder of everybody's the folder itself may be somebody's link.
        let link = folder.path().join("link");
        symlink("state", &link).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let by_link = StateDir::take(&link).unwrap_err().to_string();
        assert!(by_link.contains("a link is on the way"), "{by_link}");
        if !geteuid().is_root() {
            eprintln!("SKIPPED in part: only root can give a folder away");
            return;
        }
        fs::create_dir(path.join(SNAPSHOTS)).unwrap();
        chown(path.join(SNAPSHOTS), Some(54_321), None).unwrap();
        assert!(said().contains("belongs to user 54321"), "{}", said());
        fs::remove_dir(path.join(SNAPSHOTS)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(said().contains("everybody can write to"), "{}", said());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&path, Some(54_321), None).unwrap();
        assert!(said().contains("belongs to user 54321"), "{}", said());
        assert!(own_folder(&path).is_err());
    }
}
