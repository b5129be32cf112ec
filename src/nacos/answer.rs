//! What an answer over HTTP v1 means: taken, passing trouble, denied, or refused for good.
//!
//! Status codes alone do not tell: 1.4.8 wraps refusals in a 500 (`caused: …;`), 2.5.1 in a JSON error page, and a node that
//! forwards to a dead one answers 400 ("receive invalid redirect request"). The few phrases that decide are listed here and
//! nowhere else.

use super::Error;
use super::rpc::Outcome;
use super::rpc::code;
use crate::foreign::Foreign;

/// Phrases of refusals that stay refusals, whatever the status around them (seen on 1.4.8 and 2.5.1).
const FOR_GOOD: &[&str] = &[
    "can't register ephemeral instance",
    "can't register persistent instance",
    "can't found persistent",
    "instance format invalid",
    "metadata format incorrect",
    "is illegal",
    "illegal characters",
    "can only have these characters",
    "should be characters with only",
    "must less than",
    "invalid dataId",
    "content is blank",
];

/// Phrases of a 400 that is passing: a node of a cluster handed the call to another one that could not take it.
const PASSING: &[&str] = &["receive invalid redirect request", "no leader"];

/// Phrases over gRPC of a 400 that is passing.
const BUSY: &[&str] = &["is being modified"];

/// Reads the status and body of an answer to a call at `server`; `Ok` for 200.
///
/// # Errors
/// [`Error::Denied`], [`Error::Refused`], [`Error::Busy`] or [`Error::Garbage`].
pub fn read(server: &str, status: u16, body: &[u8]) -> Result<(), Error> {
    if status == 200 {
        return Ok(());
    }
    let server = server.to_owned();
    let message = words(body);
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.raw().contains(phrase));
    Err(match status {
        401 | 403 => Error::Denied { server, message },
        410 | 501 => Error::Refused {
            server,
            status,
            message,
        },
        404 => Error::Garbage {
            server,
            what: "404, no such path; is registry.context_path right, and is this a Nacos server?"
                .to_owned(),
        },
        _ if says(FOR_GOOD) => Error::Refused {
            server,
            status,
            message,
        },
        400 if !says(PASSING) => Error::Refused {
            server,
            status,
            message,
        },
        300..=399 => Error::Garbage {
            server,
            what: format!("{status}, a redirect; write the address it leads to"),
        },
        _ => Error::Busy {
            server,
            status,
            message,
        },
    })
}

/// Reads the outcome of a request over gRPC; `Ok` for `resultCode` 200.
///
/// # Errors
/// As [`read`]; what a code means for one request alone (300 of a configuration) is the caller's.
pub fn read_outcome(server: &str, request: &str, outcome: &Outcome) -> Result<(), Error> {
    if outcome.is_ok() {
        return Ok(());
    }
    let server = server.to_owned();
    let message = words(outcome.message.as_deref().unwrap_or_default().as_bytes());
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.raw().contains(phrase));
    let status = u16::try_from(outcome.error_code).unwrap_or(500);
    Err(match outcome.error_code {
        code::DENIED => Error::Denied { server, message },
        code::NO_HANDLER => Error::Refused {
            server,
            status,
            message: Foreign::new(format!("it knows no {request}")),
        },
        _ if says(FOR_GOOD) => Error::Refused {
            server,
            status,
            message,
        },
        code::INVALID if !says(PASSING) && !says(BUSY) => Error::Refused {
            server,
            status,
            message,
        },
        _ => Error::Busy {
            server,
            status,
            message,
        },
    })
}

/// So much of a server's words is kept; bytes. With what stands around them an error stays below 4 KiB.
const KEPT: usize = 4000;

/// The server's own words in an error body, cut where they are too many: without `caused: …;`, and out of a JSON error page its `message`.
#[must_use]
pub fn words(body: &[u8]) -> Foreign {
    let text = String::from_utf8_lossy(body);
    let page: Option<String> = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|page| page.get("message")?.as_str().map(str::to_owned));
    let mut text = page.as_deref().unwrap_or(&text).trim();
    // Layer by layer, as servers wrap one another's words.
    loop {
        let inner = ["Server failed,", "Service name filter error,", "caused:"]
            .iter()
            .find_map(|wrapping| text.strip_prefix(wrapping))
            .or_else(|| {
                let lower = text.get(..8)?.to_ascii_lowercase();
                let (_, words) = text.split_once("rrMsg:")?;
                lower.starts_with("errcode:").then_some(words)
            });
        let Some(inner) = inner else { break };
        text = inner.trim();
    }
    // The same once more, from the exception's cause.
    if let Some((words, _)) = text.split_once(";caused:") {
        text = words;
    }
    text = text.trim_end_matches([';', ' ']);
    if text.starts_with('<') {
        // An error page for people, of Tomcat or of a proxy.
        return Foreign::new("(an HTML page)");
    }
    Foreign::new(cut(text).to_owned())
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(KEPT))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Whether a 401 or 403 may be gone with another token. Not where the server knows who asks, and that he may not
/// (`authorization failed!`), nor where it can tell that to nobody (`resource name invalid!`, 1.4.8).
#[must_use]
pub fn is_about_the_token(body: &[u8]) -> bool {
    let message = words(body);
    !["authorization failed", "resource name invalid"]
        .iter()
        .any(|phrase| message.raw().contains(phrase))
}

/// Whether an error body says that there is no such instance (`GET /v1/ns/instance`: 404 on 2.x, 500 on 1.4.8).
#[must_use]
pub fn is_no_instance(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    ["no matched ip found", "no ips found", "service not found"]
        .iter()
        .any(|phrase| text.contains(phrase))
        // 1.4.8: `no service G@@S found!`
        || text.contains("no service ") && text.contains(" found!")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refusals_for_good_are_told_from_passing_trouble() {
        type Is = fn(&Error) -> bool;
        let refused: Is = |e| matches!(e, Error::Refused { .. });
        let busy: Is = |e| matches!(e, Error::Busy { .. });
        for (status, body, is) in [
            (
                500,
                "caused: instance format invalid: The weights range from 0.0 to 10000.0;",
                refused,
            ),
            (
                400,
                "caused: errCode: 400, errMsg: Current service DEFAULT_GROUP@@a is persistent service, can't register ephemeral instance. ;",
                refused,
            ),
            (
                500,
                r#"{"status":500,"error":"Internal Server Error","message":"Server failed, caused: ErrCode:400, ErrMsg:metadata format incorrect:x"}"#,
                refused,
            ),
            (
                400,
                "receive invalid redirect request from peer 10.0.0.1",
                busy,
            ),
            (500, "caused: java.net.ConnectException;", busy),
            (503, "server is STARTING now, please try again later!", busy),
            (
                409,
                "requested file is being modified, please try later.",
                busy,
            ),
            (429, "", busy),
        ] {
            let error = read("http://a:8848", status, body.as_bytes()).unwrap_err();
            assert!(is(&error), "{status} {body}: {error:?}");
        }
        assert!(matches!(
            read("http://a:8848", 403, br#"{"message":"unknown user!"}"#),
            Err(Error::Denied { .. })
        ));
    }

    #[test]
    fn a_user_without_rights_needs_no_new_token() {
        for (body, renews) in [
            (r#"{"message":"token expired!"}"#, true),
            (r#"{"message":"unknown user!"}"#, true),
            (r#"{"message":"Code: 401, Message: token invalid!."}"#, true),
            (r#"{"message":"authorization failed!"}"#, false),
            (
                r#"{"message":"Code: 403, Message: authorization failed!."}"#,
                false,
            ),
            (
                r#"{"status":403,"message":"resource name invalid!"}"#,
                false,
            ),
        ] {
            assert_eq!(is_about_the_token(body.as_bytes()), renews, "{body}");
        }
    }

    #[test]
    fn the_servers_words_come_without_their_wrapping() {
        assert_eq!(
            words(b"caused: caused: Param 'ip' is required.;;").raw(),
            "Param 'ip' is required."
        );
        assert_eq!(
            words(br#"{"status":403,"message":"token invalid!"}"#).raw(),
            "token invalid!"
        );
        assert_eq!(
            words(br#"{"message":"Server failed, caused: ErrCode:400, ErrMsg:metadata format incorrect:x;caused: metadata format incorrect:x;"}"#).raw(),
            "metadata format incorrect:x"
        );
        assert_eq!(
            words(b"errCode: 400, errMsg: Current service a is persistent service. ").raw(),
            "Current service a is persistent service."
        );
        assert_eq!(words(b"<html>...").raw(), "(an HTML page)");
    }

    proptest! {
        #[test]
        fn no_words_are_kept_beyond_a_limit(text in "(caused: |errCode: 1, errMsg:|x|名|\"|\\{){0,2000}") {
            let words = words(text.as_bytes());
            prop_assert!(words.raw().len() <= KEPT);
            prop_assert!(text.contains(words.raw()) || words.raw().starts_with('('));
        }

        #[test]
        fn any_status_and_any_body_are_something(status in 100_u16..1000, body: Vec<u8>) {
            prop_assert_eq!(read("s", status, &body).is_ok(), status == 200);
        }
    }
}
