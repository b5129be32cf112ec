//! What an operator writes: YAML in, typed and complete values out, every mistake with its place and the next step.
//!
//! Two stages: `yaml` makes a tree that knows its places, a reader takes typed values out of it and collects what is wrong.
//! [`parse()`] and [`read_settings`] answer either everything, complete with defaults, or every problem at once; what several
//! files have in common is looked at afterwards, by [`conflicts()`].

mod conflicts;
mod directory;
mod parse;
mod reader;
pub mod settings;
mod settings_file;
mod sources;
pub mod spec;
mod subscriptions;
mod url;
mod variables;

pub use conflicts::conflicts;
pub use directory::{File, read_directory};
pub use parse::parse;
pub use settings_file::read_settings;
pub use url::listed_server;
pub use variables::from_environment;

use std::{collections::BTreeMap, path::PathBuf};

/// The settings of an agent that has neither a file nor a variable: what a descriptor is read with that nobody runs yet.
///
/// # Errors
/// None is known.
pub fn without_a_file() -> Result<settings::Settings, Vec<crate::report::Problem>> {
    let nowhere = std::path::Path::new("outrigger.yaml");
    settings_file::resolve(nowhere, None, &Flags::default(), &Surroundings::default())
}

/// What the agent was started in; read once, in `cli`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The effective user is 0: commands must say as whom they run, and descriptors must be root's.
    pub privileged: bool,
    /// The effective user.
    pub uid: u32,
}

#[cfg(test)]
impl Surroundings {
    /// An unprivileged process with these variables and no others.
    fn with(variables: &[(&str, &str)]) -> Self {
        Self {
            env: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Self::default()
        }
    }
}

/// What the command line says about settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--conf-dir`.
    pub conf_dir: Option<PathBuf>,
}
