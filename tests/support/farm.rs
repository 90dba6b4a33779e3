//! The example `farm` as a process, in a directory of its own.
//!
//! `cargo test` builds the example; with one test target alone it must have been built before.

#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once, mpsc};
use std::thread;
use std::time::Duration;

/// Long enough for the slowest machine, short enough to see that something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Tests may themselves run under `nohup`, and what they start would ignore SIGHUP too. A signal that is handled is back at
/// its default in a program that is started.
fn heed_hangups() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| _ = signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default()).unwrap());
}

/// A directory of one test: the farm is started in it, its instances live in `instances`.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        heed_hangups();
        let name = format!("farm-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        let place = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::create_dir_all(place.path("instances")).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// A directory in which no directory can be created, and from which none must be removed.
    pub(crate) fn dangling_link(&self) -> PathBuf {
        let link = self.path("dangling");
        std::os::unix::fs::symlink("missing", &link).unwrap();
        link
    }

    /// A named pipe, through which builds and tests wait for each other.
    pub(crate) fn pipe(&self, name: &str) {
        let made = Command::new("mkfifo").arg(self.path(name)).status().unwrap();
        assert!(made.success());
    }

    pub(crate) fn farm(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.example("farm"));
        command.args(arguments);
        command
    }

    pub(crate) fn example(&self, name: &str) -> PathBuf {
        let tests = std::env::current_exe().unwrap();
        let profile = tests.ancestors().nth(2).unwrap();
        let example = profile.join("examples").join(name);
        assert!(example.exists(), "{} is missing: cargo build --example {name}", example.display());
        example
    }

    /// A program that runs here, as the farm does.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.0)
            .env("TMPDIR", self.path("instances"))
            .env_remove("CARGO_MANIFEST_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the farm to its end over these builds.
    pub(crate) fn run(&self, arguments: &[&str], jobs: &str) -> Ran {
        self.write("jobs", jobs);
        let arguments: Vec<_> = arguments.iter().copied().chain(["jobs"]).collect();
        end(self.farm(&arguments).spawn().unwrap())
    }

    pub(crate) fn record(&self) -> Vec<super::record::Line> {
        super::record::parse(&fs::read_to_string(self.path("events")).unwrap()).unwrap()
    }

    /// Nothing of any instance is left.
    pub(crate) fn assert_no_instances(&self) {
        let left: Vec<_> = fs::read_dir(self.path("instances")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Waits for the end, but not for ever.
pub(crate) fn end(child: Child) -> Ran {
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(LIMIT) else {
        signal("KILL", pid);
        panic!("the farm has not ended");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { status: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    ran
}

pub(crate) fn signal(name: &str, pid: u32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(sent.success());
}

/// Reads lines until one contains `text`, and returns that one.
pub(crate) fn wait_for(output: &mut BufReader<impl Read>, text: &str) -> String {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "{text:?} never came");
    }
    line
}

impl Ran {
    pub(crate) fn assert_status(&self, status: i32) {
        assert_eq!(self.status, Some(status), "{self:#?}");
    }

    pub(crate) fn assert_stdout_has(&self, text: &str) {
        assert!(self.stdout.contains(text), "no {text:?} in {self:#?}");
    }

    pub(crate) fn assert_stderr_has(&self, text: &str) {
        assert!(self.stderr.contains(text), "no {text:?} in {self:#?}");
    }
}
