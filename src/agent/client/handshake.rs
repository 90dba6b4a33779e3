//! From an open connection to an upgraded one, as the side that asks: log in, and see what the master says to it.

use std::io;
use std::time::Instant;

use data_encoding::BASE64;
use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::StatusCode;
use tungstenite::http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, UPGRADE};

use super::super::handshake::read_head;
use super::super::transport::Transport;
use crate::Secret;

/// Why a master was not attached to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the master refuses this name and secret (it answers 401)")]
    Unauthorized,
    #[error("the master answers {0}, not an upgrade to WebSocket")]
    Status(StatusCode),
    #[error("what answers is no WebSocket master")]
    Malformed,
}

/// Logs in. Returns what the master has said already after that.
pub(super) fn log_in(
    transport: &Transport,
    deadline: Instant,
    host: &str,
    name: &str,
    secret: &Secret,
) -> Result<Vec<u8>, Refusal> {
    let key = generate_key();
    let credentials = BASE64.encode(format!("{name}:{}", secret.expose()).as_bytes());
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Basic {credentials}\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    transport.write_before(deadline, request.as_bytes())?;
    let (head, rest) = read_head(transport, deadline)?.ok_or(Refusal::Malformed)?;
    let Ok(Some((_, response))) = Response::try_parse(&head) else { return Err(Refusal::Malformed) };
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {}
        StatusCode::UNAUTHORIZED => return Err(Refusal::Unauthorized),
        other => return Err(Refusal::Status(other)),
    }
    let says = |name: HeaderName, value: &str| {
        let header = response.headers().get(name).and_then(|header| header.to_str().ok());
        header.is_some_and(|header| header.eq_ignore_ascii_case(value))
    };
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|accept| accept.as_bytes());
    let upgraded = says(UPGRADE, "websocket")
        && says(CONNECTION, "upgrade")
        && accepted == Some(derive_accept_key(key.as_bytes()).as_bytes());
    if upgraded { Ok(rest) } else { Err(Refusal::Malformed) }
}
