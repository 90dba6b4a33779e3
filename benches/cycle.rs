//! The whole life of an instance with a driver that does nothing: request, start, attach, lease, release, stop, and the
//! answer that it is gone. Beside a bare thread that is spawned, makes three handoffs and is joined: what any library
//! with a thread for each instance has to pay.

mod support;

use std::time::Duration;

use crossbeam_channel::bounded;
use latent_worker::{Build, IdlePolicy, Master, WorkerConfig};
use support::{Nothing, Plan, Report, Side, take_turns};

const LONG: Duration = Duration::from_secs(60);

fn main() {
    let master = Master::new();
    let queued = WorkerConfig::new("queued").with_label("queue").with_idle(IdlePolicy::AfterBuild);
    let queued = master.add_worker(queued, Nothing).expect("a new name");
    let direct = master.add_worker(WorkerConfig::new("direct"), Nothing).expect("a new name");
    let build = Build::new("build").with_label("queue");

    let plan = Plan { turns: 200, samples: 20, operations: 1 };
    let [peer, sides @ ..] = take_turns(
        &plan,
        [
            Side::new("peer: thread, 3 handoffs, join", bare_thread),
            Side::new("through the queue", || {
                drop(master.submit(build.clone()).wait().expect("a lease"));
                assert!(queued.insubstantiate(false).wait_timeout(LONG), "the stop is answered");
            }),
            Side::new("direct", || {
                drop(direct.substantiate(&build).wait().expect("a lease"));
                assert!(direct.insubstantiate(false).wait_timeout(LONG), "the stop is answered");
            }),
        ],
    );
    let mut report = Report::new("cycle");
    report.compare(&peer, &sides, 1.0);
    report.print();
}

/// The handoffs of a cycle and nothing else: it is up, it is to stop, it has stopped.
fn bare_thread() {
    let (to_us, from_it) = bounded(1);
    let (to_it, from_us) = bounded(1);
    let thread = std::thread::Builder::new().name("bare".to_owned()).spawn(move || {
        to_us.send(()).expect("somebody waits");
        from_us.recv().expect("an order comes");
        to_us.send(()).expect("somebody waits");
    });
    let thread = thread.expect("the system has a thread");
    from_it.recv().expect("it is up");
    to_it.send(()).expect("it waits");
    from_it.recv().expect("it has stopped");
    thread.join().expect("it does not panic");
}
