//! How long a worker is left alone after a failure. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

/// The length of the first quarantine, as in Buildbot.
const SHORTEST: Duration = Duration::from_secs(10);
/// The length beyond which it does not double any more, as in Buildbot.
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest time that a provider's hint is followed for: a year, which every clock can add.
const FARTHEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The quarantine of one worker: whether it is in one, and how long the next one will be.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Quarantine {
    until: Option<Instant>,
    next_length: Duration,
}

impl Quarantine {
    pub(crate) fn none() -> Self {
        Self { until: None, next_length: SHORTEST }
    }

    /// A failure: begins a quarantine and returns its length; within one nothing changes.
    pub(crate) fn begin(&mut self, now: Instant, at_least: Duration) -> Option<Duration> {
        if self.remaining(now).is_some() {
            return None;
        }
        let length = self.next_length.max(at_least.min(FARTHEST));
        self.until = now.checked_add(length);
        self.next_length = (self.next_length * 2).min(LONGEST);
        Some(length)
    }

    /// Begins a short quarantine after a failure that is not the worker's own. It does not make the next quarantine
    /// longer.
    pub(crate) fn begin_short(&mut self, now: Instant) -> Option<Duration> {
        if self.remaining(now).is_some() {
            return None;
        }
        self.until = now.checked_add(SHORTEST);
        Some(SHORTEST)
    }

    /// A build has finished: the next quarantine is a short one again.
    pub(crate) fn reset_length(&mut self) {
        self.next_length = SHORTEST;
    }

    pub(crate) fn end(&mut self) {
        self.until = None;
    }

    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
impl Quarantine {
    /// Moves the end so that `now` becomes `origin`.
    pub(crate) fn rebase(&mut self, now: Instant, origin: Instant) {
        self.until = self.until.map(|until| origin + until.saturating_duration_since(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w12_quarantine_doubles_from_10_s_to_3600_s_and_a_finished_build_resets_it() {
        let mut now = Instant::now();
        let mut quarantine = Quarantine::none();
        for expected in [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600] {
            let length = quarantine.begin(now, Duration::ZERO).expect("not in quarantine");
            assert_eq!(length, Duration::from_secs(expected));
            assert_eq!(quarantine.begin(now + length / 2, Duration::ZERO), None, "a second failure changes nothing");
            assert_eq!(quarantine.remaining(now + length / 2), Some(length / 2));
            now += length;
            assert_eq!(quarantine.remaining(now), None);
        }
        quarantine.reset_length();
        assert_eq!(quarantine.begin(now, Duration::ZERO), Some(Duration::from_secs(10)));
    }

    #[test]
    fn w12_what_is_not_the_workers_own_failure_does_not_double_its_quarantine() {
        let mut now = Instant::now();
        let mut quarantine = Quarantine::none();
        for _ in 0..10 {
            assert_eq!(quarantine.begin_short(now), Some(SHORTEST));
            assert_eq!(quarantine.begin_short(now), None);
            now += SHORTEST;
        }
        assert_eq!(quarantine.begin(now, Duration::ZERO), Some(SHORTEST));
    }

    #[test]
    fn w12_a_providers_hint_lengthens_the_quarantine() {
        let mut quarantine = Quarantine::none();
        let hint = Duration::from_secs(77);
        assert_eq!(quarantine.begin(Instant::now(), hint), Some(hint));
    }
}
