//! What the registry knows: its stores and its machines, as the desk keeps them and the calls read and change them.

use crate::nacos::model::ServiceKey;
use crate::registry::access::Access;
use crate::registry::beat_check::BeatCheck;
use crate::registry::checks::Checks;
use crate::registry::config::ConfigKey;
use crate::registry::config::Configs;
use crate::registry::config::Reader;
use crate::registry::like::Like;
use crate::registry::links::Link;
use crate::registry::links::Links;
use crate::registry::long_poll::LongPoll;
use crate::registry::namespaces::Namespaces;
use crate::registry::naming::Naming;
use crate::registry::naming::Place;
use crate::registry::page_wait::PageWait;
use crate::registry::pushes::Manner;
use crate::registry::pushes::Pushes;
use crate::registry::rendered::Rendered;
use crate::registry::switches::Switches;
use crate::registry::udp;
use crate::registry::udp::Udp;
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
    /// Where people are let in; `None` when everybody is.
    pub(crate) access: Option<Access>,
    pub(crate) switches: Switches,
    pub(crate) namespaces: Namespaces,
    pub(crate) naming: Naming,
    /// Lists as they were written.
    pub(crate) rendered: Rendered,
    pub(crate) beats: BeatCheck<Who>,
    pub(crate) checks: Checks<Who>,
    pub(crate) configs: Configs,
    pub(crate) polls: LongPoll,
    /// Open pages.
    pub(crate) pages: PageWait,
    /// Who is connected over gRPC.
    pub(crate) links: Links,
    /// As whom clients read configurations over gRPC.
    pub(crate) readers: BTreeMap<Link, Reader>,
    /// Subscribers of services; said are the clusters.
    pub(crate) subscribers: Pushes<ServiceKey>,
    /// Subscribers of services over UDP.
    pub(crate) udp: Udp,
    /// Listeners of configurations over gRPC; said is the tenant.
    pub(crate) listeners: Pushes<ConfigKey>,
}

impl State {
    /// Nothing is known.
    pub(crate) fn new(like: Like) -> Self {
        Self {
            like,
            port: PORT,
            access: None,
            switches: Switches::default(),
            namespaces: Namespaces::default(),
            naming: Naming::new(like),
            rendered: Rendered::default(),
            beats: BeatCheck::new(),
            checks: Checks::never(),
            configs: Configs::default(),
            polls: LongPoll::default(),
            pages: PageWait::default(),
            links: Links::new(),
            readers: BTreeMap::new(),
            subscribers: subscribers(PUSH_DELAY),
            udp: subscribers_over_udp(like, PUSH_DELAY),
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

/// Nobody subscribes over UDP; changes of a service are gathered for `delay`.
pub(crate) fn subscribers_over_udp(like: Like, delay: Duration) -> Udp {
    let apart = like.manners().subscribes_by_list;
    Udp::new(udp::Manner {
        delay,
        greets: !apart,
        apart,
    })
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
