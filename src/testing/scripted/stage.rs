//! The state that a driver shares with its test: the calls that wait, and those that cannot return before the test
//! answers them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use super::ScriptedCall;
use super::call::{Call, CheckCall, CompatibleCall, ReclaimCall, StartCall, StopCall};
use crate::{DriverCall, Epoch};

/// Where driver and test meet.
#[derive(Default)]
pub(in crate::testing) struct Stage {
    inner: Mutex<Inner>,
    called: Condvar,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) calls: Vec<ScriptedCall>,
    pub(super) starts: VecDeque<StartCall>,
    pub(super) checks: VecDeque<CheckCall>,
    pub(super) compatibles: VecDeque<CompatibleCall>,
    pub(super) stops: VecDeque<StopCall>,
    pub(super) reclaims: VecDeque<ReclaimCall>,
    /// How many calls of each kind no `expect_` method has returned.
    untaken: HashMap<DriverCall, usize>,
    /// The calls that the test can answer and that may not have returned yet.
    held: Vec<(ScriptedCall, Arc<Mutex<Held>>)>,
    pub(super) automatic: HashSet<DriverCall>,
    /// The script is gone.
    pub(super) abandoned: bool,
}

/// What is known about every call.
pub(super) struct Facts {
    pub(super) worker: String,
    pub(super) epoch: Epoch,
    hold: Hold,
}

impl Facts {
    pub(super) fn new(worker: &str, epoch: Epoch) -> Self {
        Self { worker: worker.to_owned(), epoch, hold: Hold::default() }
    }

    /// The call is about to be answered.
    pub(super) fn answered(&self) {
        self.hold.let_go();
    }

    /// The call is about to be answered with an answer that waits for its cancel.
    pub(super) fn held_until(&self, cancelled: Receiver<Infallible>) {
        *self.hold.lock() = Held::UntilCancelled(cancelled);
    }
}

/// The reason why a call cannot return.
#[derive(Default)]
enum Held {
    #[default]
    ByTest,
    UntilCancelled(Receiver<Infallible>),
    LetGo,
}

/// The part of [`Held`] that a call owns: a call that is dropped without an answer returns as well.
#[derive(Default)]
struct Hold(Arc<Mutex<Held>>);

impl Hold {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_go(&self) {
        let mut held = self.lock();
        if matches!(*held, Held::ByTest) {
            *held = Held::LetGo;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn is_held(held: &Mutex<Held>) -> bool {
    match &*held.lock().unwrap_or_else(PoisonError::into_inner) {
        Held::ByTest => true,
        Held::UntilCancelled(cancelled) => cancelled.try_recv() != Err(TryRecvError::Disconnected),
        Held::LetGo => false,
    }
}

impl Stage {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call before the test, and blocks until it is answered. `None` when it was let go without an answer.
    pub(super) fn perform<C: Call>(&self, call: C, answer: &Receiver<C::Answer>) -> Option<C::Answer> {
        let mut inner = self.lock();
        let facts = call.facts();
        let made = ScriptedCall { call: C::KIND, worker: facts.worker.clone(), epoch: facts.epoch };
        inner.calls.push(made.clone());
        *inner.untaken.entry(C::KIND).or_default() += 1;
        if inner.abandoned && C::KIND == DriverCall::Start {
            return None;
        }
        if inner.abandoned || inner.automatic.contains(&C::KIND) {
            drop(inner);
            call.go_well();
        } else {
            inner.held.retain(|(_, held)| is_held(held));
            inner.held.push((made, call.facts().hold.0.clone()));
            C::waiting(&mut inner).push_back(call);
            self.called.notify_all();
            drop(inner);
        }
        answer.recv().ok()
    }

    /// Returns the next call of a kind. `context` is appended to the message of the panic.
    pub(super) fn expect<C: Call>(&self, patience: Duration, context: impl FnOnce() -> String) -> C {
        let deadline = Instant::now() + patience;
        let mut inner = self.lock();
        loop {
            if let Some(call) = C::waiting(&mut inner).pop_front() {
                *inner.untaken.entry(C::KIND).or_default() -= 1;
                return call;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let calls: Vec<_> = inner.calls.iter().map(ToString::to_string).collect();
                drop(inner);
                let calls = calls.join(", ");
                panic!("{} was not called within {patience:?}; all calls so far: [{calls}]{}", C::KIND, context());
            }
            inner = self.called.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns how many calls of this kind no `expect_` method has returned.
    pub(super) fn untaken(&self, call: DriverCall) -> usize {
        self.lock().untaken.get(&call).copied().unwrap_or_default()
    }

    /// Returns whether this call of this worker has begun and cannot return before the test does something.
    pub(in crate::testing) fn holds(&self, worker: &str, call: DriverCall) -> bool {
        let inner = self.lock();
        inner.held.iter().any(|(made, held)| made.call == call && made.worker == worker && is_held(held))
    }
}
