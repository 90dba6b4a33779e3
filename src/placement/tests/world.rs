//! A small world around [`Placement`] for the tests: real lifecycles, whose orders, answers and facts are late and come
//! in any order, drivers whose calls return anything or never, and the promises that must hold after every step.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::rc::Rc;

use super::super::*;
pub(super) use super::setting::{BuildSetup, Driver, Setting, WorkerSetup, letter, properties};
use crate::lifecycle::{Effect, Effects, Fit, Input, LeaseId, Lifecycle, Request, RequestId, Want};
use crate::worker::QuarantineLengths;

/// An answer that is on its way to placement.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// `called`: its start was called.
    Started {
        epoch: Epoch,
        end: StartEnd,
        called: bool,
    },
    Leased {
        build: BuildId,
        lease: Option<LeaseId>,
        version: u64,
    },
    Fits {
        epoch: Epoch,
        properties: Properties,
        fits: Option<bool>,
    },
    Kind {
        properties: Properties,
        kind: Result<Kind, Arc<str>>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    Start,
    Fit(&'static str),
    Direct,
}

#[derive(Clone)]
pub(super) struct SimWorker {
    pub(super) life: Lifecycle,
    /// What it was told and has not done.
    pub(super) orders: Vec<Order>,
    /// What it has said and placement has not heard.
    pub(super) messages: Vec<Message>,
    pub(super) requests: Vec<(RequestId, Asker)>,
    pub(super) last_request: u64,
    pub(super) call: Option<(DriverCall, Epoch)>,
    /// The call that is out never returns.
    pub(super) hung: bool,
    pub(super) made_for: Properties,
    pub(super) connection: Option<crate::lifecycle::ConnectionId>,
    /// Who has a lease; some of them have ended.
    pub(super) leases: Vec<(LeaseId, Option<BuildId>)>,
    pub(super) told: Facts,
    pub(super) stale: Option<Facts>,
    /// What the driver said of the instance that placement knows.
    pub(super) said: BTreeMap<Properties, bool>,
    /// The instance was given a build.
    pub(super) used: Epoch,
    /// A start was ordered, and its end was not heard of.
    pub(super) ordered: bool,
    /// It was called.
    pub(super) called: bool,
    pub(super) paused: bool,
}

#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum BuildState {
    New,
    Waiting,
    Leasing(usize),
    Running(usize),
    Ended,
}

#[derive(Clone, Debug)]
pub(super) struct SimBuild {
    pub(super) id: BuildId,
    pub(super) state: BuildState,
    pub(super) attempts: u32,
    pub(super) failed_on: BTreeSet<usize>,
    /// The lease that it has was taken.
    pub(super) taken: bool,
}

impl SimBuild {
    pub(super) fn new() -> Self {
        Self { id: BuildId(0), state: BuildState::New, attempts: 0, failed_on: BTreeSet::new(), taken: false }
    }
}

/// One thing that can happen.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Submit(usize),
    Cancel(usize),
    Finish(usize),
    Retry(usize),
    Retire(usize),
    /// The lease of a build is taken.
    Take(usize),
    /// A lease of a build that has ended, or of nobody in the queue, comes back.
    GiveBack(usize, usize),
    CarryOut(usize, usize),
    Hear(usize, usize),
    Tell(usize),
    TellStale(usize),
    /// The call returns, with this answer: 0 is the good one, or yes.
    Return(usize, usize),
    Hang(usize),
    Attach(usize),
    Lose(usize),
    Direct(usize),
    Pause(usize),
    Unpause(usize),
    Shutdown {
        fast: bool,
    },
    /// The next deadline comes.
    Deadline,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) setting: Rc<Setting>,
    pub(super) placement: Placement,
    pub(super) now: Instant,
    pub(super) workers: Vec<SimWorker>,
    pub(super) builds: Vec<SimBuild>,
    pub(super) last_id: u64,
    pub(super) shut_down: bool,
    /// Of all builds there ever were.
    pub(super) kinds: BTreeMap<BuildId, &'static str>,
}

pub(super) const MISSING: Duration = Duration::from_secs(600);

pub(super) fn index_of(worker: usize) -> WorkerIndex {
    WorkerIndex(worker as u32)
}

impl World {
    pub(super) fn new(mut setting: Setting, now: Instant) -> Self {
        let setups = std::mem::take(&mut setting.workers);
        let mut world = Self {
            placement: Placement::new(setting.placement.clone()),
            now,
            workers: Vec::new(),
            builds: vec![SimBuild::new(); setting.builds.len()],
            setting: Rc::new(setting),
            last_id: 0,
            shut_down: false,
            kinds: BTreeMap::new(),
        };
        setups.into_iter().for_each(|setup| world.add_worker(setup));
        world
    }

    pub(super) fn add_worker(&mut self, setup: WorkerSetup) {
        let index = self.workers.len();
        let limits = Limits {
            max_builds: NonZeroUsize::new(setup.max_builds).expect("at least one"),
            idle: self.setting.idle,
            missing_timeout: MISSING,
            check_instance_interval: Duration::MAX,
            quarantine: QuarantineLengths::default(),
            proof_time: Duration::from_secs(1),
        };
        let life = Lifecycle::new(limits, None, Epoch(0), false, None, self.now);
        let told = facts(&life, &Properties::new(), self.now);
        let driver = self.driver_number(index, setup.driver);
        let space = match setup.driver {
            Driver::Any => Space::Any,
            Driver::Asked => Space::Asked,
            Driver::Says { .. } => Space::Said(driver),
        };
        let name = format!("w{index}").into();
        let (builds, setting) = (&self.builds, &self.setting);
        let build_of = |id| {
            let slot = builds.iter().position(|build| build.id == id).expect("it was submitted");
            setting.builds[slot].build()
        };
        let (index, labels) = (index_of(index), setup.labels.clone());
        self.placement.add_worker(index, name, labels, driver, space, limits, told.clone(), build_of);
        self.workers.push(SimWorker {
            life,
            orders: Vec::new(),
            messages: Vec::new(),
            requests: Vec::new(),
            last_request: 0,
            call: None,
            hung: false,
            made_for: Properties::new(),
            connection: None,
            leases: Vec::new(),
            told,
            stale: None,
            said: BTreeMap::new(),
            used: Epoch(0),
            ordered: false,
            called: false,
            paused: false,
        });
        Rc::make_mut(&mut self.setting).workers.push(setup);
    }

    /// The driver of the worker that is added with this index.
    fn driver_number(&self, index: usize, driver: Driver) -> u32 {
        let first = self.setting.workers.iter().position(|worker| worker.driver == driver);
        first.filter(|_| self.setting.shared_drivers).unwrap_or(index) as u32
    }

    /// What will be submitted the next time.
    pub(super) fn redefine(&mut self, slot: usize, setup: BuildSetup) {
        Rc::make_mut(&mut self.setting).builds[slot] = setup;
    }

    /// Everything that can happen now.
    pub(super) fn steps(&self) -> Vec<Step> {
        let setting = &self.setting;
        let mut steps = Vec::new();
        let mut can = |when: bool, step: Step| {
            if when {
                steps.push(step);
            }
        };
        let mut new_seen = false;
        for (slot, build) in self.builds.iter().enumerate() {
            let live = !matches!(build.state, BuildState::New | BuildState::Ended);
            let again = setting.endless && build.state == BuildState::Ended && !self.is_mentioned(build.id);
            // In the order of their numbers.
            can(build.state == BuildState::New && !new_seen || again, Step::Submit(slot));
            new_seen |= build.state == BuildState::New;
            can(live && setting.cancels, Step::Cancel(slot));
            if let BuildState::Running(_) = build.state {
                can(!build.taken, Step::Take(slot));
                can(build.taken, Step::Finish(slot));
                can(build.taken && (setting.retries || setting.losses), Step::Retry(slot));
                can(build.taken && setting.retires, Step::Retire(slot));
            }
        }
        for (i, worker) in self.workers.iter().enumerate() {
            let most = |len: usize| if setting.overtaking { len } else { len.min(1) };
            (0..most(worker.orders.len())).for_each(|order| can(true, Step::CarryOut(i, order)));
            (0..most(worker.messages.len())).for_each(|message| can(true, Step::Hear(i, message)));
            (0..worker.leases.len()).for_each(|lease| can(self.is_unclaimed(i, lease), Step::GiveBack(i, lease)));
            can(worker.told.version < worker.life.version(), Step::Tell(i));
            can(worker.stale.is_some(), Step::TellStale(i));
            if let Some((call, _)) = worker.call.filter(|_| !worker.hung) {
                let truth = call == DriverCall::Compatible && !self.would_fit(i);
                let answers = if !setting.failures { 1 } else { 3 - usize::from(call == DriverCall::Stop) };
                let first = usize::from(truth && !setting.failures);
                (first..first + answers).for_each(|answer| can(true, Step::Return(i, answer)));
                can(setting.hangs, Step::Hang(i));
            }
            let attached = worker.connection.is_some();
            can(!attached && worker.life.admits_agent(worker.life.epoch()).is_ok(), Step::Attach(i));
            can(attached && setting.losses, Step::Lose(i));
            can(setting.direct, Step::Direct(i));
            can(setting.pauses && !worker.paused, Step::Pause(i));
            can(worker.paused, Step::Unpause(i));
        }
        can(setting.shutdowns && !self.shut_down, Step::Shutdown { fast: false });
        can(setting.shutdowns && !self.shut_down, Step::Shutdown { fast: true });
        can(self.next_deadline().is_some(), Step::Deadline);
        steps
    }

    /// Whether a message about this build is on its way, or a lease of it is out.
    pub(super) fn is_mentioned(&self, id: BuildId) -> bool {
        self.workers.iter().any(|worker| {
            worker.leases.iter().any(|(_, build)| *build == Some(id))
                || worker.orders.iter().any(|order| matches!(order, Order::Lease { build, .. } if *build == id))
                || worker
                    .messages
                    .iter()
                    .any(|message| matches!(message, Message::Leased { build, .. } if *build == id))
        })
    }

    /// Whether nobody in the queue holds this lease (any more).
    pub(super) fn is_unclaimed(&self, worker: usize, lease: usize) -> bool {
        let Some(id) = self.workers[worker].leases[lease].1 else { return true };
        let build = self.builds.iter().find(|build| build.id == id);
        let hears = self.workers[worker]
            .messages
            .iter()
            .any(|message| matches!(message, Message::Leased { build, .. } if *build == id));
        !hears && build.is_none_or(|build| build.state == BuildState::Ended)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lives = self.workers.iter().filter_map(|worker| worker.life.next_deadline().map(|(at, _)| at));
        lives.chain(self.placement.next_deadline()).min()
    }

    /// Lets it happen, what is not late follows at once, and everything is checked.
    pub(super) fn take(&mut self, step: Step) {
        self.act(step);
        self.settle();
        self.check();
    }

    /// Plans, and has done at once what is not late.
    pub(super) fn settle(&mut self) {
        let setting = self.setting.clone();
        loop {
            for i in 0..self.workers.len() {
                while !setting.late_answers && !self.workers[i].messages.is_empty() {
                    self.act(Step::Hear(i, 0));
                }
                if !setting.late_facts && self.workers[i].told.version < self.workers[i].life.version() {
                    self.act(Step::Tell(i));
                }
            }
            self.plan();
            let Some(i) = self.workers.iter().position(|worker| !setting.late_orders && !worker.orders.is_empty())
            else {
                return;
            };
            self.act(Step::CarryOut(i, 0));
        }
    }

    pub(super) fn plan(&mut self) {
        if !self.setting.learns {
            let (start, build) = self.setting.expected.unzip();
            self.placement.learned.expect(start, build);
        }
        let mut orders = Orders::new();
        self.placement.plan(self.now, &mut orders);
        self.obey(orders);
    }

    /// Something happens.
    pub(super) fn act(&mut self, step: Step) {
        let (now, mut orders) = (self.now, Orders::new());
        match step {
            Step::Submit(slot) => {
                self.last_id += 1;
                let id = BuildId(self.last_id);
                self.kinds.insert(id, self.setting.builds[slot].kind);
                self.builds[slot] = SimBuild { id, state: BuildState::Waiting, ..SimBuild::new() };
                self.placement.submit(self.now, id, &self.setting.builds[slot].build(), &mut orders);
            }
            Step::Cancel(slot) => {
                let build = self.builds[slot].id;
                assert!(self.placement.cancel(build, &mut orders));
                let ran = matches!(self.builds[slot].state, BuildState::Running(_) | BuildState::Leasing(_));
                assert_eq!(
                    orders.iter().any(|order| matches!(order, Order::EndLease { build: ended, .. } if *ended == build)),
                    ran,
                    "b4: a lease that runs is ended"
                );
                assert!(orders.contains(&Order::Answer { build, error: BuildError::Cancelled }));
            }
            Step::Finish(slot) => {
                self.release(slot, true);
                assert!(self.placement.finished(now, self.builds[slot].id).is_some());
                self.builds[slot].state = BuildState::Ended;
            }
            Step::Take(slot) => self.builds[slot].taken = true,
            Step::Retry(slot) | Step::Retire(slot) => {
                if let Step::Retire(_) = step {
                    let (worker, lease) = self.lease_of(slot);
                    let lease = self.workers[worker].leases[lease].0;
                    self.apply(worker, Input::Retire { lease, reason: "bad".into() });
                }
                let worker = self.release(slot, false);
                self.attempt_failed(slot, worker);
                self.placement.retry(now, self.builds[slot].id, "lost".into(), 1.0, &mut orders);
            }
            Step::GiveBack(worker, lease) => {
                let (lease, build) = self.workers[worker].leases.remove(lease);
                assert!(build.is_none_or(|build| self.placement.finished(now, build).is_none()));
                self.apply(worker, Input::Release { lease, finished: false });
            }
            Step::CarryOut(worker, order) => {
                let order = self.workers[worker].orders.remove(order);
                self.carry_out(worker, order);
            }
            Step::Hear(worker, message) => {
                let message = self.workers[worker].messages.remove(message);
                self.hear(worker, message, &mut orders);
            }
            Step::Tell(worker) => {
                let sim = &mut self.workers[worker];
                let told = facts(&sim.life, &sim.made_for, now);
                let stale = std::mem::replace(&mut sim.told, told.clone());
                if stale.epoch != told.epoch {
                    sim.said.clear();
                }
                sim.stale = self.setting.stale_facts.then_some(stale);
                self.placement.facts(now, index_of(worker), told, &mut orders);
            }
            Step::TellStale(worker) => {
                let stale = self.workers[worker].stale.take().expect("there are some");
                self.placement.facts(now, index_of(worker), stale, &mut orders);
            }
            Step::Return(worker, answer) => self.call_returns(worker, answer),
            Step::Hang(worker) => self.workers[worker].hung = true,
            Step::Attach(worker) => {
                let epoch = self.workers[worker].life.epoch();
                let (sim, mut effects) = (&mut self.workers[worker], Effects::new(false));
                sim.connection = Some(sim.life.attach(now, epoch, &mut effects).expect("it is admitted"));
                self.follow(worker, effects);
            }
            Step::Lose(worker) => {
                let connection = self.workers[worker].connection.take().expect("it is attached");
                self.apply(worker, Input::Detach(connection, "lost".into()));
            }
            Step::Direct(worker) => self.request(worker, Want::Lease, Fit::Always, Asker::Direct),
            Step::Pause(worker) | Step::Unpause(worker) => {
                self.workers[worker].paused = matches!(step, Step::Pause(_));
                self.apply(worker, if self.workers[worker].paused { Input::Pause } else { Input::Unpause });
            }
            Step::Shutdown { fast } => {
                self.shut_down = true;
                self.placement.shutdown(&mut orders);
                for worker in 0..self.workers.len() {
                    self.apply(worker, Input::Shutdown { fast });
                }
            }
            Step::Deadline => {
                self.now = self.now.max(self.next_deadline().expect("there is one"));
                let was_taken = |id| self.builds.iter().any(|build| build.id == id && build.taken);
                self.placement.time(self.now, was_taken, &mut orders);
                assert!(self.placement.next_deadline().is_none_or(|at| at > self.now), "the timer would spin");
                for worker in 0..self.workers.len() {
                    if self.workers[worker].life.next_deadline().is_some_and(|(at, _)| at <= self.now) {
                        self.apply(worker, Input::Time);
                    }
                }
            }
        }
        self.obey(orders);
    }

    /// The lease of a build comes back.
    pub(super) fn release(&mut self, slot: usize, finished: bool) -> usize {
        let (worker, position) = self.lease_of(slot);
        let (lease, _) = self.workers[worker].leases.remove(position);
        self.apply(worker, Input::Release { lease, finished });
        worker
    }

    /// The worker that a build runs on, and which of its leases it has.
    fn lease_of(&self, slot: usize) -> (usize, usize) {
        let (id, BuildState::Running(worker)) = (self.builds[slot].id, self.builds[slot].state) else {
            panic!("it does not run");
        };
        let position = self.workers[worker].leases.iter().position(|(_, build)| *build == Some(id));
        (worker, position.expect("it has a lease"))
    }

    pub(super) fn attempt_failed(&mut self, slot: usize, worker: usize) {
        let build = &mut self.builds[slot];
        build.attempts += 1;
        build.failed_on.insert(worker);
        build.state = BuildState::Waiting;
    }

    pub(super) fn apply(&mut self, worker: usize, input: Input) {
        let mut effects = Effects::new(false);
        self.workers[worker].life.apply(self.now, input, &mut effects);
        self.follow(worker, effects);
    }

    pub(super) fn request(&mut self, worker: usize, want: Want, fit: Fit, asker: Asker) {
        let (sim, mut effects) = (&mut self.workers[worker], Effects::new(false));
        sim.last_request += 1;
        let id = RequestId(sim.last_request);
        sim.requests.push((id, asker));
        let answer = sim.life.request(self.now, Request { id, want, fit }, &mut effects);
        effects.orders.extend(answer.map(|answer| Effect::Answer(id, answer)));
        self.follow(worker, effects);
    }
}

pub(super) fn facts(life: &Lifecycle, made_for: &Properties, now: Instant) -> Facts {
    Facts {
        version: life.version(),
        epoch: life.epoch(),
        standing: life.standing(now),
        call: life.call(),
        failure: life.quarantine_cause(),
        made_for: Some(made_for.clone()),
    }
}
