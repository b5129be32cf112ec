//! A client of the registry's HTTP interface: the shells around the server list and the session, and the calls any task may make.
//!
//! What is sent and how answers are read is in [`calls`], who is asked in which order in [`route`]. What a call finds out about
//! servers and tokens is reported to their machines. Both transports stand on it: the one over HTTP v1 makes all its calls here,
//! the one over gRPC logs in here and asks other nodes than its own.

use super::calls::{Answer, Call};
use super::model::{ConfigKey, Connection, Content, Instance, Listed, ServiceKey, ServiceList};
use super::route::{Judged, Route, Whom};
use super::servers::Order;
#[cfg(feature = "tls")]
use super::tls::{self, Tls};
use super::{Error, answer, calls, route, servers, session, wire};
use crate::descriptor;
use crate::descriptor::settings::{Auth, PasswordSource, Registry, Servers};
use crate::foreign::Foreign;
use crate::machine::Epoch;
use crate::machine::drive;
use crate::metrics::Metrics;
use crate::metrics::Outcome;
use crate::os::input;
use crate::secret::Secret;
use crate::tasks::Tasks;
use std::{
    collections::BTreeSet,
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};

/// How the transport over HTTP v1 is called.
pub(super) const HTTP: &str = "http";
/// How the transport over gRPC is called.
pub(super) const GRPC: &str = "grpc";
/// How much longer than its hold a long poll is waited for.
const POLL_GRACE: Duration = Duration::from_secs(5);
/// Longest answer of an address server; bytes.
const SERVERS_LIMIT: usize = 64 * 1024;
/// Servers it may name.
const MAX_SERVERS: usize = 64;
/// Events that wait for a machine.
pub(super) const QUEUE: usize = 256;

/// Why the transport could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What `https://` needs is not there.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// No HTTP client can be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A token and its number.
pub(super) struct Token {
    /// Later ones have greater numbers.
    pub(super) serial: u64,
    pub(super) text: Secret,
}

/// What an address server has named.
#[derive(Default)]
struct Named {
    servers: BTreeSet<String>,
    /// How often somebody new was among them.
    changes: u64,
}

/// See the head of this file.
pub(super) struct Client {
    pub(super) settings: Registry,
    /// For where no server is asked over `https://`.
    plain: reqwest::Client,
    /// For where one is.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) epoch: Epoch,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    pub(super) order: watch::Receiver<Order>,
    pub(super) servers: mpsc::Sender<servers::Event>,
    session: Option<mpsc::Sender<session::Event>>,
    token: watch::Sender<Option<Arc<Token>>>,
    pub(super) connection: watch::Sender<Connection>,
    /// When a call was last answered usably, in milliseconds of the epoch; 0 for never.
    answered: AtomicU64,
    /// Counts reads that must not depend on one node.
    reads: AtomicU32,
    /// What an address server named last.
    listed: Mutex<Named>,
    /// Why the last login failed; `None` after one that did not.
    login_trouble: Mutex<Option<String>>,
    /// The address of whoever answered last.
    peer: Mutex<Option<SocketAddr>>,
    /// Another server than before has answered.
    news: Notify,
    /// The log says that the registry is away.
    down_told: AtomicBool,
    pub(super) seed: u64,
}

/// Starts the client: its machines run until `tasks` stops. Nothing is sent before the first call, a login and a question
/// to the address server excepted.
///
/// # Errors
/// When no HTTP client can be made from the settings.
pub(super) fn start(
    settings: &Registry,
    tasks: &Tasks,
    epoch: Epoch,
    metrics: Metrics,
    seed: u64,
) -> Result<Arc<Client>, StartError> {
    #[cfg(feature = "tls")]
    let tls = match settings.servers.has_tls() {
        true => Some(Tls::start(&settings.tls, settings.connect_timeout)?),
        false => None,
    };
    let plain = wire::http_client(settings.connect_timeout, false);
    let plain = plain.build().map_err(StartError::Client)?;
    let (order_tx, order) = watch::channel(Order::default());
    let (servers_tx, servers_rx) = mpsc::channel(QUEUE);
    let (session_tx, session_rx) = mpsc::channel(QUEUE);
    let signed = settings.auth.is_some();
    let client = Arc::new(Client {
        settings: settings.clone(),
        plain,
        #[cfg(feature = "tls")]
        tls,
        epoch,
        metrics,
        tasks: tasks.clone(),
        order,
        servers: servers_tx.clone(),
        session: signed.then(|| session_tx.clone()),
        token: watch::Sender::new(None),
        connection: watch::Sender::new(Connection {
            up: false,
            server: None,
            transport: HTTP,
            chosen: None,
            version: None,
            reason: Some("not asked yet".to_owned()),
            since: epoch.now(),
            returns: 0,
        }),
        answered: AtomicU64::new(0),
        reads: AtomicU32::new(0),
        listed: Mutex::default(),
        login_trouble: Mutex::default(),
        peer: Mutex::default(),
        news: Notify::new(),
        down_told: AtomicBool::new(false),
        seed,
    });
    let curious = Arc::clone(&client);
    tasks.spawn("versions", async move { curious.ask_versions().await });

    let machine = match &settings.servers {
        Servers::List(list) => servers::Servers::fixed(list.clone(), seed),
        Servers::Endpoint { refresh, .. } => servers::Servers::fetched(*refresh, seed),
    };
    let lister = Arc::clone(&client);
    tasks.spawn_to_end("servers", async move {
        let stop = lister.tasks.token();
        let perform = |effect| {
            match effect {
                servers::Effect::Prefer(order) => {
                    order_tx.send_replace(order);
                }
                servers::Effect::Knock => {
                    let client = Arc::clone(&lister);
                    lister
                        .tasks
                        .spawn("knock", async move { client.knock().await });
                }
                servers::Effect::Back => {
                    lister
                        .connection
                        .send_modify(|connection| connection.returns += 1);
                }
                servers::Effect::Fetch => {
                    let (client, events) = (Arc::clone(&lister), servers_tx.clone());
                    lister.tasks.spawn("fetch-servers", async move {
                        // A closed queue means that the agent is stopping.
                        _ = events.send(client.fetch_servers().await).await;
                    });
                }
            }
            std::future::ready(())
        };
        drive(machine, epoch, servers_rx, perform, stop).await;
    });

    if signed {
        let keeper = Arc::clone(&client);
        tasks.spawn_to_end("session", async move {
            let stop = keeper.tasks.token();
            let perform = |session::Effect::Login { serial }| {
                let (client, events) = (Arc::clone(&keeper), session_tx.clone());
                keeper.tasks.spawn("login", async move {
                    _ = events.send(client.login(serial).await).await;
                });
                std::future::ready(())
            };
            drive(
                session::Session::new(!seed),
                epoch,
                session_rx,
                perform,
                stop,
            )
            .await;
        });
    }

    Ok(client)
}

/// What went wrong with a request, beside TLS, in words, without its URL.
fn in_words(error: &reqwest::Error, within: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {within:?}");
    }
    let mut cause = error.source();
    let mut last = error.to_string();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return "connection refused".to_owned(),
                io::ErrorKind::ConnectionReset => return "connection reset".to_owned(),
                io::ErrorKind::UnexpectedEof => return "connection closed early".to_owned(),
                _ => {}
            }
        }
        last = inner.to_string();
        cause = inner.source();
    }
    Foreign::new(last).to_string()
}

impl Client {
    /// What HTTP calls are made with.
    async fn http(&self) -> reqwest::Client {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.recent(self.epoch.now()).await.http.clone();
        }
        self.plain.clone()
    }

    /// What went wrong with a request, in words, without its URL.
    fn in_words(&self, error: &reqwest::Error, within: Duration) -> String {
        #[cfg(feature = "tls")]
        if let Some(words) = self.tls.as_ref().and_then(|tls| tls.in_words(error)) {
            return words;
        }
        in_words(error, within)
    }

    /// Makes a call: at most [`route::TRIES`] servers, a new token once.
    pub(super) async fn call(&self, call: &Call, whom: Whom) -> Result<Answer, Error> {
        let outcome = self.signed_call(call, whom).await;
        let verdict = outcome
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|answer| call.check(answer));
        let word = verdict.err().map_or("ok", |error| error.word());
        self.count(call.what, word);
        outcome
    }

    async fn signed_call(&self, call: &Call, whom: Whom) -> Result<Answer, Error> {
        if !call.signed {
            return self.asked(call, whom, None).await;
        }
        let token = self.token().await;
        let serial = token.as_ref().map_or(0, |token| token.serial);
        let outcome = self.asked(call, whom, token).await;
        let no = match &outcome {
            Ok(answer) if matches!(answer.status, 401 | 403) => &answer.body,
            _ => return outcome,
        };
        match self.token_in_place_of(serial, no).await {
            Some(token) => self.asked(call, whom, Some(token)).await,
            None => outcome,
        }
    }

    /// The token for a call; none where nobody logs in, or where the login takes longer than a call may.
    pub(super) async fn token(&self) -> Option<Arc<Token>> {
        self.session.as_ref()?;
        self.token_after(0).await
    }

    /// Another token than the one that was denied with these words, if another one may help.
    pub(super) async fn token_in_place_of(&self, serial: u64, no: &[u8]) -> Option<Arc<Token>> {
        let session = self.session.as_ref()?;
        if !answer::is_about_the_token(no) {
            return None;
        }
        // A closed or full queue: the session is ending, or knows already.
        _ = session.try_send(session::Event::Denied { serial });
        self.token_after(serial).await
    }

    /// A token newer than `serial`, waited for as long as one call may take.
    async fn token_after(&self, serial: u64) -> Option<Arc<Token>> {
        let mut tokens = self.token.subscribe();
        let newer = tokens.wait_for(|token| token.as_ref().is_some_and(|t| t.serial > serial));
        let token = timeout(self.settings.request_timeout, newer)
            .await
            .ok()?
            .ok()?;
        token.clone()
    }

    /// Asks one server after another.
    async fn asked(
        &self,
        call: &Call,
        whom: Whom,
        token: Option<Arc<Token>>,
    ) -> Result<Answer, Error> {
        let mut order = self.order.clone();
        let known = order.wait_for(|order| !order.servers.is_empty());
        let route = match timeout(self.settings.request_timeout, known).await {
            Ok(Ok(order)) => Route::over(&order, whom),
            Ok(Err(_)) => return Err(Error::Stopped),
            Err(_) => {
                let error = Error::Unreachable {
                    server: "the address server".to_owned(),
                    what: "it has not named a server yet".to_owned(),
                };
                self.is_down(&error);
                return Err(error);
            }
        };
        let (mut last, mut why) = (Err(Error::Stopped), None);
        for server in route {
            last = self.ask(&server, call, token.as_deref()).await;
            match route::judge(call, &server, &last) {
                Judged::Answered => {
                    let now = u64::try_from(self.epoch.now().as_millis()).unwrap_or(u64::MAX);
                    self.answered.store(now.max(1), Ordering::Relaxed);
                    if self.is_ours_to_show() {
                        self.is_up(&server, whom);
                    }
                    return last;
                }
                Judged::Elsewhere(error, event) => {
                    tracing::debug!(call = call.what, %error, "call failed");
                    _ = self.servers.send(event.clone()).await;
                    why = Some((error, event));
                }
            }
        }
        // One server that fails is not the registry: only when nobody answered usably it is away.
        let since = match self.answered.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            at => (self.epoch.now()).saturating_sub(Duration::from_millis(at)),
        };
        if let Some((error, event)) = why
            && servers::is_away(&event, since)
        {
            if self.is_ours_to_show() {
                self.is_down(&error);
            }
            // A full queue is full of failures; the next call tells it again.
            _ = self.servers.try_send(servers::Event::Away);
        }
        last
    }

    /// Notes which transport was chosen, and why.
    pub(super) fn chosen(&self, transport: &'static str, why: String) {
        self.connection.send_modify(|connection| {
            connection.transport = transport;
            connection.chosen = Some(why);
        });
    }

    /// Asks what the registry is: the numbers of its version, if it says them. Any answer over HTTP shows that somebody is there.
    pub(super) async fn what_is_it(&self) -> Result<Option<(u32, u32, u32)>, Error> {
        let answer = self.asked(&calls::state(), Whom::Preferred, None).await?;
        Ok(answer.version().as_ref().and_then(calls::numbers))
    }

    /// Whether the connection that `status` shows is that of these calls.
    fn is_ours_to_show(&self) -> bool {
        self.connection.borrow().transport != GRPC
    }

    /// The server that is asked first, or what stands for it while none is known; for messages.
    pub(super) fn first_server(&self) -> String {
        let order = self.order.borrow();
        let first = order.servers.first();
        first.map_or_else(|| "the registry".to_owned(), ToString::to_string)
    }

    /// Asks one server.
    async fn ask(
        &self,
        server: &Arc<str>,
        call: &Call,
        token: Option<&Token>,
    ) -> Result<Answer, Error> {
        if call.what == "state" {
            // Each generation has its own path for this, and 404 or 410 for the other's.
            let answer = self.ask_once(server, &calls::state_v3(), None).await;
            if !matches!(&answer, Ok(answer) if matches!(answer.status, 404 | 410 | 501)) {
                return answer;
            }
        }
        self.ask_once(server, call, token).await
    }

    async fn ask_once(
        &self,
        server: &Arc<str>,
        call: &Call,
        token: Option<&Token>,
    ) -> Result<Answer, Error> {
        let url = format!("{server}{}{}", self.settings.context_path, call.path);
        let within = if call.hold.is_zero() {
            self.settings.request_timeout
        } else {
            call.hold + POLL_GRACE
        };
        let mut request = self
            .http()
            .await
            .request(call.method.clone(), url)
            .timeout(within)
            .query(&call.query);
        if !call.form.is_empty() {
            request = request.form(&call.form);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token.text.expose());
        }
        let lost = |error: reqwest::Error| Error::Unreachable {
            server: server.to_string(),
            what: self.in_words(&error, within),
        };
        let mut response = request.send().await.map_err(lost)?;
        if let Some(peer) = response.remote_addr() {
            *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
        }
        let status = response.status().as_u16();
        is_plain(response.headers()).map_err(|what| Error::Garbage {
            server: server.to_string(),
            what,
        })?;
        let limit = call.limit(status);
        let sealed = response.headers().contains_key("content-md5");
        let modified = response
            .headers()
            .get("last-modified")
            .and_then(|value| crate::dates::read_http(value.to_str().ok()?));
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(lost)? {
            if body.len() + piece.len() > limit {
                return Err(Error::Garbage {
                    server: server.to_string(),
                    what: format!("an answer of more than {limit} bytes"),
                });
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            server: Arc::clone(server),
            status,
            sealed,
            modified,
            body,
        })
    }

    /// Notes an answer. Reads that go round the servers do not change which one is shown as the one in use.
    pub(super) fn is_up(&self, server: &Arc<str>, whom: Whom) {
        let news = self.connection.send_if_modified(|connection| {
            let is_in_use = connection.server.as_deref() == Some(server);
            if connection.up && (is_in_use || whom != Whom::Preferred) {
                return false;
            }
            if !connection.up {
                connection.since = self.epoch.now();
            }
            connection.up = true;
            connection.server = Some(server.to_string());
            connection.reason = None;
            connection.version = None;
            true
        });
        if news {
            self.metrics.registry_up.set(1);
            self.down_told.store(false, Ordering::Relaxed);
            tracing::info!(state = "connected", server = %server, "registry");
            // A full queue is full of failures of the same servers: the next answer tells it again.
            _ = self
                .servers
                .try_send(servers::Event::Answered(Arc::clone(server)));
            self.news.notify_one();
        }
    }

    /// Asks a server that just came into use what it is; only for `status`, so a failure says nothing.
    ///
    /// The first question goes to whoever is preferred: an agent with nothing to keep knows then too whether somebody is there.
    async fn ask_versions(&self) {
        let call = calls::state();
        // What came of it is in the connection's state.
        _ = self.asked(&call, Whom::Preferred, None).await;
        loop {
            self.news.notified().await;
            let Some(server) = self.connection.borrow().server.clone() else {
                continue;
            };
            let server: Arc<str> = server.into();
            let answer = self.ask(&server, &call, None).await;
            let version = answer.ok().and_then(Answer::version);
            self.connection.send_if_modified(|connection| {
                let same = connection.server.as_deref() == Some(&*server);
                if same {
                    connection.version = version;
                }
                same
            });
        }
    }

    pub(super) fn is_down(&self, error: &Error) {
        let reason = error.to_string();
        let mut was_up = false;
        self.connection.send_if_modified(|connection| {
            was_up = std::mem::replace(&mut connection.up, false);
            if was_up {
                connection.since = self.epoch.now();
            }
            let before = connection.reason.replace(reason.clone());
            was_up || before.as_ref() != Some(&reason)
        });
        // Which server failed how may change with every call; that the registry is away is one piece of news.
        if !self.down_told.swap(true, Ordering::Relaxed) || was_up {
            self.metrics.registry_up.set(0);
            tracing::warn!(state = "unreachable", reason = reason.as_str(), "registry");
        }
    }

    // -- the address server and the login

    async fn fetch_servers(&self) -> servers::Event {
        let Servers::Endpoint { url, .. } = &self.settings.servers else {
            return servers::Event::NotListed;
        };
        let read = self.read_servers(url).await;
        self.count("servers", if read.is_ok() { "ok" } else { "unreachable" });
        let (list, left_out) = match &read {
            // How its servers are spoken to is said by the settings, not by who answers.
            Ok(text) => listed_servers(url.split(':').next().unwrap_or("http"), text),
            Err(what) => {
                tracing::warn!(what = what.as_str(), "the address server does not answer");
                return servers::Event::NotListed;
            }
        };
        if left_out > 0 {
            tracing::warn!(
                entries = left_out,
                "the address server names what is not host:port, or more than {MAX_SERVERS}; they are left out"
            );
        }
        if list.is_empty() {
            return servers::Event::NotListed;
        }
        self.take_list(&list);
        servers::Event::Listed(list)
    }

    /// The text of an address server's answer, or what was wrong with it.
    async fn read_servers(&self, url: &str) -> Result<String, String> {
        let within = self.settings.request_timeout;
        let lost = |error: reqwest::Error| self.in_words(&error, within);
        let http = self.http().await;
        let request = http.get(url).timeout(within).send();
        let mut response = request.await.map_err(lost)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        is_plain(response.headers())?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(lost)? {
            if body.len() + piece.len() > SERVERS_LIMIT {
                return Err(format!("more than {SERVERS_LIMIT} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// A token is for the servers that were listed when it was given: whoever is new gets none of them.
    fn take_list(&self, list: &[String]) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |server: &String| !listed.servers.contains(server);
        if list.iter().any(is_new) && !listed.servers.is_empty() {
            listed.changes += 1;
            self.token.send_replace(None);
            if let Some(session) = &self.session {
                // A full queue is full of denials: they lead to the same.
                _ = session.try_send(session::Event::Moved);
            }
        }
        listed.servers = list.iter().cloned().collect();
    }

    /// How often the list has changed.
    fn changes(&self) -> u64 {
        self.listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .changes
    }

    async fn login(&self, serial: u64) -> session::Event {
        let Some(auth) = &self.settings.auth else {
            return session::Event::LoginFailed;
        };
        let changes = self.changes();
        match self.logged_in(auth).await {
            // Another server may have come meanwhile, for which it was not given.
            Ok(_) if self.changes() != changes => session::Event::LoginFailed,
            Ok((text, ttl)) => {
                let trouble = self
                    .login_trouble
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                self.token
                    .send_replace(Some(Arc::new(Token { serial, text })));
                if trouble.is_some() {
                    tracing::info!(user = %auth.username, state = "accepted", "login");
                }
                session::Event::LoggedIn { ttl }
            }
            Err(error) => {
                // Wrong credentials stay wrong for long: said once, not at every try.
                let mut told = self
                    .login_trouble
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if told.as_deref() == Some(&*error) {
                    tracing::debug!(user = %auth.username, %error, "login failed again");
                } else {
                    tracing::warn!(user = %auth.username, state = "failed", %error, "login");
                    *told = Some(error);
                }
                session::Event::LoginFailed
            }
        }
    }

    async fn logged_in(&self, auth: &Auth) -> Result<(Secret, Duration), String> {
        let password = password(&auth.password).await?;
        let call = calls::login(&auth.username, password.expose());
        let answer = self.call(&call, Whom::Preferred).await;
        let login = answer.and_then(Answer::token).map_err(|e| e.to_string())?;
        let ttl = Duration::from_secs(u64::try_from(login.token_ttl).unwrap_or(0));
        Ok((Secret::new(login.access_token), ttl))
    }

    pub(super) fn count(&self, what: &'static str, outcome: &'static str) {
        self.metrics
            .registry_calls
            .get_or_create(&Outcome { what, outcome })
            .inc();
    }

    /// Asks whether anybody is there again.
    async fn knock(&self) {
        let call = calls::state();
        let outcome = self.asked(&call, Whom::Preferred, None).await;
        let event = match route::who_answered(&call, &outcome) {
            Some(server) => servers::Event::Answered(server),
            None => servers::Event::NobodyThere,
        };
        _ = self.servers.send(event).await;
    }

    /// The place of the next read that must not depend on one node.
    pub(super) fn next_read(&self) -> Whom {
        Whom::Other(self.reads.fetch_add(1, Ordering::Relaxed))
    }

    /// The first three numbers of the registry's version, where it is known.
    pub(super) fn version(&self) -> Option<(u32, u32, u32)> {
        calls::numbers(self.connection.borrow().version.as_ref()?)
    }

    /// Whether the registry may still serve HTTP v1.
    pub(super) fn has_v1(&self) -> bool {
        self.version().is_none_or(|version| version < (3, 2, 0))
    }

    // -- instances

    /// The instance as a server has it.
    pub(super) async fn detail(
        &self,
        instance: &Instance,
        whom: Whom,
    ) -> Result<Option<Listed>, Error> {
        let service = &instance.key.service;
        // From 3.2 on there is no v1; the detail of 3.x is for administrators.
        if !self.has_v1() {
            let call = calls::list_v3(service, &instance.cluster);
            let hosts = self.call(&call, whom).await?.list_v3()?;
            let masked = ServiceList {
                hosts,
                protected: true,
                cache: Duration::ZERO,
            };
            return Ok(calls::among(masked, instance));
        }
        let detail = self.call(&calls::detail(instance), whom).await;
        match detail.and_then(Answer::detail) {
            Err(Error::Refused { status: 410, .. }) => {
                let list = self.call(&calls::list(service, &[], false), whom).await?;
                let list = list.list()?;
                if !list.protected {
                    return Ok(calls::among(list, instance));
                }
                // Who asks for the healthy ones alone is told the truth.
                let healthy = self.call(&calls::list(service, &[], true), whom).await?;
                Ok(calls::unmasked(list, healthy.list()?, instance))
            }
            other => other,
        }
    }

    pub(super) async fn read_back(&self, instance: &Instance) -> Result<Option<Listed>, Error> {
        self.detail(instance, self.next_read()).await
    }

    /// Asks each of several servers; one that does not answer says nothing, unless none does.
    pub(super) async fn is_gone(&self, instance: &Instance) -> Result<bool, Error> {
        let servers = self.order.borrow().servers.len().clamp(1, route::TRIES);
        let mut outcome = Err(Error::Stopped);
        for place in 0..servers {
            let whom = Whom::Other(u32::try_from(place).unwrap_or(0));
            match self.detail(instance, whom).await {
                Ok(Some(_)) => return Ok(false),
                Ok(None) => outcome = Ok(true),
                Err(error) if outcome.is_err() => outcome = Err(error),
                Err(_) => {}
            }
        }
        outcome
    }

    /// The list; `heard_at` is where a change of it may be told by UDP.
    pub(super) async fn list(
        &self,
        service: &ServiceKey,
        heard_at: Option<(IpAddr, u16)>,
    ) -> Result<ServiceList, Error> {
        let call = match heard_at {
            Some(heard_at) => calls::list_and_hear(service, heard_at),
            None => calls::list(service, &[], false),
        };
        self.call(&call, Whom::Preferred).await?.list()
    }

    /// The address of whoever answered last.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // -- configuration

    /// The content and who has it.
    pub(super) async fn get_config(
        &self,
        key: &ConfigKey,
        whom: Whom,
    ) -> Result<Option<(Content, Arc<str>)>, Error> {
        let answer = self.call(&calls::config_get(key), whom).await?;
        let server = Arc::clone(&answer.server);
        Ok(answer.content()?.map(|content| (content, server)))
    }

    /// Asks which of `keys` have another MD5; answered at once or at the end of the hold.
    pub(super) async fn listen(
        &self,
        keys: &[(ConfigKey, Arc<str>)],
        whom: Whom,
    ) -> Result<Vec<ConfigKey>, Error> {
        let call = calls::config_listen(keys, self.settings.long_poll);
        self.call(&call, whom).await?.changed(keys)
    }
}

/// Nobody asked for a compressed answer: small ones could become large.
fn is_plain(headers: &reqwest::header::HeaderMap) -> Result<(), String> {
    match headers.get("content-encoding") {
        Some(encoding) if encoding != "identity" => {
            let encoding = Foreign::new(String::from_utf8_lossy(encoding.as_bytes()).into_owned());
            Err(format!(
                "an answer compressed with {encoding}, which nobody asked for"
            ))
        }
        _ => Ok(()),
    }
}

/// The servers in an address server's answer, one a line, `host` or `host:port`; and how many lines are something else.
fn listed_servers(scheme: &str, text: &str) -> (Vec<String>, usize) {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut servers, mut left_out) = (Vec::new(), 0);
    for line in lines {
        match descriptor::listed_server(scheme, line) {
            Some(server) if servers.contains(&server) => {}
            Some(server) if servers.len() < MAX_SERVERS => servers.push(server),
            _ => left_out += 1,
        }
    }
    (servers, left_out)
}

async fn password(source: &PasswordSource) -> Result<Arc<Secret>, String> {
    match source {
        PasswordSource::Inline(secret) => Ok(Arc::clone(secret)),
        PasswordSource::File(path) => {
            let path = path.clone();
            match tokio::task::spawn_blocking(move || input::secret(&path)).await {
                Ok(read) => read.map(Arc::new).map_err(|error| error.to_string()),
                // It panicked; the panic was printed.
                Err(_) => Err("the password's file could not be read".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_servers_answer_is_read_with_ports_and_without_nonsense() {
        let text =
            "10.0.0.1:8848\n\n# old\n10.0.0.2\r\n NACOS:443 \n[fd00::1]:9000\n10.0.0.2:8848\n";
        let nonsense = "http://a:1\nuser:pass@evil:1\nftp://x:1\na:1/path\na:1?x=y\na:0\na:99999\nfd00::1\na b\n<html>\n\u{1b}[2J\n";
        let expected = [
            "10.0.0.1:8848",
            "10.0.0.2:8848",
            "nacos:443",
            "[fd00::1]:9000",
        ];
        for scheme in ["http", "https"] {
            let (servers, left_out) = listed_servers(scheme, &format!("{text}{nonsense}"));
            assert_eq!(
                servers,
                expected.map(|server| format!("{scheme}://{server}"))
            );
            assert_eq!(left_out, nonsense.lines().count());
        }
    }

    #[test]
    fn an_address_server_names_at_most_64_servers() {
        let text = |count: usize| {
            (0..count)
                .map(|n| format!("nacos-{n}\n"))
                .collect::<String>()
        };
        let counts = |count| {
            let (servers, left_out) = listed_servers("http", &text(count));
            (servers.len(), left_out)
        };
        assert_eq!(counts(64), (64, 0));
        assert_eq!(counts(66), (64, 2));
    }
}
