//! Services and instances as the registry holds them: kinds, health, what an operator set, and when empty ones go.
//!
//! The rules are those of 2.5.1. The first registration (or `POST /service`, which means persistent) fixes the kind of a
//! service. One record per service and `ip:port`; the cluster is not part of the key. What `PUT`/`PATCH /instance` sets lies
//! over every registration of that `ip:port` and cluster, and stays for [`EMPTY`] after the instance left. A service that
//! is empty for [`EMPTY`] goes, with its threshold, its metadata and its checkers. Protection exists only for a service with
//! settings of its own (`POST`/`PUT /service`, `PUT /cluster`).

use crate::foreign::Foreign;
use crate::machine::Moment;
use crate::nacos::model::Namespace;
use crate::nacos::model::ServiceKey;
use crate::registry::beat_check::Patience;
use crate::registry::refusal::Refusal;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long an empty service, and what an operator set for an absent instance, is kept.
pub(crate) const EMPTY: Duration = Duration::from_secs(60);
/// Services at most.
pub(crate) const SERVICES: usize = 10_000;
/// Instances of one service at most; also what an operator set there.
pub(crate) const INSTANCES: usize = 5_000;
/// Instances of all services at most.
pub(crate) const ALL_INSTANCES: usize = 100_000;
/// Clusters of one service with a checker at most.
pub(crate) const CLUSTERS: usize = 100;

/// Metadata; 2.5.1 keeps a null value.
pub(crate) type Metadata = BTreeMap<Foreign, Option<Foreign>>;

/// Where an instance is: any text and a port, 0 included, as on 2.5.1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) ip: Arc<str>,
    pub(crate) port: u16,
}

/// An instance as it was registered, or as it is seen with the operator's values over it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) cluster: Arc<str>,
    pub(crate) weight: f64,
    pub(crate) healthy: bool,
    pub(crate) enabled: bool,
    pub(crate) metadata: Metadata,
}

impl Record {
    /// A reserved metadata key in milliseconds; what is not all digits counts as absent.
    pub(crate) fn millis(&self, key: &str) -> Option<u64> {
        let value = self.metadata.get(&Foreign::from(key))?.as_ref()?.raw();
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| value.parse().ok()).flatten()
    }

    /// How long it may be silent; `None` when `enableClientBeat=true` switches the check off.
    pub(crate) fn patience(&self) -> Option<Patience> {
        let off = self
            .metadata
            .get(&Foreign::from("enableClientBeat"))
            .and_then(Option::as_ref)
            .is_some_and(|value| value.raw().eq_ignore_ascii_case("true"));
        let default = Patience::default();
        let or = |key, default| {
            self.millis(key)
                .map_or(default, |ms| Duration::from_millis(ms).min(FOR_EVER))
        };
        (!off).then(|| Patience {
            unhealthy: or(TIMEOUT, default.unhealthy),
            removed: or(DELETE, default.removed),
        })
    }
}

/// The longest silence: what metadata say above it could not be added to a moment.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// `preserved.heart.beat.interval`.
pub(crate) const INTERVAL: &str = "preserved.heart.beat.interval";
/// `preserved.heart.beat.timeout`.
pub(crate) const TIMEOUT: &str = "preserved.heart.beat.timeout";
/// `preserved.ip.delete.timeout`.
pub(crate) const DELETE: &str = "preserved.ip.delete.timeout";

/// What `PUT /instance` says, or `PATCH /instance` leaves as it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patch {
    pub(crate) weight: Option<f64>,
    pub(crate) enabled: Option<bool>,
    pub(crate) metadata: Option<Metadata>,
}

/// What an operator set.
#[derive(Clone, Debug)]
struct Override {
    weight: f64,
    enabled: bool,
    metadata: Metadata,
    /// Since when there is no such instance.
    detached: Option<Moment>,
}

impl Override {
    fn new(now: Moment) -> Self {
        Self {
            weight: 1.0,
            enabled: true,
            metadata: Metadata::new(),
            detached: Some(now),
        }
    }
}

/// What a service was told about itself; only a service that has these is protected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) threshold: f32,
    pub(crate) metadata: Metadata,
    /// Clusters whose checker is NONE.
    pub(crate) unchecked: BTreeSet<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Service {
    persistent: bool,
    settings: Option<Settings>,
    instances: BTreeMap<Address, Record>,
    overrides: BTreeMap<(Address, Arc<str>), Override>,
    changed: Moment,
    /// Since when it is empty.
    empty: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Expiry {
    Service(ServiceKey),
    Override(ServiceKey, Address, Arc<str>),
}

/// The answer to a list.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Listing {
    pub(crate) hosts: Vec<(Address, Record)>,
    pub(crate) persistent: bool,
    pub(crate) protected: bool,
    /// When the service last changed; `None` for an unknown one.
    pub(crate) changed: Option<Moment>,
}

/// How many of what; for `/operator/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) services: usize,
    pub(crate) ephemeral: usize,
    pub(crate) persistent: usize,
}

/// All services of all namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naming {
    services: BTreeMap<ServiceKey, Service>,
    counts: Counts,
    due: BTreeSet<(Moment, Expiry)>,
}

impl Service {
    fn seen(&self, address: &Address, record: &Record) -> Record {
        let mut seen = record.clone();
        let key = (address.clone(), Arc::clone(&record.cluster));
        if let Some(over) = self.overrides.get(&key) {
            seen.weight = over.weight;
            seen.enabled = over.enabled;
            for (key, value) in &over.metadata {
                seen.metadata.insert(key.clone(), value.clone());
            }
        }
        seen
    }
}

impl Naming {
    /// The service, created with `persistent` when it is not there.
    fn service(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        persistent: bool,
    ) -> Result<&mut Service, Refusal> {
        if !self.services.contains_key(key) {
            if self.services.len() >= SERVICES {
                return Err(Refusal::Full("services", SERVICES));
            }
            self.due
                .insert((now.saturating_add(EMPTY), Expiry::Service(key.clone())));
        }
        Ok(self.services.entry(key.clone()).or_insert_with(|| Service {
            persistent,
            settings: None,
            instances: BTreeMap::new(),
            overrides: BTreeMap::new(),
            changed: now,
            empty: Some(now),
        }))
    }

    /// Takes an instance, in place of what was at its address.
    pub(crate) fn register(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        persistent: bool,
        address: Address,
        record: Record,
    ) -> Result<(), Refusal> {
        let known = self.services.get(key);
        if let Some(service) = known
            && service.persistent != persistent
        {
            return Err(Refusal::Kind {
                service: key.grouped(),
                persistent: service.persistent,
            });
        }
        let there = known.map_or(0, |service| service.instances.len());
        if !known.is_some_and(|service| service.instances.contains_key(&address)) {
            if there >= INSTANCES {
                return Err(Refusal::Full("instances of one service", INSTANCES));
            }
            if self.counts.ephemeral + self.counts.persistent >= ALL_INSTANCES {
                return Err(Refusal::Full("instances", ALL_INSTANCES));
            }
        }
        let service = self.service(now, key, persistent)?;
        service.changed = now;
        let emptied = service.empty.take();
        let cluster = Arc::clone(&record.cluster);
        let replaced = service.instances.insert(address.clone(), record);
        let attached = service
            .overrides
            .get_mut(&(address.clone(), Arc::clone(&cluster)))
            .and_then(|over| over.detached.take());
        let moved = replaced
            .as_ref()
            .map(|old| Arc::clone(&old.cluster))
            .filter(|old| *old != cluster);
        if let Some(since) = emptied {
            self.due
                .remove(&(since.saturating_add(EMPTY), Expiry::Service(key.clone())));
        }
        if let Some(since) = attached {
            self.due.remove(&(
                since.saturating_add(EMPTY),
                Expiry::Override(key.clone(), address.clone(), cluster),
            ));
        }
        if let Some(cluster) = moved {
            self.detach(now, key, &address, cluster);
        }
        if replaced.is_none() {
            *self.counts.of(persistent) += 1;
        }
        Ok(())
    }

    fn detach(&mut self, now: Moment, key: &ServiceKey, address: &Address, cluster: Arc<str>) {
        let over = self.services.get_mut(key).and_then(|service| {
            service
                .overrides
                .get_mut(&(address.clone(), Arc::clone(&cluster)))
        });
        if let Some(over) = over
            && over.detached.is_none()
        {
            over.detached = Some(now);
            self.due.insert((
                now.saturating_add(EMPTY),
                Expiry::Override(key.clone(), address.clone(), cluster),
            ));
        }
    }

    /// Removes an instance of this kind; whether there was one.
    pub(crate) fn deregister(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        persistent: bool,
        address: &Address,
    ) -> bool {
        let Some(service) = self
            .services
            .get_mut(key)
            .filter(|service| service.persistent == persistent)
        else {
            return false;
        };
        let Some(gone) = service.instances.remove(address) else {
            return false;
        };
        service.changed = now;
        if service.instances.is_empty() {
            service.empty = Some(now);
            self.due
                .insert((now.saturating_add(EMPTY), Expiry::Service(key.clone())));
        }
        *self.counts.of(persistent) -= 1;
        self.detach(now, key, address, gone.cluster);
        true
    }

    /// Whether the service holds an ephemeral instance there: what a beat is for.
    pub(crate) fn holds_ephemeral(&self, key: &ServiceKey, address: &Address) -> bool {
        self.services
            .get(key)
            .is_some_and(|service| !service.persistent && service.instances.contains_key(address))
    }

    /// An instance as it is seen, whatever its cluster.
    pub(crate) fn seen(&self, key: &ServiceKey, address: &Address) -> Option<Record> {
        let service = self.services.get(key)?;
        Some(service.seen(address, service.instances.get(address)?))
    }

    /// An instance in a cluster, as `GET /instance` wants it.
    pub(crate) fn detail(
        &self,
        key: &ServiceKey,
        address: &Address,
        cluster: &str,
    ) -> Result<Record, Refusal> {
        if self
            .services
            .get(key)
            .is_none_or(|service| service.instances.is_empty())
        {
            return Err(Refusal::NoInstances {
                cluster: cluster.to_owned(),
                service: key.grouped(),
            });
        }
        self.seen(key, address)
            .filter(|record| &*record.cluster == cluster)
            .ok_or(Refusal::NoMatch)
    }

    /// The beat check's word.
    pub(crate) fn tell(&mut self, now: Moment, key: &ServiceKey, address: &Address, healthy: bool) {
        if let Some(service) = self.services.get_mut(key)
            && let Some(record) = service.instances.get_mut(address)
        {
            record.healthy = healthy;
            service.changed = now;
        }
    }

    /// `PUT /instance` (`fresh`: what it does not say is the default again) and `PATCH /instance`.
    pub(crate) fn overrule(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        address: &Address,
        cluster: &Arc<str>,
        patch: Patch,
        fresh: bool,
    ) -> Result<(), Refusal> {
        let service = self.services.get_mut(key).ok_or(Refusal::NoMatch)?;
        let place = (address.clone(), Arc::clone(cluster));
        let there = service
            .instances
            .get(address)
            .is_some_and(|record| record.cluster == *cluster);
        if !service.overrides.contains_key(&place) {
            if service.overrides.len() >= INSTANCES {
                return Err(Refusal::Full("operator's values of one service", INSTANCES));
            }
            let mut over = Override::new(now);
            if there {
                over.detached = None;
            } else {
                self.due.insert((
                    now.saturating_add(EMPTY),
                    Expiry::Override(key.clone(), address.clone(), Arc::clone(cluster)),
                ));
            }
            service.overrides.insert(place.clone(), over);
        }
        if let Some(over) = service.overrides.get_mut(&place) {
            if fresh {
                over.weight = 1.0;
                over.enabled = true;
                over.metadata = Metadata::new();
            }
            over.weight = patch.weight.unwrap_or(over.weight);
            over.enabled = patch.enabled.unwrap_or(over.enabled);
            if let Some(metadata) = patch.metadata {
                over.metadata = metadata;
            }
        }
        service.changed = now;
        Ok(())
    }

    /// Whether there is such a service.
    pub(crate) fn knows(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// What `GET /instance/list` shows: enabled hosts of these clusters (none: all), health masked by protection.
    pub(crate) fn list(&self, key: &ServiceKey, clusters: &[&str], healthy_only: bool) -> Listing {
        let Some(service) = self.services.get(key) else {
            return Listing::default();
        };
        let mut hosts: Vec<_> = service
            .instances
            .iter()
            .filter(|(_, record)| clusters.is_empty() || clusters.contains(&&*record.cluster))
            .map(|(address, record)| (address.clone(), service.seen(address, record)))
            .filter(|(_, record)| record.enabled && (record.healthy || !healthy_only))
            .collect();
        let healthy = hosts.iter().filter(|(_, record)| record.healthy).count();
        #[expect(
            clippy::cast_precision_loss,
            reason = "the original divides floats too, and counts are small"
        )]
        let protected = service.settings.as_ref().is_some_and(|s| {
            !hosts.is_empty() && healthy as f32 / hosts.len() as f32 <= s.threshold.max(0.0)
        });
        if protected {
            for (_, record) in &mut hosts {
                record.healthy = true;
            }
        }
        Listing {
            hosts,
            persistent: service.persistent,
            protected,
            changed: Some(service.changed),
        }
    }

    /// `POST /service`: a persistent service.
    pub(crate) fn create(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        settings: Settings,
    ) -> Result<(), Refusal> {
        if self.knows(key) {
            return Err(Refusal::ServiceExists(key.grouped()));
        }
        self.service(now, key, true)?.settings = Some(settings);
        Ok(())
    }

    /// `PUT /service`: threshold and metadata; checkers stay.
    pub(crate) fn update(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        threshold: f32,
        metadata: Metadata,
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(key)
            .ok_or_else(|| Refusal::ServiceUnknown(key.grouped()))?;
        let settings = service.settings.get_or_insert_default();
        settings.threshold = threshold;
        settings.metadata = metadata;
        service.changed = now;
        Ok(())
    }

    /// `DELETE /service`.
    pub(crate) fn delete(&mut self, key: &ServiceKey) -> Result<(), Refusal> {
        match self.services.get(key) {
            None => Err(Refusal::ServiceUnknown(key.grouped())),
            Some(service) if !service.instances.is_empty() => {
                Err(Refusal::ServiceNotEmpty(key.grouped()))
            }
            Some(_) => {
                self.remove(key);
                Ok(())
            }
        }
    }

    fn remove(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.remove(key) else {
            return;
        };
        if let Some(since) = service.empty {
            self.due
                .remove(&(since.saturating_add(EMPTY), Expiry::Service(key.clone())));
        }
        for ((address, cluster), over) in service.overrides {
            if let Some(since) = over.detached {
                self.due.remove(&(
                    since.saturating_add(EMPTY),
                    Expiry::Override(key.clone(), address, cluster),
                ));
            }
        }
    }

    /// `GET /service`: its settings and its clusters, those with instances and those with a checker of their own.
    pub(crate) fn describe(&self, key: &ServiceKey) -> Option<(Settings, BTreeSet<Arc<str>>)> {
        let service = self.services.get(key)?;
        let settings = service.settings.clone().unwrap_or_default();
        let clusters = service
            .instances
            .values()
            .map(|record| &record.cluster)
            .chain(&settings.unchecked)
            .cloned()
            .collect();
        Some((settings, clusters))
    }

    /// `PUT /cluster` with checker NONE.
    pub(crate) fn uncheck(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        cluster: &str,
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(key)
            .ok_or_else(|| Refusal::ClusterOfUnknownService(key.grouped()))?;
        let settings = service.settings.get_or_insert_default();
        if settings.unchecked.len() >= CLUSTERS && !settings.unchecked.contains(cluster) {
            return Err(Refusal::Full("clusters with a checker", CLUSTERS));
        }
        settings.unchecked.insert(cluster.into());
        service.changed = now;
        Ok(())
    }

    /// `PUT /health/instance`, which 2.5.1 never carries out: `ok` where there is no such persistent instance, else a refusal.
    pub(crate) fn health_by_hand(
        &self,
        key: &ServiceKey,
        cluster: &str,
        address: &Address,
    ) -> Result<(), Refusal> {
        let service = self.services.get(key).filter(|service| {
            service
                .settings
                .as_ref()
                .is_some_and(|s| s.unchecked.contains(cluster))
        });
        match service {
            None => Err(Refusal::StillChecking {
                service: key.grouped(),
                cluster: cluster.to_owned(),
            }),
            Some(service) if service.persistent && service.instances.contains_key(address) => {
                Err(Refusal::Kind {
                    service: key.grouped(),
                    persistent: true,
                })
            }
            Some(_) => Ok(()),
        }
    }

    /// Names of the services of a group, in order.
    pub(crate) fn names(&self, namespace: &Namespace, group: &str) -> Vec<String> {
        self.services
            .keys()
            .filter(|key| key.namespace == *namespace && &*key.group == group)
            .map(|key| key.name.to_string())
            .collect()
    }

    /// How many of what.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            ..self.counts
        }
    }

    /// When [`Naming::wake`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Lets go what has been empty or detached long enough.
    pub(crate) fn wake(&mut self, now: Moment) {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            match self.due.pop_first() {
                Some((_, Expiry::Service(key))) => self.remove(&key),
                Some((_, Expiry::Override(key, address, cluster))) => {
                    if let Some(service) = self.services.get_mut(&key) {
                        service.overrides.remove(&(address, cluster));
                        service.changed = now;
                    }
                }
                None => return,
            }
        }
    }
}

impl Counts {
    fn of(&mut self, persistent: bool) -> &mut usize {
        if persistent {
            &mut self.persistent
        } else {
            &mut self.ephemeral
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Moment = Duration::from_secs(100);

    fn key(name: &str) -> ServiceKey {
        ServiceKey {
            namespace: Namespace::public(),
            group: "DEFAULT_GROUP".into(),
            name: name.into(),
        }
    }

    fn address(port: u16) -> Address {
        Address {
            ip: "10.0.0.1".into(),
            port,
        }
    }

    fn record(healthy: bool) -> Record {
        Record {
            cluster: "DEFAULT".into(),
            weight: 1.0,
            healthy,
            enabled: true,
            metadata: Metadata::new(),
        }
    }

    fn naming(healthy: &[bool]) -> Naming {
        let mut naming = Naming::default();
        for (port, healthy) in healthy.iter().enumerate() {
            let port = u16::try_from(port).unwrap();
            naming
                .register(NOW, &key("s"), false, address(port), record(*healthy))
                .unwrap();
        }
        naming
    }

    #[test]
    fn the_first_registration_fixes_the_kind() {
        let mut naming = naming(&[true]);
        let refused = naming.register(NOW, &key("s"), true, address(9), record(true));
        assert_eq!(
            refused,
            Err(Refusal::Kind {
                service: "DEFAULT_GROUP@@s".into(),
                persistent: false
            })
        );
        assert!(!naming.deregister(NOW, &key("s"), true, &address(0)));
        assert!(naming.deregister(NOW, &key("s"), false, &address(0)));
    }

    #[test]
    fn protection_masks_only_a_service_with_settings() {
        let mut naming = naming(&[true, false, false]);
        assert!(!naming.list(&key("s"), &[], false).protected);
        naming.update(NOW, &key("s"), 0.6, Metadata::new()).unwrap();
        let masked = naming.list(&key("s"), &[], false);
        assert!(masked.protected && masked.hosts.iter().all(|(_, r)| r.healthy));
        let healthy = naming.list(&key("s"), &[], true);
        assert!(!healthy.protected);
        assert_eq!(healthy.hosts.len(), 1);
    }

    #[test]
    fn an_operators_values_outlive_a_registration_and_end_a_minute_after_the_instance() {
        let mut naming = naming(&[true, true]);
        let patch = Patch {
            weight: Some(5.0),
            enabled: None,
            metadata: Some([("op".into(), Some("x".into()))].into()),
        };
        naming
            .overrule(NOW, &key("s"), &address(0), &"DEFAULT".into(), patch, true)
            .unwrap();
        assert!(naming.deregister(NOW, &key("s"), false, &address(0)));
        naming
            .register(NOW, &key("s"), false, address(0), record(true))
            .unwrap();
        let seen = naming.seen(&key("s"), &address(0)).unwrap();
        assert_eq!((seen.weight, seen.metadata.len()), (5.0, 1));
        assert_eq!(naming.deadline(), None);
        naming.deregister(NOW, &key("s"), false, &address(0));
        naming.wake(NOW + EMPTY);
        naming
            .register(NOW + EMPTY, &key("s"), false, address(0), record(true))
            .unwrap();
        assert_eq!(naming.seen(&key("s"), &address(0)), Some(record(true)));
    }

    #[test]
    fn an_empty_service_goes_with_its_settings_after_a_minute() {
        let mut naming = Naming::default();
        naming.create(NOW, &key("s"), Settings::default()).unwrap();
        assert_eq!(naming.deadline(), Some(NOW + EMPTY));
        naming.wake(NOW + EMPTY);
        assert!(!naming.knows(&key("s")));
        assert_eq!(naming.deadline(), None);
    }

    #[test]
    fn health_by_hand_answers_as_2_5_1_does() {
        let mut naming = Naming::default();
        let still = naming.health_by_hand(&key("s"), "DEFAULT", &address(0));
        assert!(matches!(still, Err(Refusal::StillChecking { .. })));
        naming.create(NOW, &key("s"), Settings::default()).unwrap();
        naming.uncheck(NOW, &key("s"), "DEFAULT").unwrap();
        assert_eq!(
            naming.health_by_hand(&key("s"), "DEFAULT", &address(0)),
            Ok(())
        );
        naming
            .register(NOW, &key("s"), true, address(0), record(true))
            .unwrap();
        let kind = naming.health_by_hand(&key("s"), "DEFAULT", &address(0));
        assert!(matches!(kind, Err(Refusal::Kind { .. })));
    }

    proptest! {
        #[test]
        fn every_plan_to_forget_has_its_reason_and_every_reason_its_plan(
            steps in proptest::collection::vec((0..6_u8, 0..3_u16, 0..40_u64, any::<bool>()), 0..80),
        ) {
            let (mut naming, mut now) = (Naming::default(), NOW);
            for (what, port, wait, flag) in steps {
                let s = key(if flag { "a" } else { "b" });
                let mut it = record(flag);
                it.cluster = if port == 2 { "other".into() } else { "DEFAULT".into() };
                match what {
                    0 | 1 => _ = naming.register(now, &s, port == 1, address(port / 2), it),
                    2 => _ = naming.deregister(now, &s, port == 1, &address(port / 2)),
                    3 => _ = naming.overrule(now, &s, &address(port / 2), &it.cluster, Patch::default(), flag),
                    4 => _ = naming.delete(&s),
                    _ => { now += Duration::from_secs(wait); naming.wake(now); }
                }
                let mut wanted = BTreeSet::new();
                let mut instances = 0;
                for (key, service) in &naming.services {
                    prop_assert_eq!(service.empty.is_some(), service.instances.is_empty());
                    instances += service.instances.len();
                    wanted.extend(service.empty.map(|at| (at + EMPTY, Expiry::Service(key.clone()))));
                    for ((address, cluster), over) in &service.overrides {
                        let there = service.instances.get(address).is_some_and(|r| r.cluster == *cluster);
                        prop_assert_eq!(over.detached.is_none(), there);
                        wanted.extend(over.detached.map(|at| {
                            (at + EMPTY, Expiry::Override(key.clone(), address.clone(), Arc::clone(cluster)))
                        }));
                    }
                }
                prop_assert_eq!(&naming.due, &wanted);
                prop_assert_eq!(naming.counts.ephemeral + naming.counts.persistent, instances);
            }
        }
    }
}
