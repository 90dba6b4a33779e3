//! Looks at the arguments of all processes of this machine, again and again, for as long as a check wants it: everybody
//! on a machine can read them. Only on Linux.
//!
//! A process that lives shorter than a look at all of them may be missed.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::record::SharedRecord;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(1);
/// How long a process may take to have arguments. One that has none for so long has taken them away.
const STARTING: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    thread: JoinHandle<Option<PathBuf>>,
    /// Disconnected when the watch is to end.
    end: Sender<Infallible>,
}

impl Watch {
    /// Looks for every secret that the record knows by then.
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

    /// Blocks until all processes that are there have been looked at once more. The file that shows a secret.
    pub(super) fn end(self) -> Option<PathBuf> {
        drop(self.end);
        self.thread.join().ok().flatten()
    }
}

struct Look {
    found: Option<PathBuf>,
    /// A process has no arguments yet: whoever starts one goes on a moment before it has them.
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

/// Not so a process that has ended, and a thread of the kernel.
fn has_memory(arguments: &Path) -> bool {
    let status = fs::read(arguments.with_file_name("status")).unwrap_or_default();
    status.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"VmSize:"))
}
