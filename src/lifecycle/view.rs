//! What others want to know of a lifecycle. Nothing here changes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::quarantine::Failure;
use super::values::Closure;
use super::{Detached, Lifecycle, RequestId, Stage, Standing, Up, Want};
use crate::build::{BuildId, Epoch};
use crate::event::{DriverCall, WorkerState};

impl Lifecycle {
    /// What the queue may expect of the worker.
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        if let Some(closure) = self.closure(now) {
            return Standing::Closed(closure);
        }
        match &self.stage {
            Stage::NotSubstantiated => Standing::Down,
            Stage::Substantiating | Stage::Starting => Standing::Starting,
            Stage::Attached(up) => match up.detached {
                Some(Detached { since, .. }) => Standing::Detached { since },
                None => {
                    let waiting = self.waiters.iter().filter(|waiter| waiter.request.want == Want::Lease).count();
                    let open = up.draining.is_none() && self.connection.is_some();
                    Standing::Attached { leases: up.leases.len() + waiting, open }
                }
            },
            Stage::Insubstantiating { .. } if self.waiters.is_empty() => Standing::Stopping,
            Stage::Insubstantiating { .. } => Standing::Starting,
            Stage::ShutDown => Standing::Closed(Closure::ShutDown),
        }
    }

    fn closure(&self, now: Instant) -> Option<Closure> {
        let quarantined = || self.quarantine(now).is_some();
        let closures = [
            (self.closing, Closure::ShutDown),
            (self.paused, Closure::Paused),
            (self.held, Closure::LeftBehind),
            (quarantined(), Closure::Quarantined),
        ];
        closures.into_iter().find(|(holds, _)| *holds).map(|(_, closure)| closure)
    }

    /// The request that the attempt under way is made for, or would be.
    pub(crate) fn initiator(&self) -> Option<RequestId> {
        self.waiters.first().map(|waiter| waiter.request.id)
    }

    /// The build that the start of this attempt was called for.
    pub(crate) fn occasion(&self) -> Option<BuildId> {
        self.occasion.map(|occasion| occasion.build)
    }

    pub(super) fn is_blameless(&self) -> bool {
        self.occasion.is_some_and(|occasion| occasion.blameless)
    }

    pub(crate) fn state(&self) -> WorkerState {
        match self.stage {
            Stage::NotSubstantiated => WorkerState::NotSubstantiated,
            Stage::Substantiating => WorkerState::Substantiating,
            Stage::Starting => WorkerState::SubstantiatingStarting,
            Stage::Attached(Up { substantiated: true, .. }) => WorkerState::Substantiated,
            Stage::Attached(_) => WorkerState::SubstantiatingStarting,
            Stage::Insubstantiating { .. } if self.waiters.is_empty() => WorkerState::Insubstantiating,
            Stage::Insubstantiating { .. } => WorkerState::InsubstantiatingSubstantiating,
            Stage::ShutDown => WorkerState::ShutDown,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Grows with every transition.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn leases(&self) -> usize {
        match &self.stage {
            Stage::Attached(up) => up.leases.len(),
            _ => 0,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn attached(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) fn call(&self) -> Option<(DriverCall, Instant)> {
        self.call.map(|(call, since)| (call.kind(), since))
    }

    pub(crate) fn details(&self) -> &[String] {
        &self.details
    }

    pub(crate) fn last_failure(&self) -> Option<&(Arc<str>, Instant)> {
        self.last_failure.as_ref()
    }

    pub(crate) fn quarantine(&self, now: Instant) -> Option<Duration> {
        let left = self.deadlines.quarantine.and_then(|until| until.checked_duration_since(now));
        left.filter(|left| !left.is_zero())
    }

    /// The attempt whose failure has caused the present quarantine.
    pub(crate) fn quarantine_cause(&self) -> Option<Epoch> {
        match self.quarantine.cause() {
            Some(Failure::Attempt(epoch)) => Some(epoch),
            Some(Failure::Stop(_) | Failure::Master) | None => None,
        }
    }

    pub(crate) fn paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn held(&self) -> bool {
        self.held
    }

    pub(crate) fn state_since(&self) -> Instant {
        self.state_since
    }
}
