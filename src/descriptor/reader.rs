//! A cursor over YAML that takes typed values out of it and collects every mistake instead of stopping at the first.
//!
//! A getter that finds something wrong notes a [`Problem`] and answers `None`; whoever reads goes on with a default and
//! looks at the end whether anything was noted. A mapping knows which keys were asked for, so what nobody asked for is
//! unknown: there is no second list of keys. Variables are read through the same getters, as scalars without a place.

use super::spec::Written;
use crate::foreign::Foreign;
use crate::report::Place;
use crate::report::Problem;
use crate::yaml;
use crate::yaml::Mistake;
use crate::yaml::Node;
use std::{
    borrow::Cow,
    cell::RefCell,
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// How many problems of one reading are kept; a file with more is not what somebody meant to write.
const MAX_PROBLEMS: usize = 100;
/// Lines longer than this (bytes) are not shown.
const MAX_EXCERPT: usize = 4096;
/// How much of a key that a file made up is kept in a key path, characters.
const MAX_KEY: usize = 64;

/// What is wrong, collected.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Notes one more.
    pub(super) fn push(&self, problem: Problem) {
        let mut kept = self.0.borrow_mut();
        if kept.len() == MAX_PROBLEMS {
            kept.push(Problem {
                message: format!("more than {MAX_PROBLEMS} mistakes; the rest is not shown"),
                place: None,
                key: String::new(),
                help: None,
                excerpt: None,
                source: problem.source,
            });
        } else if kept.len() < MAX_PROBLEMS {
            kept.push(problem);
        }
    }

    /// `value` when nothing was noted, else what was, in the order of the file.
    pub(super) fn or<T>(self, value: T) -> Result<T, Vec<Problem>> {
        let mut problems = self.0.into_inner();
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort_by(|a, b| (&a.source, a.place).cmp(&(&b.source, b.place)));
        Err(problems)
    }
}

/// A file or a variable that is being read.
pub(super) struct Source<'a> {
    path: PathBuf,
    /// Empty for a variable.
    lines: Vec<&'a str>,
    /// Lines that hold a secret and are never shown.
    secret: Vec<RangeInclusive<usize>>,
    /// What is replaced inside values; `None` where nothing is.
    replace: Option<Replaced<'a>>,
    problems: &'a Problems,
}

/// Variables that are replaced inside values.
#[derive(Clone, Copy)]
pub(super) struct Replaced<'a> {
    /// The environment.
    pub(super) env: &'a BTreeMap<String, String>,
    /// Names that the settings list, beside those that are replaced anyway.
    pub(super) listed: &'a [String],
}

impl<'a> Source<'a> {
    /// Reads a file's text. What is not YAML is noted, and the tree is then missing.
    pub(super) fn file(
        path: &Path,
        text: &'a str,
        replace: Option<Replaced<'a>>,
        problems: &'a Problems,
    ) -> (Self, Option<Node>) {
        let mut source = Self {
            path: path.to_owned(),
            lines: text.lines().collect(),
            secret: Vec::new(),
            replace,
            problems,
        };
        match yaml::parse(text) {
            Ok(root) => {
                secret_lines(&root, &mut source.secret);
                (source, Some(root))
            }
            Err(Mistake { place, message }) => {
                let excerpt = if mentions_secret(text) {
                    None
                } else {
                    place.and_then(|place| source.excerpt(place, 1))
                };
                problems.push(Problem {
                    source: path.to_owned(),
                    place,
                    key: String::new(),
                    message,
                    help: None,
                    excerpt,
                });
                (source, None)
            }
        }
    }

    /// A variable.
    pub(super) fn variable(
        name: &str,
        replace: Option<Replaced<'a>>,
        problems: &'a Problems,
    ) -> Self {
        Self {
            path: PathBuf::from(name),
            lines: Vec::new(),
            secret: Vec::new(),
            replace,
            problems,
        }
    }

    /// The file, or the variable's name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn is_file(&self) -> bool {
        !self.lines.is_empty()
    }

    fn place(&self, place: Place) -> Option<Place> {
        self.is_file().then_some(place)
    }

    fn excerpt(&self, place: Place, width: usize) -> Option<(String, usize)> {
        let line = self.lines.get(place.line.checked_sub(1)?)?;
        let hidden = self.secret.iter().any(|lines| lines.contains(&place.line))
            || line.len() > MAX_EXCERPT
            || holds_credentials(line);
        (!hidden).then(|| ((*line).to_owned(), width))
    }
}

/// A node with the path of keys that leads to it.
#[derive(Clone)]
pub(super) struct Value<'a> {
    source: &'a Source<'a>,
    node: &'a Node,
    key: String,
}

impl<'a> Value<'a> {
    /// The root of a file, or a variable's value.
    pub(super) fn root(source: &'a Source<'a>, node: &'a Node) -> Self {
        Self {
            source,
            node,
            key: String::new(),
        }
    }

    /// Where it stands.
    pub(super) fn written(&self) -> Written {
        Written {
            place: self.source.place(self.node.place),
            excerpt: self.source.excerpt(self.node.place, self.node.width),
        }
    }

    /// The line it stands in; `None` for a variable.
    pub(super) fn line(&self) -> Option<usize> {
        self.source.place(self.node.place).map(|place| place.line)
    }

    /// Where it was read.
    pub(super) fn source(&self) -> &Path {
        self.source.path()
    }

    /// Notes that this value is wrong; `None` for convenience.
    pub(super) fn wrong<T>(&self, message: impl Into<String>, help: &str) -> Option<T> {
        self.note(message.into(), help, true);
        None
    }

    /// As [`Value::wrong`], for a value that must not be shown.
    pub(super) fn wrong_unseen<T>(&self, message: impl Into<String>, help: &str) -> Option<T> {
        self.note(message.into(), help, false);
        None
    }

    fn note(&self, message: String, help: &str, seen: bool) {
        let mark = self.written();
        self.source.problems.push(Problem {
            source: self.source.path.clone(),
            place: mark.place,
            key: self.key.clone(),
            message,
            help: (!help.is_empty()).then(|| help.to_owned()),
            excerpt: mark.excerpt.filter(|_| seen),
        });
    }

    /// Whether nothing is written.
    pub(super) fn is_null(&self) -> bool {
        self.source.is_file() && self.node.is_null()
    }

    /// Whether it is one scalar (and not a list or a mapping).
    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.node.value, yaml::Value::Scalar { .. })
    }

    fn found(&self) -> &'static str {
        match &self.node.value {
            yaml::Value::Scalar { .. } => "a single value",
            yaml::Value::Sequence(_) => "a list",
            yaml::Value::Mapping(_) => "a mapping",
        }
    }

    /// The scalar with its variables replaced, and whether it was written without quotes.
    fn scalar(&self, expected: &str) -> Option<(Cow<'a, str>, bool)> {
        match &self.node.value {
            yaml::Value::Scalar { text, plain } => {
                Some((self.replaced(text)?, *plain || !self.source.is_file()))
            }
            _ => self.wrong(format!("expected {expected}, found {}", self.found()), ""),
        }
    }

    /// `${POD_IP}` and its like replaced, `$${` made `${`.
    fn replaced(&self, text: &'a str) -> Option<Cow<'a, str>> {
        let Some(variables) = self.source.replace.filter(|_| text.contains("${")) else {
            return Some(text.into());
        };
        let mut done = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            let after = from.get(2..).unwrap_or_default();
            if let Some(before) = before.strip_suffix('$') {
                done.push_str(before);
                done.push_str("${");
                rest = after;
                continue;
            }
            done.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                return self.wrong(
                    "`${` without a closing `}`",
                    "write $${ where ${ itself is meant",
                );
            };
            if !is_replaced(name) && !variables.listed.iter().any(|listed| listed == name) {
                return self.wrong(
                    format!("`${{{}}}` is not replaced here", Foreign::new(name)),
                    "only POD_*, NODE_*, HOST_* and what catalog.variables lists are; write $${ where ${ itself is meant",
                );
            }
            match variables.env.get(name).filter(|value| !value.is_empty()) {
                Some(value) => done.push_str(value),
                None => {
                    return self.wrong(
                        format!("the variable {name} is not set"),
                        "set it in the agent's environment, or write the value itself",
                    );
                }
            }
            rest = behind;
        }
        done.push_str(rest);
        Some(done.into())
    }

    /// A text, not empty.
    pub(super) fn text(&self) -> Option<String> {
        let (text, _) = self.scalar("text")?;
        if text.is_empty() {
            return self.wrong("empty", "give it a value or leave the key out");
        }
        if text.contains('\0') {
            return self.wrong("holds a NUL character", "");
        }
        Some(text.into_owned())
    }

    /// A text that may be empty.
    pub(super) fn any_text(&self) -> Option<String> {
        self.scalar("text").map(|(text, _)| text.into_owned())
    }

    /// A text in quotes, for what YAML would take for something else.
    pub(super) fn quoted(&self, example: &str) -> Option<String> {
        let (text, plain) = self.scalar("text in quotes")?;
        if plain {
            return self.wrong(
                format!("{} is not in quotes", Foreign::new(text)),
                &format!("write {example}"),
            );
        }
        Some(text.into_owned())
    }

    /// A whole number.
    pub(super) fn integer(&self, what: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let help = format!("{what} goes from {} to {}", range.start(), range.end());
        let (text, plain) = self.scalar("a whole number")?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && !plain {
            return self.wrong(
                format!("\"{text}\" is text"),
                &format!("write {text} without quotes"),
            );
        }
        let number = text.parse::<u64>().ok().filter(|_| digits);
        match number.filter(|number| range.contains(number)) {
            Some(_) if text.len() > 1 && text.starts_with('0') => self.wrong(
                format!("{text} begins with 0"),
                "leave the zeros out: some readers of YAML take them for octal",
            ),
            Some(number) => Some(number),
            None if digits => self.wrong(format!("{} is not {what}", Foreign::new(text)), &help),
            None => self.wrong(
                format!("`{}` is not a whole number", Foreign::new(text)),
                &help,
            ),
        }
    }

    /// A number with or without a fraction, never infinite.
    pub(super) fn number(&self, what: &str, range: RangeInclusive<f64>, help: &str) -> Option<f64> {
        let (text, plain) = self.scalar("a number")?;
        let written = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
        let number = text
            .parse::<f64>()
            .ok()
            .filter(|number| written && number.is_finite());
        match number {
            Some(_) if !plain => self.wrong(
                format!("\"{text}\" is text"),
                &format!("write {text} without quotes"),
            ),
            Some(number) if range.contains(&number) => Some(number),
            Some(_) => self.wrong(format!("{} is not {what}", Foreign::new(text)), help),
            None => self.wrong(format!("`{}` is not a number", Foreign::new(text)), help),
        }
    }

    /// `true` or `false` and nothing else.
    pub(super) fn boolean(&self) -> Option<bool> {
        let (text, plain) = self.scalar("true or false")?;
        let meant = match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "1" => Some(true),
            "false" | "no" | "off" | "n" | "0" => Some(false),
            _ => None,
        };
        match (&*text, meant) {
            ("true" | "false", meant) if plain => meant,
            (_, Some(meant)) if plain => self.wrong(
                format!("`{text}` is not true or false"),
                &format!("write {meant}"),
            ),
            (_, Some(meant)) => self.wrong(
                format!("\"{text}\" is text"),
                &format!("write {meant} without quotes"),
            ),
            (_, None) => self.wrong(
                format!("`{}` is not true or false", Foreign::new(text)),
                "write true or false",
            ),
        }
    }

    /// A time with its unit.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (text, _) = self.scalar("a time")?;
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "" if !digits.is_empty() => {
                return self.wrong(
                    format!("{} has no unit", Foreign::new(&*text)),
                    &format!("write {0}s or {0}ms", Foreign::new(digits)),
                );
            }
            _ => 0,
        };
        let time = digits
            .parse::<u64>()
            .ok()
            .filter(|_| millis > 0)
            .and_then(|count| count.checked_mul(millis))
            .map(Duration::from_millis);
        let Some(time) = time else {
            return self.wrong(
                format!("`{}` is not a time", Foreign::new(text)),
                "write a whole number and ms, s, m or h: 500ms, 5s, 2m",
            );
        };
        if time < *range.start() {
            return self.wrong(
                format!("{} is too short", Foreign::new(text)),
                &format!("at least {}", shown(*range.start())),
            );
        }
        if time > *range.end() {
            return self.wrong(
                format!("{} is too long", Foreign::new(text)),
                &format!("at most {}", shown(*range.end())),
            );
        }
        Some(time)
    }

    /// An absolute path of a file without `.` and `..`.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let path = self.directory()?;
        let text = self.text()?;
        if text.ends_with('/') || path.components().all(|part| part == Component::RootDir) {
            return self.wrong(
                format!("`{}` names a directory", Foreign::new(text)),
                "leave the / at the end out",
            );
        }
        Some(path)
    }

    /// An absolute path without `.` and `..`.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        let text = self.text()?;
        let path = PathBuf::from(&text);
        if !path.is_absolute() {
            return self.wrong(
                format!("`{}` is not an absolute path", Foreign::new(text)),
                "begin it with /",
            );
        }
        if text.split('/').any(|part| part == ".." || part == ".") {
            return self.wrong(
                format!("`{}` goes through `.` or `..`", Foreign::new(text)),
                "write the path without them",
            );
        }
        if text.chars().any(char::is_control) {
            return self.wrong(
                format!("`{}` holds control characters", Foreign::new(text)),
                "",
            );
        }
        // Collected from its parts, so that `/a//b` and `/a/b` are one path.
        Some(path.components().collect())
    }

    /// The items of a list.
    pub(super) fn list(&self, example: &str) -> Option<Vec<Value<'a>>> {
        match &self.node.value {
            yaml::Value::Sequence(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, node)| Value {
                        source: self.source,
                        node,
                        key: format!("{}[{index}]", self.key),
                    })
                    .collect(),
            ),
            _ => self.wrong(
                format!("expected a list, found {}", self.found()),
                &format!("write {example}"),
            ),
        }
    }

    /// The keys of a mapping.
    pub(super) fn fields(&self, example: &str) -> Option<Fields<'a>> {
        match &self.node.value {
            yaml::Value::Mapping(entries) => {
                let entries = entries
                    .iter()
                    .map(|entry| Field {
                        name: &entry.key,
                        place: entry.place,
                        width: entry.width,
                        value: Value {
                            source: self.source,
                            node: &entry.value,
                            key: join(&self.key, &entry.key),
                        },
                    })
                    .collect();
                Some(Fields {
                    whole: Some(self.clone()),
                    entries,
                    asked: Vec::new(),
                    missing: Vec::new(),
                })
            }
            _ => self.wrong(
                format!("expected a mapping, found {}", self.found()),
                &format!("write {example}"),
            ),
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let expected = words.join(", ");
        let (text, _) = self.scalar(&format!("one of {expected}"))?;
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*choice);
        }
        let help = match nearest(&text, words) {
            Some(near) => format!("did you mean `{near}`?"),
            None => String::new(),
        };
        self.wrong(
            format!("`{}` is none of {expected}", Foreign::new(text)),
            &help,
        )
    }
}

struct Field<'a> {
    name: &'a str,
    place: Place,
    width: usize,
    value: Value<'a>,
}

/// The keys of a mapping; [`Fields::finish`] notes those nobody asked for.
#[must_use = "unknown keys are noted by `finish`"]
pub(super) struct Fields<'a> {
    /// The mapping; `None` where variables stand for one.
    whole: Option<Value<'a>>,
    entries: Vec<Field<'a>>,
    asked: Vec<&'static str>,
    /// Keys that had to be there and are not.
    missing: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// What variables say, as if it were a mapping.
    pub(super) fn of_variables(values: Vec<(&'static str, Value<'a>)>) -> Self {
        let entries = values
            .into_iter()
            .map(|(name, value)| Field {
                name,
                place: Place { line: 1, column: 1 },
                width: 0,
                value,
            })
            .collect();
        Self {
            whole: None,
            entries,
            asked: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// The value of a key that may be left out.
    pub(super) fn get(&mut self, name: &'static str) -> Option<Value<'a>> {
        self.asked.push(name);
        let field = self.entries.iter().find(|field| field.name == name)?;
        if field.value.is_null() {
            let place = Written {
                place: Some(field.place),
                excerpt: field.value.source.excerpt(field.place, field.width),
            };
            self.note(
                &place,
                field.value.key.clone(),
                "has no value",
                "give it one or leave the key out",
            );
            return None;
        }
        Some(field.value.clone())
    }

    /// The value of a key that must be there; [`Fields::finish`] notes that it is not.
    pub(super) fn need(&mut self, name: &'static str) -> Option<Value<'a>> {
        if !self.has(name) {
            self.missing.push(name);
        }
        self.get(name)
    }

    /// Whether the key is written; does not ask for it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|field| field.name == name)
    }

    /// Which of these keys are written, in their order here.
    pub(super) fn present(&self, names: &[&'static str]) -> Vec<&'static str> {
        let mut present = names.to_vec();
        present.retain(|name| self.has(name));
        present
    }

    /// Exactly one of these keys: which one. Asks for all of them.
    pub(super) fn exactly_one(
        &mut self,
        names: &[&'static str],
        example: &str,
    ) -> Option<&'static str> {
        self.asked.extend_from_slice(names);
        let present = self.present(names);
        match (present.as_slice(), &self.whole) {
            ([one], _) => Some(one),
            ([], Some(whole)) => whole.wrong(
                format!("names none of {}", ticked(names)),
                &format!("write {example}"),
            ),
            ([_, second, ..], _) => {
                let others = ticked(&present);
                self.wrong_key(
                    second,
                    &format!("{others} exclude one another"),
                    "keep one of them",
                );
                None
            }
            ([], None) => None,
        }
    }

    /// Notes that a key must not be here.
    pub(super) fn wrong_key(&self, name: &str, message: &str, help: &str) {
        if let Some(field) = self.entries.iter().find(|field| field.name == name) {
            let mark = Written {
                place: Some(field.place),
                excerpt: field.value.source.excerpt(field.place, field.width),
            };
            self.note(&mark, field.value.key.clone(), message, help);
        }
    }

    /// A key that other entries have and this one cannot: written, it is refused with what to do instead.
    pub(super) fn elsewhere(&mut self, name: &'static str, message: &str, help: &str) {
        self.asked.push(name);
        self.wrong_key(name, message, help);
    }

    /// Keys that mean nothing beside `beside`.
    pub(super) fn idle(&mut self, names: &[&'static str], beside: &str) {
        self.asked.extend_from_slice(names);
        for name in names {
            self.wrong_key(
                name,
                &format!("means nothing beside `{beside}`"),
                "leave it out",
            );
        }
    }

    /// All keys with their values, for a mapping whose keys are the operator's own.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.entries.iter().map(|field| (field.name, &field.value))
    }

    fn note(&self, mark: &Written, key: String, message: &str, help: &str) {
        let Some(field) = self.entries.first() else {
            return;
        };
        let source = field.value.source;
        source.problems.push(Problem {
            source: source.path.clone(),
            place: mark.place.filter(|_| source.is_file()),
            key,
            message: message.to_owned(),
            help: (!help.is_empty()).then(|| help.to_owned()),
            excerpt: mark.excerpt.clone(),
        });
    }

    /// Notes the keys nobody asked for, and those that had to be there and are not; a slip of the pen is one mistake, not two.
    pub(super) fn finish(self) {
        let mut missing = self.missing.clone();
        for field in &self.entries {
            if self.asked.contains(&field.name) {
                continue;
            }
            let free = self.asked.iter().copied().filter(|name| !self.has(name));
            let near = nearest(field.name, free);
            missing.retain(|name| Some(*name) != near);
            let help = match (near, nearest(field.name, self.asked.iter().copied())) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, Some(near)) => format!("`{near}` is written already, leave this one out"),
                (None, None) => {
                    let mut known = self.asked.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("keys here are {}", known.join(", "))
                }
            };
            self.wrong_key(field.name, "unknown key", &help);
        }
        if let Some(whole) = &self.whole {
            for name in missing {
                whole.wrong::<()>(format!("`{name}` is missing"), "");
            }
        }
    }
}

/// `` `a`, `b` and `c` ``.
fn ticked(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("`{}` and `{last}`", first.join("`, `")),
    }
}

fn join(path: &str, key: &str) -> String {
    let mut key: String = key.chars().take(MAX_KEY).collect();
    if key.is_empty() {
        key.push_str("\"\"");
    }
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

/// A time as it would be written.
pub(super) fn shown(time: Duration) -> String {
    let millis = time.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    if millis == 0 {
        return "0s".to_owned();
    }
    format!("{millis}ms")
}

fn is_replaced(name: &str) -> bool {
    let known = ["POD_", "NODE_", "HOST_"]
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    known
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The word that was probably meant.
pub(super) fn nearest<'w>(
    written: &str,
    words: impl IntoIterator<Item = &'w str>,
) -> Option<&'w str> {
    if written.len() > MAX_KEY {
        return None;
    }
    let written = written.to_ascii_lowercase();
    words
        .into_iter()
        .map(|word| (distance(&written, &word.to_ascii_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.len().min(written.len()) / 3).max(1))
        .min()
        .map(|(_, word)| word)
}

/// Letters to insert, leave out, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (row, x) in a.chars().enumerate() {
        let mut next = vec![row + 1];
        for (column, y) in b.iter().enumerate() {
            let cell = |line: &[usize], at: usize| line.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut least = (cell(&last, column) + usize::from(x != *y))
                .min(cell(&last, column + 1) + 1)
                .min(cell(&next, column) + 1);
            let left = column.checked_sub(1);
            if previous == Some(*y) && left.and_then(|left| b.get(left)) == Some(&x) {
                least = least.min(cell(&before, column.saturating_sub(1)) + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut last, next);
        previous = Some(x);
    }
    last.last().copied().unwrap_or_default()
}

/// Whether a key's value must not be shown; a slip of the pen counts too.
fn is_secret(key: &str) -> bool {
    if key.len() > MAX_KEY {
        return false;
    }
    let key = key.to_ascii_lowercase();
    let names_file = key.ends_with("_file") || key.ends_with("-file");
    let secret = ["password", "passwd", "secret", "token"]
        .iter()
        .any(|word| key.contains(word));
    !names_file && (secret || distance(&key, "password") <= 2)
}

/// Whether the password or the key itself was written where something about it belongs.
fn is_misplaced_secret(key: &str, value: &Node) -> bool {
    match &value.value {
        yaml::Value::Scalar { text, .. } => {
            let is_path = text.starts_with('/');
            key == "auth" || matches!(key, "password_file" | "key") && !is_path || holds_key(text)
        }
        _ => false,
    }
}

/// The lines of secret values.
fn secret_lines(node: &Node, lines: &mut Vec<RangeInclusive<usize>>) {
    match &node.value {
        yaml::Value::Scalar { .. } => {}
        yaml::Value::Sequence(items) => {
            for item in items {
                secret_lines(item, lines);
            }
        }
        yaml::Value::Mapping(entries) => {
            for entry in entries {
                if is_secret(&entry.key) || is_misplaced_secret(&entry.key, &entry.value) {
                    lines.push(entry.place.line..=entry.value.last_line.max(entry.place.line));
                    // The copy of an alias stands elsewhere.
                    lines.push(entry.value.place.line..=entry.value.last_line);
                }
                secret_lines(&entry.value, lines);
            }
        }
    }
}

/// Whether a text that could not be read as YAML may hold a secret in any line.
fn mentions_secret(text: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .any(|word| word.len() > 4 && is_secret(word))
        || holds_key(text)
}

/// Whether a text has a private key in it, in PEM.
fn holds_key(text: &str) -> bool {
    text.contains("PRIVATE KEY")
}

/// Whether a line may hold `http://user:password@host` or `http://host/?accessToken=token`.
fn holds_credentials(line: &str) -> bool {
    line.split_once("://").is_some_and(|(_, rest)| {
        let query = rest.split_once('?').map(|(_, query)| query);
        rest.contains('@') || query.is_some_and(mentions_secret)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_with_a_newline_stays_one_scalar() {
        let hostile = "a\n- name: forged\n  port: 1\nb: \"}, x: {";
        let env = BTreeMap::from([("POD_NAME".to_owned(), hostile.to_owned())]);
        let replace = Replaced {
            env: &env,
            listed: &[],
        };
        for text in [
            "pod: ${POD_NAME}\n",
            "pod: \"${POD_NAME}\"\n",
            "{ pod: '${POD_NAME}' }",
        ] {
            let problems = Problems::default();
            let (source, root) = Source::file(Path::new("a"), text, Some(replace), &problems);
            let root = root.unwrap();
            let mut fields = Value::root(&source, &root).fields("").unwrap();
            let value = fields.get("pod").unwrap().text();
            assert_eq!(value.as_deref(), Some(hostile), "{text}");
            assert_eq!(fields.all().count(), 1);
            fields.finish();
            problems.or(()).unwrap();
        }
    }

    #[test]
    fn the_nearest_word_is_one_slip_away() {
        let words = [
            "port",
            "name",
            "password_file",
            "data_id",
            "heartbeat",
            "HUP",
        ];
        let near = |written| nearest(written, words);
        assert_eq!(near("prot"), Some("port"));
        assert_eq!(near("Port"), Some("port"));
        assert_eq!(near("nmae"), Some("name"));
        assert_eq!(near("dataId"), Some("data_id"));
        assert_eq!(near("passwordfile"), Some("password_file"));
        assert_eq!(near("hartbeet"), Some("heartbeat"));
        assert_eq!(near("hup"), Some("HUP"));
        assert_eq!(near("weight"), None);
        assert_eq!(near(""), None);
        assert_eq!(near(&"port".repeat(100)), None);
    }

    #[test]
    fn a_slip_of_the_pen_still_hides_a_secret() {
        for secret in [
            "password",
            "Password",
            "pasword",
            "passwort",
            "db_password",
            "api-token",
            "secret",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in ["password_file", "path", "port", "passes"] {
            assert!(!is_secret(open), "{open}");
        }
    }

    #[test]
    fn a_time_is_shown_as_it_would_be_written() {
        let written = [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000].map(Duration::from_millis);
        assert_eq!(
            written.map(shown),
            ["0s", "1ms", "999ms", "1s", "1500ms", "1m", "90s", "1h"]
        );
    }
}
