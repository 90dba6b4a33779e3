//! An agent for tests: the test decides how its commands run and when its close returns.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use super::PATIENCE;
use crate::{Agent, Command, CommandEnd, CommandError, Exit, Output, Process};

/// How many items of output a command holds until its output must be read.
const OUTPUT_ROOM: usize = 64;

/// An [`Agent`] in the test's process that does what its [`AgentScript`] says: it runs commands, hangs, refuses
/// commands, or delays its close.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::testing::{ScriptedAgent, Watch};
/// use latent_worker::{Build, Command, Exit, IdlePolicy, Master, WorkerConfig};
///
/// let master = Master::new();
/// let watch = Watch::new(&master);
/// let (_worker, script) = watch.add_scripted(WorkerConfig::new("w"));
/// let (agent, commands) = ScriptedAgent::new();
///
/// let ticket = master.submit(Build::new("tests"));
/// script.expect_start().succeed_attached_with(agent);
/// let lease = ticket.wait().unwrap();
/// let running = lease.start(&Command::shell("make")).unwrap();
/// let command = commands.expect_command();
/// assert_eq!(command.command().to_string(), "make");
/// command.stdout("done\n");
/// command.exit(2);
/// assert_eq!(running.collect(1 << 10).unwrap().end.exit, Exit::Code(2));
/// script.automate_all();
/// ```
pub struct ScriptedAgent {
    stage: Arc<Stage>,
}

/// Controls a [`ScriptedAgent`] from a test.
///
/// A command that [`expect_command`](AgentScript::expect_command) has returned runs until the test ends it or it is
/// interrupted. When the script is dropped, a delayed close returns.
pub struct AgentScript {
    stage: Arc<Stage>,
}

#[derive(Default)]
struct Stage {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    commands: VecDeque<CommandCall>,
    /// The reason for refusing commands, if they are refused.
    refused: Option<String>,
    /// `start_command` does not return.
    starts_held: bool,
    close_held: bool,
    closes: usize,
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Blocks for as long as `holds`.
    fn wait_while(&self, mut holds: impl FnMut(&Inner) -> bool) -> MutexGuard<'_, Inner> {
        let waited = self.changed.wait_while(self.lock(), |inner| holds(inner));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until `take` has something.
    fn expect<T>(&self, what: &str, mut take: impl FnMut(&mut Inner) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut inner = self.lock();
        loop {
            if let Some(taken) = take(&mut inner) {
                return taken;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(inner);
                panic!("{what} within {PATIENCE:?}");
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl ScriptedAgent {
    /// An agent that starts every command and lets it run until the script ends it.
    #[allow(clippy::new_ret_no_self, reason = "the agent is of no use without its script")]
    pub fn new() -> (Self, AgentScript) {
        let stage = Arc::new(Stage::default());
        (Self { stage: stage.clone() }, AgentScript { stage })
    }
}

impl Agent for ScriptedAgent {
    fn start_command(&self, command: &Command) -> Result<Process, CommandError> {
        let mut inner = self.stage.wait_while(|inner| inner.starts_held);
        if let Some(reason) = &inner.refused {
            return Err(CommandError::Failed(reason.clone()));
        }
        let (output, read) = bounded(OUTPUT_ROOM);
        let (interrupt, interrupted) = bounded(1);
        inner.commands.push_back(CommandCall { command: command.clone(), output, interrupted, begun: Instant::now() });
        self.stage.changed.notify_all();
        Ok(Process::new(read, move || {
            // A full channel means that the command was interrupted before.
            let _ = interrupt.try_send(());
        }))
    }

    fn close(&self) {
        self.stage.change(|inner| inner.closes += 1);
        drop(self.stage.wait_while(|inner| inner.close_held));
    }
}

impl AgentScript {
    /// Blocks until a command is started, and returns it.
    ///
    /// # Panics
    /// Panics if no command is started within [`PATIENCE`].
    pub fn expect_command(&self) -> CommandCall {
        self.stage.expect("no command was started", |inner| inner.commands.pop_front())
    }

    /// Refuses every command from now on, with this reason: the start fails with [`CommandError::Failed`].
    pub fn refuse_commands(&self, reason: &str) {
        self.stage.change(|inner| inner.refused = Some(reason.to_owned()));
    }

    /// Accepts commands again.
    pub fn accept_commands(&self) {
        self.stage.change(|inner| inner.refused = None);
    }

    /// Makes the start of every command hang from now on, until [`release`](AgentScript::release).
    pub fn hold_commands(&self) {
        self.stage.change(|inner| inner.starts_held = true);
    }

    /// Makes [`Agent::close`] hang from now on, until [`release`](AgentScript::release). The stop of the instance waits
    /// for it, and the master is not [quiet](super::Watch::wait_quiet) until then.
    pub fn hold_close(&self) {
        self.stage.change(|inner| inner.close_held = true);
    }

    /// Lets all hanging calls return, and makes no further calls hang.
    pub fn release(&self) {
        self.stage.change(|inner| {
            inner.starts_held = false;
            inner.close_held = false;
        });
    }

    /// Blocks until the agent's close is called. The close may still hang then.
    ///
    /// # Panics
    /// Panics if it is not called within [`PATIENCE`].
    pub fn expect_close(&self) {
        self.stage.expect("the agent was not closed", |inner| (inner.closes > 0).then_some(()));
    }

    /// Returns how many times the agent's close was called.
    pub fn closes(&self) -> usize {
        self.stage.lock().closes
    }
}

impl Drop for AgentScript {
    fn drop(&mut self) {
        self.release();
        // Their output stops without an end, which is reported as an error.
        let commands = std::mem::take(&mut self.stage.lock().commands);
        drop(commands);
    }
}

/// A command that runs until the test ends it.
#[must_use = "dropped without an end, the command fails"]
pub struct CommandCall {
    command: Command,
    output: Sender<Output>,
    interrupted: Receiver<()>,
    begun: Instant,
}

impl CommandCall {
    /// Returns the command.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Writes to the standard output of the command.
    ///
    /// # Panics
    /// Panics if 64 items of output have not been read.
    pub fn stdout(&self, bytes: impl Into<Vec<u8>>) {
        self.send(Output::Stdout(bytes.into()));
    }

    /// Writes to the standard error of the command.
    ///
    /// # Panics
    /// As [`stdout`](CommandCall::stdout).
    pub fn stderr(&self, bytes: impl Into<Vec<u8>>) {
        self.send(Output::Stderr(bytes.into()));
    }

    /// Ends the command with this exit code.
    ///
    /// # Panics
    /// As [`stdout`](CommandCall::stdout).
    pub fn exit(self, code: i32) {
        self.end(Exit::Code(code));
    }

    /// Ends the command in this way.
    ///
    /// # Panics
    /// As [`stdout`](CommandCall::stdout).
    pub fn end(self, exit: Exit) {
        self.send(Output::End(CommandEnd { exit, elapsed: self.begun.elapsed() }));
    }

    /// Ends the command with an error of the agent, [`CommandError::Failed`].
    ///
    /// # Panics
    /// As [`stdout`](CommandCall::stdout).
    pub fn fail(self, reason: &str) {
        self.send(Output::Failed(reason.to_owned()));
    }

    /// Returns whether the command was interrupted. Does not block.
    pub fn interrupted(&self) -> bool {
        !self.interrupted.is_empty() || self.interrupted.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Blocks until the command is interrupted. The command keeps running, because a real command may end later or
    /// never.
    ///
    /// # Panics
    /// Panics if the command is not interrupted within [`PATIENCE`].
    pub fn wait_interrupted(&self) {
        // The interrupt stays in the channel, so that `interrupted` stays true.
        let mut select = crossbeam_channel::Select::new();
        select.recv(&self.interrupted);
        if select.ready_timeout(PATIENCE).is_err() {
            panic!("the command {:?} was not interrupted within {PATIENCE:?}", self.command.program_name());
        }
    }

    fn send(&self, output: Output) {
        // The reader may have been dropped.
        if let Err(TrySendError::Full(_)) = self.output.try_send(output) {
            panic!("nobody reads the output of the command {:?}", self.command.program_name());
        }
    }
}

impl fmt::Debug for ScriptedAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedAgent").finish_non_exhaustive()
    }
}

impl fmt::Debug for AgentScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentScript").field("closes", &self.closes()).finish_non_exhaustive()
    }
}

impl fmt::Debug for CommandCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandCall").field("command", &self.command).finish_non_exhaustive()
    }
}
