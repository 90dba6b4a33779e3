//! The master's session and an agent's, each with what the other one says. Both keep to the protocol; so all that is asked
//! must be done, and everything must arrive as it was said, in whatever order messages are read.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::super::super::codec::{
    BLOCK, Envelope, FileCommand, MAX_COMMANDS, Step, Update, encode_bytes, encode_response,
};
use super::super::super::fuzzing::{Steps, command, file_command};
use super::super::super::session::{self as master, CommandId, Ending, FileFailure, Findings, StartRefused};
use super::super::codec::{self, FileJob, Info, Job, Piece, Run};
use super::super::session::{Session, Todo};
use crate::printable::printable;
use crate::{Command, CommandEnd, Exit, FileStatus, Program};

/// A master and an agent that talk: what is started and sent, and what is read first, is as the input says.
///
/// # Panics
/// When one of the two does not take what the other says for what it is.
pub fn talk(input: &[u8]) {
    let mut steps = Steps::new(input);
    let mut talk = Talk::new();
    while let Some(step) = steps.next() {
        let command = talk.running_at(step >> 3);
        match (step % 8, command) {
            (0, _) => talk.start(command_with_program(&mut steps)),
            (1, _) => {
                let what = file_command(&mut steps);
                talk.start_files(what, &steps.text());
            }
            (2, Some(id)) => talk.interrupt(id),
            (3, Some(id)) => talk.go_on(id, &mut steps),
            (4, Some(id)) => talk.end(id, &mut steps),
            (5 | 6, _) => _ = talk.agent_reads(),
            _ => _ = talk.master_reads(),
        }
    }
    talk.finish();
}

fn command_with_program(steps: &mut Steps<'_>) -> Command {
    let command = command(steps);
    match &command.program {
        Program::Exec(arguments) if arguments.is_empty() => Command::shell(""),
        _ => command,
    }
}

const BASEDIR: &str = "/w";
const INFO: Info<'static> = Info { basedir: Cow::Borrowed(BASEDIR), processors: 2, environment: Cow::Borrowed(&[]) };
struct Talk {
    master: master::Session,
    agent: Session,
    now: Instant,
    to_agent: VecDeque<Vec<u8>>,
    to_master: VecDeque<Vec<u8>>,
    /// What was started, until the master knows its end.
    commands: BTreeMap<CommandId, Started>,
    /// How the requests of the agent must be answered.
    answers: BTreeMap<u64, Vec<u8>>,
}

struct Started {
    /// What the agent must be told.
    job: Job,
    files: Option<FileCommand>,
    /// By the master.
    interrupted: bool,
    /// The agent was told so.
    interrupt_told: bool,
    place: Place,
    /// What was sent to the master and has not arrived: whether on standard error, and the bytes.
    output: VecDeque<(bool, Vec<u8>)>,
    steps: VecDeque<Sent>,
}

/// How far a command is.
enum Place {
    ToAgent,
    Running,
    /// With this end, which the master does not know yet.
    Ended(Ending),
    Refused,
}

#[derive(PartialEq, Debug)]
enum Sent {
    Take(Vec<u8>),
    Give(u64),
}

impl Talk {
    /// Both know each other.
    fn new() -> Self {
        let (master, greeting) = master::Session::new();
        let mut talk = Self {
            master,
            agent: Session::new(),
            now: Instant::now(),
            to_agent: [greeting].into(),
            to_master: VecDeque::new(),
            commands: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        while talk.agent_reads() || talk.master_reads() {}
        assert!(talk.agent.is_greeted() && talk.master.info().is_some());
        talk
    }

    fn running_at(&self, at: u8) -> Option<CommandId> {
        let running = self.commands.iter().filter(|(_, command)| matches!(command.place, Place::Running));
        let running: Vec<_> = running.map(|(id, _)| *id).collect();
        running.get(usize::from(at) % running.len().max(1)).copied()
    }

    fn start(&mut self, command: Command) {
        let (id, message) = match self.master.start(self.now, &command) {
            Ok(started) => started,
            Err(refused) => return self.is_full(refused),
        };
        let directory = command.directory.as_ref().map(|path| path.to_str().expect("it is text"));
        let arrives = Command {
            directory: Some(PathBuf::from(joined(directory.unwrap_or_default()))),
            time_limit: command.time_limit.and_then(arriving),
            silence_limit: command.silence_limit.and_then(arriving),
            ..command
        };
        self.sent(id, message, None, Job::Run(Run { command: arrives, stdout: true, stderr: true }));
    }

    fn start_files(&mut self, what: FileCommand, path: &str) {
        let (id, message) = match self.master.start_files(what, path) {
            Ok(started) => started,
            Err(refused) => return self.is_full(refused),
        };
        let path = joined(path);
        let job = match what {
            FileCommand::Status => FileJob::Status(path),
            FileCommand::List => FileJob::List(path),
            FileCommand::MakeDirectory => FileJob::MakeDirectories(vec![path]),
            FileCommand::RemoveDirectory => FileJob::RemoveDirectories(vec![path]),
            FileCommand::Read => FileJob::Send { path, block: BLOCK, limit: None },
            FileCommand::Write { mode } => FileJob::Receive { path, block: BLOCK, limit: None, mode },
            FileCommand::RemoveFile => {
                let command = Command::exec(["rm", "--", &path]);
                return self.sent(id, message, Some(what), Job::Run(Run { command, stdout: true, stderr: true }));
            }
        };
        self.sent(id, message, Some(what), Job::Files(job));
    }

    /// The only reason for not starting what can be started.
    fn is_full(&self, refused: StartRefused) {
        assert!(refused == StartRefused::TooMany && self.commands.len() == MAX_COMMANDS, "{refused}");
    }

    fn sent(&mut self, id: CommandId, message: Vec<u8>, files: Option<FileCommand>, job: Job) {
        let started = Started {
            job,
            files,
            interrupted: false,
            interrupt_told: false,
            place: Place::ToAgent,
            output: VecDeque::new(),
            steps: VecDeque::new(),
        };
        self.commands.insert(id, started);
        self.to_agent.push_back(message);
    }

    fn interrupt(&mut self, id: CommandId) {
        let command = self.commands.get_mut(&id).expect("it was started");
        let message = self.master.interrupt(id);
        assert_eq!(message.is_none(), command.interrupted);
        command.interrupted = true;
        self.to_agent.extend(message);
    }

    /// A request of a command that runs; `answer` is what it must be answered.
    fn ask(&mut self, id: CommandId, answer: Vec<u8>, message: impl FnOnce(u64, &str) -> Vec<u8>) {
        let name = id.to_string();
        let number = self.agent.ask(&name);
        self.answers.insert(number, answer);
        self.to_master.push_back(message(number, &name));
    }

    fn tell(&mut self, id: CommandId, pieces: &[Piece<'_>]) {
        self.ask(id, Vec::new(), |number, name| codec::encode_update(number, name, 1.0, pieces));
    }

    /// A program writes something, or a file goes on that does not wait for an answer.
    fn go_on(&mut self, id: CommandId, steps: &mut Steps<'_>) {
        let command = self.commands.get_mut(&id).expect("it runs");
        match command.files {
            None => {
                let (is_error, bytes) = (steps.flag(), steps.bytes());
                command.output.push_back((is_error, bytes.to_vec()));
                self.tell(id, &[Piece::Raw(if is_error { "stderr" } else { "stdout" }, bytes)]);
            }
            Some(FileCommand::Read) => {
                let bytes = steps.bytes();
                if bytes.is_empty() || !command.steps.is_empty() {
                    return;
                }
                command.steps.push_back(Sent::Take(bytes.to_vec()));
                self.ask(id, Vec::new(), |number, name| codec::encode_take(number, name, bytes));
            }
            Some(FileCommand::Write { .. }) => {
                let length = steps.number() as usize;
                if length == 0 || !command.steps.is_empty() {
                    return;
                }
                command.steps.push_back(Sent::Give(length as u64));
                self.ask(id, given(length as u64), |number, name| codec::encode_give(number, name, length));
            }
            Some(_) => {}
        }
    }

    fn end(&mut self, id: CommandId, steps: &mut Steps<'_>) {
        let command = &self.commands[&id];
        let ending = match (&command.job, command.files) {
            (Job::Run(_), None) => self.end_program(id, steps),
            (Job::Run(_), Some(_)) => {
                let code = steps.byte().into();
                self.tell(id, &[Piece::ExitCode(code)]);
                done(code, String::new(), Findings::default())
            }
            (Job::Files(_), _) => self.end_files(id, steps),
        };
        let error = steps.flag().then(|| steps.text());
        let name = id.to_string();
        let number = self.agent.ended(&name);
        self.to_master.push_back(codec::encode_complete(number, &name, error.as_deref()));
        let ending = match (ending, error) {
            // A program has ended as it did.
            (Ending::Ended(end), _) => Ending::Ended(end),
            (_, Some(error)) => Ending::Broken(error.chars().collect()),
            (ending, None) => ending,
        };
        self.commands.get_mut(&id).expect("it runs").place = Place::Ended(ending);
    }

    fn end_program(&mut self, id: CommandId, steps: &mut Steps<'_>) -> Ending {
        let exit = match steps.byte() % 8 {
            0 => Exit::TimeLimit,
            1 => Exit::SilenceLimit,
            2 => Exit::Signal(steps.byte().into()),
            3 if self.commands[&id].interrupt_told => Exit::Interrupted,
            _ => Exit::Code(steps.number() as i32),
        };
        let end = CommandEnd { exit, elapsed: Duration::from_micros(steps.number() % 1_000_000_000_000) };
        let (pieces, words) = codec::told(&end);
        if let Some(words) = words {
            self.tell(id, &[Piece::Lines("header", &words, &[words.chars().count() - 1])]);
        }
        self.tell(id, &pieces);
        Ending::Ended(end)
    }

    fn end_files(&mut self, id: CommandId, steps: &mut Steps<'_>) -> Ending {
        let mut findings = Findings::default();
        match self.commands[&id].files {
            Some(FileCommand::Status) => {
                let (mode, size, seconds) = (steps.number() as u32, steps.number(), steps.number() >> 30);
                let status = FileStatus::new(mode, size, UNIX_EPOCH + Duration::from_secs(seconds));
                self.tell(id, &[Piece::Status(&status)]);
                findings.status = Some((mode, size, seconds as i64));
            }
            Some(FileCommand::List) => {
                let names: Vec<_> = (0..steps.byte() % 8).map(|_| steps.text()).collect();
                self.tell(id, &[Piece::Names(&names)]);
                findings.names = Some(names);
            }
            Some(FileCommand::Read) => {
                self.ask(id, Vec::new(), |number, name| codec::encode_closed("update_upload_file_close", number, name));
            }
            Some(FileCommand::Write { .. }) => {
                self.ask(id, Vec::new(), |number, name| codec::encode_closed("update_read_file_close", number, name));
            }
            _ => {}
        }
        let words: String = steps.text().replace('\n', " ").chars().take(200).collect();
        self.tell(id, &[Piece::Lines("stderr", &format!("{words}\n"), &[words.chars().count()])]);
        let code = steps.byte().into();
        self.tell(id, &[Piece::ExitCode(code)]);
        done(code, words.trim().to_owned(), findings)
    }

    /// Whether there was something to read.
    fn agent_reads(&mut self) -> bool {
        let Some(message) = self.to_agent.pop_front() else { return false };
        let turn = self.agent.receive(&message, &INFO, &|name| panic!("{name} was asked for"));
        let turn = turn.expect("it is well-formed");
        let envelope = Envelope::read(&message).unwrap().expect("it can be answered");
        let running = self.commands.values().filter(|command| matches!(command.place, Place::Running)).count();
        match turn.todo {
            Some(Todo::Start(name, job, settings)) => {
                assert!(settings.raw_output && settings.max_line_length == 1 << 20);
                let command = self.commands.get_mut(&name.parse().unwrap()).expect("it was started");
                assert!(matches!(command.place, Place::ToAgent) && running < MAX_COMMANDS);
                assert_same(&job, &command.job);
                command.place = Place::Running;
            }
            Some(Todo::Interrupt(name)) => {
                if let Some(command) = self.commands.get_mut(&name.parse().unwrap()) {
                    assert!(command.interrupted);
                    command.interrupt_told = true;
                }
            }
            Some(Todo::Answer(name, result)) => {
                let answer = self.answers.remove(&envelope.number).expect("it was asked for");
                assert_eq!(result.expect("nothing is refused").bytes().unwrap_or_default(), answer);
                let command = &self.commands[&name.parse().unwrap()];
                assert!(matches!(command.place, Place::Running));
            }
            Some(Todo::Shutdown) => panic!("nobody wants that"),
            None if envelope.op == "start_command" => {
                let command = envelope.command.and_then(|name| name.parse().ok());
                assert_eq!(running, MAX_COMMANDS, "it was not started");
                self.commands.get_mut(&command.unwrap()).expect("it was started").place = Place::Refused;
            }
            None => {}
        }
        self.to_master.extend(turn.send);
        true
    }

    /// Whether there was something to read.
    fn master_reads(&mut self) -> bool {
        let Some(message) = self.to_master.pop_front() else { return false };
        let turn = self.master.receive(self.now, &message).expect("it keeps to the protocol");
        if let Some((id, updates)) = turn.output {
            let command = self.commands.get_mut(&id).expect("it was started");
            for update in updates {
                let (is_error, bytes) = match update {
                    Update::Stdout(bytes) => (false, bytes),
                    Update::Stderr(bytes) => (true, bytes),
                    _ => continue,
                };
                assert_eq!(command.output.pop_front(), Some((is_error, bytes.to_vec())));
            }
        }
        if let Some((id, number, step)) = turn.transfer {
            let command = self.commands.get_mut(&id).expect("it was started");
            let (sent, answer) = match step {
                Step::Take(bytes) => (Sent::Take(bytes.to_vec()), encode_response(number, None)),
                Step::Give(length) => (Sent::Give(length), encode_bytes(number, &given(length))),
                Step::Closed => panic!("nobody copies that"),
            };
            assert_eq!(command.steps.pop_front(), Some(sent));
            self.master.transfer_answered(id);
            self.to_agent.push_back(answer);
        }
        if let Some((id, ending)) = turn.ended {
            let command = self.commands.remove(&id).expect("it was started, and has not ended");
            assert!(command.output.is_empty() && command.steps.is_empty(), "all of it has arrived");
            is_told(&ending, &command);
        }
        if let Some(answer) = turn.send {
            let envelope = Envelope::read(&answer).unwrap().expect("it can be answered");
            assert!(envelope.response().is_none_or(|response| response.is_ok()), "nothing is refused");
            self.to_agent.push_back(answer);
        }
        true
    }

    /// All is read, all ends, and nothing is left.
    fn finish(&mut self) {
        loop {
            while self.agent_reads() || self.master_reads() {}
            let Some(id) = self.running_at(0) else { break };
            self.end(id, &mut Steps::new(&[]));
        }
        assert!(self.commands.is_empty(), "{:?} have no end", self.commands.keys());
        assert!(self.master.lost().is_empty());
    }
}

/// As long as a master has it, in an agent's directory.
fn joined(path: &str) -> String {
    match path {
        "" => BASEDIR.to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("{BASEDIR}/{relative}"),
    }
}

/// The limit that an agent is told: none that is as long as for ever, and not zero, which means none.
fn arriving(limit: Duration) -> Option<Duration> {
    let limit = limit.max(Duration::from_millis(1));
    (limit.as_secs_f64() < 1e9).then_some(limit)
}

/// A master's answer to who wants so many bytes.
fn given(length: u64) -> Vec<u8> {
    (0..length % 100).map(|at| at as u8).collect()
}

fn done(code: i64, words: String, findings: Findings) -> Ending {
    Ending::Files(if code == 0 { Ok(findings) } else { Err(FileFailure { code, words }) })
}

/// The same but for the rounding of seconds.
fn assert_same(told: &Job, expected: &Job) {
    let (Job::Run(told), Job::Run(expected)) = (told, expected) else { return assert_eq!(told, expected) };
    assert_same_time(told.command.time_limit, expected.command.time_limit);
    assert_same_time(told.command.silence_limit, expected.command.silence_limit);
    let Command { time_limit, silence_limit, directory, .. } = expected.command.clone();
    // A path that a master makes is always told; who makes no difference between that and none is a command of files.
    let directory = directory.or(told.command.directory.clone());
    let told = Command { time_limit, silence_limit, ..told.command.clone() };
    assert!(told == Command { directory, ..expected.command.clone() });
}

fn assert_same_time(one: Option<Duration>, other: Option<Duration>) {
    assert_eq!(one.is_some(), other.is_some());
    if let (Some(one), Some(other)) = (one, other) {
        assert!(one.abs_diff(other) < Duration::from_micros(2), "{one:?} {other:?}");
    }
}

/// The master takes the end for what the agent had said.
fn is_told(ending: &Ending, command: &Started) {
    match (ending, &command.place) {
        (Ending::Ended(told), Place::Ended(Ending::Ended(end))) => {
            let exit = match end.exit {
                Exit::Code(code) if code < 0 && command.interrupted => Exit::Interrupted,
                Exit::Signal(_) if command.interrupted => Exit::Interrupted,
                exit => exit,
            };
            assert_eq!(told.exit, exit);
            let elapsed = if end.exit == Exit::Interrupted { Duration::ZERO } else { end.elapsed };
            assert_same_time(Some(told.elapsed), Some(elapsed));
        }
        (Ending::Files(Err(told)), Place::Ended(Ending::Files(Err(end)))) => {
            // What it says is made safe to show on the way.
            assert_eq!((told.code, &*told.words), (end.code, &*printable(end.words.trim())));
        }
        (Ending::Files(told), Place::Ended(Ending::Files(end))) => assert_eq!(told, end),
        (Ending::Broken(_), Place::Ended(Ending::Broken(_)) | Place::Refused) => {}
        (told, _) => panic!("{told:?} is not what it was told"),
    }
}
