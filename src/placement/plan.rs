//! The decisions: which build gets a free place, which instances are started, replaced and cancelled.
//!
//! A free place goes to the best claim among the builds that its instance serves, unless a build of another kind has a
//! better one: it has a higher priority, or it is older and its patience has ended, or it is older and so many wait with
//! it that its line is crowded. An instance is started for a line
//! when more builds wait than places of its kinds are free, on their way, or expected to become free within the time
//! of a start.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::blame::Paused;
use super::ids::IdMap;
use super::kinds::{KindId, Space};
use super::labels::{Group, Readiness, RouteIndex, Shelf};
use super::queue::{Line, LineIndex, Place, Rank, Said};
use super::sorted::SortedSet;
use super::{Order, Orders, Placement, WorkerIndex};
use crate::build::{BuildId, Epoch};

/// How urgently a line needs an instance: what goes first gets one first.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(super) struct Urgency {
    /// A start of its kind has failed, and none has succeeded since: others go first.
    pub(super) suspect: bool,
    /// False: the patience of its head has ended.
    pub(super) patient: bool,
    /// Of its head, where that is impatient; otherwise its priority alone.
    pub(super) claim: Rank,
    /// How long the builds that wait would keep its instances busy, in milliseconds.
    pub(super) backlog: Reverse<u64>,
}

/// The lines that need an instance, and the workers whose drivers could be asked something.
#[derive(Clone, Debug, Default)]
pub(super) struct Hunger {
    pub(super) lines: BTreeMap<RouteIndex, BTreeSet<(Urgency, LineIndex)>>,
    pub(super) urgency: IdMap<LineIndex, (RouteIndex, Urgency)>,
    /// Workers with a free place whose drivers are asked, and are not being asked.
    pub(super) curious: BTreeSet<WorkerIndex>,
    /// Questions that are out.
    pub(super) questions: BTreeSet<(KindId, WorkerIndex)>,
    /// The heads of crowded lines.
    pub(super) crowded: BTreeSet<(Rank, LineIndex)>,
    pub(super) crowded_head: IdMap<LineIndex, Rank>,
    /// The instance that was drained last for a line.
    pub(super) draining_for: IdMap<LineIndex, (WorkerIndex, Epoch)>,
    /// Starts that were ordered and have not ended, the latest first.
    pub(super) starters: BTreeMap<KindId, BTreeSet<(Reverse<Instant>, WorkerIndex)>>,
}

impl Hunger {
    pub(super) fn started(&mut self, kind: KindId, since: Instant, worker: WorkerIndex) {
        self.starters.entry(kind).or_default().insert((Reverse(since), worker));
    }

    /// The workers with a start of this kind.
    pub(super) fn starters_of(&self, kind: KindId) -> impl Iterator<Item = WorkerIndex> {
        self.starters.get(&kind).into_iter().flatten().map(|(_, worker)| *worker)
    }

    pub(super) fn all_starters(&self) -> impl Iterator<Item = WorkerIndex> {
        self.starters.values().flatten().map(|(_, worker)| *worker)
    }

    pub(super) fn is_starting(&self) -> bool {
        !self.starters.is_empty()
    }

    /// The order to start has ended.
    pub(super) fn start_ended(&mut self, kind: KindId, since: Instant, worker: WorkerIndex) {
        if let Some(starters) = self.starters.get_mut(&kind) {
            starters.remove(&(Reverse(since), worker));
            if starters.is_empty() {
                self.starters.remove(&kind);
            }
        }
    }

    pub(super) fn set_crowded(&mut self, line: LineIndex, head: Option<Rank>) {
        let old = match head {
            Some(head) => self.crowded_head.insert(line, head),
            None => self.crowded_head.remove(&line),
        };
        if old != head {
            old.into_iter().for_each(|old| _ = self.crowded.remove(&(old, line)));
            head.into_iter().for_each(|head| _ = self.crowded.insert((head, line)));
        }
    }

    pub(super) fn set(&mut self, line: LineIndex, urgency: Option<(RouteIndex, Urgency)>) {
        let old = match urgency {
            Some(urgency) => self.urgency.insert(line, urgency),
            None => self.urgency.remove(&line),
        };
        if old == urgency {
            return;
        }
        if let Some((route, urgency)) = old
            && let Some(lines) = self.lines.get_mut(&route)
        {
            lines.remove(&(urgency, line));
            if lines.is_empty() {
                self.lines.remove(&route);
            }
        }
        if let Some((route, urgency)) = urgency {
            self.lines.entry(route).or_default().insert((urgency, line));
        }
    }
}

impl Placement {
    /// Gives, starts, replaces and cancels whatever can be by now.
    pub(crate) fn plan(&mut self, now: Instant, orders: &mut Orders) {
        if self.shut_down || self.queue.is_settled() && self.renewed.is_empty() {
            return;
        }
        self.file_workers();
        self.ask_again(now, orders);
        loop {
            let before = orders.len();
            self.give_places(now, orders);
            self.ask_fits(orders);
            self.start_instances(now, orders);
            self.cancel_surplus(orders);
            if orders.len() == before {
                break;
            }
        }
    }

    // ---- places

    pub(super) fn give_places(&mut self, now: Instant, orders: &mut Orders) {
        // Only lines that have changed can have something to get: all others were looked at before.
        let mut ready: BTreeSet<(Rank, LineIndex)> = BTreeSet::new();
        self.weigh_touched(now, &mut ready);
        while let Some((head, index)) = ready.pop_first() {
            let line = self.queue.line(index);
            if line.waiting.first() != Some(&head) {
                continue;
            }
            let Some((rank, worker)) = self.first_placeable(line) else { continue };
            match self.better_claim(worker, index, rank) {
                Some((claimant, line)) => {
                    self.make_room(now, worker, claimant.build, line, orders);
                    ready.insert((head, index));
                }
                None => self.lease(now, worker, rank, orders),
            }
            self.weigh_touched(now, &mut ready);
        }
    }

    /// Weighs the lines that have changed, and notes those that a free place serves.
    pub(super) fn weigh_touched(&mut self, now: Instant, ready: &mut BTreeSet<(Rank, LineIndex)>) {
        for line in std::mem::take(&mut self.queue.gone) {
            self.hunger.set(line, None);
            self.hunger.set_crowded(line, None);
            self.hunger.draining_for.remove(&line);
        }
        let touched = std::mem::take(&mut self.queue.touched);
        for &line in &touched {
            self.weigh(now, line);
            if let Some(&head) = self.queue.line(line).waiting.first()
                && self.has_free_place(line)
            {
                ready.insert((head, line));
            }
        }
        let around = touched.iter().flat_map(|line| self.lines_around(*line));
        let around: BTreeSet<LineIndex> = around.filter(|line| !touched.contains(line)).collect();
        around.into_iter().for_each(|line| self.weigh(now, line));
    }

    pub(super) fn has_free_place(&self, line: LineIndex) -> bool {
        let line = self.queue.line(line);
        line.kinds
            .iter()
            .any(|kind| self.labels.supply(line.route, *kind).is_some_and(|supply| !supply.free.is_empty()))
    }

    /// The workers with a free place for the builds of a line.
    pub(super) fn free_places(&self, line: &Line) -> impl Iterator<Item = WorkerIndex> {
        let supplies = line.kinds.iter().filter_map(|kind| self.labels.supply(line.route, *kind));
        supplies.flat_map(|supply| supply.free.iter()).map(|turn| turn.worker)
    }

    /// The best claim of a line that a worker with a free place can take.
    fn first_placeable(&self, line: &Line) -> Option<(Rank, WorkerIndex)> {
        line.waiting.iter().find_map(|rank| {
            let worker = self.free_places(line).find(|worker| !self.avoids(rank.build, *worker, line.route));
            worker.map(|worker| (*rank, worker))
        })
    }

    /// Whether a worker fits on which no attempt of the build has failed, and that is not out of use. Where nothing can
    /// be started at the moment, its instance must be up and fit as well.
    pub(super) fn has_alternative(&self, route: RouteIndex, build: BuildId) -> bool {
        let entry = &self.queue.builds[&build];
        let need = self.queue.need(entry.need);
        let is_alternative = |(of, workers): (Group, &SortedSet<WorkerIndex>)| {
            let refuses = matches!(need.said.get(&of.driver), Some(Said::Cannot(_) | Said::Silent));
            if refuses || of.readiness == Readiness::OutOfUse {
                return false;
            }
            let mut others = workers.iter().copied().filter(|worker| !entry.avoids(*worker));
            let Some(first) = others.next() else { return false };
            let kind = self.kind_for(first, self.queue.line_of_need(entry.need));
            if !self.is_paused(of.driver, kind) {
                return true;
            }
            let serves = |worker: WorkerIndex| kind.is_some_and(|kind| self.worker(worker).serves(kind));
            of.readiness == Readiness::Attached && (serves(first) || others.any(serves))
        };
        self.labels.groups(route).any(is_alternative)
    }

    /// Whether nothing is started with this driver, or of this kind, at the moment.
    pub(super) fn is_paused(&self, driver: u32, kind: Option<KindId>) -> bool {
        let kind = kind.map(Paused::Kind);
        kind.into_iter().chain([Paused::Driver(driver)]).any(|paused| self.blame.paused_until(paused).is_some())
    }

    /// Whether the build goes elsewhere, because an attempt of it has failed on this worker.
    pub(super) fn avoids(&self, build: BuildId, worker: WorkerIndex, route: RouteIndex) -> bool {
        self.queue.builds[&build].avoids(worker) && self.has_alternative(route, build)
    }

    /// The build of another line that has a better claim on the next place of this worker than the build of `rank` in line
    /// `served`, and its line.
    fn better_claim(&self, worker: WorkerIndex, served: LineIndex, rank: Rank) -> Option<(Rank, LineIndex)> {
        // The best claim of a line among the builds that would go there.
        let claim = |index: LineIndex| {
            let line = self.queue.line(index);
            let best = line.waiting.iter().find(|other| !self.avoids(other.build, worker, line.route))?;
            // An instance cannot be replaced while its driver is asked or its start has not ended.
            let may_claim = self.worker(worker).question().is_none()
                && self.worker(worker).demand.is_none()
                && self.labels.fits(worker, line.route)
                && !line.kinds.iter().any(|kind| self.worker(worker).serves(*kind))
                && self.starting(line) == 0
                && !self.is_drained_for(index)
                && self.can_make(worker, index);
            may_claim.then_some((*best, index))
        };
        let is_elder = |(head, _): &&(Rank, LineIndex)| *head < rank;
        let impatient = self.queue.impatient.iter().take_while(is_elder);
        let served = self.queue.line(served);
        // The last place of a line is not taken for the sake of balance.
        let others = self.places(served).saturating_sub(1);
        let remaining = if others == 0 { f64::INFINITY } else { self.backlog(served) / others as f64 };
        let is_longer = |index: LineIndex| self.crowd(self.queue.line(index)) * self.config.crowding.part > remaining;
        let crowded = self.hunger.crowded.iter().take_while(is_elder).filter(|(_, line)| is_longer(*line));
        let urgent = self
            .labels
            .routes_of(worker)
            .flat_map(|route| self.queue.heads(route).take_while(|(head, _)| head.key < rank.key));
        let elders = impatient.chain(crowded).copied().filter_map(|(_, line)| claim(line));
        let urgent = urgent.filter_map(|(_, line)| claim(line)).filter(|(best, _)| best.key < rank.key);
        elders.filter(|(best, _)| *best < rank).chain(urgent).min()
    }

    /// Whether an instance is being drained for this line.
    fn is_drained_for(&self, line: LineIndex) -> bool {
        self.hunger.draining_for.get(&line).is_some_and(|(worker, epoch)| {
            let worker = self.worker(*worker);
            worker.draining && worker.facts.epoch == *epoch && worker.is_attached() && !worker.overdue
        })
    }

    /// Whether the driver of this worker makes instances for the head of this line, as far as it is known.
    pub(super) fn can_make(&self, worker: WorkerIndex, line: LineIndex) -> bool {
        self.kind_for(worker, line).is_some_and(|kind| self.is_permitted(worker, kind))
    }

    /// The kind that this worker would start for the head of the line.
    pub(super) fn kind_for(&self, worker: WorkerIndex, index: LineIndex) -> Option<KindId> {
        let line = self.queue.line(index);
        let space = self.worker(worker).space;
        line.kinds.iter().copied().find(|kind| self.kinds.space(*kind) == space)
    }

    /// Whether a start of this kind may be made on this worker as far as the failures before are concerned.
    pub(super) fn is_permitted(&self, worker: WorkerIndex, kind: KindId) -> bool {
        let driver = self.worker(worker).driver;
        if self.is_paused(driver, Some(kind)) {
            return false;
        }
        let on_its_way = |worker: &WorkerIndex| !self.worker(*worker).overdue;
        let tries_kind = self.blame.tries_kind(kind)
            && (self.blame.is_on_trial(kind) || self.hunger.starters_of(kind).any(|worker| on_its_way(&worker)));
        let tries_driver = self.blame.tries_driver(driver)
            && self.hunger.all_starters().any(|worker| on_its_way(&worker) && self.worker(worker).driver == driver);
        !tries_kind && !tries_driver
    }

    /// The next place is for this build and its line: they get an instance of their own, in the place of this one if need
    /// be.
    fn make_room(&mut self, now: Instant, worker: WorkerIndex, build: BuildId, line: LineIndex, orders: &mut Orders) {
        let elsewhere =
            [Shelf::Down, Shelf::Stopping].into_iter().find_map(|shelf| self.choose_worker(now, shelf, line, orders));
        if let Some((other, occasion)) = elsewhere {
            self.start(now, other, line, occasion, orders);
        } else if self.worker(worker).is_unused() {
            self.start(now, worker, line, build, orders);
        } else {
            self.worker_mut(worker).draining = true;
            let epoch = self.worker(worker).facts.epoch;
            self.hunger.draining_for.insert(line, (worker, epoch));
            orders.push(Order::Drain { worker, epoch });
            self.refresh(worker);
        }
    }

    pub(super) fn lease(&mut self, now: Instant, index: WorkerIndex, rank: Rank, orders: &mut Orders) {
        let build = rank.build;
        let epoch = self.worker(index).facts.epoch;
        let line = self.queue.line_of_need(self.queue.builds[&build].need);
        self.queue.makes_progress(now, line);
        self.queue.set_place(build, Place::Leasing { worker: index, epoch });
        self.pass_over(now, index, rank);
        let worker = self.worker_mut(index);
        worker.gives_place(build);
        worker.fresh = false;
        orders.push(Order::Lease { worker: index, epoch, build });
        self.refresh(index);
    }

    /// The build of `rank` gets a place of this worker, which others that wait could have used.
    fn pass_over(&mut self, now: Instant, index: WorkerIndex, rank: Rank) {
        if self.queue.nobody_waits() {
            return;
        }
        let routes: Vec<RouteIndex> = self.labels.routes_of(index).collect();
        let config = &self.config;
        let learned = &self.learned;
        let patience = |line: &Line| {
            let start = line.kinds.iter().find_map(|kind| learned.starts.expected(*kind)).unwrap_or(0.0);
            let time = Duration::try_from_secs_f64(start * config.patience).unwrap_or(Duration::MAX);
            time.max(config.minimum_patience)
        };
        for route in routes {
            self.queue.passed_over(route, rank, now, patience);
        }
    }

    // ---- questions

    /// Notes whether the driver of this worker could be asked about another kind.
    pub(super) fn note_curiosity(&mut self, index: WorkerIndex) {
        if self.worker(index).is_curious() {
            self.hunger.curious.insert(index);
        } else {
            self.hunger.curious.remove(&index);
        }
    }

    /// Asks each driver with a free place about the best claim that it was not asked about.
    pub(super) fn ask_fits(&mut self, orders: &mut Orders) {
        let curious: Vec<WorkerIndex> = self.hunger.curious.iter().copied().collect();
        for index in curious {
            let worker = self.worker(index);
            let unknown = |line: LineIndex| {
                let asked = |kind: &&KindId| self.kinds.space(**kind) == Space::Asked;
                let kind = self.queue.line(line).kinds.iter().find(asked).copied();
                kind.filter(|kind| !worker.answers.contains_key(kind) && !worker.serves(*kind))
            };
            let heads = self.labels.routes_of(index).flat_map(|route| self.queue.heads(route));
            let best = heads.filter_map(|(head, line)| unknown(line).map(|kind| (head, kind))).min();
            let Some((_, kind)) = best else { continue };
            let epoch = worker.facts.epoch;
            let properties = self.kinds.properties(kind).expect("a kind that is asked about has properties").clone();
            self.kinds.hold(kind);
            self.worker_mut(index).answers.insert(kind, None);
            self.hunger.questions.insert((kind, index));
            orders.push(Order::AskFit { worker: index, epoch, properties });
            self.refresh(index);
            self.queue.touch_lines_of(kind);
        }
    }
}

#[cfg(test)]
impl Placement {
    /// Panics unless every index is as what the workers said and were told makes it. To be called after a plan.
    /// `constant`: what is expected does not change.
    pub(super) fn check(&mut self, constant: bool) {
        self.file_workers();
        self.queue.check(&self.labels);
        let all = || (0..self.workers.len() as u32).map(WorkerIndex);
        let of_workers: Vec<_> = all()
            .map(|index| {
                let worker = self.worker(index);
                (worker.shelf(self.labels.labels(index).len()), worker.shares())
            })
            .collect();
        self.labels.check(&of_workers, &self.queue.routes());
        let mut holders = self.queue.holders();
        holders.extend(self.learned.known().chain(self.blame.holders()));
        let mut starters: BTreeMap<KindId, BTreeSet<_>> = BTreeMap::new();
        let mut starts: BTreeMap<BuildId, u32> = BTreeMap::new();
        let (mut questions, mut curious) = (BTreeSet::new(), BTreeSet::new());
        for index in all() {
            let worker = self.worker(index);
            holders.extend(worker.kind.into_iter().chain(worker.answers.keys().copied()));
            questions.extend(worker.question().map(|kind| (kind, index)));
            if worker.is_curious() {
                curious.insert(index);
            }
            holders.extend(worker.demand.as_ref().map(|demand| demand.kind));
            holders.extend(worker.brought_up.map(|up| up.kind));
            if let Some(demand) = worker.starting() {
                starters.entry(demand.kind).or_default().insert((Reverse(demand.since), index));
                *starts.entry(demand.occasion).or_default() += 1;
            }
        }
        let timers: BTreeSet<_> = all().filter_map(|index| Some((self.worker(index).timer?, index))).collect();
        assert_eq!(self.timers, timers);
        self.kinds.check(&holders);
        assert_eq!(self.hunger.starters, starters);
        assert_eq!(self.hunger.questions, questions);
        assert_eq!(self.hunger.curious, curious);
        for (id, entry) in self.queue.builds.iter() {
            assert_eq!(entry.starts, starts.get(id).copied().unwrap_or(0), "the starts for {id}");
        }
        if self.shut_down {
            return;
        }
        if constant {
            for line in self.queue.lines() {
                // One that needs none any more is found out when its turn comes.
                let known = self.hunger.urgency.contains_key(&line);
                assert!(known || self.urgency(line).is_none(), "{line:?} needs an instance");
            }
        }
        let lines: BTreeSet<_> = self
            .hunger
            .lines
            .iter()
            .flat_map(|(route, of)| of.iter().map(|(urgency, line)| (*line, (*route, *urgency))))
            .collect();
        assert_eq!(lines, self.hunger.urgency.iter().map(|(line, urgency)| (*line, *urgency)).collect());
    }
}
