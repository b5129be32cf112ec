//! What checks the instances of a cluster: read from `healthChecker` of `PUT /cluster`, shown again in the description of a service.
//!
//! The original takes a type that it does not know, in other letters or missing, for NONE; so does this. What is no JSON object is
//! refused (2.5.1 answers it with the status 101, which a client of HTTP cannot bear). What goes into a request of ours later is looked at here: a path and headers that could end a line, or speak of the body that a GET does not have, are
//! refused. `expectedResponseCode` is kept and shown, and decides nothing there either: 200 alone is a yes.

use crate::nacos::wire::Loose;
use crate::registry::checks::By;
use crate::registry::refusal::Refusal;
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{str::FromStr, sync::Arc};

/// Characters of a path and of headers at most, together.
const LENGTH: usize = 4_096;
/// Headers that say how the request itself is read.
const OURS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A health checker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Checker {
    /// Nothing is checked: the health is what was said.
    None,
    /// A connection is accepted.
    #[default]
    Tcp,
    /// A GET is answered with 200.
    Http {
        path: Arc<str>,
        headers: Arc<str>,
        expected: i32,
    },
}

/// Parameters of the checker HTTP, scalars of any type.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Said {
    path: Loose,
    headers: Loose,
    expected_response_code: Loose,
}

impl Checker {
    /// Reads the JSON of a call.
    pub(crate) fn read(text: &str) -> Result<Self, Refusal> {
        let unread = |error: serde_json::Error| Refusal::Checker(error.to_string());
        let all: Map<String, Value> = serde_json::from_str(text).map_err(unread)?;
        match all.get("type").and_then(Value::as_str) {
            Some("TCP") => Ok(Self::Tcp),
            Some("HTTP") => {
                let said: Said = serde_json::from_str(text).map_err(unread)?;
                let path = said.path.0.unwrap_or_default();
                let headers = said.headers.0.unwrap_or_default();
                let expected = said.expected_response_code.0;
                let expected = expected.map_or(Ok(200), |code| {
                    let words = format!("'{code}' is no response code");
                    code.parse().map_err(|_| Refusal::Checker(words))
                })?;
                if path.len() + headers.len() > LENGTH {
                    let words = format!("path and headers have more than {LENGTH} characters");
                    return Err(Refusal::Checker(words));
                }
                target(&path).ok_or_else(|| {
                    Refusal::Checker("the path cannot stand in a request".to_owned())
                })?;
                for (name, value) in pairs(&headers) {
                    header(name, value).ok_or_else(|| {
                        Refusal::Checker("a header cannot be sent by a check".to_owned())
                    })?;
                }
                Ok(Self::Http {
                    path: path.into(),
                    headers: headers.into(),
                    expected,
                })
            }
            Some("MYSQL") => Err(Refusal::NotOffered(
                "the health checker MYSQL; there are TCP, HTTP and NONE",
            )),
            _ => Ok(Self::None),
        }
    }

    /// How it is shown.
    pub(crate) fn shown(&self) -> Value {
        match self {
            Self::None => json!({"type": "NONE"}),
            Self::Tcp => json!({"type": "TCP"}),
            Self::Http {
                path,
                headers,
                expected,
            } => json!({
                "type": "HTTP",
                "path": &**path,
                "headers": &**headers,
                "expectedResponseCode": expected,
            }),
        }
    }

    /// How it asks; `None` when it does not.
    pub(crate) fn by(&self) -> Option<By> {
        match self {
            Self::None => None,
            Self::Tcp => Some(By::Tcp),
            Self::Http { path, headers, .. } => Some(By::Http {
                path: Arc::clone(path),
                headers: Arc::clone(headers),
            }),
        }
    }
}

/// The kinds that the original knows, each with its parameters as they are when nothing is said. MYSQL is in the list, and refused.
pub(crate) fn kinds() -> Value {
    json!({
        "TCP": {},
        "HTTP": {"path": "", "headers": "", "expectedResponseCode": 200},
        "MYSQL": {"user": null, "pwd": null, "cmd": null},
        "NONE": {},
    })
}

/// What stands in the line of a request for this path.
pub(crate) fn target(path: &str) -> Option<hyper::Uri> {
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    hyper::Uri::builder().path_and_query(path).build().ok()
}

/// `name:value|name:value`; what has not two parts is passed over, as there.
pub(crate) fn pairs(headers: &str) -> impl Iterator<Item = (&str, &str)> {
    headers
        .split('|')
        .filter_map(|pair| pair.split_once(':'))
        .filter(|(_, value)| !value.contains(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
}

/// A header that a check may send.
pub(crate) fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_str(name).ok()?;
    if OURS.contains(&name.as_str()) {
        return None;
    }
    Some((name, HeaderValue::from_str(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Checker, Refusal> {
        Checker::read(text)
    }

    #[test]
    fn a_checker_is_shown_as_it_was_said_with_what_was_not_said() {
        let whole = r#"{"type":"HTTP","path":"/h","headers":"A:b|C:d","expectedResponseCode":204}"#;
        assert_eq!(read(whole).unwrap().shown().to_string(), {
            let value: Value = serde_json::from_str(whole).unwrap();
            value.to_string()
        });
        let short = read(r#"{"type":"HTTP"}"#).unwrap().shown();
        let kinds = kinds();
        for name in ["path", "headers", "expectedResponseCode"] {
            assert_eq!(short[name], kinds["HTTP"][name]);
        }
    }

    #[test]
    fn a_type_that_is_not_known_is_none_and_what_is_no_object_and_mysql_are_refused() {
        for text in ["nonsense", "[]", "5", r#"{"type":"HTTP""#, ""] {
            assert!(matches!(read(text), Err(Refusal::Checker(_))), "{text}");
        }
        let odd = read(r#"{"type":"HTTP","path":null,"expectedResponseCode":"204","headers":5}"#);
        assert_eq!(
            odd.unwrap().shown(),
            json!({"type": "HTTP", "path": "", "headers": "5", "expectedResponseCode": 204})
        );
        let word = read(r#"{"type":"HTTP","expectedResponseCode":"abc"}"#);
        assert!(matches!(word, Err(Refusal::Checker(_))));
        for text in [
            r#"{"type":"tcp"}"#,
            r#"{"type":"PING"}"#,
            "{}",
            r#"{"type":"NONE"}"#,
        ] {
            assert_eq!(read(text), Ok(Checker::None), "{text}");
        }
        assert_eq!(read(r#"{"type":"TCP"}"#), Ok(Checker::Tcp));
        let mysql = read(r#"{"type":"MYSQL","user":"u","pwd":"p","cmd":"c"}"#);
        assert!(matches!(mysql, Err(Refusal::NotOffered(_))));
    }

    #[test]
    fn nothing_that_breaks_a_request_comes_into_one() {
        for (path, headers) in [
            ("/a b", ""),
            ("/a\r\nX:y", ""),
            ("/", "X:a\r\nEvil"),
            ("/", "Transfer-Encoding:chunked"),
            ("/", "Content-Length:5"),
            ("/", "a b:c"),
        ] {
            let said = json!({"type": "HTTP", "path": path, "headers": headers});
            let read = read(&said.to_string());
            assert!(matches!(read, Err(Refusal::Checker(_))), "{said}: {read:?}");
        }
        let long = json!({"type": "HTTP", "path": "/".repeat(LENGTH + 1)});
        assert!(read(&long.to_string()).is_err());
    }

    #[test]
    fn a_path_never_leads_elsewhere() {
        for (path, line) in [
            ("", "/"),
            ("health?a=b", "/health?a=b"),
            ("http://10.0.0.1/x", "/http://10.0.0.1/x"),
            ("//10.0.0.1/x", "//10.0.0.1/x"),
        ] {
            assert_eq!(target(path).unwrap().to_string(), line);
        }
    }
}
