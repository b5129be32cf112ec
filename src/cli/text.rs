//! Laying words out for a terminal: columns, spans of time, lines that do not wrap.

use crate::dates;
use crate::machine::Epoch;
use crate::machine::Moment;
use std::time::{Duration, SystemTime};

/// No line is wider.
pub(super) const WIDTH: usize = 100;

/// What the wall clock shows, for spans of time that a person reads.
pub(super) fn now() -> SystemTime {
    Epoch::start().wall(Moment::ZERO)
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    /// `text` in an SGR code, where there is colour.
    pub(super) fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// A state of the contract in the colour of how well it is.
    pub(super) fn state(self, state: &str) -> String {
        let code = match state {
            "registered" | "applied" | "connected" => "32",
            "unhealthy" | "refused" | "rejected" | "rolled_back" | "unreachable" => "31",
            "drained" => "2",
            _ => "33",
        };
        self.with(code, state)
    }
}

/// How long ago `then` (RFC 3339) was: `40 s`, `12 min`, `2 h`, `3 d`.
pub(super) fn ago(then: &str, now: SystemTime) -> String {
    let Some(then) = dates::read_rfc3339(then) else {
        return "?".to_owned();
    };
    // A clock that was set back shows zero.
    span(now.duration_since(then).unwrap_or_default())
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds / 60),
        6000..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How many columns a text takes; wide characters take two.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum()
}

/// East Asian wide and fullwidth characters, as far as names, paths and our own Chinese have them.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}')
}

/// `text` filled up with blanks to `width` columns.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// `text` in at most `width` columns; what is cut shows as `…`, at its front when its end says more (a path).
pub(super) fn fit(text: &str, width: usize, keep_end: bool) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let mut kept: Vec<char> = Vec::new();
    let mut take = |c: char| {
        let needed = if is_wide(c) { 2 } else { 1 };
        let fits = room >= needed;
        if fits {
            room -= needed;
            kept.push(c);
        }
        fits
    };
    if keep_end {
        for c in text.chars().rev() {
            if !take(c) {
                break;
            }
        }
        kept.push('…');
        kept.reverse();
    } else {
        for c in text.chars() {
            if !take(c) {
                break;
            }
        }
        kept.push('…');
    }
    kept.into_iter().collect()
}

/// `text` in lines of at most `width` columns, broken at blanks; a word that is longer is broken where it must be.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let wide = columns(word);
        if used > 0 && used + 1 + wide > width {
            lines.push(String::new());
            used = 0;
        }
        if used > 0
            && let Some(line) = lines.last_mut()
        {
            line.push(' ');
            used += 1;
        }
        for c in word.chars() {
            let needed = if is_wide(c) { 2 } else { 1 };
            if used + needed > width {
                lines.push(String::new());
                used = 0;
            }
            if let Some(line) = lines.last_mut() {
                line.push(c);
            }
            used += needed;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_read_well() {
        for (seconds, words) in [
            (0, "0 s"),
            (99, "99 s"),
            (720, "12 min"),
            (7200, "2 h"),
            (300_000, "3 d"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_it_may_be(text in "[a-z 中文/]{0,200}", width in 4_usize..120) {
            prop_assert!(columns(&fit(&text, width, false)) <= width);
            prop_assert!(columns(&fit(&text, width, true)) <= width);
            for line in wrap(&text, width) {
                prop_assert!(columns(&line) <= width);
            }
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&wrap(&text, width).concat()), letters(&text), "nothing is lost");
        }
    }
}
