//! Runs the commands of descriptors, so many at once, and tells applications of their files; says what came of it.

use crate::descriptor::spec::{Command, Process, Reload};
use crate::foreign::Foreign;
use crate::metrics::Metrics;
use crate::nacos::wire;
use crate::os::command::{self, Failure, Input, Run};
use crate::os::process::{self, Whom};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Runs commands, so many at once.
#[derive(Clone)]
pub(super) struct Commands {
    permits: Arc<Semaphore>,
    /// Where commands that were killed are counted.
    pub(super) metrics: Metrics,
}

impl Commands {
    /// Runs so many at once; counts in `metrics`.
    pub(super) fn new(count: usize, metrics: Metrics) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count)),
            metrics,
        }
    }

    /// Runs one; an error names it and has its last words.
    pub(super) async fn run(&self, command: &Command, argv: &[String]) -> Result<(), String> {
        // It is never closed, and to run one too many would be no harm.
        let _permit = self.permits.acquire().await;
        let outcome = command::run(run_of(command, argv)).await;
        outcome.map_err(|failure| self.in_words(argv, &failure))
    }

    /// Runs one that makes something of what it is given; an error names it and has its last words.
    pub(super) async fn filter(
        &self,
        command: &Command,
        input: Input<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        // As above.
        let _permit = self.permits.acquire().await;
        let outcome = command::filter(run_of(command, &command.argv), input).await;
        outcome.map_err(|failure| self.in_words(&command.argv, &failure))
    }

    fn in_words(&self, argv: &[String], failure: &Failure) -> String {
        if failure.timed_out() {
            self.metrics.command_timeouts.inc();
        }
        let program = Foreign::from(argv.first().map(String::as_str).unwrap_or_default());
        format!("{program}: {failure}")
    }
}

fn run_of<'a>(command: &'a Command, argv: &'a [String]) -> Run<'a> {
    Run {
        argv,
        timeout: command.timeout,
        run_as: command.run_as.as_deref(),
        confine: command.confine,
    }
}

/// Reloads; says how, or why not.
pub(super) async fn tell_application(
    reload: &Reload,
    commands: &Commands,
) -> Result<String, String> {
    match reload {
        Reload::Signal {
            signal,
            process,
            user,
        } => {
            let (name, process, user) = (signal.clone(), process.clone(), user.clone());
            let sent = tokio::task::spawn_blocking(move || {
                let whom = match &process {
                    Process::PidFile(path) => Whom::PidFile(path),
                    Process::Named(name) => Whom::Named(name),
                };
                process::signal(whom, user.as_deref(), &name)
            })
            .await;
            match sent {
                Ok(Ok(pid)) => Ok(format!("reloaded by {signal} to process {pid}")),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the agent is stopping".to_owned()),
            }
        }
        Reload::Exec(command) => {
            commands.run(command, &command.argv).await?;
            let program = command.argv.first().map(String::as_str).unwrap_or_default();
            Ok(format!("reloaded by {}", Foreign::from(program)))
        }
        Reload::Http {
            method,
            url,
            timeout,
        } => request(method, url, *timeout).await,
    }
}

/// Asks for a reload over HTTP. No error has the URL, which may hold a secret.
pub(super) async fn request(method: &str, url: &str, timeout: Duration) -> Result<String, String> {
    let method = reqwest::Method::from_bytes(method.as_bytes())
        .map_err(|_| format!("{} is no HTTP method", Foreign::from(method)))?;
    // Made for each reload: they are rare, and a client that is kept costs memory.
    let client = wire::http_client(timeout, url.starts_with("https:"))
        .timeout(timeout)
        .build()
        .map_err(|error| format!("no HTTP client can be made: {}", error.without_url()))?;
    let said = method.to_string();
    let answer = client.request(method, url).send().await;
    let status = answer
        .map_err(|error| {
            if error.is_timeout() {
                format!("{said}: no answer within {timeout:?}")
            } else if error.is_connect() {
                format!("{said}: no connection; is the application running?")
            } else {
                format!("{said}: {}", error.without_url())
            }
        })?
        .status();
    if status.is_success() {
        Ok(format!("reloaded by {said}, answered {}", status.as_u16()))
    } else {
        Err(format!("{said}: answered {}", status.as_u16()))
    }
}
