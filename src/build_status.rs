//! Where the builds of the queue are at this moment, and why those that wait do not run.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::build::BuildId;
use crate::error::Attempt;

/// Where a submitted build is, and why it does not run yet; see [`Master::build_status`](crate::Master::build_status).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BuildStatus {
    /// Its number.
    pub id: BuildId,
    /// Where it is.
    pub state: BuildState,
    /// The attempts that have failed so far: the first one and the latest ones, 32 at most.
    pub history: Vec<Attempt>,
}

impl fmt::Display for BuildStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "build {}: {}", self.id, self.state)?;
        self.history.iter().try_for_each(|attempt| write!(f, "; before that, {attempt}"))
    }
}

/// Where a submitted build is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BuildState {
    /// In the queue, and why.
    Waiting(Box<Waiting>),
    /// Its lease is out.
    Running {
        /// The worker.
        worker: Arc<str>,
    },
}

impl fmt::Display for BuildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting(waiting) => waiting.fmt(f),
            Self::Running { worker } => write!(f, "running on {worker}"),
        }
    }
}

/// Why a build waits: what stands in its way on each worker whose labels fit, and what happens next.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Waiting {
    /// The names of the kinds of instances that can run it. Empty while no driver has said its kind yet, and where every
    /// instance can run it.
    pub kinds: Vec<String>,
    /// Builds that need the same kinds and labels and go first. Counted up to 1000.
    pub ahead: usize,
    /// The workers whose labels fit, by what stands in the way there.
    pub obstacles: Vec<Obstacle>,
    /// What has to happen next.
    pub next: NextChance,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("waiting")?;
        if self.ahead > 0 {
            let more = if self.ahead >= LONGEST_COUNT { " or more" } else { "" };
            write!(f, " behind {}{more}", count(self.ahead, "build"))?;
        }
        if let [kind] = self.kinds.as_slice() {
            write!(f, " for an instance of kind {kind}")?;
        }
        write!(f, ": {}", self.next)?;
        for (i, obstacle) in self.obstacles.iter().enumerate() {
            write!(f, "{}{obstacle}", if i == 0 { "; " } else { ", " })?;
        }
        Ok(())
    }
}

/// Builds ahead are counted up to this number.
pub(crate) const LONGEST_COUNT: usize = 1000;

/// Workers on which the same thing stands in the way of a build.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Obstacle {
    /// What stands in the way.
    pub reason: ObstacleReason,
    /// The number of workers.
    pub workers: usize,
    /// One of them; its [`Worker::status`](crate::Worker::status) tells more.
    pub example: Arc<str>,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, workers, example } = self;
        match workers {
            1 => write!(f, "{example} {reason}"),
            workers => write!(f, "{workers} workers such as {example} {}", reason.of_many()),
        }
    }
}

/// What stands in the way of a build on a worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum ObstacleReason {
    /// The worker has no instance. Builds with a better claim get theirs first, or waiting for another instance is expected
    /// to be shorter than a start, or starts of this kind or of this driver pause after failures.
    Down,
    /// An instance is starting.
    Starting,
    /// The instance is being stopped.
    Stopping,
    /// An instance has a free place, but it is of another kind, or the build has failed there.
    Unsuitable,
    /// All places of the instance are in use.
    Busy,
    /// The instance takes no more builds.
    Draining,
    /// The agent of the instance is gone.
    Detached,
    /// A call of the driver has not returned for too long.
    Overdue,
    /// The worker is in quarantine after a failure.
    Quarantined,
    /// The worker is paused.
    Paused,
    /// The worker waits until what an earlier attempt has left behind is gone.
    LeftBehind,
    /// The worker is shut down.
    ShutDown,
}

impl ObstacleReason {
    pub(crate) const ALL: [Self; 12] = [
        Self::Down,
        Self::Starting,
        Self::Stopping,
        Self::Unsuitable,
        Self::Busy,
        Self::Draining,
        Self::Detached,
        Self::Overdue,
        Self::Quarantined,
        Self::Paused,
        Self::LeftBehind,
        Self::ShutDown,
    ];

    /// Returns a name for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Unsuitable => "unsuitable",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Detached => "detached",
            Self::Overdue => "overdue",
            Self::Quarantined => "quarantined",
            Self::Paused => "paused",
            Self::LeftBehind => "left_behind",
            Self::ShutDown => "shut_down",
        }
    }

    fn of_many(self) -> &'static str {
        match self {
            Self::Down => "have no instance",
            Self::Starting => "are starting",
            Self::Stopping => "are stopping",
            Self::Unsuitable => "have an instance of another kind",
            Self::Busy => "are busy",
            Self::Draining => "are draining",
            Self::Detached => "have lost their agent",
            Self::Overdue => "have a call that takes too long",
            Self::Quarantined => "are in quarantine",
            Self::Paused => "are paused",
            Self::LeftBehind => "wait until what was left behind is gone",
            Self::ShutDown => "are shut down",
        }
    }
}

impl fmt::Display for ObstacleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "has no instance",
            Self::Starting => "is starting",
            Self::Stopping => "is stopping",
            Self::Unsuitable => "has an instance of another kind",
            Self::Busy => "is busy",
            Self::Draining => "is draining",
            Self::Detached => "has lost its agent",
            Self::Overdue => "has a call that takes too long",
            Self::Quarantined => "is in quarantine",
            Self::Paused => "is paused",
            Self::LeftBehind => "waits until what was left behind is gone",
            Self::ShutDown => "is shut down",
        })
    }
}

/// What has to happen next for a build that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NextChance {
    /// Its pause after a failed attempt ends.
    Pause {
        /// From now.
        remaining: Duration,
    },
    /// The pause of its kind ends, whose starts have failed on several workers.
    KindPause {
        /// From now.
        remaining: Duration,
    },
    /// The pause of the drivers of all workers that fit ends: their starts have failed on several workers.
    DriverPause {
        /// From now.
        remaining: Duration,
    },
    /// An instance that is starting attaches.
    Attach {
        /// The worker.
        worker: Arc<str>,
        /// How long the start has taken.
        elapsed: Duration,
        /// How long such a start is expected to take, if that is known.
        expected: Option<Duration>,
    },
    /// Its patience ends: it has been passed over by younger builds of other kinds, and then gets the next place.
    Patience {
        /// From now.
        remaining: Duration,
    },
    /// A driver says which kind of instance it needs.
    Question,
    /// A place becomes free.
    Place,
}

impl fmt::Display for NextChance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause { remaining } => write!(f, "the next attempt is in {}", seconds(remaining)),
            Self::KindPause { remaining } => {
                write!(f, "starts of its kind have failed, the next one is in {}", seconds(remaining))
            }
            Self::DriverPause { remaining } => {
                write!(f, "starts have failed on several workers, the next one is in {}", seconds(remaining))
            }
            Self::Attach { worker, elapsed, expected } => {
                write!(f, "{worker} has been starting for {}", seconds(elapsed))?;
                expected.iter().try_for_each(|expected| write!(f, " of about {}", seconds(expected)))
            }
            Self::Patience { remaining } => write!(f, "it gets the next place in {}", seconds(remaining)),
            Self::Question => f.write_str("its kind is being asked for"),
            Self::Place => f.write_str("a place has to become free"),
        }
    }
}

/// A part of the queue; see [`Master::queue`](crate::Master::queue).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct QueuePage {
    /// All builds that wait, those that pause included.
    pub total: usize,
    /// Builds of this page that wait for a place, the best claim first.
    pub waiting: Vec<QueuedBuild>,
    /// Builds that pause after a failed attempt, the one that comes back first at the front. Only on the first page, and
    /// at most as many as the page may have.
    pub paused: Vec<QueuedBuild>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<QueuePosition>,
}

impl fmt::Display for QueuePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", count(self.total, "waiting build"))?;
        self.waiting.iter().chain(&self.paused).try_for_each(|build| write!(f, "\n  {build}"))
    }
}

/// A position in the queue. It stays valid when builds come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuePosition {
    pub(crate) key: i64,
    pub(crate) build: BuildId,
}

impl fmt::Display for QueuePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key, self.build.get())
    }
}

/// Reads what [`Display`](fmt::Display) has written.
impl FromStr for QueuePosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let invalid = || InvalidPosition(text.into());
        let (key, build) = text.split_once('.').ok_or_else(invalid)?;
        let key = key.parse().map_err(|_| invalid())?;
        let build: u64 = build.parse().map_err(|_| invalid())?;
        Ok(Self { key, build: BuildId::from(build) })
    }
}

/// The text is not a [`QueuePosition`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid position in the queue {0:?}: use the next position of a page")]
pub struct InvalidPosition(Box<str>);

/// A build that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct QueuedBuild {
    /// Its number.
    pub id: BuildId,
    /// Its name.
    pub name: Arc<str>,
    /// Its priority.
    pub priority: i32,
    /// Its attempts that have failed.
    pub failed_attempts: u32,
    /// The rest of its pause after the last of these.
    pub paused: Option<Duration>,
}

impl fmt::Display for QueuedBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, priority, failed_attempts, paused } = self;
        write!(f, "{id} {name}, priority {priority}")?;
        if *failed_attempts > 0 {
            write!(f, ", {} failed", count(*failed_attempts as usize, "attempt"))?;
        }
        paused.iter().try_for_each(|rest| write!(f, ", paused for {}", seconds(rest)))
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn seconds(time: &Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
