//! The reading end of a pipe that a child process writes to, read without ever blocking.
//!
//! When to read, and what the bytes mean, is decided by whoever owns the child.

use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{ioctl_fionbio, ioctl_fionread};

/// The size of the largest piece that is read at once: the usual capacity of a pipe.
pub(super) const PIECE: usize = 64 << 10;

/// One stream of output of a child.
pub(super) struct OutputPipe(PipeReader);

impl OutputPipe {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&pipe, true)?;
        Ok(Self(pipe.into()))
    }

    /// Reads what is there: 0 when that is nothing now, `None` when nobody can write any more.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.0.read(buffer) {
            Ok(count @ 1..) => Some(count),
            Err(error) if is_momentary(&error) => Some(0),
            Ok(0) | Err(_) => None,
        }
    }

    /// How many bytes are in the pipe at this moment.
    pub(super) fn waiting(&self) -> usize {
        ioctl_fionread(&self.0).ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }
}

impl AsFd for OutputPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Nothing is wrong, there is just nothing to do now.
pub(super) fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
