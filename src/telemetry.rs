//! Logs: one line per change of state, as text or JSON, to standard error; what comes from outside is escaped before it gets here.

use std::io::IsTerminal as _;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::ParseError, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

/// Starts logging to standard error: `filter` as `RUST_LOG` takes it (`info`, `outrigger=debug`).
///
/// Libraries are held at `warn` (their `debug` and `trace` show headers, and with them tokens) unless the filter is more quiet.
///
/// # Errors
/// When the filter cannot be read. A second call changes nothing.
pub fn start(filter: &str, json: bool) -> Result<(), ParseError> {
    let wanted = EnvFilter::builder().parse(filter)?;
    let ours = tracing_subscriber::filter::filter_fn(|meta| {
        meta.target().starts_with("outrigger") || *meta.level() <= tracing::Level::WARN
    });
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let layer = if json {
        format.json().flatten_event(true).boxed()
    } else {
        format.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    // An error means that a subscriber is there already: tests start several agents in one process.
    _ = registry()
        .with(layer.with_filter(wanted).with_filter(ours))
        .try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_an_error_that_names_it() {
        let wrong = start("outrigger=loud=er", false).unwrap_err().to_string();
        assert!(!wrong.is_empty());
    }
}
