//! A1, A2, A3, as far as they need no network: who is let in as the agent of an instance, and who is not.

mod support;

use std::collections::HashSet;
use std::sync::{Mutex, Once};

use latent_worker::testing::PATIENCE;
use latent_worker::{AttachError, Build, IdlePolicy, WorkerConfig, WorkerState, WorkerStatus};

use support::{World, answer, reaches};

/// Everything that was logged by this process.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

impl log::Log for Listener {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LOGGED.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Listener).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

#[test]
fn a1_every_attempt_has_a_fresh_secret_and_key() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (other, other_script) = world.worker("other");
    let mut secrets = HashSet::new();
    let mut keys = HashSet::new();
    for (worker, script) in [(&worker, &script), (&other, &other_script)] {
        for _ in 0..20 {
            let request = worker.substantiate(&Build::new("b"));
            let start = script.expect_start();
            assert_eq!(start.secret().expose().len(), 64, "256 bits as hexadecimal digits");
            assert_eq!(start.key().len(), 32);
            assert!(secrets.insert(start.secret().expose().to_owned()), "a secret was used twice");
            assert!(keys.insert(start.key().to_owned()), "a key was used twice");
            drop(request);
            start.fail("cancelled");
            script.expect_stop().succeed();
            reaches(worker, WorkerState::NotSubstantiated);
        }
    }
    world.finish(&[&script, &other_script]);
}

#[test]
fn a1_a_secret_lets_one_agent_in() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    assert_eq!(world.master.knock("w", "wrong"), Err(AttachError::WrongSecret));
    assert_eq!(world.master.knock("x", "wrong"), Err(AttachError::UnknownWorker));
    assert_eq!((worker.status().refused_agents, world.master.unknown_agents()), (1, 1));
    assert_eq!(world.master.knock("w", start.secret().expose()), Ok(()));
    assert!(!worker.status().attached && worker.status().refused_agents == 1, "a knock changes nothing");
    let connection = world.master.attach("w", start.secret().expose(), ()).expect("the right one");
    let again = world.master.attach("w", start.secret().expose(), ()).unwrap_err();
    assert_eq!(again, AttachError::AlreadyAttached);
    assert_eq!(world.master.knock("w", start.secret().expose()), Err(AttachError::AlreadyAttached));
    assert!(answer(&mut request).unwrap().end().is_none());
    start.succeed();
    drop(connection);
    world.finish(&[&script]);
}

#[test]
fn a1_no_secret_is_ever_printed_or_logged() {
    listen();
    let world = World::new();
    let (worker, script) = world.worker("printed");
    let mut printed = String::new();

    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let secret = start.secret().expose().to_owned();
    printed += &format!("{start:?} {:?} {:?} {:?}", start.secret(), start.attacher(), request);
    let (sender, debug_of_request) = crossbeam_channel::bounded(1);
    let wrong = world.master.attach("printed", &secret[1..], ()).unwrap_err();
    let unknown = world.master.attach("nobody", &secret, ()).unwrap_err();
    let connection = start.attach();
    let refused = world.master.attach("printed", &secret, ()).unwrap_err();
    start.answer(move |request| {
        let _ = sender.send(format!("{request:?}"));
        Ok(vec!["up".into()])
    });
    printed += &debug_of_request.recv_timeout(PATIENCE).unwrap();
    let lease = answer(&mut request).unwrap();
    printed += &format!("{lease:?} {worker:?} {:?} {wrong} {unknown} {refused}", world.master);
    printed += &format!("{:?} {}", worker.status(), worker.status());
    connection.lost("gone");
    drop(lease);
    script.expect_stop().fail("left something behind");
    reaches(&worker, WorkerState::NotSubstantiated);
    printed += &format!("{:?}", world.events());
    world.finish(&[&script]);

    let logged = LOGGED.lock().unwrap().join("\n");
    assert!(logged.contains("worker printed: start called"), "the log is listened to: {logged}");
    assert!(printed.contains("Secret(…)"));
    for (what, text) in [("printed", &printed), ("logged", &logged)] {
        assert!(!text.contains(&secret) && !text.contains(&secret[1..]), "the secret was {what}: {text}");
    }
}

/// What may not be changed by an agent that is refused.
fn unchanging(status: WorkerStatus) -> String {
    format!("{}, attached {}, {:?}, {:?}", status, status.attached, status.epoch, status.details)
}

#[test]
fn a2_wrong_ones_are_refused_and_counted_and_change_nothing() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (other, other_script) = world.worker("other");
    let mut refused = 0;
    let mut strangers_at_the_door = |secrets_of_others: &[&str]| {
        let before = unchanging(worker.status());
        for wrong in ["", "0", &"0".repeat(64), "w"].iter().chain(secrets_of_others) {
            assert_eq!(world.master.attach("w", wrong, ()).unwrap_err(), AttachError::WrongSecret);
            refused += 1;
        }
        assert_eq!(unchanging(worker.status()), before);
        assert_eq!(worker.status().refused_agents, refused);
    };

    let _pending = other.substantiate(&Build::new("b"));
    let other_start = other_script.expect_start();
    let others = other_start.secret().expose();

    strangers_at_the_door(&[others]); // not substantiated
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let almost = format!("{}x", &start.secret().expose()[..63]);
    let longer = format!("{}0", start.secret().expose());
    strangers_at_the_door(&[others, &almost, &longer, &start.secret().expose()[..63]]); // starting
    assert!(request.try_wait().is_none());
    let connection = start.attach();
    start.succeed();
    let lease = answer(&mut request).unwrap();
    world.await_event_of("start_returned", Some("w"));
    strangers_at_the_door(&[others, &almost]); // attached
    assert!(lease.end().is_none());
    drop(lease);
    worker.insubstantiate(false);
    let stop = script.expect_stop();
    strangers_at_the_door(&[others, &almost]); // being stopped
    stop.succeed();
    drop(connection);
    other_start.fail("not needed any more");
    world.finish(&[&script, &other_script]);
}

#[test]
fn a2_an_unknown_name_is_refused_and_counted() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    for name in ["", "W", "w ", "nobody"] {
        let refused = world.master.attach(name, start.secret().expose(), ()).unwrap_err();
        assert_eq!(refused, AttachError::UnknownWorker);
    }
    assert_eq!(world.master.unknown_agents(), 4);
    assert_eq!(worker.status().refused_agents, 0);
    assert!(request.try_wait().is_none());
    start.succeed_attached();
    assert!(answer(&mut request).is_ok());
    world.finish(&[&script]);
}

#[test]
fn a2_the_right_secret_of_an_older_attempt_is_refused_and_counted() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let old = start.secret().expose().to_owned();
    drop(request);
    start.fail("cancelled");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    assert_eq!(world.master.attach("w", &old, ()).unwrap_err(), AttachError::Stale);
    assert_eq!(worker.status().refused_agents, 1);
    assert_eq!(world.await_event("attach_refused").worker.as_deref(), Some("w"));
    assert!(request.try_wait().is_none());
    start.succeed_attached();
    assert!(answer(&mut request).is_ok());
    world.finish(&[&script]);
}

#[test]
fn a2_nobody_is_let_in_after_the_master_is_gone() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let (attacher, secret) = (start.attacher(), start.secret().clone());
    drop(request);
    start.fail("cancelled");
    script.expect_stop().succeed();
    let master = world.master.clone();
    world.finish(&[&script]);
    assert_eq!(master.attach("w", secret.expose(), ()).unwrap_err(), AttachError::Stale);
    drop((master, worker));
    assert_eq!(attacher.attach(()).unwrap_err(), AttachError::Stale);
}

#[test]
fn a3_a_second_connection_is_refused_while_the_first_is_there_and_taken_when_it_is_gone() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::Never));
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let attacher = start.attacher();
    let first = attacher.attach(()).unwrap();
    start.succeed();
    let lease = answer(&mut request).unwrap();
    world.await_event("start_returned");

    assert_eq!(attacher.attach(()).unwrap_err(), AttachError::AlreadyAttached);
    assert!(lease.end().is_none(), "the first one is left alone");
    drop(lease);
    assert_eq!(attacher.attach(()).unwrap_err(), AttachError::AlreadyAttached);
    assert_eq!(worker.status().refused_agents, 2);

    first.lost("dead");
    let second = attacher.attach(()).expect("the place of the dead one is free");
    let lease = answer(&mut worker.substantiate(&Build::new("b"))).unwrap();
    assert_eq!(lease.epoch().get(), 1);
    assert!(lease.end().is_none());
    drop((lease, second));
    world.finish(&[&script]);
}
