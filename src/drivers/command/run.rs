//! Runs one program of the user to its end, as the leader of a process group: waits, ends it when it must not go on, and
//! tells how it ended and what it said.
//!
//! Two threads stand by: one reads the output (see `output`), the other blocks until the leader has ended. What the
//! program is told, and what its end means, is decided by the driver.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, bounded, never, select};

use super::environment::Environment;
use super::output::{Heard, Output, Source};
use crate::drivers::process_group::{Group, wait_for_end};

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

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it. An error means that it was not started.
    pub(super) fn spawn(&self, environment: &Environment, more: &[(&str, &OsStr)]) -> io::Result<Spawned> {
        if self.path.as_os_str().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program was given"));
        }
        let mut prepared = std::process::Command::new(&self.path);
        prepared.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        environment.apply(&mut prepared, more);
        Ok(Spawned { group: Group::spawn(&mut prepared)? })
    }
}

/// Its arguments may be nobody's business.
impl fmt::Debug for UserProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// What bounds the run of a program.
pub(super) struct Bounds<'a> {
    /// Disconnected when nobody wants it any more.
    pub(super) cancel: Option<&'a Receiver<Infallible>>,
    /// How long it may run.
    pub(super) limit: Option<Duration>,
    /// How long it has to end after it was asked to.
    pub(super) grace: Duration,
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

/// A program that has ended.
pub(super) struct Ran {
    pub(super) end: End,
    pub(super) heard: Heard,
    /// For as long as what it left running is to be read.
    pub(super) output: Output,
}

/// A program that was started. Killed when dropped.
pub(super) struct Spawned {
    group: Group,
}

impl Spawned {
    /// Waits for its end. Lines of progress are handed over on this thread.
    ///
    /// When it must not go on its group gets a SIGTERM. After the grace, or when the leader has ended and nobody can
    /// write to its output any more, whatever is left of the group gets a SIGKILL.
    pub(super) fn wait(mut self, source: Source, bounds: &Bounds<'_>, progress: &dyn Fn(&str)) -> io::Result<Ran> {
        let began = Instant::now();
        let output = Output::follow(self.group.take_output()?, source)?;
        let (waiter, mut leader_end) = self.watch_leader()?;

        let (mut lines, mut all_heard) = (output.progress.clone(), output.heard.clone());
        let mut cancel = bounds.cancel.cloned().unwrap_or_else(never);
        // A moment beyond the end of time never comes.
        let moment = |from: Instant, after: Duration| from.checked_add(after).map_or_else(never, at);
        let mut deadline = bounds.limit.map_or_else(never, |limit| moment(began, limit));
        let (mut asked_to_end, mut killed) = (None, false);
        let (mut ended, mut heard) = (None, None);
        while ended.is_none() || (asked_to_end.is_some() && heard.is_none() && !killed) {
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
                recv(deadline) -> _ => {
                    deadline = never();
                    if asked_to_end.is_some() {
                        killed = true;
                        // One that cannot be killed (it has changed its user) is waited for.
                        let _ = self.group.kill();
                    }
                    bounds.limit.map(End::LimitReached)
                }
            };
            if let (Some(why), None) = (ask, asked_to_end) {
                asked_to_end = Some(why);
                self.group.terminate();
                deadline = moment(Instant::now(), bounds.grace);
            }
        }

        let status = self.reap(ended, asked_to_end.is_some() || !bounds.may_leave_processes);
        // It ended when it told the end of the leader.
        let _ = waiter.join();
        let status = status?;
        let heard = heard.unwrap_or_else(|| output.heard_by_now());
        output.progress.try_iter().for_each(|line| progress(&line));
        let own = || match status.signal() {
            Some(signal) => End::Signal(signal),
            None => End::Code(status.code().unwrap_or_default()),
        };
        Ok(Ran { end: asked_to_end.unwrap_or_else(own), heard, output })
    }

    fn watch_leader(&self) -> io::Result<(JoinHandle<()>, Receiver<io::Result<()>>)> {
        let (told, leader_end) = bounded(1);
        let pid = self.group.pid();
        let tell = move || _ = told.send(wait_for_end(pid));
        Ok((Builder::new().name("command waiter".into()).spawn(tell)?, leader_end))
    }

    fn reap(&mut self, ended: Option<io::Result<()>>, kill_the_rest: bool) -> io::Result<ExitStatus> {
        if let Some(Err(error)) = ended {
            // Somebody else has reaped it, and its number may be a stranger's.
            self.group.lost();
            return Err(error);
        }
        if kill_the_rest {
            let _ = self.group.kill();
        }
        self.group.reap()
    }
}
