//! Messages as an agent reads and writes them: msgpack in, msgpack out, no state.
//!
//! What both sides have in common is in the master's [`codec`](super::super::codec).

use std::borrow::Cow;
use std::time::Duration;

use super::super::codec::Envelope;
use super::super::msgpack::{Malformed, Raw, Writer};
use crate::{Command, CommandEnd, Exit, FileStatus};

/// The longest wait that a master can ask for; what is longer is no limit.
const LONGEST: f64 = 1e9;

/// What a master sends.
#[derive(Debug)]
pub(super) enum Message<'m> {
    /// The answer to request `number` of ours.
    Response { number: u64, result: Result<Raw<'m>, String> },
    /// A request that wants an answer.
    Request { number: u64, request: Request<'m> },
    /// Nobody can answer it.
    Unanswerable,
}

#[derive(Debug)]
pub(super) enum Request<'m> {
    /// It only wants an answer: `print`, `keepalive`.
    Ping,
    Info,
    Settings(Settings),
    Start {
        command: &'m str,
        job: Result<Job, String>,
    },
    Interrupt {
        command: &'m str,
    },
    Shutdown,
    /// Not to be done; why.
    Refused(&'static str),
}

/// How the master wants its output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Settings {
    /// As the bytes that it is; otherwise as lines of text.
    pub(super) raw_output: bool,
    /// Lines of text are cut at this length.
    pub(super) max_line_length: usize,
}

/// Where lines are cut when the master does not say so earlier.
const LONGEST_LINE: usize = 1 << 20;

impl Default for Settings {
    fn default() -> Self {
        Self { raw_output: false, max_line_length: LONGEST_LINE }
    }
}

/// What a command comes to here. All paths are absolute.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Job {
    Run(Run),
    Files(FileJob),
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Run {
    pub(super) command: Command,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum FileJob {
    Status(String),
    List(String),
    MakeDirectories(Vec<String>),
    RemoveDirectories(Vec<String>),
    /// To the master, in blocks, no more than the limit.
    Send {
        path: String,
        block: usize,
        limit: Option<u64>,
    },
    /// From the master, likewise.
    Receive {
        path: String,
        block: usize,
        limit: Option<u64>,
        mode: Option<u32>,
    },
}

/// The names of the commands that are known here, also as older masters call them.
pub(super) const COMMANDS: &[&str] = &[
    "shell",
    "stat",
    "listdir",
    "mkdir",
    "rmdir",
    "rmfile",
    "cpdir",
    "upload_file",
    "uploadFile",
    "download_file",
    "downloadFile",
];

/// Masters compare this to see what a command can do; it is that of the stock worker 4.3.
const COMMAND_VERSION: &str = "3.3";

/// The largest block of a file.
const LARGEST_BLOCK: u64 = 1 << 20;

/// What a variable of this process is.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads one message of a master that fills `bytes` to the end. With `variable`, `${NAME}` in the values of variables is
/// replaced.
pub(super) fn decode<'m>(bytes: &'m [u8], variable: Option<Variable<'_>>) -> Result<Message<'m>, Malformed> {
    let Some(envelope) = Envelope::read(bytes)? else { return Ok(Message::Unanswerable) };
    let number = envelope.number;
    if let Some(result) = envelope.response() {
        return Ok(Message::Response { number, result });
    }
    let request = match (envelope.op, envelope.command, envelope.args) {
        ("print" | "keepalive", ..) => Request::Ping,
        ("get_worker_info", ..) => Request::Info,
        ("set_worker_settings", _, Some(args)) => Request::Settings(settings(args)),
        ("start_command", Some(command), Some(args)) => {
            Request::Start { command, job: job(envelope.name.unwrap_or_default(), args, variable) }
        }
        ("interrupt_command", Some(command), _) => Request::Interrupt { command },
        ("shutdown", ..) => Request::Shutdown,
        ("set_worker_settings" | "start_command" | "interrupt_command", ..) => {
            Request::Refused("a field is missing that the operation needs")
        }
        _ => Request::Refused("this agent does not know the operation"),
    };
    Ok(Message::Request { number, request })
}

fn settings(args: Raw<'_>) -> Settings {
    let mut settings = Settings::default();
    args.each_field(|key, value| match key {
        b"raw_output" => settings.raw_output = value.boolean() == Some(true),
        b"max_line_length" => {
            let length = value.unsigned().and_then(|length| usize::try_from(length).ok());
            settings.max_line_length = length.unwrap_or(LONGEST_LINE).clamp(1, LONGEST_LINE);
        }
        _ => {}
    });
    settings
}

/// The arguments of one command.
#[derive(Clone, Copy)]
struct Args<'a, 'm> {
    of: &'a str,
    fields: Raw<'m>,
}

impl<'m> Args<'_, 'm> {
    /// A field that says something.
    fn get(self, wanted: &str) -> Option<Raw<'m>> {
        let mut found = None;
        self.fields.each_field(|key, value| {
            if key == wanted.as_bytes() {
                found = Some(value);
            }
        });
        found.filter(|value| !value.is_nil())
    }

    fn need(self, wanted: &str) -> Result<Raw<'m>, String> {
        self.get(wanted).ok_or_else(|| format!("{} needs {wanted}", self.of))
    }

    fn path(self, wanted: &str) -> Result<String, String> {
        let text = self.need(wanted)?.text();
        absolute(text.ok_or_else(|| format!("{wanted} of {} is a text", self.of))?)
    }

    fn paths(self, wanted: &str) -> Result<Vec<String>, String> {
        texts(self.need(wanted)?, wanted)?.iter().map(|path| absolute(path)).collect()
    }

    fn seconds(self, wanted: &str) -> Option<Duration> {
        let seconds = self.get(wanted).and_then(Raw::float)?;
        (0.0..LONGEST).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
    }

    fn block(self) -> usize {
        let block = self.get("blocksize").and_then(Raw::unsigned).unwrap_or(LARGEST_BLOCK);
        usize::try_from(block.clamp(1, LARGEST_BLOCK)).expect("a block fits into memory")
    }

    fn limit(self) -> Option<u64> {
        self.get("maxsize").and_then(Raw::unsigned)
    }

    fn wants(self, stream: &str) -> bool {
        self.get(stream).and_then(Raw::boolean).unwrap_or(true)
    }
}

/// What the command `name` comes to; an error says what is wrong with it.
fn job(name: &str, fields: Raw<'_>, variable: Option<Variable<'_>>) -> Result<Job, String> {
    let args = Args { of: name, fields };
    let program = |command| Job::Run(Run { command, stdout: true, stderr: true });
    Ok(match name {
        "shell" => Job::Run(Run {
            command: shell(args, variable)?,
            stdout: args.wants("want_stdout"),
            stderr: args.wants("want_stderr"),
        }),
        "stat" => Job::Files(FileJob::Status(args.path("path")?)),
        "listdir" => Job::Files(FileJob::List(args.path("path")?)),
        "mkdir" => Job::Files(FileJob::MakeDirectories(args.paths("paths")?)),
        "rmdir" => Job::Files(FileJob::RemoveDirectories(args.paths("paths")?)),
        "rmfile" => program(Command::exec(["rm", "--", &args.path("path")?])),
        "cpdir" => program(Command::exec(["cp", "-RPp", "--", &args.path("from_path")?, &args.path("to_path")?])),
        "upload_file" | "uploadFile" => {
            Job::Files(FileJob::Send { path: args.path("path")?, block: args.block(), limit: args.limit() })
        }
        "download_file" | "downloadFile" => {
            let mode = args.get("mode").and_then(Raw::unsigned).and_then(|mode| u32::try_from(mode).ok());
            Job::Files(FileJob::Receive { path: args.path("path")?, block: args.block(), limit: args.limit(), mode })
        }
        _ => return Err(format!("unrecognized command {name:?}")),
    })
}

/// The arguments that change what is run. How a terminal, log files and other signals are asked for is passed over.
fn shell(args: Args<'_, '_>, variable: Option<Variable<'_>>) -> Result<Command, String> {
    let program = args.need("command")?;
    let mut command = match program.text() {
        Some(line) => Command::shell(line),
        None => Command::exec(texts(program, "command")?),
    };
    command = command.directory(args.path("workdir")?);
    command.time_limit = args.seconds("maxTime");
    command.silence_limit = args.seconds("timeout");
    command.stdin = args.get("initial_stdin").and_then(Raw::bytes).unwrap_or_default().to_vec();
    let Some(environment) = args.get("env") else { return Ok(command) };
    let mut bad = None;
    environment.each_field(|name, value| match (std::str::from_utf8(name), changed(value, variable)) {
        (Ok(name), Some(value)) => _ = command.environment.insert(name.to_owned(), value),
        _ => bad = Some(format!("the variable {:?} is no text", String::from_utf8_lossy(name))),
    });
    bad.map_or(Ok(command), Err)
}

/// What a variable is to be: none when it is to be removed.
fn changed(value: Raw<'_>, variable: Option<Variable<'_>>) -> Option<Option<String>> {
    if value.is_nil() {
        return Some(None);
    }
    let text = match value.text() {
        Some(text) => text.to_owned(),
        // As the stock worker has it: a list of directories.
        None => texts(value, "a variable").ok()?.join(":"),
    };
    Some(Some(match variable {
        Some(variable) => substituted(&text, variable),
        None => text,
    }))
}

/// Replaces every `${NAME}` by what that variable is here, or by nothing.
fn substituted(text: &str, variable: Variable<'_>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        result.push_str(before);
        // Only the name is looked through for its end, not everything behind it: that may be much, and each time anew.
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, behind) = after.split_at(end);
        if let Some(behind) = behind.strip_prefix('}') {
            result.push_str(&variable(name).unwrap_or_default());
            rest = behind;
        } else {
            result.push_str("${");
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

fn texts(list: Raw<'_>, what: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{what} is a list of texts");
    let (length, mut items) = list.items().ok_or_else(wrong)?;
    let text = |_| items.skip().ok()?.text().map(str::to_owned);
    (0..length).map(text).collect::<Option<_>>().ok_or_else(wrong)
}

fn absolute(path: &str) -> Result<String, String> {
    if path.starts_with('/') { Ok(path.to_owned()) } else { Err(format!("the path {path:?} is not absolute")) }
}

/// Who we are.
pub(super) struct Info<'a> {
    pub(super) basedir: Cow<'a, str>,
    pub(super) processors: usize,
    /// Of the environment, what a master may know.
    pub(super) environment: Cow<'a, [(String, String)]>,
}

pub(super) fn encode_info(number: u64, info: &Info<'_>) -> Vec<u8> {
    let mut writer = Writer::request("response", number, 1);
    writer.field("result").map(8);
    writer.field("system").text("posix");
    writer.field("basedir").text(&info.basedir);
    writer.field("version").text(concat!("latent-worker ", env!("CARGO_PKG_VERSION")));
    writer.field("numcpus").unsigned(info.processors as u64);
    writer.field("delete_leftover_dirs").boolean(false);
    writer.field("raw_output").boolean(true);
    writer.field("worker_commands").map(COMMANDS.len() as u32);
    COMMANDS.iter().for_each(|name| _ = writer.field(name).text(COMMAND_VERSION));
    writer.field("environ").map(u32::try_from(info.environment.len()).expect("an environment is small"));
    info.environment.iter().for_each(|(name, value)| _ = writer.field(name).text(value));
    writer.0
}

/// A piece of an `update`.
pub(super) enum Piece<'a> {
    /// Output as the bytes that it is.
    Raw(&'static str, &'a [u8]),
    /// Whole lines of text; where in them (in characters) the line feeds are.
    Lines(&'static str, &'a str, &'a [usize]),
    ExitCode(i64),
    FailureReason(&'static str),
    Elapsed(Duration),
    Names(&'a [String]),
    Status(&'a FileStatus),
}

/// `now` are the seconds since 1970: to masters that want text every line has a time.
pub(super) fn encode_update(number: u64, command: &str, now: f64, pieces: &[Piece<'_>]) -> Vec<u8> {
    let mut writer = Writer::request("update", number, 2);
    writer.field("command_id").text(command);
    writer.field("args").list(pieces.len());
    for piece in pieces {
        writer.list(2);
        match piece {
            Piece::Raw(stream, bytes) => {
                writer.0.reserve(bytes.len() + 32);
                writer.text(stream).list(3).binary(bytes).list(0).list(0)
            }
            Piece::Lines(stream, text, positions) => {
                writer.text(stream).list(3).text(text).list(positions.len());
                positions.iter().for_each(|position| _ = writer.unsigned(*position as u64));
                writer.list(positions.len());
                positions.iter().for_each(|_| _ = writer.float(now));
                &mut writer
            }
            Piece::ExitCode(code) => writer.text("rc").signed(*code),
            Piece::FailureReason(reason) => writer.text("failure_reason").text(reason),
            Piece::Elapsed(elapsed) => writer.text("elapsed").float(elapsed.as_secs_f64()),
            Piece::Names(names) => {
                writer.text("files").list(names.len());
                names.iter().for_each(|name| _ = writer.text(name));
                &mut writer
            }
            Piece::Status(status) => {
                let modified = status.modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
                writer.text("stat").list(10).unsigned(status.mode.into());
                (0..5).for_each(|_| _ = writer.unsigned(0));
                writer.unsigned(status.size).unsigned(modified).unsigned(modified).unsigned(modified)
            }
        };
    }
    writer.0
}

/// How the end of a program is told: what it comes to, and what a person wants to know.
pub(super) fn told(end: &CommandEnd) -> (Vec<Piece<'static>>, Option<String>) {
    let killed = |pieces| (pieces, Some("process killed by signal 9".to_owned()));
    let elapsed = Piece::Elapsed(end.elapsed);
    match end.exit {
        Exit::Code(code) => (vec![Piece::ExitCode(code.into()), elapsed], None),
        Exit::Signal(signal) => {
            (vec![Piece::ExitCode(-1), elapsed], Some(format!("process killed by signal {signal}")))
        }
        Exit::TimeLimit => killed(vec![Piece::FailureReason("timeout"), Piece::ExitCode(-1), elapsed]),
        Exit::SilenceLimit => {
            killed(vec![Piece::FailureReason("timeout_without_output"), Piece::ExitCode(-1), elapsed])
        }
        Exit::Interrupted => killed(vec![Piece::ExitCode(-1)]),
    }
}

pub(super) fn encode_complete(number: u64, command: &str, error: Option<&str>) -> Vec<u8> {
    let mut writer = Writer::request("complete", number, 2);
    writer.field("command_id").text(command);
    writer.field("args");
    match error {
        Some(error) => writer.text(error),
        None => writer.nil(),
    };
    writer.0
}

pub(super) fn encode_take(number: u64, command: &str, block: &[u8]) -> Vec<u8> {
    let mut writer = Writer::request("update_upload_file_write", number, 2);
    writer.field("command_id").text(command);
    writer.0.reserve(block.len() + 32);
    writer.field("args").binary(block);
    writer.0
}

pub(super) fn encode_give(number: u64, command: &str, length: usize) -> Vec<u8> {
    let mut writer = Writer::request("update_read_file", number, 2);
    writer.field("command_id").text(command);
    writer.field("length").unsigned(length as u64);
    writer.0
}

/// A file is closed: `update_upload_file_close`, `update_read_file_close`.
pub(super) fn encode_closed(op: &str, number: u64, command: &str) -> Vec<u8> {
    let mut writer = Writer::request(op, number, 1);
    writer.field("command_id").text(command);
    writer.0
}

#[cfg(test)]
#[path = "codec/tests.rs"]
mod tests;
