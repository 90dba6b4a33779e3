//! W12, W13: what a lost connection leads to, at every moment of an instance's life.

use std::time::Duration;

use latent_worker::testing::{PATIENCE, StartCall};
use latent_worker::{
    Build, BuildResult, DriverCall, FailureCause, IdlePolicy, Lease, LeaseEnd, SubstantiateError, WorkerConfig,
    WorkerState,
};

use crate::support::{SECOND, World, answer, reaches};

fn lost(reason: &str) -> LeaseEnd {
    LeaseEnd::Lost(reason.into())
}

#[test]
fn w13_lost_while_a_build_runs_the_lease_ends_and_the_instance_is_stopped_once() {
    for policy in [IdlePolicy::default(), IdlePolicy::AfterBuild, IdlePolicy::Never] {
        let world = World::new();
        let (worker, script) = world.add(WorkerConfig::new("w").with_idle(policy));
        let (lease, connection) = world.lease_and_connection(&worker, &script);
        world.advance(1);
        connection.lost("severed");
        assert_eq!(lease.end(), Some(lost("severed")));
        assert_eq!(worker.status().state, WorkerState::Insubstantiating);
        let stop = script.expect_stop();
        assert!(stop.had_instance());
        drop(lease); // late
        stop.succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        let status = worker.status();
        assert_eq!(status.quarantine, None);
        assert_eq!(&*status.last_failure.unwrap().0, "severed");
        assert_eq!((script.count(DriverCall::Stop), world.quarantines()), (1, vec![]));
        drop(world.lease(&worker, &script));
        world.finish(&[&script]);
    }
}

const UNPROVEN: &str = "the agent was lost before a build had run for 1s: severed";

#[test]
fn w12_lost_before_a_build_has_run_for_a_moment_is_a_failed_start() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    for length in [10, 20] {
        let (lease, connection) = world.lease_and_connection(&worker, &script);
        world.clock.advance(SECOND - Duration::from_millis(1));
        if length == 20 {
            lease.retry("no proof either");
        }
        connection.lost("severed");
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        let status = worker.status();
        assert_eq!((status.quarantine, &*status.last_failure.unwrap().0), (Some(length * SECOND), UNPROVEN));
        world.advance(u64::from(length));
    }
    world.finish(&[&script]);
}

#[test]
fn w13_lost_after_a_build_has_run_is_no_failed_start() {
    let prove: [fn(&World, Lease); 2] = [
        |_, lease| lease.finish(BuildResult::Succeeded),
        |world, lease| {
            world.advance(1);
            lease.retry("it has run for a moment");
        },
    ];
    for prove in prove {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let (lease, connection) = world.lease_and_connection(&worker, &script);
        prove(&world, lease);
        let lease = answer(&mut worker.substantiate(&Build::new("b"))).unwrap();
        connection.lost("severed");
        assert_eq!(lease.end(), Some(lost("severed")));
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        assert_eq!((worker.status().quarantine, world.quarantines()), (None, vec![]));
        world.finish(&[&script]);
    }
}

#[test]
fn w12_lost_without_a_build_is_a_failed_start_too() {
    for policy in [IdlePolicy::default(), IdlePolicy::Never] {
        let world = World::new();
        let (worker, script) = world.add(WorkerConfig::new("w").with_idle(policy).with_missing_timeout(50 * SECOND));
        let mut warm = worker.warm_up();
        let start = script.expect_start();
        let connection = start.attach();
        start.succeed();
        assert_eq!(answer(&mut warm), Ok(()));
        world.await_event("start_returned");
        connection.lost("severed");
        if policy == IdlePolicy::Never {
            world.advance(1);
            let mut waits = worker.substantiate(&Build::new("b"));
            world.advance(49);
            let reason = UNPROVEN.replace("severed", "the agent did not re-attach");
            let failed = SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason: reason.into() };
            assert_eq!(answer(&mut waits).unwrap_err(), failed);
        }
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        assert_eq!((worker.status().quarantine, world.quarantines()), (Some(10 * SECOND), vec![10]));
        world.finish(&[&script]);
    }
}

#[test]
fn w13_lost_while_the_start_still_runs_the_lease_ends_and_the_start_is_waited_for() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attach();
    let lease = answer(&mut request).unwrap();
    connection.lost("severed");
    assert_eq!(lease.wait_end(PATIENCE), Some(lost("severed")));
    assert!(!start.cancelled());
    assert_eq!(worker.status().state, WorkerState::SubstantiatingStarting);
    start.succeed();
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(&*worker.status().last_failure.unwrap().0, UNPROVEN);
    assert_eq!((world.quarantines(), world.count("substantiate_success")), (vec![10], 0));
    world.finish(&[&script]);
}

#[test]
fn w13_lost_while_the_start_still_runs_the_agent_may_attach_again() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    start.attach().lost("severed");
    drop(answer(&mut request));
    let connection = start.attach();
    let mut again = worker.substantiate(&Build::new("b"));
    let lease = answer(&mut again).unwrap();
    start.succeed();
    world.await_event("substantiate_success");
    assert_eq!((lease.end(), lease.epoch().get()), (None, 1));
    assert_eq!(world.quarantines(), [0; 0]);
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w13_lost_while_the_start_hangs_is_lost_after_the_missing_timeout() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_missing_timeout(100 * SECOND));
    let mut request = worker.warm_up();
    let start = script.expect_start();
    let connection = start.attach();
    assert_eq!(answer(&mut request), Ok(()));
    connection.lost("severed");
    world.advance(99);
    assert!(!start.cancelled());
    world.advance(1);
    start.wait_cancelled();
    assert_eq!(world.quarantines(), [10]);
    start.fail("cancelled");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    world.finish(&[&script]);
}

/// Whether the end of the connection or that of the start is seen first: the start says what is wrong.
#[test]
fn w12_a_start_that_attaches_and_then_fails_has_failed() {
    for lost_first in [true, false] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        for length in [10, 20, 40] {
            let mut request = worker.substantiate(&Build::new("b"));
            let start = script.expect_start();
            let connection = start.attach();
            let lease = answer(&mut request).unwrap();
            let fail = |start: StartCall| {
                start.fail("no network");
                world.await_event("start_returned");
            };
            if lost_first {
                connection.lost("severed");
                assert_eq!(lease.end(), Some(lost("severed")));
                let mut waits = worker.substantiate(&Build::new("waits for what the start says"));
                assert!(waits.try_wait().is_none());
                fail(start);
                let failed =
                    SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason: "no network".into() };
                assert_eq!(answer(&mut waits).unwrap_err(), failed);
            } else {
                fail(start);
                connection.lost("severed");
                assert_eq!(lease.end(), Some(lost("severed")));
            }
            script.expect_stop().succeed();
            reaches(&worker, WorkerState::NotSubstantiated);
            let status = worker.status();
            assert_eq!(&*status.last_failure.unwrap().0, "no network");
            assert_eq!(status.quarantine, Some(length * SECOND));
            drop(lease);
            world.advance(u64::from(length));
        }
        world.finish(&[&script]);
    }
}

#[test]
fn w13_lost_while_idle_the_instance_is_stopped_and_not_kept() {
    for policy in [IdlePolicy::default(), IdlePolicy::After(60 * SECOND)] {
        let world = World::new();
        let (worker, script) = world.add(WorkerConfig::new("w").with_idle(policy));
        let (lease, connection) = world.lease_and_connection(&worker, &script);
        drop(lease);
        drop(connection);
        assert_eq!(worker.status().state, WorkerState::Insubstantiating);
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        assert_eq!(world.quarantines(), [0; 0]);
        world.finish(&[&script]);
    }
}

#[test]
fn w13_with_idle_never_the_agent_may_attach_again() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::Never));
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let attacher = start.attacher();
    let first = attacher.attach(()).unwrap();
    start.succeed();
    drop(answer(&mut request).unwrap());
    world.await_event("start_returned");

    first.lost("severed");
    let status = worker.status();
    assert_eq!((status.state, status.attached), (WorkerState::Substantiated, false));
    let mut waits = worker.substantiate(&Build::new("meanwhile"));
    assert!(waits.try_wait().is_none());
    let second = attacher.attach(()).expect("the same instance");
    let lease = answer(&mut waits).unwrap();
    assert_eq!(lease.epoch().get(), 1);
    world.advance(1_000_000);
    assert!(lease.end().is_none());
    assert_eq!(script.calls().len(), 1, "neither a start nor a stop");
    drop((lease, second));
    world.finish(&[&script]);
}

#[test]
fn w13_with_idle_never_it_is_stopped_when_the_agent_stays_away() {
    let world = World::new();
    let config = WorkerConfig::new("w").with_idle(IdlePolicy::Never).with_missing_timeout(100 * SECOND);
    let (worker, script) = world.add(config);
    let (lease, connection) = world.lease_and_connection(&worker, &script);
    drop(lease);
    drop(connection);
    world.advance(50);
    let mut waits = worker.substantiate(&Build::new("meanwhile"));
    world.advance(50);
    assert_eq!(&*worker.status().last_failure.unwrap().0, "the agent did not re-attach");
    script.expect_stop().succeed();
    let start = script.expect_start();
    start.succeed_attached();
    assert_eq!(answer(&mut waits).unwrap().epoch().get(), 2, "who waited gets the next instance");
    world.finish(&[&script]);
}

#[test]
fn w13_lost_during_the_stop_changes_nothing() {
    for work_waits in [false, true] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let (lease, connection) = world.lease_and_connection(&worker, &script);
        drop(lease);
        worker.insubstantiate(false);
        let stop = script.expect_stop();
        let request = work_waits.then(|| worker.substantiate(&Build::new("waits")));
        connection.lost("severed");
        assert_eq!(world.count("detached"), 1);
        stop.succeed();
        if let Some(mut request) = request {
            script.expect_start().succeed_attached();
            assert!(answer(&mut request).is_ok());
        }
        reaches(&worker, if work_waits { WorkerState::Substantiated } else { WorkerState::NotSubstantiated });
        assert_eq!(script.count(DriverCall::Stop), 1);
        world.finish(&[&script]);
    }
}

#[test]
fn w13_one_that_never_disconnects_does_not_hinder_the_stop_or_the_next_start() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::Never));
    let (lease, old_connection) = world.lease_and_connection(&worker, &script);
    drop(lease);
    let gone = worker.insubstantiate(false);
    script.expect_stop().succeed();
    assert!(gone.wait_timeout(PATIENCE));
    assert!(!worker.status().attached);
    let (lease, connection) = world.lease_and_connection(&worker, &script);
    assert_eq!(lease.epoch().get(), 2);
    drop(old_connection);
    assert!(lease.end().is_none());
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w13_an_attach_does_not_survive_a_cancel() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.warm_up();
    let start = script.expect_start();
    worker.insubstantiate(false);
    assert_eq!(answer(&mut request), Err(SubstantiateError::Insubstantiated));
    assert!(start.attacher().attach(()).is_err());
    start.succeed();
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    world.finish(&[&script]);
}
