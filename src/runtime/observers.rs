//! Where events are numbered and handed to observers, of whom the log is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

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
    is_log: bool,
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

    pub(super) fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        self.add(capacity, false)
    }

    /// For the log, which is ended by [`end_log`](Observers::end_log).
    pub(super) fn subscribe_log(&self, capacity: usize) -> Receiver<Event> {
        self.add(capacity, true)
    }

    /// The channel is unbounded in type and bounded by the count: a bounded one would take all its memory at once.
    fn add(&self, capacity: usize, is_log: bool) -> Receiver<Event> {
        let (sender, receiver) = unbounded();
        let mut inner = self.inner.lock();
        inner.observers.push(Observer { sender, capacity: capacity.max(1), is_log });
        self.count.store(inner.observers.len(), Ordering::Release);
        receiver
    }

    /// The log is told nothing more.
    pub(super) fn end_log(&self) {
        let mut inner = self.inner.lock();
        inner.observers.retain(|observer| !observer.is_log);
        self.count.store(inner.observers.len(), Ordering::Release);
    }

    /// Whether it is worth making events at all.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Numbers the event and hands it out; never blocks.
    pub(super) fn publish(&self, now: Instant, about: About, kind: EventKind) {
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
    }
}
