//! A turn in the fleet: at most `k` instances of a service reload at once, over all hosts, with nothing but the registry between
//! them.
//!
//! Who wants a turn lists a *ticket*: an ephemeral instance of a service of its own (`outrigger-turns-orders`), with an address
//! that nobody has (240.0.0.0/4). A ticket is *waiting*, a *claim*, or *done*, and has a number: one more than any its owner saw,
//! ties by id. Numbers say only who comes first; what keeps more than `k` from reloading are the claims:
//!
//! 1. Fewer than `k` tickets are before mine: I publish my claim.
//! 2. [`LAG`] after the registry took it I publish it again with a new *mark*, and wait for a list that carries the mark: it was
//!    made after that, so it has every claim that was taken before mine, however late lists are.
//! 3. Fewer than `k` tickets in that list are before mine or claims: I hold a turn, and begin at once ([`FRESH`]).
//! 4. Else I wait. When `k` or more are before me I take my claim back; so of two who see each other's claim the later gives way.
//!
//! Of `k` + 1 holders the one whose claim was taken last would have seen the other `k` in step 3, so there are never more than
//! `k`; and the first in the line is never given way to by more than `k` - 1, so everybody gets a turn. No clock is compared with
//! another one.
//!
//! A ticket that vanishes without having been done still counts until its reload must be over ([`Seen::longest`]): its owner may
//! have lost only his connection. That is also how long a dead holder's turn takes to pass on, after the registry noticed (over
//! gRPC at once, for the connection ended; over HTTP after the silence that the ticket itself asks for). Whoever ends in order says
//! so: his ticket is done, for [`DONE`], and then withdrawn.
//!
//! It holds while a list shows within [`LAG`] what any node of the registry took before (0.6 s on one node, up to 3 s in a
//! cluster), while commands end at their time limit, and while a holder's ticket that vanished is back within [`LAG`] or was seen by
//! those who come next. It does not hold in a cluster that is cut in two (each half gives `k` turns), nor against whoever writes
//! tickets of his own. Nobody is kept from reloading by any of that for ever: when nothing moved in the line for `wait`, the
//! reload goes on without a turn, unless the descriptor says to wait on.
//!
//! The other way would have been one configuration, changed by compare-and-set. It needs rights to write configurations, 1.4 has no
//! atomic compare-and-set for them in a cluster, and who is dead could only be told by clocks that agree. An instance goes away by
//! itself, on every version and over both transports.

use crate::backoff::{Backoff, Pace};
use crate::descriptor::spec::FleetThen;
use crate::foreign::Foreign;
use crate::machine::{Machine, Moment};
use crate::nacos::model::{Instance, InstanceKey, Listed, ServiceKey, preserved};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

/// A list shows what was taken so long before it was made.
pub const LAG: Duration = Duration::from_secs(3);
/// A turn begins so soon after its mark was published, or another mark is.
pub const FRESH: Duration = Duration::from_secs(15);
/// How long it stays to be seen that a ticket is done; a list over HTTP v1 may be 8 s old.
pub const DONE: Duration = Duration::from_secs(15);
/// After the registry came back, tickets are given so long to come back too.
const SETTLE: Duration = Duration::from_secs(10);
/// No ticket counts for longer after it vanished, whatever it says.
const MOST_LONGEST: Duration = Duration::from_secs(3700);
/// No ticket has a higher number.
const MOST_NUMBER: u64 = 1_000_000_000_000_000;
/// Tickets that are remembered.
const MOST_TICKETS: usize = 10_000;
/// How often a ticket that cannot be withdrawn is tried to be.
const TRIES: u32 = 3;
/// What stands in front of the service's name.
const PREFIX: &str = "outrigger-turns-";

/// What a ticket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits for its turn.
    Waiting,
    /// Means to begin, or has begun.
    Claim,
    /// Is over.
    Done,
}

/// A ticket of ours, as it is to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Nobody else's.
    pub id: u64,
    /// Who comes first.
    pub number: u64,
    /// Counts up with each publication.
    pub mark: u64,
    /// What it says.
    pub stage: Stage,
}

/// A ticket as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The ticket.
    pub ticket: Ticket,
    /// Its owner's reload is over so long after it began.
    pub longest: Duration,
}

/// What is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many reload at once.
    pub at_most: usize,
    /// How long one waits while nothing moves.
    pub wait: Duration,
    /// And then.
    pub then: FleetThen,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A turn is wanted.
    Asked {
        /// Nobody else's, by chance.
        id: u64,
    },
    /// The reload is over, or not wanted any more.
    Ended,
    /// What the registry lists; our own tickets included.
    Listed(Vec<Seen>),
    /// The registry was away and is back.
    Back,
    /// Answers [`Effect::Publish`]; the error is one sentence.
    Published(Result<(), String>),
    /// Answers [`Effect::Withdraw`].
    Withdrawn(bool),
}

/// What is to be done; at most one call is under way.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Have the tickets watched, or no longer.
    Watch(bool),
    /// List it, in place of any before.
    Publish(Ticket),
    /// Take our ticket out.
    Withdraw,
    /// It is our turn; or there is none, for this reason, and the reload goes on all the same.
    Grant(Option<String>),
    /// How we stand in the line has changed.
    Tell(Option<Line>),
}

/// How one stands in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// So many tickets must be over before ours, as far as is known.
    pub before: Option<usize>,
    /// Why the registry does not take our ticket.
    pub trouble: Option<String>,
    /// When it goes on without a turn, if nothing moves.
    pub until: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    seen: Seen,
    /// Since when it is not listed any more.
    gone: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Nothing,
    Turn,
    /// A turn is held, or the reload goes on without one.
    Held,
}

/// The machine of one application's place in the line.
#[derive(Debug)]
pub struct Lease {
    rules: Rules,
    want: Want,
    ticket: Option<Ticket>,
    /// Ids of ours that may still be listed.
    former: BTreeSet<u64>,
    /// When each mark that was not seen yet was published.
    marks: BTreeMap<u64, Moment>,
    /// When the youngest mark that was seen was published.
    seen: Option<Moment>,
    /// Since when the registry has our claim.
    claimed: Option<Moment>,
    /// No turn begins before.
    settles: Moment,
    others: BTreeMap<u64, Other>,
    /// Whether the registry listed tickets since they are watched.
    is_heard: bool,
    is_watching: bool,
    /// What is being published, or `None` while withdrawing.
    calling: Option<Option<Ticket>>,
    /// The last that was taken.
    taken: Option<Ticket>,
    retry_at: Moment,
    backoff: Backoff,
    trouble: Option<String>,
    /// When something moved in the line, and the fewest that were before us.
    moved: (Moment, usize),
    /// When a ticket that is done is withdrawn.
    leaves: Option<Moment>,
    told: Option<Line>,
    wake: Option<Moment>,
    out: VecDeque<Effect>,
}

impl Lease {
    /// Nothing is wanted.
    #[must_use]
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            want: Want::Nothing,
            ticket: None,
            former: BTreeSet::new(),
            marks: BTreeMap::new(),
            seen: None,
            claimed: None,
            settles: Moment::ZERO,
            others: BTreeMap::new(),
            is_heard: false,
            is_watching: false,
            calling: None,
            taken: None,
            retry_at: Moment::ZERO,
            backoff: Backoff::new(Pace::NETWORK, seed),
            trouble: None,
            moved: (Moment::ZERO, usize::MAX),
            leaves: None,
            told: None,
            wake: None,
            out: VecDeque::new(),
        }
    }

    fn listed(&mut self, now: Moment, list: Vec<Seen>) {
        self.is_heard = true;
        let ids: BTreeSet<u64> = list.iter().map(|seen| seen.ticket.id).collect();
        let own = self.ticket.map(|ticket| ticket.id);
        for seen in list {
            let id = seen.ticket.id;
            if Some(id) == own {
                if let Some(sent) = self.marks.get(&seen.ticket.mark) {
                    self.seen = self.seen.max(Some(*sent));
                    self.marks.retain(|mark, _| *mark > seen.ticket.mark);
                }
            } else if !self.former.contains(&id)
                && (self.others.contains_key(&id) || self.others.len() < MOST_TICKETS)
            {
                self.others.insert(id, Other { seen, gone: None });
            }
        }
        for (id, other) in &mut self.others {
            if !ids.contains(id) && other.gone.is_none() {
                other.gone = Some(now);
            }
        }
        // The registry lost it, or did not show it to everybody all the time.
        if own.is_some_and(|own| !ids.contains(&own))
            && self.claimed.is_some_and(|at| now > at + LAG)
        {
            self.claimed = None;
            self.taken = None;
        }
    }

    /// Tickets that must be over before ours; those of them with lower numbers.
    fn before(&self) -> (usize, usize) {
        let ours = self
            .ticket
            .map_or((u64::MAX, u64::MAX), |ticket| (ticket.number, ticket.id));
        let is_lower = |one: &&Other| (one.seen.ticket.number, one.seen.ticket.id) < ours;
        let all = self.others.values();
        let lower = all.clone().filter(is_lower).count();
        let claims = all
            .filter(|one| one.seen.ticket.stage == Stage::Claim && !is_lower(one))
            .count();
        (lower + claims, lower)
    }

    fn wake_at(&mut self, at: Moment) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Publishes our ticket, with a new mark.
    fn publish(&mut self, now: Moment) {
        if self.calling.is_some() {
            return;
        }
        if now < self.retry_at {
            self.wake_at(self.retry_at);
            return;
        }
        let Some(ticket) = &mut self.ticket else {
            return;
        };
        ticket.mark += 1;
        let ticket = *ticket;
        self.marks.insert(ticket.mark, now);
        while self.marks.len() > 16 {
            self.marks.pop_first();
        }
        self.calling = Some(Some(ticket));
        self.out.push_back(Effect::Publish(ticket));
    }

    /// Whether the registry has taken what our ticket says.
    fn is_taken(&self) -> bool {
        let says = |ticket: Ticket| (ticket.id, ticket.number, ticket.stage);
        self.taken.map(says) == self.ticket.map(says)
    }

    fn step(&mut self, now: Moment) {
        self.wake = None;
        let over = |other: &Other| other.gone.map(|gone| gone + other.seen.longest + FRESH);
        self.others.retain(|_, other| match over(other) {
            Some(over) => now < over && other.seen.ticket.stage != Stage::Done,
            None => true,
        });
        if let Some(next) = self.others.values().filter_map(over).min() {
            self.wake_at(next);
        }
        match self.want {
            Want::Nothing => self.leave(now),
            Want::Turn => self.queue(now),
            Want::Held => {}
        }
        self.tell();
    }

    fn leave(&mut self, now: Moment) {
        let Some(ticket) = &mut self.ticket else {
            if self.is_watching && self.calling.is_none() {
                self.is_watching = false;
                self.is_heard = false;
                self.others.clear();
                self.out.push_back(Effect::Watch(false));
            }
            return;
        };
        ticket.stage = Stage::Done;
        let leaves = *self.leaves.get_or_insert(now + DONE);
        if now < leaves {
            self.wake_at(leaves);
            if !self.is_taken() {
                self.publish(now);
            }
        } else if self.calling.is_none() {
            if now < self.retry_at {
                self.wake_at(self.retry_at);
            } else {
                self.calling = Some(None);
                self.out.push_back(Effect::Withdraw);
            }
        }
    }

    fn queue(&mut self, now: Moment) {
        if self.rules.then == FleetThen::Reload {
            let until = self.moved.0 + self.rules.wait;
            if now >= until {
                let why = match (&self.trouble, self.is_heard) {
                    (Some(why), _) => why.clone(),
                    (None, false) => "the registry did not say who else waits".to_owned(),
                    (None, true) => "nothing moved in the line".to_owned(),
                };
                self.want = Want::Held;
                self.out.push_back(Effect::Grant(Some(why)));
                return;
            }
            self.wake_at(until);
        }
        if !self.is_heard {
            return;
        }
        self.others
            .retain(|_, other| other.seen.ticket.stage != Stage::Done);
        let highest = self.others.values().map(|one| one.seen.ticket.number).max();
        if let Some(ticket) = self.ticket.as_mut().filter(|ticket| ticket.number == 0) {
            ticket.number = highest.unwrap_or(0).min(MOST_NUMBER - 1) + 1;
        }
        let (before, lower) = self.before();
        if before < self.moved.1 {
            self.moved = (now, before);
            if self.rules.then == FleetThen::Reload {
                self.wake_at(now + self.rules.wait);
            }
        }
        let most = self.rules.at_most;
        let stage = if lower < most {
            Stage::Claim
        } else {
            Stage::Waiting
        };
        if let Some(ticket) = self.ticket.as_mut().filter(|ticket| ticket.stage != stage) {
            ticket.stage = stage;
            self.claimed = None;
        }
        if !self.is_taken() || (stage == Stage::Claim && self.claimed.is_none()) {
            self.publish(now);
            return;
        }
        let Some(claimed) = self.claimed.filter(|_| before < most) else {
            return;
        };
        let from = (claimed + LAG).max(self.settles);
        if now < from {
            self.wake_at(from);
        } else if self
            .seen
            .is_some_and(|sent| sent >= from && now <= sent + FRESH)
        {
            self.want = Want::Held;
            self.out.push_back(Effect::Grant(None));
        } else {
            // One that nobody was shown for so long will not be shown any more.
            let last = self.marks.last_key_value().map(|(_, sent)| *sent);
            match last.filter(|sent| *sent >= from && now < *sent + FRESH) {
                Some(sent) => self.wake_at(sent + FRESH),
                None => self.publish(now),
            }
        }
    }

    fn tell(&mut self) {
        let line = (self.want == Want::Turn).then(|| Line {
            before: self.is_heard.then(|| self.before().0),
            trouble: self.trouble.clone(),
            until: (self.rules.then == FleetThen::Reload).then(|| self.moved.0 + self.rules.wait),
        });
        if line != self.told {
            self.told.clone_from(&line);
            self.out.push_back(Effect::Tell(line));
        }
    }

    fn called(&mut self, now: Moment, outcome: Result<(), String>) {
        let Some(ticket) = self.calling.take().flatten() else {
            return;
        };
        match outcome {
            Ok(()) => {
                self.backoff.reset();
                self.trouble = None;
                if self.ticket.is_some_and(|own| own.id == ticket.id) {
                    self.taken = Some(ticket);
                    let is_claim = |ticket: Ticket| ticket.stage == Stage::Claim;
                    if is_claim(ticket) && self.ticket.is_some_and(is_claim) {
                        self.claimed.get_or_insert(now);
                    }
                }
            }
            Err(why) => {
                // It may have been heard or not.
                self.taken = None;
                self.retry_at = now + self.backoff.next_wait();
                self.trouble = Some(why);
            }
        }
    }
}

impl Machine for Lease {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Asked { id } => {
                if self.want == Want::Nothing {
                    self.want = Want::Turn;
                    self.former.extend(self.ticket.map(|ticket| ticket.id));
                    while self.former.len() > 16 {
                        self.former.pop_first();
                    }
                    self.ticket = Some(Ticket {
                        id,
                        number: 0,
                        mark: 0,
                        stage: Stage::Waiting,
                    });
                    self.marks.clear();
                    self.seen = None;
                    self.claimed = None;
                    self.taken = None;
                    self.trouble = None;
                    self.leaves = None;
                    self.moved = (now, usize::MAX);
                    self.retry_at = now;
                    self.backoff.reset();
                    if !self.is_watching {
                        self.is_watching = true;
                        self.out.push_back(Effect::Watch(true));
                    }
                }
            }
            Event::Ended => {
                if self.want != Want::Nothing {
                    self.want = Want::Nothing;
                    if self.ticket.is_some_and(|ticket| ticket.mark == 0) {
                        self.ticket = None;
                    }
                }
            }
            Event::Listed(list) => self.listed(now, list),
            Event::Back => {
                self.claimed = None;
                self.settles = now + SETTLE;
            }
            Event::Published(outcome) => self.called(now, outcome),
            Event::Withdrawn(is_done) => {
                self.calling = None;
                if self.want == Want::Nothing {
                    self.retry_at = now + self.backoff.next_wait();
                    if is_done || self.backoff.failures() >= TRIES {
                        self.former
                            .extend(self.ticket.take().map(|ticket| ticket.id));
                        self.leaves = None;
                        self.backoff.reset();
                    }
                }
            }
        }
        self.step(now);
    }

    fn wake(&mut self, now: Moment) {
        self.step(now);
    }

    fn deadline(&self) -> Option<Moment> {
        self.wake
    }

    fn effect(&mut self) -> Option<Effect> {
        self.out.pop_front()
    }
}

/// The service in which the tickets for `service` are listed.
#[must_use]
pub fn line_of(service: &ServiceKey) -> ServiceKey {
    ServiceKey {
        name: format!("{PREFIX}{}", service.name).into(),
        ..service.clone()
    }
}

const ID: &str = "turn.id";
const NUMBER: &str = "turn.number";
const MARK: &str = "turn.mark";
const STAGE: &str = "turn.stage";
const LONGEST: &str = "turn.longest_ms";
const HOST: &str = "turn.host";
const STAGES: [(&str, Stage); 3] = [
    ("waiting", Stage::Waiting),
    ("claim", Stage::Claim),
    ("done", Stage::Done),
];

/// Whose tickets they are.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Where they are listed.
    pub line: ServiceKey,
    /// By chance, for as long as the process lives: the address of its tickets.
    pub address: u64,
    /// For those who look at the list.
    pub host: Arc<str>,
    /// Its reload is over so long after it began.
    pub longest: Duration,
}

/// The ticket as an instance; over HTTP v1 the registry keeps it so long after its owner fell silent that his reload is over.
#[must_use]
pub fn instance(owner: &Owner, ticket: &Ticket) -> Instance {
    let stage = STAGES.iter().find(|(_, stage)| *stage == ticket.stage);
    let longest = owner.longest.min(MOST_LONGEST);
    let silence = longest + FRESH;
    let ms = |time: Duration| time.as_millis().to_string();
    let metadata = [
        (ID, format!("{:016x}", ticket.id)),
        (NUMBER, ticket.number.to_string()),
        (MARK, ticket.mark.to_string()),
        (STAGE, stage.map_or("", |(word, _)| word).to_owned()),
        (LONGEST, ms(longest)),
        (HOST, owner.host.to_string()),
        (preserved::HEART_BEAT_INTERVAL, ms(Duration::from_secs(3))),
        (preserved::HEART_BEAT_TIMEOUT, ms(silence)),
        (preserved::IP_DELETE_TIMEOUT, ms(silence)),
    ];
    Instance {
        key: key(owner),
        cluster: "DEFAULT".into(),
        // Nobody is to be sent there.
        weight: 0.0,
        healthy: true,
        enabled: true,
        ephemeral: true,
        metadata: metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

/// Where the owner's tickets are listed.
#[must_use]
pub fn key(owner: &Owner) -> InstanceKey {
    let [first, second, third, fourth, high, low, ..] = owner.address.to_be_bytes();
    InstanceKey {
        service: owner.line.clone(),
        ip: Ipv4Addr::new(240 | (first & 0x0f), second, third, fourth.clamp(1, 254)).into(),
        port: u16::from_be_bytes([high, low]).max(1),
    }
}

/// The tickets among what is listed; whatever else is listed there counts for nothing.
#[must_use]
pub fn tickets(hosts: &[Listed]) -> Vec<Seen> {
    hosts.iter().filter_map(ticket).collect()
}

fn ticket(host: &Listed) -> Option<Seen> {
    let text = |key: &str| host.metadata.get(&Foreign::from(key)).map(Foreign::raw);
    let number = |key: &str| text(key)?.parse::<u64>().ok();
    let word = text(STAGE)?;
    let (_, stage) = STAGES.iter().find(|(known, _)| *known == word)?;
    Some(Seen {
        ticket: Ticket {
            id: u64::from_str_radix(text(ID)?, 16).ok()?,
            number: number(NUMBER).filter(|number| (1..=MOST_NUMBER).contains(number))?,
            mark: number(MARK)?,
            stage: *stage,
        },
        longest: Duration::from_millis(number(LONGEST)?).min(MOST_LONGEST),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Dice;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// No reload of the tests takes longer.
    const LONGEST: Duration = s(12);

    fn rules(at_most: usize) -> Rules {
        Rules {
            at_most,
            wait: s(600),
            then: FleetThen::Wait,
        }
    }

    /// An agent whose application wants to reload.
    struct Agent {
        lease: Lease,
        /// Its clock goes from here, and so fast.
        clock: (Duration, f64),
        /// Since when, and whether it reloads.
        holds: Option<Moment>,
        ends: Moment,
        asks_at: Option<Moment>,
        turns: u32,
        /// What its transport keeps listed; and whether it is.
        kept: Option<Ticket>,
        watches: bool,
        /// Cut off from the registry until then.
        cut: Moment,
        /// The list it is told next, and when.
        lists_at: Moment,
        /// The call under way: when it reaches the registry, when it is answered, what.
        call: Option<(Moment, Moment, Option<Ticket>, bool)>,
        address: usize,
    }

    /// The registry with agents around it.
    struct World {
        now: Moment,
        dice: Dice,
        at_most: usize,
        agents: Vec<Agent>,
        /// What is listed at each address, from when on.
        written: Vec<(Moment, usize, Option<Ticket>)>,
        /// Tickets that the registry drops later, or a transport that is there again lists (true).
        later: Vec<(Moment, usize, bool)>,
        most: usize,
        addresses: usize,
        /// So many turns each agent wants.
        wanted: u32,
    }

    impl World {
        fn new(agents: usize, at_most: usize, seed: u64) -> Self {
            let mut world = Self {
                now: s(100),
                dice: Dice::new(seed),
                at_most,
                agents: Vec::new(),
                written: Vec::new(),
                later: Vec::new(),
                most: 0,
                addresses: 0,
                wanted: 1,
            };
            for _ in 0..agents {
                let agent = world.agent(rules(at_most));
                world.agents.push(agent);
            }
            world
        }

        fn agent(&mut self, rules: Rules) -> Agent {
            self.addresses += 1;
            let asks = self.now + self.up_to(s(4));
            Agent {
                lease: Lease::new(rules, self.dice.seed()),
                clock: (
                    s(1000).mul_f64(self.dice.draw()),
                    0.98 + 0.04 * self.dice.draw(),
                ),
                holds: None,
                ends: Moment::ZERO,
                asks_at: Some(asks),
                turns: 0,
                kept: None,
                watches: false,
                cut: Moment::ZERO,
                lists_at: Moment::ZERO,
                call: None,
                address: self.addresses,
            }
        }

        fn up_to(&mut self, most: Duration) -> Duration {
            most.mul_f64(self.dice.draw())
        }

        /// What somebody is shown whom the registry tells so late.
        fn list(&self, late: Duration) -> Vec<Seen> {
            let mut at: BTreeMap<usize, Option<Ticket>> = BTreeMap::new();
            for (when, address, ticket) in &self.written {
                if *when + late <= self.now {
                    at.insert(*address, *ticket);
                }
            }
            let seen = |ticket| Seen {
                ticket,
                longest: LONGEST,
            };
            at.into_values().flatten().map(seen).collect()
        }

        fn write(&mut self, address: usize, ticket: Option<Ticket>) {
            self.written.push((self.now, address, ticket));
        }

        fn tell(&mut self, index: usize, event: Option<Event>) {
            let now = self.now;
            let agent = &mut self.agents[index];
            let local = agent.clock.0 + now.mul_f64(agent.clock.1);
            match event {
                Some(event) => agent.lease.handle(local, event),
                None => agent.lease.wake(local),
            }
            while let Some(effect) = self.agents[index].lease.effect() {
                match effect {
                    Effect::Watch(watches) => {
                        self.agents[index].watches = watches;
                        self.agents[index].lists_at = now;
                    }
                    Effect::Publish(ticket) => self.call(index, Some(ticket)),
                    Effect::Withdraw => self.call(index, None),
                    Effect::Grant(why) => {
                        let lasts = self.up_to(LONGEST);
                        let agent = &mut self.agents[index];
                        assert!(agent.holds.is_none() && why.is_none());
                        agent.holds = Some(now);
                        agent.ends = now + lasts;
                        agent.turns += 1;
                    }
                    Effect::Tell(_) => {}
                }
            }
            let holding = self.agents.iter().filter(|agent| agent.holds.is_some());
            self.most = self.most.max(holding.count());
        }

        fn call(&mut self, index: usize, ticket: Option<Ticket>) {
            let arrives = self.now + self.up_to(ms(800));
            let answered = arrives + self.up_to(ms(800));
            let fails = self.dice.draw() < 0.05;
            let agent = &mut self.agents[index];
            assert!(agent.call.is_none(), "one call at a time");
            agent.kept = ticket;
            agent.call = Some((arrives, answered, ticket, fails));
        }

        /// Plays on for so long.
        fn run(&mut self, period: Duration) {
            let end = self.now + period;
            while self.now < end {
                self.now += ms(50);
                self.tick();
                assert!(
                    self.most <= self.at_most,
                    "{} hold {} turns at {:?}",
                    self.most,
                    self.at_most,
                    self.now
                );
            }
        }

        fn tick(&mut self) {
            let now = self.now;
            let due: Vec<_> = self.later.extract_if(.., |(at, ..)| *at <= now).collect();
            for (_, address, is_back) in due {
                let owner = self.agents.iter().find(|agent| agent.address == address);
                let kept = owner.and_then(|owner| owner.kept);
                self.write(address, kept.filter(|_| is_back));
            }
            for index in 0..self.agents.len() {
                let agent = &self.agents[index];
                let (is_cut, address) = (now < agent.cut, agent.address);
                if let Some((arrives, answered, ticket, fails)) = agent.call {
                    if arrives <= now && now < arrives + ms(50) && !is_cut {
                        self.write(address, ticket);
                    }
                    if answered <= now {
                        self.agents[index].call = None;
                        let is_well = !(fails || is_cut);
                        let event = match ticket {
                            Some(_) if is_well => Event::Published(Ok(())),
                            Some(_) => Event::Published(Err("no answer".to_owned())),
                            None => Event::Withdrawn(is_well),
                        };
                        self.tell(index, Some(event));
                    }
                }
                let agent = &self.agents[index];
                if agent.watches && !is_cut && agent.lists_at <= now {
                    let late = self.up_to(s(2));
                    let list = self.list(late);
                    self.agents[index].lists_at = now + self.up_to(s(3));
                    self.tell(index, Some(Event::Listed(list)));
                }
                if self.agents[index].holds.is_some() && self.agents[index].ends <= now {
                    self.agents[index].holds = None;
                    self.tell(index, Some(Event::Ended));
                    if self.agents[index].turns < self.wanted {
                        let again = now + self.up_to(s(3));
                        self.agents[index].asks_at = Some(again);
                    }
                }
                if self.agents[index].asks_at.is_some_and(|at| at <= now) {
                    self.agents[index].asks_at = None;
                    let id = self.dice.seed();
                    self.tell(index, Some(Event::Asked { id }));
                }
                let agent = &self.agents[index];
                let local = agent.clock.0 + now.mul_f64(agent.clock.1);
                if agent.lease.deadline().is_some_and(|at| at <= local) {
                    self.tell(index, None);
                }
            }
        }

        /// The agent is killed, with its reload; the registry notices so much later.
        fn kill(&mut self, index: usize, noticed: Duration) {
            let address = self.agents[index].address;
            self.later.push((self.now + noticed, address, false));
            let asks_again = self.agent(rules(self.at_most));
            self.agents[index] = asks_again;
        }

        /// The agent is cut off: the registry drops its ticket once a reload must be over, the transport lists it again after.
        fn cut(&mut self, index: usize, period: Duration) {
            let until = self.now + period;
            let agent = &mut self.agents[index];
            agent.cut = until;
            let address = agent.address;
            let silence = LONGEST + FRESH;
            if period > silence {
                self.later.push((self.now + silence, address, false));
                self.later.push((until, address, true));
            }
        }

        /// The agent's connection ends and is made again at once.
        fn flap(&mut self, index: usize) {
            let address = self.agents[index].address;
            self.write(address, None);
            let back = self.now + self.up_to(s(1));
            self.later.push((back, address, true));
        }

        /// The registry starts anew, empty; everybody lists his ticket again.
        fn forget(&mut self) {
            self.written.clear();
            for index in 0..self.agents.len() {
                let address = self.agents[index].address;
                let back = self.now + self.up_to(s(6));
                self.later.push((back, address, true));
                self.tell(index, Some(Event::Back));
            }
        }
    }

    #[test]
    fn who_is_alone_has_his_turn_after_the_lag() {
        let mut world = World::new(1, 1, 7);
        world.run(s(15));
        assert_eq!(world.agents[0].turns, 1);
        // And nothing of him is left.
        world.run(s(40));
        assert!(world.list(s(0)).is_empty() && !world.agents[0].watches);
    }

    #[test]
    fn twenty_agents_have_their_turns_one_by_one() {
        for (seed, at_most) in [(1, 1), (2, 3)] {
            let mut world = World::new(20, at_most, seed);
            world.run(s(600));
            assert!(world.agents.iter().all(|agent| agent.turns == 1));
            assert_eq!(world.most, at_most);
        }
    }

    #[test]
    fn a_holder_that_is_killed_loses_his_turn_to_the_next() {
        let mut world = World::new(2, 1, 3);
        while world.agents[0].holds.is_none() && world.agents[1].holds.is_none() {
            world.run(ms(50));
        }
        let holder = usize::from(world.agents[0].holds.is_none());
        world.kill(holder, ms(0));
        world.agents[holder].asks_at = None;
        world.run(LONGEST + FRESH + s(15));
        assert_eq!(world.agents[1 - holder].turns, 1);
    }

    #[test]
    fn a_holder_that_lost_only_his_connection_is_waited_for() {
        let mut world = World::new(2, 1, 3);
        while world.agents[0].holds.is_none() && world.agents[1].holds.is_none() {
            world.run(ms(50));
        }
        let holder = usize::from(world.agents[0].holds.is_none());
        world.run(s(1));
        let address = world.agents[holder].address;
        world.write(address, None);
        world.agents[holder].cut = world.now + s(60);
        world.agents[holder].ends = world.now + LONGEST - s(1);
        world.run(LONGEST + FRESH + s(15));
        assert_eq!(world.agents[1 - holder].turns, 1);
    }

    #[test]
    fn the_first_in_the_line_waits_for_a_later_one_that_has_begun() {
        for stage in [Stage::Claim, Stage::Waiting, Stage::Done] {
            let mut lease = Lease::new(rules(1), 1);
            lease.handle(s(0), Event::Asked { id: 5 });
            let later = Ticket {
                id: 9,
                number: 9,
                mark: 1,
                stage,
            };
            let mut own = Vec::new();
            let mut granted = false;
            for second in 0..20 {
                // It appears only after our number was drawn.
                let others = (second > 0).then_some(later);
                let all = own.last().copied().into_iter().chain(others);
                let list = all.map(|ticket| Seen {
                    ticket,
                    longest: s(1),
                });
                lease.handle(s(second), Event::Listed(list.collect()));
                while let Some(effect) = lease.effect() {
                    match effect {
                        Effect::Publish(ticket) => {
                            own.push(ticket);
                            lease.handle(s(second), Event::Published(Ok(())));
                        }
                        Effect::Grant(_) => granted = true,
                        _ => {}
                    }
                }
            }
            assert_eq!(own[0].number, 1);
            assert_eq!(granted, stage != Stage::Claim, "{stage:?}");
        }
    }

    #[test]
    fn a_registry_that_is_away_does_not_keep_a_reload_for_ever() {
        for then in [FleetThen::Reload, FleetThen::Wait] {
            let rules = Rules { then, ..rules(1) };
            let mut lease = Lease::new(rules, 1);
            lease.handle(s(5), Event::Asked { id: 1 });
            let mut granted = None;
            while let Some(at) = lease.deadline() {
                assert!(at <= s(605));
                lease.wake(at);
                while let Some(effect) = lease.effect() {
                    if let Effect::Grant(why) = effect {
                        granted = Some((at, why.unwrap()));
                    }
                }
            }
            let why = "the registry did not say who else waits".to_owned();
            let expected = (then == FleetThen::Reload).then_some((s(605), why));
            assert_eq!(granted, expected);
        }
    }

    #[test]
    fn a_ticket_that_somebody_forged_is_not_waited_for_for_ever() {
        let rules = Rules {
            then: FleetThen::Reload,
            ..rules(1)
        };
        let mut lease = Lease::new(rules, 1);
        lease.handle(s(0), Event::Asked { id: 5 });
        let forged = Ticket {
            id: 1,
            number: 1,
            mark: 0,
            stage: Stage::Claim,
        };
        let mut now = s(0);
        let granted = loop {
            let seen = Seen {
                ticket: forged,
                longest: s(9),
            };
            lease.handle(now, Event::Listed(vec![seen]));
            let mut granted = None;
            while let Some(effect) = lease.effect() {
                match effect {
                    Effect::Publish(_) => lease.handle(now, Event::Published(Ok(()))),
                    Effect::Grant(why) => granted = Some(why),
                    _ => {}
                }
            }
            if let Some(granted) = granted {
                break granted;
            }
            now += s(1);
        };
        assert_eq!(now, s(600));
        assert_eq!(granted.as_deref(), Some("nothing moved in the line"));
    }

    #[test]
    fn a_ticket_is_an_instance_that_nobody_is_sent_to_and_reads_back_as_itself() {
        let owner = Owner {
            line: line_of(&ServiceKey {
                namespace: crate::nacos::model::Namespace::public(),
                group: "G".into(),
                name: "orders".into(),
            }),
            address: u64::MAX,
            host: "a".into(),
            longest: s(30),
        };
        let one = Ticket {
            id: 77,
            number: 3,
            mark: 9,
            stage: Stage::Claim,
        };
        let instance = instance(&owner, &one);
        assert_eq!(
            instance.key.to_string(),
            "G@@outrigger-turns-orders#255.255.255.254#65535"
        );
        let silence = instance.metadata[preserved::IP_DELETE_TIMEOUT].as_str();
        assert_eq!((instance.weight, silence), (0.0, "45000"));
        let listed = |change: (&str, &str)| {
            let mut metadata = instance.metadata.clone();
            metadata.insert(change.0.to_owned(), change.1.to_owned());
            let listed = Listed {
                ip: Foreign::from("240.0.0.1"),
                port: 1,
                cluster: Foreign::from("DEFAULT"),
                weight: 0.0,
                healthy: true,
                enabled: true,
                ephemeral: Some(true),
                metadata: metadata
                    .iter()
                    .map(|(key, value)| (Foreign::from(&**key), Foreign::from(&**value)))
                    .collect(),
            };
            tickets(&[listed])
        };
        let longest = s(30);
        let ticket = one;
        assert_eq!(listed(("a", "b")), [Seen { ticket, longest }]);
        assert_eq!(
            listed((super::LONGEST, "99999999999"))[0].longest,
            MOST_LONGEST
        );
        for wrong in [
            (ID, "zz"),
            (NUMBER, "0"),
            (NUMBER, "18446744073709551615"),
            (STAGE, "held"),
            (MARK, "-1"),
        ] {
            assert_eq!(listed(wrong), [], "{wrong:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Calls fail or are heard all the same, lists are late, clocks run apart, agents are killed, cut off and come back,
        /// connections break, the registry starts anew: never more than `at_most` hold a turn, and everybody has one in the end.
        #[test]
        fn never_more_than_may_hold_a_turn_and_everybody_gets_one(
            seed: u64,
            at_most in 1_usize..3,
            agents in 2_usize..7,
            faults in prop::collection::vec((0_u8..5, 0_usize..7, 0_u64..60), 0..12),
        ) {
            let mut world = World::new(agents, at_most, seed);
            world.wanted = 3;
            for (what, whom, wait) in faults {
                let whom = whom % agents;
                match what {
                    0 => { let noticed = world.up_to(s(20)); world.kill(whom, noticed) }
                    1 => { let period = world.up_to(s(60)); world.cut(whom, period) }
                    2 => world.flap(whom),
                    3 => world.forget(),
                    _ => if world.agents[whom].asks_at.is_none() && world.agents[whom].holds.is_none() {
                        world.tell(whom, Some(Event::Ended));
                        let at = world.now;
                        world.agents[whom].turns = 0;
                        world.agents[whom].asks_at = Some(at + s(1));
                    },
                }
                world.run(s(wait));
            }
            world.run(s(600));
            for agent in &world.agents {
                prop_assert!(agent.turns >= 1, "{:?} of {:?}", agent.lease, world.agents.iter().map(|agent| (&agent.lease, agent.kept)).collect::<Vec<_>>());
            }
        }
    }
}
