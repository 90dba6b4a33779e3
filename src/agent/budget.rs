//! The memory that the unfinished large messages of all connections of a listener share.
//!
//! A message reserves all the memory that it may need at once, before its bytes are read. A connection that has a share
//! therefore never waits for another connection, and two connections cannot wait for each other. Waiting connections
//! get their shares in the order of their requests.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

pub(super) struct Budget {
    total: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: usize,
    next: u64,
    /// The turns of the connections that wait, the earliest at the front.
    waiting: VecDeque<u64>,
}

/// A part of the budget. Given back when dropped.
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(total: usize) -> Arc<Self> {
        let state = Mutex::new(State { free: total, next: 0, waiting: VecDeque::new() });
        Arc::new(Self { total, state, changed: Condvar::new() })
    }

    /// Blocks until `bytes` bytes are free, or the whole budget if that is less. Returns `None` if the connection ends
    /// before that; call [`look_again`](Self::look_again) when a connection has ended.
    pub(super) fn take(self: &Arc<Self>, bytes: usize, has_ended: impl Fn() -> bool) -> Option<Share> {
        let bytes = bytes.min(self.total);
        let mut state = self.state.lock();
        let turn = state.next;
        state.next += 1;
        state.waiting.push_back(turn);
        let ended = loop {
            if has_ended() {
                break true;
            }
            if state.waiting.front() == Some(&turn) && state.free >= bytes {
                break false;
            }
            self.changed.wait(&mut state);
        };
        state.waiting.retain(|other| *other != turn);
        // There may be enough memory for the next connection as well.
        self.changed.notify_all();
        if ended {
            return None;
        }
        state.free -= bytes;
        Some(Share { budget: self.clone(), bytes })
    }

    /// Tells a connection that waits here that it may have ended: its [`take`](Self::take) then returns `None`.
    pub(super) fn look_again(&self) {
        drop(self.state.lock());
        self.changed.notify_all();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.state.lock().free += self.bytes;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use crossbeam_channel::bounded;

    use super::*;

    fn await_waiting(budget: &Budget, count: usize) {
        while budget.state.lock().waiting.len() != count {
            thread::yield_now();
        }
    }

    #[test]
    fn a_large_request_is_not_overtaken_by_small_ones() {
        let budget = Budget::new(10);
        let first = budget.take(6, || false).expect("it is free");
        let (told, order) = bounded(2);
        let waiting: Vec<_> = [(1, 10), (2, 3)]
            .map(|(number, bytes)| {
                let (shared, told) = (budget.clone(), told.clone());
                let thread = thread::spawn(move || {
                    let share = shared.take(bytes, || false);
                    told.send(number).unwrap();
                    drop(share);
                });
                await_waiting(&budget, number);
                thread
            })
            .into();
        assert!(order.is_empty(), "3 bytes are free, but another one came first");
        drop(first);
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(budget.state.lock().free, 10);
    }

    #[test]
    fn a_connection_that_ends_stops_waiting_and_holds_up_no_other() {
        let budget = Budget::new(10);
        let share = budget.take(100, || false).expect("more than there is is all that there is");
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, over) = (budget.clone(), ended.clone());
        let thread = thread::spawn(move || shared.take(1, || over.load(Ordering::SeqCst)).is_none());
        await_waiting(&budget, 1);
        ended.store(true, Ordering::SeqCst);
        budget.look_again();
        assert!(thread.join().unwrap());
        drop(share);
        assert!(budget.take(10, || false).is_some());
    }
}
