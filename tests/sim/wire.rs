//! Virtual time and the virtual network: what happens next, one source of chance, and who hears whom.
//!
//! Everything that happens is an entry of one queue, taken in the order of its moment (and of its number, so that a seed plays the
//! same way every time). The trace is written only when somebody is going to read it: a run that fails is played again for it.

use outrigger::backoff::Dice;
use outrigger::machine::Moment;
use outrigger::nacos::Error;
use outrigger::nacos::calls;
use outrigger::registry::Request;
use std::{
    cmp::Ordering,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long the agent waits for an answer, as its settings have it by default.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// What a long poll asks for, and how much longer it is waited for.
pub(crate) const LONG_POLL: Duration = Duration::from_secs(30);
const POLL_GRACE: Duration = Duration::from_secs(5);
/// So many entries of the trace are kept; `SIM_TRACE` keeps more.
const TRACE: usize = 400;

/// Which attempt of a call at one server; never used twice.
pub(crate) type CallId = u64;

/// What was sent, and what a server must look at before it hands it to its desk.
pub(crate) struct Letter {
    /// As the agent made it.
    pub(crate) call: calls::Call,
    /// As it is on the wire.
    pub(crate) request: Request,
    /// Whom it is about, for what is said about one instance.
    pub(crate) place: Option<Place>,
}

/// Which instance: the service as `group@@name`, address and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) service: String,
    pub(crate) ip: String,
    pub(crate) port: u16,
}

impl Letter {
    pub(crate) fn new(call: calls::Call) -> Rc<Self> {
        let of = |name: &str| {
            let found = call.query.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        };
        let place = match (of("serviceName"), of("ip"), of("port")) {
            (Some(service), Some(ip), Some(port)) => Some(Place {
                service,
                ip,
                port: port.parse().unwrap(),
            }),
            _ => None,
        };
        let target = if call.query.is_empty() {
            call.path.to_owned()
        } else {
            format!("{}?{}", call.path, encoded(&call.query))
        };
        let mut headers = call.headers.clone();
        let mut body = String::new();
        if !call.form.is_empty() {
            headers.push((
                "Content-Type",
                "application/x-www-form-urlencoded".to_owned(),
            ));
            body = encoded(&call.form);
        }
        let request = Request::new(call.method.as_str(), &target, headers, body);
        Rc::new(Self {
            call,
            request,
            place,
        })
    }

    pub(crate) fn says(&self, name: &str, value: &str) -> bool {
        self.call
            .query
            .iter()
            .any(|(known, said)| *known == name && said == value)
    }
}

/// `a=b&c=d`, as a form or a query.
pub(crate) fn encoded(fields: &[(&'static str, String)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    text
}

/// Who asked, and waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Caller {
    pub(crate) host: usize,
    /// Which life of the agent: one that was killed hears nothing any more.
    pub(crate) life: u32,
    pub(crate) call: CallId,
}

/// What can happen.
pub(crate) enum Happening {
    /// A request reaches a server.
    Asked(usize, Caller, Rc<Letter>),
    /// A slow server gets round to it.
    Served(usize, Caller, Rc<Letter>),
    /// The caller hung up.
    HungUp(usize, Caller),
    /// What came of it reaches the caller.
    Answered(Caller, Result<calls::Answer, Error>),
    /// Of the servers among themselves.
    Cluster(super::cluster::Happening),
    /// Inside a host.
    Host(usize, u32, super::host::Happening),
    /// The plan goes on.
    Plan(super::plan::Step),
    /// Time to look whether the laws hold.
    Look,
}

struct Entry {
    at: Moment,
    number: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest: a heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// How bad the network is, for everybody.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Share of the requests that never arrive.
    pub(crate) lost_requests: f64,
    /// Share of the answers that never arrive.
    pub(crate) lost_answers: f64,
    /// Share of the requests that arrive twice.
    pub(crate) doubled: f64,
    /// The longest delay of either.
    pub(crate) delay: Duration,
}

/// Time, chance, and the network between agents and servers.
pub(crate) struct Wire {
    pub(crate) now: Moment,
    pub(crate) dice: Dice,
    pub(crate) weather: Weather,
    /// Hosts and servers that do not hear one another.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Requests sent, for the law of the tight loop: of each host.
    pub(crate) sent: Vec<u64>,
    queue: BinaryHeap<Entry>,
    number: u64,
    trace: Option<VecDeque<(Moment, String)>>,
    kept: usize,
    /// The first law that was broken, in words.
    pub(crate) broken: Option<String>,
    /// Files that went back, or were removed: which, from what, to what. Judged by what the servers have.
    pub(crate) suspects: Vec<crate::laws::Suspect>,
}

impl Wire {
    pub(crate) fn new(seed: u64, hosts: usize, traced: bool) -> Self {
        Self {
            now: Moment::ZERO,
            dice: Dice::new(seed),
            weather: Weather::default(),
            cut: BTreeSet::new(),
            sent: vec![0; hosts],
            queue: BinaryHeap::new(),
            number: 0,
            trace: traced.then(VecDeque::new),
            kept: crate::variable("SIM_TRACE").map_or(TRACE, |kept| kept as usize),
            broken: None,
            suspects: Vec::new(),
        }
    }

    /// A number that was never given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(crate) fn at(&mut self, at: Moment, what: Happening) {
        let number = self.number();
        let at = at.max(self.now);
        self.queue.push(Entry { at, number, what });
    }

    pub(crate) fn after(&mut self, wait: Duration, what: Happening) {
        self.at(self.now + wait, what);
    }

    /// The next thing that happens until `end`; time is what it happens at.
    pub(crate) fn next(&mut self, end: Moment) -> Option<Happening> {
        if self.queue.peek().is_none_or(|entry| entry.at > end) {
            self.now = end;
            return None;
        }
        let entry = self.queue.pop()?;
        self.now = entry.at;
        Some(entry.what)
    }

    /// Notes what happened, if somebody is going to read it.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == self.kept {
                trace.pop_front();
            }
            trace.push_back((self.now, what()));
        }
    }

    /// A law does not hold: the run ends.
    pub(crate) fn broke(&mut self, why: impl FnOnce() -> String) {
        if self.broken.is_none() {
            let why = format!("at {:?}: {}", self.now, why());
            self.note(|| format!("BROKEN {why}"));
            self.broken = Some(why);
        }
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        let lines = self.trace.iter().flatten();
        lines
            .map(|(at, what)| format!("{:>10.3} {what}", at.as_secs_f64()))
            .collect()
    }

    // -- chance

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.dice.draw() < share
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.dice.draw())
    }

    pub(crate) fn millis(&mut self, least: u64, most: u64) -> Duration {
        self.between(Duration::from_millis(least), Duration::from_millis(most))
    }

    // -- the network

    fn delay(&mut self) -> Duration {
        let usual = self.between(Duration::from_micros(200), Duration::from_millis(3));
        if self.weather.delay.is_zero() {
            return usual;
        }
        // Most are quick, few are slow.
        let draw = self.dice.draw();
        usual + self.weather.delay.mul_f64(draw * draw * draw)
    }

    /// Sends a request to a server; exactly one [`Happening::Answered`] reaches the caller, a time-out at the latest.
    pub(crate) fn send(
        &mut self,
        caller: Caller,
        node: usize,
        server: &Arc<str>,
        letter: &Rc<Letter>,
    ) {
        self.sent[caller.host] += 1;
        let hold = letter.call.hold;
        let within = if hold.is_zero() {
            REQUEST_TIMEOUT
        } else {
            hold + POLL_GRACE
        };
        let late = Err(Error::Unreachable {
            server: server.to_string(),
            what: format!("no answer within {within:?}"),
        });
        self.after(within, Happening::Answered(caller, late));
        let copies = 1 + usize::from(self.chance(self.weather.doubled));
        for _ in 0..copies {
            let lost = self.chance(self.weather.lost_requests);
            if lost || self.cut.contains(&(caller.host, node)) {
                self.note(|| format!("net     {:?} to node {node} is lost", letter.call.what));
                continue;
            }
            let wait = self.delay();
            self.after(wait, Happening::Asked(node, caller, Rc::clone(letter)));
        }
    }

    /// Sends what came of a request back.
    pub(crate) fn answer(
        &mut self,
        node: usize,
        caller: Caller,
        outcome: Result<calls::Answer, Error>,
    ) {
        if self.chance(self.weather.lost_answers) || self.cut.contains(&(caller.host, node)) {
            self.note(|| format!("net     an answer of node {node} is lost"));
            return;
        }
        let wait = self.delay();
        self.after(wait, Happening::Answered(caller, outcome));
    }
}

/// What the wall clock shows at a moment, to somebody whose clock is off by so many milliseconds.
pub(crate) fn wall(moment: Moment, off: i64) -> SystemTime {
    let began = UNIX_EPOCH + Duration::from_secs(1_790_000_000) + moment;
    if off < 0 {
        began - Duration::from_millis(off.unsigned_abs())
    } else {
        began + Duration::from_millis(off.unsigned_abs())
    }
}
