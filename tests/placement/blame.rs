//! B2 and B9: a build, a kind or a worker that fails takes nothing else out of use.

use std::num::NonZeroU32;
use std::time::Duration;

use latent_worker::DriverCall::{Start, Stop};
use latent_worker::{BuildError, IdlePolicy};

use crate::farm::{Does, Farm, Made, Way, Work, millis, of_kind, secs};

/// Has good builds of 1 s waiting all the time.
fn good_builds(farm: &mut Farm, time: Duration, kind: &'static str, at_once: usize) -> usize {
    let end = farm.now() + time;
    let before = farm.finished.len();
    let mut submitted = before;
    farm.run_while(time, |farm| {
        while farm.now() < end && submitted < farm.finished.len() + at_once {
            farm.simple(kind, secs(1));
            submitted += 1;
        }
    });
    farm.finished.len() - before
}

fn fails_for(build: &'static str) -> impl FnMut(&Made<'_>) -> Does {
    move |made| match made.build {
        Some(name) if name == build => Does::Fails(Duration::ZERO),
        _ => Does::Well(Duration::ZERO),
    }
}

#[test]
fn b9_one_bad_build_does_not_take_five_workers_out_of_use() {
    for way in [Way::Any, Way::Asked, Way::Says] {
        for shared in [true, false] {
            for (idle, places) in [
                (IdlePolicy::AfterBuild, 1),
                (IdlePolicy::After(secs(600)), 1),
                (IdlePolicy::After(secs(600)), 2),
                (IdlePolicy::After(secs(2)), 1),
            ] {
                let mut farm = Farm::new(way, shared);
                farm.calls(fails_for("bad"));
                farm.add_many(5, places, |config| config.with_idle(idle));
                let bad = of_kind("bad").with_max_attempts(NonZeroU32::MAX);
                farm.submit(bad, Work::Takes(secs(1)));
                let run = good_builds(&mut farm, secs(600), "good", 10 * places);
                assert!(run >= 2700 * places, "{way:?}, {shared}, {idle:?}, {places}: {run}");
                farm.finish();
            }
        }
    }
}

#[test]
fn b9_a_stream_of_bad_builds_of_one_kind_does_not_take_workers_out_of_use() {
    for shared in [true, false] {
        for idle in [IdlePolicy::AfterBuild, IdlePolicy::After(secs(600))] {
            let mut farm = Farm::new(Way::Says, shared);
            farm.calls(fails_for("bad"));
            farm.add_many(5, 1, |config| config.with_idle(idle));
            for _ in 0..20 {
                farm.submit(of_kind("bad").with_max_attempts(NonZeroU32::MAX), Work::Takes(secs(1)));
            }
            let run = good_builds(&mut farm, secs(600), "good", 10);
            // Some builds fail before it is known that it is their kind.
            assert!(run >= 2500, "{shared}, {idle:?}: {run}");
            farm.finish();
        }
    }
}

#[test]
fn b2_a_build_that_loses_its_agent_ends_after_ten_attempts() {
    for (workers, way) in [(1, Way::Any), (3, Way::Any), (2, Way::Says), (2, Way::Asked)] {
        let mut farm = Farm::new(way, true);
        farm.add_many(workers, 1, |config| config);
        let build = farm.submit(of_kind("a"), Work::Loses);
        farm.run(secs(20_000));
        let Some(BuildError::AttemptsExhausted { history, .. }) = farm.errors.get(&build) else {
            panic!("{workers}, {way:?}: {}", farm.why(build));
        };
        assert_eq!(history.len(), 10);
        let times: Vec<Duration> = farm.given.iter().map(|(at, ..)| *at).collect();
        for (number, pair) in times.windows(2).enumerate() {
            let pause = pair[1] - pair[0];
            // Shortened by up to a quarter.
            assert!(pause >= secs(1 << number).min(secs(300)) * 3 / 4, "{workers}, {way:?}, {number}: {pause:?}");
        }
        assert!(farm.starts() <= 10);
        farm.finish();
    }
}

#[test]
fn b2_an_agent_that_attaches_and_dies_causes_few_starts() {
    for workers in [1, 2, 5] {
        for (way, shared) in [(Way::Any, true), (Way::Any, false), (Way::Says, true), (Way::Asked, false)] {
            for builds in [1, 20] {
                let mut farm = Farm::new(way, shared);
                farm.calls(|made| if made.call == Start { Does::Dies(Duration::ZERO) } else { Does::Well(millis(0)) });
                farm.add_many(workers, 1, |config| config);
                for _ in 0..builds {
                    farm.submit(of_kind("a").with_max_attempts(NonZeroU32::MAX), Work::Takes(secs(1)));
                }
                farm.run(secs(600));
                let most = 20 + 6 * (workers - 1);
                assert!(farm.starts() <= most, "{workers}, {way:?}, {shared}, {builds}: {} starts", farm.starts());
                farm.finish();
            }
        }
    }
}

/// Starts fail until then.
fn outage(until: Duration, takes: Duration) -> impl FnMut(&Made<'_>) -> Does {
    move |made| match made.call {
        Start if made.at < until => Does::Fails(takes),
        Start => Does::Well(secs(1)),
        _ => Does::Well(Duration::ZERO),
    }
}

#[test]
fn b2_a_build_survives_an_outage_of_a_second_with_three_attempts() {
    for workers in [1, 2, 4] {
        for (way, shared) in [(Way::Any, true), (Way::Any, false), (Way::Says, true), (Way::Asked, false)] {
            for takes in [0, 1, 100] {
                let mut farm = Farm::new(way, shared);
                farm.calls(outage(secs(1), millis(takes)));
                farm.add_many(workers, 1, |config| config);
                let build = of_kind("a").with_max_attempts(NonZeroU32::new(3).unwrap());
                let build = farm.submit(build, Work::Takes(secs(1)));
                farm.run(secs(60));
                assert!(farm.finished.contains(&build), "{workers}, {way:?}, {shared}: {}", farm.why(build));
                farm.finish();
            }
        }
    }
}

#[test]
fn b2_builds_survive_an_outage_of_a_minute_with_the_default_attempts() {
    for workers in [1, 2, 4] {
        for (way, shared) in [(Way::Any, true), (Way::Any, false), (Way::Says, true), (Way::Asked, false)] {
            for builds in [1, 5] {
                let mut farm = Farm::new(way, shared);
                farm.calls(outage(secs(60), millis(10)));
                farm.add_many(workers, 1, |config| config);
                let builds: Vec<_> = (0..builds).map(|_| farm.simple("a", secs(1))).collect();
                farm.run(secs(600));
                for build in builds {
                    assert!(farm.finished.contains(&build), "{workers}, {way:?}, {shared}: {}", farm.why(build));
                }
                farm.finish();
            }
        }
    }
}

#[test]
fn b2_the_second_attempt_goes_elsewhere() {
    for broken in ["w1", "w2"] {
        for way in [Way::Any, Way::Asked, Way::Says] {
            for places in [1, 2] {
                let mut farm = Farm::new(way, true);
                farm.add_many(2, places, |config| config);
                for _ in 0..2 * places {
                    farm.simple("a", secs(1));
                }
                farm.run(secs(3));
                // Builds of this kind lose their agent on one of the workers.
                farm.loses_on = Some(broken.to_owned());
                let builds: Vec<_> = (0..10).map(|_| farm.simple("a", secs(2))).collect();
                farm.run(secs(300));
                for build in builds {
                    let on: Vec<_> = farm
                        .given
                        .iter()
                        .filter(|(_, of, _)| *of == build)
                        .map(|(.., worker)| worker.as_str())
                        .collect();
                    assert!(on.len() <= 2, "{broken}, {way:?}, {places}: {on:?}");
                    assert_ne!(*on.last().unwrap(), broken);
                    assert!(farm.finished.contains(&build));
                }
                farm.finish();
            }
        }
    }
}

#[test]
fn b2_a_stop_that_fails_is_no_attempt_of_the_build_behind_it() {
    for way in [Way::Any, Way::Asked, Way::Says] {
        for takes in [0, 5] {
            let mut farm = Farm::new(way, true);
            farm.calls(move |made| match made.call {
                Stop if made.at < secs(60) => Does::Fails(secs(takes)),
                _ => Does::Well(Duration::ZERO),
            });
            farm.add_many(1, 1, |config| config.with_idle(IdlePolicy::AfterBuild));
            farm.simple("a", secs(5));
            let behind = farm.submit(of_kind("b").with_max_attempts(NonZeroU32::MIN), Work::Takes(secs(1)));
            farm.run(secs(20));
            assert_eq!(farm.errors.len(), 0, "{:?}", farm.errors);
            // Nothing else is known of the instance; the worker is used again when somebody says that it may be.
            farm.master.worker("w1").unwrap().unpause();
            farm.run(secs(60));
            assert!(farm.finished.contains(&behind), "{way:?}, {takes}: {}", farm.why(behind));
            farm.finish();
        }
    }
}
