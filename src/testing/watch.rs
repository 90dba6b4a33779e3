//! A watch over one master: its events, waits for events and states, and failures that describe every worker.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::scripted::Stage;
use super::{EventChecker, EventSummary, PATIENCE, Script, ScriptedWorker};
use crate::{DriverCall, Event, LeftoverStep, Master, ShutdownMode, Worker, WorkerConfig, WorkerState, WorkerStatus};

/// How many of the last events a failure shows.
const SHOWN_EVENTS: usize = 20;

/// The longest time between two looks at what events do not tell.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Watches a master: records its events, waits for events, states and quiet, and describes all workers when a test fails.
///
/// A wait ends as soon as what it waits for is there. Its limit in real time, [`PATIENCE`] by default, only guards against
/// hanging: when it passes, the wait panics with a message that shows the status of every worker and the last events.
///
/// Clones watch together: they share the record, and the event up to which [`wait_event`](Watch::wait_event) has looked. A
/// watch holds the [`Master`], which is therefore dropped after it.
///
/// The first test of a scheduler of your own:
///
/// ```
/// use std::time::Duration;
/// use latent_worker::testing::{EventChecker, ManualClock, Watch};
/// use latent_worker::{Build, IdlePolicy, Master, WorkerConfig, WorkerState};
///
/// let clock = ManualClock::new();
/// let master = Master::builder().clock(clock.clone()).build();
/// let watch = Watch::new(&master);
/// let config = WorkerConfig::new("w").with_idle(IdlePolicy::After(Duration::from_secs(60)));
/// let (worker, script) = watch.add_scripted(config);
///
/// let ticket = master.submit(Build::new("first"));
/// script.expect_start().succeed_attached();
/// drop(ticket.wait().unwrap());
/// watch.wait_event("released");
/// clock.advance(Duration::from_secs(60));
/// script.expect_stop().succeed();
/// watch.wait_state(&worker, WorkerState::NotSubstantiated);
///
/// let summary = watch.shut_down_and_check(&EventChecker::new().with_max_builds(1));
/// assert_eq!((summary.builds, summary.stops), (1, 1));
/// ```
///
/// A first test of a driver of your own is the same, with [`Master::add_worker`] and no script.
#[derive(Clone)]
pub struct Watch {
    inner: Arc<Inner>,
}

struct Inner {
    master: Master,
    patience: Duration,
    stages: Mutex<Vec<Arc<Stage>>>,
    record: Mutex<Record>,
}

struct Record {
    source: Receiver<Event>,
    seen: Vec<Event>,
    /// How many [`Watch::wait_event`] has looked at.
    passed: usize,
}

impl Record {
    fn take_what_came(&mut self) {
        self.seen.extend(self.source.try_iter());
    }
}

impl Watch {
    /// Watches the master from now on. The record of events begins here, so make the watch before workers and builds.
    pub fn new(master: &Master) -> Self {
        Self::with_patience(master, PATIENCE)
    }

    /// As [`new`](Watch::new), with another limit for each wait, in real time.
    pub fn with_patience(master: &Master, patience: Duration) -> Self {
        let record = Record { source: master.events(usize::MAX), seen: Vec::new(), passed: 0 };
        let inner = Inner { master: master.clone(), patience, stages: Mutex::default(), record: Mutex::new(record) };
        Self { inner: Arc::new(inner) }
    }

    /// Adds a worker with a [`ScriptedWorker`] as its driver. When an `expect_` method of the script fails, its message
    /// shows the status of every worker and the last events.
    ///
    /// # Panics
    /// When the worker cannot be added.
    pub fn add_scripted(&self, config: WorkerConfig) -> (Worker, Script) {
        let (driver, script) = ScriptedWorker::new();
        self.add_driver(config, driver, script)
    }

    /// As [`add_scripted`](Watch::add_scripted), with a scripted driver that was set up before.
    ///
    /// # Panics
    /// When the worker cannot be added.
    pub fn add_driver(&self, config: WorkerConfig, driver: ScriptedWorker, script: Script) -> (Worker, Script) {
        self.follow(&script);
        let worker = self.inner.master.add_worker(config, driver).expect("the worker can be added");
        (worker, script.described_by(self.clone()))
    }

    /// Lets [`wait_quiet`](Watch::wait_quiet) know of a script, whose unanswered calls do not keep the master from being
    /// quiet. Scripts of [`add_scripted`](Watch::add_scripted) are known.
    pub fn follow(&self, script: &Script) {
        let mut stages = self.stages();
        if !stages.iter().any(|stage| Arc::ptr_eq(stage, script.stage())) {
            stages.push(script.stage().clone());
        }
    }

    /// Blocks until the next event of this name (see [`EventKind::name`](crate::EventKind::name)), counted from the one
    /// that was waited for last, and returns it. The change that the event tells of is complete then.
    ///
    /// # Panics
    /// When no such event comes in time.
    pub fn wait_event(&self, name: &str) -> Event {
        self.wait_event_where(name, |event| event.kind.name() == name)
    }

    /// As [`wait_event`](Watch::wait_event), of one worker.
    ///
    /// # Panics
    /// When no such event comes in time.
    pub fn wait_event_of(&self, name: &str, worker: &Worker) -> Event {
        let is_of_worker = |event: &Event| event.worker.as_deref() == Some(worker.name());
        let what = format!("{name} of worker {}", worker.name());
        self.wait_event_where(&what, |event| event.kind.name() == name && is_of_worker(event))
    }

    /// As [`wait_event`](Watch::wait_event), for the first event that `matches`; `what` names it in the message of a
    /// failure.
    ///
    /// # Panics
    /// When no such event comes in time.
    pub fn wait_event_where(&self, what: &str, mut matches: impl FnMut(&Event) -> bool) -> Event {
        let deadline = self.deadline();
        loop {
            let mut record = self.record();
            record.take_what_came();
            while let Some(event) = record.seen.get(record.passed).cloned() {
                record.passed += 1;
                if matches(&event) {
                    drop(record);
                    self.complete(&event);
                    return event;
                }
            }
            drop(record);
            self.wait_for_news(deadline, || format!("there was no event {what}"));
        }
    }

    /// An event is told in the middle of the change that it belongs to. To ask for the status waits for the end of that.
    fn complete(&self, event: &Event) {
        if let Some(worker) = event.worker.as_deref().and_then(|name| self.inner.master.worker(name)) {
            worker.status();
        }
    }

    /// Blocks until the worker is in this state, and returns its status.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub fn wait_state(&self, worker: &Worker, state: WorkerState) -> WorkerStatus {
        self.wait_status(worker, &format!("the state \"{state}\""), |status| status.state == state)
    }

    /// Blocks until the status of the worker `matches`, and returns it; `what` names it in the message of a failure.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_status(
        &self,
        worker: &Worker,
        what: &str,
        mut matches: impl FnMut(&WorkerStatus) -> bool,
    ) -> WorkerStatus {
        let deadline = self.deadline();
        loop {
            let status = worker.status();
            if matches(&status) {
                return status;
            }
            self.wait_for_news(deadline, || format!("worker {} did not reach {what}", worker.name()));
        }
    }

    /// Blocks until the master is quiet: no thread of the library is at work, and each driver call that has not returned
    /// is one of a [followed](Watch::follow) script, has begun and waits for the test. Nothing more happens then before the
    /// test (or another thread of its own) does something, or a deadline passes; with a
    /// [`ManualClock`](super::ManualClock) the test decides about that as well. Agents that connect over a network are not
    /// known to the watch.
    ///
    /// # Panics
    /// When the master does not become quiet in time, because a call of another driver does not return for example.
    pub fn wait_quiet(&self) {
        let deadline = self.deadline();
        while !self.is_quiet() {
            self.wait_for_news(deadline, || "the master did not become quiet".to_owned());
        }
    }

    fn is_quiet(&self) -> bool {
        let master = &self.inner.master;
        let Some(steps) = master.completed_steps() else { return false };
        let waits_for_test = |worker: &str, call| self.stages().iter().any(|stage| stage.holds(worker, call));
        let is_settled = |status: &WorkerStatus| match &status.call {
            _ if status.in_journal => false,
            Some((call, _)) => waits_for_test(&status.name, *call),
            None => status.state != WorkerState::Substantiating,
        };
        let is_reclaimed = |leftover: &crate::LeftoverStatus| match leftover.next {
            LeftoverStep::Reclaiming(_) => !waits_for_test(&leftover.worker, DriverCall::Reclaim),
            LeftoverStep::ReclaimIn(time) => time.is_zero(),
            _ => false,
        };
        master.status().iter().all(is_settled)
            && !master.leftovers().iter().any(is_reclaimed)
            // All of this was true at one moment.
            && master.completed_steps() == Some(steps)
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        let mut record = self.record();
        record.take_what_came();
        record.seen.clone()
    }

    /// Shuts the master down fast, which must be complete in time, and checks the whole record of events. Calls of
    /// scripts that wait for the test keep the shutdown from being complete: call [`Script::automate_all`] before.
    ///
    /// # Panics
    /// When the shutdown is not complete in time, or the record breaks a rule of the checker.
    pub fn shut_down_and_check(&self, checker: &EventChecker) -> EventSummary {
        let report = self.inner.master.shutdown(ShutdownMode::Fast, self.inner.patience);
        if !report.complete {
            self.fail(&format!("the shutdown did not complete within {:?}", self.inner.patience));
        }
        match checker.check_ended(&self.events()) {
            Ok(summary) => summary,
            Err(violations) => self.fail(&violations.to_string()),
        }
    }

    /// Fails the test with this message, the status of every worker and the last events.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, message: &str) -> ! {
        panic!("{message}\n{self}")
    }

    /// How long a wait may take.
    pub(in crate::testing) fn patience(&self) -> Duration {
        self.inner.patience
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.inner.patience
    }

    /// Blocks until there is an event that is not in the record yet, or a moment has passed.
    fn wait_for_news(&self, deadline: Instant, failure: impl FnOnce() -> String) {
        if Instant::now() >= deadline {
            self.fail(&format!("{} within {:?}", failure(), self.inner.patience));
        }
        let mut record = self.record();
        match record.source.recv_timeout(LOOK_AGAIN) {
            Ok(event) => record.seen.push(event),
            Err(RecvTimeoutError::Timeout) => {}
            // The watch holds the master, and that the sender.
            Err(RecvTimeoutError::Disconnected) => unreachable!("the master is held"),
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.inner.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stages(&self) -> MutexGuard<'_, Vec<Arc<Stage>>> {
        self.inner.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the status of every worker and the last events.
impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("workers:")?;
        self.inner.master.status().iter().try_for_each(|status| write!(f, "\n  {status}"))?;
        let events = self.events();
        let hidden = events.len().saturating_sub(SHOWN_EVENTS);
        write!(f, "\nlast {} of {} events:", events.len() - hidden, events.len())?;
        let seconds = |event: &Event| event.at.as_secs_f64();
        events[hidden..].iter().try_for_each(|event| write!(f, "\n  {:.3} s: {event}", seconds(event)))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("master", &self.inner.master).finish_non_exhaustive()
    }
}
