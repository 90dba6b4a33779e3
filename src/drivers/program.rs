//! Runs one program of the user, as the leader of a process group: waits for its end, ends it when it must not go on, and
//! tells how it ended and what it said.
//!
//! One thread reads the output (see `program_output`); while somebody waits, another one blocks until the leader has
//! ended. What the program is told, and what its end means, is decided by the driver.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, bounded, never, select};
use rustix::process::Pid;

use super::environment::Environment;
#[cfg(feature = "process")]
use super::process_group::end_by_now;
use super::process_group::{Group, KILL_PATIENCE, wait_for_end};
use super::program_output::{Heard, Output, Source};
use crate::StartError;

/// A program of the user, with its arguments.
#[derive(Clone)]
pub(super) struct UserProgram {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl UserProgram {
    /// The first word is the program. One with a slash counts from the directory that is current now, for that may
    /// change; others are looked for in `PATH`.
    pub(super) fn new<S: Into<OsString>>(words: impl IntoIterator<Item = S>) -> Self {
        let mut words = words.into_iter().map(Into::into);
        let path = PathBuf::from(words.next().unwrap_or_default());
        let is_name = !path.as_os_str().as_bytes().contains(&b'/');
        let path = if is_name { path } else { std::path::absolute(&path).unwrap_or(path) };
        Self { path, arguments: words.collect() }
    }

    /// The program and its arguments, as the system shows them.
    pub(super) fn words(&self) -> Vec<&OsStr> {
        let arguments = self.arguments.iter().map(OsString::as_os_str);
        [self.path.as_os_str()].into_iter().chain(arguments).collect()
    }

    /// Starts it. An error means that it was not started.
    ///
    /// A piped standard input stays open, with nothing written to it, until the program was reaped.
    pub(super) fn spawn(
        &self,
        stdin: Stdio,
        environment: &Environment,
        more: &[(&str, &OsStr)],
    ) -> io::Result<Spawned> {
        if self.path.as_os_str().is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "no program was given"));
        }
        let mut prepared = std::process::Command::new(&self.path);
        prepared.args(&self.arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        environment.apply(&mut prepared, more);
        Ok(Spawned { group: Group::spawn(&mut prepared)? })
    }

    /// Why it was not started for an instance.
    pub(super) fn not_started(&self, error: &io::Error) -> StartError {
        match error.kind() {
            // There is nothing else in it that could be so long.
            ErrorKind::ArgumentListTooLong => StartError::cannot(format!("the properties are too long: {error}")),
            _ => StartError::infrastructure(self.cannot_run(error)),
        }
    }

    pub(super) fn cannot_run(&self, error: &io::Error) -> String {
        format!("cannot run {self}: {error}")
    }

    pub(super) fn unknown_end(&self, error: &io::Error) -> String {
        format!("how {self} ended is unknown: {error}")
    }

    /// Its own words, which may be about something else, and its end.
    pub(super) fn last_words(&self, end: End, words: Option<String>) -> String {
        match words {
            Some(words) => format!("{words} ({end})"),
            None => format!("{self}: {end}, and it did not say why"),
        }
    }
}

/// Its arguments may be nobody's business.
impl fmt::Display for UserProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl fmt::Debug for UserProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// How much is left at most of a grace that a fast stop cuts short. A program may run others in groups of their own, which
/// only it can end.
pub(super) const FAST_GRACE: Duration = Duration::from_secs(1);

/// What bounds the run of a program.
pub(super) struct Bounds<'a> {
    /// Disconnected when nobody wants it any more.
    pub(super) cancel: Option<&'a Receiver<Infallible>>,
    /// How long it may run.
    pub(super) limit: Option<Duration>,
    /// How long it has to end after it was asked to.
    pub(super) grace: Duration,
    /// Disconnected when all grace is to be skipped; see [`FAST_GRACE`].
    pub(super) hurry: Option<&'a Receiver<Infallible>>,
    /// Whether what it leaves in its group when it ends by itself lives on.
    pub(super) may_leave_processes: bool,
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum End {
    Code(i32),
    /// A signal that was not ours.
    Signal(i32),
    /// It was ended because of its limit.
    LimitReached(Duration),
    Cancelled,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::LimitReached(limit) => write!(f, "ended by us because it ran longer than {limit:?}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match status.signal() {
            Some(signal) => Self::Signal(signal),
            None => Self::Code(status.code().unwrap_or_default()),
        }
    }
}

/// A program that has ended.
#[cfg_attr(not(feature = "command"), allow(dead_code, reason = "who ends an agent does not ask how that went"))]
pub(super) struct Ran {
    pub(super) end: End,
    pub(super) heard: Heard,
    /// For as long as what it left running is to be read.
    pub(super) output: Output,
    /// The processes that still run after they were killed.
    pub(super) survivors: Vec<Pid>,
}

/// A program that was started. Killed when dropped.
pub(super) struct Spawned {
    group: Group,
}

impl Spawned {
    /// Reads its output from now on.
    pub(super) fn follow(mut self, source: Source) -> io::Result<Running> {
        let output = Output::follow(self.group.take_output()?, source)?;
        Ok(Running { group: self.group, output })
    }
}

/// A program whose output is read. Killed when dropped.
pub(super) struct Running {
    group: Group,
    output: Output,
}

#[cfg(feature = "process")]
impl Running {
    pub(super) fn leader(&self) -> Pid {
        self.group.pid()
    }

    pub(super) fn pid(&self) -> u32 {
        self.leader().as_raw_nonzero().get().unsigned_abs()
    }

    /// How it has ended, if it has. An error means that somebody else has reaped it.
    pub(super) fn end_by_now(&self) -> io::Result<Option<End>> {
        let status = end_by_now(self.group.pid())?;
        Ok(status.map(|status| match status.terminating_signal() {
            Some(signal) => End::Signal(signal),
            None => End::Code(status.exit_status().unwrap_or_default()),
        }))
    }

    /// What it has said up to now; to be asked once.
    pub(super) fn heard_by_now(&self) -> Heard {
        self.output.heard.try_recv().unwrap_or_else(|_| self.output.heard_by_now())
    }

    /// Ends the program and the rest of its group. If the program has already ended, the rest of its group has no
    /// grace. `hurry` is disconnected when the grace is to be skipped. Returns the processes that still run after they
    /// were killed.
    pub(super) fn end(self, grace: Duration, hurry: &Receiver<Infallible>) -> io::Result<Vec<Pid>> {
        let has_ended = self.end_by_now().is_ok_and(|end| end.is_some());
        let grace = if has_ended { Duration::ZERO } else { grace };
        let (cancelled, cancel) = bounded(0);
        drop(cancelled);
        let hurry = Some(hurry);
        let bounds = Bounds { cancel: Some(&cancel), limit: None, grace, hurry, may_leave_processes: false };
        Ok(self.wait(&bounds, &|_| {})?.survivors)
    }
}

impl Running {
    /// Waits for its end. Lines of progress are handed over on this thread.
    ///
    /// When it must not go on its group gets a SIGTERM. After the grace, which a hurry cuts short, or when the leader has
    /// ended and nobody can write to its output any more, the rest of the group gets a SIGKILL. A leader that cannot be killed, or that does
    /// not end after that, is given up.
    pub(super) fn wait(self, bounds: &Bounds<'_>, progress: &dyn Fn(&str)) -> io::Result<Ran> {
        let began = Instant::now();
        let Self { mut group, output } = self;
        let (waiter, mut leader_end) = watch_leader(&group)?;

        let (mut lines, mut all_heard) = (output.progress.clone(), output.heard.clone());
        let mut cancel = bounds.cancel.cloned().unwrap_or_else(never);
        // A moment beyond the end of time never comes.
        let moment = |from: Instant, after: Duration| from.checked_add(after).map_or_else(never, at);
        let mut deadline = bounds.limit.map_or_else(never, |limit| moment(began, limit));
        // Waited for only as long as there is a grace.
        let (mut hurry, mut grace_began) = (never(), began);
        let (mut asked_to_end, mut killed) = (None, false);
        let (mut ended, mut heard, mut given_up) = (None, None, None);
        while given_up.is_none() && (ended.is_none() || (asked_to_end.is_some() && heard.is_none() && !killed)) {
            let ask = select! {
                recv(leader_end) -> end => {
                    leader_end = never();
                    ended = end.ok();
                    None
                }
                recv(all_heard) -> all => {
                    all_heard = never();
                    heard = Some(all.unwrap_or_default());
                    None
                }
                recv(lines) -> line => {
                    match line {
                        Ok(line) => progress(&line),
                        Err(_) => lines = never(),
                    }
                    None
                }
                recv(cancel) -> _ => {
                    cancel = never();
                    Some(End::Cancelled)
                }
                recv(hurry) -> _ => {
                    hurry = never();
                    let most = grace_began.elapsed().saturating_add(FAST_GRACE);
                    if !killed && most < bounds.grace {
                        deadline = moment(grace_began, most);
                    }
                    None
                }
                recv(deadline) -> _ => {
                    deadline = never();
                    if killed || (asked_to_end.is_some() && group.kill().is_err()) {
                        given_up = Some(group.give_up());
                    } else if asked_to_end.is_some() {
                        killed = true;
                        deadline = moment(Instant::now(), KILL_PATIENCE);
                    }
                    bounds.limit.map(End::LimitReached)
                }
            };
            if let (Some(why), None) = (ask, asked_to_end) {
                asked_to_end = Some(why);
                group.terminate();
                grace_began = Instant::now();
                deadline = moment(grace_began, bounds.grace);
                hurry = bounds.hurry.cloned().unwrap_or_else(never);
            }
        }

        let (end, survivors) = match given_up {
            // The thread that waits for it ends with it.
            Some(survivors) => (asked_to_end.unwrap_or(End::Cancelled), survivors),
            None => {
                let reaped = reap(&mut group, ended, asked_to_end.is_some() || !bounds.may_leave_processes);
                // It ended when it told the end of the leader.
                let _ = waiter.join();
                let (status, survivors) = reaped?;
                (asked_to_end.unwrap_or_else(|| status.into()), survivors)
            }
        };
        let heard = heard.unwrap_or_else(|| output.heard_by_now());
        output.progress.try_iter().for_each(|line| progress(&line));
        Ok(Ran { end, heard, output, survivors })
    }
}

fn watch_leader(group: &Group) -> io::Result<(JoinHandle<()>, Receiver<io::Result<()>>)> {
    let (told, leader_end) = bounded(1);
    let pid = group.pid();
    let tell = move || _ = told.send(wait_for_end(pid));
    Ok((Builder::new().name("program waiter".into()).spawn(tell)?, leader_end))
}

/// Reaps the leader. Returns the processes of its group that still run after they were killed.
fn reap(group: &mut Group, ended: Option<io::Result<()>>, kill_the_rest: bool) -> io::Result<(ExitStatus, Vec<Pid>)> {
    if let Some(Err(error)) = ended {
        // Somebody else has reaped it, and its number may be a stranger's.
        group.lost();
        return Err(error);
    }
    if kill_the_rest { group.end(KILL_PATIENCE) } else { Ok((group.reap()?, Vec::new())) }
}
