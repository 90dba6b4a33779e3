//! B7: calls that hang delay no build that another worker could run.

use latent_worker::DriverCall::{self, Compatible, Start, Stop};
use latent_worker::{BuildId, WorkerConfig};

use crate::farm::{Does, Farm, Made, Way, millis, of_kind, secs};

/// Two workers; a call of `w1` hangs, once `hangs` says so.
fn farm(way: Way, places: usize, shared: bool, hanging: DriverCall, from: u64) -> Farm {
    let mut farm = Farm::new(way, shared);
    farm.calls(move |made: &Made<'_>| match made.call {
        call if call == hanging && made.worker == "w1" && made.at >= secs(from) => Does::Hangs,
        Start => Does::Well(secs(5)),
        Stop => Does::Well(secs(1)),
        _ => Does::Well(millis(100)),
    });
    farm.add_many(2, places, |config| config);
    farm
}

fn runs_on(farm: &Farm, build: BuildId, worker: &str) -> std::time::Duration {
    let Some((at, on)) = farm.first(build) else { panic!("it does not run: {}", farm.why(build)) };
    assert_eq!(on, worker);
    at
}

#[test]
fn b7_a_stop_that_hangs_delays_no_older_build() {
    for (way, places, shared) in [
        (Way::Any, 1, true),
        (Way::Any, 3, false),
        (Way::Asked, 1, true),
        (Way::Asked, 2, false),
        (Way::Says, 1, true),
        (Way::Says, 2, true),
        (Way::Says, 1, false),
    ] {
        let mut farm = farm(way, places, shared, Stop, 0);
        // Both are up; then w1 is stopped, which hangs.
        for _ in 0..2 * places {
            farm.simple("a", secs(10));
        }
        farm.run(secs(20));
        drop(farm.master.worker("w1").unwrap().insubstantiate(false));
        farm.run(secs(1));
        let older = farm.simple("a", secs(1));
        let submitted = farm.now();
        let mut younger = 0;
        farm.run_while(secs(400), |farm| {
            while younger < 400 && younger <= farm.finished.len() {
                farm.simple("a", secs(1));
                younger += 1;
            }
        });
        // At once, or after a question.
        let waited = runs_on(&farm, older, "w2") - submitted;
        assert!(waited <= millis(100), "{way:?}, {places}: {waited:?}");
        assert!(farm.finished.len() >= 390, "{way:?}, {places}: {}", farm.finished.len());
        farm.finish();
    }
}

#[test]
fn b7_a_stop_that_hangs_delays_no_older_build_of_another_kind() {
    for (way, places) in [(Way::Asked, 1), (Way::Asked, 2), (Way::Says, 1), (Way::Says, 3)] {
        let mut farm = farm(way, places, true, Stop, 0);
        for _ in 0..2 * places {
            farm.simple("a", secs(10));
        }
        farm.run(secs(20));
        drop(farm.master.worker("w1").unwrap().insubstantiate(false));
        farm.run(secs(1));
        // w2 has younger builds of kind a all the time.
        let older = farm.simple("b", secs(1));
        let submitted = farm.now();
        let mut younger = 0;
        farm.run_while(secs(400), |farm| {
            while younger < 400 && younger <= farm.finished.len() {
                farm.simple("a", secs(1));
                younger += 1;
            }
        });
        // The time after which the stop is overdue, the patience, the longest build, a stop and a start.
        let waited = runs_on(&farm, older, "w2") - submitted;
        assert!(waited <= secs(60 + 20 + 1 + 1 + 5 + 1), "{way:?}, {places}: {waited:?}");
        farm.finish();
    }
}

#[test]
fn b7_a_start_that_ignores_its_cancel_delays_no_older_build() {
    for (way, places, shared) in
        [(Way::Any, 1, true), (Way::Asked, 2, false), (Way::Says, 1, true), (Way::Says, 2, false)]
    {
        let mut farm = farm(way, places, shared, Start, 0);
        let first = farm.simple("a", secs(10));
        farm.run(secs(2));
        assert_eq!(farm.made(Start).len(), 1, "w1 starts");
        farm.master.cancel(first).unwrap();
        farm.run(secs(1));
        let older = farm.simple("a", secs(1));
        let submitted = farm.now();
        let mut younger = 0;
        farm.run_while(secs(100), |farm| {
            while younger < 400 && younger <= farm.finished.len() {
                farm.simple("a", secs(1));
                younger += 1;
            }
        });
        let waited = runs_on(&farm, older, "w2") - submitted;
        assert!(waited <= secs(6), "{way:?}, {places}, {shared}: {waited:?}");
        farm.finish();
    }
}

#[test]
fn b7_a_start_that_hangs_is_hedged() {
    for (way, shared) in [(Way::Any, true), (Way::Asked, false), (Way::Says, true)] {
        let mut farm = farm(way, 1, shared, Start, 0);
        let build = farm.simple("a", secs(1));
        farm.run(secs(400));
        // A tenth of the time in which the agent must attach, and a start.
        let at = runs_on(&farm, build, "w2");
        assert!(at <= secs(360 + 6), "{way:?}: {at:?}");
        assert!(farm.master.queue(None, 1).total == 0);
        farm.finish();
    }
}

#[test]
fn b7_a_question_that_hangs_delays_no_build() {
    for places in 1..=3 {
        for shared in [false, true] {
            let mut farm = farm(Way::Asked, places, shared, Compatible, 15);
            // Only w1 has an instance.
            farm.simple("a", secs(5));
            farm.run(secs(20));
            assert_eq!(farm.starts(), 1);
            let builds: Vec<_> = (0..3).map(|_| farm.simple("b", secs(1))).collect();
            let submitted = farm.now();
            farm.run(secs(120));
            for build in builds {
                let waited = runs_on(&farm, build, "w2") - submitted;
                assert!(waited <= secs(60 + 5 + 3), "{places}, {shared}: {waited:?}");
            }
            farm.finish();
        }
    }
}

#[test]
fn b7_a_build_with_labels_waits_for_no_call_of_a_worker_without_them() {
    let mut farm = Farm::new(Way::Says, true);
    farm.calls(|made: &Made<'_>| if made.worker == "plain" { Does::Hangs } else { Does::Well(secs(1)) });
    farm.add(WorkerConfig::new("plain"), 1);
    farm.add(WorkerConfig::new("gpu").with_label("gpu"), 1);
    farm.simple("a", secs(1));
    let build = farm.submit(of_kind("a").with_label("gpu"), crate::farm::Work::Takes(secs(1)));
    farm.run(secs(3));
    assert!(runs_on(&farm, build, "gpu") <= secs(2));
    farm.finish();
}
