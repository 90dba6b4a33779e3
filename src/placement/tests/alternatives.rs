//! A build that has failed on a worker goes elsewhere only as long as it can go anywhere else.

use super::super::PlacementConfig;
use super::farm::{Farm, SAYS, kind, labels, secs};
use super::world::{BuildSetup, Driver, Setting, Step};
use crate::event::DriverCall::Start;

/// The workers that a build was given to, and when, in seconds.
fn places(farm: &Farm, of: usize) -> Vec<(u64, usize)> {
    let given = farm.given.iter().filter(|(_, build, _)| *build == of);
    given.map(|(at, _, worker)| (at.as_secs(), *worker)).collect()
}

#[test]
fn b2_a_build_goes_back_when_the_only_other_worker_is_paused() {
    let mut farm = Farm::new(&[("", Driver::Any, 1), ("", Driver::Any, 1)]);
    farm.submit(kind("a"), secs(10_000));
    farm.run(secs(20));
    let unlucky = farm.submit_unlucky(kind("a"), secs(5), 1);
    farm.run(secs(80));
    assert_eq!(places(&farm, unlucky), [(30, 1)], "the busy worker is waited for");
    farm.take(Step::Pause(0));
    assert_eq!(places(&farm, unlucky), [(30, 1), (100, 1)]);
}

#[test]
fn b7_a_build_goes_back_when_the_start_on_the_only_other_worker_is_overdue() {
    let mut farm = Farm::new(&[("", Driver::Any, 1), ("", Driver::Any, 1)]);
    farm.calls.remove(&(1, Start));
    let unlucky = farm.submit_unlucky(kind("a"), secs(5), 1);
    farm.run(secs(600));
    // Four times what the first start took, after the pause of a second.
    assert_eq!(places(&farm, unlucky), [(10, 0), (11 + 40, 0)]);
}

#[test]
fn b7_a_build_goes_back_when_the_driver_of_the_only_other_worker_says_no_kind() {
    let mut farm = Farm::of(&[("", Driver::Any, 1), ("", SAYS, 1)], Setting { silent: true, ..Setting::default() });
    let unlucky = farm.submit_unlucky(kind("a"), secs(5), 1);
    farm.run(secs(600));
    // The driver is asked when the build needs it first.
    assert_eq!(places(&farm, unlucky), [(10, 0), (11 + 60, 0)]);
}

#[test]
fn b9_a_build_goes_back_while_the_driver_of_the_only_other_worker_pauses() {
    let placement = PlacementConfig::new().with_driver_pause(secs(1000), secs(1000));
    let setting = Setting { shared_drivers: true, placement, ..Setting::default() };
    let asked = Driver::Asked;
    let mut farm = Farm::of(&[("x", Driver::Any, 1), ("x", asked, 1), ("y", asked, 1), ("y", asked, 1)], setting);
    let labelled = |label: &str| BuildSetup { labels: labels(label), ..kind("a") };
    farm.answers.extend([((2, Start), 2), ((3, Start), 2)]);
    (0..2).for_each(|_| _ = farm.submit(labelled("y"), secs(1)));
    farm.run(secs(12));
    let unlucky = farm.submit_unlucky(labelled("x"), secs(5), 1);
    farm.run(secs(60));
    assert_eq!(places(&farm, unlucky), [(22, 0), (23, 0)]);
}

/// The driver of the last three workers has failed and is tried on the third one, so that the second one has to wait.
/// Beside it, a build has failed on the first one, which is free, and waits for the second one.
fn a_driver_on_trial() -> (Farm, usize) {
    let setting = Setting { shared_drivers: true, ..Setting::default() };
    let asked = Driver::Asked;
    let mut farm = Farm::of(&[("x", Driver::Any, 1), ("x", asked, 1), ("y", asked, 1), ("y", asked, 1)], setting);
    farm.answers.extend([((2, Start), 2), ((3, Start), 2)]);
    farm.calls.insert((0, Start), secs(1));
    (0..2).for_each(|_| _ = farm.submit(BuildSetup { labels: labels("y"), ..kind("b") }, secs(1)));
    // Both fail, the driver pauses for ten seconds, and the trial begins.
    farm.run(secs(15));
    farm.calls.extend([((2, Start), secs(20)), ((3, Start), secs(20))]);
    farm.run(secs(6));
    assert_eq!(farm.count(Start), 3);
    let unlucky = farm.submit_unlucky(BuildSetup { labels: labels("x"), ..kind("a") }, secs(5), 1);
    farm.run(secs(9));
    assert_eq!(places(&farm, unlucky), [(22, 0)]);
    (farm, unlucky)
}

#[test]
fn b2_a_build_goes_back_when_the_worker_that_waits_for_a_trial_is_paused() {
    let (mut farm, unlucky) = a_driver_on_trial();
    farm.take(Step::Pause(1));
    assert_eq!(places(&farm, unlucky), [(22, 0), (30, 0)]);
}

#[test]
fn b2_a_build_goes_back_when_the_trial_that_its_other_worker_waits_for_has_failed() {
    let (mut farm, unlucky) = a_driver_on_trial();
    farm.run(secs(20));
    assert_eq!(places(&farm, unlucky), [(22, 0), (40, 0)]);
}

/// The places of two builds. The first worker is busy, and the first start for the elder build fails on the second one, so
/// that it waits for the first one. All starts on further workers hang.
fn places_beside_hanging_starts(workers: usize) -> [Vec<(u64, usize)>; 2] {
    let mut farm = Farm::new(&vec![("", Driver::Any, 1); workers]);
    farm.submit(kind("a"), secs(10_000));
    farm.run(secs(20));
    farm.answers.insert((1, Start), 2);
    (2..workers).for_each(|worker| _ = farm.calls.remove(&(worker, Start)));
    let builds = [0, 1].map(|_| farm.submit(kind("a"), secs(5)));
    farm.run(secs(15));
    farm.answers.remove(&(1, Start));
    farm.run(secs(85));
    builds.map(|build| places(&farm, build))
}

#[test]
fn b7_a_start_beside_an_overdue_one_is_made_also_when_an_elder_build_has_failed_there() {
    // Overdue after four times what the first start took.
    assert_eq!(places_beside_hanging_starts(3), [vec![], vec![(20 + 40 + 10, 1)]]);
}

#[test]
fn b7_a_start_beside_an_overdue_one_is_made_for_the_build_that_goes_there() {
    // The second start for the elder one hangs as well.
    assert_eq!(places_beside_hanging_starts(4), [vec![], vec![(20 + 40 + 10, 1)]]);
}
