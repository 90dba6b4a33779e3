//! Tests the output of the example `farm`, and what it does when its output cannot be written.
#![cfg(all(unix, feature = "local"))]

#[path = "support/record.rs"]
mod record;
#[path = "support/farm.rs"]
mod support;

use support::{Place, end};

#[test]
fn quiet_shows_failures_and_the_summary_alone() {
    let place = Place::new();
    let ran = place.run(&["--quiet", "--workers=1"], "-- echo fine\n-- echo on the way; echo why >&2; exit 2\n");
    ran.assert_status(1);
    let before_summary = ran.stdout.split("\nbuilds ").next().unwrap();
    let lines: Vec<_> = before_summary.lines().collect();
    assert_eq!(lines[..2], ["build 2 | on the way", "build 2 ! why"]);
    assert!(lines[2].starts_with("build 2 failed on local-1 after "), "{lines:?}");
    assert_eq!(lines.len(), 3);
    ran.assert_stdout_has("2: 1 succeeded, 1 failed");
    assert_eq!(ran.stderr, "");
}

#[test]
fn s1_a_closed_pipe_cancels_the_builds_and_leaves_nothing_behind() {
    for quiet in [false, true] {
        let place = Place::new();
        place.pipe("running");
        // The build writes nothing more, so the farm writes nothing until the build ends.
        place.write("jobs", "-- echo running > \"$FARM_DIR\"/running; sleep 1000\n-- touch \"$FARM_DIR\"/second\n");
        let mut arguments = vec!["--workers=1", "--events=events", "jobs"];
        arguments.extend(quiet.then_some("--quiet"));
        let mut child = place.farm(&arguments).spawn().unwrap();
        std::fs::read_to_string(place.path("running")).unwrap();
        drop(child.stdout.take());
        let ran = end(child);
        ran.assert_status(141);
        assert_eq!(ran.stderr, "farm: nobody reads standard output any more: the builds are cancelled\n");
        assert!(!place.has("second"));
        let record = place.record();
        record::check(&record, 1).unwrap();
        let ends = record.iter().filter(|line| line.event == "build_finished").map(|line| line.result.as_deref());
        assert_eq!(ends.collect::<Vec<_>>(), [Some("not_run"), Some("cancelled")]);
        place.assert_no_instances();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error_and_the_builds_run() {
    let place = Place::new();
    place.write("jobs", "-- echo one; touch \"$FARM_DIR\"/ran\n");
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [vec!["jobs"], vec!["--quiet", "jobs"]] {
        let ran = end(place.farm(&arguments).stdout(full()).spawn().unwrap());
        ran.assert_status(1);
        ran.assert_stderr_has("farm: output is missing: cannot write to standard output: ");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert!(place.has("ran"));
        std::fs::remove_file(place.path("ran")).unwrap();
    }
    for argument in ["--help", "--version"] {
        let ran = end(place.farm(&[argument]).stdout(full()).spawn().unwrap());
        ran.assert_status(1);
        ran.assert_stderr_has("cannot write to standard output: ");
    }
    // Messages are lost, and nothing else.
    let ran = end(place.farm(&["jobs"]).stderr(full()).spawn().unwrap());
    ran.assert_status(0);
}

#[test]
fn the_summary_counts_starts_and_stops_in_the_same_way() {
    let place = Place::new();
    place.write("jobs", "-- true\n");
    let mut farm = place.farm(&["--workers=4", "--max-attempts=3", "jobs"]);
    let ran = end(farm.env("TMPDIR", place.dangling_link()).spawn().unwrap());
    ran.assert_status(1);
    ran.assert_stdout_has("workers  4: 3 starts, 0 attached, 3 failed; 3 stops\n");
    let ran = place.run(&["--workers=1", "--idle=after-build"], "-- true\n-- true\n");
    ran.assert_stdout_has("workers  1: 2 starts, 2 attached, 0 failed; 2 stops\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_record_that_cannot_be_written_is_told() {
    let place = Place::new();
    let ran = place.run(&["--events=/dev/full"], "-- true\n");
    ran.assert_status(1);
    ran.assert_stderr_has("the record is incomplete: cannot write to /dev/full");
    ran.assert_stdout_has("1: 1 succeeded");
}

#[test]
fn long_output_comes_whole_and_in_order() {
    let place = Place::new();
    let ran = place.run(&["--workers=1"], "-- i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done\n");
    ran.assert_status(0);
    let lines = ran.stdout.lines().filter_map(|line| line.strip_prefix("build 1 | line "));
    assert!(lines.eq((0..20_000).map(|number| number.to_string())));
}
