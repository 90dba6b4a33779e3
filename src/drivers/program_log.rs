//! Writes what programs say to the log, on one thread for each driver.
//!
//! A logger is user code: it may be slow, hang or panic. So nobody waits for it; lines that it is too slow for are
//! missed, and their number is logged instead.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// How many lines may wait to be written.
const CAPACITY: usize = 1024;
/// How long the end of the thread is waited for at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread, from the first moment that it is needed. Nothing is started while the log takes no debug messages.
#[derive(Default)]
pub(super) struct ProgramLog(OnceLock<Option<Writer>>);

struct Writer {
    /// `None` when it is to end.
    lines: Option<LogSender>,
    /// Disconnected when everything is written.
    written: Receiver<Infallible>,
    thread: Option<JoinHandle<()>>,
}

/// The way to the thread.
#[derive(Clone)]
pub(super) struct LogSender {
    lines: Sender<String>,
    missed: Arc<AtomicU64>,
}

impl LogSender {
    /// Never blocks.
    pub(super) fn send(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ProgramLog {
    /// `None` when nothing would be written.
    pub(super) fn sender(&self) -> Option<LogSender> {
        // Not `log_enabled!`, which asks the logger.
        if log::max_level() < log::LevelFilter::Debug {
            return None;
        }
        self.0.get_or_init(Writer::start).as_ref().and_then(|writer| writer.lines.clone())
    }
}

impl Writer {
    /// Without a thread there is no log; that is no reason to fail.
    fn start() -> Option<Self> {
        let (lines, received) = bounded::<String>(CAPACITY);
        let (writing, written) = bounded(0);
        let lines = LogSender { lines, missed: Arc::default() };
        let missed = lines.missed.clone();
        let thread = Builder::new().name("program log".into()).spawn(move || {
            for line in received {
                write(&line);
                match missed.swap(0, Ordering::Relaxed) {
                    0 => {}
                    missed => write(&format!("{missed} lines are missing here: the log was too slow for them")),
                }
            }
            drop(writing);
        });
        Some(Self { lines: Some(lines), written, thread: Some(thread.ok()?) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        if self.written.recv_timeout(PATIENCE).is_err_and(|error| error.is_disconnected())
            && let Some(thread) = self.thread.take()
        {
            // It has nothing left to do, and its panics were caught.
            let _ = thread.join();
        }
    }
}

fn write(line: &str) {
    let write = || log::debug!(target: "latent_worker", "{line}");
    if let Err(payload) = catch_unwind(AssertUnwindSafe(write)) {
        // There is nobody to tell that the logger panicked, and its payload may do so again.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    }
}
