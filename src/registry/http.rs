//! The registry's HTTP/1.1 socket: accepts, guards the door, reads bodies within bounds, and sends the calls' answers.
//!
//! Connections, header time, body size and body time are bounded; a peer that does not read is cut off. Routes are matched
//! from the first `/v1/` of the path on, so any context path works. A stop is an ordered story: no new connection, held polls
//! answered empty, answers under way finished, then what is left is cut.

use crate::authority;
use crate::machine::Epoch;
use crate::nacos::rpc::PORT_OFFSET;
use crate::os::ourselves;
use crate::registry::Options;
use crate::registry::StartError;
use crate::registry::call;
use crate::registry::call::Answer;
use crate::registry::call::Request;
use crate::registry::config_calls;
use crate::registry::crowd;
use crate::registry::crowd::Came;
use crate::registry::crowd::Places;
use crate::registry::datagrams;
use crate::registry::desk::Desk;
use crate::registry::faults::Faults;
use crate::registry::faults::Harm;
use crate::registry::forms::Params;
use crate::registry::grpc;
use crate::registry::keeper::Keeper;
use crate::registry::like::Like;
use crate::registry::page_calls;
use crate::registry::prober;
use crate::registry::refusal::Refusal;
use crate::registry::store::Store;
use crate::registry::token::Key;
use crate::registry::users::Users;
use crate::tasks::Tasks;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{
    Method, Response,
    body::{Body, Bytes, Frame, Incoming},
    header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit, watch},
    task, time,
};
use tokio_util::sync::CancellationToken;

/// Connections at most, if the limit to open files allows so many.
const CONNECTIONS: usize = 65_536;
/// How long a connection may take over a request's head, or stay idle (the original: 20 s).
const HEAD: Duration = Duration::from_secs(20);
/// How long a body may take.
pub(super) const BODY: Duration = Duration::from_secs(30);
/// How long a peer may not read.
const WRITE: Duration = Duration::from_secs(30);
/// Bytes of a request's head at most; clients put metadata into the query.
const HEAD_BYTES: usize = 64 * 1024;
/// Bytes of a body at most, as the original's form limit.
const BODY_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of a publish at most: a content of the full size in ASCII, every character of it percent-encoded.
const PUBLISH_BYTES: usize = 3 * super::config::CONTENT + 64 * 1024;
/// Kibibytes of bodies that are read at one time, all connections together; who does not fit waits within [`BODY`].
const BODIES_KIB: u32 = 64 * 1024;
/// The same for those that are small, which have room of their own: whoever announces large ones and is slow holds up no beat.
const SMALL_KIB: u32 = 16 * 1024;
/// Bytes of a body that is small.
const SMALL: usize = 64 * 1024;
/// Where faults are asked for.
const FAULTS: &str = "/outrigger/faults";
/// What a fault sends in place of an answer.
const GARBAGE: &[u8] = b"\x16\x03\x01\x00\x00this is no HTTP\r\n\r\n";
/// How long answers under way may take at the end.
pub(super) const LEAVE: Duration = Duration::from_secs(2);
/// How often a pair of free ports is looked for.
const PAIRS: usize = 64;

/// A registry that runs. Dropping it does not stop it; [`Running::stop`] or the end of its [`Tasks`] does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    grpc: Option<SocketAddr>,
    keeper: Arc<Keeper>,
    tasks: Tasks,
    ended: watch::Receiver<bool>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for gRPC, which 1.4 does not know.
    #[must_use]
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// From now on there are these users, where there were any. Tokens stay good, unless they are signed with another key now.
    pub fn replace_users(&self, users: Users) {
        self.keeper.replace_users(users);
    }

    /// Stops in order, within about two seconds: held polls are answered, answers under way are finished.
    pub async fn stop(mut self) {
        self.tasks.stop();
        // The sender is dropped with the task: an error is an end as well.
        _ = self.ended.wait_for(|ended| *ended).await;
    }
}

/// Starts a registry, empty or with what is kept in its data directory.
///
/// # Errors
/// [`StartError::NotLoopback`] for an address beyond loopback without [`Options::users`] and without [`Options::open`]; [`StartError::Bind`] and
/// [`StartError::BindGrpc`] when an address cannot be listened on, [`StartError::NoGrpcPort`] when there is none for gRPC;
/// [`StartError::Store`] when the data directory cannot be used.
pub async fn start(options: Options, tasks: &Tasks, epoch: Epoch) -> Result<Running, StartError> {
    if !options.listen.ip().is_loopback() && !options.open && options.users.is_none() {
        return Err(StartError::NotLoopback(options.listen));
    }
    let (listener, grpc) = listen(options.listen, options.like).await?;
    let bind = |source| StartError::Bind {
        address: options.listen,
        source,
    };
    let address = listener.local_addr().map_err(bind)?;
    let grpc_address = grpc.as_ref().and_then(|grpc| grpc.local_addr().ok());
    let tasks = tasks.child();
    let mut desk = Desk::new(options.like)
        .at_port(address.port())
        .pushing_after(options.push_delay);
    if let Some(users) = options.users {
        let key = Key::random().map_err(StartError::NoKey)?;
        desk = desk.asking(users, key);
    }
    if let Some(rules) = options.checks {
        desk = desk.checking(rules);
    }
    let mut store = None;
    if let Some(directory) = options.data_dir {
        (store, desk) = remember(directory, desk).await?;
    }
    let (wanted, probes) = prober::queue();
    let mut keeper = Keeper::new(desk, epoch).probing(wanted);
    if store.is_some() {
        keeper = keeper.gated();
    }
    let keeper = Arc::new(keeper);
    let probing = prober::run(Arc::clone(&keeper), probes, tasks.clone());
    tasks.spawn("health checks", probing);
    let door = Arc::new(Door {
        keeper: Arc::clone(&keeper),
        address,
        allow_hosts: options.allow_hosts,
        like: options.like,
        bodies: Bodies::new(),
        faults: options.faults.then(Mutex::default),
    });
    let datagrams = datagrams::open(address.ip()).await.map_err(bind)?;
    let (end, ended) = watch::channel(false);
    let kept = Arc::clone(&keeper);
    tasks.spawn("registry deadlines", async move { kept.keep().await });
    let kept = Arc::clone(&keeper);
    tasks.spawn("registry passwords", async move {
        kept.look_at_passwords().await;
    });
    let told = Arc::clone(&keeper);
    tasks.spawn("registry datagrams", async move {
        datagrams::serve(datagrams, &told).await;
    });
    let files = Arc::new(Semaphore::new(crowd::of_files(ourselves::open_files())));
    let like = options.like;
    let places = Places::new(&files, CONNECTIONS, |most| crowd::over_http(like, most));
    let grpc = grpc.map(|grpc| (grpc, grpc::places(&files)));
    let group = tasks.clone();
    tasks.spawn_to_end("registry", async move {
        let over_grpc = async {
            if let Some((grpc, places)) = grpc {
                grpc::serve(grpc, Arc::clone(&door), places, group.clone()).await;
            }
        };
        let over_http = serve(listener, Arc::clone(&door), places, group.clone());
        let closed = CancellationToken::new();
        let served = async {
            tokio::join!(over_grpc, over_http);
            closed.cancel();
        };
        let kept = async {
            if let Some(store) = store {
                door.keeper.keep_rows(store, closed.clone()).await;
            }
        };
        tokio::join!(served, kept);
        end.send_replace(true);
    });
    Ok(Running {
        address,
        grpc: grpc_address,
        keeper,
        tasks,
        ended,
    })
}

/// Opens the data directory, and lets the desk know what is kept there.
async fn remember(directory: PathBuf, desk: Desk) -> Result<(Option<Store>, Desk), StartError> {
    let opened = task::spawn_blocking(move || Store::open(&directory)).await;
    let (mut store, rows) = opened.unwrap_or_else(|end| resume_unwind(end.into_panic()))?;
    let (desk, changes) = desk
        .keeping(rows)
        .map_err(|refusal| store.refused(&refusal))?;
    if changes.is_empty() {
        return Ok((Some(store), desk));
    }
    let work = task::spawn_blocking(move || store.commit(changes).map(|()| store));
    let store = work
        .await
        .unwrap_or_else(|end| resume_unwind(end.into_panic()))?;
    Ok((Some(store), desk))
}

/// Listens at `at` and, but for 1.4, at the gRPC port that belongs to it. Port 0 is any pair of free ones.
async fn listen(
    at: SocketAddr,
    like: Like,
) -> Result<(TcpListener, Option<TcpListener>), StartError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let bind = |source| StartError::Bind {
            address: at,
            source,
        };
        let listener = TcpListener::bind(at).await.map_err(bind)?;
        if !like.manners().grpc {
            return Ok((listener, None));
        }
        let http = listener.local_addr().map_err(bind)?;
        let found = match http.port().checked_add(PORT_OFFSET) {
            None => Err(StartError::NoGrpcPort(http)),
            Some(port) => {
                let mut grpc = http;
                grpc.set_port(port);
                TcpListener::bind(grpc)
                    .await
                    .map_err(|source| StartError::BindGrpc { http, grpc, source })
            }
        };
        match found {
            Ok(grpc) => return Ok((listener, Some(grpc))),
            Err(error) if at.port() != 0 || tries >= PAIRS => return Err(error),
            Err(_) => {}
        }
    }
}

async fn serve(listener: TcpListener, door: Arc<Door>, places: Places, tasks: Tasks) {
    let stop = tasks.token();
    let cut = CancellationToken::new();
    let graceful = GracefulShutdown::new();
    loop {
        let came = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            came = places.accept(&listener) => came,
        };
        let (place, stream, peer) = match came {
            Some(Came::In(place, stream, peer)) => (place, stream, peer.ip()),
            Some(Came::Out(refused)) => {
                tasks.spawn("registry connection without a place", refused.tell());
                continue;
            }
            None => break,
        };
        let (door, watcher) = (Arc::clone(&door), graceful.watcher());
        let (stop, cut) = (stop.clone(), cut.clone());
        tasks.spawn_to_end("registry connection", async move {
            let _place = place;
            // Who has said nothing yet costs a place, and what that would be read into is made when there is something to read.
            let mut first = [0];
            let spoken = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                spoken = time::timeout(HEAD, stream.peek(&mut first)) => spoken,
            };
            if !matches!(spoken, Ok(Ok(1))) {
                return;
            }
            let Some(served) = connection(stream, peer, door, watcher) else {
                return;
            };
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = served => {}
            }
        });
    }
    drop(listener);
    door.keeper.release();
    if time::timeout(LEAVE, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections of the registry are cut");
    }
    cut.cancel();
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

/// One connection, to its end.
fn connection(
    stream: TcpStream,
    peer: IpAddr,
    door: Arc<Door>,
    watcher: Watcher,
) -> Option<Pin<Box<impl Future<Output = ()> + Send + 'static>>> {
    // A peer that went away between accept and here.
    let local = stream.local_addr().ok()?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let harmed = Arc::new(Harmed::default());
    let stream = Impatient::new(stream, Arc::clone(&harmed));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let (door, harmed) = (Arc::clone(&door), Arc::clone(&harmed));
        // In a box: a connection without a request has no room for one.
        Box::pin(async move { door.answer(local.ip(), &harmed, request).await })
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let served = watcher.watch(served);
    // In a box, because whatever awaits it would have room for it twice.
    Some(Box::pin(async move {
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection to the registry broke");
        }
    }))
}

/// What a fault asked for did to a connection.
#[derive(Debug, Default)]
pub(super) struct Harmed {
    pub(super) garbage: AtomicBool,
    pub(super) reset: AtomicBool,
}

/// A fault that was asked for: the connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost, as a fault asked for")]
pub(super) struct Lost;

/// What is answered: bytes, or what a fault asked for.
type Answered = Response<Either<Full<Bytes>, Endless>>;

/// A body without end.
#[derive(Debug)]
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Blanks go on being the beginning of any JSON.
        const BLANKS: &[u8] = &[b' '; 64 * 1024];
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(BLANKS)))))
    }
}

/// The memory for bodies that are being read.
#[derive(Debug)]
pub(super) struct Bodies {
    small: Semaphore,
    large: Semaphore,
}

impl Bodies {
    fn new() -> Self {
        Self {
            small: Semaphore::new(SMALL_KIB as usize),
            large: Semaphore::new(BODIES_KIB as usize),
        }
    }

    /// Room for a body of so many bytes, as soon as there is; `None` never comes, because the semaphores are never closed.
    pub(super) async fn share(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(BODIES_KIB);
        let of = if bytes <= SMALL {
            &self.small
        } else {
            &self.large
        };
        of.acquire_many(kib.min(BODIES_KIB)).await.ok()
    }
}

/// What every request needs.
pub(super) struct Door {
    pub(super) keeper: Arc<Keeper>,
    address: SocketAddr,
    allow_hosts: Vec<String>,
    like: Like,
    pub(super) bodies: Bodies,
    /// Only where faults may be asked for.
    faults: Option<Mutex<Faults>>,
}

/// How far a request has come.
enum Begun<A> {
    /// It is answered.
    Answered(Answered),
    /// The desk has it, and will answer.
    Asked(A),
}

impl Door {
    async fn answer(
        &self,
        local: IpAddr,
        harmed: &Harmed,
        request: hyper::Request<Incoming>,
    ) -> Result<Answered, Lost> {
        // What reading a request takes is in a box that is gone while its answer is waited for: there may be thousands who wait.
        match Box::pin(self.begin(local, harmed, request)).await? {
            Begun::Answered(answered) => Ok(answered),
            Begun::Asked(answer) => Ok(write(&match answer.await {
                Some(answer) => answer,
                None => self.refused("", &Refusal::Unanswered),
            })),
        }
    }

    async fn begin(
        &self,
        local: IpAddr,
        harmed: &Harmed,
        request: hyper::Request<Incoming>,
    ) -> Result<Begun<impl Future<Output = Option<Answer>>>, Lost> {
        let path = request.uri().path().to_owned();
        let host = request.headers().get(HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if let Err(refusal) = self.guard(local, host, request.headers(), !reads) {
            return Ok(Begun::Answered(write(&self.refused(&path, &refusal))));
        }
        if let Some(faults) = &self.faults {
            if path.trim_end_matches('/') == FAULTS {
                let answer = self.order(faults, &path, request).await;
                return Ok(Begun::Answered(write(&answer)));
            }
            // Who looks on wants to see what the faults do to others.
            let strikes = !page_calls::is_here(&path);
            let harm = strikes
                .then(|| self.strike(&path, call::route(&path)))
                .flatten();
            if matches!(harm, Some(Harm::Drop)) {
                if let Ok(answer) = self.ask(request).await {
                    answer.await;
                }
                return Err(Lost);
            }
            if let Some(answered) = Self::harmed(harm, harmed).await? {
                return Ok(Begun::Answered(answered));
            }
        }
        Ok(match self.ask(request).await {
            Ok(answer) => Begun::Asked(answer),
            Err(refusal) => Begun::Answered(write(&self.refused(&path, &refusal))),
        })
    }

    /// Whether faults may be asked for.
    pub(super) fn has_faults(&self) -> bool {
        self.faults.is_some()
    }

    /// What happens to a request, by its path or by what it is called over gRPC.
    pub(super) fn strike(&self, path: &str, route: &str) -> Option<Harm> {
        let now = self.keeper.epoch().now();
        // Like the desk, it is plain data and goes on after a panic.
        let faults = self.faults.as_ref()?.lock();
        let mut faults = faults.unwrap_or_else(PoisonError::into_inner);
        faults.strike(now, path, route)
    }

    fn refused(&self, path: &str, refusal: &Refusal) -> Answer {
        let half = call::half(call::route(path));
        let epoch = self.keeper.epoch();
        let at = epoch.wall(epoch.now());
        Answer::refused(refusal, self.like, half, path, at)
    }

    /// What a fault answers in place of the registry, if it does.
    async fn harmed(harm: Option<Harm>, harmed: &Harmed) -> Result<Option<Answered>, Lost> {
        Ok(match harm {
            // A request that is carried out and not answered is told apart before.
            None | Some(Harm::Drop) => None,
            Some(Harm::Delay(delay)) => {
                time::sleep(delay).await;
                None
            }
            Some(Harm::Status(status, body)) => Some(write(&Answer {
                status,
                ..Answer::text(body)
            })),
            Some(Harm::Hang) => std::future::pending().await,
            Some(Harm::Reset) => {
                harmed.reset.store(true, Ordering::Relaxed);
                return Err(Lost);
            }
            Some(Harm::Garbage) => {
                harmed.garbage.store(true, Ordering::Relaxed);
                let mut last = write(&Answer::ok());
                let close = HeaderValue::from_static("close");
                last.headers_mut().insert(CONNECTION, close);
                Some(last)
            }
            Some(Harm::Big) => Some(Response::new(Either::Right(Endless))),
        })
    }

    /// Switches faults on and off, and shows them.
    async fn order(
        &self,
        faults: &Mutex<Faults>,
        path: &str,
        request: hyper::Request<Incoming>,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let mut params = Params::default();
        params.add(head.uri.query().unwrap_or_default());
        let admitted = match self.body(body, BODY_BYTES).await {
            Ok((form, _)) => {
                params.add(&String::from_utf8_lossy(&form));
                self.keeper.admit(request_of(&head, form))
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = admitted {
            return self.refused(path, &refusal);
        }
        // What shows who asks is no fault.
        params.forget(&["accessToken", "username", "password"]);
        let now = self.keeper.epoch().now();
        let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match head.method.as_str() {
            "GET" => Ok(Vec::new()),
            "POST" => faults.order(now, &params),
            method => return self.refused(path, &Refusal::Method(method.to_owned())),
        };
        match told {
            Ok(told) => {
                self.keeper.fault(told);
                Answer::json(&faults.shown(now))
            }
            Err(why) => Answer {
                status: 400,
                ..Answer::text(why)
            },
        }
    }

    /// Puts a request before the desk, which has looked at it when this returns.
    async fn ask(
        &self,
        request: hyper::Request<Incoming>,
    ) -> Result<impl Future<Output = Option<Answer>>, Refusal> {
        let (head, body) = request.into_parts();
        let route = call::route(head.uri.path());
        let publishes = head.method == "POST" && config_calls::PUBLISHES.contains(&route);
        let most = if publishes { PUBLISH_BYTES } else { BODY_BYTES };
        let (body, share) = self.body(body, most).await?;
        let request = request_of(&head, body);
        // The desk has read the body when it was asked, so a held listener has no share of the memory for bodies.
        drop(share);
        Ok(self.keeper.ask(request))
    }

    /// The body, if it is not over `most` bytes and comes in time; and its share of the memory for bodies.
    async fn body(
        &self,
        body: Incoming,
        most: usize,
    ) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Refusal> {
        let bytes = match body.size_hint().exact() {
            Some(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            None => most,
        };
        if bytes > most {
            return Err(Refusal::BodyTooLarge(most));
        }
        let read = async {
            let share = self.bodies.share(bytes).await;
            (Limited::new(body, most).collect().await, share)
        };
        match time::timeout(BODY, read).await {
            Ok((Ok(body), share)) => Ok((body.to_bytes(), share)),
            Ok((Err(error), _)) if error.is::<http_body_util::LengthLimitError>() => {
                Err(Refusal::BodyTooLarge(most))
            }
            Ok((Err(_), _)) | Err(_) => Err(Refusal::BodyUnreadable),
        }
    }

    /// Lets in who asks for a name of ours: a page whose name was rebound to us asks for its own. A web page of another origin
    /// may not ask at all, except that a link leads here; one of another port of this host may not write, because what listens
    /// there is somebody else's.
    ///
    /// A form sent from elsewhere needs nobody's leave and may come without an `Origin`, so what the browser says of the site
    /// counts too. Browsers say it to loopback and over TLS only: without it, who writes with an `Origin` must have come from here.
    pub(super) fn guard(
        &self,
        local: IpAddr,
        host: Option<&str>,
        headers: &HeaderMap,
        writes: bool,
    ) -> Result<(), Refusal> {
        let Some(host) = host.filter(|host| self.ours(local, host)) else {
            return Err(Refusal::Host);
        };
        let origin = match headers.get(ORIGIN).map(HeaderValue::to_str) {
            None => None,
            Some(Ok(origin)) => match authority::of_origin(origin) {
                Some(origin) if self.ours(local, origin) => Some(origin),
                _ => return Err(Refusal::Origin),
            },
            Some(Err(_)) => return Err(Refusal::Origin),
        };
        let says = |name, what: &str| headers.get(name).is_some_and(|said| said == what);
        let lets = match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
            Some(b"same-origin" | b"none") => true,
            Some(b"same-site") => !writes,
            Some(_) => !writes && says("sec-fetch-mode", "navigate"),
            // What stands before us may have put its own name for ours into `Host`.
            None => origin.is_none_or(|origin| {
                !writes || origin.eq_ignore_ascii_case(host) || self.allows(origin)
            }),
        };
        if lets { Ok(()) } else { Err(Refusal::Origin) }
    }

    /// Whether `authority` (host, perhaps with port) is loopback, the address listened on, or allowed by name.
    fn ours(&self, local: IpAddr, authority: &str) -> bool {
        let host = authority::host(authority);
        authority::is_this_host(host, |ip| ip == local || ip == self.address.ip())
            || self.allows(authority)
    }

    /// Whether the host of `authority` is allowed by name.
    fn allows(&self, authority: &str) -> bool {
        let host = authority::host(authority);
        let mut allowed = self.allow_hosts.iter();
        allowed.any(|allowed| host.eq_ignore_ascii_case(allowed))
    }
}

/// A request freed from HTTP.
fn request_of(head: &Parts, body: Bytes) -> Request {
    let target = head
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let headers = head.headers.iter().filter_map(|(name, value)| {
        // What is no text is nothing that a call looks at.
        Some((name.as_str(), value.to_str().ok()?))
    });
    let request = Request::new(head.method.as_str(), target, headers, body);
    match head.extensions.get::<Peer>() {
        Some(Peer(peer)) => request.from(*peer),
        None => request,
    }
}

fn write(answer: &Answer) -> Answered {
    let mut response = Response::new(Either::Left(Full::new(answer.body.clone())));
    *response.status_mut() = hyper::StatusCode::from_u16(answer.status)
        .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    // What was registered may be markup: nothing here is a page.
    headers.insert(
        "content-security-policy",
        HeaderValue::from_static("script-src 'self'"),
    );
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    for (name, value) in answer.headers() {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            headers.insert(name, value);
        }
    }
    response
}

/// A stream whose writes fail when the peer does not read for [`WRITE`], and which does what faults ask for.
pub(super) struct Impatient {
    stream: TcpStream,
    waits: Option<Pin<Box<time::Sleep>>>,
    harmed: Arc<Harmed>,
}

impl Drop for Impatient {
    fn drop(&mut self) {
        if self.harmed.reset.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "no reset of a connection");
        }
    }
}

impl Impatient {
    pub(super) fn new(stream: TcpStream, harmed: Arc<Harmed>) -> Self {
        Self {
            stream,
            waits: None,
            harmed,
        }
    }

    /// Writes what is no answer in place of `bytes` of one.
    fn garble(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, GARBAGE);
        self.patience(cx, wrote.map_ok(|_| bytes))
    }

    fn patience<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waits = None;
            return wrote;
        }
        let waits = self
            .waits
            .get_or_insert_with(|| Box::pin(time::sleep(WRITE)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.harmed.garbage.load(Ordering::Relaxed) {
            return self.garble(cx, buf.len());
        }
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.patience(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.harmed.reset.load(Ordering::Relaxed) {
            // An orderly end is just what is not wanted.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.harmed.garbage.load(Ordering::Relaxed) {
            return self.garble(cx, bufs.iter().map(|buf| buf.len()).sum());
        }
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.patience(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
