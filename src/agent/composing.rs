//! Makes the content of one file of several configurations, or of one that is encrypted; what comes out is a content like any other.
//!
//! Nothing is made before all of them are known, and nothing while one of them is absent: the file is what its `on_absent` says.
//! A change of several at once is a burst, and made once. What cannot be made (a configuration that does not parse, a value that is
//! not quoted, a command that fails) never reaches the file, which keeps what it has. What an earlier run had is kept as it came,
//! each configuration by itself; it takes the place of those of which the registry says nothing, and of all where nothing could be
//! made since the start.

use super::Parts;
use super::commands::Commands;
use super::contents;
use super::deciphering;
use super::materialize::Slot;
use super::snapshot::Snapshots;
use crate::backoff::Backoff;
use crate::descriptor::spec::{Config, MadeOf, Pacing, Part, Template};
use crate::machine::{Machine, Moment, drive};
use crate::nacos::model::{ConfigKey, ConfigState, Content, Namespace};
use crate::nacos::wire::md5_hex;
use crate::template;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// Length of each queue; whoever finds one full waits.
const QUEUE: usize = 16;
/// A burst of several configurations is over when nothing new came for this long: as a group's, when nothing else is written.
const QUIET: Duration = Pacing::QUIET;
/// A burst is not waited for longer than this.
const LONGEST: Duration = Pacing::LONGEST;

/// What is known of a configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// Its last content or absence.
    pub(super) state: Option<ConfigState>,
    /// Why the registry cannot be asked.
    pub(super) unreachable: Option<String>,
}

/// All that is known.
pub(super) type AllHeard = BTreeMap<ConfigKey, Heard>;

/// Contents as they came.
pub(super) type Contents = BTreeMap<ConfigKey, Content>;

/// What became of the configurations.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// This is the file's content.
    Content {
        /// It.
        content: Content,
        /// What it is made of, to be kept once it is in place.
        sources: Arc<Contents>,
        /// Whether some of them are of an earlier run.
        is_remembered: bool,
    },
    /// This was, and what the registry says cannot be.
    Fallback(Content),
    /// There is none of this one.
    Absent(String),
    /// The registry cannot be asked for one that is needed; says why.
    Unreachable(String),
    /// Nothing can be made of what there is; says why.
    Rejected(String),
}

#[derive(Debug)]
enum Event {
    /// What is known now.
    Heard(AllHeard),
    /// Answers [`Effect::Recall`].
    Recalled(Contents),
    /// Answers [`Effect::Make`].
    Made(Result<Content, Trouble>),
}

/// Why nothing could be made.
#[derive(Clone, Debug, PartialEq)]
struct Trouble {
    why: String,
    /// Whether it may be otherwise the next time.
    relents: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Effect {
    /// Look for what an earlier run kept; exactly one [`Event::Recalled`] answers.
    Recall,
    /// Make a content of these; exactly one [`Event::Made`] answers.
    Make(Arc<Contents>),
    /// Hand on what became of them.
    Tell(What),
}

/// Decides when a content is made, and of what.
#[derive(Debug)]
struct Composition {
    /// How each is called.
    labels: BTreeMap<ConfigKey, String>,
    quiet: Duration,
    heard: AllHeard,
    /// When the first and the last change came that nothing was made of yet.
    burst: Option<(Moment, Moment)>,
    making: Option<Making>,
    recall: Recall,
    retry_at: Option<Moment>,
    backoff: Backoff,
    /// Whether something was handed on since the start.
    is_made: bool,
    is_rejected: bool,
    due: VecDeque<Effect>,
}

#[derive(Clone, Debug)]
struct Making {
    sources: Arc<Contents>,
    is_remembered: bool,
    is_fallback: bool,
}

#[derive(Debug)]
enum Recall {
    /// Not before then, unless it is needed.
    Later(Moment),
    Asked,
    Known(Contents),
}

impl Composition {
    fn new(labels: BTreeMap<ConfigKey, String>, late: Moment, seed: u64) -> Self {
        Self {
            quiet: if labels.len() > 1 {
                QUIET
            } else {
                Duration::ZERO
            },
            heard: AllHeard::new(),
            labels,
            burst: None,
            making: None,
            recall: Recall::Later(late),
            retry_at: None,
            backoff: Backoff::new(deciphering::RETRY, seed),
            is_made: false,
            is_rejected: false,
            due: VecDeque::new(),
        }
    }

    fn stir(&mut self, now: Moment) {
        let (first, _) = self.burst.unwrap_or((now, now));
        self.burst = Some((first, now));
    }

    fn burst_ends(&self) -> Option<Moment> {
        let (first, last) = self.burst?;
        Some((last + self.quiet).min(first + LONGEST.min(self.quiet * 10)))
    }

    fn label(&self, key: &ConfigKey) -> String {
        self.labels.get(key).cloned().unwrap_or_default()
    }

    /// Those of which the registry says nothing.
    fn unknown(&self) -> impl Iterator<Item = &ConfigKey> {
        let is_known = |key| {
            self.heard
                .get(key)
                .is_some_and(|heard| heard.state.is_some())
        };
        self.labels.keys().filter(move |key| !is_known(*key))
    }

    /// Whether what an earlier run kept may be of use.
    fn lacks(&self) -> bool {
        self.unknown().next().is_some() || self.is_rejected && !self.is_made
    }

    /// Does what is due now.
    fn step(&mut self, now: Moment) {
        let is_away = self.unknown().any(|key| {
            let heard = self.heard.get(key);
            heard.is_some_and(|heard| heard.unreachable.is_some())
        });
        if let Recall::Later(late) = self.recall
            && self.lacks()
            && (is_away || now >= late || self.is_rejected)
        {
            self.recall = Recall::Asked;
            self.due.push_back(Effect::Recall);
        }
        let is_due = self.burst_ends().is_some_and(|at| at <= now)
            || self.retry_at.is_some_and(|at| at <= now);
        if is_due && self.making.is_none() {
            self.burst = None;
            self.retry_at = None;
            self.look();
        }
    }

    /// Makes what can be made now, or says why not.
    fn look(&mut self) {
        let mut sources = Contents::new();
        let (mut absent, mut away, mut is_remembered) = (None, None, false);
        let kept = match &self.recall {
            Recall::Known(kept) => Some(kept),
            _ => None,
        };
        for key in self.labels.keys() {
            let heard = self.heard.get(key).cloned().unwrap_or_default();
            match (heard.state, kept.and_then(|kept| kept.get(key))) {
                (Some(ConfigState::Present(content)), _) => {
                    _ = sources.insert(key.clone(), content)
                }
                (Some(_), _) => absent = absent.or(Some(key)),
                (None, Some(content)) => {
                    is_remembered = true;
                    sources.insert(key.clone(), content.clone());
                }
                (None, None) => away = away.or(heard.unreachable.map(|why| (key, why))),
            }
        }
        if let Some(key) = absent {
            self.is_rejected = false;
            self.due
                .push_back(Effect::Tell(What::Absent(self.label(key))));
        } else if sources.len() == self.labels.len() {
            self.make(sources, is_remembered, false);
        } else if let Some((key, why)) = away {
            let why = match self.labels.len() {
                1 => why,
                _ => format!("{}: {why}", self.label(key)),
            };
            self.due.push_back(Effect::Tell(What::Unreachable(why)));
        }
    }

    fn make(&mut self, sources: Contents, is_remembered: bool, is_fallback: bool) {
        let sources = Arc::new(sources);
        self.due.push_back(Effect::Make(Arc::clone(&sources)));
        self.making = Some(Making {
            sources,
            is_remembered,
            is_fallback,
        });
    }

    fn made(&mut self, now: Moment, outcome: Result<Content, Trouble>) {
        let Some(making) = self.making.take() else {
            return;
        };
        match outcome {
            Ok(content) if making.is_fallback => {
                self.is_made = true;
                self.due.push_back(Effect::Tell(What::Fallback(content)));
            }
            // What the registry says was told to be wrong already.
            Err(_) if making.is_fallback => {}
            Ok(content) => {
                self.is_made = true;
                self.is_rejected = false;
                self.backoff.reset();
                self.due.push_back(Effect::Tell(What::Content {
                    content,
                    sources: making.sources,
                    is_remembered: making.is_remembered,
                }));
            }
            Err(trouble) => {
                self.is_rejected = true;
                if trouble.relents {
                    self.retry_at = Some(now + self.backoff.next_wait());
                }
                self.due
                    .push_back(Effect::Tell(What::Rejected(trouble.why)));
                self.fall_back();
            }
        }
    }

    /// Makes what an earlier run had, where nothing could be made of what there is since the start.
    fn fall_back(&mut self) {
        let Recall::Known(kept) = &self.recall else {
            return;
        };
        let is_whole = self.labels.keys().all(|key| kept.contains_key(key));
        if self.is_rejected && !self.is_made && is_whole && self.making.is_none() {
            let kept = kept.clone();
            self.make(kept, true, true);
        }
    }
}

impl Machine for Composition {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Heard(heard) => {
                let states = |heard: &AllHeard| -> Vec<Option<ConfigState>> {
                    let of = |key| heard.get(key).and_then(|heard| heard.state.clone());
                    self.labels.keys().map(of).collect()
                };
                let is_new = states(&self.heard) != states(&heard);
                let is_whole = !states(&heard).contains(&None);
                if is_new {
                    self.backoff.reset();
                }
                // That the registry is away matters only where something is missing.
                if is_new || !is_whole && self.heard != heard {
                    self.stir(now);
                }
                self.heard = heard;
            }
            Event::Recalled(kept) => {
                self.recall = Recall::Known(kept);
                self.fall_back();
                if self.unknown().next().is_some() {
                    self.stir(now);
                }
            }
            Event::Made(outcome) => self.made(now, outcome),
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let due = self.burst_ends().into_iter().chain(self.retry_at);
        // What is due waits for what is being made; that it is made is an event.
        let due = due.filter(|_| self.making.is_none());
        let late = match self.recall {
            Recall::Later(late) if self.lacks() => Some(late),
            _ => None,
        };
        due.chain(late).min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

/// The key of a configuration that a file is made of.
pub(super) fn key_of(part: &Part) -> ConfigKey {
    ConfigKey {
        namespace: Namespace::new(&part.namespace),
        group: part.group.as_str().into(),
        data_id: part.data_id.as_str().into(),
    }
}

/// A running composition; it ends when this is dropped.
pub(super) struct Composer(watch::Sender<AllHeard>);

/// What a composer works with.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) commands: Commands,
    /// How long the registry has to say something before snapshots are used.
    pub(super) late: Duration,
    pub(super) seed: u64,
}

impl Composer {
    /// Starts; `heard` is what is known already, `news` is told what becomes of it.
    pub(super) fn start(
        parts: &Parts,
        (slot, config): (Slot, Config),
        means: &Means,
        heard: AllHeard,
        news: &mpsc::Sender<(Slot, What)>,
    ) -> Self {
        let (sender, mut heard) = watch::channel(heard);
        let (events, received) = mpsc::channel(QUEUE);
        let labels = match &config.made_of {
            MadeOf::One(part) => BTreeMap::from([(key_of(part), String::new())]),
            MadeOf::Several { parts, .. } => (parts.iter())
                .map(|(name, part)| {
                    let key = key_of(part);
                    let label = format!("{name} ({key})");
                    (key, label)
                })
                .collect(),
        };
        let late = parts.epoch.now() + means.late;
        let machine = Composition::new(labels, late, means.seed);
        let work = Arc::new(Work {
            config,
            means: means.clone(),
            opened: Mutex::default(),
        });
        // The composition ends with whoever hears for it, not with its work.
        let (news, tasks, back) = (news.clone(), parts.tasks.clone(), events.downgrade());
        let perform = move |effect| {
            let (news, work, tasks, back) =
                (news.clone(), Arc::clone(&work), tasks.clone(), back.clone());
            async move {
                match effect {
                    // Whoever listened has gone.
                    Effect::Tell(what) => _ = news.send((slot, what)).await,
                    Effect::Make(sources) => tasks.spawn("make a content", async move {
                        let made = work.make(&sources).await;
                        if let Some(back) = back.upgrade() {
                            _ = back.send(Event::Made(made)).await;
                        }
                    }),
                    Effect::Recall => tasks.spawn("read snapshots", async move {
                        let kept = work.recall().await;
                        if let Some(back) = back.upgrade() {
                            _ = back.send(Event::Recalled(kept)).await;
                        }
                    }),
                }
            }
        };
        let (epoch, stop) = (parts.epoch, parts.tasks.token());
        parts.tasks.spawn("composition", async move {
            drive(machine, epoch, received, perform, stop).await;
        });
        parts.tasks.spawn("hear of configurations", async move {
            loop {
                let now = heard.borrow_and_update().clone();
                if events.send(Event::Heard(now)).await.is_err() || heard.changed().await.is_err() {
                    return;
                }
            }
        });
        Self(sender)
    }

    /// Takes note of news of a configuration.
    pub(super) fn hear(&self, key: &ConfigKey, state: &ConfigState) {
        self.0.send_modify(|all| {
            let heard = all.entry(key.clone()).or_default();
            match state {
                ConfigState::Unreachable(why) => heard.unreachable = Some(why.clone()),
                state => {
                    *heard = Heard {
                        state: Some(state.clone()),
                        unreachable: None,
                    }
                }
            }
        });
    }
}

struct Work {
    config: Config,
    means: Means,
    /// What was decrypted last, and what it was, by the words in front of its errors: one configuration can have two names.
    opened: Mutex<BTreeMap<String, (Content, Content)>>,
}

impl Work {
    async fn make(self: &Arc<Self>, sources: &Contents) -> Result<Content, Trouble> {
        let mut clear = BTreeMap::new();
        let several = match &self.config.made_of {
            MadeOf::One(part) => return self.open("", part, sources).await,
            MadeOf::Several { template, parts } => (template, parts),
        };
        for (name, part) in several.1 {
            let label = format!("{name} ({}): ", key_of(part));
            clear.insert(name.clone(), self.open(&label, part, sources).await?);
        }
        let work = Arc::clone(self);
        let sealed = sources.clone();
        // It panicked; the panic was printed, and the file stays as it is.
        let broken = |_| final_trouble("the work was broken off");
        tokio::task::spawn_blocking(move || match &work.config.made_of {
            MadeOf::Several { template, parts } => {
                let mut content = compose(template, parts, &clear)?;
                if work.config.made_of.is_secret() {
                    content.md5 = mark(template, parts, &sealed);
                }
                Ok(content)
            }
            MadeOf::One(_) => Err(final_trouble("there is nothing to compose")),
        })
        .await
        .map_err(broken)?
    }

    /// One configuration, decrypted where it is to be.
    async fn open(&self, label: &str, part: &Part, sources: &Contents) -> Result<Content, Trouble> {
        let key = key_of(part);
        let Some(content) = sources.get(&key) else {
            return Err(final_trouble("a source is missing"));
        };
        let most = self.config.target.max_size;
        if u64::try_from(content.bytes.len()).is_ok_and(|size| size > most) {
            let size = content.bytes.len();
            return Err(final_trouble(format!(
                "{label}the content has {size} bytes; `max_size` is {most}"
            )));
        }
        let Some(command) = &part.decrypt else {
            return Ok(content.clone());
        };
        let before = self.opened().get(label).cloned();
        if let Some((_, clear)) = before.filter(|(sealed, _)| sealed == content) {
            return Ok(clear);
        }
        let clear = deciphering::decrypt(&key, (command, most), content, &self.means.commands)
            .await
            .map_err(|why| Trouble {
                why: format!("{label}{why}"),
                relents: true,
            })?;
        self.opened()
            .insert(label.to_owned(), (content.clone(), clear.clone()));
        Ok(clear)
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Content, Content)>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier run kept.
    async fn recall(self: &Arc<Self>) -> Contents {
        let work = Arc::clone(self);
        let recalled = tokio::task::spawn_blocking(move || {
            let parts: Vec<&Part> = match &work.config.made_of {
                MadeOf::One(part) => vec![part],
                MadeOf::Several { parts, .. } => parts.values().collect(),
            };
            let load = |part| {
                let key = key_of(part);
                let content = work.means.snapshots.load(&key);
                let content = content
                    .inspect_err(|error| tracing::warn!(%error, "a snapshot cannot be used"));
                Some((key, content.ok()??))
            };
            parts.into_iter().filter_map(load).collect()
        });
        recalled.await.unwrap_or_default()
    }
}

/// What the contents of all its configurations make, where none of them has to be decrypted; for whoever only looks. Blocks.
pub(super) fn look(config: &Config, sources: &Contents) -> Result<Content, String> {
    let of = |part| sources.get(&key_of(part)).cloned();
    let made = match &config.made_of {
        MadeOf::One(part) => of(part).ok_or_else(|| final_trouble("a source is missing")),
        MadeOf::Several { template, parts } => {
            let clear = parts
                .iter()
                .filter_map(|(name, part)| Some((name.clone(), of(part)?)))
                .collect();
            compose(template, parts, &clear)
        }
    };
    made.map_err(|trouble| trouble.why)
}

fn final_trouble(why: impl Into<String>) -> Trouble {
    Trouble {
        why: why.into(),
        relents: false,
    }
}

/// What the template makes of the configurations.
fn compose(
    template: &Template,
    parts: &BTreeMap<String, Part>,
    clear: &BTreeMap<String, Content>,
) -> Result<Content, Trouble> {
    let mut sources = BTreeMap::new();
    for (name, part) in parts {
        let key = key_of(part);
        let Some(content) = clear.get(name) else {
            return Err(final_trouble("a source is missing"));
        };
        let format = contents::format_of(content.kind.as_deref(), &part.data_id);
        let value = contents::read(format, &content.bytes)
            .map_err(|mistake| final_trouble(format!("{name} ({key}): {mistake}")))?;
        let text = String::from_utf8_lossy(&content.bytes).into();
        sources.insert(name.clone(), template::Source { text, value });
    }
    let made = template::compose(&template.text, sources);
    let file = template.file.file_name().unwrap_or_default();
    made.map(|text| Content::of(text.into_bytes()))
        .map_err(|error| final_trouble(format!("{}: {error}", file.display())))
}

/// In place of the MD5 of what holds secrets, which would tell whoever guesses them that he is right.
fn mark(template: &Template, parts: &BTreeMap<String, Part>, sealed: &Contents) -> Arc<str> {
    let mut all = md5_hex(template.text.as_bytes());
    for (name, part) in parts {
        let md5 = sealed.get(&key_of(part)).map(|content| &*content.md5);
        all += &format!("\n{name} {}", md5.unwrap_or_default());
    }
    md5_hex(all.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &str) -> ConfigKey {
        ConfigKey {
            namespace: Namespace::public(),
            group: "G".into(),
            data_id: name.into(),
        }
    }

    fn content(text: &str) -> Content {
        Content::of(text.into())
    }

    const LATE: Moment = Duration::from_secs(3);
    const MS: Duration = Duration::from_millis(1);

    /// A composition whose work is done at once by joining the texts; `bad` cannot be made.
    struct World {
        machine: Composition,
        now: Moment,
        heard: AllHeard,
        kept: Contents,
        relents: bool,
        told: Vec<What>,
        makes: usize,
        recalls: usize,
    }

    impl World {
        fn of(names: &[&str]) -> Self {
            let labels = names.iter().map(|name| (key(name), (*name).to_owned()));
            Self {
                machine: Composition::new(labels.collect(), LATE, 7),
                now: Moment::ZERO,
                heard: AllHeard::new(),
                kept: Contents::new(),
                relents: false,
                told: Vec::new(),
                makes: 0,
                recalls: 0,
            }
        }

        fn perform(&mut self) {
            while let Some(effect) = self.machine.effect() {
                let event = match effect {
                    Effect::Tell(what) => {
                        self.told.push(what);
                        continue;
                    }
                    Effect::Recall => {
                        self.recalls += 1;
                        Event::Recalled(self.kept.clone())
                    }
                    Effect::Make(sources) => {
                        self.makes += 1;
                        Event::Made(self.make(&sources))
                    }
                };
                self.machine.handle(self.now, event);
            }
        }

        fn make(&self, sources: &Contents) -> Result<Content, Trouble> {
            let text: Vec<u8> = sources
                .values()
                .flat_map(|one| one.bytes.to_vec())
                .collect();
            match text.windows(3).any(|three| three == b"bad") {
                true => Err(Trouble {
                    why: "bad".to_owned(),
                    relents: self.relents,
                }),
                false => Ok(Content::of(text)),
            }
        }

        fn say(&mut self, name: &str, state: Option<ConfigState>, unreachable: Option<&str>) {
            let unreachable = unreachable.map(str::to_owned);
            self.heard.insert(key(name), Heard { state, unreachable });
            self.machine
                .handle(self.now, Event::Heard(self.heard.clone()));
            self.perform();
        }

        fn publish(&mut self, name: &str, text: &str) {
            self.say(name, Some(ConfigState::Present(content(text))), None);
        }

        /// Lets time pass, waking the machine when it wants to.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(at) = self.machine.deadline().filter(|at| *at <= end) {
                assert!(
                    at >= self.now || self.machine.deadline() != Some(self.now),
                    "it makes time"
                );
                self.now = at.max(self.now);
                self.machine.wake(self.now);
                self.perform();
                let again = self.machine.deadline();
                assert!(
                    again.is_none_or(|again| again > self.now),
                    "a deadline that is over: {again:?}"
                );
            }
            self.now = end;
        }

        fn told(&mut self) -> Vec<What> {
            std::mem::take(&mut self.told)
        }
    }

    fn text(what: &What) -> String {
        match what {
            What::Content {
                content,
                is_remembered,
                ..
            } => {
                let from = if *is_remembered { "old " } else { "" };
                format!("{from}{}", String::from_utf8_lossy(&content.bytes))
            }
            What::Fallback(content) => {
                format!("fallback {}", String::from_utf8_lossy(&content.bytes))
            }
            What::Absent(which) => format!("no {which}"),
            What::Unreachable(why) => format!("away {why}"),
            What::Rejected(why) => format!("rejected {why}"),
        }
    }

    fn texts(whats: &[What]) -> Vec<String> {
        whats.iter().map(text).collect()
    }

    #[test]
    fn nothing_is_made_before_all_are_known_and_a_burst_is_made_once() {
        let mut world = World::of(&["a", "b"]);
        world.publish("a", "1");
        world.pass(MS * 900);
        assert_eq!(world.told(), []);
        world.publish("b", "2");
        world.publish("a", "3");
        world.pass(MS * 20);
        world.publish("b", "4");
        world.pass(Duration::from_secs(1));
        assert_eq!(texts(&world.told()), ["34"]);
        assert_eq!(world.makes, 1);
        // One that changes all the time cannot hold it up for ever.
        for n in 0..40 {
            world.publish("a", &format!("{n};"));
            world.pass(MS * 30);
        }
        assert!((2..=4).contains(&world.makes), "{}", world.makes);
        world.pass(Duration::from_secs(1));
        assert_eq!(texts(&world.told()).last().unwrap(), "39;4");
        assert_eq!(world.recalls, 0);
    }

    #[test]
    fn one_that_is_absent_is_named_and_nothing_is_made() {
        let mut world = World::of(&["a", "b"]);
        world.publish("a", "1");
        world.say("b", Some(ConfigState::Absent), None);
        world.pass(Duration::from_secs(10));
        assert_eq!(texts(&world.told()), ["no b"]);
        world.publish("b", "2");
        world.pass(Duration::from_secs(1));
        assert_eq!(texts(&world.told()), ["12"]);
    }

    #[test]
    fn what_an_earlier_run_kept_takes_the_place_of_what_the_registry_does_not_say() {
        let mut world = World::of(&["a", "b"]);
        world.kept = Contents::from([(key("a"), content("x")), (key("b"), content("y"))]);
        world.publish("a", "1");
        world.say("b", None, Some("refused"));
        world.pass(Duration::from_secs(1));
        // At once, because it is known that nobody answers.
        assert_eq!(texts(&world.told()), ["old 1y"]);
        world.publish("b", "2");
        world.pass(Duration::from_secs(1));
        assert_eq!(texts(&world.told()), ["12"]);

        let mut silent = World::of(&["a"]);
        silent.kept = Contents::from([(key("a"), content("x"))]);
        silent.pass(LATE - MS);
        assert_eq!(silent.told(), []);
        silent.pass(MS * 2);
        assert_eq!(texts(&silent.told()), ["old x"]);

        let mut none = World::of(&["a", "b"]);
        none.publish("a", "1");
        none.say("b", None, Some("refused"));
        none.pass(Duration::from_secs(10));
        assert_eq!(texts(&none.told()).last().unwrap(), "away b: refused");
    }

    #[test]
    fn what_cannot_be_made_is_said_and_the_last_run_stands_in_where_there_is_nothing_yet() {
        let mut world = World::of(&["a", "b"]);
        world.kept = Contents::from([(key("a"), content("x")), (key("b"), content("y"))]);
        world.publish("a", "bad");
        world.publish("b", "2");
        world.pass(Duration::from_secs(100));
        assert_eq!(texts(&world.told()), ["rejected bad", "fallback xy"]);
        assert_eq!(world.makes, 2, "what does not relent is not tried again");
        world.publish("a", "1");
        world.pass(Duration::from_secs(1));
        assert_eq!(texts(&world.told()), ["12"]);
        // From here on the file has what it needs.
        world.publish("a", "bad");
        world.pass(Duration::from_secs(1));
        assert_eq!(texts(&world.told()), ["rejected bad"]);
    }

    #[test]
    fn what_may_be_otherwise_the_next_time_is_tried_with_growing_waits() {
        let mut world = World::of(&["a"]);
        world.relents = true;
        world.publish("a", "bad");
        world.pass(Duration::from_secs(3600));
        let tries = world.makes;
        assert!((60..=300).contains(&tries), "{tries}");
        assert!(
            world
                .told()
                .iter()
                .all(|what| *what == What::Rejected("bad".to_owned()))
        );
        world.publish("a", "1");
        world.pass(MS);
        assert_eq!(texts(&world.told()), ["1"]);
    }

    proptest! {
        /// Whatever happens in whatever order: in the end what was told last is what can be made of what was said last.
        #[test]
        fn what_is_told_last_is_what_there_is(
            steps in prop::collection::vec((0..2_usize, 0..4_u8, 0..400_u64), 1..40),
            kept in any::<bool>(),
        ) {
            let names = ["a", "b"];
            let mut world = World::of(&names);
            if kept {
                world.kept = Contents::from(names.map(|name| (key(name), content(name))));
            }
            for (which, what, wait) in steps {
                let name = names[which];
                match what {
                    0 => world.say(name, Some(ConfigState::Absent), None),
                    1 => world.publish(name, "bad"),
                    2 => {
                        let state = world.heard.get(&key(name)).and_then(|heard| heard.state.clone());
                        world.say(name, state, Some("away"));
                    }
                    _ => world.publish(name, &wait.to_string()),
                }
                world.pass(MS * u32::try_from(wait).unwrap());
            }
            world.pass(Duration::from_secs(10));
            let said: Vec<Option<ConfigState>> = names
                .iter()
                .map(|name| world.heard.get(&key(name)).and_then(|heard| heard.state.clone()))
                .collect();
            let last = world.told().into_iter().rev().find(|what| !matches!(what, What::Fallback(_)));
            match said.as_slice() {
                all if all.contains(&Some(ConfigState::Absent)) => {
                    prop_assert!(matches!(last, Some(What::Absent(_))), "{last:?}");
                }
                [Some(ConfigState::Present(a)), Some(ConfigState::Present(b))] => {
                    let whole = [&a.bytes[..], &b.bytes[..]].concat();
                    match last {
                        Some(What::Content { content, is_remembered, .. }) => {
                            prop_assert!(!is_remembered && content.bytes[..] == whole[..]);
                        }
                        other => prop_assert_eq!(other, Some(What::Rejected("bad".to_owned()))),
                    }
                }
                _ => {
                    let is_old = matches!(last, Some(What::Content { is_remembered: true, .. } | What::Rejected(_)));
                    prop_assert_eq!(is_old, kept, "{:?}", last);
                }
            }
        }
    }
}
