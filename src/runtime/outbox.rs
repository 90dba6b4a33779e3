//! Where the answers for a build go: into a ticket, or into an inbox.

use crossbeam_channel::{Receiver, Sender, TrySendError, unbounded};
use parking_lot::Mutex;

use super::lease::Lease;
use crate::build::BuildId;
use crate::error::BuildError;

pub(super) type Answer = Result<Lease, BuildError>;

/// The answers of one build for its [`Ticket`](super::ticket::Ticket). They lie here until somebody waits for them, and in
/// a channel from then on: most answers are there before anybody waits, and a channel costs more than all the rest.
pub(super) enum Mailbox {
    /// Nobody has waited yet.
    Open(Option<Lease>),
    /// Nobody has waited yet, and no other answer follows. What lies here: a lease and the last answer at most.
    Over(Vec<Answer>),
    /// `None` when no other answer follows.
    Channel(Option<Sender<Answer>>),
    /// The ticket was dropped.
    Gone,
}

/// What a ticket finds when it looks into its mailbox.
pub(super) enum Found {
    Answer(Answer),
    /// No other answer will come.
    Nothing,
    /// It has to be waited for.
    NotYet,
}

impl Mailbox {
    /// Returns what could not be put in because nobody is there to take it. After an error nothing follows.
    pub(super) fn put(&mut self, answer: Answer) -> Option<Answer> {
        match (&mut *self, answer) {
            (Self::Open(lease), Ok(given)) => *lease = Some(given),
            (Self::Open(lease), Err(last)) => {
                let lease = lease.take().map(Ok);
                *self = Self::Over(lease.into_iter().chain([Err(last)]).collect());
            }
            (Self::Channel(Some(sender)), answer) => {
                return sender.try_send(answer).err().map(TrySendError::into_inner);
            }
            (Self::Over(_) | Self::Channel(None) | Self::Gone, answer) => return Some(answer),
        }
        None
    }

    /// No other answer follows.
    pub(super) fn close(&mut self) -> Option<Sender<Answer>> {
        match self {
            Self::Open(lease) => *self = Self::Over(lease.take().map(Ok).into_iter().collect()),
            Self::Channel(sender) => return sender.take(),
            Self::Over(_) | Self::Gone => {}
        }
        None
    }

    /// Whether the lease that was put in last was taken.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Open(lease) => lease.is_none(),
            Self::Over(rest) => rest.is_empty(),
            Self::Channel(sender) => sender.as_ref().is_none_or(|sender| sender.is_empty()),
            Self::Gone => true,
        }
    }

    /// Takes what nobody has waited for.
    pub(super) fn take(&mut self) -> Found {
        match self {
            Self::Open(lease) => lease.take().map_or(Found::NotYet, |lease| Found::Answer(Ok(lease))),
            Self::Over(rest) if rest.is_empty() => Found::Nothing,
            Self::Over(rest) => Found::Answer(rest.remove(0)),
            Self::Channel(_) | Self::Gone => Found::NotYet,
        }
    }

    /// Has everything go through a channel from now on, what lies here included. To be called once.
    pub(super) fn open(&mut self) -> Receiver<Answer> {
        // Never more than two in it. It is of the unbounded kind because that drops what lies in it with its last
        // receiver. A bounded one would keep a lease that comes while the ticket is dropped, and the lease the channel's
        // sender, for ever.
        let (sender, receiver) = unbounded();
        let (answers, more) = match std::mem::replace(self, Self::Gone) {
            Self::Open(lease) => (lease.map(Ok).into_iter().collect(), true),
            Self::Over(rest) => (rest, false),
            Self::Channel(_) | Self::Gone => (Vec::new(), false),
        };
        answers.into_iter().for_each(|answer| _ = sender.try_send(answer));
        *self = Self::Channel(more.then_some(sender));
        receiver
    }
}

/// The sending end of an inbox, with room for everything that is sent. It knows which of its leases were taken.
pub(super) struct Outbox {
    sender: Sender<(BuildId, Answer)>,
    /// How much was sent. What is taken first was sent first, so that this and the length of the channel tell what lies
    /// in it. Locked for each sending, so that both change together.
    sent: Mutex<u64>,
}

impl Outbox {
    pub(super) fn new(sender: Sender<(BuildId, Answer)>) -> Self {
        Self { sender, sent: Mutex::new(0) }
    }

    /// Returns the number of what was sent, or what could not be sent because nobody is there to take it.
    pub(super) fn send(&self, build: BuildId, answer: Answer) -> Result<u64, Box<Answer>> {
        let mut sent = self.sent.lock();
        match self.sender.try_send((build, answer)) {
            Ok(()) => {
                *sent += 1;
                Ok(*sent)
            }
            Err(unsent) => {
                drop(sent);
                Err(Box::new(unsent.into_inner().1))
            }
        }
    }

    /// Whether what was sent with this number was taken.
    pub(super) fn was_taken(&self, number: u64) -> bool {
        let sent = self.sent.lock();
        *sent - self.sender.len() as u64 >= number
    }
}
