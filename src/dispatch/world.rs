//! A small world around [`Dispatch`] for the tests: workers with a life of their own, messages that are late, and an
//! account of what was said, from which a naive choice and the invariants are worked out independently of the code
//! under test.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::rc::Rc;

use super::*;

/// What may happen in a world, and who is in it.
#[derive(Clone, Default)]
pub(super) struct Scenario {
    pub(super) workers: Vec<WorkerSetup>,
    pub(super) jobs: Vec<JobSetup>,
    /// Facts, reports and answers arrive some time later and in any order; else at once.
    pub(super) late_facts: bool,
    pub(super) late_reports: bool,
    pub(super) late_answers: bool,
    /// Facts may also be overtaken by newer ones and arrive after them.
    pub(super) stale_facts: bool,
    pub(super) cancels: bool,
    pub(super) retries: bool,
    pub(super) failures: bool,
    /// Attached workers lose the connection, also while a build runs.
    pub(super) losses: bool,
    pub(super) pauses: bool,
    pub(super) shutdown: bool,
    /// A job that has ended is submitted again as a new one.
    pub(super) endless: bool,
}

#[derive(Clone)]
pub(super) struct WorkerSetup {
    pub(super) labels: Labels,
    pub(super) asked: bool,
    pub(super) capacity: u32,
}

#[derive(Clone)]
pub(super) struct JobSetup {
    pub(super) labels: Labels,
    pub(super) priority: i32,
    pub(super) kind: u8,
    pub(super) max_attempts: Option<NonZeroU32>,
}

type Slot = usize;

fn bit(slot: Slot) -> u64 {
    1 << slot
}

fn slots(mask: u64) -> impl Iterator<Item = Slot> {
    (0..64).filter(move |slot| mask & bit(*slot) != 0)
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Down,
    Starting,
    Attached,
    Stopping,
    Closed,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Said {
    Granted,
    Failed,
    Cannot,
    Refused,
    Incompatible(u64),
}

#[derive(Clone, Debug)]
struct SimWorker {
    phase: Phase,
    kind: u8,
    epoch: u64,
    version: u64,
    requests: u64,
    leases: u64,
    /// Given, not carried out.
    order: Option<(Slot, Fit)>,
    /// Carried out, not reported.
    unreported: Option<Slot>,
    answers: Vec<(Slot, Said)>,
    withdrawals: u64,
    /// What dispatch was told last, and an older message that is still on its way.
    told: Facts,
    stale: Option<Facts>,
    /// The version that dispatch knew at its last assignment.
    assigned_at: Option<u64>,
}

impl SimWorker {
    fn openness(&self, setup: &WorkerSetup) -> Openness {
        let taken = (self.requests | self.leases).count_ones();
        match self.phase {
            _ if taken >= setup.capacity => Openness::Closed,
            Phase::Closed => Openness::Closed,
            Phase::Down => Openness::Down,
            Phase::Starting => Openness::Starting,
            Phase::Attached => Openness::Attached { unused: taken == 0 },
            Phase::Stopping if setup.asked && taken > 0 => Openness::Closed,
            Phase::Stopping => Openness::Stopping,
        }
    }

    fn withheld(&self) -> bool {
        let undelivered = self.order.is_some() || self.unreported.is_some();
        undelivered || self.assigned_at.is_some_and(|version| self.told.version <= version)
    }

    fn mentions(&self, slot: Slot) -> bool {
        (self.requests | self.leases | self.withdrawals) & bit(slot) != 0
            || self.order.is_some_and(|(of, _)| of == slot)
            || self.unreported == Some(slot)
            || self.answers.iter().any(|(of, _)| *of == slot)
    }
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum JobState {
    New,
    Waiting,
    At(usize),
    Running(usize),
    Ended,
}

#[derive(Clone, Debug)]
struct SimJob {
    id: BuildId,
    state: JobState,
    attempts: u32,
    /// By worker: the epoch whose instance was incompatible.
    rejected: Vec<Option<u64>>,
}

/// One input.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Submit(Slot),
    Cancel(Slot),
    Finish(Slot),
    Retry(Slot),
    /// The lease of a job that was cancelled while it ran comes back.
    Return(usize, Slot),
    Shutdown,
    CarryOut(usize),
    Report(usize),
    Answer(usize, usize),
    Withdraw(usize, Slot),
    Tell(usize),
    TellStale(usize),
    Attach(usize),
    FailStart(usize),
    CannotStart(usize),
    Stop(usize),
    Stopped(usize),
    Lose(usize),
    Pause(usize),
    Unpause(usize),
}

#[derive(Clone)]
pub(super) struct World {
    scenario: Rc<Scenario>,
    pub(super) dispatch: Dispatch,
    workers: Vec<SimWorker>,
    jobs: Vec<SimJob>,
    last_id: u64,
    shut_down: bool,
}

fn worker_index(worker: usize) -> WorkerIndex {
    WorkerIndex(worker as u32)
}

impl World {
    pub(super) fn new(mut scenario: Scenario) -> Self {
        let setups = std::mem::take(&mut scenario.workers);
        let job = SimJob { id: BuildId(0), state: JobState::New, attempts: 0, rejected: Vec::new() };
        let mut world = Self {
            dispatch: Dispatch::new(),
            workers: Vec::new(),
            jobs: vec![job; scenario.jobs.len()],
            scenario: Rc::new(scenario),
            last_id: 0,
            shut_down: false,
        };
        setups.into_iter().for_each(|setup| world.add_worker(setup));
        world
    }

    pub(super) fn add_worker(&mut self, setup: WorkerSetup) {
        let index = self.workers.len();
        let told = Facts { version: 1, epoch: Epoch(0), openness: Openness::Down };
        self.dispatch.add_worker(
            worker_index(index),
            format!("w{index}").into(),
            setup.labels.clone(),
            setup.asked,
            told,
        );
        self.workers.push(SimWorker {
            phase: Phase::Down,
            kind: 0,
            epoch: 0,
            version: told.version,
            requests: 0,
            leases: 0,
            order: None,
            unreported: None,
            answers: Vec::new(),
            withdrawals: 0,
            told,
            stale: None,
            assigned_at: None,
        });
        self.jobs.iter_mut().for_each(|job| job.rejected.push(None));
        Rc::make_mut(&mut self.scenario).workers.push(setup);
    }

    /// What will be submitted the next time.
    pub(super) fn redefine(&mut self, slot: Slot, setup: JobSetup) {
        Rc::make_mut(&mut self.scenario).jobs[slot] = setup;
    }

    /// Whether no message is on its way and nothing runs.
    pub(super) fn is_quiet(&self) -> bool {
        self.jobs.iter().all(|job| !matches!(job.state, JobState::Running(_) | JobState::At(_)))
            && self.workers.iter().all(|worker| {
                worker.order.is_none()
                    && worker.unreported.is_none()
                    && worker.answers.is_empty()
                    && worker.withdrawals == 0
                    && worker.told.version == worker.version
            })
    }

    /// Whether every build has had its end.
    pub(super) fn is_over(&self) -> bool {
        self.dispatch.builds.is_empty()
            && self.jobs.iter().all(|job| matches!(job.state, JobState::New | JobState::Ended))
    }

    /// Everything that can happen now.
    pub(super) fn actions(&self) -> Vec<Action> {
        let scenario = &self.scenario;
        let mut actions = Vec::new();
        let mut can = |when: bool, action: Action| {
            if when {
                actions.push(action);
            }
        };
        let mut new_seen = false;
        for (slot, job) in self.jobs.iter().enumerate() {
            let live = !matches!(job.state, JobState::New | JobState::Ended);
            let gone = job.state == JobState::Ended && !self.workers.iter().any(|worker| worker.mentions(slot));
            // In the order of their numbers.
            can(job.state == JobState::New && !new_seen || scenario.endless && gone, Action::Submit(slot));
            new_seen |= job.state == JobState::New;
            can(live && scenario.cancels, Action::Cancel(slot));
            can(matches!(job.state, JobState::Running(_)), Action::Finish(slot));
            can(matches!(job.state, JobState::Running(_)) && scenario.retries, Action::Retry(slot));
        }
        can(scenario.shutdown && !self.shut_down, Action::Shutdown);
        for (i, worker) in self.workers.iter().enumerate() {
            let unused = worker.leases | worker.requests == 0;
            can(worker.order.is_some() && worker.unreported.is_none(), Action::CarryOut(i));
            can(worker.unreported.is_some(), Action::Report(i));
            (0..worker.answers.len()).for_each(|answer| can(true, Action::Answer(i, answer)));
            slots(worker.withdrawals).for_each(|slot| can(true, Action::Withdraw(i, slot)));
            for slot in slots(worker.leases) {
                let granting = worker.answers.iter().any(|(of, _)| *of == slot);
                can(self.jobs[slot].state == JobState::Ended && !granting, Action::Return(i, slot));
            }
            can(worker.told.version < worker.version, Action::Tell(i));
            can(worker.stale.is_some(), Action::TellStale(i));
            can(worker.phase == Phase::Starting, Action::Attach(i));
            can(worker.phase == Phase::Starting && scenario.failures, Action::FailStart(i));
            can(worker.phase == Phase::Starting && scenario.failures, Action::CannotStart(i));
            can(worker.phase == Phase::Attached && unused, Action::Stop(i));
            can(worker.phase == Phase::Stopping, Action::Stopped(i));
            can(worker.phase == Phase::Attached && !unused && scenario.losses, Action::Lose(i));
            can(worker.phase == Phase::Down && scenario.pauses, Action::Pause(i));
            can(worker.phase == Phase::Closed, Action::Unpause(i));
        }
        actions
    }

    /// Something happens, and what is not late follows at once.
    pub(super) fn step(&mut self, action: Action) {
        self.act(action);
        let scenario = self.scenario.clone();
        for i in 0..self.workers.len() {
            if !scenario.late_facts && self.workers[i].told.version < self.workers[i].version {
                self.act(Action::Tell(i));
            }
            if !scenario.late_reports && self.workers[i].unreported.is_some() {
                self.act(Action::Report(i));
            }
            while !scenario.late_answers && !self.workers[i].answers.is_empty() {
                self.act(Action::Answer(i, 0));
            }
        }
        // Facts may have changed by an answer, as when a lease was dropped.
        for i in 0..self.workers.len() {
            if !scenario.late_facts && self.workers[i].told.version < self.workers[i].version {
                self.act(Action::Tell(i));
            }
        }
    }

    fn act(&mut self, action: Action) {
        let mut orders = Orders::new();
        match action {
            Action::Submit(slot) => {
                let setup = &self.scenario.jobs[slot];
                let mut build = setup.labels.iter().cloned().fold(Build::new("b"), Build::with_label);
                build = build.with_priority(setup.priority);
                if let Some(most) = setup.max_attempts {
                    build = build.with_max_attempts(most);
                }
                self.last_id += 1;
                let id = BuildId(self.last_id);
                let rejected = vec![None; self.workers.len()];
                self.jobs[slot] = SimJob { id, state: JobState::Waiting, attempts: 0, rejected };
                self.dispatch.submit(id, &build, &mut orders);
                if !self.shut_down && (0..self.workers.len()).any(|worker| self.fits(slot, worker)) {
                    assert_eq!(orders, []);
                } else {
                    assert!(matches!(orders.as_slice(), [Order::Answer { .. }]));
                }
            }
            Action::Cancel(slot) => {
                let build = self.jobs[slot].id;
                assert!(self.dispatch.cancel(build, &mut orders));
                let ran = matches!(self.jobs[slot].state, JobState::Running(_));
                assert_eq!(orders.contains(&Order::EndLease { build }), ran);
                assert!(orders.contains(&Order::Answer { build, error: BuildError::Cancelled }));
            }
            Action::Finish(slot) => {
                self.return_lease(slot);
                assert!(self.dispatch.finished(self.jobs[slot].id));
                self.jobs[slot].state = JobState::Ended;
            }
            Action::Retry(slot) => {
                self.return_lease(slot);
                self.dispatch.retry(self.jobs[slot].id, "lost".into(), &mut orders);
                self.attempt_over(slot);
            }
            Action::Return(worker, slot) => {
                assert!(!self.dispatch.finished(self.jobs[slot].id));
                self.dispatch.retry(self.jobs[slot].id, "late".into(), &mut orders);
                assert_eq!(orders, []);
                self.workers[worker].leases &= !bit(slot);
                self.workers[worker].version += 1;
            }
            Action::Shutdown => {
                self.shut_down = true;
                self.dispatch.shutdown(&mut orders);
            }
            Action::CarryOut(worker) => self.carry_out(worker),
            Action::Report(worker) => {
                let slot = self.workers[worker].unreported.take().expect("there is something to report");
                self.dispatch.assigned(self.jobs[slot].id, worker_index(worker), &mut orders);
            }
            Action::Answer(worker, answer) => {
                let (slot, said) = self.workers[worker].answers.remove(answer);
                self.answer(worker, slot, said, &mut orders);
            }
            Action::Withdraw(worker, slot) => {
                let worker = &mut self.workers[worker];
                worker.withdrawals &= !bit(slot);
                if worker.requests & bit(slot) != 0 {
                    worker.requests &= !bit(slot);
                    worker.version += 1;
                }
            }
            Action::Tell(worker) => {
                let setup = &self.scenario.workers[worker];
                let sim = &mut self.workers[worker];
                let openness = sim.openness(setup);
                sim.stale = self.scenario.stale_facts.then_some(sim.told);
                sim.told = Facts { version: sim.version, epoch: Epoch(sim.epoch), openness };
                self.dispatch.facts(worker_index(worker), sim.told);
            }
            Action::TellStale(worker) => {
                if let Some(stale) = self.workers[worker].stale.take() {
                    self.dispatch.facts(worker_index(worker), stale);
                }
            }
            Action::Attach(worker) => {
                let worker = &mut self.workers[worker];
                worker.phase = Phase::Attached;
                worker.version += 1;
                worker.answers.extend(slots(worker.requests).map(|slot| (slot, Said::Granted)));
                worker.leases |= std::mem::take(&mut worker.requests);
            }
            Action::FailStart(worker) => self.fail_start(worker, Phase::Closed, Said::Failed),
            Action::CannotStart(worker) => self.fail_start(worker, Phase::Down, Said::Cannot),
            Action::Stop(worker) => self.turn(worker, Phase::Stopping),
            Action::Stopped(worker) if self.workers[worker].requests != 0 => self.start(worker),
            Action::Stopped(worker) => self.turn(worker, Phase::Down),
            Action::Lose(worker) => {
                self.workers[worker].leases = 0;
                self.turn(worker, Phase::Stopping);
            }
            Action::Pause(worker) => self.turn(worker, Phase::Closed),
            Action::Unpause(worker) => self.turn(worker, Phase::Down),
        }
        self.take(orders);
    }

    fn turn(&mut self, worker: usize, phase: Phase) {
        self.workers[worker].phase = phase;
        self.workers[worker].version += 1;
    }

    fn start(&mut self, worker: usize) {
        let first = slots(self.workers[worker].requests).next().expect("it starts for somebody");
        self.workers[worker].kind = self.scenario.jobs[first].kind;
        self.workers[worker].epoch += 1;
        self.turn(worker, Phase::Starting);
    }

    fn fail_start(&mut self, worker: usize, phase: Phase, said: Said) {
        let sim = &mut self.workers[worker];
        sim.answers.extend(slots(std::mem::take(&mut sim.requests)).map(|slot| (slot, said)));
        self.turn(worker, phase);
    }

    fn return_lease(&mut self, slot: Slot) {
        let JobState::Running(worker) = self.jobs[slot].state else { panic!("it does not run") };
        self.workers[worker].leases &= !bit(slot);
        self.workers[worker].version += 1;
    }

    /// What a lifecycle does with a request.
    fn carry_out(&mut self, worker: usize) {
        let setup = &self.scenario.workers[worker];
        let sim = &mut self.workers[worker];
        let (slot, fit) = sim.order.take().expect("there is an order");
        assert_eq!(fit == Fit::Always, !setup.asked);
        sim.unreported = Some(slot);
        sim.version += 1;
        match (sim.openness(setup), fit) {
            (Openness::Down, _) => {
                sim.requests |= bit(slot);
                self.start(worker);
            }
            (Openness::Starting, Fit::Always) | (Openness::Stopping, _) => sim.requests |= bit(slot),
            (Openness::Attached { unused }, _) => {
                if fit == Fit::Always || sim.kind == self.scenario.jobs[slot].kind {
                    sim.leases |= bit(slot);
                    sim.answers.push((slot, Said::Granted));
                } else if fit == Fit::AskOrRecycle && unused {
                    sim.requests |= bit(slot);
                    sim.phase = Phase::Stopping;
                } else {
                    sim.answers.push((slot, Said::Incompatible(sim.epoch)));
                }
            }
            (Openness::Closed, _) | (Openness::Starting, _) => sim.answers.push((slot, Said::Refused)),
        }
    }

    fn answer(&mut self, worker: usize, slot: Slot, said: Said, orders: &mut Orders) {
        let job = &mut self.jobs[slot];
        let live = job.state == JobState::At(worker);
        assert!(live || job.state == JobState::Ended, "{job:?} is answered by {worker}");
        let epoch = Epoch(self.workers[worker].epoch);
        let answer = match said {
            Said::Granted => WorkerAnswer::Granted { epoch },
            Said::Failed => WorkerAnswer::Failed { epoch, reason: "failed".into() },
            Said::Cannot => WorkerAnswer::Cannot { reason: "cannot".into() },
            Said::Refused => WorkerAnswer::Refused,
            Said::Incompatible(epoch) => WorkerAnswer::Incompatible { epoch: Epoch(epoch) },
        };
        self.dispatch.answered(job.id, worker_index(worker), answer, orders);
        match (said, live) {
            (Said::Granted, true) => assert!(matches!(orders.as_slice(), [Order::Deliver { .. }])),
            (Said::Granted, false) => assert!(matches!(orders.as_slice(), [Order::DropLease { .. }])),
            (_, false) => assert_eq!(*orders, []),
            (Said::Failed, true) => self.attempt_over(slot),
            (Said::Cannot, true) => {
                assert!(matches!(orders.as_slice(), [Order::Answer { error: BuildError::Cannot { .. }, .. }]));
            }
            (Said::Refused, true) => job.state = JobState::Waiting,
            (Said::Incompatible(epoch), true) => {
                job.state = JobState::Waiting;
                job.rejected[worker] = Some(epoch);
            }
        }
    }

    /// It is in the queue again, unless an answer to the contrary follows.
    fn attempt_over(&mut self, slot: Slot) {
        self.jobs[slot].attempts += 1;
        self.jobs[slot].state = JobState::Waiting;
    }

    /// Takes the orders of anything but a round.
    fn take(&mut self, orders: Orders) {
        let mut answered = false;
        for order in orders {
            match order {
                Order::Assign { .. } => panic!("assignments are given in rounds only"),
                Order::Withdraw { build, worker } => {
                    let slot = self.slot(build);
                    let worker = &mut self.workers[worker.0 as usize];
                    assert!(worker.order.is_none_or(|(of, _)| of != slot), "a withdrawal overtakes its assignment");
                    assert_ne!(worker.unreported, Some(slot), "a withdrawal before the report");
                    assert!(worker.mentions(slot), "a withdrawal of what was answered");
                    worker.withdrawals |= bit(slot);
                }
                Order::Answer { build, error } => {
                    let slot = self.slot(build);
                    let job = &mut self.jobs[slot];
                    assert_ne!(job.state, JobState::Ended, "a second answer: {error}");
                    job.state = JobState::Ended;
                    let limit = self.scenario.jobs[slot].max_attempts.map(NonZeroU32::get);
                    match error {
                        BuildError::AttemptsExhausted { history } => {
                            assert_eq!(Some(job.attempts), limit);
                            assert_eq!(history.len(), job.attempts as usize);
                        }
                        BuildError::Cannot { history, .. } => assert_eq!(history.len(), job.attempts as usize),
                        BuildError::ShutDown => assert!(self.shut_down),
                        BuildError::NoWorkerFits { .. } => {
                            assert!((0..self.workers.len()).all(|worker| !self.fits(slot, worker)));
                        }
                        BuildError::Cancelled => {}
                        other => panic!("unexpected: {other}"),
                    }
                    answered = true;
                }
                Order::Deliver { build, history } => {
                    let slot = self.slot(build);
                    let job = &mut self.jobs[slot];
                    let JobState::At(worker) = job.state else { panic!("delivered while {:?}", job.state) };
                    assert_eq!(history.len(), job.attempts as usize);
                    job.state = JobState::Running(worker);
                }
                Order::DropLease { build } => {
                    let slot = self.slot(build);
                    assert_eq!(self.jobs[slot].state, JobState::Ended);
                    for worker in self.workers.iter_mut().filter(|worker| worker.leases & bit(slot) != 0) {
                        worker.leases &= !bit(slot);
                        worker.version += 1;
                    }
                }
                Order::EndLease { build } => {
                    let slot = self.slot(build);
                    assert!(matches!(self.jobs[slot].state, JobState::Running(_)));
                }
                Order::Requeued { build, .. } => {
                    let slot = self.slot(build);
                    assert_eq!(self.jobs[slot].state, JobState::Waiting);
                    assert!(!answered && self.jobs[slot].attempts > 0);
                }
            }
        }
    }

    fn slot(&self, build: BuildId) -> Slot {
        self.jobs.iter().position(|job| job.id == build).expect("an order is about a build that was submitted")
    }

    fn fits(&self, slot: Slot, worker: usize) -> bool {
        self.scenario.workers[worker].labels.contains_all(&self.scenario.jobs[slot].labels)
    }

    /// The choice as the contract tells it, worker by worker; `taken` are those given a build in the same round.
    fn naive_choice(&self, slot: Slot, taken: &[bool]) -> Option<(usize, Fit)> {
        let open = |worker: &usize| !taken[*worker] && !self.workers[*worker].withheld() && self.fits(slot, *worker);
        let all = || (0..self.workers.len()).filter(open);
        let told = |worker: usize| self.workers[worker].told;
        let rejected = |worker: usize| self.jobs[slot].rejected[worker] == Some(told(worker).epoch.0);
        let asked = |worker: usize| self.scenario.workers[worker].asked;
        let attached = |worker: usize| matches!(told(worker).openness, Openness::Attached { .. });
        let unused = |worker: usize| told(worker).openness == Openness::Attached { unused: true };
        let fit = |worker: usize| (worker, if asked(worker) { Fit::Ask } else { Fit::Always });
        (all().find(|&worker| attached(worker) && !rejected(worker)).map(fit))
            .or_else(|| all().find(|&worker| told(worker).openness == Openness::Down).map(fit))
            .or_else(|| all().find(|&worker| told(worker).openness == Openness::Stopping).map(fit))
            .or_else(|| all().find(|&worker| told(worker).openness == Openness::Starting && !asked(worker)).map(fit))
            .or_else(|| all().find(|&worker| unused(worker)).map(|worker| (worker, Fit::AskOrRecycle)))
    }

    /// A round, compared with the naive one.
    pub(super) fn round(&mut self) {
        let mut orders = Orders::new();
        self.dispatch.dispatch(&mut orders);
        if self.jobs.iter().all(|job| job.state != JobState::Waiting) {
            assert_eq!(orders, []);
            return;
        }
        let mut queue: Vec<Slot> =
            (0..self.jobs.len()).filter(|&slot| self.jobs[slot].state == JobState::Waiting).collect();
        queue.sort_by_key(|&slot| (Reverse(self.scenario.jobs[slot].priority), self.jobs[slot].id));
        let mut taken = vec![false; self.workers.len()];
        let mut expected = Orders::new();
        for slot in queue {
            if let Some((worker, fit)) = self.naive_choice(slot, &taken) {
                taken[worker] = true;
                expected.push(Order::Assign { build: self.jobs[slot].id, worker: worker_index(worker), fit });
            }
        }
        assert_eq!(orders, expected);
        for order in orders {
            let Order::Assign { build, worker, fit } = order else { panic!("a round only assigns") };
            assert!(!self.shut_down, "nothing new starts after a shutdown");
            let (slot, worker) = (self.slot(build), worker.0 as usize);
            assert_eq!(self.jobs[slot].state, JobState::Waiting);
            assert!(self.fits(slot, worker), "labels do not fit");
            assert!(!self.workers[worker].withheld(), "a second assignment on old facts");
            self.jobs[slot].state = JobState::At(worker);
            self.workers[worker].order = Some((slot, fit));
            self.workers[worker].assigned_at = Some(self.workers[worker].told.version);
        }
    }

    /// What holds always. `after_round`: also that nothing waits that could be given out.
    pub(super) fn check(&self, after_round: bool) {
        let mut held = BTreeMap::new();
        for entry in self.dispatch.builds.values() {
            *held.entry(entry.route).or_insert(0) += 1;
        }
        let waiting = self.dispatch.index.assert_consistent(&held);
        assert_eq!(waiting.len(), self.dispatch.waiting());
        for (slot, job) in self.jobs.iter().enumerate() {
            let entry = self.dispatch.builds.get(&job.id);
            assert_eq!(waiting.iter().any(|rank| rank.build == job.id), job.state == JobState::Waiting);
            let place = match (entry.map(|entry| entry.place), job.state) {
                (None, JobState::New | JobState::Ended) => continue,
                (Some(place), _) => place,
                (None, state) => panic!("{state:?} is forgotten"),
            };
            let entry = &self.dispatch.builds[&job.id];
            assert_eq!(entry.history.len(), job.attempts as usize);
            for (worker, epoch) in job.rejected.iter().enumerate() {
                assert_eq!(entry.incompatible.get(&worker_index(worker)).map(|epoch| epoch.0), *epoch);
            }
            match (place, job.state) {
                (Place::Waiting, JobState::Waiting) => {
                    let untouched = vec![false; self.workers.len()];
                    assert!(!after_round || self.naive_choice(slot, &untouched).is_none(), "a lost wake-up");
                }
                (Place::Assigned { worker }, JobState::At(at)) => {
                    assert_eq!(worker, worker_index(at));
                    assert!(self.workers[at].mentions(slot), "nobody will ever answer");
                }
                (Place::Running { worker, .. }, JobState::Running(at)) => assert_eq!(worker, worker_index(at)),
                (place, state) => panic!("{place:?} but {state:?}"),
            }
            assert!(!self.shut_down || matches!(job.state, JobState::Running(_)), "a build outlives the shutdown");
        }
        for (worker, sim) in self.workers.iter().enumerate() {
            let known = &self.dispatch.workers[worker];
            assert_eq!(known.facts, sim.told);
            assert_eq!(known.availability != Availability::Free, sim.withheld());
            let settled = sim.order.is_none() && sim.unreported.is_none() && sim.told.version == sim.version;
            assert!(!settled || known.availability == Availability::Free, "a worker is lost");
        }
        assert!(!self.shut_down || !self.is_quiet() || self.is_over(), "a shutdown leaves a build without an end");
    }

    /// The state without numbers that only grow, so that states repeat.
    pub(super) fn key(&self) -> Box<[u8]> {
        let mut key = Vec::with_capacity(64);
        for (i, worker) in self.workers.iter().enumerate() {
            // Epochs count back from the present one; 0 stands for those that can never matter again.
            let relative = |epoch: u64| {
                if epoch < worker.told.epoch.0 { 0 } else { 1 + (worker.epoch - epoch).min(200) as u8 }
            };
            // The kind of an instance matters only while there is one.
            let up = matches!(worker.phase, Phase::Starting | Phase::Attached);
            key.push(worker.phase as u8 | ((worker.kind * u8::from(up)) << 4));
            key.push(worker.requests as u8 | ((worker.leases as u8) << 4));
            key.push(match worker.order {
                None => 0,
                Some((slot, fit)) => (1 + slot as u8) | ((fit as u8) << 4),
            });
            let dirty = worker.told.version < worker.version;
            let withdraw =
                matches!(self.dispatch.workers[i].availability, Availability::Assigning { withdraw: true, .. });
            key.push(worker.withdrawals as u8 | (u8::from(dirty) << 4) | (u8::from(withdraw) << 5));
            // Whether the facts are newer than the last assignment, if that still matters.
            let news = worker.assigned_at.is_none_or(|version| worker.told.version > version);
            key.push(worker.unreported.map_or(0, |slot| 1 + slot as u8) | (u8::from(news) << 4));
            key.push(match worker.told.openness {
                Openness::Closed => 0,
                Openness::Attached { unused } => 1 + u8::from(unused),
                Openness::Down => 3,
                Openness::Stopping => 4,
                Openness::Starting => 5,
            });
            key.push(relative(worker.told.epoch.0));
            let mut answers: Vec<[u8; 2]> = Vec::with_capacity(worker.answers.len());
            answers.extend(worker.answers.iter().map(|(slot, said)| {
                let said = match said {
                    Said::Granted => 0,
                    Said::Failed => 1,
                    Said::Cannot => 2,
                    Said::Refused => 3,
                    Said::Incompatible(epoch) => 4 + relative(*epoch),
                };
                [*slot as u8, said]
            }));
            answers.sort_unstable();
            key.push(answers.len() as u8);
            key.extend(answers.into_iter().flatten());
            for job in &self.jobs {
                let live = !matches!(job.state, JobState::New | JobState::Ended);
                key.push(job.rejected[i].filter(|_| live).map_or(0, relative));
            }
        }
        for job in &self.jobs {
            key.push(match job.state {
                JobState::New => 0,
                JobState::Waiting => 1,
                JobState::Ended => 2,
                JobState::At(worker) => 3 + worker as u8,
                JobState::Running(worker) => 128 + worker as u8,
            });
            key.push(if job.state == JobState::Ended { 0 } else { job.attempts as u8 });
        }
        key.push(u8::from(self.shut_down));
        key.into()
    }
}
