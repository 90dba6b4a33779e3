//! What tests of instances elsewhere do with a worker, and how long they wait for it.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use latent_worker::{
    Build, Command, Event, EventKind, FailureCause, Finished, IdlePolicy, LatentWorker, Lease, Master,
    SubstantiateError, Worker, WorkerConfig,
};

/// The longest wait for what takes a moment, on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn failure(worker: &Worker, build: &Build) -> SubstantiateError {
    let mut request = worker.substantiate(build);
    request.wait_timeout(PATIENCE).expect("an answer in time").map(drop).expect_err("it cannot come up")
}

/// The cause and the words of a failure.
pub(crate) fn failed(worker: &Worker, build: &Build) -> (FailureCause, String) {
    match failure(worker, build) {
        SubstantiateError::Failed { cause, reason } => (cause, reason.to_string()),
        other => panic!("{other:?}"),
    }
}

/// A worker that keeps its instance, and notices soon that it will not come up.
pub(crate) fn add_worker(master: &Master, name: &str, driver: impl LatentWorker) -> Worker {
    let config = WorkerConfig::new(name).with_idle(IdlePolicy::After(Duration::from_secs(600)));
    let config = config.with_check_instance_interval(Duration::from_millis(100));
    master.add_worker(config, driver).unwrap()
}

pub(crate) fn await_event<T>(events: &Receiver<Event>, pick: impl Fn(&EventKind) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = events.recv_deadline(deadline).expect("the event comes in time");
        if let Some(found) = pick(&event.kind) {
            return found;
        }
    }
}

/// What a shell says in the instance.
pub(crate) fn said(lease: &Lease, line: &str) -> String {
    let Finished { end, stdout, stderr, .. } = lease.run(&Command::shell(line)).unwrap();
    assert!(end.exit.success(), "{line}: {end:?} {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

pub(crate) fn stop(worker: &Worker) {
    assert!(worker.insubstantiate(false).wait_timeout(PATIENCE), "the stop does not end");
}

/// For what nobody tells.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
