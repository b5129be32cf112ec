//! The operator's door: a unix socket for everything, a TCP listener for reading alone, both plain HTTP/1.1.
//!
//! The socket is the agent's only entrance that changes something, so its mode is its lock: 0600, or 0660 for one named group.
//! On the TCP listener `Host` and `Origin` are checked, or any page in a browser on this host could read it. Connections, heads
//! and answers are bounded; nothing is read from a body.

use super::Command;
use super::Parts;
use super::status::Status;
use crate::authority;
use crate::descriptor::settings::Admin;
use crate::metrics::Metrics;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HOST, HeaderMap, ORIGIN},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

/// Connections at a time, both doors together.
const CONNECTIONS: usize = 32;
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(5);
/// One connection ends after this: longer than the longest drain that may be asked for.
const WHOLE: Duration = Duration::from_secs(600);
/// The supervisor answers sooner, or the loops make no progress.
const PROGRESS: Duration = Duration::from_secs(2);
/// A drain is not waited for longer.
const LONGEST_DRAIN: Duration = Duration::from_secs(300);
/// After an error of accept (out of descriptors, say).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why the door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket.
    #[error("admin.socket: cannot {what} {path}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody answers on the socket.
    #[error(
        "admin.socket: another agent answers on {path}; stop it, or give this one another socket"
    )]
    Taken {
        /// Path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("admin.socket: {path} is there and is no socket; name another path")]
    NoSocket {
        /// Path.
        path: PathBuf,
    },
    /// No such group.
    #[error("admin.group: there is no group {0}")]
    Group(String),
    /// The listener.
    #[error("admin.listen: cannot listen on {address}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the door shows and whom it hands requests to.
pub struct Door {
    /// Makes the status of now.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    /// Figures, registered.
    pub figures: prometheus_client::registry::Registry,
    /// To the supervisor.
    pub commands: mpsc::Sender<Command>,
}

/// Opens both doors; they close with the tasks, and the socket's file goes with them.
///
/// # Errors
/// When one cannot be opened.
pub async fn start(parts: &Parts, settings: &Admin, door: Door) -> Result<(), Error> {
    let door = Arc::new(door);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let unix = bind(settings).await?;
    let (parts_inside, path) = (parts.clone(), settings.socket.clone());
    let (door_inside, room_inside) = (Arc::clone(&door), Arc::clone(&room));
    parts.tasks.spawn_to_end("admin-socket", async move {
        let stop = parts_inside.tasks.token();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = unix.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => serve(&parts_inside, &door_inside, &room_inside, stream, None),
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
        // Left behind it would do no harm: the next start finds that nobody answers.
        _ = std::fs::remove_file(path);
    });
    if let Some(address) = settings.listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        let parts_inside = parts.clone();
        parts.tasks.spawn("admin-listener", async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        serve(&parts_inside, &door, &room, stream, Some(address));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                }
            }
        });
    }
    Ok(())
}

async fn bind(settings: &Admin) -> Result<UnixListener, Error> {
    let path = &settings.socket;
    let failed = |what| {
        move |source| Error::Socket {
            what,
            path: path.clone(),
            source,
        }
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            match timeout(HEAD, UnixStream::connect(path)).await {
                // Left behind by an agent that was killed.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed("remove the old"))?;
                }
                Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("ask who listens on")(error));
                }
                Ok(Err(_)) => {}
                Ok(Ok(_)) | Err(_) => return Err(Error::Taken { path: path.clone() }),
            }
        }
        // A slip in the settings must not cost somebody a file.
        Ok(_) => return Err(Error::NoSocket { path: path.clone() }),
        Err(_) => {}
    }
    let gid = settings.group.as_deref().map(group).transpose()?;
    // Made under another name and mode, so that nobody connects before it is locked.
    let made = beside(path);
    _ = std::fs::remove_file(&made);
    let listener = UnixListener::bind(&made).map_err(failed("listen on"))?;
    let mode = if gid.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode))
        .map_err(failed("set the mode of"))?;
    if let Some(gid) = gid {
        nix::unistd::chown(&made, None, Some(gid))
            .map_err(io::Error::from)
            .map_err(failed("set the group of"))?;
    }
    std::fs::rename(&made, path).map_err(failed("put in place"))?;
    Ok(listener)
}

/// A group by its name, or by its number as containers without `/etc/group` write it.
fn group(written: &str) -> Result<nix::unistd::Gid, Error> {
    let by_name = nix::unistd::Group::from_name(written).ok().flatten();
    by_name
        .map(|group| group.gid)
        .or_else(|| written.parse().ok().map(nix::unistd::Gid::from_raw))
        .ok_or_else(|| Error::Group(written.to_owned()))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn serve(
    parts: &Parts,
    door: &Arc<Door>,
    room: &Arc<Semaphore>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    listener: Option<SocketAddr>,
) {
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
        // Dropping the stream closes it: a door with a queue would make a slow caller everybody's problem.
        return;
    };
    let door = Arc::clone(door);
    parts.tasks.spawn("admin-connection", async move {
        let _permit = permit;
        let answer = service_fn(move |request: Request<Incoming>| {
            let door = Arc::clone(&door);
            async move {
                let reading_only = listener.is_some();
                let answer = if listener.is_some_and(|at| !invited(request.headers(), at)) {
                    text(
                        StatusCode::FORBIDDEN,
                        "this Host or Origin is not answered\n",
                    )
                } else {
                    door.answer(&request, reading_only).await
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), answer);
        // A peer that went away or sent no HTTP has had its answer.
        _ = timeout(WHOLE, connection).await;
    });
}

/// Whether a request over TCP names this host: a page of somebody else's name, opened in a browser here, does not.
fn invited(headers: &HeaderMap, at: SocketAddr) -> bool {
    let ours = |text: &str| {
        authority::is_this_host(authority::host(text), |ip| {
            ip == at.ip() || at.ip().is_unspecified()
        })
    };
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let host = header(HOST).is_none_or(ours);
    let origin = header(ORIGIN).is_none_or(|origin| authority::of_origin(origin).is_some_and(ours));
    host && origin
}

impl Door {
    async fn answer(
        &self,
        request: &Request<Incoming>,
        reading_only: bool,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/livez") => {
                let (answer, answered) = oneshot::channel();
                let ask = async {
                    self.commands.send(Command::Ping(answer)).await.ok()?;
                    answered.await.ok()
                };
                match timeout(PROGRESS, ask).await {
                    Ok(Some(())) => text(StatusCode::OK, "ok\n"),
                    _ => text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the loops make no progress\n",
                    ),
                }
            }
            (&Method::GET, "/readyz") => match self.ask(Command::Ready).await {
                Some(true) => text(StatusCode::OK, "ok\n"),
                _ => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "descriptors have not been read yet\n",
                ),
            },
            (&Method::GET, "/startupz") => {
                let waiting: Vec<String> = (self.status)()
                    .configs
                    .into_iter()
                    .filter(|config| config.required && !config.applied_once)
                    .map(|config| format!("{} is {}\n", config.path, config.state))
                    .collect();
                if self.ask(Command::Ready).await != Some(true) {
                    text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "descriptors have not been read yet\n",
                    )
                } else if waiting.is_empty() {
                    text(StatusCode::OK, "ok\n")
                } else {
                    text(StatusCode::SERVICE_UNAVAILABLE, &waiting.concat())
                }
            }
            (&Method::GET, "/metrics") => typed(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                Metrics::render(&self.figures),
            ),
            (&Method::GET, "/status") => json(&(self.status)()),
            (&Method::GET, "/addresses") if !reading_only => {
                json(&self.ask(Command::Addresses).await.unwrap_or_default())
            }
            (&Method::POST, "/drain") if !reading_only => {
                let within = request
                    .uri()
                    .query()
                    .and_then(|query| query.strip_prefix("timeout_ms=")?.parse().ok())
                    .map_or(Duration::from_secs(10), Duration::from_millis)
                    .min(LONGEST_DRAIN);
                match self.ask(|answer| Command::Drain { within, answer }).await {
                    Some(true) => text(StatusCode::OK, "drained\n"),
                    _ => text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "not confirmed by the registry within the time; it goes on\n",
                    ),
                }
            }
            (&Method::POST, "/reload") if !reading_only => match self.ask(Command::Reload).await {
                Some(0) => text(StatusCode::OK, "read again\n"),
                Some(problems) => text(
                    StatusCode::OK,
                    &format!("read again; problems: {problems}, see status\n"),
                ),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n"),
            },
            (_, "/drain" | "/reload") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "POST, on the unix socket\n")
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /livez /readyz /startupz /metrics /status; POST /drain /reload on the unix socket\n",
            ),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", body.to_owned());
    *response.status_mut() = status;
    response
}

fn json<T: serde::Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(value) {
        Ok(body) => typed("application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn typed(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_name_is_not_answered() {
        let at = "127.0.0.1:9901".parse().unwrap();
        let asked = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            invited(&headers, at)
        };
        assert!(asked("127.0.0.1:9901", None));
        assert!(asked("localhost:9901", Some("http://localhost:9901")));
        assert!(asked("[::1]:9901", None));
        assert!(!asked("rebound.example:9901", None));
        assert!(!asked("127.0.0.1:9901", Some("http://evil.example")));
        assert!(!asked("127.0.0.1:9901", Some("null")));
    }
}
