//! For how long a worker is left alone after a failure.

use std::time::Duration;

use crate::build::Epoch;
use crate::worker::QuarantineLengths;

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

/// What the quarantines of one worker follow from. When one ends is a deadline of the lifecycle.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Quarantine {
    /// What the jitter follows from; without it there is none.
    seed: Option<u64>,
    lengths: QuarantineLengths,
    /// What the present one was begun for.
    cause: Option<Failure>,
    /// The failures since the last build that finished. Each doubles the length of the next quarantine.
    counted: Vec<Failure>,
}

impl Quarantine {
    pub(super) fn none(seed: Option<u64>, lengths: QuarantineLengths) -> Self {
        Self { seed, lengths, cause: None, counted: Vec::new() }
    }

    /// A quarantine begins in the attempt of this epoch: returns its length. Workers that fail together do not come back
    /// together: the length is between three quarters and all of what it says, or up to a quarter more than `at_least`.
    pub(super) fn begin(&mut self, epoch: Epoch, failure: Failure, at_least: Duration) -> Duration {
        self.cause = Some(failure);
        let doublings = if failure == Failure::Master { 0 } else { self.counted.len() };
        if failure != Failure::Master {
            if self.counted.len() == MOST_COUNTED {
                self.counted.remove(0);
            }
            self.counted.push(failure);
        }
        let QuarantineLengths { first, longest } = self.lengths;
        let full = first.saturating_mul(1 << doublings).min(longest).min(FARTHEST);
        let at_least = at_least.min(FARTHEST);
        match self.seed {
            Some(seed) => {
                let quarter = fraction(seed, epoch) / 4.0;
                full.mul_f64(0.75 + quarter).max(at_least.mul_f64(1.0 + quarter))
            }
            None => full.max(at_least),
        }
    }

    /// The worker is not to blame for the failure of this attempt: the length of the next quarantine is what it would
    /// be without it. Returns whether the present one was begun for it.
    pub(super) fn forgive(&mut self, epoch: Epoch) -> bool {
        let forgiven = Failure::Attempt(epoch);
        self.counted.retain(|failure| *failure != forgiven);
        self.cause == Some(forgiven)
    }

    /// A build has finished: the next quarantine is a short one again.
    pub(super) fn reset_length(&mut self) {
        self.counted.clear();
    }

    pub(super) fn end(&mut self) {
        self.cause = None;
    }

    /// What the present quarantine was begun for.
    pub(super) fn cause(&self) -> Option<Failure> {
        self.cause
    }
}

/// A number from 0 up to 1 that looks random (SplitMix64).
fn fraction(seed: u64, epoch: Epoch) -> f64 {
    let mut bits = seed.wrapping_add(epoch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    f64::from(((bits ^ (bits >> 31)) >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
impl Quarantine {
    /// Forgets which failures are counted: it makes no difference where nothing is forgiven.
    pub(super) fn forget_causes(&mut self) {
        self.counted.fill(Failure::Master);
        self.cause = self.cause.map(|cause| if let Failure::Stop(_) = cause { cause } else { Failure::Master });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(seed: Option<u64>) -> Quarantine {
        Quarantine::none(seed, QuarantineLengths::default())
    }

    const NO_HINT: Duration = Duration::ZERO;

    fn attempt(epoch: u64) -> Failure {
        Failure::Attempt(Epoch(epoch))
    }

    fn lengths(quarantine: &mut Quarantine, failures: impl IntoIterator<Item = Failure>) -> Vec<u64> {
        failures.into_iter().map(|failure| quarantine.begin(Epoch(1), failure, NO_HINT).as_secs()).collect()
    }

    #[test]
    fn w12_a_quarantine_of_any_length_can_be_added_to_the_present() {
        let lengths = QuarantineLengths { first: Duration::MAX, longest: Duration::MAX };
        for seed in [None, Some(7)] {
            let length = Quarantine::none(seed, lengths).begin(Epoch(1), Failure::Attempt(Epoch(1)), Duration::MAX);
            assert!(length <= FARTHEST * 2);
        }
    }

    #[test]
    fn w12_quarantine_doubles_from_10_s_to_3600_s_and_a_finished_build_resets_it() {
        let mut quarantine = none(None);
        let expected = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600];
        assert_eq!(lengths(&mut quarantine, (1..=12).map(attempt)), expected);
        quarantine.reset_length();
        assert_eq!(lengths(&mut quarantine, [attempt(20)]), [10]);
    }

    #[test]
    fn w12_what_is_not_the_workers_own_failure_does_not_double_its_quarantine() {
        let mut quarantine = none(None);
        let failures = [Failure::Master, Failure::Master, attempt(1), Failure::Master, attempt(2)];
        assert_eq!(lengths(&mut quarantine, failures), [10, 10, 10, 10, 20]);
    }

    #[test]
    fn w12_a_providers_hint_lengthens_the_quarantine() {
        let hint = Duration::from_secs(77);
        assert_eq!(none(None).begin(Epoch(1), attempt(1), hint), hint);
        assert_eq!(none(None).begin(Epoch(1), attempt(1), Duration::MAX), FARTHEST);
    }

    #[test]
    fn w12_workers_that_fail_together_do_not_come_back_together() {
        let hint = Duration::from_secs(100);
        for at_least in [NO_HINT, hint] {
            let (shortest, longest) = if at_least == hint { (100.0, 125.0) } else { (7.5, 10.0) };
            let begin = |seed, epoch| none(Some(seed)).begin(Epoch(epoch), attempt(epoch), at_least).as_secs_f64();
            let lengths: Vec<f64> = (0..1000).map(|seed| begin(seed, 1)).collect();
            assert!(lengths.iter().all(|length| (shortest..=longest).contains(length)));
            let quarter = (longest - shortest) / 4.0;
            for part in 0..4 {
                let from = shortest + quarter * f64::from(part);
                let number = lengths.iter().filter(|length| (from..from + quarter).contains(length)).count();
                assert!((200..300).contains(&number), "{number} of 1000 from {from} s on");
            }
            assert_ne!(begin(1, 1), begin(1, 2), "nor does one worker twice at the same distance");
            assert_eq!(begin(1, 1), begin(1, 1), "it follows from the seed and the attempt");
        }
    }

    #[test]
    fn b9_a_failure_that_is_forgiven_leaves_no_trace() {
        let mut quarantine = none(None);
        quarantine.begin(Epoch(1), attempt(1), NO_HINT);
        assert!(!quarantine.forgive(Epoch(2)), "another attempt");
        assert!(quarantine.forgive(Epoch(1)));
        quarantine.end();
        assert_eq!(quarantine, none(None));
    }

    #[test]
    fn b9_a_failure_can_be_forgiven_when_its_quarantine_is_over() {
        let mut quarantine = none(None);
        assert_eq!(lengths(&mut quarantine, (1..=4).map(attempt)), [10, 20, 40, 80]);
        assert!(!quarantine.forgive(Epoch(2)));
        assert_eq!(quarantine.cause(), Some(attempt(4)), "the present one stays");
        assert_eq!(lengths(&mut quarantine, [attempt(5)]), [80], "three are left");
    }

    #[test]
    fn b9_the_failure_of_a_stop_is_not_forgiven_with_its_attempt() {
        let mut quarantine = none(None);
        quarantine.begin(Epoch(1), Failure::Stop(Epoch(1)), NO_HINT);
        assert!(!quarantine.forgive(Epoch(1)));
        assert_eq!(lengths(&mut quarantine, [attempt(2)]), [20]);
    }
}
