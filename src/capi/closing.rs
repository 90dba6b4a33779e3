//! Tells those who wait for something to come out of a handle that the handle was taken back.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select_biased};
use parking_lot::Mutex;

/// Open until it is closed.
pub(super) struct Closing {
    open: Mutex<Option<Sender<Infallible>>>,
    closed: Receiver<Infallible>,
}

impl Default for Closing {
    fn default() -> Self {
        let (open, closed) = bounded(0);
        Self { open: Mutex::new(Some(open)), closed }
    }
}

impl Closing {
    /// Whoever waits is told, and whoever would.
    pub(super) fn close(&self) {
        drop(self.open.lock().take());
    }

    /// What comes within `timeout`; disconnected when nothing will come, or this is closed.
    pub(super) fn recv<T>(&self, source: &Receiver<T>, timeout: Duration) -> Result<T, RecvTimeoutError> {
        match source.try_recv() {
            Ok(item) => return Ok(item),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) if timeout.is_zero() => return Err(RecvTimeoutError::Timeout),
            Err(TryRecvError::Empty) => {}
        }
        let timer = Instant::now().checked_add(timeout).map_or_else(crossbeam_channel::never, crossbeam_channel::at);
        select_biased! {
            recv(source) -> item => item.map_err(|_| RecvTimeoutError::Disconnected),
            recv(self.closed) -> _ => Err(RecvTimeoutError::Disconnected),
            recv(timer) -> _ => Err(RecvTimeoutError::Timeout),
        }
    }
}
