//! The command lines and the output of the smaller examples.
//!
//! `cargo test` builds the examples; with `--test examples` alone they must have been built before.
#![cfg(all(unix, feature = "command", feature = "local"))]

#[path = "support/record.rs"]
mod record;
#[path = "support/farm.rs"]
mod support;

use support::{Place, Ran, end};

fn leftovers(place: &Place, arguments: &[&str]) -> Ran {
    end(place.command(place.example("leftovers")).args(arguments).spawn().unwrap())
}

#[test]
fn leftovers_refuses_a_number_out_of_range() {
    let place = Place::new();
    for value in ["-1", "31536001", "1e99", "18446744073709551616", "NaN", ""] {
        let ran = leftovers(&place, &[&format!("--patience={value}"), "journal"]);
        ran.assert_status(2);
        ran.assert_stderr_has(&format!("invalid --patience {value:?}: use seconds from 0 to 31536000"));
    }
}

#[test]
fn leftovers_names_a_file_that_is_not_a_journal() {
    let place = Place::new();
    place.pipe("pipe");
    place.write("text", "this is not a journal\n");
    for (file, what) in [
        ("missing", "cannot read the journal missing: "),
        ("instances", "cannot read the journal instances: it is not a regular file"),
        ("pipe", "cannot read the journal pipe: it is not a regular file"),
        ("/dev/null", "cannot read the journal /dev/null: it is not a regular file"),
        ("text", "text is not a journal"),
    ] {
        let ran = leftovers(&place, &[file]);
        ran.assert_status(2);
        ran.assert_stderr_has(what);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn leftovers_and_agent_fail_when_they_cannot_write() {
    let place = Place::new();
    place.run(&["--journal=journal"], "-- true\n").assert_status(0);
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut cases = vec![("leftovers", vec!["journal"], 2), ("leftovers", vec!["--json", "journal"], 2)];
    cases.push(("leftovers", vec!["--help"], 2));
    cases.extend(cfg!(feature = "agent").then(|| ("agent", vec!["--help"], 1)));
    for (example, arguments, status) in cases {
        let ran = end(place.command(place.example(example)).args(arguments).stdout(full()).spawn().unwrap());
        ran.assert_status(status);
        ran.assert_stderr_has(&format!("{example}: cannot write to standard output: "));
    }
}

#[cfg(feature = "agent")]
#[test]
fn an_agent_refuses_a_number_out_of_range() {
    let place = Place::new();
    for value in ["0", "-1", "1e-300", "31536001", "1e300", "inf"] {
        let option = format!("--master-timeout={value}");
        let ran = end(place.command(place.example("agent")).arg(option).spawn().unwrap());
        ran.assert_status(2);
        ran.assert_stderr_has(&format!("invalid --master-timeout {value:?}: use seconds from 0.001 to 31536000"));
    }
}

#[cfg(all(feature = "agent", feature = "ec2"))]
#[test]
fn the_ec2_example_refuses_an_address_without_a_port_for_machines() {
    let place = Place::new();
    for address in ["host", "host:0", "host:65536", "host:+80", "::1"] {
        let ran =
            end(place.command(place.example("ec2")).args(["ami-1", "t3.small", address, "true"]).spawn().unwrap());
        ran.assert_status(1);
        ran.assert_stderr_has("HOST:PORT");
        assert!(!place.has("ec2.journal"));
    }
}
