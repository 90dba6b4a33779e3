use std::collections::{BTreeSet, HashMap};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};

use super::*;
use crate::build::Build;
use crate::event::{EventKind, StopCause};
use crate::worker::{IdlePolicy, WorkerConfig};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn of_kind(kind: u64) -> Build {
    Build::new("build").with_property("kind", kind.to_string())
}

fn workers(workers: usize, places: usize) -> Pool {
    let config = WorkerConfig::new("worker").with_max_builds(NonZeroUsize::new(places).unwrap());
    Pool::new(config, workers)
}

/// Everything goes wrong at times, with three kinds of builds.
fn unreliable(seed: u64) -> Simulation {
    let pool = workers(5, 2)
        .with_start(Distribution::exponential(seconds(60)))
        .with_attach(Distribution::uniform(seconds(0), seconds(10)))
        .with_cancel(Distribution::fixed(seconds(5)))
        .with_failing_starts(0.2)
        .with_failing_stops(0.1)
        .with_lost_agents(Distribution::exponential(seconds(3000)));
    let jobs = (0..200).map(|number| Job::new(seconds(7 * number), of_kind(number % 3), seconds(20 + number)));
    Simulation::new().with_pool(pool).with_jobs(jobs).with_seed(seed)
}

#[test]
fn a_simulation_depends_on_nothing_but_its_seed() {
    assert_eq!(unreliable(1).run(), unreliable(1).run());
    assert_ne!(unreliable(1).run(), unreliable(2).run());
}

#[test]
fn b1_every_build_of_an_unreliable_farm_ends_and_w2_every_start_has_one_stop() {
    for seed in 0..20 {
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        let report = unreliable(seed).observed(move |event| told.lock().unwrap().push(event));
        assert_eq!(report, unreliable(seed).run(), "observers change nothing");
        assert_eq!(report.finished + report.not_run, 200, "{report}");
        assert!(report.busy_time <= report.instance_time, "{report}");

        let events = events.lock().unwrap();
        let (mut up, mut leases) = (HashMap::new(), HashMap::<_, i32>::new());
        let mut starts = 0;
        for event in events.iter() {
            let worker = event.worker.clone();
            match event.kind {
                EventKind::StartCalled => {
                    starts += 1;
                    assert_eq!(up.insert(worker, event.epoch), None, "w1: a start beside another one");
                }
                EventKind::StopReturned { .. } => {
                    assert_eq!(up.remove(&worker), Some(event.epoch), "w2: a stop without its start");
                }
                EventKind::BuildStarted => {
                    let leases = leases.entry(worker).or_default();
                    *leases += 1;
                    assert!(*leases <= 2, "b6: more leases than places");
                }
                EventKind::Released { .. } => *leases.entry(worker).or_default() -= 1,
                _ => {}
            }
        }
        assert_eq!(starts, report.starts);
    }
}

#[test]
fn b8_ten_builds_share_one_instance_with_room_for_ten() {
    let jobs = (0..10).map(|_| Job::new(seconds(0), of_kind(0), seconds(100)));
    let report = Simulation::new().with_pool(workers(10, 10)).with_jobs(jobs).run();
    assert_eq!((report.starts, report.finished), (1, 10), "{report}");
    assert_eq!(report.waits.maximum, seconds(60));
    assert_eq!(report.makespan, seconds(160));
    assert_eq!((report.instance_time, report.busy_time), (seconds(160), seconds(100)));
}

#[test]
fn b2_a_build_whose_starts_fail_ends_after_its_attempts() {
    let limited = of_kind(0).with_max_attempts(NonZeroU32::new(2).unwrap());
    let jobs = [Job::new(seconds(0), limited, seconds(1)).with_failing_starts()];
    let report = Simulation::new().with_pool(workers(3, 1)).with_jobs(jobs).run();
    assert_eq!((report.finished, report.not_run, report.failed_starts), (0, 1, 2), "{report}");
    assert_eq!(report.waits, Waits::default());
}

#[test]
fn w11_a_driver_that_is_asked_has_its_instances_used_by_all_that_fit() {
    let asked = |fits: fn(&str, &str) -> bool| {
        let kind = |properties: &crate::Properties| properties.get("kind").unwrap_or_default().to_owned();
        let pool = workers(1, 1).with_compatibility(move |made_for, build| fits(&kind(made_for), &kind(build)));
        let jobs = (0..6).map(|number| Job::new(seconds(0), of_kind(number % 3), seconds(100)));
        Simulation::new().with_pool(pool).with_jobs(jobs).run()
    };
    assert_eq!(asked(|_, _| true).starts, 1);
    let report = asked(|made_for, build| made_for == build);
    // As many as there are kinds, or one more where the patience of a build ends.
    assert!((3..=4).contains(&report.starts) && report.finished == 6, "{report}");
}

#[test]
fn a_simulation_can_end_before_its_builds_do() {
    let pool = Pool::new(WorkerConfig::new("worker").with_idle(IdlePolicy::Never), 1).with_one_kind();
    let jobs = (0..10).map(|_| Job::new(seconds(0), of_kind(0), seconds(100)));
    let report = Simulation::new().with_pool(pool).with_jobs(jobs).with_end(seconds(300)).run();
    assert_eq!((report.submitted, report.finished), (10, 2), "{report}");
    assert_eq!((report.makespan, report.instance_time, report.busy_time), (seconds(260), seconds(300), seconds(240)));
}

/// Builds of one kind never leave a place free; one of another kind comes in between.
#[test]
fn b8_one_instance_is_drained_for_an_elder_of_another_kind() {
    let elder = Job::new(seconds(200), of_kind(1), seconds(50));
    let duration = |number| seconds(if number % 4 == 0 { 300 } else { 20 });
    let others = (0..400).map(|number| Job::new(seconds(8 * number), of_kind(0), duration(number)));
    let drained = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = drained.clone();
    let simulation = Simulation::new().with_pool(workers(4, 2)).with_jobs(others.chain([elder]));
    let report = simulation.observed(move |event| {
        if let EventKind::StopCalled { cause: StopCause::Incompatible, .. } = event.kind
            && event.at < seconds(1000)
        {
            noted.lock().unwrap().insert(event.worker);
        }
    });
    assert_eq!(report.finished, 401, "{report}");
    assert_eq!(drained.lock().unwrap().len(), 1, "{report}");
}
