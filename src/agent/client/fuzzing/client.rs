//! An agent's session against any master.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::super::codec::{Envelope, Message, Request, Step, Update, decode};
use super::super::super::fuzzing::{Steps, is_accepted};
use super::super::codec::{self, COMMANDS, FileJob, Info, Job, Piece, Settings};
use super::super::session::{Session, Todo, Turn};
use super::super::text::{Lines, Whole};
use crate::Command;

/// An agent's side of one connection, whose master does as the input says.
///
/// # Panics
/// When a request of the master is not answered exactly once, an answer goes to a command that did not ask, a command is
/// begun that should not be, a message of ours is not what it is meant to be, or anything in there panics.
pub fn client(input: &[u8]) {
    let mut steps = Steps::new(input);
    let mut connection = Connection::new();
    while let Some(step) = steps.next() {
        let command = connection.running_at(step >> 3);
        match (step % 8, command) {
            (0, Some(command)) => connection.ask(&command, &mut steps),
            (1, Some(command)) => connection.end(&command, steps.flag()),
            (2, _) => lines(&mut steps),
            _ => {
                if !connection.receive(&steps.message()) {
                    break;
                }
            }
        }
    }
}

/// As many commands run at once.
const MOST: usize = 256;
const INFO: Info<'static> = Info { basedir: Cow::Borrowed("/w"), processors: 2, environment: Cow::Borrowed(&[]) };

/// The session under test, and what is known of it from outside.
struct Connection {
    session: Session,
    settings: Settings,
    greeted: bool,
    next_number: u64,
    /// Our requests that were not answered, and who waits for the answer.
    asked: BTreeMap<u64, Begun>,
    /// The commands that run.
    running: BTreeMap<String, Begun>,
    begun: u64,
}

/// Which command it is: the master can use a name again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Begun(u64);

impl Connection {
    fn new() -> Self {
        Self {
            session: Session::new(),
            settings: Settings { raw_output: false, max_line_length: usize::MAX },
            greeted: false,
            next_number: 0,
            asked: BTreeMap::new(),
            running: BTreeMap::new(),
            begun: 0,
        }
    }

    fn running_at(&self, at: u8) -> Option<String> {
        let count = self.running.len().max(1);
        self.running.keys().nth(usize::from(at) % count).cloned()
    }

    /// A command asks something, and a master understands it.
    fn ask(&mut self, command: &str, steps: &mut Steps<'_>) {
        let number = self.session.ask(command);
        self.asked.insert(number, self.running[command]);
        let (bytes, length) = (steps.bytes(), steps.number() as usize);
        let what = steps.byte() % 4;
        let message = match what {
            0 => codec::encode_take(number, command, bytes),
            1 => codec::encode_give(number, command, length),
            2 => codec::encode_closed("update_read_file_close", number, command),
            _ => codec::encode_update(number, command, 1.0, &[Piece::Raw("stdout", bytes), Piece::ExitCode(-1)]),
        };
        match (what, self.sent(&message, number, command)) {
            (0, Request::Transfer { step: Step::Take(taken), .. }) => assert_eq!(taken, bytes),
            (1, Request::Transfer { step: Step::Give(given), .. }) => assert_eq!(given, length as u64),
            (2, Request::Transfer { step: Step::Closed, .. }) => {}
            (3, Request::Update { updates, .. }) => {
                assert!(updates.eq([Update::Stdout(bytes), Update::ExitCode(-1)]));
            }
            (_, other) => panic!("{other:?}"),
        }
    }

    fn end(&mut self, command: &str, well: bool) {
        let number = self.session.ended(command);
        self.running.remove(command);
        let error = (!well).then_some("no");
        match self.sent(&codec::encode_complete(number, command, error), number, command) {
            Request::Complete { error: told, .. } => assert_eq!(told.as_deref(), error),
            other => panic!("{other:?}"),
        }
    }

    /// What a master takes a message of ours for, which is a request under the next number.
    fn sent<'m>(&mut self, message: &'m [u8], number: u64, command: &str) -> Request<'m> {
        assert_eq!(number, self.next_number);
        self.next_number += 1;
        let Ok(Message::Request { number: read, request }) = decode(message) else { panic!("{message:?}") };
        assert_eq!(read, number);
        match request {
            Request::Update { command: named, .. }
            | Request::Transfer { command: named, .. }
            | Request::Complete { command: named, .. } => assert_eq!(named, command),
            Request::Unusable { why, .. } | Request::Refused(why) => panic!("{why}"),
        }
        request
    }

    /// Whether the master keeps to the protocol.
    fn receive(&mut self, bytes: &[u8]) -> bool {
        let turn = self.session.receive(bytes, &INFO, &|name| (name == "HOME").then(|| "/home".to_owned()));
        let envelope = match Envelope::read(bytes) {
            Err(malformed) => {
                assert_eq!(turn.expect_err("it is malformed"), malformed);
                return false;
            }
            Ok(envelope) => envelope,
        };
        let turn = turn.expect("it is well-formed");
        match envelope {
            None => assert!(turn.todo.is_none() && turn.send.is_none()),
            Some(envelope) if envelope.op == "response" => self.answered(&envelope, &turn),
            Some(envelope) => self.requested(bytes, &envelope, turn),
        }
        assert_eq!(self.session.is_greeted(), self.greeted);
        true
    }

    /// An answer goes to the command that asked, while it runs.
    fn answered(&mut self, envelope: &Envelope<'_>, turn: &Turn<'_>) {
        assert!(turn.send.is_none(), "an answer is not answered");
        let waiting = self.asked.remove(&envelope.number);
        let waiting = waiting.filter(|waiting| self.running.values().any(|running| running == waiting));
        match &turn.todo {
            None => assert_eq!(waiting, None, "a command waits for ever"),
            Some(Todo::Answer(command, result)) => {
                assert_eq!(self.running.get(command).copied(), waiting, "an answer for a command that did not ask");
                assert!(waiting.is_some(), "an answer for a command that has ended");
                assert_eq!(Some(result.clone()), envelope.response());
            }
            Some(other) => panic!("{other:?}"),
        }
    }

    fn requested(&mut self, bytes: &[u8], envelope: &Envelope<'_>, turn: Turn<'_>) {
        let answer = turn.send.expect("a request is answered");
        let is_accepted = is_accepted(&answer, envelope.number);
        match (envelope.op, turn.todo) {
            ("get_worker_info", None) => is_introduced(&answer),
            ("print" | "keepalive", None) => assert!(is_accepted),
            ("set_worker_settings", None) => {
                self.greeted |= is_accepted;
                self.settings.raw_output &= !is_accepted;
                if let (true, Some(args)) = (is_accepted, envelope.args) {
                    args.each_field(|key, value| {
                        if key == b"raw_output" {
                            self.settings.raw_output = value.boolean() == Some(true);
                        }
                    });
                }
            }
            ("start_command", None) => assert!(!is_accepted && !self.can_begin(bytes), "it is not begun"),
            ("start_command", Some(Todo::Start(command, job, settings))) => {
                assert!(is_accepted && envelope.command == Some(command));
                assert!(COMMANDS.contains(&envelope.name.unwrap_or_default()));
                assert_eq!(settings.raw_output, self.settings.raw_output);
                is_sound(&job);
                self.begun += 1;
                let before = self.running.insert(command.to_owned(), Begun(self.begun));
                assert_eq!(before, None, "it runs already");
                assert!(self.running.len() <= MOST);
            }
            ("interrupt_command", Some(Todo::Interrupt(command))) => {
                assert!(is_accepted && envelope.command == Some(command));
            }
            ("shutdown", Some(Todo::Shutdown)) => assert!(is_accepted),
            (_, None) => assert!(!is_accepted),
            (op, Some(todo)) => panic!("{op} leads to {todo:?}"),
        }
    }

    /// Whether the message starts a command for which there is room.
    fn can_begin(&self, bytes: &[u8]) -> bool {
        match codec::decode(bytes, None) {
            Ok(codec::Message::Request { request: codec::Request::Start { command, job: Ok(_) }, .. }) => {
                !self.running.contains_key(command) && self.running.len() < MOST
            }
            _ => false,
        }
    }
}

/// A master can read who we are.
fn is_introduced(answer: &[u8]) {
    let Ok(Message::Response { result: Ok(info), .. }) = decode(answer) else { panic!("{answer:?}") };
    let info = info.worker_info().expect("all is said");
    assert_eq!((&*info.basedir, &*info.system, info.raw_output), (&*INFO.basedir, "posix", true));
}

/// What is begun has paths that are absolute and blocks of a size that fits.
fn is_sound(job: &Job) {
    let is_absolute = |path: &str| assert!(path.starts_with('/'), "{path}");
    match job {
        Job::Run(run) => {
            let Command { directory, time_limit, silence_limit, .. } = &run.command;
            if let Some(directory) = directory {
                is_absolute(directory.to_str().expect("it came as text"));
            }
            for limit in [time_limit, silence_limit].into_iter().flatten() {
                assert!(limit.as_secs() < 1_000_000_000);
            }
        }
        Job::Files(FileJob::Status(path) | FileJob::List(path)) => is_absolute(path),
        Job::Files(FileJob::MakeDirectories(paths) | FileJob::RemoveDirectories(paths)) => {
            paths.iter().for_each(|path| is_absolute(path));
        }
        Job::Files(FileJob::Send { path, block, .. } | FileJob::Receive { path, block, .. }) => {
            is_absolute(path);
            assert!((1..=1 << 20).contains(block));
        }
    }
}

/// Output is cut into the same lines whatever pieces it comes in, and a master can tell where they end.
fn lines(steps: &mut Steps<'_>) {
    let max_length = steps.byte().into();
    let (output, piece) = (steps.bytes(), usize::from(steps.byte()).max(1));
    let at_once = cut(max_length, output, output.len().max(1));
    let in_pieces = cut(max_length, output, piece);
    let text = |parts: &[Whole]| parts.iter().map(|whole| &*whole.text).collect::<String>();
    assert_eq!(text(&at_once), text(&in_pieces));
    if output.len() < max_length {
        assert_eq!(text(&at_once), normal(output));
    }
    for whole in at_once.iter().chain(&in_pieces) {
        let ends: Vec<_> = whole.text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(at, _)| at).collect();
        assert_eq!(whole.positions, ends);
        assert!(whole.text.is_empty() || whole.text.ends_with('\n'));
        whole.text.lines().for_each(|line| assert!(line.chars().count() <= max_length.max(1)));
    }
}

/// As text where every line has an end, and the same one.
fn normal(output: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(output).replace("\r\n", "\n").replace('\r', "\n");
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn cut(max_length: usize, output: &[u8], piece: usize) -> Vec<Whole> {
    let mut lines = Lines::new(max_length);
    let parts: Vec<_> = output.chunks(piece).map(|piece| lines.feed(piece)).collect();
    parts.into_iter().chain([lines.rest()]).collect()
}
