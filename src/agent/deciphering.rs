//! Has a configuration decrypted by the command that its descriptor names: what is encrypted goes to its standard input, its key in
//! [`DATA_KEY`], and what it writes is the clear text.
//!
//! Whatever goes wrong may be different the next time (a key service is away, a key arrives later): it is tried again for ever,
//! with growing waits. The clear text has the MD5 of what was encrypted: it is what the registry knows, it is the same in every run,
//! and it says nothing about the secret. What was decrypted once is not decrypted again while it is wanted.

use super::commands::Commands;
use crate::backoff::Pace;
use crate::descriptor::spec::Command;
use crate::nacos::model::{ConfigKey, Content};
use crate::os::command::Input;
use std::{sync::Arc, time::Duration};

/// Variable with the encrypted key of the content; empty where the registry has none.
const DATA_KEY: &str = "OUTRIGGER_DATA_KEY";
/// Variable with the data id, in which Nacos' convention puts the algorithm: `cipher-aes-…`.
const DATA_ID: &str = "OUTRIGGER_DATA_ID";
/// Characters of an encrypted key; more has no place in an environment.
const LONGEST_KEY: usize = 8 * 1024;
/// A shorter key is no key, and may stand in any word of an error.
const SHORTEST_KEY: usize = 8;
/// Between tries.
pub(super) const RETRY: Pace = Pace {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(60),
    floor: Duration::from_millis(500),
};

/// Decrypts; an error is a sentence that shows neither text nor key.
pub(super) async fn decrypt(
    key: &ConfigKey,
    (command, most): (&Command, u64),
    content: &Content,
    commands: &Commands,
) -> Result<Content, String> {
    if content.is_opened {
        // The server did it.
        return Ok(content.clone());
    }
    let data_key = content.data_key.as_deref().unwrap_or_default();
    if data_key.len() > LONGEST_KEY {
        let length = data_key.len();
        return Err(format!(
            "its encrypted key has {length} characters, more than {LONGEST_KEY}"
        ));
    }
    let input = Input {
        bytes: &content.bytes,
        env: &[(DATA_KEY, data_key), (DATA_ID, &key.data_id)],
        most: usize::try_from(most).unwrap_or(usize::MAX),
    };
    let out = commands.filter(command, input).await.map_err(|said| {
        let hidden = match data_key.len() {
            0..SHORTEST_KEY => said,
            _ => said.replace(data_key, "[data key]"),
        };
        format!("the decrypt command failed and is tried again: {hidden}")
    })?;
    Ok(Content {
        bytes: out.as_slice().into(),
        md5: Arc::clone(&content.md5),
        modified: content.modified,
        kind: content.kind.clone(),
        data_key: None,
        is_opened: true,
    })
}
