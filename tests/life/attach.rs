//! W6, W7, W8: agents that attach early, late or never, and answers that come too late to matter.

use std::num::NonZeroUsize;
use std::time::Duration;

use latent_worker::testing::PATIENCE;
use latent_worker::{
    AttachError, Build, DriverCall, EventKind, IdlePolicy, SubstantiateError, WorkerConfig, WorkerState,
};

use crate::support::{SECOND, World, answer, reaches};

#[test]
fn w6_an_agent_may_attach_before_the_start_has_returned() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attach();
    let lease = answer(&mut request).expect("attached is enough");
    let status = worker.status();
    assert_eq!((status.state, status.attached, status.leases), (WorkerState::SubstantiatingStarting, true, 1));
    assert_eq!(world.count("substantiate_success"), 0, "it is both: started and attached");

    start.succeed_with(["i-1234", "10.0.0.7"]);
    let success = world.await_event("substantiate_success");
    assert_eq!(success.kind, EventKind::Substantiated { details: vec!["i-1234".into(), "10.0.0.7".into()] });
    assert_eq!(success.to_string(), "worker w: substantiate success: i-1234, 10.0.0.7");
    assert_eq!(worker.status().state, WorkerState::Substantiated);
    assert_eq!(worker.status().details, ["i-1234", "10.0.0.7"]);
    assert!(lease.end().is_none());
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w6_or_after_it() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let attacher = start.attacher();
    start.succeed_with(["i-1234"]);
    world.await_event("start_returned");
    assert!(request.try_wait().is_none());
    let connection = attacher.attach(()).unwrap();
    assert!(answer(&mut request).is_ok());
    let success = world.await_event("substantiate_success");
    assert_eq!(success.kind, EventKind::Substantiated { details: vec!["i-1234".into()] });
    assert_eq!(world.count("substantiate_success"), 1);
    drop(connection);
    world.finish(&[&script]);
}

#[test]
fn w6_a_build_may_come_and_go_before_the_start_has_returned() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::AfterBuild));
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attach();
    drop(answer(&mut request).unwrap());
    assert_eq!(worker.status().state, WorkerState::Insubstantiating);
    assert!(start.cancelled(), "nobody waits for it any more");
    start.succeed();
    assert!(script.expect_stop().had_instance());
    drop(connection);
    world.finish(&[&script]);
}

#[test]
fn w6_a_start_that_fails_after_its_agent_attached_leaves_the_build_its_time() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attach();
    let lease = answer(&mut request).unwrap();
    start.fail("lost track of it");
    world.await_event("start_returned");
    assert!(lease.end().is_none(), "the agent still works");
    assert_eq!(world.quarantines(), [10]);
    drop(lease);
    let stop = script.expect_stop();
    assert!(!stop.had_instance());
    stop.succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    drop(connection);
    world.finish(&[&script]);
}

#[test]
fn w7_the_late_result_of_a_cancelled_start_does_not_touch_the_next_attempt() {
    for (succeeds, late) in [(true, "success"), (false, "failure")] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let first = worker.substantiate(&Build::new("first"));
        let start = script.expect_start();
        first.cancel();
        let mut second = worker.substantiate(&Build::new("second"));
        if succeeds {
            start.succeed_with(["of the first"]);
        } else {
            start.fail("of the first");
        }
        world.await_event("start_returned");
        assert!(second.try_wait().is_none(), "a late {late} is not the second's");
        assert_eq!(worker.status().quarantine, None, "a late {late} of what was cancelled is nobody's fault");
        let stop = script.expect_stop();
        assert_eq!((stop.epoch().get(), stop.had_instance()), (1, succeeds));
        stop.succeed();
        let start = script.expect_start();
        assert_eq!(start.epoch().get(), 2);
        assert!(worker.status().details.is_empty());
        start.succeed_attached();
        assert!(answer(&mut second).is_ok());
        world.finish(&[&script]);
    }
}

#[test]
fn w7_a_bad_check_after_the_attach_is_dropped() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (mut request, attacher) = world.unattached(&worker, &script);
    world.advance(10);
    let check = script.expect_check();
    let connection = attacher.attach(()).unwrap();
    let lease = answer(&mut request).unwrap();
    check.bad("it looked dead");
    world.await_event("check_returned");
    assert!(lease.end().is_none());
    let status = worker.status();
    assert_eq!((status.state, status.quarantine), (WorkerState::Substantiated, None));
    assert_eq!(world.count("stop_called"), 0);
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w7_the_late_disconnect_of_an_older_instance_does_not_touch_the_next() {
    for when_the_next_one in [WorkerState::SubstantiatingStarting, WorkerState::Substantiated] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let (lease, old_connection) = world.lease_and_connection(&worker, &script);
        drop(lease);
        let gone = worker.insubstantiate(false);
        script.expect_stop().succeed();
        assert!(gone.wait_timeout(PATIENCE));

        let mut request = worker.substantiate(&Build::new("next"));
        let start = script.expect_start();
        if when_the_next_one == WorkerState::Substantiated {
            start.succeed_attached();
            let lease = answer(&mut request).unwrap();
            drop(old_connection);
            assert!(lease.end().is_none());
        } else {
            drop(old_connection);
            assert_eq!(worker.status().state, when_the_next_one);
            start.succeed_attached();
            assert!(answer(&mut request).unwrap().end().is_none());
        }
        assert_eq!((world.count("stop_called"), world.count("detached")), (1, 1));
        world.finish(&[&script]);
    }
}

#[test]
fn w7_an_agent_of_an_older_attempt_is_not_let_in() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let first = worker.substantiate(&Build::new("first"));
    let start = script.expect_start();
    let late = start.attacher();
    first.cancel();
    assert_eq!(late.attach(()).unwrap_err(), AttachError::Stale, "cancelled");
    start.succeed();
    let stop = script.expect_stop();
    assert_eq!(late.attach(()).unwrap_err(), AttachError::Stale, "being stopped");
    stop.succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(late.attach(()).unwrap_err(), AttachError::Stale, "gone");
    let mut second = worker.substantiate(&Build::new("second"));
    let start = script.expect_start();
    assert_eq!(late.attach(()).unwrap_err(), AttachError::Stale, "the second attempt is not its own");
    assert!(second.try_wait().is_none());
    assert_eq!(worker.status().refused_agents, 4);
    start.succeed_attached();
    assert!(answer(&mut second).is_ok());
    world.finish(&[&script]);
}

#[test]
fn w7_the_deadline_of_an_older_attempt_does_not_end_the_next() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_missing_timeout(100 * SECOND));
    let first = worker.substantiate(&Build::new("first"));
    let start = script.expect_start();
    world.advance(60);
    first.cancel();
    start.fail("cancelled");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);

    let mut second = worker.substantiate(&Build::new("second"));
    let _hanging = script.expect_start();
    world.advance(60); // the first one's time is over
    assert!(second.try_wait().is_none());
    assert_eq!(worker.status().state, WorkerState::SubstantiatingStarting);
    world.advance(40);
    assert_eq!(answer(&mut second).unwrap_err(), SubstantiateError::TimedOut { after: 100 * SECOND });
    drop(_hanging);
    world.finish(&[&script]);
}

#[test]
fn w8_missing_timeout_fires_although_the_start_hangs() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_missing_timeout(100 * SECOND));
    let mut request = worker.substantiate(&Build::new("b"));
    let hanging = script.expect_start();
    world.advance(99);
    assert!(request.try_wait().is_none());
    assert!(!hanging.cancelled());
    world.advance(1);
    let error = request.try_wait().expect("answered before advance returns").unwrap_err();
    assert_eq!(error, SubstantiateError::TimedOut { after: 100 * SECOND });
    hanging.wait_cancelled();
    let status = worker.status();
    assert_eq!(status.state, WorkerState::Insubstantiating);
    assert_eq!(status.call.unwrap().0, DriverCall::Start, "it still hangs");
    assert_eq!(&*status.last_failure.unwrap().0, "no agent attached within 100s");
    assert_eq!(world.quarantines(), [10]);
    hanging.succeed();
    assert!(script.expect_stop().had_instance());
    world.finish(&[&script]);
}

#[test]
fn w8_missing_timeout_runs_on_after_the_start_until_the_attach() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_missing_timeout(100 * SECOND));
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    world.advance(60);
    start.succeed();
    world.await_event("start_returned");
    script.automate(DriverCall::Check);
    world.advance(40);
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::TimedOut { after: 100 * SECOND });
    assert_eq!(world.quarantines(), [10], "a stalled start counts as a failure");
    script.expect_stop().succeed();
    world.finish(&[&script]);
}

#[test]
fn w8_missing_timeout_is_over_with_the_attach() {
    let world = World::new();
    let config = WorkerConfig::new("w").with_missing_timeout(100 * SECOND).with_idle(IdlePolicy::Never);
    let (worker, script) = world.add(config);
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attach();
    let lease = answer(&mut request).unwrap();
    world.advance(100_000);
    assert!(lease.end().is_none());
    assert!(!start.cancelled(), "the start may take as long as it likes");
    assert_eq!((worker.status().state, worker.status().next), (WorkerState::SubstantiatingStarting, None));
    start.succeed();
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w8_without_another_word_it_is_an_hour() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let hanging = script.expect_start();
    world.clock.advance(3600 * SECOND - Duration::from_millis(1));
    assert!(request.try_wait().is_none());
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::TimedOut { after: 3600 * SECOND });
    hanging.fail("cancelled");
    world.finish(&[&script]);
}

#[test]
fn w8_a_time_limit_beyond_the_end_of_time_is_none() {
    let world = World::new();
    let config = WorkerConfig::new("w").with_missing_timeout(Duration::MAX).with_max_builds(NonZeroUsize::MIN);
    let (worker, script) = world.add(config.with_idle(IdlePolicy::After(Duration::MAX)));
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    world.advance(1_000_000);
    assert!(request.try_wait().is_none());
    start.succeed_attached();
    drop(answer(&mut request).unwrap());
    world.advance(1_000_000);
    assert_eq!(worker.status().state, WorkerState::Substantiated);
    world.finish(&[&script]);
}
