//! The shell around the poll machine: runs it, makes its fetches and polls, tells what it finds.

use super::client::{Client, QUEUE};
use super::model::{ConfigKey, ConfigState, Content};
use super::route::Whom;
use super::{Reply, poll};
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
