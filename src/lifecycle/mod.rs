//! One worker's life as a value: inputs and the present moment go in, effects and the next deadline come out.
//!
//! Pure: no thread, clock, lock or call into a driver. Whoever holds a [`Lifecycle`] carries its [`Effects`] out, in
//! order, and reports what came of them as further [`Input`]s. Three facts are kept apart, because every combination of
//! them happens: what is wanted ([`Stage`]), whether the agent is connected, and which driver call is in flight.
//!
//! ```text
//!                        request                  thread ready         started and attached
//!   NotSubstantiated ────────────▶ Substantiating ────────────▶ …Starting ────────────▶ Substantiated
//!          ▲                             │ cancel                   │ failure, cancel         │ idle, lost, request
//!          │                             ▼                          ▼                         ▼
//!          ├────────────────────── (no call made)           Insubstantiating ◀────────────────┘
//!          │ stop returned                                          │  ▲ request: InsubstantiatingSubstantiating,
//!          └────────────────────────────────────────────────────────┘  │ and straight to Substantiating after the stop
//! ```

mod attempt;
mod deadlines;
mod quarantine;
mod requests;
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
use deadlines::Deadlines;
use quarantine::{Failure, Quarantine};
pub(crate) use values::{
    Answer, Closure, ConnectionId, Effect, Effects, Fit, Grant, Input, LeaseId, Occasion, Occurrence, Request,
    RequestId, Standing, Want,
};

/// What is wanted, with exactly the data that is legal meanwhile.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Stage {
    NotSubstantiated,
    /// An instance is wanted; its start is not called yet.
    Substantiating,
    /// The start was called. No agent has attached.
    Starting,
    /// The agent has attached. The start may still be in flight.
    Attached(Up),
    Insubstantiating {
        fast: bool,
        cause: StopCause,
    },
    ShutDown,
}

/// An instance whose agent has attached.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Up {
    leases: Vec<Lease>,
    /// It is stopped after its last lease, for this cause, and gives no new ones.
    draining: Option<StopCause>,
    /// It has had a lease.
    used: bool,
    /// A build has run on it for a moment, or has finished. Before that, the loss of the agent is a failed start.
    proven: bool,
    /// It has been started and attached, which was told.
    substantiated: bool,
    /// Its agent is gone.
    detached: Option<Detached>,
}

/// The agent may attach again, within [`Deadlines::reattach`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Detached {
    since: Instant,
    /// It may do so until the start has returned. Then it is lost, for this reason.
    lost: Option<Arc<str>>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Lease {
    id: LeaseId,
    build: Option<BuildId>,
    /// From then on the build has run for a moment.
    proves_at: Option<Instant>,
    /// Its end was told already.
    cancelled: bool,
}

impl Lease {
    fn proves(&self, now: Instant) -> bool {
        self.proves_at.is_some_and(|at| at <= now)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Waiter {
    request: Request,
    made: Instant,
    deadline: Option<Instant>,
    /// The start was called for its build, so that there is nothing to ask.
    initiator: bool,
}

impl Waiter {
    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
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
    deadlines: Deadlines,
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
    /// Attempts are numbered from the one after `last_epoch`. Nothing starts while the worker is `held`. The jitter of
    /// its quarantines follows from the `seed`; without one there is none.
    pub(crate) fn new(
        limits: Limits,
        attached_check_interval: Option<Duration>,
        last_epoch: Epoch,
        held: bool,
        seed: Option<u64>,
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
            deadlines: Deadlines::default(),
            closing: false,
            paused: false,
            held,
            quarantine: Quarantine::none(seed, limits.quarantine),
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
        if let Stage::Attached(up) = &self.stage
            && self.connection.is_some()
            && up.draining.is_none()
            && (request.fit == Fit::Always || request.want == Want::Instance)
        {
            if up.leases.is_empty() {
                // The idle time begins anew, also for a request without a build.
                self.deadlines.idle = None;
            }
            let grant = self.grant_request(now, request.want, effects);
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
        let refused = self.closing || self.paused || self.held || self.quarantine(now).is_some();
        if refused || epoch != self.epoch || !self.is_open() || self.is_full() {
            return None;
        }
        let grant = self.grant_lease(now, Some(build), effects);
        self.settle(now, effects);
        Some(grant)
    }

    /// Whether an attached instance takes builds.
    fn is_open(&self) -> bool {
        matches!(&self.stage, Stage::Attached(up) if up.draining.is_none()) && self.connection.is_some()
    }

    /// Whether an agent that proved to belong to attempt `epoch` would be let in.
    pub(crate) fn admits_agent(&self, epoch: Epoch) -> Result<(), AttachError> {
        match self.stage {
            _ if epoch != self.epoch => Err(AttachError::Stale),
            Stage::Attached(_) if self.connection.is_some() => Err(AttachError::AlreadyAttached),
            Stage::Starting | Stage::Attached(_) => Ok(()),
            Stage::NotSubstantiated | Stage::Substantiating | Stage::Insubstantiating { .. } | Stage::ShutDown => {
                Err(AttachError::Stale)
            }
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
        match &mut self.stage {
            Stage::Attached(up) => up.detached = None,
            stage => *stage = Stage::Attached(Up::default()),
        }
        self.deadlines.reattach = None;
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        self.connection = Some(connection);
        self.tell(effects, None, || EventKind::Attached);
        self.note_substantiated(now, effects);
        for waiter in std::mem::take(&mut self.waiters) {
            let is_up = waiter.request.want == Want::Instance;
            if waiter.initiator || waiter.request.fit == Fit::Always || is_up {
                let grant = self.grant_request(now, waiter.request.want, effects);
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
                if let Stage::Attached(up) = &self.stage
                    && epoch == self.epoch
                    && up.leases.is_empty()
                    && self.waiters.is_empty()
                {
                    self.go_down(now, false, StopCause::Incompatible, effects);
                }
            }
            Input::Drain(epoch, cause) => {
                if let Stage::Attached(up) = &mut self.stage
                    && epoch == self.epoch
                {
                    up.draining.get_or_insert(cause);
                    self.settle(now, effects);
                }
            }
            Input::Retire { lease, reason } => {
                if let Stage::Attached(up) = &mut self.stage
                    && up.leases.iter().any(|held| held.id == lease && !held.cancelled)
                {
                    up.draining.get_or_insert(StopCause::Retired);
                    self.last_failure = Some((reason, now));
                }
            }
            Input::Forgive(epoch) => {
                if self.quarantine.forgive(epoch) {
                    self.lift_quarantine(now, "the build or its kind is to blame", effects);
                }
            }
            Input::Pause => {
                if !std::mem::replace(&mut self.paused, true) {
                    self.tell(effects, None, || EventKind::Paused);
                }
            }
            Input::Unpause => {
                self.quarantine.end();
                self.deadlines.quarantine = None;
                self.paused = false;
                self.held = false;
                self.tell(effects, None, || EventKind::Unpaused);
            }
            Input::Reclaimed => {
                self.held = false;
                if let Some(Failure::Stop(_)) = self.quarantine.cause() {
                    self.lift_quarantine(now, "what its failed stop had left behind is gone", effects);
                }
            }
            Input::ThreadReady(epoch, occasion) => {
                if self.stage == Stage::Substantiating && epoch == self.epoch {
                    self.call_start(now, occasion, effects);
                }
            }
            Input::NoThread(epoch, reason) => {
                if self.stage == Stage::Substantiating && epoch == self.epoch {
                    let cause = FailureCause::Infrastructure;
                    self.fail(now, Failure::Master, StopCause::Failed, cause, &reason, effects);
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
            Input::CancelLease(build) => self.cancel_lease(build, effects),
            Input::Abandon(build, end) => self.abandon(now, build, &end, effects),
            Input::Time => self.time(now, effects),
            // The answer to a call of an attempt that is over.
            Input::StartReturned(..) | Input::StopReturned(..) => {}
        }
        if matches!(self.stage, Stage::NotSubstantiated | Stage::ShutDown) {
            effects.orders.push(Effect::Gone);
        }
        self.note_state(before, now);
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

    fn is_start_in_flight(&self) -> bool {
        matches!(self.call, Some((Call::Start, _)))
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

    /// Ends the quarantine before its time.
    fn lift_quarantine(&mut self, now: Instant, reason: &str, effects: &mut Effects) {
        if self.quarantine(now).is_some() {
            self.tell(effects, None, || EventKind::QuarantineLifted { reason: reason.into() });
        }
        self.quarantine.end();
        self.deadlines.quarantine = None;
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
