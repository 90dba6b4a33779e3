//! Masters that die, and masters that have a neighbour.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use latent_worker::{
    Build, Ec2LatentWorker, IdlePolicy, Lease, Master, ShutdownMode, Substantiation, Worker, WorkerConfig, read_journal,
};

use crate::support::{PATIENCE, Scene, eventually, started};

/// A journal, gone with it.
struct Journal(PathBuf);

impl Journal {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-ec2-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    /// As it would be found if its master died now.
    fn after_a_crash(&self) -> Self {
        let copy = Self::new();
        std::fs::copy(&self.0, &copy.0).unwrap();
        copy
    }

    fn master(&self) -> Master {
        Master::builder().journal(&self.0).unwrap().agent_address("127.0.0.1:9").build()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn driver(scene: &Scene) -> Ec2LatentWorker {
    scene.driver().user_data("").build().unwrap()
}

fn worker(master: &Master, name: &str, driver: Ec2LatentWorker) -> Worker {
    master.add_worker(WorkerConfig::new(name).with_idle(IdlePolicy::Never), driver).unwrap()
}

/// A start that has come to its end, and whose agent does not come.
fn start(worker: &Worker) -> Substantiation<Lease> {
    let request = worker.substantiate(&Build::new("b"));
    started(worker);
    request
}

fn end(master: &Master) {
    let report = master.shutdown(ShutdownMode::Fast, PATIENCE);
    assert!(report.complete, "{report}");
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn j2_j3_the_next_master_ends_the_machines_of_one_that_has_died_and_no_others() {
    let scene = Scene::new();
    let (journal, other_journal) = (Journal::new(), Journal::new());
    let (master, other) = (journal.master(), other_journal.master());
    // A neighbour in the same account with the same names.
    let theirs = worker(&other, "w", driver(&scene));
    let their_request = start(&theirs);
    let their_machine = scene.machine();
    let ours: Vec<_> = ["w", "w2"].into_iter().map(|name| worker(&master, name, driver(&scene))).collect();
    let requests: Vec<_> = ours.iter().map(start).collect();
    assert_eq!(scene.cloud.machines().len(), 3);

    let found = journal.after_a_crash();
    let next = found.master();
    worker(&next, "w", driver(&scene));
    worker(&next, "w2", driver(&scene));
    assert!(eventually(|| next.leftovers().is_empty()), "{:?}", next.leftovers());
    assert!(eventually(|| scene.cloud.machines().len() == 1));
    assert_eq!(scene.machine().id, their_machine.id);
    assert_eq!(read_journal(&found.0).unwrap().instances, []);
    drop(requests);
    end(&next);
    end(&master);
    assert_eq!(scene.machine().id, their_machine.id, "nor does the stop of the first one touch it");
    drop(their_request);
    end(&other);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn j2_a_crash_between_the_launch_and_its_answer_is_found_by_the_tags() {
    let scene = Scene::new();
    let journal = Journal::new();
    let master = journal.master();
    let slow = scene
        .front
        .inject(crate::support::front::Fault::Delay(Duration::from_secs(3)), |asked| asked.is("RunInstances"));
    let first = worker(&master, "w", driver(&scene));
    let request = first.substantiate(&Build::new("b"));
    assert!(eventually(|| slow.met() == 1));
    // The launch is on its way, and the machine is there after the crash.
    let found = journal.after_a_crash();
    let next = found.master();
    worker(&next, "w", scene.driver().user_data("").listing_lag(Duration::from_secs(60)).build().unwrap());
    assert!(eventually(|| next.leftovers().is_empty()), "{:?}", next.leftovers());
    assert_eq!(scene.cloud.all_machines().len(), 1);
    assert!(eventually(|| scene.cloud.machines().is_empty()));
    drop(request);
    end(&next);
    end(&master);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn j3_a_machine_that_has_lost_its_tags_is_not_touched_and_stays_on_the_list() {
    let scene = Scene::new();
    let journal = Journal::new();
    let master = journal.master();
    let first = worker(&master, "w", driver(&scene));
    let request = start(&first);
    let machine = scene.machine();
    let tags = ["latent-worker.owner", "latent-worker.attempt"].map(|key| (key, &*machine.tags[key]));
    let change = |action: &str| {
        let [(owner, its_owner), (attempt, its_attempt)] = tags;
        let both = [("ResourceId.1", &*machine.id), ("Tag.1.Key", owner), ("Tag.2.Key", attempt)];
        let values = [("Tag.1.Value", its_owner), ("Tag.2.Value", its_attempt)];
        scene.cloud.ec2(action, &[&both[..], if action == "CreateTags" { &values } else { &[] }].concat());
    };
    change("DeleteTags");

    let found = journal.after_a_crash();
    let next = found.master();
    worker(&next, "w", driver(&scene));
    let told = || next.leftovers().into_iter().find_map(|left| left.reason).unwrap_or_default();
    assert!(eventually(|| told().contains("has lost its tags")), "{:?}", next.leftovers());
    assert!(tags.iter().all(|(key, value)| told().contains(&format!("{key}={value}"))), "{}", told());
    assert_eq!(scene.machine().state, "running");
    change("CreateTags");
    assert!(eventually(|| next.leftovers().is_empty()), "{:?}", next.leftovers());
    assert_eq!(scene.cloud.machines(), []);
    drop(request);
    end(&next);
    end(&master);
    scene.finish();
}
