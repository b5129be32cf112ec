//! Where the users of `outrigger dev` come from: a file, which is read again when it changes, or a variable.

use super::{complain, print};
use crate::descriptor::Surroundings;
use crate::foreign;
use crate::os::input;
use crate::os::watch;
use crate::registry;
use crate::registry::Users;
use crate::report;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time,
};

/// Bytes of such a file at most.
const LIMIT: u64 = 256 * 1024;
/// How often is looked for what no watch told.
const RESCAN: Duration = Duration::from_secs(5);
/// Names the file.
const FILE: &str = "OUTRIGGER_DEV_AUTH";
/// Has the lines themselves.
const LINES: &str = "OUTRIGGER_DEV_USERS";

/// Where they come from.
#[derive(Clone)]
pub(super) enum Source {
    File(PathBuf),
    /// What a variable says.
    Lines(String),
}

/// Where they are to come from, if from anywhere; a flag wins over variables. These are taken out of the environment: an agent in
/// the same process has no use for them.
pub(super) fn source(
    flag: Option<PathBuf>,
    around: &mut Surroundings,
) -> Result<Option<Source>, String> {
    let mut set = |name: &str| {
        around
            .env
            .remove(name)
            .filter(|value| !value.trim().is_empty())
    };
    match (flag, set(FILE), set(LINES)) {
        (Some(file), ..) => Ok(Some(Source::File(file))),
        (None, Some(_), Some(_)) => Err(format!(
            "outrigger: {FILE} and {LINES} both say who the users are; take one of them out\n"
        )),
        (None, Some(file), None) => Ok(Some(Source::File(file.into()))),
        (None, None, Some(lines)) => Ok(Some(Source::Lines(lines))),
        (None, None, None) => Ok(None),
    }
}

impl Source {
    /// Reads them; else what is to be printed. Blocks, shortly.
    pub(super) fn read(&self) -> Result<Users, String> {
        let (name, text) = match self {
            Self::File(path) => {
                let text = input::private(path, LIMIT).map_err(|error| {
                    format!("outrigger: {}\n", foreign::harmless(&error.to_string()))
                })?;
                (path.as_path(), text)
            }
            Self::Lines(lines) => (Path::new(LINES), lines.clone()),
        };
        Users::parse(name, &text).map_err(|problems| report::render_all(&problems, 1, 1, false))
    }
}

/// Reads a file again whenever it changed or `reread` says so, for ever. What cannot be read changes nothing.
pub(super) async fn keep(source: Option<Source>, running: &registry::Running, reread: &Notify) {
    let Some(Source::File(path)) = source else {
        return std::future::pending().await;
    };
    let (changed, mut changes) = mpsc::channel(1);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let watch = watch::watch(folder.unwrap_or(Path::new(".")), changed.clone());
    if let Err(error) = &watch {
        tracing::debug!(%error, "a change of the users is seen some seconds later");
    }
    let mut seen = look(&path).await;
    loop {
        let asked = tokio::select! {
            biased;
            () = reread.notified() => true,
            _ = changes.recv() => false,
            () = time::sleep(RESCAN) => false,
        };
        let now = look(&path).await;
        if now == seen && !asked {
            continue;
        }
        seen = now;
        let again = Source::File(path.clone());
        match tokio::task::spawn_blocking(move || again.read()).await {
            Ok(Ok(users)) => {
                running.replace_users(users);
                print("the users were read again\n");
            }
            Ok(Err(told)) => {
                complain(&told);
                complain("outrigger: the users stay as they were\n");
            }
            Err(error) => complain(&format!("outrigger: the users were not read: {error}\n")),
        }
    }
}

async fn look(path: &Path) -> Option<input::Stamp> {
    let path = path.to_owned();
    let look = tokio::task::spawn_blocking(move || input::stamp(&path));
    // A panic in it is told by reading.
    look.await.ok().flatten()
}
