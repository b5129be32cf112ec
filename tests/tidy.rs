//! Holds the house to its plan: who may import whom, that every file says what it is for, that ARCHITECTURE.md knows it, and
//! that nothing comes in with a dependency that `deny.toml` does not allow.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says so"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
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
    "template",
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

/// The modules of a room that each of its modules names; a module within a module is that one.
fn inside(room: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources() {
        let Ok(inside) = path.strip_prefix(room) else {
            continue;
        };
        let own = home(inside);
        let named = all.entry(own.clone()).or_default();
        let code: String = (code(&text).lines())
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        for form in [format!("crate::{room}::"), "super::".to_owned()] {
            for rest in code.split(form.as_str()).skip(1) {
                let of_name = |c: char| c.is_alphanumeric() || c == '_';
                let end = if rest.starts_with('{') {
                    rest.find(';')
                } else {
                    rest.find(|c| !of_name(c))
                };
                let names = &rest[..end.unwrap_or(rest.len())];
                named.extend(names.split(|c| !of_name(c)).map(str::to_owned));
            }
        }
        named.remove(&own);
    }
    let modules: BTreeSet<String> = all.keys().cloned().collect();
    for named in all.values_mut() {
        named.retain(|name| modules.contains(name));
    }
    all
}

#[test]
fn within_a_room_no_modules_import_each_other_in_a_circle() {
    for (room, _) in ROOMS {
        let mut left = inside(room);
        // Whoever names nobody that is left stands on the lowest floor that is left.
        loop {
            let floor: Vec<String> = (left.iter())
                .filter(|(_, named)| named.iter().all(|name| !left.contains_key(name)))
                .map(|(module, _)| module.clone())
                .collect();
            if floor.is_empty() {
                break;
            }
            for module in floor {
                left.remove(&module);
            }
        }
        assert!(
            left.is_empty(),
            "in {room} these name one another, or stand above such: {left:#?}"
        );
    }
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

/// A file of the repository.
fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// `deny.toml`, and a list of texts in it.
fn denied(keys: &[&str]) -> Vec<String> {
    let mut value: toml::Value = toml::from_str(&file("deny.toml")).unwrap();
    for key in keys {
        value = value[*key].clone();
    }
    let texts = value.as_array().unwrap().iter().map(|entry| {
        let text = entry.as_str().or_else(|| entry["crate"].as_str());
        text.unwrap().to_owned()
    });
    texts.collect()
}

/// The packages of `Cargo.lock`.
fn locked() -> Vec<toml::Value> {
    let lock: toml::Value = toml::from_str(&file("Cargo.lock")).unwrap();
    lock["package"].as_array().unwrap().clone()
}

/// The packages that are built here, as cargo knows them.
fn packages() -> Vec<serde_json::Value> {
    let libc = if cfg!(target_env = "musl") {
        "musl"
    } else {
        "gnu"
    };
    let here = format!("{}-unknown-linux-{libc}", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", &here, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn a_new_build_script_or_source_fails_the_check() {
    // One registry, whichever: a second one, a folder or a repository would be news.
    let mut registries = BTreeSet::new();
    for package in locked() {
        let name = package["name"].as_str().unwrap();
        let Some(source) = package.get("source") else {
            assert_eq!(name, env!("CARGO_PKG_NAME"), "{name} has no source");
            continue;
        };
        let registry = source.as_str().unwrap().strip_prefix("registry+");
        registries.insert(registry.map(str::to_owned));
        assert!(
            registry.is_some() && registries.len() == 1,
            "{name} comes from {source:?}"
        );
        assert!(package.get("checksum").is_some(), "{name} has no checksum");
    }
    let allowed = denied(&["bans", "build", "allow-build-scripts"]);
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let targets = package["targets"].as_array().unwrap();
        let runs = targets
            .iter()
            .any(|target| target["kind"].to_string().contains("custom-build"));
        assert!(
            !runs || allowed.iter().any(|allowed| allowed == name),
            "{name} has a build script: read it, then allow it in deny.toml"
        );
    }
}

/// The numbers of a version, for comparison; what stands behind them (`-rc.1`, `+spec`) does not count here.
fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['-', '+']).next().unwrap();
    plain.split('.').map(|part| part.parse().unwrap()).collect()
}

/// Whether a package is one that `ban` (`name` or `name@<version`) means.
fn is_banned(ban: &str, name: &str, version: &str) -> bool {
    match ban.split_once("@<") {
        Some((banned, below)) => banned == name && numbers(version) < numbers(below),
        None => ban == name,
    }
}

#[test]
fn cargo_deny_bans_versions_with_known_holes() {
    assert!(is_banned("h2@<0.4.20", "h2", "0.4.9"));
    assert!(!is_banned("h2@<0.4.20", "h2", "0.4.20"));
    assert!(!is_banned("h2@<0.4.20", "h2o", "0.4.1"));
    assert!(is_banned("native-tls", "native-tls", "9.9.9"));
    let bans = denied(&["bans", "deny"]);
    for known in [
        "h2@<0.4.20",
        "rustls@<0.23.46",
        "tracing-subscriber@<0.3.20",
    ] {
        assert!(bans.iter().any(|ban| ban == known), "{known} is gone");
    }
    for package in locked() {
        let (name, version) = (
            package["name"].as_str().unwrap(),
            package["version"].as_str().unwrap(),
        );
        for ban in &bans {
            assert!(!is_banned(ban, name, version), "{name} {version}: {ban}");
        }
    }
}

/// Whether an SPDX expression can be met with these licences; the words are left behind it.
fn is_met(words: &mut std::iter::Peekable<std::slice::Iter<'_, &str>>, allowed: &[String]) -> bool {
    let mut any = false;
    let mut all = true;
    loop {
        let met = match *words.next().expect("a licence") {
            "(" => {
                let inner = is_met(words, allowed);
                assert_eq!(words.next(), Some(&")"));
                inner
            }
            licence => allowed.iter().any(|allowed| allowed == licence),
        };
        all &= met;
        match words.peek().copied().copied() {
            Some("AND") => _ = words.next(),
            // AND binds closer.
            Some("OR") => {
                words.next();
                any |= std::mem::replace(&mut all, true);
            }
            _ => return any | all,
        }
    }
}

fn may_come_in(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ")
        // An exception gives more rights, never fewer.
        .replace(" WITH LLVM-exception", "");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    is_met(&mut words.iter().peekable(), allowed)
}

#[test]
fn every_licence_is_an_allowed_one() {
    let allowed = denied(&["licenses", "allow"]);
    for (expression, may) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0 OR MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND (ISC OR GPL-3.0)", true),
        ("Apache-2.0 WITH LLVM-exception", true),
    ] {
        assert_eq!(may_come_in(expression, &allowed), may, "{expression}");
    }
    for package in packages() {
        let (name, licence) = (&package["name"], package["license"].as_str());
        let licence = licence.unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(may_come_in(licence, &allowed), "{name}: {licence}");
    }
}

#[test]
fn each_way_out_of_the_program_is_one_place() {
    for (path, text) in sources() {
        let name = path.to_string_lossy().into_owned();
        let code = code(&text);
        // What is complained and what is logged goes through a net that escapes it; nobody else writes to standard error.
        let complains = code.contains("stderr().lock()") || code.contains("io::stderr(),");
        assert!(
            !complains || ["cli.rs", "telemetry.rs"].contains(&&*name),
            "{name} writes to standard error"
        );
        // A second subscriber would print fields as they came.
        let subscribes =
            code.contains("tracing_subscriber::fmt") || code.contains("set_global_default");
        assert!(!subscribes, "{name} prints log lines of its own");
        let begins = code.contains("try_init()");
        assert!(!begins || name == "telemetry.rs", "{name} starts to log");
    }
}
