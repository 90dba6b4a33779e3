//! The builds that have not ended: what each waits for, in which order, and since when it has been passed over.
//!
//! Builds with the same labels and properties share a *need*; needs that the same kinds of instances can serve share a
//! *line*. A line is ordered by [`Rank`] and is served from its head. A build that pauses is in no line.

#[cfg(test)]
mod check;
mod needs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WorkerIndex;
use super::ids::IdMap;
use super::kinds::{ANY, KindId, Kinds};
use super::labels::{LabelIndex, RouteIndex};
use super::sorted::SortedMap;
use crate::build::{Build, BuildId, Epoch, Properties};
use crate::error::Attempt;

/// As many attempts of a build are remembered: the first one and the latest ones.
const LONGEST_HISTORY: usize = 32;

/// The claim of a build: what goes first has the better one. It never changes, so that a build that comes back has the
/// place that it had.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct Rank {
    /// The smaller, the earlier.
    pub(super) key: i64,
    pub(super) build: BuildId,
}

/// A claim better than that of every build.
const NOBODY: Rank = Rank { key: i64::MIN, build: BuildId(0) };

#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct NeedIndex(u32);

#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct LineIndex(u32);

/// Where a build is.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub(super) enum Place {
    /// In its line.
    Waiting,
    /// Between two attempts.
    Paused { until: Instant },
    /// It was given a place, and the worker has not confirmed it yet.
    Leasing { worker: WorkerIndex, epoch: Epoch },
    Running {
        worker: WorkerIndex,
        epoch: Epoch,
        since: Instant,
        /// Its lease was seen to be taken.
        claimed: bool,
    },
    /// On its way from one place to another, or out.
    Nowhere,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The key of its rank.
    key: i64,
    pub(super) need: NeedIndex,
    pub(super) place: Place,
    /// As many starts were ordered for it and have not ended.
    pub(super) starts: u32,
    pub(super) max_attempts: Option<NonZeroU32>,
    /// Of most builds there is nothing to tell.
    pub(super) past: Option<Box<Past>>,
}

/// What is left of a build that has ended. To be dropped without a lock.
pub(crate) struct Forgotten {
    _entry: Box<Entry>,
}

/// The attempts of a build that did not work out.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    pub(super) attempts: u32,
    pub(super) history: Vec<Attempt>,
    pub(super) failed_on: BTreeSet<WorkerIndex>,
}

impl Past {
    fn failed(&mut self, worker: WorkerIndex, attempt: Attempt) {
        self.attempts += 1;
        self.failed_on.insert(worker);
        if self.history.len() == LONGEST_HISTORY {
            self.history.remove(1);
        }
        self.history.push(attempt);
    }
}

impl Entry {
    /// The claim of this build, which has this number.
    pub(super) fn rank(&self, build: BuildId) -> Rank {
        Rank { key: self.key, build }
    }

    /// Whether an attempt of this build has failed there.
    pub(super) fn avoids(&self, worker: WorkerIndex) -> bool {
        self.past.as_ref().is_some_and(|past| past.failed_on.contains(&worker))
    }
}

/// What a driver says of the kind that a need asks for.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(super) enum Said {
    /// The question is out, until then not for too long.
    Asked {
        overdue_at: Option<Instant>,
    },
    /// The question is out for too long. The answer may still come.
    Silent,
    Kind(KindId),
    /// The driver cannot make an instance for it.
    Cannot(Arc<str>),
}

#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) route: RouteIndex,
    /// `None` where no driver looks at them.
    pub(super) properties: Option<Properties>,
    asked: Option<KindId>,
    pub(super) said: BTreeMap<u32, Said>,
    line: LineIndex,
    builds: Builds,
}

/// The builds of a need: each of them as long as there are few, which is so where every build has a need of its own.
#[derive(Clone, Debug)]
enum Builds {
    Few(Vec<BuildId>),
    Many(u32),
}

/// Builds that wait for a place, and that the same instances can serve.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) route: RouteIndex,
    /// Sorted.
    pub(super) kinds: Arc<[KindId]>,
    pub(super) waiting: BTreeSet<Rank>,
    needs: u32,
    /// When its patience ends, if a younger build has been preferred to the one at its head.
    patience: Option<Instant>,
    /// The build that was preferred: all that are older have waited since then.
    preferred: Rank,
    /// When a build of it was given a place last, or when it was seen to wait for one.
    progress: Option<Instant>,
    /// When it is looked at for progress.
    watched: Option<Instant>,
    /// It makes no progress: no busy place is expected to become free any more.
    stalled: bool,
}

impl Line {
    fn new(route: RouteIndex, kinds: Arc<[KindId]>) -> Self {
        Self {
            route,
            kinds,
            waiting: BTreeSet::new(),
            needs: 1,
            patience: None,
            preferred: NOBODY,
            progress: None,
            watched: None,
            stalled: false,
        }
    }

    /// Whether its builds have waited in vain for a place that was expected to become free.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// When its patience ends, if a younger build has been preferred to the one at its head.
    pub(super) fn patience(&self) -> Option<Instant> {
        self.patience
    }
}

/// The first builds of lines by route, the best claim first.
type Heads = BTreeSet<(RouteIndex, Rank, LineIndex)>;

/// Those of one route.
fn of_route(heads: &Heads, route: RouteIndex) -> impl Iterator<Item = (Rank, LineIndex)> {
    let first = (route, NOBODY, LineIndex(0));
    heads.range(first..).take_while(move |(of, ..)| *of == route).map(|(_, head, line)| (*head, *line))
}

#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    /// In order, so that those that are about to run are close together in memory.
    pub(super) builds: SortedMap<BuildId, Box<Entry>>,
    needs: Slab<Need>,
    need_index: HashMap<(RouteIndex, Option<Properties>), NeedIndex>,
    needs_of: BTreeMap<RouteIndex, BTreeSet<NeedIndex>>,
    /// The need of the build that was submitted last: the next build may well have it too, which is found out sooner than
    /// it is looked up.
    recent: Option<NeedIndex>,
    /// The need that lost its last build last: the next build may well have it again. Of drivers that say kinds only
    /// what they said for builds that wait is kept, so that it is none of theirs.
    spare: Option<NeedIndex>,
    lines: Slab<Line>,
    line_of: IdMap<(RouteIndex, Arc<[KindId]>), LineIndex>,
    lines_of: IdMap<KindId, BTreeSet<LineIndex>>,
    pauses: BTreeSet<(Instant, BuildId)>,
    /// Questions that drivers were asked, by when they are overdue.
    questions: BTreeSet<(Instant, NeedIndex, u32)>,
    /// Builds with an attempt that failed.
    failed: BTreeSet<BuildId>,
    /// The first build of each line.
    heads: Heads,
    /// Heads that no younger build has been preferred to.
    unpassed: Heads,
    /// Heads that are passed over and are still patient.
    patient: BTreeSet<(Instant, LineIndex)>,
    /// Heads whose patience has ended.
    pub(super) impatient: BTreeSet<(Rank, LineIndex)>,
    /// Lines that are looked at for progress.
    watched: BTreeSet<(Instant, LineIndex)>,
    waiting: usize,
    /// Lines that have changed since the plan has looked at them.
    pub(super) touched: BTreeSet<LineIndex>,
    /// Lines that have ended since then.
    pub(super) gone: Vec<LineIndex>,
    /// Kinds that fewer builds wait for since then.
    pub(super) eased: BTreeSet<KindId>,
}

/// Values by small numbers that are used again.
#[derive(Clone, Debug)]
struct Slab<T> {
    entries: Vec<Option<T>>,
    unused: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), unused: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.unused.pop() {
            self.entries[index as usize] = Some(value);
            return index;
        }
        self.entries.push(Some(value));
        u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 entries")
    }

    fn get(&self, index: u32) -> &T {
        self.entries[index as usize].as_ref().expect("the entry exists")
    }

    fn get_mut(&mut self, index: u32) -> &mut T {
        self.entries[index as usize].as_mut().expect("the entry exists")
    }

    fn remove(&mut self, index: u32) -> T {
        self.unused.push(index);
        self.entries[index as usize].take().expect("the entry exists")
    }
}

/// Builds.
impl Queue {
    /// A new build, which is in no line yet. `need` was held for it.
    pub(super) fn insert(&mut self, rank: Rank, max_attempts: Option<NonZeroU32>, need: NeedIndex) {
        let entry = Entry { key: rank.key, need, place: Place::Nowhere, starts: 0, max_attempts, past: None };
        self.builds.insert(rank.build, Box::new(entry));
        self.hold_need(need, rank.build);
        self.recent = Some(need);
    }

    /// The build has ended.
    pub(super) fn remove(&mut self, id: BuildId, labels: &mut LabelIndex, kinds: &mut Kinds) -> Option<Forgotten> {
        self.set_place(id, Place::Nowhere);
        let entry = self.builds.remove(&id)?;
        self.failed.remove(&id);
        self.release_need(entry.need, id, labels, kinds);
        Some(Forgotten { _entry: entry })
    }

    /// An attempt of a build has failed.
    pub(super) fn failed(&mut self, id: BuildId, worker: WorkerIndex, attempt: Attempt) -> Option<&mut Past> {
        let past = self.builds.get_mut(&id)?.past.get_or_insert_default();
        past.failed(worker, attempt);
        self.failed.insert(id);
        Some(past)
    }

    /// A worker has come into use or out of use: builds that have failed elsewhere may have to go to other workers now.
    pub(super) fn touch_failed(&mut self, worker: WorkerIndex, labels: &LabelIndex) {
        for id in &self.failed {
            let need = self.need(self.builds[id].need);
            if labels.fits(worker, need.route) {
                self.touched.insert(need.line);
            }
        }
    }

    /// Builds that have failed may have to go back to where they have.
    pub(super) fn touch_all_failed(&mut self) {
        let lines = self.failed.iter().map(|id| self.line_of_need(self.builds[id].need));
        let lines: Vec<LineIndex> = lines.collect();
        self.touched.extend(lines);
    }

    /// Finds the kinds of all builds of a route anew: its workers know other kinds than before.
    pub(super) fn renew_route(
        &mut self,
        route: RouteIndex,
        build_of: impl Fn(BuildId) -> Build,
        labels: &mut LabelIndex,
        kinds: &mut Kinds,
    ) {
        let needs: Vec<NeedIndex> = self.needs_of(route).collect();
        let of_route: Vec<BuildId> =
            self.builds.iter().filter(|(_, entry)| needs.contains(&entry.need)).map(|(id, _)| *id).collect();
        // All of them leave before the first one comes back: a need of before must not be found.
        let mut left = Vec::new();
        for id in of_route {
            let place = self.builds[&id].place;
            self.set_place(id, Place::Nowhere);
            left.push((id, place));
        }
        let held: Vec<_> = left.iter().map(|(id, _)| labels.hold_route(build_of(*id).labels())).collect();
        for (id, _) in &left {
            let need = self.builds[id].need;
            self.release_need(need, *id, labels, kinds);
        }
        self.spare.take().into_iter().for_each(|spare| self.remove_need(spare, labels, kinds));
        for ((id, place), route) in left.into_iter().zip(held) {
            let need = self.need_of(route.expect("workers are only added"), &build_of(id), labels, kinds);
            self.builds.get_mut(&id).expect("it is there").need = need;
            self.hold_need(need, id);
            self.set_place(id, place);
        }
    }

    pub(super) fn place(&self, id: BuildId) -> Option<Place> {
        self.builds.get(&id).map(|entry| entry.place)
    }

    /// Moves a build.
    pub(super) fn set_place(&mut self, id: BuildId, new: Place) {
        let Some(entry) = self.builds.get_mut(&id) else { return };
        let (rank, need) = (entry.rank(id), entry.need);
        let old = std::mem::replace(&mut entry.place, new);
        let line = self.need(need).line;
        match old {
            Place::Waiting => self.leave_line(line, rank, matches!(new, Place::Leasing { .. })),
            Place::Paused { until } => _ = self.pauses.remove(&(until, id)),
            Place::Leasing { .. } | Place::Running { .. } | Place::Nowhere => {}
        }
        match new {
            Place::Waiting => self.join_line(line, rank),
            Place::Paused { until } => _ = self.pauses.insert((until, id)),
            Place::Leasing { .. } | Place::Running { .. } | Place::Nowhere => {}
        }
    }

    /// The builds of a need that wait or pause.
    pub(super) fn waiting_of(&self, need: NeedIndex) -> Vec<BuildId> {
        let waits = |id: &BuildId| matches!(self.place(*id), Some(Place::Waiting | Place::Paused { .. }));
        match &self.need(need).builds {
            Builds::Few(builds) => builds.iter().copied().filter(waits).collect(),
            Builds::Many(_) => {
                let of_need = self.builds.iter().filter(|(_, entry)| entry.need == need);
                of_need.map(|(id, _)| *id).filter(waits).collect()
            }
        }
    }

    /// The builds that pause, the one that comes back first at the front.
    pub(super) fn pauses(&self) -> impl Iterator<Item = BuildId> {
        self.pauses.iter().map(|(_, build)| *build)
    }

    /// Whether no build is in a line.
    pub(super) fn nobody_waits(&self) -> bool {
        self.waiting == 0
    }

    /// Whether no build is in a line, and the plan has seen to all that has changed.
    pub(super) fn is_settled(&self) -> bool {
        self.nobody_waits() && self.touched.is_empty() && self.gone.is_empty() && self.eased.is_empty()
    }

    /// How many builds wait or pause.
    pub(super) fn waiting(&self) -> usize {
        self.waiting + self.pauses.len()
    }

    /// When the next pause or patience ends, or a question is overdue.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let pause = self.pauses.first().map(|(until, _)| *until);
        let patience = self.patient.first().map(|(until, _)| *until);
        let question = self.questions.first().map(|(at, ..)| *at);
        let progress = self.watched.first().map(|(at, _)| *at);
        pause.into_iter().chain(patience).chain(question).chain(progress).min()
    }

    /// Ends what has lasted long enough.
    pub(super) fn time(&mut self, now: Instant) {
        while let Some(&(until, id)) = self.pauses.first().filter(|(until, _)| *until <= now) {
            debug_assert_eq!(self.place(id), Some(Place::Paused { until }));
            self.set_place(id, Place::Waiting);
        }
        while let Some(&(at, index, driver)) = self.questions.first().filter(|(at, ..)| *at <= now) {
            self.questions.remove(&(at, index, driver));
            let need = self.needs.get_mut(index.0);
            need.said.insert(driver, Said::Silent);
            // Its builds do not wait for the workers of this driver any more.
            self.touched.insert(need.line);
        }
        while let Some(&(until, line)) = self.patient.first().filter(|(until, _)| *until <= now) {
            self.patient.remove(&(until, line));
            if let Some(&head) = self.line(line).waiting.first() {
                self.impatient.insert((head, line));
                self.touched.insert(line);
            }
        }
    }

    /// A build of this line was given a place.
    pub(super) fn makes_progress(&mut self, now: Instant, line: LineIndex) {
        let line = self.lines.get_mut(line.0);
        line.progress = Some(now);
        line.stalled = false;
    }

    /// Has the line looked at for progress, from now on or since that was last seen, after `limit`.
    pub(super) fn watch(&mut self, now: Instant, index: LineIndex, limit: Duration) {
        let line = self.lines.get_mut(index.0);
        if line.watched.is_some() || line.stalled {
            return;
        }
        line.progress = Some(now);
        line.watched = now.checked_add(limit);
        self.watched.extend(line.watched.map(|at| (at, index)));
    }

    /// The next line that is to be looked at for progress by now.
    pub(super) fn next_watched(&mut self, now: Instant) -> Option<LineIndex> {
        let (_, index) = self.watched.first().copied().filter(|(at, _)| *at <= now)?;
        self.watched.pop_first();
        self.lines.get_mut(index.0).watched = None;
        Some(index)
    }

    /// Looks for progress within `limit`.
    pub(super) fn look_for_progress(&mut self, now: Instant, index: LineIndex, limit: Duration) {
        let line = self.lines.get_mut(index.0);
        let until = line.progress.and_then(|progress| progress.checked_add(limit));
        if line.waiting.is_empty() {
            line.progress = None;
        } else if until.is_none_or(|until| until <= now) {
            line.stalled = true;
            self.touched.insert(index);
        } else {
            line.watched = until;
            self.watched.extend(until.map(|until| (until, index)));
        }
    }

    fn join_line(&mut self, line: LineIndex, rank: Rank) {
        self.change_line(line, false, |waiting| waiting.insert(rank));
        self.waiting += 1;
    }

    fn leave_line(&mut self, line: LineIndex, rank: Rank, served: bool) {
        self.eased.extend(self.lines.get(line.0).kinds.iter());
        self.change_line(line, served, |waiting| waiting.remove(&rank));
        self.waiting -= 1;
    }

    /// `served`: a build of the line gets a place.
    fn change_line(&mut self, index: LineIndex, served: bool, change: impl FnOnce(&mut BTreeSet<Rank>) -> bool) {
        let line = self.lines.get_mut(index.0);
        let before = line.waiting.first().copied();
        change(&mut line.waiting);
        self.touched.insert(index);
        let after = line.waiting.first().copied();
        if before == after {
            return;
        }
        // A head that leaves without a place does not take the patience of those with it that have waited as long.
        let goes_on = !served && after.is_some_and(|after| after < line.preferred);
        let (route, patience) = (line.route, line.patience.take_if(|_| !goes_on));
        if line.patience.is_none() {
            line.preferred = NOBODY;
            self.unpassed.extend(after.map(|after| (route, after, index)));
        }
        self.heads.extend(after.map(|after| (route, after, index)));
        if let Some(before) = before {
            self.heads.remove(&(route, before, index));
            self.unpassed.remove(&(route, before, index));
            if self.impatient.remove(&(before, index)) && goes_on {
                self.impatient.extend(after.map(|after| (after, index)));
            }
        }
        if let Some(until) = patience {
            self.patient.remove(&(until, index));
        }
    }

    /// The heads of all lines of a route, the best claim first.
    pub(super) fn heads(&self, route: RouteIndex) -> impl Iterator<Item = (Rank, LineIndex)> {
        of_route(&self.heads, route)
    }

    /// A build of `rank` was given a place that the heads of this route could use: those with a better claim have been
    /// passed over. `patience` says until when they accept that.
    pub(super) fn passed_over(
        &mut self,
        route: RouteIndex,
        rank: Rank,
        now: Instant,
        patience: impl Fn(&Line) -> Duration,
    ) {
        loop {
            let first = of_route(&self.unpassed, route).next();
            let Some((head, index)) = first.filter(|(head, _)| *head < rank) else { return };
            let line = self.lines.get_mut(index.0);
            let until = now.checked_add(patience(line));
            line.patience = until;
            line.preferred = rank;
            // Patience without an end never gets impatient.
            if let Some(until) = until {
                self.patient.insert((until, index));
            }
            self.unpassed.remove(&(route, head, index));
        }
    }
}
