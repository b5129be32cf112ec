//! Replaces files so that every reader sees the old or the new content, whole, with its final owner and mode.
//!
//! A content is staged beside its target (`.name.outrigger-` and 128 random bits), where only we can read it; a validator that
//! runs as somebody else is let in by its group ([`Staged::show_to`]). Then it is given its owner and mode, synced, and renamed
//! over the target; then the directory is synced. Who was exchanged or written to in between is found out: the staged file is
//! looked at before the rename, and what is at the target after it must be that very file.
//!
//! The directory is opened once, by a way nobody can bend ([`Directory`]), and held: staging, renaming and removing go through
//! that descriptor, with the rights of the directory's owner where we have more than he. So a parent that is swapped for a link
//! changes nothing; that it was swapped is found out after the rename. A symbolic link or a hard link at the target is replaced,
//! never followed or written through; a directory, a pipe or a device there is an error. A staged file is locked while its
//! publisher lives, so [`sweep`] takes only what a crash left behind.
//!
//! What hung on the file that is replaced (label, ACL, attributes) goes over to the new one ([`keeping`]). Where the name itself
//! cannot be replaced, because a single file is mounted there, the file can be written over ([`in_place`]), which is not atomic and
//! therefore only done when it was asked for ([`Way::InPlace`]). A copy of what is replaced is kept where that was asked for.
//!
//! Everything here blocks.

use super::in_place;
use super::keeping;
use super::rights::{Refused, Rights};
use super::way;
use super::way::{Directory, identity};
use nix::unistd::{Group, User};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown,
        flock, fstat, fsync, openat, renameat, statat, unlinkat,
    },
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read as _, Seek as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

/// Between a target's name and the random end of a staged file's.
const MARK: &str = ".outrigger-";
/// Bytes of the random end.
const RANDOM: usize = 16;
/// What the name of a backup ends with.
const BACKUP: &str = ".bak";
/// How much of a file is kept as a backup, or to be put back: more than any content may have.
const MOST_KEPT: u64 = 64 << 20;

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
    /// The way to it cannot be trusted.
    #[error(transparent)]
    Way(way::Error),
    /// Its directory is somebody's whom we cannot act as.
    #[error("{}: {refused}", path.display())]
    Rights {
        /// The target.
        path: PathBuf,
        /// Why.
        refused: Refused,
    },
    /// The staged file is not what was staged.
    #[error("{}: the new content was changed or exchanged by somebody while it was checked; the file is not to be trusted until it is written again", path.display())]
    Tampered {
        /// The target.
        path: PathBuf,
    },
    /// What is at the target is not what was just put there.
    #[error("{}: the new content was replaced by somebody as soon as it was in place", path.display())]
    Replaced {
        /// The target.
        path: PathBuf,
    },
    /// The path leads to another directory than the one that was written to.
    #[error("{}: its directory was exchanged while the file was written", path.display())]
    Exchanged {
        /// The target.
        path: PathBuf,
    },
    /// The owner of the directory cannot give a file away as `owner` says.
    #[error("{}: `owner` cannot be given by user {by}, whose directory it is and whose rights count there; leave `owner` out, or give the directory to root", path.display())]
    OwnerOfDirectory {
        /// The target.
        path: PathBuf,
        /// The owner of the directory.
        by: u32,
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
    /// The disk is full, of bytes or of files.
    #[error("{}: no space left to {doing}, or no room for one more file; make room (df, df -i), it is tried again", path.display())]
    Full {
        /// The target.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The quota of whoever writes there is used up.
    #[error("{}: the quota is used up, cannot {doing}; make room or raise it, it is tried again", path.display())]
    Quota {
        /// The target.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A single file is mounted at the target: the name cannot be given to another file.
    #[error("{}: a file is mounted there by itself and cannot be replaced; mount its directory instead, or write `publish: in_place`, which is not atomic", path.display())]
    Mounted {
        /// The target.
        path: PathBuf,
    },
    /// A link is where a file should be written over.
    #[error("{}: is a link, and with `publish: in_place` nothing is written through one; write the path it leads to", path.display())]
    LinkInPlace {
        /// The target.
        path: PathBuf,
    },
    /// Writing over it failed half-way, and so did putting the old content back.
    #[error("{}: was written in part ({source}) and its old content cannot be put back; it is tried again", path.display())]
    Torn {
        /// The target.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory is laid out by somebody else.
    #[error("{}: is somebody else's, for instance a volume of Kubernetes; keep the files in another directory", path.display())]
    Layout {
        /// The link that leads to the version that counts.
        path: PathBuf,
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
            Errno::NOSPC => Self::Full {
                path,
                doing,
                source: errno.into(),
            },
            Errno::DQUOT => Self::Quota {
                path,
                doing,
                source: errno.into(),
            },
            Errno::BUSY | Errno::XDEV => Self::Mounted { path },
            Errno::ROFS => Self::ReadOnly { path },
            Errno::ISDIR => Self::Directory { path },
            _ => Self::Other {
                path,
                doing,
                source: errno.into(),
            },
        }
    }

    pub(super) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
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
    /// Reads an open file, as far as one byte more than the limit.
    pub(super) fn read(
        target: &Path,
        file: OwnedFd,
        stat: &Stat,
        limit: u64,
    ) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        File::from(file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| Error::io(target, "read it", source))?;
        Ok(Self {
            bytes,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        })
    }

    /// Whether permissions and owner are as wanted.
    #[must_use]
    pub fn has(&self, mode: u32, owner: Owner) -> bool {
        self.mode == mode && owner.is_of(self)
    }
}

/// How a new content comes to its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Way {
    /// A complete file takes the name: every reader sees the old or the new content.
    #[default]
    Rename,
    /// The file that is there is written over: a reader may see something of both.
    InPlace,
}

/// What a published file is like, besides its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: Owner,
    /// How it comes there.
    pub way: Way,
    /// Whether a copy of what is replaced is kept beside it, as `NAME.bak`.
    pub backup: bool,
}

/// The directory of a target, held open, and the target's name in it.
pub(super) struct Place {
    pub(super) directory: Directory,
    pub(super) name: OsString,
    pub(super) path: PathBuf,
}

impl Place {
    pub(super) fn of(target: &Path) -> Result<Self, Error> {
        let no_name = || Error::NoName {
            path: target.to_owned(),
        };
        let name = target.file_name().ok_or_else(no_name)?.to_owned();
        let parent = target
            .parent()
            .filter(|parent| parent.is_absolute())
            .ok_or_else(no_name)?;
        let directory = Directory::open(parent).map_err(|error| match error {
            way::Error::NoDirectory { directory } => Error::NoDirectory { directory },
            way::Error::Other { errno, .. } => Error::of(target, "open its directory", errno),
            error => Error::Way(error),
        })?;
        directory.is_safe().map_err(Error::Way)?;
        Ok(Self {
            directory,
            name,
            path: target.to_owned(),
        })
    }

    /// Does `work` with the rights that count here.
    pub(super) fn act<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        self.directory
            .rights
            .act(work)
            .map_err(|refused| Error::Rights {
                path: self.path.clone(),
                refused,
            })?
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl Fn(Errno) -> Error {
        move |errno| Error::of(&self.path, doing, errno)
    }

    /// What is at a name, a link not followed; `None` when nothing is.
    fn look(&self, name: &OsStr) -> Result<Option<Stat>, Error> {
        match statat(&self.directory.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("look at it")(errno)),
        }
    }

    /// Whether a file may be put there: nothing, a file or a link is.
    fn may_be_replaced(&self) -> Result<Option<Stat>, Error> {
        self.may_be_replaced_at(&self.name)
    }

    /// The same of another name in the directory.
    pub(super) fn may_be_replaced_at(&self, name: &OsStr) -> Result<Option<Stat>, Error> {
        let found = self.look(name)?;
        match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Some(FileType::Directory) => Err(Error::Directory {
                path: self.path.with_file_name(name),
            }),
            None | Some(FileType::RegularFile | FileType::Symlink) => Ok(found),
            Some(_) => Err(Error::Special {
                path: self.path.with_file_name(name),
            }),
        }
    }

    /// Whether a file may be written over there: nothing, or a file is.
    fn may_be_written_over(&self) -> Result<(), Error> {
        self.act(|| match self.may_be_replaced()? {
            Some(found) if FileType::from_raw_mode(found.st_mode) == FileType::Symlink => {
                Err(Error::LinkInPlace {
                    path: self.path.clone(),
                })
            }
            _ => Ok(()),
        })
    }

    /// Writes over the file, or makes it; gives it mode and owner.
    fn write_over(&self, bytes: &[u8], mode: u32, owner: Owner) -> Result<(), Error> {
        const DOING: &str = "write over it";
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            // Should a pipe have taken its place, opening it must not wait.
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        // One that is made anew is nobody else's to read until it has its final mode.
        let own = Mode::from_raw_mode(0o600);
        let file =
            openat(&self.directory.fd, &self.name, flags, own).map_err(|errno| match errno {
                Errno::LOOP => Error::LinkInPlace {
                    path: self.path.clone(),
                },
                errno => self.failed(DOING)(errno),
            })?;
        let stat = fstat(&file).map_err(self.failed(DOING))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Special {
                path: self.path.clone(),
            });
        }
        // Before anything secret is in it; where they are right they are left alone, for a mount may forbid the change.
        let is = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        let (uid, gid) = (
            owner.uid.unwrap_or(stat.st_uid),
            owner.gid.unwrap_or(stat.st_gid),
        );
        if is != (mode, uid, gid) {
            self.give(&file, mode, owner)?;
        }
        in_place::write_over(&File::from(file), bytes, MOST_KEPT).map_err(|failure| match failure {
            in_place::Failure::Undone(source) => Error::io(&self.path, DOING, source),
            in_place::Failure::Torn(source) => Error::Torn {
                path: self.path.clone(),
                source,
            },
        })
    }

    /// The file itself and its metadata; `None` when there is none, or a link, or somebody else's that cannot be read.
    fn open(&self) -> Result<Option<(OwnedFd, Stat)>, Error> {
        let Some(found) = self.may_be_replaced()? else {
            return Ok(None);
        };
        // NONBLOCK: should a pipe have taken its place since, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory.fd, &self.name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(Errno::ACCESS) if found.st_uid != self.directory.rights.uid() => return Ok(None),
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

    /// Owner first: changing it may take away bits of the mode.
    pub(super) fn give(&self, file: &OwnedFd, mode: u32, owner: Owner) -> Result<(), Error> {
        if owner != Owner::default() {
            let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
            fchown(file, uid, gid).map_err(|errno| match (errno, &self.directory.rights) {
                (Errno::PERM, Rights::Of(_)) => Error::OwnerOfDirectory {
                    path: self.path.clone(),
                    by: self.directory.rights.uid(),
                },
                _ => self.failed("give it its owner")(errno),
            })?;
        }
        fchmod(file, Mode::from_raw_mode(mode)).map_err(self.failed("give it its mode"))
    }

    /// A directory that cannot be synced has the new entry all the same: it is only not safe from a power failure.
    pub(super) fn sync(&self) {
        if let Err(errno) = fsync(&self.directory.fd) {
            tracing::debug!(path = %self.path.display(), %errno, "the directory cannot be synced");
        }
    }
}

/// A content beside its target, complete but not yet in place. Dropping it removes it.
#[must_use = "a staged file that is not published is removed"]
pub struct Staged {
    place: Place,
    /// Where it is written over, when it is not renamed.
    over: Option<Place>,
    temporary: OsString,
    /// Whether its temporary name is gone.
    is_placed: bool,
    /// The file itself, for reading; it holds the lock that keeps [`sweep`] away.
    file: OwnedFd,
    /// The file when we last had to do with it.
    left: Stat,
    /// What it holds, by a sum that nobody else can make.
    sum: u64,
    sums: RandomState,
    mode: u32,
    owner: Owner,
    backup: bool,
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staged({})", self.path().display())
    }
}

/// Writes `bytes` beside `target`; [`Staged::publish`] gives them this mode and owner.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn stage(target: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<Staged, Error> {
    let manner = Manner {
        mode,
        owner,
        ..Manner::default()
    };
    stage_in(target, bytes, &manner)
}

/// Writes `bytes` beside `target`; [`Staged::publish`] puts them there as `manner` says. What is to be written over is staged in the
/// directory for temporary files where nothing can be made beside it.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn stage_in(target: &Path, bytes: &[u8], manner: &Manner) -> Result<Staged, Error> {
    let place = Place::of(target)?;
    match manner.way {
        Way::Rename => begin(place, None, bytes, manner),
        Way::InPlace => {
            let over = Place::of(target)?;
            over.may_be_written_over()?;
            match begin(place, Some(over), bytes, manner) {
                Err(Error::ReadOnly { .. } | Error::NotPermitted { .. }) => {
                    let elsewhere =
                        std::env::temp_dir().join(target.file_name().unwrap_or_default());
                    begin(
                        Place::of(&elsewhere)?,
                        Some(Place::of(target)?),
                        bytes,
                        manner,
                    )
                }
                other => other,
            }
        }
    }
}

fn begin(
    place: Place,
    over: Option<Place>,
    bytes: &[u8],
    manner: &Manner,
) -> Result<Staged, Error> {
    const DOING: &str = "write beside it";
    let mode = manner.mode;
    let (temporary, file, left) = place.act(|| {
        if over.is_none() {
            place.may_be_replaced()?;
        }
        let temporary = temporary(&place)?;
        let written = write(&place, &temporary, bytes, mode);
        if written.is_err() {
            _ = unlinkat(&place.directory.fd, &temporary, AtFlags::empty());
        }
        let file = written?;
        let left = fstat(&file).map_err(place.failed(DOING))?;
        Ok((temporary, file, left))
    })?;
    let sums = RandomState::new();
    Ok(Staged {
        place,
        over,
        temporary,
        is_placed: false,
        file,
        left,
        sum: sums.hash_one(bytes),
        sums,
        mode,
        owner: manner.owner,
        backup: manner.backup,
    })
}

/// A name beside the target that nobody can guess.
fn temporary(place: &Place) -> Result<OsString, Error> {
    let mut random = [0_u8; RANDOM];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(place.failed("name a file beside it"))?;
    let mut end = String::new();
    for byte in random {
        // Writing to a String cannot fail.
        _ = write!(end, "{byte:02x}");
    }
    let mut temporary = OsString::from(".");
    temporary.push(&place.name);
    temporary.push(MARK);
    temporary.push(end);
    Ok(temporary)
}

/// Makes the file; only its owner can read it, and execute it if it is a script.
fn write(place: &Place, name: &OsStr, bytes: &[u8], mode: u32) -> Result<OwnedFd, Error> {
    const DOING: &str = "write beside it";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = Mode::from_raw_mode(0o600 | mode & 0o100);
    let file = openat(&place.directory.fd, name, flags, own).map_err(place.failed(DOING))?;
    // A descriptor of its own for what follows: with the writing one open, a validator could not execute a staged script.
    let again = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = openat(&place.directory.fd, name, again, Mode::empty());
    let held = held.map_err(place.failed(DOING))?;
    // A file system without locks only loses the protection from a sweep by another agent, which would make us try again.
    _ = flock(&held, FlockOperation::NonBlockingLockExclusive);
    File::from(file)
        .write_all(bytes)
        .map_err(|source| Error::io(&place.path, DOING, source))?;
    Ok(held)
}

impl Staged {
    /// Where it is, for a validator.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path.with_file_name(&self.temporary)
    }

    /// Lets a validator that runs as `uid` with the group `gid` read it, until it is published.
    ///
    /// # Errors
    /// [`Error`] when that right cannot be given.
    pub fn show_to(&mut self, uid: u32, gid: u32) -> Result<(), Error> {
        const DOING: &str = "let the validator's user read it";
        if uid == self.left.st_uid || uid == 0 {
            return Ok(());
        }
        // By descriptor and with our own rights: whatever happens to names, this is the file that we made, and a group that can
        // read is all it gets. The owner stays who he is, so the validator cannot write.
        fchown(&self.file, None, Some(Gid::from_raw(gid))).map_err(self.place.failed(DOING))?;
        let mode = 0o640 | self.mode & 0o110;
        fchmod(&self.file, Mode::from_raw_mode(mode)).map_err(self.place.failed(DOING))?;
        let group = self.left.st_gid;
        self.left = fstat(&self.file).map_err(self.place.failed(DOING))?;
        self.owner.gid = self.owner.gid.or(Some(group));
        Ok(())
    }

    /// Gives it its owner and mode, syncs it, renames it over the target and syncs the directory. Where it is to be written over, that
    /// is done.
    ///
    /// # Errors
    /// [`Error`]; the target is as it was then, unless somebody else has changed it or its directory meanwhile.
    pub fn publish(mut self) -> Result<(), Error> {
        if let Some(over) = self.over.take() {
            return self.write_over(&over);
        }
        let place = &self.place;
        let tampered = || Error::Tampered {
            path: place.path.clone(),
        };
        let renamed = place.act(|| {
            place.may_be_replaced()?;
            if !self.is_untouched()? {
                return Err(tampered());
            }
            place.give(&self.file, self.mode, self.owner)?;
            self.take_over()?;
            fsync(&self.file).map_err(place.failed("write beside it"))?;
            renameat(
                &place.directory.fd,
                &self.temporary,
                &place.directory.fd,
                &place.name,
            )
            .map_err(place.failed("rename the new content over it"))?;
            place.sync();
            place.look(&place.name)
        })?;
        let is_ours = renamed.is_some_and(|found| identity(&found) == identity(&self.left));
        let is_there = place.directory.is_still_there();
        self.is_placed = true;
        match (is_ours, is_there) {
            (true, true) => Ok(()),
            (true, false) => Err(Error::Exchanged {
                path: self.place.path.clone(),
            }),
            (false, _) => Err(Error::Replaced {
                path: self.place.path.clone(),
            }),
        }
    }

    /// Takes over what hangs on the file that is there, and keeps a copy of it where that is wanted.
    fn take_over(&self) -> Result<(), Error> {
        // What is there and cannot be read has nothing that could be taken over.
        let Ok(Some((old, stat))) = self.place.open() else {
            return Ok(());
        };
        let lost = keeping::carry(&old, &self.file);
        for lost in lost {
            let (path, attribute) = (self.place.path.display(), lost.name);
            tracing::warn!(%path, %attribute, errno = %lost.errno, "an attribute of the file cannot be kept");
        }
        // An ACL brought rights of its own.
        fchmod(&self.file, Mode::from_raw_mode(self.mode))
            .map_err(self.place.failed("give it its mode"))?;
        if self.backup {
            back_up(&self.place, old, &stat)?;
        }
        Ok(())
    }

    /// What was staged, for whoever puts it elsewhere.
    ///
    /// # Errors
    /// [`Error::Tampered`] when it is not what was staged.
    pub fn take(self) -> Result<Vec<u8>, Error> {
        let tampered = || Error::Tampered {
            path: self.place.path.clone(),
        };
        let bytes = self.place.act(|| {
            if self.is_untouched()? {
                self.bytes()
            } else {
                Err(tampered())
            }
        })?;
        if self.sums.hash_one(bytes.as_slice()) == self.sum {
            Ok(bytes)
        } else {
            Err(tampered())
        }
    }

    /// Writes it over the file that is there.
    fn write_over(&self, over: &Place) -> Result<(), Error> {
        let bytes = self.place.act(|| {
            if self.is_untouched()? {
                self.bytes()
            } else {
                Err(Error::Tampered {
                    path: over.path.clone(),
                })
            }
        })?;
        // What was looked at may not be what was read.
        if self.sums.hash_one(bytes.as_slice()) != self.sum {
            return Err(Error::Tampered {
                path: over.path.clone(),
            });
        }
        over.act(|| {
            if self.backup
                && let Some((old, stat)) = over.open()?
            {
                back_up(over, old, &stat)?;
            }
            over.write_over(&bytes, self.mode, self.owner)
        })
    }

    /// What is staged, as it is now.
    fn bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.file
            .try_clone()
            .and_then(|file| {
                let mut file = File::from(file);
                file.rewind()?;
                file.read_to_end(&mut bytes)
            })
            .map_err(|source| Error::io(&self.place.path, "look at what is staged", source))?;
        Ok(bytes)
    }

    /// Whether its name, and no other, still means the file that we made, with the content that it had.
    fn is_untouched(&self) -> Result<bool, Error> {
        let failed = |errno| self.place.failed("look at what is staged")(errno);
        let now = fstat(&self.file).map_err(failed)?;
        let named = self.place.look(&self.temporary)?;
        if named.is_none_or(|named| identity(&named) != identity(&self.left)) || now.st_nlink > 1 {
            return Ok(false);
        }
        // The time of the last change cannot be set by anybody, but on a file system of another machine it may come late.
        let stamp = |stat: &Stat| (stat.st_size, stat.st_ctime, stat.st_ctime_nsec);
        if stamp(&now) == stamp(&self.left) {
            return Ok(true);
        }
        Ok(self.sums.hash_one(self.bytes()?.as_slice()) == self.sum)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_placed {
            let place = &self.place;
            // What cannot be removed now is swept at the next start.
            _ = place.act(|| {
                unlinkat(&place.directory.fd, &self.temporary, AtFlags::empty())
                    .map_err(place.failed("remove what was staged"))
            });
        }
    }
}

/// Keeps a copy of a file beside it, with its mode and, where that can be given, its owner. There is one; an older one is replaced.
fn back_up(place: &Place, old: OwnedFd, stat: &Stat) -> Result<(), Error> {
    const DOING: &str = "keep a backup of it";
    let failed = |source| Error::io(&place.path, DOING, source);
    let mut bytes = Vec::new();
    File::from(old)
        .take(MOST_KEPT)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let mode = stat.st_mode & 0o777;
    let temporary = temporary(place)?;
    let written = write(place, &temporary, &bytes, mode).and_then(|file| {
        // Whose it was it need not be: it must only be readable by nobody else, which its mode sees to.
        _ = fchown(
            &file,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        );
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(place.failed(DOING))?;
        fsync(&file).map_err(place.failed(DOING))?;
        let mut name = place.name.clone();
        name.push(BACKUP);
        renameat(&place.directory.fd, &temporary, &place.directory.fd, &name)
            .map_err(place.failed(DOING))
    });
    if written.is_err() {
        _ = unlinkat(&place.directory.fd, &temporary, AtFlags::empty());
    }
    written
}

/// The file as it is, at most `limit` bytes of it and one more; `None` when there is none, or a link.
///
/// # Errors
/// [`Error`], also when something else than a file or a link is there.
pub fn current(target: &Path, limit: u64) -> Result<Option<Found>, Error> {
    let place = Place::of(target)?;
    place.act(|| {
        let Some((file, stat)) = place.open()? else {
            return Ok(None);
        };
        Found::read(target, file, &stat, limit).map(Some)
    })
}

/// What tells a file from any other, however its path is written: its directory and its name in it, whether it is there or not.
pub type Spot = (u64, u64, OsString);

/// Where a target really is.
///
/// # Errors
/// [`Error`] when its directory cannot be opened.
pub fn spot(target: &Path) -> Result<Spot, Error> {
    let place = Place::of(target)?;
    let (device, number) = identity(place.directory.stat());
    Ok((device, number, place.name))
}

/// Gives a file its owner and mode without touching its content; nothing is done when there is none.
///
/// # Errors
/// [`Error`].
pub fn mend(target: &Path, mode: u32, owner: Owner) -> Result<(), Error> {
    let place = Place::of(target)?;
    place.act(|| match place.open()? {
        Some((file, _)) => place.give(&file, mode, owner),
        None => Ok(()),
    })
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
    place.act(|| {
        if place.may_be_replaced()?.is_none() {
            return Ok(false);
        }
        match unlinkat(&place.directory.fd, &place.name, AtFlags::empty()) {
            Ok(()) => {
                place.sync();
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(place.failed("remove it")(errno)),
        }
    })
}

/// Removes what a crash left beside the target: staged files of this very name, made by us, that nobody holds. Says how many.
///
/// # Errors
/// [`Error`] when the directory cannot be read.
pub fn sweep(target: &Path) -> Result<usize, Error> {
    const DOING: &str = "look for leftovers beside it";
    let place = Place::of(target)?;
    place.act(|| {
        let mut swept = 0;
        for entry in Dir::read_from(&place.directory.fd).map_err(place.failed(DOING))? {
            let entry = entry.map_err(place.failed(DOING))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if is_staged(name, &place.name) && is_abandoned(&place, name) {
                match unlinkat(&place.directory.fd, name, AtFlags::empty()) {
                    Ok(()) => swept += 1,
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(place.failed("remove a leftover beside it")(errno)),
                }
            }
        }
        Ok(swept)
    })
}

/// Whether `name` is one that [`stage`] gives for `target`.
fn is_staged(name: &OsStr, target: &OsStr) -> bool {
    name.as_bytes()
        .strip_prefix(b".")
        .and_then(|rest| rest.strip_prefix(target.as_bytes()))
        .and_then(|rest| rest.strip_prefix(MARK.as_bytes()))
        .is_some_and(|end| {
            end.len() == 2 * RANDOM
                && end
                    .iter()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        })
}

/// Whether a staged file is one of ours (or of whom we act as) and nobody holds its lock.
fn is_abandoned(place: &Place, name: &OsStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(&place.directory.fd, name, flags, Mode::empty()).is_ok_and(|file| {
        let is_ours = fstat(&file).is_ok_and(|found| found.st_uid == place.directory.rights.uid());
        is_ours && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
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
            ".a.outrigger-00c0ffee00c0ffee00c0ffee00c0ffee",
            ".a.outrigger-0123456789abcdef0123456789abcde",
            ".a.outrigger-0123456789abcdef0123456789abcdeG",
            ".b.outrigger-00c0ffee00c0ffee00c0ffee00c0ffee",
            "a.outrigger-00c0ffee00c0ffee00c0ffee00c0ffee",
        ] {
            File::create(folder.path().join(left)).unwrap();
        }
        let alive = stage(&target, b"x", 0o600, Owner::default()).unwrap();
        assert_eq!(sweep(&target).unwrap(), 1);
        assert!(alive.path().exists());
        assert!(
            !folder
                .path()
                .join(".a.outrigger-00c0ffee00c0ffee00c0ffee00c0ffee")
                .exists()
        );
        alive.publish().unwrap();
        assert_eq!(names(folder.path()).len(), 5);
    }

    /// Somewhere for a test with several owners: everybody may enter, only we may write.
    fn house() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn is_root(what: &str) -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED: {what}");
        }
        root
    }

    /// A user of this host that runs nothing.
    const APP: u32 = 54_321;

    #[test]
    fn a_parent_swapped_for_a_symlink_again_and_again_never_leads_a_write_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let (app, aside, outside) = (
            folder.path().join("app"),
            folder.path().join("aside"),
            folder.path().join("outside"),
        );
        fs::create_dir(&app).unwrap();
        fs::create_dir(&outside).unwrap();
        // As in a directory of the application's own: whoever swaps may do so.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let target = app.join("conf");
        let over = AtomicBool::new(false);
        let [swaps, attempts] = [0, 0].map(std::sync::atomic::AtomicU64::new);
        let (mut published, mut refused, mut unexpected) = (0_u32, 0_u32, None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::rename(&app, &aside).unwrap();
                    symlink(&outside, &app).unwrap();
                    fs::remove_file(&app).unwrap();
                    fs::rename(&aside, &app).unwrap();
                    let swapped = swaps.fetch_add(1, Ordering::Relaxed);
                    // Now and then a rest of a whole attempt: how the two are scheduled decides nothing.
                    let seen = attempts.load(Ordering::Relaxed);
                    while swapped % 16 == 0
                        && attempts.load(Ordering::Relaxed) < seen + 2
                        && !over.load(Ordering::Relaxed)
                    {
                        std::thread::yield_now();
                    }
                }
            });
            // Enough of both, so that neither outcome can be luck; a slow machine takes a little longer.
            for _ in 0..100_000 {
                attempts.fetch_add(1, Ordering::Relaxed);
                match put(&target, b"ours") {
                    Ok(()) => published += 1,
                    Err(
                        Error::Way(way::Error::Link { .. })
                        | Error::NoDirectory { .. }
                        | Error::Exchanged { .. },
                    ) => refused += 1,
                    Err(other) => unexpected = Some(other),
                }
                if unexpected.is_some() {
                    break;
                }
                if published >= 300 && refused >= 300 && swaps.load(Ordering::Relaxed) > 5_000 {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(unexpected.is_none(), "{unexpected:?}");
        assert!(published > 0 && refused > 0, "{published} {refused}");
        assert_eq!(names(&outside), [""; 0]);
        assert_eq!(fs::read(&target).unwrap(), b"ours");
        assert_eq!(names(&app), ["conf"], "and nothing half-done stays");
    }

    #[test]
    fn a_directory_that_was_exchanged_before_the_rename_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        fs::create_dir(&app).unwrap();
        let target = app.join("conf");
        let staged = stage(&target, b"new", 0o600, Owner::default()).unwrap();
        fs::rename(&app, folder.path().join("old")).unwrap();
        fs::create_dir(&app).unwrap();
        let said = staged.publish().unwrap_err().to_string();
        assert_eq!(
            said,
            format!(
                "{}: its directory was exchanged while the file was written",
                target.display()
            )
        );
        assert_eq!(names(&app), [""; 0]);
        put(&target, b"new").unwrap();
    }

    #[test]
    fn root_writes_into_an_application_directory_with_the_owners_rights_only() {
        if !is_root("only root has more rights than the owner of a directory") {
            return;
        }
        let folder = house();
        let (app, roots) = (folder.path().join("app"), folder.path().join("root"));
        for made in [&app, &roots] {
            fs::create_dir(made).unwrap();
        }
        std::os::unix::fs::chown(&app, Some(APP), Some(APP + 1)).unwrap();
        let target = app.join("conf");
        put(&target, b"one").unwrap();
        let found = current(&target, 9).unwrap().unwrap();
        assert_eq!((found.uid, found.gid, found.mode), (APP, APP + 1, 0o640));
        // What the owner can give it gives, what only root can give it does not.
        let own = Owner {
            uid: Some(APP),
            gid: Some(APP + 1),
        };
        stage(&target, b"two", 0o600, own)
            .unwrap()
            .publish()
            .unwrap();
        let foreign = Owner {
            uid: Some(0),
            gid: None,
        };
        let staged = stage(&target, b"three", 0o600, foreign).unwrap();
        let said = staged.publish().unwrap_err().to_string();
        assert_eq!(
            said,
            format!(
                "{}: `owner` cannot be given by user {APP}, whose directory it is and whose rights count there; leave `owner` out, or give the directory to root",
                target.display()
            )
        );
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert_eq!(names(&app), ["conf"]);
        // Unwritable to its owner is unwritable to root, and what the owner cannot read root does not read for him.
        fs::set_permissions(&app, fs::Permissions::from_mode(0o555)).unwrap();
        assert!(matches!(
            put(&target, b"four").unwrap_err(),
            Error::NotPermitted { .. }
        ));
        fs::set_permissions(&app, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&target, Some(0), Some(0)).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(current(&target, 9).unwrap(), None);
        put(&target, b"five").unwrap();
        assert_eq!(current(&target, 9).unwrap().unwrap().uid, APP);
        // A directory of root's is as it was.
        put(&roots.join("conf"), b"x").unwrap();
        assert_eq!(current(&roots.join("conf"), 9).unwrap().unwrap().uid, 0);
    }

    #[test]
    fn a_directory_that_anybody_can_write_to_is_refused_when_privileged() {
        if !is_root("an agent without privileges has nothing that could be borrowed") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let said = put(&folder.path().join("a"), b"x").unwrap_err().to_string();
        assert!(
            said.contains("everybody can write to this directory"),
            "{said}"
        );
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn a_fifo_or_device_at_the_target_is_refused_and_a_hard_link_is_replaced_and_nothing_is_written_through()
     {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let make = |name: &str, kind, device| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                at(name),
                kind,
                Mode::RUSR | Mode::WUSR,
                device,
            )
        };
        make("fifo", FileType::Fifo, 0).unwrap();
        let mut all = vec!["fifo"];
        // The null device: were it written to or replaced, a whole host would notice.
        match make(
            "device",
            FileType::CharacterDevice,
            rustix::fs::makedev(1, 3),
        ) {
            Ok(()) => all.push("device"),
            Err(errno) => eprintln!("SKIPPED in part: no device can be made here: {errno}"),
        }
        for name in all {
            let before = fs::symlink_metadata(at(name)).unwrap();
            for error in [
                put(&at(name), b"x").unwrap_err(),
                current(&at(name), 9).unwrap_err(),
                mend(&at(name), 0o600, Owner::default()).unwrap_err(),
                remove(&at(name)).unwrap_err(),
            ] {
                assert!(matches!(error, Error::Special { .. }), "{name}: {error}");
            }
            let after = fs::symlink_metadata(at(name)).unwrap();
            assert_eq!(
                (before.ino(), before.mode(), before.mtime_nsec()),
                (after.ino(), after.mode(), after.mtime_nsec())
            );
        }
        put(&at("theirs"), b"theirs").unwrap();
        fs::hard_link(at("theirs"), at("target")).unwrap();
        stage(&at("target"), b"ours", 0o600, Owner::default())
            .unwrap()
            .publish()
            .unwrap();
        assert_eq!(fs::read(at("theirs")).unwrap(), b"theirs");
        assert_eq!(fs::metadata(at("theirs")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read(at("target")).unwrap(), b"ours");
    }

    #[test]
    fn a_staged_file_exchanged_or_changed_after_validation_is_noticed_and_not_published() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        put(&target, b"old").unwrap();
        let staged = || stage(&target, b"new", 0o600, Owner::default()).unwrap();

        let exchanged = staged();
        fs::remove_file(exchanged.path()).unwrap();
        File::create(exchanged.path()).unwrap();
        let removed = staged();
        fs::remove_file(removed.path()).unwrap();
        let written = staged();
        let mut again = fs::OpenOptions::new()
            .write(true)
            .open(written.path())
            .unwrap();
        // The same length, so that only the time tells; the clock of a file system has steps.
        let before = fs::metadata(written.path()).unwrap();
        while fs::metadata(written.path()).unwrap().ctime_nsec() == before.ctime_nsec() {
            io::Seek::rewind(&mut again).unwrap();
            again.write_all(b"bad").unwrap();
        }
        let linked = staged();
        fs::hard_link(linked.path(), folder.path().join("kept")).unwrap();
        for tampered in [exchanged, removed, written, linked] {
            let error = tampered.publish().unwrap_err();
            assert!(matches!(error, Error::Tampered { .. }), "{error}");
            assert_eq!(fs::read(&target).unwrap(), b"old");
        }
        assert_eq!(names(folder.path()), ["a", "kept"]);
        // A time that changed alone is no harm: not every file system keeps it still.
        let touched = staged();
        let before = fs::metadata(touched.path()).unwrap();
        while fs::metadata(touched.path()).unwrap().ctime_nsec() == before.ctime_nsec() {
            fs::set_permissions(touched.path(), fs::Permissions::from_mode(0o600)).unwrap();
        }
        touched.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn no_reader_ever_sees_a_wider_mode_than_the_final_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    for name in names_if_there(folder.path()) {
                        let Ok(found) = fs::symlink_metadata(folder.path().join(name)) else {
                            continue;
                        };
                        assert_eq!(found.mode() & 0o777 & !0o604, 0, "{:o}", found.mode());
                        seen += 1;
                    }
                }
                seen
            });
            for _ in 0..300 {
                stage(&target, &[b'x'; 50_000], 0o604, Owner::default())
                    .unwrap()
                    .publish()
                    .unwrap();
            }
            over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }

    fn over(target: &Path, bytes: &[u8], backup: bool) -> Result<(), Error> {
        let manner = Manner {
            mode: 0o640,
            way: Way::InPlace,
            backup,
            ..Manner::default()
        };
        stage_in(target, bytes, &manner)?.publish()
    }

    #[test]
    fn in_place_the_same_file_has_the_new_content_under_all_its_names_and_a_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let target = at("a");
        over(&target, b"made anew", false).unwrap();
        fs::hard_link(&target, at("other")).unwrap();
        let before = fs::metadata(&target).unwrap().ino();
        for content in [&b"a longer content than before"[..], b"short", b""] {
            over(&target, content, false).unwrap();
            assert_eq!(fs::read(&target).unwrap(), content);
            assert_eq!(fs::read(at("other")).unwrap(), content);
        }
        let after = fs::metadata(&target).unwrap();
        assert_eq!((after.ino(), after.mode() & 0o777), (before, 0o640));
        assert_eq!(names(folder.path()), ["a", "other"]);
        symlink(&target, at("link")).unwrap();
        let error = over(&at("link"), b"x", false).unwrap_err();
        assert!(matches!(error, Error::LinkInPlace { .. }), "{error}");
        assert_eq!(fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn a_backup_is_the_one_content_before_with_its_mode_however_the_new_one_comes() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        let bak = folder.path().join("a.bak");
        let manner = Manner {
            mode: 0o600,
            backup: true,
            ..Manner::default()
        };
        let put = |bytes: &[u8]| stage_in(&target, bytes, &manner)?.publish();
        put(b"one").unwrap();
        assert!(!bak.exists());
        put(b"two").unwrap();
        assert_eq!(fs::read(&bak).unwrap(), b"one");
        over(&target, b"three", true).unwrap();
        assert_eq!(fs::read(&bak).unwrap(), b"two");
        assert_eq!(fs::metadata(&bak).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["a", "a.bak"]);
        // What cannot be kept is not thrown away.
        fs::remove_file(&bak).unwrap();
        fs::create_dir(&bak).unwrap();
        assert!(put(b"four").is_err());
        assert_eq!(fs::read(&target).unwrap(), b"three");
        assert_eq!(names(folder.path()), ["a", "a.bak"]);
    }

    #[test]
    fn a_file_that_takes_the_name_takes_over_the_attributes_and_has_its_own_mode_all_the_same() {
        use rustix::fs::{XattrFlags, getxattr, setxattr};
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        put(&target, b"one").unwrap();
        if let Err(errno) = setxattr(&target, "user.note", b"kept", XattrFlags::empty()) {
            eprintln!("SKIPPED: this file system has no attributes: {errno}");
            return;
        }
        put(&target, b"two").unwrap();
        let mut note = [0_u8; 16];
        let length = getxattr(&target, "user.note", &mut note).unwrap();
        assert_eq!(&note[..length], b"kept");
        let found = fs::metadata(&target).unwrap();
        assert_eq!(found.mode() & 0o777, 0o640);
        assert_eq!(fs::read(&target).unwrap(), b"two");
    }

    #[test]
    fn each_way_of_having_no_room_or_no_right_names_place_and_next_step() {
        let path = Path::new("/run/app/conf");
        let said = |errno| Error::of(path, "write beside it", errno).to_string();
        for (errno, words) in [
            (Errno::NOSPC, "make room (df, df -i), it is tried again"),
            (Errno::DQUOT, "the quota is used up, cannot write beside it"),
            (Errno::ROFS, "is read-only; mount a writable one there"),
            (Errno::BUSY, "write `publish: in_place`"),
            (Errno::XDEV, "write `publish: in_place`"),
            (Errno::ACCESS, "give the agent's user the right"),
            (Errno::ISDIR, "is a directory"),
        ] {
            let said = said(errno);
            assert!(
                said.starts_with("/run/app/conf: ") && said.contains(words),
                "{said}"
            );
        }
    }

    fn names_if_there(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect()
    }

    #[test]
    fn until_it_is_published_only_we_and_the_validators_group_can_read_what_is_staged() {
        let folder = house();
        let target = folder.path().join("a");
        let mut staged = stage(&target, b"x", 0o644, Owner::default()).unwrap();
        let is = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            (found.mode() & 0o777, found.uid(), found.gid())
        };
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            fs::metadata(staged.path()).unwrap().gid(),
        );
        assert_eq!(is(&staged.path()), (0o600, uid, gid));
        staged.show_to(uid, APP).unwrap();
        assert_eq!(is(&staged.path()), (0o600, uid, gid));
        if is_root("only root runs a validator as somebody else") {
            staged.show_to(APP, APP + 1).unwrap();
            assert_eq!(is(&staged.path()), (0o640, uid, APP + 1));
        }
        staged.publish().unwrap();
        assert_eq!(is(&target), (0o644, uid, gid));
    }
}
