//! The local driver under a real master: real directories, real processes.
#![cfg(all(feature = "local", unix))]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use latent_worker::{
    Attachment, Build, BuildError, BuildResult, Command, CommandError, EventKind, Exit, IdlePolicy, LatentWorker,
    Lease, LeaseEnd, LocalAgent, LocalKind, LocalLatentWorker, Master, Running, ShutdownMode, StartError, StartRequest,
    Started, StopError, StopRequest, Worker, WorkerConfig,
};

const LONG: Duration = Duration::from_secs(10);

/// A root of its own for each test, gone with it.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn driver(&self) -> LocalLatentWorker {
        LocalLatentWorker::new().root(&self.0)
    }

    fn instances(&self) -> usize {
        fs::read_dir(&self.0).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn one_worker(driver: LocalLatentWorker, idle: IdlePolicy) -> (Master, Worker) {
    let master = Master::new();
    let worker = master.add_worker(WorkerConfig::new("local").with_idle(idle), driver).unwrap();
    (master, worker)
}

fn lease(worker: &Worker) -> Lease {
    worker.substantiate(&Build::new("test")).wait().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_command_runs_in_a_private_directory_that_goes_with_the_instance() {
    let root = Root::new();
    let (_master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    let lease = lease(&worker);
    let directory = lease.agent::<LocalAgent>().unwrap().directory().to_owned();
    let finished = lease.run(&Command::shell("pwd -P; echo oops >&2; exit 3")).unwrap();
    assert_eq!(Path::new(text(&finished.stdout).trim()), directory.canonicalize().unwrap());
    assert_eq!(text(&finished.stderr), "oops\n");
    assert_eq!(finished.end.exit, Exit::Code(3));
    drop(lease);
    assert_eq!(root.instances(), 1);
    assert!(worker.insubstantiate(false).wait_timeout(LONG));
    assert_eq!(root.instances(), 0);
}

#[test]
fn a_warm_instance_keeps_its_files_and_a_new_one_has_none() {
    let root = Root::new();
    let (_master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    assert!(lease(&worker).run(&Command::shell("echo kept > file")).unwrap().success());
    assert_eq!(text(&lease(&worker).run(&Command::shell("cat file")).unwrap().stdout), "kept\n");
    assert!(worker.insubstantiate(false).wait_timeout(LONG));
    assert!(!lease(&worker).run(&Command::shell("cat file")).unwrap().success());
}

#[test]
fn w11_a_build_of_another_kind_gets_an_instance_of_its_own() {
    let root = Root::new();
    let template = Root::new();
    fs::write(template.0.join("tool"), "from the template").unwrap();
    let driver = root.driver().kind("tools", LocalKind::new().template(&template.0).env("KIND", "tools"));
    let (master, _worker) = one_worker(driver, IdlePolicy::Never);
    let events = master.events(1000);
    let show = Command::shell("cat tool; echo $KIND");
    let run = |build: Build| master.run(build, |lease| lease.run(&show)).unwrap();
    assert_eq!(text(&run(Build::new("plain")).stdout), "\n");
    assert_eq!(text(&run(Build::new("tools").with_property("kind", "tools")).stdout), "from the templatetools\n");
    assert_eq!(text(&run(Build::new("again").with_property("kind", "tools")).stdout), "from the templatetools\n");
    let starts = events.try_iter().filter(|event| event.kind == EventKind::StartCalled).count();
    assert_eq!(starts, 2, "one instance of each kind, the second one warm");
}

#[test]
fn b3_an_unknown_kind_is_the_builds_own_fault() {
    let root = Root::new();
    let (master, worker) = one_worker(root.driver().kind("known", LocalKind::new()), IdlePolicy::Never);
    let answer =
        master.submit(Build::new("typo").with_property("kind", "knwon")).wait_timeout(LONG).expect("an answer in time");
    let Err(BuildError::Cannot { reason, .. }) = &answer else { panic!("{answer:?}") };
    assert!(reason.contains("knwon") && reason.contains("known"), "{reason}");
    assert_eq!(worker.status().quarantine, None);
    assert!(worker.insubstantiate(false).wait_timeout(LONG));
    assert_eq!(root.instances(), 0);
}

/// Starts a command whose child would live for long, and returns a pipe that comes to its end when that child does.
fn stubborn(lease: &Lease) -> (Running<'_>, fs::File) {
    let path = lease.agent::<LocalAgent>().unwrap().directory().join("alive");
    assert!(lease.run(&Command::exec(["mkfifo".to_owned(), path.display().to_string()])).unwrap().success());
    let running = lease.start(&Command::shell("sleep 1000 9<>alive & wait")).unwrap();
    // Blocks until the child has opened its end.
    (running, fs::File::open(path).unwrap())
}

fn wait_for_the_end_of(mut child: fs::File) {
    child.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn s1_a_fast_shutdown_kills_the_whole_group_of_a_running_command() {
    let root = Root::new();
    let (master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    let lease = lease(&worker);
    let (running, child) = stubborn(&lease);
    let report = master.shutdown(ShutdownMode::Fast, LONG);
    assert!(report.complete, "{report}");
    assert!(matches!(running.recv(), Err(CommandError::LeaseEnded(LeaseEnd::Stopped))));
    wait_for_the_end_of(child);
    assert_eq!(root.instances(), 0);
}

#[test]
fn b4_cancelling_a_running_build_kills_its_command() {
    let root = Root::new();
    let (master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    let ticket = master.submit(Build::new("long"));
    let lease = ticket.wait_timeout(LONG).expect("an answer in time").unwrap();
    let (running, child) = stubborn(&lease);
    ticket.cancel();
    assert!(matches!(running.recv(), Err(CommandError::LeaseEnded(LeaseEnd::Cancelled))));
    assert!(matches!(ticket.wait_timeout(LONG).expect("an answer in time"), Err(BuildError::Cancelled)));
    wait_for_the_end_of(child);
    drop(running);
    drop(lease);
    // The instance is as good as before.
    assert!(self::lease(&worker).run(&Command::shell("true")).unwrap().success());
}

#[test]
fn limits_of_a_command_come_back_as_its_end() {
    let root = Root::new();
    let (_master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    let lease = lease(&worker);
    let soon = Duration::from_millis(50);
    let limited = lease.run(&Command::shell("sleep 1000").time_limit(soon)).unwrap();
    assert_eq!(limited.end.exit, Exit::TimeLimit);
    let silent = lease.run(&Command::shell("echo once; sleep 1000").silence_limit(soon)).unwrap();
    assert_eq!(silent.end.exit, Exit::SilenceLimit);
    assert_eq!(text(&silent.stdout), "once\n");
    assert_eq!(lease.run(&Command::shell("kill -9 $$")).unwrap().end.exit, Exit::Signal(9));
}

#[test]
fn output_beyond_what_is_kept_is_counted() {
    let root = Root::new();
    let (_master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    let command = Command::shell("head -c 1000000 /dev/zero; printf end").keep_output(10);
    let finished = lease(&worker).run(&command).unwrap();
    assert_eq!(finished.stdout, b"\0\0\0\0\0\0\0end");
    assert_eq!(finished.dropped, 1_000_003 - 10);
}

#[test]
fn d3_stopping_what_is_gone_succeeds() {
    let root = Root::new();
    let (master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    let events = master.events(100);
    let lease = lease(&worker);
    fs::remove_dir_all(lease.agent::<LocalAgent>().unwrap().directory()).unwrap();
    drop(lease);
    assert!(worker.insubstantiate(false).wait_timeout(LONG));
    let stopped = events.try_iter().find_map(|event| match event.kind {
        EventKind::StopReturned { result } => Some(result),
        _ => None,
    });
    assert_eq!(stopped, Some(Ok(())));
}

/// As small as a driver can be.
struct Two;

impl LatentWorker for Two {
    type Instance = Attachment;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Attachment>, StartError> {
        Ok(Started::new(start.attacher().attach(())?))
    }

    fn stop_instance(&self, _stop: StopRequest<Attachment>) -> Result<(), StopError> {
        Ok(())
    }
}

#[test]
fn d1_two_methods_are_enough_and_one_value_can_serve_many_workers() {
    let master = Master::new();
    let driver = std::sync::Arc::new(Two);
    for name in ["a", "b"] {
        master.add_worker(WorkerConfig::new(name), driver.clone()).unwrap();
    }
    let leases: Vec<_> = (0..2)
        .map(|_| master.submit(Build::new("any")))
        .map(|ticket| ticket.wait_timeout(LONG).expect("an answer in time").unwrap())
        .collect();
    assert_ne!(leases[0].worker(), leases[1].worker());
    assert!(matches!(leases[0].run(&Command::shell("true")), Err(CommandError::Unsupported)));
    leases.into_iter().for_each(|lease| lease.finish(BuildResult::Succeeded));
}

#[test]
fn w11_b3_an_unknown_kind_does_not_run_on_a_warm_instance() {
    let root = Root::new();
    let (master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    drop(lease(&worker));
    let answer =
        master.submit(Build::new("typo").with_property("kind", "typo")).wait_timeout(LONG).expect("an answer in time");
    assert!(matches!(answer, Err(BuildError::Cannot { .. })), "{answer:?}");
}

const DEEP_LIFE: &str = "LW_TEST_DEEP_LIFE";

/// One life of a master with a journal, as a process of its own: the first one nests directories and dies; the second
/// one removes what is left. Does nothing unless another test starts it.
#[test]
fn a_life_with_a_deep_directory() {
    let Ok(life) = std::env::var(DEEP_LIFE) else { return };
    let root = PathBuf::from(std::env::var_os("LW_TEST_ROOT").unwrap());
    let master = Master::builder().journal(root.join("journal")).unwrap().build();
    let worker = master.add_worker(WorkerConfig::new("local"), LocalLatentWorker::new().root(root.join("instances")));
    let worker = worker.unwrap();
    if life == "first" {
        let lease = lease(&worker);
        nest(lease.agent::<LocalAgent>().unwrap().directory(), 100_000);
        std::process::abort();
    }
    let mut leftovers = master.leftovers();
    let events = master.events(10_000);
    while !leftovers.is_empty() {
        events.recv_timeout(Duration::from_secs(300)).expect("the reclaim ends");
        leftovers = master.leftovers();
    }
    assert_eq!(fs::read_dir(root.join("instances")).unwrap().count(), 0);
    // And what a build leaves is removed by the stop as well. The worker may hear a moment later that nothing is left, and
    // a build that is submitted waits for that.
    let lease = master.submit(Build::new("test")).wait().unwrap();
    nest(lease.agent::<LocalAgent>().unwrap().directory(), 20_000);
    drop(lease);
    assert!(master.shutdown(ShutdownMode::Graceful, Duration::from_secs(300)).complete);
    assert_eq!(master.leftovers(), []);
    assert_eq!(fs::read_dir(root.join("instances")).unwrap().count(), 0);
}

/// Makes directories one within the other, deeper than any path.
fn nest(directory: &Path, levels: usize) {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut current = openat(rustix::fs::CWD, directory, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&current, c"d", Mode::RWXU).unwrap();
        current = openat(&current, c"d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn j2_a_deep_directory_is_removed_by_a_stop_and_by_the_next_master() {
    let root = Root::new();
    for life in ["first", "second"] {
        // Few descriptors, and little stack for the threads of the library.
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "ulimit -n 1024 && exec \"$0\" --exact a_life_with_a_deep_directory --test-threads=1"]);
        command.arg(std::env::current_exe().unwrap());
        command.env(DEEP_LIFE, life).env("LW_TEST_ROOT", &root.0).env("RUST_MIN_STACK", (256 << 10).to_string());
        let output = command.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.success(), life == "second", "{life}: {}\n{said}", output.status);
        assert!(!said.contains("panicked"), "{life}: {said}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn d2_a_stop_kills_processes_that_have_left_the_group_of_their_command() {
    let root = Root::new();
    let (_master, worker) = one_worker(root.driver(), IdlePolicy::Never);
    let alive = root.0.join("alive");
    assert!(std::process::Command::new("mkfifo").arg(&alive).status().unwrap().success());
    let lease = lease(&worker);
    let escapes = format!("exec 3>{}; echo >ready; exec sleep 1000", alive.display());
    let line = format!("mkfifo ready; (setsid sh -c '{escapes}' >/dev/null 2>&1 &); read x <ready");
    let running = lease.start(&Command::shell(line)).unwrap();
    // Blocks until the process holds it.
    let mut line = fs::File::open(&alive).unwrap();
    assert!(running.collect(0).unwrap().success());
    drop(running);
    drop(lease);
    assert!(worker.insubstantiate(false).wait_timeout(LONG));
    // The end comes when nobody holds it any more.
    line.read_to_end(&mut Vec::new()).unwrap();
}
