//! What descriptors that are right each on their own cannot want together: one instance twice, one file from two sources.

use super::spec::Address;
use super::spec::Descriptor;
use super::spec::Service;
use super::spec::Written;
use crate::foreign::Foreign;
use crate::report::Problem;
use std::{collections::HashMap, path::Path};

/// Compares all descriptors, each with the file it was read from. Of two that collide the later one (by its index, in one
/// file by its line) has the problem: the index and what to show.
///
/// Two services are one instance when namespace, group, name and port are the same, unless both addresses are written out and
/// differ. Two configurations or lists collide when they are kept in the same file.
#[must_use]
pub fn conflicts(descriptors: &[(&Path, &Descriptor)]) -> Vec<(usize, Problem)> {
    let mut found = Vec::new();
    let nowhere = Written::default();
    let mut services: HashMap<_, Vec<(&Service, Origin<'_>)>> = HashMap::new();
    let mut paths: HashMap<&Path, Origin<'_>> = HashMap::new();
    for (index, (file, descriptor)) in descriptors.iter().enumerate() {
        for (at, service) in descriptor.services.iter().enumerate() {
            let written = descriptor.places.services.get(at).unwrap_or(&nowhere);
            let here = Origin { file, at, written };
            let identity = (
                &service.namespace,
                &service.group,
                &service.name,
                service.port,
            );
            let same = services.entry(identity).or_default();
            if let Some((_, first)) = same.iter().find(|(other, _)| collide(other, service)) {
                let message = format!(
                    "{}/{} on port {} in namespace {} is already written in {first}",
                    service.group, service.name, service.port, service.namespace
                );
                let help = "leave one out, or give each its own port or a written address";
                found.push((index, here.problem("services", "name", message, help)));
            } else {
                same.push((service, here));
            }
        }
        let places = &descriptor.places;
        let configs = descriptor.configs.iter().map(|config| &config.target);
        let subscriptions = descriptor.subscriptions.iter().map(|list| &list.target);
        let targets =
            configs
                .enumerate()
                .map(|(at, target)| ("configs", places.configs.get(at), at, target))
                .chain(subscriptions.enumerate().map(|(at, target)| {
                    ("subscriptions", places.subscriptions.get(at), at, target)
                }));
        for (list, written, at, target) in targets {
            let written = written.unwrap_or(&nowhere);
            let here = Origin { file, at, written };
            let path = target.path.as_path();
            if let Some(first) = paths.get(path) {
                let path = Foreign::new(path.to_string_lossy().into_owned());
                let message = format!("{path} is already kept by {first}");
                let help = "two sources cannot be one file: change one path";
                found.push((index, here.problem(list, "path", message, help)));
            } else {
                paths.insert(path, here);
            }
        }
    }
    found
}

fn collide(a: &Service, b: &Service) -> bool {
    match (&a.address, &b.address) {
        (Address::Explicit(a), Address::Explicit(b)) => a == b,
        _ => true,
    }
}

/// Where an entry is written.
struct Origin<'a> {
    file: &'a Path,
    /// Its index in the list.
    at: usize,
    written: &'a Written,
}

impl Origin<'_> {
    fn problem(&self, list: &str, key: &str, message: String, help: &str) -> Problem {
        // A service of variables has no list.
        let key = match self.written.place {
            Some(_) => format!("{list}[{}].{key}", self.at),
            None => String::new(),
        };
        Problem {
            source: self.file.to_owned(),
            place: self.written.place,
            key,
            message,
            help: Some(help.to_owned()),
            excerpt: self.written.excerpt.clone(),
        }
    }
}

impl std::fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = Foreign::new(self.file.to_string_lossy().into_owned());
        match self.written.place {
            Some(place) => write!(f, "{file}:{}:{}", place.line, place.column),
            None => write!(f, "{file}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::Surroundings;
    use super::super::from_environment;
    use super::super::parse;
    use super::super::settings_file::resolve;
    use super::*;
    use crate::report;

    #[test]
    fn the_later_of_two_that_collide_is_told_where_the_first_is() {
        let around =
            Surroundings::with(&[("OUTRIGGER_SERVICE", "orders"), ("OUTRIGGER_PORT", "8080")]);
        let settings = resolve(Path::new("x.yaml"), None, &Flags::default(), &around).unwrap();
        let files = [
            (
                "a.yaml",
                "services:\n  - { name: orders, port: 8080 }\n  - { name: orders, port: 8081 }\n\
                 configs:\n  - { data_id: a, path: /run/a }\n  - { data_id: b, path: /run//a }\n",
            ),
            (
                "b.yaml",
                "services:\n  - { name: orders, port: 8080, cluster: other }\n  - { name: orders, port: 8080, group: G }\n\
                 configs:\n  - { data_id: a, path: /run/b }\n  - { data_id: c, path: /run/a }\n",
            ),
        ];
        let mut read: Vec<_> = files
            .iter()
            .map(|(path, text)| {
                (
                    Path::new(*path),
                    parse(Path::new(path), text, &settings, &around).unwrap(),
                )
            })
            .collect();
        let variables = from_environment(&settings, &around).unwrap().unwrap();
        read.push((Path::new("OUTRIGGER_SERVICE"), variables));
        let all: Vec<_> = read.iter().map(|(path, found)| (*path, found)).collect();
        let found = conflicts(&all);
        let indexes: Vec<_> = found.iter().map(|(index, _)| *index).collect();
        assert_eq!(indexes, [0, 1, 1, 2]);
        let problems: Vec<_> = found.into_iter().map(|(_, problem)| problem).collect();
        insta::assert_snapshot!(report::render_all(&problems, 3, 3, false), @r"
        OUTRIGGER_SERVICE: DEFAULT_GROUP/orders on port 8080 in namespace public is already written in a.yaml:2:13
          help: leave one out, or give each its own port or a written address
        a.yaml:6:25: configs[1].path: /run/a is already kept by a.yaml:5:25
           6 |   - { data_id: b, path: /run//a }
             |                         ^^^^^^^
          help: two sources cannot be one file: change one path
        b.yaml:2:13: services[0].name: DEFAULT_GROUP/orders on port 8080 in namespace public is already written in a.yaml:2:13
           2 |   - { name: orders, port: 8080, cluster: other }
             |             ^^^^^^
          help: leave one out, or give each its own port or a written address
        b.yaml:6:25: configs[1].path: /run/a is already kept by a.yaml:5:25
           6 |   - { data_id: c, path: /run/a }
             |                         ^^^^^^
          help: two sources cannot be one file: change one path
        4 errors in 3 of 3 files
        ");
    }

    #[test]
    fn a_list_and_a_configuration_cannot_be_one_file() {
        let around = Surroundings::with(&[]);
        let settings = resolve(Path::new("x.yaml"), None, &Flags::default(), &around).unwrap();
        let text = "configs:\n- { data_id: a, path: /run/a }\n\
                    subscriptions:\n- { service: s, path: /run/b, format: json }\n\
                    - { service: s, path: /run/a, format: env }\n";
        let path = Path::new("a.yaml");
        let descriptor = parse(path, text, &settings, &around).unwrap();
        let found = conflicts(&[(path, &descriptor)]);
        let [(0, problem)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(problem.key, "subscriptions[1].path");
        assert_eq!(problem.message, "/run/a is already kept by a.yaml:2:23");
    }

    #[test]
    fn two_written_addresses_make_two_instances() {
        let around = Surroundings::with(&[]);
        let settings = resolve(Path::new("x.yaml"), None, &Flags::default(), &around).unwrap();
        let collisions = |first: &str, second: &str| {
            let text = format!(
                "services:\n- {{ name: a, port: 1, address: {first} }}\n- {{ name: a, port: 1, address: {second} }}\n"
            );
            let path = Path::new("a.yaml");
            let descriptor = parse(path, &text, &settings, &around).unwrap();
            conflicts(&[(path, &descriptor)]).len()
        };
        assert_eq!(collisions("10.0.0.1", "10.0.0.2"), 0);
        assert_eq!(collisions("10.0.0.1", "10.0.0.1"), 1);
        assert_eq!(collisions("10.0.0.1", "auto"), 1);
    }
}
