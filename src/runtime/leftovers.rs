//! What attempts have left behind: the list behind its lock, the threads that reclaim, and what the journal is told.
//!
//! When a try is due is decided by the list itself, which is pure. A thread that reclaims goes on with whatever is due
//! next and ends when nothing is, so that there are as many threads as tries, and none without a leftover.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::call_signal::CallSignal;
use super::entropy;
use super::fence::fenced;
use super::observers::About;
use super::shared::{Owner, Shared};
use super::threads;
use super::timer::Timer;
use crate::event::{EventKind, LeftoverStatus, LeftoverStep};
use crate::journal::{Entry, Journal, Leftovers, Origin, Outcome, Plan, Record, Remains, Until, seconds_since_1970};
use crate::lifecycle::Input;
use crate::worker::{Leftover, Reclaimed};

pub(super) struct LeftoverList {
    inner: Mutex<Inner>,
    /// Disconnected when the master shuts down.
    cancelled: Receiver<Infallible>,
}

struct Inner {
    list: Leftovers,
    /// When the timer looks after the list. It may be too early, never too late.
    scheduled: Option<Instant>,
    cancel: Option<Sender<Infallible>>,
}

impl LeftoverList {
    /// With what earlier masters have left.
    pub(super) fn new(now: Instant, journal: Option<&Journal>) -> Self {
        let mut list = Leftovers::default();
        for open in journal.map(Journal::open_attempts).unwrap_or_default() {
            list.found(now, open.remains, open.tries, open.reason);
        }
        let (cancel, cancelled) = bounded(0);
        Self { inner: Mutex::new(Inner { list, scheduled: None, cancel: Some(cancel) }), cancelled }
    }

    /// A worker is being added. What is left of it can be reclaimed from now on, and is in its way until it is gone.
    pub(super) fn worker_added(&self, now: Instant, worker: &str) -> Vec<Remains> {
        let mut inner = self.inner.lock();
        inner.list.worker_added(now, worker);
        let of_worker = inner.list.list().into_iter().filter(|entry| &*entry.remains.worker == worker);
        of_worker.map(|entry| entry.remains.clone()).collect()
    }

    /// A stop has failed. Called within the turn of its worker, so that nobody sees the one without the other.
    pub(super) fn stop_failed(&self, now: Instant, remains: Remains, reason: Arc<str>, chance: f64, timer: &Timer) {
        let mut inner = self.inner.lock();
        inner.list.stop_failed(now, remains, reason, chance);
        inner.schedule(timer);
    }

    /// How long something is on the list.
    fn known_for(&self, key: &str, now: Instant) -> Duration {
        let since = self.inner.lock().list.since(key);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub(super) fn status(&self, now: Instant) -> Vec<LeftoverStatus> {
        let inner = self.inner.lock();
        inner.list.list().into_iter().map(|entry| status(entry, now)).collect()
    }

    /// Reclaims that are already due still begin; failed ones are not tried again.
    pub(super) fn close_soon(&self, now: Instant) {
        self.inner.lock().list.close_soon(now);
    }

    /// Nothing is begun any more, and what runs is asked to end.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.list.close();
        let cancel = inner.cancel.take();
        drop(inner);
        drop(cancel);
    }
}

impl Inner {
    fn schedule(&mut self, timer: &Timer) {
        if let Some(at) = self.list.next_deadline()
            && self.scheduled.is_none_or(|scheduled| at < scheduled)
        {
            timer.set_reclaim(self.scheduled, at);
            self.scheduled = Some(at);
        }
    }
}

fn status(entry: &Entry, now: Instant) -> LeftoverStatus {
    let Remains { worker, epoch, key, owner, ids, stage, at: _ } = entry.remains.clone();
    LeftoverStatus {
        worker,
        epoch,
        key,
        owner,
        ids,
        stage,
        of_earlier_master: entry.origin == Origin::EarlierMaster,
        since: now.saturating_duration_since(entry.since),
        tries: entry.tries,
        reason: entry.reason.clone(),
        next: match entry.plan {
            Plan::NoWorker => LeftoverStep::NoWorker,
            Plan::Waiting(at) => LeftoverStep::ReclaimIn(at.saturating_duration_since(now)),
            Plan::Running(since) => LeftoverStep::Reclaiming(now.saturating_duration_since(since)),
            Plan::CannotReclaim => LeftoverStep::Unsupported,
        },
    }
}

impl Shared {
    /// Tells the journal, if there is one. That it cannot be written is told to observers; whatever is at stake, it
    /// must not keep a running instance from being stopped.
    pub(super) fn tell_journal(&self, record: Record, until: Until) {
        if let Some(journal) = &self.journal {
            // Observers are told about an error.
            let _ = self.write_journal(journal, || journal.append(record, until));
        }
    }

    /// Writes to the journal. A failure is reported once, until a write succeeds again. A problem of the file that was
    /// repaired is reported as well.
    pub(super) fn write_journal(
        &self,
        journal: &Journal,
        write: impl FnOnce() -> Result<(), Arc<str>>,
    ) -> Result<(), Arc<str>> {
        let written = write();
        let told = self.journal_failed.swap(written.is_err(), Ordering::Relaxed);
        let failure = written.as_ref().err().filter(|_| !told).cloned();
        for what in journal.take_trouble().into_iter().chain(failure) {
            self.publish(About::default(), EventKind::JournalTrouble { what });
        }
        written
    }

    pub(super) fn publish(&self, about: About, kind: EventKind) {
        if self.observers.any() {
            self.observers.publish(self.clock.now(), about, kind);
        }
    }

    /// The timer has called for the list.
    pub(super) fn reclaim_time_has_come(self: &Arc<Self>, scheduled: Instant) {
        {
            let mut inner = self.leftovers.inner.lock();
            if inner.scheduled == Some(scheduled) {
                inner.scheduled = None;
            }
        }
        self.reclaim_what_is_due();
    }

    /// Has everything that is due reclaimed, on threads of its own.
    pub(super) fn reclaim_what_is_due(self: &Arc<Self>) {
        while let Some(remains) = self.next_to_reclaim(true) {
            let body = {
                let (shared, remains) = (self.clone(), remains.clone());
                move || {
                    threads::belong_to(shared.number);
                    let mut next = Some(remains);
                    while let Some(remains) = next {
                        shared.reclaim(remains);
                        next = shared.next_to_reclaim(false);
                    }
                }
            };
            if let Err(error) = self.threads.spawn("lw reclaim".to_owned(), Owner(self.clone()), body) {
                self.reclaimed(&remains, Outcome::NotCalled(format!("no thread to reclaim it: {error}").into()));
            }
        }
    }

    /// Begins the next try that is due. If it is for a new thread, that counts from now on, so that a shutdown that
    /// comes after this waits for it.
    fn next_to_reclaim(&self, for_new_thread: bool) -> Option<Remains> {
        let now = self.clock.now();
        let mut inner = self.leftovers.inner.lock();
        let next = inner.list.take_due(now);
        match &next {
            Some(_) if for_new_thread => self.threads.reserve(),
            Some(_) => {}
            None => inner.schedule(&self.timer),
        }
        next
    }

    fn reclaim(self: &Arc<Self>, remains: Remains) {
        // It is only due when its worker was added, and none is ever removed.
        let Some(worker) = self.workers.read().named(&remains.worker).cloned() else { return };
        self.publish(about(&remains), EventKind::ReclaimCalled);
        let controls = CallSignal::new(self, self.leftovers.cancelled.clone());
        let known_for = self.leftovers.known_for(&remains.key, self.clock.now());
        let age = remains.age(seconds_since_1970()).max(known_for);
        let leftover = Leftover { remains: remains.clone(), age, controls: Arc::new(controls) };
        let reclaim = || worker.driver().reclaim(&leftover);
        let outcome = match fenced("reclaim", reclaim) {
            Ok(Ok(Reclaimed::Gone)) => Outcome::Gone,
            Ok(Ok(Reclaimed::Pending)) => Outcome::Pending,
            Ok(Ok(Reclaimed::Unsupported)) => Outcome::CannotReclaim,
            Ok(Err(reason)) | Err(reason) => Outcome::Failed(reason),
        };
        drop(leftover);
        if outcome == Outcome::Gone {
            self.tell_journal(Record::Gone { key: remains.key.clone() }, Until::Synced);
        }
        self.reclaimed(&remains, outcome);
    }

    /// A try has ended.
    fn reclaimed(self: &Arc<Self>, remains: &Remains, outcome: Outcome) {
        #[cfg(feature = "testing")]
        let _step = self.steps.begin();
        let (now, chance) = (self.clock.now(), entropy::fraction());
        let result = match &outcome {
            Outcome::Gone => Ok(Reclaimed::Gone),
            Outcome::Pending => Ok(Reclaimed::Pending),
            Outcome::CannotReclaim => Ok(Reclaimed::Unsupported),
            Outcome::Failed(reason) | Outcome::NotCalled(reason) => Err(reason.clone()),
        };
        let was_called = !matches!(outcome, Outcome::NotCalled(_));
        // None when somebody has said meanwhile that it is to be forgotten.
        let returned = self.leftovers.inner.lock().list.returned(now, &remains.key, outcome, chance);
        // That no thread could be had is found on the timer's own, which must not wait for a disk.
        if let (Some(returned), Err(reason), true) = (returned, &result, was_called) {
            let (key, tries, reason) = (remains.key.clone(), returned.tries, reason.clone());
            self.tell_journal(Record::Failed { key, tries, reason }, Until::Written);
        }
        let next_try = returned.and_then(|returned| returned.next_try).map(|at| at.saturating_duration_since(now));
        self.publish(about(remains), EventKind::ReclaimReturned { result, next_try });
        if returned.is_some_and(|returned| returned.worker_is_clear) {
            self.worker_is_clear(&remains.worker);
        }
    }

    /// Takes something off the list that somebody has looked after. False if it is not on it.
    pub(super) fn forget_leftover(self: &Arc<Self>, key: &str) -> bool {
        let Some((worker, clear)) = self.leftovers.inner.lock().list.forget(key) else { return false };
        self.tell_journal(Record::Gone { key: key.into() }, Until::Synced);
        if clear {
            self.worker_is_clear(&worker);
        }
        true
    }

    fn worker_is_clear(self: &Arc<Self>, worker: &str) {
        let worker = self.workers.read().named(worker).cloned();
        if let Some(worker) = worker {
            worker.turn(self, |turn| {
                // Asked again within the turn: another stop may have failed since.
                if self.leftovers.inner.lock().list.is_clear(&worker.name) {
                    turn.apply(Input::Reclaimed);
                }
            });
        }
    }
}

pub(super) fn about(remains: &Remains) -> About {
    About { worker: Some(remains.worker.clone()), epoch: Some(remains.epoch), build: None }
}
