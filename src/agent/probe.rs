//! Asks the local application whether it lives: a connection, a request or a command, driven by the gate.
//!
//! The connection of a TCP probe is closed with a reset: an orderly close would leave a TIME_WAIT for every probe, and an
//! application that only accepts would see a half-open line.

use super::Parts;
use super::gate::{Effect, Event, Gate, Patience};
use crate::descriptor::spec::{Probe, ProbeKind};
use crate::foreign::Foreign;
use crate::machine::drive;
use crate::metrics::Outcome;
use crate::nacos::wire;
use crate::os::command;
use crate::tasks::Tasks;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_socket_linger},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

/// What is known of the application's health.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The gate's verdict; `None` until the first one.
    pub healthy: Option<bool>,
    /// The last result and how many like it came in a row, in words: `tcp ok, 0.2 ms`, `tcp refused x 3`.
    pub words: String,
    /// Why the last probe failed, one sentence; `None` when it passed.
    pub why: Option<String>,
}

/// Why one probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    /// A word or two for the table.
    short: String,
    /// One sentence.
    long: String,
    /// A command was killed at its time limit.
    killed: bool,
}

impl Failure {
    fn new(short: impl Into<String>, long: String) -> Self {
        Self {
            short: short.into(),
            long,
            killed: false,
        }
    }
}

/// Starts to probe as a task of `tasks`, until they stop.
pub fn start(parts: &Parts, tasks: &Tasks, probe: Probe) -> watch::Receiver<Health> {
    let (told, health) = watch::channel(Health {
        healthy: None,
        words: format!("{} not asked yet", kind(&probe.kind)),
        why: None,
    });
    let (parts, tasks_inside) = (parts.clone(), tasks.clone());
    tasks.spawn("probe", async move {
        let (events_tx, events_rx) = mpsc::channel(1);
        let patience = Patience {
            interval: probe.interval,
            rise: probe.rise,
            fall: probe.fall,
        };
        let stop = tasks_inside.token();
        let client = matches!(probe.kind, ProbeKind::Http { .. }).then(|| client(probe.timeout));
        let run = AtomicU32::new(0);
        let perform = |effect| {
            let events = events_tx.clone();
            let (probe, told, parts) = (&probe, &told, &parts);
            let (client, run) = (client.as_ref(), &run);
            let probes = match effect {
                Effect::Tell { healthy } => {
                    told.send_modify(|health| health.healthy = Some(healthy));
                    let verdicts = &parts.metrics.verdicts;
                    let outcome = if healthy { "healthy" } else { "unhealthy" };
                    let what = "verdict";
                    verdicts.get_or_create(&Outcome { what, outcome }).inc();
                    false
                }
                Effect::Probe => true,
            };
            // The gate waits for this probe and for nothing else, so it may be waited for here.
            async move {
                if !probes {
                    return;
                }
                let began = Instant::now();
                let result = once(probe, client).await;
                let failures = match result {
                    Ok(()) => 0,
                    Err(_) => run.load(Ordering::Relaxed).saturating_add(1),
                };
                run.store(failures, Ordering::Relaxed);
                if result.as_ref().is_err_and(|failure| failure.killed) {
                    parts.metrics.command_timeouts.inc();
                }
                parts
                    .metrics
                    .probes
                    .get_or_create(&Outcome {
                        what: kind(&probe.kind),
                        outcome: if result.is_ok() { "passed" } else { "failed" },
                    })
                    .inc();
                let words = match &result {
                    Ok(()) => format!("{} ok, {}", kind(&probe.kind), short_time(began.elapsed())),
                    Err(failure) => format!("{} {} x {failures}", kind(&probe.kind), failure.short),
                };
                let event = if result.is_ok() {
                    Event::Passed
                } else {
                    Event::Failed
                };
                // The words change with every probe and wake nobody; whoever asks sees them.
                told.send_if_modified(|health| {
                    health.words = words;
                    let why = result.err().map(|failure| failure.long);
                    let news = health.why != why;
                    health.why = why;
                    news
                });
                // The queue holds one event and the gate has taken the last one: there is room.
                _ = events.send(event).await;
            }
        };
        drive(Gate::new(patience), parts.epoch, events_rx, perform, stop).await;
    });
    health
}

fn kind(kind: &ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Tcp { .. } => "tcp",
        ProbeKind::Http { .. } => "http",
        ProbeKind::Exec(_) => "exec",
    }
}

/// `0.2 ms`, `35 ms`, `1.2 s`.
fn short_time(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

fn client(limit: Duration) -> Result<reqwest::Client, String> {
    // Probes speak http:// to this host, on a connection of their own each.
    wire::http_client(limit, false)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|e| e.to_string())
}

/// One probe, ended by its time limit.
async fn once(
    probe: &Probe,
    client: Option<&Result<reqwest::Client, String>>,
) -> Result<(), Failure> {
    let (target, asked) = match &probe.kind {
        ProbeKind::Exec(words) => {
            // The command has a limit of its own, which kills its whole process group.
            let run = command::Run {
                argv: &words.argv,
                timeout: words.timeout.min(probe.timeout),
                run_as: words.run_as.as_deref(),
                confine: words.confine,
            };
            return command::run(run).await.map_err(|failure| Failure {
                killed: failure.timed_out(),
                ..Failure::new("failed", failure.to_string())
            });
        }
        ProbeKind::Tcp { host, port } => (
            SocketAddr::new(*host, *port),
            timeout(probe.timeout, connect(*host, *port)).await,
        ),
        ProbeKind::Http { host, port, path } => (
            SocketAddr::new(*host, *port),
            timeout(probe.timeout, get(client, *host, *port, path)).await,
        ),
    };
    asked.unwrap_or_else(|_| {
        let long = format!("{target} did not answer within {:?}", probe.timeout);
        Err(Failure::new("timed out", long))
    })
}

/// Connects and closes. On this host the connection is there, or refused, when `connect` returns: then the runtime is not asked to
/// watch it, which would cost more than the probe itself. Only one that is still under way is waited for.
async fn connect(host: IpAddr, port: u16) -> Result<(), Failure> {
    let target = SocketAddr::new(host, port);
    let failed = |error: io::Error| io_failure(target, &error);
    let stream = match begin(target).map_err(|errno| failed(errno.into()))? {
        (stream, true) => stream,
        (stream, false) => {
            let stream = tokio::net::TcpStream::from_std(stream).map_err(failed)?;
            stream.writable().await.map_err(failed)?;
            stream.into_std().map_err(failed)?
        }
    };
    if let Some(error) = stream.take_error().map_err(failed)? {
        return Err(failed(error));
    }
    // A closed listener's own port can be chosen as the source of this very connection: it then talks to itself.
    if stream.local_addr().ok() == Some(target) {
        return Err(nothing_listens(target));
    }
    Ok(())
}

/// A connection that is closed by a reset, and whether it is decided already.
fn begin(target: SocketAddr) -> Result<(std::net::TcpStream, bool), Errno> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    let decided = match net::connect(&socket, &target) {
        Ok(()) => true,
        Err(Errno::INPROGRESS) => {
            let mut ready = [PollFd::new(&socket, PollFlags::OUT)];
            poll(&mut ready, Some(&Timespec::default()))? > 0
        }
        Err(errno) => return Err(errno),
    };
    Ok((socket.into(), decided))
}

fn nothing_listens(target: SocketAddr) -> Failure {
    Failure::new("refused", format!("nothing listens on {target}"))
}

fn io_failure(target: SocketAddr, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => nothing_listens(target),
        io::ErrorKind::ConnectionReset => {
            Failure::new("reset", format!("{target} reset the connection"))
        }
        _ => Failure::new("failed", format!("cannot connect to {target}: {error}")),
    }
}

async fn get(
    client: Option<&Result<reqwest::Client, String>>,
    host: IpAddr,
    port: u16,
    path: &str,
) -> Result<(), Failure> {
    let target = SocketAddr::new(host, port);
    let failed = |long: String| Failure::new("failed", long);
    let client = match client {
        Some(Ok(client)) => client,
        Some(Err(why)) => return Err(failed(why.clone())),
        None => return Err(failed("no HTTP client".to_owned())),
    };
    match client.get(format!("http://{target}{path}")).send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => {
            let status = answer.status().as_u16();
            let path = Foreign::from(path);
            let long = format!("GET {path} on {target} answered {status}");
            Err(Failure::new(status.to_string(), long))
        }
        Err(error) if error.is_connect() => Err(nothing_listens(target)),
        Err(_) => Err(failed(format!("{target} broke off an HTTP request"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn tcp(port: u16) -> Probe {
        Probe {
            kind: ProbeKind::Tcp {
                host: [127, 0, 0, 1].into(),
                port,
            },
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 2,
        }
    }

    #[tokio::test]
    async fn an_open_port_passes_without_a_time_wait_and_a_closed_one_says_nothing_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        once(&tcp(port), None).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        let read = tokio::io::AsyncReadExt::read(&mut accepted, &mut byte).await;
        assert_eq!(
            read.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset,
            "closed by a reset"
        );
        drop((listener, accepted));
        let failure = once(&tcp(port), None).await.unwrap_err();
        assert_eq!(failure.long, format!("nothing listens on 127.0.0.1:{port}"));
    }

    #[tokio::test]
    async fn an_http_probe_wants_a_2xx() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tasks = Tasks::new();
        tasks.spawn("application", async move {
            for status in ["204 No Content", "302 Found", "500 Oops"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).await.unwrap() > 0);
                let answer =
                    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let probe = Probe {
            kind: ProbeKind::Http {
                host: [127, 0, 0, 1].into(),
                port,
                path: "/health".to_owned(),
            },
            ..tcp(port)
        };
        let client = client(probe.timeout);
        let mut words = Vec::new();
        for _ in 0..3 {
            words.push(
                once(&probe, Some(&client))
                    .await
                    .map_err(|failure| failure.short),
            );
        }
        assert_eq!(
            words,
            [Ok(()), Err("302".to_owned()), Err("500".to_owned())]
        );
    }
}
