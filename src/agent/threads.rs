//! The threads of one listener: named, counted, joined when they have ended, waited for with a bound.

use std::io;
use std::sync::Arc;
use std::thread::{self, Builder, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
pub(super) struct Threads {
    inner: Mutex<Inner>,
    ended: Condvar,
}

#[derive(Default)]
struct Inner {
    live: usize,
    /// Of those that live, and of some that have ended since the last one was spawned.
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn spawn(self: &Arc<Self>, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.inner.lock().live += 1;
        // Counted down when the thread ends, and also when there is none.
        let end = End(self.clone());
        let handle = Builder::new().name(name.to_owned()).spawn(move || {
            let _end = end;
            body();
        })?;
        let mut inner = self.inner.lock();
        let handles = std::mem::take(&mut inner.handles).into_iter().chain([handle]);
        let (ended, live) = handles.partition(JoinHandle::is_finished);
        inner.handles = live;
        drop(inner);
        join(ended);
        Ok(())
    }

    /// Waits until no thread is left and joins them; `false` when that did not happen in time. On one of these threads
    /// it does not wait.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        let mut inner = self.inner.lock();
        let own = thread::current().id();
        if inner.handles.iter().any(|handle| handle.thread().id() == own) {
            return false;
        }
        while inner.live > 0 {
            if self.ended.wait_until(&mut inner, deadline).timed_out() && inner.live > 0 {
                return false;
            }
        }
        let ended = std::mem::take(&mut inner.handles);
        drop(inner);
        join(ended);
        true
    }
}

/// They have nothing left to do. Should one have panicked, the panic hook has told.
fn join(ended: Vec<JoinHandle<()>>) {
    ended.into_iter().for_each(|handle| drop(handle.join()));
}

/// Counts a thread down when it is dropped.
struct End(Arc<Threads>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.inner.lock().live -= 1;
        self.0.ended.notify_all();
    }
}
