//! Lease and release of an attached, idle worker, beside get and put of r2d2, the pool that most synchronous Rust uses.

mod support;

use std::convert::Infallible;

use latent_worker::{Build, IdlePolicy, Master, WorkerConfig};
use support::{Nothing, Plan, Report, Side, take_turns};

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
            Side::new("for comparison: through the queue", || {
                drop(master.submit(build.clone()).wait().expect("a lease"));
            }),
        ],
    );
    let mut report = Report::new("lease");
    report.compare(&peer, &direct, 1.0);
    report.beside(&peer, &queued);
    report.print();
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
