//! W1, W2: which driver calls are made, and that they are made one at a time, with one stop for each start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use latent_worker::testing::{PATIENCE, Script};
use latent_worker::{
    Attachment, Build, DriverCall, Health, IdlePolicy, LatentWorker, Master, ShutdownMode, StartError, StartRequest,
    Started, StopError, StopRequest, SubstantiateError, WorkerConfig, WorkerState,
};

use crate::support::{SECOND, World, answer, bounded, reaches};

/// What the script has seen: starts and stops.
fn starts_and_stops(script: &Script) -> (usize, usize) {
    (script.count(DriverCall::Start), script.count(DriverCall::Stop))
}

#[test]
fn w1_a_stop_waits_for_the_check_in_flight() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().succeed();
    world.await_event("start_returned");
    world.advance(10);
    let check = script.expect_check();

    request.cancel();
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled);
    let status = worker.status();
    assert_eq!(status.state, WorkerState::Insubstantiating);
    assert_eq!(status.call.unwrap().0, DriverCall::Check, "the stop is not called yet");
    assert_eq!(world.count("stop_called"), 0);

    check.good();
    script.expect_stop().succeed();
    world.finish(&[&script]);
}

#[test]
fn w1_no_start_is_called_while_the_start_before_it_hangs() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let first = worker.substantiate(&Build::new("first"));
    let hanging = script.expect_start();
    first.cancel();

    let mut second = worker.substantiate(&Build::new("second"));
    let status = worker.status();
    assert_eq!(status.state, WorkerState::InsubstantiatingSubstantiating);
    assert_eq!(status.call.unwrap().0, DriverCall::Start);
    assert_eq!((status.epoch.get(), world.count("start_called")), (1, 1));

    hanging.fail("too late anyway");
    let stop = script.expect_stop();
    assert_eq!((worker.status().epoch.get(), world.count("start_called")), (1, 1), "nor while it is being stopped");
    stop.succeed();
    script.expect_start().succeed_attached();
    assert_eq!(answer(&mut second).unwrap().epoch().get(), 2);
    world.finish(&[&script]);
}

#[test]
fn w1_calls_do_not_overlap_however_many_threads_ask() {
    /// Complains when a call is made while another is under way.
    #[derive(Default)]
    struct Jealous {
        busy: AtomicBool,
        overlaps: AtomicUsize,
    }
    impl Jealous {
        fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
            if self.busy.swap(true, Ordering::SeqCst) {
                self.overlaps.fetch_add(1, Ordering::SeqCst);
            }
            let result = work();
            self.busy.store(false, Ordering::SeqCst);
            result
        }
    }
    impl LatentWorker for Jealous {
        type Instance = Option<Attachment>;
        fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Option<Attachment>>, StartError> {
            self.alone(|| match start.epoch().get() % 3 {
                0 => Err(StartError::cannot("every third one")),
                1 => Ok(Started::new(start.attacher().attach(()).ok())),
                _ => Ok(Started::new(None)),
            })
        }
        fn check_instance(&self, _: &Option<Attachment>) -> Health {
            self.alone(|| Health::Good)
        }
        fn stop_instance(&self, _: StopRequest<Option<Attachment>>) -> Result<(), StopError> {
            self.alone(|| Ok(()))
        }
    }

    let driver = Arc::new(Jealous::default());
    let master = Master::new();
    let events = master.events(1_000_000);
    let worker = master.add_worker(WorkerConfig::new("w").with_idle(IdlePolicy::AfterBuild), driver.clone()).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let worker = worker.clone();
            std::thread::spawn(move || {
                for round in 0..200 {
                    let mut request = worker.substantiate(&Build::new("b"));
                    if (thread + round) % 5 == 0 {
                        worker.insubstantiate(round % 2 == 0);
                    }
                    if (thread + round) % 3 == 0 {
                        request.cancel();
                    }
                    drop(request.wait_timeout(SECOND / 1000));
                }
            })
        })
        .collect();
    bounded("the threads that ask", move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
    let report = master.shutdown(ShutdownMode::Fast, PATIENCE);
    assert!(report.complete, "{report}");
    assert_eq!(driver.overlaps.load(Ordering::SeqCst), 0);
    let count = |name| events.try_iter().filter(|event| event.kind.name() == name).count();
    assert!(count("start_called") > 0);
}

#[test]
fn w2_failed_start_is_stopped_once() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let key = start.key().to_owned();
    start.fail("no network");
    assert!(matches!(answer(&mut request), Err(SubstantiateError::Failed { .. })));

    let stop = script.expect_stop();
    assert!(!stop.had_instance());
    assert_eq!(stop.key(), key, "what the start has left can be found by its key");
    stop.succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(starts_and_stops(&script), (1, 1));
    world.finish(&[&script]);
}

#[test]
fn w2_impossible_start_is_stopped_once() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().cannot("no such image");
    assert!(matches!(answer(&mut request), Err(SubstantiateError::Cannot { .. })));
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(starts_and_stops(&script), (1, 1));
    world.finish(&[&script]);
}

#[test]
fn w2_panicked_start_is_stopped_once() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().panic();
    let error = answer(&mut request).unwrap_err();
    assert_eq!(error.to_string(), "failed to substantiate: start_instance panicked: scripted panic");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(starts_and_stops(&script), (1, 1));
    world.finish(&[&script]);
}

#[test]
fn w2_cancelled_start_is_stopped_once_with_its_instance() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    request.cancel();
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled);
    start.succeed();
    let stop = script.expect_stop();
    assert!(stop.had_instance());
    stop.succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(starts_and_stops(&script), (1, 1));
    world.finish(&[&script]);
}

#[test]
fn w2_a_start_under_way_at_shutdown_is_stopped_once() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let report = world.master.shutdown(ShutdownMode::Graceful, std::time::Duration::ZERO);
    assert!(!report.complete);
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::ShutDown);
    start.wait_cancelled();
    start.succeed();
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::ShutDown);
    assert_eq!(starts_and_stops(&script), (1, 1));
    world.finish(&[&script]);
}

#[test]
fn w2_however_many_reasons_there_are_it_is_one_stop() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::After(60 * SECOND)));
    let (lease, connection) = world.lease_and_connection(&worker, &script);
    drop(lease);
    world.advance(60); // idle
    let stop = script.expect_stop();
    let asked = [worker.insubstantiate(false), worker.insubstantiate(true)];
    connection.lost("severed");
    world.advance(3600);
    stop.succeed();
    assert!(asked.iter().all(|gone| gone.wait_timeout(PATIENCE)));
    assert_eq!(starts_and_stops(&script), (1, 1));
    world.finish(&[&script]);
}

#[test]
fn w2_a_stop_that_fails_is_not_called_again_and_work_goes_on() {
    for panics in [false, true] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        drop(world.lease(&worker, &script));
        let asked = worker.insubstantiate(false);
        let stop = script.expect_stop();
        let reason = if panics {
            stop.panic();
            "the instance could not be stopped: stop_instance panicked: scripted panic"
        } else {
            stop.fail("no answer");
            "the instance could not be stopped: no answer"
        };
        assert!(asked.wait_timeout(PATIENCE));
        let status = worker.status();
        assert_eq!(status.state, WorkerState::NotSubstantiated);
        assert_eq!(&*status.last_failure.unwrap().0, reason);
        assert_eq!(starts_and_stops(&script), (1, 1));

        worker.unpause(); // out of the quarantine
        drop(world.lease(&worker, &script));
        assert_eq!(starts_and_stops(&script), (2, 1));
        world.finish(&[&script]);
    }
}

#[test]
fn w2_a_stop_asked_for_again_while_it_hangs_is_not_called_again() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    let first = worker.insubstantiate(false);
    let stop = script.expect_stop();
    let again = worker.insubstantiate(true);
    assert!(!first.wait_timeout(std::time::Duration::ZERO));
    stop.succeed();
    assert!(first.wait_timeout(PATIENCE) && again.wait_timeout(PATIENCE));
    assert_eq!(starts_and_stops(&script), (1, 1));
    world.finish(&[&script]);
}
