//! What `status --json` is (the contract), made from the actors' views; `explain` and the table are made from it in turn.

use super::catalog::Known;
use super::view::{History, ServiceView, Source, TargetView};
use crate::dates;
use crate::descriptor::settings::{Origin, Settings};
use crate::machine::Epoch;
use crate::nacos::model::{ConfigKey, Connection, ServiceKey};
use serde::{Deserialize, Serialize};

/// The whole of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The connection to the registry.
    pub registry: Registry,
    /// Services, sorted.
    pub services: Vec<Service>,
    /// Configurations kept as files, sorted.
    pub configs: Vec<Config>,
    /// Instance lists kept as files, sorted.
    pub subscriptions: Vec<Subscription>,
    /// What is wrong with settings or descriptors now.
    pub problems: Vec<Problem>,
    /// Every setting with its origin.
    pub settings: Vec<Setting>,
    /// Version of the agent.
    pub version: String,
}

/// The connection to the registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registry {
    /// `connected` or `unreachable`.
    pub state: String,
    /// Base URL of the server in use.
    pub server: Option<String>,
    /// `http` or `grpc`.
    pub transport: String,
    /// Why it is spoken to like this; null until that is known.
    pub transport_reason: Option<String>,
    /// Version of the server, where it told it.
    pub version: Option<String>,
    /// Whether the password and the token cross the network unencrypted.
    pub plaintext: bool,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// RFC 3339.
    pub since: String,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Happened {
    /// RFC 3339.
    pub at: String,
    /// One sentence.
    pub what: String,
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Group.
    pub group: String,
    /// Namespace id.
    pub namespace: String,
    /// Port.
    pub port: u16,
    /// `ip:port`, while the address is known.
    pub instance: Option<String>,
    /// False for a persistent instance.
    pub ephemeral: bool,
    /// State.
    pub state: String,
    /// One sentence, null when all is well.
    pub reason: Option<String>,
    /// RFC 3339.
    pub since: String,
    /// The last probe in words.
    pub probe: String,
    /// How the address was chosen.
    pub address_origin: Option<String>,
    /// What happened last, oldest first.
    pub history: Vec<Happened>,
}

/// The instances of one service kept as a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// Service.
    pub service: String,
    /// Group.
    pub group: String,
    /// Namespace id.
    pub namespace: String,
    /// File.
    pub path: String,
    /// Whether `startupz` and `once` wait for it.
    pub required: bool,
    /// State.
    pub state: String,
    /// One sentence, null when all is well.
    pub reason: Option<String>,
    /// RFC 3339.
    pub since: String,
    /// Whether it was applied since the agent started.
    pub applied_once: bool,
    /// How many instances the registry lists; null before it said anything.
    pub listed: Option<usize>,
    /// How many of them pass filters and checks.
    pub passed: usize,
    /// How many are in the file; null when none were put there since the start.
    pub kept: Option<usize>,
    /// Why others do not pass, a sentence for each reason.
    pub left_out: Vec<String>,
    /// Why what the registry says is not in the file; null when nothing is held.
    pub held: Option<Held>,
    /// What happened last, oldest first.
    pub history: Vec<Happened>,
}

/// Why a list is not believed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// RFC 3339.
    pub since: String,
    /// One sentence.
    pub reason: String,
    /// When it ends by itself, if nothing changes; null when it does not.
    pub until: Option<String>,
}

/// One of several configurations that are one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigSource {
    /// Its name in the template.
    pub name: String,
    /// Data id.
    pub data_id: String,
    /// Group.
    pub group: String,
    /// Namespace id.
    pub namespace: String,
}

/// One configuration kept as a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Data id; of several those of all of them, with ` + ` between.
    pub data_id: String,
    /// Group; of several likewise, each once.
    pub group: String,
    /// Namespace id; of several likewise.
    pub namespace: String,
    /// Those that a template makes the file of; empty where it is one as it is.
    #[serde(default)]
    pub sources: Vec<ConfigSource>,
    /// File.
    pub path: String,
    /// Whether `startupz` and `once` wait for it.
    pub required: bool,
    /// State.
    pub state: String,
    /// One sentence, null when all is well.
    pub reason: Option<String>,
    /// RFC 3339.
    pub since: String,
    /// Whether it was applied since the agent started.
    pub applied_once: bool,
    /// MD5 of the file's content, where known.
    pub md5: Option<String>,
    /// What happened last, oldest first.
    pub history: Vec<Happened>,
}

/// One mistake in what an operator wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `file:line:column`.
    pub at: String,
    /// Key path.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// The next step.
    pub help: Option<String>,
}

/// One setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// `registry.servers`.
    pub key: String,
    /// What it is; secrets are not shown.
    pub value: String,
    /// `default`, `FILE:LINE`, `variable NAME`, `flag NAME`.
    pub origin: String,
}

/// Puts the views together.
#[must_use]
pub fn picture(
    epoch: Epoch,
    settings: &Settings,
    connection: &Connection,
    services: Vec<ServiceView>,
    targets: &[TargetView],
    known: Option<&Known>,
) -> Status {
    let (mut configs, mut subscriptions) = (Vec::new(), Vec::new());
    for view in targets {
        match &view.source {
            Source::Config(key) => configs.push(config([key], Vec::new(), view)),
            Source::Configs(keys) => {
                let source = |(name, key): (&String, &ConfigKey)| ConfigSource {
                    name: name.clone(),
                    data_id: key.data_id.to_string(),
                    group: key.group.to_string(),
                    namespace: key.namespace.to_string(),
                };
                let sources = keys.iter().map(source).collect();
                configs.push(config(keys.values(), sources, view));
            }
            Source::Service(key) => subscriptions.push(subscription(key, view)),
        }
    }
    configs.sort_by(|a, b| a.path.cmp(&b.path));
    subscriptions.sort_by(|a, b| a.path.cmp(&b.path));
    Status {
        registry: Registry {
            state: if connection.up {
                "connected"
            } else {
                "unreachable"
            }
            .to_owned(),
            server: connection.server.clone(),
            transport: connection.transport.to_owned(),
            transport_reason: connection.chosen.clone(),
            version: connection.version.as_ref().map(ToString::to_string),
            plaintext: settings.registry.has_plaintext()
                || connection
                    .server
                    .as_deref()
                    .is_some_and(|server| settings.registry.is_plaintext(server)),
            reason: connection.reason.clone(),
            since: dates::rfc3339(epoch.wall(connection.since)),
        },
        services: services
            .into_iter()
            .map(|view| Service {
                name: view.service.name.to_string(),
                group: view.service.group.to_string(),
                namespace: view.service.namespace.to_string(),
                port: view.port,
                instance: view.instance.map(|key| address(key.ip, key.port)),
                state: view.state.word().to_owned(),
                reason: view.reason,
                since: dates::rfc3339(view.since),
                probe: view.probe,
                ephemeral: view.ephemeral,
                address_origin: view.address_origin,
                history: happened(&view.history),
            })
            .collect(),
        configs,
        subscriptions,
        problems: known.map_or_else(Vec::new, |known| {
            known
                .problems
                .iter()
                .map(|problem| Problem {
                    at: match problem.place {
                        Some(at) => {
                            format!("{}:{}:{}", problem.source.display(), at.line, at.column)
                        }
                        None => problem.source.display().to_string(),
                    },
                    key: problem.key.clone(),
                    message: problem.message.clone(),
                    help: problem.help.clone(),
                })
                .collect()
        }),
        settings: settings
            .origins
            .iter()
            .map(|(key, value, origin)| Setting {
                key: key.clone(),
                value: value.clone(),
                origin: match origin {
                    Origin::Default => "default".to_owned(),
                    Origin::File(path, line) => format!("{}:{line}", path.display()),
                    Origin::Variable(name) => format!("variable {name}"),
                    Origin::Flag(name) => format!("flag {name}"),
                },
            })
            .collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn happened(history: &History) -> Vec<Happened> {
    history
        .iter()
        .map(|(at, what)| Happened {
            at: dates::rfc3339(*at),
            what: what.clone(),
        })
        .collect()
}

fn config<'a>(
    keys: impl IntoIterator<Item = &'a ConfigKey>,
    sources: Vec<ConfigSource>,
    view: &TargetView,
) -> Config {
    let keys: Vec<&ConfigKey> = keys.into_iter().collect();
    let all = |of: fn(&ConfigKey) -> &str| {
        let mut words: Vec<&str> = Vec::new();
        for word in keys.iter().map(|key| of(key)) {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words.join(" + ")
    };
    Config {
        data_id: all(|key| &key.data_id),
        group: all(|key| &key.group),
        namespace: all(|key| key.namespace.naming_id()),
        sources,
        path: view.path.display().to_string(),
        required: view.required,
        state: view.state.word().to_owned(),
        reason: view.reason.clone(),
        since: dates::rfc3339(view.since),
        applied_once: view.applied_once,
        md5: view.md5.clone(),
        history: happened(&view.history),
    }
}

fn subscription(key: &ServiceKey, view: &TargetView) -> Subscription {
    let list = view.list.clone().unwrap_or_default();
    Subscription {
        service: key.name.to_string(),
        group: key.group.to_string(),
        namespace: key.namespace.to_string(),
        path: view.path.display().to_string(),
        required: view.required,
        state: view.state.word().to_owned(),
        reason: view.reason.clone(),
        since: dates::rfc3339(view.since),
        applied_once: view.applied_once,
        listed: list.listed,
        passed: list.passed,
        kept: list.kept,
        left_out: list.left_out,
        held: list.held.map(|held| Held {
            since: dates::rfc3339(held.since),
            reason: held.reason,
            until: held.until.map(dates::rfc3339),
        }),
        history: happened(&view.history),
    }
}

fn address(ip: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}
