//! Text that came from outside (a registry's answer, a file's name, a command's output) and must print harmlessly.
//!
//! A name in a registry may hold escape sequences, newlines or bidi controls. Whoever prints it does so through this type:
//! its `Display` escapes every control and cuts at [`SHOWN`] characters, so one text is at most one line of a log.

use std::fmt::{self, Write as _};

/// How many characters of a foreign text are shown before it is cut.
pub const SHOWN: usize = 256;

/// A text from outside. `Display` and `Debug` are safe to print; [`Foreign::raw`] is the text itself.
#[derive(
    Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize,
)]
#[serde(transparent)]
pub struct Foreign(String);

impl Foreign {
    /// Keeps `text` as it came.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as it came: never print this.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.0
    }
}

impl From<String> for Foreign {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Foreign {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, c) in self.0.chars().enumerate() {
            if count == SHOWN {
                return f.write_str("…");
            }
            // `escape_debug` also escapes quotes and backslashes, which are harmless and common in JSON errors.
            if matches!(c, '"' | '\'' | '\\') {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_debug())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_service_name_full_of_escapes_prints_one_harmless_line() {
        let shown = Foreign::new("a\u{1b}[2J\nb\u{202e}c\u{9b}\r\u{2028}").to_string();
        assert_eq!(shown, "a\\u{1b}[2J\\nb\\u{202e}c\\u{9b}\\r\\u{2028}");
    }

    proptest! {
        #[test]
        fn nothing_printed_is_a_control(text: String) {
            let shown = Foreign::new(text).to_string();
            prop_assert!(shown.chars().all(|c| !c.is_control()));
            let bidi = shown.chars().any(|c| ('\u{202a}'..='\u{202e}').contains(&c));
            prop_assert!(!bidi);
        }
    }
}
