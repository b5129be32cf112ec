//! The embedded registry behind `outrigger dev`: Nacos' HTTP v1 with the manners of 2.5.1, 1.4.8 or 3.0.3, in memory.
//!
//! For development and tests, and for one host without a Nacos server. What is pure is apart: `naming` (services and instances),
//! `beat_check` (who fell silent), `config` (configurations), `long_poll` (who waits for a change). [`desk`] is the four as one
//! machine: requests in, answers out. `like` is the table of what
//! differs between generations; `forms`, `call`, `refusal` and `listing` are the language of requests and answers, `naming_calls`,
//! `config_calls`, `console_calls` and `admin_calls` the calls themselves. `keeper` wakes the desk when something is due; `http` is the only file
//! with a socket.
//!
//! The door is closed unless opened: it listens on loopback only, answers only to `Host`s that are its own, and to no web page
//! from elsewhere.

mod admin_calls;
mod admin_config_calls;
mod admin_naming_calls;
mod beat_check;
mod call;
mod client_calls;
mod config;
mod config_calls;
mod console_calls;
pub mod desk;
mod faults;
mod forms;
mod http;
mod keeper;
mod late;
mod like;
mod listing;
mod long_poll;
mod naming;
mod naming_calls;
mod refusal;
mod state;

pub use call::Answer;
pub use call::Request;
pub use desk::Desk;
pub use http::Running;
pub use http::start;
pub use like::Like;

use std::net::SocketAddr;

/// Where and for whom the registry is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one, see [`Running::address`].
    pub listen: SocketAddr,
    /// Whether it may listen beyond loopback; it knows no passwords.
    pub open: bool,
    /// Further names that a request's `Host` and `Origin` may have, without port.
    pub allow_hosts: Vec<String>,
    /// Whose manners it has.
    pub like: Like,
    /// Whether `POST /outrigger/faults` switches faults on; else it is no path at all.
    pub faults: bool,
}

/// Why the registry does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not loopback, and [`Options::open`] was not said.
    #[error(
        "will not listen on {0}: the registry knows no passwords, so beyond loopback only when opened on purpose (--open)"
    )]
    NotLoopback(SocketAddr),
    /// The address is taken, or is none of this host.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
