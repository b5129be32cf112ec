//! Keeps configurations and instance lists as files: joins the transport's news, the snapshots, a follower for each list and one
//! materialize machine per group, whose memory is in the ledger.
//!
//! ```text
//! set ─▶ router ─▶ keys ─▶ transport          group = machine + its tasks: stage, swap, reload, verify
//!        │ │ ◀──── told ◀─────┘               (each task carries out one effect and answers with one event)
//!        │ └─▶ events ─▶ group ─▶ board ─▶ views
//!        └◀─▶ follower (a list: gate, format, guard; what it lets pass is a content like any other)
//! ```
//!
//! [`Targets::set`] compares what is wanted with what was: a target that did not change keeps its slot, and nothing is said to
//! it; a changed one gets a new slot, hence a new life; a removed one is let go, and its file stays. The groups only grow and
//! shrink, so a reload that is due outlives a change of the targets beside it.
//!
//! Work on one path takes turns ([`Place`]), from looking at the file to renaming the new one over it: what a target that was
//! let go had begun is over before its successor looks. The successor also inherits what the ledger says of the path: a reload
//! that is put right in its descriptor still happens.

use crate::backoff::Dice;
use crate::dates;
use crate::descriptor::spec::{
    Command, Config, Kept, MadeOf, OnAbsent, Pacing, Publish, Reload, Target, Validate, Verify,
};
use crate::machine::{Epoch, drive};
use crate::metrics::Outcome as Counted;
use crate::nacos::model::{ConfigKey, ConfigState, Content, ListState, Namespace, ServiceKey};
use crate::os::command;
use crate::os::publish::{self, Owner, Spot, Staged};
use crate::os::state::{GOOD, SNAPSHOTS};
use crate::os::versions;
use crate::tasks::Tasks;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::sleep,
};

use super::Parts;
use super::applications::{Applications, Heard, Membership, Tickets, Watch, Whom as Told};
use super::commands::Commands;
use super::composing::{self, AllHeard, Composer, Contents, Means, What};
use super::following::{self, Follower, News, Offer, Said, Seen};
use super::guard::{Held, Why};
use super::ledger::Ledger;
use super::materialize::{self, Effect, Event, Memory, Outcome, Past, Rules, Slot, Standing};
use super::pacing;
use super::placing::{self, Drift, Placed, UNTOLD};
use super::snapshot::{self, Snapshots};
use super::verify;
use super::view::{HeldView, History, ListView, MadeView, Source, TargetState, TargetView};

/// How often a file is looked at though nothing happened, give or take a fifth.
const RESYNC: Duration = Duration::from_secs(60);
/// How long the registry has to say something before the snapshot is used.
const SNAPSHOT_AFTER: Duration = Duration::from_secs(3);
/// Length of each queue; whoever finds one full waits.
const QUEUE: usize = 64;
/// How many commands run at once, so that a thousand targets are no thousand processes: more than will ever hang together, because
/// those that wait are held up by those that hang.
const COMMANDS: usize = 32;

/// How many targets that were let go a group has the paths of.
const GONE: usize = 1024;

/// The targets of all descriptors.
#[derive(Debug)]
pub struct Targets {
    wanted: watch::Sender<Wanted>,
    board: Board,
    next_slot: AtomicU64,
    inbox: mpsc::Sender<Letter>,
    ledger: Arc<Ledger>,
    tickets: Tickets,
}

type Wanted = Arc<Vec<Arc<Want>>>;

/// One target as somebody wants it.
#[derive(Debug)]
struct Want {
    slot: Slot,
    /// Its descriptor.
    source: PathBuf,
    kept: Kept,
    key: Source,
}

impl Want {
    fn target(&self) -> &Target {
        self.kept.target()
    }

    /// The configurations it is made of.
    fn configs(&self) -> Vec<&ConfigKey> {
        match &self.key {
            Source::Config(key) => vec![key],
            Source::Configs(keys) => keys.values().collect(),
            Source::Service(_) => Vec::new(),
        }
    }

    /// The configurations, where the file is something else than one as it is.
    fn composed(&self) -> Option<&Config> {
        match &self.kept {
            Kept::Config(config)
                if config.made_of.is_secret() || matches!(self.key, Source::Configs(_)) =>
            {
                Some(config)
            }
            _ => None,
        }
    }

    fn directory(&self) -> PathBuf {
        let parent = self.target().path.parent();
        parent.map(Path::to_owned).unwrap_or_default()
    }
}

/// What a target is made of, as the registry knows it.
pub(super) fn source_of(kept: &Kept) -> Source {
    match kept {
        Kept::Config(config) => match &config.made_of {
            MadeOf::One(part) => Source::Config(composing::key_of(part)),
            MadeOf::Several { parts, .. } => {
                let keys = parts.iter();
                Source::Configs(
                    keys.map(|(name, part)| (name.clone(), composing::key_of(part)))
                        .collect(),
                )
            }
        },
        Kept::Subscription(list) => Source::Service(ServiceKey {
            namespace: Namespace::new(&list.namespace),
            group: list.group.as_str().into(),
            name: list.service.as_str().into(),
        }),
    }
}

impl Targets {
    /// Starts with no targets. Makes the one call of [`watch_configs`](crate::nacos::Transport::watch_configs) and of
    /// [`watch_services`](crate::nacos::Transport::watch_services); snapshots and ledger are kept in `state_dir`, which is looked
    /// at before this returns.
    #[must_use]
    pub fn start(parts: &Parts, state_dir: PathBuf) -> Self {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (keys, watched) = watch::channel(BTreeSet::new());
        let (teller, told) = mpsc::channel(QUEUE);
        let (services, watched_services) = watch::channel(BTreeSet::new());
        let (list_teller, told_lists) = mpsc::channel(QUEUE);
        let (news, heard) = mpsc::channel(QUEUE);
        let (made, told_made) = mpsc::channel(QUEUE);
        let (inbox, letters) = mpsc::channel(QUEUE);
        let board = Board::new(parts.epoch);
        parts.transport.watch_configs(watched, teller);
        parts
            .transport
            .watch_services(watched_services, list_teller);
        let ours = inbox.clone();
        let ledger = Arc::new(Ledger::open(&state_dir, parts.epoch));
        ledger.start(&parts.tasks);
        let commands = Commands::new(COMMANDS, parts.metrics.clone());
        let tickets = Tickets::default();
        let (watches, asked) = mpsc::channel(QUEUE);
        let applications = Applications::new(parts, commands.clone(), watches, tickets.clone());
        let router = Router {
            applications,
            lines: BTreeMap::new(),
            parts: parts.clone(),
            board: board.clone(),
            stores: Stores {
                snapshots: Arc::new(Snapshots::new(&state_dir, SNAPSHOTS)),
                good: Arc::new(Snapshots::new(&state_dir, GOOD)),
                ledger: Arc::clone(&ledger),
            },
            groups: HashMap::new(),
            live: BTreeMap::new(),
            known: BTreeMap::new(),
            places: HashMap::new(),
            claims: Claims::default(),
            commands,
            keys,
            services,
            lists: BTreeMap::new(),
            followers: BTreeMap::new(),
            composers: BTreeMap::new(),
            news,
            made,
            inbox,
            dice: Dice::new(parts.seed.rotate_left(47)),
        };
        let ears = Ears {
            told,
            told_lists,
            heard,
            told_made,
            letters,
            watches: asked,
        };
        parts.tasks.spawn("targets", router.run(wants, ears));
        Self {
            wanted,
            board,
            next_slot: AtomicU64::new(0),
            inbox: ours,
            ledger,
            tickets,
        }
    }

    /// Leaves every line for a turn to reload; what is due stays due.
    pub fn leave(&self, parts: &Parts) -> impl Future<Output = ()> + Send + 'static {
        let (tickets, parts) = (self.tickets.clone(), parts.clone());
        async move { tickets.leave(&parts).await }
    }

    /// Wants these files, by descriptor. What is equal to before is not touched; the views are those of `wanted` when
    /// this returns.
    pub fn set(&self, wanted: Vec<(PathBuf, Vec<Kept>)>) {
        self.wanted.send_if_modified(|before| {
            let mut left: Vec<&Arc<Want>> = before.iter().collect();
            let mut next = Vec::new();
            for (source, all) in wanted {
                for kept in all {
                    let same = left
                        .iter()
                        .position(|want| want.source == source && want.kept == kept);
                    next.push(match same {
                        Some(at) => Arc::clone(left.swap_remove(at)),
                        None => Arc::new(Want {
                            slot: Slot(self.next_slot.fetch_add(1, Ordering::Relaxed)),
                            source: source.clone(),
                            key: source_of(&kept),
                            kept,
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

    /// Lets what the registry says of this service pass where the guard holds it; how many targets that are.
    pub async fn release(&self, service: String) -> usize {
        let (answer, answered) = oneshot::channel();
        _ = self.inbox.send(Letter::Release(service, answer)).await;
        // Nobody answers when the agent is stopping.
        answered.await.unwrap_or(0)
    }

    /// Tries again what was taken back, rejected or failed of the file at `path`, and of those that are one transaction with it; how
    /// many targets that are.
    pub async fn retry(&self, path: PathBuf) -> usize {
        let (answer, answered) = oneshot::channel();
        _ = self.inbox.send(Letter::Retry(path, answer)).await;
        answered.await.unwrap_or(0)
    }

    /// Asked now and then: why nothing outlives a restart, while that is so.
    pub fn trouble(&self) -> impl Fn() -> Option<String> + Send + Sync + 'static {
        let ledger = Arc::clone(&self.ledger);
        move || ledger.trouble()
    }

    /// How every target stands, in the order of [`Targets::set`]. `applied_once` says that the file was in place once, also while
    /// its reload is still due; `rejected` and `missing` will not change without a change at the registry.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<Vec<TargetView>>> {
        self.board.shown.subscribe()
    }
}

type Views = BTreeMap<Slot, TargetView>;

/// What a target's own machine says of it, with what is said of its list.
fn settle(
    view: &mut TargetView,
    target: &Target,
    standing: &Standing,
    drift: Option<&String>,
    waits: Option<&String>,
) {
    let (mut state, mut reason) = (standing.state, standing.reason.clone());
    if let Some(waits) = waits.filter(|_| state == TargetState::Pending) {
        reason = Some(reason.map_or_else(|| waits.clone(), |why| format!("{why}; {waits}")));
    }
    if let Some(list) = &view.list {
        // A reload that is due, or a content that is not valid, is nearer than what comes next.
        let is_settled = matches!(
            state,
            TargetState::Applied | TargetState::Waiting | TargetState::Unreachable
        );
        if let Some(why) = list.rejected.as_ref().filter(|_| is_settled) {
            (state, reason) = (TargetState::Rejected, Some(why.clone()));
        } else if let Some(held) = list.held.as_ref().filter(|_| is_settled) {
            (state, reason) = (TargetState::Held, Some(held.reason.clone()));
        }
    }
    if let Some(made) = &view.made {
        if let Some(why) = made
            .rejected
            .as_ref()
            .filter(|_| state != TargetState::Pending)
        {
            (state, reason) = (TargetState::Rejected, Some(why.clone()));
        } else if let (TargetState::Missing, Some(which), Some(why)) =
            (state, &made.missing, &reason)
        {
            reason = Some(format!("{which}: {why}"));
        }
    }
    if state == TargetState::Applied && drift.is_some() {
        reason = drift.cloned();
    }
    view.state = state;
    view.reason = reason;
    view.applied_once = standing.applied_once;
    view.md5 = standing.md5.as_deref().map(str::to_owned);
    // `on_absent: fail` makes a missing configuration count, required or not.
    view.required = target.required
        || (target.on_absent == OnAbsent::Fail && standing.state == TargetState::Missing);
}

/// The views, changed here only.
#[derive(Clone, Debug)]
struct Board {
    epoch: Epoch,
    inside: Arc<Mutex<Inside>>,
    shown: watch::Sender<Arc<Vec<TargetView>>>,
}

#[derive(Debug, Default)]
struct Inside {
    order: Vec<Arc<Want>>,
    views: Views,
    /// What the machines said last.
    standings: BTreeMap<Slot, Standing>,
    /// What is said of files that somebody else has changed, and that stay so.
    drifts: BTreeMap<Slot, String>,
    /// What is said of configurations once the machines have said what became of them.
    next_made: BTreeMap<Slot, MadeView>,
    /// What a reload that is due waits for.
    waits: BTreeMap<Slot, String>,
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
    fn change(&self, change: impl FnOnce(&mut Inside)) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inside);
        let Inside { order, views, .. } = &*inside;
        let shown = order
            .iter()
            .filter_map(|want| views.get(&want.slot).cloned());
        self.shown.send_replace(Arc::new(shown.collect()));
    }

    fn expect(&self, wants: &[Arc<Want>]) {
        let now = self.now();
        self.change(|inside| {
            inside.order = wants.to_vec();
            let slots: BTreeSet<Slot> = wants.iter().map(|want| want.slot).collect();
            inside.views.retain(|slot, _| slots.contains(slot));
            inside.standings.retain(|slot, _| slots.contains(slot));
            inside.drifts.retain(|slot, _| slots.contains(slot));
            inside.next_made.retain(|slot, _| slots.contains(slot));
            inside.waits.retain(|slot, _| slots.contains(slot));
            for want in wants {
                inside.views.entry(want.slot).or_insert_with(|| TargetView {
                    source: want.key.clone(),
                    list: matches!(want.key, Source::Service(_)).then(ListView::default),
                    made: want.composed().map(|_| MadeView::default()),
                    path: want.target().path.clone(),
                    required: want.target().required,
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
        self.update(want, |inside| {
            inside.standings.insert(want.slot, standing.clone());
            let made = inside.next_made.remove(&want.slot);
            if let (Some(made), Some(view)) = (made, inside.views.get_mut(&want.slot)) {
                view.made = Some(made);
            }
        });
    }

    /// Changes what is known of the configurations that a target is made of.
    fn made(&self, want: &Want, made: MadeView, md5: Option<&str>) {
        self.update(want, |inside| {
            let standing = inside.standings.get(&want.slot);
            let has = standing.and_then(|standing| standing.md5.as_deref());
            if md5.is_some() && has != md5 {
                // What was said before holds until it is known what became of the new content.
                inside.next_made.insert(want.slot, made);
                return;
            }
            inside.next_made.remove(&want.slot);
            if let Some(view) = inside.views.get_mut(&want.slot) {
                view.made = Some(made);
            }
        });
    }

    /// Somebody else has changed the file and it stays so, or that is over; whether that is news.
    fn drift(&self, want: &Want, drift: Option<&str>) -> bool {
        let is_known = |inside: &Inside| inside.drifts.get(&want.slot).map(String::as_str) == drift;
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if is_known(&inside) {
            return false;
        }
        drop(inside);
        self.update(want, |inside| {
            match drift {
                Some(drift) => inside.drifts.insert(want.slot, drift.to_owned()),
                None => inside.drifts.remove(&want.slot),
            };
        });
        true
    }

    /// Changes what the target's reload waits for.
    fn waits(&self, want: &Want, why: Option<&str>) {
        self.update(want, |inside| match why {
            Some(why) => _ = inside.waits.insert(want.slot, why.to_owned()),
            None => _ = inside.waits.remove(&want.slot),
        });
    }

    /// Changes what is known of a target's list.
    fn list(&self, want: &Want, change: impl FnOnce(&mut ListView)) {
        self.update(want, |inside| {
            let list = inside.views.get_mut(&want.slot);
            if let Some(list) = list.and_then(|view| view.list.as_mut()) {
                change(list);
            }
        });
    }

    /// Changes something, and says what came of it.
    fn update(&self, want: &Want, change: impl FnOnce(&mut Inside)) {
        let now = self.now();
        self.change(|inside| {
            change(inside);
            let waiting = Standing {
                state: TargetState::Waiting,
                reason: None,
                applied_once: false,
                md5: None,
            };
            let standing = inside.standings.get(&want.slot).unwrap_or(&waiting);
            let Some(view) = inside.views.get_mut(&want.slot) else {
                return;
            };
            let target = want.target();
            let before = (view.state, view.reason.clone());
            let (drift, waits) = (inside.drifts.get(&want.slot), inside.waits.get(&want.slot));
            settle(view, target, standing, drift, waits);
            if before.0 != view.state {
                view.since = now;
            }
            if before != (view.state, view.reason.clone()) {
                let state = view.state.word();
                let reason = view.reason.as_deref().unwrap_or_default();
                log(&want.key, &target.path, view.state, reason);
                let sentence = match &view.reason {
                    Some(reason) => format!("{state}: {reason}"),
                    None => state.to_owned(),
                };
                view.history.add(now, sentence);
            }
        });
    }

    fn note(&self, slots: &[Slot], sentence: &str) {
        let now = self.now();
        self.change(|inside| {
            for slot in slots {
                if let Some(view) = inside.views.get_mut(slot) {
                    view.history.add(now, sentence.to_owned());
                }
            }
        });
    }
}

/// The one line of a change.
fn log(source: &Source, path: &Path, state: TargetState, reason: &str) {
    let reason = (!reason.is_empty()).then_some(reason);
    let (from, path, word) = (source.to_string(), path.display(), state.word());
    let warns = matches!(
        state,
        TargetState::Rejected
            | TargetState::RolledBack
            | TargetState::Unreachable
            | TargetState::Held
    );
    match (source, warns) {
        (Source::Config(_) | Source::Configs(_), true) => {
            tracing::warn!(config = %from, %path, state = word, reason, "configuration");
        }
        (Source::Config(_) | Source::Configs(_), false) => {
            tracing::info!(config = %from, %path, state = word, reason, "configuration");
        }
        (Source::Service(_), true) => {
            tracing::warn!(service = %from, %path, state = word, reason, "instances");
        }
        (Source::Service(_), false) => {
            tracing::info!(service = %from, %path, state = word, reason, "instances");
        }
    }
}

/// Which group a target belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum GroupKey {
    /// Targets of this descriptor with this reload.
    Shared(Box<(PathBuf, Reload, Pacing)>),
    /// Targets of this descriptor that are exchanged together in this directory, without a reload.
    Together(PathBuf, PathBuf),
    /// A target without a reload.
    Alone(Slot),
}

impl GroupKey {
    fn of(want: &Want) -> Self {
        match &want.target().reload {
            Some(reload) => {
                let pacing = want.target().pacing.clone();
                Self::Shared(Box::new((want.source.clone(), reload.clone(), pacing)))
            }
            None if want.target().publish == Publish::Directory => {
                Self::Together(want.source.clone(), want.directory())
            }
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
    /// Held while files of one directory are exchanged together.
    exchange: Arc<tokio::sync::Mutex<()>>,
    /// The paths of all slots, also of some that were let go: a reload that a target owes is told of after that was let go.
    paths: Arc<Mutex<BTreeMap<Slot, PathBuf>>>,
    tasks: Tasks,
    /// Of those that hear of changes.
    membership: Option<Membership>,
}

impl Group {
    async fn tell(&self, event: Event) {
        // A group only stops hearing when it was stopped, and then nothing it is told matters.
        _ = self.events.send(event).await;
    }

    /// Puts in place what is ready of the job, and with it all that is ready of the others in its directory: whoever comes first
    /// does it for all of them, and they find what came of it.
    async fn exchange(&self, job: &Arc<Job>) -> Outcome {
        let _turn = self.exchange.lock().await;
        if let Some(outcome) = job.exchanged().take() {
            return outcome;
        }
        let directory = job.want.directory();
        let (mut jobs, mut ready) = (Vec::new(), Vec::new());
        for other in self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            let target = other.want.target();
            if target.publish == Publish::Directory
                && other.want.directory() == directory
                && let Some(one) = other.ready().take()
            {
                jobs.push((Arc::clone(other), one.hash.clone()));
                ready.push((Arc::clone(&other.want), one));
            }
        }
        if !jobs.iter().any(|(one, _)| Arc::ptr_eq(one, job)) {
            // Who had begun it for all of them was let go meanwhile.
            return Outcome::Doubtful("the work on the file was broken off".to_owned());
        }
        let work = tokio::task::spawn_blocking(move || {
            let (mut turns, mut changes) = (Vec::new(), Vec::new());
            for (want, Ready { _turn, staged, .. }) in ready {
                turns.push(_turn);
                changes.push(placing::change(
                    want.target(),
                    staged.map(|staged| *staged),
                )?);
            }
            versions::publish(&changes)
        });
        let outcome = outcome_of(work.await.map_err(drop));
        for (one, hash) in jobs {
            if outcome == Outcome::Swapped {
                one.is_put(hash.as_deref());
            }
            if !Arc::ptr_eq(&one, job) {
                *one.exchanged() = Some(outcome.clone());
            }
        }
        outcome
    }

    /// How its application's pacer reaches it and its targets.
    fn told(&self, board: &Board) -> Told {
        let slots = |jobs: &Jobs| -> Vec<Slot> {
            let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.keys().copied().collect()
        };
        let (jobs, shown) = (Arc::clone(&self.jobs), board.clone());
        let waits = move |why: Option<&str>| {
            let all: Vec<Arc<Job>> = {
                let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                jobs.values().cloned().collect()
            };
            for job in all {
                shown.waits(&job.want, why);
            }
        };
        let (jobs, shown) = (Arc::clone(&self.jobs), board.clone());
        Told {
            events: self.events.clone(),
            waits: Arc::new(waits),
            note: Arc::new(move |what| shown.note(&slots(&jobs), what)),
        }
    }

    /// Remembers where a slot's file is; of those that were let go only so many.
    fn name(&self, slot: Slot, path: PathBuf) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.insert(slot, path);
        while paths.len() > jobs.len() + GONE {
            let Some(oldest) = paths.keys().find(|slot| !jobs.contains_key(slot)).copied() else {
                return;
            };
            paths.remove(&oldest);
        }
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

/// What the router's own tasks, and operators, tell it.
#[derive(Debug)]
enum Letter {
    /// The registry had time enough to say something.
    Late(ConfigKey),
    /// The snapshot was read.
    Remembered(ConfigKey, Content),
    /// An operator wants what the registry says of this service.
    Release(String, oneshot::Sender<usize>),
    /// An operator wants the file at this path tried again.
    Retry(PathBuf, oneshot::Sender<usize>),
}

/// What outlives the process.
#[derive(Clone)]
struct Stores {
    /// For a start without the registry.
    snapshots: Arc<Snapshots>,
    /// What files may have to get back.
    good: Arc<Snapshots>,
    ledger: Arc<Ledger>,
}

/// Under what name the good content of a path is kept.
fn good_key(path: &Path) -> ConfigKey {
    ConfigKey {
        namespace: Namespace::public(),
        group: GOOD.into(),
        data_id: path.to_string_lossy().into(),
    }
}

/// What the router hears.
struct Ears {
    told: mpsc::Receiver<(ConfigKey, ConfigState)>,
    told_lists: mpsc::Receiver<(ServiceKey, ListState)>,
    heard: mpsc::Receiver<(Slot, News)>,
    told_made: mpsc::Receiver<(Slot, What)>,
    letters: mpsc::Receiver<Letter>,
    watches: mpsc::Receiver<Watch>,
}

/// Owns who wants what, and hands news on.
struct Router {
    parts: Parts,
    board: Board,
    stores: Stores,
    groups: HashMap<GroupKey, Group>,
    live: BTreeMap<Slot, Arc<Want>>,
    known: BTreeMap<ConfigKey, Known>,
    places: HashMap<PathBuf, Arc<Place>>,
    claims: Claims,
    commands: Commands,
    keys: watch::Sender<BTreeSet<ConfigKey>>,
    services: watch::Sender<BTreeSet<ServiceKey>>,
    applications: Applications,
    /// Who watches a line for a turn to reload.
    lines: BTreeMap<ServiceKey, BTreeMap<u64, watch::Sender<Heard>>>,
    /// What is known of services.
    lists: BTreeMap<ServiceKey, List>,
    followers: BTreeMap<Slot, Follower>,
    composers: BTreeMap<Slot, Composer>,
    news: mpsc::Sender<(Slot, News)>,
    made: mpsc::Sender<(Slot, What)>,
    inbox: mpsc::Sender<Letter>,
    dice: Dice,
}

/// What is known of a service.
#[derive(Default)]
struct List {
    said: Said,
    /// Why the registry cannot be asked.
    unreachable: Option<String>,
}

impl Router {
    async fn run(mut self, mut wants: watch::Receiver<Wanted>, mut ears: Ears) {
        let mut connection = self.parts.transport.connection();
        let mut returns = connection.borrow_and_update().returns;
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
                // Before the lists: a list that comes after a return must be judged as one.
                Ok(()) = connection.changed() => {
                    let now = connection.borrow_and_update().returns;
                    if now != returns {
                        returns = now;
                        self.is_back();
                    }
                }
                Some((key, state)) = ears.told.recv() => self.news(key, state).await,
                Some((key, state)) = ears.told_lists.recv() => self.listed(&key, state).await,
                Some((slot, news)) = ears.heard.recv() => self.followed(slot, news).await,
                Some((slot, what)) = ears.told_made.recv() => self.composed(slot, what).await,
                Some(watch) = ears.watches.recv() => self.watch(watch),
                Some(letter) = ears.letters.recv() => match letter {
                    Letter::Late(key) => self.recall(&key),
                    Letter::Remembered(key, content) => self.remembered(&key, content).await,
                    // Whoever asked may have gone.
                    Letter::Release(service, answer) => _ = answer.send(self.release(&service)),
                    Letter::Retry(path, answer) => _ = answer.send(self.retry(&path).await),
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
        let (mut keys, mut services) = (BTreeSet::new(), BTreeSet::new());
        for want in wanted {
            keys.extend(want.configs().into_iter().cloned());
            if let Source::Service(key) = &want.key {
                services.insert(key.clone());
            }
        }
        self.lists.retain(|key, _| services.contains(key));
        for key in &services {
            self.lists.entry(key.clone()).or_default();
        }
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
        let mut ended = Vec::new();
        self.groups.retain(|key, group| {
            let jobs = group.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            if jobs.is_empty() {
                group.tasks.stop();
                if let (GroupKey::Shared(shared), Some(one)) = (key, &group.membership) {
                    ended.push((shared.1.clone(), one.member));
                }
            }
            !jobs.is_empty()
        });
        for (reload, member) in ended {
            self.applications.leave(&reload, member).await;
        }
        self.places.retain(|_, place| Arc::strong_count(place) > 1);
        let paths = wanted.iter().map(|want| want.target().path.clone());
        self.stores.ledger.retain(&paths.collect());
        self.keys.send_if_modified(|before| {
            let changed = *before != keys;
            *before = keys;
            changed
        });
        self.applications.prune();
        self.watch_services();
        self.count_held();
    }

    /// Has the services watched that somebody wants to hear of.
    fn watch_services(&self) {
        let services: BTreeSet<ServiceKey> = self
            .lists
            .keys()
            .chain(self.lines.keys())
            .cloned()
            .collect();
        self.services.send_if_modified(|before| {
            let changed = *before != services;
            *before = services;
            changed
        });
    }

    fn watch(&mut self, watch: Watch) {
        match watch {
            Watch::Begin(line, number, heard) => {
                _ = self.lines.entry(line).or_default().insert(number, heard);
            }
            Watch::End(line, number) => {
                if let Some(all) = self.lines.get_mut(&line) {
                    all.remove(&number);
                }
                self.lines.retain(|_, all| !all.is_empty());
            }
        }
        self.watch_services();
    }

    async fn let_go(&mut self, slot: Slot) {
        let Some(want) = self.live.remove(&slot) else {
            return;
        };
        self.claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, (by, _)| *by != slot);
        self.followers.remove(&slot);
        self.composers.remove(&slot);
        if let Some(group) = self.groups.get(&GroupKey::of(&want)) {
            let job = group
                .jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&slot);
            if let Some(job) = job {
                job.tasks.stop();
                if job.is_marked.load(Ordering::Relaxed) {
                    self.parts
                        .tasks
                        .spawn("unmark", async move { job.mark(None).await });
                }
            }
            group.tell(Event::LetGo { slot }).await;
        }
    }

    async fn take_up(&mut self, want: &Arc<Want>) {
        let target = want.target();
        let key = GroupKey::of(want);
        if !self.groups.contains_key(&key) {
            let seed = self.dice.seed();
            let carry = (self.commands.clone(), Arc::clone(&self.stores.ledger));
            let (group, received) = group(&self.parts);
            let membership = match &target.reload {
                Some(reload) => {
                    let told = group.told(&self.board);
                    let pacing = target.pacing.clone();
                    Some(self.applications.join(reload, pacing, told).await)
                }
                None => None,
            };
            let machine = materialize::Group::new(membership.is_some(), seed);
            let machine = machine.with_bursts(&target.pacing);
            let group = Group {
                membership,
                ..group
            };
            start(
                &self.parts,
                &self.board,
                carry,
                &group,
                (machine, received),
                seed,
            );
            self.groups.insert(key.clone(), group);
        }
        let Some(group) = self.groups.get(&key) else {
            return;
        };
        let place = Arc::clone(self.places.entry(target.path.clone()).or_default());
        let past = Box::new(self.past(want).await);
        let job = Job {
            want: Arc::clone(want),
            board: self.board.clone(),
            placed: Placed::new(&past.memory),
            tasks: group.tasks.child(),
            place,
            claims: Arc::clone(&self.claims),
            stores: self.stores.clone(),
            commands: self.commands.clone(),
            staged: Mutex::default(),
            exchanged: Mutex::default(),
            was_rolled_back: AtomicBool::new(false),
            looked: AtomicBool::new(false),
            complained: AtomicBool::new(false),
            offer: Mutex::default(),
            made: Mutex::default(),
            is_marked: AtomicBool::new(false),
            unmarked: AtomicBool::new(false),
        };
        group
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(want.slot, Arc::new(job));
        group.name(want.slot, target.path.clone());
        let rules = Rules {
            name: target.path.to_string_lossy().into(),
            on_absent: target.on_absent,
            max_size: target.max_size,
            may_relent: matches!(target.validate, Some(Validate::Exec(_))),
            verifies: target.verify.is_some(),
        };
        let slot = want.slot;
        group.tell(Event::Wanted { slot, rules, past }).await;
        // What is known already will not be told again.
        let config = match &want.key {
            Source::Config(key) if want.composed().is_none() => key,
            Source::Config(_) | Source::Configs(_) => {
                self.compose(want);
                return;
            }
            Source::Service(key) => {
                let list = self.lists.entry(key.clone()).or_default();
                let (said, unreachable) = (list.said.clone(), list.unreachable.clone());
                if let Some(why) = unreachable {
                    let state = ConfigState::Unreachable(why);
                    group.tell(Event::Known { slot, state }).await;
                }
                if let Kept::Subscription(subscription) = &want.kept {
                    let whose = (slot, subscription.clone());
                    let (snapshots, news) = (&self.stores.snapshots, &self.news);
                    let follower =
                        Follower::start(&self.parts, whose, snapshots, SNAPSHOT_AFTER, said, news);
                    self.followers.insert(slot, follower);
                }
                return;
            }
        };
        let Some(known) = self.known.get(config) else {
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

    /// What is left of an earlier run, or of an earlier target of the path.
    async fn past(&self, want: &Arc<Want>) -> Past {
        let path = want.target().path.clone();
        let memory = self.stores.ledger.take(&path, want.slot);
        if memory.good.is_none() {
            return Past { memory, good: None };
        }
        let store = Arc::clone(&self.stores.good);
        let load = move || store.load(&good_key(&path));
        let good = match tokio::task::spawn_blocking(load).await {
            Ok(Ok(good)) => good,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the content to go back to cannot be used");
                None
            }
            Err(_) => None,
        };
        Past { memory, good }
    }

    /// Tries again what is at the path, with all of its group; how many targets that are.
    async fn retry(&self, path: &Path) -> usize {
        let is_there = |want: &&Arc<Want>| want.target().path == path;
        let Some(want) = self.live.values().find(is_there) else {
            return 0;
        };
        let Some(group) = self.groups.get(&GroupKey::of(want)) else {
            return 0;
        };
        let jobs: Vec<_> = group
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(Arc::clone)
            .collect();
        for job in &jobs {
            job.placed.overrule();
        }
        group.tell(Event::Retry).await;
        // What was changed by somebody else is put right too.
        group.tell(Event::Resync).await;
        jobs.len()
    }

    /// Tells every target of the configuration.
    async fn hand_on(&self, key: &ConfigKey, event: impl Fn(Slot) -> Event) {
        let is_of_it = |want: &&Arc<Want>| {
            matches!(&want.key, Source::Config(own) if own == key) && want.composed().is_none()
        };
        for want in self.live.values().filter(is_of_it) {
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
        for (slot, composer) in &self.composers {
            let want = self.live.get(slot);
            if want.is_some_and(|want| want.configs().contains(&&key)) {
                composer.hear(&key, &state);
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
            let snapshots = Arc::clone(&self.stores.snapshots);
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
        let (snapshots, inbox) = (Arc::clone(&self.stores.snapshots), self.inbox.clone());
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

/// Files that are something else than one configuration as it is.
impl Router {
    /// Starts what makes the content; it is told what is known already.
    fn compose(&mut self, want: &Arc<Want>) {
        let Some(config) = want.composed() else {
            return;
        };
        let means = Means {
            snapshots: Arc::clone(&self.stores.snapshots),
            commands: self.commands.clone(),
            late: SNAPSHOT_AFTER,
            seed: self.dice.seed(),
        };
        let heard = |key: &ConfigKey| {
            let known = self.known.get(key)?;
            let heard = composing::Heard {
                state: known.state.clone(),
                unreachable: known.unreachable.clone(),
            };
            Some((key.clone(), heard))
        };
        let heard: AllHeard = want.configs().into_iter().filter_map(heard).collect();
        let whose = (want.slot, config.clone());
        let composer = Composer::start(&self.parts, whose, &means, heard, &self.made);
        self.composers.insert(want.slot, composer);
    }

    async fn composed(&self, slot: Slot, what: What) {
        let Some(want) = self.live.get(&slot) else {
            return;
        };
        let Some(group) = self.groups.get(&GroupKey::of(want)) else {
            return;
        };
        let view = match &what {
            What::Rejected(why) => MadeView {
                rejected: Some(why.clone()),
                missing: None,
            },
            What::Absent(which) if !which.is_empty() => MadeView {
                rejected: None,
                missing: Some(which.clone()),
            },
            _ => MadeView::default(),
        };
        // Beside what an earlier run had it is still true that what the registry says was rejected.
        match &what {
            What::Fallback(_) => {}
            What::Content { content, .. } => self.board.made(want, view, Some(&content.md5)),
            _ => self.board.made(want, view, None),
        }
        let state = match what {
            What::Content {
                content,
                sources,
                is_remembered,
            } => {
                if let Some(job) = group.job(slot) {
                    let made = (Arc::clone(&content.md5), sources);
                    *job.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
                }
                if is_remembered {
                    group.tell(Event::Remembered { slot, content }).await;
                    return;
                }
                ConfigState::Present(content)
            }
            What::Fallback(content) => {
                group.tell(Event::Remembered { slot, content }).await;
                return;
            }
            What::Absent(_) => ConfigState::Absent,
            What::Unreachable(why) => ConfigState::Unreachable(why),
            What::Rejected(_) => return,
        };
        group.tell(Event::Known { slot, state }).await;
    }
}

/// Lists.
impl Router {
    /// Tells the followers of a service.
    fn tell_followers(&self, key: &ServiceKey, change: impl Fn(&mut Said)) {
        for (slot, follower) in &self.followers {
            let want = self.live.get(slot);
            if want.is_some_and(|want| matches!(&want.key, Source::Service(own) if own == key)) {
                follower.hear(&change);
            }
        }
    }

    /// The registry was away and is back: what it lists first may be less than there is.
    fn is_back(&mut self) {
        for heard in self.lines.values().flat_map(BTreeMap::values) {
            heard.send_modify(|heard| heard.returns += 1);
        }
        for list in self.lists.values_mut() {
            list.said.returns += 1;
        }
        for follower in self.followers.values() {
            follower.hear(|said| said.returns += 1);
        }
    }

    async fn listed(&mut self, key: &ServiceKey, state: ListState) {
        if let ListState::Listed(list) = &state {
            for heard in self.lines.get(key).into_iter().flat_map(BTreeMap::values) {
                heard.send_modify(|heard| heard.list = Some(Arc::clone(list)));
            }
        }
        let Some(list) = self.lists.get_mut(key) else {
            return;
        };
        match state {
            ListState::Listed(hosts) => {
                let returned = u64::from(list.unreachable.take().is_some());
                let change = move |said: &mut Said| {
                    said.returns += returned;
                    said.list = Some(Arc::clone(&hosts));
                };
                change(&mut list.said);
                self.tell_followers(key, change);
            }
            ListState::Unreachable(why) => {
                list.unreachable = Some(why.clone());
                list.said.absences += 1;
                self.tell_followers(key, |said| said.absences += 1);
                let is_of_it =
                    |want: &&Arc<Want>| matches!(&want.key, Source::Service(own) if own == key);
                for want in self.live.values().filter(is_of_it) {
                    if let Some(group) = self.groups.get(&GroupKey::of(want)) {
                        let (slot, state) = (want.slot, ConfigState::Unreachable(why.clone()));
                        group.tell(Event::Known { slot, state }).await;
                    }
                }
            }
        }
    }

    async fn followed(&self, slot: Slot, news: News) {
        let Some(want) = self.live.get(&slot) else {
            return;
        };
        let Some(group) = self.groups.get(&GroupKey::of(want)) else {
            return;
        };
        match news {
            News::Seen(Seen {
                listed,
                passed,
                left_out,
                rejected,
            }) => self.board.list(want, |list| {
                list.listed = Some(listed);
                list.passed = passed;
                list.left_out = left_out;
                list.rejected = rejected;
            }),
            News::Held(held) => {
                let held = held.map(|held| self.in_words(&held));
                let note = held.as_ref().map(|held| self.side_note(want, held));
                self.board.list(want, |list| list.held = held);
                self.count_held();
                if let Some(job) = group.job(slot) {
                    let work = async move { job.mark(note).await };
                    group.tasks.spawn("mark a target", work);
                }
            }
            News::Released(offer) => {
                self.board.list(want, |list| list.kept = Some(offer.size));
                let state = ConfigState::Present(offer.content.clone());
                if let Some(job) = group.job(slot) {
                    // An earlier run may have been killed while it held.
                    let unmark = Arc::clone(&job);
                    let work = async move { unmark.mark(None).await };
                    group.tasks.spawn("mark a target", work);
                    *job.offer.lock().unwrap_or_else(PoisonError::into_inner) = Some(offer);
                }
                group.tell(Event::Known { slot, state }).await;
            }
            News::Remembered(content) => {
                group.tell(Event::Remembered { slot, content }).await;
            }
        }
    }

    fn count_held(&self) {
        let views = self.board.shown.borrow();
        let is_held =
            |view: &&TargetView| view.list.as_ref().is_some_and(|list| list.held.is_some());
        let count = views.iter().filter(is_held).count();
        let gauge = &self.commands.metrics.lists_held;
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn in_words(&self, held: &Held) -> HeldView {
        let listed = match held.size {
            0 => "no instance that passes".to_owned(),
            1 => "1 instance".to_owned(),
            size => format!("{size} instances"),
        };
        let says = match held.kept {
            Some(kept) => format!("the registry lists {listed}, the file has {kept}"),
            None => format!("the registry lists {listed}"),
        };
        let (why, until) = match held.why {
            Why::TooMany => (
                "a list of more than 10000 is never written".to_owned(),
                None,
            ),
            Why::TooFew { least } => (format!("the guard wants at least {least}"), None),
            Why::Shrunk {
                largest,
                percent,
                until,
            } => {
                let why = format!("the guard allows a loss of {percent} % of {largest}");
                (why, Some(until))
            }
            Why::Away => (
                "the registry cannot be asked whether that is still so".to_owned(),
                None,
            ),
            Why::Reconnected { until } => {
                let why = "the registry came back a moment ago, and a smaller list waits";
                (why.to_owned(), Some(until))
            }
        };
        HeldView {
            since: self.parts.epoch.wall(held.since),
            reason: format!("{says}; {why}"),
            until: until.map(|until| self.parts.epoch.wall(until)),
        }
    }

    /// What the file beside a held target says.
    fn side_note(&self, want: &Want, held: &HeldView) -> String {
        let Source::Service(service) = &want.key else {
            return String::new();
        };
        let note = serde_json::json!({
            "held": want.target().path.display().to_string(),
            "service": service.to_string(),
            "since": dates::rfc3339(held.since),
            "why": held.reason,
            "until": held.until.map(dates::rfc3339),
            "release": format!("outrigger release subscription {}", service.name),
        });
        format!("{note:#}\n")
    }

    /// Lets pass what is held of the services of this name; how many targets that are.
    fn release(&self, name: &str) -> usize {
        let views = self.board.shown.borrow().clone();
        let held: BTreeSet<&Path> = views
            .iter()
            .filter(|view| view.list.as_ref().is_some_and(|list| list.held.is_some()))
            .map(|view| view.path.as_path())
            .collect();
        let mut count = 0;
        for (slot, follower) in &self.followers {
            let Some(want) = self.live.get(slot) else {
                continue;
            };
            let is_named = matches!(&want.key, Source::Service(key) if &*key.name == name);
            if is_named && held.contains(want.target().path.as_path()) {
                count += 1;
                follower.hear(|said| said.releases += 1);
            }
        }
        count
    }
}

/// A group without targets, and what it is told.
fn group(parts: &Parts) -> (Group, mpsc::Receiver<Event>) {
    let (events, received) = mpsc::channel(QUEUE);
    let group = Group {
        events,
        jobs: Jobs::default(),
        exchange: Arc::default(),
        paths: Arc::default(),
        tasks: parts.tasks.child(),
        membership: None,
    };
    (group, received)
}

/// Starts the machine of a group and the tasks that carry out its effects.
fn start(
    parts: &Parts,
    board: &Board,
    (commands, ledger): (Commands, Arc<Ledger>),
    group: &Group,
    (machine, received): (materialize::Group, mpsc::Receiver<Event>),
    seed: u64,
) {
    let events = group.events.clone();
    let hands = Hands {
        group: group.clone(),
        board: board.clone(),
        commands,
        ledger,
        verifying: Mutex::new(None),
        dice: Mutex::new(Dice::new(seed.rotate_left(11))),
    };
    let (epoch, stop) = (parts.epoch, group.tasks.token());
    group.tasks.spawn_to_end("group of targets", async move {
        drive(
            machine,
            epoch,
            received,
            move |effect| {
                let said = hands.perform(effect);
                let membership = hands.group.membership.clone().zip(said);
                async move {
                    if let Some((membership, event)) = membership {
                        membership.tell(event).await;
                    }
                }
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
}

/// Carries out the effects of a group, each in a task of its own.
struct Hands {
    group: Group,
    board: Board,
    commands: Commands,
    ledger: Arc<Ledger>,
    /// The verification under way.
    verifying: Mutex<Option<Tasks>>,
    dice: Mutex<Dice>,
}

impl Hands {
    /// What is to be said to the application's pacer comes back.
    fn perform(&self, effect: Effect) -> Option<pacing::Event> {
        let member = self.group.membership.as_ref().map(|one| one.member);
        match effect {
            Effect::Ask {
                is_first,
                is_return,
            } => {
                return Some(pacing::Event::Due {
                    member: member?,
                    is_first,
                    is_return,
                });
            }
            Effect::Pass => return Some(pacing::Event::Passed(member?)),
            Effect::Reload => return Some(pacing::Event::Ready(member?)),
            Effect::Stage {
                slot,
                content,
                check,
            } => {
                if let Some(job) = self.group.job(slot) {
                    let (events, board) = (self.group.events.clone(), self.board.clone());
                    job.tasks.clone().spawn("stage a target", async move {
                        let outcome = job.stage(content, check).await;
                        job.count(&outcome);
                        if outcome == Outcome::Mended {
                            board.note(&[slot], "the file's mode or owner was set right");
                        }
                        _ = events.send(Event::Done { slot, outcome }).await;
                    });
                }
            }
            Effect::Swap { slot } => {
                if let Some(job) = self.group.job(slot) {
                    let (events, board) = (self.group.events.clone(), self.board.clone());
                    let group = self.group.clone();
                    job.tasks.clone().spawn("swap a target", async move {
                        let removes = job.ready().as_ref().is_some_and(|it| it.staged.is_none());
                        let outcome = match job.want.target().publish {
                            Publish::Directory => group.exchange(&job).await,
                            Publish::Rename | Publish::InPlace => job.swap().await,
                        };
                        if !removes {
                            job.count(&outcome);
                        }
                        if outcome == Outcome::Swapped {
                            let what = if removes { "removed" } else { "written" };
                            board.note(&[slot], &format!("the file was {what}"));
                        }
                        _ = events.send(Event::Done { slot, outcome }).await;
                    });
                }
            }
            Effect::Discard { slot } => {
                if let Some(job) = self.group.job(slot) {
                    job.discard();
                }
            }
            Effect::Keep { number, memories } => self.keep(number, memories),
            Effect::Verify { round } => self.verify(round),
            Effect::Commit {
                slot,
                content,
                for_return,
            } => {
                if let Some(job) = self.group.job(slot) {
                    let work = async move { job.commit(content, for_return).await };
                    // Also when it is let go: it is good for whoever comes next.
                    self.group.tasks.spawn_to_end("keep a good content", work);
                }
            }
            Effect::Tell { slot, standing } => {
                if let Some(job) = self.group.job(slot) {
                    let is_rolled_back = standing.state == TargetState::RolledBack;
                    let before = job.was_rolled_back.swap(is_rolled_back, Ordering::Relaxed);
                    if is_rolled_back && !before {
                        self.commands.metrics.rollbacks.inc();
                    }
                    self.board.tell(&job.want, &standing);
                }
            }
        }
        None
    }

    fn keep(&self, number: u64, memories: Vec<(Slot, Memory)>) {
        let paths = self
            .group
            .paths
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let noted = memories.into_iter().filter_map(|(slot, memory)| {
            let path = paths.get(&slot)?;
            Some(self.ledger.note(path, slot, memory))
        });
        let last = noted.max().unwrap_or_default();
        let (ledger, group) = (Arc::clone(&self.ledger), self.group.clone());
        self.group.tasks.spawn("ledger", async move {
            ledger.kept(last).await;
            group.tell(Event::Kept(number)).await;
        });
    }

    fn jobs(&self) -> Vec<Arc<Job>> {
        let jobs = self.group.jobs.lock();
        let jobs = jobs.unwrap_or_else(PoisonError::into_inner);
        jobs.values().cloned().collect()
    }

    /// Asks in all the ways that targets of the group name, at once: each must find the application well.
    fn verify(&self, round: u64) {
        let mut ways: Vec<Verify> = Vec::new();
        let mut slots = Vec::new();
        for job in self.jobs() {
            slots.push(job.want.slot);
            let way = job.want.target().verify.as_ref();
            if let Some(way) = way.filter(|way| !ways.contains(way)) {
                ways.push(way.clone());
            }
        }
        let tasks = self.group.tasks.child();
        let mut before = self
            .verifying
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before.replace(tasks.clone()) {
            before.stop();
        }
        let seed = self
            .dice
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .seed();
        let (group, board, commands) = (
            self.group.clone(),
            self.board.clone(),
            self.commands.clone(),
        );
        tasks.spawn("verify", async move {
            let all = ways.iter().map(async |way| {
                let outcome = verify::verify(way, &commands, seed).await;
                let counted = Counted {
                    what: way.kind.word(),
                    outcome: if outcome.is_ok() { "ok" } else { "failed" },
                };
                commands.metrics.verifications.get_or_create(&counted).inc();
                outcome
            });
            let all: Result<Vec<String>, String> = futures_util::future::join_all(all)
                .await
                .into_iter()
                .collect();
            let outcome = all.map(|how| board.note(&slots, &how.join("; ")));
            group.tell(Event::Verified { round, outcome }).await;
        });
    }
}

/// A path, whichever target it belongs to now.
#[derive(Debug)]
struct Place {
    /// One at a time works on it.
    turn: Arc<Semaphore>,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

/// The work on one target's file.
struct Job {
    want: Arc<Want>,
    board: Board,
    placed: Placed,
    tasks: Tasks,
    place: Arc<Place>,
    claims: Claims,
    stores: Stores,
    commands: Commands,
    /// What can be swapped in.
    staged: Mutex<Option<Ready>>,
    /// What came of it where another job of the directory has swapped it in.
    exchanged: Mutex<Option<Outcome>>,
    was_rolled_back: AtomicBool,
    /// Whether leftovers of a crash were looked for.
    looked: AtomicBool,
    /// Whether it was said that the snapshot cannot be kept.
    complained: AtomicBool,
    /// The list in force, of a target that is made of one.
    offer: Mutex<Option<Arc<Offer>>>,
    /// The MD5 of the content that was made last, and what it was made of.
    made: Mutex<Option<(Arc<str>, Arc<Contents>)>>,
    /// Whether there may be a file beside the target that says why it is held.
    is_marked: AtomicBool,
    /// Whether such a file of an earlier run was looked for.
    unmarked: AtomicBool,
}

/// What can be swapped in; the turn goes with it.
struct Ready {
    _turn: OwnedSemaphorePermit,
    /// Of the content.
    hash: Option<Arc<str>>,
    /// `None` removes.
    staged: Option<Box<Staged>>,
}

/// What came of swapping; the work itself may have been broken off.
fn outcome_of(swapped: Result<Result<(), publish::Error>, ()>) -> Outcome {
    match swapped {
        Ok(Ok(())) => Outcome::Swapped,
        Ok(Err(error @ (publish::Error::Exchanged { .. } | publish::Error::Replaced { .. }))) => {
            Outcome::Doubtful(error.to_string())
        }
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Err(()) => Outcome::Doubtful("the work on the file was broken off".to_owned()),
    }
}

/// What is said of a file that somebody else has changed, and that stays so.
const DRIFTED: &str = "drifted: somebody else has changed the file, which stays so until the source changes or `outrigger retry PATH`";

/// How far a content came without asking anybody.
enum Step {
    Over(Outcome),
    Staged(Box<Staged>),
    /// The file can be removed.
    Goes,
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

    /// Makes a content ready to be swapped in (or the removal of the file).
    async fn stage(self: &Arc<Self>, content: Option<Content>, check: bool) -> Outcome {
        match self.try_stage(content, check).await {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    async fn try_stage(
        self: &Arc<Self>,
        content: Option<Content>,
        check: bool,
    ) -> Result<Outcome, Outcome> {
        let turn = self.turn().await?;
        *self.exchanged() = None;
        let hash = content.as_ref().map(|content| Arc::clone(&content.md5));
        let (turn, step) = self
            .blocking(turn, move |job| {
                let step = match &content {
                    Some(content) => job.look_and_stage(content, check),
                    None => Ok(job.look_for_removal()),
                };
                step.unwrap_or_else(|error| Step::Over(Outcome::Failed(error.to_string())))
            })
            .await?;
        let staged = match step {
            Step::Over(outcome) => return Ok(outcome),
            Step::Goes => None,
            Step::Staged(staged) => {
                if let Some(Validate::Exec(command)) = &self.want.target().validate
                    && check
                {
                    self.ask(command, &staged).await?;
                }
                Some(staged)
            }
        };
        let ready = Ready {
            _turn: turn,
            hash,
            staged,
        };
        *self.ready() = Some(ready);
        Ok(Outcome::Staged)
    }

    fn ready(&self) -> MutexGuard<'_, Option<Ready>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what is ready; the turn only after the file is gone.
    fn discard(self: &Arc<Self>) {
        let ready = self.ready().take();
        self.tasks.spawn("discard a content", async move {
            // Nobody waits for it.
            _ = tokio::task::spawn_blocking(move || drop(ready)).await;
        });
    }

    /// Puts what is ready in place.
    async fn swap(self: &Arc<Self>) -> Outcome {
        let Some(ready) = self.ready().take() else {
            return Outcome::Failed("the work on the file was broken off".to_owned());
        };
        let (path, hash) = (self.want.target().path.clone(), ready.hash.clone());
        let swapped = tokio::task::spawn_blocking(move || {
            let Ready { _turn, staged, .. } = ready;
            match staged {
                Some(staged) => staged.publish(),
                None => publish::remove(&path).map(drop),
            }
        });
        let outcome = outcome_of(swapped.await.map_err(drop));
        if outcome == Outcome::Swapped {
            self.is_put(hash.as_deref());
        }
        outcome
    }

    /// The file has this content now.
    fn is_put(&self, hash: Option<&str>) {
        self.placed.put(hash);
        self.board.drift(&self.want, None);
    }

    fn exchanged(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.exchanged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is in the file for a start without the registry, and for a return to it.
    async fn commit(self: &Arc<Self>, content: Content, for_return: bool) {
        let Ok(turn) = self.turn().await else {
            return;
        };
        let kept = self.blocking(turn, move |job| job.keep(&content, for_return));
        if kept.await.is_err() {
            tracing::warn!(from = %self.want.key, "the work on a snapshot was broken off");
        }
    }

    /// Whether there is a file to remove; one that another target keeps is not this one's, nor is there one where no directory is.
    fn look_for_removal(&self) -> Step {
        let path = &self.want.target().path;
        let is_gone = std::fs::symlink_metadata(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_gone || matches!(self.claim(), Ok(Some(_))) {
            Step::Over(Outcome::Unchanged)
        } else {
            Step::Goes
        }
    }

    /// Claims the file; says who has it when another target does.
    fn claim(&self) -> Result<Option<PathBuf>, publish::Error> {
        let path = &self.want.target().path;
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
    fn look_and_stage(&self, content: &Content, check: bool) -> Result<Step, publish::Error> {
        let target = self.want.target();
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
        let manner = placing::manner(target)?;
        let owner = manner.owner;
        let found = placing::current(target)?;
        let bytes = match placing::whole(&self.want.kept, &content.bytes, found.as_ref()) {
            Ok(bytes) => bytes,
            Err(why) => {
                let why = format!("{}: {why}", path.display());
                return Ok(Step::Over(Outcome::Failed(why)));
            }
        };
        let mut differs = found.is_some();
        if let Some(found) = found.filter(|found| *found.bytes == *bytes) {
            differs = false;
            self.is_put(Some(&content.md5));
            if found.has(target.mode, owner) {
                return Ok(Step::Over(Outcome::Unchanged));
            }
            if target.publish != Publish::Directory {
                publish::mend(path, target.mode, owner)?;
                return Ok(Step::Over(Outcome::Mended));
            }
        }
        if differs && self.drifted(content) {
            return Ok(Step::Over(Outcome::Unchanged));
        }
        if check
            && let Some(why) = placing::mistake(&self.want.kept, content.kind.as_deref(), &bytes)
        {
            return Ok(Step::Over(Outcome::Rejected(why)));
        }
        let mut staged = publish::stage_in(path, &bytes, &manner)?;
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

    /// The file has another content than is wanted: whether that is somebody else's doing, and stays so.
    fn drifted(&self, content: &Content) -> bool {
        let drift = self
            .placed
            .compare(&content.md5, self.want.target().on_drift);
        let (outcome, stays) = match drift {
            Drift::None => return false,
            Drift::Repair => {
                let note = "drifted: somebody else had changed the file; it is put right";
                self.board.note(&[self.want.slot], note);
                ("repaired", false)
            }
            Drift::Stays => ("reported", true),
        };
        let is_news = !stays || self.board.drift(&self.want, Some(DRIFTED));
        if is_news {
            let counted = Counted {
                what: "file",
                outcome,
            };
            self.commands.metrics.drifts.get_or_create(&counted).inc();
        }
        stays
    }

    /// Says in a file beside the target why it is held, or removes that file.
    async fn mark(self: &Arc<Self>, note: Option<String>) {
        // Before anything is waited for: whoever comes next must know.
        if note.is_some() {
            self.is_marked.store(true, Ordering::Relaxed);
        } else if !self.is_marked.swap(false, Ordering::Relaxed)
            && self.unmarked.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let Ok(turn) = self.turn().await else {
            return;
        };
        let marked = self.blocking(turn, move |job| {
            let target = job.want.target();
            let mut beside = target.path.clone().into_os_string();
            beside.push(".held");
            let beside = PathBuf::from(beside);
            let Some(note) = note else {
                return publish::remove(&beside).map(drop);
            };
            let owner = match &target.owner {
                Some(owner) => Owner::find(owner.user.as_deref(), owner.group.as_deref())?,
                None => Owner::default(),
            };
            publish::stage(&beside, note.as_bytes(), target.mode, owner)?.publish()
        });
        if let Ok((_, Err(error))) = marked.await {
            // Status says the same.
            tracing::debug!(%error, "no side file");
        }
    }

    /// Asks the validator command.
    async fn ask(&self, command: &Command, staged: &Staged) -> Result<(), Outcome> {
        let path = staged.path().to_string_lossy().into_owned();
        let argv: Vec<String> = command
            .argv
            .iter()
            .map(|word| word.replace("{staged}", &path))
            .collect();
        self.commands.run(command, &argv).await.map_err(|why| {
            if self.want.target().secret {
                // It may have quoted the content.
                Outcome::Rejected(format!("the validator says no; {UNTOLD}"))
            } else {
                Outcome::Rejected(format!("the validator says no: {why}"))
            }
        })
    }

    /// Keeps the content for a start without the registry, and (`for_return`) for a roll-back.
    fn keep(&self, content: &Content, for_return: bool) {
        // What was decrypted is on no disk but in its target: it can go back for as long as we live.
        if for_return && !self.want.kept.is_secret() {
            let key = good_key(&self.want.target().path);
            self.note(self.stores.good.save(&key, content));
        }
        if self.want.composed().is_some() {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            let sources = made.clone().filter(|(md5, _)| *md5 == content.md5);
            drop(made);
            // As it came: what was decrypted is on no disk but in its target.
            for (key, content) in sources.iter().flat_map(|(_, sources)| sources.iter()) {
                self.note(self.stores.snapshots.save(key, content));
            }
            return;
        }
        let offer = self.offer.lock().unwrap_or_else(PoisonError::into_inner);
        let in_force = offer
            .clone()
            .filter(|offer| offer.content.md5 == content.md5);
        drop(offer);
        // Of a list its neighbours are kept, so that the next run can make another format of them.
        let (key, content) = match (&self.want.key, &self.want.kept, &in_force) {
            (Source::Config(key), ..) => (key.clone(), content),
            (_, Kept::Subscription(list), Some(offer)) => {
                (following::snapshot_key(list), &offer.neighbours)
            }
            _ => return,
        };
        self.note(self.stores.snapshots.save(&key, content));
    }

    /// Says once that nothing can be kept.
    fn note(&self, saved: Result<bool, snapshot::Error>) {
        match saved {
            Ok(_) => self.complained.store(false, Ordering::Relaxed),
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, from = %self.want.key, "no snapshot is kept");
                }
            }
        }
    }

    fn count(&self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Swapped => "written",
            Outcome::Rejected(_) => "rejected",
            Outcome::Failed(_) | Outcome::Doubtful(_) => "failed",
            Outcome::Unchanged | Outcome::Mended | Outcome::Staged => return,
        };
        let counted = Counted {
            what: match self.want.key {
                Source::Config(_) | Source::Configs(_) => "config",
                Source::Service(_) => "subscription",
            },
            outcome,
        };
        self.commands.metrics.writes.get_or_create(&counted).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::super::neighbours::tests::{host, list};
    use super::*;
    use crate::descriptor::spec::{
        Filter, Format, Guard, OnDrift, Pacing, Part, Publish, Rendering, Subscription, Template,
    };
    use crate::metrics::Metrics;
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
    struct Registry {
        configs: Mutex<Option<Watch>>,
        lists: Mutex<Option<mpsc::Sender<(ServiceKey, ListState)>>>,
        connection: watch::Sender<Connection>,
    }

    impl Default for Registry {
        fn default() -> Self {
            let connection = Connection {
                up: true,
                server: None,
                transport: "http",
                chosen: None,
                version: None,
                reason: None,
                since: Duration::ZERO,
                returns: 0,
            };
            Self {
                configs: Mutex::default(),
                lists: Mutex::default(),
                connection: watch::Sender::new(connection),
            }
        }
    }

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
            let before = self.configs.lock().unwrap().replace((keys, told));
            assert!(before.is_none(), "called once");
        }
        fn watch_services(
            &self,
            _: watch::Receiver<BTreeSet<ServiceKey>>,
            told: mpsc::Sender<(ServiceKey, ListState)>,
        ) {
            let before = self.lists.lock().unwrap().replace(told);
            assert!(before.is_none(), "called once");
        }
        fn connection(&self) -> watch::Receiver<Connection> {
            self.connection.subscribe()
        }
    }

    struct House {
        folder: TempDir,
        parts: Parts,
        targets: Targets,
        keys: watch::Receiver<BTreeSet<ConfigKey>>,
        told: mpsc::Sender<(ConfigKey, ConfigState)>,
        registry: Arc<Registry>,
        lists: mpsc::Sender<(ServiceKey, ListState)>,
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
            let (keys, told) = registry.configs.lock().unwrap().take().unwrap();
            let lists = registry.lists.lock().unwrap().take().unwrap();
            Self {
                folder,
                parts,
                targets,
                keys,
                told,
                registry,
                lists,
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
            made_of: MadeOf::One(Part {
                data_id: data_id.to_owned(),
                group: "G".to_owned(),
                ..Part::default()
            }),
            target: Target {
                path,
                mode: 0o600,
                owner: None,
                required: false,
                on_absent: OnAbsent::Keep,
                max_size: 1000,
                validate: None,
                reload: None,
                pacing: Pacing::default(),
                verify: None,
                publish: Publish::Rename,
                backup: false,
                secret: false,
                on_drift: OnDrift::Repair,
            },
        }
    }

    impl House {
        /// Ends this run; what is left of it.
        async fn over(self) -> tempfile::TempDir {
            let ended = self.parts.tasks.finish(Duration::from_secs(5)).await;
            assert!(ended.is_ok());
            self.folder
        }

        fn set(&self, configs: &[Config]) {
            self.keep(configs.iter().cloned().map(Kept::Config).collect());
        }

        fn keep(&self, kept: Vec<Kept>) {
            self.targets
                .set(vec![(PathBuf::from("conf.d/a.yaml"), kept)]);
        }

        /// What the registry lists of `payments`: hosts 10.0.0.1 and on.
        async fn list(&self, size: u8) {
            let hosts = (1..=size).map(|last| host(&format!("10.0.0.{last}"), 80));
            let state = ListState::Listed(Arc::new(list(hosts.collect())));
            self.say(state).await;
        }

        async fn say(&self, state: ListState) {
            let key = ServiceKey {
                namespace: Namespace::public(),
                group: "G".into(),
                name: "payments".into(),
            };
            self.lists.send((key, state)).await.unwrap();
        }

        fn subscription(&self, name: &str, rendering: Rendering) -> Subscription {
            Subscription {
                service: "payments".to_owned(),
                group: "G".to_owned(),
                namespace: String::new(),
                filter: Filter::default(),
                rendering,
                guard: Guard::default(),
                target: self.config(name).target,
            }
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
            let content = Content::of(text.into());
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
            let is_it = |view: &TargetView| {
                let name = match &view.source {
                    Source::Config(key) => key.data_id.to_string(),
                    Source::Configs(keys) => keys.keys().cloned().collect::<Vec<_>>().join("+"),
                    Source::Service(key) => key.name.to_string(),
                };
                *name == *data_id && view.state == state
            };
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
            confine: false,
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
            let folder = house.over().await;
            fs::remove_file(folder.path().join("a")).unwrap();
            let mut house = House::on(folder);
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

    fn part(data_id: &str) -> Part {
        Part {
            data_id: data_id.to_owned(),
            group: "G".to_owned(),
            ..Part::default()
        }
    }

    fn several(house: &House, template: &str) -> Config {
        let mut config = house.config("made");
        config.made_of = MadeOf::Several {
            template: Template {
                file: "x.j2".into(),
                text: template.into(),
            },
            parts: BTreeMap::from([
                ("db".to_owned(), part("db.yaml")),
                ("flags".to_owned(), part("flags.json")),
            ]),
        };
        config
    }

    const BOTH: &str = "url={{ db.url }} beta={{ flags.beta }}\n";

    #[tokio::test(start_paused = true)]
    async fn two_configurations_are_one_file_and_a_bad_one_keeps_the_last_good_file() {
        let mut house = House::new();
        house.set(&[several(&house, BOTH)]);
        house.publish("db.yaml", "url: db:1\n").await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(house.read("made"), None);
        house.publish("flags.json", r#"{"beta":true}"#).await;
        let view = house.until_state("db+flags", TargetState::Applied).await;
        assert!(view.reason.is_none() && view.applied_once);
        assert_eq!(house.read("made").as_deref(), Some("url=db:1 beta=true\n"));
        for (bad, words) in [
            (
                "url: db:1\na: [hunter2",
                "db (G/db.yaml): not valid yaml: line 2",
            ),
            (
                "url: \"x; hunter2\"",
                "x.j2: line 1: a value from the registry is not quoted",
            ),
            ("other: hunter2", "x.j2: line 1: "),
            (
                &"#".repeat(1001),
                "db (G/db.yaml): the content has 1001 bytes; `max_size` is 1000",
            ),
        ] {
            house.publish("db.yaml", bad).await;
            let view = house
                .until("rejected", |views| {
                    views[0].state == TargetState::Rejected
                        && views[0]
                            .reason
                            .as_ref()
                            .is_some_and(|why| why.starts_with(words))
                })
                .await;
            assert!(
                !view[0].reason.as_ref().unwrap().contains("hunter2"),
                "{view:?}"
            );
            assert_eq!(house.read("made").as_deref(), Some("url=db:1 beta=true\n"));
        }
        house.publish("db.yaml", "url: db:2\n").await;
        house.until_state("db+flags", TargetState::Applied).await;
        assert_eq!(house.read("made").as_deref(), Some("url=db:2 beta=true\n"));
        house.tell("flags.json", ConfigState::Absent).await;
        let view = house.until_state("db+flags", TargetState::Missing).await;
        let reason = view.reason.unwrap();
        assert!(reason.starts_with("flags (G/flags.json): "), "{reason}");
        assert_eq!(house.read("made").as_deref(), Some("url=db:2 beta=true\n"));
    }

    #[tokio::test]
    async fn one_configuration_can_be_there_as_it_is_and_decrypted() {
        let mut house = House::new();
        let mut config = several(&house, "{{ db }} {{ flags }}\n");
        let MadeOf::Several { parts, .. } = &mut config.made_of else {
            panic!();
        };
        let mut sealed = part("cipher-a");
        parts.insert("db".to_owned(), sealed.clone());
        sealed.decrypt = Some(exec(&["tr", "a", "b"]));
        parts.insert("flags".to_owned(), sealed);
        config.target.on_absent = OnAbsent::Remove;
        house.set(&[config]);
        house.publish("cipher-a", "aaa").await;
        house.until_state("db+flags", TargetState::Applied).await;
        assert_eq!(house.read("made").as_deref(), Some("aaa bbb\n"));
        house.tell("cipher-a", ConfigState::Absent).await;
        house.until_state("db+flags", TargetState::Missing).await;
        assert_eq!(house.read("made"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_registry_the_sources_of_an_earlier_run_are_rendered_again() {
        let mut house = House::new();
        house.set(&[several(&house, BOTH)]);
        house.publish("db.yaml", "url: db:1\n").await;
        house.publish("flags.json", r#"{"beta":true}"#).await;
        house.until_state("db+flags", TargetState::Applied).await;
        let folder = house.over().await;
        fs::remove_file(folder.path().join("made")).unwrap();
        let house = House::on(folder);
        // Another template: what was kept is what went in, not what came out.
        house.set(&[several(&house, "{{ flags.beta }} {{ db.url }}\n")]);
        let view = house.until_state("db+flags", TargetState::Applied).await;
        assert!(view.reason.unwrap().contains("snapshot"));
        assert_eq!(house.read("made").as_deref(), Some("true db:1\n"));
    }

    #[tokio::test]
    async fn what_is_decrypted_is_in_its_target_alone_and_a_failing_command_is_tried_again() {
        let mut house = House::new();
        let allowed = house.path("allowed");
        let script = format!(
            "test -e {} || {{ echo no key for $OUTRIGGER_DATA_KEY >&2; exit 1; }}; tr a-z b-za; echo $OUTRIGGER_DATA_ID",
            allowed.display()
        );
        let mut config = house.config("sealed");
        let mut sealed = part("cipher-rot-a");
        sealed.decrypt = Some(exec(&["sh", "-c", &script]));
        config.made_of = MadeOf::One(sealed);
        house.set(&[config]);
        let content = Content {
            data_key: Some("0123456789abcdef".into()),
            ..Content::of(b"gtmsdq1".to_vec())
        };
        let md5 = content.md5.to_string();
        house
            .tell("cipher-rot-a", ConfigState::Present(content))
            .await;
        let view = house
            .until_state("cipher-rot-a", TargetState::Rejected)
            .await;
        assert_eq!(
            view.reason.as_deref(),
            Some(
                "the decrypt command failed and is tried again: sh: exit status 1: no key for [data key]"
            )
        );
        fs::File::create(&allowed).unwrap();
        let view = house
            .until_state("cipher-rot-a", TargetState::Applied)
            .await;
        assert_eq!(
            house.read("sealed").as_deref(),
            Some("hunter1cipher-rot-a\n")
        );
        // By what the registry has, not by what it says.
        assert_eq!(view.md5, Some(md5));
        let over = house.parts.tasks.finish(Duration::from_secs(5)).await;
        assert!(over.is_ok());
        let mut kept = 0;
        for entry in fs::read_dir(house.path("state/snapshots")).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                text.contains("gtmsdq1") && text.contains("0123456789abcdef"),
                "{text}"
            );
            assert!(!text.contains("hunter1"), "{text}");
            kept += 1;
        }
        assert_eq!(kept, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_format_that_nobody_wrote_out_is_what_the_registry_or_the_name_says() {
        let mut house = House::new();
        let mut config = house.config("a.conf");
        config.target.validate = Some(Validate::Auto);
        let mut other = house.config("b.json");
        other.target.validate = Some(Validate::Auto);
        house.set(&[config, other]);
        house.publish("a.conf", "{").await;
        house.until_state("a.conf", TargetState::Applied).await;
        house.publish("b.json", "{").await;
        house.until_state("b.json", TargetState::Rejected).await;
        let content = Content {
            kind: Some("yaml".into()),
            ..Content::of(b"a: [".to_vec())
        };
        house.tell("a.conf", ConfigState::Present(content)).await;
        let view = house.until_state("a.conf", TargetState::Rejected).await;
        assert!(view.reason.unwrap().starts_with("not valid yaml"));
    }

    fn nginx() -> Rendering {
        Rendering::Nginx {
            upstream: "payments".to_owned(),
        }
    }

    /// Waits until something is so; time is virtual.
    async fn until_so(what: &str, is: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if is() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("not {what}");
    }

    fn servers(house: &House, name: &str) -> usize {
        house
            .read(name)
            .map_or(0, |text| text.matches("server ").count())
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_becomes_the_file_and_a_loss_is_held_until_it_is_released() {
        let house = House::new();
        house.keep(vec![Kept::Subscription(house.subscription("a", nginx()))]);
        house.list(5).await;
        let view = house.until_state("payments", TargetState::Applied).await;
        assert!(view.applied_once && view.reason.is_none());
        assert_eq!(servers(&house, "a"), 5);
        assert!(!house.path("a.held").exists());
        house.list(1).await;
        let view = house.until_state("payments", TargetState::Held).await;
        assert_eq!(
            view.reason.as_deref(),
            Some(
                "the registry lists 1 instance, the file has 5; the guard allows a loss of 60 % of 5"
            )
        );
        until_so("marked", || house.path("a.held").exists()).await;
        let note: serde_json::Value = serde_json::from_str(&house.read("a.held").unwrap()).unwrap();
        assert_eq!(note["release"], "outrigger release subscription payments");
        assert_eq!(servers(&house, "a"), 5);
        assert_eq!(house.targets.release("other".to_owned()).await, 0);
        assert_eq!(house.targets.release("payments".to_owned()).await, 1);
        until_so("released", || servers(&house, "a") == 1).await;
        house.list(0).await;
        house.until_state("payments", TargetState::Held).await;
        house.list(1).await;
        house.until_state("payments", TargetState::Applied).await;
        until_so("unmarked", || !house.path("a.held").exists()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_registry_came_back_a_smaller_list_waits() {
        let house = House::new();
        house.keep(vec![Kept::Subscription(house.subscription("a", nginx()))]);
        house.list(5).await;
        house.until_state("payments", TargetState::Applied).await;
        house
            .registry
            .connection
            .send_modify(|now| now.returns += 1);
        house.list(4).await;
        let view = house.until_state("payments", TargetState::Held).await;
        assert!(view.reason.unwrap().contains("came back a moment ago"));
        // Time is virtual: the hold ends by itself.
        until_so("over", || servers(&house, "a") == 4).await;
        house.until_state("payments", TargetState::Applied).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_run_knows_what_was_in_force() {
        let house = House::new();
        let target = house.subscription("a", nginx());
        house.keep(vec![Kept::Subscription(target.clone())]);
        house.list(5).await;
        house.until_state("payments", TargetState::Applied).await;
        let folder = house.over().await;
        // After a boot the file is gone; the descriptor wants another format now.
        fs::remove_file(folder.path().join("a")).unwrap();
        let house = House::on(folder);
        let env = Rendering::Env {
            variable: "P".to_owned(),
        };
        let target = Subscription {
            rendering: env,
            ..target
        };
        house.keep(vec![Kept::Subscription(target)]);
        house.list(1).await;
        let view = house.until_state("payments", TargetState::Held).await;
        assert!(view.reason.unwrap().contains("a loss of 60 % of 5"));
        house
            .until("the file is there", |views| views[0].applied_once)
            .await;
        let all: Vec<String> = (1..=5).map(|last| format!("10.0.0.{last}:80")).collect();
        assert_eq!(
            house.read("a"),
            Some(format!("P_INSTANCES={}\n", all.join(",")))
        );
        house.list(5).await;
        house.until_state("payments", TargetState::Applied).await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_registry_the_neighbours_of_an_earlier_run_are_put_in_place() {
        for says_so in [true, false] {
            let house = House::new();
            let target = house.subscription("a", nginx());
            house.keep(vec![Kept::Subscription(target.clone())]);
            house.list(2).await;
            house.until_state("payments", TargetState::Applied).await;
            let folder = house.over().await;
            fs::remove_file(folder.path().join("a")).unwrap();
            let house = House::on(folder);
            house.keep(vec![Kept::Subscription(target)]);
            if says_so {
                house
                    .say(ListState::Unreachable("connection refused".to_owned()))
                    .await;
            }
            let view = house.until_state("payments", TargetState::Applied).await;
            assert!(view.reason.unwrap().contains("snapshot"));
            assert_eq!(servers(&house, "a"), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unquoted_hostile_value_keeps_the_old_file() {
        let house = House::new();
        let template = Rendering::Template {
            file: PathBuf::new(),
            text:
                "{% for one in instances %}{{ one.address }} {{ one.metadata.zone }}\n{% endfor %}"
                    .into(),
        };
        house.keep(vec![Kept::Subscription(house.subscription("a", template))]);
        let with_zone = |zone: &str| {
            let mut one = host("10.0.0.1", 80);
            one.metadata.insert("zone".into(), zone.into());
            ListState::Listed(Arc::new(list(vec![one])))
        };
        house.say(with_zone("east")).await;
        house.until_state("payments", TargetState::Applied).await;
        house.say(with_zone("x\n6.6.6.6:1")).await;
        let view = house.until_state("payments", TargetState::Rejected).await;
        assert!(view.reason.unwrap().contains("is not quoted"));
        assert_eq!(house.read("a").as_deref(), Some("10.0.0.1:80 east\n"));
        house.say(with_zone("west")).await;
        let west = Some("10.0.0.1:80 west\n".to_owned());
        until_so("rendered", || house.read("a") == west).await;
        house.until_state("payments", TargetState::Applied).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_hosts_file_keeps_every_byte_of_others() {
        let house = House::new();
        let others = "127.0.0.1 localhost\n# by hand";
        std::io::Write::write_all(
            &mut fs::File::create(house.path("hosts")).unwrap(),
            others.as_bytes(),
        )
        .unwrap();
        let hosts = Rendering::Hosts {
            host: "payments".to_owned(),
        };
        house.keep(vec![Kept::Subscription(house.subscription("hosts", hosts))]);
        house.list(2).await;
        house.until_state("payments", TargetState::Applied).await;
        let block = "# outrigger: begin payments\n10.0.0.1 payments\n10.0.0.2 payments\n# outrigger: end payments\n";
        assert_eq!(house.read("hosts"), Some(format!("{others}\n{block}")));
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
        let commands = Commands::new(2, Metrics::default());
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
            said.push(commands::request("POST", &url, long).await);
        }
        assert_eq!(
            said,
            [
                Ok("reloaded by POST, answered 204".to_owned()),
                Err("POST: answered 302".to_owned()),
                Err("POST: answered 500".to_owned()),
            ]
        );
        let refused = commands::request("POST", &url, long).await.unwrap_err();
        assert!(!refused.contains("secret"), "{refused}");
        assert_eq!(tasks.panics(), 0);
    }
}
