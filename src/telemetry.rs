//! Logs: one line per change of state, as text or JSON, to standard error.
//!
//! A line is written here and nowhere else, and it is the last net under everything that is logged: whatever a field holds,
//! and however it was handed over, everything that could move a cursor or forge a line is escaped, and a line is cut at
//! [`LONGEST`] bytes. The same words are said once in [`AGAIN`], then with a count of what was left out; beyond that the whole
//! log has a budget ([`BURST`], then one line a second), so that nobody outside can fill a disk with it. `debug` and `trace`
//! are asked for by name and are not held back.
//!
//! Of libraries nothing below `info` is shown, whatever the filter says: their `debug` and `trace` have headers, and with them
//! tokens.

use crate::dates;
use crate::foreign;
use crate::machine::Epoch;
use crate::machine::Moment;
use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fmt::{self, Write as _},
    hash::{Hash as _, Hasher as _},
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{ParseError, filter_fn},
    layer::{Context, SubscriberExt as _},
    registry,
    util::SubscriberInitExt as _,
};

/// Bytes of a line, its end included.
const LONGEST: usize = 8 * 1024;
/// The same words are not said again within this time.
const AGAIN: Duration = Duration::from_secs(10);
/// So many different words are remembered.
const REMEMBERED: usize = 1024;
/// Lines that may come at once; each second gives one back.
const BURST: u32 = 2000;

/// Starts logging to standard error: `filter` as `RUST_LOG` takes it (`info`, `outrigger=debug`).
///
/// # Errors
/// When the filter cannot be read. A second call changes nothing.
pub fn start(filter: &str, json: bool) -> Result<(), ParseError> {
    let form = match (json, io::stderr().is_terminal()) {
        (true, _) => Form::Json,
        (false, coloured) => Form::Text { coloured },
    };
    let write = |line: &str| {
        // There is nowhere left to say that this failed.
        _ = io::stderr().lock().write_all(line.as_bytes());
    };
    let subscriber = subscriber(filter, form, Epoch::start(), write)?;
    // An error means that a subscriber is there already: tests start several agents in one process.
    _ = subscriber.try_init();
    Ok(())
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Words, and `name=value`.
    Text {
        /// The level in its colour.
        coloured: bool,
    },
    /// An object.
    Json,
}

/// What takes events and hands each line, with its end, to `write`.
///
/// # Errors
/// When the filter cannot be read.
pub fn subscriber(
    filter: &str,
    form: Form,
    epoch: Epoch,
    write: impl Fn(&str) + Send + Sync + 'static,
) -> Result<impl Subscriber + Send + Sync + 'static, ParseError> {
    let wanted = EnvFilter::builder().parse(filter)?;
    let ours =
        filter_fn(|meta| meta.target().starts_with("outrigger") || *meta.level() <= Level::INFO);
    let journal = Journal {
        form,
        epoch,
        held: Mutex::default(),
        write,
    };
    Ok(registry().with(journal.with_filter(wanted).with_filter(ours)))
}

struct Journal<W> {
    form: Form,
    epoch: Epoch,
    held: Mutex<Held>,
    write: W,
}

impl<S: Subscriber, W: Fn(&str) + Send + Sync + 'static> Layer<S> for Journal<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut said = Said::default();
        event.record(&mut said);
        let now = self.epoch.now();
        let mut more = 0;
        if level <= Level::INFO {
            let mut words = DefaultHasher::new();
            (level.as_str(), &said.message, &said.fields).hash(&mut words);
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            match held.take(now, words.finish()) {
                Some(count) => more = count,
                None => return,
            }
        }
        if more > 0 {
            said.put("left_out", Shown::Bare(more.to_string()));
        }
        let at = dates::rfc3339(self.epoch.wall(now));
        let mut line = match self.form {
            Form::Text { coloured } => said.as_text(&at, level, coloured),
            Form::Json => said.as_json(&at, level),
        };
        line.push('\n');
        (self.write)(&line);
    }
}

/// What was said and is not said again yet.
#[derive(Debug, Default)]
struct Held {
    /// By what the words hash to: when they were said, and how often they came since.
    said: HashMap<u64, (Moment, u64)>,
    /// Lines of the budget that are used up, as of `counted`.
    used: f64,
    counted: Moment,
    /// Lines that were left out because the budget was used up.
    dropped: u64,
}

impl Held {
    /// Whether a line is to be written now: then with the number of those that were left out before it.
    fn take(&mut self, now: Moment, words: u64) -> Option<u64> {
        if let Some((at, times)) = self.said.get_mut(&words)
            && now.saturating_sub(*at) < AGAIN
        {
            *times += 1;
            return None;
        }
        let back = now.saturating_sub(self.counted).as_secs_f64();
        self.used = (self.used - back).max(0.0);
        self.counted = now;
        if self.used + 1.0 > f64::from(BURST) {
            self.dropped += 1;
            return None;
        }
        self.used += 1.0;
        if self.said.len() >= REMEMBERED {
            // What nothing was left out of is forgotten without loss.
            self.said
                .retain(|_, (at, times)| *times > 0 || now.saturating_sub(*at) < AGAIN);
        }
        if self.said.len() >= REMEMBERED {
            let lost: u64 = self.said.drain().map(|(_, (_, times))| times).sum();
            self.dropped += lost;
        }
        let times = self
            .said
            .insert(words, (now, 0))
            .map_or(0, |(_, times)| times);
        Some(times + std::mem::take(&mut self.dropped))
    }
}

/// A value as it is written.
#[derive(Hash)]
enum Shown {
    /// A number or a truth value.
    Bare(String),
    /// A text that was handed over as one: in quotes.
    Quoted(String),
    /// Anything else, by its own words.
    Words(String),
}

/// What an event says, of no greater length than a line may have.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Shown)>,
    /// Bytes taken so far.
    length: usize,
}

impl Said {
    fn put(&mut self, name: &'static str, value: Shown) {
        self.fields.push((name, value));
    }

    /// A value's words, harmless and cut to what the line has room for.
    fn words(&mut self, value: fmt::Arguments<'_>) -> String {
        // Names, quotes and braces of a line with some fields fit beside it; JSON may double a quote or a backslash.
        let room = (LONGEST / 2 - 512).saturating_sub(self.length);
        let mut cut = Cut {
            text: String::new(),
            room,
        };
        // An error says that it was cut.
        let whole = write!(cut, "{value}").is_ok();
        let mut words = foreign::harmless(&cut.text).into_owned();
        if words.len() > room {
            let end = (0..=room).rev().find(|at| words.is_char_boundary(*at));
            words.truncate(end.unwrap_or(0));
            words.push('…');
        } else if !whole {
            words.push('…');
        }
        self.length += words.len() + 16;
        words
    }

    fn as_text(&self, at: &str, level: Level, coloured: bool) -> String {
        let (colour, end) = match level {
            _ if !coloured => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[32m", "\x1b[0m"),
            _ => ("\x1b[34m", "\x1b[0m"),
        };
        let mut line = format!("{at} {colour}{:>5}{end} {}", level.as_str(), self.message);
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            _ = match value {
                Shown::Bare(words) | Shown::Words(words) => write!(line, " {name}={words}"),
                Shown::Quoted(words) => write!(line, " {name}=\"{words}\""),
            };
        }
        line
    }

    fn as_json(&self, at: &str, level: Level) -> String {
        let mut line = format!(
            "{{\"timestamp\":\"{at}\",\"level\":\"{}\",\"message\":{}",
            level.as_str(),
            serde_json::Value::from(self.message.as_str())
        );
        for (name, value) in &self.fields {
            _ = match value {
                Shown::Bare(words) => write!(line, ",\"{name}\":{words}"),
                Shown::Quoted(words) | Shown::Words(words) => {
                    write!(
                        line,
                        ",\"{name}\":{}",
                        serde_json::Value::from(words.as_str())
                    )
                }
            };
        }
        line.push('}');
        line
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        let words = self.words(format_args!("{value}"));
        self.put(field.name(), Shown::Quoted(words));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let words = self.words(format_args!("{value:?}"));
        if field.name() == "message" {
            self.message = words;
        } else {
            self.put(field.name(), Shown::Words(words));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), Shown::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), Shown::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Shown::Bare(value.to_string()));
    }
}

/// Takes text until there is no more room.
struct Cut {
    text: String,
    room: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let left = self.room.saturating_sub(self.text.len());
        if more.len() <= left {
            self.text.push_str(more);
            return Ok(());
        }
        let end = (0..=left).rev().find(|at| more.is_char_boundary(*at));
        self.text
            .push_str(more.get(..end.unwrap_or(0)).unwrap_or_default());
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::is_harmful;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// The lines that `work` logs.
    fn logged(filter: &str, form: Form, work: impl FnOnce()) -> Vec<String> {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let write = move |line: &str| kept.lock().unwrap().push(line.to_owned());
        let subscriber = subscriber(filter, form, Epoch::start(), write).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    const FORMS: [Form; 2] = [Form::Text { coloured: false }, Form::Json];
    const HOSTILE: &str = "orders\u{1b}[2J\n2026-01-01 INFO forged\r\u{7f}\u{85}\u{9b}31m\u{2028}\u{202e}\u{2066}end\"";

    #[test]
    fn a_filter_that_is_none_is_an_error_that_names_it() {
        let wrong = start("outrigger=loud=er", false).unwrap_err().to_string();
        assert!(!wrong.is_empty());
    }

    #[test]
    fn a_hostile_text_is_one_harmless_line_however_it_is_logged() {
        for form in FORMS {
            let lines = logged("trace", form, || {
                tracing::info!(shown = %HOSTILE, asked = ?HOSTILE, text = HOSTILE, "a field");
                tracing::info!("{HOSTILE}");
                tracing::info!(
                    error = &std::io::Error::other(HOSTILE) as &dyn std::error::Error,
                    "an error"
                );
            });
            assert_eq!(lines.len(), 3);
            for line in lines {
                let body = line.strip_suffix('\n').unwrap();
                assert!(!body.contains(is_harmful), "{body:?}");
                assert!(body.contains("orders") && body.contains("end"), "{body}");
                if form == Form::Json {
                    serde_json::from_str::<serde_json::Value>(body).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_line_reads_as_before() {
        let mut lines = logged("info", Form::Text { coloured: true }, || {
            tracing::warn!(service = %"orders", port = 8080, up = true, reason = "a \"b\"", "service");
        });
        let line = lines.remove(0);
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "\u{1b}[33m WARN\u{1b}[0m service service=orders port=8080 up=true reason=\"a \"b\"\"\n"
        );
        let mut lines = logged("info", Form::Json, || {
            tracing::warn!(service = %"orders", port = 8080, up = true, reason = "a \"b\"", "service");
        });
        let line = lines.remove(0);
        let (_, rest) = line.split_once(',').unwrap();
        assert_eq!(
            rest,
            "\"level\":\"WARN\",\"message\":\"service\",\"service\":\"orders\",\"port\":8080,\"up\":true,\"reason\":\"a \\\"b\\\"\"}\n"
        );
    }

    #[test]
    fn a_line_has_at_most_8_kib() {
        for form in FORMS {
            for text in ["x", "\"", "\u{1b}", "名", "\u{e0041}"] {
                let long = text.repeat(20_000);
                let lines = logged("info", form, || {
                    tracing::info!(first = %long, second = long, third = ?long, "{long}");
                });
                assert!(lines[0].len() <= LONGEST, "{} of {text}", lines[0].len());
                assert!(lines[0].contains('…') && lines[0].ends_with('\n'));
            }
        }
    }

    #[test]
    fn libraries_are_held_at_info_whatever_the_filter_says() {
        let lines = logged("trace,hyper=trace", FORMS[0], || {
            tracing::trace!(target: "hyper::proto", "authorization: Bearer canary");
            tracing::debug!(target: "h2::codec", "authorization: Bearer canary");
            tracing::debug!(target: "rustls::client", "canary");
            tracing::info!(target: "reqwest", "theirs");
            tracing::trace!("ours");
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(!lines.concat().contains("canary"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_words_are_said_once_in_ten_seconds_then_with_a_count() {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let write = move |line: &str| kept.lock().unwrap().push(line.to_owned());
        let subscriber = subscriber("trace", FORMS[0], Epoch::start(), write).unwrap();
        let _guard = tracing::subscriber::set_default(subscriber);
        for second in 0..3600_u64 {
            tracing::warn!(server = "a", "the registry cannot be used");
            if second % 2 == 0 {
                tracing::warn!(server = "b", "the registry cannot be used");
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let said = lines.lock().unwrap().clone();
        assert_eq!(said.len(), 720, "two texts, once in ten seconds each");
        assert!(!said[0].contains("left_out"), "{}", said[0]);
        assert!(said[2].ends_with("left_out=9\n"), "{}", said[2]);
        lines.lock().unwrap().clear();
        for _ in 0..20 {
            tracing::debug!("asked for by name");
        }
        assert_eq!(lines.lock().unwrap().len(), 20);
    }

    #[test]
    fn a_flood_of_different_words_ends_at_the_budget_and_is_counted() {
        let mut held = Held::default();
        let mut written = 0;
        let mut last = 0;
        // An hour, a hundred lines a second.
        for n in 0..360_000_u64 {
            let now = Duration::from_millis(n * 10);
            if let Some(left_out) = held.take(now, n) {
                written += 1;
                last = left_out;
            }
            assert!(held.said.len() <= REMEMBERED);
        }
        assert!((BURST..BURST + 3601).contains(&written), "{written}");
        assert!(last > 50, "{last}");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_second_line(text in "\\PC{0,20}[\\x00-\\x1f\\u{7f}-\\u{9f}\\u{2028}\\u{202e}]{0,20}\\PC{0,20}") {
            for form in FORMS {
                let lines = logged("info", form, || tracing::info!(text = %text, "{text}"));
                prop_assert!(!lines[0].strip_suffix('\n').unwrap().contains(is_harmful));
            }
        }
    }
}
