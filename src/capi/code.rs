//! The codes that calls return, and which error of the library is which of them.

use super::boundary::Failure;
use crate::{
    AddWorkerError, AttachError, BuildError, Cancelled, CommandError, FileError, Hurried, JournalError, LeaseEnd,
};
use crate::{Attempt, RecordError, UnknownBuild};

/// What a call returns. The numbers never change, and none is used again; later versions may add some.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum lw_code {
    /// It has done what it was asked for.
    LW_OK = 0,
    /// An argument makes no sense: NULL where something is needed, not UTF-8, a length or a number out of range.
    LW_ERROR_ARGUMENT = 1,
    /// The handle is NULL, freed, of another kind, or used on a thread where it may not be used; or lw_free is passed
    /// what the library has not given out.
    LW_ERROR_HANDLE = 2,
    /// This process was forked after the library had been used in its parent.
    LW_ERROR_FORKED = 3,
    /// A defect of the library: it panicked. lw_last_error_message() has the panic's message.
    LW_ERROR_PANIC = 4,
    /// The time given to wait is over. Nothing is undone: what was waited for goes on, and may be waited for again.
    LW_ERROR_TIMEOUT = 5,
    /// This build of the library, this system, or this kind of agent cannot do that.
    LW_ERROR_UNSUPPORTED = 6,
    /// The system refuses something: a file, an address, a thread.
    LW_ERROR_SYSTEM = 7,
    /// The journal cannot be used: it is in use by another master, is not a journal, or was written by a later version.
    /// Or an id cannot be recorded.
    LW_ERROR_JOURNAL = 8,
    /// There is a worker of that name already.
    LW_ERROR_NAME_TAKEN = 9,
    /// The master is shutting down.
    LW_ERROR_SHUT_DOWN = 10,
    /// The build, or the start, the reclaim or the command that a callback is for, was cancelled.
    LW_ERROR_CANCELLED = 11,
    /// No worker of this master offers all labels that the build needs.
    LW_ERROR_NO_WORKER_FITS = 12,
    /// The driver says that the build asks for what can never be; it is the build's own fault.
    LW_ERROR_CANNOT_SUBSTANTIATE = 13,
    /// As many attempts at the build have failed as its max_attempts allows.
    LW_ERROR_ATTEMPTS_EXHAUSTED = 14,
    /// There is nothing, or nothing more: the build has ended or is unknown, the command has ended, no event follows,
    /// there is no such worker, leftover or address, another thread has freed what this call waits on.
    LW_ERROR_ENDED = 15,
    /// The lease has ended because the connection to its agent was lost: retry the build.
    LW_ERROR_LEASE_LOST = 16,
    /// The lease has ended because its instance is stopped without waiting for builds.
    LW_ERROR_LEASE_STOPPED = 17,
    /// The agent could not start or run the command, or does not know how it has ended.
    LW_ERROR_COMMAND = 18,
    /// A file could not be copied.
    LW_ERROR_FILE = 19,
    /// The agent was not let in: its attempt has ended, or an agent is attached already.
    LW_ERROR_ATTACH = 20,
    /// The stop that a callback is for is a fast one, or has become one: end the instance without more grace.
    LW_ERROR_HURRIED = 21,
}

use lw_code::*;

/// The error, with the attempts that came before.
fn with_history(code: lw_code, error: &BuildError, history: &[Attempt]) -> Failure {
    let mut message = error.to_string();
    for attempt in history {
        message.push_str("\n  ");
        message.push_str(&attempt.to_string());
    }
    Failure::new(code, message)
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match &error {
            BuildError::NoWorkerFits { .. } => Self::new(LW_ERROR_NO_WORKER_FITS, &error),
            BuildError::Cannot { history, .. } => with_history(LW_ERROR_CANNOT_SUBSTANTIATE, &error, history),
            BuildError::AttemptsExhausted { history, .. } => with_history(LW_ERROR_ATTEMPTS_EXHAUSTED, &error, history),
            BuildError::Cancelled => Self::new(LW_ERROR_CANCELLED, &error),
            BuildError::ShutDown => Self::new(LW_ERROR_SHUT_DOWN, &error),
            BuildError::Ended => Self::new(LW_ERROR_ENDED, &error),
        }
    }
}

impl From<LeaseEnd> for Failure {
    fn from(end: LeaseEnd) -> Self {
        let code = match end {
            LeaseEnd::Lost(_) => LW_ERROR_LEASE_LOST,
            LeaseEnd::Stopped => LW_ERROR_LEASE_STOPPED,
            LeaseEnd::Cancelled => LW_ERROR_CANCELLED,
            LeaseEnd::Abandoned => LW_ERROR_ENDED,
        };
        Self::new(code, end)
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::LeaseEnded(end) => end.into(),
            CommandError::Unsupported => Self::new(LW_ERROR_UNSUPPORTED, error),
            CommandError::Start { .. } | CommandError::Failed(_) | CommandError::NoEnd => {
                Self::new(LW_ERROR_COMMAND, error)
            }
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::LeaseEnded(end) => end.into(),
            FileError::Unsupported => Self::new(LW_ERROR_UNSUPPORTED, error),
            FileError::BadPath { .. } => Self::argument(error),
            FileError::Instance { .. } | FileError::Caller(_) | FileError::Interrupted | FileError::Failed(_) => {
                Self::new(LW_ERROR_FILE, error)
            }
        }
    }
}

impl From<AddWorkerError> for Failure {
    fn from(error: AddWorkerError) -> Self {
        let code = match error {
            AddWorkerError::NameTaken(_) => LW_ERROR_NAME_TAKEN,
            AddWorkerError::BadName(_) => LW_ERROR_ARGUMENT,
            AddWorkerError::Panicked(_) => LW_ERROR_PANIC,
            AddWorkerError::ShutDown => LW_ERROR_SHUT_DOWN,
        };
        Self::new(code, error)
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let code = match error {
            JournalError::Io { .. } => LW_ERROR_SYSTEM,
            JournalError::InUse { .. } | JournalError::NotAJournal { .. } | JournalError::Version { .. } => {
                LW_ERROR_JOURNAL
            }
        };
        Self::new(code, error)
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        Self::new(LW_ERROR_ATTACH, error)
    }
}

impl From<UnknownBuild> for Failure {
    fn from(error: UnknownBuild) -> Self {
        Self::new(LW_ERROR_ENDED, error)
    }
}

impl From<Cancelled> for Failure {
    fn from(error: Cancelled) -> Self {
        Self::new(LW_ERROR_CANCELLED, error)
    }
}

impl From<Hurried> for Failure {
    fn from(error: Hurried) -> Self {
        Self::new(LW_ERROR_HURRIED, error)
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::new(LW_ERROR_JOURNAL, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(LW_ERROR_SYSTEM, error)
    }
}
