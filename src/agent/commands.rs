//! Commands of descriptors, so many at once; and how an application is told that its files have changed.

use crate::descriptor::spec::{Command, Process, Reload};
use crate::foreign::Foreign;
use crate::metrics::Metrics;
use crate::nacos::wire;
use crate::os::command::{self, Run};
use crate::os::process::{self, Whom};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// How many commands run at once, so that a thousand targets are no thousand processes: more than will ever hang together, because
/// those that wait are held up by those that hang.
pub(super) const COMMANDS: usize = 32;

/// Runs commands, [`COMMANDS`] at once.
#[derive(Clone)]
pub(super) struct Commands {
    pub(super) permits: Arc<Semaphore>,
    pub(super) metrics: Metrics,
}

impl Commands {
    /// Runs so many at once.
    pub(super) fn new(count: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count)),
            metrics: Metrics::default(),
        }
    }

    /// Runs one; an error names it and has its last words.
    pub(super) async fn run(&self, command: &Command, argv: &[String]) -> Result<(), String> {
        // It is never closed, and to run one too many would be no harm.
        let _permit = self.permits.acquire().await;
        let outcome = command::run(Run {
            argv,
            timeout: command.timeout,
            run_as: command.run_as.as_deref(),
        })
        .await;
        outcome.map_err(|failure| {
            if failure.timed_out() {
                self.metrics.command_timeouts.inc();
            }
            let program = Foreign::from(argv.first().map(String::as_str).unwrap_or_default());
            format!("{program}: {failure}")
        })
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
