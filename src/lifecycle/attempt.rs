//! What happens to an attempt: its calls, its failure, its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::quarantine::Failure;
use super::*;

impl Lifecycle {
    /// Begins an attempt for those who wait.
    pub(super) fn begin_attempt(&mut self, effects: &mut Effects) {
        debug_assert!(self.call.is_none() && self.connection.is_none(), "the last attempt has ended");
        self.epoch = Epoch(self.epoch.0 + 1);
        self.details.clear();
        self.occasion = None;
        self.stage = Stage::Substantiating;
        effects.orders.push(Effect::SpawnThread(self.epoch));
    }

    /// Calls the start for the first of those who wait.
    pub(super) fn call_start(&mut self, now: Instant, occasion: Option<Occasion>, effects: &mut Effects) {
        self.waiters.first_mut().expect("an attempt that nobody waits for is over").initiator = true;
        self.occasion = occasion;
        self.stage = Stage::Starting;
        self.call = Some((Call::Start, now));
        self.tell(effects, occasion.map(|occasion| occasion.build), || EventKind::StartCalled);
        effects.orders.push(Effect::CallStart);
    }

    pub(super) fn start_returned(
        &mut self,
        now: Instant,
        result: Result<Vec<String>, StartFailure>,
        effects: &mut Effects,
    ) {
        self.tell(effects, None, || EventKind::StartReturned {
            result: match &result {
                Ok(details) => Ok(details.clone()),
                Err(StartFailure::Cannot(reason)) => Err(format!("cannot substantiate: {reason}").into()),
                Err(StartFailure::Failed(_, reason)) => Err(reason.clone()),
            },
        });
        if let Ok(details) = &result {
            self.details.clone_from(details);
        }
        let lost = match &mut self.stage {
            Stage::Attached(Up { detached: Some(detached), .. }) => detached.lost.take(),
            _ => None,
        };
        match (&mut self.stage, result) {
            (Stage::Starting, Ok(_)) => {
                self.deadlines.check = now.checked_add(self.limits.check_instance_interval);
            }
            (Stage::Starting, Err(StartFailure::Cannot(reason))) => {
                self.last_failure = Some((reason.clone(), now));
                // The fault of one build. Whoever joined it gets an attempt of its own, after the stop.
                if let Some(position) = self.waiters.iter().position(|waiter| waiter.initiator) {
                    let request = self.waiters.remove(position).request.id;
                    effects.orders.push(Effect::Answer(request, Err(SubstantiateError::Cannot { reason })));
                }
                self.go_down(now, false, StopCause::Failed, effects);
            }
            (Stage::Starting, Err(StartFailure::Failed(cause, reason))) => {
                let failure = Failure::Attempt(self.epoch);
                self.fail(now, failure, StopCause::Failed, cause, &reason, effects);
            }
            (Stage::Attached(_), Ok(_) | Err(StartFailure::Cannot(_))) if lost.is_some() => {
                self.lose(now, &lost.expect("it was just looked at"), effects);
            }
            (Stage::Attached(_), Ok(_)) => {
                self.note_substantiated(now, effects);
                self.settle(now, effects);
            }
            // The agent works, but the driver says that there is no instance. Whoever uses it may finish.
            (Stage::Attached(up), Err(failure)) => {
                up.draining = Some(StopCause::Failed);
                match failure {
                    StartFailure::Cannot(reason) => self.last_failure = Some((reason, now)),
                    StartFailure::Failed(cause, reason) => {
                        self.note_failure(now, Failure::Attempt(self.epoch), cause, &reason, effects);
                    }
                }
                self.settle(now, effects);
            }
            _ => self.settle(now, effects),
        }
    }

    /// The instance is started and attached, if it is: that is told once.
    pub(super) fn note_substantiated(&mut self, now: Instant, effects: &mut Effects) {
        let both = !self.is_start_in_flight() && self.connection.is_some();
        if let Stage::Attached(up) = &mut self.stage
            && both
            && !std::mem::replace(&mut up.substantiated, true)
        {
            self.tell(effects, None, || EventKind::Substantiated { details: self.details.clone() });
            self.check_later(now);
        }
    }

    pub(super) fn check_returned(
        &mut self,
        now: Instant,
        attached: bool,
        result: Result<(), Arc<str>>,
        effects: &mut Effects,
    ) {
        self.tell(effects, None, || EventKind::CheckReturned { result: result.clone() });
        match (&mut self.stage, result) {
            (Stage::Starting, Ok(())) => {
                self.deadlines.check = now.checked_add(self.limits.check_instance_interval);
            }
            (Stage::Starting, Err(reason)) => {
                let reason = format!("the instance went bad before its agent attached: {reason}").into();
                let failure = Failure::Attempt(self.epoch);
                self.fail(now, failure, StopCause::Failed, FailureCause::Infrastructure, &reason, effects);
            }
            // It works, and is going to end. Whoever uses it may finish.
            (Stage::Attached(up), Err(reason)) if attached => {
                up.draining.get_or_insert(StopCause::Retired);
                self.last_failure = Some((reason, now));
                self.settle(now, effects);
            }
            // Of a check that was called before the attach, that is the better proof of health.
            _ => {
                self.check_later(now);
                self.settle(now, effects);
            }
        }
    }

    pub(super) fn compatible_returned(
        &mut self,
        now: Instant,
        request: RequestId,
        result: Result<bool, Arc<str>>,
        effects: &mut Effects,
    ) {
        let usable = self.connection.is_some();
        if let Stage::Attached(up) = &self.stage
            && usable
            && up.draining.is_none()
            && let Some(position) = self.waiters.iter().position(|waiter| waiter.request.id == request)
        {
            let alone = up.leases.is_empty() && self.waiters.len() == 1;
            if result == Ok(true) {
                let waiter = self.waiters.remove(position);
                let grant = self.grant_request(now, waiter.request.want, effects);
                effects.orders.push(Effect::Answer(request, Ok(grant)));
            } else if alone && self.waiters[position].request.fit == Fit::AskOrRecycle {
                self.go_down(now, false, StopCause::Incompatible, effects);
            } else {
                self.waiters.remove(position);
                let refusal = SubstantiateError::Incompatible { reason: result.err() };
                effects.orders.push(Effect::Answer(request, Err(refusal)));
            }
        }
        self.settle(now, effects);
    }

    pub(super) fn stop_returned(&mut self, now: Instant, result: Result<(), Arc<str>>, effects: &mut Effects) {
        self.tell(effects, None, || EventKind::StopReturned { result: result.clone() });
        if self.connection.take().is_some() {
            self.tell(effects, None, || EventKind::Detached { reason: "the instance was stopped".into() });
        }
        self.stage = Stage::NotSubstantiated;
        // What fails from now on is no attempt of the build that this start was called for.
        self.occasion = None;
        if let Err(reason) = result {
            let reason = format!("the instance could not be stopped: {reason}").into();
            self.note_failure(now, Failure::Stop(self.epoch), FailureCause::Infrastructure, &reason, effects);
        }
        if self.closing {
            self.stage = Stage::ShutDown;
        } else if !self.waiters.is_empty() {
            effects.orders.push(Effect::Gone);
            self.begin_attempt(effects);
        }
    }

    /// The attempt has failed, and not by the build's fault. No lease is left.
    pub(super) fn fail(
        &mut self,
        now: Instant,
        failure: Failure,
        stop: StopCause,
        cause: FailureCause,
        reason: &Arc<str>,
        effects: &mut Effects,
    ) {
        self.note_failure(now, failure, cause, reason, effects);
        self.go_down(now, false, stop, effects);
    }

    /// Tells those who wait of a failure, and leaves the worker alone for a while, unless it is not to blame; within a
    /// quarantine that does not change.
    fn note_failure(
        &mut self,
        now: Instant,
        failure: Failure,
        cause: FailureCause,
        reason: &Arc<str>,
        effects: &mut Effects,
    ) {
        self.last_failure = Some((reason.clone(), now));
        let blameless = self.is_blameless() && failure == Failure::Attempt(self.epoch);
        if !self.closing && !blameless && self.quarantine(now).is_none() {
            let hint = match cause {
                FailureCause::Throttled { retry_after: Some(time) } => time,
                _ => Duration::ZERO,
            };
            let length = self.quarantine.begin(self.epoch, failure, hint);
            self.deadlines.quarantine = now.checked_add(length);
            self.tell(effects, None, || EventKind::Quarantined { length, reason: reason.clone() });
        }
        self.answer_all(&SubstantiateError::Failed { cause, reason: reason.clone() }, effects);
    }

    /// Wants the instance gone, whatever it is doing, but leaves running builds their time unless `fast`.
    pub(super) fn bring_down(&mut self, now: Instant, fast: bool, effects: &mut Effects) {
        let cause = if self.closing { StopCause::Shutdown } else { StopCause::Requested };
        match &mut self.stage {
            Stage::NotSubstantiated if self.closing => self.stage = Stage::ShutDown,
            Stage::NotSubstantiated | Stage::ShutDown => {}
            Stage::Attached(up) if !fast && !up.leases.is_empty() => {
                up.draining = Some(cause);
                self.settle(now, effects);
            }
            Stage::Attached(_) => {
                self.end_leases(now, LeaseEnd::Stopped, effects);
                self.go_down(now, fast, cause, effects);
            }
            Stage::Insubstantiating { fast: already, .. } => {
                if fast && !*already && matches!(self.call, Some((Call::Stop, _))) {
                    effects.orders.push(Effect::HurryStop);
                }
                *already |= fast;
            }
            Stage::Substantiating | Stage::Starting => self.go_down(now, fast, cause, effects),
        }
    }

    /// The attempt is over: the stop follows as soon as no other call is in flight. No lease is left.
    pub(super) fn go_down(&mut self, now: Instant, fast: bool, cause: StopCause, effects: &mut Effects) {
        self.deadlines.end_instance();
        // A question is about this instance, and nobody needs the next one for it.
        for question in self.waiters.extract_if(.., |waiter| waiter.request.want == Want::Answer) {
            effects.orders.push(Effect::Answer(question.request.id, Err(SubstantiateError::Insubstantiated)));
        }
        if self.stage == Stage::Substantiating {
            // The start was not called, so that there is nothing to stop.
            self.stage = if self.closing { Stage::ShutDown } else { Stage::NotSubstantiated };
            return;
        }
        if self.is_start_in_flight() {
            effects.orders.push(Effect::CancelStart);
        }
        self.stage = Stage::Insubstantiating { fast, cause };
        self.call_stop(now, effects);
    }

    fn call_stop(&mut self, now: Instant, effects: &mut Effects) {
        if let Stage::Insubstantiating { fast, cause } = self.stage
            && self.call.is_none()
        {
            self.call = Some((Call::Stop, now));
            self.tell(effects, None, || EventKind::StopCalled { fast, cause });
            effects.orders.push(Effect::CallStop { fast });
        }
    }

    pub(super) fn call_check(&mut self, now: Instant, attached: bool, effects: &mut Effects) {
        self.call = Some((Call::Check { attached }, now));
        self.tell(effects, None, || EventKind::CheckCalled);
        effects.orders.push(Effect::CallCheck);
    }

    /// The next check of an instance whose agent has attached.
    fn check_later(&mut self, now: Instant) {
        if let Stage::Attached(_) = self.stage {
            self.deadlines.check = self.attached_check_interval.and_then(|interval| now.checked_add(interval));
        }
    }

    /// What follows by itself when a call has returned, a lease or a request is gone, or the agent is back.
    pub(super) fn settle(&mut self, now: Instant, effects: &mut Effects) {
        let connected = self.connection.is_some();
        let Stage::Attached(up) = &mut self.stage else {
            self.call_stop(now, effects);
            return;
        };
        let idle = &mut self.deadlines.idle;
        if let Some(cause) = up.draining {
            // Whoever waits here waits for the instance after this one.
            if up.leases.is_empty() {
                self.go_down(now, false, cause, effects);
            }
        } else if !connected {
            *idle = None;
        } else if let Some(waiter) = self.waiters.first() {
            *idle = None;
            if self.call.is_none() {
                let request = waiter.request.id;
                self.call = Some((Call::Compatible(request), now));
                effects.orders.push(Effect::CallCompatible(request));
            }
        } else if !up.leases.is_empty() {
            *idle = None;
        } else if idle.is_none() {
            match self.limits.idle {
                IdlePolicy::AfterBuild if up.used => self.go_down(now, false, StopCause::AfterBuild, effects),
                IdlePolicy::AfterBuild => *idle = now.checked_add(DEFAULT_IDLE_TIMEOUT),
                IdlePolicy::After(time) => *idle = now.checked_add(time),
                IdlePolicy::Never => {}
            }
        }
    }
}
