//! The calls of `/v3/`, which 3.0.3 alone has: which there are, how they are answered, and those about the server itself.
//!
//! Every answer is JSON with a code; only a code of 0 is a yes. 3.0.3 asks for a token under `/v3/admin` even when it asks for none
//! elsewhere; here it is asked for everywhere or nowhere.

use crate::registry::admin_config_calls;
use crate::registry::admin_naming_calls;
use crate::registry::call::Answer;
use crate::registry::call::Call;
use crate::registry::call::Time;
use crate::registry::client_calls;
use crate::registry::console_calls;
use crate::registry::forms::Params;
use crate::registry::like::Like;
use crate::registry::namespaces;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;
use serde_json::{Value, json};

/// Carries out a call; what comes back is the `data` of its answer.
pub(crate) type Run = fn(&mut State, Time, &Call) -> Result<Value, Refusal>;

/// A call: method, route, and what carries it out.
pub(crate) type Row = (&'static str, &'static str, Run);

const LOGIN: &str = "/v3/auth/user/login";

const CORE: &[Row] = &[
    ("GET", "/v3/admin/core/state", |state, _, _| {
        Ok(console_calls::server_state(state))
    }),
    ("GET", "/v3/admin/core/state/liveness", ok),
    ("GET", "/v3/admin/core/state/readiness", ok),
    ("GET", "/v3/admin/core/cluster/node/self", |state, _, _| {
        Ok(console_calls::node(state))
    }),
    ("GET", "/v3/admin/core/cluster/node/list", nodes),
];

/// Answers a call whose route begins with `/v3/`.
pub(crate) fn answer(state: &mut State, time: Time, call: &Call) -> Result<Answer, Refusal> {
    let route = call.route.as_str();
    if state.like != Like::V3_0 {
        return Err(Refusal::NoPath(call.what()));
    }
    if (call.method.as_str(), route) == ("POST", LOGIN) {
        return console_calls::login(call);
    }
    let all = [
        CORE,
        namespaces::V3_CALLS,
        client_calls::CALLS,
        admin_naming_calls::CALLS,
        admin_config_calls::CALLS,
    ];
    let here = || all.iter().copied().flatten().filter(|row| row.1 == route);
    let Some((.., run)) = here().find(|row| row.0 == call.method) else {
        return Err(if route == LOGIN || here().next().is_some() {
            Refusal::Method(call.method.clone())
        } else {
            Refusal::NoPath(call.what())
        });
    };
    if route.starts_with("/v3/client/ns/") || route.starts_with("/v3/admin/ns/") {
        call.params.check()?;
    }
    let data = run(state, time, call)?;
    Ok(Answer::json(
        &json!({"code": 0, "message": "success", "data": data}),
    ))
}

/// What is answered when there is nothing to tell.
pub(crate) fn ok(_: &mut State, _: Time, _: &Call) -> Result<Value, Refusal> {
    Ok("ok".into())
}

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

pub(crate) fn nodes(state: &mut State, _: Time, call: &Call) -> Result<Value, Refusal> {
    let params = &call.params;
    let up = match params.get("state").map(str::to_ascii_uppercase).as_deref() {
        None | Some("UP") => true,
        Some("STARTING" | "SUSPICIOUS" | "DOWN" | "ISOLATION") => false,
        Some(_) => {
            return Err(Refusal::NodeState(
                params.get("state").unwrap_or_default().to_owned(),
            ));
        }
    };
    let begins = params.get("address").unwrap_or_default();
    let meant = up && console_calls::own_address(state).starts_with(begins);
    Ok(meant
        .then(|| console_calls::node(state))
        .into_iter()
        .collect())
}
