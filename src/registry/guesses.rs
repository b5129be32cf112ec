//! Who said a wrong password, how late each is told so, and who says no more meanwhile.
//!
//! A failure is told after half a second; the more there were of that user or of that address (each forgets five a minute), the
//! later, up to ten seconds. That also hides how long the password was looked at. Who is right is told at once, whatever others
//! did. So that guessing on many connections is no faster, a user at an address, an address, and all together have a bounded
//! number of failures that wait to be told; who is at a bound is refused before any password is looked at. Hanging up does not
//! end the wait.

use crate::machine::Machine;
use crate::machine::Moment;
use crate::registry::model::Ticket;
use crate::registry::users::NAME;
use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// How late a failure is told at least.
const SOONEST: Duration = Duration::from_millis(500);
/// How late at most.
const LATEST: Duration = Duration::from_secs(10);
/// Failures that make none of the next ones later.
const FREE: u32 = 5;
/// One failure is forgotten in this time.
const FORGETS: Duration = Duration::from_secs(12);
/// Failures that are counted at most: so many minutes of calm, and all is forgotten.
const COUNTED: u32 = 15;
/// Users and addresses whose failures are counted, each.
const KNOWN: usize = 1_024;
/// Failures of one user at one address that wait to be told.
pub(crate) const OF_USER: usize = 4;
/// Of one address.
pub(crate) const OF_ADDRESS: usize = 16;
/// Of all.
pub(crate) const OF_ALL: usize = 256;

/// Whose password was said, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    user: String,
    address: IpAddr,
}

impl Who {
    /// Names that are longer than any user's are one, and so are the addresses of one network of IPv6.
    pub(crate) fn new(user: &str, address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => v4.into(),
                None => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            },
            v4 @ IpAddr::V4(_) => v4,
        };
        Self {
            user: user.chars().take(NAME + 1).collect(),
            address,
        }
    }
}

/// A number of failures that is forgotten with time.
#[derive(Clone, Copy, Debug)]
struct Count {
    failures: u32,
    at: Moment,
}

impl Count {
    fn at(self, now: Moment) -> u32 {
        let calm = now.saturating_sub(self.at).as_secs() / FORGETS.as_secs();
        self.failures
            .saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX))
    }
}

/// Counts one more failure of `of`; how many there are.
fn count<K: Ord + Clone>(counts: &mut BTreeMap<K, Count>, of: &K, now: Moment) -> u32 {
    if counts.len() >= KNOWN && !counts.contains_key(of) {
        counts.retain(|_, count| count.at(now) > 0);
        if counts.len() >= KNOWN {
            let least = counts
                .iter()
                .min_by_key(|(_, count)| (count.at(now), count.at));
            if let Some(least) = least.map(|(least, _)| least.clone()) {
                counts.remove(&least);
            }
        }
    }
    let before = counts.get(of).map_or(0, |count| count.at(now));
    let failures = (before + 1).min(COUNTED);
    counts.insert(of.clone(), Count { failures, at: now });
    failures
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A password was wrong.
    Failed {
        /// Who is told.
        ticket: Ticket,
        /// Whose password was said, and where.
        who: Who,
        /// When.
        asked: Moment,
    },
    /// The registry stops: everybody is told now.
    Stopping,
}

/// Tell who holds the ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tell(pub(crate) Ticket);

/// The machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guesses {
    users: BTreeMap<String, Count>,
    addresses: BTreeMap<IpAddr, Count>,
    waiting: BTreeMap<(Moment, Ticket), Who>,
    effects: VecDeque<Tell>,
    stopping: bool,
}

impl Guesses {
    /// The bound that `who` has come to, if any.
    pub(crate) fn bound(&self, who: &Who) -> Option<(&'static str, usize)> {
        let here = || self.waiting.values().filter(|it| it.address == who.address);
        if here().filter(|it| it.user == who.user).count() >= OF_USER {
            Some((
                "failed logins of one user at one address at a time",
                OF_USER,
            ))
        } else if here().count() >= OF_ADDRESS {
            Some(("failed logins at one address at a time", OF_ADDRESS))
        } else if self.waiting.len() >= OF_ALL {
            Some(("failed logins at a time", OF_ALL))
        } else {
            None
        }
    }
}

impl Machine for Guesses {
    type Event = Event;
    type Effect = Tell;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Failed { ticket, who, asked } => {
                let failures = count(&mut self.users, &who.user, now).max(count(
                    &mut self.addresses,
                    &who.address,
                    now,
                ));
                let late = match failures.saturating_sub(FREE) {
                    0 => SOONEST,
                    more => Duration::from_secs(1 << (more - 1).min(4)).min(LATEST),
                };
                let due = if self.stopping {
                    now
                } else {
                    asked.saturating_add(late).max(now)
                };
                self.waiting.insert((due, ticket), who);
            }
            Event::Stopping => {
                self.stopping = true;
                let all = std::mem::take(&mut self.waiting);
                self.effects
                    .extend(all.into_keys().map(|(_, ticket)| Tell(ticket)));
            }
        }
        self.wake(now);
    }

    fn wake(&mut self, now: Moment) {
        while let Some(first) = self
            .waiting
            .first_entry()
            .filter(|first| first.key().0 <= now)
        {
            self.effects.push_back(Tell(first.key().1));
            first.remove();
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }

    fn effect(&mut self) -> Option<Tell> {
        self.effects.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn who(user: &str, last: u8) -> Who {
        Who::new(user, [10, 0, 0, last].into())
    }

    /// How late a failure that is known at once is told.
    fn late(guesses: &mut Guesses, now: Moment, who: Who) -> Duration {
        let ticket = Ticket(u64::try_from(now.as_millis()).unwrap());
        guesses.handle(
            now,
            Event::Failed {
                ticket,
                who,
                asked: now,
            },
        );
        let due = guesses.deadline().unwrap();
        guesses.wake(due);
        assert_eq!(guesses.effect(), Some(Tell(ticket)));
        due - now
    }

    #[test]
    fn a_failure_is_told_later_the_more_there_were_and_a_minute_of_calm_forgives_five() {
        let mut it = Guesses::default();
        let all: Vec<u64> = (1..=12)
            .map(|i| late(&mut it, ms(i), who("ann", 1)).as_secs())
            .collect();
        assert_eq!(all, [0, 0, 0, 0, 0, 1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(
            late(&mut it, ms(13), who("bob", 2)),
            SOONEST,
            "another one elsewhere"
        );
        assert_eq!(
            late(&mut it, ms(14), who("ann", 3)),
            LATEST,
            "the same one elsewhere"
        );
        assert_eq!(
            late(&mut it, ms(15), who("cid", 1)),
            LATEST,
            "another one there"
        );
        let later = ms(61_000);
        assert_eq!(late(&mut it, later, who("ann", 4)), ms(8_000));
        assert_eq!(late(&mut it, later + ms(600_000), who("ann", 1)), SOONEST);
    }

    #[test]
    fn the_time_that_a_password_was_looked_at_is_part_of_the_wait() {
        let mut it = Guesses::default();
        let failed = |ticket, asked| Event::Failed {
            ticket: Ticket(ticket),
            who: who("ann", 1),
            asked,
        };
        it.handle(ms(1_300), failed(1, ms(1_000)));
        assert_eq!(it.deadline(), Some(ms(1_500)));
        it.handle(ms(3_000), failed(2, ms(1_000)));
        assert_eq!(
            (it.effect(), it.effect()),
            (Some(Tell(Ticket(1))), Some(Tell(Ticket(2))))
        );
    }

    #[test]
    fn many_at_a_time_come_to_a_bound_and_others_do_not() {
        let mut it = Guesses::default();
        let mut ticket = 0;
        let mut fail = |it: &mut Guesses, user: &str, last: u8| {
            ticket += 1;
            let event = Event::Failed {
                ticket: Ticket(ticket),
                who: who(user, last),
                asked: ms(0),
            };
            it.handle(ms(0), event);
        };
        for _ in 0..OF_USER {
            assert_eq!(it.bound(&who("ann", 1)), None);
            fail(&mut it, "ann", 1);
        }
        assert_eq!(it.bound(&who("ann", 1)).unwrap().1, OF_USER);
        assert_eq!(
            (it.bound(&who("bob", 1)), it.bound(&who("ann", 2))),
            (None, None)
        );
        for i in OF_USER..OF_ADDRESS {
            fail(&mut it, &i.to_string(), 1);
        }
        assert_eq!(it.bound(&who("bob", 1)).unwrap().1, OF_ADDRESS);
        for i in OF_ADDRESS..OF_ALL {
            fail(&mut it, "ann", u8::try_from(i / 2).unwrap());
        }
        assert_eq!(it.bound(&who("eve", 255)).unwrap().1, OF_ALL);
        it.handle(ms(1), Event::Stopping);
        assert_eq!(std::iter::from_fn(|| it.effect()).count(), OF_ALL);
        assert_eq!((it.deadline(), it.bound(&who("ann", 1))), (None, None));
    }

    #[test]
    fn what_is_counted_has_a_bound_and_who_failed_most_is_forgotten_last() {
        let mut it = Guesses::default();
        for i in 0..8 {
            late(&mut it, ms(i), who("ann", 1));
        }
        for i in 0..2_000_u64 {
            late(
                &mut it,
                ms(10 + i),
                Who::new(
                    &i.to_string(),
                    Ipv6Addr::from_bits(u128::from(i) << 64).into(),
                ),
            );
            assert!(it.users.len() <= KNOWN && it.addresses.len() <= KNOWN);
        }
        assert_eq!(late(&mut it, ms(3_000), who("ann", 9)), ms(8_000));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_ipv4_is_itself() {
        let of = |address: &str| Who::new("ann", address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        let long = "x".repeat(NAME + 1);
        let longer = "x".repeat(10_000);
        let address = [10, 0, 0, 1].into();
        assert_eq!(Who::new(&long, address), Who::new(&longer, address));
    }
}
