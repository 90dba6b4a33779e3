//! B10: a lease retires its instance.

use std::num::NonZeroUsize;

use latent_worker::testing::PATIENCE;
use latent_worker::{Build, BuildResult, DriverCall, EventKind, StopCause, WorkerConfig, WorkerState};

use crate::support::{World, answer, reaches};

#[test]
fn b10_a_retired_instance_finishes_its_other_builds_and_takes_no_new_one_although_it_has_room() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_max_builds(NonZeroUsize::new(2).unwrap()));
    let other = world.lease(&worker, &script);
    let lease = answer(&mut worker.substantiate(&Build::new("finds it bad"))).unwrap();
    lease.retire("the disk is full");
    let status = worker.status();
    assert_eq!((status.leases, &*status.last_failure.unwrap().0), (1, "the disk is full"));
    assert_eq!((other.end(), script.count(DriverCall::Stop)), (None, 0));
    let mut next = worker.substantiate(&Build::new("the next one"));
    assert!(next.try_wait().is_none());

    other.finish(BuildResult::Succeeded);
    let stop = world.await_event("stop_called").kind;
    assert_eq!(stop, EventKind::StopCalled { fast: false, cause: StopCause::Retired });
    script.expect_stop().succeed();
    script.expect_start().succeed_attached();
    assert_eq!(answer(&mut next).unwrap().epoch().get(), 2);
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&script]);
}

#[test]
fn b10_the_build_of_a_retired_instance_goes_elsewhere() {
    let world = World::new();
    let (first, first_script) = world.worker("first");
    let ticket = world.master.submit(Build::new("b"));
    first_script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    let (_second, second_script) = world.worker("second");
    lease.retire("no compiler");
    first_script.expect_stop().succeed();
    reaches(&first, WorkerState::NotSubstantiated);

    world.advance(1);
    second_script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(&**lease.worker(), "second");
    let history: Vec<_> = lease.history().iter().map(|attempt| (&*attempt.worker, &*attempt.reason)).collect();
    assert_eq!(history, [("first", "no compiler")]);
    drop(lease);
    world.finish(&[&first_script, &second_script]);
}

#[test]
fn b10_a_lease_that_has_ended_retires_nothing() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let lease = world.lease(&worker, &script);
    worker.insubstantiate(true);
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    let second = world.lease(&worker, &script);
    lease.retire("too late");
    assert_eq!((second.end(), worker.status().last_failure), (None, None));
    drop(second);
    assert_eq!(script.count(DriverCall::Stop), 1);
    world.finish(&[&script]);
}
