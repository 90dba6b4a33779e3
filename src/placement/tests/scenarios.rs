//! What was measured and is to stay so, on virtual time.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::PlacementConfig;
use super::farm::{Farm, SAYS, kind, labels, secs};
use super::world::{BuildSetup, Driver, Step};
use crate::event::DriverCall::{Compatible, Start, Stop};

fn urgent(priority: i32, build: BuildSetup) -> BuildSetup {
    BuildSetup { priority, ..build }
}

#[test]
fn b5_the_urgent_build_gets_the_place_that_becomes_free_first() {
    for max_builds in 1..=3 {
        let mut farm = Farm::new(&[("", Driver::Any, max_builds), ("", Driver::Any, max_builds)]);
        farm.calls.insert((1, Start), secs(50));
        for _ in 0..max_builds {
            farm.submit(kind("a"), secs(15));
        }
        farm.run(secs(11));
        let urgent_build = farm.submit(urgent(100, kind("a")), secs(1));
        let later = farm.submit(urgent(-100, kind("a")), secs(1));
        farm.run(secs(20));
        assert_eq!(farm.first_place(urgent_build), Some((secs(25), 0)));
        assert!(farm.first_place(later) >= farm.first_place(urgent_build));
    }
}

#[test]
fn b7_a_call_that_hangs_delays_no_build_that_another_worker_can_run() {
    for (call, within) in [(Stop, 10), (Start, 360 + 10), (Compatible, 60 + 10)] {
        let mut farm = Farm::new(&[("x", Driver::Asked, 2), ("x y", Driver::Asked, 2)]);
        let warm_up = farm.submit(kind("a"), secs(5));
        if call != Start {
            farm.run(secs(20));
            assert!(farm.has_ended(warm_up));
        }
        farm.calls.remove(&(0, call));
        if call == Stop {
            farm.run(secs(700));
            assert_eq!(farm.count(Stop), 1);
        }
        let submitted = farm.now();
        let build = farm.submit(kind("b"), secs(5));
        farm.run(secs(within));
        let (at, worker) = farm.first_place(build).expect("it runs");
        assert_eq!(worker, 1, "{call}");
        assert!(at - submitted <= secs(within), "{call}: {at:?}");
    }
}

#[test]
fn b5_an_elder_of_another_kind_runs_within_its_patience() {
    for (driver, max_builds) in [(SAYS, 1), (SAYS, 2), (SAYS, 3), (Driver::Asked, 1), (Driver::Asked, 2)] {
        let mut farm = Farm::new(&[("", driver, max_builds)]);
        for _ in 0..max_builds {
            farm.submit(kind("a"), secs(6));
        }
        farm.run(secs(11));
        let elder = farm.submit(urgent(0, kind("b")), secs(5));
        let submitted = farm.now();
        // One younger build more than there are places always waits.
        for _ in 0..60 {
            farm.submit(kind("a"), secs(6));
            farm.run(secs(6) / max_builds as u32);
        }
        let (at, _) = farm.first_place(elder).expect("it runs");
        // A build until it is passed over, the patience, the longest build, a stop and a start; and questions.
        let patience = secs(10).mul_f64(PlacementConfig::new().patience);
        let most = patience + secs(6 + 6 + 2 + 10) + secs(2);
        assert!(at - submitted <= most, "{driver:?}, {max_builds} places: after {:?}", at - submitted);
        assert_eq!(farm.made.iter().filter(|(when, _, call)| *call == Start && *when <= at).count(), 2);
    }
}

#[test]
fn b5_an_elder_that_is_cancelled_leaves_its_patience_to_those_behind_it() {
    let mut farm = Farm::new(&[("", SAYS, 1)]);
    farm.submit(kind("a"), secs(6));
    farm.run(secs(11));
    let elders = [0, 1].map(|_| farm.submit(kind("b"), secs(5)));
    let mut submitted = Duration::ZERO;
    for number in 0..30 {
        farm.submit(kind("a"), secs(6));
        farm.run(secs(6));
        if number == 8 {
            submitted = farm.now();
            farm.take(Step::Cancel(elders[0]));
        }
    }
    let (at, _) = farm.first_place(elders[1]).expect("it runs");
    // Most of the patience is over by then.
    let patience = secs(10).mul_f64(PlacementConfig::new().patience);
    assert!(at - submitted < patience, "after {:?}", at - submitted);
}

#[test]
fn b7_a_build_does_not_wait_for_another_one_that_never_ends() {
    for driver in [Driver::Any, Driver::Asked, SAYS] {
        let mut farm = Farm::new(&[("", driver, 1), ("", driver, 1)]);
        for _ in 0..5 {
            farm.submit(kind("a"), secs(1));
            farm.run(secs(15));
        }
        assert_eq!(farm.count(Start), 1);
        let (endless, short) = (farm.submit(kind("a"), secs(1_000_000)), farm.submit(kind("a"), secs(1)));
        let submitted = farm.now();
        farm.run(secs(3600));
        assert!(!farm.has_ended(endless));
        let (at, worker) = farm.first_place(short).expect("it runs");
        // One and a half starts and eight builds later nothing has become free, and another start is made.
        assert_eq!((at - submitted, worker), (secs(15 + 8 + 10), 1));
    }
}

#[test]
fn b7_builds_of_different_labels_do_not_wait_for_one_start() {
    for first in ["", "x"] {
        let mut farm = Farm::new(&[("x y", Driver::Any, 1), ("x y", Driver::Any, 1), ("x y", Driver::Any, 1)]);
        let second = if first.is_empty() { "x" } else { "" };
        for words in [first, second, "x y"] {
            farm.submit(BuildSetup { labels: labels(words), ..kind("a") }, secs(5));
        }
        assert_eq!(farm.count(Start), 3, "first {first:?}");
    }
}

#[test]
fn b8_ten_builds_need_one_instance_with_room_for_ten() {
    for (builds, room, starts) in [(10, 10, 1), (11, 10, 2), (10, 3, 4), (3, 1, 3), (1, 1, 1)] {
        for driver in [Driver::Any, Driver::Asked, SAYS] {
            let mut farm = Farm::new(&vec![("", driver, room); 10]);
            for _ in 0..builds {
                farm.submit(kind("a"), secs(5));
            }
            assert_eq!(farm.count(Start), starts, "{builds} builds, room for {room}, {driver:?}");
            farm.run(secs(60));
            assert_eq!(farm.count(Start), starts, "{builds} builds, room for {room}, {driver:?}");
            assert!((0..builds).all(|build| farm.has_ended(build)));
        }
    }
}

#[test]
fn b5_a_build_without_labels_leaves_the_scarce_worker() {
    for is_up in [false, true] {
        let mut farm = Farm::new(&[("gpu linux", Driver::Any, 1), ("linux", Driver::Any, 1)]);
        if is_up {
            farm.submit(BuildSetup { labels: labels("gpu"), ..kind("a") }, secs(1));
            farm.submit(kind("a"), secs(1));
            farm.run(secs(20));
            assert_eq!(farm.count(Start), 2);
        }
        let build = farm.submit(kind("a"), secs(1));
        farm.run(secs(20));
        assert_eq!(farm.first_place(build).expect("it runs").1, 1);
    }
}

#[test]
fn w11_many_builds_that_do_not_fit_are_one_question_for_each_kind() {
    let mut farm = Farm::new(&[("", Driver::Asked, 2)]);
    farm.submit(kind("a"), secs(10_000));
    farm.run(secs(20));
    farm.checked = false;
    for number in 0..4000 {
        farm.submit(kind(["b", "c", "d", "a2"][number % 4]), secs(1));
    }
    farm.run(secs(2));
    assert_eq!(farm.count(Compatible), 4);
}

#[test]
fn b2_a_stop_that_fails_is_no_attempt_of_the_next_build() {
    let mut farm = Farm::new(&[("", SAYS, 1)]);
    farm.answers.insert((0, Stop), 1);
    let first = farm.submit(kind("a"), secs(5));
    farm.run(secs(20));
    assert!(farm.has_ended(first));
    // The unused instance is replaced, and the stop fails.
    let next = farm.submit(BuildSetup { max_attempts: NonZeroU32::new(1), ..kind("b") }, secs(5));
    farm.run(secs(3));
    assert_eq!(farm.count(Stop), 1);
    assert_eq!(farm.world.builds[next].attempts, 0);
    assert!(!farm.has_ended(next));
    farm.run(secs(60));
    assert_eq!(farm.first_place(next).expect("it runs after the quarantine").1, 0);
}

#[test]
fn b2_a_build_pauses_between_attempts_and_goes_elsewhere() {
    for workers in 1..=3 {
        let config = PlacementConfig::new().with_max_attempts(const { NonZeroU32::new(12).unwrap() });
        let mut farm = Farm::with(&vec![("", Driver::Any, 1); workers], config);
        for _ in 0..workers {
            farm.submit(kind("a"), secs(1));
        }
        farm.run(secs(20));
        let unlucky = farm.submit_unlucky(kind("a"), secs(1), 11);
        farm.run(secs(2000));
        let attempts: Vec<_> = farm.given.iter().filter(|(_, build, _)| *build == unlucky).collect();
        assert_eq!(attempts.len(), 12);
        for (number, pair) in attempts.windows(2).enumerate() {
            let pause = pair[1].0 - pair[0].0;
            let expected = secs(1 << number).min(secs(300));
            // The instances end in the long pauses.
            assert!(pause >= expected && pause <= expected + secs(20), "{number}: {pause:?}");
        }
        let first: std::collections::BTreeSet<_> = attempts[..workers].iter().map(|(_, _, worker)| worker).collect();
        assert_eq!(first.len(), workers, "each attempt goes elsewhere while that is possible");
        assert!(farm.has_ended(unlucky));
    }
}

#[test]
fn b2_a_pause_without_an_end_is_not_skipped_and_one_of_no_time_is() {
    for (pause, attempts) in [(Duration::MAX, 1), (Duration::ZERO, 3)] {
        let config = PlacementConfig::new().with_retry_pause(pause, pause);
        let mut farm = Farm::with(&[("", Driver::Any, 1)], config);
        farm.submit_unlucky(kind("a"), secs(1), 2);
        farm.run(secs(3600));
        assert_eq!(farm.given.len(), attempts, "{pause:?}");
    }
}

#[test]
fn b2_a_build_avoids_the_worker_that_has_failed() {
    for failing in 0..3 {
        let mut farm = Farm::new(&[("", Driver::Any, 1); 3]);
        farm.answers.insert((failing, Start), 2);
        let builds: Vec<_> = (0..2).map(|_| farm.submit(kind("a"), secs(5))).collect();
        farm.run(secs(120));
        for build in builds {
            assert!(farm.has_ended(build));
            assert_ne!(farm.first_place(build).expect("it runs").1, failing);
            assert!(farm.world.builds[build].attempts <= 1);
        }
    }
}

#[test]
fn b4_a_start_that_nobody_needs_is_cancelled() {
    for builds in 1..=3 {
        let mut farm = Farm::new(&[("", Driver::Any, 1); 3]);
        let slots: Vec<_> = (0..builds).map(|_| farm.submit(kind("a"), secs(5))).collect();
        farm.run(secs(5));
        for &slot in &slots[1..] {
            farm.take(Step::Cancel(slot));
        }
        farm.run(secs(20));
        // The instances of cancelled starts are stopped.
        assert_eq!(farm.count(Stop), builds - 1);
        assert!(farm.has_ended(slots[0]));
    }
}

#[test]
fn b7_one_hedge_is_made_beside_an_overdue_start() {
    for workers in 2..=4 {
        let mut farm = Farm::new(&vec![("", Driver::Any, 1); workers]);
        farm.calls.remove(&(0, Start));
        let build = farm.submit(kind("a"), secs(5));
        // A tenth of the time in which the agent must attach.
        farm.run(super::world::MISSING / 10 - secs(1));
        assert_eq!(farm.count(Start), 1);
        farm.run(secs(200));
        assert_eq!(farm.count(Start), 2);
        assert_eq!(farm.first_place(build), Some((secs(70), 1)));
        assert_eq!(farm.world.builds[build].attempts, 0);
    }
}

#[test]
fn b7_an_agent_that_never_attaches_is_hedged_as_well() {
    let mut farm = Farm::new(&[("", Driver::Any, 1), ("", Driver::Any, 1)]);
    farm.calls.remove(&(0, Start));
    let build = farm.submit(kind("a"), secs(5));
    // The start returns, and no agent follows.
    farm.take(Step::Return(0, 0));
    farm.run(secs(100));
    assert_eq!(farm.first_place(build).map(|(_, worker)| worker), Some(1));
}
