//! W11: whether the instance that runs fits the build.

use std::num::NonZeroUsize;

use latent_worker::testing::PATIENCE;
use latent_worker::{Build, DriverCall, IdlePolicy, SubstantiateError, WorkerConfig, WorkerState};

use crate::support::{World, answer, reaches};

fn of_kind(kind: &str) -> Build {
    Build::new(kind).with_property("kind", kind)
}

/// With an instance of kind `a` up and idle.
fn with_a_up(config: WorkerConfig) -> (World, latent_worker::Worker, latent_worker::testing::Script) {
    let world = World::new();
    let (worker, script) = world.add_choosy(config);
    let ticket = world.master.submit(of_kind("a"));
    let start = script.expect_start();
    assert_eq!(start.properties().get("kind"), Some("a"));
    start.succeed_attached();
    drop(ticket.wait_timeout(PATIENCE).expect("an answer in time").expect("no question without an instance"));
    world.await_event("start_returned");
    assert_eq!(script.count(DriverCall::Compatible), 0);
    (world, worker, script)
}

#[test]
fn w11_a_driver_that_fits_everything_is_never_asked() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    drop(world.master.submit(of_kind("a")).wait_timeout(PATIENCE).expect("an answer in time").unwrap());
    drop(answer(&mut worker.substantiate(&of_kind("b"))).unwrap());
    assert_eq!(script.count(DriverCall::Compatible), 0);
    world.finish(&[&script]);
}

#[test]
fn w11_the_driver_is_asked_with_the_properties_of_the_build() {
    let (world, _worker, script) = with_a_up(WorkerConfig::new("w"));
    let ticket = world.master.submit(of_kind("a again"));
    let question = script.expect_compatible();
    assert_eq!(question.properties().get("kind"), Some("a again"));
    question.yes();
    assert_eq!(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap().epoch().get(), 1);
    world.finish(&[&script]);
}

#[test]
fn w11_an_idle_instance_that_does_not_fit_is_recycled_at_once_when_nobody_else_can() {
    for policy in [IdlePolicy::default(), IdlePolicy::Never] {
        let (world, _worker, script) = with_a_up(WorkerConfig::new("w").with_idle(policy));
        let ticket = world.master.submit(of_kind("b"));
        script.expect_compatible().no();
        script.expect_stop().succeed();
        let start = script.expect_start();
        assert_eq!(start.properties().get("kind"), Some("b"));
        start.succeed_attached();
        assert_eq!(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap().epoch().get(), 2);
        assert_eq!(world.quarantines(), [0; 0]);
        world.finish(&[&script]);
    }
}

#[test]
fn w11_another_worker_that_can_take_it_is_preferred_to_recycling() {
    let (world, worker, script) = with_a_up(WorkerConfig::new("w"));
    let (other, other_script) = world.add_choosy(WorkerConfig::new("other"));
    let ticket = world.master.submit(of_kind("b"));
    script.expect_compatible().no();
    other_script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(lease.worker(), other.name());
    assert_eq!(worker.status().state, WorkerState::Substantiated);
    assert_eq!(script.count(DriverCall::Stop), 0);
    drop(lease);
    world.finish(&[&script, &other_script]);
}

#[test]
fn w11_a_busy_instance_that_does_not_fit_is_left_alone_until_it_is_idle() {
    let config = WorkerConfig::new("w").with_max_builds(NonZeroUsize::new(2).unwrap());
    let (world, worker, script) = with_a_up(config);
    let first = world.master.submit(of_kind("a"));
    script.expect_compatible().yes();
    let running = first.wait_timeout(PATIENCE).expect("an answer in time").unwrap();

    let other_kind = world.master.submit(of_kind("b"));
    script.expect_compatible().no();
    reaches(&worker, WorkerState::Substantiated);
    assert!(other_kind.try_wait().is_none());
    assert!(running.end().is_none());
    assert_eq!(script.count(DriverCall::Stop), 0);

    drop(running);
    script.expect_stop().succeed();
    script.expect_start().succeed_attached();
    assert_eq!(other_kind.wait_timeout(PATIENCE).expect("an answer in time").unwrap().epoch().get(), 2);
    world.finish(&[&script]);
}

#[test]
fn w11_a_request_past_the_queue_recycles_what_is_idle_and_is_refused_by_what_is_busy() {
    let config = WorkerConfig::new("w").with_max_builds(NonZeroUsize::new(2).unwrap());
    let (world, worker, script) = with_a_up(config);
    let mut first = worker.substantiate(&of_kind("a"));
    script.expect_compatible().yes();
    let running = answer(&mut first).unwrap();

    let mut refused = worker.substantiate(&of_kind("b"));
    script.expect_compatible().no();
    assert_eq!(answer(&mut refused).unwrap_err(), SubstantiateError::Incompatible { reason: None });
    assert!(running.end().is_none());
    drop(running);

    let mut recycles = worker.substantiate(&of_kind("b"));
    script.expect_compatible().no();
    script.expect_stop().succeed();
    script.expect_start().succeed_attached();
    assert_eq!(answer(&mut recycles).unwrap().epoch().get(), 2);
    world.finish(&[&script]);
}

#[test]
fn w11_an_error_and_a_panic_count_as_no() {
    let config = WorkerConfig::new("w").with_max_builds(NonZeroUsize::new(2).unwrap());
    let (world, worker, script) = with_a_up(config);
    let mut first = worker.substantiate(&of_kind("a"));
    script.expect_compatible().yes();
    let running = answer(&mut first).unwrap();
    for panics in [false, true] {
        let mut request = worker.substantiate(&of_kind("b"));
        let question = script.expect_compatible();
        let reason = if panics {
            question.panic();
            "is_compatible_with_build panicked: scripted panic"
        } else {
            question.fail("no answer");
            "no answer"
        };
        let refused = SubstantiateError::Incompatible { reason: Some(reason.into()) };
        assert_eq!(answer(&mut request).unwrap_err(), refused);
    }
    assert!(running.end().is_none());
    assert_eq!(worker.status().quarantine, None);
    drop(running);
    world.finish(&[&script]);
}

#[test]
fn w11_every_build_of_another_kind_has_a_fresh_instance_after_build() {
    let world = World::new();
    let (_worker, script) = world.add_choosy(WorkerConfig::new("w").with_idle(IdlePolicy::AfterBuild));
    let tickets = ["a", "b", "a"].map(|kind| world.master.submit(of_kind(kind)));
    for (ticket, kind) in tickets.iter().zip(["a", "b", "a"]) {
        let start = script.expect_start();
        assert_eq!(start.properties().get("kind"), Some(kind));
        start.succeed_attached();
        drop(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap());
        script.expect_stop().succeed();
    }
    assert_eq!(script.count(DriverCall::Compatible), 0);
    world.finish(&[&script]);
}
