//! The inputs that the fuzzer found worth keeping, run once more.

use std::path::Path;

use super::*;

/// Inputs in one file, each behind its length of two bytes.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/fuzzing/corpus").join(name);
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (mut inputs, mut rest) = (Vec::new(), &*bytes);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (input, behind) = behind.split_at(u16::from_be_bytes(*length).into());
        inputs.push(input.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty(), "half a length");
    inputs
}

/// How many there are is counted, so that none is lost unseen.
fn replay(target: fn(&[u8]), name: &str, count: usize) {
    let inputs = kept(name);
    assert_eq!(inputs.len(), count, "{name}");
    for (at, input) in inputs.iter().enumerate() {
        if std::panic::catch_unwind(|| target(input)).is_err() {
            panic!("input {at} of {name}: {input:?}");
        }
    }
}

#[test]
fn a5_what_the_fuzzer_found_for_the_master_is_replayed() {
    replay(master, "master", 356);
}

#[test]
fn a5_what_the_fuzzer_found_for_an_agent_is_replayed() {
    replay(client, "client", 282);
}

#[test]
fn a5_what_the_fuzzer_found_for_both_is_replayed() {
    replay(talk, "talk", 126);
}
