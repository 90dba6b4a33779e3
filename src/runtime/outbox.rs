//! The sending end of a ticket or an inbox. It knows which of its leases were taken.

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::lease::Lease;
use crate::build::BuildId;
use crate::error::BuildError;

/// What lies in a ticket or an inbox.
pub(super) trait Mail {
    fn new(build: BuildId, answer: Result<Lease, BuildError>) -> Self;
    fn answer(self) -> Result<Lease, BuildError>;
}

impl Mail for Result<Lease, BuildError> {
    fn new(_: BuildId, answer: Result<Lease, BuildError>) -> Self {
        answer
    }

    fn answer(self) -> Result<Lease, BuildError> {
        self
    }
}

impl Mail for (BuildId, Result<Lease, BuildError>) {
    fn new(build: BuildId, answer: Result<Lease, BuildError>) -> Self {
        (build, answer)
    }

    fn answer(self) -> Result<Lease, BuildError> {
        self.1
    }
}

/// A channel with room for everything that is sent: a build has at most one lease at a time and one last answer.
pub(super) struct Outbox<M> {
    sender: Sender<M>,
    /// How much was sent. What is taken first was sent first, so that this and the length of the channel tell what lies
    /// in it. Locked for each sending, so that both change together.
    sent: Mutex<u64>,
}

impl<M: Mail> Outbox<M> {
    pub(super) fn new(sender: Sender<M>) -> Self {
        Self { sender, sent: Mutex::new(0) }
    }

    /// Returns the number of what was sent, or what could not be sent because nobody is there to take it.
    pub(super) fn send(
        &self,
        build: BuildId,
        answer: Result<Lease, BuildError>,
    ) -> Result<u64, Box<Result<Lease, BuildError>>> {
        let mut sent = self.sent.lock();
        match self.sender.try_send(M::new(build, answer)) {
            Ok(()) => {
                *sent += 1;
                Ok(*sent)
            }
            Err(unsent) => {
                drop(sent);
                Err(Box::new(unsent.into_inner().answer()))
            }
        }
    }

    /// Whether what was sent with this number was taken.
    pub(super) fn was_taken(&self, number: u64) -> bool {
        let sent = self.sent.lock();
        *sent - self.sender.len() as u64 >= number
    }
}
