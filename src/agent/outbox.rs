//! What is still to be written to one socket: filled by many threads without blocking, emptied by one.
//!
//! It is one run of whole frames, so that many small messages leave in one system call. It knows nothing of sockets.

use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tungstenite::protocol::frame::Frame;

/// Above this many bytes, who can wait does.
const ROOM: usize = 256 << 10;
/// A buffer larger than this is not kept for the next bytes.
const KEEP: usize = 64 << 10;

pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    bytes: Vec<u8>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes nothing more; ends at this moment, or earlier when the peer is gone.
    Finishing(Instant),
    Closed,
}

/// What the writing thread has to do next.
pub(super) enum Next {
    Write(Vec<u8>),
    /// It is the time that was asked for.
    Due,
    Closed,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { bytes: Vec::new(), phase: Phase::Open }), changed: Condvar::new() }
    }

    /// Adds whole frames. Does not block; nothing happens when it is not open any more.
    pub(super) fn push_bytes(&self, bytes: &[u8]) {
        self.push_with(|buffer| buffer.extend_from_slice(bytes));
    }

    /// Adds one frame, as [`push_bytes`](Self::push_bytes).
    pub(super) fn push(&self, frame: Frame) {
        self.push_with(|buffer| frame.format(buffer).expect("memory takes it"));
    }

    fn push_with(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            write(&mut state.bytes);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Blocks while too much waits: until it was written or the connection has ended.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while state.phase == Phase::Open && state.bytes.len() > ROOM {
            self.changed.wait(&mut state);
        }
    }

    /// Writes what is here and nothing more; ends at `until` at the latest.
    pub(super) fn finish(&self, until: Instant) {
        self.end_phase(|phase| *phase == Phase::Open, Phase::Finishing(until));
    }

    /// Throws away what is left.
    pub(super) fn close(&self) {
        self.end_phase(|_| true, Phase::Closed);
    }

    fn end_phase(&self, applies: impl FnOnce(&Phase) -> bool, next: Phase) {
        let mut state = self.state.lock();
        if applies(&state.phase) {
            state.phase = next;
            drop(state);
            self.changed.notify_all();
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// Blocks until there is something to write, it is `due`, or all is over. `spent` is the buffer of the last write.
    pub(super) fn next(&self, due: Instant, mut spent: Vec<u8>) -> Next {
        let mut state = self.state.lock();
        loop {
            let until = match state.phase {
                Phase::Closed => return Next::Closed,
                _ if !state.bytes.is_empty() => {
                    spent.clear();
                    let spare = if spent.capacity() <= KEEP { spent } else { Vec::new() };
                    let bytes = std::mem::replace(&mut state.bytes, spare);
                    drop(state);
                    self.changed.notify_all();
                    return Next::Write(bytes);
                }
                Phase::Finishing(until) => until,
                Phase::Open => due,
            };
            if self.wait_until(&mut state, until) {
                return if state.phase == Phase::Open { Next::Due } else { Next::Closed };
            }
        }
    }

    /// Whether it is time and nothing has changed.
    fn wait_until(&self, state: &mut MutexGuard<'_, State>, until: Instant) -> bool {
        let before = state.phase;
        self.changed.wait_until(state, until).timed_out() && state.bytes.is_empty() && state.phase == before
    }
}
