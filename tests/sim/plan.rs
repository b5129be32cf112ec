//! What befalls a world: thrown by the seed, in rounds of faults and calm, or written by hand for one scene.

use crate::cluster::Illness;
use crate::wire::Weather;
use outrigger::backoff::Dice;
use outrigger::machine::Moment;
use std::time::Duration;

const fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A round: faults may begin and end in its first part, and in the rest only what happens every day happens.
pub(crate) const ROUND: Duration = s(1_200);
pub(crate) const FAULTS: Duration = s(600);
/// From then on, after the faults, applications come and go again.
const DAILY: Duration = s(135);

/// One thing that is done to the world.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Kill(usize),
    /// Ready after so long.
    Start(usize, Duration),
    Split(usize),
    Heal,
    Slow(usize, Duration),
    Ill(usize, Option<Illness>),
    Weather(Weather),
    /// A host and a server do not hear one another.
    Cut(usize, usize),
    Join(usize, usize),
    Crash(usize),
    Boot(usize),
    Stop(usize, Duration),
    Leave(usize),
    /// The application of a service of a host ends, or is back.
    Answers(usize, usize, bool),
    Weigh(usize, usize, u8),
    Relocate(usize, usize, u8),
    Want(usize, usize, bool),
    Publish(usize),
    Delete(usize),
    Disk(usize, bool),
    Reloads(usize, usize, bool),
    /// The application of a group starts anew, and reads its files.
    Restarted(usize, usize),
    /// The faults of a round are over.
    Mend,
}

/// What a world has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) hosts: usize,
    pub(crate) services: usize,
    pub(crate) files: usize,
    pub(crate) groups: usize,
}

struct Throw<'a> {
    dice: &'a mut Dice,
    size: Size,
    steps: Vec<(Moment, Step)>,
}

impl Throw<'_> {
    fn below(&mut self, end: usize) -> usize {
        self.dice.below(end)
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.dice.draw())
    }

    fn at(&mut self, at: Moment, step: Step) {
        self.steps.push((at, step));
    }

    /// A fault that begins at some time and ends before `end`.
    fn fault(&mut self, begin: Moment, end: Moment) {
        let from = self.between(begin, end - s(5));
        let length = self.between(s(2), s(90));
        let to = (from + length).min(end - s(1));
        let (node, host) = (self.below(self.size.nodes), self.below(self.size.hosts));
        let service = self.below(self.size.services);
        let group = self.below(self.size.groups.max(1));
        let takes = self.between(s(7), s(40));
        match self.below(20) {
            0..=2 => {
                self.at(from, Step::Kill(node));
                self.at(to, Step::Start(node, takes));
            }
            3 => {
                for node in 0..self.size.nodes {
                    let (down, up) = (self.between(s(0), s(3)), self.between(s(0), s(5)));
                    let takes = self.between(s(7), s(40));
                    self.at(from + down, Step::Kill(node));
                    self.at(to + up + s(3), Step::Start(node, takes));
                }
            }
            4 | 5 if self.size.nodes > 1 => {
                self.at(from, Step::Split(node));
                self.published_between(from, to);
                self.at(to, Step::Heal);
            }
            4..=6 => {
                let delay = self.between(s(1), s(8));
                self.at(from, Step::Slow(node, delay));
                self.at(to, Step::Slow(node, Duration::ZERO));
            }
            7 => {
                let illness = [Illness::Fails, Illness::Overloaded, Illness::Foreign];
                let illness = illness[self.below(3)];
                self.at(from, Step::Ill(node, Some(illness)));
                self.at(to, Step::Ill(node, None));
            }
            8..=10 => {
                let bad = |dice: &mut Dice| dice.draw() * dice.draw() * 0.6;
                let weather = Weather {
                    lost_requests: bad(self.dice),
                    lost_answers: bad(self.dice),
                    doubled: bad(self.dice) / 2.0,
                    delay: s(6).mul_f64(bad(self.dice)),
                };
                self.at(from, Step::Weather(weather));
                self.at(to, Step::Weather(Weather::default()));
            }
            11 | 12 => {
                let all = self.below(2) == 0;
                for other in (0..self.size.nodes).filter(|other| all || *other == node) {
                    self.at(from, Step::Cut(host, other));
                    self.at(to, Step::Join(host, other));
                }
            }
            13 | 14 => {
                self.at(from, Step::Crash(host));
                self.published_between(from, to);
                self.at(to, Step::Boot(host));
            }
            15 => {
                let length = length.min(s(60));
                self.at(from, Step::Stop(host, length));
            }
            16 => {
                self.at(from, Step::Disk(host, false));
                self.published_between(from, to);
                self.at(to, Step::Disk(host, true));
            }
            17 => {
                self.at(from, Step::Reloads(host, group, false));
                self.published_between(from, to);
                self.at(to, Step::Reloads(host, group, true));
            }
            18 => {
                self.at(from, Step::Leave(host));
                self.at(to, Step::Boot(host));
            }
            _ => {
                self.at(from, Step::Want(host, service, false));
                self.at(to, Step::Want(host, service, true));
            }
        }
    }

    fn published_between(&mut self, from: Moment, to: Moment) {
        if self.size.files > 0 {
            let (at, file) = (self.between(from, to), self.below(self.size.files));
            self.at(at, Step::Publish(file));
        }
    }

    /// What happens every day.
    fn daily(&mut self, begin: Moment, end: Moment) {
        let from = self.between(begin, end - s(60));
        let length = self.between(s(1), s(40));
        let (host, service) = (self.below(self.size.hosts), self.below(self.size.services));
        match self.below(10) {
            0..=3 => {
                self.at(from, Step::Answers(host, service, false));
                self.at(from + length, Step::Answers(host, service, true));
            }
            4..=6 if self.size.files > 0 => {
                let file = self.below(self.size.files);
                self.at(from, Step::Publish(file));
                if self.below(4) == 0 {
                    self.at(from + length, Step::Delete(file));
                    self.at(from + length * 2, Step::Publish(file));
                } else if self.below(3) == 0 {
                    self.at(from + length / 20, Step::Publish(file));
                }
            }
            7 => {
                let weight = self.below(5) as u8;
                self.at(from, Step::Weigh(host, service, weight));
            }
            8 => {
                let last = self.below(4) as u8;
                self.at(from, Step::Relocate(host, service, last));
            }
            _ if self.size.groups > 0 => {
                let group = self.below(self.size.groups);
                self.at(from, Step::Restarted(host, group));
            }
            _ => {}
        }
    }
}

/// An hour, or as many rounds of it as are asked for.
pub(crate) fn thrown(dice: &mut Dice, size: Size, rounds: u32) -> Vec<(Moment, Step)> {
    let mut throw = Throw {
        dice,
        size,
        steps: Vec::new(),
    };
    for file in 0..size.files {
        throw.at(s(1), Step::Publish(file));
    }
    for round in 0..rounds {
        let (begin, end) = (ROUND * round + s(5), ROUND * round + FAULTS);
        let faults = 1 + throw.below(6);
        for _ in 0..faults {
            throw.fault(begin, end);
        }
        let daily = 2 + throw.below(8);
        for _ in 0..daily {
            throw.daily(begin, end);
        }
        throw.at(end, Step::Mend);
        let daily = 2 + throw.below(8);
        for _ in 0..daily {
            throw.daily(end + DAILY, ROUND * (round + 1));
        }
    }
    throw.steps.sort_by_key(|(at, _)| *at);
    throw.steps
}
