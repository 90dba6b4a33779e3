//! The thread that writes to standard output and draws progress bars, so that they never get into each other.
//!
//! Those who stream the output of builds wait for it; those who must not wait do not.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick, unbounded};

use rustix::event::{PollFd, PollFlags, poll};

use super::bars::Bars;

/// How many pieces of output may wait to be written before the builds are slowed down.
const PIECES: usize = 64;
/// How often bars are drawn.
const REDRAW: Duration = Duration::from_millis(200);

pub(crate) struct Screen {
    messages: Sender<Message>,
    /// Takes one item for each piece of output on its way, and blocks when there are too many.
    pieces: Sender<()>,
    ended: Receiver<()>,
    closed: Receiver<()>,
    losses: Arc<Losses>,
    has_bars: bool,
}

/// What happened to output that could not be written.
#[derive(Default)]
struct Losses {
    any: AtomicBool,
    /// Standard output has no reader.
    closed: AtomicBool,
}

impl Losses {
    /// The first call notifies the main loop.
    fn close(&self, closed: &Sender<()>) {
        self.any.store(true, Ordering::Relaxed);
        if !self.closed.swap(true, Ordering::Relaxed) {
            let _ = closed.try_send(());
        }
    }
}

enum Message {
    /// Output of a build.
    Output(String),
    /// A line of our own.
    Note(String),
    /// A line of our own for standard error, when the bars are there.
    Alert(String),
    /// The last words.
    End(String),
}

struct Printer {
    messages: Receiver<Message>,
    pieces: Receiver<()>,
    bars: Option<Bars>,
    /// Text for the terminal that the bars are on has to go through them.
    stdout_is_terminal: bool,
    closed: Sender<()>,
    losses: Arc<Losses>,
}

impl Screen {
    pub(crate) fn start(bars: Option<Bars>) -> io::Result<Self> {
        let (messages, receiver) = unbounded();
        let (pieces, taken) = bounded(PIECES);
        let (sender, ended) = bounded(0);
        let (close, closed) = bounded(1);
        let losses = Arc::new(Losses::default());
        let stdout_is_terminal = io::stdout().is_terminal();
        let has_bars = bars.is_some();
        let mut printer = Printer {
            messages: receiver,
            pieces: taken,
            bars,
            stdout_is_terminal,
            closed: close,
            losses: losses.clone(),
        };
        watch_pipe(printer.closed.clone(), losses.clone())?;
        thread::Builder::new().name("farm-screen".into()).spawn(move || {
            // Dropped at the end, which tells that it has come.
            let _sender: Sender<()> = sender;
            printer.run();
        })?;
        Ok(Self { messages, pieces, ended, closed, losses, has_bars })
    }

    /// Receives one item when standard output is a pipe without a reader.
    pub(crate) fn closed(&self) -> &Receiver<()> {
        &self.closed
    }

    /// Returns whether some of the output could not be written.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.losses.any.load(Ordering::Relaxed)
    }

    /// Returns whether standard output was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.losses.closed.load(Ordering::Relaxed)
    }

    /// Writes lines of a build, each with its newline. Blocks while standard output is slow.
    pub(crate) fn output(&self, lines: String) {
        // Fails only when the printer is gone, and then there is nothing to wait for.
        let _ = self.pieces.send(());
        let _ = self.messages.send(Message::Output(lines));
    }

    /// Writes a line without waiting for it.
    pub(crate) fn note(&self, line: String) {
        let _ = self.messages.send(Message::Note(line));
    }

    /// Writes a line to standard error without waiting for it.
    pub(crate) fn alert(&self, line: String) {
        if self.has_bars {
            let _ = self.messages.send(Message::Alert(line));
        } else {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Removes the bars, writes the last words and waits for that, if there is a limit no longer than that.
    pub(crate) fn end(&self, text: String, limit: Option<Duration>) {
        let _ = self.messages.send(Message::End(text));
        match limit {
            Some(limit) => drop(self.ended.recv_timeout(limit)),
            None => drop(self.ended.recv()),
        }
    }
}

impl Printer {
    fn run(&mut self) {
        let redraw = if self.bars.is_some() { tick(REDRAW) } else { never() };
        loop {
            select! {
                recv(self.messages) -> message => {
                    let Ok(first) = message else { return };
                    if self.write(first).is_break() {
                        return;
                    }
                }
                recv(redraw) -> _ => self.bars.iter().for_each(Bars::draw),
            }
        }
    }

    /// Writes this message and those that wait behind it.
    fn write(&mut self, first: Message) -> std::ops::ControlFlow<()> {
        let mut text = String::new();
        let waiting = self.messages.clone();
        for message in std::iter::once(first).chain(waiting.try_iter().take(PIECES)) {
            match message {
                Message::Output(lines) => {
                    text.push_str(&lines);
                    let _ = self.pieces.try_recv();
                }
                Message::Note(line) => writeln!(text, "{line}").expect("a string takes everything"),
                Message::Alert(line) => {
                    self.to_stdout(&std::mem::take(&mut text));
                    self.bars.iter().for_each(|bars| bars.print_above(&line));
                }
                Message::End(last) => {
                    self.to_stdout(&text);
                    if let Some(bars) = self.bars.take() {
                        bars.clear();
                    }
                    self.to_stdout(&last);
                    return std::ops::ControlFlow::Break(());
                }
            }
        }
        self.to_stdout(&text);
        std::ops::ControlFlow::Continue(())
    }

    fn to_stdout(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(bars) = &self.bars
            && self.stdout_is_terminal
        {
            bars.print_above(text);
            return;
        }
        if let Err(error) = write_all(&mut io::stdout().lock(), text) {
            self.complain(&error);
        }
    }

    /// Reports once that output is missing. Later output may succeed, for example when a full disk has space again.
    fn complain(&self, error: &io::Error) {
        let is_first = !self.losses.any.swap(true, Ordering::Relaxed);
        if error.kind() == io::ErrorKind::BrokenPipe {
            return self.losses.close(&self.closed);
        }
        if !is_first {
            return;
        }
        let line = format!("farm: output is missing: cannot write to standard output: {error}");
        match &self.bars {
            Some(bars) => bars.print_above(&line),
            None => _ = writeln!(io::stderr(), "{line}"),
        }
    }
}

/// Notices that standard output has no reader any more, even while a build runs for hours without output.
fn watch_pipe(closed: Sender<()>, losses: Arc<Losses>) -> io::Result<()> {
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if !stdout.metadata()?.file_type().is_fifo() {
        return Ok(());
    }
    thread::Builder::new().name("farm-stdout".into()).spawn(move || {
        // Without requested events, `poll` only reports that the other end was closed.
        let mut pipe = [PollFd::new(&stdout, PollFlags::empty())];
        while poll(&mut pipe, None).is_err_and(|error| error == rustix::io::Errno::INTR) {}
        if pipe[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            losses.close(&closed);
        }
    })?;
    Ok(())
}

/// Writes the text, and everything that standard output has buffered.
pub(crate) fn write_all(output: &mut impl Write, text: &str) -> io::Result<()> {
    output.write_all(text.as_bytes())?;
    output.flush()
}
