//! Reads a record from its first event to its last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::life::{Broken, Worker};
use super::{End, EventChecker, EventSummary, Liveness, MOST_VIOLATIONS, Rule, Violation, Violations};
use crate::{BuildId, Event, EventKind};

/// The longest pause of a build that is retried, including jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

pub(super) struct Reader<'a> {
    checker: &'a EventChecker,
    last: Option<(u64, Duration)>,
    shut_down: bool,
    workers: BTreeMap<String, Worker>,
    builds: HashMap<BuildId, Build>,
    /// The waiting builds; avoids a search through all builds.
    waiting: HashSet<BuildId>,
    summary: EventSummary,
    violations: Vec<Violation>,
}

#[derive(Clone, Copy)]
enum Build {
    Waiting { since: Duration, retried: bool },
    Running,
    Ended,
}

impl<'a> Reader<'a> {
    pub(super) fn new(checker: &'a EventChecker) -> Self {
        Self {
            checker,
            last: None,
            shut_down: false,
            workers: BTreeMap::new(),
            builds: HashMap::new(),
            waiting: HashSet::new(),
            summary: EventSummary::default(),
            violations: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, event: &Event) {
        if let Some((sequence, at)) = self.last {
            if event.sequence != sequence + 1 {
                self.broken(Some(event), (Rule::Record, format!("the number before is {sequence}")));
            }
            if event.at < at {
                self.broken(Some(event), (Rule::Record, format!("time goes back from {at:?}")));
            }
        }
        self.last = Some((event.sequence, event.at));
        if matches!(event.kind, EventKind::Shutdown { .. }) {
            // Waiting builds are answered, and no place is given out.
            let names: Vec<_> = self.workers.keys().cloned().collect();
            names.iter().for_each(|name| self.place_taken(name, event));
            self.shut_down = true;
        }
        if let Some(build) = event.build {
            self.take_build(build, event);
        }
        if let Some(name) = event.worker.as_deref() {
            self.take_worker(name, event);
        }
    }

    fn take_build(&mut self, id: BuildId, event: &Event) {
        let before = self.builds.get(&id).copied();
        let after = match (&event.kind, before) {
            (
                EventKind::BuildQueued { .. }
                | EventKind::BuildStarted
                | EventKind::StartCalled
                | EventKind::Released { .. },
                Some(Build::Ended),
            ) => {
                let what = format!("{} for a build that has ended", event.kind.name());
                return self.broken(Some(event), (Rule::AfterEnd, what));
            }
            (EventKind::BuildQueued { retry, .. }, _) => {
                if retry.is_some() != before.is_some() {
                    let what = if retry.is_some() { "a new build comes back" } else { "a build is queued again" };
                    self.broken(Some(event), (Rule::OneEnd, what.to_owned()));
                }
                self.waits_no_longer(id, event);
                self.waiting.insert(id);
                Build::Waiting { since: event.at, retried: retry.is_some() }
            }
            (EventKind::BuildStarted, _) => {
                if !matches!(before, Some(Build::Waiting { .. })) {
                    self.broken(
                        Some(event),
                        (Rule::Places, "a build gets a lease, but does not wait for one".to_owned()),
                    );
                }
                self.waits_no_longer(id, event);
                Build::Running
            }
            (EventKind::BuildFinished { .. }, _) => {
                match before {
                    Some(Build::Ended) => self.broken(Some(event), (Rule::OneEnd, "a second end".to_owned())),
                    None => self.broken(Some(event), (Rule::OneEnd, "the end of an unknown build".to_owned())),
                    Some(_) => {}
                }
                self.waits_no_longer(id, event);
                Build::Ended
            }
            _ => return,
        };
        if before.is_none() {
            self.summary.builds += 1;
        }
        self.builds.insert(id, after);
    }

    fn take_worker(&mut self, name: &str, event: &Event) {
        let places = self.checker.places(name);
        if !self.workers.contains_key(name) {
            self.workers.insert(name.to_owned(), Worker::default());
        }
        let worker = self.workers.get_mut(name).expect("it was just added");
        let broken = worker.take(&event.kind, event.epoch, event.build, event.at, places);
        let free = worker.free_from(event.at, places).filter(|_| !self.shut_down);
        match &event.kind {
            EventKind::StartCalled => *self.summary.starts.entry(name.to_owned()).or_default() += 1,
            EventKind::StopCalled { .. } => self.summary.stops += 1,
            EventKind::BuildStarted => {
                self.summary.leases += 1;
                self.summary.most_leases = self.summary.most_leases.max(worker.leases.len());
            }
            _ => {}
        }
        // A quarantine may begin while a place is free, and an unpause ends one early.
        if free.is_none_or(|from| from > event.at) {
            self.place_taken(name, event);
        }
        if let (Some(from), Some(worker)) = (free, self.workers.get_mut(name)) {
            worker.free_since = Some(worker.free_since.map_or(from, |since| since.min(from)));
        }
        broken.into_iter().for_each(|broken| self.broken(Some(event), broken));
    }

    /// Called when a build stops waiting: it must not have waited for too long while a place was free.
    fn waits_no_longer(&mut self, id: BuildId, event: &Event) {
        if self.waiting.remove(&id) {
            let stuck = self.workers.keys().find_map(|name| self.stuck(id, name, event.at, false));
            stuck.into_iter().for_each(|what| self.broken(Some(event), (Rule::Liveness, what)));
        }
    }

    /// Called when a worker has no free place any more: no build may have waited for too long while it had one.
    fn place_taken(&mut self, name: &str, event: &Event) {
        let Some(worker) = self.workers.get(name) else { return };
        if worker.free_since.is_none() {
            return;
        }
        let stuck: Vec<_> = self.waiting.iter().filter_map(|id| self.stuck(*id, name, event.at, false)).collect();
        stuck.into_iter().for_each(|what| self.broken(Some(event), (Rule::Liveness, what)));
        if let Some(worker) = self.workers.get_mut(name) {
            worker.free_since = None;
        }
    }

    /// Returns an error if a build waits for too long while this worker has a free place.
    fn stuck(&self, id: BuildId, name: &str, now: Duration, at_all: bool) -> Option<String> {
        let Liveness { limit, fits } = self.checker.liveness.as_ref()?;
        let free_since = self.workers.get(name)?.free_since?;
        let Some(Build::Waiting { since, retried }) = self.builds.get(&id).copied() else { return None };
        let pause = if retried { LONGEST_PAUSE } else { Duration::ZERO };
        let limit = if at_all { Duration::ZERO } else { *limit };
        let beside = now.checked_sub(since.saturating_add(pause).max(free_since))?;
        let is_stuck = if at_all { true } else { beside > limit };
        (is_stuck && fits(id, name)).then(|| {
            format!("build {id} has waited for {beside:?} while {name} has a free place, expected at most {limit:?}")
        })
    }

    pub(super) fn end(mut self, end: End) -> Result<EventSummary, Violations> {
        let now = self.last.map(|(_, at)| at).unwrap_or_default();
        if end != End::ShutDown {
            let pairs = self.waiting.iter().flat_map(|id| self.workers.keys().map(|name| (*id, name)));
            let stuck: Vec<_> = pairs.filter_map(|(id, name)| self.stuck(id, name, now, end == End::Quiet)).collect();
            stuck.into_iter().for_each(|what| self.broken(None, (Rule::Liveness, what)));
        } else {
            let mut broken: Vec<Broken> = Vec::new();
            for (name, worker) in &self.workers {
                broken.extend(worker.end().into_iter().map(|(rule, what)| (rule, format!("worker {name}: {what}"))));
            }
            let open = self.builds.iter().filter(|(_, build)| !matches!(build, Build::Ended));
            broken.extend(open.map(|(id, _)| (Rule::OneEnd, format!("build {id} has not ended"))));
            broken.into_iter().for_each(|broken| self.broken(None, broken));
        }
        if self.violations.is_empty() { Ok(self.summary) } else { Err(Violations(self.violations)) }
    }

    fn broken(&mut self, event: Option<&Event>, (rule, what): Broken) {
        if !self.checker.without.contains(&rule) && self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(Violation { rule, event: event.cloned(), what });
        }
    }
}
