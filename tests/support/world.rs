//! One master under test: its clock, the record of its events, and the end of every scenario, at which the record is
//! checked.

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded as channel};
use latent_worker::testing::{EventChecker, ManualClock, PATIENCE, Script, ScriptedWorker};
use latent_worker::{
    Attacher, Attachment, Build, Clock, Event, EventKind, Lease, Master, ShutdownMode, ShutdownReport,
    SubstantiateError, Substantiation, Worker, WorkerConfig, WorkerState,
};

pub const SECOND: Duration = Duration::from_secs(1);

pub struct World {
    pub clock: ManualClock,
    pub master: Master,
    record: Mutex<Record>,
}

struct Record {
    source: Receiver<Event>,
    seen: Vec<Event>,
    /// How many were looked at by [`World::await_event`].
    passed: usize,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::new();
        Self::with_clock(clock.clone(), clock)
    }

    /// `clock` may be a wrapper of `manual`.
    pub fn with_clock(clock: impl Clock, manual: ManualClock) -> Self {
        let master = Master::builder().clock(clock).drop_timeout(PATIENCE).without_jitter().build();
        let source = master.events(1_000_000);
        Self { clock: manual, master, record: Mutex::new(Record { source, seen: Vec::new(), passed: 0 }) }
    }

    /// A worker with default settings.
    pub fn worker(&self, name: &str) -> (Worker, Script) {
        self.add(WorkerConfig::new(name))
    }

    pub fn add(&self, config: WorkerConfig) -> (Worker, Script) {
        let (driver, script) = ScriptedWorker::new();
        (self.master.add_worker(config, driver).expect("the worker is added"), script)
    }

    /// A worker whose instances do not fit every build.
    pub fn add_choosy(&self, config: WorkerConfig) -> (Worker, Script) {
        let (driver, script) = ScriptedWorker::new();
        (self.master.add_worker(config, driver.may_be_incompatible(true)).expect("the worker is added"), script)
    }

    /// Brings an instance up, with an agent that stays until the stop, and takes a lease of it.
    pub fn lease(&self, worker: &Worker, script: &Script) -> Lease {
        let mut request = worker.substantiate(&Build::new("a build"));
        script.expect_start().succeed_attached();
        let lease = answer(&mut request).expect("it attaches");
        self.await_event_of("start_returned", Some(worker.name()));
        lease
    }

    /// Brings an instance up whose agent is still to come: who waits for it, and how it attaches.
    pub fn unattached(&self, worker: &Worker, script: &Script) -> (Substantiation<Lease>, Attacher) {
        let request = worker.substantiate(&Build::new("a build"));
        let start = script.expect_start();
        let attacher = start.attacher();
        start.succeed();
        self.await_event_of("start_returned", Some(worker.name()));
        (request, attacher)
    }

    /// As [`World::lease`], but the connection of the agent is in the hand of the test.
    pub fn lease_and_connection(&self, worker: &Worker, script: &Script) -> (Lease, Attachment) {
        let mut request = worker.substantiate(&Build::new("a build"));
        let start = script.expect_start();
        let connection = start.attach();
        start.succeed();
        let lease = answer(&mut request).expect("it has attached");
        self.await_event_of("start_returned", Some(worker.name()));
        (lease, connection)
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(SECOND * u32::try_from(seconds).expect("not that long"));
    }

    /// Blocks until builds have come back to the queue for the `number`th time in all, and lets the pause end, which
    /// doubles from 1 s on.
    pub fn pass_pause(&self, number: u32) {
        let came_back = |event: &Event| matches!(event.kind, EventKind::BuildQueued { retry: Some(_), .. });
        eventually(number as usize, || self.events().iter().filter(|event| came_back(event)).count());
        self.advance(1 << (number - 1));
    }

    /// Blocks until the next event of this name (see [`EventKind::name`]), counted from the one that was awaited last.
    /// When it returns, the change that the event tells of is complete.
    pub fn await_event(&self, name: &str) -> Event {
        self.await_event_of(name, None)
    }

    /// As [`World::await_event`], of one worker.
    pub fn await_event_of(&self, name: &str, worker: Option<&str>) -> Event {
        let mut record = self.record.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            while record.passed < record.seen.len() {
                let event = record.seen[record.passed].clone();
                record.passed += 1;
                if event.kind.name() == name && (worker.is_none() || event.worker.as_deref() == worker) {
                    self.complete(&event);
                    return event;
                }
            }
            let Ok(event) = record.source.recv_deadline(deadline) else {
                panic!("no event {name} came; all events: {:#?}", lines(&record.seen));
            };
            record.seen.push(event);
        }
    }

    /// An event is told in the middle of the change that it belongs to. Whoever gets at the worker finds that done.
    fn complete(&self, event: &Event) {
        if let Some(worker) = event.worker.as_deref().and_then(|name| self.master.worker(name)) {
            worker.status();
        }
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        let mut record = self.record.lock().unwrap();
        let new: Vec<_> = record.source.try_iter().collect();
        record.seen.extend(new);
        record.seen.clone()
    }

    /// How many events of this name there were so far.
    pub fn count(&self, name: &str) -> usize {
        self.events().iter().filter(|event| event.kind.name() == name).count()
    }

    /// The lengths of all quarantines so far, in seconds.
    pub fn quarantines(&self) -> Vec<u64> {
        let length = |event: Event| match event.kind {
            EventKind::Quarantined { length, .. } => Some(length.as_secs()),
            _ => None,
        };
        self.events().into_iter().filter_map(length).collect()
    }

    /// Ends the scenario: whatever hangs in a script is let go, everything is stopped, and the record must show one
    /// call at a time and one stop for each start.
    pub fn finish(self, scripts: &[&Script]) {
        scripts.iter().for_each(|script| script.automate_all());
        let report = self.shut_down(ShutdownMode::Fast);
        assert!(report.complete && report.in_flight.is_empty(), "{report}");
        self.check();
    }

    /// A shutdown that must be complete in time.
    pub fn shut_down(&self, mode: ShutdownMode) -> ShutdownReport {
        self.master.shutdown(mode, PATIENCE)
    }

    /// Checks the record of a master that has shut down.
    pub fn check(&self) {
        let events = self.events();
        if let Err(violations) = EventChecker::new().check_ended(&events) {
            panic!("{violations}; all events: {:#?}", lines(&events));
        }
    }
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().map(ToString::to_string).collect()
}

/// The answer to a request, which must come in time.
pub fn answer<T>(request: &mut Substantiation<T>) -> Result<T, SubstantiateError> {
    request.wait_timeout(PATIENCE).expect("the request is answered in time")
}

/// Runs `work` on a thread of its own; it must return in time.
pub fn bounded<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel(1);
    let thread = std::thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => {
            let _ = thread.join();
            value
        }
        Err(_) if thread.is_finished() => panic!("{what} panicked"),
        Err(_) => panic!("{what} did not return within {PATIENCE:?}"),
    }
}

/// For what nobody tells: asks again and again until `value` is as expected, at most as long as a test waits.
pub fn eventually<T: PartialEq + Debug>(expected: T, mut value: impl FnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = value();
        if last == expected {
            return;
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, it stays {last:?}");
        std::thread::yield_now();
    }
}

/// The state of a worker, waited for.
pub fn reaches(worker: &Worker, state: WorkerState) {
    eventually(state, || worker.status().state);
}
