//! W9: when an instance without work is stopped.

use std::num::NonZeroUsize;

use latent_worker::testing::PATIENCE;
use latent_worker::{Build, DriverCall, IdlePolicy, NextStep, ShutdownMode, WorkerConfig, WorkerState};

use crate::support::{SECOND, World, answer, reaches};

fn config(policy: IdlePolicy) -> WorkerConfig {
    WorkerConfig::new("w").with_idle(policy)
}

#[test]
fn w9_after_build_every_build_has_a_fresh_instance() {
    let world = World::new();
    let (worker, script) = world.add(config(IdlePolicy::AfterBuild));
    for epoch in 1..=3 {
        let lease = world.lease(&worker, &script);
        assert_eq!(lease.epoch().get(), epoch);
        drop(lease);
        assert_eq!(worker.status().state, WorkerState::Insubstantiating, "at once");
        let stop = script.expect_stop();
        assert!(!stop.fast());
        stop.succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
    }
    world.finish(&[&script]);
}

#[test]
fn w9_after_a_time_without_work() {
    let world = World::new();
    let (worker, script) = world.add(config(IdlePolicy::After(60 * SECOND)));
    let lease = world.lease(&worker, &script);
    world.advance(1000);
    assert!(lease.end().is_none(), "it never fires while a build runs");
    drop(lease);
    assert_eq!(worker.status().next, Some((NextStep::StopIdle, 60 * SECOND)));
    world.advance(59);
    let lease = answer(&mut worker.substantiate(&Build::new("again"))).expect("it is warm");
    assert_eq!(lease.epoch().get(), 1);
    world.advance(59);
    drop(lease);
    world.advance(59);
    assert_eq!(worker.status().state, WorkerState::Substantiated, "the time counts from the last build");
    world.advance(1);
    assert_eq!(worker.status().state, WorkerState::Insubstantiating);
    script.expect_stop().succeed();
    world.finish(&[&script]);
}

#[test]
fn w9_without_another_word_it_is_ten_minutes() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    world.advance(599);
    assert_eq!(worker.status().state, WorkerState::Substantiated);
    world.advance(1);
    assert_eq!(worker.status().state, WorkerState::Insubstantiating);
    world.finish(&[&script]);
}

#[test]
fn w9_with_two_builds_the_last_one_counts() {
    let world = World::new();
    let two = NonZeroUsize::new(2).unwrap();
    let (worker, script) = world.add(config(IdlePolicy::AfterBuild).with_max_builds(two));
    let first = world.lease(&worker, &script);
    let second = answer(&mut worker.substantiate(&Build::new("second"))).unwrap();
    drop(first);
    assert_eq!(worker.status().state, WorkerState::Substantiated);
    drop(second);
    assert_eq!(worker.status().state, WorkerState::Insubstantiating);
    world.finish(&[&script]);
}

#[test]
fn w9_an_instance_that_never_ran_a_build_is_stopped_too() {
    for (policy, seconds) in [(IdlePolicy::After(60 * SECOND), 60), (IdlePolicy::AfterBuild, 600)] {
        let world = World::new();
        let (worker, script) = world.add(config(policy));
        let mut warm = worker.warm_up();
        script.expect_start().succeed_attached();
        assert_eq!(answer(&mut warm), Ok(()));
        world.await_event("start_returned");
        world.advance(seconds - 1);
        assert_eq!(worker.status().state, WorkerState::Substantiated);
        world.advance(1);
        assert_eq!(worker.status().state, WorkerState::Insubstantiating);
        script.expect_stop().succeed();
        world.finish(&[&script]);
    }
}

#[test]
fn w9_an_instance_that_was_started_without_a_build_takes_one_later() {
    let world = World::new();
    let (worker, script) = world.add(config(IdlePolicy::After(60 * SECOND)));
    let mut warm = worker.warm_up();
    let start = script.expect_start();
    assert!(start.build().is_none() && start.properties().is_empty());
    start.succeed_attached();
    assert_eq!(answer(&mut warm), Ok(()));
    world.advance(30);
    let lease =
        world.master.submit(Build::new("later")).wait_timeout(PATIENCE).expect("an answer in time").expect("at once");
    assert_eq!(lease.epoch().get(), 1);
    world.advance(60);
    assert!(lease.end().is_none());
    drop(lease);
    world.finish(&[&script]);
}

#[test]
fn w9_never_is_not_stopped_by_itself() {
    let world = World::new();
    let (worker, script) = world.add(config(IdlePolicy::Never));
    drop(world.lease(&worker, &script));
    assert_eq!(worker.status().next, None);
    world.advance(1_000_000);
    assert_eq!(worker.status().state, WorkerState::Substantiated);

    let gone = worker.insubstantiate(false); // but on request
    script.expect_stop().succeed();
    assert!(gone.wait_timeout(PATIENCE));

    let mut request = worker.substantiate(&Build::new("b")); // after a failed start
    script.expect_start().fail("no network");
    assert!(answer(&mut request).is_err());
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    worker.unpause();

    drop(world.lease(&worker, &script)); // and at shutdown
    script.automate(DriverCall::Stop);
    assert!(world.shut_down(ShutdownMode::Graceful).complete);
    assert_eq!(script.count(DriverCall::Stop), 3);
    world.finish(&[&script]);
}

#[test]
fn w9_a_stop_on_request_leaves_the_builds_their_time_unless_fast() {
    for fast in [false, true] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let lease = world.lease(&worker, &script);
        worker.insubstantiate(fast);
        if fast {
            assert_eq!(lease.wait_end(PATIENCE), Some(latent_worker::LeaseEnd::Stopped));
        } else {
            assert_eq!(lease.end(), None);
            assert_eq!(world.count("stop_called"), 0);
            drop(lease);
        }
        let stop = script.expect_stop();
        assert_eq!(stop.fast(), fast);
        stop.succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        world.finish(&[&script]);
    }
}
