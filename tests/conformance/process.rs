//! The driver of child processes. Its provider is the system: what runs with a path of this test among its arguments.

use std::fs;
use std::path::Path;
use std::time::Duration;

use latent_worker::testing::conformance::Subject;
use latent_worker::{Build, ProcessLatentWorker};
use rustix::process::{Pid, Signal, kill_process};

use crate::OF_FAULTS;
use crate::place::{Place, expect_all_but};

/// Process numbers. One that has ended and was not reaped has no arguments.
fn running(marker: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(|process| {
        let mut arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        while arguments.is_empty() && is_just_starting(&process.path()) {
            std::thread::yield_now();
            arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        }
        String::from_utf8_lossy(&arguments).contains(marker)
    });
    processes.map(|process| process.file_name().into_string().unwrap()).collect()
}

/// Whether it is a child of ours that has not ended. Linux lets its parent go on a moment before it has its arguments.
fn is_just_starting(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // proc(5): the name, in parentheses, then the state and the parent.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let (state, parent) = (fields.next(), fields.next());
    !matches!(state, Some("Z" | "X") | None) && parent == Some(&std::process::id().to_string())
}

fn kill(number: &str, marker: &str) {
    _ = kill_process(Pid::from_raw(number.parse().unwrap()).unwrap(), Signal::KILL);
    while running(marker).iter().any(|other| other == number) {
        std::thread::yield_now();
    }
}

fn run(change: impl Fn(ProcessLatentWorker) -> ProcessLatentWorker + Send + Sync + 'static) {
    let place = Place::new();
    let marker = place.directory("marker").display().to_string();
    let agent = format!(
        ": {marker}; [ -z \"$LATENT_WORKER_PROPERTY_stubborn\" ] || trap '' TERM; \
         [ -z \"$LATENT_WORKER_PROPERTY_dies\" ] || {{ echo oops >&2; exit 3; }}; while read line; do :; done"
    );
    let make = move || {
        let driver = ProcessLatentWorker::new(["/bin/sh", "-c", &agent]).compatible_by(["image"]);
        change(driver.grace(Duration::from_secs(1000)))
    };
    let (listed, killed) = (marker.clone(), marker);
    let report = Subject::new("process", make, move || running(&listed))
        .destroy(move |number| kill(number, &killed))
        .impossible(Build::new("no variable").with_property("x", "a\0b"))
        .dying(Build::new("dies").with_property("dies", "yes"))
        .incompatible(Build::new("other").with_property("image", "other"))
        .stubborn(Build::new("stubborn").with_property("stubborn", "yes"))
        .debug_driver(|driver| format!("{driver:?}"))
        .debug_instance(|instance| format!("{instance:?}"))
        .run();
    println!("{report}");
    let without_means = [
        // Nothing can fail after the child is there, but to record it: that is a check of its own.
        "d2_failed_start",
    ];
    // The system has none of these.
    expect_all_but(&report, &[&without_means, OF_FAULTS].concat());
}

#[test]
fn d6_process() {
    run(|driver| driver);
}

#[test]
fn d6_process_with_its_secret_in_a_file() {
    run(ProcessLatentWorker::secret_in_file);
}
