//! What happened, as the record of events has it: one [`Entry`] for each event that the record knows, and its JSON.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use latent_worker::{BuildId, Event, EventKind, StopCause};
use serde_json::Value;

use super::jobs::Job;

/// One line of the record.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Entry {
    /// Seconds since the start.
    pub(crate) t: f64,
    pub(crate) event: &'static str,
    pub(crate) worker: Option<Arc<str>>,
    /// Which instance of the worker, counted from 1.
    pub(crate) epoch: Option<u64>,
    /// The number of the build's line in the file.
    pub(crate) build: Option<usize>,
    pub(crate) command: Option<Arc<str>>,
    pub(crate) reason: Option<String>,
    pub(crate) result: Option<&'static str>,
    pub(crate) exit: Option<i32>,
    /// Why an instance is stopped; `reason` is the same as text.
    pub(crate) cause: Option<StopCause>,
}

impl Entry {
    /// `None` for the events that the record leaves out.
    pub(crate) fn new(event: &Event, jobs: &[Job], exits: &ExitCodes) -> Option<Self> {
        let said = |result: Result<(), ()>| Some(if result.is_ok() { "ok" } else { "failed" });
        let (result, reason) = match &event.kind {
            EventKind::BuildQueued { .. }
            | EventKind::BuildStarted
            | EventKind::StartCalled
            | EventKind::CheckCalled
            | EventKind::Attached
            | EventKind::Detached { .. }
            | EventKind::Quarantined { .. }
            | EventKind::QuarantineLifted { .. }
            | EventKind::Released { .. } => (None, event.kind.reason()),
            EventKind::BuildFinished { result } => (Some(result.name()), event.kind.reason()),
            // The details of an instance are no reason.
            EventKind::StartReturned { result: Ok(_) } => (said(Ok(())), None),
            EventKind::StartReturned { result: Err(_) } => (said(Err(())), event.kind.reason()),
            EventKind::CheckReturned { result } | EventKind::StopReturned { result } => {
                (said(result.as_ref().map(|_| ()).map_err(|_| ())), event.kind.reason())
            }
            EventKind::StopCalled { fast, cause } => {
                (None, Some(format!("{cause}{}", if *fast { ", fast" } else { "" })))
            }
            EventKind::Shutdown { fast } => (None, Some(if *fast { "fast" } else { "graceful" }.to_owned())),
            _ => return None,
        };
        let job = event.build.and_then(|id| job_of(jobs, id));
        let tells_of_the_build = matches!(
            event.kind,
            EventKind::BuildQueued { .. } | EventKind::BuildStarted | EventKind::BuildFinished { .. }
        );
        let exit = match event.kind {
            EventKind::BuildFinished { .. } => event.build.and_then(|id| exits.take(id)),
            _ => None,
        };
        Some(Self {
            t: event.at.as_secs_f64(),
            event: event.kind.name(),
            worker: event.worker.clone(),
            epoch: event.epoch.map(|epoch| epoch.get()),
            build: job.map(|job| job.line),
            command: job.filter(|_| tells_of_the_build).map(|job| job.command.clone()),
            reason,
            result,
            exit,
            cause: match event.kind {
                EventKind::StopCalled { cause, .. } => Some(cause),
                _ => None,
            },
        })
    }

    /// One JSON object in one line, without what does not apply.
    pub(crate) fn to_json(&self) -> String {
        let mut json = format!("{{\"t\":{:.6},\"event\":\"{}\"", self.t, self.event);
        let mut field = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                json.push_str(&format!(",\"{name}\":{value}"));
            }
        };
        field("worker", self.worker.as_deref().map(Value::from));
        field("epoch", self.epoch.map(Value::from));
        field("build", self.build.map(Value::from));
        field("command", self.command.as_deref().map(Value::from));
        field("reason", self.reason.as_deref().map(Value::from));
        field("result", self.result.map(Value::from));
        field("exit", self.exit.map(Value::from));
        json.push('}');
        json
    }
}

/// The line of a submitted build: the lines are submitted in their order.
pub(crate) fn job_of(jobs: &[Job], build: BuildId) -> Option<&Job> {
    let index = usize::try_from(build.get()).ok()?.checked_sub(1)?;
    jobs.get(index)
}

/// The exit codes of commands, from those who run them for those who tell of the end of the build.
#[derive(Default)]
pub(crate) struct ExitCodes(Mutex<HashMap<BuildId, i32>>);

impl ExitCodes {
    /// Must come before the build is finished.
    pub(crate) fn put(&self, build: BuildId, code: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(build, code);
    }

    fn take(&self, build: BuildId) -> Option<i32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_only_what_applies() {
        let entry = Entry { t: 1.5, event: "shutdown", ..Entry::default() };
        assert_eq!(entry.to_json(), r#"{"t":1.500000,"event":"shutdown"}"#);
    }

    #[test]
    fn json_has_every_field_and_quotes_text() {
        let entry = Entry {
            t: 0.25,
            event: "build_finished",
            worker: Some("local-1".into()),
            epoch: Some(3),
            build: Some(7),
            command: Some("echo \"a\\b\"\t\u{7f}\u{1}".into()),
            reason: Some("exit code 2".into()),
            result: Some("failed"),
            exit: Some(2),
            cause: None,
        };
        let json: Value = serde_json::from_str(&entry.to_json()).unwrap();
        assert_eq!(json["t"], 0.25);
        assert_eq!(json["event"], "build_finished");
        assert_eq!(json["worker"], "local-1");
        assert_eq!(json["epoch"], 3);
        assert_eq!(json["build"], 7);
        assert_eq!(json["command"], "echo \"a\\b\"\t\u{7f}\u{1}");
        assert_eq!(json["reason"], "exit code 2");
        assert_eq!(json["result"], "failed");
        assert_eq!(json["exit"], 2);
        assert_eq!(json.as_object().unwrap().len(), 9);
        assert!(!entry.to_json().contains('\n'));
    }
}
