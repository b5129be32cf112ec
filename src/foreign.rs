//! Text that came from outside (a registry's answer, a file's name, a command's output) and must print harmlessly.
//!
//! A name in a registry may hold escape sequences, newlines or bidi controls. Whoever prints it does so through this type:
//! its `Display` escapes every control and cuts at [`SHOWN`] characters, so one text is at most one line of a log.
//!
//! Behind it stands a second net, for what slipped past the type: [`harmless`] and [`harmless_json`], through which every
//! field of a log line, every text of a status and every error of a command goes before it is written.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// How many characters of a foreign text are shown before it is cut.
pub const SHOWN: usize = 256;

/// Whether a character can move a cursor, forge a line, hide, or turn the direction of what stands beside it.
#[must_use]
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// `text` with everything harmful escaped (`\n`, `\u{1b}`): one line, whatever it was.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// JSON with everything harmful in its texts escaped as JSON does; its own line ends stay. It means the same as before.
#[must_use]
pub fn harmless_json(json: &str) -> Cow<'_, str> {
    let harmful = |c: char| c != '\n' && is_harmful(c);
    if !json.contains(harmful) {
        return json.into();
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if harmful(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

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
            } else if is_harmful(c) {
                write!(f, "{}", c.escape_default())?;
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

    #[test]
    fn the_second_net_escapes_what_the_type_would() {
        assert_eq!(harmless("名 é\"'\\"), "名 é\"'\\");
        let text = "a\u{1b}]0;x\u{7}\n\u{7f}\u{85}\u{9b}\u{200f}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}\u{e0041}b";
        assert_eq!(harmless(text), Foreign::new(text).to_string());
    }

    proptest! {
        #[test]
        fn nothing_printed_is_a_control(text: String) {
            let shown = Foreign::new(text).to_string();
            prop_assert!(shown.chars().all(|c| !c.is_control()));
            let bidi = shown.chars().any(|c| ('\u{202a}'..='\u{202e}').contains(&c));
            prop_assert!(!bidi);
        }

        #[test]
        fn nothing_harmful_passes_the_second_net(text in "[\\x00-\\x20\\x7f-\\x9f\u{2028}\u{202e}\u{e0041}a-c\"\\\\é]{0,40}") {
            prop_assert!(!harmless(&text).contains(is_harmful));
            let json = serde_json::to_string(&text).unwrap();
            let shown = harmless_json(&json);
            prop_assert!(!shown.contains(is_harmful));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
