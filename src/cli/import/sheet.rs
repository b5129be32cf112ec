//! What an import has found: entries of a descriptor, and what has no equivalent, with its place and the next step.

use crate::foreign::Foreign;
use crate::report::{Place, Problem};
use crate::yaml::{Entry, Node, Value};
use serde_json::Value as Json;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A file that is read.
#[derive(Clone, Debug)]
pub(super) struct Paper {
    pub(super) path: PathBuf,
    pub(super) root: Node,
}

/// Which list of a descriptor an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Service,
    Config,
}

/// One entry of a descriptor.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) from: (PathBuf, Place),
    /// Keys with their values, in the order in which they are shown.
    pub(super) keys: Vec<(&'static str, Json)>,
    /// Lines for whoever reads it.
    pub(super) remarks: Vec<String>,
}

impl Item {
    pub(super) fn new(kind: Kind, path: &Path, place: Place) -> Self {
        Self {
            kind,
            from: (path.to_owned(), place),
            keys: Vec::new(),
            remarks: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, key: &'static str, value: impl Into<Json>) {
        self.keys.push((key, value.into()));
    }

    /// As YAML, one element of a list.
    pub(super) fn yaml(&self) -> String {
        let (path, place) = &self.from;
        let from = Foreign::new(path.to_string_lossy().into_owned());
        let mut text = format!("  # from {from}:{}\n", place.line);
        for remark in &self.remarks {
            text.push_str(&format!("  # {}\n", Foreign::from(remark.as_str())));
        }
        for (index, (key, value)) in self.keys.iter().enumerate() {
            let begin = if index == 0 { "- " } else { "  " };
            text.push_str(&format!("  {begin}{key}: {}\n", flow(value)));
        }
        text
    }
}

/// A value on one line of YAML.
fn flow(value: &Json) -> String {
    match value {
        Json::String(text) if is_plain(text) => text.clone(),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", flow(&Json::from(key.as_str())), flow(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether it needs no quotes anywhere.
fn is_plain(text: &str) -> bool {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c))
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Sheet {
    pub(super) items: Vec<Item>,
    pub(super) notes: Vec<Problem>,
    /// Commands that take the place of a supervisor's section, lists that could be subscriptions.
    pub(super) hints: Vec<String>,
}

impl Sheet {
    pub(super) fn note(
        &mut self,
        path: &Path,
        place: Option<Place>,
        key: &str,
        message: &str,
        help: &str,
    ) {
        self.notes.push(Problem {
            source: path.to_owned(),
            place,
            key: key.to_owned(),
            message: message.to_owned(),
            help: Some(help.to_owned()),
            // A line may have a secret.
            excerpt: None,
        });
    }
}

/// A table of a file; whoever reads it says at the end what nobody asked for.
pub(super) struct Table<'a> {
    pub(super) path: &'a Path,
    pub(super) key: String,
    pub(super) place: Place,
    entries: &'a [Entry],
    asked: RefCell<BTreeSet<usize>>,
}

/// Names are compared as Consul does: `DeregisterCriticalServiceAfter` is `deregister_critical_service_after`.
fn same(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
    plain(one) == plain(other)
}

impl<'a> Table<'a> {
    pub(super) fn new(path: &'a Path, key: &str, node: &'a Node) -> Self {
        let entries = match &node.value {
            Value::Mapping(entries) => entries.as_slice(),
            _ => &[],
        };
        Self {
            path,
            key: key.to_owned(),
            place: node.place,
            entries,
            asked: RefCell::default(),
        }
    }

    /// All entries with this name.
    pub(super) fn all(&self, name: &str) -> Vec<&'a Entry> {
        let mut found = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if same(&entry.key, name) {
                self.asked.borrow_mut().insert(index);
                found.push(entry);
            }
        }
        found
    }

    /// The last entry with this name, if there is anything in it.
    pub(super) fn one(&self, name: &str) -> Option<&'a Entry> {
        let last = self.all(name).pop();
        last.filter(|entry| !entry.value.is_null())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| same(&entry.key, name))
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.one(name).and_then(|entry| text(&entry.value))
    }

    /// Its tables of this name: one, several, or a list of them.
    pub(super) fn tables(&self, name: &str) -> Vec<Table<'a>> {
        let mut found = Vec::new();
        for entry in self.all(name) {
            let key = self.name(&entry.key);
            match &entry.value.value {
                Value::Sequence(items) => {
                    for (index, item) in items.iter().enumerate() {
                        found.push(Table::new(self.path, &format!("{key}[{index}]"), item));
                    }
                }
                _ => {
                    let mut table = Table::new(self.path, &key, &entry.value);
                    table.place = entry.place;
                    found.push(table);
                }
            }
        }
        found
    }

    pub(super) fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    fn name(&self, key: &str) -> String {
        if self.key.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.key)
        }
    }

    /// Says of an entry that it is left out.
    pub(super) fn leave(&self, sheet: &mut Sheet, name: &str, message: &str, help: &str) {
        for entry in self.all(name) {
            sheet.note(
                self.path,
                Some(entry.place),
                &self.name(&entry.key),
                message,
                help,
            );
        }
    }

    /// Says so of all that nobody asked for; `known` has the next steps of those that are expected.
    pub(super) fn leave_rest(&self, sheet: &mut Sheet, known: &[(&str, &str)]) {
        let asked = self.asked.borrow().clone();
        for (index, entry) in self.entries.iter().enumerate() {
            if asked.contains(&index) {
                continue;
            }
            let help = known.iter().find(|(name, _)| same(name, &entry.key));
            let help = help.map_or("look whether you need it at all", |(_, help)| help);
            sheet.note(
                self.path,
                Some(entry.place),
                &self.name(&entry.key),
                "has no equivalent and is left out",
                help,
            );
        }
    }
}

/// The text of a scalar.
pub(super) fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// The texts of a list, or of one scalar.
pub(super) fn texts(node: &Node) -> Vec<&str> {
    match &node.value {
        Value::Sequence(items) => items.iter().filter_map(text).collect(),
        _ => text(node).into_iter().collect(),
    }
}
