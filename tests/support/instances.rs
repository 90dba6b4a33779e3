//! What tests of instances elsewhere do with a worker, and how long they wait for it.

use std::time::{Duration, Instant};

use latent_worker::{Build, Command, Finished, Lease, SubstantiateError, Worker};

/// The longest wait for what takes a moment, on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn failure(worker: &Worker, build: &Build) -> SubstantiateError {
    let mut request = worker.substantiate(build);
    request.wait_timeout(PATIENCE).expect("an answer in time").map(drop).expect_err("it cannot come up")
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
