//! The entries of `subscriptions`: which instances of which service, in which format, and which lists are not believed at once.

use super::parse::Context;
use super::parse::checked;
use super::parse::cidr;
use super::parse::group;
use super::parse::service_name;
use super::reader::Fields;
use super::reader::Value;
use super::sources::template_file;
use super::spec::{Filter, Guard, MOST_INSTANCES, OnAbsent, Rendering, Subscription, Written};
use crate::foreign::Foreign;
use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

/// What a list of instances may be held for.
const WINDOWS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// What a smaller list may be held for after the registry came back.
const HOLDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Clusters, networks or labels of one subscription.
const MAX_ITEMS: usize = 64;

/// Formats, each with the key that is its own.
const FORMATS: [(&str, &[&str]); 8] = [
    ("nginx", &["upstream"]),
    ("haproxy", &["backend"]),
    ("haproxy_map", &["key"]),
    ("prometheus", &["labels"]),
    ("envoy", &["cluster", "labels"]),
    ("json", &[]),
    ("hosts", &["host"]),
    ("env", &["variable"]),
];
/// All keys that belong to one format.
const OWN_KEYS: [&str; 7] = [
    "upstream", "backend", "key", "cluster", "host", "variable", "labels",
];

impl Context<'_> {
    /// A subscription; where something was noted, with defaults in place of it.
    pub(super) fn subscription(&self, fields: &mut Fields<'_>) -> (Subscription, [Written; 2]) {
        let path = fields.need("path");
        let written = path.as_ref().map(Value::written).unwrap_or_default();
        let service = fields
            .need("service")
            .and_then(|value| service_name(&value))
            .unwrap_or_default();
        let template = fields.get("template");
        let template_written = template.as_ref().map(Value::written).unwrap_or_default();
        let rendering = rendering(fields, template, &service);
        let is_hosts = matches!(rendering, Some(Rendering::Hosts { .. }));
        fields.elsewhere(
            "on_absent",
            "a service that nobody has registered has an empty list",
            "write guard: { allow_empty: true } if the file shall be empty then",
        );
        // A hosts file is read by everybody.
        let mode = if is_hosts { 0o644 } else { 0o640 };
        let target = self.target(fields, path, OnAbsent::Keep, mode, false);
        let subscription = Subscription {
            service,
            group: group(fields),
            namespace: self.namespace(fields),
            filter: self.filter(fields),
            rendering: rendering.unwrap_or(Rendering::Json),
            guard: fields
                .get("guard")
                .and_then(|value| guard(&value))
                .unwrap_or_default(),
            target,
        };
        (subscription, [written, template_written])
    }

    fn filter(&self, fields: &mut Fields<'_>) -> Filter {
        let clusters = |fields: &mut Fields<'_>, name| {
            let of_list = |value: &Value<'_>| checked(value, "cluster", 64, "_-");
            fields
                .get(name)
                .and_then(|value| several(&value, "[DEFAULT]", of_list))
                .unwrap_or_default()
        };
        Filter {
            clusters: clusters(fields, "clusters"),
            prefer_clusters: clusters(fields, "prefer_clusters"),
            healthy_only: fields
                .get("healthy_only")
                .and_then(|value| value.boolean())
                .unwrap_or(true),
            metadata: fields
                .get("metadata")
                .and_then(|value| metadata(&value))
                .unwrap_or_default(),
            allow_cidrs: fields
                .get("allow_cidrs")
                .and_then(|value| several(&value, "[10.0.0.0/8]", cidr))
                .unwrap_or_default(),
            loopback: self.loopback,
        }
    }
}

/// The items of a list, or the one value that stands for it.
fn several<T>(
    value: &Value<'_>,
    example: &str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    if value.is_scalar() {
        return read(value).map(|one| vec![one]);
    }
    let items = value.list(example)?;
    if items.len() > MAX_ITEMS {
        return value.wrong(
            format!("{} items are more than {MAX_ITEMS}", items.len()),
            "write fewer",
        );
    }
    items.iter().map(read).collect()
}

fn metadata(value: &Value<'_>) -> Option<BTreeMap<String, String>> {
    let fields = value.fields("metadata: { version: \"1.4\" }")?;
    let wanted = fields
        .all()
        .filter_map(|(key, value)| Some((key.to_owned(), value.any_text()?)));
    Some(wanted.collect())
}

/// The format with the keys that belong to it; `None` where something was noted.
fn rendering(
    fields: &mut Fields<'_>,
    template: Option<Value<'_>>,
    service: &str,
) -> Option<Rendering> {
    let example = "format: nginx (or haproxy haproxy_map prometheus envoy json hosts env), or template: payments.j2";
    let form = fields.exactly_one(&["format", "template"], example);
    let (format, keys) = match form {
        Some("template") => ("template", &[][..]),
        Some(_) => {
            let words = FORMATS.map(|(word, keys)| (word, (word, keys)));
            match fields.get("format").and_then(|value| value.choice(&words)) {
                Some(found) => found,
                // Which keys belong to it is not known then.
                None => ("", &[][..]),
            }
        }
        None => ("", &[][..]),
    };
    for key in OWN_KEYS {
        if format.is_empty() {
            _ = fields.get(key);
        } else if !keys.contains(&key) {
            fields.idle(&[key], format);
        }
    }
    let label = |value: &Value<'_>| checked(value, "metadata key", 128, "_./-");
    let labels = |fields: &mut Fields<'_>| {
        fields
            .get("labels")
            .and_then(|value| several(&value, "[version, zone]", label))
            .unwrap_or_default()
    };
    match format {
        "nginx" => named(fields, "upstream", service).map(|upstream| Rendering::Nginx { upstream }),
        "haproxy" => {
            named(fields, "backend", service).map(|backend| Rendering::Haproxy { backend })
        }
        "haproxy_map" => Some(Rendering::HaproxyMap {
            key: match fields.get("key") {
                Some(value) => Some(label(&value)?),
                None => None,
            },
        }),
        "prometheus" => Some(Rendering::Prometheus {
            labels: labels(fields),
        }),
        "envoy" => Some(Rendering::Envoy {
            cluster: match fields.get("cluster") {
                Some(value) => checked(&value, "cluster name", 128, "._-")?,
                None => service.to_owned(),
            },
            labels: labels(fields),
        }),
        "json" => Some(Rendering::Json),
        "hosts" => host(fields, service).map(|host| Rendering::Hosts { host }),
        "env" => variable(fields, service).map(|variable| Rendering::Env { variable }),
        "template" => {
            let value = template?;
            let file = template_file(&value)?;
            Some(Rendering::Template {
                file,
                text: "".into(),
            })
        }
        _ => None,
    }
}

/// A name that no reader takes for something else; the service's with `_` for what has no place in it when not written.
fn named(fields: &mut Fields<'_>, key: &'static str, service: &str) -> Option<String> {
    if let Some(value) = fields.get(key) {
        return checked(&value, key, 128, "._-");
    }
    let plain = |c: char| if c == ':' { '_' } else { c };
    Some(service.chars().map(plain).take(128).collect())
}

/// A name for a hosts file.
fn host(fields: &mut Fields<'_>, service: &str) -> Option<String> {
    let written = fields.get("host");
    let name = match &written {
        Some(value) => value.text()?,
        None => service.to_owned(),
    };
    if is_host(&name) {
        return Some(name);
    }
    match written {
        Some(value) => value.wrong(
            format!("`{}` is not a name for a hosts file", Foreign::new(name)),
            "letters, digits, - and dots between them are allowed, a letter in the last part, and not localhost",
        ),
        None => {
            // Without a service nothing is known that could be wrong here.
            if !service.is_empty() {
                fields.wrong_key(
                    "format",
                    "the service's name is none for a hosts file",
                    "write host: payments.internal beside it",
                );
            }
            None
        }
    }
}

fn is_host(name: &str) -> bool {
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(part)
        && last.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !last.eq_ignore_ascii_case("localhost")
        && !name.to_ascii_lowercase().starts_with("localhost.")
}

/// What stands before `_INSTANCES`.
fn variable(fields: &mut Fields<'_>, service: &str) -> Option<String> {
    let Some(value) = fields.get("variable") else {
        let upper = |c: char| match c.to_ascii_uppercase() {
            c if c.is_ascii_alphanumeric() => c,
            _ => '_',
        };
        let name: String = service.chars().map(upper).take(128).collect();
        return Some(match name.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("_{name}"),
            false => name,
        });
    };
    let name = value.text()?;
    let right = name.len() <= 128
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    match right {
        true => Some(name),
        false => value.wrong(
            format!("`{}` is not a variable", Foreign::new(name)),
            "write capital letters, digits and _; `_INSTANCES` comes behind it",
        ),
    }
}

fn guard(value: &Value<'_>) -> Option<Guard> {
    let default = Guard::default();
    let mut fields = value.fields("guard: { min_instances: 1, max_shrink: 60% }")?;
    let most = u64::try_from(MOST_INSTANCES).unwrap_or(u64::MAX);
    let least = fields
        .get("min_instances")
        .map(|value| (value.integer("a count", 1..=most), value));
    let allow_empty = fields.get("allow_empty").and_then(|value| value.boolean());
    if let (Some((Some(_), least)), Some(true)) = (&least, allow_empty) {
        least.wrong::<()>(
            "means nothing beside `allow_empty: true`",
            "leave one of the two out",
        );
    }
    let least = least.and_then(|(least, _)| usize::try_from(least?).ok());
    let max_shrink = fields.get("max_shrink").and_then(|value| percent(&value));
    let mut time = |name, range| fields.get(name)?.duration(range);
    let window = time("window", WINDOWS);
    let hold = time("hold_after_reconnect", HOLDS);
    fields.finish();
    Some(Guard {
        min_instances: match allow_empty {
            Some(true) => 0,
            _ => least.unwrap_or(default.min_instances),
        },
        max_shrink: max_shrink.unwrap_or(default.max_shrink),
        window: window.unwrap_or(default.window),
        hold_after_reconnect: hold.unwrap_or(default.hold_after_reconnect),
    })
}

fn percent(value: &Value<'_>) -> Option<u8> {
    let text = value.text()?;
    let number = text.strip_suffix('%').and_then(|digits| {
        let right = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .parse::<u8>()
            .ok()
            .filter(|number| right && *number <= 100)
    });
    match number {
        Some(number) => Some(number),
        None => value.wrong(
            format!("`{}` is not a share", Foreign::new(text)),
            "write 0% to 100%; 100% lets every loss pass",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::Surroundings;
    use super::super::parse;
    use super::super::settings_file::resolve;
    use super::*;
    use crate::report;
    use std::path::{Path, PathBuf};

    fn read(text: &str) -> Result<Vec<Subscription>, String> {
        let around = Surroundings::default();
        let settings = resolve(Path::new("x.yaml"), None, &Flags::default(), &around).unwrap();
        parse(Path::new("conf.d/web.yaml"), text, &settings, &around)
            .map(|descriptor| descriptor.subscriptions)
            .map_err(|problems| report::render_all(&problems, 1, 1, false))
    }

    fn one(text: &str) -> Subscription {
        let text = format!("subscriptions:\n  - {{ path: /run/x, {text} }}\n");
        read(&text).unwrap().remove(0)
    }

    #[test]
    fn every_default_is_filled_in() {
        let found = one("service: 7pay:ments.v2, format: nginx");
        assert_eq!(found.group, "DEFAULT_GROUP");
        assert_eq!(found.namespace, "public");
        assert!(found.filter.healthy_only && found.filter.clusters.is_empty());
        // Where no server is written it is that of this host.
        assert!(found.filter.loopback);
        assert_eq!(found.guard, Guard::default());
        assert_eq!(found.target.mode, 0o640);
        let form = |format| one(&format!("service: 7pay:ments.v2, format: {format}")).rendering;
        let is = |format, rendering| assert_eq!(form(format), rendering);
        is(
            "nginx",
            Rendering::Nginx {
                upstream: "7pay_ments.v2".to_owned(),
            },
        );
        is(
            "haproxy",
            Rendering::Haproxy {
                backend: "7pay_ments.v2".to_owned(),
            },
        );
        is(
            "env",
            Rendering::Env {
                variable: "_7PAY_MENTS_V2".to_owned(),
            },
        );
        let hosts = one("service: payments, format: hosts");
        assert_eq!(
            hosts.rendering,
            Rendering::Hosts {
                host: "payments".to_owned()
            }
        );
        assert_eq!(hosts.target.mode, 0o644);
        let template = one("service: a, template: a.j2").rendering;
        let file = PathBuf::from("conf.d/a.j2");
        assert_eq!(
            template,
            Rendering::Template {
                file,
                text: "".into()
            }
        );
    }

    #[test]
    fn loopback_is_for_a_registry_that_is_there() {
        for (servers, loopback) in [
            ("http://127.0.0.1:8848", true),
            ("http://[::1]:8848/", true),
            ("http://localhost:8848", true),
            ("https://nacos-0:8848,http://nacos-1:8848", false),
            ("http://localhost.example:8848", false),
        ] {
            let around = Surroundings::with(&[("OUTRIGGER_REGISTRY_SERVERS", servers)]);
            let settings = resolve(Path::new("x.yaml"), None, &Flags::default(), &around).unwrap();
            let text = "subscriptions: [{ service: a, path: /run/a, format: json }]\n";
            let found = parse(Path::new("a.yaml"), text, &settings, &around).unwrap();
            assert_eq!(
                found.subscriptions[0].filter.loopback, loopback,
                "{servers}"
            );
        }
    }

    #[test]
    fn everything_can_be_written() {
        let found = one(
            "service: a, group: G, namespace: n, clusters: [c1, c2], prefer_clusters: c1, healthy_only: false, \
             metadata: { version: 2 }, allow_cidrs: [10.0.0.0/8], format: prometheus, labels: [version], \
             guard: { min_instances: 3, max_shrink: 50%, window: 1m, hold_after_reconnect: 0s }",
        );
        assert_eq!(found.filter.clusters, ["c1", "c2"]);
        assert_eq!(found.filter.prefer_clusters, ["c1"]);
        assert_eq!(found.filter.metadata["version"], "2");
        assert_eq!(found.filter.allow_cidrs.len(), 1);
        assert_eq!(
            found.rendering,
            Rendering::Prometheus {
                labels: vec!["version".to_owned()]
            }
        );
        let guard = Guard {
            min_instances: 3,
            max_shrink: 50,
            window: Duration::from_secs(60),
            hold_after_reconnect: Duration::ZERO,
        };
        assert_eq!(found.guard, guard);
        let empty = one("service: a, format: json, guard: { allow_empty: true }");
        assert_eq!(empty.guard.min_instances, 0);
    }

    #[test]
    fn every_mistake_has_its_place_and_the_next_step() {
        let text = "subscriptions:
  - service: payments
    path: /etc/nginx/payments.conf
    format: ngnix
    upstraem: x
  - service: localhost
    path: /etc/hosts
    format: hosts
    upstream: x
    on_absent: keep
  - service: a
    path: /run/a
    format: env
    variable: lower
    guard: { min_instances: 0, max_shrink: 60, windw: 5m }
  - service: b
    path: /run/b
    template: ../b.j2
    guard: { min_instances: 2, allow_empty: true }
  - service: c
    path: /run/c
";
        insta::assert_snapshot!(read(text).unwrap_err(), @r#"
        conf.d/web.yaml:4:13: subscriptions[0].format: `ngnix` is none of nginx, haproxy, haproxy_map, prometheus, envoy, json, hosts, env
           4 |     format: ngnix
             |             ^^^^^
          help: did you mean `nginx`?
        conf.d/web.yaml:5:5: subscriptions[0].upstraem: unknown key
           5 |     upstraem: x
             |     ^^^^^^^^
          help: did you mean `upstream`?
        conf.d/web.yaml:8:5: subscriptions[1].format: the service's name is none for a hosts file
           8 |     format: hosts
             |     ^^^^^^
          help: write host: payments.internal beside it
        conf.d/web.yaml:9:5: subscriptions[1].upstream: means nothing beside `hosts`
           9 |     upstream: x
             |     ^^^^^^^^
          help: leave it out
        conf.d/web.yaml:10:5: subscriptions[1].on_absent: a service that nobody has registered has an empty list
          10 |     on_absent: keep
             |     ^^^^^^^^^
          help: write guard: { allow_empty: true } if the file shall be empty then
        conf.d/web.yaml:14:15: subscriptions[2].variable: `lower` is not a variable
          14 |     variable: lower
             |               ^^^^^
          help: write capital letters, digits and _; `_INSTANCES` comes behind it
        conf.d/web.yaml:15:29: subscriptions[2].guard.min_instances: 0 is not a count
          15 |     guard: { min_instances: 0, max_shrink: 60, windw: 5m }
             |                             ^
          help: a count goes from 1 to 10000
        conf.d/web.yaml:15:44: subscriptions[2].guard.max_shrink: `60` is not a share
          15 |     guard: { min_instances: 0, max_shrink: 60, windw: 5m }
             |                                            ^^
          help: write 0% to 100%; 100% lets every loss pass
        conf.d/web.yaml:15:48: subscriptions[2].guard.windw: unknown key
          15 |     guard: { min_instances: 0, max_shrink: 60, windw: 5m }
             |                                                ^^^^^
          help: did you mean `window`?
        conf.d/web.yaml:18:15: subscriptions[3].template: `../b.j2` is not the name of a template
          18 |     template: ../b.j2
             |               ^^^^^^^
          help: write the name of a file beside this descriptor: payments.j2
        conf.d/web.yaml:19:29: subscriptions[3].guard.min_instances: means nothing beside `allow_empty: true`
          19 |     guard: { min_instances: 2, allow_empty: true }
             |                             ^
          help: leave one of the two out
        conf.d/web.yaml:20:5: subscriptions[4]: names none of `format` and `template`
          20 |   - service: c
             |     ^
          help: write format: nginx (or haproxy haproxy_map prometheus envoy json hosts env), or template:
                payments.j2
        12 errors in 1 of 1 file
        "#);
    }
}
