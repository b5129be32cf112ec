//! What a person types: words in, one exit code out. The environment is read here and nowhere else.

mod args;
mod ask;
mod check;
pub mod demo;
mod exec;
mod explain;
mod import;
mod once;
mod run;
mod shadow;
mod table;
mod text;
mod users;

use crate::descriptor::{Flags, Surroundings};
use crate::foreign;
use crate::os::application;
use crate::os::confine::become_command;
use crate::os::ourselves;
use crate::os::ourselves::Inherited;
use crate::registry;
use crate::report;
use crate::report::Problem;
use args::{Args, Holding, Verb};
use clap::{CommandFactory as _, Parser as _};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    panic::PanicHookInfo,
    process::ExitCode,
    time::Duration,
};

/// How a command ends; the numbers are the product's contract (`sysexits.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Done.
    Done = 0,
    /// What would be written differs from what is there.
    Differs = 1,
    /// Wrong use of the command line.
    Usage = 64,
    /// A descriptor is wrong.
    Descriptor = 65,
    /// The registry, or the agent, was required and could not be reached.
    Unavailable = 69,
    /// A bug of ours.
    Bug = 70,
    /// The settings are wrong.
    Settings = 78,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(end as u8)
    }
}

/// Runs the program with the words and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    let closed = ourselves::close_to_others();
    let inherited = Inherited::note();
    std::panic::set_hook(Box::new(|panic| {
        if std::thread::current().name() != Some(registry::LOOKER) {
            complain(&place_of(panic));
        }
    }));
    if let Err(error) = closed {
        complain(&format!(
            "outrigger: cannot keep its memory to itself: {error}\n"
        ));
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(refused) => {
            // Help and version come this way too, and go to standard output.
            _ = refused.print();
            let end = if refused.use_stderr() {
                End::Usage
            } else {
                End::Done
            };
            return end.into();
        }
    };
    let around = surroundings();
    match args.verb {
        Verb::Exec(words) => exec::exec(words, around, inherited, ours_alone()),
        verb => dispatch(verb, around, inherited).into(),
    }
}

/// A panic without its payload, which may hold what must not be printed.
fn place_of(panic: &PanicHookInfo<'_>) -> String {
    let place = panic
        .location()
        .map_or_else(String::new, |place| format!(" at {place}"));
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let trace = Backtrace::capture();
    let trace = match trace.status() {
        BacktraceStatus::Captured => format!("{trace}\n"),
        _ => String::new(),
    };
    format!("outrigger: a bug of ours: panic{place}, in thread {thread}\n{trace}")
}

fn dispatch(verb: Verb, around: Surroundings, inherited: Inherited) -> End {
    match verb {
        // Its code may be that of another program.
        Verb::Exec(_) => End::Bug,
        Verb::Run {
            files,
            shadow: true,
        } => shadow::shadow(&flags(files), around, inherited, None),
        Verb::Run { files, .. } => run::run(&flags(files), around, inherited),
        Verb::Dev(dev) => run::dev(dev, around, inherited),
        Verb::Demo { stay } => tour(stay, &around),
        Verb::DemoApp(app) => match demo::app::serve(&app) {
            Ok(()) => End::Done,
            Err(error) => fail(End::Bug, &error),
        },
        Verb::Check(files) => check::check(&flags(files), &around),
        Verb::Once {
            files,
            timeout,
            shadow: true,
        } => shadow::shadow(&flags(files), around, inherited, Some(timeout)),
        Verb::Once { files, timeout, .. } => once::once(&flags(files), around, inherited, timeout),
        Verb::Status { files, json, watch } => table::status(&flags(files), &around, json, watch),
        Verb::Explain { files, what, lang } => {
            explain::explain(&flags(files), &around, what.as_ref(), lang)
        }
        Verb::Drain { files, timeout } => ask::drain(&flags(files), &around, timeout),
        Verb::Release {
            files,
            what: Holding::Subscription { name },
        } => ask::release(&flags(files), &around, &name),
        Verb::Import { paths } => import::import(&paths),
        Verb::Retry { files, path } => ask::retry(&flags(files), &around, &path),
        Verb::Confine { cpu, temp, words } => {
            let cpu = Duration::from_secs(cpu);
            fail(End::Unavailable, &become_command(&words, &temp, cpu))
        }
        Verb::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut offered(), "outrigger", &mut out);
            print(&String::from_utf8_lossy(&out));
            End::Done
        }
    }
}

/// The words that are shown to a person; completions would offer the hidden ones too.
fn offered() -> clap::Command {
    let all = Args::command();
    let shown = all.get_subcommands().filter(|verb| !verb.is_hide_set());
    clap::Command::new("outrigger")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommands(shown.cloned())
}

/// The one place where the environment is read.
#[expect(clippy::disallowed_methods, reason = "this is that place")]
fn surroundings() -> Surroundings {
    let uid = nix::unistd::geteuid().as_raw();
    // A variable that is not UTF-8 is none of ours: ours are looked up by name and would be missed loudly.
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Surroundings {
        env,
        privileged: uid == 0,
        uid,
    }
}

/// Variables that no application inherits from us.
#[expect(clippy::disallowed_methods, reason = "the same place")]
fn ours_alone() -> Vec<OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names
        .filter(|name| application::is_ours_alone(name))
        .collect()
}

fn flags(files: args::Files) -> Flags {
    Flags {
        config: files.config,
        conf_dir: files.conf_dir,
    }
}

fn tour(stay: bool, around: &Surroundings) -> End {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return fail(End::Bug, &error),
    };
    let tour = demo::Tour {
        program,
        temp: around
            .env
            .get("TMPDIR")
            .map_or_else(|| "/tmp".into(), Into::into),
        stay,
        colour: colour(&io::stdout(), around),
    };
    match demo::demo(&tour) {
        Ok(()) => End::Done,
        Err(error) => fail(End::Bug, &error),
    }
}

/// Whether what goes to `out` may be coloured: a terminal that can, and nobody said no.
fn colour(out: &impl io::IsTerminal, around: &Surroundings) -> bool {
    let set = |name: &str| around.env.get(name).is_some_and(|value| !value.is_empty());
    out.is_terminal()
        && !set("NO_COLOR")
        && around.env.get("TERM").is_none_or(|term| term != "dumb")
}

/// To standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// To standard error.
fn complain(text: &str) {
    // There is nowhere left to say that this failed.
    _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints an error with all its causes, as one line.
fn fail(end: End, error: &dyn std::error::Error) -> End {
    let mut line = format!("outrigger: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        line = format!("{line}: {inner}");
        cause = inner.source();
    }
    complain(&format!("{}\n", foreign::harmless(&line)));
    end
}

/// Prints every problem of the settings.
fn refuse_settings(problems: &[Problem], around: &Surroundings) -> End {
    let colour = io::stderr().is_terminal() && colour(&io::stderr(), around);
    complain(&report::render_all(problems, 1, 1, colour));
    End::Settings
}

/// A runtime of one thread: one pod, one thread.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Reading files, validators and the like; they are few and short.
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_panic_prints_its_place_and_no_payload() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (before, heard) = (Arc::new(std::panic::take_hook()), Arc::clone(&said));
        let others = Arc::clone(&before);
        std::panic::set_hook(Box::new(move |panic| {
            // Other tests may panic meanwhile.
            if std::thread::current().name() == Some("the one that panics") {
                heard.lock().unwrap().push(place_of(panic));
            } else {
                others(panic);
            }
        }));
        let panics = std::thread::Builder::new().name("the one that panics".to_owned());
        let ended = panics
            .spawn(|| panic!("accessToken={}", "canary"))
            .unwrap()
            .join();
        std::panic::set_hook(Box::new(move |panic| before(panic)));
        assert!(ended.is_err());
        let said = said.lock().unwrap().join("\n");
        assert!(
            said.starts_with("outrigger: a bug of ours: panic at src/cli.rs:")
                && said.contains("in thread the one that panics")
                && !said.contains("canary"),
            "{said}"
        );
    }
}
