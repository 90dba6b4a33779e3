//! What an observer sees: [`Event`]s as they happen and [`WorkerStatus`] at any moment, both with reasons.
//!
//! Plain values; how they are collected and delivered is decided elsewhere.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::build::{BuildId, Epoch};
use crate::error::{AttachError, StartError};
use crate::journal::LeftoverStage;
use crate::printable::printable;
#[allow(unused_imports, reason = "named by the documentation")]
use crate::worker::LatentWorker;
use crate::worker::Reclaimed;

/// Something that happened, with its place in the order of all events of one master.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Event {
    /// 0, 1, 2 …: the order in which things happened. A gap means that the observer was too slow and missed some.
    pub sequence: u64,
    /// When, as the time since the master was made.
    pub at: Duration,
    /// The worker that it is about.
    pub worker: Option<Arc<str>>,
    /// The attempt of that worker.
    pub epoch: Option<Epoch>,
    /// The build that it is about.
    pub build: Option<BuildId>,
    /// What happened.
    pub kind: EventKind,
}

#[cfg(feature = "testing")]
impl Event {
    /// Creates an event, for tests of code that reads events, for example from a record in another format. `epoch` and
    /// `build` are the numbers of an attempt and of a build.
    pub fn made_by_hand(
        sequence: u64,
        at: Duration,
        worker: Option<&str>,
        epoch: Option<u64>,
        build: Option<u64>,
        kind: EventKind,
    ) -> Self {
        let worker = worker.map(Into::into);
        Self { sequence, at, worker, epoch: epoch.map(Epoch), build: build.map(BuildId), kind }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A build was submitted, or is back in the queue after a failed attempt; then it pauses first.
    BuildQueued {
        /// The name of the build.
        name: Arc<str>,
        /// Why the attempt failed; `None` when the build is new.
        retry: Option<Arc<str>>,
    },
    /// A lease was given out: the build, if there is one, has the instance.
    BuildStarted,
    /// A build has ended; the last event about it.
    BuildFinished {
        /// How.
        result: BuildResult,
    },
    /// `start_instance` is called.
    StartCalled,
    /// `start_instance` has returned, with the instance's details or what went wrong.
    StartReturned {
        /// What it returned.
        result: Result<Vec<String>, Arc<str>>,
    },
    /// A driver says what its start is doing.
    Progress {
        /// In its own words.
        text: Arc<str>,
    },
    /// `check_instance` is called.
    CheckCalled,
    /// `check_instance` has returned.
    CheckReturned {
        /// Well, or what is wrong.
        result: Result<(), Arc<str>>,
    },
    /// `stop_instance` is called.
    StopCalled {
        /// Without grace.
        fast: bool,
        /// Why the instance is stopped.
        cause: StopCause,
    },
    /// `stop_instance` has returned. After a failure something may be left behind.
    StopReturned {
        /// What it returned.
        result: Result<(), Arc<str>>,
    },
    /// The agent has attached.
    Attached,
    /// The instance was started and its agent has attached, in either order: "substantiate success". Once per attempt.
    Substantiated {
        /// The short strings that the driver gave for this moment.
        details: Vec<String>,
    },
    /// The agent is gone.
    Detached {
        /// Why.
        reason: Arc<str>,
    },
    /// An agent was not let in.
    AttachRefused {
        /// Why.
        error: AttachError,
    },
    /// The worker starts nothing and takes no builds for a while after a failure: its start or its stop failed, a check was
    /// bad, its agent did not attach in time or was lost before a build had run for a second. The first quarantine takes
    /// 10 s; the length doubles with every further failure, to an hour, and a build that finishes resets it. A failure
    /// for which the build or its kind is known to be to blame begins none.
    Quarantined {
        /// For how long: up to a quarter less than the full length, so that workers that fail together do not come back
        /// together. What the provider asks for is exceeded by up to a quarter.
        length: Duration,
        /// The failure.
        reason: Arc<str>,
    },
    /// A quarantine has ended before its time, because the build, its kind or all workers of the driver were to blame, or
    /// because what a failed stop had left behind is gone. The length of the next quarantine is what it would be without
    /// a failure that others are to blame for.
    QuarantineLifted {
        /// Why.
        reason: Arc<str>,
    },
    /// A lease was given back or has ended. The lease of a cancelled build has ended, but keeps its place until its holder
    /// gives it back.
    Released {
        /// Why it ended before it was given back.
        end: Option<Arc<str>>,
    },
    /// The worker takes no new builds until it is unpaused.
    Paused,
    /// The worker takes builds again; its quarantine has ended too.
    Unpaused,
    /// The attempt may have left something behind: its stop has failed, or an earlier master has not told its end. It
    /// is on the list of [`Master::leftovers`](crate::Master::leftovers).
    LeftBehind {
        /// Why.
        reason: Arc<str>,
    },
    /// [`LatentWorker::reclaim`] is called for an attempt that may have left something behind.
    ReclaimCalled,
    /// [`LatentWorker::reclaim`] has returned.
    ReclaimReturned {
        /// What it returned.
        result: Result<Reclaimed, Arc<str>>,
        /// When it is tried again.
        next_try: Option<Duration>,
    },
    /// Part of the journal could not be read, or it cannot be written now. What is not written counts as not done: an
    /// instance that is gone by now may be looked for again by the next master.
    JournalTrouble {
        /// What happened.
        what: Arc<str>,
    },
    /// User code panicked where nobody could be given an error: an agent's `close` or drop, say.
    Panicked {
        /// Which, and its message.
        what: Arc<str>,
    },
    /// The last handle of the master was dropped, and what was in flight could not be waited for long enough, or not at
    /// all because it was dropped on a thread of the library.
    Abandoned {
        /// What was still in flight.
        in_flight: Arc<str>,
    },
    /// The shutdown of the master has begun, or has become a fast one.
    Shutdown {
        /// Running builds are not waited for.
        fast: bool,
    },
}

impl EventKind {
    /// A name for machines, in snake case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BuildQueued { .. } => "build_queued",
            Self::BuildStarted => "build_started",
            Self::BuildFinished { .. } => "build_finished",
            Self::StartCalled => "start_called",
            Self::StartReturned { .. } => "start_returned",
            Self::Progress { .. } => "progress",
            Self::CheckCalled => "check_called",
            Self::CheckReturned { .. } => "check_returned",
            Self::StopCalled { .. } => "stop_called",
            Self::StopReturned { .. } => "stop_returned",
            Self::Attached => "attached",
            Self::Substantiated { .. } => "substantiate_success",
            Self::Detached { .. } => "detached",
            Self::AttachRefused { .. } => "attach_refused",
            Self::Quarantined { .. } => "quarantined",
            Self::QuarantineLifted { .. } => "quarantine_lifted",
            Self::Released { .. } => "released",
            Self::Paused => "paused",
            Self::Unpaused => "unpaused",
            Self::LeftBehind { .. } => "left_behind",
            Self::ReclaimCalled => "reclaim_called",
            Self::ReclaimReturned { .. } => "reclaim_returned",
            Self::JournalTrouble { .. } => "journal_trouble",
            Self::Panicked { .. } => "panicked",
            Self::Abandoned { .. } => "abandoned",
            Self::Shutdown { .. } => "shutdown",
        }
    }

    /// Why, where the event has a reason: an error, a message, a length of time.
    pub fn reason(&self) -> Option<String> {
        let error = |result: &Result<(), Arc<str>>| result.as_ref().err().map(ToString::to_string);
        match self {
            Self::BuildQueued { retry, .. } => retry.as_deref().map(str::to_owned),
            Self::BuildFinished { result } => result.reason().map(str::to_owned),
            Self::StartReturned { result: Ok(details) } | Self::Substantiated { details } => {
                (!details.is_empty()).then(|| details.join(", "))
            }
            Self::StartReturned { result: Err(reason) } | Self::Detached { reason } => Some(reason.to_string()),
            Self::Panicked { what: text }
            | Self::Abandoned { in_flight: text }
            | Self::Progress { text }
            | Self::LeftBehind { reason: text }
            | Self::QuarantineLifted { reason: text }
            | Self::JournalTrouble { what: text } => Some(text.to_string()),
            Self::ReclaimReturned { result: Ok(Reclaimed::Gone), .. } => None,
            Self::ReclaimReturned { result: Ok(Reclaimed::Pending), .. } => {
                Some("nothing is there, but something may still come".to_owned())
            }
            Self::ReclaimReturned { result: Ok(Reclaimed::Unsupported), .. } => {
                Some("the driver cannot reclaim".to_owned())
            }
            Self::ReclaimReturned { result: Err(reason), next_try: Some(time) } => {
                Some(format!("{reason}; again in {time:.1?}"))
            }
            Self::ReclaimReturned { result: Err(reason), next_try: None } => Some(reason.to_string()),
            Self::CheckReturned { result } | Self::StopReturned { result } => error(result),
            Self::AttachRefused { error } => Some(error.to_string()),
            Self::Quarantined { length, reason } => Some(format!("for {length:?}: {reason}")),
            Self::StopCalled { cause, .. } => Some(cause.to_string()),
            Self::Released { end } => end.as_deref().map(str::to_owned),
            Self::BuildStarted
            | Self::StartCalled
            | Self::CheckCalled
            | Self::ReclaimCalled
            | Self::Attached
            | Self::Paused
            | Self::Unpaused
            | Self::Shutdown { .. } => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(worker) = &self.worker {
            write!(f, "worker {worker}: ")?;
        }
        f.write_str(&self.kind.name().replace('_', " "))?;
        if let Some(build) = self.build {
            write!(f, ", build {build}")?;
        }
        match self.kind.reason() {
            // The names of builds may contain anything.
            Some(reason) => write!(f, ": {}", printable(&reason)),
            None => Ok(()),
        }
    }
}

/// Why an instance is stopped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum StopCause {
    /// It was unused for as long as the idle policy allows.
    Idle,
    /// Its build has ended, and the idle policy is [`IdlePolicy::AfterBuild`](crate::IdlePolicy::AfterBuild).
    AfterBuild,
    /// Its start failed, a check was bad, or its agent did not attach in time.
    Failed,
    /// It was cancelled while it started: nothing needs it any more.
    Cancelled,
    /// The connection to its agent was lost.
    Lost,
    /// It makes room for an instance of another kind.
    Incompatible,
    /// A check after the attach of its agent, or the holder of a lease, has found that it is bad or about to end.
    Retired,
    /// [`Worker::insubstantiate`](crate::Worker::insubstantiate) was called.
    Requested,
    /// The master is shutting down.
    Shutdown,
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::AfterBuild => "its build is over",
            Self::Failed => "it did not come up",
            Self::Cancelled => "nobody waits for it any more",
            Self::Lost => "its agent is gone",
            Self::Incompatible => "it does not fit the next build",
            Self::Retired => "it is bad or about to end",
            Self::Requested => "on request",
            Self::Shutdown => "shutdown",
        })
    }
}

/// How a build ended.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BuildResult {
    /// The holder of the lease said that the work succeeded.
    Succeeded,
    /// The holder of the lease said that the work failed, and why.
    Failed(Arc<str>),
    /// The lease was dropped without a result.
    Dropped,
    /// Cancelled.
    Cancelled,
    /// Its lease was not taken out of the ticket or inbox in time; see
    /// [`PlacementConfig::with_claim_timeout`](crate::PlacementConfig::with_claim_timeout).
    Abandoned,
    /// It could not be run; see [`BuildError`](crate::BuildError) for the possible reasons.
    NotRun(Arc<str>),
}

impl BuildResult {
    /// A name for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Dropped => "dropped",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::NotRun(_) => "not_run",
        }
    }

    /// Why, where there is a reason.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) | Self::NotRun(reason) => Some(reason),
            Self::Succeeded | Self::Dropped | Self::Cancelled | Self::Abandoned => None,
        }
    }
}

/// The state of a worker, in the words of Buildbot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum WorkerState {
    /// There is no instance.
    NotSubstantiated,
    /// An instance is wanted; no call to the driver was made yet.
    Substantiating,
    /// The start was called, but has not returned an instance yet, or the agent has not attached yet. Builds run from
    /// the attach on.
    SubstantiatingStarting,
    /// The instance was started and its agent has attached.
    Substantiated,
    /// The instance is being stopped.
    Insubstantiating,
    /// The instance is being stopped and a new start waits for that.
    InsubstantiatingSubstantiating,
    /// The worker is not used any more.
    ShutDown,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSubstantiated => "not substantiated",
            Self::Substantiating => "substantiating",
            Self::SubstantiatingStarting => "starting",
            Self::Substantiated => "substantiated",
            Self::Insubstantiating => "stopping",
            Self::InsubstantiatingSubstantiating => "stopping, to start again",
            Self::ShutDown => "shut down",
        })
    }
}

/// A call into a driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum DriverCall {
    /// [`LatentWorker::start_instance`].
    Start,
    /// [`LatentWorker::check_instance`].
    Check,
    /// [`LatentWorker::is_compatible_with_build`].
    Compatible,
    /// [`LatentWorker::stop_instance`].
    Stop,
    /// [`LatentWorker::kind`]. It runs beside the life of a worker, and on behalf of all workers that share the driver.
    Kind,
    /// [`LatentWorker::reclaim`]. It runs beside the life of a worker: a [`WorkerStatus`] never shows it.
    Reclaim,
}

impl fmt::Display for DriverCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start_instance",
            Self::Check => "check_instance",
            Self::Compatible => "is_compatible_with_build",
            Self::Stop => "stop_instance",
            Self::Kind => "kind",
            Self::Reclaim => "reclaim",
        })
    }
}

/// What a worker is doing and why. Its `Display` says it in a line.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// The name of the worker.
    pub name: Arc<str>,
    /// The state.
    pub state: WorkerState,
    /// How long it has been in this state.
    pub state_for: Duration,
    /// The current attempt, or the last one.
    pub epoch: Epoch,
    /// The driver call that has not returned yet, and how long ago it was made.
    pub call: Option<(DriverCall, Duration)>,
    /// Whether the agent is attached.
    pub attached: bool,
    /// How many leases are out.
    pub leases: usize,
    /// How many requests wait for the agent.
    pub waiting: usize,
    /// What happens next by itself, and in what time.
    pub next: Option<(NextStep, Duration)>,
    /// What the driver said about the instance, or about what it is doing.
    pub details: Vec<String>,
    /// The last failure, and how long ago it was.
    pub last_failure: Option<(Arc<str>, Duration)>,
    /// How long the worker stays in quarantine.
    pub quarantine: Option<Duration>,
    /// Whether it takes no builds until it is unpaused.
    pub paused: bool,
    /// Whether it takes no builds until what an earlier master has left behind of it is gone; unpausing ends that too.
    pub held: bool,
    /// Whether an attempt, be it one that was cancelled, waits for the journal. The next one begins after that.
    pub in_journal: bool,
    /// How many agents were not let in.
    pub refused_agents: u64,
}

/// An attempt that may have left something behind, and what is done about it. Its `Display` says it in a line.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LeftoverStatus {
    /// The worker that it belongs to. It need not be one of this master.
    pub worker: Arc<str>,
    /// The attempt of that worker.
    pub epoch: Epoch,
    /// The key of the attempt; see [`StartRequest::key`](crate::StartRequest::key).
    pub key: Arc<str>,
    /// Whose it is; see [`StartRequest::owner`](crate::StartRequest::owner).
    pub owner: Arc<str>,
    /// What its start has [recorded](crate::StartRequest::record).
    pub ids: Vec<Arc<str>>,
    /// How far it had come.
    pub stage: LeftoverStage,
    /// Whether an earlier master has left it; otherwise its stop has failed in this one.
    pub of_earlier_master: bool,
    /// How long it has been on the list of this master.
    pub since: Duration,
    /// How often its stop and its reclaim have failed.
    pub tries: u32,
    /// Why, the last time.
    pub reason: Option<Arc<str>>,
    /// What is done about it.
    pub next: LeftoverStep,
}

/// What happens to something that was left behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum LeftoverStep {
    /// Nothing: the master has no worker of that name whose driver could be asked.
    NoWorker,
    /// It is reclaimed in this time, or as soon as there is room among those that run.
    ReclaimIn(Duration),
    /// It is being reclaimed for this long.
    Reclaiming(Duration),
    /// Nothing: its driver cannot reclaim. Look after it, and then
    /// [`Master::forget_leftover`](crate::Master::forget_leftover).
    Unsupported,
}

impl fmt::Display for LeftoverStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorker => f.write_str("there is no such worker"),
            Self::ReclaimIn(time) => write!(f, "reclaimed in {:.1} s", time.as_secs_f64()),
            Self::Reclaiming(time) => write!(f, "being reclaimed for {:.1} s", time.as_secs_f64()),
            Self::Unsupported => f.write_str("its driver cannot reclaim"),
        }
    }
}

impl fmt::Display for LeftoverStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempt {}, key {}): {}", self.worker, self.epoch, self.key, self.stage)?;
        if !self.ids.is_empty() {
            write!(f, ", {}", printable(&self.ids.join(", ")))?;
        }
        write!(f, "; {}", self.next)?;
        let times = if self.tries == 1 { "once".to_owned() } else { format!("{} times", self.tries) };
        match &self.reason {
            Some(reason) => write!(f, "; failed {times}: {}", printable(reason)),
            None => Ok(()),
        }
    }
}

/// What a worker does by itself when the time comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum NextStep {
    /// Gives up waiting for the agent.
    GiveUp,
    /// Looks after the instance.
    Check,
    /// Stops the idle instance.
    StopIdle,
    /// Comes out of quarantine.
    EndQuarantine,
}

impl fmt::Display for NextStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GiveUp => "gives up",
            Self::Check => "checks",
            Self::StopIdle => "stops",
            Self::EndQuarantine => "out of quarantine",
        })
    }
}

impl fmt::Display for WorkerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        write!(f, "{}: {} for {}", self.name, self.state, seconds(&self.state_for))?;
        match self.state {
            WorkerState::Substantiated if self.leases == 0 => f.write_str(", idle")?,
            WorkerState::Substantiated => write!(f, ", {} build(s)", self.leases)?,
            _ if self.waiting > 0 => write!(f, ", {} waiting", self.waiting)?,
            _ => {}
        }
        if self.state == WorkerState::Substantiated && !self.attached {
            f.write_str(", its agent is gone and may re-attach")?;
        }
        if let Some((call, since)) = &self.call {
            write!(f, "; in {call} for {}", seconds(since))?;
        }
        if self.paused {
            f.write_str("; paused")?;
        }
        if self.held {
            f.write_str("; waits until what was left behind is gone")?;
        }
        if self.in_journal {
            f.write_str("; waits for the journal")?;
        }
        if let Some((step, time)) = &self.next {
            write!(f, "; {step} in {}", seconds(time))?;
        }
        if let Some((reason, ago)) = &self.last_failure {
            write!(f, "; last failure {} ago: {reason}", seconds(ago))?;
        }
        Ok(())
    }
}

/// What a start ended with, as the lifecycle sees it: no instance and no error type of a driver, only words.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum StartFailure {
    Cannot(Arc<str>),
    Failed(crate::error::FailureCause, Arc<str>),
}

impl From<StartError> for StartFailure {
    fn from(error: StartError) -> Self {
        use crate::error::chain;
        match error {
            StartError::CannotSubstantiate(source) => Self::Cannot(chain(source.as_ref()).into()),
            StartError::FailedToSubstantiate { cause, source } => Self::Failed(cause, chain(source.as_ref()).into()),
        }
    }
}
