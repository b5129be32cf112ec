//! The files of an import: which ones a path means, and each as a tree that knows its places.

use super::hcl;
use super::sheet::Paper;
use crate::foreign::Foreign;
use crate::report::{Place, Problem};
use crate::yaml::{self, Entry, MAX_BYTES, MAX_DEPTH, Node, Value};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// How many folders deep a directory is looked through.
const DEEP: usize = 4;
/// How many files are read.
const MOST: usize = 2000;

/// The files that a path means: itself, or all of a directory that may be meant.
///
/// # Errors
/// What the system says.
pub(super) fn meant(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    look(path, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn look(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_hidden || found.len() >= MOST {
            continue;
        }
        // A link to a folder may lead in a circle.
        if entry.file_type()?.is_dir() {
            if depth < DEEP {
                look(&path, depth + 1, found)?;
            }
        } else if kind(&path).is_some() {
            found.push(path);
        }
    }
    Ok(())
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Toml,
    Json,
    Hcl,
}

fn kind(path: &Path) -> Option<Kind> {
    match path.extension()?.to_str()? {
        "toml" => Some(Kind::Toml),
        "json" => Some(Kind::Json),
        "hcl" => Some(Kind::Hcl),
        _ => None,
    }
}

/// Its text, of a size that may be meant.
///
/// # Errors
/// What the system says.
pub(super) fn content(path: &Path) -> io::Result<String> {
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    let read = File::open(path)?
        .take(limit + 1)
        .read_to_string(&mut text)?;
    if read > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// Reads one.
///
/// # Errors
/// One problem.
pub(super) fn read(path: &Path) -> Result<(Kind, Paper), Box<Problem>> {
    let wrong = |place, message: String, help: &str| {
        let mut problem = Problem::of_whole(path, message, Some(help));
        problem.place = place;
        Box::new(problem)
    };
    let kind = kind(path).ok_or_else(|| {
        wrong(
            None,
            "is none of .toml, .json and .hcl".to_owned(),
            "name template resources of confd, service definitions of Consul, or configurations of consul-template",
        )
    })?;
    let text = content(path).map_err(|error| {
        wrong(
            None,
            format!("cannot be read: {error}"),
            "nothing is made of it",
        )
    })?;
    let nothing = "nothing is made of it; the other files are read all the same";
    let mistaken = |mistake: yaml::Mistake| wrong(mistake.place, mistake.message, nothing);
    let root = match kind {
        Kind::Hcl => hcl::parse(&text).map_err(mistaken)?,
        Kind::Json => {
            serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| {
                let place = Place {
                    line: error.line(),
                    column: error.column().max(1),
                };
                wrong(Some(place), "is no JSON".to_owned(), nothing)
            })?;
            // JSON is YAML but for tabs, which are between its values only.
            yaml::parse(&text.replace('\t', " ")).map_err(mistaken)?
        }
        Kind::Toml => {
            let table = DeTable::parse(&text).map_err(|error| {
                let place = error.span().map(|span| place(&text, span.start));
                let what = Foreign::from(error.message());
                wrong(place, format!("is no TOML: {what}"), nothing)
            })?;
            from_table(&text, 0, table.get_ref(), 0)
        }
    };
    let paper = Paper {
        path: path.to_owned(),
        root,
    };
    Ok((kind, paper))
}

fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    Place { line, column }
}

fn node(text: &str, offset: usize, value: Value) -> Node {
    let place = place(text, offset);
    Node {
        place,
        width: 0,
        last_line: place.line,
        value,
    }
}

fn from_table(text: &str, offset: usize, table: &DeTable<'_>, depth: usize) -> Node {
    let mut entries = Vec::new();
    for (key, value) in table.iter() {
        let at = place(text, key.span().start);
        let value = from_value(text, value.span().start, value.get_ref(), depth + 1);
        entries.push(Entry {
            key: key.get_ref().to_string(),
            place: at,
            width: 0,
            value,
        });
    }
    entries.sort_by_key(|entry| entry.place);
    node(text, offset, Value::Mapping(entries))
}

fn from_value(text: &str, offset: usize, value: &DeValue<'_>, depth: usize) -> Node {
    let scalar = |written: String, plain| {
        node(
            text,
            offset,
            Value::Scalar {
                text: written,
                plain,
            },
        )
    };
    match value {
        DeValue::String(written) => scalar(written.to_string(), false),
        DeValue::Boolean(truth) => scalar(truth.to_string(), true),
        DeValue::Integer(number) => scalar(number.to_string(), true),
        DeValue::Float(number) => scalar(number.to_string(), true),
        DeValue::Datetime(time) => scalar(time.to_string(), true),
        // What is nested so deep is nothing we read.
        _ if depth > MAX_DEPTH => scalar(String::new(), true),
        DeValue::Array(items) => {
            let items = items
                .iter()
                .map(|item| from_value(text, item.span().start, item.get_ref(), depth + 1));
            node(text, offset, Value::Sequence(items.collect()))
        }
        DeValue::Table(table) => from_table(text, offset, table, depth),
    }
}
