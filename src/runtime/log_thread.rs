//! The thread that writes events to the log.
//!
//! A logger is user code: it may be slow, hang, panic or call the library. So it has a thread of its own, which is an
//! observer like any other: nobody waits for it, and what does not fit into its channel is missed, and said to be.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::observers::Observers;
use super::threads;
use crate::event::{Event, EventKind};
use crate::worker::Reclaimed;

/// How many events may wait to be written.
const CAPACITY: usize = 4096;
/// How long the end of the thread is waited for at most.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct LogThread {
    handle: JoinHandle<()>,
    /// Disconnected when everything is written.
    written: Receiver<Infallible>,
}

impl LogThread {
    /// Starts the thread, unless nothing would be written. The log's level is looked at here and not again.
    pub(super) fn start(observers: &Observers, master: u64) -> io::Result<Option<Self>> {
        if log::max_level() < log::LevelFilter::Warn {
            return Ok(None);
        }
        let events = observers.subscribe_log(CAPACITY);
        let (writing, written) = bounded(0);
        let handle = Builder::new().name("lw log".to_owned()).spawn(move || {
            threads::belong_to(master);
            write_all(&events);
            drop(writing);
        })?;
        Ok(Some(Self { handle, written }))
    }

    /// Writes what is left, and ends the thread if the logger lets it end within `limit`.
    pub(super) fn end(self, observers: &Observers, limit: Duration) {
        observers.end_log();
        if self.written.recv_timeout(limit.min(PATIENCE)).is_err_and(|error| error.is_disconnected()) {
            // It has nothing left to do, and its panics were caught.
            let _ = self.handle.join();
        }
    }
}

fn write_all(events: &Receiver<Event>) {
    let mut expected = 0;
    for event in events {
        if event.sequence > expected {
            let missed = event.sequence - expected;
            write(log::Level::Warn, &format_args!("{missed} events are missing here: the log was too slow for them"));
        }
        expected = event.sequence + 1;
        write(level(&event.kind), &event);
    }
}

fn write(level: log::Level, line: &dyn std::fmt::Display) {
    let write = || log::log!(target: "latent_worker", level, "{line}");
    if let Err(payload) = catch_unwind(AssertUnwindSafe(write)) {
        // There is nobody to tell that the logger panicked, and its payload may do so again.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    }
}

/// Failures are warnings, what people follow is information, the rest is for debugging.
fn level(event: &EventKind) -> log::Level {
    match event {
        EventKind::StartReturned { result: Err(_) }
        | EventKind::CheckReturned { result: Err(_) }
        | EventKind::StopReturned { result: Err(_) }
        | EventKind::LeftBehind { .. }
        | EventKind::ReclaimReturned { result: Err(_) | Ok(Reclaimed::Unsupported), .. }
        | EventKind::JournalTrouble { .. }
        | EventKind::Quarantined { .. }
        | EventKind::AttachRefused { .. }
        | EventKind::Panicked { .. }
        | EventKind::Abandoned { .. } => log::Level::Warn,
        EventKind::Substantiated { .. }
        | EventKind::StopCalled { .. }
        | EventKind::ReclaimReturned { .. }
        | EventKind::BuildStarted
        | EventKind::BuildFinished { .. }
        | EventKind::Shutdown { .. } => log::Level::Info,
        _ => log::Level::Debug,
    }
}
