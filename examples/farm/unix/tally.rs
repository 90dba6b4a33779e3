//! What the entries of the record add up to: how builds ended, how long they took, what each worker did.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use latent_worker::StopCause;

use super::record::Entry;

#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) queued: usize,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) cancelled: usize,
    pub(crate) not_run: usize,
    /// How often a build went back to the queue because of its instance.
    pub(crate) retries: usize,
    /// From the queue to the lease, for each lease.
    pub(crate) waited: Times,
    /// From the lease to its end, for each lease.
    pub(crate) ran: Times,
    pub(crate) workers: BTreeMap<WorkerName, Work>,
    pub(crate) running: BTreeMap<usize, Running>,
    pub(crate) failures: Vec<Failure>,
    /// Calls of the driver that failed, with their reasons.
    pub(crate) trouble: Vec<String>,
    /// How many consecutive attempts have failed before their start was called.
    pub(crate) refused: usize,
    pub(crate) shutting_down: bool,
    /// The time of the last entry.
    pub(crate) elapsed: f64,
    waiting_since: HashMap<usize, f64>,
}

/// Sorts as people do: local-2 before local-10.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct WorkerName {
    length: usize,
    pub(crate) name: Arc<str>,
}

impl WorkerName {
    pub(crate) fn new(name: &Arc<str>) -> Self {
        Self { length: name.len(), name: name.clone() }
    }
}

/// What one worker did.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(crate) struct Work {
    /// How many times a start was called. Each start has exactly one stop.
    pub(crate) starts: usize,
    /// The number of starts after which an agent has attached.
    pub(crate) attached: usize,
    /// The number of starts that ended without an agent, except those that were cancelled because nobody waited any
    /// more.
    pub(crate) failed: usize,
    pub(crate) stops: usize,
    pub(crate) failed_stops: usize,
    pub(crate) leases: usize,
    /// Leases of an instance that had one before.
    pub(crate) warm: usize,
    pub(crate) ran: f64,
    last_used: Option<u64>,
    last_called: Option<u64>,
    last_attached: Option<u64>,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.starts += other.starts;
        self.attached += other.attached;
        self.failed += other.failed;
        self.stops += other.stops;
        self.failed_stops += other.failed_stops;
        self.leases += other.leases;
        self.warm += other.warm;
        self.ran += other.ran;
    }
}

/// A build whose lease is out.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) worker: Arc<str>,
    pub(crate) since: f64,
    /// Its lease was released; its build has not ended yet.
    pub(crate) is_released: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Failure {
    pub(crate) build: usize,
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) command: Arc<str>,
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Times {
    pub(crate) count: usize,
    pub(crate) total: f64,
    pub(crate) longest: f64,
}

impl Times {
    fn add(&mut self, time: f64) {
        self.count += 1;
        self.total += time;
        self.longest = self.longest.max(time);
    }

    pub(crate) fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total / self.count as f64 }
    }
}

impl Tally {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.elapsed = self.elapsed.max(entry.t);
        match (entry.event, &entry.worker, entry.build) {
            ("build_queued", _, Some(build)) => {
                match entry.reason {
                    Some(_) => self.retries += 1,
                    None => self.queued += 1,
                }
                self.waiting_since.insert(build, entry.t);
                self.running.remove(&build);
            }
            ("build_started", Some(worker), Some(build)) => {
                if let Some(since) = self.waiting_since.remove(&build) {
                    self.waited.add(entry.t - since);
                }
                self.running.insert(build, Running { worker: worker.clone(), since: entry.t, is_released: false });
                let work = self.work(worker);
                work.leases += 1;
                work.warm += usize::from(work.is_warm(entry.epoch));
                work.last_used = entry.epoch;
            }
            ("released", _, Some(build)) => self.lease_ended(build, entry.t),
            ("build_finished", _, Some(build)) => self.finished(build, entry),
            ("start_called", Some(worker), _) => {
                self.refused = 0;
                let work = self.work(worker);
                work.starts += 1;
                work.last_called = entry.epoch;
            }
            ("quarantined", Some(worker), _) => {
                let is_refused = self.work(worker).last_called != entry.epoch;
                self.refused += usize::from(is_refused);
            }
            ("attached", Some(worker), _) => {
                let work = self.work(worker);
                // An agent may attach again.
                let is_first = work.last_attached.replace(entry.epoch.unwrap_or_default()) != entry.epoch;
                work.attached += usize::from(is_first);
            }
            ("stop_called", Some(worker), _) => {
                let work = self.work(worker);
                work.stops += 1;
                let is_failure = entry.cause == Some(StopCause::Failed) && work.last_attached != entry.epoch;
                work.failed += usize::from(is_failure);
            }
            ("start_returned" | "check_returned" | "stop_returned", Some(worker), _)
                if entry.result == Some("failed") =>
            {
                let call = entry.event.trim_end_matches("_returned");
                self.work(worker).failed_stops += usize::from(call == "stop");
                self.trouble.push(format!("{worker}: {call} failed: {}", entry.reason.as_deref().unwrap_or_default()));
            }
            ("shutdown", ..) => self.shutting_down = true,
            _ => {}
        }
    }

    fn finished(&mut self, build: usize, entry: &Entry) {
        match entry.result {
            Some("succeeded") => self.succeeded += 1,
            Some("cancelled") => self.cancelled += 1,
            Some("not_run") => self.not_run += 1,
            _ => self.failed += 1,
        }
        let interrupted = self.shutting_down && entry.result == Some("not_run");
        if !matches!(entry.result, Some("succeeded" | "cancelled")) && !interrupted {
            self.failures.push(Failure {
                build,
                worker: self.running.get(&build).map(|running| running.worker.clone()),
                command: entry.command.clone().unwrap_or_default(),
                reason: entry.reason.as_deref().or(entry.result).unwrap_or_default().to_owned(),
            });
        }
        self.waiting_since.remove(&build);
        self.lease_ended(build, entry.t);
        self.running.remove(&build);
    }

    /// A lease is released before its build ends or waits again. Where it ran is known until then.
    fn lease_ended(&mut self, build: usize, now: f64) {
        if let Some(running) = self.running.get_mut(&build)
            && !std::mem::replace(&mut running.is_released, true)
        {
            let (worker, time) = (running.worker.clone(), now - running.since);
            self.ran.add(time);
            self.work(&worker).ran += time;
        }
    }

    fn work(&mut self, worker: &Arc<str>) -> &mut Work {
        self.workers.entry(WorkerName::new(worker)).or_default()
    }

    /// Whether this instance of a worker has had a lease.
    pub(crate) fn is_warm(&self, worker: &Arc<str>, epoch: Option<u64>) -> bool {
        self.workers.get(&WorkerName::new(worker)).is_some_and(|work| work.is_warm(epoch))
    }

    pub(crate) fn ended(&self) -> usize {
        self.succeeded + self.failed + self.cancelled + self.not_run
    }

    /// What all workers did together.
    pub(crate) fn all_work(&self) -> Work {
        let mut all = Work::default();
        self.workers.values().for_each(|work| all += *work);
        all
    }
}

impl Work {
    fn is_warm(&self, epoch: Option<u64>) -> bool {
        epoch.is_some() && self.last_used == epoch
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn entry(t: f64, event: &'static str, worker: &str, epoch: u64, build: usize) -> Entry {
        Entry {
            t,
            event,
            worker: (!worker.is_empty()).then(|| worker.into()),
            epoch: (epoch > 0).then_some(epoch),
            build: (build > 0).then_some(build),
            ..Entry::default()
        }
    }

    pub(crate) fn ended(t: f64, build: usize, result: &'static str, reason: Option<&str>) -> Entry {
        let reason = reason.map(str::to_owned);
        Entry { result: Some(result), reason, ..entry(t, "build_finished", "", 0, build) }
    }

    pub(crate) fn returned(t: f64, event: &'static str, worker: &str, epoch: u64, result: &'static str) -> Entry {
        Entry { result: Some(result), ..entry(t, event, worker, epoch, 0) }
    }

    pub(crate) fn two_builds_on_one_instance() -> Tally {
        let mut tally = Tally::default();
        for entry in [
            entry(0.0, "build_queued", "", 0, 1),
            entry(0.0, "build_queued", "", 0, 4),
            entry(0.5, "start_called", "local-1", 1, 1),
            returned(1.0, "start_returned", "local-1", 1, "ok"),
            entry(1.0, "attached", "local-1", 1, 0),
            entry(1.0, "build_started", "local-1", 1, 1),
            ended(3.0, 1, "succeeded", None),
            entry(3.0, "released", "local-1", 1, 1),
            entry(3.0, "build_started", "local-1", 1, 4),
            ended(4.0, 4, "failed", Some("exit code 2")),
            entry(4.0, "released", "local-1", 1, 4),
            entry(6.0, "stop_called", "local-1", 1, 0),
            returned(6.5, "stop_returned", "local-1", 1, "ok"),
        ] {
            tally.add(&entry);
        }
        tally
    }

    #[test]
    fn times_and_reuse_are_added_up() {
        let tally = two_builds_on_one_instance();
        assert_eq!((tally.queued, tally.ended(), tally.succeeded, tally.failed), (2, 2, 1, 1));
        assert_eq!((tally.waited.count, tally.waited.total, tally.waited.longest), (2, 4.0, 3.0));
        assert_eq!((tally.ran.count, tally.ran.mean(), tally.ran.longest), (2, 1.5, 2.0));
        let all = tally.all_work();
        assert_eq!((all.starts, all.attached, all.failed, all.stops), (1, 1, 0, 1));
        assert_eq!((all.leases, all.warm, all.ran), (2, 1, 3.0));
        assert_eq!(tally.elapsed, 6.5);
        assert!(tally.running.is_empty());
        let failure = &tally.failures[0];
        assert_eq!((failure.build, failure.reason.as_str()), (4, "exit code 2"));
        assert_eq!(failure.worker.as_deref(), Some("local-1"));
    }

    #[test]
    fn a_retry_waits_and_runs_again_and_a_new_instance_is_cold() {
        let mut tally = Tally::default();
        tally.add(&entry(0.0, "build_queued", "", 0, 1));
        tally.add(&entry(1.0, "build_started", "local-1", 1, 1));
        tally.add(&entry(2.0, "released", "local-1", 1, 1));
        tally.add(&Entry { reason: Some("lost".into()), ..entry(2.0, "build_queued", "", 0, 1) });
        tally.add(&entry(5.0, "build_started", "local-1", 2, 1));
        tally.add(&ended(6.0, 1, "succeeded", None));
        assert_eq!((tally.queued, tally.retries, tally.ended()), (1, 1, 1));
        assert_eq!((tally.waited.total, tally.ran.total), (4.0, 2.0));
        assert_eq!(tally.all_work().warm, 0);
    }

    #[test]
    fn what_a_shutdown_leaves_undone_is_no_failure() {
        let mut tally = Tally::default();
        tally.add(&ended(0.0, 1, "not_run", Some("gave up")));
        tally.add(&entry(1.0, "shutdown", "", 0, 0));
        tally.add(&ended(1.0, 2, "not_run", Some("the master is shutting down")));
        tally.add(&ended(1.0, 3, "cancelled", None));
        assert_eq!((tally.not_run, tally.cancelled), (2, 1));
        assert_eq!(tally.failures.iter().map(|failure| failure.build).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn failed_calls_are_told() {
        let mut tally = Tally::default();
        tally.add(&entry(0.0, "stop_called", "local-1", 1, 0));
        let entry = returned(1.0, "stop_returned", "local-1", 1, "failed");
        tally.add(&Entry { reason: Some("busy".into()), ..entry });
        assert_eq!(tally.trouble, ["local-1: stop failed: busy"]);
        assert_eq!((tally.all_work().stops, tally.all_work().failed_stops), (1, 1));
    }

    #[test]
    fn every_start_attaches_or_fails_or_is_cancelled() {
        let mut tally = Tally::default();
        let stop = |epoch, cause| Entry { cause: Some(cause), ..entry(2.0, "stop_called", "local-1", epoch, 0) };
        for (epoch, attaches, cause) in [
            (1, 0, StopCause::Failed),
            (2, 1, StopCause::Idle),
            (3, 2, StopCause::Lost),
            (4, 0, StopCause::Cancelled),
            (5, 0, StopCause::Failed),
        ] {
            tally.add(&entry(1.0, "start_called", "local-1", epoch, 0));
            (0..attaches).for_each(|_| tally.add(&entry(1.0, "attached", "local-1", epoch, 0)));
            tally.add(&stop(epoch, cause));
        }
        let all = tally.all_work();
        assert_eq!((all.starts, all.attached, all.failed, all.stops), (5, 2, 2, 5));
    }

    #[test]
    fn attempts_that_fail_before_their_start_are_counted_until_one_is_started() {
        let mut tally = Tally::default();
        for (event, epoch, refused) in [
            ("start_called", 1, 0),
            ("quarantined", 1, 0),
            ("quarantined", 2, 1),
            ("quarantined", 3, 2),
            ("start_called", 4, 0),
            ("quarantined", 4, 0),
        ] {
            tally.add(&entry(0.0, event, "local-1", epoch, 0));
            assert_eq!(tally.refused, refused, "{event} {epoch}");
        }
    }

    #[test]
    fn workers_are_sorted_by_number() {
        let mut names = ["local-10", "local-9", "local-1"].map(|name| WorkerName::new(&name.into()));
        names.sort();
        assert_eq!(names.map(|worker| worker.name.to_string()), ["local-1", "local-9", "local-10"]);
    }
}
