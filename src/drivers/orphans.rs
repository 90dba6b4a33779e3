//! Processes that a dead master has left behind: found by what proves that they are its, and ended.
//!
//! The number of a process proves nothing, for it may be a stranger's by now. What does prove it is a variable in its
//! environment with a value that belongs to one attempt alone, or its number together with the time at which it was
//! started. Signals go through a handle of the process (a pidfd) that was opened before the proof was looked at, so
//! that none can go to whoever gets the number next.
//!
//! Only on Linux (5.3 or later). Elsewhere nothing is found, and nobody may say that nothing is left.

#[cfg(any(feature = "command", feature = "process"))]
use std::convert::Infallible;
use std::ffi::OsStr;
#[cfg(feature = "process")]
use std::fmt;
use std::io;
#[cfg(feature = "process")]
use std::str::FromStr;
use std::time::{Duration, Instant};

#[cfg(any(feature = "command", feature = "process"))]
use crossbeam_channel::{Receiver, TryRecvError};
use rustix::process::{Pid, Signal};

use crate::Reclaimed;

/// The answer of a reclaim that has found and removed all that it can.
pub(super) fn nothing_found() -> Reclaimed {
    if cfg!(target_os = "linux") { Reclaimed::Gone } else { Reclaimed::Unsupported }
}

/// A process of this machine, and no other one that ever was or will be: its number, the time at which it was started
/// in clock ticks since the machine was, and which start of the machine that was. As text it can be recorded.
#[cfg(feature = "process")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ProcessId {
    pid: Pid,
    start: u64,
    boot: String,
}

#[cfg(feature = "process")]
impl ProcessId {
    /// Of a process that is there: a child that was not reaped, say. `None` where processes cannot be told apart.
    pub(super) fn of(pid: Pid) -> io::Result<Option<Self>> {
        system::identity(pid).map(|known| known.map(|(start, boot)| Self { pid, start, boot }))
    }

    /// Kills the process, and if it leads a group all of that, and waits for its end. False when it is still there
    /// after `patience`. One that is gone already, and one that is another process by now, counts as killed.
    ///
    /// Of a group whose leader is gone nothing proves whose it is, and it is left alone.
    pub(super) fn kill(&self, patience: Duration) -> io::Result<bool> {
        let Some(process) = system::Handle::open(self.pid)? else { return Ok(true) };
        match Self::of(self.pid) {
            Ok(Some(now)) if now == *self => {}
            Ok(_) => return Ok(true),
            Err(error) if is_gone(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
        process.signal_all(Signal::KILL)?;
        process.wait(Some(patience))
    }
}

#[cfg(feature = "process")]
impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.pid, self.start, self.boot)
    }
}

#[cfg(feature = "process")]
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

/// Kills every process that has `name=value` in its environment, and all groups that they lead, until there is none.
/// False when there still is one after `patience`.
#[cfg(any(feature = "local", feature = "process"))]
pub(super) fn kill_marked(name: &str, value: &OsStr, patience: Duration) -> io::Result<bool> {
    let begin = Instant::now();
    loop {
        // Again and again, because one that is not found yet may be the child of one that is.
        let found = system::marked(name, value)?;
        if found.is_empty() {
            return Ok(true);
        }
        for process in &found {
            process.signal_all(Signal::KILL)?;
        }
        for process in &found {
            if !process.wait(Some(patience.saturating_sub(begin.elapsed())))? {
                return Ok(false);
            }
        }
    }
}

/// Ends programs that a dead master has left running, with all that they have run: every process that leads a group,
/// was run as one of the `programs` and has `name=value` in its environment, and every process of its group that has
/// that too. Asks them to end, and kills what is still there after the `grace`, which is over at once when `cancel` is
/// disconnected. False when one outlives that by `patience`.
#[cfg(any(feature = "command", feature = "process"))]
pub(super) fn end_programs(
    programs: &[Vec<&OsStr>],
    name: &str,
    value: &OsStr,
    grace: Duration,
    patience: Duration,
    cancel: &Receiver<Infallible>,
) -> io::Result<bool> {
    let marked = system::marked(name, value)?;
    let mut groups = Vec::new();
    for process in &marked {
        if process.leads_a_group() && process.was_run_as_one_of(programs)? {
            groups.push(process.pid());
        }
    }
    let is_member = |process: &system::Handle| process.group().is_some_and(|group| groups.contains(&group));
    // What was found now is known by its handle, also when its leader has ended. What it starts meanwhile is found by
    // its mark and its group.
    let members = |found: Vec<system::Handle>| found.into_iter().filter(is_member).collect::<Vec<_>>();
    let mut found = members(marked);
    for leader in found.iter().filter(|process| process.leads_a_group()) {
        leader.signal_all(Signal::TERM)?;
    }
    let begin = Instant::now();
    while !found.is_empty() && have_ended(&found, begin, grace, Some(cancel))? {
        found = members(system::marked(name, value)?);
    }
    let begin = Instant::now();
    while !found.is_empty() {
        for process in &found {
            process.signal_all(Signal::KILL)?;
        }
        if !have_ended(&found, begin, patience, None)? {
            return Ok(false);
        }
        found = members(system::marked(name, value)?);
    }
    Ok(true)
}

/// Waits for the end of all of them; false when that has not come in time, or not before `cancel` was disconnected.
#[cfg(any(feature = "command", feature = "process"))]
fn have_ended(
    processes: &[system::Handle],
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

/// What is said of a process that is not there (any more): there is no such file, no such process.
#[cfg(any(target_os = "linux", feature = "process"))]
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{PidfdFlags, getpgid, kill_process_group, pidfd_open, pidfd_send_signal};

    use super::*;

    /// How often it is looked for processes before it is said that there are none.
    const SCANS: u32 = 3;

    /// A process, whatever becomes of its number.
    pub(super) struct Handle {
        pid: Pid,
        pidfd: OwnedFd,
    }

    impl Handle {
        /// `None` when there is no such process.
        pub(super) fn open(pid: Pid) -> io::Result<Option<Self>> {
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => Ok(Some(Self { pid, pidfd })),
                Err(Errno::SRCH) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }

        #[cfg(any(feature = "command", feature = "process"))]
        pub(super) fn pid(&self) -> Pid {
            self.pid
        }

        /// The number of its group; `None` when it has ended.
        pub(super) fn group(&self) -> Option<Pid> {
            getpgid(Some(self.pid)).ok()
        }

        pub(super) fn leads_a_group(&self) -> bool {
            self.group() == Some(self.pid)
        }

        /// Whether its arguments are those of one of the programs: all of them, or those of the interpreter of a script
        /// before them.
        #[cfg(any(feature = "command", feature = "process"))]
        pub(super) fn was_run_as_one_of(&self, programs: &[Vec<&OsStr>]) -> io::Result<bool> {
            let Some(arguments) = known(fs::read(format!("/proc/{}/cmdline", self.pid)))? else { return Ok(false) };
            let Some(arguments) = arguments.strip_suffix(&[0]) else { return Ok(false) };
            let arguments: Vec<_> = arguments.split(|byte| *byte == 0).collect();
            let same = |(number, (argument, word)): (usize, (&&[u8], &&OsStr))| {
                // An interpreter is told the whole path of a script that was looked for.
                let name = argument.rsplit(|byte| *byte == b'/').next();
                *argument == word.as_bytes() || (number == 0 && name == Some(word.as_bytes()))
            };
            let is_one = |words: &Vec<&OsStr>| {
                let first = arguments.len().checked_sub(words.len());
                first.is_some_and(|first| {
                    !words.is_empty() && arguments[first..].iter().zip(words).enumerate().all(same)
                })
            };
            Ok(programs.iter().any(is_one))
        }

        /// Sends the signal to the process, and to its group if it leads one.
        pub(super) fn signal_all(&self, signal: Signal) -> io::Result<()> {
            // The number of the group is taken for as long as its leader is there, and that is looked at last.
            if self.leads_a_group() && !self.wait(Some(Duration::ZERO))? {
                let _ = kill_process_group(self.pid, signal);
            }
            match pidfd_send_signal(&self.pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }

        /// Waits for its end; false when that has not come in time.
        pub(super) fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
            let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
            loop {
                let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                let timeout = left.and_then(|left| Timespec::try_from(left).ok());
                match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], timeout.as_ref()) {
                    Ok(ended) => return Ok(ended > 0),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    /// What was read of a process; `None` when that has ended or is none of this user's. Everything else that may go wrong
    /// must not be taken for an answer.
    pub(super) fn known(read: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
        match read {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All processes with `name=value` in their environment. Those of others, into whose environment this process may
    /// not look, are none of ours.
    pub(super) fn marked(name: &str, value: &OsStr) -> io::Result<Vec<Handle>> {
        let mark = [name.as_bytes(), b"=", value.as_bytes()].concat();
        let is_marked = |pid: Pid| -> io::Result<bool> {
            let environment = known(fs::read(format!("/proc/{pid}/environ")))?;
            Ok(environment.is_some_and(|text| text.split(|byte| *byte == 0).any(|variable| variable == mark)))
        };
        let mut found = Vec::new();
        let mut scans = 0;
        // One that is just becoming another program has no environment for a moment, and a new one may have a number
        // that was passed already.
        while found.is_empty() && scans < SCANS {
            scans += 1;
            for entry in fs::read_dir("/proc")? {
                let name = entry?.file_name();
                let Some(pid) =
                    name.to_str().and_then(|name| name.parse().ok()).filter(|pid| *pid > 0).and_then(Pid::from_raw)
                else {
                    continue;
                };
                // Looked at twice, because to look is cheaper than to open; it is the second time that proves something.
                if is_marked(pid)?
                    && let Some(process) = Handle::open(pid)?
                    && is_marked(pid)?
                {
                    found.push(process);
                }
            }
        }
        Ok(found)
    }

    /// When the process was started, and in which life of the machine: see proc(5), `stat` and `boot_id`.
    #[cfg(feature = "process")]
    pub(super) fn identity(pid: Pid) -> io::Result<Option<(u64, String)>> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected"));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is a name in parentheses with anything in it; the start time is the 22nd.
        let (_, after_name) = stat.rsplit_once(") ").ok_or_else(bad)?;
        let start = after_name.split(' ').nth(19).and_then(|field| field.parse().ok()).ok_or_else(bad)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Some((start, boot.trim().to_owned())))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;

    /// There is none.
    pub(super) enum Handle {}

    impl Handle {
        pub(super) fn open(_: Pid) -> io::Result<Option<Self>> {
            Ok(None)
        }

        #[cfg(any(feature = "command", feature = "process"))]
        pub(super) fn pid(&self) -> Pid {
            match *self {}
        }

        #[cfg(any(feature = "command", feature = "process"))]
        pub(super) fn group(&self) -> Option<Pid> {
            match *self {}
        }

        #[cfg(any(feature = "command", feature = "process"))]
        pub(super) fn leads_a_group(&self) -> bool {
            match *self {}
        }

        #[cfg(any(feature = "command", feature = "process"))]
        pub(super) fn was_run_as_one_of(&self, _: &[Vec<&OsStr>]) -> io::Result<bool> {
            match *self {}
        }

        pub(super) fn signal_all(&self, _: Signal) -> io::Result<()> {
            match *self {}
        }

        pub(super) fn wait(&self, _: Option<Duration>) -> io::Result<bool> {
            match *self {}
        }
    }

    pub(super) fn marked(_: &str, _: &OsStr) -> io::Result<Vec<Handle>> {
        Ok(Vec::new())
    }

    #[cfg(feature = "process")]
    pub(super) fn identity(_: Pid) -> io::Result<Option<(u64, String)>> {
        Ok(None)
    }
}

#[cfg(all(test, target_os = "linux", feature = "command", feature = "local", feature = "process"))]
mod tests {
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

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
            assert!(stranger.kill(PATIENCE).unwrap(), "it is gone");
            assert!(child.try_wait().unwrap().is_none(), "and whoever has its number is not touched");
        }
        assert!(id.kill(PATIENCE).unwrap());
        assert_dead(stdout, child);
        assert!(id.kill(PATIENCE).unwrap(), "what is gone already counts as killed");
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
        assert!(kill_marked("LW_TEST_MARK", OsStr::new(&ours), PATIENCE).unwrap());
        assert_dead(stdout, child);
        assert!(stranger.try_wait().unwrap().is_none());
        assert!(kill_marked("LW_TEST_MARK", OsStr::new(&ours), PATIENCE).unwrap(), "nothing is left");
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
        assert!(end_it("something else", PATIENCE));
        assert!(end_it(line, PATIENCE));
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        assert_eq!(said, "asked\n");
        assert_dead(stdout, program);
        assert!(instance.try_wait().unwrap().is_none());
        end(instance);
        drop(instances_output);

        let stubborn = "trap '' TERM; echo; sleep 1000 & wait; sleep 1000";
        let (program, stdout) = shell(stubborn, &mark);
        assert!(end_it(stubborn, Duration::from_millis(10)));
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
            assert!(end_it(&words, &mark, grace));
            program.wait().unwrap();
            let mut stdout_is_closed = rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::IN);
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(std::slice::from_mut(&mut stdout_is_closed), Some(&now)).unwrap();
            assert!(stdout_is_closed.revents().contains(rustix::event::PollFlags::HUP), "{tool}: it still runs");
            stdout.read_to_end(&mut Vec::new()).unwrap();
        }
    }

    fn end_it(words: &[&OsStr], mark: &str, grace: Duration) -> bool {
        let (_open, cancel) = crossbeam_channel::bounded(0);
        end_programs(&[words.to_vec()], "LW_TEST_MARK", OsStr::new(mark), grace, PATIENCE, &cancel).unwrap()
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
        let grace = Duration::from_secs(100_000);
        assert!(end_programs(&programs, "LW_TEST_MARK", OsStr::new(&mark), grace, PATIENCE, &cancel).unwrap());
        assert_dead(stdout, program);
    }

    #[test]
    fn j2_a_process_that_cannot_be_looked_at_is_only_passed_over_when_it_is_gone_or_somebody_elses() {
        use rustix::io::Errno;

        for passed_over in [Errno::NOENT, Errno::SRCH, Errno::ACCESS, Errno::PERM] {
            assert_eq!(system::known(Err(passed_over.into())).unwrap(), None);
        }
        for told in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO] {
            assert_eq!(system::known(Err(told.into())).unwrap_err().raw_os_error(), Some(told.raw_os_error()));
        }
    }

    #[test]
    fn a_script_is_known_by_its_words_after_those_of_its_interpreter() {
        let (child, _stdout) = shell("echo; sleep 1000", "");
        let process = system::Handle::open(Pid::from_child(&child)).unwrap().unwrap();
        let is = |words: &[&str]| process.was_run_as_one_of(&[words.iter().map(OsStr::new).collect()]).unwrap();
        assert!(is(&["/bin/sh", "-c", "echo; sleep 1000"]) && is(&["sh", "-c", "echo; sleep 1000"]));
        assert!(is(&["-c", "echo; sleep 1000"]));
        assert!(
            !is(&[]) && !is(&["/bin/sh"]) && !is(&["bin/sh", "-c", "echo; sleep 1000"]) && !is(&["echo; sleep 1000 "])
        );
        end(child);
    }
}
