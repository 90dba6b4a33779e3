//! Files that cannot be used, and that their errors quote nothing of them.

use std::path::{Path, PathBuf};

use super::*;
use crate::secrecy::{assert_reveals_nothing, damaged, shown};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");

/// A file that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("latent-worker-pem-{name}-{}", std::process::id())))
    }

    fn holding(&self, text: &[u8]) -> &Path {
        std::fs::write(&self.0, text).unwrap();
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(SAMPLES).join(name)).unwrap()
}

/// The base64 of a key, line by line.
fn lines_of(key: &[u8]) -> Vec<&[u8]> {
    key.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"---")).collect()
}

#[test]
fn good_files_are_loaded() {
    assert_eq!(certificates(&Path::new(SAMPLES).join("master.pem")).unwrap().len(), 1);
    private_key(&Path::new(SAMPLES).join("master.key.pem")).unwrap();
}

#[test]
fn an_error_names_the_file_and_the_problem() {
    let scratch = Scratch::new("problems");
    for (text, problem) in [
        ("", "the file contains no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "an END line is missing"),
        ("-----BEGIN CERTIFICATE-----\n??\n-----END CERTIFICATE-----\n", "not base64"),
        ("-----BEGIN CERTIFICATE----- AAAA\n", "a BEGIN line is malformed"),
    ] {
        let error = certificates(scratch.holding(text.as_bytes())).unwrap_err().to_string();
        let path = scratch.0.display().to_string();
        assert!(error.contains(&path) && error.contains(problem), "{error}");
    }
    let error = certificates(Path::new("/no/such/file")).unwrap_err().to_string();
    assert!(error.starts_with("cannot load the certificates from /no/such/file: No such file"), "{error}");
}

#[test]
fn a1_a_key_without_line_breaks_is_not_quoted() {
    let (scratch, key) = (Scratch::new("joined"), sample("master.key.pem"));
    for with in ["", " ", "\\n", "\t"] {
        let joined = lines_of_all(&key).join(with.as_bytes());
        for error in [private_key(scratch.holding(&joined)).unwrap_err(), certificates(&scratch.0).unwrap_err()] {
            lines_of(&key).into_iter().for_each(|line| assert_reveals_nothing(&shown(&error), line));
        }
    }
}

fn lines_of_all(key: &[u8]) -> Vec<&[u8]> {
    key.split(|byte| *byte == b'\n').collect()
}

#[test]
fn a1_no_damage_has_a_key_quoted() {
    let (scratch, key) = (Scratch::new("damaged"), sample("master.key.pem"));
    let mut random = fastrand::Rng::with_seed(12);
    let mut refused = 0;
    for _ in 0..300 {
        let path = scratch.holding(&damaged(&key, &mut random)).to_owned();
        for error in [private_key(&path).err(), certificates(&path).err()].into_iter().flatten() {
            refused += 1;
            lines_of(&key).into_iter().for_each(|line| assert_reveals_nothing(&shown(&error), line));
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a1_a_key_in_place_of_a_path_is_not_quoted() {
    let key = sample("master.key.pem");
    let text = String::from_utf8(key.clone()).unwrap();
    for path in [text.clone(), text.replace('\n', " ")] {
        let error = certificates(Path::new(&path)).unwrap_err();
        lines_of(&key).into_iter().for_each(|line| assert_reveals_nothing(&shown(&error), line));
    }
}
