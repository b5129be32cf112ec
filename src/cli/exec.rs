//! `outrigger exec`: the agent and the application in one container, joined by the machine in [`application`].
//!
//! The agent lives as in `outrigger run`, but hears of signals only what the machine lets it hear. Three tasks tell the machine
//! what happens: one hears signals and looks after children, one waits for the agent's end, one compares files. What the machine
//! wants is done here.

use super::args::Exec;
use super::run::{not_as_root, prepare};
use super::{End, complain, fail, runtime};
use crate::agent::Command;
use crate::agent::application::{self, Effect, Event, OnChange, Rules};
use crate::agent::assignments::{self, Allowed, Assignments};
use crate::agent::supervisor::{self, Sight};
use crate::agent::view::{Source, TargetView};
use crate::descriptor::{Flags, Surroundings};
use crate::foreign;
use crate::machine::{Epoch, drive};
use crate::nacos::wire;
use crate::os::application::{self as process, Application, Fate, Words};
use crate::os::children;
use crate::os::ourselves::Inherited;
use crate::os::publish;
use crate::os::signals::{self, AllSignals, Heard, Listener, Request};
use crate::tasks::Tasks;
use crate::telemetry::Journal;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Messages that wait.
const QUEUE: usize = 64;
/// What our own tasks may take to end.
const FINISH: Duration = Duration::from_secs(1);
/// So much of a file is compared.
const MOST: u64 = 10 * 1024 * 1024;
/// `TERM`.
const TERM: i32 = 15;

/// Runs it; the code is the application's where one ran.
pub(super) fn exec(
    words: Exec,
    around: Surroundings,
    inherited: Inherited,
    without: Vec<OsString>,
) -> ExitCode {
    let allowed = match Allowed::new(words.env_name) {
        Ok(allowed) => allowed,
        Err(why) => {
            complain(&format!("outrigger: --env-name: {why}\n"));
            return End::Usage.into();
        }
    };
    // Before any thread begins.
    if let Err(error) = process::hold_nothing_back() {
        return fail(End::Bug, &error).into();
    }
    let flags = Flags {
        config: words.files.config,
        conf_dir: words.files.conf_dir,
    };
    let prepared = match prepare(&flags, around, inherited) {
        Ok(prepared) => prepared,
        Err(end) => return end.into(),
    };
    if let Err(end) = not_as_root(&prepared.0) {
        return end.into();
    }
    let by_itself = if words.env_from.is_empty() {
        OnChange::Nothing
    } else {
        OnChange::Restart
    };
    let order = Order {
        rules: Rules {
            wait: words.wait,
            on_change: words.on_change.unwrap_or(by_itself),
            stop_signal: words.stop_signal.unwrap_or(TERM),
            stop_signal_is_written: words.stop_signal.is_some(),
            kill_after: words.kill_after,
            too_late: End::Unavailable as u8,
        },
        words: Words {
            argv: words.command,
            without,
        },
        env_from: words.env_from,
        allowed,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(End::Bug, &error).into(),
    };
    let code = runtime.block_on(live(order, prepared));
    runtime.shutdown_background();
    code.into()
}

/// What is to be run, and how.
struct Order {
    rules: Rules,
    words: Words,
    env_from: Vec<String>,
    allowed: Allowed,
}

async fn live(order: Order, (start, journal): (supervisor::Start, Journal)) -> u8 {
    // Before anything is started that could end.
    let signals = match AllSignals::start() {
        Ok(signals) => signals,
        Err(error) => return fail(End::Bug, &error) as u8,
    };
    if let Err(error) = children::adopt() {
        tracing::debug!(%error, "what others leave behind is not found");
    }
    // The agent's tasks end with it; ours go on until the application has ended too.
    let (theirs, ours, epoch) = (Tasks::new(), Tasks::new(), Epoch::start());
    ours.spawn("journal", journal.clone().run());
    let within = start.settings.shutdown_timeout;
    let agent = match supervisor::begin(start, theirs, epoch).await {
        Ok(agent) => agent,
        Err(error) => {
            journal.close();
            return fail(End::Settings, &error) as u8;
        }
    };
    let sight = agent.sight();
    let (tell_agent, listener) = Listener::told();
    let (events, received) = mpsc::channel(QUEUE);
    let left = events.clone();
    ours.spawn("agent", async move {
        if agent.live(listener).await != supervisor::End::Clean {
            tracing::warn!("the agent has not left in order");
        }
        _ = left.send(Event::Left).await;
    });
    let (begun, begins) = watch::channel(false);
    let files = Arc::new(Files {
        env_from: order.env_from,
        allowed: order.allowed,
        variables: Mutex::default(),
        missing: Mutex::default(),
    });
    ours.spawn(
        "files",
        compare(Arc::clone(&files), sight.clone(), begins, events.clone()),
    );
    let stop = CancellationToken::new();
    let hands = Hands {
        words: Arc::new(order.words),
        stop_signal: order
            .rules
            .stop_signal_is_written
            .then_some(order.rules.stop_signal),
        files,
        running: Arc::default(),
        ask: sight.ask,
        tell_agent,
        begun,
        events,
        tasks: ours.clone(),
        within,
        code: Arc::new(AtomicU8::new(End::Bug as u8)),
        stop: stop.clone(),
    };
    let hands = Arc::new(hands);
    ours.spawn("signals", hear(signals, Arc::clone(&hands)));
    let machine = application::Application::new(order.rules, epoch.now());
    let perform = |effect| {
        hands.perform(effect);
        std::future::ready(())
    };
    drive(machine, epoch, received, perform, stop).await;
    if let Err(unfinished) = ours.finish(FINISH).await {
        tracing::debug!(%unfinished, "leaving all the same");
    }
    journal.close();
    hands.code.load(Ordering::Relaxed)
}

/// Tells signals, and what becomes of children.
async fn hear(mut signals: AllSignals, hands: Arc<Hands>) {
    loop {
        let event = match signals.next().await {
            Heard::Child => {
                hands.look().await;
                // It waits for a command that is being started.
                _ = tokio::task::spawn_blocking(process::bury).await;
                continue;
            }
            Heard::Stop(signal) => Event::ToldToStop(signal),
            Heard::Other(signal) if hands.stop_signal == Some(signal) => Event::ToldToStop(signal),
            Heard::Other(signal) => Event::Signalled(signal),
        };
        // Nobody hears any more at the end.
        _ = hands.events.send(event).await;
    }
}

/// Carries out what the machine wants.
struct Hands {
    words: Arc<Words>,
    /// The one that was written.
    stop_signal: Option<i32>,
    files: Arc<Files>,
    running: Arc<Mutex<Option<Application>>>,
    ask: mpsc::Sender<Command>,
    tell_agent: mpsc::Sender<Request>,
    begun: watch::Sender<bool>,
    events: mpsc::Sender<Event>,
    tasks: Tasks,
    within: Duration,
    code: Arc<AtomicU8>,
    stop: CancellationToken,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hands {
    fn perform(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Start => self.start(),
            Effect::Signal(signal) => {
                if let Some(running) = &*locked(&self.running) {
                    tracing::info!(signal = signals::name(signal), "to the application");
                    running.signal(signal);
                }
            }
            Effect::Kill => {
                if let Some(running) = &*locked(&self.running) {
                    tracing::warn!("the application has not ended in time: killed");
                    running.kill();
                }
            }
            Effect::Rest => self.rest(),
            Effect::Work => self.say(Command::Work),
            Effect::Leave => {
                let tell = self.tell_agent.clone();
                self.tasks.spawn("tell the agent to leave", async move {
                    // It has ended already, or hears of it.
                    _ = tell.send(Request::Leave).await;
                });
            }
            Effect::GiveUp => {
                let missing = locked(&self.files.missing).clone();
                complain(&format!(
                    "outrigger: the application is not started: {}\n",
                    foreign::harmless(&missing.join("; "))
                ));
            }
            Effect::Exit(code) => {
                self.code.store(code, Ordering::Relaxed);
                self.stop.cancel();
            }
        }
    }

    fn say(&self, command: Command) {
        let ask = self.ask.clone();
        self.tasks.spawn("tell the agent", async move {
            // It is leaving when it does not hear.
            _ = ask.send(command).await;
        });
    }

    fn rest(self: &Arc<Self>) {
        tracing::info!("its files have changed: the application is started again");
        let (answer, rested) = oneshot::channel();
        self.say(Command::Rest {
            within: self.within,
            answer,
        });
        let events = self.events.clone();
        self.tasks.spawn("rest", async move {
            if !rested.await.unwrap_or(false) {
                tracing::warn!(
                    "the registry has not confirmed in time that the application is out of it"
                );
            }
            _ = events.send(Event::Rested).await;
        });
    }

    fn start(self: &Arc<Self>) {
        let hands = Arc::clone(self);
        self.tasks.spawn("start the application", async move {
            let words = Arc::clone(&hands.words);
            let variables = locked(&hands.files.variables).clone();
            let work = move || Application::start(&words, &variables);
            let event = match tokio::task::spawn_blocking(work).await {
                Ok(Ok(started)) => {
                    tracing::info!(pid = started.number(), "the application runs");
                    *locked(&hands.running) = Some(started);
                    hands.begun.send_replace(true);
                    Event::Started
                }
                Ok(Err(error)) => {
                    complain(&format!(
                        "outrigger: {}\n",
                        foreign::harmless(&error.to_string())
                    ));
                    Event::NotStarted(error.code())
                }
                // It panicked, which was printed.
                Err(_) => Event::NotStarted(End::Bug as u8),
            };
            _ = hands.events.send(event).await;
            // It may have ended before it was known to be a child.
            hands.look().await;
        });
    }

    /// Tells when the application has ended.
    async fn look(&self) {
        let fate = {
            let mut running = locked(&self.running);
            let Some(application) = running.as_mut() else {
                return;
            };
            let fate = application.look();
            if fate != Fate::Lives {
                *running = None;
            }
            fate
        };
        let code = match fate {
            Fate::Lives => return,
            Fate::Exited(code) => {
                tracing::info!(code, "the application has ended");
                code
            }
            Fate::Signalled(signal) => {
                tracing::info!(
                    signal = signals::name(signal),
                    "a signal has ended the application"
                );
                application::signalled(signal)
            }
        };
        _ = self.events.send(Event::Ended(code)).await;
    }
}

/// What the application needs of files.
struct Files {
    env_from: Vec<String>,
    allowed: Allowed,
    /// The last good ones.
    variables: Mutex<BTreeMap<String, String>>,
    /// What is not in place, a sentence each.
    missing: Mutex<Vec<String>>,
}

impl Files {
    /// The file that `--env-from` names: a data id, or a path.
    fn path_of(name: &str, views: &[TargetView]) -> Result<PathBuf, String> {
        let is_it = |view: &&TargetView| match &view.source {
            _ if name.starts_with('/') => view.path == Path::new(name),
            Source::Config(key) => *key.data_id == *name,
            Source::Configs(keys) => keys.values().any(|key| *key.data_id == *name),
            Source::Service(_) => false,
        };
        let mut found = views.iter().filter(is_it).map(|view| view.path.clone());
        match (found.next(), found.next()) {
            (Some(path), None) => Ok(path),
            (None, _) => Err(format!(
                "--env-from {name}: no descriptor keeps that; `configs` must have it, with a `path`"
            )),
            (Some(_), Some(_)) => Err(format!(
                "--env-from {name}: several descriptors keep that: name the path of one"
            )),
        }
    }

    /// The files that variables come from; what is wrong otherwise.
    fn sources(&self, views: &[TargetView]) -> (BTreeSet<PathBuf>, Vec<String>) {
        let (mut paths, mut wrong) = (BTreeSet::new(), Vec::new());
        for name in &self.env_from {
            match Self::path_of(name, views) {
                Ok(path) => _ = paths.insert(path),
                Err(why) => wrong.push(why),
            }
        }
        (paths, wrong)
    }

    /// Reads the variables of all files; later ones win.
    fn read(&self, views: &[TargetView]) -> Result<BTreeMap<String, String>, String> {
        let mut all = BTreeMap::new();
        for name in &self.env_from {
            let path = Self::path_of(name, views)?;
            let limit = u64::try_from(assignments::MOST_BYTES).unwrap_or(u64::MAX);
            let found = publish::current(&path, limit).map_err(|error| error.to_string())?;
            let found = found.ok_or_else(|| format!("{}: is not there", path.display()))?;
            let Assignments { values, left_out } =
                assignments::read(&found.bytes, &self.allowed)
                    .map_err(|mistake| format!("{}: {mistake}", path.display()))?;
            if !left_out.is_empty() {
                let names = left_out.join(", ");
                tracing::info!(path = %path.display(), names, "variables that --env-name does not name");
            }
            all.extend(values);
        }
        Ok(all)
    }

    /// What is not in place yet.
    fn missing(&self, views: &[TargetView]) -> Vec<String> {
        let (sources, mut missing) = self.sources(views);
        let waits = |view: &&TargetView| {
            (view.required || sources.contains(&view.path)) && !view.applied_once
        };
        missing.extend(views.iter().filter(waits).map(|view| {
            let reason = view.reason.as_ref().map(|why| format!(": {why}"));
            format!(
                "{} is {}{}",
                view.path.display(),
                view.state.word(),
                reason.unwrap_or_default()
            )
        }));
        missing
    }
}

/// What the application is told of when it changes: files whose targets tell nobody themselves, and those its variables come from.
fn told_of(sight: &Sight, sources: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let known = sight.known.borrow();
    let descriptors = known.iter().flat_map(|known| &known.descriptors);
    descriptors
        .flat_map(|(_, descriptor)| descriptor.kept())
        .filter(|kept| kept.target().reload.is_none())
        .map(|kept| kept.target().path.clone())
        .chain(sources.iter().cloned())
        .collect()
}

/// Waits for the files, then tells when they change.
async fn compare(
    files: Arc<Files>,
    mut sight: Sight,
    mut begins: watch::Receiver<bool>,
    events: mpsc::Sender<Event>,
) {
    *locked(&files.missing) = vec!["no descriptor was read yet".to_owned()];
    // Before that nobody knows what is required. The agent is ending when it says nothing.
    if sight.ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    loop {
        let views = sight.targets.borrow_and_update().clone();
        let mut missing = files.missing(&views);
        if missing.is_empty() {
            match read(&files, &views).await {
                Ok(variables) => {
                    *locked(&files.variables) = variables;
                    break;
                }
                Err(why) => missing.push(why),
            }
        }
        let before = std::mem::replace(&mut *locked(&files.missing), missing.clone());
        if before != missing {
            tracing::info!(
                missing = missing.join("; "),
                "the application waits for its files"
            );
        }
        if sight.targets.changed().await.is_err() {
            return;
        }
    }
    let views = sight.targets.borrow().clone();
    let (sources, _) = files.sources(&views);
    let mut had = in_files(told_of(&sight, &sources)).await;
    _ = events.send(Event::InPlace).await;
    if begins.wait_for(|begun| *begun).await.is_err() {
        return;
    }
    while sight.targets.changed().await.is_ok() {
        let views = sight.targets.borrow_and_update().clone();
        let (sources, _) = files.sources(&views);
        let counts = told_of(&sight, &sources);
        let mut changed = false;
        for view in views.iter().filter(|view| counts.contains(&view.path)) {
            let Some(md5) = &view.md5 else { continue };
            if had.get(&view.path) == Some(md5) {
                continue;
            }
            if sources.contains(&view.path) {
                match read(&files, &views).await {
                    Ok(variables) => *locked(&files.variables) = variables,
                    Err(reason) => {
                        tracing::warn!(
                            reason,
                            "the variables are not used, the application keeps those it has"
                        );
                        had.insert(view.path.clone(), md5.clone());
                        continue;
                    }
                }
            }
            had.insert(view.path.clone(), md5.clone());
            changed = true;
        }
        if changed {
            _ = events.send(Event::Changed).await;
        }
    }
}

async fn read(
    files: &Arc<Files>,
    views: &Arc<Vec<TargetView>>,
) -> Result<BTreeMap<String, String>, String> {
    let (files, views) = (Arc::clone(files), Arc::clone(views));
    tokio::task::spawn_blocking(move || files.read(&views))
        .await
        .unwrap_or_else(|_| Err("the variables could not be read".to_owned()))
}

/// The MD5 of what is in these files now, where there is one.
async fn in_files(paths: BTreeSet<PathBuf>) -> BTreeMap<PathBuf, String> {
    let work = move || {
        let mut found = BTreeMap::new();
        for path in paths {
            if let Ok(Some(file)) = publish::current(&path, MOST) {
                found.insert(path, wire::md5_hex(&file.bytes));
            }
        }
        found
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}
