//! Readiness, status line and watchdog for systemd, when the environment asks for them (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).

use sd_notify::NotifyState;
use std::time::Duration;

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

/// Says that the loops make progress.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be called: half of what the unit's `WatchdogSec` allows; `None` when nobody watches.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing; a supervisor that does not listen is no reason to stop working.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
