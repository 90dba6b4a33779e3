//! The testing kit itself: waits, quiet, calls that are not expected, scripted agents, and the messages of failures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use latent_worker::testing::{EventChecker, ManualClock, Rule, Script, ScriptedAgent, ScriptedWorker, Watch};
use latent_worker::{
    Build, BuildResult, Clock, Command, CommandError, DriverCall, Exit, Health, IdlePolicy, LatentWorker, Master,
    PlacementConfig, StartError, StartRequest, Started, StopError, StopRequest, Worker, WorkerConfig, WorkerState,
};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    clock: ManualClock,
    master: Master,
    watch: Watch,
}

fn bench() -> Bench {
    bench_with(PlacementConfig::new())
}

fn bench_with(placement: PlacementConfig) -> Bench {
    let clock = ManualClock::new();
    let master = Master::builder().clock(clock.clone()).placement(placement).build();
    let watch = Watch::with_patience(&master, Duration::from_secs(60));
    Bench { clock, master, watch }
}

impl Bench {
    fn worker(&self, name: &str) -> (Worker, Script) {
        let config = WorkerConfig::new(name).with_idle(IdlePolicy::After(60 * SECOND));
        self.watch.add_scripted(config)
    }
}

/// The message of a panic in `work`, which must panic.
fn failure(work: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("it fails");
    *panic.downcast::<String>().expect("a message")
}

#[test]
fn a_watch_waits_for_events_and_states() {
    let bench = bench();
    let (worker, script) = bench.worker("w");
    let ticket = bench.master.submit(Build::new("b"));
    let start = script.expect_start();
    assert_eq!(bench.watch.wait_event("start_called").worker.as_deref(), Some("w"));
    bench.watch.wait_state(&worker, WorkerState::SubstantiatingStarting);
    start.succeed_attached();
    bench.watch.wait_state(&worker, WorkerState::Substantiated);
    bench.watch.wait_event_of("build_started", &worker);
    let lease = ticket.wait().unwrap();
    assert_eq!(bench.watch.wait_status(&worker, "one lease", |status| status.leases == 1).leases, 1);
    lease.finish(BuildResult::Succeeded);
    bench.watch.wait_event_where("an end", |event| event.build.is_some() && event.kind.name() == "build_finished");
    bench.clock.advance(60 * SECOND);
    script.expect_stop().succeed();
    bench.watch.wait_state(&worker, WorkerState::NotSubstantiated);
    let summary = bench.watch.shut_down_and_check(&EventChecker::new());
    assert_eq!((summary.builds, summary.total_starts()), (1, 1));
}

#[test]
fn waits_that_fail_show_the_workers_and_the_last_events() {
    let bench = bench();
    let (worker, script) = bench.worker("the-worker");
    let watch = Watch::with_patience(&bench.master, Duration::from_millis(50));
    let _ticket = bench.master.submit(Build::new("b"));
    let start = script.expect_start();
    let shows = |message: &str, what: &str| {
        for part in [what, "workers:\n  the-worker: st", "in start_instance", "start called"] {
            assert!(message.contains(part), "{part:?} is missing in {message}");
        }
    };
    shows(&failure(|| drop(watch.wait_event("attached"))), "there was no event attached within 50ms");
    let state = || drop(watch.wait_state(&worker, WorkerState::Substantiated));
    shows(&failure(state), "worker the-worker did not reach the state \"substantiated\"");
    shows(&failure(|| drop(watch.shut_down_and_check(&EventChecker::new()))), "the shutdown did not complete");
    start.fail("over");
    script.automate_all();
}

#[test]
fn a_call_that_is_missing_is_reported_with_the_workers() {
    let master = Master::new();
    let watch = Watch::with_patience(&master, Duration::from_millis(50));
    let (_worker, script) = watch.add_scripted(WorkerConfig::new("the-worker"));
    let message = failure(|| drop(script.expect_stop()));
    for part in ["stop_instance was not called within 50ms", "the-worker: not substantiated"] {
        assert!(message.contains(part), "{part:?} is missing in {message}");
    }
}

#[test]
fn a_call_that_is_not_expected_is_found_however_late_it_comes() {
    for _ in 0..200 {
        let bench = bench();
        let (_worker, script) = bench.worker("w");
        let _ticket = bench.master.submit(Build::new("b"));
        // The start is made on another thread, and perhaps not yet.
        let message = failure(|| script.expect_no_call(DriverCall::Start, &bench.watch));
        assert!(message.contains("start_instance was called unexpectedly, calls: 1"), "{message}");
        script.expect_start().fail("over");
        // The failed start is followed by a stop.
        let message = failure(|| script.expect_no_call(DriverCall::Stop, &bench.watch));
        assert!(message.contains("stop_instance was called unexpectedly"), "{message}");
        script.automate_all();
    }
}

#[test]
fn a_call_that_follows_the_end_of_another_worker_is_found() {
    for _ in 0..200 {
        // The build pauses for no time, so that its next start follows on the same thread.
        let bench = bench_with(PlacementConfig::new().with_retry_pause(Duration::ZERO, Duration::ZERO));
        let (first, first_script) = bench.worker("first");
        let (second, second_script) = bench.worker("second");
        second.pause();
        let _ticket = bench.master.submit(Build::new("b"));
        let start = first_script.expect_start();
        second.unpause();
        second_script.expect_no_call(DriverCall::Start, &bench.watch);
        first.pause();
        // The build goes to the other worker, on the thread of the first one.
        start.fail("no luck");
        failure(|| second_script.expect_no_call(DriverCall::Start, &bench.watch));
        first_script.automate_all();
        second_script.automate_all();
    }
}

#[test]
fn calls_that_are_held_do_not_keep_a_master_from_being_quiet() {
    let bench = bench();
    let (worker, script) = bench.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    bench.watch.wait_quiet();
    let start = script.expect_start();
    script.expect_no_call(DriverCall::Start, &bench.watch);
    start.hang_until_cancelled();
    script.expect_no_call(DriverCall::Stop, &bench.watch);
    drop(request);
    failure(|| script.expect_no_call(DriverCall::Stop, &bench.watch));
    script.expect_stop().succeed();
    script.expect_no_call(DriverCall::Stop, &bench.watch);
    script.expect_count(DriverCall::Stop, 1, &bench.watch);
    let message = failure(|| script.expect_count(DriverCall::Start, 2, &bench.watch));
    assert!(message.contains("start_instance was called 1 times, expected 2"), "{message}");
}

#[test]
fn calls_that_a_script_answers_by_itself_are_not_expected() {
    let bench = bench();
    let (driver, script) = ScriptedWorker::automatic();
    let (_worker, script) = bench.watch.add_driver(WorkerConfig::new("w"), driver, script);
    script.expect_no_call(DriverCall::Start, &bench.watch);
    drop(bench.master.submit(Build::new("b")).wait().unwrap());
    failure(|| script.expect_no_call(DriverCall::Start, &bench.watch));
    script.expect_count(DriverCall::Start, 1, &bench.watch);
}

#[test]
fn checks_and_questions_are_not_expected_either() {
    let bench = bench();
    let (driver, script) = ScriptedWorker::new();
    let driver = driver.may_be_incompatible(true);
    let (worker, script) = bench.watch.add_driver(WorkerConfig::new("w"), driver, script);
    let request = worker.substantiate(&Build::new("b"));
    script.expect_start().succeed();
    script.expect_no_call(DriverCall::Check, &bench.watch);
    bench.clock.advance(10 * SECOND);
    failure(|| script.expect_no_call(DriverCall::Check, &bench.watch));
    script.expect_no_call(DriverCall::Compatible, &bench.watch);
    script.expect_check().bad("broken");
    script.automate_all();
    assert!(request.wait().is_err());
}

/// A clock that holds the thread of the worker `first` the second time that it asks, once it is armed.
#[derive(Clone)]
struct HoldingClock {
    manual: ManualClock,
    /// How often the thread has asked since the clock was armed.
    asked: Arc<(Mutex<Option<u32>>, Condvar)>,
}

impl HoldingClock {
    fn set(&self, asked: Option<u32>) {
        *self.asked.0.lock().unwrap() = asked;
        self.asked.1.notify_all();
    }

    fn wait_held(&self) {
        let asked = self.asked.0.lock().unwrap();
        drop(self.asked.1.wait_while(asked, |asked| asked.is_some_and(|times| times < 2)).unwrap());
    }
}

impl Clock for HoldingClock {
    fn now(&self) -> Instant {
        if std::thread::current().name() == Some("lw first") {
            let (asked, changed) = &*self.asked;
            let mut asked = asked.lock().unwrap();
            if let Some(times) = &mut *asked {
                *times += 1;
                changed.notify_all();
                drop(changed.wait_while(asked, |asked| asked.is_some_and(|times| times >= 2)).unwrap());
            }
        }
        self.manual.now()
    }

    fn real_time_until(&self, deadline: Instant) -> Option<Duration> {
        self.manual.real_time_until(deadline)
    }

    fn subscribe(&self, on_jump: Box<dyn Fn() + Send + Sync>) {
        self.manual.subscribe(on_jump);
    }
}

/// Between the answer to a question and the start that follows from it, no status shows that anything is under way.
#[test]
fn a_master_is_not_quiet_while_a_thread_carries_out_what_follows_from_a_call() {
    let clock = HoldingClock { manual: ManualClock::new(), asked: Arc::default() };
    let master = Master::builder().clock(clock.clone()).build();
    let watch = Watch::new(&master);
    let (driver, script) = ScriptedWorker::new();
    let driver = driver.may_be_incompatible(true);
    let config = WorkerConfig::new("first").with_max_builds(2.try_into().unwrap());
    let (_first, first) = watch.add_driver(config, driver, script);
    let (worker, second) = watch.add_scripted(WorkerConfig::new("second"));
    worker.pause();
    let lease = master.submit(Build::new("one").with_property("kind", "a"));
    first.expect_start().succeed_attached();
    let lease = lease.wait().unwrap();
    let _other = master.submit(Build::new("two").with_property("kind", "b"));
    let question = first.expect_compatible();
    worker.unpause();
    watch.wait_quiet();
    clock.set(Some(0));
    question.no();
    clock.wait_held();
    let impatient = Watch::with_patience(&master, Duration::from_millis(50));
    impatient.follow(&first);
    impatient.follow(&second);
    failure(|| impatient.wait_quiet());
    clock.set(None);
    failure(|| second.expect_no_call(DriverCall::Start, &watch));
    second.automate_all();
    first.automate_all();
    drop(lease);
}

/// A driver without a script. The test decides when its start returns.
struct Slow(Arc<AtomicBool>);

impl LatentWorker for Slow {
    type Instance = ();

    fn start_instance(&self, _start: &StartRequest<'_>) -> Result<Started<()>, StartError> {
        while !self.0.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        Err(StartError::infrastructure("told to"))
    }

    fn check_instance(&self, (): &()) -> Health {
        Health::Good
    }

    fn stop_instance(&self, _stop: StopRequest<()>) -> Result<(), StopError> {
        Ok(())
    }
}

#[test]
fn a_master_is_not_quiet_while_a_call_of_another_driver_is_out() {
    let bench = bench();
    let end = Arc::new(AtomicBool::new(false));
    let worker = bench.master.add_worker(WorkerConfig::new("slow"), Slow(end.clone())).unwrap();
    let request = worker.substantiate(&Build::new("b"));
    bench.watch.wait_event("start_called");
    let impatient = Watch::with_patience(&bench.master, Duration::from_millis(50));
    let message = failure(|| impatient.wait_quiet());
    assert!(message.contains("the master did not become quiet within 50ms"), "{message}");
    assert!(message.contains("slow: starting for 0.0 s, 1 waiting; in start_instance"), "{message}");
    end.store(true, Ordering::SeqCst);
    assert!(request.wait().is_err());
    bench.watch.wait_quiet();
    assert_eq!(worker.status().state, WorkerState::NotSubstantiated);
}

#[test]
fn the_owner_is_told_to_every_start_of_a_master() {
    let bench = bench();
    let (_, first) = bench.worker("first");
    let (_, second) = bench.worker("second");
    let tickets = [bench.master.submit(Build::new("a")), bench.master.submit(Build::new("b"))];
    let (one, other) = (first.expect_start(), second.expect_start());
    assert_eq!(one.owner().len(), 32);
    assert_eq!(one.owner(), other.owner());
    drop(tickets);
}

/// Returns the results of a checker for a real record, and for each record that lacks one of its events.
#[test]
fn the_checker_accepts_a_real_record_and_misses_every_event_of_it() {
    let bench = bench();
    let (_worker, script) = bench.worker("w");
    let ticket = bench.master.submit(Build::new("b"));
    script.expect_start().succeed_attached();
    ticket.wait().unwrap().finish(BuildResult::Succeeded);
    bench.watch.wait_quiet();
    let live = EventChecker::new().with_max_builds(1).with_liveness(SECOND, |_, _| true);
    live.check_quiet(&bench.watch.events()).unwrap();
    script.automate_all();
    bench.watch.shut_down_and_check(&live);
    let whole = bench.watch.events();
    let promised = |name: &str| !["substantiate_success", "shutdown"].contains(&name);
    for index in (0..whole.len()).filter(|index| promised(whole[*index].kind.name())) {
        let mut events = whole.clone();
        let removed = events.remove(index);
        events.iter_mut().enumerate().for_each(|(number, event)| event.sequence = number as u64);
        assert!(live.check_ended(&events).is_err(), "{removed} was not missed");
    }
    let mut gap = whole;
    gap.remove(1);
    assert!(live.check_ended(&gap).unwrap_err().breaks(Rule::Record));
}

#[test]
fn a_build_that_waits_beside_a_free_place_is_found_in_a_real_record() {
    let bench = bench();
    let (_worker, script) = bench.watch.add_scripted(WorkerConfig::new("w").with_label("here"));
    script.automate_all();
    let warm = bench.master.submit(Build::new("warm")).wait().unwrap();
    drop(warm);
    let (_other, other_script) = bench.watch.add_scripted(WorkerConfig::new("other").with_label("there"));
    let _ticket = bench.master.submit(Build::new("waits").with_label("there"));
    let start = other_script.expect_start();
    bench.watch.wait_quiet();
    // The build does not fit that worker; a checker that assumes that it fits must report a violation.
    let checker = |fits: bool| EventChecker::new().with_liveness(SECOND, move |_, _| fits);
    checker(false).check_quiet(&bench.watch.events()).unwrap();
    assert!(checker(true).check_quiet(&bench.watch.events()).unwrap_err().breaks(Rule::Liveness));
    start.fail("over");
}

#[test]
fn a_scripted_agent_runs_commands_refuses_them_and_is_interrupted() {
    let bench = bench();
    let (_worker, script) = bench.worker("w");
    let (agent, commands) = ScriptedAgent::new();
    let ticket = bench.master.submit(Build::new("b"));
    script.expect_start().succeed_attached_with(agent);
    let lease = ticket.wait().unwrap();

    let running = lease.start(&Command::shell("make")).unwrap();
    let command = commands.expect_command();
    assert_eq!(command.command().to_string(), "make");
    command.stdout("out");
    command.stderr("err");
    command.exit(3);
    let finished = running.collect(1024).unwrap();
    assert_eq!((finished.end.exit, finished.stdout.as_slice()), (Exit::Code(3), b"out".as_slice()));

    commands.refuse_commands("no room");
    let refused = lease.start(&Command::shell("make")).err().unwrap();
    assert!(matches!(&refused, CommandError::Failed(reason) if reason == "no room"), "{refused}");
    commands.accept_commands();

    let running = lease.start(&Command::shell("hangs")).unwrap();
    let command = commands.expect_command();
    assert!(!command.interrupted());
    running.interrupt();
    command.wait_interrupted();
    assert!(command.interrupted());
    command.end(Exit::Interrupted);
    assert_eq!(running.collect(1024).unwrap().end.exit, Exit::Interrupted);

    let running = lease.start(&Command::shell("fails")).unwrap();
    commands.expect_command().fail("lost");
    assert!(matches!(running.collect(1024), Err(CommandError::Failed(reason)) if reason == "lost"));
    let running = lease.start(&Command::shell("ends without a word")).unwrap();
    drop(commands.expect_command());
    assert!(matches!(running.collect(1024), Err(CommandError::NoEnd)));
    script.automate_all();
}

#[test]
fn a_scripted_agent_that_hangs_holds_the_start_of_a_command() {
    let bench = bench();
    let (_worker, script) = bench.worker("w");
    let (agent, commands) = ScriptedAgent::new();
    commands.hold_commands();
    let ticket = bench.master.submit(Build::new("b"));
    script.expect_start().succeed_attached_with(agent);
    let lease = ticket.wait().unwrap();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| lease.run(&Command::shell("late")).map(|finished| finished.success()));
        commands.release();
        commands.expect_command().exit(0);
        assert!(started.join().unwrap().unwrap());
    });
    drop(lease);
    script.automate_all();
}

#[test]
fn a_scripted_agent_that_holds_its_close_delays_the_stop() {
    let bench = bench();
    let (_worker, script) = bench.worker("w");
    let (agent, commands) = ScriptedAgent::new();
    let ticket = bench.master.submit(Build::new("b"));
    let start = script.expect_start();
    let _attachment = start.attach_agent(agent);
    start.succeed();
    drop(ticket.wait().unwrap());
    commands.hold_close();
    bench.watch.wait_quiet();
    bench.clock.advance(60 * SECOND);
    commands.expect_close();
    assert_eq!((commands.closes(), script.count(DriverCall::Stop)), (1, 0));
    commands.release();
    script.expect_stop().succeed();
    bench.watch.shut_down_and_check(&EventChecker::new());
}
