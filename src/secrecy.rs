//! Helpers for tests that prove that a text or a log reveals nothing of a secret.

#![cfg_attr(not(all(feature = "docker", feature = "ec2")), allow(dead_code, reason = "neither driver needs all of it"))]

use std::process::Command;

/// How many consecutive bytes of a secret must not appear anywhere.
const REVEALING: usize = 5;

/// Panics if five consecutive bytes of the secret occur in the text, as they are or as `Debug` prints bytes.
#[track_caller]
pub(crate) fn assert_reveals_nothing(text: &str, secret: &[u8]) {
    for window in secret.windows(REVEALING) {
        let as_list = window.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let as_hex = window.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let plain = text.as_bytes().windows(REVEALING).any(|part| part == window);
        assert!(
            !plain && !text.contains(&as_list) && !text.contains(&as_hex),
            "{window:?} of the secret is in: {text}"
        );
    }
}

/// Returns what an error shows.
pub(crate) fn shown<E: std::fmt::Display + std::fmt::Debug>(error: &E) -> String {
    format!("{error}\n{error:?}\n{error:#?}")
}

/// Returns a damaged version of the text: with missing, doubled, replaced or truncated bytes, or with joined lines.
pub(crate) fn damaged(text: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    const REPLACEMENTS: &[&[u8]] = &[
        b"",
        b" ",
        b"\t",
        b"\\n",
        b"\r",
        b"\n\n",
        b"\"",
        b"'",
        b"=",
        b"-",
        b"[",
        b"]",
        b"#",
        b"\xef\xbb\xbf",
        b"\xff",
    ];
    let mut text = text.to_vec();
    if random.u8(..4) == 0 {
        let with = REPLACEMENTS[random.usize(..REPLACEMENTS.len())];
        text = text.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(with);
    }
    for _ in 0..random.usize(1..4) {
        let begin = random.usize(..=text.len());
        let end = (begin + random.usize(..4)).min(text.len());
        let with = REPLACEMENTS[random.usize(..REPLACEMENTS.len())];
        match random.u8(..4) {
            0 => text.truncate(begin),
            _ => drop(text.splice(begin..end, with.iter().copied())),
        }
    }
    text
}

/// Returns everything that is logged during `work`, which runs in a process of its own, because loggers and variables
/// belong to the process. `test` is the full name of the calling test. Returns `None` in that process.
pub(crate) fn log_of(test: &str, variables: &[(&str, &str)], work: impl FnOnce()) -> Option<String> {
    const WORKS: &str = "TEST_LOGS_EVERYTHING";
    if std::env::var_os(WORKS).is_some() {
        log::set_logger(&Everything).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        work();
        return None;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--include-ignored", "--nocapture"]).env(WORKS, "1");
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let log = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && log.contains("1 passed"), "{log}");
    Some(log)
}

/// A logger that prints every record.
struct Everything;

impl log::Log for Everything {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("{} {} {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}
