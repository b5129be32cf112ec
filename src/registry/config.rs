//! Configurations as the registry holds them: content, type, MD5, and what came of a publish.
//!
//! Tenants are kept as they are named: 2.5.1 takes `public` for the empty one when publishing only, and so do the calls.

use crate::nacos::wire::md5_hex;
use crate::registry::refusal::Refusal;
use hyper::body::Bytes;
use std::{collections::BTreeMap, time::SystemTime};

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
    /// Stores a content; whether its MD5 is another than before, which is what listeners are told.
    pub(crate) fn publish(
        &mut self,
        at: SystemTime,
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
        let md5 = md5_hex(publish.content.as_bytes());
        let changed = old_md5 != Some(md5.as_str());
        self.bytes = bytes;
        self.kept.insert(
            key.clone(),
            Config {
                content: publish.content.into(),
                md5,
                kind: publish.kind,
                encrypted_data_key: publish.encrypted_data_key,
                modified: at,
            },
        );
        Ok(changed)
    }

    /// Removes a configuration; whether there was one.
    pub(crate) fn delete(&mut self, key: &ConfigKey) -> bool {
        match self.kept.remove(key) {
            Some(gone) => {
                self.bytes -= gone.content.len();
                true
            }
            None => false,
        }
    }

    /// A configuration.
    pub(crate) fn get(&self, key: &ConfigKey) -> Option<&Config> {
        self.kept.get(key)
    }

    /// Its MD5; empty for one that is not there.
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
        let mut put = |content, cas| configs.publish(UNIX_EPOCH, &key("a"), publish(content, cas));
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
            configs.publish(UNIX_EPOCH, &key("a"), publish(&wide, None)),
            Ok(true)
        );
        let over = "x".repeat(CONTENT + 1);
        assert_eq!(
            configs.publish(UNIX_EPOCH, &key("a"), publish(&over, None)),
            Err(Refusal::ContentTooLong(CONTENT))
        );
    }

    #[test]
    fn an_unknown_type_is_text() {
        assert_eq!(kind(Some("nonsense")), "text");
        assert_eq!(kind(Some("YAML")), "yaml");
        assert_eq!(kind(None), "text");
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_contents(steps in proptest::collection::vec((0..4_u8, "[a-z]{0,9}", any::<bool>()), 0..50)) {
            let mut configs = Configs::default();
            for (id, content, delete) in steps {
                let key = key(&id.to_string());
                if delete {
                    configs.delete(&key);
                } else {
                    prop_assert!(configs.publish(UNIX_EPOCH, &key, publish(&content, None)).is_ok());
                }
                let sum: usize = configs.kept.values().map(|config| config.content.len()).sum();
                prop_assert_eq!(configs.bytes, sum);
            }
        }
    }
}
