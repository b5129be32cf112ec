//! The one gRPC connection: to which server it is made, whether it lives, and when another one takes its place.
//!
//! - A connection that ended is followed by one to another server, after a short wait with full jitter; the one that failed is
//!   left out until all others were tried. While nobody can be reached the waits stay below [`AGAIN`]'s cap, so that a registry
//!   that returns is known about a second later; connections that are made and end at once are made less and less often.
//! - A connection on which nothing was heard for [`QUIET`] is asked whether it still is one. Two questions without an answer, or
//!   the answer that the server does not know it, end it. A call that got no answer in time asks at once.
//! - A server that wants us elsewhere (`ConnectResetRequest`, or GOAWAY) does not close the connection itself: a second one is made first,
//!   everything is said on it, and only then the old one is closed, so that nothing is ever missing from a list. It may name
//!   a server, but only one that we know: no answer leads us, and our token, to a stranger.
//! - A write that was given up may be carried out yet, and overwrite what was said after it, for as long as its connection lives.
//!   So that connection is left in the same way, once it has settled: earlier, a slow server would never hear all of it.
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
/// Before a connection is left for a write that may come late: at a server that is slow each time, less and less often.
const LEAVE: Pace = Pace {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(600),
    floor: Duration::ZERO,
};
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
    /// A write on it got no answer in time, and may be carried out yet.
    Late(u64),
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
    /// No server can be reached; says why the last one could not. Until there is a connection, again only when that changes.
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
    settled: bool,
    /// A write on it may be carried out yet.
    late: bool,
    /// When it is left for that.
    leave: Option<Moment>,
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
    leaves: Backoff,
    idle: bool,
    /// Why the last server could not be reached, as it was told.
    away: Option<String>,
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
            leaves: Backoff::new(LEAVE, seed.rotate_left(19)),
            idle: false,
            away: None,
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
        self.back_due = self.away.take().is_some() || self.back_due;
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
            settled: false,
            late: false,
            leave: None,
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
            let news = self.away.as_ref() != Some(&why);
            if self.open.is_none() && self.opening.is_none() && news {
                self.away = Some(why.clone());
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
                let place = server
                    .split_once("://")
                    .map_or(&***server, |(_, rest)| rest);
                place.split('/').next() == Some(&*named)
            };
            self.servers.iter().find(same).cloned()
        });
        self.next = Some(match &self.open {
            // Who is sent from one to the next does not run.
            Some(open) if now < open.since + LASTED => now + self.flaps.next_wait(),
            _ => {
                self.flaps.reset();
                now
            }
        });
    }

    fn check(&mut self) {
        if let Some(open) = self.open.as_mut().filter(|open| !open.checking) {
            open.checking = true;
            self.due.push_back(Effect::Check(open.number));
        }
    }

    fn leave_if_late(&mut self, now: Moment) {
        if let Some(open) = &mut self.open
            && open.late
            && open.settled
        {
            open.leave
                .get_or_insert_with(|| now + self.leaves.next_wait());
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
            Event::Late(number) => {
                if let Some(open) = self.with(number) {
                    open.late = true;
                    self.check();
                    self.leave_if_late(now);
                }
            }
            Event::Reset(number, named) => {
                if self.with(number).is_some() {
                    self.reset(now, named);
                }
            }
            Event::Settled(number) => {
                if let Some(open) = self.with(number) {
                    open.settled = true;
                    if !open.late {
                        self.leaves.reset();
                    }
                    self.close_old();
                    self.leave_if_late(now);
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
        let left = |open: &mut Open| open.leave.take_if(|leave| *leave <= now);
        if self.open.as_mut().and_then(left).is_some() {
            self.reset(now, None);
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
        let leave = self.open.as_ref().and_then(|open| open.leave);
        [quiet, next, old, back, leave].into_iter().flatten().min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn name(server: &str) -> Arc<str> {
        format!("http://{server}:8848").into()
    }

    fn of(servers: &str) -> Event {
        let one = |server: char| name(&server.to_string());
        Event::Order(servers.chars().map(one).collect())
    }

    fn effects(link: &mut Link) -> Vec<Effect> {
        std::iter::from_fn(|| link.effect()).collect()
    }

    fn after(link: &mut Link, at: u64, event: Event) -> Vec<Effect> {
        link.handle(ms(at), event);
        effects(link)
    }

    /// Wakes until a connection is being made; when, its number and server.
    fn next_open(link: &mut Link) -> (Moment, u64, String) {
        for _ in 0..20 {
            let due = link.deadline().unwrap();
            link.wake(due);
            for effect in effects(link) {
                if let Effect::Open(number, server) = effect {
                    let server = server.chars().nth(7).unwrap();
                    return (due, number, server.to_string());
                }
            }
        }
        panic!("no connection is made");
    }

    /// A link to `a` of three that was made at 0.
    fn linked() -> Link {
        let mut link = Link::new(1);
        assert_eq!(
            after(&mut link, 0, of("abc")),
            [Effect::Open(1, name("a"))],
            "at once"
        );
        let expected = [Effect::Use(1, name("a"))];
        assert_eq!(after(&mut link, 1, Event::Opened(1)), expected);
        link
    }

    #[test]
    fn a_lost_connection_is_followed_by_one_to_another_server_within_a_fifth_of_a_second() {
        let mut link = linked();
        let lost = after(&mut link, 60_000, Event::Ended(1, "reset".into()));
        assert_eq!(
            lost,
            [
                Effect::Close(1),
                Effect::Lost(1, "reset".into()),
                Effect::Failed(name("a"))
            ]
        );
        let (at, number, server) = next_open(&mut link);
        assert!(at <= ms(60_200), "{at:?}");
        assert_eq!((number, &*server), (2, "b"));
    }

    #[test]
    fn when_all_servers_have_failed_the_registry_is_away_and_it_is_told_once_that_it_is_back() {
        let mut link = linked();
        after(&mut link, 60_000, Event::Ended(1, "reset".into()));
        let mut told = 0;
        for _ in 0..9 {
            let (at, number, _) = next_open(&mut link);
            link.handle(at, Event::Ended(number, "refused".into()));
            let away = |effect: &Effect| matches!(effect, Effect::Away(_));
            told += effects(&mut link)
                .iter()
                .filter(|effect| away(effect))
                .count();
        }
        assert_eq!(told, 1);
        let (at, number, _) = next_open(&mut link);
        link.handle(at, Event::Opened(number));
        assert_eq!(effects(&mut link).last(), Some(&Effect::Back));
    }

    #[test]
    fn why_the_registry_is_away_is_told_anew_when_it_changes() {
        let mut link = Link::new(3);
        after(&mut link, 0, of("a"));
        let mut told = Vec::new();
        let (mut number, mut at) = (1, Moment::ZERO);
        for why in ["it broke", "refused", "refused", "starting"] {
            link.handle(at, Event::Ended(number, why.into()));
            for effect in effects(&mut link) {
                if let Effect::Away(why) = effect {
                    told.push(why);
                }
            }
            (at, number, _) = next_open(&mut link);
        }
        assert_eq!(told, ["it broke", "refused", "starting"]);
    }

    #[test]
    fn a_registry_that_returns_is_tried_within_two_seconds_however_long_it_was_away() {
        let mut link = Link::new(3);
        after(&mut link, 0, of("a"));
        let (mut number, mut last) = (1, Moment::ZERO);
        for _ in 0..1_000 {
            link.handle(last, Event::Ended(number, "refused".into()));
            let (at, next, _) = next_open(&mut link);
            assert!(at <= last + AGAIN.cap);
            (number, last) = (next, at);
        }
    }

    #[test]
    fn a_connection_that_may_be_done_without_is_looked_for_about_once_a_minute() {
        let mut link = Link::new(3);
        after(&mut link, 0, Event::Idle(true));
        after(&mut link, 0, of("a"));
        let (mut number, mut last) = (1, Moment::ZERO);
        for tries in 0..20 {
            link.handle(last, Event::Ended(number, "refused".into()));
            let (at, next, _) = next_open(&mut link);
            assert!(tries < 5 || at >= last + IDLY.floor && at <= last + IDLY.cap);
            (number, last) = (next, at);
        }
        assert!(last > ms(120_000));
        link.handle(last, Event::Ended(number, "refused".into()));
        link.handle(last, Event::Idle(false));
        let opens = |effect: &Effect| matches!(effect, Effect::Open(..));
        assert!(effects(&mut link).iter().any(opens), "at once when needed");
    }

    #[test]
    fn connections_that_do_not_last_are_made_less_and_less_often() {
        let mut link = linked();
        let (mut number, mut at, mut made) = (1, ms(2), 0);
        while at < ms(120_000) {
            link.handle(at, Event::Ended(number, "over the limit".into()));
            let (then, next, _) = next_open(&mut link);
            link.handle(then, Event::Opened(next));
            (number, at, made) = (next, then, made + 1);
        }
        assert!(made < 40, "{made} in two minutes");
    }

    #[test]
    fn who_is_always_sent_elsewhere_goes_less_and_less_often() {
        let mut link = linked();
        let (mut number, mut at, mut made) = (1, ms(2), 0);
        while at < ms(120_000) {
            link.handle(at, Event::Reset(number, None));
            let (then, next) = loop {
                let due = link.deadline().unwrap();
                link.wake(due);
                link.handle(due, Event::Heard(number));
                let open = |effect| match effect {
                    Effect::Open(next, _) => Some(next),
                    _ => None,
                };
                if let Some(next) = effects(&mut link).into_iter().find_map(open) {
                    break (due, next);
                }
            };
            link.handle(then, Event::Opened(next));
            link.handle(then, Event::Settled(next));
            effects(&mut link);
            (number, at, made) = (next, then, made + 1);
        }
        assert!(made < 40, "{made} in two minutes");
    }

    #[test]
    fn a_silent_connection_is_asked_twice_and_given_up() {
        let mut link = linked();
        assert_eq!(link.deadline(), Some(ms(5_001)));
        link.wake(ms(5_001));
        assert_eq!(effects(&mut link), [Effect::Check(1)]);
        let again = after(&mut link, 8_001, Event::Missed(1));
        assert_eq!(again, [Effect::Check(1)]);
        let gone = after(&mut link, 11_001, Event::Missed(1));
        assert!(matches!(gone[..2], [Effect::Close(1), Effect::Lost(1, _)]));
    }

    #[test]
    fn a_sign_of_life_ends_the_doubt() {
        let mut link = linked();
        let doubted = after(&mut link, 100, Event::Doubted(1));
        assert_eq!(doubted, [Effect::Check(1)], "not only after the silence");
        assert_eq!(after(&mut link, 110, Event::Doubted(1)), []);
        after(&mut link, 200, Event::Missed(1));
        after(&mut link, 300, Event::Heard(1));
        assert_eq!(link.deadline(), Some(ms(5_300)));
        link.wake(ms(5_300));
        effects(&mut link);
        let once = after(&mut link, 8_300, Event::Missed(1));
        assert_eq!(once, [Effect::Check(1)], "counted from new");
    }

    #[test]
    fn who_is_sent_elsewhere_keeps_the_old_connection_until_all_is_said_on_the_new_one() {
        let mut link = linked();
        let named = Some("c:8848".to_owned());
        let moving = after(&mut link, 30_000, Event::Reset(1, named));
        assert_eq!(moving, [Effect::Open(2, name("c"))]);
        let moved = after(&mut link, 30_010, Event::Opened(2));
        assert_eq!(moved, [Effect::Use(2, name("c"))]);
        let settled = after(&mut link, 30_500, Event::Settled(2));
        assert_eq!(settled, [Effect::Close(1)]);
        assert_eq!(after(&mut link, 30_600, Event::Ended(1, "cut".into())), []);
    }

    #[test]
    fn a_reset_to_an_unknown_server_leads_to_one_we_know() {
        for named in ["evil:8848", "c:9999", "c", ""] {
            let mut link = linked();
            let moving = after(&mut link, 30_000, Event::Reset(1, Some(named.into())));
            assert_eq!(moving, [Effect::Open(2, name("b"))], "{named}");
        }
        let mut link = Link::new(1);
        after(&mut link, 0, of("a"));
        after(&mut link, 1, Event::Opened(1));
        let alone = after(&mut link, 30_000, Event::Reset(1, None));
        assert_eq!(alone, [Effect::Open(2, name("a"))], "there is nobody else");
    }

    #[test]
    fn a_move_that_fails_leaves_what_is_there() {
        let mut link = linked();
        after(&mut link, 30_000, Event::Reset(1, None));
        let failed = after(&mut link, 30_010, Event::Ended(2, "refused".into()));
        assert_eq!(failed, [Effect::Close(2), Effect::Failed(name("b"))]);
        let (_, number, server) = next_open(&mut link);
        assert_eq!((number, &*server), (3, "c"));
    }

    #[test]
    fn a_connection_with_a_write_that_may_come_late_is_left_once_it_has_settled() {
        let mut link = linked();
        assert_eq!(after(&mut link, 100, Event::Late(1)), [Effect::Check(1)]);
        after(&mut link, 110, Event::Heard(1));
        link.wake(ms(3_000));
        assert_eq!(effects(&mut link), [], "not all is said yet");
        after(&mut link, 3_000, Event::Settled(1));
        let (at, number, server) = next_open(&mut link);
        assert!(at <= ms(3_000) + LEAVE.base, "{at:?}");
        assert_eq!((number, &*server), (2, "b"));
        link.handle(at, Event::Opened(2));
        assert_eq!(effects(&mut link), [Effect::Use(2, name("b"))]);
        link.handle(at, Event::Settled(2));
        assert_eq!(effects(&mut link), [Effect::Close(1)]);
        assert_eq!(link.deadline(), Some(at + QUIET), "it is well");
    }

    #[test]
    fn a_server_that_is_always_slow_is_left_less_and_less_often() {
        let mut link = linked();
        let (mut number, mut at, mut made) = (1, ms(2), 0);
        while at < ms(600_000) {
            link.handle(at, Event::Settled(number));
            link.handle(at, Event::Late(number));
            effects(&mut link);
            let (then, next) = loop {
                let due = link.deadline().unwrap();
                link.wake(due);
                link.handle(due, Event::Heard(number));
                let open = |effect| match effect {
                    Effect::Open(next, _) => Some(next),
                    _ => None,
                };
                if let Some(next) = effects(&mut link).into_iter().find_map(open) {
                    break (due, next);
                }
            };
            link.handle(then, Event::Opened(next));
            (number, at, made) = (next, then, made + 1);
            link.handle(at, Event::Late(number));
        }
        assert!(made < 20, "{made} in ten minutes");
    }

    #[test]
    fn a_server_that_is_listed_no_more_is_left() {
        let mut link = linked();
        let left = after(&mut link, 30_000, of("bc"));
        assert_eq!(left, [Effect::Open(2, name("b"))]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Order(usize),
        Opens(bool),
        Ends,
        OldEnds,
        Heard,
        Missed,
        Doubted,
        Late,
        Reset(Option<char>),
        Settled,
        Idle(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let named = prop_oneof![Just(None), proptest::char::range('a', 'e').prop_map(Some)];
        let step = prop_oneof![
            3 => (0..12_000_u64).prop_map(Step::Wait),
            1 => (0..4_usize).prop_map(Step::Order),
            4 => any::<bool>().prop_map(Step::Opens),
            2 => Just(Step::Ends),
            1 => Just(Step::OldEnds),
            1 => Just(Step::Heard),
            2 => Just(Step::Missed),
            1 => Just(Step::Doubted),
            1 => Just(Step::Late),
            2 => named.prop_map(Step::Reset),
            1 => Just(Step::Settled),
            1 => any::<bool>().prop_map(Step::Idle),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// What a shell around the link has.
    #[derive(Default)]
    struct Model {
        opening: Option<u64>,
        open: BTreeSet<u64>,
        used: Option<u64>,
        servers: BTreeSet<Arc<str>>,
        away: Option<String>,
    }

    impl Model {
        fn take(&mut self, effects: Vec<Effect>) -> Result<(), TestCaseError> {
            for effect in effects {
                match effect {
                    Effect::Open(number, server) => {
                        prop_assert!(self.servers.contains(&server), "a stranger");
                        prop_assert_eq!(self.opening.replace(number), None, "one at a time");
                    }
                    Effect::Close(number) => {
                        self.open.remove(&number);
                        self.opening.take_if(|opening| *opening == number);
                    }
                    Effect::Use(number, _) => {
                        prop_assert!(self.open.contains(&number));
                        self.used = Some(number);
                        self.away = None;
                    }
                    Effect::Lost(number, _) => {
                        prop_assert_eq!(self.used.take(), Some(number));
                    }
                    Effect::Check(number) => prop_assert_eq!(self.used, Some(number)),
                    Effect::Away(why) => {
                        prop_assert!(self.used.is_none());
                        prop_assert_ne!(self.away.replace(why.clone()), Some(why), "told twice");
                    }
                    Effect::Failed(_) | Effect::Back => {}
                }
                // Opened and not told yet, used, and its predecessor.
                prop_assert!(self.open.len() + usize::from(self.opening.is_some()) <= 3);
            }
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn there_is_one_connection_or_one_is_being_made_or_waited_for(steps in steps(), seed: u64) {
            let (mut link, mut model, mut now) = (Link::new(seed), Model::default(), Moment::ZERO);
            for step in steps {
                let event = match step {
                    Step::Wait(wait) => {
                        let until = now + ms(wait);
                        while let Some(due) = link.deadline().filter(|due| *due <= until) {
                            now = now.max(due);
                            link.wake(now);
                            model.take(effects(&mut link))?;
                            prop_assert!(link.deadline().is_none_or(|next| next > now), "woken for nothing");
                        }
                        now = until;
                        continue;
                    }
                    Step::Order(count) => {
                        model.servers = ["a", "b", "c"].into_iter().take(count).map(name).collect();
                        Event::Order(model.servers.iter().cloned().collect())
                    }
                    Step::Opens(well) => match model.opening.take() {
                        Some(number) if well => {
                            model.open.insert(number);
                            Event::Opened(number)
                        }
                        Some(number) => Event::Ended(number, "refused".into()),
                        None => continue,
                    },
                    Step::Ends => match model.used {
                        Some(number) => Event::Ended(number, "reset".into()),
                        None => continue,
                    },
                    Step::OldEnds => match model.open.first() {
                        Some(number) => Event::Ended(*number, "reset".into()),
                        None => continue,
                    },
                    Step::Heard => Event::Heard(model.used.unwrap_or(0)),
                    Step::Missed => Event::Missed(model.used.unwrap_or(0)),
                    Step::Doubted => Event::Doubted(model.used.unwrap_or(0)),
                    Step::Late => Event::Late(model.used.unwrap_or(0)),
                    Step::Reset(named) => {
                        let named = named.map(|named| format!("{named}:8848"));
                        Event::Reset(model.used.unwrap_or(0), named)
                    }
                    Step::Settled => Event::Settled(model.used.unwrap_or(0)),
                    Step::Idle(idle) => Event::Idle(idle),
                };
                link.handle(now, event);
                model.take(effects(&mut link))?;
                let waits = link.deadline().is_some() || model.servers.is_empty();
                prop_assert!(model.used.is_some() || model.opening.is_some() || waits, "nobody tries");
            }
        }
    }
}
