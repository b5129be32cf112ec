//! Replaces files so that every reader sees the old or the new content, whole, with its final owner and mode.
//!
//! A content is staged beside its target (`.name.outrigger-xxxxxxxx`: written 0600, then given its owner and mode, then synced) and
//! renamed over it; then the directory is synced. The directory is opened once and held: staging, renaming and removing go
//! through that descriptor, so a parent that is swapped for a link in between changes nothing. A symbolic link at the target is
//! replaced, never followed; a directory, a pipe or a device there is an error. A staged file is locked while its owner lives,
//! so [`sweep`] takes only what a crash left behind.
//!
//! Everything here blocks.

use nix::unistd::{Group, User};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown,
        flock, fstat, fsync, open, openat, renameat, statat, unlinkat,
    },
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

/// Between a target's name and the random end of a staged file's.
const MARK: &str = ".outrigger-";
/// Length of the random end, in hex digits.
const RANDOM: usize = 8;
/// How many random ends are tried; each is one of four thousand million.
const TRIES: u32 = 16;

/// Why a file could not be read, written or removed. Display names the path and the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path has no file name, or no directory.
    #[error("{}: not the absolute path of a file", path.display())]
    NoName {
        /// As given.
        path: PathBuf,
    },
    /// The directory of the target is not there.
    #[error("{}: there is no such directory; create it, or correct `path`", directory.display())]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// A directory is where the file should be.
    #[error("{}: is a directory; a target is a file", path.display())]
    Directory {
        /// The target.
        path: PathBuf,
    },
    /// A pipe, a device or a socket is where the file should be.
    #[error("{}: is neither a file nor a link; remove it, or correct `path`", path.display())]
    Special {
        /// The target.
        path: PathBuf,
    },
    /// The agent lacks the right.
    #[error("{}: not permitted to {doing}; give the agent's user the right, or correct `path` or `owner`", path.display())]
    NotPermitted {
        /// The target.
        path: PathBuf,
        /// What was tried: `write beside it`.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Disk or quota is full.
    #[error("{}: no space left to {doing}; make room, it is tried again", path.display())]
    Full {
        /// The target.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("{}: its file system is read-only; mount a writable one there", path.display())]
    ReadOnly {
        /// The target.
        path: PathBuf,
    },
    /// Everything else.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Other {
        /// The target.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said; part of the text, because there is no better word for it.
        source: io::Error,
    },
    /// `owner` names nobody.
    #[error("there is no {kind} {name:?}; create it, or correct `owner`")]
    NoOwner {
        /// `user` or `group`.
        kind: &'static str,
        /// As written.
        name: String,
    },
}

impl Error {
    fn of(path: &Path, doing: &'static str, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::ACCESS | Errno::PERM => Self::NotPermitted {
                path,
                doing,
                source: errno.into(),
            },
            Errno::NOSPC | Errno::DQUOT => Self::Full {
                path,
                doing,
                source: errno.into(),
            },
            Errno::ROFS => Self::ReadOnly { path },
            Errno::ISDIR => Self::Directory { path },
            _ => Self::Other {
                path,
                doing,
                source: errno.into(),
            },
        }
    }

    fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(errno) => Self::of(path, doing, errno),
            None => Self::Other {
                path: path.to_owned(),
                doing,
                source,
            },
        }
    }
}

/// Owner and group as numbers; `None` leaves the agent's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl Owner {
    /// Looks names up; numbers are taken as they are.
    ///
    /// # Errors
    /// [`Error::NoOwner`] when a name is not known on this host.
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Self, Error> {
        let number = |name: &str, kind, known: Option<u32>| {
            name.parse::<u32>()
                .ok()
                .or(known)
                .ok_or_else(|| Error::NoOwner {
                    kind,
                    name: name.to_owned(),
                })
        };
        let uid = user
            .map(|name| {
                let known = User::from_name(name).ok().flatten();
                number(name, "user", known.map(|user| user.uid.as_raw()))
            })
            .transpose()?;
        let gid = group
            .map(|name| {
                let known = Group::from_name(name).ok().flatten();
                number(name, "group", known.map(|group| group.gid.as_raw()))
            })
            .transpose()?;
        Ok(Self { uid, gid })
    }

    fn is_of(self, found: &Found) -> bool {
        self.uid.is_none_or(|uid| uid == found.uid) && self.gid.is_none_or(|gid| gid == found.gid)
    }
}

/// A file as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// Its content; one byte more than the limit when it is larger.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A configuration may hold secrets: its bytes are never printed.
        let (length, mode) = (self.bytes.len(), self.mode);
        write!(
            f,
            "Found({length} bytes, {mode:04o}, {}:{})",
            self.uid, self.gid
        )
    }
}

impl Found {
    /// Whether permissions and owner are as wanted.
    #[must_use]
    pub fn has(&self, mode: u32, owner: Owner) -> bool {
        self.mode == mode && owner.is_of(self)
    }
}

/// The directory of a target, held open, and the target's name in it.
struct Place {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Place {
    fn of(target: &Path) -> Result<Self, Error> {
        let no_name = || Error::NoName {
            path: target.to_owned(),
        };
        let name = target.file_name().ok_or_else(no_name)?.to_owned();
        let parent = target
            .parent()
            .filter(|parent| parent.is_absolute())
            .ok_or_else(no_name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(parent, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => Error::NoDirectory {
                directory: parent.to_owned(),
            },
            _ => Error::of(target, "open its directory", errno),
        })?;
        Ok(Self {
            directory,
            name,
            path: target.to_owned(),
        })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(Errno) -> Error {
        move |errno| Error::of(&self.path, doing, errno)
    }

    /// What is at the name, a link not followed; `None` when nothing is.
    fn look(&self) -> Result<Option<FileType>, Error> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("look at it")(errno)),
        }
    }

    /// Whether a file may be put there: nothing, a file or a link is.
    fn may_be_replaced(&self) -> Result<Option<FileType>, Error> {
        let found = self.look()?;
        match found {
            Some(FileType::Directory) => Err(Error::Directory {
                path: self.path.clone(),
            }),
            None | Some(FileType::RegularFile | FileType::Symlink) => Ok(found),
            Some(_) => Err(Error::Special {
                path: self.path.clone(),
            }),
        }
    }

    /// The file itself and its metadata; `None` when there is none, or a link.
    fn open(&self) -> Result<Option<(OwnedFd, Stat)>, Error> {
        if self.may_be_replaced()? != Some(FileType::RegularFile) {
            return Ok(None);
        }
        // NONBLOCK: should a pipe have taken its place since, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, &self.name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(self.failed("read it")(errno)),
        };
        let stat = fstat(&file).map_err(self.failed("read it"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            Ok(Some((file, stat)))
        } else {
            Err(Error::Special {
                path: self.path.clone(),
            })
        }
    }

    /// A directory that cannot be synced has the new entry all the same: it is only not safe from a power failure.
    fn sync(&self) {
        if let Err(errno) = fsync(&self.directory) {
            tracing::debug!(path = %self.path.display(), %errno, "the directory cannot be synced");
        }
    }
}

/// A content beside its target, complete but not yet in place. Dropping it removes it.
#[must_use = "a staged file that is not published is removed"]
pub struct Staged {
    place: Place,
    temporary: OsString,
    in_place: bool,
    /// Holds the lock that keeps [`sweep`] away.
    _lock: OwnedFd,
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staged({})", self.path().display())
    }
}

/// Writes `bytes` beside `target`, with their final owner and mode, synced.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn stage(target: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<Staged, Error> {
    const DOING: &str = "write beside it";
    let place = Place::of(target)?;
    place.may_be_replaced()?;
    let failed = place.failed(DOING);
    let (temporary, file) = create(&place)?;
    let lock_flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A second descriptor for the lock: with the writing one open, a validator could not execute a staged script.
    let lock = openat(&place.directory, &temporary, lock_flags, Mode::empty());
    let lock = match lock {
        Ok(lock) => lock,
        Err(errno) => {
            _ = unlinkat(&place.directory, &temporary, AtFlags::empty());
            return Err(failed(errno));
        }
    };
    // A file system without locks only loses the protection from a sweep by another agent, which would make us try again.
    _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
    drop(failed);
    let staged = Staged {
        place,
        temporary,
        in_place: false,
        _lock: lock,
    };
    let mut file = File::from(file);
    file.write_all(bytes)
        .map_err(|source| Error::io(target, DOING, source))?;
    give(&file, target, mode, owner)?;
    file.sync_all()
        .map_err(|source| Error::io(target, DOING, source))?;
    Ok(staged)
}

/// A new empty file beside the target that nobody else can open.
fn create(place: &Place) -> Result<(OsString, OwnedFd), Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        let mut temporary = OsString::from(".");
        temporary.push(&place.name);
        temporary.push(format!("{MARK}{:08x}", fastrand::u32(..)));
        match openat(&place.directory, &temporary, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok((temporary, file)),
            Err(Errno::EXIST) if tries < TRIES => tries += 1,
            Err(errno) => return Err(place.failed("write beside it")(errno)),
        }
    }
}

/// Owner first: changing it may take away bits of the mode.
fn give(
    file: &impl std::os::fd::AsFd,
    target: &Path,
    mode: u32,
    owner: Owner,
) -> Result<(), Error> {
    if owner != Owner::default() {
        let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
        fchown(file, uid, gid).map_err(|errno| Error::of(target, "give it its owner", errno))?;
    }
    fchmod(file, Mode::from_raw_mode(mode))
        .map_err(|errno| Error::of(target, "give it its mode", errno))
}

impl Staged {
    /// Where it is, for a validator.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path.with_file_name(&self.temporary)
    }

    /// Renames it over the target and syncs the directory.
    ///
    /// # Errors
    /// [`Error`]; the target is as it was then.
    pub fn publish(mut self) -> Result<(), Error> {
        self.place.may_be_replaced()?;
        renameat(
            &self.place.directory,
            &self.temporary,
            &self.place.directory,
            &self.place.name,
        )
        .map_err(self.place.failed("rename the new content over it"))?;
        self.in_place = true;
        self.place.sync();
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.in_place {
            // What cannot be removed now is swept at the next start.
            _ = unlinkat(&self.place.directory, &self.temporary, AtFlags::empty());
        }
    }
}

/// The file as it is, at most `limit` bytes of it and one more; `None` when there is none, or a link.
///
/// # Errors
/// [`Error`], also when something else than a file or a link is there.
pub fn current(target: &Path, limit: u64) -> Result<Option<Found>, Error> {
    let place = Place::of(target)?;
    let Some((file, stat)) = place.open()? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    File::from(file)
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| Error::io(target, "read it", source))?;
    Ok(Some(Found {
        bytes,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }))
}

/// Gives a file its owner and mode without touching its content; nothing is done when there is none.
///
/// # Errors
/// [`Error`].
pub fn mend(target: &Path, mode: u32, owner: Owner) -> Result<(), Error> {
    match Place::of(target)?.open()? {
        Some((file, _)) => give(&file, target, mode, owner),
        None => Ok(()),
    }
}

/// Removes the file (or the link) and syncs the directory; false when there was none.
///
/// # Errors
/// [`Error`], also when something else than a file or a link is there.
pub fn remove(target: &Path) -> Result<bool, Error> {
    let place = match Place::of(target) {
        Ok(place) => place,
        Err(Error::NoDirectory { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    if place.may_be_replaced()?.is_none() {
        return Ok(false);
    }
    match unlinkat(&place.directory, &place.name, AtFlags::empty()) {
        Ok(()) => {
            place.sync();
            Ok(true)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(place.failed("remove it")(errno)),
    }
}

/// Removes what a crash left beside the target: staged files of this very name that nobody holds. Says how many.
///
/// # Errors
/// [`Error`] when the directory cannot be read.
pub fn sweep(target: &Path) -> Result<usize, Error> {
    const DOING: &str = "look for leftovers beside it";
    let place = Place::of(target)?;
    let mut swept = 0;
    for entry in Dir::read_from(&place.directory).map_err(place.failed(DOING))? {
        let entry = entry.map_err(place.failed(DOING))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if is_staged(name, &place.name) && is_abandoned(&place, name) {
            match unlinkat(&place.directory, name, AtFlags::empty()) {
                Ok(()) => swept += 1,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(place.failed("remove a leftover beside it")(errno)),
            }
        }
    }
    Ok(swept)
}

/// Whether `name` is one that [`stage`] gives for `target`.
fn is_staged(name: &OsStr, target: &OsStr) -> bool {
    name.as_bytes()
        .strip_prefix(b".")
        .and_then(|rest| rest.strip_prefix(target.as_bytes()))
        .and_then(|rest| rest.strip_prefix(MARK.as_bytes()))
        .is_some_and(|end| {
            end.len() == RANDOM
                && end
                    .iter()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        })
}

/// Whether nobody holds the lock of a staged file.
fn is_abandoned(place: &Place, name: &OsStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(&place.directory, name, flags, Mode::empty())
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        sync::atomic::{AtomicBool, Ordering},
    };

    fn put(target: &Path, bytes: &[u8]) -> Result<(), Error> {
        stage(target, bytes, 0o640, Owner::default())?.publish()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_published_file_has_its_content_and_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.yaml");
        put(&target, b"one").unwrap();
        put(&target, b"two").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
        let found = current(&target, 100).unwrap().unwrap();
        assert_eq!((found.bytes.as_slice(), found.mode), (&b"two"[..], 0o640));
        assert!(found.has(0o640, Owner::default()) && !found.has(0o600, Owner::default()));
        assert_eq!(current(&target, 1).unwrap().unwrap().bytes, b"tw");
        assert_eq!(names(folder.path()), ["a.yaml"]);
    }

    #[test]
    fn a_reader_sees_the_old_or_the_new_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        let contents = [vec![b'a'; 300_000], vec![b'b'; 100_000]];
        put(&target, &contents[0]).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = [0_u32; 2];
                while !over.load(Ordering::Relaxed) {
                    let bytes = fs::read(&target).unwrap();
                    let which = contents.iter().position(|whole| *whole == bytes);
                    seen[which.expect("a whole content")] += 1;
                }
                seen
            });
            for round in 0..200 {
                put(&target, &contents[round % 2]).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap().iter().sum::<u32>() > 0);
        });
    }

    #[test]
    fn a_staged_file_that_is_dropped_leaves_the_old_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        put(&target, b"old").unwrap();
        let staged = stage(&target, b"new", 0o600, Owner::default()).unwrap();
        assert_eq!(fs::read(staged.path()).unwrap(), b"new");
        assert_eq!(staged.path().parent(), target.parent());
        drop(staged);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_link_at_the_path_is_replaced_and_what_it_points_to_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let (target, other) = (folder.path().join("a"), folder.path().join("other"));
        put(&other, b"theirs").unwrap();
        symlink(&other, &target).unwrap();
        assert!(current(&target, 100).unwrap().is_none());
        put(&target, b"ours").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"theirs");
        assert!(fs::symlink_metadata(&target).unwrap().is_file());
        fs::remove_file(&target).unwrap();
        symlink(&other, &target).unwrap();
        assert!(remove(&target).unwrap());
        assert_eq!(names(folder.path()), ["other"]);
    }

    #[test]
    fn a_directory_or_a_socket_at_the_path_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        fs::create_dir(&target).unwrap();
        for error in [
            put(&target, b"x").unwrap_err(),
            current(&target, 9).unwrap_err(),
            remove(&target).unwrap_err(),
        ] {
            assert_eq!(
                error.to_string(),
                format!("{}: is a directory; a target is a file", target.display())
            );
        }
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(
            put(&socket, b"x").unwrap_err(),
            Error::Special { .. }
        ));
        assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
        assert_eq!(names(folder.path()), ["a", "socket"]);
    }

    #[test]
    fn a_missing_directory_is_named_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none");
        let said = put(&missing.join("a"), b"x").unwrap_err().to_string();
        assert_eq!(
            said,
            format!(
                "{}: there is no such directory; create it, or correct `path`",
                missing.display()
            )
        );
        assert!(!remove(&missing.join("a")).unwrap());
        assert!(matches!(
            put(Path::new("a"), b"x").unwrap_err(),
            Error::NoName { .. }
        ));
    }

    #[test]
    fn mode_and_owner_are_mended_without_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        put(&target, b"x").unwrap();
        let before = fs::metadata(&target).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o666)).unwrap();
        mend(&target, 0o600, Owner::find(None, None).unwrap()).unwrap();
        let after = fs::metadata(&target).unwrap();
        assert_eq!(after.mode() & 0o7777, 0o600);
        assert_eq!(
            (before.ino(), before.mtime_nsec()),
            (after.ino(), after.mtime_nsec())
        );
        mend(&folder.path().join("none"), 0o600, Owner::default()).unwrap();
    }

    #[test]
    fn an_owner_is_found_by_name_or_number_and_a_stranger_is_named() {
        let root = Owner::find(Some("root"), Some("0")).unwrap();
        assert_eq!((root.uid, root.gid), (Some(0), Some(0)));
        let said = Owner::find(None, Some("no-such-group")).unwrap_err();
        assert_eq!(
            said.to_string(),
            "there is no group \"no-such-group\"; create it, or correct `owner`"
        );
    }

    #[test]
    fn the_owner_is_given_before_anybody_sees_the_file_where_we_may() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        let owner = Owner::find(Some("54321"), Some("54322")).unwrap();
        let outcome = stage(&target, b"x", 0o640, owner).and_then(Staged::publish);
        if rustix::process::geteuid().is_root() {
            outcome.unwrap();
            let found = current(&target, 9).unwrap().unwrap();
            assert!(found.has(0o640, owner));
            assert_eq!((found.uid, found.gid), (54321, 54322));
        } else {
            assert!(matches!(
                outcome.unwrap_err(),
                Error::NotPermitted { .. } | Error::Other { .. }
            ));
            assert!(names(folder.path()).is_empty());
        }
    }

    #[test]
    fn a_sweep_takes_what_a_crash_left_of_this_name_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        for left in [
            ".a.outrigger-00c0ffee",
            ".a.outrigger-0123456",
            ".a.outrigger-0123456G",
            ".b.outrigger-00c0ffee",
            "a.outrigger-00c0ffee",
        ] {
            File::create(folder.path().join(left)).unwrap();
        }
        let alive = stage(&target, b"x", 0o600, Owner::default()).unwrap();
        assert_eq!(sweep(&target).unwrap(), 1);
        assert!(alive.path().exists());
        assert!(!folder.path().join(".a.outrigger-00c0ffee").exists());
        alive.publish().unwrap();
        assert_eq!(names(folder.path()).len(), 5);
    }
}
