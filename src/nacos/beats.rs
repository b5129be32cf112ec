//! The beat book: what is said about each instance over HTTP v1, one call at a time, with `BeatReactor`'s rules and a few of our own.
//!
//! - One entry per service#ip#port. Whoever publishes or withdraws waits for the call that is under way about that instance, so no
//!   late beat brings back what was taken out; a withdrawal ends the beats at once.
//! - The first beat comes one interval after the registration and is full; once the server says `lightBeatEnabled`, beats are
//!   light. The server's `clientBeatInterval` wins over ours.
//! - The next beat is due one interval after the last one *began*, whatever became of it; one that failed is tried again
//!   sooner, with full jitter. Deadlines, not periods: a process that slept for a minute beats at once on waking, once.
//! - 20404 means that the server has forgotten the instance: the complete instance is registered at once.
//! - An instance that is to be listed as unhealthy is registered again instead of beaten: a beat would heal it, and a
//!   registration counts as a sign of life.
//! - A persistent instance is not beaten for. Before it is registered its service is made and the server's own checker is
//!   switched off, in this order: an instance registered first may be found unhealthy and stay so. The health is changed by
//!   registering again (2.x, 3.x). On 1.4 that changes nothing of an instance that is there: the detail is looked at, which is up
//!   to date there, and a wrong health is set by `PUT health/instance`; where that is denied (1.4.8 with authentication
//!   denies it to everybody, `resource name invalid!`), the instance is taken out and registered anew. To publish the same instance
//!   again means that the registry lost or changed it: then all of that is done again, because a service that was empty for a
//!   minute has lost its settings.
//! - At most [`AT_ONCE`] calls are under way, and at most `write_rate` writes begin in a second; taking out is not limited.

use super::model::{Instance, InstanceKey, Listed, ServiceList, Standing, heartbeat, preserved};
use super::{Error, Retry, calls, wire};
use crate::backoff::Backoff;
use crate::backoff::Dice;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// No server and no descriptor makes us beat more often.
const SHORTEST: Duration = Duration::from_millis(100);
/// No server makes us beat less often: its own default for an instance without metadata is 5 s, its limit 15 s.
const LONGEST: Duration = Duration::from_secs(60);
/// Calls under way at a time: a registry that takes 2 s for each still hears from 500 instances every 5 s.
const AT_ONCE: usize = 256;
/// Over this time the tries of everybody are spread once the registry is back.
const SPREAD: Duration = Duration::from_secs(1);

/// Names a publication or withdrawal, for its answer; the caller chooses it.
pub type Ticket = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// List this instance and keep it listed. One that waits already for the same instance is answered [`Error::Stopped`].
    Publish(Ticket, Instance),
    /// Stop keeping it listed, take it out.
    Withdraw(Ticket, Instance),
    /// The one call under way about this instance ended so.
    Called(InstanceKey, Result<Said, Error>),
    /// The registry was away and is back.
    Back,
    /// The major number of the registry's version, where it is known.
    Generation(Option<u32>),
}

/// What a server said to a call, when it did not say no.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Done, or so already.
    Done,
    /// The answer to a beat.
    Beat(wire::BeatAnswer),
    /// The answer to [`Say::Kind`].
    List(ServiceList),
    /// The answer to [`Say::Detail`].
    Detail(Option<Listed>),
    /// Health is not set by hand here, but by registering again.
    NotByHand,
}

/// A call about an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Say {
    /// Register it, complete.
    Register(Instance),
    /// Beat for it; a light beat has no `beat` parameter, a full one names the period.
    Beat {
        /// For whom.
        instance: Instance,
        /// Without the `beat` parameter.
        light: bool,
        /// The interval to write into a full beat.
        period: Duration,
    },
    /// Take it out.
    Deregister(Instance),
    /// List its service, to see of which kind its instances are.
    Kind(Instance),
    /// Make its service.
    CreateService(Instance),
    /// Switch the server's own checker off for its cluster.
    NoChecker(Instance),
    /// Look at what the server has of it.
    Detail(Instance),
    /// Set its health by hand.
    Health(Instance),
}

impl Say {
    /// The call itself, as 3.x wants it, where that differs.
    #[must_use]
    pub fn call_v3(&self) -> calls::Call {
        match self {
            Self::CreateService(instance) => calls::create_service_v3(&instance.key.service),
            Self::NoChecker(instance) => {
                calls::no_checker_v3(&instance.key.service, &instance.cluster)
            }
            _ => self.call(),
        }
    }

    /// The call itself.
    #[must_use]
    pub fn call(&self) -> calls::Call {
        match self {
            Self::Register(instance) => calls::register(instance),
            Self::Beat {
                instance,
                light,
                period,
            } => calls::beat(instance, *light, *period),
            Self::Deregister(instance) => calls::deregister(instance),
            Self::Kind(instance) => calls::list(&instance.key.service, &[], false),
            Self::CreateService(instance) => calls::create_service(&instance.key.service),
            Self::NoChecker(instance) => {
                calls::no_checker(&instance.key.service, &instance.cluster)
            }
            Self::Detail(instance) => calls::detail(instance),
            Self::Health(instance) => calls::health_by_hand(instance),
        }
    }

    /// What the answer to it says.
    ///
    /// # Errors
    /// The server's no, or [`Error::Garbage`].
    pub fn read(&self, answer: calls::Answer) -> Result<Said, Error> {
        Ok(match self {
            Self::Register(_) => answer.ok()?.done().map(|()| Said::Done)?,
            Self::Beat { .. } => Said::Beat(answer.ok()?.beat()?),
            Self::Deregister(_) if answer.says_absent() => Said::Done,
            Self::Deregister(_) => answer.ok()?.done().map(|()| Said::Done)?,
            Self::Kind(_) => Said::List(answer.list()?),
            Self::CreateService(_) => answer.made().map(|()| Said::Done)?,
            Self::NoChecker(_) => answer.checked_no_more().map(|()| Said::Done)?,
            Self::Detail(_) => Said::Detail(answer.detail()?),
            Self::Health(_) => {
                if answer.set_by_hand()? {
                    Said::Done
                } else {
                    Said::NotByHand
                }
            }
        })
    }

    /// Whether it counts against the write rate.
    fn writes(&self) -> bool {
        !matches!(
            self,
            Self::Beat { .. } | Self::Kind(_) | Self::Detail(_) | Self::Deregister(_)
        )
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the call; exactly one [`Event::Called`] answers.
    Call(InstanceKey, Say),
    /// The publication or withdrawal ended so.
    Answer(Ticket, Result<(), Error>),
    /// How well the instance is kept has changed.
    Tell(InstanceKey, Standing),
}

/// What one wants said.
#[derive(Clone, Debug)]
enum Asked {
    Publish(Ticket, Instance),
    Withdraw(Ticket, Instance),
}

impl Asked {
    fn ticket(&self) -> Ticket {
        match self {
            Self::Publish(ticket, _) | Self::Withdraw(ticket, _) => *ticket,
        }
    }
}

/// The call under way about an instance.
#[derive(Debug)]
enum Doing {
    Beat,
    /// A registration that nobody asked for just now: after a 20404, or instead of a beat.
    Renew,
    /// One step of a publication, and what is still to be done after it.
    Publish(Ticket, Instance, Step, Rest),
    Withdraw(Ticket),
}

/// What is still to be done of a publication.
#[derive(Debug, Default)]
struct Rest {
    /// The last of it first.
    steps: Vec<Step>,
    /// Why the server goes on checking the instance itself, where it does.
    checked: Option<String>,
}

/// The steps of publishing an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Kind,
    CreateService,
    NoChecker,
    Register,
    /// Whether the health is what was registered; the next three mend it where it is not.
    Detail,
    Health,
    Deregister,
    RegisterAnew,
}

impl Step {
    fn say(self, instance: Instance) -> Say {
        match self {
            Self::Kind => Say::Kind(instance),
            Self::CreateService => Say::CreateService(instance),
            Self::NoChecker => Say::NoChecker(instance),
            Self::Register | Self::RegisterAnew => Say::Register(instance),
            Self::Detail => Say::Detail(instance),
            Self::Health => Say::Health(instance),
            Self::Deregister => Say::Deregister(instance),
        }
    }
}

/// An ephemeral instance that is kept listed.
#[derive(Debug)]
struct Kept {
    instance: Instance,
    interval: Duration,
    light: bool,
    /// When the next beat is due; `None` while one is due already or under way.
    due: Option<Moment>,
    /// When the last one began.
    began: Moment,
    /// The last answer was 20404: the registration under way, or the next try, is a restoration.
    forgotten: bool,
    failures: Backoff,
    standing: Standing,
}

#[derive(Debug, Default)]
struct Entry {
    kept: Option<Kept>,
    /// The persistent instance that was published last, whose service is known to be prepared.
    prepared: Option<Instance>,
    asked: Option<Asked>,
    doing: Option<Doing>,
    /// It stands in one of the queues.
    queued: bool,
}

/// The machine.
#[derive(Debug)]
pub struct BeatBook {
    entries: BTreeMap<InstanceKey, Entry>,
    /// The kept ones by when they are due: with a thousand of them nobody is searched for.
    agenda: BTreeSet<(Moment, InstanceKey)>,
    /// Who has something to say now: what counts against the write rate, and everything else.
    writes: VecDeque<InstanceKey>,
    talks: VecDeque<InstanceKey>,
    under_way: usize,
    /// Between two writes.
    write_step: Duration,
    /// When the next write may begin.
    next_write: Moment,
    generation: Option<u32>,
    dice: Dice,
    due: VecDeque<Effect>,
}

impl BeatBook {
    /// An empty book; `write_rate` is in writes a second.
    #[must_use]
    pub fn new(write_rate: u32, seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            agenda: BTreeSet::new(),
            writes: VecDeque::new(),
            talks: VecDeque::new(),
            under_way: 0,
            write_step: Duration::from_secs(1) / write_rate.max(1),
            next_write: Moment::ZERO,
            generation: None,
            dice: Dice::new(seed),
            due: VecDeque::new(),
        }
    }

    fn plan(&mut self, key: &InstanceKey, at: Moment) {
        if let Some(kept) = self.entries.get_mut(key).and_then(|e| e.kept.as_mut()) {
            if let Some(old) = kept.due.replace(at) {
                self.agenda.remove(&(old, key.clone()));
            }
            self.agenda.insert((at, key.clone()));
        }
    }

    /// Ends the keeping of an instance; answers what it was.
    fn forget(&mut self, key: &InstanceKey) {
        let kept = self.entries.get_mut(key).and_then(|e| e.kept.take());
        if let Some(at) = kept.and_then(|kept| kept.due) {
            self.agenda.remove(&(at, key.clone()));
        }
    }

    fn ask(&mut self, key: InstanceKey, asked: Asked) {
        let entry = self.entries.entry(key.clone()).or_default();
        // Taking out must not wait behind the registration it replaces.
        if matches!(asked, Asked::Withdraw(..)) {
            entry.queued = false;
        }
        if let Some(old) = entry.asked.replace(asked) {
            let answer = Effect::Answer(old.ticket(), Err(Error::Stopped));
            self.due.push_back(answer);
        }
        self.enqueue(&key);
    }

    /// What is said next about an instance, now that nothing is under way; takes note that it is.
    fn next(&mut self, key: &InstanceKey, now: Moment) -> Option<Say> {
        let generation = self.generation;
        let entry = self.entries.get_mut(key).filter(|e| e.doing.is_none())?;
        let (doing, say) = match entry.asked.take() {
            Some(Asked::Withdraw(ticket, instance)) => {
                entry.prepared = None;
                (Doing::Withdraw(ticket), Say::Deregister(instance))
            }
            Some(Asked::Publish(ticket, instance)) => {
                let mut steps = vec![Step::Register];
                if !instance.ephemeral {
                    if generation.is_none_or(|major| major < 2) {
                        steps.insert(0, Step::Detail);
                    }
                    let known = entry.prepared.take();
                    if known.is_none_or(|known| known == instance) {
                        steps.extend([Step::NoChecker, Step::CreateService, Step::Kind]);
                    }
                }
                let step = steps.pop()?;
                let say = step.say(instance.clone());
                let rest = Rest {
                    steps,
                    checked: None,
                };
                (Doing::Publish(ticket, instance, step, rest), say)
            }
            None => {
                let kept = entry.kept.as_mut().filter(|kept| kept.due.is_none())?;
                kept.began = now;
                let instance = kept.instance.clone();
                if kept.renews() {
                    (Doing::Renew, Say::Register(instance))
                } else {
                    let say = Say::Beat {
                        instance,
                        light: kept.light,
                        period: kept.interval,
                    };
                    (Doing::Beat, say)
                }
            }
        };
        entry.doing = Some(doing);
        Some(say)
    }

    /// Puts an instance that has something to say, and about which nothing is under way, into its queue.
    fn enqueue(&mut self, key: &InstanceKey) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.queued || entry.doing.is_some() {
            return;
        }
        let writes = match (&entry.asked, &entry.kept) {
            (Some(asked), _) => matches!(asked, Asked::Publish(..)),
            (None, Some(kept)) if kept.due.is_none() => kept.renews(),
            _ => return,
        };
        entry.queued = true;
        if writes {
            self.writes.push_back(key.clone());
        } else {
            self.talks.push_back(key.clone());
        }
    }

    /// Says what may be said now. A key that stands in both queues is found with nothing to say the second time.
    fn pump(&mut self, now: Moment) {
        while self.under_way < AT_ONCE {
            let mut next = self.talks.pop_front();
            if next.is_none() && self.next_write <= now {
                next = self.writes.pop_front();
            }
            let Some(key) = next else { return };
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.queued = false;
            }
            let Some(say) = self.next(&key, now) else {
                continue;
            };
            self.say(now, key, say);
        }
    }

    fn say(&mut self, now: Moment, key: InstanceKey, say: Say) {
        self.under_way += 1;
        if say.writes() {
            // What was not used is saved up for a second.
            let from = self
                .next_write
                .max(now.saturating_sub(Duration::from_secs(1)));
            self.next_write = from + self.write_step;
        }
        self.due.push_back(Effect::Call(key, say));
    }

    fn tell(&mut self, key: &InstanceKey, standing: Standing) {
        if let Some(kept) = self.entries.get_mut(key).and_then(|e| e.kept.as_mut())
            && kept.standing != standing
        {
            kept.standing = standing.clone();
            self.due.push_back(Effect::Tell(key.clone(), standing));
        }
    }

    /// A publication was accepted: an ephemeral instance is beaten for from now on, unless it is to be taken out already.
    fn keep(&mut self, now: Moment, instance: Instance) {
        let key = instance.key.clone();
        self.forget(&key);
        let seed = self.dice.seed();
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if matches!(entry.asked, Some(Asked::Withdraw(..))) {
            return;
        }
        if !instance.ephemeral {
            entry.prepared = Some(instance);
            return;
        }
        let interval = wanted_interval(&instance);
        let pace = Pace {
            cap: interval,
            ..Pace::NETWORK
        };
        entry.kept = Some(Kept {
            instance,
            interval,
            light: false,
            due: None,
            began: now,
            forgotten: false,
            failures: Backoff::new(pace, seed),
            // Whoever kept it knows that it was registered.
            standing: Standing::Kept,
        });
        self.plan(&key, now + interval);
    }

    fn called(&mut self, now: Moment, key: &InstanceKey, outcome: Result<Said, Error>) {
        let doing = self.entries.get_mut(key).and_then(|e| e.doing.take());
        let Some(doing) = doing else { return };
        self.under_way = self.under_way.saturating_sub(1);
        match doing {
            Doing::Beat | Doing::Renew => self.beaten(now, key, outcome),
            Doing::Withdraw(ticket) => {
                let answer = outcome.map(|_| ());
                self.due.push_back(Effect::Answer(ticket, answer));
            }
            Doing::Publish(ticket, instance, step, mut rest) => {
                match self.follow(&instance, step, outcome, &mut rest) {
                    Ok(()) => match (rest.steps.pop(), rest.checked.take()) {
                        (Some(step), checked) => {
                            let say = step.say(instance.clone());
                            if let Some(entry) = self.entries.get_mut(key) {
                                rest.checked = checked;
                                entry.doing = Some(Doing::Publish(ticket, instance, step, rest));
                            }
                            self.say(now, key.clone(), say);
                        }
                        (None, Some(why)) => {
                            let answer = Err(Error::HealthNotTold { why });
                            self.due.push_back(Effect::Answer(ticket, answer));
                        }
                        (None, None) => {
                            self.keep(now, instance);
                            self.due.push_back(Effect::Answer(ticket, Ok(())));
                        }
                    },
                    Err(error) => self.due.push_back(Effect::Answer(ticket, Err(error))),
                }
            }
        }
        self.enqueue(key);
        if self.entries.get(key).is_some_and(Entry::is_idle) {
            self.entries.remove(key);
        }
    }

    /// What one step of a publication came to: its end, or what is still to be done.
    fn follow(
        &self,
        instance: &Instance,
        step: Step,
        outcome: Result<Said, Error>,
        rest: &mut Rest,
    ) -> Result<(), Error> {
        let registered = matches!(
            step,
            Step::Detail | Step::Health | Step::Deregister | Step::RegisterAnew
        );
        match (step, outcome) {
            // On 2.x and 3.x it would be refused beside ephemeral ones; and a service whose checker was set is listed by other rules
            // afterwards, so not even that is done.
            (Step::Kind, Ok(Said::List(list)))
                if self.generation.is_none_or(|major| major >= 2)
                    && calls::is_of_another_kind(&list, instance.ephemeral) =>
            {
                let service = instance.key.service.clone();
                return Err(Error::WrongKind { service });
            }
            (Step::Detail, Ok(Said::Detail(Some(listed))))
                if listed.healthy != instance.healthy =>
            {
                rest.steps.push(Step::Health);
            }
            (Step::Health, Err(Error::Denied { .. })) => {
                rest.steps.extend([Step::RegisterAnew, Step::Deregister]);
            }
            // 3.x lets administrators alone set a checker. Listed and checked by the server is better than not listed.
            (Step::CreateService | Step::NoChecker, Err(error @ Error::Denied { .. })) => {
                rest.checked.get_or_insert_with(|| {
                    format!("the server's own checker decides it: {error}; switching it off takes an administrator's credentials")
                });
            }
            (_, Ok(_)) => {}
            // It is listed: a no to what comes after is none to the instance.
            (_, Err(error)) if registered => {
                let why = error.to_string();
                return Err(Error::HealthNotTold { why });
            }
            (_, Err(error)) => return Err(error),
        }
        Ok(())
    }

    /// The end of a beat, or of a registration in its place.
    fn beaten(&mut self, now: Moment, key: &InstanceKey, outcome: Result<Said, Error>) {
        let Some(kept) = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.kept.as_mut())
        else {
            // Withdrawn meanwhile.
            return;
        };
        match outcome {
            Ok(Said::Beat(answer)) if answer.code == wire::BEAT_NOT_FOUND => {
                kept.light = false;
                kept.forgotten = true;
                // Due at once: the write rate alone decides when.
            }
            Ok(said) => {
                kept.failures.reset();
                if let Said::Beat(answer) = said {
                    let interval = u64::try_from(answer.client_beat_interval).unwrap_or(0);
                    if interval > 0 {
                        kept.interval = Duration::from_millis(interval).clamp(SHORTEST, LONGEST);
                    }
                    kept.light = answer.light_beat_enabled.unwrap_or(kept.light);
                }
                let next = (kept.began + kept.interval).max(now);
                if std::mem::take(&mut kept.forgotten) {
                    // Told even when it was told before: each restoration is news.
                    kept.standing = Standing::Kept;
                    let restored = Effect::Tell(key.clone(), Standing::Restored);
                    self.due.push_back(restored);
                } else {
                    self.tell(key, Standing::Kept);
                }
                self.plan(key, next);
            }
            Err(error) if error.retry() == Retry::Never => {
                self.tell(key, Standing::Refused(error.to_string()));
                self.forget(key);
            }
            Err(error) => {
                // Whoever answers next may be another server, which must be told everything.
                kept.light = false;
                let wait = kept.failures.next_wait().min(kept.interval);
                self.tell(key, Standing::Unreachable(error.to_string()));
                self.plan(key, now + wait);
            }
        }
    }

    /// Whoever waits after a failure need not wait longer.
    fn back(&mut self, now: Moment) {
        let failing: Vec<(InstanceKey, Moment)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| {
                let kept = entry.kept.as_ref()?;
                let due = kept.due?;
                (kept.failures.failures() > 0).then(|| (key.clone(), due))
            })
            .collect();
        for (key, due) in failing {
            let soon = now + SPREAD.mul_f64(self.dice.draw());
            self.plan(&key, due.min(soon));
        }
    }
}

impl Kept {
    /// Whether it is registered again rather than beaten for.
    fn renews(&self) -> bool {
        self.forgotten || !self.instance.healthy
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.kept.is_none()
            && self.prepared.is_none()
            && self.asked.is_none()
            && self.doing.is_none()
    }
}

/// The interval an instance asks for in its metadata, else the default.
fn wanted_interval(instance: &Instance) -> Duration {
    instance
        .metadata
        .get(preserved::HEART_BEAT_INTERVAL)
        .and_then(|text| text.parse().ok())
        .map_or(heartbeat::INTERVAL, Duration::from_millis)
        .clamp(SHORTEST, LONGEST)
}

impl Machine for BeatBook {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Publish(ticket, instance) => {
                self.ask(instance.key.clone(), Asked::Publish(ticket, instance));
            }
            Event::Withdraw(ticket, instance) => {
                // First of all nothing new is said.
                self.forget(&instance.key);
                self.ask(instance.key.clone(), Asked::Withdraw(ticket, instance));
            }
            Event::Called(key, outcome) => self.called(now, &key, outcome),
            Event::Back => self.back(now),
            Event::Generation(major) => self.generation = major,
        }
        self.pump(now);
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, key)) = self.agenda.first().cloned()
            && at <= now
        {
            self.agenda.remove(&(at, key.clone()));
            if let Some(kept) = self.entries.get_mut(&key).and_then(|e| e.kept.as_mut()) {
                kept.due = None;
            }
            self.enqueue(&key);
        }
        self.pump(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let beat = self.agenda.first().map(|(at, _)| *at);
        // With all calls under way the next answer is what matters.
        let write =
            (!self.writes.is_empty() && self.under_way < AT_ONCE).then_some(self.next_write);
        [beat, write].into_iter().flatten().min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::{Listed, Namespace, ServiceKey};
    use proptest::prelude::*;

    fn instance(port: u16) -> Instance {
        Instance {
            key: InstanceKey {
                service: ServiceKey {
                    namespace: Namespace::public(),
                    group: "DEFAULT_GROUP".into(),
                    name: "orders".into(),
                },
                ip: [10, 0, 0, 1].into(),
                port,
            },
            cluster: "DEFAULT".into(),
            weight: 1.0,
            healthy: true,
            enabled: true,
            ephemeral: true,
            metadata: BTreeMap::new(),
        }
    }

    fn persistent(healthy: bool) -> Instance {
        Instance {
            ephemeral: false,
            healthy,
            ..instance(1)
        }
    }

    fn key(port: u16) -> InstanceKey {
        instance(port).key
    }

    fn beat_answer(code: i64, interval: i64) -> Result<Said, Error> {
        Ok(Said::Beat(wire::BeatAnswer {
            client_beat_interval: interval,
            code,
            light_beat_enabled: Some(true),
        }))
    }

    fn busy() -> Error {
        Error::Busy {
            server: "a".to_owned(),
            status: 500,
            message: "gone".into(),
        }
    }

    fn secs(secs: u64) -> Moment {
        Duration::from_secs(secs)
    }

    fn call(book: &mut BeatBook) -> Option<Say> {
        std::iter::from_fn(|| book.effect()).find_map(|effect| match effect {
            Effect::Call(_, say) => Some(say),
            _ => None,
        })
    }

    /// A book that keeps instance 1 since second 0.
    fn keeping(instance: Instance) -> BeatBook {
        let mut book = BeatBook::new(20, 1);
        book.handle(secs(0), Event::Publish(1, instance.clone()));
        assert_eq!(call(&mut book), Some(Say::Register(instance)));
        book.handle(secs(0), Event::Called(key(1), Ok(Said::Done)));
        assert_eq!(book.effect(), Some(Effect::Answer(1, Ok(()))));
        book
    }

    #[test]
    fn the_first_beat_is_full_and_the_next_ones_are_light_at_the_servers_interval() {
        let mut book = keeping(instance(1));
        assert_eq!(book.deadline(), Some(secs(5)));
        book.wake(secs(5));
        assert!(matches!(
            call(&mut book),
            Some(Say::Beat { light: false, .. })
        ));
        let answer = beat_answer(wire::BEAT_OK, 8000);
        book.handle(secs(5), Event::Called(key(1), answer));
        assert_eq!(book.deadline(), Some(secs(13)));
        book.wake(secs(13));
        assert!(matches!(
            call(&mut book),
            Some(Say::Beat { light: true, .. })
        ));
    }

    #[test]
    fn an_instance_the_server_forgot_is_registered_at_once_and_told_restored() {
        let mut book = keeping(instance(1));
        book.wake(secs(5));
        call(&mut book);
        let forgotten = || beat_answer(wire::BEAT_NOT_FOUND, 5000);
        book.handle(secs(5), Event::Called(key(1), forgotten()));
        assert_eq!(call(&mut book), Some(Say::Register(instance(1))));
        // The registration fails: the next try is a registration again, not a beat.
        book.handle(secs(5), Event::Called(key(1), Err(busy())));
        let next = book.deadline().unwrap();
        book.wake(next);
        let effects: Vec<_> = std::iter::from_fn(|| book.effect()).collect();
        assert!(matches!(
            &effects[..],
            [
                Effect::Tell(_, Standing::Unreachable(_)),
                Effect::Call(_, Say::Register(_))
            ]
        ));
        book.handle(next, Event::Called(key(1), Ok(Said::Done)));
        let restored = Effect::Tell(key(1), Standing::Restored);
        assert_eq!(book.effect(), Some(restored));
    }

    #[test]
    fn a_process_that_slept_for_a_minute_beats_once_on_waking() {
        let mut book = keeping(instance(1));
        book.wake(secs(65));
        assert!(matches!(call(&mut book), Some(Say::Beat { .. })));
        assert_eq!(book.effect(), None);
        let answer = beat_answer(wire::BEAT_OK, 5000);
        book.handle(secs(65), Event::Called(key(1), answer));
        assert_eq!(book.deadline(), Some(secs(70)));
    }

    #[test]
    fn an_unhealthy_instance_is_registered_again_instead_of_beaten() {
        let ill = Instance {
            healthy: false,
            ..instance(1)
        };
        let mut book = keeping(ill.clone());
        book.wake(secs(5));
        assert_eq!(call(&mut book), Some(Say::Register(ill)));
    }

    #[test]
    fn a_withdrawal_waits_for_the_beat_under_way_and_nothing_is_said_after_it() {
        let mut book = keeping(instance(1));
        book.wake(secs(5));
        assert!(matches!(call(&mut book), Some(Say::Beat { .. })));
        book.handle(secs(5), Event::Withdraw(2, instance(1)));
        assert_eq!(book.effect(), None, "the beat has not ended");
        // Not even the registration that this answer asks for.
        let forgotten = beat_answer(wire::BEAT_NOT_FOUND, 5000);
        book.handle(secs(6), Event::Called(key(1), forgotten));
        assert_eq!(call(&mut book), Some(Say::Deregister(instance(1))));
        book.handle(secs(7), Event::Called(key(1), Ok(Said::Done)));
        assert_eq!(book.effect(), Some(Effect::Answer(2, Ok(()))));
        assert!(book.deadline().is_none() && book.entries.is_empty());
    }

    #[test]
    fn what_failed_while_the_registry_was_away_is_said_within_a_second_of_its_return() {
        let mut book = keeping(instance(1));
        let mut now = secs(5);
        book.wake(now);
        for _ in 0..10 {
            call(&mut book);
            book.handle(now, Event::Called(key(1), Err(busy())));
            now = book.deadline().unwrap();
            book.wake(now);
        }
        call(&mut book);
        book.handle(now, Event::Called(key(1), Err(busy())));
        book.handle(now, Event::Back);
        assert!(book.deadline().unwrap() <= now + secs(1));
    }

    /// What a book says to publish `instance`, answering each call with `answer`.
    fn said(
        book: &mut BeatBook,
        ticket: Ticket,
        instance: &Instance,
        answer: impl Fn(&Say) -> Said,
    ) -> Vec<&'static str> {
        book.handle(secs(1), Event::Publish(ticket, instance.clone()));
        let mut words = Vec::new();
        while let Some(effect) = book.effect() {
            match effect {
                Effect::Call(key, say) => {
                    words.push(say.call().what);
                    let said = answer(&say);
                    book.handle(secs(1), Event::Called(key, Ok(said)));
                }
                Effect::Answer(..) | Effect::Tell(..) => {}
            }
        }
        words
    }

    fn nothing_listed() -> ServiceList {
        ServiceList {
            hosts: Vec::new(),
            protected: false,
            cache: secs(10),
        }
    }

    fn listed(instance: &Instance, healthy: bool) -> Listed {
        Listed {
            ip: instance.key.ip.to_string().into(),
            port: instance.key.port.into(),
            cluster: "DEFAULT".into(),
            weight: 1.0,
            healthy,
            enabled: true,
            ephemeral: None,
            metadata: BTreeMap::new(),
        }
    }

    fn willing(say: &Say) -> Said {
        match say {
            Say::Kind(_) => Said::List(nothing_listed()),
            Say::Detail(instance) => Said::Detail(Some(listed(instance, instance.healthy))),
            Say::Health(_) => Said::NotByHand,
            _ => Said::Done,
        }
    }

    #[test]
    fn the_service_and_its_checker_are_settled_before_the_first_persistent_instance() {
        let all = ["list", "service", "checker", "register", "detail"];
        // Of an unknown version it is looked at as well.
        for (generation, steps) in [(None, &all[..]), (Some(1), &all[..]), (Some(2), &all[..4])] {
            let mut book = BeatBook::new(20, 1);
            book.handle(secs(0), Event::Generation(generation));
            assert_eq!(said(&mut book, 1, &persistent(true), willing), steps);
            // A flip needs no more than the last of them.
            let flip = said(&mut book, 2, &persistent(false), willing);
            assert_eq!(flip, steps[3..]);
            // The same again: the registry was told that before, and lost it.
            assert_eq!(said(&mut book, 3, &persistent(false), willing), steps);
            assert_eq!(book.deadline(), None, "no beats");
        }
    }

    #[test]
    fn beside_ephemeral_instances_no_persistent_service_is_prepared() {
        let other = |say: &Say| match say {
            Say::Kind(instance) => Said::List(ServiceList {
                hosts: vec![Listed {
                    ephemeral: Some(!instance.ephemeral),
                    ..listed(instance, true)
                }],
                ..nothing_listed()
            }),
            say => willing(say),
        };
        let mut book = BeatBook::new(20, 1);
        assert_eq!(said(&mut book, 1, &persistent(true), other), ["list"]);
        // 1.4 mixes kinds.
        book.handle(secs(0), Event::Generation(Some(1)));
        assert_eq!(said(&mut book, 2, &persistent(true), other).len(), 5);
    }

    /// What a book says to publish an instance whose health 1.4 does not take over, when setting it by hand ends so.
    fn said_to_1_4(
        by_hand: &Result<Said, Error>,
    ) -> (Vec<&'static str>, Option<Result<(), Error>>) {
        let mut book = BeatBook::new(20, 1);
        book.handle(secs(0), Event::Generation(Some(1)));
        book.handle(secs(1), Event::Publish(1, persistent(false)));
        let (mut words, mut end) = (Vec::new(), None);
        while let Some(effect) = book.effect() {
            match effect {
                Effect::Call(key, say) => {
                    words.push(say.call().what);
                    let outcome = match &say {
                        Say::Detail(instance) => Ok(Said::Detail(Some(listed(instance, true)))),
                        Say::Health(_) => by_hand.clone(),
                        say => Ok(willing(say)),
                    };
                    book.handle(secs(1), Event::Called(key, outcome));
                }
                Effect::Answer(_, outcome) => end = Some(outcome),
                Effect::Tell(..) => {}
            }
        }
        (words.split_off(3), end)
    }

    #[test]
    fn a_health_that_1_4_did_not_take_over_is_set_by_hand_or_by_registering_anew() {
        let mut words = vec!["register", "detail", "health"];
        assert_eq!(said_to_1_4(&Ok(Said::Done)), (words.clone(), Some(Ok(()))));
        // With authentication on, 1.4.8 denies it to everybody.
        let denied = Error::Denied {
            server: "a".to_owned(),
            message: "resource name invalid!".into(),
        };
        let (_, end) = said_to_1_4(&Err(busy()));
        assert!(
            matches!(end, Some(Err(Error::HealthNotTold { .. }))),
            "{end:?}"
        );
        words.extend(["deregister", "register"]);
        assert_eq!(said_to_1_4(&Err(denied)), (words, Some(Ok(()))));
    }

    #[derive(Clone, Debug)]
    enum Happening {
        Publish(u16, bool),
        Withdraw(u16),
        Answer(u16, u8),
        Back,
        Sleep(u64),
    }

    fn step() -> impl Strategy<Value = Happening> {
        prop_oneof![
            2 => (1_u16..4, prop::bool::weighted(0.8)).prop_map(|(port, kind)| Happening::Publish(port, kind)),
            1 => (1_u16..4).prop_map(Happening::Withdraw),
            6 => (1_u16..4, 0_u8..5).prop_map(|(port, how)| Happening::Answer(port, how)),
            1 => Just(Happening::Back),
            3 => (0_u64..20_000).prop_map(Happening::Sleep),
        ]
    }

    proptest! {
        /// Under any order of events: one call under way about an instance; no beat for what was withdrawn; every ticket is
        /// answered once; what is kept has a call under way, waiting, or planned within an interval; deadlines move on.
        #[test]
        fn what_is_kept_is_beaten_for_and_nothing_else(seed: u64, steps in prop::collection::vec(step(), 0..160)) {
            let mut book = BeatBook::new(20, seed);
            let mut now = secs(1);
            let mut open: BTreeMap<u16, Say> = BTreeMap::new();
            let mut waiting: BTreeSet<Ticket> = BTreeSet::new();
            let mut wanted: BTreeMap<u16, bool> = BTreeMap::new();
            let mut ticket = 0;
            let drain = Happening::Answer(0, 0);
            for step in steps.into_iter().chain(std::iter::repeat_n(drain, 300)) {
                match step {
                    Happening::Publish(port, ephemeral) => {
                        ticket += 1;
                        waiting.insert(ticket);
                        wanted.insert(port, true);
                        book.handle(now, Event::Publish(ticket, Instance { ephemeral, ..instance(port) }));
                    }
                    Happening::Withdraw(port) => {
                        ticket += 1;
                        waiting.insert(ticket);
                        wanted.insert(port, false);
                        book.handle(now, Event::Withdraw(ticket, instance(port)));
                    }
                    Happening::Answer(port, how) => {
                        let port = if port == 0 { open.keys().next().copied().unwrap_or(0) } else { port };
                        if let Some(say) = open.remove(&port) {
                            let outcome = match (how, &say) {
                                (0 | 1, Say::Beat { .. }) => beat_answer(wire::BEAT_OK, 5000),
                                (2, Say::Beat { .. }) => beat_answer(wire::BEAT_NOT_FOUND, 5000),
                                (0..=2, say) => Ok(willing(say)),
                                (3, _) => Err(busy()),
                                _ => Err(Error::Refused { server: "a".into(), status: 400, message: "no".into() }),
                            };
                            book.handle(now, Event::Called(key(port), outcome));
                        } else if port == 0 {
                            now += Duration::from_millis(60);
                            book.wake(now);
                        }
                    }
                    Happening::Back => book.handle(now, Event::Back),
                    Happening::Sleep(ms) => {
                        now += Duration::from_millis(ms);
                        book.wake(now);
                        prop_assert!(book.deadline().is_none_or(|next| next > now));
                    }
                }
                while let Some(effect) = book.effect() {
                    match effect {
                        Effect::Call(key, say) => {
                            if matches!(say, Say::Beat { .. }) {
                                prop_assert_eq!(wanted.get(&key.port), Some(&true), "a beat for what was withdrawn");
                            }
                            prop_assert!(open.insert(key.port, say).is_none(), "two calls at a time");
                        }
                        Effect::Answer(ticket, _) => prop_assert!(waiting.remove(&ticket), "answered twice"),
                        Effect::Tell(..) => {}
                    }
                }
                prop_assert_eq!(book.under_way, open.len());
                for (key, entry) in &book.entries {
                    prop_assert_eq!(entry.doing.is_some(), open.contains_key(&key.port));
                    if let Some(kept) = &entry.kept {
                        prop_assert!(kept.due.is_some() || entry.doing.is_some() || entry.queued);
                        prop_assert!(kept.due.is_none_or(|due| due <= now + kept.interval));
                    }
                    prop_assert!(entry.asked.is_none() || entry.doing.is_some() || entry.queued);
                    prop_assert!(!entry.is_idle() , "an entry for nothing");
                }
            }
            prop_assert!(waiting.is_empty(), "tickets without an answer: {:?}", waiting);
        }

        /// However many want to be registered at once: no more writes in a second than the rate, and a second's worth saved up.
        #[test]
        fn writes_keep_to_their_rate(seed: u64, rate in 1_u32..50, count in 1_u16..200) {
            let mut book = BeatBook::new(rate, seed);
            let mut now = secs(100);
            for port in 1..=count {
                book.handle(now, Event::Publish(port.into(), instance(port)));
            }
            let mut written: Vec<Moment> = Vec::new();
            while written.len() < usize::from(count) {
                while let Some(effect) = book.effect() {
                    if let Effect::Call(key, say) = effect {
                        if say.writes() {
                            written.push(now);
                        }
                        book.handle(now, Event::Called(key, Ok(Said::Done)));
                    }
                }
                if written.len() < usize::from(count) {
                    let next = book.deadline().unwrap();
                    prop_assert!(next > now);
                    now = next;
                    book.wake(now);
                }
            }
            let took = *written.last().unwrap() - secs(100) + Duration::from_millis(1);
            let least = secs(1) * u32::from(count).saturating_sub(rate + 1) / rate;
            prop_assert!(took >= least, "{count} writes in {took:?} at {rate}/s");
        }
    }
}
