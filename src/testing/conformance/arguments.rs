//! Searches the arguments of all processes of this machine for secrets during a check, because every user can read
//! them. Only on Linux.
//!
//! A process may be missed if it ends before a scan reaches it.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::record::SharedRecord;

/// The pause between two scans.
const PAUSE: Duration = Duration::from_millis(1);
/// How long a new process may have no arguments. A process without arguments for longer has removed them.
const STARTING: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    thread: JoinHandle<Option<PathBuf>>,
    /// Disconnected when the watch is to end.
    end: Sender<Infallible>,
}

impl Watch {
    /// Starts the search for all secrets in the record, including those that are added later.
    pub(super) fn begin(record: SharedRecord) -> std::io::Result<Self> {
        let (end, over) = bounded(0);
        let watch = move || {
            loop {
                if let Some(path) = look(&record).found {
                    return Some(path);
                }
                if over.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected) {
                    return settled_look(&record);
                }
            }
        };
        Ok(Self { thread: Builder::new().name("conformance arguments".into()).spawn(watch)?, end })
    }

    /// Blocks until all processes have been scanned once more. Returns the file that shows a secret, if any.
    pub(super) fn end(self) -> Option<PathBuf> {
        drop(self.end);
        self.thread.join().ok().flatten()
    }
}

struct Look {
    found: Option<PathBuf>,
    /// A process has no arguments yet: its parent continues before the process has them.
    one_is_starting: bool,
}

fn look(record: &SharedRecord) -> Look {
    let mut one_is_starting = false;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path().join("cmdline")).find(|path| {
        let arguments = fs::read(path).unwrap_or_default();
        one_is_starting |= arguments.is_empty() && has_memory(path);
        record.has_secret(&String::from_utf8_lossy(&arguments))
    });
    Look { found, one_is_starting }
}

fn settled_look(record: &SharedRecord) -> Option<PathBuf> {
    let begin = Instant::now();
    loop {
        let look = look(record);
        if look.found.is_some() || !look.one_is_starting || begin.elapsed() >= STARTING {
            return look.found;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Returns false for a process that has ended, and for a kernel thread.
fn has_memory(arguments: &Path) -> bool {
    let status = fs::read(arguments.with_file_name("status")).unwrap_or_default();
    status.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"VmSize:"))
}
