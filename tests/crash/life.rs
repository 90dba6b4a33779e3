//! One life of a master: it reclaims what earlier ones have left, does some work, and counts the points that it passes.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use latent_worker::testing::ManualClock;
use latent_worker::{
    Attachment, Build, IdlePolicy, JournalStep, LatentWorker, Leftover, Master, Reclaimed, ShutdownMode, StartError,
    StartRequest, Started, StopError, StopRequest, Worker, WorkerConfig,
};

use super::provider::Provider;

pub(crate) const DIRECTORY: &str = "LW_CRASH_DIRECTORY";
pub(crate) const KIND: &str = "LW_CRASH_KIND";
pub(crate) const CUT_AT: &str = "LW_CRASH_CUT_AT";
pub(crate) const LONG: Duration = Duration::from_secs(60);
const WORKERS: [&str; 4] = ["w", "broken", "stubborn", "at-shutdown"];
const MANY: usize = 8;
/// So short that a life has the journal replaced now and then.
const LONGEST: u64 = 600;

/// The file with the length up to which the journal survives a loss of power.
pub(crate) const SYNCED: &str = "synced";

static PASSED: AtomicUsize = AtomicUsize::new(0);
/// Of files and directories, but for that of the directory when the journal is opened.
static SYNCS: AtomicUsize = AtomicUsize::new(0);

fn cut_at() -> usize {
    env::var(CUT_AT).unwrap().parse().unwrap()
}

/// Passes a point, or is cut short there.
pub(crate) fn point() {
    if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == cut_at() {
        std::process::abort();
    }
}

pub(crate) fn live() {
    let (Some(directory), Ok(kind)) = (env::var_os(DIRECTORY), env::var(KIND)) else { return };
    let directory = Path::new(&directory);
    match kind.as_str() {
        "files" => in_turn(directory, Provider::new(directory), &|_| {}),
        "many" => at_once(directory, Provider::new(directory)),
        #[cfg(feature = "local")]
        "local" => in_turn(directory, local(directory), &run_something),
        #[cfg(feature = "command")]
        "command" => in_turn(directory, command(directory), &|_| {}),
        #[cfg(target_os = "linux")]
        "starts" => super::starts::live(directory),
        #[cfg(feature = "process")]
        "process" => in_turn(directory, process(directory), &|_| {}),
        other => panic!("{other}"),
    }
    fs::write(directory.join("syncs"), SYNCS.load(Ordering::SeqCst).to_string()).unwrap();
    fs::write(directory.join("points"), PASSED.load(Ordering::SeqCst).to_string()).unwrap();
}

fn master(directory: &Path, clock: &ManualClock) -> Master {
    let journal = directory.join("journal");
    let (synced, new) = (directory.join(SYNCED), directory.join("journal.latent-worker-new"));
    let on_step = move |step| {
        let is_synced = match step {
            JournalStep::AfterSync => !new.exists(),
            JournalStep::AfterReplace => true,
            _ => false,
        };
        SYNCS.fetch_add(
            usize::from(matches!(step, JournalStep::AfterSync | JournalStep::AfterReplace)),
            Ordering::SeqCst,
        );
        if is_synced {
            fs::write(&synced, fs::metadata(&journal).unwrap().len().to_string()).unwrap();
        }
        point();
        Ok(())
    };
    let builder = Master::builder().journal_with_steps(directory.join("journal"), LONGEST, on_step).unwrap();
    builder.clock(clock.clone()).build()
}

pub(crate) fn config(name: &str) -> WorkerConfig {
    WorkerConfig::new(name).with_idle(IdlePolicy::Never)
}

/// Waits until nothing is left; what has failed is tried again as soon as it can be.
fn reclaim_all(master: &Master, clock: &ManualClock) {
    let deadline = Instant::now() + LONG;
    while !master.leftovers().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", master.leftovers());
        clock.advance(Duration::from_secs(600));
        thread::sleep(Duration::from_millis(2));
    }
}

fn cycle(worker: &Worker, work: &dyn Fn(&latent_worker::Lease)) {
    let lease = worker.substantiate(&Build::new("b").with_property("name", worker.name().to_string())).wait();
    point();
    match lease {
        Ok(lease) => work(&lease),
        Err(error) => assert!(!worker.name().starts_with('w'), "this one works: {error}"),
    }
    assert!(worker.insubstantiate(false).wait_timeout(LONG), "{}", worker.status());
}

/// One worker after the other, so that the points come in the same order each time.
fn in_turn<D: LatentWorker>(directory: &Path, driver: D, work: &dyn Fn(&latent_worker::Lease)) {
    let clock = ManualClock::new();
    let master = master(directory, &clock);
    let driver = Arc::new(driver);
    let workers = WORKERS.map(|name| {
        let worker = master.add_worker(config(name), driver.clone()).unwrap();
        reclaim_all_of(&master, &clock, name);
        worker
    });
    assert_eq!(master.leftovers(), []);
    for worker in &workers[..3] {
        worker.unpause();
        cycle(worker, work);
        reclaim_all(&master, &clock);
    }
    let lease = workers[3].substantiate(&Build::new("b")).wait().unwrap();
    work(&lease);
    let report = master.shutdown(ShutdownMode::Fast, LONG);
    assert!(report.complete, "{report}");
    drop(lease);
}

pub(crate) fn reclaim_all_of(master: &Master, clock: &ManualClock, worker: &str) {
    let deadline = Instant::now() + LONG;
    while master.leftovers().iter().any(|leftover| &*leftover.worker == worker) {
        assert!(Instant::now() < deadline, "{:?}", master.leftovers());
        clock.advance(Duration::from_secs(600));
        thread::sleep(Duration::from_millis(1));
    }
    while master.worker(worker).unwrap().status().held {
        thread::sleep(Duration::from_millis(1));
    }
}

fn at_once(directory: &Path, driver: Provider) {
    let clock = ManualClock::new();
    let master = master(directory, &clock);
    let driver = Arc::new(driver);
    let names = (0..MANY).map(|number| format!("{}{number}", ["w", "broken", "stubborn"][number % 3]));
    let workers: Vec<_> = names.map(|name| master.add_worker(config(&name), driver.clone()).unwrap()).collect();
    thread::scope(|scope| {
        for worker in &workers {
            scope.spawn(|| {
                let deadline = Instant::now() + LONG;
                while worker.status().held {
                    assert!(Instant::now() < deadline, "{}", worker.status());
                    thread::sleep(Duration::from_millis(1));
                }
                cycle(worker, &|_| {});
            });
        }
    });
    reclaim_all(&master, &clock);
    assert!(master.shutdown(ShutdownMode::Fast, LONG).complete);
}

/// Whoever stops or reclaims an attempt holds this all the while: a lock that ends with its process. Another one who has
/// it already is a breach.
pub(crate) fn alone_with(directory: &Path, key: &str) -> fs::File {
    let locks = directory.join("locks");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(key)).unwrap();
    if lock.try_lock().is_err() {
        let violations = fs::File::options().append(true).create(true).open(directory.join("violations"));
        violations.unwrap().write_all(format!("{key} is removed twice at once\n").as_bytes()).unwrap();
    }
    lock
}

/// A driver with points around its calls.
struct Around<D> {
    driver: D,
    directory: PathBuf,
    /// By key: the agents of instances that bring none of their own.
    agents: Option<Mutex<HashMap<String, Attachment>>>,
    /// Called before the driver's own start and stop.
    before: Box<dyn Fn(&str) + Send + Sync>,
}

impl<D: LatentWorker> LatentWorker for Around<D> {
    type Instance = D::Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<D::Instance>, StartError> {
        point();
        (self.before)("start");
        let started = self.driver.start_instance(start);
        point();
        if let (Some(agents), Ok(_)) = (&self.agents, &started) {
            let agent = start.attacher().attach(())?;
            agents.lock().unwrap().insert(start.key().to_owned(), agent);
        }
        started
    }

    fn stop_instance(&self, stop: StopRequest<D::Instance>) -> Result<(), StopError> {
        point();
        let _alone = alone_with(&self.directory, stop.key());
        (self.before)("stop");
        let key = stop.key().to_owned();
        let stopped = self.driver.stop_instance(stop);
        point();
        if let Some(agents) = &self.agents {
            drop(agents.lock().unwrap().remove(&key));
        }
        stopped
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        point();
        let _alone = alone_with(&self.directory, leftover.key());
        (self.before)("stop");
        let reclaimed = self.driver.reclaim(leftover);
        point();
        reclaimed
    }
}

#[cfg(feature = "local")]
fn local(directory: &Path) -> Around<latent_worker::LocalLatentWorker> {
    use latent_worker::{LocalKind, LocalLatentWorker};

    let template = directory.join("template");
    fs::create_dir_all(template.join("below")).unwrap();
    fs::write(template.join("below/file"), "from the template").unwrap();
    let driver = LocalLatentWorker::new().root(directory.join("instances")).kind_property("name");
    // The start of this kind fails after it has made the directory.
    let driver = driver.kind("broken", LocalKind::new().template(directory.join("no such template")));
    let driver = ["w", "stubborn"]
        .into_iter()
        .fold(driver, |driver, name| driver.kind(name, LocalKind::new().template(&template)));
    Around { driver, directory: directory.to_owned(), agents: None, before: Box::new(|_| {}) }
}

/// Has processes run that end only when they are killed.
#[cfg(feature = "local")]
fn run_something(lease: &latent_worker::Lease) {
    use latent_worker::Command;

    point();
    let quiet = "exec >/dev/null 2>&1 </dev/null";
    let line = format!("(trap '' TERM; {quiet}; sleep 1000 & sleep 1000) & echo up; wait");
    let running = lease.start(&Command::shell(line)).unwrap();
    assert!(running.recv_timeout(LONG).unwrap().is_some());
    point();
}

/// Agents, with something that they run, that end neither with their master nor when they are asked to.
#[cfg(feature = "process")]
fn process(directory: &Path) -> Around<latent_worker::ProcessLatentWorker> {
    let agent = "trap '' TERM; exec >/dev/null 2>&1; sleep 1000 & while :; do sleep 1000; done";
    let driver = latent_worker::ProcessLatentWorker::new(["/bin/sh", "-c", agent]);
    let driver = driver.grace(Duration::from_millis(10)).secret_in_file();
    Around { driver, directory: directory.to_owned(), agents: Some(Mutex::default()), before: Box::new(|_| {}) }
}

/// Programs that make and remove directories; at two places in each, the program kills the master that runs it if that
/// is the point.
#[cfg(feature = "command")]
fn command(directory: &Path) -> Around<latent_worker::CommandLatentWorker> {
    let sh = |lines: &str| {
        let lines =
            format!("cd '{}' || exit 99\ncut() {{ [ ! -e cut-$1 ] || kill -9 $PPID; }}\n{lines}", directory.display());
        ["/bin/sh".to_owned(), "-c".to_owned(), lines]
    };
    let start = "i=instances/lw-$LATENT_WORKER_KEY\n\
        cut start-1; mkdir $i; cut start-2\n\
        [ $LATENT_WORKER_NAME != broken ] || exit 1\n\
        echo $i";
    let stop = "i=instances/lw-$LATENT_WORKER_KEY\n\
        [ ${LATENT_WORKER_INSTANCE-$i} = $i ] || echo wrong instance >>violations\n\
        cut stop-1; [ ! -e $i ] || rmdir $i || exit 1; cut stop-2";
    let driver = latent_worker::CommandLatentWorker::new(sh(start), sh(stop));
    let directory = directory.to_owned();
    let place = directory.clone();
    let before = move |call: &str| {
        for place in 1..=2 {
            let mark = directory.join(format!("cut-{call}-{place}"));
            let _ = fs::remove_file(&mark);
            if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == cut_at() {
                fs::write(mark, "").unwrap();
            }
        }
    };
    Around { driver, directory: place, agents: Some(Mutex::default()), before: Box::new(before) }
}
