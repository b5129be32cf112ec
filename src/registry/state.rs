//! What the registry knows: its stores and its machines, as the desk keeps them and the calls read and change them.

use crate::machine::Machine as _;
use crate::machine::Moment;
use crate::nacos::model::ServiceKey;
use crate::registry::beat_check::BeatCheck;
use crate::registry::checks;
use crate::registry::checks::Checks;
use crate::registry::config::Configs;
use crate::registry::kept;
use crate::registry::kept::Before;
use crate::registry::kept::Change;
use crate::registry::kept::Kept;
use crate::registry::kept::Key;
use crate::registry::kept::Rows;
use crate::registry::kept::Written;
use crate::registry::like::Like;
use crate::registry::links::Link;
use crate::registry::links::Links;
use crate::registry::long_poll::LongPoll;
use crate::registry::model::ConfigKey;
use crate::registry::model::Reader;
use crate::registry::namespaces::Namespaces;
use crate::registry::naming::Naming;
use crate::registry::naming::Place;
use crate::registry::page_wait::PageWait;
use crate::registry::pushes::Manner;
use crate::registry::pushes::Pushes;
use crate::registry::refusal::Refusal;
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
    /// Whether callers are asked who they are.
    pub(crate) asks: bool,
    pub(crate) switches: Switches,
    /// The switches when nobody has changed one.
    pub(crate) delivered: Switches,
    pub(crate) namespaces: Namespaces,
    /// Which of these two is not what it was, since that was asked last.
    written: Written,
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
            asks: false,
            switches: Switches::default(),
            delivered: Switches::default(),
            namespaces: Namespaces::default(),
            written: Written::default(),
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

impl State {
    /// From now on [`State::take_written`] tells what has changed.
    pub(crate) fn note_changes(&mut self) {
        self.written.begin();
        self.naming.note_changes();
        self.configs.note_changes();
    }

    /// The namespaces or the switches are about to change.
    pub(crate) fn touch(&mut self, key: Key) {
        if self.written.is_noted() {
            let there = self.row(&key);
            self.written.touch(|| key, |_| there);
        }
    }

    /// What a row holds that is neither of services nor of configurations.
    fn row(&self, key: &Key) -> Option<Kept> {
        match key {
            Key::Namespaces => {
                let some = !self.namespaces.is_empty();
                some.then(|| Kept::Namespaces(self.namespaces.clone()))
            }
            Key::Switches => {
                let some = self.switches != self.delivered;
                some.then(|| Kept::Switches(Box::new(self.switches.clone())))
            }
            _ => None,
        }
    }

    /// Makes a row hold this.
    fn put(&mut self, now: Moment, key: &Key, kept: Option<Kept>) {
        match (key, &kept) {
            (Key::Namespaces, Some(Kept::Namespaces(kept))) => self.namespaces.clone_from(kept),
            (Key::Namespaces, _) => self.namespaces = Namespaces::default(),
            (Key::Switches, kept) => {
                self.switches = match kept {
                    Some(Kept::Switches(kept)) => kept.recalled(),
                    _ => self.delivered.clone(),
                };
                let rules = self.switches.check_rules(self.checks.rules());
                self.checks.handle(now, checks::Event::Ruled(rules));
            }
            _ => {}
        }
        self.configs.take_in(now, key, kept);
    }

    /// The rows that have changed since this was asked last.
    pub(crate) fn take_written(&mut self) -> Vec<Change> {
        let touched = self.written.take();
        let own = kept::changes(touched, |key| self.row(key));
        let mut written: Vec<Change> = own.collect();
        written.extend(self.naming.take_written());
        written.extend(self.configs.take_written());
        written
    }

    /// Takes in what was kept.
    pub(crate) fn take_in(&mut self, now: Moment, rows: &Rows) -> Result<(), Refusal> {
        for (key, kept) in rows {
            self.naming.take_in(now, key, Some(kept.clone()))?;
            self.put(now, key, Some(kept.clone()));
        }
        Ok(())
    }

    /// All rows.
    pub(crate) fn rows(&self) -> Rows {
        let mut rows = self.naming.rows();
        for key in [Key::Namespaces, Key::Switches] {
            rows.extend(self.row(&key).map(|kept| (key, kept)));
        }
        rows.extend(self.configs.rows());
        rows
    }

    /// What has to change in these rows for them to be the rows.
    pub(crate) fn differs_from(&self, rows: Rows) -> Vec<Change> {
        let mut now = self.rows();
        let changes = rows.into_iter().filter_map(|(key, was)| {
            let is = now.remove(&key);
            (is.as_ref() != Some(&was)).then_some(Change {
                key,
                was: Some(was),
                is,
            })
        });
        let mut changes: Vec<Change> = changes.collect();
        changes.extend(now.into_iter().map(|(key, is)| Change {
            key,
            was: None,
            is: Some(is),
        }));
        changes
    }

    /// Makes rows what they were.
    pub(crate) fn take_back(&mut self, now: Moment, rows: Before) -> Result<(), Refusal> {
        for (key, was) in rows {
            self.naming.take_back(now, &key, was.clone())?;
            self.put(now, &key, was);
        }
        Ok(())
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
