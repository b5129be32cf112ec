//! One request and its answer, freed from HTTP: what the calls of each half of the API take and give.

use crate::registry::forms::Params;
use crate::registry::refusal::Body;
use crate::registry::refusal::Half;
use crate::registry::refusal::JSON;
use crate::registry::refusal::Refusal;
use crate::registry::refusal::TEXT;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use std::time::SystemTime;

/// A request whose body has been read.
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
    /// Headers.
    pub(crate) headers: HeaderMap,
}

impl Call {
    /// A header's text, if it is one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What is answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    /// Values are checked when they are sent; one that cannot be sent is left out.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
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

    /// A refusal as 2.5.1 would write it.
    pub(crate) fn refused(refusal: &Refusal, half: Half, path: &str, at: SystemTime) -> Self {
        let refused = refusal.refused(half);
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
