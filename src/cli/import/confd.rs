//! Template resources of confd: `conf.d/*.toml` with `[template]`.
//!
//! confd's backends are not ours, and a Go template of several keys cannot be translated: its result is published as one
//! configuration instead, and everything around it (path, mode, owner, check, reload) is taken over. A template that is
//! nothing but one key needs no such change.

use super::sheet::{Item, Kind, Paper, Sheet, Table, text, texts};
use super::words;
use serde_json::json;
use std::path::Path;

/// confd's own settings, and what takes their place.
const SETTINGS: &[(&str, &str)] = &[
    (
        "backend",
        "the registry is in outrigger.yaml: registry.servers",
    ),
    (
        "nodes",
        "the registry is in outrigger.yaml: registry.servers",
    ),
    ("scheme", "the scheme is part of registry.servers"),
    ("interval", "changes are pushed: there is no interval"),
    ("watch", "changes are pushed"),
    (
        "confdir",
        "descriptors are in conf.d beside outrigger.yaml: --conf-dir",
    ),
    ("username", "registry.auth.username"),
    ("password", "registry.auth.password_file"),
    ("auth_token", "registry.auth.password_file"),
    ("client_cert", "registry.tls.cert"),
    ("client_key", "registry.tls.key"),
    ("client_cakeys", "registry.tls.ca"),
    ("log-level", "log.level"),
    ("log_level", "log.level"),
    ("prefix", "a namespace is the nearest: registry.namespace"),
    (
        "noop",
        "outrigger check says what is wrong before anything is written",
    ),
];

/// Whether a TOML file is confd's at all.
pub(super) fn read(paper: &Paper, sheet: &mut Sheet) {
    let root = Table::new(&paper.path, "", &paper.root);
    let templates = root.tables("template");
    for template in &templates {
        resource(template, sheet);
    }
    if templates.is_empty() && !SETTINGS.iter().any(|(name, _)| root.has(name)) {
        sheet.note(
            &paper.path,
            None,
            "",
            "is no template resource of confd: it has no [template]",
            "name the files of confd's conf.d",
        );
        return;
    }
    root.leave_rest(sheet, SETTINGS);
}

fn resource(table: &Table<'_>, sheet: &mut Sheet) {
    let path = table.path;
    let Some(dest) = table.text("dest").filter(|dest| dest.starts_with('/')) else {
        sheet.note(
            path,
            Some(table.place),
            &table.key,
            "no absolute `dest`: nothing is made of it",
            "a configuration needs the absolute path of its file",
        );
        return;
    };
    let mut item = Item::new(Kind::Config, path, table.place);
    let name = Path::new(dest)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let source = table.one("src");
    let src = source
        .and_then(|entry| text(&entry.value))
        .unwrap_or_default();
    let keys: Vec<&str> = table
        .one("keys")
        .map(|e| texts(&e.value))
        .unwrap_or_default();
    _ = table.one("prefix");
    let template = template(path, src);
    let at = source.map_or(table.place, |entry| entry.place);
    match template
        .as_deref()
        .and_then(|text| words::only_key(text, "{{", "}}"))
    {
        Some(key) => {
            item.put("data_id", words::data_id(key));
            item.remarks.push(format!("the template is the key {key} and nothing else: publish its value under this data id"));
        }
        None => {
            item.put("data_id", words::data_id(&name));
            item.remarks
                .push(format!("publish what {src} renders under this data id"));
            let what = match &template {
                Some(_) => format!("the template {src} is Go text, which is not translated"),
                None => {
                    format!("the template {src} was not found, and Go text would not be translated")
                }
            };
            let help = format!(
                "publish the whole file as one configuration{}; until then the file stays as it is",
                if keys.is_empty() {
                    String::new()
                } else {
                    format!(", in place of the keys {}", keys.join(", "))
                }
            );
            sheet.note(path, Some(at), &format!("{}.src", table.key), &what, &help);
        }
    }
    item.put("path", dest);
    file(
        table,
        sheet,
        &mut item,
        "mode",
        ("owner", "uid"),
        ("group", "gid"),
    );
    if let Some(check) = table.one("check_cmd") {
        let written = text(&check.value).unwrap_or_default();
        let staged = written
            .replace("{{.src}}", "{staged}")
            .replace("{{ .src }}", "{staged}");
        if !may_be_shown(table, sheet, "check_cmd", written) {
            // Said.
        } else if staged.contains("{{") {
            table.leave(
                sheet,
                "check_cmd",
                "has another placeholder than {{.src}} and is left out",
                "write it as `validate: { exec: [...] }` with {staged}",
            );
        } else if !staged.contains("{staged}") {
            table.leave(
                sheet,
                "check_cmd",
                "does not name {{.src}}: it would check the old file, and is left out",
                "write it as `validate: { exec: [...] }` with {staged}",
            );
        } else {
            let argv = argv(table, sheet, "check_cmd", &staged);
            item.put("validate", json!({ "exec": argv }));
        }
    }
    if let Some(reload) = table.one("reload_cmd") {
        let written = text(&reload.value).unwrap_or_default();
        if !may_be_shown(table, sheet, "reload_cmd", written) {
            // Said.
        } else if written.contains("{{") {
            table.leave(
                sheet,
                "reload_cmd",
                "has a placeholder and is left out",
                "write it as `reload: { exec: [...] }` with the path of the file",
            );
        } else {
            let argv = argv(table, sheet, "reload_cmd", written);
            item.put("reload", json!({ "exec": argv }));
        }
    }
    table.leave_rest(
        sheet,
        &[
            (
                "backend",
                "the registry is in outrigger.yaml: registry.servers",
            ),
            (
                "min_reload_interval",
                "reloads of a burst are one, and failed ones are tried again with growing waits",
            ),
        ],
    );
    sheet.items.push(item);
}

/// Mode and owner, under the names they have there.
pub(super) fn file(
    table: &Table<'_>,
    sheet: &mut Sheet,
    item: &mut Item,
    mode: &str,
    (user, uid): (&str, &str),
    (group, gid): (&str, &str),
) {
    if let Some(written) = table.text(mode) {
        match words::mode(written) {
            Some(mode) => item.put("mode", mode),
            None => table.leave(
                sheet,
                mode,
                "is no mode we give a file: 0777 at most, and nothing for others to write",
                "the file gets 0640; write another `mode`",
            ),
        }
    }
    // -1 is confd's word for nobody.
    let is_set = |name: &&str| !matches!(*name, "" | "-1");
    let first = |name, number| {
        table
            .text(name)
            .filter(is_set)
            .or(table.text(number).filter(is_set))
    };
    if let Some(owner) = words::owner(first(user, uid), first(group, gid)) {
        item.put("owner", owner);
    }
}

/// Whether a command has no secret in it, as far as can be told; says so otherwise.
pub(super) fn may_be_shown(table: &Table<'_>, sheet: &mut Sheet, key: &str, written: &str) -> bool {
    let is_secret = words::sounds_secret(written);
    if is_secret {
        table.leave(
            sheet,
            key,
            "sounds as if it had a secret in it, and is left out",
            "put the command into a script that reads the secret from a file",
        );
    }
    !is_secret
}

/// The words of a command; says where a shell is needed.
pub(super) fn argv(table: &Table<'_>, sheet: &mut Sheet, key: &str, written: &str) -> Vec<String> {
    words::command(written).unwrap_or_else(|shell| {
        table.leave(
            sheet,
            key,
            "needs a shell, and is run by one",
            "take it apart, or put it into a script, so that no shell is needed",
        );
        shell
    })
}

/// The text of a template, from where confd looks for it.
fn template(resource: &Path, src: &str) -> Option<String> {
    let folder = resource.parent()?;
    let places = [folder.join("../templates").join(src), folder.join(src)];
    places
        .iter()
        .find_map(|place| super::files::content(place).ok())
}
