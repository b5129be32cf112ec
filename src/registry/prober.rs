//! Carries out the checks that the desk wants: one connection each, and the word how it ended, always.
//!
//! Who registers an instance says where this host connects to, so a check gives little: a connection that is accepted or not, or
//! one GET of HTTP/1.1 of which the status alone is looked at. At most [`HEAD_BYTES`] of an answer are read and nothing of its
//! body, redirects are not followed and no proxy is asked. Addresses that give away a machine's secrets to whoever asks from it
//! (link-local ones, and the metadata services of clouds) are never connected to. How many checks there are at a time, and how
//! many begin in a second, the machine `checks` decides.

use crate::registry::checker;
use crate::registry::checks;
use crate::registry::checks::By;
use crate::registry::checks::Checked;
use crate::registry::checks::Probe;
use crate::registry::keeper::Keeper;
use crate::registry::keeper::Wanted;
use crate::tasks::Tasks;
use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task, time,
};

/// How long a connection may take, looking up a name included; and how long an answer after it.
const LIMIT: Duration = Duration::from_millis(500);
/// Bytes of an answer's head at most.
const HEAD_BYTES: usize = 16 * 1024;
/// Names that are looked up at a time at most: the system's resolver cannot be told to stop, and holds a thread as long as it wants.
const LOOKUPS: usize = 8;
/// What a check calls itself, as the original does: applications may know it.
const AGENT: HeaderValue = HeaderValue::from_static("VIPServer");

/// The way from the desk to the prober, which has room for all checks that are under way.
pub(crate) fn queue() -> (mpsc::Sender<Wanted>, mpsc::Receiver<Wanted>) {
    mpsc::channel(checks::UNDER_WAY)
}

/// Tells how a probe ended, also when its task is ended by the stop or by a bug.
struct End {
    keeper: Arc<Keeper>,
    number: u64,
    outcome: Checked,
}

impl Drop for End {
    fn drop(&mut self) {
        self.keeper.probed(self.number, self.outcome);
    }
}

/// Carries out what comes through the queue, each in a task of its own, until the group stops.
pub(crate) async fn run(keeper: Arc<Keeper>, mut wanted: mpsc::Receiver<Wanted>, tasks: Tasks) {
    let lookups = Arc::new(Semaphore::new(LOOKUPS));
    while let Some((number, probe)) = wanted.recv().await {
        let end = End {
            keeper: Arc::clone(&keeper),
            number,
            outcome: Checked::Unable,
        };
        let lookups = Arc::clone(&lookups);
        tasks.spawn("health check", async move {
            let mut end = end;
            end.outcome = ask(&probe, &lookups).await;
        });
    }
}

/// Asks an instance, for twice [`LIMIT`] at most.
async fn ask(probe: &Probe, lookups: &Arc<Semaphore>) -> Checked {
    let connected = time::timeout(LIMIT, async {
        let address = resolve(probe, lookups).await?;
        if gives_secrets(address.ip()) {
            return Err(Checked::Unable);
        }
        let connected = TcpStream::connect(address).await;
        connected.map_err(|error| failed(&error))
    });
    let stream = match connected.await {
        Err(_) => return Checked::TimedOut,
        Ok(Err(outcome)) => return outcome,
        Ok(Ok(stream)) => stream,
    };
    let By::Http { path, headers } = &probe.by else {
        return Checked::Passed;
    };
    let answered = time::timeout(LIMIT, get(stream, probe, path, headers));
    match answered.await {
        Err(_) => Checked::TimedOut,
        Ok(None) => Checked::Failed,
        Ok(Some(StatusCode::OK)) => Checked::Passed,
        Ok(Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::FOUND)) => Checked::Busy,
        Ok(Some(_)) => Checked::Refused,
    }
}

async fn resolve(probe: &Probe, lookups: &Arc<Semaphore>) -> Result<SocketAddr, Checked> {
    if let Ok(ip) = probe.ip.parse::<IpAddr>() {
        return Ok((ip, probe.port).into());
    }
    // The semaphore is never closed; the place is given back when the resolver has ended, not when nobody waits for it any more.
    let place = Arc::clone(lookups).acquire_owned().await;
    let place = place.map_err(|_| Checked::Unable)?;
    let (name, port) = (Arc::clone(&probe.ip), probe.port);
    let found = task::spawn_blocking(move || {
        let _place = place;
        (&*name, port).to_socket_addrs().ok()?.next()
    });
    found.await.ok().flatten().ok_or(Checked::Failed)
}

/// Whether something is at this address that trusts whoever can connect.
fn gives_secrets(ip: IpAddr) -> bool {
    const ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const AWS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip == ALIBABA,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == AWS,
    }
}

/// What it says of an instance that there is no connection.
fn failed(error: &io::Error) -> Checked {
    let ours = [
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOMEM,
        Errno::EADDRNOTAVAIL,
    ];
    if let Some(code) = error.raw_os_error()
        && ours.contains(&Errno::from_raw(code))
    {
        tracing::debug!(%error, "a health check finds no socket");
        return Checked::Unable;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Checked::Refused,
        io::ErrorKind::TimedOut => Checked::TimedOut,
        _ => Checked::Failed,
    }
}

/// The status with which a GET is answered.
async fn get(stream: TcpStream, probe: &Probe, path: &str, headers: &str) -> Option<StatusCode> {
    stream.set_nodelay(true).ok()?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = checker::target(path)?;
    let host = stream.peer_addr().ok().map(|peer| match peer {
        SocketAddr::V4(peer) => format!("{}:{}", probe.ip, peer.port()),
        SocketAddr::V6(peer) if probe.ip.contains(':') => peer.to_string(),
        SocketAddr::V6(peer) => format!("{}:{}", probe.ip, peer.port()),
    })?;
    let fields = request.headers_mut();
    fields.insert(HOST, HeaderValue::from_str(&host).ok()?);
    fields.insert(USER_AGENT, AGENT);
    for (name, value) in checker::pairs(headers) {
        let (name, value) = checker::header(name, value)?;
        fields.insert(name, value);
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .ok()?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        // What it read before its end has its place in the answer.
        _ = connection => answer.await,
    };
    Some(answered.ok()?.status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn probe(ip: &str, port: u16, by: By) -> Probe {
        let ip = ip.into();
        Probe { ip, port, by }
    }

    fn http(path: &str, headers: &str) -> By {
        By::Http {
            path: path.into(),
            headers: headers.into(),
        }
    }

    async fn asked(probe: Probe) -> Checked {
        ask(&probe, &Arc::new(Semaphore::new(1))).await
    }

    /// How a GET ends that is answered with these bytes, and what was asked.
    async fn answered(by: By, answer: &[u8], end: bool) -> (Checked, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4_096];
            let many = stream.read(&mut asked).await.unwrap();
            asked.truncate(many);
            // The other side may have heard enough.
            _ = stream.write_all(answer).await;
            if !end {
                _ = stream.read(&mut [0; 16]).await;
            }
            String::from_utf8(asked).unwrap()
        };
        tokio::join!(asked(probe("127.0.0.1", port, by)), serve)
    }

    #[tokio::test]
    async fn tcp_wants_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for ip in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
            assert_eq!(
                asked(probe(ip, port, By::Tcp)).await,
                Checked::Passed,
                "{ip}"
            );
        }
        drop(listener);
        assert_eq!(
            asked(probe("127.0.0.1", port, By::Tcp)).await,
            Checked::Refused
        );
        assert_eq!(
            asked(probe("no such name", port, By::Tcp)).await,
            Checked::Failed
        );
    }

    #[tokio::test]
    async fn what_gives_away_secrets_is_never_connected_to() {
        for ip in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            assert_eq!(asked(probe(ip, 80, By::Tcp)).await, Checked::Unable, "{ip}");
        }
    }

    #[tokio::test]
    async fn http_wants_200_and_gives_503_and_302_time() {
        for (answer, outcome) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Checked::Passed),
            ("HTTP/1.0 200\r\n\r\n", Checked::Passed),
            ("HTTP/1.1 204 No\r\n\r\n", Checked::Refused),
            (
                "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
                Checked::Refused,
            ),
            (
                "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
                Checked::Busy,
            ),
            (
                "HTTP/1.1 302 No\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
                Checked::Busy,
            ),
            ("SSH-2.0-OpenSSH\r\n", Checked::Failed),
            ("", Checked::Failed),
        ] {
            let (seen, _) = answered(http("/h", ""), answer.as_bytes(), true).await;
            assert_eq!(seen, outcome, "{answer:?}");
        }
        let (seen, _) = answered(http("/h", ""), b"HTTP/1.1 200", false).await;
        assert_eq!(seen, Checked::TimedOut, "half an answer is none");
    }

    #[tokio::test]
    async fn a_get_says_what_was_configured_and_nothing_else() {
        let (_, asked) = answered(http("h?a=b", "X-Who: me|odd|A:b:c"), b"", true).await;
        let (first, rest) = asked.split_once("\r\n").unwrap();
        assert_eq!(first, "GET /h?a=b HTTP/1.1");
        let mut lines: Vec<&str> = rest.trim().lines().collect();
        lines.sort_unstable();
        assert!(lines[0].starts_with("host: 127.0.0.1:"), "{asked}");
        assert_eq!(lines[1..], ["user-agent: VIPServer", "x-who: me"]);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read() {
        let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
        endless.extend(b"A: b\r\n".repeat(40_000));
        let (seen, _) = answered(http("/", ""), &endless, true).await;
        assert_eq!(seen, Checked::Failed, "a head without end");
        let mut body = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
        body.extend(vec![b' '; 1_000_000]);
        let (seen, _) = answered(http("/", ""), &body, true).await;
        assert_eq!(seen, Checked::Passed, "a body without end");
    }
}
