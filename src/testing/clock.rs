//! A clock that stands still until a test moves it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Clock;

/// A [`Clock`] that is moved by hand, for deadlines without waiting. Clones are the same clock.
///
/// Everything that the library does after some time goes by this clock: `missing_timeout`, checks, idle times,
/// quarantines, [`StartRequest::sleep`](crate::StartRequest::sleep) and
/// [`StopRequest::sleep`](crate::StopRequest::sleep). What a *caller* is ready to wait
/// ([`Ticket::wait_timeout`](crate::Ticket::wait_timeout), the limit of a shutdown) goes by the clock on the wall, so
/// that a test that goes wrong comes to an end.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::{Clock, Master, testing::ManualClock};
///
/// let clock = ManualClock::new();
/// let master = Master::builder().clock(clock.clone()).build();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(3600)); // takes no time
/// assert_eq!(clock.now() - before, Duration::from_secs(3600));
/// # drop(master);
/// ```
#[derive(Clone)]
pub struct ManualClock {
    inner: Arc<Inner>,
}

struct Inner {
    now: Mutex<Instant>,
    on_jump: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
}

impl ManualClock {
    /// A clock that stands at some moment.
    pub fn new() -> Self {
        Self { inner: Arc::new(Inner { now: Mutex::new(Instant::now()), on_jump: Mutex::default() }) }
    }

    /// The moment at which it stands.
    pub fn now(&self) -> Instant {
        *self.inner.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it, and has every master that goes by it do what is due; when this returns, that is done. What follows on
    /// other threads (a driver call that became due) has been ordered, and may not have begun.
    ///
    /// It is one jump. Deadlines that it passes are handled in their order, but each of them finds the clock at its new
    /// place: a jump over ten check intervals leads to one check, and what is set up again counts from the new moment.
    /// A test that needs the deadlines in between moves step by step.
    ///
    /// # Panics
    /// When the clock would run over.
    pub fn advance(&self, by: Duration) {
        {
            let mut now = self.inner.now.lock().unwrap_or_else(PoisonError::into_inner);
            *now = now.checked_add(by).expect("the clock does not reach that far");
        }
        let on_jump = self.inner.on_jump.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for jumped in on_jump {
            jumped();
        }
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        ManualClock::now(self)
    }

    fn real_time_until(&self, deadline: Instant) -> Option<Duration> {
        (deadline <= ManualClock::now(self)).then_some(Duration::ZERO)
    }

    fn subscribe(&self, on_jump: Box<dyn Fn() + Send + Sync>) {
        self.inner.on_jump.lock().unwrap_or_else(PoisonError::into_inner).push(on_jump.into());
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock").field("now", &self.now()).finish_non_exhaustive()
    }
}
