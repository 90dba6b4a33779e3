//! What can be asked of an attached agent about the files of its instance: to copy them in both directions, and the few
//! things that go with that.
//!
//! Code that moves files through a [`Lease`](crate::Lease) is the same for every kind of worker: how an agent does it is
//! behind the trait [`Files`]. Nothing here touches a file.

use std::convert::Infallible;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, TryRecvError, never};

use crate::error::FileError;

/// The files of an instance, as its [`Agent`](crate::Agent) reaches them. For implementors; who holds a lease uses
/// [`Lease::files`](crate::Lease::files).
///
/// A relative path counts from the instance's directory, as [`Command::directory`](crate::Command::directory) does; an
/// absolute one is allowed. No path is empty.
///
/// All methods block until they are done, on the thread that holds the lease, and may be called from several threads at
/// once. They give up with [`FileError::Interrupted`] soon after the [`Interrupt`] was set. No method may need memory
/// that grows with the size of a file. A panic is caught and becomes an error.
pub trait Files {
    /// Copies a file of the instance to `to`, byte for byte, flushes that, and returns how many bytes there were. An
    /// error of `to` is [`FileError::Caller`].
    fn read(&self, path: &Path, to: &mut dyn Write, interrupt: &Interrupt) -> Result<u64, FileError>;

    /// Makes a file of the instance out of all bytes of `from`, or replaces the one that is there, and returns how many
    /// bytes there were. An error of `from` is [`FileError::Caller`]. Without a `mode` (permission bits alone) the file
    /// has the one that it had, or the usual one of a new file.
    fn write(
        &self,
        path: &Path,
        from: &mut dyn Read,
        mode: Option<u32>,
        interrupt: &Interrupt,
    ) -> Result<u64, FileError>;

    /// The names of what is in a directory, sorted, without `.` and `..`.
    fn list(&self, path: &Path, interrupt: &Interrupt) -> Result<Vec<String>, FileError>;

    /// Makes a directory and those above it. One that is there already is a success.
    fn make_directory(&self, path: &Path, interrupt: &Interrupt) -> Result<(), FileError>;

    /// Removes a directory with all that is in it. One that is not there is a success.
    fn remove_directory(&self, path: &Path, interrupt: &Interrupt) -> Result<(), FileError>;

    /// What a path leads to, through symbolic links.
    fn status(&self, path: &Path, interrupt: &Interrupt) -> Result<FileStatus, FileError>;
}

/// Says that nobody waits for an operation any more. It is never unset. A copy says the same.
///
/// It is set by disconnecting either of two channels that never carry anything: the instance and the build of a lease
/// end apart from each other. Who waits for something else selects over all three:
///
/// ```
/// use crossbeam_channel::{Receiver, select_biased};
/// use latent_worker::{FileError, Interrupt};
///
/// fn next(blocks: &Receiver<Vec<u8>>, interrupt: &Interrupt) -> Result<Vec<u8>, FileError> {
///     let [one, other] = interrupt.signals();
///     select_biased! {
///         recv(one) -> _ => Err(FileError::Interrupted),
///         recv(other) -> _ => Err(FileError::Interrupted),
///         recv(blocks) -> block => block.map_err(|_| FileError::Failed("the agent went away".to_owned())),
///     }
/// }
///
/// let (open, signal) = crossbeam_channel::bounded(0);
/// let interrupt = Interrupt::new(signal);
/// drop(open);
/// assert!(matches!(next(&crossbeam_channel::never(), &interrupt), Err(FileError::Interrupted)));
/// ```
#[derive(Clone)]
pub struct Interrupt([Receiver<Infallible>; 2]);

impl Interrupt {
    /// Set when the sender of `signal` is dropped. For those who call an agent themselves.
    pub fn new(signal: Receiver<Infallible>) -> Self {
        Self::either(signal, never())
    }

    /// Set when the sender of either signal is dropped.
    pub fn either(one: Receiver<Infallible>, other: Receiver<Infallible>) -> Self {
        Self([one, other])
    }

    /// Never set.
    pub fn never() -> Self {
        Self::either(never(), never())
    }

    /// Whether it is set. Does not block.
    pub fn is_set(&self) -> bool {
        self.0.iter().any(|signal| signal.try_recv() == Err(TryRecvError::Disconnected))
    }

    /// [`FileError::Interrupted`] when it is set: with `?`, for between two blocks. Does not block.
    pub fn check(&self) -> Result<(), FileError> {
        if self.is_set() { Err(FileError::Interrupted) } else { Ok(()) }
    }

    /// For `select!`: it is set when one of these is disconnected, and neither ever carries anything.
    pub fn signals(&self) -> [&Receiver<Infallible>; 2] {
        let [one, other] = &self.0;
        [one, other]
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("is_set", &self.is_set()).finish()
    }
}

/// What is known of a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FileStatus {
    /// Its type and its permission bits, as in `st_mode` of POSIX. The agent's system may know less than POSIX does.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When its content was changed last. The agent may know it to the second only.
    pub modified: SystemTime,
}

impl FileStatus {
    /// For implementors of [`Files`].
    pub fn new(mode: u32, size: u64, modified: SystemTime) -> Self {
        Self { mode, size, modified }
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == 0o100_000
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type() == 0o040_000
    }

    /// The numbers that POSIX leaves open are the same on all systems.
    fn file_type(&self) -> u32 {
        self.mode & 0o170_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn an_interrupt_is_set_by_either_signal() {
        assert!(!Interrupt::never().is_set());
        for first in [true, false] {
            let ((one, of_one), (other, of_other)) = (bounded(0), bounded(0));
            let interrupt = Interrupt::either(of_one, of_other);
            let copy = interrupt.clone();
            interrupt.check().unwrap();
            let kept = if first {
                drop(one);
                other
            } else {
                drop(other);
                one
            };
            assert!(interrupt.is_set() && copy.is_set());
            assert!(matches!(interrupt.check(), Err(FileError::Interrupted)));
            drop(kept);
        }
    }

    #[test]
    fn the_type_of_a_file_is_in_its_mode() {
        let status = |mode| FileStatus::new(mode, 0, SystemTime::UNIX_EPOCH);
        assert!(status(0o100_644).is_file() && !status(0o100_644).is_directory());
        assert!(status(0o041_777).is_directory() && !status(0o041_777).is_file());
        // A socket has the bits of a file, and a block device those of a directory.
        assert!(!status(0o140_600).is_file() && !status(0o060_600).is_directory());
    }
}
