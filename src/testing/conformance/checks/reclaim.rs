//! What a master that has died leaves to the next one.
//!
//! A master dies by being forgotten: the next one gets a copy of its journal as it was at that moment, and a new driver.
//! Afterwards the first driver is told to stop all the same, to let go of what this process holds (handles of children,
//! say); what that comes to is nobody's business.

use super::super::gate::Mode;
use super::super::stage::{Farm, Listing, Proved, Stage, about, broken, given, not_tried, shown};

const WORKER: &str = "conformance";

pub(super) fn after_start(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.journal_farm(Mode::Open)?, stage.driver());
    let hand = farm.worker(WORKER, &*driver)?;
    let _up = hand.up(stage.build())?;
    reclaim_next(&farm, stage)?;
    stage.nothing_left(&before, "after the reclaim")
}

/// The next master after a crash at this moment reclaims.
fn reclaim_next(farm: &Farm<'_>, stage: &Stage) -> Proved {
    let (next, driver) = (farm.next_after_crash()?, stage.driver());
    next.worker(WORKER, &*driver)?;
    next.reclaimed_at_once(WORKER)
}

/// J3 says that a missing resource counts as gone, for whatever reason it is missing.
pub(super) fn gone(stage: &Stage) -> Proved {
    let why = |case: &'static str| move |unproved| about(unproved, case);
    {
        let (farm, driver) = (stage.journal_farm(Mode::HoldStart)?, stage.driver());
        let hand = farm.worker(WORKER, &*driver)?;
        let asked = hand.ask(stage.build());
        hand.called(asked.life())?;
        reclaim_next(&farm, stage).map_err(why("never made"))?;
        farm.gate.let_go();
    }
    {
        let (farm, driver) = (stage.journal_farm(Mode::Open)?, stage.driver());
        let hand = farm.worker(WORKER, &*driver)?;
        let _up = hand.up(stage.build())?;
        let snapshot = farm.snapshot()?;
        for case in ["reclaimed once", "reclaimed already"] {
            let (next, driver) = (farm.next_on(&snapshot)?, stage.driver());
            next.worker(WORKER, &*driver)?;
            next.reclaimed_at_once(WORKER).map_err(why(case))?;
        }
    }
    if given(&stage.means.destroy, "").is_ok() {
        let before = stage.list();
        let (farm, driver) = (stage.journal_farm(Mode::Open)?, stage.driver());
        let hand = farm.worker(WORKER, &*driver)?;
        let _up = hand.up(stage.build())?;
        stage.destroy_all(&stage.appeared(&before, 1))?;
        reclaim_next(&farm, stage).map_err(why("removed by somebody else"))?;
    }
    Ok(())
}

pub(super) fn in_start(stage: &Stage) -> Proved {
    let before = stage.list();
    let (farm, driver) = (stage.journal_farm(Mode::HoldAndRefuseRecords)?, stage.driver());
    let hand = farm.worker(WORKER, &*driver)?;
    let asked = hand.ask(stage.build());
    if !farm.gate.wait_until_held(|| hand.has_returned(&asked)) {
        hand.returned(&asked)?;
        return not_tried("the driver records nothing (StartRequest::record), so that there is no moment to crash at");
    }
    reclaim_next(&farm, stage)?;
    stage.nothing_left(&before, "after the reclaim of what was made and not recorded")
}

pub(super) fn neighbours(stage: &Stage) -> Proved {
    let before = stage.list();
    // Of the same owner, with a name that ours is the beginning of.
    let (farm, driver) = (stage.journal_farm(Mode::Open)?, stage.driver());
    let hand = farm.worker(WORKER, &*driver)?;
    let _ours = hand.up(stage.build())?;
    let of_us = stage.appeared(&before, 1);
    let longer = format!("{WORKER}-2");
    let longer_hand = farm.worker(&longer, &*driver)?;
    let _longer = longer_hand.up(stage.build())?;
    // Of another owner, with the same name.
    let (other, other_driver) = (stage.farm(), stage.driver());
    let other_hand = other.worker(WORKER, &*other_driver)?;
    let other_up = other_hand.up(stage.build())?;
    let of_neighbours: Listing = stage.appeared(&before, of_us.len() + 2).difference(&of_us).cloned().collect();
    if of_neighbours.is_empty() {
        return broken("two neighbours have started, and the subject lists nothing new");
    }

    let (next, next_driver) = (farm.next_after_crash()?, stage.driver());
    next.worker(WORKER, &*next_driver)?;
    next.reclaimed(WORKER)?;
    stage.still_there(&of_neighbours, "after the reclaim of one attempt, what a neighbour has started")?;
    let left = stage.left_of(&of_us);
    if !left.is_empty() {
        return broken(format!("left behind after the reclaim: {}", shown(&left)));
    }
    other_hand.stop(other_up, false)
}
