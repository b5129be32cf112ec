//! What the registry knows: its stores and its machines, as the desk keeps them and the calls read and change them.

use crate::nacos::model::ServiceKey;
use crate::registry::beat_check::BeatCheck;
use crate::registry::config::Configs;
use crate::registry::like::Like;
use crate::registry::long_poll::LongPoll;
use crate::registry::naming::Naming;
use crate::registry::naming::Place;

/// The port that it says it is reached at, unless told another.
const PORT: u16 = 8848;

/// An ephemeral instance, for the beat check.
pub(crate) type Who = (ServiceKey, Place);

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) like: Like,
    pub(crate) port: u16,
    pub(crate) naming: Naming,
    pub(crate) beats: BeatCheck<Who>,
    pub(crate) configs: Configs,
    pub(crate) polls: LongPoll,
}

impl State {
    /// Nothing is known.
    pub(crate) fn new(like: Like) -> Self {
        Self {
            like,
            port: PORT,
            naming: Naming::new(like),
            beats: BeatCheck::new(),
            configs: Configs::default(),
            polls: LongPoll::default(),
        }
    }
}
