//! B4, B6: what happens when tickets, inboxes and leases are dropped, also by the hundred thousand and with a small
//! stack.

mod support;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use latent_worker::testing::{PATIENCE, ScriptedWorker};
use latent_worker::{
    Agent, Build, BuildError, BuildResult, DriverCall, EventKind, Inbox, Lease, LeaseEnd, Master, ShutdownMode,
    SubstantiateError, Ticket, WorkerConfig, WorkerState,
};

use support::{World, answer, eventually, reaches};

/// Enough for a stack overflow if each one took a stack frame.
const MANY: usize = 100_000;
const SMALL_STACK: usize = 256 << 10;

/// Runs `test` on a thread with a small stack.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(SMALL_STACK).spawn(test).expect("the system has a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A master with one worker, which is busy with the lease that comes first.
fn busy_master() -> (Master, latent_worker::testing::Script, Lease) {
    let master = Master::new();
    let (driver, script) = ScriptedWorker::automatic();
    master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    let ticket = master.submit(Build::new("first"));
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").expect("the build has its turn");
    (master, script, lease)
}

fn results(world: &World) -> Vec<BuildResult> {
    let result = |event: latent_worker::Event| match event.kind {
        EventKind::BuildFinished { result } => Some(result),
        _ => None,
    };
    world.events().into_iter().filter_map(result).collect()
}

#[test]
fn b4_dropping_an_inbox_cancels_a_hundred_thousand_waiting_builds() {
    on_a_small_stack(|| {
        let (master, script, lease) = busy_master();
        let inbox = Inbox::new();
        let builds: Vec<_> = (0..MANY).map(|_| master.submit_to(Build::new("b"), &inbox)).collect();
        drop(inbox);
        assert!(builds.iter().all(|build| master.build_status(*build).is_none()), "all have ended");
        drop(lease);
        assert_eq!(script.count(DriverCall::Start), 1, "no instance was started for the dropped inbox");
        assert!(master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
    });
}

#[test]
fn b4_a_hundred_thousand_leases_in_a_row_are_given_back_on_a_small_stack() {
    on_a_small_stack(|| {
        let (master, _script, lease) = busy_master();
        let inbox = Inbox::new();
        (0..MANY).for_each(|_| _ = master.submit_to(Build::new("b"), &inbox));
        drop(lease);
        for _ in 0..MANY {
            let (_, answer) = inbox.wait_timeout(PATIENCE).expect("each has its turn");
            drop(answer.expect("it is a lease"));
        }
        assert!(master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
    });
}

#[test]
fn b4_a_hundred_thousand_tickets_are_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        let (master, script, lease) = busy_master();
        let tickets: Vec<Ticket> = (0..MANY).map(|_| master.submit(Build::new("b"))).collect();
        drop(tickets);
        drop(lease);
        assert_eq!(script.count(DriverCall::Start), 1);
        assert!(master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
    });
}

#[test]
fn s1_a_shutdown_answers_a_hundred_thousand_builds_on_a_small_stack() {
    on_a_small_stack(|| {
        let (master, _script, lease) = busy_master();
        let inbox = Inbox::new();
        (0..MANY).for_each(|_| _ = master.submit_to(Build::new("b"), &inbox));
        drop(lease);
        assert!(master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
        let ended = inbox.receiver().try_iter().filter(|(_, answer)| answer.is_err()).count();
        assert!(ended >= MANY - 1, "{ended}");
        drop(master);
    });
}

#[test]
fn s3_a_master_is_dropped_before_its_inbox() {
    on_a_small_stack(|| {
        let (master, _script, lease) = busy_master();
        let inbox = Inbox::new();
        (0..MANY).for_each(|_| _ = master.submit_to(Build::new("b"), &inbox));
        drop(lease);
        drop(master);
        drop(inbox);
    });
}

#[test]
fn b4_an_inbox_that_is_dropped_cancels_starts_and_gives_back_what_is_in_it() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let inbox = Inbox::new();
    let in_it = world.master.submit_to(Build::new("in the inbox"), &inbox);
    let queued = world.master.submit_to(Build::new("queued"), &inbox);
    script.expect_start().succeed_attached();
    support::eventually(false, || inbox.receiver().is_empty());
    assert_eq!(worker.status().leases, 1);
    drop(inbox);
    assert_eq!(worker.status().leases, 0);
    for build in [in_it, queued] {
        assert_eq!(world.master.build_status(build), None);
    }
    assert_eq!(results(&world), [BuildResult::Cancelled, BuildResult::Cancelled]);

    let (_, other) = world.add(WorkerConfig::new("other").with_label("other"));
    let inbox = Inbox::new();
    world.master.submit_to(Build::new("starting").with_label("other"), &inbox);
    let start = other.expect_start();
    drop(inbox);
    start.wait_cancelled();
    start.fail("cancelled");
    other.expect_stop().succeed();
    world.finish(&[&script, &other]);
}

#[test]
fn b4_a_lease_taken_out_of_a_dropped_inbox_goes_on_and_ends_its_build_when_it_is_retried() {
    for retried in [false, true] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let inbox = Inbox::new();
        let build = world.master.submit_to(Build::new("b"), &inbox);
        script.expect_start().succeed_attached();
        let (_, lease) = inbox.wait_timeout(PATIENCE).expect("an answer");
        let lease = lease.expect("a lease");
        drop(inbox);
        assert_eq!((lease.end(), worker.status().leases), (None, 1));
        if retried {
            lease.retry("once more");
        } else {
            lease.finish(BuildResult::Succeeded);
        }
        let expected = if retried { BuildResult::Cancelled } else { BuildResult::Succeeded };
        assert_eq!((results(&world), world.master.build_status(build)), (vec![expected], None));
        world.finish(&[&script]);
    }
}

#[test]
fn b4_an_untaken_lease_of_a_dropped_ticket_ends_its_build_as_cancelled() {
    let world = World::new();
    let (_, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    script.expect_start().succeed_attached();
    support::eventually(false, || ticket.receiver().is_empty());
    drop(ticket);
    assert_eq!(results(&world), [BuildResult::Cancelled]);
    world.finish(&[&script]);
}

#[test]
fn b4_one_inbox_serves_two_masters() {
    let masters = [Master::new(), Master::new()];
    let inbox = Inbox::new();
    let held: Vec<_> = masters
        .iter()
        .map(|master| {
            let (driver, _script) = ScriptedWorker::new();
            let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
            worker.pause();
            master.submit_to(Build::new("b"), &inbox)
        })
        .collect();
    drop(inbox);
    for (master, build) in masters.iter().zip(held) {
        assert_eq!(master.build_status(build), None);
    }
}

/// Submits a build, and waits for its answer, when it is dropped.
struct Submits {
    master: Mutex<Option<Master>>,
    answered: crossbeam_channel::Sender<BuildError>,
}

impl Agent for Submits {}

impl Drop for Submits {
    fn drop(&mut self) {
        let master = self.master.get_mut().unwrap().take().expect("it is dropped once");
        let answer = master
            .submit(Build::new("nobody fits").with_label("unheard of"))
            .wait_timeout(PATIENCE)
            .expect("an answer in time");
        self.answered.send(answer.expect_err("no worker fits")).unwrap();
    }
}

#[test]
fn w14_an_agent_may_wait_for_a_build_while_it_is_dropped() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (answered, answer) = crossbeam_channel::bounded(1);
    let ticket = world.master.submit(Build::new("b"));
    let start = script.expect_start();
    let agent = Submits { master: Mutex::new(Some(world.master.clone())), answered };
    let attachment = start.attacher().attach(agent).expect("it is let in");
    start.succeed();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").expect("a lease");
    let lease = Arc::new(lease);
    worker.insubstantiate(true);
    script.expect_stop().succeed();
    drop(attachment);
    drop(lease); // the last one that holds the agent
    assert!(matches!(answer.recv_timeout(PATIENCE), Ok(BuildError::NoWorkerFits { .. })));
    world.finish(&[&script]);
}

#[test]
fn b6_a_cancel_gives_back_the_place_of_a_lease_that_nobody_has_taken() {
    let world = World::new();
    let lease_of = |ticket: &Ticket| ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    let (worker, script) = world.worker("w");
    let (inbox, untaken, waited_for) = (Inbox::new(), Build::new("untaken"), Build::new("waited for in vain"));
    let ticket = world.master.submit(untaken.clone());
    script.expect_start().succeed_attached();
    eventually(1, || worker.status().leases);
    ticket.cancel();
    assert_eq!(worker.status().leases, 0, "of a ticket that nobody has waited for");

    let busy = lease_of(&world.master.submit(Build::new("busy")));
    let channel = world.master.submit(waited_for);
    assert!(channel.wait_timeout(Duration::ZERO).is_none());
    drop(busy);
    assert_eq!(worker.status().leases, 1);
    channel.cancel();
    assert_eq!(worker.status().leases, 0, "of a ticket that somebody has waited for");

    let of_inbox = world.master.submit_to(untaken, &inbox);
    assert_eq!(worker.status().leases, 1);
    world.master.cancel(of_inbox).unwrap();
    assert_eq!(worker.status().leases, 0, "of an inbox");

    let next = lease_of(&world.master.submit(Build::new("next")));
    for ended in [lease_of(&ticket), lease_of(&channel), inbox.wait_timeout(PATIENCE).unwrap().1.unwrap()] {
        assert_eq!(ended.end(), Some(LeaseEnd::Cancelled));
    }
    assert!(matches!(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap_err(), BuildError::Cancelled));
    assert_eq!((worker.status().leases, next.end()), (1, None), "the place of the next build was not given back");
    drop(next);
    world.finish(&[&script]);
}

#[test]
fn w12_a_lease_that_nobody_took_is_no_finished_build() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut failing = worker.substantiate(&Build::new("fails"));
    script.expect_start().fail("no network");
    assert!(answer(&mut failing).is_err());
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    world.advance(10);
    let ticket = world.master.submit(Build::new("untaken"));
    script.expect_start().succeed_attached();
    eventually(1, || worker.status().leases);
    drop(ticket);
    eventually(0, || worker.status().leases);
    worker.insubstantiate(false);
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    let mut failing = worker.substantiate(&Build::new("fails"));
    script.expect_start().fail("no network");
    assert!(answer(&mut failing).is_err());
    assert_eq!(world.quarantines(), [10, 20]);
    world.finish(&[&script]);
}

#[test]
fn b10_a_lease_that_was_cancelled_retires_nothing() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let ticket = world.master.submit(Build::new("b"));
    script.expect_start().succeed_attached();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    ticket.cancel();
    assert_eq!(lease.end(), Some(LeaseEnd::Cancelled));
    lease.retire("too late");
    assert_eq!(worker.status().state, WorkerState::Substantiated);
    world.finish(&[&script]);
}

#[test]
fn w3_requests_and_stops_can_be_waited_for_through_their_channels() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let mut request = worker.substantiate(&Build::new("b"));
    assert!(request.try_wait().is_none());
    script.expect_start().succeed_attached();
    let lease = request.receiver().recv_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert!(matches!(request.wait(), Err(SubstantiateError::Answered)));
    // One that is answered at once has a channel as well.
    let mut full = worker.substantiate(&Build::new("b"));
    assert!(matches!(full.receiver().try_recv(), Ok(Err(SubstantiateError::Full))));
    drop(lease);
    let stop = worker.insubstantiate(false);
    script.expect_stop().succeed();
    stop.wait();
    assert!(stop.try_wait() && stop.receiver().recv().is_err());
    world.finish(&[&script]);
}
