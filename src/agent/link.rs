//! One upgraded connection: the thread that reads, the thread that writes, and the [`Agent`] through which leases use it.
//!
//! What the messages mean is decided by the [`Session`]. The reading thread never writes to the socket and the writing
//! thread never reads, so that a peer that does not read delays nobody but itself, and an interrupt reaches a worker
//! whose output nobody takes. The reading thread waits for the readers of output: that is the back-pressure, which
//! reaches the worker as a delayed answer and through TCP.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::codec::Update;
use super::handshake::read_before;
use super::outbox::{Next, Outbox};
use super::session::{CommandId, Ending, Session, Turn, dismissal};
use super::sink::Sink;
use crate::error::{CommandError, LeaseEnd};
use crate::{Agent, Command, Output, Process, Program};

/// The longest message of a worker that has not attached yet: its environment is in it.
const MAX_GREETING: usize = 1 << 20;
/// How much is read at once, and kept for each agent.
const READ_BUFFER: usize = 16 << 10;

/// What bounds a connection after its handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkLimits {
    pub(super) heartbeat_interval: Duration,
    pub(super) heartbeat_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) max_message: usize,
    /// How long a closed connection may still deliver what was sent last.
    pub(super) linger: Duration,
}

pub(super) struct Link {
    socket: Arc<TcpStream>,
    limits: LinkLimits,
    outbox: Outbox,
    state: Mutex<State>,
}

struct State {
    session: Session,
    /// Of the commands that have not ended.
    sinks: HashMap<CommandId, Arc<Sink>>,
    /// Why there are no further commands.
    ended: Option<LeaseEnd>,
}

impl Link {
    /// A link whose first message waits to be written.
    pub(super) fn new(socket: Arc<TcpStream>, limits: LinkLimits) -> Arc<Self> {
        let (session, greeting) = Session::new();
        let state = Mutex::new(State { session, sinks: HashMap::new(), ended: None });
        let link = Self { socket, limits, outbox: Outbox::new(), state };
        link.send(greeting);
        Arc::new(link)
    }

    fn send(&self, message: Vec<u8>) {
        self.outbox.push(Frame::message(message, OpCode::Data(Data::Binary), true));
    }

    /// The body of the writing thread.
    pub(super) fn write(&self) {
        let mut spent = Vec::new();
        let mut ping_at = later(self.limits.heartbeat_interval);
        loop {
            match self.outbox.next(ping_at, spent) {
                Next::Write(bytes) => {
                    if let Err(error) = { &*self.socket }.write_all(&bytes) {
                        let what = match error.kind() {
                            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                                "it does not read what it is sent".to_owned()
                            }
                            _ => format!("cannot write to it: {error}"),
                        };
                        self.break_off(&what);
                        return;
                    }
                    spent = bytes;
                }
                Next::Due => {
                    self.outbox.push(Frame::ping(Vec::new()));
                    ping_at = later(self.limits.heartbeat_interval);
                    spent = Vec::new();
                }
                Next::Closed => {
                    let _ = self.socket.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
    }

    /// The greeting, on the reading thread: returns when the worker can take commands, or why it cannot.
    pub(super) fn greet(self: &Arc<Self>, rest: Vec<u8>, deadline: Instant) -> Result<Reader, String> {
        let incoming = Incoming { link: self.clone(), deadline: Some(deadline) };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_GREETING.min(self.limits.max_message)))
            .max_frame_size(Some(MAX_GREETING.min(self.limits.max_message)));
        let socket = WebSocket::from_partially_read(incoming, rest, Role::Server, Some(config));
        let mut reader = Reader { link: self.clone(), socket };
        while !reader.step()? {}
        reader.socket.get_mut().deadline = None;
        let heartbeat_timeout = self.limits.heartbeat_timeout.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(heartbeat_timeout)).map_err(|error| error.to_string())?;
        let max_message = self.limits.max_message;
        reader.socket.set_config(|config| {
            config.max_message_size = Some(max_message);
            config.max_frame_size = Some(max_message);
        });
        Ok(reader)
    }

    /// Does what follows from a message. May wait for a reader of output. Whether the greeting is over.
    fn carry_out(&self, turn: Turn<'_>) -> bool {
        if let Some((command, updates)) = turn.output
            && let Some(sink) = self.sink(command)
        {
            for update in updates {
                match update {
                    Update::Stdout(bytes) => sink.deliver(bytes, Output::Stdout),
                    Update::Stderr(bytes) => sink.deliver(bytes, Output::Stderr),
                    _ => {}
                }
            }
        }
        if let Some((command, ending)) = turn.ended {
            let sink = self.state.lock().sinks.remove(&command);
            if let Some(sink) = sink {
                sink.end(match ending {
                    Ending::Ended(end) => Output::End(end),
                    Ending::Broken(why) => Output::Failed(why),
                });
            }
        }
        if let Some(message) = turn.send {
            self.send(message);
        }
        turn.ready
    }

    fn sink(&self, command: CommandId) -> Option<Arc<Sink>> {
        self.state.lock().sinks.get(&command).cloned()
    }

    /// Ends the connection at once, for this reason if it is the first one.
    pub(super) fn break_off(&self, reason: &str) {
        self.end(LeaseEnd::Lost(reason.into()));
        self.outbox.close();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// As [`break_off`](Self::break_off), unless the connection is about to end by itself.
    pub(super) fn break_off_unless_ending(&self, reason: &str) {
        if self.outbox.is_open() {
            self.break_off(reason);
        }
    }

    /// Tells the worker to end, and ends the connection soon. Does not wait.
    fn close(&self) {
        if !self.outbox.is_open() {
            return;
        }
        let shutdown = self.state.lock().session.shutdown();
        self.send(shutdown);
        self.outbox.finish(later(self.limits.linger));
        self.end(LeaseEnd::Stopped);
    }

    /// No further commands, and nobody is held up by those that run.
    fn end(&self, end: LeaseEnd) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(end);
        state.sinks.values().for_each(|sink| sink.release());
    }

    /// The commands that still run have no end. Not before their leases have ended, because that says more.
    pub(super) fn fail_commands(&self) {
        let mut state = self.state.lock();
        for command in state.session.lost() {
            state.sinks.remove(&command);
        }
    }

    /// Why the connection has ended, once it has.
    pub(super) fn reason(&self) -> Option<String> {
        self.state.lock().ended.as_ref().map(|end| match end {
            LeaseEnd::Lost(reason) => reason.to_string(),
            other => other.to_string(),
        })
    }

    fn interrupt(&self, command: CommandId) {
        let mut state = self.state.lock();
        let message = state.session.interrupt(command);
        let sink = state.sinks.get(&command).cloned();
        drop(state);
        if let Some(message) = message {
            self.send(message);
        }
        if let Some(sink) = sink {
            sink.release();
        }
    }

    fn start(self: &Arc<Self>, command: &Command) -> Result<Process, CommandError> {
        // A worker that does not read holds up whoever wants to use it, and for no longer than the write time-out.
        self.outbox.wait_for_room();
        let (sink, output) = Sink::new();
        let mut state = self.state.lock();
        if let Some(end) = &state.ended {
            return Err(end.clone().into());
        }
        let (id, message) = state.session.start(Instant::now(), command).map_err(|refused| {
            let source = io::Error::new(ErrorKind::InvalidInput, refused.to_string());
            CommandError::Start { program: program_of(command), source }
        })?;
        state.sinks.insert(id, Arc::new(sink));
        // With the lock held, so that no interrupt comes before it.
        self.send(message);
        drop(state);
        let link = self.clone();
        Ok(Process::new(output, move || link.interrupt(id)))
    }
}

fn later(duration: Duration) -> Instant {
    let now = Instant::now();
    // Beyond the end of time is far enough away.
    now.checked_add(duration).unwrap_or_else(|| now + Duration::from_secs(1 << 30))
}

fn program_of(command: &Command) -> String {
    match &command.program {
        Program::Shell(_) => "/bin/sh".to_owned(),
        Program::Exec(arguments) => arguments.first().cloned().unwrap_or_default(),
    }
}

/// The reading end of a link.
pub(super) struct Reader {
    link: Arc<Link>,
    socket: WebSocket<Incoming>,
}

impl Reader {
    /// Reads until the connection has ended, and says why.
    pub(super) fn run(mut self) -> String {
        loop {
            if let Err(reason) = self.step() {
                return reason;
            }
        }
    }

    /// Reads one message and does what follows. Whether the greeting is over; an error when the connection is.
    fn step(&mut self) -> Result<bool, String> {
        // A peer that sends and does not read gets no further than this.
        self.link.outbox.wait_for_room();
        let message = self.socket.read().map_err(|error| self.explain(&error))?;
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Err(self.gone("it closed the connection")),
            Message::Text(_) => return Err(self.protest(CloseCode::Unsupported, "it sent text")),
            _ => return Ok(false),
        };
        if !self.link.outbox.is_open() {
            // About to end; whatever it says has no consequences.
            return Ok(false);
        }
        let turn = self.link.state.lock().session.receive(Instant::now(), &bytes);
        match turn {
            Ok(turn) => Ok(self.link.carry_out(turn)),
            Err(violation) => Err(self.protest(CloseCode::Protocol, &violation.to_string())),
        }
    }

    fn explain(&self, error: &tungstenite::Error) -> String {
        use tungstenite::Error;
        use tungstenite::error::ProtocolError;
        match error {
            Error::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.gone("it has not answered for too long")
            }
            Error::Io(error) => self.gone(&format!("the connection broke: {error}")),
            Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                self.gone("it closed the connection")
            }
            Error::Capacity(_) => self.protest(CloseCode::Size, "it sent a message that is too long"),
            other => self.protest(CloseCode::Protocol, &other.to_string()),
        }
    }

    /// The peer listens no more. The reason, unless there was one before.
    fn gone(&self, reason: &str) -> String {
        self.link.outbox.close();
        self.link.reason().unwrap_or_else(|| reason.to_owned())
    }

    /// Tells the peer what is wrong before the connection ends.
    fn protest(&self, code: CloseCode, reason: &str) -> String {
        let reason = self.link.reason().unwrap_or_else(|| reason.to_owned());
        // What a control frame can carry.
        let told: String = reason.chars().filter(char::is_ascii).take(120).collect();
        self.link.outbox.push(Frame::close(Some(CloseFrame { code, reason: told.into() })));
        self.link.outbox.finish(later(self.link.limits.linger));
        reason
    }
}

/// What tungstenite takes for the socket: it reads from it, and writes only its own answers to pings and closes.
struct Incoming {
    link: Arc<Link>,
    /// For all that is read, until the greeting is over. After that each read waits as long as the heartbeat allows.
    deadline: Option<Instant>,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            return read_before(&self.link.socket, deadline, buffer);
        }
        loop {
            match { &*self.link.socket }.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Write for Incoming {
    /// Takes all, so that frames stay whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.link.outbox.push_bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has a worker end with which there is nothing to talk about, and waits until it has or the deadline is over.
pub(super) fn dismiss(socket: &TcpStream, deadline: Instant) -> io::Result<()> {
    let mut bytes = Vec::new();
    let frame = Frame::message(dismissal(), OpCode::Data(Data::Binary), true);
    frame.format(&mut bytes).map_err(io::Error::other)?;
    { socket }.write_all(&bytes)?;
    let mut answer = [0; 1024];
    while read_before(socket, deadline, &mut answer)? > 0 {}
    Ok(())
}

/// An agent on another machine or in another process: a `buildbot-worker` that is connected to an
/// [`AgentListener`](crate::AgentListener).
///
/// Commands go through the lease. What only such an agent has is reached through [`Lease::agent`](crate::Lease::agent).
pub struct ConnectedAgent {
    link: Arc<Link>,
    peer: SocketAddr,
    basedir: String,
    system: String,
    version: String,
}

impl ConnectedAgent {
    /// For a link whose greeting is over.
    pub(super) fn new(link: Arc<Link>, peer: SocketAddr) -> Self {
        let info = link.state.lock().session.info().cloned();
        let (basedir, system, version) = info.map(|info| (info.basedir, info.system, info.version)).unwrap_or_default();
        Self { link, peer, basedir, system, version }
    }

    /// Where it connects from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The directory on its machine in which commands run when they name no other, an absolute path in its own flavour.
    pub fn basedir(&self) -> &str {
        &self.basedir
    }

    /// What it says its system is: `posix` or `nt`.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// What it says its version is.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl Agent for ConnectedAgent {
    /// Starts the command on the worker's machine. What the stock `buildbot-worker` does differently from a local
    /// instance:
    ///
    /// - Output is text to it: what is not in its encoding is replaced, and a last line without a line feed gets one.
    ///   A line arrives whole, so that one longer than
    ///   [`max_message_size`](crate::AgentListenerBuilder::max_message_size) costs the connection.
    /// - A directory that does not exist is made.
    /// - `${NAME}` in the value of a variable is replaced by the value of the worker's own variable.
    /// - A program that does not exist is [`CommandError::Failed`] while the command runs.
    /// - It may fail to kill what the command itself has started.
    ///
    /// Output that is not read slows the agent: beyond 64 pieces (of 64 KiB at most) for a command nothing more is read
    /// from it, also for other commands of the same agent. After an interrupt only the last 64 pieces are kept.
    ///
    /// Blocks only while the worker does not read, at most as long as the write time-out.
    ///
    /// # Errors
    ///
    /// [`CommandError::LeaseEnded`] when the connection has ended; [`CommandError::Start`] when the command cannot be
    /// said on the wire. What the worker itself cannot run fails as [`CommandError::Failed`] while it is waited for.
    fn start_command(&self, command: &Command) -> Result<Process, CommandError> {
        self.link.start(command)
    }

    /// Tells the worker to end (it kills what it runs and does not come back) and closes the connection. Does not wait.
    fn close(&self) {
        self.link.close();
    }
}

impl Drop for ConnectedAgent {
    /// Nobody uses the connection any more.
    fn drop(&mut self) {
        self.link.break_off_unless_ending("it is not needed any more");
    }
}

impl fmt::Debug for ConnectedAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectedAgent")
            .field("peer", &self.peer)
            .field("basedir", &self.basedir)
            .finish_non_exhaustive()
    }
}
