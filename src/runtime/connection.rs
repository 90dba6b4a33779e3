//! An accepted agent, as the leases that use it share it.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::cell::WorkerCell;
use super::fence::fenced;
use super::shared::Shared;
use crate::build::Epoch;
use crate::command::Agent;
use crate::error::LeaseEnd;

/// Set once, and then seen by everybody who asks or waits.
pub(super) struct EndSignal {
    end: OnceLock<LeaseEnd>,
    /// Dropped when it is set, which wakes all who wait.
    open: Mutex<Option<Sender<Infallible>>>,
    closed: Receiver<Infallible>,
}

impl EndSignal {
    pub(super) fn new() -> Self {
        let (open, closed) = bounded(0);
        Self { end: OnceLock::new(), open: Mutex::new(Some(open)), closed }
    }

    pub(super) fn set(&self, end: LeaseEnd) {
        if self.end.set(end).is_ok() {
            let open = self.open.lock().take();
            drop(open);
        }
    }

    pub(super) fn get(&self) -> Option<&LeaseEnd> {
        self.end.get()
    }

    /// Never carries anything; is disconnected when the signal is set.
    pub(super) fn closed(&self) -> &Receiver<Infallible> {
        &self.closed
    }
}

/// A lease holds this alone, because every further reference would have to be counted twice for each lease. The worker
/// lets go of it when its instance was stopped, so that they do not keep each other for ever.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Arc<WorkerCell>,
    /// The attempt that it belongs to.
    pub(super) epoch: Epoch,
    /// Present until it is dropped.
    agent: Option<Arc<dyn Agent>>,
    /// The leases that use this connection are over.
    pub(super) end: EndSignal,
}

impl Connection {
    pub(super) fn new(shared: &Arc<Shared>, worker: &Arc<WorkerCell>, epoch: Epoch, agent: &Arc<dyn Agent>) -> Self {
        let (shared, worker, agent) = (shared.clone(), worker.clone(), Some(agent.clone()));
        Self { shared, worker, epoch, agent, end: EndSignal::new() }
    }

    pub(super) fn agent(&self) -> &dyn Agent {
        self.agent.as_deref().expect("it is there until the connection is dropped")
    }
}

/// The agent is user code, also as it is dropped, and whoever held the connection last is not to blame for it.
impl Drop for Connection {
    fn drop(&mut self) {
        let agent = self.agent.take();
        if let Err(panic) = fenced("dropping the agent", || drop(agent)) {
            self.shared.tell_panic(&self.worker, panic);
        }
    }
}
