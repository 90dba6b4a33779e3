//! One worker's life as a value: inputs and the present moment go in, effects and the next deadline come out.
//!
//! Pure: no thread, clock, lock or call into a driver. Whoever holds a [`Lifecycle`] carries its [`Effects`] out, in
//! order, and reports what came of them as further [`Input`]s. Three facts are kept apart, because every combination of
//! them happens: what is wanted ([`Stage`]), whether the agent is connected, and which driver call is in flight.
//!
//! ```text
//!                        request                  thread ready               attach
//!   NotSubstantiated ────────────▶ Substantiating ────────────▶ …Starting ────────────▶ Substantiated
//!          ▲                             │ cancel                   │ failure, cancel         │ idle, lost, request
//!          │                             ▼                          ▼                         ▼
//!          ├────────────────────── (no call made)           Insubstantiating ◀────────────────┘
//!          │ stop returned                                          │  ▲ request: InsubstantiatingSubstantiating,
//!          └────────────────────────────────────────────────────────┘  │ and straight to Substantiating after the stop
//! ```

mod quarantine;
mod values;
mod view;

#[cfg(test)]
mod explore;
#[cfg(test)]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::build::{BuildId, Epoch};
use crate::error::{AttachError, FailureCause, LeaseEnd, SubstantiateError};
use crate::event::{DriverCall, EventKind, StartFailure, StopCause, WorkerState};
use crate::worker::{DEFAULT_IDLE_TIMEOUT, IdlePolicy, Limits};
use quarantine::{Failure, Quarantine};
pub(crate) use values::{
    Answer, Closure, ConnectionId, Effect, Effects, Fit, Grant, Input, LeaseId, Occasion, Occurrence, Request, RequestId,
    Standing, Want,
};

/// What is wanted, with exactly the data that is legal meanwhile.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Stage {
    NotSubstantiated,
    Substantiating { give_up: Option<Instant> },
    Starting { give_up: Option<Instant>, next_check: Option<Instant>, started: bool },
    Substantiated(Up),
    Insubstantiating { fast: bool, cause: StopCause },
    ShutDown,
}

/// An instance whose agent has attached.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Up {
    leases: Vec<(LeaseId, Option<BuildId>)>,
    /// It is stopped after its last lease, for this cause, and gives no new ones.
    draining: Option<StopCause>,
    /// It has had a lease.
    used: bool,
    /// When it is stopped for want of work; only while it has none.
    idle_until: Option<Instant>,
    /// When it is stopped for want of its agent; only while that is gone.
    reattach_until: Option<Instant>,
    /// Since when its agent is gone.
    detached: Option<Instant>,
    /// When it is looked at again, if it is at all.
    next_check: Option<Instant>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Waiter {
    request: Request,
    made: Instant,
    deadline: Option<Instant>,
    /// The attempt was started for its build, so that there is nothing to ask.
    initiator: bool,
}

/// The driver call in flight. There is never more than one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Call {
    Start,
    Check { attached: bool },
    Compatible(RequestId),
    Stop,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Lifecycle {
    limits: Limits,
    /// `None` when an instance whose agent has attached is not checked any more.
    attached_check_interval: Option<Duration>,
    epoch: Epoch,
    stage: Stage,
    connection: Option<ConnectionId>,
    call: Option<(Call, Instant)>,
    waiters: Vec<Waiter>,
    /// A shutdown was asked for.
    closing: bool,
    paused: bool,
    /// What an earlier master has left behind is in the way of a start.
    held: bool,
    quarantine: Quarantine,
    details: Vec<String>,
    last_failure: Option<(Arc<str>, Instant)>,
    state_since: Instant,
    version: u64,
    last_lease: u64,
    last_connection: u64,
    /// The build that the start of this attempt was called for.
    occasion: Option<Occasion>,
}

impl Lifecycle {
    /// Attempts are numbered from the one after `last_epoch`. Nothing starts while the worker is `held`.
    pub(crate) fn new(
        limits: Limits,
        attached_check_interval: Option<Duration>,
        last_epoch: Epoch,
        held: bool,
        now: Instant,
    ) -> Self {
        Self {
            limits,
            attached_check_interval,
            epoch: last_epoch,
            stage: Stage::NotSubstantiated,
            connection: None,
            call: None,
            waiters: Vec::new(),
            closing: false,
            paused: false,
            held,
            quarantine: Quarantine::none(),
            details: Vec::new(),
            last_failure: None,
            state_since: now,
            version: 0,
            last_lease: 0,
            last_connection: 0,
            occasion: None,
        }
    }

    /// Takes a request. The answer comes at once, or later as [`Effect::Answer`].
    pub(crate) fn request(&mut self, now: Instant, request: Request, effects: &mut Effects) -> Option<Answer> {
        self.version += 1;
        if let Err(refusal) = self.admits(now, &request) {
            return Some(Err(refusal));
        }
        if let Stage::Substantiated(up) = &mut self.stage
            && self.connection.is_some()
            && up.draining.is_none()
            && (request.fit == Fit::Always || request.want == Want::Instance)
        {
            if up.leases.is_empty() {
                up.idle_until = None;
            }
            let grant = self.grant_request(request.want, effects);
            self.settle(now, effects);
            return Some(Ok(grant));
        }
        if request.want == Want::Answer && !self.is_open() {
            return Some(Err(SubstantiateError::Insubstantiated));
        }
        let before = self.state();
        let deadline = now.checked_add(self.limits.missing_timeout);
        self.waiters.push(Waiter { request, made: now, deadline, initiator: false });
        match self.stage {
            Stage::NotSubstantiated => self.begin_attempt(effects),
            _ => self.settle(now, effects),
        }
        self.note_state(before, now);
        None
    }

    /// Gives a place of the instance of this attempt, if it has one.
    pub(crate) fn lease(&mut self, now: Instant, epoch: Epoch, build: BuildId, effects: &mut Effects) -> Option<Grant> {
        self.version += 1;
        let refused = self.closing || self.paused || self.held || self.quarantine.remaining(now).is_some();
        if refused || epoch != self.epoch || !self.is_open() || self.is_full() {
            return None;
        }
        let grant = self.grant_lease(Some(build), effects);
        self.settle(now, effects);
        Some(grant)
    }

    /// Whether an attached instance takes builds.
    fn is_open(&self) -> bool {
        matches!(&self.stage, Stage::Substantiated(up) if up.draining.is_none()) && self.connection.is_some()
    }

    fn admits(&self, now: Instant, request: &Request) -> Result<(), SubstantiateError> {
        if self.closing {
            Err(SubstantiateError::ShutDown)
        } else if self.paused {
            Err(SubstantiateError::Paused)
        } else if self.held {
            Err(SubstantiateError::LeftBehind)
        } else if let Some(remaining) = self.quarantine.remaining(now) {
            Err(SubstantiateError::Quarantined { remaining })
        } else if request.want == Want::Lease && self.is_full() {
            Err(SubstantiateError::Full)
        } else {
            Ok(())
        }
    }

    /// Whether an agent that proved to belong to attempt `epoch` would be let in.
    pub(crate) fn admits_agent(&self, epoch: Epoch) -> Result<(), AttachError> {
        match self.stage {
            _ if epoch != self.epoch => Err(AttachError::Stale),
            Stage::Substantiated(_) if self.connection.is_some() => Err(AttachError::AlreadyAttached),
            Stage::Starting { .. } | Stage::Substantiated(_) => Ok(()),
            Stage::NotSubstantiated
            | Stage::Substantiating { .. }
            | Stage::Insubstantiating { .. }
            | Stage::ShutDown => Err(AttachError::Stale),
        }
    }

    /// Lets an agent in that proved to belong to attempt `epoch`, or says why not.
    pub(crate) fn attach(
        &mut self,
        now: Instant,
        epoch: Epoch,
        effects: &mut Effects,
    ) -> Result<ConnectionId, AttachError> {
        self.version += 1;
        let before = self.state();
        self.admits_agent(epoch)?;
        let started = match &mut self.stage {
            Stage::Starting { started, .. } => Some(*started),
            Stage::Substantiated(up) => {
                up.reattach_until = None;
                up.detached = None;
                None
            }
            _ => unreachable!("it admits no agent"),
        };
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        self.connection = Some(connection);
        self.tell(effects, None, || EventKind::Attached);
        if let Some(started) = started {
            // Before the start has returned there is nothing that could be checked.
            let mut next_check = None;
            if started {
                self.tell_substantiated(effects);
                next_check = self.next_attached_check(now);
            }
            self.stage = Stage::Substantiated(Up { next_check, ..Up::default() });
        }
        for waiter in std::mem::take(&mut self.waiters) {
            let is_up = waiter.request.want == Want::Instance;
            if waiter.initiator || waiter.request.fit == Fit::Always || is_up {
                let grant = self.grant_request(waiter.request.want, effects);
                effects.orders.push(Effect::Answer(waiter.request.id, Ok(grant)));
            } else {
                self.waiters.push(waiter);
            }
        }
        self.settle(now, effects);
        self.note_state(before, now);
        Ok(connection)
    }

    /// Every other transition.
    pub(crate) fn apply(&mut self, now: Instant, input: Input, effects: &mut Effects) {
        self.version += 1;
        let before = self.state();
        match input {
            Input::Cancel(request) => self.cancel(now, request, effects),
            Input::Insubstantiate { fast } => {
                self.answer_all(&SubstantiateError::Insubstantiated, effects);
                self.bring_down(now, fast, effects);
            }
            Input::Shutdown { fast } => {
                self.closing = true;
                self.answer_all(&SubstantiateError::ShutDown, effects);
                self.bring_down(now, fast, effects);
            }
            Input::Replace(epoch) => {
                if let Stage::Substantiated(up) = &self.stage
                    && epoch == self.epoch
                    && up.leases.is_empty()
                    && self.waiters.is_empty()
                {
                    self.go_down(now, false, StopCause::Incompatible, effects);
                }
            }
            Input::Drain(epoch, cause) => {
                if let Stage::Substantiated(up) = &mut self.stage
                    && epoch == self.epoch
                {
                    up.draining.get_or_insert(cause);
                    self.settle(now, effects);
                }
            }
            Input::Retire { lease, reason } => {
                if let Stage::Substantiated(up) = &mut self.stage
                    && up.leases.iter().any(|(id, _)| *id == lease)
                {
                    up.draining.get_or_insert(StopCause::Retired);
                    self.last_failure = Some((reason, now));
                }
            }
            Input::Forgive(epoch) => {
                if self.quarantine.forgive(now, epoch) {
                    self.tell_lifted("the build or its kind is to blame", effects);
                }
            }
            Input::Pause => {
                if !std::mem::replace(&mut self.paused, true) {
                    self.tell(effects, None, || EventKind::Paused);
                }
            }
            Input::Unpause => {
                self.quarantine.end();
                self.paused = false;
                self.held = false;
                self.tell(effects, None, || EventKind::Unpaused);
            }
            Input::Reclaimed => {
                self.held = false;
                if self.quarantine.reclaimed(now) {
                    self.tell_lifted("what its failed stop had left behind is gone", effects);
                }
            }
            Input::ThreadReady(epoch, occasion) => {
                if let Stage::Substantiating { give_up } = self.stage
                    && epoch == self.epoch
                {
                    self.stage = Stage::Starting { give_up, next_check: None, started: false };
                    self.call = Some((Call::Start, now));
                    self.occasion = occasion;
                    self.tell(effects, occasion.map(|occasion| occasion.build), || EventKind::StartCalled);
                    effects.orders.push(Effect::CallStart);
                }
            }
            Input::NoThread(epoch, reason) => {
                if matches!(self.stage, Stage::Substantiating { .. }) && epoch == self.epoch {
                    // No start was called: the failure is that of the master, and not of the worker.
                    self.enter_quarantine(now, Failure::Master, FailureCause::Infrastructure, &reason, effects);
                    self.fail(now, FailureCause::Infrastructure, &reason, effects);
                }
            }
            Input::StartReturned(epoch, result) if self.returned(epoch, DriverCall::Start) => {
                self.start_returned(now, result, effects);
            }
            Input::CheckReturned(epoch, result) => {
                if let Some((Call::Check { attached }, _)) = self.call
                    && self.returned(epoch, DriverCall::Check)
                {
                    self.check_returned(now, attached, result, effects);
                }
            }
            Input::CompatibleReturned(epoch, result) => {
                if let Some((Call::Compatible(request), _)) = self.call
                    && self.returned(epoch, DriverCall::Compatible)
                {
                    self.compatible_returned(now, request, result, effects);
                }
            }
            Input::StopReturned(epoch, result) if self.returned(epoch, DriverCall::Stop) => {
                self.stop_returned(now, result, effects);
            }
            Input::Detach(connection, reason) => self.detach(now, connection, &reason, effects),
            Input::Release { lease, finished } => self.release(now, lease, finished, effects),
            Input::Abandon(build) => self.abandon(now, build, effects),
            Input::Time => self.time(now, effects),
            // The answer to a call of an attempt that is over.
            Input::StartReturned(..) | Input::StopReturned(..) => {}
        }
        if matches!(self.stage, Stage::NotSubstantiated | Stage::ShutDown) {
            effects.orders.push(Effect::Gone);
        }
        self.note_state(before, now);
    }

    // ---- what happens to an attempt

    /// Begins an attempt for the first waiter.
    fn begin_attempt(&mut self, effects: &mut Effects) {
        let first = self.waiters.first_mut().expect("an attempt is begun for somebody");
        first.initiator = true;
        let give_up = first.made.checked_add(self.limits.missing_timeout);
        self.epoch = Epoch(self.epoch.0 + 1);
        self.details.clear();
        self.occasion = None;
        self.stage = Stage::Substantiating { give_up };
        debug_assert!(self.call.is_none() && self.connection.is_none(), "the last attempt has ended");
        effects.orders.push(Effect::SpawnThread(self.epoch));
    }

    fn start_returned(&mut self, now: Instant, result: Result<Vec<String>, StartFailure>, effects: &mut Effects) {
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
        match (&mut self.stage, result) {
            (Stage::Starting { started, next_check, .. }, Ok(_)) => {
                *started = true;
                *next_check = now.checked_add(self.limits.check_instance_interval);
            }
            (Stage::Starting { .. }, Err(StartFailure::Cannot(reason))) => {
                self.last_failure = Some((reason.clone(), now));
                // The fault of one build. Whoever joined it gets an attempt of its own, after the stop.
                if let Some(position) = self.waiters.iter().position(|waiter| waiter.initiator) {
                    let request = self.waiters.remove(position).request.id;
                    effects.orders.push(Effect::Answer(request, Err(SubstantiateError::Cannot { reason })));
                }
                self.go_down(now, false, StopCause::Failed, effects);
            }
            (Stage::Starting { .. }, Err(StartFailure::Failed(cause, reason))) => {
                self.fail(now, cause, &reason, effects);
            }
            (Stage::Substantiated(_), Ok(_)) => {
                if self.connection.is_some() {
                    self.tell_substantiated(effects);
                }
                self.check_later(now);
                self.settle(now, effects);
            }
            // The agent works, but the driver says that there is no instance. Whoever uses it may finish.
            (Stage::Substantiated(up), Err(failure)) => {
                up.draining = Some(StopCause::Failed);
                let (cause, reason) = match failure {
                    StartFailure::Cannot(reason) => (None, reason),
                    StartFailure::Failed(cause, reason) => (Some(cause), reason),
                };
                self.last_failure = Some((reason.clone(), now));
                if let Some(cause) = cause {
                    self.enter_quarantine(now, Failure::Attempt(self.epoch), cause, &reason, effects);
                    self.answer_all(&SubstantiateError::Failed { cause, reason }, effects);
                }
                self.settle(now, effects);
            }
            _ => self.settle(now, effects),
        }
    }

    fn check_returned(&mut self, now: Instant, attached: bool, result: Result<(), Arc<str>>, effects: &mut Effects) {
        self.tell(effects, None, || EventKind::CheckReturned { result: result.clone() });
        match (&mut self.stage, result) {
            (Stage::Starting { next_check, .. }, Ok(())) => {
                *next_check = now.checked_add(self.limits.check_instance_interval);
            }
            (Stage::Starting { .. }, Err(reason)) => {
                let reason = format!("the instance went bad before its agent attached: {reason}");
                self.fail(now, FailureCause::Infrastructure, &reason.into(), effects);
            }
            // It works, and is going to end. Whoever uses it may finish.
            (Stage::Substantiated(up), Err(reason)) if attached => {
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

    fn compatible_returned(
        &mut self,
        now: Instant,
        request: RequestId,
        result: Result<bool, Arc<str>>,
        effects: &mut Effects,
    ) {
        let usable = self.connection.is_some();
        if let Stage::Substantiated(up) = &self.stage
            && usable
            && up.draining.is_none()
            && let Some(position) = self.waiters.iter().position(|waiter| waiter.request.id == request)
        {
            let alone = up.leases.is_empty() && self.waiters.len() == 1;
            if result == Ok(true) {
                let waiter = self.waiters.remove(position);
                let grant = self.grant_request(waiter.request.want, effects);
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

    fn stop_returned(&mut self, now: Instant, result: Result<(), Arc<str>>, effects: &mut Effects) {
        self.tell(effects, None, || EventKind::StopReturned { result: result.clone() });
        if self.connection.take().is_some() {
            self.tell(effects, None, || EventKind::Detached { reason: "the instance was stopped".into() });
        }
        self.stage = Stage::NotSubstantiated;
        if let Err(reason) = result {
            let reason: Arc<str> = format!("the instance could not be stopped: {reason}").into();
            self.last_failure = Some((reason.clone(), now));
            let failure = Failure::Stop(self.epoch);
            self.enter_quarantine(now, failure, FailureCause::Infrastructure, &reason, effects);
            self.answer_all(&SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason }, effects);
        }
        if self.closing {
            self.stage = Stage::ShutDown;
        } else if !self.waiters.is_empty() {
            effects.orders.push(Effect::Gone);
            self.begin_attempt(effects);
        }
    }

    /// The attempt has failed before the agent attached, and not by the build's fault.
    fn fail(&mut self, now: Instant, cause: FailureCause, reason: &Arc<str>, effects: &mut Effects) {
        self.last_failure = Some((reason.clone(), now));
        self.enter_quarantine(now, Failure::Attempt(self.epoch), cause, reason, effects);
        self.answer_all(&SubstantiateError::Failed { cause, reason: reason.clone() }, effects);
        self.go_down(now, false, StopCause::Failed, effects);
    }

    /// Leaves the worker alone for a while, unless it is not to blame; within a quarantine nothing changes.
    fn enter_quarantine(
        &mut self,
        now: Instant,
        failure: Failure,
        cause: FailureCause,
        reason: &Arc<str>,
        effects: &mut Effects,
    ) {
        let blameless = self.occasion.is_some_and(|occasion| occasion.blameless);
        if self.closing || (blameless && failure == Failure::Attempt(self.epoch)) {
            return;
        }
        let hint = match cause {
            FailureCause::Throttled { retry_after: Some(time) } => time,
            _ => Duration::ZERO,
        };
        if let Some(length) = self.quarantine.begin(now, failure, hint) {
            self.tell(effects, None, || EventKind::Quarantined { length, reason: reason.clone() });
        }
    }

    /// Wants the instance gone, whatever it is doing, but leaves running builds their time unless `fast`.
    fn bring_down(&mut self, now: Instant, fast: bool, effects: &mut Effects) {
        let cause = if self.closing { StopCause::Shutdown } else { StopCause::Requested };
        match &mut self.stage {
            Stage::NotSubstantiated if self.closing => self.stage = Stage::ShutDown,
            Stage::NotSubstantiated | Stage::ShutDown => {}
            Stage::Substantiated(up) if !fast && !up.leases.is_empty() => {
                up.draining = Some(cause);
                self.settle(now, effects);
            }
            Stage::Substantiated(_) => {
                self.end_leases(LeaseEnd::Stopped, effects);
                self.go_down(now, fast, cause, effects);
            }
            Stage::Insubstantiating { fast: already, .. } => *already |= fast,
            Stage::Substantiating { .. } | Stage::Starting { .. } => self.go_down(now, fast, cause, effects),
        }
    }

    /// The attempt is over: the stop follows as soon as no other call is in flight. No lease is left.
    fn go_down(&mut self, now: Instant, fast: bool, cause: StopCause, effects: &mut Effects) {
        if matches!(self.stage, Stage::Substantiating { .. }) {
            // The start was not called, so that there is nothing to stop.
            self.stage = if self.closing { Stage::ShutDown } else { Stage::NotSubstantiated };
            return;
        }
        if let Some((Call::Start, _)) = self.call {
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

    fn call_check(&mut self, now: Instant, attached: bool, effects: &mut Effects) {
        self.call = Some((Call::Check { attached }, now));
        self.tell(effects, None, || EventKind::CheckCalled);
        effects.orders.push(Effect::CallCheck);
    }

    /// The next check of an instance whose agent has attached.
    fn check_later(&mut self, now: Instant) {
        let next = self.next_attached_check(now);
        if let Stage::Substantiated(up) = &mut self.stage {
            up.next_check = next;
        }
    }

    fn next_attached_check(&self, now: Instant) -> Option<Instant> {
        self.attached_check_interval.and_then(|interval| now.checked_add(interval))
    }

    /// What follows by itself when a call has returned, a lease or a request is gone, or the agent is back.
    fn settle(&mut self, now: Instant, effects: &mut Effects) {
        let connected = self.connection.is_some();
        let Stage::Substantiated(up) = &mut self.stage else {
            self.call_stop(now, effects);
            return;
        };
        if let Some(cause) = up.draining {
            // Whoever waits here waits for the instance after this one.
            if up.leases.is_empty() {
                self.go_down(now, false, cause, effects);
            }
        } else if !connected {
            up.idle_until = None;
        } else if let Some(waiter) = self.waiters.first() {
            up.idle_until = None;
            if self.call.is_none() {
                let request = waiter.request.id;
                self.call = Some((Call::Compatible(request), now));
                effects.orders.push(Effect::CallCompatible(request));
            }
        } else if !up.leases.is_empty() {
            up.idle_until = None;
        } else if up.idle_until.is_none() {
            match self.limits.idle {
                IdlePolicy::AfterBuild if up.used => self.go_down(now, false, StopCause::AfterBuild, effects),
                IdlePolicy::AfterBuild => up.idle_until = now.checked_add(DEFAULT_IDLE_TIMEOUT),
                IdlePolicy::After(time) => up.idle_until = now.checked_add(time),
                IdlePolicy::Never => {}
            }
        }
    }

    // ---- what happens to requests, leases and the connection

    fn grant_request(&mut self, want: Want, effects: &mut Effects) -> Grant {
        match want {
            Want::Lease => self.grant_lease(None, effects),
            Want::Instance | Want::Answer => Grant { epoch: self.epoch, lease: None },
        }
    }

    /// `build`: of the queue.
    fn grant_lease(&mut self, build: Option<BuildId>, effects: &mut Effects) -> Grant {
        let Stage::Substantiated(up) = &mut self.stage else {
            unreachable!("a lease is given by an attached instance");
        };
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        up.leases.push((lease, build));
        up.used = true;
        up.idle_until = None;
        self.tell(effects, build, || EventKind::BuildStarted);
        Grant { epoch: self.epoch, lease: Some(lease) }
    }

    fn answer_all(&mut self, error: &SubstantiateError, effects: &mut Effects) {
        for waiter in self.waiters.drain(..) {
            effects.orders.push(Effect::Answer(waiter.request.id, Err(error.clone())));
        }
    }

    fn cancel(&mut self, now: Instant, request: RequestId, effects: &mut Effects) {
        let Some(position) = self.waiters.iter().position(|waiter| waiter.request.id == request) else {
            return; // answered already
        };
        self.waiters.remove(position);
        effects.orders.push(Effect::Answer(request, Err(SubstantiateError::Cancelled)));
        self.waiter_left(now, effects);
    }

    /// A waiter is gone without an instance. Nobody starts an instance that nobody waits for.
    fn waiter_left(&mut self, now: Instant, effects: &mut Effects) {
        match self.stage {
            Stage::Substantiating { .. } | Stage::Starting { .. } if self.waiters.is_empty() => {
                self.go_down(now, false, StopCause::Cancelled, effects);
            }
            _ => self.settle(now, effects),
        }
    }

    fn release(&mut self, now: Instant, lease: LeaseId, finished: bool, effects: &mut Effects) {
        let Stage::Substantiated(up) = &mut self.stage else { return };
        let Some(position) = up.leases.iter().position(|(id, _)| *id == lease) else { return };
        let (_, build) = up.leases.swap_remove(position);
        if finished {
            self.quarantine.reset_length();
        }
        self.tell(effects, build, || EventKind::Released { end: None });
        self.settle(now, effects);
    }

    /// Nothing was done with the lease of this build.
    fn abandon(&mut self, now: Instant, build: BuildId, effects: &mut Effects) {
        let Stage::Substantiated(up) = &mut self.stage else { return };
        let Some(position) = up.leases.iter().position(|(_, of)| *of == Some(build)) else { return };
        up.leases.swap_remove(position);
        let end = Some(LeaseEnd::Abandoned.to_string().into());
        self.tell(effects, Some(build), || EventKind::Released { end });
        self.settle(now, effects);
    }

    fn end_leases(&mut self, end: LeaseEnd, effects: &mut Effects) {
        let Stage::Substantiated(up) = &mut self.stage else { return };
        let leases = std::mem::take(&mut up.leases);
        if leases.is_empty() {
            return;
        }
        for (_, build) in leases {
            self.tell(effects, build, || EventKind::Released { end: Some(end.to_string().into()) });
        }
        effects.orders.push(Effect::EndLeases(end));
    }

    fn detach(&mut self, now: Instant, connection: ConnectionId, reason: &Arc<str>, effects: &mut Effects) {
        if self.connection != Some(connection) {
            return;
        }
        self.connection = None;
        self.tell(effects, None, || EventKind::Detached { reason: reason.clone() });
        let Stage::Substantiated(up) = &mut self.stage else { return };
        let busy = !up.leases.is_empty();
        up.detached = Some(now);
        if !busy && self.limits.idle == IdlePolicy::Never && up.draining.is_none() {
            up.reattach_until = now.checked_add(self.limits.missing_timeout);
            self.settle(now, effects);
            return;
        }
        if busy {
            self.last_failure = Some((reason.clone(), now));
        }
        self.end_leases(LeaseEnd::Lost(reason.clone()), effects);
        self.go_down(now, false, StopCause::Lost, effects);
    }

    fn time(&mut self, now: Instant, effects: &mut Effects) {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.quarantine.until()) {
            self.quarantine.end();
        }
        match &mut self.stage {
            Stage::Substantiating { give_up } | Stage::Starting { give_up, .. } if due(*give_up) => {
                let after = self.limits.missing_timeout;
                let reason: Arc<str> = SubstantiateError::TimedOut { after }.to_string().into();
                self.last_failure = Some((reason.clone(), now));
                let failure = Failure::Attempt(self.epoch);
                self.enter_quarantine(now, failure, FailureCause::Infrastructure, &reason, effects);
                for waiter in std::mem::take(&mut self.waiters) {
                    let after = now.saturating_duration_since(waiter.made);
                    let error = SubstantiateError::TimedOut { after };
                    effects.orders.push(Effect::Answer(waiter.request.id, Err(error)));
                }
                self.go_down(now, false, StopCause::Failed, effects);
            }
            Stage::Starting { next_check, .. } if due(*next_check) && self.call.is_none() => {
                *next_check = None;
                self.call_check(now, false, effects);
            }
            Stage::Substantiated(up) if due(up.idle_until) => self.go_down(now, false, StopCause::Idle, effects),
            Stage::Substantiated(up) if due(up.reattach_until) => {
                self.last_failure = Some(("the agent did not re-attach".into(), now));
                self.go_down(now, false, StopCause::Lost, effects);
            }
            Stage::Substantiated(up) if due(up.next_check) && self.call.is_none() => {
                up.next_check = None;
                // Nothing that it finds would make a difference any more.
                if up.draining.is_none() {
                    self.call_check(now, true, effects);
                }
            }
            _ => {}
        }
        let late: Vec<_> = self.waiters.iter().filter(|w| due(w.deadline)).map(|w| (w.request.id, w.made)).collect();
        if !late.is_empty() {
            self.waiters.retain(|waiter| !due(waiter.deadline));
            for (request, made) in late {
                let error = SubstantiateError::TimedOut { after: now.saturating_duration_since(made) };
                effects.orders.push(Effect::Answer(request, Err(error)));
            }
            self.waiter_left(now, effects);
        }
    }

    // ---- small things

    /// Whether `call` of attempt `epoch` is the one in flight; then it is in flight no more.
    fn returned(&mut self, epoch: Epoch, call: DriverCall) -> bool {
        let awaited = epoch == self.epoch && self.call.is_some_and(|(in_flight, _)| in_flight.kind() == call);
        if awaited {
            self.call = None;
        }
        awaited
    }

    fn is_full(&self) -> bool {
        let waiting = self.waiters.iter().filter(|waiter| waiter.request.want == Want::Lease).count();
        self.leases() + waiting >= self.limits.max_builds.get()
    }

    fn note_state(&mut self, before: WorkerState, now: Instant) {
        if self.state() != before {
            self.state_since = now;
        }
    }

    fn tell(&self, effects: &mut Effects, build: Option<BuildId>, kind: impl FnOnce() -> EventKind) {
        if effects.observed {
            effects.occurrences.push(Occurrence { epoch: self.epoch, build, kind: kind() });
        }
    }

    fn tell_lifted(&self, reason: &str, effects: &mut Effects) {
        self.tell(effects, None, || EventKind::QuarantineLifted { reason: reason.into() });
    }

    fn tell_substantiated(&self, effects: &mut Effects) {
        self.tell(effects, None, || EventKind::Substantiated { details: self.details.clone() });
    }
}

impl Call {
    fn kind(self) -> DriverCall {
        match self {
            Self::Start => DriverCall::Start,
            Self::Check { .. } => DriverCall::Check,
            Self::Compatible(_) => DriverCall::Compatible,
            Self::Stop => DriverCall::Stop,
        }
    }
}
