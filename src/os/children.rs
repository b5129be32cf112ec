//! What commands leave behind: found, told, and buried when it has ended.
//!
//! A command leads a process group that is killed with it, but a process can leave its group: a daemon does, and so does one that
//! only wants to outlive its time limit. As subreaper (and as process 1 of a container in any case) we become the parent of
//! whatever a command leaves, so it can be found among our children: all those in a group other than ours that do not lead a
//! command which is still waited for. The living are told; the dead are waited for, else they would stay zombies as long as we
//! live. Which commands are waited for is the one thing kept for the whole process, as the kernel keeps one set of children.

use crate::foreign::Foreign;
use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    sync::{Mutex, PoisonError},
};

/// Leaders of commands that somebody waits for. Held while one is started: no look falls between its beginning and its entry.
static LEADERS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// `/proc/…/stat` is below 1 KiB; so many children fit as well.
const PROC_FILE: u64 = 64 * 1024;

/// From now on what commands leave behind becomes ours. Children of ours do not inherit that.
///
/// # Errors
/// What the system says; then only process 1 finds anything.
pub fn adopt() -> io::Result<()> {
    set_child_subreaper(Some(getpid())).map_err(Into::into)
}

/// A command that is waited for, as long as this lives.
#[derive(Debug)]
pub(super) struct Leader {
    pid: i32,
    began: u64,
}

impl Leader {
    /// Starts a command; `number` is what it is called by.
    pub(super) fn start<T>(
        spawn: impl FnOnce() -> io::Result<T>,
        number: impl FnOnce(&T) -> Option<u32>,
    ) -> io::Result<(T, Option<Self>)> {
        let mut leaders = LEADERS.lock().unwrap_or_else(PoisonError::into_inner);
        let started = spawn()?;
        let leader = number(&started)
            .and_then(|number| i32::try_from(number).ok())
            .map(|pid| {
                leaders.insert(pid);
                let began = Child::of(pid).map_or(u64::MAX, |child| child.began);
                Self { pid, began }
            });
        Ok((started, leader))
    }

    /// Buries what is dead and answers what has left its command's group since this one began.
    pub(super) fn left_behind(&self) -> Vec<(i32, Foreign)> {
        let leaders = LEADERS.lock().unwrap_or_else(PoisonError::into_inner);
        // 0 where its leader is outside of our pid namespace.
        let own = nix::unistd::getpgrp().as_raw();
        let mut left = Vec::new();
        for pid in children() {
            let Some(child) = Child::of(pid).filter(|child| child.group != own) else {
                continue;
            };
            if leaders.contains(&pid) {
                continue;
            }
            if child.is_dead {
                let once = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                // It is dead and nobody else waits for it.
                _ = Pid::from_raw(pid).map(|pid| waitid(WaitId::Pid(pid), once));
            } else if child.began >= self.began {
                left.push((pid, child.name));
            }
        }
        left
    }
}

/// Buries what is dead and was left to us, whoever's it was; what somebody waits for is his.
pub(super) fn bury() {
    let leaders = LEADERS.lock().unwrap_or_else(PoisonError::into_inner);
    for pid in children() {
        if !leaders.contains(&pid) && Child::of(pid).is_some_and(|child| child.is_dead) {
            let once = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            _ = Pid::from_raw(pid).map(|pid| waitid(WaitId::Pid(pid), once));
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut leaders = LEADERS.lock().unwrap_or_else(PoisonError::into_inner);
        leaders.remove(&self.pid);
    }
}

/// The numbers of our children; none where the kernel does not list them.
fn children() -> BTreeSet<i32> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return BTreeSet::new();
    };
    threads
        .flatten()
        .filter_map(|thread| read(&thread.path().join("children").to_string_lossy()))
        .flat_map(|text| {
            let pids = text.split_ascii_whitespace();
            pids.filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

struct Child {
    name: Foreign,
    group: i32,
    is_dead: bool,
    /// Clock ticks since boot.
    began: u64,
}

impl Child {
    fn of(pid: i32) -> Option<Self> {
        let stat = read(&format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything, parentheses too.
        let (before, after) = stat.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        // proc(5): state is field 3, pgrp 5, starttime 22.
        let mut fields = after.split_ascii_whitespace();
        let state = fields.next()?;
        let group = fields.nth(1)?.parse().ok()?;
        let began = fields.nth(16)?.parse().ok()?;
        Some(Self {
            name: Foreign::from(name),
            group,
            is_dead: matches!(state, "Z" | "X"),
            began,
        })
    }
}

fn read(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(PROC_FILE)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
