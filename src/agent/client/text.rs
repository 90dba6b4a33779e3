//! Output as the lines of text that masters want which do not take bytes: whole lines, UTF-8, cut where they are too long.
//!
//! What the stock worker makes of a carriage return is made of it here: the end of a line. Cursor movements are left as
//! they are.

/// The lines of one stream.
pub(super) struct Lines {
    max_length: usize,
    /// Begun and not ended.
    partial: Vec<u8>,
    /// The last byte was a carriage return; it was told as a line feed.
    after_return: bool,
}

/// Whole lines, the last one with its line feed too, and where in them (in characters) the line feeds are.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Whole {
    pub(super) text: String,
    pub(super) positions: Vec<usize>,
    characters: usize,
}

impl Whole {
    fn push(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        self.characters += line.chars().count();
        self.text.push_str(&line);
        self.text.push('\n');
        self.positions.push(self.characters);
        self.characters += 1;
    }
}

impl Lines {
    pub(super) fn new(max_length: usize) -> Self {
        Self { max_length: max_length.max(1), partial: Vec::new(), after_return: false }
    }

    /// The lines that end in `bytes`.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Whole {
        let mut whole = Whole::default();
        for byte in bytes {
            match (byte, self.after_return) {
                (b'\n', true) => {}
                (b'\n' | b'\r', _) => self.end_line(&mut whole),
                _ => {
                    if self.partial.len() >= self.max_length {
                        self.end_line(&mut whole);
                    }
                    self.partial.push(*byte);
                }
            }
            self.after_return = *byte == b'\r';
        }
        whole
    }

    /// What was begun, ended by a line feed that is not there.
    pub(super) fn rest(&mut self) -> Whole {
        let mut whole = Whole::default();
        if !self.partial.is_empty() {
            self.end_line(&mut whole);
        }
        whole
    }

    fn end_line(&mut self, whole: &mut Whole) {
        whole.push(&self.partial);
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(pieces: &[&[u8]]) -> (String, Vec<usize>) {
        let mut lines = Lines::new(8);
        let mut all = Whole::default();
        let fed: Vec<_> = pieces.iter().map(|piece| lines.feed(piece)).collect();
        for part in fed.into_iter().chain([lines.rest()]) {
            assert!(part.text.is_empty() || part.text.ends_with('\n'));
            part.text.lines().for_each(|line| all.push(line.as_bytes()));
        }
        (all.text, all.positions)
    }

    #[test]
    fn lines_are_whole_and_their_ends_are_counted_in_characters() {
        assert_eq!(fed(&[b"a\nb", b"c\n", b"", b"rest"]), ("a\nbc\nrest\n".to_owned(), vec![1, 4, 9]));
        assert_eq!(fed(&["ü\nü\n".as_bytes()]), ("ü\nü\n".to_owned(), vec![1, 3]));
        assert_eq!(fed(&[b"\n\n"]), ("\n\n".to_owned(), vec![0, 1]));
        assert_eq!(fed(&[]), (String::new(), vec![]));
    }

    #[test]
    fn carriage_returns_end_lines_once() {
        assert_eq!(fed(&[b"a\r", b"\nb\rc\r\nd"]).0, "a\nb\nc\nd\n");
    }

    #[test]
    fn what_is_no_text_or_too_long_is_made_fit() {
        assert_eq!(fed(&[b"\xff\n"]).0, "\u{fffd}\n");
        assert_eq!(fed(&[b"0123456789abcdefg\n"]).0, "01234567\n89abcdef\ng\n");
        assert_eq!(fed(&[b"01234567\n"]).0, "01234567\n");
        // A character may be cut in two when the line is too long; nothing is lost but that.
        assert_eq!(fed(&["0123456ü\n".as_bytes()]).1.len(), 2);
    }
}
