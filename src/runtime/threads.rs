//! The instance threads of one master: counted from the moment they are wanted, joined when they end.
//!
//! A thread that ends joins the one that ended before it, which has nothing left to do; so at any time at most one
//! ended thread is not joined, and no thread ever joins itself. [`Threads::wait`] joins the last one.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

thread_local! {
    /// The master that this thread works for, if it is a thread of the library.
    static MASTER: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes the current thread one of the library's.
pub(super) fn belong_to(master: u64) {
    MASTER.set(Some(master));
}

/// Whether the current thread is one of the library's that works for this master: one that must not wait for itself.
pub(super) fn belongs_to(master: u64) -> bool {
    MASTER.get() == Some(master)
}

#[derive(Default)]
pub(super) struct Threads {
    inner: Mutex<Inner>,
    ended: Condvar,
}

#[derive(Default)]
struct Inner {
    /// Wanted, running or ending.
    live: usize,
    next: u64,
    /// Present from the return of the spawn to the end of the thread; `None` when the end came first.
    handles: HashMap<u64, Option<JoinHandle<()>>>,
    last_ended: Option<JoinHandle<()>>,
}

impl Threads {
    /// Counts a thread that will be spawned.
    pub(super) fn reserve(&self) {
        self.inner.lock().live += 1;
    }

    /// No thread is needed.
    pub(super) fn unreserve(&self) {
        let mut inner = self.inner.lock();
        inner.live -= 1;
        if inner.live == 0 {
            self.ended.notify_all();
        }
    }

    /// Spawns the thread that was reserved. On failure the reservation is taken back.
    ///
    /// `owner` is what these threads belong to: the end of the thread is noted there, also when `body` panics.
    pub(super) fn spawn<O: AsRef<Threads> + Send + 'static>(
        &self,
        name: String,
        owner: O,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let number = {
            let mut inner = self.inner.lock();
            inner.next += 1;
            inner.next
        };
        let spawned = Builder::new().name(name).spawn(move || {
            let _end = End { owner, number };
            body();
        });
        let mut inner = self.inner.lock();
        match spawned {
            Ok(handle) if inner.handles.remove(&number).is_some() => {
                // It has ended already.
                let earlier = inner.last_ended.replace(handle);
                self.count_down(inner, earlier);
                Ok(())
            }
            Ok(handle) => {
                inner.handles.insert(number, Some(handle));
                Ok(())
            }
            Err(error) => {
                inner.live -= 1;
                self.ended.notify_all();
                Err(error)
            }
        }
    }

    /// The last thing that a thread does.
    fn end(&self, number: u64) {
        let mut inner = self.inner.lock();
        match inner.handles.remove(&number) {
            Some(handle) => {
                let earlier = std::mem::replace(&mut inner.last_ended, handle);
                self.count_down(inner, earlier);
            }
            // The spawn has not returned yet; it does the rest.
            None => {
                inner.handles.insert(number, None);
            }
        }
    }

    fn count_down(&self, inner: MutexGuard<'_, Inner>, earlier: Option<JoinHandle<()>>) {
        drop(inner);
        join(earlier);
        let mut inner = self.inner.lock();
        inner.live -= 1;
        if inner.live == 0 {
            self.ended.notify_all();
        }
    }

    pub(super) fn live(&self) -> usize {
        self.inner.lock().live
    }

    /// Waits until no thread is left; `false` when that did not happen in time. No deadline is one beyond the end of
    /// time.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut inner = self.inner.lock();
        while inner.live > 0 {
            match deadline {
                Some(deadline) => {
                    if self.ended.wait_until(&mut inner, deadline).timed_out() && inner.live > 0 {
                        return false;
                    }
                }
                None => self.ended.wait(&mut inner),
            }
        }
        let last = inner.last_ended.take();
        drop(inner);
        join(last);
        true
    }
}

/// Notes the end of a thread when it is dropped.
struct End<O: AsRef<Threads>> {
    owner: O,
    number: u64,
}

impl<O: AsRef<Threads>> Drop for End<O> {
    fn drop(&mut self) {
        self.owner.as_ref().end(self.number);
    }
}

fn join(ended: Option<JoinHandle<()>>) {
    if let Some(handle) = ended {
        // All user code is fenced. Should the thread have panicked all the same, the panic hook has told.
        let _ = handle.join();
    }
}
