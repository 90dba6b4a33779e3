//! What a decision costs beside few and beside many, and what a build that waits costs.

#![allow(unsafe_code, reason = "an allocator that counts cannot do without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use latent_worker::simulation::{Job, Pool, Run, Simulation};
use latent_worker::{Build, IdlePolicy, Inbox, Master, WorkerConfig};

use super::support::{Figure, Line, Nothing, Plan, Report, Side, in_earnest, take_turns};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, which counts the bytes that are in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        IN_USE.fetch_add(size, Ordering::Relaxed);
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(memory, layout, size) }
    }
}

pub(crate) fn print() {
    let mut report = Report::new("costs of placement");
    let (many_workers, many_builds) = if in_earnest() { (100_000, 1_000_000) } else { (100, 1_000) };
    compare_steps(&mut report, "workers", [10, many_workers], beside_workers);
    compare_steps(&mut report, "waiting builds", [10, many_builds], beside_waiting);
    queued_builds(&mut report, many_builds);
    report.print();
}

/// As many steps are taken of each simulation, warming included.
const STEPS: usize = 45_000;

fn compare_steps(report: &mut Report, of: &str, [few, many]: [usize; 2], begin: fn(usize) -> Run) {
    let mut runs = [few, many].map(begin);
    let [first, second] = &mut runs;
    let plan = Plan { turns: 100, samples: 2, operations: 200 };
    let sides = [
        Side::new(format!("a step beside {few} {of}"), || assert!(first.step().is_some(), "there is more to do")),
        Side::new(format!("a step beside {many} {of}"), || assert!(second.step().is_some(), "there is more to do")),
    ];
    let [few, many] = take_turns(&plan, sides);
    report.add(Line::new(&few.0, Figure::Times(few.1)));
    report.add(Line::new(&many.0, Figure::Times(many.1)).ratio(many.1.ratio_to(&few.1)).at_most(1.5));
}

fn of_kind(kind: usize) -> Build {
    Build::new("build").with_property("kind", kind.to_string())
}

/// One build after the other on a farm of as many workers. The others are down.
fn beside_workers(workers: usize) -> Run {
    let build = of_kind(0);
    let job = |number: usize| Job::new(Duration::from_secs(2 * number as u64), build.clone(), Duration::from_secs(1));
    let pool = Pool::new(WorkerConfig::new("worker").with_idle(IdlePolicy::Never), workers);
    let mut run = Simulation::new().with_pool(pool).with_jobs((0..STEPS).map(job)).begin();
    // All that are started in the beginning are up.
    while run.step().is_some_and(|at| at < Duration::from_secs(600)) {}
    run
}

/// Builds that arrive as fast as sixteen workers do them, beside as many that wait.
fn beside_waiting(waiting: usize) -> Run {
    let kinds: Vec<Build> = (0..8).map(of_kind).collect();
    let duration = Duration::from_secs(16);
    let first = (0..waiting).map(|number| Job::new(Duration::ZERO, kinds[number % 8].clone(), duration));
    let later =
        (0..STEPS).map(|number| Job::new(Duration::from_secs(60 + number as u64), kinds[number % 8].clone(), duration));
    let pool = Pool::new(WorkerConfig::new("worker").with_idle(IdlePolicy::Never), 16);
    let mut run = Simulation::new().with_pool(pool).with_jobs(first.chain(later)).begin();
    while run.step().is_some_and(|at| at < Duration::from_secs(600)) {}
    run
}

/// The memory of builds that wait, and what their status costs.
fn queued_builds(report: &mut Report, many: usize) {
    let builds: Vec<Build> = (0..8).map(of_kind).collect();
    let counts = [10, many / 1000, many];
    let queues = counts.map(|count| {
        let master = Master::new();
        let worker = master.add_worker(WorkerConfig::new("paused"), Nothing).expect("a new name");
        worker.pause();
        let inbox = Inbox::new();
        let before = IN_USE.load(Ordering::Relaxed);
        let last = (0..count).map(|number| master.submit_to(builds[number % 8].clone(), &inbox)).last();
        let bytes = IN_USE.load(Ordering::Relaxed).saturating_sub(before) as f64 / count as f64;
        (master, inbox, last.expect("at least one"), bytes)
    });
    let sides = [0, 1, 2].map(|side| {
        let (master, _, last, _) = &queues[side];
        let count = counts[side];
        Side::new(format!("build_status of the last of {count} waiting builds"), move || {
            std::hint::black_box(master.build_status(*last));
        })
    });
    let [few, some, most] = take_turns(&Plan { turns: 50, samples: 2, operations: 10 }, sides);
    report.add(Line::new(&few.0, Figure::Times(few.1)));
    report.add(Line::new(&some.0, Figure::Times(some.1)));
    // Logarithmic growth: as the logarithms of the numbers. Beside ten there is nothing to count.
    let logarithms = (counts[2] as f64).ln() / (counts[1].max(2) as f64).ln();
    report.add(Line::new(&most.0, Figure::Times(most.1)).ratio(most.1.ratio_to(&some.1)).at_most(logarithms));
    let what = format!("memory of each of {many} waiting builds, its own value aside");
    report.add(Line::new(what, Figure::Bytes(queues[2].3)).at_most(300.0));
}
