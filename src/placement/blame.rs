//! Who is to blame for a failure: the worker, the kind, one build, or all workers of one driver.
//!
//! A first failure is the worker's, which leaves itself alone for a while. A build that fails on two workers whose driver
//! has brought up instances for others is guilty itself, and so is a kind of which two builds fail. The quarantines
//! that the guilty one has caused are lifted, and it causes no more of them. A guilty kind pauses, and is then tried with
//! one instance at a time; a build pauses after each failed attempt anyway. When the starts of a driver fail on two
//! workers and nothing attaches, no more is started there but one instance at a time, with pauses that grow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::WorkerIndex;
use super::config::{PlacementConfig, doubled, spread};
use super::ids::IdMap;
use super::kinds::{KindId, Kinds};
use crate::build::{BuildId, Epoch};

/// As many failures of one suspect are remembered.
const REMEMBERED: usize = 32;
/// As many suspects are remembered.
const SUSPECTS: usize = 1024;

/// What has failed.
#[derive(Copy, Clone, Debug)]
pub(super) struct Failure {
    pub(super) worker: WorkerIndex,
    pub(super) epoch: Epoch,
    pub(super) driver: u32,
    pub(super) kind: KindId,
    pub(super) build: BuildId,
    /// The build has not ended.
    pub(super) waits: bool,
    /// Its agent had attached.
    pub(super) attached: bool,
}

/// An attempt whose failure is not its worker's fault.
pub(super) type Forgiven = (WorkerIndex, Epoch);

/// Attempts that have failed, the latest last.
#[derive(Clone, Debug, Default)]
struct Failures(VecDeque<Forgiven>);

impl Failures {
    fn push(&mut self, failure: &Failure) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((failure.worker, failure.epoch));
    }

    /// On how many workers.
    fn workers(&self) -> usize {
        self.0.iter().map(|(worker, _)| *worker).collect::<BTreeSet<_>>().len()
    }
}

#[derive(Clone, Debug, Default)]
struct Suspect {
    failures: Failures,
    /// Of a kind: builds that it has failed for, no more than have to fail.
    builds: Vec<BuildId>,
    /// Pauses since it is guilty.
    pauses: u32,
    guilty: bool,
    /// An instance of it was lost soon after its agent had attached.
    lost: bool,
}

#[derive(Clone, Debug, Default)]
struct Driver {
    /// The kinds and the occasions of the last starts that have attached: two different ones at most.
    kinds: Latest<KindId>,
    builds: Latest<BuildId>,
    /// Starts that have failed since an agent has attached.
    failures: Failures,
    /// Pauses since then.
    pauses: u32,
}

/// The last two different values.
#[derive(Clone, Debug)]
struct Latest<T>([Option<T>; 2]);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self([None, None])
    }
}

impl<T: Copy + Eq> Latest<T> {
    fn push(&mut self, value: T) {
        if self.0[0] != Some(value) {
            self.0 = [Some(value), self.0[0]];
        }
    }

    fn has_another(&self, value: T) -> bool {
        self.0.iter().flatten().any(|latest| *latest != value)
    }
}

/// What pauses.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) enum Paused {
    Kind(KindId),
    Driver(u32),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Blame {
    kinds: IdMap<KindId, Suspect>,
    /// The kinds in `kinds`, the oldest first. Each is held.
    oldest: VecDeque<KindId>,
    builds: IdMap<BuildId, Suspect>,
    drivers: IdMap<u32, Driver>,
    pauses: BTreeSet<(Instant, Paused)>,
    until: BTreeMap<Paused, Instant>,
    /// Kinds that are acquitted at these times unless they fail before.
    trials: BTreeSet<(Instant, KindId)>,
    /// Attempts that have attached, and from when on that shows that their driver can bring up instances.
    unproven: Vec<(Instant, u32, KindId, BuildId)>,
}

impl Blame {
    /// An attempt has failed. Returns the attempts whose quarantines are lifted.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        failure: Failure,
        config: &PlacementConfig,
        kinds: &mut Kinds,
    ) -> Vec<Forgiven> {
        let Failure { driver, kind, build, .. } = failure;
        let enough = config.suspicion.failures;
        self.prove(now);
        if failure.attached {
            self.unproven.retain(|(_, of, attached, _)| (*of, *attached) != (driver, kind));
        }
        self.suspect_kind(&failure, enough, kinds);
        let record = self.drivers.entry(driver).or_default();
        let (others, other_kinds) = (record.builds.has_another(build), record.kinds.has_another(kind));

        let suspect = self.kinds.get_mut(&kind).expect("it is a suspect now");
        suspect.guilty |= other_kinds && suspect.builds.len() >= enough && suspect.failures.workers() >= enough;
        let mut forgiven = Vec::new();
        if suspect.guilty {
            forgiven.extend(suspect.failures.0.drain(..));
            suspect.pauses += 1;
            let pause = config.pause(suspect.pauses, chance(failure.epoch));
            self.pause(Paused::Kind(kind), now, pause);
        }
        if failure.waits {
            let suspect = self.builds.entry(build).or_default();
            suspect.failures.push(&failure);
            suspect.guilty |= others && suspect.failures.workers() >= enough;
            if suspect.guilty {
                forgiven.extend(suspect.failures.0.drain(..));
            }
        }
        if forgiven.is_empty() && !failure.attached {
            let record = self.drivers.get_mut(&driver).expect("it was just recorded");
            record.failures.push(&failure);
            if record.pauses > 0 || record.failures.workers() >= enough {
                record.pauses += 1;
                let (first, longest) = config.driver_pause;
                let pause = spread(doubled(first, longest, record.pauses), chance(failure.epoch));
                self.pause(Paused::Driver(driver), now, pause);
            }
        }
        forgiven.sort_unstable_by_key(|(worker, epoch)| (*worker, epoch.0));
        forgiven.dedup();
        forgiven
    }

    /// Believes the instances that have stayed attached for a moment.
    fn prove(&mut self, now: Instant) {
        for (_, driver, kind, build) in self.unproven.extract_if(.., |(from, ..)| *from <= now) {
            let record = self.drivers.entry(driver).or_default();
            record.kinds.push(kind);
            record.builds.push(build);
        }
    }

    fn suspect_kind(&mut self, failure: &Failure, enough: usize, kinds: &mut Kinds) {
        let kind = failure.kind;
        self.trials.retain(|(_, on_trial)| *on_trial != kind);
        if !self.kinds.contains_key(&kind) {
            kinds.hold(kind);
            self.oldest.push_back(kind);
            if self.oldest.len() > SUSPECTS
                && let Some(oldest) = self.oldest.front().copied()
            {
                self.acquit(oldest, kinds);
            }
        }
        let suspect = self.kinds.entry(kind).or_default();
        suspect.failures.push(failure);
        suspect.lost |= failure.attached;
        if suspect.builds.len() < enough && !suspect.builds.contains(&failure.build) {
            suspect.builds.push(failure.build);
        }
    }

    fn acquit(&mut self, kind: KindId, kinds: &mut Kinds) {
        if self.kinds.remove(&kind).is_some() {
            self.oldest.retain(|suspect| *suspect != kind);
            self.trials.retain(|(_, on_trial)| *on_trial != kind);
            self.resume(Paused::Kind(kind));
            kinds.release(kind);
        }
    }

    /// An agent has attached. Returns the attempts whose quarantines are lifted: it was the driver that failed.
    pub(super) fn attached(
        &mut self,
        now: Instant,
        driver: u32,
        kind: KindId,
        build: BuildId,
        proof: Duration,
        kinds: &mut Kinds,
    ) -> Vec<Forgiven> {
        match self.kinds.get(&kind) {
            // That an agent attaches proves nothing where they attach and are lost.
            Some(suspect) if suspect.lost => self.trials.extend(now.checked_add(proof).map(|at| (at, kind))),
            Some(_) => self.acquit(kind, kinds),
            None => {}
        }
        self.prove(now);
        if let Some(from) = now.checked_add(proof) {
            self.unproven.push((from, driver, kind, build));
        }
        let record = self.drivers.entry(driver).or_default();
        let failures = std::mem::take(&mut record.failures);
        let had_paused = std::mem::take(&mut record.pauses) > 0;
        self.resume(Paused::Driver(driver));
        if had_paused { failures.0.into() } else { Vec::new() }
    }

    /// The build has ended.
    pub(super) fn build_ended(&mut self, build: BuildId) {
        self.builds.remove(&build);
    }

    /// Whether the failure of a start for this build says nothing about the worker.
    pub(super) fn is_guilty(&self, kind: KindId, build: BuildId) -> bool {
        let guilty = |suspect: Option<&Suspect>| suspect.is_some_and(|suspect| suspect.guilty);
        guilty(self.kinds.get(&kind)) || guilty(self.builds.get(&build))
    }

    /// Whether a start of this kind has failed, and none has succeeded since.
    pub(super) fn is_suspect(&self, kind: KindId) -> bool {
        self.kinds.contains_key(&kind)
    }

    /// Whether one instance of this kind is tried at a time.
    pub(super) fn tries_kind(&self, kind: KindId) -> bool {
        self.kinds.get(&kind).is_some_and(|suspect| suspect.guilty)
    }

    /// Whether an instance of this kind has just attached.
    pub(super) fn is_on_trial(&self, kind: KindId) -> bool {
        self.trials.iter().any(|(_, on_trial)| *on_trial == kind)
    }

    /// Whether one instance of this driver is tried at a time.
    pub(super) fn tries_driver(&self, driver: u32) -> bool {
        self.drivers.get(&driver).is_some_and(|record| record.pauses > 0)
    }

    /// Until when nothing is started.
    pub(super) fn paused_until(&self, paused: Paused) -> Option<Instant> {
        self.until.get(&paused).copied()
    }

    /// Whether anything pauses.
    pub(super) fn is_pausing(&self) -> bool {
        !self.until.is_empty()
    }

    fn pause(&mut self, paused: Paused, now: Instant, length: Duration) {
        self.resume(paused);
        if let Some(until) = now.checked_add(length) {
            self.until.insert(paused, until);
            self.pauses.insert((until, paused));
        }
    }

    fn resume(&mut self, paused: Paused) {
        if let Some(until) = self.until.remove(&paused) {
            self.pauses.remove(&(until, paused));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let pause = self.pauses.first().map(|(until, _)| *until);
        let trial = self.trials.first().map(|(at, _)| *at);
        pause.into_iter().chain(trial).min()
    }

    /// Ends what has lasted long enough. Returns the kinds that this makes a difference for.
    pub(super) fn time(&mut self, now: Instant, kinds: &mut Kinds) -> Vec<KindId> {
        let mut changed = Vec::new();
        while let Some(&(_, paused)) = self.pauses.first().filter(|(until, _)| *until <= now) {
            self.resume(paused);
            if let Paused::Kind(kind) = paused {
                changed.push(kind);
            }
        }
        while let Some(&(_, kind)) = self.trials.first().filter(|(at, _)| *at <= now) {
            self.acquit(kind, kinds);
            changed.push(kind);
        }
        changed
    }
}

#[cfg(test)]
impl Blame {
    /// The kinds that are held.
    pub(super) fn holders(&self) -> impl Iterator<Item = KindId> {
        self.oldest.iter().copied()
    }
}

/// A number between 0 and 1 that differs from attempt to attempt: the pure parts draw no random numbers.
fn chance(epoch: Epoch) -> f64 {
    // The finaliser of splitmix64.
    let mut bits = epoch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}
