//! Checks the event record. It uses only the events, and not the state of the library, to find out whether the library
//! and the code of the test kept the promises that events can show.

mod life;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reader::Reader;

use crate::{BuildId, Event};

/// How many violations are reported at most; later ones usually follow from the first ones.
const MOST_VIOLATIONS: usize = 20;

/// Checks a record of events, as [`Master::events`](crate::Master::events) gives it, for broken rules; see [`Rule`].
///
/// The record must begin before the first worker is added, and must have no gap.
///
/// ```
/// use latent_worker::testing::{EventChecker, ScriptedWorker};
/// use latent_worker::{Build, BuildResult, Master, ShutdownMode, WorkerConfig};
/// use std::time::Duration;
///
/// let master = Master::new();
/// let events = master.events(usize::MAX);
/// let (driver, _script) = ScriptedWorker::automatic();
/// master.add_worker(WorkerConfig::new("w"), driver).unwrap();
/// for name in ["one", "two"] {
///     master.submit(Build::new(name)).wait().unwrap().finish(BuildResult::Succeeded);
/// }
/// assert!(master.shutdown(ShutdownMode::Graceful, Duration::from_secs(60)).complete);
///
/// let events: Vec<_> = events.try_iter().collect();
/// let summary = EventChecker::new().with_max_builds(1).check_ended(&events).unwrap();
/// assert_eq!((summary.builds, summary.stops, summary.most_leases), (2, 1, 1));
/// ```
#[derive(Clone, Default)]
pub struct EventChecker {
    max_builds: Option<usize>,
    max_builds_of: BTreeMap<String, usize>,
    liveness: Option<Liveness>,
    without: BTreeSet<Rule>,
}

#[derive(Clone)]
struct Liveness {
    limit: Duration,
    fits: Arc<Fits>,
}

/// Returns whether a build may run on the worker with this name.
type Fits = dyn Fn(BuildId, &str) -> bool + Send + Sync;

/// What the [`EventChecker`] checks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// The events are numbered without a gap, time does not go back, and the events of a worker belong to its last attempt.
    Record,
    /// The calls of a worker do not overlap, each returns, and a start follows the end of the last stop.
    OneCall,
    /// Each start is followed by exactly one stop.
    OneStop,
    /// A lease is given on an attached instance that is not being stopped, and no instance is stopped while it has a
    /// lease.
    Attached,
    /// A worker never has more leases than places, each lease is given back once, and a build has one lease at a time.
    Places,
    /// Each build that was queued ends exactly once.
    OneEnd,
    /// The end of a build is the last event about it: no start, no lease, no place in the queue follows, and its lease has
    /// been given back or has ended before.
    AfterEnd,
    /// No build waits while a fitting attached place is free; see [`EventChecker::with_liveness`].
    Liveness,
}

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// Which rule is broken.
    pub rule: Rule,
    /// The event that breaks it; `None` when it is broken at the end of the record.
    pub event: Option<Event>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)?;
        match &self.event {
            Some(event) => write!(f, " (event {} at {:.3} s: {event})", event.sequence, event.at.as_secs_f64()),
            None => f.write_str(" (at the end of the record)"),
        }
    }
}

/// The violations in a record; only the first ones if there are many. `Display` shows a line for each violation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The violations in the order of the record; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    /// Whether this rule is broken.
    pub fn breaks(&self, rule: Rule) -> bool {
        self.iter().any(|violation| violation.rule == rule)
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record of events breaks the rules:")?;
        self.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl std::error::Error for Violations {}

/// A summary of a record without violations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct EventSummary {
    /// Builds that were queued.
    pub builds: usize,
    /// Calls of `start_instance` by worker; workers without a call are left out.
    pub starts: BTreeMap<String, usize>,
    /// Calls of `stop_instance`.
    pub stops: usize,
    /// Leases that were given out.
    pub leases: usize,
    /// The most leases that one worker had at once.
    pub most_leases: usize,
}

impl EventSummary {
    /// Calls of `start_instance`, of all workers together.
    pub fn total_starts(&self) -> usize {
        self.starts.values().sum()
    }
}

/// How a record ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Running,
    Quiet,
    ShutDown,
}

impl EventChecker {
    /// Checks every rule but those that need to know more: see [`with_max_builds`](EventChecker::with_max_builds) and
    /// [`with_liveness`](EventChecker::with_liveness).
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of places of every worker; not limited by default.
    #[must_use]
    pub fn with_max_builds(mut self, places: usize) -> Self {
        self.max_builds = Some(places);
        self
    }

    /// The number of places of one worker, which takes the place of that of every worker.
    #[must_use]
    pub fn with_max_builds_of(mut self, worker: impl Into<String>, places: usize) -> Self {
        self.max_builds_of.insert(worker.into(), places);
        self
    }

    /// Checks liveness: that no build waits, while a place that `fits` it is free, for longer than `limit` at a stretch.
    /// The limit is in the master's time, the one of [`Event::at`]. With the system's clock it must allow for a loaded
    /// machine.
    ///
    /// `fits` is asked with a build and the name of a worker. Events tell neither labels nor compatibility, nor which
    /// instances take no build by their idle policy; so return false unless it is certain that the build may run there.
    ///
    /// A place counts as free when its instance is started and attached, no driver call is running, no check has failed
    /// since the attach, and the worker is neither paused nor in quarantine. Without
    /// [`with_max_builds`](EventChecker::with_max_builds) an instance with a lease counts as full. A build that is
    /// retried may pause first; 10 minutes are added to the limit for that.
    #[must_use]
    pub fn with_liveness(
        mut self,
        limit: Duration,
        fits: impl Fn(BuildId, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.liveness = Some(Liveness { limit, fits: Arc::new(fits) });
        self
    }

    /// Does not check this rule.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.without.insert(rule);
        self
    }

    /// Checks the record of a master that is still in use: builds may wait and run, and driver calls may be running.
    ///
    /// # Errors
    /// The broken rules.
    pub fn check(&self, events: &[Event]) -> Result<EventSummary, Violations> {
        self.read(events, End::Running)
    }

    /// Like [`check`](EventChecker::check), for a master that is [quiet](super::Watch::wait_quiet). With
    /// [`with_liveness`](EventChecker::with_liveness), no build may wait while a fitting place is free at the end,
    /// however short its wait.
    ///
    /// # Errors
    /// The broken rules.
    pub fn check_quiet(&self, events: &[Event]) -> Result<EventSummary, Violations> {
        self.read(events, End::Quiet)
    }

    /// Like [`check`](EventChecker::check), for a master after a complete shutdown: every build must have ended, every
    /// start must have had its stop, and every lease must have been given back.
    ///
    /// # Errors
    /// The broken rules.
    pub fn check_ended(&self, events: &[Event]) -> Result<EventSummary, Violations> {
        self.read(events, End::ShutDown)
    }

    fn read(&self, events: &[Event], end: End) -> Result<EventSummary, Violations> {
        let mut reader = Reader::new(self);
        events.iter().for_each(|event| reader.take(event));
        reader.end(end)
    }

    fn places(&self, worker: &str) -> Option<usize> {
        self.max_builds_of.get(worker).copied().or(self.max_builds)
    }
}

impl fmt::Debug for EventChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventChecker")
            .field("max_builds", &self.max_builds)
            .field("max_builds_of", &self.max_builds_of)
            .field("liveness_limit", &self.liveness.as_ref().map(|liveness| liveness.limit))
            .field("without", &self.without)
            .finish()
    }
}

#[cfg(test)]
mod tests;
