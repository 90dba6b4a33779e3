//! Finds the bytes of a connection that are bodies of answers (RFC 9112).
//!
//! Pure. The library parses the same bytes, with the bodies replaced. For an answer that contradicts itself, the two
//! parsers may disagree; then more than the bodies is hidden, or the call ends with an error.

/// Replaces each byte of a body.
pub(super) const STAND_IN: u8 = b'*';
/// The longest line that is parsed, in bytes. The library does not accept a longer head.
const LONGEST_LINE: usize = 64 << 10;

/// The state of the parser of the answers on a connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// The line that is being read, without its end.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    StatusLine,
    Headers(Head),
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// The body ends with the connection.
    UntilTheEnd,
}

/// The relevant headers so far.
#[derive(Clone, Copy, Debug)]
struct Head {
    status: u16,
    is_chunked: bool,
    length: Option<u64>,
}

impl Default for Framing {
    fn default() -> Self {
        Self { state: State::StatusLine, line: Vec::new() }
    }
}

impl Framing {
    /// Replaces the bytes that belong to a body, and returns them.
    pub(super) fn hide(&mut self, bytes: &mut [u8]) -> Vec<u8> {
        let mut hidden = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = match self.state {
                State::Body(left) | State::Chunk(left) => usize::try_from(left).unwrap_or(usize::MAX),
                State::UntilTheEnd => usize::MAX,
                _ => 0,
            };
            let count = left.min(rest.len());
            if count == 0 {
                self.byte(rest[0]);
                rest = &mut rest[1..];
                continue;
            }
            hidden.extend_from_slice(&rest[..count]);
            rest[..count].fill(STAND_IN);
            rest = &mut rest[count..];
            self.state = match self.state {
                State::Body(left) if left == count as u64 => State::StatusLine,
                State::Body(left) => State::Body(left - count as u64),
                State::Chunk(left) if left == count as u64 => State::ChunkEnd,
                State::Chunk(left) => State::Chunk(left - count as u64),
                state => state,
            };
        }
        hidden
    }

    fn byte(&mut self, byte: u8) {
        if byte != b'\n' {
            if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
            return;
        }
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii();
        self.state = match self.state {
            State::StatusLine if line.is_empty() => State::StatusLine,
            State::StatusLine => State::Headers(Head { status: status_of(line), is_chunked: false, length: None }),
            State::Headers(head) if line.is_empty() => head.body(),
            State::Headers(head) => State::Headers(head.with(line)),
            State::ChunkSize => match size_of(line) {
                Some(0) => State::Trailers,
                Some(size) => State::Chunk(size),
                // Hidden, whatever it is.
                None => State::UntilTheEnd,
            },
            State::ChunkEnd => State::ChunkSize,
            State::Trailers if line.is_empty() => State::StatusLine,
            state => state,
        };
    }
}

impl Head {
    fn with(mut self, line: &[u8]) -> Self {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return self };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let value = value.to_ascii_lowercase();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = std::str::from_utf8(&value).ok().and_then(|value| value.parse().ok()).or(self.length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_chunked |= value.windows(b"chunked".len()).any(|part| part == b"chunked");
        }
        self
    }

    /// Returns the state after the head. The drivers do not send HEAD or CONNECT.
    fn body(self) -> State {
        match self {
            Self { status: 100 | 102..=199 | 204 | 304, .. } => State::StatusLine,
            Self { is_chunked: true, .. } => State::ChunkSize,
            Self { length: Some(0), .. } => State::StatusLine,
            Self { length: Some(length), .. } => State::Body(length),
            Self { length: None, .. } => State::UntilTheEnd,
        }
    }
}

fn status_of(line: &[u8]) -> u16 {
    let status = line.split(|byte| *byte == b' ').nth(1).and_then(|status| std::str::from_utf8(status).ok());
    status.and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// Parses the size of a chunk, without its extensions.
fn size_of(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is shown and what is hidden, however the bytes are split.
    fn hidden(text: &str) -> (String, String) {
        let whole = cut(text, text.len());
        for size in 1..8 {
            assert_eq!(cut(text, size), whole, "{size}");
        }
        whole
    }

    fn cut(text: &str, size: usize) -> (String, String) {
        let mut framing = Framing::default();
        let mut bytes = text.as_bytes().to_vec();
        let hidden = bytes.chunks_mut(size).flat_map(|part| framing.hide(part)).collect();
        (String::from_utf8(bytes).unwrap(), String::from_utf8(hidden).unwrap())
    }

    #[test]
    fn a_body_is_hidden_and_its_framing_is_not() {
        for (text, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhush", "hush"),
            ("HTTP/1.1 200 OK\ncontent-length:4\n\nhush", "hush"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhu\r\n2;x=y\r\nsh\r\n0\r\n\r\n", "hush"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhush\r\n0\r\nA: b\r\n\r\n",
                "hush",
            ),
            ("HTTP/1.0 200 OK\r\n\r\nhush", "hush"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhush", "hush"),
            ("HTTP/1.1 204 X\r\n\r\nHTTP/1.1 304 X\r\nContent-Length: 4\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhush", "hush"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 404 X\r\nContent-Length: 4\r\n\r\nhush", "hush"),
            ("HTTP/1.1 101 UPGRADED\r\n\r\nhush", "hush"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\nhush", "hush"),
        ] {
            let (seen, real) = hidden(text);
            assert_eq!(real, body, "{text}");
            assert_eq!(seen.len(), text.len());
            assert!(!seen.contains("hush"), "{seen}");
            let stand_ins = seen.bytes().filter(|byte| *byte == STAND_IN).count();
            assert_eq!(stand_ins, body.len(), "{seen}");
        }
    }

    #[test]
    fn answers_on_one_connection_are_told_apart() {
        let one = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhush";
        let two = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhush\r\n0\r\n\r\n";
        let (seen, real) = hidden(&[one, two, one, one, two].concat());
        assert_eq!(real, "hush".repeat(5));
        assert_eq!(seen, [one, two, one, one, two].concat().replace("hush", "****"));
    }
}
