//! The shell around the beat book: runs it, makes its calls, hands out its answers.
//!
//! Over HTTP v1 it keeps all instances; over gRPC the persistent ones, which belong to no connection. How a call is made is said
//! by whoever starts it.

use super::client::{Client, QUEUE};
use super::model::{Instance, Standing};
use super::tickets::Tickets;
use super::{Error, Reply, Standings, beats, calls};
use crate::machine::drive;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Makes a call of the book.
pub(super) type Speak = Arc<dyn Fn(beats::Say) -> Reply<beats::Said> + Send + Sync>;

/// A running book.
pub(super) struct Book {
    events: mpsc::Sender<beats::Event>,
    tickets: Tickets,
}

impl Book {
    /// Starts a book that speaks with `speak`.
    pub(super) fn start(client: &Arc<Client>, standings: Standings, speak: Speak) -> Arc<Self> {
        let (events, events_rx) = mpsc::channel(QUEUE);
        let book = Arc::new(Self {
            events,
            tickets: Tickets::default(),
        });
        let (keeper, shell) = (Arc::clone(client), Arc::clone(&book));
        client.tasks.spawn_to_end("beats", async move {
            let stop = keeper.tasks.token();
            let perform = |effect| {
                let (client, standings) = (Arc::clone(&keeper), standings.clone());
                let (shell, speak) = (Arc::clone(&shell), Arc::clone(&speak));
                async move {
                    match effect {
                        beats::Effect::Tell(key, standing) => {
                            if standing == Standing::Restored {
                                client.metrics.restorations.inc();
                            }
                            _ = standings.send((key, standing)).await;
                        }
                        beats::Effect::Answer(ticket, outcome) => {
                            shell.tickets.answer(ticket, outcome);
                        }
                        beats::Effect::Call(key, say) => {
                            client.tasks.spawn("instance-call", async move {
                                let outcome = speak(say).await;
                                // A closed queue means that the agent is stopping; that is so below as well.
                                _ = shell.events.send(beats::Event::Called(key, outcome)).await;
                            });
                        }
                    }
                }
            };
            let machine =
                beats::BeatBook::new(keeper.settings.write_rate, keeper.seed.rotate_left(17));
            drive(machine, keeper.epoch, events_rx, perform, stop).await;
        });
        let (teller, shell) = (Arc::clone(client), Arc::clone(&book));
        client.tasks.spawn("connection-news", async move {
            shell.tell_news(&teller).await;
        });
        book
    }

    /// Tells the book what it must know of the connection: the registry's version, and that it is back.
    async fn tell_news(&self, client: &Client) {
        let mut news = client.connection.subscribe();
        let (mut version, mut returns) = (None, 0);
        loop {
            let now = news.borrow_and_update().clone();
            let generation = now.version.as_ref().and_then(calls::major);
            if generation != version && generation.is_some() {
                version = generation;
                _ = self.events.send(beats::Event::Generation(generation)).await;
            }
            if now.returns != returns {
                returns = now.returns;
                _ = self.events.send(beats::Event::Back).await;
            }
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    /// As [`super::Transport::publish`].
    pub(super) async fn publish(&self, instance: Instance) -> Result<(), Error> {
        let event = |ticket| beats::Event::Publish(ticket, instance);
        self.tickets.ask(&self.events, event).await
    }

    /// As [`super::Transport::withdraw`].
    pub(super) async fn withdraw(&self, instance: Instance) -> Result<(), Error> {
        let event = |ticket| beats::Event::Withdraw(ticket, instance);
        self.tickets.ask(&self.events, event).await
    }
}
