//! Drivers that say which kind of instance a build needs, and workers that share a driver value.

mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use latent_worker::testing::{PATIENCE, Script, ScriptedWorker, Watch};
use latent_worker::{
    BoxError, Build, BuildError, DriverCall, Kind, Properties, ShutdownMode, SubstantiateError, Ticket, Worker,
    WorkerConfig,
};

use support::{World, answer};

/// A driver whose kind is the image, and how often it was asked for one.
fn by_image() -> (ScriptedWorker, Script, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let kind = move |properties: &Properties| -> Result<Kind, BoxError> {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Kind::new(properties.get("image").ok_or("no image")?))
    };
    let (driver, script) = ScriptedWorker::new();
    (driver.kinds(kind), script, asked)
}

fn add(world: &World, config: WorkerConfig, driver: &Arc<ScriptedWorker>) -> Worker {
    world.master.add_worker(config, driver.clone()).unwrap()
}

fn of_image(image: &str) -> Build {
    Build::new(image).with_property("image", image)
}

fn two() -> NonZeroUsize {
    NonZeroUsize::new(2).unwrap()
}

fn reason(ticket: &Ticket) -> String {
    match ticket.wait_timeout(PATIENCE).expect("an answer in time") {
        Err(BuildError::Cannot { reason, .. }) => reason.to_string(),
        other => panic!("it does not end as impossible: {other:?}"),
    }
}

#[test]
fn b1_a_driver_that_is_shared_says_the_kind_of_the_same_properties_once() {
    let world = World::new();
    let (driver, script, asked) = by_image();
    let driver = Arc::new(driver);
    for index in 0..100 {
        // However it is wrapped.
        let config = WorkerConfig::new(format!("w{index}"));
        match index % 2 {
            0 => world.master.add_worker(config, driver.clone()).unwrap(),
            _ => world.master.add_worker(config, Arc::new(driver.clone())).unwrap(),
        };
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing is asked before there is a build");
    script.automate_all();
    for _ in 0..3 {
        let tickets: Vec<_> = (0..20).map(|number| world.master.submit(of_image(["a", "b"][number % 2]))).collect();
        tickets.iter().for_each(|ticket| drop(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap()));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    world.finish(&[&script]);
}

#[test]
fn b1_driver_values_of_their_own_say_their_own_kinds() {
    let world = World::new();
    let (one, one_script, one_asked) = by_image();
    let (other, other_script, other_asked) = by_image();
    world.master.add_worker(WorkerConfig::new("one"), one).unwrap();
    world.master.add_worker(WorkerConfig::new("other"), Arc::new(other)).unwrap();
    let tickets = [world.master.submit(of_image("a")), world.master.submit(of_image("a"))];
    one_script.expect_start().succeed_attached();
    other_script.expect_start().succeed_attached();
    let leases = tickets.each_ref().map(|ticket| ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap());
    assert_eq!((one_asked.load(Ordering::SeqCst), other_asked.load(Ordering::SeqCst)), (1, 1));
    drop(leases);
    world.finish(&[&one_script, &other_script]);
}

#[test]
fn b7_a_driver_is_asked_for_every_worker_that_fits() {
    let world = World::new();
    let (driver, script, _) = by_image();
    let driver = Arc::new(driver);
    add(&world, WorkerConfig::new("plain"), &driver);
    let labelled = add(&world, WorkerConfig::new("labelled").with_label("gpu").with_max_builds(two()), &driver);
    // The driver speaks for its first worker; the free place is beside a build on the other one.
    let plain = world.master.worker("plain").unwrap();
    drop(world.lease(&plain, &script));
    let mut up = labelled.substantiate(&of_image("a"));
    let start = script.expect_start();
    assert_eq!(start.worker(), "labelled");
    start.succeed_attached();
    let first = answer(&mut up).unwrap();
    let second = world
        .master
        .submit(of_image("a").with_label("gpu"))
        .wait_timeout(PATIENCE)
        .expect("an answer in time")
        .unwrap();
    assert_eq!((&**second.worker(), second.epoch()), ("labelled", first.epoch()));
    drop((first, second));
    world.finish(&[&script]);
}

#[test]
fn b5_a_build_that_every_driver_that_fits_refuses_ends_with_the_reason() {
    let world = World::new();
    let (driver, script, asked) = by_image();
    let driver = Arc::new(driver);
    let watch = Watch::new(&world.master);
    watch.follow(&script);
    for index in 0..10 {
        add(&world, WorkerConfig::new(format!("w{index}")), &driver);
    }
    for _ in 0..2 {
        assert_eq!(reason(&world.master.submit(Build::new("no image"))), "no image");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "once for each build: a failure is not remembered");

    // Another driver may still make it.
    let (other, other_script, _) = by_image();
    let other = Arc::new(other);
    add(&world, WorkerConfig::new("other"), &other).pause();
    let ticket = world.master.submit(Build::new("no image"));
    watch.wait_quiet();
    assert!(ticket.try_wait().is_none());
    script.expect_no_call(DriverCall::Start, &watch);
    world.master.worker("other").unwrap().unpause();
    assert_eq!(reason(&ticket), "no image");
    world.finish(&[&script, &other_script]);
}

#[test]
fn w11_the_kind_decides_for_a_request_past_the_queue_and_the_driver_about_its_state() {
    let world = World::new();
    let (driver, script, _) = by_image();
    let worker = world.master.add_worker(WorkerConfig::new("w").with_max_builds(two()), driver).unwrap();
    let mut up = worker.substantiate(&of_image("a"));
    script.expect_start().succeed_attached();
    let running = answer(&mut up).unwrap();
    // Other properties, the same kind: the driver may still say no.
    let mut same = worker.substantiate(&of_image("a").with_property("more", "of it"));
    script.expect_compatible().no();
    assert!(answer(&mut same).is_err());
    // Another kind, and none at all: it is not asked.
    for build in [of_image("b"), Build::new("no image")] {
        let refused = answer(&mut worker.substantiate(&build)).unwrap_err();
        assert!(matches!(refused, SubstantiateError::Incompatible { .. }), "{refused}");
    }
    assert_eq!(script.count(DriverCall::Compatible), 1);
    drop(running);
    world.finish(&[&script]);
}

#[test]
fn w14_a_kind_that_panics_is_an_error() {
    let world = World::new();
    let (driver, script) = ScriptedWorker::new();
    let driver = driver.kinds(|properties| Ok(Kind::new(properties.get("image").expect("an image"))));
    world.master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    assert_eq!(reason(&world.master.submit(Build::new("no image"))), "kind panicked: an image");
    let ticket = world.master.submit(of_image("a"));
    script.expect_start().succeed_attached();
    drop(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap());
    world.finish(&[&script]);
}

/// A driver whose answer about the image "hangs" does not come before `release` is dropped.
fn hanging(world: &World, config: WorkerConfig) -> (Worker, Script, Sender<()>, Receiver<ThreadId>) {
    let (release, released) = unbounded::<()>();
    let (asked, asks) = unbounded();
    let kind = move |properties: &Properties| -> Result<Kind, BoxError> {
        let _ = asked.send(std::thread::current().id());
        let image = properties.get("image").ok_or("no image")?;
        if image == "hangs" {
            let _ = released.recv();
        }
        Ok(Kind::new(image))
    };
    let (driver, script) = ScriptedWorker::automatic();
    let worker = world.master.add_worker(config, driver.kinds(kind)).unwrap();
    (worker, script, release, asks)
}

#[test]
fn b7_a_question_for_a_kind_that_hangs_holds_up_neither_the_submission_nor_another_driver() {
    let world = World::new();
    let (worker, script, release, asks) = hanging(&world, WorkerConfig::new("hangs"));
    let ticket = world.master.submit(of_image("hangs"));
    assert_ne!(asks.recv_timeout(PATIENCE).unwrap(), std::thread::current().id());
    assert!(ticket.try_wait().is_none());
    assert!(matches!(worker.status().call, Some((DriverCall::Kind, _))), "{}", worker.status());

    let (driver, other) = ScriptedWorker::automatic();
    world.master.add_worker(WorkerConfig::new("other"), driver).unwrap();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(&**lease.worker(), "other");
    drop((lease, release));
    world.finish(&[&script, &other]);
}

#[test]
fn b7_a_late_answer_about_a_kind_starts_what_waits_and_one_for_nobody_starts_nothing() {
    let world = World::new();
    let (_, script, release, asks) = hanging(&world, WorkerConfig::new("w"));
    let cancelled = world.master.submit(of_image("hangs"));
    asks.recv_timeout(PATIENCE).unwrap();
    cancelled.cancel();
    let waits = world.master.submit(of_image("other"));
    drop(release);
    assert_eq!(waits.wait_timeout(PATIENCE).expect("an answer in time").unwrap().build().name().as_ref(), "other");
    assert_eq!(script.count(DriverCall::Start), 1);
    world.finish(&[&script]);
}

#[test]
fn s2_a_shutdown_names_the_question_for_a_kind_that_hangs() {
    let world = World::new();
    let (_, script, release, asks) = hanging(&world, WorkerConfig::new("w"));
    let ticket = world.master.submit(of_image("hangs"));
    asks.recv_timeout(PATIENCE).unwrap();
    let report = world.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
    assert!(!report.complete);
    assert!(report.to_string().contains("in kind for"), "{report}");
    assert!(matches!(ticket.wait_timeout(PATIENCE).expect("an answer in time"), Err(BuildError::ShutDown)));
    drop(release);
    world.finish(&[&script]);
}

#[test]
fn w14_a_driver_may_use_the_library_and_panic_while_it_is_asked_for_a_kind() {
    let world = World::new();
    let master = world.master.clone();
    let (driver, script) = ScriptedWorker::automatic();
    let driver = driver.kinds(move |properties| {
        let page = master.queue(None, 10);
        assert_ne!(properties.get("image"), Some("panics"), "{page}");
        Ok(Kind::new("any"))
    });
    world.master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    assert!(reason(&world.master.submit(of_image("panics"))).contains("panicked"));
    drop(world.master.submit(of_image("good")).wait_timeout(PATIENCE).expect("an answer in time").unwrap());
    world.master.shutdown(ShutdownMode::Fast, PATIENCE);
    drop(script);
}
