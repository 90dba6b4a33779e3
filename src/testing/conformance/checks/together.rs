//! What is promised about all calls of the run together, and what shows late.

use std::sync::PoisonError;

use super::super::record;
use super::super::stage::{Listing, Proved, Stage, broken, not_tried, shown};
use crate::DriverCall;

/// Work that goes on after the call that began it has returned shows when nobody looks for it any more.
pub(super) fn nothing_late(stage: &Stage) -> Proved {
    if stage.record.all().iter().any(|noted| noted.ended.is_none()) {
        return not_tried("a call into the driver still hangs, and may make something");
    }
    std::thread::sleep(stage.means.settle);
    let known = stage.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let late: Listing = stage.list().difference(&known).cloned().collect();
    if late.is_empty() {
        return Ok(());
    }
    broken(format!("made by a call that had returned, and its stop too: {}", shown(&late)))
}

fn judged(stage: &Stage, judge: impl Fn(&[record::Noted]) -> Option<String>) -> Proved {
    let calls = stage.record.all();
    if calls.is_empty() {
        return not_tried("the driver was not called");
    }
    judge(&calls).map_or(Ok(()), broken)
}

pub(super) fn one_at_a_time(stage: &Stage) -> Proved {
    judged(stage, record::overlap)
}

pub(super) fn one_stop(stage: &Stage) -> Proved {
    if !stage.record.all().iter().any(|noted| noted.call.kind == DriverCall::Start && noted.ended.is_some()) {
        return not_tried("no start has returned");
    }
    judged(stage, record::stops_amiss)
}

pub(super) fn unique_keys(stage: &Stage) -> Proved {
    judged(stage, record::keys_amiss)
}

pub(super) fn no_panic(stage: &Stage) -> Proved {
    judged(stage, record::panicked)
}

pub(super) fn no_secret(stage: &Stage) -> Proved {
    let (looked_at, leaks) = stage.record.leaks();
    if looked_at == 0 {
        return not_tried("the driver has said nothing");
    }
    if leaks.is_empty() { Ok(()) } else { broken(leaks.into_iter().collect::<Vec<_>>().join("\n")) }
}
