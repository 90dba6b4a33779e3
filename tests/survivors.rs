//! Tests processes that survive a kill because they have changed their user. The build, the start program or the agent
//! still ends, its error names the processes, and the instance is a leftover until they have ended.
//!
//! Such a process needs a user other than root, and a program that changes the user to root.
#![cfg(all(target_os = "linux", feature = "local", feature = "command", feature = "process"))]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use latent_worker::{
    Build, Command, CommandLatentWorker, IdlePolicy, LatentWorker, LeftoverStep, LocalLatentWorker, Master,
    ProcessLatentWorker, Worker, WorkerConfig,
};

/// In the environment of the process that is not root's: its directory.
const PLACE: &str = "LW_TEST_PLACE";
const NOBODY: &str = "65534";
const LONG: Duration = Duration::from_secs(60);

/// Runs the calling test once more, as another user. `None` in the process that is to do that; the directory of the test
/// in the one that was run.
fn as_nobody() -> Option<PathBuf> {
    if let Some(place) = std::env::var_os(PLACE) {
        return Some(place.into());
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let place = std::env::temp_dir().join(format!("lw-survivors-{}-{name}", std::process::id()));
    fs::create_dir(&place).unwrap();
    // A program cannot run while a child that another test has just forked holds its file open for writing.
    static COPIES: Mutex<()> = Mutex::new(());
    let copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = |from: &Path, name: &str, mode| {
        fs::copy(from, place.join(name)).unwrap();
        fs::set_permissions(place.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    // The tests may be where another user cannot go.
    copy(&std::env::current_exe().unwrap(), "tests", 0o755);
    copy(Path::new("/usr/bin/setpriv"), "become", 0o4755);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    let mut again = Program::new("/usr/bin/setpriv");
    again.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(place.join("tests"));
    again.args(["--exact", &name, "--include-ignored", "--nocapture"]);
    again.env(PLACE, &place).env("TMPDIR", &place).current_dir(&place).stdout(Stdio::piped()).stderr(Stdio::piped());
    let again = again.spawn().unwrap();
    drop(copies);
    let output = again.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    fs::remove_dir_all(&place).unwrap();
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    None
}

/// A line for the shell that becomes root's, and runs until somebody writes to the pipe `end`.
fn root(place: &Path) -> String {
    let place = place.display();
    let line = format!("echo $$ >{place}/pid; read x <{place}/end");
    format!("{place}/become --reuid 0 --regid 0 --clear-groups /bin/sh -c '{line}'")
}

/// Waits for the process of root.
fn pid(place: &Path) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        match fs::read_to_string(place.join("pid")) {
            Ok(pid) if pid.ends_with('\n') => return pid.trim().to_owned(),
            _ => assert!(Instant::now() < deadline, "it does not run"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pipe(place: &Path) {
    assert!(Program::new("mkfifo").arg(place.join("end")).status().unwrap().success());
}

fn farm(driver: impl LatentWorker) -> (Master, Worker) {
    let master = Master::builder().build();
    let worker = master.add_worker(WorkerConfig::new("w").with_idle(IdlePolicy::Never), driver).unwrap();
    (master, worker)
}

/// The stop has failed and names the process, and so does the reclaim as long as the process runs.
fn is_left_until_it_has_ended(master: &Master, worker: &Worker, place: &Path, pid: &str) {
    let expected = format!("process {pid} still runs after it was killed");
    let deadline = Instant::now() + LONG;
    assert!(worker.insubstantiate(false).wait_timeout(LONG));
    loop {
        let leftovers = master.leftovers();
        let [left] = &leftovers[..] else { panic!("{leftovers:?}") };
        assert!(left.reason.as_ref().is_none_or(|reason| reason.contains(&expected)), "{left:?}");
        // The stop has failed, and a reclaim too.
        if left.tries >= 1 && matches!(left.next, LeftoverStep::ReclaimIn(_)) {
            break;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(place.join("end"), "\n").unwrap();
    while !master.leftovers().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", master.leftovers());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root"]
fn j5_local_a_process_that_is_another_users_is_an_error_of_its_command_and_a_leftover() {
    let Some(place) = as_nobody() else { return };
    for line in [format!("exec {}", root(&place)), format!("{} & wait", root(&place))] {
        _ = fs::remove_file(place.join("pid"));
        _ = fs::remove_file(place.join("end"));
        pipe(&place);
        let (master, worker) = farm(LocalLatentWorker::new().root(place.join("instances")));
        let lease = worker.substantiate(&Build::new("b")).wait_timeout(LONG).unwrap().unwrap();
        let running = lease.start(&Command::shell(line)).unwrap();
        let pid = pid(&place);
        running.interrupt();
        let error = running.collect(0).unwrap_err().to_string();
        let expected = format!("interrupted; process {pid} still runs after it was killed");
        assert!(error.contains(&expected), "{error}");
        drop(running);
        drop(lease);
        is_left_until_it_has_ended(&master, &worker, &place, &pid);
    }
}

#[test]
#[ignore = "needs root"]
fn j5_process_an_agent_that_is_another_users_is_a_leftover() {
    let Some(place) = as_nobody() else { return };
    pipe(&place);
    let agent = ["/bin/sh".to_owned(), "-c".to_owned(), format!("exec {}", root(&place))];
    let (master, worker) = farm(ProcessLatentWorker::new(agent).grace(Duration::from_millis(50)));
    let _request = worker.warm_up();
    is_left_until_it_has_ended(&master, &worker, &place, &pid(&place));
}

#[test]
#[ignore = "needs root"]
fn j5_command_a_start_program_that_is_another_users_is_a_leftover() {
    let Some(place) = as_nobody() else { return };
    pipe(&place);
    let start = ["/bin/sh".to_owned(), "-c".to_owned(), format!("{} & wait", root(&place))];
    let driver = CommandLatentWorker::new(start, ["true"]).grace(Duration::from_millis(50));
    let (master, worker) = farm(driver);
    let request = worker.substantiate(&Build::new("b"));
    pid(&place);
    request.cancel();
    is_left_until_it_has_ended(&master, &worker, &place, &pid(&place));
}
