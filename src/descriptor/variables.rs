//! What `OUTRIGGER_*` variables say beside the settings: one service, what is ruled out; and that no other one is set.

use super::Surroundings;
use super::parse::Context;
use super::reader::Fields;
use super::reader::Problems;
use super::reader::Replaced;
use super::reader::Source;
use super::reader::Value;
use super::reader::nearest;
use super::settings;
use super::settings::Settings;
use super::spec::Descriptor;
use crate::foreign::Foreign;
use crate::report::Problem;
use crate::yaml;
use crate::yaml::Entry;
use crate::yaml::Node;
use std::{collections::BTreeSet, path::PathBuf};

/// Each variable of the one service, with the key of a descriptor it stands for.
const SERVICE: [(&str, &str); 7] = [
    ("OUTRIGGER_SERVICE", "name"),
    ("OUTRIGGER_PORT", "port"),
    ("OUTRIGGER_GROUP", "group"),
    ("OUTRIGGER_CLUSTER", "cluster"),
    ("OUTRIGGER_ADDRESS", "address"),
    ("OUTRIGGER_WEIGHT", "weight"),
    ("OUTRIGGER_METADATA", "metadata"),
];
const PREFIX: &str = "OUTRIGGER_";
const FORBID: &str = "OUTRIGGER_FORBID";
/// A cluster writes such variables into every container for each of its services, one called `outrigger` too.
const LINKS: &str =
    "a Kubernetes service of that name set it: write enableServiceLinks: false in the pod's spec";

/// Notes `OUTRIGGER_*` variables that mean nothing, and a ban of something unknown.
pub(super) fn check(around: &Surroundings, problems: &Problems) {
    let mut known: Vec<String> = settings::KEYS
        .iter()
        .map(|key| settings::variable(key))
        .collect();
    known.extend(SERVICE.iter().map(|(name, _)| (*name).to_owned()));
    known.push(FORBID.to_owned());
    for (name, value) in &around.env {
        let Some(own) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if known.contains(name) {
            continue;
        }
        let words = known.iter().filter_map(|name| name.strip_prefix(PREFIX));
        let near = nearest(own, words);
        let help = match near {
            _ if is_link(name, value) => LINKS.to_owned(),
            Some(near) => format!("did you mean {PREFIX}{near}?"),
            None => "docs/settings.md lists all variables".to_owned(),
        };
        note(problems, name, "unknown variable", &help);
    }
    for word in set(around, FORBID).unwrap_or_default().split(',') {
        if !matches!(word.trim(), "" | "exec") {
            let message = format!("`{}` cannot be ruled out", Foreign::new(word));
            note(problems, FORBID, &message, "write exec");
        }
    }
}

/// The service of `OUTRIGGER_SERVICE` and its fellows; `None` when none of them is set.
///
/// # Errors
///
/// Everything that is wrong with them, each named as the problem's source.
pub fn from_environment(
    settings: &Settings,
    around: &Surroundings,
) -> Result<Option<Descriptor>, Vec<Problem>> {
    let problems = Problems::default();
    let mut written = Vec::new();
    for (name, key) in SERVICE {
        let Some(value) = set(around, name) else {
            continue;
        };
        let node = if key == "metadata" {
            let Some(node) = pairs(name, value, &problems) else {
                continue;
            };
            node
        } else {
            Node::unplaced(value)
        };
        let replace = Replaced {
            env: &around.env,
            listed: &settings.catalog.variables,
        };
        let source = Source::variable(name, Some(replace), &problems);
        written.push((key, source, node));
    }
    let is_set = |wanted: &str| set(around, wanted).is_some();
    let (service, port) = ("OUTRIGGER_SERVICE", "OUTRIGGER_PORT");
    if !is_set(service) {
        for (name, _) in SERVICE.iter().filter(|(name, _)| is_set(name)) {
            let help = match set(around, name) {
                Some(value) if is_link(name, value) => LINKS,
                _ => "set OUTRIGGER_SERVICE to the service's name too",
            };
            note(
                &problems,
                name,
                "means nothing without OUTRIGGER_SERVICE",
                help,
            );
        }
        return problems.or(None);
    }
    if !is_set(port) {
        note(
            &problems,
            service,
            "OUTRIGGER_PORT is missing",
            "set it to the port the service listens on",
        );
    }
    let values = written
        .iter()
        .map(|(key, source, node)| (*key, Value::root(source, node)))
        .collect();
    let mut fields = Fields::of_variables(values);
    let (service, place) = Context::new(settings, around).service(&mut fields);
    fields.finish();
    let mut descriptor = Descriptor::default();
    descriptor.services.push(service);
    descriptor.places.services.push(place);
    problems.or(Some(descriptor))
}

/// A variable's value; an empty one counts as not set.
fn set<'a>(around: &'a Surroundings, name: &str) -> Option<&'a str> {
    let value = around.env.get(name)?;
    (!value.is_empty()).then_some(value.as_str())
}

/// `k=v,k=v` as a mapping.
fn pairs(name: &str, text: &str, problems: &Problems) -> Option<Node> {
    let mut node = Node::unplaced("");
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            let message = format!("`{}` is not a pair", Foreign::new(pair));
            note(problems, name, &message, "write name=value,name=value");
            return None;
        };
        let key = key.trim().to_owned();
        if !seen.insert(key.clone()) {
            let message = format!("`{}` is written twice", Foreign::new(key));
            note(problems, name, &message, "keep one of them");
            return None;
        }
        entries.push(Entry {
            key,
            place: node.place,
            width: 0,
            value: Node::unplaced(value.trim()),
        });
    }
    node.value = yaml::Value::Mapping(entries);
    Some(node)
}

fn is_link(name: &str, value: &str) -> bool {
    let numbered = |part: &str| {
        name.split_once(part)
            .is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || numbered("_PORT_")
        || value.starts_with("tcp://")
        || value.starts_with("udp://")
}

fn note(problems: &Problems, name: &str, message: &str, help: &str) {
    problems.push(Problem {
        source: PathBuf::from(name),
        place: None,
        key: String::new(),
        message: message.to_owned(),
        help: Some(help.to_owned()),
        excerpt: None,
    });
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::spec::Address;
    use super::super::spec::ProbeKind;
    use super::*;
    use crate::report;
    use std::path::Path;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Descriptor>, Vec<Problem>> {
        let none = Surroundings::default();
        let path = Path::new("outrigger.yaml");
        let settings = super::super::settings_file::resolve(path, None, &Flags::default(), &none)?;
        from_environment(&settings, &Surroundings::with(variables))
    }

    fn render(problems: &[Problem]) -> String {
        problems
            .iter()
            .map(|problem| problem.render(false))
            .collect()
    }

    #[test]
    fn a_service_needs_no_file() {
        let descriptor = read(&[
            ("OUTRIGGER_SERVICE", "orders"),
            ("OUTRIGGER_PORT", "8080"),
            ("OUTRIGGER_GROUP", "PAY"),
            ("OUTRIGGER_CLUSTER", ""),
            ("OUTRIGGER_ADDRESS", "${POD_IP}"),
            ("OUTRIGGER_WEIGHT", "2.5"),
            ("OUTRIGGER_METADATA", "version=1.4, zone=a=b,"),
            ("POD_IP", "10.1.2.3"),
        ]);
        let service = descriptor.unwrap().unwrap().services.remove(0);
        assert_eq!(
            (service.name.as_str(), service.port, service.group.as_str()),
            ("orders", 8080, "PAY")
        );
        assert_eq!(service.cluster, "DEFAULT");
        assert_eq!(
            service.address,
            Address::Explicit("10.1.2.3".parse().unwrap())
        );
        assert_eq!(service.weight, 2.5);
        let metadata: Vec<_> = service.metadata.into_iter().collect();
        assert_eq!(
            metadata,
            [
                ("version".into(), "1.4".into()),
                ("zone".into(), "a=b".into())
            ]
        );
        let probe = service.probe.unwrap().kind;
        assert!(matches!(probe, ProbeKind::Tcp { port: 8080, .. }));
        assert_eq!(read(&[("HOME", "/root")]), Ok(None));
    }

    #[test]
    fn every_mistake_names_its_variable() {
        let wrong = read(&[
            ("OUTRIGGER_SERVICE", "PAY@@orders"),
            ("OUTRIGGER_PORT", "http"),
            ("OUTRIGGER_ADDRESS", "0.0.0.0"),
            ("OUTRIGGER_WEIGHT", "20000"),
            ("OUTRIGGER_METADATA", "version"),
        ]);
        let alone = read(&[
            ("OUTRIGGER_PORT", "tcp://10.0.0.1:80"),
            ("OUTRIGGER_GROUP", "x"),
        ]);
        let portless = read(&[("OUTRIGGER_SERVICE", "orders")]);
        let shown: String = [wrong, alone, portless]
            .map(|read| render(&read.unwrap_err()))
            .join("\n");
        insta::assert_snapshot!(shown, @r"
        OUTRIGGER_ADDRESS: nobody can call 0.0.0.0
          help: write an IP address, auto, or { cidr: [10.0.0.0/8], interface: eth0, prefer: v4 }
        OUTRIGGER_METADATA: `version` is not a pair
          help: write name=value,name=value
        OUTRIGGER_PORT: `http` is not a whole number
          help: a port goes from 1 to 65535
        OUTRIGGER_SERVICE: a group stands in front of the name
          help: write name: orders and group: PAY
        OUTRIGGER_WEIGHT: 20000 is not a weight
          help: weights go from 0 to 10000; 0 takes the instance out of traffic

        OUTRIGGER_GROUP: means nothing without OUTRIGGER_SERVICE
          help: set OUTRIGGER_SERVICE to the service's name too
        OUTRIGGER_PORT: means nothing without OUTRIGGER_SERVICE
          help: a Kubernetes service of that name set it: write enableServiceLinks: false in the pod's
                spec

        OUTRIGGER_SERVICE: OUTRIGGER_PORT is missing
          help: set it to the port the service listens on
        ");
    }

    #[test]
    fn a_variable_nobody_reads_is_refused_with_the_nearest_name() {
        let problems = Problems::default();
        check(
            &Surroundings::with(&[
                ("OUTRIGGER_REGISTRY_SERVER", "x"),
                ("OUTRIGGER_SERVICE_HOST", "10.0.0.1"),
                ("OUTRIGGER_PORT_8848_TCP_ADDR", "10.0.0.1"),
                ("OUTRIGGER_COLOUR", "red"),
                ("OUTRIGGER_FORBID", "exec,http"),
                ("OUTRIGGER_METADATA", "a=b"),
                ("PATH", "/bin"),
            ]),
            &problems,
        );
        let problems = problems.or(()).unwrap_err();
        insta::assert_snapshot!(report::render_all(&problems, 1, 1, false), @r"
        OUTRIGGER_COLOUR: unknown variable
          help: docs/settings.md lists all variables
        OUTRIGGER_FORBID: `http` cannot be ruled out
          help: write exec
        OUTRIGGER_PORT_8848_TCP_ADDR: unknown variable
          help: a Kubernetes service of that name set it: write enableServiceLinks: false in the pod's
                spec
        OUTRIGGER_REGISTRY_SERVER: unknown variable
          help: did you mean OUTRIGGER_REGISTRY_SERVERS?
        OUTRIGGER_SERVICE_HOST: unknown variable
          help: a Kubernetes service of that name set it: write enableServiceLinks: false in the pod's
                spec
        5 errors in 1 of 1 file
        ");
    }
}
