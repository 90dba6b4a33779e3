//! Tests how the example `farm` handles its builds and its options.
#![cfg(all(unix, feature = "local"))]

#[path = "support/record.rs"]
mod record;
#[path = "support/farm.rs"]
mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Place, end};

#[test]
fn bad_lines_are_named_and_nothing_is_started() {
    let place = Place::new();
    let started = "touch \"$FARM_DIR\"/started";
    let ran = place.run(&["--events=events"], &format!("-- {started}\nkind=a\n# fine\n{started}\n-- {started}\n"));
    ran.assert_status(2);
    ran.assert_stderr_has("farm: jobs:2: ");
    ran.assert_stderr_has("farm: jobs:4: ");
    ran.assert_stderr_has("a valid line looks like");
    assert_eq!(ran.stderr.lines().count(), 2, "{ran:?}");
    assert_eq!(ran.stdout, "");
    assert!(!place.has("started"));
    assert!(!place.has("events"));
}

#[test]
fn a_dash_is_standard_input() {
    let place = Place::new();
    for (lines, status) in [("-- echo from stdin\n", 0), ("bad\n", 2)] {
        let mut child = place.farm(&["-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let ran = end(child);
        ran.assert_status(status);
        if status == 0 {
            ran.assert_stdout_has("build 1 | from stdin\n");
        } else {
            ran.assert_stderr_has("farm: standard input:1: ");
        }
    }
}

#[test]
fn nothing_to_do_is_done() {
    let place = Place::new();
    let ran = place.run(&["--events=events"], "# nothing\n\n");
    ran.assert_status(0);
    assert_eq!(record::check(&place.record(), 1).unwrap(), record::Seen::default());
}

#[test]
fn numbers_out_of_range_are_refused_with_the_option_the_value_and_the_range() {
    let place = Place::new();
    place.write("jobs", "-- touch \"$FARM_DIR\"/started\n");
    for (option, value, range) in [
        ("--workers", "5000000000", "1 to 100000"),
        ("--workers", "18446744073709551616", "1 to 100000"),
        ("--workers", "-1", "1 to 100000"),
        ("--max-attempts", "4294967295", "1 to 1000"),
        ("--max-builds", "99999999999", "1 to 1000"),
        ("--idle", "1e300", "0 to 31536000"),
        ("--idle", "-0.5", "0 to 31536000"),
        ("--time-limit", "1e18", "0.001 to 31536000"),
        ("--time-limit", "inf", "0.001 to 31536000"),
        ("--listen", "host:65536", "0 to 65535"),
    ] {
        let ran = end(place.farm(&[&format!("{option}={value}"), "jobs"]).spawn().unwrap());
        ran.assert_status(2);
        ran.assert_stderr_has(option);
        ran.assert_stderr_has(value.rsplit(':').next().unwrap());
        ran.assert_stderr_has(range);
    }
    assert!(!place.has("started"));
}

#[test]
fn the_most_workers_are_added() {
    let place = Place::new();
    let ran = place.run(&["--workers=100000", "--quiet"], "-- true\n");
    ran.assert_status(0);
    ran.assert_stdout_has("workers  100000: 1 start, 1 attached, 0 failed; 1 stop\n");
}

#[test]
fn a_byte_order_mark_and_the_line_ends_of_other_systems_are_no_part_of_a_build() {
    let place = Place::new();
    let ran =
        place.run(&["--workers=1"], "\u{feff}kind=first -- echo \"<$LATENT_WORKER_KIND>\"\r\n\t-- echo two\t\r\n");
    ran.assert_status(0);
    ran.assert_stdout_has("build 1 | <first>\n");
    ran.assert_stdout_has("build 2 | two\n");
}

#[test]
fn a_file_in_another_encoding_is_an_error_that_names_it() {
    let place = Place::new();
    let text = "kind=a -- true\n";
    let little_endian: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big_endian: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let with_mark = |mark: &[u8], text: &[u8]| [mark, text].concat();
    for (bytes, message) in [
        (with_mark(b"\xff\xfe", &little_endian), "jobs: it is UTF-16; save it as UTF-8"),
        (with_mark(b"\xfe\xff", &big_endian), "jobs: it is UTF-16; save it as UTF-8"),
        (little_endian.clone(), "jobs:1: the line contains a NUL character"),
        (b"-- true\nkind=\xe9t\xe9 -- true\n".to_vec(), "jobs:2: the line is not UTF-8 at character 6"),
    ] {
        std::fs::write(place.path("jobs"), bytes).unwrap();
        let ran = end(place.farm(&["jobs"]).spawn().unwrap());
        ran.assert_status(2);
        ran.assert_stderr_has(message);
    }
}

#[test]
fn an_invalid_line_is_an_error_with_its_number() {
    let place = Place::new();
    for (line, message) in [
        ("ki\0nd=a -- true".to_owned(), "NUL"),
        ("\u{feff}kind=a -- true".to_owned(), "U+FEFF"),
        ("kind=a -- true\rkind=b -- true".to_owned(), "carriage return"),
        (format!("-- {}", "x".repeat(1 << 20)), "put the command into a script"),
    ] {
        let ran = place.run(&[], &format!("-- true\n\n{line}\n"));
        ran.assert_status(2);
        ran.assert_stderr_has("farm: jobs:3: ");
        ran.assert_stderr_has(message);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn a_source_that_is_no_file_of_builds_is_an_error_that_names_it() {
    let place = Place::new();
    let endless = if cfg!(target_os = "linux") { "/dev/zero" } else { "/no/such/device" };
    for source in ["instances", "no-such-file", "/no/such/directory/jobs", endless] {
        let ran = end(place.farm(&[source]).spawn().unwrap());
        ran.assert_status(2);
        ran.assert_stderr_has(&format!("farm: cannot read {source}: "));
    }
}

#[test]
fn a_source_without_builds_is_told() {
    let place = Place::new();
    for jobs in ["", "\n", "# nothing\n", "\u{feff}", "\u{feff}\r\n"] {
        let ran = place.run(&[], jobs);
        ran.assert_status(0);
        assert_eq!(ran.stderr, "farm: jobs contains no builds\n");
        ran.assert_stdout_has("builds   0:");
    }
    let ran = end(place.farm(&["--quiet", "-"]).spawn().unwrap());
    ran.assert_status(0);
    assert_eq!(ran.stderr, "farm: standard input contains no builds\n");
}

#[cfg(target_os = "linux")]
#[test]
fn j1_a_journal_that_cannot_be_written_is_an_error_before_anything_is_started() {
    let place = Place::new();
    place.write("jobs", "-- touch \"$FARM_DIR\"/started\n");
    place.write("text", "this is not a journal\n");
    place.pipe("pipe");
    for journal in ["instances", "no/such/directory", "/dev/full", "text", "pipe", "/proc/journal"] {
        let ran = end(place.farm(&["--journal", journal, "jobs"]).spawn().unwrap());
        ran.assert_status(2);
        ran.assert_stderr_has(journal);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    // As on a full disk: the shell lets no file grow.
    let farm = place.farm(&["--journal=journal", "jobs"]);
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let mut shell = place.command("/bin/sh");
    let ran = end(shell.args(["-c", limited]).arg(farm.get_program()).args(farm.get_args()).spawn().unwrap());
    ran.assert_status(2);
    ran.assert_stderr_has("cannot write to the journal journal: ");
    assert!(!place.has("started"));
}

#[test]
fn a_record_of_events_destroys_neither_the_journal_nor_the_builds() {
    let place = Place::new();
    place.run(&["--journal=journal"], "-- true\n").assert_status(0);
    std::fs::hard_link(place.path("journal"), place.path("link")).unwrap();
    let journal = std::fs::read(place.path("journal")).unwrap();
    for events in ["jobs", "./jobs", "journal", "./journal", "link"] {
        let ran = place.run(&["--journal=journal", "--events", events], "-- true\n");
        ran.assert_status(2);
        ran.assert_stderr_has(&format!("--events {events} is the file of "));
        assert_eq!(std::fs::read(place.path("journal")).unwrap(), journal);
    }
    let ran = place.run(&["--journal=new", "--events=new"], "-- true\n");
    ran.assert_status(2);
    assert!(!place.has("new"));
}
