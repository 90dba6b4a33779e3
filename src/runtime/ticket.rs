//! Where the answers for a submitted build come out: a [`Ticket`] for one, an [`Inbox`] for many.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, unbounded};
use parking_lot::Mutex;

use super::lease::{Lease, recv_within};
use super::outbox::{Answer, Found, Mailbox, Outbox};
use super::queue::{BuildCell, InboxNumber, Submitter};
use super::shared::Shared;
use crate::build::{Build, BuildId};
use crate::error::BuildError;

/// The claim to the answer for one submitted build.
///
/// The answer is a [`Lease`] when an attached instance has a place for the build, or an error when the build ends without
/// one. A lease that is [retried](Lease::retry) is followed by another answer. After the last one every wait returns
/// [`BuildError::Ended`].
///
/// Dropping the ticket cancels the build unless its lease was taken. A lease that is not taken out of the ticket within
/// [`PlacementConfig::with_claim_timeout`](crate::PlacementConfig::with_claim_timeout) (1 h by default) is given back, and
/// the build ends as [`BuildResult::Abandoned`](crate::BuildResult::Abandoned).
#[must_use = "dropping the ticket cancels the build"]
pub struct Ticket {
    shared: Arc<Shared>,
    build: Arc<BuildCell>,
    /// Made when somebody waits for the first time.
    channel: OnceLock<Receiver<Answer>>,
}

impl Ticket {
    pub(super) fn submit(shared: &Arc<Shared>, build: Build) -> Self {
        let build = shared.submit(build, Submitter::Ticket(Mailbox::Open(None)));
        Self { shared: shared.clone(), build, channel: OnceLock::new() }
    }

    /// The number of the build.
    pub fn id(&self) -> BuildId {
        self.build.id
    }

    /// What is there without waiting.
    fn find(&self) -> Found {
        match self.channel.get() {
            None => self.build.with_mailbox(Mailbox::take),
            Some(channel) => match channel.try_recv() {
                Ok(answer) => Found::Answer(answer),
                Err(TryRecvError::Empty) => Found::NotYet,
                Err(TryRecvError::Disconnected) => Found::Nothing,
            },
        }
    }

    /// Blocks until there is an answer. Another thread can end the wait with [`Master::cancel`](crate::Master::cancel).
    pub fn wait(&self) -> Result<Lease, BuildError> {
        match self.find() {
            Found::Answer(answer) => answer,
            Found::Nothing => Err(BuildError::Ended),
            Found::NotYet => self.receiver().recv().unwrap_or(Err(BuildError::Ended)),
        }
    }

    /// The answer, if it comes within `timeout`; otherwise the build is as it was. Blocks for so long at most.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<Lease, BuildError>> {
        match self.find() {
            Found::Answer(answer) => Some(answer),
            Found::Nothing => Some(Err(BuildError::Ended)),
            Found::NotYet => match recv_within(self.receiver(), timeout) {
                Ok(answer) => Some(answer),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Err(BuildError::Ended)),
            },
        }
    }

    /// The answer, if there is one. Does not block.
    pub fn try_wait(&self) -> Option<Result<Lease, BuildError>> {
        match self.find() {
            Found::Answer(answer) => Some(answer),
            Found::NotYet => None,
            Found::Nothing => Some(Err(BuildError::Ended)),
        }
    }

    /// The channel that the answers come through, for `select!`. It is disconnected after the last answer.
    pub fn receiver(&self) -> &Receiver<Result<Lease, BuildError>> {
        self.channel.get_or_init(|| self.build.with_mailbox(Mailbox::open))
    }

    /// Ends the build, wherever it is: it is answered with [`BuildError::Cancelled`] at once, and a lease that is out
    /// ends. Does not block. Nothing happens when the build has ended already.
    pub fn cancel(&self) {
        self.shared.cancel_build(self.build.id);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // What comes from now on finds nobody.
        let found = match self.channel.get() {
            None => self.build.with_mailbox(|mailbox| std::mem::replace(mailbox, Mailbox::Gone)).take(),
            Some(_) => self.find(),
        };
        // A lease that lies here untaken is given back; one that was taken goes on.
        match found {
            Found::Answer(untaken) => cancel_untaken(untaken),
            Found::NotYet => self.shared.abandon_build(self.build.id),
            Found::Nothing => {}
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.build.id).finish_non_exhaustive()
    }
}

/// One place for the answers to many builds: see [`Master::submit_to`](crate::Master::submit_to).
///
/// It holds at most one lease and one last answer for each build that was submitted to it.
///
/// Dropping the inbox cancels its builds, as dropping a [`Ticket`] does: builds that wait end, and leases that are still in
/// it are given back. A build whose lease was taken goes on, but ends as cancelled when that is
/// [retried](Lease::retry). A lease that is not taken in time is given back, as with a ticket.
///
/// ```
/// use latent_worker::{Build, BuildError, Inbox, Master};
///
/// let (master, inbox) = (Master::new(), Inbox::new());
/// let id = master.submit_to(Build::new("nobody takes it"), &inbox);
/// let (answered, answer) = inbox.wait();
/// assert_eq!(answered, id);
/// assert!(matches!(answer, Err(BuildError::NoWorkerFits { .. })));
/// assert!(inbox.try_wait().is_none());
/// ```
#[must_use = "dropping the inbox cancels its builds"]
pub struct Inbox {
    number: InboxNumber,
    outbox: Arc<Outbox>,
    answers: Receiver<(BuildId, Answer)>,
    /// The masters that its builds were submitted to.
    masters: Mutex<Vec<Weak<Shared>>>,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (sender, answers) = unbounded();
        let number = InboxNumber(NEXT.fetch_add(1, Ordering::Relaxed));
        Self { number, outbox: Arc::new(Outbox::new(sender)), answers, masters: Mutex::default() }
    }

    /// Where the answers of a build go that is being submitted to this master.
    pub(super) fn submitter(&self, shared: &Arc<Shared>) -> Submitter {
        let mut masters = self.masters.lock();
        if !masters.iter().any(|master| master.as_ptr() == Arc::as_ptr(shared)) {
            masters.retain(|master| master.strong_count() > 0);
            masters.push(Arc::downgrade(shared));
        }
        Submitter::Inbox { number: self.number, outbox: Some(self.outbox.clone()), last_sent: 0 }
    }

    /// The channel that the answers come through.
    pub fn receiver(&self) -> &Receiver<(BuildId, Result<Lease, BuildError>)> {
        &self.answers
    }

    /// Blocks until there is an answer. There is one for each of its builds that is cancelled by another thread; when all
    /// have had their last answer, it blocks until another build is submitted to it.
    pub fn wait(&self) -> (BuildId, Result<Lease, BuildError>) {
        self.answers.recv().expect("the inbox holds a sender itself")
    }

    /// The next answer, if one comes within `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<(BuildId, Result<Lease, BuildError>)> {
        recv_within(&self.answers, timeout).ok()
    }

    /// The next answer, if there is one. Does not block.
    pub fn try_wait(&self) -> Option<(BuildId, Result<Lease, BuildError>)> {
        self.answers.try_recv().ok()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for master in std::mem::take(self.masters.get_mut()) {
            if let Some(shared) = master.upgrade() {
                shared.abandon_inbox(self.number);
            }
        }
        // Its builds have ended or had their lease, so that no place that is given back goes to one of them.
        while let Ok((_, untaken)) = self.answers.try_recv() {
            cancel_untaken(untaken);
        }
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("answers", &self.answers.len()).finish_non_exhaustive()
    }
}

/// Nobody will take this answer: a lease is given back, and its build ends.
fn cancel_untaken(answer: Answer) {
    if let Ok(lease) = answer {
        lease.cancel_untaken();
    }
}
