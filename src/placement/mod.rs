//! Many workers, many builds: which build runs where, and which instances are started for the builds that wait.
//!
//! Pure: what happened comes in through the methods of [`Placement`] with the present moment, what is to be done goes
//! out as [`Order`]s, and [`Placement::next_deadline`] says when [`Placement::time`] is due.
//!
//! A build waits in the queue until an attached instance has a place for it; nothing else binds it. Starts, stops and
//! replacements are orders for *demand*: "an instance of this kind is needed". The build that a start is called for is
//! only its occasion.
//!
//! | part | knows | decides |
//! |---|---|---|
//! | [`kinds`] | what instances can serve | |
//! | [`labels`] | workers by labels, and the supply of each kind | |
//! | [`queue`] | builds by claim, pauses, patience | which build has the best claim |
//! | [`fleet`] | workers by what they said and were told | what each can do |
//! | [`learned`] | how long starts and builds take | |
//! | [`blame`] | failures | who is guilty: a worker, a kind, a build, a driver |
//! | [`plan`], [`starts`] | demand and supply | what to give, start, replace, cancel |
//!
//! It knows of a worker only the [`Facts`] that it was told, which may be out of date: a worker may refuse an order.
//! Every [`Order::Start`] is answered once with [`Placement::start_ended`], every [`Order::Lease`] once with
//! [`Placement::leased`], every [`Order::AskKind`] with [`Placement::kind_said`] and every [`Order::AskFit`] with
//! [`Placement::fit_answered`]. After every change [`Placement::plan`] is called.

mod asking;
mod blame;
mod builds;
mod config;
mod fleet;
mod ids;
mod kinds;
mod labels;
mod learned;
mod plan;
mod queue;
mod sorted;
mod starts;
mod status;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use config::PlacementConfig;
pub(crate) use fleet::Facts;
pub(crate) use kinds::Space;
pub(crate) use queue::Forgotten;
pub(crate) use sorted::SortedMap;

use self::blame::{Blame, Failure, Forgiven};
use self::fleet::{BroughtUp, Worker};
use self::kinds::{ANY, KindId, Kinds};
use self::labels::{Group, LabelIndex, Readiness, RouteIndex};
use self::learned::Learned;
use self::plan::Hunger;
use self::queue::{NeedIndex, Place, Queue, Rank, Said};
use crate::build::{Build, BuildId, Epoch, Labels, Properties};
use crate::error::{Attempt, BuildError, SubstantiateError};
use crate::event::DriverCall;
use crate::lifecycle::Occasion;
use crate::worker::{Kind, Limits};

/// The number of a worker: 0, 1, 2 … in the order in which they were added.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(crate) struct WorkerIndex(pub(crate) u32);

/// Something to be done, once the lock around [`Placement`] is released.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) enum Order {
    /// An instance is needed. With `replace`, the unused instance of this epoch makes room for it. For which build the
    /// start is called, [`Placement::occasion`] says at that time.
    Start { worker: WorkerIndex, replace: Option<Epoch> },
    /// The attempt of this epoch has failed, and not by the worker's fault: its quarantine is lifted.
    Forgive { worker: WorkerIndex, epoch: Epoch },
    /// The start that was ordered is not needed any more.
    CancelStart { worker: WorkerIndex },
    /// The instance of this epoch takes no more builds: another one is needed in its place.
    Drain { worker: WorkerIndex, epoch: Epoch },
    /// The build gets a place of the instance of this epoch.
    Lease { worker: WorkerIndex, epoch: Epoch, build: BuildId },
    /// The driver of this worker says what kind the properties ask for.
    AskKind { worker: WorkerIndex, properties: Properties },
    /// The driver says whether the instance of this epoch fits builds with these properties.
    AskFit { worker: WorkerIndex, epoch: Epoch, properties: Properties },
    /// The final answer of a build; exactly one, unless its lease came back for good.
    Answer { build: BuildId, error: BuildError },
    /// Nobody has taken the lease of this build in time: it has ended, and its place is given back.
    Abandon { worker: WorkerIndex, build: BuildId },
    /// The build has ended while it has a lease of this worker, or is about to get one: the lease ends. Its
    /// [`Order::Answer`] follows.
    EndLease { worker: WorkerIndex, build: BuildId },
    /// The build is back in the queue after an attempt that failed.
    Requeued { build: BuildId, reason: Arc<str> },
}

pub(crate) type Orders = Vec<Order>;

/// What becomes of a build whose worker has answered an order to give it a place.
#[derive(Clone, Eq, PartialEq, Debug)]
#[must_use]
pub(crate) enum Leased {
    /// It runs. Before that, these attempts have failed.
    Runs(Vec<Attempt>),
    /// It waits again.
    Waits,
    /// It has ended meanwhile: a lease that was granted is given back.
    HasEnded,
}

/// How an order to start ended.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) enum StartEnd {
    Attached,
    /// The start was called, and it or its instance failed.
    Failed {
        reason: Arc<str>,
    },
    /// The start was called, and its build asks for what cannot be.
    Cannot {
        reason: Arc<str>,
    },
    /// The start was not called, or was cancelled.
    NotMade,
}

impl StartEnd {
    /// How a start without an attached agent ended. `occasion`: the build of the queue that it was called for.
    pub(crate) fn without_agent(error: SubstantiateError, occasion: Option<BuildId>) -> Self {
        match error {
            // A start that was called for nobody in the queue is nobody's attempt.
            _ if occasion.is_none() => Self::NotMade,
            SubstantiateError::Failed { .. } | SubstantiateError::TimedOut { .. } => {
                Self::Failed { reason: error.to_string().into() }
            }
            SubstantiateError::Cannot { reason } => Self::Cannot { reason },
            SubstantiateError::Incompatible { .. }
            | SubstantiateError::ShutDown
            | SubstantiateError::Cancelled
            | SubstantiateError::Insubstantiated
            | SubstantiateError::Paused
            | SubstantiateError::Quarantined { .. }
            | SubstantiateError::LeftBehind
            | SubstantiateError::Full
            | SubstantiateError::Answered => Self::NotMade,
        }
    }
}

/// All workers, and all builds that have not ended.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    config: PlacementConfig,
    workers: Vec<Worker>,
    labels: LabelIndex,
    kinds: Kinds,
    queue: Queue,
    learned: Learned,
    blame: Blame,
    hunger: Hunger,
    /// Drivers that say kinds and have, or may get, an instance: they are asked about every new need.
    speakers: BTreeSet<u32>,
    /// Attached instances whose own kind is being asked for. Until then they serve nobody, and are not replaced.
    unnamed: BTreeSet<WorkerIndex>,
    /// Routes whose needs were made anew: what drivers had said of them is asked again.
    renewed: BTreeSet<RouteIndex>,
    /// Workers that are to be filed anew.
    unfiled: Vec<WorkerIndex>,
    /// When a call becomes overdue, or an agent has been gone for too long.
    timers: BTreeSet<(Instant, WorkerIndex)>,
    /// When it is looked for leases that nobody has taken.
    claims: Option<Instant>,
    /// When the first build was submitted, from which ageing counts.
    origin: Option<Instant>,
    shut_down: bool,
}

/// Workers.
impl Placement {
    pub(crate) fn new(config: PlacementConfig) -> Self {
        Self {
            config,
            workers: Vec::new(),
            labels: LabelIndex::default(),
            kinds: Kinds::default(),
            queue: Queue::default(),
            learned: Learned::default(),
            blame: Blame::default(),
            hunger: Hunger::default(),
            speakers: BTreeSet::new(),
            unnamed: BTreeSet::new(),
            renewed: BTreeSet::new(),
            unfiled: Vec::new(),
            timers: BTreeSet::new(),
            claims: None,
            origin: None,
            shut_down: false,
        }
    }

    /// Adds the worker of the next index. Workers that share a driver value have the same number of it. `build_of`: a build
    /// that was submitted and has not ended.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn add_worker(
        &mut self,
        index: WorkerIndex,
        name: Arc<str>,
        labels: Labels,
        driver: u32,
        space: Space,
        limits: Limits,
        facts: Facts,
        build_of: impl Fn(BuildId) -> Build,
    ) {
        assert_eq!(index.0 as usize, self.workers.len(), "workers are added in the order of their indexes");
        let changed = self.labels.add_worker(labels, space);
        self.workers.push(Worker::new(name, driver, space, limits, facts));
        for route in changed {
            self.queue.renew_route(route, &build_of, &mut self.labels, &mut self.kinds);
            self.renewed.insert(route);
        }
        if let Space::Said(driver) = space
            && self.speakers.contains(&driver)
        {
            // It says kinds already, and is to say those of builds that only this worker of it fits.
            let is_first = |route: &RouteIndex| self.labels.speaker(*route, driver) == Some(index);
            self.renewed.extend(self.labels.routes_of(index).filter(is_first));
        }
        self.refresh(index);
    }

    fn worker(&self, index: WorkerIndex) -> &Worker {
        &self.workers[index.0 as usize]
    }

    fn worker_mut(&mut self, index: WorkerIndex) -> &mut Worker {
        &mut self.workers[index.0 as usize]
    }

    /// The worker says how it stands. What is older than what it said before is ignored.
    pub(crate) fn facts(&mut self, now: Instant, index: WorkerIndex, facts: Facts, orders: &mut Orders) {
        if facts.version <= self.worker(index).facts.version {
            return;
        }
        if self.worker(index).only_leases_change(&facts) {
            if self.worker_mut(index).update_leases(facts) {
                self.refresh(index);
            }
            return;
        }
        let (call, readiness) = (self.worker(index).facts.call, self.worker(index).readiness());
        if let Some((call, since)) = call
            && facts.call != Some((call, since))
        {
            self.learn_call(call, now.saturating_duration_since(since));
        }
        self.note_failure(now, index, facts.failure, orders);
        let another = self.worker_mut(index).update(facts);
        if another || self.worker(index).is_gone() {
            self.forget_instance(index);
        }
        if self.worker(index).is_attached() && !std::mem::replace(&mut self.worker_mut(index).known, true) {
            self.name_instance(now, index, orders);
        }
        self.forget_demand(index);
        let now_ready = self.worker(index).readiness();
        let out_of_use = [readiness, now_ready].map(|readiness| readiness == Readiness::OutOfUse);
        if out_of_use[0] != out_of_use[1] || readiness != now_ready && self.blame.is_pausing() {
            self.queue.touch_failed(index, &self.labels);
        }
        self.refresh(index);
        self.set_timer(now, index);
    }

    /// The worker is in quarantine for the failure of this attempt. If that had attached, it was lost too soon, which
    /// nobody else tells.
    fn note_failure(&mut self, now: Instant, index: WorkerIndex, failed: Option<Epoch>, orders: &mut Orders) {
        let worker = self.worker_mut(index);
        let driver = worker.driver;
        let Some(BroughtUp { epoch, kind, build }) = worker.brought_up.take_if(|up| failed == Some(up.epoch)) else {
            return;
        };
        let waits = self.queue.place(build).is_some();
        let failure = Failure { worker: index, epoch, driver, kind, build, waits, attached: true };
        self.blame(now, failure, orders);
        self.kinds.release(kind);
    }

    fn blame(&mut self, now: Instant, failure: Failure, orders: &mut Orders) {
        let forgiven = self.blame.failed(now, failure, &self.config, &mut self.kinds);
        self.forgive(forgiven, orders);
        // Builds that wait for others of this driver to start an instance may have to go back to where they have failed.
        if self.blame.is_pausing() {
            self.queue.touch_all_failed();
        }
    }

    fn forgive(&mut self, forgiven: Vec<Forgiven>, orders: &mut Orders) {
        orders.extend(forgiven.into_iter().map(|(worker, epoch)| Order::Forgive { worker, epoch }));
    }

    fn learn_call(&mut self, call: DriverCall, duration: Duration) {
        // Starts are learned when their agent has attached.
        let number = match call {
            DriverCall::Start | DriverCall::Kind | DriverCall::Reclaim => return,
            DriverCall::Compatible => 0,
            DriverCall::Check => 1,
            DriverCall::Stop => 2,
        };
        self.learned.calls[number].learn(duration);
    }

    /// The instance that was known is gone.
    fn forget_instance(&mut self, index: WorkerIndex) {
        let worker = self.worker_mut(index);
        let kinds: Vec<KindId> = worker.kind.take().into_iter().chain(worker.answers.keys().copied()).collect();
        let question = worker.question();
        worker.answers.clear();
        worker.known = false;
        worker.fresh = true;
        worker.draining = false;
        self.unnamed.remove(&index);
        if let Some(kind) = question {
            self.hunger.questions.remove(&(kind, index));
            // Its answer was waited for.
            self.queue.touch_lines_of(kind);
        }
        self.refresh(index);
        kinds.into_iter().for_each(|kind| self.kinds.release(kind));
    }

    /// A start that was ordered is about to be called: the build that it is called for; `None` when no build needs it.
    ///
    /// A start is ordered for a kind. The build that it was ordered for may have found a place meanwhile, and then
    /// another one of its kind is the occasion.
    pub(crate) fn occasion(&mut self, now: Instant, index: WorkerIndex) -> Option<Occasion> {
        let demand = self.worker_mut(index).demand.as_mut().filter(|demand| !demand.cancelled)?;
        demand.called = Some(now);
        let (kind, ordered_for) = (demand.kind, demand.occasion);
        if self.queue.place(ordered_for) == Some(Place::Waiting) {
            return Some(self.occasion_for(kind, ordered_for));
        }
        let fitting = self.queue.lines_of(kind).filter(|line| self.labels.fits(index, self.queue.line(*line).route));
        let occasion = fitting
            .filter_map(|line| {
                self.next_occasion(line, |build| !self.avoids(build, index, self.queue.line(line).route))
            })
            .min()?
            .build;
        self.change_starts(ordered_for, |starts| starts - 1);
        self.change_starts(occasion, |starts| starts + 1);
        self.worker_mut(index).demand.as_mut().expect("it has one").occasion = occasion;
        Some(self.occasion_for(kind, occasion))
    }

    fn occasion_for(&self, kind: KindId, build: BuildId) -> Occasion {
        Occasion { build, blameless: self.blame.is_guilty(kind, build) }
    }

    fn change_starts(&mut self, build: BuildId, change: impl FnOnce(u32) -> u32) {
        if let Some(entry) = self.queue.builds.get_mut(&build) {
            entry.starts = change(entry.starts);
        }
    }

    /// An order to start has ended; the worker's facts tell of it from `version` on.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn start_ended(
        &mut self,
        now: Instant,
        index: WorkerIndex,
        epoch: Epoch,
        version: u64,
        end: StartEnd,
        chance: f64,
        orders: &mut Orders,
    ) {
        let Some(demand) = self.worker_mut(index).demand.as_mut().filter(|demand| demand.ended.is_none()) else {
            return;
        };
        demand.ended = Some(version);
        demand.cancelled |= end != StartEnd::Attached;
        let demand = demand.clone();
        // An instance from before was lost while the worker was still busy with it: no attempt of the build.
        let end = if demand.called.is_none() && end != StartEnd::Attached { StartEnd::NotMade } else { end };
        self.hunger.start_ended(demand.kind, demand.since, index);
        self.change_starts(demand.occasion, |starts| starts - 1);
        let waits = matches!(self.queue.place(demand.occasion), Some(Place::Waiting));
        match end {
            StartEnd::Attached => {
                let driver = self.worker(index).driver;
                let forgiven = self.blame.attached(
                    now,
                    driver,
                    demand.kind,
                    demand.occasion,
                    self.config.suspicion.proof,
                    &mut self.kinds,
                );
                self.forgive(forgiven, orders);
                self.kinds.hold(demand.kind);
                let up = BroughtUp { epoch, kind: demand.kind, build: demand.occasion };
                if let Some(before) = self.worker_mut(index).brought_up.replace(up) {
                    self.kinds.release(before.kind);
                }
                self.remember(demand.kind);
                let called = demand.called.unwrap_or(demand.since);
                self.learned.starts.learn(demand.kind, now.saturating_duration_since(called));
            }
            StartEnd::Failed { reason } => {
                let failure = Failure {
                    worker: index,
                    epoch,
                    driver: self.worker(index).driver,
                    kind: demand.kind,
                    build: demand.occasion,
                    waits: self.queue.place(demand.occasion).is_some(),
                    attached: false,
                };
                self.blame(now, failure, orders);
                if waits {
                    self.attempt_failed(now, demand.occasion, index, epoch, reason, chance, orders);
                }
            }
            StartEnd::Cannot { reason } if waits => {
                let history = self.history(demand.occasion);
                self.conclude(demand.occasion, BuildError::Cannot { reason, history }, orders);
            }
            StartEnd::Cannot { .. } | StartEnd::NotMade => {}
        }
        self.forget_demand(index);
        self.refresh(index);
        self.set_timer(now, index);
    }

    /// Forgets the order to start whose end the facts know of.
    fn forget_demand(&mut self, index: WorkerIndex) {
        if let Some(demand) = self.worker_mut(index).take_ended() {
            self.kinds.release(demand.kind);
        }
    }

    /// The worker has answered an order to give a place; its facts tell of it from `version` on.
    pub(crate) fn leased(
        &mut self,
        now: Instant,
        index: WorkerIndex,
        id: BuildId,
        granted: bool,
        version: u64,
    ) -> Leased {
        if self.worker_mut(index).place_answered(id, version) {
            self.refresh(index);
        }
        match self.queue.place(id) {
            Some(Place::Leasing { worker, epoch }) if worker == index => {
                if !granted {
                    self.queue.set_place(id, Place::Waiting);
                    return Leased::Waits;
                }
                self.queue.set_place(id, Place::Running { worker, epoch, since: now, claimed: false });
                if self.claims.is_none() {
                    self.claims = now.checked_add(self.config.claim_timeout);
                }
                Leased::Runs(self.history(id))
            }
            _ => Leased::HasEnded,
        }
    }

    /// Follows what a worker said or was told: its shelf and its supply.
    fn refresh(&mut self, index: WorkerIndex) {
        let worker = self.worker(index);
        let supplied = self.labels.shares_of(index);
        // Most workers that change have leased a place, or got it back.
        let only_kind = worker.only_kind().filter(|kind| supplied.iter().all(|(supplied, _)| supplied == kind));
        if let Some(kind) = only_kind {
            self.supply(index, kind);
        } else {
            let kinds: Vec<KindId> = supplied.iter().map(|(kind, _)| *kind).chain(worker.kinds()).collect();
            // Lines wait for the answer as long as that would give them places.
            worker.question().into_iter().for_each(|kind| self.queue.touch_lines_of(kind));
            kinds.into_iter().for_each(|kind| self.supply(index, kind));
        }
        self.note_curiosity(index);
        if !std::mem::replace(&mut self.worker_mut(index).unfiled, true) {
            self.unfiled.push(index);
        }
        // While nobody waits, nobody looks.
        if !self.queue.nobody_waits() {
            self.file_workers();
        }
    }

    /// Follows what a worker contributes to the supply of a kind.
    fn supply(&mut self, index: WorkerIndex, kind: KindId) {
        let share = self.worker(index).share(kind);
        if self.labels.set_share(index, kind, share) {
            self.queue.touch_lines_of(kind);
        }
    }

    /// Puts the workers that have changed where they are found by builds that wait.
    fn file_workers(&mut self) {
        while let Some(index) = self.unfiled.pop() {
            let worker = &mut self.workers[index.0 as usize];
            worker.unfiled = false;
            self.labels.set_shelf(index, worker.shelf(self.labels.labels(index).len()));
            self.labels.set_obstacle(index, worker.obstacle());
            self.labels.set_group(index, Group { driver: worker.driver, readiness: worker.readiness() });
        }
    }

    /// Remembers a duration of this kind, and with it the kind.
    fn remember(&mut self, kind: KindId) {
        if self.learned.is_new(kind) {
            self.kinds.hold(kind);
        }
        while let Some(forgotten) = self.learned.forget_one_too_many() {
            self.kinds.release(forgotten);
        }
    }

    /// Has [`time`](Placement::time) called when the worker's call is overdue, or its agent has been gone for too long.
    fn set_timer(&mut self, now: Instant, index: WorkerIndex) {
        let worker = self.worker(index);
        let at = worker.overdue_at(&self.learned, &self.config);
        let overdue = at.is_some_and(|at| at <= now);
        if worker.overdue != overdue {
            let worker = self.worker_mut(index);
            worker.overdue = overdue;
            worker.demand.iter_mut().for_each(|demand| demand.overdue |= overdue);
            self.queue.touch_failed(index, &self.labels);
            self.refresh(index);
        }
        let new = at.filter(|at| *at > now);
        let old = std::mem::replace(&mut self.worker_mut(index).timer, new);
        if old != new {
            old.into_iter().for_each(|old| _ = self.timers.remove(&(old, index)));
            self.timers.extend(new.map(|new| (new, index)));
        }
    }
}

/// Time.
impl Placement {
    /// Ends the builds whose lease nobody has taken in time.
    fn check_claims(&mut self, now: Instant, was_taken: impl Fn(BuildId) -> bool, orders: &mut Orders) {
        if self.claims.is_none_or(|at| at > now) {
            return;
        }
        let timeout = self.config.claim_timeout;
        let mut unclaimed = Vec::new();
        let mut next: Option<Instant> = None;
        for (&id, entry) in self.queue.builds.iter_mut() {
            let Place::Running { worker, since, claimed: claimed @ false, .. } = &mut entry.place else { continue };
            match since.checked_add(timeout) {
                Some(until) if until <= now => {
                    *claimed = was_taken(id);
                    if !*claimed {
                        unclaimed.push((id, *worker));
                    }
                }
                Some(until) => next = next.into_iter().chain([until]).min(),
                None => {}
            }
        }
        // All builds are looked at, so not for every single one of them.
        let earliest = now.checked_add(timeout / 16);
        self.claims = next.and_then(|next| earliest.map(|earliest| next.max(earliest)));
        unclaimed.sort_unstable();
        for (build, worker) in unclaimed {
            self.forget_build(build);
            orders.push(Order::Abandon { worker, build });
        }
    }

    /// When [`time`](Placement::time) is due next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.claims).chain(self.queue.next_deadline()).chain(self.blame.next_deadline()).min()
    }

    /// Time has passed: does what is due. `was_taken` says whether the lease of a build that runs was taken.
    pub(crate) fn time(&mut self, now: Instant, was_taken: impl Fn(BuildId) -> bool, orders: &mut Orders) {
        self.check_claims(now, was_taken, orders);
        self.queue.time(now);
        while let Some(line) = self.queue.next_watched(now) {
            self.look_for_progress(now, line);
        }
        for kind in self.blame.time(now, &mut self.kinds) {
            self.queue.touch_lines_of(kind);
        }
        while let Some(&(at, index)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, index));
            self.worker_mut(index).timer = None;
            self.set_timer(now, index);
        }
    }
}
