//! The processes of this machine, from `/proc`. They are found by a variable of their environment or by their group,
//! identified by their start time, and signalled through a handle (a pidfd), which never refers to another process.
//!
//! Only on Linux (5.3 or later). Elsewhere nothing is found.

#[cfg(target_os = "linux")]
pub(super) use system::*;
#[cfg(not(target_os = "linux"))]
pub(super) use unsupported::*;

#[cfg(target_os = "linux")]
mod system {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::fs;
    use std::io;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open, pidfd_send_signal};

    /// How many consecutive scans must find nothing before the search ends.
    const EMPTY_SCANS: u32 = 3;
    /// How many scans are made at most while processes end before they can be examined. A process escapes a scan only
    /// if it starts a child and ends during the scan, and would have to do so in every scan.
    const MOST_SCANS: u32 = 12;
    /// How long to wait for a process that is executing another program, and the pause between two looks.
    const EXEC_PATIENCE: Duration = Duration::from_secs(10);
    const EXEC_PAUSE: Duration = Duration::from_millis(1);
    /// How long the environment of a program that has begun must be empty to be unreadable.
    const UNREADABLE_PATIENCE: Duration = Duration::from_millis(100);

    /// A process, also after its number belongs to another one.
    pub(in super::super) struct Handle {
        pid: Pid,
        pidfd: OwnedFd,
    }

    impl Handle {
        /// `None` when there is no such process.
        pub(in super::super) fn open(pid: Pid) -> io::Result<Option<Self>> {
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => Ok(Some(Self { pid, pidfd })),
                Err(Errno::SRCH) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }

        pub(in super::super) fn pid(&self) -> Pid {
            self.pid
        }

        pub(in super::super) fn number(&self) -> u32 {
            number(self.pid)
        }

        /// The number of its group; `None` when it has ended.
        pub(in super::super) fn group(&self) -> Option<u32> {
            getpgid(Some(self.pid)).ok().map(number)
        }

        pub(in super::super) fn leads_a_group(&self) -> bool {
            self.group() == Some(self.number())
        }

        /// Whether its arguments are those of one of the programs: all of them, or those of the interpreter of a script
        /// before them.
        #[cfg(any(feature = "command", feature = "process"))]
        pub(in super::super) fn was_run_as_one_of(&self, programs: &[Vec<&OsStr>]) -> io::Result<bool> {
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

        /// Sends the signal to the process alone. A process that has ended counts as signalled.
        pub(in super::super) fn signal(&self, signal: Signal) -> io::Result<()> {
            match pidfd_send_signal(&self.pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }

        /// Sends the signal to the process, and to its group if it leads one. [`members`] finds the processes of the
        /// group that could not be signalled.
        pub(in super::super) fn signal_all(&self, signal: Signal) -> io::Result<()> {
            // The number of the group is taken for as long as its leader is there, and that is looked at last.
            if self.leads_a_group() && !self.wait(Some(Duration::ZERO))? {
                match kill_process_group(self.pid, signal) {
                    Ok(()) | Err(Errno::SRCH | Errno::PERM) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.signal(signal)
        }

        /// Waits for its end; false when that has not come in time.
        pub(in super::super) fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
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

    /// Returns what was read about a process; `None` if the process has ended or belongs to another user. Every other
    /// error is returned.
    pub(in super::super) fn known(read: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
        match read {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns whether the error means that the process does not exist: no such file, or no such process.
    pub(in super::super) fn is_gone(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
    }

    /// Returns all processes with `name=value` in their environment. Processes of other users are not found if this
    /// process is not permitted to read their environment.
    ///
    /// A child that a dead master has forked, and that has not executed its program yet, has the environment of the
    /// master. It cannot be missed: it holds the lock of the journal until then, and a reclaim needs that lock.
    pub(in super::super) fn marked(name: &str, value: &OsStr) -> io::Result<Vec<Handle>> {
        let mark = [name.as_bytes(), b"=", value.as_bytes()].concat();
        let (mut scan, mut empty) = (Scan::default(), 0);
        for _ in 0..MOST_SCANS {
            scan.missed = false;
            let mut found = Vec::new();
            for pid in numbers()? {
                found.extend(scan.marked_process(pid?, &mark)?);
            }
            if !found.is_empty() {
                return Ok(found);
            }
            empty = if scan.missed { 0 } else { empty + 1 };
            if empty == EMPTY_SCANS {
                break;
            }
        }
        Ok(Vec::new())
    }

    #[derive(Default)]
    struct Scan {
        /// A process has ended before it could be examined: it may have started one with a number that the scan has
        /// passed.
        missed: bool,
        /// Processes that had already ended when they were examined, in this scan or an earlier one.
        zombies: BTreeSet<u32>,
    }

    impl Scan {
        fn marked_process(&mut self, pid: Pid, mark: &[u8]) -> io::Result<Option<Handle>> {
            // Looked at twice, because to look is cheaper than to open; it is the second time that proves something.
            if !self.is_marked(pid, mark)? {
                return Ok(None);
            }
            let process = Handle::open(pid)?;
            let found = process.is_some() && self.is_marked(pid, mark)?;
            self.missed |= !found;
            Ok(process.filter(|_| found))
        }

        fn is_marked(&mut self, pid: Pid, mark: &[u8]) -> io::Result<bool> {
            let begin = Instant::now();
            let mut unreadable = Unreadable::default();
            loop {
                let environment = match fs::read(format!("/proc/{pid}/environ")) {
                    Err(error) if is_gone(&error) => Vec::new(),
                    read => match known(read)? {
                        Some(environment) => environment,
                        None => return Ok(false),
                    },
                };
                if !environment.is_empty() {
                    return Ok(environment.split(|byte| *byte == 0).any(|variable| variable == mark));
                }
                match Stat::read(pid)? {
                    None => {
                        self.missed = true;
                        return Ok(false);
                    }
                    Some(stat) if stat.has_ended() => {
                        self.missed |= self.zombies.insert(number(pid));
                        return Ok(false);
                    }
                    Some(stat) if stat.has_no_environment() => return Ok(false),
                    Some(stat) if unreadable.confirms(&stat) => return Ok(false),
                    // The process is executing another program.
                    _ if begin.elapsed() < EXEC_PATIENCE => thread::sleep(EXEC_PAUSE),
                    _ => {
                        let message = format!("process {pid} takes longer than {EXEC_PATIENCE:?} to run its program");
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                }
            }
        }
    }

    /// A process that has given up the memory of its environment. It must not hold up those who look for others.
    #[derive(Default)]
    struct Unreadable {
        /// Where its code and its environment are, and since when it is known.
        known: Option<([Option<u64>; 3], Instant)>,
    }

    impl Unreadable {
        /// Whether the process has run one and the same program for a while, and its environment was empty each time.
        fn confirms(&mut self, stat: &Stat) -> bool {
            let now = stat.places();
            match &self.known {
                Some((before, since)) if *before == now => since.elapsed() >= UNREADABLE_PATIENCE,
                _ => {
                    // The code is placed last, when the program has begun.
                    self.known = now[0].is_some_and(|code| code != 0).then(|| (now, Instant::now()));
                    false
                }
            }
        }
    }

    fn number(pid: Pid) -> u32 {
        pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns the living processes of a group, without zombies.
    pub(in super::super) fn members(group: u32) -> io::Result<Vec<Handle>> {
        let lives_there = |pid: Pid| Ok::<_, io::Error>(Stat::read(pid)?.is_some_and(|stat| stat.lives_in(group)));
        let mut found = Vec::new();
        for pid in numbers()? {
            let pid = pid?;
            if lives_there(pid)?
                && let Some(process) = Handle::open(pid)?
                && lives_there(pid)?
            {
                found.push(process);
            }
        }
        Ok(found)
    }

    /// Returns the children of this process that have ended and have not been reaped.
    #[cfg(feature = "local")]
    pub(in super::super) fn ended_children() -> io::Result<Vec<Pid>> {
        let parent = std::process::id();
        let mut ended = Vec::new();
        for pid in numbers()? {
            let pid = pid?;
            if Stat::read(pid)?.is_some_and(|stat| stat.has_ended() && stat.is_child_of(parent)) {
                ended.push(pid);
            }
        }
        Ok(ended)
    }

    /// Returns the numbers of all processes.
    fn numbers() -> io::Result<impl Iterator<Item = io::Result<Pid>>> {
        let number = |entry: io::Result<fs::DirEntry>| match entry {
            Ok(entry) => {
                let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
                number.filter(|pid| *pid > 0).and_then(Pid::from_raw).map(Ok)
            }
            Err(error) => Some(Err(error)),
        };
        Ok(fs::read_dir("/proc")?.filter_map(number))
    }

    /// `/proc/PID/stat`; see proc(5).
    struct Stat(String);

    impl Stat {
        const STATE: usize = 3;
        const GROUP: usize = 5;
        const FLAGS: usize = 9;
        const START: usize = 22;
        const CODE: usize = 26;
        const ENVIRONMENT: usize = 50;
        const END_OF_ENVIRONMENT: usize = 51;
        /// The flag of a thread of the kernel.
        const KERNEL_THREAD: u64 = 0x0020_0000;

        /// `None` when there is no such process.
        fn read(pid: Pid) -> io::Result<Option<Self>> {
            // The name in it can be any bytes.
            match fs::read(format!("/proc/{pid}/stat")) {
                Ok(text) => Ok(Some(Self(String::from_utf8_lossy(&text).into_owned()))),
                Err(error) if is_gone(&error) => Ok(None),
                Err(error) => Err(error),
            }
        }

        /// Returns the field with this number in proc(5), which must be after the name.
        fn field(&self, number: usize) -> Option<&str> {
            // The second field is a name in parentheses with anything in it.
            let (_, after_name) = self.0.rsplit_once(") ")?;
            after_name.trim_end().split(' ').nth(number - Self::STATE)
        }

        fn number(&self, number: usize) -> Option<u64> {
            self.field(number)?.parse().ok()
        }

        fn has_ended(&self) -> bool {
            matches!(self.field(Self::STATE), Some("Z" | "X" | "x") | None)
        }

        #[cfg(feature = "local")]
        fn is_child_of(&self, parent: u32) -> bool {
            const PARENT: usize = 4;
            self.number(PARENT) == Some(parent.into())
        }

        fn lives_in(&self, group: u32) -> bool {
            !self.has_ended() && self.number(Self::GROUP) == Some(group.into())
        }

        /// Where its code begins, and where its environment begins and ends.
        fn places(&self) -> [Option<u64>; 3] {
            [Self::CODE, Self::ENVIRONMENT, Self::END_OF_ENVIRONMENT].map(|field| self.number(field))
        }

        /// Returns whether the environment of the process is empty, or missing as for a kernel thread. While a process
        /// executes another program, its environment also reads as empty; the start of its code is set last.
        fn has_no_environment(&self) -> bool {
            let kernels = self.number(Self::FLAGS).is_some_and(|flags| flags & Self::KERNEL_THREAD != 0);
            let [code, begin, end] = self.places();
            kernels || (code != Some(0) && begin == end)
        }
    }

    /// When the process was started, in clock ticks since the machine was, and which start of the machine that was.
    pub(in super::super) fn identity(pid: Pid) -> io::Result<Option<(u64, String)>> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected"));
        let stat = Stat::read(pid)?.ok_or(Errno::SRCH)?;
        let start = stat.number(Stat::START).ok_or_else(bad)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Some((start, boot.trim().to_owned())))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn stat(code: u64, environment: u64) -> Stat {
            let fields = (Stat::STATE..=52).map(|field| match field {
                Stat::STATE => "S".to_owned(),
                Stat::CODE => code.to_string(),
                Stat::ENVIRONMENT => environment.to_string(),
                Stat::END_OF_ENVIRONMENT => (environment + 100).to_string(),
                _ => "0".to_owned(),
            });
            Stat(format!("7 (a) b) {}\n", fields.collect::<Vec<_>>().join(" ")))
        }

        #[test]
        fn b9_a_process_without_the_memory_of_its_environment_is_passed_over_soon() {
            let mut unreadable = Unreadable::default();
            assert!(!unreadable.confirms(&stat(1, 10)), "it may have begun after its environment was read");
            thread::sleep(UNREADABLE_PATIENCE);
            assert!(!unreadable.confirms(&stat(1, 20)), "it is another program by now");
            thread::sleep(UNREADABLE_PATIENCE);
            assert!(!unreadable.confirms(&stat(0, 0)), "it is just becoming another program");
            assert!(!unreadable.confirms(&stat(1, 20)));
            thread::sleep(UNREADABLE_PATIENCE);
            assert!(unreadable.confirms(&stat(1, 20)));
        }

        #[test]
        fn a_program_that_is_just_being_run_is_never_passed_over() {
            let mut unreadable = Unreadable::default();
            for _ in 0..2 {
                assert!(!unreadable.confirms(&stat(0, 0)) && !unreadable.confirms(&stat(0, 10)));
                thread::sleep(UNREADABLE_PATIENCE);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod unsupported {
    use std::ffi::OsStr;
    use std::io;
    use std::time::Duration;

    use rustix::process::{Pid, Signal};

    /// Processes cannot be found on this system.
    pub(in super::super) enum Handle {}

    impl Handle {
        pub(in super::super) fn open(_: Pid) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub(in super::super) fn pid(&self) -> Pid {
            match *self {}
        }

        pub(in super::super) fn number(&self) -> u32 {
            match *self {}
        }

        pub(in super::super) fn group(&self) -> Option<u32> {
            match *self {}
        }

        pub(in super::super) fn leads_a_group(&self) -> bool {
            match *self {}
        }

        #[cfg(any(feature = "command", feature = "process"))]
        pub(in super::super) fn was_run_as_one_of(&self, _: &[Vec<&OsStr>]) -> io::Result<bool> {
            match *self {}
        }

        pub(in super::super) fn signal(&self, _: Signal) -> io::Result<()> {
            match *self {}
        }

        pub(in super::super) fn signal_all(&self, _: Signal) -> io::Result<()> {
            match *self {}
        }

        pub(in super::super) fn wait(&self, _: Option<Duration>) -> io::Result<bool> {
            match *self {}
        }
    }

    pub(in super::super) fn is_gone(error: &io::Error) -> bool {
        error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
    }

    pub(in super::super) fn marked(_: &str, _: &OsStr) -> io::Result<Vec<Handle>> {
        Ok(Vec::new())
    }

    pub(in super::super) fn members(_: u32) -> io::Result<Vec<Handle>> {
        Ok(Vec::new())
    }

    pub(in super::super) fn identity(_: Pid) -> io::Result<Option<(u64, String)>> {
        Ok(None)
    }
}
