//! What the agent needs of the system: files that are replaced at once, commands with an end, signals that hit the right process.

pub mod command;
pub mod process;
pub mod publish;
