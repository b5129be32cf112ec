//! What must hold: at every instant, and (once the faults are over) within a bound.

use crate::cluster::Cluster;
use crate::host::{self, File, Host, Wanted};
use crate::wire::{REQUEST_TIMEOUT, Wire};
use outrigger::descriptor::spec::{OnAbsent, OnFailure};
use outrigger::machine::Moment;
use outrigger::nacos::model::Listed;
use std::{collections::BTreeSet, time::Duration};

const fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// After the last fault everything is as wanted within this: the longest wait of a registrar or of a server that is left out is
/// 30 s, three servers may be asked for 3 s each, and a beat and the servers' own lag follow. What only a slow read-back would
/// repair (after 75 s) is too late.
const FAULTS: Duration = s(50);
/// A weight that a server which was cut off brings back is seen by a read back, which comes to each of three servers in turn.
const WEIGHT: Duration = s(240);
/// So many requests may a host send between two looks, whatever befalls it: who sends more is in a tight loop.
const HASTE: u64 = 160;
/// And so many when nothing befalls it and nothing changes: for each service a beat and a read back, for each file that it is
/// fetched again and listened to again, and a little.
fn leisure(host: &Host) -> u64 {
    2 * (host.services.len() + host.files.len()) as u64 + 2
}
/// Who publishes twice within this, at two nodes whose clocks differ by so much, is not promised an order.
const SKEW: Duration = s(2);
/// Between two looks.
pub(crate) const LOOK: Duration = s(5);
/// A published configuration is in its file within this, of which the most is a server's delay.
pub(crate) const CONFIG: Duration = s(8);
/// The same where a node missed the change: the one that is listened to may be that one for 29.5 s, and so may the next.
pub(crate) const MISSED: Duration = s(75);

/// What a list should say of one service of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Healthy,
    /// Listed as unhealthy, or not at all.
    NotHealthy,
    Gone,
    Unknown,
}

fn expected(host: &Host, wanted: &Wanted) -> Expected {
    let spec = &wanted.spec;
    let Some(_) = &host.agent else {
        // What a killed agent leaves of a persistent instance stays.
        let stays = !spec.ephemeral && !host.left;
        return if stays {
            Expected::Unknown
        } else {
            Expected::Gone
        };
    };
    if host.is_stopped() {
        return Expected::Unknown;
    }
    if !wanted.is_wanted || host.leaves() {
        return Expected::Gone;
    }
    if wanted.answers {
        return Expected::Healthy;
    }
    if spec.on_failure == OnFailure::Deregister {
        Expected::Gone
    } else {
        Expected::NotHealthy
    }
}

/// The number of a published content: each says which it is.
fn number(text: &str) -> usize {
    let digits = text.rsplit(' ').next();
    digits
        .and_then(|digits| digits.parse().ok())
        .expect("a published content")
}

/// A file that went back, or away.
pub(crate) struct Suspect {
    data_id: String,
    old: usize,
    new: Option<usize>,
    /// It had the new content before.
    is_known: bool,
}

/// A file was replaced: by a published content, and not by an older one.
pub(crate) fn replaced(wire: &mut Wire, file: &mut File, old: Option<&str>, knew: bool) {
    let new = file.content.as_deref();
    if let Some(new) = new
        && new.split(' ').next() != Some(&file.data_id)
    {
        wire.broke(|| format!("{} holds {new:?}", file.data_id));
    }
    let is_suspect = match (old, new) {
        (Some(old), Some(new)) => number(new) < number(old),
        (_, None) => true,
        (None, Some(_)) => false,
    };
    if is_suspect && knew {
        wire.suspects.push(Suspect {
            data_id: file.data_id.clone(),
            old: old.map_or(0, number),
            new: new.map(number),
            is_known: new.is_some_and(|new| file.had.contains(&number(new))),
        });
    }
    if !knew {
        file.had.clear();
    }
    file.had.extend(new.map(number));
}

/// A file that went back, or was removed, while most servers had better is one server's word.
pub(crate) fn judge_suspects(wire: &mut Wire, cluster: &Cluster) {
    for suspect in std::mem::take(&mut wire.suspects) {
        let Suspect {
            data_id, old, new, ..
        } = suspect;
        match new {
            // Unless it could not know: the contents are as old as one another, as far as the clocks of the servers tell.
            Some(new)
                if 2 * cluster.have(&data_id, old) > cluster.size()
                    && (suspect.is_known || cluster.older_by(new, old) > SKEW) =>
            {
                wire.broke(|| {
                    format!("{data_id} was turned back from {old} to {new}, while most servers have {old}")
                });
            }
            // Unless it was deleted, and they have not heard of that yet; or was deleted, and published again while the word
            // that it is gone was under way.
            None if cluster.is_there_since(&data_id, wire.now.saturating_sub(REQUEST_TIMEOUT))
                && 2 * cluster.have_some(&data_id) > cluster.size() =>
            {
                wire.broke(|| format!("{data_id} was removed while most servers have it"));
            }
            _ => {}
        }
    }
}

/// From when on all is to be as wanted.
pub(crate) fn calm(cluster: &Cluster, faults_until: Moment) -> Moment {
    let calm = faults_until.max(cluster.trouble_until) + FAULTS;
    calm.max(cluster.late_until)
}

/// Looks whether a host sent too much since the last look.
pub(crate) fn look_at_haste(wire: &mut Wire, host: &Host, sent: u64, is_calm: bool) {
    let undisturbed = |due: Moment| due + LOOK <= wire.now;
    let services = host.services.iter().map(|wanted| wanted.due);
    let files = host.files.iter().map(|file| file.due);
    let is_calm = is_calm && services.chain(files).all(undisturbed);
    let most = if is_calm { leisure(host) } else { HASTE };
    if sent > most {
        wire.broke(|| format!("host {} sent {sent} requests in {LOOK:?}", host.number));
    }
}

/// Looks whether all is as it should be by now.
pub(crate) fn look(wire: &mut Wire, cluster: &mut Cluster, hosts: &[Host], faults_until: Moment) {
    if wire.now < calm(cluster, faults_until) {
        return;
    }
    let names: BTreeSet<&str> = hosts
        .iter()
        .flat_map(|host| host.services.iter().map(|wanted| wanted.spec.name.as_str()))
        .collect();
    for name in names {
        for n in 0..cluster.size() {
            if cluster.is_up(n) {
                look_at_list(wire, cluster, hosts, name, n, faults_until);
            }
        }
    }
    for host in hosts {
        for file in &host.files {
            look_at_file(wire, cluster, host, file);
        }
    }
}

fn look_at_list(
    wire: &mut Wire,
    cluster: &mut Cluster,
    hosts: &[Host],
    name: &str,
    n: usize,
    faults_until: Moment,
) {
    let weighs = wire.now >= calm(cluster, faults_until) + WEIGHT;
    let key = host::service_key(name);
    let lists = cluster.listed(wire.now, n, &key);
    let (all, healthy) = (&lists.all, &lists.healthy);
    for host in hosts {
        for wanted in host
            .services
            .iter()
            .filter(|wanted| wanted.spec.name == name)
        {
            if wire.now < wanted.due {
                continue;
            }
            let port = i64::from(wanted.spec.port);
            let here = wanted.ip.to_string();
            let is_orphan = |listed: &&Listed| {
                let orphans = &wanted.orphans;
                orphans
                    .iter()
                    .any(|ip| *ip != wanted.ip && ip.to_string() == listed.ip.raw())
            };
            let is_right = match expected(host, wanted) {
                Expected::Unknown => true,
                Expected::Gone => !all
                    .iter()
                    .any(|listed| listed.port == port && !is_orphan(&listed)),
                Expected::NotHealthy => !healthy
                    .iter()
                    .any(|listed| listed.port == port && !is_orphan(&listed)),
                Expected::Healthy => {
                    let found: Vec<_> = all
                        .iter()
                        .filter(|listed| listed.port == port && !is_orphan(listed))
                        .collect();
                    let well = healthy.iter().any(|listed| listed.port == port);
                    well && found.len() == 1
                        && found[0].ip.raw() == here
                        && (!weighs || found[0].weight == wanted.spec.weight)
                }
            };
            if !is_right {
                let (number, expected) = (host.number, expected(host, wanted));
                wire.broke(|| {
                    let list: Vec<_> = all
                        .iter()
                        .map(|listed| format!("{}:{} x{}", listed.ip, listed.port, listed.weight))
                        .collect();
                    let well: Vec<_> = healthy.iter().map(|listed| listed.port).collect();
                    format!(
                        "node {n} lists {name} as {list:?}, healthy are {well:?}; host {number} wants {here}:{port} x{} {expected:?}",
                        wanted.spec.weight
                    )
                });
            }
        }
    }
}

fn look_at_file(wire: &mut Wire, cluster: &Cluster, host: &Host, file: &File) {
    if host.agent.is_none() || host.is_stopped() || !host.disk_works {
        return;
    }
    if wire.now >= file.due
        && let Some(change) = cluster.latest(&file.data_id)
    {
        let is_right = match (&change.content, file.on_absent) {
            (Some(content), _) => file.content.as_ref() == Some(content),
            (None, OnAbsent::Remove) => file.content.is_none(),
            (None, _) => true,
        };
        if !is_right {
            let (number, data_id) = (host.number, &file.data_id);
            let (is, should) = (&file.content, &change.content);
            wire.broke(|| {
                format!("host {number}: {data_id} holds {is:?}, published is {should:?}")
            });
        }
    }
    let is_told = file.loaded == file.content || !host.reloads[file.group];
    if wire.now >= file.reload_due.max(file.due) && !is_told {
        let (number, data_id) = (host.number, &file.data_id);
        let (is, should) = (&file.loaded, &file.content);
        wire.broke(|| {
            format!("host {number}: the application has {is:?} of {data_id}, the file {should:?}")
        });
    }
}
