//! The example `farm` with `--driver ec2` and the example `ec2`, as a user meets them: builds, several kinds of machines, and
//! `kill -9`.
//!
//! `cargo test` builds the examples; with `--test ec2` alone they must have been built before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::room::USER_DATA;
use crate::support::{Scene, TYPE, eventually};

/// The directory in which a program is started.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ec2-farm-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("user-data"), USER_DATA).unwrap();
        Self(path)
    }

    /// A program of the examples that sees the account of the scene.
    fn program(&self, scene: &Scene, example: &str) -> Command {
        let tests = std::env::current_exe().unwrap();
        let program = tests.ancestors().nth(2).unwrap().join("examples").join(example);
        assert!(program.exists(), "{} is missing: cargo build --examples --features agent,ec2", program.display());
        let mut command = Command::new(program);
        command.current_dir(&self.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs([
            ("AWS_ENDPOINT_URL", &*scene.front.url()),
            ("AWS_REGION", scene.cloud.region),
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "of the tests"),
        ]);
        command
    }

    fn farm(&self, scene: &Scene, arguments: &[&str], jobs: &str) -> Command {
        fs::write(self.0.join("jobs"), jobs).unwrap();
        let mut farm = self.program(scene, "farm");
        farm.args(["--driver=ec2", "--image", &*scene.image, "--offer", TYPE, "--user-data=user-data"]);
        farm.args(["--listen=127.0.0.1:0"]).args(arguments).arg("jobs");
        farm
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn builds_of_a_farm_run_on_machines_of_two_kinds() {
    let scene = Scene::new();
    let place = Place::new();
    let jobs = "kind=a -- echo one\nkind=b -- echo two\n".repeat(4);
    let ran = place.farm(&scene, &["--workers=2"], &jobs).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{stdout}\n{stderr}");
    for (line, word) in (1..=8).zip(["one", "two"].into_iter().cycle()) {
        assert!(stdout.contains(&format!("build {line} | {word}\n")), "{line}: {stdout}");
    }
    let kinds: Vec<String> =
        scene.cloud.all_machines().iter().map(|machine| machine.tags["farm.kind"].clone()).collect();
    assert!(kinds.contains(&"a".to_owned()) && kinds.contains(&"b".to_owned()), "{kinds:?}");
    assert!(scene.room.booted() >= 2);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn j2_a_farm_that_is_killed_leaves_no_machine_after_the_next_start() {
    let scene = Scene::new();
    let place = Place::new();
    let options = ["--workers=3", "--idle=after-build", "--journal=journal", "--quiet"];
    let mut killed = place.farm(&scene, &options, &"-- sleep 1\n".repeat(60)).spawn().unwrap();
    assert!(eventually(|| scene.cloud.machines().iter().filter(|machine| machine.state == "running").count() == 3));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left: Vec<String> = scene.cloud.machines().into_iter().map(|machine| machine.id).collect();
    assert!(!left.is_empty());
    // A launch that was on its way may be looked for longer than one build takes, and stays in the journal until then.
    let next = place.farm(&scene, &options, &"-- sleep 1\n".repeat(6)).output().unwrap();
    assert!(next.status.success(), "{next:?}");
    assert!(eventually(|| left.iter().all(|id| scene.cloud.machine(id).state == "terminated")), "{next:?}");
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn the_example_runs_a_command_on_a_machine_that_is_gone_afterwards() {
    let scene = Scene::new();
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ran = place.program(&scene, "ec2").args([&*scene.image, TYPE, &*free, "echo hello"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "hello\n");
    assert!(stderr.contains(&scene.cloud.all_machines()[0].id), "{stderr}");
    scene.finish();
}
