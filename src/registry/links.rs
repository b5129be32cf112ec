//! The gRPC connections: which of them are clients, and which have fallen silent.
//!
//! The TCP connection is the client, its stream only the way to it: a stream that ends stops what is pushed and nothing else. A
//! connection becomes a client with the setup on a stream. Who was silent for [`IDLE`] is asked whether he is there; the look is
//! taken every [`LOOK`], so that ten thousand silent ones are one wake and not ten thousand. Who does not answer within
//! [`DETECT`] is no client any more, though his connection stays. A connection that is no client and does nothing is closed.

use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Clients at most.
pub(crate) const CLIENTS: usize = 10_000;
/// Silence after which a client is asked whether it is there.
const IDLE: Duration = Duration::from_secs(20);
/// How often that is looked for.
const LOOK: Duration = Duration::from_secs(3);
/// How long the answer may take.
const DETECT: Duration = Duration::from_secs(5);
/// How long a connection that is no client may do nothing.
const USELESS: Duration = Duration::from_secs(60);

/// Which connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// Which stream; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connection came; what it is called.
    Came { link: Link, id: Arc<str> },
    /// It was set up over a stream, and may name services or not.
    SetUp {
        link: Link,
        stream: Stream,
        naming: bool,
    },
    /// A request or an answer came over it.
    Heard(Link),
    /// A stream of it ended.
    StreamEnded { link: Link, stream: Stream },
    /// It was told something too often without saying that it was told.
    GivenUp(Link),
    /// It is gone.
    Closed(Link),
    /// The registry stops, or stops being a server for whom it knows.
    AllEnded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask whether it is there.
    Detect(Link, Stream),
    /// It is no client any more: what is its own must go.
    Forget(Link),
    /// End a stream of it.
    EndStream(Link, Stream),
    /// Close it: it is of no use.
    Close(Link),
}

#[derive(Clone, Debug)]
struct Client {
    naming: bool,
    stream: Option<Stream>,
    /// It was asked whether it is there, and has not been heard since.
    asked: bool,
}

#[derive(Clone, Debug)]
struct Known {
    id: Arc<str>,
    heard: Moment,
    client: Option<Client>,
    /// Its one entry among those due; `None` when it is being closed.
    due: Option<Moment>,
}

/// All connections.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    known: BTreeMap<Link, Known>,
    /// At most so many are clients.
    most: usize,
    clients: usize,
    due: BTreeSet<(Moment, Link)>,
    effects: VecDeque<Effect>,
}

/// When a silence that is long enough at `at` is seen.
fn looked_at(at: Moment) -> Moment {
    let look = LOOK.as_millis();
    let looks = at.as_millis().div_ceil(look);
    u64::try_from(looks * look).map_or(Moment::MAX, Duration::from_millis)
}

impl Links {
    /// None.
    pub(crate) fn new() -> Self {
        Self {
            known: BTreeMap::new(),
            most: CLIENTS,
            clients: 0,
            due: BTreeSet::new(),
            effects: VecDeque::new(),
        }
    }

    /// From now on so many clients at most are taken; those that are there stay.
    pub(crate) fn limit(&mut self, most: usize) {
        self.most = most.min(CLIENTS);
    }

    /// What a connection is called.
    pub(crate) fn id(&self, link: Link) -> Option<&str> {
        self.known.get(&link).map(|known| &*known.id)
    }

    fn client(&self, link: Link) -> Option<&Client> {
        self.known.get(&link)?.client.as_ref()
    }

    /// Whether it was set up.
    pub(crate) fn is_client(&self, link: Link) -> bool {
        self.client(link).is_some()
    }

    /// Whether it was set up to name services.
    pub(crate) fn names(&self, link: Link) -> bool {
        self.client(link).is_some_and(|client| client.naming)
    }

    /// Where it is pushed to.
    pub(crate) fn stream(&self, link: Link) -> Option<Stream> {
        self.client(link)?.stream
    }

    /// The clients.
    pub(crate) fn clients(&self) -> impl Iterator<Item = Link> + '_ {
        let client = |(link, known): (&Link, &Known)| known.client.as_ref().map(|_| *link);
        self.known.iter().filter_map(client)
    }

    /// Which connection that names services is called so.
    pub(crate) fn find(&self, id: &str) -> Option<Link> {
        let named = |known: &Known| {
            let client = known.client.as_ref();
            client.is_some_and(|client| client.naming) && &*known.id == id
        };
        self.known
            .iter()
            .find(|(_, known)| named(known))
            .map(|(link, _)| *link)
    }

    /// What the clients that name services are called.
    pub(crate) fn namers(&self) -> impl Iterator<Item = &str> {
        let named = |known: &&Known| known.client.as_ref().is_some_and(|client| client.naming);
        self.known.values().filter(named).map(|known| &*known.id)
    }

    /// All connections: what each is called, when it was heard last, and whether it is a client.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (Link, &str, Moment, bool)> {
        self.known
            .iter()
            .map(|(link, known)| (*link, &*known.id, known.heard, known.client.is_some()))
    }

    /// All connections.
    pub(crate) fn all(&self) -> impl Iterator<Item = Link> + '_ {
        self.known.keys().copied()
    }

    fn plan(&mut self, link: Link, due: Option<Moment>) {
        let Some(known) = self.known.get_mut(&link) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut known.due, due) {
            self.due.remove(&(old, link));
        }
        if let Some(due) = due {
            self.due.insert((due, link));
        }
    }

    /// Takes the client from a connection; what it was.
    fn forget(&mut self, link: Link) -> Option<Client> {
        let client = self.known.get_mut(&link)?.client.take()?;
        self.clients -= 1;
        self.effects.push_back(Effect::Forget(link));
        Some(client)
    }

    /// Makes a client a connection that is none.
    fn end(&mut self, link: Link, now: Moment) {
        let Some(client) = self.forget(link) else {
            return;
        };
        if let Some(stream) = client.stream {
            self.effects.push_back(Effect::EndStream(link, stream));
        }
        if let Some(known) = self.known.get_mut(&link) {
            known.heard = now;
        }
        self.plan(link, Some(now.saturating_add(USELESS)));
    }

    fn look(&mut self, now: Moment, link: Link) {
        let Some(known) = self.known.get_mut(&link) else {
            return;
        };
        let heard = known.heard;
        match &mut known.client {
            None if heard.saturating_add(USELESS) <= now => {
                self.effects.push_back(Effect::Close(link));
                self.plan(link, None);
            }
            None => self.plan(link, Some(heard.saturating_add(USELESS))),
            Some(client) if client.asked => self.end(link, now),
            Some(client) if heard.saturating_add(IDLE) <= now => {
                client.asked = true;
                if let Some(stream) = client.stream {
                    self.effects.push_back(Effect::Detect(link, stream));
                }
                self.plan(link, Some(now.saturating_add(DETECT)));
            }
            Some(_) => self.plan(link, Some(looked_at(heard.saturating_add(IDLE)))),
        }
    }
}

impl Machine for Links {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Came { link, id } => {
                let known = Known {
                    id,
                    heard: now,
                    client: None,
                    due: None,
                };
                self.known.insert(link, known);
                self.plan(link, Some(now.saturating_add(USELESS)));
            }
            Event::SetUp {
                link,
                stream,
                naming,
            } => {
                let full = self.clients >= self.most;
                let Some(known) = self
                    .known
                    .get_mut(&link)
                    .filter(|known| known.due.is_some() && (known.client.is_some() || !full))
                else {
                    self.effects.push_back(Effect::EndStream(link, stream));
                    return;
                };
                known.heard = now;
                let client = Client {
                    naming,
                    stream: Some(stream),
                    asked: false,
                };
                match known.client.replace(client) {
                    None => self.clients += 1,
                    Some(old) => {
                        let old = old.stream.filter(|old| *old != stream);
                        let ended = old.map(|old| Effect::EndStream(link, old));
                        self.effects.extend(ended);
                    }
                }
                self.plan(link, Some(looked_at(now.saturating_add(IDLE))));
            }
            Event::Heard(link) => {
                // Its entry stays where it is: the look finds that it has been heard.
                if let Some(known) = self.known.get_mut(&link) {
                    known.heard = now;
                    if let Some(client) = &mut known.client {
                        client.asked = false;
                    }
                }
            }
            Event::StreamEnded { link, stream } => {
                if let Some(known) = self.known.get_mut(&link)
                    && let Some(client) = &mut known.client
                    && client.stream == Some(stream)
                {
                    client.stream = None;
                }
            }
            Event::GivenUp(link) => self.end(link, now),
            Event::Closed(link) => {
                self.forget(link);
                self.plan(link, None);
                self.known.remove(&link);
            }
            Event::AllEnded => {
                let clients: Vec<Link> = self.clients().collect();
                for link in clients {
                    self.end(link, now);
                }
            }
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, link)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            if let Some(known) = self.known.get_mut(&link) {
                known.due = None;
            }
            self.look(now, link);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn came(link: u64) -> Event {
        Event::Came {
            link: Link(link),
            id: "1_127.0.0.1_1".into(),
        }
    }

    fn set_up(link: u64, stream: u64) -> Event {
        Event::SetUp {
            link: Link(link),
            stream: Stream(stream),
            naming: true,
        }
    }

    /// Runs to `until`, waking exactly at each deadline; what came out and when.
    fn run(links: &mut Links, until: Moment) -> Vec<(Moment, Effect)> {
        let mut out = Vec::new();
        while let Some(at) = links.deadline().filter(|at| *at <= until) {
            links.wake(at);
            while let Some(effect) = links.effect() {
                out.push((at, effect));
            }
        }
        out
    }

    #[test]
    fn who_is_silent_is_asked_at_the_next_look_after_20_s_and_gone_5_s_later() {
        let mut links = Links::new();
        links.handle(s(1), came(7));
        links.handle(s(2), set_up(7, 1));
        let (link, stream) = (Link(7), Stream(1));
        assert_eq!(
            run(&mut links, s(100)),
            [
                (s(24), Effect::Detect(link, stream)),
                (s(29), Effect::Forget(link)),
                (s(29), Effect::EndStream(link, stream)),
                (s(89), Effect::Close(link)),
            ]
        );
        assert!(!links.is_client(link));
        assert_eq!(links.deadline(), None);
    }

    #[test]
    fn who_answers_is_left_alone_and_a_stream_that_ends_changes_nothing() {
        let mut links = Links::new();
        links.handle(s(0), came(7));
        links.handle(s(0), set_up(7, 1));
        let ended = Event::StreamEnded {
            link: Link(7),
            stream: Stream(1),
        };
        links.handle(s(1), ended);
        for beat in 1..30 {
            assert_eq!(run(&mut links, s(beat * 15)), []);
            links.handle(s(beat * 15), Event::Heard(Link(7)));
        }
        assert!(links.is_client(Link(7)));
        assert_eq!(links.stream(Link(7)), None);
    }

    #[test]
    fn beyond_the_limit_a_setup_ends_its_stream_and_who_is_in_stays() {
        let mut links = Links::new();
        links.limit(1);
        for link in [1, 2] {
            links.handle(s(0), came(link));
            links.handle(s(0), set_up(link, link));
        }
        assert_eq!(links.effect(), Some(Effect::EndStream(Link(2), Stream(2))));
        assert!(links.is_client(Link(1)) && !links.is_client(Link(2)));
        links.handle(s(0), set_up(1, 3));
        assert_eq!(
            links.effect(),
            Some(Effect::EndStream(Link(1), Stream(1))),
            "another stream takes the place of the first"
        );
        assert_eq!(links.stream(Link(1)), Some(Stream(3)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Come(u64),
        SetUp(u64),
        Hear(u64),
        EndStream(u64),
        Close(u64),
        Stop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let link = 0..4_u64;
        let step = prop_oneof![
            4 => (1..30_u64).prop_map(Step::Wait),
            2 => link.clone().prop_map(Step::Come),
            3 => link.clone().prop_map(Step::SetUp),
            3 => link.clone().prop_map(Step::Hear),
            1 => link.clone().prop_map(Step::EndStream),
            1 => link.prop_map(Step::Close),
            1 => Just(Step::Stop),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn a_client_is_forgotten_once_and_only_after_a_silence_or_an_end(steps in steps()) {
            let (mut links, mut now, mut streams) = (Links::new(), Moment::ZERO, 0);
            links.limit(3);
            // Who is connected, when it was heard last, and whether it is a client.
            let mut model: BTreeMap<u64, (Moment, bool)> = BTreeMap::new();
            for step in steps.into_iter().chain([Step::Wait(500)]) {
                match step {
                    Step::Wait(by) => {
                        let until = now + s(by);
                        for (at, effect) in run(&mut links, until) {
                            match effect {
                                Effect::Forget(Link(link)) => {
                                    let (heard, client) = model.get_mut(&link).unwrap();
                                    prop_assert!(*client && *heard + s(25) <= at && at < *heard + s(28) + Duration::from_millis(1));
                                    (*heard, *client) = (at, false);
                                }
                                Effect::Close(Link(link)) => {
                                    let (heard, client) = model[&link];
                                    prop_assert!(!client && heard + s(60) <= at);
                                }
                                Effect::Detect(Link(link), _) => prop_assert!(model[&link].0 + s(20) <= at),
                                Effect::EndStream(..) => {}
                            }
                        }
                        now = until;
                    }
                    Step::Come(link) => {
                        if model.contains_key(&link) { continue; }
                        links.handle(now, came(link));
                        model.insert(link, (now, false));
                    }
                    Step::SetUp(link) => {
                        streams += 1;
                        let closing = links.known.get(&Link(link)).is_none_or(|known| known.due.is_none());
                        let clients = model.values().filter(|(_, client)| *client).count();
                        links.handle(now, set_up(link, streams));
                        if let Some((heard, client)) = model.get_mut(&link)
                            && !closing && (*client || clients < 3)
                        {
                            (*heard, *client) = (now, true);
                        }
                    }
                    Step::Hear(link) => {
                        links.handle(now, Event::Heard(Link(link)));
                        if let Some((heard, _)) = model.get_mut(&link) { *heard = now; }
                    }
                    Step::EndStream(link) => {
                        if let Some(stream) = links.stream(Link(link)) {
                            links.handle(now, Event::StreamEnded { link: Link(link), stream });
                        }
                    }
                    Step::Close(link) => {
                        links.handle(now, Event::Closed(Link(link)));
                        model.remove(&link);
                    }
                    Step::Stop => {
                        links.handle(now, Event::AllEnded);
                        for (heard, client) in model.values_mut() {
                            if *client { (*heard, *client) = (now, false); }
                        }
                    }
                }
                while links.effect().is_some() {}
                prop_assert!(links.clients().map(|link| link.0).eq(
                    model.iter().filter(|(_, (_, client))| *client).map(|(link, _)| *link)));
                prop_assert_eq!(links.clients, links.clients().count());
                prop_assert_eq!(links.due.len(), links.known.values().filter(|known| known.due.is_some()).count());
            }
            // Left alone, nobody is a client and nothing is left to wake for.
            prop_assert_eq!(links.deadline(), None);
            prop_assert_eq!(links.clients, 0);
        }
    }
}
