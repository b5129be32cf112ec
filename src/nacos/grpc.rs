//! The transport over gRPC (2.1.1 and later): the shells around the link, the roll and the poll, over one connection.
//!
//! Ephemeral instances live as long as the connection: the roll says them again on each new one. Persistent ones belong to no
//! connection: the beat book keeps them, its calls go over gRPC where the server takes them so. Configurations are listened
//! to on the connection, and the doubts of the poll are put to other nodes over HTTP. The login is made over HTTP too; the token
//! goes with every request.

use super::beats::{Said, Say};
use super::book::Book;
use super::channel::{Channel, Push, Trouble};
use super::client::{Client, QUEUE, Token};
use super::model::{
    ConfigKey, ConfigState, Connection, Content, Instance, ListState, Listed, Namespace,
    ServiceKey, ServiceList, Standing,
};
use super::route::Whom;
use super::rpc::Message;
use super::tickets::Tickets;
use super::watching::{Lister, Source};
use super::{
    Error, Reply, Standings, Transport, calls, channel, http, link, lists, poll, roll, rpc,
    servers, watching, wire,
};
use crate::machine::drive;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

/// A configuration is compared again so often, whatever was pushed: a push can be lost.
const HOLD: Duration = Duration::from_secs(180);
/// Pushes of one connection that wait to be looked at.
const PUSHES: usize = 64;

/// The connection in use, by its number.
type Current = Option<(u64, Arc<Channel>)>;

/// A poll that is held until something changes.
struct Parked {
    keys: BTreeSet<ConfigKey>,
    tell: oneshot::Sender<Vec<ConfigKey>>,
}

/// How the connection is; for who chooses between transports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// There is one.
    Connected,
    /// There is none, or none yet.
    Lost,
    /// No server can be reached; why the last one could not.
    Unreachable(String),
}

struct Shell {
    client: Arc<Client>,
    link: mpsc::Sender<link::Event>,
    roll: mpsc::Sender<roll::Event>,
    tickets: Tickets,
    /// All that are open: the one in use, and its predecessor or successor.
    channels: Mutex<BTreeMap<u64, Arc<Channel>>>,
    current: watch::Sender<Current>,
    parked: Mutex<Option<Parked>>,
    news: watch::Sender<News>,
    /// Whether the state of the connection is ours to show.
    shown: watch::Sender<bool>,
    /// Who hears what is pushed of services, once they are watched.
    lists: OnceLock<mpsc::Sender<lists::Event>>,
}

/// See the head of this file.
pub(super) struct Grpc {
    shell: Arc<Shell>,
    book: Arc<Book>,
}

/// Starts the transport: it connects at once, and its machines run until the client's tasks stop.
pub(super) fn start(client: &Arc<Client>, standings: Standings) -> Arc<Grpc> {
    let (link_tx, link_rx) = mpsc::channel(QUEUE);
    let (roll_tx, roll_rx) = mpsc::channel(QUEUE);
    let shell = Arc::new(Shell {
        client: Arc::clone(client),
        link: link_tx.clone(),
        roll: roll_tx,
        tickets: Tickets::default(),
        channels: Mutex::default(),
        current: watch::Sender::new(None),
        parked: Mutex::default(),
        news: watch::Sender::new(News::Lost),
        shown: watch::Sender::new(false),
        lists: OnceLock::new(),
    });
    let tasks = &client.tasks;

    let keeper = Arc::clone(&shell);
    tasks.spawn_to_end("link", async move {
        let (epoch, stop) = (keeper.client.epoch, keeper.client.tasks.token());
        let machine = link::Link::new(keeper.client.seed.rotate_left(41));
        let perform = |effect| {
            let shell = Arc::clone(&keeper);
            async move { shell.link_wants(effect).await }
        };
        drive(machine, epoch, link_rx, perform, stop).await;
        // An orderly end closes what is left; what was on it has been taken out.
        keeper.channels().clear();
        keeper.current.send_replace(None);
    });

    let (mut order, news) = (client.order.clone(), link_tx);
    tasks.spawn("servers of the link", async move {
        loop {
            let servers = order.borrow_and_update().servers.clone();
            if news.send(link::Event::Order(servers)).await.is_err()
                || order.changed().await.is_err()
            {
                return;
            }
        }
    });

    let (keeper, told) = (Arc::clone(&shell), standings.clone());
    tasks.spawn_to_end("roll", async move {
        let (epoch, stop) = (keeper.client.epoch, keeper.client.tasks.token());
        let settings = &keeper.client.settings;
        let machine = roll::Roll::new(
            settings.write_rate,
            settings.request_timeout,
            keeper.client.seed.rotate_left(23),
        );
        let perform = |effect| {
            let (shell, told) = (Arc::clone(&keeper), told.clone());
            async move { shell.roll_wants(effect, &told).await }
        };
        drive(machine, epoch, roll_rx, perform, stop).await;
    });

    let speaker = Arc::clone(&shell);
    let speak = move |say: Say| -> Reply<Said> {
        let shell = Arc::clone(&speaker);
        Box::pin(async move { shell.say(say).await })
    };
    let book = Book::start(client, standings, Arc::new(speak));
    Arc::new(Grpc { shell, book })
}

impl Shell {
    // After a panic these are plain data and go on.
    fn channels(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parked(&self) -> MutexGuard<'_, Option<Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn link_wants(self: Arc<Self>, effect: link::Effect) {
        let client = &self.client;
        match effect {
            link::Effect::Open(number, server) => {
                let shell = Arc::clone(&self);
                client
                    .tasks
                    .spawn("connect", async move { shell.open(number, server).await });
            }
            link::Effect::Close(number) => {
                let channel = self.channels().remove(&number);
                if let Some(channel) = channel {
                    channel.close();
                    // Of the one in use the link says that it is lost, and why.
                    let current = self.current.borrow().as_ref().map(|(number, _)| *number);
                    if current != Some(number) {
                        let why = format!("{}: another connection took its place", channel.server);
                        _ = self.roll.send(roll::Event::Lost(number, why)).await;
                    }
                }
            }
            link::Effect::Check(number) => {
                let shell = Arc::clone(&self);
                client
                    .tasks
                    .spawn("health", async move { shell.check(number).await });
            }
            link::Effect::Use(number, server) => {
                let Some(channel) = self.channels().get(&number).cloned() else {
                    // It is closed already, and the link is being told.
                    return;
                };
                self.current.send_replace(Some((number, channel)));
                // What was asked on another connection is asked again on this one.
                self.parked().take();
                _ = self.roll.send(roll::Event::Connected(number)).await;
                if let Some(lists) = self.lists.get() {
                    _ = lists.send(lists::Event::Anew).await;
                }
                self.show_up(&server);
                self.news.send_replace(News::Connected);
                _ = client.servers.send(servers::Event::Answered(server)).await;
            }
            link::Effect::Lost(number, why) => {
                self.current.send_replace(None);
                self.parked().take();
                self.news.send_replace(News::Lost);
                tracing::debug!(connection = number, %why, "connection lost");
                let why = format!("{}: {why}", client.first_server());
                _ = self.roll.send(roll::Event::Lost(number, why)).await;
            }
            link::Effect::Failed(server) => {
                _ = client.servers.send(servers::Event::Failed(server)).await;
            }
            link::Effect::Away(why) => {
                self.show_down(&why);
                self.news.send_replace(News::Unreachable(why));
            }
            link::Effect::Back => {
                if *self.shown.borrow() {
                    client
                        .connection
                        .send_modify(|connection| connection.returns += 1);
                }
            }
        }
    }

    fn show_up(&self, server: &Arc<str>) {
        if *self.shown.borrow() {
            self.client.is_up(server, Whom::Preferred);
        }
    }

    fn show_down(&self, why: &str) {
        if *self.shown.borrow() {
            let server = self.client.first_server();
            self.client.is_down(&Error::Unreachable {
                server,
                what: why.to_owned(),
            });
        }
    }

    async fn open(self: Arc<Self>, number: u64, server: Arc<str>) {
        let (pushes, arrived) = mpsc::channel(PUSHES);
        let event = match Channel::open(&self.client, &server, pushes).await {
            Ok(channel) => {
                self.channels().insert(number, Arc::new(channel));
                let shell = Arc::clone(&self);
                self.client.tasks.spawn("pushes", async move {
                    shell.take_pushes(number, arrived).await;
                });
                self.client.count("connect", "ok");
                link::Event::Opened(number)
            }
            Err(why) => {
                self.client.count("connect", "unreachable");
                tracing::debug!(server = %server, %why, "no gRPC connection");
                link::Event::Ended(number, why)
            }
        };
        // A closed queue means that the agent is stopping; that is so below as well.
        _ = self.link.send(event).await;
    }

    async fn take_pushes(&self, number: u64, mut arrived: mpsc::Receiver<Push>) {
        while let Some(push) = arrived.recv().await {
            let event = match push {
                Push::Sign => link::Event::Heard(number),
                Push::Reset(named) => link::Event::Reset(number, named),
                Push::Ended(why) => link::Event::Ended(number, why),
                Push::Service(group, name, list) => {
                    if let Some(lists) = self.lists.get() {
                        let (group, name) = (group.into(), name.into());
                        _ = lists.send(lists::Event::Pushed { group, name, list }).await;
                    }
                    link::Event::Heard(number)
                }
                Push::Config(namespace, group, data_id) => {
                    self.changed(&namespace, &group, &data_id);
                    link::Event::Heard(number)
                }
            };
            _ = self.link.send(event).await;
        }
    }

    /// Answers the poll that is held, if it asked for this configuration. One that it did not ask for is being fetched just
    /// now, and compared again afterwards.
    fn changed(&self, namespace: &Namespace, group: &str, data_id: &str) {
        let key = ConfigKey {
            namespace: namespace.clone(),
            group: group.into(),
            data_id: data_id.into(),
        };
        let parked = self.parked().take_if(|parked| parked.keys.contains(&key));
        if let Some(parked) = parked {
            // Who does not wait any more has been given up.
            _ = parked.tell.send(vec![key]);
        }
    }

    async fn check(&self, number: u64) {
        let channel = self.channels().get(&number).cloned();
        let event = match channel {
            None => return,
            Some(channel) => match channel.health().await {
                // That it says no is a sign of life.
                Ok(()) | Err(Trouble::Said(_)) => link::Event::Heard(number),
                // Its stream may live, and what was registered on it; if not, the stream tells.
                Err(Trouble::Broken(_)) if channel.takes_no_more() => {
                    link::Event::Reset(number, None)
                }
                Err(Trouble::Silent(_) | Trouble::Broken(_)) => link::Event::Missed(number),
                Err(gone @ Trouble::Unregistered(_)) => {
                    link::Event::Ended(number, gone.to_string())
                }
            },
        };
        _ = self.link.send(event).await;
    }

    // -- requests

    /// The connection in use; waited for as long as a call may take.
    async fn current(&self) -> Result<(u64, Arc<Channel>), Error> {
        let mut current = self.current.subscribe();
        let known = current.wait_for(Option::is_some);
        match timeout(self.client.settings.request_timeout, known).await {
            Ok(Ok(current)) => (*current).clone().ok_or(Error::Stopped),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::Unreachable {
                server: self.client.first_server(),
                what: "no gRPC connection".to_owned(),
            }),
        }
    }

    /// Makes a request on the connection in use; the answer and who gave it.
    async fn ask<R: rpc::Request>(
        &self,
        what: &'static str,
        request: &R,
    ) -> Result<(R::Answer, Arc<str>), Error> {
        let (number, channel) = self.current().await?;
        let payload = rpc::Payload::new(request);
        let answer = self.ask_on(number, &channel, what, payload).await?;
        let answer = channel::read::<R>(&channel.server, &answer)?;
        Ok((answer, Arc::clone(&channel.server)))
    }

    /// Makes a request on one connection: a new token once.
    async fn ask_on(
        &self,
        number: u64,
        channel: &Channel,
        what: &'static str,
        payload: rpc::Payload,
    ) -> Result<rpc::Payload, Error> {
        let outcome = self.ask_signed(number, channel, payload).await;
        let word = match &outcome {
            Err(error) if !says_absent(error) => error.word(),
            // That there is none is an answer.
            _ => "ok",
        };
        self.client.count(what, word);
        outcome
    }

    async fn ask_signed(
        &self,
        number: u64,
        channel: &Channel,
        payload: rpc::Payload,
    ) -> Result<rpc::Payload, Error> {
        let token = self.client.token().await;
        let serial = token.as_ref().map_or(0, |token| token.serial);
        let outcome = self.ask_once(number, channel, payload.clone(), token).await;
        let Err(Error::Denied { message, .. }) = &outcome else {
            return outcome;
        };
        let no = message.raw().as_bytes();
        match self.client.token_in_place_of(serial, no).await {
            Some(token) => self.ask_once(number, channel, payload, Some(token)).await,
            None => outcome,
        }
    }

    async fn ask_once(
        &self,
        number: u64,
        channel: &Channel,
        payload: rpc::Payload,
        token: Option<Arc<Token>>,
    ) -> Result<rpc::Payload, Error> {
        let mut headers = token.map_or_else(BTreeMap::new, |token| {
            BTreeMap::from([("accessToken".to_owned(), token.text.expose().to_owned())])
        });
        // Servers up to 2.4 look for the tag here, later ones in the labels of the connection.
        if let Some(tag) = &self.client.settings.config_tag {
            headers.insert(calls::TAG.to_owned(), tag.clone());
        }
        let within = self.client.settings.request_timeout;
        let writes = [rpc::InstanceRequest::KIND, rpc::BatchInstanceRequest::KIND];
        let writes = writes.contains(&payload.kind());
        let outcome = channel.ask(payload, headers, within).await;
        let event = match &outcome {
            Ok(_) | Err(Trouble::Said(_)) => link::Event::Heard(number),
            // Calls are not carried out in the order in which they were made.
            Err(Trouble::Silent(_)) if writes => link::Event::Late(number),
            Err(Trouble::Silent(_) | Trouble::Broken(_)) => link::Event::Doubted(number),
            Err(gone @ Trouble::Unregistered(_)) => link::Event::Ended(number, gone.to_string()),
        };
        _ = self.link.send(event).await;
        outcome.map_err(|trouble| trouble.error(&channel.server))
    }

    // -- instances

    async fn roll_wants(self: Arc<Self>, effect: roll::Effect, told: &Standings) {
        match effect {
            roll::Effect::Call(number, say) => {
                let shell = Arc::clone(&self);
                self.client.tasks.spawn("instance-call", async move {
                    let outcome = shell.say_on(number, &say).await;
                    let event = roll::Event::Called(say.service().clone(), number, outcome);
                    _ = shell.roll.send(event).await;
                });
            }
            roll::Effect::Answer(ticket, outcome) => self.tickets.answer(ticket, outcome),
            roll::Effect::Tell(key, standing) => {
                if standing == Standing::Restored {
                    self.client.metrics.restorations.inc();
                }
                _ = told.send((key, standing)).await;
            }
            roll::Effect::Settled(number) => {
                _ = self.link.send(link::Event::Settled(number)).await;
            }
        }
    }

    async fn say_on(&self, number: u64, say: &roll::Say) -> Result<(), Error> {
        let Some(channel) = self.channels().get(&number).cloned() else {
            return Err(Error::Unreachable {
                server: self.client.first_server(),
                what: "the connection has ended".to_owned(),
            });
        };
        let what = match say {
            roll::Say::Register(_) | roll::Say::Batch(..) => "register",
            roll::Say::Deregister(_) => "deregister",
        };
        let asked = self.ask_on(number, &channel, what, say.payload()).await;
        asked.map(|_| ())
    }

    /// Makes a call of the book, which keeps persistent instances here: over gRPC where that can be.
    async fn say(&self, say: Say) -> Result<Said, Error> {
        match &say {
            Say::Kind(instance) => {
                let list = self.query(&instance.key.service, &[], false).await?;
                Ok(Said::List(list))
            }
            Say::Register(instance) | Say::Deregister(instance) => {
                let (number, channel) = self.current().await?;
                let takes_it = channel.abilities.get(rpc::PERSISTENT_BY_GRPC);
                if takes_it.copied() != Some(true) {
                    return http::say_over_http(&self.client, &say).await;
                }
                let (what, kind) = match &say {
                    Say::Register(_) => ("register", rpc::REGISTER),
                    _ => ("deregister", rpc::DEREGISTER),
                };
                let payload = rpc::Payload::new(&persistent(instance, kind));
                let asked = self.ask_on(number, &channel, what, payload).await;
                asked.map(|_| Said::Done)
            }
            _ => http::say_over_http(&self.client, &say).await,
        }
    }

    async fn query(
        &self,
        service: &ServiceKey,
        clusters: &[String],
        healthy_only: bool,
    ) -> Result<ServiceList, Error> {
        let request = rpc::ServiceQueryRequest {
            namespace: Some(service.namespace.naming_id().to_owned()),
            service_name: service.name.to_string(),
            group_name: service.group.to_string(),
            cluster: clusters.join(","),
            healthy_only,
            udp_port: 0,
            module: NAMING.to_owned(),
        };
        let (answer, _) = self.ask("list", &request).await?;
        Ok(answer.service_info.unwrap_or_default().into())
    }

    async fn subscribe(&self, service: &ServiceKey, subscribe: bool) -> Result<ServiceList, Error> {
        let request = rpc::SubscribeServiceRequest {
            namespace: Some(service.namespace.naming_id().to_owned()),
            service_name: service.name.to_string(),
            group_name: service.group.to_string(),
            subscribe,
            clusters: String::new(),
            module: NAMING.to_owned(),
        };
        let (answer, _) = self.ask("subscribe", &request).await?;
        Ok(answer.service_info.unwrap_or_default().into())
    }

    /// The instance as the node of the connection has it, its health never masked.
    async fn detail(&self, instance: &Instance) -> Result<Option<Listed>, Error> {
        let service = &instance.key.service;
        let list = self.query(service, &[], false).await?;
        if !list.protected {
            return Ok(calls::among(list, instance));
        }
        // Who asks for the healthy ones alone is told the truth.
        let healthy = self.query(service, &[], true).await?;
        Ok(calls::unmasked(list, healthy, instance))
    }

    /// By turns at the node of the connection and at another one, over HTTP.
    async fn read_back(&self, instance: &Instance) -> Result<Option<Listed>, Error> {
        let servers = self.client.order.borrow().servers.len();
        let whom = self.client.next_read();
        match whom {
            Whom::Other(place) if servers > 1 && place % 2 == 1 => {
                match self
                    .client
                    .detail(instance, Whom::Other(place / 2 + 1))
                    .await
                {
                    // It serves no such path, or nobody but this node answers.
                    Err(_) => self.detail(instance).await,
                    told => told,
                }
            }
            _ => self.detail(instance).await,
        }
    }

    async fn is_gone(&self, instance: &Instance) -> Result<bool, Error> {
        let here = self.detail(instance).await;
        if matches!(here, Ok(Some(_))) {
            return Ok(false);
        }
        let servers = self.client.order.borrow().servers.len();
        let elsewhere = if servers > 1 {
            self.client.is_gone(instance).await
        } else {
            Err(Error::Stopped)
        };
        match (here, elsewhere) {
            (_, Ok(false)) => Ok(false),
            (Ok(_), _) | (_, Ok(true)) => Ok(true),
            (Err(error), Err(_)) => Err(error),
        }
    }

    // -- configuration

    async fn get_config(&self, key: &ConfigKey) -> Result<Option<(Content, Arc<str>)>, Error> {
        let request = rpc::ConfigQueryRequest {
            data_id: key.data_id.to_string(),
            group: key.group.to_string(),
            tenant: key.namespace.tenant().to_owned(),
            tag: None,
            module: CONFIG.to_owned(),
        };
        let (answer, server) = match self.ask("config_get", &request).await {
            Err(error) if says_absent(&error) => return Ok(None),
            answered => answered?,
        };
        let garbage = |what: &str| Error::Garbage {
            server: server.to_string(),
            what: what.to_owned(),
        };
        let Some(content) = answer.content else {
            return Err(garbage("a configuration without content"));
        };
        let md5 = wire::md5_hex(content.as_bytes());
        let sealed = answer.md5.unwrap_or_default();
        // Of an encrypted one it is that of another text.
        let data_key = answer.encrypted_data_key.filter(|key| !key.is_empty());
        let encrypted = data_key.is_some();
        if sealed.is_empty() || sealed != md5 && !encrypted {
            return Err(garbage(
                "a configuration with another MD5 than its content has",
            ));
        }
        let modified = u64::try_from(answer.last_modified / 1000).ok();
        let content = Content {
            modified: modified.filter(|modified| *modified > 0),
            kind: answer
                .content_type
                .filter(|kind| !kind.is_empty())
                .map(Arc::from),
            data_key: data_key.map(Arc::from),
            ..Content::of(content.into_bytes())
        };
        Ok(Some((content.sealed(key, &sealed), server)))
    }

    async fn listen(&self, asked: Vec<(ConfigKey, Arc<str>)>) -> Result<Vec<ConfigKey>, Error> {
        let (tell, told) = oneshot::channel();
        let keys: BTreeSet<ConfigKey> = asked.iter().map(|(key, _)| key.clone()).collect();
        let (number, channel) = self.current().await?;
        // Before it is asked: a change may be told sooner than the answer.
        self.parked().replace(Parked {
            keys: keys.clone(),
            tell,
        });
        let contexts = asked.iter().map(|(key, md5)| rpc::ListenContext {
            group: key.group.to_string(),
            md5: md5.to_string(),
            data_id: key.data_id.to_string(),
            tenant: key.namespace.tenant().to_owned(),
        });
        let request = rpc::ConfigBatchListenRequest {
            listen: true,
            config_listen_contexts: contexts.collect(),
            module: CONFIG.to_owned(),
        };
        let payload = rpc::Payload::new(&request);
        let answer = self
            .ask_on(number, &channel, "config_listen", payload)
            .await?;
        let answer = channel::read::<rpc::ConfigBatchListenRequest>(&channel.server, &answer)?;
        let changed: Vec<ConfigKey> = (answer.changed_configs.into_iter())
            .map(|changed| ConfigKey {
                namespace: Namespace::new(changed.tenant.as_deref().unwrap_or_default()),
                group: changed.group.into(),
                data_id: changed.data_id.into(),
            })
            .filter(|key| keys.contains(key))
            .collect();
        if !changed.is_empty() {
            return Ok(changed);
        }
        tokio::select! {
            biased;
            told = told => told.map_err(|_| Error::Unreachable {
                server: channel.server.to_string(),
                what: "the connection has ended".to_owned(),
            }),
            () = sleep(HOLD) => Ok(Vec::new()),
        }
    }

    /// Takes configurations that are wanted no more out of what the server tells of.
    async fn listen_no_more(&self, keys: &BTreeSet<ConfigKey>) {
        let contexts = keys.iter().map(|key| rpc::ListenContext {
            group: key.group.to_string(),
            md5: String::new(),
            data_id: key.data_id.to_string(),
            tenant: key.namespace.tenant().to_owned(),
        });
        let request = rpc::ConfigBatchListenRequest {
            listen: false,
            config_listen_contexts: contexts.collect(),
            module: CONFIG.to_owned(),
        };
        // It saves pushes that nobody looks at; the next connection has none of them.
        if let Err(error) = self.ask("config_listen", &request).await {
            tracing::debug!(%error, "could not stop listening");
        }
    }
}

const NAMING: &str = "naming";
const CONFIG: &str = "config";

/// Whether it says that there is no such configuration; its code is also that of a server that is starting.
fn says_absent(error: &Error) -> bool {
    matches!(error, Error::Busy { message, .. } if message.raw().contains("config data not exist"))
}

fn persistent(instance: &Instance, kind: &str) -> rpc::PersistentInstanceRequest {
    let service = &instance.key.service;
    rpc::PersistentInstanceRequest {
        namespace: Some(service.namespace.naming_id().to_owned()),
        service_name: service.name.to_string(),
        group_name: service.group.to_string(),
        r#type: kind.to_owned(),
        instance: Some(instance.into()),
        module: NAMING.to_owned(),
    }
}

/// Configurations as the connection tells them, and what it tells doubtfully as other nodes do.
struct Listened(Arc<Shell>);

impl Source for Listened {
    fn fetch(&self, key: ConfigKey, whom: Whom) -> Reply<Option<(Content, Arc<str>)>> {
        let shell = Arc::clone(&self.0);
        Box::pin(async move {
            let servers = shell.client.order.borrow().servers.len();
            match whom {
                Whom::Other(place) if place > 0 && servers > 1 && shell.client.has_v1() => {
                    match shell.client.get_config(&key, whom).await {
                        // It serves no such path, or nobody but the connection's node answers.
                        Err(_) => shell.get_config(&key).await,
                        told => told,
                    }
                }
                _ => shell.get_config(&key).await,
            }
        })
    }

    fn listen(&self, asked: Vec<(ConfigKey, Arc<str>)>, _: Whom) -> Reply<Vec<ConfigKey>> {
        let shell = Arc::clone(&self.0);
        Box::pin(async move { shell.listen(asked).await })
    }
}

/// Lists as the connection tells them.
struct Subscribed(Arc<Shell>);

impl Lister for Subscribed {
    fn ask(&self, service: ServiceKey) -> Reply<ServiceList> {
        let shell = Arc::clone(&self.0);
        Box::pin(async move { shell.subscribe(&service, true).await })
    }

    fn leave(&self, service: ServiceKey) -> Reply<()> {
        let shell = Arc::clone(&self.0);
        Box::pin(async move { shell.subscribe(&service, false).await.map(|_| ()) })
    }
}

impl Grpc {
    /// How the connection is.
    pub(super) fn news(&self) -> watch::Receiver<News> {
        self.shell.news.subscribe()
    }

    /// Whether this transport does the work: then its connection is what `status` shows, else it is looked for at leisure.
    pub(super) async fn works(&self, works: bool) {
        self.shell.shown.send_replace(works);
        let current = self.shell.current.borrow().clone();
        if let (true, Some((_, channel))) = (works, current) {
            self.shell.show_up(&channel.server);
        }
        _ = self.shell.link.send(link::Event::Idle(!works)).await;
    }
}

impl Transport for Grpc {
    fn publish(&self, instance: Instance) -> Reply<()> {
        let (shell, book) = (Arc::clone(&self.shell), Arc::clone(&self.book));
        Box::pin(async move {
            if !instance.ephemeral {
                return book.publish(instance).await;
            }
            let event = |ticket| roll::Event::Publish(ticket, instance);
            shell.tickets.ask(&shell.roll, event).await
        })
    }

    fn withdraw(&self, instance: Instance) -> Reply<()> {
        let (shell, book) = (Arc::clone(&self.shell), Arc::clone(&self.book));
        Box::pin(async move {
            if !instance.ephemeral {
                return book.withdraw(instance).await;
            }
            let event = |ticket| roll::Event::Withdraw(ticket, instance);
            shell.tickets.ask(&shell.roll, event).await
        })
    }

    fn read_back(&self, instance: Instance) -> Reply<Option<Listed>> {
        let shell = Arc::clone(&self.shell);
        Box::pin(async move { shell.read_back(&instance).await })
    }

    fn is_gone(&self, instance: Instance) -> Reply<bool> {
        let shell = Arc::clone(&self.shell);
        Box::pin(async move { shell.is_gone(&instance).await })
    }

    fn watch_configs(
        &self,
        keys: watch::Receiver<BTreeSet<ConfigKey>>,
        told: mpsc::Sender<(ConfigKey, ConfigState)>,
    ) {
        let client = &self.shell.client;
        let (mut wanted, shell) = (keys.clone(), Arc::clone(&self.shell));
        client.tasks.spawn("unwanted-configs", async move {
            loop {
                let before = wanted.borrow_and_update().clone();
                if wanted.changed().await.is_err() {
                    return;
                }
                let now = wanted.borrow().clone();
                let gone: BTreeSet<ConfigKey> = before.difference(&now).cloned().collect();
                if !gone.is_empty() {
                    shell.listen_no_more(&gone).await;
                }
            }
        });
        let machine = poll::Poll::on_one_node(client.seed.rotate_left(33));
        let source = Listened(Arc::clone(&self.shell));
        watching::start(client, source, machine, keys, told);
    }

    fn watch_services(
        &self,
        services: watch::Receiver<BTreeSet<ServiceKey>>,
        told: mpsc::Sender<(ServiceKey, ListState)>,
    ) {
        let (events, heard) = mpsc::channel(QUEUE);
        // It is called once.
        _ = self.shell.lists.set(events.clone());
        let (client, lister) = (&self.shell.client, Subscribed(Arc::clone(&self.shell)));
        let every = lists::Every::PUSHED;
        watching::start_lists(client, lister, every, services, told, (events, heard));
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.shell.client.connection.subscribe()
    }
}
