//! Every figure the agent and the embedded registry keep, in OpenMetrics form; a value passed down, never a global.
//!
//! Labels are words of ours, never names from a registry: nobody outside can make series.

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What was done and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `register`, `deregister`, `beat`, `detail`, `list`, `config_get`, `config_listen`, `login`, `servers`; for other
    /// families see the field.
    pub what: &'static str,
    /// `ok`, `failed`, and what the field says.
    pub outcome: &'static str,
}

/// The counters and gauges of a process.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Calls to the registry, by call and outcome (`ok unreachable busy garbage denied refused`).
    pub registry_calls: Family<Outcome, Counter>,
    /// Times an instance was registered again because the registry had forgotten it.
    pub restorations: Counter,
    /// 1 while the registry answers.
    pub registry_up: Gauge,
    /// Probes, by kind (`tcp http exec`) and result (`passed failed`).
    pub probes: Family<Outcome, Counter>,
    /// Changes of a probe's verdict, by new verdict (`what` is `verdict`; `healthy unhealthy`).
    pub verdicts: Family<Outcome, Counter>,
    /// Files replaced (`what` is `config` or `subscription`), by outcome (`written failed rejected`).
    pub writes: Family<Outcome, Counter>,
    /// Reloads, by kind (`signal exec http`) and outcome.
    pub reloads: Family<Outcome, Counter>,
    /// Verifications, by kind (`tcp http exec`) and outcome.
    pub verifications: Family<Outcome, Counter>,
    /// Times a file got the last good content back.
    pub rollbacks: Counter,
    /// Files that somebody else had changed, by what was done (`what` is `file`; `repaired reported`).
    pub drifts: Family<Outcome, Counter>,
    /// Applications whose reload is due and waits for its splay, its pause or its turn.
    pub reloads_waiting: Gauge,
    /// Turns in a fleet (`what` is `fleet`), by outcome (`held given_up`).
    pub turns: Family<Outcome, Counter>,
    /// Lists of instances that the guard holds now.
    pub lists_held: Gauge,
    /// Reads of `conf.d` that found a mistake.
    pub catalog_errors: Counter,
    /// Commands, probes included, that were killed at their time limit.
    pub command_timeouts: Counter,
}

impl Metrics {
    /// All of them, registered with their HELP texts under `outrigger_`.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("outrigger");
        registry.register(
            "registry_calls",
            "Calls to the registry, by call and outcome",
            self.registry_calls.clone(),
        );
        registry.register(
            "restorations",
            "Instances registered again because the registry had forgotten them",
            self.restorations.clone(),
        );
        registry.register(
            "registry_up",
            "1 while the registry answers, else 0",
            self.registry_up.clone(),
        );
        registry.register(
            "probes",
            "Probes of local services, by kind and result",
            self.probes.clone(),
        );
        registry.register(
            "verdicts",
            "Changes of a probe's verdict, by new verdict",
            self.verdicts.clone(),
        );
        registry.register("writes", "Files replaced, by outcome", self.writes.clone());
        registry.register(
            "reloads",
            "Reloads of applications, by kind and outcome",
            self.reloads.clone(),
        );
        registry.register(
            "verifications",
            "Verifications of applications after a reload, by kind and outcome",
            self.verifications.clone(),
        );
        registry.register(
            "rollbacks",
            "Times a file got the last good content back",
            self.rollbacks.clone(),
        );
        registry.register(
            "drifts",
            "Files that somebody else had changed, by what was done",
            self.drifts.clone(),
        );
        registry.register(
            "reloads_waiting",
            "Applications whose reload is due and waits for its splay, pause or turn",
            self.reloads_waiting.clone(),
        );
        registry.register(
            "turns",
            "Turns to reload in a fleet, by outcome",
            self.turns.clone(),
        );
        registry.register(
            "lists_held",
            "Lists of instances that the guard holds now",
            self.lists_held.clone(),
        );
        registry.register(
            "catalog_errors",
            "Reads of the descriptor directory that found a mistake",
            self.catalog_errors.clone(),
        );
        registry.register(
            "command_timeouts",
            "Commands killed at their time limit",
            self.command_timeouts.clone(),
        );
        registry
    }

    /// The OpenMetrics text of `registry`.
    #[must_use]
    pub fn render(registry: &Registry) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        _ = text::encode(&mut out, registry);
        out
    }
}
