//! How a driver call learns that it is to end soon, and how it waits meanwhile.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, select_biased};

use super::shared::Shared;
use crate::error::Cancelled;
use crate::worker::CallControls;

/// What a stop or a reclaim can ask for. A driver that keeps it does not keep the master alive.
pub(super) struct CallSignal {
    shared: Weak<Shared>,
    cancelled: Receiver<Infallible>,
}

impl CallSignal {
    pub(super) fn new(shared: &Arc<Shared>, cancelled: Receiver<Infallible>) -> Self {
        Self { shared: Arc::downgrade(shared), cancelled }
    }
}

impl CallControls for CallSignal {
    fn cancel_signal(&self) -> &Receiver<Infallible> {
        &self.cancelled
    }

    fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        match self.shared.upgrade() {
            Some(shared) => shared.sleep(duration, &self.cancelled),
            None => Err(Cancelled),
        }
    }
}

impl Shared {
    /// Waits on the clock of the master; ends early when `cancelled` is disconnected.
    pub(super) fn sleep(&self, duration: Duration, cancelled: &Receiver<Infallible>) -> Result<(), Cancelled> {
        // A duration beyond the end of time is a sleep until the cancel.
        let sleep = self.clock.now().checked_add(duration).map(|until| self.timer.sleep(until));
        let never = crossbeam_channel::never();
        select_biased! {
            recv(cancelled) -> _ => Err(Cancelled),
            recv(sleep.as_ref().map_or(&never, |sleep| sleep.over())) -> _ => Ok(()),
        }
    }
}
