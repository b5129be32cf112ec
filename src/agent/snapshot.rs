//! Keeps the last good content of each configuration, for a start without the registry.
//!
//! One file per configuration in a folder only we can read, named by the hash of the key and published like any target, so a
//! crash leaves the old or the new one. The first line says whose content follows, how long it is and its MD5; what does not
//! agree with it is no snapshot. A content is saved when it is in place, hence after it was validated, and forgotten when the
//! registry says that there is no such configuration.
//!
//! Everything but [`Snapshots::new`] blocks.

use crate::nacos::model::{ConfigKey, Content};
use crate::nacos::wire::md5_hex;
use crate::os::publish;
use crate::os::state::others_write;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

/// A larger content is not kept; the largest `max_size` anybody needs is far below.
const LIMIT: usize = 64 * 1024 * 1024;
/// All of them together; of those that nobody has used since the start the oldest go first.
const ROOM: u64 = 256 * 1024 * 1024;
/// Of the first line: three names of at most 256 characters of 4 bytes, escaped, and two numbers fit.
const HEADER: usize = 8 * 1024;
/// Of the file format.
const VERSION: u32 = 1;

/// Why a snapshot could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be made.
    #[error("{}: cannot make the folder of snapshots; correct `state_dir`, or give the agent's user the right", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] publish::Error),
    /// The file is not a snapshot of this configuration.
    #[error("{}: not a snapshot of {key}: {what}; it is left alone until a new content comes", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Whose it should be.
        key: ConfigKey,
        /// What was expected and found.
        what: &'static str,
    },
}

/// The first line of a snapshot, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    namespace: String,
    group: String,
    data_id: String,
    md5: String,
    size: usize,
}

impl Header {
    fn of(key: &ConfigKey, content: &Content) -> Self {
        Self {
            version: VERSION,
            namespace: key.namespace.to_string(),
            group: key.group.to_string(),
            data_id: key.data_id.to_string(),
            md5: content.md5.to_string(),
            size: content.bytes.len(),
        }
    }
}

/// The folder of snapshots.
#[derive(Debug)]
pub struct Snapshots {
    folder: PathBuf,
    /// What is kept, by MD5: two targets of one configuration save it once. Held while a file is written, so that saving and
    /// forgetting keep their order.
    kept: Mutex<BTreeMap<ConfigKey, Arc<str>>>,
    /// Whose leftovers of a crash were looked for.
    swept: Mutex<BTreeSet<ConfigKey>>,
    room: u64,
    /// Bytes saved since room was made; looking at a large folder is not for every save.
    saved: AtomicU64,
}

impl Snapshots {
    /// Those in the folder of that name in `state_dir`; it is made when the first is saved.
    #[must_use]
    pub fn new(state_dir: &Path, name: &str) -> Self {
        Self {
            folder: state_dir.join(name),
            kept: Mutex::default(),
            swept: Mutex::default(),
            room: ROOM,
            saved: AtomicU64::new(ROOM),
        }
    }

    fn path(&self, key: &ConfigKey) -> PathBuf {
        let name = format!("{}\0{}\0{}", key.namespace, key.group, key.data_id);
        self.folder.join(md5_hex(name.as_bytes()))
    }

    /// Keeps `content`; true when it was written, false when it is kept already or too large.
    ///
    /// # Errors
    /// [`Error`]; the old snapshot is still there then.
    pub fn save(&self, key: &ConfigKey, content: &Content) -> Result<bool, Error> {
        if content.bytes.len() > LIMIT {
            return Ok(false);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.get(key) == Some(&content.md5) {
            return Ok(false);
        }
        // An earlier run may have kept it: a start at which nothing is new writes nothing.
        if !kept.contains_key(key) && self.has(key, content) {
            kept.insert(key.clone(), Arc::clone(&content.md5));
            return Ok(false);
        }
        self.make_folder()?;
        self.sweep(key);
        let mut bytes = serde_json::to_vec(&Header::of(key, content))
            .map_err(io::Error::from)
            .map_err(|source| Error::Folder {
                folder: self.folder.clone(),
                source,
            })?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&content.bytes);
        let path = self.path(key);
        publish::stage(&path, &bytes, 0o600, publish::Owner::default())?.publish()?;
        kept.insert(key.clone(), Arc::clone(&content.md5));
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let before = self.saved.fetch_add(length, Ordering::Relaxed);
        if before.saturating_add(length) >= self.room / 16 {
            self.saved.store(0, Ordering::Relaxed);
            let used: BTreeSet<PathBuf> = kept.keys().map(|key| self.path(key)).collect();
            self.make_room(&used);
        }
        Ok(true)
    }

    /// Removes the oldest of configurations that are wanted no more, until all fit.
    fn make_room(&self, used: &BTreeSet<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let mut all: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let found = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
                Some((found.modified().ok()?, found.len(), entry.path()))
            })
            .collect();
        let mut together: u64 = all.iter().map(|(_, length, _)| length).sum();
        all.sort();
        for (_, length, path) in all {
            if together <= self.room {
                return;
            }
            // What cannot be removed now is looked at again with the next one.
            if !used.contains(&path) && publish::remove(&path).is_ok() {
                together = together.saturating_sub(length);
            }
        }
    }

    /// Once for each configuration: what a crash left beside its snapshot is as long and as secret as the snapshot.
    fn sweep(&self, key: &ConfigKey) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if !swept.insert(key.clone()) {
            return;
        }
        match publish::sweep(&self.path(key)) {
            Ok(_) | Err(publish::Error::NoDirectory { .. }) => {}
            Err(error) => tracing::warn!(%error, config = %key, "leftovers cannot be removed"),
        }
    }

    fn make_folder(&self) -> Result<(), Error> {
        let failed = |source| Error::Folder {
            folder: self.folder.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(failed)
    }

    /// Whether this very content is kept.
    fn has(&self, key: &ConfigKey, content: &Content) -> bool {
        matches!(self.read(key), Ok(Some(found)) if found.md5 == content.md5)
    }

    /// The content that was kept; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the file is of another configuration, cut or altered.
    pub fn load(&self, key: &ConfigKey) -> Result<Option<Content>, Error> {
        let content = self.read(key)?;
        if let Some(content) = &content {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(key.clone(), Arc::clone(&content.md5));
        }
        Ok(content)
    }

    fn read(&self, key: &ConfigKey) -> Result<Option<Content>, Error> {
        self.sweep(key);
        let path = self.path(key);
        let limit = u64::try_from(LIMIT + HEADER).unwrap_or(u64::MAX);
        let found = match publish::current(&path, limit) {
            Ok(Some(found)) => found,
            Ok(None) | Err(publish::Error::NoDirectory { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |what| Error::Damaged {
            path: path.clone(),
            key: key.clone(),
            what,
        };
        // What we wrote is ours; a sum within the file says only that it was not cut.
        if found.uid != rustix::process::geteuid().as_raw() || found.mode & others_write() != 0 {
            return Err(damaged("somebody else may have written it"));
        }
        let first = found.bytes.iter().take(HEADER);
        let end = first
            .clone()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| damaged("it has no header"))?;
        let (header, content) = found.bytes.split_at(end);
        let bytes = content.get(1..).unwrap_or_default();
        let header: Header = serde_json::from_slice(header)
            .map_err(|_| damaged("its header is not one of this version"))?;
        let content = Content {
            bytes: bytes.into(),
            md5: md5_hex(bytes).into(),
            modified: None,
        };
        if header.md5 != *content.md5 || header.size != bytes.len() {
            return Err(damaged("its content does not have the MD5 of its header"));
        }
        if header != Header::of(key, &content) {
            return Err(damaged("its header names another configuration"));
        }
        Ok(Some(content))
    }

    /// Removes what is kept: the registry says that there is no such configuration.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be removed.
    pub fn forget(&self, key: &ConfigKey) -> Result<(), Error> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(key);
        self.sweep(key);
        publish::remove(&self.path(key))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;
    use std::{
        fs::{self, OpenOptions},
        io::{Seek as _, SeekFrom, Write as _},
        os::unix::fs::PermissionsExt as _,
    };

    fn key(data_id: &str) -> ConfigKey {
        ConfigKey {
            namespace: Namespace::public(),
            group: "G".into(),
            data_id: data_id.into(),
        }
    }

    fn content(text: &str) -> Content {
        Content {
            bytes: text.as_bytes().into(),
            md5: md5_hex(text.as_bytes()).into(),
            modified: None,
        }
    }

    #[test]
    fn what_is_saved_is_read_by_the_next_run_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let first = Snapshots::new(&folder.path().join("state"), "snapshots");
        assert_eq!(first.load(&key("a")).unwrap(), None);
        assert!(first.save(&key("a"), &content("one\ntwo")).unwrap());
        assert!(!first.save(&key("a"), &content("one\ntwo")).unwrap());
        assert!(first.save(&key("b"), &content("")).unwrap());
        let next = Snapshots::new(&folder.path().join("state"), "snapshots");
        assert_eq!(next.load(&key("a")).unwrap(), Some(content("one\ntwo")));
        assert_eq!(next.load(&key("b")).unwrap(), Some(content("")));
        assert_eq!(next.load(&key("c")).unwrap(), None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&next.folder), 0o700);
        assert_eq!(mode(&next.path(&key("a"))), 0o600);
        next.forget(&key("a")).unwrap();
        next.forget(&key("a")).unwrap();
        assert_eq!(first.load(&key("a")).unwrap(), None);
    }

    #[test]
    fn all_together_have_a_limit_and_the_oldest_that_nobody_wants_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let before = Snapshots::new(folder.path(), "snapshots");
        for name in ["a", "b", "c"] {
            before
                .save(&key(name), &content(&"x".repeat(1000)))
                .unwrap();
            // Their order is that of their times, and the clock of a file system has steps.
            let written = SystemTime::UNIX_EPOCH
                + std::time::Duration::from_secs(u64::from(name.as_bytes()[0]));
            let file = fs::File::options()
                .append(true)
                .open(before.path(&key(name)));
            file.unwrap().set_modified(written).unwrap();
        }
        let one = fs::metadata(before.path(&key("a"))).unwrap().len();
        let mut now = Snapshots::new(folder.path(), "snapshots");
        now.room = 3 * one;
        assert!(now.load(&key("a")).unwrap().is_some(), "it is used");
        now.save(&key("d"), &content(&"x".repeat(1000))).unwrap();
        let left: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .filter(|name| now.path(&key(name)).exists())
            .collect();
        assert_eq!(left, ["a", "c", "d"]);
    }

    #[test]
    fn a_snapshot_that_somebody_else_planted_is_never_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(folder.path(), "snapshots");
        snapshots.save(&key("a"), &content("hello")).unwrap();
        let path = snapshots.path(&key("a"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o602)).unwrap();
        let said = snapshots.load(&key("a")).unwrap_err().to_string();
        assert!(said.contains("somebody else may have written it"), "{said}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(snapshots.load(&key("a")).unwrap().is_some());
        if std::os::unix::fs::chown(&path, Some(54_321), None).is_err() {
            eprintln!("SKIPPED in part: only root can give a file away");
            return;
        }
        assert!(snapshots.load(&key("a")).is_err());
    }

    #[test]
    fn a_snapshot_that_was_altered_cut_or_swapped_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(folder.path(), "snapshots");
        snapshots.save(&key("a"), &content("hello")).unwrap();
        snapshots.save(&key("b"), &content("hello")).unwrap();
        let (a, b) = (snapshots.path(&key("a")), snapshots.path(&key("b")));
        fs::copy(&b, &a).unwrap();
        let said = snapshots.load(&key("a")).unwrap_err().to_string();
        assert!(
            said.contains("its header names another configuration"),
            "{said}"
        );
        let mut file = OpenOptions::new().write(true).open(&b).unwrap();
        file.seek(SeekFrom::End(-1)).unwrap();
        file.write_all(b"X").unwrap();
        let said = snapshots.load(&key("b")).unwrap_err().to_string();
        assert!(said.contains("MD5"), "{said}");
        file.set_len(20).unwrap();
        let said = snapshots.load(&key("b")).unwrap_err().to_string();
        assert!(said.contains("no header"), "{said}");
    }
}
