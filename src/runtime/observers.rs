//! Where events are numbered and handed to observers and to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::fence::write_log;
use crate::build::{BuildId, Epoch};
use crate::event::{Event, EventKind};

/// The observers of one master.
///
/// Its lock is the last one in the order of locks: events are published while the state that they tell of is locked, so
/// that their numbers give the true order.
pub(super) struct Observers {
    origin: Instant,
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    next_sequence: u64,
    last_at: Duration,
    observers: Vec<Observer>,
}

struct Observer {
    sender: Sender<Event>,
    capacity: usize,
}

/// What an event is about.
#[derive(Clone, Default)]
pub(super) struct About {
    pub(super) worker: Option<Arc<str>>,
    pub(super) epoch: Option<Epoch>,
    pub(super) build: Option<BuildId>,
}

impl Observers {
    pub(super) fn new(origin: Instant) -> Self {
        let inner = Inner { next_sequence: 0, last_at: Duration::ZERO, observers: Vec::new() };
        Self { origin, count: AtomicUsize::new(0), inner: Mutex::new(inner) }
    }

    /// The channel is unbounded in type and bounded by the count: a bounded one would take all its memory at once.
    pub(super) fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        let (sender, receiver) = unbounded();
        let mut inner = self.inner.lock();
        inner.observers.push(Observer { sender, capacity });
        self.count.store(inner.observers.len(), Ordering::Release);
        receiver
    }

    /// Whether it is worth making events at all.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0 || log::max_level() >= log::LevelFilter::Info
    }

    /// Numbers the event and hands it out; never blocks. Returns it when it is to be logged, which is done by the
    /// caller without any lock: a logger is user code.
    pub(super) fn publish(&self, now: Instant, about: About, kind: EventKind) -> Option<Event> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let sequence = inner.next_sequence;
        inner.next_sequence += 1;
        inner.last_at = inner.last_at.max(now.saturating_duration_since(self.origin));
        let About { worker, epoch, build } = about;
        let event = Event { sequence, at: inner.last_at, worker, epoch, build, kind };
        // A send fails only when the receiver is gone. One that is too slow misses the event and sees the gap.
        inner.observers.retain(|observer| {
            observer.sender.len() >= observer.capacity || observer.sender.send(event.clone()).is_ok()
        });
        self.count.store(inner.observers.len(), Ordering::Release);
        (log::max_level() >= log::LevelFilter::Info).then_some(event)
    }
}

/// Writes an event to the log. Failures are warnings, what people follow is information, the rest is for debugging.
pub(super) fn log(event: &Event) {
    let level = match &event.kind {
        EventKind::StartReturned { result: Err(_) }
        | EventKind::CheckReturned { result: Err(_) }
        | EventKind::StopReturned { result: Err(_) }
        | EventKind::Quarantined { .. }
        | EventKind::AttachRefused { .. } => log::Level::Warn,
        EventKind::Substantiated { .. }
        | EventKind::StopCalled { .. }
        | EventKind::BuildStarted
        | EventKind::BuildFinished { .. }
        | EventKind::Shutdown { .. } => log::Level::Info,
        _ => log::Level::Debug,
    };
    write_log(level, format_args!("{event}"));
}
