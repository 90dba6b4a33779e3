//! Every error of the library: one type for each operation.
//!
//! Errors say what happened and, where a person can do something, what. They are cheap to clone where several askers
//! get the same answer. None of them ever holds a secret.
//!
//! [`StartError`] and [`StopError`] are what *drivers* return; like `anyhow::Error` they take any error through `?` and
//! for that reason are not `std::error::Error` themselves. All others are what *users* of the library get.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::build::{BuildId, Epoch, Labels};
use crate::printable::printable;

/// Any error that can cross threads.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The message of an error and of everything below it, as `what: inner: innermost`, made safe to show.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let message = inner.to_string();
        // Many errors repeat their source in their own message.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = inner.source();
    }
    printable(&text).into_owned()
}

/// Why an instance could not be brought up, as far as it matters for what happens next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FailureCause {
    /// Something in between is broken: the network, the engine, the machine. Also every cause that is not known.
    Infrastructure,
    /// The provider has none left of what was asked for.
    Capacity,
    /// The account may not have more.
    Quota,
    /// Too many requests; `retry_after` is the provider's own hint, and the worker's quarantine is at least as long.
    Throttled {
        /// How long the provider asks to wait.
        retry_after: Option<Duration>,
    },
    /// The credentials are missing, wrong or expired.
    Credentials,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Infrastructure => "infrastructure",
            Self::Capacity => "no capacity",
            Self::Quota => "quota exceeded",
            Self::Throttled { .. } => "throttled",
            Self::Credentials => "credentials",
        })
    }
}

/// What [`LatentWorker::start_instance`](crate::LatentWorker::start_instance) returns when there is no instance.
///
/// Whatever error is returned with `?` counts as an infrastructure failure:
///
/// ```
/// use latent_worker::StartError;
///
/// fn read_template() -> Result<String, StartError> {
///     let template = std::fs::read_to_string("/nowhere")?; // FailedToSubstantiate, infrastructure
///     if template.is_empty() {
///         return Err(StartError::cannot("the template is empty"));
///     }
///     Ok(template)
/// }
/// assert!(matches!(read_template(), Err(StartError::FailedToSubstantiate { .. })));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The build asks for something impossible: an image that does not exist, a size that is not offered. The build that
    /// the start was called for ends with this error, without a retry; the worker does not go into quarantine.
    CannotSubstantiate(BoxError),
    /// The start has failed this time. It is a failed attempt of the build that it was called for, which pauses and then
    /// prefers other workers. The worker goes into quarantine, unless the build or its kind is to blame.
    FailedToSubstantiate {
        /// What kind of failure it is.
        cause: FailureCause,
        /// What happened.
        source: BoxError,
    },
}

impl StartError {
    /// The build's own fault; see [`StartError::CannotSubstantiate`].
    pub fn cannot(reason: impl Into<BoxError>) -> Self {
        Self::CannotSubstantiate(reason.into())
    }

    /// A failure of the given cause; see [`StartError::FailedToSubstantiate`].
    pub fn failed(cause: FailureCause, reason: impl Into<BoxError>) -> Self {
        Self::FailedToSubstantiate { cause, source: reason.into() }
    }

    /// An infrastructure failure.
    pub fn infrastructure(reason: impl Into<BoxError>) -> Self {
        Self::failed(FailureCause::Infrastructure, reason)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotSubstantiate(source) => write!(f, "cannot substantiate: {}", chain(source.as_ref())),
            Self::FailedToSubstantiate { cause: FailureCause::Infrastructure, source } => {
                write!(f, "failed to substantiate: {}", chain(source.as_ref()))
            }
            Self::FailedToSubstantiate { cause, source } => {
                write!(f, "failed to substantiate ({cause}): {}", chain(source.as_ref()))
            }
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for StartError {
    fn from(error: E) -> Self {
        Self::infrastructure(error)
    }
}

/// What [`LatentWorker::stop_instance`](crate::LatentWorker::stop_instance) returns when something may be left behind.
/// It takes any error through `?`.
#[derive(Debug)]
pub struct StopError(BoxError);

impl StopError {
    /// Something could not be stopped or removed.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.0.as_ref()))
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for StopError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// The attempt was cancelled while its driver waited in [`StartRequest::sleep`](crate::StartRequest::sleep): clean up
/// and return.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the start was cancelled")]
pub struct Cancelled;

/// The stop is a fast one, or has become one while its driver waited in
/// [`StopRequest::sleep`](crate::StopRequest::sleep): end the instance without more grace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the stop was hurried")]
pub struct Hurried;

/// Why a worker did not take a request or did not attach for it: the answer of
/// [`Substantiation`](crate::Substantiation).
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SubstantiateError {
    /// The attempt failed: the start failed or panicked, a check was bad, or an earlier instance could not be stopped.
    #[error("failed to substantiate: {reason}")]
    Failed {
        /// What kind of failure.
        cause: FailureCause,
        /// What happened.
        reason: Arc<str>,
    },
    /// The build asks for what can never be; see [`StartError::CannotSubstantiate`].
    #[error("cannot substantiate: {reason}")]
    Cannot {
        /// What is wrong with the build.
        reason: Arc<str>,
    },
    /// The agent had not attached when the time of the request was over.
    #[error("no agent attached within {after:?}")]
    TimedOut {
        /// How long the request had waited.
        after: Duration,
    },
    /// The request was cancelled by its caller.
    #[error("cancelled")]
    Cancelled,
    /// Somebody asked to stop the instance while the request waited.
    #[error("the instance was stopped on request")]
    Insubstantiated,
    /// The worker is paused; unpause it first.
    #[error("the worker is paused")]
    Paused,
    /// The worker failed a short while ago and is left alone for some time; unpausing ends that.
    #[error("the worker is in quarantine for another {remaining:?}")]
    Quarantined {
        /// How long the quarantine lasts from now.
        remaining: Duration,
    },
    /// Something of an earlier instance is in the way and has to be reclaimed first; see
    /// [`Master::leftovers`](crate::Master::leftovers). Unpausing the worker has it used all the same.
    #[error("something that an earlier instance of the worker has left behind is not gone yet")]
    LeftBehind,
    /// The worker has as many builds as it may have.
    #[error("the worker already has as many builds as it may have")]
    Full,
    /// The attached instance does not fit the build, and is in use or waited for.
    #[error("the running instance is incompatible with the build{}", .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    Incompatible {
        /// What the driver said, when it failed to answer.
        reason: Option<Arc<str>>,
    },
    /// The master is shutting down.
    #[error("the master is shutting down")]
    ShutDown,
    /// The one answer to the request was taken already.
    #[error("the request has been answered")]
    Answered,
}

/// A failed attempt at a build.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The worker on which it failed.
    pub worker: Arc<str>,
    /// The attempt of that worker.
    pub epoch: Epoch,
    /// What went wrong.
    pub reason: Arc<str>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempt {}): {}", self.worker, self.epoch, self.reason)
    }
}

/// Why a submitted build gets no (further) lease: the answer of [`Ticket`](crate::Ticket).
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No worker of this master offers all labels that the build needs, so that it would wait for ever.
    #[error("no worker can take the build: it needs the labels {needed}; {advice}")]
    NoWorkerFits {
        /// What the build needs.
        needed: Labels,
        /// Which of them nobody offers, or that nobody offers all of them together.
        advice: Arc<str>,
    },
    /// The build's own fault; it was not retried.
    #[error("cannot substantiate: {reason}")]
    Cannot {
        /// What is wrong with it.
        reason: Arc<str>,
        /// The attempts before.
        history: Vec<Attempt>,
    },
    /// As many attempts have failed as the build or the master allows; see
    /// [`Build::with_max_attempts`](crate::Build::with_max_attempts).
    #[error("gave up after {attempts} attempt{}; the last one: {}", if *.attempts == 1 { "" } else { "s" }, .history.last().map(ToString::to_string).unwrap_or_default())]
    AttemptsExhausted {
        /// How many attempts have failed.
        attempts: u32,
        /// The first attempt and the latest ones, in their order, 32 at most.
        history: Vec<Attempt>,
    },
    /// Somebody cancelled the build.
    #[error("cancelled")]
    Cancelled,
    /// The master was shut down before the build had a lease.
    #[error("the master is shutting down")]
    ShutDown,
    /// The final answer was taken already, or the build was ended by dropping its lease.
    #[error("the build has ended")]
    Ended,
}

/// Why a lease ended before its holder gave it back.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Error)]
#[non_exhaustive]
pub enum LeaseEnd {
    /// The agent's connection is gone: try again elsewhere ([`Lease::retry`](crate::Lease::retry)).
    #[error("the connection to the agent was lost: {0}")]
    Lost(Arc<str>),
    /// The instance is stopped without waiting for its builds: a fast stop or a fast shutdown.
    #[error("the instance is being stopped")]
    Stopped,
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// The lease was not taken out of its ticket or inbox in time; see
    /// [`PlacementConfig::with_claim_timeout`](crate::PlacementConfig::with_claim_timeout).
    #[error("the lease was not taken in time")]
    Abandoned,
}

/// Why an agent was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no worker of that name.
    #[error("no worker of that name")]
    UnknownWorker,
    /// The secret is not that of any attempt that is remembered.
    #[error("wrong secret")]
    WrongSecret,
    /// The secret is right, but its attempt has ended.
    #[error("the attempt that this secret belongs to has ended")]
    Stale,
    /// The agent of this attempt is attached already.
    #[error("an agent is attached already")]
    AlreadyAttached,
}

/// Why a worker was not added.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum AddWorkerError {
    /// Names are unique within a master.
    #[error("there is a worker named {0:?} already")]
    NameTaken(Arc<str>),
    /// Agents log in as `name:secret`, and the name is seen in logs.
    #[error("invalid worker name {0:?}: it must not be empty or contain a colon, control characters or invisible ones")]
    BadName(Arc<str>),
    /// The driver panicked when it was asked for something that does not change.
    #[error("the driver panicked when the worker was added: {0}")]
    Panicked(Arc<str>),
    /// Nothing new starts after a shutdown began.
    #[error("the master is shutting down")]
    ShutDown,
}

/// Why a command has no end of its own.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The agent of this kind of worker runs no commands.
    #[error("this worker's agent does not run commands")]
    Unsupported,
    /// The command could not be started.
    #[error("cannot start {program:?}: {source}")]
    Start {
        /// What was to be run.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The agent has tried to run the command and could not; this is what it says.
    #[error("the agent could not run the command: {0}")]
    Failed(String),
    /// The lease ended while the command ran; the command was killed.
    #[error(transparent)]
    LeaseEnded(#[from] LeaseEnd),
    /// The agent went away without saying how the command ended.
    #[error("the agent did not say how the command ended")]
    NoEnd,
}

/// Why something with a file of an instance was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The agent of this kind of worker does nothing with files.
    #[error("this worker's agent does nothing with files")]
    Unsupported,
    /// The path cannot be said to this agent: it is empty, or has characters that are none there.
    #[error("{path:?} is no path for this agent: {reason}")]
    BadPath {
        /// What was asked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The instance's system has refused; the kind of `source` tells what in particular, as far as the agent says it.
    #[error("{} on the instance: {source}", .path.display())]
    Instance {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller's own reader or writer failed.
    #[error("this end of the transfer failed: {0}")]
    Caller(#[source] std::io::Error),
    /// The agent was told to give up. Who holds a lease gets [`FileError::LeaseEnded`] instead, which says why.
    #[error("interrupted")]
    Interrupted,
    /// The lease has ended, and what went on with it.
    #[error(transparent)]
    LeaseEnded(#[from] LeaseEnd),
    /// The agent has tried and could not; this is what it says, or how it panicked.
    #[error("the agent failed: {0}")]
    Failed(String),
}

/// A build that the master does not know (any more).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("build {0} is unknown or has ended")]
pub struct UnknownBuild(pub BuildId);

/// Why a journal cannot be used. It is as it was then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another master uses it. One journal serves one master: give each its own, or end the other one.
    #[error("the journal {} is in use{}; one journal serves one master", .path.display(), .process.map(|number| format!(" by process {number}")).unwrap_or_default())]
    InUse {
        /// Which journal.
        path: PathBuf,
        /// The number of the process that has opened it last, if that could be read.
        process: Option<u32>,
    },
    /// The path names something else: a directory, a device, or a file with other things in it.
    #[error("{} is not a journal; it was left as it is", .path.display())]
    NotAJournal {
        /// What was taken for a journal.
        path: PathBuf,
    },
    /// A later version of this library has written it.
    #[error("the journal {} has the format {version}, which this version of the library does not know", .path.display())]
    Version {
        /// Which journal.
        path: PathBuf,
        /// The number of its format.
        version: u32,
    },
    /// The system refuses something.
    #[error("cannot {what} the journal {}: {source}", .path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// Which journal.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why an id could not be [recorded](crate::StartRequest::record): nobody will find what it names after a crash. Remove
/// what was made, and let the start fail.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the id {id:?} could not be recorded: {reason}")]
pub struct RecordError {
    /// The id.
    pub id: Arc<str>,
    /// What is wrong with it, or what the system said.
    pub reason: Arc<str>,
}
