//! All calls into the drivers of one run of the kit, what they came to, and what is promised about all of them
//! together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{DriverCall, Epoch, Secret};

/// A call into a driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Call {
    /// The number of the master within the run.
    pub(super) master: usize,
    pub(super) worker: String,
    pub(super) epoch: Epoch,
    pub(super) key: String,
    pub(super) owner: String,
    pub(super) kind: DriverCall,
    pub(super) fast: bool,
    pub(super) had_instance: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Well,
    Failed(String),
    /// Of a reclaim.
    Unsupported,
    Panicked,
}

/// A call, when it was made and what it came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Noted {
    pub(super) call: Call,
    pub(super) begun: Instant,
    pub(super) ended: Option<(Instant, Outcome)>,
}

impl Noted {
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.ended.as_ref().map(|(_, outcome)| outcome)
    }
}

#[derive(Default)]
pub(super) struct Record {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    calls: Vec<Noted>,
    /// By key.
    secrets: BTreeMap<String, Secret>,
    leaks: BTreeSet<String>,
    /// How many texts were looked through.
    looked_at: u64,
}

/// A call that was begun; a panic ends it too.
pub(super) struct Begun<'a> {
    record: &'a Record,
    place: usize,
    outcome: Outcome,
}

impl Begun<'_> {
    pub(super) fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Well);
        self.record.lock().calls[self.place].ended = Some((Instant::now(), outcome));
        self.record.changed.notify_all();
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, call: Call) -> Begun<'_> {
        let mut inner = self.lock();
        inner.calls.push(Noted { call, begun: Instant::now(), ended: None });
        self.changed.notify_all();
        Begun { record: self, place: inner.calls.len() - 1, outcome: Outcome::Panicked }
    }

    pub(super) fn knows_secret(&self, key: &str, secret: &Secret) {
        self.lock().secrets.insert(key.to_owned(), secret.clone());
    }

    pub(super) fn secret_of(&self, key: &str) -> Option<Secret> {
        self.lock().secrets.get(key).cloned()
    }

    /// Returns whether the text contains a secret that is known now.
    pub(super) fn has_secret(&self, text: &str) -> bool {
        !text.is_empty() && self.lock().secrets.values().any(|secret| text.contains(secret.expose()))
    }

    /// Looks for every secret that is known by now. Where one is found is kept, without the secret.
    pub(super) fn look_at(&self, what: &str, text: &str) {
        let mut inner = self.lock();
        inner.looked_at += 1;
        let found: Vec<_> = inner.secrets.values().filter(|secret| text.contains(secret.expose())).cloned().collect();
        if !found.is_empty() {
            let shown = found.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "<SECRET>"));
            inner.leaks.insert(format!("{what}: {shown}"));
        }
    }

    pub(super) fn leaks(&self) -> (u64, BTreeSet<String>) {
        let inner = self.lock();
        (inner.looked_at, inner.leaks.clone())
    }

    pub(super) fn all(&self) -> Vec<Noted> {
        self.lock().calls.clone()
    }

    /// Waits until `pick` finds something among the calls of this worker.
    pub(super) fn wait_for<T>(
        &self,
        master: usize,
        worker: &str,
        patience: Duration,
        pick: impl Fn(&[Noted]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now().checked_add(patience);
        let mut inner = self.lock();
        loop {
            let of_worker = |noted: &&Noted| noted.call.master == master && noted.call.worker == worker;
            let calls: Vec<_> = inner.calls.iter().filter(of_worker).cloned().collect();
            if let Some(found) = pick(&calls) {
                return Some(found);
            }
            let left = deadline.map_or(patience, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// How a call is named to people.
fn named(noted: &Noted) -> String {
    let Call { kind, worker, epoch, master, .. } = &noted.call;
    format!("{kind} of {worker} (master {master}, attempt {epoch})")
}

/// W1: the first two calls of one worker that were in flight at the same time. Reclaims go their own way.
pub(super) fn overlap(calls: &[Noted]) -> Option<String> {
    let mut last: BTreeMap<(usize, &str), &Noted> = BTreeMap::new();
    for noted in calls.iter().filter(|noted| noted.call.kind != DriverCall::Reclaim) {
        if let Some(before) = last.insert((noted.call.master, &noted.call.worker), noted)
            && before.ended.as_ref().is_none_or(|(ended, _)| *ended > noted.begun)
        {
            return Some(format!("{} was called before {} had returned", named(noted), named(before)));
        }
    }
    None
}

/// W2: the first start that had another number of stops than one. A worker with a call that hangs is not judged.
pub(super) fn stops_amiss(calls: &[Noted]) -> Option<String> {
    let worker = |noted: &Noted| (noted.call.master, noted.call.worker.clone());
    let hanging: BTreeSet<_> = calls.iter().filter(|noted| noted.ended.is_none()).map(worker).collect();
    let of_kind = |kind: DriverCall| calls.iter().filter(move |noted| noted.call.kind == kind);
    let starts = of_kind(DriverCall::Start).filter(|noted| !hanging.contains(&worker(noted)));
    starts.into_iter().find_map(|start| {
        let stops = of_kind(DriverCall::Stop).filter(|stop| stop.call.key == start.call.key).count();
        (stops != 1).then(|| format!("{} was followed by {stops} stops", named(start)))
    })
}

/// D4: two starts with the same key, or two owners where one is promised.
pub(super) fn keys_amiss(calls: &[Noted]) -> Option<String> {
    let mut keys = BTreeSet::new();
    let mut owners: BTreeMap<usize, &str> = BTreeMap::new();
    for noted in calls.iter().filter(|noted| noted.call.kind == DriverCall::Start) {
        if !keys.insert(&noted.call.key) {
            return Some(format!("{} has the key of an earlier start", named(noted)));
        }
        if *owners.entry(noted.call.master).or_insert(&noted.call.owner) != noted.call.owner {
            return Some(format!("{} has another owner than an earlier start of its master", named(noted)));
        }
    }
    let distinct: BTreeSet<_> = owners.values().collect();
    // Masters that share a journal share the owner, but of those only one starts anything.
    (distinct.len() < owners.len()).then(|| "two masters that share no journal have the same owner".to_owned())
}

/// W14: the first call that panicked.
pub(super) fn panicked(calls: &[Noted]) -> Option<String> {
    let panicked = calls.iter().find(|noted| noted.outcome() == Some(&Outcome::Panicked));
    panicked.map(|noted| format!("{} panicked", named(noted)))
}

/// Shared by all that takes notes.
pub(super) type SharedRecord = Arc<Record>;

#[cfg(test)]
mod tests {
    use super::*;

    /// A call from `begun` to `ended` (seconds after the first moment).
    fn noted(origin: Instant, kind: DriverCall, key: &str, begun: u64, ended: Option<u64>) -> Noted {
        let call = Call {
            master: 1,
            worker: "w".to_owned(),
            epoch: Epoch::default(),
            key: key.to_owned(),
            owner: "o".to_owned(),
            kind,
            fast: false,
            had_instance: false,
        };
        let at = |seconds| origin + Duration::from_secs(seconds);
        Noted { call, begun: at(begun), ended: ended.map(|seconds| (at(seconds), Outcome::Well)) }
    }

    use DriverCall::{Check, Reclaim, Start, Stop};

    #[test]
    fn w1_calls_in_a_row_are_well_and_calls_at_the_same_time_are_not() {
        let origin = Instant::now();
        let call = |kind, begun, ended| noted(origin, kind, "k", begun, ended);
        let row = [call(Start, 0, Some(1)), call(Check, 1, Some(2)), call(Stop, 2, None)];
        assert_eq!(overlap(&row), None);
        assert!(overlap(&[call(Start, 0, Some(2)), call(Stop, 1, Some(3))]).is_some());
        assert!(overlap(&[call(Start, 0, None), call(Stop, 1, Some(3))]).is_some());
        assert_eq!(overlap(&[call(Start, 0, None), call(Reclaim, 1, Some(3))]), None);
        let mut elsewhere = call(Stop, 1, Some(3));
        elsewhere.call.worker = "v".to_owned();
        assert_eq!(overlap(&[call(Start, 0, None), elsewhere]), None);
    }

    #[test]
    fn w2_a_start_has_one_stop() {
        let origin = Instant::now();
        let call = |kind, key: &str, ended| noted(origin, kind, key, 0, ended);
        let (start, stop) = (call(Start, "a", Some(1)), call(Stop, "a", Some(1)));
        assert_eq!(stops_amiss(&[start.clone(), stop.clone()]), None);
        assert!(stops_amiss(std::slice::from_ref(&start)).is_some());
        assert!(stops_amiss(&[start.clone(), stop.clone(), stop.clone()]).is_some());
        assert!(stops_amiss(&[start.clone(), call(Stop, "b", Some(1))]).is_some());
        assert_eq!(stops_amiss(&[start, call(Check, "a", None)]), None, "who hangs is not judged");
    }

    #[test]
    fn d4_keys_and_owners_are_unique() {
        let origin = Instant::now();
        let of_master = |master, owner: &str, key: &str| {
            let mut noted = noted(origin, Start, key, 0, Some(1));
            (noted.call.master, noted.call.owner) = (master, owner.to_owned());
            noted
        };
        let (a, b) = (of_master(1, "o", "a"), of_master(2, "p", "b"));
        assert_eq!(keys_amiss(&[a.clone(), b.clone(), of_master(1, "o", "c")]), None);
        assert!(keys_amiss(&[a.clone(), a.clone()]).is_some());
        assert!(keys_amiss(&[a.clone(), of_master(1, "p", "c")]).is_some());
        assert!(keys_amiss(&[a, of_master(2, "o", "b")]).is_some());
    }

    #[test]
    fn a1_a_secret_is_found_and_not_told() {
        let record = Record::default();
        record.knows_secret("k", &Secret::new("abcdef"));
        record.look_at("an error", "nothing here");
        assert_eq!(record.leaks().1.len(), 0);
        record.look_at("an error", "cannot run --secret=abcdef");
        assert_eq!(record.leaks(), (2, ["an error: cannot run --secret=<SECRET>".to_owned()].into()));
    }

    #[test]
    fn w14_a_panic_is_noted() {
        let record = Record::default();
        let call = noted(Instant::now(), Start, "k", 0, None).call;
        let panic = || {
            let _begun = record.begin(call.clone());
            panic!("a test");
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panic)).is_err());
        assert_eq!(panicked(&record.all()).unwrap(), "start_instance of w (master 1, attempt 0) panicked");
        record.begin(call).ended(Outcome::Well);
        assert_eq!(panicked(&record.all()[1..]), None);
    }
}
