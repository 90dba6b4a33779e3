//! The clock of the system.

use std::time::{Duration, Instant};

use crate::clock::Clock;

/// Time as it flows. Like every monotonic clock of Linux it stands still while the machine is suspended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn real_time_until(&self, deadline: Instant) -> Option<Duration> {
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}
