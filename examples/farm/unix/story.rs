//! The record for people: one line for each entry that is worth one.

use std::sync::Arc;

use super::jobs::{Job, job_at};
use super::record::Entry;
use super::tally::Tally;

/// How many characters of a command are shown.
const LONGEST_COMMAND: usize = 100;

pub(crate) struct Story {
    jobs: Arc<[Job]>,
    /// Tells of failures alone.
    quiet: bool,
}

impl Story {
    pub(crate) fn new(jobs: Arc<[Job]>, quiet: bool) -> Self {
        Self { jobs, quiet }
    }

    /// The line for an entry that `tally` does not have yet.
    pub(crate) fn line(&self, entry: &Entry, tally: &Tally) -> Option<String> {
        let reason = entry.reason.as_deref().unwrap_or_default();
        match (entry.build, &entry.worker) {
            (Some(build), _) if entry.event == "build_finished" => self.finished(build, entry, tally),
            (Some(build), _) if entry.event == "build_queued" && entry.reason.is_some() => {
                Some(format!("build {build} is tried again: {reason}"))
            }
            (build, Some(worker)) => self.of_worker(worker, build, entry, tally),
            _ => None,
        }
    }

    fn finished(&self, build: usize, entry: &Entry, tally: &Tally) -> Option<String> {
        let end = match entry.result? {
            "succeeded" if self.quiet => return None,
            // There may be thousands; the summary has their number.
            "not_run" if tally.shutting_down => return None,
            "not_run" => "was not run",
            "succeeded" => "succeeded",
            "cancelled" => "was cancelled",
            _ => "failed",
        };
        let place = match tally.running.get(&build) {
            Some(running) => format!(" on {} after {:.2} s", running.worker, entry.t - running.since),
            None => String::new(),
        };
        let reason = entry.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        Some(format!("build {build} {end}{place}{reason}"))
    }

    fn of_worker(&self, worker: &Arc<str>, build: Option<usize>, entry: &Entry, tally: &Tally) -> Option<String> {
        let number = entry.epoch.unwrap_or_default();
        let reason = entry.reason.as_deref().unwrap_or_default();
        let failed = entry.result == Some("failed");
        let told = match entry.event {
            "start_called" => {
                let kind = build.and_then(|build| job_at(&self.jobs, build)).and_then(Job::kind);
                let kind = kind.map(|kind| format!(" of kind {kind}")).unwrap_or_default();
                let build = build.map(|build| format!(" for build {build}")).unwrap_or_default();
                format!("{worker} starts instance {number}{kind}{build}")
            }
            "build_started" => {
                let warm = if tally.is_warm(worker, entry.epoch) { "warm" } else { "new" };
                let command = clipped(entry.command.as_deref().unwrap_or_default());
                format!("build {} runs on {worker}, {warm} instance {number}: {command}", build?)
            }
            "start_returned" | "check_returned" | "stop_returned" if failed => {
                let call = entry.event.trim_end_matches("_returned");
                return Some(format!("{worker}: {call} of instance {number} failed: {reason}"));
            }
            "quarantined" => return Some(format!("{worker} is left alone {reason}")),
            "stop_called" => format!("{worker} stops instance {number}: {reason}"),
            _ => return None,
        };
        (!self.quiet).then_some(told)
    }
}

/// A command may be a page long.
fn clipped(command: &str) -> String {
    match command.char_indices().nth(LONGEST_COMMAND) {
        Some((end, _)) => format!("{}...", &command[..end]),
        None => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::tests::{ended, entry, returned};
    use super::*;

    fn told(quiet: bool, entries: &[Entry]) -> Vec<String> {
        let jobs = super::super::jobs::parse(b"kind=text -- one\n\nkind=hash -- three\n").unwrap();
        let story = Story::new(jobs.into(), quiet);
        let mut tally = Tally::default();
        let mut lines = Vec::new();
        for entry in entries {
            lines.extend(story.line(entry, &tally));
            tally.add(entry);
        }
        lines
    }

    fn one_life() -> Vec<Entry> {
        vec![
            entry(0.0, "build_queued", "", 0, 1),
            entry(0.0, "start_called", "local-1", 1, 1),
            returned(0.1, "start_returned", "local-1", 1, "ok"),
            Entry { command: Some("one".into()), ..entry(0.1, "build_started", "local-1", 1, 1) },
            ended(0.5, 1, "succeeded", None),
            entry(0.5, "released", "local-1", 1, 1),
            Entry { command: Some("three".into()), ..entry(0.5, "build_started", "local-1", 1, 3) },
            ended(1.0, 3, "failed", Some("exit code 1")),
            entry(1.0, "released", "local-1", 1, 3),
            Entry { reason: Some("idle".into()), ..entry(3.0, "stop_called", "local-1", 1, 0) },
        ]
    }

    #[test]
    fn a_life_is_told() {
        let told = told(false, &one_life());
        let expected = [
            "local-1 starts instance 1 of kind text for build 1",
            "build 1 runs on local-1, new instance 1: one",
            "build 1 succeeded on local-1 after 0.40 s",
            "build 3 runs on local-1, warm instance 1: three",
            "build 3 failed on local-1 after 0.50 s: exit code 1",
            "local-1 stops instance 1: idle",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_long_command_is_clipped() {
        assert_eq!(clipped("make"), "make");
        assert_eq!(clipped(&"\u{e9}".repeat(101)), "\u{e9}".repeat(100) + "...");
    }

    #[test]
    fn quiet_tells_of_failures_alone() {
        assert_eq!(told(true, &one_life()), ["build 3 failed on local-1 after 0.50 s: exit code 1"]);
    }

    #[test]
    fn builds_that_a_shutdown_leaves_are_not_told_one_by_one() {
        let reason = Some("the master is shutting down");
        let entries = [entry(0.0, "shutdown", "", 0, 0), ended(0.0, 1, "not_run", reason)];
        assert_eq!(told(false, &entries), [""; 0]);
        assert_eq!(told(true, &entries[1..]), ["build 1 was not run: the master is shutting down"]);
    }
}
