//! Configurations as the registry holds them: content, type, MD5, and what came of a publish.
//!
//! Tenants are kept as they are named: 2.5.1 takes `public` for the empty one when publishing only, and so do the calls.

use crate::machine::Moment;
use crate::nacos::wire::md5_hex;
use crate::registry::call::Time;
use crate::registry::refusal::Refusal;
use hyper::body::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

/// Characters of one content at most (`maxContent` of the original).
pub(crate) const CONTENT: usize = 10_485_760;
/// Configurations at most.
pub(crate) const CONFIGS: usize = 10_000;
/// Bytes of all contents at most.
pub(crate) const BYTES: usize = 256 * 1024 * 1024;

/// Which configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConfigKey {
    pub(crate) tenant: String,
    pub(crate) group: String,
    pub(crate) data_id: String,
}

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) content: Bytes,
    pub(crate) md5: String,
    /// One of [`TYPES`].
    pub(crate) kind: &'static str,
    pub(crate) encrypted_data_key: String,
    pub(crate) created: SystemTime,
    pub(crate) modified: SystemTime,
}

/// The types that 2.5.1 knows; anything else is stored as `text`.
const TYPES: [&str; 8] = [
    "properties",
    "xml",
    "json",
    "text",
    "html",
    "yaml",
    "toml",
    "unset",
];

/// The type as it is stored.
pub(crate) fn kind(said: Option<&str>) -> &'static str {
    let said = said.unwrap_or_default();
    TYPES
        .into_iter()
        .find(|kind| said.eq_ignore_ascii_case(kind))
        .unwrap_or("text")
}

/// All configurations of all tenants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Configs {
    kept: BTreeMap<ConfigKey, Config>,
    bytes: usize,
    /// A fault: readers see a change this much later; zero is at once.
    lag: Duration,
    /// A fault: until then it is 409.
    busy: bool,
    /// What readers see yet of what has changed.
    before: BTreeMap<ConfigKey, Option<Config>>,
    due: BTreeSet<(Moment, ConfigKey)>,
    /// Of which configurations readers see another MD5, since that was asked last.
    changed: Vec<ConfigKey>,
}

/// What is published.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) content: String,
    pub(crate) kind: &'static str,
    pub(crate) encrypted_data_key: String,
    /// Publish only over this MD5; over nothing always.
    pub(crate) cas_md5: Option<String>,
}

impl Configs {
    /// The configurations of which readers see another MD5 since this was asked last: what listeners are told of.
    pub(crate) fn take_changed(&mut self) -> Vec<ConfigKey> {
        std::mem::take(&mut self.changed)
    }

    /// Stores a content; whether readers see another MD5 now.
    pub(crate) fn publish(
        &mut self,
        time: Time,
        key: &ConfigKey,
        publish: Publish,
    ) -> Result<bool, Refusal> {
        // At most four bytes a character: only what could be too long is counted.
        if publish.content.len() > CONTENT && publish.content.encode_utf16().count() > CONTENT {
            return Err(Refusal::ContentTooLong(CONTENT));
        }
        let old = self.kept.get(key);
        let (old_md5, old_bytes) =
            old.map_or((None, 0), |old| (Some(old.md5.as_str()), old.content.len()));
        if let (Some(wanted), Some(there)) = (&publish.cas_md5, old_md5)
            && wanted != there
        {
            return Err(Refusal::Cas);
        }
        if old.is_none() && self.kept.len() >= CONFIGS {
            return Err(Refusal::Full("configurations", CONFIGS));
        }
        let bytes = self.bytes - old_bytes + publish.content.len();
        if bytes > BYTES {
            return Err(Refusal::Full("bytes of configurations", BYTES));
        }
        let created = old.map_or(time.at, |old| old.created);
        let md5 = md5_hex(publish.content.as_bytes());
        let changed = old_md5 != Some(md5.as_str());
        self.bytes = bytes;
        let config = Config {
            content: publish.content.into(),
            md5,
            kind: publish.kind,
            encrypted_data_key: publish.encrypted_data_key,
            created,
            modified: time.at,
        };
        let old = self.kept.insert(key.clone(), config);
        let seen = !self.hide(time.now, key, old) && changed;
        if seen {
            self.changed.push(key.clone());
        }
        Ok(seen)
    }

    /// Removes a configuration; whether readers miss it now.
    pub(crate) fn delete(&mut self, now: Moment, key: &ConfigKey) -> bool {
        match self.kept.remove(key) {
            Some(gone) => {
                self.bytes -= gone.content.len();
                let seen = !self.hide(now, key, Some(gone));
                if seen {
                    self.changed.push(key.clone());
                }
                seen
            }
            None => false,
        }
    }

    /// Shows readers what was, if they lag; whether they do.
    fn hide(&mut self, now: Moment, key: &ConfigKey, old: Option<Config>) -> bool {
        if self.lag.is_zero() {
            return false;
        }
        if !self.before.contains_key(key) {
            self.before.insert(key.clone(), old);
            self.due.insert((now.saturating_add(self.lag), key.clone()));
        }
        true
    }

    /// Lets readers see what is due.
    pub(crate) fn wake(&mut self, now: Moment) {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, key)) = self.due.pop_first() else {
                break;
            };
            let before = self.md5(&key).to_owned();
            self.before.remove(&key);
            if before != self.md5(&key) {
                self.changed.push(key);
            }
        }
    }

    /// When [`Configs::wake`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    /// From now on readers lag so much; who lags no more sees all at once.
    pub(crate) fn set_lag(&mut self, lag: Duration, busy: bool) {
        (self.lag, self.busy) = (lag, busy);
        if lag.is_zero() {
            self.wake(Moment::MAX);
        }
    }

    /// Forgets all.
    pub(crate) fn forget(&mut self) {
        let fresh = Self {
            lag: self.lag,
            busy: self.busy,
            ..Self::default()
        };
        let old = std::mem::replace(self, fresh);
        let known = old.kept.keys().chain(old.before.keys());
        let seen: BTreeSet<_> = known.filter(|key| !old.md5(key).is_empty()).collect();
        self.changed = seen.into_iter().cloned().collect();
    }

    /// A configuration as readers see it.
    pub(crate) fn get(&self, key: &ConfigKey) -> Option<&Config> {
        match self.before.get(key) {
            Some(before) => before.as_ref(),
            None => self.kept.get(key),
        }
    }

    /// A configuration as it is stored, whatever readers see yet.
    pub(crate) fn stored(&self, key: &ConfigKey) -> Option<&Config> {
        self.kept.get(key)
    }

    /// The tenants that have any.
    pub(crate) fn tenants(&self) -> BTreeSet<&str> {
        self.kept.keys().map(|key| key.tenant.as_str()).collect()
    }

    /// All of a tenant as they are stored, in order.
    pub(crate) fn of(&self, tenant: &str) -> impl Iterator<Item = (&ConfigKey, &Config)> {
        self.kept
            .iter()
            .filter(move |(key, _)| key.tenant == tenant)
    }

    /// Whether readers are to come back later.
    pub(crate) fn is_busy(&self, key: &ConfigKey) -> bool {
        self.busy && self.before.contains_key(key)
    }

    /// Its MD5 as readers see it; empty for one that is not there.
    pub(crate) fn md5(&self, key: &ConfigKey) -> &str {
        self.get(key).map_or("", |config| &config.md5)
    }

    /// How many a tenant has.
    pub(crate) fn count(&self, tenant: &str) -> usize {
        self.kept.keys().filter(|key| key.tenant == tenant).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    const NOW: Time = Time {
        now: Moment::ZERO,
        at: UNIX_EPOCH,
    };

    fn key(data_id: &str) -> ConfigKey {
        ConfigKey {
            tenant: String::new(),
            group: "DEFAULT_GROUP".into(),
            data_id: data_id.into(),
        }
    }

    fn publish(content: &str, cas: Option<&str>) -> Publish {
        Publish {
            content: content.into(),
            kind: "text",
            encrypted_data_key: String::new(),
            cas_md5: cas.map(str::to_owned),
        }
    }

    #[test]
    fn cas_guards_what_is_there_and_creates_what_is_not() {
        let mut configs = Configs::default();
        let one = md5_hex(b"1");
        let mut put = |content, cas| configs.publish(NOW, &key("a"), publish(content, cas));
        assert_eq!(put("1", Some("anything")), Ok(true));
        assert_eq!(put("2", Some("anything")), Err(Refusal::Cas));
        assert_eq!(put("2", Some(&one)), Ok(true));
        assert_eq!(put("2", None), Ok(false));
        assert_eq!(configs.md5(&key("a")), md5_hex(b"2"));
        assert_eq!(configs.md5(&key("b")), "");
    }

    #[test]
    fn length_is_counted_in_characters_not_bytes() {
        let mut configs = Configs::default();
        let wide = "ü".repeat(CONTENT);
        assert_eq!(
            configs.publish(NOW, &key("a"), publish(&wide, None)),
            Ok(true)
        );
        let over = "x".repeat(CONTENT + 1);
        assert_eq!(
            configs.publish(NOW, &key("a"), publish(&over, None)),
            Err(Refusal::ContentTooLong(CONTENT))
        );
    }

    #[test]
    fn an_unknown_type_is_text() {
        assert_eq!(kind(Some("nonsense")), "text");
        assert_eq!(kind(Some("YAML")), "yaml");
        assert_eq!(kind(None), "text");
    }

    #[test]
    fn readers_lag_behind_a_publish_and_a_deletion_and_are_told_when_they_see_it() {
        let mut configs = Configs::default();
        let ms = Duration::from_millis;
        let read = |configs: &Configs| {
            let config = configs.get(&key("a"))?;
            Some(String::from_utf8(config.content.to_vec()).unwrap())
        };
        let put = |configs: &mut Configs, now, content| {
            let time = Time {
                now,
                at: UNIX_EPOCH,
            };
            configs.publish(time, &key("a"), publish(content, None))
        };
        let wake = |configs: &mut Configs, now| {
            configs.wake(now);
            configs.take_changed()
        };
        configs.set_lag(ms(200), true);
        assert_eq!(
            put(&mut configs, ms(0), "1"),
            Ok(false),
            "nobody is told yet"
        );
        assert_eq!(read(&configs), None);
        assert!(configs.is_busy(&key("a")));
        assert_eq!(put(&mut configs, ms(100), "2"), Ok(false));
        assert!(wake(&mut configs, ms(199)).is_empty());
        assert_eq!(wake(&mut configs, ms(200)), [key("a")]);
        assert_eq!(read(&configs).as_deref(), Some("2"));
        assert!(!configs.is_busy(&key("a")));
        assert!(!configs.delete(ms(300), &key("a")));
        assert_eq!(read(&configs).as_deref(), Some("2"));
        configs.set_lag(ms(0), false);
        assert_eq!(configs.take_changed(), [key("a")], "an end of it shows all");
        assert_eq!((read(&configs), configs.deadline()), (None, None));
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_contents(steps in proptest::collection::vec((0..4_u8, "[a-z]{0,9}", any::<bool>()), 0..50)) {
            let mut configs = Configs::default();
            for (id, content, delete) in steps {
                let key = key(&id.to_string());
                if delete {
                    configs.delete(Moment::ZERO, &key);
                } else {
                    prop_assert!(configs.publish(NOW, &key, publish(&content, None)).is_ok());
                }
                let sum: usize = configs.kept.values().map(|config| config.content.len()).sum();
                prop_assert_eq!(configs.bytes, sum);
            }
        }
    }
}
