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
use crate::registry::history;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::namespaces::Namespaces;
use crate::registry::selector::Selector;
use crate::registry::switches::Switches;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

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
    /// The namespaces that are listed.
    Namespaces,
    /// The switches, once an operator has changed one.
    Switches,
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
    Config(crate::registry::model::Config),
    Variant(crate::registry::model::Variant),
    Record(history::Record),
    Namespaces(Namespaces),
    Switches(Box<Switches>),
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
                | (Key::Namespaces, Self::Namespaces(_))
                | (Key::Switches, Self::Switches(_))
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
                Self::Namespaces(_) | Self::Switches(_) => SMALL,
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
    pub(crate) selector: Selector,
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
            if let Entry::Vacant(row) = was.entry(key) {
                let there = look(row.key());
                row.insert(there);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine as _;
    use crate::machine::Moment;
    use crate::registry::call::Request;
    use crate::registry::desk::Desk;
    use crate::registry::desk::Effect;
    use crate::registry::desk::Event;
    use crate::registry::desk::Fault;
    use crate::registry::like::Like;
    use crate::registry::model::Ticket;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    /// One thing that somebody may want of a registry, of few names so that they meet.
    fn request() -> impl Strategy<Value = (&'static str, String)> {
        let name = 0..3_u8;
        let place = (0..3_u8, any::<bool>(), any::<bool>(), 0..20_u32);
        let instance = (
            prop::sample::select(&["POST", "POST", "DELETE", "PUT", "PATCH"][..]),
            name.clone(),
            place,
        )
            .prop_map(|(method, name, (port, apart, ephemeral, weight))| {
                let cluster = if apart { "other" } else { "DEFAULT" };
                let weight = f64::from(weight) / 7.0;
                (method, format!("/v1/ns/instance?serviceName=s{name}&ip=10.0.0.1&port={port}&clusterName={cluster}&ephemeral={ephemeral}&weight={weight}&metadata=a%3D{port}&healthy={apart}"))
            });
        let service = (
            prop::sample::select(&["POST", "PUT", "DELETE"][..]),
            name.clone(),
            0..5_u8,
        )
            .prop_map(|(method, name, threshold)| {
                let threshold = f32::from(threshold) / 5.0;
                (method, format!("/v1/ns/service?serviceName=s{name}&protectThreshold={threshold}&metadata=a%3Db&selector=%7B%22type%22%3A%22label%22%2C%22expression%22%3A%22CONSUMER.label.a%20%3D%20PROVIDER.label.a%22%7D"))
            });
        let cluster = (name.clone(), any::<bool>()).prop_map(|(name, checked)| {
            let checker = if checked { "HTTP" } else { "NONE" };
            ("PUT", format!("/v1/ns/cluster?serviceName=s{name}&clusterName=DEFAULT&checkPort=1&useInstancePort4Check=false&healthChecker=%7B%22type%22%3A%22{checker}%22%7D"))
        });
        let config = (
            prop::sample::select(&["POST", "POST", "DELETE"][..]),
            name,
            0..3_u8,
            0..9_u8,
        )
            .prop_map(|(method, name, variant, content)| {
                let variant = match variant {
                    0 => "&tag=blue",
                    1 => "&desc=words&config_tags=x,y&type=yaml",
                    _ => "",
                };
                (
                    method,
                    format!("/v1/cs/configs?dataId=c{name}&group=g&content={content}{variant}"),
                )
            });
        let switch = any::<bool>().prop_map(|on| {
            (
                "PUT",
                format!("/v1/ns/operator/switches?entry=pushEnabled&value={on}"),
            )
        });
        let namespace = (0..2_u8).prop_map(|id| {
            (
                "POST",
                format!(
                    "/v1/console/namespaces?customNamespaceId=n{id}&namespaceName=n&namespaceDesc=d"
                ),
            )
        });
        prop_oneof![1 => switch, 1 => namespace, 4 => instance, 1 => service, 1 => cluster, 2 => config]
    }

    /// The changes that come of an event.
    fn happens(desk: &mut Desk, now: Moment, event: Event) -> Vec<Change> {
        desk.handle(now, event);
        let mut changes = Vec::new();
        let mut answered = false;
        while let Some(effect) = desk.effect() {
            match effect {
                Effect::Keep(all) => {
                    assert!(!answered, "what comes after it waits for it");
                    changes.extend(all);
                }
                Effect::Answer(..) => answered = true,
                _ => {}
            }
        }
        changes
    }

    fn asked((method, target): (&str, String)) -> Event {
        Event::Asked {
            ticket: Ticket(0),
            at: UNIX_EPOCH,
            request: Request::new(method, &target, [("betaIps", "")], ""),
        }
    }

    /// What readers see.
    fn seen(desk: &mut Desk, now: Moment) -> Vec<String> {
        let mut seen = Vec::new();
        for name in 0..3 {
            for what in [
                format!("/v1/ns/instance/list?serviceName=s{name}"),
                format!("/v1/ns/service?serviceName=s{name}"),
                format!("/v1/cs/configs?dataId=c{name}&group=g"),
                format!("/v1/cs/configs?dataId=c{name}&group=g&tag=blue"),
            ] {
                desk.handle(now, asked(("GET", what)));
                while let Some(effect) = desk.effect() {
                    if let Effect::Answer(_, answer) = effect {
                        let body = String::from_utf8_lossy(answer.body());
                        // When it changed last differs, and is in the page of a refusal too.
                        let body = body.split("\"lastRefTime\"").next().unwrap();
                        let body = body.split("\"timestamp\"").next().unwrap();
                        seen.push(format!("{} {body}", answer.status()));
                    }
                }
            }
        }
        seen
    }

    proptest! {
        /// Whatever happens: the changes lead from row to row and are all that has changed; a registry that takes in the rows is
        /// the one that was restarted; and what cannot be kept is as if nobody had asked.
        #[test]
        fn what_is_kept_is_what_a_restart_leaves_and_what_is_not_was_not(
            like in prop::sample::select(&[Like::V1_4, Like::V2_5, Like::V3_0][..]),
            steps in prop::collection::vec((request(), 0..40_u64, prop::bool::weighted(0.2)), 1..40),
        ) {
            let mut desk = Desk::new(like).keeping(Rows::new()).unwrap().0;
            let (mut rows, mut now) = (Rows::new(), Moment::ZERO);
            for (request, pause, refused) in steps {
                now += Duration::from_secs(pause);
                // What is due is kept before.
                follow(&mut rows, happens(&mut desk, now, Event::Left(Ticket(9))));
                prop_assert_eq!(&rows, &desk.rows());
                let changes = happens(&mut desk, now, asked(request));
                if refused && !changes.is_empty() {
                    let again = happens(&mut desk, now, Event::NotKept(changes));
                    prop_assert_eq!(again, []);
                } else {
                    follow(&mut rows, changes);
                }
                prop_assert_eq!(&rows, &desk.rows());
            }
            // As JSON, and back.
            let rows = rows.into_iter().map(|(key, kept)| {
                let key = serde_json::to_vec(&key).unwrap();
                let kept = serde_json::to_vec(&kept).unwrap();
                (serde_json::from_slice(&key).unwrap(), serde_json::from_slice(&kept).unwrap())
            });
            let (mut again, changes) = Desk::new(like).keeping(rows.collect()).unwrap();
            prop_assert_eq!(changes, []);
            prop_assert_eq!(happens(&mut desk, now, Event::Faulted(Fault::Restart)), []);
            prop_assert_eq!(again.rows(), desk.rows());
            prop_assert_eq!(seen(&mut again, Moment::ZERO), seen(&mut desk, now));
        }
    }
}
