//! One upgraded connection, whichever side of it we are: what waits to be written, the loop that writes it, and the
//! reader of messages.
//!
//! The reading thread never writes more than the socket takes at once and the writing thread never reads, so that a
//! peer that does not read delays nobody but itself. Answers wait until the reading thread has nothing left to read.
//! Both sides ping, and a peer that says nothing for too long is lost. The meaning of messages is not known here.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tungstenite::Bytes;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::budget::{Budget, Share};
use super::outbox::{Next, Outbox, ROOM};
use super::transport::{Transport, later};

/// How much is read at once, and kept for each connection.
pub(super) const READ_BUFFER: usize = 16 << 10;
/// How many bytes of an unfinished message need no share of the budget. Blocks of files and most pieces of output are
/// smaller.
pub(super) const SMALL: usize = 512 << 10;

/// What bounds a connection after its handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) heartbeat_interval: Duration,
    pub(super) heartbeat_timeout: Duration,
    pub(super) max_message: usize,
    /// How long the peer may take to read each 256 KiB that it is sent, and to send each 256 KiB of a large message.
    pub(super) write_timeout: Duration,
    /// How long a closed connection may still deliver what was sent last.
    pub(super) linger: Duration,
}

pub(super) struct Wire {
    transport: Transport,
    outbox: Outbox,
    limits: Limits,
    /// The memory for large messages of the peer.
    budget: Arc<Budget>,
    masks: Option<Masks>,
}

impl Wire {
    pub(super) fn new(transport: Transport, role: Role, limits: Limits, budget: Arc<Budget>) -> Self {
        let masks = (role == Role::Client).then(Masks::default);
        Self { transport, outbox: Outbox::new(), limits, budget, masks }
    }

    /// Has a message written soon. Does not block; nothing happens when the connection is about to end.
    pub(super) fn send(&self, message: Vec<u8>) {
        self.send_all([message]);
    }

    /// As [`send`](Self::send), all at once.
    pub(super) fn send_all(&self, messages: impl IntoIterator<Item = Vec<u8>>) {
        self.push(messages.into_iter().map(data));
    }

    /// As [`send`](Self::send), for the reading thread: it is written when there is nothing left to read, so that the
    /// answers to all that has come together leave together, after all that follows from it.
    pub(super) fn send_soon(&self, message: Vec<u8>) {
        let frame = self.masked(data(message));
        self.outbox.push_answer(|buffer| frame.format(buffer).expect("memory takes it"));
    }

    /// Sends an answer from another thread than the reading one. While the peer leaves too many answers unread, nothing
    /// more is read from it.
    pub(super) fn send_answer(&self, message: Vec<u8>) {
        self.send_soon(message);
        self.flush();
    }

    /// Writes what waits, as far as the socket takes it at once: before the reading thread waits for something else than
    /// the next message.
    pub(super) fn flush(&self) {
        self.write_some(self.outbox.take());
    }

    fn push(&self, frames: impl IntoIterator<Item = Frame>) {
        self.write_some(self.outbox.push(frames.into_iter().map(|frame| self.masked(frame))));
    }

    fn masked(&self, mut frame: Frame) -> Frame {
        frame.header_mut().mask = self.masks.as_ref().map(Masks::next);
        frame
    }

    /// Writes what the socket takes at once. What is wrong with it is found by the writing thread.
    fn write_some(&self, bytes: Option<Vec<u8>>) {
        if let Some(bytes) = bytes {
            let count = self.transport.try_write(&bytes);
            self.outbox.written(bytes, count);
        }
    }

    /// Blocks while too much waits to be written: until enough was written or the connection has ended, at most for
    /// `limit`. Returns whether the peer has read enough in time. Without a limit it blocks for as long as the peer
    /// keeps reading; a peer that reads too slowly is lost.
    pub(super) fn wait_for_room(&self, limit: Option<Duration>) -> bool {
        self.outbox.wait_for_room(limit.map(later))
    }

    /// Whether messages still leave, and still mean something when they come.
    pub(super) fn is_open(&self) -> bool {
        self.outbox.is_open()
    }

    /// Writes what is here and nothing more; ends after the linger time at the latest. Does not wait.
    pub(super) fn finish(&self) {
        self.outbox.finish(later(self.limits.linger));
        self.budget.look_again();
    }

    /// Blocks until what was to be written at the end is, or the linger time is over, and ends the connection. To be called
    /// after [`finish`](Self::finish) or [`cut`](Self::cut).
    pub(super) fn settle(&self) {
        self.outbox.wait_for_end();
        self.cut();
    }

    /// Ends the connection at once.
    pub(super) fn cut(&self) {
        self.outbox.close();
        self.transport.cut();
        self.budget.look_again();
    }

    /// The body of the writing thread. Returns when the connection is over, with the reason if it was found here.
    pub(super) fn write(&self) -> Option<String> {
        let mut ping_at = later(self.limits.heartbeat_interval);
        loop {
            match self.outbox.next(ping_at) {
                Next::Write(bytes) => {
                    // A limit for all of it would be too short for long messages or too long for short ones.
                    let mut pieces = bytes.chunks(ROOM);
                    let write = |piece| self.transport.write_before(later(self.limits.write_timeout), piece);
                    if let Err(error) = pieces.try_for_each(write) {
                        return Some(match error.kind() {
                            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                                "it does not read what it is sent".to_owned()
                            }
                            _ => format!("cannot write to it: {error}"),
                        });
                    }
                    let count = bytes.len();
                    self.outbox.written(bytes, count);
                }
                Next::Due => {
                    self.push([Frame::ping(Vec::new())]);
                    ping_at = later(self.limits.heartbeat_interval);
                }
                Next::Closed => {
                    self.transport.finish();
                    self.outbox.close();
                    return None;
                }
            }
        }
    }
}

fn data(message: Vec<u8>) -> Frame {
    Frame::message(message, OpCode::Data(Data::Binary), true)
}

/// What the bytes of a client's frames are changed with, never the same twice (RFC 6455, 5.3).
#[derive(Default)]
struct Masks {
    random: RandomState,
    used: AtomicU64,
}

impl Masks {
    fn next(&self) -> [u8; 4] {
        let number = self.random.hash_one(self.used.fetch_add(1, Ordering::Relaxed));
        let [a, b, c, d, ..] = number.to_ne_bytes();
        [a, b, c, d]
    }
}

/// The reading end of a wire, for one thread.
pub(super) struct WireReader {
    wire: Arc<Wire>,
    socket: WebSocket<Incoming>,
}

impl WireReader {
    /// `rest` was read already. All messages up to [`greeted`](Self::greeted) have to be here by the deadline, and to be
    /// no longer than `max_greeting`.
    pub(super) fn new(wire: Arc<Wire>, rest: Vec<u8>, deadline: Instant, max_greeting: usize) -> Self {
        let role = if wire.masks.is_some() { Role::Client } else { Role::Server };
        let longest = Some(max_greeting.min(wire.limits.max_message));
        let arriving = Arriving { bytes: 0, large: None };
        let incoming = Incoming { wire: wire.clone(), deadline: Some(deadline), arriving };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(longest)
            .max_frame_size(longest);
        Self { wire, socket: WebSocket::from_partially_read(incoming, rest, role, Some(config)) }
    }

    /// From here on each read may take as long as the heartbeat allows, and a message be as long as the limits do.
    pub(super) fn greeted(&mut self) -> Result<(), String> {
        self.socket.get_mut().deadline = None;
        let limits = self.wire.limits;
        self.wire.transport.set_read_timeout(limits.heartbeat_timeout).map_err(|error| error.to_string())?;
        self.socket.set_config(|config| {
            config.max_message_size = Some(limits.max_message);
            config.max_frame_size = Some(limits.max_message);
        });
        Ok(())
    }

    /// Blocks until there is a message. `None` for one that means nothing here; an error when the connection has ended,
    /// with the reason.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, String> {
        // A peer that asks and does not read the answers gets no further than this.
        self.wire.outbox.wait_for_room_to_answer();
        let message = self.socket.read().map_err(|error| self.explain(&error))?;
        self.socket.get_mut().arrived(&message).map_err(|error| error.to_string())?;
        match message {
            // About to end: whatever it says has no consequences.
            Message::Binary(_) if !self.wire.is_open() => Ok(None),
            Message::Binary(bytes) => Ok(Some(bytes)),
            Message::Close(_) => Err(self.gone("it closed the connection")),
            Message::Text(_) => Err(self.protest(CloseCode::Unsupported, "it sent text")),
            _ => Ok(None),
        }
    }

    /// The peer does not keep to the protocol. Returns the reason for the end of the connection.
    pub(super) fn violated(&self, reason: &str) -> String {
        self.protest(CloseCode::Protocol, reason)
    }

    fn explain(&self, error: &tungstenite::Error) -> String {
        use tungstenite::Error;
        use tungstenite::error::ProtocolError;
        match error {
            // Found below, in what the peer sends.
            Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
                self.protest(CloseCode::Size, &error.to_string())
            }
            Error::Io(error) if error.kind() == ErrorKind::TimedOut => self.gone("it has not answered for too long"),
            Error::Io(error) => self.gone(&format!("the connection broke: {error}")),
            Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                self.gone("it closed the connection")
            }
            Error::Capacity(_) => self.protest(CloseCode::Size, "it sent a message that is too long"),
            other => self.protest(CloseCode::Protocol, &other.to_string()),
        }
    }

    /// The peer listens no more.
    fn gone(&self, reason: &str) -> String {
        self.wire.cut();
        reason.to_owned()
    }

    /// Tells the peer what is wrong before the connection ends.
    fn protest(&self, code: CloseCode, reason: &str) -> String {
        // What a control frame can carry.
        let told: String = reason.chars().filter(char::is_ascii).take(120).collect();
        self.wire.push([Frame::close(Some(CloseFrame { code, reason: told.into() }))]);
        self.wire.finish();
        reason.to_owned()
    }
}

/// What tungstenite takes for the socket: it reads from it, and writes only its own answers to pings and closes.
struct Incoming {
    wire: Arc<Wire>,
    /// For all that is read, until the greeting is over. After that each read waits as long as the heartbeat allows.
    deadline: Option<Instant>,
    arriving: Arriving,
}

/// The message that is being read.
struct Arriving {
    /// How many bytes of the message have been read, including what was read together with it.
    bytes: usize,
    /// Set if the message is not small.
    large: Option<Large>,
}

/// What a large message has taken, and how fast it must arrive.
struct Large {
    _share: Option<Share>,
    /// How many bytes must have been read …
    expected: usize,
    /// … at this time.
    deadline: Instant,
}

impl Incoming {
    /// Returns the deadline of the next bytes if the message is large, or may become large with them. Blocks until
    /// there is memory for the message.
    fn large_deadline(&mut self, more: usize) -> Option<Instant> {
        let (arriving, limits) = (&mut self.arriving, &self.wire.limits);
        // Until the greeting is over there is one deadline for everything, and messages must be short.
        if self.deadline.is_some() || arriving.bytes + more <= SMALL {
            return None;
        }
        let wire = &self.wire;
        let large = arriving.large.get_or_insert_with(|| {
            // A connection that is about to end has its own deadline and must not wait for memory.
            let share = wire.budget.take(limits.max_message, || !wire.is_open());
            Large { _share: share, expected: arriving.bytes + ROOM, deadline: later(limits.write_timeout) }
        });
        if arriving.bytes >= large.expected {
            large.expected = arriving.bytes + ROOM;
            large.deadline = later(limits.write_timeout);
        }
        Some(large.deadline)
    }

    /// Resets the counters after a message was read to its end.
    fn arrived(&mut self, message: &Message) -> io::Result<()> {
        if let Message::Ping(payload) | Message::Pong(payload) = message {
            // A ping or pong may arrive between the parts of another message, which continues.
            let header = if self.wire.masks.is_some() { 2 } else { 6 };
            self.arriving.bytes = self.arriving.bytes.saturating_sub(header + payload.len());
            return Ok(());
        }
        self.arriving.bytes = 0;
        if self.arriving.large.take().is_some() {
            self.wire.transport.set_read_timeout(self.wire.limits.heartbeat_timeout)?;
        }
        Ok(())
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // All that was here has been read.
        self.wire.flush();
        let large = self.large_deadline(buffer.len());
        let unusable = |reason| io::Error::new(ErrorKind::InvalidData, reason);
        let length = match (self.deadline, large) {
            (Some(deadline), _) => self.wire.transport.read_before(deadline, buffer)?,
            (None, Some(deadline)) => match self.wire.transport.read_before(deadline, buffer) {
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Err(unusable("it timed out in the middle of a message"));
                }
                read => read?,
            },
            (None, None) => self.wire.transport.read(buffer)?,
        };
        self.arriving.bytes += length;
        // A message in many small parts takes more bytes than its length.
        if self.arriving.bytes > self.wire.limits.max_message.saturating_add(SMALL) {
            return Err(unusable("it sent a message that is too long"));
        }
        Ok(length)
    }
}

impl Write for Incoming {
    /// Takes all, so that frames stay whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wire.outbox.push_answer(|buffer| buffer.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
