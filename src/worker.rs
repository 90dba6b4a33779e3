//! The trait that makes a new kind of worker, [`LatentWorker`], and what it is handed and hands back.
//!
//! What a worker's life looks like, and when these methods are called, is decided elsewhere.

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::build::{Build, Epoch, Labels, Properties};
use crate::command::Agent;
use crate::error::{AttachError, BoxError, Cancelled, Hurried, RecordError, StartError, StopError};
use crate::journal::{LeftoverStage, Remains};

/// A kind of worker that can be started when work arrives and stopped when it is gone: a driver.
///
/// Two methods are enough. For one worker, the library calls `start_instance`, `check_instance`,
/// `is_compatible_with_build` and `stop_instance` one at a time, all for one instance on one thread that lives as long
/// as the instance, and never holds a lock meanwhile. Every start is followed by exactly one stop, also when it failed,
/// was cancelled or panicked. The methods may block for minutes and may call any method of the library; a panic in one
/// of them counts as a failure of that call.
///
/// One driver value serves one worker, or many when it is shared as an `Arc`.
///
/// The names are those of Buildbot's `AbstractLatentWorker`.
#[doc(alias = "provisioner")]
#[doc(alias = "cloud provider")]
pub trait LatentWorker: Send + Sync + 'static {
    /// What stands for a running instance: a container's id, a child process, a machine's id.
    type Instance: Send + 'static;

    /// Brings an instance up, and returns when it runs; its agent may attach before or after that.
    ///
    /// When it fails after something was created, either remove that here, or leave it to `stop_instance`, which is
    /// called with no instance and the same [`key`](StartRequest::key). When [`StartRequest::cancelled`] turns true
    /// the instance is not needed any more: return soon, with the instance or with an error.
    ///
    /// A start that takes 4 times as long as others of its kind, and at least 30 s, is overdue: another instance may then
    /// be started beside it. Before such a duration is known, a start is overdue after a tenth of
    /// [`missing_timeout`](WorkerConfig::with_missing_timeout).
    #[doc(alias = "provision")]
    #[doc(alias = "spawn")]
    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Self::Instance>, StartError>;

    /// Stops the instance and removes everything that belongs to it. Called exactly once for each start, and never
    /// again when it fails: what may be left then goes to [`reclaim`](LatentWorker::reclaim). What is gone already
    /// counts as stopped. When [`StopRequest::fast`] turns true meanwhile, end the instance without more grace.
    #[doc(alias = "terminate")]
    #[doc(alias = "deprovision")]
    fn stop_instance(&self, stop: StopRequest<Self::Instance>) -> Result<(), StopError>;

    /// Whether an instance whose agent has not attached yet still looks well. Called every
    /// [`check_instance_interval`](WorkerConfig::with_check_instance_interval) between the return of the start and the
    /// attach; when it is bad, the attempt has failed and the message says why. Well by default.
    ///
    /// A driver that [asks for it](LatentWorker::attached_check_interval) is called after the attach as well; a bad instance
    /// takes no new build then, and is stopped when those that it has are done.
    #[doc(alias = "health check")]
    fn check_instance(&self, instance: &Self::Instance) -> Health {
        let _ = instance;
        Health::Good
    }

    /// How often an instance is [checked](LatentWorker::check_instance) after its agent has attached; at least a second is
    /// between two checks. For drivers that can see the end of an instance coming: a machine that its provider is going to take
    /// away, say. Asked once, when the worker is added, on the thread that adds it. `None` by default: never.
    ///
    /// A stop waits for a check that is in flight, and so does the question whether an instance
    /// [fits](LatentWorker::is_compatible_with_build): the check should return soon.
    fn attached_check_interval(&self) -> Option<Duration> {
        None
    }

    /// Whether an instance may fit one build and not another. Asked once, when the worker is added, on the thread that
    /// adds it. `false` by default: every instance fits every build and
    /// [`is_compatible_with_build`](LatentWorker::is_compatible_with_build) is never called, unless the driver
    /// [says kinds](LatentWorker::says_kinds).
    fn builds_may_be_incompatible(&self) -> bool {
        false
    }

    /// Whether the running `instance` fits a build with these properties. An error or a panic counts as no.
    /// Yes by default.
    ///
    /// For the queue, called once for each instance and set of properties, while the instance is attached and has a free
    /// place; the answer holds as long as the instance. An instance without a build so far is not asked about the
    /// properties that it was started for. While the call has not returned, the build may get a place elsewhere.
    /// [`Worker::substantiate`](crate::Worker::substantiate) calls it for each request.
    fn is_compatible_with_build(&self, instance: &Self::Instance, properties: &Properties) -> Result<bool, BoxError> {
        let _ = (instance, properties);
        Ok(true)
    }

    /// Whether the driver says which [`kind`](LatentWorker::kind) of instance a build needs. Asked once, when the worker is
    /// added, on the thread that adds it. `false` by default: `kind` is never called.
    ///
    /// A driver whose instances differ by what it makes of the properties should say kinds: the queue then knows without a
    /// question which instances fit a build, and how many builds wait for the same kind.
    fn says_kinds(&self) -> bool {
        false
    }

    /// The kind of instance that a build with these properties needs: an instance that was started for one build serves
    /// every build of the same kind, and no other. The name of a kind should contain all that the driver makes of the
    /// properties, such as the image and the memory, but no secret: it is shown to people.
    ///
    /// A pure function of the properties: it is called about once for each distinct set of them, whichever of the workers
    /// that share the driver value the answer is for, and the answer is remembered. Called on a thread of its own, one
    /// for each driver value, without any lock. While it blocks, builds wait for this driver's answers only.
    ///
    /// For the queue the kind alone decides. For [`Worker::substantiate`](crate::Worker::substantiate),
    /// [`is_compatible_with_build`](LatentWorker::is_compatible_with_build) is called as well when the kinds are the same,
    /// and may refuse an instance because of its state.
    ///
    /// [`Kind::by_properties`] by default.
    ///
    /// # Errors
    /// When the driver cannot make an instance for such a build. If no worker can, the build ends with the error of one
    /// of them. A panic counts as an error.
    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        let _ = properties;
        Ok(Kind::by_properties())
    }

    /// Which value this is, if workers may share it.
    #[doc(hidden)]
    fn driver_identity(&self) -> Option<DriverIdentity> {
        None
    }

    /// Takes away what is left of an attempt whose instance is not known any more: its stop has failed, or its master
    /// has died before the stop ([`MasterBuilder::journal`](crate::MasterBuilder::journal)).
    ///
    /// All that is known is in `leftover`: the key of the attempt, and the ids that its start has
    /// [recorded](StartRequest::record). Whether the start came so far as to make anything is not known, nor whether a
    /// stop has removed it: [`Reclaimed::Gone`] is the answer when nothing is left, for whatever reason. Go by the
    /// exact key, owner and ids alone, never by a prefix or by the worker's name: others may use the same provider.
    ///
    /// Called on a thread of its own, for one attempt one call at a time; again after an error, with pauses that grow
    /// from a second to ten minutes. Until the first answer that is no error the worker starts nothing if a master that has
    /// died has left this; after a failed stop that is so until the end of the quarantine, so that the calls of a later attempt
    /// may run at the same time. [`Leftover::cancelled`] turns true when the master shuts down fast: return soon, with an
    /// error. A graceful shutdown waits for the call.
    ///
    /// By default [`Reclaimed::Unsupported`].
    ///
    /// # Errors
    /// When something may be left. It is tried again.
    #[doc(alias = "garbage collection")]
    #[doc(alias = "orphan")]
    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let _ = leftover;
        Ok(Reclaimed::Unsupported)
    }
}

/// Tells one driver value from all others that exist at the same time.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DriverIdentity(usize);

/// What [`LatentWorker::reclaim`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reclaimed {
    /// Nothing is left of the attempt. It is forgotten, in the journal too.
    Gone,
    /// Nothing is there now, but something may still come: the answer to a call that creates was lost, say, and the
    /// provider may be at it. The attempt stays on the list and in the journal and is asked for again, with pauses that
    /// grow; the worker is used again meanwhile. Go by [`Leftover::age`] to say when nothing comes any more.
    Pending,
    /// The driver has no means to find out. The attempt stays on the list and in the journal for people to look after
    /// ([`Master::forget_leftover`](crate::Master::forget_leftover)), and the worker is used again.
    Unsupported,
}

/// An attempt that may have left something behind: what [`LatentWorker::reclaim`] is told.
#[derive(Clone)]
pub struct Leftover {
    pub(crate) remains: Remains,
    pub(crate) age: Duration,
    pub(crate) controls: Arc<dyn CallControls>,
}

/// What a stop or a reclaim can ask of the runtime.
pub(crate) trait CallControls: Send + Sync {
    /// Disconnected when the call is to end soon.
    fn cancel_signal(&self) -> &Receiver<Infallible>;
    fn sleep(&self, duration: Duration) -> Result<(), Cancelled>;
}

impl Leftover {
    /// The name of the worker.
    pub fn worker(&self) -> &str {
        &self.remains.worker
    }

    /// The number of the attempt.
    pub fn epoch(&self) -> Epoch {
        self.remains.epoch
    }

    /// The key of the attempt; see [`StartRequest::key`].
    pub fn key(&self) -> &str {
        &self.remains.key
    }

    /// Whose it is: the owner that the start was told; see [`StartRequest::owner`].
    pub fn owner(&self) -> &str {
        &self.remains.owner
    }

    /// What the start has [recorded](StartRequest::record), the first one first. It may have made more than that: a
    /// crash can come between the two.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.remains.ids.iter().map(AsRef::as_ref)
    }

    /// How far the attempt had come.
    pub fn stage(&self) -> LeftoverStage {
        self.remains.stage
    }

    /// How long ago the start was called, by the clock on the wall; at least as long as this master knows of the leftover,
    /// and no more than that when a damaged journal does not tell.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Whether the master is shutting down fast. Does not block.
    pub fn cancelled(&self) -> bool {
        matches!(self.cancel_signal().try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// A channel that never carries anything and is disconnected when the master shuts down fast: for `select!`.
    pub fn cancel_signal(&self) -> &Receiver<Infallible> {
        self.controls.cancel_signal()
    }

    /// Waits, on the clock of the master, and ends early with an error when that shuts down fast.
    pub fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        self.controls.sleep(duration)
    }
}

impl fmt::Debug for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leftover").field("remains", &self.remains).finish_non_exhaustive()
    }
}

/// So that one driver value can serve many workers, and a driver can be a trait object.
impl<W: LatentWorker + ?Sized> LatentWorker for Arc<W> {
    type Instance = W::Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Self::Instance>, StartError> {
        W::start_instance(self, start)
    }

    fn stop_instance(&self, stop: StopRequest<Self::Instance>) -> Result<(), StopError> {
        W::stop_instance(self, stop)
    }

    fn check_instance(&self, instance: &Self::Instance) -> Health {
        W::check_instance(self, instance)
    }

    fn attached_check_interval(&self) -> Option<Duration> {
        W::attached_check_interval(self)
    }

    fn builds_may_be_incompatible(&self) -> bool {
        W::builds_may_be_incompatible(self)
    }

    fn is_compatible_with_build(&self, instance: &Self::Instance, properties: &Properties) -> Result<bool, BoxError> {
        W::is_compatible_with_build(self, instance, properties)
    }

    fn says_kinds(&self) -> bool {
        W::says_kinds(self)
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        W::kind(self, properties)
    }

    fn driver_identity(&self) -> Option<DriverIdentity> {
        // An `Arc` within this one may be in others as well.
        Some(W::driver_identity(self).unwrap_or_else(|| DriverIdentity(Arc::as_ptr(self).cast::<()>().addr())))
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        W::reclaim(self, leftover)
    }
}

/// How one attempt is known: to the driver, to the provider and to the agent.
#[derive(Clone, Debug)]
pub(crate) struct AttemptIdentity {
    pub(crate) worker: Arc<str>,
    pub(crate) epoch: Epoch,
    pub(crate) key: Arc<str>,
    pub(crate) owner: Arc<str>,
    pub(crate) secret: Secret,
}

/// What a driver is told when it is to start an instance.
pub struct StartRequest<'a> {
    pub(crate) identity: &'a AttemptIdentity,
    pub(crate) build: Option<&'a Build>,
    pub(crate) controls: &'a dyn StartControls,
}

/// What a start can ask of the runtime.
pub(crate) trait StartControls {
    fn cancel_signal(&self) -> &Receiver<Infallible>;
    fn sleep(&self, duration: Duration) -> Result<(), Cancelled>;
    fn progress(&self, text: &str);
    fn record(&self, id: &str) -> Result<(), RecordError>;
    fn attacher(&self) -> Attacher;
    fn agent_address(&self) -> Option<&str>;
}

impl StartRequest<'_> {
    /// The name of the worker; the agent must attach under this name.
    pub fn worker(&self) -> &str {
        &self.identity.worker
    }

    /// The number of this attempt.
    pub fn epoch(&self) -> Epoch {
        self.identity.epoch
    }

    /// 32 hexadecimal digits that belong to this attempt alone: for idempotent create calls, names and tags.
    pub fn key(&self) -> &str {
        &self.identity.key
    }

    /// Whose instances these are: 32 hexadecimal digits that all attempts of one master have in common, and with a
    /// [journal](crate::MasterBuilder::journal) all masters that have used it. For tags, next to the key.
    pub fn owner(&self) -> &str {
        &self.identity.owner
    }

    /// What the agent must prove itself with; made for this attempt alone. Hand it to the instance, not to a log.
    #[doc(alias = "password")]
    pub fn secret(&self) -> &Secret {
        &self.identity.secret
    }

    /// The build that causes the start, and whose properties the instance is made for; `None` when the worker is started
    /// without one. Another build of the same kind may be the first to use the instance, and this build may get its place
    /// elsewhere. If the start fails, that is an attempt of this build.
    pub fn build(&self) -> Option<&Build> {
        self.build
    }

    /// The properties of the build, empty without one.
    pub fn properties(&self) -> Properties {
        self.build.map(|build| build.properties().clone()).unwrap_or_default()
    }

    /// Where the agent must connect to, if the master was [told](crate::MasterBuilder::agent_address).
    pub fn agent_address(&self) -> Option<&str> {
        self.controls.agent_address()
    }

    /// Whether the instance is not needed any more. Does not block.
    pub fn cancelled(&self) -> bool {
        matches!(self.cancel_signal().try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// A channel that never carries anything and is disconnected when the start is cancelled: for `select!`.
    pub fn cancel_signal(&self) -> &Receiver<Infallible> {
        self.controls.cancel_signal()
    }

    /// Waits, on the clock of the master, and ends early with an error when the start is cancelled. Polling a provider
    /// goes through this.
    pub fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        self.controls.sleep(duration)
    }

    /// Tells observers what the start is doing ("pulling image, 40 %"). Does not block.
    pub fn progress(&self, text: &str) {
        self.controls.progress(text);
    }

    /// Records the id of what this start has made, or is going to make, so that it is found whatever happens next: see
    /// [`Leftover::ids`]. Several may be recorded; the same one twice counts once.
    ///
    /// With a [journal](crate::MasterBuilder::journal) it blocks until the id is durable, some milliseconds; so record
    /// it as soon as it is known, and use it after that. Without one it is remembered for as long as this process
    /// lives.
    ///
    /// # Errors
    /// When the id is empty or longer than 4096 bytes, or the journal cannot be written. Remove what was made and
    /// return the error: `?` does.
    pub fn record(&self, id: &str) -> Result<(), RecordError> {
        self.controls.record(id)
    }

    /// The means to attach an agent that lives in this process. It can be kept and used after the start has returned.
    pub fn attacher(&self) -> Attacher {
        self.controls.attacher()
    }
}

impl fmt::Debug for StartRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartRequest").field("identity", self.identity).field("build", &self.build).finish()
    }
}

/// What a driver is told when it is to stop an instance. It owns the instance, so that there is no second stop.
#[must_use = "the instance is gone when this is dropped: stop it"]
pub struct StopRequest<I> {
    pub(crate) identity: AttemptIdentity,
    pub(crate) instance: Option<I>,
    pub(crate) controls: Arc<dyn CallControls>,
}

impl<I> StopRequest<I> {
    /// The instance; `None` when the start did not return one. Even then the start may have left something behind that
    /// is known by its [`key`](StopRequest::key).
    pub fn instance(&self) -> Option<&I> {
        self.instance.as_ref()
    }

    /// Takes the instance out; what else is known stays.
    pub fn take_instance(&mut self) -> Option<I> {
        self.instance.take()
    }

    /// The instance alone.
    pub fn into_instance(self) -> Option<I> {
        self.instance
    }

    /// The same request about something else: for a driver that wraps another one and its instances.
    pub fn map<J>(self, instance: impl FnOnce(I) -> J) -> StopRequest<J> {
        StopRequest { identity: self.identity, instance: self.instance.map(instance), controls: self.controls }
    }

    /// Returns whether to skip all grace now: somebody waits for the end. Does not block.
    ///
    /// A graceful stop becomes a fast one when somebody asks for that while it is in flight: with
    /// [`Worker::insubstantiate`](crate::Worker::insubstantiate), with a fast
    /// [shutdown](crate::Master::shutdown), or by dropping the master. It never becomes graceful again.
    pub fn fast(&self) -> bool {
        matches!(self.hurry_signal().try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// A channel that never carries anything and is disconnected when the stop is, or becomes, a fast one: for
    /// `select!`. A clone of it may be kept, and is disconnected at the latest when the stop has returned.
    pub fn hurry_signal(&self) -> &Receiver<Infallible> {
        self.controls.cancel_signal()
    }

    /// Blocks for this time, on the clock of the master, and ends early with an error when the stop is, or becomes, a
    /// fast one. Whatever gives an instance time to end by itself goes through this.
    ///
    /// # Errors
    /// [`Hurried`]. It is no failure of the stop: end the instance at once, and do not return the error.
    pub fn sleep(&self, duration: Duration) -> Result<(), Hurried> {
        self.controls.sleep(duration).map_err(|Cancelled| Hurried)
    }

    /// The name of the worker.
    pub fn worker(&self) -> &str {
        &self.identity.worker
    }

    /// The attempt that started it.
    pub fn epoch(&self) -> Epoch {
        self.identity.epoch
    }

    /// The key of the attempt that started it; see [`StartRequest::key`].
    pub fn key(&self) -> &str {
        &self.identity.key
    }

    /// Whose it is; see [`StartRequest::owner`].
    pub fn owner(&self) -> &str {
        &self.identity.owner
    }
}

impl<I> fmt::Debug for StopRequest<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopRequest")
            .field("identity", &self.identity)
            .field("instance", &self.instance.is_some())
            .field("fast", &self.fast())
            .finish()
    }
}

/// An instance that runs, and what a person wants to know about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Started<I> {
    pub(crate) instance: I,
    pub(crate) details: Vec<String>,
}

impl<I> Started<I> {
    /// An instance without details.
    pub fn new(instance: I) -> Self {
        Self { instance, details: Vec::new() }
    }

    /// Adds a short string (an id, an address, a zone) for the "substantiate success" event and message.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Something else in the place of the instance, with the same details: for a driver that wraps another one.
    pub fn map<J>(self, instance: impl FnOnce(I) -> J) -> Started<J> {
        Started { instance: instance(self.instance), details: self.details }
    }
}

/// Which builds an instance can serve: builds of one kind can use each other's instances.
///
/// ```
/// use latent_worker::Kind;
///
/// assert_eq!(Kind::new("rust:1.89 memory=2G"), Kind::new("rust:1.89 memory=2G"));
/// assert_ne!(Kind::new("rust:1.89"), Kind::new("rust:1.90"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Kind(Option<Arc<str>>);

impl Kind {
    /// The kind of this name. Two kinds with the same name are the same kind.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Some(name.into()))
    }

    /// Every set of properties is a kind of its own. This is what [`LatentWorker::kind`] returns by default.
    pub fn by_properties() -> Self {
        Self(None)
    }

    /// The name; `None` when the properties make the kind.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }
}

/// What [`LatentWorker::check_instance`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Health {
    /// Nothing wrong with it.
    Good,
    /// It will never attach: it exited, crashed, or is in error. Or it has attached, and is about to be terminated. The
    /// message becomes the reason.
    Bad(String),
}

impl Health {
    /// Returns [`Health::Bad`] with this reason.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self::Bad(reason.into())
    }
}

/// A random secret. It is never printed: `Debug` shows dots, and there is no `Display`.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// A secret that was made elsewhere, for an `AgentClient` say.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The secret itself; that of an attempt is 64 hexadecimal digits (256 bits).
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that depends on the length alone.
    ///
    /// These lines stand in for a crate because the core has a limit of crates; `black_box` keeps the optimiser from
    /// ending the fold early.
    pub(crate) fn matches(&self, other: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.as_bytes());
        ours.len() == theirs.len()
            && ours.iter().zip(theirs).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b))) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The means to attach an agent that lives in the master's own process to the attempt that it was made for.
#[derive(Clone)]
pub struct Attacher {
    pub(crate) point: Arc<dyn AttachPoint>,
    pub(crate) worker: Arc<str>,
    pub(crate) secret: Secret,
}

/// Where agents are let in.
pub(crate) trait AttachPoint: Send + Sync {
    fn attach(&self, worker: &str, secret: &str, agent: Arc<dyn Agent>) -> Result<Attachment, AttachError>;

    /// Whether an agent of this name and secret would be let in now. A refusal counts as that of an attach; otherwise
    /// nothing changes, so that an attach may still be refused later.
    #[cfg(feature = "agent")]
    fn knock(&self, worker: &str, secret: &str) -> Result<(), AttachError>;

    /// Returns the approximate number of instances, with and without an attached agent.
    #[cfg(feature = "agent")]
    fn instances(&self) -> usize;
}

impl Attacher {
    /// Attaches the agent: from now on builds may use it. Does not block.
    ///
    /// Refused when the attempt has ended or was cancelled, or when its agent is attached already.
    pub fn attach(&self, agent: impl Agent) -> Result<Attachment, AttachError> {
        self.point.attach(&self.worker, self.secret.expose(), Arc::new(agent))
    }
}

impl fmt::Debug for Attacher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attacher").field("worker", &self.worker).finish_non_exhaustive()
    }
}

/// The agent's side of being attached. Dropping it says that the connection is gone: the lease that uses the agent ends
/// as lost and the instance is stopped. Keep it as long as the agent is there, for example within the instance.
#[must_use = "the agent is detached when this is dropped"]
pub struct Attachment {
    pub(crate) detach: Option<Detach>,
}

/// What is done with the reason when the agent is gone.
pub(crate) type Detach = Box<dyn FnOnce(&str) + Send + Sync>;

impl Attachment {
    /// Detaches with a reason for people.
    pub fn lost(mut self, reason: &str) {
        self.end(reason);
    }

    fn end(&mut self, reason: &str) {
        if let Some(detach) = self.detach.take() {
            detach(reason);
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.end("the agent is gone");
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").finish_non_exhaustive()
    }
}

/// When an attached instance without work is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[doc(alias = "build_wait_timeout")]
#[doc(alias = "idle timeout")]
#[doc(alias = "scale down")]
#[non_exhaustive]
pub enum IdlePolicy {
    /// As soon as no build uses it after its first one. With one place ([`WorkerConfig::with_max_builds`]) every build has
    /// a fresh instance. An instance that has had no build waits [`DEFAULT_IDLE_TIMEOUT`] for its first one.
    AfterBuild,
    /// After this long without work, also when it never had any.
    After(Duration),
    /// Not because it is idle, but on request, when it fails, at shutdown, and to make room for an instance of another kind.
    /// Its agent may re-attach after a lost connection, within `missing_timeout`; while a build waits, within
    /// [`PlacementConfig::with_reattach_timeout`](crate::PlacementConfig::with_reattach_timeout).
    Never,
}

/// How long an idle instance is kept by default: 10 minutes, as in Buildbot.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

impl Default for IdlePolicy {
    fn default() -> Self {
        Self::After(DEFAULT_IDLE_TIMEOUT)
    }
}

/// How one worker is known and how patient it is.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::{IdlePolicy, WorkerConfig};
///
/// let config = WorkerConfig::new("builder-1")
///     .with_label("linux")
///     .with_idle(IdlePolicy::After(Duration::from_secs(60)))
///     .with_missing_timeout(Duration::from_secs(300));
/// assert_eq!(config.name(), "builder-1");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerConfig {
    pub(crate) name: Arc<str>,
    pub(crate) labels: Labels,
    pub(crate) limits: Limits,
}

/// What bounds a worker's life; the durations and the count of a [`WorkerConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Limits {
    pub(crate) max_builds: NonZeroUsize,
    pub(crate) idle: IdlePolicy,
    pub(crate) missing_timeout: Duration,
    pub(crate) check_instance_interval: Duration,
    pub(crate) quarantine: QuarantineLengths,
    pub(crate) proof_time: Duration,
}

/// How long a worker is left alone after failures.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct QuarantineLengths {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Default for QuarantineLengths {
    /// As in Buildbot.
    fn default() -> Self {
        Self { first: Duration::from_secs(10), longest: Duration::from_secs(3600) }
    }
}

impl WorkerConfig {
    /// A worker without labels and with Buildbot's defaults: one build at a time, stopped after 600 s without work,
    /// 3600 s until the agent must have attached, a check every 10 s until then.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            labels: Labels::default(),
            limits: Limits {
                max_builds: NonZeroUsize::MIN,
                idle: IdlePolicy::default(),
                missing_timeout: Duration::from_secs(3600),
                check_instance_interval: Duration::from_secs(10),
                quarantine: QuarantineLengths::default(),
                proof_time: Duration::from_secs(1),
            },
        }
    }

    /// Sets how long the worker starts nothing after a failure. The length doubles with each further failure, up to
    /// `longest`, and is shortened at random by up to a quarter; a build that finishes resets it. A hint of the provider
    /// ([`FailureCause::Throttled`](crate::FailureCause::Throttled)) may make it longer.
    ///
    /// 10 s and 1 h by default, as in Buildbot.
    #[must_use]
    pub fn with_quarantine(mut self, first: Duration, longest: Duration) -> Self {
        self.limits.quarantine = QuarantineLengths { first, longest };
        self
    }

    /// Sets for how long a build must run on an instance to prove that it works. An instance that loses its agent before
    /// that, and before a build has finished on it, counts as a failed start.
    ///
    /// 1 s by default.
    #[must_use]
    pub fn with_proof_time(mut self, time: Duration) -> Self {
        self.limits.proof_time = time;
        self
    }

    /// The name; unique within a master.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Offers `label`; every call adds one. The worker is not reserved by that: it takes builds that need no label as well,
    /// though those go to workers with fewer labels first.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.labels.insert(label);
        self
    }

    /// Offers exactly these labels.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// How many builds may use the instance at once. The default is 1.
    #[must_use]
    pub fn with_max_builds(mut self, builds: NonZeroUsize) -> Self {
        self.limits.max_builds = builds;
        self
    }

    /// When an idle instance is stopped. The default is after 600 s.
    #[must_use]
    pub fn with_idle(mut self, policy: IdlePolicy) -> Self {
        self.limits.idle = policy;
        self
    }

    /// How long the agent may take to attach, from the request on, whatever the start is doing. The default is 3600 s.
    #[must_use]
    pub fn with_missing_timeout(mut self, timeout: Duration) -> Self {
        self.limits.missing_timeout = timeout;
        self
    }

    /// The time between two checks of an instance that has not attached yet; at least 1 ms. The default is 10 s.
    #[must_use]
    pub fn with_check_instance_interval(mut self, interval: Duration) -> Self {
        self.limits.check_instance_interval = interval.max(Duration::from_millis(1));
        self
    }
}
