//! The questions of the queue to drivers: which kind of instance builds with these properties need.
//!
//! A driver is user code, which may take its time. Each driver value with open questions has one thread that asks them
//! one after the other, so that a driver that hangs delays only what waits for its own answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cell::WorkerCell;
use super::drivers::DriverCell;
use super::shared::{Agenda, Owner, Shared};
use super::threads;
use crate::build::Properties;
use crate::placement::WorkerIndex;

/// The pause after which a thread is asked for again when the system had none to give.
const PAUSE: Duration = Duration::from_secs(1);

/// What a driver value is still to be asked. Bounded, because the queue asks once for each set of properties that waits.
#[derive(Default)]
pub(super) struct Questions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    open: VecDeque<(Arc<WorkerCell>, Properties)>,
    /// There is a thread that asks; never two.
    has_thread: bool,
    /// The worker that the driver is being asked for, and since when.
    asked: Option<(WorkerIndex, Instant)>,
}

impl Questions {
    /// Since when the driver has been asked for this worker, if it is being asked.
    pub(super) fn asked_for(&self, worker: WorkerIndex) -> Option<Instant> {
        self.0.lock().asked.filter(|(asked, _)| *asked == worker).map(|(_, since)| since)
    }

    /// The next question. Without one, the thread that asks this ends.
    fn next(&self, now: Instant) -> Option<(Arc<WorkerCell>, Properties)> {
        let mut inner = self.0.lock();
        let next = inner.open.pop_front();
        inner.asked = next.as_ref().map(|(worker, _)| (worker.index, now));
        inner.has_thread = next.is_some();
        next
    }
}

impl Shared {
    /// Has the driver of a worker asked. A thread was reserved for the question as it was ordered, so that a shutdown
    /// waits for it.
    pub(super) fn ask_kind(self: &Arc<Self>, worker: WorkerIndex, properties: Properties) {
        #[cfg(feature = "testing")]
        self.steps.begin().leave_open();
        let worker = self.worker_at(worker);
        let driver = worker.driver.clone();
        let is_asking = {
            let mut inner = driver.questions.0.lock();
            inner.open.push_back((worker, properties));
            std::mem::replace(&mut inner.has_thread, true)
        };
        if is_asking {
            self.threads.unreserve();
        } else {
            self.spawn_asker(driver);
        }
    }

    fn spawn_asker(self: &Arc<Self>, driver: Arc<DriverCell>) {
        let body = {
            let (shared, driver) = (self.clone(), driver.clone());
            move || {
                threads::belong_to(shared.number);
                while let Some((worker, properties)) = driver.questions.next(shared.clock.now()) {
                    #[cfg(feature = "testing")]
                    let _step = shared.steps.resume();
                    // After a shutdown nobody waits for the answer.
                    if shared.closing.load(Ordering::SeqCst) {
                        continue;
                    }
                    let kind = driver.kind(&properties);
                    let mut agenda = Agenda::default();
                    shared.kind_said(worker.index, &properties, kind, &mut agenda);
                    shared.perform(agenda);
                }
            }
        };
        if self.threads.spawn("lw kinds".to_owned(), Owner(self.clone()), body).is_err() {
            driver.questions.0.lock().has_thread = false;
            self.unasked.lock().push(driver);
            self.look_at_queue_in(PAUSE);
        }
    }

    /// Tries again for the drivers that no thread could be had for.
    pub(super) fn ask_again(self: &Arc<Self>) {
        for driver in std::mem::take(&mut *self.unasked.lock()) {
            let is_needed = {
                let mut inner = driver.questions.0.lock();
                let is_needed = !inner.has_thread && !inner.open.is_empty();
                inner.has_thread |= is_needed;
                is_needed
            };
            if is_needed && !self.closing.load(Ordering::SeqCst) {
                self.threads.reserve();
                self.spawn_asker(driver);
            }
        }
    }
}
