//! A world: servers, hosts, a plan, and the laws over them; played in virtual time until its end or the first broken law.

use crate::cluster::Cluster;
use crate::host::{self, File, Host};
use crate::laws;
use crate::plan::{self, Size, Step};
use crate::wire::{Happening, Weather, Wire};
use outrigger::backoff::Dice;
use outrigger::descriptor::spec::{OnAbsent, OnFailure};
use outrigger::machine::Moment;
use outrigger::registry::Like;
use std::time::Duration;

const fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// How a world ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The law that was broken.
    pub(crate) broken: Option<String>,
    /// The end of the trace, where it was written.
    pub(crate) trace: Vec<String>,
    /// Requests of all hosts.
    pub(crate) sent: u64,
    /// The most requests of one host between two looks, and the most of one host in all.
    pub(crate) busiest: u64,
    pub(crate) busiest_calm: u64,
    pub(crate) most: u64,
}

pub(crate) struct World {
    pub(crate) wire: Wire,
    pub(crate) cluster: Cluster,
    pub(crate) hosts: Vec<Host>,
    pub(crate) faults_until: Moment,
    faulty: bool,
    sent_before: Vec<u64>,
    busiest: u64,
    busiest_calm: u64,
}

/// The names of the services; the last one is persistent.
const NAMES: [&str; 4] = ["orders", "billing", "orders", "ledger"];

impl World {
    pub(crate) fn new(wire: Wire, cluster: Cluster, hosts: Vec<Host>) -> Self {
        let count = hosts.len();
        let mut world = Self {
            wire,
            cluster,
            hosts,
            faults_until: Moment::ZERO,
            faulty: false,
            sent_before: vec![0; count],
            busiest: 0,
            busiest_calm: 0,
        };
        world.wire.after(laws::LOOK, Happening::Look);
        world
    }

    /// The world of a seed, with its plan.
    pub(crate) fn thrown(seed: u64, rounds: u32, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let size = Size {
            nodes: [1, 3, 3][dice.below(3)],
            hosts: 1 + dice.below(2),
            services: 2 + dice.below(3),
            files: 3,
            groups: 2,
        };
        let mut wire = Wire::new(dice.seed(), size.hosts, traced);
        let like = [Like::V2_5, Like::V2_5, Like::V3_0][dice.below(3)];
        let cluster = Cluster::new(&mut wire, size.nodes, like);
        let hosts = (0..size.hosts).map(|number| {
            let services = (0..size.services).map(|at| {
                let port = 8_000 + 10 * number as u16 + at as u16;
                // On 3.x only an administrator may switch a service's own checker off.
                let is_persistent = at + 1 == size.services && like != Like::V3_0;
                let at = if is_persistent { 3 } else { at % 3 };
                let on_failure = match (at, dice.below(3)) {
                    (3, _) | (_, 0) => OnFailure::Unhealthy,
                    _ => OnFailure::Deregister,
                };
                host::service(NAMES[at], port, at != 3, on_failure)
            });
            let services = services.collect();
            let files = (0..size.files).map(|at| file(at, at / 2, dice.below(3) == 0));
            let files = files.collect();
            Host::new(number, size.nodes, services, files)
        });
        let hosts = hosts.collect();
        let steps = plan::thrown(&mut dice, size, rounds);
        let mut world = Self::new(wire, cluster, hosts);
        for number in 0..size.hosts {
            let wait = world.wire.millis(0, 3_000);
            world.wire.after(wait, Happening::Plan(Step::Boot(number)));
            world.hosts[number].disturb_all(&world.wire, s(15));
        }
        world.plan(steps);
        world
    }

    /// A small world without a plan: on every host an instance of `orders`, one of `billing` and, where asked for, a persistent one
    /// of `ledger`; a file or two. All agents start with it.
    pub(crate) fn staged(
        seed: u64,
        nodes: usize,
        hosts: usize,
        persistent: bool,
        files: usize,
    ) -> Self {
        let mut wire = Wire::new(seed, hosts, true);
        let cluster = Cluster::new(&mut wire, nodes, Like::V2_5);
        let hosts = (0..hosts).map(|number| {
            let port = |at: u16| 8_000 + 10 * number as u16 + at;
            let mut services = vec![
                host::service("orders", port(0), true, OnFailure::Deregister),
                host::service("billing", port(1), true, OnFailure::Unhealthy),
            ];
            if persistent {
                services.push(host::service(
                    "ledger",
                    port(2),
                    false,
                    OnFailure::Unhealthy,
                ));
            }
            let files = (0..files).map(|at| file(at, at / 2, false)).collect();
            Host::new(number, nodes, services, files)
        });
        let hosts = hosts.collect();
        let mut world = Self::new(wire, cluster, hosts);
        for number in 0..world.hosts.len() {
            world.step(Step::Boot(number));
        }
        world
    }

    /// Plays so long, and demands that no law was broken.
    pub(crate) fn pass(&mut self, length: Duration) {
        self.play(self.wire.now + length);
        if let Some(why) = &self.wire.broken {
            panic!("{}\n{why}", self.wire.trace().join("\n"));
        }
    }

    /// Plays until `is`, looking every 10 ms; how long that took.
    pub(crate) fn until(&mut self, within: Duration, is: impl Fn(&mut Self) -> bool) -> Duration {
        let began = self.wire.now;
        while !is(self) {
            if self.wire.now > began + within {
                panic!("{}\nnot within {within:?}", self.wire.trace().join("\n"));
            }
            self.pass(Duration::from_millis(10));
        }
        self.wire.now - began
    }

    /// What is wrong with the lists of a node: instances of running agents that are missing there, or not healthy if that counts.
    pub(crate) fn missing(&mut self, n: usize, healthy: bool) -> Vec<String> {
        let mut missing = Vec::new();
        for host in &self.hosts {
            for wanted in &host.services {
                let key = host::service_key(&wanted.spec.name);
                let lists = self.cluster.listed(self.wire.now, n, &key);
                let list = if healthy { &lists.healthy } else { &lists.all };
                let port = i64::from(wanted.spec.port);
                if !list.iter().any(|listed| listed.port == port) {
                    missing.push(format!("{}:{port}", wanted.spec.name));
                }
            }
        }
        missing
    }

    /// Whether every node that runs lists everything as healthy.
    pub(crate) fn is_whole(&mut self) -> bool {
        (0..self.cluster.size()).all(|n| !self.cluster.is_up(n) || self.missing(n, true).is_empty())
    }

    pub(crate) fn plan(&mut self, steps: Vec<(Moment, Step)>) {
        for (at, step) in steps {
            self.wire.at(at, Happening::Plan(step));
        }
    }

    /// Plays until then.
    pub(crate) fn play(&mut self, end: Moment) {
        while self.wire.broken.is_none() {
            let Some(what) = self.wire.next(end) else {
                return;
            };
            self.happen(what);
            if !self.wire.suspects.is_empty() {
                laws::judge_suspects(&mut self.wire, &self.cluster);
            }
        }
    }

    pub(crate) fn end(self) -> End {
        End {
            trace: self.wire.trace(),
            sent: self.wire.sent.iter().sum(),
            busiest: self.busiest,
            busiest_calm: self.busiest_calm,
            most: self.wire.sent.iter().copied().max().unwrap_or(0),
            broken: self.wire.broken,
        }
    }

    fn happen(&mut self, what: Happening) {
        let wire = &mut self.wire;
        match what {
            Happening::Asked(n, caller, letter) => self.cluster.asked(wire, n, caller, letter),
            Happening::Served(n, caller, letter) => self.cluster.serve(wire, n, caller, letter),
            Happening::HungUp(n, caller) => self.cluster.hung_up(wire, n, caller),
            Happening::Cluster(what) => self.cluster.handle(wire, what),
            Happening::Answered(caller, _) => self.hosts[caller.host].handle(wire, what),
            Happening::Host(host, ..) => self.hosts[host].handle(wire, what),
            Happening::Plan(step) => self.step(step),
            Happening::Look => self.look(),
        }
    }

    fn look(&mut self) {
        for host in &self.hosts {
            let sent = self.wire.sent[host.number];
            let before = std::mem::replace(&mut self.sent_before[host.number], sent);
            self.busiest = self.busiest.max(sent - before);
            let is_calm =
                !self.faulty && laws::calm(&self.cluster, self.faults_until) < self.wire.now;
            if is_calm {
                self.busiest_calm = self.busiest_calm.max(sent - before);
            }
            laws::look_at_haste(&mut self.wire, host, sent - before, is_calm);
        }
        if !self.faulty {
            let until = self.faults_until;
            laws::look(&mut self.wire, &mut self.cluster, &self.hosts, until);
        }
        self.wire.after(laws::LOOK, Happening::Look);
    }

    pub(crate) fn step(&mut self, step: Step) {
        let wire = &mut self.wire;
        wire.note(|| format!("plan    {step:?}"));
        match step {
            Step::Kill(n) => {
                self.faulty = true;
                self.cluster.kill(wire, n);
            }
            Step::Start(n, takes) => self.cluster.start(wire, n, takes),
            Step::Split(n) => {
                self.faulty = true;
                self.cluster.split(wire, n);
            }
            Step::Heal => self.cluster.heal(wire),
            Step::Slow(n, delay) => {
                self.faulty = true;
                self.cluster.slow(n, delay);
            }
            Step::Ill(n, illness) => {
                self.faulty = true;
                self.cluster.ill(n, illness);
            }
            Step::Weather(weather) => {
                self.faulty = true;
                wire.weather = weather;
            }
            Step::Cut(host, n) => {
                self.faulty = true;
                wire.cut.insert((host, n));
            }
            Step::Join(host, n) => _ = wire.cut.remove(&(host, n)),
            Step::Crash(host) => self.hosts[host].crash(wire),
            Step::Boot(host) => {
                let host = &mut self.hosts[host];
                host.boot(wire);
                host.disturb_all(wire, s(10));
            }
            Step::Stop(host, wait) => self.hosts[host].stop(wire, wait),
            Step::Leave(host) => self.hosts[host].leave(wire),
            Step::Answers(host, service, answers) => {
                let host = &mut self.hosts[host];
                host.services[service].answers = answers;
                host.disturb(wire, service, s(7));
            }
            Step::Weigh(host, service, weight) => {
                self.hosts[host].weigh(wire, service, weight.into());
            }
            Step::Relocate(host, service, last) => self.hosts[host].relocate(wire, service, last),
            Step::Want(host, service, is) => self.hosts[host].want(wire, service, is),
            Step::Publish(file) => {
                let data_id = data_id(file);
                let number = self.cluster.changes.len();
                self.change(
                    Step::Publish(file),
                    &data_id,
                    Some(format!("{data_id} {number}")),
                );
            }
            Step::Delete(file) => self.change(Step::Delete(file), &data_id(file), None),
            Step::Disk(host, works) => {
                let host = &mut self.hosts[host];
                host.disk_works = works;
                for file in &mut host.files {
                    // The longest wait between two tries of a write.
                    file.due = file.due.max(wire.now + s(62));
                }
            }
            Step::Reloads(host, group, works) => {
                let host = &mut self.hosts[host];
                if let Some(hears) = host.reloads.get_mut(group) {
                    *hears = works;
                }
                for file in host.files.iter_mut().filter(|file| file.group == group) {
                    // The longest wait between two tries of a reload.
                    file.reload_due = file.reload_due.max(wire.now + s(302));
                }
            }
            Step::Restarted(host, group) => self.hosts[host].load(group),
            Step::Mend => self.mend(),
        }
    }

    /// An operator publishes, or deletes, and tries again until it is done.
    fn change(&mut self, step: Step, data_id: &str, content: Option<String>) {
        let wire = &mut self.wire;
        if !self.cluster.publish(wire, data_id, content) {
            let wait = wire.millis(500, 2_000);
            return wire.after(wait, Happening::Plan(step));
        }
        let missed = self.cluster.stale_until > wire.now;
        let bound = if missed { laws::MISSED } else { laws::CONFIG };
        for host in &mut self.hosts {
            for file in host.files.iter_mut().filter(|file| file.data_id == data_id) {
                file.due = file.due.max(wire.now + bound);
            }
        }
    }

    /// Ends all faults.
    fn mend(&mut self) {
        let wire = &mut self.wire;
        wire.weather = Weather::default();
        wire.cut.clear();
        self.cluster.heal(wire);
        for n in 0..self.cluster.size() {
            self.cluster.slow(n, Duration::ZERO);
            self.cluster.ill(n, None);
            let takes = wire.between(s(7), s(30));
            self.cluster.start(wire, n, takes);
        }
        for host in &mut self.hosts {
            host.boot(wire);
            host.disk_works = true;
            for service in 0..host.services.len() {
                host.services[service].answers = true;
                host.disturb(wire, service, s(8));
            }
        }
        self.faulty = false;
        self.faults_until = wire.now;
    }
}

pub(crate) fn data_id(number: usize) -> String {
    format!("{number}.yaml")
}

/// A file of a host.
pub(crate) fn file(number: usize, group: usize, removes: bool) -> File {
    File {
        data_id: data_id(number),
        group,
        on_absent: if removes {
            OnAbsent::Remove
        } else {
            OnAbsent::Keep
        },
        content: None,
        had: std::collections::BTreeSet::new(),
        by: 0,
        loaded: None,
        due: s(20),
        reload_due: s(20),
    }
}
