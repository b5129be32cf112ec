//! Logs: one line per change of state, as text or JSON, to standard error.
//!
//! A line is written here and nowhere else, and it is the last net under everything that is logged: whatever a field holds,
//! and however it was handed over, everything that could move a cursor or forge a line is escaped, and a line is cut at
//! [`LONGEST`] bytes.
//!
//! What keeps coming is said less and less often. A line has a subject: its message with all its fields but those that change
//! ([`CHANGING`]), so all that is said of one service is one subject. Each may say [`LINES`] lines at once, but never the same
//! one twice within [`AGAIN`]; after that it waits for that time, then for twice as long, and so on. What was said last is kept
//! meanwhile and written when the time is over, with the number of lines left out: so the last word on anything is true, if
//! late. All subjects share a budget ([`BURST`], then one line a second): nobody outside can fill a disk. `debug` and `trace`
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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
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
/// Fields that say how something is, and not what: states, and the words of servers, systems and commands.
const CHANGING: [&str; 5] = ["state", "reason", "error", "what", "server"];
/// Lines that one subject may say at once.
const LINES: u32 = 8;
/// The same line is not said again within this time; also the first wait of a subject that said all its lines.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A subject of which nothing was heard for this long, and for twice its last wait, begins anew.
const QUIET: Duration = Duration::from_secs(60);
/// So many subjects are remembered.
const REMEMBERED: usize = 256;
/// Lines that may come at once; each second gives one back.
const BURST: u32 = 2000;
/// Between two looks for what can be said again, while something is held back.
const LOOK: Duration = Duration::from_secs(1);

/// Starts logging to standard error: `filter` as `RUST_LOG` takes it (`info`, `outrigger=debug`). Whoever runs for long lets
/// [`Journal::run`] run beside; [`Journal::close`] is the end.
///
/// # Errors
/// When the filter cannot be read. A second call starts nothing.
pub fn start(filter: &str, json: bool) -> Result<Journal, ParseError> {
    let form = match (json, io::stderr().is_terminal()) {
        (true, _) => Form::Json,
        (false, coloured) => Form::Text { coloured },
    };
    let write = |line: &str| {
        // There is nowhere left to say that this failed.
        _ = io::stderr().lock().write_all(line.as_bytes());
    };
    let (subscriber, journal) = subscriber(filter, form, Epoch::start(), write)?;
    // An error means that a subscriber is there already: tests start several agents in one process.
    _ = subscriber.try_init();
    Ok(journal)
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
) -> Result<(impl Subscriber + Send + Sync + 'static, Journal), ParseError> {
    let wanted = EnvFilter::builder().parse(filter)?;
    let ours =
        filter_fn(|meta| meta.target().starts_with("outrigger") || *meta.level() <= Level::INFO);
    let journal = Journal(Arc::new(Shared {
        form,
        epoch,
        held: Mutex::default(),
        kept: Notify::new(),
        write: Box::new(write),
    }));
    let layer = journal.clone().with_filter(wanted).with_filter(ours);
    Ok((registry().with(layer), journal))
}

/// What writes; clones are the same one.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

struct Shared {
    form: Form,
    epoch: Epoch,
    held: Mutex<Held>,
    /// Something was held back.
    kept: Notify,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

impl Journal {
    /// Writes what was held back when its time is over; until it is stopped.
    pub async fn run(self) {
        loop {
            self.0.kept.notified().await;
            while self.held().keeps() {
                tokio::time::sleep(LOOK).await;
                let due = self.held().due(self.0.epoch.now(), false);
                self.write_all(due);
            }
        }
    }

    /// Writes all that is still held back: there will be no later.
    pub fn close(&self) {
        let due = self.held().due(self.0.epoch.now(), true);
        self.write_all(due);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, due: Vec<(Said, u64)>) {
        for (said, left_out) in due {
            self.write(&said, left_out);
        }
    }

    fn write(&self, said: &Said, left_out: u64) {
        let at = dates::rfc3339(self.0.epoch.wall(self.0.epoch.now()));
        let mut line = match self.0.form {
            Form::Text { coloured } => said.as_text(&at, left_out, coloured),
            Form::Json => said.as_json(&at, left_out),
        };
        line.push('\n');
        (self.0.write)(&line);
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut said = Said::of(level);
        event.record(&mut said);
        if level > Level::INFO {
            return self.write(&said, 0);
        }
        let taken = self.held().take(self.0.epoch.now(), said);
        match taken {
            Some((said, left_out)) => self.write(&said, left_out),
            None => self.0.kept.notify_one(),
        }
    }
}

/// What was said of one subject.
#[derive(Debug)]
struct Subject {
    /// Lines it may still say at once.
    left: u32,
    /// How long it waits once it has none.
    wait: Duration,
    /// When its last line was written, and what that hashes to.
    at: Moment,
    last: u64,
    /// The latest line that was left out since, and how many were.
    since: Option<(Said, u64)>,
}

impl Subject {
    fn new() -> Self {
        Self {
            left: LINES,
            wait: AGAIN,
            at: Moment::ZERO,
            last: 0,
            since: None,
        }
    }

    fn may_speak(&self, now: Moment) -> bool {
        self.left > 0 || now.saturating_sub(self.at) >= self.wait
    }

    fn speaks(&mut self, now: Moment) {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.wait = (self.wait * 2).min(LONGEST_WAIT),
        }
        self.at = now;
    }

    fn is_over(&self, now: Moment) -> bool {
        self.since.is_none() && now.saturating_sub(self.at) >= QUIET.max(self.wait * 2)
    }
}

/// What was written, and what is held back.
#[derive(Debug, Default)]
struct Held {
    /// By what a subject hashes to.
    subjects: HashMap<u64, Subject>,
    /// Lines of the budget that are used up, as of `counted`.
    used: f64,
    counted: Moment,
    /// Lines that were left out because the budget was used up.
    dropped: u64,
}

impl Held {
    /// What to write now of what is said now, with the number of those that were left out before it.
    fn take(&mut self, now: Moment, said: Said) -> Option<(Said, u64)> {
        let (key, words) = (said.subject(), said.words_hash());
        self.make_room(now);
        let subject = self.subjects.entry(key).or_insert_with(Subject::new);
        if subject.is_over(now) {
            *subject = Subject::new();
        }
        let again = subject.last == words && now.saturating_sub(subject.at) < AGAIN;
        let before = subject.since.take().map_or(0, |(_, count)| count);
        if again || !subject.may_speak(now) {
            subject.since = Some((said, before + 1));
            return None;
        }
        subject.speaks(now);
        subject.last = words;
        if !self.pay(now) {
            self.dropped += before + 1;
            return None;
        }
        Some((said, before + std::mem::take(&mut self.dropped)))
    }

    /// Whether anything is held back.
    fn keeps(&self) -> bool {
        self.subjects
            .values()
            .any(|subject| subject.since.is_some())
    }

    /// What was held back and may be written now, or all of it.
    fn due(&mut self, now: Moment, all: bool) -> Vec<(Said, u64)> {
        let mut due = Vec::new();
        for subject in self.subjects.values_mut() {
            let is_time = subject.may_speak(now) && now.saturating_sub(subject.at) >= AGAIN;
            if (all || is_time)
                && let Some((said, count)) = subject.since.take()
            {
                subject.speaks(now);
                subject.last = said.words_hash();
                // It is one of those it stands for.
                due.push((said, count - 1));
            }
        }
        due.retain(|(_, left_out)| {
            let paid = self.pay(now);
            self.dropped += if paid { 0 } else { *left_out + 1 };
            paid
        });
        due
    }

    fn pay(&mut self, now: Moment) -> bool {
        let back = now.saturating_sub(self.counted).as_secs_f64();
        self.used = (self.used - back).max(0.0);
        self.counted = now;
        let left = self.used + 1.0 <= f64::from(BURST);
        self.used += if left { 1.0 } else { 0.0 };
        left
    }

    /// Forgets what is not needed any more, and everything where that is not enough.
    fn make_room(&mut self, now: Moment) {
        if self.subjects.len() < REMEMBERED {
            return;
        }
        self.subjects.retain(|_, subject| !subject.is_over(now));
        if self.subjects.len() >= REMEMBERED {
            let lost = self.subjects.drain().filter_map(|(_, it)| it.since);
            self.dropped += lost.map(|(_, count)| count).sum::<u64>();
        }
    }
}

/// A value as it is written.
#[derive(Debug, Hash)]
enum Shown {
    /// A number or a truth value.
    Bare(String),
    /// A text that was handed over as one: in quotes.
    Quoted(String),
    /// Anything else, by its own words.
    Words(String),
}

/// What an event says, of no greater length than a line may have.
#[derive(Debug)]
struct Said {
    level: Level,
    message: String,
    fields: Vec<(&'static str, Shown)>,
    /// Bytes taken so far.
    length: usize,
}

impl Said {
    fn of(level: Level) -> Self {
        Self {
            level,
            message: String::new(),
            fields: Vec::new(),
            length: 0,
        }
    }

    /// A number that is the same for all that is said of one thing.
    fn subject(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        self.message.hash(&mut hash);
        for field in self
            .fields
            .iter()
            .filter(|(name, _)| !CHANGING.contains(name))
        {
            field.hash(&mut hash);
        }
        hash.finish()
    }

    /// A number that is the same for the same words.
    fn words_hash(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        (self.level.as_str(), &self.message, &self.fields).hash(&mut hash);
        hash.finish()
    }

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

    fn as_text(&self, at: &str, left_out: u64, coloured: bool) -> String {
        let (colour, end) = match self.level {
            _ if !coloured => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[32m", "\x1b[0m"),
            _ => ("\x1b[34m", "\x1b[0m"),
        };
        let level = self.level.as_str();
        let mut line = format!("{at} {colour}{level:>5}{end} {}", self.message);
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            _ = match value {
                Shown::Bare(words) | Shown::Words(words) => write!(line, " {name}={words}"),
                Shown::Quoted(words) => write!(line, " {name}=\"{words}\""),
            };
        }
        if left_out > 0 {
            _ = write!(line, " left_out={left_out}");
        }
        line
    }

    fn as_json(&self, at: &str, left_out: u64) -> String {
        let mut line = format!(
            "{{\"timestamp\":\"{at}\",\"level\":\"{}\",\"message\":{}",
            self.level.as_str(),
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
        if left_out > 0 {
            _ = write!(line, ",\"left_out\":{left_out}");
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

    /// The lines that `work` logs.
    fn logged(filter: &str, form: Form, work: impl FnOnce()) -> Vec<String> {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let write = move |line: &str| kept.lock().unwrap().push(line.to_owned());
        let (subscriber, _) = subscriber(filter, form, Epoch::start(), write).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    const FORMS: [Form; 2] = [Form::Text { coloured: false }, Form::Json];
    const HOSTILE: &str = "orders\u{1b}[2J\n2026-01-01 INFO forged\r\u{7f}\u{85}\u{9b}31m\u{2028}\u{202e}\u{2066}end\"";

    #[test]
    fn a_filter_that_is_none_is_an_error_that_names_it() {
        let wrong = start("outrigger=loud=er", false).err().unwrap().to_string();
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

    fn said(n: u64, state: &str) -> Said {
        let mut said = Said::of(Level::WARN);
        said.message = "service".to_owned();
        said.put("service", Shown::Bare(n.to_string()));
        said.put("state", Shown::Words(state.to_owned()));
        said
    }

    /// When something is written of one subject that says `words(second)` every second for half an hour, and the last line.
    fn half_an_hour(words: impl Fn(u64) -> String) -> (Vec<u64>, String) {
        let mut held = Held::default();
        let mut written = Vec::new();
        for second in 0..3600_u64 {
            let now = Duration::from_secs(second);
            if second < 1800 {
                let taken = held.take(now, said(1, &words(second)));
                written.extend(taken.map(|taken| (second, taken)));
            }
            written.extend(held.due(now, false).into_iter().map(|due| (second, due)));
        }
        let told: u64 = written.iter().map(|(_, (_, left_out))| left_out + 1).sum();
        assert_eq!(told, 1800, "every one is written or counted");
        let (_, (last, left_out)) = written.last().unwrap();
        let last = last.as_text("", *left_out, false);
        (written.iter().map(|(second, _)| *second).collect(), last)
    }

    #[test]
    fn what_changes_for_ever_is_said_less_and_less_often_and_its_last_word_is_said() {
        let (when, last) = half_an_hour(|second| second.to_string());
        let expected = [
            0, 1, 2, 3, 4, 5, 6, 7, 17, 37, 77, 157, 317, 637, 1237, 1837,
        ];
        assert_eq!(when, expected);
        assert!(last.contains("state=1799 left_out=561"), "{last}");
    }

    #[test]
    fn the_same_line_is_said_once_in_ten_seconds_then_less_and_less_often() {
        let (when, last) = half_an_hour(|_| "unreachable".to_owned());
        let expected = [
            0, 10, 20, 30, 40, 50, 60, 70, 80, 100, 140, 220, 380, 700, 1300, 1900,
        ];
        assert_eq!(when, expected);
        assert!(last.contains("state=unreachable left_out=498"), "{last}");
    }

    #[test]
    fn the_last_line_of_a_subject_is_the_last_thing_said_of_it() {
        let mut held = Held::default();
        let at = Duration::from_millis;
        let mut states = Vec::new();
        // A flapping service that ends well: whatever is held back, nothing older comes after something newer.
        for n in 0..100_u64 {
            let state = if n == 99 {
                "registered"
            } else {
                ["unhealthy", "registering"][n as usize % 2]
            };
            states.extend(held.take(at(n * 50), said(1, state)));
        }
        for n in 100..1000_u64 {
            states.extend(held.due(at(n * 50), false));
        }
        let (last, _) = states.last().unwrap();
        assert!(last.as_text("", 0, false).ends_with("state=registered"));
        assert_eq!(states.len(), 9);
    }

    #[test]
    fn a_subject_that_was_quiet_for_a_while_begins_anew() {
        let mut held = Held::default();
        let at = Duration::from_secs;
        for n in 0..20 {
            held.take(at(0), said(1, &n.to_string()));
        }
        assert!(held.take(at(5), said(2, "a")).is_some(), "another subject");
        assert!(held.take(at(5), said(1, "b")).is_none());
        assert_eq!(held.due(at(9), false).len(), 0);
        assert_eq!(held.due(at(10), false).len(), 1);
        assert!(held.take(at(11), said(1, "c")).is_none());
        assert_eq!(
            held.due(at(12), true).len(),
            1,
            "at the end nothing is kept"
        );
        for n in 0..u64::from(LINES) {
            let (_, left_out) = held.take(at(300), said(1, &n.to_string())).unwrap();
            assert_eq!(left_out, 0);
        }
        assert!(held.take(at(300), said(1, "d")).is_none());
    }

    #[test]
    fn what_is_asked_for_by_name_is_not_held_back() {
        let lines = logged("debug", FORMS[0], || {
            for _ in 0..20 {
                tracing::debug!("asked for by name");
                tracing::info!("once");
            }
        });
        assert_eq!(lines.len(), 21);
    }

    #[test]
    fn a_flood_of_different_subjects_ends_at_the_budget_and_is_counted() {
        let mut held = Held::default();
        let mut written = 0;
        let mut last = 0;
        // An hour, a hundred lines a second.
        for n in 0..360_000_u64 {
            let now = Duration::from_millis(n * 10);
            if let Some((_, left_out)) = held.take(now, said(n, "")) {
                written += 1;
                last = left_out;
            }
            assert!(held.subjects.len() <= REMEMBERED);
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
