//! The way of one call over the servers: who is asked first, who next, and what an answer says of who gave it.
//!
//! A call asks at most [`TRIES`] servers. In a cluster an error need not be the answering node's: for about 13 s after any node
//! died, the others forward to it and answer 500, or 400 `receive invalid redirect request`. Such a node *stumbled*: the next one
//! is asked, and it is left out only for a moment. One that cannot be reached, times out, is starting (503) or is no Nacos at all
//! has *failed*.

use super::Error;
use super::calls::{Answer, Call};
use super::servers::{self, Order};
use std::{collections::VecDeque, sync::Arc};

/// So many servers are asked by one call.
pub const TRIES: usize = 3;

/// Who is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Whom {
    /// The server in use.
    #[default]
    Preferred,
    /// The one so many places behind it, in a circle of those that work: for reads that must not depend on what one node knows.
    Other(u32),
}

/// The servers that one call still may ask.
#[derive(Debug)]
pub struct Route(VecDeque<Arc<str>>);

impl Route {
    /// Begins with `whom` and goes on in the order of choice.
    #[must_use]
    pub fn over(order: &Order, whom: Whom) -> Self {
        let mut servers: VecDeque<_> = order.servers.iter().cloned().collect();
        if let Whom::Other(places) = whom
            && order.usable > 1
            && let Some(first) = servers.remove(places as usize % order.usable)
        {
            servers.push_front(first);
        }
        servers.truncate(TRIES);
        Self(servers)
    }
}

impl Iterator for Route {
    type Item = Arc<str>;

    /// The next server to ask.
    fn next(&mut self) -> Option<Arc<str>> {
        self.0.pop_front()
    }
}

/// What came of asking one server.
#[derive(Clone, Debug, PartialEq)]
pub enum Judged {
    /// It answered this call, with yes or no: nobody else is asked.
    Answered,
    /// Another server is asked; the server list is told.
    Elsewhere(Error, servers::Event),
}

/// Judges what came of asking `server`.
#[must_use]
pub fn judge(call: &Call, server: &Arc<str>, outcome: &Result<Answer, Error>) -> Judged {
    let error = match outcome {
        Ok(answer) => match call.check(answer) {
            // It is right about what it was asked.
            Ok(()) | Err(Error::Denied { .. } | Error::Refused { .. }) => return Judged::Answered,
            Err(Error::Busy { status, .. }) if call.spares(status) => return Judged::Answered,
            Err(error) => error,
        },
        Err(error) => error.clone(),
    };
    let server = Arc::clone(server);
    let event = match &error {
        Error::Busy { status, .. } if !matches!(status, 429 | 502..=504) => {
            servers::Event::Stumbled(server)
        }
        _ => servers::Event::Failed(server),
    };
    Judged::Elsewhere(error, event)
}

/// Who answered what a call asked, be it with yes or no; trouble is no answer, nor is "starting".
#[must_use]
pub fn who_answered(call: &Call, outcome: &Result<Answer, Error>) -> Option<Arc<str>> {
    let server = &outcome.as_ref().ok()?.server;
    (judge(call, server, outcome) == Judged::Answered).then(|| Arc::clone(server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::calls;

    fn order(usable: usize) -> Order {
        Order {
            servers: ["a", "b", "c", "d"].map(Arc::from).to_vec(),
            usable,
        }
    }

    fn all(route: Route) -> String {
        route.map(|server| server.to_string()).collect()
    }

    #[test]
    fn a_circle_goes_over_those_that_work_and_failures_over_the_rest() {
        assert_eq!(all(Route::over(&order(4), Whom::Preferred)), "abc");
        assert_eq!(all(Route::over(&order(4), Whom::Other(1))), "bac");
        assert_eq!(all(Route::over(&order(4), Whom::Other(4))), "abc");
        assert_eq!(all(Route::over(&order(2), Whom::Other(3))), "bac");
        assert_eq!(all(Route::over(&order(1), Whom::Other(3))), "abc");
        assert_eq!(all(Route::over(&order(0), Whom::Other(3))), "abc");
    }

    #[test]
    fn a_node_that_forwards_to_a_dead_one_stumbles_and_one_that_starts_has_failed() {
        let call = calls::state();
        let server: Arc<str> = "a".into();
        let judged = |status, body: &str| {
            let answer = Answer {
                server: Arc::clone(&server),
                status,
                body: body.as_bytes().to_vec(),
                ..Answer::default()
            };
            judge(&call, &server, &Ok(answer))
        };
        let stumbled =
            |judged: &Judged| matches!(judged, Judged::Elsewhere(_, servers::Event::Stumbled(_)));
        let refused = "org.apache.http.conn.HttpHostConnectException: Connect to 127.0.0.1:18100 [/127.0.0.1] failed: Connection refused";
        assert!(stumbled(&judged(500, refused)));
        let redirect = "receive invalid redirect request from peer 127.0.0.1";
        assert!(stumbled(&judged(400, redirect)));
        assert!(matches!(
            judged(503, "server is STARTING now, please try again later!"),
            Judged::Elsewhere(_, servers::Event::Failed(_))
        ));
        // Whoever knocks at one that starts has found nobody yet.
        let starting = Answer {
            server: Arc::clone(&server),
            status: 503,
            body: b"server is STARTING now, please try again later!".to_vec(),
            ..Answer::default()
        };
        assert_eq!(who_answered(&call, &Ok(starting)), None);
        for (status, body) in [
            (200, "{}"),
            (403, "unknown user!"),
            (400, "Param 'ip' is required."),
            (409, "requested file is being modified, please try later."),
        ] {
            assert_eq!(judged(status, body), Judged::Answered, "{status} {body}");
        }
        let lost = Err(Error::Unreachable {
            server: "a".to_owned(),
            what: "no answer within 3s".to_owned(),
        });
        assert!(matches!(
            judge(&call, &server, &lost),
            Judged::Elsewhere(_, servers::Event::Failed(_))
        ));
    }
}
