//! One gRPC connection to one server: a TCP connection of its own, the stream that makes it a client, and the requests on it.
//!
//! The TCP connection is what the server knows: what was registered over it is gone with it, and not before. So it is never
//! replaced silently: it is opened, set up and given up as one thing, and when its stream ends all of it is closed (a connection
//! without its stream keeps its instances and gets no pushes). Pushes are acknowledged here, as soon as they are read.

use super::Error;
use super::answer;
use super::client::Client;
use super::model::{Namespace, ServiceList};
use super::rpc::{self, Message, Outcome, Payload};
use crate::descriptor::settings::Registry;
use crate::foreign::Foreign;
use crate::tasks::Tasks;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    http::uri::PathAndQuery,
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time,
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, client::GrpcService};
use tonic_prost::ProstCodec;

/// For the first question to a server, and for each step of the setup.
const STEP: Duration = Duration::from_secs(3);
/// Between the questions whether the setup has been taken, by a server that does not say so: doubled each time.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// HTTP/2 pings on a connection that is idle; servers take more than one in five minutes amiss.
const PING: Duration = Duration::from_secs(360);
/// For the answer to one.
const PONG: Duration = Duration::from_secs(20);
/// Bytes of a message that is read at most: a configuration of the full size, and its JSON around it.
const MESSAGE: usize = 16 * 1024 * 1024;
/// Bytes of the headers of an answer at most.
const HEADERS: u32 = 16 * 1024;
/// Answers to pushes that wait to be sent.
const OUTGOING: usize = 64;

/// What a server sends without being asked.
#[derive(Debug)]
pub(super) enum Push {
    /// It asked whether we are there, or said something else that needs no more than its answer.
    Sign,
    /// It wants us elsewhere: at `host:port` of its HTTP interface, or at any other server.
    Reset(Option<String>),
    /// A configuration has changed: tenant, group, data id.
    Config(Namespace, String, String),
    /// The instances of a subscribed service have changed: group, name, all of them. The namespace is not said.
    Service(String, String, ServiceList),
    /// The stream or the connection ended; says why. Nothing comes after it.
    Ended(String),
}

/// A connection that has been set up. Dropping it closes it.
pub(super) struct Channel {
    /// Base URL of the server's HTTP interface.
    pub(super) server: Arc<str>,
    /// What the server can do.
    pub(super) abilities: rpc::Abilities,
    sender: SendRequest<Body>,
    origin: Uri,
    client_ip: String,
    cut: CancellationToken,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

/// Spawns what HTTP/2 needs where all tasks are.
#[derive(Clone)]
struct Spawner {
    tasks: Tasks,
    cut: CancellationToken,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, work: F) {
        let cut = self.cut.clone();
        self.tasks.spawn("grpc", async move {
            tokio::select! {
                biased;
                // One of these holds the socket: nothing is waited for, a peer that does not read least of all.
                () = cut.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// The sending half, as tonic wants it.
#[derive(Clone)]
struct Sender(SendRequest<Body>);

impl GrpcService<Body> for Sender {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

type Grpc = tonic::client::Grpc<Sender>;

fn grpc(sender: &SendRequest<Body>, origin: &Uri) -> Grpc {
    tonic::client::Grpc::with_origin(Sender(sender.clone()), origin.clone())
        .max_decoding_message_size(MESSAGE)
}

/// A status that is no answer of Nacos', in words.
fn in_words(status: &tonic::Status) -> String {
    let words = status.message().trim();
    // What is ours to say when a connection breaks, hyper says from its own point of view.
    let broke = std::error::Error::source(status).is_some();
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled if broke => {
            "the connection broke".to_owned()
        }
        _ if words.is_empty() => format!("gRPC status {:?}", status.code()),
        _ => Foreign::new(words.to_owned()).to_string(),
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

async fn unary(grpc: &mut Grpc, payload: Payload) -> Result<Payload, String> {
    grpc.ready()
        .await
        .map_err(|_| "the connection has ended".to_owned())?;
    let path = PathAndQuery::from_static(rpc::UNARY);
    let codec = ProstCodec::<Payload, Payload>::default();
    match grpc.unary(tonic::Request::new(payload), path, codec).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(in_words(&status)),
    }
}

/// Host and gRPC port of a server, and whether it is spoken to over TLS.
fn place(server: &str, offset: u16) -> Result<(String, u16, bool), String> {
    let (tls, rest) = match server.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some((_, rest)) => (false, rest),
        None => (false, server),
    };
    let uri: Uri = format!("http://{rest}")
        .parse()
        .map_err(|_| format!("{server} is not an address"))?;
    let host = uri.host().unwrap_or_default();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let http = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let port = http
        .checked_add(offset)
        .ok_or_else(|| format!("there is no port {http} + {offset} for gRPC"))?;
    Ok((host, port, tls))
}

impl Channel {
    /// Connects to a server, sets the connection up, and sees that the server has taken it. What it pushes goes to `pushes`.
    pub(super) async fn open(
        client: &Client,
        server: &Arc<str>,
        pushes: mpsc::Sender<Push>,
    ) -> Result<Self, String> {
        let settings = &client.settings;
        let (host, port, tls) = place(server, settings.grpc_offset)?;
        let connect = async {
            let stream = TcpStream::connect((host.as_str(), port)).await;
            stream.map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                _ => Foreign::new(error.to_string()).to_string(),
            })
        };
        let stream = within(settings.connect_timeout, connect).await;
        let stream = stream.map_err(|why| format!("port {port}: {why}"))?;
        // Without it a request of two segments waits for a delayed acknowledgement, 40 ms.
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let local = stream.local_addr().map_err(|error| error.to_string())?;
        let authority = match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        if !tls {
            let (scheme, ip) = ("http", local.ip());
            return Self::over(client, server, scheme, &authority, ip, stream, pushes).await;
        }
        #[cfg(not(feature = "tls"))]
        return Err(
            "https:// is not spoken by this binary, it was built without the feature `tls`"
                .to_owned(),
        );
        #[cfg(feature = "tls")]
        {
            let Some(tls) = &client.tls else {
                return Err("the settings name no server by https://".to_owned());
            };
            let stream = tls.shake(&host, stream).await;
            let stream = stream.map_err(|why| format!("port {port}: {why}"))?;
            let (trouble, scheme, ip) = (stream.trouble(), "https", local.ip());
            Self::over(client, server, scheme, &authority, ip, stream, pushes)
                .await
                .map_err(|why| format!("port {port}: {}", trouble.or(why)))
        }
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        client: &Client,
        server: &Arc<str>,
        scheme: &str,
        authority: &str,
        local: IpAddr,
        stream: S,
        pushes: mpsc::Sender<Push>,
    ) -> Result<Self, String> {
        let cut = CancellationToken::new();
        let spawner = Spawner {
            tasks: client.tasks.clone(),
            cut: cut.clone(),
        };
        // Whatever goes wrong from here on closes it.
        let guard = cut.drop_guard();
        let handshake = http2::Builder::new(spawner.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(PING))
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .max_header_list_size(HEADERS)
            .handshake(TokioIo::new(stream));
        let shaken = within(STEP, async {
            handshake.await.map_err(|error| error.to_string())
        });
        let (sender, connection) = shaken.await?;
        // What it ends with is seen by the stream.
        spawner.execute(async { _ = connection.await });
        let origin: Uri = format!("{scheme}://{authority}")
            .parse()
            .map_err(|_| format!("{authority} is not an address"))?;
        let mut channel = Self {
            server: Arc::clone(server),
            abilities: rpc::Abilities::new(),
            sender,
            origin,
            client_ip: local.to_string(),
            // From here on the channel closes it.
            cut: guard.disarm(),
        };
        let check = rpc::ServerCheckRequest {
            module: "internal".to_owned(),
        };
        let check: rpc::ServerCheckResponse = channel
            .asked_plainly(&check)
            .await
            .map_err(|trouble| trouble.to_string())?;
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let (acknowledge, acknowledged) = oneshot::channel();
        outgoing
            .try_send(channel.signed(Payload::new(&setup(&client.settings)), BTreeMap::new()))
            .map_err(|_| "the stream has ended".to_owned())?;
        let reader = Reader {
            grpc: grpc(&channel.sender, &channel.origin),
            outgoing,
            pushes,
            acknowledge: Some(acknowledge),
        };
        spawner.execute(reader.read(queue));
        if check.support_ability_negotiation {
            let acknowledged = async {
                let ended = |_| "the server closed the connection on setup".to_owned();
                acknowledged.await.map_err(ended)
            };
            channel.abilities = within(STEP, acknowledged).await?;
        } else {
            within(STEP, channel.taken()).await?;
        }
        Ok(channel)
    }

    /// Closes it, whoever still waits for an answer on it.
    pub(super) fn close(&self) {
        self.cut.cancel();
    }

    /// Whether it takes no more requests: it was asked to make them elsewhere (GOAWAY), or has ended.
    pub(super) fn takes_no_more(&self) -> bool {
        self.sender.is_closed()
    }

    /// Asks until the server says that the connection is a client.
    async fn taken(&self) -> Result<(), String> {
        let mut wait = ASK_AGAIN;
        loop {
            match self.health().await {
                Ok(()) => return Ok(()),
                Err(Trouble::Unregistered(_)) => time::sleep(wait).await,
                Err(trouble) => return Err(trouble.to_string()),
            }
            wait *= 2;
        }
    }

    /// Asks whether the connection is a client.
    pub(super) async fn health(&self) -> Result<(), Trouble> {
        let check = rpc::HealthCheckRequest {
            module: "internal".to_owned(),
        };
        self.asked_plainly(&check).await.map(|_| ())
    }

    fn signed(&self, mut payload: Payload, headers: BTreeMap<String, String>) -> Payload {
        if let Some(metadata) = &mut payload.metadata {
            metadata.headers = headers;
            metadata.client_ip.clone_from(&self.client_ip);
        }
        payload
    }

    /// Makes a request without a token.
    async fn asked_plainly<R: rpc::Request>(&self, request: &R) -> Result<R::Answer, Trouble> {
        let payload = Payload::new(request);
        let answer = self.ask(payload, BTreeMap::new(), STEP).await?;
        read::<R>(&self.server, &answer).map_err(Trouble::Said)
    }

    /// Makes a request; `headers` carry the token. What comes back says that all is well.
    pub(super) async fn ask(
        &self,
        payload: Payload,
        headers: BTreeMap<String, String>,
        limit: Duration,
    ) -> Result<Payload, Trouble> {
        let kind = payload.kind().to_owned();
        let payload = self.signed(payload, headers);
        let mut grpc = grpc(&self.sender, &self.origin);
        let answer = match time::timeout(limit, unary(&mut grpc, payload)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(Trouble::Broken(why)),
            Err(_) => return Err(Trouble::Silent(limit)),
        };
        let outcome: Outcome = answer.read().map_err(|_| {
            Trouble::Said(Error::Garbage {
                server: self.server.to_string(),
                what: format!("no answer to {kind}"),
            })
        })?;
        if matches!(
            outcome.error_code,
            rpc::code::UNREGISTERED | rpc::code::DISCONNECTED
        ) {
            let words = answer::words(outcome.message.unwrap_or_default().as_bytes());
            return Err(Trouble::Unregistered(words));
        }
        answer::read_outcome(&self.server, &kind, &outcome).map_err(Trouble::Said)?;
        Ok(answer)
    }
}

/// Reads the answer of `server` to a request.
pub(super) fn read<R: rpc::Request>(server: &str, answer: &Payload) -> Result<R::Answer, Error> {
    let garbage = |what: String| Error::Garbage {
        server: server.to_owned(),
        what,
    };
    let expected = R::Answer::KIND;
    if answer.kind() != expected {
        let kind = Foreign::new(answer.kind().to_owned());
        return Err(garbage(format!("{kind} in place of {expected}")));
    }
    answer
        .read()
        .map_err(|error| garbage(format!("{expected}: {}", Foreign::new(error.to_string()))))
}

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// None came in time: the connection may be half dead.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// It could not be sent, or the connection broke.
    #[error("{0}")]
    Broken(String),
    /// The server does not know the connection any more.
    #[error("the server does not know the connection any more: {0}")]
    Unregistered(Foreign),
    /// The server said no; nothing is wrong with the connection.
    #[error("{0}")]
    Said(Error),
}

impl Trouble {
    /// As an error of a call at `server`.
    pub(super) fn error(self, server: &str) -> Error {
        match self {
            Self::Said(error) => error,
            other => Error::Unreachable {
                server: server.to_owned(),
                what: other.to_string(),
            },
        }
    }
}

fn setup(settings: &Registry) -> rpc::ConnectionSetupRequest {
    let labels = [
        ("source", "sdk"),
        ("module", "naming"),
        ("AppName", "outrigger"),
    ];
    let tag = settings.config_tag.clone();
    let tag = tag.map(|tag| (format!("app_{}", super::calls::TAG), tag));
    rpc::ConnectionSetupRequest {
        client_version: concat!("Outrigger:v", env!("CARGO_PKG_VERSION")).to_owned(),
        tenant: Namespace::new(&settings.namespace).tenant().to_owned(),
        labels: labels
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .chain(tag)
            .collect(),
        // An empty table asks for the server's.
        ability_table: Some(rpc::Abilities::new()),
        module: "internal".to_owned(),
    }
}

/// Reads the stream.
struct Reader {
    grpc: Grpc,
    outgoing: mpsc::Sender<Payload>,
    pushes: mpsc::Sender<Push>,
    acknowledge: Option<oneshot::Sender<rpc::Abilities>>,
}

impl Reader {
    async fn read(mut self, queue: mpsc::Receiver<Payload>) {
        let why = self.until_it_ends(queue).await;
        // Who does not listen any more has given the connection up.
        _ = self.pushes.send(Push::Ended(why)).await;
    }

    async fn until_it_ends(&mut self, queue: mpsc::Receiver<Payload>) -> String {
        let outgoing = futures_util::stream::unfold(queue, async |mut queue| {
            Some((queue.recv().await?, queue))
        });
        if self.grpc.ready().await.is_err() {
            return "the connection has ended".to_owned();
        }
        let path = PathAndQuery::from_static(rpc::STREAM);
        let codec = ProstCodec::<Payload, Payload>::default();
        let request = tonic::Request::new(outgoing);
        let mut stream = match self.grpc.streaming(request, path, codec).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return in_words(&status),
        };
        loop {
            match stream.message().await {
                Ok(Some(payload)) => self.take(&payload).await,
                Ok(None) => return "the server ended the stream".to_owned(),
                Err(status) => return in_words(&status),
            }
        }
    }

    /// Acknowledges a push, then tells of it.
    async fn take(&mut self, payload: &Payload) {
        let push = match payload.kind() {
            rpc::SetupAckRequest::KIND => {
                if let (Ok(ack), Some(tell)) = (
                    payload.read::<rpc::SetupAckRequest>(),
                    self.acknowledge.take(),
                ) {
                    // Who does not wait any more has given the connection up.
                    _ = tell.send(ack.ability_table);
                }
                return;
            }
            rpc::ClientDetectionRequest::KIND => {
                self.acknowledge_as(payload, rpc::ClientDetectionResponse::with)
                    .await;
                Push::Sign
            }
            rpc::ConnectResetRequest::KIND => {
                self.acknowledge_as(payload, rpc::ConnectResetResponse::with)
                    .await;
                let reset: rpc::ConnectResetRequest = payload.read().unwrap_or_default();
                let named = reset.server_ip.zip(reset.server_port);
                let named = named.filter(|(ip, port)| !ip.is_empty() && !port.is_empty());
                Push::Reset(named.map(|(ip, port)| format!("{ip}:{port}")))
            }
            rpc::ConfigChangeNotifyRequest::KIND => {
                self.acknowledge_as(payload, rpc::ConfigChangeNotifyResponse::with)
                    .await;
                let Ok(change) = payload.read::<rpc::ConfigChangeNotifyRequest>() else {
                    return;
                };
                let namespace = Namespace::new(change.tenant.as_deref().unwrap_or_default());
                Push::Config(namespace, change.group, change.data_id)
            }
            rpc::NotifySubscriberRequest::KIND => {
                self.acknowledge_as(payload, rpc::NotifySubscriberResponse::with)
                    .await;
                let Ok(change) = payload.read::<rpc::NotifySubscriberRequest>() else {
                    return;
                };
                let info = change.service_info.unwrap_or_default();
                Push::Service(info.group_name.clone(), info.name.clone(), info.into())
            }
            kind => {
                self.decline(kind, payload).await;
                Push::Sign
            }
        };
        // Who does not listen any more has given the connection up.
        _ = self.pushes.send(push).await;
    }

    async fn acknowledge_as<M: Message>(&self, payload: &Payload, answer: fn(Outcome) -> M) {
        let answer = answer(Outcome::ok().to(&request_id(payload)));
        _ = self.outgoing.send(Payload::new(&answer)).await;
    }

    /// Says that there is nobody here for it: a server waits for answers to all it asks.
    async fn decline(&self, kind: &str, payload: &Payload) {
        let Some(asked) = kind.strip_suffix("Request") else {
            return;
        };
        let no = Outcome::failed(rpc::code::NO_HANDLER, "not supported").to(&request_id(payload));
        let body = serde_json::to_vec(&no).unwrap_or_default();
        _ = self
            .outgoing
            .send(Payload::raw(&format!("{asked}Response"), body))
            .await;
    }
}

fn request_id(payload: &Payload) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        request_id: Option<String>,
    }
    let asked: Option<Asked> = serde_json::from_slice(payload.body()).ok();
    asked.and_then(|asked| asked.request_id).unwrap_or_default()
}
