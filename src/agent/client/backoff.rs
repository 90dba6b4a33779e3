//! How long to wait before the next try to connect: longer each time, up to a limit, and never the same for all who wait.

use std::time::Duration;

/// Longer than anybody waits.
const LONGEST: Duration = Duration::from_secs(1 << 30);

#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        let most = most.min(LONGEST);
        Self { first, most, next: first.min(most) }
    }

    /// From half of the time that it is the turn of to all of it; `random` decides.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.most);
        let share = (random >> 32) as f64 / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0).min(whole)
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        self.next = self.first.min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_is_spread() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(6));
        let longest: Vec<_> = (0..5).map(|_| backoff.next(u64::MAX)).collect();
        assert_eq!(longest, [1, 2, 4, 6, 6].map(seconds));
        backoff.reset();
        let shortest: Vec<_> = (0..5).map(|_| backoff.next(0)).collect();
        assert_eq!(shortest, [1, 2, 4, 6, 6].map(|whole| seconds(whole) / 2));
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).next(u64::MAX), LONGEST);
    }
}
