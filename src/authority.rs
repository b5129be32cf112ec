//! The host in what a request says it asks for (`Host`, `Origin`): read in one way by every door.

use std::net::IpAddr;

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`; empty for anything else.
#[must_use]
pub fn host(authority: &str) -> &str {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (host, rest) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').unwrap_or_default(),
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    match rest.strip_prefix(':') {
        Some(port) if is_port(port) => host,
        None if rest.is_empty() => host,
        _ => "",
    }
}

/// Whether a host is this one under any of its own names: `localhost`, or an address for which `ours` says so.
pub fn is_this_host(host: &str, ours: impl FnOnce(IpAddr) -> bool) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback() || ours(ip))
}

/// Whether a host is a name that nobody on the internet can own, and an address is none at all: a page that had its own name
/// rebound to us cannot ask for one of these. Names without a dot are those of compose files, `svc` those of Kubernetes.
#[must_use]
pub fn is_nobodys_name(host: &str) -> bool {
    let ends = |end: &str| {
        let at = host.len().checked_sub(end.len());
        at.is_some_and(|at| {
            at > 0
                && host
                    .get(at..)
                    .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        })
    };
    host.parse::<IpAddr>().is_ok()
        || !host.is_empty() && !host.contains('.')
        || [".localhost", ".svc", ".svc.cluster.local"]
            .into_iter()
            .any(ends)
}

/// The authority of an `Origin`; `None` for `null` and what is none.
#[must_use]
pub fn of_origin(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, authority)| authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_host_is_what_stands_before_a_port_and_nothing_else() {
        for (authority, expected) in [
            ("localhost", "localhost"),
            ("nacos:8848", "nacos"),
            ("[::1]", "::1"),
            ("[::1]:8848", "::1"),
            ("localhost:evil", ""),
            ("127.0.0.1:1@evil", ""),
            ("[::1]evil", ""),
            ("[::1", ""),
            ("::1", ""),
            ("", ""),
        ] {
            assert_eq!(host(authority), expected, "{authority}");
        }
    }

    #[test]
    fn a_name_that_somebody_can_own_is_told_from_one_that_nobody_can() {
        for nobodys in [
            "127.0.0.1",
            "::1",
            "10.0.0.7",
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "outrigger",
            "outrigger.shop.svc",
            "outrigger.shop.svc.cluster.LOCAL",
        ] {
            assert!(is_nobodys_name(nobodys), "{nobodys}");
        }
        for somebodys in [
            "",
            "rebound.example",
            "localhost.example",
            "svc",
            ".svc",
            "evilsvc.example",
            "127.0.0.1.example",
            "svc.cluster.local.example",
        ] {
            assert_eq!(
                is_nobodys_name(somebodys),
                somebodys == "svc",
                "{somebodys}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            prop_assert!(!text.is_empty() || !is_nobodys_name(&text));
            prop_assert!(text.contains(host(&text)));
        }
    }
}
