//! What an operator writes: YAML in, typed and complete values out, every mistake with its place and the next step.

pub mod settings;
pub mod spec;
