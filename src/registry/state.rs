//! What the registry knows: its stores and its machines, as the desk keeps them and the calls read and change them.

use crate::nacos::model::ServiceKey;
use crate::registry::beat_check::BeatCheck;
use crate::registry::checks::Checks;
use crate::registry::config::ConfigKey;
use crate::registry::config::Configs;
use crate::registry::config::Reader;
use crate::registry::like::Like;
use crate::registry::links::Link;
use crate::registry::links::Links;
use crate::registry::long_poll::LongPoll;
use crate::registry::naming::Naming;
use crate::registry::naming::Place;
use crate::registry::pushes::Manner;
use crate::registry::pushes::Pushes;
use std::{collections::BTreeMap, time::Duration};

/// The port that it says it is reached at, unless told another.
const PORT: u16 = 8848;

/// How long changes of a service are gathered before its subscribers are told, unless told another; the original takes 500 ms.
pub const PUSH_DELAY: Duration = Duration::from_millis(10);

/// An instance: an ephemeral one for the beat check, a persistent one for the server's own checks.
pub(crate) type Who = (ServiceKey, Place);

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) like: Like,
    pub(crate) port: u16,
    pub(crate) naming: Naming,
    pub(crate) beats: BeatCheck<Who>,
    pub(crate) checks: Checks<Who>,
    pub(crate) configs: Configs,
    pub(crate) polls: LongPoll,
    /// Who is connected over gRPC.
    pub(crate) links: Links,
    /// As whom clients read configurations over gRPC.
    pub(crate) readers: BTreeMap<Link, Reader>,
    /// Subscribers of services; said are the clusters.
    pub(crate) subscribers: Pushes<ServiceKey>,
    /// Listeners of configurations over gRPC; said is the tenant.
    pub(crate) listeners: Pushes<ConfigKey>,
}

impl State {
    /// Nothing is known.
    pub(crate) fn new(like: Like) -> Self {
        Self {
            like,
            port: PORT,
            naming: Naming::new(like),
            beats: BeatCheck::new(),
            checks: Checks::never(),
            configs: Configs::default(),
            polls: LongPoll::default(),
            links: Links::new(),
            readers: BTreeMap::new(),
            subscribers: subscribers(PUSH_DELAY),
            listeners: Pushes::new(Manner {
                delay: Duration::ZERO,
                greets: false,
                again: |tries| Duration::from_secs(3 + 2 * u64::from(tries)),
                tries: 50,
                first: 2,
            }),
        }
    }
}

/// Nobody subscribes; changes of a service are gathered for `delay`.
pub(crate) fn subscribers(delay: Duration) -> Pushes<ServiceKey> {
    Pushes::new(Manner {
        delay,
        greets: true,
        again: |_| Duration::from_secs(6),
        tries: u32::MAX,
        first: 1,
    })
}
