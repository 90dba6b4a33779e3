//! Who pauses after which failures, on virtual time.

use super::super::blame::Paused;
use super::super::kinds::KindId;
use super::farm::{Farm, SAYS, kind, secs};
use super::world::{Driver, Setting, Step};
use crate::build_status::{BuildState, NextChance};
use crate::event::DriverCall::Start;

fn shared(driver: Driver) -> Farm {
    Farm::of(&[("", driver, 1), ("", driver, 1)], Setting { shared_drivers: true, ..Setting::default() })
}

/// The kind of instance that a build needs.
fn needed(farm: &Farm, slot: usize) -> KindId {
    let queue = &farm.world.placement.queue;
    let need = queue.builds[&farm.world.builds[slot].id].need;
    queue.line(queue.line_of_need(need)).kinds[0]
}

fn driver_pauses(farm: &Farm) -> bool {
    farm.world.placement.blame.paused_until(Paused::Driver(0)).is_some()
}

#[test]
fn b9_where_nothing_attaches_the_driver_is_to_blame() {
    let mut farm = shared(SAYS);
    farm.answers.extend([((0, Start), 2), ((1, Start), 2)]);
    let builds = ["b", "b2"].map(|name| farm.submit(kind(name), secs(1)));
    farm.run(secs(10));
    assert!(driver_pauses(&farm));
    let (now, id) = (farm.world.now, farm.world.builds[builds[0]].id);
    farm.run(secs(2));
    let status = farm.world.placement.status(now + secs(2), id).expect("it waits");
    let BuildState::Waiting(waiting) = status.state else { panic!("it waits") };
    assert!(matches!(waiting.next, NextChance::DriverPause { .. }), "e1: {:?}", waiting.next);
    let blame = &farm.world.placement.blame;
    let kind = needed(&farm, builds[0]);
    assert_eq!(blame.paused_until(Paused::Kind(kind)), None);
    // Nor one build, also when it has failed on both.
    farm.run(secs(120));
    assert!(builds.iter().any(|build| farm.world.builds[*build].failed_on.len() == 2));
    let blame = &farm.world.placement.blame;
    assert!(builds.iter().all(|build| !blame.is_guilty(kind, farm.world.builds[*build].id)));
}

#[test]
fn b9_where_other_kinds_attach_the_kind_is_to_blame() {
    let mut farm = shared(SAYS);
    let good = farm.submit(kind("a"), secs(1));
    // Its instance is gone again.
    farm.run(secs(700));
    assert!(farm.has_ended(good));
    farm.answers.extend([((0, Start), 2), ((1, Start), 2)]);
    let builds = ["b", "b2"].map(|name| farm.submit(kind(name), secs(1)));
    // One after the other, because builds are known to be short.
    farm.run(secs(20));
    assert!(!driver_pauses(&farm));
    let kind = needed(&farm, builds[0]);
    assert!(farm.world.placement.blame.paused_until(Paused::Kind(kind)).is_some());
}

#[test]
fn b9_a_driver_whose_agents_attach_and_are_lost_does_not_pause() {
    let mut farm = shared(Driver::Any);
    let builds = [0, 1].map(|_| farm.submit(kind("a"), secs(100)));
    farm.run(secs(10));
    for worker in [0, 1] {
        farm.take(Step::Lose(worker));
        farm.take(Step::Retry(builds[worker]));
    }
    farm.run(secs(4));
    assert!(farm.world.workers.iter().all(|worker| worker.life.quarantine(farm.world.now).is_some()));
    assert!(!driver_pauses(&farm));
}
