//! Signals to the agent itself, as a stream of requests; and to whoever runs an application, as a stream of all of them.

use futures_util::StreamExt as _;
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook_tokio::Signals;
use std::io;
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `TERM` or `INT`: leave in order; the second time: at once.
    Leave,
    /// `HUP`: read settings and descriptors again.
    Reload,
}

/// Hears `TERM`, `INT` and `HUP` from its creation on; none in between is lost, though equal ones may melt into one.
pub struct Listener(Ear);

enum Ear {
    Signals(Signals),
    /// Somebody else hears them, and says what they ask for.
    Told(mpsc::Receiver<Request>),
}

impl Listener {
    /// Starts hearing.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn start() -> io::Result<Self> {
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map(|signals| Self(Ear::Signals(signals)))
    }

    /// Hears nothing but what it is told.
    #[must_use]
    pub fn told() -> (mpsc::Sender<Request>, Self) {
        let (tell, told) = mpsc::channel(4);
        (tell, Self(Ear::Told(told)))
    }

    /// The next request.
    pub async fn next(&mut self) -> Request {
        let request = match &mut self.0 {
            Ear::Signals(signals) => match signals.next().await {
                Some(SIGHUP) => Some(Request::Reload),
                Some(_) => Some(Request::Leave),
                // The stream ends only when its handle is closed, which nobody has.
                None => None,
            },
            Ear::Told(told) => told.recv().await,
        };
        match request {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// Signals that an application may be given by name.
const NAMES: [(&str, i32); 9] = [
    ("HUP", SIGHUP),
    ("INT", SIGINT),
    ("QUIT", SIGQUIT),
    ("TERM", SIGTERM),
    ("USR1", SIGUSR1),
    ("USR2", SIGUSR2),
    ("WINCH", SIGWINCH),
    ("ALRM", SIGALRM),
    ("CONT", signal_hook::consts::SIGCONT),
];

/// The number of a signal by its name without `SIG`.
///
/// # Errors
/// One sentence.
pub fn number(name: &str) -> Result<i32, String> {
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        format!("not a signal: {} are known", names.join(", "))
    })
}

/// The name of a signal, as far as it has one here.
#[must_use]
pub fn name(number: i32) -> String {
    let known = NAMES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// A signal that somebody who runs an application has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something is to be known of a child.
    Child,
    /// `TERM` or `INT`.
    Stop(i32),
    /// One that is the application's business.
    Other(i32),
}

/// Hears every signal that can be passed on, from its creation on.
pub struct AllSignals(Signals);

impl AllSignals {
    /// Starts hearing.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn start() -> io::Result<Self> {
        let all = [
            SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
        ];
        Signals::new(all).map(Self)
    }

    /// The next one.
    pub async fn next(&mut self) -> Heard {
        match self.0.next().await {
            Some(SIGCHLD) => Heard::Child,
            Some(signal @ (SIGTERM | SIGINT)) => Heard::Stop(signal),
            Some(signal) => Heard::Other(signal),
            // As above.
            None => std::future::pending().await,
        }
    }
}
