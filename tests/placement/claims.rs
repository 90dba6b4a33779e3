//! B4, B5 and B10: leases that nobody takes, ageing, the list of the queue, and instances that are retired.

use latent_worker::testing::PATIENCE;
use latent_worker::{Build, BuildResult, PlacementConfig};

use crate::farm::{Farm, Way, Work, of_kind, secs};

#[test]
fn b4_a_lease_that_nobody_takes_goes_back_and_one_that_was_taken_does_not() {
    for timeout in [10, 3600] {
        let mut farm = Farm::with(Way::Any, true, PlacementConfig::new().with_claim_timeout(secs(timeout)));
        farm.add_many(2, 1, |config| config);
        let taken = farm.master.submit(Build::new("taken"));
        farm.settle();
        let lease = taken.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
        let lies = farm.master.submit(Build::new("lies"));
        farm.settle();
        let behind = farm.master.submit(Build::new("behind"));
        farm.run(secs(timeout * 2 - timeout / 2));
        assert!(farm.master.build_status(lies.id()).is_none(), "it has ended");
        assert_eq!(farm.result(lies.id()), Some(BuildResult::Abandoned));
        assert_eq!(lease.end(), None);
        let second = behind.wait_timeout(PATIENCE).expect("an answer in time").expect("it gets the place");
        farm.run(secs(timeout * 3));
        assert_eq!((lease.end(), second.end()), (None, None));
        lease.finish(BuildResult::Succeeded);
        second.finish(BuildResult::Succeeded);
        farm.finish();
    }
}

#[test]
fn b5_an_old_build_overtakes_when_ageing_is_set() {
    for (waited, first_is_old) in [(5, false), (25, true)] {
        let mut farm = Farm::with(Way::Any, true, PlacementConfig::new().with_ageing(secs(10)));
        farm.add_many(1, 1, |config| config);
        farm.simple("a", secs(100));
        farm.run(secs(1));
        let old = farm.simple("a", secs(1));
        farm.run(secs(waited));
        let urgent = farm.submit(of_kind("a").with_priority(2), Work::Takes(secs(1)));
        farm.run(secs(200));
        assert_eq!(farm.first(old) < farm.first(urgent), first_is_old, "{waited}");
        farm.finish();
    }
}

#[test]
fn b5_the_queue_is_listed_in_order_and_in_pages() {
    let mut farm = Farm::new(Way::Any, true);
    farm.add_many(1, 1, |config| config);
    farm.simple("a", secs(1000));
    farm.run(secs(1));
    let mut expected = Vec::new();
    for number in 0..25 {
        let priority = [0, 5, -5][number % 3];
        expected.push((-priority, farm.submit(of_kind("a").with_priority(priority), Work::Takes(secs(1)))));
    }
    expected.sort();
    let (mut from, mut listed) = (None, Vec::new());
    loop {
        let page = farm.master.queue(from, 7);
        assert_eq!(page.total, 25);
        assert!(page.waiting.len() <= 7);
        listed.extend(page.waiting.iter().map(|build| build.id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(listed, expected.into_iter().map(|(_, build)| build).collect::<Vec<_>>());
    farm.finish();
}

#[test]
fn b10_a_lease_that_retires_its_instance_sends_the_build_elsewhere() {
    let mut farm = Farm::new(Way::Any, true);
    farm.add_many(2, 1, |config| config);
    let ticket = farm.master.submit(Build::new("b"));
    farm.settle();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    let first = lease.worker().clone();
    lease.retire("the disk is full");
    farm.run(secs(5));
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_ne!(*lease.worker(), first);
    assert_eq!(lease.history().len(), 1);
    lease.finish(BuildResult::Succeeded);
    farm.finish();
}
