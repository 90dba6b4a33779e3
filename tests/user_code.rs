//! W14: user code cannot break the library. A thread is held inside each driver call and each callback while every
//! public method is called; each of them panics; and each of them calls back into the library.

mod support;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded as channel};
use latent_worker::testing::{ManualClock, PATIENCE, Script, ScriptedWorker};
use latent_worker::{
    AddWorkerError, Agent, Attachment, Build, BuildError, Command, CommandError, DriverCall, IdlePolicy, Inbox,
    LatentWorker, Lease, Master, Process, ShutdownMode, StartError, StartRequest, Started, StopError, StopRequest,
    SubstantiateError, Worker, WorkerConfig, WorkerState,
};

use support::{SECOND, World, answer, bounded, reaches};

// ---- a logger is user code too

type Hook = Arc<dyn Fn() + Send + Sync>;

/// What the logger does with messages that contain a text.
static HOOKS: Mutex<Vec<(String, Hook)>> = Mutex::new(Vec::new());

struct HookedLogger;

impl log::Log for HookedLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let message = record.args().to_string();
        let hooks: Vec<_> = HOOKS.lock().unwrap().iter().filter(|(text, _)| message.contains(text)).cloned().collect();
        hooks.into_iter().for_each(|(_, hook)| hook());
    }
    fn flush(&self) {}
}

/// A world whose master writes to the log.
fn logged_world() -> World {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&HookedLogger).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    World::new()
}

fn when_logged(text: &str, hook: impl Fn() + Send + Sync + 'static) {
    HOOKS.lock().unwrap().push((text.to_owned(), Arc::new(hook)));
}

// ---- places where a thread is held

/// The test's end: it is told when a thread has arrived, and lets it go by being dropped.
struct Hold {
    arrived: Receiver<()>,
    _release: Sender<()>,
}

impl Hold {
    /// And what is called in user code.
    fn new() -> (Self, Hook) {
        let (arrive, arrived) = channel(100);
        let (release, released) = channel::<()>(0);
        let place = move || {
            let _ = arrive.send(());
            let _ = released.recv(); // until the sender is dropped
        };
        (Self { arrived, _release: release }, Arc::new(place))
    }

    fn await_arrival(&self) {
        self.arrived.recv_timeout(PATIENCE).expect("a thread arrives where it is held");
    }
}

/// An agent each of whose methods does what the test wants.
struct HookedAgent(Hooks);

#[derive(Default)]
struct Hooks {
    on_start_command: Option<Hook>,
    on_interrupt: Option<Hook>,
    on_close: Option<Hook>,
    on_drop: Option<Hook>,
}

impl Agent for HookedAgent {
    fn start_command(&self, _: &Command) -> Result<Process, CommandError> {
        if let Some(hook) = &self.0.on_start_command {
            hook();
        }
        let (_, output) = channel(1);
        let hook = self.0.on_interrupt.clone();
        let interrupt = move || {
            if let Some(hook) = &hook {
                hook();
            }
        };
        Ok(Process::new(output, interrupt))
    }

    fn close(&self) {
        if let Some(hook) = &self.0.on_close {
            hook();
        }
    }
}

impl Drop for HookedAgent {
    fn drop(&mut self) {
        if let Some(hook) = &self.0.on_drop {
            hook();
        }
    }
}

/// An instance whose agent is this one, and a lease of it.
fn with_agent(world: &World, worker: &Worker, script: &Script, hooks: Hooks) -> (Lease, Attachment) {
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let connection = start.attacher().attach(HookedAgent(hooks)).unwrap();
    start.succeed();
    let lease = answer(&mut request).unwrap();
    world.await_event_of("start_returned", Some(worker.name()));
    (lease, connection)
}

// ---- every public method

/// Calls every method of the library, none of which may hang because user code of `stuck` does.
fn everything_answers(master: &Master, clock: &ManualClock, stuck: &Worker) {
    let at = Arc::new(Mutex::new("the first method"));
    let (master, clock, stuck, progress) = (master.clone(), clock.clone(), stuck.clone(), at.clone());
    let calls =
        std::thread::spawn(move || every_method(&master, &clock, &stuck, |next| *progress.lock().unwrap() = next));
    let deadline = std::time::Instant::now() + PATIENCE;
    while !calls.is_finished() {
        let last = *at.lock().unwrap();
        assert!(std::time::Instant::now() < deadline, "{last} does not return");
        std::thread::yield_now();
    }
    let last = *at.lock().unwrap();
    assert!(calls.join().is_ok(), "{last} panicked");
}

fn every_method(master: &Master, clock: &ManualClock, stuck: &Worker, at: impl Fn(&'static str)) {
    at("Master::add_worker");
    let (driver, script) = ScriptedWorker::automatic();
    let driver = Arc::new(driver);
    let config = WorkerConfig::new("spare").with_label("spare");
    let spare = match master.add_worker(config, driver) {
        Err(AddWorkerError::ShutDown) => return, // this was called in a shutdown
        spare => spare.unwrap(),
    };
    at("Master's questions");
    assert!(master.worker("spare").is_some() && master.worker(stuck.name()).is_some());
    assert_eq!(master.workers().len(), master.status().len());
    drop((master.events(10), master.unknown_agents(), format!("{master:?}")));
    at("Master::attach");
    assert!(master.attach(stuck.name(), "wrong", ()).is_err());

    at("Worker's questions");
    drop((stuck.name(), stuck.status(), format!("{stuck:?}")));
    at("Worker::substantiate");
    let mut request = stuck.substantiate(&Build::new("b"));
    at("Substantiation");
    drop((request.try_wait(), request.wait_timeout(Duration::ZERO), format!("{request:?}")));
    request.cancel();
    drop(request);
    at("Worker::warm_up");
    drop(stuck.warm_up());
    at("Worker::pause");
    stuck.pause();
    stuck.unpause();

    at("Master::submit");
    let ticket = master.submit(Build::new("of the stuck worker").with_label("stuck"));
    at("Ticket");
    drop((ticket.id(), ticket.receiver().len(), format!("{ticket:?}"), master.build_status(ticket.id())));
    if let Some(Ok(lease)) = ticket.try_wait() {
        drop(lease);
    }
    drop(ticket.wait_timeout(Duration::ZERO));
    ticket.cancel();
    drop(ticket);
    at("Inbox");
    let inbox = Inbox::new();
    let build = master.submit_to(Build::new("of the stuck worker").with_label("stuck"), &inbox);
    let _ = master.cancel(build);
    while let Some((_, answer)) = inbox.wait_timeout(Duration::ZERO) {
        drop(answer);
    }

    at("Master::run on another worker");
    let build = || Build::new("b").with_label("spare");
    let result = master.run(build(), |lease| Ok::<_, String>(lease.worker().to_string()));
    assert_eq!(result.unwrap(), "spare");
    at("Lease");
    let lease = master.submit(build()).wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    drop((lease.build(), lease.build_id(), lease.epoch(), lease.history(), lease.agent::<()>(), format!("{lease:?}")));
    assert!(lease.end().is_none() && lease.wait_end(Duration::ZERO).is_none());
    assert!(matches!(lease.run(&Command::shell("true")), Err(CommandError::Unsupported)));
    assert!(lease.start(&Command::shell("true")).is_err());
    lease.retry("once more");
    at("the clock");
    clock.advance(SECOND);
    at("Worker::insubstantiate of another worker");
    assert!(spare.insubstantiate(true).wait_timeout(PATIENCE));
    assert!(script.count(DriverCall::Stop) > 0);
    at("Worker::insubstantiate");
    assert!(!format!("{:?}", stuck.insubstantiate(false)).is_empty());
    at("Master::shutdown");
    let report = master.shutdown(ShutdownMode::Graceful, Duration::ZERO);
    drop((report.to_string(), master.shutdown(ShutdownMode::Fast, Duration::ZERO)));
    at("what is refused after a shutdown");
    let refused = stuck.substantiate(&Build::new("b")).wait_timeout(PATIENCE);
    assert_eq!(refused.unwrap().unwrap_err(), SubstantiateError::ShutDown);
    let refused = master.submit(Build::new("b")).wait_timeout(PATIENCE).expect("an answer in time");
    assert_eq!(refused.unwrap_err(), BuildError::ShutDown);
}

fn stuck_worker(world: &World) -> (Worker, Script) {
    let two = NonZeroUsize::new(2).unwrap();
    world.add(WorkerConfig::new("stuck").with_label("stuck").with_max_builds(two).with_idle(IdlePolicy::Never))
}

/// In a driver call that hangs, everything answers, and the shutdown's report names the call.
fn everything_answers_in(call: DriverCall, bring_about: impl FnOnce(&World, &Worker, &Script) -> Box<dyn FnOnce()>) {
    let world = World::new();
    let (driver, script) = ScriptedWorker::new();
    let config = WorkerConfig::new("stuck").with_label("stuck").with_max_builds(NonZeroUsize::new(2).unwrap());
    let worker = world.master.add_worker(config, driver.may_be_incompatible(call == DriverCall::Compatible)).unwrap();
    let let_go = bring_about(&world, &worker, &script);
    assert_eq!(worker.status().call.map(|(call, _)| call), Some(call));
    everything_answers(&world.master, &world.clock, &worker);
    let report = world.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
    assert!(!report.complete);
    assert!(report.to_string().contains(&format!("in {call} for 1.0 s")), "{report}");
    let_go();
    world.finish(&[&script]);
}

#[test]
fn w14_everything_answers_while_a_start_hangs() {
    everything_answers_in(DriverCall::Start, |_, worker, script| {
        let request = worker.substantiate(&Build::new("b"));
        let start = script.expect_start();
        Box::new(move || drop((start, request)))
    });
}

#[test]
fn w14_everything_answers_while_a_check_hangs() {
    everything_answers_in(DriverCall::Check, |world, worker, script| {
        let request = worker.substantiate(&Build::new("b"));
        script.expect_start().succeed();
        world.await_event("start_returned");
        world.advance(10);
        let check = script.expect_check();
        Box::new(move || drop((check, request)))
    });
}

#[test]
fn w14_everything_answers_while_the_question_for_compatibility_hangs() {
    everything_answers_in(DriverCall::Compatible, |world, worker, script| {
        drop(world.lease(worker, script));
        let request = worker.substantiate(&Build::new("b"));
        let question = script.expect_compatible();
        Box::new(move || drop((question, request)))
    });
}

#[test]
fn w14_everything_answers_while_a_stop_hangs() {
    everything_answers_in(DriverCall::Stop, |world, worker, script| {
        drop(world.lease(worker, script));
        worker.insubstantiate(false);
        let stop = script.expect_stop();
        Box::new(move || drop(stop))
    });
}

#[test]
fn w14_everything_answers_while_the_driver_is_asked_what_it_is() {
    struct Slow(Hook);
    impl LatentWorker for Slow {
        type Instance = ();
        fn start_instance(&self, _: &StartRequest<'_>) -> Result<Started<()>, StartError> {
            unreachable!("it is refused")
        }
        fn stop_instance(&self, _: StopRequest<()>) -> Result<(), StopError> {
            unreachable!("it was not started")
        }
        fn builds_may_be_incompatible(&self) -> bool {
            (self.0)();
            false
        }
    }
    let world = World::new();
    let (worker, script) = stuck_worker(&world);
    let (hold, place) = Hold::new();
    let master = world.master.clone();
    let adding = std::thread::spawn(move || master.add_worker(WorkerConfig::new("slow"), Slow(place)).unwrap_err());
    hold.await_arrival();
    everything_answers(&world.master, &world.clock, &worker);
    drop(hold);
    let refused = bounded("add_worker", || adding.join().unwrap());
    assert_eq!(refused, AddWorkerError::ShutDown);
    world.finish(&[&script]);
}

#[test]
fn w14_everything_answers_while_an_agent_starts_a_command() {
    let world = World::new();
    let (worker, script) = stuck_worker(&world);
    let (hold, place) = Hold::new();
    let hooks = Hooks { on_start_command: Some(place), ..Hooks::default() };
    let (lease, connection) = with_agent(&world, &worker, &script, hooks);
    let running = std::thread::spawn(move || lease.run(&Command::shell("true")).unwrap_err());
    hold.await_arrival();
    everything_answers(&world.master, &world.clock, &worker);
    drop(hold);
    let error = bounded("Lease::run", || running.join().unwrap());
    assert!(matches!(error, CommandError::LeaseEnded(_) | CommandError::NoEnd), "{error}");
    drop(connection);
    world.finish(&[&script]);
}

#[test]
fn w14_everything_answers_while_a_command_is_interrupted() {
    let world = World::new();
    let (worker, script) = stuck_worker(&world);
    let (hold, place) = Hold::new();
    let hooks = Hooks { on_interrupt: Some(place), ..Hooks::default() };
    let (lease, connection) = with_agent(&world, &worker, &script, hooks);
    let running = std::thread::spawn(move || drop(lease.start(&Command::shell("true")).unwrap()));
    hold.await_arrival();
    everything_answers(&world.master, &world.clock, &worker);
    drop(hold);
    bounded("dropping a command", || running.join().unwrap());
    drop(connection);
    world.finish(&[&script]);
}

#[test]
fn w14_everything_answers_while_an_agent_closes_or_is_dropped() {
    for closes in [true, false] {
        let world = World::new();
        let (worker, script) = stuck_worker(&world);
        script.automate(DriverCall::Stop);
        let (hold, place) = Hold::new();
        let (on_close, on_drop) = if closes { (Some(place), None) } else { (None, Some(place)) };
        let hooks = Hooks { on_close, on_drop, ..Hooks::default() };
        let (lease, connection) = with_agent(&world, &worker, &script, hooks);
        drop(lease);
        worker.insubstantiate(false);
        hold.await_arrival();
        everything_answers(&world.master, &world.clock, &worker);
        assert!(!world.master.shutdown(ShutdownMode::Fast, Duration::ZERO).complete);
        drop(hold);
        drop(connection);
        world.finish(&[&script]);
    }
}

#[test]
fn w14_everything_answers_while_the_logger_hangs() {
    let world = logged_world();
    let (worker, script) = world.add(WorkerConfig::new("log-stuck").with_label("stuck"));
    let (hold, place) = Hold::new();
    when_logged("worker log-stuck: start called", move || place());
    let request = worker.substantiate(&Build::new("b"));
    hold.await_arrival();
    everything_answers(&world.master, &world.clock, &worker);
    drop((request, hold));
    world.finish(&[&script]);
}

#[test]
fn w8_s2_deadlines_and_the_shutdown_come_while_the_logger_hangs() {
    let world = logged_world();
    let (worker, script) = world.worker("log-late");
    let (hold, place) = Hold::new();
    when_logged("worker log-late: start called", move || place());
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    hold.await_arrival();
    world.clock.advance(SECOND * 3600);
    assert!(matches!(answer(&mut request), Err(SubstantiateError::TimedOut { .. })));
    start.fail("at last");
    script.expect_stop().succeed();
    // Nothing is in flight but the logger, which nobody waits for.
    let master = world.master.clone();
    let report = bounded("Master::shutdown", move || master.shutdown(ShutdownMode::Fast, PATIENCE));
    assert!(report.complete, "{report}");
    drop(hold);
    world.finish(&[&script]);
}

// ---- panics

/// A worker that is as good as new.
fn still_works(world: &World, worker: &Worker, script: &Script) {
    script.automate(DriverCall::Stop);
    assert!(worker.insubstantiate(true).wait_timeout(PATIENCE));
    worker.unpause();
    drop(world.lease(worker, script));
    assert!(worker.insubstantiate(false).wait_timeout(PATIENCE));
    assert_eq!(worker.status().state, WorkerState::NotSubstantiated);
}

fn panics() -> Option<Hook> {
    Some(Arc::new(|| panic!("user code panics")))
}

#[test]
fn w14_a_driver_that_panics_in_every_call_is_still_served() {
    let world = World::new();
    let (worker, script) = world.add_choosy(WorkerConfig::new("w"));
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().panic();
    assert!(matches!(answer(&mut request), Err(SubstantiateError::Failed { .. })));
    script.expect_stop().panic();
    reaches(&worker, WorkerState::NotSubstantiated);
    worker.unpause();
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().succeed();
    world.await_event("start_returned");
    world.await_event("start_returned");
    world.advance(10);
    script.expect_check().panic();
    assert!(matches!(answer(&mut request), Err(SubstantiateError::Failed { .. })));
    script.expect_stop().succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    worker.unpause();
    drop(world.lease(&worker, &script));
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_compatible().panic(); // counts as no, so that the instance makes place
    script.expect_stop().succeed();
    script.expect_start().succeed_attached();
    assert!(answer(&mut request).is_ok());
    still_works(&world, &worker, &script);
    world.finish(&[&script]);
}

#[test]
fn w14_a_driver_that_panics_when_asked_what_it_is_is_not_added() {
    struct Bad {
        knows_its_builds: bool,
    }
    impl LatentWorker for Bad {
        type Instance = ();
        fn start_instance(&self, _: &StartRequest<'_>) -> Result<Started<()>, StartError> {
            unreachable!("it was not added")
        }
        fn stop_instance(&self, _: StopRequest<()>) -> Result<(), StopError> {
            unreachable!("it was not started")
        }
        fn builds_may_be_incompatible(&self) -> bool {
            assert!(self.knows_its_builds, "no idea");
            false
        }
        fn attached_check_interval(&self) -> Option<Duration> {
            panic!("no idea")
        }
    }
    let world = World::new();
    for (knows_its_builds, call) in [(false, "builds_may_be_incompatible"), (true, "attached_check_interval")] {
        let refused = world.master.add_worker(WorkerConfig::new("w"), Bad { knows_its_builds }).unwrap_err();
        assert_eq!(refused, AddWorkerError::Panicked(format!("{call} panicked: no idea").into()));
    }
    let (worker, script) = world.worker("w"); // the name is free
    still_works(&world, &worker, &script);
    world.finish(&[&script]);
}

#[test]
fn w14_an_agent_that_panics_everywhere_is_an_error_and_no_more() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let hooks = Hooks { on_start_command: panics(), on_close: panics(), on_drop: panics(), ..Hooks::default() };
    let (lease, connection) = with_agent(&world, &worker, &script, hooks);
    let error = lease.run(&Command::shell("true")).unwrap_err();
    assert!(error.to_string().ends_with("Agent::start_command panicked: user code panics"), "{error}");
    drop(lease);
    worker.insubstantiate(false);
    script.expect_stop().succeed();
    drop(connection);
    still_works(&world, &worker, &script);
    world.finish(&[&script]);
}

#[test]
fn w14_a_command_whose_interruption_panics_does_no_harm() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let hooks = Hooks { on_interrupt: panics(), ..Hooks::default() };
    let (lease, connection) = with_agent(&world, &worker, &script, hooks);
    let running = lease.start(&Command::shell("true")).unwrap();
    running.interrupt();
    drop(running);
    let running = lease.start(&Command::shell("true")).unwrap();
    connection.lost("severed");
    assert!(matches!(running.recv(), Err(CommandError::LeaseEnded(_))));
    drop(running);
    drop(lease);
    still_works(&world, &worker, &script);
    world.finish(&[&script]);
}

/// An error that cannot even say what it is.
#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("no words for it")
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn w14_an_error_that_panics_when_it_is_asked_what_it_is_does_no_harm() {
    let world = World::new();
    let (worker, script) = world.add_choosy(WorkerConfig::new("w"));
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_start().fail_with(StartError::from(Unspeakable));
    assert!(matches!(answer(&mut request), Err(SubstantiateError::Failed { .. })));
    script.expect_stop().answer(|_| Err(StopError::from(Unspeakable)));
    reaches(&worker, WorkerState::NotSubstantiated);
    assert!(worker.status().last_failure.unwrap().0.contains("no words for it"));
    worker.unpause();
    drop(world.lease(&worker, &script));
    let mut request = worker.substantiate(&Build::new("b"));
    script.expect_compatible().answer(|| Err(Unspeakable.into()));
    script.expect_stop().succeed();
    script.expect_start().succeed_attached();
    assert!(answer(&mut request).is_ok());
    still_works(&world, &worker, &script);
    world.finish(&[&script]);
}

#[test]
fn w14_a_logger_that_panics_does_no_harm() {
    let world = logged_world();
    let (worker, script) = world.worker("log-panic");
    when_logged("log-panic", || panic!("the logger"));
    let lease = world.lease(&worker, &script);
    drop(lease);
    still_works(&world, &worker, &script);
    let ticket = world.master.submit(Build::new("b"));
    script.expect_start().fail("log-panic");
    assert!(ticket.try_wait().is_none());
    ticket.cancel();
    world.finish(&[&script]);
}

// ---- calls back into the library

/// Calls what user code may call: everything, also of its own worker. Runs on the thread of the callback.
fn call_back(master: &Master, worker: &Worker) {
    drop((worker.status(), worker.name(), format!("{worker:?}"), master.status(), master.workers()));
    drop(worker.substantiate(&Build::new("called back")));
    drop(worker.warm_up());
    worker.pause();
    worker.unpause();
    drop(master.submit(Build::new("called back")));
    let inbox = Inbox::new();
    let _ = master.cancel(master.submit_to(Build::new("called back"), &inbox));
    assert!(master.attach(worker.name(), "wrong", ()).is_err());
    drop(worker.insubstantiate(false));
    let report = master.shutdown(ShutdownMode::Graceful, Duration::ZERO);
    drop(report.to_string());
}

/// Something to be called in user code, and who is told that it has returned.
fn calls_back(world: &World, worker: &Worker) -> (Hook, Receiver<()>) {
    let (master, worker) = (world.master.clone(), worker.clone());
    let (done, returned) = channel(100);
    let hook = move || {
        call_back(&master, &worker);
        let _ = done.try_send(());
    };
    (Arc::new(hook), returned)
}

fn returns(returned: &Receiver<()>, from: &str) {
    assert!(returned.recv_timeout(PATIENCE).is_ok(), "the call back from {from} does not return");
}

#[test]
fn w14_a_driver_may_call_the_library_in_every_call() {
    for call in [DriverCall::Start, DriverCall::Check, DriverCall::Compatible, DriverCall::Stop] {
        let world = World::new();
        let (worker, script) = world.add_choosy(WorkerConfig::new("w"));
        let (hook, returned) = calls_back(&world, &worker);
        let own = worker.clone();
        let hook = move || {
            // The stop comes after this call: it is not waited for.
            assert!(!own.insubstantiate(false).wait_timeout(Duration::MAX));
            hook();
        };
        let mut request = worker.substantiate(&Build::new("b"));
        if call == DriverCall::Start {
            script.expect_start().answer(move |_| {
                hook();
                Ok(Vec::new())
            });
        } else if call == DriverCall::Check {
            script.expect_start().succeed();
            world.await_event("start_returned");
            world.advance(10);
            script.expect_check().answer(move || {
                hook();
                latent_worker::Health::Good
            });
        } else {
            script.expect_start().succeed_attached();
            drop(answer(&mut request).unwrap());
            if call == DriverCall::Compatible {
                request = worker.substantiate(&Build::new("b"));
                script.expect_compatible().answer(move || {
                    hook();
                    Ok(true)
                });
            } else {
                worker.insubstantiate(false);
                script.expect_stop().answer(move |_| {
                    hook();
                    Ok(())
                });
            }
        }
        returns(&returned, &call.to_string());
        drop(request);
        world.finish(&[&script]);
    }
}

#[test]
fn w14_an_agent_may_call_the_library_in_every_method_and_in_its_drop() {
    for method in ["start_command", "interrupt", "close", "drop"] {
        let world = World::new();
        let (worker, script) = world.worker("w");
        script.automate(DriverCall::Stop);
        let (hook, returned) = calls_back(&world, &worker);
        let hook_in = |name| (method == name).then(|| hook.clone());
        let hooks = Hooks {
            on_start_command: hook_in("start_command"),
            on_interrupt: hook_in("interrupt"),
            on_close: hook_in("close"),
            on_drop: hook_in("drop"),
        };
        drop(hook);
        let (lease, connection) = with_agent(&world, &worker, &script, hooks);
        bounded("Lease::start", move || drop(lease.start(&Command::shell("true"))));
        worker.insubstantiate(false);
        returns(&returned, method);
        drop(connection);
        world.finish(&[&script]);
    }
}

#[test]
fn w14_an_agent_that_is_refused_or_replaced_may_call_the_library_in_its_drop() {
    let world = World::new();
    let (worker, script) = world.add(WorkerConfig::new("w").with_idle(IdlePolicy::Never));
    let mut request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let attacher = start.attacher();
    let told = |world: &World| {
        let (worker, (done, returned)) = (worker.clone(), channel(1));
        let master = world.master.clone();
        let hook: Hook = Arc::new(move || {
            drop((worker.status(), master.status(), worker.substantiate(&Build::new("called back"))));
            let _ = done.try_send(());
        });
        (HookedAgent(Hooks { on_drop: Some(hook), ..Hooks::default() }), returned)
    };
    let (first, first_dropped) = told(&world);
    let first = attacher.attach(first).unwrap();
    start.succeed();
    drop(answer(&mut request).unwrap());
    world.await_event("start_returned");

    let (refused, refused_dropped) = told(&world);
    let at_the_door = attacher.clone();
    assert!(bounded("a refused attach", move || at_the_door.attach(refused)).is_err());
    returns(&refused_dropped, "the drop of a refused agent");
    let (stranger, stranger_dropped) = told(&world);
    let master = world.master.clone();
    assert!(bounded("a refused attach", move || master.attach("w", "wrong", stranger)).is_err());
    returns(&stranger_dropped, "the drop of a stranger");

    first.lost("severed");
    let second = bounded("an attach in place of another", move || attacher.attach(()).unwrap());
    returns(&first_dropped, "the drop of a replaced agent");
    drop(second);
    world.finish(&[&script]);
}

#[test]
fn w14_a_logger_may_call_the_library() {
    let world = logged_world();
    let (worker, script) = world.worker("log-back");
    script.automate_all();
    let (hook, returned) = calls_back(&world, &worker);
    let once = Once::new();
    when_logged("worker log-back: start called", move || once.call_once(|| hook()));
    let request = worker.substantiate(&Build::new("b"));
    returns(&returned, "the logger");
    drop(request);
    HOOKS.lock().unwrap().retain(|(text, _)| !text.contains("log-back")); // it holds the master
    world.finish(&[&script]);
}
