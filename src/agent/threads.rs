//! The threads of one listener or one connection: named, counted, used again, joined when they have ended, waited for with a
//! bound.

use std::io;
use std::sync::Arc;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};

/// How long a thread waits for something else to do: a thread more is a good part of what a short command costs.
const IDLE: Duration = Duration::from_secs(5);

type Body = Box<dyn FnOnce() + Send>;

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
    /// Those that wait for something to do, the one that began last at the end.
    idle: Vec<(u64, Sender<Body>)>,
    next_idle: u64,
    closing: bool,
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

    /// As [`spawn`](Self::spawn), on a thread that has been used before if there is one. All such bodies are of one kind:
    /// a name is not changed.
    pub(super) fn run(self: &Arc<Self>, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut body: Body = Box::new(body);
        {
            // With the lock held: who gives up waiting does so under it, and looks once more then.
            let mut inner = self.inner.lock();
            while let Some((_, thread)) = inner.idle.pop() {
                match thread.try_send(body) {
                    Ok(()) => return Ok(()),
                    Err(back) => body = back.into_inner(),
                }
            }
        }
        let threads = self.clone();
        self.spawn(name, move || {
            let mut next = Some(body);
            while let Some(body) = next.take() {
                body();
                next = threads.next_body();
            }
        })
    }

    /// Waits for something else to do.
    fn next_body(&self) -> Option<Body> {
        let (sender, bodies) = bounded(1);
        let number = {
            let mut inner = self.inner.lock();
            if inner.closing {
                return None;
            }
            inner.next_idle += 1;
            let number = inner.next_idle;
            inner.idle.push((number, sender));
            number
        };
        bodies.recv_timeout(IDLE).ok().or_else(|| {
            self.inner.lock().idle.retain(|(other, _)| *other != number);
            // It may have come just before that.
            bodies.try_recv().ok()
        })
    }

    /// Waits until no thread is left and joins them; `false` when that did not happen in time. On one of these threads
    /// it does not wait.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        let mut inner = self.inner.lock();
        let own = thread::current().id();
        if inner.handles.iter().any(|handle| handle.thread().id() == own) {
            return false;
        }
        inner.closing = true;
        let idle = std::mem::take(&mut inner.idle);
        drop(idle);
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

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn run(threads: &Arc<Threads>) -> thread::ThreadId {
        let (told, id) = bounded(1);
        threads.run("test", move || told.send(thread::current().id()).unwrap()).unwrap();
        id.recv_timeout(LONG).unwrap()
    }

    fn await_idle(threads: &Threads, count: usize) {
        let deadline = Instant::now() + LONG;
        // Nobody tells.
        while threads.inner.lock().idle.len() != count {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }

    #[test]
    fn a_thread_that_has_nothing_to_do_is_used_again_and_ends_with_the_others() {
        let threads = Arc::new(Threads::default());
        let first = run(&threads);
        await_idle(&threads, 1);
        assert_eq!(run(&threads), first);
        let (hold, held) = bounded::<()>(0);
        await_idle(&threads, 1);
        threads.run("test", move || _ = held.recv()).unwrap();
        assert_ne!(run(&threads), first, "it is busy");
        await_idle(&threads, 1);
        assert!(!threads.wait(Instant::now()), "one of them is held");
        drop(hold);
        assert!(threads.wait(Instant::now() + LONG));
        assert_eq!(threads.inner.lock().live, 0);
    }

    #[test]
    fn a_body_that_panics_takes_its_thread_with_it_alone() {
        let threads = Arc::new(Threads::default());
        threads.run("panics on purpose", || panic!("on purpose")).unwrap();
        run(&threads);
        assert!(threads.wait(Instant::now() + LONG));
    }
}
