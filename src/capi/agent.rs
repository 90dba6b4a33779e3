//! Agents in the host language, attached by drivers in the host language.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select_biased, unbounded};
use parking_lot::Mutex;

use super::argument::{Growing, bytes, choice, optional_text, place, structure};
use super::boundary::{Failure, Result, boundary};
use super::build::lw_property;
use super::callback::call_out;
use super::code::lw_code::{self, LW_ERROR_CANCELLED, LW_ERROR_ENDED, LW_ERROR_UNSUPPORTED};
use super::context::Context;
use super::driver::{call_back, lw_answer};
use super::given::{Texts, View};
use super::handle::{self, Kind};
use super::lease::{self, lw_command, lw_exit, lw_lease, lw_stream, whole_ms};
use crate::{Agent, Attacher, Attachment, Command, CommandEnd, CommandError, Exit, Output, Process, Program};

/// An agent in the language of the host: what makes an instance do something. Set `size`; what else is NULL has a
/// default. Callbacks may run on several threads at once.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_agent {
    /// sizeof(lw_agent).
    pub size: usize,
    /// Passed to every callback, and reached through a lease with lw_lease_agent.
    pub context: *mut c_void,
    /// Called once when neither the library nor a lease uses the agent any more, on any thread. May be NULL.
    pub release: Option<unsafe extern "C" fn(context: *mut c_void)>,
    /// The instance is about to be stopped: end what runs. Called at most once, before stop. May be NULL.
    pub close: Option<unsafe extern "C" fn(context: *mut c_void)>,
    /// Starts a command and returns an lw_answer without waiting for its end. Called by who starts the command, within
    /// lw_lease_run or lw_lease_start. The command lives until this returns; keep to its limits. What it writes goes to
    /// lw_process_write; after LW_ANSWER_OK its end must be told, once, with lw_process_end or lw_process_fail, which may
    /// be before this returns. NULL: LW_ANSWER_UNSUPPORTED.
    pub start_command:
        Option<unsafe extern "C" fn(context: *mut c_void, command: *const lw_command, process: *mut lw_process) -> i32>,
    /// Kills a command without waiting for its end, which must be told all the same. On any thread, perhaps more than
    /// once, and perhaps just when the command has ended. May be NULL.
    pub interrupt: Option<unsafe extern "C" fn(context: *mut c_void, process: *mut lw_process)>,
}

// SAFETY: an integer, raw pointers and optional function pointers, the size first.
unsafe impl Growing for lw_agent {}

/// An agent's side of being attached.
pub struct lw_attachment {
    _opaque: [u8; 0],
}

impl Kind for lw_attachment {
    type Value = Mutex<Option<Attachment>>;
    const NAME: &'static str = "an attachment";
}

/// A command that an agent in the host language runs.
pub struct lw_process {
    _opaque: [u8; 0],
}

impl Kind for lw_process {
    type Value = ProcessCell;
    const NAME: &'static str = "a process that has not ended";
}

/// Where the output of a command goes. Its queue has room for [`PIECES`] pieces and for the end.
pub(super) struct ProcessCell {
    output: Sender<Output>,
    /// As many items as there are pieces in the queue, but for those that were written while the command was started.
    taken_room: Sender<()>,
    /// How many pieces, and bytes, were written within `start_command`: nobody reads there yet, so none waits for room.
    early: Mutex<Early>,
    /// Disconnected when the command was interrupted: nobody waits for room then.
    interrupted: Receiver<Infallible>,
    started: Instant,
}

#[derive(Default)]
struct Early {
    pieces: usize,
    bytes: usize,
}

thread_local! {
    /// The process whose `start_command` this thread is in.
    static STARTING: Cell<Option<usize>> = const { Cell::new(None) };
}

/// How much output waits for its reader before who writes it waits: 16 pieces of 64 KiB at most.
const PIECES: usize = 16;
const LONGEST_PIECE: usize = 64 << 10;
/// What may be written within `start_command`.
const MOST_EARLY: usize = PIECES * LONGEST_PIECE;

/// The callbacks, as an agent.
#[derive(Clone)]
pub(super) struct CallbackAgent {
    table: lw_agent,
    context: Context,
}

// SAFETY: the pointers in the table are functions that may be called on any thread, as the header says; the context is
// only passed on.
unsafe impl Send for CallbackAgent {}
// SAFETY: as above.
unsafe impl Sync for CallbackAgent {}

impl Agent for CallbackAgent {
    fn start_command(&self, command: &Command) -> std::result::Result<Process, CommandError> {
        let callback = self.table.start_command.ok_or(CommandError::Unsupported)?;
        let (output, receiver) = unbounded();
        let (taken_room, room) = bounded(PIECES);
        let (interrupt, interrupted) = bounded::<Infallible>(0);
        let early = Mutex::default();
        let cell = Arc::new(ProcessCell { output, taken_room, early, interrupted, started: Instant::now() });
        let handle = handle::insert_shared::<lw_process>(cell.clone());
        let mut lists = (Vec::new(), Vec::new());
        let view = View::new(|texts| command_view(command, texts, &mut lists));
        let before = STARTING.replace(Some(handle.addr()));
        let (answer, reason) = call_back(|| {
            // SAFETY: a callback of the table with its context, as the header says; all pointers outlive the call.
            unsafe { callback(self.context.pointer(), view.as_ptr(), handle) }
        });
        STARTING.set(before);
        if answer != lw_answer::LW_ANSWER_OK {
            let _ = handle::remove(handle);
            return Err(match answer {
                lw_answer::LW_ANSWER_UNSUPPORTED => CommandError::Unsupported,
                _ => CommandError::Start {
                    program: command.program_name().to_owned(),
                    source: std::io::Error::other(reason),
                },
            });
        }
        let (interrupt, agent, number) = (Mutex::new(Some(interrupt)), self.clone(), handle.addr());
        let process = Process::new(receiver, move || {
            drop(interrupt.lock().take());
            let process = ptr::without_provenance_mut(number);
            if let (Some(callback), Ok(_)) = (agent.table.interrupt, handle::get::<lw_process>(process)) {
                // SAFETY: as above.
                call_out(|| unsafe { callback(agent.context.pointer(), process) });
            }
        });
        Ok(process.when_taken(move || {
            let mut early = cell.early.lock();
            match early.pieces {
                0 => _ = room.try_recv(),
                _ => early.pieces -= 1,
            }
        }))
    }

    fn close(&self) {
        if let Some(close) = self.table.close {
            // SAFETY: a callback of the table with its context, as the header says.
            call_out(|| unsafe { close(self.context.pointer()) });
        }
    }
}

/// The command as C has it. What the structure points to is kept by `texts` and `lists`.
fn command_view(
    command: &Command,
    texts: &mut Texts,
    lists: &mut (Vec<*const c_char>, Vec<lw_property>),
) -> lw_command {
    let shell = match &command.program {
        Program::Shell(line) => texts.text(line),
        Program::Exec(arguments) => {
            lists.0 = arguments.iter().map(|argument| texts.text(argument)).collect();
            ptr::null()
        }
    };
    let variables = command.environment.iter();
    let variable = |(name, value): (&String, &Option<String>)| lw_property {
        name: texts.text(name),
        value: texts.optional(value.as_deref()),
    };
    lists.1 = variables.map(variable).collect();
    let limit_ms = |limit: Option<Duration>| limit.map_or(0, |limit| whole_ms(limit).max(1));
    lw_command {
        size: size_of::<lw_command>(),
        shell,
        arguments: if lists.0.is_empty() { ptr::null() } else { lists.0.as_ptr() },
        argument_count: lists.0.len(),
        directory: command.directory.as_ref().map_or(ptr::null(), |path| texts.text(&path.to_string_lossy())),
        environment: lists.1.as_ptr(),
        environment_count: lists.1.len(),
        input_length: command.stdin.len(),
        input: texts.bytes(command.stdin.clone()),
        time_limit_ms: limit_ms(command.time_limit),
        silence_limit_ms: limit_ms(command.silence_limit),
        keep_output: command.keep_output,
    }
}

impl ProcessCell {
    /// Puts output into the queue, piece by piece, as there is room; `early` ones without waiting.
    fn write(&self, stream: lw_stream, bytes: &[u8], early: bool) -> Result<()> {
        if early {
            let mut early = self.early.lock();
            if early.bytes + bytes.len() > MOST_EARLY {
                return Err(Failure::new(
                    LW_ERROR_UNSUPPORTED,
                    format!(
                        "start_command writes more than {MOST_EARLY} bytes: let it return, and write the rest then"
                    ),
                ));
            }
            early.bytes += bytes.len();
            early.pieces += bytes.chunks(LONGEST_PIECE).len();
        }
        for piece in bytes.chunks(LONGEST_PIECE) {
            if !early {
                select_biased! {
                    recv(self.interrupted) -> _ => {
                        return Err(Failure::expected(LW_ERROR_CANCELLED, c"the command was interrupted"));
                    }
                    send(self.taken_room, ()) -> sent => sent.map_err(|_| unread())?,
                }
            }
            let output = match stream {
                lw_stream::LW_STREAM_ERR => Output::Stderr(piece.to_vec()),
                _ => Output::Stdout(piece.to_vec()),
            };
            self.output.send(output).map_err(|_| unread())?;
        }
        Ok(())
    }
}

fn unread() -> Failure {
    Failure::expected(LW_ERROR_ENDED, c"nobody reads the output any more")
}

pub(super) fn attach(attacher: &Attacher, agent: *const lw_agent) -> Result<Attachment> {
    if agent.is_null() {
        return Ok(attacher.attach(())?);
    }
    let table = structure("agent", agent)?;
    let context = Context::new(table.context, table.release);
    let kept = context.clone();
    attacher.attach(CallbackAgent { table, context }).map_err(|error| {
        kept.keep();
        error.into()
    })
}

pub(super) fn hand_out(attachment: Attachment) -> *mut lw_attachment {
    handle::insert(Mutex::new(Some(attachment)))
}

/// The context of the leased instance's agent, if a driver has attached it with lw_start_attach and an lw_agent; else
/// LW_ERROR_UNSUPPORTED. It lives at least as long as the lease.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_agent(lease: *mut lw_lease, context: Option<&mut MaybeUninit<*mut c_void>>) -> lw_code {
    boundary(|| {
        let context = place("context", context, ptr::null_mut())?;
        *context = lease::agent_of(lease)?;
        Ok(())
    })
}

/// Says that the agent is gone, with a reason for people (or NULL): the leases that use it end as lost, and the
/// instance is stopped. With LW_IDLE_NEVER and without a lease the instance is stopped only if no agent attaches again
/// within missing_timeout_ms. The handle is invalid afterwards. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_attachment_lost(attachment: *mut lw_attachment, reason: *const c_char) -> lw_code {
    boundary(|| {
        let reason = optional_text("reason", reason)?.unwrap_or("the agent is gone");
        let attachment = handle::remove(attachment)?.lock().take();
        if let Some(attachment) = attachment {
            attachment.lost(reason);
        }
        Ok(())
    })
}

/// Frees an attachment: says that the agent is gone, as lw_attachment_lost does. Does not block. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_attachment_free(attachment: *mut lw_attachment) -> lw_code {
    boundary(|| handle::free(attachment))
}

/// Hands output of a command to who has started it. stream: LW_STREAM_OUT or LW_STREAM_ERR. Blocks while a lot of output
/// waits to be read; within start_command, where nobody reads yet, it takes 1 MiB in all, and answers
/// LW_ERROR_UNSUPPORTED for more. LW_ERROR_CANCELLED: the command was interrupted. LW_ERROR_ENDED: nobody reads any more. In both cases
/// end it, and tell so.
#[unsafe(no_mangle)]
pub extern "C" fn lw_process_write(process: *mut lw_process, stream: c_int, data: *const u8, length: usize) -> lw_code {
    boundary(|| {
        let streams = [lw_stream::LW_STREAM_OUT, lw_stream::LW_STREAM_ERR];
        let stream = choice("stream", stream, &streams, |stream| stream as i32)?;
        let data = bytes("data", data, length)?;
        handle::get(process)?.write(stream, data, STARTING.get() == Some(process.addr()))
    })
}

/// Tells how a command has ended: exit is an lw_exit, code its exit code or the number of the signal. The handle is none
/// afterwards. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_process_end(process: *mut lw_process, exit: c_int, code: i32) -> lw_code {
    boundary(|| {
        let exit = match choice("exit", exit, &lw_exit::ALL, |exit| exit as i32)? {
            lw_exit::LW_EXIT_CODE => Exit::Code(code),
            lw_exit::LW_EXIT_SIGNAL => Exit::Signal(code),
            lw_exit::LW_EXIT_TIME_LIMIT => Exit::TimeLimit,
            lw_exit::LW_EXIT_SILENCE_LIMIT => Exit::SilenceLimit,
            lw_exit::LW_EXIT_INTERRUPTED => Exit::Interrupted,
        };
        let cell = handle::remove(process)?;
        // When nobody is there to hear it, that is fine.
        let _ = cell.output.send(Output::End(CommandEnd { exit, elapsed: cell.started.elapsed() }));
        Ok(())
    })
}

/// Tells that a command could not be run, or that it is not known how it has ended; reason is for people and may be NULL.
/// The handle is invalid afterwards. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_process_fail(process: *mut lw_process, reason: *const c_char) -> lw_code {
    boundary(|| {
        let reason = optional_text("reason", reason)?.unwrap_or("no reason was given").to_owned();
        let _ = handle::remove(process)?.output.send(Output::Failed(reason));
        Ok(())
    })
}

impl CallbackAgent {
    pub(super) fn context(&self) -> *mut c_void {
        self.context.pointer()
    }
}
