//! Nothing leaves before what it tells of is kept: the order in which changes are written and answers go out.
//!
//! What the desk wants done after one event is a batch. A batch with changes is held until they are on disk, and so is every batch
//! after it, in order: whoever is told of a change, by an answer, a list or a push, is told of one that survives. While one commit
//! runs, all that comes is held for the next one, which is one for all of it: so the disk's pace bounds how long an answer takes, not
//! how many there are. With nothing held, what has no changes goes out at once.
//!
//! When a commit fails, all that is held is refused and what it changed is taken back; from then on the gate is shut: what changes
//! something is refused at once, and all else goes on, until a commit succeeds again.

use crate::registry::desk::Effect;
use crate::registry::desk::HELD;
use crate::registry::kept::Change;
use crate::registry::kept::Kept;
use std::collections::VecDeque;

/// Bytes of changes that may wait for the disk before no more requests are taken.
const BYTES: usize = 128 * 1024 * 1024;

/// What came of one event.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) changes: Vec<Change>,
    pub(crate) effects: Vec<Effect>,
}

impl Batch {
    /// What the desk wants done.
    pub(crate) fn new(all: impl Iterator<Item = Effect>) -> Self {
        let mut batch = Self::default();
        for effect in all {
            match effect {
                Effect::Keep(changes) => batch.changes.extend(changes),
                effect => batch.effects.push(effect),
            }
        }
        batch
    }

    fn weight(&self) -> usize {
        let kept = self.changes.iter().filter_map(|change| change.is.as_ref());
        kept.map(Kept::weight).sum()
    }
}

/// What becomes of a batch.
#[derive(Debug)]
pub(crate) enum Passed {
    /// It goes out.
    Out(Batch),
    /// It is held. There is something to commit, if it says so.
    Held(bool),
    /// It cannot be kept, and why.
    Refused(Batch, String),
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    held: VecDeque<Batch>,
    /// Of how many of them the changes are being committed.
    under_way: usize,
    bytes: usize,
    /// Why nothing can be kept.
    shut: Option<String>,
}

impl Gate {
    /// Whether too much waits.
    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= HELD || self.bytes >= BYTES
    }

    /// Whether nothing can be kept.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut.is_some()
    }

    /// Something has happened.
    pub(crate) fn pass(&mut self, batch: Batch) -> Passed {
        let changes = !batch.changes.is_empty();
        match &self.shut {
            Some(why) if changes => return Passed::Refused(batch, why.clone()),
            _ if !changes && self.held.is_empty() => return Passed::Out(batch),
            _ => {}
        }
        self.bytes += batch.weight();
        self.held.push_back(batch);
        Passed::Held(changes)
    }

    /// What is to be committed now, in order; nothing while that is under way already.
    pub(crate) fn next(&mut self) -> Option<Vec<Change>> {
        if self.under_way > 0 || self.held.is_empty() {
            return None;
        }
        self.under_way = self.held.len();
        let changes = self.held.iter().flat_map(|batch| &batch.changes);
        Some(changes.cloned().collect())
    }

    /// The commit has succeeded: what may go out, in order.
    pub(crate) fn kept(&mut self) -> Vec<Batch> {
        let mut out: Vec<Batch> = self.held.drain(..self.under_way).collect();
        self.under_way = 0;
        let changes = self.held.iter().position(|it| !it.changes.is_empty());
        out.extend(self.held.drain(..changes.unwrap_or(self.held.len())));
        self.bytes = self.held.iter().map(Batch::weight).sum();
        out
    }

    /// The commit has failed: what is to be refused, in order.
    pub(crate) fn fail(&mut self, why: String) -> Vec<Batch> {
        self.shut = Some(why);
        self.under_way = 0;
        self.bytes = 0;
        self.held.drain(..).collect()
    }

    /// Commits succeed again.
    pub(crate) fn open(&mut self) {
        self.shut = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::rpc::Payload;
    use crate::registry::kept::Key;
    use crate::registry::model::Ticket;

    fn batch(ticket: u64, changes: bool) -> Batch {
        let change = Change {
            key: Key::Record(ticket),
            was: None,
            is: None,
        };
        Batch {
            changes: changes.then_some(change).into_iter().collect(),
            effects: vec![Effect::Reply(Ticket(ticket), Payload::raw("", ""))],
        }
    }

    fn tickets(batches: Vec<Batch>) -> Vec<u64> {
        let replies = batches.iter().map(|batch| match &batch.effects[..] {
            [Effect::Reply(Ticket(ticket), _)] => *ticket,
            other => unreachable!("all are replies: {other:?}"),
        });
        replies.collect()
    }

    #[test]
    fn what_comes_while_a_commit_runs_shares_the_next_one_and_all_goes_out_in_order() {
        let mut gate = Gate::default();
        assert!(matches!(gate.pass(batch(1, false)), Passed::Out(_)));
        assert!(matches!(gate.pass(batch(2, true)), Passed::Held(true)));
        assert_eq!(gate.next().map(|rows| rows.len()), Some(1));
        for ticket in 3..=6 {
            let passed = gate.pass(batch(ticket, ticket == 4 || ticket == 5));
            assert!(matches!(passed, Passed::Held(_)));
        }
        assert_eq!(gate.next(), None, "one at a time");
        assert_eq!(
            tickets(gate.kept()),
            [2, 3],
            "a read waits for what it shows"
        );
        assert_eq!(gate.next().map(|rows| rows.len()), Some(2));
        assert!(matches!(gate.pass(batch(7, false)), Passed::Held(false)));
        assert_eq!(tickets(gate.kept()), [4, 5, 6, 7]);
        assert!(matches!(gate.pass(batch(8, false)), Passed::Out(_)));
    }

    #[test]
    fn after_a_commit_that_fails_changes_are_refused_and_all_else_goes_on() {
        let mut gate = Gate::default();
        _ = gate.pass(batch(1, true));
        _ = gate.next();
        _ = gate.pass(batch(2, false));
        _ = gate.pass(batch(3, true));
        assert_eq!(tickets(gate.fail("full".to_owned())), [1, 2, 3]);
        assert!(matches!(gate.pass(batch(4, false)), Passed::Out(_)));
        let Passed::Refused(_, why) = gate.pass(batch(5, true)) else {
            panic!("it cannot be kept");
        };
        assert_eq!((why.as_str(), gate.next()), ("full", None));
        gate.open();
        assert!(matches!(gate.pass(batch(6, true)), Passed::Held(true)));
    }

    #[test]
    fn no_more_is_taken_than_may_wait() {
        let mut gate = Gate::default();
        for ticket in 0..HELD as u64 {
            assert!(!gate.is_full());
            _ = gate.pass(batch(ticket, true));
        }
        assert!(gate.is_full());
    }
}
