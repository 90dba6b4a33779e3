//! The queue of builds: placement behind its lock, and what its orders refer to.
//!
//! Orders are carried out on the agenda, without its lock, and a worker that has changed in between refuses. Only a place
//! is taken within the turn that gives it, so that a build that finds one at once costs one turn.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::{Mutex, MutexGuard};

use super::cell::{Asker, Granted, WorkerCell};
use super::connection::EndSignal;
use super::entropy;
use super::lease::{Holder, Lease};
use super::observers::About;
use super::outbox::{Answer, Mailbox, Outbox};
use super::shared::{Agenda, Shared, Task};
use super::short_lock;
use super::timer::Timer;
use crate::build::{Build, BuildId, Epoch, Properties};
use crate::error::{BuildError, LeaseEnd, SubstantiateError};
use crate::event::{BuildResult, EventKind};
use crate::lifecycle::{Fit, Input, Occasion, Want};
use crate::placement::{Facts, Leased, Order, Placement, PlacementConfig, SortedMap, StartEnd, WorkerIndex};
use crate::worker::Kind;

pub(super) struct Queue {
    pub(super) placement: Placement,
    /// The number of the build that was submitted last.
    last_build: u64,
    /// The builds that have not ended.
    pub(super) builds: SortedMap<BuildId, Arc<BuildCell>>,
    /// Whether a shutdown has begun, and whether it is a fast one.
    closed: Option<bool>,
    /// The workers in the order of their indexes, to take places of them.
    workers: Vec<Arc<WorkerCell>>,
    /// When the timer looks after the queue. It may be too early, never too late.
    scheduled: Option<Instant>,
    /// Empty between two turns, which take turns with its memory.
    orders: Vec<Order>,
}

/// A submitted build, from the submission to its last answer.
pub(super) struct BuildCell {
    /// Given when the queue takes it.
    pub(super) id: BuildId,
    pub(super) build: Build,
    /// Locked also while something happens to the build that must not follow its end.
    state: Mutex<State>,
    /// Set when the build is cancelled while its lease is out. A build that waits has none, which saves memory.
    cancelled: OnceLock<Box<EndSignal>>,
}

struct State {
    submitter: Submitter,
    /// Its end was told.
    ended: bool,
    /// The ticket was dropped while the lease is out. Changed under the queue's lock.
    abandoned: bool,
}

/// What is left of a submitter after the last answer. To be dropped without a lock.
type Closed = (Option<Sender<Answer>>, Option<Arc<Outbox>>);

/// Where the answers to a submission go. A build has at most one lease at a time and one last answer, so that there is
/// always room.
pub(super) enum Submitter {
    Ticket(Mailbox),
    Inbox {
        number: InboxNumber,
        /// `None` after the last answer: nothing can follow, though the lease may still be out.
        outbox: Option<Arc<Outbox>>,
        /// The number of the answer that was sent last.
        last_sent: u64,
    },
}

/// Tells the inboxes of one process apart.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct InboxNumber(pub(super) u64);

impl BuildCell {
    fn new(build: Build, submitter: Submitter) -> Self {
        Self {
            id: BuildId(0),
            build,
            state: Mutex::new(State { submitter, ended: false, abandoned: false }),
            cancelled: OnceLock::new(),
        }
    }

    /// Returns what could not be delivered: nobody is there to take it. A lease must be given back.
    pub(super) fn deliver(&self, answer: Answer) -> Option<Answer> {
        let is_last = answer.is_err();
        let mut state = self.state.lock();
        let undelivered = match &mut state.submitter {
            Submitter::Ticket(mailbox) => mailbox.put(answer),
            Submitter::Inbox { outbox: Some(outbox), last_sent, .. } => match outbox.send(self.id, answer) {
                Ok(number) => {
                    *last_sent = number;
                    None
                }
                Err(undelivered) => Some(*undelivered),
            },
            Submitter::Inbox { outbox: None, .. } => Some(answer),
        };
        let closed = is_last.then(|| state.close());
        drop(state);
        drop(closed);
        undelivered
    }

    /// No other answer follows.
    pub(super) fn close(&self) -> Closed {
        self.state.lock().close()
    }

    /// What the ticket of this build does with its mailbox.
    pub(super) fn with_mailbox<R>(&self, step: impl FnOnce(&mut Mailbox) -> R) -> R {
        match &mut self.state.lock().submitter {
            Submitter::Ticket(mailbox) => step(mailbox),
            Submitter::Inbox { .. } => unreachable!("a build with a ticket has a mailbox"),
        }
    }

    /// Set when the build is cancelled while its lease is out.
    pub(super) fn cancelled(&self) -> &EndSignal {
        self.cancelled.get_or_init(|| Box::new(EndSignal::new()))
    }

    /// How the build was cancelled while its lease is out, if it was.
    pub(super) fn cancel(&self) -> Option<&LeaseEnd> {
        self.cancelled.get().and_then(|signal| signal.get())
    }

    /// Whether its answers go to this inbox.
    fn is_of(&self, inbox: InboxNumber) -> bool {
        matches!(self.state.lock().submitter, Submitter::Inbox { number, .. } if number == inbox)
    }

    /// Whether the lease that was delivered last was taken out of its ticket or inbox.
    pub(super) fn lease_was_taken(&self) -> bool {
        match &self.state.lock().submitter {
            Submitter::Ticket(mailbox) => mailbox.is_empty(),
            Submitter::Inbox { outbox, last_sent, .. } => {
                outbox.as_ref().is_none_or(|outbox| outbox.was_taken(*last_sent))
            }
        }
    }

    /// Does `step`, unless the end of the build was told before.
    pub(super) fn unless_ended<R>(&self, step: impl FnOnce() -> R) -> Option<R> {
        let state = self.state.lock();
        (!state.ended).then(step)
    }

    /// Tells the end of the build. `last`: no answer follows.
    pub(super) fn end(&self, last: bool, tell: impl FnOnce()) -> Option<Closed> {
        let mut state = self.state.lock();
        state.ended = true;
        tell();
        last.then(|| state.close())
    }

    pub(super) fn finish(&self, error: BuildError) {
        // An error that nobody takes is lost.
        let _ = self.deliver(Err(error));
    }
}

impl State {
    fn close(&mut self) -> Closed {
        match &mut self.submitter {
            Submitter::Ticket(mailbox) => (mailbox.close(), None),
            Submitter::Inbox { outbox, .. } => (None, outbox.take()),
        }
    }
}

impl Queue {
    pub(super) fn new(placement: PlacementConfig) -> Self {
        Self {
            placement: Placement::new(placement),
            last_build: 0,
            builds: SortedMap::default(),
            closed: None,
            workers: Vec::new(),
            scheduled: None,
            orders: Vec::new(),
        }
    }
}

impl Queue {
    /// The worker that was added to the placement last.
    pub(super) fn worker_added(&mut self, worker: Arc<WorkerCell>) {
        self.workers.push(worker);
    }

    /// Has the timer look after the queue at this time, or before.
    fn schedule_at(&mut self, at: Instant, timer: &Timer) {
        if self.scheduled.is_none_or(|scheduled| at < scheduled) {
            timer.set_queue(self.scheduled, at);
            self.scheduled = Some(at);
        }
    }
}

/// One turn of the queue under its lock.
struct Turn<'a> {
    shared: &'a Shared,
    queue: MutexGuard<'a, Queue>,
    now: Instant,
    observed: bool,
    orders: Vec<Order>,
    /// What is done when the lock is gone.
    agenda: &'a mut Agenda,
}

impl Shared {
    /// Takes a turn of the queue.
    fn queue_turn<R>(self: &Arc<Self>, now: Instant, agenda: &mut Agenda, step: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let observed = self.observers.any();
        let mut queue = short_lock::lock(&self.queue);
        let mut turn = Turn { shared: self, orders: std::mem::take(&mut queue.orders), queue, now, observed, agenda };
        let result = step(&mut turn);
        turn.resolve_orders();
        let wants_facts = turn.queue.placement.wants_facts();
        // It changes under this lock alone.
        if self.wants_facts.load(Ordering::Relaxed) != wants_facts {
            self.wants_facts.store(wants_facts, Ordering::SeqCst);
        }
        turn.schedule();
        turn.queue.orders = turn.orders;
        result
    }

    pub(super) fn submit(self: &Arc<Self>, build: Build, submitter: Submitter) -> Arc<BuildCell> {
        let mut agenda = Agenda::default();
        let now = self.clock.now();
        let changed = self.changed_workers(now);
        let mut cell = Arc::new(BuildCell::new(build, submitter));
        self.queue_turn(now, &mut agenda, |turn| {
            turn.queue.last_build += 1;
            let id = BuildId(turn.queue.last_build);
            Arc::get_mut(&mut cell).expect("nobody else has it yet").id = id;
            turn.tell(id, || EventKind::BuildQueued { name: cell.build.name().clone(), retry: None });
            turn.queue.builds.insert(id, cell.clone());
            turn.take_in(changed);
            turn.queue.placement.submit(now, id, &cell.build, &mut turn.orders);
            turn.queue.placement.plan(now, &mut turn.orders);
        });
        self.look_if_waiting(&mut agenda);
        self.perform(agenda);
        cell
    }

    /// Looks at the workers that have changed, and plans anew.
    pub(super) fn place_builds(self: &Arc<Self>, agenda: &mut Agenda) {
        self.ask_again();
        let now = self.clock.now();
        let changed = self.changed_workers(now);
        self.queue_turn(now, agenda, |turn| turn.plan(changed));
    }

    /// What the workers say that have changed.
    fn changed_workers(&self, now: Instant) -> Vec<(WorkerIndex, Facts)> {
        self.take_dirty().into_iter().map(|worker| (worker.index, worker.facts(now))).collect()
    }

    /// The timer has called for the queue.
    pub(super) fn queue_time_has_come(self: &Arc<Self>, scheduled: Instant) {
        let mut agenda = Agenda::default();
        let now = self.clock.now();
        self.queue_turn(now, &mut agenda, |turn| {
            if turn.queue.scheduled == Some(scheduled) {
                turn.queue.scheduled = None;
            }
            let queue = &mut *turn.queue;
            queue.placement.time(now, |id| queue.builds[&id].lease_was_taken(), &mut turn.orders);
        });
        agenda.look_at_queue();
        self.perform(agenda);
    }

    /// Asks a worker for an instance.
    pub(super) fn order_start(self: &Arc<Self>, worker: WorkerIndex, replace: Option<Epoch>, agenda: &mut Agenda) {
        let cell = self.worker_at(worker);
        let answer = cell.transition(self, agenda, |turn| {
            if let Some(epoch) = replace {
                turn.apply(Input::Replace(epoch));
            }
            turn.request(Fit::Always, Want::Instance, || Asker::Start).err()
        });
        if let Some(granted) = answer {
            self.start_ended(&cell, granted, agenda);
        }
    }

    /// The start that was ordered can be called now: the build that it is called for, or `None` when no build needs it
    /// any more.
    pub(super) fn occasion_of_start(self: &Arc<Self>, worker: WorkerIndex) -> Option<(Arc<BuildCell>, Occasion)> {
        let mut agenda = Agenda::default();
        let now = self.clock.now();
        let occasion = self.queue_turn(now, &mut agenda, |turn| {
            let occasion = turn.queue.placement.occasion(now, worker)?;
            Some((turn.queue.builds.get(&occasion.build)?.clone(), occasion))
        });
        self.perform(agenda);
        occasion
    }

    /// The instance that was ordered is not needed any more.
    pub(super) fn cancel_start(self: &Arc<Self>, worker: WorkerIndex, agenda: &mut Agenda) {
        let worker = self.worker_at(worker);
        worker.transition(self, agenda, |turn| turn.cancel_start());
    }

    /// An order to start has ended.
    pub(super) fn start_ended(self: &Arc<Self>, worker: &Arc<WorkerCell>, granted: Granted, agenda: &mut Agenda) {
        let (epoch, end) = match granted {
            Ok((grant, _)) => (grant.epoch, StartEnd::Attached),
            Err(refusal) => (refusal.epoch, StartEnd::without_agent(refusal.error, refusal.occasion)),
        };
        let version = worker.version();
        let (now, chance) = (self.clock.now(), entropy::fraction());
        self.queue_turn(now, agenda, |turn| {
            turn.queue.placement.start_ended(now, worker.index, epoch, version, end, chance, &mut turn.orders);
        });
        self.look_if_waiting(agenda);
    }

    /// A driver has said what kind the properties ask for.
    pub(super) fn kind_said(
        self: &Arc<Self>,
        worker: WorkerIndex,
        properties: &Properties,
        kind: Result<Kind, Arc<str>>,
        agenda: &mut Agenda,
    ) {
        let now = self.clock.now();
        self.queue_turn(now, agenda, |turn| {
            turn.queue.placement.kind_said(worker, properties, kind, &mut turn.orders);
        });
        self.look_if_waiting(agenda);
    }

    /// Has the timer look at the queue after `pause`, or before.
    pub(super) fn look_at_queue_in(&self, pause: Duration) {
        let Some(at) = self.clock.now().checked_add(pause) else { return };
        self.queue.lock().schedule_at(at, &self.timer);
    }

    /// Has a driver asked whether its instance fits.
    pub(super) fn ask_fit(
        self: &Arc<Self>,
        worker: WorkerIndex,
        epoch: Epoch,
        properties: Properties,
        agenda: &mut Agenda,
    ) {
        let cell = self.worker_at(worker);
        let answer = cell.transition(self, agenda, |turn| {
            let asker = || Asker::Fit(properties.clone());
            if turn.inner.life.epoch() != epoch {
                return Some(turn.inner.refuse(SubstantiateError::Insubstantiated));
            }
            turn.request(Fit::Ask, Want::Answer, asker).err()
        });
        if let Some(granted) = answer {
            self.fit_answered(&cell, &properties, granted, agenda);
        }
    }

    /// A driver has said whether its instance fits.
    pub(super) fn fit_answered(
        self: &Arc<Self>,
        worker: &Arc<WorkerCell>,
        properties: &Properties,
        granted: Granted,
        agenda: &mut Agenda,
    ) {
        let (epoch, fits) = match granted {
            Ok((grant, _)) => (grant.epoch, Some(true)),
            Err(refusal) => {
                let answered = matches!(refusal.error, SubstantiateError::Incompatible { .. });
                (refusal.epoch, answered.then_some(false))
            }
        };
        let version = worker.version();
        let now = self.clock.now();
        self.queue_turn(now, agenda, |turn| {
            turn.queue.placement.fit_answered(worker.index, epoch, version, properties, fits);
        });
        self.look_if_waiting(agenda);
    }

    /// Ends a build wherever it is; `false` if it has ended already or never was.
    pub(super) fn cancel_build(self: &Arc<Self>, id: BuildId) -> bool {
        let mut agenda = Agenda::default();
        let now = self.clock.now();
        let known = self.queue_turn(now, &mut agenda, |turn| turn.queue.placement.cancel(id, &mut turn.orders));
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
            let of_inbox = queue.builds.values().filter(|build| build.is_of(inbox));
            of_inbox.map(|build| build.id).collect()
        });
    }

    /// In one turn, so that none of the builds gets the place of another one of them.
    fn abandon(self: &Arc<Self>, which: impl FnOnce(&Queue) -> Vec<BuildId>) {
        let mut agenda = Agenda::default();
        let now = self.clock.now();
        self.queue_turn(now, &mut agenda, |turn| {
            for id in which(&turn.queue) {
                match turn.queue.builds.get(&id) {
                    Some(build) if turn.queue.placement.runs(id) => build.state.lock().abandoned = true,
                    _ => _ = turn.queue.placement.cancel(id, &mut turn.orders),
                }
            }
        });
        self.look_if_waiting(&mut agenda);
        self.perform(agenda);
    }

    /// Whoever holds the lease of a build says how it ended, and gives the place back. The place first: the end of the build
    /// is the last thing that is told about it.
    pub(super) fn finish_build(
        self: &Arc<Self>,
        id: BuildId,
        result: BuildResult,
        (worker, epoch, release): (&Arc<WorkerCell>, Epoch, Input),
        agenda: &mut Agenda,
    ) {
        let now = self.clock.now();
        let ((), facts) = worker.transition_told(now, epoch, self, agenda, |turn| turn.apply(release));
        // What is left of the build is dropped without the lock. A thread that waits for another answer is told that none
        // follows.
        let _ = self.queue_turn(now, agenda, |turn| {
            let finished = turn.queue.placement.finished(now, id);
            // Otherwise it was cancelled meanwhile.
            let ended = finished.is_some().then(|| turn.end_build(id, result, true));
            turn.plan([(worker.index, facts)]);
            (finished, ended)
        });
    }

    /// Whoever held the lease of a build wants another one.
    pub(super) fn retry_build(self: &Arc<Self>, id: BuildId, reason: &str) {
        let mut agenda = Agenda::default();
        let (now, chance) = (self.clock.now(), entropy::fraction());
        self.queue_turn(now, &mut agenda, |turn| {
            if turn.queue.builds.get(&id).is_some_and(|build| build.state.lock().abandoned) {
                turn.queue.placement.cancel(id, &mut turn.orders);
            } else {
                turn.queue.placement.retry(now, id, reason.into(), chance, &mut turn.orders);
            }
        });
        self.look_if_waiting(&mut agenda);
        self.perform(agenda);
    }

    /// Answers every build that does not run, and lets nothing new in.
    pub(super) fn close_queue(self: &Arc<Self>, fast: bool) {
        let mut agenda = Agenda::default();
        let now = self.clock.now();
        self.queue_turn(now, &mut agenda, |turn| {
            // Once, and once more when a graceful shutdown becomes a fast one.
            if turn.queue.closed.is_none_or(|was_fast| fast && !was_fast) {
                turn.queue.closed = Some(fast);
                turn.tell_about(About::default(), || EventKind::Shutdown { fast });
            }
            turn.queue.placement.shutdown(&mut turn.orders);
        });
        self.perform(agenda);
    }
}

impl Turn<'_> {
    fn tell(&mut self, build: BuildId, kind: impl FnOnce() -> EventKind) {
        self.tell_about(About { build: Some(build), ..About::default() }, kind);
    }

    /// The build is not known any more, and nothing is told about it from now on.
    /// `last`: no answer follows.
    fn end_build(&mut self, id: BuildId, result: BuildResult, last: bool) -> Option<(Arc<BuildCell>, Option<Closed>)> {
        let build = self.queue.builds.remove(&id)?;
        let closed = build.end(last, || self.tell(id, || EventKind::BuildFinished { result }));
        Some((build, closed))
    }

    fn tell_about(&mut self, about: About, kind: impl FnOnce() -> EventKind) {
        if self.observed {
            self.shared.observers.publish(self.now, about, kind());
        }
    }

    /// Takes in what the workers say, and plans anew.
    fn plan(&mut self, changed: impl IntoIterator<Item = (WorkerIndex, Facts)>) {
        self.take_in(changed);
        self.queue.placement.plan(self.now, &mut self.orders);
    }

    fn take_in(&mut self, changed: impl IntoIterator<Item = (WorkerIndex, Facts)>) {
        for (worker, facts) in changed {
            self.queue.placement.facts(self.now, worker, facts, &mut self.orders);
        }
    }

    /// Takes a place for a build that waits.
    fn lease(&mut self, worker: WorkerIndex, epoch: Epoch, id: BuildId) {
        let now = self.now;
        let Queue { placement, builds, workers, .. } = &mut *self.queue;
        let cell = &workers[worker.0 as usize];
        let (granted, facts) = cell.transition_told(now, epoch, self.shared, self.agenda, |turn| turn.lease(epoch, id));
        let leased = placement.leased(now, worker, id, granted.is_some(), facts.version);
        match (leased, granted) {
            (Leased::Runs(history), Some(granted)) => {
                let build = &builds[&id];
                let lease = Lease::new(granted, Holder::Queued(build.clone()), history);
                if let Some(Ok(undelivered)) = build.deliver(Ok(lease)) {
                    // Its place is given back without this lock.
                    self.agenda.push(Task::GiveBack(undelivered));
                }
            }
            (Leased::Waits, _) => self.agenda.look_at_queue(),
            (Leased::Runs(_) | Leased::HasEnded, _) => unreachable!("within one turn no build ends meanwhile"),
        }
        self.take_in([(worker, facts)]);
    }

    /// Has the timer look after the queue in time.
    fn schedule(&mut self) {
        if let Some(at) = self.queue.placement.next_deadline() {
            self.queue.schedule_at(at, &self.shared.timer);
        }
    }

    fn resolve_orders(&mut self) {
        let mut leased = None;
        let mut orders = std::mem::take(&mut self.orders);
        loop {
            orders.drain(..).for_each(|order| self.resolve(order, &mut leased));
            // What a worker said to an order may have led to more.
            if self.orders.is_empty() {
                break;
            }
            std::mem::swap(&mut orders, &mut self.orders);
        }
        self.orders = orders;
    }

    /// Looks up what an order refers to. `leased`: the build whose lease was ended last.
    fn resolve(&mut self, order: Order, leased: &mut Option<BuildId>) {
        match order {
            Order::Start { worker, replace } => self.agenda.push(Task::Start { worker, replace }),
            Order::Forgive { worker, epoch } => self.agenda.push(Task::Forgive { worker, epoch }),
            Order::CancelStart { worker } => self.agenda.push(Task::CancelStart(worker)),
            Order::Drain { worker, epoch } => self.agenda.push(Task::Drain { worker, epoch }),
            Order::Lease { worker, epoch, build } => self.lease(worker, epoch, build),
            Order::AskKind { worker, properties } => {
                self.shared.threads.reserve();
                self.agenda.push(Task::AskKind { worker, properties });
            }
            Order::AskFit { worker, epoch, properties } => {
                self.agenda.push(Task::AskFit { worker, epoch, properties });
            }
            Order::Answer { build, error } => {
                let result = match &error {
                    BuildError::Cancelled => BuildResult::Cancelled,
                    error => BuildResult::NotRun(error.to_string().into()),
                };
                // The end of a build follows that of its lease, which is told without this lock.
                if *leased == Some(build) {
                    self.agenda.push(Task::TellEnd { build: self.queue.builds[&build].clone(), result });
                    if let Some(build) = self.queue.builds.remove(&build) {
                        self.agenda.push(Task::Finish { build, error });
                    }
                } else if let Some((build, _)) = self.end_build(build, result, false) {
                    self.agenda.push(Task::Finish { build, error });
                }
            }
            Order::Abandon { worker, build } => {
                if let Some(build) = self.queue.builds.remove(&build) {
                    self.agenda.push(Task::Abandon { worker, build: build.clone() });
                    self.agenda.push(Task::TellEnd { build, result: BuildResult::Abandoned });
                }
            }
            Order::EndLease { worker, build } => {
                *leased = Some(build);
                let build = self.queue.builds[&build].clone();
                self.agenda.push(Task::CancelLease { worker, build });
            }
            Order::Requeued { build, reason } => {
                if let Some(name) = self.queue.builds.get(&build).map(|build| build.build.name().clone()) {
                    self.tell(build, || EventKind::BuildQueued { name, retry: Some(reason) });
                }
            }
        }
    }
}
