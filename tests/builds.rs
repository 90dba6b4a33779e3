//! B1 to B6: builds, and the workers that get them.

mod support;

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use latent_worker::testing::{PATIENCE, Script, ScriptedWorker};
use latent_worker::{
    Build, BuildError, BuildResult, BuildState, DriverCall, EventKind, Inbox, Lease, LeaseEnd, NextChance, RunError,
    ShutdownMode, Ticket, Worker, WorkerConfig, WorkerState,
};

use support::{SECOND, World, bounded, eventually, reaches};

fn lease_of(ticket: &Ticket) -> Lease {
    ticket.wait_timeout(PATIENCE).expect("an answer in time").expect("the build has its turn")
}

fn error_of(ticket: &Ticket) -> BuildError {
    ticket.wait_timeout(PATIENCE).expect("an answer in time").expect_err("the build cannot run")
}

fn attempts(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn automatic(world: &World, config: WorkerConfig) -> (Worker, Script) {
    let (driver, script) = ScriptedWorker::automatic();
    (world.master.add_worker(config, driver).unwrap(), script)
}

#[test]
fn b1_starts_for_different_builds_run_in_parallel() {
    let world = World::new();
    let workers: Vec<_> = ["a", "b", "c"].map(|name| world.worker(name)).into();
    let tickets: Vec<_> = (0..3).map(|_| world.master.submit(Build::new("b"))).collect();
    let starts: Vec<_> = workers.iter().map(|(_, script)| script.expect_start()).collect(); // none is answered yet
    for start in starts.into_iter().rev() {
        start.succeed_attached();
    }
    let leases: Vec<_> = tickets.iter().map(lease_of).collect();
    let on: BTreeSet<&str> = leases.iter().map(|lease| &**lease.worker()).collect();
    assert_eq!(on, BTreeSet::from(["a", "b", "c"]));
    drop(leases);
    world.finish(&workers.iter().map(|(_, script)| script).collect::<Vec<_>>());
}

#[test]
fn b1_a_build_goes_to_a_worker_that_offers_every_label() {
    let world = World::new();
    let (_, plain) = world.worker("plain");
    let (_, linux) = world.add(WorkerConfig::new("linux").with_label("linux"));
    let (_, gpu) = world.add(WorkerConfig::new("gpu").with_label("linux").with_label("gpu"));
    let ticket = world.master.submit(Build::new("b").with_label("gpu").with_label("linux"));
    gpu.expect_start().succeed_attached();
    assert_eq!(&**lease_of(&ticket).worker(), "gpu");
    assert_eq!((plain.calls().len(), linux.calls().len()), (0, 0));
    world.finish(&[&plain, &linux, &gpu]);
}

#[test]
fn b1_paused_quarantined_and_full_workers_are_passed_over() {
    let world = World::new();
    let (paused, paused_script) = world.worker("paused");
    let (quarantined, quarantined_script) = world.worker("quarantined");
    let (full, full_script) = world.worker("full");
    paused.pause();
    let mut failing = quarantined.substantiate(&Build::new("fails"));
    quarantined_script.expect_start().fail("no network");
    assert!(support::answer(&mut failing).is_err());
    quarantined_script.expect_stop().succeed();
    reaches(&quarantined, WorkerState::NotSubstantiated);
    let busy = world.lease(&full, &full_script);

    let ticket = world.master.submit(Build::new("b"));
    let status = world.master.build_status(ticket.id()).unwrap();
    assert_eq!(
        status.state.to_string(),
        "waiting: a place has to become free; full is busy, quarantined is in quarantine, paused is paused"
    );
    let (_, spare) = world.worker("spare");
    spare.expect_start().succeed_attached();
    let on_spare = lease_of(&ticket);
    assert_eq!(&**on_spare.worker(), "spare");

    let ticket = world.master.submit(Build::new("b"));
    paused.unpause();
    paused_script.expect_start().succeed_attached();
    assert_eq!(&**lease_of(&ticket).worker(), "paused");
    drop((busy, on_spare));
    world.finish(&[&paused_script, &quarantined_script, &full_script, &spare]);
}

#[test]
fn b1_an_attached_idle_worker_is_preferred_to_a_start() {
    let world = World::new();
    let (_, first) = world.worker("first");
    let (second, second_script) = world.worker("second");
    drop(world.lease(&second, &second_script));
    let lease = lease_of(&world.master.submit(Build::new("b")));
    assert_eq!(&**lease.worker(), "second");
    assert_eq!(first.calls(), []);
    drop(lease);
    world.finish(&[&first, &second_script]);
}

#[test]
fn b2_a_failed_attempt_goes_elsewhere() {
    let world = World::new();
    let (_, first) = world.worker("first");
    let (_, second) = world.worker("second");
    let ticket = world.master.submit(Build::new("b"));
    first.expect_start().fail("no network");
    world.pass_pause(1);
    second.expect_start().succeed_attached();
    let lease = lease_of(&ticket);
    assert_eq!(&**lease.worker(), "second");
    let [attempt] = lease.history() else { panic!("one attempt failed: {:?}", lease.history()) };
    assert_eq!(attempt.to_string(), "first (attempt 1): failed to substantiate: no network");
    drop(lease);
    world.finish(&[&first, &second]);
}

#[test]
fn b2_every_way_to_fail_puts_the_build_back_and_counts() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b").with_max_attempts(attempts(5)));
    let next = |attempt| {
        script.expect_stop().succeed();
        reaches(&worker, WorkerState::NotSubstantiated);
        worker.unpause();
        world.pass_pause(attempt);
    };
    script.expect_start().fail("no network");
    next(1);
    script.expect_start().panic();
    next(2);
    script.expect_start().succeed(); // no agent ever attaches
    world.await_event("start_returned");
    world.await_event("start_returned");
    world.await_event("start_returned");
    script.automate(DriverCall::Check);
    world.advance(3600);
    script.by_hand(DriverCall::Check);
    next(3);
    script.expect_start().succeed();
    world.await_event("start_returned");
    world.advance(10);
    script.expect_check().bad("exited");
    next(4);
    let start = script.expect_start();
    let connection = start.attach();
    start.succeed();
    let lease = lease_of(&ticket);
    assert_eq!(lease.history().len(), 4);
    connection.lost("severed");
    let Some(end @ LeaseEnd::Lost(_)) = lease.wait_end(PATIENCE) else { panic!("it was lost") };
    lease.retry(&end.to_string());

    let BuildError::AttemptsExhausted { history, .. } = error_of(&ticket) else { panic!("five of five failed") };
    let reasons: Vec<_> = history.iter().map(ToString::to_string).collect();
    assert_eq!(
        reasons,
        [
            "w (attempt 1): failed to substantiate: no network",
            "w (attempt 2): failed to substantiate: start_instance panicked: scripted panic",
            "w (attempt 3): no agent attached within 3600s",
            "w (attempt 4): failed to substantiate: the instance went bad before its agent attached: exited",
            "w (attempt 5): the connection to the agent was lost: severed",
        ]
    );
    assert_eq!(
        ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap_err(),
        BuildError::Ended,
        "that was the last answer"
    );
    world.finish(&[&script]);
}

#[test]
fn b2_master_run_tries_again_elsewhere_when_the_connection_is_lost() {
    let world = World::new();
    let (first, first_script) = world.worker("first");
    let (_, second_script) = world.worker("second");
    let (lease, connection) = world.lease_and_connection(&first, &first_script);
    drop(lease);
    second_script.automate_all();
    let master = world.master.clone();
    let mut connection = Some(connection);
    let running = std::thread::spawn(move || {
        master.run(Build::new("b"), |lease| {
            if let Some(connection) = connection.take() {
                connection.lost("severed");
                return Err("it broke off".to_owned());
            }
            Ok(lease.worker().to_string())
        })
    });
    world.pass_pause(1);
    let ran_on = bounded("Master::run", move || running.join().unwrap());
    assert_eq!(ran_on.unwrap(), "second");
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&first_script, &second_script]);
}

#[test]
fn b2_a_build_that_comes_back_keeps_its_place() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let first = world.master.submit(Build::new("first"));
    let second = world.master.submit(Build::new("second"));
    let start = script.expect_start();
    start.fail("no network");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    worker.unpause();
    // Others go first while it pauses.
    let start = script.expect_start();
    assert_eq!(start.build().unwrap().name().as_ref(), "second");
    world.pass_pause(1);
    start.succeed_attached();
    drop(lease_of(&first));
    drop(lease_of(&second));
    world.finish(&[&script]);
}

#[test]
fn b2_a_stop_on_request_puts_the_build_back_and_does_not_count() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b").with_max_attempts(attempts(1)));
    let start = script.expect_start();
    worker.insubstantiate(false); // a stop request with retry
    start.wait_cancelled();
    assert!(ticket.try_wait().is_none());
    start.fail("cancelled");
    script.expect_stop().succeed();
    script.expect_start().succeed_attached();
    let lease = lease_of(&ticket);
    assert_eq!((lease.epoch().get(), lease.history().len()), (2, 0));
    drop(lease);
    world.finish(&[&script]);
}

#[test]
fn b3_an_impossible_build_ends_with_its_error() {
    let world = World::new();
    let (first, first_script) = world.worker("first");
    let (_, second_script) = world.worker("second");
    let ticket = world.master.submit(Build::new("b"));
    first_script.expect_start().cannot("no such image");
    let error = BuildError::Cannot { reason: "no such image".into(), history: Vec::new() };
    assert_eq!(error_of(&ticket), error);
    assert_eq!(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap_err(), BuildError::Ended);
    first_script.expect_stop().succeed();
    reaches(&first, WorkerState::NotSubstantiated);
    assert_eq!(first.status().quarantine, None);
    assert_eq!((first_script.calls().len(), second_script.calls().len()), (2, 0), "no retry anywhere");
    assert_eq!(world.master.build_status(ticket.id()), None);
    world.finish(&[&first_script, &second_script]);
}

#[test]
fn b3_the_attempts_before_are_in_the_answer() {
    let world = World::new();
    let (_, first) = world.worker("first");
    let (_, second) = world.worker("second");
    let ticket = world.master.submit(Build::new("b"));
    first.expect_start().fail("no network");
    world.pass_pause(1);
    second.expect_start().cannot("no such image");
    let BuildError::Cannot { history, .. } = error_of(&ticket) else { panic!("it cannot be") };
    assert_eq!(history.len(), 1);
    assert_eq!(&*history[0].worker, "first");
    world.finish(&[&first, &second]);
}

/// Cancelled, once, and everybody agrees that it has ended.
fn ends_as_cancelled(world: &World, ticket: &Ticket) {
    let answer = ticket.try_wait().expect("answered at once");
    assert_eq!(answer.unwrap_err(), BuildError::Cancelled);
    assert_eq!(ticket.try_wait().expect("nothing follows").unwrap_err(), BuildError::Ended);
    ticket.cancel();
    assert!(world.master.cancel(ticket.id()).is_err(), "it has ended");
    assert_eq!(world.master.build_status(ticket.id()), None);
    let finished = |event: &latent_worker::Event| {
        event.build == Some(ticket.id()) && matches!(event.kind, EventKind::BuildFinished { .. })
    };
    let ends: Vec<_> = world.events().into_iter().filter(finished).map(|event| event.kind).collect();
    assert_eq!(ends, [EventKind::BuildFinished { result: BuildResult::Cancelled }]);
}

#[test]
fn b4_cancelled_while_queued() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let running = world.lease(&worker, &script);
    let ticket = world.master.submit(Build::new("queued"));
    assert!(matches!(world.master.build_status(ticket.id()).unwrap().state, BuildState::Waiting(_)));
    world.master.cancel(ticket.id()).unwrap();
    ends_as_cancelled(&world, &ticket);
    assert!(running.end().is_none());
    drop(running);
    world.finish(&[&script]);
}

#[test]
fn b4_cancelled_while_its_worker_starts() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("starting"));
    let start = script.expect_start();
    let state = world.master.build_status(ticket.id()).unwrap().state;
    let BuildState::Waiting(waiting) = state else { panic!("it waits: {state}") };
    assert!(matches!(&waiting.next, NextChance::Attach { worker, .. } if &**worker == "w"), "{waiting}");
    ticket.cancel();
    ends_as_cancelled(&world, &ticket);
    start.wait_cancelled();
    start.succeed();
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert_eq!(world.quarantines(), [0; 0]);
    world.finish(&[&script]);
}

#[test]
fn b4_cancelled_while_running_the_lease_ends() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("running"));
    script.expect_start().succeed_attached();
    let lease = lease_of(&ticket);
    let (work, over) = crossbeam_channel::bounded(0);
    drop(work);
    assert_eq!(lease.wait_end_unless(&over, Duration::MAX), None, "who works on it is done");
    ticket.cancel();
    ends_as_cancelled(&world, &ticket);
    assert_eq!(lease.end(), Some(LeaseEnd::Cancelled));
    assert_eq!(lease.wait_end(Duration::ZERO), Some(LeaseEnd::Cancelled));
    assert_eq!(worker.status().leases, 1, "the place is taken until the lease is given back");
    lease.finish(BuildResult::Succeeded); // too late, and no second end
    ends_once(&world, ticket.id());
    assert_eq!(worker.status().leases, 0);
    assert_eq!(worker.status().state, WorkerState::Substantiated, "the instance is none the worse for it");
    world.finish(&[&script]);
}

fn ends_once(world: &World, build: latent_worker::BuildId) {
    let of_build = |event: &&latent_worker::Event| event.build == Some(build) && event.kind.name() == "build_finished";
    assert_eq!(world.events().iter().filter(of_build).count(), 1);
}

#[test]
fn b4_a_cancel_wins_against_a_retry() {
    let world = World::new();
    let (_worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("running"));
    script.expect_start().succeed_attached();
    let lease = lease_of(&ticket);
    ticket.cancel();
    lease.retry("it did not work");
    ends_as_cancelled(&world, &ticket);
    world.finish(&[&script]);
}

#[test]
fn b4_a_ticket_that_is_dropped_cancels_unless_its_lease_was_taken() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("starting"));
    let start = script.expect_start();
    drop(ticket);
    start.wait_cancelled();
    start.fail("cancelled");
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);

    let ticket = world.master.submit(Build::new("taken"));
    script.expect_start().succeed_attached();
    let lease = lease_of(&ticket);
    drop(ticket);
    assert_eq!(lease.end(), None);
    drop(lease);

    let ticket = world.master.submit(Build::new("not taken"));
    eventually(true, || !ticket.receiver().is_empty());
    assert_eq!(worker.status().leases, 1);
    drop(ticket);
    assert_eq!(worker.status().leases, 0);
    assert_eq!(worker.status().state, WorkerState::Substantiated);
    world.finish(&[&script]);
}

#[test]
fn b4_an_inbox_that_is_dropped_cancels_what_waits_and_a_lease_that_was_taken_goes_on() {
    let world = World::new();
    let (running_on, running_script) = world.worker("running");
    let (lying_on, lying_script) = world.worker("lying");
    let (_, starting_script) = world.worker("starting");
    let inbox = Inbox::new();
    let submit = |name: &str| world.master.submit_to(Build::new(name.to_owned()), &inbox);
    let running = submit("running");
    running_script.expect_start().succeed_attached();
    let (_, lease) = inbox.wait_timeout(PATIENCE).unwrap();
    let lying = submit("lying");
    lying_script.expect_start().succeed_attached();
    eventually(1, || inbox.receiver().len());
    let starting = submit("starting");
    let start = starting_script.expect_start();
    let queued = submit("queued");
    drop(inbox);
    start.wait_cancelled();
    start.fail("cancelled");
    for build in [lying, starting, queued] {
        assert_eq!(world.master.build_status(build), None);
        ends_once(&world, build);
    }
    assert_eq!((running_on.status().leases, lying_on.status().leases), (1, 0));
    let lease = lease.unwrap();
    assert_eq!((lease.build_id(), lease.end()), (Some(running), None));
    lease.retry("nobody wants another one");
    ends_once(&world, running);
    world.finish(&[&running_script, &lying_script, &starting_script]);
}

#[test]
fn b5_priority_then_age() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let busy = world.lease(&worker, &script);
    let inbox = Inbox::new();
    for (name, priority) in [("old", 0), ("low", -1), ("young", 0), ("urgent", 7), ("urgent too", 7)] {
        world.master.submit_to(Build::new(name).with_priority(priority), &inbox);
    }
    drop(busy);
    for expected in ["urgent", "urgent too", "old", "young", "low"] {
        let (id, lease) = inbox.wait_timeout(PATIENCE).expect("the next one");
        let lease = lease.unwrap();
        assert_eq!(&**lease.build().name(), expected);
        assert_eq!(lease.build_id(), Some(id));
        lease.finish(BuildResult::Succeeded);
    }
    world.finish(&[&script]);
}

#[test]
fn b5_a_build_that_nobody_can_ever_take_is_answered_with_the_reason() {
    let world = World::new();
    let nobody = error_of(&world.master.submit(Build::new("b")));
    assert!(matches!(nobody, BuildError::NoWorkerFits { .. }), "{nobody}");
    let (_, first) = world.add(WorkerConfig::new("first").with_label("linux"));
    let (_, second) = world.add(WorkerConfig::new("second").with_label("gpu"));
    let missing = error_of(&world.master.submit(Build::new("b").with_label("linux").with_label("solaris")));
    assert!(missing.to_string().contains("solaris"), "{missing}");
    let together = error_of(&world.master.submit(Build::new("b").with_label("linux").with_label("gpu")));
    assert!(matches!(together, BuildError::NoWorkerFits { .. }), "{together}");
    assert_eq!((first.calls(), second.calls()), (vec![], vec![]));
    world.finish(&[&first, &second]);
}

#[test]
fn b5_a_paused_worker_may_take_it_later_so_that_it_waits() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    worker.pause();
    let ticket = world.master.submit(Build::new("b"));
    assert!(ticket.try_wait().is_none());
    worker.unpause();
    script.expect_start().succeed_attached();
    drop(lease_of(&ticket));
    world.finish(&[&script]);
}

#[test]
fn b6_two_builds_share_one_instance_and_the_third_waits() {
    let world = World::new();
    let config = WorkerConfig::new("w").with_max_builds(NonZeroUsize::new(2).unwrap());
    let (worker, script) = world.add(config);
    let tickets: Vec<_> = (0..4).map(|_| world.master.submit(Build::new("b"))).collect();
    script.expect_start().succeed_attached();
    let (first, second) = (lease_of(&tickets[0]), lease_of(&tickets[1]));
    assert_eq!((first.epoch(), worker.status().leases), (second.epoch(), 2));
    assert!(tickets[2].try_wait().is_none());
    drop(first);
    let third = lease_of(&tickets[2]);
    assert_eq!(worker.status().leases, 2);
    assert!(tickets[3].try_wait().is_none());
    drop((second, third));
    drop(lease_of(&tickets[3]));
    assert_eq!(script.count(DriverCall::Start), 1);
    world.finish(&[&script]);
}

#[test]
fn b6_a_lease_given_up_in_any_way_gives_its_place_back() {
    let world = World::new();
    let (worker, script) = automatic(&world, WorkerConfig::new("w"));
    let ways: [fn(Lease); 5] = [
        drop,
        |lease| lease.finish(BuildResult::Succeeded),
        |lease| lease.finish(BuildResult::Failed("exit code 1".into())),
        |lease| lease.retry("again"),
        |lease| {
            let panicked = std::thread::spawn(move || {
                let _lease = lease;
                panic!("the work panics");
            });
            assert!(panicked.join().is_err());
        },
    ];
    for give_up in ways {
        let ticket = world.master.submit(Build::new("b"));
        let lease = lease_of(&ticket);
        assert_eq!(worker.status().leases, 1);
        give_up(lease);
        drop(ticket); // also the answer after a retry
        assert_eq!(worker.status().leases, 0);
    }
    assert_eq!(script.count(DriverCall::Start), 1);
    let master = world.master.clone();
    let panicked = bounded("the work that panics", move || {
        std::thread::spawn(move || master.run(Build::new("b"), |_| -> Result<(), String> { panic!("the work") })).join()
    });
    assert!(panicked.is_err(), "the panic is the caller's own");
    assert_eq!(worker.status().leases, 0);
    world.finish(&[&script]);
}

#[test]
fn b6_many_builds_from_many_threads_never_exceed_the_places() {
    let world = World::new();
    let workers: Vec<_> = (0..3)
        .map(|number| {
            let config = WorkerConfig::new(format!("w{number}")).with_max_builds(NonZeroUsize::new(2).unwrap());
            automatic(&world, config.with_idle(latent_worker::IdlePolicy::AfterBuild))
        })
        .collect();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let master = world.master.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let most = |lease: &Lease| master.worker(lease.worker()).unwrap().status().leases;
                    let leases = master.run(Build::new("b"), |lease| Ok::<_, String>(most(lease))).unwrap();
                    assert!((1..=2).contains(&leases), "{leases} at once");
                }
            })
        })
        .collect();
    bounded("all builds", move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
    let mut leases = [0_i32; 3];
    for event in world.events() {
        let change = match event.kind {
            EventKind::BuildStarted => 1,
            EventKind::Released { .. } => -1,
            _ => continue,
        };
        let number: usize = event.worker.unwrap()[1..].parse().unwrap();
        leases[number] += change;
        assert!((0..=2).contains(&leases[number]));
    }
    world.finish(&workers.iter().map(|(_, script)| script).collect::<Vec<_>>());
}

#[test]
fn b6_the_error_of_the_work_is_handed_on_and_the_place_is_free() {
    let world = World::new();
    let (worker, script) = automatic(&world, WorkerConfig::new("w"));
    let result = world.master.run(Build::new("b"), |_| Err::<(), _>("exit code 1"));
    assert!(matches!(result, Err(RunError::Work("exit code 1"))));
    assert_eq!(worker.status().leases, 0);
    let finished = world.await_event("build_finished");
    assert_eq!(finished.kind, EventKind::BuildFinished { result: BuildResult::Failed("exit code 1".into()) });
    world.advance(600);
    assert!(world.shut_down(ShutdownMode::Graceful).complete);
    assert_eq!(script.count(DriverCall::Stop), 1);
    world.clock.advance(SECOND);
    world.finish(&[&script]);
}
