//! Configurations of consul-template: `template { … }` and `exec { … }`.

use super::confd::{argv, file, may_be_shown};
use super::sheet::{Item, Kind, Paper, Sheet, Table, text, texts};
use super::words;
use serde_json::json;
use std::path::Path;

/// Sections that tell a file is consul-template's.
pub(super) const SECTIONS: &[&str] =
    &["template", "exec", "vault", "deduplicate", "syslog", "wait"];

const SETTINGS: &[(&str, &str)] = &[
    (
        "consul",
        "the registry is in outrigger.yaml: registry.servers",
    ),
    (
        "vault",
        "secrets of Vault need another way to their files; none is read here",
    ),
    ("nomad", "nothing of Nomad is read here"),
    ("wait", "bursts wait for a quiet moment by themselves"),
    ("log_level", "log.level in outrigger.yaml"),
    ("log_file", "the log is standard error"),
    (
        "syslog",
        "the log is standard error; systemd or the container runtime keeps it",
    ),
    (
        "pid_file",
        "outrigger status asks the agent; no pid file is needed",
    ),
    ("deduplicate", "every agent asks for itself"),
    (
        "reload_signal",
        "descriptors are read again when they change, or by HUP",
    ),
    ("kill_signal", "TERM and INT leave in order"),
    ("max_stale", "there is no stale reading"),
    ("retry", "the registry is tried again for ever"),
];

/// Reads its sections.
pub(super) fn read(root: &Table<'_>, paper: &Paper, sheet: &mut Sheet) {
    let delimiters = (
        root.text("default_left_delimiter"),
        root.text("default_right_delimiter"),
    );
    for table in root.tables("template") {
        template(&table, paper, sheet, delimiters);
    }
    for table in root.tables("exec") {
        exec(&table, sheet);
    }
}

/// What is left of the file.
pub(super) fn settings() -> &'static [(&'static str, &'static str)] {
    SETTINGS
}

fn template(
    table: &Table<'_>,
    paper: &Paper,
    sheet: &mut Sheet,
    default: (Option<&str>, Option<&str>),
) {
    let path = table.path;
    let Some(destination) = table.text("destination").filter(|to| to.starts_with('/')) else {
        sheet.note(
            path,
            Some(table.place),
            &table.key,
            "no absolute `destination`: nothing is made of it",
            "a configuration needs the absolute path of its file",
        );
        return;
    };
    let left = table.text("left_delimiter").or(default.0).unwrap_or("{{");
    let right = table.text("right_delimiter").or(default.1).unwrap_or("}}");
    let at = table
        .one("source")
        .or(table.one("contents"))
        .map_or(table.place, |e| e.place);
    let source = table.text("source");
    let called = source.unwrap_or("in `contents`");
    let whole = match (table.text("contents"), source) {
        (Some(contents), _) => Some(contents.to_owned()),
        (None, Some(source)) => {
            let beside = paper.path.parent().unwrap_or(Path::new("")).join(source);
            super::files::content(&beside).ok()
        }
        (None, None) => None,
    };
    let key = whole
        .as_deref()
        .and_then(|text| words::only_key(text, left, right));
    let services = whole
        .as_deref()
        .map(|text| words::services(text, left, right))
        .unwrap_or_default();
    let mut item = Item::new(Kind::Config, path, table.place);
    let name = Path::new(destination)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    match key {
        Some(key) => {
            item.put("data_id", words::data_id(key));
            item.remarks.push(format!("the template is the key {key} and nothing else: publish its value under this data id"));
        }
        None => {
            item.put("data_id", words::data_id(&name));
            item.remarks.push(format!(
                "publish what the template {called} renders under this data id"
            ));
            let (what, help) = if services.is_empty() {
                (
                    format!("the template {called} is Go text, which is not translated"),
                    "publish the whole file as one configuration; until then the file stays as it is".to_owned(),
                )
            } else {
                for service in &services {
                    sheet.hints.push(format!(
                        "{destination} lists {service}; as a list it would be (docs/descriptors.md, `subscriptions`):\n  subscriptions: [{{ service: {}, path: {}, format: nginx }}]",
                        words::data_id(service),
                        json!(destination),
                    ));
                }
                (
                    format!("the template {called} is Go text, which is not translated; it lists {}", services.join(", ")),
                    "lists of instances are `subscriptions`, with a format or a template of Jinja's: see the end of the output".to_owned(),
                )
            };
            sheet.note(path, Some(at), &table.key, &what, &help);
        }
    }
    item.put("path", destination);
    file(
        table,
        sheet,
        &mut item,
        "perms",
        ("user", "uid"),
        ("group", "gid"),
    );
    command(table, sheet, &mut item);
    table.leave_rest(
        sheet,
        &[
            ("wait", "bursts wait for a quiet moment by themselves"),
            ("backup", "a content that is not valid never reaches the file, and the last good one is kept in state_dir"),
            ("error_on_missing_key", "a configuration that is not there leaves the file as it is: `on_absent`"),
            ("error_fatal", "no mistake of one file ends the agent"),
            ("create_dest_dirs", "make the directory when you install: the agent makes none"),
            ("sandbox_path", "a content reads no files"),
            ("function_denylist", "a content runs no functions"),
            ("function_blacklist", "a content runs no functions"),
        ],
    );
    sheet.items.push(item);
}

/// `command`, or `exec { command }`, with its limit of time.
fn command(table: &Table<'_>, sheet: &mut Sheet, item: &mut Item) {
    let limit = table
        .one("command_timeout")
        .and_then(|entry| text(&entry.value))
        .map(str::to_owned);
    let mut found = table
        .one("command")
        .map(|entry| ("command", entry.value.clone()));
    let mut inner_limit = None;
    for inner in table.tables("exec") {
        if let Some(entry) = inner.one("command") {
            found = Some(("exec", entry.value.clone()));
        }
        inner_limit = inner.text("timeout").map(str::to_owned);
        inner.leave_rest(
            sheet,
            &[(
                "env",
                "a command has a clean environment: set what it needs in a script of its own",
            )],
        );
    }
    let Some((key, value)) = found else {
        return;
    };
    if !may_be_shown(table, sheet, key, &texts(&value).join(" ")) {
        return;
    }
    let words: Vec<String> = match texts(&value).as_slice() {
        [] => return,
        [""] => return,
        [one] => argv(table, sheet, key, one),
        many => many.iter().map(|word| (*word).to_owned()).collect(),
    };
    let mut reload = json!({ "exec": words });
    if let Some(limit) = limit.or(inner_limit) {
        match (words::time(&limit), reload.as_object_mut()) {
            (Some(limit), Some(reload)) => _ = reload.insert("timeout".to_owned(), json!(limit)),
            _ => table.leave(
                sheet,
                "command_timeout",
                "is no time we know, and is left out",
                "the limit is 30s; write another `timeout`",
            ),
        }
    }
    item.put("reload", reload);
}

/// The supervisor's section: the command line that takes its place.
fn exec(table: &Table<'_>, sheet: &mut Sheet) {
    let signal = |name: &str| {
        table
            .text(name)
            .map(|signal| signal.trim_start_matches("SIG").to_owned())
    };
    let mut line = "outrigger exec".to_owned();
    match signal("reload_signal") {
        Some(signal) if !signal.is_empty() => {
            line.push_str(&format!(" --on-change signal:{signal}"))
        }
        _ => line.push_str(" --on-change restart"),
    }
    if let Some(signal) = signal("kill_signal") {
        line.push_str(&format!(" --stop-signal {signal}"));
    }
    if let Some(limit) = table.text("kill_timeout").and_then(words::time) {
        line.push_str(&format!(" --kill-after {limit}"));
    }
    // Its words may have a secret.
    _ = table.one("command");
    sheet.hints.push(format!(
        "the section `{}` is a command line (docs/exec.md):\n  {line} -- COMMAND",
        table.key
    ));
    sheet.note(
        table.path,
        Some(table.place),
        &table.key,
        "is no part of a descriptor",
        "run the application with `outrigger exec`: the command line is at the end of the output",
    );
    table.leave_rest(
        sheet,
        &[
            (
                "env",
                "the application has the environment of the agent, and `--env-from`",
            ),
            ("splay", "nothing waits by chance before a restart"),
        ],
    );
}
