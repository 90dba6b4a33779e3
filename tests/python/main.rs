//! The binding for Python: its tests, which are written in Python, and the example as a user runs it.
//!
//! `TEST_PYTHON` is the path of a CPython of version 3.9 or newer.

#![cfg(unix)]

use std::env;
use std::path::Path;
use std::process::Command;

#[path = "../support/shared_library.rs"]
mod shared_library;

/// Runs a program of Python, within at most ten minutes, and returns what it has said on both streams.
fn python(arguments: &[&str]) -> (bool, String) {
    let python = env::var_os("TEST_PYTHON").expect("TEST_PYTHON is the path of a CPython, 3.9 or newer");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("timeout")
        .arg("600")
        .arg(python)
        .args(arguments)
        .current_dir(root)
        .env("PYTHONPATH", root.join("examples/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LATENT_WORKER_LIBRARY", shared_library::library_folder().join("liblatent_worker.so"))
        .output()
        .expect("timeout runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

/// Runs a file of tests. Warnings are errors: of what is deprecated, and of files that nobody has closed.
fn passes(file: &str) {
    let (passed, said) = python(&["-X", "dev", "-W", "error", &format!("tests/python/{file}")]);
    assert!(passed, "{said}");
    assert!(said.contains("\nOK\n"), "it ran no test: {said}");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn the_binding_says_what_the_header_says() {
    passes("header.py");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn builds_live_from_their_submission_to_the_end_of_their_leases() {
    passes("life.py");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn drivers_are_classes_whose_exceptions_are_failures() {
    passes("drivers.py");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn agents_are_classes_that_run_the_commands_of_builds() {
    passes("agents.py");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn interrupts_end_every_call_that_blocks() {
    passes("interrupts.py");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn many_threads_and_builds_lose_nothing_and_grow_nothing() {
    passes("many.py");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn interpreters_end_and_forked_ones_do_nothing() {
    passes("processes.py");
}

#[test]
#[ignore = "needs python3, as TEST_PYTHON"]
fn the_farm_runs_all_builds() {
    let (passed, said) = python(&["examples/python/farm.py"]);
    assert!(passed, "{said}");
    for build in 1..10 {
        assert!(said.contains(&format!("\nbuild {build} ")), "{said}");
    }
    assert_eq!(said.matches("sandbox-1").count(), 3, "{said}");
}
