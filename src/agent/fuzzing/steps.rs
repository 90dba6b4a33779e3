//! The bytes of a fuzzer, read as steps: numbers, texts, and messages of a peer that means no good.
//!
//! Any bytes are some steps, and a few changed bytes are similar steps; where there are no bytes left, everything is zero.
//! The messages are those of either side, well-formed but for what the fuzzer breaks: so it gets behind the first checks.

use super::super::msgpack::Writer;

#[derive(Debug)]
pub(in crate::agent) struct Steps<'i>(&'i [u8]);

/// The operations of both sides, and one of nobody.
const OPERATIONS: &[&str] = &[
    "response",
    "update",
    "complete",
    "update_upload_file_write",
    "update_read_file",
    "update_upload_file_close",
    "update_upload_file_utime",
    "update_read_file_close",
    "print",
    "keepalive",
    "get_worker_info",
    "set_worker_settings",
    "start_command",
    "interrupt_command",
    "shutdown",
    "levitate",
];
const COMMANDS: &[&str] =
    &["shell", "stat", "listdir", "mkdir", "rmdir", "rmfile", "cpdir", "upload_file", "downloadFile", "glob"];
const ARGUMENTS: &[&str] = &[
    "command",
    "workdir",
    "env",
    "initial_stdin",
    "timeout",
    "maxTime",
    "want_stdout",
    "want_stderr",
    "path",
    "paths",
    "from_path",
    "to_path",
    "blocksize",
    "maxsize",
    "mode",
    "raw_output",
    "max_line_length",
];
const UPDATES: &[&str] = &["stdout", "stderr", "header", "rc", "failure_reason", "elapsed", "files", "stat", "log"];
const INFO: &[&str] = &["basedir", "system", "version", "raw_output", "environ"];
const FLOATS: &[f64] = &[0.0, -0.0, 0.25, 1e9, 1e300, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE];

/// Where a message is not as it should be.
mod wrong {
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const NO_NUMBER: u8 = 2;
    pub(super) const NO_COMMAND: u8 = 4;
    pub(super) const NO_ARGUMENTS: u8 = 8;
    pub(super) const OTHER_ARGUMENTS: u8 = 16;
    pub(super) const EXCEPTION: u8 = 32;
    pub(super) const CHANGED: u8 = 64;
    pub(super) const CUT: u8 = 128;
}

impl<'i> Steps<'i> {
    pub(in crate::agent) fn new(input: &'i [u8]) -> Self {
        Self(input)
    }

    /// What to do next; `None` at the end.
    pub(in crate::agent) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(in crate::agent) fn byte(&mut self) -> u8 {
        self.next().unwrap_or_default()
    }

    pub(in crate::agent) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(in crate::agent) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Mostly a small one.
    pub(in crate::agent) fn number(&mut self) -> u64 {
        let bytes = match self.byte() {
            255 => 8,
            254 => 4,
            253 => 2,
            small => return small.into(),
        };
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    pub(in crate::agent) fn bytes(&mut self) -> &'i [u8] {
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(in crate::agent) fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub(in crate::agent) fn path(&mut self) -> String {
        format!("/{}", self.text())
    }

    /// Mostly one of a few, so that it is met again.
    pub(in crate::agent) fn command(&mut self) -> String {
        match self.byte() {
            255 => self.text(),
            number => (number % 16).to_string(),
        }
    }

    /// A message as a peer might send it, or any bytes.
    pub(in crate::agent) fn message(&mut self) -> Vec<u8> {
        let operation = self.byte();
        if operation >= 0xf0 {
            return self.bytes().to_vec();
        }
        let operation = OPERATIONS[usize::from(operation) % OPERATIONS.len()];
        let wrong = self.byte();
        let is = |bit: u8| wrong & bit != 0;
        let mut fields = Vec::new();
        if !is(wrong::NO_OPERATION) {
            fields.push(field("op", |writer| _ = writer.text(operation)));
        }
        if !is(wrong::NO_NUMBER) {
            let number = self.number();
            fields.push(field("seq_number", |writer| _ = writer.unsigned(number)));
        }
        if !is(wrong::NO_COMMAND) && operation != "response" {
            let command = self.command();
            fields.push(field("command_id", |writer| _ = writer.text(&command)));
        }
        if is(wrong::EXCEPTION) {
            fields.push(field("is_exception", |writer| _ = writer.boolean(true)));
        }
        match operation {
            _ if is(wrong::NO_ARGUMENTS) => {}
            "response" => fields.push(field("result", |writer| self.result(writer))),
            "update_read_file" => fields.push(field("length", |writer| self.value(writer, 0))),
            _ => fields.push(field("args", |writer| match operation {
                _ if is(wrong::OTHER_ARGUMENTS) => self.value(writer, 0),
                "update" => self.updates(writer),
                "start_command" | "set_worker_settings" => self.map(writer, ARGUMENTS),
                "update_upload_file_write" => _ = writer.binary(self.bytes()),
                _ => self.value(writer, 0),
            })),
        }
        if operation == "start_command" {
            let name = self.pick(COMMANDS);
            fields.push(field("command_name", |writer| _ = writer.text(name)));
        }
        let mut writer = Writer(Vec::new());
        writer.map(fields.len() as u32);
        writer.0.extend(fields.concat());
        self.broken(writer.0, is(wrong::CHANGED), is(wrong::CUT))
    }

    fn broken(&mut self, mut message: Vec<u8>, is_changed: bool, is_cut: bool) -> Vec<u8> {
        if is_changed {
            for _ in 0..=self.byte() % 4 {
                let at = self.number() as usize % message.len();
                message[at] = self.byte();
            }
        }
        if is_cut {
            message.truncate(self.number() as usize);
            message.extend(self.bytes());
        }
        message
    }

    fn result(&mut self, writer: &mut Writer) {
        match self.byte() % 4 {
            0 => _ = writer.nil(),
            1 => self.map(writer, INFO),
            2 => _ = writer.binary(self.bytes()),
            _ => self.value(writer, 0),
        }
    }

    fn map(&mut self, writer: &mut Writer, keys: &[&str]) {
        let length = self.byte() % 16;
        writer.map(length.into());
        for _ in 0..length {
            writer.field(self.pick(keys));
            self.value(writer, 0);
        }
    }

    fn updates(&mut self, writer: &mut Writer) {
        let length = self.byte() % 16;
        writer.list(length.into());
        for _ in 0..length {
            writer.list(2).text(self.pick(UPDATES));
            self.value(writer, 0);
        }
    }

    fn value(&mut self, writer: &mut Writer, depth: usize) {
        match self.byte() % 20 {
            _ if depth > 40 => _ = writer.nil(),
            0 => _ = writer.nil(),
            1 => _ = writer.boolean(true),
            2 => _ = writer.boolean(false),
            3 => _ = writer.unsigned(self.number()),
            4 => _ = writer.signed((self.number() as i64).wrapping_neg()),
            5 => _ = writer.float(self.pick(FLOATS)),
            6 => _ = writer.text(&self.text()),
            7 => _ = writer.binary(self.bytes()),
            8 => {
                let length = self.byte() % 16;
                writer.list(length.into());
                (0..length).for_each(|_| self.value(writer, depth + 1));
            }
            9 => {
                let length = self.byte() % 16;
                writer.map(length.into());
                (0..2 * length).for_each(|_| self.value(writer, depth + 1));
            }
            // Text as the stock worker sends it.
            10 => _ = writer.list(3).text(&self.text()).list(0).list(0),
            11 => {
                writer.list(10);
                (0..10).for_each(|_| _ = writer.unsigned(self.number()));
            }
            12 => _ = writer.text(&self.path()),
            13 => _ = writer.text("timeout"),
            14 => _ = writer.text("timeout_without_output"),
            15 => {
                let header = format!("{}\nprocess killed by signal {}\n", self.text(), self.number());
                writer.list(1).text(&header);
            }
            16 => _ = writer.text(self.pick(&["posix", "nt", r"C:\w", "${HOME}"])),
            // A list that is longer than it says, or shorter, or nested.
            17 => _ = writer.list(self.number() as u32 as usize),
            18 => _ = writer.map(self.number() as u32),
            _ => writer.0.extend(self.bytes()),
        }
    }
}

/// One field of a map.
fn field(name: &str, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer(Vec::new());
    writer.field(name);
    write(&mut writer);
    writer.0
}
