//! Keeps the desk behind one lock, and wakes it when the next thing is due: nothing here is periodic.
//!
//! The lock is never held across an await. Whoever asks is answered through a channel of his own; one task sleeps until the next
//! deadline and is told when it comes sooner. What goes out over gRPC streams waits in queues, each within [`QUEUE`] and
//! [`STREAM_KIB`], all together within [`QUEUED_KIB`]: what does not fit is left out, and told again because nobody acknowledged
//! it. Whose queue stays full for [`STUCK`] does not read, and is cut.

use crate::machine::Epoch;
use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::rpc::Payload;
use crate::registry::call::Answer;
use crate::registry::call::Request;
use crate::registry::checks::Probe;
use crate::registry::desk::Checked;
use crate::registry::desk::Desk;
use crate::registry::desk::Effect;
use crate::registry::desk::Event;
use crate::registry::desk::Fault;
use crate::registry::gate::Batch;
use crate::registry::gate::Gate;
use crate::registry::gate::Passed;
use crate::registry::links::Link;
use crate::registry::links::Stream;
use crate::registry::model::Ticket;
use crate::registry::refusal::Refusal;
use crate::registry::store;
use crate::registry::store::Store;
use crate::registry::users::Check;
use crate::registry::users::Users;
use hyper::body::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, mpsc::error::TrySendError, oneshot},
    task, time,
};
use tokio_util::sync::CancellationToken;

/// A probe that is wanted, with its number.
pub(crate) type Wanted = (u64, Probe);

/// Messages that wait to go out over one stream at most: one for each of many subscriptions that change together.
const QUEUE: usize = 1024;
/// Kibibytes that wait to go out over one stream; a message that is larger has all of them.
const STREAM_KIB: u32 = 8 * 1024;
/// Streams of one connection at most; one is enough, and its successor is there before it has ended.
pub(crate) const STREAMS: usize = 8;
/// How long nothing may leave a queue that is full.
const STUCK: Duration = Duration::from_secs(30);
/// How long until it is tried again whether something can be kept.
const MEND: Duration = Duration::from_secs(1);
/// How long until it is said in the log again that nothing can.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Kibibytes that wait to go out over all streams together.
const QUEUED_KIB: usize = 64 * 1024;

/// Datagrams that wait to go out at most; most are below a kibibyte.
const DATAGRAMS: usize = 1024;

/// What waits to go out over a stream, and its shares of the memory for that: the stream's and everybody's.
pub(crate) type Queued = Box<(Payload, [OwnedSemaphorePermit; 2])>;

/// What ends a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// No more requests, please.
    pub(crate) go_away: CancellationToken,
    /// At once.
    pub(crate) cut: CancellationToken,
}

/// The way out over a stream.
#[derive(Debug)]
struct Out {
    stream: Stream,
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    /// Since when all that was to go out found it full.
    stuck: Option<Moment>,
}

impl Out {
    /// Puts a message into the queue, if it fits.
    fn send(&mut self, now: Moment, all: &Arc<Semaphore>, payload: Payload) {
        let kib = payload.body().len().div_ceil(1024) + 1;
        let kib = u32::try_from(kib).unwrap_or(STREAM_KIB).min(STREAM_KIB);
        let full = match Arc::clone(&self.room).try_acquire_many_owned(kib) {
            Err(_) => true,
            Ok(share) => match Arc::clone(all).try_acquire_many_owned(kib) {
                // That is not his doing.
                Err(_) => return tracing::debug!("a push finds no memory; it is told again"),
                Ok(of_all) => {
                    let queued = Box::new((payload, [share, of_all]));
                    matches!(self.queue.try_send(queued), Err(TrySendError::Full(_)))
                }
            },
        };
        if full {
            self.stuck.get_or_insert(now);
        } else {
            self.stuck = None;
        }
    }

    fn is_stuck(&self, now: Moment) -> bool {
        self.stuck
            .is_some_and(|since| since.saturating_add(STUCK) <= now)
    }
}

/// A gRPC connection.
#[derive(Debug)]
struct Wire {
    streams: Vec<Out>,
    ends: Ends,
}

/// Who waits for an answer.
#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Answer>,
    /// For which path, and since when; for the gate, where there is one.
    asked: Option<(String, SystemTime)>,
}

/// The desk, and who waits before it.
#[derive(Debug)]
struct Inside {
    desk: Desk,
    /// An entry leaves with its answer or with its client.
    waiting: BTreeMap<Ticket, Waiting>,
    /// The same over gRPC.
    calling: BTreeMap<Ticket, oneshot::Sender<Payload>>,
    /// An entry leaves with its connection.
    wires: BTreeMap<Link, Wire>,
    /// Passwords to look at; the desk wants one at a time.
    checks: VecDeque<(Ticket, Check)>,
    /// Memory for what waits to go out.
    room: Arc<Semaphore>,
    /// Who carries out health checks.
    prober: Option<mpsc::Sender<Wanted>>,
    /// The way out over UDP, once there is one.
    datagrams: Option<mpsc::Sender<(SocketAddr, Bytes)>>,
    next: u64,
    /// What waits until it is kept, where something is.
    gate: Option<Gate>,
    /// When it was last said in the log that nothing can be kept.
    said: Option<Moment>,
}

impl Inside {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Does what the desk wants done, unless it has to wait until it is kept; whether there is something to commit.
    fn let_out(&mut self, now: Moment) -> bool {
        let mut commits = false;
        if self.gate.is_none() {
            while let Some(effect) = self.desk.effect() {
                self.carry_out(now, effect);
            }
            return commits;
        }
        loop {
            let batch = Batch::new(std::iter::from_fn(|| self.desk.effect()));
            if batch.effects.is_empty() && batch.changes.is_empty() {
                return commits;
            }
            let Some(gate) = &mut self.gate else {
                return commits;
            };
            match gate.pass(batch) {
                Passed::Held(changes) => commits |= changes,
                Passed::Out(batch) => {
                    for effect in batch.effects {
                        self.carry_out(now, effect);
                    }
                }
                Passed::Refused(batch, why) => self.refuse(now, vec![batch], &why),
            }
        }
    }

    /// Takes back what could not be kept, and says no to who asked, be it for that or for what showed it. Who waited for a change is
    /// told and looks again; lists that never were the truth go nowhere, the truth is pushed.
    fn refuse(&mut self, now: Moment, mut batches: Vec<Batch>, why: &str) {
        let changes = batches.iter_mut().map(|it| std::mem::take(&mut it.changes));
        let changes: Vec<_> = changes.flatten().collect();
        self.desk.handle(now, Event::NotKept(changes));
        for batch in batches {
            for effect in batch.effects {
                let effect = match effect {
                    Effect::Answer(ticket, answer) => {
                        let asked = self.waiting.get(&ticket).and_then(|it| it.asked.as_ref());
                        let refused = asked
                            .filter(|(path, _)| !path.ends_with("/listener"))
                            .map(|(path, at)| self.desk.not_kept(path, *at, why));
                        Effect::Answer(ticket, refused.unwrap_or(answer))
                    }
                    Effect::Reply(ticket, _) => {
                        Effect::Reply(ticket, Desk::not_kept_over_grpc(why))
                    }
                    Effect::Push(_, _, payload) if payload.kind() == "NotifySubscriberRequest" => {
                        continue;
                    }
                    Effect::Datagram(..) => continue,
                    effect => effect,
                };
                self.carry_out(now, effect);
            }
        }
    }

    /// A commit has ended.
    fn committed(&mut self, now: Moment, done: Result<(), store::Error>) {
        let Some(gate) = &mut self.gate else {
            return;
        };
        let Err(error) = done else {
            for effect in gate.kept().into_iter().flat_map(|batch| batch.effects) {
                self.carry_out(now, effect);
            }
            return;
        };
        // Clients need not know where it is.
        let why = match &error {
            store::Error::System { what, .. } => what.clone(),
            other => other.to_string(),
        };
        let batches = gate.fail(why.clone());
        if self
            .said
            .is_none_or(|at| at.saturating_add(SAY_AGAIN) <= now)
        {
            self.said = Some(now);
            tracing::warn!(
                "cannot keep what is changed, and refuses changes until it can: {error}. It is tried again every second"
            );
        }
        self.refuse(now, batches, &why);
    }

    fn carry_out(&mut self, now: Moment, effect: Effect) {
        match effect {
            // Only the gate knows what is kept.
            Effect::Keep(_) => {}
            // Who does not listen any more is leaving, and his guard finds nothing to do.
            Effect::Answer(ticket, answer) => {
                if let Some(waiting) = self.waiting.remove(&ticket) {
                    _ = waiting.answer.send(answer);
                }
            }
            Effect::Reply(ticket, payload) => {
                if let Some(calling) = self.calling.remove(&ticket) {
                    _ = calling.send(payload);
                }
            }
            Effect::Check(ticket, check) => self.checks.push_back((ticket, check)),
            Effect::Push(link, stream, payload) => {
                let Some(wire) = self.wires.get_mut(&link) else {
                    return;
                };
                let out = wire.streams.iter_mut().find(|out| out.stream == stream);
                let Some(out) = out else {
                    return;
                };
                out.send(now, &self.room, payload);
                if out.is_stuck(now) {
                    tracing::debug!(
                        "a gRPC connection reads nothing of what is pushed, and is cut"
                    );
                    wire.ends.cut.cancel();
                }
            }
            Effect::Datagram(to, bytes) => {
                // What finds no place is lost as on the way, and sent again.
                if let Some(datagrams) = &self.datagrams {
                    _ = datagrams.try_send((to, bytes));
                }
            }
            Effect::EndStream(link, stream) => {
                if let Some(wire) = self.wires.get_mut(&link) {
                    wire.streams.retain(|out| out.stream != stream);
                }
            }
            Effect::GoAway(link) => {
                if let Some(wire) = self.wires.get(&link) {
                    wire.ends.go_away.cancel();
                }
            }
            Effect::Cut(link) => {
                if let Some(wire) = self.wires.get(&link) {
                    wire.ends.cut.cancel();
                }
            }
            Effect::Probe { number, probe } => {
                // The queue has room for all; without it, at the end, nobody asks.
                let prober = self.prober.as_ref();
                let sent = prober.is_some_and(|it| it.try_send((number, probe)).is_ok());
                if !sent {
                    let outcome = Checked::Unable;
                    self.desk.handle(now, Event::Probed { number, outcome });
                }
            }
        }
    }
}

/// Takes a client out when whoever waits for its answer goes away.
struct Guard<'a> {
    keeper: &'a Keeper,
    ticket: Ticket,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.keeper.with(|inside, now| {
            if inside.waiting.remove(&self.ticket).is_some()
                || inside.calling.remove(&self.ticket).is_some()
            {
                inside.desk.handle(now, Event::Left(self.ticket));
            }
        });
    }
}

/// The desk, its clock and its alarm.
#[derive(Debug)]
pub(crate) struct Keeper {
    epoch: Epoch,
    inside: Mutex<Inside>,
    sooner: Notify,
    /// There is something to commit.
    changed: Notify,
    /// There is a password to look at.
    check: Notify,
}

impl Keeper {
    /// Keeps `desk`, whose moments are counted from `epoch`.
    pub(crate) fn new(desk: Desk, epoch: Epoch) -> Self {
        Self {
            epoch,
            inside: Mutex::new(Inside {
                desk,
                waiting: BTreeMap::new(),
                calling: BTreeMap::new(),
                wires: BTreeMap::new(),
                checks: VecDeque::new(),
                room: Arc::new(Semaphore::new(QUEUED_KIB)),
                prober: None,
                datagrams: None,
                next: 0,
                gate: None,
                said: None,
            }),
            sooner: Notify::new(),
            changed: Notify::new(),
            check: Notify::new(),
        }
    }

    /// The same, whose health checks are wanted through a queue; their ends come by [`Keeper::probed`].
    pub(crate) fn probing(mut self, prober: mpsc::Sender<Wanted>) -> Self {
        let inside = self.inside.get_mut();
        inside.unwrap_or_else(PoisonError::into_inner).prober = Some(prober);
        self
    }

    /// The same, of whose changes nothing is told before [`Keeper::keep_rows`] has kept them.
    pub(crate) fn gated(mut self) -> Self {
        let inside = self.inside.get_mut();
        inside.unwrap_or_else(PoisonError::into_inner).gate = Some(Gate::default());
        self
    }

    /// Commits what changes, all that came meanwhile together, until it is `closed` and everything is kept.
    pub(crate) async fn keep_rows(&self, mut store: Store, closed: CancellationToken) {
        loop {
            let (rows, shut) = self.with(|inside, _| {
                let gate = inside.gate.as_mut();
                gate.map_or((None, false), |gate| (gate.next(), gate.is_shut()))
            });
            let commits = rows.is_some();
            if !commits {
                tokio::select! {
                    biased;
                    () = self.changed.notified() => continue,
                    () = closed.cancelled() => break,
                    () = time::sleep(MEND), if shut => {}
                }
            }
            let work = task::spawn_blocking(move || {
                let done = match rows {
                    Some(rows) => store.commit(rows),
                    None => store.mend(),
                };
                (store, done)
            });
            // Only a runtime that ends does not carry it out.
            let Ok((back, done)) = work.await else {
                return;
            };
            store = back;
            if commits {
                self.with(|inside, now| inside.committed(now, done));
            } else if done.is_ok() {
                tracing::info!("what is changed can be kept again");
                self.with(|inside, _| {
                    if let Some(gate) = &mut inside.gate {
                        gate.open();
                    }
                });
            }
        }
        // Closing writes too.
        _ = task::spawn_blocking(move || drop(store)).await;
    }

    /// A health check has ended.
    pub(crate) fn probed(&self, number: u64, outcome: Checked) {
        self.with(|inside, now| inside.desk.handle(now, Event::Probed { number, outcome }));
    }

    /// Where moments are counted from.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Does something with the desk at this moment, and hands out the answers that are ready then.
    fn with<T>(&self, work: impl FnOnce(&mut Inside, Moment) -> T) -> T {
        // A panic under the lock is a bug that the tasks report; the desk is plain data and goes on serving.
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.epoch.now();
        let before = inside.desk.deadline();
        let done = work(&mut inside, now);
        if inside.let_out(now) {
            self.changed.notify_one();
        }
        if inside.desk.deadline() != before {
            self.sooner.notify_one();
        }
        if !inside.checks.is_empty() {
            self.check.notify_one();
        }
        done
    }

    /// The desk's answer to `request`, which has been looked at when this returns; `None` only when there is a bug, because every
    /// ticket is answered.
    pub(crate) fn ask(&self, request: Request) -> impl Future<Output = Option<Answer>> + '_ {
        let waits = self.with(|inside, now| {
            let ticket = Ticket(inside.number());
            let at = self.epoch.wall(now);
            let gate = inside.gate.as_ref();
            if gate.is_some_and(Gate::is_full) {
                return Ok(inside.desk.full(request.path(), at));
            }
            let asked = gate.map(|_| (request.path().to_owned(), at));
            let event = Event::Asked {
                ticket,
                at,
                request,
            };
            inside.desk.handle(now, event);
            // All but listeners are answered here, and need no channel, unless the answer has to wait for the disk.
            while asked.is_none()
                && let Some(effect) = inside.desk.effect()
            {
                match effect {
                    Effect::Answer(answered, answer) if answered == ticket => return Ok(answer),
                    other => inside.carry_out(now, other),
                }
            }
            let (answer, told) = oneshot::channel();
            inside.waiting.insert(ticket, Waiting { answer, asked });
            Err((ticket, told))
        });
        let waits = waits.map_err(|(ticket, told)| (self.guard(ticket), told));
        async move {
            match waits {
                Ok(answer) => Some(answer),
                Err((_guard, told)) => told.await.ok(),
            }
        }
    }

    fn guard(&self, ticket: Ticket) -> Guard<'_> {
        Guard {
            keeper: self,
            ticket,
        }
    }

    /// Takes a gRPC connection in; [`Keeper::unlink`] takes it out.
    pub(crate) fn link(&self, peer: SocketAddr) -> (Link, Ends) {
        self.with(|inside, now| {
            let (link, ends) = (Link(inside.number()), Ends::default());
            let wire = Wire {
                streams: Vec::new(),
                ends: ends.clone(),
            };
            inside.wires.insert(link, wire);
            let at = self.epoch.wall(now);
            inside.desk.handle(now, Event::Linked { link, peer, at });
            (link, ends)
        })
    }

    /// A gRPC connection is gone.
    pub(crate) fn unlink(&self, link: Link) {
        self.with(|inside, now| {
            inside.wires.remove(&link);
            inside.desk.handle(now, Event::Unlinked(link));
        });
    }

    /// The desk's answer to a unary request of a connection; `None` only when there is a bug.
    pub(crate) fn call(
        &self,
        link: Link,
        payload: Payload,
    ) -> impl Future<Output = Option<Payload>> + '_ {
        let (answer, told) = oneshot::channel();
        let ticket = self.with(|inside, now| {
            let ticket = Ticket(inside.number());
            if inside.gate.as_ref().is_some_and(Gate::is_full) {
                _ = answer.send(Desk::full_over_grpc());
                return ticket;
            }
            inside.calling.insert(ticket, answer);
            let event = Event::Called {
                link,
                ticket,
                at: self.epoch.wall(now),
                payload,
            };
            inside.desk.handle(now, event);
            ticket
        });
        let guard = Guard {
            keeper: self,
            ticket,
        };
        async move {
            let _guard = guard;
            told.await.ok()
        }
    }

    /// Opens a stream of a connection: what goes out over it comes through the queue, whose end is the stream's. `None` when the
    /// connection has [`STREAMS`] already.
    pub(crate) fn open(&self, link: Link) -> Option<(Stream, mpsc::Receiver<Queued>)> {
        let (queue, receive) = mpsc::channel(QUEUE);
        self.with(|inside, _| {
            let stream = Stream(inside.number());
            let wire = inside.wires.get_mut(&link)?;
            if wire.streams.len() >= STREAMS {
                return None;
            }
            wire.streams.push(Out {
                stream,
                queue,
                room: Arc::new(Semaphore::new(STREAM_KIB as usize)),
                stuck: None,
            });
            Some((stream, receive))
        })
    }

    /// Something came over a stream.
    pub(crate) fn hear(&self, link: Link, stream: Stream, payload: Payload) {
        self.with(|inside, now| {
            let event = Event::Streamed {
                link,
                stream,
                at: self.epoch.wall(now),
                payload,
            };
            inside.desk.handle(now, event);
        });
    }

    /// A stream has ended.
    pub(crate) fn end_stream(&self, link: Link, stream: Stream) {
        self.with(|inside, now| {
            if let Some(wire) = inside.wires.get_mut(&link) {
                wire.streams.retain(|out| out.stream != stream);
            }
            let event = Event::StreamEnded { link, stream };
            inside.desk.handle(now, event);
        });
    }

    /// What goes out over UDP from now on comes through the queue.
    pub(crate) fn datagrams(&self) -> mpsc::Receiver<(SocketAddr, Bytes)> {
        let (queue, receive) = mpsc::channel(DATAGRAMS);
        self.with(|inside, _| inside.datagrams = Some(queue));
        receive
    }

    /// A datagram came.
    pub(crate) fn datagram(&self, from: SocketAddr, bytes: Bytes) {
        self.with(|inside, now| inside.desk.handle(now, Event::Datagram { from, bytes }));
    }

    /// Makes the registry do things wrong.
    pub(crate) fn fault(&self, faults: Vec<Fault>) {
        self.with(|inside, now| {
            for fault in faults {
                inside.desk.handle(now, Event::Faulted(fault));
            }
        });
    }

    /// There are other users from now on.
    pub(crate) fn replace_users(&self, users: Users) {
        self.with(|inside, now| inside.desk.handle(now, Event::UsersChanged(users)));
    }

    /// Lets in an administrator, who shows what `request` says.
    pub(crate) fn admit(&self, request: Request) -> Result<(), Refusal> {
        self.with(|inside, now| inside.desk.admit(self.epoch.wall(now), request))
    }

    /// Looks at passwords, one after the other and on another thread, for ever: that is computing, and everybody else waits for
    /// this one.
    pub(crate) async fn look_at_passwords(&self) {
        loop {
            let next = self.with(|inside, _| inside.checks.pop_front());
            let Some((ticket, check)) = next else {
                self.check.notified().await;
                continue;
            };
            let right = tokio::task::spawn_blocking(move || check.is_right()).await;
            // A panic is a no: whoever waits is answered.
            let right = right.unwrap_or_else(|error| {
                tracing::error!(%error, "a password was not looked at; this is a bug of ours");
                false
            });
            self.with(|inside, now| {
                inside.desk.handle(now, Event::Checked { ticket, right });
            });
        }
    }

    /// Lets all held listeners go, and holds none from now on.
    pub(crate) fn release(&self) {
        self.with(|inside, now| inside.desk.handle(now, Event::Stopping));
    }

    /// Sleeps until the next deadline, for ever.
    pub(crate) async fn keep(&self) {
        loop {
            let deadline = self.with(|inside, now| {
                inside.desk.wake(now);
                inside.desk.deadline()
            });
            tokio::select! {
                () = self.sooner.notified() => {}
                () = time::sleep_until(self.epoch.instant(deadline.unwrap_or_default())), if deadline.is_some() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::like::Like;

    fn listen() -> Request {
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Long-Pulling-Timeout", "10500"),
        ];
        let body = "Listening-Configs=a%02g%02%01";
        Request::new("POST", "/v1/cs/configs/listener", headers, body)
    }

    /// Runs the keeper's task beside `work`.
    async fn beside<T>(keeper: &Keeper, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            () = keeper.keep() => unreachable!("it sleeps for ever"),
        }
    }

    fn keeper() -> Keeper {
        Keeper::new(Desk::new(Like::V2_5), Epoch::start())
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_listener_is_answered_when_its_hold_ends() {
        let keeper = keeper();
        let began = time::Instant::now();
        let told = beside(&keeper, keeper.ask(listen())).await.unwrap();
        assert_eq!((told.status(), told.body().as_ref()), (200, b"".as_slice()));
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_lets_held_listeners_go() {
        let keeper = keeper();
        let (told, ()) = tokio::join!(keeper.ask(listen()), async { keeper.release() });
        assert_eq!(told.unwrap().status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_left_is_held_no_more() {
        let keeper = keeper();
        let left = time::timeout(Duration::from_secs(1), keeper.ask(listen())).await;
        assert!(left.is_err());
        let inside = keeper.inside.lock().unwrap();
        assert!(inside.waiting.is_empty());
        assert_eq!(inside.desk.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_of_what_is_pushed_is_cut_and_who_reads_late_is_not() {
        for reads in [false, true] {
            let keeper = keeper();
            let (link, ends) = keeper.link(([127, 0, 0, 1], 4_000).into());
            let (stream, mut queue) = keeper.open(link).unwrap();
            let setup = r#"{"labels":{"module":"naming"}}"#;
            keeper.hear(link, stream, Payload::raw("ConnectionSetupRequest", setup));
            let call = async |kind: &str, body: String| {
                keeper.call(link, Payload::raw(kind, body)).await.unwrap();
            };
            // One more than there is room for, each told in the first moment.
            for service in 0..=QUEUE {
                let body = format!(
                    r#"{{"namespace":"public","serviceName":"s{service}","subscribe":true}}"#
                );
                call("SubscribeServiceRequest", body).await;
            }
            let mut seconds = 0;
            beside(&keeper, async {
                while !ends.cut.is_cancelled() && seconds < 60 {
                    time::sleep(Duration::from_secs(1)).await;
                    seconds += 1;
                    call("HealthCheckRequest", "{}".to_owned()).await;
                    while reads && seconds % 20 == 0 && queue.try_recv().is_ok() {}
                }
            })
            .await;
            assert_eq!(ends.cut.is_cancelled(), !reads, "{seconds} s");
            assert!(seconds >= 30, "{seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_so_many_streams_and_another_one_when_one_has_ended() {
        let keeper = keeper();
        let (link, _) = keeper.link(([127, 0, 0, 1], 4_000).into());
        let mut streams: Vec<_> = (0..STREAMS).map(|_| keeper.open(link).unwrap()).collect();
        assert!(keeper.open(link).is_none());
        let (stream, _) = streams.pop().unwrap();
        keeper.end_stream(link, stream);
        assert!(keeper.open(link).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn sleeps_until_the_next_deadline_and_no_longer() {
        let keeper = keeper();
        let register = "/v1/ns/instance?serviceName=orders&ip=10.0.0.1&port=80";
        let register = Request::new("POST", register, [("", ""); 0], "");
        keeper.ask(register).await.unwrap();
        let due = || keeper.inside.lock().unwrap().desk.deadline();
        beside(&keeper, async {
            for (after, then) in [(14, Some(15)), (2, Some(30)), (15, Some(90)), (60, None)] {
                time::sleep(Duration::from_secs(after)).await;
                assert_eq!(due().map(|due| due.as_secs()), then);
            }
        })
        .await;
    }
}
