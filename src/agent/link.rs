//! The master's side of one upgraded connection: what its two threads do, and what leases can have done through it.
//!
//! What the messages mean is decided by the [`Session`]. The reading thread does not wait for the socket to take commands;
//! so an interrupt reaches a worker whose output nobody takes. Output waits in a [`Sink`] for its reader. A worker of ours
//! waits for the answers, and they are held back while too much waits: then it is this one command that is slowed. The
//! stock worker waits for nothing; so that memory stays bounded, the reading thread waits for the reader of output, and
//! all commands of that worker with it.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::budget::Budget;
use super::codec::{self, FileCommand, Step, Update};
use super::session::{CommandId, Ending, Session, StartRefused, Turn, dismissal};
use super::sink::Sink;
use super::transport::Transport;
use super::wire::{Limits, Wire, WireReader};
use crate::error::{CommandError, LeaseEnd};
use crate::{Command, Output, Process};

/// The longest message of a worker that has not attached yet: its environment is in it.
pub(super) const MAX_GREETING: usize = 1 << 20;
/// How many events may wait for a thread that copies: one step, which the session ensures, and the end.
const EVENTS: usize = 2;
/// How long a caller waits for a worker to read earlier messages.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
/// Tells a worker that nobody copies any more.
const GIVEN_UP: &str = "given up";

pub(super) struct Link {
    wire: Arc<Wire>,
    state: Mutex<State>,
}

struct State {
    session: Session,
    /// Where the output of programs goes, and what happens with files, of all commands that have not ended.
    sinks: HashMap<CommandId, Arc<Sink>>,
    copiers: HashMap<CommandId, Sender<FileEvent>>,
    /// Why there are no further commands.
    ended: Option<LeaseEnd>,
}

/// What a thread is told that copies a file, or waits for an answer about files.
pub(super) enum FileEvent {
    /// The worker sends this; it waits for the answer to that request.
    Take(u64, Vec<u8>),
    /// The worker wants so many bytes; it waits for the answer to that request.
    Give(u64, u64),
    Ended(Ending),
}

impl Link {
    /// A link whose first message waits to be written.
    pub(super) fn new(transport: Transport, limits: Limits, budget: Arc<Budget>) -> Arc<Self> {
        let (session, greeting) = Session::new();
        let state = State { session, sinks: HashMap::new(), copiers: HashMap::new(), ended: None };
        let wire = Arc::new(Wire::new(transport, Role::Server, limits, budget));
        wire.send(greeting);
        Arc::new(Self { wire, state: Mutex::new(state) })
    }

    /// The body of the writing thread.
    pub(super) fn write(&self) {
        if let Some(reason) = self.wire.write() {
            self.break_off(&reason);
        }
    }

    /// The greeting, on the reading thread: returns when the worker can take commands, or why it cannot.
    pub(super) fn greet(self: &Arc<Self>, rest: Vec<u8>, deadline: Instant) -> Result<Reader, String> {
        let reader = WireReader::new(self.wire.clone(), rest, deadline, MAX_GREETING);
        let mut reader = Reader { link: self.clone(), reader };
        while !reader.step()? {}
        reader.reader.greeted()?;
        Ok(reader)
    }

    /// Does what follows from a message. May wait for a reader of output. Whether the greeting is over.
    fn carry_out(&self, turn: Turn<'_>) -> bool {
        let mut answer = turn.send;
        if let Some((command, updates)) = turn.output
            && let Some(sink) = self.sink(command)
        {
            // Delivering may wait, and answers to others should not.
            self.wire.flush();
            for update in updates {
                match update {
                    Update::Stdout(bytes) => sink.deliver(bytes, Output::Stdout),
                    Update::Stderr(bytes) => sink.deliver(bytes, Output::Stderr),
                    _ => {}
                }
            }
            answer = answer.and_then(|answer| sink.hold_back(answer));
        }
        if let Some((command, number, step)) = turn.transfer {
            answer = self.pass_on(command, number, step);
        }
        if let Some((command, ending)) = turn.ended {
            self.command_ended(command, ending);
        }
        if let Some(message) = answer {
            self.wire.send_soon(message);
        }
        turn.ready
    }

    /// Passes a step of a transfer to the thread that copies. Returns the answer if no thread copies any more.
    fn pass_on(&self, command: CommandId, number: u64, step: Step<'_>) -> Option<Vec<u8>> {
        let event = match step {
            Step::Take(bytes) => FileEvent::Take(number, bytes.to_vec()),
            Step::Give(length) => FileEvent::Give(number, length),
            Step::Closed => return None,
        };
        // With the lock held, so that a thread that gives up finds the event.
        let mut state = self.state.lock();
        let passed = state.copiers.get(&command).is_some_and(|copier| copier.try_send(event).is_ok());
        if passed {
            return None;
        }
        state.session.transfer_answered(command);
        Some(codec::encode_response(number, Some(GIVEN_UP)))
    }

    fn command_ended(&self, command: CommandId, ending: Ending) {
        let mut state = self.state.lock();
        let (sink, copier) = (state.sinks.remove(&command), state.copiers.remove(&command));
        drop(state);
        if let Some(copier) = copier {
            // Behind the last step there is room, or the channel's end says enough.
            let _ = copier.try_send(FileEvent::Ended(ending));
        } else if let Some(sink) = sink {
            sink.end(match ending {
                Ending::Ended(end) => Output::End(end),
                Ending::Broken(why) => Output::Failed(why),
                Ending::Files(_) => Output::Failed("it answered something else".to_owned()),
            });
            self.wire.send_all(sink.release_answers());
        }
    }

    fn sink(&self, command: CommandId) -> Option<Arc<Sink>> {
        self.state.lock().sinks.get(&command).cloned()
    }

    /// Ends the connection at once, for this reason if it is the first one.
    pub(super) fn break_off(&self, reason: &str) {
        self.end(LeaseEnd::Lost(reason.into()));
        self.wire.cut();
    }

    /// As [`break_off`](Self::break_off), but what is to be written at the end still is, if there is something.
    pub(super) fn break_off_unless_ending(&self, reason: &str) {
        self.end(LeaseEnd::Lost(reason.into()));
        if self.wire.is_open() {
            self.wire.cut();
        }
    }

    /// Blocks until the last words are written, or had time enough for that.
    pub(super) fn settle(&self) {
        self.wire.settle();
    }

    /// Tells the worker to end, and ends the connection soon. Does not wait.
    pub(super) fn close(&self) {
        if !self.wire.is_open() {
            return;
        }
        let shutdown = self.state.lock().session.shutdown();
        self.wire.send(shutdown);
        self.wire.finish();
        self.end(LeaseEnd::Stopped);
    }

    /// No further commands, and nobody is held up by those that run.
    fn end(&self, end: LeaseEnd) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(end);
        state.sinks.values().for_each(|sink| sink.release());
        state.copiers.clear();
    }

    /// The commands that still run have no end. Not before their leases have ended, because that says more.
    pub(super) fn fail_commands(&self) {
        let mut state = self.state.lock();
        for command in state.session.lost() {
            state.sinks.remove(&command);
            state.copiers.remove(&command);
        }
    }

    /// Why the connection has ended, once it has.
    pub(super) fn reason(&self) -> Option<String> {
        self.ended().map(|end| match end {
            LeaseEnd::Lost(reason) => reason.to_string(),
            other => other.to_string(),
        })
    }

    pub(super) fn ended(&self) -> Option<LeaseEnd> {
        self.state.lock().ended.clone()
    }

    /// What the worker has said of itself.
    pub(super) fn info(&self) -> Option<codec::WorkerInfo> {
        self.state.lock().session.info().cloned()
    }

    fn interrupt(&self, command: CommandId) {
        let mut state = self.state.lock();
        let message = state.session.interrupt(command);
        let sink = state.sinks.get(&command).cloned();
        drop(state);
        if let Some(message) = message {
            self.wire.send(message);
        }
        if let Some(sink) = sink {
            sink.release();
            self.wire.send_all(sink.release_answers());
        }
    }

    pub(super) fn start(self: &Arc<Self>, command: &Command) -> Result<Process, CommandError> {
        let refused = |source| CommandError::Start { program: command.program_name().to_owned(), source };
        self.wait_for_room().map_err(refused)?;
        let (sink, output) = Sink::new();
        let sink = Arc::new(sink);
        let mut state = self.state.lock();
        if let Some(end) = &state.ended {
            return Err(end.clone().into());
        }
        let (id, message) = state
            .session
            .start(Instant::now(), command)
            .map_err(|reason| refused(io::Error::new(ErrorKind::InvalidInput, reason.to_string())))?;
        state.sinks.insert(id, sink.clone());
        // With the lock held, so that no interrupt comes before it.
        self.wire.send(message);
        drop(state);
        let (interrupted, read_from) = (self.clone(), self.clone());
        // Not the sink itself: the output must come to its end when the command has none.
        let sink = Arc::downgrade(&sink);
        let process = Process::new(output, move || interrupted.interrupt(id));
        let reading = Reading { link: read_from, id };
        Ok(process.when_taken(move || {
            if let Some(sink) = sink.upgrade() {
                reading.link.wire.send_all(sink.answers_due());
            }
        }))
    }

    /// Waits until the worker has read enough of the earlier messages, at most for [`ROOM_PATIENCE`].
    fn wait_for_room(&self) -> io::Result<()> {
        let has_room = self.wire.wait_for_room(Some(ROOM_PATIENCE));
        let slow = || io::Error::new(ErrorKind::TimedOut, "timed out: the worker does not read its messages");
        if has_room { Ok(()) } else { Err(slow()) }
    }

    /// Has the worker do something with files; a relative path counts from its directory.
    pub(super) fn start_files(self: &Arc<Self>, what: FileCommand, path: &str) -> Result<FileCall, FilesRefused> {
        self.wait_for_room().map_err(|slow| FilesRefused::Busy(slow.to_string()))?;
        let (copier, events) = bounded(EVENTS);
        let mut state = self.state.lock();
        if let Some(end) = &state.ended {
            return Err(FilesRefused::Ended(end.clone()));
        }
        let (id, message) = state.session.start_files(what, path).map_err(|refused| match refused {
            StartRefused::TooMany => FilesRefused::Busy(refused.to_string()),
            _ => FilesRefused::BadPath(refused.to_string()),
        })?;
        state.copiers.insert(id, copier);
        self.wire.send(message);
        drop(state);
        Ok(FileCall { link: self.clone(), id, events })
    }
}

/// Why nothing is done with files.
pub(super) enum FilesRefused {
    Ended(LeaseEnd),
    BadPath(String),
    /// The worker does not read its messages, or runs too many commands.
    Busy(String),
}

/// The reader of a command's output.
struct Reading {
    link: Arc<Link>,
    id: CommandId,
}

impl Drop for Reading {
    /// Discards what is still received for the command: nobody reads it, and the worker may never report the end of the
    /// command.
    fn drop(&mut self) {
        let sink = self.link.state.lock().sinks.remove(&self.id);
        if let Some(sink) = sink {
            sink.release();
            self.link.wire.send_all(sink.release_answers());
        }
    }
}

/// Something that a worker does with files. Given up when dropped.
pub(super) struct FileCall {
    link: Arc<Link>,
    id: CommandId,
    /// Disconnected when the connection has ended.
    pub(super) events: Receiver<FileEvent>,
}

impl FileCall {
    /// Says that the bytes of request `number` were taken.
    pub(super) fn taken(&self, number: u64) {
        self.send(codec::encode_response(number, None));
    }

    /// Answers request `number` with the bytes that it wants.
    pub(super) fn give(&self, number: u64, bytes: &[u8]) {
        self.send(codec::encode_bytes(number, bytes));
    }

    /// Answers request `number` so that the worker gives up.
    pub(super) fn refuse(&self, number: u64) {
        self.send(codec::encode_response(number, Some(GIVEN_UP)));
    }

    fn send(&self, message: Vec<u8>) {
        self.link.state.lock().session.transfer_answered(self.id);
        self.link.wire.send_answer(message);
    }

    /// Why there are no further events.
    pub(super) fn link_end(&self) -> Option<LeaseEnd> {
        self.link.ended()
    }
}

impl Drop for FileCall {
    /// A worker that waits for an answer gets one, and gives up then.
    fn drop(&mut self) {
        self.link.state.lock().copiers.remove(&self.id);
        self.link.interrupt(self.id);
        for event in self.events.try_iter() {
            if let FileEvent::Take(number, _) | FileEvent::Give(number, _) = event {
                self.refuse(number);
            }
        }
    }
}

/// The reading end of a link.
pub(super) struct Reader {
    link: Arc<Link>,
    reader: WireReader,
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
        let step = self.reader.next().and_then(|message| {
            let Some(bytes) = message else { return Ok(false) };
            let turn = self.link.state.lock().session.receive(Instant::now(), &bytes);
            let done = turn.map_err(|violation| violation.to_string());
            let done = done.map(|turn| self.link.carry_out(turn));
            done.map_err(|reason| self.reader.violated(&reason))
        });
        // Whatever was found first is the reason.
        step.map_err(|reason| self.link.reason().unwrap_or(reason))
    }
}

/// Has a worker end with which there is nothing to talk about, and waits until it has or the deadline is over.
pub(super) fn dismiss(transport: &Transport, deadline: Instant) -> io::Result<()> {
    let mut bytes = Vec::new();
    let frame = Frame::message(dismissal(), OpCode::Data(Data::Binary), true);
    frame.format(&mut bytes).map_err(io::Error::other)?;
    transport.write_before(deadline, &bytes)?;
    let mut answer = [0; 1024];
    while transport.read_before(deadline, &mut answer)? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::codec::tests::{lines, list, message, text};
    use super::*;

    /// A link to a worker that has introduced itself, and the worker's end of the connection.
    fn ready() -> (Arc<Link>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let worker = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let transport = Transport::plain(Arc::new(listener.accept().unwrap().0));
        let long = Duration::from_secs(60);
        let limits = Limits {
            heartbeat_interval: long,
            heartbeat_timeout: long,
            max_message: 1 << 20,
            write_timeout: long,
            linger: long,
        };
        let link = Link::new(transport, limits, Budget::new(0));
        let info = [&[0x82][..], &text("system"), &text("posix"), &text("basedir"), &text("/srv")].concat();
        for (number, result) in [info, vec![0xc0]].into_iter().enumerate() {
            let answer = [("op", text("response")), ("seq_number", vec![number as u8]), ("result", result)];
            link.state.lock().session.receive(Instant::now(), &message(&answer)).unwrap();
        }
        (link, worker)
    }

    #[test]
    fn a5_output_that_has_no_reader_any_more_is_not_kept() {
        let (link, _worker) = ready();
        let process = link.start(&Command::shell("x")).unwrap();
        let output = message(&[
            ("op", text("update")),
            ("args", list(&[lines("stdout", "text\n")])),
            ("command_id", text("0")),
            ("seq_number", vec![0]),
        ]);
        let tell = || {
            let turn = link.state.lock().session.receive(Instant::now(), &output).unwrap();
            link.carry_out(turn);
        };
        tell();
        assert_eq!(process.output().len(), 1);
        drop(process);
        // The worker has not reported the end of the command, and may never do so.
        tell();
        assert!(link.state.lock().sinks.is_empty());
    }
}
