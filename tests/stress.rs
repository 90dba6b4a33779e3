//! Stress on real threads and the real clock: 64 workers whose drivers do at random whatever a driver can do, tens of
//! thousands of cycles; then the public checker of the testing kit reads the event record.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use latent_worker::testing::EventChecker;
use latent_worker::{
    Attacher, Attachment, BoxError, Build, BuildError, BuildId, BuildResult, Event, FailureCause, Health, IdlePolicy,
    Inbox, LatentWorker, Lease, Master, PlacementConfig, Properties, ShutdownMode, StartError, StartRequest, Started,
    StopError, StopRequest, WorkerConfig,
};

const WORKERS: usize = 64;
const CYCLES: usize = 50_000;
const MAX_BUILDS: usize = 2;
/// The pause between attempts, which is short because failures are what this is about.
const PAUSE: Duration = Duration::from_millis(1);

/// What a stress driver may do; the rest of its life is left to chance.
struct Moody {
    random: Mutex<fastrand::Rng>,
    /// Attaches agents late and takes them away, from a thread of its own as a network would.
    network: crossbeam_channel::Sender<Packet>,
    starts: Arc<AtomicUsize>,
    stops: Arc<AtomicUsize>,
}

/// What the network does to an agent when it gets to it.
enum Packet {
    Attach(Attacher),
    Lose(Attachment),
}

/// The kind of instance, so that builds may be incompatible.
struct Instance {
    kind: String,
    _attachment: Option<Attachment>,
}

impl Moody {
    fn dice(&self) -> u32 {
        self.random.lock().unwrap().u32(0..1000)
    }
}

impl LatentWorker for Moody {
    type Instance = Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Instance>, StartError> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        let kind = start.properties().get("kind").unwrap_or("none").to_owned();
        let instance = |attachment| Started::new(Instance { kind: kind.clone(), _attachment: attachment });
        match self.dice() {
            0..30 => Err(StartError::failed(FailureCause::Capacity, "no capacity today")),
            30..50 => Err(StartError::cannot("no such thing")),
            50..70 => panic!("the driver of {} panics", start.worker()),
            70..80 => {
                // Hangs until it is cancelled, which the missing_timeout does.
                while start.sleep(Duration::from_secs(3600)).is_ok() {}
                Ok(instance(None))
            }
            80..90 => Ok(instance(None)), // the agent never attaches
            90..250 => {
                let _ = self.network.send(Packet::Attach(start.attacher()));
                Ok(instance(None))
            }
            250..300 => {
                let attachment = start.attacher().attach(())?;
                let _ = self.network.send(Packet::Lose(attachment));
                Ok(instance(None))
            }
            300..310 => {
                let attachment = start.attacher().attach(())?;
                drop(attachment);
                Err(StartError::infrastructure("lost while starting"))
            }
            _ => Ok(instance(Some(start.attacher().attach(())?))),
        }
    }

    fn check_instance(&self, _: &Instance) -> Health {
        match self.dice() {
            0..100 => Health::bad("it looks bad"),
            100..120 => panic!("the check panics"),
            _ => Health::Good,
        }
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.dice() < 500
    }

    fn is_compatible_with_build(&self, instance: &Instance, properties: &Properties) -> Result<bool, BoxError> {
        match self.dice() {
            0..10 => Err("cannot tell".into()),
            10..15 => panic!("the comparison panics"),
            _ => Ok(Some(instance.kind.as_str()) == properties.get("kind")),
        }
    }

    fn stop_instance(&self, stop: StopRequest<Instance>) -> Result<(), StopError> {
        self.stops.fetch_add(1, Ordering::Relaxed);
        drop(stop);
        match self.dice() {
            0..10 => Err(StopError::new("it will not stop")),
            10..15 => panic!("the stop panics"),
            _ => Ok(()),
        }
    }
}

/// Delivers packets in random order until all senders are gone.
fn network(packets: crossbeam_channel::Receiver<Packet>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut held = Vec::new();
    while let Ok(packet) = packets.recv() {
        held.push(packet);
        while held.len() > 16 || (packets.is_empty() && !held.is_empty()) {
            match held.swap_remove(random.usize(..held.len())) {
                Packet::Attach(attacher) => {
                    // Refused when the attempt is over.
                    if let Ok(attachment) = attacher.attach(()) {
                        held.push(Packet::Lose(attachment));
                    }
                    if held.len() < 4 {
                        break;
                    }
                }
                Packet::Lose(attachment) => attachment.lost("the network broke"),
            }
        }
    }
}

/// Uses a lease as a user would who is not always careful; whether the build goes on.
fn use_lease(lease: Lease, random: &mut fastrand::Rng) -> bool {
    let choice = random.u32(0..100);
    let again = matches!(choice, 10..20) || matches!(choice, 20..30) && lease.end().is_some();
    match choice {
        _ if again => lease.retry("once more"),
        0..5 => drop(lease),
        5..10 => {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _lease = lease;
                panic!("the build panics");
            }));
        }
        30..40 => lease.finish(BuildResult::Failed("it failed".into())),
        _ => lease.finish(BuildResult::Succeeded),
    }
    again
}

#[test]
fn w1_w2_w3_b6_hold_under_stress_and_no_thread_is_left() {
    // The panics are part of it, and forty thousand of them would hide everything else.
    std::panic::set_hook(Box::new(|info| {
        if std::thread::current().name().is_none_or(|name| !name.starts_with("lw ") && name != "users") {
            eprintln!("{info}");
        }
    }));
    let seed = std::env::var("LATENT_WORKER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("LATENT_WORKER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let placement = PlacementConfig::new().with_retry_pause(PAUSE, PAUSE);
    let master = Master::builder().placement(placement).build();
    let events = master.events(usize::MAX);
    let (starts, stops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (packets, received) = crossbeam_channel::unbounded();
    let network_seed = random.u64(..);
    let network_thread = std::thread::spawn(move || network(received, network_seed));
    for number in 0..WORKERS {
        let idle = match number % 8 {
            0..5 => IdlePolicy::AfterBuild,
            5..7 => IdlePolicy::After(Duration::from_millis(1)),
            _ => IdlePolicy::Never,
        };
        let config = WorkerConfig::new(format!("w{number}"))
            .with_max_builds(MAX_BUILDS.try_into().unwrap())
            .with_idle(idle)
            .with_missing_timeout(Duration::from_millis(20))
            .with_check_instance_interval(Duration::from_millis(1))
            .with_label(["left", "right"][number % 2]);
        let driver = Moody {
            random: Mutex::new(random.fork()),
            network: packets.clone(),
            starts: starts.clone(),
            stops: stops.clone(),
        };
        master.add_worker(config, driver).unwrap();
    }
    drop(packets);

    let inbox = Inbox::new();
    let kinds = ["a", "b", "c"];
    let open: Arc<Mutex<HashSet<BuildId>>> = Arc::default();
    let mut last_answers: HashMap<BuildId, BuildError> = HashMap::new();
    let mut submitted = 0;
    let workers = master.workers();
    let (give, leases) = crossbeam_channel::unbounded::<Lease>();
    let users: Vec<_> = (0..4)
        .map(|_| {
            let (leases, open, mut random) = (leases.clone(), open.clone(), random.fork());
            let users = std::thread::Builder::new().name("users".to_owned());
            users
                .spawn(move || {
                    for lease in leases {
                        let id = lease.build_id().unwrap();
                        if !use_lease(lease, &mut random) {
                            open.lock().unwrap().remove(&id);
                        }
                    }
                })
                .unwrap()
        })
        .collect();
    drop(leases);
    let deadline = Instant::now() + Duration::from_secs(240);
    while stops.load(Ordering::Relaxed) < CYCLES {
        assert!(Instant::now() < deadline, "stuck: {:#?}", master.status());
        while inbox.receiver().is_empty() && open.lock().unwrap().len() < 300 {
            let build = Build::new("stress")
                .with_property("kind", *random.choice(&kinds).unwrap())
                .with_priority(random.i32(0..3))
                .with_max_attempts(3.try_into().unwrap());
            let build = if random.bool() { build.with_label("left") } else { build };
            // With the set locked, so that the build cannot end before it is in it.
            let mut open = open.lock().unwrap();
            open.insert(master.submit_to(build, &inbox));
            submitted += 1;
        }
        // Workers are disturbed in every other way, and never left alone for long after a failure.
        let worker = random.choice(&workers).unwrap();
        match random.u32(0..200) {
            0 => drop(worker.insubstantiate(random.bool())),
            1 => worker.pause(),
            2 => drop(worker.warm_up()),
            3 => drop(worker.substantiate(&Build::new("direct").with_property("kind", "a"))),
            4 => {
                let some = open.lock().unwrap().iter().next().copied();
                let _ = some.map(|id| master.cancel(id));
            }
            _ => worker.unpause(),
        }
        if let Some((id, answer)) = inbox.wait_timeout(Duration::from_micros(100)) {
            match answer {
                Ok(lease) => give.send(lease).unwrap(),
                Err(error) => {
                    open.lock().unwrap().remove(&id);
                    assert_eq!(last_answers.insert(id, error), None, "w3: a second last answer for {id}");
                }
            }
        }
    }

    let report = master.shutdown(ShutdownMode::Fast, Duration::from_secs(30));
    assert!(report.complete, "{report}");
    drop(give);
    users.into_iter().for_each(|user| user.join().unwrap());
    drop(inbox);
    drop((master, workers));
    network_thread.join().unwrap();

    let events: Vec<Event> = events.iter().collect();
    let checker = EventChecker::new().with_max_builds(MAX_BUILDS);
    let summary = checker.check_ended(&events).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(summary.total_starts(), starts.load(Ordering::Relaxed), "the record misses starts");
    assert_eq!(summary.stops, stops.load(Ordering::Relaxed), "the record misses stops");
    assert_eq!(summary.builds, submitted, "the record misses builds");
    println!("{} builds, {} events, {summary:?}", submitted, events.len());
    no_thread_of_the_library_is_left();
}

/// A joined thread may still be seen for a moment while the system takes it away.
fn no_thread_of_the_library_is_left() {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = threads_of_the_library();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "threads are left: {left:?}");
        std::thread::yield_now();
    }
}

/// The names of the library's threads, where the system tells.
fn threads_of_the_library() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("lw ")).collect()
}

/// A driver that works, for those who do not.
struct Works;

impl LatentWorker for Works {
    type Instance = Attachment;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Attachment>, StartError> {
        Ok(Started::new(start.attacher().attach(())?))
    }

    fn stop_instance(&self, _stop: StopRequest<Attachment>) -> Result<(), StopError> {
        Ok(())
    }
}

/// A lease may be on its way to a ticket at the moment in which that is dropped.
#[test]
fn w3_b6_tickets_dropped_at_any_moment_keep_no_lease() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let placement = PlacementConfig::new().with_retry_pause(PAUSE, PAUSE);
    let master = Master::builder().placement(placement).build();
    for number in 0..3 {
        let idle = if number == 2 { IdlePolicy::AfterBuild } else { IdlePolicy::Never };
        let config = WorkerConfig::new(format!("t{number}")).with_label("any").with_label(format!("l{number}"));
        master.add_worker(config.with_idle(idle), Works).unwrap();
    }
    let user = |mut random: fastrand::Rng| {
        for _ in 0..3_000 {
            let label = if random.bool() { "any".to_owned() } else { format!("l{}", random.u32(0..3)) };
            let ticket = master.submit(Build::new("short").with_label(label));
            if random.u32(0..3) == 0 {
                // Dropped at about the moment in which the lease comes.
                (0..random.u32(0..3_000)).for_each(|_| std::hint::spin_loop());
                continue;
            }
            let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").expect("a lease was lost");
            if random.bool() {
                lease.retry("again");
                let again =
                    ticket.wait_timeout(PATIENCE).expect("an answer in time").expect("a lease was lost after a retry");
                again.finish(BuildResult::Succeeded);
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..5 {
            let user = &user;
            scope.spawn(move || user(fastrand::Rng::with_seed(seed)));
        }
    });
    let report = master.shutdown(ShutdownMode::Graceful, PATIENCE);
    assert!(report.complete, "{report}");
}
