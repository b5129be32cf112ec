//! What is asked over gRPC: which request it is, whether it may be asked, and in which of three ways a no is said.
//!
//! What the parameter check refuses is answered with the request's own class, what is thrown later with `ErrorResponse`, and the
//! handlers of configurations catch what they throw. The order of looks is the original's: is there such a request, is the
//! connection a client, can the body be read.

use crate::nacos::rpc;
use crate::nacos::rpc::ErrorResponse;
use crate::nacos::rpc::Outcome;
use crate::nacos::rpc::Payload;
use crate::nacos::rpc::Reply;
use crate::nacos::rpc::Request;
use crate::nacos::rpc::code;
use crate::registry::links::Link;
use crate::registry::model::Time;
use crate::registry::refusal::Refusal;
use crate::registry::state::State;

/// One request: from whom and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) link: Link,
    pub(crate) time: Time,
}

/// Why a request is refused where nobody catches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thrown {
    /// As over HTTP.
    Refusal(Refusal),
    /// `type` is none that the request has.
    RequestType(String),
    /// There is no instance in it.
    NoInstance,
    /// There is no namespace in it, of which the original says nothing.
    NoNamespace,
    /// The connection was not set up to name services; its id.
    Disconnected(String),
}

impl From<Refusal> for Thrown {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl Thrown {
    fn outcome(self) -> Outcome {
        let invalid = |words: String| Outcome::thrown(code::INVALID, Some(words));
        match self {
            Self::Refusal(refusal) => {
                let (status, words) = refusal.over_grpc();
                Outcome::thrown(status, Some(words))
            }
            Self::RequestType(kind) => invalid(format!("Unsupported request type {kind}")),
            Self::NoInstance => invalid("Instance can not be null.".to_owned()),
            Self::NoNamespace => Outcome::thrown(code::FAILED, None),
            Self::Disconnected(id) => {
                let code = code::DISCONNECTED;
                let words = format!(
                    "errCode: {code}, errMsg: Client [{id}] connection already disconnect, can't register ephemeral instance. "
                );
                Outcome::thrown(code, Some(words))
            }
        }
    }
}

/// An `ErrorResponse`.
pub(crate) fn error(code: i64, message: impl Into<String>) -> Payload {
    Payload::new(&ErrorResponse::with(Outcome::failed(code, message)))
}

/// A no of our own.
pub(crate) fn refused(refusal: &Refusal) -> Payload {
    let (status, words) = refusal.over_grpc();
    error(status, words)
}

/// What is answered while the server says that it starts.
pub(crate) fn starting() -> Payload {
    error(code::STARTING, "Server is starting,please try later.")
}

/// What is answered when a body cannot be read.
pub(crate) fn garbled() -> Payload {
    error(
        code::GARBLED,
        "errCode: 101, errMsg: Nacos deserialize failed.  ",
    )
}

/// Answers one kind of request, unless its body cannot be read.
pub(crate) type Handler = fn(&mut State, Caller, &Payload) -> Result<Payload, Unread>;

/// The body is not the JSON of that class.
#[derive(Debug)]
pub(crate) struct Unread;

/// Reads a request, lets the parameter check look at it, then carries it out.
pub(crate) fn run<R: Request>(
    state: &mut State,
    caller: Caller,
    payload: &Payload,
    check: fn(&R) -> Result<(), Refusal>,
    work: fn(&mut State, Caller, R) -> Result<R::Answer, Thrown>,
) -> Result<Payload, Unread> {
    let request: R = payload.read().map_err(|_| Unread)?;
    if let Err(refusal) = check(&request) {
        let words = format!("Param check invalid:{}", refusal.over_grpc().1);
        let outcome = Outcome::failed(code::INVALID, words);
        return Ok(Payload::new(&<R::Answer as Reply>::of(outcome)));
    }
    Ok(match work(state, caller, request) {
        Ok(answer) => Payload::new(&answer),
        Err(thrown) => Payload::new(&ErrorResponse::with(thrown.outcome())),
    })
}

/// A no of a handler that catches what it throws.
pub(crate) fn caught<A: rpc::Reply>(refusal: &Refusal) -> A {
    let (status, words) = refusal.over_grpc();
    A::of(Outcome::failed(status, words))
}
