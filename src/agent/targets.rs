//! Keeps configurations as files: joins the transport's news, the snapshots and one materialize machine per group.
//!
//! ```text
//! set ─▶ router ─▶ keys ─▶ transport          group = machine + its tasks: write, remove, reload
//!          │ ◀──── told ◀─────┘               (each task carries out one effect and answers with one event)
//!          └─▶ events ─▶ group ─▶ board ─▶ views
//! ```
//!
//! [`Targets::set`] compares what is wanted with what was: a target that did not change keeps its slot, and nothing is said to
//! it; a changed one gets a new slot, hence a new life; a removed one is let go, and its file stays. The groups only grow and
//! shrink, so a reload that is due outlives a change of the targets beside it.
//!
//! Work on one path takes turns ([`Place`]), from looking at the file to renaming the new one over it: what a target that was
//! let go had begun is over before its successor looks. The successor also inherits what the application was not told: a reload
//! that is put right in its descriptor still happens.

use crate::backoff::Dice;
use crate::descriptor::spec::{Command, Config, OnAbsent, Process, Reload, Validate};
use crate::foreign::Foreign;
use crate::machine::{Epoch, drive};
use crate::metrics::{Metrics, Outcome as Counted};
use crate::nacos::model::{ConfigKey, ConfigState, Content, Namespace};
use crate::nacos::wire;
use crate::os::command::{self, Run};
use crate::os::process::{self, Whom};
use crate::os::publish::{self, Owner, Spot, Staged};
use crate::tasks::Tasks;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::sleep,
};

use super::Parts;
use super::formats;
use super::materialize::{self, Effect, Event, Outcome, Rules, Slot, Standing};
use super::snapshot::Snapshots;
use super::view::{History, TargetState, TargetView};

/// How often a file is looked at though nothing happened, give or take a fifth.
const RESYNC: Duration = Duration::from_secs(60);
/// How long the registry has to say something before the snapshot is used.
const SNAPSHOT_AFTER: Duration = Duration::from_secs(3);
/// Length of each queue; whoever finds one full waits.
const QUEUE: usize = 64;
/// How many commands run at once, so that a thousand targets are no thousand processes: more than will ever hang together, because
/// those that wait are held up by those that hang.
const COMMANDS: usize = 32;
/// How many paths without a target are remembered because their applications were not told.
const DEBTS: usize = 1024;

/// The targets of all descriptors.
#[derive(Debug)]
pub struct Targets {
    wanted: watch::Sender<Wanted>,
    board: Board,
    next_slot: AtomicU64,
}

type Wanted = Arc<Vec<Arc<Want>>>;

/// One target as somebody wants it.
#[derive(Debug)]
struct Want {
    slot: Slot,
    /// Its descriptor.
    source: PathBuf,
    config: Config,
    key: ConfigKey,
}

impl Targets {
    /// Starts with no targets. Makes the one call of [`watch_configs`](crate::nacos::Transport::watch_configs); snapshots are
    /// kept in `state_dir`.
    #[must_use]
    pub fn start(parts: &Parts, state_dir: PathBuf) -> Self {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (keys, watched) = watch::channel(BTreeSet::new());
        let (teller, told) = mpsc::channel(QUEUE);
        let (inbox, letters) = mpsc::channel(QUEUE);
        let board = Board::new(parts.epoch);
        parts.transport.watch_configs(watched, teller);
        let router = Router {
            parts: parts.clone(),
            board: board.clone(),
            snapshots: Arc::new(Snapshots::new(&state_dir)),
            groups: HashMap::new(),
            live: BTreeMap::new(),
            known: BTreeMap::new(),
            places: HashMap::new(),
            claims: Claims::default(),
            commands: Commands {
                permits: Arc::new(Semaphore::new(COMMANDS)),
                metrics: parts.metrics.clone(),
            },
            keys,
            inbox,
            dice: Dice::new(parts.seed.rotate_left(47)),
        };
        parts
            .tasks
            .spawn("targets", router.run(wants, told, letters));
        Self {
            wanted,
            board,
            next_slot: AtomicU64::new(0),
        }
    }

    /// Wants these configurations, by descriptor. What is equal to before is not touched; the views are those of `wanted` when
    /// this returns.
    pub fn set(&self, wanted: Vec<(PathBuf, Vec<Config>)>) {
        self.wanted.send_if_modified(|before| {
            let mut left: Vec<&Arc<Want>> = before.iter().collect();
            let mut next = Vec::new();
            for (source, configs) in wanted {
                for config in configs {
                    let same = left
                        .iter()
                        .position(|want| want.source == source && want.config == config);
                    next.push(match same {
                        Some(at) => Arc::clone(left.swap_remove(at)),
                        None => Arc::new(Want {
                            slot: Slot(self.next_slot.fetch_add(1, Ordering::Relaxed)),
                            source: source.clone(),
                            key: ConfigKey {
                                namespace: Namespace::new(&config.namespace),
                                group: config.group.as_str().into(),
                                data_id: config.data_id.as_str().into(),
                            },
                            config,
                        }),
                    });
                }
            }
            let slots =
                |wants: &[Arc<Want>]| wants.iter().map(|want| want.slot).collect::<Vec<_>>();
            if slots(before) == slots(&next) {
                return false;
            }
            self.board.expect(&next);
            *before = Arc::new(next);
            true
        });
    }

    /// How every target stands, in the order of [`Targets::set`]. `applied_once` says that the file was in place once, also while
    /// its reload is still due; `rejected` and `missing` will not change without a change at the registry.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<Vec<TargetView>>> {
        self.board.shown.subscribe()
    }
}

type Views = BTreeMap<Slot, TargetView>;

/// The views, changed here only.
#[derive(Clone, Debug)]
struct Board {
    epoch: Epoch,
    inside: Arc<Mutex<(Vec<Arc<Want>>, Views)>>,
    shown: watch::Sender<Arc<Vec<TargetView>>>,
}

impl Board {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            inside: Arc::default(),
            shown: watch::Sender::default(),
        }
    }

    fn now(&self) -> SystemTime {
        self.epoch.wall(self.epoch.now())
    }

    /// Changes the views and shows them.
    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Want>>, &mut Views)) {
        let mut guard = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let (order, views) = &mut *guard;
        change(order, views);
        let shown = order
            .iter()
            .filter_map(|want| views.get(&want.slot).cloned());
        self.shown.send_replace(Arc::new(shown.collect()));
    }

    fn expect(&self, wants: &[Arc<Want>]) {
        let now = self.now();
        self.change(|order, views| {
            *order = wants.to_vec();
            let slots: BTreeSet<Slot> = wants.iter().map(|want| want.slot).collect();
            views.retain(|slot, _| slots.contains(slot));
            for want in wants {
                views.entry(want.slot).or_insert_with(|| TargetView {
                    config: want.key.clone(),
                    path: want.config.target.path.clone(),
                    required: want.config.target.required,
                    state: TargetState::Waiting,
                    reason: None,
                    since: now,
                    applied_once: false,
                    md5: None,
                    history: History::default(),
                });
            }
        });
    }

    fn tell(&self, want: &Want, standing: &Standing) {
        let now = self.now();
        self.change(|_, views| {
            let Some(view) = views.get_mut(&want.slot) else {
                return;
            };
            let target = &want.config.target;
            let is_news = view.state != standing.state || view.reason != standing.reason;
            if view.state != standing.state {
                view.since = now;
            }
            view.state = standing.state;
            view.reason.clone_from(&standing.reason);
            view.applied_once = standing.applied_once;
            view.md5 = standing.md5.as_deref().map(str::to_owned);
            // `on_absent: fail` makes a missing configuration count, required or not.
            view.required = target.required
                || (target.on_absent == OnAbsent::Fail && standing.state == TargetState::Missing);
            if is_news {
                let state = standing.state.word();
                let reason = standing.reason.as_deref().unwrap_or_default();
                log(&want.key, &target.path, standing.state, reason);
                let sentence = match &standing.reason {
                    Some(reason) => format!("{state}: {reason}"),
                    None => state.to_owned(),
                };
                view.history.add(now, sentence);
            }
        });
    }

    fn note(&self, slots: &[Slot], sentence: &str) {
        let now = self.now();
        self.change(|_, views| {
            for slot in slots {
                if let Some(view) = views.get_mut(slot) {
                    view.history.add(now, sentence.to_owned());
                }
            }
        });
    }
}

/// The one line of a change.
fn log(key: &ConfigKey, path: &Path, state: TargetState, reason: &str) {
    let reason = (!reason.is_empty()).then_some(reason);
    let (config, path, word) = (key.to_string(), path.display(), state.word());
    match state {
        TargetState::Rejected | TargetState::Unreachable => {
            tracing::warn!(%config, %path, state = word, reason, "configuration");
        }
        _ => tracing::info!(%config, %path, state = word, reason, "configuration"),
    }
}

/// Which group a target belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum GroupKey {
    /// Targets of this descriptor with this reload.
    Shared(PathBuf, Reload),
    /// A target without a reload.
    Alone(Slot),
}

impl GroupKey {
    fn of(want: &Want) -> Self {
        match &want.config.target.reload {
            Some(reload) => Self::Shared(want.source.clone(), reload.clone()),
            None => Self::Alone(want.slot),
        }
    }
}

type Jobs = Arc<Mutex<BTreeMap<Slot, Arc<Job>>>>;
/// Which target keeps the file at a spot; two paths can be one file.
type Claims = Arc<Mutex<BTreeMap<Spot, (Slot, PathBuf)>>>;

/// A running group.
#[derive(Clone)]
struct Group {
    events: mpsc::Sender<Event>,
    jobs: Jobs,
    tasks: Tasks,
}

impl Group {
    async fn tell(&self, event: Event) {
        // A group only stops hearing when it was stopped, and then nothing it is told matters.
        _ = self.events.send(event).await;
    }

    fn job(&self, slot: Slot) -> Option<Arc<Job>> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(&slot).cloned()
    }
}

/// What is known of a configuration.
#[derive(Default)]
struct Known {
    /// Its last content or absence.
    state: Option<ConfigState>,
    unreachable: Option<String>,
    remembered: Option<Content>,
    /// Whether its snapshot was asked for.
    asked: bool,
}

/// What the router's own tasks tell it.
enum Letter {
    /// The registry had time enough to say something.
    Late(ConfigKey),
    /// The snapshot was read.
    Remembered(ConfigKey, Content),
}

/// Owns who wants what, and hands news on.
struct Router {
    parts: Parts,
    board: Board,
    snapshots: Arc<Snapshots>,
    groups: HashMap<GroupKey, Group>,
    live: BTreeMap<Slot, Arc<Want>>,
    known: BTreeMap<ConfigKey, Known>,
    places: HashMap<PathBuf, Arc<Place>>,
    claims: Claims,
    commands: Commands,
    keys: watch::Sender<BTreeSet<ConfigKey>>,
    inbox: mpsc::Sender<Letter>,
    dice: Dice,
}

impl Router {
    async fn run(
        mut self,
        mut wants: watch::Receiver<Wanted>,
        mut told: mpsc::Receiver<(ConfigKey, ConfigState)>,
        mut letters: mpsc::Receiver<Letter>,
    ) {
        loop {
            tokio::select! {
                biased;
                changed = wants.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = Arc::clone(&wants.borrow_and_update());
                    self.reconcile(&wanted).await;
                }
                Some((key, state)) = told.recv() => self.news(key, state).await,
                Some(letter) = letters.recv() => match letter {
                    Letter::Late(key) => self.recall(&key),
                    Letter::Remembered(key, content) => self.remembered(&key, content).await,
                },
            }
        }
    }

    async fn reconcile(&mut self, wanted: &[Arc<Want>]) {
        let slots: BTreeSet<Slot> = wanted.iter().map(|want| want.slot).collect();
        let gone: Vec<Slot> = self
            .live
            .keys()
            .filter(|slot| !slots.contains(slot))
            .copied()
            .collect();
        for slot in gone {
            self.let_go(slot).await;
        }
        let keys: BTreeSet<ConfigKey> = wanted.iter().map(|want| want.key.clone()).collect();
        self.known.retain(|key, _| keys.contains(key));
        for key in &keys {
            if !self.known.contains_key(key) {
                self.known.insert(key.clone(), Known::default());
                let (inbox, key) = (self.inbox.clone(), key.clone());
                self.parts.tasks.spawn("snapshot later", async move {
                    sleep(SNAPSHOT_AFTER).await;
                    // The router ends only with the agent.
                    _ = inbox.send(Letter::Late(key)).await;
                });
            }
        }
        for want in wanted {
            if self.live.insert(want.slot, Arc::clone(want)).is_none() {
                self.take_up(want).await;
            }
        }
        self.groups.retain(|_, group| {
            let jobs = group.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            if jobs.is_empty() {
                group.tasks.stop();
            }
            !jobs.is_empty()
        });
        let mut debts = 0;
        self.places.retain(|_, place| {
            let in_use = Arc::strong_count(place) > 1;
            debts += usize::from(!in_use && place.owes());
            in_use || (place.owes() && debts <= DEBTS)
        });
        self.keys.send_if_modified(|before| {
            let changed = *before != keys;
            *before = keys;
            changed
        });
    }

    async fn let_go(&mut self, slot: Slot) {
        let Some(want) = self.live.remove(&slot) else {
            return;
        };
        self.claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, (by, _)| *by != slot);
        if let Some(group) = self.groups.get(&GroupKey::of(&want)) {
            let job = group
                .jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&slot);
            if let Some(job) = job {
                job.tasks.stop();
            }
            group.tell(Event::LetGo { slot }).await;
        }
    }

    async fn take_up(&mut self, want: &Arc<Want>) {
        let target = &want.config.target;
        let key = GroupKey::of(want);
        if !self.groups.contains_key(&key) {
            let seed = self.dice.seed();
            let (commands, reload) = (self.commands.clone(), target.reload.clone());
            let group = start(&self.parts, &self.board, commands, reload, seed);
            self.groups.insert(key.clone(), group);
        }
        let Some(group) = self.groups.get(&key) else {
            return;
        };
        let place = self.places.entry(target.path.clone()).or_default();
        let job = Job {
            want: Arc::clone(want),
            tasks: group.tasks.child(),
            place: Arc::clone(place),
            claims: Arc::clone(&self.claims),
            snapshots: Arc::clone(&self.snapshots),
            commands: self.commands.clone(),
            looked: AtomicBool::new(false),
            complained: AtomicBool::new(false),
        };
        group
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(want.slot, Arc::new(job));
        let rules = Rules {
            on_absent: target.on_absent,
            max_size: target.max_size,
            may_relent: matches!(target.validate, Some(Validate::Exec(_))),
        };
        let slot = want.slot;
        group.tell(Event::Wanted { slot, rules }).await;
        // What is known already will not be told again.
        let Some(known) = self.known.get(&want.key) else {
            return;
        };
        let unreachable = known.unreachable.clone().map(ConfigState::Unreachable);
        for state in known.state.clone().into_iter().chain(unreachable) {
            group.tell(Event::Known { slot, state }).await;
        }
        if let Some(content) = known.remembered.clone() {
            group.tell(Event::Remembered { slot, content }).await;
        }
    }

    /// Tells every target of the configuration.
    async fn hand_on(&self, key: &ConfigKey, event: impl Fn(Slot) -> Event) {
        for want in self.live.values().filter(|want| want.key == *key) {
            if let Some(group) = self.groups.get(&GroupKey::of(want)) {
                group.tell(event(want.slot)).await;
            }
        }
    }

    async fn news(&mut self, key: ConfigKey, state: ConfigState) {
        let Some(known) = self.known.get_mut(&key) else {
            return;
        };
        let (mut recall, mut forget) = (false, false);
        match &state {
            ConfigState::Unreachable(why) => {
                known.unreachable = Some(why.clone());
                recall = known.state.is_none();
            }
            ConfigState::Present(_) | ConfigState::Absent => {
                known.unreachable = None;
                known.remembered = None;
                known.state = Some(state.clone());
                forget = state == ConfigState::Absent;
            }
        }
        self.hand_on(&key, |slot| Event::Known {
            slot,
            state: state.clone(),
        })
        .await;
        if recall {
            self.recall(&key);
        }
        if forget {
            let snapshots = Arc::clone(&self.snapshots);
            self.parts.tasks.spawn("forget a snapshot", async move {
                let outcome = tokio::task::spawn_blocking(move || snapshots.forget(&key)).await;
                if let Ok(Err(error)) = outcome {
                    tracing::warn!(%error, "a snapshot cannot be removed");
                }
            });
        }
    }

    /// Reads the snapshot, once, unless the registry has said something.
    fn recall(&mut self, key: &ConfigKey) {
        let Some(known) = self.known.get_mut(key) else {
            return;
        };
        if known.asked || known.state.is_some() {
            return;
        }
        known.asked = true;
        let (snapshots, inbox) = (Arc::clone(&self.snapshots), self.inbox.clone());
        let key = key.clone();
        self.parts.tasks.spawn("read a snapshot", async move {
            let whose = key.clone();
            match tokio::task::spawn_blocking(move || snapshots.load(&whose)).await {
                Ok(Ok(Some(content))) => {
                    _ = inbox.send(Letter::Remembered(key, content)).await;
                }
                Ok(Ok(None)) => tracing::debug!(config = %key, "there is no snapshot"),
                Ok(Err(error)) => tracing::warn!(%error, "a snapshot cannot be used"),
                Err(_) => {}
            }
        });
    }

    async fn remembered(&mut self, key: &ConfigKey, content: Content) {
        let Some(known) = self.known.get_mut(key) else {
            return;
        };
        if known.state.is_some() {
            return;
        }
        known.remembered = Some(content.clone());
        self.hand_on(key, |slot| Event::Remembered {
            slot,
            content: content.clone(),
        })
        .await;
    }
}

/// Starts the machine of a group and the tasks that carry out its effects.
fn start(
    parts: &Parts,
    board: &Board,
    commands: Commands,
    reload: Option<Reload>,
    seed: u64,
) -> Group {
    let (events, received) = mpsc::channel(QUEUE);
    let group = Group {
        events: events.clone(),
        jobs: Jobs::default(),
        tasks: parts.tasks.child(),
    };
    let machine = materialize::Group::new(reload.is_some(), seed);
    let hands = Hands {
        group: group.clone(),
        board: board.clone(),
        commands,
        reload: reload.map(Arc::new),
    };
    let (epoch, stop) = (parts.epoch, group.tasks.token());
    group.tasks.spawn_to_end("group of targets", async move {
        drive(
            machine,
            epoch,
            received,
            move |effect| {
                hands.perform(effect);
                std::future::ready(())
            },
            stop,
        )
        .await;
    });
    group.tasks.spawn("resync", async move {
        let mut chance = fastrand::Rng::with_seed(seed);
        loop {
            sleep(RESYNC.mul_f64(0.8 + 0.4 * chance.f64())).await;
            if events.send(Event::Resync).await.is_err() {
                return;
            }
        }
    });
    group
}

/// Carries out the effects of a group, each in a task of its own.
struct Hands {
    group: Group,
    board: Board,
    commands: Commands,
    reload: Option<Arc<Reload>>,
}

impl Hands {
    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Apply { slot, content } => self.put(slot, Some(content)),
            Effect::Remove { slot } => self.put(slot, None),
            Effect::Reload => self.reload(),
            Effect::Tell { slot, standing } => {
                if let Some(job) = self.group.job(slot) {
                    self.board.tell(&job.want, &standing);
                }
            }
        }
    }

    fn put(&self, slot: Slot, content: Option<Content>) {
        // A target that was let go: nobody waits for the outcome.
        let Some(job) = self.group.job(slot) else {
            return;
        };
        let (events, board) = (self.group.events.clone(), self.board.clone());
        job.tasks.clone().spawn("write a target", async move {
            let outcome = match content {
                Some(content) => job.apply(content).await,
                None => job.remove().await,
            };
            job.count(&outcome);
            match outcome {
                Outcome::Written => board.note(&[slot], "the file was written"),
                Outcome::Mended => board.note(&[slot], "the file's mode or owner was set right"),
                Outcome::Removed => board.note(&[slot], "the file was removed"),
                Outcome::Inherited => board.note(&[slot], "an earlier reload is still due"),
                _ => {}
            }
            _ = events.send(Event::Done { slot, outcome }).await;
        });
    }

    fn reload(&self) {
        let Some(reload) = self.reload.clone() else {
            return;
        };
        let (group, board, commands) = (
            self.group.clone(),
            self.board.clone(),
            self.commands.clone(),
        );
        // What is in place before the application is told, it hears of.
        let before: Vec<(Arc<Place>, u64)> = group
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|job| (Arc::clone(&job.place), job.place.debt().changes))
            .collect();
        self.group.tasks.spawn("reload", async move {
            let outcome = tell_application(&reload, &commands).await;
            let what = match *reload {
                Reload::Signal { .. } => "signal",
                Reload::Exec(_) => "exec",
                Reload::Http { .. } => "http",
            };
            let counted = Counted {
                what,
                outcome: if outcome.is_ok() { "ok" } else { "failed" },
            };
            commands.metrics.reloads.get_or_create(&counted).inc();
            let answer = match outcome {
                Ok(how) => {
                    for (place, changes) in &before {
                        place.told(*changes);
                    }
                    let slots: Vec<Slot> = group
                        .jobs
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .keys()
                        .copied()
                        .collect();
                    board.note(&slots, &how);
                    Ok(())
                }
                Err(why) => Err(why),
            };
            group.tell(Event::Reloaded(answer)).await;
        });
    }
}

/// A slot that no target has.
const NOBODY: Slot = Slot(u64::MAX);

/// A path, whichever target it belongs to now.
#[derive(Debug)]
struct Place {
    /// One at a time works on it.
    turn: Arc<Semaphore>,
    debt: Mutex<Debt>,
}

/// What the application of a path was not told.
#[derive(Debug, Default)]
struct Debt {
    /// How many changes were to be told so far.
    changes: u64,
    /// Which target made the last of them, until it was told.
    by: Option<Slot>,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            debt: Mutex::default(),
        }
    }
}

impl Place {
    fn debt(&self) -> MutexGuard<'_, Debt> {
        self.debt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owes(&self) -> bool {
        self.debt().by.is_some()
    }

    /// Keeps account of work on the path; of a debt that another target has left the outcome is [`Outcome::Inherited`].
    fn account(&self, want: &Want, outcome: Outcome) -> Outcome {
        let mut debt = self.debt();
        if want.config.target.reload.is_none() {
            // Nobody is to be told any more.
            debt.by = None;
            return outcome;
        }
        let outcome = match outcome {
            Outcome::Unchanged | Outcome::Mended | Outcome::NothingThere
                if debt.by.is_some_and(|by| by != want.slot) =>
            {
                Outcome::Inherited
            }
            other => other,
        };
        if matches!(
            outcome,
            Outcome::Written | Outcome::Removed | Outcome::Inherited
        ) {
            debt.changes += 1;
            debt.by = Some(want.slot);
        }
        outcome
    }

    /// The file was perhaps written: should it have its content when it is looked at next, the application hears of it then.
    fn doubt(&self) {
        let mut debt = self.debt();
        debt.changes += 1;
        debt.by = Some(NOBODY);
    }

    /// The application was told, of everything up to `changes`.
    fn told(&self, changes: u64) {
        let mut debt = self.debt();
        if debt.changes == changes {
            debt.by = None;
        }
    }
}

/// The work on one target's file.
struct Job {
    want: Arc<Want>,
    tasks: Tasks,
    place: Arc<Place>,
    claims: Claims,
    snapshots: Arc<Snapshots>,
    commands: Commands,
    /// Whether leftovers of a crash were looked for.
    looked: AtomicBool,
    /// Whether it was said that the snapshot cannot be kept.
    complained: AtomicBool,
}

/// How far a content came without asking anybody.
enum Step {
    Over(Outcome),
    Staged(Box<Staged>),
}

impl Job {
    /// Runs blocking work; the turn goes with it, because dropping the future does not end it.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        turn: OwnedSemaphorePermit,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<(OwnedSemaphorePermit, T), Outcome> {
        let job = Arc::clone(self);
        tokio::task::spawn_blocking(move || (turn, work(&job)))
            .await
            .map_err(|_| Outcome::Failed("the work on the file was broken off".to_owned()))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Outcome> {
        Arc::clone(&self.place.turn)
            .acquire_owned()
            .await
            .map_err(|_| Outcome::Failed("the agent is stopping".to_owned()))
    }

    async fn apply(self: &Arc<Self>, content: Content) -> Outcome {
        match self.try_apply(content).await {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    async fn try_apply(self: &Arc<Self>, content: Content) -> Result<Outcome, Outcome> {
        let turn = self.turn().await?;
        let staged = content.clone();
        let (turn, step) = self
            .blocking(turn, move |job| {
                job.look_and_stage(&staged)
                    .unwrap_or_else(|error| Step::Over(Outcome::Failed(error.to_string())))
            })
            .await?;
        let (turn, outcome) = match step {
            Step::Over(outcome) => (turn, outcome),
            Step::Staged(staged) => {
                if let Some(Validate::Exec(command)) = &self.want.config.target.validate {
                    self.ask(command, &staged).await?;
                }
                self.blocking(turn, move |job| match staged.publish() {
                    Ok(()) => job.place.account(&job.want, Outcome::Written),
                    Err(error) => {
                        if matches!(
                            error,
                            publish::Error::Exchanged { .. } | publish::Error::Replaced { .. }
                        ) {
                            job.place.doubt();
                        }
                        Outcome::Failed(error.to_string())
                    }
                })
                .await?
            }
        };
        if matches!(
            outcome,
            Outcome::Unchanged | Outcome::Mended | Outcome::Written | Outcome::Inherited
        ) {
            let kept = self.blocking(turn, move |job| job.keep(&content)).await;
            if kept.is_err() {
                // The file is in place all the same, and its reload must not be lost.
                tracing::warn!(config = %self.want.key, "the work on a snapshot was broken off");
            }
        }
        Ok(outcome)
    }

    /// Claims the file; says who has it when another target does.
    fn claim(&self) -> Result<Option<PathBuf>, publish::Error> {
        let path = &self.want.config.target.path;
        let spot = publish::spot(path)?;
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        // A directory that was exchanged is another spot; the one before is free again.
        claims.retain(|at, (by, _)| *by != self.want.slot || *at == spot);
        let (by, theirs) = claims
            .entry(spot)
            .or_insert_with(|| (self.want.slot, path.clone()));
        Ok((*by != self.want.slot).then(|| theirs.clone()))
    }

    /// Compares with what is there; stages the content beside it where it differs and is valid.
    fn look_and_stage(&self, content: &Content) -> Result<Step, publish::Error> {
        let target = &self.want.config.target;
        let path = &target.path;
        if let Some(theirs) = self.claim()? {
            let why = format!(
                "{}: is the same file as {}, which another target keeps; change one path",
                path.display(),
                theirs.display()
            );
            return Ok(Step::Over(Outcome::Failed(why)));
        }
        if !self.looked.swap(true, Ordering::Relaxed) {
            let swept = publish::sweep(path)?;
            if swept > 0 {
                tracing::info!(path = %path.display(), swept, "removed what a crash had left");
            }
        }
        let owner = match &target.owner {
            Some(owner) => Owner::find(owner.user.as_deref(), owner.group.as_deref())?,
            None => Owner::default(),
        };
        if let Some(found) = publish::current(path, target.max_size)?
            && *found.bytes == *content.bytes
        {
            if found.has(target.mode, owner) {
                return Ok(Step::Over(
                    self.place.account(&self.want, Outcome::Unchanged),
                ));
            }
            publish::mend(path, target.mode, owner)?;
            return Ok(Step::Over(self.place.account(&self.want, Outcome::Mended)));
        }
        if let Some(Validate::Format(format)) = &target.validate
            && let Err(mistake) = formats::check(*format, &content.bytes)
        {
            return Ok(Step::Over(Outcome::Rejected(mistake.to_string())));
        }
        let mut staged = publish::stage(path, &content.bytes, target.mode, owner)?;
        if let Some(Validate::Exec(command)) = &target.validate
            && let Some(user) = &command.run_as
        {
            // A user nobody knows is named when the validator is run.
            if let Ok((uid, gid)) = command::account(user) {
                staged.show_to(uid, gid)?;
            }
        }
        Ok(Step::Staged(Box::new(staged)))
    }

    /// Asks the validator command.
    async fn ask(&self, command: &Command, staged: &Staged) -> Result<(), Outcome> {
        let path = staged.path().to_string_lossy().into_owned();
        let argv: Vec<String> = command
            .argv
            .iter()
            .map(|word| word.replace("{staged}", &path))
            .collect();
        self.commands
            .run(command, &argv)
            .await
            .map_err(|why| Outcome::Rejected(format!("the validator says no: {why}")))
    }

    /// Keeps the content for a start without the registry.
    fn keep(&self, content: &Content) {
        match self.snapshots.save(&self.want.key, content) {
            Ok(_) => self.complained.store(false, Ordering::Relaxed),
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, config = %self.want.key, "no snapshot is kept");
                }
            }
        }
    }

    async fn remove(self: &Arc<Self>) -> Outcome {
        let turn = match self.turn().await {
            Ok(turn) => turn,
            Err(outcome) => return outcome,
        };
        let removed = self
            .blocking(turn, |job| {
                // A file that another target keeps is not this one's to remove; nor is there one where no directory is.
                if matches!(job.claim(), Ok(Some(_))) {
                    return Outcome::NothingThere;
                }
                let outcome = match publish::remove(&job.want.config.target.path) {
                    Ok(true) => Outcome::Removed,
                    Ok(false) => Outcome::NothingThere,
                    Err(error) => return Outcome::Failed(error.to_string()),
                };
                job.place.account(&job.want, outcome)
            })
            .await;
        match removed {
            Ok((_, outcome)) | Err(outcome) => outcome,
        }
    }

    fn count(&self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Written => "written",
            Outcome::Rejected(_) => "rejected",
            Outcome::Failed(_) => "failed",
            _ => return,
        };
        let counted = Counted {
            what: "config",
            outcome,
        };
        self.commands.metrics.writes.get_or_create(&counted).inc();
    }
}

/// Runs commands, [`COMMANDS`] at once.
#[derive(Clone)]
struct Commands {
    permits: Arc<Semaphore>,
    metrics: Metrics,
}

impl Commands {
    /// Runs one; an error names it and has its last words.
    async fn run(&self, command: &Command, argv: &[String]) -> Result<(), String> {
        // It is never closed, and to run one too many would be no harm.
        let _permit = self.permits.acquire().await;
        let outcome = command::run(Run {
            argv,
            timeout: command.timeout,
            run_as: command.run_as.as_deref(),
        })
        .await;
        outcome.map_err(|failure| {
            if failure.timed_out() {
                self.metrics.command_timeouts.inc();
            }
            let program = Foreign::from(argv.first().map(String::as_str).unwrap_or_default());
            format!("{program}: {failure}")
        })
    }
}

/// Reloads; says how, or why not.
async fn tell_application(reload: &Reload, commands: &Commands) -> Result<String, String> {
    match reload {
        Reload::Signal {
            signal,
            process,
            user,
        } => {
            let (name, process, user) = (signal.clone(), process.clone(), user.clone());
            let sent = tokio::task::spawn_blocking(move || {
                let whom = match &process {
                    Process::PidFile(path) => Whom::PidFile(path),
                    Process::Named(name) => Whom::Named(name),
                };
                process::signal(whom, user.as_deref(), &name)
            })
            .await;
            match sent {
                Ok(Ok(pid)) => Ok(format!("reloaded by {signal} to process {pid}")),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the agent is stopping".to_owned()),
            }
        }
        Reload::Exec(command) => {
            commands.run(command, &command.argv).await?;
            let program = command.argv.first().map(String::as_str).unwrap_or_default();
            Ok(format!("reloaded by {}", Foreign::from(program)))
        }
        Reload::Http {
            method,
            url,
            timeout,
        } => request(method, url, *timeout).await,
    }
}

/// Asks for a reload over HTTP. No error has the URL, which may hold a secret.
async fn request(method: &str, url: &str, timeout: Duration) -> Result<String, String> {
    let method = reqwest::Method::from_bytes(method.as_bytes())
        .map_err(|_| format!("{} is no HTTP method", Foreign::from(method)))?;
    // Made for each reload: they are rare, and a client that is kept costs memory.
    let client = wire::http_client(timeout, url.starts_with("https:"))
        .timeout(timeout)
        .build()
        .map_err(|error| format!("no HTTP client can be made: {}", error.without_url()))?;
    let said = method.to_string();
    let answer = client.request(method, url).send().await;
    let status = answer
        .map_err(|error| {
            if error.is_timeout() {
                format!("{said}: no answer within {timeout:?}")
            } else if error.is_connect() {
                format!("{said}: no connection; is the application running?")
            } else {
                format!("{said}: {}", error.without_url())
            }
        })?
        .status();
    if status.is_success() {
        Ok(format!("reloaded by {said}, answered {}", status.as_u16()))
    } else {
        Err(format!("{said}: answered {}", status.as_u16()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::spec::{Format, Target};
    use crate::nacos::model::{Connection, Instance, ListState, Listed, ServiceKey};
    use crate::nacos::wire::md5_hex;
    use crate::nacos::{Error, Reply, Transport};
    use std::{fs, os::unix::fs::MetadataExt as _};
    use tempfile::TempDir;

    type Watch = (
        watch::Receiver<BTreeSet<ConfigKey>>,
        mpsc::Sender<(ConfigKey, ConfigState)>,
    );

    /// A registry that only hands out what a test tells it.
    #[derive(Default)]
    struct Registry(Mutex<Option<Watch>>);

    fn stopped<T: Send + 'static>() -> Reply<T> {
        Box::pin(async { Err(Error::Stopped) })
    }

    impl Transport for Registry {
        fn publish(&self, _: Instance) -> Reply<()> {
            stopped()
        }
        fn withdraw(&self, _: Instance) -> Reply<()> {
            stopped()
        }
        fn is_gone(&self, _: Instance) -> Reply<bool> {
            stopped()
        }
        fn read_back(&self, _: Instance) -> Reply<Option<Listed>> {
            stopped()
        }
        fn watch_configs(
            &self,
            keys: watch::Receiver<BTreeSet<ConfigKey>>,
            told: mpsc::Sender<(ConfigKey, ConfigState)>,
        ) {
            let before = self.0.lock().unwrap().replace((keys, told));
            assert!(before.is_none(), "called once");
        }
        fn watch_services(
            &self,
            _: watch::Receiver<BTreeSet<ServiceKey>>,
            _: mpsc::Sender<(ServiceKey, ListState)>,
        ) {
            unreachable!("no target wants a list")
        }
        fn connection(&self) -> watch::Receiver<Connection> {
            unreachable!("targets do not ask for it")
        }
    }

    struct House {
        folder: TempDir,
        parts: Parts,
        targets: Targets,
        keys: watch::Receiver<BTreeSet<ConfigKey>>,
        told: mpsc::Sender<(ConfigKey, ConfigState)>,
    }

    impl House {
        fn new() -> Self {
            Self::on(tempfile::tempdir().unwrap())
        }

        fn on(folder: TempDir) -> Self {
            let registry = Arc::new(Registry::default());
            let parts = Parts {
                tasks: Tasks::new(),
                epoch: Epoch::start(),
                transport: Arc::clone(&registry) as Arc<dyn Transport>,
                metrics: Metrics::default(),
                seed: 1,
            };
            let targets = Targets::start(&parts, folder.path().join("state"));
            let (keys, told) = registry.0.lock().unwrap().take().unwrap();
            Self {
                folder,
                parts,
                targets,
                keys,
                told,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn read(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.path(name)).ok()
        }

        fn config(&self, data_id: &str) -> Config {
            config_at(self.path(data_id), data_id)
        }
    }

    fn config_at(path: PathBuf, data_id: &str) -> Config {
        Config {
            data_id: data_id.to_owned(),
            group: "G".to_owned(),
            namespace: String::new(),
            target: Target {
                path,
                mode: 0o600,
                owner: None,
                required: false,
                on_absent: OnAbsent::Keep,
                max_size: 1000,
                validate: None,
                reload: None,
            },
        }
    }

    impl House {
        fn set(&self, configs: &[Config]) {
            self.targets
                .set(vec![(PathBuf::from("conf.d/a.yaml"), configs.to_vec())]);
        }

        /// Tells once the key is wanted.
        async fn tell(&mut self, data_id: &str, state: ConfigState) {
            let key = ConfigKey {
                namespace: Namespace::public(),
                group: "G".into(),
                data_id: data_id.into(),
            };
            let wanted = self.keys.wait_for(|keys| keys.contains(&key)).await;
            drop(wanted.unwrap());
            self.told.send((key, state)).await.unwrap();
        }

        async fn publish(&mut self, data_id: &str, text: &str) {
            let content = Content {
                bytes: text.as_bytes().into(),
                md5: md5_hex(text.as_bytes()).into(),
                modified: None,
            };
            self.tell(data_id, ConfigState::Present(content)).await;
        }

        async fn until(&self, what: &str, is: impl Fn(&[TargetView]) -> bool) -> Vec<TargetView> {
            let mut views = self.targets.views();
            let found = tokio::time::timeout(
                Duration::from_secs(20),
                views.wait_for(|views| is(views.as_slice())),
            )
            .await;
            match found {
                Ok(Ok(views)) => views.to_vec(),
                _ => panic!("not {what}: {:?}", self.targets.views().borrow()),
            }
        }

        async fn until_state(&self, data_id: &str, state: TargetState) -> TargetView {
            let is_it = |view: &TargetView| &*view.config.data_id == data_id && view.state == state;
            let views = self
                .until(&format!("{data_id} {state:?}"), |views| {
                    views.iter().any(is_it)
                })
                .await;
            views.into_iter().find(is_it).unwrap()
        }
    }

    fn exec(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            timeout: Duration::from_secs(10),
            run_as: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_content_becomes_the_file_and_a_bad_one_does_not() {
        let mut house = House::new();
        let mut config = house.config("a.yaml");
        config.target.validate = Some(Validate::Format(Format::Yaml));
        house.set(&[config]);
        assert_eq!(house.targets.views().borrow().len(), 1);
        house.publish("a.yaml", "greeting: hello\n").await;
        let view = house.until_state("a.yaml", TargetState::Applied).await;
        assert!(view.applied_once && view.reason.is_none());
        assert_eq!(view.md5, Some(md5_hex(b"greeting: hello\n")));
        assert_eq!(house.read("a.yaml").as_deref(), Some("greeting: hello\n"));
        let mode = fs::metadata(house.path("a.yaml")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        house.publish("a.yaml", "greeting: [secret\n").await;
        let view = house.until_state("a.yaml", TargetState::Rejected).await;
        let reason = view.reason.unwrap();
        assert!(reason.starts_with("not valid yaml: "), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
        assert_eq!(house.read("a.yaml").as_deref(), Some("greeting: hello\n"));
        assert_eq!(
            view.history.iter().last().unwrap().1,
            format!("rejected: {reason}")
        );
        house.publish("a.yaml", "greeting: again\n").await;
        house.until_state("a.yaml", TargetState::Applied).await;
        assert_eq!(house.read("a.yaml").as_deref(), Some("greeting: again\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_change_is_not_touched_and_what_was_removed_is_let_go() {
        let mut house = House::new();
        let (a, mut b) = (house.config("a"), house.config("b"));
        house.set(&[a.clone(), b.clone()]);
        house.publish("a", "one").await;
        house.publish("b", "one").await;
        let before = house.until_state("a", TargetState::Applied).await;
        house.until_state("b", TargetState::Applied).await;
        fs::remove_file(house.path("b")).unwrap();
        b.target.path = house.path("c");
        house.set(&[b.clone(), a.clone()]);
        assert_eq!(house.targets.views().borrow()[1], before);
        assert!(!house.targets.views().borrow()[0].applied_once);
        let moved = house.until_state("b", TargetState::Applied).await;
        assert_eq!(moved.path, house.path("c"));
        assert_eq!(house.read("c").as_deref(), Some("one"));
        house.set(&[a]);
        assert_eq!(*house.targets.views().borrow().as_slice(), [before]);
        let only_a = house.keys.wait_for(|keys| keys.len() == 1).await.is_ok();
        assert!(only_a && house.read("c").is_some() && house.read("b").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_somebody_deletes_or_edits_is_repaired() {
        let mut house = House::new();
        house.set(&[house.config("a")]);
        house.publish("a", "one").await;
        house.until_state("a", TargetState::Applied).await;
        fs::remove_file(house.path("a")).unwrap();
        for _ in 0..1_000 {
            if house.read("a").is_some() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(house.read("a").as_deref(), Some("one"));
    }

    #[tokio::test(start_paused = true)]
    async fn starts_from_its_snapshot_while_the_registry_is_away_or_silent() {
        for says_so in [true, false] {
            let mut house = House::new();
            house.set(&[house.config("a")]);
            house.publish("a", "one").await;
            house.until_state("a", TargetState::Applied).await;
            assert!(
                house
                    .parts
                    .tasks
                    .finish(Duration::from_secs(5))
                    .await
                    .is_ok()
            );
            fs::remove_file(house.path("a")).unwrap();
            let mut house = House::on(house.folder);
            house.set(&[house.config("a"), house.config("b")]);
            if says_so {
                for data_id in ["a", "b"] {
                    let away = ConfigState::Unreachable("connection refused".to_owned());
                    house.tell(data_id, away).await;
                }
                let view = house.until_state("b", TargetState::Unreachable).await;
                assert_eq!(view.reason.as_deref(), Some("connection refused"));
            }
            let view = house.until_state("a", TargetState::Applied).await;
            assert!(view.reason.unwrap().contains("snapshot"));
            assert_eq!(house.read("a").as_deref(), Some("one"));
            house.publish("a", "two").await;
            house
                .until("two", |_| house.read("a").as_deref() == Some("two"))
                .await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn absence_is_told_and_with_fail_it_counts_as_required() {
        let mut house = House::new();
        let (mut a, mut b) = (house.config("a"), house.config("b"));
        a.target.on_absent = OnAbsent::Remove;
        b.target.on_absent = OnAbsent::Fail;
        house.set(&[a, b]);
        for data_id in ["a", "b"] {
            house.publish(data_id, "one").await;
            house.until_state(data_id, TargetState::Applied).await;
            house.tell(data_id, ConfigState::Absent).await;
        }
        let removed = house.until_state("a", TargetState::Missing).await;
        assert!(!removed.required && house.read("a").is_none());
        let kept = house.until_state("b", TargetState::Missing).await;
        assert!(kept.required && house.read("b").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_file_by_two_paths_is_kept_by_one_target_until_that_is_gone() {
        let mut house = House::new();
        fs::create_dir(house.path("real")).unwrap();
        let (mut a, mut b) = (house.config("a"), house.config("b"));
        a.target.path = house.path("real/file");
        // A link that everybody has: to the root.
        let again = format!("/proc/self/root{}", house.path("real/file").display());
        b.target.path = PathBuf::from(again);
        b.target.on_absent = OnAbsent::Remove;
        house.set(&[a, b.clone()]);
        house.publish("a", "one").await;
        house.until_state("a", TargetState::Applied).await;
        house.publish("b", "other").await;
        let view = house.until_state("b", TargetState::Pending).await;
        let reason = view.reason.unwrap();
        assert!(reason.contains("is the same file as "), "{reason}");
        assert_eq!(house.read("real/file").as_deref(), Some("one"));
        house.tell("b", ConfigState::Absent).await;
        house.until_state("b", TargetState::Missing).await;
        assert_eq!(house.read("real/file").as_deref(), Some("one"));
        house.publish("b", "other").await;
        house.set(&[b]);
        house.until_state("b", TargetState::Applied).await;
        assert_eq!(house.read("real/file").as_deref(), Some("other"));
    }

    #[test]
    fn a_write_whose_outcome_is_in_doubt_is_told_once_it_is_seen() {
        let house = tempfile::tempdir().unwrap();
        let mut config = config_at(house.path().join("a"), "a");
        config.target.reload = Some(Reload::Exec(exec(&["true"])));
        let want = Want {
            slot: Slot(0),
            source: PathBuf::new(),
            key: ConfigKey {
                namespace: Namespace::public(),
                group: "G".into(),
                data_id: "a".into(),
            },
            config,
        };
        let place = Place::default();
        let unchanged = || place.account(&want, Outcome::Unchanged);
        assert!(matches!(unchanged(), Outcome::Unchanged));
        place.doubt();
        assert!(matches!(unchanged(), Outcome::Inherited));
        let changes = place.debt().changes;
        place.told(changes);
        assert!(matches!(unchanged(), Outcome::Unchanged));
    }

    #[tokio::test]
    async fn a_thousand_targets_are_not_a_thousand_commands_at_once() {
        let house = House::new();
        let (running, most) = (house.path("running"), house.path("most"));
        fs::create_dir(&running).unwrap();
        // Each says how many it sees beside itself, and stays long enough for others to come.
        let script = format!(
            "touch {0}/$$; ls {0} | wc -l >> {1}; sleep 0.2; rm {0}/$$",
            running.display(),
            most.display()
        );
        let commands = Commands {
            permits: Arc::new(Semaphore::new(2)),
            metrics: Metrics::default(),
        };
        let command = exec(&["sh", "-c", &script]);
        let all = (0..6).map(|_| commands.run(&command, &command.argv));
        for outcome in futures_util::future::join_all(all).await {
            outcome.unwrap();
        }
        let seen = house.read("most").unwrap();
        let seen: Vec<u32> = seen
            .lines()
            .map(|line| line.trim().parse().unwrap())
            .collect();
        assert_eq!(seen.len(), 6);
        assert_eq!(seen.iter().max(), Some(&2), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_is_missing_is_said_and_waited_for() {
        let mut house = House::new();
        let mut config = house.config("a");
        config.target.path = house.path("sub/a");
        house.set(&[config]);
        house.publish("a", "one").await;
        let view = house.until_state("a", TargetState::Pending).await;
        assert!(view.reason.unwrap().contains("there is no such directory"));
        fs::create_dir(house.path("sub")).unwrap();
        // The tries have growing waits of at most a minute, and time is virtual.
        let found = house
            .targets
            .views()
            .wait_for(|views| views[0].applied_once)
            .await
            .is_ok();
        assert!(found);
        assert_eq!(house.read("sub/a").as_deref(), Some("one"));
    }

    #[tokio::test]
    async fn two_files_of_one_descriptor_are_one_reload_and_the_validator_sees_the_staged_one() {
        let mut house = House::new();
        let reloads = house.path("reloads");
        let script = format!("echo x >> {}", reloads.display());
        let mut configs = [house.config("a"), house.config("b")];
        for config in &mut configs {
            config.target.reload = Some(Reload::Exec(exec(&["sh", "-c", &script])));
            config.target.validate =
                Some(Validate::Exec(exec(&["grep", "-q", "good", "{staged}"])));
        }
        house.set(&configs);
        house.publish("a", "good one").await;
        house.publish("b", "good too").await;
        house.until_state("a", TargetState::Applied).await;
        house.until_state("b", TargetState::Applied).await;
        assert_eq!(house.read("reloads").as_deref(), Some("x\n"));
        house.publish("a", "worse").await;
        let view = house.until_state("a", TargetState::Rejected).await;
        assert_eq!(
            view.reason.as_deref(),
            Some("the validator says no: grep: exit status 1")
        );
        assert_eq!(house.read("a").as_deref(), Some("good one"));
        assert_eq!(house.read("reloads").as_deref(), Some("x\n"));
        let names = fs::read_dir(house.folder.path()).unwrap().count();
        assert_eq!(names, 4, "a, b, reloads, state");
    }

    #[tokio::test]
    async fn a_reload_that_fails_stays_due_and_disturbs_no_other_file() {
        let mut house = House::new();
        let allowed = house.path("allowed");
        let mut a = house.config("a");
        let words = ["test", "-e", &allowed.to_string_lossy()];
        a.target.reload = Some(Reload::Exec(exec(&words)));
        house.set(&[a, house.config("b")]);
        house.publish("a", "one").await;
        house.publish("b", "one").await;
        house.until_state("b", TargetState::Applied).await;
        house
            .until("failed", |views| {
                views[0].reason.as_deref()
                    == Some("written; the reload failed and is tried again: test: exit status 1")
            })
            .await;
        fs::File::create(&allowed).unwrap();
        let view = house.until_state("a", TargetState::Applied).await;
        let history: Vec<_> = view.history.iter().map(|(_, what)| what.as_str()).collect();
        assert!(history.contains(&"reloaded by test"), "{history:?}");
    }

    #[tokio::test]
    async fn a_reload_over_http_is_any_2xx_and_follows_nobody() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "http://{}/reload?token=secret",
            listener.local_addr().unwrap()
        );
        let tasks = Tasks::new();
        tasks.spawn("application", async move {
            let answers = ["204 No Content", "302 Found\r\nlocation: /", "500 No"];
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let count = socket.read(&mut request).await.unwrap();
                assert!(request[..count].starts_with(b"POST /reload?"));
                let answer =
                    format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let long = Duration::from_secs(20);
        let mut said = Vec::new();
        for _ in 0..3 {
            said.push(request("POST", &url, long).await);
        }
        assert_eq!(
            said,
            [
                Ok("reloaded by POST, answered 204".to_owned()),
                Err("POST: answered 302".to_owned()),
                Err("POST: answered 500".to_owned()),
            ]
        );
        let refused = request("POST", &url, long).await.unwrap_err();
        assert!(!refused.contains("secret"), "{refused}");
        assert_eq!(tasks.panics(), 0);
    }
}
