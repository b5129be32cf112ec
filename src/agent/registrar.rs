//! What should be listed, and what the registry says is: the machine of one service.
//!
//! Level-triggered: every event ends in one comparison of what is wanted (from descriptor, address and gate) with what may be
//! listed, and at most one call is under way. Nothing is published before the gate opened once. A call that failed may have
//! been heard all the same, so whatever was ever sent counts as perhaps listed until a withdrawal succeeded. What a failing
//! probe, a changed address or the end of the agent take out is named by the instance that was sent, not by the one wanted now.
//!
//! A persistent instance (`ephemeral: false`) is not taken out by a failing probe: the verdict is its health in the registry. It
//! outlives us, and no beat tells that the registry forgot its health (a server restarted, a whole cluster did), so it is read
//! back often. One that an earlier run left listed is ours too: its health is set right before the probe ever passed.
//!
//! Leaving: withdraw, ask until no server has it (reads lag writes by 0.6 s, other nodes by more), stay for the drain delay, say
//! [`Effect::Left`]. Whoever never published looks once whether an agent before it, which was killed, left the instance there.

use super::view::ServiceState;
use crate::backoff::Backoff;
use crate::backoff::Dice;
use crate::backoff::Pace;
use crate::descriptor::spec::{OnFailure, Service};
use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::Error;
use crate::nacos::Retry;
use crate::nacos::model::{
    Instance, InstanceKey, Listed, Namespace, ServiceKey, Standing, preserved,
};
use std::{collections::VecDeque, net::IpAddr, time::Duration};

/// No verdict from a read before: other nodes of a cluster lag a write by up to 3 s.
const LAG: Duration = Duration::from_secs(3);
/// Between two looks at what the registry has; up to a quarter more by jitter.
const RESYNC: Duration = Duration::from_secs(60);
/// The same for a persistent instance, for which no beat tells that something is wrong.
const RESYNC_PERSISTENT: Duration = Duration::from_secs(10);
/// Over this time the tries of everybody are spread once the registry is back.
const SPREAD: Duration = Duration::from_secs(1);
/// Between the first looks whether a withdrawn instance is gone; the longer it takes, the longer the next pause.
const GONE: Duration = Duration::from_millis(250);
/// Whoever leaves right after its start waits so long for its address, to see what is left there.
const ADDRESS: Duration = Duration::from_secs(1);
/// A withdrawn instance that is still listed after this long is withdrawn again.
const AGAIN: Duration = Duration::from_secs(5);
/// After a refusal that will not change by itself: an operator may mend the registry, so it is asked again, slowly.
const SLOW: Pace = Pace {
    base: Duration::from_secs(60),
    cap: Duration::from_secs(300),
    floor: Duration::from_secs(30),
};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One sentence.
    pub why: String,
    /// It will not change by itself.
    pub for_good: bool,
    /// The registry answered no: what it lists is what it listed before.
    pub untouched: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            why: error.to_string(),
            for_good: error.retry() == Retry::Never && error != Error::Stopped,
            untouched: matches!(
                error,
                Error::Denied { .. } | Error::Refused { .. } | Error::WrongKind { .. }
            ),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The descriptor says this now.
    Specified(Box<Service>),
    /// The address is this now; the error says why there is none.
    Located(Result<IpAddr, String>),
    /// What the probe says; without a verdict (a new probe's first results) only the reason is news, and the last verdict holds.
    Probed(Option<bool>, Option<String>),
    /// [`Effect::Publish`] ended.
    Published(Result<(), Failure>),
    /// [`Effect::Withdraw`] ended.
    Withdrawn(Result<(), Failure>),
    /// [`Effect::ReadBack`] ended.
    ReadBack(Result<Option<Listed>, Failure>),
    /// [`Effect::ConfirmGone`] ended: whether no server has it.
    Gone(Result<bool, Failure>),
    /// The transport says how well the instance is kept.
    Stands(Standing),
    /// The registry was away and is back.
    Back,
    /// Take it out in order, for good.
    Leave,
}

/// What to do; at most one of the first four is under way.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// List this instance.
    Publish(Instance),
    /// Take this instance out.
    Withdraw(Instance),
    /// Read what the registry has of this instance.
    ReadBack(Instance),
    /// Ask whether any server still has this instance.
    ConfirmGone(Instance),
    /// The state or its reason changed.
    Show(Report),
    /// It is out, confirmed, and its drain delay is over. Said once, last.
    Left,
}

/// State and reason, as `status` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// State.
    pub state: ServiceState,
    /// One sentence; `None` when all is well.
    pub reason: Option<String>,
    /// The instance that is, or would be, listed.
    pub instance: Option<InstanceKey>,
    /// Something that happened and is over, for the history: the registry had forgotten the instance.
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// Withdrawal is due or under way.
    Withdrawing,
    /// Withdrawn at this moment; being read back.
    Confirming(Moment),
    /// Gone; the delay ends then.
    Lingering(Moment),
    Left,
}

/// The machine.
#[derive(Debug)]
pub struct Registrar {
    spec: Service,
    address: Result<IpAddr, String>,
    /// The address, or why there is none, was told.
    located: bool,
    healthy: Option<bool>,
    probe_why: Option<String>,
    passed_once: bool,
    /// It was looked whether an earlier run left the instance listed.
    looked: bool,
    /// Something was published, or tried to be, in this run.
    ever_sent: bool,
    /// What may be listed: everything ever sent and not withdrawn.
    sent: Option<Instance>,
    /// What `sent` was before the last publication: that is listed where the registry said no to it.
    before: Option<Instance>,
    /// The weight that was sent before `sent` had another one: listed again, it is our own word that came late, or a server that
    /// was cut off, and no operator's. It is corrected once.
    former_weight: Option<f64>,
    /// `sent` was accepted.
    accepted: bool,
    under_way: bool,
    not_before: Moment,
    failures: Backoff,
    refusals: Backoff,
    trouble: Option<Failure>,
    standing: Option<String>,
    /// What the registry has differs from what was sent, and an operator may have wanted that.
    overridden: Option<String>,
    read_at: Option<Moment>,
    dice: Dice,
    leaving: Leaving,
    shown: Option<Report>,
    due: VecDeque<Effect>,
}

impl Registrar {
    /// Nothing is listed, nothing known of address and health.
    #[must_use]
    pub fn new(spec: Service, seed: u64) -> Self {
        let mut machine = Self {
            spec,
            address: Err("no address yet".to_owned()),
            located: false,
            healthy: None,
            probe_why: None,
            passed_once: false,
            looked: false,
            ever_sent: false,
            sent: None,
            before: None,
            former_weight: None,
            accepted: false,
            under_way: false,
            not_before: Moment::ZERO,
            failures: Backoff::new(Pace::NETWORK, seed),
            refusals: Backoff::new(SLOW, !seed),
            trouble: None,
            standing: None,
            overridden: None,
            read_at: None,
            dice: Dice::new(seed.rotate_left(7)),
            leaving: Leaving::No,
            shown: None,
            due: VecDeque::new(),
        };
        machine.show(None);
        machine
    }

    /// What should be listed now.
    fn wanted(&self) -> Option<Instance> {
        let ip = *self.address.as_ref().ok()?;
        let healthy = self.healthy.unwrap_or(false);
        let listed = match self.spec.on_failure {
            OnFailure::Deregister => healthy,
            OnFailure::Unhealthy => self.passed_once,
        };
        (listed && self.leaving == Leaving::No).then(|| instance(&self.spec, ip, healthy))
    }

    fn step(&mut self, now: Moment) {
        self.act(now);
        self.show(None);
    }

    fn act(&mut self, now: Moment) {
        if self.under_way || self.leaving == Leaving::Left {
            return;
        }
        match (self.leaving, &self.sent) {
            (Leaving::Withdrawing, None) => {
                if let Some(left) = self.perhaps_left_by_an_earlier_run() {
                    self.under_way = true;
                    self.due.push_back(Effect::ReadBack(left));
                    return;
                }
                if !self.located && now < self.not_before {
                    return;
                }
                self.leaving = Leaving::Lingering(now);
            }
            (Leaving::Confirming(since), Some(sent)) => {
                if now >= since + AGAIN {
                    self.leaving = Leaving::Withdrawing;
                } else if self.not_before <= now {
                    self.under_way = true;
                    self.due.push_back(Effect::ConfirmGone(sent.clone()));
                    return;
                }
            }
            _ => {}
        }
        if let Leaving::Lingering(until) = self.leaving {
            if until <= now {
                self.leaving = Leaving::Left;
                self.show(None);
                self.due.push_back(Effect::Left);
            }
            return;
        }
        if matches!(self.leaving, Leaving::Confirming(_)) || self.not_before > now {
            return;
        }
        let wanted = self.wanted();
        match (&self.sent, wanted) {
            (None, None) => {
                if let Some(left) = self.perhaps_left_by_an_earlier_run() {
                    self.under_way = true;
                    self.due.push_back(Effect::ReadBack(left));
                }
            }
            (Some(sent), wanted) if wanted.as_ref().is_none_or(|w| !is_at(w, sent)) => {
                self.under_way = true;
                // Whatever becomes of it, the transport keeps it no longer: if it is wanted again, it is published again.
                self.accepted = false;
                self.read_at = None;
                self.due.push_back(Effect::Withdraw(sent.clone()));
            }
            (sent, Some(wanted)) if !self.accepted || sent.as_ref() != Some(&wanted) => {
                self.under_way = true;
                self.accepted = false;
                self.read_at = None;
                self.ever_sent = true;
                self.before = self.sent.replace(wanted.clone());
                if let Some(before) = &self.before
                    && before.weight != wanted.weight
                {
                    self.former_weight = Some(before.weight);
                }
                self.due.push_back(Effect::Publish(wanted));
            }
            (Some(sent), _) => {
                if self.read_at.is_some_and(|at| at <= now) {
                    self.read_at = None;
                    self.under_way = true;
                    self.due.push_back(Effect::ReadBack(sent.clone()));
                }
            }
            (None, Some(_)) => {}
        }
    }

    /// An instance that may be listed though we never sent it, because an agent before us was killed: a persistent one as healthy
    /// though the probe says otherwise, or any that must not stay when we leave.
    fn perhaps_left_by_an_earlier_run(&self) -> Option<Instance> {
        let asks = match self.leaving {
            Leaving::No => !self.spec.ephemeral && self.healthy == Some(false),
            Leaving::Withdrawing => !self.ever_sent,
            _ => false,
        };
        let ip = *self.address.as_ref().ok()?;
        (asks && !self.looked).then(|| instance(&self.spec, ip, false))
    }

    fn resync(&mut self) -> Duration {
        let period = if self.spec.ephemeral {
            RESYNC
        } else {
            RESYNC_PERSISTENT
        };
        period + period.mul_f64(self.dice.draw() / 4.0)
    }

    fn failed(&mut self, now: Moment, failure: Failure) {
        let wait = if failure.for_good {
            self.refusals.next_wait()
        } else {
            self.failures.next_wait()
        };
        self.not_before = now + wait;
        self.trouble = Some(failure);
    }

    fn succeeded(&mut self, now: Moment) {
        self.failures.reset();
        self.refusals.reset();
        self.trouble = None;
        self.not_before = now;
    }

    fn report(&self) -> (ServiceState, Option<String>) {
        use ServiceState as S;
        let trouble = self.trouble.as_ref();
        let why_not = trouble.map(|trouble| trouble.why.clone());
        match self.leaving {
            Leaving::No => {}
            Leaving::Left => return (S::Drained, None),
            Leaving::Withdrawing => return (S::Draining, why_not),
            Leaving::Confirming(_) => {
                let reason = "taken out; waiting until the registry no longer lists it";
                return (S::Draining, Some(reason.to_owned()));
            }
            Leaving::Lingering(_) => {
                let reason = "out of the registry; callers are given time to hear of it";
                return (S::Draining, Some(reason.to_owned()));
            }
        }
        if let Some(trouble) = trouble.filter(|trouble| trouble.for_good) {
            return (S::Refused, Some(trouble.why.clone()));
        }
        if !self.passed_once && self.spec.probe.is_none() {
            return (S::Registering, None);
        }
        if !self.passed_once {
            let reason = self.probe_why.clone();
            return (
                S::Waiting,
                Some(reason.unwrap_or_else(|| "the probe has not passed yet".to_owned())),
            );
        }
        if let Some(why) = why_not.or_else(|| self.standing.clone()) {
            return (S::Unreachable, Some(why));
        }
        if self.healthy == Some(false) {
            let why = self.probe_why.clone();
            return (
                S::Unhealthy,
                Some(why.unwrap_or_else(|| "the probe fails".to_owned())),
            );
        }
        if let Err(why) = &self.address {
            return (S::Waiting, Some(why.clone()));
        }
        if self.accepted {
            (S::Registered, self.overridden.clone())
        } else {
            (S::Registering, None)
        }
    }

    fn show(&mut self, note: Option<String>) {
        let (state, reason) = self.report();
        let planned = || Some(instance(&self.spec, *self.address.as_ref().ok()?, true).key);
        let instance = match &self.sent {
            Some(sent) => Some(sent.key.clone()),
            None => planned(),
        };
        let report = Report {
            state,
            reason,
            instance,
            note,
        };
        let same = self.shown.as_ref().is_some_and(|shown| {
            (shown.state, &shown.reason, &shown.instance)
                == (report.state, &report.reason, &report.instance)
        });
        if !same || report.note.is_some() {
            self.shown = Some(report.clone());
            self.due.push_back(Effect::Show(report));
        }
    }

    fn gone(&mut self, now: Moment, outcome: Result<bool, Failure>) {
        match outcome {
            Ok(true) => {
                self.sent = None;
                self.leaving = Leaving::Lingering(now + self.spec.drain_delay);
            }
            Ok(false) => {
                // Reads lag; who has not gone after that will not have gone a moment later.
                let waited = match self.leaving {
                    Leaving::Confirming(since) => now.saturating_sub(since),
                    _ => Duration::ZERO,
                };
                let wait = GONE.max(waited / 3);
                self.not_before = now + wait.mul_f64(0.75 + self.dice.draw() / 2.0);
            }
            Err(failure) => {
                self.not_before = now + GONE.max(self.failures.next_wait());
                self.trouble = Some(failure);
            }
        }
    }

    fn read(&mut self, now: Moment, outcome: Result<Option<Listed>, Failure>) {
        if self.sent.is_none() {
            let leaves = self.leaving != Leaving::No;
            match outcome {
                Ok(listed) => {
                    if leaves && listed.is_some() {
                        self.sent = self.perhaps_left_by_an_earlier_run();
                    }
                    self.looked = true;
                    // Whoever listed it had seen it pass.
                    self.passed_once |= listed.is_some();
                }
                // Asked once: a registry that does not answer must not hold up who has nothing of its own there.
                Err(_) if leaves => self.looked = true,
                Err(_) => self.not_before = now + self.failures.next_wait(),
            }
            return;
        }
        self.read_at = Some(now + self.resync());
        let Some(sent) = &self.sent else { return };
        match outcome {
            // A read that failed says nothing about the instance; but for a persistent one nothing else is said.
            Err(failure) => {
                if !sent.ephemeral {
                    self.standing = Some(failure.why);
                }
            }
            Ok(None) => {
                self.accepted = false;
                let note = "the registry had lost it; registered again".to_owned();
                self.show(Some(note));
            }
            Ok(Some(listed)) if listed.healthy != sent.healthy => {
                // Registering again counts as a sign of life and carries the health.
                self.accepted = false;
                if !sent.ephemeral {
                    let note = "the registry had another health for it; told again".to_owned();
                    self.show(Some(note));
                }
            }
            Ok(Some(listed))
                if listed.weight != sent.weight && self.former_weight == Some(listed.weight) =>
            {
                self.former_weight = None;
                self.accepted = false;
                let note = format!(
                    "the registry listed the former weight {}; told again",
                    listed.weight
                );
                self.show(Some(note));
            }
            Ok(Some(listed)) => {
                if !sent.ephemeral {
                    self.standing = None;
                }
                self.overridden = (listed.weight != sent.weight).then(|| {
                    format!(
                        "the registry lists weight {} instead of {}: an operator changed it",
                        listed.weight, sent.weight
                    )
                });
            }
        }
    }
}

/// Whether two instances are one record: on 1.4 the cluster and the kind are part of what is withdrawn.
fn is_at(one: &Instance, other: &Instance) -> bool {
    one.key == other.key && one.cluster == other.cluster && one.ephemeral == other.ephemeral
}

/// The instance a descriptor stands for.
#[must_use]
pub fn instance(spec: &Service, ip: IpAddr, healthy: bool) -> Instance {
    let mut metadata = spec.metadata.clone();
    for (name, value) in [
        (preserved::HEART_BEAT_INTERVAL, spec.heartbeat.interval),
        (preserved::HEART_BEAT_TIMEOUT, spec.heartbeat.timeout),
        (preserved::IP_DELETE_TIMEOUT, spec.heartbeat.delete_after),
    ] {
        if let Some(value) = value {
            metadata.insert(name.to_owned(), value.as_millis().to_string());
        }
    }
    Instance {
        key: InstanceKey {
            service: ServiceKey {
                namespace: Namespace::new(&spec.namespace),
                group: spec.group.as_str().into(),
                name: spec.name.as_str().into(),
            },
            ip,
            port: spec.port,
        },
        cluster: spec.cluster.as_str().into(),
        weight: spec.weight,
        healthy,
        enabled: spec.enabled,
        ephemeral: spec.ephemeral,
        metadata,
    }
}

impl Machine for Registrar {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Specified(spec) => {
                self.looked &= self.spec.ephemeral == spec.ephemeral;
                self.spec = *spec;
                self.overridden = None;
                if self.leaving == Leaving::No {
                    // What was refused may be right now.
                    self.succeeded(now);
                }
            }
            Event::Located(address) => {
                self.looked &= self.address == address;
                self.located = true;
                self.address = address;
            }
            Event::Probed(healthy, why) => {
                self.passed_once |= healthy == Some(true);
                self.healthy = healthy.or(self.healthy);
                self.probe_why = why;
            }
            Event::Published(outcome) => {
                self.under_way = false;
                match outcome {
                    Ok(()) => {
                        self.succeeded(now);
                        self.accepted = true;
                        self.standing = None;
                        self.overridden = None;
                        self.read_at = Some(now + LAG);
                    }
                    Err(failure) => {
                        if failure.untouched {
                            self.sent = self.before.take();
                        }
                        self.failed(now, failure);
                    }
                }
            }
            Event::Withdrawn(outcome) => {
                self.under_way = false;
                match outcome {
                    Ok(()) => {
                        self.succeeded(now);
                        self.accepted = false;
                        self.standing = None;
                        self.read_at = None;
                        if self.leaving == Leaving::Withdrawing {
                            self.leaving = Leaving::Confirming(now);
                        } else {
                            self.sent = None;
                        }
                    }
                    Err(failure) => self.failed(now, failure),
                }
            }
            Event::ReadBack(outcome) => {
                self.under_way = false;
                self.read(now, outcome);
            }
            Event::Gone(outcome) => {
                self.under_way = false;
                self.gone(now, outcome);
            }
            Event::Back => {
                let soon = now + SPREAD.mul_f64(self.dice.draw());
                if self
                    .trouble
                    .as_ref()
                    .is_some_and(|trouble| !trouble.for_good)
                {
                    self.not_before = self.not_before.min(soon);
                    // What failed while nobody was there says nothing about the next failure: it is a first one.
                    self.failures.reset();
                }
                if !self.spec.ephemeral {
                    // A server that has just started finds persistent instances unhealthy only 3 s after it is ready.
                    self.read_at = self.read_at.map(|at| at.min(soon + LAG));
                }
            }
            Event::Stands(standing) if self.accepted => match standing {
                Standing::Kept => self.standing = None,
                Standing::Restored => {
                    self.standing = None;
                    let note = "the registry had forgotten it; registered again".to_owned();
                    self.show(Some(note));
                }
                Standing::Unreachable(why) => self.standing = Some(why),
                Standing::Refused(why) => {
                    self.accepted = false;
                    self.failed(
                        now,
                        Failure {
                            why,
                            for_good: true,
                            untouched: true,
                        },
                    );
                }
            },
            Event::Stands(_) => {}
            Event::Leave => {
                if self.leaving == Leaving::No {
                    self.leaving = Leaving::Withdrawing;
                    self.not_before = if self.located { now } else { now + ADDRESS };
                    self.trouble = None;
                }
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        if self.under_way {
            return None;
        }
        match self.leaving {
            Leaving::Left => None,
            Leaving::Lingering(until) => Some(until),
            Leaving::Withdrawing | Leaving::Confirming(_) => Some(self.not_before),
            Leaving::No => {
                let wanted = self.wanted();
                let differs = wanted != self.sent || wanted.is_some() && !self.accepted;
                let looks = self.sent.is_none() && self.perhaps_left_by_an_earlier_run().is_some();
                if differs || looks {
                    Some(self.not_before)
                } else {
                    self.read_at.map(|at| at.max(self.not_before))
                }
            }
        }
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::spec::{Address, AddressRules, Heartbeat};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn spec(weight: f64, on_failure: OnFailure) -> Service {
        Service {
            name: "orders".to_owned(),
            group: "DEFAULT_GROUP".to_owned(),
            namespace: "public".to_owned(),
            cluster: "DEFAULT".to_owned(),
            port: 8080,
            address: Address::Auto(AddressRules::default()),
            weight,
            enabled: true,
            metadata: BTreeMap::new(),
            heartbeat: Heartbeat::default(),
            probe: None,
            on_failure,
            drain_delay: Duration::ZERO,
            ephemeral: true,
        }
    }

    fn listed(instance: &Instance) -> Listed {
        Listed {
            ip: instance.key.ip.to_string().into(),
            port: instance.key.port.into(),
            cluster: "DEFAULT".into(),
            weight: instance.weight,
            healthy: instance.healthy,
            enabled: true,
            ephemeral: None,
            metadata: BTreeMap::new(),
        }
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Probed(bool),
        Located(Option<u8>),
        Weight(u8),
        /// The call under way is carried out (or not) and answered (or not heard).
        Answer {
            done: bool,
            heard: bool,
        },
        /// The call under way is answered no, if it is a publication.
        Denied,
        Amnesia,
        Sleep(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<bool>().prop_map(Step::Probed),
            1 => proptest::option::of(1_u8..4).prop_map(Step::Located),
            1 => (1_u8..4).prop_map(Step::Weight),
            4 => (any::<bool>(), any::<bool>()).prop_map(|(done, heard)| Step::Answer { done, heard }),
            1 => Just(Step::Denied),
            1 => Just(Step::Amnesia),
            3 => (0_u64..20_000).prop_map(Step::Sleep),
        ]
    }

    /// A registry that holds what it was told, and the call under way.
    struct World {
        machine: Registrar,
        now: Moment,
        held: BTreeMap<IpAddr, Instance>,
        under_way: Option<Effect>,
        left: bool,
        passed: bool,
        last: Option<Report>,
    }

    impl World {
        fn new(on_failure: OnFailure, seed: u64) -> Self {
            Self {
                machine: Registrar::new(spec(1.0, on_failure), seed),
                now: Moment::ZERO,
                held: BTreeMap::new(),
                under_way: None,
                left: false,
                passed: false,
                last: None,
            }
        }

        fn tell(&mut self, event: Event) {
            self.machine.handle(self.now, event);
            self.look();
        }

        fn look(&mut self) {
            while let Some(effect) = self.machine.effect() {
                match effect {
                    Effect::Show(report) => self.last = Some(report),
                    Effect::Left => {
                        assert!(!self.left, "left twice");
                        assert!(self.held.is_empty(), "left something behind");
                        self.left = true;
                    }
                    call => {
                        assert!(self.under_way.is_none(), "two calls at a time");
                        assert!(!self.left, "a call after the end");
                        if let Effect::Publish(_) = &call {
                            assert!(self.passed, "published before the probe passed");
                        }
                        self.under_way = Some(call);
                    }
                }
            }
        }

        fn answer(&mut self, done: bool, heard: bool) {
            let Some(call) = self.under_way.take() else {
                return;
            };
            let failed = || Failure {
                why: "no answer".to_owned(),
                for_good: false,
                untouched: false,
            };
            let event = match call {
                Effect::Publish(instance) => {
                    if done {
                        self.held.insert(instance.key.ip, instance);
                    }
                    Event::Published(if done && heard { Ok(()) } else { Err(failed()) })
                }
                Effect::Withdraw(instance) => {
                    if done {
                        self.held.remove(&instance.key.ip);
                    }
                    Event::Withdrawn(if done && heard { Ok(()) } else { Err(failed()) })
                }
                Effect::ConfirmGone(instance) => {
                    let gone = !self.held.contains_key(&instance.key.ip);
                    Event::Gone(if heard { Ok(gone) } else { Err(failed()) })
                }
                Effect::ReadBack(instance) => {
                    let actual = self.held.get(&instance.key.ip).map(listed);
                    Event::ReadBack(if heard { Ok(actual) } else { Err(failed()) })
                }
                Effect::Show(_) | Effect::Left => unreachable!("no calls"),
            };
            self.tell(event);
        }

        fn calm(&mut self, period: Duration) {
            let end = self.now + period;
            let mut steps = 0;
            while self.now < end {
                steps += 1;
                assert!(steps < 10_000, "spins");
                if self.under_way.is_some() {
                    self.answer(true, true);
                    continue;
                }
                let next = self.machine.deadline().unwrap_or(end).min(end);
                self.now = self.now.max(next);
                self.machine.wake(self.now);
                self.look();
            }
        }

        fn play(&mut self, steps: Vec<Step>) {
            for step in steps {
                match step {
                    Step::Probed(healthy) => {
                        self.passed |= healthy;
                        self.tell(Event::Probed(Some(healthy), None));
                    }
                    Step::Located(last) => {
                        self.tell(Event::Located(
                            last.map(ip).ok_or_else(|| "none".to_owned()),
                        ));
                    }
                    Step::Weight(weight) => {
                        let on_failure = self.machine.spec.on_failure;
                        self.tell(Event::Specified(Box::new(spec(weight.into(), on_failure))));
                    }
                    Step::Answer { done, heard } => self.answer(done, heard),
                    Step::Denied => {
                        if matches!(self.under_way, Some(Effect::Publish(_))) {
                            self.under_way = None;
                            self.tell(Event::Published(Err(Failure {
                                why: "denied".to_owned(),
                                for_good: false,
                                untouched: true,
                            })));
                        }
                    }
                    Step::Amnesia => self.held.clear(),
                    Step::Sleep(ms) => {
                        self.now += Duration::from_millis(ms);
                        self.machine.wake(self.now);
                        self.look();
                    }
                }
            }
        }
    }

    fn on_failure() -> impl Strategy<Value = OnFailure> {
        prop_oneof![Just(OnFailure::Deregister), Just(OnFailure::Unhealthy)]
    }

    proptest! {
        /// After any faults, once the registry answers, it holds exactly what is wanted, and what is shown agrees.
        #[test]
        fn what_is_held_becomes_what_is_wanted(on_failure in on_failure(), seed: u64, steps in prop::collection::vec(step(), 0..80)) {
            let mut world = World::new(on_failure, seed);
            world.play(steps);
            world.calm(Duration::from_secs(200));
            let held: Vec<Instance> = world.held.values().cloned().collect();
            let wanted: Vec<Instance> = world.machine.wanted().into_iter().collect();
            prop_assert_eq!(held, wanted);
            let state = world.last.map(|report| report.state);
            if world.machine.healthy == Some(true) && world.machine.address.is_ok() {
                prop_assert_eq!(state, Some(ServiceState::Registered));
            }
        }

        /// Whatever happened before, leaving ends with nothing held, and nothing is published after it.
        #[test]
        fn leaving_leaves_nothing(on_failure in on_failure(), seed: u64, before in prop::collection::vec(step(), 0..60), after in prop::collection::vec(step(), 0..60)) {
            let mut world = World::new(on_failure, seed);
            world.play(before);
            world.tell(Event::Leave);
            world.play(after);
            world.calm(Duration::from_secs(200));
            prop_assert!(world.left);
            prop_assert!(world.held.is_empty());
            prop_assert_eq!(world.last.map(|report| report.state), Some(ServiceState::Drained));
        }
    }

    #[test]
    fn a_refusal_is_shown_with_the_servers_words_and_asked_again_slowly() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![Step::Located(Some(1)), Step::Probed(true)]);
        world.under_way = None;
        world.tell(Event::Published(Err(Failure {
            why: "is persistent service".to_owned(),
            for_good: true,
            untouched: true,
        })));
        let report = world.last.clone().unwrap();
        assert_eq!(report.state, ServiceState::Refused);
        assert_eq!(report.reason.as_deref(), Some("is persistent service"));
        assert!(world.machine.deadline().unwrap() >= Duration::from_secs(30));
        world.tell(Event::Specified(Box::new(spec(2.0, OnFailure::Deregister))));
        assert!(matches!(world.under_way, Some(Effect::Publish(_))));
    }

    #[test]
    fn the_first_failure_of_a_new_probe_is_no_verdict() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![Step::Located(Some(1)), Step::Probed(true)]);
        world.answer(true, true);
        world.tell(Event::Probed(None, Some("nothing listens".to_owned())));
        world.calm(Duration::from_secs(2));
        assert!(world.held.contains_key(&ip(1)), "taken out by one failure");
        world.tell(Event::Probed(Some(false), None));
        world.calm(Duration::from_secs(2));
        assert!(world.held.is_empty());
    }

    #[test]
    fn a_failure_right_after_the_registry_returned_is_a_first_one() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![Step::Located(Some(1)), Step::Probed(true)]);
        for _ in 0..20 {
            world.answer(false, false);
            world.now = world.machine.deadline().unwrap();
            world.machine.wake(world.now);
            world.look();
        }
        world.answer(false, false);
        world.tell(Event::Back);
        world.now = world.machine.deadline().unwrap();
        world.machine.wake(world.now);
        world.look();
        world.answer(false, false);
        assert!(world.machine.deadline().unwrap() <= world.now + Pace::NETWORK.base);
    }

    #[test]
    fn whoever_was_never_admitted_has_nothing_to_take_out() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![
            Step::Located(Some(1)),
            Step::Probed(true),
            Step::Denied,
        ]);
        world.tell(Event::Leave);
        assert!(world.left && world.under_way.is_none());
    }

    #[test]
    fn a_weight_that_was_ours_before_is_corrected_once_and_then_taken_for_an_operators() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![Step::Located(Some(1)), Step::Probed(true)]);
        world.answer(true, true);
        world.play(vec![Step::Weight(3)]);
        world.answer(true, true);
        world.held.get_mut(&ip(1)).unwrap().weight = 1.0;
        world.calm(Duration::from_secs(10));
        assert_eq!(world.held[&ip(1)].weight, 3.0);
        world.held.get_mut(&ip(1)).unwrap().weight = 1.0;
        world.calm(Duration::from_secs(100));
        assert_eq!(world.held[&ip(1)].weight, 1.0);
        let reason = world.last.unwrap().reason.unwrap();
        assert!(reason.contains("weight 1 instead of 3"), "{reason}");
    }

    #[test]
    fn what_a_killed_agent_left_is_taken_out_by_the_next_one_even_before_its_probe_passed() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![Step::Located(Some(1))]);
        let left = instance(&world.machine.spec, ip(1), true);
        world.held.insert(ip(1), left.clone());
        world.tell(Event::Leave);
        world.calm(Duration::from_secs(2));
        assert!(world.left && world.held.is_empty());
        // Its address may be known only a moment later.
        let mut world = World::new(OnFailure::Deregister, 1);
        world.held.insert(ip(1), left);
        world.tell(Event::Leave);
        world.play(vec![Step::Sleep(100), Step::Located(Some(1))]);
        world.calm(Duration::from_secs(2));
        assert!(world.left && world.held.is_empty());
        let mut world = World::new(OnFailure::Deregister, 1);
        world.tell(Event::Leave);
        world.calm(Duration::from_secs(2));
        assert!(world.left, "without an address there is nothing to see");
    }

    #[test]
    fn a_registry_that_does_not_answer_holds_up_nobody_who_never_published() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![Step::Located(Some(1))]);
        world.tell(Event::Leave);
        world.answer(false, false);
        assert!(world.left, "asked once");
    }

    #[test]
    fn what_an_operator_overrode_is_shown_and_not_fought() {
        let mut world = World::new(OnFailure::Deregister, 1);
        world.play(vec![Step::Located(Some(1)), Step::Probed(true)]);
        world.answer(true, true);
        world.held.get_mut(&ip(1)).unwrap().weight = 0.0;
        world.calm(Duration::from_secs(10));
        assert_eq!(world.held[&ip(1)].weight, 0.0);
        let reason = world.last.unwrap().reason.unwrap();
        assert!(reason.contains("weight 0 instead of 1"), "{reason}");
    }
}
