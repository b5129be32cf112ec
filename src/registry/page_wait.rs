//! Which open pages wait for something to happen in the registry, and how long.
//!
//! Whatever may have changed what a page shows has a number, which goes up. A page says which number it has seen: if it is the
//! last one the page is held until the next, or until its hold ends; else it is answered at once. The machine knows nothing of
//! what is shown: whoever answers draws it then, so that a page shows what is, however much happened meanwhile.

use crate::machine::Machine;
use crate::machine::Moment;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Pages that wait at most.
pub(crate) const PAGES: usize = 64;
/// The longest hold.
pub(crate) const HOLD: Duration = Duration::from_secs(15);

/// Which page; never used twice.
pub(crate) type Page = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A page asked, which has seen this number, if any.
    Asked {
        page: Page,
        seen: Option<u64>,
        hold: Duration,
    },
    /// Something happened.
    Happened,
    /// A page went away.
    Left(Page),
    /// The registry stops: none is held any more.
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Answer a page.
    Show(Page),
    /// Too many are held.
    Refuse(Page),
}

/// All pages that wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageWait {
    number: u64,
    held: BTreeMap<Page, Moment>,
    due: BTreeSet<(Moment, Page)>,
    stopping: bool,
    effects: VecDeque<Effect>,
}

impl PageWait {
    /// The number of what happened last.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn show_all(&mut self) {
        self.due.clear();
        let all = std::mem::take(&mut self.held).into_keys();
        self.effects.extend(all.map(Effect::Show));
    }
}

impl Machine for PageWait {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Moment, event: Event) {
        match event {
            Event::Asked { page, seen, hold } => {
                if self.stopping || seen != Some(self.number) || hold.is_zero() {
                    self.effects.push_back(Effect::Show(page));
                } else if self.held.len() >= PAGES {
                    self.effects.push_back(Effect::Refuse(page));
                } else {
                    let until = now.saturating_add(hold.min(HOLD));
                    self.held.insert(page, until);
                    self.due.insert((until, page));
                }
            }
            Event::Happened => {
                self.number += 1;
                self.show_all();
            }
            Event::Left(page) => {
                if let Some(until) = self.held.remove(&page) {
                    self.due.remove(&(until, page));
                }
            }
            Event::Stopping => {
                self.stopping = true;
                self.show_all();
            }
        }
    }

    fn wake(&mut self, now: Moment) {
        while let Some((at, page)) = self.due.first().copied()
            && at <= now
        {
            self.due.remove(&(at, page));
            self.held.remove(&page);
            self.effects.push_back(Effect::Show(page));
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

    fn asked(page: Page, seen: Option<u64>) -> Event {
        Event::Asked {
            page,
            seen,
            hold: s(60),
        }
    }

    #[test]
    fn who_has_seen_the_last_number_waits_for_the_next_or_for_the_end_of_its_hold() {
        let mut pages = PageWait::default();
        pages.handle(s(0), asked(1, None));
        assert_eq!(pages.effect(), Some(Effect::Show(1)), "nothing seen yet");
        pages.handle(s(0), asked(2, Some(0)));
        assert_eq!((pages.effect(), pages.deadline()), (None, Some(HOLD)));
        pages.handle(s(1), Event::Happened);
        assert_eq!((pages.effect(), pages.number()), (Some(Effect::Show(2)), 1));
        pages.handle(s(1), asked(3, Some(0)));
        assert_eq!(pages.effect(), Some(Effect::Show(3)), "it was overtaken");
        pages.handle(s(2), asked(4, Some(1)));
        pages.wake(s(17));
        assert_eq!(pages.effect(), Some(Effect::Show(4)));
    }

    #[test]
    fn only_so_many_wait() {
        let mut pages = PageWait::default();
        for page in 0..PAGES as u64 {
            pages.handle(s(0), asked(page, Some(0)));
        }
        assert_eq!(pages.effect(), None);
        pages.handle(s(0), asked(99, Some(0)));
        assert_eq!(pages.effect(), Some(Effect::Refuse(99)));
        pages.handle(s(0), Event::Left(0));
        pages.handle(s(0), asked(100, Some(0)));
        assert_eq!(pages.effect(), None);
    }

    proptest! {
        #[test]
        fn each_page_is_answered_once_unless_it_left(steps in proptest::collection::vec((0..4_u8, 0..9_u64), 0..60)) {
            let (mut pages, mut now, mut open) = (PageWait::default(), s(0), BTreeSet::new());
            for (next, (what, how)) in (0..).zip(steps) {
                match what {
                    0 => {
                        now += s(how);
                        pages.wake(now);
                    }
                    1 => pages.handle(now, Event::Happened),
                    2 if how < next => {
                        pages.handle(now, Event::Left(how));
                        if pages.effects.iter().all(|effect| *effect != Effect::Show(how)) {
                            open.remove(&how);
                        }
                    }
                    _ => {
                        open.insert(next);
                        let seen = (how > 2).then_some(pages.number());
                        pages.handle(now, Event::Asked { page: next, seen, hold: s(how) });
                    }
                }
                while let Some(Effect::Show(page) | Effect::Refuse(page)) = pages.effect() {
                    prop_assert!(open.remove(&page), "{page} is answered twice or has left");
                }
                prop_assert!(pages.held.keys().eq(open.iter()));
                prop_assert_eq!(pages.due.len(), pages.held.len());
            }
        }
    }
}
