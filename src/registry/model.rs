//! What machines and calls of the registry have in common: who asks and when, and what a configuration is.

use crate::foreign::Foreign;
use crate::machine::Moment;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::SystemTime};

/// Which request; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// When a call is answered, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    /// What deadlines count with.
    pub(crate) now: Moment,
    /// What people and answers are told.
    pub(crate) at: SystemTime,
}

impl Time {
    /// What the wall clock would have shown at a moment that is over, had it not been stepped since.
    pub(crate) fn wall(&self, moment: Moment) -> SystemTime {
        let ago = self.now.saturating_sub(moment);
        self.at.checked_sub(ago).unwrap_or(self.at)
    }
}

/// Who reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reader {
    /// His address, or the one he is said to have.
    pub(crate) ip: String,
    /// The tag that he carries with all he asks; who has none of that tag's gets the formal content.
    pub(crate) tag: Option<String>,
}

impl Reader {
    /// Whoever has that address and carries that tag. What is too long for an address or for the tag of a variant is neither, and
    /// would be kept for as long as he listens.
    pub(crate) fn new(ip: &str, tag: Option<&str>) -> Self {
        let short = |text: &&str| text.len() <= 64 && !text.trim().is_empty();
        Self {
            ip: Some(ip).filter(short).unwrap_or_default().to_owned(),
            tag: tag.filter(short).map(str::to_owned),
        }
    }
}

/// Metadata; 2.5.1 keeps a null value.
pub(crate) type Metadata = BTreeMap<Foreign, Option<Foreign>>;

/// Which configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ConfigKey {
    pub(crate) tenant: String,
    pub(crate) group: String,
    pub(crate) data_id: String,
}

/// Which variant of a configuration; a beta before the tags, as readers are looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Gray {
    /// For some addresses.
    Beta,
    /// For whoever names this tag.
    Tag(String),
}

impl Gray {
    /// What the original calls it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Beta => "beta".to_owned(),
            Self::Tag(tag) => format!("tag_{tag}"),
        }
    }

    /// The variant of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name.strip_prefix("tag_") {
            Some(tag) => Some(Self::Tag(tag.to_owned())),
            None => (name == "beta").then_some(Self::Beta),
        }
    }
}

/// A configuration, or the content of a variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Never used twice.
    pub(crate) id: u64,
    #[serde(with = "text")]
    pub(crate) content: Bytes,
    pub(crate) md5: String,
    /// One of [`TYPES`].
    #[serde(deserialize_with = "read_kind")]
    pub(crate) kind: Kind,
    pub(crate) app_name: String,
    /// In the order in which they were said.
    pub(crate) tags: Vec<String>,
    pub(crate) words: Words,
    /// Passed through: nothing is encrypted or decrypted here.
    pub(crate) encrypted_data_key: String,
    /// Who wrote it last.
    pub(crate) by: Author,
    pub(crate) created: SystemTime,
    pub(crate) modified: SystemTime,
}

impl Config {
    /// How many bytes it is counted as.
    pub(crate) fn weight(&self) -> usize {
        let Words {
            desc,
            usage,
            effect,
            schema,
        } = &self.words;
        let words = [desc, usage, effect, schema, &self.by.user];
        let words = words.into_iter().flatten().map(String::len);
        let tags = self.tags.iter().map(String::len);
        let more = [&self.app_name, &self.encrypted_data_key, &self.by.ip];
        let more = more.into_iter().map(String::len);
        self.content.len() + words.chain(tags).chain(more).sum::<usize>()
    }
}

/// What a publish says about its content besides: each publish says all of it anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Words {
    pub(crate) desc: Option<String>,
    /// `use`, which is no name in Rust.
    pub(crate) usage: Option<String>,
    pub(crate) effect: Option<String>,
    pub(crate) schema: Option<String>,
}

/// Who published or deleted something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Author {
    pub(crate) user: Option<String>,
    pub(crate) ip: String,
}

/// A variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Variant {
    /// Of a beta: the addresses, as they were said; else empty.
    pub(crate) ips: String,
    /// The formal content was deleted under it.
    pub(crate) buried: bool,
    pub(crate) config: Config,
}

impl Variant {
    pub(crate) fn weight(&self) -> usize {
        self.ips.len() + self.config.weight()
    }

    pub(crate) fn is_for(&self, gray: &Gray, reader: &Reader, asked: Option<&str>) -> bool {
        !self.buried
            && match gray {
                Gray::Beta => self.ips.split(',').any(|ip| ip.trim() == reader.ip),
                Gray::Tag(tag) => asked == Some(tag),
            }
    }
}

/// The name of a type; to be read back it must not look like something borrowed.
type Kind = &'static str;

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

fn read_kind<'de, D: serde::Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    String::deserialize(from).map(|said| kind(Some(&said)))
}

/// Contents came as text and are kept as the bytes of it.
pub(crate) mod text {
    use hyper::body::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, ser};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(bytes).map_err(ser::Error::custom)?;
        to.serialize_str(text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        String::deserialize(from).map(Bytes::from)
    }
}
