//! Watches over one call: when it must end, and what came of it on the wire.
//!
//! The thread that makes the call does all of its reading and writing, and asks here before each wait.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::Patience;
use super::patience::is_cancelled;

/// The longest wait before the cancel is looked at again.
const TICK: Duration = Duration::from_millis(200);

/// Shared by a call and its connection. A connection that is idle is watched by none.
#[derive(Default)]
pub(super) struct Watch(Mutex<Watched>);

#[derive(Default)]
struct Watched {
    cancel: Option<Receiver<Infallible>>,
    deadline: Option<Instant>,
    facts: Facts,
}

/// What has happened during the call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// What ended it, if it was not the engine.
    pub(super) interrupted: Option<Interruption>,
    /// It had to connect, for no idle connection was left.
    pub(super) connecting: bool,
    /// And did.
    pub(super) connected: bool,
    /// Something of the request may have been sent.
    pub(super) sent: bool,
    /// The engine has sent something.
    pub(super) received: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    Cancelled,
    TimedOut,
}

impl Watch {
    /// A new call begins.
    pub(super) fn begin(&self, patience: Patience<'_>) {
        *self.0.lock() =
            Watched { cancel: patience.cancel.cloned(), deadline: patience.deadline, facts: Facts::default() };
    }

    /// The call is over, and whoever made it learns what happened.
    pub(super) fn end(&self) -> Facts {
        std::mem::take(&mut *self.0.lock()).facts
    }

    pub(super) fn facts(&self) -> Facts {
        self.0.lock().facts
    }

    /// How long the call may wait now before it asks again.
    pub(super) fn may_wait(&self) -> io::Result<Duration> {
        let mut watched = self.0.lock();
        let left = watched.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let interruption = if watched.cancel.as_ref().is_some_and(is_cancelled) {
            Interruption::Cancelled
        } else if left.is_some_and(|left| left.is_zero()) {
            Interruption::TimedOut
        } else {
            return Ok(left.map_or(TICK, |left| left.min(TICK)));
        };
        watched.facts.interrupted = Some(interruption);
        // Of no kind that has a meaning for the layers in between.
        Err(io::Error::other("the call was ended"))
    }

    pub(super) fn connecting(&self) {
        self.0.lock().facts.connecting = true;
    }

    pub(super) fn connected(&self) {
        self.0.lock().facts.connected = true;
    }

    /// Something of the request is sent from now on, unless the call was ended before that.
    pub(super) fn sending(&self) -> io::Result<()> {
        self.may_wait()?;
        self.0.lock().facts.sent = true;
        Ok(())
    }

    pub(super) fn received(&self) {
        self.0.lock().facts.received = true;
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
