//! Two other rules of placement, for comparison: models of a farm whose starts, stops and idle times are fixed.
//!
//! *Strict age*: the eldest build gets the next worker; if that has an instance of another kind, it is replaced.
//! *Buildbot's*: a build picks at random among workers that are down or idle with an instance of its kind; an idle
//! instance of another kind blocks its worker until its idle time is over. Both bind a build to the worker that they
//! start for it.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::Outcome;
use super::workloads::{IDLE, Job, START, STOP, Workload};

#[derive(Copy, Clone, PartialEq, Debug)]
pub(crate) enum Rule {
    StrictAge,
    Buildbot,
}

#[derive(Copy, Clone, PartialEq, Debug)]
enum Worker {
    Down,
    Starting(usize),
    Idle(usize),
    Busy(usize),
    /// It starts an instance of this kind afterwards, if there is one.
    Stopping(Option<usize>),
}

#[derive(Copy, Clone, Debug)]
enum Happening {
    Arrival(usize),
    Started(usize),
    Ended(usize),
    Stopped(usize),
    /// If the worker has not changed since.
    IdleTooLong(usize, u64),
}

/// A time in seconds, and the order of what happens then.
#[derive(Copy, Clone, PartialEq, Debug)]
struct At(f64, u64);

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

struct Farm<'a> {
    jobs: &'a [Job],
    rule: Rule,
    random: fastrand::Rng,
    now: f64,
    workers: Vec<Worker>,
    /// How often each worker has changed.
    changes: Vec<u64>,
    /// Waiting builds of each kind. The first of them are bound to workers that start.
    waiting: Vec<VecDeque<usize>>,
    happenings: BinaryHeap<(Reverse<At>, usize)>,
    what: Vec<Happening>,
    starts: usize,
    waits: Vec<f64>,
    makespan: f64,
}

pub(crate) fn run(workload: &Workload, rule: Rule, seed: u64) -> Outcome {
    let kinds = workload.jobs.iter().map(|job| job.kind).max().map_or(0, |kind| kind + 1);
    let mut farm = Farm {
        jobs: &workload.jobs,
        rule,
        random: fastrand::Rng::with_seed(seed),
        now: 0.0,
        workers: vec![Worker::Down; workload.workers],
        changes: vec![0; workload.workers],
        waiting: vec![VecDeque::new(); kinds],
        happenings: BinaryHeap::new(),
        what: Vec::new(),
        starts: 0,
        waits: vec![0.0; workload.jobs.len()],
        makespan: 0.0,
    };
    for (number, job) in workload.jobs.iter().enumerate() {
        farm.at(job.arrival, Happening::Arrival(number));
    }
    while let Some((Reverse(At(time, _)), number)) = farm.happenings.pop() {
        farm.now = time;
        farm.happen(farm.what[number]);
        while farm.place_one() {}
    }
    Outcome::new(farm.starts, farm.waits, farm.makespan)
}

impl Farm<'_> {
    fn at(&mut self, time: f64, happening: Happening) {
        let number = self.what.len();
        self.what.push(happening);
        self.happenings.push((Reverse(At(time, number as u64)), number));
    }

    fn set(&mut self, worker: usize, state: Worker) {
        self.workers[worker] = state;
        self.changes[worker] += 1;
        match state {
            Worker::Starting(_) => {
                self.starts += 1;
                self.at(self.now + START.as_secs_f64(), Happening::Started(worker));
            }
            Worker::Idle(_) => {
                let happening = Happening::IdleTooLong(worker, self.changes[worker]);
                self.at(self.now + IDLE.as_secs_f64(), happening);
            }
            Worker::Down | Worker::Busy(_) | Worker::Stopping(_) => {}
        }
    }

    fn stop(&mut self, worker: usize, then: Option<usize>) {
        self.set(worker, Worker::Stopping(then));
        self.at(self.now + STOP.as_secs_f64(), Happening::Stopped(worker));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(number) => self.waiting[self.jobs[number].kind].push_back(number),
            Happening::Started(worker) => {
                if let Worker::Starting(kind) = self.workers[worker] {
                    self.set(worker, Worker::Idle(kind));
                }
            }
            Happening::Ended(worker) => {
                if let Worker::Busy(kind) = self.workers[worker] {
                    self.makespan = self.now;
                    self.set(worker, Worker::Idle(kind));
                }
            }
            Happening::Stopped(worker) => {
                if let Worker::Stopping(then) = self.workers[worker] {
                    self.set(worker, then.map_or(Worker::Down, Worker::Starting));
                }
            }
            Happening::IdleTooLong(worker, changes) => {
                if self.changes[worker] == changes {
                    self.stop(worker, None);
                }
            }
        }
    }

    /// Gives or starts something for one build. Returns whether anything could be done.
    fn place_one(&mut self) -> bool {
        let mut bound = vec![0; self.waiting.len()];
        for worker in &self.workers {
            if let Worker::Starting(kind) | Worker::Stopping(Some(kind)) = worker {
                bound[*kind] += 1;
            }
        }
        let unbound = |kind: usize| self.waiting[kind].get(bound[kind]).map(|build| (*build, kind));
        let mut heads: Vec<(usize, usize)> = (0..self.waiting.len()).filter_map(unbound).collect();
        heads.sort_unstable();
        heads.into_iter().any(|(build, kind)| match self.rule {
            Rule::StrictAge => self.place_by_age(build, kind),
            Rule::Buildbot => self.place_as_buildbot(build, kind),
        })
    }

    fn place_by_age(&mut self, build: usize, kind: usize) -> bool {
        let find = |accepted: &dyn Fn(Worker) -> bool| self.workers.iter().position(|worker| accepted(*worker));
        if let Some(worker) = find(&|worker| worker == Worker::Idle(kind)) {
            self.give(worker, build, kind);
        } else if let Some(worker) = find(&|worker| worker == Worker::Down) {
            self.set(worker, Worker::Starting(kind));
        } else if let Some(worker) = find(&|worker| worker == Worker::Stopping(None)) {
            self.workers[worker] = Worker::Stopping(Some(kind));
        } else if let Some(worker) = find(&|worker| matches!(worker, Worker::Idle(_))) {
            self.stop(worker, Some(kind));
        } else {
            return false;
        }
        true
    }

    fn place_as_buildbot(&mut self, build: usize, kind: usize) -> bool {
        let can = |worker: &usize| {
            matches!(self.workers[*worker], Worker::Down) || self.workers[*worker] == Worker::Idle(kind)
        };
        let candidates: Vec<usize> = (0..self.workers.len()).filter(can).collect();
        let Some(&worker) = self.random.choice(&candidates) else { return false };
        if self.workers[worker] == Worker::Down {
            self.set(worker, Worker::Starting(kind));
        } else {
            self.give(worker, build, kind);
        }
        true
    }

    fn give(&mut self, worker: usize, build: usize, kind: usize) {
        self.waiting[kind].retain(|waiting| *waiting != build);
        let job = self.jobs[build];
        self.waits[build] = self.now - job.arrival;
        self.set(worker, Worker::Busy(kind));
        self.at(self.now + job.duration, Happening::Ended(worker));
    }
}
