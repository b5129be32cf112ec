//! A host: its applications, its disk, and one agent, joined from the same machines and in the same way as the shells do.
//!
//! Beside each part stands the shell it is taken from. What the shells do with tasks and channels happens here at once, one
//! effect after the other; what takes time there (a call, a write, a reload, a probe) is a happening.

use crate::cluster::server;
use crate::wire::{CallId, Caller, LONG_POLL, Letter, Wire};
use outrigger::agent::gate::{self, Gate, Patience};
use outrigger::agent::materialize::{self, Group, Memory, Outcome, Past, Rules, Slot};
use outrigger::agent::registrar::{self, Failure, Registrar};
use outrigger::backoff::Dice;
use outrigger::descriptor::spec::{Address, AddressRules, Heartbeat, OnAbsent, OnFailure, Service};
use outrigger::machine::{Machine, Moment};
use outrigger::nacos::Error;
use outrigger::nacos::beats::{self, BeatBook, Say, Ticket};
use outrigger::nacos::calls::{self, Answer};
use outrigger::nacos::model::{
    ConfigKey, ConfigState, Content, Instance, InstanceKey, Listed, Namespace, ServiceKey, Standing,
};
use outrigger::nacos::poll::{self, Poll};
use outrigger::nacos::route::{self, Judged, Route, Whom};
use outrigger::nacos::servers::{self, Order, Servers};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// As `agent/targets.rs` has them.
const RESYNC: Duration = Duration::from_secs(60);
const SNAPSHOT_AFTER: Duration = Duration::from_secs(3);
/// As settings have it by default.
const WRITE_RATE: u32 = 20;
/// As descriptors have it by default.
const PATIENCE: Patience = Patience {
    interval: Duration::from_secs(1),
    rise: 2,
    fall: 3,
};

/// What takes time within a host.
pub(crate) enum Happening {
    /// A machine is due.
    Wake,
    /// The gate of a service is.
    Probe(usize),
    /// A file was looked at, and its content perhaps made ready.
    Stage(usize, Slot, Option<Content>),
    /// What is ready was put in place.
    Swap(usize, Slot),
    /// What is to be remembered is on the disk.
    Kept(usize, u64),
    /// A reload has reached its application, or has not.
    Reload(usize),
    /// Files are looked at though nothing happened.
    Resync(usize),
    /// The registry had time to say something of this configuration.
    Late(usize),
    /// A stopped process goes on.
    Continue,
}

/// A service of a host, as its operator wants it, and its application.
pub(crate) struct Wanted {
    pub(crate) spec: Service,
    pub(crate) is_wanted: bool,
    pub(crate) ip: IpAddr,
    /// The application answers.
    pub(crate) answers: bool,
    /// Its probe passed once in this life of the agent.
    pub(crate) passed: bool,
    /// It was published once, in whichever life.
    pub(crate) published: bool,
    /// Where it may be listed: published there and not withdrawn.
    pub(crate) held: BTreeSet<IpAddr>,
    /// Where a killed agent left it: no other one knows of that, and of a persistent instance nobody ends it.
    pub(crate) orphans: BTreeSet<IpAddr>,
    /// What the laws expect of it they may ask for from then on.
    pub(crate) due: Moment,
}

/// A file that is kept, and the application that reads it.
pub(crate) struct File {
    pub(crate) data_id: String,
    pub(crate) group: usize,
    pub(crate) on_absent: OnAbsent,
    /// What is on the disk.
    pub(crate) content: Option<String>,
    /// The numbers of what this life of the agent had there.
    pub(crate) had: BTreeSet<usize>,
    /// The life of the agent that last put it there, or found it as wanted.
    pub(crate) by: u32,
    /// What the application has loaded.
    pub(crate) loaded: Option<String>,
    /// What the laws expect of file and application they may ask for from then on.
    pub(crate) due: Moment,
    pub(crate) reload_due: Moment,
}

/// A host.
pub(crate) struct Host {
    pub(crate) number: usize,
    pub(crate) life: u32,
    pub(crate) agent: Option<Agent>,
    pub(crate) services: Vec<Wanted>,
    pub(crate) files: Vec<File>,
    /// Whether the group's application hears reloads.
    pub(crate) reloads: Vec<bool>,
    pub(crate) disk_works: bool,
    /// The last agent ended in order.
    pub(crate) left: bool,
    snapshots: BTreeMap<String, String>,
    /// What agents have kept of their targets, and the contents to go back to.
    ledger: BTreeMap<Slot, Memory>,
    good: BTreeMap<Slot, Content>,
    /// While stopped: what waits until it goes on.
    stopped: Option<Vec<super::wire::Happening>>,
    wake_at: Option<Moment>,
    size: usize,
    group_count: usize,
}

/// One service of the agent: probe, gate and registrar.
struct Keeper {
    registrar: Registrar,
    gate: Gate,
    told: Option<(Option<bool>, Option<String>)>,
    healthy: Option<bool>,
    leaving: bool,
    probe_at: Option<Moment>,
}

/// What a call was made for.
enum Then {
    Instance(InstanceKey, Say),
    /// What a server has of an instance.
    Detail(Box<Detail>),
    /// The same from a list, where a server has no detail.
    Among(Box<Detail>),
    Fetch(ConfigKey),
    Poll(u64, Vec<(ConfigKey, Arc<str>)>),
    Knock,
    First,
    Version(Arc<str>),
}

struct Detail {
    service: usize,
    instance: Instance,
    whom: Whom,
    gone: Option<Gone>,
}

/// Which servers were asked whether they still have an instance, and what they said.
struct Gone {
    place: usize,
    places: usize,
    outcome: Result<bool, Error>,
}

struct Under {
    letter: Rc<Letter>,
    whom: Whom,
    route: Option<Route>,
    server: Arc<str>,
    then: Then,
    why: Option<servers::Event>,
}

/// The agent: all its machines.
pub(crate) struct Agent {
    servers: Servers,
    order: Order,
    up: bool,
    server: Option<Arc<str>>,
    answered: Option<Moment>,
    generation: Option<u32>,
    book: BeatBook,
    poll: Poll,
    keepers: Vec<Option<Keeper>>,
    groups: Vec<Group>,
    known: BTreeMap<String, Known>,
    calls: BTreeMap<CallId, Under>,
    parked: Option<u64>,
    waiting: BTreeMap<Ticket, (usize, bool, IpAddr)>,
    tickets: Ticket,
    reads: u32,
    leaving: bool,
    /// What can be put in place, and what is being put there, in case the agent is killed.
    staged: BTreeMap<Slot, Option<Content>>,
    swapping: Vec<Slot>,
    /// What is being kept, one after the other.
    keeping: Vec<(u64, Vec<(Slot, Memory)>)>,
    kept_at: Moment,
    dice: Dice,
    /// Instances about which something is being said.
    talked_of: BTreeSet<InstanceKey>,
}

#[derive(Default)]
struct Known {
    state: Option<ConfigState>,
    asked: bool,
}

/// The content of a configuration, as a file has it.
fn text(content: &Content) -> String {
    String::from_utf8(content.bytes.to_vec()).unwrap()
}

fn content(text: &str) -> Content {
    Content::of(text.into())
}

pub(crate) fn config_key(data_id: &str) -> ConfigKey {
    ConfigKey {
        namespace: Namespace::public(),
        group: "DEFAULT_GROUP".into(),
        data_id: data_id.into(),
    }
}

pub(crate) fn service_key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: Namespace::public(),
        group: "DEFAULT_GROUP".into(),
        name: name.into(),
    }
}

pub(crate) fn service(name: &str, port: u16, ephemeral: bool, on_failure: OnFailure) -> Service {
    Service {
        name: name.to_owned(),
        group: "DEFAULT_GROUP".to_owned(),
        namespace: "public".to_owned(),
        cluster: "DEFAULT".to_owned(),
        port,
        address: Address::Auto(AddressRules::default()),
        weight: 1.0,
        enabled: true,
        ephemeral,
        metadata: BTreeMap::new(),
        heartbeat: Heartbeat::default(),
        probe: None,
        on_failure,
        drain_delay: Duration::ZERO,
    }
}

impl Host {
    pub(crate) fn new(
        number: usize,
        size: usize,
        services: Vec<Service>,
        files: Vec<File>,
    ) -> Self {
        let group_count = files.iter().map(|file| file.group + 1).max().unwrap_or(0);
        Self {
            number,
            life: 0,
            agent: None,
            services: services
                .into_iter()
                .map(|spec| Wanted {
                    spec,
                    is_wanted: true,
                    ip: address(number, 0),
                    answers: true,
                    passed: false,
                    published: false,
                    held: BTreeSet::new(),
                    orphans: BTreeSet::new(),
                    due: Moment::ZERO,
                })
                .collect(),
            files,
            reloads: vec![true; group_count],
            disk_works: true,
            left: true,
            snapshots: BTreeMap::new(),
            ledger: BTreeMap::new(),
            good: BTreeMap::new(),
            stopped: None,
            wake_at: None,
            size,
            group_count,
        }
    }

    pub(crate) fn leaves(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.leaving)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// What is expected of a service may be asked for only after `wait`.
    pub(crate) fn disturb(&mut self, wire: &Wire, service: usize, wait: Duration) {
        let due = &mut self.services[service].due;
        *due = (*due).max(wire.now + wait);
    }

    pub(crate) fn disturb_all(&mut self, wire: &Wire, wait: Duration) {
        for service in 0..self.services.len() {
            self.disturb(wire, service, wait);
        }
        for file in &mut self.files {
            file.due = file.due.max(wire.now + wait);
            file.reload_due = file.reload_due.max(wire.now + wait);
        }
    }

    // -- the life of the agent

    pub(crate) fn boot(&mut self, wire: &mut Wire) {
        if self.agent.is_some() {
            return;
        }
        self.life += 1;
        self.left = false;
        wire.note(|| format!("host {}  the agent starts", self.number));
        for file in &mut self.files {
            // A reload that its predecessor left due waits for word of the file, but not for long.
            file.reload_due = file.reload_due.max(wire.now + Duration::from_secs(6));
        }
        let mut dice = Dice::new(wire.dice.seed());
        // As `nacos::http::start` and `Targets::start` seed theirs.
        let seed = dice.seed();
        let names = (0..self.size).map(server).collect();
        let mut agent = Agent {
            servers: Servers::fixed(names, seed),
            order: Order::default(),
            up: false,
            server: None,
            answered: None,
            generation: None,
            book: BeatBook::new(WRITE_RATE, seed.rotate_left(17)),
            poll: Poll::new(seed.rotate_left(33)),
            keepers: Vec::new(),
            groups: Vec::new(),
            known: BTreeMap::new(),
            calls: BTreeMap::new(),
            parked: None,
            waiting: BTreeMap::new(),
            tickets: 0,
            reads: 0,
            leaving: false,
            staged: BTreeMap::new(),
            swapping: Vec::new(),
            keeping: Vec::new(),
            kept_at: Moment::ZERO,
            dice,
            talked_of: BTreeSet::new(),
        };
        agent.keepers.resize_with(self.services.len(), || None);
        for _ in 0..self.group_count {
            let seed = agent.dice.seed();
            agent.groups.push(Group::new(true, seed));
        }
        self.agent = Some(agent);
        self.wake_at = None;
        // The server list is known before anybody is asked.
        self.pump(wire);
        self.ask(wire, calls::state(), Whom::Preferred, Then::First);
        for service in 0..self.services.len() {
            self.services[service].passed = false;
            if self.services[service].is_wanted {
                self.keep(wire, service);
            }
        }
        self.take_up_files(wire);
        self.settle(wire);
    }

    fn take_up_files(&mut self, wire: &mut Wire) {
        let Some(agent) = &mut self.agent else { return };
        for (slot, file) in self.files.iter().enumerate() {
            let rules = Rules {
                name: file.data_id.as_str().into(),
                on_absent: file.on_absent,
                max_size: 1 << 20,
                may_relent: false,
                verifies: false,
            };
            let slot = Slot(slot as u64);
            let past = Box::new(Past {
                memory: self.ledger.get(&slot).cloned().unwrap_or_default(),
                good: self.good.get(&slot).cloned(),
            });
            let event = materialize::Event::Wanted { slot, rules, past };
            agent.groups[file.group].handle(wire.now, event);
        }
        let keys: BTreeSet<ConfigKey> = self
            .files
            .iter()
            .map(|file| config_key(&file.data_id))
            .collect();
        if keys.is_empty() {
            return;
        }
        agent.poll.handle(wire.now, poll::Event::Wanted(keys));
        for group in 0..self.group_count {
            self.later_resync(wire, group);
        }
        for file in 0..self.files.len() {
            self.after(wire, SNAPSHOT_AFTER, Happening::Late(file));
        }
    }

    fn later_resync(&mut self, wire: &mut Wire, group: usize) {
        let wait = wire.between(RESYNC.mul_f64(0.8), RESYNC.mul_f64(1.2));
        self.after(wire, wait, Happening::Resync(group));
    }

    fn after(&self, wire: &mut Wire, wait: Duration, what: Happening) {
        let happening = super::wire::Happening::Host(self.number, self.life, what);
        wire.after(wait, happening);
    }

    /// `kill -9`: the machines are gone, the disk is as it is; what was being written is there or not.
    pub(crate) fn crash(&mut self, wire: &mut Wire) {
        let Some(mut agent) = self.agent.take() else {
            return;
        };
        wire.note(|| format!("host {}  the agent is killed", self.number));
        self.stopped = None;
        for slot in agent.swapping {
            let content = agent.staged.remove(&slot);
            if wire.chance(0.5) {
                self.swap(wire, slot, content.expect("it is ready").as_ref());
            }
        }
        for (_, memories) in agent.keeping {
            if wire.chance(0.5) {
                break;
            }
            self.ledger.extend(memories);
        }
        for wanted in &mut self.services {
            let held = std::mem::take(&mut wanted.held);
            if !wanted.spec.ephemeral {
                wanted.orphans.extend(held);
            }
        }
        self.life += 1;
        let number = self.number;
        let hung_up = agent
            .calls
            .into_iter()
            .filter(|(_, under)| !under.letter.call.hold.is_zero());
        for (call, under) in hung_up {
            let caller = Caller {
                host: number,
                life: self.life - 1,
                call,
            };
            wire.after(
                Duration::from_millis(1),
                super::wire::Happening::HungUp(place(&under.server), caller),
            );
        }
        // The laws hold again when its instances have died of silence.
        self.disturb_all(wire, Duration::from_secs(36));
    }

    /// `SIGSTOP`.
    pub(crate) fn stop(&mut self, wire: &mut Wire, wait: Duration) {
        if self.agent.is_none() || self.stopped.is_some() {
            return;
        }
        wire.note(|| format!("host {}  is stopped for {wait:?}", self.number));
        self.stopped = Some(Vec::new());
        let happening = super::wire::Happening::Host(self.number, self.life, Happening::Continue);
        wire.after(wait, happening);
        self.disturb_all(wire, wait + Duration::from_secs(10));
    }

    /// `TERM`: takes everything out, then ends.
    pub(crate) fn leave(&mut self, wire: &mut Wire) {
        let Some(agent) = &mut self.agent else { return };
        if agent.leaving {
            return;
        }
        wire.note(|| format!("host {}  the agent leaves", self.number));
        agent.leaving = true;
        for keeper in agent.keepers.iter_mut().flatten() {
            keeper.leaving = true;
            keeper.registrar.handle(wire.now, registrar::Event::Leave);
        }
        self.disturb_all(wire, Duration::from_secs(10));
        self.settle(wire);
    }

    // -- what an operator changes

    fn keep(&mut self, wire: &mut Wire, service: usize) {
        let wanted = &self.services[service];
        let Some(agent) = &mut self.agent else { return };
        if agent.keepers[service].is_some() {
            return;
        }
        let seed = agent.dice.seed();
        let mut keeper = Keeper {
            registrar: Registrar::new(wanted.spec.clone(), seed),
            gate: Gate::new(PATIENCE),
            told: None,
            healthy: None,
            leaving: false,
            probe_at: None,
        };
        keeper
            .registrar
            .handle(wire.now, registrar::Event::Located(Ok(wanted.ip)));
        agent.keepers[service] = Some(keeper);
        self.services[service].passed = false;
        self.probe(wire, service);
    }

    /// The descriptor says another weight.
    pub(crate) fn weigh(&mut self, wire: &mut Wire, service: usize, weight: f64) {
        self.services[service].spec.weight = weight;
        self.disturb(wire, service, Duration::from_secs(6));
        let spec = Box::new(self.services[service].spec.clone());
        if let Some(keeper) = self.keeper(service) {
            keeper
                .registrar
                .handle(wire.now, registrar::Event::Specified(spec));
        }
        self.settle(wire);
    }

    /// The host has another address.
    pub(crate) fn relocate(&mut self, wire: &mut Wire, service: usize, last: u8) {
        let ip = address(self.number, last);
        self.services[service].ip = ip;
        self.disturb(wire, service, Duration::from_secs(6));
        if let Some(keeper) = self.keeper(service) {
            keeper
                .registrar
                .handle(wire.now, registrar::Event::Located(Ok(ip)));
        }
        self.settle(wire);
    }

    fn keeper(&mut self, service: usize) -> Option<&mut Keeper> {
        self.agent.as_mut()?.keepers[service].as_mut()
    }

    /// The descriptor has the service, or has it no more.
    pub(crate) fn want(&mut self, wire: &mut Wire, service: usize, is_wanted: bool) {
        self.services[service].is_wanted = is_wanted;
        self.disturb(wire, service, Duration::from_secs(8));
        let leaving = self.agent.as_ref().is_none_or(|agent| agent.leaving);
        if is_wanted {
            if !leaving {
                self.keep(wire, service);
            }
        } else if let Some(keeper) = self.keeper(service) {
            keeper.leaving = true;
            keeper.registrar.handle(wire.now, registrar::Event::Leave);
        }
        self.settle(wire);
    }

    // -- the loop

    /// Something happened to this host; what happens to a stopped one waits.
    pub(crate) fn handle(&mut self, wire: &mut Wire, what: super::wire::Happening) {
        use super::wire::Happening as Any;
        if let Any::Host(_, life, Happening::Continue) = &what {
            if *life == self.life
                && let Some(waiting) = self.stopped.take()
            {
                wire.note(|| format!("host {}  goes on", self.number));
                // Timers first, or answers: the runtime looks at what has come before it looks at a deadline.
                for what in waiting {
                    self.handle(wire, what);
                }
                self.settle(wire);
            }
            return;
        }
        if let Some(waiting) = &mut self.stopped {
            waiting.push(what);
            return;
        }
        match what {
            Any::Answered(caller, outcome) if caller.life == self.life => {
                self.answered(wire, caller.call, outcome);
            }
            Any::Host(_, life, what) if life == self.life => match what {
                // Another one was planned sooner.
                Happening::Wake if self.wake_at > Some(wire.now) => return,
                Happening::Wake => self.wake_at = None,
                Happening::Probe(service) => {
                    let now = wire.now;
                    let Some(keeper) = self.keeper(service) else {
                        return;
                    };
                    // Another one was planned sooner, or this is of a keeper that is gone.
                    if keeper.probe_at.is_none_or(|at| at > now) {
                        return;
                    }
                    keeper.probe_at = None;
                    keeper.gate.wake(now);
                    if !self.probe(wire, service) {
                        return;
                    }
                }
                Happening::Stage(group, slot, content) => {
                    let outcome = self.stage(slot, content);
                    let Some(agent) = &mut self.agent else { return };
                    let event = materialize::Event::Done { slot, outcome };
                    agent.groups[group].handle(wire.now, event);
                }
                Happening::Swap(group, slot) => {
                    let Some(agent) = &mut self.agent else { return };
                    agent.swapping.retain(|swapping| *swapping != slot);
                    let content = agent.staged.remove(&slot).expect("it is ready");
                    self.swap(wire, slot, content.as_ref());
                    let Some(agent) = &mut self.agent else { return };
                    let outcome = Outcome::Swapped;
                    let event = materialize::Event::Done { slot, outcome };
                    agent.groups[group].handle(wire.now, event);
                }
                Happening::Kept(group, number) => {
                    let Some(agent) = &mut self.agent else { return };
                    let (_, memories) = agent.keeping.remove(0);
                    self.ledger.extend(memories);
                    agent.groups[group].handle(wire.now, materialize::Event::Kept(number));
                }
                Happening::Reload(group) => {
                    let outcome = self.reload(wire, group);
                    let Some(agent) = &mut self.agent else { return };
                    let event = materialize::Event::Reloaded(outcome);
                    agent.groups[group].handle(wire.now, event);
                }
                Happening::Resync(group) => {
                    if let Some(agent) = &mut self.agent {
                        agent.groups[group].handle(wire.now, materialize::Event::Resync);
                        self.later_resync(wire, group);
                    }
                }
                Happening::Late(file) => self.recall(wire, file),
                Happening::Continue => {}
            },
            _ => return,
        }
        self.settle(wire);
    }

    /// Wakes what is due, carries out all effects, and plans the next wake.
    fn settle(&mut self, wire: &mut Wire) {
        let now = wire.now;
        if self.stopped.is_some() {
            return;
        }
        let mut rounds = 0;
        let due = loop {
            let Some(agent) = &mut self.agent else { return };
            agent.wake(now);
            self.pump(wire);
            let Some(agent) = &mut self.agent else { return };
            match agent.deadline() {
                None => return,
                Some(due) if due > now => break due,
                Some(_) => rounds += 1,
            }
            if rounds > 100 {
                let number = self.number;
                return wire
                    .broke(|| format!("host {number}: a deadline that was met is not over"));
            }
        };
        if self.wake_at.is_none_or(|at| at > due) {
            self.wake_at = Some(due);
            let life = self.life;
            let wake = super::wire::Happening::Host(self.number, life, Happening::Wake);
            wire.at(due, wake);
        }
    }

    fn pump(&mut self, wire: &mut Wire) {
        let mut steps = 0;
        loop {
            steps += 1;
            if steps > 100_000 {
                return wire.broke(|| format!("host {}: spins", self.number));
            }
            let Some(agent) = &mut self.agent else { return };
            if let Some(effect) = agent.servers.effect() {
                self.perform_servers(wire, effect);
            } else if let Some(effect) = agent.book.effect() {
                self.perform_book(wire, effect);
            } else if let Some(effect) = agent.poll.effect() {
                self.perform_poll(wire, effect);
            } else if let Some((service, effect)) = agent.registrar_effect() {
                self.perform_registrar(wire, service, effect);
            } else if let Some((group, effect)) = agent.group_effect() {
                self.perform_group(wire, group, effect);
            } else {
                return;
            }
        }
    }

    // -- calls: `Client::asked` of nacos/http.rs

    fn ask(&mut self, wire: &mut Wire, call: calls::Call, whom: Whom, then: Then) {
        let Some(agent) = &mut self.agent else { return };
        let route = Route::over(&agent.order, whom);
        let under = Under {
            letter: Letter::new(call),
            whom,
            route: Some(route),
            server: "".into(),
            then,
            why: None,
        };
        self.go_on(wire, under, Err(Error::Stopped));
    }

    fn go_on(&mut self, wire: &mut Wire, mut under: Under, last: Result<Answer, Error>) {
        let Some(agent) = &mut self.agent else { return };
        match under.route.as_mut().and_then(Iterator::next) {
            Some(server) => {
                under.server = Arc::clone(&server);
                self.send(wire, under);
            }
            None => {
                let since = agent.answered.map_or(Duration::MAX, |at| wire.now - at);
                if under
                    .why
                    .is_some_and(|event| servers::is_away(&event, since))
                {
                    agent.up = false;
                    agent.servers.handle(wire.now, servers::Event::Away);
                }
                self.ended(wire, under.then, last);
            }
        }
    }

    fn send(&mut self, wire: &mut Wire, under: Under) {
        let Some(agent) = &mut self.agent else { return };
        let caller = Caller {
            host: self.number,
            life: self.life,
            call: wire.number(),
        };
        wire.send(caller, place(&under.server), &under.server, &under.letter);
        agent.calls.insert(caller.call, under);
    }

    fn answered(&mut self, wire: &mut Wire, call: CallId, outcome: Result<Answer, Error>) {
        let Some(agent) = &mut self.agent else { return };
        // Answered before, or given up.
        let Some(mut under) = agent.calls.remove(&call) else {
            return;
        };
        if under.route.is_none() {
            return self.ended(wire, under.then, outcome);
        }
        match route::judge(&under.letter.call, &under.server, &outcome) {
            Judged::Answered => {
                self.is_up(wire, &under.server, under.whom);
                self.ended(wire, under.then, outcome);
            }
            Judged::Elsewhere(error, event) => {
                wire.note(|| {
                    let what = under.letter.call.what;
                    format!("host {}  {what}: {error}", self.number)
                });
                agent.servers.handle(wire.now, event.clone());
                under.why = Some(event);
                self.go_on(wire, under, outcome);
            }
        }
    }

    fn is_up(&mut self, wire: &mut Wire, server: &Arc<str>, whom: Whom) {
        let Some(agent) = &mut self.agent else { return };
        agent.answered = Some(wire.now);
        let is_in_use = agent.server.as_ref() == Some(server);
        if agent.up && (is_in_use || whom != Whom::Preferred) {
            return;
        }
        agent.up = true;
        agent.server = Some(Arc::clone(server));
        let event = servers::Event::Answered(Arc::clone(server));
        agent.servers.handle(wire.now, event);
        // `ask_versions`: that server itself, whatever comes of it.
        let under = Under {
            letter: Letter::new(calls::state()),
            whom,
            route: None,
            server: Arc::clone(server),
            then: Then::Version(Arc::clone(server)),
            why: None,
        };
        self.send(wire, under);
    }

    fn ended(&mut self, wire: &mut Wire, then: Then, outcome: Result<Answer, Error>) {
        let now = wire.now;
        let Some(agent) = &mut self.agent else { return };
        match then {
            Then::Instance(key, say) => {
                agent.talked_of.remove(&key);
                let said = outcome.and_then(|answer| say.read(answer));
                wire.note(|| {
                    let (what, said) = (say.call().what, said.as_ref().err());
                    format!("host {}  {what} {key} ended {said:?}", self.number)
                });
                agent.book.handle(now, beats::Event::Called(key, said));
            }
            Then::Detail(detail) => match outcome.and_then(Answer::detail) {
                Err(Error::Refused { status: 410, .. }) => {
                    let call = calls::list(&detail.instance.key.service, &[], false);
                    let whom = detail.whom;
                    self.ask(wire, call, whom, Then::Among(detail));
                }
                read => self.read(wire, *detail, read),
            },
            Then::Among(detail) => {
                let list = outcome.and_then(Answer::list);
                let read = list.map(|list| calls::among(list, &detail.instance));
                self.read(wire, *detail, read);
            }
            Then::Fetch(key) => {
                let found = outcome.and_then(|answer| {
                    let server = Arc::clone(&answer.server);
                    Ok(answer.content()?.map(|content| (content, server)))
                });
                let event = match found {
                    Ok(Some((content, server))) => poll::Event::Fetched(key, content, server),
                    Ok(None) => poll::Event::NotFound(key),
                    Err(error) => poll::Event::FetchFailed(key, error.to_string()),
                };
                wire.note(|| {
                    let what = match &event {
                        poll::Event::Fetched(key, content, server) => {
                            format!("{key} is {} at {server}", text(content))
                        }
                        other => format!("{other:?}"),
                    };
                    format!("host {}  {what}", self.number)
                });
                agent.poll.handle(now, event);
            }
            Then::Poll(number, keys) => {
                let event = match outcome.and_then(|answer| answer.changed(&keys)) {
                    Ok(changed) => poll::Event::Answered(number, changed),
                    Err(_) => poll::Event::PollFailed(number),
                };
                agent.poll.handle(now, event);
            }
            Then::Knock => {
                let event = match route::who_answered(&calls::state(), &outcome) {
                    Some(server) => servers::Event::Answered(server),
                    None => servers::Event::NobodyThere,
                };
                agent.servers.handle(now, event);
            }
            Then::First => {}
            Then::Version(server) => {
                if agent.server.as_ref() != Some(&server) {
                    return;
                }
                let version = outcome.ok().and_then(Answer::version);
                let generation = version.as_ref().and_then(calls::major);
                if generation.is_some() && generation != agent.generation {
                    agent.generation = generation;
                    agent.book.handle(now, beats::Event::Generation(generation));
                }
            }
        }
    }

    fn read(&mut self, wire: &mut Wire, detail: Detail, read: Result<Option<Listed>, Error>) {
        let Some(gone) = detail.gone else {
            let event = registrar::Event::ReadBack(read.map_err(Failure::from));
            return self.tell(wire, detail.service, event);
        };
        let (found, outcome) = match read {
            Ok(Some(_)) => (true, Ok(false)),
            Ok(None) => (false, Ok(true)),
            Err(error) if gone.outcome.is_err() => (false, Err(error)),
            Err(_) => (false, gone.outcome),
        };
        if !found && gone.place + 1 < gone.places {
            let gone = Gone {
                place: gone.place + 1,
                places: gone.places,
                outcome,
            };
            return self.ask_gone(wire, detail.service, detail.instance, gone);
        }
        let event = registrar::Event::Gone(outcome.map_err(Failure::from));
        self.tell(wire, detail.service, event);
    }

    fn ask_gone(&mut self, wire: &mut Wire, service: usize, instance: Instance, gone: Gone) {
        let whom = Whom::Other(gone.place as u32);
        self.ask_detail(wire, service, instance, whom, Some(gone));
    }

    fn ask_detail(
        &mut self,
        wire: &mut Wire,
        service: usize,
        instance: Instance,
        whom: Whom,
        gone: Option<Gone>,
    ) {
        let call = calls::detail(&instance);
        let detail = Detail {
            service,
            instance,
            whom,
            gone,
        };
        self.ask(wire, call, whom, Then::Detail(Box::new(detail)));
    }

    fn tell(&mut self, wire: &mut Wire, service: usize, event: registrar::Event) {
        if let Some(keeper) = self.keeper(service) {
            keeper.registrar.handle(wire.now, event);
        }
    }

    // -- effects

    fn perform_servers(&mut self, wire: &mut Wire, effect: servers::Effect) {
        let now = wire.now;
        let Some(agent) = &mut self.agent else { return };
        match effect {
            servers::Effect::Prefer(order) => {
                let count = order.servers.len();
                agent.order = order;
                agent.poll.handle(now, poll::Event::Servers(count));
            }
            servers::Effect::Knock => {
                self.ask(wire, calls::state(), Whom::Preferred, Then::Knock);
            }
            servers::Effect::Back => {
                wire.note(|| format!("host {}  the registry is back", self.number));
                agent.book.handle(now, beats::Event::Back);
                agent.poll.handle(now, poll::Event::Back);
                for keeper in agent.keepers.iter_mut().flatten() {
                    keeper.registrar.handle(now, registrar::Event::Back);
                }
            }
            servers::Effect::Fetch => {}
        }
    }

    fn perform_book(&mut self, wire: &mut Wire, effect: beats::Effect) {
        let Some(agent) = &mut self.agent else { return };
        match effect {
            beats::Effect::Call(key, say) => {
                let fresh = agent.talked_of.insert(key.clone());
                if !fresh {
                    wire.broke(|| format!("two calls at a time about {key}"));
                }
                let call = say.call();
                self.ask(wire, call, Whom::Preferred, Then::Instance(key, say));
            }
            beats::Effect::Answer(ticket, outcome) => {
                let Some((service, publishes, ip)) = agent.waiting.remove(&ticket) else {
                    return wire.broke(|| format!("ticket {ticket} is answered twice"));
                };
                let outcome = outcome.map_err(Failure::from);
                if !publishes && outcome.is_ok() {
                    self.services[service].held.remove(&ip);
                }
                let event = if publishes {
                    registrar::Event::Published(outcome)
                } else {
                    registrar::Event::Withdrawn(outcome)
                };
                self.tell(wire, service, event);
            }
            beats::Effect::Tell(key, standing) => self.stands(wire, &key, &standing),
        }
    }

    fn stands(&mut self, wire: &mut Wire, key: &InstanceKey, standing: &Standing) {
        wire.note(|| format!("host {}  {key} stands {standing:?}", self.number));
        let whose = self.services.iter().position(|wanted| {
            wanted.spec.name == *key.service.name
                && wanted.spec.port == key.port
                && wanted.ip == key.ip
        });
        if let Some(service) = whose {
            self.tell(wire, service, registrar::Event::Stands(standing.clone()));
        }
    }

    fn perform_poll(&mut self, wire: &mut Wire, effect: poll::Effect) {
        let Some(agent) = &mut self.agent else { return };
        if matches!(effect, poll::Effect::Cancel | poll::Effect::Poll(..))
            && let Some(parked) = agent.parked.take()
        {
            let is_it =
                |under: &Under| matches!(under.then, Then::Poll(number, _) if number == parked);
            let call = agent.calls.iter().find(|(_, under)| is_it(under));
            if let Some(call) = call.map(|(call, _)| *call)
                && let Some(under) = agent.calls.remove(&call)
            {
                let caller = Caller {
                    host: self.number,
                    life: self.life,
                    call,
                };
                wire.after(
                    Duration::from_millis(1),
                    super::wire::Happening::HungUp(place(&under.server), caller),
                );
            }
        }
        match effect {
            poll::Effect::Fetch(key, whom) => {
                self.ask(wire, calls::config_get(&key), whom, Then::Fetch(key));
            }
            poll::Effect::Poll(number, keys, whom) => {
                agent.parked = Some(number);
                let call = calls::config_listen(&keys, LONG_POLL);
                self.ask(wire, call, whom, Then::Poll(number, keys));
            }
            poll::Effect::Cancel => {}
            poll::Effect::Tell(key, state) => self.news(wire, &key, state),
        }
    }

    /// Probes if that is due, and plans the next probe; whether the registrar heard of it.
    fn probe(&mut self, wire: &mut Wire, service: usize) -> bool {
        let (number, life) = (self.number, self.life);
        let answers = self.services[service].answers;
        let Some(keeper) = self.keeper(service) else {
            return false;
        };
        let (mut heard, mut passed) = (false, false);
        while let Some(effect) = keeper.gate.effect() {
            // As `agent/services.rs` tells the verdicts of a probe.
            let why = match effect {
                gate::Effect::Probe => {
                    let event = if answers {
                        gate::Event::Passed
                    } else {
                        gate::Event::Failed
                    };
                    keeper.gate.handle(wire.now, event);
                    (!answers).then(|| "nothing listens".to_owned())
                }
                gate::Effect::Tell { healthy } => {
                    keeper.healthy = Some(healthy);
                    keeper.told.as_ref().and_then(|told| told.1.clone())
                }
            };
            let now = (keeper.healthy, why);
            let is_news =
                keeper.told.as_ref() != Some(&now) && (now.0.is_some() || now.1.is_some());
            if is_news && !keeper.leaving {
                keeper.told = Some(now.clone());
                let event = registrar::Event::Probed(now.0, now.1);
                keeper.registrar.handle(wire.now, event);
                passed |= now.0 == Some(true);
                heard = true;
            }
        }
        let next = keeper.gate.deadline();
        if let Some(next) = next
            && keeper.probe_at.is_none()
        {
            keeper.probe_at = Some(next);
            let probe = super::wire::Happening::Host(number, life, Happening::Probe(service));
            wire.at(next, probe);
        }
        self.services[service].passed |= passed;
        heard
    }

    fn perform_registrar(&mut self, wire: &mut Wire, service: usize, effect: registrar::Effect) {
        let number = self.number;
        let wanted = &mut self.services[service];
        let Some(agent) = &mut self.agent else { return };
        match effect {
            registrar::Effect::Publish(instance) => {
                // What an earlier life of the agent left of a persistent instance may be set right before the probe passed.
                let ours = !instance.ephemeral && wanted.published;
                if !wanted.passed && !ours {
                    wire.broke(|| format!("{} is published before its probe passed", instance.key));
                }
                wanted.published = true;
                agent.tickets += 1;
                let ip = instance.key.ip;
                wanted.held.insert(ip);
                wanted.orphans.remove(&ip);
                agent.waiting.insert(agent.tickets, (service, true, ip));
                let event = beats::Event::Publish(agent.tickets, instance);
                agent.book.handle(wire.now, event);
            }
            registrar::Effect::Withdraw(instance) => {
                agent.tickets += 1;
                let ip = instance.key.ip;
                agent.waiting.insert(agent.tickets, (service, false, ip));
                let event = beats::Event::Withdraw(agent.tickets, instance);
                agent.book.handle(wire.now, event);
            }
            registrar::Effect::ReadBack(instance) => {
                let whom = Whom::Other(agent.reads);
                agent.reads = agent.reads.wrapping_add(1);
                self.ask_detail(wire, service, instance, whom, None);
            }
            registrar::Effect::ConfirmGone(instance) => {
                let places = agent.order.servers.len().clamp(1, route::TRIES);
                let gone = Gone {
                    place: 0,
                    places,
                    outcome: Err(Error::Stopped),
                };
                self.ask_gone(wire, service, instance, gone);
            }
            registrar::Effect::Show(report) => {
                wire.note(|| {
                    let (state, reason) = (report.state, &report.reason);
                    let note = &report.note;
                    let name = &wanted.spec.name;
                    format!("host {number}  {name}: {state:?} {reason:?} {note:?}")
                });
            }
            registrar::Effect::Left => {
                wire.note(|| format!("host {number}  {} has left", wanted.spec.name));
                agent.keepers[service] = None;
                if agent.leaving {
                    if agent.keepers.iter().all(Option::is_none) {
                        wire.note(|| format!("host {number}  the agent ends"));
                        self.agent = None;
                        self.life += 1;
                        self.ended_in_order();
                    }
                } else if wanted.is_wanted {
                    self.keep(wire, service);
                }
            }
        }
    }

    fn ended_in_order(&mut self) {
        self.left = true;
    }

    // -- files: agent/targets.rs

    fn news(&mut self, wire: &mut Wire, key: &ConfigKey, state: ConfigState) {
        let Some(agent) = &mut self.agent else { return };
        let known = agent.known.entry(key.data_id.to_string()).or_default();
        match &state {
            ConfigState::Unreachable(_) => {}
            ConfigState::Present(_) => known.state = Some(state.clone()),
            ConfigState::Absent => {
                known.state = Some(state.clone());
                self.snapshots.remove(&*key.data_id);
            }
        }
        let unheard = known.state.is_none();
        for (slot, file) in self.files.iter().enumerate() {
            if *file.data_id == *key.data_id {
                let (slot, state) = (Slot(slot as u64), state.clone());
                let event = materialize::Event::Known { slot, state };
                agent.groups[file.group].handle(wire.now, event);
            }
        }
        if unheard {
            let file = self
                .files
                .iter()
                .position(|file| *file.data_id == *key.data_id);
            if let Some(file) = file {
                self.recall(wire, file);
            }
        }
    }

    fn recall(&mut self, wire: &mut Wire, file: usize) {
        let data_id = self.files[file].data_id.clone();
        let Some(agent) = &mut self.agent else { return };
        let known = agent.known.entry(data_id.clone()).or_default();
        if known.asked || known.state.is_some() {
            return;
        }
        known.asked = true;
        let Some(remembered) = self.snapshots.get(&data_id) else {
            return;
        };
        for (slot, file) in self.files.iter().enumerate() {
            if file.data_id == data_id {
                let (slot, content) = (Slot(slot as u64), content(remembered));
                let event = materialize::Event::Remembered { slot, content };
                agent.groups[file.group].handle(wire.now, event);
            }
        }
    }

    fn perform_group(&mut self, wire: &mut Wire, group: usize, effect: materialize::Effect) {
        let Some(agent) = &mut self.agent else { return };
        match effect {
            materialize::Effect::Stage { slot, content, .. } => {
                let wait = wire.millis(1, 20);
                self.after(wire, wait, Happening::Stage(group, slot, content));
            }
            materialize::Effect::Discard { slot } => _ = agent.staged.remove(&slot),
            materialize::Effect::Keep { number, memories } => {
                agent.keeping.push((number, memories));
                // One file, one write after the other.
                agent.kept_at = agent.kept_at.max(wire.now) + wire.millis(1, 10);
                let wait = agent.kept_at - wire.now;
                self.after(wire, wait, Happening::Kept(group, number));
            }
            materialize::Effect::Swap { slot } => {
                agent.swapping.push(slot);
                let wait = wire.millis(1, 20);
                self.after(wire, wait, Happening::Swap(group, slot));
            }
            materialize::Effect::Commit { slot, content, .. } => {
                let data_id = self.files[slot.0 as usize].data_id.clone();
                self.snapshots.insert(data_id, text(&content));
                self.good.insert(slot, content);
            }
            // No file of these hosts asks for one.
            materialize::Effect::Verify { .. } => {}
            // Nothing else limits the reloads of these hosts.
            materialize::Effect::Ask { .. } => {
                agent.groups[group].handle(wire.now, materialize::Event::Turn);
            }
            materialize::Effect::Pass => {}
            materialize::Effect::Reload => {
                let wait = wire.millis(5, 500);
                self.after(wire, wait, Happening::Reload(group));
            }
            materialize::Effect::Tell { slot, standing } => {
                wire.note(|| {
                    let (state, reason) = (standing.state, &standing.reason);
                    format!(
                        "host {}  file {}: {state:?} {reason:?}",
                        self.number, slot.0
                    )
                });
            }
        }
    }

    /// Looks at a file, and makes a content ready where it is another one.
    fn stage(&mut self, slot: Slot, wanted: Option<Content>) -> Outcome {
        let file = &mut self.files[slot.0 as usize];
        if file.content == wanted.as_ref().map(text) {
            file.by = self.life;
            return Outcome::Unchanged;
        }
        if !self.disk_works {
            return Outcome::Failed("no space left on device".to_owned());
        }
        if let Some(agent) = &mut self.agent {
            agent.staged.insert(slot, wanted);
        }
        Outcome::Staged
    }

    /// Puts what is ready in place, at one instant: a reader sees the old content or the new one.
    fn swap(&mut self, wire: &mut Wire, slot: Slot, wanted: Option<&Content>) {
        let (number, life) = (self.number, self.life);
        let file = &mut self.files[slot.0 as usize];
        let before = std::mem::replace(&mut file.by, life);
        let new = wanted.map(text);
        wire.note(|| {
            format!(
                "host {number}  file {}: {:?} -> {new:?}",
                slot.0, file.content
            )
        });
        let old = std::mem::replace(&mut file.content, new);
        file.reload_due = file.reload_due.max(wire.now + Duration::from_secs(6));
        // An agent that was started anew knows nothing of what its predecessor had, and believes the first server it asks.
        super::laws::replaced(wire, file, old.as_deref(), before == life);
    }

    fn reload(&mut self, wire: &mut Wire, group: usize) -> Result<(), String> {
        if !self.reloads[group] {
            return Err("nobody is there".to_owned());
        }
        wire.note(|| format!("host {}  group {group} is reloaded", self.number));
        self.load(group);
        Ok(())
    }

    /// The application of a group reads its files: told to, or because it starts.
    pub(crate) fn load(&mut self, group: usize) {
        for file in self.files.iter_mut().filter(|file| file.group == group) {
            file.loaded.clone_from(&file.content);
        }
    }
}

impl Agent {
    fn wake(&mut self, now: Moment) {
        self.servers.wake(now);
        self.book.wake(now);
        self.poll.wake(now);
        for keeper in self.keepers.iter_mut().flatten() {
            keeper.registrar.wake(now);
        }
        for group in &mut self.groups {
            group.wake(now);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let keepers = self.keepers.iter().flatten();
        keepers
            .map(|keeper| keeper.registrar.deadline())
            .chain(self.groups.iter().map(Machine::deadline))
            .chain([
                self.servers.deadline(),
                self.book.deadline(),
                self.poll.deadline(),
            ])
            .flatten()
            .min()
    }

    fn registrar_effect(&mut self) -> Option<(usize, registrar::Effect)> {
        self.keepers
            .iter_mut()
            .enumerate()
            .find_map(|(at, keeper)| Some((at, keeper.as_mut()?.registrar.effect()?)))
    }

    fn group_effect(&mut self) -> Option<(usize, materialize::Effect)> {
        self.groups
            .iter_mut()
            .enumerate()
            .find_map(|(at, group)| Some((at, group.effect()?)))
    }
}

/// The number of a server, from its base URL.
fn place(server: &str) -> usize {
    let digits = server.trim_start_matches("http://node");
    digits.split(':').next().unwrap().parse().unwrap()
}

/// An address of a host.
pub(crate) fn address(host: usize, last: u8) -> IpAddr {
    [10, (host / 250) as u8, (host % 250) as u8, last + 1].into()
}
