//! The roll: what a gRPC connection (2.0 and later) is to hold of each service, and the one call at a time that makes it so.
//!
//! - An ephemeral instance lives as long as the connection that registered it, and a connection has one record per service:
//!   whatever is said replaces all of it. So nothing is said about an instance, but about a service: what is wanted is compared
//!   with what the connection is known to hold, and where they differ one call says all that is wanted.
//! - What is wanted no longer is taken out first, by a call that adds nothing; it does not wait for the write rate, nor for a
//!   newcomer that may be refused. After a call that may have been heard or not, all that was in it counts as perhaps there.
//!   Nothing else would end it: here no beat stops.
//! - A new connection holds nothing and is told everything at once. In a planned move the one before it lives on until the new
//!   one is [`Effect::Settled`]; meanwhile what is withdrawn is taken out of it as well, and nothing else is said on it.
//! - A refusal names no instance. Several newcomers that are refused together are said again one by one, each beside those that were
//!   accepted, so that the bad one is found and takes no other along.
//! - A publication waits for a connection, though not for long: whoever asked knows better when to ask again. Once accepted, an
//!   instance is kept over all connections to come, until it is withdrawn or refused. The last word counts: what failed to be
//!   published in place of a kept instance is what is said from then on, unless the registry will not have it.
//! - At most [`AT_ONCE`] calls are under way, and at most `write_rate` of those that add something begin in a second.
//!
//! A persistent instance is nobody's and does not belong here.

pub use super::beats::Ticket;
use super::model::{Instance, InstanceKey, ServiceKey, Standing};
use super::rpc::{self, Payload};
use super::wire::Host;
use super::{Error, Retry};
use crate::backoff::Backoff;
use crate::backoff::Dice;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Calls under way at a time.
const AT_ONCE: usize = 256;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// List this instance and keep it listed; the same again means that the registry lost it. One that waits already for the
    /// same instance is answered [`Error::Stopped`].
    Publish(Ticket, Instance),
    /// Stop keeping it listed, take it out.
    Withdraw(Ticket, Instance),
    /// The connection of this number is the one to speak on from now on, and holds nothing yet. One before it may live on.
    Connected(u64),
    /// That connection is gone, and all that it held; the server and what happened, in words.
    /// One that never came to be may be told as well: whoever waits for a connection is given the last reason.
    Lost(u64, String),
    /// The one call under way about this service on that connection ended so.
    Called(ServiceKey, u64, Result<(), Error>),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the call on that connection; exactly one [`Event::Called`] answers, unless the connection is lost first.
    Call(u64, Say),
    /// The publication or withdrawal ended so.
    Answer(Ticket, Result<(), Error>),
    /// How well the instance is kept has changed.
    Tell(InstanceKey, Standing),
    /// That connection holds everything that is wanted, but for what was refused: one before it may be closed. Once for each.
    Settled(u64),
}

/// A call about a service; each replaces all that its connection holds of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Say {
    /// By this one.
    Register(Instance),
    /// By these: two or more, in the order of their keys (2.1.1).
    Batch(ServiceKey, Vec<Instance>),
    /// By nothing, whichever instance is named.
    Deregister(Instance),
}

impl Say {
    /// What it is about.
    #[must_use]
    pub fn service(&self) -> &ServiceKey {
        match self {
            Self::Register(instance) | Self::Deregister(instance) => &instance.key.service,
            Self::Batch(service, _) => service,
        }
    }

    /// The request, without a token.
    #[must_use]
    pub fn payload(&self) -> Payload {
        let service = self.service();
        let namespace = Some(service.namespace.naming_id().to_owned());
        let service_name = service.name.to_string();
        let group_name = service.group.to_string();
        let module = "naming".to_owned();
        let single = |kind: &str, instance: &Instance| rpc::InstanceRequest {
            namespace: namespace.clone(),
            service_name: service_name.clone(),
            group_name: group_name.clone(),
            r#type: kind.to_owned(),
            instance: Some(Host::from(instance)),
            module: module.clone(),
        };
        match self {
            Self::Register(instance) => Payload::new(&single(rpc::REGISTER, instance)),
            // Without metadata there is less to refuse, and nobody reads them here.
            Self::Deregister(instance) => Payload::new(&single(
                rpc::DEREGISTER,
                &Instance {
                    metadata: BTreeMap::new(),
                    ..instance.clone()
                },
            )),
            Self::Batch(_, instances) => Payload::new(&rpc::BatchInstanceRequest {
                namespace,
                service_name,
                group_name,
                r#type: rpc::BATCH_REGISTER.to_owned(),
                instances: instances.iter().map(Host::from).collect(),
                module,
            }),
        }
    }
}

/// Instances by key: a record, or what is said to become one.
type Instances = BTreeMap<InstanceKey, Instance>;

/// What one wants of an instance, and has not been answered yet.
#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    /// No longer than this without a connection.
    until: Moment,
    /// To be listed; `None`: to be taken out.
    publish: Option<Instance>,
}

/// An instance that was accepted once.
#[derive(Debug)]
struct Kept {
    instance: Instance,
    standing: Standing,
    /// The connections that held it are lost: whoever says it again restores it.
    gone: bool,
}

#[derive(Debug, Default)]
struct Entry {
    kept: Option<Kept>,
    asked: Option<Asked>,
}

impl Entry {
    fn wanted(&self) -> Option<&Instance> {
        match &self.asked {
            Some(asked) => asked.publish.as_ref(),
            None => self.kept.as_ref().map(|kept| &kept.instance),
        }
    }

    /// Whether `held` may stay where it is until what is wanted takes its place.
    fn suffers(&self, held: &Instance) -> bool {
        self.wanted()
            .is_some_and(|wanted| self.kept.is_some() || wanted == held)
    }
}

/// The call under way about a record.
#[derive(Debug)]
struct Doing {
    need: Need,
    said: Instances,
    /// Who waits for its end.
    tickets: BTreeSet<Ticket>,
}

/// What a connection holds of a service.
#[derive(Debug)]
struct Record {
    /// By the last call that was accepted.
    accepted: Instances,
    /// What may be there instead or as well, since a call came to no clear end.
    perhaps: Instances,
    /// A call with several newcomers was refused: one at a time.
    sifting: bool,
    doing: Option<Doing>,
    /// Nothing is said before, because the last call failed.
    not_before: Option<Moment>,
    failures: Backoff,
    /// It stands in `Roll::talks`, in `Roll::writes`.
    talks: bool,
    writes: bool,
}

impl Record {
    fn new(seed: u64) -> Self {
        Self {
            accepted: Instances::new(),
            perhaps: Instances::new(),
            sifting: false,
            doing: None,
            not_before: None,
            failures: Backoff::new(Pace::NETWORK, seed),
            talks: false,
            writes: false,
        }
    }

    fn may_hold(&self, key: &InstanceKey) -> bool {
        let under_way = |doing: &Doing| doing.said.contains_key(key);
        self.accepted.contains_key(key)
            || self.perhaps.contains_key(key)
            || self.doing.as_ref().is_some_and(under_way)
    }

    /// What a call said beyond what was accepted before it.
    fn newcomers(&self, doing: &Doing) -> Vec<InstanceKey> {
        let said = doing.said.iter();
        said.filter(|(key, instance)| self.accepted.get(*key) != Some(*instance))
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn is_free(&self) -> bool {
        self.doing.is_none() && self.not_before.is_none()
    }

    fn is_idle(&self) -> bool {
        self.is_free()
            && !self.talks
            && !self.writes
            && self.accepted.is_empty()
            && self.perhaps.is_empty()
    }
}

/// In what a record is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Something is in it that is not wanted: say what of it may stay.
    Less,
    /// Something is not in it, or not known to be: say all that is wanted.
    All,
}

#[derive(Debug, Default)]
struct Service {
    entries: BTreeMap<InstanceKey, Entry>,
    /// By connection.
    records: BTreeMap<u64, Record>,
}

impl Service {
    /// Whether no living connection can have this instance.
    fn is_out(&self, key: &InstanceKey) -> bool {
        !self.records.values().any(|record| record.may_hold(key))
    }

    fn need(&self, connection: u64, current: Option<u64>) -> Option<Need> {
        let record = self.records.get(&connection)?;
        let wanted = |key: &InstanceKey| self.entries.get(key).and_then(Entry::wanted);
        let mut held = record.accepted.keys().chain(record.perhaps.keys());
        if held.any(|key| wanted(key).is_none()) {
            return Some(Need::Less);
        }
        let lacks = current == Some(connection)
            && (!record.perhaps.is_empty()
                || self.entries.iter().any(|(key, entry)| {
                    let asked = entry.asked.as_ref();
                    let wanted = entry.wanted();
                    // What is published again was lost, whatever we know.
                    asked.is_some_and(|asked| asked.publish.is_some())
                        || wanted.is_some() && wanted != record.accepted.get(key)
                }));
        lacks.then_some(Need::All)
    }

    /// What is to be said on a connection, which then holds it and nothing else.
    fn text(&mut self, connection: u64, need: Need) -> Instances {
        let Some(record) = self.records.get_mut(&connection) else {
            return Instances::new();
        };
        let mut text = Instances::new();
        for (key, entry) in &self.entries {
            let accepted = record.accepted.get(key).filter(|held| entry.suffers(held));
            // What may be there and was accepted elsewhere may stay as well, unless that has been refused.
            let kept = entry.kept.as_ref().map(|kept| &kept.instance);
            let perhaps = kept.filter(|_| !record.sifting && record.perhaps.contains_key(key));
            if let Some(stays) = accepted.or(perhaps) {
                text.insert(key.clone(), stays.clone());
            }
        }
        if need == Need::All {
            let mut newcomers: Vec<(bool, &Instance)> = self
                .entries
                .values()
                .filter_map(|entry| Some((entry.kept.is_none(), entry.wanted()?)))
                .filter(|(_, wanted)| record.accepted.get(&wanted.key) != Some(*wanted))
                .collect();
            record.sifting &= newcomers.len() > 1;
            if record.sifting {
                // Those first that were accepted before.
                newcomers.sort_by_key(|(new, _)| *new);
                newcomers.truncate(1);
            }
            for (_, newcomer) in newcomers {
                text.insert(newcomer.key.clone(), newcomer.clone());
            }
        }
        text
    }
}

/// The machine.
#[derive(Debug)]
pub struct Roll {
    services: BTreeMap<ServiceKey, Service>,
    /// The connections that live, and the one to speak on.
    live: BTreeSet<u64>,
    current: Option<u64>,
    settled: bool,
    /// The services of which the current connection does not hold what it should.
    owing: BTreeSet<ServiceKey>,
    /// Why there is no connection.
    why: String,
    /// How long one waits for a connection.
    patience: Duration,
    /// Everybody who asked, by when they give up if there is no connection.
    waits: BTreeSet<(Moment, InstanceKey)>,
    retries: BTreeSet<(Moment, u64, ServiceKey)>,
    /// About what there is something to say now: what counts against the write rate, and everything else.
    writes: VecDeque<(u64, ServiceKey)>,
    talks: VecDeque<(u64, ServiceKey)>,
    under_way: usize,
    /// Between two writes.
    write_step: Duration,
    /// When the next write may begin.
    next_write: Moment,
    dice: Dice,
    due: VecDeque<Effect>,
}

impl Roll {
    /// An empty roll without a connection; `write_rate` is in writes a second, `patience` how long one waits for a connection.
    #[must_use]
    pub fn new(write_rate: u32, patience: Duration, seed: u64) -> Self {
        Self {
            services: BTreeMap::new(),
            live: BTreeSet::new(),
            current: None,
            settled: false,
            owing: BTreeSet::new(),
            why: "no connection yet".to_owned(),
            patience,
            waits: BTreeSet::new(),
            retries: BTreeSet::new(),
            writes: VecDeque::new(),
            talks: VecDeque::new(),
            under_way: 0,
            write_step: Duration::from_secs(1) / write_rate.max(1),
            next_write: Moment::ZERO,
            dice: Dice::new(seed),
            due: VecDeque::new(),
        }
    }

    fn entry(&mut self, key: &InstanceKey) -> Option<&mut Entry> {
        self.services.get_mut(&key.service)?.entries.get_mut(key)
    }

    fn record(&mut self, service: &ServiceKey, connection: u64) -> Option<&mut Record> {
        self.services.get_mut(service)?.records.get_mut(&connection)
    }

    fn ask(&mut self, now: Moment, ticket: Ticket, key: &InstanceKey, publish: Option<Instance>) {
        self.answer(key, Err(Error::Stopped));
        let until = now + self.patience;
        let service = self.services.entry(key.service.clone()).or_default();
        let entry = service.entries.entry(key.clone()).or_default();
        if publish.is_none() {
            entry.kept = None;
        }
        entry.asked = Some(Asked {
            ticket,
            until,
            publish,
        });
        self.waits.insert((until, key.clone()));
        self.hurry(&key.service);
        self.review(&key.service);
    }

    /// Whoever asked since the last call began is heard now, whatever failed before.
    fn hurry(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        for (connection, record) in &mut service.records {
            let concerns = |(key, entry): (&InstanceKey, &Entry)| match &entry.asked {
                Some(asked) if asked.publish.is_some() => self.current == Some(*connection),
                Some(_) => record.may_hold(key),
                None => false,
            };
            if service.entries.iter().any(concerns)
                && let Some(at) = record.not_before.take()
            {
                self.retries.remove(&(at, *connection, key.clone()));
            }
        }
    }

    /// Answers who asked about an instance, and says what it was.
    fn answer(&mut self, key: &InstanceKey, outcome: Result<(), Error>) -> Option<Asked> {
        let asked = self.entry(key)?.asked.take()?;
        self.waits.remove(&(asked.until, key.clone()));
        self.due.push_back(Effect::Answer(asked.ticket, outcome));
        Some(asked)
    }

    /// The same when it failed: what was to take the place of a kept instance is what is said later on.
    fn deny(&mut self, key: &InstanceKey, error: Error) {
        if let Some(publish) = self.answer(key, Err(error)).and_then(|asked| asked.publish)
            && let Some(kept) = self.entry(key).and_then(|entry| entry.kept.as_mut())
        {
            kept.instance = publish;
        }
    }

    fn tell(&mut self, key: &InstanceKey, standing: Standing) {
        if let Some(kept) = self.entry(key).and_then(|entry| entry.kept.as_mut())
            && kept.standing != standing
        {
            kept.standing = standing.clone();
            self.due.push_back(Effect::Tell(key.clone(), standing));
        }
    }

    /// Looks at a service after anything about it changed: who can be answered, what is to be said, whether it can be forgotten.
    fn review(&mut self, key: &ServiceKey) {
        let current = self.current;
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        let mut out = Vec::new();
        if let Some(connection) = current {
            let seed = self.dice.seed();
            service
                .records
                .entry(connection)
                .or_insert_with(|| Record::new(seed));
            let withdrawn = |entry: &Entry| entry.asked.is_some() && entry.wanted().is_none();
            out = service
                .entries
                .iter()
                .filter(|(key, entry)| withdrawn(entry) && service.is_out(key))
                .map(|(key, _)| key.clone())
                .collect();
        }
        for key in out {
            self.answer(&key, Ok(()));
        }
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        service
            .entries
            .retain(|_, entry| entry.asked.is_some() || entry.kept.is_some());
        let mut owing = false;
        let needs: Vec<(u64, Option<Need>)> = service
            .records
            .keys()
            .map(|connection| (*connection, service.need(*connection, current)))
            .collect();
        for (connection, need) in needs {
            let Some(record) = service.records.get_mut(&connection) else {
                continue;
            };
            owing |= current == Some(connection) && (need.is_some() || record.doing.is_some());
            let (stands, queue) = match need {
                Some(Need::Less) => (&mut record.talks, &mut self.talks),
                Some(Need::All) => (&mut record.writes, &mut self.writes),
                None => continue,
            };
            if record.doing.is_none() && record.not_before.is_none() && !*stands {
                *stands = true;
                queue.push_back((connection, key.clone()));
            }
        }
        if owing {
            self.owing.insert(key.clone());
        } else {
            self.owing.remove(key);
        }
        service.records.retain(|connection, record| {
            let needed = current == Some(*connection) && owing;
            needed || !record.is_idle()
        });
        if service.entries.is_empty() && service.records.is_empty() {
            self.services.remove(key);
        }
    }

    /// Says what may be said now.
    fn pump(&mut self, now: Moment) {
        while self.under_way < AT_ONCE {
            let talk = self.talks.pop_front();
            let (connection, key, may_write) = match talk {
                Some((connection, key)) => (connection, key, false),
                None if self.next_write <= now => match self.writes.pop_front() {
                    Some((connection, key)) => (connection, key, true),
                    None => break,
                },
                None => break,
            };
            let current = self.current;
            let Some(service) = self.services.get_mut(&key) else {
                continue;
            };
            let need = service.need(connection, current);
            let Some(record) = service.records.get_mut(&connection) else {
                continue;
            };
            if may_write {
                record.writes = false;
            } else {
                record.talks = false;
            }
            match need {
                Some(need) if record.is_free() && (may_write || need == Need::Less) => {
                    self.say(now, connection, &key, need);
                }
                // It stands in the other queue, or there is nothing to say any more.
                _ => self.review(&key),
            }
        }
        if let Some(connection) = self.current
            && !self.settled
            && self.owing.is_empty()
        {
            self.settled = true;
            self.due.push_back(Effect::Settled(connection));
        }
    }

    fn say(&mut self, now: Moment, connection: u64, key: &ServiceKey, need: Need) {
        let current = self.current;
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        let said = service.text(connection, need);
        let Some(record) = service.records.get_mut(&connection) else {
            return;
        };
        let mut instances: Vec<Instance> = said.values().cloned().collect();
        let say = match (instances.len(), instances.pop()) {
            (1, Some(instance)) => Say::Register(instance),
            (_, Some(last)) => {
                instances.push(last);
                Say::Batch(key.clone(), instances)
            }
            (_, None) => {
                let mut held = record.accepted.values().chain(record.perhaps.values());
                let Some(instance) = held.next() else { return };
                Say::Deregister(instance.clone())
            }
        };
        let tickets = service
            .entries
            .iter()
            .filter_map(|(key, entry)| {
                let asked = entry.asked.as_ref()?;
                let concerned = match asked.publish {
                    Some(_) => current == Some(connection),
                    None => record.may_hold(key),
                };
                concerned.then_some(asked.ticket)
            })
            .collect();
        record.doing = Some(Doing {
            need,
            said,
            tickets,
        });
        self.under_way += 1;
        if need == Need::All {
            // What was not used is saved up for a second.
            let from = self
                .next_write
                .max(now.saturating_sub(Duration::from_secs(1)));
            self.next_write = from + self.write_step;
        }
        self.due.push_back(Effect::Call(connection, say));
    }

    fn called(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        connection: u64,
        outcome: Result<(), Error>,
    ) {
        let record = self.record(key, connection);
        let Some(doing) = record.and_then(|record| record.doing.take()) else {
            return;
        };
        self.under_way = self.under_way.saturating_sub(1);
        match outcome {
            Ok(()) => self.accepted(key, connection, &doing),
            Err(error) if refuses(&error) && !doing.said.is_empty() => {
                self.refused(key, connection, &doing, &error);
            }
            Err(error) => self.failed(now, key, connection, &doing, &error),
        }
        self.review(key);
    }

    fn accepted(&mut self, key: &ServiceKey, connection: u64, doing: &Doing) {
        if let Some(record) = self.record(key, connection) {
            record.accepted.clone_from(&doing.said);
            record.perhaps.clear();
            record.failures.reset();
        }
        if self.current != Some(connection) {
            return;
        }
        for (key, instance) in &doing.said {
            if self.was_asked(key, instance, doing) {
                self.answer(key, Ok(()));
                if let Some(entry) = self.entry(key) {
                    // Whoever asked knows that it was registered.
                    entry.kept = Some(Kept {
                        instance: instance.clone(),
                        standing: Standing::Kept,
                        gone: false,
                    });
                }
                continue;
            }
            let Some(kept) = self.entry(key).and_then(|entry| entry.kept.as_mut()) else {
                continue;
            };
            if std::mem::take(&mut kept.gone) {
                // Told even when it was told before: each restoration is news.
                kept.standing = Standing::Kept;
                let restored = Effect::Tell(key.clone(), Standing::Restored);
                self.due.push_back(restored);
            } else if kept.instance == *instance {
                self.tell(key, Standing::Kept);
            }
        }
    }

    /// Whether a call said what somebody waits for who had asked before it began.
    fn was_asked(&mut self, key: &InstanceKey, said: &Instance, doing: &Doing) -> bool {
        let asked = self.entry(key).and_then(|entry| entry.asked.as_ref());
        asked.is_some_and(|asked| {
            doing.tickets.contains(&asked.ticket) && asked.publish.as_ref() == Some(said)
        })
    }

    /// A call that said something was refused, and nothing was written.
    fn refused(&mut self, key: &ServiceKey, connection: u64, doing: &Doing, error: &Error) {
        let current = self.current == Some(connection);
        let Some(record) = self.record(key, connection) else {
            return;
        };
        let newcomers = record.newcomers(doing);
        let bad = match (doing.need, newcomers.as_slice(), doing.said.len()) {
            (Need::All, [one], _) => Some(one),
            (Need::All, [], 1) => doing.said.keys().next(),
            _ => None,
        };
        let Some((bad, said)) = bad.and_then(|key| doing.said.get_key_value(key)) else {
            record.sifting = true;
            if newcomers.is_empty() || doing.need == Need::Less {
                // What was accepted once is not any more: each must show itself again, and what is unwanted goes with all of it.
                let accepted = std::mem::take(&mut record.accepted);
                record.perhaps.extend(accepted);
            }
            return;
        };
        if !current {
            // What was under way when another connection came is judged on that one.
            return;
        }
        let asked = self.was_asked(bad, said, doing);
        let Some(entry) = self.entry(bad) else {
            return;
        };
        let kept = entry.kept.take_if(|kept| kept.instance == *said).is_some();
        if asked {
            self.answer(bad, Err(error.clone()));
        } else if kept {
            let standing = Standing::Refused(error.to_string());
            self.due.push_back(Effect::Tell(bad.clone(), standing));
        }
    }

    /// A call came to nothing, or nobody knows to what.
    fn failed(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        connection: u64,
        doing: &Doing,
        error: &Error,
    ) {
        let current = self.current == Some(connection);
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        let Some(record) = service.records.get_mut(&connection) else {
            return;
        };
        let mut uncertain = record.newcomers(doing);
        record.perhaps.extend(doing.said.clone());
        let at = now + record.failures.next_wait();
        record.not_before = Some(at);
        self.retries.insert((at, connection, key.clone()));
        let waiting: Vec<(InstanceKey, bool)> = service
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((key.clone(), entry.asked.as_ref()?)))
            .filter(|(_, asked)| doing.tickets.contains(&asked.ticket))
            .map(|(key, asked)| (key, asked.publish.is_some()))
            .collect();
        for (key, publish) in waiting {
            // Publications that were under way when another connection came wait for that one.
            if current || !publish {
                self.deny(&key, error.clone());
                uncertain.push(key);
            }
        }
        if current {
            for key in uncertain {
                self.tell(&key, Standing::Unreachable(error.to_string()));
            }
        }
        self.hurry(key);
    }

    fn connected(&mut self, connection: u64) {
        if !self.live.insert(connection) {
            return;
        }
        self.current = Some(connection);
        self.settled = false;
        self.writes.clear();
        let keys: Vec<ServiceKey> = self.services.keys().cloned().collect();
        for key in keys {
            for record in self
                .services
                .get_mut(&key)
                .into_iter()
                .flat_map(|service| service.records.values_mut())
            {
                record.writes = false;
            }
            self.review(&key);
        }
    }

    fn lost(&mut self, now: Moment, connection: u64, why: String) {
        self.live.remove(&connection);
        if self.current == Some(connection) {
            self.current = None;
            self.owing.clear();
        }
        self.talks.retain(|(number, _)| *number != connection);
        self.writes.retain(|(number, _)| *number != connection);
        let away = self.current.is_none();
        if away {
            self.why.clone_from(&why);
        }
        let keys: Vec<ServiceKey> = self.services.keys().cloned().collect();
        for key in keys {
            let Some(service) = self.services.get_mut(&key) else {
                continue;
            };
            let Some(record) = service.records.remove(&connection) else {
                continue;
            };
            let under_way = usize::from(record.doing.is_some());
            self.under_way = self.under_way.saturating_sub(under_way);
            if let Some(at) = record.not_before {
                self.retries.remove(&(at, connection, key.clone()));
            }
            let mut gone = Vec::new();
            for key in service.entries.keys() {
                if service.is_out(key) {
                    gone.push(key.clone());
                }
            }
            for key in gone {
                if let Some(kept) = self.entry(&key).and_then(|entry| entry.kept.as_mut()) {
                    kept.gone = true;
                }
                if away {
                    self.tell(&key, Standing::Unreachable(why.clone()));
                }
            }
            self.review(&key);
        }
        self.give_up(now);
    }

    /// Answers those who waited long enough for a connection.
    fn give_up(&mut self, now: Moment) {
        while self.current.is_none()
            && let Some((until, key)) = self.waits.first().cloned()
            && until <= now
        {
            let error = Error::Unreachable {
                server: self.why.clone(),
                what: format!("no connection to speak on within {:?}", self.patience),
            };
            self.deny(&key, error);
            self.review(&key.service);
        }
    }
}

/// Whether the registry will not have it, and wrote nothing.
fn refuses(error: &Error) -> bool {
    error.retry() == Retry::Never && *error != Error::Stopped
}

impl Machine for Roll {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Publish(ticket, instance) => {
                let key = instance.key.clone();
                self.ask(now, ticket, &key, Some(instance));
            }
            Event::Withdraw(ticket, instance) => self.ask(now, ticket, &instance.key, None),
            Event::Connected(connection) => self.connected(connection),
            Event::Lost(connection, why) => self.lost(now, connection, why),
            Event::Called(service, connection, outcome) => {
                self.called(now, &service, connection, outcome);
            }
        }
        self.pump(now);
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, connection, key)) = self.retries.first().cloned()
            && at <= now
        {
            self.retries.remove(&(at, connection, key.clone()));
            if let Some(record) = self.record(&key, connection) {
                record.not_before = None;
            }
            self.review(&key);
        }
        self.give_up(now);
        self.pump(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let retry = self.retries.first().map(|(at, ..)| *at);
        let waits = self.waits.first().filter(|_| self.current.is_none());
        let wait = waits.map(|(until, _)| *until);
        // With all calls under way the next answer is what matters.
        let write =
            (!self.writes.is_empty() && self.under_way < AT_ONCE).then_some(self.next_write);
        [retry, wait, write].into_iter().flatten().min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;
    use proptest::prelude::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    fn service(number: u16) -> ServiceKey {
        ServiceKey {
            namespace: Namespace::public(),
            group: "DEFAULT_GROUP".into(),
            name: format!("orders{number}").into(),
        }
    }

    /// The registry of these tests refuses those of this weight.
    const BAD: f64 = 13.0;

    fn of(number: u16, port: u16, weight: f64) -> Instance {
        Instance {
            key: InstanceKey {
                service: service(number),
                ip: [10, 0, 0, 1].into(),
                port,
            },
            cluster: "DEFAULT".into(),
            weight,
            healthy: true,
            enabled: true,
            ephemeral: true,
            metadata: BTreeMap::new(),
        }
    }

    fn instance(port: u16) -> Instance {
        of(0, port, 1.0)
    }

    fn bad(port: u16) -> Instance {
        of(0, port, BAD)
    }

    fn batch(ports: &[u16]) -> Say {
        Say::Batch(
            service(0),
            ports.iter().map(|port| instance(*port)).collect(),
        )
    }

    fn busy() -> Error {
        Error::Busy {
            server: "a".to_owned(),
            status: 500,
            message: "gone".into(),
        }
    }

    fn no() -> Error {
        Error::Refused {
            server: "a".to_owned(),
            status: 400,
            message: "no".into(),
        }
    }

    fn secs(secs: u64) -> Moment {
        Duration::from_secs(secs)
    }

    fn empty() -> Roll {
        Roll::new(20, PATIENCE, 1)
    }

    fn effects(roll: &mut Roll) -> Vec<Effect> {
        std::iter::from_fn(|| roll.effect()).collect()
    }

    fn does(roll: &mut Roll, now: Moment, event: Event) -> Vec<Effect> {
        roll.handle(now, event);
        effects(roll)
    }

    fn called(connection: u64, outcome: Result<(), Error>) -> Event {
        Event::Called(service(0), connection, outcome)
    }

    /// A roll whose connection 1 holds these instances since second 0.
    fn holding(ports: &[u16]) -> Roll {
        let mut roll = empty();
        for port in ports {
            roll.handle(secs(0), Event::Publish(u64::from(*port), instance(*port)));
        }
        roll.handle(secs(0), Event::Connected(1));
        assert!(matches!(effects(&mut roll)[..], [Effect::Call(1, _)]));
        roll.handle(secs(0), called(1, Ok(())));
        let mut told = effects(&mut roll);
        assert_eq!(told.pop(), Some(Effect::Settled(1)));
        assert_eq!(told.len(), ports.len());
        roll
    }

    #[test]
    fn all_instances_of_a_service_are_said_in_one_call() {
        let mut roll = holding(&[1, 2]);
        assert_eq!(roll.deadline(), None, "no beats");
        // A third one: the call says all three, because it replaces the record.
        let said = does(&mut roll, secs(1), Event::Publish(3, instance(3)));
        assert_eq!(said, [Effect::Call(1, batch(&[1, 2, 3]))]);
        let end = does(&mut roll, secs(1), called(1, Ok(())));
        assert_eq!(end, [Effect::Answer(3, Ok(()))]);
    }

    #[test]
    fn what_is_published_during_a_call_is_said_by_the_next_one() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Publish(2, instance(2)));
        effects(&mut roll);
        assert_eq!(does(&mut roll, secs(1), Event::Publish(3, instance(3))), []);
        let next = does(&mut roll, secs(1), called(1, Ok(())));
        let call = Effect::Call(1, batch(&[1, 2, 3]));
        assert_eq!(next, [Effect::Answer(2, Ok(())), call]);
    }

    #[test]
    fn the_last_one_that_is_withdrawn_deregisters_the_service() {
        let mut roll = holding(&[1, 2]);
        let said = does(&mut roll, secs(1), Event::Withdraw(3, instance(1)));
        assert_eq!(said, [Effect::Call(1, Say::Register(instance(2)))]);
        let end = does(&mut roll, secs(1), called(1, Ok(())));
        assert_eq!(end, [Effect::Answer(3, Ok(()))]);
        let said = does(&mut roll, secs(1), Event::Withdraw(4, instance(2)));
        assert_eq!(said, [Effect::Call(1, Say::Deregister(instance(2)))]);
        let end = does(&mut roll, secs(1), called(1, Ok(())));
        assert_eq!(end, [Effect::Answer(4, Ok(()))]);
        assert!(roll.services.is_empty() && roll.deadline().is_none());
        // And what is not there is out already.
        let said = does(&mut roll, secs(1), Event::Withdraw(5, instance(2)));
        assert_eq!(said, [Effect::Answer(5, Ok(()))]);
        assert!(roll.services.is_empty());
    }

    #[test]
    fn the_same_instance_published_again_is_said_again() {
        let mut roll = holding(&[1]);
        let said = does(&mut roll, secs(1), Event::Publish(2, instance(1)));
        assert_eq!(said, [Effect::Call(1, Say::Register(instance(1)))]);
        let said = does(&mut roll, secs(1), Event::Publish(3, instance(1)));
        assert_eq!(said, [Effect::Answer(2, Err(Error::Stopped))]);
        let said = does(&mut roll, secs(1), called(1, Ok(())));
        assert_eq!(said, [Effect::Call(1, Say::Register(instance(1)))]);
    }

    #[test]
    fn without_a_connection_one_waits_for_three_seconds_and_is_not_kept() {
        let mut roll = empty();
        roll.handle(secs(1), Event::Publish(1, instance(1)));
        roll.handle(secs(2), Event::Withdraw(2, instance(2)));
        assert_eq!(roll.deadline(), Some(secs(4)));
        roll.wake(secs(4) - Duration::from_millis(1));
        assert_eq!(effects(&mut roll), []);
        roll.wake(secs(4));
        let [Effect::Answer(1, Err(error))] = &effects(&mut roll)[..] else {
            panic!("not answered");
        };
        let why = "no connection yet: no connection to speak on within 3s";
        assert_eq!(error.to_string(), why);
        // The withdrawal lived to see one; nothing is left to be said on it.
        let told = does(&mut roll, secs(4), Event::Connected(1));
        assert_eq!(told, [Effect::Answer(2, Ok(())), Effect::Settled(1)]);
    }

    #[test]
    fn who_asked_long_ago_does_not_wait_for_another_connection() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Publish(2, instance(2)));
        effects(&mut roll);
        let told = does(&mut roll, secs(9), Event::Lost(1, "a: reset".to_owned()));
        let lost = Standing::Unreachable("a: reset".to_owned());
        let [Effect::Tell(_, standing), Effect::Answer(2, Err(error))] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(standing, &lost);
        assert!(matches!(error, Error::Unreachable { server, .. } if server == "a: reset"));
    }

    #[test]
    fn a_new_connection_is_told_everything_at_once_and_the_instance_is_restored() {
        let mut roll = holding(&[1, 2]);
        roll.handle(secs(5), Event::Lost(1, "reset".to_owned()));
        assert_eq!(effects(&mut roll).len(), 2);
        let said = does(&mut roll, secs(5), Event::Connected(2));
        assert_eq!(said, [Effect::Call(2, batch(&[1, 2]))]);
        let told = does(&mut roll, secs(5), called(2, Ok(())));
        let restored = |port| Effect::Tell(instance(port).key, Standing::Restored);
        assert_eq!(told, [restored(1), restored(2), Effect::Settled(2)]);
    }

    #[test]
    fn a_planned_move_is_settled_before_the_old_connection_ends_and_tells_nothing() {
        let mut roll = holding(&[1]);
        let said = does(&mut roll, secs(5), Event::Connected(2));
        assert_eq!(said, [Effect::Call(2, Say::Register(instance(1)))]);
        let told = does(&mut roll, secs(5), called(2, Ok(())));
        assert_eq!(told, [Effect::Settled(2)]);
        assert_eq!(
            does(&mut roll, secs(6), Event::Lost(1, "closed".to_owned())),
            []
        );
    }

    #[test]
    fn a_withdrawal_during_a_move_is_said_on_the_old_connection_too() {
        let mut roll = holding(&[1, 2]);
        roll.handle(secs(5), Event::Connected(2));
        effects(&mut roll);
        let said = does(&mut roll, secs(5), Event::Withdraw(3, instance(1)));
        assert_eq!(said, [Effect::Call(1, Say::Register(instance(2)))]);
        // The new one has just been told of both.
        let said = does(&mut roll, secs(5), called(2, Ok(())));
        assert_eq!(said, [Effect::Call(2, Say::Register(instance(2)))]);
        let told = does(&mut roll, secs(5), called(2, Ok(())));
        assert_eq!(told, [Effect::Settled(2)]);
        let told = does(&mut roll, secs(5), called(1, Ok(())));
        assert_eq!(told, [Effect::Answer(3, Ok(()))]);
    }

    #[test]
    fn a_refused_newcomer_takes_no_good_one_along() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Publish(2, bad(2)));
        effects(&mut roll);
        roll.handle(secs(1), Event::Publish(3, instance(3)));
        roll.handle(secs(1), Event::Publish(4, instance(4)));
        let told = does(&mut roll, secs(1), called(1, Err(no())));
        let call = Effect::Call(1, batch(&[1, 3, 4]));
        assert_eq!(told, [Effect::Answer(2, Err(no())), call]);
    }

    #[test]
    fn newcomers_refused_together_are_said_one_by_one() {
        let mut roll = empty();
        roll.handle(secs(0), Event::Publish(1, bad(1)));
        roll.handle(secs(0), Event::Publish(2, instance(2)));
        roll.handle(secs(0), Event::Publish(3, instance(3)));
        let both = Say::Batch(service(0), vec![bad(1), instance(2), instance(3)]);
        let said = does(&mut roll, secs(1), Event::Connected(1));
        assert_eq!(said, [Effect::Call(1, both)]);
        let said = does(&mut roll, secs(1), called(1, Err(no())));
        assert_eq!(said, [Effect::Call(1, Say::Register(bad(1)))]);
        let said = does(&mut roll, secs(1), called(1, Err(no())));
        let answer = Effect::Answer(1, Err(no()));
        // It is found; the others are not said together either before one of them was accepted.
        assert_eq!(said, [answer, Effect::Call(1, Say::Register(instance(2)))]);
        let said = does(&mut roll, secs(1), called(1, Ok(())));
        let call = Effect::Call(1, batch(&[2, 3]));
        assert_eq!(said, [Effect::Answer(2, Ok(())), call]);
        let said = does(&mut roll, secs(1), called(1, Ok(())));
        assert_eq!(said, [Effect::Answer(3, Ok(())), Effect::Settled(1)]);
    }

    #[test]
    fn a_kept_instance_that_another_server_refuses_is_told_refused() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Connected(2));
        effects(&mut roll);
        let told = does(&mut roll, secs(1), called(2, Err(no())));
        let refused = Effect::Tell(instance(1).key, Standing::Refused(no().to_string()));
        // It is wanted no more, so the old connection must not hold it either.
        let out = Effect::Call(1, Say::Deregister(instance(1)));
        assert_eq!(told, [refused, out, Effect::Settled(2)]);
    }

    #[test]
    fn a_refused_change_leaves_the_instance_as_it_was() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Publish(2, bad(1)));
        effects(&mut roll);
        let told = does(&mut roll, secs(1), called(1, Err(no())));
        assert_eq!(told, [Effect::Answer(2, Err(no()))]);
        let said = does(&mut roll, secs(1), Event::Connected(2));
        assert_eq!(said, [Effect::Call(2, Say::Register(instance(1)))]);
    }

    #[test]
    fn a_publication_that_may_have_been_heard_is_taken_out_again() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Publish(2, instance(2)));
        effects(&mut roll);
        let told = does(&mut roll, secs(1), called(1, Err(busy())));
        assert_eq!(told, [Effect::Answer(2, Err(busy()))]);
        let next = roll.deadline().unwrap();
        assert!(next > secs(1));
        roll.wake(next);
        let said = effects(&mut roll);
        assert_eq!(said, [Effect::Call(1, Say::Register(instance(1)))]);
    }

    #[test]
    fn a_failed_withdrawal_is_answered_and_still_owed() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Withdraw(2, instance(1)));
        effects(&mut roll);
        let told = does(&mut roll, secs(1), called(1, Err(busy())));
        assert_eq!(told, [Effect::Answer(2, Err(busy()))]);
        let next = roll.deadline().unwrap();
        roll.wake(next);
        let said = effects(&mut roll);
        assert_eq!(said, [Effect::Call(1, Say::Deregister(instance(1)))]);
    }

    #[test]
    fn who_asks_while_a_failed_call_waits_for_its_next_try_is_heard_at_once() {
        let mut roll = holding(&[1]);
        roll.handle(secs(1), Event::Withdraw(2, instance(1)));
        effects(&mut roll);
        roll.handle(secs(1), called(1, Err(busy())));
        effects(&mut roll);
        let said = does(&mut roll, secs(1), Event::Withdraw(3, instance(1)));
        assert_eq!(said, [Effect::Call(1, Say::Deregister(instance(1)))]);
        // So is who asked during a call that failed, and it is not answered with that failure.
        roll.handle(secs(1), Event::Publish(4, instance(4)));
        let said = does(&mut roll, secs(1), called(1, Err(busy())));
        let again = Effect::Call(1, Say::Deregister(instance(1)));
        assert_eq!(said, [Effect::Answer(3, Err(busy())), again]);
    }

    #[test]
    fn a_withdrawal_takes_no_kept_instance_along_that_may_be_there() {
        let mut roll = holding(&[1, 2]);
        roll.handle(secs(1), Event::Lost(1, "reset".to_owned()));
        roll.handle(secs(1), Event::Connected(2));
        // It may have been heard.
        roll.handle(secs(1), called(2, Err(busy())));
        effects(&mut roll);
        let said = does(&mut roll, secs(1), Event::Withdraw(3, instance(2)));
        assert_eq!(said, [Effect::Call(2, Say::Register(instance(1)))]);
    }

    #[test]
    fn what_is_unwanted_goes_even_if_the_rest_is_refused_now() {
        let mut roll = holding(&[1, 2, 3]);
        let said = does(&mut roll, secs(1), Event::Withdraw(4, instance(3)));
        assert_eq!(said, [Effect::Call(1, batch(&[1, 2]))]);
        let said = does(&mut roll, secs(1), called(1, Err(no())));
        assert_eq!(said, [Effect::Call(1, Say::Deregister(instance(1)))]);
        // Then each shows whether it is still taken.
        let said = does(&mut roll, secs(1), called(1, Ok(())));
        let one = Effect::Call(1, Say::Register(instance(1)));
        assert_eq!(said, [Effect::Answer(4, Ok(())), one]);
        let said = does(&mut roll, secs(1), called(1, Ok(())));
        assert_eq!(said, [Effect::Call(1, batch(&[1, 2]))]);
        let told = does(&mut roll, secs(1), called(1, Err(no())));
        let refused = Standing::Refused(no().to_string());
        assert_eq!(told, [Effect::Tell(instance(2).key, refused)]);
    }

    #[test]
    fn a_kept_instance_whose_calls_fail_is_unreachable_until_one_works() {
        let mut roll = holding(&[1]);
        let ill = Instance {
            healthy: false,
            ..instance(1)
        };
        roll.handle(secs(1), Event::Publish(2, ill.clone()));
        effects(&mut roll);
        let told = does(&mut roll, secs(1), called(1, Err(busy())));
        let why = Standing::Unreachable(busy().to_string());
        let unreachable = Effect::Tell(ill.key.clone(), why);
        assert_eq!(told, [Effect::Answer(2, Err(busy())), unreachable]);
        // The last word counts, not what was accepted before.
        let next = roll.deadline().unwrap();
        roll.wake(next);
        let said = effects(&mut roll);
        assert_eq!(said, [Effect::Call(1, Say::Register(ill.clone()))]);
        let told = does(&mut roll, next, called(1, Ok(())));
        assert_eq!(told, [Effect::Tell(ill.key, Standing::Kept)]);
    }

    #[test]
    fn a_withdrawal_does_not_wait_for_the_write_rate() {
        let mut roll = holding(&[1, 2]);
        for number in 1..=100 {
            roll.handle(secs(1), Event::Publish(100, of(number, 1, 1.0)));
        }
        effects(&mut roll);
        roll.handle(secs(1), Event::Publish(200, instance(3)));
        let said = does(&mut roll, secs(1), Event::Withdraw(201, instance(1)));
        assert_eq!(said, [Effect::Call(1, Say::Register(instance(2)))]);
    }

    #[test]
    fn no_more_calls_are_under_way_than_are_allowed() {
        let mut roll = Roll::new(1000, PATIENCE, 1);
        for number in 1..300 {
            let publish = Event::Publish(number.into(), of(number, 1, 1.0));
            roll.handle(secs(1), publish);
        }
        assert_eq!(does(&mut roll, secs(1), Event::Connected(1)).len(), AT_ONCE);
        assert_eq!(roll.deadline(), None, "the next answer is what matters");
        let end = Event::Called(service(1), 1, Ok(()));
        let told = does(&mut roll, secs(1), end);
        assert!(matches!(
            &told[..],
            [Effect::Answer(1, Ok(())), Effect::Call(1, _)]
        ));
    }

    #[test]
    fn a_call_is_written_with_namespace_group_and_module() {
        let body = |say: Say| {
            let payload = say.payload();
            let json: serde_json::Value = serde_json::from_slice(payload.body()).unwrap();
            (payload.kind().to_owned(), json)
        };
        let tagged = Instance {
            metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..instance(1)
        };
        let (kind, json) = body(Say::Register(tagged.clone()));
        assert_eq!(kind, "InstanceRequest");
        assert_eq!(json["namespace"], "public");
        assert_eq!(json["serviceName"], "orders0");
        assert_eq!(json["groupName"], "DEFAULT_GROUP");
        assert_eq!(json["type"], "registerInstance");
        assert_eq!(json["module"], "naming");
        assert_eq!(json["instance"]["port"], 1);
        assert_eq!(json["instance"]["metadata"]["a"], "b");
        let (kind, json) = body(Say::Deregister(tagged));
        assert_eq!(
            (kind.as_str(), &json["type"]),
            ("InstanceRequest", &"deregisterInstance".into())
        );
        assert_eq!(json["instance"]["metadata"], serde_json::json!({}));
        let (kind, json) = body(batch(&[1, 2]));
        assert_eq!(kind, "BatchInstanceRequest");
        assert_eq!(json["type"], "batchRegisterInstance");
        assert_eq!(json["instances"][1]["port"], 2);
    }

    #[derive(Clone, Debug)]
    enum Happening {
        /// Service, port, which content; the last one is bad.
        Publish(u16, u16, u8),
        Withdraw(u16, u16),
        Connect,
        /// One of the living connections.
        Lose(usize),
        /// One of the calls under way, and how it ends.
        Answer(usize, u8),
        Sleep(u64),
    }

    fn step() -> impl Strategy<Value = Happening> {
        prop_oneof![
            4 => (0_u16..3, 1_u16..4, 0_u8..4).prop_map(|(s, port, what)| Happening::Publish(s, port, what)),
            2 => (0_u16..3, 1_u16..4).prop_map(|(s, port)| Happening::Withdraw(s, port)),
            2 => Just(Happening::Connect),
            2 => (0_usize..3).prop_map(Happening::Lose),
            12 => (0_usize..8, 0_u8..8).prop_map(|(which, how)| Happening::Answer(which, how)),
            3 => prop_oneof![0_u64..300, 0_u64..5000].prop_map(Happening::Sleep),
        ]
    }

    /// What the caller of a roll knows of an instance.
    #[derive(Clone, Debug, Default)]
    struct Known {
        kept: Option<Instance>,
        asked: Option<(Ticket, Moment, Option<Instance>)>,
    }

    /// A roll, the registry it speaks to, and its caller.
    struct World {
        roll: Roll,
        now: Moment,
        /// Per living connection and service.
        server: BTreeMap<u64, BTreeMap<ServiceKey, Instances>>,
        current: Option<u64>,
        next_connection: u64,
        settled: BTreeSet<u64>,
        open: BTreeMap<(u64, ServiceKey), (Say, BTreeSet<Ticket>)>,
        /// Who waited for a call that has just failed.
        failed: BTreeSet<Ticket>,
        caller: BTreeMap<InstanceKey, Known>,
        next_ticket: Ticket,
        /// No call ended without a yes or a no, and no connection was lost before the next one was settled.
        calm: bool,
        /// No connection is lost before the next one is settled.
        planned: bool,
    }

    fn text(say: &Say) -> Instances {
        let instances = match say {
            Say::Register(instance) => vec![instance.clone()],
            Say::Batch(_, instances) => instances.clone(),
            Say::Deregister(_) => Vec::new(),
        };
        instances
            .into_iter()
            .map(|instance| (instance.key.clone(), instance))
            .collect()
    }

    impl World {
        fn new(seed: u64, planned: bool) -> Self {
            Self {
                roll: Roll::new(20, PATIENCE, seed),
                now: secs(1),
                server: BTreeMap::new(),
                current: None,
                next_connection: 1,
                settled: BTreeSet::new(),
                open: BTreeMap::new(),
                failed: BTreeSet::new(),
                caller: BTreeMap::new(),
                next_ticket: 1,
                calm: true,
                planned,
            }
        }

        fn ask(
            &mut self,
            key: InstanceKey,
            publish: Option<Instance>,
        ) -> Result<(), TestCaseError> {
            let (ticket, now) = (self.next_ticket, self.now);
            self.next_ticket += 1;
            let event = match &publish {
                Some(instance) => Event::Publish(ticket, instance.clone()),
                None => Event::Withdraw(
                    ticket,
                    Instance {
                        key: key.clone(),
                        ..instance(1)
                    },
                ),
            };
            let known = self.caller.entry(key).or_default();
            if publish.is_none() {
                known.kept = None;
            }
            let before = known.asked.replace((ticket, now, publish));
            self.roll.handle(now, event);
            if let Some((before, ..)) = before {
                let stopped = Effect::Answer(before, Err(Error::Stopped));
                prop_assert_eq!(self.roll.effect(), Some(stopped));
            }
            Ok(())
        }

        fn lose(&mut self, connection: u64) {
            self.server.remove(&connection);
            if self.current == Some(connection) {
                self.current = None;
            }
            self.roll
                .handle(self.now, Event::Lost(connection, "reset".to_owned()));
            let late: Vec<_> = self
                .open
                .keys()
                .filter(|(number, _)| *number == connection)
                .cloned()
                .collect();
            for (number, service) in late {
                self.open.remove(&(number, service.clone()));
                // Its calls end late, one way or another.
                let outcome = if number % 2 == 0 { Ok(()) } else { Err(busy()) };
                self.roll
                    .handle(self.now, Event::Called(service, number, outcome));
            }
        }

        fn end(&mut self, connection: u64, service: ServiceKey, how: u8) {
            let call = self.open.remove(&(connection, service.clone()));
            let Some((say, waiting)) = call else {
                return;
            };
            let said = text(&say);
            let outcome = if how < 2 {
                self.calm = false;
                if self.current == Some(connection) {
                    self.failed = waiting;
                }
                Err(busy())
            } else if said.values().any(|instance| instance.weight == BAD) {
                Err(no())
            } else {
                Ok(())
            };
            // Of the failed ones every other was heard, as far as there was nothing to refuse in it.
            let fine = said.values().all(|instance| instance.weight != BAD);
            if outcome.is_ok() || how == 1 && fine {
                self.server
                    .entry(connection)
                    .or_default()
                    .insert(service.clone(), said);
            }
            self.roll
                .handle(self.now, Event::Called(service, connection, outcome));
        }

        fn happens(&mut self, step: Happening) -> Result<(), TestCaseError> {
            match step {
                Happening::Publish(service, port, what) => {
                    let weight = if what == 3 { BAD } else { f64::from(what) };
                    let instance = of(service, port, weight);
                    self.ask(instance.key.clone(), Some(instance))?;
                }
                Happening::Withdraw(service, port) => self.ask(of(service, port, 0.0).key, None)?,
                Happening::Connect if self.server.len() < 3 => {
                    let connection = self.next_connection;
                    self.next_connection += 1;
                    self.server.insert(connection, BTreeMap::new());
                    self.current = Some(connection);
                    self.roll.handle(self.now, Event::Connected(connection));
                }
                Happening::Connect => {}
                Happening::Lose(which) => {
                    let settled = self
                        .current
                        .is_some_and(|current| self.settled.contains(&current));
                    let connection = self.server.keys().nth(which).copied();
                    let old = connection != self.current && settled;
                    if let Some(connection) = connection
                        && (old || !self.planned)
                    {
                        self.calm &= old;
                        self.lose(connection);
                    }
                }
                Happening::Answer(which, how) => {
                    if let Some((connection, service)) = self.open.keys().nth(which).cloned() {
                        self.end(connection, service, how);
                    }
                }
                Happening::Sleep(ms) => {
                    self.now += Duration::from_millis(ms);
                    self.roll.wake(self.now);
                }
            }
            self.look()
        }

        fn wants(&self, key: &InstanceKey) -> bool {
            self.caller
                .get(key)
                .is_some_and(|known| match &known.asked {
                    Some((_, _, publish)) => publish.is_some(),
                    None => known.kept.is_some(),
                })
        }

        /// Takes what the roll says, and looks at every law.
        fn look(&mut self) -> Result<(), TestCaseError> {
            while let Some(effect) = self.roll.effect() {
                match effect {
                    Effect::Call(connection, say) => {
                        prop_assert!(
                            self.server.contains_key(&connection),
                            "a call on a dead connection"
                        );
                        let said = text(&say);
                        for key in said.keys() {
                            prop_assert!(self.wants(key), "{key} is said and unwanted");
                        }
                        if let Say::Batch(service, list) = &say {
                            prop_assert!(
                                list.len() > 1 && list.is_sorted_by_key(|i| i.key.clone())
                            );
                            prop_assert!(list.iter().all(|i| i.key.service == *service));
                        }
                        let whose = (connection, say.service().clone());
                        let waiting = self.caller.iter().filter(|(key, _)| key.service == whose.1);
                        let waiting = waiting.filter_map(|(_, known)| known.asked.as_ref());
                        let waiting = waiting.filter(|(_, _, publish)| publish.is_some());
                        let waiting = waiting.map(|(ticket, ..)| *ticket).collect();
                        let other = self.open.insert(whose, (say, waiting));
                        prop_assert!(other.is_none(), "two calls at a time");
                    }
                    Effect::Answer(ticket, outcome) => {
                        let asked = self.caller.iter().find(|(_, known)| {
                            let asked = known.asked.as_ref();
                            asked.is_some_and(|(asked, ..)| *asked == ticket)
                        });
                        let Some(key) = asked.map(|(key, _)| key.clone()) else {
                            let why = format!("{ticket} answered twice");
                            return Err(TestCaseError::fail(why));
                        };
                        let held: Vec<_> = (self.server.keys())
                            .map(|number| (*number, self.held(*number, &key).cloned()))
                            .collect();
                        let known = self.caller.get_mut(&key).unwrap();
                        let (_, _, publish) = known.asked.take().unwrap();
                        match (outcome, publish) {
                            (Ok(()), None) => {
                                let out = held.iter().all(|(_, held)| held.is_none());
                                prop_assert!(out, "{key} is called out and is not");
                            }
                            (Ok(()), publish) => {
                                let here = held.iter().find(|(n, _)| Some(*n) == self.current);
                                prop_assert_eq!(here.map(|(_, held)| held), Some(&publish));
                                known.kept = publish;
                            }
                            (Err(error), Some(instance)) if refuses(&error) => {
                                prop_assert_eq!(instance.weight, BAD, "a good one was refused");
                                known.kept.take_if(|kept| *kept == instance);
                            }
                            (Err(_), Some(instance)) if known.kept.is_some() => {
                                known.kept = Some(instance)
                            }
                            (Err(_), _) => {}
                        }
                    }
                    Effect::Tell(key, standing) => {
                        prop_assert!(
                            !self.calm || !self.planned,
                            "{} told of {} in calm",
                            key,
                            standing_word(&standing)
                        );
                        let known = self.caller.get_mut(&key).unwrap();
                        let kept = known.kept.clone();
                        prop_assert!(kept.is_some(), "told of what is not kept");
                        if matches!(standing, Standing::Refused(_)) {
                            prop_assert_eq!(kept.unwrap().weight, BAD, "a good one was refused");
                            known.kept = None;
                        }
                    }
                    Effect::Settled(connection) => {
                        prop_assert_eq!(Some(connection), self.current);
                        prop_assert!(self.settled.insert(connection), "settled twice");
                        for (key, known) in &self.caller {
                            let publishes = known
                                .asked
                                .as_ref()
                                .is_some_and(|(_, _, publish)| publish.is_some());
                            prop_assert!(!publishes, "settled before {key} was said");
                            if let Some(kept) = &known.kept {
                                prop_assert_eq!(
                                    self.held(connection, key),
                                    Some(kept),
                                    "settled without it"
                                );
                            }
                        }
                    }
                }
            }
            for (ticket, ..) in self
                .caller
                .values()
                .filter_map(|known| known.asked.as_ref())
            {
                prop_assert!(
                    !self.failed.contains(ticket),
                    "{ticket} waits on after a failure"
                );
            }
            self.failed.clear();
            self.look_inside()
        }

        fn held(&self, connection: u64, key: &InstanceKey) -> Option<&Instance> {
            self.server.get(&connection)?.get(&key.service)?.get(key)
        }

        fn look_inside(&self) -> Result<(), TestCaseError> {
            let roll = &self.roll;
            prop_assert!(
                roll.deadline().is_none_or(|next| next > self.now),
                "overdue"
            );
            prop_assert_eq!(roll.under_way, self.open.len());
            prop_assert!(roll.writes.len() <= roll.services.len(), "writes grow");
            prop_assert!(
                roll.talks.len() <= roll.services.len() * self.server.len(),
                "talks grow"
            );
            for (key, known) in &self.caller {
                if let Some((ticket, at, _)) = &known.asked {
                    let in_time = self.current.is_some() || at.saturating_add(PATIENCE) > self.now;
                    prop_assert!(in_time, "{ticket} waits without a connection");
                    prop_assert!(roll.waits.contains(&(*at + PATIENCE, key.clone())));
                }
                if self.planned && known.kept.is_some() {
                    let somewhere = self
                        .server
                        .keys()
                        .any(|connection| self.held(*connection, key).is_some());
                    prop_assert!(somewhere, "{key} is kept and nowhere");
                }
            }
            prop_assert_eq!(
                roll.waits.len(),
                self.caller
                    .values()
                    .filter(|known| known.asked.is_some())
                    .count()
            );
            Ok(())
        }

        /// From now on nothing fails: in the end the registry has what the caller thinks it has.
        fn ends_well(mut self) -> Result<(), TestCaseError> {
            if self.current.is_none() {
                self.server
                    .len()
                    .eq(&3)
                    .then(|| self.lose(self.server.keys().next().copied().unwrap()));
                self.look()?;
                self.happens(Happening::Connect)?;
            }
            let mut turns = 0;
            loop {
                turns += 1;
                prop_assert!(turns < 1000, "no end: {:?}", self.roll);
                if let Some((connection, service)) = self.open.keys().next().cloned() {
                    self.end(connection, service, 7);
                } else if let Some(next) = self.roll.deadline() {
                    prop_assert!(next <= self.now + Pace::NETWORK.cap);
                    self.now = next;
                    self.roll.wake(next);
                } else {
                    break;
                }
                self.look()?;
            }
            let current = self.current.unwrap();
            prop_assert!(self.settled.contains(&current), "never settled");
            for (key, known) in &self.caller {
                prop_assert!(known.asked.is_none(), "{key} waits for an answer");
                prop_assert_eq!(self.held(current, key), known.kept.as_ref(), "{}", key);
                for connection in self.server.keys() {
                    let held = self.held(*connection, key).is_some();
                    prop_assert!(
                        !held || known.kept.is_some(),
                        "{key} is out and still on {connection}"
                    );
                }
            }
            prop_assert!(self.roll.waits.is_empty() && self.roll.retries.is_empty());
            Ok(())
        }
    }

    fn standing_word(standing: &Standing) -> &'static str {
        match standing {
            Standing::Kept => "kept",
            Standing::Restored => "restored",
            Standing::Unreachable(_) => "unreachable",
            Standing::Refused(_) => "refused",
        }
    }

    proptest! {
        /// Under any order of events: every ticket is answered once and in time; one call about a service on a connection; nothing
        /// unwanted is said; no good one is refused; settled means that everything is there; and once calls work, the connection
        /// holds what was published and not withdrawn or refused, and no connection anything else.
        #[test]
        fn the_connection_holds_what_is_wanted_and_nothing_else(seed: u64, steps in prop::collection::vec(step(), 0..160)) {
            let mut world = World::new(seed, false);
            for step in steps {
                world.happens(step)?;
            }
            world.ends_well()?;
        }

        /// The same where a connection ends only after the next one was settled: what is kept is on one of them at every moment,
        /// and as long as every call is answered nothing is told.
        #[test]
        fn a_planned_move_has_no_moment_without_a_kept_instance(seed: u64, steps in prop::collection::vec(step(), 0..160)) {
            let mut world = World::new(seed, true);
            world.happens(Happening::Connect)?;
            for step in steps {
                world.happens(step)?;
            }
            world.ends_well()?;
        }

        /// However many services are to be said at once: no more in a second than the rate, and a second's worth saved up.
        #[test]
        fn writes_keep_to_their_rate(seed: u64, rate in 1_u32..50, count in 1_u16..200) {
            let mut roll = Roll::new(rate, PATIENCE, seed);
            let mut now = secs(100);
            for number in 1..=count {
                roll.handle(now, Event::Publish(number.into(), of(number, 1, 1.0)));
            }
            roll.handle(now, Event::Connected(1));
            let mut written = 0;
            loop {
                while let Some(effect) = roll.effect() {
                    if let Effect::Call(connection, say) = effect {
                        written += 1;
                        roll.handle(now, Event::Called(say.service().clone(), connection, Ok(())));
                    }
                }
                if written == count {
                    break;
                }
                let next = roll.deadline().unwrap();
                prop_assert!(next > now);
                now = next;
                roll.wake(now);
            }
            let took = now - secs(100) + Duration::from_millis(1);
            let least = secs(1) * u32::from(count).saturating_sub(rate + 1) / rate;
            prop_assert!(took >= least, "{count} writes in {took:?} at {rate}/s");
        }
    }
}
