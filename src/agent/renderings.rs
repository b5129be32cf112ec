//! What a list of instances looks like in a file, for each format: the same bytes for the same instances.
//!
//! Only parsed values of an instance are printed (address, port, weight, cluster), never a text of its registrant; names come from
//! the descriptor. The formats that are JSON also have metadata, as JSON strings: all of it in `json`, what the descriptor lists
//! in the others. So whatever is registered, the file parses to exactly the instances that were given.

use crate::descriptor::spec::Rendering;
use crate::foreign;
use crate::foreign::Foreign;
use crate::template;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use super::neighbours::Neighbour;

/// The heaviest server of HAProxy.
const HAPROXY_HEAVIEST: f64 = 256.0;
/// Longest value of a label, characters; a longer one is left out.
const LONGEST_LABEL: usize = 256;
/// Lines of a block in a hosts file.
const MOST_LINES: usize = 1000;

/// Whose instances they are, in the descriptor's words.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Service, without the group.
    pub service: &'a str,
    /// Group.
    pub group: &'a str,
    /// Namespace id.
    pub namespace: &'a str,
}

/// Why a list cannot be a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template.
    #[error(transparent)]
    Template(#[from] template::Error),
    /// A hosts file is read line by line at every look-up.
    #[error("{0} addresses are more than {MOST_LINES} lines of a hosts file")]
    Lines(usize),
    /// It cannot be.
    #[error("no JSON can be made of it: {0}")]
    Json(#[from] serde_json::Error),
}

/// The content of the file (of `hosts`: the block's lines, without its markers).
///
/// # Errors
/// [`Error`].
pub fn render(
    rendering: &Rendering,
    about: About<'_>,
    neighbours: &[Neighbour],
) -> Result<String, Error> {
    match rendering {
        Rendering::Nginx { upstream } => Ok(nginx(upstream, neighbours)),
        Rendering::Haproxy { backend } => Ok(haproxy(backend, neighbours)),
        Rendering::HaproxyMap { key } => Ok(haproxy_map(key.as_deref(), neighbours)),
        Rendering::Prometheus { labels } => prometheus(about, labels, neighbours),
        Rendering::Envoy { cluster, labels } => envoy(cluster, labels, neighbours),
        Rendering::Json => data(about, neighbours),
        Rendering::Hosts { host } => hosts(host, neighbours),
        Rendering::Env { variable } => Ok(env(variable, neighbours)),
        Rendering::Template { text, .. } => templated(text, about, neighbours),
    }
}

/// A weight in whole numbers, of which nobody has none.
fn whole(weight: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the gate lets weights from 0 to 10000 pass"
    )]
    let rounded = weight.round() as u64;
    rounded.max(1)
}

fn nginx(upstream: &str, neighbours: &[Neighbour]) -> String {
    let mut out = format!("upstream {upstream} {{\n");
    for one in neighbours {
        // Writing to a String cannot fail; so it is below.
        _ = writeln!(
            out,
            "    server {} weight={};",
            one.address(),
            whole(one.weight)
        );
    }
    if neighbours.is_empty() {
        // nginx takes no upstream without a server; this one answers 502, and nobody is asked.
        out += "    server 127.0.0.1:9 down;\n";
    }
    out += "}\n";
    out
}

fn haproxy(backend: &str, neighbours: &[Neighbour]) -> String {
    let heaviest = neighbours.iter().map(|one| one.weight).fold(0.0, f64::max);
    let scale = (HAPROXY_HEAVIEST / heaviest).min(1.0);
    let mut out = format!("backend {backend}\n");
    for one in neighbours {
        _ = writeln!(
            out,
            "    server {} {} weight {}",
            server(one),
            one.address(),
            whole(one.weight * scale)
        );
    }
    out
}

/// How an instance is called among the servers of HAProxy.
fn server(one: &Neighbour) -> String {
    let ip = one.ip.to_string().replace(['.', ':'], "_");
    format!("s_{ip}_{}", one.port)
}

fn haproxy_map(key: Option<&str>, neighbours: &[Neighbour]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    let mut lines = String::new();
    let mut taken = BTreeSet::new();
    for one in neighbours {
        let key = match key {
            Some(key) => match one.metadata.get(&Foreign::from(key)) {
                Some(value) => value.raw().to_owned(),
                None => continue,
            },
            None => one.address().to_string().replace(['[', ']'], ""),
        };
        // Of two the first counts, as it does for HAProxy.
        let is_word = (1..=LONGEST_LABEL).contains(&key.len()) && key.bytes().all(plain);
        if is_word && taken.insert(key.clone()) {
            _ = writeln!(lines, "{key} {}", server(one));
        }
    }
    lines
}

/// A metadata key as part of a label's name.
fn label_name(key: &str) -> String {
    key.chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => c,
            _ => '_',
        })
        .collect()
}

/// The listed metadata of an instance, by key.
fn listed<'a>(
    one: &'a Neighbour,
    labels: &'a [String],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    // By byte order, so that of two that become one name the first counts, however the descriptor orders them.
    let wanted: BTreeSet<&str> = labels.iter().map(String::as_str).collect();
    wanted.into_iter().filter_map(|key| {
        let value = one.metadata.get(&Foreign::from(key))?.raw();
        (value.chars().count() <= LONGEST_LABEL).then_some((key, value))
    })
}

fn prometheus(
    about: About<'_>,
    labels: &[String],
    neighbours: &[Neighbour],
) -> Result<String, Error> {
    let groups = neighbours.iter().map(|one| {
        let mut set = Map::new();
        let own = [
            ("service", about.service),
            ("group", about.group),
            ("namespace", about.namespace),
            ("cluster", &one.cluster),
        ];
        for (name, value) in own {
            set.insert(format!("__meta_nacos_{name}"), value.into());
        }
        set.insert(
            "__meta_nacos_weight".to_owned(),
            one.weight.to_string().into(),
        );
        for (key, value) in listed(one, labels) {
            set.entry(format!("__meta_nacos_metadata_{}", label_name(key)))
                .or_insert_with(|| value.into());
        }
        json!({ "targets": [one.address().to_string()], "labels": set })
    });
    printed(&groups.collect())
}

fn envoy(cluster: &str, labels: &[String], neighbours: &[Neighbour]) -> Result<String, Error> {
    let endpoints: Vec<Value> = neighbours
        .iter()
        .map(|one| {
            let address = json!({ "address": one.ip.to_string(), "port_value": one.port });
            let mut endpoint = json!({
                "endpoint": { "address": { "socket_address": address } },
                "load_balancing_weight": whole(one.weight),
            });
            let metadata: Map<String, Value> = listed(one, labels)
                .map(|(key, value)| (key.to_owned(), value.into()))
                .collect();
            if let (false, Some(endpoint)) = (metadata.is_empty(), endpoint.as_object_mut()) {
                let own = json!({ "filter_metadata": { "outrigger": metadata } });
                endpoint.insert("metadata".to_owned(), own);
            }
            endpoint
        })
        .collect();
    printed(&json!({ "resources": [{
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": endpoints }],
    }] }))
}

fn data(about: About<'_>, neighbours: &[Neighbour]) -> Result<String, Error> {
    let instances: Vec<Value> = neighbours
        .iter()
        .map(|one| {
            json!({
                "ip": one.ip, "port": one.port, "weight": one.weight, "cluster": one.cluster,
                "metadata": one.metadata,
            })
        })
        .collect();
    printed(&json!({
        "service": about.service, "group": about.group, "namespace": about.namespace,
        "instances": instances,
    }))
}

/// JSON as it is kept: what could end a line or turn a text for some reader is escaped.
fn printed(value: &Value) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(foreign::harmless_json(&text).into_owned() + "\n")
}

fn hosts(host: &str, neighbours: &[Neighbour]) -> Result<String, Error> {
    let addresses: BTreeSet<IpAddr> = neighbours.iter().map(|one| one.ip).collect();
    if addresses.len() > MOST_LINES {
        return Err(Error::Lines(addresses.len()));
    }
    let lines = addresses.iter().map(|ip| format!("{ip} {host}\n"));
    Ok(lines.collect())
}

fn env(variable: &str, neighbours: &[Neighbour]) -> String {
    let all: Vec<String> = neighbours
        .iter()
        .map(|one| one.address().to_string())
        .collect();
    format!("{variable}_INSTANCES={}\n", all.join(","))
}

fn templated(text: &str, about: About<'_>, neighbours: &[Neighbour]) -> Result<String, Error> {
    let instances = neighbours
        .iter()
        .map(|one| template::Instance {
            ip: one.ip.to_string(),
            port: one.port,
            address: one.address().to_string(),
            weight: one.weight,
            cluster: one.cluster.clone(),
            metadata: one
                .metadata
                .iter()
                .map(|(key, value)| (key.raw().to_owned(), value.raw().to_owned()))
                .collect(),
        })
        .collect();
    let list = template::List {
        service: about.service.to_owned(),
        group: about.group.to_owned(),
        namespace: about.namespace.to_owned(),
        instances,
    };
    Ok(template::render(text, list)?)
}

/// Why a hosts file is not touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It is not text.
    #[error("it is no text in UTF-8")]
    NotText,
    /// Which lines are ours is not clear.
    #[error(
        "the lines `{begin}` and `{end}` must be there once each, in this order, or not at all"
    )]
    Markers {
        /// The first line of a block.
        begin: String,
        /// The last one.
        end: String,
    },
}

/// A hosts file with its block replaced (or put behind everything where it had none); every byte outside of the block stays.
///
/// # Errors
/// [`BlockError`].
pub fn with_block(file: &[u8], host: &str, lines: &str) -> Result<Vec<u8>, BlockError> {
    let text = std::str::from_utf8(file).map_err(|_| BlockError::NotText)?;
    let begin = format!("# outrigger: begin {host}");
    let end = format!("# outrigger: end {host}");
    let block = format!("{begin}\n{lines}{end}\n");
    // Where each marker's line begins, and where the line behind it does.
    let mut found = [Vec::new(), Vec::new()];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        let [begins, ends] = &mut found;
        if bare == begin {
            begins.push(at);
        } else if bare == end {
            ends.push(at + line.len());
        }
        at += line.len();
    }
    let (before, after) = match (&*found[0], &*found[1]) {
        ([], []) => (text, ""),
        ([from], [to]) if from < to => (
            text.get(..*from).unwrap_or_default(),
            text.get(*to..).unwrap_or_default(),
        ),
        _ => return Err(BlockError::Markers { begin, end }),
    };
    let gap = match before.is_empty() || before.ends_with('\n') {
        true => "",
        false => "\n",
    };
    Ok([before, gap, &block, after].concat().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::neighbours;
    use super::super::neighbours::tests::anything;
    use super::*;
    use crate::descriptor::spec::Filter;
    use crate::nacos::model::ServiceList;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, net::SocketAddr};

    const ABOUT: About<'static> = About {
        service: "payments",
        group: "G",
        namespace: "public",
    };

    fn passed(list: &ServiceList) -> Vec<Neighbour> {
        neighbours::pass(list, &Filter::default()).neighbours
    }

    fn rendered(rendering: &Rendering, neighbours: &[Neighbour]) -> String {
        render(rendering, ABOUT, neighbours).unwrap()
    }

    fn addresses(neighbours: &[Neighbour]) -> Vec<SocketAddr> {
        neighbours.iter().map(Neighbour::address).collect()
    }

    fn two() -> Vec<Neighbour> {
        let one = |ip: &str, weight, zone: &str| Neighbour {
            ip: ip.parse().unwrap(),
            port: 8080,
            weight,
            cluster: "DEFAULT".to_owned(),
            metadata: BTreeMap::from([
                ("zone".into(), zone.into()),
                ("Zone".into(), "other".into()),
            ]),
        };
        vec![
            one("10.0.0.1", 2.0, "east"),
            one("2001:db8::1", 0.4, "we\u{2028}st"),
        ]
    }

    #[test]
    fn the_formats() {
        let name = || "payments".to_owned();
        let labels = || vec!["zone".to_owned(), "Zone".to_owned(), "none".to_owned()];
        let all = [
            Rendering::Nginx { upstream: name() },
            Rendering::Haproxy { backend: name() },
            Rendering::HaproxyMap { key: None },
            Rendering::HaproxyMap {
                key: Some("zone".to_owned()),
            },
            Rendering::Env {
                variable: "PAYMENTS".to_owned(),
            },
            Rendering::Hosts { host: name() },
            Rendering::Prometheus { labels: labels() },
            Rendering::Envoy {
                cluster: name(),
                labels: labels(),
            },
            Rendering::Json,
        ];
        let both: String = all.iter().map(|one| rendered(one, &two())).collect();
        insta::assert_snapshot!(both);
        let none: String = all.iter().map(|one| rendered(one, &[])).collect();
        insta::assert_snapshot!(none);
    }

    #[test]
    fn weights_of_haproxy_are_scaled_to_what_it_takes() {
        let mut all = two();
        all[0].weight = 10_000.0;
        all[1].weight = 100.0;
        let text = rendered(
            &Rendering::Haproxy {
                backend: "b".to_owned(),
            },
            &all,
        );
        let weights: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| line.rsplit(' ').next().unwrap())
            .collect();
        assert_eq!(weights, ["256", "3"]);
    }

    /// Words, braces and semicolons of nginx; a quote, a comment or an escape is none of them.
    fn nginx_words(text: &str) -> Result<Vec<String>, char> {
        let mut words = vec![String::new()];
        for c in text.chars() {
            match c {
                ' ' | '\n' => words.push(String::new()),
                '{' | '}' | ';' => words.extend([c.to_string(), String::new()]),
                '"' | '\'' | '\\' | '#' | '$' | '\r' | '\t' => return Err(c),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        Ok(words)
    }

    fn json(text: &str) -> Value {
        // Not by the library that wrote it.
        serde_yaml::from_str(text).unwrap()
    }

    proptest! {
        #[test]
        fn no_registered_instance_can_change_the_shape_of_an_nginx_file(list in anything()) {
            let all = passed(&list);
            let text = rendered(&Rendering::Nginx { upstream: "payments".to_owned() }, &all);
            let words = nginx_words(&text).unwrap();
            let inside = words.strip_prefix(&["upstream".to_owned(), "payments".to_owned(), "{".to_owned()]);
            let inside = inside.and_then(|rest| rest.strip_suffix(&["}".to_owned()])).unwrap();
            if all.is_empty() {
                prop_assert_eq!(inside.join(" "), "server 127.0.0.1:9 down ;");
                return Ok(());
            }
            let found: Vec<SocketAddr> = inside.chunks(4).map(|words| {
                assert_eq!((&*words[0], &*words[3]), ("server", ";"));
                assert!(words[2].strip_prefix("weight=").unwrap().parse::<u32>().unwrap() > 0);
                words[1].parse().unwrap()
            }).collect();
            prop_assert_eq!(found, addresses(&all));
        }

        #[test]
        fn no_registered_instance_can_change_the_shape_of_a_haproxy_file(list in anything()) {
            let all = passed(&list);
            let text = rendered(&Rendering::Haproxy { backend: "payments".to_owned() }, &all);
            prop_assert!(!text.contains(['"', '\'', '\\', '#', '$', '\r', '\t']));
            let mut lines = text.lines();
            prop_assert_eq!(lines.next(), Some("backend payments"));
            let mut names = BTreeSet::new();
            let found: Vec<SocketAddr> = lines.map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                assert_eq!((words.len(), words[0], words[3]), (5, "server", "weight"));
                assert!((1..=256).contains(&words[4].parse::<u32>().unwrap()));
                assert!(names.insert(words[1]), "one name twice");
                words[2].parse().unwrap()
            }).collect();
            prop_assert_eq!(found, addresses(&all));
        }

        #[test]
        fn a_haproxy_map_has_two_plain_words_a_line(list in anything()) {
            let all = passed(&list);
            let by_address = rendered(&Rendering::HaproxyMap { key: None }, &all);
            prop_assert_eq!(by_address.lines().count(), all.len());
            let by_version = rendered(&Rendering::HaproxyMap { key: Some("version".to_owned()) }, &all);
            let mut wanted = std::collections::BTreeMap::new();
            for one in &all {
                let value = one.metadata.get(&"version".into()).map(Foreign::raw).unwrap_or_default();
                let is_word = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "._:/-".contains(c));
                if is_word {
                    wanted.entry(value.to_owned()).or_insert_with(|| server(one));
                }
            }
            let found: BTreeMap<String, String> = by_version.lines().map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                assert_eq!(words.join(" "), line);
                (words[0].to_owned(), words[1].to_owned())
            }).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn metadata_cannot_become_job_scheme_or_metrics_path(list in anything()) {
            let all = passed(&list);
            let labels = vec!["version".to_owned(), "Version".to_owned()];
            let found = json(&rendered(&Rendering::Prometheus { labels }, &all));
            let groups = found.as_array().unwrap();
            let mut targets = Vec::new();
            for (group, one) in groups.iter().zip(&all) {
                prop_assert_eq!(group.as_object().unwrap().len(), 2);
                targets.extend(group["targets"].as_array().unwrap().iter().map(|target| {
                    target.as_str().unwrap().parse::<SocketAddr>().unwrap()
                }));
                for (name, value) in group["labels"].as_object().unwrap() {
                    let rest = name.strip_prefix("__meta_nacos_").unwrap();
                    prop_assert!(rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
                    prop_assert!(value.as_str().unwrap().chars().count() <= LONGEST_LABEL);
                }
                // Of two keys that become one name, the first by byte order.
                let first = one.metadata.get(&"Version".into()).or(one.metadata.get(&"version".into()));
                if let Some(first) = first.filter(|first| first.raw().chars().count() <= LONGEST_LABEL) {
                    prop_assert_eq!(&group["labels"]["__meta_nacos_metadata_version"], first.raw());
                }
            }
            prop_assert_eq!(targets, addresses(&all));
        }

        #[test]
        fn envoy_and_json_parse_to_what_passed(list in anything()) {
            let all = passed(&list);
            let envoy = Rendering::Envoy { cluster: "payments".to_owned(), labels: vec!["version".to_owned()] };
            let found = json(&rendered(&envoy, &all));
            let assignment = &found["resources"][0];
            prop_assert_eq!(&assignment["cluster_name"], "payments");
            let endpoints = assignment["endpoints"][0]["lb_endpoints"].as_array().unwrap();
            let found: Vec<SocketAddr> = endpoints.iter().map(|one| {
                assert!(one["load_balancing_weight"].as_u64().unwrap() >= 1);
                let address = &one["endpoint"]["address"]["socket_address"];
                let port = u16::try_from(address["port_value"].as_u64().unwrap()).unwrap();
                SocketAddr::new(address["address"].as_str().unwrap().parse().unwrap(), port)
            }).collect();
            prop_assert_eq!(found, addresses(&all));
            let text = rendered(&Rendering::Json, &all);
            prop_assert!(!text.chars().any(|c| c != '\n' && foreign::is_harmful(c)));
            let found = json(&text);
            let found: Vec<Neighbour> = serde_json::from_value(found["instances"].clone()).unwrap();
            prop_assert_eq!(found.len(), all.len());
            for (found, one) in found.iter().zip(&all) {
                prop_assert_eq!(found.address(), one.address());
                prop_assert_eq!(&found.metadata, &one.metadata);
            }
        }

        #[test]
        fn an_env_file_has_one_assignment_per_line_for_any_input(list in anything()) {
            let all = passed(&list);
            let text = rendered(&Rendering::Env { variable: "PAYMENTS".to_owned() }, &all);
            prop_assert_eq!(text.lines().count(), 1);
            let value = text.strip_prefix("PAYMENTS_INSTANCES=").unwrap().strip_suffix('\n').unwrap();
            prop_assert!(value.bytes().all(|b| b.is_ascii_hexdigit() || b".:,[]".contains(&b)));
            let found: Vec<SocketAddr> = value.split(',').filter(|one| !one.is_empty())
                .map(|one| one.parse().unwrap()).collect();
            prop_assert_eq!(found, addresses(&all));
        }

        #[test]
        fn the_hosts_block_never_touches_a_line_outside_its_markers(
            list in anything(), before in "([ -~]{0,20}\n){0,3}", after in "([ -~]{0,20}\n){0,3}([ -~]{0,9})?", earlier in "(10.0.0.[0-9] payments\n){0,3}",
        ) {
            let all = passed(&list);
            let lines = rendered(&Rendering::Hosts { host: "payments".to_owned() }, &all);
            let (begin, end) = ("# outrigger: begin payments\n", "# outrigger: end payments\n");
            let file = [&before, begin, &earlier, end, &after].concat();
            let next = with_block(file.as_bytes(), "payments", &lines).unwrap();
            let next = String::from_utf8(next).unwrap();
            let inside = next.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after)).unwrap();
            let inside = inside.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)).unwrap();
            let found: BTreeSet<IpAddr> = inside.lines().map(|line| {
                let (ip, name) = line.split_once(' ').unwrap();
                assert_eq!(name, "payments");
                ip.parse().unwrap()
            }).collect();
            prop_assert_eq!(found, all.iter().map(|one| one.ip).collect::<BTreeSet<_>>());
            // Again it is the same, and a file without a block gets one behind all it has.
            prop_assert_eq!(with_block(next.as_bytes(), "payments", &lines).unwrap(), next.clone().into_bytes());
            let fresh = with_block(after.as_bytes(), "payments", &lines).unwrap();
            prop_assert!(fresh.starts_with(after.as_bytes()) && fresh.ends_with(end.as_bytes()));
            prop_assert_eq!(with_block(&fresh, "payments", &lines).unwrap(), fresh);
        }
    }

    #[test]
    fn a_hosts_file_whose_markers_are_not_clear_is_refused() {
        let (begin, end) = ("# outrigger: begin a\n", "# outrigger: end a\n");
        for file in [
            begin.to_owned(),
            end.to_owned(),
            [end, begin].concat(),
            [begin, end, begin, end].concat(),
            [begin, begin, end].concat(),
        ] {
            let refused = with_block(file.as_bytes(), "a", "").unwrap_err();
            assert!(matches!(refused, BlockError::Markers { .. }), "{file}");
        }
        assert_eq!(with_block(b"\xff", "a", ""), Err(BlockError::NotText));
        // Those of another name are lines like any other.
        let other = [begin, end].concat().replace(" a\n", " b\n");
        assert!(
            with_block(other.as_bytes(), "a", "")
                .unwrap()
                .starts_with(other.as_bytes())
        );
    }

    #[test]
    fn a_hosts_block_has_a_limit() {
        let all: Vec<Neighbour> = (0..=1000_u32)
            .map(|n| Neighbour {
                ip: IpAddr::from((0x0a00_0001 + n).to_be_bytes()),
                ..two().remove(0)
            })
            .collect();
        let hosts = Rendering::Hosts {
            host: "a".to_owned(),
        };
        assert!(render(&hosts, ABOUT, &all[..1000]).is_ok());
        let said = render(&hosts, ABOUT, &all).unwrap_err().to_string();
        assert_eq!(
            said,
            "1001 addresses are more than 1000 lines of a hosts file"
        );
    }
}
