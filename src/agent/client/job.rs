//! What one command does, on a thread of its own: has the [`Agent`] do it, and tells the master.
//!
//! Output goes out as long as few enough of its messages are unanswered: that is how a master slows a command. What is
//! done with files is in `transfer`.

use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::{never, select};

use super::codec::{self, Job, Piece, Run, Settings};
use super::connection::Port;
use super::text::{Lines, Whole};
use super::transfer;
use crate::{Agent, Interrupt, Output, Process};

/// How many messages with output may be unanswered. A master of ours holds answers back when it has more than enough.
const WINDOW: usize = 8;

pub(super) fn run(agent: &dyn Agent, job: Job, settings: Settings, mut port: Port) {
    let error = match job {
        Job::Run(run) => run_program(agent, &run, settings, &mut port),
        Job::Files(job) => transfer::run(agent, &job, &mut port),
    };
    port.complete(error.as_deref());
}

/// Tells the master something about a command.
pub(super) fn tell(port: &mut Port, pieces: &[Piece<'_>]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    port.send(|number, id| codec::encode_update(number, id, now, pieces));
}

/// Tells the master one line.
pub(super) fn tell_line(port: &mut Port, stream: &'static str, line: &str) {
    let line = line.replace('\n', " ");
    let positions = [line.chars().count()];
    tell(port, &[Piece::Lines(stream, &(line + "\n"), &positions)]);
}

/// An error is one that is told with the end.
fn run_program(agent: &dyn Agent, run: &Run, settings: Settings, port: &mut Port) -> Option<String> {
    // As the stock worker has it.
    if !settings.raw_output
        && let (Some(directory), Some(files)) = (&run.command.directory, agent.files())
        && !directory.is_dir()
    {
        // When it cannot be made, the command cannot be started, which says so.
        let _ = files.make_directory(directory, &Interrupt::never());
    }
    let started = agent.start_command(&run.command).map_err(|error| error.to_string());
    let reason = match started.and_then(|process| follow(&process, run, settings, port)) {
        Ok(()) => return None,
        Err(reason) => reason,
    };
    // A program that was not run. A master of ours is told as an error, others as the stock worker does it.
    if settings.raw_output {
        return Some(reason);
    }
    tell_line(port, "stderr", &reason);
    tell(port, &[Piece::ExitCode(1)]);
    None
}

/// Passes on what comes from a program to its end, or to that of the connection. An error when the agent could not run it.
fn follow(process: &Process, run: &Run, settings: Settings, port: &mut Port) -> Result<(), String> {
    let mut stdout = Stream::new("stdout", run.stdout, settings);
    let mut stderr = Stream::new("stderr", run.stderr, settings);
    let (answers, mut interrupted, no_output) = (port.answers().clone(), port.interrupted.clone(), never());
    loop {
        // When enough is under way, first the answers.
        let output = if port.unanswered() < WINDOW { process.output() } else { &no_output };
        select! {
            recv(interrupted) -> _ => {
                interrupted = never();
                process.interrupt();
            }
            recv(answers) -> answer => match answer {
                Ok(_) => port.answered(),
                // There is nobody to tell how it ends.
                Err(_) => return Ok(()),
            },
            recv(output) -> output => {
                process.taken();
                match output {
                    Ok(Output::Stdout(bytes)) => stdout.tell(&bytes, port),
                    Ok(Output::Stderr(bytes)) => stderr.tell(&bytes, port),
                    Ok(Output::End(end)) => {
                        stdout.tell_rest(port);
                        stderr.tell_rest(port);
                        let (pieces, words) = codec::told(&end);
                        if let Some(words) = words {
                            tell_line(port, "header", &words);
                        }
                        tell(port, &pieces);
                        return Ok(());
                    }
                    Ok(Output::Failed(reason)) => return Err(reason),
                    Err(_) => return Err("the agent does not say how it ended".to_owned()),
                }
            }
        }
    }
}

/// One stream of a program, said in the way that the master wants it.
struct Stream {
    name: &'static str,
    wanted: bool,
    /// `None` for bytes as they are.
    lines: Option<Lines>,
}

impl Stream {
    fn new(name: &'static str, wanted: bool, settings: Settings) -> Self {
        let lines = (!settings.raw_output).then(|| Lines::new(settings.max_line_length));
        Self { name, wanted, lines }
    }

    fn tell(&mut self, bytes: &[u8], port: &mut Port) {
        match &mut self.lines {
            _ if !self.wanted => {}
            None => tell(port, &[Piece::Raw(self.name, bytes)]),
            Some(lines) => {
                let whole = lines.feed(bytes);
                self.tell_lines(&whole, port);
            }
        }
    }

    /// What has no end of its own.
    fn tell_rest(&mut self, port: &mut Port) {
        let rest = self.lines.as_mut().map(Lines::rest).unwrap_or_default();
        self.tell_lines(&rest, port);
    }

    fn tell_lines(&self, whole: &Whole, port: &mut Port) {
        if !whole.text.is_empty() {
            tell(port, &[Piece::Lines(self.name, &whole.text, &whole.positions)]);
        }
    }
}
