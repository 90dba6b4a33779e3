//! What is still to be written to one socket: filled by many threads without blocking, emptied by one at a time.
//!
//! It is one run of whole frames, so that many small messages leave in one system call. Whoever adds something while
//! nothing waits may write it at once, as far as the socket takes it without waiting: that saves waking a thread. The rest
//! is for the writing thread. It knows nothing of sockets.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tungstenite::protocol::frame::Frame;

/// How many bytes may wait before a thread that adds more has to wait.
pub(super) const ROOM: usize = 256 << 10;
/// How many bytes of answers may wait before nothing more is read. Must be more than two blocks of files.
pub(super) const ROOM_FOR_ANSWERS: usize = 768 << 10;
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
    /// How many of these bytes are answers.
    answers: usize,
    /// What a thread is writing now, if any.
    under_way: Option<UnderWay>,
    phase: Phase,
}

/// Bytes that were taken and are not written yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct UnderWay {
    bytes: usize,
    answers: usize,
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
    /// Takes what the calling thread has to write next. Returns `None` while another thread writes: that thread looks
    /// for more afterwards.
    fn take(&mut self) -> Option<Vec<u8>> {
        let free = self.under_way.is_none() && !self.bytes.is_empty();
        free.then(|| {
            self.under_way = Some(UnderWay { bytes: self.bytes.len(), answers: std::mem::take(&mut self.answers) });
            std::mem::take(&mut self.bytes)
        })
    }

    /// How many bytes are not written yet.
    fn unwritten(&self) -> usize {
        self.bytes.len() + self.under_way.map_or(0, |under_way| under_way.bytes)
    }

    /// How many of the unwritten bytes are answers.
    fn unwritten_answers(&self) -> usize {
        self.answers + self.under_way.map_or(0, |under_way| under_way.answers)
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        let state = State { bytes: Vec::new(), answers: 0, under_way: None, phase: Phase::Open };
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

    /// Adds an answer to a request of the peer, which is written with the next bytes that are [taken](Self::take).
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
        bytes.drain(..count);
        let answers = state.under_way.take().map_or(0, |under_way| under_way.answers);
        state.answers += answers.min(bytes.len());
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

    /// Blocks while too much waits: until enough was written, the connection has ended, or `until` has passed. Returns
    /// whether there is room. After the end there always is, because nothing is kept then.
    pub(super) fn wait_for_room(&self, until: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.phase == Phase::Open && state.unwritten() > ROOM {
            match until {
                None => self.room.wait(&mut state),
                Some(until) if self.room.wait_until(&mut state, until).timed_out() => {
                    return state.phase != Phase::Open || state.unwritten() <= ROOM;
                }
                Some(_) => {}
            }
        }
        true
    }

    /// Blocks while too many answers wait because the peer requests and does not read them: until they were written or
    /// the connection has ended. The writing thread ensures that one of these happens. Other messages do not count: if
    /// both sides of a connection stopped reading because of them, neither would ever go on.
    pub(super) fn wait_for_room_to_answer(&self) {
        let mut state = self.state.lock();
        while state.phase == Phase::Open && state.unwritten_answers() > ROOM_FOR_ANSWERS {
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
            let before = (state.phase, state.under_way);
            let timed_out = self.work.wait_until(&mut state, until).timed_out();
            let idle = state.under_way.is_some() || state.bytes.is_empty();
            if timed_out && (state.phase, state.under_way) == before && idle {
                return if state.phase == Phase::Open { Next::Due } else { Next::Closed };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(outbox: &Outbox, length: usize) {
        outbox.push_answer(|buffer| buffer.resize(buffer.len() + length, 0));
    }

    /// The socket takes nothing: what is handed back counts as long as it is not written.
    #[test]
    fn answers_count_until_they_are_written() {
        let outbox = Outbox::new();
        answer(&outbox, ROOM);
        let bytes = outbox.take().expect("nobody writes");
        answer(&outbox, 1);
        assert_eq!(outbox.state.lock().unwritten_answers(), ROOM + 1);
        outbox.written(bytes, 10);
        assert_eq!(outbox.state.lock().unwritten_answers(), ROOM - 9);
        let bytes = outbox.take().expect("nobody writes");
        let count = bytes.len();
        outbox.written(bytes, count);
        assert_eq!(outbox.state.lock().unwritten_answers(), 0);
        outbox.wait_for_room_to_answer();
    }

    #[test]
    fn there_is_room_when_enough_is_written_and_after_the_end() {
        let outbox = Outbox::new();
        answer(&outbox, ROOM + 1);
        assert!(!outbox.wait_for_room(Some(Instant::now())));
        let bytes = outbox.take().expect("nobody writes");
        assert!(!outbox.wait_for_room(Some(Instant::now())), "what is being written waits as well");
        outbox.written(bytes, 1);
        assert!(outbox.wait_for_room(Some(Instant::now() + Duration::from_secs(60))));
        answer(&outbox, ROOM);
        outbox.close();
        assert!(outbox.wait_for_room(None));
    }
}
