//! The workers as placement sees them: what each said last, what it was asked to do since, and what follows from both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::{Overdue, PlacementConfig};
use super::kinds::{KindId, Space};
use super::labels::{Readiness, Share, Shelf};
use super::learned::Learned;
use crate::build::{BuildId, Epoch, Properties};
use crate::build_status::ObstacleReason;
use crate::event::DriverCall;
use crate::lifecycle::{Closure, Standing};
use crate::worker::Limits;

/// As many builds use one instance at most; nothing else bounds what a user sets.
const MOST_BUILDS: usize = 1 << 20;
/// A start of which nothing was learned is overdue after this part of the time in which its agent must attach.
const OVERDUE_START: u32 = 10;

/// What a worker says about itself. A greater `version` is newer.
#[derive(Clone, Eq, PartialEq, Hash, Debug)]
pub(crate) struct Facts {
    pub(crate) version: u64,
    pub(crate) epoch: Epoch,
    pub(crate) standing: Standing,
    /// The driver call that is out, and since when; a start also while its thread is still to make the call.
    pub(crate) call: Option<(DriverCall, Instant)>,
    /// The attempt whose failure has put the worker into quarantine.
    pub(crate) failure: Option<Epoch>,
    /// What the instance of this epoch was started for; `None`: as was said before.
    pub(crate) made_for: Option<Properties>,
}

/// An instance that placement has ordered.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    /// The build that the start is called for.
    pub(super) occasion: BuildId,
    pub(super) kind: KindId,
    pub(super) since: Instant,
    /// When its start was called. Before that, the worker ends what it did before.
    pub(super) called: Option<Instant>,
    /// The unused instance that was to make room for it.
    pub(super) replaces: Option<Epoch>,
    /// It took too long, so that another one may be made beside it. It stays so when the call that hung returns.
    pub(super) overdue: bool,
    /// Its instance was seen attached.
    pub(super) has_come: bool,
    /// Nobody needs it any more, and the worker was told; or it came to nothing.
    pub(super) cancelled: bool,
    /// The start has ended; facts of this version or a later one know of it. Until they come, this worker is not where
    /// it seems to be.
    pub(super) ended: Option<u64>,
}

/// An attempt that has attached.
#[derive(Copy, Clone, Debug)]
pub(super) struct BroughtUp {
    pub(super) epoch: Epoch,
    /// Held.
    pub(super) kind: KindId,
    /// The last build that it was given to, at first the one that its start was called for.
    pub(super) build: BuildId,
}

/// A place that was given away.
#[derive(Copy, Clone, Debug)]
struct Leasing {
    build: BuildId,
    /// Facts of this version or a later one know of it.
    version: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) name: Arc<str>,
    /// The number of its driver value.
    pub(super) driver: u32,
    pub(super) space: Space,
    pub(super) max_builds: usize,
    missing_timeout: Duration,
    pub(super) facts: Facts,
    /// The instance of this epoch has attached. What follows is about it.
    pub(super) known: bool,
    /// The kind of the instance, as far as it is known.
    pub(super) kind: Option<KindId>,
    /// Of a driver that is asked: whether the attached instance fits; `None` while the question is out.
    pub(super) answers: BTreeMap<KindId, Option<bool>>,
    /// The driver could not be asked; facts of this version or a later one say why.
    pub(super) unasked: Option<u64>,
    /// The instance has had no build yet.
    pub(super) fresh: bool,
    /// The instance takes no more builds: placement has ordered its end.
    pub(super) draining: bool,
    pub(super) demand: Option<Demand>,
    pub(super) brought_up: Option<BroughtUp>,
    leasing: Vec<Leasing>,
    /// The call that is out takes too long, or its agent has been gone for too long.
    pub(super) overdue: bool,
    /// When it is looked at next for what is overdue.
    pub(super) timer: Option<Instant>,
    /// It is to be filed anew, at the latest when a build waits.
    pub(super) unfiled: bool,
}

impl Worker {
    pub(super) fn new(name: Arc<str>, driver: u32, space: Space, limits: Limits, facts: Facts) -> Self {
        Self {
            name,
            driver,
            space,
            // So that the places of all workers can be counted.
            max_builds: limits.max_builds.get().min(MOST_BUILDS),
            missing_timeout: limits.missing_timeout,
            facts,
            known: false,
            kind: None,
            answers: BTreeMap::new(),
            unasked: None,
            fresh: true,
            draining: false,
            demand: None,
            brought_up: None,
            leasing: Vec::new(),
            overdue: false,
            timer: None,
            unfiled: false,
        }
    }

    /// The start that was ordered and has not ended.
    pub(super) fn starting(&self) -> Option<&Demand> {
        self.demand.as_ref().filter(|demand| demand.ended.is_none())
    }

    /// Whether the instance that was ordered is attached, though the end of its start was not heard yet. Its places count
    /// as those of any other instance.
    pub(super) fn has_come(&self) -> bool {
        self.demand.as_ref().is_some_and(|demand| demand.has_come)
    }

    /// Takes the demand whose end the facts know of.
    pub(super) fn take_ended(&mut self) -> Option<Demand> {
        let version = self.facts.version;
        let demand = self.demand.take_if(|demand| demand.ended.is_some_and(|ended| ended <= version))?;
        if demand.replaces == Some(self.facts.epoch) {
            // It was in use, or the worker had to refuse: the instance stays.
            self.draining = false;
        }
        Some(demand)
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.facts.standing, Standing::Attached { .. })
    }

    /// Whether an instance is up, though its agent may be gone.
    pub(super) fn has_instance(&self) -> bool {
        matches!(self.facts.standing, Standing::Attached { .. } | Standing::Detached { .. })
    }

    /// Whether the instance that had attached is no more. A worker that is closed may still have it.
    pub(super) fn is_gone(&self) -> bool {
        self.known && matches!(self.facts.standing, Standing::Down | Standing::Starting | Standing::Stopping)
    }

    /// Places that are free. What was given away since the worker spoke last is not.
    pub(super) fn free(&self) -> usize {
        match self.facts.standing {
            Standing::Attached { open: true, .. } if !self.draining => self.max_builds.saturating_sub(self.used()),
            _ => 0,
        }
    }

    /// Whether no build uses the instance.
    pub(super) fn is_unused(&self) -> bool {
        self.free() == self.max_builds
    }

    /// Whether an attached instance serves builds of this kind, as far as it is known.
    pub(super) fn serves(&self, kind: KindId) -> bool {
        match self.answers.get(&kind) {
            Some(answer) => *answer == Some(true),
            None => self.kind == Some(kind) && (self.space != Space::Asked || self.fresh),
        }
    }

    /// The kind that the driver is being asked about.
    pub(super) fn question(&self) -> Option<KindId> {
        self.answers.iter().find(|(_, answer)| answer.is_none()).map(|(kind, _)| *kind)
    }

    /// Whether the driver can be asked about another kind.
    pub(super) fn is_curious(&self) -> bool {
        let may_answer = self.unasked.is_none_or(|version| version <= self.facts.version);
        self.space == Space::Asked && self.free() > 0 && self.question().is_none() && may_answer
    }

    /// The kind of its instance, if the worker can contribute to the supply of no other one.
    pub(super) fn only_kind(&self) -> Option<KindId> {
        self.kind.filter(|_| self.demand.is_none() && self.answers.is_empty())
    }

    /// The kinds to whose supply the worker may contribute, some of them twice.
    pub(super) fn kinds(&self) -> impl Iterator<Item = KindId> {
        let ordered = self.demand.as_ref().map(|demand| demand.kind);
        self.kind.into_iter().chain(ordered).chain(self.answers.keys().copied())
    }

    /// What its instance was started for.
    pub(super) fn made_for(&self) -> Properties {
        self.facts.made_for.clone().unwrap_or_default()
    }

    /// What the worker contributes to the supply of a kind.
    pub(super) fn share(&self, kind: KindId) -> Share {
        let mut share = Share::default();
        if self.is_attached() {
            if self.kind == Some(kind) {
                share.busy = self.used().min(self.max_builds);
            }
            if self.serves(kind) {
                share.free = self.free();
            }
        }
        if let Some(demand) = &self.demand
            && demand.kind == kind
            && !demand.cancelled
            && !demand.overdue
            && !self.has_come()
        {
            share.starting = self.max_builds;
        }
        share
    }

    /// Where a start could be made. `labels`: how many it offers.
    pub(super) fn shelf(&self, labels: usize) -> Option<(Shelf, u64)> {
        if self.demand.is_some() {
            return None;
        }
        match self.facts.standing {
            Standing::Down => Some((Shelf::Down, labels as u64)),
            Standing::Stopping if !self.overdue => Some((Shelf::Stopping, labels as u64)),
            // The one that has been unused for the longest time goes first.
            Standing::Attached { open: true, .. } if self.is_unused() && self.question().is_none() => {
                Some((Shelf::Unused, self.facts.version))
            }
            Standing::Detached { .. } if self.overdue => Some((Shelf::Unused, self.facts.version)),
            _ => None,
        }
    }

    /// What could be had of the worker.
    pub(super) fn readiness(&self) -> Readiness {
        match self.facts.standing {
            Standing::Closed(_) => Readiness::OutOfUse,
            _ if self.overdue => Readiness::OutOfUse,
            Standing::Attached { .. } => Readiness::Attached,
            _ => Readiness::Down,
        }
    }

    /// What stands in the way of a build that does not run here.
    pub(super) fn obstacle(&self) -> ObstacleReason {
        match self.facts.standing {
            Standing::Closed(Closure::ShutDown) => ObstacleReason::ShutDown,
            Standing::Closed(Closure::Paused) => ObstacleReason::Paused,
            Standing::Closed(Closure::LeftBehind) => ObstacleReason::LeftBehind,
            Standing::Closed(Closure::Quarantined) => ObstacleReason::Quarantined,
            Standing::Detached { .. } => ObstacleReason::Detached,
            _ if self.overdue => ObstacleReason::Overdue,
            Standing::Down if self.demand.is_none() => ObstacleReason::Down,
            Standing::Down | Standing::Starting => ObstacleReason::Starting,
            Standing::Stopping => ObstacleReason::Stopping,
            Standing::Attached { open, .. } if !open || self.draining => ObstacleReason::Draining,
            Standing::Attached { .. } if self.free() > 0 => ObstacleReason::Unsuitable,
            Standing::Attached { .. } => ObstacleReason::Busy,
        }
    }

    /// When the call that is out becomes overdue, or an agent that is gone.
    pub(super) fn overdue_at(&self, learned: &Learned, config: &PlacementConfig) -> Option<Instant> {
        let Overdue { times, at_least, unknown: of_unknown } = config.overdue;
        if let (Standing::Detached { since }, None) = (self.facts.standing, self.starting()) {
            return since.checked_add(config.reattach_timeout);
        }
        // A start is under way until its agent has attached, whichever call is out meanwhile.
        let ordered = self.starting().map(|demand| (demand.kind, demand.called.unwrap_or(demand.since)));
        let of_start =
            (ordered.and_then(|(kind, _)| learned.starts.expected(kind)), self.missing_timeout / OVERDUE_START);
        let (since, (expected, unknown)) = match (self.facts.call, ordered) {
            (Some((DriverCall::Stop, since)), _) => (since, (learned.calls[2].get(), of_unknown)),
            (Some((DriverCall::Start, since)), _) => (since, of_start),
            (_, Some((_, since))) => (since, of_start),
            (Some((DriverCall::Compatible, since)), _) => (since, (learned.calls[0].get(), of_unknown)),
            (Some((DriverCall::Check, since)), _) => (since, (learned.calls[1].get(), of_unknown)),
            // Of an attempt that is over.
            (Some((DriverCall::Kind | DriverCall::Reclaim, _)) | None, None) => return None,
        };
        let limit = match expected {
            Some(expected) => Duration::try_from_secs_f64(expected * times).unwrap_or(Duration::MAX),
            None => unknown,
        };
        since.checked_add(limit.max(at_least))
    }

    pub(super) fn gives_place(&mut self, build: BuildId) {
        self.leasing.push(Leasing { build, version: None });
        if let Some(up) = &mut self.brought_up {
            up.build = build;
        }
    }

    /// The worker has answered; its facts tell of the answer from `version` on. Returns whether they know of it already.
    pub(super) fn place_answered(&mut self, build: BuildId, version: u64) -> bool {
        let current = self.facts.version;
        for leasing in self.leasing.iter_mut().filter(|leasing| leasing.build == build && leasing.version.is_none()) {
            leasing.version = Some(version);
        }
        let before = self.leasing.len();
        self.leasing.retain(|leasing| leasing.version.is_none_or(|version| version > current));
        self.leasing.len() < before
    }

    /// Whether newer facts tell of nothing but leases that were given or have come back, and nothing else is under way.
    pub(super) fn only_leases_change(&self, facts: &Facts) -> bool {
        let same_standing = match (self.facts.standing, facts.standing) {
            (Standing::Attached { open: before, .. }, Standing::Attached { open, .. }) => before == open,
            _ => false,
        };
        let Facts { epoch, call, failure, .. } = self.facts;
        let is_quiet = self.known && self.demand.is_none() && self.timer.is_none() && !self.overdue;
        is_quiet && same_standing && (facts.epoch, facts.call, facts.failure) == (epoch, call, failure)
    }

    /// Places that are in use or were given away.
    fn used(&self) -> usize {
        match self.facts.standing {
            Standing::Attached { leases, .. } => leases + self.leasing.len(),
            _ => 0,
        }
    }

    /// Takes newer facts of which only leases differ. Returns whether more or fewer places are free than before, or there
    /// is anything else to see to.
    pub(super) fn update_leases(&mut self, facts: Facts) -> bool {
        let before = self.used();
        self.update(facts);
        // Of instances that are unused it matters since when, and a driver that could not be asked may be asked now.
        before == 0 || before != self.used() || self.unasked.is_some()
    }

    /// Takes newer facts. Returns whether they are about another instance than before.
    pub(super) fn update(&mut self, facts: Facts) -> bool {
        let another = facts.epoch != self.facts.epoch;
        let made_for = self.facts.made_for.take();
        self.facts = facts;
        if self.facts.made_for.is_none() {
            self.facts.made_for = made_for;
        }
        let (attached, epoch) = (self.is_attached(), self.facts.epoch);
        if let Some(demand) = &mut self.demand {
            demand.has_come |= attached && demand.replaces != Some(epoch);
        }
        let current = self.facts.version;
        self.leasing.retain(|leasing| leasing.version.is_none_or(|version| version > current));
        another
    }
}

#[cfg(test)]
impl Worker {
    /// What the worker contributes to the supply of its kinds.
    pub(super) fn shares(&self) -> BTreeMap<KindId, Share> {
        let all = self.kinds().map(|kind| (kind, self.share(kind)));
        all.filter(|(_, share)| *share != Share::default()).collect()
    }
}
