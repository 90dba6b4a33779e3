//! Where the answers for a build go: into a ticket, or into an inbox.

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::lease::Lease;
use crate::build::BuildId;
use crate::error::BuildError;

pub(super) type Answer = Result<Lease, BuildError>;

/// The answers of one build for its [`Ticket`](super::ticket::Ticket). They lie here until somebody waits for them, and in
/// a channel from then on: most answers are there before anybody waits, and a channel costs more than all the rest.
pub(super) enum Mailbox {
    /// Nobody has waited yet. There is one lease at most, and one last answer, which may come while that lies here.
    Closed { lease: Option<Lease>, last: Option<Box<BuildError>>, over: bool },
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
    pub(super) fn new() -> Self {
        Self::Closed { lease: None, last: None, over: false }
    }

    /// Returns what could not be put in because nobody is there to take it.
    pub(super) fn put(&mut self, answer: Answer) -> Option<Answer> {
        match self {
            Self::Closed { lease, last, .. } => {
                match answer {
                    Ok(given) => *lease = Some(given),
                    Err(error) => *last = Some(Box::new(error)),
                }
                None
            }
            Self::Channel(Some(sender)) => sender.try_send(answer).err().map(|unsent| unsent.into_inner()),
            Self::Channel(None) | Self::Gone => Some(answer),
        }
    }

    /// No other answer follows.
    pub(super) fn close(&mut self) -> Option<Sender<Answer>> {
        match self {
            Self::Closed { over, .. } => *over = true,
            Self::Channel(sender) => return sender.take(),
            Self::Gone => {}
        }
        None
    }

    /// Whether the lease that was put in last was taken.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Closed { lease, .. } => lease.is_none(),
            Self::Channel(sender) => sender.as_ref().is_none_or(|sender| sender.is_empty()),
            Self::Gone => true,
        }
    }

    /// Takes what nobody has waited for.
    pub(super) fn take(&mut self) -> Found {
        match self {
            Self::Closed { lease, last, over } => {
                match lease.take().map(Ok).or_else(|| last.take().map(|last| Err(*last))) {
                    Some(answer) => Found::Answer(answer),
                    None if *over => Found::Nothing,
                    None => Found::NotYet,
                }
            }
            Self::Channel(_) | Self::Gone => Found::NotYet,
        }
    }

    /// Has everything go through a channel from now on, what lies here included. To be called once.
    pub(super) fn open(&mut self) -> Receiver<Answer> {
        // Never more than two in it. It is of the unbounded kind because that drops what lies in it with its last
        // receiver. A bounded one would keep a lease that comes while the ticket is dropped, and the lease the channel's
        // sender, for ever.
        let (sender, receiver) = unbounded();
        if let Self::Closed { lease, last, over } = std::mem::replace(self, Self::Gone) {
            for answer in lease.into_iter().map(Ok).chain(last.map(|last| Err(*last))) {
                let _ = sender.try_send(answer);
            }
            *self = Self::Channel((!over).then_some(sender));
        }
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
