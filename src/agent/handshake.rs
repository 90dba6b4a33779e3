//! From the first byte of a connection to its upgrade to WebSocket, or to a refusal that says why.
//!
//! Who is let in is asked of a function; what is spoken after the upgrade is not known here. The peer has until the
//! deadline for all of it, however slowly it sends, and a bounded number of bytes, which are parsed once.

use std::io::{self, ErrorKind};
use std::time::Instant;

use data_encoding::BASE64;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::header::AUTHORIZATION;

use super::transport::Transport;

/// Of a whole request.
pub(super) const MAX_BYTES: usize = 16 << 10;
const END: &[u8] = b"\r\n\r\n";

/// Who a peer says to be.
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) secret: String,
}

/// A connection that speaks WebSocket from here on.
pub(super) struct Upgraded<T> {
    /// What the admission came to.
    pub(super) admission: T,
    pub(super) credentials: Credentials,
    /// What the peer has sent already.
    pub(super) rest: Vec<u8>,
}

/// Why there is no upgrade. The peer was told, as far as it listens.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no complete request: {0}")]
    Incomplete(#[from] io::Error),
    #[error("not a WebSocket request")]
    Malformed,
    #[error("no name and secret, or wrong ones")]
    Unauthorized,
}

/// Reads the request and answers it. `admit` decides; the upgrade is only granted after it has.
pub(super) fn perform<T>(
    transport: &Transport,
    deadline: Instant,
    admit: impl FnOnce(&Credentials) -> Option<T>,
) -> Result<Upgraded<T>, Failure> {
    let refuse = |failure| refuse(transport, deadline, failure);
    let (head, rest) = read_head(transport, deadline)?.ok_or_else(|| refuse(Failure::Malformed))?;
    let request = match Request::try_parse(&head) {
        Ok(Some((_, request))) => request,
        _ => return Err(refuse(Failure::Malformed)),
    };
    let response = create_response(&request).map_err(|_| refuse(Failure::Malformed))?;
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    let credentials = authorization.and_then(credentials).ok_or_else(|| refuse(Failure::Unauthorized))?;
    let admission = admit(&credentials).ok_or_else(|| refuse(Failure::Unauthorized))?;
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|_| refuse(Failure::Malformed))?;
    transport.write_before(deadline, &bytes)?;
    Ok(Upgraded { admission, credentials, rest })
}

/// The bytes up to the end of the headers, and those after it. `None` when they are too many, or begin as nothing in
/// HTTP does: who speaks TLS where it is not spoken is told so at once.
pub(super) fn read_head(transport: &Transport, deadline: Instant) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut bytes = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    loop {
        let length = transport.read_before(deadline, &mut piece)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // Only the new bytes are searched, and three before them.
        let searched = bytes.len().saturating_sub(END.len() - 1);
        bytes.extend_from_slice(&piece[..length]);
        if let Some(at) = bytes[searched..].windows(END.len()).position(|window| window == END) {
            let rest = bytes.split_off(searched + at + END.len());
            return Ok(Some((bytes, rest)));
        }
        if bytes.len() > MAX_BYTES || !bytes[0].is_ascii_uppercase() {
            return Ok(None);
        }
    }
}

fn credentials(authorization: &[u8]) -> Option<Credentials> {
    let (scheme, encoded) = authorization.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim_ascii()).ok()?).ok()?;
    let (name, secret) = decoded.split_once(':')?;
    Some(Credentials { name: name.to_owned(), secret: secret.to_owned() })
}

fn refuse(transport: &Transport, deadline: Instant, failure: Failure) -> Failure {
    let status = match failure {
        Failure::Unauthorized => "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"latent-worker\"",
        Failure::Incomplete(_) | Failure::Malformed => "400 Bad Request",
    };
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // Who does not listen is not told.
    let _ = transport.write_before(deadline, response.as_bytes());
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_a_name_and_a_secret_in_base64() {
        let parsed = |text: &str| credentials(text.as_bytes()).map(|found| (found.name, found.secret));
        assert_eq!(parsed("Basic bXB3OnNlY3JldHB3"), Some(("mpw".to_owned(), "secretpw".to_owned())));
        assert_eq!(parsed("basic bXB3OnNlY3JldHB3"), Some(("mpw".to_owned(), "secretpw".to_owned())));
        let wrong = ["", "Basic", "Basic ", "Basic !", "Basic bXB3", "Bearer bXB3OnNlY3JldHB3", "Basic //////8="];
        for text in wrong {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }
}
