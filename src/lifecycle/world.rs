//! A worker's surroundings as a test plays them: a driver, agents and askers that may do anything they are able to do,
//! in any order, and the promises that must hold after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::worker::{Limits, QuarantineLengths};

/// What may vary from one run to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) idle: IdlePolicy,
    pub(super) may_be_incompatible: bool,
    pub(super) max_builds: usize,
    /// Whether the second request is one without a build.
    pub(super) warm_up: bool,
    /// Whether requests and orders are those of the queue.
    pub(super) queue: bool,
    pub(super) requests: u64,
    pub(super) attempts: u64,
    pub(super) connections: u64,
    /// Whether an earlier master has left something behind.
    pub(super) held: bool,
    /// Whether instances are checked after the attach as well.
    pub(super) checks_attached: bool,
}

/// One thing that can happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Request(u64),
    Attach(Epoch),
    /// The queue gives a place away.
    Lease(Epoch),
    Input(Input),
    /// The next deadline comes.
    Deadline,
    /// An answer that belongs to nothing in flight.
    Stale(Input),
}

impl Step {
    /// Whether somebody asks for the instance to be gone at once.
    fn is_fast(&self) -> bool {
        matches!(self, Self::Input(Input::Insubstantiate { fast: true } | Input::Shutdown { fast: true }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum RequestState {
    Open,
    Answered,
}

/// A lifecycle and all that the outside knows of it.
#[derive(Clone, Debug)]
pub(super) struct World {
    setting: Setting,
    pub(super) life: Lifecycle,
    pub(super) now: Instant,
    /// Instance threads that have not reported yet.
    threads: BTreeSet<Epoch>,
    call: Option<(DriverCall, Epoch)>,
    starts: BTreeSet<Epoch>,
    stops: BTreeSet<Epoch>,
    /// Starts whose cancel token was set.
    cancelled: BTreeSet<Epoch>,
    /// The driver knows that the stop in flight is a fast one.
    fast_stop: bool,
    requests: Vec<RequestState>,
    requests_made: Vec<Instant>,
    /// Leases that somebody holds; some of them may have ended.
    leases: BTreeSet<LeaseId>,
    /// Leases that have neither been given back nor ended.
    in_use: BTreeMap<LeaseId, Instant>,
    /// The attempt on whose instance a build has run for a moment, or has finished.
    proven: Option<Epoch>,
    connections: BTreeSet<ConnectionId>,
    connections_made: u64,
    leases_given: u64,
    /// Builds of the queue whose lease has ended.
    released: BTreeSet<BuildId>,
    /// The attempt whose instance has been found bad.
    retired: Option<Epoch>,
    /// The last step began a quarantine or failed an attempt for these reasons; only for checks.
    pub(super) quarantined: u32,
    /// Something that an earlier master has left behind is in the way.
    held: bool,
}

pub(super) const MISSING: Duration = Duration::from_secs(25);
const PROOF: Duration = Duration::from_secs(1);
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// What a start that succeeds says of its instance.
const DETAIL: &str = "detail";
pub(super) const IDLE: Duration = Duration::from_secs(30);

impl World {
    pub(super) fn new(setting: Setting, now: Instant) -> Self {
        let limits = Limits {
            max_builds: NonZeroUsize::new(setting.max_builds).expect("at least one"),
            idle: setting.idle,
            missing_timeout: MISSING,
            check_instance_interval: INTERVAL,
            quarantine: QuarantineLengths::default(),
            proof_time: PROOF,
        };
        Self {
            setting,
            life: Lifecycle::new(
                limits,
                setting.checks_attached.then_some(INTERVAL),
                Epoch(0),
                setting.held,
                None,
                now,
            ),
            now,
            threads: BTreeSet::new(),
            call: None,
            starts: BTreeSet::new(),
            stops: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            fast_stop: false,
            requests: Vec::new(),
            requests_made: Vec::new(),
            leases: BTreeSet::new(),
            in_use: BTreeMap::new(),
            proven: None,
            connections: BTreeSet::new(),
            connections_made: 0,
            leases_given: 0,
            released: BTreeSet::new(),
            retired: None,
            quarantined: 0,
            held: setting.held,
        }
    }

    /// Everything that can happen now.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let made = self.requests.len() as u64;
        if made < self.setting.requests {
            steps.push(Step::Request(made));
        }
        steps.extend((0..made).map(|request| Step::Input(Input::Cancel(RequestId(request)))));
        for &epoch in &self.threads {
            steps.push(Step::Input(Input::ThreadReady(epoch, self.occasion(epoch))));
            steps.push(Step::Input(Input::NoThread(epoch, reason())));
        }
        if let Some((call, epoch)) = self.call {
            steps.extend(answers(call, epoch).into_iter().map(Step::Input));
        }
        if self.connections_made < self.setting.connections {
            steps.extend(self.starts.iter().map(|&epoch| Step::Attach(epoch)));
        }
        steps.extend(self.connections.iter().map(|&id| Step::Input(Input::Detach(id, "lost".into()))));
        for &lease in &self.leases {
            steps.push(Step::Input(Input::Release { lease, finished: true }));
        }
        if self.setting.queue {
            steps.extend(self.steps_of_the_queue());
        }
        for fast in [false, true] {
            steps.push(Step::Input(Input::Insubstantiate { fast }));
            steps.push(Step::Input(Input::Shutdown { fast }));
        }
        steps.push(Step::Input(Input::Pause));
        steps.push(Step::Input(Input::Unpause));
        steps.push(Step::Input(Input::Reclaimed));
        if self.life.next_deadline().is_some() {
            steps.push(Step::Deadline);
        }
        for epoch in self.starts.iter().copied().chain([Epoch(self.life.epoch().0 + 1)]) {
            for call in [DriverCall::Start, DriverCall::Check, DriverCall::Compatible, DriverCall::Stop] {
                if self.call != Some((call, epoch)) {
                    steps.extend(answers(call, epoch).into_iter().take(1).map(Step::Stale));
                }
            }
        }
        steps
    }

    fn steps_of_the_queue(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let epoch = self.life.epoch();
        if self.leases_given < self.setting.requests {
            steps.push(Step::Lease(epoch));
        }
        for &lease in &self.leases {
            steps.push(Step::Input(Input::Release { lease, finished: false }));
            steps.push(Step::Input(Input::Retire { lease, reason: "retired".into() }));
        }
        if self.leases_given > 0 {
            steps.push(Step::Input(Input::CancelLease(BuildId(self.leases_given))));
        }
        steps.push(Step::Input(Input::Replace(epoch)));
        steps.push(Step::Input(Input::Drain(epoch, StopCause::Incompatible)));
        steps.extend((1..=epoch.0).rev().take(2).map(|epoch| Step::Input(Input::Forgive(Epoch(epoch)))));
        steps
    }

    /// What the start of an attempt is called for. Every second one is not the worker's fault if it fails.
    fn occasion(&self, epoch: Epoch) -> Option<Occasion> {
        self.setting.queue.then_some(Occasion { build: BuildId(0), blameless: epoch.0.is_multiple_of(2) })
    }

    /// Lets it happen and checks every promise that can be checked at once.
    pub(super) fn take(&mut self, step: &Step) {
        let mut effects = Effects::new(true);
        let before = self.life.clone();
        match step {
            Step::Request(number) => {
                let warm_up = self.setting.warm_up && *number == 1;
                let want = if warm_up || self.setting.queue { Want::Instance } else { Want::Lease };
                let fit = match (self.setting.may_be_incompatible, number % 2) {
                    (false, _) => Fit::Always,
                    (true, 0) => Fit::Ask,
                    (true, _) => Fit::AskOrRecycle,
                };
                self.requests.push(RequestState::Open);
                self.requests_made.push(self.now);
                let request = Request { id: RequestId(*number), want, fit };
                if let Some(answer) = self.life.request(self.now, request, &mut effects) {
                    self.answered(RequestId(*number), &answer);
                }
            }
            Step::Attach(epoch) => {
                self.connections_made += 1;
                match self.life.attach(self.now, *epoch, &mut effects) {
                    Ok(connection) => {
                        assert_eq!(*epoch, self.life.epoch(), "a2: an agent of an older attempt was let in");
                        assert!(!before.attached(), "a3: a second agent was let in");
                        self.connections.insert(connection);
                    }
                    Err(_) => self.assert_unchanged(&before, "a2: a refused agent changed something"),
                }
            }
            Step::Lease(epoch) => {
                self.leases_given += 1;
                match self.life.lease(self.now, *epoch, BuildId(self.leases_given), &mut effects) {
                    Some(grant) => self.granted(grant),
                    None => self.assert_unchanged(&before, "a lease that is refused changed something"),
                }
            }
            Step::Input(input) => {
                match input {
                    Input::ThreadReady(epoch, _) | Input::NoThread(epoch, _) => {
                        self.threads.remove(epoch);
                    }
                    Input::StartReturned(..)
                    | Input::CheckReturned(..)
                    | Input::CompatibleReturned(..)
                    | Input::StopReturned(..) => self.call = None,
                    Input::Release { lease, finished } => {
                        self.leases.remove(lease);
                        if let Some(since) = self.in_use.remove(lease) {
                            self.note_proof(*finished || self.now - since >= PROOF);
                        }
                    }
                    Input::Detach(connection, _) => {
                        self.connections.remove(connection);
                    }
                    Input::Reclaimed | Input::Unpause => self.held = false,
                    _ => {}
                }
                self.life.apply(self.now, input.clone(), &mut effects);
                if let Input::Detach(connection, _) = input
                    && before.connection != Some(*connection)
                {
                    self.assert_unchanged(&before, "w7: the end of an older connection changed something");
                }
                self.check_quarantine(input, &before);
                self.check_start_in_flight(input, &before);
                if let Input::Retire { lease, .. } = input
                    && self.in_use.contains_key(lease)
                {
                    let is_it = |held: &super::Lease| held.id == *lease && held.cancelled;
                    if matches!(&before.stage, Stage::Attached(up) if up.leases.iter().any(is_it)) {
                        self.assert_unchanged(&before, "b10: a lease that was cancelled retired its instance");
                    } else {
                        assert_eq!(self.life.last_failure().map(|(reason, _)| &**reason), Some("retired"));
                        self.retired = Some(self.life.epoch());
                    }
                }
            }
            Step::Deadline => {
                let (at, _) = self.life.next_deadline().expect("there is a deadline");
                self.now = self.now.max(at);
                self.life.apply(self.now, Input::Time, &mut effects);
                if before.stage == Stage::Starting && before.waiters.iter().any(|waiter| !waiter.is_late(self.now)) {
                    assert_eq!(self.life.stage, Stage::Starting, "w3: it goes on while anybody waits");
                    assert_eq!(before.quarantine.cause(), self.life.quarantine.cause(), "w3: one gave up of several");
                }
                let next = self.life.next_deadline().map(|(at, _)| at);
                assert!(next.is_none_or(|at| at > self.now), "what is due is done, or the timer would spin");
            }
            Step::Stale(input) => {
                self.life.apply(self.now, input.clone(), &mut effects);
                self.assert_unchanged(&before, "w7: a late answer changed something");
            }
        }
        self.observe(effects, &before, step);
    }

    /// What ends a quarantine early, and what does not.
    fn check_quarantine(&self, input: &Input, before: &Lifecycle) {
        let (was, is) = (before.quarantine(self.now), self.life.quarantine(self.now));
        match input {
            Input::Reclaimed => {
                let ends = matches!(before.quarantine.cause(), Some(Failure::Stop(_)));
                let expected = if ends { None } else { was };
                assert_eq!(is, expected, "j3: a reclaim ends the quarantine of its own failed stop alone");
            }
            Input::Forgive(epoch) => {
                let ends = before.quarantine_cause() == Some(*epoch);
                assert_eq!(is, if ends { None } else { was }, "b9: the quarantine of the forgiven attempt ends");
                let mut again = self.life.quarantine.clone();
                assert!(!again.forgive(*epoch) && again == self.life.quarantine, "b9: it leaves no trace");
            }
            _ => {}
        }
        if let (None, Some(_)) = (was, is) {
            let failure = self.life.quarantine.cause();
            let stopped = matches!(input, Input::StopReturned(_, Err(_)));
            assert_eq!(stopped, matches!(failure, Some(Failure::Stop(_))), "j3: it waits for the reclaim alone");
            let of_attempt = failure == Some(Failure::Attempt(before.epoch()));
            let blameless = of_attempt && before.occasion.is_some_and(|occasion| occasion.blameless);
            assert!(!blameless, "b9: a quarantine for what is not the worker's fault");
        }
    }

    fn note_proof(&mut self, proven: bool) {
        if proven {
            self.proven = Some(self.life.epoch());
        }
    }

    /// Whatever the agent does meanwhile, the start has the first word about its instance.
    fn check_start_in_flight(&self, input: &Input, before: &Lifecycle) {
        let failure = |life: &Lifecycle| life.last_failure().map(|(reason, _)| reason.clone());
        match (input, &before.stage) {
            (Input::Detach(id, _), Stage::Attached(Up { draining: None, .. }))
                if before.connection == Some(*id) && before.is_start_in_flight() =>
            {
                assert!(matches!(self.life.stage, Stage::Attached(_)), "w13: not lost before the start has returned");
                assert_eq!(self.life.leases(), 0, "w13: the leases end at once");
            }
            (Input::Detach(..), Stage::Attached(Up { draining: Some(StopCause::Failed), .. })) => {
                assert_eq!(failure(&self.life), failure(before), "w15: the start has said what is wrong");
            }
            (Input::StartReturned(_, Err(StartFailure::Failed(_, reason))), Stage::Starting | Stage::Attached(_))
                if before.is_start_in_flight() =>
            {
                assert_eq!(failure(&self.life).as_ref(), Some(reason), "w15: the start has said what is wrong");
                let excused = before.closing || before.is_blameless();
                assert!(excused || self.life.quarantine(self.now).is_some(), "w12: a failed start");
                assert_eq!(self.life.waiting(), 0, "w3: whoever waits is told");
            }
            _ => {}
        }
    }

    /// The loss of an agent is a failed start until a build has run.
    fn check_loss(&self, before: &Lifecycle) {
        let lost = |life: &Lifecycle| matches!(life.stage, Stage::Insubstantiating { cause: StopCause::Lost, .. });
        let Stage::Attached(Up { draining, .. }) = &before.stage else { return };
        if !lost(&self.life) {
            return;
        }
        let (was, is) = (before.quarantine(self.now), self.life.quarantine(self.now));
        if self.proven == Some(before.epoch()) {
            assert_eq!(was, is, "w13: a quarantine for the loss of an instance that has worked");
        } else if matches!(draining, None | Some(StopCause::Incompatible)) && !before.is_blameless() && !before.closing
        {
            assert!(is.is_some(), "w12: no quarantine for an agent that was lost before a build had run");
            assert_eq!(self.life.waiting(), 0, "w3: whoever waits is told");
        }
        assert!(self.life.last_failure().is_some(), "w15: the loss is shown");
    }

    /// Each deadline belongs to the state that it is about.
    fn check_deadlines(&self) {
        let Deadlines { quarantine, idle, reattach, check } = self.life.deadlines;
        let (mut may_idle, mut is_gone) = (false, false);
        if let Stage::Attached(up) = &self.life.stage {
            may_idle = up.leases.is_empty() && self.life.attached();
            is_gone = up.detached.is_some();
        }
        assert!(idle.is_none() || may_idle, "w9: idle time of an instance in use");
        assert_eq!(reattach.is_some(), is_gone, "w13: the time to attach again");
        let is_there = matches!(self.life.stage, Stage::Starting | Stage::Attached(_));
        assert!(check.is_none() || is_there, "w10: a check of no instance");
        assert_eq!(quarantine.is_some(), self.life.quarantine.cause().is_some(), "w12: a quarantine without a cause");
    }

    fn observe(&mut self, effects: Effects, before: &Lifecycle, step: &Step) {
        let epoch = self.life.epoch();
        for effect in effects.orders {
            match effect {
                Effect::SpawnThread(epoch) => {
                    assert!(self.threads.insert(epoch), "two threads for one attempt");
                    assert_eq!(self.life.quarantine(self.now), None, "w12: an attempt begins in a quarantine");
                }
                Effect::CancelStart => {
                    assert!(matches!(self.call, Some((DriverCall::Start, _))), "there is no start to cancel");
                    self.cancelled.insert(epoch);
                }
                Effect::CallStart => {
                    assert!(!self.held, "j3: a start beside what was left behind");
                    self.called(DriverCall::Start, epoch);
                    assert!(self.starts.insert(epoch), "w1: an attempt was started twice");
                }
                Effect::CallCheck => {
                    assert!(self.setting.checks_attached || !self.life.attached(), "w10: a check after the attach");
                    assert!(self.setting.checks_attached || !matches!(self.life.stage, Stage::Attached(_)));
                    self.called(DriverCall::Check, epoch);
                }
                Effect::CallCompatible(_) => {
                    assert!(self.setting.may_be_incompatible, "w11: a driver was asked that never says no");
                    self.called(DriverCall::Compatible, epoch);
                }
                Effect::CallStop { fast } => {
                    self.called(DriverCall::Stop, epoch);
                    self.fast_stop = fast;
                    assert!(self.starts.contains(&epoch), "w2: a stop without a start");
                    assert!(self.stops.insert(epoch), "w2: a second stop");
                    assert_eq!(self.in_use.first_key_value(), None, "a busy instance was stopped");
                }
                Effect::HurryStop => {
                    assert!(matches!(self.call, Some((DriverCall::Stop, _))), "s0: there is no stop to hurry");
                    assert!(!self.fast_stop, "s0: the stop is a fast one already");
                    self.fast_stop = true;
                }
                Effect::Answer(request, answer) => self.answered(request, &answer),
                Effect::EndLeases(_) => {
                    let ended = std::mem::take(&mut self.in_use);
                    self.note_proof(ended.values().any(|since| self.now - *since >= PROOF));
                }
                Effect::Gone => {}
            }
        }
        for occurrence in effects.occurrences {
            if let (EventKind::Released { .. }, Some(build), true) =
                (&occurrence.kind, occurrence.build, self.setting.queue)
            {
                assert!(self.released.insert(build), "b4: a second end of a lease");
            }
            if let EventKind::Quarantined { .. } = occurrence.kind {
                self.quarantined += 1;
                assert!(before.quarantine(self.now).is_none(), "w12: a quarantine within a quarantine");
                let by_user = matches!(
                    step,
                    Step::Input(
                        Input::Cancel(_)
                            | Input::Insubstantiate { .. }
                            | Input::Shutdown { .. }
                            | Input::Retire { .. }
                            | Input::Forgive(_)
                    )
                );
                assert!(!by_user, "w12: quarantine by {step:?}");
                let detached = matches!(before.stage, Stage::Attached(Up { detached: Some(_), .. }));
                if let Step::Input(Input::StartReturned(_, Err(StartFailure::Cannot(_)))) = step
                    && !detached
                {
                    panic!("w12: quarantine for the build's own fault");
                }
            }
        }
        self.check_loss(before);
        self.check_deadlines();
        assert_eq!(self.life.leases(), self.in_use.len(), "b6: every lease in use is counted, and no other");
        assert!(self.life.leases() <= self.setting.max_builds, "b6: more leases than places");
        assert_eq!(self.life.call().map(|(call, _)| call), self.call.map(|(call, _)| call), "w1: the call in flight");
        if let (Some((DriverCall::Stop, _)), Stage::Insubstantiating { fast, .. }) = (self.call, &self.life.stage) {
            let asked = step.is_fast();
            assert!(self.fast_stop == *fast && (*fast || !asked), "s0: the driver does not know how fast its stop is");
        }
        let open = self.requests.iter().filter(|state| **state == RequestState::Open).count();
        assert_eq!(open, self.life.waiting(), "w3: every open request waits in the lifecycle, and no other");
        let told = self.life.state() == WorkerState::Substantiated;
        let both =
            self.life.attached() && self.life.details == [DETAIL] && matches!(self.life.stage, Stage::Attached(_));
        assert!(!both || told, "started and attached is substantiated");
        assert!(!told || self.life.details == [DETAIL], "not started is not substantiated");
        if matches!(self.life.stage, Stage::Attached(_)) && self.life.next_deadline().is_none() {
            let idle = self.life.leases() == 0 && self.life.waiting() == 0 && self.life.attached();
            let never = self.setting.idle == IdlePolicy::Never;
            assert!(!idle || never, "w9: an idle instance would live for ever");
        }
        let waits = matches!(self.life.stage, Stage::Substantiating | Stage::Starting);
        assert!(!waits || self.life.waiting() > 0, "w5: a start that nobody waits for goes on");
        let epoch = self.life.epoch();
        assert!(self.retired != Some(epoch) || self.life.draining() || self.life.leases() == 0, "b10: it drains");
        assert!(open == 0 || self.life.next_deadline().is_some(), "w3: a request without a deadline");
    }

    fn called(&mut self, call: DriverCall, epoch: Epoch) {
        assert_eq!(self.call, None, "w1: {call} while another call is in flight");
        if call == DriverCall::Start {
            let unstopped = self.starts.difference(&self.stops).next();
            assert_eq!(unstopped, None, "w1: a start before the stop of an earlier attempt");
        }
        self.call = Some((call, epoch));
    }

    fn answered(&mut self, request: RequestId, answer: &Answer) {
        let state = &mut self.requests[request.0 as usize];
        assert_eq!(*state, RequestState::Open, "w3: a second answer to {request:?}");
        *state = RequestState::Answered;
        match answer {
            Ok(grant) => self.granted(*grant),
            Err(SubstantiateError::TimedOut { .. }) => {
                let waited = self.now - self.requests_made[request.0 as usize];
                assert!(waited >= MISSING, "w3: timed out with the deadline of another request");
            }
            Err(_) => {}
        }
    }

    fn granted(&mut self, grant: Grant) {
        assert_eq!(grant.epoch, self.life.epoch());
        assert_ne!(self.retired, Some(grant.epoch), "b10: an instance that is bad is given away");
        self.leases.extend(grant.lease);
        self.in_use.extend(grant.lease.map(|lease| (lease, self.now)));
    }

    fn assert_unchanged(&self, before: &Lifecycle, promise: &str) {
        let mut expected = before.clone();
        expected.version = self.life.version;
        assert_eq!(expected, self.life, "{promise}");
    }

    /// Keeps a long history from growing: only the last attempts can still be heard of.
    pub(super) fn forget_the_past(&mut self) {
        let recent = |epoch: &Epoch| epoch.0 + 3 > self.life.epoch().0;
        assert_eq!(self.starts.difference(&self.stops).find(|epoch| !recent(epoch)), None, "w2: no stop");
        self.starts.retain(recent);
        self.stops.retain(recent);
        self.cancelled.retain(recent);
    }

    /// From here, a shutdown ends the worker however the driver's calls turn out.
    pub(super) fn shut_down(mut self, fast: bool, driver_works: bool) {
        self.take(&Step::Input(Input::Shutdown { fast }));
        for _ in 0..20 {
            let step = if let Some(&epoch) = self.threads.first() {
                Input::ThreadReady(epoch, None)
            } else if let Some((call, epoch)) = self.call {
                let answers = answers(call, epoch);
                answers[if driver_works { 0 } else { answers.len() - 1 }].clone()
            } else if let Some(&lease) = self.leases.first() {
                Input::Release { lease, finished: true }
            } else {
                break;
            };
            self.take(&Step::Input(step));
        }
        assert_eq!(self.life.state(), WorkerState::ShutDown, "s1: a shutdown ends in ShutDown");
        assert_eq!(self.starts, self.stops, "w2: one stop for every start");
        assert!(self.requests.iter().all(|state| *state == RequestState::Answered), "w3: every request is answered");
    }

    /// For how long the open requests have waited.
    fn ages(&self) -> Vec<Duration> {
        let open = self.requests.iter().zip(&self.requests_made).filter(|(state, _)| **state == RequestState::Open);
        open.map(|(_, made)| self.now - *made).collect()
    }

    /// The world with nothing in it that makes no difference to what can follow: times are relative to the present.
    pub(super) fn normalised(&self, origin: Instant) -> impl std::hash::Hash + use<> {
        let mut life = self.life.clone();
        life.rebase(self.now, origin);
        if !self.setting.queue {
            life.quarantine.forget_causes();
        }
        (
            life,
            self.threads.clone(),
            self.call,
            (self.starts.clone(), self.stops.clone()),
            self.requests.clone(),
            self.ages(),
            self.leases.clone(),
            self.connections.clone(),
            (self.connections_made, self.leases_given, self.held, self.retired),
        )
    }
}

impl Lifecycle {
    fn draining(&self) -> bool {
        matches!(&self.stage, Stage::Attached(Up { draining: Some(_), .. }))
    }

    /// Moves all times so that `now` becomes `origin`, and forgets what is only told to people.
    fn rebase(&mut self, now: Instant, origin: Instant) {
        let rebase = |at: &mut Option<Instant>| {
            if let Some(at) = at {
                *at = origin + at.saturating_duration_since(now);
            }
        };
        self.deadlines.entries().into_iter().for_each(|(_, at)| rebase(at));
        if let Stage::Attached(Up { leases, detached, .. }) = &mut self.stage {
            leases.iter_mut().for_each(|lease| rebase(&mut lease.proves_at));
            if let Some(Detached { since, .. }) = detached {
                *since = origin;
            }
        }
        for waiter in &mut self.waiters {
            rebase(&mut waiter.deadline);
            // Given by the deadline.
            waiter.made = origin;
        }
        if let Some((_, since)) = &mut self.call {
            *since = origin;
        }
        self.state_since = origin;
        self.last_failure = None;
        self.details.clear();
        self.version = 0;
    }
}

pub(super) fn reason() -> Arc<str> {
    "reason".into()
}

/// What a call can return: the good answer first, the worst last.
pub(super) fn answers(call: DriverCall, epoch: Epoch) -> Vec<Input> {
    match call {
        DriverCall::Start => vec![
            Input::StartReturned(epoch, Ok(vec![DETAIL.into()])),
            Input::StartReturned(epoch, Err(StartFailure::Cannot(reason()))),
            Input::StartReturned(epoch, Err(StartFailure::Failed(FailureCause::Infrastructure, "not started".into()))),
        ],
        DriverCall::Check => {
            vec![Input::CheckReturned(epoch, Ok(())), Input::CheckReturned(epoch, Err(reason()))]
        }
        DriverCall::Compatible => vec![
            Input::CompatibleReturned(epoch, Ok(true)),
            Input::CompatibleReturned(epoch, Ok(false)),
            Input::CompatibleReturned(epoch, Err(reason())),
        ],
        DriverCall::Stop => vec![Input::StopReturned(epoch, Ok(())), Input::StopReturned(epoch, Err(reason()))],
        // Beside the life of the worker.
        DriverCall::Kind | DriverCall::Reclaim => Vec::new(),
    }
}
