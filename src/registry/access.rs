//! Who asks, and whether he may: what each call needs, what it shows of its caller, and how a no is said by each generation.
//!
//! A call shows a token, or a name and a password. A token is looked at here and at once. A password takes long to look at, so
//! its call is put aside, one is looked at after the other, somewhere else, and the call goes on when it is known to be right.
//! What is not listed as open, as naming's or as configuration's is the administrators'. A call may be made where all namespaces
//! that it names may be.

use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::rpc;
use crate::nacos::rpc::Outcome;
use crate::nacos::rpc::Payload;
use crate::nacos::rpc::Reply;
use crate::registry::call::Call;
use crate::registry::config_calls;
use crate::registry::gone;
use crate::registry::guesses;
use crate::registry::guesses::Guesses;
use crate::registry::guesses::Who;
use crate::registry::like::Like;
use crate::registry::links::Link;
use crate::registry::model::Ticket;
use crate::registry::page_calls;
use crate::registry::refusal::Denial;
use crate::registry::refusal::Refusal;
use crate::registry::token::Key;
use crate::registry::users::Action;
use crate::registry::users::Check;
use crate::registry::users::PASSWORD;
use crate::registry::users::Users;
use crate::secret::Secret;
use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Passwords that wait to be looked at, at most.
const CHECKS: usize = 32;
/// Bytes of the calls that wait for that, at most.
const BYTES: usize = 64 * 1024 * 1024;

/// What a call needs of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// That he may do this in all of these namespaces; where there is none, that he is somebody.
    Rights(Action, Vec<String>),
    /// That he may do everything.
    Administrator,
}

/// The paths of logins, whether a generation has them or not: a client that asks for one that is not there must be told so.
const LOGINS: &[&str] = &[
    "/v1/auth/login",
    "/v1/auth/users/login",
    "/v3/auth/user/login",
];

/// What else anybody may read, as on the originals: whether the server is there, and which it is.
const OPEN: &[&str] = &[
    "/v1/console/server/state",
    "/v1/console/health/liveness",
    "/v1/console/health/readiness",
    "/v1/console/namespaces",
    "/v1/ns/operator/metrics",
    "/v1/cs/health",
    "/v3/admin/core/state",
    "/v3/admin/core/state/liveness",
    "/v3/admin/core/state/readiness",
];

/// Whether a call is a login that this generation has.
pub(crate) fn is_login(like: Like, call: &Call) -> bool {
    let route = call.route.as_str();
    call.method == "POST"
        && LOGINS.contains(&route)
        && (like == Like::V3_0 || !route.starts_with("/v3/"))
}

/// What a call over HTTP needs.
pub(crate) fn need(like: Like, call: &Call) -> Need {
    let route = call.route.as_str();
    let reads = matches!(call.method.as_str(), "GET" | "HEAD");
    // The page itself is for whoever comes, to log in; what it shows is not.
    match page_calls::sees(call) {
        Some(page_calls::Sees::Namespace(namespace)) => {
            return Need::Rights(Action::Read, vec![namespace.to_owned()]);
        }
        Some(page_calls::Sees::Everybody) => return Need::Administrator,
        None => {}
    }
    if route.is_empty()
        || LOGINS.contains(&route)
        || reads && OPEN.contains(&route)
        || gone::gone(like, &call.method, route).is_some()
    {
        return Need::Nothing;
    }
    let action = if reads { Action::Read } else { Action::Write };
    let said = |name| call.params.get(name).unwrap_or_default().to_owned();
    let under = |paths: &[&str]| {
        paths.iter().any(|path| {
            route
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    if route == "/v1/cs/configs/listener" && call.method == "POST" {
        // What cannot be read is refused by the call itself, which reads it in the same way.
        let asked = config_calls::asked(like, &call.params).unwrap_or_default();
        return Need::Rights(
            Action::Read,
            asked.into_iter().map(|it| it.tenant).collect(),
        );
    }
    // An id says nothing of its namespace.
    if under(&["/v1/cs/configs"]) && call.params.raw("delType").is_some() {
        return Need::Administrator;
    }
    if under(&[
        "/v1/cs/configs",
        "/v1/cs/history",
        "/v2/cs/config/searchDetail",
    ]) {
        return Need::Rights(action, vec![said("tenant")]);
    }
    if under(&[
        "/v1/ns/instance",
        "/v1/ns/service",
        "/v1/ns/cluster",
        "/v1/ns/health",
        "/v1/ns/catalog",
        "/v2/cs/config",
        "/v2/cs/history",
        "/v3/client/ns",
        "/v3/client/cs",
    ]) {
        return Need::Rights(action, vec![said("namespaceId")]);
    }
    Need::Administrator
}

/// A request over gRPC: what it needs, and how it is told that it may not.
pub(crate) struct Class {
    pub(crate) need: Need,
    denied: fn(Outcome) -> Payload,
}

impl Class {
    /// The answer to who may not.
    pub(crate) fn no(&self, denial: Denial, like: Like) -> Payload {
        (self.denied)(Outcome::failed(403, denial.words(like)))
    }

    /// The answer to what was refused before anybody looked who it is.
    pub(crate) fn refused(&self, refusal: &Refusal) -> Payload {
        let (status, words) = refusal.over_grpc();
        (self.denied)(Outcome::failed(status, words))
    }
}

/// As much of a request as says which namespaces it is about.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    config_listen_contexts: Option<Vec<Context>>,
}

#[derive(serde::Deserialize)]
struct Context {
    #[serde(default)]
    tenant: Option<String>,
}

fn denied<A: Reply>(outcome: Outcome) -> Payload {
    Payload::new(&A::of(outcome))
}

/// What a request over gRPC needs; `None` when its body cannot be read. What is not listed is the administrators'.
pub(crate) fn class(payload: &Payload) -> Option<Class> {
    enum Says {
        Namespace,
        Tenant,
        Contexts,
    }
    use Action::{Read, Write};
    let (action, says, denied): (_, _, fn(Outcome) -> Payload) = match payload.kind() {
        "HealthCheckRequest" => {
            return Some(Class {
                need: Need::Nothing,
                denied: denied::<rpc::HealthCheckResponse>,
            });
        }
        "InstanceRequest" | "PersistentInstanceRequest" => {
            (Write, Says::Namespace, denied::<rpc::InstanceResponse>)
        }
        "BatchInstanceRequest" => (Write, Says::Namespace, denied::<rpc::BatchInstanceResponse>),
        "ServiceQueryRequest" => (Read, Says::Namespace, denied::<rpc::QueryServiceResponse>),
        "ServiceListRequest" => (Read, Says::Namespace, denied::<rpc::ServiceListResponse>),
        "SubscribeServiceRequest" => (
            Read,
            Says::Namespace,
            denied::<rpc::SubscribeServiceResponse>,
        ),
        "ConfigQueryRequest" => (Read, Says::Tenant, denied::<rpc::ConfigQueryResponse>),
        "ConfigPublishRequest" => (Write, Says::Tenant, denied::<rpc::ConfigPublishResponse>),
        "ConfigRemoveRequest" => (Write, Says::Tenant, denied::<rpc::ConfigRemoveResponse>),
        "ConfigBatchListenRequest" => (
            Read,
            Says::Contexts,
            denied::<rpc::ConfigChangeBatchListenResponse>,
        ),
        _ => {
            return Some(Class {
                need: Need::Administrator,
                denied: denied::<rpc::ErrorResponse>,
            });
        }
    };
    let named: Named = serde_json::from_slice(payload.body()).ok()?;
    let namespaces = match says {
        Says::Namespace => vec![named.namespace.unwrap_or_default()],
        Says::Tenant => vec![named.tenant.unwrap_or_default()],
        Says::Contexts => {
            let contexts = named.config_listen_contexts.unwrap_or_default();
            contexts
                .into_iter()
                .map(|it| it.tenant.unwrap_or_default())
                .collect()
        }
    };
    Some(Class {
        need: Need::Rights(action, namespaces),
        denied,
    })
}

/// What a call shows of its caller.
enum Shown {
    Nothing,
    Token(String),
    Password(String, Secret),
}

impl Shown {
    /// The token that `Authorization` has, else the other one; else name and password.
    fn of(authorization: Option<&str>, said: impl Fn(&str) -> Option<String>) -> Self {
        let said = |name: &str| said(name).filter(|value| !value.trim().is_empty());
        let bearer = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let bearer = bearer.map(str::trim).filter(|token| !token.is_empty());
        if let Some(token) = bearer.map(str::to_owned).or_else(|| said("accessToken")) {
            return Self::Token(token);
        }
        match (said("username"), said("password")) {
            (Some(user), Some(password)) => Self::Password(user, Secret::new(password)),
            _ => Self::Nothing,
        }
    }

    /// Over HTTP: 1.4 reads only `Authorization` of the headers, the others what is no parameter.
    fn by(like: Like, call: &Call) -> Self {
        Self::of(call.header("Authorization"), |name| {
            let header = || call.header(name).filter(|_| like != Like::V1_4);
            let said = call.params.untrimmed(name).or_else(header);
            said.map(str::to_owned)
        })
    }

    fn by_payload(payload: &Payload) -> Self {
        let said = |name: &str| {
            let headers = &payload.metadata.as_ref()?.headers;
            headers.get(name).cloned()
        };
        Self::of(said("Authorization").as_deref(), said)
    }
}

/// What is put aside until a password is known to be right.
#[derive(Clone, Debug)]
pub(crate) enum Aside {
    /// A login.
    Login(Call),
    /// A call over HTTP.
    Call(Call),
    /// A request over gRPC.
    Payload(Link, Payload),
}

impl Aside {
    fn bytes(&self) -> usize {
        match self {
            Self::Login(call) | Self::Call(call) => call.params.bytes(),
            Self::Payload(_, payload) => payload.body().len(),
        }
    }
}

/// What is to be done with a call.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It goes on.
    Passes,
    /// It is refused.
    Denied(Denial),
    /// It goes on when this user's password is right.
    Waits(String, Secret),
}

/// A call that waits.
#[derive(Clone, Debug)]
struct Waiting {
    /// `None` when nobody waits for its answer any more.
    aside: Option<Aside>,
    user: String,
    who: Who,
    asked: Moment,
    check: Option<Check>,
}

/// A call that waited, and may now be answered.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) ticket: Ticket,
    pub(crate) aside: Aside,
    /// Whose password was right; `None` when it was not.
    pub(crate) user: Option<String>,
}

/// Where people are let in.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    users: Users,
    /// For when the users' file says none.
    key: Key,
    guesses: Guesses,
    waiting: BTreeMap<Ticket, Waiting>,
    bytes: usize,
    /// Of those, whose password is to be looked at, and whose is.
    queue: VecDeque<Ticket>,
    looked_at: Option<Ticket>,
    ready: VecDeque<Ready>,
    /// Where gRPC connections come from.
    peers: BTreeMap<Link, IpAddr>,
}

impl Access {
    /// For these users; tokens are signed with `key` unless they say another.
    pub(crate) fn new(users: Users, key: Key) -> Self {
        Self {
            users,
            key,
            guesses: Guesses::default(),
            waiting: BTreeMap::new(),
            bytes: 0,
            queue: VecDeque::new(),
            looked_at: None,
            ready: VecDeque::new(),
            peers: BTreeMap::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.queue.is_empty()
            && self.bytes == 0
            && self.looked_at.is_none()
            && self.deadline().is_none()
    }

    /// From now on there are these users. Tokens stay, unless they are signed with another key.
    pub(crate) fn replace(&mut self, users: Users) {
        self.users = users;
    }

    /// A gRPC connection came from there.
    pub(crate) fn linked(&mut self, link: Link, from: IpAddr) {
        self.peers.insert(link, from);
    }

    /// It is gone.
    pub(crate) fn unlinked(&mut self, link: Link) {
        self.peers.remove(&link);
    }

    fn key(&self) -> &Key {
        self.users.key().unwrap_or(&self.key)
    }

    fn may(&self, user: &str, need: &Need) -> bool {
        match need {
            Need::Nothing => true,
            Need::Rights(action, namespaces) => {
                (namespaces.iter()).all(|it| self.users.may(user, it, *action))
            }
            Need::Administrator => self.users.is_administrator(user),
        }
    }

    fn judge(&self, need: &Need, shown: Shown, at: SystemTime) -> Verdict {
        match shown {
            Shown::Nothing => Verdict::Denied(Denial::Nobody),
            Shown::Token(token) => match self.key().read_token(&token, since_1970(at)) {
                Ok(user) if self.may(&user, need) => Verdict::Passes,
                Ok(_) => Verdict::Denied(Denial::Forbidden),
                Err(bad) => Verdict::Denied(Denial::Token(bad)),
            },
            Shown::Password(user, password) => Verdict::Waits(user, password),
        }
    }

    /// Whether a call over HTTP goes on.
    pub(crate) fn judge_call(&self, like: Like, call: &Call, at: SystemTime) -> Verdict {
        let need = need(like, call);
        let identity = self.users.identity().and_then(|name| call.header(name));
        if need == Need::Nothing || identity.is_some_and(|value| self.users.is_identity(value)) {
            return Verdict::Passes;
        }
        self.judge(&need, Shown::by(like, call), at)
    }

    /// Whether a request over gRPC goes on.
    pub(crate) fn judge_payload(&self, need: &Need, payload: &Payload, at: SystemTime) -> Verdict {
        if *need == Need::Nothing {
            return Verdict::Passes;
        }
        self.judge(need, Shown::by_payload(payload), at)
    }

    /// Lets in whose token is an administrator's.
    ///
    /// # Errors
    /// Why not; a password is not looked at here.
    pub(crate) fn admit(&self, like: Like, call: &Call, at: SystemTime) -> Result<(), Denial> {
        match self.judge(&Need::Administrator, Shown::by(like, call), at) {
            Verdict::Passes => Ok(()),
            Verdict::Denied(denial) => Err(denial),
            Verdict::Waits(..) => Err(Denial::Nobody),
        }
    }

    /// Whether a user whose password was right may make a call.
    pub(crate) fn may_call(&self, user: &str, like: Like, call: &Call) -> bool {
        self.may(user, &need(like, call))
    }

    /// The same over gRPC.
    pub(crate) fn may_ask(&self, user: &str, need: &Need) -> bool {
        self.may(user, need)
    }

    /// Takes a login in hand.
    ///
    /// # Errors
    /// When it lacks something, or a bound is reached.
    pub(crate) fn login(&mut self, now: Moment, ticket: Ticket, call: Call) -> Result<(), Refusal> {
        let user = call.params.parameter("username")?.to_owned();
        let password = call.params.parameter("password")?.to_owned();
        self.wait(now, ticket, user, Secret::new(password), Aside::Login(call))
    }

    /// Puts a call aside until its password is known to be right.
    ///
    /// # Errors
    /// When a bound is reached.
    pub(crate) fn wait(
        &mut self,
        now: Moment,
        ticket: Ticket,
        user: String,
        password: Secret,
        aside: Aside,
    ) -> Result<(), Refusal> {
        let from = match &aside {
            Aside::Login(call) | Aside::Call(call) => call.from,
            Aside::Payload(link, _) => self.peers.get(link).copied(),
        };
        let who = Who::new(&user, from.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        if let Some((what, most)) = self.guesses.bound(&who) {
            return Err(Refusal::Full(what, most));
        }
        if self.queue.len() >= CHECKS {
            return Err(Refusal::Full("logins that wait", CHECKS));
        }
        if self.bytes + aside.bytes() > BYTES {
            return Err(Refusal::Full(
                "bytes of calls that wait for a password",
                BYTES,
            ));
        }
        // No password is longer, and this one is not looked at for longer than another.
        let said = if password.expose().len() > PASSWORD {
            Secret::new(String::new())
        } else {
            password
        };
        let check = Some(Check::new(self.users.clone(), user.clone(), said));
        self.bytes += aside.bytes();
        let waiting = Waiting {
            aside: Some(aside),
            user,
            who,
            asked: now,
            check,
        };
        self.waiting.insert(ticket, waiting);
        self.queue.push_back(ticket);
        Ok(())
    }

    /// The next password to look at: one at a time.
    pub(crate) fn next_check(&mut self) -> Option<(Ticket, Check)> {
        if self.looked_at.is_some() {
            return None;
        }
        let ticket = self.queue.pop_front()?;
        // Nobody leaves the queue on another way, and nobody comes twice.
        let check = self.waiting.get_mut(&ticket)?.check.take()?;
        self.looked_at = Some(ticket);
        Some((ticket, check))
    }

    /// A password has been looked at.
    pub(crate) fn checked(&mut self, now: Moment, ticket: Ticket, right: bool) {
        self.looked_at = self.looked_at.filter(|it| *it != ticket);
        let Some(waiting) = self.waiting.get(&ticket) else {
            return;
        };
        if right {
            self.release(ticket, true);
        } else {
            let (who, asked) = (waiting.who.clone(), waiting.asked);
            self.guesses
                .handle(now, guesses::Event::Failed { ticket, who, asked });
            self.wake(now);
        }
    }

    /// Nobody waits for the answer to a call any more; that its password was wrong counts all the same.
    pub(crate) fn left(&mut self, ticket: Ticket) {
        if let Some(aside) = self.waiting.get_mut(&ticket).and_then(|it| it.aside.take()) {
            self.bytes -= aside.bytes();
        }
        self.ready.retain(|ready| ready.ticket != ticket);
    }

    /// Nobody is kept waiting from now on.
    pub(crate) fn stop(&mut self, now: Moment) {
        self.guesses.handle(now, guesses::Event::Stopping);
        self.wake(now);
    }

    fn release(&mut self, ticket: Ticket, right: bool) {
        let Some(Waiting {
            aside: Some(aside),
            user,
            ..
        }) = self.waiting.remove(&ticket)
        else {
            return;
        };
        self.bytes -= aside.bytes();
        let user = right.then_some(user);
        self.ready.push_back(Ready {
            ticket,
            aside,
            user,
        });
    }

    /// Lets happen what is due.
    pub(crate) fn wake(&mut self, now: Moment) {
        self.guesses.wake(now);
        while let Some(guesses::Tell(ticket)) = self.guesses.effect() {
            self.release(ticket, false);
        }
    }

    /// When something is due.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.guesses.deadline()
    }

    /// The next call that has waited long enough.
    pub(crate) fn ready(&mut self) -> Option<Ready> {
        self.ready.pop_front()
    }

    /// A new token of `user`: what a login is answered with.
    pub(crate) fn token(&self, user: &str, at: SystemTime) -> Option<Token> {
        let ttl = self.users.token_ttl();
        let text = self.key().sign(user, since_1970(at).saturating_add(ttl))?;
        Some(Token {
            text,
            ttl,
            administrator: self.users.is_administrator(user),
        })
    }
}

/// A token that was just made.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) ttl: Duration,
    pub(crate) administrator: bool,
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::call::Answer;
    use crate::registry::call::Request;
    use crate::registry::desk::Desk;
    use crate::registry::desk::Effect;
    use crate::registry::desk::Event;
    use crate::registry::links::Stream;
    use crate::registry::users::Action::{Read, Write};
    use std::path::Path;

    const USERS: &str = "\
root:pw admin
app:pw public:rw dev:r
reader:pw *:r
@identity Inner-Key canary
@token-ttl 60s
";

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn users(text: &str) -> Users {
        Users::parse(Path::new("users"), text).unwrap()
    }

    fn key() -> Key {
        Key::read("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").unwrap()
    }

    /// A desk that asks, and what looks at passwords when it is told to.
    struct Asked {
        desk: Desk,
        now: Moment,
        next: u64,
        checks: VecDeque<(Ticket, Check)>,
        answers: BTreeMap<Ticket, Answer>,
        replies: BTreeMap<Ticket, Payload>,
    }

    impl Asked {
        fn start(like: Like) -> Self {
            let desk = Desk::new(like).asking(users(USERS), key());
            Self {
                desk,
                now: ms(0),
                next: 0,
                checks: VecDeque::new(),
                answers: BTreeMap::new(),
                replies: BTreeMap::new(),
            }
        }

        fn happens(&mut self, event: Event) {
            self.desk.handle(self.now, event);
            self.gather();
        }

        fn gather(&mut self) {
            while let Some(effect) = self.desk.effect() {
                match effect {
                    Effect::Answer(ticket, answer) => {
                        assert!(self.answers.insert(ticket, answer).is_none(), "twice")
                    }
                    Effect::Reply(ticket, payload) => {
                        assert!(self.replies.insert(ticket, payload).is_none(), "twice")
                    }
                    Effect::Check(ticket, check) => {
                        self.checks.push_back((ticket, check));
                        assert_eq!(self.checks.len(), 1, "one at a time");
                    }
                    _ => {}
                }
            }
        }

        fn ask(&mut self, request: Request) -> Ticket {
            self.next += 1;
            let ticket = Ticket(self.next);
            let at = UNIX_EPOCH + self.now;
            self.happens(Event::Asked {
                ticket,
                at,
                request,
            });
            ticket
        }

        /// Looks at the password that is to be looked at.
        fn look(&mut self) -> bool {
            let Some((ticket, check)) = self.checks.pop_front() else {
                return false;
            };
            self.happens(Event::Checked {
                ticket,
                right: check.is_right(),
            });
            true
        }

        fn wait(&mut self, time: Duration) {
            let until = self.now + time;
            while let Some(due) = self.desk.deadline().filter(|due| *due <= until) {
                self.now = due;
                self.desk.wake(due);
                self.gather();
            }
            self.now = until;
        }

        /// The answer, however late.
        fn answer(&mut self, request: Request) -> (u16, String) {
            let ticket = self.ask(request);
            while self.look() {}
            if !self.answers.contains_key(&ticket) {
                self.wait(ms(10_000));
            }
            let answer = self.answers.remove(&ticket).expect("an answer");
            (
                answer.status(),
                String::from_utf8_lossy(answer.body()).into_owned(),
            )
        }

        fn token(&mut self, user: &str) -> String {
            let path = if self.desk_like() == Like::V3_0 {
                "/v3/auth/user/login"
            } else {
                "/v1/auth/login"
            };
            let (status, body) = self.answer(plain(
                "POST",
                &format!("{path}?username={user}&password=pw"),
            ));
            assert_eq!(status, 200, "{body}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            body["accessToken"].as_str().unwrap().to_owned()
        }

        fn desk_like(&self) -> Like {
            self.desk.like()
        }

        fn link(&mut self) -> Link {
            self.next += 1;
            let (link, stream, at) = (Link(self.next), Stream(self.next), UNIX_EPOCH);
            self.happens(Event::Linked {
                link,
                peer: ([10, 0, 0, 1], 1).into(),
                at,
            });
            let payload = Payload::raw(
                "ConnectionSetupRequest",
                r#"{"labels":{"module":"naming"}}"#,
            );
            self.happens(Event::Streamed {
                link,
                stream,
                at,
                payload,
            });
            link
        }

        fn call(
            &mut self,
            link: Link,
            kind: &str,
            body: &str,
            headers: &[(&str, &str)],
        ) -> serde_json::Value {
            self.next += 1;
            let ticket = Ticket(self.next);
            let mut payload = Payload::raw(kind, body.to_owned());
            let all = &mut payload.metadata.as_mut().unwrap().headers;
            all.extend(
                headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            );
            let at = UNIX_EPOCH + self.now;
            self.happens(Event::Called {
                link,
                ticket,
                at,
                payload,
            });
            while self.look() {}
            if !self.replies.contains_key(&ticket) {
                self.wait(ms(10_000));
            }
            let reply = self.replies.remove(&ticket).expect("a reply");
            let mut value: serde_json::Value = serde_json::from_slice(reply.body()).unwrap();
            value["class"] = reply.kind().into();
            value
        }
    }

    fn plain(method: &str, target: &str) -> Request {
        Request::new(method, target, [("", ""); 0], "")
    }

    fn with(method: &str, target: &str, headers: &[(&str, &str)]) -> Request {
        Request::new(method, target, headers.to_vec(), "")
    }

    fn page(status: u16, message: &str) -> impl Fn(&(u16, String)) -> bool {
        let message = format!(r#""message":"{message}","#);
        move |(said, body)| *said == status && body.contains(&message)
    }

    const LIST: &str = "/v1/ns/instance/list?serviceName=s";

    #[test]
    fn each_call_needs_what_it_does_and_what_is_not_listed_is_the_administrators() {
        let public = |action| Need::Rights(action, vec![String::new()]);
        let dev = |action| Need::Rights(action, vec!["dev".to_owned()]);
        for (method, target, needs) in [
            (
                "GET",
                "/nacos/v1/ns/instance/list?namespaceId=dev",
                dev(Read),
            ),
            (
                "POST",
                "/v1/ns/instance?namespaceId=dev&namespaceId=public",
                dev(Write),
            ),
            ("PUT", "/v1/ns/instance/beat", public(Write)),
            ("GET", "/v1/ns/service/list", public(Read)),
            ("PUT", "/v1/ns/health/instance?namespaceId=dev", dev(Write)),
            ("PUT", "/v1/ns/cluster?tenant=dev", public(Write)),
            (
                "GET",
                "/v1/cs/configs?tenant=dev&namespaceId=public",
                dev(Read),
            ),
            ("HEAD", "/v1/cs/configs", public(Read)),
            ("DELETE", "/v1/cs/configs?tenant=dev", dev(Write)),
            (
                "DELETE",
                "/v1/cs/configs?delType=ids&ids=1&tenant=dev",
                Need::Administrator,
            ),
            ("GET", "/v1/cs/history?nid=1&tenant=dev", dev(Read)),
            ("POST", "/v2/cs/config?namespaceId=dev", dev(Write)),
            ("GET", "/v2/cs/history/list?namespaceId=dev", dev(Read)),
            (
                "GET",
                "/v2/cs/config/searchDetail?tenant=dev&namespaceId=x",
                dev(Read),
            ),
            ("GET", "/v1/cs/listener?ip=10.0.0.1", Need::Administrator),
            ("GET", "/v1/ns/operator/metrics", Need::Nothing),
            ("PUT", "/v1/ns/operator/metrics", Need::Administrator),
            ("PUT", "/v1/ns/operator/switches", Need::Administrator),
            ("GET", "/v1/ns/operator/switches", Need::Administrator),
            ("GET", "/v1/console/server/state", Need::Nothing),
            ("POST", "/v1/console/namespaces", Need::Administrator),
            ("GET", "/v1/auth/users", Need::Administrator),
            ("GET", "/v1/ns/instancery", Need::Administrator),
            ("GET", "/v3/admin/ns/service", Need::Administrator),
            ("POST", "/v3/auth/user/login", Need::Nothing),
            ("GET", "/v1/ns/../auth/login", Need::Administrator),
            ("GET", "/anything/else", Need::Nothing),
        ] {
            let call = Call::read(plain(method, target), Like::V2_5);
            assert_eq!(need(Like::V2_5, &call), needs, "{method} {target}");
        }
        let call = Call::read(
            plain("GET", "/v3/client/cs/config?namespaceId=dev&tenant=public"),
            Like::V3_0,
        );
        assert_eq!(need(Like::V3_0, &call), dev(Read));
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let listen = Request::new(
            "POST",
            "/v1/cs/configs/listener",
            form,
            "Listening-Configs=a%02g%02%01b%02g%02%02dev%01",
        );
        let both = Need::Rights(Read, vec![String::new(), "dev".to_owned()]);
        assert_eq!(need(Like::V2_5, &Call::read(listen, Like::V2_5)), both);
    }

    #[test]
    fn who_shows_nothing_or_what_opens_nothing_is_told_so_in_the_words_of_each_generation() {
        let old = Key::read("eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=").unwrap();
        let forged = old.sign("root", Duration::from_secs(1_000)).unwrap();
        for (like, nobody, malformed, signature, expired, forbidden) in [
            (
                Like::V1_4,
                "unknown user!",
                "token invalid!",
                "token invalid!",
                "token expired!",
                "authorization failed!",
            ),
            (
                Like::V2_5,
                "user not found!",
                "token invalid!",
                "Invalid signature",
                "token expired!",
                "authorization failed!",
            ),
            (
                Like::V3_0,
                "Code: 401, Message: User not found! Please check user exist or password is right!.",
                "Code: 401, Message: token invalid!.",
                "Code: 401, Message: Invalid signature.",
                "Code: 401, Message: token expired!.",
                "Code: 403, Message: authorization failed!.",
            ),
        ] {
            let mut it = Asked::start(like);
            let token = it.token("reader");
            let said = |it: &mut Asked, method: &str, token: &str| {
                it.answer(plain(
                    method,
                    &format!("/v1/ns/instance/list?serviceName=s&accessToken={token}"),
                ))
            };
            assert_eq!(said(&mut it, "GET", &token).0, 200);
            let write = it.answer(plain(
                "POST",
                &format!("/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1&accessToken={token}"),
            ));
            let none = it.answer(plain("GET", LIST));
            let garbage = said(&mut it, "GET", "garbage");
            let forged = said(&mut it, "GET", &forged);
            let wrong = it.answer(plain("GET", &format!("{LIST}&username=reader&password=no")));
            it.wait(ms(60_000));
            let late = said(&mut it, "GET", &token);
            assert!(page(403, forbidden)(&write), "{write:?}");
            assert!(
                page(403, nobody)(&none) && page(403, nobody)(&wrong),
                "{none:?} {wrong:?}"
            );
            assert!(page(403, malformed)(&garbage), "{garbage:?}");
            assert!(page(403, signature)(&forged), "{forged:?}");
            assert!(page(403, expired)(&late), "{late:?}");
        }
    }

    #[test]
    fn a_token_is_shown_in_three_ways_of_which_authorization_wins_and_the_query_comes_first() {
        for like in [Like::V1_4, Like::V2_5, Like::V3_0] {
            let mut it = Asked::start(like);
            let token = it.token("reader");
            let bearer = format!("Bearer {token}");
            let param = format!("{LIST}&accessToken={token}");
            let status = |it: &mut Asked, target: &str, headers: &[(&str, &str)]| {
                it.answer(with("GET", target, headers)).0
            };
            assert_eq!(status(&mut it, &param, &[]), 200);
            assert_eq!(status(&mut it, LIST, &[("authorization", &bearer)]), 200);
            let header = if like == Like::V1_4 { 403 } else { 200 };
            assert_eq!(status(&mut it, LIST, &[("accessToken", &token)]), header);
            // They disagree.
            assert_eq!(
                status(&mut it, &param, &[("Authorization", "Bearer garbage")]),
                403
            );
            assert_eq!(
                status(&mut it, &param, &[("Authorization", "Basic garbage")]),
                200
            );
            assert_eq!(status(&mut it, &param, &[("accessToken", "garbage")]), 200);
            // One is said twice.
            assert_eq!(
                status(
                    &mut it,
                    &format!("{LIST}&accessToken=garbage&accessToken={token}"),
                    &[]
                ),
                403
            );
            let form = [("Content-Type", "application/x-www-form-urlencoded")];
            let twice = Request::new(
                "PUT",
                "/v1/ns/instance/beat?serviceName=s&accessToken=garbage",
                form,
                format!("accessToken={token}"),
            );
            assert_eq!(it.answer(twice).0, 403);
            // As long as a head may be.
            let long = "x".repeat(60_000);
            assert_eq!(
                status(
                    &mut it,
                    LIST,
                    &[("Authorization", &format!("Bearer {long}"))]
                ),
                403
            );
            assert_eq!(status(&mut it, LIST, &[("Inner-Key", "canary")]), 200);
            assert_eq!(status(&mut it, LIST, &[("Inner-Key", "canar")]), 403);
            assert_eq!(
                status(&mut it, LIST, &[("User-Agent", "Nacos-Server:v2.5.1")]),
                403
            );
        }
    }

    #[test]
    fn a_right_password_is_told_at_once_and_a_wrong_one_late_whoever_is_meant() {
        let mut it = Asked::start(Like::V2_5);
        let right = it.ask(plain("POST", "/v1/auth/login?username=app&password=pw"));
        assert!(it.answers.is_empty(), "before it was looked at");
        it.look();
        let answer = it.answers.remove(&right).unwrap();
        let token = answer
            .header("Authorization")
            .unwrap()
            .strip_prefix("Bearer ")
            .unwrap()
            .to_owned();
        let body = format!(
            r#"{{"accessToken":"{token}","tokenTtl":60,"globalAdmin":false,"username":"app"}}"#
        );
        assert_eq!(answer.body().as_ref(), body.as_bytes());
        let wrong = it.ask(plain("POST", "/v1/auth/login?username=app&password=no"));
        let nobody = it.ask(plain("POST", "/v1/auth/login?username=nobody&password=no"));
        assert!(it.look() && it.look() && !it.look());
        it.wait(ms(499));
        assert!(it.answers.is_empty());
        it.wait(ms(1));
        let (wrong, nobody) = (
            it.answers.remove(&wrong).unwrap(),
            it.answers.remove(&nobody).unwrap(),
        );
        assert_eq!(wrong, nobody);
        assert_eq!(
            (wrong.status(), wrong.body().as_ref()),
            (403, b"user not found!".as_slice())
        );
    }

    #[test]
    fn thousands_of_guesses_come_to_a_bound_that_is_told_and_who_is_right_elsewhere_comes_in() {
        let mut it = Asked::start(Like::V2_5);
        let guess = |i: u32| {
            plain(
                "POST",
                &format!("/v1/auth/login?username=root&password={i}"),
            )
            .from([10, 0, 0, 9].into())
        };
        for i in 0..3_000 {
            let ticket = it.ask(guess(i));
            // Who hangs up does not guess faster.
            it.happens(Event::Left(ticket));
            if i % 7 == 0 {
                it.look();
            }
            it.wait(ms(1));
        }
        let told = it.answers.values();
        assert!(
            told.map(Answer::status).all(|status| status == 503),
            "who has left is told nothing"
        );
        it.answers.clear();
        while it.look() {}
        it.wait(ms(60_000));
        assert!(it.desk.is_idle(), "nothing is left of them");
        let all: Vec<Ticket> = (0..3_000).map(|i| it.ask(guess(i))).collect();
        let full = it
            .answers
            .values()
            .filter(|answer| answer.status() == 503)
            .count();
        assert_eq!(
            full,
            all.len() - CHECKS - 1,
            "one is looked at, and so many wait"
        );
        while it.look() {}
        it.answers.clear();
        let refused = it.answer(guess(1));
        assert_eq!(refused.0, 503);
        assert!(refused.1.contains("at most 4 failed logins"), "{refused:?}");
        let right = it.ask(
            plain("POST", "/v1/auth/login?username=root&password=pw").from([10, 0, 0, 8].into()),
        );
        it.look();
        assert_eq!(it.answers.remove(&right).unwrap().status(), 200);
    }

    #[test]
    fn a_call_with_name_and_password_goes_on_when_it_is_known_to_be_right_and_only_as_far_as_he_may()
     {
        let mut it = Asked::start(Like::V2_5);
        let register = |namespace: &str| {
            plain(
                "POST",
                &format!(
                    "/v1/ns/instance?serviceName=s&ip=10.0.0.1&port=1&namespaceId={namespace}&username=app&password=pw"
                ),
            )
        };
        assert_eq!(it.answer(register("public")), (200, "ok".to_owned()));
        assert!(page(403, "authorization failed!")(
            &it.answer(register("dev"))
        ));
        let (status, list) = it.answer(plain("GET", &format!("{LIST}&username=app&password=pw")));
        assert!(status == 200 && list.contains("10.0.0.1"), "{list}");
        let big = "x".repeat(BYTES);
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let publish = Request::new(
            "POST",
            "/v1/cs/configs?username=app&password=pw&dataId=d&group=g",
            form,
            format!("content={big}"),
        );
        let (status, told) = it.answer(publish);
        assert!(
            status == 503 && told.contains("bytes of calls that wait"),
            "{status}"
        );
        let long = "x".repeat(PASSWORD + 1);
        assert_eq!(
            it.answer(plain(
                "GET",
                &format!("{LIST}&username=app&password={long}")
            ))
            .0,
            403
        );
    }

    #[test]
    fn over_grpc_a_no_is_of_the_class_that_answers() {
        for (like, nobody, forbidden) in [
            (Like::V2_5, "user not found!", "authorization failed!"),
            (
                Like::V3_0,
                "Code: 401, Message: User not found! Please check user exist or password is right!.",
                "Code: 403, Message: authorization failed!.",
            ),
        ] {
            let mut it = Asked::start(like);
            let token = it.token("app");
            let link = it.link();
            let register = r#"{"namespace":"NAMESPACE","serviceName":"s","groupName":"g","type":"registerInstance","instance":{"ip":"10.0.0.1","port":1}}"#;
            let public = register.replace("NAMESPACE", "public");
            for (kind, class) in [
                ("InstanceRequest", "InstanceResponse"),
                ("PersistentInstanceRequest", "InstanceResponse"),
                ("BatchInstanceRequest", "BatchInstanceResponse"),
                ("ServiceQueryRequest", "QueryServiceResponse"),
                ("ServiceListRequest", "ServiceListResponse"),
                ("SubscribeServiceRequest", "SubscribeServiceResponse"),
                ("ConfigQueryRequest", "ConfigQueryResponse"),
                ("ConfigPublishRequest", "ConfigPublishResponse"),
                ("ConfigRemoveRequest", "ConfigRemoveResponse"),
                (
                    "ConfigBatchListenRequest",
                    "ConfigChangeBatchListenResponse",
                ),
            ] {
                let no = it.call(link, kind, "{}", &[]);
                assert_eq!(
                    (
                        &no["class"],
                        &no["resultCode"],
                        &no["errorCode"],
                        &no["message"]
                    ),
                    (&class.into(), &500.into(), &403.into(), &nobody.into()),
                    "{kind}"
                );
            }
            assert_eq!(
                it.call(link, "HealthCheckRequest", "{}", &[])["resultCode"],
                200
            );
            assert_eq!(
                it.call(link, "ServerCheckRequest", "{}", &[])["resultCode"],
                200
            );
            let shown = [("accessToken", token.as_str())];
            assert_eq!(
                it.call(link, "InstanceRequest", &public, &shown)["resultCode"],
                200
            );
            let dev = it.call(
                link,
                "InstanceRequest",
                &register.replace("NAMESPACE", "dev"),
                &shown,
            );
            assert_eq!(
                (&dev["errorCode"], &dev["message"]),
                (&403.into(), &forbidden.into())
            );
            let bearer = format!("Bearer {token}");
            let read = r#"{"namespace":"dev","serviceName":"s","groupName":"g"}"#;
            assert_eq!(
                it.call(
                    link,
                    "ServiceQueryRequest",
                    read,
                    &[("Authorization", &bearer)]
                )["resultCode"],
                200
            );
            // A namespace that a class does not read does not open it.
            let beside = r#"{"namespace":"public","tenant":"secret","dataId":"d","group":"g"}"#;
            assert_eq!(
                it.call(link, "ConfigQueryRequest", beside, &shown)["errorCode"],
                403
            );
            let listen = r#"{"listen":true,"configListenContexts":[{"dataId":"d","group":"g","md5":"","tenant":""},{"dataId":"d","group":"g","md5":"","tenant":"secret"}]}"#;
            assert_eq!(
                it.call(link, "ConfigBatchListenRequest", listen, &shown)["errorCode"],
                403
            );
            let password = [("username", "app"), ("password", "pw")];
            assert_eq!(
                it.call(link, "InstanceRequest", &public, &password)["resultCode"],
                200
            );
            let wrong = [("username", "app"), ("password", "no")];
            assert_eq!(
                it.call(link, "InstanceRequest", &public, &wrong)["message"],
                nobody
            );
            assert_eq!(
                it.call(link, "InstanceRequest", "no JSON", &shown)["class"],
                "ErrorResponse"
            );
            it.wait(ms(60_000));
        }
    }

    #[test]
    fn a_user_who_is_taken_out_may_nothing_and_a_token_outlives_a_new_file() {
        let mut it = Asked::start(Like::V2_5);
        let (app, reader) = (it.token("app"), it.token("reader"));
        it.happens(Event::UsersChanged(users("app:other *:r")));
        let list = |it: &mut Asked, token: &str| {
            it.answer(plain("GET", &format!("{LIST}&accessToken={token}")))
        };
        assert_eq!(list(&mut it, &app).0, 200);
        assert!(page(403, "authorization failed!")(&list(&mut it, &reader)));
        it.happens(Event::UsersChanged(users(
            "app:other *:r\n@token-key eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=",
        )));
        assert!(page(403, "Invalid signature")(&list(&mut it, &app)));
    }

    #[test]
    fn a_registry_that_stops_keeps_nobody_waiting() {
        let mut it = Asked::start(Like::V2_5);
        let first = it.ask(plain("POST", "/v1/auth/login?username=app&password=no"));
        let second = it.ask(plain("POST", "/v1/auth/login?username=app&password=no"));
        it.look();
        it.happens(Event::Stopping);
        assert!(it.answers.contains_key(&first));
        it.look();
        assert!(it.answers.contains_key(&second));
    }

    #[test]
    fn what_is_shown_of_requests_and_of_the_desk_has_no_secret() {
        let mut it = Asked::start(Like::V2_5);
        let request = with(
            "POST",
            "/v1/auth/login?username=app&password=secret-1&accessToken=secret-2",
            &[("Authorization", "Bearer secret-3")],
        );
        let mut shown = format!("{request:?}");
        it.ask(request);
        let link = it.link();
        let mut payload = Payload::raw("ConfigQueryRequest", "{}");
        payload
            .metadata
            .as_mut()
            .unwrap()
            .headers
            .insert("accessToken".to_owned(), "secret-4".to_owned());
        payload
            .metadata
            .as_mut()
            .unwrap()
            .headers
            .insert("password".to_owned(), "secret-5".to_owned());
        shown += &format!("{payload:?}");
        let event = Event::Called {
            link,
            ticket: Ticket(99),
            at: UNIX_EPOCH,
            payload,
        };
        shown += &format!("{event:?}");
        it.happens(event);
        shown += &format!("{:?} {:?}", it.desk, it.checks);
        assert!(
            !shown.contains("secret") && !shown.contains("canary"),
            "{shown}"
        );
    }
}
