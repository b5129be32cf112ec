//! How the file of a target is put in place, and whether somebody else has changed it since.
//!
//! A file has *drifted* when it has another content than the one that was put there last, and that one is still wanted. A content
//! that was wanted anew since is no drift, and neither is a file that is gone: where it lies may not outlive a reboot. What was put
//! there is remembered over a restart as far as the ledger is sure of it; in doubt a file is put right.

use crate::descriptor::spec::{
    Config, Kept, MadeOf, OnDrift, Publish, Rendering, Subscription, Target, Validate,
};
use crate::os::publish::{self, Error, Found, Manner, Owner, Staged, Way};
use crate::os::versions::{self, Change};
use std::{
    borrow::Cow,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::contents;
use super::formats;
use super::materialize::Memory;
use super::renderings;

/// What a target's file is to be like.
///
/// # Errors
/// When its owner is unknown here.
pub(super) fn manner(target: &Target) -> Result<Manner, Error> {
    let owner = match &target.owner {
        Some(owner) => Owner::find(owner.user.as_deref(), owner.group.as_deref())?,
        None => Owner::default(),
    };
    Ok(Manner {
        mode: target.mode,
        owner,
        way: match target.publish {
            // Staged beside it, whichever way it goes from there.
            Publish::Rename | Publish::Directory => Way::Rename,
            Publish::InPlace => Way::InPlace,
        },
        backup: target.backup && !target.secret,
    })
}

/// The file as it is, whichever way it came there.
///
/// # Errors
/// When it cannot be read.
pub(super) fn current(target: &Target) -> Result<Option<Found>, Error> {
    match target.publish {
        Publish::Directory => versions::current(&target.path, target.max_size),
        Publish::Rename | Publish::InPlace => publish::current(&target.path, target.max_size),
    }
}

/// What the file shall have: the content, or in a hosts file what it has with the content as our block.
///
/// # Errors
/// One sentence.
pub(super) fn whole<'a>(
    kept: &Kept,
    content: &'a [u8],
    found: Option<&Found>,
) -> Result<Cow<'a, [u8]>, String> {
    let Kept::Subscription(Subscription {
        rendering: Rendering::Hosts { host },
        target,
        ..
    }) = kept
    else {
        return Ok(Cow::Borrowed(content));
    };
    let file = found.map_or(&[][..], |found| &found.bytes);
    let limit = target.max_size;
    if u64::try_from(file.len()).is_ok_and(|size| size > limit) {
        return Err(format!("has more than {limit} bytes; `max_size` is that"));
    }
    let lines = String::from_utf8_lossy(content);
    renderings::with_block(file, host, &lines)
        .map(Cow::Owned)
        .map_err(|error| error.to_string())
}

/// In place of words that may quote a secret.
pub(super) const UNTOLD: &str = "what it says is not told, because of `secret: true`";

/// Why a content of this type (as the registry says it) is not well-formed as `validate` wants it; `None` when it is.
pub(super) fn mistake(kept: &Kept, kind: Option<&str>, bytes: &[u8]) -> Option<String> {
    let target = kept.target();
    let format = match (&target.validate, kept) {
        (Some(Validate::Format(format)), _) => Some(*format),
        (
            Some(Validate::Auto),
            Kept::Config(Config {
                made_of: MadeOf::One(part),
                ..
            }),
        ) => contents::format_of(kind, &part.data_id),
        _ => None,
    };
    let mistake = formats::check(format?, bytes).err()?;
    Some(if target.secret {
        format!("not well-formed as `validate` wants it; {UNTOLD}")
    } else {
        mistake.to_string()
    })
}

/// One file of a version: what is staged, or nothing where it goes.
///
/// # Errors
/// When what was staged is not what it was.
pub(super) fn change(target: &Target, staged: Option<Staged>) -> Result<Change, Error> {
    let manner = manner(target)?;
    Ok(Change {
        path: target.path.clone(),
        content: staged.map(Staged::take).transpose()?,
        mode: manner.mode,
        owner: manner.owner,
    })
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drift {
    /// It is a new content that is to be written.
    None,
    /// Somebody else has changed the file, and it is to be put right.
    Repair,
    /// Somebody else has changed the file, and it stays so.
    Stays,
}

/// What was put in place last.
#[derive(Debug)]
pub(super) struct Placed(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    /// Its hash.
    hash: Option<String>,
    /// Whether an operator wants the file put right, whatever `on_drift` says.
    overruled: bool,
}

impl Placed {
    /// What the ledger knows. A write that may have been broken off is not known.
    pub(super) fn new(memory: &Memory) -> Self {
        let is_sure = !memory.open && memory.written == memory.good;
        let hash = memory.written.clone().filter(|_| is_sure);
        Self(Mutex::new(Inside {
            hash,
            overruled: false,
        }))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file has this content now; `None` when it is gone.
    pub(super) fn put(&self, hash: Option<&str>) {
        *self.inside() = Inside {
            hash: hash.map(str::to_owned),
            overruled: false,
        };
    }

    /// An operator wants the file put right.
    pub(super) fn overrule(&self) {
        self.inside().overruled = true;
    }

    /// What a file is that has another content than `wanted`.
    pub(super) fn compare(&self, wanted: &str, rule: OnDrift) -> Drift {
        let inside = self.inside();
        match (inside.hash.as_deref() == Some(wanted), rule) {
            (false, _) => Drift::None,
            (true, OnDrift::Report) if !inside.overruled => Drift::Stays,
            (true, _) => Drift::Repair,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_put_there_and_is_still_wanted_can_drift() {
        let placed = Placed::new(&Memory::default());
        assert_eq!(placed.compare("a", OnDrift::Report), Drift::None);
        placed.put(Some("a"));
        assert_eq!(placed.compare("a", OnDrift::Report), Drift::Stays);
        assert_eq!(placed.compare("a", OnDrift::Repair), Drift::Repair);
        assert_eq!(placed.compare("b", OnDrift::Report), Drift::None);
        placed.overrule();
        assert_eq!(placed.compare("a", OnDrift::Report), Drift::Repair);
        placed.put(Some("a"));
        assert_eq!(placed.compare("a", OnDrift::Report), Drift::Stays, "once");
        placed.put(None);
        assert_eq!(placed.compare("a", OnDrift::Report), Drift::None);
    }

    #[test]
    fn a_write_that_may_have_been_broken_off_is_not_taken_for_what_was_put_there() {
        let hash = |text: &str| Some(text.to_owned());
        let memory = |written, good, open| Memory {
            written,
            good,
            open,
            ..Memory::default()
        };
        for (memory, then) in [
            (memory(hash("a"), hash("a"), false), Drift::Stays),
            (memory(hash("a"), hash("b"), false), Drift::None),
            (memory(hash("a"), hash("a"), true), Drift::None),
            (memory(hash("a"), None, false), Drift::None),
            (memory(None, None, false), Drift::None),
        ] {
            let placed = Placed::new(&memory);
            assert_eq!(placed.compare("a", OnDrift::Report), then, "{memory:?}");
        }
    }
}
