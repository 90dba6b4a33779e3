//! Reads what one program writes, so that it never waits for a reader, and keeps of it what matters: the first line of
//! its standard output and the last one of its standard error.
//!
//! A thread reads until nobody can write any more, or until the [`Output`] is dropped: what a start has left running
//! may hold the pipes for as long as the instance lives, and would be ended by SIGPIPE when nobody held the other end.
//! Memory is bounded: a line is cut at 4 KiB, and lines that nobody takes in time are only logged. The secret of the
//! attempt is blotted out wherever a program repeats it (`set -x`), except in the first line of standard output.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionbio;

use super::pipe::{OutputPipe, PIECE, is_momentary};
use super::program_log::LogSender;
use crate::Secret;
use crate::printable::printable;

/// The length in bytes at which lines are cut.
pub(super) const LINE_LIMIT: usize = 4096;
/// How many lines at once are reported as progress, and how often one more after that: observers of the master have
/// bounded channels, and a program that floods them would take the place of everything else that happens.
const PROGRESS_BURST: u32 = 100;
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);

/// What a program has said up to its end.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) first_line: Option<FirstLine>,
    /// The last line of standard error that is not empty.
    pub(super) message: Option<String>,
}

/// The beginning of standard output.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct FirstLine {
    pub(super) bytes: Vec<u8>,
    /// A newline has followed.
    pub(super) complete: bool,
    /// It was longer than that.
    pub(super) cut: bool,
}

/// Who is read, and for whom.
pub(super) struct Source {
    /// What log lines begin with.
    pub(super) name: String,
    /// What is blotted out; `None` when it is not known any more.
    pub(super) secret: Option<Secret>,
    /// Whether standard error is progress; otherwise it is logged, as standard output is.
    pub(super) progress: bool,
    pub(super) log: Option<LogSender>,
}

/// The output of one program while somebody reads it. When dropped, nobody does any more.
pub(super) struct Output {
    /// One item: when nobody can write any more, or when asked.
    pub(super) heard: Receiver<Heard>,
    pub(super) progress: Receiver<String>,
    /// `None` when the thread is to end.
    wake: Option<PipeWriter>,
    /// Lives as long as the writing end: a write to a pipe that nobody can read raises SIGPIPE.
    _woken: PipeReader,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    pub(super) fn follow(streams: [Option<OutputPipe>; 2], source: Source) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        ioctl_fionbio(&woken, true)?;
        let (answer, heard) = bounded(1);
        let (progress_sender, progress) = bounded(PROGRESS_BURST as usize);
        let [stdout, stderr] = streams;
        let reader = Reader {
            stdout: Stream::new(stdout),
            stderr: Stream::new(stderr),
            woken: woken.try_clone()?,
            notes: Notes {
                first_line: None,
                last_error: Lines::default(),
                progress: source.progress.then_some(progress_sender),
                budget: Budget { since: Instant::now(), used: 0 },
                source,
            },
            answer: Some(answer),
        };
        let thread = Builder::new().name("program output".into()).spawn(move || reader.run())?;
        Ok(Self { heard, progress, wake: Some(wake), _woken: woken, thread: Some(thread) })
    }

    /// What the program has said up to now; to be asked once, and only when `heard` has brought nothing yet.
    pub(super) fn heard_by_now(&self) -> Heard {
        if let Some(mut wake) = self.wake.as_ref() {
            let _ = wake.write(&[0]);
        }
        // It answers at once: it waits for nobody.
        self.heard.recv().unwrap_or_default()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // It ends at once: it waits for nobody.
            let _ = thread.join();
        }
    }
}

struct Reader {
    stdout: Stream,
    stderr: Stream,
    woken: PipeReader,
    notes: Notes,
    /// `None` when it was given.
    answer: Option<Sender<Heard>>,
}

impl Reader {
    fn run(mut self) {
        let mut buffer = vec![0; PIECE];
        while self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
            self.wait();
            let asked = match (&self.woken).read(&mut [0; 8]) {
                Ok(0) => return, // dropped
                Ok(_) => true,
                Err(error) if is_momentary(&error) => false,
                Err(_) => return,
            };
            self.stdout.read(&mut buffer, &mut |line| self.notes.stdout(line));
            self.stderr.read(&mut buffer, &mut |line| self.notes.stderr(line));
            if asked {
                // What is in the pipes at this moment, and no more: somebody may write for ever.
                self.stdout.drain(&mut buffer, &mut |line| self.notes.stdout(line));
                self.stderr.drain(&mut buffer, &mut |line| self.notes.stderr(line));
                self.answer();
            }
        }
        self.answer();
    }

    /// Blocks until a stream is ready or somebody asks. A failure can only be a signal, or memory that the system lacks
    /// for the moment.
    fn wait(&self) {
        let mut ready = vec![PollFd::new(&self.woken, PollFlags::IN)];
        let pipes = [&self.stdout.pipe, &self.stderr.pipe].into_iter().flatten();
        ready.extend(pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let _ = poll(&mut ready, None);
    }

    fn answer(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        // The last line may lack its end.
        let rest = self.stderr.lines.rest();
        let mut heard = self.notes.end(rest);
        if heard.first_line.is_none() {
            let rest = self.stdout.lines.rest();
            let bytes = rest.bytes.to_vec();
            heard.first_line = (!bytes.is_empty()).then_some(FirstLine { bytes, complete: false, cut: rest.cut });
        }
        let _ = answer.send(heard);
    }
}

struct Stream {
    /// `None` when nobody can write any more.
    pipe: Option<OutputPipe>,
    lines: Lines,
}

impl Stream {
    fn new(pipe: Option<OutputPipe>) -> Self {
        Self { pipe, lines: Lines::default() }
    }

    /// Reads once. Returns how many bytes there were.
    fn read(&mut self, buffer: &mut [u8], each: &mut dyn FnMut(Line<'_>)) -> usize {
        let Some(pipe) = &mut self.pipe else { return 0 };
        let Some(count) = pipe.read(buffer) else {
            self.pipe = None;
            return 0;
        };
        self.lines.feed(&buffer[..count], each);
        count
    }

    fn drain(&mut self, buffer: &mut [u8], each: &mut dyn FnMut(Line<'_>)) {
        let mut waiting = self.pipe.as_ref().map_or(0, OutputPipe::waiting);
        while waiting > 0 {
            let most = waiting.min(buffer.len());
            match self.read(&mut buffer[..most], each) {
                0 => break,
                count => waiting -= count,
            }
        }
    }
}

/// A line without its newline.
#[derive(Clone, Copy)]
struct Line<'a> {
    bytes: &'a [u8],
    /// It was longer than that.
    cut: bool,
}

impl Line<'_> {
    /// For people: without control characters, and without the secret, also when it was cut in the middle of that.
    fn text(self, secret: Option<&Secret>) -> String {
        let text = String::from_utf8_lossy(self.bytes);
        let (text, length) = match secret.map(Secret::expose) {
            Some(secret) => (text.replace(secret, "(secret)"), secret.len()),
            None => (text.into_owned(), 0),
        };
        let kept = if self.cut { text.chars().count().saturating_sub(length) } else { usize::MAX };
        let kept: String = text.trim_end().chars().take(kept).collect();
        let mut text = printable(&kept).into_owned();
        if self.cut {
            text.push('…');
        }
        text
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    cut: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(Line<'_>)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, complete) = match piece.split_last() {
                Some((b'\n', piece)) => (piece, true),
                _ => (piece, false),
            };
            let room = LINE_LIMIT - self.line.len();
            self.cut |= piece.len() > room;
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if complete {
                each(self.rest());
                self.line.clear();
                self.cut = false;
            }
        }
    }

    /// Replaces what is here.
    fn keep(&mut self, line: Line<'_>) {
        self.line.clear();
        self.line.extend_from_slice(line.bytes);
        self.cut = line.cut;
    }

    /// The line that has no end yet.
    fn rest(&self) -> Line<'_> {
        Line { bytes: &self.line, cut: self.cut }
    }
}

/// What is made of lines.
struct Notes {
    /// Of standard output.
    first_line: Option<FirstLine>,
    /// The last line of standard error that is not empty.
    last_error: Lines,
    /// `None` when standard error is no progress (any more).
    progress: Option<Sender<String>>,
    budget: Budget,
    source: Source,
}

impl Notes {
    fn stdout(&mut self, line: Line<'_>) {
        if self.first_line.is_none() {
            let first = FirstLine { bytes: line.bytes.to_vec(), complete: true, cut: line.cut };
            self.first_line = Some(first);
        }
        self.log("stdout", || line.text(self.source.secret.as_ref()));
    }

    fn stderr(&mut self, line: Line<'_>) {
        if line.bytes.trim_ascii().is_empty() {
            return;
        }
        // Its text is only made when somebody is to see it: there may be millions of lines.
        self.last_error.keep(line);
        let is_progress = self.progress.is_some() && self.budget.take();
        let told = is_progress
            && self
                .progress
                .as_ref()
                .is_some_and(|progress| progress.try_send(line.text(self.source.secret.as_ref())).is_ok());
        if !told {
            self.log("stderr", || line.text(self.source.secret.as_ref()));
        }
    }

    fn log(&self, stream: &str, text: impl FnOnce() -> String) {
        if let Some(log) = &self.source.log {
            log.send(format!("{} {stream}: {}", self.source.name, text()));
        }
    }

    /// The program has ended; what follows is from others and is only logged.
    fn end(&mut self, rest: Line<'_>) -> Heard {
        self.stderr(rest);
        self.progress = None;
        let last = self.last_error.rest();
        let message = (!last.bytes.is_empty()).then(|| last.text(self.source.secret.as_ref()));
        // The first line stays known as such.
        Heard { first_line: self.first_line.clone(), message }
    }
}

/// How many lines may be reported.
struct Budget {
    since: Instant,
    used: u128,
}

impl Budget {
    fn take(&mut self) -> bool {
        let earned = self.since.elapsed().as_millis() / PROGRESS_PAUSE.as_millis();
        let left = self.used < earned + u128::from(PROGRESS_BURST);
        self.used += u128::from(left);
        left
    }
}
