//! One request and its answer, freed from HTTP: what goes over the desk, and what the calls of each half of the API take and give.

use crate::registry::forms::Params;
use crate::registry::like::Like;
use crate::registry::model::Reader;
use crate::registry::refusal::Body;
use crate::registry::refusal::Half;
use crate::registry::refusal::JSON;
use crate::registry::refusal::Refusal;
use crate::registry::refusal::TEXT;
use hyper::body::Bytes;
use std::{fmt, net::IpAddr, time::SystemTime};

/// A request as it came, its body read whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    from: Option<IpAddr>,
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// Without query, headers and body, which may have a password in them.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {})", self.method, self.path)
    }
}

impl Request {
    /// The same, from this address; else it is one of this host.
    #[must_use]
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// A request for `target` (path, and query after `?`); a form is a body whose `Content-Type` says so.
    pub fn new<N: Into<String>, V: Into<String>>(
        method: impl Into<String>,
        target: &str,
        headers: impl IntoIterator<Item = (N, V)>,
        body: impl Into<Bytes>,
    ) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            from: None,
            method: method.into(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            body: body.into(),
        }
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
#[derive(Clone)]
pub(crate) struct Call {
    /// Where it came from, if that is known.
    pub(crate) from: Option<IpAddr>,
    /// As it came.
    pub(crate) method: String,
    /// The path as it came, context path and all.
    pub(crate) path: String,
    /// Path and query as they came.
    pub(crate) target: String,
    /// The path from `/v1/` on.
    pub(crate) route: String,
    /// Query and form.
    pub(crate) params: Params,
    headers: Vec<(String, String)>,
}

/// As that of a request.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({})", self.what())
    }
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
            from: request.from,
            route,
            target: format!("{}?{}", request.path, request.query),
            method: request.method,
            path: request.path,
            params,
            headers: request.headers,
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
        let said = [forwarded, self.header("X-Real-IP")];
        let mut said = said.into_iter().flatten();
        let said = said.find(|ip| !ip.trim().is_empty() && ip.len() <= 64);
        match (said, self.from) {
            (Some(ip), _) => ip.to_owned(),
            (None, Some(peer)) => peer.to_canonical().to_string(),
            (None, None) => String::new(),
        }
    }

    /// Who reads: his address, and the tag that he carries.
    pub(crate) fn reader(&self) -> Reader {
        Reader::new(&self.ip(), self.header("Vipserver-Tag"))
    }

    /// Method and path, for texts.
    pub(crate) fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// What the client calls itself: `Client-Version` where `User-Agent` says nothing.
    pub(crate) fn agent(&self) -> &str {
        ["User-Agent", "Client-Version"]
            .iter()
            .filter_map(|name| self.header(name))
            .find(|agent| !agent.is_empty())
            .unwrap_or_default()
    }

    /// Whether a Java client of 1.0 or later asks.
    pub(crate) fn is_java(&self) -> bool {
        self.header("User-Agent").is_some_and(is_java)
    }
}

/// Whether a Java client of 1.0 or later calls itself so.
pub(crate) fn is_java(agent: &str) -> bool {
    agent
        .strip_prefix("Nacos-Java-Client:v")
        .and_then(|version| version.split('.').next()?.parse::<u32>().ok())
        .is_some_and(|major| major >= 1)
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

    /// 200 with JSON that is written already.
    pub(crate) fn rendered(json: Bytes) -> Self {
        Self {
            content_type: Some(JSON),
            ..Self::text(json)
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
