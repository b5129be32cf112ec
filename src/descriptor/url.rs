//! Addresses of servers and URLs as operators write them, made into one form; no credentials, no surprises.

use super::reader::Value;
use crate::foreign::Foreign;
use std::net::{IpAddr, Ipv6Addr};

/// Port of a server that names none.
const PORT: u16 = 8848;

/// A server of the registry as `http://host:port`; scheme and port are assumed where they are not written.
pub(super) fn server(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("http".to_owned(), text.as_str()),
    };
    scheme_is_spoken(value, &scheme)?;
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    // In all of it: a password may hold what ends the authority, and is then on the other side of it.
    without_credentials(
        value,
        rest,
        "write `registry.auth`: username and password_file",
    )?;
    if path.contains('?') {
        // Whoever writes one here writes a token.
        return value.wrong_unseen(
            "a query does not belong here",
            "write host and port; credentials are `registry.auth`",
        );
    }
    if !matches!(path, "" | "/") {
        return value.wrong(
            format!("`{}` names a path", Foreign::new(&*text)),
            "write host and port here; the path in front of every call is `registry.context_path`",
        );
    }
    let Some((host, port)) = host_and_port(authority) else {
        return value.wrong(
            format!("`{}` is not a server", Foreign::new(&*text)),
            "write http://host:8848; an IPv6 address stands in brackets, http://[::1]:8848",
        );
    };
    Some(format!("{scheme}://{host}:{}", port.unwrap_or(PORT)))
}

/// A server as an address server names it, `host` or `host:port`: its URL, or nothing where that is something else.
#[must_use]
pub fn listed_server(scheme: &str, text: &str) -> Option<String> {
    let (host, port) = host_and_port(text)?;
    Some(format!("{scheme}://{host}:{}", port.unwrap_or(PORT)))
}

/// Whether a text is the name of a host, or an address, and nothing else.
pub(super) fn is_name(text: &str) -> bool {
    name(text).is_some()
}

/// A whole URL of a thing to call, as written.
pub(super) fn whole(value: &Value<'_>, example: &str) -> Option<String> {
    let text = value.text()?;
    let help = format!("write {example}");
    let Some((scheme, rest)) = text.split_once("://") else {
        return value.wrong(format!("`{}` is not a URL", Foreign::new(&*text)), &help);
    };
    scheme_is_spoken(value, scheme)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    without_credentials(value, authority, "leave them out")?;
    let printable = path.chars().all(|c| !c.is_control() && !c.is_whitespace());
    if host_and_port(authority).is_none() || !printable || reqwest::Url::parse(&text).is_err() {
        // A password with a `/` in it ends the authority before its `@`.
        without_credentials(value, path, "leave them out")?;
        return value.wrong(format!("`{}` is not a URL", Foreign::new(&*text)), &help);
    }
    Some(text)
}

fn scheme_is_spoken(value: &Value<'_>, scheme: &str) -> Option<()> {
    match scheme {
        "http" => Some(()),
        "https" if cfg!(feature = "tls") => Some(()),
        "https" => value.wrong(
            "https:// is not spoken by this binary, it was built without the feature `tls`",
            "use http:// or a binary with TLS",
        ),
        other => value.wrong(
            format!("`{}://` is not spoken", Foreign::new(other)),
            "write http:// or https://",
        ),
    }
}

fn without_credentials(value: &Value<'_>, text: &str, help: &str) -> Option<()> {
    if text.contains('@') {
        return value.wrong_unseen("credentials do not belong in a URL", help);
    }
    Some(())
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; the host comes back as it goes into a URL.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(inside) = authority.strip_prefix('[') {
        let (host, behind) = inside.split_once(']')?;
        let host = host.parse::<Ipv6Addr>().ok()?;
        (format!("[{host}]"), behind)
    } else {
        let at = authority.find(':').unwrap_or(authority.len());
        let (host, behind) = authority.split_at(at);
        (name(host)?, behind)
    };
    if port.is_empty() {
        return Some((host, None));
    }
    let digits = port.strip_prefix(':')?;
    let written = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse::<u16>().ok().filter(|port| *port > 0)?;
    written.then_some((host, Some(port)))
}

fn name(host: &str) -> Option<String> {
    let letters = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let edges = host.starts_with(['-', '.']) || host.ends_with('-') || host.contains("..");
    // Digits and dots alone are an address, and then a right one.
    let numeric = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let right = !numeric || host.parse::<IpAddr>().is_ok();
    (!host.is_empty() && host.len() <= 253 && letters && !edges && right)
        .then(|| host.to_ascii_lowercase())
}
