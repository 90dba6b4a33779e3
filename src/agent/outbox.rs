//! What is still to be written to one socket: filled by many threads without blocking, emptied by one at a time.
//!
//! It is one run of whole frames, so that many small messages leave in one system call. Whoever adds something while
//! nothing waits may write it at once, as far as the socket takes it without waiting: that saves waking a thread. The rest
//! is for the writing thread. It knows nothing of sockets.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};
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
    /// Somebody writes what was here before.
    writing: bool,
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
    /// To be given to [`Outbox::written`].
    Write(Vec<u8>),
    /// It is the time that was asked for.
    Due,
    Closed,
}

impl Outbox {
    pub(super) fn new() -> Self {
        let state = State { bytes: Vec::new(), writing: false, phase: Phase::Open };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds whole frames. Does not block; nothing happens when it is not open any more. When nothing else waits they come
    /// back, and whoever added them writes what can be written at once, and gives the rest to [`written`](Self::written).
    #[must_use = "what comes back is to be written"]
    pub(super) fn push_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.push_with(|buffer| buffer.extend_from_slice(bytes))
    }

    /// Adds frames, as [`push_bytes`](Self::push_bytes).
    #[must_use = "what comes back is to be written"]
    pub(super) fn push(&self, frames: impl IntoIterator<Item = Frame>) -> Option<Vec<u8>> {
        self.push_with(|buffer| {
            frames.into_iter().for_each(|frame| frame.format(&mut *buffer).expect("memory takes it"));
        })
    }

    fn push_with(&self, write: impl FnOnce(&mut Vec<u8>)) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return None;
        }
        write(&mut state.bytes);
        if state.writing {
            // Whoever writes looks for more.
            return None;
        }
        state.writing = true;
        Some(std::mem::take(&mut state.bytes))
    }

    /// The first `count` of these bytes, which were taken from here, are written; the rest is for the writing thread.
    pub(super) fn written(&self, mut bytes: Vec<u8>, count: usize) {
        let mut state = self.state.lock();
        state.writing = false;
        bytes.drain(..count);
        if !state.bytes.is_empty() {
            bytes.append(&mut state.bytes);
            state.bytes = bytes;
        } else if !bytes.is_empty() || bytes.capacity() <= KEEP {
            state.bytes = bytes;
        }
        // The writing thread may wait for bytes or for the end of this, and others for room.
        let quiet = state.bytes.is_empty() && state.phase == Phase::Open;
        drop(state);
        if !quiet {
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

    /// Blocks until there is something to write, it is `due`, or all is over.
    pub(super) fn next(&self, due: Instant) -> Next {
        let mut state = self.state.lock();
        loop {
            let until = match state.phase {
                Phase::Closed => return Next::Closed,
                _ if !state.writing && !state.bytes.is_empty() => {
                    state.writing = true;
                    let bytes = std::mem::take(&mut state.bytes);
                    drop(state);
                    // There is room now.
                    self.changed.notify_all();
                    return Next::Write(bytes);
                }
                Phase::Finishing(until) => until,
                Phase::Open => due,
            };
            let before = (state.phase, state.writing);
            let timed_out = self.changed.wait_until(&mut state, until).timed_out();
            if timed_out && (state.phase, state.writing) == before && (state.writing || state.bytes.is_empty()) {
                return if state.phase == Phase::Open { Next::Due } else { Next::Closed };
            }
        }
    }
}
