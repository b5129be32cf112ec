//! The registry's gRPC socket: HTTP/2 without TLS, two methods, the same door as `http`.
//!
//! Each connection is a link at the desk; its unary requests are answered by the desk, and what comes and goes over its streams
//! passes between the stream and a short queue of the `keeper`. Bounded are connections, streams, headers, messages, the time a
//! message takes and the memory of all that are being read; a peer that does not read is cut off as over HTTP, one that is of no
//! use by the desk. A stop is an ordered story: no new connection, streams ended, answers under way finished, then what is left is
//! cut.

use crate::nacos::rpc::MESSAGE_LIMIT;
use crate::nacos::rpc::Payload;
use crate::nacos::rpc::STREAM;
use crate::nacos::rpc::UNARY;
use crate::registry::crowd;
use crate::registry::crowd::Came;
use crate::registry::crowd::Places;
use crate::registry::door::BODY;
use crate::registry::door::Door;
use crate::registry::door::Harmed;
use crate::registry::door::Impatient;
use crate::registry::door::LEAVE;
use crate::registry::door::Lost;
use crate::registry::faults::Harm;
use crate::registry::keeper::Ends;
use crate::registry::keeper::Keeper;
use crate::registry::keeper::Queued;
use crate::registry::keeper::STREAMS as BOTH_WAYS;
use crate::registry::links::Link;
use crate::registry::links::Stream;
use crate::registry::rpc_calls;
use crate::tasks::Tasks;
use futures_util::Stream as Flow;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    header::{CONTENT_TYPE, HOST, HeaderValue},
    rt::Executor,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message as _;
use std::{
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit, mpsc},
    time,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    codec::{BufferSettings, Codec},
    server::{Grpc, StreamingService, UnaryService},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Connections at most, a few more than may be clients, if the limit to open files allows so many.
const CONNECTIONS: usize = super::links::CLIENTS + 200;
/// Requests and streams of one connection at one time.
const STREAMS: u32 = 128;
/// Requests that were reset before they were looked at, and errors of the other side that reset a stream: so many at most, then the
/// connection is ended.
const RESETS: (usize, usize) = (20, 256);
/// Bytes of a request's headers at most.
const HEADERS: u32 = 16 * 1024;
/// Bytes of one message on a stream at most: a setup and acknowledgements are all that clients send there.
const STREAM_MESSAGE: usize = 64 * 1024;
/// Bytes that a request, and all requests of a connection, may have sent and nobody has read: there are many connections, and
/// one request that waits for memory must not hold up the others.
const WINDOWS: (u32, u32) = (64 * 1024, 128 * 1024);
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Bytes that a stream may have written and not sent.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes that a stream's buffers begin with.
const BUFFER: usize = 256;
/// Bytes of messages that are sent together at most.
const YIELD: usize = 32 * 1024;
/// Messages that are taken from a stream before others have their turn.
const TURN: usize = 32;

/// The places there are, out of so many files.
pub(super) fn places(files: &Arc<Semaphore>) -> Places {
    Places::new(files, CONNECTIONS, crowd::over_grpc)
}

/// Serves connections until the group stops.
pub(super) async fn serve(listener: TcpListener, door: Arc<Door>, places: Places, tasks: Tasks) {
    let stop = tasks.token();
    let (leave, cut) = (CancellationToken::new(), CancellationToken::new());
    loop {
        let came = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            came = places.accept(&listener) => came,
        };
        let (place, stream, peer) = match came {
            Some(Came::In(place, stream, peer)) => (place, stream, peer),
            Some(Came::Out(refused)) => {
                tasks.spawn("registry gRPC connection without a place", refused.tell());
                continue;
            }
            None => break,
        };
        let (door, group) = (Arc::clone(&door), tasks.clone());
        let (leave, cut) = (leave.clone(), cut.clone());
        tasks.spawn_to_end("registry gRPC connection", async move {
            let _place = place;
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = Box::pin(connection(stream, peer, door, leave, group)) => {}
            }
        });
    }
    drop(listener);
    door.keeper.release();
    leave.cancel();
    if time::timeout(LEAVE, places.emptied()).await.is_err() {
        tracing::debug!("gRPC connections of the registry are cut");
    }
    cut.cancel();
}

/// A connection at the desk, for as long as there is one.
struct Linked {
    keeper: Arc<Keeper>,
    link: Link,
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.keeper.unlink(self.link);
    }
}

/// One connection, to its end.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    door: Arc<Door>,
    leave: CancellationToken,
    tasks: Tasks,
) {
    // A peer that went away between accept and here.
    let Ok(local) = stream.local_addr() else {
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let (link, ends) = door.keeper.link(peer);
    let linked = Linked {
        keeper: Arc::clone(&door.keeper),
        link,
    };
    let harmed = Arc::new(Harmed::default());
    let caller = Caller {
        door,
        link,
        ends: ends.clone(),
        harmed: Arc::clone(&harmed),
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let caller = caller.clone();
        // In a box: a stream that stays has no room for what it began with.
        Box::pin(async move { caller.answer(local.ip(), request).await })
    });
    let served = http2::Builder::new(Spawner(tasks))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS.0)
        .max_local_error_reset_streams(RESETS.1)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .serve_connection(TokioIo::new(Impatient::new(stream, harmed)), service);
    let mut served = Box::pin(served);
    let mut leaves = false;
    loop {
        let leaving = async {
            tokio::select! {
                () = leave.cancelled() => {}
                () = ends.go_away.cancelled() => {}
            }
        };
        tokio::select! {
            biased;
            () = ends.cut.cancelled() => break,
            () = leaving, if !leaves => {
                leaves = true;
                served.as_mut().graceful_shutdown();
            }
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a gRPC connection to the registry broke");
                }
                break;
            }
        }
    }
    drop(linked);
}

/// Has the requests of a connection run as tasks that are seen.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, work: F) {
        self.0.spawn_to_end("registry gRPC request", work);
    }
}

/// What every request of a connection needs.
#[derive(Clone)]
struct Caller {
    door: Arc<Door>,
    link: Link,
    ends: Ends,
    harmed: Arc<Harmed>,
}

type Answered = Response<tonic::body::Body>;

impl Caller {
    async fn answer(&self, local: IpAddr, request: Request<Incoming>) -> Result<Answered, Lost> {
        let host = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => request
                .headers()
                .get(HOST)
                .and_then(|host| host.to_str().ok()),
        };
        if let Err(refusal) = self.door.guard(local, host, request.headers(), true) {
            let (_, words) = refusal.over_grpc();
            return Ok(Status::permission_denied(words).into_http());
        }
        match request.uri().path() {
            UNARY => self.unary(request).await,
            STREAM => Ok(self.stream(request).await),
            other => {
                let words = format!("no such method: {other}");
                Ok(Status::unimplemented(words).into_http())
            }
        }
    }

    async fn unary(&self, request: Request<Incoming>) -> Result<Answered, Lost> {
        let (head, body) = request.into_parts();
        let (message, share) = match time::timeout(BODY, self.message(body)).await {
            Ok(Ok(read)) => read,
            Ok(Err(status)) => return Ok(status.into_http()),
            Err(_) => {
                let status = Status::deadline_exceeded("the message did not arrive in time");
                return Ok(status.into_http());
            }
        };
        let harm = self.strike(&message);
        let request = Request::from_parts(head, Full::new(message));
        let answer = match harm {
            Some(Harm::Status(status, words)) => {
                let payload = rpc_calls::error(status.into(), words);
                codec().unary(Fixed(payload), request).await
            }
            Some(Harm::Hang) => {
                drop(share);
                return std::future::pending().await;
            }
            Some(Harm::Big) => endless(),
            Some(Harm::Reset) => {
                self.harmed.reset.store(true, Ordering::Relaxed);
                self.ends.cut.cancel();
                return Err(Lost);
            }
            Some(Harm::Drop) => {
                codec().unary(self.clone(), request).await;
                return Err(Lost);
            }
            Some(Harm::Garbage) => {
                self.harmed.garbage.store(true, Ordering::Relaxed);
                Status::ok("").into_http()
            }
            Some(Harm::Delay(delay)) => {
                time::sleep(delay).await;
                codec().unary(self.clone(), request).await
            }
            None => codec().unary(self.clone(), request).await,
        };
        // The desk has read the message.
        drop(share);
        Ok(answer)
    }

    /// What happens to a request; what it is called is in it.
    fn strike(&self, message: &Bytes) -> Option<Harm> {
        if !self.door.has_faults() {
            return None;
        }
        let payload = Payload::decode(message.get(PREFIX..)?).ok()?;
        self.door.strike(payload.kind(), payload.kind())
    }

    /// One message with what stands before it, within its bound; and its share of the memory for what is read.
    async fn message(
        &self,
        body: Incoming,
    ) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Status> {
        let mut body = pin!(body);
        let (mut read, mut share, mut length) = (Vec::new(), None, None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            read.extend_from_slice(&data);
            if length.is_none() && read.len() >= PREFIX {
                let said = read.get(1..PREFIX).and_then(|said| said.try_into().ok());
                let said = usize::try_from(u32::from_be_bytes(said.unwrap_or_default()));
                let bytes = said.ok().filter(|bytes| *bytes <= MESSAGE_LIMIT);
                let bytes = bytes.ok_or_else(|| {
                    let words = format!("a message has {MESSAGE_LIMIT} bytes at most");
                    Status::resource_exhausted(words)
                })?;
                share = self.door.bodies.share(bytes).await;
                length = Some(bytes);
            }
            if length.is_some_and(|length| read.len() > length + PREFIX) {
                return Err(Status::invalid_argument("more than one message"));
            }
        }
        Ok((read.into(), share))
    }

    async fn stream(&self, request: Request<Incoming>) -> Answered {
        Grpc::new(Lean)
            .max_decoding_message_size(STREAM_MESSAGE)
            .max_encoding_message_size(usize::MAX)
            .streaming(self.clone(), request)
            .await
    }
}

fn codec() -> Grpc<ProstCodec<Payload, Payload>> {
    Grpc::new(ProstCodec::default())
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(usize::MAX)
}

/// The codec of streams, which are many, stay, and are silent most of the time: it begins with small buffers.
struct Lean;

impl Codec for Lean {
    type Encode = Payload;
    type Decode = Payload;
    type Encoder = ProstEncoder<Payload>;
    type Decoder = ProstDecoder<Payload>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Payload, Payload>::raw_encoder(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Payload, Payload>::raw_decoder(BufferSettings::new(BUFFER, YIELD))
    }
}

/// Answers the same to everything, as a fault asked for.
struct Fixed(Payload);

impl UnaryService<Payload> for Fixed {
    type Response = Payload;
    type Future = Ready<Result<tonic::Response<Payload>, Status>>;

    fn call(&mut self, _: tonic::Request<Payload>) -> Self::Future {
        ready(Ok(tonic::Response::new(std::mem::take(&mut self.0))))
    }
}

impl UnaryService<Payload> for Caller {
    type Response = Payload;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Payload>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Payload>) -> Self::Future {
        let (keeper, link) = (Arc::clone(&self.door.keeper), self.link);
        Box::pin(async move {
            let answer = keeper.call(link, request.into_inner()).await;
            let lost = || Status::internal("this registry has lost the answer");
            answer.map(tonic::Response::new).ok_or_else(lost)
        })
    }
}

impl StreamingService<Payload> for Caller {
    type Response = Payload;
    type ResponseStream = Both;
    type Future = Ready<Result<tonic::Response<Both>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Payload>>) -> Self::Future {
        let Some((stream, outgoing)) = self.door.keeper.open(self.link) else {
            let words = format!("a connection has {BOTH_WAYS} streams at most");
            return ready(Err(Status::resource_exhausted(words)));
        };
        ready(Ok(tonic::Response::new(Both {
            keeper: Arc::clone(&self.door.keeper),
            link: self.link,
            stream,
            incoming: request.into_inner(),
            outgoing,
        })))
    }
}

/// Both ways of a stream: what comes is told the desk while what goes is asked for, so that no stream needs a task of its own.
struct Both {
    keeper: Arc<Keeper>,
    link: Link,
    stream: Stream,
    incoming: Streaming<Payload>,
    outgoing: mpsc::Receiver<Queued>,
}

impl Flow for Both {
    type Item = Result<Payload, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut turn = 0;
        while let Poll::Ready(came) = Pin::new(&mut self.incoming).poll_next(cx) {
            match came {
                Some(Ok(payload)) => self.keeper.hear(self.link, self.stream, payload),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                // Who says nothing more is told nothing more.
                None => return Poll::Ready(None),
            }
            turn += 1;
            if turn == TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        let next = self.outgoing.poll_recv(cx);
        next.map(|queued| queued.map(|queued| Ok(queued.0)))
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        self.keeper.end_stream(self.link, self.stream);
    }
}

/// An answer that is longer than anybody takes, as a fault asked for.
fn endless() -> Answered {
    let mut answer = Response::new(tonic::body::Body::new(Endless(Some(&[
        0, 0x7f, 0xff, 0xff, 0xff,
    ]))));
    let grpc = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(CONTENT_TYPE, grpc);
    answer
}

/// The head of a message of 2 GiB, then blanks without end.
struct Endless(Option<&'static [u8]>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        const BLANKS: &[u8] = &[b' '; 64 * 1024];
        let data = self.0.take().unwrap_or(BLANKS);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(data)))))
    }
}
