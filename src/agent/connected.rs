//! An agent that is connected over a network, as leases see it: commands and files through a [`Link`].

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::select_biased;

use super::codec::{BLOCK, FileCommand, WorkerInfo};
use super::errno::kind_of;
use super::link::{FileCall, FileEvent, FilesRefused, Link};
use super::session::{Ending, FileFailure, Findings};
use crate::error::{CommandError, FileError};
use crate::{Agent, Command, FileStatus, Files, Interrupt, Process};

/// An agent on another machine or in another process: a `buildbot-worker` that is connected to an
/// [`AgentListener`](crate::AgentListener).
///
/// Commands go through the lease. What only such an agent has is reached through [`Lease::agent`](crate::Lease::agent).
pub struct ConnectedAgent {
    link: Arc<Link>,
    peer: SocketAddr,
    basedir: String,
    system: String,
    version: String,
    /// Whether it is one of ours.
    ours: bool,
}

impl ConnectedAgent {
    /// For a link whose greeting is over.
    pub(super) fn new(link: Arc<Link>, peer: SocketAddr) -> Self {
        let WorkerInfo { basedir, system, version, raw_output: ours } = link.info().unwrap_or_default();
        Self { link, peer, basedir, system, version, ours }
    }

    /// Where it connects from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The directory on its machine in which commands run when they name no other, an absolute path in its own flavour.
    pub fn basedir(&self) -> &str {
        &self.basedir
    }

    /// What it says its system is: `posix` or `nt`.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// What it says its version is.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn is_name(&self, name: &str) -> bool {
        let separator = |c: char| matches!(c, '/' | '\0') || (c == '\\' && self.system == "nt");
        !matches!(name, "" | "." | "..") && !name.contains(separator)
    }

    fn call(&self, what: FileCommand, path: &Path) -> Result<FileCall, FileError> {
        let bad_path = |reason: &str| FileError::BadPath { path: path.to_owned(), reason: reason.to_owned() };
        let text = path.to_str().ok_or_else(|| bad_path("it is not Unicode"))?;
        self.link.start_files(what, text).map_err(|refused| match refused {
            FilesRefused::Ended(end) => end.into(),
            FilesRefused::BadPath(reason) => bad_path(&reason),
            FilesRefused::Busy(reason) => FileError::Failed(reason),
        })
    }

    /// Waits for the answer to what is no transfer.
    fn ask(&self, what: FileCommand, path: &Path, interrupt: &Interrupt) -> Result<Findings, FileError> {
        let call = self.call(what, path)?;
        loop {
            match next(&call, interrupt)? {
                FileEvent::Ended(ending) => return outcome(path, ending),
                FileEvent::Take(number, _) | FileEvent::Give(number, _) => call.refuse(number),
            }
        }
    }

    /// The stock worker would wait for ever in a file that is none (a pipe), and everything else with it.
    fn expect_file(&self, path: &Path, interrupt: &Interrupt) -> Result<FileStatus, FileError> {
        let kind = match self.status(path, interrupt)? {
            status if status.is_file() => return Ok(status),
            status if status.is_directory() => ErrorKind::IsADirectory,
            _ => ErrorKind::InvalidInput,
        };
        Err(FileError::Instance { path: path.to_owned(), source: io::Error::new(kind, "it is no regular file") })
    }

    fn copy_to_agent(
        &self,
        path: &Path,
        from: &mut dyn Read,
        mode: Option<u32>,
        interrupt: &Interrupt,
    ) -> Result<u64, FileError> {
        let call = self.call(FileCommand::Write { mode }, path)?;
        let mut block = Vec::new();
        let (mut total, mut whole) = (0, false);
        loop {
            match next(&call, interrupt)? {
                FileEvent::Give(number, length) => {
                    block.clear();
                    let most = length.min(BLOCK as u64);
                    // The end of the file is final, even if the reader could supply more later.
                    if !whole && let Err(error) = { &mut *from }.take(most).read_to_end(&mut block) {
                        call.refuse(number);
                        return Err(FileError::Caller(error));
                    }
                    // What was read then may be no more than the end of the lease.
                    if interrupt.is_set() {
                        call.refuse(number);
                        return Err(FileError::Interrupted);
                    }
                    total += block.len() as u64;
                    whole = block.is_empty();
                    call.give(number, &block);
                }
                FileEvent::Take(number, _) => call.refuse(number),
                FileEvent::Ended(ending) => {
                    outcome(path, ending)?;
                    let early = || FileError::Failed("it did not take the whole file".to_owned());
                    return whole.then_some(total).ok_or_else(early);
                }
            }
        }
    }
}

impl Agent for ConnectedAgent {
    /// Starts the command on the worker's machine. What the stock `buildbot-worker` does differently from a local
    /// instance:
    ///
    /// - Output is text to it: what is not in its encoding is replaced, and a last line without a line feed gets one.
    ///   A line arrives whole, so that one longer than
    ///   [`max_message_size`](crate::AgentListenerBuilder::max_message_size) costs the connection.
    /// - A directory that does not exist is made.
    /// - `${NAME}` in the value of a variable is replaced by the value of the worker's own variable.
    /// - A program that does not exist is [`CommandError::Failed`] while the command runs.
    /// - It may fail to kill what the command itself has started.
    ///
    /// Output that is not read slows the command, and with a stock worker, when 64 pieces (of 64 KiB at most) wait, all
    /// other commands of that worker too. After an interrupt only the last 64 pieces are kept.
    ///
    /// Blocks only while the worker does not read, 10 s at most.
    ///
    /// # Errors
    ///
    /// [`CommandError::LeaseEnded`] when the connection has ended; [`CommandError::Start`] when the command and its
    /// standard input are longer than 1 GiB, 256 commands of this worker have not ended, or the worker has not read
    /// earlier messages within 10 s. A command that the worker itself cannot run fails with [`CommandError::Failed`]
    /// when its output is read.
    fn start_command(&self, command: &Command) -> Result<Process, CommandError> {
        self.link.start(command)
    }

    fn files(&self) -> Option<&dyn Files> {
        Some(self)
    }

    /// Tells the worker to end (it kills what it runs and does not come back) and closes the connection. Does not wait.
    fn close(&self) {
        self.link.close();
    }
}

/// How much a file may grow while it is read, in bytes. Some files of the kernel report a size of 0 although they have
/// contents.
const GROWTH: u64 = 64 << 20;

/// Paths are in the worker's own flavour. Each method asks the worker at least once and waits for it: as long as the
/// heartbeat allows when it does not answer at all.
///
/// A `read` first asks for the size of the file. It fails if the worker sends less than that, or over 64 MiB more: a
/// file may grow while it is read, but not shrink. A `write` fails unless the worker has accepted all bytes. The size
/// that a worker reports is not limited here; see [`LeaseFiles::read_at_most`](crate::LeaseFiles::read_at_most).
///
/// What the stock `buildbot-worker` does differently from a local instance: it writes into the file itself, so that a
/// write that fails leaves none (not what was there before); directories above a file that is written are made; a
/// `remove_directory` removes a file too.
impl Files for ConnectedAgent {
    fn read(&self, path: &Path, to: &mut dyn Write, interrupt: &Interrupt) -> Result<u64, FileError> {
        let size = self.expect_file(path, interrupt)?.size;
        let call = self.call(FileCommand::Read, path)?;
        let mut total = 0;
        loop {
            match next(&call, interrupt)? {
                FileEvent::Take(number, bytes) => {
                    if let Err(error) = to.write_all(&bytes) {
                        call.refuse(number);
                        return Err(FileError::Caller(error));
                    }
                    total += bytes.len() as u64;
                    if total > size.saturating_add(GROWTH) {
                        call.refuse(number);
                        let more =
                            format!("received {total} bytes of a file of {size} bytes, expected at most {GROWTH} more");
                        return Err(FileError::Failed(more));
                    }
                    call.taken(number);
                }
                FileEvent::Give(number, _) => call.refuse(number),
                FileEvent::Ended(ending) => {
                    outcome(path, ending)?;
                    if total < size {
                        return Err(FileError::Failed(format!(
                            "received only {total} bytes of a file of {size} bytes"
                        )));
                    }
                    to.flush().map_err(FileError::Caller)?;
                    return Ok(total);
                }
            }
        }
    }

    fn write(
        &self,
        path: &Path,
        from: &mut dyn Read,
        mode: Option<u32>,
        interrupt: &Interrupt,
    ) -> Result<u64, FileError> {
        match self.expect_file(path, interrupt) {
            Err(FileError::Instance { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            other => _ = other?,
        }
        let written = self.copy_to_agent(path, from, mode, interrupt);
        if written.is_err() && !self.ours {
            // Half a file is worse than none. Nobody waits for that: if the connection is gone, so is the instance.
            let _ = self.call(FileCommand::RemoveFile, path);
        }
        written
    }

    fn list(&self, path: &Path, interrupt: &Interrupt) -> Result<Vec<String>, FileError> {
        let names = self.ask(FileCommand::List, path, interrupt)?.names;
        let mut names = names.ok_or_else(|| FileError::Failed("it sent no names, or far too many".to_owned()))?;
        // Whoever joins a name to a directory must not end up elsewhere.
        if let Some(bad) = names.iter().find(|name| !self.is_name(name)) {
            return Err(FileError::Failed(format!("it sent {bad:?} as the name of something in a directory")));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn make_directory(&self, path: &Path, interrupt: &Interrupt) -> Result<(), FileError> {
        self.ask(FileCommand::MakeDirectory, path, interrupt).map(drop)
    }

    fn remove_directory(&self, path: &Path, interrupt: &Interrupt) -> Result<(), FileError> {
        self.ask(FileCommand::RemoveDirectory, path, interrupt).map(drop)
    }

    fn status(&self, path: &Path, interrupt: &Interrupt) -> Result<FileStatus, FileError> {
        let status = self.ask(FileCommand::Status, path, interrupt)?.status;
        let (mode, size, seconds) = status.ok_or_else(|| FileError::Failed("it sent no status".to_owned()))?;
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let modified = if seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        };
        Ok(FileStatus::new(mode, size, modified.unwrap_or(SystemTime::UNIX_EPOCH)))
    }
}

/// The next thing that the worker wants or says.
fn next(call: &FileCall, interrupt: &Interrupt) -> Result<FileEvent, FileError> {
    let [one, other] = interrupt.signals();
    let event = select_biased! {
        recv(one) -> _ => return Err(FileError::Interrupted),
        recv(other) -> _ => return Err(FileError::Interrupted),
        recv(call.events) -> event => event,
    };
    event.map_err(|_| match call.link_end() {
        Some(end) => end.into(),
        None => FileError::Failed("the connection ended without a word".to_owned()),
    })
}

fn outcome(path: &Path, ending: Ending) -> Result<Findings, FileError> {
    match ending {
        Ending::Files(Ok(findings)) => Ok(findings),
        Ending::Files(Err(failure)) => Err(FileError::Instance { path: path.to_owned(), source: source_of(failure) }),
        Ending::Broken(why) => Err(FileError::Failed(why)),
        Ending::Ended(_) => Err(FileError::Failed("it answered something else".to_owned())),
    }
}

fn source_of(failure: FileFailure) -> io::Error {
    let words = if failure.words.is_empty() { format!("error {}", failure.code) } else { failure.words };
    io::Error::new(kind_of(failure.code), words)
}

impl Drop for ConnectedAgent {
    /// Nobody uses the connection any more.
    fn drop(&mut self) {
        self.link.break_off_unless_ending("it is not needed any more");
    }
}

impl fmt::Debug for ConnectedAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectedAgent")
            .field("peer", &self.peer)
            .field("basedir", &self.basedir)
            .finish_non_exhaustive()
    }
}
