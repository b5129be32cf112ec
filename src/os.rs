//! The operating system: addresses, watches, signals, systemd; each file one mechanism with typed errors.

pub mod address;
pub mod application;
pub mod children;
pub mod command;
pub mod confine;
mod in_place;
pub mod input;
mod keeping;
pub mod ourselves;
pub mod process;
pub mod publish;
pub mod rights;
pub mod signals;
pub mod state;
pub mod systemd;
pub mod versions;
pub mod watch;
pub mod way;
