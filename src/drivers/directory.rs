//! The directory of one instance on this machine: made for it alone, and removed with all that its builds have left.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::removal::remove_tree;

/// How long a stop tries to remove a directory of which nothing can be removed, how often, and how often at most.
const REMOVE_PATIENCE: Duration = Duration::from_secs(1);
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
const REMOVE_ROUNDS: u32 = 1000;

/// Creates a directory that nobody else can enter, and that was not there before.
pub(super) fn create(directory: &Path) -> io::Result<()> {
    if let Some(root) = directory.parent() {
        fs::create_dir_all(root)?;
    }
    fs::DirBuilder::new().mode(0o700).create(directory)
}

/// Removes a directory with all that is in it; one that is not there counts as removed. Ends with the last error when
/// `go_on` returns false.
///
/// It tries for a while: a process that was killed may be in the middle of creating a file, and nobody tells when it is
/// gone, because it is not our child. As long as something is removed the tree is just large.
pub(super) fn remove(directory: &Path, go_on: &mut dyn FnMut() -> bool) -> io::Result<()> {
    let mut begin = Instant::now();
    for _ in 0..REMOVE_ROUNDS {
        let Err(error) = remove_tree(directory, go_on) else { return Ok(()) };
        if error.progress > 0 {
            begin = Instant::now();
        }
        if error.source.kind() == ErrorKind::Interrupted || begin.elapsed() > REMOVE_PATIENCE {
            return Err(error.into());
        }
        thread::sleep(REMOVE_PAUSE);
    }
    Err(io::Error::new(ErrorKind::DirectoryNotEmpty, "new entries keep appearing in it"))
}
