//! How long starts and builds take: decayed means of what was seen. Part of the state, so that a simulation can set it.

use std::collections::VecDeque;
use std::time::Duration;

use super::ids::{IdMap, IdSet};
use super::kinds::KindId;

/// How much an observation weighs less with each one that follows.
const DECAY: f64 = 0.95;
/// The durations of this many kinds are remembered.
const REMEMBERED: usize = 1024;

/// A mean in which late observations weigh more than early ones.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Mean {
    /// In seconds.
    sum: f64,
    weight: f64,
}

impl Mean {
    pub(super) fn learn(&mut self, duration: Duration) {
        self.sum = self.sum * DECAY + duration.as_secs_f64();
        self.weight = self.weight * DECAY + 1.0;
    }

    /// In seconds; `None` before the first observation.
    pub(super) fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// A duration for each kind, and for those of which nothing is known, that of all.
#[derive(Clone, Debug, Default)]
pub(super) struct Durations {
    of_kind: IdMap<KindId, Mean>,
    of_all: Mean,
}

impl Durations {
    pub(super) fn learn(&mut self, kind: KindId, duration: Duration) {
        self.of_kind.entry(kind).or_default().learn(duration);
        self.of_all.learn(duration);
    }

    /// The expected duration in seconds; `None` when nothing like it was seen.
    pub(super) fn expected(&self, kind: KindId) -> Option<f64> {
        self.of_kind.get(&kind).and_then(Mean::get).or_else(|| self.of_all.get())
    }
}

/// What has been learned.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    /// From the call to the attached agent.
    pub(super) starts: Durations,
    /// From the lease to its end.
    pub(super) builds: Durations,
    /// Questions, checks and stops, whose kinds do not matter.
    pub(super) calls: [Mean; 3],
    known: IdSet<KindId>,
    oldest: VecDeque<KindId>,
}

impl Learned {
    /// Whether nothing was known of this kind; from now on it is.
    pub(super) fn is_new(&mut self, kind: KindId) -> bool {
        let new = self.known.insert(kind);
        if new {
            self.oldest.push_back(kind);
        }
        new
    }

    /// Forgets the kind that has been known for the longest time, if there are too many.
    pub(super) fn forget_one_too_many(&mut self) -> Option<KindId> {
        if self.known.len() <= REMEMBERED {
            return None;
        }
        let kind = self.oldest.pop_front()?;
        self.known.remove(&kind);
        self.starts.of_kind.remove(&kind);
        self.builds.of_kind.remove(&kind);
        Some(kind)
    }
}

#[cfg(test)]
impl Learned {
    /// Forgets all durations, and expects these of starts and builds of every kind.
    pub(super) fn expect(&mut self, start: Option<Duration>, build: Option<Duration>) {
        for (durations, of_all) in [(&mut self.starts, start), (&mut self.builds, build)] {
            *durations = Durations::default();
            of_all.into_iter().for_each(|duration| durations.of_all.learn(duration));
        }
        self.calls = Default::default();
    }

    /// The kinds that are held for what is known of them.
    pub(super) fn known(&self) -> impl Iterator<Item = KindId> {
        self.known.iter().copied()
    }
}
