//! The registry's HTTP/1.1 socket: accepts, guards the door, reads bodies within bounds, and sends the calls' answers.
//!
//! Connections, header time, body size and body time are bounded; a peer that does not read is cut off. Routes are matched
//! from the first `/v1/` of the path on, so any context path works. A stop is an ordered story: no new connection, held polls
//! answered empty, answers under way finished, then what is left is cut.

use crate::machine::Epoch;
use crate::nacos::rpc::PORT_OFFSET;
use crate::os::ourselves;
use crate::registry::Options;
use crate::registry::StartError;
use crate::registry::crowd;
use crate::registry::crowd::Came;
use crate::registry::crowd::Places;
use crate::registry::datagrams;
use crate::registry::desk::Desk;
use crate::registry::door::{Bodies, Door, Harmed, Impatient, LEAVE, Peer};
use crate::registry::grpc;
use crate::registry::keeper::Keeper;
use crate::registry::like::Like;
use crate::registry::prober;
use crate::registry::store::Store;
use crate::registry::token::Key;
use crate::registry::users::Users;
use crate::tasks::Tasks;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use std::{
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task, time,
};
use tokio_util::sync::CancellationToken;

/// Connections at most, if the limit to open files allows so many.
const CONNECTIONS: usize = 65_536;
/// How long a connection may take over a request's head, or stay idle (the original: 20 s).
const HEAD: Duration = Duration::from_secs(20);
/// Bytes of a request's head at most; clients put metadata into the query.
const HEAD_BYTES: usize = 64 * 1024;
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
