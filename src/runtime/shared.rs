//! What all handles and threads of one master share, and the agenda on which every thread carries out what follows.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::{Mutex, RwLock};

use super::cell::{Asker, Granted, WorkerCell};
use super::connection::Connection;
use super::drivers::DriverCell;
use super::drivers::Drivers;
use super::entropy;
use super::instance::Order;
use super::lease::{Holder, Lease};
use super::leftovers::LeftoverList;
use super::observers::{About, Observers};
use super::queue::{BuildCell, Queue};
use super::threads::{self, Threads};
use super::timer::{Due, Timer};
use crate::build::{Epoch, Properties};
use crate::clock::Clock;
use crate::command::Agent;
use crate::error::{AttachError, BuildError, LeaseEnd};
use crate::event::{BuildResult, EventKind, StopCause};
use crate::journal::Journal;
use crate::lifecycle::{Input, RequestId};
use crate::placement::{PlacementConfig, WorkerIndex};
use crate::printable::printable;
use crate::worker::{AttachPoint, Attachment};

pub(super) struct Shared {
    /// Tells the masters of one process apart.
    pub(super) number: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) agent_address: Option<Arc<str>>,
    pub(super) journal: Option<Journal>,
    /// The last write to the journal has failed, and the failure was reported.
    pub(super) journal_failed: AtomicBool,
    /// Made when it is first needed, if there is no journal to keep it.
    owner: OnceLock<Arc<str>>,
    pub(super) leftovers: LeftoverList,
    pub(super) observers: Observers,
    pub(super) timer: Timer,
    pub(super) threads: Threads,
    pub(super) workers: RwLock<Workers>,
    pub(super) queue: Mutex<Queue>,
    /// Whether a worker's change is worth a look at the queue. Changed under the queue's lock.
    pub(super) wants_facts: AtomicBool,
    /// Workers that have changed since the queue last looked at them; each at most once.
    dirty: Mutex<Vec<Arc<WorkerCell>>>,
    /// Whether there is any.
    is_dirty: AtomicBool,
    /// Drivers with questions that the system had no thread for.
    pub(super) unasked: Mutex<Vec<Arc<DriverCell>>>,
    pub(super) closing: AtomicBool,
    /// Whether the lengths of quarantines vary.
    pub(super) jitter: bool,
    /// Agents that named a worker that does not exist.
    pub(super) unknown_agents: AtomicU64,
    #[cfg(feature = "testing")]
    pub(super) steps: Steps,
}

/// Counts the steps of the library's threads, such as turns of workers, so that a test can find out that no thread is
/// in the middle of a step.
#[cfg(feature = "testing")]
#[derive(Default)]
pub(super) struct Steps {
    begun: AtomicU64,
    done: AtomicU64,
}

#[cfg(feature = "testing")]
impl Steps {
    /// Begins a step, which ends when the value is dropped.
    pub(super) fn begin(&self) -> Step<'_> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Step(self)
    }

    /// Continues a step that was begun on another thread, and was left open there.
    pub(super) fn resume(&self) -> Step<'_> {
        Step(self)
    }

    /// Returns how many steps are done; `None` while a step is under way.
    pub(super) fn done(&self) -> Option<u64> {
        // In this order: a step that begins in between makes the numbers differ.
        let done = self.done.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == done).then_some(done)
    }
}

#[cfg(feature = "testing")]
pub(super) struct Step<'a>(&'a Steps);

#[cfg(feature = "testing")]
impl Step<'_> {
    /// Leaves the step open for the thread that resumes it.
    pub(super) fn leave_open(self) {
        std::mem::forget(self);
    }
}

#[cfg(feature = "testing")]
impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
pub(super) struct Workers {
    pub(super) list: Vec<Arc<WorkerCell>>,
    pub(super) by_name: HashMap<Arc<str>, WorkerIndex>,
    pub(super) drivers: Drivers,
}

impl Workers {
    pub(super) fn named(&self, name: &str) -> Option<&Arc<WorkerCell>> {
        self.by_name.get(name).map(|index| self.at(*index))
    }

    pub(super) fn at(&self, index: WorkerIndex) -> &Arc<WorkerCell> {
        &self.list[index.0 as usize]
    }
}

/// Something to do without any lock.
pub(super) enum Task {
    Spawn {
        worker: Arc<WorkerCell>,
        epoch: Epoch,
    },
    /// Tell all who wait for this signal.
    Disconnect(Sender<Infallible>),
    Order(Sender<Order>, Order),
    Answer {
        worker: Arc<WorkerCell>,
        asker: Asker,
        granted: Granted,
    },
    EndLeases(Arc<Connection>, LeaseEnd),
    /// An instance is needed.
    Start {
        worker: WorkerIndex,
        replace: Option<Epoch>,
    },
    Forgive {
        worker: WorkerIndex,
        epoch: Epoch,
    },
    CancelStart(WorkerIndex),
    Drain {
        worker: WorkerIndex,
        epoch: Epoch,
    },
    AskKind {
        worker: WorkerIndex,
        properties: Properties,
    },
    AskFit {
        worker: WorkerIndex,
        epoch: Epoch,
        properties: Properties,
    },
    /// The last word on a build.
    Finish {
        build: Arc<BuildCell>,
        error: BuildError,
    },
    /// The build has ended, and with it its lease. If that was taken, so is the place until it comes back.
    CancelLease {
        worker: WorkerIndex,
        build: Arc<BuildCell>,
    },
    /// The last event about a build.
    TellEnd {
        build: Arc<BuildCell>,
        result: BuildResult,
    },
    /// Nobody has taken the lease of this build, and its place is given back.
    Abandon {
        worker: WorkerIndex,
        build: Arc<BuildCell>,
    },
    /// Nobody is there to take the lease.
    GiveBack(Lease),
}

/// What one thread still has to do. Tasks lead to more tasks; a list instead of recursion keeps the stack small however
/// long the chain.
#[derive(Default)]
pub(super) struct Agenda {
    tasks: VecDeque<Task>,
    /// The queue has to be looked at when the tasks are done.
    look_at_queue: bool,
}

impl Agenda {
    pub(super) fn push(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    pub(super) fn look_at_queue(&mut self) {
        self.look_at_queue = true;
    }

    /// Leaves the look at the queue to the thread that takes the next one.
    pub(super) fn leave_the_look(&mut self) {
        self.look_at_queue = false;
    }
}

impl Shared {
    pub(super) fn new(
        number: u64,
        clock: Arc<dyn Clock>,
        agent_address: Option<Arc<str>>,
        journal: Option<Journal>,
        placement: PlacementConfig,
        jitter: bool,
    ) -> Self {
        let origin = clock.now();
        Self {
            number,
            clock,
            agent_address,
            owner: journal.as_ref().map(|journal| journal.owner().clone()).map_or_else(OnceLock::new, OnceLock::from),
            leftovers: LeftoverList::new(origin, journal.as_ref()),
            journal,
            journal_failed: AtomicBool::new(false),
            observers: Observers::new(origin),
            timer: Timer::default(),
            threads: Threads::default(),
            workers: RwLock::default(),
            queue: Mutex::new(Queue::new(placement)),
            wants_facts: AtomicBool::new(false),
            dirty: Mutex::default(),
            is_dirty: AtomicBool::new(false),
            unasked: Mutex::default(),
            closing: AtomicBool::new(false),
            jitter,
            unknown_agents: AtomicU64::new(0),
            #[cfg(feature = "testing")]
            steps: Steps::default(),
        }
    }

    /// Whose all instances are.
    pub(super) fn owner(&self) -> std::io::Result<Arc<str>> {
        if let Some(owner) = self.owner.get() {
            return Ok(owner.clone());
        }
        let made = entropy::hex::<16>()?;
        Ok(self.owner.get_or_init(|| made.into()).clone())
    }

    pub(super) fn worker_at(&self, index: WorkerIndex) -> Arc<WorkerCell> {
        self.workers.read().at(index).clone()
    }

    /// After a turn of `worker`: remembers that the queue must look at it, and does so now if a build waits.
    ///
    /// Both sides order "note, then look at the other's note" sequentially, so that of a build that is submitted and a
    /// worker that becomes free at the same time at least one sees the other.
    pub(super) fn note_change(&self, worker: &Arc<WorkerCell>, agenda: &mut Agenda) {
        if worker.mark_dirty() {
            self.dirty.lock().push(worker.clone());
            self.is_dirty.store(true, Ordering::SeqCst);
        }
        self.look_if_waiting(agenda);
    }

    /// Has the queue look at its workers if a build waits. Otherwise whoever puts the next build in does so.
    pub(super) fn look_if_waiting(&self, agenda: &mut Agenda) {
        if self.wants_facts.load(Ordering::SeqCst) {
            agenda.look_at_queue();
        }
    }

    pub(super) fn take_dirty(&self) -> Vec<Arc<WorkerCell>> {
        if !self.is_dirty.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut dirty = self.dirty.lock();
        self.is_dirty.store(false, Ordering::SeqCst);
        std::mem::take(&mut dirty)
    }

    /// Does everything on the agenda and everything that follows from it.
    pub(super) fn perform(self: &Arc<Self>, mut agenda: Agenda) {
        loop {
            if let Some(task) = agenda.tasks.pop_front() {
                self.perform_one(task, &mut agenda);
            } else if std::mem::take(&mut agenda.look_at_queue) {
                self.place_builds(&mut agenda);
            } else {
                return;
            }
        }
    }

    fn perform_one(self: &Arc<Self>, task: Task, agenda: &mut Agenda) {
        match task {
            Task::Spawn { worker, epoch } => self.spawn_instance(worker, epoch, agenda),
            Task::Disconnect(signal) => drop(signal),
            Task::Order(orders, order) => {
                // There is room: the lifecycle has one call in flight at most. The thread is there until its stop.
                let _ = orders.try_send(order);
            }
            Task::Answer { worker, asker, granted } => match asker {
                Asker::Start => self.start_ended(&worker, granted, agenda),
                Asker::Fit(properties) => self.fit_answered(&worker, &properties, granted, agenda),
                Asker::Direct(sender, build) => {
                    let lease = granted.map(|granted| Lease::new(granted, Holder::Direct(build), Vec::new()));
                    let sent = sender.try_send(lease.map_err(|refusal| refusal.error));
                    // If nobody waits any more, the error contains the lease.
                    if let Some(Ok(lease)) = sent.err().map(TrySendError::into_inner) {
                        agenda.push(Task::GiveBack(lease));
                    }
                }
                Asker::WarmUp(sender) => {
                    let _ = sender.try_send(granted.map(|_| ()).map_err(|refusal| refusal.error));
                }
            },
            Task::EndLeases(connection, end) => connection.end.set(end),
            Task::Start { worker, replace } => self.order_start(worker, replace, agenda),
            Task::Forgive { worker, epoch } => {
                self.worker_at(worker).transition(self, agenda, |turn| turn.apply(Input::Forgive(epoch)));
            }
            Task::CancelStart(worker) => self.cancel_start(worker, agenda),
            Task::Drain { worker, epoch } => {
                let input = Input::Drain(epoch, StopCause::Incompatible);
                self.worker_at(worker).transition(self, agenda, |turn| turn.apply(input));
            }
            Task::AskKind { worker, properties } => self.ask_kind(worker, properties),
            Task::AskFit { worker, epoch, properties } => self.ask_fit(worker, epoch, properties, agenda),
            Task::Finish { build, error } => build.finish(error),
            Task::CancelLease { worker, build } => self.end_lease(worker, &build, LeaseEnd::Cancelled, agenda),
            Task::TellEnd { build, result } => {
                let now = self.clock.now();
                let about = About { build: Some(build.id), ..About::default() };
                let tell = || self.observers.publish(now, about, EventKind::BuildFinished { result });
                build.end(false, || {
                    if self.observers.any() {
                        tell()
                    }
                });
            }
            Task::Abandon { worker, build } => {
                self.end_lease(worker, &build, LeaseEnd::Abandoned, agenda);
                drop(build.close());
            }
            Task::GiveBack(lease) => lease.give_back(agenda),
        }
    }

    /// Ends the lease of a build that has ended. The place of one that nobody has taken is free.
    fn end_lease(&self, worker: WorkerIndex, build: &BuildCell, end: LeaseEnd, agenda: &mut Agenda) {
        let is_taken = build.lease_was_taken() || {
            // Whoever takes it from now on sees that it has ended.
            build.cancelled().set(end.clone());
            build.lease_was_taken()
        };
        let input = if is_taken { Input::CancelLease(build.id) } else { Input::Abandon(build.id, end.clone()) };
        self.worker_at(worker).transition(self, agenda, |turn| turn.apply(input));
        build.cancelled().set(end);
    }

    fn spawn_instance(self: &Arc<Self>, worker: Arc<WorkerCell>, epoch: Epoch, agenda: &mut Agenda) {
        let number = self.number;
        let body = {
            let (shared, worker) = (self.clone(), worker.clone());
            move || {
                threads::belong_to(number);
                let mut attempt = Some(epoch);
                while let Some(epoch) = attempt {
                    worker.driver().run_instance(&shared, &worker, epoch);
                    attempt = worker.next_attempt();
                }
            }
        };
        // Linux shows the first 15 bytes of a thread's name.
        let name = format!("lw {}", worker.name);
        if let Err(error) = self.threads.spawn(name, Owner(self.clone()), body) {
            let reason: Arc<str> = format!("no thread for the instance: {error}").into();
            worker.transition(self, agenda, |turn| {
                turn.inner.no_thread(epoch).for_each(|epoch| turn.apply(Input::NoThread(epoch, reason.clone())));
            });
        }
    }

    /// Something that went wrong in user code where nobody else is told.
    pub(super) fn tell_panic(&self, worker: &WorkerCell, panic: Arc<str>) {
        if self.observers.any() {
            let about = About { worker: Some(worker.name.clone()), ..About::default() };
            self.observers.publish(self.clock.now(), about, EventKind::Panicked { what: panic });
        }
    }

    /// What the timer does when `worker` is to be looked after.
    pub(super) fn time_has_come(self: &Arc<Self>, worker: WorkerIndex, scheduled: Instant) {
        let worker = self.worker_at(worker);
        worker.turn(self, |turn| {
            turn.inner.timer_called(scheduled);
            turn.apply(Input::Time);
        });
    }

    pub(super) fn fire_timer(self: &Arc<Self>) {
        self.timer.fire(&*self.clock, |due| match due {
            Due::Worker(worker, scheduled) => self.time_has_come(worker, scheduled),
            Due::Queue(scheduled) => self.queue_time_has_come(scheduled),
            Due::Leftovers(scheduled) => self.reclaim_time_has_come(scheduled),
        });
    }

    pub(super) fn cancel_request(self: &Arc<Self>, worker: &Arc<WorkerCell>, request: RequestId) {
        worker.turn(self, |turn| turn.apply(Input::Cancel(request)));
    }

    /// The worker that an agent says to belong to; that there is none is a refusal.
    fn worker_named(&self, name: &str) -> Result<Arc<WorkerCell>, AttachError> {
        let worker = self.workers.read().named(name).cloned();
        worker.ok_or_else(|| {
            self.unknown_agents.fetch_add(1, Ordering::Relaxed);
            let kind = EventKind::AttachRefused { error: AttachError::UnknownWorker };
            if self.observers.any() {
                self.observers.publish(self.clock.now(), About::default(), kind);
            }
            AttachError::UnknownWorker
        })
    }

    /// Whether an agent would be let in.
    pub(super) fn knock(self: &Arc<Self>, name: &str, secret: &str) -> Result<(), AttachError> {
        let worker = self.worker_named(name)?;
        worker.turn(self, |turn| {
            let result = turn.knock(secret);
            if let Err(error) = result {
                turn.refuse(error);
            }
            result
        })
    }

    /// Lets an agent in, or says why not.
    pub(super) fn attach(
        self: &Arc<Self>,
        name: &str,
        secret: &str,
        agent: Arc<dyn Agent>,
    ) -> Result<Attachment, AttachError> {
        let worker = self.worker_named(name)?;
        let connected = worker.turn(self, |turn| {
            let result = turn.attach(secret, |epoch| Connection::new(self, &worker, epoch, &agent));
            if let Err(error) = &result {
                turn.refuse(*error);
            }
            result
        });
        let (connection, replaced) = connected?;
        drop(replaced);
        // An agent that lives longer than its master keeps neither that nor a driver alive.
        let (shared, worker) = (Arc::downgrade(self), worker.index);
        let detach = Box::new(move |reason: &str| {
            if let Some(shared) = shared.upgrade() {
                let worker = shared.worker_at(worker);
                let input = Input::Detach(connection, printable(reason).into());
                worker.turn(&shared, |turn| turn.apply(input));
            }
        });
        Ok(Attachment { detach: Some(detach) })
    }
}

/// What an instance thread lets go of last.
pub(super) struct Owner(pub(super) Arc<Shared>);

impl AsRef<Threads> for Owner {
    fn as_ref(&self) -> &Threads {
        &self.0.threads
    }
}

/// The way in for agents of this process, which does not keep the master alive.
pub(super) struct SharedPoint(pub(super) Weak<Shared>);

impl AttachPoint for SharedPoint {
    fn attach(&self, worker: &str, secret: &str, agent: Arc<dyn Agent>) -> Result<Attachment, AttachError> {
        match self.0.upgrade() {
            Some(shared) => shared.attach(worker, secret, agent),
            None => Err(AttachError::Stale),
        }
    }

    #[cfg(feature = "agent")]
    fn knock(&self, worker: &str, secret: &str) -> Result<(), AttachError> {
        match self.0.upgrade() {
            Some(shared) => shared.knock(worker, secret),
            // Nobody is left who could tell the agent of an ended attempt from a stranger.
            None => Err(AttachError::UnknownWorker),
        }
    }

    #[cfg(feature = "agent")]
    fn instances(&self) -> usize {
        // Each has a thread.
        self.0.upgrade().map_or(0, |shared| shared.threads.live())
    }
}
