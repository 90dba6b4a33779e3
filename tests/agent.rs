//! Against the real thing: an unmodified `buildbot-worker` from PyPI attaches and runs commands.
//!
//! The tests need the program, which `.ci/run` installs and names in `TEST_BUILDBOT_WORKER`.
#![cfg(unix)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use latent_worker::{
    AgentListener, AttachError, Build, BuildError, BuildResult, Command, ConnectedAgent, Event, EventKind, Exit,
    IdlePolicy, LatentWorker, Lease, LeaseEnd, Master, Output, Running, ShutdownMode, StartError, StartRequest,
    Started, StopError, StopRequest, Worker, WorkerConfig,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The longest wait for what takes a moment; that Python starts is one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts `buildbot-worker` in a directory of its own, and kills it at the stop.
#[derive(Clone)]
struct BuildbotWorker {
    address: SocketAddr,
    /// Given to the worker in place of the right one.
    secret: Option<&'static str>,
    /// The pids of the instances that were started.
    started: Arc<Mutex<Vec<i32>>>,
}

struct Instance {
    child: Child,
    directory: PathBuf,
}

impl BuildbotWorker {
    fn new(listener: &AgentListener) -> Self {
        Self { address: listener.addresses()[0], secret: None, started: Arc::default() }
    }

    fn spawn(&self, name: &str, secret: &str, directory: PathBuf) -> Result<Instance, StartError> {
        let program = std::env::var_os("TEST_BUILDBOT_WORKER").expect("the path of buildbot-worker");
        let address = self.address.to_string();
        let created = std::process::Command::new(&program)
            .args(["create-worker", "--protocol", "msgpack_experimental_v7"])
            .arg(&directory)
            .args([&address, name, self.secret.unwrap_or(secret)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        assert!(created.success(), "create-worker failed");
        let log = File::create(directory.join("stdout.log"))?;
        let child = std::process::Command::new(&program)
            .args(["start", "--nodaemon"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.started.lock().unwrap().push(i32::try_from(child.id()).unwrap());
        Ok(Instance { child, directory })
    }
}

impl Instance {
    fn stop(mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.wait().unwrap();
        fs::remove_dir_all(&self.directory).unwrap();
    }

    /// Whether the program ends by itself in time.
    fn ends(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        // Nobody tells.
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

fn fresh_directory() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::env::temp_dir().join(format!("lw-agent-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

impl LatentWorker for BuildbotWorker {
    type Instance = Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Instance>, StartError> {
        Ok(Started::new(self.spawn(start.worker(), start.secret().expose(), fresh_directory())?))
    }

    fn stop_instance(&self, stop: StopRequest<Instance>) -> Result<(), StopError> {
        if let Some(instance) = stop.into_instance() {
            instance.stop();
        }
        Ok(())
    }
}

struct Farm {
    listener: AgentListener,
    master: Master,
    driver: BuildbotWorker,
    events: Receiver<Event>,
}

impl Farm {
    fn new() -> Self {
        Self::with(|listener| listener)
    }

    fn with(change: impl FnOnce(latent_worker::AgentListenerBuilder) -> latent_worker::AgentListenerBuilder) -> Self {
        let master = Master::new();
        let events = master.events(10_000);
        let listener = change(AgentListener::builder()).bind(&master, "127.0.0.1:0").unwrap();
        let driver = BuildbotWorker::new(&listener);
        Self { listener, master, driver, events }
    }

    fn worker(&self, name: &str) -> Worker {
        let config = WorkerConfig::new(name).with_idle(IdlePolicy::After(Duration::from_secs(600)));
        self.master.add_worker(config, self.driver.clone()).unwrap()
    }

    fn await_event(&self, wanted: impl Fn(&EventKind) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.events.recv_deadline(deadline).expect("the event comes in time");
            if wanted(&event.kind) {
                return event;
            }
        }
    }

    fn finish(self) {
        let report = self.master.shutdown(ShutdownMode::Fast, PATIENCE);
        assert!(report.complete, "{report}");
        assert!(self.listener.shutdown(PATIENCE), "threads are left");
    }
}

fn lease(worker: &Worker) -> Lease {
    let mut request = worker.substantiate(&Build::new("a build"));
    request.wait_timeout(PATIENCE).expect("the worker attaches in time").unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The next item, which must come in time.
fn next(running: &mut Running<'_>) -> Output {
    running.recv_timeout(PATIENCE).unwrap().expect("output comes in time")
}

#[test]
#[ignore = "needs buildbot-worker"]
fn a_stock_worker_attaches_and_runs_commands() {
    let farm = Farm::new();
    let worker = farm.worker("stock");
    let lease = lease(&worker);
    let agent = lease.agent::<ConnectedAgent>().unwrap();
    assert_eq!(agent.system(), "posix");
    assert!(agent.version().starts_with("4."), "{}", agent.version());
    let basedir = Path::new(agent.basedir()).canonicalize().unwrap();

    let finished = lease.run(&Command::shell("pwd -P; echo oops >&2; exit 3")).unwrap();
    assert_eq!(Path::new(text(&finished.stdout).trim()), basedir);
    assert_eq!(text(&finished.stderr), "oops\n");
    assert_eq!(finished.end.exit, Exit::Code(3));

    let finished = lease.run(&Command::exec(["printf", "%s\\n", "a b", "ü"])).unwrap();
    assert_eq!((text(&finished.stdout), finished.success()), ("a b\nü\n", true));

    let finished = lease.run(&Command::exec(["pwd", "-P"]).directory("sub/dir")).unwrap();
    assert_eq!(Path::new(text(&finished.stdout).trim()), basedir.join("sub/dir"));
    let finished = lease.run(&Command::exec(["pwd"]).directory("/")).unwrap();
    assert_eq!(text(&finished.stdout), "/\n");

    let show = Command::shell("echo $A ${HOME-none}").env("A", "1").env_remove("HOME");
    assert_eq!(text(&lease.run(&show).unwrap().stdout), "1 none\n");

    // Nothing is read as the end of a line that is none.
    let finished = lease.run(&Command::shell("printf 'a\\r\\nb\\rc\\033[2Jd\\b\\n'")).unwrap();
    assert_eq!(text(&finished.stdout), "a\r\nb\rc\x1b[2Jd\x08\n");

    lease.finish(BuildResult::Succeeded);
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn signals_limits_and_interrupts_end_commands_of_a_stock_worker() {
    let farm = Farm::new();
    let worker = farm.worker("stock");
    let lease = lease(&worker);
    let exit = |command: &Command| lease.run(command).unwrap().end.exit;

    assert_eq!(exit(&Command::shell("kill -TERM $$")), Exit::Signal(15));
    assert_eq!(exit(&Command::shell("kill -SEGV $$ # \nprocess killed by signal 3")), Exit::Signal(11));
    let limit = Duration::from_millis(300);
    assert_eq!(exit(&Command::exec(["sleep", "60"]).time_limit(limit)), Exit::TimeLimit);
    assert_eq!(exit(&Command::shell("while :; do echo x; sleep 0.05; done").time_limit(limit)), Exit::TimeLimit);
    assert_eq!(exit(&Command::shell("echo x; exec sleep 60").silence_limit(limit)), Exit::SilenceLimit);
    let missing = lease.run(&Command::exec(["./no-such-program"])).unwrap_err();
    assert!(missing.to_string().contains("No such file"), "{missing}");

    let mut running = lease.start(&Command::shell("echo here; exec sleep 60")).unwrap();
    assert_eq!(next(&mut running), Output::Stdout(b"here\n".to_vec()));
    let interrupted = Instant::now();
    running.interrupt();
    running.interrupt();
    match next(&mut running) {
        Output::End(end) => assert_eq!(end.exit, Exit::Interrupted),
        other => panic!("{other:?}"),
    }
    assert!(interrupted.elapsed() < Duration::from_secs(2));
    drop(running);
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn much_output_long_lines_and_much_input_pass_through_a_stock_worker() {
    let farm = Farm::new();
    let worker = farm.worker("stock");
    let lease = lease(&worker);

    let stdin: Vec<u8> = (0..17 * 180_000_u32).map(|at| b"0123456789abcdef\n"[at as usize % 17]).collect();
    let finished = lease.run(&Command::exec(["cat"]).stdin(stdin.clone()).keep_output(1 << 30)).unwrap();
    assert!(finished.success() && finished.stdout == stdin, "{} bytes came back", finished.stdout.len());

    let line = Command::shell("head -c 1048576 /dev/zero | tr '\\0' x; echo; echo after").keep_output(1 << 30);
    let finished = lease.run(&line).unwrap();
    assert_eq!(finished.stdout.len(), 1_048_576 + 1 + "after\n".len());
    assert!(finished.stdout.ends_with(b"xx\nafter\n"));

    // 100 MiB in lines of 64 bytes, each with its number.
    let lines = 100 * (1 << 20) / 64;
    let program = format!("BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%063d\\n\", i }}");
    let mut running = lease.start(&Command::exec(["awk", &program])).unwrap();
    let mut seen = Vec::new();
    let mut number = 0_usize;
    let end = loop {
        match running.recv_timeout(Duration::from_secs(60)).unwrap().expect("it goes on") {
            Output::Stdout(bytes) => seen.extend(bytes),
            Output::Stderr(bytes) => panic!("{}", text(&bytes)),
            Output::End(end) => break end,
            other => panic!("{other:?}"),
        }
        let whole = seen.len() / 64 * 64;
        for line in seen.drain(..whole).as_slice().chunks(64) {
            assert_eq!(text(line), format!("{number:063}\n"));
            number += 1;
        }
    };
    assert_eq!((number, seen.len(), end.exit), (lines, 0, Exit::Code(0)));
    drop(running);
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn w13_a_stock_worker_that_is_killed_loses_its_build_to_another_one() {
    let farm = Farm::new();
    farm.worker("one");
    farm.worker("two");
    let ticket = farm.master.submit(Build::new("survivor"));
    let lease = ticket.wait_timeout(PATIENCE).unwrap();
    let mut running = lease.start(&Command::shell("echo begun; exec sleep 60")).unwrap();
    assert_eq!(next(&mut running), Output::Stdout(b"begun\n".to_vec()));
    let pid = farm.driver.started.lock().unwrap()[0];
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let error = running.recv_timeout(PATIENCE).unwrap_err();
    assert!(error.to_string().contains("the connection to the agent was lost"), "{error}");
    drop(running);
    assert!(matches!(lease.end(), Some(LeaseEnd::Lost(_))));
    let first = lease.worker().clone();
    lease.retry("lost");
    let lease = ticket.wait_timeout(PATIENCE).unwrap();
    assert_ne!(lease.worker(), &first);
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    assert_eq!(farm.master.worker(&first).unwrap().status().quarantine, None);
    lease.finish(BuildResult::Succeeded);
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn a4_a_stock_worker_that_is_stopped_is_noticed_by_the_heartbeat() {
    let farm = Farm::with(|listener| listener.heartbeat(Duration::from_millis(300), Duration::from_secs(2)));
    let worker = farm.worker("stock");
    let lease = lease(&worker);
    // It answers pings: it stays for longer than the heartbeat allows without a word.
    let finished = lease.run(&Command::shell("sleep 3")).unwrap();
    assert!(finished.success());
    let pid = farm.driver.started.lock().unwrap()[0];
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    let stopped = Instant::now();
    let end = lease.wait_end(PATIENCE);
    assert!(matches!(&end, Some(LeaseEnd::Lost(reason)) if reason.contains("not answered")), "{end:?}");
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
    drop(lease);
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn a2_a_stock_worker_with_a_wrong_password_is_refused_and_counted() {
    let mut farm = Farm::new();
    farm.driver.secret = Some("wrong");
    let worker = farm.worker("stock");
    let request = worker.substantiate(&Build::new("a build"));
    for _ in 0..2 {
        farm.await_event(|kind| *kind == EventKind::AttachRefused { error: AttachError::WrongSecret });
    }
    let status = worker.status();
    assert!(!status.attached && status.refused_agents >= 2, "{status}");
    request.cancel();
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn a3_a_second_stock_worker_of_the_same_name_is_refused_while_the_first_works() {
    /// Starts two workers for each instance.
    struct Twice(BuildbotWorker);
    impl LatentWorker for Twice {
        type Instance = [Instance; 2];
        fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Self::Instance>, StartError> {
            let (name, secret) = (start.worker(), start.secret().expose());
            let first = self.0.spawn(name, secret, fresh_directory())?;
            Ok(Started::new([first, self.0.spawn(name, secret, fresh_directory())?]))
        }
        fn stop_instance(&self, stop: StopRequest<Self::Instance>) -> Result<(), StopError> {
            stop.into_instance().into_iter().flatten().for_each(Instance::stop);
            Ok(())
        }
    }
    let farm = Farm::new();
    let worker = farm.master.add_worker(WorkerConfig::new("twice"), Twice(farm.driver.clone())).unwrap();
    let lease = lease(&worker);
    farm.await_event(|kind| *kind == EventKind::AttachRefused { error: AttachError::AlreadyAttached });
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    assert_eq!(lease.end(), None);
    drop(lease);
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn a2_a_stock_worker_of_an_ended_attempt_is_told_to_shut_down() {
    /// Its stop leaves the worker alone, as a driver that has lost it.
    struct Forgetful(BuildbotWorker, crossbeam_channel::Sender<Instance>);
    impl LatentWorker for Forgetful {
        type Instance = Instance;
        fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Instance>, StartError> {
            self.0.start_instance(start)
        }
        fn stop_instance(&self, stop: StopRequest<Instance>) -> Result<(), StopError> {
            self.1.send(stop.into_instance().unwrap()).unwrap();
            Ok(())
        }
    }
    let farm = Farm::new();
    let (sender, stopped) = crossbeam_channel::bounded(10);
    let driver = Forgetful(farm.driver.clone(), sender);
    let worker = farm.master.add_worker(WorkerConfig::new("forgotten"), driver).unwrap();

    // The close of an attached agent ends it.
    drop(lease(&worker));
    assert!(worker.insubstantiate(false).wait_timeout(PATIENCE));
    let mut instance = stopped.recv_timeout(PATIENCE).unwrap();
    assert!(instance.ends(), "it was told to shut down as it was closed");
    instance.stop();

    // One that comes only after its attempt was cancelled.
    let mut request = worker.substantiate(&Build::new("a build"));
    while farm.await_event(|kind| matches!(kind, EventKind::StartReturned { .. })).epoch != Some(worker.status().epoch)
    {
    }
    request.cancel();
    assert!(request.wait_timeout(PATIENCE).unwrap().is_err());
    let mut instance = stopped.recv_timeout(PATIENCE).unwrap();
    farm.await_event(|kind| *kind == EventKind::AttachRefused { error: AttachError::Stale });
    assert!(instance.ends(), "it was told to shut down as it came back");
    instance.stop();
    farm.finish();
}

#[test]
#[ignore = "needs buildbot-worker"]
fn a_build_is_cancelled_while_a_stock_worker_runs_it() {
    let farm = Farm::new();
    farm.worker("stock");
    let ticket = farm.master.submit(Build::new("cancelled"));
    let lease = ticket.wait_timeout(PATIENCE).unwrap();
    let mut running = lease.start(&Command::shell("echo begun; exec sleep 60")).unwrap();
    assert_eq!(next(&mut running), Output::Stdout(b"begun\n".to_vec()));
    ticket.cancel();
    assert!(running.recv_timeout(PATIENCE).is_err());
    drop(running);
    assert_eq!(lease.end(), Some(LeaseEnd::Cancelled));
    drop(lease);
    assert!(matches!(ticket.wait_timeout(PATIENCE), Err(BuildError::Cancelled)));
    farm.finish();
}
