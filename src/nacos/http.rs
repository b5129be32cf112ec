//! The transport over HTTP v1: the shells around the server list, the session, the beat book and the poll.
//!
//! Four machines, one task each, and calls that any task may make. A call asks the preferred server first and at most
//! [`TRIES`] in all; what it finds out about servers and tokens it reports to their machines. For each instance a slot
//! serialises what is said about it: a beat that was under way when the instance is withdrawn has ended before the withdrawal
//! is sent, and one that was only planned is not sent any more. So no late full beat brings back what was taken out.

use super::model::{
    ConfigKey, ConfigState, Connection, Content, Instance, InstanceKey, Listed, ServiceKey,
    ServiceList, Standing, preserved,
};
use super::{Error, Reply, Standings, Transport, answer, beats, poll, servers, session, wire};
use crate::descriptor::settings::{Auth, PasswordSource, Registry, Servers};
use crate::foreign::Foreign;
use crate::machine::Epoch;
use crate::machine::Moment;
use crate::machine::drive;
use crate::metrics::Metrics;
use crate::metrics::Outcome;
use crate::secret::Secret;
use crate::tasks::Tasks;
use reqwest::{Method, StatusCode};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// So many servers are asked by one call.
const TRIES: usize = 3;
/// Naming calls under way at a time; the others wait their turn.
const AT_ONCE: usize = 64;
/// Longest answer to a naming call.
const NAMING_LIMIT: usize = 8 * 1024 * 1024;
/// Longest configuration; Nacos' own limit is 10 MiB.
const CONFIG_LIMIT: usize = 16 * 1024 * 1024;
/// How much longer than its hold a long poll is waited for.
const POLL_GRACE: Duration = Duration::from_secs(5);
/// A password file is not longer.
const PASSWORD_LIMIT: u64 = 64 * 1024;
/// Events that wait for a machine.
const QUEUE: usize = 256;

/// Why the transport could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The CA bundle cannot be read.
    #[error("registry.tls.ca: cannot read {path}")]
    ReadCa {
        /// The bundle.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The CA bundle is none, or no TLS client can be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A token and its number.
struct Token {
    serial: u64,
    text: Secret,
}

/// What serialises the calls about one instance.
#[derive(Default)]
struct Slot {
    /// The turn whose beats are wanted; 0 for none.
    turn: AtomicU64,
    busy: tokio::sync::Mutex<()>,
}

/// One call.
struct Call {
    what: &'static str,
    method: Method,
    /// Below the context path.
    path: &'static str,
    query: Vec<(&'static str, String)>,
    form: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    /// For each server asked, from connect to last byte.
    within: Duration,
    limit: usize,
    signed: bool,
}

impl Call {
    /// Whether an answer is one of Nacos' to this call, in status and form. That there is no such thing is one.
    fn check(&self, answer: &Answer) -> Result<(), Error> {
        if answer.says_absent() {
            return Ok(());
        }
        answer::read(&answer.server, answer.status, &answer.body)?;
        match self.what {
            "register" | "deregister" => answer.said_ok(),
            "beat" => answer.json::<wire::BeatAnswer>().map(|_| ()),
            "config_get" => answer.is_sealed(),
            _ => Ok(()),
        }
    }
}

/// Its answer, any status.
struct Answer {
    server: Arc<str>,
    status: u16,
    /// It has a header `Content-MD5`.
    sealed: bool,
    body: Vec<u8>,
    /// What [`Call::check`] says of it, once.
    verdict: Result<(), Error>,
}

impl Answer {
    fn ok(self) -> Result<Self, Error> {
        answer::read(&self.server, self.status, &self.body).map(|()| self)
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|e| Error::Garbage {
            server: self.server.to_string(),
            what: Foreign::new(e.to_string()).to_string(),
        })
    }

    /// For the content of a configuration: 1.4.8, 2.5.1 and 3.0.3 all send `Content-MD5` with it, and the page of a proxy must
    /// not become somebody's file. Its value is not compared: for an encrypted configuration it is that of another text.
    fn is_sealed(&self) -> Result<(), Error> {
        if self.sealed {
            return Ok(());
        }
        Err(Error::Garbage {
            server: self.server.to_string(),
            what: "a configuration without Content-MD5".to_owned(),
        })
    }

    /// Whether it says that there is no such configuration or instance.
    fn says_absent(&self) -> bool {
        self.status != 200
            && (self.status == StatusCode::NOT_FOUND.as_u16()
                && self.text().raw().contains("config data not exist")
                || answer::is_no_instance(&self.body))
    }

    fn text(&self) -> Foreign {
        Foreign::new(String::from_utf8_lossy(&self.body).trim().to_owned())
    }

    /// For calls that are answered `ok`.
    fn said_ok(&self) -> Result<(), Error> {
        if self.text().raw() == "ok" {
            Ok(())
        } else {
            Err(Error::Garbage {
                server: self.server.to_string(),
                what: format!("expected \"ok\", got \"{}\"", self.text()),
            })
        }
    }
}

struct Client {
    settings: Registry,
    http: reqwest::Client,
    epoch: Epoch,
    metrics: Metrics,
    tasks: Tasks,
    order: watch::Receiver<Vec<Arc<str>>>,
    servers: mpsc::Sender<servers::Event>,
    session: Option<mpsc::Sender<session::Event>>,
    token: watch::Sender<Option<Arc<Token>>>,
    connection: watch::Sender<Connection>,
    book: mpsc::Sender<beats::Event>,
    slots: Mutex<BTreeMap<InstanceKey, Arc<Slot>>>,
    turns: AtomicU64,
    at_once: Semaphore,
    /// When the next registration may be sent; see [`Client::write_turn`].
    next_write: Mutex<Moment>,
    /// Why the last login failed; `None` after one that did not.
    login_trouble: Mutex<Option<String>>,
    /// Another server than before has answered.
    news: Notify,
    /// The log says that the registry is away.
    down_told: AtomicBool,
    seed: u64,
}

/// The transport; every clone of the pointer is the same one.
struct Http(Arc<Client>);

/// Starts the transport: its machines run until `tasks` stops. Nothing is sent before the first call, a login and a question
/// to the address server excepted.
///
/// # Errors
/// When no HTTP client can be made from the settings.
pub fn start(
    settings: &Registry,
    tasks: &Tasks,
    epoch: Epoch,
    metrics: Metrics,
    seed: u64,
    standings: Standings,
) -> Result<Arc<dyn Transport>, StartError> {
    let http = client_for(settings)?;
    let (order_tx, order) = watch::channel(Vec::new());
    let (servers_tx, servers_rx) = mpsc::channel(QUEUE);
    let (session_tx, session_rx) = mpsc::channel(QUEUE);
    let (book_tx, book_rx) = mpsc::channel(QUEUE);
    let signed = settings.auth.is_some();
    let client = Arc::new(Client {
        settings: settings.clone(),
        http,
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
            transport: "http",
            version: None,
            reason: Some("not asked yet".to_owned()),
            since: epoch.now(),
        }),
        book: book_tx,
        slots: Mutex::default(),
        turns: AtomicU64::new(1),
        at_once: Semaphore::new(AT_ONCE),
        next_write: Mutex::new(Moment::ZERO),
        login_trouble: Mutex::default(),
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
                servers::Effect::Prefer(list) => {
                    order_tx.send_replace(list);
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

    let keeper = Arc::clone(&client);
    tasks.spawn_to_end("beats", async move {
        let stop = keeper.tasks.token();
        let perform = |effect| {
            let (client, standings) = (Arc::clone(&keeper), standings.clone());
            async move {
                match effect {
                    beats::Effect::Tell(key, standing) => {
                        if standing == Standing::Restored {
                            client.metrics.restorations.inc();
                        }
                        _ = standings.send((key, standing)).await;
                    }
                    call => client.tasks.clone().spawn("beat", async move {
                        client.beat(call).await;
                    }),
                }
            }
        };
        let book = beats::BeatBook::new(seed.rotate_left(17));
        drive(book, epoch, book_rx, perform, stop).await;
    });
    Ok(Arc::new(Http(client)))
}

/// The one way to make an HTTP client towards a registry: no redirects, no proxy variables, deadlines.
fn client_for(settings: &Registry) -> Result<reqwest::Client, StartError> {
    let https = match &settings.servers {
        Servers::List(list) => list.iter().any(|server| server.starts_with("https:")),
        Servers::Endpoint { .. } => true,
    };
    let builder = wire::http_client(settings.connect_timeout, https);
    #[cfg(feature = "tls")]
    let builder = match &settings.tls_ca {
        Some(path) => {
            let source = |source| StartError::ReadCa {
                path: path.clone(),
                source,
            };
            let pem = std::fs::read(path).map_err(source)?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(StartError::Client)?;
            builder.tls_certs_only(roots)
        }
        None => builder,
    };
    builder.build().map_err(StartError::Client)
}

/// What went wrong with a request, in words, without its URL.
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
    /// Makes a call: at most [`TRIES`] servers, a new token once.
    async fn call(&self, call: &Call) -> Result<Answer, Error> {
        let outcome = self.signed_call(call).await;
        let word = match &outcome {
            Ok(Answer {
                verdict: Ok(()), ..
            }) => "ok",
            Ok(Answer {
                verdict: Err(error),
                ..
            })
            | Err(error) => error.word(),
        };
        self.metrics
            .registry_calls
            .get_or_create(&Outcome {
                what: call.what,
                outcome: word,
            })
            .inc();
        outcome
    }

    async fn signed_call(&self, call: &Call) -> Result<Answer, Error> {
        let Some(session) = self.session.as_ref().filter(|_| call.signed) else {
            return self.asked(call, None).await;
        };
        let token = self.token_after(0).await;
        let serial = token.as_ref().map_or(0, |token| token.serial);
        let outcome = self.asked(call, token).await;
        let denied = matches!(&outcome, Ok(answer) if matches!(answer.status, 401 | 403));
        if !denied {
            return outcome;
        }
        // A closed or full queue: the session is ending, or knows already.
        _ = session.try_send(session::Event::Denied { serial });
        match self.token_after(serial).await {
            Some(token) => self.asked(call, Some(token)).await,
            None => outcome,
        }
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
    async fn asked(&self, call: &Call, token: Option<Arc<Token>>) -> Result<Answer, Error> {
        let mut order = self.order.clone();
        let known = order.wait_for(|list| !list.is_empty());
        let list = match timeout(self.settings.request_timeout, known).await {
            Ok(Ok(list)) => list.clone(),
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
        for server in list.iter().take(TRIES) {
            last = self.ask(server, call, token.as_deref()).await;
            let failed = match &last {
                Ok(answer) => {
                    // 409 is about one configuration, and a login's 500 about one user ("User x not found"): not about the
                    // server.
                    let spared = if call.what == "login" { 500 } else { 409 };
                    answer.verdict.clone().err().filter(|error| match error {
                        Error::Busy { status, .. } => *status != spared,
                        // Something else listens there: another server of the list may be one.
                        Error::Garbage { .. } => true,
                        _ => false,
                    })
                }
                Err(error) => Some(error.clone()),
            };
            let Some(error) = failed else {
                self.is_up(server);
                return last;
            };
            tracing::debug!(call = call.what, %error, "call failed");
            _ = self
                .servers
                .send(servers::Event::Failed(Arc::clone(server)))
                .await;
            why = Some(error);
        }
        // One server that fails is not the registry: only when nobody answered usably it is away.
        if let Some(error) = why {
            self.is_down(&error);
        }
        last
    }

    /// Asks one server once.
    async fn ask(
        &self,
        server: &Arc<str>,
        call: &Call,
        token: Option<&Token>,
    ) -> Result<Answer, Error> {
        let url = format!("{server}{}{}", self.settings.context_path, call.path);
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .timeout(call.within)
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
            what: in_words(&error, call.within),
        };
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status().as_u16();
        let sealed = response.headers().contains_key("content-md5");
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(lost)? {
            if body.len() + piece.len() > call.limit {
                return Err(Error::Garbage {
                    server: server.to_string(),
                    what: format!("an answer of more than {} bytes", call.limit),
                });
            }
            body.extend_from_slice(&piece);
        }
        let mut answer = Answer {
            server: Arc::clone(server),
            status,
            sealed,
            body,
            verdict: Ok(()),
        };
        answer.verdict = call.check(&answer);
        Ok(answer)
    }

    fn is_up(&self, server: &Arc<str>) {
        let news = self.connection.send_if_modified(|connection| {
            if connection.up && connection.server.as_deref() == Some(server) {
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
            tracing::info!(server = %server, "the registry answers");
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
        let call = Call {
            signed: false,
            ..self.naming("state", Method::GET, "/v1/console/server/state", Vec::new())
        };
        // What came of it is in the connection's state.
        _ = self.asked(&call, None).await;
        loop {
            self.news.notified().await;
            let Some(server) = self.connection.borrow().server.clone() else {
                continue;
            };
            let server: Arc<str> = server.into();
            let answer = self.ask(&server, &call, None).await;
            let version = answer.and_then(Answer::ok).ok().and_then(|answer| {
                let state: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
                Some(Foreign::new(state.get("version")?.as_str()?.to_owned()))
            });
            self.connection.send_if_modified(|connection| {
                let same = connection.server.as_deref() == Some(&*server);
                if same {
                    connection.version = version;
                }
                same
            });
        }
    }

    fn is_down(&self, error: &Error) {
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
            tracing::warn!(%reason, "the registry cannot be used");
        }
    }

    // -- the address server and the login

    async fn fetch_servers(&self) -> servers::Event {
        let Servers::Endpoint { url, .. } = &self.settings.servers else {
            return servers::Event::NotListed;
        };
        let request = self
            .http
            .get(url)
            .timeout(self.settings.request_timeout)
            .send();
        let text = match request.await.and_then(reqwest::Response::error_for_status) {
            Ok(mut response) => {
                let mut body = Vec::new();
                loop {
                    match response.chunk().await {
                        Ok(Some(piece)) if body.len() + piece.len() <= 64 * 1024 => {
                            body.extend_from_slice(&piece);
                        }
                        Ok(None) => break Some(String::from_utf8_lossy(&body).into_owned()),
                        Ok(Some(_)) | Err(_) => break None,
                    }
                }
            }
            Err(error) => {
                let what = in_words(&error, self.settings.request_timeout);
                tracing::warn!(%what, "the address server does not answer");
                None
            }
        };
        self.count("servers", text.is_some());
        match text.map(|text| listed_servers(&text)) {
            Some(list) if !list.is_empty() => servers::Event::Listed(list),
            _ => servers::Event::NotListed,
        }
    }

    async fn login(&self, serial: u64) -> session::Event {
        let Some(auth) = &self.settings.auth else {
            return session::Event::LoginFailed;
        };
        match self.logged_in(auth).await {
            Ok((text, ttl)) => {
                let trouble = self
                    .login_trouble
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                self.token
                    .send_replace(Some(Arc::new(Token { serial, text })));
                if trouble.is_some() {
                    tracing::info!(user = %auth.username, "logged in again");
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
                    tracing::debug!(user = %auth.username, %error, "the login failed again");
                } else {
                    tracing::warn!(user = %auth.username, %error, "the login failed");
                    *told = Some(error);
                }
                session::Event::LoginFailed
            }
        }
    }

    async fn logged_in(&self, auth: &Auth) -> Result<(Secret, Duration), String> {
        let password = password(&auth.password).await?;
        let call = Call {
            what: "login",
            method: Method::POST,
            path: "/v1/auth/login",
            query: Vec::new(),
            form: vec![
                ("username", auth.username.clone()),
                ("password", password.expose().to_owned()),
            ],
            headers: Vec::new(),
            within: self.settings.request_timeout,
            limit: NAMING_LIMIT,
            signed: false,
        };
        let answer = self.call(&call).await.map_err(|e| e.to_string())?;
        if answer.status != 200 {
            // Versions differ in status and text; every one of them means no.
            let words = answer::words(&answer.body);
            return Err(format!(
                "{} answered {}: {words}",
                answer.server, answer.status
            ));
        }
        let server = Arc::clone(&answer.server);
        let login: wire::Login = answer.json().map_err(|e| e.to_string())?;
        if login.access_token.is_empty()
            || !login.access_token.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(format!("{server} answered without a usable token"));
        }
        let ttl = Duration::from_secs(u64::try_from(login.token_ttl).unwrap_or(0));
        Ok((Secret::new(login.access_token), ttl))
    }

    fn count(&self, what: &'static str, ok: bool) {
        let outcome = if ok { "ok" } else { "unreachable" };
        self.metrics
            .registry_calls
            .get_or_create(&Outcome { what, outcome })
            .inc();
    }

    // -- naming

    /// Waits for a turn to write: at most `write_rate` a second, saved up for one second.
    async fn write_turn(&self) {
        let now = self.epoch.now();
        let step = Duration::from_secs(1) / self.settings.write_rate.max(1);
        let at = {
            let mut next = self
                .next_write
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(now.saturating_sub(Duration::from_secs(1)));
            *next = at + step;
            at
        };
        if at > now {
            tokio::time::sleep_until(self.epoch.instant(at)).await;
        }
    }

    fn slot(&self, key: &InstanceKey) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(key.clone()).or_default())
    }

    fn naming(
        &self,
        what: &'static str,
        method: Method,
        path: &'static str,
        query: Vec<(&'static str, String)>,
    ) -> Call {
        Call {
            what,
            method,
            path,
            query,
            form: Vec::new(),
            headers: Vec::new(),
            within: self.settings.request_timeout,
            limit: NAMING_LIMIT,
            signed: true,
        }
    }

    async fn register(&self, instance: &Instance) -> Result<(), Error> {
        self.write_turn().await;
        // Parameters in the query: 1.4.8 loses the form of a POST below /v1/ns.
        let mut query = identity(&instance.key, &instance.cluster);
        query.extend([
            ("weight", instance.weight.to_string()),
            ("healthy", instance.healthy.to_string()),
            ("enabled", instance.enabled.to_string()),
            ("enable", instance.enabled.to_string()),
            ("ephemeral", instance.ephemeral.to_string()),
            ("metadata", json_object(&instance.metadata)),
        ]);
        let call = self.naming("register", Method::POST, "/v1/ns/instance", query);
        self.call(&call).await?.ok()?.said_ok()
    }

    /// Carries out a call of the beat book and tells it the outcome.
    async fn beat(&self, effect: beats::Effect) {
        let (instance, turn) = match &effect {
            beats::Effect::Beat { instance, turn, .. }
            | beats::Effect::Register { instance, turn } => (instance, *turn),
            beats::Effect::Tell(..) => return,
        };
        let key = instance.key.clone();
        let slot = self.slot(&key);
        let _one_at_a_time = slot.busy.lock().await;
        if slot.turn.load(Ordering::Acquire) != turn {
            // Withdrawn or published anew while this call waited: nobody waits for its answer.
            return;
        }
        let Ok(_permit) = self.at_once.acquire().await else {
            return;
        };
        let event = match &effect {
            beats::Effect::Beat { light, period, .. } => {
                match self.send_beat(instance, *light, *period).await {
                    Ok(answer) if answer.code == wire::BEAT_NOT_FOUND => {
                        beats::Event::Unknown { key, turn }
                    }
                    Ok(answer) => beats::Event::Taken {
                        key,
                        turn,
                        interval: u64::try_from(answer.client_beat_interval)
                            .ok()
                            .map(Duration::from_millis),
                        light: answer.light_beat_enabled,
                    },
                    Err(error) => failed_event(key, turn, &error),
                }
            }
            _ => match self.register(instance).await {
                Ok(()) => beats::Event::Taken {
                    key,
                    turn,
                    interval: None,
                    light: None,
                },
                Err(error) => failed_event(key, turn, &error),
            },
        };
        _ = self.book.send(event).await;
    }

    async fn send_beat(
        &self,
        instance: &Instance,
        light: bool,
        period: Duration,
    ) -> Result<wire::BeatAnswer, Error> {
        let key = &instance.key;
        let mut query = identity(key, &instance.cluster);
        if !light {
            let beat = wire::Beat {
                ip: key.ip.to_string(),
                port: key.port.into(),
                // Without it 2.x and 3.x answer 10200 and let the instance die.
                service_name: key.service.grouped(),
                cluster: instance.cluster.to_string(),
                weight: instance.weight,
                metadata: instance
                    .metadata
                    .iter()
                    .map(|(key, value)| (key.clone(), wire::Loose(Some(value.clone()))))
                    .collect(),
                scheduled: false,
                period: i64::try_from(period.as_millis()).unwrap_or(i64::MAX),
                stopped: false,
                ephemeral: instance.ephemeral,
            };
            let json = serde_json::to_string(&beat).map_err(|e| Error::Garbage {
                server: String::new(),
                what: e.to_string(),
            })?;
            query.push(("beat", json));
        }
        let call = self.naming("beat", Method::PUT, "/v1/ns/instance/beat", query);
        let answer = self.call(&call).await?.ok()?;
        let server = Arc::clone(&answer.server);
        let answer: wire::BeatAnswer = answer.json()?;
        match answer.code {
            wire::BEAT_OK | wire::BEAT_NOT_FOUND => Ok(answer),
            code => Err(Error::Garbage {
                server: server.to_string(),
                what: format!("a beat's answer with code {code}"),
            }),
        }
    }

    async fn publish(&self, instance: Instance) -> Result<(), Error> {
        let slot = self.slot(&instance.key);
        let _one_at_a_time = slot.busy.lock().await;
        let _permit = self.at_once.acquire().await.map_err(|_| Error::Stopped)?;
        self.register(&instance).await?;
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        slot.turn.store(turn, Ordering::Release);
        self.book
            .send(beats::Event::Keep(instance, turn))
            .await
            .map_err(|_| Error::Stopped)
    }

    async fn withdraw(&self, instance: Instance) -> Result<(), Error> {
        let key = instance.key.clone();
        let slot = self.slot(&key);
        // First of all nothing new is said; then what is under way is waited for; then it is taken out.
        slot.turn.store(0, Ordering::Release);
        self.book
            .send(beats::Event::Forget(key.clone()))
            .await
            .map_err(|_| Error::Stopped)?;
        let _one_at_a_time = slot.busy.lock().await;
        let mut query = identity(&key, &instance.cluster);
        query.push(("ephemeral", instance.ephemeral.to_string()));
        let call = self.naming("deregister", Method::DELETE, "/v1/ns/instance", query);
        let answer = self.call(&call).await?;
        if answer.says_absent() {
            return Ok(());
        }
        answer.ok()?.said_ok()?;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Kept while somebody waits for it: two slots of one instance would not serialise.
        if slots
            .get(&key)
            .is_some_and(|slot| Arc::strong_count(slot) <= 2)
        {
            slots.remove(&key);
        }
        Ok(())
    }

    async fn read_back(&self, instance: Instance) -> Result<Option<Listed>, Error> {
        let key = &instance.key;
        let query = identity(key, &instance.cluster);
        let call = self.naming("detail", Method::GET, "/v1/ns/instance", query);
        let answer = self.call(&call).await?;
        if answer.says_absent() {
            return Ok(None);
        }
        let detail: wire::Detail = answer.ok()?.json()?;
        let mut listed: Listed = wire::Host {
            instance_id: None,
            ip: detail.ip,
            port: detail.port,
            weight: detail.weight,
            healthy: detail.healthy,
            // The detail does not say; the registrar does not judge by it.
            enabled: true,
            ephemeral: None,
            cluster_name: detail.cluster_name,
            service_name: None,
            metadata: detail.metadata,
            instance_heart_beat_interval: None,
            instance_heart_beat_time_out: None,
            ip_delete_timeout: None,
            instance_id_generator: None,
        }
        .into();
        listed
            .metadata
            .retain(|name, _| !name.raw().starts_with(preserved::PREFIX));
        Ok(Some(listed))
    }

    async fn list(
        &self,
        service: ServiceKey,
        clusters: Vec<String>,
        healthy_only: bool,
    ) -> Result<ServiceList, Error> {
        let query = vec![
            ("serviceName", service.grouped()),
            ("groupName", service.group.to_string()),
            ("namespaceId", service.namespace.naming_id().to_owned()),
            ("clusters", clusters.join(",")),
            ("healthyOnly", healthy_only.to_string()),
        ];
        let call = self.naming("list", Method::GET, "/v1/ns/instance/list", query);
        let answer: wire::ListAnswer = self.call(&call).await?.ok()?.json()?;
        Ok(answer.into())
    }

    // -- configuration

    async fn get_config(&self, key: ConfigKey) -> Result<Option<Content>, Error> {
        let mut query = vec![
            ("dataId", key.data_id.to_string()),
            ("group", key.group.to_string()),
        ];
        if !key.namespace.tenant().is_empty() {
            query.push(("tenant", key.namespace.tenant().to_owned()));
        }
        let call = Call {
            limit: CONFIG_LIMIT,
            ..self.naming("config_get", Method::GET, "/v1/cs/configs", query)
        };
        let answer = self.call(&call).await?;
        if answer.says_absent() {
            return Ok(None);
        }
        let answer = answer.ok()?;
        answer.is_sealed()?;
        Ok(Some(Content {
            md5: wire::md5_hex(&answer.body).into(),
            bytes: answer.body.into(),
        }))
    }

    /// Asks which of `keys` have another MD5; answered at once or at the end of the hold.
    async fn listen(&self, keys: &[(ConfigKey, Arc<str>)]) -> Result<Vec<ConfigKey>, Error> {
        let mut asked = String::new();
        for (key, md5) in keys {
            listening(key, md5).write_asked(&mut asked);
        }
        let hold = self.settings.long_poll;
        let call = Call {
            method: Method::POST,
            form: vec![("Listening-Configs", asked)],
            headers: vec![("Long-Pulling-Timeout", hold.as_millis().to_string())],
            within: hold + POLL_GRACE,
            ..self.naming(
                "config_listen",
                Method::POST,
                "/v1/cs/configs/listener",
                Vec::new(),
            )
        };
        let answer = self.call(&call).await?.ok()?;
        let garbage = |what: &str| Error::Garbage {
            server: answer.server.to_string(),
            what: what.to_owned(),
        };
        let text = percent_encoding::percent_decode(answer.body.trim_ascii())
            .decode_utf8()
            .map_err(|_| garbage("a listener's answer that is not UTF-8"))?;
        let changed = wire::Listening::read_changed(&text)
            .ok_or_else(|| garbage("a listener's answer of another form"))?;
        Ok(keys
            .iter()
            .filter(|(key, _)| {
                let ours = listening(key, "");
                changed.iter().any(|changed| {
                    changed.data_id == ours.data_id
                        && changed.group == ours.group
                        && (changed.tenant == ours.tenant
                            // 3.x names the public tenant where 1.4 and 2.x leave it out.
                            || changed.tenant == super::model::PUBLIC && ours.tenant.is_empty())
                })
            })
            .map(|(key, _)| key.clone())
            .collect())
    }
}

fn listening(key: &ConfigKey, md5: &str) -> wire::Listening {
    wire::Listening {
        data_id: key.data_id.to_string(),
        group: key.group.to_string(),
        md5: md5.to_owned(),
        tenant: key.namespace.tenant().to_owned(),
    }
}

fn failed_event(key: InstanceKey, turn: beats::Turn, error: &Error) -> beats::Event {
    let why = error.to_string();
    match error.retry() {
        super::Retry::Never => beats::Event::Refused { key, turn, why },
        _ => beats::Event::Failed { key, turn, why },
    }
}

/// The parameters every call about an instance has.
fn identity(key: &InstanceKey, cluster: &str) -> Vec<(&'static str, String)> {
    vec![
        ("serviceName", key.service.grouped()),
        ("groupName", key.service.group.to_string()),
        ("namespaceId", key.service.namespace.naming_id().to_owned()),
        ("clusterName", cluster.to_owned()),
        ("cluster", cluster.to_owned()),
        ("ip", key.ip.to_string()),
        ("port", key.port.to_string()),
    ]
}

fn json_object(map: &BTreeMap<String, String>) -> String {
    let object: serde_json::Map<_, _> = map
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    serde_json::Value::Object(object).to_string()
}

/// The servers in an address server's answer: one a line, `host`, `host:port` or with a scheme; port 8848 where none is named.
fn listed_servers(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && line.len() <= 300)
        .filter(|line| line.chars().all(|c| c.is_ascii_graphic()) && !line.contains('@'))
        .take(64)
        .filter_map(|line| {
            let full = if line.contains("://") {
                line.to_owned()
            } else {
                format!("http://{line}")
            };
            let url = reqwest::Url::parse(&full).ok()?;
            // The parser drops a port that is the scheme's own; here a missing one means 8848.
            let authority = full.split("://").nth(1)?.split('/').next()?;
            let written = authority
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok());
            let port: u16 = written.unwrap_or(8848);
            let plain = matches!(url.scheme(), "http" | "https");
            plain.then_some(format!("{}://{}:{port}", url.scheme(), url.host_str()?))
        })
        .collect()
}

async fn password(source: &PasswordSource) -> Result<Secret, String> {
    use tokio::io::AsyncReadExt as _;
    match source {
        PasswordSource::Inline(text) => Ok(Secret::new(text.clone())),
        PasswordSource::File(path) => {
            let in_words = |e: io::Error| format!("cannot read {}: {e}", path.display());
            let file = tokio::fs::File::open(path).await.map_err(in_words)?;
            let mut text = String::new();
            let mut limited = file.take(PASSWORD_LIMIT);
            limited.read_to_string(&mut text).await.map_err(in_words)?;
            let end = text.strip_suffix('\n').map_or(text.len(), str::len);
            text.truncate(end);
            Ok(Secret::new(text))
        }
    }
}

impl Transport for Http {
    fn publish(&self, instance: Instance) -> Reply<()> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { client.publish(instance).await })
    }

    fn withdraw(&self, instance: Instance) -> Reply<()> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { client.withdraw(instance).await })
    }

    fn read_back(&self, instance: Instance) -> Reply<Option<Listed>> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { client.read_back(instance).await })
    }

    fn list(
        &self,
        service: ServiceKey,
        clusters: Vec<String>,
        healthy_only: bool,
    ) -> Reply<ServiceList> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { client.list(service, clusters, healthy_only).await })
    }

    fn get_config(&self, key: ConfigKey) -> Reply<Option<Content>> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { client.get_config(key).await })
    }

    fn watch_configs(
        &self,
        mut keys: watch::Receiver<BTreeSet<ConfigKey>>,
        told: mpsc::Sender<(ConfigKey, ConfigState)>,
    ) {
        let client = Arc::clone(&self.0);
        let (events_tx, events_rx) = mpsc::channel(QUEUE);
        let wanted = events_tx.clone();
        self.0.tasks.spawn("wanted-configs", async move {
            loop {
                let now = keys.borrow_and_update().clone();
                if wanted.send(poll::Event::Wanted(now)).await.is_err()
                    || keys.changed().await.is_err()
                {
                    return;
                }
            }
        });
        self.0.tasks.spawn_to_end("poll", async move {
            let stop = client.tasks.token();
            let mut parked = CancellationToken::new();
            let perform = |effect| {
                if matches!(effect, poll::Effect::Cancel | poll::Effect::Poll(..)) {
                    parked.cancel();
                    parked = CancellationToken::new();
                }
                let (client, events) = (Arc::clone(&client), events_tx.clone());
                let (told, given_up) = (told.clone(), parked.clone());
                async move {
                    let tasks = client.tasks.clone();
                    match effect {
                        poll::Effect::Tell(key, state) => _ = told.send((key, state)).await,
                        poll::Effect::Cancel => {}
                        poll::Effect::Fetch(key) => tasks.spawn("fetch-config", async move {
                            let event = match client.get_config(key.clone()).await {
                                Ok(Some(content)) => poll::Event::Fetched(key, content),
                                Ok(None) => poll::Event::NotFound(key),
                                Err(error) => poll::Event::FetchFailed(key, error.to_string()),
                            };
                            _ = events.send(event).await;
                        }),
                        poll::Effect::Poll(number, asked) => tasks.spawn("long-poll", async move {
                            let outcome = tokio::select! {
                                biased;
                                () = given_up.cancelled() => return,
                                outcome = client.listen(&asked) => outcome,
                            };
                            let event = match outcome {
                                Ok(changed) => poll::Event::Answered(number, changed),
                                Err(error) => {
                                    tracing::debug!(%error, "the long poll failed");
                                    poll::Event::PollFailed(number)
                                }
                            };
                            _ = events.send(event).await;
                        }),
                    }
                }
            };
            let machine = poll::Poll::new(client.seed.rotate_left(33));
            drive(machine, client.epoch, events_rx, perform, stop).await;
        });
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.0.connection.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_servers_answer_is_read_with_ports_and_without_nonsense() {
        let text = "10.0.0.1:8848\n\n# old\n10.0.0.2\nhttps://nacos:443\nuser:pass@evil:1\n[fd00::1]:9000\nftp://x:1\n";
        assert_eq!(
            listed_servers(text),
            [
                "http://10.0.0.1:8848",
                "http://10.0.0.2:8848",
                "https://nacos:443",
                "http://[fd00::1]:9000"
            ]
        );
    }
}
