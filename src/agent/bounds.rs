//! Tests that the table of bounds in the documentation agrees with the constants and names existing tests.

use std::fs;
use std::path::{Path, PathBuf};

use super::codec::{BLOCK, MAX_COMMAND, MAX_COMMANDS, MAX_INFO, MAX_NAMES};
use super::session::MAX_WORDS;
use super::wire::{READ_BUFFER, SMALL};
use super::{handshake, handshakes, link, listener, outbox, sink};

/// The beginnings of rows, and what each says.
fn rows() -> Vec<(&'static str, String)> {
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    vec![
        ("request to log in", kib(handshake::MAX_BYTES)),
        ("unfinished message before", mib(link::MAX_GREETING)),
        ("unfinished message, and", format!("`max_message_size`, {} by default", mib(listener::MAX_MESSAGE))),
        ("unfinished message that needs", kib(SMALL)),
        ("what is read ahead", kib(READ_BUFFER)),
        ("answers that the worker", kib(outbox::ROOM_FOR_ANSWERS)),
        ("other messages", kib(outbox::ROOM)),
        ("time for 256 KiB", format!("`write_timeout`, {} s by default", listener::WRITE_TIMEOUT.as_secs())),
        ("commands that have not ended", MAX_COMMANDS.to_string()),
        ("output of each command that waits", format!("{} pieces of {}", sink::PIECES, kib(sink::PIECE))),
        ("answers of each command", sink::PIECES.to_string()),
        ("names of a directory", MAX_NAMES.to_string()),
        ("words about a failure", format!("{MAX_WORDS} bytes")),
        ("each text", format!("{MAX_INFO} bytes")),
        ("unfinished messages of more", format!("`message_budget`, {} by default", mib(listener::MESSAGE_BUDGET))),
        (
            "open handshakes",
            format!(
                "`max_handshakes`, {} by default, and 2 for each instance; {} together",
                listener::MAX_HANDSHAKES,
                handshakes::MOST
            ),
        ),
        ("unfinished message |", mib(MAX_COMMAND)),
        ("commands that run", MAX_COMMANDS.to_string()),
        ("messages that have started", mib(MAX_COMMAND)),
        ("answers that the master", kib(outbox::ROOM_FOR_ANSWERS)),
    ]
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn a5_the_table_of_bounds_is_right_and_every_row_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documentation = fs::read_to_string(root.join("src/agent/mod.rs")).unwrap();
    let lines: Vec<_> = documentation.lines().filter_map(|line| line.strip_prefix("//! | ")).collect();
    for (begin, says) in rows() {
        let row = lines.iter().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no row {begin:?}"));
        assert!(row.contains(&format!("| {says} | `")), "{row}: {says}");
    }
    let transfer = format!("{} KiB each | 1 |", BLOCK >> 10);
    assert!(lines.iter().any(|line| line.contains(&transfer)), "{transfer}");

    let mut files = Vec::new();
    sources(&root.join("src/agent"), &mut files);
    sources(&root.join("tests"), &mut files);
    let all: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    // Rows of a bound name their test last.
    let tests = lines.iter().filter(|line| line.matches('|').count() == 3 && line.ends_with("` |"));
    let names: Vec<_> = tests.filter_map(|line| line.rsplit('`').nth(1)).collect();
    assert!(names.len() >= 25, "{names:?}");
    for name in names {
        assert!(all.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}
