//! W12: a worker that fails is left alone for a while.

use latent_worker::testing::{PATIENCE, Script};
use latent_worker::{
    Build, DriverCall, FailureCause, ShutdownMode, StartError, SubstantiateError, Worker, WorkerState,
};

use crate::support::{SECOND, World, answer, reaches};

/// One attempt that fails, and its stop.
fn fail_once(worker: &Worker, script: &Script) {
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().fail("no network");
    assert!(matches!(answer(&mut request), Err(SubstantiateError::Failed { .. })));
    script.expect_stop().succeed();
    reaches(worker, WorkerState::NotSubstantiated);
}

#[test]
fn w12_the_quarantine_grows_with_every_failure_and_a_finished_build_resets_it() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    for length in [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600] {
        fail_once(&worker, &script);
        assert_eq!(worker.status().quarantine, Some(length * SECOND));
        world.advance(u64::from(length) - 1);
        let refused = answer(&mut worker.substantiate(&Build::new("too early"))).unwrap_err();
        assert_eq!(refused, SubstantiateError::Quarantined { remaining: SECOND });
        world.advance(1);
        assert_eq!(worker.status().quarantine, None);
    }
    drop(world.lease(&worker, &script));
    worker.insubstantiate(false);
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    fail_once(&worker, &script);
    assert_eq!(worker.status().quarantine, Some(10 * SECOND));
    world.finish(&[&script]);
}

#[test]
fn w12_a_second_failure_inside_a_quarantine_neither_extends_nor_doubles_it() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().fail("no network");
    assert!(answer(&mut request).is_err());
    let stop = script.expect_stop();
    world.advance(4);
    stop.fail("no network either");
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(worker.status().quarantine, Some(6 * SECOND));
    assert_eq!(world.quarantines(), [10]);
    world.advance(6);
    fail_once(&worker, &script);
    assert_eq!(world.quarantines(), [10, 20]);
    world.finish(&[&script]);
}

#[test]
fn w12_a_build_waits_for_the_end_of_the_quarantine_and_then_runs() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    for length in [10, 20] {
        script.expect_start().fail("no network");
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        assert!(ticket.try_wait().is_none());
        world.advance(length - 1);
        assert_eq!(worker.status().state, WorkerState::NotSubstantiated);
        world.advance(1);
    }
    script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(lease.history().len(), 2);
    assert_eq!(world.quarantines(), [10, 20]);
    drop(lease);
    world.finish(&[&script]);
}

#[test]
fn w12_a_cancel_never_quarantines_whatever_the_start_says_then() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let answers: [fn(latent_worker::testing::StartCall); 3] =
        [|start| start.fail("cancelled"), |start| start.panic(), |start| start.succeed()];
    for late in answers {
        let mut request = worker.substantiate(&Build::new("b"));
        let start = script.expect_start();
        request.cancel();
        assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled);
        late(start);
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        assert_eq!(worker.status().quarantine, None);
    }
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&script]);
}

#[test]
fn w12_a_shutdown_never_quarantines() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    world.master.shutdown(ShutdownMode::Fast, std::time::Duration::ZERO);
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::ShutDown);
    start.fail("shut down");
    script.expect_stop().fail("shut down as well");
    reaches(&worker, WorkerState::ShutDown);
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&script]);
}

#[test]
fn w12_a_builds_own_fault_never_quarantines() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().cannot("no such image");
    assert!(matches!(answer(&mut request), Err(SubstantiateError::Cannot { .. })));
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(worker.status().quarantine, None);
    drop(world.lease(&worker, &script));
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&script]);
}

#[test]
fn w12_unpausing_ends_a_quarantine() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    script.expect_start().fail("no network");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    world.advance(1); // the pause of the build
    assert!(worker.status().quarantine.is_some());
    worker.unpause();
    assert_eq!(worker.status().quarantine, None);
    script.expect_start().succeed_attached();
    assert!(ticket.wait_timeout(PATIENCE).expect("an answer in time").is_ok());
    world.finish(&[&script]);
}

#[test]
fn w12_a_provider_that_says_when_to_try_again_is_heard() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let cause = FailureCause::Throttled { retry_after: Some(77 * SECOND) };
    script.expect_start().fail_with(StartError::failed(cause, "too many requests"));
    assert!(answer(&mut request).is_err());
    assert_eq!(worker.status().quarantine, Some(77 * SECOND));
    script.automate(DriverCall::Stop);
    world.finish(&[&script]);
}
