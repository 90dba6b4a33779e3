//! The driver of child processes under a real master: shells are the agents, and the tests attach for them.
//!
//! Agents and tests tell each other through named pipes where they are, so that nobody sleeps for that.
#![cfg(all(feature = "process", unix))]

#[path = "support/programs.rs"]
mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use latent_worker::{Build, BuildError, EventKind, FailureCause, ProcessLatentWorker, SubstantiateError, WorkerConfig};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid};

use programs::{Farm, IGNORES_SIGTERM, LONG, NO_END, Place, SOON, alone, told};

fn driver(place: &Place, agent: &str) -> ProcessLatentWorker {
    ProcessLatentWorker::new(place.sh(agent)).grace(NO_END)
}

/// Checks as often as that makes sense.
fn checked(config: WorkerConfig) -> WorkerConfig {
    config.with_check_instance_interval(Duration::from_millis(10))
}

/// The pid in what a start has returned.
fn pid(farm: &Farm) -> Pid {
    let details = farm.started().unwrap();
    let [detail] = details.as_slice() else { panic!("{details:?}") };
    Pid::from_raw(detail.strip_prefix("pid ").unwrap().parse().unwrap()).unwrap()
}

#[test]
fn d1_d4_a_whole_life_and_what_the_agent_is_told() {
    // A master within an instance of another master: what that was told is not for its own agents.
    let outer = ["NAME", "SECRET", "SECRET_FILE", "MASTER", "KEY", "EPOCH", "OWNER", "INSTANCE", "FAST"];
    let outer: Vec<_> = outer
        .iter()
        .chain(&["PROPERTY_image", "PROPERTY_x"])
        .map(|name| (format!("LATENT_WORKER_{name}"), "outer"))
        .collect();
    let mut outer: Vec<_> = outer.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    outer.push(("INHERITED", "yes"));
    if !alone(&outer) {
        return;
    }
    let place = Place::new();
    let (secret, bye) = (place.told("secret"), place.told("bye"));
    let agent = "env >told; echo $$ >pid; sleep 1000 & trap 'echo bye >bye; exit 3' TERM; \
                 echo $LATENT_WORKER_SECRET >secret; wait";
    let farm = Farm::with(driver(&place, agent), checked);
    let build = Build::new("test").with_property("image", "a 'b'").with_property("os.version", "");
    let mut request = farm.worker.substantiate(&build);
    let secret = secret.wait().trim().to_owned();
    let _attachment = farm.master.attach("w 1", &secret, ()).unwrap();
    drop(request.wait_timeout(LONG).unwrap().unwrap());
    assert_eq!(pid(&farm).to_string(), place.read("pid").trim());
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()), "how an agent ends that was told to is its own affair");
    assert_eq!(bye.wait(), "bye\n");

    let seen = place.variables("told");
    let key = seen["KEY"].clone();
    assert!(key.len() == 32 && key.chars().all(|digit| digit.is_ascii_hexdigit()), "{key}");
    let owner = seen["OWNER"].clone();
    assert!(owner.len() == 32 && owner != key, "{owner}");
    let expected = [
        ("NAME", "w 1"),
        ("SECRET", &secret),
        ("MASTER", "farm.example:9989"),
        ("KEY", &key),
        ("EPOCH", "1"),
        ("OWNER", &owner),
        ("PROPERTY_image", "a 'b'"),
        ("PROPERTY_os_version", ""),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(seen, expected);
    assert!(place.read("told").lines().any(|line| line == "INHERITED=yes"));
}

/// What only another process can see: the end of a process that holds a master.
#[test]
fn an_agent_reads_the_end_of_its_standard_input_when_its_masters_process_is_killed() {
    const PLACE: &str = "LW_TEST_PLACE";
    if let Some(place) = std::env::var_os(PLACE) {
        let agent = "echo >up; cat >read; echo end >down";
        let agent = format!("cd '{}' || exit 99; {agent}", place.to_str().unwrap());
        let farm = Farm::new(ProcessLatentWorker::new(["/bin/sh", "-c", &agent]));
        let _request = farm.worker.substantiate(&Build::new("test"));
        loop {
            std::thread::park();
        }
    }
    let place = Place::new();
    let (up, down) = (place.told("up"), place.told("down"));
    let name = std::thread::current().name().unwrap().to_owned();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .env(PLACE, place.path(""))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    up.wait();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(down.wait(), "end\n");
    assert_eq!(place.read("read"), "");
}

#[test]
fn a1_the_secret_can_be_in_a_private_file_that_goes_with_the_instance() {
    let place = Place::new();
    let file = place.told("file");
    let agent = "env >told; echo $LATENT_WORKER_SECRET_FILE >file; cat";
    let farm = Farm::new(driver(&place, agent).secret_in_file());
    let mut request = farm.worker.substantiate(&Build::new("test"));
    let file = PathBuf::from(file.wait().trim());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let secret = fs::read_to_string(&file).unwrap();
    let _attachment = farm.master.attach("w 1", &secret, ()).unwrap();
    drop(request.wait_timeout(LONG).unwrap().unwrap());
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()));
    assert!(!file.parent().unwrap().exists());
    assert!(!place.variables("told").contains_key("SECRET") && !place.read("told").contains(&secret));
}

#[test]
fn d2_the_directory_of_an_instance_is_private_and_goes_with_it_also_when_its_agent_was_killed() {
    let place = Place::new();
    let at = place.told("at");
    let agent = "mkdir -p $LATENT_WORKER_DIRECTORY/a/b; touch $LATENT_WORKER_DIRECTORY/a/b/file
        chmod 500 $LATENT_WORKER_DIRECTORY/a; echo $LATENT_WORKER_DIRECTORY >at; kill -9 $$";
    let farm = Farm::with(driver(&place, agent).private_directory(), checked);
    let request = farm.worker.substantiate(&Build::new("test"));
    let directory = PathBuf::from(at.wait().trim());
    assert_eq!(fs::metadata(&directory).map(|metadata| metadata.permissions().mode() & 0o777).unwrap_or(0o700), 0o700);
    assert!(matches!(request.wait(), Err(SubstantiateError::Failed { .. })), "the agent is dead");
    assert_eq!(farm.stopped(), Ok(()));
    assert!(directory.is_absolute() && !directory.exists());
}

#[test]
fn w10_an_agent_that_ends_before_it_attaches_is_a_failure_with_its_last_words() {
    let place = Place::new();
    let reason = |agent: &str| match Farm::with(driver(&place, agent), checked).failure() {
        SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason } => reason.to_string(),
        other => panic!("{other:?}"),
    };
    let seen = reason("echo out; echo first >&2; echo no such master >&2; echo >&2; exit 3");
    assert!(seen.ends_with("no such master (exit code 3)"), "{seen}");
    let seen = reason("printf 'no newline' >&2; kill -9 $$");
    assert!(seen.ends_with("no newline (killed by signal 9)"), "{seen}");
    let seen = reason("exit 0");
    assert!(seen.ends_with("/bin/sh: exit code 0, and it did not say why"), "{seen}");
    // Others hold its output.
    let seen = reason("sleep 1000 & echo gone >&2; exit 1");
    assert!(seen.ends_with("gone (exit code 1)"), "{seen}");
}

#[test]
fn w10_an_agent_that_runs_is_well() {
    let place = Place::new();
    let farm = Farm::with(driver(&place, "cat"), checked);
    let _request = farm.worker.substantiate(&Build::new("test"));
    // The check after one that was bad would not come.
    for _ in 0..3 {
        let result = farm.wait_for(|kind| match kind {
            EventKind::CheckReturned { result } => Some(format!("{result:?}")),
            _ => None,
        });
        assert!(result.starts_with("Ok"), "{result}");
    }
    farm.stop(false);
}

#[test]
fn d3_stopping_what_is_gone_succeeds_and_ends_what_it_left_at_once() {
    let place = Place::new();
    let line = place.lifeline("line");
    let farm = Farm::new(driver(&place, "trap '' TERM; sleep 1000 3>line & exit 1"));
    let _request = farm.worker.substantiate(&Build::new("test"));
    line.recv_timeout(LONG).unwrap();
    let pid = pid(&farm);
    // It can be waited for as often as one likes until it is reaped.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()));
    line.recv_timeout(LONG).expect("the rest is killed");
}

#[test]
fn a_stop_sends_sigterm_to_the_whole_group() {
    let place = Place::new();
    let (ready, leader, child) = (place.told("ready"), place.told("leader"), place.told("child"));
    let agent = "trap 'echo leader >leader; exit' TERM; \
                 sh -c 'trap \"sleep 0.2; echo child >child; exit\" TERM; echo >ready; while :; do sleep 0.01; done' & \
                 wait";
    let farm = Farm::new(driver(&place, agent));
    let _request = farm.worker.substantiate(&Build::new("test"));
    ready.wait();
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()));
    assert_eq!(leader.wait(), "leader\n");
    assert_eq!(child.wait(), "child\n", "it has the grace too when the agent goes at once");
}

#[test]
fn what_ignores_sigterm_is_killed_after_the_grace_with_its_children() {
    let place = Place::new();
    let line = place.lifeline("line");
    let farm = Farm::new(driver(&place, "trap '' TERM; exec 3>line; sleep 1000 & sleep 1000").grace(SOON));
    let _request = farm.worker.substantiate(&Build::new("test"));
    line.recv_timeout(LONG).unwrap();
    let began = Instant::now();
    farm.stop(false);
    assert!(began.elapsed() >= SOON, "the grace was not given");
    assert_eq!(farm.stopped(), Ok(()));
    line.recv_timeout(LONG).expect("everybody is killed");
}

#[test]
fn s1_a_fast_stop_has_next_to_no_grace() {
    let place = Place::new();
    let line = place.lifeline("line");
    let farm = Farm::new(driver(&place, "trap '' TERM; exec 3>line; sleep 1000 & sleep 1000"));
    let _request = farm.worker.substantiate(&Build::new("test"));
    line.recv_timeout(LONG).unwrap();
    farm.stop(true);
    assert_eq!(farm.stopped(), Ok(()));
    line.recv_timeout(LONG).expect("everybody is killed");
}

#[test]
fn s0_a_hurried_stop_has_next_to_no_grace_left() {
    let place = Place::new();
    let (line, asked) = (place.lifeline("line"), place.told("asked"));
    // It tells that it runs once it ignores the signal, not before.
    let farm = Farm::new(driver(&place, &IGNORES_SIGTERM.replacen("; ", "; exec 3>line; ", 1)));
    let _request = farm.worker.substantiate(&Build::new("test"));
    line.recv_timeout(LONG).unwrap();
    farm.worker.insubstantiate(false);
    asked.wait();
    farm.stop(true);
    assert_eq!(farm.stopped(), Ok(()));
    line.recv_timeout(LONG).expect("everybody is killed");
}

#[test]
fn d2_w5_a_cancelled_start_is_stopped() {
    let place = Place::new();
    let line = place.lifeline("line");
    let farm = Farm::new(driver(&place, "exec 3>line; cat"));
    let mut request = farm.worker.substantiate(&Build::new("test"));
    line.recv_timeout(LONG).unwrap();
    request.cancel();
    assert_eq!(request.wait_timeout(LONG).unwrap().err(), Some(SubstantiateError::Cancelled));
    line.recv_timeout(LONG).expect("it is ended");
    assert_eq!(farm.stopped(), Ok(()));
    assert_eq!(farm.worker.status().quarantine, None);
}

#[test]
fn d2_an_agent_that_cannot_be_started_is_a_failure_that_leaves_nothing() {
    let place = Place::new();
    if !alone(&[("TMPDIR", place.path("").to_str().unwrap())]) {
        return;
    }
    let farm = Farm::new(ProcessLatentWorker::new([place.path("missing")]).secret_in_file());
    let failure = farm.failure();
    assert!(matches!(failure, SubstantiateError::Failed { cause: FailureCause::Infrastructure, .. }));
    assert!(failure.to_string().contains("missing: No such file"), "{failure}");
    assert_eq!(farm.stopped(), Ok(()));
    let left = fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with("latent-worker-")).collect();
    assert!(left.is_empty(), "{left:?}");
    let none = Farm::new(ProcessLatentWorker::new([""; 0])).failure();
    assert!(none.to_string().contains("no program was given"), "{none}");
}

#[test]
fn d2_properties_that_cannot_be_variables_end_the_build_and_run_nothing() {
    let place = Place::new();
    let farm = Farm::new(driver(&place, "touch ran"));
    let build = Build::new("test").with_property("a-b", "1").with_property("a.b", "2");
    let answer = farm.master.submit(build).wait_timeout(LONG).expect("an answer in time");
    assert!(matches!(&answer, Err(BuildError::Cannot { reason, .. }) if reason.contains("a-b")), "{answer:?}");
    let build = Build::new("test").with_property("long", "x".repeat(10 << 20));
    let answer = farm.master.submit(build).wait_timeout(LONG).expect("an answer in time");
    assert!(matches!(&answer, Err(BuildError::Cannot { reason, .. }) if reason.contains("too long")), "{answer:?}");
    farm.stop(false);
    assert!(!place.path("ran").exists());
}

#[test]
fn a_stop_of_what_somebody_else_has_reaped_says_that_it_cannot_know() {
    let place = Place::new();
    let farm = Farm::new(driver(&place, "cat"));
    let _request = farm.worker.substantiate(&Build::new("test"));
    let pid = pid(&farm);
    kill_process(pid, Signal::KILL).unwrap();
    waitpid(Some(pid), WaitOptions::empty()).unwrap();
    farm.stop(false);
    let stopped = farm.stopped().unwrap_err();
    assert!(stopped.contains("how /bin/sh ended is unknown"), "{stopped}");
}

#[test]
fn much_output_blocks_no_agent() {
    let place = Place::new();
    let secret = place.told("secret");
    let flood = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; yes | head -c 2000000 >&2";
    let farm = Farm::new(driver(&place, &format!("{flood}; echo $LATENT_WORKER_SECRET >secret; cat")));
    drop(farm.attached(&secret, &Build::new("test")));
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()));
    assert_eq!(farm.progress(), [""; 0]);
}

#[test]
fn a1_what_the_agent_says_is_logged_without_the_secret() {
    struct Logger(std::sync::Mutex<Vec<String>>);
    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
        fn flush(&self) {}
    }
    static LOGGER: Logger = Logger(std::sync::Mutex::new(Vec::new()));
    if !alone(&[]) {
        return;
    }
    log::set_logger(&LOGGER).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let place = Place::new();
    let agent = "echo one; echo two $LATENT_WORKER_SECRET >&2; echo $LATENT_WORKER_SECRET >secret; exit 1";
    let shown = format!("{:?}", driver(&place, agent));
    let farm = Farm::with(driver(&place, agent), checked);
    let failure = farm.failure();
    assert!(failure.to_string().ends_with("two (secret) (exit code 1)"), "{failure}");
    drop(farm);
    let secret = place.read("secret");
    let seen = LOGGER.0.lock().unwrap().clone();
    for line in ["agent stdout: one", "agent stderr: two (secret)"] {
        assert!(seen.contains(&format!("w 1 (attempt 1): {line}")), "{seen:?}");
    }
    assert!(!format!("{seen:?}").contains(&secret[..16]));
    assert!(shown.contains("/bin/sh") && !shown.contains("exit 1"), "arguments are not shown: {shown}");
}

#[test]
fn w11_an_instance_fits_builds_with_the_same_values_of_what_matters() {
    let place = Place::new();
    let agent = "echo start >>starts; echo $LATENT_WORKER_SECRET >secret; cat";
    let farm = Farm::new(driver(&place, agent).compatible_by(["image"]));
    let build =
        |image: &str, other: &str| Build::new("test").with_property("image", image).with_property("other", other);
    let path = place.pipe("secret");
    let mut attachments = Vec::new();
    for (build, starts) in [(build("a", "1"), 1), (build("a", "2"), 1), (build("b", "2"), 2), (Build::new("none"), 3)] {
        let ticket = farm.master.submit(build);
        if attachments.len() < starts {
            let path = path.clone();
            let secret = told(move || fs::read_to_string(path).unwrap()).wait();
            attachments.push(farm.master.attach("w 1", secret.trim(), ()).unwrap());
        }
        drop(ticket.wait_timeout(LONG).expect("an answer in time").unwrap());
        assert_eq!(place.read("starts").lines().count(), starts);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_no_descriptor_and_no_process_is_left_behind() {
    if !alone(&[]) {
        return;
    }
    let place = Place::new();
    let farm = Farm::with(driver(&place, "sleep 1000 & exit 1").secret_in_file(), checked);
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let children = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect::<String>()
    };
    let cycle = || {
        farm.worker.unpause();
        farm.failure();
        assert_eq!(farm.stopped(), Ok(()));
    };
    cycle();
    let before = (count("fd"), count("task"));
    (0..20).for_each(|_| cycle());
    assert_eq!(children(), "");
    // A thread can be joined a moment before the system has taken it off its list.
    let deadline = Instant::now() + LONG;
    let more = |now: (usize, usize)| now.0 > before.0 || now.1 > before.1;
    while more((count("fd"), count("task"))) {
        assert!(Instant::now() < deadline, "{:?}, and before {before:?}", (count("fd"), count("task")));
        std::thread::yield_now();
    }
}
