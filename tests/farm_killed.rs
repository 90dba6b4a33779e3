//! J2: the example `farm` with a journal and real child processes is killed (`kill -9`) a hundred times at random
//! moments, and after the next start no process and no directory is left.
//!
//! `cargo test` builds the example; with `--test farm_killed` alone it must have been built before.
#![cfg(all(target_os = "linux", feature = "local"))]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TIMES: usize = 100;
/// A farm that is left alone is done after about this time; so no moment of its life is left out.
const A_LIFE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(60);

struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("farm-killed-{}", std::process::id()));
        fs::create_dir_all(path.join("instances")).unwrap();
        Self(path)
    }

    fn farm(&self, jobs: &str) -> Child {
        fs::write(self.0.join("jobs"), jobs).unwrap();
        let tests = std::env::current_exe().unwrap();
        let farm = tests.ancestors().nth(2).unwrap().join("examples/farm");
        assert!(farm.exists(), "{} is missing: cargo build --example farm", farm.display());
        let mut command = Command::new(farm);
        command.args(["--workers=3", "--idle=after-build", "--journal=journal", "--quiet", "jobs"]);
        command.current_dir(&self.0).env("TMPDIR", self.0.join("instances")).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn directories(&self) -> usize {
        fs::read_dir(self.0.join("instances")).unwrap().count()
    }

    /// The command lines of all processes that have the place of the instances in their environment.
    fn processes(&self) -> Vec<String> {
        let place = self.0.join("instances");
        let has_place = |path: &Path| {
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            environment.windows(place.as_os_str().len()).any(|part| part == place.as_os_str().as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let ours = entries.filter(|path| has_place(path));
        ours.map(|path| fs::read_to_string(path.join("cmdline")).unwrap_or_default().replace('\0', " ")).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn j2_a_farm_that_is_killed_a_hundred_times_at_random_moments_leaves_nothing_after_the_next_start() {
    let place = Place::new();
    let busy = "-- sleep 1000 & (trap '' TERM; sleep 1000; sleep 1000) & touch here; sleep 0.02\n".repeat(12);
    let (mut with_directories, mut with_processes) = (0, 0);
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 1..=TIMES {
        let moment = A_LIFE.mul_f64(random.f64());
        let mut killed = place.farm(&busy);
        std::thread::sleep(moment);
        killed.kill().unwrap();
        killed.wait().unwrap();
        with_directories += usize::from(place.directories() > 0);
        with_processes += usize::from(!place.processes().is_empty());

        let next = place.farm("-- true\n-- true\n").wait_with_output().unwrap();
        let about = format!("round {round}, killed after {moment:?}, seed {seed}");
        let said = String::from_utf8_lossy(&next.stderr);
        assert!(next.status.success(), "{about}: {said}");
        assert_eq!(place.directories(), 0, "{about}: {said}");
        let deadline = Instant::now() + PATIENCE;
        while !place.processes().is_empty() {
            assert!(Instant::now() < deadline, "{about}: {:?}", place.processes());
            std::thread::sleep(Duration::from_millis(5));
        }
        let journal = latent_worker::read_journal(place.0.join("journal")).unwrap();
        assert_eq!((journal.instances, journal.damage), (vec![], None), "{about}");
    }
    println!(
        "killed {TIMES} times, {with_directories} with directories and {with_processes} with processes left behind"
    );
    assert!(with_directories > TIMES / 5 && with_processes > TIMES / 5, "it was hardly ever killed at work");
}
