//! S0, S1, S2, S3: the end of a master, in every state that its workers can be in, and stops that are hurried.

mod support;

use std::any::Any;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded as channel};
use latent_worker::testing::{ManualClock, PATIENCE, Script, ScriptedWorker};
use latent_worker::{
    AddWorkerError, Build, BuildError, BuildResult, DriverCall, EventKind, Hurried, IdlePolicy, LeaseEnd, Master,
    ShutdownMode, SubstantiateError, Worker, WorkerConfig, WorkerState,
};

use support::{GatedClock, SECOND, World, answer, bounded, eventually, reaches};

/// Whether a stop was fast in the beginning, how its sleep ended, and whether it was fast in the end.
type Learned = (bool, Result<(), Hurried>, bool);

/// Has the instance stopped gracefully by a driver that waits as long as it may, and returns when it waits.
fn patient_stop(worker: &Worker, script: &Script) -> Receiver<Learned> {
    worker.insubstantiate(false);
    let ((waits, waiting), (learned, result)) = (channel(1), channel(1));
    script.expect_stop().answer(move |stop| {
        let before = stop.fast();
        let _ = waits.send(());
        let slept = stop.sleep(Duration::MAX);
        let _ = learned.send((before, slept, stop.fast()));
        Ok(())
    });
    waiting.recv_timeout(PATIENCE).unwrap();
    result
}

#[test]
fn s0_a_stop_in_flight_is_hurried_by_a_fast_one() {
    type Hurry = fn(&World, &Worker);
    let hurry: [(&str, Hurry); 3] = [
        ("a fast insubstantiate", |_, worker| drop(worker.insubstantiate(true))),
        ("a fast shutdown", |world, _| drop(world.master.shutdown(ShutdownMode::Fast, Duration::ZERO))),
        ("a graceful shutdown that becomes a fast one", |world, _| {
            world.master.shutdown(ShutdownMode::Graceful, Duration::ZERO);
            world.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
        }),
    ];
    for (what, hurry) in hurry {
        let world = World::new();
        let (worker, script) = world.worker("w");
        drop(world.lease(&worker, &script));
        let learned = patient_stop(&worker, &script);
        hurry(&world, &worker);
        assert_eq!(learned.recv_timeout(PATIENCE), Ok((false, Err(Hurried), true)), "{what}");
        world.finish(&[&script]);
    }
}

#[test]
fn s0_dropping_the_master_hurries_the_stops_in_flight() {
    let master = Master::builder().drop_timeout(PATIENCE).build();
    let (driver, script) = ScriptedWorker::automatic();
    let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    assert_eq!(answer(&mut worker.warm_up()), Ok(()));
    script.by_hand(DriverCall::Stop);
    let learned = patient_stop(&worker, &script);
    bounded("dropping the master", move || drop(master));
    assert_eq!(learned.recv_timeout(PATIENCE), Ok((false, Err(Hurried), true)));
}

#[test]
fn s0_nothing_but_a_fast_request_hurries_a_stop() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    worker.insubstantiate(false);
    let stop = script.expect_stop();
    worker.insubstantiate(false);
    let mut next = worker.substantiate(&Build::new("waits for the stop"));
    world.advance(10_000);
    assert_eq!(answer(&mut next).unwrap_err(), SubstantiateError::TimedOut { after: 10_000 * SECOND });
    let mut next = worker.substantiate(&Build::new("waits for the stop"));
    assert!(!stop.fast());
    stop.succeed();
    script.expect_start().succeed_attached();
    drop(answer(&mut next).unwrap());
    world.master.shutdown(ShutdownMode::Graceful, Duration::ZERO);
    let stop = script.expect_stop();
    assert!(!stop.fast(), "it is another stop, and another way to end it");
    worker.insubstantiate(true);
    stop.wait_hurried();
    stop.succeed();
    world.finish(&[&script]);
}

#[test]
fn s0_a_stop_sleeps_on_the_clock_of_the_master() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    worker.insubstantiate(false);
    let (learned, result) = channel(1);
    let clock = world.clock.clone();
    script.expect_stop().answer(move |stop| {
        let before = clock.now();
        let slept = stop.sleep(30 * SECOND);
        let _ = learned.send((slept, clock.now() - before));
        Ok(())
    });
    // Nobody tells when the sleep begins: if it was after a step, the next one wakes it.
    let step = || {
        world.clock.advance(30 * SECOND);
        result.recv_timeout(SECOND / 20).ok()
    };
    let (slept, time) = std::iter::repeat_with(step).take(100).flatten().next().expect("woken by the clock");
    assert!(slept == Ok(()) && time >= 30 * SECOND);
    world.finish(&[&script]);
}

#[test]
fn s0_a_stop_that_is_fast_from_the_beginning_does_not_sleep() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let _lease = world.lease(&worker, &script);
    worker.insubstantiate(true);
    let stop = script.expect_stop();
    assert!(stop.fast());
    let (learned, result) = channel(1);
    stop.answer(move |stop| {
        let _ = learned.send((stop.fast(), stop.sleep(Duration::MAX)));
        Ok(())
    });
    assert_eq!(result.recv_timeout(PATIENCE), Ok((true, Err(Hurried))));
    world.finish(&[&script]);
}

#[test]
fn s1_nothing_new_starts_and_every_queued_build_is_answered() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let running = world.lease(&worker, &script);
    let queued: Vec<_> = (0..3).map(|_| world.master.submit(Build::new("queued"))).collect();
    assert!(!world.master.shutdown(ShutdownMode::Graceful, Duration::ZERO).complete);

    for ticket in &queued {
        assert_eq!(ticket.try_wait().expect("at once").unwrap_err(), BuildError::ShutDown);
        assert_eq!(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap_err(), BuildError::Ended);
    }
    let late = world.master.submit(Build::new("late"));
    assert_eq!(late.wait_timeout(PATIENCE).expect("an answer in time").unwrap_err(), BuildError::ShutDown);
    assert_eq!(answer(&mut worker.substantiate(&Build::new("late"))).unwrap_err(), SubstantiateError::ShutDown);
    assert_eq!(answer(&mut worker.warm_up()).unwrap_err(), SubstantiateError::ShutDown);
    let (driver, _script) = ScriptedWorker::new();
    let refused = world.master.add_worker(WorkerConfig::new("late"), driver).unwrap_err();
    assert_eq!(refused, AddWorkerError::ShutDown);
    drop(running);
    assert_eq!(script.count(DriverCall::Start), 1);
    world.finish(&[&script]);
}

#[test]
fn s1_a_graceful_shutdown_waits_for_running_builds() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    world.await_event("start_returned");
    assert!(!world.master.shutdown(ShutdownMode::Graceful, Duration::ZERO).complete);
    world.advance(100_000);
    assert_eq!((lease.end(), worker.status().state), (None, WorkerState::Substantiated));
    assert_eq!(world.count("stop_called"), 0);
    lease.finish(BuildResult::Succeeded);
    let stop = script.expect_stop();
    assert!(!stop.fast());
    stop.succeed();
    assert!(world.shut_down(ShutdownMode::Graceful).complete);
    assert_eq!(worker.status().state, WorkerState::ShutDown);
    let finished = world.await_event("build_finished").kind;
    assert_eq!(finished, EventKind::BuildFinished { result: BuildResult::Succeeded });
    world.finish(&[&script]);
}

#[test]
fn s1_a_fast_shutdown_ends_running_builds_and_tells_the_driver() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let lease = world.lease(&worker, &script);
    assert!(!world.master.shutdown(ShutdownMode::Fast, Duration::ZERO).complete);
    assert_eq!(lease.end(), Some(LeaseEnd::Stopped));
    let stop = script.expect_stop();
    assert!(stop.fast());
    stop.succeed();
    drop(lease);
    world.finish(&[&script]);
}

#[test]
fn s1_a_graceful_shutdown_may_become_a_fast_one() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let lease = world.lease(&worker, &script);
    world.master.shutdown(ShutdownMode::Graceful, Duration::ZERO);
    assert_eq!(lease.end(), None);
    world.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
    assert_eq!(lease.end(), Some(LeaseEnd::Stopped));
    assert!(script.expect_stop().fast());
    world.finish(&[&script]);
}

#[test]
fn s1_a_build_given_back_for_another_try_is_answered() {
    let world = World::new();
    let (_worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    world.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
    lease.retry("the instance was stopped");
    assert_eq!(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap_err(), BuildError::ShutDown);
    world.finish(&[&script]);
}

#[test]
fn s2_pending_starts_and_stops_are_waited_for() {
    let world = World::new();
    let (starting, starting_script) = world.worker("starting");
    let (stopping, stopping_script) = world.worker("stopping");
    drop(world.lease(&stopping, &stopping_script));
    stopping.insubstantiate(false);
    let stop = stopping_script.expect_stop();
    let mut request = starting.substantiate(&Build::new("b"));
    let start = starting_script.expect_start();

    let master = world.master.clone();
    let (done, finished) = channel(1);
    let waiting = std::thread::spawn(move || done.send(master.shutdown(ShutdownMode::Graceful, PATIENCE)));
    start.wait_cancelled();
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::ShutDown);
    assert!(finished.try_recv().is_err(), "both are in flight");
    stop.succeed();
    reaches(&stopping, WorkerState::ShutDown);
    assert!(finished.try_recv().is_err(), "one is in flight");
    start.fail("cancelled");
    starting_script.expect_stop().succeed();
    let report = finished.recv_timeout(PATIENCE).expect("nothing is in flight");
    assert!(report.complete && report.in_flight.is_empty());
    assert_eq!(report.to_string(), "shut down");
    waiting.join().unwrap().unwrap();
    world.finish(&[&starting_script, &stopping_script]);
}

#[test]
fn s2_when_the_deadline_passes_the_report_names_what_is_in_flight() {
    let world = World::new();
    let (worker, script) = world.worker("slow");
    let (_done, _done_script) = world.worker("done");
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    world.advance(3);
    let report = world.master.shutdown(ShutdownMode::Graceful, SECOND / 100);
    assert!(!report.complete);
    let [status] = &report.in_flight[..] else { panic!("one is in flight: {report}") };
    assert_eq!((&*status.name, status.call), ("slow", Some((DriverCall::Start, 3 * SECOND))));
    assert_eq!(
        report.to_string(),
        "not shut down yet, 1 worker in flight\n  slow: stopping for 0.0 s; in start_instance for 3.0 s"
    );
    start.fail("cancelled");
    let stop = script.expect_stop();
    let report = world.master.shutdown(ShutdownMode::Graceful, SECOND / 100);
    assert_eq!(report.in_flight[0].call.map(|(call, _)| call), Some(DriverCall::Stop));
    stop.succeed();
    assert!(world.shut_down(ShutdownMode::Graceful).complete, "it goes on meanwhile and may be waited for again");
    drop(request);
    world.finish(&[&script]);
}

/// Ways to bring a worker into a state; what keeps it there is returned.
type BringAbout = fn(&World, &Worker, &Script) -> Box<dyn Any>;

fn nothing() -> Box<dyn Any> {
    Box::new(())
}

#[test]
fn s2_a_shutdown_in_every_state_comes_to_its_end() {
    let states: [(&str, BringAbout); 14] = [
        ("not substantiated", |_, _, _| nothing()),
        ("starting, the start hangs", |_, worker, script| {
            let request = worker.substantiate(&Build::new("b"));
            Box::new((script.expect_start(), request))
        }),
        ("starting, not attached", |world, worker, script| {
            let request = worker.substantiate(&Build::new("b"));
            script.expect_start().succeed();
            world.await_event("start_returned");
            Box::new(request)
        }),
        ("starting, a check in flight", |world, worker, script| {
            let request = worker.substantiate(&Build::new("b"));
            script.expect_start().succeed();
            world.await_event("start_returned");
            world.advance(10);
            Box::new((script.expect_check(), request))
        }),
        ("attached, the start has not returned", |_, worker, script| {
            let mut request = worker.warm_up();
            let start = script.expect_start();
            let connection = start.attach();
            assert_eq!(answer(&mut request), Ok(()));
            start.hang_until_cancelled();
            Box::new(connection)
        }),
        ("substantiated, idle", |world, worker, script| {
            drop(world.lease(worker, script));
            nothing()
        }),
        ("substantiated, its agent is gone", |world, worker, script| {
            drop(world.lease_and_connection(worker, script));
            nothing()
        }),
        ("substantiated, a build runs", |world, worker, script| Box::new(world.lease(worker, script))),
        ("substantiated, a question in flight", |world, worker, script| {
            drop(world.lease(worker, script));
            let request = worker.substantiate(&Build::new("b"));
            Box::new((script.expect_compatible(), request))
        }),
        ("stopping", |world, worker, script| {
            drop(world.lease(worker, script));
            worker.insubstantiate(false);
            Box::new(script.expect_stop())
        }),
        ("stopping, to start again", |world, worker, script| {
            drop(world.lease(worker, script));
            worker.insubstantiate(false);
            Box::new((script.expect_stop(), worker.substantiate(&Build::new("b"))))
        }),
        ("paused", |_, worker, _| {
            worker.pause();
            nothing()
        }),
        ("in quarantine", |_, worker, script| {
            let mut request = worker.substantiate(&Build::new("b"));
            script.expect_start().fail("no network");
            assert!(answer(&mut request).is_err());
            script.expect_stop().succeed();
            reaches(worker, WorkerState::NotSubstantiated);
            nothing()
        }),
        ("with builds in the queue", |world, worker, script| {
            let lease = world.lease(worker, script);
            let tickets: Vec<_> = (0..3).map(|_| world.master.submit(Build::new("b"))).collect();
            Box::new((lease, tickets))
        }),
    ];
    for (state, bring_about) in states {
        for mode in [ShutdownMode::Graceful, ShutdownMode::Fast] {
            let world = World::new();
            let (worker, script) = world.add_choosy(WorkerConfig::new("w").with_idle(IdlePolicy::Never));
            let kept = bring_about(&world, &worker, &script);
            world.master.shutdown(mode, Duration::ZERO);
            drop(kept);
            script.automate_all();
            let report = world.shut_down(mode);
            assert!(report.complete, "{state}, {mode:?}: {report}");
            assert_eq!(worker.status().state, WorkerState::ShutDown, "{state}, {mode:?}");
            assert_eq!(script.count(DriverCall::Start), script.count(DriverCall::Stop), "{state}, {mode:?}");
            world.finish(&[&script]);
        }
    }
}

#[test]
fn s2_a_shutdown_before_the_start_is_called_never_calls_it() {
    for mode in [ShutdownMode::Graceful, ShutdownMode::Fast] {
        let clock = GatedClock::shut();
        let world = World::with_clock(clock.clone(), clock.clock.clone());
        let (worker, script) = world.worker("w");
        let mut request = worker.substantiate(&Build::new("b"));
        assert_eq!(worker.status().state, WorkerState::Substantiating);
        assert!(!world.master.shutdown(mode, Duration::ZERO).complete, "its thread is still there");
        assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::ShutDown);
        clock.open();
        assert!(world.shut_down(mode).complete);
        assert_eq!((worker.status().state, script.calls().len()), (WorkerState::ShutDown, 0));
        world.finish(&[&script]);
    }
}

#[test]
fn s3_dropping_the_master_stops_everything_fast() {
    let World { master, clock, .. } = World::new();
    let (driver, script) = ScriptedWorker::automatic();
    let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    let mut warm = worker.warm_up();
    assert_eq!(answer(&mut warm), Ok(()));
    let clone = master.clone();
    drop(master);
    assert_eq!(worker.status().state, WorkerState::Substantiated, "there is another handle");
    bounded("dropping the master", move || drop(clone));
    assert_eq!(worker.status().state, WorkerState::ShutDown);
    assert_eq!((script.count(DriverCall::Start), script.count(DriverCall::Stop)), (1, 1));
    clock.advance(SECOND);
}

#[test]
fn s3_dropping_the_master_is_bounded() {
    let clock = ManualClock::new();
    let master = Master::builder().clock(clock.clone()).drop_timeout(SECOND / 100).build();
    let (driver, script) = ScriptedWorker::new();
    let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    bounded("dropping the master", move || drop(master));
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::ShutDown);
    start.wait_cancelled();
    start.succeed(); // when it returns at last it is stopped nevertheless
    let stop = script.expect_stop();
    assert!(stop.fast() && stop.had_instance());
    stop.succeed();
    reaches(&worker, WorkerState::ShutDown);
}

#[test]
fn s3_the_last_handle_may_be_dropped_in_any_driver_call() {
    for call in [DriverCall::Start, DriverCall::Check, DriverCall::Compatible, DriverCall::Stop] {
        let clock = ManualClock::new();
        let master = Master::builder().clock(clock.clone()).build();
        let events = master.events(1000);
        let (driver, script) = ScriptedWorker::new();
        let worker = master.add_worker(WorkerConfig::new("w"), driver.may_be_incompatible(true)).unwrap();
        let (done, dropped) = channel(1);
        let drop_in_call = move || {
            drop(master);
            let _ = done.send(());
        };
        let mut request = worker.substantiate(&Build::new("b"));
        if call == DriverCall::Start {
            script.expect_start().answer(move |_| {
                drop_in_call();
                Ok(Vec::new())
            });
        } else if call == DriverCall::Check {
            script.expect_start().succeed();
            eventually(true, || events.try_iter().any(|event| event.kind.name() == "start_returned"));
            clock.advance(10 * SECOND);
            script.expect_check().answer(move || {
                drop_in_call();
                latent_worker::Health::Good
            });
        } else {
            script.expect_start().succeed_attached();
            drop(answer(&mut request).unwrap());
            if call == DriverCall::Compatible {
                request = worker.substantiate(&Build::new("b"));
                script.expect_compatible().answer(move || {
                    drop_in_call();
                    Ok(true)
                });
            } else {
                worker.insubstantiate(false);
                script.expect_stop().answer(move |_| {
                    drop_in_call();
                    Ok(())
                });
            }
        }
        assert!(dropped.recv_timeout(PATIENCE).is_ok(), "the drop in {call} does not return");
        script.automate_all();
        reaches(&worker, WorkerState::ShutDown);
        assert_eq!((script.count(DriverCall::Start), script.count(DriverCall::Stop)), (1, 1), "{call}");
        drop(request);
    }
}

#[test]
fn s3_a_shutdown_on_a_thread_of_the_library_does_not_wait_for_itself() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    let master = world.master.clone();
    let (done, reported) = channel(1);
    script.expect_start().answer(move |start| {
        let report = master.shutdown(ShutdownMode::Graceful, Duration::MAX);
        let _ = done.send((report, start.cancelled()));
        Ok(Vec::new())
    });
    let (report, cancelled) = reported.recv_timeout(PATIENCE).expect("it does not block");
    assert!(!report.complete && cancelled);
    assert_eq!(report.in_flight[0].call.map(|(call, _)| call), Some(DriverCall::Start));
    script.expect_stop().succeed();
    assert!(world.shut_down(ShutdownMode::Graceful).complete);
    drop(request);
    world.finish(&[&script]);
}

#[test]
fn s3_a_drop_while_a_panic_unwinds_is_only_a_drop() {
    let panicked = bounded("the thread that panics", || {
        std::thread::spawn(|| {
            let master = Master::new();
            let (driver, _script) = ScriptedWorker::automatic();
            let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
            let _lease = worker.substantiate(&Build::new("b")).wait().unwrap();
            let _ticket = master.submit(Build::new("waits"));
            panic!("in the middle of it");
        })
        .join()
    });
    assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "in the middle of it");
}

#[test]
fn s3_shutting_down_again_and_again_is_harmless() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    drop(world.lease(&worker, &script));
    script.automate_all();
    for _ in 0..3 {
        assert!(world.shut_down(ShutdownMode::Graceful).complete);
        assert!(world.shut_down(ShutdownMode::Fast).complete);
    }
    worker.insubstantiate(true);
    worker.pause();
    worker.unpause();
    world.advance(100_000);
    assert_eq!(worker.status().state, WorkerState::ShutDown);
    assert_eq!(script.count(DriverCall::Stop), 1);
    world.finish(&[&script]);
}
