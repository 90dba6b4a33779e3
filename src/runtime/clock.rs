//! The clock of the system, and the fence around a clock that a user has brought.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

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

/// A clock that may panic: then the time is what it was when it last answered.
pub(super) struct FencedClock<C> {
    clock: C,
    last: Mutex<Instant>,
}

impl<C: Clock> FencedClock<C> {
    pub(super) fn new(clock: C) -> Self {
        Self { clock, last: Mutex::new(Instant::now()) }
    }
}

impl<C: Clock> Clock for FencedClock<C> {
    fn now(&self) -> Instant {
        match catch_unwind(AssertUnwindSafe(|| self.clock.now())) {
            Ok(now) => {
                *self.last.lock() = now;
                now
            }
            Err(payload) => {
                std::mem::forget(payload); // its drop may panic as well
                *self.last.lock()
            }
        }
    }

    fn real_time_until(&self, deadline: Instant) -> Option<Duration> {
        catch_unwind(AssertUnwindSafe(|| self.clock.real_time_until(deadline))).unwrap_or_else(|payload| {
            std::mem::forget(payload);
            Some(Duration::from_secs(1)) // and then it is asked again
        })
    }

    fn subscribe(&self, on_jump: Box<dyn Fn() + Send + Sync>) {
        self.clock.subscribe(on_jump);
    }
}
