//! One request and its answer, freed from HTTP: what goes over the desk, and what the calls of each half of the API take and give.

use crate::machine::Moment;
use crate::registry::config::Reader;
use crate::registry::forms::Params;
use crate::registry::like::Like;
use crate::registry::refusal::Body;
use crate::registry::refusal::Half;
use crate::registry::refusal::JSON;
use crate::registry::refusal::Refusal;
use crate::registry::refusal::TEXT;
use hyper::body::Bytes;
use std::{net::IpAddr, time::SystemTime};

/// A request as it came, its body read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    peer: Option<IpAddr>,
}

impl Request {
    /// A request for `target` (path, and query after `?`); a form is a body whose `Content-Type` says so.
    pub fn new<N: Into<String>, V: Into<String>>(
        method: impl Into<String>,
        target: &str,
        headers: impl IntoIterator<Item = (N, V)>,
        body: impl Into<Bytes>,
    ) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            method: method.into(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            body: body.into(),
            peer: None,
        }
    }

    /// The same, from that address.
    #[must_use]
    pub fn from_peer(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Its path, as it came.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn is_form(&self) -> bool {
        header(&self.headers, "Content-Type")
            .and_then(|kind| kind.split(';').next())
            .is_some_and(|kind| {
                kind.trim()
                    .eq_ignore_ascii_case("application/x-www-form-urlencoded")
            })
    }
}

/// The first header of that name.
fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(there, _)| there.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// The path from `/v1/`, `/v2/` or `/v3/` on, so that any context path will do; empty when there is none.
pub(crate) fn route(path: &str) -> &str {
    let from = ["/v1/", "/v2/", "/v3/"]
        .iter()
        .filter_map(|begins| path.find(begins))
        .min();
    let route = from.and_then(|at| path.get(at..));
    route.unwrap_or_default().trim_end_matches('/')
}

/// Which half of the API a route belongs to.
pub(crate) fn half(route: &str) -> Half {
    if route == "/v1/cs" || route.starts_with("/v1/cs/") {
        Half::Config
    } else if route.starts_with("/v2/") {
        Half::V2
    } else if route.starts_with("/v3/client/cs/") {
        Half::OpenConfig
    } else if route.starts_with("/v3/") {
        Half::V3
    } else {
        Half::Naming
    }
}

/// A request whose parameters have been read.
#[derive(Debug)]
pub(crate) struct Call {
    /// As it came.
    pub(crate) method: String,
    /// The path as it came, context path and all.
    pub(crate) path: String,
    /// The path from `/v1/` on.
    pub(crate) route: String,
    /// Query and form.
    pub(crate) params: Params,
    headers: Vec<(String, String)>,
    peer: Option<IpAddr>,
}

impl Call {
    /// Reads the parameters as `like` would.
    pub(crate) fn read(request: Request, like: Like) -> Self {
        let route = route(&request.path).to_owned();
        let mut params = Params::default();
        params.add(&request.query);
        let lost = !like.manners().naming_post_forms
            && request.method == "POST"
            && route.starts_with("/v1/ns/");
        if request.is_form() && !lost {
            params.add(&String::from_utf8_lossy(&request.body));
        }
        Self {
            route,
            method: request.method,
            path: request.path,
            params,
            headers: request.headers,
            peer: request.peer,
        }
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The address that the caller has or is said to have: the first one that a proxy names, else the connection's.
    pub(crate) fn ip(&self) -> String {
        let forwarded = self.header("X-Forwarded-For").map(|all| {
            let (first, _) = all.split_once(',').unwrap_or((all, ""));
            first.trim()
        });
        // What is longer is no address, and would be kept with what it publishes.
        let said = [forwarded, self.header("X-Real-IP")].into_iter().flatten();
        let said = said
            .filter(|ip| !ip.trim().is_empty() && ip.len() <= 64)
            .next();
        match (said, self.peer) {
            (Some(ip), _) => ip.to_owned(),
            (None, Some(peer)) => peer.to_canonical().to_string(),
            (None, None) => String::new(),
        }
    }

    /// Who reads: his address, and the tag that he carries.
    pub(crate) fn reader(&self) -> Reader {
        let tag = self.header("Vipserver-Tag");
        Reader {
            ip: self.ip(),
            tag: tag.filter(|tag| !tag.trim().is_empty()).map(str::to_owned),
        }
    }

    /// Method and path, for texts.
    pub(crate) fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Whether a Java client of 1.0 or later asks.
    pub(crate) fn is_java(&self) -> bool {
        self.header("User-Agent")
            .and_then(|agent| agent.strip_prefix("Nacos-Java-Client:v"))
            .and_then(|version| version.split('.').next()?.parse::<u32>().ok())
            .is_some_and(|major| major >= 1)
    }
}

/// When a call is answered, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    /// What deadlines count with.
    pub(crate) now: Moment,
    /// What people and answers are told.
    pub(crate) at: SystemTime,
}

impl Time {
    /// What the wall clock would have shown at a moment that is over, had it not been stepped since.
    pub(crate) fn wall(&self, moment: Moment) -> SystemTime {
        let ago = self.now.saturating_sub(moment);
        self.at.checked_sub(ago).unwrap_or(self.at)
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    /// Values are checked when they are sent; one that cannot be sent is left out.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The headers that belong to the answer; those of the connection are the door's.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let kind = self.content_type.map(|kind| ("Content-Type", kind));
        let more = self.headers.iter().map(|(name, value)| (*name, &**value));
        kind.into_iter().chain(more)
    }

    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(there, _)| there.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// 200 with text.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            content_type: Some(TEXT),
            headers: Vec::new(),
            body: text.into(),
        }
    }

    /// 200 `ok`, the answer to every write of naming.
    pub(crate) fn ok() -> Self {
        Self::text("ok")
    }

    /// 200 with JSON.
    pub(crate) fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => Self {
                content_type: Some(JSON),
                ..Self::text(json)
            },
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written as JSON; this is a bug of ours");
                Self {
                    status: 500,
                    ..Self::text("caused: answer cannot be written;")
                }
            }
        }
    }

    /// A refusal as `like` would write it.
    pub(crate) fn refused(
        refusal: &Refusal,
        like: Like,
        half: Half,
        path: &str,
        at: SystemTime,
    ) -> Self {
        let refused = refusal.refused(like, half);
        let body = match refused.body {
            Body::Text(text) => text,
            Body::Page(message) => serde_json::to_string(&Page {
                timestamp: crate::dates::iso(at),
                status: refused.status,
                error: reason(refused.status),
                message,
                path,
            })
            .unwrap_or_default(),
        };
        Self {
            status: refused.status,
            content_type: refused.content_type,
            headers: Vec::new(),
            body: body.into(),
        }
    }
}

/// The servlet's error page.
#[derive(serde::Serialize)]
struct Page<'a> {
    timestamp: String,
    status: u16,
    error: &'static str,
    message: String,
    path: &'a str,
}

fn reason(status: u16) -> &'static str {
    hyper::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("None")
}
