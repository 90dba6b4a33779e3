//! How fast an account may be asked in a region: a bucket of tokens for each kind of action, shared by all workers.
//!
//! Pure: `now` comes in, and how long to wait goes out. Who waits does so elsewhere.

use std::time::{Duration, Instant};

/// Actions that the provider counts together, as far as they are used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `Describe...`.
    Look,
    /// What makes or changes something.
    Change,
    /// `RunInstances`, `StartInstances`.
    Launch,
}

impl Kind {
    pub(super) fn of(action: &str) -> Self {
        match action {
            "RunInstances" | "StartInstances" => Self::Launch,
            _ if action.starts_with("Describe") || action.starts_with("Get") => Self::Look,
            _ => Self::Change,
        }
    }

    /// How many tokens there are at most, and how many come back in a second: the lowest that the provider documents for
    /// actions of the kind ("Request throttling for the Amazon EC2 API", token buckets for unfiltered non-mutating, mutating,
    /// and launching actions). Nobody here is alone in the account: what comes to more is throttled by the provider anyway.
    fn limits(self) -> (f64, f64) {
        match self {
            Self::Look => (50.0, 10.0),
            Self::Change => (50.0, 5.0),
            Self::Launch => (5.0, 2.0),
        }
    }
}

/// The tokens of one kind.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Below zero when some are promised already.
    tokens: f64,
    at: Instant,
}

/// The buckets of an account in a region.
#[derive(Debug)]
pub(super) struct Pace {
    buckets: [Bucket; 3],
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        let full = |kind: Kind| Bucket { tokens: kind.limits().0, at: now };
        Self { buckets: [Kind::Look, Kind::Change, Kind::Launch].map(full) }
    }

    /// Takes a token, and says how long to wait before it may be used. Those who wait are served in the order in which they
    /// came, at the rate at which tokens come back.
    pub(super) fn take(&mut self, kind: Kind, now: Instant) -> Duration {
        let (_, rate) = kind.limits();
        let bucket = self.refilled(kind, now);
        bucket.tokens -= 1.0;
        Duration::from_secs_f64((-bucket.tokens / rate).max(0.0))
    }

    /// The token of somebody who has given up is for the next.
    pub(super) fn give_back(&mut self, kind: Kind, now: Instant) {
        let most = kind.limits().0;
        let bucket = self.refilled(kind, now);
        bucket.tokens = (bucket.tokens + 1.0).min(most);
    }

    /// The provider has said that it is too fast: others have taken what seemed to be there.
    pub(super) fn throttled(&mut self, kind: Kind, now: Instant) {
        let bucket = self.refilled(kind, now);
        bucket.tokens = bucket.tokens.min(0.0);
    }

    fn refilled(&mut self, kind: Kind, now: Instant) -> &mut Bucket {
        let (most, rate) = kind.limits();
        let bucket = &mut self.buckets[kind as usize];
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        *bucket = Bucket { tokens: (bucket.tokens + passed * rate).min(most), at: now.max(bucket.at) };
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_goes_through_and_the_rest_in_order_at_the_rate() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let waits: Vec<_> = (0..50).map(|_| pace.take(Kind::Launch, now)).collect();
        assert_eq!(waits[..5], [Duration::ZERO; 5]);
        assert!(waits[5..].windows(2).all(|pair| pair[1] - pair[0] == SECOND / 2), "{waits:?}");
        assert_eq!(waits[49], SECOND * 45 / 2);
        // Other kinds have their own.
        assert_eq!(pace.take(Kind::Look, now), Duration::ZERO);
        // In time the promised ones are used up, and it fills again, but no more than it holds.
        let later = now + SECOND * 1000;
        let waits: Vec<_> = (0..6).map(|_| pace.take(Kind::Launch, later)).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO, SECOND / 2]);
    }

    #[test]
    fn a_throttle_empties_the_bucket_and_who_gives_up_gives_back() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.throttled(Kind::Look, now);
        assert_eq!(pace.take(Kind::Look, now), SECOND / 10);
        pace.give_back(Kind::Look, now);
        assert_eq!(pace.take(Kind::Look, now), SECOND / 10);
        pace.throttled(Kind::Look, now);
        assert_eq!(pace.take(Kind::Look, now), SECOND / 5, "promises are kept");
    }

    #[test]
    fn actions_have_a_kind() {
        assert_eq!(Kind::of("RunInstances"), Kind::Launch);
        assert_eq!(Kind::of("DescribeInstances"), Kind::Look);
        assert_eq!(Kind::of("TerminateInstances"), Kind::Change);
    }
}
