//! A gRPC client for tests, as raw as can be: frames over HTTP/2 and JSON values, so that nothing hides what a server said.

use crate::support::LONG;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    Request,
    body::{Bytes, Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::TokioIo;
use outrigger::nacos::rpc::{Payload, STREAM, UNARY};
use prost::Message;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpStream, sync::mpsc, time};

type Body = BoxBody<Bytes, Infallible>;

/// A connection.
pub(crate) struct Client {
    send: http2::SendRequest<Body>,
    authority: String,
    /// The TCP connection lives as long as these.
    alive: Tasks,
}

/// The tasks of a connection.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>);

impl<F: Future + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, work: F) {
        let work = async move {
            work.await;
        };
        self.0.lock().unwrap().push(tokio::spawn(work));
    }
}

/// What a call came to: its class and body, or the gRPC status and its words.
pub(crate) type Called = Result<(String, Value), (u32, String)>;

impl Client {
    pub(crate) async fn connect(at: SocketAddr) -> Self {
        Self::try_connect(at).await.unwrap()
    }

    pub(crate) async fn try_connect(at: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(at).await.map_err(|e| e.to_string())?;
        let alive = Tasks::default();
        let (send, connection) = http2::handshake(alive.clone(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        // What broke it is seen by whoever uses it.
        hyper::rt::Executor::execute(&alive, connection);
        Ok(Self {
            send,
            authority: at.to_string(),
            alive,
        })
    }

    /// Asks by another name.
    pub(crate) fn named(mut self, authority: &str) -> Self {
        self.authority = authority.to_owned();
        self
    }

    /// Whether the TCP connection is there yet.
    pub(crate) fn is_open(&self) -> bool {
        !self.send.is_closed()
    }

    /// Closes the TCP connection.
    pub(crate) async fn close(self) {
        let all = std::mem::take(&mut *self.alive.0.lock().unwrap());
        for task in all {
            task.abort();
            // An error is what was asked for.
            _ = task.await;
        }
    }

    fn request(&self, method: &str, body: Body) -> Request<Body> {
        Request::post(format!("http://{}{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap()
    }

    /// Calls with bytes for a body.
    pub(crate) async fn call_raw(&mut self, kind: &str, body: impl Into<Bytes>) -> Called {
        let frame = framed(&Payload::raw(kind, body));
        let body = StreamBody::new(stream::iter([Ok(Frame::data(frame))])).boxed();
        let lost = |error: hyper::Error| (u32::MAX, error.to_string());
        self.send.ready().await.map_err(lost)?;
        let request = self.request(UNARY, body);
        let answer = self.send.send_request(request).await.map_err(lost)?;
        let (head, body) = answer.into_parts();
        status(&head.headers)?;
        let body = body.collect().await.map_err(lost)?;
        if let Some(trailers) = body.trailers() {
            status(trailers)?;
        }
        let bytes = body.to_bytes();
        Ok(unframed(&bytes).unwrap().0)
    }

    /// Calls, within [`LONG`].
    pub(crate) async fn try_call(&mut self, kind: &str, body: &Value) -> Called {
        time::timeout(LONG, self.call_raw(kind, body.to_string()))
            .await
            .unwrap_or_else(|_| panic!("{kind} is not answered"))
    }

    /// Calls what is answered.
    pub(crate) async fn call(&mut self, kind: &str, body: Value) -> (String, Value) {
        self.try_call(kind, &body)
            .await
            .unwrap_or_else(|(status, words)| panic!("{kind}: gRPC status {status}: {words}"))
    }

    /// Calls what is answered well.
    pub(crate) async fn ok(&mut self, kind: &str, body: Value) -> Value {
        let (class, answer) = self.call(kind, body).await;
        assert_eq!(answer["resultCode"], 200, "{kind}: {class} {answer}");
        answer
    }

    /// Opens a stream.
    pub(crate) async fn open(&mut self) -> Stream {
        let (out, queue) = mpsc::channel::<Bytes>(16);
        let frames = stream::unfold(queue, |mut queue| async move {
            let frame = queue.recv().await?;
            Some((Ok(Frame::data(frame)), queue))
        });
        self.send.ready().await.unwrap();
        let request = self.request(STREAM, StreamBody::new(frames).boxed());
        let answer = time::timeout(LONG, self.send.send_request(request));
        let answer = answer.await.unwrap().unwrap();
        Stream {
            out,
            body: answer.into_body(),
            read: Vec::new(),
            acknowledges: true,
        }
    }

    /// Sets the connection up as a client of a module.
    pub(crate) async fn set_up(&mut self, module: &str) -> Stream {
        let mut stream = self.open().await;
        stream.set_up(module, Some(json!({}))).await;
        assert_eq!(stream.next().await.0, "SetupAckRequest");
        stream
    }

    pub(crate) async fn register(&mut self, service: &str, port: u16) -> Value {
        self.ok(
            "InstanceRequest",
            instance("registerInstance", service, port),
        )
        .await
    }

    pub(crate) async fn deregister(&mut self, service: &str, port: u16) -> Value {
        self.ok(
            "InstanceRequest",
            instance("deregisterInstance", service, port),
        )
        .await
    }

    /// The ports of a service's hosts.
    pub(crate) async fn ports(&mut self, service: &str) -> Vec<u64> {
        let asked =
            json!({"namespace": "public", "groupName": "DEFAULT_GROUP", "serviceName": service});
        ports(&self.ok("ServiceQueryRequest", asked).await)
    }

    pub(crate) async fn subscribe(&mut self, service: &str) -> Vec<u64> {
        let asked = json!({"namespace": "public", "groupName": "DEFAULT_GROUP", "serviceName": service, "subscribe": true});
        ports(&self.ok("SubscribeServiceRequest", asked).await)
    }
}

/// An `InstanceRequest`.
pub(crate) fn instance(kind: &str, service: &str, port: u16) -> Value {
    json!({
        "namespace": "public", "groupName": "DEFAULT_GROUP", "serviceName": service, "type": kind,
        "instance": {"ip": "10.0.0.1", "port": port},
    })
}

/// The ports of the hosts in an answer or a push.
pub(crate) fn ports(answer: &Value) -> Vec<u64> {
    let hosts = answer["serviceInfo"]["hosts"].as_array().unwrap();
    hosts
        .iter()
        .map(|host| host["port"].as_u64().unwrap())
        .collect()
}

/// A stream.
pub(crate) struct Stream {
    out: mpsc::Sender<Bytes>,
    body: Incoming,
    read: Vec<u8>,
    /// Whether what needs an acknowledgement is given one by [`Stream::next`].
    pub(crate) acknowledges: bool,
}

impl Stream {
    pub(crate) async fn send(&mut self, kind: &str, body: &Value) {
        self.send_raw(kind, body.to_string()).await;
    }

    pub(crate) async fn send_raw(&mut self, kind: &str, body: impl Into<Bytes>) {
        let frame = framed(&Payload::raw(kind, body));
        // Who has ended the stream is seen by what comes.
        _ = self.out.send(frame).await;
    }

    pub(crate) async fn set_up(&mut self, module: &str, abilities: Option<Value>) {
        let body = json!({
            "clientVersion": "test", "tenant": "", "labels": {"source": "sdk", "module": module}, "abilityTable": abilities,
        });
        self.send("ConnectionSetupRequest", &body).await;
    }

    /// What comes next, within `patience`; `None` at the end of the stream.
    pub(crate) async fn next_within(
        &mut self,
        patience: Duration,
    ) -> Result<Option<(String, Value)>, time::error::Elapsed> {
        time::timeout(patience, self.come()).await
    }

    async fn come(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((message, rest)) = unframed(&self.read) {
                self.read = self.read.split_off(self.read.len() - rest);
                let (kind, body) = message;
                if self.acknowledges
                    && let Some(id) = body["requestId"].as_str()
                {
                    let answer = json!({"resultCode": 200, "errorCode": 0, "requestId": id});
                    let class = kind.replace("Request", "Response");
                    self.send(&class, &answer).await;
                }
                return Some((kind, body));
            }
            let data = self.body.frame().await?.ok()?.into_data();
            self.read.extend_from_slice(&data.unwrap_or_default());
        }
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        let came = self.next_within(LONG).await.expect("nothing comes");
        came.expect("the stream has ended")
    }

    /// Waits for the end of the stream; what came before it is left out.
    pub(crate) async fn ended(&mut self) {
        while self.next_within(LONG).await.expect("it goes on").is_some() {}
    }

    /// The ports of the next push of a list.
    pub(crate) async fn pushed(&mut self) -> Vec<u64> {
        let (kind, body) = self.next().await;
        assert_eq!(kind, "NotifySubscriberRequest", "{body}");
        ports(&body)
    }
}

/// A message with what stands before it.
fn framed(payload: &Payload) -> Bytes {
    let message = payload.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// The first message of these bytes, and how many follow it.
fn unframed(bytes: &[u8]) -> Option<((String, Value), usize)> {
    let (prefix, rest) = bytes.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
    let (message, rest) = rest.split_at_checked(length as usize)?;
    let payload = Payload::decode(message).unwrap();
    let body = serde_json::from_slice(payload.body()).unwrap();
    Some(((payload.kind().to_owned(), body), rest.len()))
}

/// The gRPC status among headers or trailers, if it is an error.
fn status(headers: &hyper::HeaderMap) -> Result<(), (u32, String)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err((
            code.parse().unwrap(),
            text("grpc-message").unwrap_or_default().to_owned(),
        )),
    }
}
