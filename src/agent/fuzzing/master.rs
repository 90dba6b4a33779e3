//! The master's session against any worker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::codec::{self, BLOCK, Envelope, FileCommand, MAX_COMMANDS, Message, Step, Update};
use super::super::msgpack::Raw;
use super::super::session::{CommandId, Ending, Session, StartRefused, Turn, Violation};
use super::Steps;
use crate::{Command, Exit};

/// The master's side of one connection, whose worker does as the input says.
///
/// # Panics
/// When a request of the worker is not answered exactly once, a command has more than one end or anything after it, a
/// message of ours is not what it is meant to be, or anything in there panics.
pub fn master(input: &[u8]) {
    let mut steps = Steps::new(input);
    let mut connection = Connection::new();
    if steps.flag() {
        connection.greet(steps.flag());
    }
    while let Some(step) = steps.next() {
        match step % 8 {
            0 => connection.start(&command(&mut steps)),
            1 => {
                let what = file_command(&mut steps);
                connection.start_files(what, &steps.text());
            }
            2 => connection.interrupt(steps.byte().into()),
            3 if step & 0x80 != 0 => connection.lose(),
            3 => connection.shut_down(),
            _ => {
                if !connection.receive(&steps.message()) {
                    break;
                }
            }
        }
    }
    connection.lose();
}

/// Any command.
pub(in crate::agent) fn command(steps: &mut Steps<'_>) -> Command {
    let has = steps.byte();
    let is = |bit: u8| has & bit != 0;
    let mut command = if is(1) {
        Command::exec((0..steps.byte() % 8).map(|_| steps.text()).collect::<Vec<_>>())
    } else {
        Command::shell(steps.text())
    };
    if is(2) {
        command = command.directory(steps.text());
    }
    if is(4) {
        for _ in 0..steps.byte() % 8 {
            let name = steps.text();
            command = if steps.flag() { command.env(name, steps.text()) } else { command.env_remove(name) };
        }
    }
    if is(8) {
        command = command.stdin(steps.bytes());
    }
    command.time_limit = is(16).then(|| Duration::from_micros(steps.number()));
    command.silence_limit = is(32).then(|| Duration::from_micros(steps.number()));
    command
}

/// Anything that is done with files.
pub(in crate::agent) fn file_command(steps: &mut Steps<'_>) -> FileCommand {
    match steps.byte() % 8 {
        0 => FileCommand::Status,
        1 => FileCommand::List,
        2 => FileCommand::MakeDirectory,
        3 => FileCommand::RemoveDirectory,
        4 => FileCommand::RemoveFile,
        5 => FileCommand::Read,
        6 => FileCommand::Write { mode: None },
        _ => FileCommand::Write { mode: Some(steps.number() as u32) },
    }
}

/// The session under test, and what is known of it from outside.
struct Connection {
    session: Session,
    now: Instant,
    ready: bool,
    next_number: u64,
    /// Our requests that were not answered.
    asked: BTreeMap<u64, Asked>,
    next_command: CommandId,
    /// The commands that have not ended.
    open: BTreeMap<CommandId, Open>,
}

enum Asked {
    Info,
    Settings,
    Start(CommandId),
    Other,
}

struct Open {
    /// Of a command that is not a program.
    files: Option<FileCommand>,
    interrupted: bool,
    /// The worker goes on with a file and was not answered.
    unanswered: bool,
}

impl Connection {
    fn new() -> Self {
        let (session, greeting) = Session::new();
        let mut connection = Self {
            session,
            now: Instant::now(),
            ready: false,
            next_number: 0,
            asked: BTreeMap::new(),
            next_command: 0,
            open: BTreeMap::new(),
        };
        connection.sent(&greeting, "get_worker_info", Asked::Info);
        connection
    }

    /// As a worker does it that means no harm.
    fn greet(&mut self, raw_output: bool) {
        let mut info = super::super::msgpack::Writer::request("response", 0, 1);
        info.field("result").map(3).field("basedir").text("/w").field("system").text("posix");
        info.field("raw_output").boolean(raw_output);
        assert!(self.receive(&info.0));
        assert!(self.receive(&codec::encode_response(1, None)) && self.ready);
    }

    /// A request of ours that the peer can read, under the next number.
    fn sent(&mut self, message: &[u8], op: &str, asked: Asked) {
        let envelope = Envelope::read(message).expect("ours is well-formed").expect("ours can be answered");
        assert_eq!((envelope.op, envelope.number), (op, self.next_number));
        if let Asked::Start(command) = asked {
            assert_eq!(envelope.command, Some(&*command.to_string()));
        }
        self.asked.insert(self.next_number, asked);
        self.next_number += 1;
    }

    fn start(&mut self, command: &Command) {
        match self.session.start(self.now, command) {
            Ok((id, message)) => self.started(id, &message, None),
            Err(StartRefused::NoProgram) => assert!(self.ready && command.to_string().is_empty()),
            Err(refused) => self.is_refused(refused),
        }
    }

    fn start_files(&mut self, what: FileCommand, path: &str) {
        match self.session.start_files(what, path) {
            Ok((id, message)) => self.started(id, &message, Some(what)),
            Err(refused) => self.is_refused(refused),
        }
    }

    fn is_refused(&self, refused: StartRefused) {
        match refused {
            StartRefused::TooMany => assert!(self.ready && self.open.len() == MAX_COMMANDS),
            other => assert!(other == StartRefused::NotReady && !self.ready, "{other}"),
        }
    }

    fn started(&mut self, id: CommandId, message: &[u8], files: Option<FileCommand>) {
        assert!(self.ready);
        assert_eq!(id, self.next_command, "every command has a number of its own");
        self.next_command += 1;
        self.open.insert(id, Open { files, interrupted: false, unanswered: false });
        self.sent(message, "start_command", Asked::Start(id));
    }

    fn interrupt(&mut self, id: CommandId) {
        let message = self.session.interrupt(id);
        let open = self.open.get_mut(&id).filter(|open| !open.interrupted);
        assert_eq!(message.is_some(), open.is_some(), "what runs is interrupted, and once");
        if let (Some(message), Some(open)) = (message, open) {
            open.interrupted = true;
            self.sent(&message, "interrupt_command", Asked::Other);
        }
    }

    fn shut_down(&mut self) {
        let message = self.session.shutdown();
        self.sent(&message, "shutdown", Asked::Other);
    }

    /// Every command that has no end is lost, and no other.
    fn lose(&mut self) {
        let mut lost = self.session.lost();
        lost.sort_unstable();
        assert!(lost.iter().eq(self.open.keys()), "{lost:?} are lost");
        assert!(self.session.lost().is_empty());
        self.open.clear();
        self.asked.clear();
    }

    /// Whether the worker keeps to the protocol.
    fn receive(&mut self, bytes: &[u8]) -> bool {
        let turn = self.session.receive(self.now, bytes);
        let goes_on = match Envelope::read(bytes) {
            Err(malformed) => {
                assert_eq!(turn.expect_err("it is malformed"), Violation::Malformed(malformed));
                false
            }
            Ok(None) => {
                nothing_follows(&turn.expect("it is passed over"));
                true
            }
            Ok(Some(envelope)) => match envelope.response() {
                Some(result) => self.answered(envelope.number, result, turn),
                None => match turn {
                    Ok(turn) => {
                        self.requested(&envelope, turn, bytes.len());
                        true
                    }
                    Err(violation) => {
                        let id = envelope.command.and_then(|command| command.parse().ok());
                        let open = id.and_then(|id: CommandId| self.open.get(&id));
                        assert_eq!(violation, Violation::Impatient);
                        assert!(open.is_some_and(|open| open.unanswered), "it waits for no answer");
                        false
                    }
                },
            },
        };
        assert_eq!(self.session.info().is_some(), self.ready);
        goes_on
    }

    fn answered(&mut self, number: u64, result: Result<Raw<'_>, String>, turn: Result<Turn<'_>, Violation>) -> bool {
        let Some(asked) = self.asked.remove(&number) else {
            nothing_follows(&turn.expect("a stray is passed over"));
            return true;
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(violation) => {
                let greets = matches!(asked, Asked::Info | Asked::Settings);
                assert!(greets && !self.ready, "{violation}");
                return false;
            }
        };
        assert!(turn.output.is_none() && turn.transfer.is_none());
        assert_eq!(turn.ready, matches!(asked, Asked::Settings));
        self.ready |= turn.ready;
        assert_eq!(turn.send.is_some(), matches!(asked, Asked::Info), "an answer is not answered");
        if let (Asked::Info, Ok(info)) = (&asked, &result) {
            is_at_home(&info.worker_info().expect("it says who it is"));
        }
        if let Some(settings) = turn.send {
            self.sent(&settings, "set_worker_settings", Asked::Settings);
        }
        let ending = match (asked, result) {
            (Asked::Start(id), Err(error)) => self.open.remove(&id).map(|_| (id, Ending::Broken(error))),
            _ => None,
        };
        assert_eq!(turn.ended, ending);
        true
    }

    fn requested(&mut self, envelope: &Envelope<'_>, turn: Turn<'_>, length: usize) {
        assert!(!turn.ready);
        let id = envelope.command.and_then(|command| command.parse().ok());
        let open = id.and_then(|id: CommandId| self.open.get(&id));
        assert!(turn.transfer.is_none() || open.is_some_and(|open| !open.unanswered), "it was not answered");
        let is_accepted = match &turn.send {
            Some(answer) => is_accepted(answer, envelope.number),
            None => {
                let (_, number, _) = turn.transfer.expect("no answer");
                assert_eq!(number, envelope.number);
                true
            }
        };
        if is_accepted {
            assert!(open.is_some(), "it is about a command that runs");
        }
        if let Some((command, updates)) = turn.output {
            assert!(is_accepted && envelope.op == "update" && Some(command) == id);
            assert!(open.is_some_and(|open| open.files.is_none()));
            assert!(bytes_of(updates) <= length);
        }
        if let Some((command, _, step)) = turn.transfer {
            assert!(turn.send.is_none() && Some(command) == id);
            match (open.and_then(|open| open.files), step) {
                (Some(FileCommand::Read), Step::Take(bytes)) => assert!(bytes.len() <= BLOCK),
                (Some(FileCommand::Write { .. }), Step::Give(_)) => {}
                _ => panic!("{step:?}"),
            }
        }
        let going_on = turn.transfer.map(|(command, ..)| command);
        let ends = open.is_some() && envelope.op == "complete";
        assert_eq!(turn.ended.is_some(), ends, "a command ends when it is complete");
        if let Some((command, ending)) = turn.ended {
            assert!(is_accepted && Some(command) == id);
            let open = self.open.remove(&command).expect("it has ended before");
            match ending {
                Ending::Ended(end) => {
                    assert!(open.files.is_none() && (open.interrupted || end.exit != Exit::Interrupted));
                }
                Ending::Files(_) => assert!(open.files.is_some()),
                Ending::Broken(_) => {}
            }
        }
        if let Some(command) = going_on {
            // Mostly at once.
            if envelope.number % 8 == 7 {
                self.open.get_mut(&command).expect("it runs").unanswered = true;
            } else {
                self.session.transfer_answered(command);
            }
        }
    }
}

/// Its directory says where it is, in its own flavour.
fn is_at_home(info: &codec::WorkerInfo) {
    let is_absolute = match &*info.system {
        "nt" => info.basedir.starts_with(r"\\") || info.basedir.get(1..2) == Some(":"),
        _ => info.basedir.starts_with('/'),
    };
    assert!(is_absolute, "{}", info.basedir);
}

fn nothing_follows(turn: &Turn<'_>) {
    assert!(turn.output.is_none() && turn.transfer.is_none() && turn.ended.is_none(), "{turn:?}");
    assert!(turn.send.is_none() && !turn.ready, "{turn:?}");
}

/// Whether the answer, which is the one to this request, is not an error.
pub(in crate::agent) fn is_accepted(answer: &[u8], to: u64) -> bool {
    match codec::decode(answer) {
        Ok(Message::Response { number, result }) if number == to => result.is_ok(),
        other => panic!("{other:?} is no answer to {to}"),
    }
}

/// How much text comes with an update.
fn bytes_of(updates: codec::Updates<'_>) -> usize {
    let text = |update| match update {
        Update::Stdout(text) | Update::Stderr(text) | Update::Header(text) => text.len(),
        _ => 0,
    };
    updates.map(text).sum()
}
