//! Lease and release of an attached, idle worker, beside get and put of r2d2, the pool that most synchronous Rust uses.

mod support;

use std::convert::Infallible;
use std::num::NonZeroUsize;

use latent_worker::{Build, IdlePolicy, Master, WorkerConfig};
use support::{Nothing, Plan, Report, Side, Times, take_turns};

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

/// As many places, or connections, as threads.
fn from_threads(threads: u32) -> [(String, Times); 2] {
    let pool =
        r2d2::Pool::builder().max_size(threads).test_on_check_out(false).build(Nobody).expect("nothing can fail");

    let master = Master::new();
    let places = NonZeroUsize::new(threads as usize).expect("there is a thread");
    let worker = WorkerConfig::new("worker").with_max_builds(places);
    master.add_worker(worker, Nothing).expect("a new name").warm_up().wait().expect("it attaches");
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
    let plan = Plan { turns: 20, samples: 1, operations: 1 };
    take_turns(
        &plan,
        [
            Side::new(name("peer: r2d2"), || in_threads(&|| drop(pool.get().expect("a connection")))),
            Side::new(name("the queue"), || {
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
