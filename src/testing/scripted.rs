//! A worker whose driver calls wait for a test to answer them.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{
    Attacher, Attachment, BoxError, Build, DriverCall, Epoch, Health, LatentWorker, Leftover, Properties, Reclaimed,
    Secret, StartError, StartRequest, Started, StopError, StopRequest,
};

/// How long the `expect_` methods of [`Script`] wait, in real time, before they panic.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A [`LatentWorker`] that does what its [`Script`] says.
///
/// ```
/// use latent_worker::{Build, Master, WorkerConfig, testing::ScriptedWorker};
///
/// let master = Master::new();
/// let (driver, script) = ScriptedWorker::new();
/// let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
///
/// let request = worker.substantiate(&Build::new("impossible"));
/// script.expect_start().cannot("no such image");
/// assert_eq!(request.wait().unwrap_err().to_string(), "cannot substantiate: no such image");
/// script.expect_stop().succeed();
/// ```
pub struct ScriptedWorker {
    stage: Arc<Stage>,
    may_be_incompatible: bool,
    attached_check_interval: Option<Duration>,
    reclaims: bool,
}

/// What a test holds of a [`ScriptedWorker`]: each call into the driver waits until the test has taken it out with one
/// of the `expect_` methods and has answered it.
///
/// A call that is taken out and not answered *hangs*; that is how a test makes a driver hang. One that is dropped
/// without an answer fails and says so. When the script itself is dropped, starts fail and say so, and all other calls
/// go well, so that nothing hangs at the end of a test.
pub struct Script {
    stage: Arc<Stage>,
}

/// Where driver and test meet.
#[derive(Default)]
struct Stage {
    inner: Mutex<Inner>,
    called: Condvar,
}

#[derive(Default)]
struct Inner {
    calls: Vec<ScriptedCall>,
    starts: VecDeque<StartCall>,
    checks: VecDeque<CheckCall>,
    compatibles: VecDeque<CompatibleCall>,
    stops: VecDeque<StopCall>,
    reclaims: VecDeque<ReclaimCall>,
    automatic: HashSet<DriverCall>,
    /// The script is gone.
    abandoned: bool,
}

/// A call into the driver that was made; see [`Script::calls`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ScriptedCall {
    /// Which one.
    pub call: DriverCall,
    /// The name of the worker.
    pub worker: String,
    /// The attempt.
    pub epoch: Epoch,
}

impl fmt::Display for ScriptedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} (attempt {})", self.call, self.worker, self.epoch)
    }
}

/// What stands for an instance of a [`ScriptedWorker`].
#[derive(Debug)]
pub struct ScriptedInstance {
    worker: String,
    epoch: Epoch,
    /// Present when the script attached an agent for as long as the instance lives.
    _attachment: Option<Attachment>,
}

impl ScriptedInstance {
    fn new(request: &StartRequest<'_>, attachment: Option<Attachment>) -> Self {
        Self { worker: request.worker().to_owned(), epoch: request.epoch(), _attachment: attachment }
    }
}

impl ScriptedWorker {
    /// A worker that waits for its script at every call.
    #[allow(clippy::new_ret_no_self, reason = "the worker is of no use without its script")]
    pub fn new() -> (Self, Script) {
        let stage = Arc::new(Stage::default());
        let script = Script { stage: stage.clone() };
        (Self { stage, may_be_incompatible: false, attached_check_interval: None, reclaims: false }, script)
    }

    /// A worker that does everything [by itself](Script::automate), until the script says otherwise.
    pub fn automatic() -> (Self, Script) {
        let (worker, script) = Self::new();
        script.automate_all();
        (worker, script)
    }

    /// What [`builds_may_be_incompatible`](LatentWorker::builds_may_be_incompatible) says; no by default.
    #[must_use]
    pub fn may_be_incompatible(mut self, may_be_incompatible: bool) -> Self {
        self.may_be_incompatible = may_be_incompatible;
        self
    }

    /// What [`attached_check_interval`](LatentWorker::attached_check_interval) says; `None` by default.
    #[must_use]
    pub fn checks_attached(mut self, interval: Duration) -> Self {
        self.attached_check_interval = Some(interval);
        self
    }

    /// Whether [`reclaim`](LatentWorker::reclaim) is a call like the others. By default it is not made known to the
    /// script and comes to [`Reclaimed::Unsupported`].
    #[must_use]
    pub fn reclaims(mut self, reclaims: bool) -> Self {
        self.reclaims = reclaims;
        self
    }
}

impl fmt::Debug for ScriptedWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedWorker").field("may_be_incompatible", &self.may_be_incompatible).finish_non_exhaustive()
    }
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call before the test, and blocks until it is answered. `None` when it was let go without an answer.
    fn perform<C: Call>(&self, call: C, answer: &Receiver<C::Answer>) -> Option<C::Answer> {
        let mut inner = self.lock();
        let Facts { worker, epoch } = call.facts().clone();
        inner.calls.push(ScriptedCall { call: C::KIND, worker, epoch });
        if inner.abandoned && C::KIND == DriverCall::Start {
            return None;
        }
        if inner.abandoned || inner.automatic.contains(&C::KIND) {
            drop(inner);
            call.go_well();
        } else {
            C::waiting(&mut inner).push_back(call);
            self.called.notify_all();
            drop(inner);
        }
        answer.recv().ok()
    }

    fn expect<C: Call>(&self) -> C {
        let deadline = Instant::now() + PATIENCE;
        let mut inner = self.lock();
        loop {
            if let Some(call) = C::waiting(&mut inner).pop_front() {
                return call;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let calls: Vec<_> = inner.calls.iter().map(ToString::to_string).collect();
                drop(inner);
                panic!("{} was not called within {PATIENCE:?}; all calls so far: [{}]", C::KIND, calls.join(", "));
            }
            inner = self.called.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Script {
    /// Waits for a call of `start_instance`.
    ///
    /// # Panics
    /// As all `expect_` methods: when there is no such call within [`PATIENCE`]; the message tells what was called.
    pub fn expect_start(&self) -> StartCall {
        self.stage.expect()
    }

    /// Waits for a call of `check_instance`.
    pub fn expect_check(&self) -> CheckCall {
        self.stage.expect()
    }

    /// Waits for a call of `is_compatible_with_build`.
    pub fn expect_compatible(&self) -> CompatibleCall {
        self.stage.expect()
    }

    /// Waits for a call of `stop_instance`.
    pub fn expect_stop(&self) -> StopCall {
        self.stage.expect()
    }

    /// Waits for a call of `reclaim`; see [`ScriptedWorker::reclaims`].
    pub fn expect_reclaim(&self) -> ReclaimCall {
        self.stage.expect()
    }

    /// All calls that were made so far, in their order, answered or not.
    pub fn calls(&self) -> Vec<ScriptedCall> {
        self.stage.lock().calls.clone()
    }

    /// How often `call` was made so far.
    pub fn count(&self, call: DriverCall) -> usize {
        self.stage.lock().calls.iter().filter(|made| made.call == call).count()
    }

    /// From now on calls of this kind go well by themselves, and so do those that wait already: an agent attaches and
    /// the start succeeds; a check is good; every build is compatible; a stop succeeds; a leftover is gone.
    pub fn automate(&self, call: DriverCall) {
        let mut inner = self.stage.lock();
        inner.automatic.insert(call);
        match call {
            DriverCall::Start => release::<StartCall>(inner),
            DriverCall::Check => release::<CheckCall>(inner),
            DriverCall::Compatible => release::<CompatibleCall>(inner),
            DriverCall::Stop => release::<StopCall>(inner),
            DriverCall::Reclaim => release::<ReclaimCall>(inner),
        }
    }

    /// [Automates](Script::automate) calls of every kind.
    pub fn automate_all(&self) {
        use DriverCall::{Check, Compatible, Reclaim, Start, Stop};
        for call in [Start, Check, Compatible, Stop, Reclaim] {
            self.automate(call);
        }
    }

    /// From now on calls of this kind wait for the test again.
    pub fn by_hand(&self, call: DriverCall) {
        self.stage.lock().automatic.remove(&call);
    }
}

/// Lets all calls of one kind that wait go well.
fn release<C: Call>(mut inner: MutexGuard<'_, Inner>) {
    let waiting = std::mem::take(C::waiting(&mut inner));
    drop(inner);
    waiting.into_iter().for_each(C::go_well);
}

impl Drop for Script {
    fn drop(&mut self) {
        let starts = {
            let mut inner = self.stage.lock();
            inner.abandoned = true;
            std::mem::take(&mut inner.starts)
        };
        drop(starts);
        release::<CheckCall>(self.stage.lock());
        release::<CompatibleCall>(self.stage.lock());
        release::<StopCall>(self.stage.lock());
        release::<ReclaimCall>(self.stage.lock());
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

/// What all kinds of calls have in common.
trait Call: Sized {
    const KIND: DriverCall;
    /// What the test sends to the thread that makes the call.
    type Answer;
    fn facts(&self) -> &Facts;
    fn waiting(inner: &mut Inner) -> &mut VecDeque<Self>;
    fn go_well(self);
}

/// What is known about every call.
#[derive(Clone, Debug)]
struct Facts {
    worker: String,
    epoch: Epoch,
}

type StartAnswer = Box<dyn FnOnce(&StartRequest<'_>) -> Result<Started<ScriptedInstance>, StartError> + Send>;
type CheckAnswer = Box<dyn FnOnce() -> Health + Send>;
type CompatibleAnswer = Box<dyn FnOnce() -> Result<bool, BoxError> + Send>;
type ReclaimAnswer = Box<dyn FnOnce(&Leftover) -> Result<Reclaimed, StopError> + Send>;
type StopAnswer = Box<dyn FnOnce() -> Result<(), StopError> + Send>;

macro_rules! call {
    ($call:ident, $kind:ident, $answer:ty, $waiting:ident, $go_well:expr) => {
        impl $call {
            /// The name of the worker.
            pub fn worker(&self) -> &str {
                &self.facts.worker
            }

            /// The attempt.
            pub fn epoch(&self) -> Epoch {
                self.facts.epoch
            }

            /// The thread that makes the call is there until it has its answer.
            fn send(self, answer: $answer) {
                let _ = self.answer.send(answer);
            }
        }

        impl Call for $call {
            const KIND: DriverCall = DriverCall::$kind;
            type Answer = $answer;

            fn facts(&self) -> &Facts {
                &self.facts
            }

            fn waiting(inner: &mut Inner) -> &mut VecDeque<Self> {
                &mut inner.$waiting
            }

            fn go_well(self) {
                let go_well: fn(Self) = $go_well;
                go_well(self);
            }
        }

        impl fmt::Debug for $call {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($call)).field("facts", &self.facts).finish_non_exhaustive()
            }
        }
    };
}

call!(StartCall, Start, StartAnswer, starts, StartCall::succeed_attached);
call!(CheckCall, Check, CheckAnswer, checks, CheckCall::good);
call!(CompatibleCall, Compatible, CompatibleAnswer, compatibles, CompatibleCall::yes);
call!(StopCall, Stop, StopAnswer, stops, StopCall::succeed);
call!(ReclaimCall, Reclaim, ReclaimAnswer, reclaims, ReclaimCall::gone);

/// A call of [`start_instance`](LatentWorker::start_instance) that waits for its answer.
#[must_use = "dropped without an answer, the start fails"]
pub struct StartCall {
    facts: Facts,
    build: Option<Build>,
    key: String,
    secret: Secret,
    attacher: Attacher,
    cancelled: Receiver<std::convert::Infallible>,
    answer: Sender<StartAnswer>,
}

impl StartCall {
    /// The build that the instance is started for.
    pub fn build(&self) -> Option<&Build> {
        self.build.as_ref()
    }

    /// The properties of the build, empty without one.
    pub fn properties(&self) -> Properties {
        self.build.as_ref().map(|build| build.properties().clone()).unwrap_or_default()
    }

    /// The key of the attempt.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What the agent must prove itself with.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The means to attach an agent, which can be kept beyond the answer.
    pub fn attacher(&self) -> Attacher {
        self.attacher.clone()
    }

    /// Attaches an agent that runs no commands. It is detached when the attachment is dropped.
    ///
    /// # Panics
    /// When it is refused. A test that expects that uses the [`attacher`](StartCall::attacher).
    pub fn attach(&self) -> Attachment {
        self.attacher.attach(()).expect("the agent is let in")
    }

    /// Whether nobody waits for the instance any more.
    pub fn cancelled(&self) -> bool {
        matches!(self.cancelled.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// Waits until the start is cancelled.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`].
    pub fn wait_cancelled(&self) {
        match self.cancelled.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => panic!("the start was not cancelled within {PATIENCE:?}"),
            Ok(never) => match never {},
        }
    }

    /// There is an instance.
    pub fn succeed(self) {
        self.succeed_with(Vec::<String>::new());
    }

    /// There is an instance, with details for people.
    pub fn succeed_with<S: Into<String>>(self, details: impl IntoIterator<Item = S>) {
        let details: Vec<String> = details.into_iter().map(Into::into).collect();
        self.answer(|_| Ok(details));
    }

    /// There is an instance, and its agent attaches before the start returns and stays until the end of the stop.
    pub fn succeed_attached(self) {
        self.send(Box::new(|request| {
            // Refused when the start was cancelled: then it is an instance that nobody needs.
            let attachment = request.attacher().attach(()).ok();
            Ok(Started::new(ScriptedInstance::new(request, attachment)))
        }));
    }

    /// An infrastructure failure.
    pub fn fail(self, reason: &str) {
        self.fail_with(StartError::infrastructure(reason));
    }

    /// Any failure.
    pub fn fail_with(self, error: StartError) {
        self.answer(|_| Err(error));
    }

    /// The build's own fault.
    pub fn cannot(self, reason: &str) {
        self.fail_with(StartError::cannot(reason));
    }

    /// A panic.
    pub fn panic(self) {
        self.answer(|_| panic!("scripted panic"));
    }

    /// Hangs, and fails as soon as it is cancelled: a well-behaved driver of something slow.
    pub fn hang_until_cancelled(self) {
        self.answer(|request| {
            let _ = request.cancel_signal().recv();
            Err(StartError::infrastructure("cancelled"))
        });
    }

    /// Anything else: `answer` runs in the driver, on the library's thread, and returns the instance's details.
    pub fn answer(self, answer: impl FnOnce(&StartRequest<'_>) -> Result<Vec<String>, StartError> + Send + 'static) {
        self.send(Box::new(|request| {
            let details = answer(request)?;
            Ok(details.into_iter().fold(Started::new(ScriptedInstance::new(request, None)), Started::detail))
        }));
    }
}

/// A call of [`check_instance`](LatentWorker::check_instance) that waits for its answer.
#[must_use = "dropped without an answer, the check is bad"]
pub struct CheckCall {
    facts: Facts,
    answer: Sender<CheckAnswer>,
}

impl CheckCall {
    /// The instance looks well.
    pub fn good(self) {
        self.answer(|| Health::Good);
    }

    /// It does not.
    pub fn bad(self, reason: &str) {
        let reason = reason.to_owned();
        self.answer(|| Health::Bad(reason));
    }

    /// A panic.
    pub fn panic(self) {
        self.answer(|| panic!("scripted panic"));
    }

    /// Anything else: `answer` runs in the driver, on the library's thread.
    pub fn answer(self, answer: impl FnOnce() -> Health + Send + 'static) {
        self.send(Box::new(answer));
    }
}

/// A call of [`is_compatible_with_build`](LatentWorker::is_compatible_with_build) that waits for its answer.
#[must_use = "dropped without an answer, the call fails"]
pub struct CompatibleCall {
    facts: Facts,
    properties: Properties,
    answer: Sender<CompatibleAnswer>,
}

impl CompatibleCall {
    /// The properties of the build in question.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The instance fits the build.
    pub fn yes(self) {
        self.answer(|| Ok(true));
    }

    /// It does not.
    pub fn no(self) {
        self.answer(|| Ok(false));
    }

    /// An error.
    pub fn fail(self, reason: &str) {
        let reason = reason.to_owned();
        self.answer(|| Err(reason.into()));
    }

    /// A panic.
    pub fn panic(self) {
        self.answer(|| panic!("scripted panic"));
    }

    /// Anything else: `answer` runs in the driver, on the library's thread.
    pub fn answer(self, answer: impl FnOnce() -> Result<bool, BoxError> + Send + 'static) {
        self.send(Box::new(answer));
    }
}

/// A call of [`stop_instance`](LatentWorker::stop_instance) that waits for its answer.
#[must_use = "dropped without an answer, the stop fails"]
pub struct StopCall {
    facts: Facts,
    key: String,
    fast: bool,
    had_instance: bool,
    answer: Sender<StopAnswer>,
}

impl StopCall {
    /// The key of the attempt.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether all grace is to be skipped.
    pub fn fast(&self) -> bool {
        self.fast
    }

    /// Whether the start had returned an instance.
    pub fn had_instance(&self) -> bool {
        self.had_instance
    }

    /// Everything is gone.
    pub fn succeed(self) {
        self.answer(|| Ok(()));
    }

    /// Something is left behind.
    pub fn fail(self, reason: &str) {
        let error = StopError::new(reason);
        self.answer(|| Err(error));
    }

    /// A panic.
    pub fn panic(self) {
        self.answer(|| panic!("scripted panic"));
    }

    /// Anything else: `answer` runs in the driver, on the library's thread.
    pub fn answer(self, answer: impl FnOnce() -> Result<(), StopError> + Send + 'static) {
        self.send(Box::new(answer));
    }
}

/// A call of [`reclaim`](LatentWorker::reclaim) that waits for its answer.
#[must_use = "dropped without an answer, the reclaim fails"]
pub struct ReclaimCall {
    facts: Facts,
    leftover: Leftover,
    answer: Sender<ReclaimAnswer>,
}

impl ReclaimCall {
    /// What is known of the attempt.
    pub fn leftover(&self) -> &Leftover {
        &self.leftover
    }

    /// Nothing is left.
    pub fn gone(self) {
        self.answer(|_| Ok(Reclaimed::Gone));
    }

    /// Nothing is there, but something may still come.
    pub fn pending(self) {
        self.answer(|_| Ok(Reclaimed::Pending));
    }

    /// There are no means to find out.
    pub fn unsupported(self) {
        self.answer(|_| Ok(Reclaimed::Unsupported));
    }

    /// Something may be left.
    pub fn fail(self, reason: &str) {
        let error = StopError::new(reason);
        self.answer(|_| Err(error));
    }

    /// A panic.
    pub fn panic(self) {
        self.answer(|_| panic!("scripted panic"));
    }

    /// Anything else: `answer` runs in the driver, on the library's thread.
    pub fn answer(self, answer: impl FnOnce(&Leftover) -> Result<Reclaimed, StopError> + Send + 'static) {
        self.send(Box::new(answer));
    }
}

impl LatentWorker for ScriptedWorker {
    type Instance = ScriptedInstance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<ScriptedInstance>, StartError> {
        let (answer, answered) = bounded(1);
        let call = StartCall {
            facts: Facts { worker: start.worker().to_owned(), epoch: start.epoch() },
            build: start.build().cloned(),
            key: start.key().to_owned(),
            secret: start.secret().clone(),
            attacher: start.attacher(),
            cancelled: start.cancel_signal().clone(),
            answer,
        };
        match self.stage.perform(call, &answered) {
            Some(answer) => answer(start),
            None => Err(StartError::infrastructure("the test let go of this start without an answer")),
        }
    }

    fn check_instance(&self, instance: &ScriptedInstance) -> Health {
        let (answer, answered) = bounded(1);
        match self.stage.perform(CheckCall { facts: instance.facts(), answer }, &answered) {
            Some(answer) => answer(),
            None => Health::bad("the test let go of this check without an answer"),
        }
    }

    fn attached_check_interval(&self) -> Option<Duration> {
        self.attached_check_interval
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.may_be_incompatible
    }

    fn is_compatible_with_build(&self, instance: &ScriptedInstance, properties: &Properties) -> Result<bool, BoxError> {
        let (answer, answered) = bounded(1);
        let call = CompatibleCall { facts: instance.facts(), properties: properties.clone(), answer };
        match self.stage.perform(call, &answered) {
            Some(answer) => answer(),
            None => Err("the test let go of this question without an answer".into()),
        }
    }

    fn stop_instance(&self, stop: StopRequest<ScriptedInstance>) -> Result<(), StopError> {
        let (answer, answered) = bounded(1);
        let call = StopCall {
            facts: Facts { worker: stop.worker().to_owned(), epoch: stop.epoch() },
            key: stop.key().to_owned(),
            fast: stop.fast(),
            had_instance: stop.instance().is_some(),
            answer,
        };
        match self.stage.perform(call, &answered) {
            Some(answer) => answer(),
            None => Err(StopError::new("the test let go of this stop without an answer")),
        }
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        if !self.reclaims {
            return Ok(Reclaimed::Unsupported);
        }
        let (answer, answered) = bounded(1);
        let facts = Facts { worker: leftover.worker().to_owned(), epoch: leftover.epoch() };
        match self.stage.perform(ReclaimCall { facts, leftover: leftover.clone(), answer }, &answered) {
            Some(answer) => answer(leftover),
            None => Err(StopError::new("the test let go of this reclaim without an answer")),
        }
    }
}

impl ScriptedInstance {
    fn facts(&self) -> Facts {
        Facts { worker: self.worker.clone(), epoch: self.epoch }
    }
}
