//! Calls as rows of a table, for the APIs whose answers are `data` in an envelope, and their pages.

use crate::registry::call::Call;
use crate::registry::forms::Params;
use crate::registry::model::Time;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Value, json};

/// Carries out a call; what comes back is the `data` of its answer.
pub(crate) type Run = fn(&mut State, Time, &Call) -> Result<Value, Refusal>;

/// A call: method, route, and what carries it out.
pub(crate) type Row = (&'static str, &'static str, Run);

/// The page that a call asks for, of so many things: how many to leave out, how many to take, and the rest of the answer.
#[derive(Debug)]
pub(crate) struct Page {
    number: usize,
    size: usize,
}

impl Page {
    pub(crate) fn asked(params: &Params) -> Result<Self, Refusal> {
        Ok(Self {
            number: params.positive("pageNo", 1)?,
            size: params.positive("pageSize", 100)?,
        })
    }

    /// The same, of at most so many things.
    pub(crate) fn within(self, most: usize) -> Self {
        Self {
            size: self.size.min(most),
            ..self
        }
    }

    /// The part of `all` that is on this page.
    pub(crate) fn of<T>(&self, all: Vec<T>) -> impl Iterator<Item = T> {
        let before = (self.number - 1).saturating_mul(self.size);
        all.into_iter().skip(before).take(self.size)
    }

    /// Pages of so many things as naming counts them: one too many when the last is full.
    pub(crate) fn available(&self, count: usize) -> usize {
        if count == 0 { 0 } else { count / self.size + 1 }
    }

    /// Pages of so many things as configuration counts them.
    pub(crate) fn needed(&self, count: usize) -> usize {
        count.div_ceil(self.size)
    }

    /// The answer.
    pub(crate) fn answer(&self, count: usize, available: usize, items: Vec<Value>) -> Value {
        json!({
            "totalCount": count,
            "pageNumber": self.number,
            "pagesAvailable": available,
            "pageItems": items,
        })
    }
}

/// What is answered when there is nothing to tell.
pub(crate) fn ok(_: &mut State, _: Time, _: &Call) -> Result<Value, Refusal> {
    Ok("ok".into())
}
