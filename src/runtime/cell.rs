//! One worker as the runtime holds it: its lifecycle behind its lock, and what the lifecycle's effects refer to.
//!
//! A [`Transition`] is one turn under that lock. What it leads to is collected as [`Task`]s and carried out without it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::connection::Connection;
use super::drivers::DriverCell;
use super::instance::{Driver, Order};
use super::lease::Lease;
use super::observers::About;
use super::shared::{Agenda, Shared, Task};
use crate::build::{Build, BuildId, Epoch, Properties};
use crate::error::{AttachError, SubstantiateError};
use crate::event::{DriverCall, EventKind, WorkerState, WorkerStatus};
use crate::journal::Remains;
use crate::lifecycle::{
    ConnectionId, Effect, Effects, Fit, Grant, Input, Lifecycle, Occurrence, Request, RequestId, Want,
};
use crate::placement::{Facts, WorkerIndex};
use crate::worker::{AttemptIdentity, Secret};

/// How long the thread of a worker stays after an attempt: a start that follows at once needs no new one.
const LINGER: Duration = Duration::from_millis(100);

pub(super) struct WorkerCell {
    pub(super) index: WorkerIndex,
    pub(super) name: Arc<str>,
    pub(super) driver: Arc<DriverCell>,
    pub(super) may_be_incompatible: bool,
    /// The queue has not looked at this worker since its last transition.
    dirty: AtomicBool,
    inner: Mutex<Inner>,
    /// Tells the thread of this worker, which lingers after an attempt, that there is another one or that it is to end.
    wanted_again: Condvar,
}

pub(super) struct Inner {
    pub(super) life: Lifecycle,
    next_request: u64,
    requests: Vec<Pending>,
    /// There is a thread that makes the calls of this worker; never two.
    has_thread: bool,
    /// What that thread does next: an attempt that has begun before its end.
    next_attempt: Option<Epoch>,
    /// That thread waits for the journal, and for no call.
    in_journal: bool,
    /// What belongs to the attempt under way, from the moment its start is called.
    pub(super) attempt: Option<Attempt>,
    /// The secret of the attempt before, so that its agent can be told apart from a stranger.
    pub(super) ended_secret: Option<Secret>,
    /// Shared by all who wait for the instance to be gone; the sender is dropped when it is.
    pub(super) gone: Option<(Sender<Infallible>, Receiver<Infallible>)>,
    /// When the timer looks after this worker. It may be too early, never too late.
    scheduled: Option<Instant>,
    pub(super) progress: Option<Arc<str>>,
    pub(super) refused_agents: u64,
}

pub(super) struct Attempt {
    pub(super) identity: AttemptIdentity,
    /// The properties of the build that it is started for.
    pub(super) made_for: Properties,
    pub(super) orders: Sender<Order>,
    /// Dropped to cancel the start.
    pub(super) cancel: Option<Sender<Infallible>>,
    /// Dropped to hurry the stop; from the moment that it is called, unless it is fast from the beginning.
    pub(super) hurry: Option<Sender<Infallible>>,
    pub(super) connection: Option<Arc<Connection>>,
}

/// A request that the lifecycle has not answered yet.
struct Pending {
    id: RequestId,
    asker: Asker,
}

/// Who is told the answer to a request.
pub(super) enum Asker {
    /// The queue has ordered an instance.
    Start,
    /// The queue asks whether the instance fits builds with these properties.
    Fit(Properties),
    Direct(Sender<Result<Lease, SubstantiateError>>, Build),
    WarmUp(Sender<Result<(), SubstantiateError>>),
}

impl Asker {
    /// What the driver is asked about.
    fn properties(&self) -> Option<&Properties> {
        match self {
            Self::Fit(properties) => Some(properties),
            Self::Direct(_, build) => Some(build.properties()),
            Self::Start | Self::WarmUp(_) => None,
        }
    }
}

/// For what an attempt is made.
pub(super) enum Initiator {
    /// For builds of the queue.
    Queue,
    /// For somebody who uses the worker directly.
    Direct(Option<Build>),
}

/// The answer to a request: what a lease is made of, or why there is none.
pub(super) type Granted = Result<(Grant, Arc<Connection>), Refusal>;

/// What went wrong, in which attempt.
pub(super) struct Refusal {
    pub(super) error: SubstantiateError,
    pub(super) epoch: Epoch,
    /// The build that the start of this attempt was called for, if it was called.
    pub(super) occasion: Option<BuildId>,
}

/// One turn of a worker under its lock.
pub(super) struct Transition<'a> {
    pub(super) now: Instant,
    pub(super) effects: Effects,
    pub(super) inner: &'a mut Inner,
}

impl WorkerCell {
    pub(super) fn new(
        index: WorkerIndex,
        name: Arc<str>,
        driver: Arc<DriverCell>,
        may_be_incompatible: bool,
        life: Lifecycle,
    ) -> Self {
        let inner = Inner {
            life,
            next_request: 0,
            requests: Vec::new(),
            has_thread: false,
            next_attempt: None,
            in_journal: false,
            attempt: None,
            ended_secret: None,
            gone: None,
            scheduled: None,
            progress: None,
            refused_agents: 0,
        };
        Self {
            index,
            name,
            driver,
            may_be_incompatible,
            dirty: AtomicBool::new(false),
            inner: Mutex::new(inner),
            wanted_again: Condvar::new(),
        }
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        self.driver.driver()
    }

    /// Whether this is the first change since the queue has looked.
    pub(super) fn mark_dirty(&self) -> bool {
        // Looked at before it is written, which is cheaper. Whoever clears the mark does so before it takes the lock of
        // this worker, so that one who still sees the mark has made its change before that.
        !self.dirty.load(Ordering::SeqCst) && !self.dirty.swap(true, Ordering::SeqCst)
    }

    /// What was said of this worker before is of an older version of [`WorkerCell::facts`].
    pub(super) fn version(&self) -> u64 {
        self.inner.lock().life.version()
    }

    /// What the queue wants to know, at this moment.
    pub(super) fn facts(&self, now: Instant) -> Facts {
        self.dirty.store(false, Ordering::SeqCst);
        self.inner.lock().facts(now, None)
    }

    /// An attempt was done by the thread of this worker: the one that it does next, or none when it ends. Blocks for a
    /// moment in which the worker may be wanted again.
    pub(super) fn next_attempt(&self) -> Option<Epoch> {
        let deadline = Instant::now() + LINGER;
        let mut inner = self.inner.lock();
        loop {
            let next = inner.next_attempt.take();
            let life = &inner.life;
            let is_wanted = |epoch| life.state() == WorkerState::Substantiating && life.epoch() == epoch;
            let wanted = next.filter(|epoch| is_wanted(*epoch));
            let waits = wanted.is_none() && life.state() != WorkerState::ShutDown;
            if !waits || self.wanted_again.wait_until(&mut inner, deadline).timed_out() && inner.next_attempt.is_none()
            {
                inner.has_thread = wanted.is_some();
                return wanted;
            }
        }
    }

    /// Does something that waits for the journal, and shows so meanwhile.
    pub(super) fn in_journal<R>(&self, write: impl FnOnce() -> R) -> R {
        self.inner.lock().in_journal = true;
        let result = write();
        self.inner.lock().in_journal = false;
        result
    }

    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.inner.lock().attempt.as_ref().and_then(|attempt| attempt.connection.clone())
    }

    pub(super) fn status(&self, now: Instant) -> WorkerStatus {
        let inner = self.inner.lock();
        let life = &inner.life;
        let ago = |since: Instant| now.saturating_duration_since(since);
        let asked = || self.driver.questions.asked_for(self.index).map(|since| (DriverCall::Kind, since));
        let call = life.call().or_else(asked);
        WorkerStatus {
            name: self.name.clone(),
            state: life.state(),
            state_for: ago(life.state_since()),
            epoch: life.epoch(),
            call: call.map(|(call, since)| (call, ago(since))),
            attached: life.attached(),
            leases: life.leases(),
            waiting: life.waiting(),
            next: life.next_deadline().map(|(at, step)| (step, at.saturating_duration_since(now))),
            details: match &inner.progress {
                Some(progress) => vec![progress.to_string()],
                None => life.details().to_vec(),
            },
            last_failure: life.last_failure().map(|(reason, at)| (reason.clone(), ago(*at))),
            quarantine: life.quarantine(now),
            paused: life.paused(),
            held: life.held(),
            in_journal: inner.in_journal,
            refused_agents: inner.refused_agents,
        }
    }

    /// Takes one turn and does all that follows from it.
    pub(super) fn turn<R>(self: &Arc<Self>, shared: &Arc<Shared>, step: impl FnOnce(&mut Transition<'_>) -> R) -> R {
        #[cfg(feature = "testing")]
        let _step = shared.steps.begin();
        let mut agenda = Agenda::default();
        let result = self.transition(shared, &mut agenda, step);
        shared.perform(agenda);
        result
    }

    /// Takes one turn: `step` changes the lifecycle under the lock, and what follows goes on the agenda.
    pub(super) fn transition<R>(
        self: &Arc<Self>,
        shared: &Shared,
        agenda: &mut Agenda,
        step: impl FnOnce(&mut Transition<'_>) -> R,
    ) -> R {
        self.transition_at(shared.clock.now(), shared, agenda, step)
    }

    /// As [`transition`](WorkerCell::transition), at this moment: calls no clock, which may be a user's.
    pub(super) fn transition_at<R>(
        self: &Arc<Self>,
        now: Instant,
        shared: &Shared,
        agenda: &mut Agenda,
        step: impl FnOnce(&mut Transition<'_>) -> R,
    ) -> R {
        let result = self.take_turn(&mut self.inner.lock(), now, shared, agenda, step);
        shared.note_change(self, agenda);
        result
    }

    /// As [`transition_at`](WorkerCell::transition_at), for a turn that the queue is told of by the caller: also returns
    /// what it is to be told. `known`: the instance that the queue knows.
    pub(super) fn transition_told<R>(
        self: &Arc<Self>,
        now: Instant,
        known: Epoch,
        shared: &Shared,
        agenda: &mut Agenda,
        step: impl FnOnce(&mut Transition<'_>) -> R,
    ) -> (R, Facts) {
        let mut inner = self.inner.lock();
        let result = self.take_turn(&mut inner, now, shared, agenda, step);
        (result, inner.facts(now, Some(known)))
    }

    fn take_turn<R>(
        self: &Arc<Self>,
        inner: &mut Inner,
        now: Instant,
        shared: &Shared,
        agenda: &mut Agenda,
        step: impl FnOnce(&mut Transition<'_>) -> R,
    ) -> R {
        let effects = Effects::new(shared.observers.any());
        let mut transition = Transition { now, effects, inner };
        let result = step(&mut transition);
        let effects = transition.effects;
        // A lease that is given or comes back leads to nothing else, if nobody observes.
        if !effects.is_empty() {
            self.publish(now, effects.occurrences, shared);
            effects.orders.into_iter().for_each(|effect| self.resolve(effect, inner, shared, agenda));
        }
        self.schedule(inner, shared);
        if inner.has_thread && inner.life.state() == WorkerState::ShutDown {
            self.wanted_again.notify_one();
        }
        result
    }

    fn publish(&self, now: Instant, occurrences: Vec<Occurrence>, shared: &Shared) {
        for Occurrence { epoch, build, kind } in occurrences {
            let about = About { worker: Some(self.name.clone()), epoch: Some(epoch), build };
            shared.observers.publish(now, about, kind);
        }
    }

    /// Looks up what an effect refers to, so that it can be carried out without the lock.
    fn resolve(self: &Arc<Self>, effect: Effect, inner: &mut Inner, shared: &Shared, agenda: &mut Agenda) {
        let task = match effect {
            Effect::SpawnThread(epoch) => {
                // The thread of the attempt before is about to end; or that was cancelled, and it hangs in the journal.
                if std::mem::replace(&mut inner.has_thread, true) {
                    inner.next_attempt = Some(epoch);
                    self.wanted_again.notify_one();
                    return;
                }
                shared.threads.reserve();
                Task::Spawn { worker: self.clone(), epoch }
            }
            Effect::CancelStart => match inner.attempt.as_mut().and_then(|attempt| attempt.cancel.take()) {
                Some(cancel) => Task::Disconnect(cancel),
                None => return,
            },
            // Whoever reported that its thread is ready makes this call itself.
            Effect::CallStart => return,
            Effect::CallCheck => return self.order(Order::Check, inner, agenda),
            Effect::CallCompatible(request) => {
                let asked = inner.requests.iter().find(|pending| pending.id == request);
                let Some(properties) = asked.and_then(|pending| pending.asker.properties()) else { return };
                return self.order(Order::Compare(properties.clone()), inner, agenda);
            }
            Effect::CallStop { fast } => {
                let (hurry, hurried) = bounded(0);
                if let Some(attempt) = &mut inner.attempt {
                    attempt.hurry = (!fast).then_some(hurry);
                }
                return self.order(Order::Stop { hurried }, inner, agenda);
            }
            Effect::HurryStop => match inner.attempt.as_mut().and_then(|attempt| attempt.hurry.take()) {
                Some(hurry) => Task::Disconnect(hurry),
                None => return,
            },
            Effect::Answer(request, answer) => {
                let Some(position) = inner.requests.iter().position(|pending| pending.id == request) else { return };
                let asker = inner.requests.remove(position).asker;
                Task::Answer { worker: self.clone(), asker, granted: inner.granted(answer) }
            }
            Effect::EndLeases(end) => match inner.attempt.as_ref().and_then(|attempt| attempt.connection.clone()) {
                Some(connection) => Task::EndLeases(connection, end),
                None => return,
            },
            Effect::Gone => match inner.gone.take() {
                Some((open, _)) => Task::Disconnect(open),
                None => return,
            },
        };
        agenda.push(task);
    }

    fn order(&self, order: Order, inner: &Inner, agenda: &mut Agenda) {
        if let Some(attempt) = &inner.attempt {
            agenda.push(Task::Order(attempt.orders.clone(), order));
        }
    }

    /// Has the timer look after this worker in time. Too early is harmless, so that nothing is done when the next
    /// deadline has moved away: an instance that is leased and released all the time never wakes the timer.
    fn schedule(&self, inner: &mut Inner, shared: &Shared) {
        if let Some(at) = inner.life.next_time()
            && inner.scheduled.is_none_or(|scheduled| at < scheduled)
        {
            shared.timer.set(self.index, inner.scheduled, at);
            inner.scheduled = Some(at);
        }
    }
}

impl Inner {
    /// `known`: an instance of which the queue knows for what it was started.
    fn facts(&self, now: Instant, known: Option<Epoch>) -> Facts {
        let life = &self.life;
        let made_for = || self.attempt.as_ref().map(|attempt| attempt.made_for.clone()).unwrap_or_default();
        let awaits_call = life.state() == WorkerState::Substantiating;
        Facts {
            version: life.version(),
            epoch: life.epoch(),
            standing: life.standing(now),
            call: life.call().or_else(|| awaits_call.then(|| (DriverCall::Start, life.state_since()))),
            failure: life.quarantine_cause(),
            made_for: (known != Some(life.epoch())).then(made_for),
        }
    }

    /// There is no thread to be had. The attempts that have none now.
    pub(super) fn no_thread(&mut self, epoch: Epoch) -> impl Iterator<Item = Epoch> + use<> {
        self.has_thread = false;
        let next = self.next_attempt.take();
        [Some(epoch), next].into_iter().flatten()
    }

    fn granted(&self, answer: Result<Grant, SubstantiateError>) -> Granted {
        let grant = match answer {
            Ok(grant) => grant,
            Err(error) => return self.refuse(error),
        };
        let connection = self.attempt.as_ref().and_then(|attempt| attempt.connection.clone());
        Ok((grant, connection.expect("a grant is given by an attached instance")))
    }

    pub(super) fn refuse(&self, error: SubstantiateError) -> Granted {
        Err(Refusal { error, epoch: self.life.epoch(), occasion: self.life.occasion() })
    }

    /// The attempt under way, if this is its secret.
    fn attempt_of(&self, secret: &str) -> Result<&Attempt, AttachError> {
        let current = self.attempt.as_ref().filter(|attempt| attempt.identity.secret.matches(secret));
        current.ok_or_else(|| {
            let ended = self.ended_secret.as_ref().is_some_and(|ended| ended.matches(secret));
            if ended { AttachError::Stale } else { AttachError::WrongSecret }
        })
    }

    /// The timer has called at `scheduled`.
    pub(super) fn timer_called(&mut self, scheduled: Instant) {
        if self.scheduled == Some(scheduled) {
            self.scheduled = None;
        }
    }

    /// For what the attempt under way would be made now.
    pub(super) fn initiator(&self) -> Option<Initiator> {
        let first = self.life.initiator()?;
        let pending = self.requests.iter().find(|pending| pending.id == first)?;
        Some(match &pending.asker {
            Asker::Start => Initiator::Queue,
            Asker::Direct(_, build) => Initiator::Direct(Some(build.clone())),
            Asker::WarmUp(_) | Asker::Fit(_) => Initiator::Direct(None),
        })
    }

    /// The order of the queue to start, if it is still open.
    fn start_request(&self) -> Option<RequestId> {
        let of_queue = |pending: &&Pending| matches!(pending.asker, Asker::Start);
        self.requests.iter().find(of_queue).map(|pending| pending.id)
    }
}

impl Transition<'_> {
    /// Makes a request. Either it is answered at once, or the asker is kept and told later; then it has an id.
    pub(super) fn request(
        &mut self,
        fit: Fit,
        want: Want,
        asker: impl FnOnce() -> Asker,
    ) -> Result<RequestId, Granted> {
        let inner = &mut *self.inner;
        let id = RequestId(inner.next_request);
        inner.next_request += 1;
        match inner.life.request(self.now, Request { id, want, fit }, &mut self.effects) {
            Some(answer) => Err(inner.granted(answer)),
            None => {
                inner.requests.push(Pending { id, asker: asker() });
                Ok(id)
            }
        }
    }

    /// The queue does not need the instance any more that it has ordered.
    pub(super) fn cancel_start(&mut self) {
        if let Some(request) = self.inner.start_request() {
            self.apply(Input::Cancel(request));
        }
    }

    /// Gives the build a place of the instance of this attempt, if it has one.
    pub(super) fn lease(&mut self, epoch: Epoch, build: BuildId) -> Option<(Grant, Arc<Connection>)> {
        let grant = self.inner.life.lease(self.now, epoch, build, &mut self.effects)?;
        self.inner.granted(Ok(grant)).ok()
    }

    pub(super) fn apply(&mut self, input: Input) {
        self.inner.life.apply(self.now, input, &mut self.effects);
    }

    /// Lets an agent in that knows the secret of the attempt under way. Also returns the connection that is replaced,
    /// which must not be dropped before the lock is gone.
    pub(super) fn attach(
        &mut self,
        secret: &str,
        connection: impl FnOnce(Epoch) -> Connection,
    ) -> Result<(ConnectionId, Option<Arc<Connection>>), AttachError> {
        let attempt = self.inner.attempt_of(secret)?;
        let epoch = attempt.identity.epoch;
        let id = self.inner.life.attach(self.now, epoch, &mut self.effects)?;
        let attempt = self.inner.attempt.as_mut().expect("it was just found");
        Ok((id, attempt.connection.replace(Arc::new(connection(epoch)))))
    }

    /// Whether an agent with this secret would be let in.
    pub(super) fn knock(&self, secret: &str) -> Result<(), AttachError> {
        self.inner.life.admits_agent(self.inner.attempt_of(secret)?.identity.epoch)
    }

    /// The stop has failed: what may be left goes on the list.
    pub(super) fn left_behind(&mut self, shared: &Shared, remains: Remains, reason: Arc<str>, chance: f64) {
        self.effects.tell(remains.epoch, EventKind::LeftBehind { reason: reason.clone() });
        shared.leftovers.stop_failed(self.now, remains, reason, chance, &shared.timer);
    }

    /// An agent was not let in.
    pub(super) fn refuse(&mut self, error: AttachError) {
        self.inner.refused_agents += 1;
        self.tell(EventKind::AttachRefused { error });
    }

    /// Tells observers something that is not the lifecycle's business.
    pub(super) fn tell(&mut self, kind: EventKind) {
        self.effects.tell(self.inner.life.epoch(), kind);
    }
}
