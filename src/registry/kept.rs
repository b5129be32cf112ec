//! What outlives the process, as rows: what each is known by, and what is to be found there after a restart.
//!
//! Who changes something that has a row says so before he does ([`Written::touch`]), so that the desk can tell what was there and
//! what is there now ([`Change`]): the latter is kept, the former comes back when it cannot be kept. Whatever has no row is gone
//! after a restart: ephemeral instances, health, who listens and who is connected.
//!
//! This is the format of the store, whose version is [`VERSION`]. A field that is added has a default; whatever a former program
//! would misread or not know (another kind of row among it) takes a new version. `tests/cases/store` has a store of each.

use crate::foreign::Foreign;
use crate::nacos::model::Namespace;
use crate::nacos::model::ServiceKey;
use crate::registry::config;
use crate::registry::config::ConfigKey;
use crate::registry::config::Gray;
use crate::registry::history;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The version of the format.
pub(crate) const VERSION: u32 = 1;

/// What a row is known by. Services come before what is in them: so they are taken in in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key {
    /// What a service was told about itself.
    Service(Service),
    /// A persistent instance: address, port and cluster.
    Instance(Service, Arc<str>, u16, Arc<str>),
    /// What an operator set for an address, a port and a cluster.
    Override(Service, Arc<str>, u16, Arc<str>),
    /// The formal content of a configuration.
    Config(ConfigKey),
    /// A variant of it.
    Variant(ConfigKey, Gray),
    /// A record of the history.
    Record(u64),
}

/// Which service: namespace, group, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Service(Arc<str>, Arc<str>, Arc<str>);

impl From<&ServiceKey> for Service {
    fn from(key: &ServiceKey) -> Self {
        let namespace = key.namespace.naming_id().into();
        Self(namespace, Arc::clone(&key.group), Arc::clone(&key.name))
    }
}

impl From<&Service> for ServiceKey {
    fn from(Service(namespace, group, name): &Service) -> Self {
        Self {
            namespace: Namespace::new(namespace),
            group: Arc::clone(group),
            name: Arc::clone(name),
        }
    }
}

/// What a row holds: the same variant as that of its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    Service(Settings),
    Instance(Instance),
    Override(Override),
    Config(config::Config),
    Variant(config::Variant),
    Record(history::Record),
}

impl Kept {
    /// Whether it is what a row of that key holds.
    pub(crate) fn is_of(&self, key: &Key) -> bool {
        matches!(
            (key, self),
            (Key::Service(_), Self::Service(_))
                | (Key::Instance(..), Self::Instance(_))
                | (Key::Override(..), Self::Override(_))
                | (Key::Config(_), Self::Config(_))
                | (Key::Variant(..), Self::Variant(_))
                | (Key::Record(_), Self::Record(_))
        )
    }

    /// How many bytes it is, about.
    pub(crate) fn weight(&self) -> usize {
        const SMALL: usize = 512;
        let metadata = |all: &Metadata| {
            let one = |(key, value): (&Foreign, &Option<Foreign>)| {
                key.raw().len() + value.as_ref().map_or(0, |value| value.raw().len())
            };
            all.iter().map(one).sum::<usize>()
        };
        SMALL
            + match self {
                Self::Service(settings) => metadata(&settings.metadata),
                Self::Instance(instance) => metadata(&instance.metadata),
                Self::Override(over) => metadata(&over.metadata),
                Self::Config(config) => config.weight(),
                Self::Variant(variant) => variant.config.weight(),
                Self::Record(record) => record.config.weight(),
            }
    }
}

/// Metadata, nulls included.
type Metadata = BTreeMap<Foreign, Option<Foreign>>;

/// See [`Key::Service`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// What its instances are.
    pub(crate) persistent: bool,
    #[serde(with = "exact")]
    pub(crate) threshold: f32,
    pub(crate) metadata: Metadata,
    pub(crate) clusters: BTreeMap<Arc<str>, Cluster>,
}

/// What was said of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// As it is said in a call.
    pub(crate) checker: serde_json::Value,
    pub(crate) port: i32,
    pub(crate) instance_port: bool,
    pub(crate) metadata: Metadata,
}

/// See [`Key::Instance`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Instance {
    #[serde(with = "exact")]
    pub(crate) weight: f64,
    pub(crate) enabled: bool,
    pub(crate) metadata: Metadata,
    /// The health that was said when it was registered last.
    pub(crate) said: bool,
    pub(crate) bare: bool,
    pub(crate) without_id: bool,
}

/// See [`Key::Override`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Override {
    /// What the instances of the service are.
    pub(crate) persistent: bool,
    #[serde(with = "exact")]
    pub(crate) weight: f64,
    pub(crate) enabled: bool,
    pub(crate) metadata: Metadata,
}

/// Numbers as text, which reads as the very same number, whatever it is.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<N: Display, S: Serializer>(
        number: &N,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, N: FromStr, D: Deserializer<'de>>(
        from: D,
    ) -> Result<N, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| D::Error::custom("not a number"))
    }
}

/// All that is kept, in the order in which it is taken in.
pub(crate) type Rows = BTreeMap<Key, Kept>;
/// What some rows were; nothing for those that were not there.
pub(crate) type Before = BTreeMap<Key, Option<Kept>>;

/// A row that is not what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub(crate) key: Key,
    /// Nothing for a row that was not there.
    pub(crate) was: Option<Kept>,
    /// Nothing for a row that is gone.
    pub(crate) is: Option<Kept>,
}

// A number that does not equal itself would be written once more, which does no harm.
impl Eq for Change {}

/// What has been changed, and what was there before; it costs nothing where nothing is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    was: Option<Before>,
}

impl Written {
    /// From now on changes are noted.
    pub(crate) fn begin(&mut self) {
        self.was = Some(BTreeMap::new());
    }

    /// Whether changes are noted.
    pub(crate) fn is_noted(&self) -> bool {
        self.was.is_some()
    }

    /// A row is about to change, which holds what `look` finds.
    pub(crate) fn touch(
        &mut self,
        key: impl FnOnce() -> Key,
        look: impl FnOnce(&Key) -> Option<Kept>,
    ) {
        if let Some(was) = &mut self.was {
            let key = key();
            if !was.contains_key(&key) {
                let there = look(&key);
                was.insert(key, there);
            }
        }
    }

    /// What was noted since this was asked last: rows, and what each was.
    pub(crate) fn take(&mut self) -> Before {
        self.was.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Those rows that are not what they were.
pub(crate) fn changes(
    touched: Before,
    look: impl Fn(&Key) -> Option<Kept>,
) -> impl Iterator<Item = Change> {
    touched.into_iter().filter_map(move |(key, was)| {
        let is = look(&key);
        (was != is).then_some(Change { key, was, is })
    })
}

/// What is kept once these changes are, each of which must be one of what is there.
#[cfg(test)]
pub(crate) fn follow(rows: &mut BTreeMap<Key, Kept>, changes: Vec<Change>) {
    for Change { key, was, is } in changes {
        let there = match is {
            Some(is) => rows.insert(key, is),
            None => rows.remove(&key),
        };
        assert_eq!(there, was);
    }
}
