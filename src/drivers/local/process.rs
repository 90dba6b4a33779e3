//! Runs one command as a child process that leads a process group of its own, until nothing of that group is left.
//!
//! The *supervisor* owns the child: it moves the bytes of all three streams, keeps the limits, waits for the end of the
//! leader of the group, kills the rest of the group, and then reaps the leader. It may begin on the thread that has started
//! the command, see [`Supervisor::run_briefly`]; then it has a thread of its own. Where the
//! system has no descriptor for the end of a process, and while the supervisor waits for the reader of the output and not
//! for descriptors, a second thread, the *waiter*, blocks until the leader has ended and tells the supervisor.
//!
//! What leaves the group is not followed: it lives on, and nobody waits for the output that it may still write. What is
//! to be run, and where, is decided by the agent; what a group is, is in `process_group`.

use std::convert::Infallible;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, at, bounded, never, select};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal};

use crate::drivers::orphans::still_running;
use crate::drivers::pipe::{OutputPipe, PIECE, is_momentary};
use crate::drivers::process_group::{Group, KILL_PATIENCE, wait_for_end};
use crate::{Command, CommandEnd, Exit, Output, Process};

/// As much is read at once until a command has more to say: most have not.
const SMALL_PIECE: usize = 4 << 10;
/// How many pieces of output wait for the reader before the command is slowed down.
const PIECES: usize = 16;

/// A command that was started.
pub(super) struct Running {
    /// For the reader of its output.
    pub(super) process: Process,
    /// For whoever must be able to end it.
    pub(super) control: Arc<Control>,
    /// To be run on a thread of its own; the command ends when it is dropped before that.
    pub(super) supervisor: Supervisor,
}

/// Receives the processes that still run after they were killed.
pub(super) type Outlived = Box<dyn FnOnce(&[Pid]) + Send>;

/// Starts `prepared`, with the standard input and the limits of `command`. The supervisor holds `alive` to its end.
pub(super) fn start(
    mut prepared: std::process::Command,
    command: &Command,
    alive: Sender<Infallible>,
    survivors: Outlived,
) -> io::Result<Running> {
    let (control, events) = Control::new()?;
    let stdin = if command.stdin.is_empty() {
        prepared.stdin(Stdio::null());
        None
    } else {
        let (child_end, stdin) = Stdin::new(command.stdin.clone())?;
        prepared.stdin(child_end);
        Some(stdin)
    };
    prepared.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(&mut prepared)?;
    let started = Instant::now();
    // It holds on to the child's end of standard input.
    drop(prepared);
    let [stdout, stderr] = group.take_output()?;
    let streams = [
        stdout.map(|pipe| Stream { pipe, kind: Output::Stdout }),
        stderr.map(|pipe| Stream { pipe, kind: Output::Stderr }),
    ];

    let watch = Watch { end: group.end_descriptor(), waiter: None };
    let (output, overflow) = bounded(PIECES);
    let mut supervisor = Supervisor {
        group,
        watch,
        control: control.clone(),
        events,
        streams,
        stdin,
        output,
        overflow: overflow.clone(),
        buffer: vec![0; SMALL_PIECE],
        started,
        time_limit: command.time_limit.and_then(|limit| started.checked_add(limit)),
        silence_limit: command.silence_limit,
        heard: Some(started),
        killed: None,
        interrupted: false,
        ended: None,
        outlived: Some(survivors),
        _alive: alive,
    };
    if supervisor.watch.end.is_none() {
        supervisor.watch_on_thread()?;
    }
    let process = Process::new(overflow, {
        let control = control.clone();
        move || control.interrupt()
    });
    Ok(Running { process, control, supervisor })
}

/// The way to tell a supervisor something, whether it waits for the child (the pipe wakes it) or for the reader of the
/// output (the channel does).
pub(super) struct Control {
    interrupted: AtomicBool,
    events: Sender<Event>,
    wake: PipeWriter,
    /// Lives as long as the other end: a write to a pipe that nobody can read raises SIGPIPE, and that ends a program
    /// whose `main` is not Rust's.
    woken: PipeReader,
}

enum Event {
    Interrupt,
    /// The leader can be reaped; or there is no child any more because somebody else has reaped it.
    LeaderEnded(io::Result<()>),
}

impl Control {
    fn new() -> io::Result<(Arc<Self>, Receiver<Event>)> {
        let (woken, wake) = io::pipe()?;
        ioctl_fionbio(&woken, true)?;
        // Each event is sent once at most: neither the channel nor the pipe can be full.
        let (events, receiver) = bounded(2);
        Ok((Arc::new(Self { interrupted: AtomicBool::new(false), events, wake, woken }), receiver))
    }

    /// Kills the command, if it still runs. Does not block; harmless when repeated.
    pub(super) fn interrupt(&self) {
        if !self.interrupted.swap(true, Ordering::Relaxed) {
            self.tell(Event::Interrupt);
        }
    }

    fn tell(&self, event: Event) {
        // The supervisor looks for events after it was woken, so the event goes first. It may be gone already.
        if self.events.send(event).is_ok() {
            let _ = (&self.wake).write(&[0]);
        }
    }
}

/// One stream of output.
struct Stream {
    pipe: OutputPipe,
    kind: fn(Vec<u8>) -> Output,
}

/// What the command has not read yet of its standard input.
struct Stdin {
    pipe: PipeWriter,
    bytes: Vec<u8>,
    written: usize,
    /// Never read from. With it a child that closes its standard input just leaves the pipe full; without it the next
    /// write would raise SIGPIPE, see [`Control::woken`].
    _reader: PipeReader,
}

impl Stdin {
    fn new(bytes: Vec<u8>) -> io::Result<(PipeReader, Self)> {
        let (reader, pipe) = io::pipe()?;
        ioctl_fionbio(&pipe, true)?;
        Ok((reader.try_clone()?, Self { pipe, bytes, written: 0, _reader: reader }))
    }
}

/// How the supervisor learns that the leader has ended: by one of these.
struct Watch {
    /// Can be read from then on.
    end: Option<OwnedFd>,
    waiter: Option<JoinHandle<()>>,
}

pub(super) struct Supervisor {
    group: Group,
    watch: Watch,
    control: Arc<Control>,
    events: Receiver<Event>,
    /// `None` when it is closed.
    streams: [Option<Stream>; 2],
    /// `None` when all is written.
    stdin: Option<Stdin>,
    output: Sender<Output>,
    /// The other end of `output`, to make room when nobody else does.
    overflow: Receiver<Output>,
    buffer: Vec<u8>,
    started: Instant,
    /// When the command is killed; never, when that is further away than the clock can say.
    time_limit: Option<Instant>,
    silence_limit: Option<Duration>,
    /// Since when the command has been silent; `None` while its output waits for the reader, because a command that
    /// cannot write is not silent.
    heard: Option<Instant>,
    /// Why the group was killed.
    killed: Option<Exit>,
    /// Nobody waits for all of the output any more.
    interrupted: bool,
    /// The last item of the output; set when the leader was reaped or given up.
    ended: Option<Output>,
    outlived: Option<Outlived>,
    /// The last field: dropped when everything else is.
    _alive: Sender<Infallible>,
}

impl Supervisor {
    /// Blocks until the command has ended and its end was delivered.
    pub(super) fn run(mut self) {
        while self.ended.is_none() {
            self.turn(None);
        }
        let waiting = self.waiting();
        self.finish(waiting);
    }

    /// Does the same as long as that is over before `until` and nobody has to take output for it; otherwise gives the
    /// supervisor back, and is to be followed by [`run`](Self::run).
    ///
    /// Handing a child to another thread and its end back costs more than all else that is done for a short command.
    pub(super) fn run_briefly(mut self, until: Instant) -> Option<Self> {
        while self.ended.is_none() {
            // A turn delivers a piece of each stream at most.
            if self.output.len() > PIECES / 2 || Instant::now() >= until {
                return Some(self);
            }
            self.turn(Some(until));
        }
        let waiting = self.waiting();
        if self.output.len() > PIECES / 2 || waiting.iter().sum::<usize>() > SMALL_PIECE {
            return Some(self);
        }
        self.finish(waiting);
        None
    }

    /// Blocks until there is something to do, or until `until`, and does it.
    fn turn(&mut self, until: Option<Instant>) {
        if self.wait(until) {
            self.handle(Event::LeaderEnded(wait_for_end(self.group.pid())));
        }
        self.take_events();
        self.feed();
        for index in 0..self.streams.len() {
            self.pump(index, PIECE);
        }
        // After the reading, because what waits in a pipe is not silence; and in every turn, because a command
        // that always has something to say must not escape its limit.
        self.enforce_limits();
    }

    /// Delivers what waits in the pipes, and the end.
    fn finish(mut self, waiting: [usize; 2]) {
        self.drain(waiting);
        if let Some(end) = self.ended.take() {
            self.deliver(end);
        }
        if let Some(waiter) = self.watch.waiter.take() {
            // It ended when it told the end of the leader.
            let _ = waiter.join();
        }
    }

    /// Blocks until a stream is ready, there is an event, a limit or `until` is reached, or the leader has ended; whether it
    /// was that.
    fn wait(&self, until: Option<Instant>) -> bool {
        let limit = self.next_limit().map(|(limit, _)| limit).into_iter().chain(until).min();
        let timeout = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut ready = Vec::with_capacity(5);
        ready.push(PollFd::new(&self.control.woken, PollFlags::IN));
        ready.extend(self.watch.end.iter().map(|end| PollFd::new(end, PollFlags::IN)));
        ready.extend(self.streams.iter().flatten().map(|stream| PollFd::new(&stream.pipe, PollFlags::IN)));
        ready.extend(self.stdin.iter().map(|stdin| PollFd::new(&stdin.pipe, PollFlags::OUT)));
        // Which of them it is does not matter: none of them blocks. Nor does a failure: it can only be a signal, or
        // memory that the system lacks for the moment.
        let woken = poll(&mut ready, timeout.as_ref()).is_ok();
        woken && self.watch.end.is_some() && ready[1].revents().contains(PollFlags::IN)
    }

    /// For when nobody looks at descriptors.
    fn watch_on_thread(&mut self) -> io::Result<()> {
        let (pid, control) = (self.group.pid(), self.control.clone());
        let tell = move || control.tell(Event::LeaderEnded(wait_for_end(pid)));
        self.watch.waiter = Some(thread::Builder::new().name("local waiter".into()).spawn(tell)?);
        self.watch.end = None;
        Ok(())
    }

    fn take_events(&mut self) {
        let _ = (&self.control.woken).read(&mut [0; 8]);
        while let Ok(event) = self.events.try_recv() {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Interrupt => {
                self.interrupted = true;
                self.kill(Exit::Interrupted);
            }
            // It was given up.
            Event::LeaderEnded(_) if self.ended.is_some() => {}
            Event::LeaderEnded(ended) => {
                let ended = ended.and_then(|()| self.group.end(KILL_PATIENCE));
                self.ended = Some(match ended {
                    Ok((status, survivors)) if survivors.is_empty() => Output::End(self.end(status)),
                    Ok((status, survivors)) => self.outlived(self.end(status).exit, &survivors),
                    Err(error) => {
                        self.group.lost();
                        Output::Failed(format!("how process {} ended is unknown: {error}", self.group.pid()))
                    }
                });
            }
        }
    }

    fn kill(&mut self, reason: Exit) {
        if self.ended.is_none() && self.killed.is_none() {
            self.killed = Some(reason);
            if self.group.kill().is_err() {
                let survivors = self.group.give_up();
                self.ended = Some(self.outlived(reason, &survivors));
                // The thread that waits for the leader ends with it.
                self.watch.waiter = None;
            }
        }
    }

    fn outlived(&mut self, exit: Exit, survivors: &[Pid]) -> Output {
        if let Some(outlived) = self.outlived.take() {
            outlived(survivors);
        }
        Output::Failed(format!("{exit}; {}", still_running(survivors)))
    }

    fn end(&self, status: ExitStatus) -> CommandEnd {
        let exit = match (self.killed, status.signal()) {
            // Any other status means that it ended by itself just before it was killed.
            (Some(reason), Some(signal)) if signal == Signal::KILL.as_raw() => reason,
            (_, Some(signal)) => Exit::Signal(signal),
            (_, None) => Exit::Code(status.code().unwrap_or_default()),
        };
        CommandEnd { exit, elapsed: self.started.elapsed() }
    }

    /// The limit that comes next; none when there is nothing left to kill.
    fn next_limit(&self) -> Option<(Instant, Exit)> {
        if self.ended.is_some() || self.killed.is_some() {
            return None;
        }
        let time = self.time_limit.map(|limit| (limit, Exit::TimeLimit));
        let silence = self.heard.zip(self.silence_limit).and_then(|(heard, limit)| heard.checked_add(limit));
        let silence = silence.map(|limit| (limit, Exit::SilenceLimit));
        time.into_iter().chain(silence).min_by_key(|(limit, _)| *limit)
    }

    fn enforce_limits(&mut self) {
        if let Some((limit, exit)) = self.next_limit()
            && limit <= Instant::now()
        {
            self.kill(exit);
        }
    }

    /// Writes to standard input what it takes now, and closes it when all is written.
    fn feed(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.pipe.write(&stdin.bytes[stdin.written..]) {
            Ok(count) => stdin.written += count,
            Err(error) if is_momentary(&error) => return,
            Err(_) => stdin.written = stdin.bytes.len(),
        }
        if stdin.written == stdin.bytes.len() {
            self.stdin = None;
        }
    }

    /// Reads once from a stream, `most` bytes at most, and hands them over. Returns how many there were.
    fn pump(&mut self, index: usize, most: usize) -> usize {
        let Some(stream) = &mut self.streams[index] else { return 0 };
        let most = most.min(self.buffer.len());
        match stream.pipe.read(&mut self.buffer[..most]) {
            Some(0) => {}
            Some(count) => {
                let output = (stream.kind)(self.buffer[..count].to_vec());
                if count == self.buffer.len() && count < PIECE {
                    self.buffer.resize(PIECE, 0);
                }
                self.deliver(output);
                return count;
            }
            None => self.streams[index] = None,
        }
        0
    }

    /// How much is in the pipes at this moment. A process that has left the group may still hold them, and write for
    /// ever; so it is neither the end nor a lull that is waited for.
    fn waiting(&self) -> [usize; 2] {
        self.streams.each_ref().map(|stream| stream.as_ref().map_or(0, |stream| stream.pipe.waiting()))
    }

    /// Hands over so much of what is in the pipes.
    fn drain(&mut self, waiting: [usize; 2]) {
        for (index, mut waiting) in waiting.into_iter().enumerate() {
            while waiting > 0 {
                match self.pump(index, waiting.min(PIECE)) {
                    0 => break,
                    count => waiting -= count,
                }
            }
        }
    }

    /// Gives one piece to the reader. Waits for room, and meanwhile keeps the time limit and listens; after an
    /// interrupt it makes room at the cost of the oldest piece.
    fn deliver(&mut self, mut output: Output) {
        self.heard = None;
        // This end keeps a receiver of its own: that the reader is gone is told by the interrupt of a dropped
        // `Process`.
        while let Err(TrySendError::Full(back)) = self.output.try_send(output) {
            output = back;
            if self.interrupted {
                let _ = self.overflow.try_recv();
                continue;
            }
            self.enforce_limits();
            if self.ended.is_none() && self.watch.end.is_some() {
                // Without a thread the end is seen when the reader has made room.
                let _ = self.watch_on_thread();
            }
            let limit = self.next_limit().map_or_else(never, |(limit, _)| at(limit));
            select! {
                send(self.output, output) -> _ => break,
                recv(self.events) -> event => if let Ok(event) = event { self.handle(event) },
                recv(limit) -> _ => {}
            }
        }
        self.heard = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::super::testing::{PATIENCE, Place, collect, tell};
    use super::*;
    #[cfg(target_os = "linux")]
    use rustix::io::Errno;
    #[cfg(target_os = "linux")]
    use rustix::process::kill_process;

    /// A command with the thread of its supervisor.
    struct Begun {
        process: Process,
        thread: JoinHandle<()>,
    }

    fn begin_in(place: &Path, command: Command) -> Begun {
        let mut prepared = std::process::Command::new("/bin/sh");
        prepared.arg("-c").arg(command.to_string()).current_dir(place);
        let Running { process, supervisor, .. } = start(prepared, &command, bounded(0).0, Box::new(|_| {})).unwrap();
        Begun { process, thread: thread::spawn(move || supervisor.run()) }
    }

    fn begin(command: Command) -> Begun {
        begin_in(Path::new("/"), command)
    }

    fn run(command: Command) -> (Vec<u8>, Vec<u8>, CommandEnd) {
        collect(&begin(command).process)
    }

    fn started(line: &str) -> Running {
        let mut prepared = std::process::Command::new("/bin/sh");
        prepared.args(["-c", line]);
        start(prepared, &Command::shell(line), bounded(0).0, Box::new(|_| {})).unwrap()
    }

    #[test]
    fn a_short_command_needs_no_thread() {
        let Running { process, supervisor, .. } = started("echo out; echo err >&2; exit 3");
        assert!(supervisor.run_briefly(Instant::now() + PATIENCE).is_none());
        let (stdout, stderr, end) = collect(&process);
        assert_eq!((&*stdout, &*stderr, end.exit), (&b"out\n"[..], &b"err\n"[..], Exit::Code(3)));
    }

    #[test]
    fn a_command_that_takes_long_is_given_back_and_goes_on() {
        let Running { process, supervisor, .. } = started("echo out; sleep 1000");
        let briefly = tell(move || supervisor.run_briefly(Instant::now()));
        let supervisor = briefly.recv_timeout(PATIENCE).expect("it comes back").expect("it has not ended");
        let thread = thread::spawn(move || supervisor.run());
        assert_eq!(process.output().recv_timeout(PATIENCE), Ok(Output::Stdout(b"out\n".to_vec())));
        process.interrupt();
        assert_eq!(collect(&process).2.exit, Exit::Interrupted);
        thread.join().unwrap();
    }

    #[test]
    fn a_command_whose_output_somebody_has_to_take_is_given_back() {
        for bytes in [50_000, 10_000_000] {
            let Running { process, supervisor, .. } = started(&format!("head -c {bytes} /dev/zero"));
            let briefly = tell(move || supervisor.run_briefly(Instant::now() + PATIENCE * 2));
            let rest = briefly.recv_timeout(PATIENCE).expect("it does not wait for a reader");
            let thread = rest.map(|supervisor| thread::spawn(move || supervisor.run()));
            let (stdout, _, end) = collect(&process);
            assert_eq!((stdout.len(), end.exit), (bytes, Exit::Code(0)));
            thread.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    /// A named pipe that a command holds as its descriptor 3. Who opens it is told that the command is there, and by
    /// its end that nobody who has inherited the descriptor is left.
    struct Lifeline(Place);

    impl Lifeline {
        fn new(name: &str) -> Self {
            let place = Place::new(name);
            let made = std::process::Command::new("mkfifo").arg(place.path().join("line")).status().unwrap();
            assert!(made.success());
            Self(place)
        }

        /// Begins a command that holds the line.
        fn begin(&self, command: impl FnOnce(String) -> Command, line: &str) -> (Begun, Receiver<usize>) {
            let running = begin_in(self.0.path(), command(format!("exec 3>line; {line}")));
            let line = self.0.path().join("line");
            let mut line = tell(move || File::open(line).unwrap()).recv_timeout(PATIENCE).unwrap();
            (running, tell(move || line.read_to_end(&mut Vec::new()).unwrap()))
        }
    }

    fn assert_told<T>(told: &Receiver<T>) -> T {
        told.recv_timeout(PATIENCE).expect("something is still alive")
    }

    #[test]
    fn both_streams_and_the_exit_code_arrive() {
        let (stdout, stderr, end) = run(Command::shell("echo out; echo err >&2; exit 3"));
        assert_eq!((stdout.as_slice(), stderr.as_slice(), end.exit), (&b"out\n"[..], &b"err\n"[..], Exit::Code(3)));
    }

    #[test]
    fn a_signal_that_is_not_ours_is_told() {
        assert_eq!(run(Command::shell("kill -TERM $$")).2.exit, Exit::Signal(Signal::TERM.as_raw()));
        assert_eq!(run(Command::shell("kill -KILL $$")).2.exit, Exit::Signal(Signal::KILL.as_raw()));
    }

    #[test]
    fn ten_megabytes_of_standard_input_come_back() {
        let bytes: Vec<u8> = (0..10_000_000_u32).map(|number| (number >> 3) as u8).collect();
        let (stdout, _, end) = run(Command::shell("cat").stdin(bytes.clone()));
        assert!(end.exit.success());
        assert!(stdout == bytes);
    }

    #[test]
    fn without_standard_input_there_is_nothing_to_read() {
        assert!(run(Command::shell("cat")).2.exit.success());
    }

    #[test]
    fn standard_input_that_nobody_reads_hangs_nothing() {
        let bytes = vec![b'x'; 10_000_000];
        assert_eq!(run(Command::shell("exit 4").stdin(bytes.clone())).2.exit, Exit::Code(4));
        let (stdout, _, end) = run(Command::shell("exec <&-; echo deaf; exit 5").stdin(bytes.clone()));
        assert_eq!((stdout.as_slice(), end.exit), (&b"deaf\n"[..], Exit::Code(5)));
        let limited = Command::shell("sleep 1000").stdin(bytes).time_limit(Duration::from_millis(50));
        assert_eq!(run(limited).2.exit, Exit::TimeLimit);
    }

    #[test]
    fn a_flood_of_output_does_not_delay_the_time_limit() {
        let (stdout, _, end) = run(Command::shell("echo first; yes").time_limit(Duration::from_millis(100)));
        assert!(stdout.starts_with(b"first\n"));
        assert_eq!(end.exit, Exit::TimeLimit);
        assert!(end.elapsed >= Duration::from_millis(100), "{:?}", end.elapsed);
    }

    #[test]
    fn limits_beyond_the_end_of_time_are_none() {
        let command = Command::shell("true").time_limit(Duration::MAX).silence_limit(Duration::MAX);
        assert!(run(command).2.exit.success());
    }

    #[test]
    fn silence_ends_at_its_limit_and_keeps_what_was_said() {
        let (stdout, _, end) = run(Command::shell("echo last; sleep 1000").silence_limit(Duration::from_millis(100)));
        assert_eq!((stdout.as_slice(), end.exit), (&b"last\n"[..], Exit::SilenceLimit));
        let closed = Command::shell("exec >&- 2>&-; sleep 1000").silence_limit(Duration::from_millis(100));
        assert_eq!(run(closed).2.exit, Exit::SilenceLimit);
    }

    #[test]
    fn a_command_that_speaks_now_and_then_is_not_silent() {
        let line = "for i in 1 2 3 4 5 6 7 8; do echo $i >&2; sleep 0.25; done";
        assert!(run(Command::shell(line).silence_limit(Duration::from_millis(1500))).2.exit.success());
    }

    #[test]
    fn a_slow_reader_is_not_silence_and_misses_nothing() {
        let limit = Duration::from_millis(300);
        let running = begin(Command::shell("head -c 5000000 /dev/zero; echo end >&2").silence_limit(limit));
        // It is time itself that must do nothing here.
        thread::sleep(3 * limit);
        let (stdout, stderr, end) = collect(&running.process);
        assert_eq!((stdout.len(), stderr.as_slice(), end.exit), (5_000_000, &b"end\n"[..], Exit::Code(0)));
    }

    #[test]
    fn an_interrupt_kills_grandchildren() {
        let lifeline = Lifeline::new("grandchildren");
        let (running, dead) = lifeline.begin(Command::shell, "(sleep 1000 & sleep 1000) & sleep 1000 | sleep 1000");
        running.process.interrupt();
        running.process.interrupt();
        assert_told(&dead);
        assert_eq!(collect(&running.process).2.exit, Exit::Interrupted);
        running.thread.join().unwrap();
        running.process.interrupt();
    }

    #[test]
    fn dropping_the_process_kills_the_command() {
        let lifeline = Lifeline::new("dropped");
        let (running, dead) = lifeline.begin(Command::shell, "sleep 1000 & yes");
        drop(running.process);
        assert_told(&dead);
        running.thread.join().unwrap();
    }

    #[test]
    fn what_is_left_in_the_background_ends_with_the_command() {
        let lifeline = Lifeline::new("background");
        let (running, dead) = lifeline.begin(Command::shell, "sleep 1000 & echo over");
        let (stdout, _, end) = collect(&running.process);
        assert_eq!((stdout.as_slice(), end.exit), (&b"over\n"[..], Exit::Code(0)));
        assert_told(&dead);
    }

    /// Begins a command that ends and leaves a process behind that is not of its group but holds its output. Returns
    /// when the command has ended; its output, with the number of that process on standard error, is still to be read.
    #[cfg(target_os = "linux")]
    fn begin_with_escapee(escaped: &str, is_time_to_end: impl Fn(&Begun) -> bool) -> Begun {
        let lifeline = Lifeline::new("escaped");
        let escapee = format!("setsid sh -c 'exec 3>&-; echo $$ >pid; exec {escaped}'");
        let line = format!("mkfifo pid end; {escapee} & read pid <pid; echo $pid >&2; read end <end");
        let (running, dead) = lifeline.begin(Command::shell, &line);
        while !is_time_to_end(&running) {
            thread::yield_now();
        }
        let end = lifeline.0.path().join("end");
        // It is there when there is any output. Blocks until the command opens it.
        assert_told(&tell(move || std::fs::write(end, "\n").unwrap()));
        assert_told(&dead);
        running
    }

    #[cfg(target_os = "linux")]
    fn kill_escapee(number: &[u8]) -> Result<(), Errno> {
        let number = String::from_utf8_lossy(number).trim().parse().ok();
        kill_process(number.and_then(Pid::from_raw).unwrap(), Signal::KILL)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn nobody_waits_for_the_output_of_a_process_that_left_the_group() {
        let running = begin_with_escapee("sleep 1000", |running| !running.process.output().is_empty());
        let (_, stderr, end) = collect(&running.process);
        assert_eq!(end.exit, Exit::Code(0));
        running.thread.join().unwrap();
        kill_escapee(&stderr).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_left_the_group_and_writes_for_ever_delays_nothing() {
        let running = begin_with_escapee("yes", |running| running.process.output().is_full());
        let (mut bytes, mut number) = (0, Vec::new());
        loop {
            match running.process.output().recv_timeout(PATIENCE).unwrap() {
                Output::Stdout(piece) => bytes += piece.len(),
                Output::Stderr(piece) => number.extend(piece),
                Output::End(_) => break,
                Output::Failed(reason) => panic!("{reason}"),
            }
            assert!(bytes < 3 * PIECES * PIECE, "there is no end to it");
            // Slower than the writer, so that the pipe is never empty.
            thread::sleep(Duration::from_millis(5));
        }
        running.thread.join().unwrap();
        // It may be gone: it ends by itself when nobody can read what it writes.
        let _ = kill_escapee(&number);
    }

    #[test]
    fn much_output_takes_little_memory() {
        let running = begin(Command::shell("head -c 104857600 /dev/zero"));
        let mut bytes = 0;
        let end = loop {
            assert!(running.process.output().len() <= PIECES);
            match running.process.output().recv_timeout(PATIENCE).unwrap() {
                Output::Stdout(piece) => {
                    assert!(piece.capacity() <= PIECE);
                    bytes += piece.len();
                }
                Output::Stderr(piece) => panic!("{}", String::from_utf8_lossy(&piece)),
                Output::End(end) => break end,
                Output::Failed(reason) => panic!("{reason}"),
            }
        };
        assert_eq!((bytes, end.exit), (100 << 20, Exit::Code(0)));
    }

    #[test]
    fn a_reader_that_does_not_read_does_not_stop_the_time_limit() {
        let lifeline = Lifeline::new("unread-limit");
        let limited = |line| Command::shell(line).time_limit(Duration::from_millis(200));
        let (running, dead) = lifeline.begin(limited, "yes");
        assert_told(&dead);
        assert_eq!(collect(&running.process).2.exit, Exit::TimeLimit);

        let (running, dead) = lifeline.begin(limited, "yes");
        assert_told(&dead);
        drop(running.process);
        running.thread.join().unwrap();
    }

    #[test]
    fn the_end_after_an_interrupt_does_not_wait_for_the_reader() {
        let lifeline = Lifeline::new("unread-interrupt");
        let (running, dead) = lifeline.begin(Command::shell, "yes");
        // Nobody tells when a channel is full.
        while !running.process.output().is_full() {
            thread::yield_now();
        }
        running.process.interrupt();
        assert_told(&dead);
        running.thread.join().unwrap();
        assert_eq!(running.process.output().len(), PIECES);
        assert_eq!(collect(&running.process).2.exit, Exit::Interrupted);
    }

    #[test]
    fn a_group_that_is_dropped_is_killed() {
        let lifeline = Lifeline::new("group");
        let place = lifeline.0.path().to_owned();
        let mut prepared = std::process::Command::new("/bin/sh");
        prepared.args(["-c", "exec 3>line; sleep 1000 & sleep 1000"]).current_dir(&place);
        let group = Group::spawn(&mut prepared).unwrap();
        let mut line = File::open(place.join("line")).unwrap();
        drop(group);
        assert_told(&tell(move || line.read_to_end(&mut Vec::new()).unwrap()));
    }

    /// Counts descriptors and threads of a whole process, so that it has one to itself: this test program, run again.
    #[test]
    #[cfg(target_os = "linux")]
    fn no_thread_and_no_descriptor_is_left_behind() {
        const ALONE: &str = "LATENT_WORKER_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = thread::current().name().unwrap().to_owned();
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            let again = again.args(["--exact", &name, "--test-threads=1"]).env(ALONE, "1").output().unwrap();
            assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
            return;
        }
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        let census = || (count("fd"), count("task"));
        let finish = |running: Begun| running.thread.join().unwrap();
        finish(begin(Command::shell("true")));
        let before = census();
        for _ in 0..20 {
            let running = begin(Command::shell("cat; echo err >&2").stdin("in"));
            collect(&running.process);
            finish(running);
            let running = begin(Command::shell("yes").stdin(vec![0; 1 << 20]));
            running.process.interrupt();
            finish(running);
            let running = begin(Command::shell("sleep 1000").time_limit(Duration::from_millis(5)));
            finish(running);
            let missing = std::process::Command::new("no-such-program");
            assert!(start(missing, &Command::shell("").stdin("in"), bounded(0).0, Box::new(|_| {})).is_err());
        }
        // A thread can be joined a moment before the system has taken it off its list, now and in the census before.
        let deadline = Instant::now() + PATIENCE;
        let more = |(files, threads): (usize, usize)| files > before.0 || threads > before.1;
        while more(census()) {
            assert!(Instant::now() < deadline, "{:?}, and before {before:?}", census());
            thread::yield_now();
        }
    }
}
