//! Leases: commands that run on the leased instance, files, and how the build ended.
//!
//! C may free things in any order and from any thread. So a lease goes when the last call that uses it has returned, and
//! takes its commands with it.

use std::convert::Infallible;
use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

use super::agent::CallbackAgent;
use super::argument::{
    Growing, bytes, choice, fill, items, milliseconds, optional_text, place, room, setting_ms, structure, text, texts,
};
use super::boundary::{Failure, Result, boundary};
use super::build::lw_property;
use super::code::lw_code::{
    self, LW_ERROR_ENDED, LW_ERROR_FILE, LW_ERROR_HANDLE, LW_ERROR_TIMEOUT, LW_ERROR_UNSUPPORTED,
};
use super::given::{View, give};
use super::handle::{self, Kind};
use crate::{BuildResult, Command, CommandEnd, CommandError, Exit, Lease, Output, Running};

/// The right of one build to use one attached instance.
pub struct lw_lease {
    _opaque: [u8; 0],
}

impl Kind for lw_lease {
    type Value = LeaseCell;
    const NAME: &'static str = "a lease";
}

/// A command that runs on a leased instance.
pub struct lw_running {
    _opaque: [u8; 0],
}

impl Kind for lw_running {
    type Value = RunningCell;
    const NAME: &'static str = "a running command";
}

/// How a build went, as the holder of its lease says.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum lw_result {
    /// The work succeeded.
    LW_RESULT_SUCCEEDED = 0,
    /// The work failed.
    LW_RESULT_FAILED = 1,
    /// The build was given up.
    LW_RESULT_CANCELLED = 2,
}

/// How a command ended.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum lw_exit {
    /// By itself; `code` is its exit code.
    LW_EXIT_CODE = 0,
    /// By a signal that was not ours; `code` is its number.
    LW_EXIT_SIGNAL = 1,
    /// It was killed because it ran longer than its time limit.
    LW_EXIT_TIME_LIMIT = 2,
    /// It was killed because it wrote nothing for longer than its limit.
    LW_EXIT_SILENCE_LIMIT = 3,
    /// It was killed because somebody asked for it.
    LW_EXIT_INTERRUPTED = 4,
}

impl lw_exit {
    pub(super) const ALL: [Self; 5] = [
        Self::LW_EXIT_CODE,
        Self::LW_EXIT_SIGNAL,
        Self::LW_EXIT_TIME_LIMIT,
        Self::LW_EXIT_SILENCE_LIMIT,
        Self::LW_EXIT_INTERRUPTED,
    ];
}

/// What comes from a running command.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum lw_stream {
    /// Bytes of its standard output.
    LW_STREAM_OUT = 1,
    /// Bytes of its standard error.
    LW_STREAM_ERR = 2,
    /// It has ended; nothing follows.
    LW_STREAM_END = 3,
}

/// A command to run on an instance. Set `size`, either `shell` or `arguments`, and leave zero what you do not need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_command {
    /// sizeof(lw_command).
    pub size: usize,
    /// A line for the instance's shell.
    pub shell: *const c_char,
    /// Or a program and its arguments, without a shell; the first item is the program.
    pub arguments: *const *const c_char,
    /// How many there are, the program included.
    pub argument_count: usize,
    /// Where to run it, relative to the instance's directory; that directory itself by default. It must exist.
    pub directory: *const c_char,
    /// Changes to the instance's environment; a value that is NULL removes the variable.
    pub environment: *const lw_property,
    /// How many there are.
    pub environment_count: usize,
    /// What the command reads from its standard input; it is at its end after that.
    pub input: *const u8,
    /// How many bytes that are.
    pub input_length: usize,
    /// The command is killed when it has run this long; 0: no limit.
    pub time_limit_ms: u64,
    /// The command is killed when it has written nothing for this long; 0: no limit.
    pub silence_limit_ms: u64,
    /// How many of the last bytes of each stream lw_lease_run keeps; 0: 1 MiB.
    pub keep_output: usize,
}

// SAFETY: integers and raw pointers, the size first.
unsafe impl Growing for lw_command {}

/// A command that has ended, and its output. Free it with lw_free.
#[repr(C)]
pub struct lw_finished {
    /// How much of this structure the library has filled in: look at no field beyond.
    pub size: usize,
    /// How it ended.
    pub exit: lw_exit,
    /// The exit code or the number of the signal, else -1.
    pub code: i32,
    /// After how long.
    pub elapsed_ms: u64,
    /// The last bytes of its standard output. No NUL follows them.
    pub out: *const u8,
    /// How many bytes that are.
    pub out_length: usize,
    /// The last bytes of its standard error. No NUL follows them.
    pub err: *const u8,
    /// How many bytes that are.
    pub err_length: usize,
    /// How many earlier bytes of both are not here.
    pub dropped: u64,
}

/// What lw_running_read has read. Set `size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_output {
    /// sizeof(lw_output).
    pub size: usize,
    /// What it is, an lw_stream.
    pub stream: i32,
    /// With LW_STREAM_END: how it ended, an lw_exit.
    pub exit: i32,
    /// With LW_STREAM_OUT and LW_STREAM_ERR: how many bytes are in the buffer.
    pub length: usize,
    /// With LW_STREAM_END: the exit code or the number of the signal, else -1.
    pub code: i32,
    /// Not used.
    pub reserved: i32,
    /// With LW_STREAM_END: after how long.
    pub elapsed_ms: u64,
}

// SAFETY: integers, the size first.
unsafe impl Growing for lw_output {}

/// Who a lease belongs to. Free it with lw_free.
#[repr(C)]
pub struct lw_lease_info {
    /// How much of this structure the library has filled in: look at no field beyond.
    pub size: usize,
    /// The number of the build.
    pub build: u64,
    /// The name of the build.
    pub build_name: *const c_char,
    /// The name of the worker.
    pub worker: *const c_char,
    /// The attempt of the worker that brought this instance up.
    pub epoch: u64,
}

/// A lease, what runs on it, and what is said about the build when it goes.
pub(super) struct LeaseCell {
    /// There until the drop.
    lease: ManuallyDrop<Lease>,
    state: Mutex<State>,
}

enum State {
    /// Nothing, until it is used.
    Held(Option<Box<Uses>>),
    /// Its own handle was taken back.
    Over(Ending),
}

#[derive(Default)]
struct Uses {
    /// The handles of the commands that run on it.
    commands: Vec<usize>,
    /// Disconnected when it is given back; made for the first who waits for that.
    given_back: Option<(Sender<Infallible>, Receiver<Infallible>)>,
}

enum Ending {
    Dropped,
    Finished(BuildResult),
    Retried(String),
    Retired(String),
}

pub(super) struct RunningCell {
    /// Dropped before the lease that it borrows from: fields are dropped in this order.
    running: Running<'static>,
    /// What was read and did not fit into the reader's buffer.
    rest: Mutex<Rest>,
    lease: Arc<LeaseCell>,
}

#[derive(Default)]
struct Rest {
    stream: i32,
    bytes: Vec<u8>,
    taken: usize,
}

pub(super) fn hand_out(lease: Lease) -> *mut lw_lease {
    handle::insert(LeaseCell { lease: ManuallyDrop::new(lease), state: Mutex::new(State::Held(None)) })
}

/// Takes the lease's handle back, kills what runs on it, and gives the place back as soon as no call uses it any more.
fn end(lease: *mut lw_lease, ending: Ending) -> Result<()> {
    let mut cell = handle::remove(lease)?;
    let before = match Arc::get_mut(&mut cell) {
        Some(cell) => std::mem::replace(cell.state.get_mut(), State::Over(ending)),
        // Other calls use it.
        None => std::mem::replace(&mut *cell.state.lock(), State::Over(ending)),
    };
    // Only who takes the handle back comes here.
    let State::Held(Some(uses)) = before else { return Ok(()) };
    for command in uses.commands {
        // One that was freed meanwhile is no loss.
        if let Ok(command) = handle::remove::<lw_running>(ptr::without_provenance_mut(command)) {
            // A reader on another thread hears of the end.
            command.running.interrupt();
        }
    }
    Ok(())
}

impl LeaseCell {
    /// Disconnected when the lease is given back.
    fn given_back(&self) -> Receiver<Infallible> {
        match &mut *self.state.lock() {
            State::Held(uses) => {
                let uses = uses.get_or_insert_default();
                uses.given_back.get_or_insert_with(|| bounded(0)).1.clone()
            }
            State::Over(_) => bounded(0).1,
        }
    }
}

impl Drop for LeaseCell {
    fn drop(&mut self) {
        // SAFETY: this is the drop, and nobody looks at the lease after it.
        let lease = unsafe { ManuallyDrop::take(&mut self.lease) };
        match std::mem::replace(self.state.get_mut(), State::Over(Ending::Dropped)) {
            State::Held(_) | State::Over(Ending::Dropped) => drop(lease),
            State::Over(Ending::Finished(result)) => lease.finish(result),
            State::Over(Ending::Retried(reason)) => lease.retry(&reason),
            State::Over(Ending::Retired(reason)) => lease.retire(&reason),
        }
    }
}

impl RunningCell {
    /// Starts a command that ends when the lease is given back.
    fn start(lease: &Arc<LeaseCell>, command: &Command) -> Result<(*mut lw_running, Arc<Self>)> {
        let running = lease.lease.start(command)?;
        // SAFETY: the lease stays where it is, behind an `Arc` that is kept beside what borrows from it and dropped
        // after it.
        let running = unsafe { std::mem::transmute::<Running<'_>, Running<'static>>(running) };
        let cell = Arc::new(RunningCell { running, rest: Mutex::default(), lease: lease.clone() });
        let mut state = lease.state.lock();
        let State::Held(uses) = &mut *state else {
            return Err(Failure::new(LW_ERROR_HANDLE, "the lease was given back meanwhile"));
        };
        let handle = handle::insert_shared::<lw_running>(cell.clone());
        uses.get_or_insert_default().commands.push(handle.addr());
        Ok((handle, cell))
    }

    /// Copies out what there is, or waits for more.
    fn read(&self, timeout: Duration, buffer: &mut [MaybeUninit<u8>]) -> Result<lw_output> {
        let late = || Failure::expected(LW_ERROR_TIMEOUT, c"no output came in time");
        let begun = Instant::now();
        let mut rest = self.rest.try_lock_for(timeout).ok_or_else(late)?;
        while rest.taken == rest.bytes.len() {
            let received = self.running.recv_timeout(timeout.saturating_sub(begun.elapsed()));
            let ended = |error| match error {
                CommandError::NoEnd => Failure::expected(LW_ERROR_ENDED, c"the command has ended"),
                error => error.into(),
            };
            let (stream, bytes) = match received.map_err(ended)?.ok_or_else(late)? {
                Output::Stdout(bytes) => (lw_stream::LW_STREAM_OUT, bytes),
                Output::Stderr(bytes) => (lw_stream::LW_STREAM_ERR, bytes),
                Output::End(end) => {
                    let (exit, code) = exit_of(&end);
                    return Ok(lw_output {
                        stream: lw_stream::LW_STREAM_END as i32,
                        exit: exit as i32,
                        code,
                        elapsed_ms: whole_ms(end.elapsed),
                        ..lw_output::EMPTY
                    });
                }
                Output::Failed(reason) => return Err(CommandError::Failed(reason).into()),
            };
            *rest = Rest { stream: stream as i32, bytes, taken: 0 };
        }
        let unread = &rest.bytes[rest.taken..];
        let length = unread.len().min(buffer.len());
        for (room, byte) in buffer.iter_mut().zip(&unread[..length]) {
            room.write(*byte);
        }
        rest.taken += length;
        Ok(lw_output { stream: rest.stream, length, ..lw_output::EMPTY })
    }
}

impl lw_output {
    const EMPTY: Self =
        Self { size: size_of::<Self>(), stream: 0, exit: 0, length: 0, code: -1, reserved: 0, elapsed_ms: 0 };
}

fn exit_of(end: &CommandEnd) -> (lw_exit, i32) {
    match end.exit {
        Exit::Code(code) => (lw_exit::LW_EXIT_CODE, code),
        Exit::Signal(signal) => (lw_exit::LW_EXIT_SIGNAL, signal),
        Exit::TimeLimit => (lw_exit::LW_EXIT_TIME_LIMIT, -1),
        Exit::SilenceLimit => (lw_exit::LW_EXIT_SILENCE_LIMIT, -1),
        Exit::Interrupted => (lw_exit::LW_EXIT_INTERRUPTED, -1),
    }
}

pub(super) fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn command_from(command: *const lw_command) -> Result<Command> {
    let given = structure("command", command)?;
    let arguments = texts("command.arguments", given.arguments, given.argument_count)?;
    let mut command = match optional_text("command.shell", given.shell)? {
        Some(line) if arguments.is_empty() => Command::shell(line),
        None if !arguments.is_empty() => Command::exec(arguments),
        _ => return Err(Failure::argument("either command.shell or command.arguments must be set, and not both")),
    };
    if let Some(directory) = optional_text("command.directory", given.directory)? {
        command = command.directory(directory);
    }
    for variable in items("command.environment", given.environment, given.environment_count)? {
        let name = text("the name of a variable in command.environment", variable.name)?;
        command = match optional_text("a value in command.environment", variable.value)? {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command = command.stdin(bytes("command.input", given.input, given.input_length)?);
    if let Some(limit) = setting_ms(given.time_limit_ms) {
        command = command.time_limit(limit);
    }
    if let Some(limit) = setting_ms(given.silence_limit_ms) {
        command = command.silence_limit(limit);
    }
    if given.keep_output != 0 {
        command = command.keep_output(given.keep_output);
    }
    Ok(command)
}

/// Says which build, worker and attempt the lease belongs to. Free info with lw_free.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_get_info(
    lease: *mut lw_lease,
    info: Option<&mut MaybeUninit<*const lw_lease_info>>,
) -> lw_code {
    boundary(|| {
        let info = place("info", info, ptr::null())?;
        let cell = handle::get(lease)?;
        let lease = &cell.lease;
        *info = give(View::new(|texts| lw_lease_info {
            size: size_of::<lw_lease_info>(),
            build: lease.build_id().map_or(0, |id| id.get()),
            build_name: texts.text(lease.build().name()),
            worker: texts.text(lease.worker()),
            epoch: lease.epoch().get(),
        }));
        Ok(())
    })
}

/// Blocks until the lease has ended before it was given back, at most for timeout_ms; 0 only looks.
///
/// LW_ERROR_TIMEOUT: it has not. LW_ERROR_LEASE_LOST, LW_ERROR_LEASE_STOPPED and LW_ERROR_CANCELLED say why it has. It
/// must be given back all the same. After LW_ERROR_CANCELLED a command that nobody reads from runs until it is freed or
/// the lease is given back. LW_ERROR_ENDED: another thread has given it back. Never LW_OK.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_wait_end(lease: *mut lw_lease, timeout_ms: u64) -> lw_code {
    boundary(|| {
        let cell = handle::get(lease)?;
        let given_back = (timeout_ms != 0).then(|| cell.given_back());
        let end = match &given_back {
            None => cell.lease.end(),
            Some(given_back) => cell.lease.wait_end_unless(given_back, milliseconds(timeout_ms)),
        };
        Err(match end {
            Some(end) => end.into(),
            None if given_back.is_some_and(|signal| signal.try_recv() == Err(TryRecvError::Disconnected)) => {
                Failure::expected(LW_ERROR_ENDED, c"the lease was given back")
            }
            None => Failure::expected(LW_ERROR_TIMEOUT, c"the lease has not ended"),
        })
    })
}

/// Runs a command to its end and collects its output. Blocks until the command or the lease has ended. Any exit code is
/// LW_OK: look at finished, and free it with lw_free. When the lease ends first the command is killed, and the code is
/// that of lw_lease_wait_end.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_run(
    lease: *mut lw_lease,
    command: *const lw_command,
    finished: Option<&mut MaybeUninit<*const lw_finished>>,
) -> lw_code {
    boundary(|| {
        let finished = place("finished", finished, ptr::null())?;
        let cell = handle::get(lease)?;
        let command = command_from(command)?;
        let (handle, running) = RunningCell::start(&cell, &command)?;
        let unnamed = Unnamed(handle);
        let run = running.running.collect(command.keep_output)?;
        drop((unnamed, running));
        let (exit, code) = exit_of(&run.end);
        *finished = give(View::new(|texts| lw_finished {
            size: size_of::<lw_finished>(),
            exit,
            code,
            elapsed_ms: whole_ms(run.end.elapsed),
            out_length: run.stdout.len(),
            out: texts.bytes(run.stdout),
            err_length: run.stderr.len(),
            err: texts.bytes(run.stderr),
            dropped: run.dropped,
        }));
        Ok(())
    })
}

/// Starts a command; its output is read with lw_running_read. Does not wait for the command.
///
/// Free it with lw_running_free, which kills it; giving the lease back frees it as well.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_start(
    lease: *mut lw_lease,
    command: *const lw_command,
    running: Option<&mut MaybeUninit<*mut lw_running>>,
) -> lw_code {
    boundary(|| {
        let running = place("running", running, ptr::null_mut())?;
        let cell = handle::get(lease)?;
        *running = RunningCell::start(&cell, &command_from(command)?)?.0;
        Ok(())
    })
}

/// Reads output into the buffer: blocks until there is some, the command has ended (LW_STREAM_END, the last thing to be
/// read), or the lease has ended, at most for timeout_ms; 0 only looks.
///
/// What does not fit into the buffer, which has at least one byte, is read by the next call. LW_ERROR_TIMEOUT: nothing
/// came. LW_ERROR_LEASE_LOST, LW_ERROR_LEASE_STOPPED and LW_ERROR_CANCELLED: the lease has ended, and the command with
/// it. LW_ERROR_COMMAND: it is not known how the command has ended. LW_ERROR_ENDED: the end, or why there is none, was
/// read already. One thread reads at a time; a second one waits for the first.
#[unsafe(no_mangle)]
pub extern "C" fn lw_running_read(
    running: *mut lw_running,
    timeout_ms: u64,
    buffer: *mut u8,
    buffer_length: usize,
    output: *mut lw_output,
) -> lw_code {
    boundary(|| {
        // First, so that nothing is read and then lost.
        fill("output", output, &lw_output::EMPTY)?;
        let buffer = room("buffer", buffer, buffer_length)?;
        let cell = handle::get(running)?;
        fill("output", output, &cell.read(milliseconds(timeout_ms), buffer)?)
    })
}

/// Kills the command and everything that it started. Does not block; the end is read with lw_running_read.
#[unsafe(no_mangle)]
pub extern "C" fn lw_running_interrupt(running: *mut lw_running) -> lw_code {
    boundary(|| {
        handle::get(running)?.running.interrupt();
        Ok(())
    })
}

/// Frees a command, and kills it if it has not ended. Does not block. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_running_free(running: *mut lw_running) -> lw_code {
    boundary(|| {
        if running.is_null() {
            return Ok(());
        }
        forget(running)?.running.interrupt();
        Ok(())
    })
}

/// A command that C does not know of.
struct Unnamed(*mut lw_running);

impl Drop for Unnamed {
    fn drop(&mut self) {
        // When the lease was given back it is gone already.
        let _ = forget(self.0);
    }
}

/// Takes the handle of a command back, of which its lease need not think any more.
fn forget(running: *mut lw_running) -> Result<Arc<RunningCell>> {
    let cell = handle::remove(running)?;
    if let State::Held(Some(uses)) = &mut *cell.lease.state.lock() {
        uses.commands.retain(|command| *command != running.addr());
    }
    Ok(cell)
}

/// Copies a file of this machine to the instance; a file that is there already is replaced. Blocks until it is done or
/// the lease has ended. A relative path counts from the instance's directory. mode: the permission bits of the file;
/// with 0 one that is replaced keeps its own, and a new one has the usual ones.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_write_file(
    lease: *mut lw_lease,
    local_path: *const c_char,
    path: *const c_char,
    mode: u32,
) -> lw_code {
    boundary(|| {
        let cell = handle::get(lease)?;
        let (local, path) = (text("local_path", local_path)?, text("path", path)?);
        let mut from = File::open(local).map_err(|error| of_file(local, error))?;
        match mode {
            0 => cell.lease.files().write(path, &mut from)?,
            mode => cell.lease.files().write_with_mode(path, &mut from, mode)?,
        };
        Ok(())
    })
}

/// Copies a file of the instance to this machine, where it replaces a file that is there already. Blocks until it is
/// done or the lease has ended. After an error the file here may be empty, or a part of the one there.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_read_file(lease: *mut lw_lease, path: *const c_char, local_path: *const c_char) -> lw_code {
    boundary(|| {
        let cell = handle::get(lease)?;
        let (local, path) = (text("local_path", local_path)?, text("path", path)?);
        let mut to = File::create(local).map_err(|error| of_file(local, error))?;
        cell.lease.files().read(path, &mut to)?;
        Ok(())
    })
}

fn of_file(path: &str, error: std::io::Error) -> Failure {
    Failure::new(LW_ERROR_FILE, format!("{path}: {error}"))
}

/// Says how the build ended and gives the place back. result: an lw_result. reason: for people, with LW_RESULT_FAILED
/// only; may be NULL. The lease is no handle afterwards, nor are commands that were started through it; what still runs
/// is killed.
///
/// Nothing is said again about a build that was cancelled meanwhile. The place is given back as soon as no call on
/// another thread uses the lease any more. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_finish(lease: *mut lw_lease, result: c_int, reason: *const c_char) -> lw_code {
    boundary(|| {
        let reason = optional_text("reason", reason)?.unwrap_or("no reason was given");
        let results = [lw_result::LW_RESULT_SUCCEEDED, lw_result::LW_RESULT_FAILED, lw_result::LW_RESULT_CANCELLED];
        let result = match choice("result", result, &results, |result| result as i32)? {
            lw_result::LW_RESULT_SUCCEEDED => BuildResult::Succeeded,
            lw_result::LW_RESULT_FAILED => BuildResult::Failed(reason.into()),
            lw_result::LW_RESULT_CANCELLED => BuildResult::Cancelled,
        };
        end(lease, Ending::Finished(result))
    })
}

/// Gives the place back and puts the build back into the queue, with the priority and age that it had: the next answer
/// comes to the same ticket or inbox. When that was freed the build is cancelled instead. This counts as a failed
/// attempt on this worker: the build pauses, and avoids the worker from now on while another one fits it. reason is for
/// people and may be NULL. The handle is invalid afterwards, as after lw_lease_finish. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_retry(lease: *mut lw_lease, reason: *const c_char) -> lw_code {
    boundary(|| {
        let reason = optional_text("reason", reason)?.unwrap_or("no reason was given");
        end(lease, Ending::Retried(reason.to_owned()))
    })
}

/// As lw_lease_retry, and says that the instance is bad: it takes no more builds, and is stopped when those that run on
/// it have ended.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_retire(lease: *mut lw_lease, reason: *const c_char) -> lw_code {
    boundary(|| {
        let reason = optional_text("reason", reason)?.unwrap_or("no reason was given");
        end(lease, Ending::Retired(reason.to_owned()))
    })
}

/// Gives the place back without a word: the build ends as dropped. The handle is invalid afterwards, as after
/// lw_lease_finish. Does not block. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_free(lease: *mut lw_lease) -> lw_code {
    boundary(|| if lease.is_null() { Ok(()) } else { end(lease, Ending::Dropped) })
}

/// The context of the agent, if it came through this ABI.
pub(super) fn agent_of(lease: *mut lw_lease) -> Result<*mut c_void> {
    let cell = handle::get(lease)?;
    let none = || Failure::new(LW_ERROR_UNSUPPORTED, "the agent of this lease is not an lw_agent");
    cell.lease.agent::<CallbackAgent>().map(CallbackAgent::context).ok_or_else(none)
}
