//! How long a call may take, and what ends it early.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

/// How long calls may take in all, from the moment that this was made; and what cancels them: the disconnection of a
/// channel, noticed within a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience<'a> {
    pub(super) limit: Duration,
    /// None: for ever.
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: Option<&'a Receiver<Infallible>>,
}

impl Patience<'static> {
    /// Begins now.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, deadline: Instant::now().checked_add(limit), cancel: None }
    }
}

impl<'a> Patience<'a> {
    pub(crate) fn cancelled_by(self, signal: &'a Receiver<Infallible>) -> Patience<'a> {
        Patience { cancel: Some(signal), ..self }
    }
}

pub(super) fn is_cancelled(signal: &Receiver<Infallible>) -> bool {
    matches!(signal.try_recv(), Err(TryRecvError::Disconnected))
}
