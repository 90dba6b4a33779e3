//! The clock that all deadlines of a master are measured by, so that tests can bring their own.

use std::time::{Duration, Instant};

/// A source of time for one master; the system's monotonic clock unless
/// [`MasterBuilder::clock`](crate::MasterBuilder::clock) sets another. The feature `testing` has a clock that is
/// moved by hand.
///
/// The methods must not block: every deadline waits for them. When one panics, the time stands still until it answers
/// again.
pub trait Clock: Send + Sync + 'static {
    /// The present moment. Never goes back.
    fn now(&self) -> Instant;

    /// How long a thread must really sleep until `deadline`; `None` when only a jump can bring it about.
    fn real_time_until(&self, deadline: Instant) -> Option<Duration>;

    /// Has `on_jump` called, on the thread that moves the clock, whenever time has moved other than by flowing. It does
    /// whatever is due. A clock that only flows never calls it.
    fn subscribe(&self, on_jump: Box<dyn Fn() + Send + Sync>) {
        drop(on_jump);
    }
}
