//! Both transports behind one: whichever the registry takes does the work, and the work moves when that changes.
//!
//! When it does, every instance is published over the new transport first and taken out of the old one then, so that it is listed
//! all the time; configurations are watched over the new one alone.

use super::choice::{self, Choice, Which, Why};
use super::client::{self, Client, GRPC, HTTP, QUEUE, StartError};
use super::grpc::{self, Grpc};
use super::http;
use super::model::{
    ConfigKey, ConfigState, Connection, Instance, InstanceKey, ListState, Listed, ServiceKey,
};
use super::{Error, Reply, Standings, Transport};
use crate::descriptor::settings::Registry;
use crate::descriptor::settings::Speech;
use crate::machine::Epoch;
use crate::machine::drive;
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

/// Starts the transport that the settings name, or both and the choice between them. Its machines run until `tasks` stops.
///
/// # Errors
/// When no HTTP client can be made from the settings.
pub fn start(
    settings: &Registry,
    tasks: &Tasks,
    epoch: Epoch,
    metrics: Metrics,
    seed: u64,
    standings: Standings,
) -> Result<Arc<dyn Transport>, StartError> {
    let client = client::start(settings, tasks, epoch, metrics, seed)?;
    let says = "registry.transport says so".to_owned();
    match settings.transport {
        Speech::Http => {
            client.chosen(HTTP, says);
            Ok(http::start(&client, standings))
        }
        Speech::Grpc => {
            let grpc = grpc::start(&client, standings);
            let worker = Arc::clone(&grpc);
            client.chosen(GRPC, says);
            tasks.spawn("choice", async move { worker.works(true).await });
            Ok(grpc)
        }
        Speech::Auto => Ok(Auto::start(&client, standings)),
    }
}

/// What is watched over both transports: one is told what is wanted, and the other that nothing is.
struct Watched<K> {
    keys: watch::Receiver<BTreeSet<K>>,
    over: [(Which, watch::Sender<BTreeSet<K>>); 2],
}

impl<K: Clone + Ord + Send + Sync + 'static> Watched<K> {
    /// Watches `keys` by `watch`, which is called for each transport.
    fn start(
        inner: &Inner,
        keys: watch::Receiver<BTreeSet<K>>,
        watch: impl Fn(&dyn Transport, watch::Receiver<BTreeSet<K>>),
    ) {
        let over = [Which::Grpc, Which::Http].map(|which| {
            let (sender, receiver) = watch::channel(BTreeSet::new());
            watch(&*inner.over(which), receiver);
            (which, sender)
        });
        let mut watched = Self { keys, over };
        let mut using = inner.using.subscribe();
        inner.client.tasks.spawn("watched", async move {
            loop {
                watched.keys.borrow_and_update();
                let which = *using.borrow_and_update();
                watched.turn(which);
                tokio::select! {
                    changed = watched.keys.changed() => if changed.is_err() { return },
                    changed = using.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    fn turn(&self, which: Option<Which>) {
        for (over, keys) in &self.over {
            let wanted = if Some(*over) == which {
                self.keys.borrow().clone()
            } else {
                BTreeSet::new()
            };
            keys.send_if_modified(|keys| {
                let other = *keys != wanted;
                *keys = wanted;
                other
            });
        }
    }
}

struct Inner {
    client: Arc<Client>,
    http: Arc<dyn Transport>,
    grpc: Arc<Grpc>,
    using: watch::Sender<Option<Which>>,
    /// What is to be listed, for the day when it moves.
    listed: Mutex<BTreeMap<InstanceKey, Instance>>,
}

struct Auto(Arc<Inner>);

impl Auto {
    fn start(client: &Arc<Client>, standings: Standings) -> Arc<Self> {
        let grpc = grpc::start(client, standings.clone());
        let inner = Arc::new(Inner {
            client: Arc::clone(client),
            http: http::start(client, standings),
            grpc,
            using: watch::Sender::new(None),
            listed: Mutex::default(),
        });
        let (events, events_rx) = mpsc::channel(QUEUE);
        inner.tell_of_grpc(&events);
        inner.tell_of_versions(&events);
        let chooser = Arc::clone(&inner);
        client.tasks.spawn_to_end("choice", async move {
            let (epoch, stop) = (chooser.client.epoch, chooser.client.tasks.token());
            let machine = Choice::new(chooser.client.seed.rotate_left(51));
            let perform = |effect| {
                let (inner, events) = (Arc::clone(&chooser), events.clone());
                async move {
                    match effect {
                        choice::Effect::Ask => {
                            let asker = Arc::clone(&inner);
                            inner.client.tasks.spawn("what is it", async move {
                                let event = match asker.client.what_is_it().await {
                                    Ok(version) => choice::Event::Answered(version),
                                    Err(_) => choice::Event::NobodyThere,
                                };
                                // A closed queue means that the agent is stopping.
                                _ = events.send(event).await;
                            });
                        }
                        choice::Effect::Use(which, why) => inner.turn(which, &why).await,
                    }
                }
            };
            drive(machine, epoch, events_rx, perform, stop).await;
        });
        Arc::new(Self(inner))
    }
}

impl Inner {
    fn tell_of_grpc(&self, events: &mpsc::Sender<choice::Event>) {
        let (mut news, events) = (self.grpc.news(), events.clone());
        self.client.tasks.spawn("grpc-news", async move {
            let mut connected = false;
            loop {
                let now = news.borrow_and_update().clone();
                let event = match now {
                    grpc::News::Connected => Some(choice::Event::Connected),
                    grpc::News::Lost => connected.then_some(choice::Event::Lost),
                    grpc::News::Unreachable(why) => {
                        if connected {
                            _ = events.send(choice::Event::Lost).await;
                        }
                        Some(choice::Event::Unreachable(why))
                    }
                };
                connected = event == Some(choice::Event::Connected);
                if let Some(event) = event {
                    _ = events.send(event).await;
                }
                if news.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// A server that came into use has said what it is.
    fn tell_of_versions(&self, events: &mpsc::Sender<choice::Event>) {
        let (mut connection, events) = (self.client.connection.subscribe(), events.clone());
        let client = Arc::clone(&self.client);
        self.client.tasks.spawn("version-news", async move {
            let mut before = None;
            loop {
                connection.borrow_and_update();
                let version = client.version();
                if version.is_some() && version != before {
                    before = version;
                    _ = events.send(choice::Event::Answered(version)).await;
                }
                if connection.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    // After a panic it is plain data and goes on.
    fn listed(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, Instance>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self, which: Which) -> Arc<dyn Transport> {
        match which {
            Which::Grpc => Arc::clone(&self.grpc) as Arc<dyn Transport>,
            Which::Http => Arc::clone(&self.http),
        }
    }

    /// Moves the work.
    async fn turn(self: &Arc<Self>, which: Which, why: &Why) {
        let port = self.client.settings.grpc_offset;
        let why = match why {
            Why::Answers => format!("the registry takes gRPC on its port + {port}"),
            Why::TooOld((major @ ..2, minor, patch)) => {
                format!("Nacos {major}.{minor}.{patch} has no gRPC")
            }
            Why::TooOld((major, minor, patch)) => format!(
                "Nacos {major}.{minor}.{patch} holds one instance of a service over gRPC; 2.1.1 and later hold several"
            ),
            Why::NoGrpc(trouble) => {
                format!("no gRPC connection ({trouble}); one is looked for about once a minute")
            }
        };
        let word = if which == Which::Grpc { GRPC } else { HTTP };
        let before = self.using.send_replace(Some(which));
        if before != Some(which) {
            tracing::info!(transport = word, why = &*why, "registry");
        }
        self.client.chosen(word, why);
        if before == Some(which) {
            return;
        }
        self.grpc.works(which == Which::Grpc).await;
        let Some(before) = before else { return };
        let (inner, old, new) = (Arc::clone(self), self.over(before), self.over(which));
        self.client.tasks.spawn("move", async move {
            let instances: Vec<Instance> = inner.listed().values().cloned().collect();
            for instance in instances {
                let still_wanted = |instance: &Instance| {
                    *inner.using.borrow() == Some(which)
                        && inner.listed().get(&instance.key) == Some(instance)
                };
                if still_wanted(&instance) {
                    // What fails is published again by whoever reads it back and misses it.
                    if let Err(error) = new.publish(instance.clone()).await {
                        tracing::debug!(%error, "not moved yet");
                    }
                }
                // A persistent one belongs to no transport.
                if instance.ephemeral
                    && let Err(error) = old.withdraw(instance).await
                {
                    tracing::debug!(%error, "not taken out of the other transport");
                }
            }
        });
    }

    /// The transport in use; waited for as long as a call may take.
    async fn transport(&self) -> Result<Arc<dyn Transport>, Error> {
        let mut using = self.using.subscribe();
        let known = using.wait_for(Option::is_some);
        match timeout(self.client.settings.request_timeout, known).await {
            Ok(Ok(which)) => Ok(self.over(which.unwrap_or(Which::Http))),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => {
                let reason = self.client.connection.borrow().reason.clone();
                Err(Error::Unreachable {
                    server: self.client.first_server(),
                    what: reason.unwrap_or_else(|| "it has not said what it is yet".to_owned()),
                })
            }
        }
    }
}

impl Transport for Auto {
    fn publish(&self, instance: Instance) -> Reply<()> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let transport = inner.transport().await?;
            let key = instance.key.clone();
            inner.listed().insert(key.clone(), instance.clone());
            let outcome = transport.publish(instance).await;
            if outcome.is_err() {
                inner.listed().remove(&key);
            }
            outcome
        })
    }

    fn withdraw(&self, instance: Instance) -> Reply<()> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            inner.listed().remove(&instance.key);
            let transport = inner.transport().await?;
            transport.withdraw(instance).await
        })
    }

    fn read_back(&self, instance: Instance) -> Reply<Option<Listed>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.transport().await?.read_back(instance).await })
    }

    fn is_gone(&self, instance: Instance) -> Reply<bool> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.transport().await?.is_gone(instance).await })
    }

    fn watch_configs(
        &self,
        keys: watch::Receiver<BTreeSet<ConfigKey>>,
        told: mpsc::Sender<(ConfigKey, ConfigState)>,
    ) {
        Watched::start(&self.0, keys, |transport, keys| {
            transport.watch_configs(keys, told.clone());
        });
    }

    fn watch_services(
        &self,
        services: watch::Receiver<BTreeSet<ServiceKey>>,
        told: mpsc::Sender<(ServiceKey, ListState)>,
    ) {
        Watched::start(&self.0, services, |transport, services| {
            transport.watch_services(services, told.clone());
        });
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.0.client.connection.subscribe()
    }
}
