//! W15: every state says why.

use latent_worker::{Build, DriverCall, IdlePolicy, NextStep, ShutdownMode, Worker, WorkerConfig, WorkerState};

use crate::support::{GatedClock, SECOND, World, answer, reaches};

fn says(worker: &Worker, text: &str) {
    assert_eq!(worker.status().to_string(), text);
}

#[test]
fn w15_every_state_says_what_it_waits_for_and_since_when() {
    let clock = GatedClock::shut();
    let world = World::with_clock(clock.clone(), clock.clock.clone());
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::After(60 * SECOND)));
    world.advance(5);
    says(&worker, "w: not substantiated for 5.0 s");

    let mut request = worker.substantiate(&Build::new("b"));
    world.advance(2);
    says(&worker, "w: substantiating for 2.0 s, 1 waiting; gives up in 3598.0 s");

    clock.open();
    let start = script.expect_start();
    world.advance(3);
    says(&worker, "w: starting for 3.0 s, 1 waiting; in start_instance for 3.0 s; gives up in 3595.0 s");
    let status = worker.status();
    assert_eq!(status.call, Some((DriverCall::Start, 3 * SECOND)));
    assert_eq!((status.epoch.get(), status.waiting), (1, 1));
    assert_eq!(status.next, Some((NextStep::GiveUp, 3595 * SECOND)));

    let attacher = start.attacher();
    start.succeed_with(["i-1234"]);
    world.await_event("start_returned");
    says(&worker, "w: starting for 3.0 s, 1 waiting; checks in 10.0 s");
    assert_eq!(worker.status().details, ["i-1234"]);
    world.advance(10);
    let check = script.expect_check();
    world.advance(1);
    says(&worker, "w: starting for 14.0 s, 1 waiting; in check_instance for 1.0 s; gives up in 3584.0 s");
    check.good();
    world.await_event("check_returned");

    let connection = attacher.attach(()).unwrap();
    let lease = answer(&mut request).unwrap();
    world.advance(4);
    says(&worker, "w: substantiated for 4.0 s, 1 build(s)");
    assert!(worker.status().attached);
    assert_eq!(worker.status().leases, 1);
    drop(lease);
    says(&worker, "w: substantiated for 4.0 s, idle; stops in 60.0 s");

    worker.insubstantiate(false);
    let stop = script.expect_stop();
    world.advance(7);
    says(&worker, "w: stopping for 7.0 s; in stop_instance for 7.0 s");
    let waits = worker.substantiate(&Build::new("b"));
    says(&worker, "w: stopping, to start again for 0.0 s, 1 waiting; in stop_instance for 7.0 s; gives up in 3600.0 s");
    drop(waits);
    stop.succeed();
    reaches(&worker, WorkerState::NotSubstantiated);

    drop(connection);
    assert!(world.shut_down(ShutdownMode::Graceful).complete);
    world.advance(9);
    says(&worker, "w: shut down for 9.0 s");
    assert_eq!(world.master.status(), [worker.status()]);
    world.finish(&[&script]);
}

#[test]
fn w15_the_last_failure_and_the_quarantine_are_told() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().fail("no network");
    assert!(answer(&mut request).is_err());
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    world.advance(4);
    says(&worker, "w: not substantiated for 4.0 s; out of quarantine in 6.0 s; last failure 4.0 s ago: no network");
    let status = worker.status();
    assert_eq!(status.quarantine, Some(6 * SECOND));
    let (reason, ago) = status.last_failure.unwrap();
    assert_eq!((&*reason, ago), ("no network", 4 * SECOND));
    world.finish(&[&script]);
}

#[test]
fn w15_a_pause_and_a_lost_agent_are_told() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::Never));
    worker.pause();
    says(&worker, "w: not substantiated for 0.0 s; paused");
    assert!(worker.status().paused);
    worker.unpause();
    let (lease, connection) = world.lease_and_connection(&worker, &script);
    drop(lease);
    drop(connection);
    says(&worker, "w: substantiated for 0.0 s, idle, its agent is gone and may re-attach; gives up in 3600.0 s");
    world.finish(&[&script]);
}

#[test]
fn w15_a_start_may_tell_how_far_it_is() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    script.expect_start().answer(|start| {
        start.progress("pulling image, 40 %");
        let _ = start.cancel_signal().recv();
        Ok(Vec::new())
    });
    assert_eq!(world.await_event("progress").kind.reason().unwrap(), "pulling image, 40 %");
    assert_eq!(worker.status().details, ["pulling image, 40 %"]);
    drop(request);
    world.finish(&[&script]);
}

#[test]
fn w15_a_question_that_hangs_is_told() {
    let world = World::new();
    let (worker, script) = world.add_choosy(WorkerConfig::new("w"));
    drop(world.lease(&worker, &script));
    let request = worker.substantiate(&Build::new("b"));
    let question = script.expect_compatible();
    world.advance(2);
    says(&worker, "w: substantiated for 2.0 s, idle; in is_compatible_with_build for 2.0 s; gives up in 3598.0 s");
    question.yes();
    drop(request);
    world.finish(&[&script]);
}
