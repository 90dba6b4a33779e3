//! Watches one master: records its events, waits for events and states, and describes every worker in failures.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::scripted::Stage;
use super::{EventChecker, EventSummary, PATIENCE, Script, ScriptedWorker};
use crate::{DriverCall, Event, LeftoverStep, Master, ShutdownMode, Worker, WorkerConfig, WorkerState, WorkerStatus};

/// How many events a failure shows.
const SHOWN_EVENTS: usize = 20;

/// The longest pause between two checks of a state that no event reports.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Watches a master: records its events, waits for events, states and quiet, and describes all workers when a test fails.
///
/// A wait ends as soon as its condition is met. Its limit in real time, [`PATIENCE`] by default, only guards against
/// hanging: when it passes, the wait panics with a message that shows the status of every worker and the last events.
///
/// Clones share the record, and the position of [`wait_event`](Watch::wait_event) in it. A watch keeps the [`Master`]
/// alive.
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
    /// How many events [`Watch::wait_event`] has passed.
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

    /// Like [`new`](Watch::new), with another limit for each wait, in real time.
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

    /// Like [`add_scripted`](Watch::add_scripted), with an existing scripted driver.
    ///
    /// # Panics
    /// When the worker cannot be added.
    pub fn add_driver(&self, config: WorkerConfig, driver: ScriptedWorker, script: Script) -> (Worker, Script) {
        self.follow(&script);
        let worker = self.inner.master.add_worker(config, driver).expect("the worker can be added");
        (worker, script.described_by(self.clone()))
    }

    /// Tells [`wait_quiet`](Watch::wait_quiet) about a script: a master can be quiet while calls of this script wait
    /// for their answers. Scripts of [`add_scripted`](Watch::add_scripted) are followed already.
    pub fn follow(&self, script: &Script) {
        let mut stages = self.stages();
        if !stages.iter().any(|stage| Arc::ptr_eq(stage, script.stage())) {
            stages.push(script.stage().clone());
        }
    }

    /// Blocks until the next event with this name (see [`EventKind::name`](crate::EventKind::name)) after the last one
    /// that was returned, and returns it. The change that the event reports is complete then.
    ///
    /// # Panics
    /// When no such event comes in time.
    pub fn wait_event(&self, name: &str) -> Event {
        self.wait_event_where(name, |event| event.kind.name() == name)
    }

    /// Like [`wait_event`](Watch::wait_event), for one worker.
    ///
    /// # Panics
    /// When no such event comes in time.
    pub fn wait_event_of(&self, name: &str, worker: &Worker) -> Event {
        let is_of_worker = |event: &Event| event.worker.as_deref() == Some(worker.name());
        let what = format!("{name} of worker {}", worker.name());
        self.wait_event_where(&what, |event| event.kind.name() == name && is_of_worker(event))
    }

    /// Like [`wait_event`](Watch::wait_event), for the first event that `matches`; `what` names the event in the
    /// message of a failure.
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

    /// An event is sent in the middle of the change that it reports. A query of the status waits for the end of the
    /// change.
    fn complete(&self, event: &Event) {
        if let Some(worker) = event.worker.as_deref().and_then(|name| self.inner.master.worker(name)) {
            worker.status();
        }
    }

    /// Blocks until the worker is in this state, and returns its status.
    ///
    /// # Panics
    /// Panics if the worker does not reach the state in time.
    pub fn wait_state(&self, worker: &Worker, state: WorkerState) -> WorkerStatus {
        self.wait_status(worker, &format!("the state \"{state}\""), |status| status.state == state)
    }

    /// Blocks until the status of the worker `matches`, and returns it; `what` names the condition in the message of a
    /// failure.
    ///
    /// # Panics
    /// Panics if the status does not match in time.
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

    /// Blocks until the master is quiet: no thread of the library is working, and each driver call that has not
    /// returned belongs to a [followed](Watch::follow) script, has begun, and waits for the test. Then nothing happens
    /// until the test does something or a deadline passes; with a [`ManualClock`](super::ManualClock) the test also
    /// controls the deadlines. The watch does not know about agents that connect over a network.
    ///
    /// # Panics
    /// Panics if the master does not become quiet in time, for example because a call of another driver does not
    /// return.
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
            // All conditions were true at the same moment.
            && master.completed_steps() == Some(steps)
    }

    /// Returns all events so far.
    pub fn events(&self) -> Vec<Event> {
        let mut record = self.record();
        record.take_what_came();
        record.seen.clone()
    }

    /// Shuts the master down fast, and checks the whole record of events. The shutdown cannot complete while calls of
    /// scripts wait for the test: call [`Script::automate_all`] before.
    ///
    /// # Panics
    /// Panics if the shutdown is not complete in time, or if the record breaks a rule of the checker.
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

    /// Blocks until there is a new event, or a short time has passed.
    fn wait_for_news(&self, deadline: Instant, failure: impl FnOnce() -> String) {
        if Instant::now() >= deadline {
            self.fail(&format!("{} within {:?}", failure(), self.inner.patience));
        }
        let mut record = self.record();
        match record.source.recv_timeout(LOOK_AGAIN) {
            Ok(event) => record.seen.push(event),
            Err(RecvTimeoutError::Timeout) => {}
            // The watch holds the master, which holds the sender.
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
