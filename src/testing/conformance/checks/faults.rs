//! Lives in which the provider, or the way to it, fails.

use std::time::{Duration, Instant};

use super::super::gate::Mode;
use super::super::record::Outcome;
use super::super::stage::{Asked, Farm, Hand, Listing, Proved, Stage, Up, broken, not_tried, shown};
use super::super::subject::{Fault, Injection};
use super::starts::cancel;
use crate::{BuildResult, FailureCause, SubstantiateError};

const WORKER: &str = "conformance";

/// A fault that nothing has met proves nothing.
fn was_met(injection: &Injection) -> Proved {
    match injection.met() {
        Some(0) => not_tried("the fault was never met: does the driver do this at all?"),
        _ => Ok(()),
    }
}

/// How a start under a fault ended.
enum Ended {
    Up(Up),
    Failed(SubstantiateError, Asked),
}

fn start(stage: &Stage, hand: &Hand<'_, '_>) -> Proved<Ended> {
    let mut asked = hand.ask(stage.build());
    match hand.returned(&asked)?.outcome() {
        Some(Outcome::Well) => {}
        Some(Outcome::Failed(_)) => match hand.answered(&mut asked)? {
            Err(error) => return Ok(Ended::Failed(error, asked)),
            Ok(lease) => return broken(format!("the start failed, and the build got {lease:?}")),
        },
        other => return broken(format!("start_instance: {other:?}")),
    }
    // An instance that is broken may be found out by a check before its agent is in.
    let attachment = match hand.attach(&asked) {
        Ok(attachment) => attachment,
        Err(why) => match asked.answer.try_wait() {
            Some(Err(error)) => return Ok(Ended::Failed(error, asked)),
            _ => return Err(why),
        },
    };
    match hand.answered(&mut asked)? {
        Ok(lease) => Ok(Ended::Up(asked.into_up(lease, attachment))),
        Err(error) => Ok(Ended::Failed(error, asked)),
    }
}

/// Has the instance stopped if there is one; returns which life that was.
fn brought_down(hand: &Hand<'_, '_>, ended: Ended) -> Proved<usize> {
    match ended {
        Ended::Up(up) => {
            let life = up.life();
            up.lease.finish(BuildResult::Succeeded);
            hand.ask_stop(false)?;
            Ok(life)
        }
        Ended::Failed(_, asked) => Ok(asked.life()),
    }
}

/// Has the instance stopped if there is one, and waits until stop and, when that has failed, reclaim have removed all.
fn all_gone_in_the_end(stage: &Stage, farm: &Farm<'_>, hand: &Hand<'_, '_>, ended: Ended, before: &Listing) -> Proved {
    let life = brought_down(hand, ended)?;
    hand.stopped(life)?;
    farm.reclaimed(WORKER)?;
    stage.nothing_left(before, "after the fault, the stop and the reclaim")
}

pub(super) fn error_after_create(stage: &Stage) -> Proved {
    one_start(stage, Fault::ErrorAfterCreate, |_| Ok(()))
}

pub(super) fn vanishes(stage: &Stage) -> Proved {
    one_start(stage, Fault::Vanishes, |_| Ok(()))
}

pub(super) fn throttled_start(stage: &Stage) -> Proved {
    one_start(stage, Fault::Throttled, |error| match error {
        SubstantiateError::Failed { cause: FailureCause::Throttled { .. }, .. } => Ok(()),
        other => broken(format!("the failure does not say FailureCause::Throttled but: {other:?}")),
    })
}

pub(super) fn unavailable_start(stage: &Stage) -> Proved {
    one_start(stage, Fault::Unavailable, |error| match error {
        SubstantiateError::Failed { .. } => Ok(()),
        other => broken(format!("nobody is to blame but the provider, and the failure is: {other:?}")),
    })
}

fn one_start(stage: &Stage, fault: Fault, judge: impl Fn(&SubstantiateError) -> Proved) -> Proved {
    let before = stage.list();
    let injection = stage.inject(fault)?;
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker(WORKER, &*driver)?;
    let ended = start(stage, &hand)?;
    let met = was_met(&injection);
    let judged = match &ended {
        Ended::Up(_) => Ok(()),
        Ended::Failed(error, _) => judge(error),
    };
    drop(injection);
    all_gone_in_the_end(stage, &farm, &hand, ended, &before)?;
    met.and(judged)
}

pub(super) fn error_after_remove(stage: &Stage) -> Proved {
    one_stop(stage, Fault::ErrorAfterRemove)
}

pub(super) fn throttled_stop(stage: &Stage) -> Proved {
    one_stop(stage, Fault::Throttled)
}

pub(super) fn unavailable_stop(stage: &Stage) -> Proved {
    one_stop(stage, Fault::Unavailable)
}

/// The fault is in force while the stop runs, for as long as a listing may lag; a stop that waits for its end is well.
fn one_stop(stage: &Stage, fault: Fault) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker(WORKER, &*driver)?;
    let up = hand.up(stage.build())?;
    let life = up.life();
    let injection = stage.inject(fault)?;
    up.lease.finish(BuildResult::Succeeded);
    let stopped_soon = hand.worker.insubstantiate(false).wait_timeout(stage.means.settle);
    let met = was_met(&injection);
    if stopped_soon && hand.stopped(life)?.outcome() == Some(&Outcome::Well) {
        let left = stage.left_of(&stage.new_since(&before));
        if !left.is_empty() {
            return broken(format!("stop_instance says that all went well, and this is still there: {}", shown(&left)));
        }
    }
    drop(injection);
    hand.stopped(life)?;
    farm.reclaimed(WORKER)?;
    stage.nothing_left(&before, "after the fault, the stop and the reclaim")?;
    met
}

/// A whole life, and one whose start fails when it records what it has made: its stop is told nothing but the key.
pub(super) fn lagging_life(stage: &Stage) -> Proved {
    let before = stage.list();
    let injection = stage.inject(Fault::LaggingList)?;
    for mode in [Mode::Open, Mode::RefuseRecords] {
        let (farm, driver) = (stage.journal_farm(mode)?, stage.driver());
        let hand = farm.worker(WORKER, &*driver)?;
        let ended = start(stage, &hand)?;
        if let (Ended::Failed(error, _), Mode::Open) = (&ended, mode) {
            return broken(format!("the instance does not come up: {error}"));
        }
        hand.stopped_well(brought_down(&hand, ended)?)?;
    }
    drop(injection);
    stage.nothing_left(&before, "after lives while listings lagged")
}

pub(super) fn lagging_reclaim(stage: &Stage) -> Proved {
    let before = stage.list();
    let injection = stage.inject(Fault::LaggingList)?;
    let (farm, driver) = (stage.journal_farm(Mode::Open)?, stage.driver());
    let hand = farm.worker(WORKER, &*driver)?;
    let _up = hand.up(stage.build())?;
    let (next, next_driver) = (farm.next_after_crash()?, stage.driver());
    next.worker(WORKER, &*next_driver)?;
    // A reclaim may say that it does not know yet, as often as it takes.
    next.reclaimed(WORKER)?;
    drop(injection);
    stage.nothing_left(&before, "after a reclaim while listings lagged")
}

pub(super) fn cancelled_slow(stage: &Stage) -> Proved {
    let before = stage.list();
    let injection = stage.inject(Fault::SlowStart)?;
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker(WORKER, &*driver)?;
    let mut asked = hand.ask(stage.build());
    hand.called(asked.life())?;
    // Until it is in the middle of what is slow, if that is counted.
    let deadline = Instant::now() + stage.means.patience.min(Duration::from_secs(1));
    while !hand.has_returned(&asked) && injection.met().is_none_or(|met| met == 0) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    if hand.has_returned(&asked) {
        return not_tried("the slow start has returned before it could be cancelled: make it slower");
    }
    let cancelled = cancel_in_time(stage, &hand, &mut asked);
    drop(injection);
    cancelled?;
    cancel(stage, &hand, &mut asked)?;
    stage.nothing_left(&before, "after a slow start that was cancelled and its stop")
}

/// The start must return while the provider is still slow.
fn cancel_in_time(stage: &Stage, hand: &Hand<'_, '_>, asked: &mut Asked) -> Proved {
    asked.answer.cancel();
    let limit = stage.means.cancel_within;
    let deadline = Instant::now() + limit;
    while !hand.has_returned(asked) {
        if Instant::now() >= deadline {
            return broken(format!("start_instance has not returned {limit:?} after its cancel"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
