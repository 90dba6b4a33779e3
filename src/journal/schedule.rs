//! Which leftovers there are, and when the next try is made to get rid of each. Pure: time and chance come in as
//! arguments.
//!
//! ```text
//!   of a worker that there is not ──worker added──▶ waiting ──due, room──▶ running ──gone──▶ off the list
//!                                                      ▲                      │ │
//!                                                      └──failed, after a pause┘ └──the driver cannot──▶ left to people
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::recovery::Remains;

/// How many reclaims run at once, those that are stuck not counted.
pub(crate) const MOST_AT_ONCE: usize = 8;
/// One that runs for so long is stuck: it has its thread, but does not keep others from theirs.
const STUCK: Duration = Duration::from_secs(300);
/// How many reclaims run at once, those that are stuck included.
const MOST_THREADS: usize = 64;
/// The pause after the first failure; it doubles.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The pause beyond which it does not double any more.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How an attempt came onto the list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Origin {
    /// The journal of an earlier master does not tell its end.
    EarlierMaster,
    /// Its stop has failed.
    FailedStop,
}

/// What happens to a leftover next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Plan {
    /// Nothing, until its worker is added.
    NoWorker,
    Waiting(Instant),
    Running(Instant),
    /// Its driver has no means. It is for people to look after.
    CannotReclaim,
}

/// What a try came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Gone,
    /// Nothing is there, but something may still come.
    Pending,
    CannotReclaim,
    Failed(Arc<str>),
    /// The driver was not called, for this reason. It is no failure of the driver and does not count as one.
    NotCalled(Arc<str>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) remains: Remains,
    pub(crate) origin: Origin,
    pub(crate) plan: Plan,
    /// Failures of stop and reclaim, those told by the journal included.
    pub(crate) tries: u32,
    pub(crate) reason: Option<Arc<str>>,
    /// Since when it is on the list of this master.
    pub(crate) since: Instant,
    /// Failures of this life, and looks in vain for what may still come, from which the pause is calculated.
    failures: u32,
    /// Nothing of it is there that could be in the way of anything; something may still come.
    pending: bool,
}

impl Entry {
    /// Whether it stands between its worker and the next start. One that an earlier master has left and that the driver
    /// can do nothing about does not: the worker would be of no use for ever. Nor does what may still come.
    fn is_in_the_way(&self) -> bool {
        let given_up = self.plan == Plan::CannotReclaim && self.origin == Origin::EarlierMaster;
        !(self.pending || given_up)
    }
}

/// What came of the end of a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Returned {
    /// No leftover of the worker is in the way any more.
    pub(crate) worker_is_clear: bool,
    /// When it is tried again.
    pub(crate) next_try: Option<Instant>,
    /// How often it has failed.
    pub(crate) tries: u32,
}

/// The list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leftovers {
    entries: BTreeMap<Arc<str>, Entry>,
    /// Those that wait, by time.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// Since when.
    running: BTreeMap<Arc<str>, Instant>,
    closing: Closing,
}

/// Which tries may still begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Closing {
    #[default]
    Open,
    /// Only tries that were due at this time.
    OnlyDueAt(Instant),
    Closed,
}

impl Leftovers {
    /// Something that an earlier master has left. Nothing is done about it until its worker is added.
    pub(crate) fn found(&mut self, now: Instant, remains: Remains, tries: u32, reason: Option<Arc<str>>) {
        let (origin, plan) = (Origin::EarlierMaster, Plan::NoWorker);
        let key = remains.key.clone();
        self.entries
            .insert(key, Entry { remains, origin, plan, tries, reason, since: now, failures: 0, pending: false });
    }

    /// Something whose stop has just failed. It is tried again after a pause; `chance` is in 0..1.
    pub(crate) fn stop_failed(&mut self, now: Instant, remains: Remains, reason: Arc<str>, chance: f64) {
        let key = remains.key.clone();
        let (origin, plan) = (Origin::FailedStop, Plan::NoWorker);
        let entry =
            Entry { remains, origin, plan, tries: 1, reason: Some(reason), since: now, failures: 1, pending: false };
        self.entries.insert(key.clone(), entry);
        self.plan_try(&key, now, pause(1, chance));
    }

    /// A worker was added: whatever is left of it can be reclaimed from now on. Whether there is anything.
    pub(crate) fn worker_added(&mut self, now: Instant, worker: &str) -> bool {
        let of_worker = self.entries.values().filter(|entry| &*entry.remains.worker == worker);
        let keys: Vec<_> = of_worker.map(|entry| entry.remains.key.clone()).collect();
        keys.iter().for_each(|key| _ = self.plan_try(key, now, Duration::ZERO));
        !keys.is_empty()
    }

    fn plan_try(&mut self, key: &Arc<str>, now: Instant, pause: Duration) -> Option<Instant> {
        let at = now.checked_add(pause)?;
        self.entries.get_mut(key)?.plan = Plan::Waiting(at);
        self.due.insert((at, key.clone()));
        Some(at)
    }

    /// Whether a try could begin now.
    pub(crate) fn has_due(&self, now: Instant) -> bool {
        self.next_deadline().is_some_and(|at| at <= now)
    }

    /// When a try can begin, if none ends before that.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (due, _) = self.due.first().filter(|(due, _)| self.may_begin(*due))?;
        if self.running.len() >= MOST_THREADS {
            return None;
        }
        let mut latest: Vec<_> = self.running.values().collect();
        latest.sort_unstable_by(|a, b| b.cmp(a));
        match latest.get(MOST_AT_ONCE - 1) {
            None => Some(*due),
            // There is room when this one is stuck, and at the latest when one has ended.
            Some(since) => since.checked_add(STUCK).map(|room| room.max(*due)),
        }
    }

    /// Begins the next try that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Remains> {
        if !self.has_due(now) {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.plan = Plan::Running(now);
        self.running.insert(key, now);
        Some(entry.remains.clone())
    }

    /// A try has ended. One that ends the life of the leftover takes it off the list. `None` if it is not on it any
    /// more.
    pub(crate) fn returned(&mut self, now: Instant, key: &Arc<str>, outcome: Outcome, chance: f64) -> Option<Returned> {
        self.running.remove(key);
        let entry = self.entries.get_mut(key)?;
        let worker = entry.remains.worker.clone();
        let mut next_try = None;
        let mut tries = entry.tries;
        match outcome {
            Outcome::Gone => _ = self.entries.remove(key),
            Outcome::CannotReclaim => entry.plan = Plan::CannotReclaim,
            Outcome::Failed(_) | Outcome::NotCalled(_) | Outcome::Pending => {
                match outcome {
                    Outcome::Failed(ref reason) | Outcome::NotCalled(ref reason) => entry.reason = Some(reason.clone()),
                    _ => entry.pending = true,
                }
                entry.tries = entry.tries.saturating_add(u32::from(matches!(outcome, Outcome::Failed(_))));
                entry.failures = entry.failures.saturating_add(1);
                tries = entry.tries;
                let pause = pause(entry.failures, chance);
                next_try = self.plan_try(key, now, pause);
            }
        }
        Some(Returned { worker_is_clear: self.is_clear(&worker), next_try, tries })
    }

    /// Somebody says that it is gone. The worker, and whether nothing of it is in the way any more.
    pub(crate) fn forget(&mut self, key: &str) -> Option<(Arc<str>, bool)> {
        let entry = self.entries.remove(key)?;
        if let Plan::Waiting(at) = entry.plan {
            self.due.remove(&(at, entry.remains.key));
        }
        let worker = entry.remains.worker;
        let clear = self.is_clear(&worker);
        Some((worker, clear))
    }

    /// Nothing of the worker is in its way.
    pub(crate) fn is_clear(&self, worker: &str) -> bool {
        let mut of_worker = self.entries.values().filter(|entry| &*entry.remains.worker == worker);
        !of_worker.any(Entry::is_in_the_way)
    }

    /// Since when something is on the list.
    pub(crate) fn since(&self, key: &str) -> Option<Instant> {
        self.entries.get(key).map(|entry| entry.since)
    }

    /// From now on only tries that are already due may begin.
    pub(crate) fn close_soon(&mut self, now: Instant) {
        if self.closing == Closing::Open {
            self.closing = Closing::OnlyDueAt(now);
        }
    }

    /// No try begins any more.
    pub(crate) fn close(&mut self) {
        self.closing = Closing::Closed;
    }

    fn may_begin(&self, due: Instant) -> bool {
        match self.closing {
            Closing::Open => true,
            Closing::OnlyDueAt(last) => due <= last,
            Closing::Closed => false,
        }
    }

    /// All of them, by worker and attempt.
    pub(crate) fn list(&self) -> Vec<&Entry> {
        let mut list: Vec<_> = self.entries.values().collect();
        list.sort_by(|a, b| (&a.remains.worker, a.remains.epoch).cmp(&(&b.remains.worker, b.remains.epoch)));
        list
    }
}

/// How long to wait after so many failures: between half and all of a time that doubles, so that what failed together
/// is not tried together.
fn pause(failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = (SHORTEST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
    whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::super::recovery::LeftoverStage;
    use super::*;
    use crate::build::Epoch;

    const SECOND: Duration = Duration::from_secs(1);

    fn remains(worker: &str, number: u64) -> Remains {
        Remains {
            worker: worker.into(),
            epoch: Epoch(number),
            key: format!("{worker}-{number}").into(),
            owner: "owner".into(),
            ids: Vec::new(),
            stage: LeftoverStage::Intended,
            at: None,
        }
    }

    fn failed(reason: &str) -> Outcome {
        Outcome::Failed(reason.into())
    }

    #[test]
    fn j3_a_leftover_is_tried_until_it_is_gone_with_pauses_that_double_up_to_ten_minutes() {
        let mut now = Instant::now();
        let mut list = Leftovers::default();
        list.found(now, remains("a", 1), 3, None);
        assert_eq!(list.next_deadline(), None, "there is no worker that could do it");
        assert!(list.worker_added(now, "a"));
        let mut expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600].map(|s| s * SECOND).into_iter();
        for failures in 1..=13 {
            let key = list.take_due(now).expect("it is due").key;
            assert_eq!(list.take_due(now), None, "it runs already");
            let returned = list.returned(now, &key, failed("no answer"), 1.0).unwrap();
            assert!(!returned.worker_is_clear);
            assert_eq!(returned.tries, 3 + failures, "those of the journal count");
            now += expected.next().unwrap();
            assert_eq!(returned.next_try, Some(now));
            assert_eq!(list.next_deadline(), Some(now));
        }
        let key = list.take_due(now).unwrap().key;
        let returned = list.returned(now, &key, Outcome::Gone, 0.0).unwrap();
        assert!(returned.worker_is_clear && returned.next_try.is_none());
        assert!(list.list().is_empty() && list.next_deadline().is_none());
    }

    #[test]
    fn the_pause_is_between_half_and_all_of_its_time() {
        assert_eq!(pause(1, 0.0), SECOND / 2);
        assert_eq!(pause(3, 0.5), SECOND * 3);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
    }

    #[test]
    fn no_more_than_so_many_run_at_once() {
        let now = Instant::now();
        let mut list = Leftovers::default();
        let many = 3 * MOST_AT_ONCE as u64;
        (0..many).for_each(|number| list.found(now, remains("a", number), 0, None));
        assert!(list.worker_added(now, "a"));
        let mut running: Vec<_> = std::iter::from_fn(|| list.take_due(now)).collect();
        assert_eq!(running.len(), MOST_AT_ONCE);
        assert_eq!(list.next_deadline(), Some(now + STUCK), "nobody needs to look again before one has ended");
        for done in 1..=many {
            let key = running.pop().unwrap().key;
            let clear = list.returned(now, &key, Outcome::Gone, 0.5).unwrap().worker_is_clear;
            assert_eq!(clear, done == many);
            running.extend(list.take_due(now));
        }
    }

    #[test]
    fn w14_reclaims_that_are_stuck_keep_no_others_from_being_tried_and_threads_are_bounded() {
        let mut now = Instant::now();
        let mut list = Leftovers::default();
        (0..100).for_each(|number| list.found(now, remains("stuck", number), 0, None));
        list.worker_added(now, "stuck");
        let mut begun = Vec::new();
        while list.next_deadline().is_some() {
            now = list.next_deadline().unwrap().max(now);
            begun.push(std::iter::from_fn(|| list.take_due(now)).count());
        }
        assert_eq!(begun, [MOST_AT_ONCE; MOST_THREADS / MOST_AT_ONCE], "eight more every five minutes");
        list.returned(now, &"stuck-0".into(), Outcome::Gone, 0.5);
        assert_eq!(list.next_deadline(), Some(now + STUCK));
        assert!(list.take_due(now + STUCK).is_some());
        assert!(list.take_due(now + STUCK).is_none());
    }

    #[test]
    fn a_try_for_which_there_was_no_thread_is_no_failure_of_the_driver() {
        let now = Instant::now();
        let mut list = Leftovers::default();
        list.found(now, remains("a", 1), 3, None);
        list.worker_added(now, "a");
        let key = list.take_due(now).unwrap().key;
        let returned = list.returned(now, &key, Outcome::NotCalled("no thread".into()), 1.0).unwrap();
        assert_eq!((returned.tries, returned.next_try), (3, Some(now + SECOND)));
        assert_eq!(list.list()[0].reason.as_deref(), Some("no thread"));
    }

    #[test]
    fn a_worker_is_clear_when_nothing_is_in_its_way_any_more() {
        let now = Instant::now();
        let mut list = Leftovers::default();
        list.found(now, remains("a", 1), 0, None);
        list.found(now, remains("b", 1), 0, None);
        assert!(!list.worker_added(now, "c"));
        assert!(list.worker_added(now, "a"));
        // What the driver can do nothing about does not block a worker for ever...
        let key = list.take_due(now).unwrap().key;
        assert!(list.returned(now, &key, Outcome::CannotReclaim, 0.5).unwrap().worker_is_clear);
        assert_eq!(list.list().len(), 2, "but stays on the list");
        assert_eq!(list.next_deadline(), None);
        // ...and what has failed in this life ends its quarantine only when it is really gone.
        list.stop_failed(now, remains("a", 2), "no answer".into(), 1.0);
        assert_eq!(list.take_due(now), None, "not at once");
        let key = list.take_due(now + SECOND).unwrap().key;
        assert!(!list.returned(now, &key, Outcome::CannotReclaim, 0.5).unwrap().worker_is_clear);
        assert_eq!(list.forget("a-2"), Some(("a".into(), true)));
        assert_eq!(list.forget("a-2"), None);
    }

    #[test]
    fn what_may_still_come_is_looked_for_again_and_is_in_nobodys_way() {
        let now = Instant::now();
        let mut list = Leftovers::default();
        list.found(now, remains("a", 1), 2, Some("no answer".into()));
        list.worker_added(now, "a");
        for failures in 1..4 {
            let begin = now + SECOND * 100 * failures;
            let key = list.take_due(begin).unwrap().key;
            let returned = list.returned(begin, &key, Outcome::Pending, 1.0).unwrap();
            assert!(returned.worker_is_clear);
            assert_eq!(returned.tries, 2, "it is no failure");
            assert_eq!(returned.next_try, Some(begin + SECOND * 2_u32.pow(failures - 1)));
        }
        assert_eq!(list.since("a-1"), Some(now));
        assert_eq!(list.list()[0].reason.as_deref(), Some("no answer"));
        let begin = now + SECOND * 1000;
        let key = list.take_due(begin).unwrap().key;
        // Once nothing was in the way, nothing is: what comes late has a key of its own.
        assert!(list.returned(begin, &key, Outcome::Failed("engine down".into()), 1.0).unwrap().worker_is_clear);
        let key = list.take_due(begin + SECOND * 100).unwrap().key;
        list.returned(begin, &key, Outcome::Gone, 1.0).unwrap();
        assert!(list.list().is_empty());
    }

    #[test]
    fn what_is_forgotten_while_it_runs_does_not_come_back() {
        let now = Instant::now();
        let mut list = Leftovers::default();
        list.found(now, remains("a", 1), 0, None);
        list.worker_added(now, "a");
        let key = list.take_due(now).unwrap().key;
        assert_eq!(list.forget(&key), Some(("a".into(), true)));
        assert_eq!(list.returned(now, &key, failed("too late"), 0.5), None);
        list.found(now, remains("a", 2), 0, None);
        list.worker_added(now, "a");
        list.forget("a-2");
        assert_eq!(list.next_deadline(), None);
        assert_eq!(list.take_due(now), None);
    }

    #[test]
    fn after_the_close_nothing_begins() {
        let now = Instant::now();
        let mut list = Leftovers::default();
        list.found(now, remains("a", 1), 0, None);
        list.found(now, remains("a", 2), 0, None);
        list.worker_added(now, "a");
        let key = list.take_due(now).unwrap().key;
        list.close();
        assert_eq!(list.take_due(now), None);
        list.returned(now, &key, failed("cancelled"), 0.5);
        list.stop_failed(now, remains("a", 3), "no answer".into(), 0.5);
        assert_eq!((list.next_deadline(), list.list().len()), (None, 3));
    }
}
