//! Holds the house to its plan: who may import whom, that every file says what it is for, and that ARCHITECTURE.md knows it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says so"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The rooms and what each may import, from the top down. A mechanism (one file, no room) imports mechanisms only.
const ROOMS: &[(&str, &[&str])] = &[
    ("cli", &["agent", "registry", "nacos", "descriptor", "os"]),
    ("agent", &["nacos", "descriptor", "os"]),
    ("registry", &["nacos", "os"]),
    ("nacos", &["descriptor", "os"]),
    ("descriptor", &["os"]),
    ("os", &[]),
];

/// One mechanism each, importing nothing of the rooms.
const MECHANISMS: &[&str] = &[
    "authority",
    "backoff",
    "dates",
    "foreign",
    "machine",
    "metrics",
    "report",
    "secret",
    "tasks",
    "telemetry",
    "yaml",
];

/// They are joined by `agent/` and never import one another.
const ACTORS: &[&str] = &["admin", "catalog", "materialize", "probe", "registrar"];

/// Every source file, with its path below `src/`.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 30, "the walk found the sources");
    found.sort();
    found
}

/// The room or mechanism a file belongs to: `agent/gate.rs` and `agent.rs` are both `agent`.
fn home(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// What a file names of this crate, its tests left out: the words after `crate::`.
fn imports(text: &str) -> BTreeSet<&str> {
    code(text)
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            &rest[..end.unwrap_or(rest.len())]
        })
        .collect()
}

/// A file without its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap()
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let home = home(&path);
        let allowed: &[&str] = match ROOMS.iter().find(|(room, _)| *room == home) {
            Some((_, allowed)) => allowed,
            None if MECHANISMS.contains(&home.as_str()) || home == "main" || home == "lib" => &[],
            None => panic!(
                "{} is neither a room nor a mechanism: add it to the table and to ARCHITECTURE.md",
                path.display()
            ),
        };
        for import in imports(&text) {
            let is_room = ROOMS.iter().any(|(room, _)| *room == import);
            if is_room && import != home && !allowed.contains(&import) {
                wrong.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the direction of the house:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn actors_never_import_one_another() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Ok(inside) = path.strip_prefix("agent") else {
            continue;
        };
        let actor = home(inside);
        if !ACTORS.contains(&actor.as_str()) {
            continue;
        }
        let code = code(&text);
        for other in ACTORS.iter().filter(|other| **other != actor) {
            for form in [
                format!("agent::{other}"),
                format!("super::{other}"),
                format!("super::super::{other}"),
            ] {
                if code.contains(&form) {
                    wrong.push(format!("{} names {form}", path.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "actors are joined by agent/ alone:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_registry_knows_only_the_nouns_and_the_wire_of_nacos() {
    for (path, text) in sources()
        .iter()
        .filter(|(path, _)| home(path) == "registry")
    {
        let code = code(text);
        for part in [
            "nacos::http",
            "nacos::beats",
            "nacos::servers",
            "nacos::session",
            "nacos::poll",
            "nacos::Transport",
        ] {
            assert!(
                !code.contains(part),
                "{} uses {part}, which is the client's",
                path.display()
            );
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for (path, text) in sources() {
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//! ") && first.len() > 20,
            "{}: the first line is {first:?}",
            path.display()
        );
    }
}

#[test]
fn the_architecture_names_every_module() {
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    for (path, _) in sources() {
        let name = path.to_string_lossy();
        assert!(
            document.contains(&format!("`{name}`")),
            "ARCHITECTURE.md does not name `{name}`"
        );
    }
    for (at, _) in document.match_indices(".rs`") {
        let start = document[..at].rfind('`').unwrap() + 1;
        let name = &document[start..at + 3];
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(
            here.join("src").join(name).exists() || here.join(name).exists(),
            "ARCHITECTURE.md names `{name}`, which does not exist"
        );
    }
}

#[test]
fn one_use_of_our_own_crate_names_one_module() {
    for (path, text) in sources() {
        assert!(
            !text.contains("crate::{"),
            "{}: write one `use crate::x` a line, so that the import table can be read off",
            path.display()
        );
    }
}
