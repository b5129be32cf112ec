//! Outrigger keeps one application true in a Nacos registry: registered, healthy, configured.
//!
//! Six rooms; a room imports only rooms below it (`tests/tidy.rs` holds the table, ARCHITECTURE.md has the picture):
//! [`cli`] over [`agent`] and [`registry`], both over [`nacos`], over [`descriptor`], over [`os`].
//! The other modules are one mechanism each and import no room.

pub mod agent;
pub mod authority;
pub mod backoff;
pub mod cli;
pub mod dates;
pub mod descriptor;
pub mod foreign;
pub mod machine;
pub mod metrics;
pub mod nacos;
pub mod os;
pub mod registry;
pub mod report;
pub mod secret;
pub mod tasks;
pub mod telemetry;
pub mod template;
pub mod yaml;
