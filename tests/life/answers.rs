//! W3, W4, W5: every request is answered once, work during a stop waits for it, and a cancel answers at once.

use std::num::NonZeroUsize;
use std::time::Duration;

use latent_worker::testing::PATIENCE;
use latent_worker::{
    Build, DriverCall, Lease, ShutdownMode, StartError, SubstantiateError, Substantiation, WorkerConfig, WorkerState,
};

use crate::support::{GatedClock, SECOND, World, answer, reaches};

fn three_places() -> NonZeroUsize {
    NonZeroUsize::new(3).unwrap()
}

/// The answer is the only one.
fn only_answer(mut request: Substantiation<Lease>) -> Result<Lease, SubstantiateError> {
    let given = answer(&mut request);
    request.cancel();
    assert!(request.try_wait().is_none() && request.wait_timeout(Duration::ZERO).is_none(), "a second answer");
    given
}

#[test]
fn w3_all_who_wait_get_the_answer_of_the_attempt() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_max_builds(three_places()));
    let ask = || worker.substantiate(&Build::new("b"));

    let requests = [ask(), ask(), ask()];
    script.expect_start().fail("no network");
    for request in requests {
        assert!(matches!(only_answer(request), Err(SubstantiateError::Failed { .. })));
    }
    script.expect_stop().succeed();
    worker.unpause();
    reaches(&worker, WorkerState::NotSubstantiated);

    let requests = [ask(), ask(), ask()];
    script.expect_start().succeed_attached();
    let leases = requests.map(|request| only_answer(request).expect("attached"));
    assert!(leases.iter().all(|lease| lease.epoch().get() == 2), "one start for all");
    drop(leases);
    world.finish(&[&script]);
}

#[test]
fn b3_the_fault_of_one_build_is_not_the_answer_of_those_who_joined_it() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_max_builds(three_places()));
    let at_fault = worker.substantiate(&Build::new("at fault"));
    let joined = [worker.substantiate(&Build::new("b")), worker.substantiate(&Build::new("b"))];
    script.expect_start().cannot("no such image");
    assert!(matches!(only_answer(at_fault), Err(SubstantiateError::Cannot { .. })));
    script.expect_stop().succeed();
    script.expect_start().succeed_attached();
    let leases = joined.map(|request| only_answer(request).expect("attached"));
    assert!(leases.iter().all(|lease| lease.epoch().get() == 2), "an attempt of their own");
    drop(leases);
    world.finish(&[&script]);
}

#[test]
fn w3_every_kind_of_end_is_answered_once() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_missing_timeout(100 * SECOND));
    let ask = || worker.substantiate(&Build::new("b"));
    let stopped = || {
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        worker.unpause();
    };

    let request = ask();
    let start = script.expect_start();
    request.cancel();
    assert_eq!(only_answer(request).unwrap_err(), SubstantiateError::Cancelled);
    start.fail("cancelled");
    stopped();

    let request = ask();
    let start = script.expect_start();
    world.advance(100);
    assert_eq!(only_answer(request).unwrap_err(), SubstantiateError::TimedOut { after: 100 * SECOND });
    start.fail("cancelled");
    stopped();

    let request = ask();
    let start = script.expect_start();
    worker.insubstantiate(false);
    assert_eq!(only_answer(request).unwrap_err(), SubstantiateError::Insubstantiated);
    start.fail("cancelled");
    stopped();

    worker.pause();
    assert_eq!(only_answer(ask()).unwrap_err(), SubstantiateError::Paused);
    worker.unpause();

    let request = ask();
    let start = script.expect_start();
    assert_eq!(only_answer(ask()).unwrap_err(), SubstantiateError::Full);
    world.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
    assert_eq!(only_answer(request).unwrap_err(), SubstantiateError::ShutDown);
    assert_eq!(only_answer(ask()).unwrap_err(), SubstantiateError::ShutDown);
    start.fail("cancelled");
    world.finish(&[&script]);
}

#[test]
fn w3_who_joins_has_a_deadline_of_its_own_also_behind_a_stop_that_hangs() {
    let world = World::new();
    let config = WorkerConfig::new("w").with_missing_timeout(100 * SECOND).with_max_builds(three_places());
    let (worker, script) = world.add(config);
    drop(world.lease(&worker, &script));
    worker.insubstantiate(false);
    let hanging = script.expect_stop();

    let mut early = worker.substantiate(&Build::new("early"));
    world.advance(60);
    let mut late = worker.substantiate(&Build::new("late"));
    world.advance(40);
    assert_eq!(answer(&mut early).unwrap_err(), SubstantiateError::TimedOut { after: 100 * SECOND });
    assert!(late.try_wait().is_none(), "it still has time");
    world.advance(60);
    assert_eq!(answer(&mut late).unwrap_err(), SubstantiateError::TimedOut { after: 100 * SECOND });

    hanging.succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(script.count(DriverCall::Start), 1, "nobody is left to start for");
    world.finish(&[&script]);
}

#[test]
fn w3_an_attempt_goes_on_until_the_last_who_waits_has_timed_out() {
    for attaches in [true, false] {
        let world = World::new();
        let config = WorkerConfig::new("w").with_missing_timeout(100 * SECOND).with_max_builds(three_places());
        let (worker, script) = world.add(config);
        let mut early = worker.substantiate(&Build::new("early"));
        let start = script.expect_start();
        world.advance(60);
        let mut late = worker.substantiate(&Build::new("late"));
        world.advance(40);
        assert_eq!(answer(&mut early).unwrap_err(), SubstantiateError::TimedOut { after: 100 * SECOND });
        assert!(!start.cancelled());
        world.advance(59);
        assert_eq!((worker.status().state, world.quarantines()), (WorkerState::SubstantiatingStarting, vec![]));
        if attaches {
            start.succeed_attached();
            assert_eq!(answer(&mut late).unwrap().epoch().get(), 1);
            world.finish(&[&script]);
            continue;
        }
        world.advance(1);
        assert_eq!(answer(&mut late).unwrap_err(), SubstantiateError::TimedOut { after: 100 * SECOND });
        start.wait_cancelled();
        assert_eq!(world.quarantines(), [10]);
        start.fail("cancelled");
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        world.finish(&[&script]);
    }
}

#[test]
fn w3_a_request_that_is_dropped_is_cancelled() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    drop(request);
    start.wait_cancelled();
    start.fail("cancelled");
    script.expect_stop().succeed();
    world.finish(&[&script]);
}

#[test]
fn w4_work_during_a_stop_starts_right_after_it() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    worker.insubstantiate(false);
    let stop = script.expect_stop();
    let mut request = worker.substantiate(&Build::new("waits"));
    assert_eq!(worker.status().state, WorkerState::InsubstantiatingSubstantiating);
    assert_eq!(worker.status().waiting, 1);

    stop.succeed();
    loop {
        match worker.status().state {
            WorkerState::InsubstantiatingSubstantiating | WorkerState::Substantiating => std::thread::yield_now(),
            WorkerState::SubstantiatingStarting => break,
            detour => panic!("{detour} on the way"),
        }
    }
    let start = script.expect_start();
    assert_eq!(start.build().unwrap().name().as_ref(), "waits");
    start.succeed_attached();
    assert_eq!(answer(&mut request).unwrap().epoch().get(), 2);
    world.finish(&[&script]);
}

#[test]
fn w4_a_build_of_the_queue_waits_for_the_stop_too() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    worker.insubstantiate(false);
    let stop = script.expect_stop();
    let ticket = world.master.submit(Build::new("queued"));
    assert_eq!(worker.status().state, WorkerState::InsubstantiatingSubstantiating);
    stop.succeed();
    script.expect_start().succeed_attached();
    assert_eq!(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap().epoch().get(), 2);
    world.finish(&[&script]);
}

#[test]
fn w4_work_behind_a_stop_can_be_given_up() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    for by_request in [true, false] {
        drop(world.lease(&worker, &script));
        worker.insubstantiate(false);
        let stop = script.expect_stop();
        let mut request = worker.substantiate(&Build::new("b"));
        if by_request {
            request.cancel();
            assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled);
        } else {
            worker.insubstantiate(false);
            assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Insubstantiated);
        }
        assert_eq!(worker.status().state, WorkerState::Insubstantiating);
        stop.succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
    }
    assert_eq!(script.count(DriverCall::Start), 2);
    world.finish(&[&script]);
}

#[test]
fn w5_cancel_answers_at_once_although_the_start_hangs() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    assert!(!start.cancelled());
    request.cancel();
    assert_eq!(request.try_wait().expect("answered already").unwrap_err(), SubstantiateError::Cancelled);
    assert!(start.cancelled(), "and the driver is told");
    assert_eq!(worker.status().call.unwrap().0, DriverCall::Start, "the stop follows when the start returns");
    assert_eq!(world.count("stop_called"), 0);
    start.fail("cancelled");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    world.finish(&[&script]);
}

#[test]
fn w5_an_attempt_cancelled_before_its_start_never_calls_it() {
    let clock = GatedClock::shut();
    let world = World::with_clock(clock.clone(), clock.clock.clone());
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    assert_eq!(worker.status().state, WorkerState::Substantiating);
    request.cancel();
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled);
    assert_eq!(worker.status().state, WorkerState::NotSubstantiated);
    clock.open();
    assert!(world.shut_down(ShutdownMode::Graceful).complete);
    assert_eq!(script.calls(), []);
    world.finish(&[&script]);
}

#[test]
fn w5_an_attempt_cancelled_before_its_start_does_not_disturb_the_next() {
    let clock = GatedClock::shut();
    let world = World::with_clock(clock.clone(), clock.clock.clone());
    let (worker, script) = world.worker("w");
    drop(worker.substantiate(&Build::new("given up")));
    let mut request = worker.substantiate(&Build::new("wanted"));
    clock.open();
    let start = script.expect_start();
    assert_eq!(start.build().unwrap().name().as_ref(), "wanted");
    assert_eq!(start.epoch().get(), 2);
    start.succeed_attached();
    drop(answer(&mut request).unwrap());
    assert_eq!(script.count(DriverCall::Start), 1);
    world.finish(&[&script]);
}

#[test]
fn w5_cancel_of_one_leaves_the_start_to_the_others() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_max_builds(three_places()));
    let mut gives_up = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let mut stays = worker.substantiate(&Build::new("c"));
    gives_up.cancel();
    assert_eq!(answer(&mut gives_up).unwrap_err(), SubstantiateError::Cancelled);
    assert!(!start.cancelled());
    start.succeed_attached();
    assert_eq!(answer(&mut stays).unwrap().build().name().as_ref(), "c");
    world.finish(&[&script]);
}

#[test]
fn w5_d5_the_sleep_of_a_start_ends_with_the_cancel() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().answer(|start| {
        start.progress("asleep");
        start.sleep(Duration::MAX)?;
        Err(StartError::cannot("it was not woken"))
    });
    world.await_event("progress");
    assert_eq!(worker.status().details, ["asleep"]);
    request.cancel();
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled);
    assert_eq!(world.await_event("start_returned").kind.reason().unwrap(), "the start was cancelled");
    world.finish(&[&script]);
}

#[test]
fn d5_the_sleep_of_a_start_goes_by_the_clock_of_the_master() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (sender, woken) = crossbeam_channel::bounded(1);
    let clock = world.clock.clone();
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().answer(move |start| {
        let before = clock.now();
        start.sleep(30 * SECOND)?;
        sender.send(clock.now() - before)?;
        Ok(Vec::new())
    });
    // Nobody tells when the sleep begins: if it was after a step, the next one wakes it.
    let step = || {
        world.clock.advance(30 * SECOND);
        woken.recv_timeout(SECOND / 20).ok()
    };
    let slept = std::iter::repeat_with(step).take(100).flatten().next().expect("woken by the clock");
    assert!(slept >= 30 * SECOND);
    request.cancel();
    assert!(answer(&mut request).is_err());
    world.finish(&[&script]);
}
