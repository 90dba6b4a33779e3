//! A master with a listener, and workers whose agents are processes on this machine.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use latent_worker::{
    AgentListener, AgentListenerBuilder, Build, CommandEnd, CommandLatentWorker, Event, EventKind, IdlePolicy, Lease,
    Master, Output, Running, ShutdownMode, Worker, WorkerConfig,
};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

/// The longest wait for what takes a moment; that Python starts is one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An unmodified `buildbot-worker`.
    Stock,
    /// `examples/agent`.
    Ours,
}

/// A directory of one test.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-agent-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program `examples/agent`.
pub(crate) fn our_agent() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let agent = tests.ancestors().nth(2).unwrap().join("examples/agent");
    assert!(agent.exists(), "{} is missing: cargo build --example agent --features agent", agent.display());
    agent
}

fn script(name: &str) -> String {
    format!("{}/tests/agent/programs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Settings of a [`Farm`].
pub(crate) struct Settings {
    pub(crate) listener: AgentListenerBuilder,
    /// A shell script that gets the start program as its arguments.
    pub(crate) start: &'static str,
    pub(crate) leave_running: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listener: AgentListener::builder(), start: r#"exec "$@""#, leave_running: false }
    }
}

pub(crate) struct Farm {
    pub(crate) master: Master,
    listener: AgentListener,
    driver: CommandLatentWorker,
    events: Receiver<Event>,
    /// The last to go.
    place: Place,
}

impl Farm {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::with(kind, Settings::default())
    }

    pub(crate) fn with(kind: Kind, settings: Settings) -> Self {
        let place = Place::new();
        let at = place.path().to_str().unwrap();
        let mut start = vec!["sh".to_owned(), "-c".to_owned(), settings.start.to_owned(), "start".to_owned()];
        start.push("sh".to_owned());
        match kind {
            Kind::Stock => {
                assert!(std::env::var_os("TEST_BUILDBOT_WORKER").is_some(), "it names the path of buildbot-worker");
                start.extend([script("stock.sh"), at.to_owned()]);
            }
            Kind::Ours => start.extend([script("ours.sh"), at.to_owned(), our_agent().to_str().unwrap().to_owned()]),
        }
        let stop = if settings.leave_running {
            vec!["true".to_owned()]
        } else {
            vec!["sh".to_owned(), script("stop.sh"), at.to_owned()]
        };
        // The port must be known before there is a master.
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let master = Master::builder().agent_address(socket.local_addr().unwrap().to_string()).build();
        let events = master.events(10_000);
        let listener = settings.listener.listen_on(&master, vec![socket]).unwrap();
        Self { master, listener, driver: CommandLatentWorker::new(start, stop), events, place }
    }

    pub(crate) fn place(&self) -> &Path {
        self.place.path()
    }

    /// A worker whose instance stays when it has nothing to do.
    pub(crate) fn worker(&self, name: &str) -> Worker {
        let config = WorkerConfig::new(name).with_idle(IdlePolicy::After(Duration::from_secs(600)));
        self.master.add_worker(config, self.driver.clone()).unwrap()
    }

    /// The process group of the instance that a worker has, or had last.
    pub(crate) fn group(&self, worker: &str) -> Pid {
        let group = fs::read_to_string(self.place().join(format!("{worker}.group"))).unwrap();
        Pid::from_raw(group.trim().parse().unwrap()).unwrap()
    }

    pub(crate) fn kill(&self, worker: &str, signal: Signal) {
        kill_process_group(self.group(worker), signal).unwrap();
    }

    /// Whether the agent of this process group ends by itself in time.
    pub(crate) fn ends(&self, group: Pid) -> bool {
        let ended = self.place().join(format!("ended.{}", group.as_raw_nonzero()));
        eventually(|| ended.exists())
    }

    pub(crate) fn await_event(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.events.recv_deadline(deadline).expect("the event comes in time");
            if wanted(&event) {
                return event;
            }
        }
    }

    pub(crate) fn await_kind(&self, wanted: &EventKind) -> Event {
        self.await_event(|event| event.kind == *wanted)
    }

    pub(crate) fn finish(self) {
        let report = self.master.shutdown(ShutdownMode::Fast, PATIENCE);
        assert!(report.complete, "{report}");
        assert!(self.listener.shutdown(PATIENCE), "threads are left");
        for worker in self.master.workers() {
            let group = self.group(worker.name());
            assert!(eventually(|| is_gone(group)), "the agent of {} is left", worker.name());
        }
    }
}

/// Nobody may wait for it: where init does not do its duty it stays as a zombie.
pub(crate) fn is_gone(pid: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || state.is_ok_and(|state| state.contains(") Z "))
}

/// For what nobody tells.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

pub(crate) fn lease(worker: &Worker) -> Lease {
    let mut request = worker.substantiate(&Build::new("a build"));
    request.wait_timeout(PATIENCE).expect("the worker attaches in time").unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The next item, which must come in time.
pub(crate) fn next(running: &mut Running<'_>) -> Output {
    running.recv_timeout(PATIENCE).unwrap().expect("output comes in time")
}

/// What prints so many bytes in lines of 64, each with its number.
pub(crate) fn numbered_lines(bytes: usize) -> String {
    format!("awk 'BEGIN {{ for (i = 0; i < {}; i++) printf \"%063d\\n\", i }}'", bytes / 64)
}

/// Takes the output of [`numbered_lines`] to its end, and compares each line.
pub(crate) fn expect_numbered_lines(running: &mut Running<'_>, bytes: usize) -> CommandEnd {
    let (mut seen, mut number) = (Vec::new(), 0);
    let end = loop {
        match next(running) {
            Output::Stdout(bytes) => seen.extend(bytes),
            Output::End(end) => break end,
            other => panic!("{other:?}"),
        }
        let whole = seen.len() / 64 * 64;
        for line in seen.drain(..whole).as_slice().chunks(64) {
            assert_eq!(text(line), format!("{number:063}\n"));
            number += 1;
        }
    };
    assert_eq!((number, seen.len()), (bytes / 64, 0));
    end
}
