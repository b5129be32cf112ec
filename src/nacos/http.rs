//! The transport over HTTP v1: the beat book keeps the instances, the long poll watches the configurations.

use super::book::Book;
use super::client::{Client, QUEUE};
use super::model::{
    ConfigKey, ConfigState, Connection, Content, Instance, ListState, Listed, ServiceKey,
    ServiceList,
};
use super::route::Whom;
use super::watching::{Lister, Source};
use super::{Error, Reply, Standings, Transport, beats, hints, lists, poll, watching};
use crate::os::address::route_to;
use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};
use tokio::sync::{mpsc, watch};

/// See the head of this file.
pub(super) struct Http {
    client: Arc<Client>,
    book: Arc<Book>,
}

/// Starts the transport: its machines run until the client's tasks stop.
pub(super) fn start(client: &Arc<Client>, standings: Standings) -> Arc<Http> {
    let speaker = Arc::clone(client);
    let speak = move |say: beats::Say| -> Reply<beats::Said> {
        let client = Arc::clone(&speaker);
        Box::pin(async move { say_over_http(&client, &say).await })
    };
    Arc::new(Http {
        client: Arc::clone(client),
        book: Book::start(client, standings, Arc::new(speak)),
    })
}

/// Makes a call of the book over HTTP v1.
pub(super) async fn say_over_http(client: &Client, say: &beats::Say) -> Result<beats::Said, Error> {
    let call = if client.version().is_some_and(|version| version >= (3, 0, 0)) {
        say.call_v3()
    } else {
        say.call()
    };
    let answer = client.call(&call, Whom::Preferred).await?;
    say.read(answer)
}

/// Configurations as HTTP v1 tells them.
struct Polled(Arc<Client>);

impl Source for Polled {
    fn fetch(&self, key: ConfigKey, whom: Whom) -> Reply<Option<(Content, Arc<str>)>> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { client.get_config(&key, whom).await })
    }

    fn listen(&self, asked: Vec<(ConfigKey, Arc<str>)>, whom: Whom) -> Reply<Vec<ConfigKey>> {
        let client = Arc::clone(&self.0);
        Box::pin(async move { client.listen(&asked, whom).await })
    }
}

/// Lists as HTTP v1 tells them.
struct Pulled {
    client: Arc<Client>,
    lists: mpsc::Sender<lists::Event>,
    /// Where hints are heard, from the first list on; `None` where they cannot be.
    port: OnceLock<Option<u16>>,
}

impl Pulled {
    fn port(&self) -> Option<u16> {
        let listen = || match hints::listen(&self.client.tasks, self.lists.clone()) {
            Ok(port) => Some(port),
            Err(error) => {
                tracing::warn!(%error, "no socket for pushes; lists are asked for every few seconds all the same");
                None
            }
        };
        *self.port.get_or_init(listen)
    }
}

impl Lister for Pulled {
    fn ask(&self, service: ServiceKey) -> Reply<ServiceList> {
        let (client, port) = (Arc::clone(&self.client), self.port());
        Box::pin(async move {
            // The server sends to the address it is told, and not to the one it sees.
            let ours = client.peer().and_then(|peer| route_to(peer).ok());
            client.list(&service, ours.zip(port)).await
        })
    }

    fn leave(&self, _: ServiceKey) -> Reply<()> {
        // It is over by itself when the list is not asked for again.
        Box::pin(async { Ok(()) })
    }
}

impl Transport for Http {
    fn publish(&self, instance: Instance) -> Reply<()> {
        let book = Arc::clone(&self.book);
        Box::pin(async move { book.publish(instance).await })
    }

    fn withdraw(&self, instance: Instance) -> Reply<()> {
        let book = Arc::clone(&self.book);
        Box::pin(async move { book.withdraw(instance).await })
    }

    fn read_back(&self, instance: Instance) -> Reply<Option<Listed>> {
        let client = Arc::clone(&self.client);
        Box::pin(async move { client.read_back(&instance).await })
    }

    fn is_gone(&self, instance: Instance) -> Reply<bool> {
        let client = Arc::clone(&self.client);
        Box::pin(async move { client.is_gone(&instance).await })
    }

    fn watch_configs(
        &self,
        keys: watch::Receiver<BTreeSet<ConfigKey>>,
        told: mpsc::Sender<(ConfigKey, ConfigState)>,
    ) {
        let machine = poll::Poll::new(self.client.seed.rotate_left(33));
        let source = Polled(Arc::clone(&self.client));
        watching::start(&self.client, source, machine, keys, told);
    }

    fn watch_services(
        &self,
        services: watch::Receiver<BTreeSet<ServiceKey>>,
        told: mpsc::Sender<(ServiceKey, ListState)>,
    ) {
        let (events, heard) = mpsc::channel(QUEUE);
        let (back, mut connection) = (events.clone(), self.client.connection.subscribe());
        self.client.tasks.spawn("lists-news", async move {
            let mut returns = connection.borrow_and_update().returns;
            while connection.changed().await.is_ok() {
                let now = connection.borrow_and_update().returns;
                if now != returns {
                    returns = now;
                    // A closed queue means that the agent is stopping.
                    _ = back.send(lists::Event::Anew).await;
                }
            }
        });
        let lister = Pulled {
            client: Arc::clone(&self.client),
            lists: events.clone(),
            port: OnceLock::new(),
        };
        let (every, queue) = (lists::Every::PULLED, (events, heard));
        watching::start_lists(&self.client, lister, every, services, told, queue);
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.client.connection.subscribe()
    }
}
