//! What others want to know of the queue. Nothing here changes it.

use super::labels::RouteIndex;
use super::queue::{Entry, Place};
use super::{Placement, WorkerIndex};
use crate::build::BuildId;
use crate::event::{BuildState, BuildStatus};
use crate::lifecycle::Standing;

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
    pub(crate) fn status(&self, id: BuildId) -> Option<BuildStatus> {
        let entry = self.queue.builds.get(&id)?;
        let name = |worker: WorkerIndex| self.worker(worker).name.clone();
        let state = match entry.place {
            Place::Running { worker, .. } | Place::Leasing { worker, .. } => {
                BuildState::Running { worker: name(worker) }
            }
            Place::Waiting | Place::Paused { .. } | Place::Nowhere => match self.started_for(id, entry) {
                Some(worker) => BuildState::Starting { worker: name(worker) },
                None => self.waiting_state(entry),
            },
        };
        Some(BuildStatus { id, state, history: self.history(id) })
    }

    fn started_for(&self, id: BuildId, entry: &Entry) -> Option<WorkerIndex> {
        let all = || (0..self.workers.len() as u32).map(WorkerIndex);
        let is_occasion = |worker: &WorkerIndex| {
            self.worker(*worker).demand.as_ref().is_some_and(|demand| demand.occasion == id && !demand.cancelled)
        };
        (entry.starts > 0).then(|| all().find(is_occasion)).flatten()
    }

    fn waiting_state(&self, entry: &Entry) -> BuildState {
        let need = self.queue.need(entry.need);
        let line = self.queue.line(self.queue.line_of_need(entry.need));
        let standings = self.standings(need.route);
        let is_closed = |standing: &Standing| match standing {
            Standing::Closed => true,
            Standing::Attached { open, .. } => !open,
            _ => false,
        };
        let fitting = standings.len();
        let closed = standings.iter().filter(|(standing, free)| is_closed(standing) || !free).count();
        BuildState::Waiting { ahead: line.waiting.range(..entry.rank).count(), fitting, open: fitting - closed, closed }
    }

    /// How the workers that fit a route stand, and whether they have room.
    fn standings(&self, route: RouteIndex) -> Vec<(Standing, bool)> {
        let all = (0..self.workers.len() as u32).map(WorkerIndex);
        let fitting = all.filter(|worker| self.labels.fits(*worker, route)).map(|worker| self.worker(worker));
        fitting.map(|worker| (worker.facts.standing, !worker.is_attached() || worker.free() > 0)).collect()
    }
}
