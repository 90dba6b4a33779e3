//! A simulation under way: the queue and the workers on virtual time. It carries out what placement and the lifecycles
//! order, in the order in which the runtime does that, and lets their calls return when their time has come.

mod lives;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Simulation;
use super::pool::{Pool, Serves};
use super::random::Random;
use super::report::{Report, Waits};
use super::worker::{Asker, Worker};
use super::workload::Job;
use crate::build::{BuildId, Epoch, Properties};
use crate::error::{FailureCause, LeaseEnd, SubstantiateError, chain};
use crate::event::{BuildResult, DriverCall, Event, EventKind, StartFailure, StopCause, WorkerState};
use crate::lifecycle::{Answer, Effect, Effects, Fit, Input, LeaseId, Lifecycle, Want};
use crate::placement::{Leased, Order, Orders, Placement, Space, StartEnd, WorkerIndex};

/// Something that happens at a time.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
enum Happening {
    QueueTime,
    WorkerTime(WorkerIndex),
    Arrival(usize),
    StartReturns {
        worker: WorkerIndex,
        epoch: Epoch,
        fails: bool,
    },
    Attaches(WorkerIndex, Epoch),
    StopReturns {
        worker: WorkerIndex,
        epoch: Epoch,
        fails: bool,
    },
    AgentLost(WorkerIndex, Epoch),
    /// Of the lease of this number.
    BuildEnds(BuildId, u32),
}

/// Something to do at once, as `Task` in `runtime::shared`.
#[derive(Debug)]
enum Task {
    ThreadReady(WorkerIndex, Epoch),
    CheckReturns(WorkerIndex, Epoch),
    FitAnswered { worker: WorkerIndex, epoch: Epoch, fits: bool },
    Answer { worker: WorkerIndex, asker: Asker, answer: Answer, epoch: Epoch, occasion: Option<BuildId> },
    EndLeases(WorkerIndex, LeaseEnd),
    Order(Order),
}

/// A build of the simulation.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// How long it waited for its first place.
    waited: Option<Duration>,
    lease: Option<(WorkerIndex, LeaseId)>,
    /// How many places it had.
    leases: u32,
}

type Observer = Box<dyn FnMut(Event) + Send>;

/// A simulation under way. It advances with [`step`](Run::step).
pub struct Run {
    origin: Instant,
    now: Instant,
    end: Option<Instant>,
    random: Random,
    placement: Placement,
    pools: Vec<Pool>,
    workers: Vec<Worker>,
    /// By arrival. The number of a build is one more than its position.
    jobs: Vec<Job>,
    builds: Vec<Progress>,
    happenings: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    last_happening: u64,
    agenda: VecDeque<Task>,
    look_at_queue: bool,
    /// Workers that have changed since the queue looked at them.
    dirty: Vec<WorkerIndex>,
    /// When the queue is looked after. It may be too early, never too late.
    scheduled: Option<Instant>,
    report: Report,
    observer: Option<Observer>,
    last_event: u64,
}

impl Run {
    pub(super) fn new(simulation: Simulation, observer: Option<Observer>) -> Self {
        let Simulation { pools, mut jobs, seed, placement, end } = simulation;
        // Virtual time needs a beginning; nothing depends on which.
        let origin = Instant::now();
        jobs.sort_by_key(|job| job.arrival);
        let mut run = Self {
            origin,
            now: origin,
            end: end.and_then(|end| origin.checked_add(end)),
            random: Random::new(seed),
            placement: Placement::new(placement),
            pools: Vec::new(),
            workers: Vec::new(),
            builds: vec![Progress::default(); jobs.len()],
            jobs,
            happenings: BinaryHeap::new(),
            last_happening: 0,
            agenda: VecDeque::new(),
            look_at_queue: false,
            dirty: Vec::new(),
            scheduled: None,
            report: Report::default(),
            observer,
            last_event: 0,
        };
        pools.into_iter().for_each(|pool| run.add_pool(pool));
        run.next_arrival(0);
        run
    }

    fn add_pool(&mut self, pool: Pool) {
        // The workers of a pool share their driver.
        let (first, driver) = (self.workers.len() as u32, self.pools.len() as u32);
        let space = match pool.serves {
            Serves::Everything => Space::Any,
            Serves::Kinds(_) => Space::Said(driver),
            Serves::Asked(_) => Space::Asked,
        };
        for number in 0..pool.workers {
            let index = WorkerIndex(first + number as u32);
            let life =
                Lifecycle::new(pool.config.limits, None, Epoch::default(), false, Some(self.random.next()), self.now);
            let worker = Worker::new(pool.name(number), self.pools.len(), life);
            let (name, labels, facts) = (worker.name.clone(), pool.config.labels.clone(), worker.facts(self.now));
            let no_build = |_| unreachable!("workers are there before builds");
            self.placement.add_worker(index, name, labels, driver, space, pool.config.limits, facts, no_build);
            self.workers.push(worker);
        }
        self.pools.push(pool);
    }

    /// Lets the next thing happen, with all that follows at the same moment. Returns when that was, counted from the
    /// beginning; `None` when the simulation is over: all builds have ended, its end was reached, or nothing can happen
    /// any more.
    pub fn step(&mut self) -> Option<Duration> {
        let open = self.jobs.len() - self.report.finished - self.report.not_run;
        if open == 0 {
            return None;
        }
        let Reverse((at, _, happening)) = self.happenings.pop()?;
        if let Some(end) = self.end.filter(|end| at > *end) {
            self.now = end;
            self.happenings.clear();
            return None;
        }
        self.now = at;
        self.happen(happening);
        self.perform();
        Some(at.saturating_duration_since(self.origin))
    }

    /// Reports what has happened so far.
    pub fn report(&self) -> Report {
        let mut report = self.report.clone();
        report.waits = Waits::of(self.builds.iter().filter_map(|build| build.waited).collect());
        for worker in &self.workers {
            let until_now = |since: Option<Instant>| since.map_or(Duration::ZERO, |since| self.now - since);
            report.instance_time += until_now(worker.up_since);
            report.busy_time += until_now(worker.busy_since);
        }
        report
    }

    fn worker(&self, index: WorkerIndex) -> &Worker {
        &self.workers[index.0 as usize]
    }

    fn pool_of(&self, index: WorkerIndex) -> &Pool {
        &self.pools[self.worker(index).pool]
    }

    fn job(&self, id: BuildId) -> &Job {
        &self.jobs[id.0 as usize - 1]
    }

    fn progress(&mut self, id: BuildId) -> &mut Progress {
        &mut self.builds[id.0 as usize - 1]
    }

    /// What is too far away to be told never happens.
    fn later(&mut self, time: Duration, happening: Happening) {
        if let Some(at) = self.now.checked_add(time) {
            self.at(at, happening);
        }
    }

    fn at(&mut self, at: Instant, happening: Happening) {
        self.last_happening += 1;
        self.happenings.push(Reverse((at, self.last_happening, happening)));
    }

    fn next_arrival(&mut self, position: usize) {
        if let Some(job) = self.jobs.get(position)
            && let Some(at) = self.origin.checked_add(job.arrival)
        {
            self.at(at, Happening::Arrival(position));
        }
    }

    fn tell(&mut self, worker: Option<WorkerIndex>, epoch: Option<Epoch>, build: Option<BuildId>, kind: EventKind) {
        let worker = worker.map(|worker| self.worker(worker).name.clone());
        if let Some(observer) = &mut self.observer {
            let at = self.now.saturating_duration_since(self.origin);
            observer(Event { sequence: self.last_event, at, worker, epoch, build, kind });
            self.last_event += 1;
        }
    }
}

/// What happens.
impl Run {
    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::QueueTime => {
                if self.scheduled == Some(self.now) {
                    self.scheduled = None;
                }
                let now = self.now;
                // The owner of a build takes its lease at once.
                self.queue_turn(|placement, orders| placement.time(now, |_| true, orders));
                self.look_at_queue = true;
            }
            Happening::WorkerTime(index) => {
                let worker = &mut self.workers[index.0 as usize];
                if worker.scheduled == Some(self.now) {
                    worker.scheduled = None;
                }
                self.apply(index, Input::Time);
            }
            Happening::Arrival(position) => {
                self.report.submitted += 1;
                let (id, build) = (BuildId(position as u64 + 1), self.jobs[position].build.clone());
                let name = build.name().clone();
                self.tell(None, None, Some(id), EventKind::BuildQueued { name, retry: None });
                let now = self.now;
                self.queue_turn(|placement, orders| placement.submit(now, id, &build, orders));
                self.look_if_waiting();
                self.next_arrival(position + 1);
            }
            Happening::StartReturns { worker, epoch, fails } => self.start_returns(worker, epoch, fails),
            Happening::Attaches(worker, epoch) => self.attaches(worker, epoch),
            Happening::StopReturns { worker, epoch, fails } => {
                let result = if fails { Err("the simulated stop failed".into()) } else { Ok(()) };
                self.report.failed_stops += usize::from(fails);
                let up_since = self.workers[worker.0 as usize].up_since.take();
                self.report.instance_time += up_since.map_or(Duration::ZERO, |since| self.now - since);
                self.apply(worker, Input::StopReturned(epoch, result));
            }
            Happening::AgentLost(worker, epoch) => {
                if let Some(connection) = self.worker(worker).connection.filter(|_| self.is_attached(worker, epoch)) {
                    self.report.lost_agents += 1;
                    self.apply(worker, Input::Detach(connection, "the simulated connection was lost".into()));
                }
            }
            Happening::BuildEnds(id, lease) => self.build_ends(id, lease),
        }
    }

    fn is_attached(&self, worker: WorkerIndex, epoch: Epoch) -> bool {
        let life = &self.worker(worker).life;
        life.attached() && life.epoch() == epoch
    }

    fn start_returns(&mut self, worker: WorkerIndex, epoch: Epoch, fails: bool) {
        let life = &self.worker(worker).life;
        // It has returned already if it was cancelled.
        if life.epoch() != epoch || !matches!(life.call(), Some((DriverCall::Start, _))) {
            return;
        }
        if fails {
            self.report.failed_starts += usize::from(life.state() == WorkerState::SubstantiatingStarting);
            let failure = StartFailure::Failed(FailureCause::Infrastructure, "the simulated start failed".into());
            return self.apply(worker, Input::StartReturned(epoch, Err(failure)));
        }
        let after = self.pool_of(worker).attach.clone().sample(&mut self.random);
        self.apply(worker, Input::StartReturned(epoch, Ok(Vec::new())));
        if after.is_zero() {
            self.attaches(worker, epoch);
        } else {
            self.later(after, Happening::Attaches(worker, epoch));
        }
    }

    fn attaches(&mut self, index: WorkerIndex, epoch: Epoch) {
        let now = self.now;
        let connection = self.transition(index, |worker, effects| {
            let connection = worker.life.attach(now, epoch, effects).ok();
            worker.connection = connection.or(worker.connection);
            connection
        });
        if connection.is_some()
            && let Some(lost_after) = self.pool_of(index).lost_after.clone()
        {
            let after = lost_after.sample(&mut self.random);
            self.later(after, Happening::AgentLost(index, epoch));
        }
    }

    /// As a lease that is given back by its owner.
    fn build_ends(&mut self, id: BuildId, number: u32) {
        let progress = self.progress(id);
        if progress.leases != number {
            return; // it was lost
        }
        let Some((worker, lease)) = progress.lease.take() else { return };
        self.workers[worker.0 as usize].leases.retain(|(id, _)| *id != lease);
        let now = self.now;
        self.queue_turn(|placement, _| _ = placement.finished(now, id));
        self.tell(None, None, Some(id), EventKind::BuildFinished { result: BuildResult::Succeeded });
        self.report.finished += 1;
        self.report.makespan = self.now.saturating_duration_since(self.origin);
        self.release(worker, lease, true);
    }

    fn release(&mut self, worker: WorkerIndex, lease: LeaseId, finished: bool) {
        self.apply(worker, Input::Release { lease, finished });
    }
}

/// What is done without delay, as `runtime::shared` and `runtime::queue` do it.
impl Run {
    fn perform(&mut self) {
        loop {
            if let Some(task) = self.agenda.pop_front() {
                self.perform_one(task);
            } else if std::mem::take(&mut self.look_at_queue) {
                self.place_builds();
            } else {
                return;
            }
        }
    }

    fn perform_one(&mut self, task: Task) {
        match task {
            Task::ThreadReady(worker, epoch) => self.thread_ready(worker, epoch),
            Task::CheckReturns(worker, epoch) => self.apply(worker, Input::CheckReturned(epoch, Ok(()))),
            Task::FitAnswered { worker, epoch, fits } => self.apply(worker, Input::CompatibleReturned(epoch, Ok(fits))),
            Task::Answer { worker, asker: Asker::Start, answer, epoch, occasion } => {
                self.start_ended(worker, answer, epoch, occasion);
            }
            Task::Answer { worker, asker: Asker::Fit(properties), answer, epoch, .. } => {
                self.fit_answered(worker, &properties, answer, epoch);
            }
            Task::EndLeases(worker, end) => self.end_leases(worker, &end),
            Task::Order(order) => self.carry_out(order),
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Start { worker, replace } => self.order_start(worker, replace),
            Order::Forgive { worker, epoch } => self.apply(worker, Input::Forgive(epoch)),
            Order::CancelStart { worker } => self.cancel_start(worker),
            Order::Drain { worker, epoch } => self.apply(worker, Input::Drain(epoch, StopCause::Incompatible)),
            Order::Lease { worker, epoch, build } => self.lease_place(worker, epoch, build),
            Order::AskKind { worker, properties } => self.ask_kind(worker, &properties),
            Order::AskFit { worker, epoch, properties } => self.ask_fit(worker, epoch, properties),
            Order::Answer { .. } | Order::Abandon { .. } | Order::EndLease { .. } | Order::Requeued { .. } => {
                unreachable!("it was carried out within its turn")
            }
        }
    }

    /// Looks at the workers that have changed, and plans anew.
    fn place_builds(&mut self) {
        let now = self.now;
        let mut changed = Vec::new();
        for index in std::mem::take(&mut self.dirty) {
            let worker = &mut self.workers[index.0 as usize];
            worker.dirty = false;
            changed.push((index, worker.facts(now)));
        }
        self.queue_turn(|placement, orders| {
            for (worker, facts) in changed {
                placement.facts(now, worker, facts, orders);
            }
            placement.plan(now, orders);
        });
    }

    fn queue_turn(&mut self, step: impl FnOnce(&mut Placement, &mut Orders)) {
        let mut orders = Orders::new();
        step(&mut self.placement, &mut orders);
        orders.into_iter().for_each(|order| self.resolve_order(order));
        self.schedule_queue();
    }

    /// Has the queue looked at in time.
    fn schedule_queue(&mut self) {
        if let Some(at) = self.placement.next_deadline()
            && self.scheduled.is_none_or(|scheduled| at < scheduled)
        {
            let at = at.max(self.now);
            self.scheduled = Some(at);
            self.at(at, Happening::QueueTime);
        }
    }

    /// Carries out what belongs to the turn, and notes the rest.
    fn resolve_order(&mut self, order: Order) {
        match order {
            // Here builds end by themselves alone.
            Order::Abandon { .. } | Order::EndLease { .. } => unreachable!("no build is cancelled or abandoned"),
            Order::Answer { build, error } => {
                self.report.not_run += 1;
                self.report.makespan = self.now.saturating_duration_since(self.origin);
                let result = BuildResult::NotRun(error.to_string().into());
                self.tell(None, None, Some(build), EventKind::BuildFinished { result });
            }
            Order::Requeued { build, reason } => {
                self.report.failed_attempts += 1;
                let name = self.job(build).build.name().clone();
                self.tell(None, None, Some(build), EventKind::BuildQueued { name, retry: Some(reason) });
            }
            order => self.agenda.push_back(Task::Order(order)),
        }
    }

    fn look_if_waiting(&mut self) {
        self.look_at_queue |= self.placement.wants_facts();
    }

    fn deliver(&mut self, id: BuildId) {
        let (now, origin) = (self.now, self.origin);
        let (arrival, duration) = (self.job(id).arrival, self.job(id).duration);
        let progress = self.progress(id);
        progress.leases += 1;
        progress.waited.get_or_insert(now.saturating_duration_since(origin).saturating_sub(arrival));
        let number = progress.leases;
        self.later(duration, Happening::BuildEnds(id, number));
    }

    fn order_start(&mut self, worker: WorkerIndex, replace: Option<Epoch>) {
        let now = self.now;
        let answer = self.transition(worker, |worker, effects| {
            if let Some(epoch) = replace {
                worker.life.apply(now, Input::Replace(epoch), effects);
            }
            let answer = worker.request(now, Fit::Always, Want::Instance, Asker::Start, effects);
            answer.map(|answer| (answer, worker.life.epoch(), worker.life.occasion()))
        });
        if let Some((answer, epoch, occasion)) = answer {
            self.start_ended(worker, answer, epoch, occasion);
        }
    }

    fn cancel_start(&mut self, worker: WorkerIndex) {
        if let Some(request) = self.worker(worker).start_request() {
            self.apply(worker, Input::Cancel(request));
        }
    }

    fn start_ended(&mut self, worker: WorkerIndex, answer: Answer, epoch: Epoch, occasion: Option<BuildId>) {
        let (epoch, end) = match answer {
            Ok(grant) => (grant.epoch, StartEnd::Attached),
            Err(error) => (epoch, StartEnd::without_agent(error, occasion)),
        };
        let version = self.worker(worker).life.version();
        let (now, chance) = (self.now, self.random.fraction());
        self.queue_turn(|placement, orders| placement.start_ended(now, worker, epoch, version, end, chance, orders));
        self.look_if_waiting();
    }

    fn lease_place(&mut self, index: WorkerIndex, epoch: Epoch, build: BuildId) {
        let now = self.now;
        let (lease, version) = self.transition(index, |worker, effects| {
            let grant = worker.life.lease(now, epoch, build, effects);
            let lease = grant.and_then(|grant| grant.lease);
            worker.leases.extend(lease.map(|lease| (lease, build)));
            (lease, worker.life.version())
        });
        self.progress(build).lease = lease.map(|lease| (index, lease));
        let granted = lease.is_some();
        match self.placement.leased(now, index, build, granted, version) {
            Leased::Runs(_) => self.deliver(build),
            Leased::Waits => {}
            Leased::HasEnded => unreachable!("no build is cancelled"),
        }
        self.schedule_queue();
        self.look_if_waiting();
    }

    fn ask_kind(&mut self, worker: WorkerIndex, properties: &Properties) {
        let Serves::Kinds(kind) = &self.pool_of(worker).serves else { return };
        let kind = kind(properties).map_err(|error| chain(error.as_ref()).into());
        self.queue_turn(|placement, orders| placement.kind_said(worker, properties, kind, orders));
        self.look_if_waiting();
    }

    fn ask_fit(&mut self, index: WorkerIndex, epoch: Epoch, properties: Properties) {
        let now = self.now;
        let answer = self.transition(index, |worker, effects| {
            if worker.life.epoch() != epoch {
                return Some(Err(SubstantiateError::Insubstantiated));
            }
            worker.request(now, Fit::Ask, Want::Answer, Asker::Fit(properties.clone()), effects)
        });
        if let Some(answer) = answer {
            let epoch = self.worker(index).life.epoch();
            self.fit_answered(index, &properties, answer, epoch);
        }
    }

    fn fit_answered(&mut self, worker: WorkerIndex, properties: &Properties, answer: Answer, epoch: Epoch) {
        let (epoch, fits) = match answer {
            Ok(grant) => (grant.epoch, Some(true)),
            Err(SubstantiateError::Incompatible { .. }) => (epoch, Some(false)),
            Err(_) => (epoch, None),
        };
        let version = self.worker(worker).life.version();
        self.queue_turn(|placement, _| placement.fit_answered(worker, epoch, version, properties, fits));
        self.look_if_waiting();
    }

    /// The owners of the builds find that their leases have ended, and want other ones.
    fn end_leases(&mut self, worker: WorkerIndex, end: &LeaseEnd) {
        let leases = std::mem::take(&mut self.workers[worker.0 as usize].leases);
        for (lease, build) in leases {
            self.progress(build).lease = None;
            self.release(worker, lease, false);
            let (now, chance, reason) = (self.now, self.random.fraction(), Arc::from(end.to_string()));
            self.queue_turn(|placement, orders| placement.retry(now, build, reason, chance, orders));
            self.look_if_waiting();
        }
    }

    fn thread_ready(&mut self, index: WorkerIndex, epoch: Epoch) {
        let (now, mut occasion) = (self.now, None);
        if let Some(Asker::Start) = self.worker(index).initiator() {
            self.queue_turn(|placement, _| occasion = placement.occasion(now, index));
            if occasion.is_none() {
                return self.cancel_start(index);
            }
        }
        let build = occasion.map(|occasion| occasion.build);
        let made_for = build.map(|build| self.job(build).build.properties().clone()).unwrap_or_default();
        let now = self.now;
        let called = self.transition(index, |worker, effects| {
            worker.life.apply(now, Input::ThreadReady(epoch, occasion), effects);
            let called = effects.orders.contains(&Effect::CallStart);
            if called {
                worker.made_for = made_for;
                worker.up_since = Some(now);
            }
            called
        });
        if called {
            self.report.starts += 1;
            let (duration, failing) = (self.pool_of(index).start.clone(), self.pool_of(index).failing_starts);
            let duration = duration.sample(&mut self.random);
            let of_build = build.is_some_and(|build| self.job(build).starts_fail);
            let fails = self.random.chance(failing) || of_build;
            self.later(duration, Happening::StartReturns { worker: index, epoch, fails });
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("report", &self.report).finish_non_exhaustive()
    }
}
