//! A child process that leads a process group of its own: started, waited for, signalled and reaped by one owner.
//!
//! A pid is free for others from the moment it is reaped; so the leader stays a zombie, which keeps the number of its
//! group taken, until whoever owns the group has signalled it for the last time. What leaves the group (`setsid`, a
//! shell with job control) is not followed. When to signal, and what to do with output, is decided by the owner.

use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::pipe::OutputPipe;

/// How often, and how far apart, a program is tried that somebody still has open for writing.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Blocks until the process has ended, and leaves it to be reaped.
pub(super) fn wait_for_end(pid: Pid) -> io::Result<()> {
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How the process has ended, if it has; leaves it to be reaped.
#[cfg(feature = "process")]
pub(super) fn end_by_now(pid: Pid) -> io::Result<Option<rustix::process::WaitIdStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    Ok(waitid(WaitId::Pid(pid), options)?)
}

/// A process group, by its leader. The only one who signals the group and who reaps the leader.
pub(super) struct Group {
    leader: Child,
    /// The number may belong to a stranger.
    reaped: bool,
}

impl Group {
    /// Starts the leader.
    ///
    /// A file that was written a moment ago may still be open in a process that another thread is just starting
    /// (between its fork and its exec): the system calls it busy, nobody tells when it is not, and it is over in no
    /// time.
    pub(super) fn spawn(prepared: &mut Command) -> io::Result<Self> {
        prepared.process_group(0);
        let mut tries = 1;
        loop {
            match prepared.spawn() {
                Ok(leader) => return Ok(Self { leader, reaped: false }),
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                    tries += 1;
                    thread::sleep(BUSY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.leader)
    }

    /// Standard output and standard error, as far as they are pipes. Once.
    pub(super) fn take_output(&mut self) -> io::Result<[Option<OutputPipe>; 2]> {
        let stdout = self.leader.stdout.take().map(|pipe| OutputPipe::new(pipe.into()));
        let stderr = self.leader.stderr.take().map(|pipe| OutputPipe::new(pipe.into()));
        Ok([stdout.transpose()?, stderr.transpose()?])
    }

    /// Asks the whole group to end.
    #[cfg(any(feature = "command", feature = "process"))]
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM).ok();
    }

    /// An error when the system refuses to kill the leader; when it has ended, systems differ in what they say.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.reaped {
            let group = kill_process_group(self.pid(), signal);
            // By itself too, for it may have moved to another group; but a signal that can be caught only once.
            if signal == Signal::KILL || group.is_err() {
                kill_process(self.pid(), signal)?;
            }
        }
        Ok(())
    }

    /// Blocks until the leader has ended. What is left of the group is left alone from now on.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.leader.wait();
        self.reaped = true;
        status
    }

    /// Somebody else has reaped the leader.
    pub(super) fn lost(&mut self) {
        self.reaped = true;
    }
}

impl Drop for Group {
    /// For a start that failed half-way and for an owner that panicked.
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.kill();
            let _ = self.reap();
        }
    }
}
