//! The master's side of one connection, as a value: messages and the time go in, messages and what they mean come out.
//!
//! It greets the worker (`get_worker_info`, then `set_worker_settings`), numbers our requests, answers the requests of
//! the worker, and follows every command from its start to its `complete`. The worker's updates for a quick command
//! arrive before its response to `start_command`; so a command is known from the moment its start was written, and the
//! response only matters when it is an error. Sockets, threads and where output and files go are decided elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::codec::{
    self, BLOCK, FileCommand, MAX_COMMAND, MAX_COMMANDS, Message, Request, Settings, Shell, ShellProgram, Step, Update,
    Updates, WorkerInfo,
};
use super::msgpack::{Malformed, Raw};
use crate::printable::printable;
use crate::{Command, CommandEnd, Exit, Program};

/// A command of this connection.
pub(super) type CommandId = u64;

/// Sent to every worker; `raw_output` to those alone that know it.
const SETTINGS: Settings<'static> = Settings {
    buffer_size: 64 << 10,
    // Output is a stream for somebody who looks at it.
    buffer_timeout: 0.1,
    // Matches nothing, and is quick at that: what a command writes is not for us to change.
    newline_re: r"\x00(?!)",
    // The stock worker loses text of lines that are longer than this.
    max_line_length: 1 << 30,
    raw_output: false,
};

/// The shortest limit: zero is no limit to the stock worker.
const SHORTEST: Duration = Duration::from_millis(1);

/// The worker does not keep to the protocol, so that nothing it says can be relied on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("it does not say who it is")]
    NoInfo,
    #[error("its directory {0:?} is not absolute")]
    RelativeBasedir(String),
    #[error("it refused {0}: {1}")]
    Refused(&'static str, String),
    #[error("it sent the next step of a file transfer before the answer to the last one")]
    Impatient,
}

/// Why a command is not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum StartRefused {
    #[error("the worker is not ready")]
    NotReady,
    #[error("the command names no program")]
    NoProgram,
    #[error("the command and its standard input are longer than 1 GiB")]
    TooLong,
    #[error("{MAX_COMMANDS} commands of the worker have not ended")]
    TooMany,
    #[error("the directory is not Unicode")]
    Directory,
}

/// The longest arguments of a command, in bytes: the rest of its message needs room as well.
const MAX_ARGUMENTS: usize = MAX_COMMAND - (1 << 20);
/// How many bytes a text takes on the wire in addition to its own.
const OVERHEAD: usize = 5;

/// How many bytes of a worker's message about a failure are kept.
pub(super) const MAX_WORDS: usize = 1000;

const NO_SUCH_COMMAND: &str = "no such command";
const MIXED_UP: &str = "the command is of another kind";

/// What follows from one message, to be done in this order.
#[derive(Debug, Default)]
pub(super) struct Turn<'m> {
    /// Output of a command; to be passed on before the answer is sent, so that a slow reader delays the worker.
    pub(super) output: Option<(CommandId, Updates<'m>)>,
    /// A file goes on. Whoever copies it sends the answer, under this number.
    pub(super) transfer: Option<(CommandId, u64, Step<'m>)>,
    pub(super) ended: Option<(CommandId, Ending)>,
    /// The next message to the worker.
    pub(super) send: Option<Vec<u8>>,
    /// The greeting is over.
    pub(super) ready: bool,
}

/// The end of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// As commands end.
    Ended(CommandEnd),
    /// The worker has done with the files what it could.
    Files(Result<Findings, FileFailure>),
    /// The worker could not run it, or does not say how it ended; why.
    Broken(String),
}

/// What a worker tells about files, as far as it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Findings {
    pub(super) names: Option<Vec<String>>,
    /// Mode, size, and the seconds of the last change.
    pub(super) status: Option<(u32, u64, i64)>,
}

/// What a worker could not do with files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileFailure {
    /// Of the worker's system, or 1.
    pub(super) code: i64,
    /// Its own words, if it has any.
    pub(super) words: String,
}

#[derive(Debug)]
pub(super) struct Session {
    phase: Phase,
    next_number: u64,
    /// The requests with an answer that matters: those of the greeting, and one for each command.
    asked: HashMap<u64, Awaited>,
    next_command: CommandId,
    commands: HashMap<CommandId, Job>,
}

#[derive(Debug)]
enum Phase {
    AwaitingInfo,
    AwaitingSettings(WorkerInfo),
    Ready(WorkerInfo),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Info,
    Settings,
    Start(CommandId),
}

/// A command that has not ended.
#[derive(Debug)]
struct Job {
    /// The number of the request that has started it.
    start: u64,
    interrupted: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Run(Run),
    Files(FileJob),
}

/// What is known of a program that runs.
#[derive(Debug)]
struct Run {
    started: Instant,
    code: Option<i64>,
    signal: Option<i32>,
    limit: Option<Exit>,
    elapsed: Option<Duration>,
}

impl Session {
    /// A session, and the first message to the worker.
    pub(super) fn new() -> (Self, Vec<u8>) {
        let mut session = Self {
            phase: Phase::AwaitingInfo,
            next_number: 0,
            asked: HashMap::new(),
            next_command: 0,
            commands: HashMap::new(),
        };
        let number = session.ask(Awaited::Info);
        (session, codec::encode_plain("get_worker_info", number))
    }

    /// What the worker said of itself, once it is ready.
    pub(super) fn info(&self) -> Option<&WorkerInfo> {
        match &self.phase {
            Phase::Ready(info) => Some(info),
            _ => None,
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn ask(&mut self, awaited: Awaited) -> u64 {
        let number = self.number();
        self.asked.insert(number, awaited);
        number
    }

    /// Takes the next message of the worker.
    pub(super) fn receive<'m>(&mut self, now: Instant, bytes: &'m [u8]) -> Result<Turn<'m>, Violation> {
        match codec::decode(bytes)? {
            Message::Unanswerable => Ok(Turn::default()),
            Message::Response { number, result } => match self.asked.remove(&number) {
                Some(awaited) => self.answered(awaited, result),
                None => Ok(Turn::default()),
            },
            Message::Request { number, request } => self.requested(now, number, request),
        }
    }

    fn answered<'m>(&mut self, awaited: Awaited, result: Result<Raw<'m>, String>) -> Result<Turn<'m>, Violation> {
        let mut turn = Turn::default();
        match awaited {
            Awaited::Info => {
                let info = result.map_err(|error| Violation::Refused("get_worker_info", error))?;
                let info = info.worker_info().ok_or(Violation::NoInfo)?;
                if !is_absolute(&info) {
                    return Err(Violation::RelativeBasedir(info.basedir));
                }
                let settings = Settings { raw_output: info.raw_output, ..SETTINGS };
                self.phase = Phase::AwaitingSettings(info);
                let number = self.ask(Awaited::Settings);
                turn.send = Some(codec::encode_settings(number, &settings));
            }
            Awaited::Settings => {
                result.map_err(|error| Violation::Refused("set_worker_settings", error))?;
                let phase = std::mem::replace(&mut self.phase, Phase::AwaitingInfo);
                if let Phase::AwaitingSettings(info) = phase {
                    self.phase = Phase::Ready(info);
                }
                turn.ready = true;
            }
            Awaited::Start(command) => {
                if let Err(error) = result
                    && self.commands.remove(&command).is_some()
                {
                    turn.ended = Some((command, Ending::Broken(error)));
                }
            }
        }
        Ok(turn)
    }

    fn requested<'m>(&mut self, now: Instant, number: u64, request: Request<'m>) -> Result<Turn<'m>, Violation> {
        let mut turn = Turn::default();
        if let Request::Transfer { command, step: Step::Take(_) | Step::Give(_) } = request
            && let Ok((_, Job { kind: Kind::Files(FileJob { unanswered: true, .. }), .. })) = self.job(command)
        {
            return Err(Violation::Impatient);
        }
        match self.follow(now, number, request, &mut turn) {
            Ok(()) if turn.transfer.is_some() => {}
            Ok(()) => turn.send = Some(codec::encode_response(number, None)),
            Err(refusal) => turn.send = Some(codec::encode_response(number, Some(refusal))),
        }
        Ok(turn)
    }

    /// What follows from a request but for its answer; an error when it is refused.
    fn follow<'m>(
        &mut self,
        now: Instant,
        number: u64,
        request: Request<'m>,
        turn: &mut Turn<'m>,
    ) -> Result<(), &'static str> {
        match request {
            Request::Update { command, updates } => {
                let (id, job) = self.job(command)?;
                match &mut job.kind {
                    Kind::Run(run) => {
                        updates.for_each(|update| run.note(update));
                        turn.output = Some((id, updates));
                    }
                    Kind::Files(files) => updates.for_each(|update| files.note(update)),
                }
            }
            Request::Transfer { command, step } => {
                let (id, job) = self.job(command)?;
                let Kind::Files(files) = &mut job.kind else { return Err(MIXED_UP) };
                if files.go_on(step).inspect_err(|why| files.fail(why))? {
                    turn.transfer = Some((id, number, step));
                }
            }
            Request::Complete { command, error } => {
                let (id, _) = self.job(command)?;
                let job = self.commands.remove(&id).expect("it was just found");
                // A later answer of the worker to the start does not matter.
                self.asked.remove(&job.start);
                turn.ended = Some((id, job.ending(now, error)));
            }
            Request::Unusable { command, why } => {
                if let (_, Job { kind: Kind::Files(files), .. }) = self.job(command)? {
                    files.fail(why);
                }
                return Err(why);
            }
            Request::Refused(why) => return Err(why),
        }
        Ok(())
    }

    fn job(&mut self, command: &str) -> Result<(CommandId, &mut Job), &'static str> {
        let id = command.parse().map_err(|_| NO_SUCH_COMMAND)?;
        self.commands.get_mut(&id).map(|job| (id, job)).ok_or(NO_SUCH_COMMAND)
    }

    /// The message that starts a command.
    pub(super) fn start(&mut self, now: Instant, command: &Command) -> Result<(CommandId, Vec<u8>), StartRefused> {
        let Phase::Ready(info) = &self.phase else { return Err(StartRefused::NotReady) };
        let program = match &command.program {
            Program::Shell(line) => ShellProgram::Line(line),
            Program::Exec(arguments) if arguments.is_empty() => return Err(StartRefused::NoProgram),
            Program::Exec(arguments) => ShellProgram::Arguments(arguments),
        };
        let directory = command.directory.as_ref().map(|path| path.to_str().ok_or(StartRefused::Directory));
        let workdir = join(info, directory.transpose()?.unwrap_or_default());
        check_lengths(command)?;
        let shell = Shell {
            program,
            workdir: &workdir,
            environment: &command.environment,
            stdin: &command.stdin,
            time_limit: command.time_limit.map(|limit| limit.max(SHORTEST).as_secs_f64()),
            silence_limit: command.silence_limit.map(|limit| limit.max(SHORTEST).as_secs_f64()),
        };
        let message = |number, id: &str| codec::encode_start(number, id, &shell);
        let run = Run { started: now, code: None, signal: None, limit: None, elapsed: None };
        let (id, number) = self.begin(Kind::Run(run))?;
        Ok((id, message(number, &id.to_string())))
    }

    /// The message that has the worker do something with files. A relative path counts from its directory.
    pub(super) fn start_files(&mut self, what: FileCommand, path: &str) -> Result<(CommandId, Vec<u8>), StartRefused> {
        let Phase::Ready(info) = &self.phase else { return Err(StartRefused::NotReady) };
        let path = join(info, path);
        if path.len() > MAX_ARGUMENTS {
            return Err(StartRefused::TooLong);
        }
        let (id, number) = self.begin(Kind::Files(FileJob::new(what)))?;
        Ok((id, codec::encode_file_command(number, &id.to_string(), what, &path)))
    }

    fn begin(&mut self, kind: Kind) -> Result<(CommandId, u64), StartRefused> {
        if self.commands.len() >= MAX_COMMANDS {
            return Err(StartRefused::TooMany);
        }
        let id = self.next_command;
        self.next_command += 1;
        let start = self.ask(Awaited::Start(id));
        self.commands.insert(id, Job { start, interrupted: false, kind });
        Ok((id, start))
    }

    /// The request of the worker in a file transfer is being answered: the worker may send the next one.
    pub(super) fn transfer_answered(&mut self, command: CommandId) {
        if let Some(Job { kind: Kind::Files(files), .. }) = self.commands.get_mut(&command) {
            files.unanswered = false;
        }
    }

    /// The message that ends a command; `None` when it has ended or is being ended already.
    pub(super) fn interrupt(&mut self, command: CommandId) -> Option<Vec<u8>> {
        let job = self.commands.get_mut(&command).filter(|job| !job.interrupted)?;
        job.interrupted = true;
        let number = self.number();
        Some(codec::encode_interrupt(number, &command.to_string(), "interrupted"))
    }

    /// The message that ends the worker.
    pub(super) fn shutdown(&mut self) -> Vec<u8> {
        let number = self.number();
        codec::encode_plain("shutdown", number)
    }

    /// The connection is gone: nothing that was asked will be answered. The commands that have no end.
    pub(super) fn lost(&mut self) -> Vec<CommandId> {
        self.asked.clear();
        self.commands.drain().map(|(id, _)| id).collect()
    }
}

/// A message that ends a worker with which there is no session.
pub(super) fn dismissal() -> Vec<u8> {
    codec::encode_plain("shutdown", 0)
}

impl Job {
    fn ending(self, now: Instant, error: Option<String>) -> Ending {
        match self.kind {
            Kind::Run(run) => run.ending(now, self.interrupted, error),
            Kind::Files(files) => files.ending(error),
        }
    }
}

/// What is known of something that is done with files.
#[derive(Debug)]
struct FileJob {
    what: FileCommand,
    code: Option<i64>,
    words: String,
    findings: Findings,
    /// The worker has sent a block or asked for one, and has not been answered yet.
    unanswered: bool,
    /// The first violation by the worker. A part of the file is then missing, whatever the worker reports at the end.
    fault: Option<&'static str>,
}

impl FileJob {
    fn new(what: FileCommand) -> Self {
        let findings = Findings::default();
        Self { what, code: None, words: String::new(), findings, unanswered: false, fault: None }
    }

    /// Returns whether the thread that copies must answer this step.
    fn go_on(&mut self, step: Step<'_>) -> Result<bool, &'static str> {
        match (self.what, step) {
            (_, Step::Closed) => return Ok(false),
            (FileCommand::Read, Step::Take([])) => return Err("the block is empty"),
            (FileCommand::Read, Step::Take(bytes)) if bytes.len() > BLOCK => {
                return Err("the block is larger than requested");
            }
            (FileCommand::Read, Step::Take(_)) => {}
            (FileCommand::Write { .. }, Step::Give(0)) => return Err("it asks for no bytes"),
            (FileCommand::Write { .. }, Step::Give(_)) => {}
            _ => return Err(MIXED_UP),
        }
        self.unanswered = true;
        Ok(true)
    }

    fn fail(&mut self, why: &'static str) {
        self.fault.get_or_insert(why);
    }

    fn note(&mut self, update: Update<'_>) {
        match update {
            Update::ExitCode(code) => self.code = Some(code),
            Update::Names(names) => self.findings.names = names.names(),
            Update::Status(status) => self.findings.status = status.status(),
            // The last thing that it says is why it failed. The stock worker has headers without that, too.
            Update::Stderr(text) | Update::Header(text) if !text.trim_ascii().is_empty() => {
                let text = &text[..text.len().min(MAX_WORDS)];
                self.words = printable(String::from_utf8_lossy(text).trim()).into_owned();
            }
            _ => {}
        }
    }

    fn ending(self, error: Option<String>) -> Ending {
        match (self.code, error) {
            // An error that the worker reports says more.
            (Some(0) | None, None) if self.fault.is_some() => {
                Ending::Broken(format!("the worker broke the transfer: {}", self.fault.unwrap_or_default()))
            }
            (_, Some(error)) => Ending::Broken(error),
            (Some(0), None) => Ending::Files(Ok(self.findings)),
            (Some(code), None) => Ending::Files(Err(FileFailure { code, words: self.words })),
            (None, None) => Ending::Broken("the worker does not say how it ended".to_owned()),
        }
    }
}

impl Run {
    fn note(&mut self, update: Update<'_>) {
        match update {
            Update::ExitCode(code) => self.code = Some(code),
            Update::FailureReason(b"timeout") => self.limit = Some(Exit::TimeLimit),
            Update::FailureReason(b"timeout_without_output") => self.limit = Some(Exit::SilenceLimit),
            Update::Elapsed(seconds) => self.elapsed = Duration::try_from_secs_f64(seconds).ok(),
            // The only place where the stock worker names the signal. A command's own text is in the headers too, but
            // before this one.
            Update::Header(text) => self.signal = signal_in(text).or(self.signal),
            _ => {}
        }
    }

    fn ending(self, now: Instant, interrupted: bool, error: Option<String>) -> Ending {
        let exit = match (self.limit, self.code, self.signal) {
            (Some(limit), ..) => limit,
            (None, Some(code), _) if code >= 0 => Exit::Code(i32::try_from(code).unwrap_or(i32::MAX)),
            (None, ..) if interrupted => Exit::Interrupted,
            (None, Some(_), Some(signal)) => Exit::Signal(signal),
            (None, Some(code), None) => Exit::Code(i32::try_from(code).unwrap_or(i32::MIN)),
            (None, None, _) => {
                return Ending::Broken(error.unwrap_or_else(|| "the worker does not say how it ended".to_owned()));
            }
        };
        let elapsed = self.elapsed.unwrap_or_else(|| now.saturating_duration_since(self.started));
        Ending::Ended(CommandEnd { exit, elapsed })
    }
}

/// The last `process killed by signal N` that is a line of its own.
fn signal_in(header: &[u8]) -> Option<i32> {
    let lines = header.split(|byte| *byte == b'\n').rev();
    let number = lines.into_iter().find_map(|line| line.strip_prefix(b"process killed by signal "))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn is_absolute(info: &WorkerInfo) -> bool {
    is_absolute_path(info, &info.basedir)
}

/// In the worker's own flavour, which need not be ours.
fn is_absolute_path(info: &WorkerInfo, path: &str) -> bool {
    if info.system == "nt" {
        let bytes = path.as_bytes();
        let drive = bytes.len() >= 3 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
        (drive && matches!(bytes[2], b'\\' | b'/')) || path.starts_with(r"\\")
    } else {
        path.starts_with('/')
    }
}

fn join(info: &WorkerInfo, directory: &str) -> String {
    if directory.is_empty() {
        return info.basedir.clone();
    }
    if is_absolute_path(info, directory) {
        return directory.to_owned();
    }
    let separator = if info.system == "nt" { '\\' } else { '/' };
    format!("{}{separator}{directory}", info.basedir.trim_end_matches(separator))
}

fn check_lengths(command: &Command) -> Result<(), StartRefused> {
    let program = match &command.program {
        Program::Shell(line) => line.len(),
        Program::Exec(arguments) => arguments.iter().map(|argument| argument.len() + OVERHEAD).sum(),
    };
    let variables = command.environment.iter();
    let variables = variables.map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len) + 2 * OVERHEAD);
    let length = program + variables.sum::<usize>() + command.stdin.len();
    if length > MAX_ARGUMENTS { Err(StartRefused::TooLong) } else { Ok(()) }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
