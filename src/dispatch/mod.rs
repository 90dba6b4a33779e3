//! Many workers, many builds: the queue, and the choice of who gets what.
//!
//! Pure: what happened comes in through the methods of [`Dispatch`], what is to be done goes out as [`Order`]s. It knows
//! of a worker only the [`Facts`] that it was told, which may be out of date: it is optimistic, and a worker may refuse.
//! It knows nothing of time, of driver calls or of why a worker is closed.
//!
//! What it relies on: every [`Order::Assign`] is carried out or refused, then reported with [`Dispatch::assigned`],
//! answered exactly once with [`Dispatch::answered`], and followed by facts of that worker of a new version, whatever
//! came of it. These three may come in any order. After every change [`Dispatch::dispatch`] is called.

mod index;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;
use std::sync::Arc;

use self::index::{Census, Index, Rank, RouteIndex, Shelf, Stand};
use crate::build::{Build, BuildId, Epoch, Labels};
use crate::error::{Attempt, BuildError};
use crate::event::{BuildState, BuildStatus};
use crate::lifecycle::{Fit, Openness};

/// The number of a worker: 0, 1, 2 … in the order in which they were added.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(crate) struct WorkerIndex(pub(crate) u32);

/// What a worker says about itself. A greater `version` is newer.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub(crate) struct Facts {
    pub(crate) version: u64,
    pub(crate) epoch: Epoch,
    pub(crate) openness: Openness,
}

/// Something to be done, once the lock around [`Dispatch`] is released.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) enum Order {
    /// The worker is asked to take the build.
    Assign { build: BuildId, worker: WorkerIndex, fit: Fit },
    /// The build has ended while its request was at the worker. Comes only after the assignment was carried out.
    Withdraw { build: BuildId, worker: WorkerIndex },
    /// The final answer for whoever submitted the build; exactly one, unless its lease came back for good.
    Answer { build: BuildId, error: BuildError },
    /// The lease that was granted goes to whoever submitted the build.
    Deliver { build: BuildId, history: Vec<Attempt> },
    /// The lease that was granted is dropped: the build has ended.
    DropLease { build: BuildId },
    /// The build was cancelled while it ran: its lease is marked.
    EndLease { build: BuildId },
    /// The build is in the queue again after an attempt that did not work out.
    Requeued { build: BuildId, reason: Arc<str> },
}

pub(crate) type Orders = Vec<Order>;

/// What a worker made of an assignment; exactly one answer to each.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) enum WorkerAnswer {
    /// It is attached, and there is a lease.
    Granted { epoch: Epoch },
    /// The attempt did not work out. It counts.
    Failed { epoch: Epoch, reason: Arc<str> },
    /// The build asks for what can never be.
    Cannot { reason: Arc<str> },
    /// The worker does not take it now. It does not count.
    Refused,
    /// The instance of this attempt does not suit the build. It does not count.
    Incompatible { epoch: Epoch },
    /// The worker is shut down, as everything is.
    ShutDown,
}

#[derive(Clone, Debug)]
struct Worker {
    name: Arc<str>,
    may_be_incompatible: bool,
    facts: Facts,
    availability: Availability,
}

/// Whether the facts about a worker can be trusted for another assignment.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Availability {
    Free,
    /// An assignment is on its way. `news`: newer facts have come since. `withdraw`: the build has ended since.
    Assigning {
        build: BuildId,
        news: bool,
        withdraw: bool,
    },
    /// The assignment has arrived, but the facts are still those from before it.
    AwaitsFacts,
}

impl Worker {
    fn stand(&self) -> Stand {
        if self.availability != Availability::Free {
            return Stand::Engaged;
        }
        match self.facts.openness {
            Openness::Closed => Stand::Closed,
            Openness::Attached { unused } => Stand::Attached { recyclable: unused && self.may_be_incompatible },
            Openness::Down => Stand::Down,
            Openness::Stopping => Stand::Stopping,
            // Whether an instance will suit is not known before it is attached.
            Openness::Starting if self.may_be_incompatible => Stand::Engaged,
            Openness::Starting => Stand::Joinable,
        }
    }

    fn fit(&self, shelf: Shelf) -> Fit {
        match shelf {
            _ if !self.may_be_incompatible => Fit::Always,
            Shelf::Recyclable => Fit::AskOrRecycle,
            Shelf::Attached | Shelf::Down | Shelf::Stopping | Shelf::Joinable => Fit::Ask,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    rank: Rank,
    route: RouteIndex,
    max_attempts: Option<NonZeroU32>,
    place: Place,
    /// The instances that the driver said are incompatible with this build; of each worker only the latest.
    incompatible: BTreeMap<WorkerIndex, Epoch>,
    history: Vec<Attempt>,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Place {
    Waiting,
    Assigned { worker: WorkerIndex },
    Running { worker: WorkerIndex, epoch: Epoch },
}

/// All workers and all builds that have not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dispatch {
    workers: Vec<Worker>,
    builds: BTreeMap<BuildId, Entry>,
    index: Index,
    shut_down: bool,
}

/// What is known of workers.
impl Dispatch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds the worker of the next index.
    pub(crate) fn add_worker(
        &mut self,
        index: WorkerIndex,
        name: Arc<str>,
        labels: Labels,
        may_be_incompatible: bool,
        facts: Facts,
    ) {
        assert_eq!(index.0 as usize, self.workers.len(), "workers are added in the order of their indexes");
        let worker = Worker { name, may_be_incompatible, facts, availability: Availability::Free };
        self.index.add_worker(labels);
        self.index.set_stand(index, worker.stand());
        self.workers.push(worker);
    }

    /// The worker says how it stands. What is older than what it said before is ignored.
    pub(crate) fn facts(&mut self, worker: WorkerIndex, facts: Facts) {
        let entry = &mut self.workers[worker.0 as usize];
        if facts.version <= entry.facts.version {
            return;
        }
        entry.facts = facts;
        match &mut entry.availability {
            Availability::Free => {}
            Availability::Assigning { news, .. } => *news = true,
            waiting @ Availability::AwaitsFacts => *waiting = Availability::Free,
        }
        self.index.set_stand(worker, entry.stand());
    }

    /// The order to assign the build to the worker was carried out: the worker has the request or has answered it.
    pub(crate) fn assigned(&mut self, build: BuildId, worker: WorkerIndex, orders: &mut Orders) {
        let entry = &mut self.workers[worker.0 as usize];
        let Availability::Assigning { build: expected, news, withdraw } = entry.availability else { return };
        if build != expected {
            return;
        }
        entry.availability = if news { Availability::Free } else { Availability::AwaitsFacts };
        self.index.set_stand(worker, entry.stand());
        if withdraw {
            orders.push(Order::Withdraw { build, worker });
        }
    }
}

/// What happens to builds.
impl Dispatch {
    /// A new build. One that no worker will ever take is answered at once.
    pub(crate) fn submit(&mut self, id: BuildId, build: &Build, orders: &mut Orders) {
        if self.shut_down {
            orders.push(Order::Answer { build: id, error: BuildError::ShutDown });
            return;
        }
        let needed = build.labels();
        let Some(route) = self.index.hold_route(needed) else {
            let advice = self.index.why_nobody_fits(needed).into();
            let error = BuildError::NoWorkerFits { needed: needed.clone(), advice };
            orders.push(Order::Answer { build: id, error });
            return;
        };
        let entry = Entry {
            rank: Rank::new(build.priority(), id),
            route,
            max_attempts: build.max_attempts(),
            place: Place::Waiting,
            incompatible: BTreeMap::new(),
            history: Vec::new(),
        };
        self.index.enqueue(route, entry.rank);
        self.builds.insert(id, entry);
    }

    /// The worker answers an assignment.
    pub(crate) fn answered(&mut self, build: BuildId, worker: WorkerIndex, answer: WorkerAnswer, orders: &mut Orders) {
        // There is nothing left at the worker that would have to be withdrawn.
        if let Availability::Assigning { build: expected, withdraw, .. } =
            &mut self.workers[worker.0 as usize].availability
            && *expected == build
        {
            *withdraw = false;
        }
        let assigned = self.builds.get_mut(&build).filter(|entry| entry.place == Place::Assigned { worker });
        let Some(entry) = assigned else {
            if let WorkerAnswer::Granted { .. } = answer {
                orders.push(Order::DropLease { build });
            }
            return;
        };
        match answer {
            WorkerAnswer::Granted { epoch } => {
                entry.place = Place::Running { worker, epoch };
                orders.push(Order::Deliver { build, history: entry.history.clone() });
            }
            WorkerAnswer::Failed { epoch, reason } => self.attempt_failed(build, worker, epoch, reason, orders),
            WorkerAnswer::Cannot { reason } => {
                let history = std::mem::take(&mut entry.history);
                self.conclude(build, BuildError::Cannot { reason, history }, orders);
            }
            WorkerAnswer::Refused => self.requeue(build),
            WorkerAnswer::Incompatible { epoch } => {
                entry.incompatible.insert(worker, epoch);
                self.requeue(build);
            }
            WorkerAnswer::ShutDown => self.conclude(build, BuildError::ShutDown, orders),
        }
    }

    /// Ends the build, wherever it is; `false` if it had ended already.
    pub(crate) fn cancel(&mut self, build: BuildId, orders: &mut Orders) -> bool {
        self.end(build, BuildError::Cancelled, orders)
    }

    /// Whoever has the lease of the build gives it back and wants another one.
    pub(crate) fn retry(&mut self, build: BuildId, reason: Arc<str>, orders: &mut Orders) {
        let Some(&Entry { place: Place::Running { worker, epoch }, .. }) = self.builds.get(&build) else { return };
        if self.shut_down {
            self.conclude(build, BuildError::ShutDown, orders);
        } else {
            self.attempt_failed(build, worker, epoch, reason, orders);
        }
    }

    /// The lease of the build came back, and that was the last of it; `false` if the build does not run (any more).
    pub(crate) fn finished(&mut self, build: BuildId) -> bool {
        let running = self.builds.get(&build).is_some_and(|entry| matches!(entry.place, Place::Running { .. }));
        if running {
            self.forget(build);
        }
        running
    }

    /// From now on nothing is given out any more. All builds end, except for those that run.
    pub(crate) fn shutdown(&mut self, orders: &mut Orders) {
        self.shut_down = true;
        let running = |entry: &Entry| matches!(entry.place, Place::Running { .. });
        let to_end: Vec<BuildId> =
            self.builds.iter().filter(|(_, entry)| !running(entry)).map(|(&build, _)| build).collect();
        for build in to_end {
            self.end(build, BuildError::ShutDown, orders);
        }
    }

    fn attempt_failed(
        &mut self,
        build: BuildId,
        worker: WorkerIndex,
        epoch: Epoch,
        reason: Arc<str>,
        orders: &mut Orders,
    ) {
        let Some(entry) = self.builds.get_mut(&build) else { return };
        let name = self.workers[worker.0 as usize].name.clone();
        entry.history.push(Attempt { worker: name, epoch, reason: reason.clone() });
        if entry.max_attempts.is_some_and(|most| entry.history.len() >= most.get() as usize) {
            let history = std::mem::take(&mut entry.history);
            self.conclude(build, BuildError::AttemptsExhausted { history }, orders);
        } else {
            self.requeue(build);
            orders.push(Order::Requeued { build, reason });
        }
    }

    fn requeue(&mut self, build: BuildId) {
        let Some(entry) = self.builds.get_mut(&build) else { return };
        entry.place = Place::Waiting;
        self.index.enqueue(entry.route, entry.rank);
    }

    /// Ends a build from outside, and what it has at a worker with it; `false` if it is unknown.
    fn end(&mut self, build: BuildId, error: BuildError, orders: &mut Orders) -> bool {
        let Some(place) = self.builds.get(&build).map(|entry| entry.place) else { return false };
        match place {
            Place::Waiting => {}
            Place::Assigned { worker } => match &mut self.workers[worker.0 as usize].availability {
                // A withdrawal must not overtake the assignment.
                Availability::Assigning { build: assigning, withdraw, .. } if *assigning == build => *withdraw = true,
                _ => orders.push(Order::Withdraw { build, worker }),
            },
            Place::Running { .. } => orders.push(Order::EndLease { build }),
        }
        self.conclude(build, error, orders);
        true
    }

    /// Ends a build that has nothing at a worker (any more).
    fn conclude(&mut self, build: BuildId, error: BuildError, orders: &mut Orders) {
        self.forget(build);
        orders.push(Order::Answer { build, error });
    }

    fn forget(&mut self, build: BuildId) {
        let Some(entry) = self.builds.remove(&build) else { return };
        if entry.place == Place::Waiting {
            self.index.dequeue(entry.route, entry.rank);
        }
        self.index.release_route(entry.route);
    }
}

/// The choice.
impl Dispatch {
    /// A round: gives out every build that some worker can take now.
    pub(crate) fn dispatch(&mut self, orders: &mut Orders) {
        // Giving a build out only ever takes workers away, so that one pass in the order of ranks is enough.
        let mut next: BinaryHeap<Reverse<(Rank, RouteIndex)>> = self.index.ready().map(Reverse).collect();
        while let Some(Reverse((rank, route))) = next.pop() {
            if !self.index.is_ready(route) {
                continue;
            }
            if let Some((worker, shelf)) = self.choose(rank.build) {
                self.assign(rank.build, worker, shelf, orders);
            }
            next.extend(self.index.next_after(route, rank).map(|rank| Reverse((rank, route))));
        }
    }

    /// The best worker for a build.
    fn choose(&self, build: BuildId) -> Option<(WorkerIndex, Shelf)> {
        let Entry { route, incompatible, .. } = &self.builds[&build];
        let may_suit = |worker: WorkerIndex| {
            incompatible.get(&worker).is_none_or(|epoch| *epoch != self.workers[worker.0 as usize].facts.epoch)
        };
        let on = |shelf| self.index.first(*route, shelf).map(|worker| (worker, shelf));
        let attached = self.index.first_accepted(*route, Shelf::Attached, may_suit);
        attached
            .map(|worker| (worker, Shelf::Attached))
            .or_else(|| on(Shelf::Down))
            .or_else(|| on(Shelf::Stopping))
            .or_else(|| on(Shelf::Joinable))
            .or_else(|| on(Shelf::Recyclable))
    }

    fn assign(&mut self, build: BuildId, worker: WorkerIndex, shelf: Shelf, orders: &mut Orders) {
        let Some(entry) = self.builds.get_mut(&build) else { return };
        entry.place = Place::Assigned { worker };
        self.index.dequeue(entry.route, entry.rank);
        let chosen = &mut self.workers[worker.0 as usize];
        orders.push(Order::Assign { build, worker, fit: chosen.fit(shelf) });
        chosen.availability = Availability::Assigning { build, news: false, withdraw: false };
        self.index.set_stand(worker, chosen.stand());
    }
}

/// What others may know.
impl Dispatch {
    /// How many builds wait.
    pub(crate) fn waiting(&self) -> usize {
        self.index.waiting()
    }

    /// Whether the lease of the build is out.
    pub(crate) fn runs(&self, build: BuildId) -> bool {
        self.builds.get(&build).is_some_and(|entry| matches!(entry.place, Place::Running { .. }))
    }

    /// Where the build is, unless it has ended.
    pub(crate) fn status(&self, build: BuildId) -> Option<BuildStatus> {
        let entry = self.builds.get(&build)?;
        let name = |worker: WorkerIndex| self.workers[worker.0 as usize].name.clone();
        let state = match entry.place {
            Place::Waiting => {
                let Census { fitting, open, closed } = self.index.census(entry.route);
                BuildState::Waiting { ahead: self.index.ahead(entry.route, entry.rank), fitting, open, closed }
            }
            Place::Assigned { worker } => BuildState::Starting { worker: name(worker) },
            Place::Running { worker, .. } => BuildState::Running { worker: name(worker) },
        };
        Some(BuildStatus { id: build, state, history: entry.history.clone() })
    }
}

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
