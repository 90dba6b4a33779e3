//! A master on virtual time: scripted drivers whose calls take a time each, and builds that hold their lease for a time.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use latent_worker::testing::{
    CompatibleCall, EventChecker, ManualClock, PATIENCE, Script, ScriptedWorker, StartCall, StopCall, Watch,
};
use latent_worker::{
    Attachment, Build, BuildError, BuildId, BuildResult, DriverCall, Event, EventKind, Inbox, Kind, Lease, Master,
    PlacementConfig, Properties, WorkerConfig,
};

/// The library's own deadlines are met at multiples of this.
const STEP: Duration = Duration::from_millis(250);

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How the driver decides whether an instance fits a build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Any,
    Asked,
    Says,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Does {
    /// Goes well after this time.
    Well(Duration),
    /// Fails after this time.
    Fails(Duration),
    /// Does not return, also when it is cancelled.
    Hangs,
    /// An instance comes up after this time, and its agent is lost at once.
    Dies(Duration),
}

/// What a build does with its lease.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Work {
    Takes(Duration),
    /// The agent is lost.
    Loses,
    /// The lease is not taken out.
    Lies,
}

/// A call of a driver, as a test decides about it.
pub(crate) struct Made<'a> {
    pub(crate) call: DriverCall,
    pub(crate) worker: &'a str,
    /// The name of the build that a start is called for.
    pub(crate) build: Option<&'a str>,
    pub(crate) at: Duration,
}

type Decide = Box<dyn FnMut(&Made<'_>) -> Does>;

/// Something that happens at a time.
enum Due {
    Start(StartCall, Does),
    Stop(StopCall, Does),
    Compatible(CompatibleCall),
    End(BuildId),
    Lose(BuildId, String),
}

struct Driver {
    script: Script,
    /// Calls of each kind that were taken out.
    taken: HashMap<DriverCall, usize>,
}

pub(crate) struct Farm {
    pub(crate) master: Master,
    pub(crate) clock: ManualClock,
    began: Instant,
    watch: Watch,
    way: Way,
    shared: Option<Arc<ScriptedWorker>>,
    drivers: Vec<Driver>,
    decide: Decide,
    due: BTreeMap<(Duration, u64), Due>,
    last_due: u64,
    /// Calls that never return.
    hung: Vec<Due>,
    agents: HashMap<String, Attachment>,
    kinds: HashMap<String, String>,
    pub(crate) inbox: Option<Inbox>,
    work: HashMap<BuildId, Work>,
    leases: HashMap<BuildId, Lease>,
    /// Every lease that was given: when, to which build, where.
    pub(crate) given: Vec<(Duration, BuildId, String)>,
    pub(crate) errors: HashMap<BuildId, BuildError>,
    pub(crate) finished: Vec<BuildId>,
    pub(crate) checker: EventChecker,
    /// The worker on which every build loses its agent.
    pub(crate) loses_on: Option<String>,
}

impl Farm {
    /// No worker yet. `shared`: whether all workers share one driver value.
    pub(crate) fn new(way: Way, shared: bool) -> Self {
        Self::with(way, shared, PlacementConfig::new())
    }

    pub(crate) fn with(way: Way, shared: bool, config: PlacementConfig) -> Self {
        let clock = ManualClock::new();
        let master =
            Master::builder().clock(clock.clone()).placement(config).drop_timeout(PATIENCE).without_jitter().build();
        let mut farm = Self {
            watch: Watch::new(&master),
            began: clock.now(),
            master,
            clock,
            way,
            shared: None,
            drivers: Vec::new(),
            decide: Box::new(|_| Does::Well(Duration::ZERO)),
            due: BTreeMap::new(),
            last_due: 0,
            hung: Vec::new(),
            agents: HashMap::new(),
            kinds: HashMap::new(),
            inbox: Some(Inbox::new()),
            work: HashMap::new(),
            leases: HashMap::new(),
            given: Vec::new(),
            errors: HashMap::new(),
            finished: Vec::new(),
            checker: EventChecker::new(),
            loses_on: None,
        };
        if shared {
            farm.shared = Some(Arc::new(farm.driver()));
        }
        farm
    }

    fn driver(&mut self) -> ScriptedWorker {
        let (driver, script) = ScriptedWorker::new();
        script.automate(DriverCall::Check);
        self.watch.follow(&script);
        self.drivers.push(Driver { script, taken: HashMap::new() });
        match self.way {
            Way::Any => driver,
            Way::Asked => driver.may_be_incompatible(true),
            Way::Says => driver.kinds(|properties| Ok(Kind::new(kind_of(properties)))),
        }
    }

    pub(crate) fn add(&mut self, config: WorkerConfig, places: usize) {
        let config = config.with_max_builds(NonZeroUsize::new(places).unwrap());
        self.checker = std::mem::take(&mut self.checker).with_max_builds_of(config.name(), places);
        match self.shared.clone() {
            Some(driver) => self.master.add_worker(config, driver).unwrap(),
            None => {
                let driver = self.driver();
                self.master.add_worker(config, driver).unwrap()
            }
        };
    }

    /// Adds `w1`, `w2` …
    pub(crate) fn add_many(&mut self, workers: usize, places: usize, config: impl Fn(WorkerConfig) -> WorkerConfig) {
        for number in 1..=workers {
            self.add(config(WorkerConfig::new(format!("w{number}"))), places);
        }
    }

    /// Has `decide` say what calls do from now on. By default all go well at once.
    pub(crate) fn calls(&mut self, decide: impl FnMut(&Made<'_>) -> Does + 'static) {
        self.decide = Box::new(decide);
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now() - self.began
    }

    pub(crate) fn submit(&mut self, build: Build, work: Work) -> BuildId {
        let id = self.master.submit_to(build, self.inbox.as_ref().expect("it was not dropped"));
        self.work.insert(id, work);
        id
    }

    /// A build of this kind that holds its lease for this time.
    pub(crate) fn simple(&mut self, kind: &str, takes: Duration) -> BuildId {
        self.submit(of_kind(kind), Work::Takes(takes))
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        self.run_while(time, |_| {});
    }

    /// Lets time pass, and calls `also` whenever everything has been done that is possible at a moment.
    pub(crate) fn run_while(&mut self, time: Duration, mut also: impl FnMut(&mut Self)) {
        let end = self.now() + time;
        loop {
            self.settle();
            also(self);
            self.settle();
            let now = self.now();
            if now >= end {
                return;
            }
            let step = Duration::from_nanos((now.as_nanos() / STEP.as_nanos() + 1) as u64 * STEP.as_nanos() as u64);
            let due = self.due.keys().next().map_or(end, |(at, _)| *at);
            self.clock.advance(step.min(due).min(end) - now);
        }
    }

    /// Does everything that is possible at this moment.
    pub(crate) fn settle(&mut self) {
        loop {
            self.watch.wait_quiet();
            let some = self.take_calls() | self.take_answers() | self.take_due();
            if !some {
                return;
            }
        }
    }

    fn take_calls(&mut self) -> bool {
        let mut some = false;
        for index in 0..self.drivers.len() {
            for call in [DriverCall::Start, DriverCall::Stop, DriverCall::Compatible] {
                let driver = &mut self.drivers[index];
                let made = driver.script.count(call);
                let new = made - driver.taken.insert(call, made).unwrap_or(0);
                some |= new > 0;
                (0..new).for_each(|_| self.take_call(index, call));
            }
        }
        some
    }

    fn take_call(&mut self, index: usize, call: DriverCall) {
        let at = self.now();
        let script = &self.drivers[index].script;
        let mut decide = |worker: &str, build: Option<&str>| (self.decide)(&Made { call, worker, build, at });
        let (does, due) = match call {
            DriverCall::Start => {
                let start = script.expect_start();
                self.kinds.insert(start.worker().to_owned(), kind_of(&start.properties()));
                let does = decide(start.worker(), start.build().map(|build| &**build.name()));
                (does, Due::Start(start, does))
            }
            DriverCall::Stop => {
                let stop = script.expect_stop();
                self.agents.remove(stop.worker());
                let does = decide(stop.worker(), None);
                (does, Due::Stop(stop, does))
            }
            _ => {
                let question = script.expect_compatible();
                (decide(question.worker(), None), Due::Compatible(question))
            }
        };
        match does {
            Does::Well(time) | Does::Fails(time) | Does::Dies(time) => self.schedule(at + time, due),
            Does::Hangs => self.hung.push(due),
        }
    }

    fn schedule(&mut self, at: Duration, due: Due) {
        self.last_due += 1;
        self.due.insert((at, self.last_due), due);
    }

    fn take_answers(&mut self) -> bool {
        let Some(inbox) = &self.inbox else { return false };
        let all_lie = self.work.values().all(|work| *work == Work::Lies);
        let answers: Vec<_> = if all_lie { Vec::new() } else { inbox.receiver().try_iter().collect() };
        let some = !answers.is_empty();
        for (build, answer) in answers {
            let lease = match answer {
                Ok(lease) => lease,
                Err(error) => {
                    self.errors.insert(build, error);
                    continue;
                }
            };
            let (now, worker) = (self.now(), lease.worker().to_string());
            self.given.push((now, build, worker.clone()));
            self.leases.insert(build, lease);
            match self.work[&build] {
                _ if self.loses_on.as_ref() == Some(&worker) => {
                    self.schedule(now + millis(100), Due::Lose(build, worker));
                }
                Work::Takes(time) => self.schedule(now + time, Due::End(build)),
                Work::Loses => self.schedule(now + millis(100), Due::Lose(build, worker)),
                Work::Lies => {}
            }
        }
        some
    }

    fn take_due(&mut self) -> bool {
        let now = self.now();
        // A start that is cancelled returns.
        for due in self.due.values_mut() {
            if let Due::Start(start, does) = due
                && start.cancelled()
            {
                *does = Does::Fails(Duration::ZERO);
            }
        }
        let cancelled = |due: &Due| matches!(due, Due::Start(start, _) if start.cancelled());
        let ready: Vec<_> =
            self.due.iter().filter(|((at, _), due)| *at <= now || cancelled(due)).map(|(key, _)| *key).collect();
        for key in &ready {
            let due = self.due.remove(key).expect("it was just found");
            self.happen(due);
        }
        !ready.is_empty()
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Start(start, Does::Well(_)) => {
                let worker = start.worker().to_owned();
                if let Ok(attachment) = start.attacher().attach(()) {
                    self.agents.insert(worker, attachment);
                }
                start.succeed();
            }
            Due::Start(start, Does::Dies(_)) => {
                let attachment = start.attacher().attach(());
                start.succeed();
                drop(attachment);
            }
            Due::Start(start, _) => start.fail("no network"),
            Due::Stop(stop, Does::Well(_)) => stop.succeed(),
            Due::Stop(stop, _) => stop.fail("it does not stop"),
            Due::Compatible(question) => match self.kinds.get(question.worker()) {
                Some(kind) if *kind == kind_of(question.properties()) => question.yes(),
                _ => question.no(),
            },
            Due::End(build) => {
                if let Some(lease) = self.leases.remove(&build) {
                    match lease.end() {
                        None => {
                            self.finished.push(build);
                            lease.finish(BuildResult::Succeeded);
                        }
                        Some(_) => lease.retry("it was lost"),
                    }
                }
            }
            Due::Lose(build, worker) => {
                if let Some(agent) = self.agents.remove(&worker) {
                    agent.lost("the network broke");
                }
                if let Some(lease) = self.leases.remove(&build) {
                    lease.retry("the network broke");
                }
            }
        }
    }

    /// All calls of this kind so far: when, and of which worker.
    pub(crate) fn made(&self, call: DriverCall) -> Vec<(Duration, String)> {
        let is_it = |event: &Event| match call {
            DriverCall::Start => matches!(event.kind, EventKind::StartCalled),
            DriverCall::Stop => matches!(event.kind, EventKind::StopCalled { .. }),
            _ => panic!("it is not in the record"),
        };
        let events = self.watch.events();
        let made = events.iter().filter(|event| is_it(event));
        made.map(|event| (event.at, event.worker.as_deref().unwrap().to_owned())).collect()
    }

    pub(crate) fn starts(&self) -> usize {
        self.count(DriverCall::Start)
    }

    pub(crate) fn count(&self, call: DriverCall) -> usize {
        self.drivers.iter().map(|driver| driver.script.count(call)).sum()
    }

    /// When the build got its first lease, and where.
    pub(crate) fn first(&self, build: BuildId) -> Option<(Duration, &str)> {
        self.given.iter().find(|(_, of, _)| *of == build).map(|(at, _, worker)| (*at, worker.as_str()))
    }

    /// How the build has ended.
    pub(crate) fn result(&self, build: BuildId) -> Option<BuildResult> {
        let of_build = |event: Event| match event.kind {
            EventKind::BuildFinished { result } if event.build == Some(build) => Some(result),
            _ => None,
        };
        self.watch.events().into_iter().find_map(of_build)
    }

    /// For messages: everything that is known of builds that wait.
    pub(crate) fn why(&self, build: BuildId) -> String {
        self.master.build_status(build).map_or_else(|| "it has ended".to_owned(), |status| status.to_string())
    }

    /// Ends the scenario: what hangs returns, and the record is checked.
    pub(crate) fn finish(mut self) {
        for driver in &self.drivers {
            driver.script.automate_all();
        }
        for due in std::mem::take(&mut self.hung).into_iter().chain(std::mem::take(&mut self.due).into_values()) {
            match due {
                Due::Start(start, _) => start.fail("the end of the scenario"),
                Due::Stop(stop, _) => stop.succeed(),
                Due::Compatible(question) => question.yes(),
                Due::End(_) | Due::Lose(..) => {}
            }
        }
        // Leases that still lie in the inbox are given back.
        self.inbox = None;
        self.leases.clear();
        self.watch.shut_down_and_check(&self.checker);
    }
}

pub(crate) fn of_kind(kind: &str) -> Build {
    Build::new(kind).with_property("kind", kind)
}

fn kind_of(properties: &Properties) -> String {
    properties.get("kind").unwrap_or("none").to_owned()
}
