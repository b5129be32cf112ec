//! What integration tests share: waiting for a condition instead of sleeping, a binary to run, ports nobody uses.

use std::time::{Duration, Instant};

/// Asks `condition` again and again until it answers `Some`, at most `within`; panics with `what` otherwise.
#[expect(
    clippy::disallowed_methods,
    reason = "a test waits in real time, with sockets and processes"
)]
#[allow(dead_code, reason = "shared by modules that use different parts")]
pub(crate) fn eventually<T>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
