//! Which instances are started for the lines that wait, and which starts are cancelled.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::fleet::Demand;
use super::kinds::{KindId, Space};
use super::labels::{RouteIndex, SHELVES, Shelf};
use super::plan::Urgency;
use super::queue::{Line, LineIndex, Rank};
use super::{Order, Orders, Placement, WorkerIndex};
use crate::build::BuildId;

impl Placement {
    /// Places of this line's kinds that are on their way.
    pub(super) fn starting(&self, line: &Line) -> usize {
        let supplies = line.kinds.iter().filter_map(|kind| self.labels.supply(line.route, *kind));
        supplies.map(|supply| supply.starting).sum()
    }

    /// Whether the builds of a line can use nothing but what those of another one can use.
    fn is_within(&self, inner: &Line, outer: &Line) -> bool {
        let fits = || self.labels.needed(inner.route).contains_all(self.labels.needed(outer.route));
        inner.kinds.iter().all(|kind| outer.kinds.contains(kind)) && (inner.route == outer.route || fits())
    }

    /// The lines with builds that count those of this line as theirs.
    pub(super) fn lines_around(&self, index: LineIndex) -> impl Iterator<Item = LineIndex> {
        let line = self.queue.line(index);
        let others = line.kinds.first().into_iter().flat_map(|kind| self.queue.lines_of(*kind));
        others.filter(move |other| {
            let outer = self.queue.line(*other);
            *other != index && !outer.waiting.is_empty() && self.is_within(line, outer)
        })
    }

    /// Builds of this line, and of lines that can use nothing but what this one can use.
    pub(super) fn demand(&self, line: &Line) -> usize {
        // Each of them is counted with the first one of its kinds.
        let first_of = |kind: KindId| {
            let lines = self.queue.lines_of(kind).map(|index| self.queue.line(index));
            lines.filter(move |other| other.kinds.first() == Some(&kind))
        };
        let lines = line.kinds.iter().flat_map(|kind| first_of(*kind)).filter(|other| self.is_within(other, line));
        let others: usize = lines.map(|other| other.waiting.len()).sum();
        // A line whose kinds are not known yet is not among those of its kinds.
        if line.kinds.is_empty() { line.waiting.len() } else { others }
    }

    /// How many more places this line wants on their way. Free places do not count: a build that waits beside one has
    /// failed there, and goes elsewhere.
    pub(super) fn wanted(&self, line: &Line) -> usize {
        let mut supply = 0;
        let mut expected = 0.0;
        for kind in line.kinds.iter() {
            let Some(of_kind) = self.labels.supply(line.route, *kind) else { continue };
            supply += of_kind.starting;
            if let (Some(start), Some(build)) =
                (self.learned.starts.expected(*kind), self.learned.builds.expected(*kind))
                && !line.is_stalled()
            {
                // One that is starting becomes free again within the horizon as well, halfway through on average.
                let places = of_kind.busy as f64 + of_kind.starting as f64 / 2.0;
                expected += places * self.config.horizon * start / build.max(0.001);
            }
        }
        let being_asked = self.asking(line);
        self.demand(line).saturating_sub(supply + being_asked + expected as usize)
    }

    /// A line without progress for so long is stalled: a place was expected to become free within the horizon, and no build
    /// has ended in several times what it takes until one of those that run ends. `None` where nothing is known of
    /// durations.
    fn stalls_after(&self, index: LineIndex) -> Option<Duration> {
        let line = self.queue.line(index);
        let supplies = line.kinds.iter().filter_map(|kind| self.labels.supply(line.route, *kind));
        let busy = supplies.map(|supply| supply.busy).sum::<usize>().max(1);
        let seconds = line.kinds.iter().find_map(|kind| {
            let (start, build) = (self.learned.starts.expected(*kind)?, self.learned.builds.expected(*kind)?);
            Some(self.config.horizon * start + self.config.stalled * build / busy as f64)
        })?;
        Duration::try_from_secs_f64(seconds).ok().map(|limit| limit.max(self.config.minimum_patience))
    }

    /// Whether a line that waits still makes progress.
    pub(super) fn look_for_progress(&mut self, now: Instant, index: LineIndex) {
        if let Some(limit) = self.stalls_after(index) {
            self.queue.look_for_progress(now, index, limit);
        }
    }

    /// Free places whose driver is being asked whether they fit this line.
    pub(super) fn asking(&self, line: &Line) -> usize {
        let asked = line.kinds.iter().filter(|kind| self.kinds.space(**kind) == Space::Asked);
        let questions = asked
            .flat_map(|kind| self.hunger.questions.range((*kind, WorkerIndex(0))..=(*kind, WorkerIndex(u32::MAX))));
        let workers = questions.map(|(_, worker)| *worker);
        let answering = workers.filter(|worker| !self.worker(*worker).overdue && self.labels.fits(*worker, line.route));
        answering.map(|worker| self.worker(worker).free()).sum()
    }

    /// Places of this line's kinds, busy, free or on their way.
    pub(super) fn places(&self, line: &Line) -> usize {
        let supplies = line.kinds.iter().filter_map(|kind| self.labels.supply(line.route, *kind));
        supplies.map(|supply| supply.busy + supply.free_places + supply.starting).sum()
    }

    /// How long the waiting builds of this line run in all, in seconds; zero where nothing is known of durations.
    pub(super) fn backlog(&self, line: &Line) -> f64 {
        let build = line.kinds.iter().find_map(|kind| self.learned.builds.expected(*kind)).unwrap_or(0.0);
        line.waiting.len() as f64 * build
    }

    /// How long they would keep one more place than there are busy, in seconds.
    pub(super) fn crowd(&self, line: &Line) -> f64 {
        self.backlog(line) / (self.places(line) + 1) as f64
    }

    /// Finds out how urgently a line needs an instance.
    pub(super) fn weigh(&mut self, now: Instant, index: LineIndex) {
        let urgency = self.urgency(index);
        self.hunger.set(index, urgency);
        // Where something is started, nothing else is expected.
        let waits = urgency.is_none() && !self.queue.line(index).waiting.is_empty();
        if let Some(limit) = self.stalls_after(index).filter(|_| waits) {
            self.queue.watch(now, index, limit);
        }
        let line = self.queue.line(index);
        let start = line.kinds.iter().find_map(|kind| self.learned.starts.expected(*kind));
        let least = self.config.minimum_patience.as_secs_f64();
        let is_crowded = start.is_some_and(|start| self.crowd(line) > self.config.crowding.starts * start.max(least));
        let head = line.waiting.first().copied();
        self.hunger.set_crowded(index, head.filter(|_| is_crowded));
    }

    /// How urgently a line needs an instance, if it needs one.
    pub(super) fn urgency(&self, index: LineIndex) -> Option<(RouteIndex, Urgency)> {
        let line = self.queue.line(index);
        let head = line.waiting.first().filter(|_| self.wanted(line) > 0)?;
        let impatient = self.queue.impatient.contains(&(*head, index));
        let suspect = line.kinds.iter().any(|kind| self.blame.is_suspect(*kind));
        let crowd = self.crowd(line);
        // Where nothing is known of durations, the claim decides.
        let claim = if impatient || crowd == 0.0 { *head } else { Rank { key: head.key, build: BuildId(0) } };
        Some((line.route, Urgency { suspect, patient: !impatient, claim, backlog: Reverse((crowd * 1000.0) as u64) }))
    }

    pub(super) fn start_instances(&mut self, now: Instant, orders: &mut Orders) {
        let mut ready = BTreeSet::new();
        self.weigh_touched(now, &mut ready);
        for shelf in SHELVES {
            let mut skipped: BTreeSet<LineIndex> = BTreeSet::new();
            while let Some((line, worker, occasion)) = self.next_start(now, shelf, &mut skipped, orders) {
                self.start(now, worker, line, occasion, orders);
                self.weigh_touched(now, &mut ready);
            }
        }
        // Looked at for places again by the next round.
        self.queue.touched.extend(ready.into_iter().map(|(_, line)| line));
    }

    /// Cancels starts that no waiting build needs any more.
    pub(super) fn cancel_surplus(&mut self, orders: &mut Orders) {
        for kind in std::mem::take(&mut self.queue.eased) {
            let starters: Vec<WorkerIndex> = self.hunger.starters_of(kind).collect();
            for index in starters {
                let worker = self.worker(index);
                let overdue = worker.demand.as_ref().is_some_and(|demand| demand.overdue);
                let places = if overdue { 0 } else { worker.max_builds };
                let is_needed = |line: LineIndex| {
                    let line = self.queue.line(line);
                    let supplies = line.kinds.iter().filter_map(|kind| self.labels.supply(line.route, *kind));
                    let supply: usize = supplies.map(|supply| supply.starting).sum();
                    !line.waiting.is_empty()
                        && self.labels.fits(index, line.route)
                        && self.demand(line) > supply.saturating_sub(places)
                };
                if worker.has_come()
                    || worker.demand.as_ref().is_none_or(|demand| demand.cancelled)
                    || self.queue.lines_of(kind).any(is_needed)
                {
                    continue;
                }
                self.worker_mut(index).demand.as_mut().expect("it has one").cancelled = true;
                orders.push(Order::CancelStart { worker: index });
                self.refresh(index);
            }
        }
    }

    /// The most urgent line for which a worker on this shelf can start an instance.
    pub(super) fn next_start(
        &mut self,
        now: Instant,
        shelf: Shelf,
        skipped: &mut BTreeSet<LineIndex>,
        orders: &mut Orders,
    ) -> Option<(LineIndex, WorkerIndex, BuildId)> {
        loop {
            let with_worker = |route: &RouteIndex| self.labels.first(*route, shelf, |_| true).is_some();
            let routes = self.hunger.lines.iter().filter(|(route, _)| with_worker(route));
            let firsts = routes.filter_map(|(_, lines)| lines.iter().find(|(_, line)| !skipped.contains(line)));
            let (_, line) = firsts.min().copied()?;
            // Lines within it may need less by now.
            if self.wanted(self.queue.line(line)) == 0 {
                self.weigh(now, line);
                continue;
            }
            match self.choose_worker(now, shelf, line, orders) {
                Some((worker, occasion)) => return Some((line, worker, occasion)),
                None => skipped.insert(line),
            };
        }
    }

    /// A worker on this shelf that can start an instance for the line, and the build that is the occasion: the first one
    /// that no other start is called for.
    pub(super) fn choose_worker(
        &mut self,
        now: Instant,
        shelf: Shelf,
        index: LineIndex,
        orders: &mut Orders,
    ) -> Option<(WorkerIndex, BuildId)> {
        let line = self.queue.line(index);
        let route = line.route;
        let head = line.waiting.first()?.build;
        let mut found = None;
        self.next_occasion(index, |build| {
            let suits = |worker| self.suits(shelf, worker, index) && !self.avoids(build, worker, route);
            found = self.labels.first(route, shelf, suits).map(|worker| (worker, build));
            found.is_some()
        });
        if found.is_some() || self.labels.speakers(route) == 0 {
            return found;
        }
        let entry = &self.queue.builds[&head];
        // A driver that says kinds and was not asked about this build.
        let need = entry.need;
        let unknown = |worker: WorkerIndex| {
            let worker = self.worker(worker);
            matches!(worker.space, Space::Said(_)) && !self.queue.need(need).said.contains_key(&worker.driver)
        };
        let worker = self.labels.first(route, shelf, unknown)?;
        let driver = self.worker(worker).driver;
        self.speak(now, driver, orders);
        self.ask_kind(now, driver, need, orders);
        None
    }

    pub(super) fn suits(&self, shelf: Shelf, worker: WorkerIndex, line: LineIndex) -> bool {
        let Some(kind) = self.kind_for(worker, line).filter(|kind| self.is_permitted(worker, *kind)) else {
            return false;
        };
        match shelf {
            Shelf::Down | Shelf::Stopping => true,
            Shelf::Unused if !self.worker(worker).is_attached() => true,
            // Only what was found not to fit is replaced.
            Shelf::Unused => match self.worker(worker).answers.get(&kind) {
                Some(answer) => *answer == Some(false),
                None => {
                    let is_known = self.worker(worker).space != Space::Asked && !self.unnamed.contains(&worker);
                    is_known && !self.worker(worker).serves(kind)
                }
            },
        }
    }

    /// The build of a line that the next start is for and that `may_be` it: the first one that no start is for, or whose
    /// starts are all overdue. If every build has a start that is on its way, the head.
    pub(super) fn next_occasion(&self, index: LineIndex, mut may_be: impl FnMut(BuildId) -> bool) -> Option<Rank> {
        let waiting = &self.queue.line(index).waiting;
        let mut all_have_one = true;
        for rank in waiting.iter().filter(|rank| self.queue.builds[&rank.build].starts == 0) {
            all_have_one = false;
            if may_be(rank.build) {
                return Some(*rank);
            }
            // All that follow can have no other workers than this one.
            self.queue.builds[&rank.build].past.as_ref()?;
        }
        let overdue = self.overdue_occasions(index);
        let mut others = overdue.into_iter().chain(waiting.first().copied().filter(|_| all_have_one));
        others.find(|rank| may_be(rank.build))
    }

    /// The builds of a line whose starts are all overdue.
    fn overdue_occasions(&self, index: LineIndex) -> BTreeSet<Rank> {
        let line = self.queue.line(index);
        let starters = || line.kinds.iter().flat_map(|kind| self.hunger.starters_of(*kind));
        let demands = || starters().filter_map(|worker| self.worker(worker).demand.as_ref());
        let rank = |demand: &Demand| {
            let entry = self.queue.builds.get(&demand.occasion)?;
            Some(entry.rank(demand.occasion)).filter(|rank| line.waiting.contains(rank))
        };
        let mut overdue: BTreeSet<Rank> = demands().filter(|demand| demand.overdue).filter_map(rank).collect();
        if !overdue.is_empty() {
            let on_its_way = demands().filter(|demand| !demand.overdue).filter_map(rank);
            on_its_way.for_each(|rank| _ = overdue.remove(&rank));
        }
        overdue
    }

    /// Orders an instance for a line. The start is called for `occasion`, unless that finds a place before.
    pub(super) fn start(
        &mut self,
        now: Instant,
        index: WorkerIndex,
        line: LineIndex,
        occasion: BuildId,
        orders: &mut Orders,
    ) {
        let Some(kind) = self.kind_for(index, line) else { return };
        self.change_starts(occasion, |starts| starts + 1);
        self.hunger.started(kind, now, index);
        self.kinds.hold(kind);
        let worker = self.worker_mut(index);
        let replaces = worker.has_instance().then_some(worker.facts.epoch);
        worker.draining |= replaces.is_some();
        let demand = Demand {
            occasion,
            kind,
            since: now,
            called: None,
            replaces,
            overdue: false,
            has_come: false,
            cancelled: false,
            ended: None,
        };
        worker.demand = Some(demand);
        orders.push(Order::Start { worker: index, replace: replaces });
        self.refresh(index);
        self.set_timer(now, index);
    }
}
