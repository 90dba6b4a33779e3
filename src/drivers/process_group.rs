//! A child process that leads a process group of its own, without the terminal of this process. One owner starts it,
//! waits for it, signals it and reaps it.
//!
//! A pid is free for others from the moment it is reaped; so the leader stays a zombie, which keeps the number of its
//! group taken, until whoever owns the group has signalled it for the last time. What leaves the group (`setsid`, a
//! shell with job control) is not followed. When to signal, and what to do with output, is decided by the owner.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
#[cfg(feature = "local")]
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use process_wrap::std::{CommandWrap, CommandWrapper, ProcessSession};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use rustix::process::{kill_process, kill_process_group, test_kill_process_group, waitid};

use super::pipe::OutputPipe;
use super::processes::members;

/// How long killed processes may take to end.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(10);

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
    pid: Pid,
    /// `None` when the leader was reaped or given up: the number may then belong to another process.
    leader: Option<Child>,
}

/// Leaders that could not be killed. They are reaped after they have ended, so that they do not stay as zombies.
static GIVEN_UP: Mutex<Vec<Child>> = Mutex::new(Vec::new());

fn reap_given_up() {
    GIVEN_UP.lock().retain_mut(|child| {
        let _family = FAMILY.read();
        let runs = matches!(child.try_wait(), Ok(None));
        if !runs {
            LEADERS.lock().remove(&child.id());
        }
        runs
    });
}

/// All leaders that have not been reaped. Only their own groups reap them.
static LEADERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
/// Held for reading while a child is started, or reaped by its group; held for writing while other children are reaped.
static FAMILY: RwLock<()> = RwLock::new(());

/// Reaps the children of this process that it has inherited and that have ended.
#[cfg(all(feature = "local", target_os = "linux"))]
pub(super) fn reap_inherited() -> io::Result<()> {
    let _family = FAMILY.write();
    let any = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    if matches!(waitid(WaitId::All, any | WaitIdOptions::NOWAIT), Ok(None) | Err(Errno::CHILD)) {
        return Ok(());
    }
    for child in super::processes::ended_children()? {
        if !LEADERS.lock().contains(&child.as_raw_nonzero().get().unsigned_abs()) {
            // The child has ended, so this does not block. An error means that it was reaped already.
            let _ = waitid(WaitId::Pid(child), any);
        }
    }
    Ok(())
}

/// Makes a command lead a group of its own. If this process has a terminal, the command also leads a session, so that
/// it does not have that terminal. A session needs a full `fork`, which is slow in a large process, so it is not used
/// without a terminal.
fn detach(prepared: &mut Command) -> io::Result<()> {
    if has_terminal() {
        return ProcessSession.pre_spawn(prepared, &CommandWrap::with_new("", |_| {}));
    }
    prepared.process_group(0);
    Ok(())
}

/// Returns whether this process has a controlling terminal.
fn has_terminal() -> bool {
    let none = [Errno::NXIO, Errno::NOENT].map(|errno| Some(errno.raw_os_error()));
    File::open("/dev/tty").map_or_else(|error| !none.contains(&error.raw_os_error()), |_| true)
}

impl Group {
    /// Starts the leader.
    ///
    /// A file that was written a moment ago may still be open in a process that another thread is just starting
    /// (between its fork and its exec): the system calls it busy, nobody tells when it is not, and it is over in no
    /// time.
    pub(super) fn spawn(prepared: &mut Command) -> io::Result<Self> {
        reap_given_up();
        detach(prepared)?;
        let mut tries = 1;
        let _family = FAMILY.read();
        loop {
            match prepared.spawn() {
                Ok(leader) => {
                    LEADERS.lock().insert(leader.id());
                    return Ok(Self { pid: Pid::from_child(&leader), leader: Some(leader) });
                }
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                    tries += 1;
                    thread::sleep(BUSY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor that can be read when the leader has ended; `None` where the system has no such thing.
    #[cfg(feature = "local")]
    pub(super) fn end_descriptor(&self) -> Option<OwnedFd> {
        #[cfg(target_os = "linux")]
        return rustix::process::pidfd_open(self.pid(), rustix::process::PidfdFlags::empty()).ok();
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Standard output and standard error, as far as they are pipes. Once.
    pub(super) fn take_output(&mut self) -> io::Result<[Option<OutputPipe>; 2]> {
        let leader = self.leader.as_mut();
        let (stdout, stderr) = leader.map(|leader| (leader.stdout.take(), leader.stderr.take())).unwrap_or_default();
        let stdout = stdout.map(|pipe| OutputPipe::new(pipe.into()));
        let stderr = stderr.map(|pipe| OutputPipe::new(pipe.into()));
        Ok([stdout.transpose()?, stderr.transpose()?])
    }

    /// Sends SIGTERM to the whole group. Errors are ignored: the kill after the grace reports them.
    #[cfg(any(feature = "command", feature = "process"))]
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM).ok();
    }

    /// Kills the whole group. Returns an error if the leader cannot be killed, because it has changed its user. Other
    /// members are checked when the group [ends](Self::end).
    pub(super) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.leader.is_some() {
            let group = kill_process_group(self.pid, signal);
            // By itself too, for it may have moved to another group; but a signal that can be caught only once.
            if signal == Signal::KILL || group.is_err() {
                match kill_process(self.pid, signal) {
                    // The process has ended: systems differ in the error that they return then.
                    Err(Errno::SRCH) => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    /// Blocks until the leader has ended. What is left of the group is left alone from now on.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        let mut leader = self.leader.take().ok_or(Errno::CHILD)?;
        // Not while `FAMILY` is locked, because it may take long. The wait below returns an error again.
        let _ = wait_for_end(self.pid);
        let _family = FAMILY.read();
        LEADERS.lock().remove(&leader.id());
        leader.wait()
    }

    /// Kills the rest of the group of a leader that has ended, and reaps the leader. Returns the processes that still
    /// run `patience` after that (on Linux).
    pub(super) fn end(&mut self, patience: Duration) -> io::Result<(ExitStatus, Vec<Pid>)> {
        // The leader has ended; other processes that cannot be killed are found below.
        let _ = self.kill();
        let status = self.reap()?;
        // While the group has members, its number is not used again.
        match test_kill_process_group(self.pid) {
            Err(Errno::SRCH) => Ok((status, Vec::new())),
            _ => Ok((status, survivors(self.pid, patience)?)),
        }
    }

    /// Gives up a leader that does not end although it was killed. Returns the processes of its group that still run.
    pub(super) fn give_up(&mut self) -> Vec<Pid> {
        let survivors = survivors(self.pid, Duration::ZERO).unwrap_or_default();
        GIVEN_UP.lock().extend(self.leader.take());
        if survivors.is_empty() { vec![self.pid] } else { survivors }
    }

    /// Somebody else has reaped the leader.
    pub(super) fn lost(&mut self) {
        if let Some(leader) = self.leader.take() {
            LEADERS.lock().remove(&leader.id());
        }
    }
}

impl Drop for Group {
    /// For a start that failed half-way and for an owner that panicked.
    fn drop(&mut self) {
        match self.kill() {
            Ok(()) => _ = self.reap(),
            Err(_) => GIVEN_UP.lock().extend(self.leader.take()),
        }
    }
}

/// Kills the members of a group again. Returns those that cannot be killed or still run after `patience`.
fn survivors(group: Pid, patience: Duration) -> io::Result<Vec<Pid>> {
    let begin = Instant::now();
    let mut survivors = Vec::new();
    for member in members(group.as_raw_nonzero().get().unsigned_abs())? {
        if member.signal(Signal::KILL).is_err() || !member.wait(Some(patience.saturating_sub(begin.elapsed())))? {
            survivors.push(member.pid());
        }
    }
    Ok(survivors)
}
