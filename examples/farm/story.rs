//! The record for people: one line for each entry that is worth one.

use std::collections::HashMap;
use std::sync::Arc;

use latent_worker::IdlePolicy;

use crate::jobs::Job;
use crate::record::Entry;
use crate::tally::Tally;

pub(crate) struct Story {
    jobs: Arc<[Job]>,
    idle: IdlePolicy,
    /// Tells of failures alone.
    quiet: bool,
    instances: HashMap<Arc<str>, Instance>,
}

/// What is known of a worker's present instance.
#[derive(Default)]
struct Instance {
    idle_since: Option<f64>,
    /// Why it is stopped, if that is not for want of work.
    trouble: Option<String>,
}

impl Story {
    pub(crate) fn new(jobs: Arc<[Job]>, idle: IdlePolicy, quiet: bool) -> Self {
        Self { jobs, idle, quiet, instances: HashMap::new() }
    }

    /// The line for an entry that `tally` does not have yet.
    pub(crate) fn line(&mut self, entry: &Entry, tally: &Tally) -> Option<String> {
        let reason = entry.reason.as_deref().unwrap_or_default();
        match (entry.build, &entry.worker) {
            (Some(build), _) if entry.event == "build_finished" => return self.finished(build, entry, tally),
            (Some(build), _) if entry.event == "build_queued" && entry.reason.is_some() => {
                return Some(format!("build {build} is tried again: {reason}"));
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

    fn of_worker(&mut self, worker: &Arc<str>, build: Option<usize>, entry: &Entry, tally: &Tally) -> Option<String> {
        let number = entry.epoch.unwrap_or_default();
        let reason = entry.reason.as_deref().unwrap_or_default();
        let failed = entry.result == Some("failed");
        let instance = self.instances.entry(worker.clone()).or_default();
        let told = match entry.event {
            "start_called" => {
                *instance = Instance::default();
                let kind = build.and_then(|build| kind_of(&self.jobs, build));
                let kind = kind.map(|kind| format!(" of kind {kind}")).unwrap_or_default();
                let build = build.map(|build| format!(" for build {build}")).unwrap_or_default();
                format!("{worker} starts instance {number}{kind}{build}")
            }
            "build_started" => {
                instance.idle_since = None;
                let warm = if tally.is_warm(worker, entry.epoch) { "warm" } else { "new" };
                let command = entry.command.as_deref().unwrap_or_default();
                format!("build {} runs on {worker}, {warm} instance {number}: {command}", build?)
            }
            "released" => {
                instance.idle_since = Some(entry.t);
                return None;
            }
            "detached" => {
                instance.trouble.get_or_insert_with(|| format!("its agent is gone: {reason}"));
                return None;
            }
            "start_returned" | "check_returned" | "stop_returned" if failed => {
                let call = entry.event.trim_end_matches("_returned");
                instance.trouble = Some(format!("its {call} failed"));
                return Some(format!("{worker}: {call} of instance {number} failed: {reason}"));
            }
            "quarantined" => return Some(format!("{worker} is left alone {reason}")),
            "stop_called" => {
                let why = instance.why_stopped(self.idle, entry.t, tally.shutting_down);
                format!("{worker} stops instance {number}: {why}")
            }
            _ => return None,
        };
        (!self.quiet).then_some(told)
    }
}

impl Instance {
    /// The record does not say it, but it follows from what went before.
    fn why_stopped(&self, policy: IdlePolicy, now: f64, shutting_down: bool) -> String {
        let idle = self.idle_since.map(|since| now - since);
        match (&self.trouble, policy, idle) {
            (Some(trouble), ..) => trouble.clone(),
            (None, IdlePolicy::AfterBuild, Some(_)) => "its build is over".to_owned(),
            (None, IdlePolicy::After(limit), Some(idle)) if idle >= limit.as_secs_f64() => {
                format!("no work for {idle:.2} s")
            }
            _ if shutting_down => "shutdown".to_owned(),
            _ => "a build of another kind needs its place".to_owned(),
        }
    }
}

fn kind_of(jobs: &[Job], line: usize) -> Option<&str> {
    let index = jobs.binary_search_by_key(&line, |job| job.line).ok()?;
    jobs[index].kind()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::tests::{ended, entry, returned};

    fn told(idle: IdlePolicy, quiet: bool, entries: &[Entry]) -> Vec<String> {
        let jobs = crate::jobs::parse(b"kind=text -- one\n\nkind=hash -- three\n").unwrap();
        let mut story = Story::new(jobs.into(), idle, quiet);
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
            entry(3.0, "stop_called", "local-1", 1, 0),
        ]
    }

    const TWO_SECONDS: IdlePolicy = IdlePolicy::After(Duration::from_secs(2));

    #[test]
    fn a_life_is_told() {
        let told = told(TWO_SECONDS, false, &one_life());
        let expected = [
            "local-1 starts instance 1 of kind text for build 1",
            "build 1 runs on local-1, new instance 1: one",
            "build 1 succeeded on local-1 after 0.40 s",
            "build 3 runs on local-1, warm instance 1: three",
            "build 3 failed on local-1 after 0.50 s: exit code 1",
            "local-1 stops instance 1: no work for 2.00 s",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn quiet_tells_of_failures_alone() {
        assert_eq!(told(TWO_SECONDS, true, &one_life()), ["build 3 failed on local-1 after 0.50 s: exit code 1"]);
    }

    #[test]
    fn every_stop_has_a_reason() {
        let why = |idle, before: Option<Entry>| {
            let mut life = one_life();
            let stop = life.len() - 1;
            life.splice(stop..stop, before);
            told(idle, false, &life).pop().unwrap()
        };
        let stops = |reason: &str| format!("local-1 stops instance 1: {reason}");
        assert_eq!(why(IdlePolicy::AfterBuild, None), stops("its build is over"));
        assert_eq!(why(IdlePolicy::Never, None), stops("a build of another kind needs its place"));
        assert_eq!(why(IdlePolicy::Never, Some(entry(2.0, "shutdown", "", 0, 0))), stops("shutdown"));
        let lost = Entry { reason: Some("cut".into()), ..entry(2.0, "detached", "local-1", 1, 0) };
        assert_eq!(why(TWO_SECONDS, Some(lost)), stops("its agent is gone: cut"));
    }

    #[test]
    fn builds_that_a_shutdown_leaves_are_not_told_one_by_one() {
        let reason = Some("the master is shutting down");
        let entries = [entry(0.0, "shutdown", "", 0, 0), ended(0.0, 1, "not_run", reason)];
        assert_eq!(told(TWO_SECONDS, false, &entries), [""; 0]);
        assert_eq!(told(TWO_SECONDS, true, &entries[1..]), ["build 1 was not run: the master is shutting down"]);
    }
}
