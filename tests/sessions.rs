//! Processes on this machine have no terminal, even if the master was started from one: a build that tries to read from
//! the terminal gets an error, and is not stopped by the system.
#![cfg(all(target_os = "linux", feature = "local", feature = "command", feature = "process"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use latent_worker::{
    Build, Command, CommandLatentWorker, IdlePolicy, LatentWorker, LocalLatentWorker, Master, ProcessLatentWorker,
    Worker, WorkerConfig,
};

const PLACE: &str = "LW_TEST_PLACE";
const LONG: Duration = Duration::from_secs(60);

/// Writes the number of the process, that of its session, and what it reads from its terminal.
const ASK: &str = "set -- $(cat /proc/$$/stat); echo $1 $6; { read a </dev/tty; } 2>/dev/null || echo no terminal";

/// Runs the calling test once more, on a terminal. `None` in the process that is to do that; the directory of the test in
/// the one that was run.
fn on_a_terminal() -> Option<PathBuf> {
    if let Some(place) = std::env::var_os(PLACE) {
        fs::File::open("/dev/tty").expect("there is a terminal");
        return Some(place.into());
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let place = std::env::temp_dir().join(format!("lw-sessions-{}-{name}", std::process::id()));
    fs::create_dir(&place).unwrap();
    let line = format!("'{}' --exact {name} --nocapture", std::env::current_exe().unwrap().display());
    let mut script = Program::new("script");
    script.args(["-qec", &line, "/dev/null"]).env(PLACE, &place).stdin(Stdio::null());
    let output = script.output().unwrap();
    fs::remove_dir_all(&place).unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    None
}

fn assert_has_a_session_of_its_own(told: &str) {
    let mut lines = told.lines();
    let (pid, session) = lines.next().unwrap().split_once(' ').unwrap();
    assert_eq!(pid, session);
    assert_eq!(lines.next(), Some("no terminal"));
}

fn farm(driver: impl LatentWorker) -> (Master, Worker) {
    let master = Master::builder().build();
    let worker = master.add_worker(WorkerConfig::new("w").with_idle(IdlePolicy::Never), driver).unwrap();
    (master, worker)
}

fn wait_for(file: &Path) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with("terminal\n") => return text,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn shell(place: &Path, rest: &str) -> [String; 3] {
    let told = place.join("told");
    ["/bin/sh".into(), "-c".into(), format!("{{ {ASK}; }} >'{}'; {rest}", told.display())]
}

#[test]
fn a_command_of_a_local_instance_has_no_terminal() {
    let Some(place) = on_a_terminal() else { return };
    let (_master, worker) = farm(LocalLatentWorker::new().root(&place));
    let lease = worker.substantiate(&Build::new("b")).wait_timeout(LONG).unwrap().unwrap();
    let finished = lease.run(&Command::shell(ASK).time_limit(LONG)).unwrap();
    assert_has_a_session_of_its_own(std::str::from_utf8(&finished.stdout).unwrap());
    let missing = lease.run(&Command::exec(["./no-such-program"])).unwrap_err().to_string();
    assert!(missing.starts_with("cannot start \"./no-such-program\": No such file"), "{missing}");
    let running = lease.start(&Command::shell("sleep 1000 & sleep 1000")).unwrap();
    running.interrupt();
    assert!(!running.collect(0).unwrap().success());
}

#[test]
fn an_agent_that_is_a_child_process_has_no_terminal() {
    let Some(place) = on_a_terminal() else { return };
    let (_master, worker) = farm(ProcessLatentWorker::new(shell(&place, "cat")));
    let _request = worker.warm_up();
    assert_has_a_session_of_its_own(&wait_for(&place.join("told")));
}

#[test]
fn a_start_program_has_no_terminal() {
    let Some(place) = on_a_terminal() else { return };
    let (_master, worker) = farm(CommandLatentWorker::new(shell(&place, "exit 1"), ["true"]));
    let _request = worker.warm_up();
    assert_has_a_session_of_its_own(&wait_for(&place.join("told")));
}
