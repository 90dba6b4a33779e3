//! Starves the library on purpose: 16 threads submit, cancel, drop, retire, retry, pause and unpause on real threads,
//! while the drivers fail, hang, attach late and lose agents. Then L1 (no build waits while an attached place that fits
//! it is free and no better claim exists) is checked from the record of events, and, with everything healed, L2 (every
//! build that waits is answered).
//!
//! Time is moved by the threads themselves, so that no verdict depends on the speed of the machine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use latent_worker::testing::{EventChecker, ManualClock, PATIENCE};
use latent_worker::{
    Attacher, Attachment, BoxError, Build, BuildId, BuildResult, BuildState, DriverCall, Event, EventKind,
    FailureCause, Health, IdlePolicy, Inbox, Kind, LatentWorker, Lease, Master, ObstacleReason, PlacementConfig,
    Properties, ShutdownMode, StartError, StartRequest, Started, StopError, StopRequest, Ticket, WorkerConfig,
    WorkerState,
};

const THREADS: u64 = 16;
const WORKERS: usize = 9;
const KINDS: [&str; 3] = ["a", "b", "c"];

/// How drivers of a worker compare a build with an instance.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Any,
    Asked,
    Says,
}

/// What all drivers share.
struct Weather {
    random: Mutex<fastrand::Rng>,
    /// Disconnected when everything is healed.
    storm: Receiver<()>,
    end: Mutex<Option<Sender<()>>>,
    /// Agents that attach late, and those that are lost.
    network: Sender<Packet>,
    packets: Receiver<Packet>,
    /// The calls that hang until it is healed.
    hanging: Mutex<HashSet<(String, DriverCall)>>,
    /// The kind of the last instance of each worker.
    kinds: Mutex<HashMap<String, String>>,
}

enum Packet {
    Attach(Attacher),
    Lose(Attachment),
}

impl Weather {
    fn new(seed: u64) -> Self {
        let (end, storm) = unbounded();
        let (network, packets) = unbounded();
        Self {
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            storm,
            end: Mutex::new(Some(end)),
            network,
            packets,
            hanging: Mutex::default(),
            kinds: Mutex::default(),
        }
    }

    fn heal(&self) {
        *self.end.lock().unwrap() = None;
    }

    fn is_healed(&self) -> bool {
        self.end.lock().unwrap().is_none()
    }

    /// A number below 1000; the greatest one when everything is healed.
    fn mood(&self) -> u32 {
        if self.is_healed() { 999 } else { self.random.lock().unwrap().u32(0..1000) }
    }

    fn hang(&self, worker: &str, call: DriverCall, until: Option<&StartRequest<'_>>) {
        self.hanging.lock().unwrap().insert((worker.to_owned(), call));
        match until {
            Some(start) => crossbeam_channel::select! {
                recv(self.storm) -> _ => {},
                recv(start.cancel_signal()) -> _ => {},
            },
            None => drop(self.storm.recv()),
        }
        self.hanging.lock().unwrap().remove(&(worker.to_owned(), call));
    }

    fn hangs(&self, worker: &str, call: DriverCall) -> bool {
        self.hanging.lock().unwrap().contains(&(worker.to_owned(), call))
    }

    /// Does what the network has to do, in disorder.
    fn deliver(&self) {
        let mut packets: Vec<_> = self.packets.try_iter().collect();
        self.random.lock().unwrap().shuffle(&mut packets);
        for packet in packets {
            match packet {
                // It is refused when the attempt is over.
                Packet::Attach(attacher) => {
                    if let Ok(attachment) = attacher.attach(()) {
                        let _ = self.network.send(Packet::Lose(attachment));
                    }
                }
                Packet::Lose(attachment) => attachment.lost("the network broke"),
            }
        }
    }
}

struct Moody {
    weather: Arc<Weather>,
    way: Way,
}

struct Instance {
    worker: String,
    kind: String,
    _attachment: Option<Attachment>,
}

fn kind_of(properties: &Properties) -> String {
    properties.get("kind").unwrap_or("none").to_owned()
}

impl LatentWorker for Moody {
    type Instance = Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Instance>, StartError> {
        let (worker, kind) = (start.worker().to_owned(), kind_of(&start.properties()));
        self.weather.kinds.lock().unwrap().insert(worker.clone(), kind.clone());
        let made =
            |attachment| Started::new(Instance { worker: worker.clone(), kind: kind.clone(), _attachment: attachment });
        match self.weather.mood() {
            0..60 => Err(StartError::infrastructure("no network")),
            60..90 => Err(StartError::failed(FailureCause::Capacity, "no capacity")),
            90..100 => Err(StartError::cannot("no such image")),
            100..120 => resume_unwind(Box::new("the start panics")),
            120..150 => {
                self.weather.hang(&worker, DriverCall::Start, Some(start));
                Err(StartError::infrastructure("cancelled"))
            }
            150..170 => {
                // A start that ignores its cancel.
                self.weather.hang(&worker, DriverCall::Start, None);
                Ok(made(Some(start.attacher().attach(())?)))
            }
            170..180 => Ok(made(None)),
            180..300 => {
                let _ = self.weather.network.send(Packet::Attach(start.attacher()));
                Ok(made(None))
            }
            300..350 => {
                let _ = self.weather.network.send(Packet::Lose(start.attacher().attach(())?));
                Ok(made(None))
            }
            350..360 => {
                drop(start.attacher().attach(())?);
                Ok(made(None))
            }
            _ => Ok(made(Some(start.attacher().attach(())?))),
        }
    }

    fn check_instance(&self, instance: &Instance) -> Health {
        match self.weather.mood() {
            0..50 => Health::bad("it looks bad"),
            50..60 => {
                self.weather.hang(&instance.worker, DriverCall::Check, None);
                Health::Good
            }
            _ => Health::Good,
        }
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.way == Way::Asked
    }

    fn is_compatible_with_build(&self, instance: &Instance, properties: &Properties) -> Result<bool, BoxError> {
        if self.weather.mood() < 30 {
            self.weather.hang(&instance.worker, DriverCall::Compatible, None);
        }
        Ok(instance.kind == kind_of(properties))
    }

    fn says_kinds(&self) -> bool {
        self.way == Way::Says
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        Ok(Kind::new(kind_of(properties)))
    }

    fn stop_instance(&self, stop: StopRequest<Instance>) -> Result<(), StopError> {
        match self.weather.mood() {
            0..20 => Err(StopError::new("it does not stop")),
            20..30 => resume_unwind(Box::new("the stop panics")),
            30..50 => {
                self.weather.hang(stop.worker(), DriverCall::Stop, None);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What is asked of a build.
#[derive(Clone, Copy, Debug)]
struct Wish {
    kind: &'static str,
    priority: i32,
    scarce: bool,
}

/// One worker, as far as the test has set it.
struct Setup {
    way: Way,
    places: usize,
    scarce: bool,
}

/// One master, from its start to its shutdown.
struct Farm {
    clock: ManualClock,
    master: Master,
    weather: Arc<Weather>,
    record: Receiver<Event>,
    workers: BTreeMap<String, Setup>,
    wishes: Mutex<HashMap<BuildId, Wish>>,
}

/// What a thread holds.
#[derive(Default)]
struct Hand {
    tickets: Vec<Ticket>,
    leases: Vec<Lease>,
    inbox: Option<Inbox>,
}

impl Farm {
    fn new(seed: u64) -> Self {
        let clock = ManualClock::new();
        let config = PlacementConfig::new()
            .with_retry_pause(Duration::from_millis(100), Duration::from_secs(5))
            .with_claim_timeout(Duration::from_secs(120));
        let master = Master::builder().clock(clock.clone()).placement(config).drop_timeout(PATIENCE).build();
        let record = master.events(usize::MAX);
        let weather = Arc::new(Weather::new(seed));
        let mut random = fastrand::Rng::with_seed(seed);
        let shared: Vec<_> =
            [Way::Any, Way::Asked, Way::Says].map(|way| Arc::new(Moody { weather: weather.clone(), way })).into();
        let mut workers = BTreeMap::new();
        for number in 0..WORKERS {
            let driver = &shared[number % 3];
            let name = format!("w{number}");
            let (idle, places) = match random.u32(0..4) {
                0 => (IdlePolicy::AfterBuild, 1),
                1 => (IdlePolicy::Never, random.usize(1..=3)),
                _ => (IdlePolicy::After(Duration::from_secs(30)), random.usize(1..=3)),
            };
            let scarce = number % 4 == 0;
            let mut config = WorkerConfig::new(name.clone())
                .with_idle(idle)
                .with_max_builds(NonZeroUsize::new(places).unwrap())
                .with_missing_timeout(Duration::from_secs(random.u64(20..200)))
                .with_check_instance_interval(Duration::from_secs(5));
            if scarce {
                config = config.with_label("gpu");
            }
            // Half of the driver values are shared.
            let own = Moody { weather: weather.clone(), way: driver.way };
            match random.bool() {
                true => master.add_worker(config, driver.clone()).unwrap(),
                false => master.add_worker(config, own).unwrap(),
            };
            workers.insert(name, Setup { way: driver.way, places, scarce });
        }
        Self { clock, master, weather, record, workers, wishes: Mutex::default() }
    }

    fn submit(&self, hand: &mut Hand, random: &mut fastrand::Rng) {
        let wish = Wish {
            kind: KINDS[random.usize(..KINDS.len())],
            priority: random.i32(-1..=1),
            scarce: random.u32(0..4) == 0,
        };
        let mut build = Build::new("b").with_property("kind", wish.kind).with_priority(wish.priority);
        if wish.scarce {
            build = build.with_label("gpu");
        }
        let id = match random.u32(0..3) {
            0 => self.master.submit_to(build, hand.inbox.get_or_insert_with(Inbox::new)),
            _ => {
                let ticket = self.master.submit(build);
                let id = ticket.id();
                hand.tickets.push(ticket);
                id
            }
        };
        self.wishes.lock().unwrap().insert(id, wish);
    }

    /// Takes out what has been answered. Tickets whose build has ended are dropped.
    fn collect(hand: &mut Hand) {
        let leases = &mut hand.leases;
        hand.tickets.retain(|ticket| match ticket.try_wait() {
            Some(Ok(lease)) => {
                leases.push(lease);
                true
            }
            Some(Err(_)) => false,
            None => true,
        });
        let of_inbox = hand.inbox.iter().flat_map(|inbox| inbox.receiver().try_iter());
        leases.extend(of_inbox.filter_map(|(_, answer)| answer.ok()));
    }

    fn use_lease(lease: Lease, random: &mut fastrand::Rng) {
        match random.u32(0..100) {
            0..10 => drop(lease),
            10..20 => lease.retry("once more"),
            20..25 => lease.retire("the disk is full"),
            25..30 => {
                let panicked = catch_unwind(AssertUnwindSafe(move || {
                    let _lease = lease;
                    resume_unwind(Box::new("the work panics"));
                }));
                assert!(panicked.is_err());
            }
            30..40 => lease.finish(BuildResult::Failed("exit code 1".into())),
            _ => lease.finish(BuildResult::Succeeded),
        }
    }

    /// What one of the threads does: operations until it has submitted `builds`.
    fn be_a_user(&self, seed: u64, builds: u32) -> Hand {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut hand = Hand::default();
        let names: Vec<&String> = self.workers.keys().collect();
        let mut submitted = 0;
        while submitted < builds {
            match random.u32(0..100) {
                0..25 if hand.tickets.len() < 20 => {
                    self.submit(&mut hand, &mut random);
                    submitted += 1;
                }
                25..32 if !hand.tickets.is_empty() => {
                    let chosen = random.usize(..hand.tickets.len());
                    match random.bool() {
                        true => hand.tickets[chosen].cancel(),
                        false => drop(hand.tickets.swap_remove(chosen)),
                    }
                }
                32..33 => hand.inbox = None,
                33..40 => {
                    let worker = self.master.worker(names[random.usize(..names.len())]).unwrap();
                    match random.u32(0..8) {
                        0 => worker.pause(),
                        1 => drop(worker.insubstantiate(random.bool())),
                        _ => worker.unpause(),
                    }
                }
                40..45 => self.clock.advance(Duration::from_millis(random.u64(1..1000))),
                45..50 => self.weather.deliver(),
                50..75 => Self::collect(&mut hand),
                _ if !hand.leases.is_empty() => {
                    let lease = hand.leases.swap_remove(random.usize(..hand.leases.len()));
                    Self::use_lease(lease, &mut random);
                }
                _ => std::thread::yield_now(),
            }
        }
        hand
    }

    /// Blocks until no thread of the library works, except for the calls that hang.
    fn wait_quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        let is_quiet = || {
            let Some(steps) = self.master.completed_steps() else { return false };
            let settled = self.master.status().iter().all(|status| match &status.call {
                Some((call, _)) => self.weather.hangs(&status.name, *call),
                None => status.state != WorkerState::Substantiating,
            });
            settled && self.master.completed_steps() == Some(steps)
        };
        while !is_quiet() {
            assert!(Instant::now() < deadline, "the master does not become quiet: {:#?}", self.master.status());
            std::thread::yield_now();
        }
    }

    fn checker(&self) -> EventChecker {
        self.workers
            .iter()
            .fold(EventChecker::new(), |checker, (name, setup)| checker.with_max_builds_of(name.clone(), setup.places))
    }

    /// Checks the record of a master that is quiet: L1.
    fn check_quiet(&self, events: &[Event]) {
        let certain = self.certain_pairs(events);
        let fits = move |build: BuildId, worker: &str| certain.contains(&(build, worker.to_owned()));
        let checker = self.checker().with_liveness(Duration::MAX, fits);
        if let Err(violations) = checker.check_quiet(events) {
            panic!("{violations}\n{}", self.describe(events));
        }
    }

    /// The builds that no other build can keep from a place of a worker, if it has a free one.
    fn certain_pairs(&self, events: &[Event]) -> HashSet<(BuildId, String)> {
        let mut waiting: BTreeMap<BuildId, bool> = BTreeMap::new();
        for event in events {
            match (&event.kind, event.build) {
                (EventKind::BuildQueued { retry, .. }, Some(build)) => {
                    waiting.insert(build, retry.is_some());
                }
                (EventKind::BuildStarted | EventKind::BuildFinished { .. }, Some(build)) => {
                    waiting.remove(&build);
                }
                _ => {}
            }
        }
        let wishes = self.wishes.lock().unwrap();
        let kinds = self.weather.kinds.lock().unwrap();
        let mut in_order: Vec<_> =
            waiting.into_iter().map(|(build, retried)| (build, retried, wishes[&build])).collect();
        in_order.sort_by_key(|(build, _, wish)| (-wish.priority, *build));
        let mut pairs = HashSet::new();
        for (name, setup) in &self.workers {
            let mut for_worker = in_order.iter().filter(|(.., wish)| setup.scarce || !wish.scarce);
            // A build that is retried may pause, and avoids workers.
            let Some(&(build, false, wish)) = for_worker.next() else { continue };
            let of_kind = setup.way == Way::Any || kinds.get(name).is_some_and(|kind| *kind == wish.kind);
            // Events tell neither which instances are drained nor whose driver is being asked whether a build fits.
            let status = self.master.worker(name).unwrap().status();
            let drains = self.drains(build) && status.leases > 0;
            if of_kind && !drains && status.call.is_none() {
                pairs.insert((build, name.clone()));
            }
        }
        pairs
    }

    fn drains(&self, build: BuildId) -> bool {
        let Some(BuildState::Waiting(waiting)) = self.master.build_status(build).map(|status| status.state) else {
            return false;
        };
        waiting.obstacles.iter().any(|obstacle| obstacle.reason == ObstacleReason::Draining)
    }

    fn describe(&self, events: &[Event]) -> String {
        let workers = self.master.status().iter().map(|status| format!("  {status}")).collect::<Vec<_>>().join("\n");
        let last = &events[events.len().saturating_sub(150)..];
        let last = last.iter().map(|event| format!("  {:.3} {event}", event.at.as_secs_f64())).collect::<Vec<_>>();
        format!("workers:\n{workers}\n{}\nlast events:\n{}", self.master.queue(None, 50), last.join("\n"))
    }

    /// Everything is healed: every build that waits is answered. L2.
    fn answer_all(&self, hands: &mut [Hand], events: &mut Vec<Event>) {
        self.weather.heal();
        for worker in self.master.workers() {
            worker.unpause();
        }
        // The longest quarantine and pause, and more than that.
        for step in 0..3000 {
            self.weather.deliver();
            self.wait_quiet();
            for hand in &mut *hands {
                Self::collect(hand);
                hand.leases.drain(..).for_each(|lease| lease.finish(BuildResult::Succeeded));
            }
            self.wait_quiet();
            events.extend(self.record.try_iter());
            self.check_quiet(events);
            hands.iter_mut().for_each(Self::collect);
            let is_idle = hands.iter().all(|hand| hand.tickets.is_empty() && hand.leases.is_empty());
            if is_idle && self.master.queue(None, 1).total == 0 {
                return;
            }
            self.clock.advance(Duration::from_secs(if step < 200 { 1 } else { 5 }));
        }
        panic!("builds wait for ever\n{}", self.describe(events));
    }
}

/// One master, from its start to its shutdown; how many builds were submitted.
fn starve(seed: u64, builds: u32) -> usize {
    let farm = Farm::new(seed);
    let mut events = Vec::new();
    for round in 0..4 {
        let user = |thread: u64| farm.be_a_user(seed << 16 | round << 8 | thread, builds / 4);
        let mut hands: Vec<Hand> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || user(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        farm.wait_quiet();
        events.extend(farm.record.try_iter());
        farm.check_quiet(&events);
        if round == 3 {
            farm.answer_all(&mut hands, &mut events);
        }
    }
    let report = farm.master.shutdown(ShutdownMode::Graceful, PATIENCE);
    assert!(report.complete, "{report}");
    events.extend(farm.record.try_iter());
    match farm.checker().check_ended(&events) {
        Ok(summary) => summary.builds,
        Err(violations) => panic!("{violations}\n{}", farm.describe(&events)),
    }
}

#[test]
fn b7_l1_and_l2_hold_when_sixteen_threads_starve_the_library() {
    let builds: usize = (0..8).map(|seed| starve(seed, 64)).sum();
    assert_eq!(builds, 8 * 16 * 64);
}

#[test]
#[ignore = "needs a minute"]
fn b7_l1_and_l2_hold_for_a_minute() {
    let end = Instant::now() + Duration::from_secs(60);
    let seeds = (100..).take_while(|_| Instant::now() < end);
    let builds: usize = seeds.map(|seed| starve(seed, 400)).sum();
    println!("{builds} builds");
}
