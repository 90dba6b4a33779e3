//! Tests the example `farm` on a terminal.
#![cfg(all(target_os = "linux", feature = "local"))]

#[path = "support/record.rs"]
mod record;
#[path = "support/farm.rs"]
mod support;

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use support::{Place, end, wait_for};

/// A farm on a terminal of its own, and its keyboard and its screen.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: String,
}

impl Terminal {
    /// Runs this line of a shell, in which `$FARM` is the farm.
    fn run(place: &Place, line: &str) -> Self {
        let farm = place.farm(&[]);
        let mut script: Command = place.command("script");
        script.args(["--quiet", "--return", "--flush", "--command", line, "/dev/null"]);
        script.env("FARM", farm.get_program()).env("SHELL", "/bin/sh").env("TERM", "xterm").stdin(Stdio::piped());
        let mut child = script.spawn().unwrap();
        let (keyboard, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keyboard, screen, seen: String::new() }
    }

    /// Reads until this was shown. The bars have lines without an end.
    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            let count = self.screen.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "{text:?} was never shown: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn press(&mut self, key: &[u8]) {
        self.keyboard.write_all(key).unwrap();
    }

    /// All that was shown, and the exit status.
    fn end(mut self) -> (String, Option<i32>) {
        let mut rest = Vec::new();
        self.screen.read_to_end(&mut rest).unwrap();
        drop(self.keyboard);
        (self.seen + &String::from_utf8_lossy(&rest), end(self.child).status)
    }
}

fn let_go(place: &Place) {
    drop(File::options().write(true).open(place.path("go")).unwrap());
}

#[test]
#[ignore = "needs script of util-linux"]
fn an_interrupt_from_the_keyboard_reaches_the_farm_alone() {
    let place = Place::new();
    place.pipe("go");
    let first = "trap 'echo interrupted' INT; echo running; cat \"$FARM_DIR\"/go; echo finished";
    place.write("jobs", &format!("-- {first}\n-- touch \"$FARM_DIR\"/second\n"));
    let mut terminal = Terminal::run(&place, "exec \"$FARM\" --workers=1 jobs");
    terminal.wait_for("build 1 | running");
    terminal.press(b"\x03");
    terminal.wait_for("Ctrl-C again ends them");
    let_go(&place);
    let (seen, status) = terminal.end();
    assert_eq!(status, Some(130), "{seen}");
    assert!(seen.contains("build 1 | finished"), "{seen}");
    assert!(!seen.contains("| interrupted"), "{seen}");
    // The bars are gone before the summary, and nothing is drawn after it.
    let (_, summary) = seen.split_once("\r\nbuilds   2: 1 succeeded").unwrap_or_else(|| panic!("no summary: {seen}"));
    assert!(!summary.contains('\u{1b}'), "{seen}");
    assert!(!place.has("second"));
    place.assert_no_instances();
}

#[test]
#[ignore = "needs script of util-linux"]
fn a_build_has_no_standard_input_of_the_terminal() {
    let place = Place::new();
    place.write("jobs", "-- if read line; then echo \"read $line\"; else echo nothing to read; fi\n");
    let terminal = Terminal::run(&place, "exec \"$FARM\" --workers=1 jobs");
    let (seen, status) = terminal.end();
    assert_eq!(status, Some(0), "{seen}");
    assert!(seen.contains("build 1 | nothing to read"), "{seen}");
}

#[test]
#[ignore = "needs script of util-linux"]
fn the_settings_of_the_terminal_are_as_before() {
    let place = Place::new();
    place.write("jobs", "-- echo one\n-- false\n");
    let line = "stty -a > before; \"$FARM\" --workers=1 jobs; status=$?; stty -a > after; exit $status";
    let (seen, status) = Terminal::run(&place, line).end();
    assert_eq!(status, Some(1), "{seen}");
    let settings = |name| fs::read_to_string(place.path(name)).unwrap();
    assert_eq!(settings("before"), settings("after"));
    // Nobody hides the cursor.
    assert!(!seen.contains("\u{1b}[?25l"), "{seen}");
}

#[test]
#[ignore = "needs script of util-linux"]
fn s1_a_farm_whose_terminal_is_closed_ends_as_after_ctrl_c() {
    let place = Place::new();
    place.pipe("go");
    place.pipe("told");
    place.pipe("ended");
    place.write(
        "jobs",
        "-- echo running; cat \"$FARM_DIR\"/go; touch \"$FARM_DIR\"/first\n-- touch \"$FARM_DIR\"/second\n",
    );
    // The shell passes the hangup on, as an interactive shell does, and reports the end of the farm.
    let line = "\"$FARM\" --workers=1 jobs 2>told & trap \"kill -HUP $!\" HUP; wait $!; wait $!; echo $? > ended";
    let mut terminal = Terminal::run(&place, line);
    let mut told = BufReader::new(File::open(place.path("told")).unwrap());
    terminal.wait_for("build 1 | running");
    terminal.child.kill().unwrap();
    terminal.child.wait().unwrap();
    wait_for(&mut told, "Ctrl-C again ends them");
    let_go(&place);
    told.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(fs::read_to_string(place.path("ended")).unwrap(), "130\n");
    assert!(place.has("first"));
    assert!(!place.has("second"));
    place.assert_no_instances();
}
