//! Configurations as the registry holds them: content, what is said of it, and its variants for some readers; what came of a publish.
//!
//! Tenants are kept as they are named: 2.5.1 takes `public` for the empty one when publishing only, and so do the calls.
//!
//! A variant (`gray` in Nacos' words) is another content under the same name, for the addresses of a beta or for a tag. Who reads
//! says who he is; a beta wins over a tag, and both over the formal content. Deleting the formal content takes its variants out of
//! sight, as the original does: they are there to be stopped, and seen again once published again.
//!
//! Everything but what readers lag behind outlives the process: see [`crate::registry::kept`].

use crate::machine::Moment;
use crate::nacos::wire::md5_hex;
use crate::registry::history;
use crate::registry::history::History;
use crate::registry::history::Op;
use crate::registry::history::Record;
use crate::registry::kept;
use crate::registry::kept::Change;
use crate::registry::kept::Kept;
use crate::registry::kept::Key;
use crate::registry::kept::Written;
use crate::registry::model::Author;
use crate::registry::model::Config;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::model::Reader;
use crate::registry::model::Time;
use crate::registry::model::Variant;
use crate::registry::model::Words;
use crate::registry::refusal::Refusal;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Characters of one content at most (`maxContent` of the original).
pub(crate) const CONTENT: usize = 10_485_760;
/// Configurations at most.
pub(crate) const CONFIGS: usize = 10_000;
/// Bytes of all contents at most, with what is said of them, variants included.
pub(crate) const BYTES: usize = 256 * 1024 * 1024;

/// Ids of configurations are above this, and so none is the number of a record too.
const IDS: u64 = 1 << 40;

/// What a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen<'a> {
    pub(crate) config: &'a Config,
    /// Of which variant it is the content.
    pub(crate) gray: Option<&'a Gray>,
    /// The type of the formal content, which a variant is shown with; `text` where there is none.
    pub(crate) kind: &'static str,
}

/// What is kept under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    formal: Option<Config>,
    variants: BTreeMap<Gray, Variant>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.formal.is_none() && self.variants.is_empty()
    }

    /// What a reader sees who asks for `tag`, or for none; who asks for one that is not there sees nothing.
    fn seen(&self, reader: &Reader, tag: Option<&str>) -> Option<Seen<'_>> {
        let kind = self.formal.as_ref().map_or("text", |formal| formal.kind);
        let asked = tag.or(reader.tag.as_deref());
        let mut variants = self.variants.iter();
        let his = variants.find(|(gray, variant)| variant.is_for(gray, reader, asked));
        if let Some((gray, variant)) = his {
            return Some(Seen {
                config: &variant.config,
                gray: Some(gray),
                kind,
            });
        }
        let formal = self.formal.as_ref().filter(|_| tag.is_none());
        formal.map(|config| Seen {
            config,
            gray: None,
            kind,
        })
    }

    fn md5(&self, reader: &Reader) -> &str {
        self.seen(reader, None).map_or("", |seen| &seen.config.md5)
    }

    /// Whether all readers see the same.
    fn is_plain(&self) -> bool {
        self.variants.is_empty()
    }

    fn bytes(&self) -> usize {
        let variants = self.variants.values().map(Variant::weight);
        self.formal.as_ref().map_or(0, Config::weight) + variants.sum::<usize>()
    }
}

/// What has changed for readers.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    pub(crate) key: ConfigKey,
    was: Entry,
}

/// All configurations of all tenants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Configs {
    kept: BTreeMap<ConfigKey, Entry>,
    history: History,
    /// Formal contents of all.
    count: usize,
    bytes: usize,
    /// The last id.
    last_id: u64,
    /// A fault: readers see a change this much later; zero is at once.
    lag: Duration,
    /// A fault: until then it is 409.
    busy: bool,
    /// What readers see yet of what has changed.
    before: BTreeMap<ConfigKey, Entry>,
    due: BTreeSet<(Moment, ConfigKey)>,
    /// What readers see otherwise, since that was asked last.
    changed: Vec<Changed>,
    /// What has changed, since that was asked last.
    written: Written,
}

/// What is published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publish {
    pub(crate) content: String,
    pub(crate) kind: &'static str,
    /// Of a formal content nothing leaves what is there.
    pub(crate) app_name: Option<String>,
    /// Nothing leaves what is there.
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) words: Words,
    pub(crate) encrypted_data_key: String,
    /// Publish only over this MD5; over nothing always.
    pub(crate) cas_md5: Option<String>,
    pub(crate) by: Author,
}

impl Publish {
    fn check_length(&self) -> Result<(), Refusal> {
        // At most four bytes a character: only what could be too long is counted.
        if self.content.len() > CONTENT && self.content.encode_utf16().count() > CONTENT {
            return Err(Refusal::ContentTooLong(CONTENT));
        }
        Ok(())
    }

    /// The configuration in the place of an old one, or a new one of that id.
    fn config(self, time: Time, old: Option<&Config>, id: u64) -> Config {
        Config {
            id: old.map_or(id, |old| old.id),
            md5: md5_hex(self.content.as_bytes()),
            content: self.content.into(),
            kind: self.kind,
            app_name: self.app_name.unwrap_or_default(),
            tags: self.tags.unwrap_or_default(),
            words: self.words,
            encrypted_data_key: self.encrypted_data_key,
            by: self.by,
            created: old.map_or(time.at, |old| old.created),
            modified: time.at,
        }
    }
}

impl Configs {
    /// What readers see otherwise since this was asked last: what listeners are told of.
    pub(crate) fn take_changed(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changed)
    }

    /// From now on [`Configs::take_written`] tells what has changed.
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
        match key {
            Key::Config(key) => self.stored(key).cloned().map(Kept::Config),
            Key::Variant(key, gray) => {
                let variant = self.kept.get(key)?.variants.get(gray);
                variant.cloned().map(Kept::Variant)
            }
            Key::Record(id) => self.history.get(*id).cloned().map(Kept::Record),
            _ => None,
        }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> BTreeMap<Key, Kept> {
        let mut rows = BTreeMap::new();
        for (key, entry) in &self.kept {
            let formal = entry.formal.iter();
            rows.extend(formal.map(|it| (Key::Config(key.clone()), Kept::Config(it.clone()))));
            rows.extend(entry.variants.iter().map(|(gray, variant)| {
                let row = Key::Variant(key.clone(), gray.clone());
                (row, Kept::Variant(variant.clone()))
            }));
        }
        rows.extend(self.history.ids().filter_map(|id| {
            let row = Key::Record(id);
            self.row(&row).map(|kept| (row, kept))
        }));
        rows
    }

    /// Makes a row hold this.
    pub(crate) fn take_in(&mut self, now: Moment, row: &Key, kept: Option<Kept>) {
        let (Key::Config(key) | Key::Variant(key, _)) = row else {
            if let Key::Record(id) = row {
                let record = match kept {
                    Some(Kept::Record(record)) => Some(record),
                    _ => None,
                };
                self.last_id = self
                    .last_id
                    .max(record.as_ref().map_or(0, |it| it.config.id));
                self.history.put(*id, record);
            }
            return;
        };
        let was = self.kept.get(key).cloned().unwrap_or_default();
        let mut is = was.clone();
        let last_id = &mut self.last_id;
        match (row, kept) {
            (Key::Variant(_, gray), Some(Kept::Variant(variant))) => {
                *last_id = (*last_id).max(variant.config.id);
                is.variants.insert(gray.clone(), variant);
            }
            (Key::Variant(_, gray), _) => drop(is.variants.remove(gray)),
            (_, Some(Kept::Config(config))) => {
                *last_id = (*last_id).max(config.id);
                is.formal = Some(config);
            }
            _ => is.formal = None,
        }
        self.count =
            self.count + usize::from(is.formal.is_some()) - usize::from(was.formal.is_some());
        self.bytes = self.bytes + is.bytes() - was.bytes();
        if is.is_empty() {
            self.kept.remove(key);
        } else {
            self.kept.insert(key.clone(), is);
        }
        self.change(now, key, was);
    }

    fn touch_formal(&mut self, key: &ConfigKey) {
        let formal = self.kept.get(key).and_then(|entry| entry.formal.as_ref());
        let look = |_: &Key| formal.cloned().map(Kept::Config);
        self.written.touch(|| Key::Config(key.clone()), look);
    }

    fn touch_variant(&mut self, key: &ConfigKey, gray: &Gray) {
        let variant = self
            .kept
            .get(key)
            .and_then(|entry| entry.variants.get(gray));
        let look = |_: &Key| variant.cloned().map(Kept::Variant);
        let row = || Key::Variant(key.clone(), gray.clone());
        self.written.touch(row, look);
    }

    /// What was published and deleted.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// The id of what is made next.
    fn next_id(&self) -> u64 {
        self.last_id.max(IDS) + 1
    }

    /// Whether there is room for a content in place of one of `old` bytes; how many bytes all would be.
    fn room(&self, old: usize, new: usize) -> Result<usize, Refusal> {
        let bytes = self.bytes - old + new;
        if bytes > BYTES {
            return Err(Refusal::Full("bytes of configurations", BYTES));
        }
        Ok(bytes)
    }

    /// Stores a content; whether readers see another MD5 now.
    pub(crate) fn publish(
        &mut self,
        time: Time,
        key: &ConfigKey,
        mut publish: Publish,
    ) -> Result<bool, Refusal> {
        publish.check_length()?;
        let old = self.stored(key).cloned();
        if let (Some(wanted), Some(there)) = (&publish.cas_md5, &old)
            && *wanted != there.md5
        {
            return Err(Refusal::Cas);
        }
        if old.is_none() && self.count >= CONFIGS {
            return Err(Refusal::Full("configurations", CONFIGS));
        }
        if let Some(old) = &old {
            publish.app_name.get_or_insert_with(|| old.app_name.clone());
            publish.tags.get_or_insert_with(|| old.tags.clone());
        }
        let config = publish.config(time, old.as_ref(), self.next_id());
        let old_bytes = old.as_ref().map_or(0, Config::weight);
        self.bytes = self.room(old_bytes, config.weight())?;
        let was = self.kept.get(key).cloned().unwrap_or_default();
        if old.is_none() {
            self.count += 1;
            self.last_id = config.id;
        }
        self.touch_formal(key);
        let (op, recorded) = old.map_or((Op::Insert, config.clone()), |old| (Op::Update, old));
        let by = config.by.clone();
        self.record(time, key, op, history::Of::Formal, recorded, by);
        self.kept.entry(key.clone()).or_default().formal = Some(config);
        Ok(self.change(time.now, key, was))
    }

    /// Stores a variant, of which there may be `most`; its name comes with the addresses of a beta.
    pub(crate) fn publish_variant(
        &mut self,
        time: Time,
        key: &ConfigKey,
        (gray, ips): (&Gray, &str),
        most: usize,
        publish: Publish,
    ) -> Result<bool, Refusal> {
        publish.check_length()?;
        let was = self.kept.get(key).cloned().unwrap_or_default();
        let old = was.variants.get(gray).cloned();
        if let (Some(wanted), Some(there)) = (&publish.cas_md5, &old)
            && *wanted != there.config.md5
        {
            return Err(Refusal::GrayCas);
        }
        if old.is_none() && was.variants.len() >= most {
            return Err(Refusal::TooManyVariants(most));
        }
        if was.is_empty() && self.kept.len() >= 2 * CONFIGS {
            return Err(Refusal::Full("configurations of variants alone", CONFIGS));
        }
        let old_config = old.as_ref().map(|old| &old.config);
        let variant = Variant {
            ips: ips.to_owned(),
            buried: false,
            config: publish.config(time, old_config, self.next_id()),
        };
        let old_bytes = old.as_ref().map_or(0, Variant::weight);
        self.bytes = self.room(old_bytes, variant.weight())?;
        if old.is_none() {
            self.last_id = variant.config.id;
        }
        let by = variant.config.by.clone();
        let (op, recorded) = match old {
            Some(old) => (Op::Update, old),
            None => (Op::Insert, variant.clone()),
        };
        let of = history::Of::variant(gray, &recorded.ips);
        self.record(time, key, op, of, recorded.config, by);
        self.touch_variant(key, gray);
        let entry = self.kept.entry(key.clone()).or_default();
        entry.variants.insert(gray.clone(), variant);
        Ok(self.change(time.now, key, was))
    }

    /// Removes a configuration; whether readers miss it now.
    pub(crate) fn delete(&mut self, time: Time, key: &ConfigKey, by: Author) -> bool {
        let Some(was) = self.kept.get(key).filter(|was| was.formal.is_some()) else {
            return false;
        };
        let was = was.clone();
        self.touch_formal(key);
        for gray in was.variants.keys() {
            self.touch_variant(key, gray);
        }
        let Some(entry) = self.kept.get_mut(key) else {
            return false;
        };
        let Some(gone) = entry.formal.take() else {
            return false;
        };
        for variant in entry.variants.values_mut() {
            variant.buried = true;
        }
        if entry.is_empty() {
            self.kept.remove(key);
        }
        self.count -= 1;
        self.bytes -= gone.weight();
        self.record(time, key, Op::Delete, history::Of::Formal, gone, by);
        self.change(time.now, key, was)
    }

    /// Removes a variant; whether it was there.
    pub(crate) fn delete_variant(
        &mut self,
        time: Time,
        key: &ConfigKey,
        gray: &Gray,
        by: Author,
    ) -> bool {
        self.touch_variant(key, gray);
        let Some(entry) = self.kept.get_mut(key) else {
            return false;
        };
        let was = entry.clone();
        let Some(gone) = entry.variants.remove(gray) else {
            return false;
        };
        if entry.is_empty() {
            self.kept.remove(key);
        }
        self.bytes -= gone.weight();
        let of = history::Of::variant(gray, &gone.ips);
        self.record(time, key, Op::Delete, of, gone.config, by);
        self.change(time.now, key, was);
        true
    }

    fn record(
        &mut self,
        time: Time,
        key: &ConfigKey,
        op: Op,
        of: history::Of,
        config: Config,
        by: Author,
    ) {
        let touched = self.history.push(Record {
            at: time.at,
            key: key.clone(),
            op,
            of,
            config,
            by,
        });
        for (id, was) in touched {
            let look = |_: &Key| was.map(Kept::Record);
            self.written.touch(|| Key::Record(id), look);
        }
    }

    /// Takes note of what readers see otherwise; whether one does, now.
    fn change(&mut self, now: Moment, key: &ConfigKey, was: Entry) -> bool {
        if !self.lag.is_zero() {
            if !self.before.contains_key(key) {
                self.before.insert(key.clone(), was);
                self.due.insert((now.saturating_add(self.lag), key.clone()));
            }
            return false;
        }
        self.tell(key.clone(), was)
    }

    /// Notes a change for listeners, unless everybody sees what he saw.
    fn tell(&mut self, key: ConfigKey, was: Entry) -> bool {
        let changed = Changed { key, was };
        let nobody = Reader::default();
        let plain = changed.was.is_plain() && self.entry(&changed.key).is_plain();
        if plain && !self.concerns(&changed, &nobody) {
            return false;
        }
        self.changed.push(changed);
        true
    }

    /// Whether a reader sees another MD5 than before that change.
    pub(crate) fn concerns(&self, changed: &Changed, reader: &Reader) -> bool {
        changed.was.md5(reader) != self.entry(&changed.key).md5(reader)
    }

    /// Lets readers see what is due.
    pub(crate) fn wake(&mut self, now: Moment) {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, key)) = self.due.pop_first() else {
                break;
            };
            if let Some(was) = self.before.remove(&key) {
                self.tell(key, was);
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
        if self.written.is_noted() {
            for (key, kept) in self.rows() {
                self.written.touch(|| key, |_| Some(kept));
            }
        }
        let fresh = Self {
            lag: self.lag,
            busy: self.busy,
            last_id: self.last_id,
            written: std::mem::take(&mut self.written),
            ..Self::default()
        };
        let old = std::mem::replace(self, fresh);
        let known: BTreeSet<_> = old.kept.keys().chain(old.before.keys()).collect();
        for key in known {
            self.tell(key.clone(), old.entry(key).clone());
        }
    }

    /// What is kept under a name, as readers see it.
    fn entry(&self, key: &ConfigKey) -> &Entry {
        const NOTHING: &Entry = &Entry {
            formal: None,
            variants: BTreeMap::new(),
        };
        let before = self.before.get(key);
        before.or_else(|| self.kept.get(key)).unwrap_or(NOTHING)
    }

    /// What a reader sees who asks for `tag`, or for none.
    pub(crate) fn get(
        &self,
        key: &ConfigKey,
        reader: &Reader,
        tag: Option<&str>,
    ) -> Option<Seen<'_>> {
        self.entry(key).seen(reader, tag)
    }

    /// A configuration as it is stored, whatever readers see yet.
    pub(crate) fn stored(&self, key: &ConfigKey) -> Option<&Config> {
        self.kept.get(key)?.formal.as_ref()
    }

    /// The type that a content is shown with, of a name under which readers may find one.
    pub(crate) fn kind(&self, key: &ConfigKey) -> Option<&'static str> {
        let entry = self.entry(key);
        let seen = entry.variants.values().any(|variant| !variant.buried);
        let formal = entry.formal.as_ref().map(|formal| formal.kind);
        formal.or(seen.then_some("text"))
    }

    /// A configuration by its id.
    pub(crate) fn by_id(&self, id: u64) -> Option<&ConfigKey> {
        let mut all = self.all();
        all.find(|(_, config)| config.id == id).map(|(key, _)| key)
    }

    /// A variant as it is stored.
    pub(crate) fn variant(&self, key: &ConfigKey, gray: &Gray) -> Option<&Variant> {
        self.kept.get(key)?.variants.get(gray)
    }

    /// All as they are stored, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&ConfigKey, &Config)> {
        let kept = self.kept.iter();
        kept.filter_map(|(key, entry)| Some((key, entry.formal.as_ref()?)))
    }

    /// The tenants that have any.
    pub(crate) fn tenants(&self) -> BTreeSet<&str> {
        self.kept.keys().map(|key| key.tenant.as_str()).collect()
    }

    /// All of a tenant as they are stored, in order.
    pub(crate) fn of(&self, tenant: &str) -> impl Iterator<Item = (&ConfigKey, &Config)> {
        self.all().filter(move |(key, _)| key.tenant == tenant)
    }

    /// Whether readers are to come back later.
    pub(crate) fn is_busy(&self, key: &ConfigKey) -> bool {
        self.busy && self.before.contains_key(key)
    }

    /// Its MD5 as a reader sees it; empty for one that is not there.
    pub(crate) fn md5(&self, key: &ConfigKey, reader: &Reader) -> &str {
        self.entry(key).md5(reader)
    }

    /// How many a tenant has.
    pub(crate) fn count(&self, tenant: &str) -> usize {
        self.of(tenant).count()
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
            cas_md5: cas.map(str::to_owned),
            ..Publish::default()
        }
    }

    fn keys(configs: &mut Configs) -> Vec<ConfigKey> {
        let changed = configs.take_changed().into_iter();
        changed.map(|changed| changed.key).collect()
    }

    fn reader(ip: &str, tag: Option<&str>) -> Reader {
        Reader {
            ip: ip.into(),
            tag: tag.map(str::to_owned),
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
        let anybody = Reader::default();
        assert_eq!(configs.md5(&key("a"), &anybody), md5_hex(b"2"));
        assert_eq!(configs.md5(&key("b"), &anybody), "");
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
        assert_eq!(crate::registry::model::kind(Some("nonsense")), "text");
        assert_eq!(crate::registry::model::kind(Some("YAML")), "yaml");
        assert_eq!(crate::registry::model::kind(None), "text");
    }

    #[test]
    fn readers_lag_behind_a_publish_and_a_deletion_and_are_told_when_they_see_it() {
        let mut configs = Configs::default();
        let ms = Duration::from_millis;
        let read = |configs: &Configs| {
            let seen = configs.get(&key("a"), &Reader::default(), None)?;
            Some(String::from_utf8(seen.config.content.to_vec()).unwrap())
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
            keys(configs)
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
        let time = Time {
            now: ms(300),
            at: UNIX_EPOCH,
        };
        assert!(!configs.delete(time, &key("a"), Author::default()));
        assert_eq!(read(&configs).as_deref(), Some("2"));
        configs.set_lag(ms(0), false);
        assert_eq!(keys(&mut configs), [key("a")], "an end of it shows all");
        assert_eq!((read(&configs), configs.deadline()), (None, None));
    }

    #[test]
    fn a_beta_is_for_its_addresses_a_tag_for_who_names_it_and_a_beta_wins() {
        let mut configs = Configs::default();
        let seen = |configs: &Configs, reader: &Reader, tag| {
            let seen = configs.get(&key("a"), reader, tag)?;
            Some(String::from_utf8(seen.config.content.to_vec()).unwrap())
        };
        let it = key("a");
        let blue = Gray::Tag("blue".into());
        let formal = Publish {
            kind: "json",
            ..publish("formal", None)
        };
        configs.publish(NOW, &it, formal).unwrap();
        let ips = "10.0.0.1, 10.0.0.2";
        let beta = publish("beta", None);
        configs
            .publish_variant(NOW, &it, (&Gray::Beta, ips), 10, beta)
            .unwrap();
        let tagged = publish("tagged", None);
        configs
            .publish_variant(NOW, &it, (&blue, ""), 10, tagged)
            .unwrap();
        for (ip, carried, asked, wanted) in [
            ("10.0.0.2", None, None, Some("beta")),
            ("10.0.0.2", Some("blue"), Some("blue"), Some("beta")),
            ("10.0.0.9", None, None, Some("formal")),
            ("10.0.0.9", Some("blue"), None, Some("tagged")),
            ("10.0.0.9", Some("green"), None, Some("formal")),
            ("10.0.0.9", None, Some("blue"), Some("tagged")),
            ("10.0.0.9", Some("blue"), Some("green"), None),
        ] {
            let content = seen(&configs, &reader(ip, carried), asked);
            assert_eq!(content.as_deref(), wanted, "{ip} {carried:?} {asked:?}");
        }
        let shown = configs.get(&it, &reader("10.0.0.1", None), None).unwrap();
        assert_eq!((shown.gray, shown.kind), (Some(&Gray::Beta), "json"));
        assert!(configs.delete(NOW, &it, Author::default()));
        assert_eq!(seen(&configs, &reader("10.0.0.1", None), None), None);
        assert!(configs.variant(&it, &Gray::Beta).is_some(), "to be stopped");
        assert!(configs.delete_variant(NOW, &it, &Gray::Beta, Author::default()));
        assert!(!configs.delete_variant(NOW, &it, &Gray::Beta, Author::default()));
    }

    #[test]
    fn a_change_of_a_variant_concerns_only_who_sees_another_content() {
        let mut configs = Configs::default();
        configs
            .publish(NOW, &key("a"), publish("formal", None))
            .unwrap();
        let concerned = |configs: &mut Configs, ip| {
            let changed = configs.take_changed();
            let reader = reader(ip, None);
            changed
                .iter()
                .any(|changed| configs.concerns(changed, &reader))
        };
        assert!(concerned(&mut configs, "10.0.0.1"));
        for (ips, content, ip, told) in [
            ("10.0.0.1", "beta", "10.0.0.1", true),
            ("10.0.0.1", "beta again", "10.0.0.2", false),
            ("10.0.0.2", "beta again", "10.0.0.1", true),
            ("10.0.0.2,10.0.0.3", "formal", "10.0.0.3", false),
        ] {
            let content = publish(content, None);
            configs
                .publish_variant(NOW, &key("a"), (&Gray::Beta, ips), 10, content)
                .unwrap();
            assert_eq!(concerned(&mut configs, ip), told, "{ips} {ip}");
        }
        configs.delete_variant(NOW, &key("a"), &Gray::Beta, Author::default());
        assert!(!concerned(&mut configs, "10.0.0.2"), "it was the same");
    }

    #[test]
    fn a_configuration_has_ten_variants_and_not_one_more() {
        let mut configs = Configs::default();
        let mut put = |tag: usize| {
            let gray = Gray::Tag(tag.to_string());
            configs.publish_variant(NOW, &key("a"), (&gray, ""), 10, publish("x", None))
        };
        for tag in 0..10 {
            assert!(put(tag).is_ok());
        }
        assert_eq!(put(10), Err(Refusal::TooManyVariants(10)));
        assert!(put(0).is_ok(), "one of them");
    }

    #[test]
    fn a_publish_leaves_application_and_tags_that_it_does_not_name_and_nothing_else() {
        let mut configs = Configs::default();
        let full = Publish {
            app_name: Some("shop".into()),
            tags: Some(vec!["t".into()]),
            words: Words {
                desc: Some("d".into()),
                ..Words::default()
            },
            encrypted_data_key: "key".into(),
            ..publish("1", None)
        };
        configs.publish(NOW, &key("a"), full).unwrap();
        configs.publish(NOW, &key("a"), publish("2", None)).unwrap();
        let config = configs.stored(&key("a")).unwrap();
        assert_eq!((&*config.app_name, config.tags.len()), ("shop", 1));
        assert_eq!(
            (&config.words, &*config.encrypted_data_key),
            (&Words::default(), "")
        );
    }

    proptest! {
        /// Whatever is done: the bytes are those of the contents, the rows that changes name are all that has changed, all comes
        /// back from the rows, and each publish and deletion has one record.
        #[test]
        fn the_books_are_right(steps in proptest::collection::vec((0..4_u8, "[a-z]{0,9}", 0..6_u8), 0..50)) {
            let mut configs = Configs::default();
            configs.note_changes();
            let mut rows = BTreeMap::new();
            let mut done = 0;
            for (id, content, what) in steps {
                let key = key(&id.to_string());
                let gray = if what % 2 == 0 { Gray::Beta } else { Gray::Tag("t".into()) };
                let nobody = Author::default();
                done += match what {
                    0 => usize::from(configs.stored(&key).is_some() && { configs.delete(NOW, &key, nobody); true }),
                    1 | 2 => usize::from(configs.delete_variant(NOW, &key, &gray, nobody)),
                    3 => { configs.publish_variant(NOW, &key, (&gray, "10.0.0.1"), 10, publish(&content, None)).unwrap(); 1 }
                    4 => { configs.publish_variant(NOW, &key, (&gray, "10.0.0.1"), 10, publish(&content, None)).unwrap(); 1 }
                    _ => { configs.publish(NOW, &key, publish(&content, None)).unwrap(); 1 }
                };
                let sum: usize = configs.kept.values().map(Entry::bytes).sum();
                prop_assert_eq!(configs.bytes, sum);
                prop_assert_eq!(configs.count, configs.all().count());
                prop_assert!(configs.kept.values().all(|entry| !entry.is_empty()));
                kept::follow(&mut rows, configs.take_written());
                prop_assert_eq!(&rows, &configs.rows());
                prop_assert_eq!(configs.history.ids().count(), done);
                let mut again = Configs::default();
                for (key, kept) in &rows {
                    again.take_in(Moment::ZERO, key, Some(kept.clone()));
                }
                prop_assert_eq!(&again.kept, &configs.kept);
                prop_assert_eq!((again.count, again.bytes), (configs.count, configs.bytes));
                prop_assert_eq!(again.rows(), configs.rows());
            }
            configs.forget();
            kept::follow(&mut rows, configs.take_written());
            prop_assert!(rows.is_empty());
        }
    }
}
