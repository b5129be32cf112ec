//! The directory of descriptors: reads it again when something changed, keeps the last good version of every file.
//!
//! The watch is a hint, the rescan a promise: both only mean "look again". A look reads the whole directory, so a burst of
//! 500 files is one look, and what one look decides depends on nothing but the directory and what was good before.

use super::Parts;
use crate::descriptor::Surroundings;
use crate::descriptor::settings::Settings;
use crate::descriptor::spec::Descriptor;
use crate::descriptor::{self, File};
use crate::os::watch as os_watch;
use crate::report::Problem;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

/// After a hint: quiet that is waited for, so that a burst is one look.
const QUIET: Duration = Duration::from_millis(50);
/// A burst that does not end is looked at after this long all the same.
const LONGEST: Duration = Duration::from_secs(1);

/// What is wanted, and what is wrong with what was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The last good version of every file that is there, and what variables describe; sorted by file.
    pub descriptors: Vec<(PathBuf, Descriptor)>,
    /// Every mistake of every file.
    pub problems: Vec<Problem>,
    /// How many files were found.
    pub files: usize,
}

/// Asks for a look now; the answer comes when the outcome is published.
pub type Look = mpsc::Sender<oneshot::Sender<()>>;

/// Starts to watch `conf.d`; nothing is published before the first look has ended. `fixed` is what needs no file.
pub fn start(
    parts: &Parts,
    settings: &Arc<Settings>,
    around: &Arc<Surroundings>,
    fixed: Option<(PathBuf, Descriptor)>,
) -> (watch::Receiver<Option<Arc<Known>>>, Look) {
    let (told, known) = watch::channel(None);
    let (look_tx, look_rx) = mpsc::channel(8);
    let actor = Actor {
        parts: parts.clone(),
        settings: Arc::clone(settings),
        around: Arc::clone(around),
        fixed,
        good: BTreeMap::new(),
        told,
    };
    parts.tasks.spawn("catalog", actor.run(look_rx));
    (known, look_tx)
}

struct Actor {
    parts: Parts,
    settings: Arc<Settings>,
    around: Arc<Surroundings>,
    fixed: Option<(PathBuf, Descriptor)>,
    /// The last good version of each file.
    good: BTreeMap<PathBuf, Descriptor>,
    told: watch::Sender<Option<Arc<Known>>>,
}

impl Actor {
    async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
        let (hint_tx, mut hints) = mpsc::channel(1);
        let conf_dir = self.settings.catalog.conf_dir.clone();
        let mut watch: Option<os_watch::Watch> = None;
        let mut jitter = fastrand::Rng::with_seed(self.parts.seed ^ 0xca7a);
        loop {
            if watch.is_none() {
                watch = os_watch::watch(&conf_dir, hint_tx.clone())
                    .inspect_err(|error| tracing::debug!(%error, "rescans only"))
                    .ok();
            }
            self.look().await;
            // Up to a tenth more, so that many agents of one host do not read in step.
            let rescan = self.settings.catalog.rescan;
            let rescan = Instant::now() + rescan + rescan.mul_f64(jitter.f64() / 10.0);
            tokio::select! {
                biased;
                Some(answer) = asked.recv() => {
                    self.look().await;
                    // Whoever asked may have gone.
                    _ = answer.send(());
                }
                Some(()) = hints.recv() => {
                    let end = Instant::now() + LONGEST;
                    while Instant::now() < end && timeout(QUIET, hints.recv()).await.is_ok() {}
                }
                () = tokio::time::sleep_until(rescan) => {}
            }
            // The watch of a directory that was replaced, or made only now, sees nothing: take a new one, then look.
            watch = watch.filter(os_watch::Watch::is_current);
        }
    }

    async fn look(&mut self) {
        let (settings, around) = (Arc::clone(&self.settings), Arc::clone(&self.around));
        let read =
            tokio::task::spawn_blocking(move || descriptor::read_directory(&settings, &around));
        let outcome = match read.await {
            Ok(outcome) => outcome,
            // It panicked; the panic was printed. What was good stays.
            Err(_) => return,
        };
        let known = merge(&mut self.good, outcome, self.fixed.as_ref());
        let before = self.told.borrow().clone();
        if before.as_deref() == Some(&known) {
            return;
        }
        let news: Vec<&Problem> = known
            .problems
            .iter()
            .filter(|problem| {
                before
                    .as_ref()
                    .is_none_or(|before| !before.problems.contains(problem))
            })
            .collect();
        for problem in &news {
            tracing::error!("{problem}");
        }
        if !news.is_empty() {
            self.parts.metrics.catalog_errors.inc();
        }
        tracing::info!(
            files = known.files,
            problems = known.problems.len(),
            "descriptors read"
        );
        self.told.send_replace(Some(Arc::new(known)));
    }
}

/// What one look decides. `good` is what was good before and becomes what is good now.
fn merge(
    good: &mut BTreeMap<PathBuf, Descriptor>,
    outcome: Result<Vec<File>, Box<Problem>>,
    fixed: Option<&(PathBuf, Descriptor)>,
) -> Known {
    let mut problems = Vec::new();
    let mut current: BTreeMap<PathBuf, Descriptor> = BTreeMap::new();
    let mut count = good.len();
    match outcome {
        // The directory could not be read: that says nothing about the files in it.
        Err(problem) => {
            problems.push(*problem);
            current.clone_from(good);
        }
        Ok(files) => {
            count = files.len();
            for file in files {
                match file.descriptor {
                    Ok(descriptor) => {
                        current.insert(file.path, descriptor);
                    }
                    Err(mistakes) => {
                        problems.extend(mistakes);
                        if let Some(last) = good.get(&file.path) {
                            current.insert(file.path, last.clone());
                        }
                    }
                }
            }
        }
    }
    // A file that claims what an earlier one has: its last good version takes its place, else it waits. Each round takes a
    // version away, so the rounds end.
    let mut fell_back: Vec<PathBuf> = Vec::new();
    loop {
        let all: Vec<(&Path, &Descriptor)> = fixed
            .iter()
            .map(|(path, descriptor)| (path.as_path(), descriptor))
            .chain(current.iter().map(|(path, d)| (path.as_path(), d)))
            .collect();
        let conflicts = descriptor::conflicts(&all);
        let later: Vec<PathBuf> = conflicts
            .iter()
            .filter_map(|(at, _)| all.get(*at).map(|(path, _)| (*path).to_owned()))
            .collect();
        for (_, problem) in conflicts {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        let mut changed = false;
        for path in later {
            match good.get(&path) {
                Some(last) if !fell_back.contains(&path) && current.get(&path) != Some(last) => {
                    current.insert(path.clone(), last.clone());
                    fell_back.push(path);
                    changed = true;
                }
                _ => changed |= current.remove(&path).is_some(),
            }
        }
        if !changed {
            break;
        }
    }
    good.clone_from(&current);
    problems.sort_by(|a, b| (&a.source, a.place).cmp(&(&b.source, b.place)));
    Known {
        descriptors: fixed.cloned().into_iter().chain(current).collect(),
        problems,
        files: count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::Flags;
    use std::io::Write as _;

    fn settings(folder: &Path) -> (Settings, Surroundings) {
        let around = Surroundings {
            env: BTreeMap::from([(
                "OUTRIGGER_STATE_DIR".to_owned(),
                folder.join("state").display().to_string(),
            )]),
            ..Surroundings::default()
        };
        let flags = Flags {
            config: None,
            conf_dir: Some(folder.join("conf.d")),
        };
        (descriptor::read_settings(&flags, &around).unwrap(), around)
    }

    fn write(path: &Path, text: &str) {
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn service(name: &str) -> String {
        format!("services:\n  - name: {name}\n    port: 8080\n    probe: none\n")
    }

    fn names(known: &Known) -> Vec<&str> {
        known
            .descriptors
            .iter()
            .flat_map(|(_, d)| d.services.iter().map(|s| s.name.as_str()))
            .collect()
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_version_and_disturbs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        let (settings, around) = settings(folder.path());
        let (a, b) = (
            folder.path().join("conf.d/a.yaml"),
            folder.path().join("conf.d/b.yaml"),
        );
        let mut good = BTreeMap::new();
        let mut look = || {
            merge(
                &mut good,
                descriptor::read_directory(&settings, &around),
                None,
            )
        };
        write(&a, &service("orders"));
        write(&b, &service("billing"));
        assert_eq!(names(&look()), ["orders", "billing"]);
        write(&a, "services: [");
        let known = look();
        assert_eq!(names(&known), ["orders", "billing"]);
        assert_eq!(known.problems.len(), 1);
        // The second file now claims what the first has: it stays what it was.
        write(&a, &service("orders"));
        write(&b, &service("orders"));
        let known = look();
        assert_eq!(names(&known), ["orders", "billing"]);
        assert_eq!(known.problems.len(), 1, "{:?}", known.problems);
        std::fs::remove_file(&a).unwrap();
        let known = look();
        assert_eq!(names(&known), ["orders"]);
        assert!(known.problems.is_empty());
    }

    #[test]
    fn a_bomb_in_conf_d_costs_little_and_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        let (settings, around) = settings(folder.path());
        let at = |name: &str| folder.path().join("conf.d").join(name);
        let mut good = BTreeMap::new();
        let mut look = || {
            let read = descriptor::read_directory(&settings, &around);
            merge(&mut good, read, None)
        };
        write(&at("a.yaml"), &service("orders"));
        write(&at("b.yaml"), &service("billing"));
        assert_eq!(names(&look()), ["orders", "billing"]);
        // Copied out it would be 10^90 values; in other forms a million levels, a megabyte of keys, a text of many mistakes.
        let mut aliases = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..90 {
            let before = format!("*a{}", n - 1);
            aliases += &format!("a{n}: &a{n} [{}]\n", [before.as_str(); 10].join(","));
        }
        let bombs = [
            aliases,
            "[".repeat(1_000_000),
            "- ".repeat(500_000),
            "a: {".repeat(250_000),
            (0..100_000).map(|n| format!("k{n}: 1\n")).collect(),
            format!("services: [{}]", "x,".repeat(40_000)),
            format!("a: \"{}", "\\\\".repeat(500_000)),
        ];
        for bomb in bombs {
            write(&at("a.yaml"), &bomb);
            // Unbounded, the first of them never ends: that this returns is the point.
            let known = look();
            assert_eq!(names(&known), ["orders", "billing"], "{:.20}", bomb);
            assert!((1..=101).contains(&known.problems.len()), "{:.20}", bomb);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_read_takes_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        let (settings, around) = settings(folder.path());
        write(&folder.path().join("conf.d/a.yaml"), &service("orders"));
        let mut good = BTreeMap::new();
        merge(
            &mut good,
            descriptor::read_directory(&settings, &around),
            None,
        );
        let conf_dir = folder.path().join("conf.d");
        let problem = Problem::of_whole(&conf_dir, "cannot be read".to_owned(), None);
        let known = merge(&mut good, Err(Box::new(problem)), None);
        assert_eq!(names(&known), ["orders"]);
    }
}
