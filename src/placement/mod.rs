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
//! | [`plan`] | demand and supply | what to give, start, replace, cancel |
//!
//! It knows of a worker only the [`Facts`] that it was told, which may be out of date: a worker may refuse an order.
//! Every [`Order::Start`] is answered once with [`Placement::start_ended`], every [`Order::Lease`] once with
//! [`Placement::leased`], every [`Order::AskKind`] with [`Placement::kind_said`] and every [`Order::AskFit`] with
//! [`Placement::fit_answered`]. After every change [`Placement::plan`] is called.

mod blame;
mod config;
mod fleet;
mod kinds;
mod labels;
mod learned;
mod plan;
mod queue;
mod status;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use config::PlacementConfig;
pub(crate) use fleet::Facts;
pub(crate) use kinds::Space;

use self::blame::{Blame, Failure, Forgiven};
use self::fleet::{BroughtUp, Worker};
use self::kinds::{ANY, KindId, Kinds};
use self::labels::{LabelIndex, RouteIndex};
use self::learned::Learned;
use self::plan::Hunger;
use self::queue::{LineIndex, NeedIndex, Place, Queue, Rank, Said};
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
    /// The build that was given a place runs.
    Deliver { build: BuildId, history: Vec<Attempt> },
    /// The lease that was granted is given back: its build has ended.
    DropLease { build: BuildId },
    /// Nobody has taken the lease of this build in time: it has ended, and its place is given back.
    Abandon { worker: WorkerIndex, build: BuildId },
    /// The build has ended while it has a lease of this worker, or is about to get one: the lease ends. Its
    /// [`Order::Answer`] follows.
    EndLease { worker: WorkerIndex, build: BuildId },
    /// The build is back in the queue after an attempt that failed.
    Requeued { build: BuildId, reason: Arc<str> },
}

pub(crate) type Orders = Vec<Order>;

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
    /// When a call becomes overdue, or an agent has been gone for too long.
    timers: BTreeSet<(Instant, WorkerIndex)>,
    timer_of: BTreeMap<WorkerIndex, Instant>,
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
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            claims: None,
            origin: None,
            shut_down: false,
        }
    }

    /// Adds the worker of the next index. Workers that share a driver value have the same number of it.
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
    ) {
        assert_eq!(index.0 as usize, self.workers.len(), "workers are added in the order of their indexes");
        let changed = self.labels.add_worker(labels, space);
        self.workers.push(Worker::new(name, driver, space, limits, facts));
        for route in changed {
            self.queue.renew_route(route, &mut self.labels, &mut self.kinds);
            self.renewed.insert(route);
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
        let Facts { call, standing, .. } = self.worker(index).facts;
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
            self.name_instance(index, orders);
        }
        self.forget_demand(index);
        if standing.is_closed() != self.worker(index).facts.standing.is_closed() {
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
        let forgiven = self.blame.failed(now, failure, &self.config, &mut self.kinds);
        self.forgive(forgiven, orders);
        self.kinds.release(kind);
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
            let lines: Vec<LineIndex> = self.queue.lines_of(kind).collect();
            self.queue.touched.extend(lines);
        }
        self.refresh(index);
        kinds.into_iter().for_each(|kind| self.kinds.release(kind));
    }

    /// Finds out of which kind an attached instance is.
    fn name_instance(&mut self, index: WorkerIndex, orders: &mut Orders) {
        let worker = self.worker(index);
        let properties = worker.facts.made_for.clone();
        let kind = match worker.space {
            Space::Any => Some(ANY),
            Space::Asked => Some(self.kinds.hold_asked(&properties)),
            Space::Said(driver) => {
                self.speak(driver, orders);
                let kind = self.kinds.said(driver, &properties);
                if kind.is_none() && self.unnamed.insert(index) {
                    orders.push(Order::AskKind { worker: index, properties });
                }
                kind.map(|kind| self.kinds.hold(kind))
            }
        };
        self.worker_mut(index).kind = kind;
    }

    /// From now on this driver is asked about every new need, and now about those that wait.
    fn speak(&mut self, driver: u32, orders: &mut Orders) {
        if !self.speakers.insert(driver) {
            return;
        }
        for need in self.queue.all_needs() {
            self.ask_kind(driver, need, orders);
        }
    }

    /// Asks the drivers about the needs that were made anew.
    fn ask_again(&mut self, orders: &mut Orders) {
        for route in std::mem::take(&mut self.renewed) {
            let needs: Vec<NeedIndex> = self.queue.needs_of(route).collect();
            let drivers: Vec<u32> = self.speakers.iter().copied().collect();
            for (need, driver) in needs.iter().flat_map(|need| drivers.iter().map(move |driver| (*need, *driver))) {
                self.ask_kind(driver, need, orders);
            }
        }
    }

    /// Asks the driver about a need that one of its workers fits, unless it was asked.
    fn ask_kind(&mut self, driver: u32, index: NeedIndex, orders: &mut Orders) {
        let need = self.queue.need(index);
        let Some(worker) = self.labels.speaker(need.route, driver) else { return };
        if need.said.contains_key(&driver) {
            return;
        }
        let properties = need.properties.clone().expect("where a driver says kinds, properties matter");
        match self.kinds.said(driver, &properties) {
            Some(kind) => {
                let said = Said::Kind(self.kinds.hold(kind));
                self.queue.said(index, driver, said, self.labels.workers(need.route).any > 0, &mut self.kinds);
            }
            None => {
                self.queue.asks(index, driver);
                orders.push(Order::AskKind { worker, properties });
            }
        }
    }

    /// A driver has said what kind the properties ask for, or why it cannot make such an instance.
    pub(crate) fn kind_said(
        &mut self,
        index: WorkerIndex,
        properties: &Properties,
        kind: Result<Kind, Arc<str>>,
        orders: &mut Orders,
    ) {
        let Space::Said(driver) = self.worker(index).space else { return };
        let kind = kind.map(|kind| self.kinds.hold_said(driver, &kind, properties));
        if let Ok(kind) = kind {
            self.kinds.remember_said(driver, properties, kind);
        }
        let routes: Vec<_> = self.labels.routes_of(index).collect();
        for route in routes {
            let Some(need) = self.queue.find_need(route, properties) else { continue };
            if self.queue.need(need).said.get(&driver) != Some(&Said::Asked) {
                continue;
            }
            let said = match &kind {
                Ok(kind) => Said::Kind(self.kinds.hold(*kind)),
                Err(reason) => Said::Cannot(reason.clone()),
            };
            let any = self.labels.workers(route).any > 0;
            self.queue.said(need, driver, said, any, &mut self.kinds);
            self.end_impossible(need, orders);
        }
        if self.unnamed.contains(&index)
            && self.worker(index).facts.made_for == *properties
            && self.worker(index).is_attached()
        {
            self.unnamed.remove(&index);
            // An instance of no kind serves nobody, and can be replaced.
            self.worker_mut(index).kind = kind.as_ref().ok().map(|kind| self.kinds.hold(*kind));
            self.refresh(index);
        }
        if let Ok(kind) = kind {
            self.kinds.release(kind);
        }
    }

    /// Ends the builds of a need that every driver that fits has refused.
    fn end_impossible(&mut self, index: NeedIndex, orders: &mut Orders) {
        let need = self.queue.need(index);
        let census = self.labels.workers(need.route);
        let refused = need.said.values().filter(|said| matches!(said, Said::Cannot(_))).count();
        if census.any + census.asked > 0 || refused < self.labels.speakers(need.route) {
            return;
        }
        let reason = need.said.values().find_map(|said| if let Said::Cannot(why) = said { Some(why) } else { None });
        let reason = reason.cloned().unwrap_or_else(|| "no driver can make an instance for it".into());
        for build in self.queue.waiting_of(index) {
            let history = self.history(build);
            self.conclude(build, BuildError::Cannot { reason: reason.clone(), history }, orders);
        }
    }

    /// A driver has said whether its instance fits; `None`: it could not be asked. The worker's facts tell of that from
    /// `version` on.
    pub(crate) fn fit_answered(
        &mut self,
        index: WorkerIndex,
        epoch: Epoch,
        version: u64,
        properties: &Properties,
        fits: Option<bool>,
    ) {
        let Some(kind) = self.worker(index).question() else { return };
        if self.worker(index).facts.epoch != epoch || self.kinds.properties(kind) != Some(properties) {
            return;
        }
        match fits {
            Some(fits) => _ = self.worker_mut(index).answers.insert(kind, Some(fits)),
            None => {
                let worker = self.worker_mut(index);
                worker.answers.remove(&kind);
                worker.unasked = Some(version);
            }
        }
        self.hunger.questions.remove(&(kind, index));
        let lines: Vec<LineIndex> = self.queue.lines_of(kind).collect();
        self.queue.touched.extend(lines);
        self.refresh(index);
        if fits.is_none() {
            self.kinds.release(kind);
        }
    }

    /// A start that was ordered is about to be called: the build that it is called for; `None` when no build needs it.
    ///
    /// A start is ordered for a kind. The build that it was ordered for may have found a place meanwhile, and then
    /// another one of its kind is the occasion.
    pub(crate) fn occasion(&mut self, index: WorkerIndex) -> Option<Occasion> {
        let demand = self.worker(index).demand.as_ref().filter(|demand| !demand.cancelled)?;
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
        self.hunger.start_ended(demand.kind, demand.since, index);
        self.change_starts(demand.occasion, |starts| starts - 1);
        let waits = matches!(self.queue.place(demand.occasion), Some(Place::Waiting));
        match end {
            StartEnd::Attached => {
                let driver = self.worker(index).driver;
                let forgiven = self.blame.attached(now, driver, demand.kind, demand.occasion, &mut self.kinds);
                self.forgive(forgiven, orders);
                self.kinds.hold(demand.kind);
                let up = BroughtUp { epoch, kind: demand.kind, build: demand.occasion };
                if let Some(before) = self.worker_mut(index).brought_up.replace(up) {
                    self.kinds.release(before.kind);
                }
                self.remember(demand.kind);
                self.learned.starts.learn(demand.kind, now.saturating_duration_since(demand.since));
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
                let forgiven = self.blame.failed(now, failure, &self.config, &mut self.kinds);
                self.forgive(forgiven, orders);
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
        orders: &mut Orders,
    ) {
        self.worker_mut(index).place_answered(id, version);
        match self.queue.place(id) {
            Some(Place::Leasing { worker, epoch }) if worker == index => {
                if granted {
                    self.queue.set_place(id, Place::Running { worker, epoch, since: now, claimed: false });
                    if self.claims.is_none() {
                        self.claims = now.checked_add(self.config.claim_timeout);
                    }
                    orders.push(Order::Deliver { build: id, history: self.history(id) });
                } else {
                    self.queue.set_place(id, Place::Waiting);
                }
            }
            // It has ended meanwhile.
            _ if granted => orders.push(Order::DropLease { build: id }),
            _ => {}
        }
        self.refresh(index);
    }

    /// Follows what a worker said or was told: its shelf and its supply.
    fn refresh(&mut self, index: WorkerIndex) {
        let worker = &self.workers[index.0 as usize];
        let shares = worker.shares();
        let shelf = worker.shelf(self.labels.labels(index).len());
        let obstacle = worker.obstacle();
        // Lines wait for the answer as long as that would give them places.
        let mut touched: BTreeSet<KindId> = worker.question().into_iter().collect();
        for kind in self.labels.kinds_of(index) {
            if !shares.contains_key(&kind) {
                self.labels.set_share(index, kind, labels::Share::default());
                touched.insert(kind);
            }
        }
        for (kind, share) in shares {
            if self.labels.set_share(index, kind, share) {
                touched.insert(kind);
            }
        }
        self.labels.set_shelf(index, shelf);
        self.labels.set_obstacle(index, obstacle);
        for kind in touched {
            let lines: Vec<LineIndex> = self.queue.lines_of(kind).collect();
            self.queue.touched.extend(lines);
        }
        self.note_curiosity(index);
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
        if let Some(old) = self.timer_of.remove(&index) {
            self.timers.remove(&(old, index));
        }
        if let Some(at) = at.filter(|at| *at > now) {
            self.timer_of.insert(index, at);
            self.timers.insert((at, index));
        }
    }
}

/// Builds.
impl Placement {
    /// A new build. One that no worker will ever take is answered at once.
    pub(crate) fn submit(&mut self, now: Instant, id: BuildId, build: &Build, orders: &mut Orders) {
        if self.shut_down {
            orders.push(Order::Answer { build: id, error: BuildError::ShutDown });
            return;
        }
        let needed = build.labels();
        let Some(route) = self.labels.hold_route(needed) else {
            let advice = self.labels.why_nobody_fits(needed).into();
            let error = BuildError::NoWorkerFits { needed: needed.clone(), advice };
            orders.push(Order::Answer { build: id, error });
            return;
        };
        let rank = Rank { key: self.claim(now, build), build: id };
        let need = self.queue.insert(rank, build, route, &mut self.labels, &mut self.kinds);
        if self.labels.speakers(route) > 0 {
            let speakers: Vec<u32> = self.speakers.iter().copied().collect();
            speakers.into_iter().for_each(|driver| self.ask_kind(driver, need, orders));
        }
    }

    /// The claim of a build that is submitted now. It does not change while the build waits: with ageing, the builds
    /// that come later start with less.
    fn claim(&mut self, now: Instant, build: &Build) -> i64 {
        let origin = *self.origin.get_or_insert(now);
        let later = self.config.ageing.map_or(0, |per_priority| {
            let passed = now.saturating_duration_since(origin).as_nanos() / per_priority.as_nanos();
            i64::try_from(passed).unwrap_or(i64::MAX / 2)
        });
        later - i64::from(build.priority())
    }

    /// Ends the build, wherever it is; `false` if it had ended already.
    pub(crate) fn cancel(&mut self, id: BuildId, orders: &mut Orders) -> bool {
        self.end(id, BuildError::Cancelled, orders)
    }

    fn end(&mut self, id: BuildId, error: BuildError, orders: &mut Orders) -> bool {
        match self.queue.place(id) {
            None => return false,
            Some(Place::Running { worker, .. } | Place::Leasing { worker, .. }) => {
                orders.push(Order::EndLease { worker, build: id });
            }
            Some(_) => {}
        }
        self.conclude(id, error, orders);
        true
    }

    /// The build gives its lease back and wants another one.
    pub(crate) fn retry(&mut self, now: Instant, id: BuildId, reason: Arc<str>, chance: f64, orders: &mut Orders) {
        let Some(Place::Running { worker, epoch, .. }) = self.queue.place(id) else { return };
        if self.shut_down {
            self.conclude(id, BuildError::ShutDown, orders);
        } else {
            self.attempt_failed(now, id, worker, epoch, reason, chance, orders);
        }
    }

    /// The lease of the build came back, and that was the last of it; `false` if the build does not run (any more).
    pub(crate) fn finished(&mut self, now: Instant, id: BuildId) -> bool {
        let Some(Place::Running { worker, epoch, since, .. }) = self.queue.place(id) else { return false };
        let of = self.worker(worker);
        if let Some(kind) = of.kind.filter(|_| of.facts.epoch == epoch) {
            self.remember(kind);
            self.learned.builds.learn(kind, now.saturating_duration_since(since));
        }
        self.forget_build(id);
        true
    }

    /// From now on nothing is given out or started. All builds end, except for those that run.
    pub(crate) fn shutdown(&mut self, orders: &mut Orders) {
        self.shut_down = true;
        let runs = |place: Place| matches!(place, Place::Running { .. });
        let to_end: Vec<BuildId> =
            self.queue.builds.iter().filter(|(_, entry)| !runs(entry.place)).map(|(id, _)| *id).collect();
        for id in to_end {
            self.end(id, BuildError::ShutDown, orders);
        }
    }

    /// An attempt of the build has failed. It pauses before the next one, or ends.
    #[allow(clippy::too_many_arguments)]
    fn attempt_failed(
        &mut self,
        now: Instant,
        id: BuildId,
        worker: WorkerIndex,
        epoch: Epoch,
        reason: Arc<str>,
        chance: f64,
        orders: &mut Orders,
    ) {
        let attempt = Attempt { worker: self.worker(worker).name.clone(), epoch, reason: reason.clone() };
        let Some(past) = self.queue.failed(id, worker, attempt) else { return };
        let attempts = past.attempts;
        let most = self.queue.builds[&id].build.max_attempts().unwrap_or(self.config.max_attempts);
        if attempts >= most.get() {
            let history = self.history(id);
            self.conclude(id, BuildError::AttemptsExhausted { history }, orders);
            return;
        }
        let pause = self.config.pause(attempts, chance);
        // One that lasts for no time is none.
        let until = now.checked_add(pause).filter(|_| !pause.is_zero());
        self.queue.set_place(id, until.map_or(Place::Waiting, |until| Place::Paused { until }));
        orders.push(Order::Requeued { build: id, reason });
    }

    fn conclude(&mut self, id: BuildId, error: BuildError, orders: &mut Orders) {
        if self.forget_build(id) {
            orders.push(Order::Answer { build: id, error });
        }
    }

    fn forget_build(&mut self, id: BuildId) -> bool {
        self.blame.build_ended(id);
        self.queue.remove(id, &mut self.labels, &mut self.kinds).is_some()
    }

    fn history(&self, id: BuildId) -> Vec<Attempt> {
        let past = self.queue.builds.get(&id).and_then(|entry| entry.past.as_ref());
        past.map(|past| past.history.clone()).unwrap_or_default()
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
        for (&id, entry) in &mut self.queue.builds {
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
        for kind in self.blame.time(now, &mut self.kinds) {
            let lines: Vec<LineIndex> = self.queue.lines_of(kind).collect();
            self.queue.touched.extend(lines);
        }
        while let Some(&(at, index)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, index));
            self.timer_of.remove(&index);
            self.set_timer(now, index);
        }
    }
}
