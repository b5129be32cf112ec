//! The one integration binary: the program as a process, and rooms joined over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and says so; it waits in real time, with sockets, files and processes"
)]

mod abuse;
mod agent;
mod answers;
mod auth;
mod bad;
mod bare;
mod checks;
mod cluster;
mod config_scenes;
mod configs;
mod durable;
mod edits;
mod exec;
mod facts;
mod faults;
mod figures;
mod files;
mod grpc;
mod guard;
mod hands;
mod hostile;
mod import;
mod lists;
mod manners;
mod modes;
mod neighbours;
mod operator;
mod over_grpc;
mod page;
mod persistent;
mod protection;
mod recorded;
mod recorded_rpc;
mod reloads;
mod rpc;
mod scenes;
mod shadow;
mod sources;
mod support;
mod switches;
#[cfg(feature = "tls")]
mod tls;
mod transaction;
mod udp;
mod v2;
mod v3;
mod words;
