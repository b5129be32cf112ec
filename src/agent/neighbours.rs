//! The gate between a list of instances and a file: which of them pass, and why the others do not.
//!
//! Whoever may register may write anything, so nothing of an instance is passed on as it came. An address is parsed, and whatever
//! is none is left out: that alone keeps `127.1`, sockets and zones away. An address at which nobody serves others (unspecified,
//! multicast, broadcast, link-local with the metadata services of clouds, loopback unless the registry is there too) is left out,
//! also in the clothes of IPv6. Ports, weights and clusters must be what they should; metadata is bounded. Nothing is cut: an
//! instance beyond a limit is left out, and named.
//!
//! What an operator filters (health, clusters, metadata, networks) is counted too, in one sentence for each reason with one
//! example, which is what `status` shows.
//!
//! The order is by address and port, whatever the registry's was: an unchanged list gives an unchanged file.

use crate::descriptor::spec::Filter;
use crate::foreign::Foreign;
use crate::nacos::model::{Listed, ServiceList};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// Metadata of one instance: keys, and bytes of keys and values.
const MOST_KEYS: usize = 64;
const MOST_METADATA: usize = 16 * 1024;
/// Of a cluster's name.
const LONGEST_CLUSTER: usize = 64;
/// The lightest an instance can be that takes traffic, and the heaviest.
const LIGHTEST: f64 = 0.01;
const HEAVIEST: f64 = 10_000.0;

/// An instance that passed: its address is one, its port is one, its weight is more than 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Address; never one of IPv6 that stands for one of IPv4.
    pub ip: IpAddr,
    /// 1..=65535.
    pub port: u16,
    /// 0.01..=10000, two decimals.
    pub weight: f64,
    /// `[0-9A-Za-z_-]`.
    pub cluster: String,
    /// As it was registered: text from outside.
    pub metadata: BTreeMap<Foreign, Foreign>,
}

impl Neighbour {
    /// Where it is: `10.0.0.1:80`, `[2001:db8::1]:80`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// As if a registry had listed it, to be filtered again.
    #[must_use]
    pub fn listed(self) -> Listed {
        Listed {
            ip: self.ip.to_string().into(),
            port: self.port.into(),
            cluster: self.cluster.into(),
            weight: self.weight,
            healthy: true,
            enabled: true,
            ephemeral: None,
            metadata: self.metadata,
        }
    }
}

/// What came of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passed {
    /// How many the registry lists.
    pub listed: usize,
    /// Those that passed, by address and port, no two of the same.
    pub neighbours: Vec<Neighbour>,
    /// For each reason why others did not, one sentence.
    pub left_out: Vec<String>,
}

/// Why an instance is left out, in the order in which the reasons are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Address,
    Unusable,
    Port,
    Weight,
    Cluster,
    Metadata,
    Twice,
    Disabled,
    Unhealthy,
    OtherCluster,
    OtherMetadata,
    OtherNetwork,
    NotPreferred,
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Self::Address => "has no IP address",
            Self::Unusable => "has an address at which nobody serves others",
            Self::Port => "has no port from 1 to 65535",
            Self::Weight => "has a weight that is none",
            Self::Cluster => "has a cluster whose name is none",
            Self::Metadata => "has too much metadata",
            Self::Twice => "is listed before",
            Self::Disabled => "takes no traffic",
            Self::Unhealthy => "is unhealthy",
            Self::OtherCluster => "is of another cluster",
            Self::OtherMetadata => "has other metadata",
            Self::OtherNetwork => "is outside allow_cidrs",
            Self::NotPreferred => "is not of the preferred cluster",
        }
    }
}

/// Which instances of the list pass.
#[must_use]
pub fn pass(list: &ServiceList, filter: &Filter) -> Passed {
    let mut left: BTreeMap<Why, (usize, String)> = BTreeMap::new();
    let mut leave = |why: Why, host: String| {
        left.entry(why).or_insert_with(|| (0, host)).0 += 1;
    };
    let mut neighbours: Vec<Neighbour> = Vec::new();
    for host in &list.hosts {
        match look(host, filter) {
            Ok(neighbour) => neighbours.push(neighbour),
            Err(why) => leave(why, format!("{}:{}", host.ip, host.port)),
        }
    }
    // Two entries of one address (as 1.4 has them, in two clusters) must give the same one whatever their order.
    neighbours.sort_by(|a, b| {
        (a.address(), &a.cluster, &a.metadata)
            .cmp(&(b.address(), &b.cluster, &b.metadata))
            .then(a.weight.total_cmp(&b.weight))
    });
    let preferred = filter
        .prefer_clusters
        .iter()
        .find(|cluster| neighbours.iter().any(|one| one.cluster == **cluster));
    if let Some(cluster) = preferred {
        neighbours.retain(|one| {
            let is_of_it = one.cluster == *cluster;
            if !is_of_it {
                leave(Why::NotPreferred, one.address().to_string());
            }
            is_of_it
        });
    }
    neighbours.dedup_by(|next, before| {
        let twice = next.address() == before.address();
        if twice {
            leave(Why::Twice, next.address().to_string());
        }
        twice
    });
    let left_out = left
        .into_iter()
        .map(|(why, (count, example))| match count {
            1 => format!("{example} {}", why.words()),
            _ => format!("{count} instances, such as {example}: {}", why.words()),
        })
        .collect();
    Passed {
        listed: list.hosts.len(),
        neighbours,
        left_out,
    }
}

fn look(host: &Listed, filter: &Filter) -> Result<Neighbour, Why> {
    let ip: IpAddr = host.ip.raw().parse().map_err(|_| Why::Address)?;
    let ip = ip.to_canonical();
    let is_allowed = filter.allow_cidrs.iter().any(|cidr| cidr.contains(ip));
    if !is_usable(ip, filter.loopback || is_allowed) {
        return Err(Why::Unusable);
    }
    let port = u16::try_from(host.port).ok().filter(|port| *port > 0);
    let port = port.ok_or(Why::Port)?;
    if !(0.0..=HEAVIEST).contains(&host.weight) {
        return Err(Why::Weight);
    }
    let cluster = host.cluster.raw();
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !(1..=LONGEST_CLUSTER).contains(&cluster.len()) || !cluster.bytes().all(letter) {
        return Err(Why::Cluster);
    }
    let metadata = &host.metadata;
    let bytes = |(key, value): (&Foreign, &Foreign)| key.raw().len() + value.raw().len();
    if metadata.len() > MOST_KEYS || metadata.iter().map(bytes).sum::<usize>() > MOST_METADATA {
        return Err(Why::Metadata);
    }
    if !host.enabled || host.weight == 0.0 {
        return Err(Why::Disabled);
    }
    if filter.healthy_only && !host.healthy {
        return Err(Why::Unhealthy);
    }
    if !filter.clusters.is_empty() && !filter.clusters.iter().any(|wanted| wanted == cluster) {
        return Err(Why::OtherCluster);
    }
    let has = |(key, wanted): (&String, &String)| {
        metadata
            .get(&Foreign::from(key.as_str()))
            .is_some_and(|value| value.raw() == wanted)
    };
    if !filter.metadata.iter().all(has) {
        return Err(Why::OtherMetadata);
    }
    if !filter.allow_cidrs.is_empty() && !is_allowed {
        return Err(Why::OtherNetwork);
    }
    Ok(Neighbour {
        ip,
        port,
        // The registry's own least weight and its console's two decimals: a longer number only makes files differ.
        weight: ((host.weight * 100.0).round() / 100.0).max(LIGHTEST),
        cluster: cluster.to_owned(),
        metadata: metadata.clone(),
    })
}

/// Whether somebody may serve others there.
fn is_usable(ip: IpAddr, loopback: bool) -> bool {
    if ip.is_unspecified() || ip.is_multicast() || (ip.is_loopback() && !loopback) {
        return false;
    }
    match ip {
        // The first network is "this host", whatever follows.
        IpAddr::V4(ip) => {
            !(ip.is_link_local() || ip.is_broadcast() || ip.octets().first() == Some(&0))
        }
        IpAddr::V6(ip) => {
            // What stands for an address of IPv4 (compatible, or translated) is judged as that.
            let behind = match ip.segments() {
                [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
                    if !ip.is_loopback() =>
                {
                    Some((u32::from(high) << 16) | u32::from(low))
                }
                _ => None,
            };
            let is_usable_behind =
                behind.is_none_or(|bits| is_usable(IpAddr::from(bits.to_be_bytes()), loopback));
            is_usable_behind && !ip.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::descriptor::spec::Cidr;
    use proptest::prelude::*;
    use std::time::Duration;

    pub(in crate::agent) fn host(ip: &str, port: i64) -> Listed {
        Listed {
            ip: ip.into(),
            port,
            cluster: "DEFAULT".into(),
            weight: 1.0,
            healthy: true,
            enabled: true,
            ephemeral: Some(true),
            metadata: BTreeMap::new(),
        }
    }

    pub(in crate::agent) fn list(hosts: Vec<Listed>) -> ServiceList {
        ServiceList {
            hosts,
            protected: false,
            cache: Duration::from_secs(10),
        }
    }

    /// Whatever somebody may register, with enough that passes.
    pub(in crate::agent) fn anything() -> impl Strategy<Value = ServiceList> {
        let text = || {
            prop_oneof![
                "[a-z0-9.]{0,8}",
                any::<String>(),
                Just("a\nserver 6.6.6.6:1; }\r\n".to_owned()),
                Just("\"; include /etc/shadow; #".to_owned()),
                Just("$(reboot) ${PATH} %s\u{2028}{{ x }}".to_owned()),
            ]
        };
        let ip = prop_oneof![
            (1_u8..=223, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| format!("{a}.{b}.{c}.{d}")),
            any::<[u16; 8]>().prop_map(|parts| std::net::Ipv6Addr::from(parts).to_string()),
            any::<u32>().prop_map(|bits| format!("::ffff:{}", std::net::Ipv4Addr::from(bits))),
            (0_u8..3).prop_map(|last| format!("10.0.0.{last}")),
            text(),
        ];
        let port = prop_oneof![4 => 1_i64..=65_535, 1 => any::<i64>(), 1 => 80_i64..82];
        let cluster = prop_oneof![3 => Just("DEFAULT".to_owned()), 1 => "[a-z-]{1,8}", 1 => text()];
        let weight = prop_oneof![
            3 => 0.0..=10_000.0,
            1 => Just(1.0),
            1 => any::<f64>(),
        ];
        let metadata = prop::collection::btree_map(
            prop_oneof![
                Just("version".to_owned()),
                Just("Version".to_owned()),
                text()
            ],
            text(),
            0..4,
        );
        let hosts = (ip, port, cluster, weight, any::<(bool, bool)>(), metadata).prop_map(
            |(ip, port, cluster, weight, (healthy, enabled), metadata)| Listed {
                ip: ip.into(),
                port,
                cluster: cluster.into(),
                weight,
                healthy: healthy || port % 2 == 0,
                enabled: enabled || port % 3 == 0,
                ephemeral: None,
                metadata: metadata
                    .into_iter()
                    .map(|(key, value)| (key.into(), value.into()))
                    .collect(),
            },
        );
        prop::collection::vec(hosts, 0..24).prop_map(list)
    }

    fn addresses(passed: &Passed) -> Vec<String> {
        passed
            .neighbours
            .iter()
            .map(|one| one.address().to_string())
            .collect()
    }

    #[test]
    fn an_instance_with_a_metadata_service_address_is_left_out_and_named() {
        let refused = [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "::169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
        ];
        for ip in refused {
            let passed = pass(
                &list(vec![host(ip, 80), host("10.0.0.1", 80)]),
                &Filter::default(),
            );
            assert_eq!(addresses(&passed), ["10.0.0.1:80"], "{ip}");
            let said = format!("{ip}:80 has an address at which nobody serves others");
            assert_eq!(passed.left_out, [said]);
        }
        for text in [
            "127.1",
            "0x7f.1",
            "unix:/run/docker.sock",
            "fe80::1%eth0",
            "a.example",
            "",
        ] {
            let passed = pass(&list(vec![host(text, 80)]), &Filter::default());
            assert_eq!(passed.left_out, [format!("{text}:80 has no IP address")]);
        }
    }

    #[test]
    fn loopback_passes_where_the_registry_is_there_or_somebody_wrote_it() {
        let on_this_host = list(vec![host("127.0.0.1", 80), host("::1", 80)]);
        let with = |loopback, cidrs: &[(&str, u8)]| Filter {
            loopback,
            allow_cidrs: cidrs
                .iter()
                .map(|(network, prefix)| Cidr {
                    network: network.parse().unwrap(),
                    prefix: *prefix,
                })
                .collect(),
            ..Filter::default()
        };
        let passed = |filter: &Filter| addresses(&pass(&on_this_host, filter));
        assert_eq!(passed(&with(true, &[])), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(passed(&with(false, &[("127.0.0.0", 8)])), ["127.0.0.1:80"]);
        assert!(passed(&with(false, &[("10.0.0.0", 8)])).is_empty());
    }

    #[test]
    fn what_is_filtered_is_counted_with_one_example() {
        let mut hosts: Vec<Listed> = (1..=9)
            .map(|last| host(&format!("10.0.0.{last}"), 80))
            .collect();
        hosts[0].healthy = false;
        hosts[1].healthy = false;
        hosts[2].enabled = false;
        hosts[3].weight = 0.0;
        hosts[4].weight = f64::NAN;
        hosts[5].port = 99_999;
        hosts[6].cluster = "other".into();
        hosts[7].metadata.insert("version".into(), "2".into());
        hosts.push(hosts[7].clone());
        let mut filter = Filter {
            clusters: vec!["DEFAULT".to_owned()],
            ..Filter::default()
        };
        filter.metadata.insert("version".to_owned(), "2".to_owned());
        let passed = pass(&list(hosts), &filter);
        assert_eq!(passed.listed, 10);
        assert_eq!(addresses(&passed), ["10.0.0.8:80"]);
        assert_eq!(
            passed.left_out,
            [
                "10.0.0.6:99999 has no port from 1 to 65535",
                "10.0.0.5:80 has a weight that is none",
                "10.0.0.8:80 is listed before",
                "2 instances, such as 10.0.0.3:80: takes no traffic",
                "2 instances, such as 10.0.0.1:80: is unhealthy",
                "10.0.0.7:80 is of another cluster",
                "10.0.0.9:80 has other metadata",
            ]
        );
    }

    #[test]
    fn the_first_preferred_cluster_that_has_an_instance_is_taken_alone() {
        let of = |cluster: &str, ip: &str| Listed {
            cluster: cluster.into(),
            ..host(ip, 80)
        };
        let filter = Filter {
            prefer_clusters: vec!["own".to_owned(), "near".to_owned()],
            ..Filter::default()
        };
        let mut hosts = vec![
            of("far", "10.0.0.1"),
            of("near", "10.0.0.2"),
            of("own", "10.0.0.3"),
        ];
        let passed = |hosts: &[Listed]| addresses(&pass(&list(hosts.to_vec()), &filter));
        assert_eq!(passed(&hosts), ["10.0.0.3:80"]);
        hosts[2].healthy = false;
        assert_eq!(passed(&hosts), ["10.0.0.2:80"]);
        hosts.remove(1);
        assert_eq!(passed(&hosts), ["10.0.0.1:80"]);
    }

    #[test]
    fn an_instance_over_a_limit_is_left_out_and_never_cut() {
        let mut big = host("10.0.0.1", 80);
        big.metadata
            .insert("k".into(), "v".repeat(MOST_METADATA - 1).into());
        let mut bigger = host("10.0.0.2", 80);
        bigger
            .metadata
            .insert("k".into(), "v".repeat(MOST_METADATA).into());
        let mut many = host("10.0.0.3", 80);
        many.metadata = (0..=MOST_KEYS)
            .map(|n| (n.to_string().into(), "".into()))
            .collect();
        let passed = pass(&list(vec![many, bigger, big.clone()]), &Filter::default());
        assert_eq!(addresses(&passed), ["10.0.0.1:80"]);
        assert_eq!(passed.neighbours[0].metadata, big.metadata);
    }

    proptest! {
        #[test]
        fn order_means_nothing_and_everybody_is_accounted_for(found in anything(), seed: u64) {
            let filter = Filter::default();
            let passed = pass(&found, &filter);
            let mut shuffled = found.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled.hosts);
            prop_assert_eq!(&pass(&shuffled, &filter).neighbours, &passed.neighbours);
            let mut addresses: Vec<_> = passed.neighbours.iter().map(Neighbour::address).collect();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), passed.neighbours.len());
            prop_assert!(passed.neighbours.len() <= passed.listed);
            // What was kept passes again, as it is: so a snapshot can be filtered anew.
            let again = list(passed.neighbours.iter().cloned().map(Neighbour::listed).collect());
            prop_assert_eq!(&pass(&again, &filter).neighbours, &passed.neighbours);
        }
    }
}
