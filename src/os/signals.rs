//! Signals to the agent itself, as a stream of requests.

use futures_util::StreamExt as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use std::io;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `TERM` or `INT`: leave in order; the second time: at once.
    Leave,
    /// `HUP`: read settings and descriptors again.
    Reload,
}

/// Hears `TERM`, `INT` and `HUP` from its creation on; none in between is lost, though equal ones may melt into one.
pub struct Listener(Signals);

impl Listener {
    /// Starts hearing.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn start() -> io::Result<Self> {
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self)
    }

    /// The next request.
    pub async fn next(&mut self) -> Request {
        match self.0.next().await {
            Some(SIGHUP) => Request::Reload,
            Some(_) => Request::Leave,
            // The stream ends only when its handle is closed, which nobody has.
            None => std::future::pending().await,
        }
    }
}
