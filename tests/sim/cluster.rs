//! The servers: each a desk of the embedded registry, joined as real ones are, with what real ones do to their clients.
//!
//! - What is read is a snapshot, renewed 0.5 to 0.6 s after a change; only the first read of a service is fresh.
//! - In a cluster an address belongs to one of the nodes that a node believes alive; what is said about it elsewhere is forwarded:
//!   500 when that one is dead, 500 after 2 s (or silence, and the deed a minute later) when it is cut off, 400 when it believes
//!   in another owner. The owner tells the others after 1 s; a beat that finds nothing there brings the instance along.
//! - A death is believed after 8 to 13 s, a return after up to 8 s. A node that starts takes over what its peers have; one that
//!   finds none, or stands alone, has forgotten all ephemeral instances, and 3 s later the health of most persistent ones.
//! - A split that heals costs instances on either side, and one side may not reach the other for half a minute more.
//! - Configurations, persistent instances, services and checkers need a majority; a node that was away may miss a change of a
//!   configuration for tens of seconds. A server that stands alone shows a configuration 40 to 200 ms after it was published.

use crate::wire::{Caller, Letter, Place, Wire, wall};
use outrigger::dates;
use outrigger::machine::{Machine, Moment};
use outrigger::nacos::Error;
use outrigger::nacos::calls::{self, Answer};
use outrigger::nacos::model::{Listed, ServiceKey};
use outrigger::registry::desk::{Effect, Event, Ticket};
use outrigger::registry::{self, Desk, Like, Request};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The owner of an address tells the other nodes after this.
const DISTRIBUTION: Duration = ms(1_002);
/// How long after a restart or a split a node may miss a change.
const FORGETFUL: Duration = s(120);

/// What happens among the servers.
pub(crate) enum Happening {
    /// Something is due at a desk, or its snapshot is.
    Wake(usize),
    /// A forwarded call reaches the node that owns the address.
    Forwarded {
        by: usize,
        to: usize,
        caller: Caller,
        letter: Rc<Letter>,
    },
    /// A node gives up a call that it forwarded.
    GivenUp(usize, Caller, &'static str),
    /// What a node took is told to another one.
    Told {
        by: usize,
        to: usize,
        letter: Rc<Letter>,
    },
    /// A node catches up with what the majority decided.
    CatchUp(usize),
    /// A node takes over a change of a configuration.
    Config(usize, usize),
    /// A node makes up its mind about another one.
    Believe(usize, usize),
    /// A node has started.
    Ready(usize),
    /// The checks of a start find persistent instances unreachable.
    HealthLost,
    /// The checks after a split drop instances at a node.
    Dropped(usize),
    /// One node reaches another one again.
    Reaches(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    /// Until then.
    Starting(Moment),
    Up,
}

/// What is wrong with a node that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Illness {
    /// 500 to everything.
    Fails,
    /// 503 to everything.
    Overloaded,
    /// The page of somebody else's proxy, with 200.
    Foreign,
}

struct Node {
    state: State,
    name: Arc<str>,
    desk: Desk,
    /// What is read.
    shown: Desk,
    shown_at: Moment,
    refresh_at: Option<Moment>,
    /// Beats may heal until then.
    ill_until: Moment,
    wake_at: Option<Moment>,
    /// Services that were read once.
    seen: BTreeSet<String>,
    held: BTreeMap<Ticket, Caller>,
    /// Registrations of ephemeral instances that it has.
    records: BTreeMap<Place, Rc<Letter>>,
    believes: Vec<bool>,
    /// How much of what the majority decided it has.
    applied: usize,
    /// The last change of each configuration that it has.
    configs: BTreeMap<String, usize>,
    /// Standing alone: configurations that are being written until then.
    writing: BTreeMap<String, Moment>,
    forgetful_until: Moment,
    leaderless_until: Moment,
    /// Its clock is off by so many milliseconds.
    off: i64,
    slow: Duration,
    illness: Option<Illness>,
    /// What it lists of each service, for the laws, since its snapshot was renewed.
    lists: BTreeMap<String, Rc<Lists>>,
}

/// What a node lists of a service: all of it, and what is truly healthy.
pub(crate) struct Lists {
    pub(crate) all: Vec<Listed>,
    pub(crate) healthy: Vec<Listed>,
}

/// A change of a configuration: the content, or that it went.
pub(crate) struct Change {
    pub(crate) data_id: String,
    pub(crate) content: Option<String>,
    /// When, by the clock of the node that took it.
    at: SystemTime,
    /// When, by the world's.
    came: Moment,
}

pub(crate) struct Cluster {
    like: Like,
    nodes: Vec<Node>,
    /// Services, checkers and persistent instances, as the majority decided.
    decided: Vec<Rc<Letter>>,
    pub(crate) changes: Vec<Change>,
    /// A node that the others do not hear.
    apart: Option<usize>,
    /// Who does not reach whom, one way.
    blocked: BTreeSet<(usize, usize)>,
    leaderless_until: Moment,
    /// All were down together: who starts first has nobody to ask.
    cold: bool,
    /// Until then the servers are busy with what befell them.
    pub(crate) trouble_until: Moment,
    /// Until then something may be listed that nobody wants, because somebody said it late.
    pub(crate) late_until: Moment,
    /// Until then a node may have an old configuration.
    pub(crate) stale_until: Moment,
}

impl Node {
    /// Readers see from now on what the desk has.
    fn renew(&mut self, now: Moment) {
        self.shown = self.desk.clone();
        self.shown_at = now;
        self.lists.clear();
    }
}

fn majority(count: usize) -> usize {
    count / 2 + 1
}

fn failure(server: &Arc<str>, status: u16, body: &str) -> Answer {
    Answer {
        server: Arc::clone(server),
        status,
        body: body.as_bytes().to_vec(),
        ..Answer::default()
    }
}

fn said(server: &Arc<str>, answer: &registry::Answer) -> Answer {
    Answer {
        server: Arc::clone(server),
        status: answer.status(),
        sealed: answer.header("Content-MD5").map(Arc::from),
        modified: answer.header("Last-Modified").and_then(dates::read_http),
        body: answer.body().to_vec(),
        ..Answer::default()
    }
}

fn plain(method: &str, target: &str) -> Request {
    Request::new(method, target, [("", ""); 0], "")
}

impl Cluster {
    pub(crate) fn new(wire: &mut Wire, size: usize, like: Like) -> Self {
        let nodes = (0..size)
            .map(|number| Node {
                state: State::Up,
                name: server(number).into(),
                desk: Desk::new(like),
                shown: Desk::new(like),
                shown_at: Moment::ZERO,
                refresh_at: None,
                ill_until: Moment::ZERO,
                wake_at: None,
                seen: BTreeSet::new(),
                held: BTreeMap::new(),
                records: BTreeMap::new(),
                believes: vec![true; size],
                applied: 0,
                configs: BTreeMap::new(),
                writing: BTreeMap::new(),
                forgetful_until: Moment::ZERO,
                leaderless_until: Moment::ZERO,
                off: wire.dice.below(1_600) as i64 - 800,
                slow: Duration::ZERO,
                illness: None,
                lists: BTreeMap::new(),
            })
            .collect();
        Self {
            like,
            nodes,
            decided: Vec::new(),
            changes: Vec::new(),
            apart: None,
            blocked: BTreeSet::new(),
            leaderless_until: Moment::ZERO,
            cold: false,
            trouble_until: Moment::ZERO,
            late_until: Moment::ZERO,
            stale_until: Moment::ZERO,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn is_up(&self, n: usize) -> bool {
        self.nodes[n].state == State::Up
    }

    fn together(&self, a: usize, b: usize) -> bool {
        a == b || self.apart.is_none_or(|apart| apart != a && apart != b)
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        self.is_up(a) && self.is_up(b) && self.together(a, b)
    }

    fn hears_most(&self, n: usize) -> bool {
        let heard = (0..self.size()).filter(|m| self.connected(n, *m)).count();
        heard >= majority(self.size())
    }

    fn has_leader(&self, now: Moment, n: usize) -> bool {
        self.hears_most(n) && self.leaderless_until <= now && self.nodes[n].leaderless_until <= now
    }

    /// Whose an address is, as a node believes.
    fn owner(&self, n: usize, place: &Place) -> usize {
        let alive: Vec<usize> = (0..self.size())
            .filter(|m| *m == n || self.nodes[n].believes[*m])
            .collect();
        let text = place.ip.bytes().fold(7_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let hash = text.wrapping_mul(31).wrapping_add(u64::from(place.port));
        alive[(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % alive.len()]
    }

    // -- a desk

    fn ask_at(
        &mut self,
        wire: &mut Wire,
        n: usize,
        request: &Request,
        caller: Option<Caller>,
        at: SystemTime,
    ) -> Option<Answer> {
        let ticket = Ticket(wire.number());
        let node = &mut self.nodes[n];
        node.desk.handle(
            wire.now,
            Event::Asked {
                ticket,
                at,
                request: request.clone(),
            },
        );
        let mut mine = None;
        while let Some(Effect::Answer(answered, answer)) = node.desk.effect() {
            let answer = said(&node.name, &answer);
            if answered == ticket {
                mine = Some(answer);
            } else if let Some(caller) = node.held.remove(&answered) {
                wire.answer(n, caller, Ok(answer));
            }
        }
        if mine.is_none()
            && let Some(caller) = caller
        {
            node.held.insert(ticket, caller);
        }
        self.plan_wake(wire, n);
        mine
    }

    fn ask(&mut self, wire: &mut Wire, n: usize, request: &Request) -> Answer {
        let at = wall(wire.now, self.nodes[n].off);
        let answer = self.ask_at(wire, n, request, None, at);
        answer.expect("only listeners are held")
    }

    /// The snapshot is to be renewed.
    fn changed(&mut self, wire: &mut Wire, n: usize) {
        if self.nodes[n].refresh_at.is_none() {
            let at = wire.now + wire.millis(500, 600);
            self.nodes[n].refresh_at = Some(at);
            self.plan_wake(wire, n);
        }
    }

    fn plan_wake(&mut self, wire: &mut Wire, n: usize) {
        let node = &mut self.nodes[n];
        let due = [node.desk.deadline(), node.refresh_at];
        let Some(due) = due.into_iter().flatten().min() else {
            return;
        };
        if node.wake_at.is_none_or(|at| at > due) {
            node.wake_at = Some(due);
            wire.at(due, super::wire::Happening::Cluster(Happening::Wake(n)));
        }
    }

    fn wake(&mut self, wire: &mut Wire, n: usize) {
        let node = &mut self.nodes[n];
        // Another one was planned sooner.
        if node.wake_at != Some(wire.now) {
            return;
        }
        node.wake_at = None;
        if node.state != State::Up {
            return;
        }
        let mut expired = false;
        if node.desk.deadline().is_some_and(|due| due <= wire.now) {
            node.desk.wake(wire.now);
            while let Some(Effect::Answer(answered, answer)) = node.desk.effect() {
                if let Some(caller) = node.held.remove(&answered) {
                    let answer = said(&node.name, &answer);
                    wire.answer(n, caller, Ok(answer));
                }
            }
            node.ill_until = wire.now + s(60);
            expired = true;
        }
        if node.refresh_at.is_some_and(|at| at <= wire.now) {
            node.refresh_at = None;
            node.renew(wire.now);
        }
        if expired {
            self.changed(wire, n);
        }
        self.plan_wake(wire, n);
    }

    fn read(&mut self, wire: &mut Wire, n: usize, letter: &Letter) -> Answer {
        let service = letter
            .call
            .query
            .iter()
            .find(|(name, _)| *name == "serviceName");
        let service = service.map(|(_, value)| value.clone()).unwrap_or_default();
        let node = &mut self.nodes[n];
        if node.seen.insert(service) {
            node.renew(wire.now);
        }
        self.look(wire.now, n, &letter.request)
    }

    /// What a reader is answered, without being one.
    fn look(&mut self, now: Moment, n: usize, request: &Request) -> Answer {
        let node = &mut self.nodes[n];
        // As it was then: what fell due since has not happened there.
        let event = Event::Asked {
            ticket: Ticket(0),
            at: wall(now, node.off),
            request: request.clone(),
        };
        node.shown.handle(node.shown_at, event);
        let mut mine = None;
        while let Some(Effect::Answer(ticket, answer)) = node.shown.effect() {
            if ticket == Ticket(0) {
                mine = Some(answer);
            }
        }
        said(&node.name, &mine.expect("reads are answered at once"))
    }

    /// What a node lists, for the laws.
    pub(crate) fn listed(&mut self, now: Moment, n: usize, service: &ServiceKey) -> Rc<Lists> {
        let grouped = service.grouped();
        if !self.nodes[n].seen.contains(&grouped) {
            // Its first reader will see it fresh, hence what the desk has.
            self.nodes[n].renew(now);
        }
        if let Some(lists) = self.nodes[n].lists.get(&grouped) {
            return Rc::clone(lists);
        }
        let mut list = |healthy_only| {
            let letter = Letter::new(calls::list(service, &[], healthy_only));
            let answer = self.look(now, n, &letter.request);
            answer.list().expect("a list").hosts
        };
        let lists = Rc::new(Lists {
            all: list(false),
            healthy: list(true),
        });
        self.nodes[n].lists.insert(grouped, Rc::clone(&lists));
        lists
    }

    // -- what is asked

    pub(crate) fn asked(&mut self, wire: &mut Wire, n: usize, caller: Caller, letter: Rc<Letter>) {
        let node = &self.nodes[n];
        let name = Arc::clone(&node.name);
        match node.state {
            State::Up => {}
            State::Starting(until) if wire.now + ms(1_500) > until && wire.chance(0.5) => {
                let body = "server is STARTING now, please try again later!";
                return wire.answer(n, caller, Ok(failure(&name, 503, body)));
            }
            State::Down | State::Starting(_) => {
                let refused = Error::Unreachable {
                    server: name.to_string(),
                    what: "connection refused".to_owned(),
                };
                return wire.answer(n, caller, Err(refused));
            }
        }
        match node.illness {
            None => {}
            Some(Illness::Fails) => {
                return wire.answer(n, caller, Ok(failure(&name, 500, "caused: no space left;")));
            }
            Some(Illness::Overloaded) => {
                return wire.answer(n, caller, Ok(failure(&name, 503, "busy")));
            }
            Some(Illness::Foreign) => {
                return wire.answer(n, caller, Ok(failure(&name, 200, "<html>log in</html>")));
            }
        }
        if node.slow.is_zero() {
            self.serve(wire, n, caller, letter);
        } else {
            let wait = wire.between(Duration::ZERO, node.slow);
            wire.after(wait, super::wire::Happening::Served(n, caller, letter));
        }
    }

    pub(crate) fn serve(&mut self, wire: &mut Wire, n: usize, caller: Caller, letter: Rc<Letter>) {
        if !self.is_up(n) {
            return;
        }
        let name = Arc::clone(&self.nodes[n].name);
        let answer = match (letter.call.what, &letter.place) {
            ("register" | "deregister" | "beat", Some(place)) => {
                let owner = self.owner(n, place);
                if owner != n {
                    return self.forward(wire, n, owner, caller, letter);
                }
                self.take(wire, n, &letter)
            }
            ("service" | "checker", _) => {
                if self.has_leader(wire.now, n) {
                    let answer = self.ask(wire, n, &letter.request);
                    if answer.status == 200 {
                        self.decide(wire, n, &letter, false);
                    }
                    answer
                } else {
                    let body = "errCode: 500, errMsg: do metadata operation failed ";
                    failure(&name, 500, body)
                }
            }
            ("list" | "detail", _) => self.read(wire, n, &letter),
            ("config_get", _) if self.is_writing(wire, n, &letter) => failure(
                &name,
                409,
                "requested file is being modified, please try later.",
            ),
            _ => {
                let at = wall(wire.now, self.nodes[n].off);
                match self.ask_at(wire, n, &letter.request, Some(caller), at) {
                    Some(answer) => answer,
                    // A listener who waits.
                    None => return,
                }
            }
        };
        wire.answer(n, caller, Ok(answer));
    }

    fn is_writing(&mut self, wire: &mut Wire, n: usize, letter: &Letter) -> bool {
        let writing = &self.nodes[n].writing;
        let is = letter.call.query.iter().any(|(name, value)| {
            *name == "dataId" && writing.get(value).is_some_and(|until| *until > wire.now)
        });
        is && wire.chance(0.3)
    }

    pub(crate) fn hung_up(&mut self, wire: &mut Wire, n: usize, caller: Caller) {
        let node = &mut self.nodes[n];
        let tickets: Vec<Ticket> = node
            .held
            .iter()
            .filter(|(_, held)| **held == caller)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in tickets {
            node.held.remove(&ticket);
            node.desk.handle(wire.now, Event::Left(ticket));
        }
    }

    fn forward(
        &mut self,
        wire: &mut Wire,
        n: usize,
        to: usize,
        caller: Caller,
        letter: Rc<Letter>,
    ) {
        let what = |happening| super::wire::Happening::Cluster(happening);
        if !self.together(n, to) || self.blocked.contains(&(n, to)) {
            wire.note(|| format!("node {n}  cannot forward {} to {to}", letter.call.what));
            if wire.chance(0.7) {
                let why = "org.apache.http.conn.ConnectTimeoutException: Connect to 127.0.0.1:18110 [/127.0.0.1] failed: Connect timed out";
                wire.after(s(2), what(Happening::GivenUp(n, caller, why)));
            }
            if wire.chance(0.2) {
                // It waits in a queue somewhere, and is carried out long after.
                let wait = wire.between(s(45), s(75));
                self.late_until = self.late_until.max(wire.now + wait + s(35));
                let by = n;
                wire.after(
                    wait,
                    what(Happening::Forwarded {
                        by,
                        to,
                        caller,
                        letter,
                    }),
                );
            }
            return;
        }
        if !self.is_up(to) {
            wire.note(|| format!("node {n}  forwards {} to dead {to}", letter.call.what));
            let why = "org.apache.http.conn.HttpHostConnectException: Connect to 127.0.0.1:18100 [/127.0.0.1] failed: Connection refused";
            wire.after(ms(2), what(Happening::GivenUp(n, caller, why)));
            return;
        }
        let wait = wire.millis(1, 4);
        let by = n;
        wire.after(
            wait,
            what(Happening::Forwarded {
                by,
                to,
                caller,
                letter,
            }),
        );
    }

    fn forwarded(
        &mut self,
        wire: &mut Wire,
        by: usize,
        to: usize,
        caller: Caller,
        letter: &Rc<Letter>,
    ) {
        let Some(place) = &letter.place else { return };
        if !self.together(by, to) {
            return;
        }
        let name = Arc::clone(&self.nodes[by].name);
        let answer = if !self.is_up(to) {
            failure(
                &name,
                500,
                "org.apache.http.conn.HttpHostConnectException: Connect to 127.0.0.1:18100 [/127.0.0.1] failed: Connection refused",
            )
        } else if self.owner(to, place) != to {
            wire.note(|| format!("node {to}  will not have {} from {by}", letter.call.what));
            let body = "receive invalid redirect request from peer 127.0.0.1";
            failure(&name, 400, body)
        } else {
            let mut answer = self.take(wire, to, letter);
            answer.server = name;
            answer
        };
        if self.is_up(by) {
            wire.answer(by, caller, Ok(answer));
        }
    }

    /// Carries out, as the owner of the address.
    fn take(&mut self, wire: &mut Wire, n: usize, letter: &Rc<Letter>) -> Answer {
        let place = letter.place.clone().expect("it is about an instance");
        if letter.call.what != "beat" && letter.says("ephemeral", "false") {
            if !self.has_leader(wire.now, n) {
                let body = "java.util.concurrent.ExecutionException: com.alibaba.nacos.consistency.exception.ConsistencyException: The Raft Group [naming_persistent_service_v2] did not find the Leader node";
                return failure(&self.nodes[n].name, 500, body);
            }
            return self.decide(wire, n, letter, true);
        }
        let answer = self.ask(wire, n, &letter.request);
        if answer.status != 200 {
            return answer;
        }
        wire.note(|| {
            let found = !String::from_utf8_lossy(&answer.body).contains("20404");
            let what = letter.call.what;
            format!(
                "node {n}  {what} {place:?}{}",
                if found { "" } else { ": 20404" }
            )
        });
        let node = &mut self.nodes[n];
        let (mut wait, mut quiet) = (DISTRIBUTION, false);
        match letter.call.what {
            "register" => {
                node.records.insert(place, Rc::clone(letter));
            }
            "deregister" => {
                node.records.remove(&place);
            }
            _ => {
                if String::from_utf8_lossy(&answer.body).contains("20404") {
                    return answer;
                }
                let full = letter.call.query.iter().any(|(name, _)| *name == "beat");
                if full && !node.records.contains_key(&place) {
                    node.records.insert(place, Rc::clone(letter));
                } else {
                    quiet = wire.now >= node.ill_until;
                }
                wait = ms(500);
            }
        }
        if !quiet {
            self.changed(wire, n);
        }
        for to in (0..self.size()).filter(|to| *to != n) {
            let told = Happening::Told {
                by: n,
                to,
                letter: Rc::clone(letter),
            };
            wire.after(wait, super::wire::Happening::Cluster(told));
        }
        answer
    }

    fn told(&mut self, wire: &mut Wire, by: usize, to: usize, letter: &Rc<Letter>) {
        let Some(place) = letter.place.clone() else {
            return;
        };
        if !self.connected(by, to) {
            return;
        }
        let answer = self.ask(wire, to, &letter.request);
        match letter.call.what {
            "register" => {
                self.nodes[to].records.insert(place, Rc::clone(letter));
            }
            "deregister" => {
                self.nodes[to].records.remove(&place);
            }
            _ if String::from_utf8_lossy(&answer.body).contains("20404") => {
                let Some(record) = self.nodes[by].records.get(&place).cloned() else {
                    return;
                };
                self.ask(wire, to, &record.request);
                self.nodes[to].records.insert(place, record);
            }
            _ => {
                let records = &mut self.nodes[to].records;
                let full = letter.call.query.iter().any(|(name, _)| *name == "beat");
                if full && !records.contains_key(&place) {
                    records.insert(place, Rc::clone(letter));
                } else if wire.now >= self.nodes[to].ill_until {
                    return;
                }
            }
        }
        self.changed(wire, to);
    }

    // -- what a majority decides

    /// Has the majority decide; carries it out here where `here`, else that has happened.
    fn decide(&mut self, wire: &mut Wire, n: usize, letter: &Rc<Letter>, here: bool) -> Answer {
        let mut answer = failure(&self.nodes[n].name, 200, "ok");
        if here {
            self.catch_up(wire, n);
        }
        self.decided.push(Rc::clone(letter));
        if here {
            answer = self.ask(wire, n, &letter.request);
            self.nodes[n].applied = self.decided.len();
        }
        wire.note(|| format!("node {n}  decided {} {:?}", letter.call.what, letter.place));
        self.changed(wire, n);
        for m in (0..self.size()).filter(|m| *m != n) {
            let wait = wire.millis(30, 480);
            wire.after(wait, super::wire::Happening::Cluster(Happening::CatchUp(m)));
        }
        answer
    }

    fn catch_up(&mut self, wire: &mut Wire, n: usize) {
        if self.nodes[n].applied == self.decided.len() || !self.is_up(n) {
            return;
        }
        if !self.hears_most(n) {
            let again = Happening::CatchUp(n);
            return wire.after(s(1), super::wire::Happening::Cluster(again));
        }
        while let Some(letter) = self.decided.get(self.nodes[n].applied).cloned() {
            self.nodes[n].applied += 1;
            self.ask(wire, n, &letter.request);
        }
        self.changed(wire, n);
    }

    /// The persistent instances, as the majority has them.
    fn persistent(&self) -> BTreeMap<Place, Rc<Letter>> {
        let mut found = BTreeMap::new();
        for letter in &self.decided {
            let Some(place) = letter.place.clone() else {
                continue;
            };
            match letter.call.what {
                "register" => _ = found.insert(place, Rc::clone(letter)),
                "deregister" => _ = found.remove(&place),
                _ => {}
            }
        }
        found
    }

    fn health_lost(&mut self, wire: &mut Wire) {
        let Some(n) = (0..self.size()).find(|n| self.has_leader(wire.now, *n)) else {
            return;
        };
        for (place, letter) in self.persistent() {
            if self.size() > 1 && wire.chance(1.0 / 3.0) {
                continue;
            }
            wire.note(|| format!("node {n}  lost the health of {place:?}"));
            let mut call = letter.call.clone();
            for (name, value) in &mut call.query {
                if *name == "healthy" {
                    *value = "false".to_owned();
                }
            }
            self.decide(wire, n, &Letter::new(call), true);
        }
    }

    /// Publishes, or takes away, at a node taken by chance; false when that one cannot now.
    pub(crate) fn publish(
        &mut self,
        wire: &mut Wire,
        data_id: &str,
        content: Option<String>,
    ) -> bool {
        let n = wire.dice.below(self.size());
        if !self.is_up(n) || !self.has_leader(wire.now, n) || self.nodes[n].illness.is_some() {
            return false;
        }
        wire.note(|| format!("node {n}  published {data_id}: {content:?}"));
        let number = self.changes.len();
        let deleted = content.is_none();
        self.changes.push(Change {
            data_id: data_id.to_owned(),
            content,
            at: wall(wire.now, self.nodes[n].off),
            came: wire.now,
        });
        for m in 0..self.size() {
            let mut wait = if self.size() == 1 {
                wire.millis(40, 200)
            } else if m == n {
                ms(10)
            } else if deleted {
                wire.millis(150, 530)
            } else {
                wire.millis(10, 60)
            };
            if m != n && wire.now < self.nodes[m].forgetful_until && wire.chance(0.25) {
                wait = if deleted {
                    wire.between(s(6), s(20))
                } else {
                    wire.between(s(20), s(40))
                };
                wire.note(|| format!("node {m}  misses {data_id} for {wait:?}"));
                self.stale_until = self.stale_until.max(wire.now + wait);
            }
            if self.size() == 1 {
                let writing = &mut self.nodes[m].writing;
                writing.insert(data_id.to_owned(), wire.now + wait + ms(50));
            }
            let config = Happening::Config(m, number);
            wire.after(wait, super::wire::Happening::Cluster(config));
        }
        true
    }

    fn config(&mut self, wire: &mut Wire, n: usize, number: usize) {
        let change = &self.changes[number];
        let known = self.nodes[n].configs.get(&change.data_id);
        if known.is_some_and(|known| *known >= number) || !self.is_up(n) {
            return;
        }
        if !self.hears_most(n) {
            let again = Happening::Config(n, number);
            return wire.after(s(1), super::wire::Happening::Cluster(again));
        }
        let data_id = change.data_id.clone();
        self.nodes[n].configs.insert(data_id, number);
        self.write(wire, n, number);
    }

    fn write(&mut self, wire: &mut Wire, n: usize, number: usize) {
        let change = &self.changes[number];
        let mut fields = vec![
            ("dataId", change.data_id.clone()),
            ("group", "DEFAULT_GROUP".to_owned()),
        ];
        let method = match &change.content {
            Some(content) => {
                fields.push(("content", content.clone()));
                "POST"
            }
            None => "DELETE",
        };
        let target = format!("/v1/cs/configs?{}", crate::wire::encoded(&fields));
        let at = change.at;
        self.ask_at(wire, n, &plain(method, &target), None, at);
    }

    /// How many nodes have a change of a configuration at least as new, whether they run or not.
    pub(crate) fn have(&self, data_id: &str, number: usize) -> usize {
        let has = |node: &&Node| node.configs.get(data_id).is_some_and(|has| *has >= number);
        self.nodes.iter().filter(has).count()
    }

    /// By how much a change is older than another, as the clocks of the nodes that took them say, in the whole seconds that they
    /// tell.
    pub(crate) fn older_by(&self, change: usize, than: usize) -> Duration {
        let second = |number: usize| {
            let at = self.changes[number].at.duration_since(UNIX_EPOCH);
            Duration::from_secs(at.expect("a time of today").as_secs())
        };
        second(than).saturating_sub(second(change))
    }

    /// How many nodes have some content of it.
    pub(crate) fn have_some(&self, data_id: &str) -> usize {
        let has = |node: &&Node| {
            let number = node.configs.get(data_id);
            number.is_some_and(|number| self.changes[*number].content.is_some())
        };
        self.nodes.iter().filter(has).count()
    }

    /// Whether there was such a configuration at an instant, and ever since.
    pub(crate) fn is_there_since(&self, data_id: &str, then: Moment) -> bool {
        self.latest(data_id)
            .is_some_and(|change| change.content.is_some() && change.came <= then)
    }

    /// What was published, or deleted, last.
    pub(crate) fn latest(&self, data_id: &str) -> Option<&Change> {
        self.changes
            .iter()
            .rfind(|change| change.data_id == data_id)
    }

    /// Brings a node that was away up to date, with what it may miss.
    fn refill(&mut self, wire: &mut Wire, n: usize) {
        self.nodes[n].forgetful_until = wire.now + FORGETFUL;
        let wait = wire.millis(160, 1_200);
        wire.after(wait, super::wire::Happening::Cluster(Happening::CatchUp(n)));
        let latest: BTreeMap<&str, usize> = self
            .changes
            .iter()
            .enumerate()
            .map(|(number, change)| (&*change.data_id, number))
            .collect();
        for number in latest.into_values() {
            let mut wait = wait;
            if wire.chance(0.15) {
                wait = wire.between(s(20), s(40));
            }
            self.stale_until = self.stale_until.max(wire.now + wait);
            let config = Happening::Config(n, number);
            wire.after(wait, super::wire::Happening::Cluster(config));
        }
    }

    // -- what befalls them

    pub(crate) fn handle(&mut self, wire: &mut Wire, happening: Happening) {
        match happening {
            Happening::Wake(n) => self.wake(wire, n),
            Happening::Forwarded {
                by,
                to,
                caller,
                letter,
            } => self.forwarded(wire, by, to, caller, &letter),
            Happening::GivenUp(n, caller, why) => {
                if self.is_up(n) {
                    let name = Arc::clone(&self.nodes[n].name);
                    wire.answer(n, caller, Ok(failure(&name, 500, why)));
                }
            }
            Happening::Told { by, to, letter } => self.told(wire, by, to, &letter),
            Happening::CatchUp(n) => self.catch_up(wire, n),
            Happening::Config(n, number) => self.config(wire, n, number),
            Happening::Believe(n, m) => {
                let answers = match self.nodes[m].state {
                    State::Up => true,
                    State::Starting(until) => until <= wire.now + s(2),
                    State::Down => false,
                };
                let alive = self.together(n, m) && answers;
                if self.nodes[n].believes[m] != alive {
                    wire.note(|| {
                        let word = if alive { "UP" } else { "DOWN" };
                        format!("node {n}  believes {m} {word}")
                    });
                }
                self.nodes[n].believes[m] = alive;
            }
            Happening::Ready(n) => self.ready(wire, n),
            Happening::HealthLost => self.health_lost(wire),
            Happening::Dropped(n) => self.dropped(wire, n),
            Happening::Reaches(n, m) => _ = self.blocked.remove(&(n, m)),
        }
    }

    fn believe_later(&mut self, wire: &mut Wire, n: usize, m: usize, wait: Duration) {
        if n != m {
            let believe = Happening::Believe(n, m);
            wire.after(wait, super::wire::Happening::Cluster(believe));
        }
    }

    /// Kills a node: what it held in memory is gone, and whoever waits for it hears so.
    pub(crate) fn kill(&mut self, wire: &mut Wire, n: usize) {
        if !self.is_up(n) {
            return;
        }
        wire.note(|| format!("node {n}  dies"));
        self.nodes[n].state = State::Down;
        let name = self.nodes[n].name.to_string();
        for (_, caller) in std::mem::take(&mut self.nodes[n].held) {
            let reset = Error::Unreachable {
                server: name.clone(),
                what: "connection closed early".to_owned(),
            };
            wire.answer(n, caller, Err(reset));
        }
        for m in 0..self.size() {
            let wait = wire.between(s(8), s(13));
            self.believe_later(wire, m, n, wait);
        }
        if self.size() > 1 && wire.chance(1.0 / 3.0) {
            self.leaderless_until = wire.now + wire.millis(2_000, 5_000);
        }
        self.cold |= (0..self.size()).all(|n| !self.is_up(n));
        self.trouble_until = self.trouble_until.max(wire.now + s(13));
    }

    /// Starts a node that is down; ready after `takes`.
    pub(crate) fn start(&mut self, wire: &mut Wire, n: usize, takes: Duration) {
        if self.nodes[n].state != State::Down {
            return;
        }
        let until = wire.now + takes;
        wire.note(|| format!("node {n}  starts, ready at {until:?}"));
        self.nodes[n].state = State::Starting(until);
        wire.at(until, super::wire::Happening::Cluster(Happening::Ready(n)));
        for m in 0..self.size() {
            // The others send to it before its door is open, or only long after.
            let wait = takes.saturating_sub(s(2)) + wire.between(Duration::ZERO, s(10));
            self.believe_later(wire, m, n, wait);
            let wait = takes + wire.between(s(8), s(13));
            self.believe_later(wire, n, m, wait);
        }
        self.trouble_until = self.trouble_until.max(until + s(13));
    }

    fn ready(&mut self, wire: &mut Wire, n: usize) {
        if !matches!(self.nodes[n].state, State::Starting(_)) {
            return;
        }
        self.nodes[n].state = State::Up;
        let peer = (0..self.size()).find(|m| *m != n && self.connected(n, *m));
        wire.note(|| format!("node {n}  is ready, knows from {peer:?}"));
        match peer {
            Some(peer) => {
                let from = &self.nodes[peer];
                let mut desk = from.desk.clone();
                for ticket in from.held.keys() {
                    desk.handle(wire.now, Event::Left(*ticket));
                }
                let (records, applied) = (from.records.clone(), from.applied);
                let configs = from.configs.clone();
                let node = &mut self.nodes[n];
                node.desk = desk;
                node.records = records;
                node.applied = applied;
                node.configs = configs;
            }
            None => {
                let node = &mut self.nodes[n];
                node.desk = Desk::new(self.like);
                node.records = BTreeMap::new();
                // It has its own log.
                let known = self.decided.iter().take(node.applied);
                let known: Vec<Rc<Letter>> = known.cloned().collect();
                for letter in known {
                    self.ask(wire, n, &letter.request);
                }
                let configs: Vec<usize> = self.nodes[n].configs.values().copied().collect();
                for number in configs {
                    self.write(wire, n, number);
                }
            }
        }
        let node = &mut self.nodes[n];
        node.renew(wire.now);
        node.refresh_at = None;
        node.wake_at = None;
        node.seen = BTreeSet::new();
        node.ill_until = wire.now + s(60);
        node.believes = vec![true; node.believes.len()];
        if node.believes.len() > 1 {
            node.leaderless_until = wire.now + wire.millis(1_500, 4_000);
        }
        self.plan_wake(wire, n);
        self.refill(wire, n);
        if self.cold && self.hears_most(n) {
            self.cold = false;
            // Once the leader is found.
            let wait = if self.size() > 1 { s(5) } else { s(3) };
            wire.after(wait, super::wire::Happening::Cluster(Happening::HealthLost));
            self.trouble_until = self.trouble_until.max(wire.now + s(6));
        }
    }

    /// Steps the wall clocks of all nodes, by so many milliseconds.
    pub(crate) fn step_clocks(&mut self, by: i64) {
        for node in &mut self.nodes {
            node.off += by;
        }
    }

    /// Cuts a node off from the others.
    pub(crate) fn split(&mut self, wire: &mut Wire, n: usize) {
        if self.size() < 2 || self.apart.is_some() {
            return;
        }
        wire.note(|| format!("node {n}  is cut off from the others"));
        self.apart = Some(n);
        for m in 0..self.size() {
            let wait = wire.between(s(20), s(25));
            self.believe_later(wire, m, n, wait);
            self.believe_later(wire, n, m, wait);
        }
        if wire.chance(1.0 / 3.0) {
            self.leaderless_until = wire.now + wire.millis(5_000, 15_000);
        }
    }

    pub(crate) fn heal(&mut self, wire: &mut Wire) {
        let Some(apart) = self.apart.take() else {
            return;
        };
        wire.note(|| format!("node {apart}  hears the others again"));
        self.trouble_until = self.trouble_until.max(wire.now + s(10));
        for m in 0..self.size() {
            let wait = wire.between(Duration::ZERO, s(6));
            self.believe_later(wire, m, apart, wait);
            let wait = wire.between(Duration::ZERO, s(6));
            self.believe_later(wire, apart, m, wait);
            let wait = wire.between(s(2), s(6));
            wire.after(wait, super::wire::Happening::Cluster(Happening::Dropped(m)));
        }
        if wire.chance(0.5) {
            let wait = wire.between(s(5), s(24));
            self.trouble_until = self.trouble_until.max(wire.now + wait);
            for m in (0..self.size()).filter(|m| *m != apart) {
                self.blocked.insert((apart, m));
                let reaches = Happening::Reaches(apart, m);
                wire.after(wait, super::wire::Happening::Cluster(reaches));
            }
        }
        self.refill(wire, apart);
        for n in (0..self.size()).filter(|n| *n != apart) {
            self.nodes[n].forgetful_until = wire.now + FORGETFUL;
        }
    }

    fn dropped(&mut self, wire: &mut Wire, n: usize) {
        if !self.is_up(n) {
            return;
        }
        let places: Vec<Place> = self.nodes[n].records.keys().cloned().collect();
        for place in places {
            if wire.chance(0.5) {
                continue;
            }
            wire.note(|| format!("node {n}  drops {place:?}"));
            self.nodes[n].records.remove(&place);
            let target = format!(
                "/v1/ns/instance?serviceName={}&ip={}&port={}&ephemeral=true",
                place.service, place.ip, place.port
            );
            self.ask(wire, n, &plain("DELETE", &target));
            self.changed(wire, n);
        }
    }

    pub(crate) fn slow(&mut self, n: usize, delay: Duration) {
        self.nodes[n].slow = delay;
    }

    pub(crate) fn ill(&mut self, n: usize, illness: Option<Illness>) {
        self.nodes[n].illness = illness;
    }
}

/// The base URL of a server.
pub(crate) fn server(number: usize) -> String {
    format!("http://node{number}:8848")
}
