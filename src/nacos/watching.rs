//! The shells around the machines that watch, the poll of configurations and the lists of instances: they run them, make their
//! requests, tell what is found.

use super::client::{Client, QUEUE};
use super::model::{ConfigKey, ConfigState, Content, ListState, ServiceKey, ServiceList};
use super::route::Whom;
use super::{Reply, lists, poll};
use crate::machine::drive;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How a transport asks for configurations.
pub(super) trait Source: Send + Sync + 'static {
    /// The content and who has it, this server first.
    fn fetch(&self, key: ConfigKey, whom: Whom) -> Reply<Option<(Content, Arc<str>)>>;
    /// Which of these are other than the MD5 beside them; answered at once or when one changes, or with none at the end of a hold.
    fn listen(&self, asked: Vec<(ConfigKey, Arc<str>)>, whom: Whom) -> Reply<Vec<ConfigKey>>;
}

/// As [`super::Transport::watch_configs`].
pub(super) fn start<S: Source>(
    client: &Arc<Client>,
    source: S,
    machine: poll::Poll,
    mut keys: watch::Receiver<BTreeSet<ConfigKey>>,
    told: mpsc::Sender<(ConfigKey, ConfigState)>,
) {
    let (client, source) = (Arc::clone(client), Arc::new(source));
    let tasks = client.tasks.clone();
    let (events_tx, events_rx) = mpsc::channel(QUEUE);
    let wanted = events_tx.clone();
    tasks.spawn("wanted-configs", async move {
        loop {
            let now = keys.borrow_and_update().clone();
            if wanted.send(poll::Event::Wanted(now)).await.is_err() || keys.changed().await.is_err()
            {
                return;
            }
        }
    });
    let (news, teller) = (events_tx.clone(), Arc::clone(&client));
    tasks.spawn("poll-news", async move {
        let (mut order, mut connection) = (teller.order.clone(), teller.connection.subscribe());
        let mut returns = 0;
        loop {
            let servers = order.borrow_and_update().servers.len();
            _ = news.send(poll::Event::Servers(servers)).await;
            let now = connection.borrow_and_update().returns;
            if now != returns {
                returns = now;
                _ = news.send(poll::Event::Back).await;
            }
            tokio::select! {
                changed = order.changed() => if changed.is_err() { return },
                changed = connection.changed() => if changed.is_err() { return },
            }
        }
    });
    let spawner = tasks.clone();
    tasks.spawn_to_end("poll", async move {
        let stop = spawner.token();
        let mut parked = CancellationToken::new();
        let perform = |effect| {
            if matches!(effect, poll::Effect::Cancel | poll::Effect::Poll(..)) {
                parked.cancel();
                parked = CancellationToken::new();
            }
            let (source, events) = (Arc::clone(&source), events_tx.clone());
            let (told, given_up, tasks) = (told.clone(), parked.clone(), spawner.clone());
            async move {
                match effect {
                    poll::Effect::Tell(key, state) => _ = told.send((key, state)).await,
                    poll::Effect::Cancel => {}
                    poll::Effect::Fetch(key, whom) => tasks.spawn("fetch-config", async move {
                        let event = match source.fetch(key.clone(), whom).await {
                            Ok(Some((content, server))) => {
                                poll::Event::Fetched(key, content, server)
                            }
                            Ok(None) => poll::Event::NotFound(key),
                            Err(error) => poll::Event::FetchFailed(key, error.to_string()),
                        };
                        _ = events.send(event).await;
                    }),
                    poll::Effect::Poll(number, asked, whom) => {
                        tasks.spawn("long-poll", async move {
                            let outcome = tokio::select! {
                                biased;
                                () = given_up.cancelled() => return,
                                outcome = source.listen(asked, whom) => outcome,
                            };
                            let event = match outcome {
                                Ok(changed) => poll::Event::Answered(number, changed),
                                Err(error) => {
                                    tracing::debug!(%error, "the long poll failed");
                                    poll::Event::PollFailed(number)
                                }
                            };
                            _ = events.send(event).await;
                        });
                    }
                }
            }
        };
        drive(machine, client.epoch, events_rx, perform, stop).await;
    });
}

/// How a transport asks for lists of instances.
pub(super) trait Lister: Send + Sync + 'static {
    /// The list, and subscribes to it where that can be.
    fn ask(&self, service: ServiceKey) -> Reply<ServiceList>;
    /// Subscribes no longer.
    fn leave(&self, service: ServiceKey) -> Reply<()>;
}

/// As [`super::Transport::watch_services`]; what is pushed comes over `events`, whose other end is `heard`.
pub(super) fn start_lists<L: Lister>(
    client: &Arc<Client>,
    lister: L,
    every: lists::Every,
    mut services: watch::Receiver<BTreeSet<ServiceKey>>,
    told: mpsc::Sender<(ServiceKey, ListState)>,
    (events, heard): (mpsc::Sender<lists::Event>, mpsc::Receiver<lists::Event>),
) {
    let lister = Arc::new(lister);
    let tasks = client.tasks.clone();
    let wanted = events.clone();
    tasks.spawn("wanted-services", async move {
        loop {
            let now = services.borrow_and_update().clone();
            if wanted.send(lists::Event::Wanted(now)).await.is_err()
                || services.changed().await.is_err()
            {
                return;
            }
        }
    });
    let (epoch, spawner) = (client.epoch, client.tasks.clone());
    let machine = lists::Lists::new(every, client.seed.rotate_left(19));
    tasks.spawn_to_end("lists", async move {
        let stop = spawner.token();
        let perform = |effect| {
            let (lister, events) = (Arc::clone(&lister), events.clone());
            let (told, tasks) = (told.clone(), spawner.clone());
            async move {
                match effect {
                    lists::Effect::Tell(key, state) => _ = told.send((key, state)).await,
                    lists::Effect::Ask(key) => tasks.spawn("list", async move {
                        let event = match lister.ask(key.clone()).await {
                            Ok(list) => lists::Event::Answered(key, list),
                            Err(error) => lists::Event::Failed(key, error.to_string()),
                        };
                        // A closed queue means that the agent is stopping.
                        _ = events.send(event).await;
                    }),
                    lists::Effect::Leave(key) => tasks.spawn("leave", async move {
                        // It saves pushes that nobody looks at; the next connection has none of them.
                        if let Err(error) = lister.leave(key).await {
                            tracing::debug!(%error, "could not unsubscribe");
                        }
                    }),
                }
            }
        };
        drive(machine, epoch, heard, perform, stop).await;
    });
}
