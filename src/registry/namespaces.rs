//! Which namespaces are listed.
//!
//! Like in the original the list is nothing but names: what is registered or published in a namespace is there, and apart from all
//! others, whether it is listed or not, and stays when it is taken off the list.

use crate::registry::refusal::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Namespaces at most, besides the public one.
const NAMESPACES: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) description: String,
}

/// Those that are listed, but for the public one, by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces(pub(crate) BTreeMap<String, Named>);

impl Namespaces {
    /// Lists one more.
    pub(crate) fn add(&mut self, id: String, named: Named) -> Result<(), Refusal> {
        if self.0.len() >= NAMESPACES {
            return Err(Refusal::Full("namespaces", NAMESPACES));
        }
        self.0.insert(id, named);
        Ok(())
    }

    /// Whether none is listed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        id == "public" || self.0.contains_key(id)
    }
}
