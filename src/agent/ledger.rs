//! Remembers on disk what was written, told and verified of each target, so that no reload that is due is lost by a restart.
//!
//! One file for all targets, `state_dir/ledger`, replaced as targets are: a line of JSON for each path, between a first line that
//! says the version and a last one with a sum. Whoever notes something is told once a file that has it is synced; what is noted
//! while one is being written goes into the next one, so a thousand targets that change at once share few writes. That is why it
//! is one file: a small one costs as much as a line, and one rename is all that can be torn.
//!
//! A ledger that is damaged, or of a newer version, gets another name and counts as one in which every reload is due; the new one
//! says so until each path has told of itself. Where it cannot be written that is said once, and everything goes on in memory.
//!
//! [`Ledger::open`] blocks.

use crate::dates;
use crate::machine::Epoch;
use crate::nacos::wire::md5_hex;
use crate::os::publish;
use crate::os::state::{LEDGER, others_write};
use crate::tasks::Tasks;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::materialize::{Memory, Slot};

/// Of the file format.
const VERSION: u32 = 1;
/// A larger file is none of ours: it has room for more paths than an agent can keep.
const LIMIT: u64 = 64 * 1024 * 1024;
/// How many paths without a target are remembered.
const STRANGERS: usize = 1024;
/// Between tries of a write that failed, when nothing new comes.
const AGAIN: Duration = Duration::from_secs(30);

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    /// Whether a path that is not in it counts as one whose reload is due.
    #[serde(default)]
    unsure: bool,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct Foot {
    /// Of everything before it.
    md5: String,
}

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    path: PathBuf,
    memory: Memory,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reloaded_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused_at: Option<String>,
}

/// What is remembered.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    epoch: Epoch,
    inside: Mutex<Inside>,
    changed: Notify,
    /// Up to which change all is kept, as well as can be.
    kept: watch::Sender<u64>,
    trouble: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Inside {
    entries: BTreeMap<PathBuf, Entry>,
    unsure: bool,
    changes: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// Who keeps the path now: an earlier one has no say any more.
    owner: Option<Slot>,
    record: Option<Record>,
    /// The record as it is in the file.
    line: String,
}

impl Ledger {
    /// Reads what an earlier run has left in `state_dir`.
    #[must_use]
    pub fn open(state_dir: &Path, epoch: Epoch) -> Self {
        let path = state_dir.join(LEDGER);
        if let Err(error) = publish::sweep(&path)
            && !matches!(error, publish::Error::NoDirectory { .. })
        {
            tracing::warn!(%error, "leftovers cannot be removed");
        }
        let inside = read(&path).unwrap_or_else(|why| {
            let now = dates::rfc3339(epoch.wall(epoch.now()));
            let mut aside = path.clone().into_os_string();
            aside.push(format!(".damaged-{now}"));
            let aside = PathBuf::from(aside);
            // A second name, so that there is no moment without a ledger: without one nothing would be due.
            let outcome = match fs::hard_link(&path, &aside) {
                Ok(()) => format!("it is kept as {}", aside.display()),
                Err(error) => format!("and cannot be kept as {}: {error}", aside.display()),
            };
            tracing::warn!(
                path = %path.display(),
                "the ledger cannot be used: {why}; {outcome}; every application is told once more"
            );
            Inside {
                unsure: true,
                changes: 1,
                ..Inside::default()
            }
        });
        Self {
            path,
            epoch,
            inside: Mutex::new(inside),
            changed: Notify::new(),
            kept: watch::Sender::new(0),
            trouble: watch::Sender::new(None),
        }
    }

    /// Starts writing what is noted.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) {
        let (ledger, stop) = (Arc::clone(self), tasks.token());
        tasks.spawn_to_end("ledger", async move {
            loop {
                let is_last = stop.is_cancelled();
                let is_kept = ledger.write().await;
                if is_last {
                    return;
                }
                let changed = ledger.changed.notified();
                tokio::select! {
                    biased;
                    // What was noted last is written on the way out.
                    () = stop.cancelled() => {}
                    () = changed => {}
                    () = sleep(AGAIN), if !is_kept => {}
                }
            }
        });
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a path, which belongs to `owner` from now on.
    pub fn take(&self, path: &Path, owner: Slot) -> Memory {
        let mut inside = self.inside();
        let unsure = inside.unsure;
        let entry = inside.entries.entry(path.to_owned()).or_default();
        entry.owner = Some(owner);
        match &entry.record {
            Some(record) => record.memory.clone(),
            None if unsure => Memory::unsure(),
            None => Memory::default(),
        }
    }

    /// Notes what `owner` says of a path, unless that belongs to another one; [`Ledger::kept`] with the number waits until it is
    /// on the disk.
    pub fn note(&self, path: &Path, owner: Slot, memory: Memory) -> u64 {
        let now = dates::rfc3339(self.epoch.wall(self.epoch.now()));
        let mut inside = self.inside();
        let entry = inside.entries.entry(path.to_owned()).or_default();
        if entry.owner.is_some_and(|current| current > owner) {
            return inside.changes;
        }
        let record = stamped(path, entry.record.take(), memory, now);
        entry.line = line(&record);
        entry.record = Some(record);
        inside.changes += 1;
        let changes = inside.changes;
        drop(inside);
        self.changed.notify_one();
        changes
    }

    /// Returns once the change of this number is on the disk, or was tried to be put there.
    pub async fn kept(&self, change: u64) {
        // The sender is ours: it cannot be gone.
        _ = self.kept.subscribe().wait_for(|kept| *kept >= change).await;
    }

    /// Forgets paths that nobody wants, but for so many; those whose reload is due last.
    pub fn retain(&self, wanted: &BTreeSet<PathBuf>) {
        let mut inside = self.inside();
        let strangers = inside.entries.iter();
        let strangers = strangers.filter(|(path, _)| !wanted.contains(*path));
        let mut strangers: Vec<(bool, PathBuf)> = strangers
            .map(|(path, entry)| {
                let memory = entry.record.as_ref().map(|record| &record.memory);
                (memory.is_some_and(Memory::owes), path.clone())
            })
            .collect();
        strangers.sort();
        let over = strangers.len().saturating_sub(STRANGERS);
        for (_, path) in strangers.into_iter().take(over) {
            inside.entries.remove(&path);
        }
    }

    /// Why nothing can be kept, while that is so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Writes what was noted since the last time; whether that is on the disk.
    async fn write(self: &Arc<Self>) -> bool {
        let (bytes, changes) = {
            let inside = self.inside();
            if inside.changes == *self.kept.borrow() && self.trouble.borrow().is_none() {
                return true;
            }
            (image(&inside), inside.changes)
        };
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            publish::stage(&path, &bytes, 0o600, publish::Owner::default())?.publish()
        });
        let trouble = match written.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the work on it was broken off".to_owned()),
        };
        let is_kept = trouble.is_none();
        self.trouble.send_if_modified(|before| {
            if let (None, Some(why)) = (&before, &trouble) {
                tracing::warn!("nothing outlives a restart: {why}");
            }
            let changed = *before != trouble;
            *before = trouble;
            changed
        });
        self.kept.send_replace(changes);
        is_kept
    }
}

/// A record with the times of what is new in it.
fn stamped(path: &Path, before: Option<Record>, memory: Memory, now: String) -> Record {
    let mut record = before.unwrap_or_else(|| Record {
        path: path.to_owned(),
        memory: Memory::default(),
        written_at: None,
        reloaded_at: None,
        verified_at: None,
        refused_at: None,
    });
    let old = &record.memory;
    let at = |is_new: bool, is_there: bool, before: Option<String>| {
        if is_new { Some(now.clone()) } else { before }.filter(|_| is_there)
    };
    // A swap also shows where the same content is written again: then what was told is void.
    let is_swap = memory.written != old.written || memory.reloaded.is_none();
    record.written_at = at(is_swap, memory.written.is_some(), record.written_at);
    record.reloaded_at = at(
        memory.reloaded != old.reloaded,
        memory.reloaded.is_some(),
        record.reloaded_at,
    );
    record.verified_at = at(
        memory.verified != old.verified,
        memory.verified.is_some(),
        record.verified_at,
    );
    record.refused_at = at(
        memory.refused != old.refused,
        memory.refused.is_some(),
        record.refused_at,
    );
    record.memory = memory;
    record
}

/// A value as a line; what is ours can always be written, and what could not would be no ledger for the next run.
fn line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

/// The whole file.
fn image(inside: &Inside) -> Vec<u8> {
    let mut text = line(&Head {
        version: VERSION,
        unsure: inside.unsure,
    });
    for entry in inside.entries.values() {
        text.push_str(&entry.line);
    }
    let md5 = md5_hex(text.as_bytes());
    text.push_str(&line(&Foot { md5 }));
    text.into_bytes()
}

/// What the file says; an error is why it cannot be used.
fn read(path: &Path) -> Result<Inside, String> {
    let found = match publish::current(path, LIMIT) {
        Ok(Some(found)) => found,
        Ok(None) | Err(publish::Error::NoDirectory { .. }) => return Ok(Inside::default()),
        Err(error) => return Err(error.to_string()),
    };
    // What we wrote is ours; a sum within the file says only that it was not cut.
    if found.uid != rustix::process::geteuid().as_raw() || found.mode & others_write() != 0 {
        return Err("somebody else may have written it".to_owned());
    }
    let text = String::from_utf8(found.bytes).map_err(|_| "it is no text".to_owned())?;
    let head = text.lines().next().unwrap_or_default();
    let head: Head =
        serde_json::from_str(head).map_err(|error| format!("its first line: {error}"))?;
    if head.version != VERSION {
        let version = head.version;
        return Err(format!(
            "it is of version {version}, this agent reads version {VERSION}"
        ));
    }
    let body = text.trim_end_matches('\n').rfind('\n').map(|at| at + 1);
    let (body, foot) = text.split_at(body.unwrap_or_default());
    let foot: Foot = serde_json::from_str(foot).map_err(|_| "it was cut".to_owned())?;
    if foot.md5 != md5_hex(body.as_bytes()) {
        return Err("its content does not have the MD5 of its last line".to_owned());
    }
    let mut inside = Inside {
        unsure: head.unsure,
        ..Inside::default()
    };
    for text in body.lines().skip(1) {
        let record: Record = serde_json::from_str(text).map_err(|error| error.to_string())?;
        inside.entries.insert(
            record.path.clone(),
            Entry {
                owner: None,
                line: format!("{text}\n"),
                record: Some(record),
            },
        );
    }
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::OpenOptions, io, os::unix::fs::MetadataExt as _, os::unix::fs::PermissionsExt as _,
    };
    use tokio::time::timeout;

    const WITHIN: Duration = Duration::from_secs(20);

    fn memory(written: &str) -> Memory {
        Memory {
            written: Some(written.to_owned()),
            ..Memory::default()
        }
    }

    /// Opens it, notes, waits until that is kept, and closes it.
    async fn with<T>(folder: &Path, work: impl AsyncFnOnce(&Ledger) -> T) -> T {
        let ledger = Arc::new(Ledger::open(folder, Epoch::start()));
        let tasks = Tasks::new();
        ledger.start(&tasks);
        let done = timeout(WITHIN, work(&ledger)).await.unwrap();
        assert!(tasks.finish(WITHIN).await.is_ok());
        done
    }

    #[tokio::test]
    async fn what_was_noted_is_there_in_the_next_run_and_an_earlier_owner_has_no_say() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        with(folder.path(), async |ledger| {
            assert_eq!(ledger.take(a, Slot(1)), Memory::default());
            ledger.kept(ledger.note(a, Slot(1), memory("one"))).await;
            let mode = fs::metadata(&ledger.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            assert_eq!(ledger.take(a, Slot(2)), memory("one"));
            ledger.note(a, Slot(1), memory("late"));
            // This is not waited for: it is written on the way out.
            ledger.note(b, Slot(3), memory("two"));
        })
        .await;
        with(folder.path(), async |ledger| {
            assert_eq!(ledger.take(a, Slot(1)), memory("one"));
            assert_eq!(ledger.take(b, Slot(2)), memory("two"));
            assert!(ledger.take(b, Slot(2)).owes());
            assert!(!ledger.take(Path::new("/c"), Slot(4)).owes());
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_noted_while_a_write_is_under_way_shares_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        with(folder.path(), async |ledger| {
            let mut writes = ledger.kept.subscribe();
            for number in 0..1000 {
                let path = PathBuf::from(format!("/{number}"));
                ledger.note(&path, Slot(number), memory("x"));
            }
            let mut count = 0;
            while *writes.borrow_and_update() < 1000 {
                writes.changed().await.unwrap();
                count += 1;
            }
            assert!(count <= 3, "{count} writes");
        })
        .await;
    }

    #[tokio::test]
    async fn a_ledger_that_is_not_ours_to_read_is_set_aside_and_every_reload_is_due() {
        let good = {
            let folder = tempfile::tempdir().unwrap();
            with(folder.path(), async |ledger| {
                ledger.note(Path::new("/a"), Slot(1), memory("one"));
            })
            .await;
            fs::read_to_string(folder.path().join(LEDGER)).unwrap()
        };
        let newer = good.replace(r#""version":1"#, r#""version":2"#);
        let altered = good.replace("one", "two");
        for text in ["", "\n", "{}", &good[..good.len() / 2], &newer, &altered] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(LEDGER);
            let mut file = OpenOptions::new();
            let file = file.create(true).truncate(true).write(true).open(&path);
            io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
            for changes in [1, 0] {
                with(folder.path(), async |ledger| {
                    assert!(ledger.take(Path::new("/a"), Slot(1)).owes());
                    // The next run does not depend on this one having come further.
                    ledger.kept(changes).await;
                })
                .await;
            }
            let names = fs::read_dir(folder.path()).unwrap();
            let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            let aside = |name: &std::ffi::OsString| {
                let name = name.to_string_lossy();
                name.starts_with("ledger.damaged-")
            };
            assert_eq!(names.iter().filter(|name| aside(name)).count(), 1);
            with(folder.path(), async |ledger| {
                let mut told = memory("one");
                told.reloaded.clone_from(&told.written);
                ledger.note(Path::new("/a"), Slot(1), told);
            })
            .await;
            with(folder.path(), async |ledger| {
                assert!(!ledger.take(Path::new("/a"), Slot(1)).owes());
                assert!(ledger.take(Path::new("/b"), Slot(2)).owes(), "nobody knows");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn where_nothing_can_be_written_everything_goes_on_and_status_can_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        with(&missing, async |ledger| {
            assert_eq!(ledger.trouble(), None);
            ledger
                .kept(ledger.note(Path::new("/a"), Slot(1), memory("one")))
                .await;
            let said = ledger.trouble().unwrap();
            assert!(said.contains("there is no such directory"), "{said}");
            assert_eq!(ledger.take(Path::new("/a"), Slot(2)), memory("one"));
            fs::create_dir(&missing).unwrap();
            ledger
                .kept(ledger.note(Path::new("/a"), Slot(2), memory("two")))
                .await;
            assert_eq!(ledger.trouble(), None);
        })
        .await;
    }

    #[tokio::test]
    async fn a_start_with_nothing_to_note_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        with(folder.path(), async |ledger| {
            ledger.note(Path::new("/a"), Slot(1), memory("one"));
        })
        .await;
        let which = || fs::metadata(folder.path().join(LEDGER)).unwrap().ino();
        let before = which();
        with(folder.path(), async |ledger| {
            ledger.take(Path::new("/a"), Slot(1));
            ledger.retain(&BTreeSet::new());
        })
        .await;
        assert_eq!(which(), before);
    }

    #[test]
    fn of_paths_that_nobody_wants_those_whose_reload_is_due_are_forgotten_last() {
        let ledger = Ledger::open(Path::new("/nowhere"), Epoch::start());
        let path = |number| PathBuf::from(format!("/{number}"));
        for number in 0..2000 {
            let mut memory = memory("x");
            memory.reloaded = (number % 2 == 0).then(|| "x".to_owned());
            ledger.note(&path(number), Slot(1), memory);
        }
        ledger.retain(&BTreeSet::from([path(0)]));
        let inside = ledger.inside();
        assert_eq!(inside.entries.len(), STRANGERS + 1);
        assert!(
            (0..2000).all(|number| number % 2 == 0 || inside.entries.contains_key(&path(number)))
        );
    }
}
