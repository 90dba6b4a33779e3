//! What a journal costs: 64 workers live a whole life at once, with a driver that does nothing, so that nothing hides
//! the cost of the file. What is promised is a count: less than one sync for each life, though its beginning and its
//! end are durable. Beside it the same without a journal, and the bare price of 64 lives that sync by themselves.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use latent_worker::{Build, JournalStep, Master, MasterBuilder, Worker, WorkerConfig};
use support::{Figure, Line, Nothing, Plan, Report, Side, take_turns};

const WORKERS: usize = 64;
const LONG: Duration = Duration::from_secs(60);
/// The length of what a journal says of one life, roughly.
const RECORDS: [u8; 256] = [b'x'; 256];

fn main() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-journal-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory for the journals");
    let (syncs, lives) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let counted = syncs.clone();
    let count = move |step| {
        if step == JournalStep::AfterSync {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let journal = Master::builder().journal_with_steps(directory.join("journal"), 1 << 20, count);
    let (with, without) = (farm(journal.expect("a journal")), farm(Master::builder()));
    let mut alone = File::create(directory.join("alone")).expect("a file");

    let plan = Plan { turns: 30, samples: 3, operations: 1 };
    let [bare, sides @ ..] = take_turns(
        &plan,
        [
            Side::new("without a journal", || live(&without.1)),
            Side::new("with one", || {
                live(&with.1);
                lives.fetch_add(WORKERS as u64, Ordering::Relaxed);
            }),
            Side::new("two syncs for each life, one after the other", || {
                for _ in 0..2 * WORKERS {
                    alone.write_all(&RECORDS).expect("room on the disk");
                    alone.sync_data().expect("a sync");
                }
            }),
        ],
    );
    let per_life = syncs.load(Ordering::Relaxed) as f64 / lives.load(Ordering::Relaxed) as f64;
    let mut report = Report::new("journal, 64 lives at once");
    report.add(Line::new(&bare.0, Figure::Times(bare.1)));
    sides.iter().for_each(|side| report.beside(&bare, side));
    report.add(Line::new("syncs for each life", Figure::Count((per_life * 1000.0).round() / 1000.0)).at_most(1.0));
    report.print();
    drop((with, without));
    fs::remove_dir_all(directory).expect("the directory can be removed");
}

fn farm(builder: MasterBuilder) -> (Master, Vec<Worker>) {
    let master = builder.build();
    let add = |number| master.add_worker(WorkerConfig::new(format!("w{number}")), Nothing).expect("a new name");
    let workers = (0..WORKERS).map(add).collect();
    (master, workers)
}

/// All of them are started, used and stopped.
fn live(workers: &[Worker]) {
    let build = Build::new("build");
    let requests: Vec<_> = workers.iter().map(|worker| worker.substantiate(&build)).collect();
    requests.into_iter().for_each(|request| drop(request.wait().expect("a lease")));
    let stops: Vec<_> = workers.iter().map(|worker| worker.insubstantiate(false)).collect();
    assert!(stops.iter().all(|stop| stop.wait_timeout(LONG)), "every stop is answered");
}
