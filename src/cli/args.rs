//! The words of the command line; their help is what `--help` prints.

use super::demo;
use crate::agent::application::OnChange;
use crate::os::signals;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

/// The sidecar for services that have no Nacos SDK
///
/// Registers the applications of this host in a Nacos registry, beats for them, watches their health,
/// and turns configurations and lists of instances into files. Try `outrigger demo`.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    // Lines as they are written here: clap wraps none without a crate more.
    verbatim_doc_comment,
    disable_help_subcommand = true
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Be the agent, in the foreground
    Run {
        #[command(flatten)]
        files: Files,
        /// Do nothing, and say what would be written and registered
        #[arg(long)]
        shadow: bool,
    },
    /// Be the agent and run the application: for containers without a sidecar
    Exec(Exec),
    /// Be a Nacos registry for this machine; with --conf-dir the agent too
    Dev(Dev),
    /// Watch the whole job being done with real processes; needs nothing
    Demo {
        /// Stay up at the end, until Ctrl-C
        #[arg(long)]
        stay: bool,
    },
    /// The legacy application of the tour
    #[command(hide = true)]
    DemoApp(demo::app::App),
    /// Say what is wrong with settings and descriptors: everything, with places
    Check(Files),
    /// Fetch, validate and write every file once: for init containers and cron
    Once {
        #[command(flatten)]
        files: Files,
        /// Give up after this long
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
        timeout: Duration,
        /// Write nothing: compare, and say what would change; 1 when anything would
        #[arg(long)]
        shadow: bool,
    },
    /// Show what is true now
    Status {
        #[command(flatten)]
        files: Files,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
        /// Again and again, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Say in words what is wanted, what is true, why they differ and what to do
    Explain {
        #[command(flatten)]
        files: Files,
        /// Language; else from LANG
        #[arg(long, value_enum, global = true)]
        lang: Option<Lang>,
        #[command(subcommand)]
        what: Option<Subject>,
    },
    /// Take everything out of the registry and keep running
    Drain {
        #[command(flatten)]
        files: Files,
        /// How long to wait until the registry has confirmed
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
        timeout: Duration,
    },
    /// Take what the registry lists now, where the guard holds it
    Release {
        #[command(flatten)]
        files: Files,
        #[command(subcommand)]
        what: Holding,
    },
    /// Try a file again at once: what was taken back, rejected or failed
    Retry {
        #[command(flatten)]
        files: Files,
        /// Its path, as the descriptor has it
        path: PathBuf,
    },
    /// Print a descriptor made of files of confd, Consul and consul-template
    Import {
        /// Files, or directories with them
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Become a command that may only look
    #[command(hide = true)]
    Confine {
        /// Seconds that it may compute
        #[arg(long)]
        cpu: u64,
        /// Where it may write
        #[arg(long)]
        temp: PathBuf,
        /// Program and arguments
        #[arg(last = true, required = true)]
        words: Vec<OsString>,
    },
    /// Print completions for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Debug, Default, ClapArgs)]
pub(super) struct Files {
    /// Settings [default: /etc/outrigger/outrigger.yaml, which may be absent]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// Directory of descriptors [default: conf.d beside the settings]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) conf_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Exec {
    #[command(flatten)]
    pub(super) files: Files,
    /// Wait so long for the required files, then give up with 69
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub(super) wait: Duration,
    /// Lines NAME=VALUE of this target (data id or path) become variables
    #[arg(long, value_name = "TARGET")]
    pub(super) env_from: Vec<String>,
    /// Only these variables come from there; ORDERS_* is all that begin so
    #[arg(long, value_name = "NAME", requires = "env_from")]
    pub(super) env_name: Vec<String>,
    /// On a change: restart (default with --env-from), signal:NAME, none
    #[arg(long, value_name = "WHAT", value_parser = on_change)]
    pub(super) on_change: Option<OnChange>,
    /// Stop the application by this signal [default: as it came]
    #[arg(long, value_name = "NAME", value_parser = signals::number)]
    pub(super) stop_signal: Option<i32>,
    /// Kill it when it has not ended so long after that
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(super) kill_after: Duration,
    /// The application and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Dev {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8848")]
    pub(super) listen: SocketAddr,
    /// Listen beyond loopback, open to everybody who can reach it
    #[arg(long)]
    pub(super) open: bool,
    /// Ask who somebody is: a file of users [env: OUTRIGGER_DEV_AUTH]
    #[arg(long, value_name = "FILE")]
    pub(super) auth: Option<PathBuf>,
    /// A further name this registry may be asked by; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) allow_host: Vec<String>,
    /// The Nacos it behaves like
    #[arg(long, value_enum, value_name = "NACOS", default_value_t)]
    pub(super) like: Generation,
    /// Keep what outlives a restart in DIR; else all is in memory
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// How long changes of a service wait for one gRPC push
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = time)]
    pub(super) push_delay: Duration,
    /// Check the health of no persistent instance
    #[arg(long)]
    pub(super) no_checks: bool,
    /// Fail on request: POST /outrigger/faults, for tests of clients
    #[arg(long)]
    pub(super) faults: bool,
    #[command(flatten)]
    pub(super) files: Files,
}

/// A generation of Nacos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Generation {
    #[value(name = "1.4")]
    V1_4,
    #[default]
    #[value(name = "2.5")]
    V2_5,
    #[value(name = "3.0")]
    V3_0,
}

/// What is to be explained.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Subject {
    /// A service
    Service {
        /// Its name
        name: String,
    },
    /// A configuration
    Config {
        /// Its data id
        data_id: String,
    },
    /// The instances of a service as a file
    Subscription {
        /// Name of the service
        name: String,
    },
    /// Which address is registered, and why
    Address,
}

/// What can be released.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Holding {
    /// The instances of a service
    Subscription {
        /// Name of the service
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Lang {
    En,
    Zh,
}

/// `restart`, `signal:HUP`, `none`.
fn on_change(text: &str) -> Result<OnChange, String> {
    match text.split_once(':') {
        Some(("signal", name)) => signals::number(name).map(OnChange::Signal),
        None if text == "restart" => Ok(OnChange::Restart),
        None if text == "none" => Ok(OnChange::Nothing),
        _ => Err("write restart, signal:HUP (or another signal) or none".to_owned()),
    }
}

/// `500ms`, `60s`, `2m`, `1h`.
fn time(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or("a time needs a unit: 500ms, 60s, 2m, 1h")?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| "not a time: write 500ms, 60s, 2m or 1h")?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("unknown unit: ms, s, m and h are known".to_owned()),
    };
    number
        .checked_mul(factor)
        .filter(|ms| (1..=86_400_000).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "a time from 1ms to 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_words_make_sense_to_clap() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for wrong in [
            "5",
            "s",
            "0s",
            "5d",
            "-1s",
            "99999999999999999999s",
            "1000h",
        ] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
