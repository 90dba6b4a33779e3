//! The queue of builds: the dispatch behind its lock, and what its orders refer to.
//!
//! Its lock is never held together with a worker's: orders are carried out on the agenda, and a worker that has changed
//! in between refuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::{Mutex, MutexGuard};

use super::cell::{Asker, Granted, WorkerCell};
use super::connection::EndSignal;
use super::lease::Lease;
use super::observers::About;
use super::shared::{Agenda, Shared, Task};
use crate::build::{Build, BuildId, Epoch};
use crate::dispatch::{Dispatch, Facts, Order, WorkerAnswer, WorkerIndex};
use crate::error::{BuildError, SubstantiateError};
use crate::event::{BuildResult, EventKind};
use crate::lifecycle::{Fit, Input, LeaseFor};

pub(super) struct Queue {
    pub(super) dispatch: Dispatch,
    /// The builds that have not ended.
    builds: HashMap<BuildId, Arc<BuildCell>>,
    last_id: u64,
    /// Whether a shutdown has begun, and whether it is a fast one.
    closed: Option<bool>,
}

/// A submitted build, from the submission to its last answer.
pub(super) struct BuildCell {
    pub(super) id: BuildId,
    pub(super) build: Build,
    /// Taken with the last answer: nothing can follow, and the channel closes though the lease may still be out.
    submitter: Mutex<Option<Submitter>>,
    /// The inbox that its answers go to, if it is one.
    inbox: Option<InboxNumber>,
    /// Set when the build is cancelled while its lease is out.
    pub(super) cancelled: EndSignal,
    /// The ticket was dropped while the lease is out. Changed under the queue's lock.
    abandoned: AtomicBool,
}

/// Where the answers to a submission go. A build has at most one lease at a time and one last answer, so that there is
/// always room.
pub(super) enum Submitter {
    Ticket(Sender<Result<Lease, BuildError>>),
    Inbox(InboxNumber, Sender<(BuildId, Result<Lease, BuildError>)>),
}

/// Tells the inboxes of one process apart.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct InboxNumber(pub(super) u64);

impl BuildCell {
    /// Returns what could not be delivered: nobody is there to take it. A lease must be given back.
    fn deliver(&self, answer: Result<Lease, BuildError>) -> Option<Result<Lease, BuildError>> {
        let mut submitter = self.submitter.lock();
        let is_last = answer.is_err();
        let undelivered = match &*submitter {
            Some(Submitter::Ticket(sender)) => sender.try_send(answer).err().map(TrySendError::into_inner),
            Some(Submitter::Inbox(_, sender)) => {
                sender.try_send((self.id, answer)).err().map(|full| full.into_inner().1)
            }
            None => Some(answer),
        };
        if is_last {
            *submitter = None;
        }
        undelivered
    }

    pub(super) fn finish(&self, error: BuildError) {
        // An error that nobody takes is lost.
        let _ = self.deliver(Err(error));
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { dispatch: Dispatch::new(), builds: HashMap::new(), last_id: 0, closed: None }
    }
}

/// One turn of the queue under its lock.
struct Turn<'a> {
    shared: &'a Shared,
    queue: MutexGuard<'a, Queue>,
    /// When it began, if somebody observes.
    observed: Option<Instant>,
    orders: Vec<Order>,
    /// The lease that the turn is about, if it is about one.
    lease: Option<Lease>,
    /// What is done when the lock is gone.
    tasks: Vec<Task>,
    delivery: Option<(Arc<BuildCell>, Lease)>,
}

impl Shared {
    /// Takes a turn of the queue. `lease` is the one that `step` may have delivered.
    fn queue_turn<R>(
        self: &Arc<Self>,
        agenda: &mut Agenda,
        lease: Option<Lease>,
        step: impl FnOnce(&mut Turn<'_>) -> R,
    ) -> R {
        let observed = self.observers.any().then(|| self.clock.now());
        let queue = self.queue.lock();
        let mut turn =
            Turn { shared: self, queue, observed, orders: Vec::new(), lease, tasks: Vec::new(), delivery: None };
        let result = step(&mut turn);
        turn.resolve_orders();
        self.waiting.store(turn.queue.dispatch.waiting(), Ordering::SeqCst);
        let Turn { queue, tasks, delivery, lease, .. } = turn;
        drop(queue);
        for task in tasks {
            agenda.push(task);
        }
        let undelivered = delivery.and_then(|(build, lease)| build.deliver(Ok(lease))).and_then(Result::ok);
        // On the agenda: the next build may get the place, and its lease may not be delivered either.
        undelivered.into_iter().chain(lease).for_each(|lease| agenda.push(Task::GiveBack(lease)));
        result
    }

    pub(super) fn submit(self: &Arc<Self>, build: Build, submitter: Submitter) -> BuildId {
        let mut agenda = Agenda::default();
        let id = self.queue_turn(&mut agenda, None, |turn| {
            turn.queue.last_id += 1;
            let id = BuildId(turn.queue.last_id);
            turn.tell(id, EventKind::BuildQueued { name: build.name().clone(), retry: None });
            let inbox = match &submitter {
                Submitter::Inbox(number, _) => Some(*number),
                Submitter::Ticket(_) => None,
            };
            let cell = BuildCell {
                id,
                build: build.clone(),
                inbox,
                submitter: Mutex::new(Some(submitter)),
                cancelled: EndSignal::new(),
                abandoned: AtomicBool::new(false),
            };
            turn.queue.builds.insert(id, Arc::new(cell));
            turn.queue.dispatch.submit(id, &build, &mut turn.orders);
            id
        });
        self.look_if_waiting(&mut agenda);
        self.perform(agenda);
        id
    }

    /// Looks at the workers that have changed and gives out what can be given out.
    pub(super) fn dispatch(self: &Arc<Self>, agenda: &mut Agenda) {
        let now = self.clock.now();
        let changed: Vec<_> = self.take_dirty().into_iter().map(|worker| (worker.index, worker.facts(now))).collect();
        self.queue_turn(agenda, None, |turn| {
            for (worker, (version, epoch, openness)) in changed {
                turn.queue.dispatch.facts(worker, Facts { version, epoch, openness });
            }
            turn.queue.dispatch.dispatch(&mut turn.orders);
        });
    }

    /// Asks a worker to take a build.
    pub(super) fn assign(self: &Arc<Self>, build: &Arc<BuildCell>, worker: WorkerIndex, fit: Fit, agenda: &mut Agenda) {
        let cell = self.worker_at(worker);
        let id = build.id;
        let asker = || Asker::Queue(id, build.build.clone());
        let answer = cell.transition(self, agenda, |turn| turn.request(fit, Some(LeaseFor(Some(id))), asker).err());
        self.queue_turn(agenda, None, |turn| turn.queue.dispatch.assigned(id, worker, &mut turn.orders));
        if let Some(granted) = answer {
            self.queue_answered(id, build.build.clone(), &cell, granted, agenda);
        }
        self.look_if_waiting(agenda);
    }

    pub(super) fn withdraw(self: &Arc<Self>, build: BuildId, worker: WorkerIndex, agenda: &mut Agenda) {
        let worker = self.worker_at(worker);
        worker.transition(self, agenda, |turn| {
            if let Some(request) = turn.inner.request_of(build) {
                turn.apply(Input::Cancel(request));
            }
        });
    }

    /// A worker has answered the request of a build of the queue.
    pub(super) fn queue_answered(
        self: &Arc<Self>,
        id: BuildId,
        build: Build,
        worker: &Arc<WorkerCell>,
        granted: Granted,
        agenda: &mut Agenda,
    ) {
        let (answer, lease) = match granted {
            Ok(granted) => {
                let epoch = granted.0.epoch;
                (WorkerAnswer::Granted { epoch }, Some(Lease::new(granted, build)))
            }
            Err((error, epoch)) => (answer_of(error, epoch), None),
        };
        self.queue_turn(agenda, lease, |turn| {
            turn.queue.dispatch.answered(id, worker.index, answer, &mut turn.orders);
        });
        self.look_if_waiting(agenda);
    }

    /// Ends a build wherever it is; `false` if it has ended already or never was.
    pub(super) fn cancel_build(self: &Arc<Self>, id: BuildId) -> bool {
        let mut agenda = Agenda::default();
        let known = self.queue_turn(&mut agenda, None, |turn| turn.queue.dispatch.cancel(id, &mut turn.orders));
        self.look_if_waiting(&mut agenda);
        self.perform(agenda);
        known
    }

    /// Nobody waits for the build any more: ends it, but if its lease is out, only when that is to be retried.
    pub(super) fn abandon_build(self: &Arc<Self>, id: BuildId) {
        self.abandon(|_| vec![id]);
    }

    /// Nobody waits for any build of this inbox any more.
    pub(super) fn abandon_inbox(self: &Arc<Self>, inbox: InboxNumber) {
        self.abandon(|queue| {
            let of_inbox = queue.builds.values().filter(|build| build.inbox == Some(inbox));
            let mut ids: Vec<BuildId> = of_inbox.map(|build| build.id).collect();
            ids.sort_unstable();
            ids
        });
    }

    /// In one turn, so that none of the builds gets the place of another one of them.
    fn abandon(self: &Arc<Self>, which: impl FnOnce(&Queue) -> Vec<BuildId>) {
        let mut agenda = Agenda::default();
        self.queue_turn(&mut agenda, None, |turn| {
            for id in which(&turn.queue) {
                match turn.queue.builds.get(&id) {
                    Some(build) if turn.queue.dispatch.runs(id) => build.abandoned.store(true, Ordering::Relaxed),
                    _ => _ = turn.queue.dispatch.cancel(id, &mut turn.orders),
                }
            }
        });
        self.look_if_waiting(&mut agenda);
        self.perform(agenda);
    }

    /// Whoever holds the lease of a build says how it ended.
    pub(super) fn finish_build(self: &Arc<Self>, id: BuildId, result: BuildResult, agenda: &mut Agenda) {
        let ended = self.queue_turn(agenda, None, |turn| {
            if !turn.queue.dispatch.finished(id) {
                return None; // it was cancelled meanwhile
            }
            turn.tell(id, EventKind::BuildFinished { result });
            turn.queue.builds.remove(&id)
        });
        // Its channel closes, and who waits for another answer learns that there is none.
        drop(ended);
    }

    /// Whoever held the lease of a build wants another one.
    pub(super) fn retry_build(self: &Arc<Self>, id: BuildId, reason: &str) {
        let mut agenda = Agenda::default();
        self.queue_turn(&mut agenda, None, |turn| {
            if turn.queue.builds.get(&id).is_some_and(|build| build.abandoned.load(Ordering::Relaxed)) {
                turn.queue.dispatch.cancel(id, &mut turn.orders);
            } else {
                turn.queue.dispatch.retry(id, reason.into(), &mut turn.orders);
            }
        });
        self.look_if_waiting(&mut agenda);
        self.perform(agenda);
    }

    /// Answers every build that does not run, and lets nothing new in.
    pub(super) fn close_queue(self: &Arc<Self>, fast: bool) {
        let mut agenda = Agenda::default();
        self.queue_turn(&mut agenda, None, |turn| {
            // Once, and once more when a graceful shutdown becomes a fast one.
            if turn.queue.closed.is_none_or(|was_fast| fast && !was_fast) {
                turn.queue.closed = Some(fast);
                turn.tell_about(About::default(), EventKind::Shutdown { fast });
            }
            turn.queue.dispatch.shutdown(&mut turn.orders);
        });
        self.perform(agenda);
    }
}

/// A worker's refusal in the words of the dispatch.
fn answer_of(error: SubstantiateError, epoch: Epoch) -> WorkerAnswer {
    match error {
        SubstantiateError::Failed { .. } | SubstantiateError::TimedOut { .. } => {
            WorkerAnswer::Failed { epoch, reason: error.to_string().into() }
        }
        SubstantiateError::Cannot { reason } => WorkerAnswer::Cannot { reason },
        SubstantiateError::Incompatible { .. } => WorkerAnswer::Incompatible { epoch },
        SubstantiateError::ShutDown => WorkerAnswer::ShutDown,
        SubstantiateError::Cancelled
        | SubstantiateError::Insubstantiated
        | SubstantiateError::Paused
        | SubstantiateError::Quarantined { .. }
        | SubstantiateError::LeftBehind
        | SubstantiateError::Full
        | SubstantiateError::Answered => WorkerAnswer::Refused,
    }
}

impl Turn<'_> {
    fn tell(&mut self, build: BuildId, kind: EventKind) {
        self.tell_about(About { build: Some(build), ..About::default() }, kind);
    }

    fn tell_about(&mut self, about: About, kind: EventKind) {
        if let Some(now) = self.observed {
            self.shared.observers.publish(now, about, kind);
        }
    }

    /// Looks up what the orders refer to.
    fn resolve_orders(&mut self) {
        for order in std::mem::take(&mut self.orders) {
            match order {
                Order::Assign { build, worker, fit } => {
                    let build = self.queue.builds[&build].clone();
                    self.tasks.push(Task::Assign { build, worker, fit });
                }
                Order::Deliver { build, history } => {
                    let build = self.queue.builds[&build].clone();
                    if let Some(mut lease) = self.lease.take() {
                        lease.belong_to(build.clone(), history);
                        self.delivery = Some((build, lease));
                    }
                }
                // The lease of this turn is given back at its end.
                Order::DropLease { .. } => {}
                Order::Answer { build, error } => {
                    let result = match &error {
                        BuildError::Cancelled => BuildResult::Cancelled,
                        error => BuildResult::NotRun(error.to_string().into()),
                    };
                    self.tell(build, EventKind::BuildFinished { result });
                    if let Some(build) = self.queue.builds.remove(&build) {
                        self.tasks.push(Task::Finish { build, error });
                    }
                }
                Order::EndLease { build } => {
                    if let Some(build) = self.queue.builds.get(&build) {
                        self.tasks.push(Task::CancelLease(build.clone()));
                    }
                }
                Order::Requeued { build, reason } => {
                    if let Some(name) = self.queue.builds.get(&build).map(|build| build.build.name().clone()) {
                        self.tell(build, EventKind::BuildQueued { name, retry: Some(reason) });
                    }
                }
                Order::Withdraw { build, worker } => self.tasks.push(Task::Withdraw { build, worker }),
            }
        }
    }
}
