//! The embedded registry behind `outrigger dev`: Nacos' HTTP v1 with the manners of 2.5.1, 1.4.8 or 3.0.3.
//!
//! For development and tests, and for one host without a Nacos server. What is pure is apart: `naming` (services and instances),
//! `beat_check` (who fell silent), `config` and `history` (configurations, and what became of them), `long_poll` (who waits for a
//! change). [`desk`] is the four as one
//! machine: requests in, answers out. `like` is the table of what
//! differs between generations, `switches` what an operator changes; `forms`, `call`, `refusal`, `listing`, `config_parts` and
//! `config_shown` are the language of requests and answers, `naming_calls`, `catalog_calls`, `config_calls`, `config_console_calls`,
//! `v2_calls`, `v2_config_calls`, `console_calls` and `admin_calls` the calls themselves. `links` (who is connected over gRPC) and `pushes` (who
//! is told of what, until he says so) and `udp` (the same of clients who speak HTTP alone) are machines too, and `rpc_calls`,
//! `rpc_naming` and `rpc_config` are gRPC's requests. `page_calls` is what the page in a browser shows, and `page_wait` (which pages
//! wait for news) a machine. `keeper` wakes the desk when something is due. `checks` decides when the
//! health of persistent instances is checked, and `prober` does it; `http`, `grpc`, `datagrams` and `prober` are the only files
//! with a socket, and `crowd` says who of many gets one.
//! What outlives the process are the rows of `kept`; `gate` holds what tells of a change until `store` has it on disk.
//!
//! Where it asks who somebody is, `users` are who may do what, `token` is what a login is given, `guesses` (who said a wrong
//! password) is a machine, and `access` decides about each call before it is carried out.
//!
//! The door is closed unless opened: it listens on loopback only, answers only to `Host`s that are its own, and to no web page
//! from elsewhere.

mod access;
mod admin_calls;
mod admin_config_calls;
mod admin_naming_calls;
mod batches;
mod beat_check;
mod call;
mod catalog_calls;
mod checker;
mod checks;
mod client_calls;
mod clients;
mod config;
mod config_calls;
mod config_console_calls;
mod config_parts;
mod config_shown;
mod console_calls;
mod crowd;
mod datagrams;
pub mod desk;
mod door;
mod faults;
mod forms;
mod gate;
mod gone;
mod grpc;
mod guesses;
mod history;
mod http;
mod keeper;
mod kept;
mod late;
mod like;
mod links;
mod listing;
mod long_poll;
mod model;
mod namespace_calls;
mod namespaces;
mod naming;
mod naming_calls;
mod page_calls;
mod page_wait;
mod prober;
mod pushes;
mod refusal;
mod rendered;
mod rows;
mod rpc_calls;
mod rpc_config;
mod rpc_naming;
mod rpc_table;
mod selector;
mod state;
mod store;
mod switches;
mod token;
mod udp;
mod users;
mod v1_calls;
mod v2_calls;
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
pub use token::Key;
pub use users::Users;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// More open files than this are of no use to it.
pub const FILES: u64 = 80_000;

/// Where and for whom the registry is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one, see [`Running::address`].
    pub listen: SocketAddr,
    /// Whether it may listen beyond loopback though it asks nobody who he is.
    pub open: bool,
    /// Who may ask it for what; without them everybody may everything.
    pub users: Option<Users>,
    /// Further names that a request's `Host` and `Origin` may have, without port.
    pub allow_hosts: Vec<String>,
    /// Whose manners it has.
    pub like: Like,
    /// How long changes of a service are gathered before its subscribers are told ([`PUSH_DELAY`]).
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
    /// The address is not loopback, there are no [`Options::users`], and [`Options::open`] was not said.
    #[error(
        "will not listen on {0}, where others could change everything: say who may (--auth FILE), or that everybody may (--open)"
    )]
    NotLoopback(SocketAddr),
    /// There is nothing to sign tokens with.
    #[error("the system gives no random bytes for a key")]
    NoKey(#[source] std::io::Error),
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
