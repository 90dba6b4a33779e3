//! The threads on which the commands of one agent are supervised: one for each command that runs, and for a moment one that
//! waits for the next command, because a thread more is a good part of what a short command costs.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::process::Supervisor;

/// How long a thread waits for the next command.
const IDLE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Supervisors {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// To the thread that waits.
    spare: Option<Sender<Supervisor>>,
    /// Of those that live, and of some that have ended since the last one was started.
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Supervisors {
    /// Supervises a command to its end, on a thread of its own. An error is that there is none; then the command was ended.
    pub(super) fn begin(self: &Arc<Self>, mut supervisor: Supervisor) -> io::Result<()> {
        let mut inner = self.inner.lock();
        // With the lock held: who gives up waiting does so under it, and looks once more then.
        if let Some(spare) = inner.spare.take() {
            match spare.try_send(supervisor) {
                Ok(()) => return Ok(()),
                Err(back) => supervisor = back.into_inner(),
            }
        }
        inner.threads.retain(|thread| !thread.is_finished());
        drop(inner);
        let threads = self.clone();
        let thread = Builder::new().name("local command".into()).spawn(move || {
            let mut next = Some(supervisor);
            while let Some(supervisor) = next.take() {
                supervisor.run();
                next = threads.next();
            }
        })?;
        self.inner.lock().threads.push(thread);
        Ok(())
    }

    /// Waits for the next command; `None` when there is none soon, or another thread waits already.
    fn next(&self) -> Option<Supervisor> {
        let (sender, commands) = bounded(1);
        {
            let mut inner = self.inner.lock();
            if inner.closed || inner.spare.is_some() {
                return None;
            }
            inner.spare = Some(sender);
        }
        match commands.recv_timeout(IDLE) {
            Ok(supervisor) => Some(supervisor),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let mut inner = self.inner.lock();
                // If it was not taken it is still there, and it is this one.
                commands.try_recv().ok().or_else(|| {
                    inner.spare = None;
                    None
                })
            }
        }
    }

    /// No thread waits for another command.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.spare = None;
    }

    /// Joins this thread with the others. It ends when no command is left.
    #[cfg(target_os = "linux")]
    pub(super) fn keep(&self, thread: JoinHandle<()>) {
        self.inner.lock().threads.push(thread);
    }

    /// Joins the threads. To be called when no command is left and no other will come.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut self.inner.lock().threads);
        for thread in threads {
            // A panic in it was reported on the thread itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::testing::{PATIENCE, collect};
    use super::*;
    use crate::Command;
    use crate::drivers::local::process::{Running, start};

    /// Runs a command to its end.
    fn run(supervisors: &Arc<Supervisors>, line: &str) {
        let mut prepared = std::process::Command::new("/bin/sh");
        prepared.args(["-c", line]);
        let Running { process, supervisor, .. } =
            start(prepared, &Command::shell(line), bounded(0).0, Box::new(|_| {})).unwrap();
        supervisors.begin(supervisor).unwrap();
        assert!(collect(&process).2.exit.success());
    }

    fn await_spare(supervisors: &Supervisors) {
        let deadline = Instant::now() + PATIENCE;
        // Nobody tells.
        while supervisors.inner.lock().spare.is_none() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn commands_that_follow_each_other_share_a_thread_which_ends_with_the_agent() {
        let supervisors = Arc::new(Supervisors::default());
        for _ in 0..5 {
            run(&supervisors, "true");
            await_spare(&supervisors);
        }
        assert_eq!(supervisors.inner.lock().threads.len(), 1);
        supervisors.close();
        supervisors.join();
        assert_eq!(Arc::strong_count(&supervisors), 1, "no thread is left");
        run(&supervisors, "true");
        supervisors.join();
        assert!(supervisors.inner.lock().spare.is_none(), "nobody waits any more");
    }
}
