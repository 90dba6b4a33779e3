//! What others want to know of a lifecycle. Nothing here changes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::quarantine::Failure;
use super::values::Closure;
use super::{Lifecycle, RequestId, Stage, Standing, Want};
use crate::build::{BuildId, Epoch};
use crate::event::{DriverCall, NextStep, WorkerState};

impl Lifecycle {
    /// When [`Input::Time`] is due next, and what for.
    pub(crate) fn next_deadline(&self) -> Option<(Instant, NextStep)> {
        let mut first: Option<(Instant, NextStep)> = None;
        // Asked after every turn, and most often there is nothing to compare.
        let mut consider = |at: Option<Instant>, step: NextStep| {
            if let Some(at) = at
                && first.is_none_or(|first| (at, step) < first)
            {
                first = Some((at, step));
            }
        };
        match &self.stage {
            Stage::Substantiating { give_up } => consider(*give_up, NextStep::GiveUp),
            Stage::Starting { give_up, next_check, .. } => {
                consider(*give_up, NextStep::GiveUp);
                consider(*next_check, NextStep::Check);
            }
            Stage::Substantiated(up) => {
                consider(up.reattach_until, NextStep::GiveUp);
                consider(up.idle_until, NextStep::StopIdle);
                // One call at a time: another one that is in flight comes first.
                consider(up.next_check.filter(|_| self.call.is_none()), NextStep::Check);
            }
            Stage::NotSubstantiated | Stage::Insubstantiating { .. } | Stage::ShutDown => {}
        }
        self.waiters.iter().for_each(|waiter| consider(waiter.deadline, NextStep::GiveUp));
        consider(self.quarantine.until(), NextStep::EndQuarantine);
        first
    }

    /// What the queue may expect of the worker.
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        if let Some(closure) = self.closure(now) {
            return Standing::Closed(closure);
        }
        match &self.stage {
            Stage::NotSubstantiated => Standing::Down,
            Stage::Substantiating { .. } | Stage::Starting { .. } => Standing::Starting,
            Stage::Substantiated(up) => match up.detached {
                Some(since) if self.connection.is_none() => Standing::Detached { since },
                _ => {
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
        let quarantined = || self.quarantine.remaining(now).is_some();
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

    pub(crate) fn state(&self) -> WorkerState {
        match self.stage {
            Stage::NotSubstantiated => WorkerState::NotSubstantiated,
            Stage::Substantiating { .. } => WorkerState::Substantiating,
            Stage::Starting { .. } => WorkerState::SubstantiatingStarting,
            Stage::Substantiated(_) => WorkerState::Substantiated,
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
            Stage::Substantiated(up) => up.leases.len(),
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
        self.quarantine.remaining(now)
    }

    /// The attempt whose failure has caused the present quarantine.
    #[allow(dead_code, reason = "the queue is going to ask")]
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
