//! Messages as the master reads and writes them: msgpack in, msgpack out, no state.
//!
//! What both sides have in common is here too: the [`Envelope`], the answers. Numbers, commands and who may say what when
//! are not known here: see `session`.

use super::msgpack::{Malformed, NIL, Raw, Reader, Writer};

/// The fields of a message that mean something to either side, not looked into.
pub(super) struct Envelope<'m> {
    pub(super) op: &'m str,
    pub(super) number: u64,
    pub(super) command: Option<&'m str>,
    pub(super) name: Option<&'m str>,
    pub(super) args: Option<Raw<'m>>,
    pub(super) length: Option<u64>,
    result: Option<Raw<'m>>,
    is_exception: bool,
}

impl<'m> Envelope<'m> {
    /// Reads one message that fills `bytes` to the end. `None` for one without an operation or a number: nobody can
    /// answer it.
    pub(super) fn read(bytes: &'m [u8]) -> Result<Option<Self>, Malformed> {
        let (mut op, mut number) = (None, None);
        let mut envelope = Self {
            op: "",
            number: 0,
            command: None,
            name: None,
            args: None,
            length: None,
            result: None,
            is_exception: false,
        };
        let fields = Raw::whole(bytes)?.each_field(|key, value| match key {
            b"op" => op = value.text(),
            b"seq_number" => number = value.unsigned(),
            b"command_id" => envelope.command = value.text(),
            b"command_name" => envelope.name = value.text(),
            b"args" => envelope.args = Some(value),
            b"length" => envelope.length = value.unsigned(),
            b"result" => envelope.result = Some(value),
            // That it is there decides, not what it says.
            b"is_exception" => envelope.is_exception = true,
            _ => {}
        });
        fields.ok_or(Malformed("not a map"))?;
        Ok(op.zip(number).map(|(op, number)| Self { op, number, ..envelope }))
    }

    /// The answer, or the text of the peer's error; `None` when it is none.
    pub(super) fn response(&self) -> Option<Result<Raw<'m>, String>> {
        let result = self.result.unwrap_or(NIL);
        (self.op == "response").then(|| if self.is_exception { Err(result.shown_text()) } else { Ok(result) })
    }
}

/// What a worker sends.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Message<'m> {
    /// The answer to request `number` of ours.
    Response {
        number: u64,
        /// The answer, or the text of the worker's error.
        result: Result<Raw<'m>, String>,
    },
    /// A request that wants an answer.
    Request { number: u64, request: Request<'m> },
    /// Without an operation or a number: nobody can answer it.
    Unanswerable,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Request<'m> {
    Update {
        command: &'m str,
        updates: Updates<'m>,
    },
    /// It goes on with a file.
    Transfer {
        command: &'m str,
        step: Step<'m>,
    },
    Complete {
        command: &'m str,
        error: Option<String>,
    },
    /// A request about a command that is incomplete or invalid, with the reason for the answer.
    Unusable {
        command: &'m str,
        why: &'static str,
    },
    /// An unknown operation, or one without a command, with the reason for the answer.
    Refused(&'static str),
}

/// What a worker asks while a file is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step<'m> {
    /// The next bytes of its file.
    Take(&'m [u8]),
    /// It wants so many bytes at most; none is the end.
    Give(u64),
    /// It has closed its file, or says when that was changed last.
    Closed,
}

/// What the worker says of itself, as far as it is of use here. The rest, its whole environment for one, is not kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct WorkerInfo {
    /// The absolute directory below which commands run.
    pub(super) basedir: String,
    /// `posix` or `nt`.
    pub(super) system: String,
    pub(super) version: String,
    /// It is one of ours: it can send output as the bytes that it is, and waits for the answers to it.
    pub(super) raw_output: bool,
}

/// A piece of an `update`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Update<'m> {
    Stdout(&'m [u8]),
    Stderr(&'m [u8]),
    /// What the worker has to say about the command.
    Header(&'m [u8]),
    ExitCode(i64),
    /// Why the worker killed the command.
    FailureReason(&'m [u8]),
    /// Seconds.
    Elapsed(f64),
    /// A list of names.
    Names(Raw<'m>),
    /// A `stat` tuple.
    Status(Raw<'m>),
    Other,
}

/// The pieces of an `update`, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Updates<'m> {
    rest: Reader<'m>,
    left: u32,
}

impl<'m> Iterator for Updates<'m> {
    type Item = Update<'m>;

    /// A piece of another shape than expected is [`Update::Other`]: newer workers may know more than we do.
    fn next(&mut self) -> Option<Update<'m>> {
        self.left = self.left.checked_sub(1)?;
        let piece = self.rest.skip().ok()?;
        Some(piece.update().unwrap_or(Update::Other))
    }
}

/// Reads one message of a worker that fills `bytes` to the end.
pub(super) fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let Some(envelope) = Envelope::read(bytes)? else { return Ok(Message::Unanswerable) };
    let number = envelope.number;
    Ok(match envelope.response() {
        Some(result) => Message::Response { number, result },
        None => Message::Request { number, request: Request::of(&envelope) },
    })
}

impl<'m> Request<'m> {
    fn of(envelope: &Envelope<'m>) -> Self {
        let transfer = |command, step| Self::Transfer { command, step };
        let unusable = |command, why| Self::Unusable { command, why };
        match (envelope.op, envelope.command, envelope.args) {
            ("update", Some(command), Some(args)) => match args.items() {
                Some((left, rest)) => Self::Update { command, updates: Updates { rest, left } },
                None => unusable(command, "the args of an update must be a list"),
            },
            ("complete", Some(command), args) => {
                let error = args.filter(|args| !args.is_nil()).map(Raw::shown_text);
                Self::Complete { command, error }
            }
            ("update_upload_file_write", Some(command), Some(args)) => match args.bytes() {
                Some(bytes) => transfer(command, Step::Take(bytes)),
                None => unusable(command, "the args of a write must be bytes"),
            },
            ("update_read_file", Some(command), _) => match envelope.length {
                Some(length) => transfer(command, Step::Give(length)),
                None => unusable(command, "the length of a read must be a number"),
            },
            ("update_upload_file_close" | "update_upload_file_utime" | "update_read_file_close", Some(command), _) => {
                transfer(command, Step::Closed)
            }
            ("update" | "update_upload_file_write", Some(command), None) => unusable(command, "args are missing"),
            ("update" | "complete" | "update_upload_file_write" | "update_read_file", None, _) => {
                Self::Refused("command_id is missing")
            }
            _ => Self::Refused("this master does not know the operation"),
        }
    }
}

/// The most names of one directory: they take more memory here than on the wire.
pub(super) const MAX_NAMES: u32 = 100_000;
/// The longest text in what a worker reports about itself, in bytes.
pub(super) const MAX_INFO: usize = 4096;

impl<'m> Raw<'m> {
    /// `[key, value]`, where the value of a text is `[text, positions, times]`.
    fn update(self) -> Option<Update<'m>> {
        let (2, mut rest) = self.items()? else { return None };
        let (key, value) = (rest.skip().ok()?.bytes()?, rest.skip().ok()?);
        Some(match key {
            b"stdout" => Update::Stdout(value.first_item()?.bytes()?),
            b"stderr" => Update::Stderr(value.first_item()?.bytes()?),
            b"header" => Update::Header(value.first_item()?.bytes()?),
            b"rc" => Update::ExitCode(value.signed()?),
            b"failure_reason" => Update::FailureReason(value.bytes()?),
            b"elapsed" => Update::Elapsed(value.float()?),
            b"files" => Update::Names(value),
            b"stat" => Update::Status(value),
            _ => Update::Other,
        })
    }

    /// A list of names; what is no text in it is passed over. `None` when they are too many.
    pub(super) fn names(self) -> Option<Vec<String>> {
        let (length, mut rest) = self.items()?;
        if length > MAX_NAMES {
            return None;
        }
        let names = (0..length).filter_map(|_| rest.skip().ok()?.text().map(str::to_owned));
        Some(names.collect())
    }

    /// Of Python's `os.stat`: mode, size, and the seconds of the last change.
    pub(super) fn status(self) -> Option<(u32, u64, i64)> {
        let (length, mut rest) = self.items()?;
        let items: Vec<_> = (0..length.min(10)).map_while(|_| rest.skip().ok()).collect();
        let [mode, _, _, _, _, _, size, _, modified, _] = items.try_into().ok()?;
        Some((u32::try_from(mode.unsigned()?).ok()?, size.unsigned()?, modified.signed()?))
    }

    /// The answer to `get_worker_info`.
    pub(super) fn worker_info(self) -> Option<WorkerInfo> {
        let (mut basedir, mut system, mut version, mut raw_output) = (None, None, None, false);
        let bounded = |value: Raw<'m>| value.text().filter(|text| text.len() <= MAX_INFO).map(str::to_owned);
        self.each_field(|key, value| match key {
            b"basedir" => basedir = bounded(value),
            b"system" => system = bounded(value),
            b"version" => version = bounded(value),
            b"raw_output" => raw_output = value.boolean() == Some(true),
            _ => {}
        })?;
        Some(WorkerInfo { basedir: basedir?, system: system?, version: version.unwrap_or_default(), raw_output })
    }
}

/// How the worker is to treat output.
pub(super) struct Settings<'a> {
    /// Bytes that it collects before it sends them …
    pub(super) buffer_size: u32,
    /// … unless these seconds are over.
    pub(super) buffer_timeout: f64,
    /// What it replaces by a line feed.
    pub(super) newline_re: &'a str,
    pub(super) max_line_length: u32,
    /// Said to those alone that understand it.
    pub(super) raw_output: bool,
}

/// The arguments of the command `shell`.
pub(super) struct Shell<'a> {
    pub(super) program: ShellProgram<'a>,
    pub(super) workdir: &'a str,
    pub(super) environment: &'a std::collections::BTreeMap<String, Option<String>>,
    pub(super) stdin: &'a [u8],
    /// Seconds.
    pub(super) time_limit: Option<f64>,
    /// Seconds.
    pub(super) silence_limit: Option<f64>,
}

pub(super) enum ShellProgram<'a> {
    /// For the worker's shell.
    Line(&'a str),
    Arguments(&'a [String]),
}

/// A request without arguments: `get_worker_info`, `shutdown`.
pub(super) fn encode_plain(op: &str, number: u64) -> Vec<u8> {
    Writer::request(op, number, 0).0
}

pub(super) fn encode_settings(number: u64, settings: &Settings<'_>) -> Vec<u8> {
    let mut writer = Writer::request("set_worker_settings", number, 1);
    writer.field("args").map(4 + u32::from(settings.raw_output));
    writer.field("buffer_size").unsigned(settings.buffer_size.into());
    writer.field("buffer_timeout").float(settings.buffer_timeout);
    writer.field("newline_re").text(settings.newline_re);
    writer.field("max_line_length").unsigned(settings.max_line_length.into());
    if settings.raw_output {
        writer.field("raw_output").boolean(true);
    }
    writer.0
}

/// What is to be done with files; all paths are absolute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileCommand {
    Status,
    List,
    MakeDirectory,
    RemoveDirectory,
    RemoveFile,
    /// The worker sends the file; in Buildbot's words it *uploads* it.
    Read,
    /// The worker asks for the file; in Buildbot's words it *downloads* it.
    Write {
        mode: Option<u32>,
    },
}

impl FileCommand {
    fn name(self) -> &'static str {
        match self {
            Self::Status => "stat",
            Self::List => "listdir",
            Self::MakeDirectory => "mkdir",
            Self::RemoveDirectory => "rmdir",
            Self::RemoveFile => "rmfile",
            Self::Read => "upload_file",
            Self::Write { .. } => "download_file",
        }
    }
}

/// The bytes of a file in one message.
pub(super) const BLOCK: usize = 256 << 10;

/// The longest message that starts a command, including its standard input. Also the limit of all such messages
/// together, for the commands that an agent runs at the same time.
pub(super) const MAX_COMMAND: usize = 1 << 30;

/// How many commands may run on one connection.
pub(super) const MAX_COMMANDS: usize = 256;

pub(super) fn encode_file_command(number: u64, command: &str, what: FileCommand, path: &str) -> Vec<u8> {
    let mut writer = start(number, command, what.name());
    writer.field("args");
    match what {
        FileCommand::Status | FileCommand::List | FileCommand::RemoveFile => {
            writer.map(1).field("path").text(path);
        }
        FileCommand::MakeDirectory => {
            writer.map(1).field("paths").list(1).text(path);
        }
        FileCommand::RemoveDirectory => {
            writer.map(2).field("paths").list(1).text(path);
            writer.field("logEnviron").boolean(false);
        }
        FileCommand::Read => {
            transfer(writer.map(4), path).field("keepstamp").boolean(false);
        }
        FileCommand::Write { mode } => {
            transfer(writer.map(4), path).field("mode");
            match mode {
                Some(mode) => writer.unsigned(mode.into()),
                None => writer.nil(),
            };
        }
    }
    writer.0
}

/// What both directions are told.
fn transfer<'w>(writer: &'w mut Writer, path: &str) -> &'w mut Writer {
    writer.field("path").text(path);
    writer.field("maxsize").nil();
    writer.field("blocksize").unsigned(BLOCK as u64)
}

fn start(number: u64, command: &str, name: &str) -> Writer {
    let mut writer = Writer::request("start_command", number, 3);
    writer.field("command_id").text(command);
    writer.field("command_name").text(name);
    writer
}

/// The whole of `shell` must not be longer than [`MAX_COMMAND`].
pub(super) fn encode_start(number: u64, command: &str, shell: &Shell<'_>) -> Vec<u8> {
    let mut writer = start(number, command, "shell");
    writer.field("args").map(14);
    match shell.program {
        ShellProgram::Line(line) => {
            writer.field("command").text(line);
        }
        ShellProgram::Arguments(arguments) => {
            writer.field("command").list(arguments.len());
            for argument in arguments {
                writer.text(argument);
            }
        }
    }
    writer.field("workdir").text(shell.workdir);
    writer.field("env").map(u32::try_from(shell.environment.len()).expect("its sender looked at the length"));
    for (name, value) in shell.environment {
        writer.field(name);
        match value {
            Some(value) => writer.text(value),
            None => writer.nil(),
        };
    }
    writer.field("initial_stdin");
    if shell.stdin.is_empty() {
        writer.nil()
    } else {
        writer.binary(shell.stdin)
    };
    writer.field("timeout").seconds(shell.silence_limit);
    writer.field("maxTime").seconds(shell.time_limit);
    writer.field("want_stdout").boolean(true).field("want_stderr").boolean(true);
    writer.field("logfiles").map(0);
    writer.field("max_lines").nil().field("sigtermTime").nil();
    writer.field("usePTY").boolean(false).field("logEnviron").boolean(false);
    writer.field("interruptSignal").text("KILL");
    writer.0
}

pub(super) fn encode_interrupt(number: u64, command: &str, why: &str) -> Vec<u8> {
    let mut writer = Writer::request("interrupt_command", number, 2);
    writer.field("command_id").text(command).field("why").text(why);
    writer.0
}

/// Answers request `number` of the peer: with nil, or with an error.
pub(super) fn encode_response(number: u64, error: Option<&str>) -> Vec<u8> {
    match error {
        None => {
            let mut writer = Writer::request("response", number, 1);
            writer.field("result").nil();
            writer.0
        }
        Some(error) => {
            let mut writer = Writer::request("response", number, 2);
            writer.field("result").text(error).field("is_exception").boolean(true);
            writer.0
        }
    }
}

/// Answers a worker's `update_read_file`.
pub(super) fn encode_bytes(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::request("response", number, 1);
    writer.field("result").binary(bytes);
    writer.0
}

#[cfg(test)]
#[path = "codec/tests.rs"]
pub(super) mod tests;
