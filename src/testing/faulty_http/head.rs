//! Where a message of HTTP/1.1 begins and ends (RFC 9112): heads, lengths and chunks. Pure.
//!
//! What is not needed to pass messages on unchanged is not understood here.

/// The longest head that is taken, in bytes.
pub(super) const LONGEST_HEAD: usize = 64 * 1024;

/// What a peer sent is no message of HTTP/1.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// There is none.
    None,
    Length(u64),
    Chunked,
    /// With the connection.
    UntilClose,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RequestHead {
    pub(super) method: String,
    /// As it stands in the first line.
    pub(super) target: String,
    pub(super) body: Framing,
    /// The client wants no other answer on this connection.
    pub(super) closes: bool,
    /// The client asks before it sends the body.
    pub(super) expects: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) body: Framing,
    /// There is no other answer on this connection.
    pub(super) closes: bool,
    /// What follows is another protocol.
    pub(super) tunnel: bool,
}

impl ResponseHead {
    /// An answer before the answer (`100 Continue`).
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && !self.tunnel
    }
}

/// The length of the head at the beginning of `bytes`, when all of it is there.
pub(super) fn head_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    // A lone LF ends a line too (RFC 9112, 2.2).
    let mut line_is_empty = true;
    let mut seen_line = false;
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty && seen_line => return Ok(Some(i + 1)),
            b'\n' => {
                seen_line |= !line_is_empty;
                line_is_empty = true;
            }
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    if bytes.len() > LONGEST_HEAD { Err(Malformed("a head that is too long")) } else { Ok(None) }
}

/// What matters of the lines of a head.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    continues: bool,
}

fn lines(head: &[u8]) -> Result<(&str, Fields), Malformed> {
    let text = std::str::from_utf8(head).map_err(|_| Malformed("a head that is no text"))?;
    let mut lines = text.lines().skip_while(|line| line.is_empty());
    let first = lines.next().ok_or(Malformed("no first line"))?;
    let mut fields = Fields::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(Malformed("a line without a colon"))?;
        let value = value.trim();
        let says = |word: &str| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word));
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| Malformed("a length that is no number"))?;
            if fields.length.is_some_and(|other| other != length) {
                return Err(Malformed("two lengths"));
            }
            fields.length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            fields.chunked |= says("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            fields.close |= says("close");
            fields.keep_alive |= says("keep-alive");
        } else if name.eq_ignore_ascii_case("expect") {
            fields.continues |= says("100-continue");
        }
    }
    Ok((first, fields))
}

pub(super) fn request(head: &[u8]) -> Result<RequestHead, Malformed> {
    let (first, fields) = lines(head)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed("a first line that is no request"));
    };
    if !version.starts_with("HTTP/1.") || method.is_empty() || target.is_empty() {
        return Err(Malformed("a first line that is no request"));
    }
    let body = match fields {
        Fields { chunked: true, .. } => Framing::Chunked,
        Fields { length: Some(length), .. } if length > 0 => Framing::Length(length),
        _ => Framing::None,
    };
    let closes = fields.close || (version == "HTTP/1.0" && !fields.keep_alive);
    Ok(RequestHead { method: method.to_owned(), target: target.to_owned(), body, closes, expects: fields.continues })
}

/// The answer to a request of this method.
pub(super) fn response(method: &str, head: &[u8]) -> Result<ResponseHead, Malformed> {
    let (first, fields) = lines(head)?;
    let mut words = first.split(' ');
    let version = words.next().filter(|version| version.starts_with("HTTP/1."));
    let status = words.next().and_then(|status| status.parse::<u16>().ok());
    let (Some(version), Some(status)) = (version, status) else {
        return Err(Malformed("a first line that is no answer"));
    };
    let tunnel = status == 101 || (method == "CONNECT" && (200..300).contains(&status));
    let body = if method == "HEAD" || (100..200).contains(&status) || status == 204 || status == 304 || tunnel {
        Framing::None
    } else if fields.chunked {
        Framing::Chunked
    } else {
        match fields.length {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    };
    let closes = fields.close || body == Framing::UntilClose || (version == "HTTP/1.0" && !fields.keep_alive);
    Ok(ResponseHead { status, body, closes: closes && !tunnel, tunnel })
}

/// Finds the end of a body in the bytes as they come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Body {
    rest: Rest,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Rest {
    Over,
    Bytes(u64),
    UntilClose,
    /// In the line with the size of a chunk: its digits so far, and whether they are over.
    Size {
        size: u64,
        digits: u32,
        digits_over: bool,
    },
    /// In a chunk, and the line end after it.
    Chunk(u64),
    /// In the lines after the last chunk.
    Trailer {
        line_is_empty: bool,
    },
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        let rest = match framing {
            Framing::None | Framing::Length(0) => Rest::Over,
            Framing::Length(length) => Rest::Bytes(length),
            Framing::Chunked => Rest::Size { size: 0, digits: 0, digits_over: false },
            Framing::UntilClose => Rest::UntilClose,
        };
        Self { rest }
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest == Rest::Over
    }

    /// Whether the end of the connection is the end of the body, too.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self.rest, Rest::Over | Rest::UntilClose)
    }

    /// How many of these bytes belong to it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while taken < bytes.len() {
            let left = &bytes[taken..];
            taken += match &mut self.rest {
                Rest::Over => break,
                Rest::UntilClose => left.len(),
                Rest::Bytes(rest) | Rest::Chunk(rest) => {
                    let step = usize::try_from(*rest).map_or(left.len(), |rest| rest.min(left.len()));
                    *rest -= step as u64;
                    step
                }
                Rest::Size { size, digits, digits_over } => {
                    match left[0] {
                        b'\n' if *digits == 0 => return Err(Malformed("a chunk without a size")),
                        // With the CR LF that ends it; a lone LF is not allowed there.
                        b'\n' if *size > 0 => self.rest = Rest::Chunk(*size + 2),
                        b'\n' => self.rest = Rest::Trailer { line_is_empty: true },
                        byte => match char::from(byte).to_digit(16).filter(|_| !*digits_over) {
                            Some(_) if *digits == 15 => return Err(Malformed("a chunk that is too large")),
                            Some(digit) => {
                                *size = *size * 16 + u64::from(digit);
                                *digits += 1;
                            }
                            // An extension.
                            None => *digits_over = true,
                        },
                    }
                    1
                }
                Rest::Trailer { line_is_empty } => {
                    match left[0] {
                        b'\n' if *line_is_empty => self.rest = Rest::Over,
                        b'\n' => *line_is_empty = true,
                        b'\r' => {}
                        _ => *line_is_empty = false,
                    }
                    1
                }
            };
            match self.rest {
                Rest::Bytes(0) => self.rest = Rest::Over,
                Rest::Chunk(0) => self.rest = Rest::Size { size: 0, digits: 0, digits_over: false },
                _ => {}
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(head_length(b"GET / HTTP/1.1\r\nA: b\r\n\r\nbody"), Ok(Some(24)));
        assert_eq!(head_length(b"GET / HTTP/1.1\nA: b\n\nbody"), Ok(Some(21)));
        assert_eq!(head_length(b"\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(20)), "an empty line before it is ignored");
        assert_eq!(head_length(b"GET / HTTP/1.1\r\n\r"), Ok(None));
        assert_eq!(head_length(b""), Ok(None));
        assert!(head_length(&[b'a'; LONGEST_HEAD + 1]).is_err());
    }

    fn asked(head: &str) -> RequestHead {
        request(head.replace('\n', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn a_request_says_what_follows_it() {
        let post = asked("POST /a?b=c HTTP/1.1\ncontent-LENGTH: 12\n\n");
        assert_eq!(
            (&*post.method, &*post.target, post.body, post.closes),
            ("POST", "/a?b=c", Framing::Length(12), false)
        );
        assert_eq!(asked("PUT / HTTP/1.1\nTransfer-Encoding: gzip, chunked\n\n").body, Framing::Chunked);
        assert_eq!(asked("POST / HTTP/1.1\n\n").body, Framing::None);
        assert!(asked("GET / HTTP/1.1\nConnection: TE, Close\n\n").closes);
        assert!(asked("GET / HTTP/1.0\n\n").closes);
        assert!(!asked("GET / HTTP/1.0\nConnection: keep-alive\n\n").closes);
        for bad in ["GET /", "GET / HTTP/2", "GET / a HTTP/1.1", "GET / HTTP/1.1\r\nno colon", "\u{1}\u{2}"] {
            assert!(request(format!("{bad}\r\n\r\n").as_bytes()).is_err(), "{bad}");
        }
        let lengths = "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert!(request(lengths.as_bytes()).is_err());
    }

    fn answered(method: &str, head: &str) -> ResponseHead {
        response(method, head.replace('\n', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_says_what_follows_it() {
        assert_eq!(answered("GET", "HTTP/1.1 200 OK\nContent-Length: 3\n\n").body, Framing::Length(3));
        assert_eq!(answered("GET", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n").body, Framing::Chunked);
        let until_close = answered("GET", "HTTP/1.1 200 OK\n\n");
        assert_eq!((until_close.body, until_close.closes), (Framing::UntilClose, true));
        assert_eq!(answered("HEAD", "HTTP/1.1 200 OK\nContent-Length: 3\n\n").body, Framing::None);
        for status in ["100 Continue", "204 No Content", "304 Not Modified"] {
            let head = answered("GET", &format!("HTTP/1.1 {status}\nContent-Length: 3\n\n"));
            assert_eq!((head.body, head.closes), (Framing::None, false), "{status}");
        }
        assert!(answered("GET", "HTTP/1.1 100\n\n").is_interim());
        let upgraded = answered("POST", "HTTP/1.1 101 UPGRADED\nConnection: Upgrade\nUpgrade: tcp\n\n");
        assert!(upgraded.tunnel && !upgraded.closes && !upgraded.is_interim());
        assert!(answered("CONNECT", "HTTP/1.1 200 OK\n\n").tunnel);
        assert!(response("GET", b"SSH-2.0 hello\r\n\r\n").is_err());
    }

    /// However the bytes are cut, the body is the same.
    #[test]
    fn a_body_ends_where_its_framing_says() {
        let chunked = b"5;x=y\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nT: u\r\n\r\n";
        for (framing, body) in [
            (Framing::Chunked, &chunked[..]),
            (Framing::Chunked, b"0\r\n\r\n"),
            (Framing::Length(7), b"seven!!"),
            (Framing::None, b""),
        ] {
            let wire = [body, b"HTTP/1.1 next"].concat();
            for step in 1..wire.len() {
                let mut meter = Body::new(framing);
                let mut total = 0;
                for piece in wire.chunks(step) {
                    let taken = meter.take(piece).unwrap();
                    total += taken;
                    if taken < piece.len() {
                        break;
                    }
                }
                assert!(meter.is_over(), "{framing:?} in steps of {step}");
                assert_eq!(total, body.len(), "{framing:?} in steps of {step}");
            }
        }
        let mut endless = Body::new(Framing::UntilClose);
        assert_eq!(endless.take(b"abc"), Ok(3));
        assert!(!endless.is_over() && endless.ends_with_connection());
        assert!(Body::new(Framing::Chunked).take(b"\r\n").is_err());
        assert!(Body::new(Framing::Chunked).take(b"11111111111111111").is_err());
    }
}
