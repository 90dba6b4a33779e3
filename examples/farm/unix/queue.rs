//! The main loop: hands every lease to a runner and listens to Ctrl-C until all is over. Beside it a thread submits the
//! builds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select};
use latent_worker::{Build, BuildError, BuildId, Inbox, Lease, Master, ShutdownMode};

use super::args::Options;
use super::jobs::Job;
use super::observer::Observer;
use super::runner::{Done, Runners};
use super::screen::Screen;

/// How often is looked whether the observer has caught up, and whether there was a Ctrl-C during a shutdown.
const LOOK: Duration = Duration::from_millis(100);
/// How long those who run builds have to say so when their builds were ended. They may be stuck in their output.
const RUNNERS: Duration = Duration::from_secs(3);
/// How long a fast shutdown may take before it is given up, and how often a slow one says what it waits for.
const PATIENCE: Duration = Duration::from_secs(30);
const REMIND: Duration = Duration::from_secs(10);

pub(crate) struct Queue<'a> {
    pub(crate) master: &'a Master,
    pub(crate) options: &'a Options,
    pub(crate) jobs: &'a [Job],
    pub(crate) runners: Arc<Runners>,
    pub(crate) done: Receiver<Done>,
    pub(crate) observer: &'a Observer,
    pub(crate) screen: &'a Screen,
    pub(crate) interrupts: &'a Receiver<()>,
}

/// How the queue came to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    AllOver,
    /// Nothing can be started.
    Stuck,
    /// By one Ctrl-C.
    Interrupted,
    /// By a second signal, or because standard output was closed.
    Cut,
}

impl Queue<'_> {
    /// Returns when every build is over and every instance is stopped, or when a fast shutdown could not manage that.
    pub(crate) fn run(&self) -> io::Result<End> {
        let inbox = Inbox::new();
        let cut = AtomicBool::new(false);
        let end = thread::scope(|scope| {
            let submit = || self.submit(&inbox, &cut);
            thread::Builder::new().name("farm-submit".into()).spawn_scoped(scope, submit)?;
            let end = self.follow(&inbox);
            cut.store(true, Ordering::Relaxed);
            io::Result::Ok(end)
        })?;
        Ok(self.shut_down(end))
    }

    /// Submits the builds, as fast as the record of that can be written: also after a Ctrl-C, so that every build has
    /// its answer.
    fn submit(&self, inbox: &Inbox, cut: &AtomicBool) {
        for job in self.jobs {
            while self.observer.is_behind() && !cut.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
            }
            if cut.load(Ordering::Relaxed) {
                return;
            }
            self.master.submit_to(self.build(job), inbox);
        }
    }

    fn follow(&self, inbox: &Inbox) -> End {
        let mut end = End::AllOver;
        let mut patience = never();
        let mut open = self.jobs.len();
        while open > 0 {
            select! {
                recv(inbox.receiver()) -> answer => {
                    let over = answer.is_ok_and(|answer| self.is_over(answer));
                    open -= usize::from(over);
                }
                recv(self.done) -> done => open -= usize::from(done == Ok(Done::Ended)),
                recv(self.interrupts) -> _ => {
                    let before = end;
                    end = self.interrupt(before);
                    if end == End::Cut && before < End::Cut {
                        patience = after(RUNNERS);
                    }
                }
                recv(self.observer.stuck()) -> _ => if end == End::AllOver {
                    end = self.give_up();
                },
                recv(self.screen.closed()) -> _ => {
                    end = self.output_closed();
                    patience = after(RUNNERS);
                }
                recv(patience) -> _ => break,
            }
        }
        end
    }

    fn build(&self, job: &Job) -> Build {
        Build::new(job.command.clone())
            .with_properties(job.properties.clone())
            .with_max_attempts(self.options.max_attempts)
    }

    /// Hands a lease on. Whether the build is over, because there is none: the observer tells why.
    fn is_over(&self, (_, answer): (BuildId, Result<Lease, BuildError>)) -> bool {
        match answer {
            Ok(lease) => {
                self.runners.spawn(lease);
                false
            }
            Err(_) => true,
        }
    }

    fn interrupt(&self, end: End) -> End {
        if end < End::Interrupted {
            let message = "farm: no further builds are started, running ones finish; Ctrl-C again ends them";
            // Told when it is true.
            self.master.shutdown(ShutdownMode::Graceful, Duration::ZERO);
            self.screen.alert(message.to_owned());
            return End::Interrupted;
        }
        if end == End::Interrupted {
            self.screen.alert("farm: running builds are ended; Ctrl-C again ends farm at once".to_owned());
        }
        self.cut()
    }

    fn give_up(&self) -> End {
        self.screen.alert("farm: given up: nothing can be started".to_owned());
        self.master.shutdown(ShutdownMode::Graceful, Duration::ZERO);
        End::Stuck
    }

    fn output_closed(&self) -> End {
        self.screen.alert("farm: nobody reads standard output any more: the builds are cancelled".to_owned());
        self.cut()
    }

    /// Ends the running builds.
    fn cut(&self) -> End {
        self.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
        End::Cut
    }

    /// Waits until nothing is left, with short limits, so that Ctrl-C is heard meanwhile.
    fn shut_down(&self, mut end: End) -> End {
        let begun = Instant::now();
        let mut remind = begun + REMIND;
        let (mut cut, mut reclaiming) = (None, None);
        loop {
            let mode = if end == End::Cut { ShutdownMode::Fast } else { ShutdownMode::Graceful };
            let report = self.master.shutdown(mode, LOOK);
            if report.complete {
                return end;
            }
            while self.interrupts.try_recv().is_ok() {
                end = self.interrupt(end);
            }
            if self.screen.closed().try_recv().is_ok() {
                end = self.output_closed();
            }
            if end == End::Cut && cut.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                self.screen.alert(format!("farm: given up: {report}"));
                return end;
            }
            // Leftovers of an earlier farm may never be reclaimed.
            if report.in_flight.is_empty() && reclaiming.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return end;
            }
            if Instant::now() > remind {
                self.screen.alert(format!("farm: still stopping: {report}"));
                remind += REMIND;
            }
        }
    }
}
