//! The example `farm`, as a user meets it: a process with options, files, output, signals and an exit status.
//!
//! `cargo test` builds the example; with `--test farm` alone it must have been built before.
#![cfg(all(unix, feature = "local"))]

#[path = "support/record.rs"]
mod record;
#[path = "support/farm.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;

use support::{Place, end};

#[test]
fn exits_with_0_when_every_build_succeeded() {
    let place = Place::new();
    let ran = place.run(&["--workers=2"], "-- echo one\n# nothing\n-- echo two >&2\n");
    ran.assert_status(0);
    ran.assert_stdout_has("build 1 | one\n");
    ran.assert_stdout_has("build 3 ! two\n");
    ran.assert_stdout_has("builds   2: 2 succeeded, 0 failed, 0 cancelled, 0 not run\n");
    assert_eq!(ran.stderr, "");
    place.assert_no_instances();
}

#[test]
fn exits_with_1_when_a_build_failed_and_says_why() {
    let place = Place::new();
    let ran = place.run(&["--events=events"], "-- true\n-- exit 7\n-- kill -9 $$\n");
    ran.assert_status(1);
    ran.assert_stdout_has("3: 1 succeeded, 2 failed");
    ran.assert_stdout_has("exit code 7\n    exit 7\n");
    ran.assert_stdout_has("killed by signal 9\n    kill -9 $$\n");
    let finished = |build| {
        let record = place.record();
        record.into_iter().find(|line| line.event == "build_finished" && line.build == Some(build)).unwrap()
    };
    assert_eq!((finished(1).result.as_deref(), finished(1).exit), (Some("succeeded"), Some(0)));
    assert_eq!((finished(2).result.as_deref(), finished(2).exit), (Some("failed"), Some(7)));
    assert_eq!(finished(2).reason.as_deref(), Some("exit code 7"));
    assert_eq!((finished(3).result.as_deref(), finished(3).exit), (Some("failed"), None));
    place.assert_no_instances();
}

#[test]
fn exits_with_2_for_bad_usage() {
    let place = Place::new();
    place.write("jobs", "-- touch started\n");
    for (arguments, message) in [
        (vec!["--workers=0", "jobs"], "--workers"),
        (vec!["--idle=later", "jobs"], "--idle"),
        (vec!["--frobnicate"], "--frobnicate"),
        (vec!["jobs", "jobs"], "only one FILE"),
        (vec!["no-such-file"], "no-such-file"),
        (vec!["--events=no/such/directory", "jobs"], "no/such/directory"),
        (vec!["--kind=text=nowhere", "jobs"], "nowhere"),
        (vec!["--driver=docker", "jobs"], "--driver"),
        (vec!["--listen=127.0.0.1:0", "jobs"], "--listen goes with --driver"),
    ] {
        let ran = end(place.farm(&arguments).spawn().unwrap());
        ran.assert_status(2);
        ran.assert_stderr_has(message);
        assert_eq!(ran.stdout, "");
    }
    assert!(!place.has("started"));
    end(place.farm(&["--frobnicate"]).spawn().unwrap()).assert_stderr_has("--help");
}

#[test]
fn help_and_version_are_no_errors() {
    let place = Place::new();
    for argument in ["-h", "--help"] {
        let ran = end(place.farm(&[argument]).spawn().unwrap());
        ran.assert_status(0);
        ran.assert_stdout_has("Usage: farm");
    }
    let ran = end(place.farm(&["-V"]).spawn().unwrap());
    ran.assert_status(0);
    assert_eq!(ran.stdout, concat!("farm ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn w1_w2_b6_hold_in_the_events_record() {
    let place = Place::new();
    let jobs: String = (0..120)
        .map(|number| match number % 6 {
            0 => "kind=a -- exit 3\n",
            1 | 2 => "kind=a -- echo x\n",
            3 => "kind=b -- sleep 0.02\n",
            4 => "-- true\n",
            _ => "-- kill -TERM $$\n",
        })
        .collect();
    for (idle, max_builds) in [("0", 1), ("after-build", 3), ("never", 4), ("0.01", 2)] {
        let (idle, most) = (format!("--idle={idle}"), format!("--max-builds={max_builds}"));
        place.run(&[&idle, &most, "--workers=4", "--quiet", "--events=events"], &jobs).assert_status(1);
        let record = place.record();
        let seen = record::check(&record, max_builds).unwrap();
        assert_eq!(seen.builds, 120);
        assert!(seen.starts.len() > 1, "{idle}: one worker did it all: {seen:?}");
        let results = |result: &str| record.iter().filter(|line| line.result.as_deref() == Some(result)).count();
        assert_eq!(results("succeeded"), 80);
        let results =
            record.iter().filter(|line| line.event == "build_finished" && line.result.as_deref() == Some("failed"));
        assert_eq!(results.count(), 40);
        place.assert_no_instances();
    }
}

#[test]
fn w9_idle_after_build_gives_every_build_a_fresh_instance() {
    let place = Place::new();
    place
        .run(&["--workers=1", "--idle=after-build", "--events=events"], &"-- ls; touch x\n".repeat(5))
        .assert_status(0);
    let seen = record::check(&place.record(), 1).unwrap();
    assert_eq!(seen.starts["local-1"], 5);
}

#[test]
fn w9_idle_never_keeps_the_instance_until_the_shutdown() {
    let place = Place::new();
    place.run(&["--workers=1", "--idle=never", "--events=events"], &"-- true\n".repeat(5)).assert_status(0);
    let record = place.record();
    assert_eq!(record::check(&record, 1).unwrap().starts["local-1"], 1);
    let at = |event: &str| record.iter().position(|line| line.event == event).unwrap();
    assert!(at("shutdown") < at("stop_called"));
}

#[test]
fn w11_builds_of_two_kinds_never_share_an_instance() {
    let place = Place::new();
    let look = "echo \"$LATENT_WORKER_KIND\" >> kinds; cat kinds";
    let jobs = format!("kind=a -- {look}\n-- {look}\nkind=b -- {look}\nkind=a -- {look}\nkind=a -- {look}\n");
    let ran = place.run(&["--workers=1", "--idle=never", "--events=events"], &jobs);
    ran.assert_status(0);
    // Each build shows the kinds of all builds that its instance has run.
    for (build, kind) in [(1, "a"), (2, ""), (3, "b"), (4, "a"), (5, "a")] {
        let begin = format!("build {build} | ");
        let shown: BTreeSet<&str> = ran.stdout.lines().filter_map(|line| line.strip_prefix(&begin)).collect();
        assert_eq!(shown, BTreeSet::from([kind]), "build {build}");
    }
    // Three when the builds of one kind go one after the other, four when an older build of another kind gets impatient.
    let starts = record::check(&place.record(), 1).unwrap().starts["local-1"];
    assert!((3..=4).contains(&starts), "{starts} starts");
    ran.assert_stdout_has("it does not fit the next build");
}

#[test]
fn an_instance_starts_with_a_copy_of_its_template() {
    let place = Place::new();
    fs::create_dir(place.path("template")).unwrap();
    place.write("template/note", "from the template\n");
    let ran = place.run(&["--kind=t=template"], "kind=t -- cat note; rm note\n-- test ! -e note\n");
    ran.assert_status(0);
    ran.assert_stdout_has("build 1 | from the template\n");
    assert!(place.has("template/note"));
}

#[test]
fn b6_max_builds_lets_builds_share_an_instance_at_once() {
    let place = Place::new();
    place.pipe("pipe");
    // Neither ends without the other.
    let jobs = "-- cat \"$FARM_DIR\"/pipe\n-- echo met > \"$FARM_DIR\"/pipe\n";
    let ran = place.run(&["--workers=1", "--max-builds=2", "--events=events"], jobs);
    ran.assert_status(0);
    ran.assert_stdout_has("build 1 | met\n");
    let seen = record::check(&place.record(), 2).unwrap();
    assert_eq!((seen.most_leases, seen.starts["local-1"]), (2, 1));
}

#[test]
fn b2_a_build_whose_instance_cannot_start_is_tried_elsewhere_up_to_the_limit() {
    let place = Place::new();
    place.write("jobs", "-- true\n");
    let mut farm = place.farm(&["--workers=4", "--max-attempts=3", "--events=events", "jobs"]);
    let ran = end(farm.env("TMPDIR", place.dangling_link()).spawn().unwrap());
    ran.assert_status(1);
    ran.assert_stdout_has("gave up after 3 attempts");
    let record = place.record();
    let seen = record::check(&record, 1).unwrap();
    assert_eq!(seen.starts.len(), 3, "each worker is tried once: {seen:?}");
    assert_eq!(record.iter().filter(|line| line.event == "quarantined").count(), 3);
    assert_eq!(record.iter().filter(|line| line.event == "build_queued" && line.reason.is_some()).count(), 2);
}

#[test]
fn a_time_limit_ends_a_build() {
    let place = Place::new();
    let ran = place.run(&["--time-limit=0.1"], "-- sleep 100 & wait\n");
    ran.assert_status(1);
    ran.assert_stdout_has("it ran longer than its time limit");
    place.assert_no_instances();
}

#[test]
fn the_built_in_list_shows_what_a_newcomer_should_see() {
    let place = Place::new();
    // On the checkout, as cargo runs it.
    let mut farm = place.farm(&["--events=events"]);
    let ran = end(farm.env("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR")).spawn().unwrap());
    ran.assert_status(0);
    ran.assert_stdout_has("local-1 starts instance 1 of kind text");
    ran.assert_stdout_has("local-2 starts instance 1 of kind text");
    ran.assert_stdout_has("warm instance");
    ran.assert_stdout_has("it does not fit the next build");
    ran.assert_stdout_has(": idle");
    ran.assert_stdout_has("got a warm instance");
    ran.assert_stderr_has("built-in list");
    assert!(!ran.stdout.contains(" ! "), "a command complains: {}", ran.stdout);
    let record = place.record();
    record::check(&record, 1).unwrap();
    let first_end = record.iter().position(|line| line.event == "build_finished").unwrap();
    let starts = record[..first_end].iter().filter(|line| line.event == "start_called");
    assert_eq!(starts.count(), 2, "both workers start before the first build is over");
    let starts = record.iter().filter(|line| line.event == "start_called").count();
    assert!(starts < 7, "as many instances as when each build was bound to a worker at once: {starts}");
    place.assert_no_instances();
}

#[test]
fn the_built_in_list_runs_in_any_directory() {
    let place = Place::new();
    let ran = end(place.farm(&["--workers=8", "--quiet"]).spawn().unwrap());
    ran.assert_status(0);
    ran.assert_stdout_has("0 failed");
    place.assert_no_instances();
}

/// The address in the line that tells where agents connect to.
#[cfg(all(feature = "agent", any(feature = "command", feature = "process", feature = "docker")))]
fn address(ran: &support::Ran) -> String {
    let mut told = ran.stderr.lines().filter_map(|line| line.strip_prefix("farm: agents connect to "));
    let address = told.next().unwrap_or_else(|| panic!("no address: {ran:?}")).to_owned();
    assert_eq!(told.next(), None, "{ran:?}");
    address
}

/// The options of the driver of programs.
fn programs<'a>(start: &'a str, stop: &'a str) -> [&'a str; 7] {
    ["--driver=command", "--start", start, "--stop", stop, "--listen=127.0.0.1:0", "--events=events"]
}

#[cfg(not(all(feature = "agent", feature = "docker")))]
#[test]
fn containers_need_more_features_and_they_are_named() {
    let place = Place::new();
    let ran = place.run(&["--driver=docker", "--image=any"], "-- true\n");
    ran.assert_status(2);
    ran.assert_stderr_has("--features agent,docker");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

#[cfg(not(all(feature = "agent", feature = "command")))]
#[test]
fn a_driver_that_needs_more_features_names_them() {
    let place = Place::new();
    let ran = place.run(&programs("touch ran", "touch ran"), "-- true\n");
    ran.assert_status(2);
    ran.assert_stderr_has("--features agent,command");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(!place.has("ran"));
}

#[cfg(all(feature = "agent", feature = "command"))]
mod command {
    use super::*;

    #[test]
    fn programs_are_told_the_address_that_is_printed_and_the_kind() {
        let place = Place::new();
        let start = "echo $LATENT_WORKER_MASTER $LATENT_WORKER_NAME $LATENT_WORKER_PROPERTY_kind >told; \
                     echo no agent here >&2; exit 65";
        let stop = "echo stop >>stops";
        for quiet in [true, false] {
            let mut arguments = vec!["--workers=1"];
            arguments.extend(programs(start, stop));
            arguments.extend(quiet.then_some("--quiet"));
            let ran = place.run(&arguments, "kind=big -- true\n");
            ran.assert_status(1);
            let address = address(&ran);
            let port: u16 = address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
            assert_ne!(port, 0);
            let told = fs::read_to_string(place.path("told")).unwrap();
            assert_eq!(told, format!("{address} command-1 big\n"));
            ran.assert_stdout_has("no agent here");
            record::check(&place.record(), 1).unwrap();
        }
        assert_eq!(fs::read_to_string(place.path("stops")).unwrap(), "stop\nstop\n");
    }

    #[test]
    fn a_check_that_fails_is_a_failed_attempt() {
        let place = Place::new();
        let mut arguments = vec!["--workers=1", "--max-attempts=1", "--check=echo it has crashed >&2; exit 1"];
        arguments.extend(programs("echo id", "true"));
        let ran = place.run(&arguments, "-- true\n");
        ran.assert_status(1);
        ran.assert_stdout_has("it has crashed");
    }

    #[test]
    fn an_address_that_is_taken_is_told_and_nothing_is_started() {
        let place = Place::new();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = format!("--listen={}", taken.local_addr().unwrap());
        let arguments = ["--driver=command", "--start=touch ran", "--stop=touch ran", &listen];
        let ran = place.run(&arguments, "-- true\n");
        ran.assert_status(2);
        ran.assert_stderr_has(&format!("cannot listen on {}: ", taken.local_addr().unwrap()));
        assert!(!place.has("ran"));
    }

    #[test]
    #[ignore = "needs buildbot-worker"]
    fn builds_run_on_stock_workers_that_programs_start() {
        let place = Place::new();
        // The program is what TEST_BUILDBOT_WORKER names.
        let start = r#"
            exec 2>&1 >/dev/null
            dir=instances/$LATENT_WORKER_KEY
            "$TEST_BUILDBOT_WORKER" create-worker --protocol msgpack_experimental_v7 \
                "$dir" "$LATENT_WORKER_MASTER" "$LATENT_WORKER_NAME" "$LATENT_WORKER_SECRET" >&2 || exit 1
            "$TEST_BUILDBOT_WORKER" start --nodaemon "$dir" </dev/null >"$dir/log" 2>&1 &
            echo $! >"$dir/pid""#;
        let stop = r#"
            dir=instances/$LATENT_WORKER_KEY
            kill -9 "$(cat "$dir/pid")"
            rm -r "$dir""#;
        assert!(std::env::var_os("TEST_BUILDBOT_WORKER").is_some(), "the path of buildbot-worker");
        let mut arguments = vec!["--workers=2", "--idle=60"];
        arguments.extend(programs(start, stop));
        let jobs = "kind=a -- echo hello from a; echo oops >&2\nkind=b -- ls \"$FARM_DIR\"/jobs\n\
                    kind=a -- exit 7\nkind=b -- echo second\n";
        let ran = place.run(&arguments, jobs);
        ran.assert_status(1);
        ran.assert_stdout_has("build 1 | hello from a\n");
        ran.assert_stdout_has("build 1 ! oops\n");
        ran.assert_stdout_has(&format!("build 2 | {}\n", place.path("jobs").display()));
        ran.assert_stdout_has("exit code 7");
        ran.assert_stdout_has("build 4 | second\n");
        ran.assert_stdout_has("4: 3 succeeded, 1 failed");
        let seen = record::check(&place.record(), 1).unwrap();
        assert_eq!((seen.builds, seen.starts.len()), (4, 2), "both kinds are started at once");
        place.assert_no_instances();
    }
}

#[cfg(all(feature = "agent", feature = "process"))]
mod process {
    use std::fs::File;
    use std::io::{BufReader, Read};
    use std::process::Child;
    use std::sync::mpsc;
    use std::thread;

    use super::support::{LIMIT, signal, wait_for};
    use super::*;

    #[test]
    fn an_agent_that_is_started_by_hand_says_what_it_is_for() {
        let place = Place::new();
        let ran = end(place.farm(&["--agent"]).spawn().unwrap());
        ran.assert_status(1);
        ran.assert_stderr_has("--agent is for farm itself");
        place.assert_no_instances();
    }

    #[test]
    fn builds_run_on_agents_that_are_processes_of_their_own() {
        let place = Place::new();
        let jobs = "kind=a -- echo hello from a; echo oops >&2\nkind=b -- ls \"$FARM_DIR\"/jobs; touch left\n\
                    kind=a -- exit 7\nkind=b -- env\n";
        let ran = place.run(&["--driver=process", "--workers=2", "--events=events"], jobs);
        ran.assert_status(1);
        assert!(address(&ran).starts_with("127.0.0.1:"));
        ran.assert_stdout_has("build 1 | hello from a\n");
        ran.assert_stdout_has("build 1 ! oops\n");
        ran.assert_stdout_has(&format!("build 2 | {}\n", place.path("jobs").display()));
        ran.assert_stdout_has("exit code 7");
        ran.assert_stdout_has("build 4 | LATENT_WORKER_NAME=process-");
        assert!(!ran.stdout.contains("LATENT_WORKER_SECRET="), "{ran:?}");
        ran.assert_stdout_has("4: 3 succeeded, 1 failed");
        let seen = record::check(&place.record(), 1).unwrap();
        assert_eq!((seen.builds, seen.starts.len()), (4, 2), "both kinds are started at once");
        place.assert_no_instances();
    }

    /// A farm whose build holds the pipe `held`, and what is told when nobody holds it any more.
    fn holding(place: &Place) -> (Child, mpsc::Receiver<()>) {
        place.pipe("held");
        place.write("jobs", "-- exec 3> \"$FARM_DIR\"/held; trap '' INT TERM; sleep 1000 & echo running; wait\n");
        let (sender, released) = mpsc::channel();
        let path = place.path("held");
        thread::spawn(move || {
            File::open(path).unwrap().read_to_end(&mut Vec::new()).unwrap();
            let _ = sender.send(());
        });
        let mut child = place.farm(&["--driver=process", "--workers=1", "jobs"]).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut stdout, "build 1 | running");
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        (child, released)
    }

    #[test]
    fn s1_two_interrupts_end_agents_and_their_builds() {
        let place = Place::new();
        let (mut child, released) = holding(&place);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        signal("INT", child.id());
        wait_for(&mut stderr, "Ctrl-C again");
        signal("INT", child.id());
        end(child).assert_status(130);
        released.recv_timeout(LIMIT).expect("the build has ended");
    }

    #[test]
    fn agents_and_their_builds_end_when_the_farm_is_killed() {
        let place = Place::new();
        let (child, released) = holding(&place);
        signal("KILL", child.id());
        end(child);
        released.recv_timeout(LIMIT).expect("the build has ended");
    }
}

/// Without any engine; `tests/docker` has the rest.
#[cfg(all(feature = "agent", feature = "docker"))]
mod docker {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_told_and_nothing_is_started() {
        let place = Place::new();
        let ran = place.run(&["--driver=docker", "--image=any", "--memory=lots"], "-- true\n");
        ran.assert_status(2);
        ran.assert_stderr_has("--memory: ");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");

        place.write("jobs", "-- true\n");
        let mut farm = place.farm(&["--driver=docker", "--image=any", "jobs"]);
        let ran = end(farm.env("DOCKER_HOST", "gopher://host").spawn().unwrap());
        ran.assert_status(2);
        ran.assert_stderr_has("gopher://host");
    }

    #[test]
    fn an_engine_that_is_not_there_is_named() {
        let place = Place::new();
        place.write("jobs", "-- true\n");
        let mut farm = place.farm(&["--driver=docker", "--image=any", "--workers=1", "--max-attempts=1", "jobs"]);
        let ran = end(farm.env("DOCKER_HOST", "unix:///no/such/engine.sock").spawn().unwrap());
        // Without an engine, it is unknown whether a container was created.
        ran.assert_status(3);
        ran.assert_stdout_has("/no/such/engine.sock");
        ran.assert_stderr_has("farm: left behind: docker-1 ");
        assert!(address(&ran).starts_with("0.0.0.0:"));
    }
}
