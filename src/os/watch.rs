//! A directory's changes as a hint to look again: level-triggered, so a lost or doubled event costs nothing but time.
//!
//! The directory and its parent are watched: an editor's rename dance shows in the directory, a Kubernetes ConfigMap swaps the
//! link `..data` inside it, and a directory that is made or replaced later shows in its parent. What a watch cannot see
//! (network file systems, exhausted watches) the caller's rescan finds.

use notify::{EventKind, RecursiveMode, Watcher as _, event::ModifyKind};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::mpsc;

/// Watches as long as it lives.
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
    directory: PathBuf,
    /// What was at the path before it was watched.
    identity: Option<(u64, u64)>,
    /// Whether the directory itself was made, moved or removed since: a new one may have the number of the old one.
    moved: Arc<AtomicBool>,
}

impl Watch {
    /// Whether what is at the path now is what is watched: a watch holds the directory, not its name. Blocks, shortly.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.identity.is_some()
            && self.identity == identity(&self.directory)
            && !self.moved.load(Ordering::Acquire)
    }
}

/// Device and number of the directory a path leads to, links followed.
fn identity(directory: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(directory).ok()?;
    Some((found.dev(), found.ino()))
}

/// Why nothing can be watched; the rescan still finds every change.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}")]
pub struct Error {
    path: String,
    #[source]
    source: notify::Error,
}

/// Starts to watch `directory`; `changed` gets a unit for one or many events (a full channel means that a look is due anyway).
///
/// # Errors
/// When neither the directory nor its parent can be watched.
pub fn watch(directory: &Path, changed: mpsc::Sender<()>) -> Result<Watch, Error> {
    // Events have absolute paths, whatever path was watched; and the parent of `conf.d` is then a directory too.
    let directory = &std::path::absolute(directory).map_err(|source| Error {
        path: directory.display().to_string(),
        source: notify::Error::io(source),
    })?;
    // Before the watch: what is put there in between then counts as moved.
    let identity = identity(directory);
    let moved = Arc::new(AtomicBool::new(false));
    let (watched, note) = (directory.clone(), Arc::clone(&moved));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let ours = match &event {
            // Reading the directory makes access events, which would make the next reading; beside it, others live.
            Ok(event) if event.kind.is_access() => false,
            Ok(event) => {
                let mode_only = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
                if !mode_only && event.paths.contains(&watched) {
                    note.store(true, Ordering::Release);
                }
                event.paths.iter().any(|path| path.starts_with(&watched))
            }
            // The watch lost something (an overflow): look.
            Err(_) => true,
        };
        if ours {
            // Full means that a look is due already; closed means that nobody looks any more.
            _ = changed.try_send(());
        }
    })
    .map_err(|source| Error {
        path: directory.display().to_string(),
        source,
    })?;
    let inside = watcher.watch(directory, RecursiveMode::NonRecursive);
    let beside = directory
        .parent()
        .map(|parent| watcher.watch(parent, RecursiveMode::NonRecursive));
    match (inside, beside) {
        (Err(source), None | Some(Err(_))) => Err(Error {
            path: directory.display().to_string(),
            source,
        }),
        _ => Ok(Watch {
            _watcher: watcher,
            directory: directory.clone(),
            identity,
            moved,
        }),
    }
}
