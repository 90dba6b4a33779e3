//! How long a call may go on, tries and pauses included, and who can end it.

use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::error::{AwsError, Class};
use super::time::Timestamp;
use crate::{Leftover, StartRequest};

/// The end of a call.
pub(in crate::drivers::ec2) struct Patience<'a> {
    deadline: Option<Instant>,
    limit: Duration,
    cancel: Option<&'a Receiver<Infallible>>,
    clock: &'a dyn Clock,
}

/// What passes while somebody waits. There is one that flows, and one of tests.
pub(super) trait Clock {
    fn now(&self) -> Instant;
    /// The clock on the wall.
    fn wall(&self) -> Timestamp;
    /// Whether it was waited for to the end; not, when `cancel` is disconnected before.
    fn wait(&self, duration: Duration, cancel: Option<&Receiver<Infallible>>) -> bool;
}

struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    fn wait(&self, duration: Duration, cancel: Option<&Receiver<Infallible>>) -> bool {
        match cancel {
            None => {
                std::thread::sleep(duration);
                true
            }
            Some(cancel) => matches!(cancel.recv_timeout(duration), Err(RecvTimeoutError::Timeout)),
        }
    }
}

impl<'a> Patience<'a> {
    /// That nobody can end.
    pub(in crate::drivers::ec2) fn limit(limit: Duration) -> Self {
        Self::on(&RealClock, limit)
    }

    /// That ends when the start is cancelled.
    pub(in crate::drivers::ec2) fn of_start(start: &'a StartRequest<'_>, limit: Duration) -> Self {
        Self { cancel: Some(start.cancel_signal()), ..Self::limit(limit) }
    }

    /// That ends when the master shuts down.
    pub(in crate::drivers::ec2) fn of_leftover(leftover: &'a Leftover, limit: Duration) -> Self {
        Self { cancel: Some(leftover.cancel_signal()), ..Self::limit(limit) }
    }

    pub(super) fn on(clock: &'a dyn Clock, limit: Duration) -> Self {
        Self { deadline: clock.now().checked_add(limit), limit, cancel: None, clock }
    }

    #[cfg(test)]
    pub(super) fn cancelled_by(mut self, cancel: &'a Receiver<Infallible>) -> Self {
        self.cancel = Some(cancel);
        self
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    pub(super) fn cancel(&self) -> Option<&'a Receiver<Infallible>> {
        self.cancel
    }

    /// How long is left; an error when nothing is, or when it was cancelled.
    pub(super) fn left(&self, doing: &str) -> Result<Duration, AwsError> {
        let is_cancelled = |cancel: &&Receiver<Infallible>| {
            matches!(cancel.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
        };
        if self.cancel.as_ref().is_some_and(is_cancelled) {
            return Err(self.cancelled(doing));
        }
        match self.deadline.map(|deadline| deadline.saturating_duration_since(self.now())) {
            None => Ok(self.limit),
            Some(left) if left.is_zero() => {
                let mut error = AwsError::new(Class::TimedOut, doing, format!("no answer within {:?}", self.limit));
                // Whether something is on its way is for the one to say who has sent it.
                error.outcome_unknown = false;
                Err(error)
            }
            Some(left) => Ok(left),
        }
    }

    pub(super) fn cancelled(&self, doing: &str) -> AwsError {
        AwsError::new(Class::Cancelled, doing, "cancelled")
    }

    /// Waits; an error when there is not so much time, or when it was cancelled meanwhile.
    pub(super) fn wait(&self, duration: Duration, doing: &str) -> Result<(), AwsError> {
        let left = self.left(doing)?;
        let whole = self.clock.wait(duration.min(left), self.cancel);
        if !whole {
            return Err(self.cancelled(doing));
        }
        self.left(doing).map(drop)
    }
}
