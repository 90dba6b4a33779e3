//! B4, B5, B8 and W11: who gets a place first, and how many instances are started.

use latent_worker::DriverCall::{Compatible, Start, Stop};
use latent_worker::{Inbox, WorkerConfig};

use crate::farm::{Does, Farm, Made, Way, Work, millis, of_kind, secs};

#[test]
fn b5_the_urgent_build_gets_the_place_that_becomes_free_first() {
    for (way, places) in [(Way::Any, 1), (Way::Any, 2), (Way::Asked, 1), (Way::Says, 1), (Way::Says, 3)] {
        let mut farm = Farm::new(way, true);
        farm.calls(|made: &Made<'_>| match (made.call, made.worker) {
            (Start, "w2") => Does::Well(secs(100)),
            (Start, _) => Does::Well(secs(5)),
            _ => Does::Well(secs(0)),
        });
        farm.add_many(2, places, |config| config);
        // w1 is up and full.
        for _ in 0..places {
            farm.simple("a", secs(30));
        }
        farm.run(secs(10));
        let urgent = farm.submit(of_kind("a").with_priority(100), Work::Takes(secs(1)));
        farm.run(secs(5));
        assert_eq!(farm.starts(), 2, "the urgent build waits for w2");
        let later = farm.submit(of_kind("a").with_priority(-100), Work::Takes(secs(1)));
        farm.run(secs(60));
        assert_eq!(farm.first(urgent), Some((secs(35), "w1")), "{way:?}, {places}");
        assert!(farm.first(later) >= farm.first(urgent));
        farm.finish();
    }
}

#[test]
fn b5_an_elder_of_another_kind_runs_within_its_patience() {
    for (way, places, priority) in [
        (Way::Says, 2, 10),
        (Way::Says, 2, 0),
        (Way::Says, 1, 10),
        (Way::Says, 3, 10),
        (Way::Asked, 1, 10),
        (Way::Asked, 2, 10),
        (Way::Asked, 2, 0),
    ] {
        let mut farm = Farm::new(way, true);
        farm.calls(|made: &Made<'_>| match made.call {
            Start => Does::Well(secs(5)),
            Stop => Does::Well(secs(1)),
            _ => Does::Well(millis(100)),
        });
        farm.add_many(1, places, |config| config);
        for _ in 0..=places {
            farm.simple("a", secs(3));
        }
        farm.run(secs(7));
        let elder = farm.submit(of_kind("b").with_priority(priority), Work::Takes(secs(1)));
        let submitted = farm.now();
        // There is always a younger build of kind a that waits.
        let mut younger = places + 1;
        farm.run_while(secs(200), |farm| {
            while farm.now() < secs(150) && younger < farm.given.len() + 2 {
                farm.simple("a", secs(3));
                younger += 1;
            }
        });
        let Some((at, _)) = farm.first(elder) else { panic!("{way:?}, {places}: {}", farm.why(elder)) };
        // 6 starts of 5 s.
        let patience = if priority > 0 { 0 } else { 30 };
        let most = secs(patience + 3 + 1 + 5 + 1);
        assert!(at - submitted <= most, "{way:?}, {places}, {priority}: {:?}", at - submitted);
        farm.finish();
    }
}

#[test]
fn b5_a_build_without_labels_leaves_the_scarce_worker() {
    for gpu_first in [true, false] {
        for is_up in [true, false] {
            let mut farm = Farm::new(Way::Any, true);
            let gpu = WorkerConfig::new("gpu").with_label("gpu").with_label("linux");
            let plain = WorkerConfig::new("plain").with_label("linux");
            let configs = if gpu_first { [gpu, plain] } else { [plain, gpu] };
            configs.into_iter().for_each(|config| farm.add(config, 1));
            if is_up {
                farm.submit(of_kind("a").with_label("gpu"), Work::Takes(secs(1)));
                farm.simple("a", secs(1));
                farm.run(secs(5));
                assert_eq!(farm.starts(), 2);
            }
            let build = farm.simple("a", secs(1));
            farm.run(secs(5));
            assert_eq!(farm.first(build).unwrap().1, "plain", "{gpu_first}, {is_up}");
            farm.finish();
        }
    }
}

#[test]
fn b8_ten_builds_need_one_instance_with_room_for_ten() {
    for (builds, workers, places, starts) in
        [(10, 10, 10, 1), (11, 10, 10, 2), (20, 10, 7, 3), (5, 10, 1, 5), (10, 3, 4, 3)]
    {
        for way in [Way::Any, Way::Asked, Way::Says] {
            for shared in [true, false] {
                let mut farm = Farm::new(way, shared);
                farm.calls(|_| Does::Well(secs(2)));
                farm.add_many(workers, places, |config| config);
                for _ in 0..builds {
                    farm.simple("a", secs(5));
                }
                farm.run(secs(60));
                assert_eq!(farm.finished.len(), builds);
                assert_eq!(farm.starts(), starts, "{builds}, {workers}, {places}, {way:?}, {shared}");
                farm.finish();
            }
        }
    }
}

#[test]
fn w11_builds_that_do_not_fit_are_one_question_for_each_kind() {
    let mut farm = Farm::new(Way::Asked, true);
    farm.add_many(1, 2, |config| config);
    farm.simple("a", secs(10_000));
    farm.run(secs(1));
    for number in 0..4000 {
        farm.simple(["b", "c", "d", "e"][number % 4], secs(1));
    }
    farm.run(secs(2));
    assert_eq!(farm.count(Compatible), 4);
    farm.finish();
}

#[test]
fn b4_an_inbox_that_is_dropped_starts_nothing_for_nobody() {
    for (workers, builds) in [(200, 3000), (1, 3000), (10, 40)] {
        for way in [Way::Any, Way::Says] {
            let mut farm = Farm::new(way, true);
            farm.calls(|_| Does::Well(secs(60)));
            farm.add_many(workers, 1, |config| config);
            let workers_busy = farm.master.workers();
            workers_busy.iter().for_each(latent_worker::Worker::pause);
            let ids: Vec<_> = (0..builds).map(|_| farm.simple("a", secs(1))).collect();
            farm.inbox = None;
            assert_eq!(farm.master.queue(None, 1).total, 0);
            workers_busy.iter().for_each(latent_worker::Worker::unpause);
            farm.run(secs(5));
            assert_eq!(farm.starts(), 0, "{workers}, {builds}");
            assert!(ids.iter().all(|id| farm.master.build_status(*id).is_none()));
            farm.inbox = Some(Inbox::new());
            farm.finish();
        }
    }
}

#[test]
fn b4_an_inbox_that_is_dropped_while_it_starts_cancels_the_starts() {
    for workers in [1, 4, 16] {
        let mut farm = Farm::new(Way::Any, true);
        farm.calls(|_| Does::Well(secs(60)));
        farm.add_many(workers, 1, |config| config);
        for _ in 0..3000 {
            farm.simple("a", secs(1));
        }
        farm.run(secs(5));
        assert_eq!(farm.starts(), workers);
        farm.inbox = None;
        farm.run(secs(5));
        assert_eq!((farm.starts(), farm.count(Stop)), (workers, workers), "all are cancelled");
        farm.inbox = Some(Inbox::new());
        farm.finish();
    }
}

#[test]
fn b8_few_starts_for_few_kinds_at_random() {
    for seed in 0..6 {
        for (way, shared) in [(Way::Asked, true), (Way::Says, true), (Way::Says, false)] {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut farm = Farm::new(way, shared);
            farm.calls(|made: &Made<'_>| Does::Well(if made.call == Start { millis(50) } else { millis(0) }));
            farm.add_many(4, 1, |config| config);
            for _ in 0..400 {
                farm.simple(["a", "b"][random.usize(..2)], millis(10));
            }
            farm.run(secs(6));
            assert_eq!(farm.finished.len(), 400);
            assert!(farm.starts() <= 12, "seed {seed}, {way:?}: {} starts", farm.starts());
            let last = farm.given.last().unwrap().0;
            assert!(last <= millis(2000), "seed {seed}, {way:?}: {last:?}");
            farm.finish();
        }
    }
}
