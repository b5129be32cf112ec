//! The operator's door: a unix socket for everything, a TCP listener for reading alone, both plain HTTP/1.1.
//!
//! The socket is the agent's only entrance that changes something, so its mode is its lock: 0600, or 0660 for one named group.
//! It has that mode before it has a name, and its group before it listens: there is no moment in which somebody else could
//! connect. Who asked for a change is logged by what the kernel says of the caller; nothing a caller says of itself counts.
//!
//! The TCP listener has no route that changes anything. `Host` and `Origin` are checked there, or any page in a browser on this
//! host could read it: a page asks for a name of its own, rebound to us, or says where it comes from. Connections, heads and
//! answers are bounded, each door by itself; nothing is read from a body.

use super::Command;
use super::Parts;
use super::status::Status;
use crate::authority;
use crate::descriptor::settings::Admin;
use crate::foreign;
use crate::metrics::Metrics;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::{
    convert::Infallible,
    fs::{self, DirBuilder, File, Metadata, Permissions},
    io,
    net::SocketAddr,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream, unix::UCred},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

/// Connections at a time, of each door: whoever fills the listener does not shut the socket.
const CONNECTIONS: usize = 64;
/// For the head of a request, and between two requests.
const HEAD: Duration = Duration::from_secs(5);
/// Bytes of a head.
const HEAD_SIZE: usize = 8 * 1024;
/// Bytes of a body, which nobody reads.
const BODY_SIZE: u64 = 4 * 1024;
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
    /// Somebody else's socket is there.
    #[error("admin.socket: {path} belongs to user {uid}; name another path")]
    Strange {
        /// Path.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
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
    let unix = bind(settings).await?;
    let path = settings.socket.clone();
    let ours = fs::symlink_metadata(&path).ok();
    let (parts_inside, door_inside) = (parts.clone(), Arc::clone(&door));
    parts.tasks.spawn_to_end("admin-socket", async move {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let stop = parts_inside.tasks.token();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = unix.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let caller = Caller::Local(stream.peer_cred().ok());
                    serve(&parts_inside, &door_inside, &room, stream, caller);
                }
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
        // Left behind it would do no harm: the next start finds that nobody answers.
        if is_same(fs::symlink_metadata(&path).ok(), ours) {
            _ = fs::remove_file(path);
        }
    });
    let allowed: Arc<[String]> = settings.allow_hosts.as_slice().into();
    if let Some(address) = settings.listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        let parts_inside = parts.clone();
        parts.tasks.spawn("admin-listener", async move {
            let room = Arc::new(Semaphore::new(CONNECTIONS));
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let caller = Caller::Anybody(Arc::clone(&allowed));
                        serve(&parts_inside, &door, &room, stream, caller);
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                }
            }
        });
    }
    Ok(())
}

/// Whether two looks saw one file.
fn is_same(a: Option<Metadata>, b: Option<Metadata>) -> bool {
    let which = |found: Metadata| (found.dev(), found.ino());
    a.is_some() && a.map(which) == b.map(which)
}

async fn bind(settings: &Admin) -> Result<UnixListener, Error> {
    let path = &settings.socket;
    let failed = |what| {
        move |source: io::Error| Error::Socket {
            what,
            path: path.clone(),
            source,
        }
    };
    let gid = settings.group.as_deref().map(group).transpose()?;
    if let Some(parent) = path.parent() {
        make_directory(parent, gid).map_err(failed("make the directory of"))?;
    }
    make_room(path).await?;
    let open = |what| move |error: rustix::io::Errno| failed(what)(error.into());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(open("make"))?;
    // The file gets the mode that the socket has now, less the umask: from the first moment on it is ours alone.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(open("set the mode of"))?;
    let name = SocketAddrUnix::new(path.as_path()).map_err(open("name"))?;
    rustix::net::bind(&socket, &name).map_err(open("put in place"))?;
    // Nobody can connect to a socket that does not listen yet.
    let listening = gid
        .map_or(Ok(()), |gid| give_to(path, gid))
        .map_err(failed("set the group of"))
        .and_then(|()| rustix::net::listen(&socket, 64).map_err(open("listen on")));
    if let Err(error) = listening {
        _ = fs::remove_file(path);
        return Err(error);
    }
    UnixListener::from_std(StdListener::from(socket)).map_err(failed("listen on"))
}

/// Opens the socket at `path` to a group; never what somebody may have put in its place.
fn give_to(path: &Path, gid: Gid) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it was exchanged"));
    }
    rustix::fs::chownat(&file, "", None, Some(gid), AtFlags::EMPTY_PATH)?;
    // A descriptor of this kind takes no fchmod.
    let same = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(same, Permissions::from_mode(0o660))
}

/// Makes the directory of the socket, for the agent and the group alone; one that is there stays as it is.
fn make_directory(path: &Path, gid: Option<Gid>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o750).create(path)?;
    if gid.is_some() {
        rustix::fs::fchown(File::open(path)?, None, gid)?;
    }
    Ok(())
}

/// Takes away what an agent of ours that was killed has left, and nothing else.
async fn make_room(path: &Path) -> Result<(), Error> {
    let failed = |what| {
        move |source| Error::Socket {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let path_owned = || path.to_owned();
    // A slip in the settings must not cost somebody a file.
    if !found.file_type().is_socket() {
        return Err(Error::NoSocket { path: path_owned() });
    }
    let uid = found.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return Err(Error::Strange {
            path: path_owned(),
            uid,
        });
    }
    match timeout(HEAD, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the old"))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) => Err(failed("ask who listens on")(error)),
        Ok(Ok(_)) | Err(_) => Err(Error::Taken { path: path_owned() }),
    }
}

/// A group by its name, or by its number as containers without `/etc/group` write it.
fn group(written: &str) -> Result<Gid, Error> {
    let by_name = nix::unistd::Group::from_name(written).ok().flatten();
    by_name
        .map(|group| group.gid.as_raw())
        .or_else(|| written.parse().ok())
        .map(Gid::from_raw)
        .ok_or_else(|| Error::Group(written.to_owned()))
}

/// Who asks.
#[derive(Clone, Debug)]
enum Caller {
    /// Over the socket, with what the kernel says of the process.
    Local(Option<UCred>),
    /// Over TCP: reading only, by these names beside those that count anyway.
    Anybody(Arc<[String]>),
}

fn serve(
    parts: &Parts,
    door: &Arc<Door>,
    room: &Arc<Semaphore>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
) {
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
        // Dropping the stream closes it: a door with a queue would make a slow caller everybody's problem.
        return;
    };
    let door = Arc::clone(door);
    parts.tasks.spawn("admin-connection", async move {
        let _permit = permit;
        let answer = service_fn(move |request: Request<Incoming>| {
            let (door, caller) = (Arc::clone(&door), caller.clone());
            async move {
                let refused = match &caller {
                    Caller::Anybody(allowed) => refused(request.headers(), allowed),
                    Caller::Local(_) => None,
                };
                let answer = match refused {
                    Some((status, why)) => text(status, why),
                    None => door.answer(&request, caller).await,
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(stream), answer);
        // A peer that went away or sent no HTTP has had its answer.
        _ = timeout(WHOLE, connection).await;
    });
}

/// Why a request over TCP is not answered: a page of somebody else's name, opened in a browser here, asks for that name, or
/// says where it comes from.
fn refused(headers: &HeaderMap, allowed: &[String]) -> Option<(StatusCode, &'static str)> {
    let header = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let Some(host) = header(HOST) else {
        return Some((StatusCode::BAD_REQUEST, "a request without Host\n"));
    };
    let name = authority::host(host);
    let is_allowed = allowed
        .iter()
        .any(|allowed| name.eq_ignore_ascii_case(allowed));
    if !is_allowed && !authority::is_nobodys_name(name) {
        let why = "this Host is not answered; ask for the address, or name the host in admin.allow_hosts\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, why));
    }
    let from_here = |origin| {
        authority::of_origin(origin).is_some_and(|origin| origin.eq_ignore_ascii_case(host))
    };
    let site = header(HeaderName::from_static("sec-fetch-site"));
    let is_page = !header(ORIGIN).is_none_or(from_here)
        || !matches!(site, None | Some("same-origin" | "none"));
    is_page.then_some((StatusCode::FORBIDDEN, "pages of others are not answered\n"))
}

impl Door {
    async fn answer(&self, request: &Request<Incoming>, caller: Caller) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if request
            .body()
            .size_hint()
            .upper()
            .is_none_or(|size| size > BODY_SIZE)
        {
            let mut answer = text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "nothing is read from a body\n",
            );
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            return answer;
        }
        let reading_only = matches!(caller, Caller::Anybody(_));
        if reading_only && request.method() != Method::GET {
            let mut answer = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is answered here\n",
            );
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET"));
            return answer;
        }
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
                let status = (self.status)();
                let configs = status.configs.into_iter();
                let configs =
                    configs.map(|one| (one.required, one.applied_once, one.path, one.state));
                let lists = status.subscriptions.into_iter();
                let lists = lists.map(|one| (one.required, one.applied_once, one.path, one.state));
                let waiting: Vec<String> = configs
                    .chain(lists)
                    .filter(|(required, applied_once, ..)| *required && !applied_once)
                    .map(|(.., path, state)| format!("{} is {state}\n", foreign::harmless(&path)))
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
            (&Method::GET, "/status") => {
                let mut status = (self.status)();
                if reading_only {
                    // Where credentials are is nobody's business who may come from anywhere.
                    status
                        .settings
                        .retain(|setting| !setting.key.starts_with("registry.auth."));
                }
                json(&status)
            }
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
                log(caller, "asked to drain");
                match self.ask(|answer| Command::Drain { within, answer }).await {
                    Some(true) => text(StatusCode::OK, "drained\n"),
                    _ => text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "not confirmed by the registry within the time; it goes on\n",
                    ),
                }
            }
            (&Method::POST, "/reload") if !reading_only => {
                log(caller, "asked to read everything again");
                match self.ask(Command::Reload).await {
                    Some(0) => text(StatusCode::OK, "read again\n"),
                    Some(problems) => text(
                        StatusCode::OK,
                        &format!("read again; problems: {problems}, see status\n"),
                    ),
                    None => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n"),
                }
            }
            (&Method::POST, "/release") if !reading_only => {
                let service = request
                    .uri()
                    .query()
                    .and_then(|query| query.strip_prefix("service="))
                    .map(|name| percent_encoding::percent_decode_str(name).decode_utf8_lossy());
                let Some(service) = service.filter(|name| !name.is_empty()) else {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "which? POST /release?service=NAME\n",
                    );
                };
                let service = service.into_owned();
                log(caller, "asked to release a list that is held");
                match self
                    .ask(|answer| Command::Release { service, answer })
                    .await
                {
                    Some(0) => text(
                        StatusCode::NOT_FOUND,
                        "nothing of that name is held; see outrigger status\n",
                    ),
                    Some(count) => text(StatusCode::OK, &format!("released: {count}\n")),
                    None => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n"),
                }
            }
            (&Method::POST, "/retry") if !reading_only => {
                let path = request
                    .uri()
                    .query()
                    .and_then(|query| query.strip_prefix("path="))
                    .map(|path| percent_encoding::percent_decode_str(path).decode_utf8_lossy());
                let Some(path) = path.filter(|path| path.starts_with('/')) else {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "which? POST /retry?path=/ABSOLUTE/PATH\n",
                    );
                };
                let path = PathBuf::from(path.into_owned());
                log(caller, "asked to try a file again");
                match self.ask(|answer| Command::Retry { path, answer }).await {
                    Some(0) => text(
                        StatusCode::NOT_FOUND,
                        "no file of that path is kept; see outrigger status\n",
                    ),
                    Some(count) => text(StatusCode::OK, &format!("tried again: {count}\n")),
                    None => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n"),
                }
            }
            (_, "/drain" | "/reload" | "/release" | "/retry") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "POST, on the unix socket\n")
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /livez /readyz /startupz /metrics /status; POST /drain /reload /release /retry on the unix socket\n",
            ),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// The one line that says who changed something.
fn log(caller: Caller, what: &'static str) {
    let Caller::Local(Some(who)) = caller else {
        tracing::info!("{what} by somebody the kernel does not name");
        return;
    };
    tracing::info!(uid = who.uid(), gid = who.gid(), pid = who.pid(), "{what}");
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", body.to_owned());
    *response.status_mut() = status;
    response
}

fn json<T: serde::Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(value) {
        Ok(body) => {
            let body = foreign::harmless_json(&body).into_owned();
            typed("application/json", body + "\n")
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn typed(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_name_is_not_answered() {
        let asked = |host: Option<&str>, more: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert(HOST, host.parse().unwrap());
            }
            for (name, value) in more {
                headers.insert(*name, value.parse().unwrap());
            }
            refused(&headers, &["node-7.example.com".to_owned()])
                .map_or(200, |(status, _)| status.as_u16())
        };
        let here = Some("127.0.0.1:9901");
        for host in [
            "127.0.0.1:9901",
            "localhost",
            "[::1]:9901",
            "10.1.2.3:9901",
            "outrigger:9901",
            "node-7.Example.com:9901",
        ] {
            assert_eq!(asked(Some(host), &[]), 200, "{host}");
        }
        assert_eq!(
            asked(
                Some("localhost:9901"),
                &[("origin", "http://localhost:9901")]
            ),
            200
        );
        assert_eq!(asked(here, &[("sec-fetch-site", "none")]), 200);
        assert_eq!(asked(None, &[]), 400);
        for host in [
            "rebound.example:9901",
            "",
            "127.0.0.1.example",
            "localhost:x",
        ] {
            assert_eq!(asked(Some(host), &[]), 421, "{host}");
        }
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:3000",
            "\u{e9}",
        ] {
            assert_eq!(asked(here, &[("origin", origin)]), 403, "{origin}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert_eq!(asked(here, &[("sec-fetch-site", site)]), 403, "{site}");
        }
    }
}
