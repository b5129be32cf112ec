//! A directory's changes as a hint to look again: level-triggered, so a lost or doubled event costs nothing but time.
//!
//! The directory and its parent are watched: an editor's rename dance shows in the directory, a Kubernetes ConfigMap swaps the
//! link `..data` inside it, and a directory that is made or replaced later shows in its parent. What a watch cannot see
//! (network file systems, exhausted watches) the caller's rescan finds.

use notify::{RecursiveMode, Watcher as _};
use std::path::Path;
use tokio::sync::mpsc;

/// Watches as long as it lives.
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
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
    let watched = directory.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let ours = match &event {
            // Reading the directory makes access events, which would make the next reading; beside it, others live.
            Ok(event) => {
                !event.kind.is_access() && event.paths.iter().any(|path| path.starts_with(&watched))
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
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty());
    let beside = parent.map(|parent| watcher.watch(parent, RecursiveMode::NonRecursive));
    match (inside, beside) {
        (Err(source), None | Some(Err(_))) => Err(Error {
            path: directory.display().to_string(),
            source,
        }),
        _ => Ok(Watch { _watcher: watcher }),
    }
}
