//! The registry's door: what may come in, whole and within bounds, and what a peer may keep waiting.
//!
//! A request is read within a size and a time, and nobody's slow one takes room from the others; what the caller may not do is
//! refused before its body is read. A peer that does not read its answer is cut off. Faults that are asked for happen here.

use crate::authority;
use crate::registry::call;
use crate::registry::call::Answer;
use crate::registry::call::Request;
use crate::registry::config_calls;
use crate::registry::faults::Faults;
use crate::registry::faults::Harm;
use crate::registry::forms::Params;
use crate::registry::keeper::Keeper;
use crate::registry::like::Like;
use crate::registry::page_calls;
use crate::registry::refusal::Refusal;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{
    Method, Response,
    body::{Body, Bytes, Frame, Incoming},
    header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN},
    http::request::Parts,
};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
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
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    time,
};

/// How long a body may take.
pub(super) const BODY: Duration = Duration::from_secs(30);
/// How long a peer may not read.
const WRITE: Duration = Duration::from_secs(30);
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
/// How long answers under way may take at the end.
pub(super) const LEAVE: Duration = Duration::from_secs(2);
/// What a fault sends in place of an answer.
const GARBAGE: &[u8] = b"\x16\x03\x01\x00\x00this is no HTTP\r\n\r\n";

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

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
pub(super) type Answered = Response<Either<Full<Bytes>, Endless>>;

/// A body without end.
#[derive(Debug)]
pub(super) struct Endless;

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
    pub(super) fn new() -> Self {
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
    pub(super) address: SocketAddr,
    pub(super) allow_hosts: Vec<String>,
    pub(super) like: Like,
    pub(super) bodies: Bodies,
    /// Only where faults may be asked for.
    pub(super) faults: Option<Mutex<Faults>>,
}

/// How far a request has come.
enum Begun<A> {
    /// It is answered.
    Answered(Answered),
    /// The desk has it, and will answer.
    Asked(A),
}

impl Door {
    pub(super) async fn answer(
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
