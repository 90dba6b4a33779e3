//! W10: instances are looked after until their agent attaches, and after that where a driver asks for it.

use std::num::NonZeroUsize;

use latent_worker::testing::{Script, ScriptedWorker};
use latent_worker::{
    Build, BuildResult, DriverCall, IdlePolicy, NextStep, SubstantiateError, Worker, WorkerConfig, WorkerState,
};

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

/// A worker with two places, whose instances are checked every 60 s after the attach.
fn checked(world: &World) -> (Worker, Script) {
    let (driver, script) = ScriptedWorker::new();
    let config = WorkerConfig::new("w").with_idle(IdlePolicy::After(3600 * SECOND));
    let config = config.with_max_builds(NonZeroUsize::new(2).unwrap());
    (world.master.add_worker(config, driver.checks_attached(60 * SECOND)).unwrap(), script)
}

#[test]
fn w10_a_driver_that_asks_for_it_is_called_after_the_attach_too() {
    let world = World::new();
    let (worker, script) = checked(&world);
    let lease = world.lease(&worker, &script);
    for _ in 0..3 {
        assert_eq!(worker.status().next, Some((NextStep::Check, 60 * SECOND)));
        world.advance(59);
        assert_eq!(script.count(DriverCall::Check), world.count("check_returned"));
        world.advance(1);
        script.expect_check().good();
        world.await_event("check_returned");
    }
    drop(lease);
    world.finish(&[&script]);
}

#[test]
fn w10_an_attached_instance_that_goes_bad_finishes_its_build_and_takes_no_other_although_it_has_room() {
    let world = World::new();
    let (worker, script) = checked(&world);
    let lease = world.lease(&worker, &script);
    world.advance(60);
    script.expect_check().bad("it is taken away in two minutes");
    world.await_event("check_returned");
    assert!(lease.end().is_none(), "the build goes on");
    let mut next = worker.substantiate(&Build::new("the next one"));
    assert!(next.try_wait().is_none());
    assert_eq!(script.count(DriverCall::Stop), 0);
    world.advance(600);
    assert_eq!(script.count(DriverCall::Check), 1, "it is not looked at again");

    lease.finish(BuildResult::Succeeded);
    assert_eq!(world.await_event("stop_called").kind.reason().as_deref(), Some("it is bad or about to end"));
    script.expect_stop().succeed();
    assert_eq!(world.quarantines(), [0; 0]);
    assert_eq!(worker.status().last_failure.unwrap().0.as_ref(), "it is taken away in two minutes");
    script.expect_start().succeed_attached();
    drop(answer(&mut next).unwrap());
    world.finish(&[&script]);
}

#[test]
fn w10_an_agent_that_attaches_after_the_start_has_returned_is_checked_from_that_on() {
    let world = World::new();
    let (worker, script) = checked(&world);
    let (mut request, attacher) = world.unattached(&worker, &script);
    world.advance(5);
    let connection = attacher.attach(()).unwrap();
    let lease = answer(&mut request).unwrap();
    assert_eq!(worker.status().next, Some((NextStep::Check, 60 * SECOND)));
    world.advance(60);
    script.expect_check().good();
    world.await_event("check_returned");
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w10_an_instance_that_is_to_be_stopped_after_its_build_is_not_checked_any_more() {
    let world = World::new();
    let (worker, script) = checked(&world);
    let lease = world.lease(&worker, &script);
    drop(worker.insubstantiate(false));
    world.advance(60);
    assert_eq!((script.count(DriverCall::Check), world.count("check_called")), (0, 0));
    drop(lease);
    world.finish(&[&script]);
}

#[test]
fn w10_an_idle_instance_that_goes_bad_is_stopped_at_once() {
    let world = World::new();
    let (worker, script) = checked(&world);
    drop(world.lease(&worker, &script));
    world.advance(60);
    script.expect_check().bad("it is retired");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&script]);
}

#[test]
fn w7_a_bad_check_that_was_called_before_the_attach_does_not_end_an_attached_instance() {
    let world = World::new();
    let (worker, script) = checked(&world);
    let (mut request, attacher) = world.unattached(&worker, &script);
    world.advance(10);
    let early = script.expect_check();
    let connection = attacher.attach(()).unwrap();
    let lease = answer(&mut request).unwrap();
    early.bad("it was not up yet");
    world.await_event("check_returned");
    assert_eq!(worker.status().next, Some((NextStep::Check, 60 * SECOND)));
    drop(lease);
    let mut again = worker.substantiate(&Build::new("c"));
    drop(again.try_wait().expect("it takes builds").unwrap());
    drop(connection);
    world.finish(&[&script]);
}

#[test]
fn w1_a_stop_waits_for_a_check_of_an_attached_instance() {
    let world = World::new();
    let (worker, script) = checked(&world);
    drop(world.lease(&worker, &script));
    world.advance(60);
    let check = script.expect_check();
    let stopped = worker.insubstantiate(false);
    assert_eq!(script.count(DriverCall::Stop), 0);
    check.good();
    script.expect_stop().succeed();
    drop(stopped);
    reaches(&worker, WorkerState::NotSubstantiated);
    world.finish(&[&script]);
}

#[test]
fn w6_an_agent_that_attaches_before_the_start_has_returned_is_checked_from_that_on() {
    let world = World::new();
    let (worker, script) = checked(&world);
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attacher().attach(()).unwrap();
    let lease = answer(&mut request).unwrap();
    world.advance(120);
    assert_eq!(script.count(DriverCall::Check), 0, "there is nothing to check yet");
    start.succeed();
    world.await_event("start_returned");
    world.advance(60);
    script.expect_check().good();
    world.await_event("check_returned");
    drop((lease, connection));
    world.finish(&[&script]);
}
