//! The agent that only looks: what each file would be, against what is there. Writes nothing, runs nothing, registers nothing.
//!
//! It is meant to run beside the tool that still does the work. So it takes no folder and no socket, keeps no snapshot, and looks at
//! the files again now and then, because the other one writes them. A validator command is not run: it would need the new content
//! as a file. Contents are in no line of the log: a difference is told by its place.

use super::Parts;
use super::catalog::Known;
use super::composing::{self, Contents};
use super::neighbours;
use super::placing;
use super::renderings::{self, About};
use super::targets::source_of;
use super::view::Source;
use crate::descriptor::spec::{Config, Kept, MOST_INSTANCES, OnAbsent, Subscription, Validate};
use crate::nacos::model::{ConfigKey, ConfigState, ListState, ServiceKey, ServiceList};
use crate::os::publish::Found;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};

/// How often files are looked at though the registry said nothing: somebody else writes them.
const LOOK: Duration = Duration::from_secs(10);
/// News that wait.
const QUEUE: usize = 64;

/// What would become of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The registry has said nothing yet.
    Waiting,
    /// Nothing: it is as it should be.
    Same,
    /// It would change; how, without its content.
    Differs(String),
    /// The content would be rejected, or held, and the file left as it is.
    Rejected(String),
    /// It could not be written, or not even be looked at.
    Failed(String),
    /// The registry has no such configuration; what would be done.
    Missing(&'static str),
    /// The registry cannot be asked.
    Unreachable(String),
    /// It cannot be said without running something.
    Unread(&'static str),
}

impl Verdict {
    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Waiting => "waiting: the registry has said nothing yet".to_owned(),
            Self::Same => "same".to_owned(),
            Self::Differs(how) => format!("would change: {how}"),
            Self::Rejected(why) => format!("would be rejected: {why}"),
            Self::Failed(why) => format!("would fail: {why}"),
            Self::Missing(what) => {
                format!("missing: the registry has no such configuration; {what}")
            }
            Self::Unreachable(why) => format!("unreachable: {why}"),
            Self::Unread(why) => format!("not compared: {why}"),
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// What it would be made of.
    pub source: Source,
    /// The file.
    pub path: PathBuf,
    /// What would become of it.
    pub verdict: Verdict,
}

/// Of what the registry has told.
enum News {
    Config(ConfigKey),
    Service(ServiceKey),
}

impl News {
    fn is_of(&self, source: &Source) -> bool {
        match (self, source) {
            (Self::Config(news), Source::Config(key)) => news == key,
            (Self::Config(news), Source::Configs(keys)) => keys.values().any(|key| key == news),
            (Self::Service(news), Source::Service(key)) => news == key,
            _ => false,
        }
    }
}

/// What is known of the registry.
#[derive(Default)]
struct Said {
    configs: BTreeMap<ConfigKey, ConfigState>,
    lists: BTreeMap<ServiceKey, ListState>,
}

/// Compares for ever; `shown` always has every file that is wanted.
pub async fn run(
    parts: Parts,
    mut known: watch::Receiver<Option<Arc<Known>>>,
    shown: watch::Sender<Option<Vec<Compared>>>,
) {
    let (configs, watched) = watch::channel(BTreeSet::new());
    let (tell, mut told) = mpsc::channel(QUEUE);
    parts.transport.watch_configs(watched, tell);
    let (services, watched) = watch::channel(BTreeSet::new());
    let (tell, mut told_lists) = mpsc::channel(QUEUE);
    parts.transport.watch_services(watched, tell);
    let mut said = Said::default();
    let mut wanted: Vec<(Source, Kept)> = Vec::new();
    let mut compared: Vec<Compared> = Vec::new();
    let mut look = interval(LOOK);
    loop {
        let news = tokio::select! {
            biased;
            changed = known.changed() => {
                if changed.is_err() {
                    return;
                }
                let Some(known) = known.borrow_and_update().clone() else { continue };
                let kept = known.descriptors.iter().flat_map(|(_, descriptor)| descriptor.kept());
                wanted = kept.map(|kept| (source_of(&kept), kept)).collect();
                let (mut keys, mut lists) = (BTreeSet::new(), BTreeSet::new());
                for (source, _) in &wanted {
                    match source {
                        Source::Config(key) => _ = keys.insert(key.clone()),
                        Source::Configs(parts) => keys.extend(parts.values().cloned()),
                        Source::Service(key) => _ = lists.insert(key.clone()),
                    }
                }
                said.configs.retain(|key, _| keys.contains(key));
                said.lists.retain(|key, _| lists.contains(key));
                configs.send_replace(keys);
                services.send_replace(lists);
                compared.clear();
                None
            }
            Some((key, state)) = told.recv() => {
                note(&mut said.configs, key.clone(), state, |state| matches!(state, ConfigState::Unreachable(_)));
                Some(News::Config(key))
            }
            Some((key, state)) = told_lists.recv() => {
                note(&mut said.lists, key.clone(), state, |state| matches!(state, ListState::Unreachable(_)));
                Some(News::Service(key))
            }
            _ = look.tick() => None,
        };
        let mut next = Vec::with_capacity(wanted.len());
        for (index, (source, kept)) in wanted.iter().enumerate() {
            let before = compared.get(index);
            let untouched =
                before.filter(|_| news.as_ref().is_some_and(|news| !news.is_of(source)));
            if let Some(before) = untouched {
                next.push(before.clone());
                continue;
            }
            let now = compare(&said, source, kept).await;
            if before != Some(&now) && now.verdict != Verdict::Waiting {
                let words = now.verdict.words();
                tracing::info!(from = %source, path = %now.path.display(), state = words, "shadow");
            }
            next.push(now);
        }
        compared = next;
        // Before descriptors were read nobody knows what is wanted.
        if known.borrow().is_some() {
            shown.send_replace(Some(compared.clone()));
        }
    }
}

/// What is known stays known while the registry is away.
fn note<K: Ord, S>(all: &mut BTreeMap<K, S>, key: K, state: S, is_away: impl Fn(&S) -> bool) {
    let knows = all.get(&key).is_some_and(|state| !is_away(state));
    if !(knows && is_away(&state)) {
        all.insert(key, state);
    }
}

async fn compare(said: &Said, source: &Source, kept: &Kept) -> Compared {
    let kept = kept.clone();
    let path = kept.target().path.clone();
    // Reading files and rendering block.
    let judged = match (source, &kept) {
        (Source::Config(_) | Source::Configs(_), Kept::Config(config)) => {
            match gather(said, source, &kept) {
                Ok(contents) => {
                    let config = config.clone();
                    tokio::task::spawn_blocking(move || made(&kept, &config, &contents)).await
                }
                Err(verdict) => Ok(verdict),
            }
        }
        (Source::Service(key), Kept::Subscription(list)) => match said.lists.get(key).cloned() {
            Some(ListState::Listed(hosts)) => {
                let list = list.clone();
                tokio::task::spawn_blocking(move || listed(&kept, &list, &hosts)).await
            }
            Some(ListState::Unreachable(why)) => Ok(Verdict::Unreachable(why)),
            None => Ok(Verdict::Waiting),
        },
        (Source::Service(_), Kept::Config(_)) | (_, Kept::Subscription(_)) => Ok(Verdict::Waiting),
    };
    Compared {
        source: source.clone(),
        path,
        // It panicked, which was printed.
        verdict: judged.unwrap_or_else(|_| Verdict::Failed("it could not be compared".to_owned())),
    }
}

/// The contents of all configurations that a file is made of, or why there is nothing to compare.
fn gather(said: &Said, source: &Source, kept: &Kept) -> Result<Contents, Verdict> {
    let keys: Vec<&ConfigKey> = match source {
        Source::Config(key) => vec![key],
        Source::Configs(keys) => keys.values().collect(),
        Source::Service(_) => Vec::new(),
    };
    let mut contents = Contents::new();
    for key in keys {
        match said.configs.get(key) {
            Some(ConfigState::Present(content)) => {
                contents.insert(key.clone(), content.clone());
            }
            Some(ConfigState::Absent) => {
                return Err(Verdict::Missing(match kept.target().on_absent {
                    OnAbsent::Remove => "the file would be removed",
                    OnAbsent::Keep | OnAbsent::Fail => "the file would stay as it is",
                }));
            }
            Some(ConfigState::Unreachable(why)) => return Err(Verdict::Unreachable(why.clone())),
            None => return Err(Verdict::Waiting),
        }
    }
    Ok(contents)
}

/// A configuration, or several of them, as the file it would be.
fn made(kept: &Kept, config: &Config, contents: &Contents) -> Verdict {
    if kept.is_secret() {
        return Verdict::Unread("it is encrypted, and its `decrypt` command was not run");
    }
    match composing::look(config, contents) {
        Ok(content) => judge(kept, &content.bytes, content.kind.as_deref()),
        Err(why) => Verdict::Rejected(why),
    }
}

/// A list as the file it would be. What the guard would do takes a past, which a look has not: only its floor counts.
fn listed(kept: &Kept, list: &Subscription, hosts: &ServiceList) -> Verdict {
    let passed = neighbours::pass(hosts, &list.filter);
    let count = passed.neighbours.len();
    if count < list.guard.min_instances || count > MOST_INSTANCES {
        return Verdict::Rejected(format!("held by the guard: {count} instances pass"));
    }
    let about = About {
        service: &list.service,
        group: &list.group,
        namespace: &list.namespace,
    };
    match renderings::render(&list.rendering, about, &passed.neighbours) {
        Ok(text) => judge(kept, text.as_bytes(), None),
        Err(error) => Verdict::Rejected(error.to_string()),
    }
}

/// A content against the file that is there.
fn judge(kept: &Kept, content: &[u8], kind: Option<&str>) -> Verdict {
    let target = kept.target();
    if u64::try_from(content.len()).is_ok_and(|size| size > target.max_size) {
        return Verdict::Rejected(format!("{} bytes are more than `max_size`", content.len()));
    }
    if let Some(why) = placing::mistake(kept, kind, content) {
        return Verdict::Rejected(why);
    }
    let (owner, found) = match (placing::manner(target), placing::current(target)) {
        (Ok(manner), Ok(found)) => (manner.owner, found),
        (Err(error), _) | (_, Err(error)) => return Verdict::Failed(error.to_string()),
    };
    let whole = match placing::whole(kept, content, found.as_ref()) {
        Ok(whole) => whole,
        Err(why) => return Verdict::Failed(why),
    };
    let unasked = match &target.validate {
        Some(Validate::Exec(_)) => "; its validator was not run",
        _ => "",
    };
    match found {
        None => Verdict::Differs(format!(
            "it is not there, and would get {}{unasked}",
            lines(&whole)
        )),
        Some(found) if *found.bytes != *whole => {
            Verdict::Differs(format!("{}{unasked}", difference(&found.bytes, &whole)))
        }
        Some(found) if !found.has(target.mode, owner) => {
            Verdict::Differs(rights(&found, target.mode))
        }
        Some(_) => Verdict::Same,
    }
}

fn rights(found: &Found, mode: u32) -> String {
    if found.mode == mode {
        "the same content, with another owner".to_owned()
    } else {
        format!(
            "the same content, with mode {mode:04o} in place of {:04o}",
            found.mode
        )
    }
}

fn lines(content: &[u8]) -> String {
    match content.split_inclusive(|byte| *byte == b'\n').count() {
        1 => "1 line".to_owned(),
        many => format!("{many} lines"),
    }
}

/// Which lines differ, by number.
fn difference(old: &[u8], new: &[u8]) -> String {
    let split = |content| -> Vec<&[u8]> {
        let content: &[u8] = content;
        content.split_inclusive(|byte| *byte == b'\n').collect()
    };
    let (old, new) = (split(old), split(new));
    let same = |pair: &(&&[u8], &&[u8])| pair.0 == pair.1;
    let before = old.iter().zip(&new).take_while(same).count();
    let left = old.len().min(new.len()) - before;
    let behind = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(left)
        .take_while(same)
        .count();
    let (gone, come) = (old.len() - before - behind, new.len() - before - behind);
    let first = before + 1;
    match gone.max(come) {
        1 => format!("line {first} ({gone} out, {come} in)"),
        many => format!("{many} lines, the first is line {first} ({gone} out, {come} in)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_by_its_place() {
        for (old, new, words) in [
            ("a\nb\nc\n", "a\nx\nc\n", "line 2 (1 out, 1 in)"),
            (
                "a\n",
                "a\nb\nc\n",
                "2 lines, the first is line 2 (0 out, 2 in)",
            ),
            ("a\na\n", "a\n", "line 2 (1 out, 0 in)"),
            ("a", "a\n", "line 1 (1 out, 1 in)"),
            ("", "a\nb", "2 lines, the first is line 1 (0 out, 2 in)"),
        ] {
            assert_eq!(
                difference(old.as_bytes(), new.as_bytes()),
                words,
                "{old:?} {new:?}"
            );
        }
    }

    #[test]
    fn what_is_known_stays_known_while_the_registry_is_away() {
        let mut all = BTreeMap::new();
        let is_away = |state: &i32| *state < 0;
        for (state, known) in [(-1, -1), (-2, -2), (3, 3), (-1, 3), (4, 4)] {
            note(&mut all, "key", state, is_away);
            assert_eq!(all["key"], known);
        }
    }
}
