//! What tests of drivers that run programs have in common: real shells, told through named pipes.

#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use latent_worker::{
    Attachment, Build, Event, EventKind, IdlePolicy, LatentWorker, Lease, Master, SubstantiateError, Worker,
    WorkerConfig,
};

pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const SOON: Duration = Duration::from_millis(100);
/// A grace that no test waits for.
pub(crate) const NO_END: Duration = Duration::from_secs(1000);

/// Tells through the pipe `asked` that it was asked to end, and does not.
pub(crate) const IGNORES_SIGTERM: &str =
    "trap 'echo >asked' TERM; (trap '' TERM; exec sleep 1000) & while :; do wait; done";

/// A directory of one test, in which its programs run, gone with it.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-program-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A program that runs these lines in this directory.
    pub(crate) fn sh(&self, lines: &str) -> [String; 3] {
        ["/bin/sh".to_owned(), "-c".to_owned(), format!("cd '{}' || exit 99\n{lines}", self.0.display())]
    }

    /// Makes a named pipe.
    pub(crate) fn pipe(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    /// Makes a named pipe, and delivers what is written to it up to the moment when the last writer is gone.
    pub(crate) fn told(&self, name: &str) -> Told {
        let path = self.pipe(name);
        told(move || fs::read_to_string(path).unwrap())
    }

    /// Makes a named pipe that is a lifeline: the first item says that somebody holds it, the second that nobody does.
    pub(crate) fn lifeline(&self, name: &str) -> mpsc::Receiver<()> {
        let path = self.pipe(name);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = fs::File::open(path).unwrap();
            let _ = sender.send(());
            line.read_to_end(&mut Vec::new()).unwrap();
            let _ = sender.send(());
        });
        receiver
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The variables of ours in a file that `env` has written.
    pub(crate) fn variables(&self, name: &str) -> BTreeMap<String, String> {
        let text = self.read(name);
        let variables = text.lines().filter_map(|line| line.strip_prefix("LATENT_WORKER_")?.split_once('='));
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Told(mpsc::Receiver<String>);

impl Told {
    pub(crate) fn wait(&self) -> String {
        self.0.recv_timeout(LONG).expect("nobody tells")
    }
}

pub(crate) fn told(wait: impl FnOnce() -> String + Send + 'static) -> Told {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(wait()));
    Told(receiver)
}

/// A master with one worker, and all that an observer sees of it.
pub(crate) struct Farm {
    pub(crate) worker: Worker,
    pub(crate) events: crossbeam_channel::Receiver<Event>,
    pub(crate) master: Master,
}

impl Farm {
    pub(crate) fn new(driver: impl LatentWorker) -> Self {
        Self::with(driver, |config| config)
    }

    pub(crate) fn with(driver: impl LatentWorker, change: impl FnOnce(WorkerConfig) -> WorkerConfig) -> Self {
        let master = Master::builder().agent_address("farm.example:9989").build();
        let events = master.events(10_000);
        let config = WorkerConfig::new("w 1").with_idle(IdlePolicy::Never);
        let worker = master.add_worker(change(config), driver).unwrap();
        Self { master, worker, events }
    }

    /// Starts an instance whose start program tells the secret through the pipe `secret`, and attaches for it.
    pub(crate) fn attached(&self, secret: &Told, build: &Build) -> (Lease, Attachment) {
        let mut request = self.worker.substantiate(build);
        let attachment = self.master.attach("w 1", secret.wait().trim(), ()).unwrap();
        (request.wait_timeout(LONG).expect("an answer").unwrap(), attachment)
    }

    /// Starts an instance that does not come up, and waits until all is over.
    pub(crate) fn failure(&self) -> SubstantiateError {
        let answer = self.worker.substantiate(&Build::new("test")).wait_timeout(LONG).expect("an answer");
        self.stop(false);
        answer.unwrap_err()
    }

    pub(crate) fn stop(&self, fast: bool) {
        assert!(self.worker.insubstantiate(fast).wait_timeout(LONG), "the stop does not end");
    }

    pub(crate) fn wait_for<T>(&self, pick: impl Fn(EventKind) -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        loop {
            let event = self.events.recv_deadline(deadline).expect("an event");
            if let Some(found) = pick(event.kind) {
                return found;
            }
        }
    }

    pub(crate) fn started(&self) -> Result<Vec<String>, String> {
        self.wait_for(|kind| match kind {
            EventKind::StartReturned { result } => Some(result.map_err(|reason| reason.to_string())),
            _ => None,
        })
    }

    pub(crate) fn stopped(&self) -> Result<(), String> {
        self.wait_for(|kind| match kind {
            EventKind::StopReturned { result } => Some(result.map_err(|reason| reason.to_string())),
            _ => None,
        })
    }

    pub(crate) fn progress(&self) -> Vec<String> {
        let texts = self.events.try_iter().filter_map(|event| match event.kind {
            EventKind::Progress { text } => Some(text.to_string()),
            _ => None,
        });
        texts.collect()
    }
}

/// Runs a test by itself in a process of its own, with these variables. True in that process.
pub(crate) fn alone(variables: &[(&str, &str)]) -> bool {
    const ALONE: &str = "LW_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", &name, "--test-threads=1", "--nocapture"]).env(ALONE, "1").envs(variables.iter().copied());
    let output = again.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    false
}
