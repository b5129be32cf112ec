//! Readiness, status line and watchdog for systemd, when the environment asks for them (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).

use sd_notify::NotifyState;
use tokio::time::{Interval, interval};

/// Says that the agent is up: descriptors are read and the registry client runs.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the agent is leaving.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// Says that the loops make progress, as often as the unit's `WatchdogSec` asks for; never where nobody watches.
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// Begins with the first call of [`Watchdog::alive`].
    #[must_use]
    pub fn start() -> Self {
        // Twice in the time allowed, so that one late turn of the loop is no alarm.
        Self(sd_notify::watchdog_enabled().map(|limit| interval(limit / 2)))
    }

    /// Waits until it is due, then says so. To be called from the loop whose progress is meant; may be dropped at any time.
    pub async fn alive(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing; a supervisor that does not listen is no reason to stop working.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
