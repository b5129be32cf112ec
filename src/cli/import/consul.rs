//! Service definitions of a Consul agent, in JSON or HCL: `service`, `services`, and the checks in them.

use super::sheet::{Item, Kind, Sheet, Table, text, texts};
use super::words;
use serde_json::{Map, Value as Json, json};
use std::net::IpAddr;

/// Reads every service of a file.
pub(super) fn read(root: &Table<'_>, sheet: &mut Sheet) {
    for name in ["service", "services"] {
        for table in root.tables(name) {
            service(&table, sheet);
        }
    }
}

/// What else is in files of an agent.
pub(super) const SETTINGS: &[(&str, &str)] = &[
    (
        "check",
        "a probe belongs to a service: move the check into it",
    ),
    (
        "checks",
        "a probe belongs to a service: move the check into it",
    ),
    (
        "encrypt",
        "the agents of a registry do not talk to each other",
    ),
    ("acl", "registry.auth in outrigger.yaml"),
    (
        "datacenter",
        "a cluster of a service, or a namespace, is the nearest",
    ),
    ("data_dir", "state_dir in outrigger.yaml"),
    ("retry_join", "registry.servers in outrigger.yaml"),
    ("server", "the registry is a server of its own"),
];

fn service(table: &Table<'_>, sheet: &mut Sheet) {
    let path = table.path;
    let (Some(name), Some(port)) = (
        table.text("name"),
        table.text("port").filter(|port| *port != "0"),
    ) else {
        sheet.note(
            path,
            Some(table.place),
            &table.key,
            "no name, or no port: nothing is made of it",
            "an instance is an address and a port: write `port`",
        );
        return;
    };
    let mut item = Item::new(Kind::Service, path, table.place);
    item.put("name", name);
    item.put(
        "port",
        port.parse::<u64>()
            .map_or_else(|_| json!(port), |port| json!(port)),
    );
    if let Some(id) = table.text("id").filter(|id| *id != name) {
        let what = format!("the id {id} is left out");
        table.leave(
            sheet,
            "id",
            &what,
            "an instance is known by its address and port",
        );
    }
    if let Some(address) = table.text("address").filter(|address| !address.is_empty()) {
        if address.parse::<IpAddr>().is_ok() {
            item.put("address", address);
        } else {
            table.leave(
                sheet,
                "address",
                "is no IP address, and is left out",
                "`address: auto` finds one; `outrigger explain address` says which",
            );
        }
    }
    for weights in table.tables("weights") {
        if let Some(passing) = weights
            .text("passing")
            .and_then(|weight| weight.parse::<u64>().ok())
        {
            item.put("weight", passing);
        }
        weights.leave_rest(
            sheet,
            &[("warning", "there is no state between healthy and not")],
        );
    }
    let metadata = metadata(table, sheet);
    if !metadata.is_empty() {
        item.put("metadata", Json::Object(metadata));
    }
    probe(table, sheet, &mut item);
    table.leave_rest(
        sheet,
        &[
            ("token", "registry.auth in outrigger.yaml"),
            (
                "namespace",
                "write `namespace`, with the id it has in the registry",
            ),
            (
                "partition",
                "write `namespace`, with the id it has in the registry",
            ),
            (
                "enable_tag_override",
                "what an operator changes in the console is shown, not fought",
            ),
            ("connect", "there is no mesh"),
            ("proxy", "there is no mesh"),
            ("kind", "there is no mesh"),
            (
                "tagged_addresses",
                "an instance has one address; others can be metadata",
            ),
            ("socket_path", "an instance is an address and a port"),
        ],
    );
    sheet.items.push(item);
}

fn metadata(table: &Table<'_>, sheet: &mut Sheet) -> Map<String, Json> {
    let mut metadata = Map::new();
    for meta in table.tables("meta") {
        for entry in meta.entries() {
            let value = text(&entry.value).unwrap_or_default();
            if words::sounds_secret(&entry.key) || words::sounds_secret(value) {
                meta.leave(
                    sheet,
                    &entry.key,
                    "sounds like a secret and is left out",
                    "everybody who may ask the registry sees metadata",
                );
            } else if let Some(value) = text(&entry.value) {
                metadata.insert(entry.key.clone(), json!(value));
            } else {
                meta.leave(
                    sheet,
                    &entry.key,
                    "is no text and is left out",
                    "metadata are texts",
                );
            }
        }
    }
    let tags = table
        .one("tags")
        .map(|entry| texts(&entry.value))
        .unwrap_or_default();
    if !tags.is_empty() {
        let joined = tags.join(",");
        metadata.entry("tags").or_insert_with(|| json!(joined));
        table.leave(sheet, "tags", "there are no tags: they become one text of metadata, `tags`", "callers that choose by tag must choose by metadata; one key for each may serve them better");
    }
    metadata
}

fn probe(table: &Table<'_>, sheet: &mut Sheet, item: &mut Item) {
    let mut checks = table.tables("check");
    checks.extend(table.tables("checks"));
    if checks.is_empty() {
        // Consul calls a service without a check healthy.
        item.put("probe", "none");
        return;
    }
    let mut taken = false;
    for check in &checks {
        let probe = (!taken).then(|| one(check, sheet)).flatten();
        match probe {
            Some(probe) => {
                item.put("probe", probe);
                taken = true;
            }
            None if taken => sheet.note(
                check.path,
                Some(check.place),
                &check.key,
                "a service has one probe: this further check is left out",
                "let one check of the application cover both",
            ),
            None => {}
        }
    }
    if !taken {
        item.remarks.push(
            "none of its checks can be taken over: it is watched by a connection to its port"
                .to_owned(),
        );
    }
}

/// A check as a probe; says what cannot be taken over.
fn one(check: &Table<'_>, sheet: &mut Sheet) -> Option<Json> {
    let mut probe = Map::new();
    let mut put = |key: &str, value: Json| _ = probe.insert(key.to_owned(), value);
    let refused = |sheet: &mut Sheet, what: &str, help: &str| {
        sheet.note(check.path, Some(check.place), &check.key, what, help);
    };
    if let Some(at) = check.text("tcp") {
        let Some((host, port)) = at
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host_of(host)?, port.parse::<u16>().ok()?)))
        else {
            refused(
                sheet,
                "`tcp` is no IP address with a port, and is left out",
                "a probe asks an IP address: 127.0.0.1 when not written",
            );
            return None;
        };
        put("tcp", json!({ "host": host, "port": port }));
    } else if let Some(url) = check.text("http") {
        match http(url) {
            Ok(http) => put("http", http),
            Err(what) => {
                refused(
                    sheet,
                    what,
                    "write `probe: { http: { path: ... } }`, or ask by a command",
                );
                return None;
            }
        }
    } else if let Some(args) = check.one("args").or(check.one("script")) {
        if texts(&args.value)
            .iter()
            .any(|word| words::sounds_secret(word))
        {
            check.leave(
                sheet,
                &args.key,
                "sounds as if it had a secret in it, and is left out",
                "put the command into a script that reads the secret from a file",
            );
            return None;
        }
        let argv = match texts(&args.value).as_slice() {
            [] => return None,
            [one] => words::command(one).unwrap_or_else(|shell| {
                check.leave(
                    sheet,
                    &args.key,
                    "needs a shell, and is run by one",
                    "put it into a script, so that no shell is needed",
                );
                shell
            }),
            many => many.iter().map(|word| (*word).to_owned()).collect(),
        };
        put("exec", json!({ "command": argv }));
    } else if check.has("ttl") {
        refused(
            sheet,
            "a ttl check waits for the application to call, and is left out",
            "the agent asks: by tcp, http or a command",
        );
        return None;
    } else {
        refused(
            sheet,
            "a kind of check that no probe has, and is left out",
            "a probe asks by tcp, http or a command",
        );
        return None;
    }
    for name in ["interval", "timeout"] {
        if let Some(written) = check.text(name) {
            match words::time(written) {
                Some(time) => put(name, json!(time)),
                None => check.leave(
                    sheet,
                    name,
                    "is no time we know, and is left out",
                    "write 500ms, 5s, 2m or 1h",
                ),
            }
        }
    }
    for (name, key) in [
        ("success_before_passing", "rise"),
        ("failures_before_critical", "fall"),
    ] {
        // Consul counts those before the one that decides.
        if let Some(count) = check.text(name).and_then(|count| count.parse::<u64>().ok()) {
            put(key, json!(count.max(1)));
        }
    }
    for harmless in ["id", "check_id", "name", "notes"] {
        _ = check.one(harmless);
    }
    if check
        .text("method")
        .is_some_and(|method| method.eq_ignore_ascii_case("GET"))
    {
        _ = check.one("method");
    }
    check.leave_rest(
        sheet,
        &[
            ("method", "a probe is a GET"),
            ("header", "a probe sends no headers: ask by a command"),
            ("body", "a probe sends no body: ask by a command"),
            ("tls_skip_verify", "a probe is http://, on this host"),
            (
                "deregister_critical_service_after",
                "a failing probe takes the instance out at once: `on_failure`",
            ),
            (
                "status",
                "nothing is registered before its probe has passed",
            ),
            (
                "failures_before_warning",
                "there is no state between healthy and not",
            ),
        ],
    );
    Some(Json::Object(probe))
}

fn host_of(host: &str) -> Option<IpAddr> {
    let host = host.trim_matches(['[', ']']);
    if matches!(host, "localhost" | "") {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    host.parse().ok()
}

fn http(url: &str) -> Result<Json, &'static str> {
    let rest = url
        .strip_prefix("http://")
        .ok_or("`http` is no http:// URL, and is left out")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.contains('@') {
        return Err("`http` has a password in it, and is left out");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "80"),
    };
    let host = host_of(host).ok_or("`http` names a host by name, and is left out")?;
    let port: u16 = port
        .parse()
        .map_err(|_| "`http` has no port we know, and is left out")?;
    Ok(json!({ "host": host, "port": port, "path": path }))
}
