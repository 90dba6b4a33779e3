//! The binding for Python, with the tests that are written in Python, and the example as a user runs it.
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
        .env("LATENT_WORKER_LIBRARY", shared_library::folder().join("liblatent_worker.so"))
        .output()
        .expect("timeout runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

#[test]
#[ignore = "needs CPython (TEST_PYTHON)"]
fn the_tests_in_python_pass() {
    let (passed, said) = python(&["-X", "faulthandler", "-W", "error", "tests/python/test_binding.py"]);
    assert!(passed, "{said}");
    assert!(said.contains("\nOK"), "{said}");
}

#[test]
#[ignore = "needs CPython (TEST_PYTHON)"]
fn the_farm_runs_all_builds() {
    let (passed, said) = python(&["examples/python/farm.py"]);
    assert!(passed, "{said}");
    for build in 1..10 {
        assert!(said.contains(&format!("\nbuild {build} ")), "{said}");
    }
    assert_eq!(said.matches("sandbox-1").count(), 3, "{said}");
}
