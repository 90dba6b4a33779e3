//! S3 and the cost of a worker, as seen by the system: which threads of the library there are. In a process of its own,
//! and as one test, because it counts.
#![cfg(target_os = "linux")]

mod support;

use std::fs;

use latent_worker::testing::{ManualClock, PATIENCE, ScriptedWorker};
use latent_worker::{Build, DriverCall, Master, ShutdownMode, WorkerConfig, WorkerState};

use support::{SECOND, World, answer, bounded, eventually, reaches};

/// The threads of this process that carry one of the library's names.
fn threads() -> usize {
    let names =
        fs::read_dir("/proc/self/task").unwrap().map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
    names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("lw "))).count()
}

/// A thread that was joined is still listed for a moment.
fn no_thread_is_left(after: &str) {
    eventually((after, 0), || (after, threads()));
}

#[test]
fn s3_no_thread_is_left() {
    let world = World::new();
    let many: Vec<_> = (0..100).map(|number| world.worker(&format!("w{number}"))).collect();
    eventually(1, threads); // the timer's: a worker costs no thread until it is needed
    let requests: Vec<_> = many.iter().map(|(worker, _)| worker.substantiate(&Build::new("b"))).collect();
    let starts: Vec<_> = many.iter().map(|(_, script)| script.expect_start()).collect();
    eventually(101, threads);
    drop((requests, starts));
    many.iter().for_each(|(_, script)| script.automate_all());
    many.iter().for_each(|(worker, _)| reaches(worker, WorkerState::NotSubstantiated));
    eventually(1, threads); // ended threads end without a shutdown
    world.finish(&[]);
    no_thread_is_left("a shutdown");

    bounded("dropping a master", || drop(Master::new()));
    no_thread_is_left("a drop");

    let master = Master::new();
    let (driver, script) = ScriptedWorker::automatic();
    let worker = master.add_worker(WorkerConfig::new("up"), driver).unwrap();
    let lease = answer(&mut worker.substantiate(&Build::new("b"))).unwrap();
    drop(master);
    no_thread_is_left("a drop with an instance up and a lease out");
    drop((lease, worker, script));

    let master = Master::builder().clock(ManualClock::new()).drop_timeout(SECOND / 100).build();
    let (driver, script) = ScriptedWorker::new();
    let worker = master.add_worker(WorkerConfig::new("hangs"), driver).unwrap();
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    drop(master);
    eventually(1, threads); // the one that hangs
    script.automate(DriverCall::Stop);
    start.panic();
    no_thread_is_left("a start that hung when the master was dropped");
    drop((request, worker, script));

    let master = Master::new();
    let (driver, script) = ScriptedWorker::new();
    let worker = master.add_worker(WorkerConfig::new("within"), driver).unwrap();
    let request = worker.substantiate(&Build::new("b"));
    script.automate(DriverCall::Stop);
    script.expect_start().answer(move |_| {
        drop(master);
        Ok(Vec::new())
    });
    no_thread_is_left("the last handle was dropped in a driver call");
    drop((request, worker, script));

    let master = Master::new();
    let (driver, script) = ScriptedWorker::automatic();
    let worker = master.add_worker(WorkerConfig::new("within"), driver).unwrap();
    assert_eq!(answer(&mut worker.warm_up()), Ok(()));
    script.by_hand(DriverCall::Stop);
    let handle = master.clone();
    worker.insubstantiate(false);
    script.expect_stop().answer(move |_| {
        handle.shutdown(ShutdownMode::Fast, PATIENCE);
        Ok(())
    });
    reaches(&worker, WorkerState::ShutDown);
    assert!(master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
    no_thread_is_left("a shutdown that began in a driver call");
}
