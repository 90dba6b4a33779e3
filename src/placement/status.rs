//! What others want to know of the queue. Nothing here changes what it does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::Placement;
use super::blame::Paused;
use super::kinds::ANY;
use super::labels::Readiness;
use super::queue::{Entry, Place, Rank};
use crate::build::{Build, BuildId};
use crate::build_status::{
    BuildState, BuildStatus, LONGEST_COUNT, NextChance, Obstacle, QueuePage, QueuePosition, QueuedBuild, Waiting,
};

impl Placement {
    /// Whether a change of a worker can make a difference: a build waits, or a start is under way.
    pub(crate) fn wants_facts(&self) -> bool {
        self.queue.waiting() > 0 || self.hunger.is_starting()
    }

    /// Whether the lease of the build is out.
    pub(crate) fn runs(&self, id: BuildId) -> bool {
        matches!(self.queue.place(id), Some(Place::Running { .. }))
    }

    /// Where the build is, unless it has ended.
    pub(crate) fn status(&mut self, now: Instant, id: BuildId) -> Option<BuildStatus> {
        self.file_workers();
        let entry = self.queue.builds.get(&id)?;
        let state = match entry.place {
            Place::Running { worker, .. } | Place::Leasing { worker, .. } => {
                BuildState::Running { worker: self.worker(worker).name.clone() }
            }
            Place::Waiting | Place::Paused { .. } | Place::Nowhere => {
                BuildState::Waiting(Box::new(self.waiting_state(now, id, entry)))
            }
        };
        Some(BuildStatus { id, state, history: self.history(id) })
    }

    fn waiting_state(&self, now: Instant, id: BuildId, entry: &Entry) -> Waiting {
        let route = self.queue.need(entry.need).route;
        let line = self.queue.line(self.queue.line_of_need(entry.need));
        let obstacles = self.labels.obstacles(route).into_iter().map(|(reason, workers, example)| Obstacle {
            reason,
            workers,
            example: self.worker(example).name.clone(),
        });
        Waiting {
            // Where kinds do not matter there is nothing to tell.
            kinds: line.kinds.iter().filter(|kind| **kind != ANY).map(|kind| self.kinds.name(*kind)).collect(),
            ahead: line.waiting.range(..entry.rank(id)).take(LONGEST_COUNT).count(),
            obstacles: obstacles.collect(),
            next: self.next_chance(now, id, entry),
        }
    }

    fn next_chance(&self, now: Instant, id: BuildId, entry: &Entry) -> NextChance {
        let remaining = |until: Instant| until.saturating_duration_since(now);
        if let Place::Paused { until } = entry.place {
            return NextChance::Pause { remaining: remaining(until) };
        }
        let line = self.queue.line(self.queue.line_of_need(entry.need));
        if line.kinds.is_empty() {
            return NextChance::Question;
        }
        let starters = || line.kinds.iter().flat_map(|kind| self.hunger.starters_of(*kind));
        // The start that is for this build, or else the one that was ordered first.
        let first = || starters().filter_map(|worker| Some((self.worker(worker).demand.as_ref()?, worker)));
        let own = first().find(|(demand, _)| demand.occasion == id);
        if let Some((demand, worker)) = own.or_else(|| first().min_by_key(|(demand, _)| demand.since)) {
            return NextChance::Attach {
                worker: self.worker(worker).name.clone(),
                elapsed: now.saturating_duration_since(demand.since),
                expected: self.learned.starts.expected(demand.kind).and_then(|it| Duration::try_from_secs_f64(it).ok()),
            };
        }
        let paused = line.kinds.iter().map(|kind| self.blame.paused_until(Paused::Kind(*kind)));
        if let Some(until) = paused.min().flatten() {
            return NextChance::KindPause { remaining: remaining(until) };
        }
        // Nothing is up, and nothing is started: no place becomes free before that.
        let pauses = self.labels.groups(line.route).map(|(group, _)| {
            let until = self.blame.paused_until(Paused::Driver(group.driver));
            until.filter(|_| group.readiness != Readiness::Attached)
        });
        if let Some(until) = pauses.min().flatten() {
            return NextChance::DriverPause { remaining: remaining(until) };
        }
        match line.patience() {
            Some(until) if line.waiting.first() == Some(&entry.rank(id)) => {
                NextChance::Patience { remaining: remaining(until) }
            }
            _ => NextChance::Place,
        }
    }

    /// A page of the builds that wait, `limit` of them at most. `build_of`: a build that has not ended.
    pub(crate) fn page(
        &mut self,
        now: Instant,
        from: Option<QueuePosition>,
        limit: usize,
        build_of: impl Fn(BuildId) -> Build,
    ) -> QueuePage {
        self.file_workers();
        let from = from.map(|QueuePosition { key, build }| Rank { key, build });
        // The next build of each line, the best claim first.
        let mut lines: Vec<_> = self
            .queue
            .lines()
            .map(|line| match from {
                Some(from) => self.queue.line(line).waiting.range(from..),
                None => self.queue.line(line).waiting.range(..),
            })
            .collect();
        let mut nexts: BinaryHeap<_> =
            lines.iter_mut().enumerate().filter_map(|(at, line)| Some(Reverse((*line.next()?, at)))).collect();
        let mut waiting = Vec::new();
        while waiting.len() < limit
            && let Some(Reverse((rank, at))) = nexts.pop()
        {
            waiting.push(self.queued(now, rank.build, &build_of(rank.build)));
            nexts.extend(lines[at].next().map(|rank| Reverse((*rank, at))));
        }
        let next = nexts.pop().map(|Reverse((Rank { key, build }, _))| QueuePosition { key, build });
        let pauses = if from.is_none() { limit } else { 0 };
        let paused = self.queue.pauses().take(pauses).map(|build| self.queued(now, build, &build_of(build))).collect();
        QueuePage { total: self.queue.waiting(), waiting, paused, next }
    }

    fn queued(&self, now: Instant, id: BuildId, build: &Build) -> QueuedBuild {
        let entry = &self.queue.builds[&id];
        let paused = match entry.place {
            Place::Paused { until } => Some(until.saturating_duration_since(now)),
            _ => None,
        };
        QueuedBuild {
            id,
            name: build.name().clone(),
            priority: build.priority(),
            failed_attempts: entry.past.as_ref().map_or(0, |past| past.attempts),
            paused,
        }
    }
}
