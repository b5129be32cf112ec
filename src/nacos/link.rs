//! The one gRPC connection: to which server it is made, whether it lives, and when another one takes its place.
//!
//! - A connection that ended is followed by one to another server, after a short wait with full jitter; the one that failed is
//!   left out until all others were tried. While nobody can be reached the waits stay below [`AGAIN`]'s cap, so that a registry
//!   that returns is known about a second later; connections that are made and end at once are made less and less often.
//! - A connection on which nothing was heard for [`QUIET`] is asked whether it still is one. Two questions without an answer, or
//!   the answer that the server does not know it, end it. A call that got no answer in time asks at once.
//! - A server that wants us elsewhere (`ConnectResetRequest`) does not close the connection itself: a second one is made first,
//!   everything is said on it, and only then the old one is closed, so that nothing is ever missing from a list. It may name
//!   a server, but only one that we know: no answer leads us, and our token, to a stranger.
//! - There is one connection, two during such a move, whatever happens.

use crate::backoff::Backoff;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Silence after which a connection is asked for a sign of life; a server asks after 20 s itself.
const QUIET: Duration = Duration::from_secs(5);
/// Between attempts to connect; the mean of the longest waits is a second.
const AGAIN: Pace = Pace {
    base: Duration::from_millis(200),
    cap: Duration::from_millis(1800),
    floor: Duration::ZERO,
};
/// Between attempts to make a connection that may be done without.
const IDLY: Pace = Pace {
    base: Duration::from_secs(5),
    cap: Duration::from_secs(60),
    floor: Duration::from_secs(1),
};
/// After connections that did not last.
const FLAPS: Pace = Pace {
    base: Duration::from_millis(400),
    cap: Duration::from_secs(30),
    floor: Duration::ZERO,
};
/// A connection that lived so long has lasted.
const LASTED: Duration = Duration::from_secs(10);
/// An old connection is kept so long beside its successor at most.
const MOVE: Duration = Duration::from_secs(60);
/// Between two times that the registry is back: one that comes and goes must not be hurried at each time.
const BACK: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The servers in order of choice: base URLs.
    Order(Vec<Arc<str>>),
    /// The connection of this number has been set up.
    Opened(u64),
    /// It could not be made, or it ended; says why.
    Ended(u64, String),
    /// Something came over it.
    Heard(u64),
    /// [`Effect::Check`] got no answer.
    Missed(u64),
    /// A call on it got no answer in time.
    Doubted(u64),
    /// The server wants us elsewhere: at `host:port`, or anywhere.
    Reset(u64, Option<String>),
    /// All that is to be said has been said on it.
    Settled(u64),
    /// Whether the connection may be done without, because another transport does its work.
    Idle(bool),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a connection to this server; [`Event::Opened`] or [`Event::Ended`] answers.
    Open(u64, Arc<str>),
    /// Close it, if it is not closed already; nothing of it is listened to any more.
    Close(u64),
    /// Ask it for a sign of life; [`Event::Heard`], [`Event::Missed`] or [`Event::Ended`] answers.
    Check(u64),
    /// From now on this is the connection.
    Use(u64, Arc<str>),
    /// The connection is gone, and there is no other yet.
    Lost(u64, String),
    /// A server could not be reached, or left us.
    Failed(Arc<str>),
    /// No server can be reached; says why the last one could not. Once, until there is a connection.
    Away(String),
    /// The registry was away and is back: what waited need not wait longer. At most once in [`BACK`].
    Back,
}

#[derive(Debug)]
struct Open {
    number: u64,
    server: Arc<str>,
    /// When it was made.
    since: Moment,
    heard: Moment,
    checking: bool,
    missed: u32,
}

/// The machine.
#[derive(Debug)]
pub struct Link {
    servers: Vec<Arc<str>>,
    /// Servers that failed since there was a connection last.
    out: BTreeSet<Arc<str>>,
    number: u64,
    open: Option<Open>,
    /// The connection that is being made.
    opening: Option<(u64, Arc<str>)>,
    /// The one that `open` has replaced, until everything is said or its time is over.
    old: Option<(u64, Moment)>,
    /// The present one is to be replaced; by one to this server, if it is named.
    moving: bool,
    named: Option<Arc<str>>,
    /// When the next connection is made.
    next: Option<Moment>,
    again: Backoff,
    idly: Backoff,
    flaps: Backoff,
    idle: bool,
    away: bool,
    back_due: bool,
    back_not_before: Moment,
    due: VecDeque<Effect>,
}

impl Link {
    /// Knows no server yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            servers: Vec::new(),
            out: BTreeSet::new(),
            number: 0,
            open: None,
            opening: None,
            old: None,
            moving: false,
            named: None,
            next: None,
            again: Backoff::new(AGAIN, seed),
            idly: Backoff::new(IDLY, !seed),
            flaps: Backoff::new(FLAPS, seed.rotate_left(9)),
            idle: false,
            away: false,
            back_due: false,
            back_not_before: Moment::ZERO,
            due: VecDeque::new(),
        }
    }

    /// The server to connect to next: the one that was named, else the first that has not failed; of a single one that one.
    fn choose(&mut self) -> Option<Arc<str>> {
        if let Some(named) = self.named.take()
            && self.servers.contains(&named)
        {
            return Some(named);
        }
        let left = self.open.as_ref().map(|open| Arc::clone(&open.server));
        let usable = |server: &&Arc<str>| !self.out.contains(*server);
        let other = |server: &&Arc<str>| left.as_ref() != Some(*server);
        let servers = || self.servers.iter();
        servers()
            .filter(usable)
            .find(other)
            .or_else(|| servers().find(other))
            .or_else(|| self.servers.first())
            .cloned()
    }

    fn connect(&mut self, now: Moment) {
        let wanted = self.open.is_none() || self.moving;
        if !wanted || self.opening.is_some() || self.next.is_none_or(|next| next > now) {
            return;
        }
        // Without a server the wait goes on until one is known.
        if let Some(server) = self.choose() {
            self.next = None;
            self.number += 1;
            self.opening = Some((self.number, Arc::clone(&server)));
            self.due.push_back(Effect::Open(self.number, server));
        }
    }

    fn opened(&mut self, now: Moment, number: u64) {
        let made = self.opening.take_if(|(opening, _)| *opening == number);
        let Some((number, server)) = made else {
            // Given up meanwhile.
            self.due.push_back(Effect::Close(number));
            return;
        };
        self.moving = false;
        self.back_due = std::mem::take(&mut self.away) || self.back_due;
        self.out.clear();
        self.again.reset();
        self.idly.reset();
        let fresh = Open {
            number,
            server: Arc::clone(&server),
            since: now,
            heard: now,
            checking: false,
            missed: 0,
        };
        if let Some(before) = self.open.replace(fresh) {
            // Of two moves in a row the first one's old connection has nothing left that the second's has not.
            self.close_old();
            self.old = Some((before.number, now + MOVE));
        }
        self.due.push_back(Effect::Use(number, server));
        self.tell_back(now);
    }

    fn tell_back(&mut self, now: Moment) {
        if self.back_due && self.back_not_before <= now {
            self.back_due = false;
            self.back_not_before = now + BACK;
            self.due.push_back(Effect::Back);
        }
    }

    fn close_old(&mut self) {
        if let Some((number, _)) = self.old.take() {
            self.due.push_back(Effect::Close(number));
        }
    }

    fn ended(&mut self, now: Moment, number: u64, why: String) {
        if self.old.is_some_and(|(old, _)| old == number) {
            self.close_old();
        } else if let Some((_, server)) = self.opening.take_if(|(opening, _)| *opening == number) {
            self.due.push_back(Effect::Close(number));
            self.failed(server, why);
            let wait = if self.idle && self.open.is_none() {
                self.idly.next_wait()
            } else {
                self.again.next_wait()
            };
            self.next = Some(now + wait);
        } else if let Some(gone) = self.open.take_if(|open| open.number == number) {
            self.due.push_back(Effect::Close(number));
            self.due.push_back(Effect::Lost(number, why.clone()));
            self.close_old();
            let lasted = now >= gone.since + LASTED;
            if lasted {
                self.flaps.reset();
            }
            self.failed(gone.server, why);
            if self.opening.is_none() {
                let wait = self.again.next_wait();
                let wait = if lasted {
                    wait
                } else {
                    wait + self.flaps.next_wait()
                };
                self.next = Some(now + wait);
            }
        }
    }

    /// A server did not do; when all have not, nobody is there.
    fn failed(&mut self, server: Arc<str>, why: String) {
        self.due.push_back(Effect::Failed(Arc::clone(&server)));
        self.out.insert(server);
        if self.servers.iter().all(|server| self.out.contains(server)) {
            self.out.clear();
            if self.open.is_none() && self.opening.is_none() && !self.away {
                self.away = true;
                self.back_due = false;
                self.due.push_back(Effect::Away(why));
            }
        }
    }

    fn reset(&mut self, now: Moment, named: Option<String>) {
        if self.moving {
            return;
        }
        self.moving = true;
        self.named = named.and_then(|named| {
            let same = |server: &&Arc<str>| {
                let place = server.split_once("://").map_or(&***server, |(_, rest)| rest);
                place.split('/').next() == Some(&*named)
            };
            self.servers.iter().find(same).cloned()
        });
        self.next = Some(now);
    }

    fn check(&mut self) {
        if let Some(open) = self.open.as_mut().filter(|open| !open.checking) {
            open.checking = true;
            self.due.push_back(Effect::Check(open.number));
        }
    }

    fn with(&mut self, number: u64) -> Option<&mut Open> {
        self.open.as_mut().filter(|open| open.number == number)
    }
}

impl Machine for Link {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Order(servers) => {
                let first = self.servers.is_empty() && !servers.is_empty();
                self.out.retain(|server| servers.contains(server));
                self.servers = servers;
                if first && self.next.is_none() {
                    self.next = Some(now);
                }
                let known = |open: &Open| self.servers.contains(&open.server);
                if self.open.as_ref().is_some_and(|open| !known(open)) {
                    self.reset(now, None);
                }
            }
            Event::Opened(number) => self.opened(now, number),
            Event::Ended(number, why) => self.ended(now, number, why),
            Event::Heard(number) => {
                if let Some(open) = self.with(number) {
                    open.heard = now;
                    open.checking = false;
                    open.missed = 0;
                }
            }
            Event::Missed(number) => {
                if let Some(open) = self.with(number) {
                    open.checking = false;
                    open.missed += 1;
                    if open.missed < 2 {
                        self.check();
                    } else {
                        self.ended(now, number, "it does not answer any more".to_owned());
                    }
                }
            }
            Event::Doubted(number) => {
                if self.with(number).is_some() {
                    self.check();
                }
            }
            Event::Reset(number, named) => {
                if self.with(number).is_some() {
                    self.reset(now, named);
                }
            }
            Event::Settled(number) => {
                if self.with(number).is_some() {
                    self.close_old();
                }
            }
            Event::Idle(idle) => {
                self.idle = idle;
                if !idle && self.open.is_none() && self.opening.is_none() {
                    self.next = self.next.map(|_| now);
                }
            }
        }
        self.connect(now);
    }

    fn wake(&mut self, now: Moment) {
        if self.old.is_some_and(|(_, until)| until <= now) {
            self.close_old();
        }
        if (self.open.as_ref()).is_some_and(|open| open.heard + QUIET <= now) {
            self.check();
        }
        self.tell_back(now);
        self.connect(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let quiet = self.open.as_ref().filter(|open| !open.checking);
        let quiet = quiet.map(|open| open.heard + QUIET);
        let wanted = (self.open.is_none() || self.moving) && self.opening.is_none();
        let next = self.next.filter(|_| wanted && !self.servers.is_empty());
        let old = self.old.map(|(_, until)| until);
        let back = self.back_due.then_some(self.back_not_before);
        [quiet, next, old, back].into_iter().flatten().min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}
