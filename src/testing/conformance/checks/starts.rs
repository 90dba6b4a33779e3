//! Starts that come to nothing: failed, refused or cancelled.

use std::time::Instant;

use super::super::gate::Mode;
use super::super::record::{Noted, Outcome};
use super::super::stage::{Asked, Hand, Proved, Stage, broken, given, not_tried};
use crate::SubstantiateError;

pub(super) fn failed(stage: &Stage) -> Proved {
    let build = given(&stage.means.failing, "build whose start fails (Subject::failing)")?;
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let mut asked = hand.ask(build);
    match hand.returned(&asked)?.outcome() {
        Some(Outcome::Failed(reason)) if reason.trim().is_empty() => return broken("the failure has no reason"),
        Some(Outcome::Failed(_)) => {}
        Some(Outcome::Well) => return not_tried("the start of the build that was to fail has succeeded"),
        other => return broken(format!("start_instance: {other:?}")),
    }
    if let Ok(lease) = hand.answered(&mut asked)? {
        return broken(format!("the start failed, and the build got {lease:?}"));
    }
    stopped_without_instance(&hand, &asked)?;
    stage.nothing_left(&before, "after a start that failed and its stop")
}

fn stopped_without_instance(hand: &Hand<'_, '_>, asked: &Asked) -> Proved {
    let stop = hand.stopped_well(asked.life())?;
    if stop.call.had_instance { broken("the stop of a failed start was given an instance") } else { Ok(()) }
}

pub(super) fn impossible(stage: &Stage) -> Proved {
    let build = given(&stage.means.impossible, "build that can never be (Subject::impossible)")?;
    let before = stage.list();
    let (farm, driver) = (stage.farm(), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let mut asked = hand.ask(build);
    match hand.answered(&mut asked)? {
        Err(SubstantiateError::Cannot { reason }) if reason.trim().is_empty() => {
            return broken("CannotSubstantiate has no reason");
        }
        Err(SubstantiateError::Cannot { .. }) => {}
        Err(error) => return broken(format!("the error is not CannotSubstantiate but: {error}")),
        Ok(lease) => return broken(format!("the build that can never be got {lease:?}")),
    }
    stopped_without_instance(&hand, &asked)?;
    if hand.worker.status().quarantine.is_some() {
        return broken("the worker is in quarantine for what is the build's own fault");
    }
    stage.nothing_left(&before, "after a start that was refused and its stop")
}

pub(super) fn record_refused(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.journal_farm(Mode::RefuseRecords)?, stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let mut asked = hand.ask(stage.build());
    let returned = hand.returned(&asked)?;
    if farm.gate.records() == 0 {
        return not_tried("the driver records nothing (StartRequest::record)");
    }
    match returned.outcome() {
        Some(Outcome::Failed(_)) => {}
        Some(Outcome::Well) => {
            return broken(
                "record has failed, and start_instance has returned an instance that no next master can find",
            );
        }
        other => return broken(format!("start_instance: {other:?}")),
    }
    if let Ok(lease) = hand.answered(&mut asked)? {
        return broken(format!("the start failed, and the build got {lease:?}"));
    }
    stopped_without_instance(&hand, &asked)?;
    stage.nothing_left(&before, "after a start that could not record and its stop")
}

pub(super) fn cancelled_at_once(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.gated_farm(Mode::CallWhenCancelled), stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let mut asked = hand.ask(stage.build());
    hand.called(asked.life())?;
    cancel(stage, &hand, &mut asked)?;
    stage.nothing_left(&before, "after a start that was cancelled at once and its stop")
}

pub(super) fn cancelled_midway(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.journal_farm(Mode::HoldRecord)?, stage.driver());
    let hand = farm.worker("conformance", &*driver)?;
    let mut asked = hand.ask(stage.build());
    if !farm.gate.wait_until_held(|| hand.has_returned(&asked)) {
        hand.returned(&asked)?;
        return not_tried(
            "the driver records nothing (StartRequest::record), so that there is no moment to hold it at",
        );
    }
    asked.answer.cancel();
    farm.gate.let_go();
    cancel(stage, &hand, &mut asked)?;
    stage.nothing_left(&before, "after a start that was cancelled and its stop")
}

/// Cancels, and sees that the waiter is told, the start returns in time, and the stop succeeds.
pub(super) fn cancel(stage: &Stage, hand: &Hand<'_, '_>, asked: &mut Asked) -> Proved<Noted> {
    let cancelled = Instant::now();
    asked.answer.cancel();
    match hand.answered(asked)? {
        Err(SubstantiateError::Cancelled) => {}
        other => return broken(format!("a request that was cancelled is answered with {other:?}")),
    }
    let returned = hand.returned(asked)?;
    let after = returned.ended.as_ref().map(|(ended, _)| ended.saturating_duration_since(cancelled));
    let limit = stage.means.cancel_within;
    if let Some(after) = after.filter(|after| *after > limit) {
        return broken(format!("start_instance has returned {after:.1?} after its cancel; the limit is {limit:?}"));
    }
    hand.stopped_well(asked.life())?;
    Ok(returned)
}
