//! The log of a container, undone from its frames, and the end of it. Pure.

use std::collections::VecDeque;

/// The most that is kept of a log.
const TAIL_LIMIT: usize = 64 << 10;

/// Takes frames apart, in whatever pieces they come: a stream (0 to 2), three zeros, the length as four bytes, big end
/// first, and so many bytes. (Docker Engine API, ContainerAttach, "Stream format".)
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; 8],
    /// So much of it is there.
    filled: usize,
    /// What is left of the contents.
    left: usize,
}

impl Frames {
    /// The error is a header that is none.
    pub(super) fn push(&mut self, mut bytes: &[u8], contents: &mut dyn FnMut(&[u8])) -> Result<(), [u8; 8]> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (now, later) = bytes.split_at(bytes.len().min(self.left));
                contents(now);
                self.left -= now.len();
                bytes = later;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.header.len() - self.filled));
            self.header[self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == self.header.len() {
                let [stream, a, b, c, length @ ..] = self.header;
                // 3: an error of the engine itself, in words.
                if stream > 3 || [a, b, c] != [0; 3] {
                    return Err(self.header);
                }
                self.left = u32::from_be_bytes(length) as usize;
                self.filled = 0;
            }
        }
        Ok(())
    }
}

/// The last lines of a text.
#[derive(Debug)]
pub(super) struct Tail {
    kept: VecDeque<u8>,
    lines: usize,
    /// Something was dropped from the front.
    cut: bool,
}

impl Tail {
    pub(super) fn new(lines: usize) -> Self {
        Self { kept: VecDeque::new(), lines, cut: false }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        if self.kept.len() > TAIL_LIMIT {
            self.kept.drain(..self.kept.len() - TAIL_LIMIT);
            self.cut = true;
        }
    }

    /// What is no UTF-8 is replaced. A line whose beginning is gone is left out, unless it is the only one.
    pub(super) fn into_text(mut self) -> String {
        let bytes = self.kept.make_contiguous();
        let mut begin = 0;
        if self.cut {
            let end = bytes.iter().position(|byte| *byte == b'\n').filter(|end| end + 1 < bytes.len());
            begin = end.map_or(0, |end| end + 1);
        }
        let text = &bytes[begin..];
        // From the end: the last newline ends a line and begins none.
        let ends = text.iter().enumerate().rev().skip(1).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let first = match self.lines {
            0 => text.len(),
            lines => ends.take(lines).nth(lines - 1).unwrap_or(0),
        };
        String::from_utf8_lossy(&text[first..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, contents: &[u8]) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend((contents.len() as u32).to_be_bytes());
        frame.extend(contents);
        frame
    }

    fn undone(pieces: &[&[u8]]) -> Result<Vec<u8>, [u8; 8]> {
        let (mut frames, mut all) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.push(piece, &mut |contents| all.extend_from_slice(contents))?;
        }
        Ok(all)
    }

    #[test]
    fn frames_are_undone_wherever_they_are_torn() {
        let bytes = [frame(1, b"out\n"), frame(2, b""), frame(2, b"err\n"), frame(0, b"in")].concat();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(undone(&pieces).unwrap(), b"out\nerr\nin", "{first} {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(undone(&single).unwrap(), b"out\nerr\nin");
    }

    #[test]
    fn a_frame_that_ends_in_the_middle_gives_what_there_is() {
        let bytes = frame(1, b"a line\nhalf a li");
        assert_eq!(undone(&[&bytes[..bytes.len() - 9]]).unwrap(), b"a line\n");
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        assert_eq!(undone(&[b"\x01\x00\x00\x00\x00\x00\x00\x01xplain text"]), Err(*b"plain te"));
    }

    fn tail(lines: usize, pieces: &[&str]) -> String {
        let mut tail = Tail::new(lines);
        pieces.iter().for_each(|piece| tail.push(piece.as_bytes()));
        tail.into_text()
    }

    #[test]
    fn the_last_lines_are_kept() {
        assert_eq!(tail(2, &["a\nb\n", "c\n"]), "b\nc\n");
        assert_eq!(tail(2, &["a\nb\nc"]), "b\nc");
        assert_eq!(tail(3, &["a\nb\nc\n"]), "a\nb\nc\n");
        assert_eq!(tail(9, &["a\n"]), "a\n");
        assert_eq!(tail(9, &[]), "");
        assert_eq!(tail(0, &["a\n"]), "");
        assert_eq!(tail(1, &["\n", "\n"]), "\n");
    }

    #[test]
    fn a_long_log_is_cut_at_the_beginning_of_a_line() {
        let line = "x".repeat(1000) + "\n";
        let text = tail(1000, &[&line.repeat(100)]);
        assert_eq!(text, line.repeat(TAIL_LIMIT / line.len()));
        // Of one line that is too long, the end.
        assert_eq!(tail(1000, &[&"y".repeat(100_000)]), "y".repeat(TAIL_LIMIT));
        assert_eq!(tail(1000, &[&"y".repeat(100_000), "\n"]), "y".repeat(TAIL_LIMIT - 1) + "\n");
    }
}
