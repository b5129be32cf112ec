//! The agent as a whole: starts the actors, hands them what is wanted, and ends in order.
//!
//! Leaving is a story with a deadline: everything is taken out of the registry and read back until it is gone, then the tasks
//! end, then the process. A second request to leave ends it at once.

use super::admin::{self, Door};
use super::catalog::{self, Known, Look};
use super::services::{self, Services};
use super::status;
use super::targets::Targets;
use super::view::TargetView;
use super::{Command, Parts};
use crate::descriptor::settings::{Servers, Settings};
use crate::descriptor::spec::{Descriptor, Service};
use crate::descriptor::{self, Flags, Surroundings};
use crate::machine::Epoch;
use crate::nacos::client;
use crate::os::signals::{Listener, Request};
use crate::os::state;
use crate::os::state::StateDir;
use crate::os::systemd;
use crate::os::systemd::Watchdog;
use crate::report::Problem;
use crate::tasks::Tasks;
use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

/// What tasks may still take once everything is out of the registry.
const FINISH: Duration = Duration::from_secs(1);
/// Messages that wait for the loop.
const QUEUE: usize = 64;

/// Why the agent could not start; every one of them is a matter of settings.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The agent's own folder.
    #[error("state_dir")]
    StateDir(#[from] state::Error),
    /// The registry client.
    #[error(transparent)]
    Transport(#[from] client::StartError),
    /// The operator's door.
    #[error(transparent)]
    Admin(#[from] admin::Error),
    /// Signals cannot be heard.
    #[error("cannot hear signals")]
    Signals(#[source] io::Error),
}

/// What an agent is started with.
pub struct Start {
    /// Complete settings.
    pub settings: Settings,
    /// The environment.
    pub around: Surroundings,
    /// The words that named the settings: they are read again on a reload.
    pub flags: Flags,
    /// What needs no file: the service that variables describe.
    pub fixed: Option<(PathBuf, Descriptor)>,
}

/// How an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was taken out and confirmed.
    Clean,
    /// The deadline came first; the log says what is left.
    Late,
    /// A second request to leave came.
    AtOnce,
}

/// Every service that is wanted.
fn services_of(known: &Known) -> Vec<Service> {
    let all = known.descriptors.iter();
    all.flat_map(|(_, descriptor)| descriptor.services.iter().cloned())
        .collect()
}

/// The URLs the registry is known by before it was asked anything.
fn known_servers(settings: &Settings) -> Vec<String> {
    match &settings.registry.servers {
        Servers::List(list) => list.clone(),
        Servers::Endpoint { url, .. } => vec![url.clone()],
    }
}

/// Runs the agent until it is told to leave.
///
/// # Errors
/// When it cannot start; nothing was registered then.
pub async fn run(start: Start, tasks: Tasks, epoch: Epoch) -> Result<End, StartError> {
    let signals = Listener::start().map_err(StartError::Signals)?;
    Ok(begin(start, tasks, epoch).await?.live(signals).await)
}

/// Starts an agent, which does nothing before it lives.
///
/// # Errors
/// As [`run`].
pub async fn begin(start: Start, tasks: Tasks, epoch: Epoch) -> Result<Agent, StartError> {
    let settings = Arc::new(start.settings);
    let around = Arc::new(start.around);
    let taken = StateDir::take(&settings.state_dir)?;
    let (standings_tx, standings) = mpsc::channel(QUEUE);
    let parts = Parts::start(&settings.registry, &tasks, epoch, standings_tx)?;
    let services = Services::start(
        &parts,
        standings,
        services::Surroundings {
            pod_ip: around.env.get("POD_IP").cloned(),
            servers: known_servers(&settings),
        },
    );
    let targets = Arc::new(Targets::start(&parts, settings.state_dir.clone()));
    let (known, look) = catalog::start(&parts, &settings, &around, start.fixed);
    let (commands_tx, commands) = mpsc::channel(QUEUE);
    // Problems of the settings file itself, found by a reload.
    let settings_problems = Arc::new(Mutex::new(Vec::new()));
    let door = Door {
        status: {
            let (parts, services, known) = (parts.clone(), services.clone(), known.clone());
            let (settings, views) = (Arc::clone(&settings), targets.views());
            let settings_problems = Arc::clone(&settings_problems);
            let trouble = targets.trouble();
            Box::new(move || {
                let connection = parts.transport.connection().borrow().clone();
                let mut known = known.borrow().as_deref().cloned().unwrap_or_default();
                let more = settings_problems
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                known.problems.splice(0..0, more);
                known.problems.extend(trouble().map(forgetful));
                let targets = views.borrow().clone();
                status::picture(
                    epoch,
                    &settings,
                    &connection,
                    services.views(),
                    &targets,
                    Some(&known),
                )
            })
        },
        figures: parts.metrics.registry(),
        commands: commands_tx.clone(),
    };
    admin::start(&parts, &settings.admin, door).await?;
    Ok(Agent {
        parts,
        settings,
        around,
        flags: start.flags,
        services,
        targets,
        known,
        look,
        settings_problems,
        ready: watch::Sender::new(false),
        resting: false,
        ask: commands_tx,
        commands,
        _taken: taken,
    })
}

/// What whoever lives in the same process sees of an agent, and may ask of it.
#[derive(Clone)]
pub struct Sight {
    /// How the files are.
    pub targets: watch::Receiver<Arc<Vec<TargetView>>>,
    /// What is wanted.
    pub known: watch::Receiver<Option<Arc<Known>>>,
    /// Whether that was handed out for the first time.
    pub ready: watch::Receiver<bool>,
    /// For questions.
    pub ask: mpsc::Sender<Command>,
}

/// That nothing outlives a restart, for `status`.
fn forgetful(why: String) -> Problem {
    Problem {
        source: PathBuf::from("state_dir"),
        place: None,
        key: String::new(),
        message: format!("what was reloaded and verified is not kept: {why}"),
        help: Some("after a restart no reload that is due now is known; give the agent's user the right to write there".to_owned()),
        excerpt: None,
    }
}

/// An agent that is started.
pub struct Agent {
    parts: Parts,
    settings: Arc<Settings>,
    around: Arc<Surroundings>,
    flags: Flags,
    services: Services,
    targets: Arc<Targets>,
    known: watch::Receiver<Option<Arc<Known>>>,
    look: Look,
    settings_problems: Arc<Mutex<Vec<Problem>>>,
    ready: watch::Sender<bool>,
    /// Nothing is registered meanwhile.
    resting: bool,
    ask: mpsc::Sender<Command>,
    commands: mpsc::Receiver<Command>,
    /// Let go when the agent has ended.
    _taken: StateDir,
}

impl Agent {
    /// What others may see of it.
    #[must_use]
    pub fn sight(&self) -> Sight {
        Sight {
            targets: self.targets.views(),
            known: self.known.clone(),
            ready: self.ready.subscribe(),
            ask: self.ask.clone(),
        }
    }

    /// Lives until it is told to leave, and leaves.
    pub async fn live(mut self, mut signals: Listener) -> End {
        let mut watchdog = Watchdog::start();
        loop {
            tokio::select! {
                biased;
                request = signals.next() => match request {
                    Request::Leave => return self.leave(signals).await,
                    Request::Reload => {
                        let (answer, _nobody) = oneshot::channel();
                        self.reload(answer);
                    }
                },
                Some(command) = self.commands.recv() => self.obey(command),
                Ok(()) = self.known.changed() => self.hand_out().await,
                () = watchdog.alive() => {}
            }
        }
    }

    /// Gives services and targets what the catalog knows now.
    async fn hand_out(&mut self) {
        let Some(known) = self.known.borrow_and_update().clone() else {
            return;
        };
        let services = if self.resting {
            Vec::new()
        } else {
            services_of(&known)
        };
        let kept = known
            .descriptors
            .iter()
            .map(|(path, descriptor)| (path.clone(), descriptor.kept()))
            .collect();
        self.services.set(services).await;
        self.targets.set(kept);
        systemd::status(&format!(
            "{} descriptors, {} problems",
            known.descriptors.len(),
            known.problems.len()
        ));
        if !self.ready.send_replace(true) {
            systemd::ready();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Whoever asked may have gone; that is so for every answer below.
            Command::Ping(answer) => _ = answer.send(()),
            Command::Ready(answer) => _ = answer.send(*self.ready.borrow()),
            Command::Reload(answer) => self.reload(answer),
            Command::Drain { within, answer } => {
                let services = self.services.clone();
                self.parts.tasks.spawn("drain", async move {
                    _ = answer.send(services.drain(within).await);
                });
            }
            Command::Rest { within, answer } => {
                self.resting = true;
                let services = self.services.clone();
                self.parts.tasks.spawn("rest", async move {
                    _ = answer.send(services.rest(within).await);
                });
            }
            Command::Work => {
                self.resting = false;
                let (services, known) = (self.services.clone(), self.known.borrow().clone());
                self.parts.tasks.spawn("work again", async move {
                    if let Some(known) = known {
                        services.set(services_of(&known)).await;
                    }
                });
            }
            Command::Release { service, answer } => {
                let targets = Arc::clone(&self.targets);
                self.parts.tasks.spawn("release", async move {
                    _ = answer.send(targets.release(service).await);
                });
            }
            Command::Retry { path, answer } => {
                let targets = Arc::clone(&self.targets);
                self.parts.tasks.spawn("retry", async move {
                    _ = answer.send(targets.retry(path).await);
                });
            }
            Command::Addresses(answer) => {
                let services = self.services.clone();
                self.parts.tasks.spawn("addresses", async move {
                    _ = answer.send(services.addresses().await);
                });
            }
        }
    }

    fn reload(&self, answer: oneshot::Sender<usize>) {
        let (look, known) = (self.look.clone(), self.known.clone());
        let (flags, around) = (self.flags.clone(), Arc::clone(&self.around));
        let (settings, problems) = (
            Arc::clone(&self.settings),
            Arc::clone(&self.settings_problems),
        );
        self.parts.tasks.spawn("reload", async move {
            let read =
                tokio::task::spawn_blocking(move || descriptor::read_settings(&flags, &around))
                    .await;
            let found = match read {
                Ok(Ok(new)) if new != *settings => {
                    tracing::warn!("the settings have changed; they count from the next start on");
                    Vec::new()
                }
                Ok(Err(found)) => {
                    for problem in &found {
                        tracing::error!("{problem}");
                    }
                    found
                }
                _ => Vec::new(),
            };
            let mut count = found.len();
            *problems.lock().unwrap_or_else(PoisonError::into_inner) = found;
            let (done, looked) = oneshot::channel();
            if look.send(done).await.is_ok() {
                // The catalog is ending when it does not answer.
                _ = looked.await;
            }
            count += known
                .borrow()
                .as_ref()
                .map_or(0, |known| known.problems.len());
            _ = answer.send(count);
        });
    }

    async fn leave(mut self, mut signals: Listener) -> End {
        systemd::stopping();
        let within = self.settings.shutdown_timeout;
        tracing::info!(?within, "leaving: everything is taken out of the registry");
        let mut watchdog = Watchdog::start();
        let services = self.services.clone();
        let lines = self.targets.leave(&self.parts);
        let drain = async move { tokio::join!(services.drain(within), lines).0 };
        tokio::pin!(drain);
        let clean = loop {
            tokio::select! {
                biased;
                request = signals.next() => if request == Request::Leave {
                    tracing::warn!("told to leave again: leaving at once");
                    return End::AtOnce;
                },
                // Status is still answered while leaving.
                Some(command) = self.commands.recv() => self.obey(command),
                () = watchdog.alive() => {}
                clean = &mut drain => break clean,
            }
        };
        let left: Vec<String> = self
            .services
            .views()
            .into_iter()
            .filter(|view| view.state != super::view::ServiceState::Drained)
            .map(|view| format!("{} ({})", view.service, view.state.word()))
            .collect();
        if let Ok(Err(unfinished)) = timeout(FINISH * 2, self.parts.tasks.finish(FINISH)).await {
            tracing::warn!(%unfinished, "leaving all the same");
        }
        if clean {
            tracing::info!("left in order");
            End::Clean
        } else {
            // A line of a thousand names helps nobody.
            let first = left.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            tracing::error!(
                count = left.len(),
                first,
                "not confirmed by the registry in time"
            );
            End::Late
        }
    }
}
