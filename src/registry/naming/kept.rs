//! What of services and instances outlives the process, and how it comes back: see [`crate::registry::kept`].
//!
//! A service has a row only for what it was told about itself; otherwise it is there because a persistent instance is, or what an
//! operator set. Health is not kept: after a restart it is what was said at the registration, or, later than 1.4, unhealthy until
//! somebody checks. Where the kinds of one service are not apart, a row of the other kind takes the place of what is there: that
//! can only be a change that came back because it could not be kept.

use super::Address;
use super::Cluster;
use super::EMPTY;
use super::Expiry;
use super::Naming;
use super::Override;
use super::Place;
use super::Record;
use super::Service;
use super::Settings;
use crate::machine::Moment;
use crate::nacos::model::ServiceKey;
use crate::registry::checker::Checker;
use crate::registry::kept;
use crate::registry::kept::Change;
use crate::registry::kept::Kept;
use crate::registry::kept::Key;
use crate::registry::refusal::Refusal;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

type Services = BTreeMap<ServiceKey, Service>;

/// What a row holds now.
fn look(services: &Services, apart: bool, key: &Key) -> Option<Kept> {
    match key {
        Key::Service(service) => services.get(&service.into())?.kept().map(Kept::Service),
        Key::Instance(service, ip, port, cluster) => {
            let address = address(ip, *port);
            let place = Place::new(apart, &address, cluster, true);
            let record = services.get(&service.into())?.instances.get(&place)?;
            let meant = record.persistent && record.cluster == *cluster;
            meant.then(|| Kept::Instance(record.kept()))
        }
        Key::Override(service, ip, port, cluster) => {
            let service = services.get(&service.into())?;
            let place = (address(ip, *port), Arc::clone(cluster));
            let over = service.overrides.get(&place)?;
            Some(Kept::Override(over.kept(service.persistent)))
        }
        _ => None,
    }
}

fn address(ip: &Arc<str>, port: u16) -> Address {
    let ip = Arc::clone(ip);
    Address { ip, port }
}

fn instance_key(key: &ServiceKey, address: &Address, cluster: &Arc<str>) -> Key {
    let (ip, cluster) = (Arc::clone(&address.ip), Arc::clone(cluster));
    Key::Instance(key.into(), ip, address.port, cluster)
}

fn override_key(key: &ServiceKey, address: &Address, cluster: &Arc<str>) -> Key {
    let (ip, cluster) = (Arc::clone(&address.ip), Arc::clone(cluster));
    Key::Override(key.into(), ip, address.port, cluster)
}

impl Service {
    fn kept(&self) -> Option<kept::Settings> {
        let settings = self.settings.as_ref()?;
        let clusters = settings.clusters.iter();
        Some(kept::Settings {
            persistent: self.persistent,
            threshold: settings.threshold,
            metadata: settings.metadata.clone(),
            selector: settings.selector.clone(),
            clusters: clusters
                .map(|(name, cluster)| (Arc::clone(name), cluster.kept()))
                .collect(),
        })
    }

    /// The rows that it is in.
    fn rows(&self, key: &ServiceKey) -> Vec<Key> {
        let persistent = self.instances.iter().filter(|(_, it)| it.persistent);
        let instances =
            persistent.map(|(place, it)| instance_key(key, &place.address, &it.cluster));
        let overrides = self.overrides.keys();
        let overrides = overrides.map(|(address, cluster)| override_key(key, address, cluster));
        let settings = self.settings.iter().map(|_| Key::Service(key.into()));
        settings.chain(instances).chain(overrides).collect()
    }
}

impl Cluster {
    fn kept(&self) -> kept::Cluster {
        kept::Cluster {
            checker: self.checker.shown(),
            port: self.port,
            instance_port: self.instance_port,
            metadata: self.metadata.clone(),
        }
    }

    fn recall(kept: kept::Cluster) -> Result<Self, Refusal> {
        Ok(Self {
            checker: Checker::read(&kept.checker.to_string())?,
            port: kept.port,
            instance_port: kept.instance_port,
            metadata: kept.metadata,
        })
    }
}

impl Record {
    fn kept(&self) -> kept::Instance {
        kept::Instance {
            weight: self.weight,
            enabled: self.enabled,
            metadata: self.metadata.clone(),
            said: self.said,
            bare: self.bare,
            without_id: self.without_id,
        }
    }
}

impl Override {
    fn kept(&self, persistent: bool) -> kept::Override {
        kept::Override {
            persistent,
            weight: self.weight,
            enabled: self.enabled,
            metadata: self.metadata.clone(),
        }
    }
}

impl Naming {
    /// From now on [`Naming::take_written`] tells what has changed.
    pub(crate) fn note_changes(&mut self) {
        self.written.begin();
    }

    /// The rows that have changed since this was asked last.
    pub(crate) fn take_written(&mut self) -> Vec<Change> {
        let touched = self.written.take();
        kept::changes(touched, |key| self.row(key)).collect()
    }

    /// What a row holds.
    fn row(&self, key: &Key) -> Option<Kept> {
        look(&self.services, self.manners.places_apart, key)
    }

    /// All rows.
    pub(crate) fn rows(&self) -> BTreeMap<Key, Kept> {
        let keys = self.services.iter().flat_map(|(key, it)| it.rows(key));
        keys.filter_map(|key| self.row(&key).map(|kept| (key, kept)))
            .collect()
    }

    fn touch(&mut self, key: impl FnOnce() -> Key) {
        let (services, apart) = (&self.services, self.manners.places_apart);
        self.written.touch(key, |key| look(services, apart, key));
    }

    /// The settings of a service are about to change.
    pub(super) fn touch_settings(&mut self, key: &ServiceKey) {
        self.touch(|| Key::Service(key.into()));
    }

    /// What an operator set is about to change.
    pub(super) fn touch_override(
        &mut self,
        key: &ServiceKey,
        address: &Address,
        cluster: &Arc<str>,
    ) {
        self.touch(|| override_key(key, address, cluster));
    }

    /// What is at a place is about to change.
    pub(super) fn touch_place(&mut self, key: &ServiceKey, place: &Place) {
        if !self.written.is_noted() {
            return;
        }
        let service = self.services.get(key);
        let there = service.and_then(|service| service.instances.get(place));
        if let Some(there) = there.filter(|there| there.persistent) {
            let row = instance_key(key, &place.address, &there.cluster);
            self.touch(|| row);
        }
    }

    /// An instance is about to come to a place.
    pub(super) fn touch_for(&mut self, key: &ServiceKey, place: &Place, record: &Record) {
        self.touch_place(key, place);
        if record.persistent {
            self.touch(|| instance_key(key, &place.address, &record.cluster));
        }
    }

    /// A service is about to go, with all that is in it.
    pub(super) fn touch_all(&mut self, key: &ServiceKey) {
        if !self.written.is_noted() {
            return;
        }
        let rows = self.services.get(key).map(|service| service.rows(key));
        for row in rows.unwrap_or_default() {
            self.touch(|| row);
        }
    }

    /// What a standalone server knows after a restart.
    pub(crate) fn restart(&mut self, now: Moment) {
        let rows = self.rows();
        self.forget();
        for (key, kept) in rows {
            if let Err(refusal) = self.take_in(now, &key, Some(kept)) {
                tracing::error!(
                    ?refusal,
                    "a row cannot be taken in again; this is a bug of ours"
                );
            }
        }
    }

    /// Makes a row what it was. A service that only a row had called for is gone with it.
    pub(crate) fn take_back(
        &mut self,
        now: Moment,
        key: &Key,
        was: Option<Kept>,
    ) -> Result<(), Refusal> {
        self.take_in(now, key, was)?;
        let (Key::Service(service) | Key::Instance(service, ..) | Key::Override(service, ..)) = key
        else {
            return Ok(());
        };
        let service = service.into();
        let left = self.services.get(&service).is_some_and(|it| {
            it.settings.is_none() && it.instances.is_empty() && it.overrides.is_empty()
        });
        if left {
            self.remove(now, &service);
        }
        Ok(())
    }

    /// Makes a row hold this.
    pub(crate) fn take_in(
        &mut self,
        now: Moment,
        row: &Key,
        kept: Option<Kept>,
    ) -> Result<(), Refusal> {
        match (row, kept) {
            (Key::Service(service), Some(Kept::Service(kept))) => {
                let mut clusters = BTreeMap::new();
                for (name, cluster) in kept.clusters {
                    clusters.insert(name, Cluster::recall(cluster)?);
                }
                let key = service.into();
                self.become_of(now, &key, kept.persistent)?;
                let settings = Settings {
                    threshold: kept.threshold,
                    metadata: kept.metadata,
                    selector: kept.selector,
                    clusters,
                };
                self.set(now, &key, Some(settings));
            }
            (Key::Service(service), _) => self.set(now, &service.into(), None),
            (Key::Instance(service, ip, port, cluster), kept) => {
                let (key, address) = (service.into(), address(ip, *port));
                let place = self.place(&address, cluster, true);
                let Some(Kept::Instance(kept)) = kept else {
                    let record = self.seen(&key, &place);
                    if record.is_some_and(|it| it.persistent && it.cluster == *cluster) {
                        self.leave(now, &key, &place);
                    }
                    return Ok(());
                };
                self.become_of(now, &key, true)?;
                let record = Record {
                    persistent: true,
                    cluster: Arc::clone(cluster),
                    weight: kept.weight,
                    healthy: kept.said && self.manners.health_by_hand,
                    enabled: kept.enabled,
                    metadata: kept.metadata,
                    said: kept.said,
                    bare: kept.bare,
                    without_id: kept.without_id,
                };
                self.put(now, &key, place, record)?;
            }
            (Key::Override(service, ip, port, cluster), kept) => {
                let (key, address) = (ServiceKey::from(service), address(ip, *port));
                self.drop_override(now, &key, &address, cluster);
                if let Some(Kept::Override(kept)) = kept {
                    if !self.knows(&key) {
                        self.service(now, &key, kept.persistent)?;
                    }
                    let over = Override {
                        weight: kept.weight,
                        enabled: kept.enabled,
                        metadata: kept.metadata,
                        detached: None,
                    };
                    self.lay(now, &key, address, cluster, over);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes a service be there, and of this kind.
    fn become_of(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        persistent: bool,
    ) -> Result<(), Refusal> {
        if let Some(service) = self.services.get(key)
            && service.persistent != persistent
            && !self.manners.places_apart
        {
            let others = service.instances.iter();
            let others = others.filter(|(_, it)| it.persistent != persistent);
            let others: Vec<Place> = others.map(|(place, _)| place.clone()).collect();
            for place in others {
                self.leave(now, key, &place);
            }
        }
        let apart = self.manners.places_apart;
        let service = self.service(now, key, persistent)?;
        if !apart {
            service.persistent = persistent;
        }
        Ok(())
    }

    fn set(&mut self, now: Moment, key: &ServiceKey, settings: Option<Settings>) {
        self.touch_settings(key);
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        service.settings = settings;
        service.changed = now;
        // Other checkers may hold now.
        let checked = service.instances.iter().filter(|(_, it)| it.persistent);
        let checked: BTreeSet<_> = checked
            .map(|(place, _)| (key.clone(), place.clone()))
            .collect();
        self.stirred.extend(checked);
        self.late.changed(now, key);
    }

    fn drop_override(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        address: &Address,
        cluster: &Arc<str>,
    ) {
        self.touch_override(key, address, cluster);
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        let place = (address.clone(), Arc::clone(cluster));
        let Some(over) = service.overrides.remove(&place) else {
            return;
        };
        if let Some(since) = over.detached {
            let (address, cluster) = place;
            let expiry = Expiry::Override(key.clone(), address, cluster);
            self.due.remove(&(since.saturating_add(EMPTY), expiry));
        }
        service.changed = now;
        self.late.changed(now, key);
    }

    /// Lays what an operator set over what is there, or keeps it for what comes.
    fn lay(
        &mut self,
        now: Moment,
        key: &ServiceKey,
        address: Address,
        cluster: &Arc<str>,
        mut over: Override,
    ) {
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        let there = service.at(&address).any(|(_, it)| it.cluster == *cluster);
        let place = (address, Arc::clone(cluster));
        if !there {
            over.detached = Some(now);
            let expiry = Expiry::Override(key.clone(), place.0.clone(), Arc::clone(cluster));
            self.due.insert((now.saturating_add(EMPTY), expiry));
        }
        service.overrides.insert(place, over);
        service.changed = now;
        self.late.changed(now, key);
    }
}
