//! Follows a service for one target: what the registry lists goes through the gate, the format and the guard, and what comes
//! out is a content like any other.
//!
//! A list that cannot be rendered never reaches the guard: the file keeps what it has, and the reason is told. The neighbours in
//! force are kept as a snapshot; the next run reads them before it believes any list, so that the guard knows what was there, and
//! puts them in place where the file needs them: when the registry says nothing, or what it says is held.

use super::Parts;
use super::guard::{self, Guard, Held};
use super::materialize::Slot;
use super::neighbours::{self, Neighbour, Passed};
use super::renderings::{self, About};
use super::snapshot::Snapshots;
use crate::descriptor::spec::{MOST_INSTANCES, Subscription};
use crate::machine::drive;
use crate::nacos::model::{ConfigKey, Content, Namespace, ServiceList};
use crate::nacos::wire::md5_hex;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

/// Length of each queue; whoever finds one full waits.
const QUEUE: usize = 16;

/// What is known of the service, and how often what happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// The last list.
    pub(super) list: Option<Arc<ServiceList>>,
    /// How often the registry could not be asked.
    pub(super) absences: u64,
    /// How often it came back.
    pub(super) returns: u64,
    /// How often an operator wanted to have what it says.
    pub(super) releases: u64,
}

/// What a follower tells.
#[derive(Debug)]
pub(super) enum News {
    /// A list came.
    Seen(Seen),
    /// A list is held, or none any more.
    Held(Option<Held>),
    /// This is in force.
    Released(Arc<Offer>),
    /// This was in force in an earlier run.
    Remembered(Content),
}

/// What became of a list before the guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// How many the registry lists.
    pub(super) listed: usize,
    /// How many of them passed.
    pub(super) passed: usize,
    /// Why others did not.
    pub(super) left_out: Vec<String>,
    /// Why no content could be made of them.
    pub(super) rejected: Option<String>,
}

/// A list that can be put in force.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) size: usize,
    /// The file's content (of a hosts file, the lines of its block).
    pub(super) content: Content,
    /// The neighbours themselves, as they are kept for the next run.
    pub(super) neighbours: Content,
}

impl PartialEq for Offer {
    fn eq(&self, other: &Self) -> bool {
        self.content.md5 == other.content.md5 && self.size == other.size
    }
}

/// A running follower; it ends when this is dropped.
pub(super) struct Follower(watch::Sender<Said>);

impl Follower {
    /// Starts to follow; `said` is what is known already, `news` is told what becomes of it. Without any list the neighbours of an
    /// earlier run are told after `late`.
    pub(super) fn start(
        parts: &Parts,
        (slot, subscription): (Slot, Subscription),
        snapshots: &Arc<Snapshots>,
        late: Duration,
        said: Said,
        news: &mpsc::Sender<(Slot, News)>,
    ) -> Self {
        let (sender, said) = watch::channel(said);
        // Only what happens from now on counts.
        let before = said.borrow().clone();
        let work = Work {
            slot,
            subscription: Arc::new(subscription),
            snapshots: Arc::clone(snapshots),
            fallback: Arc::default(),
            news: news.clone(),
        };
        let parts = parts.clone();
        parts.tasks.clone().spawn("follow a service", async move {
            work.run(&parts, said, before, late).await;
        });
        Self(sender)
    }

    /// Changes what is known.
    pub(super) fn hear(&self, change: impl FnOnce(&mut Said)) {
        self.0.send_modify(change);
    }
}

/// As what the neighbours of a subscription are kept for the next run: no data id has an `@`.
pub(super) fn snapshot_key(subscription: &Subscription) -> ConfigKey {
    let path = subscription.target.path.to_string_lossy();
    let name = format!("@@{}@{}", subscription.service, md5_hex(path.as_bytes()));
    ConfigKey {
        namespace: Namespace::new(&subscription.namespace),
        group: subscription.group.as_str().into(),
        data_id: name.into(),
    }
}

struct Work {
    slot: Slot,
    subscription: Arc<Subscription>,
    snapshots: Arc<Snapshots>,
    /// The content of an earlier run, until something is in force or it was told.
    fallback: Arc<Mutex<Option<Content>>>,
    news: mpsc::Sender<(Slot, News)>,
}

impl Work {
    async fn run(
        self,
        parts: &Parts,
        mut said: watch::Receiver<Said>,
        mut before: Said,
        late: Duration,
    ) {
        let (events, received) = mpsc::channel(QUEUE);
        let machine = Guard::new(self.subscription.guard);
        let (slot, news) = (self.slot, self.news.clone());
        let fallback = Arc::clone(&self.fallback);
        let tell = move |effect| {
            let (news, fallback) = (news.clone(), Arc::clone(&fallback));
            async move {
                match effect {
                    guard::Effect::Release(offer) => {
                        take(&fallback);
                        _ = news.send((slot, News::Released(offer))).await;
                    }
                    guard::Effect::Tell(held) => {
                        let is_held = held.is_some();
                        _ = news.send((slot, News::Held(held))).await;
                        if let Some(content) = take(&fallback).filter(|_| is_held) {
                            _ = news.send((slot, News::Remembered(content))).await;
                        }
                    }
                }
            }
        };
        // The guard ends with the events.
        let (epoch, stop) = (parts.epoch, parts.tasks.token());
        parts.tasks.spawn("guard", async move {
            drive(machine, epoch, received, tell, stop).await;
        });
        if let Some(offer) = self.recall().await {
            *self.fallback.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(offer.content.clone());
            let size = offer.size;
            _ = events.send(guard::Event::Remembered { size }).await;
        }
        let late = sleep(late);
        tokio::pin!(late);
        before.list = None;
        let mut is_late = false;
        loop {
            let now = said.borrow_and_update().clone();
            if !self.hear(&events, &before, &now).await {
                return;
            }
            if now.list.is_none() && (is_late || now.absences > 0) {
                self.fall_back().await;
            }
            before = now;
            tokio::select! {
                biased;
                changed = said.changed() => if changed.is_err() { return },
                () = &mut late, if !is_late => is_late = true,
            }
        }
    }

    /// Hands on what happened between `before` and `now`; false when nobody listens any more.
    async fn hear(
        &self,
        events: &mpsc::Sender<guard::Event<Arc<Offer>>>,
        before: &Said,
        now: &Said,
    ) -> bool {
        let mut happened = Vec::new();
        if now.absences != before.absences {
            happened.push(guard::Event::Away);
        }
        if now.returns != before.returns {
            happened.push(guard::Event::Back);
        }
        let is_new = |list: &&Arc<ServiceList>| {
            before
                .list
                .as_ref()
                .is_none_or(|before| !Arc::ptr_eq(before, list))
        };
        if let Some(list) = now.list.as_ref().filter(is_new) {
            let (seen, offer) = self.look(list).await;
            if self.news.send((self.slot, News::Seen(seen))).await.is_err() {
                return false;
            }
            happened.extend(offer.map(|list| guard::Event::Listed {
                size: list.size,
                list,
            }));
        }
        if now.releases != before.releases {
            happened.push(guard::Event::Released);
        }
        for event in happened {
            if events.send(event).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn fall_back(&self) {
        if let Some(content) = take(&self.fallback) {
            _ = self.news.send((self.slot, News::Remembered(content))).await;
        }
    }

    /// Makes a content of a list, where that blocks nobody.
    async fn look(&self, list: &Arc<ServiceList>) -> (Seen, Option<Arc<Offer>>) {
        let (subscription, list) = (Arc::clone(&self.subscription), Arc::clone(list));
        let looked = tokio::task::spawn_blocking(move || {
            let passed = neighbours::pass(&list, &subscription.filter);
            let mut seen = Seen {
                listed: passed.listed,
                passed: passed.neighbours.len(),
                left_out: passed.left_out.clone(),
                rejected: None,
            };
            match offer(&subscription, &passed) {
                Ok(offer) => (seen, Some(Arc::new(offer))),
                Err(error) => {
                    seen.rejected = Some(error.to_string());
                    (seen, None)
                }
            }
        });
        // It panicked; the panic was printed, and the file stays as it is.
        looked.await.unwrap_or_default()
    }

    /// What an earlier run had in force, as this descriptor wants it.
    async fn recall(&self) -> Option<Offer> {
        let (subscription, snapshots) =
            (Arc::clone(&self.subscription), Arc::clone(&self.snapshots));
        let recalled = tokio::task::spawn_blocking(move || {
            let key = snapshot_key(&subscription);
            let content = snapshots
                .load(&key)
                .inspect_err(|error| tracing::warn!(%error, "a snapshot cannot be used"))
                .ok()??;
            let kept: Vec<Neighbour> = serde_json::from_slice(&content.bytes)
                .inspect_err(|error| tracing::warn!(%error, %key, "a snapshot is no list"))
                .ok()?;
            let list = ServiceList {
                hosts: kept.into_iter().map(Neighbour::listed).collect(),
                protected: false,
                cache: Duration::ZERO,
            };
            let passed = neighbours::pass(&list, &subscription.filter);
            // What a changed template cannot be made of is no loss: the registry's list comes.
            offer(&subscription, &passed).ok()
        });
        recalled.await.ok().flatten()
    }
}

fn take(fallback: &Mutex<Option<Content>>) -> Option<Content> {
    fallback
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

/// The content that these neighbours make. What the guard will never release is not rendered.
fn offer(subscription: &Subscription, passed: &Passed) -> Result<Offer, renderings::Error> {
    let size = passed.neighbours.len();
    if size > MOST_INSTANCES {
        return Ok(Offer {
            size,
            content: Content::of(Vec::new()),
            neighbours: Content::of(Vec::new()),
        });
    }
    let about = About {
        service: &subscription.service,
        group: &subscription.group,
        namespace: &subscription.namespace,
    };
    let text = renderings::render(&subscription.rendering, about, &passed.neighbours)?;
    Ok(Offer {
        size,
        content: Content::of(text.into_bytes()),
        neighbours: Content::of(serde_json::to_vec(&passed.neighbours)?),
    })
}
