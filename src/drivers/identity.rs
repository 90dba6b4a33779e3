//! One attempt, as a driver of instances elsewhere knows it: what names, labels and tags are made of. How each provider has
//! them is said beside its driver, in its `names`.
//!
//! Pure.

use crate::{Epoch, Leftover, StartRequest, StopRequest};

/// Which attempt it is, of which worker, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) worker: String,
    pub(super) owner: String,
    pub(super) key: String,
    pub(super) epoch: Epoch,
}

impl Identity {
    pub(super) fn of_start(start: &StartRequest<'_>) -> Self {
        Self::new(start.worker(), start.owner(), start.key(), start.epoch())
    }

    pub(super) fn of_stop<I>(stop: &StopRequest<I>) -> Self {
        Self::new(stop.worker(), stop.owner(), stop.key(), stop.epoch())
    }

    pub(super) fn of_leftover(leftover: &Leftover) -> Self {
        Self::new(leftover.worker(), leftover.owner(), leftover.key(), leftover.epoch())
    }

    pub(super) fn new(worker: &str, owner: &str, key: &str, epoch: Epoch) -> Self {
        Self { worker: worker.into(), owner: owner.into(), key: key.into(), epoch }
    }
}
