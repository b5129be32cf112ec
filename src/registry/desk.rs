//! The whole registry as one machine: requests come over the desk, answers go back over it, each exactly once.
//!
//! A request is known by its ticket. All but listeners are answered before anything else happens; a listener is held until a
//! configuration changes, its hold ends or the registry stops. Who has left is answered no more. What is due happens before a
//! request is looked at, so an answer never shows what should be gone already. No socket and no clock: the doors (`http`, `grpc`)
//! and the one task that wakes it (`keeper`) are a thin shell, and a simulator does without them.
//!
//! Over gRPC a connection is known by its link. Each of its unary requests has a ticket and is answered at once; what the registry
//! says by itself goes over the stream on which the connection was set up.

use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::rpc;
use crate::nacos::rpc::Payload;
use crate::registry::access;
use crate::registry::access::Access;
use crate::registry::access::Aside;
use crate::registry::access::Ready;
use crate::registry::access::Verdict;
use crate::registry::admin_calls;
use crate::registry::beat_check;
use crate::registry::beat_check::BeatCheck;
use crate::registry::call;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::call::Request;
use crate::registry::checks;
use crate::registry::checks::CheckRules;
use crate::registry::checks::Checks;
use crate::registry::config::Changed;
use crate::registry::config_calls;
use crate::registry::config_calls::Outcome;
use crate::registry::config_console_calls;
use crate::registry::console_calls;
use crate::registry::kept;
use crate::registry::kept::Before;
use crate::registry::kept::Rows;
use crate::registry::like::Like;
use crate::registry::links;
use crate::registry::long_poll;
use crate::registry::model::ConfigKey;
use crate::registry::model::Reader;
use crate::registry::model::Time;
use crate::registry::namespaces::Namespaces;
use crate::registry::naming_calls;
use crate::registry::page_calls;
use crate::registry::page_wait;
use crate::registry::pushes;
use crate::registry::refusal::Denial;
use crate::registry::refusal::Half;
use crate::registry::refusal::Refusal;
use crate::registry::rpc_calls;
use crate::registry::rpc_calls::Caller;
use crate::registry::rpc_config;
use crate::registry::rpc_naming;
use crate::registry::rpc_table;
use crate::registry::state;
use crate::registry::state::State;
use crate::registry::token::Key;
use crate::registry::udp;
use crate::registry::users::Check;
use crate::registry::users::Users;
use crate::registry::v1_calls;
use crate::registry::v2_calls;
use crate::registry::v2_config_calls;
use hyper::body::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use crate::registry::checks::By;
pub use crate::registry::checks::Checked;
pub use crate::registry::checks::Probe;
pub use crate::registry::kept::Change;
pub use crate::registry::links::Link;
pub use crate::registry::links::Stream;
pub use crate::registry::model::Ticket;

/// Requests that may wait for the disk before no more are taken.
pub(crate) const HELD: usize = 10_000;
/// What there are so many of.
pub(crate) const WAITING: &str = "requests that wait for the disk";

/// What happens at the desk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request came, whole.
    Asked {
        /// What its answer will carry.
        ticket: Ticket,
        /// What the wall clock showed, for texts.
        at: SystemTime,
        /// What is wanted.
        request: Request,
    },
    /// Who holds this ticket does not wait any more.
    Left(Ticket),
    /// A gRPC connection came.
    Linked {
        /// Which.
        link: Link,
        /// From where.
        peer: SocketAddr,
        /// What the wall clock showed: it is part of what the connection is called.
        at: SystemTime,
    },
    /// A unary request came over a connection.
    Called {
        /// Which.
        link: Link,
        /// What its answer will carry.
        ticket: Ticket,
        /// What the wall clock showed.
        at: SystemTime,
        /// What is wanted.
        payload: Payload,
    },
    /// Something came over a stream of a connection.
    Streamed {
        /// Which connection.
        link: Link,
        /// Which stream.
        stream: Stream,
        /// What the wall clock showed.
        at: SystemTime,
        /// What.
        payload: Payload,
    },
    /// A stream of a connection ended.
    StreamEnded {
        /// Which connection.
        link: Link,
        /// Which stream.
        stream: Stream,
    },
    /// A connection is gone, and with it what it published.
    Unlinked(Link),
    /// A password has been looked at, as [`Effect::Check`] wanted.
    Checked {
        /// Whose call waits for that.
        ticket: Ticket,
        /// Whether it was the user's.
        right: bool,
    },
    /// There are other users from now on.
    UsersChanged(Users),
    /// A probe has ended.
    Probed {
        /// Which.
        number: u64,
        /// How.
        outcome: Checked,
    },
    /// These changes could not be kept, nor any after the first of them: all that they changed is again what it was.
    NotKept(Vec<Change>),
    /// A datagram came.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// What.
        bytes: Bytes,
    },
    /// The registry does something wrong from now on.
    Faulted(Fault),
    /// The registry stops: held listeners are let go, streams are ended, and none is held or begun from now on.
    Stopping,
}

/// What the registry can be made to do wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Lists and details of instances are those of a snapshot, which is renewed this long after a change, as on 2.x and 3.x; the
    /// first read of a service is fresh. Zero ends it.
    Lag(Duration),
    /// A configuration is readable, and its listeners are told, this long after it was published or deleted. Zero ends it.
    ConfigLag {
        /// How long.
        lag: Duration,
        /// Whether it is 409 meanwhile; else it reads as before.
        busy: bool,
    },
    /// It comes back as a standalone server does, once: with configurations, persistent instances and checkers, without ephemeral
    /// instances, and on 2.x and 3.x with the health of no instance; gRPC connections are cut.
    Restart,
    /// Everything is forgotten, once, also what is kept; gRPC connections are cut.
    Amnesia,
    /// For so long every gRPC request is told that the server starts, and no connection can be set up.
    Starting(Duration),
    /// For so long nothing goes out over the streams of gRPC connections and over UDP, and nothing that comes over them is heard;
    /// the streams stay open.
    Mute(Duration),
    /// So many gRPC connections are clients at most; those that are there stay.
    Clients(usize),
    /// Every gRPC client is asked to go elsewhere, once.
    Reset {
        /// Where to, if anywhere.
        to: Option<SocketAddr>,
    },
    /// Every gRPC connection is told that it must take no more requests, and ends when what is under way has ended; once.
    GoAway,
}

/// What the desk wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Keep these changes for the time after a restart; what comes after it must go nowhere before they are kept. Comes only from
    /// a desk that is [`Desk::keeping`].
    Keep(Vec<Change>),
    /// Give this to who holds the ticket.
    Answer(Ticket, Answer),
    /// Give this to who called over gRPC with this ticket.
    Reply(Ticket, Payload),
    /// Look at a password, and say with [`Event::Checked`] whether it is right. The next one is wanted after that.
    Check(Ticket, Check),
    /// Send this over a stream.
    Push(Link, Stream, Payload),
    /// End a stream.
    EndStream(Link, Stream),
    /// Let a connection end: no more requests, what is under way is finished.
    GoAway(Link),
    /// Close a connection at once.
    Cut(Link),
    /// Ask an instance whether it is well, and tell how it ended, within a second or two.
    Probe {
        /// What the end is told with.
        number: u64,
        /// What to ask.
        probe: Probe,
    },
    /// Send this over UDP.
    Datagram(SocketAddr, Bytes),
}

/// A listener who has not been answered yet.
#[derive(Clone, Debug)]
struct Listener {
    asked: SystemTime,
    write: fn(&[ConfigKey]) -> Answer,
}

/// A registry without sockets: see the head of this file.
#[derive(Clone, Debug)]
pub struct Desk {
    state: State,
    /// Where people are let in; `None` when everybody is.
    access: Option<Access>,
    listeners: BTreeMap<Ticket, Listener>,
    /// Pages that wait, and what they show.
    onlookers: BTreeMap<Ticket, Call>,
    /// Something happened that a page may show.
    news: bool,
    effects: VecDeque<Effect>,
    /// What the wall clock showed when it was seen last, for what is said without being asked.
    clock: Time,
    /// A fault: until then it starts.
    starting: Moment,
    /// A fault: until then streams are silent.
    muted: Moment,
    stopping: bool,
    /// The number of the next request to a client that is no push.
    next: u64,
    /// Until when everything that was due has happened.
    settled: Moment,
}

impl Desk {
    /// An empty registry with the manners of `like`.
    #[must_use]
    pub fn new(like: Like) -> Self {
        Self {
            state: State::new(like),
            access: None,
            listeners: BTreeMap::new(),
            onlookers: BTreeMap::new(),
            news: false,
            effects: VecDeque::new(),
            clock: Time {
                now: Moment::ZERO,
                at: UNIX_EPOCH,
            },
            starting: Moment::ZERO,
            muted: Moment::ZERO,
            stopping: false,
            next: pushes::STEP,
            settled: Moment::ZERO,
        }
    }

    /// The same, whose changes of services are gathered so long before their gRPC subscribers are told.
    #[must_use]
    pub fn pushing_after(mut self, delay: Duration) -> Self {
        self.state.subscribers = state::subscribers(delay);
        self.state.udp = state::subscribers_over_udp(self.state.like, delay);
        self
    }

    /// The same, which checks the health of persistent instances by these rules; without, nobody does.
    #[must_use]
    pub fn checking(mut self, rules: CheckRules) -> Self {
        self.state.checks = Checks::by(rules);
        self.state.switches.take_check_rules(&rules);
        self.state.delivered = self.state.switches.clone();
        self
    }

    /// The same, knowing what was kept ([`Effect::Keep`]), and telling what has to be kept; and what has become of rows that are
    /// not the same any more, because another generation wrote them.
    pub(crate) fn keeping(mut self, rows: Rows) -> Result<(Self, Vec<Change>), Refusal> {
        self.state.take_in(Moment::ZERO, &rows)?;
        self.state.note_changes();
        let changes = self.state.differs_from(rows);
        Ok((self, changes))
    }

    /// All rows.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> Rows {
        self.state.rows()
    }

    /// Says what has changed and has to be kept before what is done about it, the effects from there on.
    fn keep(&mut self, from: usize) {
        let changes = self.state.take_written();
        if !changes.is_empty() {
            // Who left took some of them with him.
            let from = from.min(self.effects.len());
            self.effects.insert(from, Effect::Keep(changes));
        }
    }

    /// Undoes what could not be kept.
    fn take_back(&mut self, now: Moment, changes: Vec<Change>) {
        let mut before = Before::new();
        for Change { key, was, .. } in changes {
            before.entry(key).or_insert(was);
        }
        if let Err(refusal) = self.state.take_back(now, before) {
            tracing::error!(
                ?refusal,
                "a row cannot become what it was; this is a bug of ours"
            );
        }
        // That is what is kept.
        self.state.take_written();
    }

    /// The no to a request whose changes could not be kept.
    pub(crate) fn not_kept(&self, path: &str, at: SystemTime, why: &str) -> Answer {
        let refusal = Refusal::NotKept(why.to_owned());
        let half = call::half(call::route(path));
        Answer::refused(&refusal, self.state.like, half, path, at)
    }

    /// The same over gRPC.
    pub(crate) fn not_kept_over_grpc(why: &str) -> Payload {
        rpc_calls::refused(&Refusal::NotKept(why.to_owned()))
    }

    /// The no to a request that would wait for the store behind too many others.
    pub(crate) fn full(&self, path: &str, at: SystemTime) -> Answer {
        let refusal = Refusal::Full(WAITING, HELD);
        let half = call::half(call::route(path));
        Answer::refused(&refusal, self.state.like, half, path, at)
    }

    /// The same over gRPC.
    pub(crate) fn full_over_grpc() -> Payload {
        rpc_calls::refused(&Refusal::Full(WAITING, HELD))
    }

    /// The same, which asks who somebody is: one of these users. Their tokens are signed with `key` unless they say another.
    #[must_use]
    pub fn asking(mut self, users: Users, key: Key) -> Self {
        self.access = Some(Access::new(users, key));
        self.state.asks = true;
        self
    }

    /// Lets in who may do everything, which his token says; for what is no call of Nacos.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub(crate) fn admit(&self, at: SystemTime, request: Request) -> Result<(), Refusal> {
        let Some(access) = &self.access else {
            return Ok(());
        };
        let call = Call::read(request, self.state.like);
        let admitted = access.admit(self.state.like, &call, at);
        admitted.map_err(Refusal::Denied)
    }

    #[cfg(test)]
    pub(crate) fn like(&self) -> Like {
        self.state.like
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.access.as_ref().is_none_or(Access::is_idle)
    }

    /// The same, reached at another port than 8848.
    #[must_use]
    pub fn at_port(mut self, port: u16) -> Self {
        self.state.port = port;
        self
    }

    fn answer(&mut self, ticket: Ticket, time: Time, request: Request) {
        let call = Call::read(request, self.state.like);
        if self.access.is_none() {
            return self.carry_out(ticket, time, &call);
        }
        let (half, path) = (call::half(&call.route), call.path.clone());
        match self.let_in(ticket, time, call) {
            Ok(Some(call)) => self.carry_out(ticket, time, &call),
            Ok(None) => {}
            Err(refusal) => self.refuse(ticket, half, &path, &refusal, time.at),
        }
    }

    /// The call, if it goes on now; nothing when it has to wait.
    fn let_in(&mut self, ticket: Ticket, time: Time, call: Call) -> Result<Option<Call>, Refusal> {
        let like = self.state.like;
        let Some(access) = &mut self.access else {
            return Ok(Some(call));
        };
        let waits = if access::is_login(like, &call) {
            access.login(time.now, ticket, call)
        } else {
            match access.judge_call(like, &call, time.at) {
                Verdict::Passes => return Ok(Some(call)),
                Verdict::Denied(denial) => return Err(Refusal::Denied(denial)),
                Verdict::Waits(user, password) => {
                    let aside = Aside::Call(call);
                    access.wait(time.now, ticket, user, password, aside)
                }
            }
        };
        waits.map(|()| None)
    }

    fn refuse(
        &mut self,
        ticket: Ticket,
        half: Half,
        path: &str,
        refusal: &Refusal,
        at: SystemTime,
    ) {
        let answer = Answer::refused(refusal, self.state.like, half, path, at);
        self.effects.push_back(Effect::Answer(ticket, answer));
    }

    /// Answers a call that may be made.
    fn carry_out(&mut self, ticket: Ticket, time: Time, call: &Call) {
        let state = &mut self.state;
        self.news |= page_calls::is_news(call);
        let outcome = if page_calls::is_here(&call.path) {
            match page_calls::answer(call) {
                Ok(page_calls::Outcome::Answer(answer)) => Ok(Outcome::Answer(answer)),
                Ok(page_calls::Outcome::Look { seen, hold }) => {
                    let page = ticket.0;
                    self.onlookers.insert(ticket, call.clone());
                    let event = page_wait::Event::Asked { page, seen, hold };
                    state.pages.handle(time.now, event);
                    return;
                }
                Err(refusal) => Err(refusal),
            }
        } else if call.route.starts_with("/v1/ns/") {
            v1_calls::answer(state, time, call).map(Outcome::Answer)
        } else if call.route.starts_with("/v1/cs/") {
            match config_console_calls::answer(state, time, call) {
                Some(answer) => answer.map(Outcome::Answer),
                None => config_calls::answer(state, time, call),
            }
        } else if call.route.starts_with("/v2/cs/") {
            v2_config_calls::answer(state, time, call).map(Outcome::Answer)
        } else if call.route.starts_with("/v2/") {
            v2_calls::answer(state, time, call).map(Outcome::Answer)
        } else if call.route.starts_with("/v3/") {
            admin_calls::answer(state, time, call).map(Outcome::Answer)
        } else {
            console_calls::answer(state, time, call).map(Outcome::Answer)
        };
        let answer = match outcome {
            Ok(Outcome::Answer(answer)) => answer,
            Ok(Outcome::Listen { keys, hold, write }) => {
                let asked = time.at;
                self.listeners.insert(ticket, Listener { asked, write });
                let event = long_poll::Event::Asked {
                    poll: ticket.0,
                    keys,
                    hold,
                    reader: call.reader(),
                };
                self.state.polls.handle(time.now, event);
                return;
            }
            Err(refusal) => {
                let half = call::half(&call.route);
                return self.refuse(ticket, half, &call.path, &refusal, time.at);
            }
        };
        self.effects.push_back(Effect::Answer(ticket, answer));
    }

    /// Goes on with a call that waited until its password was looked at.
    fn go_on(&mut self, now: Moment, ready: Ready) {
        let like = self.state.like;
        let Some(access) = &self.access else {
            return;
        };
        let Ready {
            ticket,
            aside,
            user,
        } = ready;
        let at = self.clock.at + now.saturating_sub(self.clock.now);
        let time = Time { now, at };
        match aside {
            Aside::Login(call) => {
                match user.and_then(|user| Some((access.token(&user, at)?, user))) {
                    Some((token, user)) => {
                        let answer = console_calls::logged_in(&user, token);
                        self.effects.push_back(Effect::Answer(ticket, answer));
                    }
                    None => {
                        let half = call::half(&call.route);
                        self.refuse(ticket, half, &call.path, &Refusal::LoginFailed, at);
                    }
                }
            }
            Aside::Call(call) => match user {
                Some(user) if access.may_call(&user, like, &call) => {
                    self.carry_out(ticket, time, &call)
                }
                user => {
                    let refusal = Refusal::Denied(Denial::of(user));
                    let half = call::half(&call.route);
                    self.refuse(ticket, half, &call.path, &refusal, at);
                }
            },
            Aside::Payload(link, payload) => {
                let Some(class) = access::class(&payload) else {
                    return;
                };
                let answer = match user {
                    Some(user) if access.may_ask(&user, &class.need) => {
                        self.reply_to(Caller { link, time }, &payload)
                    }
                    user => class.no(Denial::of(user), like),
                };
                self.effects.push_back(Effect::Reply(ticket, answer));
            }
        }
    }

    /// Answers what came over gRPC.
    fn reply(&mut self, time: Time, link: Link, ticket: Ticket, payload: &Payload) {
        let caller = Caller { link, time };
        let answer = if time.now < self.starting {
            Some(rpc_calls::starting())
        } else {
            let event = links::Event::Heard(link);
            self.state.links.handle(time.now, event);
            self.ask_or_reply(caller, ticket, payload)
        };
        let answer = answer.map(|answer| Effect::Reply(ticket, answer));
        self.effects.extend(answer);
    }

    /// The answer to a request over gRPC, unless it has to wait.
    fn ask_or_reply(
        &mut self,
        caller: Caller,
        ticket: Ticket,
        payload: &Payload,
    ) -> Option<Payload> {
        let like = self.state.like;
        if self.access.is_none() {
            return Some(self.reply_to(caller, payload));
        }
        if let Err(answer) = rpc_table::handler(&self.state, caller, payload) {
            return Some(*answer);
        }
        let Some(class) = access::class(payload) else {
            return Some(rpc_calls::garbled());
        };
        let Caller { link, time } = caller;
        let access = self.access.as_mut()?;
        match access.judge_payload(&class.need, payload, time.at) {
            Verdict::Passes => Some(self.reply_to(caller, payload)),
            Verdict::Denied(denial) => Some(class.no(denial, like)),
            Verdict::Waits(user, password) => {
                let aside = Aside::Payload(link, payload.clone());
                let waits = access.wait(time.now, ticket, user, password, aside);
                waits.err().map(|refusal| class.refused(&refusal))
            }
        }
    }

    /// The answer to a request over gRPC that may be made.
    fn reply_to(&mut self, caller: Caller, payload: &Payload) -> Payload {
        match rpc_table::handler(&self.state, caller, payload) {
            Ok(run) => {
                run(&mut self.state, caller, payload).unwrap_or_else(|_| rpc_calls::garbled())
            }
            Err(answer) => *answer,
        }
    }

    /// Takes note of what came over a stream: a setup, or an answer, which counts by its number whatever it is called.
    fn heard(&mut self, now: Moment, link: Link, stream: Stream, payload: &Payload) {
        if now < self.muted {
            return;
        }
        let links = &mut self.state.links;
        if payload.kind() == "ConnectionSetupRequest" {
            if now < self.starting || self.stopping {
                self.effects.push_back(Effect::EndStream(link, stream));
                return;
            }
            let Ok(setup) = payload.read::<rpc::ConnectionSetupRequest>() else {
                return;
            };
            let naming = setup.labels.get("module").is_some_and(|is| is == "naming");
            let event = links::Event::SetUp {
                link,
                stream,
                naming,
            };
            links.handle(now, event);
            let tag = setup.labels.get("app_Vipserver-Tag");
            let reader = Reader::new(payload.client_ip(), tag.map(String::as_str));
            if links.stream(link) == Some(stream) {
                self.state.readers.insert(link, reader);
            }
            let links = &self.state.links;
            if links.stream(link) == Some(stream) && setup.ability_table.is_some() {
                let abilities = [(rpc::PERSISTENT_BY_GRPC.to_owned(), true)];
                let ack = Payload::new(&rpc::SetupAckRequest {
                    ability_table: abilities.into(),
                    module: INTERNAL.to_owned(),
                    ..rpc::SetupAckRequest::default()
                });
                self.push(now, link, stream, ack);
            }
            return;
        }
        links.handle(now, links::Event::Heard(link));
        let number = payload
            .read::<rpc::ErrorResponse>()
            .ok()
            .and_then(|answer| answer.outcome.request_id?.parse().ok());
        if let Some(number) = number {
            let event = pushes::Event::Acknowledged { link, number };
            self.state.subscribers.handle(now, event);
            let event = pushes::Event::Acknowledged { link, number };
            self.state.listeners.handle(now, event);
        }
    }

    fn push(&mut self, now: Moment, link: Link, stream: Stream, payload: Payload) {
        if now >= self.muted {
            self.effects.push_back(Effect::Push(link, stream, payload));
        }
    }

    fn number(&mut self) -> String {
        let number = self.next;
        self.next += pushes::STEP;
        number.to_string()
    }

    /// A stream has ended: nobody can be told anything there.
    fn stream_ended(&mut self, now: Moment, link: Link, stream: Stream) {
        let state = &mut self.state;
        if state.links.stream(link) == Some(stream) {
            state.subscribers.handle(now, pushes::Event::Left(link));
            state.listeners.handle(now, pushes::Event::Left(link));
        }
        let event = links::Event::StreamEnded { link, stream };
        state.links.handle(now, event);
    }

    fn fault(&mut self, now: Moment, fault: Fault) {
        let state = &mut self.state;
        // A fault may change what readers see without a change of services.
        state.rendered.forget_all();
        match fault {
            Fault::Lag(lag) => state.naming.set_lag(lag),
            Fault::ConfigLag { lag, busy } => state.configs.set_lag(lag, busy),
            Fault::Restart => {
                state.beats = BeatCheck::new();
                state.checks.handle(now, checks::Event::AllLeft);
                state.udp.forget();
                state.naming.restart(now);
                self.cut_all(now);
            }
            Fault::Amnesia => {
                state.naming.forget();
                state.touch(kept::Key::Namespaces);
                state.touch(kept::Key::Switches);
                state.namespaces = Namespaces::default();
                state.switches = state.delivered.clone();
                state.udp.forget();
                state.beats = BeatCheck::new();
                let rules = state.switches.check_rules(state.checks.rules());
                state.checks.handle(now, checks::Event::AllLeft);
                state.checks.handle(now, checks::Event::Ruled(rules));
                state.configs.forget();
                self.cut_all(now);
            }
            Fault::Starting(time) => self.starting = now.saturating_add(time),
            Fault::Mute(time) => self.muted = now.saturating_add(time),
            Fault::Clients(most) => state.links.limit(most),
            Fault::Reset { to } => self.reset(now, to),
            Fault::GoAway => {
                let all = state.links.all().map(Effect::GoAway);
                self.effects.extend(all);
            }
        }
    }

    /// Cuts every gRPC connection, and forgets at once who was connected.
    fn cut_all(&mut self, now: Moment) {
        let all: Vec<Link> = self.state.links.all().collect();
        for link in all {
            self.state.links.handle(now, links::Event::Closed(link));
            self.effects.push_back(Effect::Cut(link));
        }
    }

    fn reset(&mut self, now: Moment, to: Option<SocketAddr>) {
        let clients: Vec<Link> = self.state.links.clients().collect();
        for link in clients {
            let Some(stream) = self.state.links.stream(link) else {
                continue;
            };
            let id = self.state.links.id(link).map(str::to_owned);
            let reset = Payload::new(&rpc::ConnectResetRequest {
                request_id: self.number(),
                server_ip: to.map(|to| to.ip().to_string()),
                server_port: to.map(|to| to.port().to_string()),
                connection_id: to.and(id),
                module: INTERNAL.to_owned(),
                ..rpc::ConnectResetRequest::default()
            });
            self.push(now, link, stream, reset);
        }
    }

    /// Lets happen what is due, one moment after the other, and carries out what the machines want.
    fn settle(&mut self, now: Moment) {
        while let Some(due) = self.deadline().filter(|due| *due < now) {
            // What a switch held back happens when it lets go, not when it was due.
            self.settle_at(due.max(self.settled));
        }
        self.settle_at(now);
    }

    /// Whether silence has consequences.
    fn checks_beats(&self) -> bool {
        self.state.switches.health_check_enabled
    }

    /// Whether subscribers of services are told; 1.4 goes on with those who have subscribed.
    fn tells_subscribers(&self) -> bool {
        self.state.switches.push_enabled || !self.state.like.manners().switch_holds_pushes
    }

    fn settle_at(&mut self, now: Moment) {
        self.settle_access(now);
        self.settled = now;
        let checks = self.checks_beats();
        let state = &mut self.state;
        if checks {
            state.beats.wake(now);
        }
        while let Some(effect) = state.beats.effect() {
            self.news = true;
            match effect {
                beat_check::Effect::Tell { who, healthy } => {
                    state.naming.tell(now, &who.0, &who.1, healthy);
                }
                beat_check::Effect::Remove { who } => {
                    state.naming.leave(now, &who.0, &who.1);
                }
            }
        }
        self.settle_links(now);
        self.settle_checks(now);
        let state = &mut self.state;
        state.naming.wake(now);
        for key in state.naming.take_changed() {
            state.rendered.forget(&key);
            state.udp.handle(now, udp::Event::Changed(key.clone()));
            self.news = true;
            state.subscribers.handle(now, pushes::Event::Changed(key));
        }
        state.configs.wake(now);
        for changed in state.configs.take_changed() {
            self.news = true;
            self.tell_of_config(now, changed);
        }
        self.settle_pushes(now);
        let state = &mut self.state;
        state.polls.wake(now);
        while let Some(effect) = state.polls.effect() {
            let (long_poll::Effect::Answer { poll, .. } | long_poll::Effect::Refuse { poll }) =
                effect;
            // Who has left is no listener any more.
            let Some(listener) = self.listeners.remove(&Ticket(poll)) else {
                continue;
            };
            let answer = match effect {
                long_poll::Effect::Answer { changed, .. } => (listener.write)(&changed),
                long_poll::Effect::Refuse { .. } => {
                    let refusal = Refusal::Full("held polls", long_poll::POLLS);
                    Answer::refused(&refusal, state.like, Half::Config, "", listener.asked)
                }
            };
            self.effects.push_back(Effect::Answer(Ticket(poll), answer));
        }
        self.settle_pages(now);
    }

    fn settle_pages(&mut self, now: Moment) {
        let time = Time {
            now,
            at: self.clock.at + now.saturating_sub(self.clock.now),
        };
        let state = &mut self.state;
        if std::mem::take(&mut self.news) {
            state.pages.handle(now, page_wait::Event::Happened);
        }
        state.pages.wake(now);
        while let Some(effect) = state.pages.effect() {
            let (page_wait::Effect::Show(page) | page_wait::Effect::Refuse(page)) = effect;
            // Who has left looks on no more.
            let Some(call) = self.onlookers.remove(&Ticket(page)) else {
                continue;
            };
            let answer = match effect {
                page_wait::Effect::Show(_) => page_calls::show(state, time, &call),
                page_wait::Effect::Refuse(_) => {
                    Err(Refusal::Full("pages that wait for news", page_wait::PAGES))
                }
            };
            let answer = answer.unwrap_or_else(|refusal| {
                Answer::refused(&refusal, state.like, Half::Naming, &call.path, time.at)
            });
            self.effects.push_back(Effect::Answer(Ticket(page), answer));
        }
    }

    /// Tells those listeners of a configuration who see another content of it than before.
    fn tell_of_config(&mut self, now: Moment, changed: Changed) {
        let state = &mut self.state;
        let concerns = |reader: &Reader| state.configs.concerns(&changed, reader);
        let polls = state.polls.watching(&changed.key);
        let polls = polls.filter(|poll| state.polls.reader(*poll).is_some_and(concerns));
        let polls = polls.collect();
        let anybody = Reader::default();
        let links = state.listeners.askers(&changed.key).filter(|link| {
            let reader = state.readers.get(link);
            concerns(reader.unwrap_or(&anybody))
        });
        let links: Vec<Link> = links.collect();
        let key = changed.key;
        for link in links {
            let key = key.clone();
            let event = pushes::Event::ChangedFor { link, key };
            state.listeners.handle(now, event);
        }
        let event = long_poll::Event::Changed { key, polls };
        state.polls.handle(now, event);
    }

    fn settle_access(&mut self, now: Moment) {
        let Some(access) = &mut self.access else {
            return;
        };
        access.wake(now);
        if let Some((ticket, check)) = access.next_check() {
            self.effects.push_back(Effect::Check(ticket, check));
        }
        while let Some(ready) = self.access.as_mut().and_then(Access::ready) {
            self.go_on(now, ready);
        }
    }

    fn settle_checks(&mut self, now: Moment) {
        let state = &mut self.state;
        for who in state.naming.take_stirred() {
            let event = match state.naming.check(&who.0, &who.1) {
                Some((probe, healthy)) => checks::Event::Registered {
                    who,
                    kind: probe.by.kind(),
                    healthy,
                },
                None => checks::Event::Left { who },
            };
            state.checks.handle(now, event);
        }
        state.checks.wake(now);
        while let Some(effect) = state.checks.effect() {
            match effect {
                checks::Effect::Tell { who, healthy } => {
                    state.naming.tell(now, &who.0, &who.1, healthy);
                }
                checks::Effect::Probe { number, who } => {
                    if let Some((probe, _)) = state.naming.check(&who.0, &who.1) {
                        self.effects.push_back(Effect::Probe { number, probe });
                    } else {
                        // Cannot be: who is not checked was told to have left.
                        let outcome = Checked::Unable;
                        let event = checks::Event::Ended { number, outcome };
                        state.checks.handle(now, event);
                    }
                }
            }
        }
    }

    fn settle_links(&mut self, now: Moment) {
        self.state.links.wake(now);
        while let Some(effect) = self.state.links.effect() {
            self.news = true;
            match effect {
                links::Effect::Detect(link, stream) => {
                    let detect = Payload::new(&rpc::ClientDetectionRequest {
                        request_id: self.number(),
                        module: INTERNAL.to_owned(),
                        ..rpc::ClientDetectionRequest::default()
                    });
                    self.push(now, link, stream, detect);
                }
                links::Effect::Forget(link) => {
                    let state = &mut self.state;
                    state.naming.unpublish(now, link, None);
                    state.readers.remove(&link);
                    state.subscribers.handle(now, pushes::Event::Left(link));
                    state.listeners.handle(now, pushes::Event::Left(link));
                }
                links::Effect::EndStream(link, stream) => {
                    self.effects.push_back(Effect::EndStream(link, stream));
                }
                links::Effect::Close(link) => self.effects.push_back(Effect::Cut(link)),
            }
        }
    }

    fn settle_pushes(&mut self, now: Moment) {
        let time = Time {
            now,
            at: self.clock.at + now.saturating_sub(self.clock.now),
        };
        let tells = self.tells_subscribers();
        let state = &mut self.state;
        if tells {
            state.subscribers.wake(now);
        }
        state.listeners.wake(now);
        state.udp.held = !tells;
        state.udp.wake(now);
        // What several are told under one number is written once.
        let mut written: BTreeMap<u64, Option<Bytes>> = BTreeMap::new();
        while let Some(effect) = self.state.udp.effect() {
            let udp::Effect::Push {
                peer,
                wish,
                number,
                at,
            } = effect;
            // Once more is the same, so it is of when it was told first.
            let first = Time {
                now: at,
                at: time.wall(at),
            };
            let state = &mut self.state;
            let bytes = written
                .entry(number)
                .or_insert_with(|| naming_calls::datagram(state, first, &wish, number));
            match bytes {
                Some(bytes) if now >= self.muted => {
                    let datagram = Effect::Datagram(peer, bytes.clone());
                    self.effects.push_back(datagram);
                }
                Some(_) => {}
                None => {
                    tracing::debug!(%peer, service = %wish.service.grouped(), "no datagram holds the list; the client looks by itself")
                }
            }
        }
        let mut given_up = Vec::new();
        while let Some(effect) = self.state.subscribers.effect() {
            match effect {
                pushes::Effect::GiveUp(link) => given_up.push(link),
                pushes::Effect::Push {
                    link,
                    key,
                    said,
                    number,
                } => {
                    if let Some(stream) = self.state.links.stream(link) {
                        let push = rpc_naming::push(&mut self.state, time, &key, &said, number);
                        self.push(now, link, stream, push);
                    }
                }
            }
        }
        while let Some(effect) = self.state.listeners.effect() {
            match effect {
                pushes::Effect::GiveUp(link) => given_up.push(link),
                pushes::Effect::Push {
                    link,
                    key,
                    said,
                    number,
                } => {
                    if let Some(stream) = self.state.links.stream(link) {
                        self.push(now, link, stream, rpc_config::push(&key, &said, number));
                    }
                }
            }
        }
        for link in given_up {
            self.state.links.handle(now, links::Event::GivenUp(link));
            self.settle_links(now);
        }
    }
}

/// `module` of what concerns the connection itself.
const INTERNAL: &str = "internal";

/// What a connection is called, as the original does.
fn called(peer: SocketAddr, at: SystemTime) -> String {
    let millis = crate::dates::millis(at);
    format!("{millis}_{}_{}", peer.ip(), peer.port())
}

impl Machine for Desk {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        let from = self.effects.len();
        self.settle(now);
        // Of requests over HTTP it depends on which; whoever left, waited only.
        self.news |= !matches!(event, Event::Asked { .. } | Event::Left(_));
        match event {
            Event::Asked {
                ticket,
                at,
                request,
            } => {
                self.clock = Time { now, at };
                self.answer(ticket, Time { now, at }, request);
            }
            Event::Linked { link, peer, at } => {
                self.clock = Time { now, at };
                if let Some(access) = &mut self.access {
                    access.linked(link, peer.ip());
                }
                let id = called(peer, at).into();
                let event = links::Event::Came { link, id };
                self.state.links.handle(now, event);
            }
            Event::Called {
                link,
                ticket,
                at,
                payload,
            } => {
                self.clock = Time { now, at };
                self.reply(Time { now, at }, link, ticket, &payload);
            }
            Event::Streamed {
                link,
                stream,
                at,
                payload,
            } => {
                self.clock = Time { now, at };
                self.heard(now, link, stream, &payload);
            }
            Event::StreamEnded { link, stream } => self.stream_ended(now, link, stream),
            Event::Unlinked(link) => {
                if let Some(access) = &mut self.access {
                    access.unlinked(link);
                }
                let event = links::Event::Closed(link);
                self.state.links.handle(now, event);
            }
            Event::Datagram { from, bytes } => {
                let number = udp::acknowledged(&bytes).filter(|_| now >= self.muted);
                if let Some(number) = number {
                    let peer = SocketAddr::new(from.ip().to_canonical(), from.port());
                    let event = udp::Event::Acknowledged { peer, number };
                    self.state.udp.handle(now, event);
                }
            }
            Event::Left(ticket) => {
                self.listeners.remove(&ticket);
                if let Some(access) = &mut self.access {
                    access.left(ticket);
                }
                self.state
                    .polls
                    .handle(now, long_poll::Event::Left(ticket.0));
                self.onlookers.remove(&ticket);
                self.state
                    .pages
                    .handle(now, page_wait::Event::Left(ticket.0));
                self.effects.retain(|effect| match effect {
                    Effect::Answer(answered, _) | Effect::Reply(answered, _) => *answered != ticket,
                    _ => true,
                });
            }
            Event::Checked { ticket, right } => {
                if let Some(access) = &mut self.access {
                    access.checked(now, ticket, right);
                }
            }
            Event::UsersChanged(users) => {
                if let Some(access) = &mut self.access {
                    access.replace(users);
                }
            }
            Event::Probed { number, outcome } => {
                let event = checks::Event::Ended { number, outcome };
                self.state.checks.handle(now, event);
            }
            Event::NotKept(changes) => self.take_back(now, changes),
            Event::Faulted(fault) => self.fault(now, fault),
            Event::Stopping => {
                if let Some(access) = &mut self.access {
                    access.stop(now);
                }
                self.stopping = true;
                self.state.checks.handle(now, checks::Event::Stopping);
                self.state.polls.handle(now, long_poll::Event::Stopping);
                self.state.pages.handle(now, page_wait::Event::Stopping);
                self.state.links.handle(now, links::Event::AllEnded);
            }
        }
        self.settle(now);
        self.keep(from);
    }

    fn wake(&mut self, now: Moment) {
        let from = self.effects.len();
        self.settle(now);
        self.keep(from);
    }

    fn deadline(&self) -> Option<Moment> {
        let state = &self.state;
        [
            state.naming.deadline(),
            state.beats.deadline().filter(|_| self.checks_beats()),
            state.checks.deadline(),
            state.configs.deadline(),
            state.polls.deadline(),
            state.pages.deadline(),
            state.links.deadline(),
            (state.subscribers.deadline()).filter(|_| self.tells_subscribers()),
            state.listeners.deadline(),
            self.access.as_ref().and_then(Access::deadline),
            state.udp.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::ServiceKey;
    use proptest::prelude::*;
    use std::{
        collections::BTreeSet,
        time::{Duration, UNIX_EPOCH},
    };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn asked(ticket: u64, request: Request) -> Event {
        Event::Asked {
            ticket: Ticket(ticket),
            at: UNIX_EPOCH,
            request,
        }
    }

    fn plain(method: &str, target: &str) -> Request {
        Request::new(method, target, [("", ""); 0], "")
    }

    fn listen(data_id: u8) -> Request {
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Long-Pulling-Timeout", "10500"),
        ];
        let body = format!("Listening-Configs={data_id}%02g%02%01");
        Request::new("POST", "/v1/cs/configs/listener", headers, body)
    }

    fn publish(data_id: u8, content: u64) -> Request {
        let target = format!("/v1/cs/configs?dataId={data_id}&group=g&content={content}");
        plain("POST", &target)
    }

    fn answers(desk: &mut Desk) -> Vec<(u64, Answer)> {
        std::iter::from_fn(|| desk.effect())
            .map(|effect| match effect {
                Effect::Answer(ticket, answer) => (ticket.0, answer),
                other => panic!("nobody is connected over gRPC: {other:?}"),
            })
            .collect()
    }

    fn answer(desk: &mut Desk, now: Moment, request: Request) -> String {
        desk.handle(now, asked(u64::MAX, request));
        let answer = answers(desk).pop().unwrap().1;
        String::from_utf8(answer.body().to_vec()).unwrap()
    }

    #[test]
    fn a_silent_instance_falls_ill_then_goes_and_its_service_a_minute_later() {
        let mut desk = Desk::new(Like::V2_5);
        let register = plain(
            "POST",
            "/v1/ns/instance?serviceName=orders&ip=10.0.0.1&port=80",
        );
        assert_eq!(answer(&mut desk, s(0), register), "ok");
        for (due, healthy, known) in [
            (15, Some(true), true),
            (30, Some(false), true),
            (90, None, true),
        ] {
            assert_eq!(desk.deadline(), Some(s(due)));
            let service = ServiceKey {
                namespace: crate::nacos::model::Namespace::public(),
                group: "DEFAULT_GROUP".into(),
                name: "orders".into(),
            };
            let address = crate::registry::naming::Address {
                ip: "10.0.0.1".into(),
                port: 80,
            };
            let naming = &desk.state.naming;
            let place = naming.place(&address, "DEFAULT", false);
            let seen = naming.seen(&service, &place);
            assert_eq!(seen.map(|seen| seen.healthy), healthy);
            assert_eq!(naming.knows(&service), known);
            desk.wake(s(due));
        }
        assert_eq!(desk.deadline(), None);
    }

    #[test]
    fn who_asks_late_sees_what_was_due_before() {
        let mut desk = Desk::new(Like::V2_5);
        let register = plain(
            "POST",
            "/v1/ns/instance?serviceName=orders&ip=10.0.0.1&port=80",
        );
        assert_eq!(answer(&mut desk, s(0), register), "ok");
        let list = plain("GET", "/v1/ns/instance/list?serviceName=orders");
        assert!(answer(&mut desk, s(31), list).contains("\"hosts\":[]"));
    }

    #[test]
    fn a_listener_is_told_of_a_change_and_of_nothing_at_the_end_of_its_hold() {
        let mut desk = Desk::new(Like::V2_5);
        desk.handle(s(0), asked(1, listen(7)));
        desk.handle(s(0), asked(2, listen(8)));
        assert_eq!(answers(&mut desk), []);
        desk.handle(s(1), asked(3, publish(7, 1)));
        let told = answers(&mut desk);
        assert_eq!(
            (told[0].0, told[0].1.body().as_ref()),
            (3, b"true".as_ref())
        );
        assert_eq!(
            (told[1].0, told[1].1.body().as_ref()),
            (1, b"7%02g%01\n".as_ref())
        );
        assert_eq!(desk.deadline(), Some(s(10)));
        desk.wake(s(10));
        let told = answers(&mut desk);
        assert_eq!((told.len(), told[0].0, told[0].1.body().len()), (1, 2, 0));
    }

    fn linked(desk: &mut Desk, now: Moment) -> (Link, Stream) {
        let (link, stream, at) = (Link(1), Stream(1), UNIX_EPOCH);
        let peer = ([127, 0, 0, 1], 4_000).into();
        desk.handle(now, Event::Linked { link, peer, at });
        let payload = Payload::raw(
            "ConnectionSetupRequest",
            r#"{"labels":{"module":"naming"}}"#,
        );
        let event = Event::Streamed {
            link,
            stream,
            at,
            payload,
        };
        desk.handle(now, event);
        (link, stream)
    }

    #[test]
    fn what_a_silent_connection_published_is_gone_after_28_s_at_most_and_no_beat_is_asked_of_it() {
        let mut desk = Desk::new(Like::V2_5);
        let (link, stream) = linked(&mut desk, s(1));
        let body = r#"{"namespace":"public","serviceName":"orders","type":"registerInstance","instance":{"ip":"10.0.0.1","port":80,
            "metadata":{"preserved.heart.beat.timeout":"5000","preserved.ip.delete.timeout":"5000"}}}"#;
        let event = Event::Called {
            link,
            ticket: Ticket(1),
            at: UNIX_EPOCH,
            payload: Payload::raw("InstanceRequest", body),
        };
        desk.handle(s(1), event);
        assert!(matches!(desk.effect(), Some(Effect::Reply(Ticket(1), _))));
        let list = || plain("GET", "/v1/ns/instance/list?serviceName=orders");
        assert!(answer(&mut desk, s(20), list()).contains("\"healthy\":true"));
        while let Some(due) = desk.deadline().filter(|due| *due <= s(29)) {
            desk.wake(due);
        }
        let said: Vec<Effect> = std::iter::from_fn(|| desk.effect()).collect();
        assert!(
            matches!(&said[..], [Effect::Push(_, _, detect), Effect::EndStream(..)] if detect.kind() == "ClientDetectionRequest"),
            "{said:?}"
        );
        assert_eq!(desk.state.links.stream(link), None, "{stream:?} is ended");
        assert!(answer(&mut desk, s(29), list()).contains("\"hosts\":[]"));
    }

    #[test]
    fn a_push_comes_again_until_its_number_comes_back_whatever_the_answer_is_called() {
        for acknowledged in [false, true] {
            let mut desk = Desk::new(Like::V2_5);
            let (link, stream) = linked(&mut desk, s(0));
            let call = |kind: &str, body: &str| Event::Called {
                link,
                ticket: Ticket(1),
                at: UNIX_EPOCH,
                payload: Payload::raw(kind, body.to_owned()),
            };
            let subscribe = r#"{"namespace":"public","serviceName":"orders","subscribe":true}"#;
            let listen =
                r#"{"listen":true,"configListenContexts":[{"dataId":"d","group":"g","md5":""}]}"#;
            let publish = r#"{"dataId":"d","group":"g","content":"c"}"#;
            desk.handle(s(0), call("SubscribeServiceRequest", subscribe));
            desk.handle(s(0), call("ConfigBatchListenRequest", listen));
            desk.handle(s(0), call("ConfigPublishRequest", publish));
            let mut pushed = BTreeMap::new();
            while let Some(due) = desk.deadline().filter(|due| *due <= s(19)) {
                desk.wake(due);
                while let Some(effect) = desk.effect() {
                    let Effect::Push(_, _, push) = effect else {
                        continue;
                    };
                    *pushed.entry(push.kind().to_owned()).or_insert(0) += 1;
                    let number: serde_json::Value = push.read().unwrap();
                    let answer = format!(
                        r#"{{"resultCode":200,"requestId":{}}}"#,
                        number["requestId"]
                    );
                    let event = Event::Streamed {
                        link,
                        stream,
                        at: UNIX_EPOCH,
                        payload: Payload::raw("ConnectResetResponse", answer),
                    };
                    if acknowledged {
                        desk.handle(due, event);
                    }
                }
            }
            let pushed: Vec<(&str, i32)> = pushed.iter().map(|(kind, n)| (&**kind, *n)).collect();
            let (listener, subscriber) = if acknowledged { (1, 1) } else { (3, 4) };
            assert_eq!(
                pushed,
                [
                    ("ConfigChangeNotifyRequest", listener),
                    ("NotifySubscriberRequest", subscriber)
                ]
            );
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Wake,
        Register(u8),
        Publish(u8, u64),
        Listen(u8),
        Look(bool),
        Nonsense,
        Leave(u64),
        Fault(Fault),
        Stop,
    }

    fn faults() -> impl Strategy<Value = Fault> {
        let lag = (0..3_u64).prop_map(|lag| s(lag * 7));
        prop_oneof![
            lag.clone().prop_map(Fault::Lag),
            (lag, any::<bool>()).prop_map(|(lag, busy)| Fault::ConfigLag { lag, busy }),
            Just(Fault::Amnesia),
            Just(Fault::Restart),
            (0..9_u64).prop_map(|time| Fault::Starting(s(time))),
            (0..9_u64).prop_map(|time| Fault::Mute(s(time))),
            (0..9_usize).prop_map(Fault::Clients),
            Just(Fault::Reset { to: None }),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..20_u64).prop_map(Step::Wait),
            1 => Just(Step::Wake),
            2 => (0..3_u8).prop_map(Step::Register),
            2 => (0..3_u8, 0..3_u64).prop_map(|(id, content)| Step::Publish(id, content)),
            4 => (0..3_u8).prop_map(Step::Listen),
            2 => any::<bool>().prop_map(Step::Look),
            1 => Just(Step::Nonsense),
            2 => (0..40_u64).prop_map(Step::Leave),
            1 => faults().prop_map(Step::Fault),
            1 => Just(Step::Stop),
        ];
        proptest::collection::vec(step, 0..40)
    }

    /// What happens to the connection that has a place, of which there are three.
    #[derive(Clone, Debug)]
    enum Happens {
        Wait(u64),
        Link(usize),
        SetUp(usize),
        Call(usize, &'static str, &'static str),
        Acknowledge(usize, u64),
        EndStream(usize),
        Unlink(usize),
        Fault(Fault),
        Stop,
    }

    fn happens() -> impl Strategy<Value = Vec<Happens>> {
        const REGISTER: &str = r#"{"namespace":"public","serviceName":"s","type":"registerInstance","instance":{"ip":"10.0.0.1","port":PLACE}}"#;
        const DEREGISTER: &str = r#"{"namespace":"public","serviceName":"s","type":"deregisterInstance","instance":{"ip":"10.0.0.1","port":PLACE}}"#;
        const SUBSCRIBE: &str = r#"{"namespace":"public","serviceName":"s","subscribe":true}"#;
        const LISTEN: &str =
            r#"{"listen":true,"configListenContexts":[{"dataId":"d","group":"g","md5":""}]}"#;
        const PUBLISH: &str = r#"{"dataId":"d","group":"g","content":"c"}"#;
        let place = 0..3_usize;
        let call = proptest::sample::select(vec![
            ("InstanceRequest", REGISTER),
            ("InstanceRequest", REGISTER),
            ("InstanceRequest", DEREGISTER),
            ("SubscribeServiceRequest", SUBSCRIBE),
            ("ConfigBatchListenRequest", LISTEN),
            ("ConfigPublishRequest", PUBLISH),
            ("ConfigRemoveRequest", PUBLISH),
            ("HealthCheckRequest", "{}"),
            ("HealthCheckRequest", "no JSON"),
            ("NoSuchRequest", "{}"),
        ]);
        let fault = faults().prop_filter("lists are looked at", |f| !matches!(f, Fault::Lag(_)));
        let step = prop_oneof![
            4 => (0..20_u64).prop_map(Happens::Wait),
            3 => place.clone().prop_map(Happens::Link),
            4 => place.clone().prop_map(Happens::SetUp),
            9 => (place.clone(), call).prop_map(|(place, (kind, body))| Happens::Call(place, kind, body)),
            2 => (place.clone(), 0..20_u64).prop_map(|(place, number)| Happens::Acknowledge(place, number)),
            1 => place.clone().prop_map(Happens::EndStream),
            1 => place.prop_map(Happens::Unlink),
            1 => fault.prop_map(Happens::Fault),
            1 => Just(Happens::Stop),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// A desk, and who is connected with it: a link and its streams, by place.
    struct Connected {
        desk: Desk,
        now: Moment,
        next: u64,
        links: BTreeMap<usize, (Link, Vec<Stream>)>,
        replies: Vec<Ticket>,
    }

    impl Connected {
        fn place(&self, link: Link) -> Option<usize> {
            let mut all = self.links.iter();
            all.find(|(_, (there, _))| *there == link)
                .map(|(place, _)| *place)
        }

        fn happens(&mut self, event: Event) {
            self.desk.handle(self.now, event);
            self.carry_out();
        }

        fn unlink(&mut self, place: usize) {
            if let Some((link, _)) = self.links.remove(&place) {
                self.happens(Event::Unlinked(link));
            }
        }

        /// Does what is wanted, and looks whether it may be.
        fn carry_out(&mut self) {
            while let Some(effect) = self.desk.effect() {
                match effect {
                    Effect::Reply(ticket, _) => self.replies.push(ticket),
                    Effect::Push(link, stream, _) => {
                        let place = self.place(link).expect("pushed to who is there");
                        assert!(self.links[&place].1.contains(&stream), "over his stream");
                    }
                    Effect::EndStream(link, stream) => {
                        let place = self.place(link).expect("ends a stream of who is there");
                        let streams = &mut self.links.get_mut(&place).unwrap().1;
                        let at = streams.iter().position(|there| *there == stream);
                        streams.remove(at.expect("once"));
                        self.happens(Event::StreamEnded { link, stream });
                    }
                    Effect::Cut(link) => {
                        let place = self.place(link).expect("cuts who is there");
                        self.unlink(place);
                    }
                    Effect::GoAway(_)
                    | Effect::Answer(..)
                    | Effect::Check(..)
                    | Effect::Datagram(..)
                    | Effect::Keep(_)
                    | Effect::Probe { .. } => {}
                }
            }
        }

        fn wait(&mut self, seconds: u64) {
            let until = self.now + s(seconds);
            while let Some(due) = self.desk.deadline().filter(|due| *due <= until) {
                self.now = self.now.max(due);
                self.desk.wake(self.now);
                self.carry_out();
                assert!(self.desk.deadline().is_none_or(|next| next > self.now));
            }
            self.now = until;
        }

        /// The places of those whose instances are listed.
        fn listed(&mut self) -> Vec<usize> {
            let list = plain("GET", "/v1/ns/instance/list?serviceName=s");
            let list = answer(&mut self.desk, self.now, list);
            let list: serde_json::Value = serde_json::from_str(&list).unwrap();
            let hosts = list["hosts"].as_array().unwrap().iter();
            hosts
                .map(|host| usize::try_from(host["port"].as_u64().unwrap()).unwrap() - 1)
                .collect()
        }
    }

    proptest! {
        #[test]
        fn each_call_is_replied_to_at_once_and_nothing_is_listed_or_told_of_who_is_gone(steps in happens()) {
            let mut it = Connected { desk: Desk::new(Like::V2_5), now: Moment::ZERO, next: 0, links: BTreeMap::new(), replies: Vec::new() };
            for step in steps {
                it.next += 1;
                let at = UNIX_EPOCH + it.now;
                match step {
                    Happens::Wait(seconds) => it.wait(seconds),
                    Happens::Link(place) => {
                        if !it.links.contains_key(&place) {
                            let link = Link(it.next);
                            it.links.insert(place, (link, Vec::new()));
                            it.happens(Event::Linked { link, peer: ([127, 0, 0, 1], 1).into(), at });
                        }
                    }
                    Happens::SetUp(place) => {
                        let stream = Stream(it.next);
                        if let Some((link, streams)) = it.links.get_mut(&place) {
                            streams.push(stream);
                            let payload = Payload::raw("ConnectionSetupRequest", r#"{"labels":{"module":"naming"},"abilityTable":{}}"#);
                            let event = Event::Streamed { link: *link, stream, at, payload };
                            it.happens(event);
                        }
                    }
                    Happens::Call(place, kind, body) => {
                        if let Some((link, _)) = it.links.get(&place) {
                            let ticket = Ticket(it.next);
                            let payload = Payload::raw(kind, body.replace("PLACE", &(place + 1).to_string()));
                            let event = Event::Called { link: *link, ticket, at, payload };
                            it.happens(event);
                            prop_assert_eq!(std::mem::take(&mut it.replies), [ticket]);
                        }
                    }
                    Happens::Acknowledge(place, number) => {
                        if let Some((link, streams)) = it.links.get(&place) && let Some(stream) = streams.last() {
                            let payload = Payload::raw("AnyResponse", format!(r#"{{"resultCode":200,"requestId":"{number}"}}"#));
                            let event = Event::Streamed { link: *link, stream: *stream, at, payload };
                            it.happens(event);
                        }
                    }
                    Happens::EndStream(place) => {
                        if let Some((link, streams)) = it.links.get_mut(&place) && let Some(stream) = streams.pop() {
                            let event = Event::StreamEnded { link: *link, stream };
                            it.happens(event);
                        }
                    }
                    Happens::Unlink(place) => it.unlink(place),
                    Happens::Fault(fault) => it.happens(Event::Faulted(fault)),
                    Happens::Stop => it.happens(Event::Stopping),
                }
                for place in it.listed() {
                    prop_assert!(it.links.contains_key(&place), "{place} is gone");
                }
                prop_assert!(it.replies.is_empty(), "nobody is replied to twice");
            }
            // Left alone, everybody is silent and goes.
            it.wait(1_000);
            prop_assert!(it.links.is_empty() && it.listed().is_empty());
            prop_assert_eq!(it.desk.deadline(), None);
            prop_assert_eq!(it.desk.state.subscribers.count() + it.desk.state.listeners.count(), 0);
        }

        #[test]
        fn each_ticket_is_answered_once_unless_it_left_and_deadlines_move_on(steps in steps()) {
            let (mut desk, mut now, mut next) = (Desk::new(Like::V2_5), Moment::ZERO, 0);
            let (mut open, mut stopped) = (BTreeSet::new(), false);
            for step in steps.into_iter().chain([Step::Wait(1_000)]) {
                let request = match step {
                    Step::Wait(seconds) => {
                        let until = now + s(seconds);
                        while let Some(due) = desk.deadline().filter(|due| *due <= until) {
                            now = now.max(due);
                            desk.wake(now);
                            prop_assert!(desk.deadline().is_none_or(|next| next > now), "moves on");
                            for (ticket, _) in answers(&mut desk) {
                                prop_assert!(open.remove(&ticket), "{ticket} is answered twice or has left");
                            }
                        }
                        now = until;
                        continue;
                    }
                    Step::Wake => {
                        let due = desk.deadline();
                        desk.wake(now);
                        prop_assert_eq!(desk.deadline(), due, "waking early changes nothing");
                        continue;
                    }
                    Step::Leave(ticket) => {
                        // Before whoever carries answers has fetched the last ones.
                        desk.handle(now, Event::Left(Ticket(ticket)));
                        open.remove(&ticket);
                        continue;
                    }
                    Step::Fault(fault) => {
                        desk.handle(now, Event::Faulted(fault));
                        for (ticket, _) in answers(&mut desk) {
                            prop_assert!(open.remove(&ticket));
                        }
                        continue;
                    }
                    Step::Stop => {
                        stopped = true;
                        desk.handle(now, Event::Stopping);
                        for (ticket, _) in answers(&mut desk) {
                            prop_assert!(open.remove(&ticket));
                        }
                        prop_assert!(open.is_empty(), "nobody is held by a registry that stops");
                        continue;
                    }
                    Step::Register(host) => plain("POST", &format!("/v1/ns/instance?serviceName=s&ip=10.0.0.{host}&port=1")),
                    Step::Publish(id, content) => publish(id, content),
                    Step::Listen(id) => listen(id),
                    Step::Look(news) => {
                        let seen = desk.state.pages.number() + u64::from(news);
                        plain("GET", &format!("/outrigger/page?seen={seen}"))
                    }
                    Step::Nonsense => plain("GET", "/nothing/here"),
                };
                open.insert(next);
                desk.handle(now, asked(next, request));
                next += 1;
                // The answer of one in four is fetched with the next ones, as by a carrier who is late.
                if next % 4 != 0 || stopped {
                    for (ticket, _) in answers(&mut desk) {
                        prop_assert!(open.remove(&ticket), "{ticket} is answered twice or has left");
                    }
                }
            }
            for (ticket, _) in answers(&mut desk) {
                prop_assert!(open.remove(&ticket), "{ticket} is answered twice or has left");
            }
            prop_assert!(open.is_empty(), "never answered: {open:?}");
            prop_assert!(desk.listeners.is_empty() && desk.onlookers.is_empty());
        }
    }
}
