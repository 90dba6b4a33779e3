//! What the example `farm` says about what it leaves behind, and its exit status.
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
