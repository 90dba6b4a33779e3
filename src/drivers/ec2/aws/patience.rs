//! How long a call may go on, tries and pauses included, how long it may wait for its turn besides, and who can end it.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::error::AwsError;
use super::time::Timestamp;
use crate::{Leftover, StartRequest};

/// The end of a call.
pub(in crate::drivers::ec2) struct Patience<'a> {
    /// None: so far away that no clock has it.
    deadline: Cell<Option<Instant>>,
    limit: Duration,
    /// How much longer turns may be waited for. That moves the deadline.
    turns: Cell<Duration>,
    waiter: Waiter<'a>,
}

/// Who waits.
enum Waiter<'a> {
    /// Somebody whom nobody cancels.
    Steady,
    Start(&'a StartRequest<'a>),
    Reclaim(&'a Leftover),
    /// A stop that only looks at what becomes of a machine; with what is disconnected when it is a fast one.
    Stop(&'a Receiver<Infallible>),
    #[cfg(test)]
    Test(&'a dyn Time),
}

/// Time that passes when a test says so.
#[cfg(test)]
pub(super) trait Time {
    fn now(&self) -> Instant;
    fn wall(&self) -> Timestamp;
    /// Whether it was waited for to the end, and not cancelled.
    fn sleep(&self, duration: Duration) -> bool;
    fn cancel(&self) -> Option<&Receiver<Infallible>>;
}

impl<'a> Patience<'a> {
    /// That nobody can end.
    pub(in crate::drivers::ec2) fn limit(limit: Duration) -> Self {
        Self::of(Waiter::Steady, limit)
    }

    /// That ends when the start is cancelled. Pauses go by the clock of its master.
    pub(in crate::drivers::ec2) fn of_start(start: &'a StartRequest<'_>, limit: Duration) -> Self {
        Self::of(Waiter::Start(start), limit)
    }

    /// That ends when the master shuts down. Pauses go by the clock of its master.
    pub(in crate::drivers::ec2) fn of_leftover(leftover: &'a Leftover, limit: Duration) -> Self {
        Self::of(Waiter::Reclaim(leftover), limit)
    }

    /// That ends when a stop is, or becomes, a fast one, which this signal says.
    pub(in crate::drivers::ec2) fn until_hurried(hurry: &'a Receiver<Infallible>, limit: Duration) -> Self {
        Self::of(Waiter::Stop(hurry), limit)
    }

    #[cfg(test)]
    pub(super) fn on(time: &'a dyn Time, limit: Duration) -> Self {
        Self::of(Waiter::Test(time), limit)
    }

    fn of(waiter: Waiter<'a>, limit: Duration) -> Self {
        let deadline = Cell::new(waiter.now().checked_add(limit));
        Self { deadline, limit, turns: Cell::default(), waiter }
    }

    /// The same, and besides so long for turns: that too many of this process ask at once is no trouble of the provider's.
    pub(in crate::drivers::ec2) fn with_turns_within(self, limit: Duration) -> Self {
        self.turns.set(limit);
        self
    }

    pub(super) fn now(&self) -> Instant {
        self.waiter.now()
    }

    /// The clock on the wall.
    pub(super) fn wall(&self) -> Timestamp {
        self.waiter.wall()
    }

    /// Disconnected when whoever asks gives up.
    pub(in crate::drivers::ec2) fn cancel(&self) -> Option<&Receiver<Infallible>> {
        self.waiter.cancel()
    }

    /// How long is left; an error when nothing is, or when it was cancelled.
    pub(in crate::drivers::ec2) fn left(&self, doing: &str) -> Result<Duration, AwsError> {
        if self.cancel().is_some_and(|cancel| matches!(cancel.try_recv(), Err(TryRecvError::Disconnected))) {
            return Err(AwsError::cancelled(doing));
        }
        match self.deadline.get().map(|deadline| deadline.saturating_duration_since(self.now())) {
            None => Ok(self.limit),
            Some(left) if left.is_zero() => Err(AwsError::timed_out(doing, self.limit)),
            Some(left) => Ok(left),
        }
    }

    /// Waits; an error at once when there is not so much time, and when it was cancelled meanwhile.
    pub(super) fn wait(&self, duration: Duration, doing: &str) -> Result<(), AwsError> {
        if duration > self.left(doing)? {
            return Err(AwsError::timed_out(doing, self.limit));
        }
        if self.waiter.sleep(duration) { Ok(()) } else { Err(AwsError::cancelled(doing)) }
    }

    /// Waits for a turn; what is there for turns is used up first.
    pub(super) fn wait_for_turn(&self, duration: Duration, doing: &str) -> Result<(), AwsError> {
        let besides = self.turns.get().min(duration);
        if duration - besides > self.left(doing)? {
            return Err(AwsError::timed_out(doing, self.limit));
        }
        if !self.waiter.sleep(duration) {
            return Err(AwsError::cancelled(doing));
        }
        self.turns.set(self.turns.get() - besides);
        self.deadline.set(self.deadline.get().and_then(|deadline| deadline.checked_add(besides)));
        Ok(())
    }

    /// In 0..1, for pauses: it need not be unpredictable, only different from that of others.
    pub(super) fn chance(&self) -> f64 {
        use std::hash::{BuildHasher, RandomState};
        #[cfg(test)]
        if let Waiter::Test(_) = self.waiter {
            return 1.0;
        }
        let random = RandomState::new().hash_one(0_u8);
        f64::from((random >> 32) as u32) / f64::from(u32::MAX)
    }
}

impl Waiter<'_> {
    fn now(&self) -> Instant {
        match self {
            #[cfg(test)]
            Self::Test(time) => time.now(),
            _ => Instant::now(),
        }
    }

    fn wall(&self) -> Timestamp {
        match self {
            #[cfg(test)]
            Self::Test(time) => time.wall(),
            _ => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
            }
        }
    }

    fn cancel(&self) -> Option<&Receiver<Infallible>> {
        match self {
            Self::Steady => None,
            Self::Start(start) => Some(start.cancel_signal()),
            Self::Reclaim(leftover) => Some(leftover.cancel_signal()),
            Self::Stop(hurry) => Some(hurry),
            #[cfg(test)]
            Self::Test(time) => time.cancel(),
        }
    }

    /// Whether it was waited for to the end, and not cancelled.
    fn sleep(&self, duration: Duration) -> bool {
        match self {
            Self::Steady => {
                std::thread::sleep(duration);
                true
            }
            Self::Start(start) => start.sleep(duration).is_ok(),
            Self::Reclaim(leftover) => leftover.sleep(duration).is_ok(),
            Self::Stop(hurry) => hurry.recv_timeout(duration) == Err(RecvTimeoutError::Timeout),
            #[cfg(test)]
            Self::Test(time) => time.sleep(duration),
        }
    }
}
