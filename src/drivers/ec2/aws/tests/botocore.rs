//! The library of the provider itself, to compare with.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a script with a Python that has botocore. Returns what it prints when it reads `asked`.
pub(in super::super) fn botocore(script: &str, asked: String) -> String {
    let python = std::env::var("TEST_MOTO_PYTHON").expect("TEST_MOTO_PYTHON names a Python that has botocore");
    let mut child = Command::new(python)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(asked.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
