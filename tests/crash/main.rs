//! J2: a master is killed at *every* point, and nothing is forgotten, invented or removed twice at once.
//!
//! A point is every step of the journal (before and after each write, sync and replacement) and every effect of a
//! driver. Of the drivers that belong to the library only the beginning and the end of their calls are points, and two
//! places in each program of `command`. What lies between those is hit by chance in `farm_killed`, for `local`.
//!
//! A life of a master is a process of its own, this test program run again: it counts the points that it passes
//! and ends itself at one of them, without another word. Then a second life begins on the same journal and is cut short
//! as well, at another point, and a third one comes to its end. After that the truth about the instances, which the
//! drivers keep in files, must be that nothing is left.
#![cfg(unix)]

mod life;
mod provider;
#[cfg(target_os = "linux")]
mod starts;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a process that was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const LIFE: &str = "a_life_of_a_master";

/// The directory of one history of masters, gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-crash-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(fs::canonicalize(path).unwrap())
    }

    /// One life, cut short at this point; 0 is none. Whether it came to its end.
    fn live(&self, kind: &str, cut_at: usize) -> bool {
        self.live_as(Command::new(std::env::current_exe().unwrap()), kind, cut_at)
    }

    fn live_as(&self, mut life: Command, kind: &str, cut_at: usize) -> bool {
        life.args(["--exact", LIFE, "--test-threads=1", "--nocapture"]);
        life.env(life::DIRECTORY, &self.0).env(life::KIND, kind).env(life::CUT_AT, cut_at.to_string());
        // Files with secrets are made there.
        life.env("TMPDIR", self.0.join("instances"));
        let Output { status, stdout, stderr } = life.output().unwrap();
        let told = || format!("{}\n{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        // SIGABRT is the end that was asked for, SIGKILL that by a program of the driver. A panic may have been fenced.
        let cut = matches!(status.signal(), Some(6 | 9)) && cut_at > 0;
        let sound = (status.success() || cut) && !told().contains("panicked");
        assert!(sound, "{kind}, cut at {cut_at}: {status}\n{}", told());
        status.success()
    }

    /// The journal is as long as it was when it was synced last. How much of it is lost.
    fn lose_power(&self) -> u64 {
        let Ok(journal) = fs::File::options().write(true).open(self.0.join("journal")) else { return 0 };
        let synced = fs::read_to_string(self.0.join(life::SYNCED)).map_or(0, |length| length.parse().unwrap());
        let length = journal.metadata().unwrap().len();
        // One that has replaced a longer one in the moment before was synced before that.
        let kept = length.min(synced);
        journal.set_len(kept).unwrap();
        length - kept
    }

    fn points(&self) -> usize {
        fs::read_to_string(self.0.join("points")).unwrap().parse().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is left in this directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn nothing_is_left(place: &Place, about: &str) {
    assert_eq!(names(&place.0.join("instances")), ["neighbour"], "{about}: an instance was forgotten");
    assert_eq!(fs::read_to_string(place.0.join("instances/neighbour")).unwrap(), "nobody's business", "{about}");
    let violations = fs::read_to_string(place.0.join("violations")).unwrap_or_default();
    assert_eq!(violations, "", "{about}");
    // One that an orderly stop has killed may be a grandchild of the master, of whose end nobody tells.
    let deadline = Instant::now() + PATIENCE;
    while !processes(&place.0).is_empty() {
        assert!(Instant::now() < deadline, "{about}: a process was forgotten: {:?}", processes(&place.0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let journal = latent_worker::read_journal(place.0.join("journal")).unwrap();
    assert_eq!((journal.instances, journal.damage), (vec![], None), "{about}");
}

/// The processes that have this directory in their environment, with their command lines.
#[cfg(target_os = "linux")]
fn processes(directory: &Path) -> Vec<String> {
    use std::os::unix::ffi::OsStrExt;

    let mark = directory.as_os_str().as_bytes();
    let has_mark = |path: &Path| {
        fs::read(path.join("environ")).is_ok_and(|text| text.windows(mark.len()).any(|part| part == mark))
    };
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let marked = entries.filter(|path| has_mark(path));
    marked.map(|path| fs::read_to_string(path.join("cmdline")).unwrap_or_default().replace('\0', " ")).collect()
}

#[cfg(not(target_os = "linux"))]
fn processes(_: &Path) -> Vec<String> {
    Vec::new()
}

fn new_place() -> Place {
    let place = Place::new();
    fs::create_dir(place.0.join("instances")).unwrap();
    fs::write(place.0.join("instances/neighbour"), "nobody's business").unwrap();
    place
}

fn every_point(kind: &str) {
    let whole = new_place();
    assert!(whole.live(kind, 0));
    let first = whole.points();
    nothing_is_left(&whole, "nothing was cut short");
    let mut cuts = 0;
    for point in 1..=first {
        let place = new_place();
        let about = format!("{kind}, cut at {point} of {first}");
        assert!(!place.live(kind, point), "{about}: it came to its end");
        // The second life passes at least as many points, those of recovering not counted.
        let second = 1 + point * 17 % first;
        cuts += 1 + usize::from(!place.live(kind, second));
        assert!(place.live(kind, 0));
        nothing_is_left(&place, &format!("{about}, then at {second}"));
    }
    println!("crash matrix, {kind}: {first} points, {cuts} masters killed");
    assert!(first > 30, "the points were not counted");
}

#[test]
fn j2_every_point_with_a_driver_that_keeps_its_truth_in_files() {
    every_point("files");
}

#[cfg(all(feature = "local", target_os = "linux"))]
#[test]
fn j2_every_point_with_the_local_driver() {
    every_point("local");
}

#[cfg(all(feature = "command", target_os = "linux"))]
#[test]
fn j2_every_point_with_the_command_driver() {
    every_point("command");
}

#[cfg(all(feature = "process", target_os = "linux"))]
#[test]
fn j2_every_point_with_the_process_driver() {
    every_point("process");
}

#[test]
fn j2_every_point_while_many_workers_are_busy_at_once() {
    // In what order the points are passed is chance here; so is where a life is cut.
    let whole = new_place();
    assert!(whole.live("many", 0));
    let points = whole.points();
    nothing_is_left(&whole, "nothing was cut short");
    let mut cuts = 0;
    for point in 1..=points {
        let place = new_place();
        cuts += usize::from(!place.live("many", point));
        assert!(place.live("many", 0));
        nothing_is_left(&place, &format!("many, cut at {point} of {points}"));
    }
    println!("crash matrix, many at once: {points} points, {cuts} masters killed");
    assert!(cuts > points / 2);
}

#[test]
fn j1_every_point_with_the_loss_of_all_that_was_not_synced() {
    let whole = new_place();
    assert!(whole.live("files", 0));
    let (points, mut lost) = (whole.points(), 0);
    for point in 1..=points {
        let place = new_place();
        let about = format!("power lost at {point} of {points}");
        assert!(!place.live("files", point), "{about}: it came to its end");
        lost += place.lose_power();
        assert!(place.live("files", 0));
        nothing_is_left(&place, &about);
    }
    println!("crash matrix, power lost: {points} points, {lost} bytes lost");
    assert!(lost > 0, "there was never anything to lose");
}

#[test]
#[ignore = "needs strace"]
fn j1_the_system_is_asked_for_as_many_syncs_as_the_journal_tells_of() {
    let place = new_place();
    let trace = place.0.join("trace");
    let new_strace = || {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"]).arg(&trace);
        strace.arg(std::env::current_exe().unwrap());
        strace
    };
    // One that makes the journal, and one that finds it.
    for _ in 0..2 {
        assert!(place.live_as(new_strace(), "files", 0));
        let told: usize = fs::read_to_string(place.0.join("syncs")).unwrap().parse().unwrap();
        let trace = fs::read_to_string(&trace).unwrap();
        // And one of the directory when it is opened: whoever made or replaced it may have died before that.
        assert_eq!(trace.lines().filter(|line| line.contains("sync(")).count(), told + 1, "{trace}");
        assert!(told > 10);
    }
}

/// Not a test of its own: what the others run in processes of their own.
#[test]
fn a_life_of_a_master() {
    life::live();
}
