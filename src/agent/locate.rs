//! Which address is registered: as written, else `POD_IP`, else what the rules allow, else the route to the registry.
//!
//! An address nobody else could call (unspecified, multicast, link-local, loopback) is never chosen; loopback is, when the
//! registry itself is on loopback, because then whoever asks it is on this host too. A pure choice over what the host has, and
//! it keeps the reason for every candidate, so that `explain address` shows what was decided and why.

use crate::descriptor::spec::{Address, AddressRules};
use crate::os::address;
use std::net::IpAddr;

/// What there is to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The variable `POD_IP`, as it is.
    pub pod_ip: Option<String>,
    /// Addresses of interfaces that are up.
    pub candidates: Vec<address::Candidate>,
    /// The address used towards the registry; the error says why there is none.
    pub route: Option<IpAddr>,
    /// The registry as it was asked for the route, for words.
    pub registry: String,
}

/// A chosen address and how it was chosen, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Address.
    pub ip: IpAddr,
    /// `written`, `POD_IP`, `eth0`, `route to 10.0.0.5`.
    pub origin: String,
}

/// One candidate and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Considered {
    /// Address.
    pub ip: String,
    /// Where it comes from.
    pub origin: String,
    /// `taken`, or why not, in words.
    pub verdict: String,
}

/// Chooses; the list has every candidate in the order of preference.
pub fn locate(
    wanted: &Address,
    around: &Surroundings,
) -> (Result<Located, String>, Vec<Considered>) {
    let rules = match wanted {
        Address::Explicit(ip) => {
            let located = Located {
                ip: *ip,
                origin: "written".to_owned(),
            };
            let considered = Considered {
                ip: ip.to_string(),
                origin: located.origin.clone(),
                verdict: "taken".to_owned(),
            };
            return (Ok(located), vec![considered]);
        }
        Address::Auto(rules) => rules,
    };
    let local = around.route.is_some_and(|ip| ip.is_loopback());
    let mut found: Option<Located> = None;
    let mut considered = Vec::new();
    let mut consider = |ip: String, origin: String, verdict: Result<IpAddr, String>| {
        let verdict = match (verdict, &found) {
            (Ok(ip), None) => {
                found = Some(Located {
                    ip,
                    origin: origin.clone(),
                });
                "taken".to_owned()
            }
            (Ok(_), Some(_)) => "would serve; another one comes first".to_owned(),
            (Err(why), _) => why,
        };
        considered.push(Considered {
            ip,
            origin,
            verdict,
        });
    };

    if let Some(text) = &around.pod_ip {
        let verdict = match text.trim().parse() {
            Ok(ip) => fit(ip, local),
            Err(_) => Err("not an IP address".to_owned()),
        };
        consider(text.clone(), "POD_IP".to_owned(), verdict);
    }
    let ruled = *rules != AddressRules::default();
    if ruled {
        for candidate in by_preference(rules, &around.candidates) {
            let verdict = allowed(rules, candidate).and_then(|()| fit(candidate.ip, local));
            consider(
                candidate.ip.to_string(),
                candidate.interface.clone(),
                verdict,
            );
        }
    }
    if let Some(ip) = around.route {
        let narrows = rules.interface.is_some() || !rules.cidrs.is_empty();
        let verdict = if narrows {
            Err("the rules narrow the choice to interfaces".to_owned())
        } else {
            fit(ip, local)
        };
        consider(
            ip.to_string(),
            format!("route to {}", around.registry),
            verdict,
        );
    }
    if !ruled {
        for candidate in &around.candidates {
            let verdict = fit(candidate.ip, local).and_then(|_| {
                Err("not asked for; name its network or interface to use it".to_owned())
            });
            consider(
                candidate.ip.to_string(),
                candidate.interface.clone(),
                verdict,
            );
        }
    }
    let located = found.ok_or_else(|| {
        "no address of this host serves; `outrigger explain address` shows the candidates"
            .to_owned()
    });
    (located, considered)
}

fn fit(ip: IpAddr, registry_is_local: bool) -> Result<IpAddr, String> {
    match address::unfit(ip) {
        Some("loopback") if registry_is_local => Ok(ip),
        Some(why) => Err(format!("{why}: nobody else could call it")),
        None => Ok(ip),
    }
}

fn allowed(rules: &AddressRules, candidate: &address::Candidate) -> Result<(), String> {
    if let Some(interface) = &rules.interface
        && *interface != candidate.interface
    {
        return Err(format!("not on {interface}"));
    }
    if !rules.cidrs.is_empty() && !rules.cidrs.iter().any(|cidr| cidr.contains(candidate.ip)) {
        return Err("in none of the networks".to_owned());
    }
    Ok(())
}

/// The preferred family first, then the order of the rules' networks; otherwise as the kernel has them.
fn by_preference<'a>(
    rules: &AddressRules,
    candidates: &'a [address::Candidate],
) -> Vec<&'a address::Candidate> {
    let mut sorted: Vec<_> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| {
        let network = rules
            .cidrs
            .iter()
            .position(|cidr| cidr.contains(candidate.ip))
            .unwrap_or(usize::MAX);
        (candidate.ip.is_ipv6() != rules.prefer_v6, network)
    });
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::spec::Cidr;

    fn around(addresses: &[(&str, &str)], route: &str) -> Surroundings {
        Surroundings {
            pod_ip: None,
            candidates: addresses
                .iter()
                .map(|(interface, ip)| address::Candidate {
                    interface: (*interface).to_owned(),
                    ip: ip.parse().unwrap(),
                })
                .collect(),
            route: route.parse().ok(),
            registry: "10.9.9.9".to_owned(),
        }
    }

    fn chosen(rules: AddressRules, around: &Surroundings) -> Result<(String, String), String> {
        locate(&Address::Auto(rules), around)
            .0
            .map(|located| (located.ip.to_string(), located.origin))
    }

    #[test]
    fn the_pods_own_address_comes_first_and_the_route_last() {
        let mut around = around(&[("eth0", "10.0.0.3"), ("lo", "127.0.0.1")], "10.0.0.3");
        assert_eq!(
            chosen(AddressRules::default(), &around).unwrap().1,
            "route to 10.9.9.9"
        );
        around.pod_ip = Some("10.7.7.7".to_owned());
        assert_eq!(
            chosen(AddressRules::default(), &around).unwrap(),
            ("10.7.7.7".to_owned(), "POD_IP".to_owned())
        );
        around.pod_ip = Some("0.0.0.0".to_owned());
        assert_eq!(
            chosen(AddressRules::default(), &around).unwrap().0,
            "10.0.0.3"
        );
    }

    #[test]
    fn loopback_only_when_the_registry_is_on_loopback() {
        let near = around(&[("lo", "127.0.0.1")], "127.0.0.1");
        assert_eq!(
            chosen(AddressRules::default(), &near).unwrap().0,
            "127.0.0.1"
        );
        let far = around(&[("lo", "127.0.0.1"), ("eth0", "169.254.1.1")], "none");
        assert!(chosen(AddressRules::default(), &far).is_err());
    }

    #[test]
    fn rules_narrow_and_prefer() {
        let around = around(
            &[
                ("eth0", "192.168.1.4"),
                ("eth1", "10.0.0.3"),
                ("eth1", "fd00::3"),
            ],
            "192.168.1.4",
        );
        let ten = Cidr {
            network: "10.0.0.0".parse().unwrap(),
            prefix: 8,
        };
        let rules = AddressRules {
            cidrs: vec![ten],
            ..AddressRules::default()
        };
        assert_eq!(chosen(rules, &around).unwrap().0, "10.0.0.3");
        let rules = AddressRules {
            interface: Some("eth1".to_owned()),
            prefer_v6: true,
            ..AddressRules::default()
        };
        assert_eq!(chosen(rules, &around).unwrap().0, "fd00::3");
        let rules = AddressRules {
            interface: Some("eth7".to_owned()),
            ..AddressRules::default()
        };
        assert!(chosen(rules, &around).is_err(), "a rule is a rule");
    }
}
