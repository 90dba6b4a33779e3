//! What one command does with files: copies them in blocks, one after the other, or asks the [`Files`] of the agent.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use crossbeam_channel::select_biased;

use super::super::errno::code_of;
use super::codec::{self, FileJob, Piece};
use super::connection::Port;
use super::job::{Outcome, tell, tell_line};
use crate::{Agent, FileError, Files, Interrupt};

pub(super) fn run(agent: &dyn Agent, job: &FileJob, port: &mut Port) -> Outcome {
    let files = agent.files().ok_or_else(|| FileError::Unsupported.to_string())?;
    let interrupt = Interrupt::new(port.interrupted.clone());
    let code = match perform(files, job, &interrupt, port) {
        Ok(()) => 0,
        Err(error) => {
            tell_line(port, "stderr", &error.to_string());
            match error {
                FileError::Instance { source, .. } => code_of(source.kind()),
                _ => code_of(ErrorKind::Other),
            }
        }
    };
    Ok(vec![Piece::ExitCode(code)])
}

fn perform(files: &dyn Files, job: &FileJob, interrupt: &Interrupt, port: &mut Port) -> Result<(), FileError> {
    match job {
        FileJob::Status(path) => {
            let status = files.status(Path::new(path), interrupt)?;
            tell(port, &[Piece::Status(&status)]);
            Ok(())
        }
        FileJob::List(path) => {
            let names = files.list(Path::new(path), interrupt)?;
            tell(port, &[Piece::Names(&names)]);
            Ok(())
        }
        FileJob::MakeDirectories(paths) => {
            paths.iter().try_for_each(|path| files.make_directory(Path::new(path), interrupt))
        }
        FileJob::RemoveDirectories(paths) => {
            paths.iter().try_for_each(|path| files.remove_directory(Path::new(path), interrupt))
        }
        FileJob::Send { path, block, limit } => {
            let mut sender = Sender { port, waiting: Vec::new(), block: *block, left: limit.unwrap_or(u64::MAX) };
            let sent = files.read(Path::new(path), &mut sender, interrupt);
            close(sender.port, "update_upload_file_close");
            sent.map(drop)
        }
        FileJob::Receive { path, block, limit, mode } => {
            let left = limit.unwrap_or(u64::MAX);
            let mut receiver = Receiver { port, received: Vec::new(), taken: 0, block: *block, left, at_end: false };
            let received = files.write(Path::new(path), &mut receiver, *mode, interrupt);
            close(receiver.port, "update_read_file_close");
            received.map(drop)
        }
    }
}

/// The master may close its end of the transfer.
fn close(port: &mut Port, op: &str) {
    // Whether it can is its own business.
    let _ = ask(port, |number, id| codec::encode_closed(op, number, id));
}

/// Sends a request and waits for its answer.
fn ask(port: &mut Port, message: impl FnOnce(u64, &str) -> Vec<u8>) -> io::Result<Vec<u8>> {
    port.send(message);
    let answer = select_biased! {
        recv(port.interrupted) -> _ => return Err(io::Error::other("interrupted")),
        recv(port.answers()) -> answer => answer.map_err(|_| io::Error::from(ErrorKind::BrokenPipe))?,
    };
    port.answered();
    answer.map_err(io::Error::other)
}

const TOO_LONG: &str = "the file is longer than the master takes";

/// Takes a file and sends it in blocks.
struct Sender<'p> {
    port: &'p mut Port,
    waiting: Vec<u8>,
    block: usize,
    /// How many more bytes the master takes.
    left: u64,
}

impl Sender<'_> {
    fn send(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.waiting);
        ask(self.port, |number, id| codec::encode_take(number, id, &block))?;
        self.waiting = block;
        self.waiting.clear();
        Ok(())
    }
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (self.block - self.waiting.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Err(io::Error::other(TOO_LONG));
        }
        let count = bytes.len().min(room);
        self.waiting.extend_from_slice(&bytes[..count]);
        self.left -= count as u64;
        if self.waiting.len() == self.block {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Asks for a file in blocks and gives it on.
struct Receiver<'p> {
    port: &'p mut Port,
    received: Vec<u8>,
    taken: usize,
    block: usize,
    /// How many more bytes may come.
    left: u64,
    at_end: bool,
}

impl Read for Receiver<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.received.len() && !self.at_end {
            let length = self.block.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            if length == 0 {
                return Err(io::Error::other(TOO_LONG));
            }
            self.received = ask(self.port, |number, id| codec::encode_give(number, id, length))?;
            self.taken = 0;
            if self.received.len() > length {
                let more = format!("the master sent {} bytes, expected at most {length}", self.received.len());
                return Err(io::Error::other(more));
            }
            self.left = self.left.saturating_sub(self.received.len() as u64);
            self.at_end = self.received.is_empty();
        }
        let count = buffer.len().min(self.received.len() - self.taken);
        buffer[..count].copy_from_slice(&self.received[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}
