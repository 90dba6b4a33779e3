//! W10: instances are looked after until their agent attaches.

use latent_worker::{Build, DriverCall, NextStep, SubstantiateError, WorkerConfig, WorkerState};

use crate::support::{SECOND, World, answer, reaches};

#[test]
fn w10_checks_run_between_the_return_of_the_start_and_the_attach() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let attacher = start.attacher();
    world.advance(100);
    assert_eq!(world.count("check_called"), 0, "not while the start runs");
    start.succeed();
    world.await_event("start_returned");

    for _ in 0..3 {
        assert_eq!(worker.status().next, Some((NextStep::Check, 10 * SECOND)));
        world.advance(9);
        assert_eq!(script.count(DriverCall::Check), world.count("check_returned"));
        world.advance(1);
        script.expect_check().good();
        world.await_event("check_returned");
    }

    let connection = attacher.attach(()).unwrap();
    let lease = answer(&mut request).unwrap();
    world.advance(100);
    assert_eq!(world.count("check_called"), 3, "not when it has attached");
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w10_the_interval_is_a_setting_and_counts_from_the_last_answer() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_check_instance_interval(3 * SECOND));
    let request = worker.substantiate(&Build::new("b"));
    script.expect_start().succeed();
    world.await_event("start_returned");
    world.advance(3);
    let slow = script.expect_check();
    world.advance(30);
    assert_eq!(world.count("check_called"), 1, "one at a time");
    slow.good();
    world.await_event("check_returned");
    assert_eq!(worker.status().next, Some((NextStep::Check, 3 * SECOND)));
    drop(request);
    world.finish(&[&script]);
}

#[test]
fn w10_what_is_not_good_fails_the_attempt_with_its_message() {
    for panics in [false, true] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let mut request = worker.substantiate(&Build::new("b"));
        script.expect_start().succeed();
        world.await_event("start_returned");
        world.advance(10);
        let message = if panics {
            script.expect_check().panic();
            "check_instance panicked: scripted panic"
        } else {
            script.expect_check().bad("exited with 137");
            "exited with 137"
        };
        let error = answer(&mut request).unwrap_err();
        assert!(matches!(error, SubstantiateError::Failed { .. }));
        assert!(error.to_string().ends_with(message), "{error}");
        assert_eq!(world.quarantines(), [10]);
        let stop = script.expect_stop();
        assert!(stop.had_instance());
        stop.succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        world.finish(&[&script]);
    }
}
