//! Watching configurations over HTTP v1: fetch each once, then hold one long poll for all of them.
//!
//! - A key that is new or was reported as changed is *dirty* and fetched; clean ones are in the poll, each with the MD5 of the
//!   bytes we have. Dirty keys are left out, or the poll would answer at once, for ever. When a key becomes clean, the parked
//!   poll is replaced after a short quiet, so that many keys make one new poll.
//! - 404 is no verdict: a server answers it for 40 to 200 ms after a first publish, and another node for longer. Only the third
//!   in a row, over [`DOUBT`], counts as absent.
//! - A key reported as changed whose content has not changed (a server that compares differently, a stale node) rests with
//!   growing waits, so that no disagreement becomes a tight loop.
//! - Every key is fetched again about every [`RESYNC`], whatever the poll says.
//! - In a cluster a node can miss a change for as long as it is cut off. So each poll goes to the next node, which compares all
//!   keys there; and a content that is older than the one we have is *stale*: other nodes are asked, and it counts only
//!   when most of them say so (or nobody contradicts for [`STALE`]). One node never turns a file back.

use super::model::{ConfigKey, ConfigState, Content};
use super::route::Whom;
use crate::backoff::Backoff;
use crate::backoff::Dice;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Between the questions about a configuration that is said to be missing.
const DOUBT: Duration = Duration::from_millis(400);
/// So many 404 in a row are believed.
const BELIEVED: u32 = 3;
/// Quiet before a parked poll is replaced by one with more keys.
const QUIET: Duration = Duration::from_millis(10);
/// A poll that was answered with nothing sooner was not held.
const HELD: Duration = Duration::from_secs(1);
/// Each key is fetched again this often; up to a quarter more by jitter.
const RESYNC: Duration = Duration::from_secs(240);
/// An older content that nobody contradicts for so long is believed from one node too.
const STALE: Duration = Duration::from_secs(600);
/// Clocks of the nodes of a cluster may differ so much, in seconds: a content that is older by less, and new to us, is new.
const SKEW: u64 = 2;
/// So many earlier contents of a configuration are remembered, to tell an old one from a new one.
const PAST: usize = 8;
/// Over this time the tries of everybody are spread once the registry is back.
const SPREAD: Duration = Duration::from_secs(1);
/// So many keys are fetched at a time.
const FETCHES: usize = 16;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These are wanted from now on, and no others.
    Wanted(BTreeSet<ConfigKey>),
    /// The server of this base URL has this content.
    Fetched(ConfigKey, Content, Arc<str>),
    /// The server said 404.
    NotFound(ConfigKey),
    /// The fetch got no usable answer; says why.
    FetchFailed(ConfigKey, String),
    /// The poll of this number was answered with the keys that changed; none means that the hold was over.
    Answered(u64, Vec<ConfigKey>),
    /// The poll of this number got no usable answer.
    PollFailed(u64),
    /// So many servers are known.
    Servers(usize),
    /// The registry was away and is back.
    Back,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Fetch, here first; one of the three fetch events answers.
    Fetch(ConfigKey, Whom),
    /// Poll with these MD5 (empty: none known), here first, instead of any poll under way; answered with the number.
    Poll(u64, Vec<(ConfigKey, Arc<str>)>, Whom),
    /// Give up the poll under way.
    Cancel,
    /// What is known has changed.
    Tell(ConfigKey, ConfigState),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Absent,
    Md5(Arc<str>),
}

#[derive(Debug)]
struct Entry {
    known: Known,
    /// Being fetched, or waiting for it.
    dirty: bool,
    fetching: bool,
    /// When it is fetched next (dirty: as soon as there is room; clean: by resync).
    fetch_at: Moment,
    /// In the poll only from then on.
    rest_until: Moment,
    missing: u32,
    failures: Backoff,
    idle_reports: Backoff,
    unreachable_told: bool,
    /// When the newest content ever known was published.
    modified: Option<u64>,
    /// MD5 of contents that were known, the newest last.
    past: VecDeque<Arc<str>>,
    doubt: Option<Doubt>,
}

/// A content older than the one we have, and which servers have it.
#[derive(Debug)]
struct Doubt {
    md5: Arc<str>,
    since: Moment,
    servers: BTreeSet<Arc<str>>,
    asked: u32,
}

impl Entry {
    /// Whether `content` was known before, or is older than what is.
    fn is_stale(&self, content: &Content) -> bool {
        let (Some(known), Some(found)) = (self.modified, content.modified) else {
            return false;
        };
        let same = matches!(&self.known, Known::Md5(md5) if *md5 == content.md5);
        !same
            && (found.saturating_add(SKEW) < known
                || found <= known && self.past.contains(&content.md5))
    }

    /// Takes note that `server` has a stale content; whether that is believed now.
    fn doubts(&mut self, now: Moment, content: &Content, server: Arc<str>, servers: usize) -> bool {
        let fresh = || Doubt {
            md5: Arc::clone(&content.md5),
            since: now,
            servers: BTreeSet::new(),
            asked: 0,
        };
        let doubt = self.doubt.get_or_insert_with(fresh);
        if doubt.md5 != content.md5 {
            *doubt = fresh();
        }
        doubt.servers.insert(server);
        doubt.asked = doubt.asked.wrapping_add(1);
        doubt.servers.len() > servers / 2 || now >= doubt.since + STALE
    }
}

/// The machine.
#[derive(Debug)]
pub struct Poll {
    entries: BTreeMap<ConfigKey, Entry>,
    /// Number and keys of the poll under way.
    parked: Option<(u64, BTreeSet<ConfigKey>)>,
    number: u64,
    /// Which server is listened to, counted from the one in use.
    place: u32,
    /// The one in use is listened to always, and others are only asked.
    stays: bool,
    /// Where a key is fetched next that nobody reported; only where listening stays with one node.
    tour: u32,
    servers: usize,
    /// No new poll before: quiet, or the wait after a failure.
    not_before: Moment,
    failures: Backoff,
    /// When the poll under way began.
    began: Moment,
    /// Polls in a row that were answered at once with nothing.
    idle_answers: Backoff,
    dice: Dice,
    due: VecDeque<Effect>,
}

impl Poll {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            parked: None,
            number: 0,
            place: 0,
            stays: false,
            tour: 0,
            servers: 1,
            not_before: Moment::ZERO,
            failures: Backoff::new(Pace::NETWORK, seed),
            began: Moment::ZERO,
            idle_answers: Backoff::new(Pace::NETWORK, seed.rotate_left(7)),
            dice: Dice::new(seed),
            due: VecDeque::new(),
        }
    }

    /// The same, listening to the one node that tells of changes by itself; the slow fetches of what nobody reported go round the
    /// other nodes.
    #[must_use]
    pub fn on_one_node(seed: u64) -> Self {
        Self {
            stays: true,
            ..Self::new(seed)
        }
    }

    fn go_on(&mut self) {
        if !self.stays {
            self.place = self.place.wrapping_add(1);
        }
    }

    /// The keys that belong into a poll at `now`.
    fn clean(&self, now: Moment) -> BTreeSet<ConfigKey> {
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.dirty && entry.rest_until <= now)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Starts what is due: fetches up to the limit, then the poll.
    fn step(&mut self, now: Moment) {
        let mut room = FETCHES.saturating_sub(self.entries.values().filter(|e| e.fetching).count());
        for (key, entry) in &mut self.entries {
            if room > 0 && !entry.fetching && entry.fetch_at <= now {
                room -= 1;
                entry.fetching = true;
                // Doubts are put to the next server, and the next.
                let mut further =
                    entry.missing + entry.doubt.as_ref().map_or(0, |doubt| doubt.asked);
                if self.stays && !entry.dirty {
                    self.tour = self.tour.wrapping_add(1);
                    further = further.wrapping_add(self.tour);
                }
                let whom = Whom::Other(self.place.wrapping_add(further));
                self.due.push_back(Effect::Fetch(key.clone(), whom));
            }
        }
        if self.not_before > now {
            return;
        }
        let clean = self.clean(now);
        match &self.parked {
            Some((_, keys)) if *keys == clean => {}
            Some(_) if clean.is_empty() => {
                self.parked = None;
                self.due.push_back(Effect::Cancel);
            }
            None if clean.is_empty() => {}
            _ => {
                self.number += 1;
                self.began = now;
                let asked = clean
                    .iter()
                    .filter_map(|key| {
                        let md5 = match &self.entries.get(key)?.known {
                            Known::Md5(md5) => Arc::clone(md5),
                            Known::Absent | Known::Nothing => "".into(),
                        };
                        Some((key.clone(), md5))
                    })
                    .collect();
                self.parked = Some((self.number, clean));
                let whom = Whom::Other(self.place);
                self.due.push_back(Effect::Poll(self.number, asked, whom));
            }
        }
    }

    /// A fetch of `key` ended: it is clean, and the poll must take it in after a quiet.
    fn settle(&mut self, now: Moment, key: &ConfigKey, known: Known, state: ConfigState) {
        let quiet = now + QUIET;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.fetching = false;
        entry.missing = 0;
        entry.failures.reset();
        entry.unreachable_told = false;
        entry.doubt = None;
        if let Known::Md5(md5) = &known {
            entry.past.retain(|past| past != md5);
            entry.past.push_back(Arc::clone(md5));
            if entry.past.len() > PAST {
                entry.past.pop_front();
            }
        }
        if entry.known == known {
            if entry.dirty {
                // Whoever reported it has another content, or none of it is true: it would be reported again and again.
                entry.rest_until = now + entry.idle_reports.next_wait();
                if !self.stays {
                    self.place = self.place.wrapping_add(1);
                }
            }
        } else {
            entry.idle_reports.reset();
            entry.known = known;
            self.due.push_back(Effect::Tell(key.clone(), state));
        }
        if entry.dirty {
            entry.dirty = false;
            self.not_before = self.not_before.max(quiet);
        }
        // The jitter comes from the name, so that a thousand keys that were fetched together are not fetched together again.
        let spread = key.data_id.bytes().fold(0_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u32::from(byte))
        });
        entry.fetch_at = now + RESYNC + RESYNC.mul_f64(f64::from(spread % 1000) / 4000.0);
    }
}

impl Machine for Poll {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Wanted(keys) => {
                self.entries.retain(|key, _| keys.contains(key));
                for key in keys {
                    let seed = self.dice.seed();
                    self.entries.entry(key).or_insert_with(|| Entry {
                        known: Known::Nothing,
                        dirty: true,
                        fetching: false,
                        fetch_at: now,
                        rest_until: Moment::ZERO,
                        missing: 0,
                        failures: Backoff::new(Pace::NETWORK, seed),
                        idle_reports: Backoff::new(Pace::NETWORK, !seed),
                        unreachable_told: false,
                        modified: None,
                        past: VecDeque::new(),
                        doubt: None,
                    });
                }
                self.not_before = self.not_before.max(now + QUIET);
            }
            Event::Fetched(key, content, server) => {
                let servers = self.servers;
                let Some(entry) = self.entries.get_mut(&key) else {
                    return;
                };
                if entry.is_stale(&content) && !entry.doubts(now, &content, server, servers) {
                    entry.fetching = false;
                    entry.missing = 0;
                    entry.failures.reset();
                    entry.dirty = true;
                    entry.fetch_at = now + DOUBT.max(entry.idle_reports.next_wait());
                } else {
                    entry.modified = content.modified;
                    let known = Known::Md5(Arc::clone(&content.md5));
                    self.settle(now, &key, known, ConfigState::Present(content));
                }
            }
            Event::NotFound(key) => {
                let Some(entry) = self.entries.get_mut(&key) else {
                    return;
                };
                entry.missing += 1;
                if entry.known == Known::Absent || entry.missing >= BELIEVED {
                    self.settle(now, &key, Known::Absent, ConfigState::Absent);
                } else {
                    entry.fetching = false;
                    entry.fetch_at = now + DOUBT;
                    // Of a key that was never there the poll may tell sooner than the next question. One that was there would be
                    // reported as changed at once, for as long as the doubt lasts.
                    entry.dirty = entry.known != Known::Nothing;
                    self.not_before = self.not_before.max(now + QUIET);
                }
            }
            Event::FetchFailed(key, why) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.fetching = false;
                    entry.fetch_at = now + entry.failures.next_wait();
                    if entry.known == Known::Nothing && !entry.unreachable_told {
                        entry.unreachable_told = true;
                        self.due
                            .push_back(Effect::Tell(key, ConfigState::Unreachable(why)));
                    }
                }
            }
            Event::Answered(number, changed) => {
                let parked = self.parked.take_if(|(parked, _)| *parked == number);
                let Some((_, asked)) = parked else {
                    return;
                };
                self.failures.reset();
                if changed.is_empty() {
                    // The fetch of what changed goes to whoever said so; the next poll without news to the next server.
                    self.go_on();
                }
                for key in changed.iter().filter(|key| asked.contains(key)) {
                    if let Some(entry) = self.entries.get_mut(key) {
                        entry.dirty = true;
                        entry.fetch_at = now;
                    }
                }
                // A server that answers at once without a word, or with keys nobody asked for, is asked less and less often.
                if changed.iter().any(|key| asked.contains(key))
                    || now.saturating_sub(self.began) >= HELD
                {
                    self.idle_answers.reset();
                } else {
                    self.not_before = self.not_before.max(now + self.idle_answers.next_wait());
                }
            }
            Event::PollFailed(number) => {
                if self
                    .parked
                    .take_if(|(parked, _)| *parked == number)
                    .is_some()
                {
                    self.go_on();
                    self.not_before = now + self.failures.next_wait();
                }
            }
            Event::Servers(count) => self.servers = count,
            Event::Back => {
                let soon = now + SPREAD.mul_f64(self.dice.draw());
                // What failed while nobody was there says nothing about the next failure: it is a first one.
                for entry in self.entries.values_mut() {
                    if entry.failures.failures() > 0 {
                        entry.fetch_at = entry.fetch_at.min(soon);
                        entry.failures.reset();
                    }
                }
                if self.failures.failures() > 0 {
                    self.not_before = self.not_before.min(soon);
                    self.failures.reset();
                }
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        let fetching = self.entries.values().filter(|e| e.fetching).count();
        let fetch = self
            .entries
            .values()
            .filter(|entry| !entry.fetching && fetching < FETCHES)
            .map(|entry| entry.fetch_at)
            .min();
        // When the set of clean keys is, or will be, another one than the parked poll has.
        let parked = self.parked.as_ref().map(|(_, keys)| keys);
        let changes = self.entries.iter().filter(|(key, entry)| {
            !entry.dirty && parked.is_none_or(|keys| !keys.contains(key))
                || entry.dirty && parked.is_some_and(|keys| keys.contains(key))
        });
        let fresh = changes
            .map(|(_, entry)| {
                self.not_before.max(if entry.dirty {
                    Moment::ZERO
                } else {
                    entry.rest_until
                })
            })
            .min();
        let gone = parked
            .is_some_and(|keys| keys.iter().any(|key| !self.entries.contains_key(key)))
            .then_some(self.not_before);
        [fetch, fresh, gone].into_iter().flatten().min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;
    use proptest::prelude::*;

    fn key(n: u8) -> ConfigKey {
        ConfigKey {
            namespace: Namespace::public(),
            group: "DEFAULT_GROUP".into(),
            data_id: format!("{n}.yaml").into(),
        }
    }

    fn content(version: u32) -> Content {
        Content {
            bytes: version.to_string().into_bytes().into(),
            md5: version.to_string().into(),
            ..Content::of(Vec::new())
        }
    }

    fn all(keys: impl IntoIterator<Item = u8>) -> Event {
        Event::Wanted(keys.into_iter().map(key).collect())
    }

    fn fetch(n: u8, place: u32) -> Effect {
        Effect::Fetch(key(n), Whom::Other(place))
    }

    fn fetched(n: u8, version: u32) -> Event {
        Event::Fetched(key(n), content(version), "a".into())
    }

    fn effects(poll: &mut Poll) -> Vec<Effect> {
        std::iter::from_fn(|| poll.effect()).collect()
    }

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_poll_holds_all_keys_once_they_are_fetched() {
        let mut poll = Poll::new(1);
        poll.handle(ms(0), all([1, 2]));
        assert_eq!(effects(&mut poll), [fetch(1, 0), fetch(2, 0)]);
        poll.handle(ms(1), fetched(1, 7));
        poll.handle(ms(2), fetched(2, 8));
        assert_eq!(effects(&mut poll).len(), 2, "both are told");
        let quiet = poll.deadline().unwrap();
        poll.wake(quiet);
        assert_eq!(
            effects(&mut poll),
            [Effect::Poll(
                1,
                vec![(key(1), "7".into()), (key(2), "8".into())],
                Whom::Other(0)
            )]
        );
        poll.handle(ms(900), Event::Answered(1, vec![key(2)]));
        assert_eq!(effects(&mut poll)[0], fetch(2, 0));
    }

    #[test]
    fn a_404_right_after_a_publish_is_not_believed() {
        let mut poll = Poll::new(1);
        poll.handle(ms(0), all([1]));
        effects(&mut poll);
        poll.handle(ms(1), Event::NotFound(key(1)));
        assert_eq!(effects(&mut poll), []);
        poll.wake(poll.deadline().unwrap());
        assert_eq!(
            effects(&mut poll),
            [Effect::Poll(1, vec![(key(1), "".into())], Whom::Other(0))],
            "meanwhile the poll waits for it"
        );
        poll.wake(poll.deadline().unwrap());
        assert_eq!(effects(&mut poll), [fetch(1, 1)]);
        poll.handle(ms(500), fetched(1, 1));
        assert_eq!(
            effects(&mut poll),
            [Effect::Tell(key(1), ConfigState::Present(content(1)))]
        );
    }

    /// Version `version` of configuration 1, published at that second, as `server` has it.
    fn published(version: u32, at: u64, server: &str) -> Event {
        let content = Content {
            modified: Some(at),
            ..content(version)
        };
        Event::Fetched(key(1), content, server.into())
    }

    /// A poll in a cluster of three that knows version 2, published at second 1000, and was told of a change.
    fn told_of_a_change() -> Poll {
        let mut poll = Poll::new(1);
        poll.handle(ms(0), Event::Servers(3));
        poll.handle(ms(0), all([1]));
        poll.handle(ms(1), published(1, 900, "a"));
        poll.wake(ms(20));
        poll.handle(ms(30), Event::Answered(1, vec![key(1)]));
        poll.handle(ms(31), published(2, 1000, "a"));
        poll.wake(ms(60_000));
        effects(&mut poll);
        poll.handle(ms(60_000), Event::Answered(2, vec![key(1)]));
        assert_eq!(effects(&mut poll), [fetch(1, 0)]);
        poll
    }

    #[test]
    fn a_node_with_old_content_never_turns_a_file_back() {
        let mut poll = told_of_a_change();
        poll.handle(ms(60_001), published(1, 900, "b"));
        assert_eq!(effects(&mut poll), [], "one node's word");
        poll.wake(ms(90_000));
        assert_eq!(effects(&mut poll), [fetch(1, 1)], "the next one is asked");
        poll.handle(ms(90_001), published(2, 1000, "c"));
        poll.wake(ms(200_000));
        let effects = effects(&mut poll);
        assert!(
            matches!(&effects[..], [Effect::Poll(_, _, Whom::Other(1))]),
            "the node with the old content is listened to no more: {effects:?}"
        );
    }

    #[test]
    fn an_old_content_that_most_nodes_have_is_what_the_registry_has() {
        let mut poll = told_of_a_change();
        poll.handle(ms(60_001), published(1, 900, "b"));
        poll.wake(ms(90_000));
        effects(&mut poll);
        poll.handle(ms(90_001), published(1, 900, "b"));
        assert_eq!(
            effects(&mut poll),
            [],
            "the same node again is no other one"
        );
        poll.wake(ms(180_000));
        effects(&mut poll);
        poll.handle(ms(180_001), published(1, 900, "c"));
        let told = effects(&mut poll);
        assert!(matches!(&told[..], [Effect::Tell(..)]), "{told:?}");
    }

    #[test]
    fn a_content_that_was_published_again_is_new() {
        let mut poll = told_of_a_change();
        poll.handle(ms(60_001), published(1, 1060, "b"));
        assert!(matches!(&effects(&mut poll)[..], [Effect::Tell(..)]));
        // Clocks of two nodes differ a little.
        let mut poll = told_of_a_change();
        poll.handle(ms(60_001), published(3, 999, "b"));
        assert!(matches!(&effects(&mut poll)[..], [Effect::Tell(..)]));
    }

    #[test]
    fn a_single_server_is_believed_whatever_it_says() {
        let mut poll = told_of_a_change();
        poll.handle(ms(60_000), Event::Servers(1));
        poll.handle(ms(60_001), published(1, 900, "a"));
        assert!(matches!(&effects(&mut poll)[..], [Effect::Tell(..)]));
    }

    #[test]
    fn each_poll_without_news_goes_to_the_next_node() {
        let mut poll = Poll::new(1);
        poll.handle(ms(0), all([1]));
        poll.handle(ms(1), published(1, 900, "a"));
        let mut now = ms(20);
        let mut places = Vec::new();
        for _ in 0..4 {
            poll.wake(now);
            for effect in effects(&mut poll) {
                if let Effect::Poll(number, _, whom) = effect {
                    places.push(whom);
                    now += Duration::from_millis(29_500);
                    poll.handle(now, Event::Answered(number, Vec::new()));
                }
            }
            now += ms(1);
        }
        assert_eq!(places[..3], [0, 1, 2].map(Whom::Other));
    }

    #[test]
    fn a_server_that_reports_changes_that_are_none_is_asked_less_and_less_often() {
        let mut poll = Poll::new(1);
        poll.handle(ms(0), all([1]));
        let (mut now, mut polls) = (ms(0), 0);
        while now < Duration::from_secs(300) {
            for effect in effects(&mut poll) {
                match effect {
                    Effect::Fetch(key, _) => {
                        poll.handle(now, Event::Fetched(key, content(1), "a".into()));
                    }
                    Effect::Poll(number, keys, _) => {
                        polls += 1;
                        let keys = keys.into_iter().map(|(key, _)| key).collect();
                        poll.handle(now, Event::Answered(number, keys));
                    }
                    Effect::Cancel | Effect::Tell(..) => {}
                }
            }
            if poll.due.is_empty() {
                now = now.max(poll.deadline().unwrap());
                poll.wake(now);
            }
        }
        assert!(polls < 80, "{polls} polls in 5 minutes");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wanted(Vec<u8>),
        Publish(u8, u32),
        Delete(u8),
        /// Answers one call under way: which, and how (0 truth, 1 failure, 2 a 404).
        Answer(usize, u8),
        Sleep(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::vec(1_u8..5, 0..4).prop_map(Step::Wanted),
            (1_u8..5, 1_u32..9).prop_map(|(n, v)| Step::Publish(n, v)),
            (1_u8..5).prop_map(Step::Delete),
            (0_usize..8, 0_u8..3).prop_map(|(which, how)| Step::Answer(which, how)),
            (0_u64..2000).prop_map(Step::Sleep),
        ]
    }

    type Parked = (u64, Vec<(ConfigKey, Arc<str>)>);

    /// A server and the calls under way to it.
    #[derive(Default)]
    struct World {
        stored: BTreeMap<u8, u32>,
        fetches: Vec<ConfigKey>,
        parked: Option<Parked>,
        told: BTreeMap<ConfigKey, ConfigState>,
    }

    impl World {
        fn number(key: &ConfigKey) -> u8 {
            key.data_id.trim_end_matches(".yaml").parse().unwrap()
        }

        fn carry_out(&mut self, poll: &mut Poll) {
            while let Some(effect) = poll.effect() {
                match effect {
                    Effect::Fetch(key, _) => {
                        assert!(
                            !self.fetches.contains(&key),
                            "two fetches of {key} at a time"
                        );
                        self.fetches.push(key);
                    }
                    Effect::Poll(number, keys, _) => self.parked = Some((number, keys)),
                    Effect::Cancel => self.parked = None,
                    Effect::Tell(key, state) => {
                        assert_ne!(self.told.get(&key), Some(&state), "told twice");
                        self.told.insert(key, state);
                    }
                }
            }
        }

        fn fetched(&self, key: ConfigKey) -> Event {
            match self.stored.get(&Self::number(&key)) {
                Some(version) => Event::Fetched(key, content(*version), "a".into()),
                None => Event::NotFound(key),
            }
        }

        fn changed(&self, keys: &[(ConfigKey, Arc<str>)]) -> Vec<ConfigKey> {
            let md5 = |key: &ConfigKey| {
                self.stored
                    .get(&Self::number(key))
                    .map_or(String::new(), ToString::to_string)
            };
            keys.iter()
                .filter(|(key, known)| md5(key) != **known)
                .map(|(key, _)| key.clone())
                .collect()
        }

        /// Lets an honest server answer everything for `period`.
        fn calm(&mut self, poll: &mut Poll, now: &mut Moment, period: Duration) {
            let end = *now + period;
            while *now < end {
                self.carry_out(poll);
                if let Some(key) = self.fetches.pop() {
                    let event = self.fetched(key);
                    poll.handle(*now, event);
                    continue;
                }
                if let Some((number, keys)) = &self.parked {
                    let changed = self.changed(keys);
                    if !changed.is_empty() {
                        let number = *number;
                        self.parked = None;
                        poll.handle(*now, Event::Answered(number, changed));
                        continue;
                    }
                }
                let next = poll.deadline().unwrap_or(end);
                *now = (*now).max(next.min(end));
                poll.wake(*now);
            }
        }
    }

    #[test]
    fn a_server_that_does_not_hold_is_polled_less_and_less_often() {
        let mut poll = Poll::new(7);
        let mut now = Moment::ZERO;
        poll.handle(now, Event::Wanted([key(1)].into()));
        let mut polls = 0;
        while now < Duration::from_secs(300) {
            while let Some(effect) = poll.effect() {
                match effect {
                    Effect::Fetch(key, _) => poll.handle(now, Event::NotFound(key)),
                    Effect::Poll(number, ..) => {
                        polls += 1;
                        poll.handle(now, Event::Answered(number, vec![key(9)]));
                    }
                    Effect::Cancel | Effect::Tell(..) => {}
                }
            }
            now = poll.deadline().unwrap().max(now);
            poll.wake(now);
        }
        assert!((5..60).contains(&polls), "{polls} polls in five minutes");
    }

    #[test]
    fn a_configuration_that_is_busy_right_after_the_registry_returned_is_asked_for_again_soon() {
        let mut poll = Poll::new(1);
        let mut now = Moment::ZERO;
        poll.handle(now, all([1]));
        let failed = || Event::FetchFailed(key(1), "connection refused".to_owned());
        for _ in 0..20 {
            effects(&mut poll);
            poll.handle(now, failed());
            now = poll.deadline().unwrap();
            poll.wake(now);
        }
        effects(&mut poll);
        poll.handle(now, failed());
        poll.handle(now, Event::Back);
        now = poll.deadline().unwrap();
        poll.wake(now);
        assert_eq!(effects(&mut poll).len(), 1);
        poll.handle(now, failed());
        assert!(poll.deadline().unwrap() <= now + Pace::NETWORK.base);
    }

    proptest! {
        #[test]
        fn what_is_told_becomes_what_the_server_has(seed: u64, steps in prop::collection::vec(step(), 0..100)) {
            let (mut poll, mut world, mut now) = (Poll::new(seed), World::default(), Moment::ZERO);
            let mut wanted = BTreeSet::new();
            for step in steps {
                world.carry_out(&mut poll);
                match step {
                    Step::Wanted(keys) => {
                        wanted = keys.iter().map(|n| key(*n)).collect();
                        poll.handle(now, Event::Wanted(wanted.clone()));
                        // The shell gives up the calls of keys that are not wanted any more.
                        world.fetches.retain(|key| wanted.contains(key));
                        world.told.retain(|key, _| wanted.contains(key));
                    }
                    Step::Publish(n, version) => { world.stored.insert(n, version); }
                    Step::Delete(n) => { world.stored.remove(&n); }
                    Step::Answer(which, how) if which < world.fetches.len() => {
                        let key = world.fetches.remove(which);
                        let event = match how {
                            0 => world.fetched(key),
                            1 => Event::FetchFailed(key, "no".into()),
                            _ => Event::NotFound(key),
                        };
                        poll.handle(now, event);
                    }
                    Step::Answer(_, how) => if let Some((number, keys)) = world.parked.take() {
                        let event = match how {
                            1 => Event::PollFailed(number),
                            _ => Event::Answered(number, world.changed(&keys)),
                        };
                        poll.handle(now, event);
                    },
                    Step::Sleep(ms) => {
                        now += Duration::from_millis(ms);
                        poll.wake(now);
                    }
                }
            }
            world.calm(&mut poll, &mut now, Duration::from_secs(120));
            for key in wanted {
                let truth = match world.stored.get(&World::number(&key)) {
                    Some(version) => ConfigState::Present(content(*version)),
                    None => ConfigState::Absent,
                };
                prop_assert_eq!(world.told.get(&key), Some(&truth));
            }
        }
    }
}
