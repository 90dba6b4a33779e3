//! What is still to be written to one socket: filled by many threads without blocking, emptied by one at a time.
//!
//! It is one run of whole frames, so that many small messages leave in one system call. Whoever adds something while
//! nothing waits may write it at once, as far as the socket takes it without waiting: that saves waking a thread. The rest
//! is for the writing thread. It knows nothing of sockets.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tungstenite::protocol::frame::Frame;

/// Above this many bytes, who can wait does …
const ROOM: usize = 256 << 10;
/// … but not for ever: a peer that reads now and then would hold it up as long as it likes.
const PATIENCE: Duration = Duration::from_secs(10);
/// A buffer larger than this is not kept for the next bytes.
const KEEP: usize = 64 << 10;

pub(super) struct Outbox {
    state: Mutex<State>,
    /// For the writing thread: there is something to do.
    work: Condvar,
    /// For all others: something was taken, or all is over.
    room: Condvar,
}

struct State {
    bytes: Vec<u8>,
    /// How many of these bytes are answers of the reading thread.
    answers: usize,
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

impl State {
    /// For whoever writes next; nothing when somebody does so already, who looks for more then.
    fn take(&mut self) -> Option<Vec<u8>> {
        let free = !self.writing && !self.bytes.is_empty();
        free.then(|| {
            self.writing = true;
            self.answers = 0;
            std::mem::take(&mut self.bytes)
        })
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        let state = State { bytes: Vec::new(), answers: 0, writing: false, phase: Phase::Open };
        Self { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new() }
    }

    /// Adds frames. Does not block; nothing happens when it is not open any more. When nobody writes all that waits comes
    /// back, and whoever added them writes what can be written at once, and gives the rest to [`written`](Self::written).
    #[must_use = "what comes back is to be written"]
    pub(super) fn push(&self, frames: impl IntoIterator<Item = Frame>) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return None;
        }
        frames.into_iter().for_each(|frame| frame.format(&mut state.bytes).expect("memory takes it"));
        state.take()
    }

    /// Adds an answer of the reading thread, which is to [take](Self::take) it soon, unless others come first.
    pub(super) fn push_answer(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            let before = state.bytes.len();
            write(&mut state.bytes);
            state.answers += state.bytes.len() - before;
        }
    }

    /// What waits to be written, unless somebody else writes; as with [`push`](Self::push).
    #[must_use = "what comes back is to be written"]
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        if state.phase == Phase::Open { state.take() } else { None }
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
        // The writing thread may wait for bytes, or for the end of this.
        let quiet = state.bytes.is_empty() && state.phase == Phase::Open;
        drop(state);
        self.room.notify_all();
        if !quiet {
            self.work.notify_one();
        }
    }

    /// Blocks while too much waits: until it was written, the connection has ended, or 10 s are over.
    pub(super) fn wait_for_room(&self) {
        let full = |state: &mut State| state.phase == Phase::Open && state.bytes.len() > ROOM;
        self.room.wait_while_for(&mut self.state.lock(), full, PATIENCE);
    }

    /// Blocks while too many answers wait, which a peer asks for and does not read: until they were written or the
    /// connection has ended; the writing thread sees to it that one of these comes. What others have to say does not
    /// count: if both sides of a connection stopped reading because of that, neither would ever go on.
    pub(super) fn wait_for_room_to_answer(&self) {
        let mut state = self.state.lock();
        while state.phase == Phase::Open && state.answers > ROOM {
            self.room.wait(&mut state);
        }
    }

    /// Blocks until all is over, after [`finish`](Self::finish) or [`close`](Self::close).
    pub(super) fn wait_for_end(&self) {
        let mut state = self.state.lock();
        while let Phase::Finishing(until) = state.phase {
            if self.room.wait_until(&mut state, until).timed_out() {
                return;
            }
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
            self.room.notify_all();
            self.work.notify_one();
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
                Phase::Finishing(until) => until,
                Phase::Open => due,
            };
            if let Some(bytes) = state.take() {
                drop(state);
                self.room.notify_all();
                return Next::Write(bytes);
            }
            let before = (state.phase, state.writing);
            let timed_out = self.work.wait_until(&mut state, until).timed_out();
            if timed_out && (state.phase, state.writing) == before && (state.writing || state.bytes.is_empty()) {
                return if state.phase == Phase::Open { Next::Due } else { Next::Closed };
            }
        }
    }
}
