//! The thread that does the work of one lease: it runs the command, passes its output on and says how it ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use latent_worker::{BuildResult, Command, CommandEnd, CommandError, Lease, LeaseEnd, Output};

use super::jobs::Job;
use super::lines::Lines;
use super::record::{ExitCodes, job_of};
use super::screen::Screen;

/// How many lines of a failed build are shown when its output is not.
const TAIL: usize = 20;

/// What all runners share.
pub(crate) struct Runners {
    pub(crate) jobs: Arc<[Job]>,
    pub(crate) exits: Arc<ExitCodes>,
    pub(crate) screen: Arc<Screen>,
    /// The value of FARM_DIR.
    pub(crate) directory: String,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) quiet: bool,
    /// Told about every lease that has come to its end.
    pub(crate) done: Sender<Done>,
}

/// What became of the build of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Done {
    Ended,
    /// It is back in the queue.
    Retried,
}

impl Runners {
    /// Starts a thread for the lease. Without one the lease is dropped, which ends its build.
    pub(crate) fn spawn(self: &Arc<Self>, lease: Lease) {
        let job = lease.build_id().and_then(|id| job_of(&self.jobs, id)).expect("the queue submits jobs alone").clone();
        let runners = self.clone();
        let thread = thread::Builder::new().name(format!("farm-run-{}", job.line));
        let spawned = thread.spawn(move || {
            let done = runners.run(lease, &job);
            // Nobody listens after a fast end.
            let _ = runners.done.send(done);
        });
        if let Err(error) = spawned {
            self.screen.alert(format!("farm: no thread for a build: {error}"));
            let _ = self.done.send(Done::Ended);
        }
    }

    fn run(&self, lease: Lease, job: &Job) -> Done {
        let mut report = Report::new(self, job);
        let result = match self.work(&lease, job, &mut report) {
            Ok(end) => {
                if let (Some(id), Some(code)) = (lease.build_id(), end.exit.code()) {
                    self.exits.put(id, code);
                }
                if end.exit.success() {
                    BuildResult::Succeeded
                } else {
                    BuildResult::Failed(end.exit.to_string().into())
                }
            }
            Err(CommandError::LeaseEnded(LeaseEnd::Lost(reason))) => {
                lease.retry(&LeaseEnd::Lost(reason).to_string());
                return Done::Retried;
            }
            // A second Ctrl-C.
            Err(CommandError::LeaseEnded(_)) => BuildResult::Cancelled,
            Err(error) => BuildResult::Failed(error.to_string().into()),
        };
        if matches!(result, BuildResult::Failed(_)) {
            report.show_tail();
        }
        lease.finish(result);
        Done::Ended
    }

    fn work(&self, lease: &Lease, job: &Job, report: &mut Report<'_>) -> Result<CommandEnd, CommandError> {
        let mut command = Command::shell(&*job.command).env("FARM_DIR", &self.directory);
        if let Some(limit) = self.time_limit {
            command = command.time_limit(limit);
        }
        let running = lease.start(&command)?;
        let (mut stdout, mut stderr) = (Lines::default(), Lines::default());
        loop {
            let end = match running.recv() {
                Ok(Output::Stdout(bytes)) => {
                    stdout.push(&bytes, |line| report.line('|', &line));
                    None
                }
                Ok(Output::Stderr(bytes)) => {
                    stderr.push(&bytes, |line| report.line('!', &line));
                    None
                }
                Ok(Output::End(end)) => Some(Ok(end)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            };
            if let Some(end) = end {
                stdout.finish().iter().for_each(|line| report.line('|', line));
                stderr.finish().iter().for_each(|line| report.line('!', line));
                report.flush();
                return end;
            }
            report.flush();
        }
    }
}

/// Where the output of one build goes.
struct Report<'a> {
    screen: &'a Screen,
    prefix: String,
    quiet: bool,
    /// Lines that are to be shown next.
    lines: String,
    /// The last lines, kept when they are not shown.
    tail: VecDeque<String>,
}

impl<'a> Report<'a> {
    fn new(runners: &'a Runners, job: &Job) -> Self {
        let prefix = format!("build {}", job.line);
        Self { screen: &runners.screen, prefix, quiet: runners.quiet, lines: String::new(), tail: VecDeque::new() }
    }

    fn line(&mut self, mark: char, text: &str) {
        let line = format!("{} {mark} {text}\n", self.prefix);
        if self.quiet {
            self.tail.truncate(TAIL - 1);
            self.tail.push_front(line);
        } else {
            self.lines.push_str(&line);
        }
    }

    fn flush(&mut self) {
        if !self.lines.is_empty() {
            self.screen.output(std::mem::take(&mut self.lines));
        }
    }

    fn show_tail(&mut self) {
        self.lines.extend(self.tail.drain(..).rev());
        self.flush();
    }
}
