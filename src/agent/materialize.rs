//! Decides when the files of a group are replaced, when their application is told, whether it is well after that, and when the
//! files go back.
//!
//! A group is the targets of one descriptor that share a reload; a target without one is a group by itself. A group is one
//! transaction: all or none.
//!
//! ```text
//! known ─▶ stage (look, validate) ─▶ keep ─▶ swap ─▶ reload ─▶ verify ─▶ commit
//!            │ one is not valid:      the ledger:        │ fails: again,     │ fails: the last good contents
//!            ▼ the others wait        a reload is due    ▼ with growing waits ▼ of all are swapped in: rolled back
//! ```
//!
//! What becomes known of a configuration makes its target *due*. A target that is alone in its group and had a rest is staged at
//! once; otherwise when nothing new came for `quiet` (or `longest` after the first). Nothing is swapped before all that are
//! due are staged and valid. One that is not valid, or cannot be staged, holds the others: their files stay, and they say what they
//! wait for. One of which the registry has nothing, or cannot be asked, holds nobody.
//!
//! Whoever stages looks at the file first: a content that is there already, with the right mode and owner, is `Unchanged` and asks
//! for no reload. That makes every effect safe to repeat, and [`Event::Resync`] simply repeats them: a file that somebody edited is
//! repaired.
//!
//! What outlives the process is each target's [`Memory`]. That a reload is due for a content is kept *before* the content can be
//! seen ([`Effect::Keep`] is answered before anything is swapped), that it was reloaded only afterwards. So whatever happens in
//! between, the next run finds a reload that is due: at worst it tells the application once too often. No swap begins during
//! a reload, so a reload that succeeded covers what is in the files. A swap during a verification ends that: what is verified then
//! is the newer content, and what is *good* is still what was verified before.
//!
//! A content after which the application is not well is `refused`: it is not swapped in again before a content of the group
//! changes or an operator asks. A content that is rejected leaves the file as it is and is not tried again before the source
//! changes, unless its validator is a command, whose mind may change: then with growing waits.

use crate::backoff::{Backoff, Dice, Pace};
use crate::descriptor::spec::{OnAbsent, Pacing};
use crate::machine::{Machine, Moment};
use crate::nacos::model::{ConfigState, Content};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::view::TargetState;

/// A due reload does not wait longer than this for other targets of the group (a validator may take half a minute), nor for word of
/// a target whose reload an earlier run left due.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between tries of a write or removal that failed, and of a validator that is a command.
const RETRY: Pace = Pace {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(60),
    floor: Duration::from_millis(500),
};
/// What a [`Memory`] says of a file that is not there, in the place of a hash.
const GONE: &str = "gone";
/// What it says of a file of which nothing is known but that its reload counts as due.
const UNKNOWN: &str = "unknown";

/// A target within its group, for as long as its descriptor does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

/// What the machine must know of a target.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What it is called where another one waits for it.
    pub name: Arc<str>,
    /// What happens when the registry has no such configuration.
    pub on_absent: OnAbsent,
    /// A larger content is rejected; bytes.
    pub max_size: u64,
    /// Whether the same content may be accepted later: true for a validator that is a command.
    pub may_relent: bool,
    /// Whether the application is asked how it is once it was told.
    pub verifies: bool,
}

/// What is remembered of a target, in hashes of contents (`gone` for a file that is not to be there).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What the registry wanted when this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// What the file has, or was about to get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<String>,
    /// What the application was told of; a reload is due while that is not what is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reloaded: Option<String>,
    /// With what the application was well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// The last good content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<String>,
    /// What was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// How often the reload that is due has failed.
    #[serde(default)]
    pub attempts: u32,
    /// Whether the files of the group may be of two transactions.
    #[serde(default)]
    pub open: bool,
}

impl Memory {
    /// Nothing is known but that the reload counts as due.
    #[must_use]
    pub fn unsure() -> Self {
        Self {
            written: Some(UNKNOWN.to_owned()),
            ..Self::default()
        }
    }

    /// Whether what is written was not told.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.written.is_some() && self.reloaded != self.written
    }

    fn is_verified(&self) -> bool {
        self.written.is_none() || self.verified == self.written
    }

    /// Whether `before` does not say the same, as far as it is worth a write of its own.
    fn differs(&self, before: &Self) -> bool {
        let mut same = self.clone();
        same.wanted.clone_from(&before.wanted);
        same.good.clone_from(&before.good);
        // That nothing is open any more is kept with what comes next: at worst files that agree go back together.
        same.open |= before.open && self.owes();
        same != *before
    }
}

/// A content that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Its hash.
    pub hash: String,
    /// One sentence.
    pub why: String,
}

/// What is left of an earlier run, or of an earlier target of the path.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// From the ledger.
    pub memory: Memory,
    /// The last good content.
    pub good: Option<Content>,
}

/// What can happen to a group.
#[derive(Clone, Debug)]
pub enum Event {
    /// A target is wanted; its slot was never used before.
    Wanted {
        /// Its new slot.
        slot: Slot,
        /// Its rules.
        rules: Rules,
        /// What was before.
        past: Box<Past>,
    },
    /// A target is not wanted any more; its file stays. A reload it owes stays due.
    LetGo {
        /// Its slot.
        slot: Slot,
    },
    /// What the registry says of the target's configuration.
    Known {
        /// Target.
        slot: Slot,
        /// News.
        state: ConfigState,
    },
    /// The last good content of an earlier run. Counts only while nothing better is known.
    Remembered {
        /// Target.
        slot: Slot,
        /// From the snapshot.
        content: Content,
    },
    /// Answers the one [`Effect::Stage`] or [`Effect::Swap`] of the target that is out.
    Done {
        /// Target.
        slot: Slot,
        /// How it ended.
        outcome: Outcome,
    },
    /// What [`Effect::Keep`] of this number (and of all lower ones) said is kept, as well as can be.
    Kept(u64),
    /// Answers [`Effect::Ask`]: the application may be told now.
    Turn,
    /// Answers [`Effect::Reload`]; an error is one sentence.
    Reloaded(Result<(), String>),
    /// Answers [`Effect::Verify`]; an error is one sentence.
    Verified {
        /// Which one.
        round: u64,
        /// Whether the application is well.
        outcome: Result<(), String>,
    },
    /// Time to look whether the files still are what they should be.
    Resync,
    /// An operator wants everything tried again, now.
    Retry,
}

/// How staging a target, or swapping it in, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Staging: the file was as wanted (or as wanted not there).
    Unchanged,
    /// Staging: the content was as wanted; mode or owner were set right.
    Mended,
    /// Staging: the content is valid and can be swapped in (the file can be removed).
    Staged,
    /// Swapping: the file was replaced (removed).
    Swapped,
    /// Staging: the content is not valid. One sentence.
    Rejected(String),
    /// It could not be done; the file is as it was. One sentence.
    Failed(String),
    /// Swapping: it may have been done, or not. One sentence.
    Doubtful(String),
}

/// What a group wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Look at the target's file; where it is not as wanted, validate the content and make it ready. Exactly one [`Event::Done`]
    /// answers.
    Stage {
        /// Target.
        slot: Slot,
        /// What the file must have; `None` is not to be there.
        content: Option<Content>,
        /// Whether it must be validated: it was good before, where not.
        check: bool,
    },
    /// Drop what is ready.
    Discard {
        /// Target.
        slot: Slot,
    },
    /// Keep what is to be remembered, durably; an [`Event::Kept`] answers.
    Keep {
        /// Counts up.
        number: u64,
        /// What changed.
        memories: Vec<(Slot, Memory)>,
    },
    /// Put what is ready in place; exactly one [`Event::Done`] answers.
    Swap {
        /// Target.
        slot: Slot,
    },
    /// The application is to be told as soon as it may be; exactly one [`Event::Turn`] answers.
    Ask {
        /// Whether the group is only starting.
        is_first: bool,
        /// Whether files went back because the application was not well.
        is_return: bool,
    },
    /// Answers [`Event::Turn`]: not now; it is asked again.
    Pass,
    /// Answers [`Event::Turn`]: tell the application of what is in the files; exactly one [`Event::Reloaded`] answers.
    Reload,
    /// Ask the application how it is, until it is well or its time is over; an [`Event::Verified`] answers. One that is under way
    /// is of no interest any more.
    Verify {
        /// Counts up.
        round: u64,
    },
    /// What is in the file is good: keep it for a start without the registry, and for a roll-back.
    Commit {
        /// Target.
        slot: Slot,
        /// The content.
        content: Content,
        /// Whether a roll-back may need it.
        for_return: bool,
    },
    /// The standing of a target changed.
    Tell {
        /// Target.
        slot: Slot,
        /// All of it.
        standing: Standing,
    },
}

/// How a target stands, for its view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// State.
    pub state: TargetState,
    /// One sentence; `None` when all is well.
    pub reason: Option<String>,
    /// Whether the file was once what the registry (or the snapshot) wanted, the application told or not: an application
    /// that waits for its file to start cannot be told before.
    pub applied_once: bool,
    /// MD5 of the content in the file, where known.
    pub md5: Option<Arc<str>>,
}

/// The files of one descriptor that share a reload.
#[derive(Debug)]
pub struct Group {
    has_reload: bool,
    /// A burst is over when nothing new came for this long.
    quiet: Duration,
    /// A burst is not waited for longer than this after its first change.
    longest: Duration,
    /// Whether all was as wanted once.
    is_settled: bool,
    targets: BTreeMap<Slot, Target>,
    /// Of targets that were let go: what their application was not told.
    gone: BTreeMap<Slot, Memory>,
    burst: Option<Burst>,
    /// When something new came last.
    stirred: Option<Moment>,
    phase: Phase,
    /// How often it was looked at what is due.
    waves: u64,
    /// Whether the files may be of two transactions.
    open: bool,
    /// Whether one of the swap that is under way failed.
    failed: bool,
    /// Number of the last [`Effect::Keep`].
    keeps: u64,
    /// Up to which number all is kept.
    kept: u64,
    reload: Reload,
    verify: Verify,
    dice: Dice,
    due: VecDeque<Effect>,
}

/// Changes that came shortly one after the other.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Moment,
    last: Moment,
}

impl Burst {
    fn ends(&self, quiet: Duration, longest: Duration) -> Moment {
        (self.last + quiet).min(self.first + longest)
    }
}

/// How far a swap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// None is under way.
    Open,
    /// That it comes is being kept, by this [`Effect::Keep`].
    Keeping(u64),
    Swapping,
}

#[derive(Debug)]
struct Reload {
    /// Not before.
    at: Moment,
    /// Since when it is due.
    since: Moment,
    /// Whether the turn was asked for.
    asked: bool,
    /// Whose files the one under way covers.
    running: Option<BTreeSet<Slot>>,
    /// Why the last one failed.
    failed: Option<String>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Verify {
    /// Not before.
    at: Moment,
    /// Number of the last one.
    round: u64,
    /// Whether that is under way and of interest.
    running: bool,
    /// Why the last one failed, where nothing could be put back.
    failed: Option<String>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Target {
    rules: Rules,
    wanted: Wanted,
    /// Why the registry could not be asked, while it could not.
    unreachable: Option<String>,
    verdict: Verdict,
    /// Whether `wanted` must be staged (again).
    due: bool,
    /// Whether the last good content must be put back.
    restore: bool,
    /// Whether `wanted` waits for another target to be valid.
    waits: bool,
    doing: Option<Doing>,
    /// Number of the last look at what is due in the group.
    wave: u64,
    retry_at: Option<Moment>,
    backoff: Backoff,
    place: InPlace,
    /// What was in place when the group was last well.
    good: InPlace,
    memory: Memory,
    /// What of it was handed out to be kept.
    kept: Memory,
    applied_once: bool,
    told: Standing,
}

#[derive(Debug)]
enum Wanted {
    Unknown,
    Content {
        content: Content,
        from_snapshot: bool,
    },
    Absent,
}

/// What was said of the wanted content when it was last tried.
#[derive(Debug)]
enum Verdict {
    Fine,
    Rejected(String),
    Failed(String),
    RolledBack(String),
}

#[derive(Debug)]
struct Doing {
    /// `None` removes.
    content: Option<Content>,
    aim: Aim,
    step: Step,
    /// Which look at what is due began it.
    wave: u64,
    /// What was remembered before the swap.
    before: Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// What the registry wants.
    Wanted,
    /// The last good content, in case somebody edited the file.
    Repair,
    /// The last good content, because what is there must go.
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Staging,
    Ready,
    /// It is in what is being kept.
    Intended,
    Swapping,
}

/// What is at the target's path, as far as we know.
#[derive(Clone, Debug)]
enum InPlace {
    Unknown,
    Content(Content),
    Nothing,
}

impl InPlace {
    fn of(content: Option<Content>) -> Self {
        content.map_or(Self::Nothing, Self::Content)
    }

    fn hash(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Content(content) => Some(&content.md5),
            Self::Nothing => Some(GONE),
        }
    }
}

fn hash_of(content: Option<&Content>) -> &str {
    content.map_or(GONE, |content| &content.md5)
}

impl Group {
    /// An empty group. `seed` decides all its waits; without a reload nobody is told.
    #[must_use]
    pub fn new(has_reload: bool, seed: u64) -> Self {
        let pacing = Pacing::default();
        Self {
            has_reload,
            quiet: pacing.quiet,
            longest: pacing.longest,
            is_settled: false,
            targets: BTreeMap::new(),
            gone: BTreeMap::new(),
            burst: None,
            stirred: None,
            phase: Phase::Open,
            waves: 0,
            open: false,
            failed: false,
            keeps: 0,
            kept: 0,
            reload: Reload {
                at: Moment::ZERO,
                since: Moment::ZERO,
                asked: false,
                running: None,
                failed: None,
                backoff: Backoff::new(Pace::RELOAD, seed),
            },
            verify: Verify {
                at: Moment::ZERO,
                round: 0,
                running: false,
                failed: None,
                backoff: Backoff::new(Pace::RELOAD, seed.rotate_left(29)),
            },
            dice: Dice::new(!seed),
            due: VecDeque::new(),
        }
    }

    /// With other bounds of a burst than the usual ones.
    #[must_use]
    pub fn with_bursts(mut self, pacing: &Pacing) -> Self {
        self.quiet = pacing.quiet;
        self.longest = pacing.longest;
        self
    }

    fn verifies(&self) -> bool {
        self.targets.values().any(|target| target.rules.verifies)
    }

    /// Whether a restart would lose something.
    fn remembers(&self) -> bool {
        self.has_reload || self.verifies()
    }

    /// Whether the application was not told of something.
    fn owes(&self) -> bool {
        let targets = self.targets.values().map(|target| &target.memory);
        self.has_reload && targets.chain(self.gone.values()).any(Memory::owes)
    }

    /// Something new came: the burst begins, or goes on.
    ///
    /// A target that is alone in its group has nobody to wait for: its first change after a rest is put in place at once.
    fn stir(&mut self, now: Moment) {
        let rested = self.stirred.is_none_or(|last| now > last + self.longest);
        self.stirred = Some(now);
        if rested && self.targets.len() == 1 {
            return;
        }
        self.burst.get_or_insert(Burst {
            first: now,
            last: now,
        });
        if let Some(burst) = &mut self.burst {
            burst.last = now;
        }
    }

    fn wanted(&mut self, now: Moment, slot: Slot, rules: Rules, mut past: Past) {
        if !self.has_reload {
            // Nobody is to be told any more.
            past.memory.reloaded.clone_from(&past.memory.written);
        }
        if self.has_reload && past.memory.owes() && !self.owes() {
            (self.reload.at, self.reload.since) = (now, now);
        }
        self.open |= past.memory.open;
        // Targets of one group must not try again in step.
        let seed = self.dice.seed();
        self.targets.insert(slot, Target::new(rules, past, seed));
    }

    fn let_go(&mut self, now: Moment, slot: Slot) {
        let Some(target) = self.targets.remove(&slot) else {
            return;
        };
        if self.has_reload && target.memory.owes() {
            self.gone.insert(slot, target.memory);
        }
        self.due.retain(|effect| match effect {
            Effect::Stage { slot: whose, .. }
            | Effect::Discard { slot: whose }
            | Effect::Swap { slot: whose }
            | Effect::Commit { slot: whose, .. }
            | Effect::Tell { slot: whose, .. } => *whose != slot,
            Effect::Keep { .. }
            | Effect::Ask { .. }
            | Effect::Pass
            | Effect::Reload
            | Effect::Verify { .. } => true,
        });
        self.end_swap(now);
    }

    fn known(&mut self, now: Moment, slot: Slot, state: ConfigState) {
        let Some(target) = self.targets.get_mut(&slot) else {
            return;
        };
        let stirs = match state {
            ConfigState::Unreachable(why) => {
                target.unreachable = Some(why);
                false
            }
            ConfigState::Present(content) => {
                target.unreachable = None;
                target.want(content, false)
            }
            ConfigState::Absent => {
                target.unreachable = None;
                target.want_nothing()
            }
        };
        if stirs {
            self.stir(now);
        }
    }

    fn remembered(&mut self, now: Moment, slot: Slot, content: Content) {
        let Some(target) = self.targets.get_mut(&slot) else {
            return;
        };
        if matches!(target.wanted, Wanted::Unknown) {
            if target.want(content, true) {
                self.stir(now);
            }
            return;
        }
        match (&target.wanted, &target.verdict, &target.good) {
            (Wanted::Content { .. }, Verdict::Rejected(_), InPlace::Unknown)
                if target.doing.is_none() && target.fits(&content) =>
            {
                let effect = target.stage(slot, Some(content), Aim::Repair);
                self.due.push_back(effect);
            }
            _ => {}
        }
    }

    fn done(&mut self, now: Moment, slot: Slot, outcome: Outcome) {
        let Some(target) = self.targets.get_mut(&slot) else {
            return;
        };
        match target.doing.take() {
            Some(doing) if doing.step == Step::Swapping => {
                self.failed |= !target.swapped(now, doing, outcome);
            }
            Some(doing) => target.staged(now, doing, outcome),
            None => {}
        }
        self.end_swap(now);
    }

    /// The swap is over when the last one is.
    fn end_swap(&mut self, now: Moment) {
        let is_swapping = |target: &Target| target.is_at(Step::Swapping);
        if self.phase != Phase::Swapping || self.targets.values().any(is_swapping) {
            return;
        }
        self.phase = Phase::Open;
        // After a restart a file may not have been looked at yet.
        let is_sure =
            |target: &Target| target.place.hash().is_some() || target.memory.written.is_none();
        if !std::mem::take(&mut self.failed) && self.targets.values().all(is_sure) {
            self.close();
        }
        // A new content may be what a failing reload needs: it is a new cause, not another try.
        self.reload.at = now;
        self.verify.at = now;
        self.verify.failed = None;
        self.verify.backoff.reset();
    }

    /// The files are of one transaction.
    fn close(&mut self) {
        self.open = false;
        for target in self.targets.values_mut() {
            target.memory.open = false;
        }
    }

    fn kept(&mut self, number: u64) {
        self.kept = self.kept.max(number);
        if !matches!(self.phase, Phase::Keeping(awaited) if awaited <= number) {
            return;
        }
        if self.targets.values().any(Target::is_back) {
            self.phase = Phase::Open;
            for target in self.targets.values_mut() {
                target.abandon();
            }
        } else {
            self.swap();
        }
    }

    /// Puts in place what is intended.
    fn swap(&mut self) {
        self.phase = Phase::Open;
        for (slot, target) in &mut self.targets {
            if let Some(doing) = &mut target.doing
                && doing.step == Step::Intended
            {
                doing.step = Step::Swapping;
                self.phase = Phase::Swapping;
                self.due.push_back(Effect::Swap { slot: *slot });
            }
        }
    }

    fn reloaded(&mut self, now: Moment, outcome: Result<(), String>) {
        let Some(covered) = self.reload.running.take() else {
            return;
        };
        let is_well = outcome.is_ok();
        let targets = self.targets.iter_mut();
        let memories = targets.map(|(slot, target)| (slot, &mut target.memory));
        for (slot, memory) in memories.chain(self.gone.iter_mut()) {
            if covered.contains(slot) && memory.owes() {
                if is_well {
                    memory.reloaded.clone_from(&memory.written);
                    memory.attempts = 0;
                } else {
                    memory.attempts = memory.attempts.saturating_add(1);
                }
            }
        }
        match outcome {
            Ok(()) => {
                self.reload.failed = None;
                self.reload.backoff.reset();
                self.verify.at = now;
            }
            Err(why) => {
                self.reload.at = now + self.reload.backoff.next_wait();
                self.reload.since = now;
                self.reload.failed = Some(why);
            }
        }
    }

    fn verified(&mut self, now: Moment, round: u64, outcome: Result<(), String>) {
        if !self.verify.running || round != self.verify.round {
            return;
        }
        self.verify.running = false;
        let Err(why) = outcome else {
            self.verify.failed = None;
            self.verify.backoff.reset();
            for target in self.targets.values_mut() {
                target.accept();
            }
            return;
        };
        let targets = self.targets.values();
        let mut changed = targets.filter(|target| target.is_changed()).peekable();
        let can_return =
            changed.peek().is_some() && changed.all(|target| target.good.hash().is_some());
        if can_return {
            for target in self.targets.values_mut() {
                if target.is_changed() {
                    target.roll_back(&why);
                } else if self.open && target.place.hash() != target.good.hash() {
                    target.restore |= target.good.hash().is_some();
                }
            }
        } else {
            self.verify.at = now + self.verify.backoff.next_wait();
            self.verify.failed = Some(why);
        }
    }

    fn retry(&mut self, now: Moment) {
        for target in self.targets.values_mut() {
            target.retry();
        }
        self.reload.at = now;
        self.reload.backoff.reset();
        self.verify.at = now;
        self.verify.backoff.reset();
    }

    /// Why one of several is not valid, and which: the others wait for it.
    fn held(&self) -> Option<(&Arc<str>, &String)> {
        if self.targets.len() < 2 {
            return None;
        }
        self.targets
            .values()
            // What an earlier run has kept says nothing of what the registry wants.
            .filter(|target| !target.is_from_snapshot())
            .find_map(|target| match &target.verdict {
                Verdict::Rejected(why) | Verdict::Failed(why) => Some((&target.rules.name, why)),
                Verdict::Fine | Verdict::RolledBack(_) => None,
            })
    }

    /// Does what is due now.
    fn step(&mut self, now: Moment) {
        self.burst = self
            .burst
            .filter(|burst| now < burst.ends(self.quiet, self.longest));
        for target in self.targets.values_mut() {
            if target.retry_at.is_some_and(|at| at <= now) {
                target.retry_at = None;
                target.due |= !target.restore;
            }
        }
        loop {
            self.look_at_holders();
            self.begin();
            if !self.decide(now) {
                break;
            }
        }
        self.commit();
        self.keep();
        if !self.reload.asked && self.reload_at().is_some_and(|at| at <= now) {
            self.reload.asked = true;
            let is_back = |target: &Target| target.memory.owes() && target.memory.refused.is_some();
            self.due.push_back(Effect::Ask {
                is_first: !self.is_settled,
                is_return: self.targets.values().any(is_back),
            });
        }
        if self.verify_at().is_some_and(|at| at <= now) {
            self.verify.round += 1;
            self.verify.running = true;
            let round = self.verify.round;
            self.due.push_back(Effect::Verify { round });
        }
        self.tell();
        let is_quiet = |target: &Target| {
            target.doing.is_none() && !target.due && !matches!(target.wanted, Wanted::Unknown)
        };
        self.is_settled |= !self.targets.is_empty()
            && !self.owes()
            && self.reload.running.is_none()
            && self.targets.values().all(is_quiet);
    }

    /// The application may be told.
    fn turn(&mut self, now: Moment) {
        if !std::mem::take(&mut self.reload.asked) {
            return;
        }
        if self.reload_at().is_some_and(|at| at <= now) {
            let targets = self.targets.keys().chain(self.gone.keys());
            self.reload.running = Some(targets.copied().collect());
            self.due.push_back(Effect::Reload);
        } else {
            self.due.push_back(Effect::Pass);
        }
    }

    /// Those who wait need not any more, or files that may be of two transactions go back.
    fn look_at_holders(&mut self) {
        let is_held = self.held().is_some();
        if !is_held {
            for target in self.targets.values_mut() {
                target.due |= std::mem::take(&mut target.waits);
            }
        }
        if !self.open || self.phase != Phase::Open {
            return;
        }
        let is_settled = self.targets.values().all(|target| {
            let is_known = !matches!(target.wanted, Wanted::Unknown);
            let is_quiet = target.doing.is_none() && !target.due && !target.restore;
            is_quiet && (is_known || target.unreachable.is_some())
        });
        if is_held {
            let mut is_over = true;
            for target in self.targets.values_mut() {
                if target.good.hash().is_some() && target.place.hash() != target.good.hash() {
                    is_over = false;
                    target.restore = true;
                    target.waits |= matches!(target.verdict, Verdict::Fine) && target.is_aimed();
                }
            }
            if is_over {
                self.close();
            }
        } else if is_settled {
            self.close();
        }
    }

    /// Begins to stage what is due.
    fn begin(&mut self) {
        let restores = self.targets.values().any(|target| target.restore);
        self.waves += 1;
        for (slot, target) in &mut self.targets {
            target.wave = self.waves;
            if target.doing.is_some() {
                continue;
            }
            if target.restore {
                if target.retry_at.is_none() {
                    let effect = target.restore(*slot);
                    self.due.push_back(effect);
                }
            } else if target.due && self.burst.is_none() && !restores {
                target.due = false;
                self.due.extend(target.begin(*slot));
            }
        }
    }

    /// Once all is staged: swaps it in, all or none; true when there is more to be staged first.
    fn decide(&mut self, now: Moment) -> bool {
        let targets = self.targets.values();
        if self.phase != Phase::Open
            || self.reload.running.is_some()
            || targets.clone().any(|target| target.is_at(Step::Staging))
            || !targets.clone().any(|target| target.is_at(Step::Ready))
        {
            return false;
        }
        let restores = targets.clone().any(|target| target.restore);
        let is_held = self.held().is_some();
        let moves = targets.clone().any(Target::moves);
        // Who cannot be put back yet is waited for, and so is who is in the burst.
        let is_awaited = |target: &Target| {
            target.doing.is_none() && (target.restore || (moves && !restores && target.due))
        };
        if targets.clone().any(is_awaited) {
            return false;
        }
        // A content that is not wanted any more is swapped in all the same, or a source that never rests would never be: but only
        // beside those that were wanted with it.
        let last = targets.clone().filter_map(Target::wave).max();
        // Nor when what is wanted now is there already: a word that was taken back at once turns no file back.
        let is_back = targets.clone().any(Target::is_back);
        let mut more = false;
        for (slot, target) in &mut self.targets {
            if target.is_stale() && (is_back || target.wave() < last) {
                target.doing = None;
                more = true;
                self.due.push_back(Effect::Discard { slot: *slot });
            }
        }
        if more {
            return true;
        }
        if moves && !restores && !is_held {
            // The contents are refused together: one that changed is a new cause for the others.
            for (slot, target) in &mut self.targets {
                more |= target.forgive(*slot, &mut self.due);
            }
            if more {
                return true;
            }
        }
        for (slot, target) in &mut self.targets {
            let is_left = target.restore && target.wave().is_some();
            if is_left || (target.moves() && (restores || is_held)) {
                target.doing = None;
                target.waits = !target.is_refused();
                more = true;
                self.due.push_back(Effect::Discard { slot: *slot });
            }
        }
        if more {
            return true;
        }
        let is_first = !self.owes();
        let several = self.targets.len() > 1;
        let mut any = false;
        for target in self.targets.values_mut() {
            any |= target.intend(several, self.has_reload);
        }
        if !any {
            return false;
        }
        if is_first {
            self.reload.since = now;
        }
        self.open |= several;
        self.verify.running = false;
        self.keep();
        if self.keeps > self.kept {
            self.phase = Phase::Keeping(self.keeps);
        } else {
            self.swap();
        }
        false
    }

    /// What is in the files is good, when nothing is to be done any more.
    fn commit(&mut self) {
        let is_settled = |target: &Target| target.doing.is_none() && !target.restore;
        let verifies = self.verifies();
        let mut targets = self.targets.values();
        if self.open
            || self.phase != Phase::Open
            || !targets.clone().all(is_settled)
            || (verifies && !targets.all(|target| target.memory.is_verified()))
        {
            return;
        }
        let for_return = verifies || self.targets.len() > 1;
        for (slot, target) in &mut self.targets {
            if target.place.hash().is_none() || target.good.hash() == target.place.hash() {
                continue;
            }
            target.good = target.place.clone();
            target.memory.good = target.good.hash().map(str::to_owned);
            if let InPlace::Content(content) = &target.good {
                self.due.push_back(Effect::Commit {
                    slot: *slot,
                    content: content.clone(),
                    for_return,
                });
            }
        }
    }

    /// Has kept what changed.
    fn keep(&mut self) {
        if !self.remembers() {
            return;
        }
        let mut memories = Vec::new();
        for (slot, target) in &mut self.targets {
            if target.memory.differs(&target.kept) {
                target.memory.wanted = target.wanted_hash().map(str::to_owned);
                target.kept = target.memory.clone();
                memories.push((*slot, target.memory.clone()));
            }
        }
        self.gone.retain(|slot, memory| {
            let owes = memory.owes();
            if !owes {
                memories.push((*slot, memory.clone()));
            }
            owes
        });
        if !memories.is_empty() {
            self.keeps += 1;
            let number = self.keeps;
            self.due.push_back(Effect::Keep { number, memories });
        }
    }

    /// When the reload may begin; `None` when none is due, or something else must be over before.
    fn reload_at(&self) -> Option<Moment> {
        if !self.owes() || self.reload.running.is_some() || self.phase != Phase::Open {
            return None;
        }
        let is_busy = self.targets.values().any(|target| {
            target.doing.is_some()
                || (target.due && target.place.hash().is_none())
                || target.restore
                || (target.memory.owes() && matches!(target.wanted, Wanted::Unknown))
        });
        Some(if is_busy {
            self.reload.at.max(self.reload.since + PATIENCE)
        } else {
            self.reload.at
        })
    }

    /// When the application may be asked how it is.
    fn verify_at(&self) -> Option<Moment> {
        let mut targets = self.targets.values();
        let is_due = self.verifies()
            && !self.verify.running
            && !self.owes()
            && self.reload.running.is_none()
            && self.phase == Phase::Open
            // That it is well with files of two transactions would say nothing.
            && !self.open
            && !targets.clone().any(|target| target.restore)
            && targets.any(|target| !target.memory.is_verified());
        is_due.then_some(self.verify.at)
    }

    fn tell(&mut self) {
        let verifies = self.verifies();
        let holder = self
            .held()
            .map(|(name, why)| format!("waits for {name}: {why}"));
        for (slot, target) in &mut self.targets {
            let owes = if self.has_reload && target.memory.owes() {
                Some(match &self.reload.failed {
                    Some(why) => format!("written; the reload failed and is tried again: {why}"),
                    None => "written; the reload is due".to_owned(),
                })
            } else if verifies && !target.memory.is_verified() {
                Some(match &self.verify.failed {
                    Some(why) if target.good.hash().is_none() => format!(
                        "written; the application is not well with it, and no content before it is known: {why}"
                    ),
                    Some(why) if !target.is_changed() => format!(
                        "written; the application is not well with what was good before: {why}"
                    ),
                    Some(why) => format!(
                        "written; the application is not well, and another file has no content before it: {why}"
                    ),
                    None => "written; the application is being asked whether it is well".to_owned(),
                })
            } else {
                None
            };
            let Some((state, reason)) = target.standing(owes, holder.as_ref()) else {
                continue;
            };
            target.applied_once |= target.is_in_place();
            let standing = Standing {
                state,
                reason,
                applied_once: target.applied_once,
                md5: match &target.place {
                    InPlace::Content(content) => Some(Arc::clone(&content.md5)),
                    InPlace::Unknown | InPlace::Nothing => None,
                },
            };
            if standing != target.told {
                target.told = standing.clone();
                self.due.push_back(Effect::Tell {
                    slot: *slot,
                    standing,
                });
            }
        }
    }
}

impl Target {
    fn new(rules: Rules, past: Past, seed: u64) -> Self {
        let Past { memory, good } = past;
        let good = match good {
            _ if memory.good.as_deref() == Some(GONE) => InPlace::Nothing,
            Some(content) => InPlace::Content(content),
            None => InPlace::Unknown,
        };
        Self {
            rules,
            wanted: Wanted::Unknown,
            unreachable: None,
            verdict: Verdict::Fine,
            due: false,
            restore: false,
            waits: false,
            doing: None,
            wave: 0,
            retry_at: None,
            backoff: Backoff::new(RETRY, seed),
            place: InPlace::Unknown,
            good,
            kept: memory.clone(),
            memory,
            applied_once: false,
            told: Standing {
                state: TargetState::Waiting,
                reason: None,
                applied_once: false,
                md5: None,
            },
        }
    }

    fn is_at(&self, step: Step) -> bool {
        self.doing.as_ref().is_some_and(|doing| doing.step == step)
    }

    /// Whether what is ready is another content than the one that was last written.
    fn moves(&self) -> bool {
        self.doing.as_ref().is_some_and(|doing| {
            doing.step == Step::Ready
                && doing.aim == Aim::Wanted
                && self.memory.written.as_deref() != Some(hash_of(doing.content.as_ref()))
        })
    }

    /// Which look began what is ready of what is wanted.
    fn wave(&self) -> Option<u64> {
        let doing = self.doing.as_ref()?;
        let is_ready = doing.aim == Aim::Wanted && doing.step == Step::Ready;
        is_ready.then_some(doing.wave)
    }

    /// Whether what is ready is not what is wanted any more.
    fn is_stale(&self) -> bool {
        let doing = self.doing.as_ref().filter(|_| self.wave().is_some());
        doing.is_some_and(|doing| self.wanted_hash() != Some(hash_of(doing.content.as_ref())))
    }

    /// Whether what is about to be swapped in is not wanted any more, because what is there is.
    fn is_back(&self) -> bool {
        let there = self.place.hash();
        self.doing.as_ref().is_some_and(|doing| {
            doing.aim == Aim::Wanted
                && matches!(doing.step, Step::Ready | Step::Intended)
                && there.is_some()
                && there == self.wanted_hash()
                && there != Some(hash_of(doing.content.as_ref()))
        })
    }

    /// What was intended is only ready again.
    fn abandon(&mut self) {
        if let Some(doing) = self.doing.as_mut()
            && doing.step == Step::Intended
        {
            doing.step = Step::Ready;
            let before = std::mem::take(&mut doing.before);
            self.undo(before);
        }
    }

    /// What was remembered before a swap that did not happen.
    fn undo(&mut self, before: Memory) {
        let now_known = std::mem::take(&mut self.memory);
        self.memory = Memory {
            open: now_known.open,
            refused: now_known.refused,
            ..before
        };
    }

    /// Whether what is written is not what was good.
    fn is_changed(&self) -> bool {
        self.memory.written.is_some() && self.memory.written.as_deref() != self.good.hash()
    }

    fn is_refused(&self) -> bool {
        matches!(self.verdict, Verdict::RolledBack(_))
    }

    fn is_from_snapshot(&self) -> bool {
        matches!(
            self.wanted,
            Wanted::Content {
                from_snapshot: true,
                ..
            }
        )
    }

    fn wanted_hash(&self) -> Option<&str> {
        match &self.wanted {
            Wanted::Unknown => None,
            Wanted::Content { content, .. } => Some(&content.md5),
            Wanted::Absent => Some(GONE),
        }
    }

    /// Whether there is something that the file is to have.
    fn is_aimed(&self) -> bool {
        match &self.wanted {
            Wanted::Unknown => false,
            Wanted::Content { .. } => true,
            Wanted::Absent => self.rules.on_absent == OnAbsent::Remove,
        }
    }

    /// Takes note of the content to have; whether there is something to do.
    fn want(&mut self, content: Content, from_snapshot: bool) -> bool {
        if let Wanted::Content {
            content: wanted,
            from_snapshot: whence,
        } = &mut self.wanted
            && wanted.md5 == content.md5
        {
            *whence = from_snapshot;
            return false;
        }
        let fits = self.fits(&content);
        let refused = self.refused(&content.md5, from_snapshot);
        self.due = fits && refused.is_none();
        self.verdict = match refused {
            _ if !fits => {
                let (size, limit) = (content.bytes.len(), self.rules.max_size);
                let why = format!("the content has {size} bytes; `max_size` is {limit}");
                Verdict::Rejected(why)
            }
            Some(why) => Verdict::RolledBack(why),
            None => Verdict::Fine,
        };
        self.wanted = Wanted::Content {
            content,
            from_snapshot,
        };
        self.retry_at = None;
        self.waits = false;
        self.backoff.reset();
        self.due
    }

    /// Why this was taken back, if it was; then the file is looked at, because it may not have been done. Another content is a
    /// new cause, unless it is only what an earlier run remembers.
    fn refused(&mut self, hash: &str, from_snapshot: bool) -> Option<String> {
        let why = self.memory.refused.as_ref();
        let why = why.filter(|refused| refused.hash == hash);
        let why = why.map(|refused| refused.why.clone());
        if why.is_some() {
            self.restore = self.good.hash().is_some();
        } else if !from_snapshot {
            self.memory.refused = None;
        }
        why
    }

    fn fits(&self, content: &Content) -> bool {
        u64::try_from(content.bytes.len()).is_ok_and(|size| size <= self.rules.max_size)
    }

    /// Takes note that there is no such configuration; whether there is something to do.
    fn want_nothing(&mut self) -> bool {
        if matches!(self.wanted, Wanted::Absent) {
            return false;
        }
        let refused = self.refused(GONE, false);
        self.wanted = Wanted::Absent;
        self.retry_at = None;
        self.waits = false;
        self.backoff.reset();
        self.due = self.is_aimed() && refused.is_none();
        self.verdict = refused.map_or(Verdict::Fine, Verdict::RolledBack);
        self.due
    }

    /// Begins to put in place what is wanted.
    fn begin(&mut self, slot: Slot) -> Option<Effect> {
        let content = match &self.wanted {
            Wanted::Content { content, .. } => Some(content.clone()),
            Wanted::Absent if self.is_aimed() => None,
            Wanted::Absent | Wanted::Unknown => return None,
        };
        Some(self.stage(slot, content, Aim::Wanted))
    }

    fn restore(&mut self, slot: Slot) -> Effect {
        let content = match &self.good {
            InPlace::Content(content) => Some(content.clone()),
            InPlace::Unknown | InPlace::Nothing => None,
        };
        self.stage(slot, content, Aim::Restore)
    }

    fn stage(&mut self, slot: Slot, content: Option<Content>, aim: Aim) -> Effect {
        self.doing = Some(Doing {
            content: content.clone(),
            aim,
            step: Step::Staging,
            wave: self.wave,
            before: Memory::default(),
        });
        Effect::Stage {
            slot,
            content,
            check: aim != Aim::Restore,
        }
    }

    /// Looks at the file again, unless something is about to be done with it anyway.
    fn resync(&mut self, slot: Slot) -> Option<Effect> {
        if self.doing.is_some() || self.due || self.restore {
            return None;
        }
        match (&self.verdict, self.last()) {
            (Verdict::Fine, _) if !self.waits => self.begin(slot),
            // A failure has its own retry.
            (Verdict::Failed(_), _) => None,
            (_, InPlace::Content(last)) => {
                let last = Some(last.clone());
                Some(self.stage(slot, last, Aim::Repair))
            }
            (_, InPlace::Nothing) => Some(self.stage(slot, None, Aim::Repair)),
            (_, InPlace::Unknown) => None,
        }
    }

    /// What was written last, as far as that content is at hand.
    fn last(&self) -> &InPlace {
        let written = self.memory.written.as_deref();
        let mut known = [&self.place, &self.good].into_iter();
        known
            .find(|known| written.is_some() && known.hash() == written)
            .unwrap_or(&InPlace::Unknown)
    }

    fn staged(&mut self, now: Moment, mut doing: Doing, outcome: Outcome) {
        let hash = hash_of(doing.content.as_ref());
        let is_wanted = doing.aim == Aim::Wanted && self.wanted_hash() == Some(hash);
        // It may have been wanted, not wanted and wanted again meanwhile.
        self.due &= !is_wanted;
        match outcome {
            Outcome::Unchanged | Outcome::Mended => {
                if self.memory.written.as_deref() != Some(hash) {
                    let is_known = self.memory.written.is_some();
                    self.memory.written = Some(hash.to_owned());
                    // Somebody else wrote it, or nobody knows who: then only what was known before has been told.
                    self.memory.reloaded = (!is_known).then(|| hash.to_owned());
                }
                self.place = InPlace::of(doing.content);
                self.succeed(now, doing.aim, is_wanted);
            }
            Outcome::Staged | Outcome::Swapped => {
                if is_wanted && !self.is_refused() {
                    self.verdict = Verdict::Fine;
                }
                doing.step = Step::Ready;
                self.doing = Some(doing);
            }
            Outcome::Rejected(_) if doing.aim == Aim::Repair => {
                (self.place, self.good) = (InPlace::Unknown, InPlace::Unknown);
            }
            Outcome::Rejected(why) if is_wanted => {
                self.verdict = Verdict::Rejected(why);
                self.retry_at = self
                    .rules
                    .may_relent
                    .then(|| now + self.backoff.next_wait());
            }
            Outcome::Rejected(why) | Outcome::Failed(why) | Outcome::Doubtful(why) => {
                self.failed(now, doing.aim, is_wanted, why);
            }
        }
    }

    /// Whether it was done.
    fn swapped(&mut self, now: Moment, doing: Doing, outcome: Outcome) -> bool {
        let hash = hash_of(doing.content.as_ref());
        let is_wanted = doing.aim == Aim::Wanted && self.wanted_hash() == Some(hash);
        match outcome {
            Outcome::Swapped | Outcome::Unchanged | Outcome::Mended | Outcome::Staged => {
                self.place = InPlace::of(doing.content);
                self.succeed(now, doing.aim, is_wanted);
                true
            }
            Outcome::Rejected(why) | Outcome::Failed(why) => {
                self.undo(doing.before);
                self.failed(now, doing.aim, is_wanted, why);
                false
            }
            Outcome::Doubtful(why) => {
                self.place = InPlace::Unknown;
                self.failed(now, doing.aim, is_wanted, why);
                false
            }
        }
    }

    fn succeed(&mut self, now: Moment, aim: Aim, is_wanted: bool) {
        if aim == Aim::Restore {
            self.restore = false;
            self.due |= matches!(self.verdict, Verdict::Fine) && !self.waits && self.is_aimed();
            // What is wanted was not put in place, and waits for its own try again.
            if matches!(self.verdict, Verdict::Failed(_)) {
                self.retry_at = Some(now + self.backoff.next_wait());
            }
        }
        if is_wanted && !self.is_refused() {
            self.verdict = Verdict::Fine;
            self.backoff.reset();
        }
    }

    fn failed(&mut self, now: Moment, aim: Aim, is_wanted: bool, why: String) {
        match aim {
            Aim::Wanted if is_wanted => {
                self.verdict = Verdict::Failed(why);
                self.retry_at = Some(now + self.backoff.next_wait());
            }
            Aim::Restore => {
                self.retry_at = Some(now + self.backoff.next_wait());
            }
            // What is wanted now is due already; the next resync repairs again.
            Aim::Wanted | Aim::Repair => {}
        }
    }

    /// What is ready is about to be swapped in: notes that it is written and was not told.
    fn intend(&mut self, several: bool, has_reload: bool) -> bool {
        let Some(doing) = self
            .doing
            .as_mut()
            .filter(|doing| doing.step == Step::Ready)
        else {
            return false;
        };
        doing.step = Step::Intended;
        doing.before = self.memory.clone();
        self.memory.written = Some(hash_of(doing.content.as_ref()).to_owned());
        self.memory.reloaded = self.memory.written.clone().filter(|_| !has_reload);
        self.memory.verified = None;
        self.memory.attempts = 0;
        self.memory.open = several;
        true
    }

    /// The application is not well with what is written: it must go.
    fn roll_back(&mut self, why: &str) {
        let written = self.memory.written.clone().unwrap_or_default();
        let is_wanted = self.wanted_hash().map(|hash| hash == written);
        if is_wanted == Some(true) {
            self.verdict = Verdict::RolledBack(why.to_owned());
            self.retry_at = None;
            self.due = false;
            self.waits = false;
        }
        self.memory.refused = is_wanted.unwrap_or(true).then(|| Refused {
            hash: written,
            why: why.to_owned(),
        });
        self.restore = true;
    }

    /// The application is well with what is written.
    fn accept(&mut self) {
        self.memory.verified.clone_from(&self.memory.written);
        let written = self.memory.written.as_deref();
        let refused = self.memory.refused.as_ref();
        if written.is_some() && refused.map(|refused| &*refused.hash) == written {
            self.memory.refused = None;
            if self.is_refused() && self.wanted_hash() == written {
                self.verdict = Verdict::Fine;
            }
        }
    }

    /// Has a content that was taken back tried again; whether there is one.
    fn forgive(&mut self, slot: Slot, effects: &mut VecDeque<Effect>) -> bool {
        if !self.is_refused() {
            return false;
        }
        if self.doing.take().is_some() {
            effects.push_back(Effect::Discard { slot });
        }
        self.verdict = Verdict::Fine;
        self.memory.refused = None;
        self.due = true;
        true
    }

    fn retry(&mut self) {
        let again = match &self.wanted {
            Wanted::Content { content, .. } => self.fits(content),
            Wanted::Absent => self.is_aimed(),
            Wanted::Unknown => false,
        };
        self.retry_at = None;
        self.backoff.reset();
        self.memory.refused = None;
        if again && !matches!(self.verdict, Verdict::Fine) {
            self.verdict = Verdict::Fine;
            self.due = true;
        }
    }

    fn is_in_place(&self) -> bool {
        match (&self.wanted, &self.place) {
            (Wanted::Content { content, .. }, InPlace::Content(there)) => there.md5 == content.md5,
            (Wanted::Absent, InPlace::Nothing) => true,
            _ => false,
        }
    }

    /// State and reason; `None` while nothing new can be said because something is under way.
    fn standing(
        &self,
        owes: Option<String>,
        holder: Option<&String>,
    ) -> Option<(TargetState, Option<String>)> {
        let pending = |why: &String| Some((TargetState::Pending, Some(why.clone())));
        let missing = |what: &str| {
            let reason = format!("the registry has no such configuration; {what}");
            // A reload that is due is never passed over in silence.
            let reason = match &owes {
                Some(owes) => format!("{reason}; what it has is {owes}"),
                None => reason,
            };
            Some((TargetState::Missing, Some(reason)))
        };
        match (&self.wanted, &self.verdict) {
            (Wanted::Unknown, _) => Some(match &self.unreachable {
                Some(why) => (TargetState::Unreachable, Some(why.clone())),
                None => (TargetState::Waiting, None),
            }),
            (_, Verdict::RolledBack(why)) => {
                let then = match &owes {
                    _ if self.restore => "; the content before it is being put back".to_owned(),
                    Some(owes) => format!("; the content before it is {owes}"),
                    None => "; the file has the content before it".to_owned(),
                };
                let reason = format!("the application was not well with it: {why}{then}");
                Some((TargetState::RolledBack, Some(reason)))
            }
            (Wanted::Absent, Verdict::Failed(why)) => pending(why),
            (_, Verdict::Fine) if self.waits && holder.is_some() => holder.and_then(pending),
            (Wanted::Absent, _) => match self.rules.on_absent {
                OnAbsent::Keep => missing("the file stays as it is"),
                OnAbsent::Fail => missing("the file stays, but `on_absent: fail` wants one"),
                OnAbsent::Remove if !matches!(self.place, InPlace::Nothing) => None,
                OnAbsent::Remove => match owes.clone() {
                    Some(why) => Some((TargetState::Pending, Some(why))),
                    None => missing("the file is removed"),
                },
            },
            (Wanted::Content { .. }, Verdict::Rejected(why)) => {
                let reason = match &owes {
                    Some(owes) => format!("{why}; what the file has is {owes}"),
                    None => why.clone(),
                };
                Some((TargetState::Rejected, Some(reason)))
            }
            (Wanted::Content { .. }, Verdict::Failed(why)) => pending(why),
            (Wanted::Content { from_snapshot, .. }, Verdict::Fine) => {
                if !self.is_in_place() {
                    return None;
                }
                Some(match owes {
                    Some(why) => (TargetState::Pending, Some(why)),
                    None => (
                        TargetState::Applied,
                        from_snapshot
                            .then(|| "from the snapshot of an earlier run; the registry has not said anything yet".to_owned()),
                    ),
                })
            }
        }
    }
}

impl Machine for Group {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Wanted { slot, rules, past } => self.wanted(now, slot, rules, *past),
            Event::LetGo { slot } => self.let_go(now, slot),
            Event::Known { slot, state } => self.known(now, slot, state),
            Event::Remembered { slot, content } => self.remembered(now, slot, content),
            Event::Done { slot, outcome } => self.done(now, slot, outcome),
            Event::Kept(number) => self.kept(number),
            Event::Turn => self.turn(now),
            Event::Reloaded(outcome) => self.reloaded(now, outcome),
            Event::Verified { round, outcome } => self.verified(now, round, outcome),
            Event::Resync => {
                for (slot, target) in &mut self.targets {
                    self.due.extend(target.resync(*slot));
                }
            }
            Event::Retry => self.retry(now),
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let burst = self.burst.map(|burst| burst.ends(self.quiet, self.longest));
        let retries = self.targets.values().filter_map(|target| target.retry_at);
        retries
            .chain(burst)
            .chain(self.reload_at().filter(|_| !self.reload.asked))
            .chain(self.verify_at())
            .min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Not valid.
    const BAD: &str = "bad";
    /// Valid, but the application is not well with it.
    const ILL: &str = "ill";
    const LONG: &str = "123456789";

    fn content(text: &str) -> Content {
        Content {
            bytes: text.as_bytes().into(),
            md5: text.into(),
            ..Content::of(Vec::new())
        }
    }

    fn rules(on_absent: OnAbsent) -> Rules {
        Rules {
            name: "/a".into(),
            on_absent,
            max_size: 8,
            may_relent: false,
            verifies: false,
        }
    }

    /// What takes time.
    #[derive(Clone, Debug, PartialEq)]
    enum Job {
        Stage(Slot, Option<Content>, bool),
        Swap(Slot),
        Keep(u64, BTreeMap<Slot, Memory>),
        Turn,
        Reload,
        Verify(u64),
    }

    /// A group with its files, its ledger and its application, in virtual time.
    struct World {
        group: Group,
        has_reload: bool,
        all: Vec<Rules>,
        seed: u64,
        now: Moment,
        files: BTreeMap<Slot, Arc<str>>,
        /// What the application has loaded.
        loaded: BTreeMap<Slot, Arc<str>>,
        jobs: Vec<(Moment, Job)>,
        staged: BTreeMap<Slot, Option<Content>>,
        /// What was handed out to be kept, and what is.
        memories: BTreeMap<Slot, Memory>,
        ledger: BTreeMap<Slot, Memory>,
        kept: u64,
        good: BTreeMap<Slot, Content>,
        chance: u64,
        stages_fail: bool,
        swaps_fail: bool,
        reloads_fail: bool,
        /// How often each content was tried for each target.
        tried: BTreeMap<(Slot, Arc<str>), u32>,
        written: Vec<(Moment, Slot, Arc<str>)>,
        reloads: Vec<(Moment, bool)>,
        verified: u32,
        keeps: u32,
        told: BTreeMap<Slot, Standing>,
        slowest: u64,
        /// How long a turn to reload is waited for at most, ms.
        slowest_turn: u64,
        /// What must not be swapped in, before something new comes.
        refused: BTreeSet<(Slot, String)>,
        /// When something new came last, and when the application loaded last.
        news: Moment,
        loads: Moment,
    }

    impl World {
        fn new(has_reload: bool, all: &[OnAbsent], seed: u64) -> Self {
            Self::with(has_reload, all.iter().copied().map(rules).collect(), seed)
        }

        fn verifying(targets: usize, seed: u64) -> Self {
            let rules = Rules {
                verifies: true,
                ..rules(OnAbsent::Keep)
            };
            Self::with(true, vec![rules; targets], seed)
        }

        fn with(has_reload: bool, all: Vec<Rules>, seed: u64) -> Self {
            let mut world = Self {
                group: Group::new(has_reload, seed),
                has_reload,
                all,
                seed,
                now: Moment::ZERO,
                files: BTreeMap::new(),
                loaded: BTreeMap::new(),
                jobs: Vec::new(),
                staged: BTreeMap::new(),
                memories: BTreeMap::new(),
                ledger: BTreeMap::new(),
                kept: 0,
                good: BTreeMap::new(),
                chance: seed,
                stages_fail: false,
                swaps_fail: false,
                reloads_fail: false,
                tried: BTreeMap::new(),
                written: Vec::new(),
                reloads: Vec::new(),
                verified: 0,
                keeps: 0,
                told: BTreeMap::new(),
                slowest: 5,
                slowest_turn: 0,
                refused: BTreeSet::new(),
                news: Moment::ZERO,
                loads: Moment::ZERO,
            };
            world.start();
            world
        }

        fn start(&mut self) {
            self.group = Group::new(self.has_reload, self.seed);
            for (number, rules) in (0..).zip(self.all.clone()) {
                let slot = Slot(number);
                let past = Past {
                    memory: self.ledger.get(&slot).cloned().unwrap_or_default(),
                    good: self.good.get(&slot).cloned(),
                };
                self.tell(Event::Wanted {
                    slot,
                    rules,
                    past: Box::new(past),
                });
            }
        }

        fn throw(&mut self, below: u64) -> u64 {
            self.chance = self
                .chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.chance >> 33) % below
        }

        /// `kill -9`, and the next run: what was under way was done, or not.
        fn crash(&mut self) {
            let mut jobs = std::mem::take(&mut self.jobs);
            jobs.sort_by_key(|(at, _)| *at);
            let mut is_kept = true;
            for (_, job) in jobs {
                let done = self.throw(2) == 0;
                match job {
                    Job::Swap(slot) if done => {
                        self.put(slot);
                    }
                    Job::Keep(number, memories) => {
                        is_kept &= done;
                        if is_kept {
                            self.keep(number, memories);
                        }
                    }
                    Job::Reload if done => self.load(),
                    _ => {}
                }
            }
            self.staged.clear();
            self.memories = self.ledger.clone();
            self.kept = 0;
            self.told.clear();
            self.seed = self.seed.wrapping_add(1);
            self.start();
        }

        fn tell(&mut self, event: Event) {
            self.group.handle(self.now, event);
            self.drain();
        }

        fn known(&mut self, slot: u64, text: &str) {
            let slot = Slot(slot);
            self.forget_refused();
            self.tell(Event::Known {
                slot,
                state: ConfigState::Present(content(text)),
            });
        }

        fn forget_refused(&mut self) {
            self.refused.clear();
            self.news = self.now;
        }

        fn drain(&mut self) {
            while let Some(effect) = self.group.effect() {
                let took = Duration::from_millis(1 + self.throw(self.slowest));
                let job = match effect {
                    Effect::Tell { slot, standing } => {
                        let before = self.told.insert(slot, standing.clone());
                        assert_ne!(before, Some(standing), "only changes are told");
                        continue;
                    }
                    Effect::Commit {
                        slot,
                        content,
                        for_return,
                    } => {
                        if for_return {
                            self.good.insert(slot, content);
                        }
                        continue;
                    }
                    Effect::Discard { slot } => {
                        assert!(self.staged.remove(&slot).is_some());
                        continue;
                    }
                    Effect::Stage {
                        slot,
                        content,
                        check,
                    } => {
                        if let Some(content) = &content {
                            let key = (slot, Arc::clone(&content.md5));
                            *self.tried.entry(key).or_default() += 1;
                        }
                        assert!(!self.staged.contains_key(&slot), "{slot:?} is ready");
                        Job::Stage(slot, content, check)
                    }
                    Effect::Keep { number, memories } => {
                        self.keeps += 1;
                        self.memories.extend(memories);
                        Job::Keep(number, self.memories.clone())
                    }
                    Effect::Swap { slot } => Job::Swap(slot),
                    Effect::Ask { .. } if self.slowest_turn == 0 => {
                        self.group.handle(self.now, Event::Turn);
                        continue;
                    }
                    Effect::Ask { .. } => {
                        assert!(
                            !self.jobs.iter().any(|(_, job)| *job == Job::Turn),
                            "asked twice"
                        );
                        let at = self.now + Duration::from_millis(self.throw(self.slowest_turn));
                        self.jobs.push((at, Job::Turn));
                        continue;
                    }
                    Effect::Pass => {
                        assert!(self.slowest_turn > 0, "who asked for a turn takes it");
                        continue;
                    }
                    Effect::Reload => {
                        assert!(
                            self.memories.values().any(Memory::owes),
                            "a reload without a cause"
                        );
                        Job::Reload
                    }
                    Effect::Verify { round } => {
                        self.jobs.retain(|(_, job)| !matches!(job, Job::Verify(_)));
                        Job::Verify(round)
                    }
                };
                let whose = |job: &Job| match job {
                    Job::Stage(slot, ..) | Job::Swap(slot) => Some(*slot),
                    Job::Reload => Some(Slot(u64::MAX)),
                    _ => None,
                };
                assert!(
                    whose(&job).is_none()
                        || self.jobs.iter().all(|(_, busy)| whose(busy) != whose(&job)),
                    "two jobs at once: {job:?}"
                );
                let is_swap = |job: &Job| matches!(job, Job::Swap(_));
                let mut others = self.jobs.iter().map(|(_, job)| job);
                let is_disturbed = match &job {
                    Job::Swap(_) => others.any(|job| *job == Job::Reload),
                    Job::Reload => others.any(is_swap),
                    _ => false,
                };
                assert!(!is_disturbed, "a swap during a reload");
                // The ledger is one file: what was kept first is there first.
                let after = match &job {
                    Job::Keep(..) => {
                        let keeps = self
                            .jobs
                            .iter()
                            .filter(|(_, job)| matches!(job, Job::Keep(..)));
                        keeps.map(|(at, _)| *at).max().unwrap_or_default()
                    }
                    _ => Moment::ZERO,
                };
                self.jobs.push(((self.now + took).max(after), job));
            }
        }

        fn keep(&mut self, number: u64, memories: BTreeMap<Slot, Memory>) {
            self.kept = number;
            for (slot, memory) in &memories {
                let before = self.ledger.get(slot);
                // What came after the application had loaded is a new cause.
                if let Some(refused) = memory
                    .refused
                    .as_ref()
                    .filter(|_| self.news < self.loads && !memory.open)
                    && before.is_none_or(|before| before.refused != memory.refused)
                {
                    self.refused.insert((*slot, refused.hash.clone()));
                }
            }
            self.ledger = memories;
        }

        fn load(&mut self) {
            self.loaded = self.files.clone();
            self.loads = self.now;
        }

        fn put(&mut self, slot: Slot) {
            let ready = self.staged.remove(&slot).expect("it is staged");
            let hash = hash_of(ready.as_ref());
            if self.group.remembers() {
                let kept = &self.ledger[&slot];
                assert_eq!(kept.written.as_deref(), Some(hash), "kept before");
                assert!(kept.owes() || !self.has_reload, "kept before");
            }
            assert!(
                !self.refused.contains(&(slot, hash.to_owned())),
                "{hash} was taken back"
            );
            self.written.push((self.now, slot, hash.into()));
            match ready {
                Some(content) => _ = self.files.insert(slot, content.md5),
                None => _ = self.files.remove(&slot),
            }
        }

        fn finish(&mut self, job: Job) {
            match job {
                Job::Stage(slot, content, check) => {
                    let there = self.files.get(&slot);
                    let outcome = match &content {
                        content if there == content.as_ref().map(|content| &content.md5) => {
                            Outcome::Unchanged
                        }
                        Some(content) if check && &*content.md5 == BAD => {
                            Outcome::Rejected("not valid".into())
                        }
                        _ if self.stages_fail => Outcome::Failed("no space left".into()),
                        _ => {
                            self.staged.insert(slot, content);
                            Outcome::Staged
                        }
                    };
                    self.tell(Event::Done { slot, outcome });
                }
                Job::Swap(slot) => {
                    let outcome = if self.swaps_fail && self.throw(2) == 0 {
                        if self.throw(4) == 0 {
                            self.put(slot);
                            Outcome::Doubtful("its directory was exchanged".into())
                        } else {
                            self.staged.remove(&slot);
                            Outcome::Failed("no space left".into())
                        }
                    } else {
                        self.put(slot);
                        Outcome::Swapped
                    };
                    self.tell(Event::Done { slot, outcome });
                }
                Job::Keep(number, memories) => {
                    self.keep(number, memories);
                    self.tell(Event::Kept(number));
                }
                Job::Turn => self.tell(Event::Turn),
                Job::Reload => {
                    self.reloads.push((self.now, !self.reloads_fail));
                    let outcome = if self.reloads_fail {
                        Err("exit status 1".into())
                    } else {
                        self.load();
                        Ok(())
                    };
                    self.tell(Event::Reloaded(outcome));
                }
                Job::Verify(round) => {
                    self.verified += 1;
                    let outcome = match self.is_ill() {
                        true => Err("answered 500".to_owned()),
                        false => Ok(()),
                    };
                    self.tell(Event::Verified { round, outcome });
                }
            }
        }

        fn is_ill(&self) -> bool {
            self.loaded.values().any(|text| text.ends_with(ILL))
        }

        /// Lets time pass until `end`, or until nothing is left to do; false when there still is.
        fn run(&mut self, end: Moment) -> bool {
            for _ in 0..100_000 {
                let job = (0..self.jobs.len()).min_by_key(|at| self.jobs[*at].0);
                let job_at = job.map(|at| self.jobs[at].0);
                let Some(next) = job_at.into_iter().chain(self.group.deadline()).min() else {
                    self.now = self.now.max(end);
                    return true;
                };
                if next > end {
                    self.now = end;
                    return false;
                }
                self.now = self.now.max(next);
                match job {
                    Some(at) if job_at == Some(next) => {
                        let (_, job) = self.jobs.remove(at);
                        self.finish(job);
                    }
                    _ => {
                        self.group.wake(self.now);
                        self.drain();
                    }
                }
            }
            panic!("it never comes to rest: {:#?}", self.group);
        }

        fn pass(&mut self, ms: u64) {
            self.run(self.now + Duration::from_millis(ms));
        }

        fn state(&self, slot: u64) -> TargetState {
            self.told
                .get(&Slot(slot))
                .map_or(TargetState::Waiting, |told| told.state)
        }

        fn reason(&self, slot: u64) -> &str {
            self.told[&Slot(slot)].reason.as_deref().unwrap_or_default()
        }

        fn file(&self, slot: u64) -> Option<&str> {
            self.files.get(&Slot(slot)).map(|text| &**text)
        }
    }

    #[test]
    fn a_burst_is_one_reload() {
        let mut world = World::new(true, &[OnAbsent::Keep; 3], 1);
        for slot in 0..3 {
            world.known(slot, "a");
            world.pass(30);
        }
        world.known(0, "b");
        assert!(world.written.is_empty());
        world.pass(5_000);
        assert_eq!((world.written.len(), world.reloads.len()), (3, 1));
        assert_eq!(world.file(0), Some("b"));
        assert!((0..3).all(|slot| world.state(slot) == TargetState::Applied));
    }

    #[test]
    fn what_comes_while_a_turn_is_waited_for_is_gathered_and_a_start_or_a_return_says_so() {
        let mut group = Group::new(true, 1);
        let slot = Slot(0);
        let past = Box::default();
        let rules = rules(OnAbsent::Keep);
        group.handle(Moment::ZERO, Event::Wanted { slot, rules, past });
        let at = Duration::from_secs;
        let mut asked = Vec::new();
        let mut reloads = 0;
        for (second, text) in [(1, "a"), (3, "b"), (5, "c")] {
            let state = ConfigState::Present(content(text));
            group.handle(at(second), Event::Known { slot, state });
            while let Some(effect) = group.effect() {
                match effect {
                    Effect::Stage { .. } => {
                        let outcome = Outcome::Staged;
                        group.handle(at(second), Event::Done { slot, outcome });
                    }
                    Effect::Keep { number, .. } => group.handle(at(second), Event::Kept(number)),
                    Effect::Swap { .. } => {
                        let outcome = Outcome::Swapped;
                        group.handle(at(second), Event::Done { slot, outcome });
                    }
                    Effect::Ask { is_first, .. } => {
                        asked.push((second, is_first));
                        if second == 1 {
                            group.handle(at(second), Event::Turn);
                        }
                    }
                    Effect::Reload => {
                        reloads += 1;
                        group.handle(at(second), Event::Reloaded(Ok(())));
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(asked, [(1, true), (3, false)]);
        assert_eq!((reloads, group.deadline()), (1, None));
        group.handle(at(9), Event::Turn);
        let effects: Vec<Effect> = std::iter::from_fn(|| group.effect()).collect();
        assert_eq!(effects, [Effect::Reload]);
        // A turn that nobody asked for is nobody's.
        group.handle(at(9), Event::Turn);
        assert_eq!(group.effect(), None);
    }

    #[test]
    fn a_change_of_a_target_that_is_alone_is_in_place_at_once() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        for round in 0..5 {
            world.known(0, &round.to_string());
            world.pass(20);
            assert_eq!(world.file(0), Some(&*round.to_string()));
            world.pass(2_000);
        }
        assert_eq!((world.written.len(), world.reloads.len()), (5, 5));
    }

    #[test]
    fn a_source_that_never_rests_is_written_every_half_second_all_the_same() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        for round in 0..100 {
            world.known(0, &round.to_string());
            world.pass(20);
        }
        assert!(
            (3..=5).contains(&world.written.len()),
            "{:?}",
            world.written
        );
        assert!(world.reloads.len() >= 3, "{:?}", world.reloads);
    }

    #[test]
    fn what_is_in_the_file_already_is_not_touched_and_needs_no_reload() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        world.files.insert(Slot(0), "a".into());
        world.known(0, "a");
        assert!(world.run(Duration::from_secs(60)));
        assert!(world.written.is_empty() && world.reloads.is_empty());
        assert_eq!(world.state(0), TargetState::Applied);
        assert_eq!(world.told[&Slot(0)].md5.as_deref(), Some("a"));
    }

    #[test]
    fn a_reload_stays_due_until_it_succeeds_also_when_the_content_goes_back() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        world.files.insert(Slot(0), "a".into());
        world.reloads_fail = true;
        world.known(0, "b");
        world.pass(60_000);
        assert_eq!(world.state(0), TargetState::Pending);
        assert!(world.told[&Slot(0)].applied_once, "the file is there");
        let reason = world.told[&Slot(0)].reason.clone().unwrap();
        assert!(reason.contains("exit status 1"), "{reason}");
        let failed = world.reloads.len();
        assert!((3..=30).contains(&failed), "{failed} reloads in a minute");
        world.known(0, "a");
        world.reloads_fail = false;
        world.pass(600_000);
        assert_eq!(world.state(0), TargetState::Applied);
        assert_eq!(world.reloads.len(), failed + 1);
    }

    #[test]
    fn a_reload_that_is_due_is_told_also_where_there_is_worse_to_tell() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        world.reloads_fail = true;
        world.known(0, "a");
        world.pass(5_000);
        let says = |world: &mut World, state| {
            world.pass(1_000);
            assert_eq!(world.state(0), state);
            let reason = world.told[&Slot(0)].reason.clone().unwrap();
            assert!(reason.contains("exit status 1"), "{reason}");
        };
        world.known(0, BAD);
        says(&mut world, TargetState::Rejected);
        let (slot, state) = (Slot(0), ConfigState::Absent);
        world.tell(Event::Known { slot, state });
        says(&mut world, TargetState::Missing);
    }

    #[test]
    fn a_rejected_content_keeps_the_file_and_is_not_tried_again() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        world.known(0, "a");
        world.pass(5_000);
        world.known(0, BAD);
        assert!(world.run(Duration::from_secs(3_600)));
        assert_eq!(world.file(0), Some("a"));
        assert_eq!(world.state(0), TargetState::Rejected);
        assert_eq!(world.tried[&(Slot(0), BAD.into())], 1);
        // Somebody edits the file meanwhile: the last good content comes back.
        world.files.insert(Slot(0), "edited".into());
        world.tell(Event::Resync);
        world.pass(5_000);
        assert_eq!(world.file(0), Some("a"));
        assert_eq!(world.state(0), TargetState::Rejected);
    }

    #[test]
    fn a_validator_that_may_relent_is_asked_again_with_growing_waits() {
        let mut world = World::new(false, &[], 1);
        let slot = Slot(7);
        world.tell(Event::Wanted {
            slot,
            rules: Rules {
                may_relent: true,
                ..rules(OnAbsent::Keep)
            },
            past: Box::default(),
        });
        world.known(7, BAD);
        world.pass(600_000);
        let tried = world.tried[&(slot, BAD.into())];
        assert!((5..=60).contains(&tried), "{tried} tries in ten minutes");
    }

    #[test]
    fn a_write_that_fails_is_tried_again_and_holds_the_others() {
        let mut world = World::new(true, &[OnAbsent::Keep; 2], 1);
        world.files.insert(Slot(1), "b".into());
        world.stages_fail = true;
        world.known(0, "a");
        world.known(1, "b");
        world.pass(10_000);
        assert_eq!(world.state(0), TargetState::Pending);
        assert_eq!(world.state(1), TargetState::Applied);
        world.stages_fail = false;
        world.pass(120_000);
        assert_eq!(world.state(0), TargetState::Applied);
        assert_eq!(world.reloads.len(), 1);
    }

    #[test]
    fn one_that_is_not_valid_holds_the_others_and_they_say_so() {
        let mut world = World::new(true, &[OnAbsent::Keep; 2], 1);
        world.known(0, "a1");
        world.known(1, "b1");
        world.pass(5_000);
        world.known(0, BAD);
        world.known(1, "b2");
        assert!(world.run(world.now + Duration::from_secs(3_600)));
        assert_eq!((world.file(0), world.file(1)), (Some("a1"), Some("b1")));
        assert_eq!(world.state(0), TargetState::Rejected);
        assert_eq!(world.state(1), TargetState::Pending);
        assert_eq!(world.reason(1), "waits for /a: not valid");
        // Somebody edits what waits: what was there comes back, not what waits.
        world.files.insert(Slot(1), "edited".into());
        world.tell(Event::Resync);
        world.pass(5_000);
        assert_eq!(world.file(1), Some("b1"));
        let before = world.reloads.len();
        world.known(0, "a2");
        world.pass(5_000);
        assert_eq!((world.file(0), world.file(1)), (Some("a2"), Some("b2")));
        assert_eq!(world.reloads.len(), before + 1);
    }

    #[test]
    fn one_that_is_missing_or_cannot_be_asked_for_holds_nobody() {
        let mut world = World::new(true, &[OnAbsent::Keep; 3], 1);
        let states = [
            ConfigState::Absent,
            ConfigState::Unreachable("connection refused".into()),
        ];
        for (slot, state) in (0..).zip(states) {
            let slot = Slot(slot);
            world.tell(Event::Known { slot, state });
        }
        world.known(2, "a");
        world.pass(5_000);
        assert_eq!(world.state(2), TargetState::Applied);
        assert_eq!(world.good.get(&Slot(2)), Some(&content("a")), "it is good");
    }

    #[test]
    fn what_the_application_is_not_well_with_is_taken_back_until_the_source_changes() {
        let mut world = World::verifying(2, 1);
        world.known(0, "a1");
        world.known(1, "b1");
        world.pass(60_000);
        assert!((0..2).all(|slot| world.state(slot) == TargetState::Applied));
        world.known(0, ILL);
        world.known(1, "b2");
        assert!(world.run(world.now + Duration::from_secs(3_600)));
        assert_eq!((world.file(0), world.file(1)), (Some("a1"), Some("b1")));
        assert_eq!(world.loaded, world.files);
        assert!((0..2).all(|slot| world.state(slot) == TargetState::RolledBack));
        assert_eq!(
            world.reason(0),
            "the application was not well with it: answered 500; the file has the content before it"
        );
        // Neither a look nor a restart tries it again.
        let writes = world.written.len();
        world.tell(Event::Resync);
        assert!(world.run(world.now + Duration::from_secs(3_600)));
        world.crash();
        for (slot, text) in [(0, ILL), (1, "b2")] {
            let state = ConfigState::Present(content(text));
            let slot = Slot(slot);
            world.tell(Event::Known { slot, state });
        }
        assert!(world.run(world.now + Duration::from_secs(3_600)));
        assert_eq!(world.written.len(), writes);
        assert!((0..2).all(|slot| world.state(slot) == TargetState::RolledBack));
        // One of the two changes: both are tried, because they belong together.
        world.known(0, "a3");
        assert!(world.run(world.now + Duration::from_secs(3_600)));
        assert_eq!((world.file(0), world.file(1)), (Some("a3"), Some("b2")));
        assert!((0..2).all(|slot| world.state(slot) == TargetState::Applied));
    }

    #[test]
    fn an_operator_may_have_it_tried_again() {
        let mut world = World::verifying(1, 1);
        world.known(0, "a1");
        world.pass(60_000);
        world.known(0, ILL);
        world.pass(60_000);
        assert_eq!(world.state(0), TargetState::RolledBack);
        let writes = world.written.len();
        world.forget_refused();
        world.tell(Event::Retry);
        world.pass(60_000);
        assert_eq!(world.state(0), TargetState::RolledBack);
        assert_eq!(world.written.len(), writes + 2, "there and back");
    }

    #[test]
    fn the_first_content_stays_though_the_application_is_not_well_with_it() {
        let mut world = World::verifying(1, 1);
        world.known(0, ILL);
        world.pass(600_000);
        assert_eq!(world.file(0), Some(ILL));
        assert_eq!(world.state(0), TargetState::Pending);
        assert!(world.told[&Slot(0)].applied_once);
        assert!(world.reason(0).contains("no content before it is known"));
        assert_eq!(world.reloads.len(), 1);
        assert!((4..60).contains(&world.verified), "{}", world.verified);
        world.loaded.clear();
        world.pass(600_000);
        assert_eq!(world.state(0), TargetState::Applied);
    }

    #[test]
    fn a_newer_content_ends_a_verification_and_what_was_good_before_stays_good() {
        let mut world = World::verifying(1, 1);
        world.known(0, "a1");
        world.pass(60_000);
        world.slowest = 30_000;
        world.known(0, "a2");
        while !world
            .jobs
            .iter()
            .any(|(_, job)| matches!(job, Job::Verify(_)))
        {
            world.pass(10);
        }
        world.slowest = 5;
        world.known(0, ILL);
        world.pass(60_000);
        assert_eq!(world.state(0), TargetState::RolledBack);
        assert_eq!(world.file(0), Some("a1"), "a2 was never verified");
    }

    #[test]
    fn a_word_that_is_taken_back_at_once_turns_no_file_back() {
        for pause in 0..12 {
            let mut world = World::new(true, &[OnAbsent::Keep], pause);
            world.known(0, "new");
            world.pass(5_000);
            world.known(0, "old");
            world.pass(pause);
            let is_out = world
                .jobs
                .iter()
                .any(|(_, job)| matches!(job, Job::Swap(_)));
            let is_done = world.written.len() > 1;
            world.known(0, "new");
            world.pass(60_000);
            assert_eq!(world.file(0), Some("new"));
            assert!(world.written.len() == 1 || is_out || is_done);
            assert_eq!(world.state(0), TargetState::Applied);
            assert!(world.ledger.values().all(|memory| !memory.owes()));
        }
    }

    #[test]
    fn a_reload_that_fails_takes_nothing_back() {
        let mut world = World::verifying(1, 1);
        world.known(0, "a1");
        world.pass(60_000);
        world.reloads_fail = true;
        world.known(0, "a2");
        world.pass(600_000);
        assert_eq!(world.file(0), Some("a2"));
        assert_eq!(world.state(0), TargetState::Pending);
        world.crash();
        world.known(0, "a2");
        world.reloads_fail = false;
        world.pass(600_000);
        assert_eq!(world.state(0), TargetState::Applied);
        assert_eq!(world.loaded[&Slot(0)], "a2".into());
    }

    #[test]
    fn a_reload_that_is_due_outlives_a_crash_though_the_registry_is_silent() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        world.reloads_fail = true;
        world.known(0, "a");
        world.pass(1_000);
        world.crash();
        world.reloads_fail = false;
        world.pass(60_000);
        assert_eq!(world.loaded, world.files);
        assert!(world.ledger.values().all(|memory| !memory.owes()));
    }

    #[test]
    fn what_is_remembered_as_unsure_is_told_once() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        world.files.insert(Slot(0), "a".into());
        world.ledger.insert(Slot(0), Memory::unsure());
        world.crash();
        world.known(0, "a");
        world.pass(60_000);
        assert_eq!((world.written.len(), world.reloads.len()), (0, 1));
    }

    #[test]
    fn a_slow_validator_keeps_the_others_from_their_reload_for_five_seconds_only() {
        let mut world = World::new(true, &[OnAbsent::Keep; 2], 1);
        world.reloads_fail = true;
        world.known(0, "a");
        world.pass(200);
        world.reloads_fail = false;
        world.known(1, "c");
        let quiet = Pacing::default().quiet;
        world.group.wake(world.now + quiet);
        world.now += quiet;
        // The job of target 1 takes a minute.
        world.drain();
        for (at, job) in &mut world.jobs {
            if matches!(job, Job::Stage(Slot(1), ..)) {
                *at = world.now + Duration::from_secs(60);
            }
        }
        let before = world.reloads.len();
        world.pass(4_000);
        assert_eq!(world.reloads.len(), before);
        world.pass(1_500);
        assert_eq!(world.reloads.len(), before + 1);
        assert_eq!(world.state(0), TargetState::Applied);
    }

    #[test]
    fn too_large_a_content_is_rejected_without_being_tried() {
        let mut world = World::new(false, &[OnAbsent::Keep], 1);
        world.known(0, "123456789");
        world.pass(5_000);
        assert_eq!(world.state(0), TargetState::Rejected);
        assert_eq!(
            world.told[&Slot(0)].reason.as_deref(),
            Some("the content has 9 bytes; `max_size` is 8")
        );
        assert!(world.tried.is_empty());
    }

    #[test]
    fn absence_keeps_removes_or_fails_as_written() {
        let all = [OnAbsent::Keep, OnAbsent::Remove, OnAbsent::Fail];
        let mut world = World::new(true, &all, 1);
        for slot in 0..3 {
            world.known(slot, "a");
        }
        world.pass(5_000);
        for slot in 0..3 {
            world.tell(Event::Known {
                slot: Slot(slot),
                state: ConfigState::Absent,
            });
        }
        world.pass(5_000);
        assert_eq!(world.file(0), Some("a"));
        assert_eq!(world.file(1), None);
        assert_eq!(world.file(2), Some("a"));
        assert!((0..3).all(|slot| world.state(slot) == TargetState::Missing));
        assert_eq!(world.reloads.len(), 2, "the removal is told");
    }

    #[test]
    fn unreachable_is_said_only_when_nothing_was_applied() {
        let mut world = World::new(false, &[OnAbsent::Keep; 2], 1);
        world.known(0, "a");
        world.pass(1_000);
        for slot in 0..2 {
            world.tell(Event::Known {
                slot: Slot(slot),
                state: ConfigState::Unreachable("connection refused".into()),
            });
        }
        assert_eq!(world.state(0), TargetState::Applied);
        assert_eq!(world.state(1), TargetState::Unreachable);
        world.tell(Event::Remembered {
            slot: Slot(1),
            content: content("old"),
        });
        world.pass(1_000);
        assert_eq!(world.state(1), TargetState::Applied);
        assert!(world.told[&Slot(1)].reason.is_some());
        world.known(1, "old");
        assert_eq!(world.told[&Slot(1)].reason, None);
    }

    #[test]
    fn a_target_that_is_let_go_is_not_told_of_and_the_reload_it_owes_stays_due() {
        let mut world = World::new(true, &[OnAbsent::Keep; 2], 1);
        world.reloads_fail = true;
        world.known(0, "a");
        world.pass(1_000);
        world.tell(Event::LetGo { slot: Slot(0) });
        world.told.clear();
        world.reloads_fail = false;
        assert!(world.run(Duration::from_secs(600)));
        assert_eq!(world.loaded, world.files);
        assert!(world.ledger.values().all(|memory| !memory.owes()));
        assert!(world.told.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Present(u64, usize),
        Absent(u64),
        Unreachable(u64),
        Remembered(u64, usize),
        Edit(u64),
        Resync,
        Retry,
        Crash,
        StagesFail(bool),
        SwapsFail(bool),
        ReloadsFail(bool),
    }

    const TEXTS: [&str; 6] = ["a", "b", "c", BAD, LONG, ILL];

    fn ops() -> impl Strategy<Value = Vec<(u64, Op)>> {
        let op = prop_oneof![
            6 => (0_u64..3, 0..TEXTS.len()).prop_map(|(slot, text)| Op::Present(slot, text)),
            2 => (0_u64..3).prop_map(Op::Absent),
            1 => (0_u64..3).prop_map(Op::Unreachable),
            1 => (0_u64..3, 0..TEXTS.len()).prop_map(|(slot, text)| Op::Remembered(slot, text)),
            1 => (0_u64..3).prop_map(Op::Edit),
            1 => Just(Op::Resync),
            1 => Just(Op::Retry),
            2 => Just(Op::Crash),
            1 => any::<bool>().prop_map(Op::StagesFail),
            1 => any::<bool>().prop_map(Op::SwapsFail),
            1 => any::<bool>().prop_map(Op::ReloadsFail),
        ];
        let pause = prop_oneof![Just(0_u64), 0_u64..80, 0_u64..3_000];
        proptest::collection::vec((pause, op), 0..60)
    }

    fn present(text: &str) -> ConfigState {
        ConfigState::Present(content(text))
    }

    proptest! {
        #[test]
        fn comes_to_rest_with_every_file_right_and_the_application_told(
            ops in ops(),
            seed: u64,
            has_reload: bool,
            verifies: bool,
            slowest in 1_u64..2_000,
        ) {
            let all = [OnAbsent::Keep, OnAbsent::Remove, OnAbsent::Fail];
            let all = all.map(|on_absent| Rules { verifies: verifies && has_reload, ..rules(on_absent) });
            let mut world = World::with(has_reload, all.to_vec(), seed);
            world.slowest_turn = [0, 2_000][usize::from(seed % 2 == 1)];
            world.slowest = slowest;
            let mut last: BTreeMap<u64, Option<&str>> = BTreeMap::new();
            let mut rejections_caused = 0;
            for (pause, op) in ops {
                world.pass(pause);
                match op {
                    Op::Present(slot, text) => {
                        last.insert(slot, Some(TEXTS[text]));
                        rejections_caused += u32::from(TEXTS[text] == BAD);
                        world.known(slot, TEXTS[text]);
                    }
                    Op::Absent(slot) => {
                        last.insert(slot, None);
                        world.forget_refused();
                        world.tell(Event::Known { slot: Slot(slot), state: ConfigState::Absent });
                    }
                    Op::Unreachable(slot) => world.tell(Event::Known {
                        slot: Slot(slot),
                        state: ConfigState::Unreachable("no answer".into()),
                    }),
                    Op::Remembered(slot, text) => {
                        rejections_caused += u32::from(TEXTS[text] == BAD);
                        world.forget_refused();
                        world.tell(Event::Remembered { slot: Slot(slot), content: content(TEXTS[text]) });
                    }
                    Op::Edit(slot) => _ = world.files.insert(Slot(slot), "edited".into()),
                    Op::Resync => world.tell(Event::Resync),
                    Op::Retry => {
                        rejections_caused += 3;
                        world.forget_refused();
                        world.tell(Event::Retry);
                    }
                    Op::Crash => {
                        rejections_caused += 3;
                        world.crash();
                        for (slot, text) in &last {
                            let state = text.map_or(ConfigState::Absent, present);
                            world.tell(Event::Known { slot: Slot(*slot), state });
                        }
                    }
                    Op::StagesFail(fail) => world.stages_fail = fail,
                    Op::SwapsFail(fail) => world.swaps_fail = fail,
                    Op::ReloadsFail(fail) => world.reloads_fail = fail,
                }
                prop_assert!(world.files.values().all(|text| &**text != BAD));
            }
            (world.stages_fail, world.swaps_fail, world.reloads_fail) = (false, false, false);
            // Nobody knows of an edit before somebody looks.
            let hour = Duration::from_secs(3_600);
            let mut rests = world.run(world.now + hour);
            for _ in 0..2 {
                world.tell(Event::Resync);
                rests = world.run(world.now + hour);
            }
            let is_rejected = |text: &str| text == BAD || text == LONG;
            let is_held = last.values().flatten().any(|text| is_rejected(text));
            let is_ill = world.is_ill();
            prop_assert!(rests || is_ill, "it rests within an hour");
            for (slot, want) in &last {
                let (slot, state) = (*slot, world.state(*slot));
                match want {
                    Some(text) if is_rejected(text) => {
                        prop_assert_eq!(state, TargetState::Rejected);
                        prop_assert_ne!(world.file(slot), Some(*text));
                    }
                    Some(text) => {
                        let is_there = world.file(slot) == Some(*text);
                        prop_assert!(is_there == matches!(state, TargetState::Applied | TargetState::Pending)
                            || (is_held && state == TargetState::Pending), "{}: {:?} {:?}", slot, state, world.file(slot));
                        prop_assert!(state != TargetState::RolledBack || verifies);
                        prop_assert!(state == TargetState::Applied || is_held || verifies);
                    }
                    None => {
                        let is_missing = state == TargetState::Missing;
                        prop_assert!(is_missing || is_held || verifies);
                        prop_assert!(slot != 1 || world.file(slot).is_none() || is_held || verifies);
                    }
                }
            }
            let tried_bad: u32 = world.tried.iter().filter(|((_, text), _)| &**text == BAD).map(|(_, count)| *count).sum();
            // One that waits for another is staged again when that one changes.
            prop_assert!(tried_bad <= rejections_caused, "{tried_bad} tries of what was rejected {rejections_caused} times");
            if has_reload {
                // What somebody wrote where nothing is known to be put there nobody tells.
                for (slot, text) in world.files.iter().filter(|(_, text)| &***text != "edited") {
                    prop_assert_eq!(world.loaded.get(slot), Some(text), "the application has what the file has");
                }
                prop_assert!(!world.group.owes());
            } else {
                prop_assert!(world.reloads.is_empty());
            }
            prop_assert_eq!(&world.ledger, &world.memories);
            // At rest nothing happens any more, whatever is looked at again, and at whatever start.
            let before = (world.written.len(), world.reloads.len(), world.keeps);
            world.tell(Event::Resync);
            world.run(world.now + hour);
            prop_assert_eq!(before, (world.written.len(), world.reloads.len(), world.keeps));
            if !is_ill {
                let asked = world.verified;
                world.crash();
                for (slot, text) in &last {
                    let state = text.map_or(ConfigState::Absent, present);
                    world.tell(Event::Known { slot: Slot(*slot), state });
                }
                prop_assert!(world.run(world.now + hour));
                prop_assert_eq!(before, (world.written.len(), world.reloads.len(), world.keeps));
                prop_assert_eq!(asked, world.verified);
            }
        }

        #[test]
        fn two_files_are_of_one_version_whenever_no_transaction_is_under_way(
            ops in proptest::collection::vec((0_u64..4_000, 0_u8..12), 0..40),
            seed: u64,
            verifies: bool,
            slowest in 1_u64..1_000,
        ) {
            let rules = Rules { verifies, ..rules(OnAbsent::Keep) };
            let mut world = World::with(true, vec![rules; 2], seed);
            world.slowest_turn = [0, 2_000][usize::from(seed % 2 == 1)];
            world.slowest = slowest;
            world.known(0, "0");
            world.known(1, "0");
            world.pass(60_000);
            let mut last = ["0".to_owned(), "0".to_owned()];
            let mut rng = seed;
            for (version, (pause, op)) in (1_u32..).zip(ops) {
                let till = world.now + Duration::from_millis(pause);
                while world.now < till {
                    world.run((world.now + Duration::from_millis(7)).min(till));
                    let group = &world.group;
                    let is_under_way = group.open
                        || group.phase != Phase::Open
                        || group.targets.values().any(|target| target.restore);
                    let number = |slot| world.file(slot).unwrap().trim_end_matches(char::is_alphabetic);
                    prop_assert!(
                        is_under_way || number(0) == number(1),
                        "{:?} {:?} {:#?}", world.file(0), world.file(1), group
                    );
                }
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let slot = usize::try_from(rng >> 63).unwrap();
                match op {
                    0..6 => {
                        last = [version.to_string(), version.to_string()];
                        match op {
                            1 => last[slot] = BAD.to_owned(),
                            2 | 3 if verifies => last[slot].push_str(ILL),
                            _ => {}
                        }
                        for slot in [0, 1] {
                            world.known(slot, &last[usize::try_from(slot).unwrap()]);
                        }
                    }
                    6 | 7 => {
                        world.crash();
                        for slot in [0, 1] {
                            let state = present(&last[usize::try_from(slot).unwrap()]);
                            world.tell(Event::Known { slot: Slot(slot), state });
                        }
                    }
                    8 => world.swaps_fail ^= true,
                    9 => world.reloads_fail ^= true,
                    10 => world.stages_fail ^= true,
                    _ => world.tell(Event::Resync),
                }
            }
            (world.stages_fail, world.swaps_fail, world.reloads_fail) = (false, false, false);
            prop_assert!(world.run(world.now + Duration::from_secs(7_200)));
            prop_assert_eq!(&world.loaded, &world.files);
            if last.iter().any(|text| *text == BAD || text.ends_with(ILL)) {
                prop_assert_eq!(world.file(0), world.file(1), "a version before");
                prop_assert!(!world.is_ill());
            } else {
                prop_assert_eq!(world.file(0), Some(&*last[0]));
                prop_assert_eq!(world.file(1), Some(&*last[1]));
            }
        }
    }
}
