//! Exchanges several files of one directory at once: `DIR/name` leads through `DIR/..data` to the version that counts.
//!
//! ```text
//! DIR/a.conf -> ..data/a.conf      DIR/..data -> ..v-HASH      DIR/..v-HASH/a.conf, b.conf
//! ```
//!
//! A new version is a directory of its own, made under another name, complete and synced before it has its own; then one rename of
//! the link exchanges all files. It is named after what is in it. What the changes do not speak of comes along from the version
//! before (as another name of the same file). One version before the current one is kept, for readers that are in the middle of it;
//! all others, and whatever a crash left half-made, go with the next publication. This is how the kubelet lays out ConfigMaps and
//! git-sync its checkouts, so whatever can watch those can watch this.
//!
//! Who opens two files through the link may still see the link change in between: whoever wants both of one version opens the
//! directory `..data` once and both files in it.
//!
//! Everything here blocks.

use super::publish::{Error, Found, Owner, Place};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, fsync, linkat,
        mkdirat, openat, readlinkat, renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

/// The link that leads to the version that counts.
const DATA: &str = "..data";
/// How versions are called.
const VERSION: &str = "..v-";
/// What is not complete yet.
const NEW: &str = "..new";
/// The link before it has its name.
const NEW_LINK: &str = "..data.new";
/// Bytes of the hash in the name of a version.
const HASH: usize = 8;
const DOING: &str = "make a new version of its directory";

/// One file of a new version.
#[derive(Clone)]
pub struct Change {
    /// Where it is seen.
    pub path: PathBuf,
    /// `None` leaves it out.
    pub content: Option<Vec<u8>>,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: Owner,
}

/// Makes one version with all changes, which are of one directory, and exchanges it for the current one.
///
/// # Errors
/// [`Error`]; readers see the version before then.
pub fn publish(changes: &[Change]) -> Result<(), Error> {
    let Some(first) = changes.first() else {
        return Ok(());
    };
    let place = Place::of(&first.path)?;
    let mut wanted: BTreeMap<OsString, &Change> = BTreeMap::new();
    for change in changes {
        let name = change.path.file_name().filter(|name| is_free(name));
        let name = name.ok_or_else(|| Error::NoName {
            path: change.path.clone(),
        })?;
        wanted.insert(name.to_owned(), change);
    }
    place.act(|| exchange(&place, &wanted))
}

/// Names that begin with two dots are ours.
fn is_free(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(b"..")
}

fn exchange(place: &Place, wanted: &BTreeMap<OsString, &Change>) -> Result<(), Error> {
    let failed = place.failed(DOING);
    let directory = &place.directory.fd;
    // One at a time, also of two agents; who comes second tries again later.
    let lock = open_directory(directory, OsStr::new(".")).map_err(&failed)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(&failed)?;
    for name in wanted.keys() {
        place.may_be_replaced_at(name)?;
    }
    let old = current_version(place)?;
    clear(directory, OsStr::new(NEW)).map_err(&failed)?;
    let version = build(place, old.as_deref(), wanted)?;
    remove(directory, OsStr::new(NEW_LINK)).map_err(&failed)?;
    symlinkat(&version, directory, NEW_LINK).map_err(&failed)?;
    renameat(directory, NEW_LINK, directory, DATA).map_err(&failed)?;
    place.sync();
    for (name, change) in wanted {
        if change.content.is_none() {
            remove(directory, name).map_err(&failed)?;
        } else if !is_linked(directory, name) {
            symlinkat(way_to(name), directory, NEW_LINK).map_err(&failed)?;
            renameat(directory, NEW_LINK, directory, name).map_err(&failed)?;
        }
    }
    place.sync();
    // What cannot be removed now is with the next version.
    _ = sweep(directory, &[Some(&version), old.as_ref()]);
    Ok(())
}

/// Makes the new version complete; answers its name.
fn build(
    place: &Place,
    old: Option<&OsStr>,
    wanted: &BTreeMap<OsString, &Change>,
) -> Result<OsString, Error> {
    let failed = place.failed(DOING);
    let directory = &place.directory.fd;
    mkdirat(directory, NEW, Mode::RWXU).map_err(&failed)?;
    let new = open_directory(directory, OsStr::new(NEW)).map_err(&failed)?;
    if let Some(old) = old {
        let old = open_directory(directory, old).map_err(&failed)?;
        for name in names(&old).map_err(&failed)? {
            if !wanted.contains_key(&name) {
                linkat(&old, &name, &new, &name, AtFlags::empty()).map_err(&failed)?;
            }
        }
    }
    for (name, change) in wanted {
        let Some(content) = &change.content else {
            continue;
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&new, name, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
        let mut file = File::from(file);
        file.write_all(content)
            .map_err(|source| Error::io(&change.path, DOING, source))?;
        let file = OwnedFd::from(file);
        place.give(&file, change.mode, change.owner)?;
        fsync(&file).map_err(&failed)?;
    }
    let mut version = OsString::from(VERSION);
    version.push(hash(place, &new)?);
    if old == Some(&*version) {
        // Somebody has changed what is in it: it is not what its name says.
        version.push(".1");
    }
    // Whoever may see the directory may see the version.
    let seen = fstat(directory).map_err(&failed)?;
    fchmod(&new, Mode::from_raw_mode(seen.st_mode & 0o777)).map_err(&failed)?;
    fsync(&new).map_err(&failed)?;
    clear(directory, &version).map_err(&failed)?;
    renameat(directory, NEW, directory, &version).map_err(&failed)?;
    Ok(version)
}

/// Of names, modes and contents.
fn hash(place: &Place, version: &OwnedFd) -> Result<String, Error> {
    let failed = place.failed(DOING);
    let mut sum = Sha256::new();
    for name in names(version).map_err(&failed)? {
        let (file, mode) = open_file(version, &name).map_err(&failed)?;
        let mut content = Vec::new();
        File::from(file)
            .read_to_end(&mut content)
            .map_err(|source| Error::io(&place.path, DOING, source))?;
        for part in [name.as_bytes(), &mode.to_le_bytes(), &content] {
            sum.update(part.len().to_le_bytes());
            sum.update(part);
        }
    }
    let mut text = String::new();
    for byte in sum.finalize().iter().take(HASH) {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The name of the version that counts.
fn current_version(place: &Place) -> Result<Option<OsString>, Error> {
    match readlinkat(&place.directory.fd, DATA, Vec::new()) {
        Ok(version) => {
            let version = OsString::from_vec(version.into_bytes());
            let bytes = version.as_bytes();
            if bytes.starts_with(VERSION.as_bytes()) && !bytes.contains(&b'/') {
                Ok(Some(version))
            } else {
                Err(Error::Layout {
                    path: place.path.with_file_name(DATA),
                })
            }
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::INVAL) => Err(Error::Layout {
            path: place.path.with_file_name(DATA),
        }),
        Err(errno) => Err(place.failed(DOING)(errno)),
    }
}

/// The file as it is in the version that counts, at most `limit` bytes of it and one more; `None` when the path does not lead there.
///
/// # Errors
/// [`Error`].
pub fn current(target: &Path, limit: u64) -> Result<Option<Found>, Error> {
    let place = Place::of(target)?;
    place.act(|| {
        let failed = place.failed("read it");
        place.may_be_replaced_at(&place.name)?;
        let Some(version) = current_version(&place)? else {
            return Ok(None);
        };
        if !is_linked(&place.directory.fd, &place.name) {
            return Ok(None);
        }
        let opened = open_directory(&place.directory.fd, &version)
            .and_then(|version| open_file(&version, &place.name));
        let file = match opened {
            Ok((file, _)) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = fstat(&file).map_err(&failed)?;
        Found::read(target, file, &stat, limit).map(Some)
    })
}

fn way_to(name: &OsStr) -> OsString {
    let mut way = OsString::from(DATA);
    way.push("/");
    way.push(name);
    way
}

fn is_linked(directory: impl AsFd, name: &OsStr) -> bool {
    readlinkat(directory, name, Vec::new())
        .is_ok_and(|way| way.as_bytes() == way_to(name).as_bytes())
}

fn open_directory(directory: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// A file and its mode.
fn open_file(directory: impl AsFd, name: &OsStr) -> Result<(OwnedFd, u32), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        Ok((file, stat.st_mode & 0o7777))
    } else {
        Err(Errno::INVAL)
    }
}

/// All names in it, in order.
fn names(directory: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a file or link, should there be one.
fn remove(directory: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Removes a version with all that is in it, should there be one.
fn clear(directory: &OwnedFd, version: &OsStr) -> Result<(), Errno> {
    let inside = match open_directory(directory, version) {
        Ok(inside) => inside,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for name in names(&inside)? {
        remove(&inside, &name)?;
    }
    unlinkat(directory, version, AtFlags::REMOVEDIR)
}

fn sweep(directory: &OwnedFd, kept: &[Option<&OsString>]) -> Result<(), Errno> {
    for name in names(directory)? {
        let is_version = name.as_bytes().starts_with(VERSION.as_bytes());
        let is_directory = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if is_version && is_directory && !kept.contains(&Some(&name)) {
            clear(directory, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        sync::atomic::{AtomicBool, Ordering},
    };

    fn change(folder: &Path, name: &str, content: Option<&str>) -> Change {
        Change {
            path: folder.join(name),
            content: content.map(|content| content.as_bytes().to_vec()),
            mode: 0o640,
            owner: Owner::default(),
        }
    }

    fn seen(folder: &Path) -> Vec<String> {
        let directory = File::open(folder).unwrap();
        let names = names(&directory).unwrap();
        names
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .collect()
    }

    fn versions(folder: &Path) -> usize {
        let all = seen(folder);
        all.iter().filter(|name| name.starts_with(VERSION)).count()
    }

    #[test]
    fn a_reader_of_two_files_through_one_directory_never_sees_two_versions() {
        let folder = tempfile::tempdir().unwrap();
        let over = AtomicBool::new(false);
        let put = |number: usize| {
            let text = number.to_string();
            publish(&[
                change(folder.path(), "a", Some(&text)),
                change(folder.path(), "b", Some(&text)),
            ])
            .unwrap();
        };
        put(0);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    let data = File::open(folder.path().join(DATA)).unwrap();
                    let read = |name: &str| {
                        let (file, _) = open_file(&data, OsStr::new(name)).ok()?;
                        let mut text = String::new();
                        File::from(file).read_to_string(&mut text).unwrap();
                        Some(text)
                    };
                    // A reader that sleeps over two versions finds nothing, but never something of both.
                    if let (Some(a), Some(b)) = (read("a"), read("b")) {
                        assert_eq!(a, b);
                        seen += 1;
                    }
                    assert!(
                        fs::read(folder.path().join("a")).is_ok() || versions(folder.path()) > 0
                    );
                }
                seen
            });
            for number in 1..200 {
                put(number);
            }
            over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
        assert_eq!(versions(folder.path()), 2, "{:?}", seen(folder.path()));
    }

    #[test]
    fn what_a_change_does_not_name_comes_along_and_what_it_takes_out_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        publish(&[
            change(folder.path(), "a", Some("a")),
            change(folder.path(), "b", Some("b")),
        ])
        .unwrap();
        publish(&[change(folder.path(), "b", Some("b2"))]).unwrap();
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "a");
        assert_eq!(fs::read_to_string(at("b")).unwrap(), "b2");
        let mode = fs::metadata(at("b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(fs::read_link(at("a")).unwrap(), Path::new("..data/a"));
        publish(&[change(folder.path(), "a", None)]).unwrap();
        assert!(fs::symlink_metadata(at("a")).is_err());
        let found = current(&at("b"), 9).unwrap().unwrap();
        assert_eq!((&*found.bytes, found.mode), (&b"b2"[..], 0o640));
        assert!(current(&at("a"), 9).unwrap().is_none());
    }

    #[test]
    fn the_name_of_a_version_is_its_content_and_one_that_was_edited_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let put = || publish(&[change(folder.path(), "a", Some("a"))]).unwrap();
        put();
        let first = fs::read_link(at(DATA)).unwrap();
        let other = tempfile::tempdir().unwrap();
        publish(&[change(other.path(), "a", Some("a"))]).unwrap();
        assert_eq!(fs::read_link(other.path().join(DATA)).unwrap(), first);
        fs::OpenOptions::new()
            .append(true)
            .open(at("a"))
            .and_then(|mut file| file.write_all(b"by hand"))
            .unwrap();
        put();
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "a");
        put();
        assert_eq!(fs::read_link(at(DATA)).unwrap(), first);
        assert_eq!(versions(folder.path()), 2);
    }

    #[test]
    fn what_a_crash_left_is_swept_and_what_is_somebody_elses_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for left in [NEW, "..v-dead", "..v-beef"] {
            fs::create_dir(at(left)).unwrap();
            File::create(at(left).join("half")).unwrap();
        }
        symlink("..v-nowhere", at(NEW_LINK)).unwrap();
        File::create(at("a")).unwrap();
        publish(&[change(folder.path(), "a", Some("a"))]).unwrap();
        let all = seen(folder.path());
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "a");

        let theirs = tempfile::tempdir().unwrap();
        fs::create_dir(theirs.path().join("..2026")).unwrap();
        symlink("..2026", theirs.path().join(DATA)).unwrap();
        let error = publish(&[change(theirs.path(), "a", Some("a"))]).unwrap_err();
        assert!(matches!(error, Error::Layout { .. }), "{error}");
        assert_eq!(seen(theirs.path()), ["..2026", DATA]);
        assert!(publish(&[change(folder.path(), "..data", Some("a"))]).is_err());
    }
}
