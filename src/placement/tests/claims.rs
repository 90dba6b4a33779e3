//! Which build gets a place, compared with what the contract says in a few lines; and for how long elders are passed
//! over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::PlacementConfig;
use super::farm::{Farm, SAYS, kind, labels, secs};
use super::for_seeds;
use super::world::{BuildSetup, BuildState, Driver, Step, letter, properties};
use crate::event::DriverCall::{Compatible, Start, Stop};
use crate::lifecycle::Standing;

/// What happens to the only free place.
#[derive(PartialEq, Eq, Debug)]
enum Decision {
    /// The builds that are given places.
    Given(Vec<usize>),
    /// The instance makes room for another kind.
    Ends,
}

/// The best claims on `free` places of an instance of kind `up` that offers `offered`, among builds that were submitted
/// in this order and of which none was passed over: priority, then age, unless a build of another kind has a higher
/// priority than the best one that fits.
fn naive_decision(builds: &[BuildSetup], up: char, offered: &str, free: usize) -> Decision {
    let fits = |slot: &usize| labels(offered).contains_all(&builds[*slot].labels);
    let serves = |slot: &usize| letter(&properties(builds[*slot].kind)) == Some(up);
    let mut queue: Vec<usize> = (0..builds.len()).filter(fits).collect();
    queue.sort_by_key(|slot| (-builds[*slot].priority, *slot));
    let mut given = Vec::new();
    while given.len() < free
        && let Some(best) = queue.iter().copied().find(serves)
    {
        if queue.iter().any(|slot| builds[*slot].priority > builds[best].priority && !serves(slot)) {
            return Decision::Ends;
        }
        queue.retain(|slot| *slot != best);
        given.push(best);
    }
    // An instance that nobody uses and nobody fits is replaced.
    let unused = given.is_empty() && !queue.is_empty();
    if unused { Decision::Ends } else { Decision::Given(given) }
}

fn one_decision(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let room = random.usize(1..=3);
    let mut farm = Farm::new(&[("x y", SAYS, room), ("z", SAYS, 1)]);
    let up = ["a", "b"][random.usize(..2)];
    farm.submit(BuildSetup { labels: labels("x"), ..kind(up) }, secs(1));
    farm.run(secs(15));
    // Nothing is given out while the builds come.
    farm.take(Step::Pause(0));
    let builds: Vec<BuildSetup> = (0..random.usize(1..8))
        .map(|_| BuildSetup {
            labels: labels(["", "x", "y", "x y"][random.usize(..4)]),
            priority: random.i32(-1..=1),
            ..kind(["a", "a1", "b", "c"][random.usize(..4)])
        })
        .collect();
    farm.take(Step::Pause(1));
    let slots: Vec<usize> = builds.iter().map(|build| farm.submit(build.clone(), secs(1))).collect();
    farm.take(Step::Unpause(0));
    let running = |slot: &usize| matches!(farm.world.builds[slots[*slot]].state, BuildState::Running(_));
    let given: Vec<usize> = (0..builds.len()).filter(running).collect();
    let ends = !matches!(farm.world.workers[0].life.standing(farm.world.now), Standing::Attached { open: true, .. });
    let letter_up = up.chars().next().expect("it has a letter");
    match naive_decision(&builds, letter_up, "x y", room) {
        Decision::Ends => assert!(ends, "{builds:?} on {room} places of {up}"),
        Decision::Given(mut expected) => {
            expected.sort_unstable();
            assert_eq!((given, ends), (expected, false), "{builds:?} on {room} places of {up}");
        }
    }
}

#[test]
fn b5_the_place_goes_to_the_build_with_the_best_claim() {
    for_seeds(300, one_decision);
}

/// Builds of three kinds come at random to workers that are never enough; no call hangs or fails.
fn nobody_is_passed_over_for_long(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let driver = [SAYS, Driver::Asked][random.usize(..2)];
    let workers = random.usize(1..=3);
    let room = random.usize(1..=3);
    let mut farm = Farm::new(&vec![("", driver, room); workers]);
    farm.checked = seed.is_multiple_of(8);
    let (start, stop) = (secs(random.u64(1..30)), secs(random.u64(1..10)));
    for worker in 0..workers {
        farm.calls.insert((worker, Start), start);
        farm.calls.insert((worker, Stop), stop);
        farm.calls.insert((worker, Compatible), Duration::ZERO);
    }
    let longest = 20;
    let cancels = random.bool();
    // Before anything is known of starts, they are expected to take no time.
    farm.submit(kind("a"), secs(1));
    farm.run(start + secs(5));
    // By kind: since when a build waits that younger ones of other kinds were preferred to.
    let mut passed: BTreeMap<char, Duration> = BTreeMap::new();
    let mut seen = farm.given.len();
    let kind_of = |farm: &Farm, slot: usize| farm.world.setting.builds[slot].kind.chars().next().expect("a letter");
    for _ in 0..200 {
        let name = ["a", "a", "a", "b", "c"][random.usize(..5)];
        let slot = farm.submit(kind(name), secs(random.u64(1..=longest)));
        farm.run(Duration::from_millis(random.u64(..12_000) / (workers * room) as u64));
        if cancels && random.u8(..8) == 0 && !farm.has_ended(slot) {
            farm.take(Step::Cancel(slot));
        }
        for (at, slot, _) in farm.given[seen..].iter().copied() {
            passed.remove(&kind_of(&farm, slot));
            let waits = |elder: &usize| {
                let state = farm.world.builds[*elder].state;
                let given = farm.first_place(*elder);
                state == BuildState::Waiting || given.is_some_and(|(given, _)| given > at)
            };
            let elders: Vec<char> = (0..slot).filter(waits).map(|elder| kind_of(&farm, elder)).collect();
            passed.retain(|kind, _| elders.contains(kind));
            for elder in elders.into_iter().filter(|elder| *elder != kind_of(&farm, slot)) {
                let since = *passed.entry(elder).or_insert(at);
                let patience = start.mul_f64(PlacementConfig::new().patience).max(secs(1));
                // An elder of the third kind may get its turn before.
                let most = patience + (secs(longest) + stop + start) * 2;
                assert!(at - since <= most + secs(1), "{elder} is passed over for {:?}, not {most:?}", at - since);
            }
        }
        seen = farm.given.len();
    }
}

#[test]
fn b5_nobody_is_passed_over_for_longer_than_the_bound() {
    for_seeds(40, nobody_is_passed_over_for_long);
}
