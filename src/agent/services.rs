//! The services of this host: for each a probe and a registrar, joined here; nobody else knows both.
//!
//! One task owns the map and decides who runs; one small task for each service drives its registrar. What did not change in a
//! new set is not touched. A removed service leaves in order before one of the same identity may start again, so that the old
//! one's withdrawal never takes out the new one.

use super::Parts;
use super::locate::{self, Considered, Located};
use super::probe::{self, Health};
use super::registrar::{Effect, Event, Failure, Registrar, Report};
use super::view::{History, ServiceView};
use crate::backoff::Dice;
use crate::descriptor::spec::{Address, AddressRules, Probe, Service};
use crate::machine::Moment;
use crate::machine::drive;
use crate::nacos::model::{InstanceKey, Namespace, ServiceKey, Standing};
use crate::os::address;
use crate::tasks::Tasks;
use std::{
    collections::BTreeMap,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::lookup_host,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

/// Addresses are looked at this often; a host gets a new one now and then.
const LOOK: Duration = Duration::from_secs(30);
/// Sooner while a service has none.
const LOOK_SOON: Duration = Duration::from_secs(2);
/// For a name of the registry.
const RESOLVE: Duration = Duration::from_secs(3);
/// Messages that wait.
const QUEUE: usize = 256;

/// Service and port: what makes two entries of descriptors the same service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    service: ServiceKey,
    port: u16,
    /// Two entries may differ in a written address alone.
    ip: Option<IpAddr>,
}

impl Id {
    fn of(spec: &Service) -> Self {
        Self {
            service: ServiceKey {
                namespace: Namespace::new(&spec.namespace),
                group: spec.group.as_str().into(),
                name: spec.name.as_str().into(),
            },
            port: spec.port,
            ip: match spec.address {
                Address::Explicit(ip) => Some(ip),
                Address::Auto(_) => None,
            },
        }
    }

    /// Whether both can lead to one instance: an address that is found may be the one that another entry has written out.
    fn may_be(&self, other: &Self) -> bool {
        self.service == other.service
            && self.port == other.port
            && (self.ip == other.ip || self.ip.is_none() || other.ip.is_none())
    }
}

/// The entries of the same service and port, whatever their addresses.
fn of_service_and_port<'a, T>(
    map: &'a BTreeMap<Id, T>,
    id: &'a Id,
) -> impl Iterator<Item = (&'a Id, &'a T)> {
    let first = Id {
        ip: None,
        ..id.clone()
    };
    map.range(first..)
        .take_while(|(other, _)| other.service == id.service && other.port == id.port)
}

/// What is shown of one service; the task of the service writes it, `status` reads it.
struct Shown {
    report: Option<Report>,
    since: Moment,
    history: History,
    health: Option<watch::Receiver<Health>>,
    origin: Option<String>,
    ephemeral: bool,
}

type Board = Arc<Mutex<BTreeMap<Id, Shown>>>;

fn locked(board: &Board) -> MutexGuard<'_, BTreeMap<Id, Shown>> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Request {
    Set(Vec<Service>),
    Drain(oneshot::Sender<()>),
    Rest(oneshot::Sender<()>),
    Explain(oneshot::Sender<Vec<Considered>>),
}

/// One running service, as the map knows it.
struct Running {
    spec: Service,
    events: mpsc::Sender<Event>,
    /// Stops the probe alone.
    probing: Option<Tasks>,
    located: Result<Located, String>,
    leaving: bool,
    left: bool,
}

/// The handle; clones are the same services.
#[derive(Clone)]
pub struct Services {
    requests: mpsc::Sender<Request>,
    board: Board,
    parts: Parts,
}

/// Where addresses come from.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The variable `POD_IP`.
    pub pod_ip: Option<String>,
    /// URLs of the registry as the settings name them; the first that has a route is the one that counts.
    pub servers: Vec<String>,
}

impl Services {
    /// Starts with no service. `standings` is what the transport tells of the instances it keeps.
    #[must_use]
    pub fn start(
        parts: &Parts,
        standings: mpsc::Receiver<(InstanceKey, Standing)>,
        around: Surroundings,
    ) -> Self {
        let (requests, requests_rx) = mpsc::channel(QUEUE);
        let services = Self {
            requests,
            board: Board::default(),
            parts: parts.clone(),
        };
        let (left_tx, left) = mpsc::channel(QUEUE);
        let actor = Actor {
            parts: parts.clone(),
            board: Arc::clone(&services.board),
            around,
            running: BTreeMap::new(),
            wanted: BTreeMap::new(),
            draining: None,
            drained: false,
            resting: None,
            left_tx,
            dice: Dice::new(parts.seed),
        };
        parts
            .tasks
            .spawn("services", actor.run(requests_rx, standings, left));
        services
    }

    /// Keeps these registered and no others.
    pub async fn set(&self, services: Vec<Service>) {
        // A closed queue means that the agent is stopping.
        _ = self.requests.send(Request::Set(services)).await;
    }

    /// Takes everything out in order, for good; answers whether all of it was confirmed within the time.
    pub async fn drain(&self, within: Duration) -> bool {
        let (done, drained) = oneshot::channel();
        if self.requests.send(Request::Drain(done)).await.is_err() {
            return false;
        }
        matches!(timeout(within, drained).await, Ok(Ok(())))
    }

    /// Takes everything out in order until something is [set](Self::set) again; answers whether all of it was confirmed within the time.
    pub async fn rest(&self, within: Duration) -> bool {
        let (done, rested) = oneshot::channel();
        if self.requests.send(Request::Rest(done)).await.is_err() {
            return false;
        }
        matches!(timeout(within, rested).await, Ok(Ok(())))
    }

    /// The candidates for an automatic address and what becomes of each.
    pub async fn addresses(&self) -> Vec<Considered> {
        let (answer, considered) = oneshot::channel();
        if self.requests.send(Request::Explain(answer)).await.is_err() {
            return Vec::new();
        }
        considered.await.unwrap_or_default()
    }

    /// All services as they are now, sorted.
    #[must_use]
    pub fn views(&self) -> Vec<ServiceView> {
        let board = locked(&self.board);
        board
            .iter()
            .filter_map(|(id, shown)| {
                let report = shown.report.as_ref()?;
                let health = shown.health.as_ref().map(|health| health.borrow().clone());
                Some(ServiceView {
                    service: id.service.clone(),
                    port: id.port,
                    instance: report.instance.clone(),
                    state: report.state,
                    reason: report.reason.clone(),
                    since: self.parts.epoch.wall(shown.since),
                    probe: health.map_or_else(|| "none".to_owned(), |health| health.words),
                    address_origin: shown.origin.clone(),
                    ephemeral: shown.ephemeral,
                    history: shown.history.clone(),
                })
            })
            .collect()
    }
}

struct Actor {
    parts: Parts,
    board: Board,
    around: Surroundings,
    running: BTreeMap<Id, Running>,
    wanted: BTreeMap<Id, Service>,
    /// Whoever waits for the drain.
    draining: Option<Vec<oneshot::Sender<()>>>,
    drained: bool,
    /// Whoever waits until nothing is registered for a while.
    resting: Option<oneshot::Sender<()>>,
    left_tx: mpsc::Sender<Id>,
    dice: Dice,
}

impl Actor {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut standings: mpsc::Receiver<(InstanceKey, Standing)>,
        mut left: mpsc::Receiver<Id>,
    ) {
        let mut look = Instant::now();
        // Names that do not resolve take seconds; nobody else must wait for them, so a task of its own looks.
        let (seen_tx, mut seen) = mpsc::channel(1);
        let mut looking = false;
        let mut connection = self.parts.transport.connection();
        let mut returns = connection.borrow().returns;
        loop {
            tokio::select! {
                biased;
                Some(id) = left.recv() => if self.has_left(&id) {
                    self.locate(None).await;
                    look = Instant::now();
                },
                Some((key, standing)) = standings.recv() => self.stands(&key, standing).await,
                Some(around) = seen.recv() => {
                    looking = false;
                    let missing = self.locate(Some(&around)).await;
                    look = Instant::now() + if missing { LOOK_SOON } else { LOOK };
                }
                request = requests.recv() => match request {
                    None => return,
                    Some(Request::Set(services)) => {
                        self.wanted = services.into_iter().map(|spec| (Id::of(&spec), spec)).collect();
                        self.settle().await;
                        self.locate(None).await;
                        look = Instant::now();
                    }
                    Some(Request::Drain(done)) => self.drain(done).await,
                    Some(Request::Rest(done)) => {
                        self.wanted.clear();
                        self.settle().await;
                        self.resting = Some(done);
                        self.answer_drains();
                    }
                    Some(Request::Explain(answer)) => {
                        let looked = self.surroundings();
                        self.parts.tasks.spawn("explain addresses", async move {
                            let auto = Address::Auto(AddressRules::default());
                            let (_, considered) = locate::locate(&auto, &looked.await);
                            // Whoever asked may have gone.
                            _ = answer.send(considered);
                        });
                    }
                },
                Ok(()) = connection.changed() => {
                    let now = connection.borrow_and_update().returns;
                    if std::mem::replace(&mut returns, now) != now {
                        for running in self.running.values() {
                            _ = running.events.send(Event::Back).await;
                        }
                    }
                }
                () = tokio::time::sleep_until(look), if !looking && self.looks() => {
                    looking = true;
                    let (looked, seen) = (self.surroundings(), seen_tx.clone());
                    self.parts.tasks.spawn("look for addresses", async move {
                        // The actor ends only with the agent.
                        _ = seen.send(looked.await).await;
                    });
                }
            }
        }
    }

    /// Starts, changes and ends what must be, so that `running` becomes `wanted`.
    async fn settle(&mut self) {
        let gone: Vec<Id> = self
            .running
            .iter()
            .filter(|(id, running)| !running.leaving && !self.wanted.contains_key(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            if let Some(running) = self.running.get_mut(&id) {
                leave(running).await;
            }
        }
        if self.drained {
            return;
        }
        for (id, spec) in self.wanted.clone() {
            match self.running.get_mut(&id) {
                // It starts when the old one has left.
                Some(running) if running.leaving => {}
                Some(running) if running.spec == spec => {}
                Some(running) => {
                    let probe_changed = running.spec.probe != spec.probe;
                    running.spec = spec.clone();
                    if let Some(shown) = locked(&self.board).get_mut(&id) {
                        shown.ephemeral = spec.ephemeral;
                    }
                    if probe_changed {
                        start_probe(&self.parts, &self.board, &id, running);
                    }
                    _ = running.events.send(Event::Specified(Box::new(spec))).await;
                }
                None => _ = self.start_unless_held_up(&id, spec),
            }
        }
    }

    /// Starts it, unless one that may be the same instance has not left yet: the one would register what the other takes out.
    fn start_unless_held_up(&mut self, id: &Id, spec: Service) -> bool {
        let held_up = of_service_and_port(&self.running, id).any(|(other, _)| other.may_be(id));
        if !held_up {
            self.start(id.clone(), spec);
        }
        !held_up
    }

    fn start(&mut self, id: Id, spec: Service) {
        let (events, events_rx) = mpsc::channel(QUEUE);
        locked(&self.board).insert(
            id.clone(),
            Shown {
                report: None,
                since: self.parts.epoch.now(),
                history: History::default(),
                health: None,
                origin: None,
                ephemeral: spec.ephemeral,
            },
        );
        let shell = Shell {
            id: id.clone(),
            parts: self.parts.clone(),
            board: Arc::clone(&self.board),
            events: events.clone(),
            left: self.left_tx.clone(),
        };
        let machine = Registrar::new(spec.clone(), self.dice.seed());
        self.parts
            .tasks
            .spawn("registrar", shell.run(machine, events_rx));
        let mut running = Running {
            spec,
            events,
            probing: None,
            located: Err(String::new()),
            leaving: false,
            left: false,
        };
        start_probe(&self.parts, &self.board, &id, &mut running);
        self.running.insert(id, running);
    }

    /// Answers whether something that waited for this has started: it needs its address.
    fn has_left(&mut self, id: &Id) -> bool {
        let Some(running) = self.running.get_mut(id) else {
            return false;
        };
        running.left = true;
        let mut started = false;
        if !self.drained || !self.wanted.contains_key(id) {
            // Removed from its descriptor, not drained: nothing is to be seen of it any more.
            self.running.remove(id);
            locked(&self.board).remove(id);
            let waiting: Vec<(Id, Service)> = of_service_and_port(&self.wanted, id)
                .filter(|(other, _)| !self.drained && !self.running.contains_key(other))
                .map(|(other, spec)| (other.clone(), spec.clone()))
                .collect();
            for (other, spec) in waiting {
                started |= self.start_unless_held_up(&other, spec);
            }
        }
        self.answer_drains();
        started
    }

    async fn drain(&mut self, done: oneshot::Sender<()>) {
        self.drained = true;
        self.draining.get_or_insert_default().push(done);
        for running in self.running.values_mut() {
            leave(running).await;
        }
        self.answer_drains();
    }

    fn answer_drains(&mut self) {
        if self.drained && self.running.values().all(|running| running.left) {
            for done in self.draining.take().into_iter().flatten() {
                // Whoever asked may have gone.
                _ = done.send(());
            }
        }
        if self.running.values().all(|running| running.left)
            && let Some(done) = self.resting.take()
        {
            _ = done.send(());
        }
    }

    async fn stands(&self, key: &InstanceKey, standing: Standing) {
        // The written address is part of an identity or not: both are looked for, each by its key.
        let ids = [None, Some(key.ip)].map(|ip| Id {
            service: key.service.clone(),
            port: key.port,
            ip,
        });
        for id in &ids {
            if let Some(running) = self.running.get(id)
                && running.located.as_ref().is_ok_and(|at| at.ip == key.ip)
            {
                _ = running.events.send(Event::Stands(standing.clone())).await;
            }
        }
    }

    // -- addresses

    /// Whether there is anything to look for: addresses that were written out do not change.
    fn looks(&self) -> bool {
        let auto = |running: &Running| matches!(running.spec.address, Address::Auto(_));
        self.running.values().any(auto)
    }

    /// Looks at what the host has; owns all it needs, so that it can run beside the actor.
    fn surroundings(&self) -> impl Future<Output = locate::Surroundings> + Send + 'static {
        let in_use = self.parts.transport.connection().borrow().server.clone();
        let around = self.around.clone();
        async move {
            let candidates = match tokio::task::spawn_blocking(address::candidates).await {
                Ok(Ok(candidates)) => candidates,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the addresses of this host cannot be read");
                    Vec::new()
                }
                // It panicked, which was printed.
                Err(_) => Vec::new(),
            };
            let mut route = None;
            let mut registry = String::new();
            for host in in_use
                .iter()
                .chain(&around.servers)
                .filter_map(|url| host_and_port(url))
            {
                registry.clone_from(&host);
                if let Ok(Ok(found)) = timeout(RESOLVE, lookup_host(&host)).await {
                    route = found
                        .into_iter()
                        .find_map(|target| address::route_to(target).ok());
                }
                if route.is_some() {
                    break;
                }
            }
            locate::Surroundings {
                pod_ip: around.pod_ip,
                candidates,
                route,
                registry,
            }
        }
    }

    /// Tells every registrar its address where it changed, without `around` only those whose address was written out; answers
    /// whether one has none.
    async fn locate(&mut self, around: Option<&locate::Surroundings>) -> bool {
        let nothing = locate::Surroundings::default();
        let mut missing = false;
        for (id, running) in &mut self.running {
            let written = matches!(running.spec.address, Address::Explicit(_));
            if around.is_none() && !written {
                missing |= running.located.is_err();
                continue;
            }
            let (located, _) = locate::locate(&running.spec.address, around.unwrap_or(&nothing));
            // An address once found is kept while none is found: a route that flaps must not take a service out.
            let keeps = located.is_err() && running.located.is_ok();
            missing |= located.is_err();
            if keeps || located == running.located {
                continue;
            }
            running.located = located.clone();
            if let Some(shown) = locked(&self.board).get_mut(id) {
                shown.origin = located.as_ref().ok().map(|located| located.origin.clone());
            }
            let event = Event::Located(located.map(|located| located.ip));
            _ = running.events.send(event).await;
        }
        missing
    }
}

/// `host:port` of a base URL, as names are looked up.
fn host_and_port(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    Some(format!(
        "{}:{}",
        url.host_str()?,
        url.port_or_known_default()?
    ))
}

async fn leave(running: &mut Running) {
    running.leaving = true;
    if let Some(probing) = running.probing.take() {
        probing.stop();
    }
    _ = running.events.send(Event::Leave).await;
}

/// Starts the probe of `running` in place of any old one; without one the service counts as healthy.
fn start_probe(parts: &Parts, board: &Board, id: &Id, running: &mut Running) {
    if let Some(old) = running.probing.take() {
        old.stop();
    }
    let probing = parts.tasks.child();
    let health = running
        .spec
        .probe
        .clone()
        .map(|probe: Probe| probe::start(parts, &probing, probe));
    if let Some(shown) = locked(board).get_mut(id) {
        shown.health.clone_from(&health);
    }
    let events = running.events.clone();
    probing.spawn("verdict", async move {
        let Some(mut health) = health else {
            _ = events.send(Event::Probed(Some(true), None)).await;
            return;
        };
        let mut told = None;
        loop {
            let now = health.borrow_and_update().clone();
            let now = (now.healthy, now.why);
            // A new probe of a known service says nothing until its first verdict.
            if told.as_ref() != Some(&now) && (now.0.is_some() || now.1.is_some()) {
                told = Some(now.clone());
                _ = events.send(Event::Probed(now.0, now.1)).await;
            }
            if health.changed().await.is_err() {
                return;
            }
        }
    });
    running.probing = Some(probing);
}

/// The thin shell around one registrar.
struct Shell {
    id: Id,
    parts: Parts,
    board: Board,
    events: mpsc::Sender<Event>,
    left: mpsc::Sender<Id>,
}

impl Shell {
    async fn run(self, machine: Registrar, events: mpsc::Receiver<Event>) {
        let stop = self.parts.tasks.token();
        let epoch = self.parts.epoch;
        let perform = |effect| {
            match effect {
                Effect::Show(report) => self.show(report),
                Effect::Left => {
                    let (left, id) = (self.left.clone(), self.id.clone());
                    self.parts.tasks.spawn("left", async move {
                        _ = left.send(id).await;
                    });
                }
                call => self.call(call),
            }
            std::future::ready(())
        };
        drive(machine, epoch, events, perform, stop).await;
    }

    fn call(&self, effect: Effect) {
        let transport = Arc::clone(&self.parts.transport);
        let events = self.events.clone();
        self.parts.tasks.spawn("registry-call", async move {
            let event = match effect {
                Effect::Publish(instance) => {
                    Event::Published(transport.publish(instance).await.map_err(Failure::from))
                }
                Effect::Withdraw(instance) => {
                    Event::Withdrawn(transport.withdraw(instance).await.map_err(Failure::from))
                }
                Effect::ReadBack(instance) => {
                    Event::ReadBack(transport.read_back(instance).await.map_err(Failure::from))
                }
                Effect::ConfirmGone(instance) => {
                    Event::Gone(transport.is_gone(instance).await.map_err(Failure::from))
                }
                Effect::Show(_) | Effect::Left => return,
            };
            _ = events.send(event).await;
        });
    }

    fn show(&self, report: Report) {
        let now = self.parts.epoch.now();
        let mut board = locked(&self.board);
        let Some(shown) = board.get_mut(&self.id) else {
            return;
        };
        let old = shown.report.as_ref().map(|old| old.state);
        let word = report.state.word();
        if let Some(note) = &report.note {
            tracing::warn!(service = %self.id.service, port = self.id.port, "{note}");
            shown.history.add(self.parts.epoch.wall(now), note.clone());
        } else if old != Some(report.state) {
            let reason = report.reason.as_deref();
            tracing::info!(service = %self.id.service, port = self.id.port, state = word, reason, "service");
            let sentence = match &report.reason {
                Some(reason) => format!("{word}: {reason}"),
                None => word.to_owned(),
            };
            shown.history.add(self.parts.epoch.wall(now), sentence);
            shown.since = now;
        }
        shown.report = Some(report);
    }
}
