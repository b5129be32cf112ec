//! `outrigger import`: files of confd, Consul and consul-template in, a descriptor of ours out.
//!
//! Nothing is guessed: what has no equivalent is named with its place and the next step, on standard error and as a comment. What
//! is printed is read by our own reader first, and an entry it refuses is named instead of printed.

mod confd;
mod consul;
mod files;
mod hcl;
mod sheet;
mod template;
mod words;

use super::{End, complain, print};
use crate::descriptor;
use crate::descriptor::Surroundings;
use crate::descriptor::settings::Settings;
use crate::foreign::Foreign;
use crate::report::Problem;
use files::Kind as Written;
use sheet::{Item, Kind, Sheet, Table};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Reads and prints; anything that is left out is told by the code.
pub(super) fn import(paths: &[PathBuf]) -> End {
    let mut sheet = Sheet::default();
    for path in paths {
        match files::meant(path) {
            Ok(meant) if meant.is_empty() => {
                sheet.note(
                    path,
                    None,
                    "",
                    "has no .toml, .json or .hcl file",
                    "name another directory",
                );
            }
            Ok(meant) => {
                for file in meant {
                    read(&file, &mut sheet);
                }
            }
            Err(error) => {
                let what = format!("cannot be read: {error}");
                sheet.note(path, None, "", &what, "name what is there");
            }
        }
    }
    let (text, count, more) = match descriptor::without_a_file() {
        Ok(settings) => descriptor_of(&sheet, &settings),
        Err(problems) => (String::new(), 0, problems),
    };
    sheet.notes.extend(more);
    sheet
        .notes
        .sort_by(|a, b| (&a.source, a.place).cmp(&(&b.source, b.place)));
    if !text.is_empty() {
        print(&format!("{}{text}{}", head(&sheet), tail(&sheet)));
    }
    for note in &sheet.notes {
        complain(&note.render(false));
    }
    let taken = match count {
        1 => "1 entry".to_owned(),
        many => format!("{many} entries"),
    };
    match sheet.notes.len() {
        0 => complain(&format!("{taken}; nothing was left out\n")),
        1 => complain(&format!("{taken}; 1 thing to look at\n")),
        many => complain(&format!("{taken}; {many} things to look at\n")),
    }
    if sheet.notes.is_empty() {
        End::Done
    } else {
        End::Descriptor
    }
}

fn read(path: &Path, sheet: &mut Sheet) {
    let (written, paper) = match files::read(path) {
        Ok(read) => read,
        Err(problem) => {
            sheet.notes.push(*problem);
            return;
        }
    };
    if written == Written::Toml {
        confd::read(&paper, sheet);
        return;
    }
    let root = Table::new(&paper.path, "", &paper.root);
    let is_consuls = root.has("service") || root.has("services");
    let is_templates = template::SECTIONS.iter().any(|section| root.has(section));
    if !is_consuls && !is_templates {
        sheet.note(
            path,
            None,
            "",
            "has no `service`, no `services` and no `template`",
            "name service definitions of Consul, or configurations of consul-template",
        );
        return;
    }
    consul::read(&root, sheet);
    template::read(&root, &paper, sheet);
    let known: Vec<(&str, &str)> = consul::SETTINGS
        .iter()
        .filter(|_| is_consuls)
        .chain(template::settings())
        .copied()
        .collect();
    root.leave_rest(sheet, &known);
}

/// The descriptor, of those entries that our own reader takes; how many they are; and why it does not take the others.
fn descriptor_of(sheet: &Sheet, settings: &Settings) -> (String, usize, Vec<Problem>) {
    let around = Surroundings::default();
    let parse = |text: &str| descriptor::parse(Path::new("import"), text, settings, &around);
    let (mut taken, mut problems) = (Vec::new(), Vec::new());
    for item in &sheet.items {
        match parse(&document(&[item])) {
            Ok(_) => {
                taken.push(item);
                // Two of them may claim the same.
                if let Err(found) = parse(&document(&taken)) {
                    taken.pop();
                    problems.extend(found.into_iter().map(|problem| about(item, problem)));
                }
            }
            Err(found) => problems.extend(found.into_iter().map(|problem| about(item, problem))),
        }
    }
    let text = if taken.is_empty() {
        String::new()
    } else {
        document(&taken)
    };
    (text, taken.len(), problems)
}

/// A problem of what was made, as one of what it was made of.
fn about(item: &Item, problem: Problem) -> Problem {
    let key = problem.key.split_once("].").map_or("", |(_, key)| key);
    let mut about = Problem::of_whole(
        &item.from.0,
        format!("is left out: {key}: {}", problem.message),
        problem.help.as_deref(),
    );
    about.place = Some(item.from.1);
    about
}

fn document(items: &[&Item]) -> String {
    let mut text = String::new();
    for (kind, name) in [(Kind::Service, "services"), (Kind::Config, "configs")] {
        let mut all = items.iter().filter(|item| item.kind == kind).peekable();
        if all.peek().is_some() {
            text.push_str(&format!("{name}:\n"));
            text.extend(all.map(|item| item.yaml()));
        }
    }
    text
}

/// Comments before the descriptor.
fn head(sheet: &Sheet) -> String {
    let mut text = "# Made by outrigger import. Check it with `outrigger check`; every key is in docs/descriptors.md.\n".to_owned();
    if sheet.items.iter().any(|item| {
        item.keys
            .iter()
            .any(|(_, value)| value.to_string().contains("exec"))
    }) {
        text.push_str("# An agent that runs as root wants `run_as` beside each `exec`.\n");
    }
    text
}

/// Comments behind it: what was left out, and what is no descriptor.
fn tail(sheet: &Sheet) -> String {
    let mut text = String::new();
    let mut said = BTreeSet::new();
    for note in &sheet.notes {
        let help = note.help.as_deref().unwrap_or_default();
        let line = format!("# {note}; {help}\n");
        if said.insert(line.clone()) {
            text.push_str(&line);
        }
    }
    for hint in &sheet.hints {
        for line in hint.lines() {
            text.push_str(&format!("# {}\n", Foreign::from(line)));
        }
    }
    text
}
