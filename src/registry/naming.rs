//! Services and instances as the registry holds them: kinds, health, what an operator set, and when empty ones go.
//!
//! The rules are those of 2.5.1 and 3.0.3. The first registration (or `POST /service`, which means persistent) fixes the kind of
//! a service. One record per service and `ip:port`; the cluster is not part of the key. What `PUT`/`PATCH /instance` sets lies
//! over every registration of that `ip:port` and cluster, and stays for [`EMPTY`] after the instance left. A service that
//! is empty for [`EMPTY`] goes, with its threshold, its metadata and its checkers. Protection exists only for a service with
//! settings of its own (`POST`/`PUT /service`, `PUT /cluster`).
//!
//! What a gRPC connection published is the connection's: it lies beside what others say of the same address, nobody beats for it,
//! and HTTP neither changes nor removes it. A list shows equal instances once, whoever published them.
//!
//! On 1.4.8 kinds and clusters have places of their own ([`Place`]), a registration wins over the operator but leaves health as it
//! is, and every service is protected. Which rule holds is asked of [`Manners`].

mod kept;

use crate::foreign::Foreign;
use crate::machine::Moment;
use crate::nacos::model::Namespace;
use crate::nacos::model::ServiceKey;
use crate::registry::beat_check::Patience;
use crate::registry::checker::Checker;
use crate::registry::checks::Probe;
use crate::registry::kept::Written;
use crate::registry::late::Late;
use crate::registry::like::Like;
use crate::registry::like::Manners;
use crate::registry::like::Masks;
use crate::registry::links::Link;
use crate::registry::model::Metadata;
use crate::registry::refusal::Refusal;
use crate::registry::selector::Selector;
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

/// Where an instance is: any text and a port, 0 included, as on 2.5.1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) ip: Arc<str>,
    pub(crate) port: u16,
}

/// Where an instance stands in its service: at its address, on 1.4 apart from those of another cluster or kind there, and apart
/// from what others published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) address: Address,
    apart: Option<(Arc<str>, bool)>,
    /// The connection whose it is; `None` for what came over HTTP and for what is persistent.
    owner: Option<Link>,
}

/// An instance as it was registered, or as it is seen with the operator's values over it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) persistent: bool,
    pub(crate) cluster: Arc<str>,
    pub(crate) weight: f64,
    pub(crate) healthy: bool,
    pub(crate) enabled: bool,
    pub(crate) metadata: Metadata,
    /// The health that was said when it was registered last.
    pub(crate) said: bool,
    /// A beat brought it, without metadata: 1.4 lists them as null.
    pub(crate) bare: bool,
    /// It was registered under `/v3/`, where instances get no id.
    pub(crate) without_id: bool,
}

impl Record {
    /// A reserved metadata key in milliseconds; what is not all digits counts as absent.
    pub(crate) fn millis(&self, key: &str) -> Option<u64> {
        let value = self.metadata.get(&Foreign::from(key))?.as_ref()?.raw();
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| value.parse().ok()).flatten()
    }

    /// Whether a reader sees the same.
    fn looks_like(&self, other: &Self) -> bool {
        (self.persistent, self.healthy, self.enabled)
            == (other.persistent, other.healthy, other.enabled)
            && self.cluster == other.cluster
            && self.weight.to_bits() == other.weight.to_bits()
            && self.metadata == other.metadata
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

/// An instance and whose it is.
pub(crate) struct Published {
    pub(crate) service: ServiceKey,
    pub(crate) address: Address,
    pub(crate) cluster: String,
    pub(crate) persistent: bool,
    /// The connection that published it.
    pub(crate) owner: Option<Link>,
    /// When its service last changed.
    pub(crate) changed: Moment,
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
    /// Of 1.4 alone.
    pub(crate) healthy: Option<bool>,
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
    pub(crate) selector: Selector,
    /// Clusters of which something was said; all others are checked by TCP at the port of the instance.
    pub(crate) clusters: BTreeMap<Arc<str>, Cluster>,
}

/// What was said of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) checker: Checker,
    /// Where it is checked, unless that is the port of the instance.
    pub(crate) port: i32,
    pub(crate) instance_port: bool,
    pub(crate) metadata: Metadata,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            checker: Checker::default(),
            port: 80,
            instance_port: true,
            metadata: Metadata::new(),
        }
    }
}

#[derive(Clone, Debug)]
struct Service {
    /// What all its instances are, unless [`Manners::places_apart`].
    persistent: bool,
    settings: Option<Settings>,
    instances: BTreeMap<Place, Record>,
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
    pub(crate) protected: bool,
    /// The service's own.
    pub(crate) metadata: Metadata,
    /// When the service last changed; `None` for an unknown one.
    pub(crate) changed: Option<Moment>,
}

/// A service in one line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Glance {
    /// What it is as a whole.
    pub(crate) persistent: bool,
    pub(crate) threshold: f32,
    pub(crate) instances: usize,
    pub(crate) healthy: usize,
}

/// How many of what; for `/operator/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) services: usize,
    pub(crate) ephemeral: usize,
    pub(crate) persistent: usize,
}

/// All services of all namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Naming {
    manners: &'static Manners,
    late: Late<Service>,
    services: BTreeMap<ServiceKey, Service>,
    /// What connections published: where, by connection and service.
    published: BTreeMap<Link, BTreeMap<ServiceKey, BTreeSet<Place>>>,
    counts: Counts,
    due: BTreeSet<(Moment, Expiry)>,
    /// Persistent instances that came, changed, left or are checked otherwise, since that was asked last.
    stirred: BTreeSet<(ServiceKey, Place)>,
    /// What outlives the process and has changed, since that was asked last.
    written: Written,
}

impl Place {
    fn new(apart: bool, address: &Address, cluster: &str, persistent: bool) -> Self {
        Self {
            address: address.clone(),
            apart: apart.then(|| (cluster.into(), persistent)),
            owner: None,
        }
    }

    /// The connection whose it is.
    pub(crate) fn owner(&self) -> Option<Link> {
        self.owner
    }
}

impl Service {
    fn find(&self, apart: bool, address: &Address, cluster: &str) -> Option<Place> {
        [true, false]
            .map(|persistent| Place::new(apart, address, cluster, persistent))
            .into_iter()
            .find(|place| self.instances.contains_key(place))
    }

    /// Everything at an address, whoever published it.
    fn at(&self, address: &Address) -> impl Iterator<Item = (&Place, &Record)> {
        let first = Place {
            address: address.clone(),
            apart: None,
            owner: None,
        };
        let address = address.clone();
        self.instances
            .range(first..)
            .take_while(move |(place, _)| place.address == address)
    }

    /// What readers see, those of these clusters (none: all); equal instances once.
    fn shown(&self, clusters: &[&str]) -> Vec<(Address, Record)> {
        let mut shown: Vec<(Address, Record)> = Vec::new();
        for (place, record) in &self.instances {
            if !clusters.is_empty() && !clusters.contains(&&*record.cluster) {
                continue;
            }
            let seen = self.seen(place, record);
            let mut there = shown.iter().rev();
            let twin = there
                .by_ref()
                .take_while(|(address, _)| *address == place.address)
                .any(|(_, other)| other.looks_like(&seen));
            if !twin {
                shown.push((place.address.clone(), seen));
            }
        }
        shown
    }

    fn seen(&self, place: &Place, record: &Record) -> Record {
        let mut seen = record.clone();
        let key = (place.address.clone(), Arc::clone(&record.cluster));
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
    /// No service.
    pub(crate) fn new(like: Like) -> Self {
        Self {
            manners: like.manners(),
            late: Late::new(Duration::ZERO),
            services: BTreeMap::new(),
            published: BTreeMap::new(),
            counts: Counts::default(),
            due: BTreeSet::new(),
            stirred: BTreeSet::new(),
            written: Written::default(),
        }
    }

    /// The place of an instance that is no connection's.
    pub(crate) fn place(&self, address: &Address, cluster: &str, persistent: bool) -> Place {
        Place::new(self.manners.places_apart, address, cluster, persistent)
    }

    /// The instance that a call without kind means: a persistent one first; the cluster counts only where places are apart.
    pub(crate) fn find(&self, key: &ServiceKey, address: &Address, cluster: &str) -> Option<Place> {
        let apart = self.manners.places_apart;
        self.services.get(key)?.find(apart, address, cluster)
    }

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

    /// Whether so many more instances of this kind may come into a service.
    fn admit(&self, key: &ServiceKey, persistent: bool, more: usize) -> Result<(), Refusal> {
        let known = self.services.get(key);
        if let Some(service) = known
            && service.persistent != persistent
            && !self.manners.places_apart
        {
            return Err(Refusal::Kind {
                service: key.grouped(),
                persistent: service.persistent,
            });
        }
        if more == 0 {
            return Ok(());
        }
        if known.map_or(0, |service| service.instances.len()) + more > INSTANCES {
            return Err(Refusal::Full("instances of one service", INSTANCES));
        }
        if self.counts.ephemeral + self.counts.persistent + more > ALL_INSTANCES {
            return Err(Refusal::Full("instances", ALL_INSTANCES));
        }
        Ok(())
    }

    /// Whether instances of this kind may come into a service.
    pub(crate) fn admits(&self, key: &ServiceKey, persistent: bool) -> Result<(), Refusal> {
        self.admit(key, persistent, 0)
    }

    /// Takes an instance, in place of what was there; its health as it is now.
    pub(crate) fn register(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        address: &Address,
        mut record: Record,
    ) -> Result<bool, Refusal> {
        let place = self.place(address, &record.cluster, record.persistent);
        let known = self.services.get(key);
        let there = known.and_then(|service| service.instances.get(&place));
        self.admit(key, record.persistent, usize::from(there.is_none()))?;
        if let Some(there) = there
            && !self.manners.health_by_registration
        {
            record.healthy = there.healthy;
        }
        let healthy = record.healthy;
        self.put(now, key, place, record)?;
        Ok(healthy)
    }

    /// Puts these instances in place of all that the connection has of the service; one after the other if an address comes twice.
    pub(crate) fn publish(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        link: Link,
        instances: Vec<(Address, Record)>,
    ) -> Result<(), Refusal> {
        let wanted: BTreeMap<Place, Record> = instances
            .into_iter()
            .map(|(address, record)| {
                let mut place = self.place(&address, &record.cluster, false);
                place.owner = Some(link);
                (place, record)
            })
            .collect();
        let there = self.published.get(&link).and_then(|all| all.get(key));
        let there = there.cloned().unwrap_or_default();
        let more = wanted.len().saturating_sub(there.len());
        self.admit(key, false, more)?;
        let places: BTreeSet<Place> = wanted.keys().cloned().collect();
        for (place, record) in wanted {
            self.put(now, key, place, record)?;
        }
        for place in there.difference(&places) {
            self.leave(now, key, place);
        }
        if !places.is_empty() {
            let all = self.published.entry(link).or_default();
            all.insert(key.clone(), places);
        }
        Ok(())
    }

    /// Persistent instances of which a check may have to know, since this was asked last.
    pub(crate) fn take_stirred(&mut self) -> BTreeSet<(ServiceKey, Place)> {
        std::mem::take(&mut self.stirred)
    }

    /// What is asked of an instance to know its health, and the health it has; `None` for one that is not there or not checked.
    pub(crate) fn check(&self, key: &ServiceKey, place: &Place) -> Option<(Probe, bool)> {
        let service = self.services.get(key)?;
        let record = service.instances.get(place)?;
        let by_default = Cluster::default();
        let said = service
            .settings
            .as_ref()
            .and_then(|settings| settings.clusters.get(&record.cluster))
            .unwrap_or(&by_default);
        let by = said.checker.by().filter(|_| record.persistent)?;
        let port = if said.instance_port {
            place.address.port
        } else {
            // No port at all refuses every connection.
            u16::try_from(said.port).unwrap_or(0)
        };
        let ip = Arc::clone(&place.address.ip);
        Some((Probe { ip, port, by }, record.healthy))
    }

    /// Takes out what the connection has of the service; without one, of all.
    pub(crate) fn unpublish(&mut self, now: Moment, link: Link, key: Option<&ServiceKey>) {
        let Some(all) = self.published.get(&link) else {
            return;
        };
        let gone: Vec<(ServiceKey, BTreeSet<Place>)> = match key {
            Some(key) => all.get_key_value(key).into_iter().collect(),
            None => all.iter().collect::<Vec<_>>(),
        }
        .into_iter()
        .map(|(key, places)| (key.clone(), places.clone()))
        .collect();
        for (key, places) in gone {
            for place in places {
                self.leave(now, &key, &place);
            }
        }
    }

    fn put(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        place: Place,
        mut record: Record,
    ) -> Result<(), Refusal> {
        let manners = self.manners;
        let persistent = record.persistent;
        let address = place.address.clone();
        if 0.0 < record.weight && record.weight < manners.least_weight {
            record.weight = manners.least_weight;
        }
        if !manners.null_metadata {
            record.metadata.retain(|_, value| value.is_some());
        }
        self.touch_for(key, &place, &record);
        let service = self.service(now, key, persistent)?;
        service.changed = now;
        let emptied = service.empty.take();
        let cluster = Arc::clone(&record.cluster);
        let stirred = persistent.then(|| (key.clone(), place.clone()));
        let replaced = service.instances.insert(place, record);
        let attached = service
            .overrides
            .get_mut(&(address.clone(), Arc::clone(&cluster)))
            .and_then(|over| over.detached.take());
        let moved = replaced
            .as_ref()
            .map(|old| Arc::clone(&old.cluster))
            .filter(|old| *old != cluster);
        self.stirred.extend(stirred);
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
        self.late.changed(now, key);
        Ok(())
    }

    /// Takes note that an instance has left: what an operator set for it waits for the next one there.
    fn detach(&mut self, now: Moment, key: &ServiceKey, address: &Address, cluster: Arc<str>) {
        let over = self.services.get_mut(key).and_then(|service| {
            let others = service
                .at(address)
                .any(|(_, record)| record.cluster == cluster);
            if others {
                return None;
            }
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

    /// Removes the instance of this kind at an address; its place, if it was there.
    pub(crate) fn deregister(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        address: &Address,
        cluster: &str,
        persistent: bool,
    ) -> Option<Place> {
        let place = self.place(address, cluster, persistent);
        let service = self.services.get(key)?;
        let meant = self.manners.places_apart || service.persistent == persistent;
        (meant && self.leave(now, key, &place)).then_some(place)
    }

    /// Removes the instance at a place; whether there was one.
    pub(crate) fn leave(&mut self, now: Moment, key: &ServiceKey, place: &Place) -> bool {
        self.touch_place(key, place);
        let Some(service) = self.services.get_mut(key) else {
            return false;
        };
        let Some(gone) = service.instances.remove(place) else {
            return false;
        };
        service.changed = now;
        if service.instances.is_empty() {
            service.empty = Some(now);
            self.due
                .insert((now.saturating_add(EMPTY), Expiry::Service(key.clone())));
        }
        *self.counts.of(gone.persistent) -= 1;
        if gone.persistent {
            self.stirred.insert((key.clone(), place.clone()));
        }
        if let Some(link) = place.owner
            && let Some(all) = self.published.get_mut(&link)
            && let Some(places) = all.get_mut(key)
        {
            places.remove(place);
            if places.is_empty() {
                all.remove(key);
            }
            if all.is_empty() {
                self.published.remove(&link);
            }
        }
        self.late.changed(now, key);
        self.detach(now, key, &place.address, gone.cluster);
        true
    }

    /// The instance that a beat is for, if it is known: an ephemeral one; on 1.4 any.
    pub(crate) fn beaten(
        &self,
        key: &ServiceKey,
        address: &Address,
        cluster: &str,
    ) -> Option<Place> {
        self.find(key, address, cluster).filter(|_| {
            self.manners.places_apart
                || self
                    .services
                    .get(key)
                    .is_some_and(|service| !service.persistent)
        })
    }

    /// An instance as it is seen.
    pub(crate) fn seen(&self, key: &ServiceKey, place: &Place) -> Option<Record> {
        let service = self.services.get(key)?;
        Some(service.seen(place, service.instances.get(place)?))
    }

    /// An instance in a cluster, as `GET /instance` wants it.
    pub(crate) fn detail(
        &mut self,
        key: &ServiceKey,
        address: &Address,
        cluster: &str,
    ) -> Result<Record, Refusal> {
        let apart = self.manners.places_apart;
        let Some(service) = self.late.read(key, self.services.get(key)) else {
            return Err(if apart {
                Refusal::NoService(key.grouped())
            } else {
                Refusal::NoInstances {
                    cluster: cluster.to_owned(),
                    service: key.grouped(),
                }
            });
        };
        let here = |record: &Record| !apart || &*record.cluster == cluster;
        if !service.instances.values().any(here) {
            return Err(Refusal::NoInstances {
                cluster: cluster.to_owned(),
                service: key.grouped(),
            });
        }
        service
            .find(apart, address, cluster)
            .and_then(|place| Some(service.seen(&place, service.instances.get(&place)?)))
            .or_else(|| {
                let mut here = service
                    .at(address)
                    .filter(|(place, _)| place.owner.is_some());
                here.next()
                    .map(|(place, record)| service.seen(place, record))
            })
            .filter(|record| &*record.cluster == cluster)
            .ok_or(Refusal::NoMatch)
    }

    /// The beat check's word.
    pub(crate) fn tell(&mut self, now: Moment, key: &ServiceKey, place: &Place, healthy: bool) {
        if let Some(service) = self.services.get_mut(key)
            && let Some(record) = service.instances.get_mut(place)
        {
            record.healthy = healthy;
            service.changed = now;
            self.late.changed(now, key);
        }
    }

    /// Changes an instance itself, where an operator's values do not lie over it.
    pub(crate) fn amend(&mut self, now: Moment, key: &ServiceKey, place: &Place, patch: Patch) {
        self.touch_place(key, place);
        if let Some(service) = self.services.get_mut(key)
            && let Some(record) = service.instances.get_mut(place)
        {
            record.weight = patch.weight.unwrap_or(record.weight);
            record.enabled = patch.enabled.unwrap_or(record.enabled);
            record.healthy = patch.healthy.unwrap_or(record.healthy);
            if let Some(metadata) = patch.metadata {
                record.metadata = metadata;
            }
            if record.persistent {
                self.stirred.insert((key.clone(), place.clone()));
            }
            service.changed = now;
            self.late.changed(now, key);
        }
    }

    /// Whether there is an instance of this kind at an address, in whatever cluster.
    pub(crate) fn anywhere(&self, key: &ServiceKey, address: &Address, persistent: bool) -> bool {
        self.services.get(key).is_some_and(|service| {
            service
                .instances
                .iter()
                .any(|(place, record)| place.address == *address && record.persistent == persistent)
        })
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
        self.touch_override(key, address, cluster);
        let service = self.services.get_mut(key).ok_or(Refusal::NoMatch)?;
        let place = (address.clone(), Arc::clone(cluster));
        let there = service
            .at(address)
            .any(|(_, record)| record.cluster == *cluster);
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
        self.late.changed(now, key);
        Ok(())
    }

    /// Whether there is such a service.
    pub(crate) fn knows(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// What `GET /instance/list` shows: enabled hosts of these clusters (none: all), health masked by protection.
    pub(crate) fn list(
        &mut self,
        key: &ServiceKey,
        clusters: &[&str],
        healthy_only: bool,
    ) -> Listing {
        let Some(service) = self.late.read(key, self.services.get(key)) else {
            return Listing::default();
        };
        let mut hosts = service.shown(clusters);
        let shown =
            |(_, record): &(Address, Record)| record.enabled && (record.healthy || !healthy_only);
        let settings = service.settings.as_ref();
        let threshold = match self.manners.masks {
            Masks::Every => Some(settings.map_or(0.0, |settings| settings.threshold)),
            Masks::Configured => {
                hosts.retain(shown);
                settings.map(|settings| settings.threshold.max(0.0))
            }
        };
        let healthy = hosts.iter().filter(|(_, record)| record.healthy).count();
        #[expect(
            clippy::cast_precision_loss,
            reason = "the original divides floats too, and counts are small"
        )]
        let protected = !hosts.is_empty()
            && threshold.is_some_and(|least| healthy as f32 / hosts.len() as f32 <= least);
        if protected {
            for (_, record) in &mut hosts {
                record.healthy = true;
            }
        }
        hosts.retain(shown);
        Listing {
            hosts,
            protected,
            metadata: settings.map_or_else(Metadata::new, |settings| settings.metadata.clone()),
            changed: Some(service.changed),
        }
    }

    /// All instances of a service as they are, masked by nothing; `None` for an unknown one.
    pub(crate) fn all(
        &mut self,
        key: &ServiceKey,
    ) -> Option<impl Iterator<Item = (Address, Record)>> {
        let service = self.late.read(key, self.services.get(key))?;
        Some(service.shown(&[]).into_iter())
    }

    /// `POST /service`.
    pub(crate) fn create(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        persistent: bool,
        settings: Settings,
    ) -> Result<(), Refusal> {
        if self.knows(key) {
            return Err(Refusal::ServiceExists(key.grouped()));
        }
        self.touch_settings(key);
        self.service(now, key, persistent)?.settings = Some(settings);
        Ok(())
    }

    /// `PUT /service`: threshold, metadata and selector; checkers stay.
    pub(crate) fn update(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        threshold: f32,
        metadata: Metadata,
        selector: Selector,
    ) -> Result<(), Refusal> {
        self.touch_settings(key);
        let service = self
            .services
            .get_mut(key)
            .ok_or_else(|| Refusal::ServiceUnknown(key.grouped()))?;
        let settings = service.settings.get_or_insert_default();
        settings.threshold = threshold;
        settings.metadata = metadata;
        settings.selector = selector;
        service.changed = now;
        self.late.changed(now, key);
        Ok(())
    }

    /// `DELETE /service`; the places of ephemeral instances that went with it.
    pub(crate) fn delete(&mut self, now: Moment, key: &ServiceKey) -> Result<Vec<Place>, Refusal> {
        let service = self
            .services
            .get(key)
            .ok_or_else(|| Refusal::DeleteOfUnknownService(key.grouped()))?;
        if !service.instances.is_empty() && !self.manners.delete_with_instances {
            return Err(Refusal::ServiceNotEmpty(key.grouped()));
        }
        let gone = service
            .instances
            .iter()
            .filter(|(_, record)| !record.persistent)
            .map(|(place, _)| place.clone())
            .collect();
        self.remove(now, key);
        Ok(gone)
    }

    fn remove(&mut self, now: Moment, key: &ServiceKey) {
        self.touch_all(key);
        let Some(service) = self.services.remove(key) else {
            return;
        };
        self.late.changed(now, key);
        for (place, record) in &service.instances {
            *self.counts.of(record.persistent) -= 1;
            if record.persistent {
                self.stirred.insert((key.clone(), place.clone()));
            }
        }
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
            .chain(settings.clusters.keys())
            .cloned()
            .collect();
        Some((settings, clusters))
    }

    /// `PUT /cluster`.
    pub(crate) fn set_cluster(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        cluster: &str,
        said: Cluster,
    ) -> Result<(), Refusal> {
        self.touch_settings(key);
        let service =
            self.services
                .get_mut(key)
                .ok_or_else(|| Refusal::ClusterOfUnknownService {
                    group: key.group.to_string(),
                    name: key.name.to_string(),
                })?;
        let settings = service.settings.get_or_insert_default();
        if settings.clusters.len() >= CLUSTERS && !settings.clusters.contains_key(cluster) {
            return Err(Refusal::Full("clusters with a checker", CLUSTERS));
        }
        settings.clusters.insert(cluster.into(), said);
        let stirred = service
            .instances
            .iter()
            .filter(|(_, record)| record.persistent && &*record.cluster == cluster);
        self.stirred
            .extend(stirred.map(|(place, _)| (key.clone(), place.clone())));
        service.changed = now;
        self.late.changed(now, key);
        Ok(())
    }

    /// `PUT /health/instance` where the cluster's checker is NONE: on 1.4 the place whose health is now what was said. Later ones
    /// never carry it out: `Ok(None)` where there is no such persistent instance, else a refusal.
    pub(crate) fn health_by_hand(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        cluster: &str,
        address: &Address,
        healthy: bool,
    ) -> Result<Option<Place>, Refusal> {
        let by_hand = self.manners.health_by_hand;
        let service = self.services.get(key);
        if by_hand && service.is_none() {
            return Err(Refusal::Null(NO_SERVICE));
        }
        let said = service
            .and_then(|service| service.settings.as_ref())
            .and_then(|settings| settings.clusters.get(cluster));
        if said.is_none_or(|said| said.checker != Checker::None) {
            let known = |service: &Service| {
                let mut records = service.instances.values();
                records.any(|record| &*record.cluster == cluster)
            };
            if by_hand && !service.is_some_and(known) {
                return Err(Refusal::Null(NO_CLUSTER));
            }
            return Err(Refusal::StillChecking {
                service: key.grouped(),
                cluster: cluster.to_owned(),
            });
        }
        let place = self.find(key, address, cluster);
        if by_hand {
            if let Some(place) = &place {
                self.tell(now, key, place, healthy);
            }
            return Ok(place);
        }
        if service.is_some_and(|service| service.persistent) && place.is_some() {
            return Err(Refusal::Kind {
                service: key.grouped(),
                persistent: true,
            });
        }
        Ok(None)
    }

    /// The namespaces that have services.
    pub(crate) fn namespaces(&self) -> BTreeSet<&Namespace> {
        self.services.keys().map(|key| &key.namespace).collect()
    }

    /// A service at a glance, as it is, whatever readers see of it.
    pub(crate) fn glance(&self, key: &ServiceKey) -> Option<Glance> {
        let service = self.services.get(key)?;
        let settings = service.settings.as_ref();
        let mut glance = Glance {
            persistent: service.persistent,
            threshold: settings.map_or(0.0, |settings| settings.threshold),
            ..Glance::default()
        };
        for record in service.instances.values() {
            glance.instances += 1;
            glance.healthy += usize::from(record.healthy);
        }
        Some(glance)
    }

    /// The instances of a service as they are, equal ones as often as they were published, with where each stands.
    pub(crate) fn placed(&self, key: &ServiceKey) -> impl Iterator<Item = (&Place, Record)> {
        let service = self.services.get(key).into_iter();
        service.flat_map(|service| {
            let all = service.instances.iter();
            all.map(|(place, record)| (place, service.seen(place, record)))
        })
    }

    /// How many instances a connection published.
    pub(crate) fn published_by(&self, link: Link) -> usize {
        let all = self.published.get(&link).into_iter().flatten();
        all.map(|(_, places)| places.len()).sum()
    }

    /// Names of the services of a group, in order.
    pub(crate) fn names(&self, namespace: &Namespace, group: &str) -> Vec<String> {
        self.services
            .keys()
            .filter(|key| key.namespace == *namespace && &*key.group == group)
            .map(|key| key.name.to_string())
            .collect()
    }

    /// The services of a namespace, in order.
    pub(crate) fn of(&self, namespace: &Namespace) -> impl Iterator<Item = &ServiceKey> {
        self.services
            .keys()
            .filter(move |key| key.namespace == *namespace)
    }

    /// Whether the instances of a service are persistent; `None` for an unknown one.
    pub(crate) fn is_persistent(&self, key: &ServiceKey) -> Option<bool> {
        Some(self.services.get(key)?.persistent)
    }

    /// Whoever registered an instance over HTTP, as 2.x and 3.x count them: each address once for each kind, however many services
    /// it is in. What a connection published is the connection's.
    pub(crate) fn clients(&self) -> BTreeSet<(&Address, bool)> {
        self.services
            .values()
            .flat_map(|service| &service.instances)
            .filter(|(place, _)| place.owner.is_none())
            .map(|(place, record)| (&place.address, record.persistent))
            .collect()
    }

    /// All instances, or those of one service, and whose they are.
    pub(crate) fn published(&self, key: Option<&ServiceKey>) -> Vec<Published> {
        let services = self
            .services
            .iter()
            .filter(|(there, _)| key.is_none_or(|key| *there == key));
        let all = services.flat_map(|(key, service)| {
            service.instances.iter().map(|(place, record)| Published {
                service: key.clone(),
                address: place.address.clone(),
                cluster: record.cluster.to_string(),
                persistent: record.persistent,
                owner: place.owner,
                changed: service.changed,
            })
        });
        all.collect()
    }

    /// The metadata that an operator set for an instance.
    pub(crate) fn overruled(
        &self,
        key: &ServiceKey,
        address: &Address,
        cluster: &Arc<str>,
    ) -> Option<&Metadata> {
        let place = (address.clone(), Arc::clone(cluster));
        Some(&self.services.get(key)?.overrides.get(&place)?.metadata)
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
        let due = self.due.first().map(|(at, _)| *at);
        due.into_iter().chain(self.late.deadline()).min()
    }

    /// From now on readers see a change this much later.
    pub(crate) fn set_lag(&mut self, lag: Duration) {
        self.late.start_again(lag);
    }

    /// The services of which readers see another state since this was asked last.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<ServiceKey> {
        self.late.take_told()
    }

    /// Forgets all.
    pub(crate) fn forget(&mut self) {
        self.late.start_again(self.late.lag());
        let known: Vec<ServiceKey> = self.services.keys().cloned().collect();
        for key in &known {
            self.touch_all(key);
        }
        self.services = BTreeMap::new();
        for key in known {
            self.late.tell(key);
        }
        self.published = BTreeMap::new();
        self.counts = Counts::default();
        self.due = BTreeSet::new();
        self.stirred = BTreeSet::new();
    }

    /// Lets go what has been empty or detached long enough, and shows readers what they lag behind.
    pub(crate) fn wake(&mut self, now: Moment) {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            match self.due.pop_first() {
                Some((_, Expiry::Service(key))) => self.remove(now, &key),
                Some((_, Expiry::Override(key, address, cluster))) => {
                    self.touch_override(&key, &address, &cluster);
                    if let Some(service) = self.services.get_mut(&key) {
                        service.overrides.remove(&(address, cluster));
                        service.changed = now;
                        self.late.changed(now, &key);
                    }
                }
                None => break,
            }
        }
        self.late.wake(now, &self.services);
    }
}

/// What Java says of a service, or of a cluster, that is not there.
const NO_SERVICE: &str = "Cannot invoke \"com.alibaba.nacos.naming.core.Service.getClusterMap()\" because \"service\" is null";
const NO_CLUSTER: &str = "Cannot invoke \"com.alibaba.nacos.naming.core.Cluster.getHealthChecker()\" because the return value of \"java.util.Map.get(Object)\" is null";

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

    fn said() -> Cluster {
        Cluster {
            checker: Checker::None,
            ..Cluster::default()
        }
    }

    fn record(healthy: bool) -> Record {
        Record {
            persistent: false,
            cluster: "DEFAULT".into(),
            weight: 1.0,
            healthy,
            enabled: true,
            metadata: Metadata::new(),
            said: healthy,
            bare: false,
            without_id: false,
        }
    }

    fn persistent(healthy: bool) -> Record {
        Record {
            persistent: true,
            ..record(healthy)
        }
    }

    fn naming(like: Like, healthy: &[bool]) -> Naming {
        let mut naming = Naming::new(like);
        for (port, healthy) in healthy.iter().enumerate() {
            let port = u16::try_from(port).unwrap();
            naming
                .register(NOW, &key("s"), &address(port), record(*healthy))
                .unwrap();
        }
        naming
    }

    fn seen(naming: &Naming, port: u16) -> Option<Record> {
        let place = naming.find(&key("s"), &address(port), "DEFAULT")?;
        naming.seen(&key("s"), &place)
    }

    #[test]
    fn the_first_registration_fixes_the_kind() {
        let mut naming = naming(Like::V2_5, &[true]);
        let refused = naming.register(NOW, &key("s"), &address(9), persistent(true));
        assert_eq!(
            refused,
            Err(Refusal::Kind {
                service: "DEFAULT_GROUP@@s".into(),
                persistent: false
            })
        );
        let mut leave =
            |persistent| naming.deregister(NOW, &key("s"), &address(0), "DEFAULT", persistent);
        assert_eq!(leave(true), None);
        assert!(leave(false).is_some());
    }

    #[test]
    fn on_1_4_kinds_and_clusters_live_side_by_side_at_one_address() {
        let mut naming = naming(Like::V1_4, &[true]);
        let other = Record {
            cluster: "other".into(),
            ..record(true)
        };
        for more in [persistent(true), other] {
            naming.register(NOW, &key("s"), &address(0), more).unwrap();
        }
        assert_eq!(naming.list(&key("s"), &[], false).hosts.len(), 3);
        let gone = naming.deregister(NOW, &key("s"), &address(0), "nosuch", false);
        assert_eq!(gone, None, "another cluster's instance stays");
        assert!(naming.delete(NOW, &key("s")).unwrap().len() == 2);
        assert_eq!(naming.counts(), Counts::default());
    }

    #[test]
    fn protection_masks_only_a_service_with_settings() {
        let mut naming = naming(Like::V2_5, &[true, false, false]);
        assert!(!naming.list(&key("s"), &[], false).protected);
        naming
            .update(NOW, &key("s"), 0.6, Metadata::new(), Selector::None)
            .unwrap();
        let masked = naming.list(&key("s"), &[], false);
        assert!(masked.protected && masked.hosts.iter().all(|(_, r)| r.healthy));
        let healthy = naming.list(&key("s"), &[], true);
        assert!(!healthy.protected);
        assert_eq!(healthy.hosts.len(), 1);
    }

    #[test]
    fn on_1_4_every_service_is_masked_even_for_who_asks_for_healthy_ones_unless_its_threshold_is_negative()
     {
        let mut naming = naming(Like::V1_4, &[false, false]);
        for healthy_only in [false, true] {
            let masked = naming.list(&key("s"), &[], healthy_only).hosts;
            assert!(masked.len() == 2 && masked.iter().all(|(_, record)| record.healthy));
        }
        naming
            .update(NOW, &key("s"), -1.0, Metadata::new(), Selector::None)
            .unwrap();
        let truth = naming.list(&key("s"), &[], false).hosts;
        assert!(truth.iter().all(|(_, record)| !record.healthy));
    }

    #[test]
    fn who_says_the_health_of_a_known_instance_depends_on_the_generation() {
        for (like, by_registration, by_hand) in
            [(Like::V1_4, true, false), (Like::V2_5, false, true)]
        {
            let mut naming = Naming::new(like);
            let s = key("s");
            naming.create(NOW, &s, true, Settings::default()).unwrap();
            naming.set_cluster(NOW, &s, "DEFAULT", said()).unwrap();
            naming
                .register(NOW, &s, &address(0), persistent(true))
                .unwrap();
            let now = naming
                .register(NOW, &s, &address(0), persistent(false))
                .unwrap();
            assert_eq!(now, by_registration, "{like:?}");
            let said = naming.health_by_hand(NOW, &s, "DEFAULT", &address(0), false);
            assert_eq!(said.is_err(), by_hand, "{like:?}: {said:?}");
            assert!(!seen(&naming, 0).unwrap().healthy, "{like:?}");
        }
    }

    #[test]
    fn what_connections_publish_lies_apart_and_equal_instances_are_listed_once() {
        let mut naming = naming(Like::V2_5, &[true]);
        let publish = |naming: &mut Naming, link, ports: &[u16]| {
            let instances = ports.iter().map(|port| (address(*port), record(true)));
            naming.publish(NOW, &key("s"), Link(link), instances.collect())
        };
        let ports = |naming: &mut Naming| {
            let hosts = naming.list(&key("s"), &[], false).hosts;
            hosts.iter().map(|(at, _)| at.port).collect::<Vec<_>>()
        };
        publish(&mut naming, 1, &[0, 1, 2]).unwrap();
        publish(&mut naming, 2, &[2]).unwrap();
        assert_eq!(ports(&mut naming), [0, 1, 2], "equal ones once");
        assert_eq!(naming.counts().ephemeral, 5);
        publish(&mut naming, 1, &[1]).unwrap();
        assert_eq!(
            ports(&mut naming),
            [0, 1, 2],
            "what is left of others stays"
        );
        let gone = naming.deregister(NOW, &key("s"), &address(1), "DEFAULT", false);
        assert_eq!((gone, naming.counts().ephemeral), (None, 3));
        let differs = vec![(address(1), record(false))];
        naming.publish(NOW, &key("s"), Link(2), differs).unwrap();
        assert_eq!(ports(&mut naming), [0, 1, 1], "what differs is two");
        naming.unpublish(NOW, Link(1), None);
        naming.unpublish(NOW, Link(2), Some(&key("s")));
        assert_eq!(ports(&mut naming), [0]);
        assert!(naming.published.is_empty());
        publish(&mut naming, 3, &[]).unwrap();
        assert!(naming.published.is_empty(), "nothing is published");
    }

    #[test]
    fn a_restart_keeps_persistent_instances_and_not_what_was_known_of_their_health() {
        for (like, health) in [(Like::V1_4, [true, false]), (Like::V2_5, [false, false])] {
            let mut naming = naming(like, &[true]);
            let kept = key("kept");
            for (port, healthy) in [(0, true), (1, false)] {
                let record = persistent(healthy);
                naming.register(NOW, &kept, &address(port), record).unwrap();
            }
            naming.restart(NOW);
            assert!(!naming.knows(&key("s")), "{like:?}: ephemeral all of it");
            let seen: Vec<bool> = naming
                .all(&kept)
                .unwrap()
                .map(|(_, record)| record.healthy)
                .collect();
            assert_eq!(seen, health, "{like:?}");
            assert_eq!((naming.counts.ephemeral, naming.counts.persistent), (0, 2));
            assert_eq!(naming.deadline(), None);
        }
    }

    #[test]
    fn an_operators_values_outlive_a_registration_and_end_a_minute_after_the_instance() {
        let mut naming = naming(Like::V2_5, &[true, true]);
        let patch = Patch {
            weight: Some(5.0),
            metadata: Some([("op".into(), Some("x".into()))].into()),
            ..Patch::default()
        };
        naming
            .overrule(NOW, &key("s"), &address(0), &"DEFAULT".into(), patch, true)
            .unwrap();
        let leave =
            |naming: &mut Naming| naming.deregister(NOW, &key("s"), &address(0), "DEFAULT", false);
        assert!(leave(&mut naming).is_some());
        naming
            .register(NOW, &key("s"), &address(0), record(true))
            .unwrap();
        let with = seen(&naming, 0).unwrap();
        assert_eq!((with.weight, with.metadata.len()), (5.0, 1));
        assert_eq!(naming.deadline(), None);
        leave(&mut naming);
        naming.wake(NOW + EMPTY);
        naming
            .register(NOW + EMPTY, &key("s"), &address(0), record(true))
            .unwrap();
        assert_eq!(seen(&naming, 0), Some(record(true)));
    }

    #[test]
    fn an_empty_service_goes_with_its_settings_after_a_minute() {
        let mut naming = Naming::new(Like::V2_5);
        naming
            .create(NOW, &key("s"), true, Settings::default())
            .unwrap();
        assert_eq!(naming.deadline(), Some(NOW + EMPTY));
        naming.wake(NOW + EMPTY);
        assert!(!naming.knows(&key("s")));
        assert_eq!(naming.deadline(), None);
    }

    #[test]
    fn health_by_hand_answers_as_2_5_1_does() {
        let mut naming = Naming::new(Like::V2_5);
        let by_hand = |naming: &mut Naming| {
            naming.health_by_hand(NOW, &key("s"), "DEFAULT", &address(0), false)
        };
        let still = by_hand(&mut naming);
        assert!(matches!(still, Err(Refusal::StillChecking { .. })));
        naming
            .create(NOW, &key("s"), true, Settings::default())
            .unwrap();
        naming
            .set_cluster(NOW, &key("s"), "DEFAULT", said())
            .unwrap();
        assert_eq!(by_hand(&mut naming), Ok(None));
        naming
            .register(NOW, &key("s"), &address(0), persistent(true))
            .unwrap();
        assert!(matches!(by_hand(&mut naming), Err(Refusal::Kind { .. })));
    }

    proptest! {
        #[test]
        fn every_plan_to_forget_has_its_reason_and_every_reason_its_plan(
            apart in any::<bool>(),
            steps in proptest::collection::vec((0..6_u8, 0..3_u16, 0..40_u64, any::<bool>()), 0..80),
        ) {
            let like = if apart { Like::V1_4 } else { Like::V2_5 };
            let (mut naming, mut now) = (Naming::new(like), NOW);
            for (what, port, wait, flag) in steps {
                let s = key(if flag { "a" } else { "b" });
                let mut it = record(flag);
                it.persistent = port == 1;
                it.cluster = if port == 2 { "other".into() } else { "DEFAULT".into() };
                let cluster = Arc::clone(&it.cluster);
                match what {
                    0 | 1 => _ = naming.register(now, &s, &address(port / 2), it),
                    2 => _ = naming.deregister(now, &s, &address(port / 2), &cluster, port == 1),
                    3 if !apart => _ = naming.overrule(now, &s, &address(port / 2), &cluster, Patch::default(), flag),
                    4 => _ = naming.delete(now, &s),
                    _ => { now += Duration::from_secs(wait); naming.wake(now); }
                }
                let mut wanted = BTreeSet::new();
                let mut instances = 0;
                for (key, service) in &naming.services {
                    prop_assert_eq!(service.empty.is_some(), service.instances.is_empty());
                    instances += service.instances.len();
                    wanted.extend(service.empty.map(|at| (at + EMPTY, Expiry::Service(key.clone()))));
                    for ((address, cluster), over) in &service.overrides {
                        let there = naming.find(key, address, cluster)
                            .is_some_and(|place| service.instances[&place].cluster == *cluster);
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
