//! Where the output of one remote command waits for its reader: a bounded channel, a way out for the thread that fills it,
//! and the answers that are held back while much waits.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use parking_lot::Mutex;

use crate::Output;

/// How many pieces wait for the reader …
pub(super) const PIECES: usize = 64;
/// … and how large each is at most.
pub(super) const PIECE: usize = 64 << 10;
/// While more pieces than this wait, answers are held back. A worker that waits for them has less than the rest of the
/// room under way, and never holds up the thread that fills the sink.
const EASY: usize = PIECES / 4;

pub(super) struct Sink {
    output: Sender<Output>,
    /// The other end of `output`, to make room when nobody waits for all of it any more.
    overflow: Receiver<Output>,
    /// Disconnected when the sink was released.
    released: Receiver<Infallible>,
    hold: Mutex<Option<Sender<Infallible>>>,
    answers: Mutex<Vec<Vec<u8>>>,
}

impl Sink {
    /// A sink, and what its reader gets.
    pub(super) fn new() -> (Self, Receiver<Output>) {
        let (output, overflow) = bounded(PIECES);
        let (hold, released) = bounded(0);
        let reader = overflow.clone();
        (Self { output, overflow, released, hold: Mutex::new(Some(hold)), answers: Mutex::default() }, reader)
    }

    /// Nobody waits for all of the output any more: only the last pieces are kept, and nobody is held up.
    pub(super) fn release(&self) {
        let hold = self.hold.lock().take();
        drop(hold);
    }

    /// Passes output on in pieces. Blocks while the reader has not made room, unless the sink is released.
    pub(super) fn deliver(&self, bytes: &[u8], kind: fn(Vec<u8>) -> Output) {
        bytes.chunks(PIECE).for_each(|piece| self.put(kind(piece.to_vec())));
    }

    /// Tells the end, as [`deliver`](Self::deliver).
    pub(super) fn end(&self, end: Output) {
        self.put(end);
    }

    /// Keeps the answer to output while much waits; otherwise it can be sent now. At most one for each piece is kept.
    pub(super) fn hold_back(&self, answer: Vec<u8>) -> Option<Vec<u8>> {
        let mut answers = self.answers.lock();
        // Looked at under the lock, so that whoever makes room later finds the answer.
        let held = self.output.len() > EASY && answers.len() < PIECES && self.hold.lock().is_some();
        if held {
            answers.push(answer);
            return None;
        }
        Some(answer)
    }

    /// The answers that can be sent now that something was taken.
    pub(super) fn answers_due(&self) -> Vec<Vec<u8>> {
        if self.output.len() > EASY { Vec::new() } else { self.release_answers() }
    }

    /// All answers that were held back.
    pub(super) fn release_answers(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.answers.lock())
    }

    fn put(&self, piece: Output) {
        let mut piece = match self.output.try_send(piece) {
            Err(TrySendError::Full(piece)) => Some(piece),
            _ => return,
        };
        select! {
            recv(self.released) -> _ => {}
            send(self.output, piece.take().expect("it is sent once")) -> _ => {}
        }
        while let Some(Err(TrySendError::Full(back))) = piece.map(|piece| self.output.try_send(piece)) {
            let _ = self.overflow.try_recv();
            piece = Some(back);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{CommandEnd, Exit};

    const END: CommandEnd = CommandEnd { exit: Exit::Interrupted, elapsed: Duration::ZERO };

    #[test]
    fn a_released_sink_holds_nobody_up_and_keeps_the_end() {
        let (sink, reader) = Sink::new();
        sink.release();
        for _ in 0..10 * PIECES {
            sink.deliver(b"text", Output::Stdout);
        }
        sink.end(Output::End(END));
        drop(sink);
        let pieces: Vec<_> = reader.iter().collect();
        assert_eq!(pieces.len(), PIECES);
        assert_eq!(pieces.last(), Some(&Output::End(END)));
    }

    #[test]
    fn a_full_sink_waits_for_its_reader_and_loses_nothing() {
        let (sink, reader) = Sink::new();
        let text: Vec<u8> = (0..PIECES * PIECE * 3).map(|at| at as u8).collect();
        let expected = text.clone();
        let writer = std::thread::spawn(move || {
            sink.deliver(&text, Output::Stdout);
            sink.end(Output::End(END));
        });
        let mut seen = Vec::new();
        for piece in reader {
            match piece {
                Output::Stdout(bytes) => seen.extend(bytes),
                other => assert_eq!(other, Output::End(END)),
            }
        }
        writer.join().unwrap();
        assert!(seen == expected);
    }

    #[test]
    fn a5_answers_to_output_that_nobody_reads_are_held_back_within_a_bound() {
        let (sink, reader) = Sink::new();
        for _ in 0..PIECES {
            sink.deliver(b"text", Output::Stdout);
        }
        let sent = (0..2 * PIECES).filter_map(|_| sink.hold_back(Vec::new())).count();
        assert_eq!(sent, PIECES, "the others are held back");
        assert_eq!(sink.release_answers().len(), PIECES);
        drop(reader);
    }
}
