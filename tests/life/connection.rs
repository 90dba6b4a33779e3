//! W13: what a lost connection leads to, at every moment of an instance's life.

use latent_worker::testing::PATIENCE;
use latent_worker::{Build, DriverCall, IdlePolicy, LeaseEnd, SubstantiateError, WorkerConfig, WorkerState};

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

#[test]
fn w13_lost_while_the_start_still_runs() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attach();
    let lease = answer(&mut request).unwrap();
    connection.lost("severed");
    assert_eq!(lease.wait_end(PATIENCE), Some(lost("severed")));
    start.wait_cancelled();
    start.succeed();
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&script]);
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
