//! What was published and deleted: one record for each, the newest ones within bounds.
//!
//! A record of an insertion holds what was inserted, one of an update or a deletion what was there before: rolling back is to
//! publish the content of such a record again. What is older than the retention goes with the next record, and the oldest go
//! first when there are too many or too large ones.

use crate::registry::model::Author;
use crate::registry::model::Config;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

/// How long a record is kept, as in the original.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Records at most.
pub(crate) const RECORDS: usize = 100_000;
/// Bytes of all records at most.
pub(crate) const BYTES: usize = 32 * 1024 * 1024;
/// What the allocator and the indexes take for one record, besides itself and its texts; measured.
const ASIDE: usize = 512;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    /// Its letter.
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::Insert => "I",
            Self::Update => "U",
            Self::Delete => "D",
        }
    }
}

/// To what of a configuration it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Of {
    Formal,
    /// A variant, and the addresses of a beta.
    Variant(Gray, String),
}

impl Of {
    pub(crate) fn variant(gray: &Gray, ips: &str) -> Self {
        Self::Variant(gray.clone(), ips.to_owned())
    }

    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Formal, Self::Formal) => true,
            (Self::Variant(one, _), Self::Variant(another, _)) => one == another,
            _ => false,
        }
    }
}

/// One publish or deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) at: SystemTime,
    pub(crate) key: ConfigKey,
    pub(crate) op: Op,
    pub(crate) of: Of,
    /// What was inserted, or was there before.
    pub(crate) config: Config,
    /// Who did it.
    pub(crate) by: Author,
}

impl Record {
    /// How many bytes it is counted as: what it takes.
    pub(crate) fn weight(&self) -> usize {
        let ConfigKey {
            tenant,
            group,
            data_id,
        } = &self.key;
        let names: usize = [tenant, group, data_id].into_iter().map(String::len).sum();
        // The names stand in an index too.
        ASIDE + size_of::<Self>() + 2 * names + self.config.weight()
    }
}

/// All records, by their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    records: BTreeMap<u64, Record>,
    of: BTreeMap<ConfigKey, BTreeSet<u64>>,
    bytes: usize,
    last: u64,
}

impl History {
    /// Adds a record; the numbers of it and of those that had to go, with these.
    pub(crate) fn push(&mut self, record: Record) -> Vec<(u64, Option<Record>)> {
        let since = record.at.checked_sub(RETENTION);
        self.last += 1;
        let mut touched = vec![(self.last, None)];
        self.insert(self.last, record);
        while let Some((id, oldest)) = self.records.first_key_value()
            && *id != self.last
        {
            let full = self.records.len() > RECORDS || self.bytes > BYTES;
            if !full && since.is_none_or(|since| oldest.at >= since) {
                break;
            }
            let id = *id;
            let gone = self.remove(id);
            touched.push((id, gone));
        }
        touched
    }

    fn insert(&mut self, id: u64, record: Record) {
        self.bytes += record.weight();
        self.of.entry(record.key.clone()).or_default().insert(id);
        self.records.insert(id, record);
    }

    /// Makes a record be this one, or none.
    pub(crate) fn put(&mut self, id: u64, record: Option<Record>) {
        self.remove(id);
        if let Some(record) = record {
            self.last = self.last.max(id);
            self.insert(id, record);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Record> {
        let record = self.records.remove(&id)?;
        self.bytes -= record.weight();
        if let Some(ids) = self.of.get_mut(&record.key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.of.remove(&record.key);
            }
        }
        Some(record)
    }

    /// A record.
    pub(crate) fn get(&self, id: u64) -> Option<&Record> {
        self.records.get(&id)
    }

    /// The numbers of all.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.records.keys().copied()
    }

    /// Those of one configuration, the newest first.
    pub(crate) fn of(&self, key: &ConfigKey) -> impl ExactSizeIterator<Item = (u64, &Record)> {
        let records: Vec<_> = (self.of.get(key).into_iter().flatten().rev())
            .filter_map(|id| Some((*id, self.records.get(id)?)))
            .collect();
        records.into_iter()
    }

    /// The next record of the same content after one: what it holds is what the former led to.
    pub(crate) fn next(&self, id: u64) -> Option<&Record> {
        let record = self.records.get(&id)?;
        let later = self.of.get(&record.key)?.range(id + 1..);
        later
            .filter_map(|id| self.records.get(id))
            .find(|later| later.of.is_like(&record.of))
    }

    /// The newest update or deletion of the configuration with that id, which is no record's.
    pub(crate) fn previous(&self, config: u64) -> Option<(u64, &Record)> {
        let mut newest = self.records.iter().rev();
        newest
            .find(|(_, it)| it.config.id == config && it.op != Op::Insert)
            .map(|(id, record)| (*id, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::model::Words;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn record(day: u32, data_id: u8, bytes: usize) -> Record {
        Record {
            at: UNIX_EPOCH + DAY * day,
            key: ConfigKey {
                tenant: String::new(),
                group: "g".into(),
                data_id: data_id.to_string(),
            },
            op: Op::Update,
            of: Of::Formal,
            config: Config {
                id: 1,
                content: vec![b'x'; bytes].into(),
                md5: String::new(),
                kind: "text",
                app_name: String::new(),
                tags: Vec::new(),
                words: Words::default(),
                encrypted_data_key: String::new(),
                by: Author::default(),
                created: UNIX_EPOCH,
                modified: UNIX_EPOCH,
            },
            by: Author::default(),
        }
    }

    fn ids(touched: Vec<(u64, Option<Record>)>) -> Vec<u64> {
        touched.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_record_older_than_thirty_days_goes_with_the_next_one() {
        let mut history = History::default();
        let mut push = |record| ids(history.push(record));
        assert_eq!(push(record(0, 0, 1)), [1]);
        assert_eq!(push(record(30, 1, 1)), [2]);
        assert_eq!(push(record(31, 1, 1)), [3, 1]);
        assert_eq!(history.of(&record(0, 0, 0).key).len(), 0);
        let of: Vec<u64> = history.of(&record(0, 1, 0).key).map(|it| it.0).collect();
        assert_eq!(of, [3, 2]);
    }

    #[test]
    fn the_oldest_go_first_when_they_are_too_large_and_the_newest_always_stays() {
        let mut history = History::default();
        for _ in 0..3 {
            history.push(record(0, 0, BYTES / 3 - 2000));
        }
        assert_eq!(ids(history.push(record(0, 0, BYTES / 3 - 2000))), [4, 1]);
        assert_eq!(ids(history.push(record(0, 0, BYTES + 1))), [5, 2, 3, 4]);
        assert!(history.get(5).is_some());
    }

    #[test]
    fn a_record_tells_itself_as_it_was_written_down() {
        let mut record = record(7, 3, 0);
        record.config.content = "ä\n".into();
        record.of = Of::variant(&Gray::Tag("blue".into()), "");
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    proptest! {
        #[test]
        fn indexes_and_bytes_are_those_of_the_records(pushes in proptest::collection::vec((0..50_u32, 0..4_u8, 0..30_usize), 0..60)) {
            let mut history = History::default();
            for (day, data_id, bytes) in pushes {
                history.push(record(day, data_id, bytes));
                let sum: usize = history.records.values().map(Record::weight).sum();
                prop_assert_eq!(history.bytes, sum);
                let indexed: usize = history.of.values().map(BTreeSet::len).sum();
                prop_assert_eq!(history.records.len(), indexed);
            }
        }
    }
}
