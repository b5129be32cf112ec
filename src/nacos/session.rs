//! The login: one token for all calls, renewed before it ends and after a server denied it, never twice at a time.
//!
//! `tokenTtl` is the whole life of a token; it is renewed when nine tenths of it are over. A token that was denied is replaced
//! at once, but not more often than the pace of a backoff: wrong credentials must not become a storm of logins (each failed one
//! costs the server a password hash). However many calls are denied with one token, that is one piece of news; and no login
//! begins within a second of the one before.

use crate::backoff::Backoff;
use crate::backoff::Pace;
use crate::machine::Machine;
use crate::machine::Moment;
use std::{collections::VecDeque, time::Duration};

/// No token is trusted longer, whatever its server says: clocks and restarts end them early.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// No login begins sooner after another one, however short the life of a token and whatever is denied.
const SHORTEST: Duration = Duration::from_secs(1);
/// A token denied after this long was good before.
const SERVED: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A login gave a token that lives for `ttl`.
    LoggedIn {
        /// `tokenTtl`.
        ttl: Duration,
    },
    /// A login was refused or not answered.
    LoginFailed,
    /// The servers are others: the token is for none of them.
    Moved,
    /// A call with the token of this number was denied (401, 403).
    Denied {
        /// Number of the token: old ones are known to be bad already.
        serial: u64,
    },
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Log in; exactly one of [`Event::LoggedIn`] and [`Event::LoginFailed`] answers. The new token gets this number.
    Login {
        /// Counts from 1.
        serial: u64,
    },
}

/// The machine.
#[derive(Debug)]
pub struct Session {
    /// Number of the token in use; 0 before the first.
    serial: u64,
    under_way: bool,
    next: Option<Moment>,
    /// When the last login began.
    began: Option<Moment>,
    /// When the last login succeeded.
    logged_in: Moment,
    /// The token in use was denied.
    denied: bool,
    failures: Backoff,
    due: VecDeque<Effect>,
}

impl Session {
    /// Logs in at once.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut machine = Self {
            serial: 0,
            under_way: false,
            next: None,
            began: None,
            logged_in: Moment::ZERO,
            denied: false,
            failures: Backoff::new(Pace::NETWORK, seed),
            due: VecDeque::new(),
        };
        machine.login(Moment::ZERO);
        machine
    }

    fn login(&mut self, now: Moment) {
        self.began = Some(now);
        self.next = None;
        self.under_way = true;
        self.due.push_back(Effect::Login {
            serial: self.serial + 1,
        });
    }
}

impl Session {
    fn plan(&mut self, at: Moment) {
        let soonest = self.began.map_or(Moment::ZERO, |began| began + SHORTEST);
        self.next = Some(at.max(soonest));
    }
}

impl Machine for Session {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::LoggedIn { ttl } => {
                self.serial += 1;
                self.under_way = false;
                self.logged_in = now;
                self.denied = false;
                self.plan(now + ttl.min(LONGEST) * 9 / 10);
            }
            Event::LoginFailed => {
                self.under_way = false;
                let wait = self.failures.next_wait();
                self.plan(now + wait);
            }
            // A call without a token, number 0, is denied because there is none yet: nothing new.
            Event::Denied { serial }
                if serial == self.serial && serial > 0 && !self.denied && !self.under_way =>
            {
                self.denied = true;
                // A token that served for a while was good: the server has restarted, say. One that is denied at once belongs to
                // a user without rights, and logging in again and again would help nobody.
                if now.saturating_sub(self.logged_in) > SERVED {
                    self.failures.reset();
                }
                let soon = now + self.failures.next_wait();
                self.plan(self.next.map_or(soon, |next| next.min(soon)));
            }
            Event::Moved if self.serial > 0 && !self.under_way => self.plan(now),
            // What is under way comes back as failed, or there was no token yet.
            Event::Moved | Event::Denied { .. } => {}
        }
    }

    fn wake(&mut self, now: Moment) {
        if self.next.is_some_and(|at| at <= now) && !self.under_way {
            self.login(now);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        self.next
    }

    fn effect(&mut self) -> Option<Effect> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_renewed_when_nine_tenths_of_its_life_are_over() {
        let mut session = Session::new(1);
        assert_eq!(session.effect(), Some(Effect::Login { serial: 1 }));
        session.handle(
            Duration::from_secs(1),
            Event::LoggedIn {
                ttl: Duration::from_secs(100),
            },
        );
        assert_eq!(session.deadline(), Some(Duration::from_secs(91)));
        session.wake(Duration::from_secs(91));
        assert_eq!(session.effect(), Some(Effect::Login { serial: 2 }));
    }

    #[test]
    fn a_denial_of_an_old_token_means_nothing() {
        let mut session = Session::new(1);
        session.effect();
        let ttl = Duration::from_secs(100);
        session.handle(Moment::ZERO, Event::LoggedIn { ttl });
        let before = session.deadline();
        session.handle(Moment::ZERO, Event::Denied { serial: 0 });
        assert_eq!(session.deadline(), before);
        session.handle(Moment::ZERO, Event::Denied { serial: 1 });
        assert_eq!(session.deadline(), Some(SHORTEST), "it began just now");
    }

    #[test]
    fn a_token_that_served_is_replaced_within_half_a_second_of_its_denial() {
        let mut session = Session::new(1);
        session.effect();
        let ttl = Duration::from_secs(18_000);
        session.handle(Moment::ZERO, Event::LoggedIn { ttl });
        let now = Duration::from_secs(3600);
        session.handle(now, Event::Denied { serial: 1 });
        assert!(session.deadline().unwrap() < now + Duration::from_millis(500));
    }

    #[test]
    fn other_servers_get_a_token_of_their_own() {
        let mut session = Session::new(1);
        session.handle(Moment::ZERO, Event::Moved);
        assert_eq!(session.deadline(), None, "the first login is under way");
        session.effect();
        let ttl = Duration::from_secs(18_000);
        session.handle(Moment::ZERO, Event::LoggedIn { ttl });
        let now = Duration::from_secs(60);
        session.handle(now, Event::Moved);
        assert_eq!(session.deadline(), Some(now));
    }

    #[test]
    fn a_thousand_denials_are_one() {
        let mut session = Session::new(1);
        session.effect();
        // Without a token there is nothing to deny.
        session.handle(Moment::ZERO, Event::LoginFailed);
        let planned = session.deadline();
        for _ in 0..1000 {
            session.handle(Moment::ZERO, Event::Denied { serial: 0 });
        }
        assert_eq!(session.deadline(), planned);
        let mut now = planned.unwrap();
        session.wake(now);
        session.effect();
        let ttl = Duration::from_secs(18_000);
        session.handle(now, Event::LoggedIn { ttl });
        now += Duration::from_secs(100);
        session.handle(now, Event::Denied { serial: 1 });
        let planned = session.deadline();
        for _ in 0..1000 {
            session.handle(now, Event::Denied { serial: 1 });
        }
        assert_eq!(session.deadline(), planned);
    }

    #[test]
    fn a_thousand_agents_after_an_outage_spread_their_logins_over_the_backoff_window() {
        // All at once lose their tokens; for ten minutes nobody can log in.
        let back = Duration::from_secs(600);
        let mut logins = Vec::new();
        for seed in 0..1000 {
            let mut session = Session::new(seed);
            let (mut now, mut tries) = (Moment::ZERO, 0);
            while now < back {
                while session.effect().is_some() {
                    tries += 1;
                    session.handle(now, Event::LoginFailed);
                }
                now = session.deadline().unwrap();
                session.wake(now);
            }
            assert!(tries < 80, "{tries} tries in ten minutes");
            logins.push(now);
        }
        let most = (0..30)
            .map(|second| {
                let slot =
                    back + Duration::from_secs(second)..back + Duration::from_secs(second + 1);
                logins.iter().filter(|at| slot.contains(*at)).count()
            })
            .max()
            .unwrap();
        // Evenly over half a minute it would be 33; a wait that has begun ends sooner than a new one.
        assert!(most < 120, "{most} of a thousand in one second");
        assert!(logins.iter().all(|at| *at < back + Duration::from_secs(31)));
    }

    proptest! {
        /// Whatever happens in whatever order: never two logins at a time, always another one to come, and a user whose every
        /// token is denied at once logs in less and less often.
        #[test]
        fn one_login_at_a_time_and_never_a_storm(seed: u64, steps in prop::collection::vec(0_u8..5, 0..200)) {
            let mut session = Session::new(seed);
            let (mut now, mut under_way, mut serial) = (Moment::ZERO, false, 0);
            let mut began: Option<Moment> = None;
            for step in steps {
                while let Some(Effect::Login { serial: next }) = session.effect() {
                    prop_assert!(!under_way);
                    prop_assert!(began.is_none_or(|began| now >= began + SHORTEST));
                    began = Some(now);
                    under_way = true;
                    serial = next;
                }
                match step {
                    4 => session.handle(now, Event::Moved),
                    0 if under_way => {
                        under_way = false;
                        session.handle(now, Event::LoggedIn { ttl: Duration::from_secs(18_000) });
                    }
                    1 if under_way => {
                        under_way = false;
                        session.handle(now, Event::LoginFailed);
                    }
                    2 => session.handle(now, Event::Denied { serial }),
                    _ => if let Some(deadline) = session.deadline() {
                        now = now.max(deadline);
                        session.wake(now);
                    },
                }
                prop_assert!(under_way || session.deadline().is_some() || !session.due.is_empty());
            }
        }

        #[test]
        fn a_user_without_rights_slows_down(seed: u64) {
            let mut session = Session::new(seed);
            let (mut now, mut logins) = (Moment::ZERO, 0);
            while now < Duration::from_secs(600) {
                while session.effect().is_some() {
                    logins += 1;
                    session.handle(now, Event::LoggedIn { ttl: Duration::from_secs(18_000) });
                    session.handle(now, Event::Denied { serial: logins });
                }
                now = session.deadline().unwrap();
                session.wake(now);
            }
            prop_assert!(logins < 150, "{} logins in ten minutes", logins);
        }
    }
}
