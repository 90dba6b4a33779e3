//! The driver of programs under a real master: real shells, real processes; agents are attached by the tests.
//!
//! Programs and tests tell each other through named pipes where they are, so that nobody sleeps for that.
#![cfg(all(feature = "command", unix))]

#[path = "support/programs.rs"]
mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use latent_worker::{Build, BuildError, CommandLatentWorker, EventKind, FailureCause, SubstantiateError, WorkerConfig};

use programs::{Farm, IGNORES_SIGTERM, LONG, NO_END, Place, SOON, alone, told};

fn driver(place: &Place, start: &str, stop: &str) -> CommandLatentWorker {
    CommandLatentWorker::new(place.sh(start), place.sh(stop)).grace(NO_END)
}

#[test]
fn d1_d4_a_whole_life_and_what_each_program_is_told() {
    // A master within an instance of another master: what that was told is not for its own programs.
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
    let (secret, checked) = (place.told("secret"), place.told("checked"));
    let driver =
        driver(&place, "env >start; cat; echo id 7; echo more; echo $LATENT_WORKER_SECRET >secret", "env >stop; cat")
            .check(place.sh("[ -e check ] || { env >check; cat; echo >checked; }"));
    let farm = Farm::with(driver, |config| config.with_check_instance_interval(Duration::from_millis(10)));
    let build = Build::new("test").with_property("image", "a 'b'").with_property("os.version", "");
    let mut request = farm.worker.substantiate(&build);
    let secret = secret.wait().trim().to_owned();
    checked.wait();
    let _attachment = farm.master.attach("w 1", &secret, ()).unwrap();
    drop(request.wait_timeout(LONG).unwrap().unwrap());
    assert_eq!(farm.started(), Ok(vec!["id 7".to_owned()]));
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()));

    let start = place.variables("start");
    let key = start["KEY"].clone();
    assert!(key.len() == 32 && key.chars().all(|digit| digit.is_ascii_hexdigit()), "{key}");
    let owner = start["OWNER"].clone();
    assert!(owner.len() == 32 && owner != key, "{owner}");
    let common = [
        ("NAME", "w 1"),
        ("SECRET", &secret),
        ("MASTER", "farm.example:9989"),
        ("KEY", &key),
        ("EPOCH", "1"),
        ("OWNER", &owner),
        ("PROPERTY_image", "a 'b'"),
        ("PROPERTY_os_version", ""),
    ];
    let expected = |more: &[(&str, &str)]| -> BTreeMap<String, String> {
        common.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(start, expected(&[]));
    assert_eq!(place.variables("check"), expected(&[("INSTANCE", "id 7")]));
    assert_eq!(place.variables("stop"), expected(&[("INSTANCE", "id 7"), ("FAST", "0")]));
    assert!(place.read("start").lines().any(|line| line == "INHERITED=yes"));
}

/// Runs a start program that fails, and returns the failure and what its stop program was told.
fn failing(start: &str) -> (SubstantiateError, BTreeMap<String, String>, Farm) {
    let place = Place::new();
    let farm = Farm::new(driver(&place, &format!("echo $LATENT_WORKER_KEY >key; {start}"), "env >stop"));
    let failure = farm.failure();
    let stop = place.variables("stop");
    assert_eq!(stop["KEY"], place.read("key").trim());
    assert_eq!(farm.stopped(), Ok(()));
    (failure, stop, farm)
}

#[test]
fn w2_a_failed_start_is_stopped_by_its_key_and_without_an_instance() {
    let (_, stop, _) = failing("exit 1");
    assert!(!stop.contains_key("INSTANCE"), "{stop:?}");
    // Half a line may be half an id.
    assert!(!failing("printf 12; exit 1").1.contains_key("INSTANCE"));
}

#[test]
fn w2_a_failed_start_that_told_its_instance_is_stopped_with_it() {
    assert_eq!(failing("echo id-7; exit 1").1["INSTANCE"], "id-7");
    assert_eq!(failing("echo; exit 1").1["INSTANCE"], "");
}

#[test]
fn b3_exit_code_65_is_the_builds_own_fault() {
    let place = Place::new();
    let farm = Farm::new(driver(&place, "echo first >&2; echo no such image >&2; echo ' ' >&2; exit 65", ""));
    let answer = farm.master.submit(Build::new("test")).wait_timeout(LONG).expect("an answer in time");
    let Err(BuildError::Cannot { reason, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(&*reason, "no such image");
    farm.stop(false);
    assert_eq!(farm.worker.status().quarantine, None);
}

#[test]
fn w12_exit_code_75_is_a_lack_of_capacity() {
    let (failure, _, farm) = failing("echo all taken >&2; exit 75");
    let SubstantiateError::Failed { cause: FailureCause::Capacity, reason } = failure else { panic!("{failure:?}") };
    assert!(reason.ends_with("all taken"), "{reason}");
    assert!(farm.worker.status().quarantine.is_some());
}

#[test]
fn w12_every_other_end_is_a_failure_with_the_last_words() {
    let reason = |start: &str| match failing(start) {
        (SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason }, _, farm) => {
            assert!(farm.worker.status().quarantine.is_some());
            reason.to_string()
        }
        (other, ..) => panic!("{other:?}"),
    };
    assert!(reason("echo out; echo why >&2; echo >&2; exit 1").ends_with("why (exit code 1)"));
    assert!(reason("printf 'no newline' >&2; exit 255").ends_with("no newline (exit code 255)"));
    assert!(reason("echo busy >&2; kill -9 $$").ends_with("busy (killed by signal 9)"));
    assert!(reason("exit 64").ends_with("/bin/sh: exit code 64, and it did not say why"));
}

#[test]
fn properties_that_would_be_one_variable_end_the_build_and_run_nothing() {
    let place = Place::new();
    let farm = Farm::new(driver(&place, "touch ran", "touch ran"));
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
fn w5_a_cancel_sends_sigterm_to_the_group_and_stops_with_what_was_told() {
    let place = Place::new();
    let (term, line) = (place.told("term"), place.lifeline("line"));
    let farm = Farm::new(driver(
        &place,
        "echo id-7; trap 'exec 4>term; echo leader >&4; exit 0' TERM; sleep 1000 3>line & wait; wait",
        "env >stop",
    ));
    let mut request = farm.worker.substantiate(&Build::new("test"));
    line.recv_timeout(LONG).unwrap();
    request.cancel();
    let answer = request.wait_timeout(LONG).unwrap();
    assert_eq!(answer.err(), Some(SubstantiateError::Cancelled));
    assert_eq!(term.wait(), "leader\n");
    line.recv_timeout(LONG).expect("the child is killed as well");
    assert_eq!(farm.started(), Err("the start was cancelled".to_owned()));
    farm.stop(false);
    assert_eq!(place.variables("stop")["INSTANCE"], "id-7");
    assert_eq!(farm.worker.status().quarantine, None);
}

#[test]
fn w5_what_ignores_sigterm_is_killed_after_the_grace_with_its_children() {
    let place = Place::new();
    let line = place.lifeline("line");
    let start = "printf 12; trap '' TERM; exec 3>line; sleep 1000 & sleep 1000";
    let farm = Farm::new(driver(&place, start, "env >stop").grace(SOON));
    let mut request = farm.worker.substantiate(&Build::new("test"));
    line.recv_timeout(LONG).unwrap();
    let cancelled = Instant::now();
    request.cancel();
    assert!(request.wait_timeout(LONG).unwrap().is_err());
    line.recv_timeout(LONG).expect("everybody is killed");
    assert!(cancelled.elapsed() >= SOON, "the grace was not given");
    farm.stop(false);
    assert!(!place.variables("stop").contains_key("INSTANCE"), "half a line may be half an id");
}

#[test]
fn w5_children_have_the_grace_too_when_their_leader_goes_at_once() {
    let place = Place::new();
    let (ready, cleaned) = (place.told("ready"), place.told("cleaned"));
    let child = "trap 'sleep 0.2; echo child >cleaned; exit' TERM; echo >ready; while :; do sleep 0.01; done";
    let farm = Farm::new(driver(&place, &format!("sh -c '{}' & wait", child.replace('\'', "'\\''")), ""));
    let request = farm.worker.substantiate(&Build::new("test"));
    ready.wait();
    request.cancel();
    assert_eq!(cleaned.wait(), "child\n");
    farm.stop(false);
}

#[test]
fn much_output_blocks_no_program_and_takes_little_memory() {
    // The memory of a whole process is looked at.
    if !alone(&[]) {
        return;
    }
    let place = Place::new();
    let secret = place.told("secret");
    let flood = "head -c 104857600 /dev/zero; head -c 104857600 /dev/zero >&2; yes | head -c 20000000 >&2";
    let farm = Farm::new(driver(
        &place,
        &format!("echo id; {flood}; echo $LATENT_WORKER_SECRET >secret"),
        "yes | head -c 10000000",
    ));
    let (lease, _attachment) = farm.attached(&secret, &Build::new("test"));
    drop(lease);
    farm.stop(false);
    if cfg!(target_os = "linux") {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
        let peak: usize = peak.trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 80 << 10, "{peak} KiB");
    }
    let progress = farm.progress();
    assert!((10..5_000).contains(&progress.len()), "observers are not flooded: {}", progress.len());
    // A byte that cannot be shown becomes one character of three bytes.
    assert!(progress.iter().all(|text| text.chars().count() <= 4096 + 1));
}

#[test]
fn lines_of_standard_error_are_progress() {
    let place = Place::new();
    let farm = Farm::new(driver(&place, "echo out; echo one >&2; echo >&2; printf 'two\\tx\\r\\n3' >&2; exit 1", ""));
    farm.failure();
    assert_eq!(farm.progress(), ["one", "two x", "3"]);
}

#[test]
fn an_instance_that_keeps_the_pipes_open_hangs_nothing_and_may_go_on_writing() {
    let place = Place::new();
    let (secret, line, alive) = (place.told("secret"), place.lifeline("line"), place.told("alive"));
    let ask = place.pipe("ask");
    let instance = "(exec 3>line; read go <ask; echo noise; echo noise >&2; echo yes >alive; exec sleep 1000)";
    let start = format!("{instance} & echo $!; echo $LATENT_WORKER_SECRET >secret");
    let farm = Farm::new(driver(&place, &start, "kill $LATENT_WORKER_INSTANCE"));
    let (lease, _attachment) = farm.attached(&secret, &Build::new("test"));
    assert_eq!(farm.started().unwrap().len(), 1);
    line.recv_timeout(LONG).unwrap();
    // Blocks until the instance opens it; that it does is what the next line is about.
    std::thread::spawn(move || fs::write(ask, "go\n"));
    assert_eq!(alive.wait(), "yes\n");
    drop(lease);
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()));
    line.recv_timeout(LONG).expect("the stop has ended it");
}

#[test]
fn a_start_may_close_its_output_and_say_nothing() {
    let place = Place::new();
    let secret = place.told("secret");
    let start = "exec >&- 2>&-; sleep 0.05; echo $LATENT_WORKER_SECRET >secret";
    let farm = Farm::new(driver(&place, start, "env >stop"));
    let (lease, _attachment) = farm.attached(&secret, &Build::new("test"));
    drop(lease);
    assert_eq!(farm.started(), Ok(vec![]));
    farm.stop(false);
    assert!(!place.variables("stop").contains_key("INSTANCE"));
}

#[test]
fn a_first_line_that_cannot_be_an_id_is_a_failure() {
    let place = Place::new();
    let reason = |start: &str| Farm::new(driver(&place, start, "")).failure().to_string();
    assert!(reason("head -c 5000 /dev/zero | tr '\\0' x; echo").contains("longer than 4096 bytes"));
    assert!(reason("printf 'a\\0b\\n'").contains("NUL"));
}

#[test]
fn a1_the_secret_can_be_in_a_private_file_that_goes_with_the_instance() {
    let place = Place::new();
    let file = place.told("file");
    let start = "env >start; echo $LATENT_WORKER_SECRET_FILE >file";
    let stop = "cat $LATENT_WORKER_SECRET_FILE >secret_at_stop; env >stop";
    let farm = Farm::new(driver(&place, start, stop).secret_in_file());
    let mut request = farm.worker.substantiate(&Build::new("test"));
    let file = PathBuf::from(file.wait().trim());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let secret = fs::read_to_string(&file).unwrap();
    let _attachment = farm.master.attach("w 1", &secret, ()).unwrap();
    drop(request.wait_timeout(LONG).unwrap().unwrap());
    farm.stop(false);
    assert_eq!(farm.stopped(), Ok(()));
    assert_eq!(place.read("secret_at_stop"), secret);
    assert!(!file.parent().unwrap().exists());
    for program in ["start", "stop"] {
        assert!(!place.variables(program).contains_key("SECRET"));
        assert!(!place.read(program).contains(&secret));
    }
}

#[test]
fn d2_the_file_with_the_secret_goes_after_a_failure_too() {
    let place = Place::new();
    let farm = Farm::new(driver(&place, "echo $LATENT_WORKER_SECRET_FILE >file; exit 1", "exit 1").secret_in_file());
    farm.failure();
    assert_eq!(farm.stopped(), Err("/bin/sh: exit code 1, and it did not say why".to_owned()));
    let file = PathBuf::from(place.read("file").trim());
    assert!(file.is_absolute() && !file.parent().unwrap().exists());
}

#[test]
fn a1_a_program_that_repeats_its_secret_does_not_spread_it() {
    let place = Place::new();
    // Once within a line, and once where a line is cut.
    let fill = "head -c 4070 /dev/zero | tr '\\0' x";
    let start = format!(
        "echo $LATENT_WORKER_SECRET >secret; {{ {fill}; echo $LATENT_WORKER_SECRET; }} >&2; \
         echo \"-e S=$LATENT_WORKER_SECRET $LATENT_WORKER_SECRET\" >&2; exit 1"
    );
    let driver = driver(&place, &start, "echo $LATENT_WORKER_SECRET >&2; exit 1");
    let shown = format!("{driver:?}");
    let farm = Farm::new(driver);
    let failure = farm.failure();
    assert!(failure.to_string().ends_with("-e S=(secret) (secret) (exit code 1)"), "{failure}");
    let secret = place.read("secret");
    // Not even a part of it.
    let part = &secret[..16];
    let events: Vec<_> = farm.events.try_iter().collect();
    assert!(events.iter().any(|event| matches!(&event.kind, EventKind::StopReturned { result: Err(_) })));
    assert!(events.iter().any(|event| matches!(&event.kind, EventKind::Progress { text } if text.starts_with("xxx"))));
    assert!(!format!("{events:?}").contains(part));
    assert!(!format!("{:?}{}", farm.worker.status(), farm.worker.status()).contains(part));
    assert!(shown.contains("/bin/sh") && !shown.contains("exit 1"), "arguments are not shown: {shown}");
}

#[test]
fn w10_a_bad_check_is_a_failure_with_the_last_words() {
    let place = Place::new();
    let fast = |config: WorkerConfig| config.with_check_instance_interval(Duration::from_millis(10));
    let start = "echo id-7";
    let checking = place.sh("echo $LATENT_WORKER_INSTANCE is gone >&2; exit 3");
    let failure = Farm::with(driver(&place, start, "env >stop").check(checking), fast).failure().to_string();
    assert!(failure.ends_with("id-7 is gone (exit code 3)"), "{failure}");
    assert_eq!(place.variables("stop")["INSTANCE"], "id-7");
    let missing = place.path("missing");
    let failure = Farm::with(driver(&place, start, "").check([&missing]), fast).failure().to_string();
    assert!(failure.contains(&format!("cannot run {}", missing.display())), "{failure}");
}

#[test]
fn w10_a_check_that_hangs_is_bad_and_ended() {
    let place = Place::new();
    let line = place.lifeline("line");
    let check = place.sh("exec 3>line; echo asking >&2; sleep 1000 & trap '' TERM; sleep 1000");
    let driver = driver(&place, "echo id", "").check(check).check_limit(SOON).grace(SOON);
    let farm = Farm::with(driver, |config| config.with_check_instance_interval(Duration::from_millis(10)));
    let failure = farm.failure().to_string();
    assert!(failure.ends_with("asking (ended by us because it ran longer than 100ms)"), "{failure}");
    line.recv_timeout(LONG).unwrap();
    line.recv_timeout(LONG).expect("it is killed");
}

#[test]
fn what_check_and_stop_leave_behind_is_killed() {
    let place = Place::new();
    let (line, secret) = (place.lifeline("line"), place.told("secret"));
    let farm = Farm::new(driver(&place, "echo $LATENT_WORKER_SECRET >secret", "sleep 1000 3>line & read x <go"));
    let go = place.pipe("go");
    drop(farm.attached(&secret, &Build::new("test")));
    let stop = farm.worker.insubstantiate(false);
    line.recv_timeout(LONG).unwrap();
    std::thread::spawn(move || fs::write(go, "go\n"));
    assert!(stop.wait_timeout(LONG));
    line.recv_timeout(LONG).expect("it is killed");
}

#[test]
fn a_stop_that_hangs_or_fails_is_a_failed_stop() {
    let place = Place::new();
    let stopped = |driver: CommandLatentWorker| {
        let farm = Farm::new(driver);
        farm.failure();
        farm.stopped()
    };
    let hanging = driver(&place, "exit 1", "echo deleting >&2; exec sleep 1000").stop_limit(SOON);
    assert_eq!(stopped(hanging), Err("deleting (ended by us because it ran longer than 100ms)".to_owned()));
    let failing = driver(&place, "exit 1", "echo no such host >&2; exit 3");
    assert_eq!(stopped(failing), Err("no such host (exit code 3)".to_owned()));
    let missing = CommandLatentWorker::new(place.sh("exit 1"), [place.path("missing")]);
    let reason = stopped(missing).unwrap_err();
    assert!(reason.starts_with("cannot run ") && reason.contains("No such file"), "{reason}");
}

#[test]
fn a_start_program_that_is_missing_is_a_failure_with_nothing_to_stop() {
    let place = Place::new();
    let missing = CommandLatentWorker::new([place.path("missing")], place.sh("touch ran")).secret_in_file();
    let farm = Farm::new(missing);
    let failure = farm.failure();
    assert!(matches!(failure, SubstantiateError::Failed { cause: FailureCause::Infrastructure, .. }));
    assert!(failure.to_string().contains("missing: No such file"), "{failure}");
    assert_eq!(farm.stopped(), Ok(()));
    assert!(!place.path("ran").exists());
    let none = Farm::new(CommandLatentWorker::new([""; 0], [""; 0])).failure();
    assert!(none.to_string().contains("no program was given"), "{none}");
}

#[test]
fn s0_a_hurry_cuts_the_grace_of_a_stop_program_short() {
    let place = Place::new();
    let (secret, asked) = (place.told("secret"), place.told("asked"));
    let driver = driver(&place, "echo id; echo $LATENT_WORKER_SECRET >secret", IGNORES_SIGTERM);
    let farm = Farm::new(driver.stop_limit(SOON));
    let (lease, _attachment) = farm.attached(&secret, &Build::new("test"));
    drop(lease);
    farm.worker.insubstantiate(false);
    asked.wait();
    farm.stop(true);
    let stopped = farm.stopped().unwrap_err();
    assert!(stopped.contains("ran longer than"), "{stopped}");
}

#[test]
fn s0_a_hurried_stop_program_goes_on() {
    let place = Place::new();
    let (secret, stops, go) = (place.told("secret"), place.told("stops"), place.pipe("go"));
    let stop = "echo $LATENT_WORKER_FAST >>fast; echo >stops; read go <go";
    let farm = Farm::new(driver(&place, "echo id; echo $LATENT_WORKER_SECRET >secret", stop));
    let (lease, _attachment) = farm.attached(&secret, &Build::new("test"));
    drop(lease);
    farm.worker.insubstantiate(false);
    stops.wait();
    farm.worker.insubstantiate(true);
    fs::write(go, "go\n").unwrap();
    farm.stop(true);
    assert_eq!((farm.stopped(), place.read("fast").as_str()), (Ok(()), "0\n"));
}

#[test]
fn s0_a_hurried_stop_program_may_be_run_again_to_be_fast() {
    let place = Place::new();
    let (secret, stops) = (place.told("secret"), place.told("stops"));
    let stop = "echo $LATENT_WORKER_FAST >>fast; if [ $LATENT_WORKER_FAST = 0 ]; then echo >stops; exec sleep 1000; fi";
    let driver = driver(&place, "echo id; echo $LATENT_WORKER_SECRET >secret", stop);
    let farm = Farm::new(driver.restart_hurried_stop());
    let (lease, _attachment) = farm.attached(&secret, &Build::new("test"));
    drop(lease);
    farm.worker.insubstantiate(false);
    stops.wait();
    farm.stop(true);
    assert_eq!((farm.stopped(), place.read("fast").as_str()), (Ok(()), "0\n1\n"));
}

#[test]
fn s1_a_stop_is_told_whether_it_must_be_fast() {
    let place = Place::new();
    for fast in [false, true] {
        let farm = Farm::new(driver(&place, "echo id; exec sleep 1000", "env >stop"));
        let request = farm.worker.substantiate(&Build::new("test"));
        farm.wait_for(|kind| (kind == EventKind::StartCalled).then_some(()));
        farm.stop(fast);
        drop(request);
        assert_eq!(place.variables("stop")["FAST"], if fast { "1" } else { "0" });
    }
}

#[test]
fn w11_an_instance_fits_builds_with_the_same_values_of_what_matters() {
    let place = Place::new();
    let driver = driver(&place, "echo start >>starts; echo $LATENT_WORKER_SECRET >secret", "");
    let farm = Farm::new(driver.compatible_by(["image", "size"]));
    let build =
        |image: &str, other: &str| Build::new("test").with_property("image", image).with_property("other", other);
    let path = place.pipe("secret");
    let mut attachments = Vec::new();
    for (build, starts) in [
        (build("a", "1"), 1),
        (build("a", "2"), 1),
        (build("b", "2"), 2),
        (build("b", "").with_property("size", "1"), 3),
        (build("b", "").with_property("size", "1"), 3),
    ] {
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

/// The scripts in `examples/command` are what a user begins with.
#[test]
fn the_example_programs_start_and_stop_an_agent() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/command");
    let (start, stop) = (examples.join("start.sh").into_os_string(), [examples.join("stop.sh")]);
    for fast in [false, true] {
        let place = Place::new();
        let (secret, line) = (place.told("secret"), place.lifeline("line"));
        let agent = place.sh("exec 3>line; echo $LATENT_WORKER_SECRET >secret; exec sleep 1000");
        let words = [start.clone()].into_iter().chain(agent.map(Into::into));
        let farm = Farm::new(CommandLatentWorker::new(words, &stop));
        drop(farm.attached(&secret, &Build::new("test")));
        line.recv_timeout(LONG).unwrap();
        farm.stop(fast);
        assert_eq!(farm.stopped(), Ok(()));
        line.recv_timeout(LONG).expect("the agent has ended");
    }
    let farm = Farm::new(CommandLatentWorker::new([start, "no-such-agent".into()], &stop));
    let failure = farm.failure().to_string();
    assert!(failure.ends_with("there is no agent 'no-such-agent' (exit code 1)"), "{failure}");
    assert_eq!(farm.stopped(), Ok(()));
}

#[test]
#[cfg(target_os = "linux")]
fn j4_the_example_stop_program_leaves_a_stranger_alone_that_has_the_number_now() {
    let stop = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/command/stop.sh");
    for fast in ["0", "1"] {
        // With the key of another attempt, and with none.
        for key in [Some("another"), None] {
            let mut stranger = std::process::Command::new("sleep");
            let stranger =
                stranger.arg("1000").env_remove("LATENT_WORKER_KEY").envs(key.map(|key| ("LATENT_WORKER_KEY", key)));
            let mut stranger = stranger.spawn().unwrap();
            let mut stopping = std::process::Command::new(&stop);
            stopping.env("LATENT_WORKER_INSTANCE", stranger.id().to_string()).env("LATENT_WORKER_FAST", fast);
            assert!(stopping.env("LATENT_WORKER_KEY", "ours").status().unwrap().success());
            assert!(stranger.try_wait().unwrap().is_none(), "it still runs");
            stranger.kill().unwrap();
            stranger.wait().unwrap();
        }
    }
}

#[test]
fn w14_a_logger_that_hangs_or_panics_harms_no_program_and_sees_no_secret() {
    /// Keeps what programs say, panics at one line and hangs at another.
    struct Logger(std::sync::Mutex<Vec<String>>);
    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let line = record.args().to_string();
            if line.contains("stdout") || line.contains("stderr") {
                self.0.lock().unwrap().push(line.clone());
            }
            assert!(!line.ends_with("stdout: panic"), "a logger that panics");
            while line.ends_with("stdout: hang") {
                std::thread::park();
            }
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
    let secret = place.told("secret");
    let start = "echo panic; echo $LATENT_WORKER_SECRET; echo $LATENT_WORKER_SECRET >secret";
    let farm = Farm::new(driver(&place, start, "echo bye >&2; echo hang; yes | head -c 100000"));
    drop(farm.attached(&secret, &Build::new("test")));
    farm.stop(false);
    let began = Instant::now();
    drop(farm);
    assert!(began.elapsed() < LONG);
    let seen = LOGGER.0.lock().unwrap().clone();
    let lines = ["start stdout: panic", "start stdout: (secret)", "stop stderr: bye", "stop stdout: hang"];
    let lines = lines.map(|line| format!("w 1 (attempt 1): {line}"));
    // The order of the two streams is nobody's promise: `hang` may come before `bye`.
    assert!(seen.iter().all(|line| lines.contains(line)), "{seen:?}");
    assert!([0, 1, 3].iter().all(|index| seen.contains(&lines[*index])), "{seen:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_no_descriptor_and_no_process_is_left_behind() {
    if !alone(&[]) {
        return;
    }
    let place = Place::new();
    let farm =
        Farm::new(driver(&place, "sleep 1000 & echo $!; exit 1", "kill $LATENT_WORKER_INSTANCE").secret_in_file());
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let census = || (count("fd"), count("task"));
    let cycle = || {
        farm.worker.unpause();
        farm.failure();
        assert_eq!(farm.stopped(), Ok(()));
    };
    cycle();
    let before = census();
    (0..20).for_each(|_| cycle());
    // A thread can be joined a moment before the system has taken it off its list.
    let deadline = Instant::now() + LONG;
    let more = |now: (usize, usize)| now.0 > before.0 || now.1 > before.1;
    while more(census()) {
        assert!(Instant::now() < deadline, "{:?}, and before {before:?}", census());
        std::thread::yield_now();
    }
}
