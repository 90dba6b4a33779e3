//! Creates the directory of one instance on this machine, and removes it with everything that builds have left in it.

use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::removal::remove_anything;
use crate::{Leftover, StopError};

/// How long a removal may take while it makes progress. Without progress it ends after about a second.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long a removal may continue after its reclaim was cancelled: long enough for a small directory.
const CANCELLED_PATIENCE: Duration = Duration::from_secs(1);

/// Creates a directory that no other user can enter, and that did not exist before.
pub(super) fn create(directory: &Path) -> io::Result<()> {
    if let Some(root) = directory.parent() {
        fs::create_dir_all(root).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                io::Error::new(ErrorKind::NotADirectory, format!("{} is not a directory", root.display()))
            }
            _ => error,
        })?;
    }
    fs::DirBuilder::new().mode(0o700).create(directory)
}

/// Removes the directory of an instance with everything in it. A missing directory counts as removed.
pub(super) fn remove(directory: &Path) -> Result<(), StopError> {
    remove_unless(directory, &|| Ok(()))
}

/// Removes a directory that an earlier attempt has left.
pub(super) fn remove_left(directory: &Path, leftover: &Leftover) -> Result<(), StopError> {
    let cancelled_since = Cell::new(None);
    remove_unless(directory, &|| {
        if leftover.cancelled() && cancelled_since.get().is_none() {
            cancelled_since.set(Some(Instant::now()));
        }
        match cancelled_since.get() {
            Some(since) if since.elapsed() >= CANCELLED_PATIENCE => {
                Err(io::Error::other("the reclaim was cancelled; the next one continues"))
            }
            _ => Ok(()),
        }
    })
}

fn remove_unless(directory: &Path, go_on: &dyn Fn() -> io::Result<()>) -> Result<(), StopError> {
    let begin = Instant::now();
    let in_time = || {
        if begin.elapsed() < PATIENCE {
            return go_on();
        }
        let reason = format!("timed out after {PATIENCE:?}; some processes may still write");
        Err(io::Error::new(ErrorKind::TimedOut, reason))
    };
    remove_anything(directory, &in_time)
        .map_err(|error| StopError::new(format!("cannot remove {}: {error}", directory.display())))
}
