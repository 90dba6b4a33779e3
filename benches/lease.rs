//! Lease and release of an attached, idle worker, beside get and put of r2d2, the pool that most synchronous Rust uses.

mod support;

use std::convert::Infallible;
use std::num::NonZeroUsize;

use latent_worker::{Build, IdlePolicy, Master, WorkerConfig};
use support::{Nothing, Plan, Report, Side, Times, in_earnest, take_turns};

fn main() {
    let pool = r2d2::Pool::builder().max_size(1).test_on_check_out(false).build(Nobody).expect("nothing can fail");

    let master = Master::new();
    let add = |name: &str, idle: IdlePolicy| {
        let worker = master.add_worker(WorkerConfig::new(name).with_label(name).with_idle(idle), Nothing);
        let worker = worker.expect("a new name");
        worker.warm_up().wait().expect("it attaches");
        worker
    };
    let (timed, kept) = (add("timed", IdlePolicy::default()), add("kept", IdlePolicy::Never));
    let build = Build::new("build").with_label("kept");

    let plan = Plan { turns: 400, samples: 5, operations: 500 };
    let [peer, direct @ .., queued] = take_turns(
        &plan,
        [
            Side::new("peer: r2d2 get and put", || drop(pool.get().expect("a connection"))),
            Side::new("idle policy: 10 minutes", || drop(timed.substantiate(&build).wait().expect("a lease"))),
            Side::new("idle policy: never", || drop(kept.substantiate(&build).wait().expect("a lease"))),
            Side::new("through the queue", || {
                drop(master.submit(build.clone()).wait().expect("a lease"));
            }),
        ],
    );
    let mut report = Report::new("lease");
    report.compare(&peer, &direct, 1.0);
    report.compare(&peer, &[queued], 3.0);
    for threads in [1, 2, 8, 32] {
        let [peer, queued] = from_threads(threads);
        report.compare(&peer, &[queued], 3.0);
    }
    report.print();
}

/// As many places, or connections, as threads. How fast threads take turns with a lock depends on where in memory it lies, so
/// that each turn is taken with another pool and another master.
fn from_threads(threads: u32) -> [(String, Times); 2] {
    let turns = if in_earnest() { 20 } else { 1 };
    let new_pool = || r2d2::Pool::builder().max_size(threads).test_on_check_out(false).build(Nobody);
    let pools: Vec<_> = (0..turns).map(|_| new_pool().expect("nothing can fail")).collect();

    let masters: Vec<Master> = (0..turns).map(|_| Master::new()).collect();
    let places = NonZeroUsize::new(threads as usize).expect("there is a thread");
    for master in &masters {
        let worker = WorkerConfig::new("worker").with_max_builds(places);
        master.add_worker(worker, Nothing).expect("a new name").warm_up().wait().expect("it attaches");
    }
    let build = Build::new("build");

    // So many in one go that the threads themselves do not count.
    let rounds = 2_000;
    let in_threads = |operation: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..rounds).for_each(|_| operation()));
            }
        });
    };
    let name = |what: &str| format!("{what}, {rounds} times in each of {threads} threads");
    let (mut next_pool, mut next_master) = (pools.iter().cycle(), masters.iter().cycle());
    let plan = Plan { turns: 2 * turns, samples: 1, operations: 1 };
    take_turns(
        &plan,
        [
            Side::new(name("peer: r2d2"), || {
                let pool = next_pool.next().expect("there is one");
                in_threads(&|| drop(pool.get().expect("a connection")));
            }),
            Side::new(name("the queue"), || {
                let master = next_master.next().expect("there is one");
                in_threads(&|| drop(master.submit(build.clone()).wait().expect("a lease")));
            }),
        ],
    )
}

/// Connections that are nothing.
#[derive(Debug)]
struct Nobody;

impl r2d2::ManageConnection for Nobody {
    type Connection = ();
    type Error = Infallible;

    fn connect(&self) -> Result<(), Infallible> {
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}
