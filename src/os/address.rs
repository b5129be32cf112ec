//! Which addresses this host has and which one it would use towards another host.

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// An address on an interface that is up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Interface.
    pub interface: String,
    /// Address.
    pub ip: IpAddr,
}

/// Every address of every interface that is up, sorted.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn candidates() -> io::Result<Vec<Candidate>> {
    let mut found: Vec<Candidate> = getifaddrs()?
        .filter(|entry| entry.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|entry| {
            let address = entry.address?;
            let ip = address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            Some(Candidate {
                interface: entry.interface_name,
                ip,
            })
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The address the kernel would send from towards `target`. Nothing is sent.
///
/// # Errors
/// When there is no route.
pub fn route_to(target: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// Why nobody else could reach a service at this address, in words; `None` when somebody could.
#[must_use]
pub fn unfit(ip: IpAddr) -> Option<&'static str> {
    let (unspecified, loopback, multicast) =
        (ip.is_unspecified(), ip.is_loopback(), ip.is_multicast());
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if unspecified {
        Some("unspecified")
    } else if loopback {
        Some("loopback")
    } else if multicast {
        Some("multicast")
    } else if link_local {
        Some("link-local")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_called_by_its_name() {
        let all = candidates().unwrap();
        let lo = all.iter().find(|c| c.ip.is_loopback()).unwrap();
        assert_eq!(unfit(lo.ip), Some("loopback"));
        assert_eq!(
            route_to("127.0.0.1:9".parse().unwrap()).unwrap(),
            Ipv4Addr::LOCALHOST
        );
    }

    #[test]
    fn addresses_nobody_can_call_are_unfit() {
        for (ip, why) in [
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
            ("169.254.3.4", "link-local"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "multicast"),
        ] {
            assert_eq!(unfit(ip.parse().unwrap()), Some(why), "{ip}");
        }
        assert_eq!(unfit("10.0.0.1".parse().unwrap()), None);
        assert_eq!(unfit("fd00::1".parse().unwrap()), None);
    }
}
