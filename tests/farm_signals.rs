//! Tests how the example `farm` handles signals.
#![cfg(all(unix, feature = "local"))]

#[path = "support/record.rs"]
mod record;
#[path = "support/farm.rs"]
mod support;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;

use support::{Place, end, signal, wait_for};

/// A farm whose first build runs and says so, with another one in the queue behind it.
fn interrupted(place: &Place, first: &str) -> (Child, BufReader<ChildStdout>) {
    place.write("jobs", &format!("-- {first}\n-- touch \"$FARM_DIR\"/second\n"));
    let mut child = place.farm(&["--workers=1", "--events=events", "jobs"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut stdout, "build 1 | running");
    (child, stdout)
}

#[test]
fn s1_one_interrupt_lets_running_builds_finish_and_starts_no_others() {
    for name in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        place.pipe("go");
        let first = "echo running; cat \"$FARM_DIR\"/go > /dev/null; touch \"$FARM_DIR\"/first";
        let (mut child, mut stdout) = interrupted(&place, first);
        signal(name, child.id());
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        wait_for(&mut stderr, "Ctrl-C again");
        assert!(!place.has("first"));
        drop(File::options().write(true).open(place.path("go")).unwrap());
        end(child).assert_status(130);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("2: 1 succeeded, 0 failed, 0 cancelled, 1 not run"), "{rest}");
        assert!(place.has("first"));
        assert!(!place.has("second"));
        place.assert_no_instances();
        record::check(&place.record(), 1).unwrap();
    }
}

#[test]
fn s1_two_interrupts_end_running_builds_and_leave_nothing_behind() {
    let place = Place::new();
    place.pipe("held");
    // Both processes hold the pipe open, and one of them does not listen to polite signals.
    let first = "exec 3> \"$FARM_DIR\"/held; trap '' INT TERM; sleep 1000 & echo running; wait";
    let held = {
        let path = place.path("held");
        thread::spawn(move || {
            let mut rest = Vec::new();
            File::open(path).unwrap().read_to_end(&mut rest).unwrap();
        })
    };
    let (mut child, mut stdout) = interrupted(&place, first);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    signal("INT", child.id());
    wait_for(&mut stderr, "Ctrl-C again");
    signal("INT", child.id());
    end(child).assert_status(130);
    // Ends when nobody holds the pipe any more.
    held.join().unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("2: 0 succeeded, 0 failed, 1 cancelled, 1 not run"), "{rest}");
    assert!(!place.has("second"));
    place.assert_no_instances();
    record::check(&place.record(), 1).unwrap();
}

#[test]
fn a_signal_before_anything_is_started_ends_the_farm_at_once() {
    for name in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        place.pipe("jobs");
        let child = place.farm(&["jobs"]).spawn().unwrap();
        // Opens when the farm does.
        let _jobs = File::options().write(true).open(place.path("jobs")).unwrap();
        signal(name, child.id());
        let ran = end(child);
        ran.assert_status(130);
        assert_eq!((&*ran.stdout, &*ran.stderr), ("", "farm: interrupted before anything was started\n"));
    }
}

#[test]
fn a_signal_ends_the_farm_while_its_standard_input_does_not_end() {
    let place = Place::new();
    let mut child = place.farm(&["-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds, so that the farm has begun to read.
    stdin.write_all(&b"# nothing\n".repeat(100_000)).unwrap();
    signal("TERM", child.id());
    end(child).assert_status(130);
}

#[test]
fn a_hangup_does_nothing_under_nohup() {
    let place = Place::new();
    place.pipe("go");
    place.write("jobs", "-- echo running; cat \"$FARM_DIR\"/go\n");
    let farm = place.farm(&["jobs"]);
    let mut shell = place.command("/bin/sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(farm.get_program()).args(farm.get_args());
    let mut child = shell.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut stdout, "build 1 | running");
    signal("HUP", child.id());
    drop(File::options().write(true).open(place.path("go")).unwrap());
    // The pipe is read to its end, so that the farm does not get an error from a closed pipe.
    stdout.read_to_string(&mut String::new()).unwrap();
    let ran = end(child);
    ran.assert_status(0);
    assert_eq!(ran.stderr, "");
}

#[cfg(all(feature = "agent", feature = "command"))]
#[test]
fn s2_a_third_interrupt_ends_the_farm_at_once_and_lists_what_is_left() {
    let place = Place::new();
    place.pipe("stopping");
    place.pipe("held");
    // The stop program ignores these signals.
    let stop = "trap '' TERM INT; echo stopping > stopping; cat held";
    let arguments = ["--driver=command", "--start=echo id; echo up > stopping", "--stop", stop, "--listen=127.0.0.1:0"];
    place.write("jobs", "-- true\n");
    let told = || std::fs::read_to_string(place.path("stopping")).unwrap();
    let mut child = place.farm(&[&arguments, ["--workers=1", "jobs"].as_slice()].concat()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    assert_eq!(told(), "up\n");
    signal("INT", child.id());
    wait_for(&mut stderr, "Ctrl-C again ends them");
    assert_eq!(told(), "stopping\n");
    signal("TERM", child.id());
    wait_for(&mut stderr, "Ctrl-C again ends farm at once");
    signal("HUP", child.id());
    wait_for(&mut stderr, "farm: ended at once");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("farm: may be left behind: command-1: "), "{rest}");
    assert!(rest.contains("there is no journal: remove what is left by hand"), "{rest}");
    end(child).assert_status(3);
    drop(File::options().write(true).open(place.path("held")));
}

#[cfg(all(feature = "agent", feature = "process"))]
#[test]
fn a_hangup_ends_an_agent_of_the_farm_and_removes_its_directory() {
    let place = Place::new();
    // The parent of a command is its agent.
    place.write("jobs", "-- echo agent $PPID; sleep 1000\n");
    let arguments = ["--driver=process", "--workers=1", "--max-attempts=1", "jobs"];
    let mut child = place.farm(&arguments).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let line = wait_for(&mut stdout, "build 1 | agent ");
    let agent = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    signal("HUP", agent);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    end(child).assert_status(1);
    place.assert_no_instances();
}

#[cfg(all(target_os = "linux", feature = "agent"))]
#[test]
fn a_hangup_ends_the_agent_example_but_not_under_nohup() {
    let place = Place::new();
    let master = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = place.example("agent");
    for (ignored, ends) in [("", true), ("trap '' HUP; ", false)] {
        let mut shell = place.command("/bin/sh");
        shell.args(["-c", &format!("{ignored}exec \"$0\"")]).arg(&agent);
        shell.env("LATENT_WORKER_MASTER", master.local_addr().unwrap().to_string());
        let child = shell.env("LATENT_WORKER_NAME", "one").env("LATENT_WORKER_SECRET", "secret").spawn().unwrap();
        // It listens to signals before it connects.
        let connected = master.accept().unwrap();
        assert_eq!(ignores_hangup(child.id()), !ends);
        signal(if ends { "HUP" } else { "TERM" }, child.id());
        end(child).assert_status(0);
        drop(connected);
    }
}

#[cfg(all(target_os = "linux", feature = "agent"))]
fn ignores_hangup(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 != 0
}
