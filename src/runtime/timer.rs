//! The one thread that waits for deadlines: those of all workers, of the queue, of the list of leftovers, and the sleeps of drivers.
//!
//! What is due is handed to a function that never calls user code, so that nothing can hold the thread up.

use std::collections::BTreeMap;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex, ReentrantMutex};

use crate::clock::Clock;
use crate::placement::WorkerIndex;

#[derive(Default)]
pub(super) struct Timer {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Held while deadlines are handled. Reentrant, because a logger may move a clock.
    firing: ReentrantMutex<()>,
}

#[derive(Default)]
struct Inner {
    /// At most one entry for each worker and each sleep, one for the queue and one for the leftovers.
    due: BTreeMap<(Instant, Key), Option<Sender<()>>>,
    next_sleep: u64,
    /// Grows when the first entry or the closing flag has changed: what a waiting thread must look at again.
    generation: u64,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Worker(WorkerIndex),
    Queue,
    Leftovers,
    Sleep(u64),
}

/// What is to be looked after now, and when that was to be.
pub(super) enum Due {
    Worker(WorkerIndex, Instant),
    Queue(Instant),
    Leftovers(Instant),
}

/// A sleep under way; dropping it takes it off the list.
pub(super) struct Sleep<'a> {
    timer: &'a Timer,
    key: (Instant, Key),
    over: Receiver<()>,
}

impl Sleep<'_> {
    pub(super) fn over(&self) -> &Receiver<()> {
        &self.over
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.timer.inner.lock().due.remove(&self.key);
    }
}

impl Timer {
    /// Has the worker looked after at `at`, and not at `instead_of`.
    pub(super) fn set(&self, worker: WorkerIndex, instead_of: Option<Instant>, at: Instant) {
        self.move_to(Key::Worker(worker), instead_of, at);
    }

    /// Has the queue looked after at `at`, and not at `instead_of`.
    pub(super) fn set_queue(&self, instead_of: Option<Instant>, at: Instant) {
        self.move_to(Key::Queue, instead_of, at);
    }

    /// Has the leftovers looked after at `at`, and not at `instead_of`.
    pub(super) fn set_reclaim(&self, instead_of: Option<Instant>, at: Instant) {
        self.move_to(Key::Leftovers, instead_of, at);
    }

    fn move_to(&self, key: Key, instead_of: Option<Instant>, at: Instant) {
        let mut inner = self.inner.lock();
        if let Some(old) = instead_of {
            inner.due.remove(&(old, key));
        }
        self.insert(&mut inner, (at, key), None);
    }

    pub(super) fn sleep(&self, until: Instant) -> Sleep<'_> {
        let (sender, over) = bounded(1);
        let mut inner = self.inner.lock();
        inner.next_sleep += 1;
        let key = (until, Key::Sleep(inner.next_sleep));
        self.insert(&mut inner, key, Some(sender));
        Sleep { timer: self, key, over }
    }

    fn insert(&self, inner: &mut Inner, key: (Instant, Key), sender: Option<Sender<()>>) {
        let is_first = inner.due.first_key_value().is_none_or(|(first, _)| key < *first);
        inner.due.insert(key, sender);
        if is_first {
            inner.generation += 1;
            self.changed.notify_one();
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.generation += 1;
        self.changed.notify_one();
    }

    /// Takes the first entry that is due: wakes a sleeper, or returns what is to be looked after.
    fn take_due(&self, now: Instant) -> Option<Option<Due>> {
        let mut inner = self.inner.lock();
        let entry = inner.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        match entry.remove_entry() {
            ((at, Key::Worker(worker)), _) => Some(Some(Due::Worker(worker, at))),
            ((at, Key::Queue), _) => Some(Some(Due::Queue(at))),
            ((at, Key::Leftovers), _) => Some(Some(Due::Leftovers(at))),
            ((_, Key::Sleep(_)), sender) => {
                if let Some(sender) = sender {
                    // Room for one and sent once: cannot fail but by the sleeper being gone.
                    let _ = sender.try_send(());
                }
                Some(None)
            }
        }
    }

    /// Does all that is due. Runs on the timer thread, and on the thread that moves a clock by hand; when it returns,
    /// what the other one has begun is done as well.
    pub(super) fn fire(&self, clock: &dyn Clock, mut on_due: impl FnMut(Due)) {
        let _firing = self.firing.lock();
        while let Some(due) = self.take_due(clock.now()) {
            if let Some(due) = due {
                on_due(due);
            }
        }
    }

    /// Waits until something may be due; `false` when the timer is closed. The clock is asked without the lock, since a
    /// user may have brought it.
    pub(super) fn wait(&self, clock: &dyn Clock) -> bool {
        let (generation, first) = {
            let inner = self.inner.lock();
            if inner.closed {
                return false;
            }
            (inner.generation, inner.due.first_key_value().map(|((at, _), _)| *at))
        };
        let real_time = first.and_then(|at| clock.real_time_until(at));
        let mut inner = self.inner.lock();
        if inner.generation == generation {
            match real_time {
                Some(time) => {
                    self.changed.wait_for(&mut inner, time);
                }
                None => self.changed.wait(&mut inner),
            }
        }
        !inner.closed
    }
}
