//! Tests that kill masters at random moments while start programs of different kinds run.
//!
//! Each life of a master starts one instance of each kind at the same time, and is killed after a random time. The next
//! life reclaims the leftovers, and does the same again. After the last life nothing may be left, and no process may
//! run that could still create something.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use latent_worker::testing::ManualClock;
use latent_worker::{Build, CommandLatentWorker, Master, ShutdownMode, Worker};

use super::life::{CUT_AT, DIRECTORY, KIND, LONG, config, reclaim_all_of};
use super::{LIFE, Place, new_place, nothing_is_left};

/// In the environment: the life only reclaims.
const LAST: &str = "LW_CRASH_LAST";
/// In the environment of the tests: the seed of the random moments.
const SEED: &str = "LW_CRASH_SEED";
/// What a life writes when the start programs are about to run.
const STARTS: &str = "it starts";
/// Longer than all start programs take on a machine that does nothing else.
const LONGEST: u64 = 60_000;
/// How many masters follow each other on one journal.
const CHAIN: usize = 25;

/// Makes an instance in several steps, each of which takes a moment.
const MAKER: &str = "\
i=instances/$LATENT_WORKER_NAME-$LATENT_WORKER_KEY
sleep 0.004; mkdir $i
sleep 0.004; touch $i/disk
sleep 0.004; echo $i";

/// The ways to write a start program, with the lines of the program. Each runs in the directory of its place.
const WAYS: [(&str, &str); 4] = [
    ("dash", "#!/bin/sh\n. ./maker.sh"),
    // It becomes its last command.
    ("bash", "#!/bin/bash\nbash -c 'sleep 0.002; /bin/sh ./maker.sh'"),
    ("exec", "#!/bin/sh\nsleep 0.002\nexec /bin/sh maker.sh"),
    // It ends, and what it has left in a group of its own makes the instance.
    ("fork", "#!/bin/sh\nsetsid /bin/sh maker.sh >/dev/null 2>&1 &\nsleep 0.002"),
];

fn driver(directory: &Path, way: &str) -> CommandLatentWorker {
    let program = directory.join(way).display().to_string();
    let line = format!("cd '{}' && exec {program}", directory.display());
    let start = match way {
        // Its arguments are those of the last command as soon as that runs.
        "bash" => vec!["/bin/bash".to_owned(), "-c".to_owned(), line],
        _ => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
    };
    let stop = format!("rm -rf '{}'/instances/$LATENT_WORKER_NAME-$LATENT_WORKER_KEY", directory.display());
    CommandLatentWorker::new(start, ["/bin/sh", "-c", &stop]).grace(Duration::from_millis(20))
}

/// Runs one life until it is killed. The last life ends by itself.
pub(crate) fn live(directory: &Path) {
    let clock = ManualClock::new();
    let master = Master::builder().journal(directory.join("journal")).unwrap().clock(clock.clone()).build();
    let workers = WAYS.map(|(way, _)| master.add_worker(config(way), driver(directory, way)).unwrap());
    workers.iter().for_each(|worker| reclaim_all_of(&master, &clock, worker.name()));
    if std::env::var_os(LAST).is_some() {
        assert!(master.shutdown(ShutdownMode::Fast, LONG).complete);
        return;
    }
    println!("{STARTS}");
    let _asked: Vec<_> = workers.iter().map(|worker: &Worker| worker.substantiate(&Build::new("b"))).collect();
    loop {
        thread::park();
    }
}

fn life(place: &Place) -> Command {
    let mut life = Command::new(std::env::current_exe().unwrap());
    life.args(["--exact", LIFE, "--test-threads=1", "--nocapture"]);
    life.env(DIRECTORY, &place.0).env(KIND, "starts").env(CUT_AT, "0");
    life
}

fn chain(seed: u64, kills: usize) {
    let place = new_place();
    fs::write(place.0.join("maker.sh"), MAKER).unwrap();
    for (way, lines) in WAYS {
        fs::write(place.0.join(way), lines).unwrap();
        fs::set_permissions(place.0.join(way), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..kills {
        let mut running = life(&place).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(running.stdout.take().unwrap()).lines();
        let starts = lines.map(Result::unwrap).any(|line| line.contains(STARTS));
        assert!(starts, "seed {seed}: {:?}", running.wait());
        // The length of this wait is random.
        thread::sleep(Duration::from_micros(random.u64(..LONGEST)));
        running.kill().unwrap();
        running.wait().unwrap();
    }
    assert!(life(&place).env(LAST, "").status().unwrap().success(), "seed {seed}");
    nothing_is_left(&place, &format!("seed {seed}"));
}

fn kill_masters(kills: usize) {
    let seed = std::env::var(SEED).map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let left = kills.saturating_sub(number * CHAIN);
                    if left == 0 {
                        break;
                    }
                    chain(seed.wrapping_add(number as u64), CHAIN.min(left));
                }
            });
        }
    });
}

#[test]
fn j2_random_kills_while_start_programs_run() {
    kill_masters(2 * CHAIN);
}

#[test]
#[ignore = "needs minutes"]
fn j2_two_thousand_random_kills_while_start_programs_run() {
    kill_masters(2000);
}
