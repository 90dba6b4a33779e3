//! Lives without trouble of the driver's own making.

use std::time::Instant;

use super::super::arguments::Watch;
use super::super::stage::{Listing, Proved, Stage, broken, given, not_tried, shown};
use crate::{BuildResult, SubstantiateError};

/// Workers whose starts run at the same time.
const PARALLEL: usize = 4;

pub(super) fn whole(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let up = hand.up(stage.build())?;
    if stage.appeared(&before, 1).is_empty() {
        return broken(
            "the subject's list shows nothing new while an instance is up: so no check could see what is left behind",
        );
    }
    hand.stop(up, false)?;
    stage.nothing_left(&before, "after the stop")
}

/// From before the start to after the stop.
pub(super) fn arguments(stage: &Stage) -> Proved {
    if !cfg!(target_os = "linux") {
        return not_tried("only Linux tells it in /proc");
    }
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let watch =
        Watch::begin(stage.record.clone()).or_else(|error| broken(format!("the kit has no thread: {error}")))?;
    let lived = hand.up(stage.build()).and_then(|up| {
        // Scans once while everything that belongs to the instance certainly exists.
        let shown = watch.end();
        let watch = Watch::begin(stage.record.clone());
        hand.stop(up, false)?;
        Ok(shown.or_else(|| watch.ok()?.end()))
    });
    lived?.map_or(Ok(()), |path| broken(format!("{} shows the secret", path.display())))
}

pub(super) fn twice(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    for _ in 0..2 {
        let up = hand.up(stage.build())?;
        hand.stop(up, false)?;
    }
    stage.nothing_left(&before, "after two lives")
}

pub(super) fn queued(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let first = hand.up(stage.build())?;
    let life = first.life();
    first.lease.finish(BuildResult::Succeeded);
    drop(hand.worker.insubstantiate(false));
    let asked = hand.ask(stage.build());
    hand.stopped_well(life)?;
    drop(first.attachment);
    let second = hand.finish(asked)?;
    hand.stop(second, false)?;
    stage.nothing_left(&before, "after two lives")
}

pub(super) fn parallel(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let names: Vec<_> = (0..PARALLEL).map(|number| format!("conformance-{number}")).collect();
    let hands = names.iter().map(|name| farm.worker(name, &*driver)).collect::<Proved<Vec<_>>>()?;
    let asked: Vec<_> = hands.iter().map(|hand| hand.ask(stage.build())).collect();
    let ups = hands.iter().zip(asked).map(|(hand, asked)| hand.finish(asked)).collect::<Proved<Vec<_>>>()?;
    let new = stage.appeared(&before, PARALLEL);
    if new.len() < PARALLEL {
        return broken(format!("{PARALLEL} instances are up, and the subject lists only {}", shown(&new)));
    }
    let lives: Vec<_> = ups.iter().map(|up| up.life()).collect();
    ups.into_iter().for_each(|up| up.lease.finish(BuildResult::Succeeded));
    hands.iter().for_each(|hand| drop(hand.worker.insubstantiate(false)));
    for (hand, life) in hands.iter().zip(lives) {
        hand.stopped_well(life)?;
    }
    stage.nothing_left(&before, "after all were stopped")
}

pub(super) fn same_name(stage: &Stage) -> Proved {
    let before = stage.list();
    let (ours, theirs) = (stage.farm(), stage.farm());
    let (our_driver, their_driver) = (stage.driver(), stage.driver());
    let (our_hand, their_hand) =
        (ours.worker("conformance", &*our_driver)?, theirs.worker("conformance", &*their_driver)?);
    let our_up = our_hand.up(stage.build())?;
    let of_us = stage.appeared(&before, 1);
    let their_up = their_hand.up(stage.build())?;
    let of_them: Listing = stage.appeared(&before, of_us.len() + 1).difference(&of_us).cloned().collect();
    stage.still_there(&of_us, "after a start by the second master, what the first one has started")?;
    if of_them.is_empty() {
        return broken("the second master's instance is nothing new: it has taken over that of the first one");
    }
    our_hand.stop(our_up, false)?;
    stage.still_there(&of_them, "after a stop by the first master, what the second one has started")?;
    their_hand.stop(their_up, false)?;
    stage.nothing_left(&before, "after both were stopped")
}

pub(super) fn silent(stage: &Stage) -> Proved {
    let build = stage.silent_build()?;
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let mut asked = hand.ask(build);
    hand.returned_well(&asked)?;
    hand.good_checks(asked.life(), 2)?;
    asked.answer.cancel();
    match hand.answered(&mut asked)? {
        Err(SubstantiateError::Cancelled) => {}
        other => return broken(format!("a request that was cancelled is answered with {other:?}")),
    }
    hand.stopped_well(asked.life())?;
    stage.nothing_left(&before, "after the stop of an instance that no agent came from")
}

pub(super) fn dies(stage: &Stage) -> Proved {
    let build = match (&stage.means.dying, &stage.means.destroy) {
        (Some(build), _) => build,
        (None, Some(_)) => stage.silent_build()?,
        (None, None) => {
            return not_tried(
                "the subject has no build whose instance ends before its agent comes (Subject::dying), and no means to \
                 remove something behind the driver's back (Subject::destroy)",
            );
        }
    };
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let mut asked = hand.ask(build);
    if stage.means.dying.is_none() {
        hand.returned_well(&asked)?;
        stage.destroy_all(&stage.appeared(&before, 1))?;
    }
    match hand.answered(&mut asked) {
        Ok(Err(SubstantiateError::Failed { reason, .. })) if reason.trim().is_empty() => {
            return broken("the failure has no reason");
        }
        Ok(Err(SubstantiateError::Failed { .. })) => {}
        Ok(other) => return broken(format!("the answer is {other:?}")),
        Err(_) => {
            return broken(format!(
                "check_instance still finds nothing wrong {:?} after the instance has ended",
                stage.means.patience
            ));
        }
    }
    hand.stopped_well(asked.life())?;
    stage.nothing_left(&before, "after the stop of an instance that had ended")
}

pub(super) fn incompatible(stage: &Stage) -> Proved {
    recycles(stage, false)
}

/// With `hides_kinds` the driver is asked about its instance alone.
pub(super) fn recycles(stage: &Stage, hides_kinds: bool) -> Proved {
    let other = given(&stage.means.incompatible, "build that an instance does not fit (Subject::incompatible)")?;
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    if !driver.builds_may_be_incompatible() && !driver.says_kinds() {
        return broken("builds_may_be_incompatible says that every instance fits every build");
    }
    let hand = farm.worker_that("conformance", &*driver, hides_kinds)?;
    let up = hand.up(stage.build())?;
    let (first, life) = (up.lease.epoch(), up.life());
    up.lease.finish(BuildResult::Succeeded);
    let again = hand.worker.substantiate(stage.build()).wait_timeout(stage.means.patience);
    match again {
        Some(Ok(lease)) if lease.epoch() == first => lease.finish(BuildResult::Succeeded),
        Some(Ok(_)) => return broken("a build like that which the instance was started for does not fit it"),
        Some(Err(error)) => return broken(format!("a build that fits gets no lease: {error}")),
        None => return broken("a build that fits waits"),
    }
    let mut asked = hand.ask(other);
    let early = match hand.stopped_or_answered(life, &mut asked)? {
        Some(Ok(lease)) if lease.epoch() == first => {
            return broken("the driver says that the running instance fits the other build");
        }
        Some(Err(error)) => return broken(format!("the other build gets no lease: {error}")),
        Some(Ok(lease)) => Some(lease),
        None => None,
    };
    hand.stopped_well(life)?;
    drop(up.attachment);
    let up = match early {
        Some(lease) => asked.into_up(lease, None),
        None => hand.finish(asked)?,
    };
    hand.stop(up, false)?;
    stage.nothing_left(&before, "after both were stopped")
}

pub(super) fn fast(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let up = hand.up(stage.build())?;
    hand.ask_stop(true)?;
    let stop = hand.stopped_well(up.life())?;
    if !stop.call.fast {
        return broken("the stop was not a fast one");
    }
    stage.nothing_left(&before, "after a fast stop")
}

pub(super) fn hurried(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let up = hand.up(stage.means.stubborn.as_ref().unwrap_or_else(|| stage.build()))?;
    let life = up.life();
    up.lease.finish(BuildResult::Succeeded);
    drop(hand.worker.insubstantiate(false));
    hand.stop_called(life)?;
    let hurried = Instant::now();
    drop(hand.worker.insubstantiate(true));
    let stop = hand.stopped_well(life)?;
    let after = stop.ended.as_ref().map(|(ended, _)| ended.saturating_duration_since(hurried));
    let limit = stage.means.cancel_within;
    if let Some(after) = after.filter(|after| *after > limit) {
        return broken(format!(
            "stop_instance has returned {after:.1?} after it had become a fast one; the limit is {limit:?}"
        ));
    }
    stage.nothing_left(&before, "after a stop that became a fast one")
}

pub(super) fn shutdown(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hands = ["conformance-1", "conformance-2", "conformance-3"].map(|name| farm.worker(name, &*driver));
    let hands = hands.into_iter().collect::<Proved<Vec<_>>>()?;
    let ups = [hands[0].up(stage.build())?, hands[1].up(stage.build())?];
    let waits = hands[2].ask(stage.build());
    hands[2].called(waits.life())?;
    farm.shut_down()?;
    for (hand, life) in hands.iter().zip([ups[0].life(), ups[1].life(), waits.life()]) {
        hand.stopped_well(life)?;
    }
    stage.nothing_left(&before, "after the shutdown")
}

pub(super) fn gone_before_stop(stage: &Stage) -> Proved {
    given(&stage.means.destroy, "means to remove something behind the driver's back (Subject::destroy)")?;
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let up = hand.up(stage.build())?;
    stage.destroy_all(&stage.appeared(&before, 1))?;
    hand.stop(up, false)?;
    stage.nothing_left(&before, "after the stop of what was gone")
}
