//! A [`World`] on virtual time: calls and builds take as long as a test says, and messages are never late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::super::{Labels, PlacementConfig};
use super::world::{BuildSetup, BuildState, Driver, Setting, SimBuild, Step, WorkerSetup, World};
use crate::build::Epoch;
use crate::event::DriverCall;
use crate::worker::IdlePolicy;

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn labels(words: &str) -> Labels {
    words.split_whitespace().collect()
}

pub(super) fn kind(kind: &'static str) -> BuildSetup {
    BuildSetup { labels: Labels::new(), priority: 0, kind, max_attempts: None }
}

pub(super) const SAYS: Driver = Driver::Says { refuses: None };

#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    Return(usize, DriverCall, Epoch),
    Finish(usize),
}

pub(super) struct Farm {
    pub(super) world: World,
    pub(super) began: Instant,
    /// How long calls take. One that is not there never returns.
    pub(super) calls: BTreeMap<(usize, DriverCall), Duration>,
    /// Which answer calls return, unless the good one.
    pub(super) answers: BTreeMap<(usize, DriverCall), usize>,
    /// How long each build runs, and how often its lease is lost before that.
    runs: Vec<(Duration, u32)>,
    due: BTreeSet<(Instant, Due)>,
    known: BTreeSet<Due>,
    /// When a build was given to which worker.
    pub(super) given: Vec<(Duration, usize, usize)>,
    /// Every call that was made.
    pub(super) made: Vec<(Duration, usize, DriverCall)>,
    running: BTreeMap<usize, usize>,
    /// Every step is followed by all checks.
    pub(super) checked: bool,
}

impl Farm {
    pub(super) fn new(workers: &[(&str, Driver, usize)]) -> Self {
        Self::with(workers, PlacementConfig::new())
    }

    pub(super) fn with(workers: &[(&str, Driver, usize)], placement: PlacementConfig) -> Self {
        Self::of(workers, Setting { placement, ..Setting::default() })
    }

    pub(super) fn of(workers: &[(&str, Driver, usize)], setting: Setting) -> Self {
        let setup = |(offers, driver, max_builds): &(&str, Driver, usize)| WorkerSetup {
            labels: labels(offers),
            driver: *driver,
            max_builds: *max_builds,
        };
        let setting = Setting {
            workers: workers.iter().map(setup).collect(),
            idle: IdlePolicy::After(secs(600)),
            learns: true,
            ..setting
        };
        let began = Instant::now();
        let mut calls = BTreeMap::new();
        for worker in 0..workers.len() {
            calls.insert((worker, DriverCall::Start), secs(10));
            calls.insert((worker, DriverCall::Stop), secs(2));
            calls.insert((worker, DriverCall::Compatible), Duration::from_millis(1));
        }
        Self {
            world: World::new(setting, began),
            began,
            calls,
            answers: BTreeMap::new(),
            runs: Vec::new(),
            due: BTreeSet::new(),
            known: BTreeSet::new(),
            given: Vec::new(),
            made: Vec::new(),
            running: BTreeMap::new(),
            checked: true,
        }
    }

    /// A build that runs for so long. Returns its number.
    pub(super) fn submit(&mut self, setup: BuildSetup, runs: Duration) -> usize {
        self.submit_unlucky(setup, runs, 0)
    }

    /// A build whose lease is lost that often, at once.
    pub(super) fn submit_unlucky(&mut self, setup: BuildSetup, runs: Duration, losses: u32) -> usize {
        let slot = self.world.builds.len();
        std::rc::Rc::make_mut(&mut self.world.setting).builds.push(setup);
        self.world.builds.push(SimBuild::new());
        self.runs.push((runs, losses));
        self.take(Step::Submit(slot));
        slot
    }

    pub(super) fn take(&mut self, step: Step) {
        if self.checked {
            self.world.take(step);
        } else {
            self.world.act(step);
            self.world.settle();
        }
        self.look();
    }

    /// Notes what has begun.
    fn look(&mut self) {
        let (now, since) = (self.world.now, self.now());
        for (i, worker) in self.world.workers.iter().enumerate() {
            let Some((call, epoch)) = worker.call else { continue };
            let due = Due::Return(i, call, epoch);
            // Questions are asked more than once in an epoch, and never two at once.
            let pending = self.due.iter().any(|(_, other)| *other == due);
            if !pending && (self.known.insert(due) || call == DriverCall::Compatible) {
                self.made.push((since, i, call));
                let returns = self.calls.get(&(i, call)).map(|duration| now + *duration);
                self.due.extend(returns.map(|at| (at, due)));
            }
        }
        for (slot, build) in self.world.builds.iter().enumerate() {
            match build.state {
                BuildState::Running(worker) => {
                    if self.running.insert(slot, worker).is_none() {
                        self.given.push((since, slot, worker));
                        let runs = if self.runs[slot].1 > 0 { Duration::ZERO } else { self.runs[slot].0 };
                        self.due.insert((now + runs, Due::Finish(slot)));
                    }
                }
                _ => _ = self.running.remove(&slot),
            }
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.world.now - self.began
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, duration: Duration) {
        self.run_until(self.now() + duration);
    }

    pub(super) fn run_until(&mut self, end: Duration) {
        let end = self.began + end;
        loop {
            let due = self.due.first().copied().filter(|(at, _)| *at <= end);
            let deadline = self.world.next_deadline().filter(|at| *at <= end);
            match (due, deadline) {
                (Some((at, what)), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                    self.due.remove(&(at, what));
                    self.world.now = self.world.now.max(at);
                    self.happens(what);
                }
                (_, Some(_)) => self.take(Step::Deadline),
                _ => break,
            }
        }
        self.world.now = self.world.now.max(end);
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Return(worker, call, epoch) => {
                if self.world.workers[worker].call != Some((call, epoch)) {
                    return;
                }
                let answer = self.answers.get(&(worker, call)).copied();
                let truth = if self.world.would_fit(worker) { 0 } else { 1 };
                let good = if call == DriverCall::Compatible { truth } else { 0 };
                self.take(Step::Return(worker, answer.unwrap_or(good)));
                let life = &self.world.workers[worker].life;
                if call == DriverCall::Start && !life.attached() && life.admits_agent(epoch).is_ok() {
                    self.take(Step::Attach(worker));
                }
            }
            Due::Finish(slot) => {
                if !matches!(self.world.builds[slot].state, BuildState::Running(_)) {
                    return self.give_back(slot);
                }
                self.running.remove(&slot);
                if self.runs[slot].1 > 0 {
                    self.runs[slot].1 -= 1;
                    self.take(Step::Retry(slot));
                } else {
                    self.take(Step::Finish(slot));
                }
            }
        }
    }

    /// Whoever holds the lease of a build that was cancelled notices it when the build would have ended.
    fn give_back(&mut self, slot: usize) {
        let id = self.world.builds[slot].id;
        let held = self.world.workers.iter().enumerate().find_map(|(worker, of)| {
            let lease = of.leases.iter().position(|(_, build)| *build == Some(id))?;
            Some(Step::GiveBack(worker, lease))
        });
        held.into_iter().for_each(|step| self.take(step));
    }

    pub(super) fn count(&self, call: DriverCall) -> usize {
        self.made.iter().filter(|(_, _, made)| *made == call).count()
    }

    /// When a build was given a place first, and where.
    pub(super) fn first_place(&self, slot: usize) -> Option<(Duration, usize)> {
        self.given.iter().find(|(_, of, _)| *of == slot).map(|(at, _, worker)| (*at, *worker))
    }

    pub(super) fn has_ended(&self, slot: usize) -> bool {
        self.world.builds[slot].state == BuildState::Ended
    }
}
