//! What is rare, and was wrong once: drops and panics at odd places, extreme numbers, answers taken twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use latent_worker::testing::{ManualClock, PATIENCE, ScriptedWorker};
use latent_worker::{
    Build, Clock, DriverCall, FailureCause, IdlePolicy, LatentWorker, Master, StartError, StartRequest, Started,
    StopError, StopRequest, SubstantiateError, WorkerConfig, WorkerState,
};

use crate::support::{World, answer, reaches};

#[test]
fn w12_a_hint_beyond_the_end_of_time_is_still_a_quarantine() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    let throttled = FailureCause::Throttled { retry_after: Some(Duration::MAX) };
    script.expect_start().fail_with(StartError::failed(throttled, "slow down"));
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert!(worker.status().quarantine.is_some());
    assert_eq!(script.count(DriverCall::Start), 1);
    ticket.cancel();
    world.finish(&[&script]);
}

#[test]
fn w12_a_build_that_wants_another_try_does_not_reset_the_quarantine() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::Never));
    let fail = || {
        let mut request = worker.substantiate(&Build::new("b"));
        script.expect_start().fail("no network");
        assert!(answer(&mut request).is_err());
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        worker.unpause();
    };
    fail();
    world.lease(&worker, &script).retry("it looks odd");
    assert!(!worker.insubstantiate(false).wait_timeout(Duration::ZERO));
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    fail();
    assert_eq!(world.quarantines(), [10, 20]);
    world.finish(&[&script]);
}

#[test]
fn w15_progress_is_told_while_the_start_runs_and_the_details_after_it() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.warm_up();
    script.expect_start().answer(|start| {
        start.progress("pulling, 40 %");
        Ok(vec!["i-1234".into()])
    });
    world.await_event("start_returned");
    assert_eq!(worker.status().details, ["i-1234"]);
    request.cancel();
    assert!(answer(&mut request).is_err());
    script.expect_stop().succeed();
    world.finish(&[&script]);
}

#[test]
fn an_answer_that_was_taken_is_not_waited_for_again() {
    let world = World::new();
    let (driver, script) = ScriptedWorker::automatic();
    let worker = world.master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    let mut request = worker.warm_up();
    assert_eq!(request.wait_timeout(PATIENCE), Some(Ok(())));
    assert_eq!(request.wait(), Err(SubstantiateError::Answered));

    let stop = worker.insubstantiate(false);
    assert!(stop.wait_timeout(PATIENCE));
    assert!(stop.wait_timeout(PATIENCE), "what is gone stays gone");
    world.finish(&[&script]);
}

#[test]
fn b4_a_build_whose_ticket_is_gone_is_not_tried_again() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    let id = ticket.id();
    drop(ticket);
    assert_eq!(lease.end(), None, "it may be brought to its end");
    lease.retry("again");
    assert_eq!(world.master.build_status(id), None);
    assert_eq!(worker.status().leases, 0);
    world.finish(&[&script]);
}

#[test]
fn d5_a_sleep_after_the_cancel_never_succeeds() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let request = worker.warm_up();
    let start = script.expect_start();
    drop(request);
    start.wait_cancelled();
    let (sender, slept) = crossbeam_channel::bounded(1);
    start.answer(move |start| {
        let _ = sender.send((0..1000).filter(|_| start.sleep(Duration::ZERO).is_ok()).count());
        Ok(vec![])
    });
    assert_eq!(slept.recv_timeout(PATIENCE), Ok(0));
    script.expect_stop().succeed();
    world.finish(&[&script]);
}

/// Fails at everything, also at being dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("the driver's drop");
    }
}

impl LatentWorker for Grenade {
    type Instance = ();

    fn start_instance(&self, _: &StartRequest<'_>) -> Result<Started<()>, StartError> {
        Err(StartError::cannot("never"))
    }

    fn stop_instance(&self, _: StopRequest<()>) -> Result<(), StopError> {
        Ok(())
    }
}

#[test]
fn s3_a_driver_whose_drop_panics_does_not_make_the_masters_drop_panic() {
    let master = Master::new();
    master.add_worker(WorkerConfig::new("w"), Grenade).unwrap();
    drop(master);
}

/// Panics once, on the timer's thread.
struct Hiccup(Arc<AtomicBool>);

impl Clock for Hiccup {
    fn now(&self) -> Instant {
        let on_timer = std::thread::current().name() == Some("lw timer");
        assert!(!on_timer || !self.0.swap(false, Ordering::SeqCst), "the clock");
        Instant::now()
    }

    fn real_time_until(&self, deadline: Instant) -> Option<Duration> {
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

#[test]
fn w14_a_clock_that_panics_once_stops_no_deadline() {
    let due = Arc::new(AtomicBool::new(true));
    let master = Master::builder().clock(Hiccup(due.clone())).build();
    let (driver, script) = ScriptedWorker::new();
    let config = WorkerConfig::new("w").with_missing_timeout(Duration::from_millis(50));
    let worker = master.add_worker(config, driver).unwrap();
    let mut request = worker.warm_up();
    let start = script.expect_start();
    assert!(matches!(answer(&mut request), Err(SubstantiateError::TimedOut { .. })));
    assert!(!due.load(Ordering::SeqCst), "it has panicked");
    start.fail("late");
    script.expect_stop().succeed();
}

#[test]
fn an_observer_without_room_is_forgotten_when_it_is_gone() {
    let clock = ManualClock::new();
    let master = Master::builder().clock(clock).build();
    let (none, all) = (master.events(0), master.events(100));
    drop(master.submit(Build::new("b")));
    assert_eq!(none.len(), 1, "there is always room for one");
    drop(none);
    drop(master.submit(Build::new("b")));
    assert_eq!(all.len(), 4);
}
