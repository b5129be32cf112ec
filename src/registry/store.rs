//! The data directory: the rows of [`crate::registry::kept`] on disk, in one transactional file.
//!
//! The file is redb's, with two tables: the version of the format, and rows, keys and values as JSON. What is there is looked at
//! before anything is written: all of it is read, with its checksums, through a view that keeps writes to itself (after a kill the
//! file has to be recovered to be read). So a file that is damaged, or newer than this program, is refused and stays as it is. A
//! new file gets its name when it is complete.
//!
//! A commit that fails may be on disk all the same. The file is opened again before the next one, and what was taken back is written
//! once more as it was ([`Store::mend`]).
//!
//! Everything here blocks.

use crate::os::state;
use crate::os::state::StateDir;
use crate::registry::kept::Before;
use crate::registry::kept::Change;
use crate::registry::kept::Kept;
use crate::registry::kept::Key;
use crate::registry::kept::Rows;
use crate::registry::kept::VERSION;
use crate::registry::refusal::Refusal;
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    thread::JoinHandle,
};

/// The thread that looks at a file which may be damaged: how it ends is its answer, and a panic there is none of ours.
pub const LOOKER: &str = "looks at the store";
/// The file.
const FILE: &str = "registry.redb";
/// The file until it is complete.
const NEW: &str = "registry.redb.new";
/// Bytes of the file that are held in memory at most: what is read again is in memory already.
const CACHE: usize = 4 * 1024 * 1024;
/// About the file itself.
const META: TableDefinition<'static, &str, u32> = TableDefinition::new("meta");
/// The row of [`META`] with the version.
const FORMAT: &str = "format";
/// Keys and values as JSON.
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory itself.
    #[error(transparent)]
    Folder(#[from] state::Error),
    /// The system does not let us.
    #[error("{}: cannot be read or written: {what}; make it so, or name another data directory", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What it said.
        what: String,
    },
    /// It is not as it was written.
    #[error("{}: is damaged, and was left as it is: {what}; put back a copy of it, or move it away to begin empty", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        what: String,
    },
    /// A newer program wrote it.
    #[error("{}: has format {found}, and this outrigger knows {VERSION} and older ones; it was left as it is: use the outrigger that wrote it, or another data directory", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// A data directory, taken; dropping it lets another registry take it.
#[derive(Debug)]
pub(crate) struct Store {
    folder: StateDir,
    path: PathBuf,
    /// Not while a commit has failed.
    database: Option<Database>,
    /// Rows of commits that failed, as they were.
    doubtful: Before,
}

impl Store {
    /// Takes the directory, making what is not there; what is kept in it.
    ///
    /// # Errors
    /// [`Error`]; nothing was changed then, but that an empty directory may have been made.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Rows), Error> {
        let path = directory.join(FILE);
        let folder = StateDir::take_for("registry", directory, &[FILE, NEW])?;
        let system = |source: io::Error| Error::System {
            path: path.clone(),
            what: source.to_string(),
        };
        let rows = match folder.open(FILE, false) {
            Ok(file) => read(&path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(&folder).map_err(|error| Error::System {
                    path: path.clone(),
                    what: error.to_string(),
                })?;
                Rows::new()
            }
            Err(error) => return Err(system(error)),
        };
        let mut store = Self {
            folder,
            path,
            database: None,
            doubtful: Before::new(),
        };
        store.reopen()?;
        Ok((store, rows))
    }

    fn system(&self, error: &dyn std::error::Error) -> Error {
        Error::System {
            path: self.path.clone(),
            what: error.to_string(),
        }
    }

    /// What is kept is more than a registry takes.
    pub(crate) fn refused(&self, refusal: &Refusal) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            what: refusal.over_grpc().1,
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        let file = self.folder.open(FILE, false);
        let file = file.map_err(|error| self.system(&error))?;
        let database = builder().create_file(file);
        self.database = Some(database.map_err(|error| self.system(&error))?);
        Ok(())
    }

    /// Keeps these changes, all or none of them.
    ///
    /// # Errors
    /// [`Error::System`]; then nothing is kept any more before [`Store::mend`] has succeeded.
    pub(crate) fn commit(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        let rows: BTreeMap<&Key, Option<&Kept>> = changes
            .iter()
            .map(|change| (&change.key, change.is.as_ref()))
            .collect();
        let done = self.write(rows);
        if done.is_err() {
            for Change { key, was, .. } in changes {
                self.doubtful.entry(key).or_insert(was);
            }
        }
        done
    }

    /// Tries whether something can be kept again: what could not be kept is made what it was.
    ///
    /// # Errors
    /// [`Error::System`].
    pub(crate) fn mend(&mut self) -> Result<(), Error> {
        if self.database.is_none() {
            self.reopen()?;
        }
        let doubtful = std::mem::take(&mut self.doubtful);
        let rows = doubtful.iter().map(|(key, was)| (key, was.as_ref()));
        let done = self.write(rows.collect());
        if done.is_err() {
            self.doubtful = doubtful;
        }
        done
    }

    fn write(&mut self, rows: BTreeMap<&Key, Option<&Kept>>) -> Result<(), Error> {
        let Some(database) = &self.database else {
            return Err(Error::System {
                path: self.path.clone(),
                what: "it is not open, because it could not be written".to_owned(),
            });
        };
        // The library answers what it does not expect with a panic.
        let done = catch_unwind(AssertUnwindSafe(|| write(database, rows)));
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let error = self.system(&error);
                self.let_go();
                Err(error)
            }
            Err(_) => {
                self.let_go();
                Err(Error::System {
                    path: self.path.clone(),
                    what: "the transaction broke off, which is a bug of ours".to_owned(),
                })
            }
        }
    }

    /// Closes what no more can be done with.
    fn let_go(&mut self) {
        let database = self.database.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::debug!("the store could not be closed");
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// Makes an empty file, complete before it has its name.
fn create(folder: &StateDir) -> Result<(), redb::Error> {
    // A start that did not end has left it.
    folder.remove(NEW)?;
    let database = builder().create_file(folder.open(NEW, true)?)?;
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(FORMAT, VERSION)?;
    transaction.open_table(ROWS)?;
    transaction.commit()?;
    drop(database);
    Ok(folder.rename(NEW, FILE)?)
}

fn write(database: &Database, rows: BTreeMap<&Key, Option<&Kept>>) -> Result<(), redb::Error> {
    let json = |error: serde_json::Error| redb::Error::Io(error.into());
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(ROWS)?;
        for (key, kept) in rows {
            let key = serde_json::to_vec(key).map_err(json)?;
            match kept {
                Some(kept) => {
                    let kept = serde_json::to_vec(kept).map_err(json)?;
                    table.insert(&*key, &*kept)?;
                }
                None => drop(table.remove(&*key)?),
            }
        }
    }
    Ok(transaction.commit()?)
}

/// Reads a whole file without changing it.
fn read(path: &Path, file: File) -> Result<Rows, Error> {
    let damaged = |what: String| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    // What the library does not expect to find it answers with a panic, which says nothing but that: see `LOOKER`.
    let looker = thread::Builder::new().name(LOOKER.to_owned());
    let read = looker.spawn(move || rows(file)).map(JoinHandle::join);
    let read = read.map_err(|error| Error::System {
        path: path.to_owned(),
        what: error.to_string(),
    })?;
    match read.map_err(|_| damaged("its pages do not fit together".to_owned()))? {
        Ok(rows) => Ok(rows),
        Err(Unread::Newer(found)) => Err(Error::Newer {
            path: path.to_owned(),
            found,
        }),
        Err(Unread::Damaged(what)) => Err(damaged(what)),
        Err(Unread::System(error)) => Err(Error::System {
            path: path.to_owned(),
            what: error.to_string(),
        }),
    }
}

/// Why a file is not read.
enum Unread {
    Newer(u32),
    Damaged(String),
    System(io::Error),
}

impl<E: Into<redb::Error>> From<E> for Unread {
    fn from(error: E) -> Self {
        match error.into() {
            // The file ends before what it says it has.
            redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged("it is cut short".to_owned())
            }
            redb::Error::Io(error) if error.raw_os_error().is_some() => Self::System(error),
            error => Self::Damaged(error.to_string()),
        }
    }
}

fn rows(file: File) -> Result<Rows, Unread> {
    if file.metadata()?.len() == 0 {
        return Err(Unread::Damaged("it is empty".to_owned()));
    }
    let mut database = builder().create_with_backend(View::of(file)?)?;
    let format = {
        let transaction = database.begin_read()?;
        let meta = transaction.open_table(META)?;
        meta.get(FORMAT)?.map(|format| format.value())
    };
    match format {
        Some(VERSION) => {}
        Some(found) if found > VERSION => return Err(Unread::Newer(found)),
        _ => {
            return Err(Unread::Damaged(
                "it does not say which format it has".to_owned(),
            ));
        }
    }
    if !database.check_integrity()? {
        return Err(Unread::Damaged("its checksums do not hold".to_owned()));
    }
    let transaction = database.begin_read()?;
    let table = transaction.open_table(ROWS)?;
    let mut rows = Rows::new();
    for row in table.iter()? {
        let (key, kept) = row?;
        let key: Key = serde_json::from_slice(key.value())
            .map_err(|error| Unread::Damaged(format!("a key cannot be read: {error}")))?;
        let kept: Kept = serde_json::from_slice(kept.value())
            .map_err(|error| Unread::Damaged(format!("{key:?} cannot be read: {error}")))?;
        if !kept.is_of(&key) {
            return Err(Unread::Damaged(format!("{key:?} holds something else")));
        }
        rows.insert(key, kept);
    }
    Ok(rows)
}

/// Bytes that are kept together when one of them is written.
const BLOCK: usize = 4096;

/// A file as it is, with what was written since, which goes nowhere.
#[derive(Debug)]
struct View {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    /// Of the whole.
    length: u64,
    /// How much of the file still counts.
    of_file: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl View {
    fn of(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let written = Mutex::new(Written {
            length,
            of_file: length,
            blocks: BTreeMap::new(),
        });
        Ok(Self { file, written })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Written) -> T) -> T {
        work(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Written {
    /// A block as it is seen.
    fn block(&self, file: &File, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK].into_boxed_slice();
        let from = number * BLOCK as u64;
        let there = self.of_file.saturating_sub(from).min(BLOCK as u64);
        if let Some(there) = block.get_mut(..usize::try_from(there).unwrap_or(BLOCK)) {
            file.read_exact_at(there, from)?;
        }
        Ok(block)
    }
}

/// The pieces of a range of so many bytes: in which block, from where in it, and how many.
fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset.saturating_add(bytes as u64);
    std::iter::from_fn(move || {
        let from = usize::try_from(at % BLOCK as u64).unwrap_or(0);
        let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = left.min(BLOCK - from);
        let piece = (at / BLOCK as u64, from, length);
        at += length as u64;
        (length > 0).then_some(piece)
    })
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|written| written.length))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|written| {
            let end = offset.checked_add(out.len() as u64);
            if end.is_none_or(|end| end > written.length) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let pieces = pieces(offset, out.len());
            let mut out = out;
            for (number, from, length) in pieces {
                let block = written.block(&self.file, number)?;
                let (piece, rest) = out.split_at_mut(length);
                piece.copy_from_slice(block.get(from..from + length).unwrap_or_default());
                out = rest;
            }
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|written| {
            written.length = length;
            written.of_file = written.of_file.min(length);
            _ = written.blocks.split_off(&length.div_ceil(BLOCK as u64));
            let from = usize::try_from(length % BLOCK as u64).unwrap_or(0);
            let last = written.blocks.get_mut(&(length / BLOCK as u64));
            if let Some(gone) = last.and_then(|block| block.get_mut(from..)) {
                gone.fill(0);
            }
        });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        self.with(|written| {
            for (number, from, length) in pieces(offset, data.len()) {
                let mut block = written.block(&self.file, number)?;
                let (piece, rest) = data.split_at(length);
                if let Some(place) = block.get_mut(from..from + length) {
                    place.copy_from_slice(piece);
                }
                written.blocks.insert(number, block);
                data = rest;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "nobody reads what a test writes meanwhile"
)]
mod tests {
    use super::*;
    use crate::registry::kept::Instance;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    fn instance(port: u16, weight: f64) -> Change {
        let text = format!(r#"{{"instance":[["public","g","s"],"10.0.0.1",{port},"DEFAULT"]}}"#);
        let instance = Instance {
            weight,
            enabled: true,
            metadata: BTreeMap::new(),
            said: true,
            bare: false,
            without_id: false,
        };
        Change {
            key: serde_json::from_str(&text).unwrap(),
            was: None,
            is: Some(Kept::Instance(instance)),
        }
    }

    fn file(directory: &Path) -> PathBuf {
        directory.join(FILE)
    }

    #[test]
    fn what_is_committed_is_there_again_and_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not/there");
        let (mut store, rows) = Store::open(&path).unwrap();
        assert!(rows.is_empty());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&file(&path))), (0o700, 0o600));
        let second = Store::open(&path).unwrap_err().to_string();
        assert!(second.contains("another registry uses it"), "{second}");
        store
            .commit(vec![instance(1, 0.1), instance(2, f64::INFINITY)])
            .unwrap();
        let gone = Change {
            is: None,
            ..instance(1, 0.1)
        };
        // Two changes of one row are one.
        store
            .commit(vec![instance(3, 1.0), gone, instance(3, 2.0)])
            .unwrap();
        drop(store);
        let (_store, rows) = Store::open(&path).unwrap();
        let wanted = [instance(2, f64::INFINITY), instance(3, 2.0)];
        let wanted = wanted.map(|change| (change.key, change.is.unwrap()));
        assert_eq!(rows, Rows::from(wanted));
    }

    #[test]
    fn a_start_that_broke_off_leaves_nothing_that_matters() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NEW), "half").unwrap();
        drop(Store::open(folder.path()).unwrap());
        assert!(!folder.path().join(NEW).exists());
    }

    /// Opens a file with these bytes; whatever is refused stays as it is.
    fn open(bytes: &[u8]) -> Result<Rows, Error> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(file(folder.path()), bytes).unwrap();
        let opened = Store::open(folder.path()).map(|(_, rows)| rows);
        if opened.is_err() {
            assert!(
                fs::read(file(folder.path())).unwrap() == bytes,
                "it was changed"
            );
        }
        opened
    }

    fn some() -> (Vec<u8>, Rows) {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        store
            .commit((0..50).map(|port| instance(port, 1.0)).collect())
            .unwrap();
        drop(store);
        let bytes = fs::read(file(folder.path())).unwrap();
        let rows = open(&bytes).unwrap();
        (bytes, rows)
    }

    #[test]
    fn what_is_damaged_is_refused_and_left_as_it_is_whatever_is_wrong() {
        let (bytes, rows) = some();
        for wrong in [
            &b""[..],
            b"not a store",
            &[0; 8192],
            &bytes[..bytes.len() / 2],
        ] {
            let error = open(wrong).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
        }
        let used = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0);
        let used: Vec<usize> = used.map(|(at, _)| at).collect();
        let mut refused = 0;
        for at in used.iter().step_by(used.len() / 150 + 1) {
            let mut bytes = bytes.clone();
            bytes[*at] ^= 0x41;
            match open(&bytes) {
                Ok(read) => assert_eq!(read, rows, "at {at}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 20, "{refused}");
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        let database = Database::open(file(folder.path())).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert(FORMAT, VERSION + 1)
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let bytes = fs::read(file(folder.path())).unwrap();
        let error = open(&bytes).unwrap_err().to_string();
        assert!(
            error.contains("has format 2, and this outrigger knows 1"),
            "{error}"
        );
    }

    #[test]
    fn after_a_commit_that_failed_nothing_is_kept_until_what_it_changed_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        store.commit(vec![instance(1, 1.0)]).unwrap();
        // As if it had been written, and the answer of the disk had not come.
        store
            .commit(vec![instance(1, 2.0), instance(2, 1.0)])
            .unwrap();
        store.let_go();
        let mut failed = instance(1, 2.0);
        failed.was = instance(1, 1.0).is;
        assert!(store.commit(vec![failed, instance(2, 1.0)]).is_err());
        assert!(store.commit(vec![instance(3, 1.0)]).is_err());
        store.mend().unwrap();
        store.commit(vec![instance(4, 1.0)]).unwrap();
        drop(store);
        let (_store, rows) = Store::open(folder.path()).unwrap();
        let wanted = [instance(1, 1.0), instance(4, 1.0)];
        let wanted = wanted.map(|change| (change.key, change.is.unwrap()));
        assert_eq!(rows, Rows::from(wanted));
    }

    /// A view with writes of its own reads as a file would.
    #[test]
    fn a_view_reads_what_was_written_and_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut wanted = vec![7; 10_000];
        fs::write(&path, &wanted).unwrap();
        let view = View::of(File::open(&path).unwrap()).unwrap();
        view.write(4_090, &[1; 20]).unwrap();
        wanted[4_090..4_110].fill(1);
        view.set_len(9_000).unwrap();
        view.set_len(20_000).unwrap();
        wanted.resize(9_000, 0);
        wanted.resize(20_000, 0);
        let mut read = vec![9; 20_000];
        view.read(0, &mut read).unwrap();
        assert!(read == wanted);
        assert!(view.read(19_999, &mut [0; 2]).is_err());
        assert_eq!(fs::read(&path).unwrap(), [7; 10_000]);
    }
}
