//! The one integration binary: the program as a process, and rooms joined over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says so"
)]

mod agent;
mod recorded;
mod support;
