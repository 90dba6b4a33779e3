//! How long a worker is left alone after a failure. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

use crate::build::Epoch;

/// The length of the first quarantine, as in Buildbot.
const SHORTEST: Duration = Duration::from_secs(10);
/// The length beyond which it does not double any more, as in Buildbot.
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest time that a provider's hint is followed for: a year, which every clock can add.
const FARTHEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// After so many failures the length does not double any more.
const MOST_COUNTED: usize = 9;

/// What a quarantine was begun for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Failure {
    /// The attempt of this epoch has failed.
    Attempt(Epoch),
    /// The instance of this epoch could not be stopped. The quarantine ends early when what is left of it is gone.
    Stop(Epoch),
    /// The master could not begin an attempt. The worker is not to blame, so that nothing doubles.
    Master,
}

/// The quarantine of one worker: whether it is in one, and how long the next one will be.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Quarantine {
    until: Option<Instant>,
    cause: Option<Failure>,
    /// The failures since the last build that finished. Each doubles the length of the next quarantine.
    counted: Vec<Failure>,
}

impl Quarantine {
    pub(super) fn none() -> Self {
        Self { until: None, cause: None, counted: Vec::new() }
    }

    /// A failure: begins a quarantine and returns its length; within one nothing changes.
    pub(super) fn begin(&mut self, now: Instant, failure: Failure, at_least: Duration) -> Option<Duration> {
        if self.remaining(now).is_some() {
            return None;
        }
        let doublings = if failure == Failure::Master { 0 } else { self.counted.len() };
        let length = (SHORTEST * (1 << doublings)).min(LONGEST).max(at_least.min(FARTHEST));
        self.until = now.checked_add(length);
        self.cause = Some(failure);
        if failure != Failure::Master {
            if self.counted.len() == MOST_COUNTED {
                self.counted.remove(0);
            }
            self.counted.push(failure);
        }
        Some(length)
    }

    /// The worker is not to blame for the failure of this attempt: the length of the next quarantine is what it would
    /// be without it. Returns whether this has ended a quarantine.
    pub(super) fn forgive(&mut self, now: Instant, epoch: Epoch) -> bool {
        self.counted.retain(|failure| *failure != Failure::Attempt(epoch));
        let ends = self.remaining(now).is_some() && self.cause == Some(Failure::Attempt(epoch));
        if ends {
            self.end();
        }
        ends
    }

    /// What the failed stops have left behind is gone. Returns whether this has ended a quarantine.
    pub(super) fn reclaimed(&mut self, now: Instant) -> bool {
        let ends = self.remaining(now).is_some() && matches!(self.cause, Some(Failure::Stop(_)));
        if ends {
            self.end();
        }
        ends
    }

    /// A build has finished: the next quarantine is a short one again.
    pub(super) fn reset_length(&mut self) {
        self.counted.clear();
    }

    pub(super) fn end(&mut self) {
        self.until = None;
        self.cause = None;
    }

    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What the present quarantine was begun for.
    pub(super) fn cause(&self) -> Option<Failure> {
        self.cause
    }
}

#[cfg(test)]
impl Quarantine {
    /// Moves the end so that `now` becomes `origin`.
    pub(crate) fn rebase(&mut self, now: Instant, origin: Instant) {
        self.until = self.until.map(|until| origin + until.saturating_duration_since(now));
    }

    /// Forgets which failures are counted: it makes no difference where nothing is forgiven.
    pub(crate) fn forget_causes(&mut self) {
        self.counted.fill(Failure::Master);
        self.cause = self.cause.map(|cause| if let Failure::Stop(_) = cause { cause } else { Failure::Master });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_HINT: Duration = Duration::ZERO;

    fn attempt(epoch: u64) -> Failure {
        Failure::Attempt(Epoch(epoch))
    }

    #[test]
    fn w12_quarantine_doubles_from_10_s_to_3600_s_and_a_finished_build_resets_it() {
        let mut now = Instant::now();
        let mut quarantine = Quarantine::none();
        for (epoch, expected) in (1..).zip([10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]) {
            let length = quarantine.begin(now, attempt(epoch), NO_HINT).expect("not in quarantine");
            assert_eq!(length, Duration::from_secs(expected));
            let inside = now + length / 2;
            assert_eq!(quarantine.begin(inside, attempt(0), NO_HINT), None, "a second failure changes nothing");
            assert_eq!((quarantine.remaining(inside), quarantine.cause()), (Some(length / 2), Some(attempt(epoch))));
            now += length;
            assert_eq!(quarantine.remaining(now), None);
        }
        quarantine.reset_length();
        assert_eq!(quarantine.begin(now, attempt(20), NO_HINT), Some(Duration::from_secs(10)));
    }

    #[test]
    fn w12_what_is_not_the_workers_own_failure_does_not_double_its_quarantine() {
        let mut now = Instant::now();
        let mut quarantine = Quarantine::none();
        for _ in 0..10 {
            assert_eq!(quarantine.begin(now, Failure::Master, NO_HINT), Some(SHORTEST));
            assert_eq!(quarantine.begin(now, Failure::Master, NO_HINT), None);
            now += SHORTEST;
        }
        assert_eq!(quarantine.begin(now, attempt(1), NO_HINT), Some(SHORTEST));
        now += SHORTEST;
        assert_eq!(quarantine.begin(now, Failure::Master, NO_HINT), Some(SHORTEST), "whatever the worker has done");
    }

    #[test]
    fn w12_a_providers_hint_lengthens_the_quarantine() {
        let mut quarantine = Quarantine::none();
        let hint = Duration::from_secs(77);
        assert_eq!(quarantine.begin(Instant::now(), attempt(1), hint), Some(hint));
    }

    #[test]
    fn b9_a_failure_that_is_forgiven_ends_its_quarantine_and_leaves_no_trace() {
        let now = Instant::now();
        let mut quarantine = Quarantine::none();
        quarantine.begin(now, attempt(1), NO_HINT);
        assert!(!quarantine.forgive(now, Epoch(2)), "another attempt");
        assert!(quarantine.forgive(now, Epoch(1)));
        assert_eq!(quarantine, Quarantine::none());
    }

    #[test]
    fn b9_a_failure_can_be_forgiven_when_its_quarantine_is_over() {
        let mut now = Instant::now();
        let mut quarantine = Quarantine::none();
        for epoch in 1..=3 {
            now += quarantine.begin(now, attempt(epoch), NO_HINT).expect("the last one has ended");
        }
        quarantine.begin(now, attempt(4), NO_HINT);
        assert!(!quarantine.forgive(now, Epoch(2)));
        assert_eq!(quarantine.cause(), Some(attempt(4)), "the present one stays");
        now += Duration::from_secs(80);
        let three_are_left = Duration::from_secs(80);
        assert_eq!(quarantine.begin(now, attempt(5), NO_HINT), Some(three_are_left));
    }

    #[test]
    fn b9_the_quarantine_of_a_failed_stop_is_not_forgiven_but_reclaimed() {
        let now = Instant::now();
        let mut quarantine = Quarantine::none();
        quarantine.begin(now, Failure::Stop(Epoch(1)), NO_HINT);
        assert!(!quarantine.forgive(now, Epoch(1)));
        assert!(quarantine.reclaimed(now));
        quarantine.begin(now, attempt(2), NO_HINT);
        assert!(!quarantine.reclaimed(now));
    }
}
