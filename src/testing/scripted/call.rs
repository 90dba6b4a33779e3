//! Calls of a driver that wait for the answer of the test.

use std::collections::VecDeque;
use std::fmt;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::stage::{Facts, Inner};
use super::{PATIENCE, ScriptedInstance};
#[allow(unused_imports, reason = "named by the documentation")]
use crate::LatentWorker;
use crate::{
    Agent, Attacher, Attachment, BoxError, Build, DriverCall, Epoch, Health, Leftover, Properties, Reclaimed, Secret,
    StartError, StartRequest, Started, StopError, StopRequest,
};

/// What all kinds of calls have in common.
pub(super) trait Call: Sized {
    const KIND: DriverCall;
    /// What the test sends to the thread that makes the call.
    type Answer;
    fn facts(&self) -> &Facts;
    fn waiting(inner: &mut Inner) -> &mut VecDeque<Self>;
    fn go_well(self);
}

pub(super) type StartAnswer =
    Box<dyn FnOnce(&StartRequest<'_>) -> Result<Started<ScriptedInstance>, StartError> + Send>;
pub(super) type CheckAnswer = Box<dyn FnOnce() -> Health + Send>;
pub(super) type CompatibleAnswer = Box<dyn FnOnce() -> Result<bool, BoxError> + Send>;
pub(super) type ReclaimAnswer = Box<dyn FnOnce(&Leftover) -> Result<Reclaimed, StopError> + Send>;
pub(super) type StopAnswer = Box<dyn FnOnce(&StopRequest<ScriptedInstance>) -> Result<(), StopError> + Send>;

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
                self.facts.answered();
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
                f.debug_struct(stringify!($call))
                    .field("worker", &self.worker())
                    .field("epoch", &self.epoch())
                    .finish_non_exhaustive()
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
    pub(super) facts: Facts,
    pub(super) build: Option<Build>,
    pub(super) key: String,
    pub(super) owner: String,
    pub(super) secret: Secret,
    pub(super) attacher: Attacher,
    pub(super) cancelled: Receiver<std::convert::Infallible>,
    pub(super) answer: Sender<StartAnswer>,
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

    /// The owner id given to the start; see [`StartRequest::owner`].
    pub fn owner(&self) -> &str {
        &self.owner
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
        self.attach_agent(())
    }

    /// Attaches this agent, for example a [`ScriptedAgent`](crate::testing::ScriptedAgent). It is detached when the
    /// attachment is dropped.
    ///
    /// # Panics
    /// Panics if the agent is refused, like [`attach`](StartCall::attach).
    pub fn attach_agent(&self, agent: impl Agent) -> Attachment {
        self.attacher.attach(agent).expect("the agent is let in")
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
        self.succeed_attached_with(());
    }

    /// Returns an instance with this agent. The agent attaches before the start returns, and stays until the end of the
    /// stop.
    pub fn succeed_attached_with(self, agent: impl Agent) {
        self.send(Box::new(|request| {
            // Refused when the start was cancelled: then it is an instance that nobody needs.
            let attachment = request.attacher().attach(agent).ok();
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
        self.facts.held_until(self.cancelled.clone());
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
    pub(super) facts: Facts,
    pub(super) answer: Sender<CheckAnswer>,
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
    pub(super) facts: Facts,
    pub(super) properties: Properties,
    pub(super) answer: Sender<CompatibleAnswer>,
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
    pub(super) facts: Facts,
    pub(super) key: String,
    pub(super) hurried: Receiver<std::convert::Infallible>,
    pub(super) had_instance: bool,
    pub(super) answer: Sender<StopAnswer>,
}

impl StopCall {
    /// The key of the attempt.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns whether all grace is to be skipped now; see [`StopRequest::fast`].
    pub fn fast(&self) -> bool {
        matches!(self.hurried.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// Blocks until the stop is a fast one.
    ///
    /// # Panics
    /// If it does not become one within [`PATIENCE`].
    pub fn wait_hurried(&self) {
        match self.hurried.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => panic!("the stop was not hurried within {PATIENCE:?}"),
            Ok(never) => match never {},
        }
    }

    /// Whether the start had returned an instance.
    pub fn had_instance(&self) -> bool {
        self.had_instance
    }

    /// Everything is gone.
    pub fn succeed(self) {
        self.answer(|_| Ok(()));
    }

    /// Something is left behind.
    pub fn fail(self, reason: &str) {
        let error = StopError::new(reason);
        self.answer(|_| Err(error));
    }

    /// Hangs, and succeeds as soon as the stop is a fast one: an instance that does not end by itself.
    pub fn hang_until_hurried(self) {
        self.facts.held_until(self.hurried.clone());
        self.answer(|stop| {
            let _ = stop.hurry_signal().recv();
            Ok(())
        });
    }

    /// A panic.
    pub fn panic(self) {
        self.answer(|_| panic!("scripted panic"));
    }

    /// Anything else: `answer` runs in the driver, on the library's thread.
    pub fn answer(self, answer: impl FnOnce(&StopRequest<ScriptedInstance>) -> Result<(), StopError> + Send + 'static) {
        self.send(Box::new(answer));
    }
}

/// A call of [`reclaim`](LatentWorker::reclaim) that waits for its answer.
#[must_use = "dropped without an answer, the reclaim fails"]
pub struct ReclaimCall {
    pub(super) facts: Facts,
    pub(super) leftover: Leftover,
    pub(super) answer: Sender<ReclaimAnswer>,
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
