//! Who is to be told over UDP when a service changes: clients of HTTP v1, who ask for it with each list.
//!
//! A subscription is of a port at the address that asked over TCP, whatever the request says of addresses: nobody is sent anything
//! who has not been here. Changes within a short delay are one datagram. What is not acknowledged is sent once more
//! after [`AGAIN`], the same, and then left: the client looks by itself. A subscription lives as long as its client goes on asking:
//! like 1.4 each by itself, and those of one service in other clusters apart; later all of one port together, the last word on clusters counts.
//! Datagrams are paced to [`RATE`], and subscriptions bounded: who finds no room is not pushed, and told to look again sooner.
//! The machine knows no contents.

use crate::machine::Machine;
use crate::machine::Moment;
use crate::nacos::model::ServiceKey;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Ports of one address at most.
pub(crate) const PORTS: usize = 128;
/// Services of one port at most.
pub(crate) const SERVICES: usize = 1_000;
/// Subscriptions of all at most.
pub(crate) const ALL: usize = 10_000;
/// Datagrams a second at most, all together.
pub(crate) const RATE: u32 = 2_000;
/// How long an acknowledgement is waited for, as the original does.
const AGAIN: Duration = Duration::from_secs(10);
/// Bytes of what a client says of itself and of what it wants at most.
const SAID: usize = 2_048;
/// Bytes of an acknowledgement at most; those of all clients are a tenth of it.
const ACKNOWLEDGEMENT: usize = 1024;

/// How it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How long changes are gathered.
    pub(crate) delay: Duration,
    /// Whether who asks for the first time is told too, without a change.
    pub(crate) greets: bool,
    /// Subscriptions of one port stand each by itself.
    pub(crate) apart: bool,
}

/// What a client wants, and what he calls himself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) service: ServiceKey,
    pub(crate) clusters: Arc<str>,
    pub(crate) agent: Arc<str>,
    pub(crate) app: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client wants to be told, for so long unless it asks again.
    Asked {
        peer: SocketAddr,
        wish: Wish,
        life: Duration,
    },
    /// A service changed.
    Changed(ServiceKey),
    /// A datagram of this number was acknowledged.
    Acknowledged { peer: SocketAddr, number: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Tell a client.
    Push {
        peer: SocketAddr,
        wish: Wish,
        number: u64,
        /// When this was to be told for the first time: once more is the same.
        at: Moment,
    },
}

/// Of which service; and of which clusters, where these stand apart.
type Topic = (ServiceKey, Arc<str>);

/// What is told: of which service, which clusters, and how the client calls itself.
type Told = (ServiceKey, Arc<str>, Arc<str>);

#[derive(Clone, Debug)]
struct Subscription {
    wish: Wish,
    until: Moment,
    /// Its one entry among those due.
    due: Option<Moment>,
    /// Tries of what is being told, the number of it, and since when; no tries before the first.
    tries: u32,
    number: u64,
    at: Moment,
}

#[derive(Clone, Debug)]
struct Client {
    until: Moment,
    subscriptions: BTreeMap<Topic, Subscription>,
}

/// All subscriptions.
#[derive(Clone, Debug)]
pub(crate) struct Udp {
    manner: Manner,
    clients: BTreeMap<SocketAddr, Client>,
    count: usize,
    askers: BTreeMap<ServiceKey, BTreeSet<(SocketAddr, Arc<str>)>>,
    /// What is waited for.
    sent: BTreeMap<(SocketAddr, u64), Topic>,
    due: BTreeSet<(Moment, SocketAddr, Topic)>,
    /// When to look whose time is over; his may have been prolonged.
    ends: BTreeSet<(Moment, SocketAddr)>,
    /// The numbers of this moment: who is told the same then is told it under one, so that it is written once.
    round: (Moment, BTreeMap<Told, u64>),
    /// The second of which datagrams are counted, and how many it had.
    second: (u64, u32),
    /// Nobody is told for now.
    pub(crate) held: bool,
    next: u64,
    effects: VecDeque<Effect>,
}

impl Udp {
    /// Nobody wants anything.
    pub(crate) fn new(manner: Manner) -> Self {
        Self {
            manner,
            clients: BTreeMap::new(),
            count: 0,
            askers: BTreeMap::new(),
            sent: BTreeMap::new(),
            due: BTreeSet::new(),
            ends: BTreeSet::new(),
            round: (Moment::ZERO, BTreeMap::new()),
            second: (0, 0),
            held: false,
            next: 1,
            effects: VecDeque::new(),
        }
    }

    /// Everybody is forgotten; numbers go on.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            next: self.next,
            ..Self::new(self.manner)
        };
    }

    fn topic(&self, wish: &Wish) -> Topic {
        let clusters = if self.manner.apart {
            &*wish.clusters
        } else {
            ""
        };
        (wish.service.clone(), clusters.into())
    }

    /// Whether this may be asked for: it is asked for already, or there is room.
    pub(crate) fn has_room(&self, peer: SocketAddr, wish: &Wish) -> bool {
        let said = [
            wish.service.grouped().len(),
            wish.clusters.len(),
            wish.agent.len(),
            wish.app.len(),
        ];
        if said.into_iter().sum::<usize>() > SAID {
            return false;
        }
        let client = self.clients.get(&peer);
        if client.is_some_and(|client| client.subscriptions.contains_key(&self.topic(wish))) {
            return true;
        }
        let at = |port| SocketAddr::new(peer.ip(), port);
        let ports = || self.clients.range(at(0)..=at(u16::MAX)).count();
        let room = match client {
            Some(client) => client.subscriptions.len() < SERVICES,
            None => ports() < PORTS,
        };
        room && self.count < ALL
    }

    /// How many subscriptions there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Who has subscribed to a service.
    pub(crate) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = (SocketAddr, &Wish)> {
        let askers = self.askers.get(service).into_iter().flatten();
        askers.filter_map(|(peer, clusters)| {
            let topic = (service.clone(), Arc::clone(clusters));
            let subscription = self.clients.get(peer)?.subscriptions.get(&topic)?;
            Some((*peer, &subscription.wish))
        })
    }

    /// The services that somebody has subscribed to.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.askers.keys()
    }

    /// Who has subscribed, and to what.
    pub(crate) fn all(&self) -> impl Iterator<Item = (SocketAddr, &Wish)> {
        self.clients.iter().flat_map(|(peer, client)| {
            let wishes = client.subscriptions.values();
            wishes.map(|subscription| (*peer, &subscription.wish))
        })
    }

    fn subscription(&mut self, peer: SocketAddr, topic: &Topic) -> Option<&mut Subscription> {
        self.clients.get_mut(&peer)?.subscriptions.get_mut(topic)
    }

    fn plan(&mut self, peer: SocketAddr, topic: &Topic, due: Option<Moment>) {
        let Some(subscription) = self.subscription(peer, topic) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut subscription.due, due) {
            self.due.remove(&(old, peer, topic.clone()));
        }
        if let Some(due) = due {
            self.due.insert((due, peer, topic.clone()));
        }
    }

    fn tell(&mut self, now: Moment, peer: SocketAddr, topic: &Topic) {
        let Some(subscription) = self.subscription(peer, topic) else {
            return;
        };
        if subscription.due.is_some() && subscription.tries == 0 {
            // It is gathered already.
            return;
        }
        subscription.tries = 0;
        let number = subscription.number;
        self.sent.remove(&(peer, number));
        let due = now.saturating_add(self.manner.delay);
        self.plan(peer, topic, Some(due));
    }

    fn ask(&mut self, now: Moment, peer: SocketAddr, wish: Wish, life: Duration) {
        if !self.has_room(peer, &wish) {
            return;
        }
        let topic = self.topic(&wish);
        let until = now.saturating_add(life);
        let client = self.clients.entry(peer).or_insert_with(|| Client {
            until,
            subscriptions: BTreeMap::new(),
        });
        client.until = until;
        if client.subscriptions.is_empty() {
            self.ends.insert((until, peer));
        }
        if let Some(there) = client.subscriptions.get_mut(&topic) {
            there.wish = wish;
            there.until = until;
            return;
        }
        let asker = (peer, Arc::clone(&topic.1));
        let askers = self.askers.entry(topic.0.clone()).or_default();
        askers.insert(asker);
        let subscription = Subscription {
            wish,
            until,
            due: None,
            tries: 0,
            number: 0,
            at: now,
        };
        client.subscriptions.insert(topic.clone(), subscription);
        self.count += 1;
        if self.manner.greets {
            self.tell(now, peer, &topic);
        }
    }

    fn end(&mut self, peer: SocketAddr, topic: &Topic) {
        self.plan(peer, topic, None);
        let Some(client) = self.clients.get_mut(&peer) else {
            return;
        };
        if let Some(gone) = client.subscriptions.remove(topic) {
            self.count -= 1;
            self.sent.remove(&(peer, gone.number));
        }
        if client.subscriptions.is_empty() {
            self.clients.remove(&peer);
        }
        if let Some(askers) = self.askers.get_mut(&topic.0) {
            askers.remove(&(peer, Arc::clone(&topic.1)));
            if askers.is_empty() {
                self.askers.remove(&topic.0);
            }
        }
    }

    /// Ends what nobody asked for again in time.
    fn look(&mut self, now: Moment, peer: SocketAddr) {
        let Some(client) = self.clients.get(&peer) else {
            return;
        };
        let apart = self.manner.apart;
        let until = |subscription: &Subscription| {
            if apart {
                subscription.until
            } else {
                client.until
            }
        };
        let (over, last): (Vec<_>, Vec<_>) = client
            .subscriptions
            .iter()
            .partition(|(_, subscription)| until(subscription) <= now);
        let next = last
            .iter()
            .map(|(_, subscription)| until(subscription))
            .min();
        let over: Vec<Topic> = over.into_iter().map(|(topic, _)| topic.clone()).collect();
        for topic in over {
            self.end(peer, &topic);
        }
        if let Some(next) = next {
            self.ends.insert((next, peer));
        }
    }

    /// From when on the next datagram may go out.
    fn free(&self) -> Moment {
        let (second, sent) = self.second;
        Duration::from_secs(if sent < RATE { 0 } else { second + 1 })
    }

    /// The number under which this is told for the first time at this moment.
    fn number(&mut self, now: Moment, wish: &Wish) -> u64 {
        if self.round.0 != now {
            self.round = (now, BTreeMap::new());
        }
        let Wish {
            service,
            clusters,
            agent,
            ..
        } = wish;
        let told = (service.clone(), Arc::clone(clusters), Arc::clone(agent));
        let next = &mut self.next;
        *self.round.1.entry(told).or_insert_with(|| {
            let number = *next;
            *next += 1;
            number
        })
    }

    fn push(&mut self, now: Moment, peer: SocketAddr, topic: &Topic) {
        let there = self.subscription(peer, topic);
        let Some((wish, tries, last)) = there.map(|it| (it.wish.clone(), it.tries, it.number))
        else {
            // Cannot be: every entry has its subscription.
            return;
        };
        let first = tries == 0;
        let number = if first { self.number(now, &wish) } else { last };
        let Some(subscription) = self.subscription(peer, topic) else {
            return;
        };
        subscription.due = None;
        subscription.tries += 1;
        if first {
            subscription.number = number;
            subscription.at = now;
        }
        let push = Effect::Push {
            peer,
            wish,
            number,
            at: subscription.at,
        };
        self.effects.push_back(push);
        if first {
            self.sent.insert((peer, number), topic.clone());
            self.plan(peer, topic, Some(now.saturating_add(AGAIN)));
        }
        if self.second.0 != now.as_secs() {
            self.second = (now.as_secs(), 0);
        }
        self.second.1 += 1;
    }
}

impl Machine for Udp {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Asked { peer, wish, life } => self.ask(now, peer, wish, life),
            Event::Changed(service) => {
                for (peer, clusters) in self.askers.get(&service).cloned().unwrap_or_default() {
                    self.tell(now, peer, &(service.clone(), clusters));
                }
            }
            Event::Acknowledged { peer, number } => {
                if let Some(topic) = self.sent.remove(&(peer, number)) {
                    self.plan(peer, &topic, None);
                }
            }
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, _)) = self.ends.first()
            && *at <= now
        {
            let Some((_, peer)) = self.ends.pop_first() else {
                return;
            };
            self.look(now, peer);
        }
        while let Some((at, _, _)) = self.due.first()
            && *at <= now
            && self.free() <= now
            && !self.held
        {
            let Some((_, peer, topic)) = self.due.pop_first() else {
                return;
            };
            self.push(now, peer, &topic);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let due = self.due.first().filter(|_| !self.held);
        let due = due.map(|(at, ..)| self.free().max(*at));
        let end = self.ends.first().map(|(at, _)| *at);
        due.into_iter().chain(end).min()
    }

    fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}

/// The address that a client is pushed at: where it asked from, with a port that it names.
pub(crate) fn peer(from: Option<IpAddr>, port: Option<i64>) -> Option<SocketAddr> {
    let port = u16::try_from(port?).ok().filter(|port| *port > 0)?;
    Some(SocketAddr::new(from?.to_canonical(), port))
}

/// The number that a datagram acknowledges, as a number or as text; `None` for anything else. What it calls itself does not matter.
pub(crate) fn acknowledged(datagram: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Number(u64),
        Text(String),
    }
    #[derive(Deserialize)]
    struct Acknowledgement {
        #[serde(rename = "lastRefTime")]
        last_ref_time: Number,
    }
    if datagram.len() > ACKNOWLEDGEMENT {
        return None;
    }
    match serde_json::from_slice::<Acknowledgement>(datagram)
        .ok()?
        .last_ref_time
    {
        Number::Number(number) => Some(number),
        Number::Text(text) => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;
    use proptest::prelude::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn service(n: u16) -> ServiceKey {
        ServiceKey {
            namespace: Namespace::new(""),
            group: "g".into(),
            name: n.to_string().into(),
        }
    }

    fn wish(n: u16, clusters: &str) -> Wish {
        Wish {
            service: service(n),
            clusters: clusters.into(),
            agent: "a".into(),
            app: "".into(),
        }
    }

    fn port(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn asked(at: u16, n: u16, clusters: &str) -> Event {
        Event::Asked {
            peer: port(at),
            wish: wish(n, clusters),
            life: ms(10_000),
        }
    }

    fn udp(apart: bool) -> Udp {
        Udp::new(Manner {
            delay: ms(10),
            greets: !apart,
            apart,
        })
    }

    /// Runs to `until`, waking exactly at each deadline: when what went out, to which port, under which number.
    fn run(udp: &mut Udp, until: Moment) -> Vec<(u64, u16, u64)> {
        let mut out = Vec::new();
        while let Some(due) = udp.deadline().filter(|due| *due <= until) {
            udp.wake(due);
            while let Some(Effect::Push { peer, number, .. }) = udp.effect() {
                out.push((u64::try_from(due.as_millis()).unwrap(), peer.port(), number));
            }
            assert!(udp.deadline().is_none_or(|next| next > due), "moves on");
        }
        out
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_once_more_the_same_after_ten_seconds_and_then_left() {
        let mut udp = udp(false);
        udp.handle(
            ms(0),
            Event::Asked {
                peer: port(1),
                wish: wish(1, ""),
                life: ms(60_000),
            },
        );
        assert_eq!(run(&mut udp, ms(50_000)), [(10, 1, 1), (10_010, 1, 1)]);
        udp.handle(ms(50_000), Event::Changed(service(1)));
        assert_eq!(run(&mut udp, ms(50_010)), [(50_010, 1, 2)]);
        udp.handle(
            ms(50_020),
            Event::Acknowledged {
                peer: port(2),
                number: 2,
            },
        );
        udp.handle(
            ms(50_020),
            Event::Acknowledged {
                peer: port(1),
                number: 2,
            },
        );
        assert_eq!(run(&mut udp, ms(90_000)), []);
        assert_eq!((udp.count(), udp.deadline()), (0, None));
    }

    #[test]
    fn changes_within_the_delay_are_one_datagram_and_a_later_one_replaces_what_is_waited_for() {
        let mut udp = udp(true);
        udp.handle(ms(0), asked(1, 1, ""));
        assert_eq!(run(&mut udp, ms(100)), [], "like 1.4 nobody is greeted");
        for at in [100, 105, 109] {
            udp.handle(ms(at), Event::Changed(service(1)));
        }
        assert_eq!(run(&mut udp, ms(5_000)), [(110, 1, 1)]);
        udp.handle(ms(5_000), Event::Changed(service(1)));
        udp.handle(ms(5_000), asked(1, 1, ""));
        assert_eq!(
            run(&mut udp, ms(16_000)),
            [(5_010, 1, 2)],
            "and then it is over"
        );
    }

    #[test]
    fn a_subscription_lives_as_long_as_it_is_asked_for_alone_like_1_4_and_with_its_port_later() {
        for apart in [true, false] {
            let mut udp = udp(apart);
            udp.handle(ms(0), asked(1, 1, ""));
            udp.handle(ms(0), asked(1, 2, ""));
            udp.handle(ms(8_000), asked(1, 1, ""));
            run(&mut udp, ms(12_000));
            assert_eq!(udp.count(), if apart { 1 } else { 2 });
            run(&mut udp, ms(18_000));
            assert_eq!((udp.count(), udp.askers.len(), udp.sent.len()), (0, 0, 0));
        }
    }

    #[test]
    fn clusters_of_one_service_stand_apart_like_1_4_and_later_the_last_word_counts() {
        for (apart, told) in [(true, vec!["", "c"]), (false, vec!["c"])] {
            let mut udp = udp(apart);
            udp.handle(ms(0), asked(1, 1, ""));
            udp.handle(ms(0), asked(1, 1, "c"));
            udp.handle(ms(0), Event::Changed(service(1)));
            udp.wake(ms(10));
            let clusters: Vec<String> = std::iter::from_fn(|| udp.effect())
                .map(|Effect::Push { wish, .. }| wish.clusters.to_string())
                .collect();
            assert_eq!(clusters, told);
        }
    }

    #[test]
    fn ports_of_an_address_and_services_of_a_port_are_bounded() {
        let mut udp = udp(true);
        for at in 1..=200 {
            udp.handle(ms(0), asked(at, 1, ""));
        }
        assert_eq!(udp.count(), PORTS);
        assert!(!udp.has_room(port(200), &wish(1, "")) && udp.has_room(port(1), &wish(1, "")));
        assert!(udp.has_room(([10, 0, 0, 1], 200).into(), &wish(1, "")));
        for n in 1..=2_000 {
            udp.handle(ms(0), asked(1, n, ""));
        }
        assert_eq!(udp.count(), PORTS - 1 + SERVICES);
    }

    #[test]
    fn who_says_more_than_is_kept_is_not_pushed() {
        let mut udp = udp(true);
        udp.handle(ms(0), asked(1, 1, &"c".repeat(SAID)));
        assert_eq!(udp.count(), 0);
    }

    #[test]
    fn datagrams_are_paced_and_none_is_lost_by_it() {
        let mut udp = udp(true);
        for at in 1..=5 {
            for n in 1..=1_000 {
                udp.handle(ms(0), asked(at, n, ""));
            }
        }
        for n in 1..=1_000 {
            udp.handle(ms(0), Event::Changed(service(n)));
        }
        let mut each = BTreeMap::new();
        for (at, ..) in run(&mut udp, ms(3_000)) {
            *each.entry(at / 1_000).or_insert(0) += 1;
        }
        assert_eq!(each, BTreeMap::from([(0, 2_000), (1, 2_000), (2, 1_000)]));
    }

    #[test]
    fn who_is_told_the_same_at_one_moment_is_told_it_under_one_number() {
        let mut udp = udp(true);
        for (at, clusters) in [(1, ""), (2, ""), (2, "c"), (3, "c")] {
            udp.handle(ms(0), asked(at, 1, clusters));
        }
        udp.handle(ms(0), Event::Changed(service(1)));
        let mut told = run(&mut udp, ms(10));
        told.sort_unstable();
        let (all, some) = (told[0].2, told[3].2);
        assert_ne!(all, some);
        assert_eq!(
            told,
            [
                (10, 1, all),
                (10, 2, all.min(some)),
                (10, 2, all.max(some)),
                (10, 3, some)
            ]
        );
        // What one acknowledges the other has not.
        udp.handle(
            ms(20),
            Event::Acknowledged {
                peer: port(1),
                number: all,
            },
        );
        assert_eq!(udp.sent.len(), 3);
    }

    #[test]
    fn while_it_is_held_nothing_goes_out_and_subscriptions_end_nevertheless() {
        let mut udp = udp(false);
        udp.held = true;
        udp.handle(ms(0), asked(1, 1, ""));
        assert_eq!(run(&mut udp, ms(9_000)), []);
        udp.held = false;
        udp.wake(ms(9_000));
        assert!(udp.effect().is_some());
        udp.held = true;
        assert_eq!(run(&mut udp, ms(11_000)), []);
        assert_eq!(udp.count(), 0);
    }

    #[test]
    fn an_acknowledgement_has_its_number_as_a_number_or_as_text_and_anything_else_is_none() {
        for (said, number) in [
            (
                r#"{"type":"push-ack","lastRefTime":12,"data":""}"#,
                Some(12),
            ),
            (
                r#"{"type":"push-ack","lastRefTime":"12","data":""}"#,
                Some(12),
            ),
            (r#"{"lastRefTime":-1}"#, None),
            (r#"{"lastRefTime":"x"}"#, None),
            ("{}", None),
            ("", None),
            ("[[[[", None),
        ] {
            assert_eq!(acknowledged(said.as_bytes()), number, "{said}");
        }
        let long = format!(r#"{{"lastRefTime":1,"data":"{}"}}"#, "x".repeat(2_000));
        assert_eq!(acknowledged(long.as_bytes()), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Ask(u16, u16),
        Change(u16),
        Lose,
        Hear,
    }

    proptest! {
        /// Over a path that loses and keeps datagrams as it likes: who goes on asking is sent the last state within the delay, or
        /// never more than twice for each change; who is silent is sent nothing.
        #[test]
        fn a_datagram_has_its_cause_and_at_most_one_repetition(
            apart in any::<bool>(),
            steps in proptest::collection::vec(prop_oneof![
                3 => (0..6_000_u64).prop_map(Step::Wait),
                2 => (1..4_u16, 1..3_u16).prop_map(|(at, n)| Step::Ask(at, n)),
                2 => (1..3_u16).prop_map(Step::Change),
                1 => Just(Step::Lose),
                1 => Just(Step::Hear),
            ], 0..60),
        ) {
            let (mut udp, mut now) = (udp(apart), ms(0));
            let (mut causes, mut sent, mut last) = (0, Vec::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Wait(millis) => now += ms(millis),
                    Step::Ask(at, n) => {
                        causes += 1;
                        last.insert(at, now);
                        udp.handle(now, asked(at, n, ""));
                    }
                    Step::Change(n) => {
                        causes += udp.askers.get(&service(n)).map_or(0, BTreeSet::len);
                        udp.handle(now, Event::Changed(service(n)));
                    }
                    Step::Lose => {}
                    Step::Hear => {
                        for (_, at, number) in sent.iter().copied() {
                            udp.handle(now, Event::Acknowledged { peer: port(at), number });
                        }
                    }
                }
                for push in run(&mut udp, now) {
                    let asked: Duration = last[&push.1];
                    prop_assert!(ms(push.0) <= asked + ms(10_000), "to who is silent");
                    sent.push(push);
                }
            }
            run(&mut udp, now + ms(60_000));
            prop_assert_eq!((udp.count(), udp.deadline()), (0, None));
            prop_assert!(udp.due.is_empty() && udp.sent.is_empty() && udp.askers.is_empty());
            let mut numbers: BTreeMap<(u16, u64), usize> = BTreeMap::new();
            for (_, at, number) in sent {
                *numbers.entry((at, number)).or_default() += 1;
            }
            prop_assert!(numbers.values().all(|times| *times <= 2), "{numbers:?}");
            prop_assert!(numbers.len() <= causes);
        }
    }
}
