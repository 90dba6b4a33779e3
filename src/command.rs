//! What can be asked of an attached agent: to run a [`Command`] and to stream its [`Output`] back. What can be asked of
//! it about files is in `files`.
//!
//! Code that runs commands through a [`Lease`](crate::Lease) is the same for every kind of worker: how an agent does
//! it is behind the trait [`Agent`]. Nothing here starts a process.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::error::CommandError;
use crate::files::Files;

/// The other end of an attached instance: what makes it do something.
///
/// All methods have a default, so that `()` is an agent: the right one for a worker whose builds need no commands.
/// An agent of your own, say a connection to a database, is reached again through
/// [`Lease::agent`](crate::Lease::agent).
///
/// The methods may be called from several threads at once. A panic in one of them is caught and becomes an error.
pub trait Agent: Any + Send + Sync {
    /// Starts a command and returns without waiting for its end. Called on the thread that holds the lease.
    fn start_command(&self, command: &Command) -> Result<Process, CommandError> {
        let _ = command;
        Err(CommandError::Unsupported)
    }

    /// The files of the instance, for an agent that can do something with them. Called before each operation, on the
    /// thread that holds the lease.
    fn files(&self) -> Option<&dyn Files> {
        None
    }

    /// The instance is about to be stopped: end what runs, close the connection. Called at most once, on the instance's
    /// thread, before `stop_instance`.
    fn close(&self) {}
}

impl Agent for () {}

/// A command to run on an instance.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::Command;
///
/// let command = Command::shell("cargo test").env("CI", "1").time_limit(Duration::from_secs(600));
/// assert_eq!(command.to_string(), "cargo test");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// What to run.
    pub program: Program,
    /// Where to run it, relative to the instance's directory; that directory itself by default. It must exist.
    pub directory: Option<PathBuf>,
    /// Changes to the instance's environment; `None` removes a variable.
    pub environment: BTreeMap<String, Option<String>>,
    /// What the command reads from its standard input; it is at its end after that. Empty by default.
    pub stdin: Vec<u8>,
    /// The command is killed when it has run this long. No limit by default.
    pub time_limit: Option<Duration>,
    /// The command is killed when it has written nothing for this long. No limit by default.
    pub silence_limit: Option<Duration>,
    /// How many of the last bytes of each stream [`Lease::run`](crate::Lease::run) keeps; 1 MiB by default.
    pub keep_output: usize,
}

/// What a [`Command`] runs.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Program {
    /// A line for the instance's shell (`/bin/sh -c` on Unix).
    Shell(String),
    /// A program and its arguments, without a shell.
    Exec(Vec<String>),
}

impl Command {
    fn new(program: Program) -> Self {
        Self {
            program,
            directory: None,
            environment: BTreeMap::new(),
            stdin: Vec::new(),
            time_limit: None,
            silence_limit: None,
            keep_output: 1 << 20,
        }
    }

    /// What is run, for people: the shell or the program, without arguments.
    pub fn program_name(&self) -> &str {
        match &self.program {
            Program::Shell(_) => "/bin/sh",
            Program::Exec(arguments) => arguments.first().map(String::as_str).unwrap_or_default(),
        }
    }

    /// Runs a line with the instance's shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(Program::Shell(line.into()))
    }

    /// Runs a program with arguments; the first item is the program.
    pub fn exec<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::new(Program::Exec(arguments.into_iter().map(Into::into).collect()))
    }

    /// See [`Command::directory`].
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), Some(value.into()));
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<String>) -> Self {
        self.environment.insert(name.into(), None);
        self
    }

    /// See [`Command::stdin`].
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// See [`Command::time_limit`].
    #[must_use]
    #[doc(alias = "maxTime")]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// See [`Command::silence_limit`].
    #[must_use]
    #[doc(alias = "timeout without output")]
    pub fn silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = Some(limit);
        self
    }

    /// See [`Command::keep_output`].
    #[must_use]
    pub fn keep_output(mut self, bytes: usize) -> Self {
        self.keep_output = bytes;
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Program::Shell(line) => f.write_str(line),
            Program::Exec(arguments) => f.write_str(&arguments.join(" ")),
        }
    }
}

/// Shows the names of variables, not their values, and of standard input its length: both carry secrets.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("directory", &self.directory)
            .field("environment", &self.environment.keys())
            .field("stdin_bytes", &self.stdin.len())
            .field("time_limit", &self.time_limit)
            .field("silence_limit", &self.silence_limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(line) => f.debug_tuple("Shell").field(line).finish(),
            Self::Exec(arguments) => f.debug_tuple("Exec").field(arguments).finish(),
        }
    }
}

/// What comes from a running command, in the order in which it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It has ended; nothing follows.
    End(CommandEnd),
    /// The agent could not run it, or does not know how it ended; nothing follows. Who runs commands through a lease
    /// gets this as [`CommandError::Failed`].
    Failed(String),
}

/// How a command ended.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::{CommandEnd, Exit};
///
/// let end = CommandEnd { exit: Exit::Code(1), elapsed: Duration::from_millis(2500) };
/// assert_eq!(end.to_string(), "exit code 1 after 2.5 s");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandEnd {
    /// With what.
    pub exit: Exit,
    /// After how long.
    pub elapsed: Duration,
}

/// The end of a command: its own, or the one that it was given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Exit {
    /// It ended by itself with this code.
    Code(i32),
    /// A signal that was not ours ended it.
    Signal(i32),
    /// It was killed because it ran longer than its time limit.
    TimeLimit,
    /// It was killed because it wrote nothing for longer than its limit.
    SilenceLimit,
    /// It was killed because somebody asked for it.
    Interrupted,
}

impl Exit {
    /// Whether it ended by itself with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The exit code, if it ended by itself.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            _ => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::TimeLimit => f.write_str("killed: it ran longer than its time limit"),
            Self::SilenceLimit => f.write_str("killed: it wrote nothing for longer than its limit"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl fmt::Display for CommandEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:.1} s", self.exit, self.elapsed.as_secs_f64())
    }
}

/// What an [`Agent`] hands out for a command that it has started.
///
/// Dropping it before the end interrupts the command.
pub struct Process {
    output: Receiver<Output>,
    interrupt: Box<dyn Fn() + Send + Sync>,
    taken: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Process {
    /// For implementors of [`Agent`].
    ///
    /// `output` must be bounded, so that a slow reader slows the command and not fills the memory; the last item is
    /// [`Output::End`] or [`Output::Failed`]. `interrupt` must kill the command without blocking, and must be harmless
    /// after its end and when called more than once.
    pub fn new(output: Receiver<Output>, interrupt: impl Fn() + Send + Sync + 'static) -> Self {
        Self { output, interrupt: Box::new(interrupt), taken: None }
    }

    /// For implementors of [`Agent`] whose output comes from afar: `taken` is called after each item that a lease has taken
    /// from the channel, on the thread that did so. It must not block.
    #[must_use]
    pub fn when_taken(mut self, taken: impl Fn() + Send + Sync + 'static) -> Self {
        self.taken = Some(Box::new(taken));
        self
    }

    /// Where the output comes from. Say [`taken`](Process::taken) after each item.
    pub fn output(&self) -> &Receiver<Output> {
        &self.output
    }

    /// An item was taken from the channel. Does not block.
    pub fn taken(&self) {
        if let Some(taken) = &self.taken {
            taken();
        }
    }

    /// Kills the command and everything that it started. Does not wait; the end comes as [`Output::End`].
    pub fn interrupt(&self) {
        (self.interrupt)();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.interrupt();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}
