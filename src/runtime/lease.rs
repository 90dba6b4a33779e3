//! The right of one build to use one attached instance, as a value: dropping it gives the place back.

mod files;

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, never, select, select_biased};

use super::connection::Connection;
use super::fence::fenced;
use super::queue::BuildCell;
use super::shared::Agenda;
use crate::build::{Build, BuildId, Epoch};
use crate::command::{Agent, Command, CommandEnd, Output, Process};
use crate::error::{Attempt, CommandError, LeaseEnd};
use crate::event::BuildResult;
use crate::lifecycle::{Grant, Input, LeaseId};
use crate::printable::printable;

pub use files::LeaseFiles;

/// The right of one build to use one attached instance.
///
/// Do the work through [`run`](Lease::run), [`start`](Lease::start), [`files`](Lease::files) or the
/// [`agent`](Lease::agent) itself, then say how it went with [`finish`](Lease::finish). A lease that is dropped in any other way, a panic included, gives its
/// place back too; the build then ends as [dropped](BuildResult::Dropped).
///
/// A lease can end before that: its connection is lost, its build is cancelled, or its instance is stopped. Then
/// [`run`](Lease::run) and [`Running::recv`] kill their command and return [`CommandError::LeaseEnded`] at once, and
/// [`end`](Lease::end) tells why.
/// [`retry`](Lease::retry) puts the build back into the queue, and [`retire`](Lease::retire) does so because the
/// instance is bad.
///
/// No method but `wait_end` and those that run commands or move files blocks.
#[must_use = "the place is given back when this is dropped"]
pub struct Lease {
    connection: Arc<Connection>,
    id: LeaseId,
    holder: Holder,
    /// Of most leases there are none, which costs nothing.
    history: Box<[Attempt]>,
    /// Its build is not finished, but wants another lease.
    retried: bool,
    /// The place has been given back.
    released: bool,
}

/// The build that a lease is for.
pub(super) enum Holder {
    Direct(Build),
    Queued(Arc<BuildCell>),
}

impl Lease {
    /// `history`: the attempts of its build so far.
    pub(super) fn new((grant, connection): (Grant, Arc<Connection>), holder: Holder, history: Vec<Attempt>) -> Self {
        let id = grant.lease.expect("a lease was asked for");
        Self { connection, id, holder, history: history.into(), retried: false, released: false }
    }

    /// Its build, if that came through the queue.
    fn queued(&self) -> Option<&Arc<BuildCell>> {
        match &self.holder {
            Holder::Direct(_) => None,
            Holder::Queued(build) => Some(build),
        }
    }

    /// The build that it was given for.
    pub fn build(&self) -> &Build {
        match &self.holder {
            Holder::Direct(build) => build,
            Holder::Queued(build) => &build.build,
        }
    }

    /// The number of the build, if it came through the queue.
    pub fn build_id(&self) -> Option<BuildId> {
        self.queued().map(|build| build.id)
    }

    /// The name of the worker.
    pub fn worker(&self) -> &Arc<str> {
        &self.connection.worker.name
    }

    /// The attempt of the worker that brought this instance up.
    pub fn epoch(&self) -> Epoch {
        self.connection.epoch
    }

    /// The failed attempts at this build before this one: the first one and the latest ones, 32 at most.
    pub fn history(&self) -> &[Attempt] {
        &self.history
    }

    /// The agent itself, if it is of this type.
    pub fn agent<A: Agent>(&self) -> Option<&A> {
        let agent: &dyn Any = self.connection.agent();
        agent.downcast_ref()
    }

    /// Whether the lease has ended, and why.
    pub fn end(&self) -> Option<LeaseEnd> {
        let cancelled = self.queued().and_then(|build| build.cancel());
        cancelled.or_else(|| self.connection.end.get()).cloned()
    }

    /// Blocks until the lease has ended, at most for `timeout`.
    pub fn wait_end(&self, timeout: Duration) -> Option<LeaseEnd> {
        self.wait_end_unless(&never(), timeout)
    }

    /// As [`wait_end`](Lease::wait_end), for a thread that watches over the work of another one: it waits no longer when
    /// `over` is disconnected.
    pub fn wait_end_unless(&self, over: &Receiver<Infallible>, timeout: Duration) -> Option<LeaseEnd> {
        let never = never();
        let cancelled = self.queued().map_or(&never, |build| build.cancelled().closed());
        select! {
            recv(cancelled) -> _ => {}
            recv(self.connection.end.closed()) -> _ => {}
            recv(over) -> _ => {}
            default(timeout) => {}
        }
        self.end()
    }

    /// Starts a command; its output is streamed.
    ///
    /// # Errors
    /// When the lease has ended, when the agent runs no commands, and when the command cannot be started.
    pub fn start(&self, command: &Command) -> Result<Running<'_>, CommandError> {
        if let Some(end) = self.end() {
            return Err(end.into());
        }
        let started = fenced("Agent::start_command", || self.connection.agent().start_command(command));
        let process = started.unwrap_or_else(|panic| {
            Err(CommandError::Start { program: command.to_string(), source: std::io::Error::other(panic.to_string()) })
        })?;
        Ok(Running { lease: self, process: Some(process), ended: AtomicBool::new(false) })
    }

    /// Runs a command to its end and collects its output: of each stream the last
    /// [`keep_output`](Command::keep_output) bytes. Blocks until the command or the lease has ended.
    ///
    /// # Errors
    /// As [`start`](Lease::start), and when the lease ends while the command runs. An exit code other than 0 is not an
    /// error: see [`Finished::success`].
    pub fn run(&self, command: &Command) -> Result<Finished, CommandError> {
        self.start(command)?.collect(command.keep_output)
    }

    /// The files of the instance: to copy them in both directions, and to ask about them.
    #[doc(alias("upload", "download"))]
    pub fn files(&self) -> LeaseFiles<'_> {
        LeaseFiles::new(self)
    }

    /// Says how the build ended and gives the place back. Nothing is said again about a build that was cancelled
    /// meanwhile; one whose lease was ended by a fast stop may be finished as [`BuildResult::Cancelled`].
    pub fn finish(mut self, result: BuildResult) {
        let result = match result {
            BuildResult::Failed(reason) => BuildResult::Failed(printable(&reason).into()),
            result => result,
        };
        let mut agenda = Agenda::default();
        self.release(result, true, &mut agenda);
        self.connection.shared.perform(agenda);
    }

    /// Gives the place back, and puts the consequences on the agenda: nobody has taken this.
    pub(super) fn give_back(mut self, agenda: &mut Agenda) {
        self.release(BuildResult::Dropped, false, agenda);
    }

    /// Nobody will take this: gives the place back, and ends the build.
    pub(super) fn cancel_untaken(mut self) {
        let mut agenda = Agenda::default();
        self.release(BuildResult::Cancelled, false, &mut agenda);
        self.connection.shared.perform(agenda);
    }

    /// `finished`: the build has, which speaks for the worker.
    fn release(&mut self, result: BuildResult, finished: bool, agenda: &mut Agenda) {
        let Connection { shared, worker, epoch, .. } = &*self.connection;
        let input = Input::Release { lease: self.id, finished };
        if let Some(build) = self.queued().filter(|_| !self.retried) {
            shared.finish_build(build.id, result, (worker, *epoch, input), agenda);
        } else {
            worker.transition(shared, agenda, |turn| turn.apply(input));
        }
        self.released = true;
    }

    /// Gives the place back and puts the build back into the queue, with the priority and age that it had: the next answer
    /// comes to the same [`Ticket`](crate::Ticket) or [`Inbox`](crate::Inbox). When that was dropped, the build ends as
    /// cancelled.
    ///
    /// This counts as a failed attempt on this worker. The build [pauses](crate::PlacementConfig::with_retry_pause), avoids
    /// the worker from now on while another one fits it, and ends with
    /// [`BuildError::AttemptsExhausted`](crate::BuildError::AttemptsExhausted) when it has no attempt left.
    ///
    /// The lease of a worker that is used without the queue is only given back.
    pub fn retry(self, reason: &str) {
        self.put_back(&printable(reason));
    }

    /// Gives the lease back because its instance is bad: a full disk, a broken toolchain. The instance takes no new
    /// build and is stopped after those it has, with [`StopCause::Retired`](crate::StopCause::Retired); the status of
    /// the worker shows the reason as its last failure. The worker itself may start another instance.
    ///
    /// The build goes back into the queue as after [`retry`](Lease::retry): this counts as an attempt that has failed
    /// on this worker, which the build avoids from now on while another one fits it. The lease of a worker that is used
    /// without the queue is only given back. A lease that has [ended](Lease::end) cannot retire its instance any more.
    ///
    /// Does not block.
    pub fn retire(self, reason: &str) {
        let reason: Arc<str> = printable(reason).into();
        let Connection { shared, worker, .. } = &*self.connection;
        let input = Input::Retire { lease: self.id, reason: reason.clone() };
        worker.turn(shared, |turn| turn.apply(input));
        self.put_back(&reason);
    }

    fn put_back(mut self, reason: &str) {
        let (shared, build) = (self.connection.shared.clone(), self.build_id());
        self.retried = true;
        drop(self);
        if let Some(build) = build {
            shared.retry_build(build, reason);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.released {
            let mut agenda = Agenda::default();
            self.release(BuildResult::Dropped, !self.retried, &mut agenda);
            self.connection.shared.perform(agenda);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("worker", self.worker())
            .field("epoch", &self.epoch())
            .field("build", &self.build().name())
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

/// A command that runs on a leased instance. Dropping it before the end kills the command.
#[derive(Debug)]
pub struct Running<'a> {
    lease: &'a Lease,
    /// Present until it is dropped.
    process: Option<Process>,
    ended: AtomicBool,
}

/// Several threads may use it: one of them can interrupt what another one waits for.
impl Running<'_> {
    /// Blocks until there is output, the command has ended ([`Output::End`], the last item), or the lease has ended.
    ///
    /// # Errors
    /// When the lease has ended, and the command with it; when the agent went away without a word; and after the end.
    pub fn recv(&self) -> Result<Output, CommandError> {
        self.recv_output(None).map(|output| output.expect("without a limit there is no time-out"))
    }

    /// As [`recv`](Running::recv), but `None` after `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Output>, CommandError> {
        self.recv_output(Some(timeout))
    }

    fn recv_output(&self, timeout: Option<Duration>) -> Result<Option<Output>, CommandError> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(CommandError::NoEnd);
        }
        let (never_cancelled, no_output) = (never(), never());
        let cancelled = self.lease.queued().map_or(&never_cancelled, |build| build.cancelled().closed());
        let timed_out = match timeout.map(|timeout| Instant::now().checked_add(timeout)) {
            Some(Some(deadline)) => crossbeam_channel::at(deadline),
            _ => never(),
        };
        // The end of the lease first: a flood of output must not hide it.
        let output = select_biased! {
            recv(cancelled) -> _ => None,
            recv(self.lease.connection.end.closed()) -> _ => None,
            recv(self.process.as_ref().map_or(&no_output, Process::output)) -> output => Some(output),
            recv(timed_out) -> _ => return Ok(None),
        };
        if let (Some(Ok(_)), Some(process)) = (&output, &self.process) {
            self.fence("taking output", || process.taken());
        }
        match output {
            Some(Ok(Output::Failed(reason))) => {
                self.ended.store(true, Ordering::Relaxed);
                Err(CommandError::Failed(reason))
            }
            Some(Ok(output)) => {
                self.ended.store(matches!(output, Output::End(_)), Ordering::Relaxed);
                Ok(Some(output))
            }
            Some(Err(_)) => {
                self.ended.store(true, Ordering::Relaxed);
                Err(CommandError::NoEnd)
            }
            None => {
                self.ended.store(true, Ordering::Relaxed);
                self.interrupt();
                Err(self.lease.end().map_or(CommandError::NoEnd, CommandError::LeaseEnded))
            }
        }
    }

    /// Collects what is still to come until the command has ended: of each stream the last `keep` bytes. Blocks until the
    /// command or the lease has ended.
    ///
    /// # Errors
    /// As [`recv`](Running::recv).
    pub fn collect(&self, keep: usize) -> Result<Finished, CommandError> {
        let mut stdout = Tail::new(keep);
        let mut stderr = Tail::new(keep);
        loop {
            match self.recv()? {
                Output::Stdout(bytes) => stdout.push(&bytes),
                Output::Stderr(bytes) => stderr.push(&bytes),
                Output::End(end) => {
                    stdout.cut();
                    stderr.cut();
                    let dropped = stdout.dropped + stderr.dropped;
                    return Ok(Finished { end, stdout: stdout.bytes, stderr: stderr.bytes, dropped });
                }
                Output::Failed(reason) => return Err(CommandError::Failed(reason)),
            }
        }
    }

    /// Kills the command and everything that it started. Does not block; the end comes as [`Output::End`].
    pub fn interrupt(&self) {
        if let Some(process) = &self.process {
            self.fence("interrupting a command", || process.interrupt());
        }
    }

    fn fence(&self, what: &str, agent_code: impl FnOnce()) {
        if let Err(panic) = fenced(what, agent_code) {
            let Connection { shared, worker, .. } = &*self.lease.connection;
            shared.tell_panic(worker, panic);
        }
    }
}

/// Interrupts what has not ended: user code, and perhaps in the middle of a panic.
impl Drop for Running<'_> {
    fn drop(&mut self) {
        let process = self.process.take();
        self.fence("interrupting a command", || drop(process));
    }
}

/// A command that has ended, and its output.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Finished {
    /// How it ended.
    pub end: CommandEnd,
    /// The last bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The last bytes of its standard error.
    pub stderr: Vec<u8>,
    /// How many earlier bytes of both are not here.
    pub dropped: u64,
}

impl Finished {
    /// Whether it ended by itself with exit code 0.
    pub fn success(&self) -> bool {
        self.end.exit.success()
    }
}

/// The last bytes of a stream.
struct Tail {
    bytes: Vec<u8>,
    keep: usize,
    dropped: u64,
}

impl Tail {
    fn new(keep: usize) -> Self {
        Self { bytes: Vec::new(), keep, dropped: 0 }
    }

    /// Twice the limit is let grow before the front is cut off, so that every byte is moved once on average.
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > self.keep.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let excess = self.bytes.len().saturating_sub(self.keep);
        self.bytes.drain(..excess);
        self.dropped += excess as u64;
    }
}

/// Waits on a channel with an optional limit that may be too long for a clock.
pub(super) fn recv_within<T>(
    receiver: &crossbeam_channel::Receiver<T>,
    timeout: Duration,
) -> Result<T, RecvTimeoutError> {
    match Instant::now().checked_add(timeout) {
        Some(deadline) => receiver.recv_deadline(deadline),
        None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}
