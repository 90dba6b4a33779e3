//! What happens to requests, to leases, and to the connection that they use.

use std::sync::Arc;
use std::time::Instant;

use super::quarantine::Failure;
use super::*;

impl Lifecycle {
    pub(super) fn admits(&self, now: Instant, request: &Request) -> Result<(), SubstantiateError> {
        if self.closing {
            Err(SubstantiateError::ShutDown)
        } else if self.paused {
            Err(SubstantiateError::Paused)
        } else if self.held {
            Err(SubstantiateError::LeftBehind)
        } else if let Some(remaining) = self.quarantine(now) {
            Err(SubstantiateError::Quarantined { remaining })
        } else if request.want == Want::Lease && self.is_full() {
            Err(SubstantiateError::Full)
        } else {
            Ok(())
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let waiting = self.waiters.iter().filter(|waiter| waiter.request.want == Want::Lease).count();
        self.leases() + waiting >= self.limits.max_builds.get()
    }

    pub(super) fn grant_request(&mut self, now: Instant, want: Want, effects: &mut Effects) -> Grant {
        match want {
            Want::Lease => self.grant_lease(now, None, effects),
            Want::Instance | Want::Answer => Grant { epoch: self.epoch, lease: None },
        }
    }

    /// `build`: of the queue.
    pub(super) fn grant_lease(&mut self, now: Instant, build: Option<BuildId>, effects: &mut Effects) -> Grant {
        let Stage::Attached(up) = &mut self.stage else {
            unreachable!("a lease is given by an attached instance");
        };
        self.last_lease += 1;
        let id = LeaseId(self.last_lease);
        up.leases.push(Lease { id, build, proves_at: now.checked_add(self.limits.proof_time), cancelled: false });
        up.used = true;
        self.deadlines.idle = None;
        self.tell(effects, build, || EventKind::BuildStarted);
        Grant { epoch: self.epoch, lease: Some(id) }
    }

    pub(super) fn answer_all(&mut self, error: &SubstantiateError, effects: &mut Effects) {
        for waiter in self.waiters.drain(..) {
            effects.orders.push(Effect::Answer(waiter.request.id, Err(error.clone())));
        }
    }

    pub(super) fn cancel(&mut self, now: Instant, request: RequestId, effects: &mut Effects) {
        let Some(position) = self.waiters.iter().position(|waiter| waiter.request.id == request) else {
            return; // answered already
        };
        self.waiters.remove(position);
        effects.orders.push(Effect::Answer(request, Err(SubstantiateError::Cancelled)));
        match self.stage {
            // Nobody starts an instance that nobody waits for.
            Stage::Substantiating | Stage::Starting if self.waiters.is_empty() => {
                self.go_down(now, false, StopCause::Cancelled, effects);
            }
            _ => self.settle(now, effects),
        }
    }

    /// Answers the requests that have waited for too long. The attempt goes on while anybody else waits for it.
    pub(super) fn requests_late(&mut self, now: Instant, effects: &mut Effects) {
        let (late, waiting) = std::mem::take(&mut self.waiters).into_iter().partition(|waiter| waiter.is_late(now));
        self.waiters = waiting;
        let late: Vec<Waiter> = late;
        if !late.is_empty() && matches!(self.stage, Stage::Insubstantiating { .. }) {
            // They have waited for the next attempt, whose start was not called.
            self.occasion = None;
        }
        for Waiter { request, made, .. } in late {
            let error = SubstantiateError::TimedOut { after: now.saturating_duration_since(made) };
            effects.orders.push(Effect::Answer(request.id, Err(error)));
        }
        let failure = match self.stage {
            _ if !self.waiters.is_empty() => None,
            // What hangs is the master.
            Stage::Substantiating => Some(Failure::Master),
            Stage::Starting => Some(Failure::Attempt(self.epoch)),
            _ => None,
        };
        match failure {
            Some(failure) => {
                let reason = SubstantiateError::TimedOut { after: self.limits.missing_timeout }.to_string().into();
                self.fail(now, failure, StopCause::Failed, FailureCause::Infrastructure, &reason, effects);
            }
            None => self.settle(now, effects),
        }
    }

    pub(super) fn release(&mut self, now: Instant, lease: LeaseId, finished: bool, effects: &mut Effects) {
        let Stage::Attached(up) = &mut self.stage else { return };
        let Some(position) = up.leases.iter().position(|held| held.id == lease) else { return };
        let lease = up.leases.swap_remove(position);
        up.proven |= finished || lease.proves(now);
        if finished {
            self.quarantine.reset_length();
        }
        self.tell_released(&lease, None, effects);
        self.settle(now, effects);
    }

    /// Nothing was done with the lease of this build.
    pub(super) fn abandon(&mut self, now: Instant, build: BuildId, end: &LeaseEnd, effects: &mut Effects) {
        let Stage::Attached(up) = &mut self.stage else { return };
        let Some(position) = up.leases.iter().position(|lease| lease.build == Some(build)) else { return };
        let lease = up.leases.swap_remove(position);
        self.tell_released(&lease, Some(end), effects);
        self.settle(now, effects);
    }

    pub(super) fn cancel_lease(&mut self, build: BuildId, effects: &mut Effects) {
        let Stage::Attached(up) = &mut self.stage else { return };
        let Some(lease) = up.leases.iter_mut().find(|lease| lease.build == Some(build)) else { return };
        let told = lease.clone();
        lease.cancelled = true;
        self.tell_released(&told, Some(&LeaseEnd::Cancelled), effects);
    }

    /// Once per lease.
    fn tell_released(&self, lease: &Lease, end: Option<&LeaseEnd>, effects: &mut Effects) {
        if !lease.cancelled {
            self.tell(effects, lease.build, || EventKind::Released { end: end.map(|end| end.to_string().into()) });
        }
    }

    pub(super) fn end_leases(&mut self, now: Instant, end: LeaseEnd, effects: &mut Effects) {
        let Stage::Attached(up) = &mut self.stage else { return };
        let leases = std::mem::take(&mut up.leases);
        if leases.is_empty() {
            return;
        }
        up.proven |= leases.iter().any(|lease| lease.proves(now));
        for lease in &leases {
            self.tell_released(lease, Some(&end), effects);
        }
        effects.orders.push(Effect::EndLeases(end));
    }

    pub(super) fn detach(&mut self, now: Instant, connection: ConnectionId, reason: &Arc<str>, effects: &mut Effects) {
        if self.connection != Some(connection) {
            return;
        }
        self.connection = None;
        self.tell(effects, None, || EventKind::Detached { reason: reason.clone() });
        let is_starting = self.is_start_in_flight();
        let Stage::Attached(up) = &mut self.stage else { return };
        let stays = self.limits.idle == IdlePolicy::Never && up.leases.is_empty();
        // The start knows better what is wrong with its instance, so that it has the first word.
        let waits = up.draining.is_none() && (stays || is_starting);
        if waits {
            up.detached = Some(Detached { since: now, lost: (!stays).then(|| reason.clone()) });
        }
        self.end_leases(now, LeaseEnd::Lost(reason.clone()), effects);
        if waits {
            self.deadlines.reattach = now.checked_add(self.limits.missing_timeout);
            self.settle(now, effects);
        } else {
            self.lose(now, reason, effects);
        }
    }

    /// The agent of the instance is lost for good. No lease is left.
    pub(super) fn lose(&mut self, now: Instant, reason: &Arc<str>, effects: &mut Effects) {
        let Stage::Attached(up) = &self.stage else { return };
        match up.draining {
            None | Some(StopCause::Incompatible) if !up.proven => {
                let proof = self.limits.proof_time;
                let reason = format!("the agent was lost before a build had run for {proof:?}: {reason}").into();
                let failure = Failure::Attempt(self.epoch);
                self.fail(now, failure, StopCause::Lost, FailureCause::Infrastructure, &reason, effects);
                return;
            }
            // What was wrong is known better.
            Some(StopCause::Failed | StopCause::Retired) => {}
            _ => self.last_failure = Some((reason.clone(), now)),
        }
        self.go_down(now, false, StopCause::Lost, effects);
    }
}
