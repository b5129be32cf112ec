//! The embedded registry behind `outrigger dev`: Nacos' HTTP v1 with the manners of 2.5.1, 1.4.8 or 3.0.3.
//!
//! For development and tests, and for one host without a Nacos server. What is pure is apart: `naming` (services and instances),
//! `beat_check` (who fell silent), `config` (configurations), `long_poll` (who waits for a change). [`desk`] is the four as one
//! machine: requests in, answers out. `like` is the table of what
//! differs between generations; `forms`, `call`, `refusal` and `listing` are the language of requests and answers, `naming_calls`,
//! `config_calls`, `console_calls` and `admin_calls` the calls themselves. `links` (who is connected over gRPC) and `pushes` (who is told of
//! what, until he says so) are machines too, and `rpc_calls`, `rpc_naming` and `rpc_config` are gRPC's requests. `keeper` wakes the
//! desk when something is due; `http` and `grpc` are the only files with a socket. What outlives the process are the rows of `kept`; `gate` holds what tells of a
//! change until `store` has it on disk.
//!
//! The door is closed unless opened: it listens on loopback only, answers only to `Host`s that are its own, and to no web page
//! from elsewhere.

mod admin_calls;
mod admin_config_calls;
mod admin_naming_calls;
mod beat_check;
mod call;
mod checker;
mod checks;
mod client_calls;
mod config;
mod config_calls;
mod config_console_calls;
mod config_parts;
mod config_shown;
mod console_calls;
pub mod desk;
mod faults;
mod forms;
mod gate;
mod grpc;
mod history;
mod http;
mod keeper;
mod kept;
mod late;
mod like;
mod links;
mod listing;
mod long_poll;
mod naming;
mod naming_calls;
mod prober;
mod pushes;
mod refusal;
mod rpc_calls;
mod rpc_config;
mod rpc_naming;
mod state;
mod store;
mod v2_config_calls;

pub use call::Answer;
pub use call::Request;
pub use checks::CheckRules;
pub use checks::Interval;
pub use desk::Desk;
pub use http::Running;
pub use http::start;
pub use like::Like;
pub use state::PUSH_DELAY;
pub use store::LOOKER;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    /// How long changes of a service are gathered before its subscribers are told over gRPC ([`PUSH_DELAY`]).
    pub push_delay: Duration,
    /// By which rules the health of persistent instances is checked; `None`: not at all, and nobody can change that.
    pub checks: Option<CheckRules>,
    /// Whether `POST /outrigger/faults` switches faults on; else it is no path at all.
    pub faults: bool,
    /// Where it keeps what outlives it, an absolute path; else everything is in memory alone.
    pub data_dir: Option<PathBuf>,
}

/// Why the data directory cannot be used.
pub use store::Error as StoreError;

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
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no port for gRPC above that for HTTP.
    #[error(
        "{0} leaves no port for gRPC, which is 1000 above: listen at port 64535 or below it (or without gRPC, --like 1.4)"
    )]
    NoGrpcPort(SocketAddr),
    /// The address for gRPC is taken.
    #[error(
        "cannot listen on {grpc}, the gRPC port that clients expect 1000 above {http}: free it, or choose another port (--listen), or do without gRPC (--like 1.4)"
    )]
    BindGrpc {
        /// The address for HTTP, which was free.
        http: SocketAddr,
        /// The address for gRPC.
        grpc: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
