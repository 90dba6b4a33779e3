//! Tests the messages of the example `farm` about leftovers, and its exit status.
#![cfg(all(unix, feature = "agent", feature = "command", feature = "local"))]

#[path = "support/record.rs"]
mod record;
#[path = "support/farm.rs"]
mod support;

use support::Place;

#[test]
fn j5_what_is_left_behind_is_listed_with_how_to_remove_it_and_has_an_exit_status() {
    let place = Place::new();
    let arguments = ["--driver=command", "--workers=1", "--listen=127.0.0.1:0", "--max-attempts=1", "--quiet"];
    let start = "--start=echo id; exit 1";
    let run = |more: &[&str]| place.run(&[&arguments, [start].as_slice(), more].concat(), "-- true\n");

    let ran = run(&["--stop=echo it is stuck >&2; exit 1"]);
    ran.assert_status(3);
    ran.assert_stderr_has("farm: left behind: command-1 ");
    ran.assert_stderr_has("it is stuck");
    ran.assert_stderr_has("farm: there is no journal: remove what is left by hand");

    let ran = run(&["--stop=exit 1", "--journal=journal"]);
    ran.assert_status(3);
    let advice = "farm: to remove what is left, run farm again with --driver command --workers 1 --journal journal\n";
    ran.assert_stderr_has(advice);

    // The advice is right.
    let ran = run(&["--stop=touch stopped", "--journal=journal"]);
    ran.assert_status(1);
    assert!(!ran.stderr.contains("left behind"), "{ran:?}");
    assert!(place.has("stopped"));
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs root, unshare and mount"]
fn j1_a_farm_whose_journal_cannot_be_written_any_more_says_so_and_ends() {
    let place = Place::new();
    std::fs::create_dir(place.path("disk")).unwrap();
    let mut jobs = "kind=first -- head -c 100k /dev/zero > \"$FARM_DIR\"/disk/full\n".to_owned();
    // Some of them fit into the last page of the journal.
    (0..200).for_each(|kind| jobs.push_str(&format!("kind={kind} -- true\n")));
    place.write("jobs", &jobs);
    let farm = place.farm(&["--journal=disk/journal", "--workers=3", "--quiet", "jobs"]);
    let mut life = place.command("unshare");
    life.args(["--mount", "sh", "-c", "mount -t tmpfs -o size=64k none disk && exec \"$0\" \"$@\""]);
    let ran = support::end(life.arg(farm.get_program()).args(farm.get_args()).spawn().unwrap());
    ran.assert_status(1);
    ran.assert_stderr_has("cannot start an instance and is left alone");
    ran.assert_stderr_has("cannot write the journal");
    ran.assert_stderr_has("farm: given up: nothing can be started\n");
    assert!(ran.stderr.lines().count() <= 4, "it says so once: {ran:?}");
    place.assert_no_instances();
}
