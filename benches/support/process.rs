//! What the system says about this process, and parts of a bench that need a process of their own because memory that
//! was freed once would be used again.

use std::process::Command;

/// Resident memory in bytes and number of threads, as `/proc` has them; zeros where there is no `/proc`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Process {
    pub(crate) resident: usize,
    pub(crate) threads: usize,
}

impl Process {
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0_usize)
        };
        Self { resident: field("VmRSS:") * 1024, threads: field("Threads:") }
    }

    /// What has come since, in bytes and threads.
    pub(crate) fn since(self, before: Process) -> Process {
        Process {
            resident: self.resident.saturating_sub(before.resident),
            threads: self.threads.saturating_sub(before.threads),
        }
    }
}

/// The part of the bench that this process is there for; `None` for the whole.
pub(crate) fn part() -> Option<String> {
    std::env::args().skip_while(|argument| argument != "--part").nth(1)
}

/// Runs one part of this bench in a process of its own and returns the numbers that it printed.
pub(crate) fn in_own_process(part: &str) -> Vec<f64> {
    let this = std::env::current_exe().expect("a bench is a file");
    let mut command = Command::new(this);
    command.args(["--part", part]).args(super::in_earnest().then_some("--bench"));
    let output = command.output().expect("a bench can be run");
    assert!(output.status.success(), "{part}: {}", String::from_utf8_lossy(&output.stderr));
    let numbers = String::from_utf8_lossy(&output.stdout).into_owned();
    numbers.split_whitespace().map(|number| number.parse().expect("a part prints numbers")).collect()
}
