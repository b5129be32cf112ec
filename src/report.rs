//! What is wrong with something an operator wrote, and how it is shown: place, key path, message, excerpt, next step.

use crate::foreign;
use crate::foreign::Foreign;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One mistake. Printed as `file:line:col: key.path: message`, the excerpt, then `help: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file; for a variable or a flag its name (`OUTRIGGER_PORT`, `--conf-dir`).
    pub source: PathBuf,
    /// Where in it; `None` when the whole of it is meant.
    pub place: Option<Place>,
    /// The key, from the root: `services[0].weight`; empty when the whole file is meant.
    pub key: String,
    /// What is wrong, a lowercase fragment with expected and found.
    pub message: String,
    /// The next step; lowercase, one sentence.
    pub help: Option<String>,
    /// The line of the file that is meant, as it stands there, and how many characters to underline.
    pub excerpt: Option<(String, usize)>,
}

/// How many columns of a line are shown before it is cut around the place that is meant (an excerpt) or broken (a help).
const EXCERPT: usize = 90;

impl fmt::Display for Problem {
    /// The first line alone: `file:line:col: key.path: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.position())?;
        if !self.key.is_empty() {
            write!(f, "{}: ", Foreign::new(self.key.as_str()))?;
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    /// Of a whole file or directory.
    #[must_use]
    pub fn of_whole(source: &Path, message: String, help: Option<&str>) -> Self {
        Self {
            source: source.to_owned(),
            place: None,
            key: String::new(),
            message,
            help: help.map(str::to_owned),
            excerpt: None,
        }
    }

    /// The problem in full, several lines, the last one ended: position, key, message, the line that is meant, the next step.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let paint = Paint(colour);
        let mut shown = paint.bold(&self.position());
        shown.push_str(": ");
        if !self.key.is_empty() {
            shown.push_str(&Foreign::new(self.key.as_str()).to_string());
            shown.push_str(": ");
        }
        shown.push_str(&paint.red(&self.message));
        shown.push('\n');
        if let (Some(place), Some((line, width))) = (self.place, &self.excerpt) {
            let (line, before, under) = crop(line, place.column, *width);
            let number = place.line.to_string();
            let margin = " ".repeat(number.len().max(4));
            shown.push_str(&format!("{number:>4} | {line}\n"));
            let carets = paint.red(&"^".repeat(under));
            shown.push_str(&format!("{margin} | {}{carets}\n", " ".repeat(before)));
        }
        if let Some(help) = &self.help {
            let help = wrap(help).join("\n        ");
            shown.push_str(&format!("  {} {help}\n", paint.cyan("help:")));
        }
        shown
    }

    fn position(&self) -> String {
        let source = Foreign::new(self.source.to_string_lossy().into_owned());
        match self.place {
            Some(Place { line, column }) => format!("{source}:{line}:{column}"),
            None => source.to_string(),
        }
    }
}

/// All problems by file and line, each in full, then `2 errors in 2 of 14 files` (or `no errors in 14 files`).
#[must_use]
pub fn render_all(
    problems: &[Problem],
    files_wrong: usize,
    files_total: usize,
    colour: bool,
) -> String {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by(|a, b| (&a.source, a.place, &a.key).cmp(&(&b.source, b.place, &b.key)));
    sorted.dedup();
    let mut shown: String = sorted
        .iter()
        .map(|problem| problem.render(colour))
        .collect();
    let files = if files_total == 1 { "file" } else { "files" };
    shown.push_str(&match sorted.len() {
        0 => format!("no errors in {files_total} {files}\n"),
        1 => format!("1 error in {files_wrong} of {files_total} {files}\n"),
        count => format!("{count} errors in {files_wrong} of {files_total} {files}\n"),
    });
    shown
}

/// Lines of at most [`EXCERPT`] characters, broken at blanks; a longer word stays whole.
fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= EXCERPT => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A line as it is shown, the columns in front of what is meant, and the columns to underline (at least one).
///
/// Every character keeps its place: a tab is one blank, what could move the cursor is `�`, a wide character counts two.
fn crop(line: &str, column: usize, width: usize) -> (String, usize, usize) {
    let clean: Vec<char> = line.chars().map(harmless).collect();
    let at = column.saturating_sub(1).min(clean.len());
    let columns = |part: &[char]| part.iter().map(|c| columns(*c)).sum::<usize>();
    // A line that does not fit begins a little in front of the place.
    let start = if columns(&clean) <= EXCERPT {
        0
    } else {
        at.saturating_sub(EXCERPT / 2)
    };
    let mut shown = String::new();
    let mut before = 0;
    if start > 0 {
        shown.push('…');
        before = 1;
    }
    let mut taken = before;
    let mut end = start;
    for c in clean.iter().skip(start) {
        if taken + columns(&[*c]) > EXCERPT {
            shown.push('…');
            break;
        }
        taken += columns(&[*c]);
        shown.push(*c);
        end += 1;
    }
    before += columns(clean.get(start..at).unwrap_or_default());
    let last = at.saturating_add(width).min(end);
    let under = columns(clean.get(at..last).unwrap_or_default()).max(1);
    (shown.trim_end().to_owned(), before, under)
}

fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        // Nothing of it is visible, all of it moves what is.
        c if foreign::is_harmful(c) => '\u{fffd}',
        c => c,
    }
}

/// Columns of a terminal: two for what East Asian fonts draw wide.
fn columns(c: char) -> usize {
    match c {
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f9ff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Colour, or the same words without.
struct Paint(bool);

impl Paint {
    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn red(&self, text: &str) -> String {
        self.with("31", text)
    }

    fn cyan(&self, text: &str) -> String {
        self.with("36", text)
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(source: &str, line: usize, column: usize, excerpt: (&str, usize)) -> Problem {
        Problem {
            source: source.into(),
            place: Some(Place { line, column }),
            key: "services[0].weight".into(),
            message: "20000 is not a weight".into(),
            help: Some("weights go from 0 to 10000".into()),
            excerpt: Some((excerpt.0.into(), excerpt.1)),
        }
    }

    #[test]
    fn problems_are_sorted_and_the_place_is_underlined() {
        let whole = Problem {
            source: "OUTRIGGER_PORT".into(),
            place: None,
            key: String::new(),
            message: "`x` is not a port".into(),
            help: None,
            excerpt: None,
        };
        let problems = [
            problem("b.yaml", 12, 4, ("\tw: 9", 1)),
            problem("a.yaml", 7, 13, ("    weight: 20000", 5)),
            problem("a.yaml", 2, 5, ("名字: 20000", 5)),
            whole,
        ];
        insta::assert_snapshot!(render_all(&problems, 3, 14, false), @r"
        OUTRIGGER_PORT: `x` is not a port
        a.yaml:2:5: services[0].weight: 20000 is not a weight
           2 | 名字: 20000
             |       ^^^^^
          help: weights go from 0 to 10000
        a.yaml:7:13: services[0].weight: 20000 is not a weight
           7 |     weight: 20000
             |             ^^^^^
          help: weights go from 0 to 10000
        b.yaml:12:4: services[0].weight: 20000 is not a weight
          12 |  w: 9
             |    ^
          help: weights go from 0 to 10000
        4 errors in 3 of 14 files
        ");
    }

    #[test]
    fn colour_changes_no_word() {
        let shown = problem("a.yaml", 7, 13, ("    weight: 20000", 5));
        let plain = shown.render(false);
        let mut coloured = shown.render(true);
        for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[31m", "\u{1b}[36m"] {
            assert!(coloured.contains(code));
            coloured = coloured.replace(code, "");
        }
        assert_eq!(coloured, plain);
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}: here{}", "k".repeat(300), "v".repeat(300));
        let shown = problem("a.yaml", 1, 303, (&line, 4)).render(false);
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].chars().count() <= 100);
        let caret = lines[2].find('^').unwrap();
        assert_eq!(
            lines[1].chars().skip(caret).take(4).collect::<String>(),
            "here"
        );
        assert!(lines[2].ends_with(" ^^^^"));
    }

    #[test]
    fn nothing_found_says_so() {
        assert_eq!(render_all(&[], 0, 1, true), "no errors in 1 file\n");
    }

    proptest! {
        #[test]
        fn nothing_a_file_holds_reaches_the_terminal_raw(line: String, column in 0_usize..200, width in 0_usize..200) {
            let shown = problem("a.yaml", 1, column, (&line, width)).render(false);
            prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
            prop_assert_eq!(shown.lines().count(), 4);
            prop_assert!(shown.contains('^'));
        }
    }
}
