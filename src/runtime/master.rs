//! The master: the handle through which everything is made, and its end.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::cell::WorkerCell;
use super::clock::{FencedClock, SystemClock};
use super::entropy;
use super::fence::fenced;
use super::handle::Worker;
use super::instance::Driver;
use super::lease::Lease;
use super::leftovers;
use super::log_thread::LogThread;
use super::observers::About;
use super::queue::Queue;
#[cfg(feature = "agent")]
use super::shared::SharedPoint;
use super::shared::{Agenda, Shared};
use super::threads;
use super::ticket::{Inbox, Ticket};
use crate::build::{Build, BuildId};
use crate::build_status::{BuildStatus, QueuePage, QueuePosition};
use crate::clock::Clock;
use crate::command::Agent;
use crate::error::{AddWorkerError, AttachError, BuildError, JournalError, LeaseEnd, UnknownBuild};
use crate::event::{BuildResult, Event, EventKind, LeftoverStatus, LeftoverStep, WorkerState, WorkerStatus};
use crate::journal::{Journal, Steps};
use crate::lifecycle::{Input, Lifecycle};
use crate::placement::{PlacementConfig, Space, WorkerIndex};
use crate::printable::printable;
#[cfg(feature = "agent")]
use crate::worker::AttachPoint;
use crate::worker::{Attachment, LatentWorker, WorkerConfig};

/// The most builds that a page of the queue has.
const LONGEST_PAGE: usize = 1000;

/// Between two checks of an instance whose agent has attached.
const SHORTEST_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Workers, and the queue of builds that wait for them.
///
/// A handle, cheap to clone. When the last one is dropped the master is shut down fast, within a bound; see
/// [`MasterBuilder::drop_timeout`]. Workers, tickets and leases do not keep it from that; a driver or an agent that
/// holds a `Master` itself does, for ever.
///
/// Except for [`shutdown`](Master::shutdown), [`run`](Master::run), and with a journal
/// [`forget_leftover`](Master::forget_leftover), no method blocks, whatever the drivers do.
#[derive(Clone)]
pub struct Master {
    handle: Arc<Handle>,
}

/// What all clones of one master share; its drop is the shutdown.
struct Handle {
    shared: Arc<Shared>,
    /// Until the shutdown is complete.
    threads: Mutex<Option<OwnThreads>>,
    drop_timeout: Duration,
}

/// The threads that live as long as the master.
struct OwnThreads {
    timer: JoinHandle<()>,
    log: Option<LogThread>,
}

/// How a shutdown treats running builds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ShutdownMode {
    /// Waits for running builds, and stops instances with grace. Reclaims that are already due are carried out.
    Graceful,
    /// Ends running builds, calls the drivers with `fast`, and cancels running reclaims.
    Fast,
}

/// What a shutdown came to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Nothing is in flight any more: every call of a driver has returned, and every thread has ended but perhaps that of
    /// a logger that takes too long. What could not be stopped or reclaimed is in [`Master::leftovers`] all the same.
    pub complete: bool,
    /// The workers that are not done yet, each with the call that it waits for, or that it waits for the journal.
    pub in_flight: Vec<WorkerStatus>,
    /// What is still being reclaimed.
    pub reclaiming: Vec<LeftoverStatus>,
    /// Everything that may be left behind, also if it is still being reclaimed: all leftovers of [`Master::leftovers`].
    /// With a journal, the next master that uses it continues to reclaim them.
    pub left_behind: Vec<LeftoverStatus>,
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.complete, self.in_flight.len()) {
            (true, _) => f.write_str("shut down")?,
            (false, 1) => f.write_str("not shut down yet, 1 worker in flight")?,
            (false, workers) => write!(f, "not shut down yet, {workers} workers in flight")?,
        }
        self.in_flight.iter().try_for_each(|status| write!(f, "\n  {status}"))?;
        self.left_behind.iter().try_for_each(|leftover| write!(f, "\n  left behind: {leftover}"))
    }
}

/// Why [`Master::run`] has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The build got no lease.
    #[error("the build could not be run: {0}")]
    Build(BuildError),
    /// The work itself failed.
    #[error("the work failed: {0}")]
    Work(E),
}

/// Settings of a [`Master`].
pub struct MasterBuilder {
    clock: Arc<dyn Clock>,
    agent_address: Option<Arc<str>>,
    drop_timeout: Duration,
    journal: Option<Journal>,
    placement: PlacementConfig,
    jitter: bool,
}

impl Default for MasterBuilder {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            agent_address: None,
            drop_timeout: Duration::from_secs(30),
            journal: None,
            placement: PlacementConfig::default(),
            jitter: true,
        }
    }
}

impl MasterBuilder {
    /// Measures all deadlines by another clock; the system's by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(FencedClock::new(clock));
        self
    }

    /// Tells drivers where the agents must connect to, as `host:port`; see
    /// [`StartRequest::agent_address`](crate::StartRequest::agent_address). Not set by default.
    #[must_use]
    pub fn agent_address(mut self, address: impl Into<Arc<str>>) -> Self {
        self.agent_address = Some(address.into());
        self
    }

    /// Sets how builds are placed on workers: patience, ageing, pauses, the number of attempts, time limits.
    /// [`PlacementConfig::default`] by default.
    #[must_use]
    pub fn placement(mut self, config: PlacementConfig) -> Self {
        self.placement = config;
        self
    }

    /// How long dropping the last handle waits for what is in flight; 30 s by default.
    #[must_use]
    pub fn drop_timeout(mut self, timeout: Duration) -> Self {
        self.drop_timeout = timeout;
        self
    }

    /// Leaves the jitter out of the lengths of quarantines, for tests that move their own clock: the first one takes
    /// exactly 10 s.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn without_jitter(mut self) -> Self {
        self.jitter = false;
        self
    }

    /// Keeps a journal in this file, so that nothing is forgotten when this process dies: before a start is called the
    /// attempt is in it, so are the ids that the start [records](crate::StartRequest::record), and the end of each
    /// instance. What an earlier master on the same file has left behind is [reclaimed](LatentWorker::reclaim) as soon
    /// as its worker is added; see [`Master::leftovers`]. Numbers of attempts go on from those of the earlier master.
    ///
    /// The file is made when it does not exist (for this user alone: mode 0600), opened and locked now, and belongs to
    /// the master until that has shut down completely. Do not move or remove it meanwhile: nothing is started then. It holds no secrets; it does hold the names of workers and what drivers record. It grows to
    /// about 1 MiB, and then is replaced by a short one beside it (`<path>.latent-worker-new`, so the directory must be writable).
    /// What cannot be read in it is copied to `<path>.damaged-<number>` and [reported](Master::journal_damage). A lock
    /// on a file of a network may not be one.
    ///
    /// A journal belongs to one machine, and there to one namespace of processes: what still runs elsewhere is not found
    /// and counts as gone. A leftover is reclaimed by the driver of whichever worker has its name now. So keep the name,
    /// the kind of driver and the place of the instances as they are while anything is left of a worker: another kind
    /// finds nothing and says so. The highest number of an attempt is kept for every name of a worker that there ever
    /// was, so do not make up new names for ever.
    ///
    /// A start waits until its attempt is durable, which takes some milliseconds; starts at the same time share one
    /// sync. When the journal cannot be written nothing is started, with that reason; what runs is stopped all the
    /// same. No journal by default: nothing is written, and nobody waits.
    ///
    /// Blocks for as long as the file system takes, and up to a second when somebody else has the file.
    ///
    /// # Errors
    /// See [`JournalError`]; above all, when another master uses it.
    pub fn journal(self, path: impl AsRef<Path>) -> Result<Self, JournalError> {
        self.open_journal(path.as_ref(), Steps::default())
    }

    /// As [`journal`](MasterBuilder::journal), with `on_step` called around everything that is done to the file, on the
    /// thread that does it: for tests of what a crash or a full disk leads to. It may end the process; an error takes
    /// the place of the system's. It must not panic nor call the library. The file is replaced by a short one when it
    /// is longer than `longest` bytes and than four times the short one.
    ///
    /// # Errors
    /// As [`journal`](MasterBuilder::journal).
    #[cfg(feature = "testing")]
    pub fn journal_with_steps(
        self,
        path: impl AsRef<Path>,
        longest: u64,
        on_step: impl Fn(crate::journal::JournalStep) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self, JournalError> {
        self.open_journal(path.as_ref(), Steps::told_to(on_step).rewritten_beyond(longest))
    }

    fn open_journal(mut self, path: &Path, steps: Steps) -> Result<Self, JournalError> {
        self.journal = Some(Journal::open(path, steps, entropy::hex::<16>)?);
        Ok(self)
    }

    /// Makes the master and its timer thread, and a thread for the log if a logger is set that takes warnings; so set
    /// the logger first.
    ///
    /// # Panics
    /// When the system has no thread to give.
    pub fn build(self) -> Master {
        static MASTERS: AtomicU64 = AtomicU64::new(1);
        let number = MASTERS.fetch_add(1, Ordering::Relaxed);
        let Self { clock, agent_address, journal, placement, jitter, .. } = self;
        let shared = Arc::new(Shared::new(number, clock, agent_address, journal, placement, jitter));

        let jumped = Arc::downgrade(&shared);
        shared.clock.subscribe(Box::new(move || {
            if let Some(shared) = jumped.upgrade() {
                shared.fire_timer();
            }
        }));
        let timed = shared.clone();
        let log = LogThread::start(&shared.observers, number).expect("the system has a thread for the log");
        let timer = std::thread::Builder::new().name("lw timer".to_owned()).spawn(move || {
            threads::belong_to(number);
            while timed.timer.wait(&*timed.clock) {
                timed.fire_timer();
            }
        });
        if let Some(what) = shared.journal.as_ref().and_then(Journal::damage).cloned() {
            // For the log; nobody else can be listening yet.
            shared.publish(About::default(), EventKind::JournalTrouble { what });
        }
        let own = OwnThreads { timer: timer.expect("the system has a thread for the timer"), log };
        Master { handle: Arc::new(Handle { shared, threads: Mutex::new(Some(own)), drop_timeout: self.drop_timeout }) }
    }
}

impl fmt::Debug for MasterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterBuilder")
            .field("agent_address", &self.agent_address)
            .field("drop_timeout", &self.drop_timeout)
            .field("placement", &self.placement)
            .field("journal", &self.journal.as_ref().map(Journal::path))
            .finish_non_exhaustive()
    }
}

impl Default for Master {
    fn default() -> Self {
        Self::new()
    }
}

impl Master {
    /// A master with default settings.
    ///
    /// # Panics
    /// As [`MasterBuilder::build`].
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Settings to begin with.
    pub fn builder() -> MasterBuilder {
        MasterBuilder::default()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Adds a worker. It costs no thread until work needs it.
    ///
    /// Calls [`LatentWorker::builds_may_be_incompatible`], [`LatentWorker::says_kinds`] and
    /// [`LatentWorker::attached_check_interval`] on this thread.
    ///
    /// # Errors
    /// When the name is taken or not a name, when the driver panics, and after a shutdown began.
    pub fn add_worker(&self, config: WorkerConfig, driver: impl LatentWorker) -> Result<Worker, AddWorkerError> {
        let WorkerConfig { name, labels, limits } = config;
        if name.is_empty() || name.contains(':') || printable(&name) != *name {
            return Err(AddWorkerError::BadName(name));
        }
        let driver: Arc<dyn Driver> = Arc::new(driver);
        let may_be_incompatible = fenced("builds_may_be_incompatible", || driver.builds_may_be_incompatible())
            .map_err(AddWorkerError::Panicked)?;
        let attached_check_interval = fenced("attached_check_interval", || driver.attached_check_interval())
            .map_err(AddWorkerError::Panicked)?
            .map(|interval| interval.max(SHORTEST_CHECK_INTERVAL));
        let says_kinds = fenced("says_kinds", || driver.says_kinds()).map_err(AddWorkerError::Panicked)?;
        let identity = fenced("driver_identity", || driver.identity()).map_err(AddWorkerError::Panicked)?;
        let now = self.shared().clock.now();
        let last_epoch = self.shared().journal.as_ref().map(|journal| journal.last_epoch(&name)).unwrap_or_default();

        let (cell, left_behind) = {
            let mut workers = self.shared().workers.write();
            if self.shared().closing.load(Ordering::SeqCst) {
                return Err(AddWorkerError::ShutDown);
            }
            if workers.by_name.contains_key(&name) {
                return Err(AddWorkerError::NameTaken(name));
            }
            let index = WorkerIndex(u32::try_from(workers.list.len()).expect("fewer than 2^32 workers"));
            let left_behind = self.shared().leftovers.worker_added(now, &name);
            let seed = self.shared().jitter.then(entropy::seed);
            let held = !left_behind.is_empty();
            let life = Lifecycle::new(limits, attached_check_interval, last_epoch, held, seed, now);
            let driver = workers.drivers.hold(&driver, identity, says_kinds);
            let number = driver.number;
            let space = match (driver.says_kinds, may_be_incompatible) {
                (true, _) => Space::Said(number),
                (false, true) => Space::Asked,
                (false, false) => Space::Any,
            };
            let cell = Arc::new(WorkerCell::new(index, name.clone(), driver, space != Space::Any, life));
            workers.by_name.insert(name.clone(), index);
            workers.list.push(cell.clone());
            // With the list still locked, because the queue takes workers in the order of their indexes.
            let facts = cell.facts(now);
            let mut queue = self.shared().queue.lock();
            let Queue { placement, builds, .. } = &mut *queue;
            let build_of = |id| builds[&id].build.clone();
            placement.add_worker(index, name, labels, number, space, limits, facts, build_of);
            queue.worker_added(cell.clone());
            drop(queue);
            (cell, left_behind)
        };
        for remains in &left_behind {
            let reason = format!("an earlier master has not told its end ({})", remains.stage).into();
            self.shared().publish(leftovers::about(remains), EventKind::LeftBehind { reason });
        }
        self.shared().reclaim_what_is_due();
        let mut agenda = Agenda::default();
        agenda.look_at_queue();
        self.shared().perform(agenda);
        Ok(Worker { shared: self.shared().clone(), cell })
    }

    /// The worker of this name.
    pub fn worker(&self, name: &str) -> Option<Worker> {
        let cell = self.shared().workers.read().named(name).cloned()?;
        Some(Worker { shared: self.shared().clone(), cell })
    }

    /// All workers, in the order in which they were added.
    pub fn workers(&self) -> Vec<Worker> {
        let cells = self.shared().workers.read().list.clone();
        cells.into_iter().map(|cell| Worker { shared: self.shared().clone(), cell }).collect()
    }

    /// Puts a build into the queue, where it waits until an attached instance has a place for it. Every error comes as the
    /// ticket's answer.
    pub fn submit(&self, build: Build) -> Ticket {
        Ticket::submit(self.shared(), build)
    }

    /// As [`submit`](Master::submit), with the answers in a place shared with other builds.
    pub fn submit_to(&self, build: Build, inbox: &Inbox) -> BuildId {
        self.shared().submit(build, inbox.submitter(self.shared())).id
    }

    /// Submits a build, blocks until it has a lease, and does the work on this thread. When the work fails and the lease has
    /// ended meanwhile, because the connection was lost or the instance was stopped, the build is
    /// [retried](Lease::retry): after a pause, the work is done once more, on another worker if one fits.
    ///
    /// # Errors
    /// When the build gets no (further) lease or was cancelled, and when the work fails while its lease has not ended.
    ///
    /// # Panics
    /// When `work` does; the lease is given back.
    pub fn run<T, E: fmt::Display>(
        &self,
        build: Build,
        mut work: impl FnMut(&Lease) -> Result<T, E>,
    ) -> Result<T, RunError<E>> {
        let ticket = self.submit(build);
        loop {
            let lease = ticket.wait().map_err(RunError::Build)?;
            match (work(&lease), lease.end()) {
                (Ok(value), _) => {
                    lease.finish(BuildResult::Succeeded);
                    return Ok(value);
                }
                (Err(_), Some(LeaseEnd::Cancelled)) => return Err(RunError::Build(BuildError::Cancelled)),
                (Err(_), Some(lost)) => lease.retry(&lost.to_string()),
                (Err(error), _) => {
                    lease.finish(BuildResult::Failed(error.to_string().into()));
                    return Err(RunError::Work(error));
                }
            }
        }
    }

    /// Ends a build, wherever it is; see [`Ticket::cancel`].
    ///
    /// # Errors
    /// When it has ended already or never was.
    pub fn cancel(&self, build: BuildId) -> Result<(), UnknownBuild> {
        if self.shared().cancel_build(build) { Ok(()) } else { Err(UnknownBuild(build)) }
    }

    /// Returns where a build is and, while it waits, what stands in its way; `None` when it has ended.
    pub fn build_status(&self, build: BuildId) -> Option<BuildStatus> {
        let now = self.shared().clock.now();
        self.shared().queue.lock().placement.status(now, build)
    }

    /// Returns a page of the builds that wait: `limit` of them at most (1000 at most), the best claim first, beginning at
    /// `from`, or at the front.
    ///
    /// ```
    /// use latent_worker::Master;
    ///
    /// let master = Master::new();
    /// let mut page = master.queue(None, 100);
    /// while let Some(next) = page.next {
    ///     page = master.queue(Some(next), 100);
    /// }
    /// assert_eq!(page.total, 0);
    /// ```
    pub fn queue(&self, from: Option<QueuePosition>, limit: usize) -> QueuePage {
        let now = self.shared().clock.now();
        let Queue { placement, builds, .. } = &mut *self.shared().queue.lock();
        placement.page(now, from, limit.min(LONGEST_PAGE), |id| builds[&id].build.clone())
    }

    /// Lets an agent in that says to belong to `worker` and proves it with the secret of the attempt under way: for
    /// those who bring their own connections. Wrong and late ones are refused, counted, and change nothing.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&self, worker: &str, secret: &str, agent: impl Agent) -> Result<Attachment, AttachError> {
        self.shared().attach(worker, secret, Arc::new(agent))
    }

    /// Whether an agent of this name and secret would be let in now: for those who bring their own connections and have
    /// something to say to an agent before it [attaches](Master::attach). A refusal counts as that of an attach;
    /// otherwise nothing changes, and the attach may still be refused.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn knock(&self, worker: &str, secret: &str) -> Result<(), AttachError> {
        self.shared().knock(worker, secret)
    }

    /// The way in for agents that come over a network; it does not keep the master alive.
    #[cfg(feature = "agent")]
    pub(crate) fn attach_point(&self) -> Arc<dyn AttachPoint> {
        Arc::new(SharedPoint(Arc::downgrade(self.shared())))
    }

    /// All events from now on, in the order in which they happened. An observer that lets more than `capacity` of them
    /// lie misses some, and sees a gap in [`Event::sequence`]; nothing ever waits for it. A shutdown ends all waiting
    /// builds at once, so that who must not miss anything needs room for one event of each. The channel is disconnected
    /// when the master, its workers, tickets and leases are all dropped.
    pub fn events(&self, capacity: usize) -> Receiver<Event> {
        self.shared().observers.subscribe(capacity)
    }

    /// What every worker is doing, and why.
    pub fn status(&self) -> Vec<WorkerStatus> {
        let now = self.shared().clock.now();
        let cells = self.shared().workers.read().list.clone();
        cells.iter().map(|cell| cell.status(now)).collect()
    }

    /// Returns the number of steps that the workers of this master have completed, for tests; `None` while a thread is
    /// in the middle of a step. If the number is the same before and after a call of [`status`](Master::status),
    /// nothing has changed in between. [`testing::Watch::wait_quiet`](crate::testing::Watch::wait_quiet) builds on it.
    #[cfg(feature = "testing")]
    pub fn completed_steps(&self) -> Option<u64> {
        self.shared().steps.done()
    }

    /// What may have been left behind, and what is done about it: attempts of an earlier master on the same
    /// [journal](MasterBuilder::journal) that it has not told the end of, and instances whose stop has failed. By
    /// worker and attempt.
    pub fn leftovers(&self) -> Vec<LeftoverStatus> {
        self.shared().leftovers.status(self.shared().clock.now())
    }

    /// Takes something off the list of [`leftovers`](Master::leftovers), and out of the journal, because somebody has
    /// looked after it: it is known by its key. False if it is not on the list. With a journal, blocks until that is
    /// durable; after a shutdown the journal is not told any more.
    pub fn forget_leftover(&self, key: &str) -> bool {
        self.shared().forget_leftover(key)
    }

    /// What could not be read in the journal when it was opened, and where that was set aside; `None` when all of it
    /// could be read.
    pub fn journal_damage(&self) -> Option<Arc<str>> {
        self.shared().journal.as_ref().and_then(Journal::damage).cloned()
    }

    /// How many agents named a worker that does not exist. Those refused by a worker are counted in
    /// [`WorkerStatus::refused_agents`].
    pub fn unknown_agents(&self) -> u64 {
        self.shared().unknown_agents.load(Ordering::Relaxed)
    }

    /// Lets nothing new start, answers every build that waits, and stops every instance.
    ///
    /// Blocks until that is done, at most for `limit`; the shutdown goes on after that, and the report names what is
    /// still in flight. It may be called again, to wait longer or to turn a graceful shutdown into a fast one: that
    /// hurries the stops in flight ([`StopRequest::fast`](crate::StopRequest::fast)). Called on a thread of the library
    /// (in a driver, say) it does not block, since it would wait for itself.
    #[doc(alias = "close")]
    pub fn shutdown(&self, mode: ShutdownMode, limit: Duration) -> ShutdownReport {
        self.handle.shutdown(mode, limit)
    }
}

impl Handle {
    fn shutdown(&self, mode: ShutdownMode, limit: Duration) -> ShutdownReport {
        let shared = &self.shared;
        // One for everything that is waited for. `None`: later than a clock can say.
        let deadline = Instant::now().checked_add(limit);
        let fast = mode == ShutdownMode::Fast;
        let workers = {
            // With the list locked, so that no worker is added behind our back.
            let workers = shared.workers.write();
            shared.closing.store(true, Ordering::SeqCst);
            workers.list.clone()
        };
        shared.close_queue(fast);
        if fast {
            shared.leftovers.close();
        } else {
            shared.leftovers.close_soon(shared.clock.now());
            shared.reclaim_what_is_due();
        }
        for worker in &workers {
            worker.turn(shared, |turn| {
                if turn.inner.life.state() != WorkerState::ShutDown {
                    turn.apply(Input::Shutdown { fast });
                }
            });
        }

        let on_own_thread = threads::belongs_to(shared.number);
        let complete = if on_own_thread { shared.threads.live() == 0 } else { shared.threads.wait(deadline) };
        if complete && !on_own_thread {
            self.end_own_threads(|| deadline.map_or(limit, |at| at.saturating_duration_since(Instant::now())));
        }
        let now = shared.clock.now();
        let statuses = workers.iter().map(|worker| worker.status(now));
        let is_in_flight =
            |status: &WorkerStatus| status.state != WorkerState::ShutDown || status.in_journal || status.call.is_some();
        let in_flight = statuses.filter(is_in_flight).collect();
        let is_running = |leftover: &LeftoverStatus| matches!(leftover.next, LeftoverStep::Reclaiming(_));
        let left_behind = shared.leftovers.status(now);
        let reclaiming = left_behind.iter().filter(|leftover| is_running(leftover)).cloned().collect();
        ShutdownReport { complete, in_flight, reclaiming, left_behind }
    }

    /// Nothing is in flight any more, or nobody cares. `left`: the time that is left to wait for journal and log.
    fn end_own_threads(&self, left: impl Fn() -> Duration) {
        self.shared.timer.close();
        let own = self.threads.lock().take();
        if let Some(OwnThreads { timer, log }) = own {
            // It calls no user code, and has nothing left to do.
            let _ = timer.join();
            if let Some(journal) = &self.shared.journal {
                journal.close(left());
            }
            if let Some(log) = log {
                log.end(&self.shared.observers, left());
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shutdown = AssertUnwindSafe(|| {
            if self.threads.lock().is_none() {
                return; // shut down completely already
            }
            let report = self.shutdown(ShutdownMode::Fast, self.drop_timeout);
            if !report.complete && self.shared.observers.any() {
                let in_flight = report.to_string().into();
                self.shared.observers.publish(
                    self.shared.clock.now(),
                    About::default(),
                    EventKind::Abandoned { in_flight },
                );
            }
            // Whatever is still in flight ends by itself and needs no more deadlines; what is to be logged is in the
            // channel already.
            self.shared.timer.close();
            self.shared.observers.end_log();
        });
        // A panic here would be a defect of ours, of which the panic hook has told. A drop must not pass it on.
        let _ = catch_unwind(shutdown);
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Master").field("workers", &self.shared().workers.read().list.len()).finish_non_exhaustive()
    }
}
