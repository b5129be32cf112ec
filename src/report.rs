//! What is wrong with something an operator wrote, and how it is shown: place, key path, message, excerpt, next step.

use std::path::PathBuf;

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
