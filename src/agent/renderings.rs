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
        _ = writeln!(out, "    server {} weight={};", one.address(), whole(one.weight));
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
        let name = one.ip.to_string().replace(['.', ':'], "_");
        _ = writeln!(
            out,
            "    server s_{name}_{} {} weight {}",
            one.port,
            one.address(),
            whole(one.weight * scale)
        );
    }
    out
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
        set.insert("__meta_nacos_weight".to_owned(), one.weight.to_string().into());
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
    let all: Vec<String> = neighbours.iter().map(|one| one.address().to_string()).collect();
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
    #[error("the lines `{begin}` and `{end}` must be there once each, in this order, or not at all")]
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
