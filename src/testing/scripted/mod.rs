//! A worker whose driver calls wait for a test to answer them.

mod call;
mod script;
mod stage;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

pub use call::{CheckCall, CompatibleCall, ReclaimCall, StartCall, StopCall};
pub use script::{Script, ScriptedCall};
use stage::Facts;
pub(in crate::testing) use stage::Stage;

use super::Watch;
use crate::{
    Attachment, BoxError, Epoch, Health, Kind, LatentWorker, Leftover, Properties, Reclaimed, StartError, StartRequest,
    Started, StopError, StopRequest,
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
    kinds: Option<SaysKind>,
    attached_check_interval: Option<Duration>,
    reclaims: bool,
}

type SaysKind = Box<dyn Fn(&Properties) -> Result<Kind, BoxError> + Send + Sync>;

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
        let script = Script { stage: stage.clone(), watch: None };
        let worker =
            Self { stage, may_be_incompatible: false, kinds: None, attached_check_interval: None, reclaims: false };
        (worker, script)
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

    /// Says kinds: what [`kind`](LatentWorker::kind) returns. It is called without the script, because the answer must not
    /// have to be waited for. By default the worker does not say kinds.
    ///
    /// ```
    /// use latent_worker::testing::ScriptedWorker;
    /// use latent_worker::{Build, Kind, Master, WorkerConfig};
    ///
    /// let master = Master::new();
    /// let (driver, script) = ScriptedWorker::automatic();
    /// let driver = driver.kinds(|properties| Ok(Kind::new(properties.get("image").ok_or("no image")?)));
    /// master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    ///
    /// let error = master.submit(Build::new("b")).wait().unwrap_err();
    /// assert_eq!(error.to_string(), "cannot substantiate: no image");
    /// ```
    #[must_use]
    pub fn kinds(mut self, kind: impl Fn(&Properties) -> Result<Kind, BoxError> + Send + Sync + 'static) -> Self {
        self.kinds = Some(Box::new(kind));
        self
    }

    /// What [`attached_check_interval`](LatentWorker::attached_check_interval) says; `None` by default.
    #[must_use]
    pub fn checks_attached(mut self, interval: Duration) -> Self {
        self.attached_check_interval = Some(interval);
        self
    }

    /// Sets whether [`reclaim`](LatentWorker::reclaim) is a call like the others. By default the script does not see
    /// it, and it returns [`Reclaimed::Unsupported`].
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

impl LatentWorker for ScriptedWorker {
    type Instance = ScriptedInstance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<ScriptedInstance>, StartError> {
        let (answer, answered) = bounded(1);
        let call = StartCall {
            facts: Facts::new(start.worker(), start.epoch()),
            build: start.build().cloned(),
            key: start.key().to_owned(),
            owner: start.owner().to_owned(),
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

    fn says_kinds(&self) -> bool {
        self.kinds.is_some()
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        self.kinds.as_ref().map_or_else(|| Ok(Kind::by_properties()), |kind| kind(properties))
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
            facts: Facts::new(stop.worker(), stop.epoch()),
            key: stop.key().to_owned(),
            hurried: stop.hurry_signal().clone(),
            had_instance: stop.instance().is_some(),
            answer,
        };
        match self.stage.perform(call, &answered) {
            Some(answer) => answer(&stop),
            None => Err(StopError::new("the test let go of this stop without an answer")),
        }
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        if !self.reclaims {
            return Ok(Reclaimed::Unsupported);
        }
        let (answer, answered) = bounded(1);
        let facts = Facts::new(leftover.worker(), leftover.epoch());
        match self.stage.perform(ReclaimCall { facts, leftover: leftover.clone(), answer }, &answered) {
            Some(answer) => answer(leftover),
            None => Err(StopError::new("the test let go of this reclaim without an answer")),
        }
    }
}

impl ScriptedInstance {
    fn facts(&self) -> Facts {
        Facts::new(&self.worker, self.epoch)
    }
}

impl Script {
    /// The stage, for a [`Watch`] that follows this script.
    pub(in crate::testing) fn stage(&self) -> &Arc<Stage> {
        &self.stage
    }

    /// Has failures of this script describe the master.
    pub(in crate::testing) fn described_by(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }
}
