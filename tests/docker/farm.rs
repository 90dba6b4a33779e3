//! The example `farm` with `--driver docker`, as a user meets it: builds, images by property, and `kill -9`.
//!
//! `cargo test` builds the example; with `--test docker` alone it must have been built before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::neighbours::Neighbour;
use crate::record;
use crate::support::engine::{Engine, Listed};
use crate::support::images::Image;

/// The directory in which a farm is started.
struct Place {
    path: PathBuf,
    engine: Engine,
}

impl Place {
    fn new(engine: &Engine) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("docker-farm-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self { path, engine: engine.clone() }
    }

    fn farm(&self, image: &Image, arguments: &[&str], jobs: &str) -> Child {
        fs::write(self.path.join("jobs"), jobs).unwrap();
        let tests = std::env::current_exe().unwrap();
        let farm = tests.ancestors().nth(2).unwrap().join("examples/farm");
        assert!(farm.exists(), "{} is missing: cargo build --example farm --features agent,docker", farm.display());
        let mut command = Command::new(farm);
        command.args(["--driver=docker", "--image", image.reference()]).args(arguments).arg("jobs");
        command.current_dir(&self.path).env("DOCKER_HOST", self.engine.host());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what a failed test has left of an image's containers, before the image itself goes.
struct Sweeper<'a>(&'a Engine, &'a Image);

impl Sweeper<'_> {
    fn containers(&self) -> Vec<Listed> {
        self.0.made_of(self.1.reference())
    }

    fn besides(&self, neighbours: &[Neighbour]) -> Vec<Listed> {
        let ours = |container: &Listed| !neighbours.iter().any(|neighbour| neighbour.id() == container.id);
        self.containers().into_iter().filter(ours).collect()
    }
}

impl Drop for Sweeper<'_> {
    fn drop(&mut self) {
        self.containers().iter().for_each(|left| _ = self.0.try_remove(&left.id));
    }
}

#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn twenty_builds_run_on_containers_of_two_images() {
    let engine = Engine::docker();
    let (usual, other) = (Image::agent(&engine, "a"), Image::agent(&engine, "b"));
    let (of_usual, of_other) = (Sweeper(&engine, &usual), Sweeper(&engine, &other));
    let jobs: String = (0..10)
        .map(|_| format!("-- echo kind $(cat /kind)\nimage={} -- echo kind $(cat /kind)\n", other.reference()))
        .collect();
    let place = Place::new(&engine);
    let farm = place.farm(&usual, &["--workers=4", "--memory=256m", "--events=events"], &jobs);
    let ran = farm.wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{stdout}\n{stderr}");
    for (line, kind) in (1..=20).zip(["a", "b"].into_iter().cycle()) {
        assert!(stdout.contains(&format!("build {line} | kind {kind}\n")), "{line}: {stdout}");
    }
    let events = fs::read_to_string(place.path.join("events")).unwrap();
    let seen = record::check(&record::parse(&events).unwrap(), 1).unwrap();
    assert_eq!(seen.builds, 20);
    assert_eq!((of_usual.containers(), of_other.containers()), (vec![], vec![]));
}

#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn a_build_that_asks_for_an_image_that_is_not_there_is_told_so() {
    let engine = Engine::docker();
    let image = Image::agent(&engine, "a");
    let place = Place::new(&engine);
    let ran = place.farm(&image, &["--workers=1"], "image=:bad -- true\n").wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stdout).contains(":bad"), "{ran:?}");
}

#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn j2_a_farm_that_is_killed_leaves_no_container_after_the_next_start_and_takes_no_other() {
    const TIMES: usize = 8;
    /// The exit status of a farm that may have left something.
    const LEFT_BEHIND: i32 = 3;
    let engine = Engine::docker();
    let image = Image::agent(&engine, "a");
    let sweeper = Sweeper(&engine, &image);
    let place = Place::new(&engine);
    // Runs until it is killed.
    let options = ["--workers=3", "--idle=after-build", "--journal=journal", "--quiet"];
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut neighbours: Vec<Neighbour> = Vec::new();
    let mut with_containers = 0;
    for round in 1..=TIMES {
        let about = format!("round {round}, seed {seed}");
        let mut killed = place.farm(&image, &options, &"-- sleep 0.5\n".repeat(60));
        std::thread::sleep(Duration::from_secs_f64(random.f64() * 4.0));
        killed.kill().unwrap();
        killed.wait().unwrap();
        let left = sweeper.besides(&neighbours);
        with_containers += usize::from(!left.is_empty());
        neighbours.extend(left.iter().find_map(|ours| Neighbour::of(&engine, ours, image.reference())));

        // A container that was being created when its master died may come late, and is looked for longer than the first
        // build takes: then it stays in the journal for the next one, and the farm's exit status says so.
        let mut next = Vec::new();
        for build in ["-- true\n", "-- sleep 8\n", "-- sleep 8\n"] {
            next.push(place.farm(&image, &options, build).wait_with_output().unwrap());
            let journal = latent_worker::read_journal(place.path.join("journal")).unwrap();
            assert_eq!(journal.damage, None, "{about}");
            let nothing_left = journal.instances.is_empty();
            let ran = next.last().unwrap();
            assert_eq!(ran.status.code(), Some(if nothing_left { 0 } else { LEFT_BEHIND }), "{about}: {next:?}");
            assert!(String::from_utf8_lossy(&ran.stdout).contains("1 succeeded"), "{about}: {next:?}");
            if nothing_left {
                break;
            }
        }
        let journal = latent_worker::read_journal(place.path.join("journal")).unwrap();
        assert_eq!(journal.instances, [], "{about}: {next:?}");
        assert_eq!(sweeper.besides(&neighbours), [], "{about}: {next:?}");
        assert!(neighbours.iter().all(Neighbour::runs), "{about}");
    }
    println!("killed {TIMES} times, {with_containers} with containers left behind");
    assert!(with_containers > TIMES / 3, "it was hardly ever killed at work");
}
