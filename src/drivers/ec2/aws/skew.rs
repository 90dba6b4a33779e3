//! How far the clock of this machine is off the provider's, as its answers tell.

use std::sync::atomic::{AtomicI64, Ordering};

use super::time::Timestamp;

/// What differs by more than this many seconds is corrected: signatures are good for five minutes (EC2) or fifteen.
const TOLERATED: i64 = 120;

/// How many seconds the provider's clock is ahead of the one on the wall.
#[derive(Debug, Default)]
pub(super) struct Skew(AtomicI64);

impl Skew {
    /// The provider's time when it is `wall` here.
    pub(super) fn corrected(&self, wall: Timestamp) -> Timestamp {
        Timestamp(wall.0.saturating_add(self.0.load(Ordering::Relaxed)))
    }

    /// A request that was signed for `signed` was not believed, and `answered` is the date of the answer. Whether that may be
    /// why: it is allowed for from now on.
    pub(super) fn learn(&self, signed: Timestamp, answered: Timestamp, wall: Timestamp) -> bool {
        let is_off = answered.0.abs_diff(signed.0) > TOLERATED.unsigned_abs();
        if is_off {
            let skew = answered.0.saturating_sub(wall.0);
            if self.0.swap(skew, Ordering::Relaxed) != skew {
                log::warn!(
                    "the clock of this machine is {skew} s off that of the provider, which is allowed for; set it"
                );
            }
        }
        is_off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_minutes_or_it_is_right() {
        let skew = Skew::default();
        assert!(!skew.learn(Timestamp(1_000), Timestamp(1_120), Timestamp(1_000)));
        assert_eq!(skew.corrected(Timestamp(1_000)), Timestamp(1_000));
        assert!(skew.learn(Timestamp(1_000), Timestamp(400), Timestamp(1_000)));
        assert_eq!(skew.corrected(Timestamp(1_010)), Timestamp(410));
        // Somebody else's request, signed before that was known: the same again, and no more than that.
        assert!(skew.learn(Timestamp(1_000), Timestamp(400), Timestamp(1_000)));
        assert_eq!(skew.corrected(Timestamp(1_010)), Timestamp(410));
        // Then somebody sets the clock.
        assert!(skew.learn(Timestamp(-200), Timestamp(400), Timestamp(400)));
        assert_eq!(skew.corrected(Timestamp(410)), Timestamp(410));
    }
}
