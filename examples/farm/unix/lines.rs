//! The output of a command as lines that can be shown: of bounded length, and without what moves a terminal's cursor.

/// The longest line; what is longer is shown as several.
const LONGEST: usize = 4096;

/// Collects the bytes of one stream until they make a line.
#[derive(Default)]
pub(crate) struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// Takes more bytes and gives out the lines that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(String)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = piece.strip_suffix(b"\n");
            self.unfinished.extend_from_slice(ended.unwrap_or(piece));
            while self.unfinished.len() > LONGEST {
                let cut = last_boundary(&self.unfinished);
                line(shown(&self.unfinished[..cut]));
                self.unfinished.drain(..cut);
            }
            if ended.is_some() {
                line(shown(&self.unfinished));
                self.unfinished.clear();
            }
        }
    }

    /// The last line, if it did not end.
    pub(crate) fn finish(self) -> Option<String> {
        (!self.unfinished.is_empty()).then(|| shown(&self.unfinished))
    }
}

/// The last place, within the longest line, between two characters of UTF-8.
fn last_boundary(bytes: &[u8]) -> usize {
    let continues = |at: &usize| bytes[*at] & 0b1100_0000 == 0b1000_0000;
    (LONGEST - 3..=LONGEST).rev().find(|at| !continues(at)).unwrap_or(LONGEST)
}

fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    // As on a terminal: what follows a carriage return replaces what was before it.
    let text = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\t' => plain.push('\t'),
            // A sequence such as ESC [ 3 1 m ends with the first character from @ on.
            '\x1b' if characters.next_if_eq(&'[').is_some() => {
                while characters.next_if(|next| !('@'..='~').contains(next)).is_some() {}
                characters.next();
            }
            control if control.is_control() => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| all.push(line));
        }
        all.extend(lines.finish());
        all
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(lines(&[b"one\ntw", b"", b"o\n", b"\nthree"]), ["one", "two", "", "three"]);
        assert_eq!(lines(&["Gr\u{fc}".as_bytes().split_at(3).0, b"\xbc\xc3\x9f"]), ["Gr\u{fc}\u{df}"]);
    }

    #[test]
    fn what_moves_the_cursor_is_left_out() {
        assert_eq!(lines(&[b"\x1b[31mred\x1b[0m\x1b[2K\tend\x07\r\n"]), ["red\tend"]);
        assert_eq!(lines(&[b" 10 %\r 90 %\r100 %\n"]), ["100 %"]);
        assert_eq!(lines(&[b"cut \x1b["]), ["cut "]);
    }

    #[test]
    fn other_bytes_than_utf_8_are_shown_as_such() {
        assert_eq!(lines(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        for start in ["", "x", "xy"] {
            let long = start.to_owned() + &"\u{20ac}".repeat(5000);
            for pieces in [vec![long.as_bytes()], long.as_bytes().chunks(100).collect()] {
                let lines = lines(&pieces);
                assert!(lines.iter().all(|line| line.len() <= LONGEST));
                assert_eq!(lines.concat(), long);
            }
            let ended = long.clone() + "\nnext";
            assert_eq!(lines(&[ended.as_bytes()]).concat(), long + "next");
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            lines.push(&[b'x'; 10_000], |_| {});
        }
        assert!(lines.unfinished.len() <= LONGEST);
    }
}
