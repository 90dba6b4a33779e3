//! An engine of a test's own, which may be ended and started again in the middle of things.
//!
//! It has no bridge, so that its containers use the network of the host. And it must have a network namespace of its own:
//! a dockerd that is to have no bridge removes the one that it finds, whosever it is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::engine::Engine;
use super::eventually;
use super::images::busybox;

/// Runs the test that calls it once more, by itself, in a network namespace of its own. True in there.
pub(crate) fn in_own_network() -> bool {
    const THERE: &str = "LW_TEST_OWN_NETWORK";
    if std::env::var_os(THERE).is_some() {
        return true;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let mut again = Command::new("unshare");
    again.args(["--net", "sh", "-c", r#""$0" ip link set lo up && exec "$@""#]).arg(busybox());
    again.arg(std::env::current_exe().unwrap()).args(["--exact", &name, "--include-ignored", "--nocapture"]);
    let output = again.env(THERE, "1").output().expect("unshare is installed");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    false
}

pub(crate) struct Daemon {
    directory: PathBuf,
    more: Vec<OsString>,
    process: Option<Child>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_with([])
    }

    /// With more arguments.
    pub(crate) fn start_with(more: impl IntoIterator<Item = OsString>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Sockets have short paths: a build directory may be too deep.
        let name = format!("lw-dockerd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("root")).unwrap();
        fs::create_dir_all(directory.join("exec")).unwrap();
        let mut daemon = Self { directory, more: more.into_iter().collect(), process: None };
        daemon.resume();
        daemon
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::at(format!("unix://{}/docker.sock", self.directory.display()))
    }

    /// Starts it with what it had.
    pub(crate) fn resume(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let at = |name: &str| self.directory.join(name);
        let log = File::options().create(true).append(true).open(at("log")).unwrap();
        let mut program = Command::new("dockerd");
        program.arg("--data-root").arg(at("root")).arg("--exec-root").arg(at("exec")).arg("-p").arg(at("docker.pid"));
        program.args(["-H", &format!("unix://{}", at("docker.sock").display())]);
        program.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--userland-proxy=false"]);
        program.args(&self.more);
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = program.spawn().expect("dockerd is installed");
        self.process = Some(process);
        let engine = self.engine();
        assert!(eventually(|| engine.answers()), "dockerd does not come up: {}", self.log());
    }

    /// Ends it as a system that goes down does: its containers are stopped.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        process.wait().unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = kill_process(Pid::from_child(&process), Signal::TERM);
            let _ = process.wait();
        }
        // It leaves mounts behind: of its overlays, and of the network namespaces that it has used.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(&self.directory)) {
            let _ = Command::new("umount").arg(place).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
