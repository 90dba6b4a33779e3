//! The example `leftovers`, as a user meets it.
//!
//! `cargo test` builds the example; with `--test leftovers` alone it must have been built before.
#![cfg(all(target_os = "linux", feature = "local", feature = "command"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use latent_worker::{Build, IdlePolicy, LocalLatentWorker, Master, ShutdownMode, WorkerConfig};
use serde_json::Value;

struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!("leftovers-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A journal that tells of two local instances and not of their end.
    fn journal(&self) {
        let master = Master::builder().journal(self.path("first")).unwrap().build();
        let driver = std::sync::Arc::new(LocalLatentWorker::new().root(self.path("root")));
        for name in ["a", "b"] {
            let config = WorkerConfig::new(name).with_idle(IdlePolicy::Never);
            let worker = master.add_worker(config, driver.clone()).unwrap();
            drop(worker.substantiate(&Build::new("b")).wait().unwrap());
            let deadline = Instant::now() + Duration::from_secs(60);
            while worker.status().call.is_some() {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        fs::copy(self.path("first"), self.path("journal")).unwrap();
        for entry in fs::read_dir(self.path("root")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(name.to_str().unwrap().starts_with("latent-worker-"));
        }
        // The first master ends in order; its directories are put back as if it had not.
        let names: Vec<_> = fs::read_dir(self.path("root")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(master.shutdown(ShutdownMode::Fast, Duration::from_secs(60)).complete);
        names.iter().for_each(|path| fs::create_dir(path).unwrap());
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let tests = std::env::current_exe().unwrap();
        let example = tests.ancestors().nth(2).unwrap().join("examples/leftovers");
        assert!(example.exists(), "{} is missing: cargo build --example leftovers", example.display());
        let Output { status, stdout, stderr } =
            Command::new(example).args(arguments).current_dir(&self.0).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn instances(&self) -> usize {
        fs::read_dir(self.path("root")).unwrap().count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn j5_a_table_json_and_a_reclaim_by_the_local_driver() {
    let place = Place::new();
    place.journal();
    let before = fs::read(place.path("journal")).unwrap();
    let (status, table, errors) = place.run(&["journal"]);
    assert_eq!((status, errors.as_str()), (1, ""));
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("WORKER  ATTEMPT  STAGE"));
    assert!(lines[1].starts_with("a       1        known") && lines[2].starts_with("b "), "{table}");

    let (status, json, _) = place.run(&["--json", "--worker", "b", "journal"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let leftovers = json["leftovers"].as_array().unwrap();
    assert_eq!((status, leftovers.len()), (1, 1));
    assert_eq!(
        (&leftovers[0]["worker"], &leftovers[0]["stage"], &leftovers[0]["epoch"]),
        (&"b".into(), &"known".into(), &1.into())
    );
    assert!(leftovers[0]["ids"][0].as_str().unwrap().starts_with(place.path("root").to_str().unwrap()));
    assert_eq!((json["owner"].as_str().unwrap().len(), &json["damage"]), (32, &Value::Null));
    assert_eq!(fs::read(place.path("journal")).unwrap(), before, "looking changes nothing");

    assert_eq!(place.run(&["--reclaim", "--local", "--worker=a", "journal"]).1, "nothing is left\n");
    assert_eq!(place.instances(), 1);
    let (status, left, errors) = place.run(&["--reclaim", "--local", "journal"]);
    assert_eq!((status, left.as_str(), errors.as_str()), (0, "nothing is left\n", ""));
    assert_eq!(place.instances(), 0);
    assert_eq!(place.run(&["journal"]).1, "nothing is left\n");
}

#[test]
fn j5_a_reclaim_by_a_command_that_fails_shows_what_remains_and_why() {
    let place = Place::new();
    place.journal();
    let line = "[ $LATENT_WORKER_NAME = a ] && rmdir \"$LATENT_WORKER_INSTANCE\" || { echo not mine >&2; exit 1; }";
    let (status, table, errors) = place.run(&["--reclaim", "--command", line, "--patience=1", "journal"]);
    assert_eq!(status, 1);
    assert!(errors.contains("worker b: reclaim returned: not mine (exit code 1); again in"), "{errors}");
    assert!(table.lines().count() == 2 && table.contains("not mine"), "{table}");
    assert_eq!(place.instances(), 1);
}

#[test]
fn j2_a_reclaim_by_a_command_ends_what_has_the_key_of_the_attempt() {
    let place = Place::new();
    place.journal();
    let json: Value = serde_json::from_str(&place.run(&["--json", "--worker=a", "journal"]).1).unwrap();
    let key = json["leftovers"][0]["key"].as_str().unwrap();
    // A start program of a dead master that has become another program.
    let mut maker = Command::new("sleep").arg("1000").env("LATENT_WORKER_KEY", key).spawn().unwrap();
    let line = "rmdir \"$LATENT_WORKER_INSTANCE\" 2>/dev/null; true";
    let (status, left, errors) = place.run(&["--reclaim", "--command", line, "--worker=a", "journal"]);
    assert_eq!((status, left.as_str(), errors.as_str()), (0, "nothing is left\n", ""));
    assert!(!maker.wait().unwrap().success());
}

#[test]
fn j6_what_cannot_be_told_is_an_error() {
    let place = Place::new();
    fs::write(place.path("letter"), "dear sir").unwrap();
    for (arguments, expected) in [
        (&["letter"][..], "is not a journal"),
        (&["missing"], "cannot read the journal missing"),
        (&[], "no FILE is given"),
        (&["--reclaim", "letter"], "either --local or --command"),
        (&["--local", "letter"], "for --reclaim"),
        (&["--local", "--reclaim", "letter"], "is not a journal"),
        (&["one", "two"], "unexpected argument"),
    ] {
        let (status, stdout, stderr) = place.run(arguments);
        assert_eq!((status, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1, "nothing was made");
    assert_eq!(place.run(&["--help"]).0, 0);

    let journal = place.path("journal");
    let master = Master::builder().journal(&journal).unwrap().build();
    let (status, _, stderr) = place.run(&["--reclaim", "--local", "journal"]);
    assert_eq!(status, 2);
    assert!(stderr.contains(&format!("in use by process {}", std::process::id())), "{stderr}");
    drop(master);
}
