//! Tells applications that their files have changed: one [`pacing`] machine per `reload`, which all groups of files that name it
//! share, and a [`lease`] where it waits for a turn in its fleet.
//!
//! A group asks, is asked back when its turn has come, and hears what came of the reload; what it waits for meanwhile is shown with
//! its targets. Nothing here waits for a group or for the router: what is told to them is told by a task.

use super::Parts;
use super::commands::{Commands, tell_application};
use super::lease::{self, Lease, Line, Owner};
use super::materialize;
use super::pacing::{self, Member, Pacer, Wait};
use crate::backoff::Dice;
use crate::dates;
use crate::descriptor::spec::{Fleet, Pacing, Process, Reload};
use crate::machine::{Moment, drive};
use crate::metrics::Outcome as Counted;
use crate::nacos::model::{Instance, InstanceKey, Namespace, ServiceKey, ServiceList};
use crate::nacos::wire::md5_hex;
use crate::os::command;
use crate::os::ourselves;
use crate::tasks::Tasks;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

/// Length of each queue; whoever finds one full waits.
const QUEUE: usize = 64;
/// How long an agent that leaves tries to take its tickets out.
const LEAVING: Duration = Duration::from_secs(2);
/// How much longer than a request or signal may take its ticket counts.
const MARGIN: Duration = Duration::from_secs(1);

/// Shows what targets wait for, or that they wait for nothing.
type Shows = dyn Fn(Option<&str>) + Send + Sync;

/// What a member is given: a way to its group, and a way to its targets' views.
#[derive(Clone)]
pub(super) struct Whom {
    /// Its group.
    pub(super) events: mpsc::Sender<materialize::Event>,
    /// Shows what its targets wait for.
    pub(super) waits: Arc<Shows>,
    /// Adds to the history of its targets.
    pub(super) note: Arc<dyn Fn(&str) + Send + Sync>,
}

/// What the registry said of a line.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) list: Option<Arc<ServiceList>>,
    /// How often it was away and came back.
    pub(super) returns: u64,
}

/// What the router is asked for: that a line be watched, or by this number no longer.
#[derive(Debug)]
pub(super) enum Watch {
    Begin(ServiceKey, u64, watch::Sender<Heard>),
    End(ServiceKey, u64),
}

/// Tickets of ours that may be listed.
#[derive(Clone, Debug, Default)]
pub(super) struct Tickets {
    listed: Arc<Mutex<BTreeMap<InstanceKey, Instance>>>,
    is_leaving: Arc<AtomicBool>,
}

impl Tickets {
    fn listed(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Instance>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of them out, as far as that can be done soon; none is listed again.
    pub(super) async fn leave(&self, parts: &Parts) {
        self.is_leaving.store(true, Ordering::Relaxed);
        let all: Vec<Instance> = self.listed().values().cloned().collect();
        let all = all.into_iter().map(|one| parts.transport.withdraw(one));
        let done = timeout(LEAVING, futures_util::future::join_all(all)).await;
        if done.is_err() {
            tracing::info!("a place in the line for a reload is left to the registry to clear");
        }
    }
}

/// All applications.
pub(super) struct Applications {
    parts: Parts,
    commands: Commands,
    running: HashMap<Reload, Application>,
    watches: mpsc::Sender<Watch>,
    tickets: Tickets,
    host: Arc<str>,
    next: u64,
    dice: Dice,
}

#[derive(Clone)]
struct Application {
    events: mpsc::Sender<pacing::Event>,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
}

/// Who the members are, and what they wait for.
#[derive(Default)]
struct State {
    members: BTreeMap<Member, Whom>,
    waiting: BTreeSet<Member>,
    wait: Option<Wait>,
    line: Option<Line>,
    service: String,
    /// Whether it is among those that wait, in the figures.
    is_counted: bool,
}

/// A group's way to its application.
#[derive(Clone)]
pub(super) struct Membership {
    pub(super) member: Member,
    events: mpsc::Sender<pacing::Event>,
}

impl Membership {
    pub(super) async fn tell(self, event: pacing::Event) {
        // It ends only with its members.
        _ = self.events.send(event).await;
    }
}

impl Applications {
    pub(super) fn new(
        parts: &Parts,
        commands: Commands,
        watches: mpsc::Sender<Watch>,
        tickets: Tickets,
    ) -> Self {
        Self {
            parts: parts.clone(),
            commands,
            running: HashMap::new(),
            watches,
            tickets,
            host: ourselves::host_name().into(),
            next: 0,
            dice: Dice::new(parts.seed.rotate_left(33)),
        }
    }

    /// A group of files whose application hears this `reload`.
    pub(super) async fn join(&mut self, reload: &Reload, pacing: Pacing, whom: Whom) -> Membership {
        if !self.running.contains_key(reload) {
            let application = self.start(reload);
            self.running.insert(reload.clone(), application);
        }
        let member = Member(self.next);
        self.next += 1;
        let Some(application) = self.running.get(reload) else {
            let (events, _) = mpsc::channel(1);
            return Membership { member, events };
        };
        application.state().members.insert(member, whom);
        let events = application.events.clone();
        _ = events.send(pacing::Event::Joined(member, pacing)).await;
        Membership { member, events }
    }

    /// The group is gone.
    pub(super) async fn leave(&mut self, reload: &Reload, member: Member) {
        let Some(application) = self.running.get(reload) else {
            return;
        };
        application.state().members.remove(&member);
        _ = application.events.send(pacing::Event::Left(member)).await;
    }

    /// Ends those that have no members any more; after the new ones have joined, so that who only changed keeps its pause.
    pub(super) fn prune(&mut self) {
        self.running.retain(|_, application| {
            let is_used = !application.state().members.is_empty();
            if !is_used {
                application.tasks.stop();
            }
            is_used
        });
    }

    fn start(&mut self, reload: &Reload) -> Application {
        let (events, received) = mpsc::channel(QUEUE);
        let application = Application {
            events,
            state: Arc::default(),
            tasks: self.parts.tasks.child(),
        };
        let place = place_of(&format!("{}\0{}", self.host, identity(reload)));
        let machine = Pacer::new(place, self.dice.seed());
        let mut hands = Hands {
            parts: self.parts.clone(),
            commands: self.commands.clone(),
            application: application.clone(),
            reload: Arc::new(reload.clone()),
            watches: self.watches.clone(),
            tickets: self.tickets.clone(),
            host: Arc::clone(&self.host),
            turn: None,
            lines: Vec::new(),
            dice: Dice::new(self.dice.seed()),
        };
        let (epoch, stop) = (self.parts.epoch, application.tasks.token());
        let work = async move {
            let perform = |effect| {
                hands.perform(effect);
                std::future::ready(())
            };
            drive(machine, epoch, received, perform, stop).await;
        };
        application.tasks.spawn_to_end("application", work);
        application
    }
}

/// What is told, as a text that stays the same.
fn identity(reload: &Reload) -> String {
    match reload {
        Reload::Signal {
            signal, process, ..
        } => match process {
            Process::PidFile(path) => format!("signal\0{signal}\0{}", path.display()),
            Process::Named(name) => format!("signal\0{signal}\0{name}"),
        },
        Reload::Exec(command) => format!("exec\0{}", command.argv.join("\0")),
        Reload::Http { method, url, .. } => format!("http\0{method}\0{url}"),
    }
}

/// A text's place within [0, 1): always the same.
fn place_of(text: &str) -> f64 {
    let digits = md5_hex(text.as_bytes());
    // 52 bits: what a double holds exactly.
    let head = digits.get(..13).unwrap_or_default();
    u64::from_str_radix(head, 16).unwrap_or_default() as f64 / (1_u64 << 52) as f64
}

/// A reload is over so long after it began.
fn longest(reload: &Reload) -> Duration {
    MARGIN
        + match reload {
            Reload::Signal { .. } => Duration::ZERO,
            Reload::Exec(command) => command.timeout + command::GRACE,
            Reload::Http { timeout, .. } => *timeout,
        }
}

impl Application {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Shows to all that wait what they wait for.
    fn show(&self, parts: &Parts) {
        let Some(wait) = self.wait else { return };
        let at = |moment: Moment| dates::rfc3339(parts.epoch.wall(moment));
        let text = match wait {
            Wait::Splay { until } => format!("it begins at {} (splay)", at(until)),
            Wait::Pause { until } => {
                format!("the next one may begin at {} (at_most_every)", at(until))
            }
            Wait::Turn => {
                let service = &self.service;
                let mut text = match self.line.as_ref().and_then(|line| line.before) {
                    None => {
                        format!("it waits for word from the registry who else of {service} reloads")
                    }
                    Some(0) => {
                        format!("its turn among the instances of {service} is about to come")
                    }
                    Some(1) => {
                        format!("it waits for its turn: 1 instance of {service} is before it")
                    }
                    Some(count) => {
                        format!(
                            "it waits for its turn: {count} instances of {service} are before it"
                        )
                    }
                };
                if let Some(line) = &self.line {
                    if let Some(why) = &line.trouble {
                        text.push_str(&format!("; the registry does not take its ticket: {why}"));
                    }
                    if let Some(until) = line.until {
                        let until = at(until);
                        text.push_str(&format!("; if nothing moves it goes on at {until}"));
                    }
                }
                text
            }
        };
        for member in &self.waiting {
            if let Some(whom) = self.members.get(member) {
                (whom.waits)(Some(&text));
            }
        }
    }
}

/// Carries out what the pacer of one application wants.
struct Hands {
    parts: Parts,
    commands: Commands,
    application: Application,
    reload: Arc<Reload>,
    watches: mpsc::Sender<Watch>,
    tickets: Tickets,
    host: Arc<str>,
    /// The line in which a turn is asked for or held.
    turn: Option<usize>,
    /// Every fleet that was asked for so far; descriptors that change are rare.
    lines: Vec<(Fleet, watch::Sender<Option<u64>>)>,
    dice: Dice,
}

impl Hands {
    fn perform(&mut self, effect: pacing::Effect) {
        match effect {
            pacing::Effect::Turn(member) => self.tell([member].into(), materialize::Event::Turn),
            pacing::Effect::Reload(members) => self.reload(members),
            pacing::Effect::AskTurn(fleet) => {
                self.application.state().service.clone_from(&fleet.service);
                let line = self.line(fleet);
                self.turn = Some(line);
                let id = self.dice.seed();
                self.want(line, Some(id));
            }
            pacing::Effect::EndTurn => {
                if let Some(line) = self.turn.take() {
                    self.want(line, None);
                }
            }
            pacing::Effect::Tell(members, wait) => {
                let mut state = self.application.state();
                if wait.is_none() {
                    for member in &members {
                        if let Some(whom) = state.members.get(member) {
                            (whom.waits)(None);
                        }
                    }
                    state.waiting.retain(|member| !members.contains(member));
                } else {
                    state.waiting = members;
                    state.wait = wait;
                    state.show(&self.parts);
                }
                let is_waiting = !state.waiting.is_empty();
                if is_waiting != std::mem::replace(&mut state.is_counted, is_waiting) {
                    let change = if is_waiting { 1 } else { -1 };
                    self.parts.metrics.reloads_waiting.inc_by(change);
                }
            }
        }
    }

    /// Says whether a turn is wanted in that line.
    fn want(&self, line: usize, id: Option<u64>) {
        if let Some((_, wanted)) = self.lines.get(line) {
            wanted.send_replace(id);
        }
    }

    fn tell(&self, members: BTreeSet<Member>, event: materialize::Event) {
        let state = self.application.state();
        for member in members {
            let Some(whom) = state.members.get(&member) else {
                continue;
            };
            let (events, event) = (whom.events.clone(), event.clone());
            self.application.tasks.spawn("tell a group", async move {
                // One that was stopped needs nothing any more.
                _ = events.send(event).await;
            });
        }
    }

    fn reload(&self, members: BTreeSet<Member>) {
        let (commands, reload) = (self.commands.clone(), Arc::clone(&self.reload));
        let (application, metrics) = (self.application.clone(), self.parts.metrics.clone());
        self.application.tasks.spawn("reload", async move {
            let outcome = tell_application(&reload, &commands).await;
            let counted = Counted {
                what: word(&reload),
                outcome: if outcome.is_ok() { "ok" } else { "failed" },
            };
            metrics.reloads.get_or_create(&counted).inc();
            let whom: Vec<Whom> = {
                let state = application.state();
                let all = members.iter().filter_map(|one| state.members.get(one));
                all.cloned().collect()
            };
            for one in whom {
                if let Ok(how) = &outcome {
                    (one.note)(how);
                }
                let answer = outcome.as_ref().map(drop).map_err(Clone::clone);
                _ = one.events.send(materialize::Event::Reloaded(answer)).await;
            }
            _ = application.events.send(pacing::Event::Reloaded).await;
        });
    }

    /// The line of this fleet; it is begun when it is asked for first.
    fn line(&mut self, fleet: Fleet) -> usize {
        if let Some(at) = self.lines.iter().position(|(known, _)| *known == fleet) {
            return at;
        }
        let (wanted, wants) = watch::channel(None);
        let service = ServiceKey {
            namespace: Namespace::new(&fleet.namespace),
            group: fleet.group.as_str().into(),
            name: fleet.service.as_str().into(),
        };
        let standing = Standing {
            parts: self.parts.clone(),
            application: self.application.clone(),
            watches: self.watches.clone(),
            tickets: self.tickets.clone(),
            owner: Arc::new(Owner {
                line: lease::line_of(&service),
                address: self.dice.seed(),
                host: Arc::clone(&self.host),
                longest: longest(&self.reload),
            }),
        };
        let rules = lease::Rules {
            at_most: fleet.at_most,
            wait: fleet.wait,
            then: fleet.then,
        };
        standing.start(Lease::new(rules, self.dice.seed()), wants);
        self.lines.push((fleet, wanted));
        self.lines.len() - 1
    }
}

/// Kinds of reloads in figures.
fn word(reload: &Reload) -> &'static str {
    match reload {
        Reload::Signal { .. } => "signal",
        Reload::Exec(_) => "exec",
        Reload::Http { .. } => "http",
    }
}

/// Carries out what a lease wants.
#[derive(Clone)]
struct Standing {
    parts: Parts,
    application: Application,
    watches: mpsc::Sender<Watch>,
    tickets: Tickets,
    owner: Arc<Owner>,
}

impl Standing {
    /// Not among the application's tasks: whoever is not wanted any more takes his ticket back first.
    fn start(self, machine: Lease, wants: watch::Receiver<Option<u64>>) {
        let (events, received) = mpsc::channel(QUEUE);
        let (heard_by, heard) = watch::channel(Heard::default());
        let tasks = self.parts.tasks.clone();
        let (epoch, stop) = (self.parts.epoch, tasks.token());
        tasks.spawn("line", hear(wants, heard, events.clone()));
        tasks.spawn_to_end("turn", async move {
            let events = events.downgrade();
            let perform = |effect| {
                let (standing, heard_by) = (self.clone(), heard_by.clone());
                let events = events.clone();
                async move { standing.perform(effect, heard_by, events).await }
            };
            drive(machine, epoch, received, perform, stop).await;
        });
    }

    async fn perform(
        self,
        effect: lease::Effect,
        heard_by: watch::Sender<Heard>,
        events: mpsc::WeakSender<lease::Event>,
    ) {
        let (line, address) = (self.owner.line.clone(), self.owner.address);
        match effect {
            lease::Effect::Watch(true) => {
                heard_by.send_modify(|heard| heard.list = None);
                // The router ends only with the agent.
                _ = self
                    .watches
                    .send(Watch::Begin(line, address, heard_by))
                    .await;
            }
            lease::Effect::Watch(false) => {
                _ = self.watches.send(Watch::End(line, address)).await;
            }
            lease::Effect::Publish(ticket) => {
                let instance = lease::instance(&self.owner, &ticket);
                let tasks = self.parts.tasks.clone();
                tasks.spawn("list a ticket", async move {
                    let outcome = if self.tickets.is_leaving.load(Ordering::Relaxed) {
                        Err("the agent is stopping".to_owned())
                    } else {
                        let key = instance.key.clone();
                        self.tickets.listed().insert(key, instance.clone());
                        let published = self.parts.transport.publish(instance).await;
                        published.map_err(|error| error.to_string())
                    };
                    if let Some(events) = events.upgrade() {
                        _ = events.send(lease::Event::Published(outcome)).await;
                    }
                });
            }
            lease::Effect::Withdraw => {
                let listed = self.tickets.listed();
                let ours = listed.get(&lease::key(&self.owner)).cloned();
                drop(listed);
                let tasks = self.parts.tasks.clone();
                tasks.spawn("take a ticket out", async move {
                    let mut is_done = true;
                    if let Some(instance) = ours {
                        let key = instance.key.clone();
                        is_done = self.parts.transport.withdraw(instance).await.is_ok();
                        if is_done {
                            self.tickets.listed().remove(&key);
                        }
                    }
                    if let Some(events) = events.upgrade() {
                        _ = events.send(lease::Event::Withdrawn(is_done)).await;
                    }
                });
            }
            lease::Effect::Grant(why) => {
                let outcome = if why.is_none() { "held" } else { "given_up" };
                let counted = Counted {
                    what: "fleet",
                    outcome,
                };
                self.parts.metrics.turns.get_or_create(&counted).inc();
                if let Some(why) = why {
                    tracing::warn!(line = %line, %why, "an application is told to reload without its turn");
                    let state = self.application.state();
                    for member in &state.waiting {
                        if let Some(whom) = state.members.get(member) {
                            (whom.note)(&format!("goes on without its turn: {why}"));
                        }
                    }
                }
                let application = self.application.clone();
                application.clone().tasks.spawn("a turn", async move {
                    _ = application.events.send(pacing::Event::TurnCame).await;
                });
            }
            lease::Effect::Tell(line) => {
                let mut state = self.application.state();
                state.line = line;
                if state.wait == Some(Wait::Turn) {
                    state.show(&self.parts);
                }
            }
        }
    }
}

/// Tells a lease what is wanted of it and what the registry says; only the latest counts. When nobody wants anything any more it
/// lives on until its ticket is out.
async fn hear(
    mut wants: watch::Receiver<Option<u64>>,
    mut heard: watch::Receiver<Heard>,
    events: mpsc::Sender<lease::Event>,
) {
    let mut asked = None;
    let mut returns = 0;
    let mut is_wanted = true;
    let over = sleep(Duration::MAX / 4);
    tokio::pin!(over);
    loop {
        let mut news = Vec::new();
        tokio::select! {
            biased;
            changed = wants.changed(), if is_wanted => {
                is_wanted = changed.is_ok();
                let now = if is_wanted { *wants.borrow_and_update() } else { None };
                if now != asked {
                    news.extend(asked.map(|_| lease::Event::Ended));
                    news.extend(now.map(|id| lease::Event::Asked { id }));
                    asked = now;
                }
                if !is_wanted {
                    over.set(sleep(lease::DONE * 2));
                }
            }
            Ok(()) = heard.changed() => {
                let now = heard.borrow_and_update();
                if now.returns != returns {
                    returns = now.returns;
                    news.push(lease::Event::Back);
                }
                let list = now.list.as_ref();
                news.extend(list.map(|list| lease::Event::Listed(lease::tickets(&list.hosts))));
            }
            () = &mut over => return,
        }
        for event in news {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}
