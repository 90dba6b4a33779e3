//! Processes that a dead master has left behind: found by what proves that they are its, and ended.
//!
//! The number of a process proves nothing, for it may be a stranger's by now. What does prove it is a variable in its
//! environment with a value that belongs to one attempt alone, or its number together with the time at which it was
//! started. Signals go through a handle of the process (a pidfd) that was opened before the proof was looked at, so
//! that none can go to whoever gets the number next.
//!
//! Only on Linux (5.3 or later). Elsewhere nothing is found, and nobody may say that nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

use super::processes::{Handle, identity, is_gone, marked, members};
use crate::Reclaimed;

/// The answer of a reclaim that has found and removed all that it can.
pub(super) fn nothing_found() -> Reclaimed {
    if cfg!(target_os = "linux") { Reclaimed::Gone } else { Reclaimed::Unsupported }
}

/// A process of this machine, and no other one that ever was or will be: its number, the time at which it was started
/// in clock ticks since the machine was, and which start of the machine that was. As text it can be recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ProcessId {
    pid: Pid,
    start: u64,
    boot: String,
}

impl ProcessId {
    /// Of a process that is there: a child that was not reaped, say. `None` where processes cannot be told apart.
    pub(super) fn of(pid: Pid) -> io::Result<Option<Self>> {
        identity(pid).map(|known| known.map(|(start, boot)| Self { pid, start, boot }))
    }

    /// Kills the process, and its group if it leads one, and waits for the end. Returns an error if a process still
    /// runs `patience` after that.
    ///
    /// Of a group whose leader is gone nothing proves whose it is, and it is left alone.
    #[cfg(feature = "process")]
    pub(super) fn kill(&self, patience: Duration) -> io::Result<()> {
        Hunt { find: &|| Ok(self.find()?.into_iter().collect()), groups: BTreeSet::new() }.kill(patience)
    }

    fn outlives_a_kill(&self) -> io::Result<bool> {
        let Some(process) = self.find()? else { return Ok(false) };
        let refused = process.signal(Signal::KILL).is_err();
        Ok(refused || !process.wait(Some(Duration::ZERO))?)
    }

    /// Returns `None` if the process has ended, also if its number belongs to another process now.
    fn find(&self) -> io::Result<Option<Handle>> {
        let Some(process) = Handle::open(self.pid)? else { return Ok(None) };
        match Self::of(self.pid) {
            Ok(Some(now)) if now == *self && !process.wait(Some(Duration::ZERO))? => Ok(Some(process)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.pid, self.start, self.boot)
    }
}

impl FromStr for ProcessId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or(());
        // What is not a positive number is asked for first: the conversion panics.
        let pid = next()?.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(())?;
        Ok(Self { pid, start: next()?.parse().map_err(|_| ())?, boot: next()?.to_owned() })
    }
}

/// Returns the error text for processes that have survived a kill.
pub(super) fn still_running(pids: &[Pid]) -> String {
    let numbers: Vec<_> = pids.iter().map(Pid::to_string).collect();
    match &numbers[..] {
        [number] => format!("process {number} still runs after it was killed"),
        _ => format!("processes {} still run after they were killed", numbers.join(", ")),
    }
}

/// Processes that have survived a kill, by the attempt that they belong to. The stop of the attempt fails, and its
/// reclaim fails until they have ended. Contains only attempts of this process. Clones share the list.
#[derive(Clone, Default)]
pub(super) struct Survivors(Arc<Mutex<BTreeMap<OsString, Vec<ProcessId>>>>);

impl Survivors {
    /// Adds processes, except those that have ended, and those that cannot be identified on this system.
    pub(super) fn add(&self, attempt: impl AsRef<OsStr>, pids: &[Pid]) {
        let known = pids.iter().filter_map(|pid| ProcessId::of(*pid).ok().flatten());
        let mut known = known.peekable();
        if known.peek().is_some() {
            self.0.lock().entry(attempt.as_ref().to_owned()).or_default().extend(known);
        }
    }

    /// Tries to kill the processes again. Returns an error that names those that still run, and forgets the others.
    pub(super) fn check(&self, attempt: impl AsRef<OsStr>) -> io::Result<()> {
        let Some(ids) = self.0.lock().remove(attempt.as_ref()) else { return Ok(()) };
        let (mut left, mut failure) = (Vec::new(), Ok(()));
        for id in ids {
            match id.outlives_a_kill() {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => failure = Err(error),
            }
            left.push(id);
        }
        if !left.is_empty() {
            let pids: Vec<_> = left.iter().map(|id| id.pid).collect();
            self.0.lock().entry(attempt.as_ref().to_owned()).or_default().extend(left);
            failure?;
            return Err(io::Error::other(still_running(&pids)));
        }
        Ok(())
    }
}

impl fmt::Debug for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.lock().values().flatten().map(ProcessId::to_string)).finish()
    }
}

/// How long processes may take to end after SIGTERM before they are killed.
#[cfg(any(feature = "command", feature = "process"))]
#[derive(Clone, Copy)]
pub(super) struct Grace<'a> {
    pub(super) length: Duration,
    /// The grace ends at once when this channel is disconnected.
    pub(super) cancel: &'a Receiver<Infallible>,
}

/// Returns whether a process has `name=value` in its environment.
#[cfg(feature = "command")]
pub(super) fn any_marked(name: &str, value: &OsStr) -> io::Result<bool> {
    Ok(!marked(name, value)?.is_empty())
}

/// Kills every process that has `name=value` in its environment, and the groups that these processes lead, until none
/// is left. Returns an error that names the processes that still run `patience` after the kill.
#[cfg(any(feature = "local", feature = "process"))]
pub(super) fn kill_marked(name: &str, value: &OsStr, patience: Duration) -> io::Result<()> {
    Hunt { find: &|| marked(name, value), groups: BTreeSet::new() }.kill(patience)
}

/// Like `kill_marked`, but sends SIGTERM first and waits for the grace.
#[cfg(feature = "command")]
pub(super) fn end_marked(name: &str, value: &OsStr, grace: Grace<'_>, patience: Duration) -> io::Result<()> {
    Hunt { find: &|| marked(name, value), groups: BTreeSet::new() }.end(grace, patience)
}

/// Ends programs that a dead master has left running, with all that they have run: every process that leads a group,
/// was run as one of the `programs` and has `name=value` in its environment, and every process of its group that has
/// this variable. Processes that they have started in other groups live on.
#[cfg(any(feature = "command", feature = "process"))]
pub(super) fn end_programs(
    programs: &[Vec<&OsStr>],
    name: &str,
    value: &OsStr,
    grace: Grace<'_>,
    patience: Duration,
) -> io::Result<()> {
    let mut groups = BTreeSet::new();
    for process in &marked(name, value)? {
        if process.leads_a_group() && process.was_run_as_one_of(programs)? {
            groups.insert(process.number());
        }
    }
    if groups.is_empty() {
        return Ok(());
    }
    let is_member = |process: &Handle| process.group().is_some_and(|group| groups.contains(&group));
    let find = || Ok(marked(name, value)?.into_iter().filter(is_member).collect());
    Hunt { find: &find, groups: BTreeSet::new() }.end(grace, patience)
}

/// Ends all processes that `find` returns.
struct Hunt<'a> {
    find: &'a dyn Fn() -> io::Result<Vec<Handle>>,
    /// The groups that found processes lead.
    groups: BTreeSet<u32>,
}

impl Hunt<'_> {
    fn find(&mut self) -> io::Result<Vec<Handle>> {
        let found = (self.find)()?;
        self.groups.extend(found.iter().filter(|process| process.leads_a_group()).map(Handle::number));
        Ok(found)
    }

    /// Sends SIGTERM, and kills the processes that are left after the grace.
    #[cfg(any(feature = "command", feature = "process"))]
    fn end(mut self, grace: Grace<'_>, patience: Duration) -> io::Result<()> {
        let mut found = self.find()?;
        for process in &found {
            // Each process gets one signal: a program may handle only the first one.
            if process.leads_a_group() || process.group().is_none_or(|group| !self.groups.contains(&group)) {
                process.signal_all(Signal::TERM)?;
            }
        }
        let begin = Instant::now();
        // Found processes are identified by their handles, also after their leader has ended; processes that they start
        // are found again.
        while !found.is_empty() && have_ended(&found, begin, grace.length, Some(grace.cancel))? {
            found = self.find()?;
        }
        self.kill_these(found, patience)
    }

    #[cfg(any(feature = "local", feature = "process"))]
    fn kill(mut self, patience: Duration) -> io::Result<()> {
        let found = self.find()?;
        self.kill_these(found, patience)
    }

    /// Kills the processes, and repeats the search, because a found process may have started another one before its
    /// end.
    fn kill_these(mut self, mut found: Vec<Handle>, patience: Duration) -> io::Result<()> {
        let begin = Instant::now();
        while !found.is_empty() {
            for process in &found {
                process.signal_all(Signal::KILL)?;
            }
            if !have_ended(&found, begin, patience, None)? {
                break;
            }
            found = self.find()?;
        }
        let mut left = living(&found)?;
        // A process that has changed its user is not found by its environment, but as a member of its group.
        for group in self.groups {
            let members = members(group)?;
            if !have_ended(&members, begin, patience, None)? {
                left.extend(living(&members)?);
            }
        }
        if left.is_empty() { Ok(()) } else { Err(io::Error::other(still_running(&left))) }
    }
}

fn living(processes: &[Handle]) -> io::Result<Vec<Pid>> {
    let mut living = Vec::new();
    for process in processes {
        if !process.wait(Some(Duration::ZERO))? {
            living.push(process.pid());
        }
    }
    Ok(living)
}

/// Waits for the end of all of them; false when that has not come in time, or not before `cancel` was disconnected.
fn have_ended(
    processes: &[Handle],
    begin: Instant,
    limit: Duration,
    cancel: Option<&Receiver<Infallible>>,
) -> io::Result<bool> {
    /// A process and a channel cannot be waited for together.
    const LOOK_AT_CANCEL: Duration = Duration::from_millis(50);
    for process in processes {
        while !process.wait(Some(limit.saturating_sub(begin.elapsed()).min(LOOK_AT_CANCEL)))? {
            let cancelled = cancel.is_some_and(|cancel| cancel.try_recv() == Err(TryRecvError::Disconnected));
            if cancelled || begin.elapsed() >= limit {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(all(test, target_os = "linux", feature = "command", feature = "local", feature = "process"))]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::super::processes::known;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A shell that runs `line` as the leader of a group; it writes a line when it is ready.
    fn shell(line: &str, mark: &str) -> (Child, std::process::ChildStdout) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", line]).env("LW_TEST_MARK", mark).process_group(0).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 1]).unwrap();
        (child, stdout)
    }

    fn mark(name: &str) -> String {
        format!("{name}-{}", std::process::id())
    }

    /// Returns when nobody holds the output any more: all processes of the shell are dead.
    fn assert_dead(mut stdout: std::process::ChildStdout, mut child: Child) {
        let (told, dead) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(stdout.read_to_end(&mut Vec::new()).map(|_| ())));
        dead.recv_timeout(PATIENCE).expect("something is still alive").unwrap();
        child.wait().unwrap();
    }

    /// Kills the whole group.
    fn end(mut child: Child) {
        rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn j4_a_process_is_killed_by_its_number_and_its_start_time_alone() {
        let (mut child, stdout) = shell("sleep 1000 & echo; sleep 1000", "");
        let id = ProcessId::of(Pid::from_child(&child)).unwrap().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        let strangers = [
            ProcessId { start: id.start + 1, ..id.clone() },
            ProcessId { boot: "another start of the machine".to_owned(), ..id.clone() },
        ];
        for stranger in strangers {
            stranger.kill(PATIENCE).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "and whoever has its number is not touched");
        }
        id.kill(PATIENCE).unwrap();
        assert_dead(stdout, child);
        // A process that has already ended counts as killed.
        id.kill(PATIENCE).unwrap();
    }

    #[test]
    fn what_is_no_process_id_is_not_taken_for_one() {
        for text in ["", "1", "1:2", "0:2:3", "-5:2:3", "x:2:3", "1:x:3"] {
            assert_eq!(text.parse::<ProcessId>(), Err(()), "{text}");
        }
    }

    #[test]
    fn j4_marked_processes_are_killed_wherever_they_have_gone_and_no_others() {
        let ours = mark("ours");
        let line = "setsid sh -c 'sleep 1000 & sleep 1000' & (env -u LW_TEST_MARK sleep 1000) & echo; sleep 1000";
        let (child, stdout) = shell(line, &ours);
        let (mut stranger, strangers_output) = shell("echo; sleep 1000", &format!("{ours}-and-more"));
        kill_marked("LW_TEST_MARK", OsStr::new(&ours), PATIENCE).unwrap();
        assert_dead(stdout, child);
        assert!(stranger.try_wait().unwrap().is_none());
        assert!(marked("LW_TEST_MARK", OsStr::new(&ours)).unwrap().is_empty(), "nothing is left");
        kill_marked("LW_TEST_MARK", OsStr::new(&ours), PATIENCE).unwrap();
        end(stranger);
        drop(strangers_output);
    }

    #[test]
    fn j4_programs_are_ended_by_their_words_and_mark_and_what_they_have_started_elsewhere_lives_on() {
        let mark = mark("program");
        let line = "trap 'echo asked; exit' TERM; echo; while :; do sleep 0.01; done";
        let end_it = |line: &str, grace| end_it(&["/bin/sh", "-c", line].map(OsStr::new), &mark, grace);
        let (program, mut stdout) = shell(line, &mark);
        let (mut instance, instances_output) = shell("echo; sleep 1000", &mark);
        end_it("something else", PATIENCE);
        end_it(line, PATIENCE);
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        assert_eq!(said, "asked\n");
        assert_dead(stdout, program);
        assert!(instance.try_wait().unwrap().is_none());
        end(instance);
        drop(instances_output);

        let stubborn = "trap '' TERM; echo; sleep 1000 & wait; sleep 1000";
        let (program, stdout) = shell(stubborn, &mark);
        end_it(stubborn, Duration::from_millis(10));
        assert_dead(stdout, program);
    }

    #[test]
    fn j2_what_a_program_has_run_is_waited_for_also_when_the_program_ends_at_once() {
        let mark = mark("slow-tool");
        // The shell dies of the first signal; the tool takes its time, or does not listen at all.
        for (tool, grace) in [("trap 'sleep 1; exit' TERM", PATIENCE), ("trap '' TERM", Duration::from_millis(50))] {
            let line = format!("sh -c \"{tool}; echo; while :; do sleep 0.01; done\"; true");
            let (mut program, mut stdout) = shell(&line, &mark);
            let words = ["/bin/sh", "-c", &line].map(OsStr::new);
            end_it(&words, &mark, grace);
            program.wait().unwrap();
            let mut stdout_is_closed = rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::IN);
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(std::slice::from_mut(&mut stdout_is_closed), Some(&now)).unwrap();
            assert!(stdout_is_closed.revents().contains(rustix::event::PollFlags::HUP), "{tool}: it still runs");
            stdout.read_to_end(&mut Vec::new()).unwrap();
        }
    }

    fn end_it(words: &[&OsStr], mark: &str, grace: Duration) {
        let (_open, cancel) = crossbeam_channel::bounded(0);
        let grace = Grace { length: grace, cancel: &cancel };
        end_programs(&[words.to_vec()], "LW_TEST_MARK", OsStr::new(mark), grace, PATIENCE).unwrap();
    }

    #[test]
    fn s3_a_shutdown_ends_the_grace_of_programs_that_are_ended() {
        let mark = mark("cancelled");
        let stubborn = "trap '' TERM; echo; sleep 1000 & wait; sleep 1000";
        let (program, stdout) = shell(stubborn, &mark);
        let words = ["/bin/sh", "-c", stubborn].map(OsStr::new).to_vec();
        let (open, cancel) = crossbeam_channel::bounded(0);
        drop(open);
        let programs = [vec![OsStr::new("another")], words];
        // Without the cancel this would take longer than any test.
        let grace = Grace { length: Duration::from_secs(100_000), cancel: &cancel };
        end_programs(&programs, "LW_TEST_MARK", OsStr::new(&mark), grace, PATIENCE).unwrap();
        assert_dead(stdout, program);
    }

    #[test]
    fn j2_a_process_that_cannot_be_looked_at_is_only_passed_over_when_it_is_gone_or_somebody_elses() {
        use rustix::io::Errno;

        for passed_over in [Errno::NOENT, Errno::SRCH, Errno::ACCESS, Errno::PERM] {
            assert_eq!(known(Err(passed_over.into())).unwrap(), None);
        }
        for told in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO] {
            assert_eq!(known(Err(told.into())).unwrap_err().raw_os_error(), Some(told.raw_os_error()));
        }
    }

    #[test]
    fn a_script_is_known_by_its_words_after_those_of_its_interpreter() {
        let (child, _stdout) = shell("echo; sleep 1000", "");
        let process = Handle::open(Pid::from_child(&child)).unwrap().unwrap();
        let is = |words: &[&str]| process.was_run_as_one_of(&[words.iter().map(OsStr::new).collect()]).unwrap();
        assert!(is(&["/bin/sh", "-c", "echo; sleep 1000"]) && is(&["sh", "-c", "echo; sleep 1000"]));
        assert!(is(&["-c", "echo; sleep 1000"]));
        assert!(
            !is(&[]) && !is(&["/bin/sh"]) && !is(&["bin/sh", "-c", "echo; sleep 1000"]) && !is(&["echo; sleep 1000 "])
        );
        end(child);
    }
}
