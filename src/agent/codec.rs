//! Messages of the wire and their bytes: msgpack in, msgpack out, no state.
//!
//! What comes in is hostile until it was looked at. A message is walked once before anything in it is believed: every
//! length is checked against the bytes that are there, nesting has a limit and needs no recursion. What a message says
//! is then borrowed from its bytes; no tree of values is built, so that a message takes no more memory than it is long.
//! Numbers, commands and who may say what when are not known here: see `session`.

use rmp::Marker;

/// How deep a message may nest; an update of the stock worker nests five deep.
const MAX_DEPTH: usize = 32;

/// Bytes that are no message of this protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no message: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

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
    Complete {
        command: &'m str,
        error: Option<String>,
    },
    /// An operation that we do not know, or one without what it needs; why, for the answer.
    Refused(&'static str),
}

/// One whole value that was walked and not yet looked into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw<'m>(&'m [u8]);

/// What the worker says of itself, as far as it is of use here. The rest, its whole environment for one, is not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct WorkerInfo {
    /// The absolute directory below which commands run.
    pub(super) basedir: String,
    /// `posix` or `nt`.
    pub(super) system: String,
    pub(super) version: String,
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

/// Reads one message that fills `bytes` to the end.
pub(super) fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut whole = Reader(bytes);
    let message = whole.skip()?;
    if !whole.0.is_empty() {
        return Err(Malformed("bytes after its end"));
    }
    let mut fields = Fields::default();
    message.each_field(|key, value| fields.note(key, value)).ok_or(Malformed("not a map"))?;
    let (Some(op), Some(number)) = (fields.op.and_then(Raw::text), fields.number.and_then(Raw::unsigned)) else {
        return Ok(Message::Unanswerable);
    };
    if op == "response" {
        let result = fields.result.unwrap_or(Raw(&[0xc0]));
        let result = if fields.is_exception { Err(result.lossy_text()) } else { Ok(result) };
        return Ok(Message::Response { number, result });
    }
    Ok(Message::Request { number, request: fields.request(op) })
}

/// The fields of a message that mean something.
#[derive(Default)]
struct Fields<'m> {
    op: Option<Raw<'m>>,
    number: Option<Raw<'m>>,
    command: Option<Raw<'m>>,
    args: Option<Raw<'m>>,
    result: Option<Raw<'m>>,
    is_exception: bool,
}

impl<'m> Fields<'m> {
    fn note(&mut self, key: &[u8], value: Raw<'m>) {
        match key {
            b"op" => self.op = Some(value),
            b"seq_number" => self.number = Some(value),
            b"command_id" => self.command = Some(value),
            b"args" => self.args = Some(value),
            b"result" => self.result = Some(value),
            // That it is there decides, not what it says.
            b"is_exception" => self.is_exception = true,
            _ => {}
        }
    }

    fn request(&self, op: &str) -> Request<'m> {
        let command = self.command.and_then(Raw::text);
        match (op, command, self.args) {
            ("update", Some(command), Some(args)) => match args.items() {
                Some((left, rest)) => Request::Update { command, updates: Updates { rest, left } },
                None => Request::Refused("the args of an update are a list"),
            },
            ("complete", Some(command), args) => {
                let error = args.filter(|args| !args.is_nil()).map(Raw::lossy_text);
                Request::Complete { command, error }
            }
            ("update" | "complete", ..) => Request::Refused("command_id or args are missing"),
            _ => Request::Refused("this master does not know the operation"),
        }
    }
}

impl<'m> Raw<'m> {
    fn head(self) -> (Head<'m>, Reader<'m>) {
        let mut reader = Reader(self.0);
        // It was walked before.
        let head = reader.head().unwrap_or(Head::Other);
        (head, reader)
    }

    fn is_nil(self) -> bool {
        matches!(self.head().0, Head::Nil)
    }

    fn bytes(self) -> Option<&'m [u8]> {
        match self.head().0 {
            Head::Text(bytes) | Head::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn text(self) -> Option<&'m str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// For people: the beginning of a text, whatever it is.
    fn lossy_text(self) -> String {
        let bytes = self.bytes().unwrap_or(b"no text");
        String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).into_owned()
    }

    fn unsigned(self) -> Option<u64> {
        match self.head().0 {
            Head::Unsigned(number) => Some(number),
            Head::Signed(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    fn signed(self) -> Option<i64> {
        match self.head().0 {
            Head::Unsigned(number) => i64::try_from(number).ok(),
            Head::Signed(number) => Some(number),
            _ => None,
        }
    }

    fn float(self) -> Option<f64> {
        match self.head().0 {
            Head::Float(number) => Some(number),
            Head::Unsigned(number) => u32::try_from(number).ok().map(f64::from),
            _ => None,
        }
    }

    /// How many items a list has, and where they begin.
    fn items(self) -> Option<(u32, Reader<'m>)> {
        match self.head() {
            (Head::List(length), rest) => Some((length, rest)),
            _ => None,
        }
    }

    fn first_item(self) -> Option<Raw<'m>> {
        let (length, mut rest) = self.items()?;
        if length == 0 { None } else { rest.skip().ok() }
    }

    /// Calls `note` with each field of a map. Keys that are no text are passed over.
    fn each_field(self, mut note: impl FnMut(&'m [u8], Raw<'m>)) -> Option<()> {
        let (Head::Map(length), mut rest) = self.head() else { return None };
        for _ in 0..length {
            let (key, value) = (rest.skip().ok()?, rest.skip().ok()?);
            if let Some(key) = key.bytes() {
                note(key, value);
            }
        }
        Some(())
    }

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
            _ => Update::Other,
        })
    }

    /// The answer to `get_worker_info`.
    pub(super) fn worker_info(self) -> Option<WorkerInfo> {
        let (mut basedir, mut system, mut version) = (None, None, None);
        let bounded = |value: Raw<'m>| value.text().filter(|text| text.len() <= 4096).map(str::to_owned);
        self.each_field(|key, value| match key {
            b"basedir" => basedir = bounded(value),
            b"system" => system = bounded(value),
            b"version" => version = bounded(value),
            _ => {}
        })?;
        Some(WorkerInfo { basedir: basedir?, system: system?, version: version.unwrap_or_default() })
    }
}

/// How a value begins.
enum Head<'m> {
    Nil,
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'m [u8]),
    Binary(&'m [u8]),
    /// Its items follow.
    List(u32),
    /// Twice as many values follow.
    Map(u32),
    Other,
}

/// Bytes that are still to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reader<'m>(&'m [u8]);

impl<'m> Reader<'m> {
    fn take(&mut self, length: usize) -> Result<&'m [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many as were asked for"))
    }

    fn length<const N: usize>(&mut self) -> Result<u32, Malformed> {
        Ok(self.array::<N>()?.iter().fold(0, |length, byte| length << 8 | u32::from(*byte)))
    }

    fn sized<const N: usize>(&mut self) -> Result<&'m [u8], Malformed> {
        let length = self.length::<N>()?;
        self.take(length as usize)
    }

    fn extension(&mut self, length: u32) -> Result<Head<'m>, Malformed> {
        self.take(1)?;
        self.take(length as usize)?;
        Ok(Head::Other)
    }

    /// Reads the beginning of a list or map, or the whole of any other value.
    fn head(&mut self) -> Result<Head<'m>, Malformed> {
        let [marker] = self.array()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Head::Nil,
            Marker::True | Marker::False => Head::Other,
            Marker::FixPos(number) => Head::Unsigned(number.into()),
            Marker::FixNeg(number) => Head::Signed(number.into()),
            Marker::U8 => Head::Unsigned(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Head::Unsigned(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Head::Unsigned(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Head::Unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Head::Signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Head::Signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Head::Signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Head::Signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Head::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Head::Float(f64::from_be_bytes(self.array()?)),
            Marker::FixStr(length) => Head::Text(self.take(length.into())?),
            Marker::Str8 => Head::Text(self.sized::<1>()?),
            Marker::Str16 => Head::Text(self.sized::<2>()?),
            Marker::Str32 => Head::Text(self.sized::<4>()?),
            Marker::Bin8 => Head::Binary(self.sized::<1>()?),
            Marker::Bin16 => Head::Binary(self.sized::<2>()?),
            Marker::Bin32 => Head::Binary(self.sized::<4>()?),
            Marker::FixArray(length) => Head::List(length.into()),
            Marker::Array16 => Head::List(self.length::<2>()?),
            Marker::Array32 => Head::List(self.length::<4>()?),
            Marker::FixMap(length) => Head::Map(length.into()),
            Marker::Map16 => Head::Map(self.length::<2>()?),
            Marker::Map32 => Head::Map(self.length::<4>()?),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => {
                let length = self.length::<1>()?;
                self.extension(length)?
            }
            Marker::Ext16 => {
                let length = self.length::<2>()?;
                self.extension(length)?
            }
            Marker::Ext32 => {
                let length = self.length::<4>()?;
                self.extension(length)?
            }
            Marker::Reserved => return Err(Malformed("a byte that begins no value")),
        })
    }

    /// Walks over one value with everything in it.
    fn skip(&mut self) -> Result<Raw<'m>, Malformed> {
        let begin = self.0;
        // How many values are still to come at each level.
        let mut left = [0_u64; MAX_DEPTH];
        let mut depth = 0;
        left[0] = 1;
        loop {
            while left[depth] == 0 {
                if depth == 0 {
                    return Ok(Raw(&begin[..begin.len() - self.0.len()]));
                }
                depth -= 1;
            }
            left[depth] -= 1;
            let values = match self.head()? {
                Head::List(length) => u64::from(length),
                Head::Map(length) => 2 * u64::from(length),
                _ => continue,
            };
            // A value is a byte at least.
            if values > self.0.len() as u64 {
                return Err(Malformed("it ends too early"));
            }
            depth += 1;
            *left.get_mut(depth).ok_or(Malformed("nested too deeply"))? = values;
        }
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

/// Writes one message. Writing to memory does not fail.
struct Writer(Vec<u8>);

const TO_MEMORY: &str = "memory takes it";

/// The longest text, list or run of bytes that the wire can carry.
pub(super) const MAX_LENGTH: usize = u32::MAX as usize;

impl Writer {
    fn request(op: &str, number: u64, more_fields: u32) -> Self {
        let mut writer = Self(Vec::with_capacity(64));
        writer.map(2 + more_fields);
        writer.field("op").text(op);
        writer.field("seq_number").unsigned(number);
        writer
    }

    fn map(&mut self, fields: u32) -> &mut Self {
        rmp::encode::write_map_len(&mut self.0, fields).expect(TO_MEMORY);
        self
    }

    fn list(&mut self, items: usize) -> &mut Self {
        let items = u32::try_from(items).expect("its sender looked at the length");
        rmp::encode::write_array_len(&mut self.0, items).expect(TO_MEMORY);
        self
    }

    fn field(&mut self, name: &str) -> &mut Self {
        self.text(name)
    }

    fn text(&mut self, text: &str) -> &mut Self {
        rmp::encode::write_str(&mut self.0, text).expect(TO_MEMORY);
        self
    }

    fn binary(&mut self, bytes: &[u8]) -> &mut Self {
        rmp::encode::write_bin(&mut self.0, bytes).expect(TO_MEMORY);
        self
    }

    fn unsigned(&mut self, number: u64) -> &mut Self {
        rmp::encode::write_uint(&mut self.0, number).expect(TO_MEMORY);
        self
    }

    fn float(&mut self, number: f64) -> &mut Self {
        rmp::encode::write_f64(&mut self.0, number).expect(TO_MEMORY);
        self
    }

    fn nil(&mut self) -> &mut Self {
        rmp::encode::write_nil(&mut self.0).expect(TO_MEMORY);
        self
    }

    fn boolean(&mut self, value: bool) -> &mut Self {
        rmp::encode::write_bool(&mut self.0, value).expect(TO_MEMORY);
        self
    }

    fn seconds(&mut self, seconds: Option<f64>) -> &mut Self {
        match seconds {
            Some(seconds) => self.float(seconds),
            None => self.nil(),
        }
    }
}

/// A request without arguments: `get_worker_info`, `shutdown`.
pub(super) fn encode_plain(op: &str, number: u64) -> Vec<u8> {
    Writer::request(op, number, 0).0
}

pub(super) fn encode_settings(number: u64, settings: &Settings<'_>) -> Vec<u8> {
    let mut writer = Writer::request("set_worker_settings", number, 1);
    writer.field("args").map(4);
    writer.field("buffer_size").unsigned(settings.buffer_size.into());
    writer.field("buffer_timeout").float(settings.buffer_timeout);
    writer.field("newline_re").text(settings.newline_re);
    writer.field("max_line_length").unsigned(settings.max_line_length.into());
    writer.0
}

/// Nothing in `shell` may be longer than [`MAX_LENGTH`].
pub(super) fn encode_start(number: u64, command: &str, shell: &Shell<'_>) -> Vec<u8> {
    let mut writer = Writer::request("start_command", number, 3);
    writer.field("command_id").text(command);
    writer.field("command_name").text("shell");
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

/// Answers request `number` of the worker: with nil, or with an error.
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

#[cfg(test)]
#[path = "codec/tests.rs"]
pub(super) mod tests;
