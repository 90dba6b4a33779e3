//! Keeps requests and answers out of the log of the HTTP library.
//!
//! At the level *trace* the library (ureq-proto) logs every byte that passes through it: headers with credentials,
//! bodies with the secret of an agent, answers with session tokens. The library therefore gets stand-ins: it sees the
//! host, the method, and one asterisk for each byte of a body. It still makes the connections and handles proxies, TLS,
//! time limits and the framing of answers. A [`Veiled`] transport below the library sends the real request, and hides
//! the answer. A [`Veil`] passes the real bytes around the library, in both directions.

#![cfg_attr(not(feature = "docker"), allow(dead_code, reason = "EC2 alone streams nothing"))]

mod framing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;
use ureq::http::header::{HOST, HeaderValue};
use ureq::http::{self, Request, Uri};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport};

use self::framing::{Framing, STAND_IN};

/// The bytes that are passed around the library during one call. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Veil(Arc<Mutex<Passing>>);

#[derive(Default)]
struct Passing {
    /// Bytes of the request that have not been sent yet.
    unsent: Vec<u8>,
    /// Bytes of the answer's body that have not been read yet.
    unread: VecDeque<u8>,
}

/// The body of a request.
pub(super) enum Length {
    /// The request has no body.
    Nothing,
    Bytes(usize),
    /// The body is streamed, and its length is not known before.
    Unknown,
}

impl Veil {
    /// Begins a call. Returns the stand-in for the request, with a body of the same length.
    pub(super) fn begin(&self, request: &Request<()>, length: Length) -> Result<Request<()>, http::Error> {
        *self.0.lock() = Passing { unsent: head(request, length), unread: VecDeque::new() };
        let mut root = request.uri().clone().into_parts();
        root.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        Request::builder().method(request.method().clone()).uri(Uri::from_parts(root)?).body(())
    }

    /// Returns the stand-in for this body.
    pub(super) fn body(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.lock().unsent.extend_from_slice(bytes);
        vec![STAND_IN; bytes.len()]
    }

    /// Returns the stand-in for a body of unknown length.
    pub(super) fn streamed<'a>(&self, source: &'a mut dyn Read) -> Streamed<'a> {
        Streamed { source, veil: self.clone() }
    }

    /// Replaces the bytes of an answer's body that the library has returned with the real ones.
    pub(super) fn reveal(&self, read: &mut [u8]) -> io::Result<()> {
        let unread = &mut self.0.lock().unread;
        if unread.len() < read.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has contradictory framing headers"));
        }
        let real = unread.drain(..read.len());
        read.iter_mut().zip(real).for_each(|(byte, real)| *byte = real);
        Ok(())
    }
}

/// Does not show the content, which must stay hidden.
impl fmt::Debug for Veil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Veil")
    }
}

/// Returns the head of a request as it is sent. The types of the parts ensure that they are valid.
fn head(request: &Request<()>, length: Length) -> Vec<u8> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str()).as_bytes();
    let host = request.headers().get(HOST).map_or(authority, HeaderValue::as_bytes);
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method()).into_bytes();
    let mut line = |name: &str, value: &[u8]| head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    line("host", host);
    line("accept", b"*/*");
    line("user-agent", concat!("latent-worker/", env!("CARGO_PKG_VERSION")).as_bytes());
    match length {
        Length::Nothing => {}
        Length::Bytes(count) => line("content-length", count.to_string().as_bytes()),
        Length::Unknown => line("transfer-encoding", b"chunked"),
    }
    let others = request.headers().iter().filter(|(name, _)| *name != HOST);
    others.for_each(|(name, value)| line(name.as_str(), value.as_bytes()));
    head.extend(b"\r\n");
    head
}

/// A body that passes around the library while it is read.
pub(super) struct Streamed<'a> {
    source: &'a mut dyn Read,
    veil: Veil,
}

impl Read for Streamed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.source.read(buffer)?;
        // A chunk; an empty chunk ends the body.
        let size = format!("{count:x}\r\n");
        self.veil.0.lock().unsent.extend([size.as_bytes(), &buffer[..count], b"\r\n"].concat());
        buffer[..count].fill(STAND_IN);
        Ok(count)
    }
}

/// A connection that sends real requests, and shows the library answers without their bodies.
pub(super) struct Veiled<In> {
    inner: In,
    /// The buffers that the library uses.
    buffers: LazyBuffers,
    answers: Framing,
    /// The veil of the call that uses the connection now.
    veil: Box<dyn Fn() -> Veil + Send + Sync>,
}

impl<In: Transport> Veiled<In> {
    pub(super) fn new(
        inner: In,
        details: &ConnectionDetails<'_>,
        veil: impl Fn() -> Veil + Send + Sync + 'static,
    ) -> Self {
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Self { inner, buffers, answers: Framing::default(), veil: Box::new(veil) }
    }
}

impl<In: Transport> Transport for Veiled<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    /// The stand-in that the library has written only means that it is time to send.
    fn transmit_output(&mut self, _: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let mut unsent = &*std::mem::take(&mut (self.veil)().0.lock().unsent);
        while !unsent.is_empty() {
            let output = self.inner.buffers().output();
            let count = unsent.len().min(output.len());
            output[..count].copy_from_slice(&unsent[..count]);
            self.inner.transmit_output(count, timeout)?;
            unsent = &unsent[count..];
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if self.inner.buffers().input().is_empty() && !In::await_input(&mut self.inner, timeout)? {
            return Ok(false);
        }
        let received = self.inner.buffers().input();
        let buffer = self.buffers.input_append_buf();
        let count = received.len().min(buffer.len());
        buffer[..count].copy_from_slice(&received[..count]);
        let hidden = self.answers.hide(&mut buffer[..count]);
        (self.veil)().0.lock().unread.extend(hidden);
        self.inner.buffers().input_consume(count);
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.inner.buffers().input().is_empty() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Does not show the buffers.
impl<In: fmt::Debug> fmt::Debug for Veiled<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Veiled").field(&self.inner).finish()
    }
}
