//! Decides when a file of a group is written or removed, and when its application is told: one burst, one reload.
//!
//! A group is the targets of one descriptor that share a reload; a target without one is a group by itself. What becomes known of a
//! configuration makes its target *due*. A target that is alone in its group and had a rest is put in place at once. Otherwise,
//! when nothing new came for [`QUIET`] (or [`LONGEST`] after the first), every due target is; each on its own, so one that fails
//! holds up no other one. Whoever carries out an effect looks at the file first: a content that is there already, with the right
//! mode and owner, is `Unchanged` and asks for no reload. That makes every effect safe to repeat, and [`Event::Resync`] simply
//! repeats them: a file that somebody edited is repaired.
//!
//! The [`Ledger`] counts writes and the last write a successful reload has covered. While the two differ a reload is due, and
//! stays due through failures, with growing waits, until one that began after the last write succeeded. A write during a reload
//! therefore asks for another one. The ledger is two numbers on purpose: kept on disk it would survive a restart, and a content
//! that was reloaded but not yet verified would be a third number between them.
//!
//! A rejected content leaves the file as it is and is not tried again before the source changes, unless its validator is a
//! command, whose mind may change: then with growing waits.

use crate::backoff::{Backoff, Dice, Pace};
use crate::descriptor::spec::OnAbsent;
use crate::machine::{Machine, Moment};
use crate::nacos::model::{ConfigState, Content};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::view::TargetState;

/// A burst is over when nothing new came for this long.
pub const QUIET: Duration = Duration::from_millis(50);
/// A burst is not waited for longer than this after its first change.
pub const LONGEST: Duration = Duration::from_millis(500);
/// A due reload does not wait longer than this for other targets of the group (a validator may take half a minute).
const PATIENCE: Duration = Duration::from_secs(5);
/// Between tries of a write or removal that failed, and of a validator that is a command.
const RETRY: Pace = Pace {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(60),
    floor: Duration::from_millis(500),
};

/// A target within its group, for as long as its descriptor does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

/// What the machine must know of a target.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What happens when the registry has no such configuration.
    pub on_absent: OnAbsent,
    /// A larger content is rejected; bytes.
    pub max_size: u64,
    /// Whether the same content may be accepted later: true for a validator that is a command.
    pub may_relent: bool,
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
    /// Answers the one [`Effect::Apply`] or [`Effect::Remove`] of the target that is out.
    Done {
        /// Target.
        slot: Slot,
        /// How it ended.
        outcome: Outcome,
    },
    /// Answers [`Effect::Reload`]; an error is one sentence.
    Reloaded(Result<(), String>),
    /// Time to look whether the files still are what they should be.
    Resync,
}

/// How putting a target in place ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The file was as wanted.
    Unchanged,
    /// The content was as wanted; mode or owner were set right.
    Mended,
    /// The file was replaced.
    Written,
    /// The file was removed.
    Removed,
    /// There was no file to remove.
    NothingThere,
    /// The file was as wanted (or as wanted not there), but an earlier target of this path had put it so and its application
    /// was never told.
    Inherited,
    /// The content is not valid; the file is as it was. One sentence.
    Rejected(String),
    /// It could not be done; the file is as it was. One sentence.
    Failed(String),
}

/// What a group wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put the content into the target's file if it is not there; exactly one [`Event::Done`] answers.
    Apply {
        /// Target.
        slot: Slot,
        /// What the file must have.
        content: Content,
    },
    /// Remove the target's file; exactly one [`Event::Done`] answers.
    Remove {
        /// Target.
        slot: Slot,
    },
    /// Tell the application; exactly one [`Event::Reloaded`] answers.
    Reload,
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
    targets: BTreeMap<Slot, Target>,
    burst: Option<Burst>,
    /// When something new came last.
    stirred: Option<Moment>,
    ledger: Ledger,
    reload: Reload,
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
    fn ends(&self) -> Moment {
        (self.last + QUIET).min(self.first + LONGEST)
    }
}

/// Which writes the application knows of.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    /// Number of the last write.
    written: u64,
    /// Number of the last write that a successful reload has covered.
    reloaded: u64,
}

impl Ledger {
    fn is_due(self) -> bool {
        self.written > self.reloaded
    }
}

#[derive(Debug)]
struct Reload {
    /// Not before.
    at: Moment,
    /// Since when it is due.
    since: Moment,
    /// The last write that the reload under way covers.
    running: Option<u64>,
    /// Why the last one failed.
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
    /// Whether `wanted` must be put in place (again).
    due: bool,
    doing: Option<Doing>,
    retry_at: Option<Moment>,
    backoff: Backoff,
    place: InPlace,
    /// The last content that was in place, to repair the file with while the wanted one is rejected.
    good: Option<Content>,
    /// The target's last write in the ledger.
    written: u64,
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
}

#[derive(Debug)]
enum Doing {
    Put { content: Content, repair: bool },
    Remove,
}

/// What is at the target's path, as far as we know.
#[derive(Debug)]
enum InPlace {
    Unknown,
    Content(Arc<str>),
    Nothing,
}

impl Group {
    /// An empty group. `seed` decides all its waits; without a reload a written target is applied.
    #[must_use]
    pub fn new(has_reload: bool, seed: u64) -> Self {
        Self {
            has_reload,
            targets: BTreeMap::new(),
            burst: None,
            stirred: None,
            ledger: Ledger::default(),
            reload: Reload {
                at: Moment::ZERO,
                since: Moment::ZERO,
                running: None,
                failed: None,
                backoff: Backoff::new(Pace::RELOAD, seed),
            },
            dice: Dice::new(!seed),
            due: VecDeque::new(),
        }
    }

    /// Something new came: the burst begins, or goes on.
    ///
    /// A target that is alone in its group has nobody to wait for: its first change after a rest is put in place at once.
    fn stir(&mut self, now: Moment) {
        let rested = self.stirred.is_none_or(|last| now > last + LONGEST);
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

    /// Notes a write of `slot` in the ledger: the reload is due, at once.
    fn write(&mut self, now: Moment, slot: Slot) {
        if !self.has_reload {
            return;
        }
        let covered = self.reload.running.unwrap_or(self.ledger.reloaded);
        if self.ledger.written == covered {
            self.reload.since = now;
        }
        self.ledger.written += 1;
        // A new content may be what the failing reload needs: it is a new cause, not another try.
        self.reload.at = now;
        if let Some(target) = self.targets.get_mut(&slot) {
            target.written = self.ledger.written;
        }
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

    fn done(&mut self, now: Moment, slot: Slot, outcome: Outcome) {
        let Some(target) = self.targets.get_mut(&slot) else {
            return;
        };
        let Some(doing) = target.doing.take() else {
            return;
        };
        let (is_wanted, repair) = match (&doing, &target.wanted) {
            (Doing::Put { content, repair }, Wanted::Content { content: want, .. }) => {
                (content.md5 == want.md5 && !*repair, *repair)
            }
            (Doing::Put { repair, .. }, _) => (false, *repair),
            (Doing::Remove, wanted) => (matches!(wanted, Wanted::Absent), false),
        };
        let wrote = matches!(
            outcome,
            Outcome::Written | Outcome::Removed | Outcome::Inherited
        );
        match outcome {
            Outcome::Unchanged
            | Outcome::Mended
            | Outcome::Written
            | Outcome::Removed
            | Outcome::NothingThere
            | Outcome::Inherited => {
                match doing {
                    Doing::Put { content, .. } => {
                        target.place = InPlace::Content(Arc::clone(&content.md5));
                        target.good = Some(content);
                    }
                    Doing::Remove => {
                        target.place = InPlace::Nothing;
                        target.good = None;
                    }
                }
                if is_wanted {
                    target.verdict = Verdict::Fine;
                    target.backoff.reset();
                }
            }
            Outcome::Rejected(_) if repair => target.good = None,
            // The next resync repairs again.
            Outcome::Failed(_) if repair => {}
            Outcome::Rejected(why) if is_wanted => {
                target.verdict = Verdict::Rejected(why);
                target.retry_at = target
                    .rules
                    .may_relent
                    .then(|| now + target.backoff.next_wait());
            }
            Outcome::Failed(why) if is_wanted => {
                target.verdict = Verdict::Failed(why);
                target.retry_at = Some(now + target.backoff.next_wait());
            }
            // Of a content that is not wanted any more: what is wanted now is due already.
            Outcome::Rejected(_) | Outcome::Failed(_) => {}
        }
        if wrote {
            self.write(now, slot);
        }
    }

    fn reloaded(&mut self, now: Moment, outcome: Result<(), String>) {
        let Some(covered) = self.reload.running.take() else {
            return;
        };
        match outcome {
            Ok(()) => {
                self.ledger.reloaded = covered;
                self.reload.failed = None;
                self.reload.backoff.reset();
            }
            Err(why) => {
                let wait = self.reload.backoff.next_wait();
                if self.ledger.written == covered {
                    self.reload.at = now + wait;
                }
                self.reload.since = now;
                self.reload.failed = Some(why);
            }
        }
    }

    /// Does what is due now.
    fn step(&mut self, now: Moment) {
        self.burst = self.burst.filter(|burst| now < burst.ends());
        for (slot, target) in &mut self.targets {
            if target.retry_at.is_some_and(|at| at <= now) {
                target.retry_at = None;
                target.due = true;
            }
            if self.burst.is_none() && target.due && target.doing.is_none() {
                target.due = false;
                self.due.extend(target.begin(*slot));
            }
        }
        if self.reload_at().is_some_and(|at| at <= now) {
            self.reload.running = Some(self.ledger.written);
            self.due.push_back(Effect::Reload);
        }
        self.tell();
    }

    /// When the reload may begin; `None` when none is due, or one is under way.
    fn reload_at(&self) -> Option<Moment> {
        if !self.ledger.is_due() || self.reload.running.is_some() {
            return None;
        }
        let busy = self.targets.values().any(|target| target.doing.is_some());
        Some(if busy {
            self.reload.at.max(self.reload.since + PATIENCE)
        } else {
            self.reload.at
        })
    }

    fn tell(&mut self) {
        for (slot, target) in &mut self.targets {
            let owes = (self.has_reload && target.written > self.ledger.reloaded).then(|| {
                match &self.reload.failed {
                    Some(why) => format!("written; the reload failed and is tried again: {why}"),
                    None => "written; the reload is due".to_owned(),
                }
            });
            let Some((state, reason)) = target.standing(owes) else {
                continue;
            };
            target.applied_once |= target.is_in_place();
            let standing = Standing {
                state,
                reason,
                applied_once: target.applied_once,
                md5: match &target.place {
                    InPlace::Content(md5) => Some(Arc::clone(md5)),
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
    fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            wanted: Wanted::Unknown,
            unreachable: None,
            verdict: Verdict::Fine,
            due: false,
            doing: None,
            retry_at: None,
            backoff: Backoff::new(RETRY, seed),
            place: InPlace::Unknown,
            good: None,
            written: 0,
            applied_once: false,
            told: Standing {
                state: TargetState::Waiting,
                reason: None,
                applied_once: false,
                md5: None,
            },
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
        self.verdict = if fits {
            Verdict::Fine
        } else {
            let (size, limit) = (content.bytes.len(), self.rules.max_size);
            Verdict::Rejected(format!(
                "the content has {size} bytes; `max_size` is {limit}"
            ))
        };
        self.wanted = Wanted::Content {
            content,
            from_snapshot,
        };
        self.retry_at = None;
        self.backoff.reset();
        self.due = fits;
        fits
    }

    fn fits(&self, content: &Content) -> bool {
        u64::try_from(content.bytes.len()).is_ok_and(|size| size <= self.rules.max_size)
    }

    /// Takes note that there is no such configuration; whether there is something to do.
    fn want_nothing(&mut self) -> bool {
        if matches!(self.wanted, Wanted::Absent) {
            return false;
        }
        self.wanted = Wanted::Absent;
        self.verdict = Verdict::Fine;
        self.retry_at = None;
        self.backoff.reset();
        self.due = self.rules.on_absent == OnAbsent::Remove;
        self.due
    }

    /// Begins to put in place what is wanted.
    fn begin(&mut self, slot: Slot) -> Option<Effect> {
        match &self.wanted {
            Wanted::Content { content, .. } => {
                let content = content.clone();
                self.put(slot, content, false)
            }
            Wanted::Absent if self.rules.on_absent == OnAbsent::Remove => {
                self.doing = Some(Doing::Remove);
                Some(Effect::Remove { slot })
            }
            Wanted::Absent | Wanted::Unknown => None,
        }
    }

    fn put(&mut self, slot: Slot, content: Content, repair: bool) -> Option<Effect> {
        self.doing = Some(Doing::Put {
            content: content.clone(),
            repair,
        });
        Some(Effect::Apply { slot, content })
    }

    /// Looks at the file again, unless something is about to be done with it anyway.
    fn resync(&mut self, slot: Slot) -> Option<Effect> {
        if self.doing.is_some() || self.due {
            return None;
        }
        match (&self.verdict, &self.good) {
            (Verdict::Fine, _) => self.begin(slot),
            (Verdict::Rejected(_), Some(good)) => {
                let good = good.clone();
                self.put(slot, good, true)
            }
            // A failure has its own retry.
            (Verdict::Rejected(_), None) | (Verdict::Failed(_), _) => None,
        }
    }

    fn is_in_place(&self) -> bool {
        match (&self.wanted, &self.place) {
            (Wanted::Content { content, .. }, InPlace::Content(md5)) => *md5 == content.md5,
            (Wanted::Absent, InPlace::Nothing) => true,
            _ => false,
        }
    }

    /// State and reason; `None` while nothing new can be said because something is under way.
    fn standing(&self, owes: Option<String>) -> Option<(TargetState, Option<String>)> {
        let failed = |why: &String| Some((TargetState::Pending, Some(why.clone())));
        let missing = |what: &str| {
            let reason = format!("the registry has no such configuration; {what}");
            Some((TargetState::Missing, Some(reason)))
        };
        match (&self.wanted, &self.verdict) {
            (Wanted::Unknown, _) => Some(match &self.unreachable {
                Some(why) => (TargetState::Unreachable, Some(why.clone())),
                None => (TargetState::Waiting, None),
            }),
            (Wanted::Absent, Verdict::Failed(why)) => failed(why),
            (Wanted::Absent, _) => match self.rules.on_absent {
                OnAbsent::Keep => missing("the file stays as it is"),
                OnAbsent::Fail => missing("the file stays, but `on_absent: fail` wants one"),
                OnAbsent::Remove if !matches!(self.place, InPlace::Nothing) => None,
                OnAbsent::Remove => match owes {
                    Some(why) => Some((TargetState::Pending, Some(why))),
                    None => missing("the file is removed"),
                },
            },
            (Wanted::Content { .. }, Verdict::Rejected(why)) => {
                Some((TargetState::Rejected, Some(why.clone())))
            }
            (Wanted::Content { .. }, Verdict::Failed(why)) => failed(why),
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
            Event::Wanted { slot, rules } => {
                // Targets of one group must not try again in step.
                let seed = self.dice.seed();
                self.targets.insert(slot, Target::new(rules, seed));
            }
            Event::LetGo { slot } => {
                self.targets.remove(&slot);
                self.due.retain(|effect| match effect {
                    Effect::Apply { slot: whose, .. }
                    | Effect::Remove { slot: whose }
                    | Effect::Tell { slot: whose, .. } => *whose != slot,
                    Effect::Reload => true,
                });
            }
            Event::Known { slot, state } => self.known(now, slot, state),
            Event::Remembered { slot, content } => {
                let Some(target) = self.targets.get_mut(&slot) else {
                    return;
                };
                match (&target.wanted, &target.verdict, &target.good) {
                    (Wanted::Unknown, ..) => {
                        let stirs = target.want(content, true);
                        if stirs {
                            self.stir(now);
                        }
                    }
                    (Wanted::Content { .. }, Verdict::Rejected(_), None)
                        if target.doing.is_none() && target.fits(&content) =>
                    {
                        self.due.extend(target.put(slot, content, true));
                    }
                    _ => {}
                }
            }
            Event::Done { slot, outcome } => self.done(now, slot, outcome),
            Event::Reloaded(outcome) => self.reloaded(now, outcome),
            Event::Resync => {
                for (slot, target) in &mut self.targets {
                    self.due.extend(target.resync(*slot));
                }
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let burst = self.burst.map(|burst| burst.ends());
        let retries = self.targets.values().filter_map(|target| target.retry_at);
        retries.chain(burst).chain(self.reload_at()).min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BAD: &str = "bad";

    fn content(text: &str) -> Content {
        Content {
            bytes: text.as_bytes().into(),
            md5: text.into(),
            ..Content::of(Vec::new())
        }
    }

    fn rules(on_absent: OnAbsent) -> Rules {
        Rules {
            on_absent,
            max_size: 8,
            may_relent: false,
        }
    }

    /// A group with its files and its application, in virtual time.
    struct World {
        group: Group,
        now: Moment,
        files: BTreeMap<Slot, Arc<str>>,
        /// What is under way: when it ends, and for whom (`None`: the reload).
        jobs: Vec<(Moment, Option<Slot>, Option<Content>)>,
        chance: u64,
        writes_fail: bool,
        reloads_fail: bool,
        /// How often each content was tried for each target.
        tried: BTreeMap<(Slot, Arc<str>), u32>,
        written: Vec<Moment>,
        /// Number of writes when the reload under way began; of those a successful one has covered.
        covers: usize,
        covered: usize,
        reloads: Vec<(Moment, bool)>,
        told: BTreeMap<Slot, Standing>,
        slowest: u64,
    }

    impl World {
        fn new(has_reload: bool, all: &[OnAbsent], seed: u64) -> Self {
            let mut world = Self {
                group: Group::new(has_reload, seed),
                now: Moment::ZERO,
                files: BTreeMap::new(),
                jobs: Vec::new(),
                chance: seed,
                writes_fail: false,
                reloads_fail: false,
                tried: BTreeMap::new(),
                written: Vec::new(),
                covers: 0,
                covered: 0,
                reloads: Vec::new(),
                told: BTreeMap::new(),
                slowest: 5,
            };
            for (number, on_absent) in (0..).zip(all) {
                world.tell(Event::Wanted {
                    slot: Slot(number),
                    rules: rules(*on_absent),
                });
            }
            world
        }

        fn tell(&mut self, event: Event) {
            self.group.handle(self.now, event);
            self.drain();
        }

        fn known(&mut self, slot: u64, text: &str) {
            self.tell(Event::Known {
                slot: Slot(slot),
                state: ConfigState::Present(content(text)),
            });
        }

        fn drain(&mut self) {
            while let Some(effect) = self.group.effect() {
                self.chance = self
                    .chance
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let took = Duration::from_millis(1 + (self.chance >> 33) % self.slowest);
                let (slot, content) = match effect {
                    Effect::Tell { slot, standing } => {
                        let before = self.told.insert(slot, standing.clone());
                        assert_ne!(before, Some(standing), "only changes are told");
                        continue;
                    }
                    Effect::Apply { slot, content } => {
                        let key = (slot, Arc::clone(&content.md5));
                        *self.tried.entry(key).or_default() += 1;
                        (Some(slot), Some(content))
                    }
                    Effect::Remove { slot } => (Some(slot), None),
                    Effect::Reload => {
                        assert!(
                            self.covered < self.written.len(),
                            "a reload without a cause"
                        );
                        self.covers = self.written.len();
                        (None, None)
                    }
                };
                assert!(
                    self.jobs.iter().all(|(_, busy, _)| *busy != slot),
                    "two jobs at once for {slot:?}"
                );
                self.jobs.push((self.now + took, slot, content));
            }
        }

        fn finish(&mut self, slot: Option<Slot>, content: Option<Content>) {
            let Some(slot) = slot else {
                self.reloads.push((self.now, !self.reloads_fail));
                if !self.reloads_fail {
                    self.covered = self.covers;
                }
                let outcome = if self.reloads_fail {
                    Err("exit status 1".into())
                } else {
                    Ok(())
                };
                return self.tell(Event::Reloaded(outcome));
            };
            let outcome = match content {
                Some(content) if self.files.get(&slot) == Some(&content.md5) => Outcome::Unchanged,
                Some(content) if &*content.md5 == BAD => Outcome::Rejected("not valid".into()),
                None if !self.files.contains_key(&slot) => Outcome::NothingThere,
                _ if self.writes_fail => Outcome::Failed("no space left".into()),
                Some(content) => {
                    self.files.insert(slot, content.md5);
                    self.written.push(self.now);
                    Outcome::Written
                }
                None => {
                    self.files.remove(&slot);
                    self.written.push(self.now);
                    Outcome::Removed
                }
            };
            self.tell(Event::Done { slot, outcome });
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
                        let (_, slot, content) = self.jobs.swap_remove(at);
                        self.finish(slot, content);
                    }
                    _ => {
                        self.group.wake(self.now);
                        self.drain();
                    }
                }
            }
            panic!("it never comes to rest");
        }

        fn pass(&mut self, ms: u64) {
            self.run(self.now + Duration::from_millis(ms));
        }

        fn state(&self, slot: u64) -> TargetState {
            self.told
                .get(&Slot(slot))
                .map_or(TargetState::Waiting, |told| told.state)
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
    fn a_change_of_a_target_that_is_alone_is_in_place_at_once() {
        let mut world = World::new(true, &[OnAbsent::Keep], 1);
        for round in 0..5 {
            world.known(0, &round.to_string());
            world.pass(10);
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
    fn a_rejected_content_keeps_the_file_and_is_not_tried_again() {
        let mut world = World::new(true, &[OnAbsent::Keep; 2], 1);
        world.known(0, "a");
        world.pass(5_000);
        world.known(0, BAD);
        world.known(1, "b");
        assert!(world.run(Duration::from_secs(3_600)));
        assert_eq!((world.file(0), world.file(1)), (Some("a"), Some("b")));
        assert_eq!(world.state(0), TargetState::Rejected);
        assert_eq!(world.state(1), TargetState::Applied);
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
        });
        world.known(7, BAD);
        world.pass(600_000);
        let tried = world.tried[&(slot, BAD.into())];
        assert!((5..=60).contains(&tried), "{tried} tries in ten minutes");
    }

    #[test]
    fn a_failed_write_is_tried_again_and_blocks_no_other_target() {
        let mut world = World::new(true, &[OnAbsent::Keep; 2], 1);
        world.files.insert(Slot(1), "b".into());
        world.writes_fail = true;
        world.known(0, "a");
        world.known(1, "b");
        world.pass(10_000);
        assert_eq!(world.state(0), TargetState::Pending);
        assert_eq!(world.state(1), TargetState::Applied);
        world.writes_fail = false;
        world.pass(120_000);
        assert_eq!(world.state(0), TargetState::Applied);
        assert_eq!(world.reloads.len(), 1);
    }

    #[test]
    fn a_slow_validator_keeps_the_others_from_their_reload_for_five_seconds_only() {
        let mut world = World::new(true, &[OnAbsent::Keep; 2], 1);
        world.known(0, "a");
        world.pass(100);
        world.known(0, "b");
        world.known(1, "c");
        world.group.wake(world.now + QUIET);
        world.now += QUIET;
        // The job of target 1 takes a minute.
        world.drain();
        for job in &mut world.jobs {
            if job.1 == Some(Slot(1)) {
                job.0 = world.now + Duration::from_secs(60);
            }
        }
        let before = world.reloads.len();
        world.pass(4_000);
        assert_eq!(world.reloads.len(), before);
        world.pass(2_000);
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
        assert_eq!(world.covered, world.written.len());
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
        WritesFail(bool),
        ReloadsFail(bool),
    }

    const TEXTS: [&str; 5] = ["a", "b", "c", BAD, "123456789"];

    fn ops() -> impl Strategy<Value = Vec<(u64, Op)>> {
        let op = prop_oneof![
            5 => (0_u64..3, 0..TEXTS.len()).prop_map(|(slot, text)| Op::Present(slot, text)),
            2 => (0_u64..3).prop_map(Op::Absent),
            1 => (0_u64..3).prop_map(Op::Unreachable),
            1 => (0_u64..3, 0..TEXTS.len()).prop_map(|(slot, text)| Op::Remembered(slot, text)),
            1 => (0_u64..3).prop_map(Op::Edit),
            1 => Just(Op::Resync),
            1 => any::<bool>().prop_map(Op::WritesFail),
            1 => any::<bool>().prop_map(Op::ReloadsFail),
        ];
        let pause = prop_oneof![Just(0_u64), 0_u64..80, 0_u64..3_000];
        proptest::collection::vec((pause, op), 0..60)
    }

    proptest! {
        #[test]
        fn comes_to_rest_with_every_file_right_and_every_write_told(
            ops in ops(),
            seed: u64,
            has_reload: bool,
            slowest in 1_u64..2_000,
        ) {
            let all = [OnAbsent::Keep, OnAbsent::Remove, OnAbsent::Fail];
            let mut world = World::new(has_reload, &all, seed);
            world.slowest = slowest;
            let mut last: BTreeMap<u64, Option<&str>> = BTreeMap::new();
            let (mut rejections_caused, mut edits) = (0, 0);
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
                        world.tell(Event::Known { slot: Slot(slot), state: ConfigState::Absent });
                    }
                    Op::Unreachable(slot) => world.tell(Event::Known {
                        slot: Slot(slot),
                        state: ConfigState::Unreachable("no answer".into()),
                    }),
                    Op::Remembered(slot, text) => {
                        rejections_caused += u32::from(TEXTS[text] == BAD);
                        world.tell(Event::Remembered { slot: Slot(slot), content: content(TEXTS[text]) });
                    }
                    Op::Edit(slot) => {
                        edits += 1;
                        world.files.insert(Slot(slot), "edited".into());
                    }
                    Op::Resync => world.tell(Event::Resync),
                    Op::WritesFail(fail) => world.writes_fail = fail,
                    Op::ReloadsFail(fail) => world.reloads_fail = fail,
                }
                prop_assert!(world.files.values().all(|text| &**text != BAD));
            }
            (world.writes_fail, world.reloads_fail) = (false, false);
            prop_assert!(world.run(world.now + Duration::from_secs(3_600)), "it rests within an hour");
            world.tell(Event::Resync);
            prop_assert!(world.run(world.now + Duration::from_secs(3_600)));
            for (slot, want) in last {
                let state = world.state(slot);
                match want {
                    Some(text @ (BAD | "123456789")) => {
                        prop_assert_eq!(state, TargetState::Rejected);
                        prop_assert_ne!(world.file(slot), Some(text));
                    }
                    Some(text) => {
                        prop_assert_eq!(state, TargetState::Applied);
                        prop_assert_eq!(world.file(slot), Some(text));
                    }
                    None => {
                        prop_assert_eq!(state, TargetState::Missing);
                        prop_assert!(slot != 1 || world.file(slot).is_none());
                    }
                }
            }
            let tried_bad: u32 = world.tried.iter().filter(|((_, text), _)| &**text == BAD).map(|(_, count)| *count).sum();
            prop_assert!(tried_bad <= rejections_caused, "{tried_bad} tries of what was rejected {rejections_caused} times");
            if has_reload {
                prop_assert_eq!(world.covered, world.written.len(), "every write was told");
                let succeeded = world.reloads.iter().filter(|(_, well)| *well).count();
                prop_assert!(succeeded <= world.written.len());
            } else {
                prop_assert!(world.reloads.is_empty());
            }
            // At rest nothing happens any more, whatever is looked at again.
            let before = (world.written.len(), world.reloads.len());
            if edits == 0 {
                world.tell(Event::Resync);
                prop_assert!(world.run(world.now + Duration::from_secs(3_600)));
                prop_assert_eq!(before, (world.written.len(), world.reloads.len()));
            }
        }
    }
}
