//! What a driver's author tells the kit: how to make a driver, and by what means its provider can be seen and disturbed.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::observed::{AnyDriver, Observable};
use super::report::Report;
use super::run;
use crate::{Build, LatentWorker};

/// What the network or the provider does to a driver, as contract D6 has it; see [`Subject::fault`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// A call that creates something succeeds, and the driver gets an error or no answer.
    ErrorAfterCreate,
    /// A call that removes something succeeds, and the driver gets an error or no answer.
    ErrorAfterRemove,
    /// A start takes longer than [`Subject::cancel_within`]: a minute, say. The kit takes the fault away when it has
    /// seen enough.
    SlowStart,
    /// What was created is not in any listing yet, and what was removed still is.
    LaggingList,
    /// Too many requests: every call is refused as the provider does it (429 with `Retry-After`, say).
    Throttled,
    /// Every call fails: the provider is down.
    Unavailable,
    /// What a start creates is gone again before the start has returned.
    Vanishes,
}

/// A fault that is in force for as long as this lives.
pub struct Injection {
    met: Option<Box<dyn Fn() -> u64 + Send>>,
    _guard: Box<dyn Any + Send>,
}

impl Injection {
    /// In force until `guard` is dropped.
    pub fn new(guard: impl Send + 'static) -> Self {
        Self { met: None, _guard: Box::new(guard) }
    }

    /// How often the fault was met so far: one that was never met proves nothing, and its check counts as not tried.
    #[must_use]
    pub fn counted(self, met: impl Fn() -> u64 + Send + 'static) -> Self {
        Self { met: Some(Box::new(met)), ..self }
    }

    /// `None` when nobody counts.
    pub(super) fn met(&self) -> Option<u64> {
        self.met.as_ref().map(|met| met())
    }
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injection").finish_non_exhaustive()
    }
}

/// A driver to be examined, and the means to do that; see the [module](super) for a whole one.
///
/// All closures are called on threads of the kit, one at a time, and may block for a while. A panic in one of them is a
/// broken check.
#[must_use = "nothing is examined before run is called"]
pub struct Subject<W: LatentWorker> {
    make: Box<dyn Fn() -> W + Send + Sync>,
    show_driver: Option<Show<W>>,
    show_instance: Option<Show<W::Instance>>,
    means: Means,
}

/// What `Debug` says about a driver or an instance.
pub(super) type Show<I> = Arc<dyn Fn(&I) -> String + Send + Sync>;

type Destroy = Box<dyn Fn(&str) + Send + Sync>;

type MakeFault = Box<dyn Fn() -> Injection + Send + Sync>;

/// All of a subject but the type of its driver.
pub(super) struct Means {
    pub(super) name: String,
    pub(super) list: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    pub(super) destroy: Option<Destroy>,
    pub(super) attaches_by_itself: bool,
    pub(super) build: Build,
    pub(super) failing: Option<Build>,
    pub(super) impossible: Option<Build>,
    pub(super) dying: Option<Build>,
    pub(super) silent: Option<Build>,
    pub(super) incompatible: Option<Build>,
    pub(super) stubborn: Option<Build>,
    pub(super) faults: BTreeMap<Fault, MakeFault>,
    pub(super) patience: Duration,
    pub(super) settle: Duration,
    pub(super) cancel_within: Duration,
    pub(super) only: Option<String>,
}

impl<W: LatentWorker> Subject<W> {
    /// With a name for the report, what makes a driver, and what lists all that its provider has at this moment: names
    /// of containers, directories, machines.
    ///
    /// Every check has a driver of its own, some have several, and they must all see the same provider: a driver that
    /// comes after a crash is a new one. Nothing that matters may live in the driver alone.
    ///
    /// The list is the provider's own truth. It must not go through the driver, and no [fault](Subject::fault) may
    /// touch it. It may hold what belongs to others; but whatever *appears* while the kit runs must be that of the
    /// drivers that the kit made, so filter by a label or a directory of this test's own.
    pub fn new(
        name: impl Into<String>,
        make: impl Fn() -> W + Send + Sync + 'static,
        list: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        let means = Means {
            name: name.into(),
            list: Box::new(list),
            destroy: None,
            attaches_by_itself: false,
            build: Build::new("conformance"),
            failing: None,
            impossible: None,
            dying: None,
            silent: None,
            incompatible: None,
            stubborn: None,
            faults: BTreeMap::new(),
            patience: Duration::from_secs(60),
            settle: Duration::from_secs(5),
            cancel_within: Duration::from_secs(10),
            only: None,
        };
        Self { make: Box::new(make), show_driver: None, show_instance: None, means }
    }

    fn with(mut self, change: impl FnOnce(&mut Means)) -> Self {
        change(&mut self.means);
        self
    }

    /// Removes one of the listed things behind the driver's back, and returns when it is gone. It is gone already when
    /// an earlier call has taken it along.
    pub fn destroy(self, destroy: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.with(|means| means.destroy = Some(Box::new(destroy)))
    }

    /// The agent of an instance attaches without the kit: the driver does it, through
    /// [`StartRequest::attacher`](crate::StartRequest::attacher). By default the kit attaches an agent that does nothing,
    /// with the secret of the attempt, as soon as the start has returned.
    pub fn attaches_by_itself(self) -> Self {
        self.with(|means| means.attaches_by_itself = true)
    }

    /// The build that instances are started for; one without properties by default.
    pub fn build(self, build: Build) -> Self {
        self.with(|means| means.build = build)
    }

    /// A build whose start fails after something was made, if that can be arranged: by a property, say.
    pub fn failing(self, build: Build) -> Self {
        self.with(|means| means.failing = Some(build))
    }

    /// A build that asks for what can never be, so that its start fails with
    /// [`StartError::CannotSubstantiate`](crate::StartError::CannotSubstantiate).
    pub fn impossible(self, build: Build) -> Self {
        self.with(|means| means.impossible = Some(build))
    }

    /// A build whose instance starts, and ends by itself before its agent attaches.
    pub fn dying(self, build: Build) -> Self {
        self.with(|means| means.dying = Some(build))
    }

    /// For a driver whose agents [attach by themselves](Subject::attaches_by_itself): a build whose instance runs and
    /// whose agent never comes.
    pub fn silent(self, build: Build) -> Self {
        self.with(|means| means.silent = Some(build))
    }

    /// A build that can be run, but not on an instance that was started for [`build`](Subject::build).
    pub fn incompatible(self, build: Build) -> Self {
        self.with(|means| means.incompatible = Some(build))
    }

    /// A build whose instance takes long to stop when nobody is in a hurry: longer than
    /// [`cancel_within`](Subject::cancel_within), at best. By default the check of a hurried stop uses
    /// [`build`](Subject::build), whose stop may be over before it can be hurried.
    pub fn stubborn(self, build: Build) -> Self {
        self.with(|means| means.stubborn = Some(build))
    }

    /// A fault, and how to have it: the closure puts it in force and returns what keeps it there. With
    /// [`FaultyHttp`](crate::testing::FaultyHttp) that is one rule.
    pub fn fault<I: Into<Injection>>(self, fault: Fault, inject: impl Fn() -> I + Send + Sync + 'static) -> Self {
        self.with(|means| {
            means.faults.insert(fault, Box::new(move || inject().into()));
        })
    }

    /// What `Debug` says about the driver, so that it is looked through for secrets: `|driver| format!("{driver:?}")`.
    pub fn debug_driver(mut self, show: impl Fn(&W) -> String + Send + Sync + 'static) -> Self {
        self.show_driver = Some(Arc::new(show));
        self
    }

    /// The same of an instance.
    pub fn debug_instance(mut self, show: impl Fn(&W::Instance) -> String + Send + Sync + 'static) -> Self {
        self.show_instance = Some(Arc::new(show));
        self
    }

    /// How long any single thing may take (a start, a stop, a bad check, a reclaim) before it counts as hanging; 60 s by
    /// default. A driver that does all it should is never waited for that long.
    pub fn patience(self, patience: Duration) -> Self {
        self.with(|means| means.patience = patience)
    }

    /// How long something may be listed after its removal, and after which nothing may appear any more; 5 s by default.
    /// It is waited for once at the end, and for what is left behind.
    pub fn settle(self, settle: Duration) -> Self {
        self.with(|means| means.settle = settle)
    }

    /// How soon a start must return after it was cancelled, and a stop after it has become a fast one; 10 s by default.
    pub fn cancel_within(self, limit: Duration) -> Self {
        self.with(|means| means.cancel_within = limit)
    }

    /// Runs only those checks whose names contain `part`, to find out about one of them.
    pub fn only(self, part: impl Into<String>) -> Self {
        self.with(|means| means.only = Some(part.into()))
    }

    /// Runs all checks, one after the other, and blocks until the last one is done. Each has a thread of its own; one
    /// that a driver or a closure has hang for ever is left behind, and the next ones are tried.
    ///
    /// Journals of the kit are files in [`std::env::temp_dir`], gone with their check.
    ///
    /// # Panics
    /// When the system has no thread to give.
    pub fn run(self) -> Report {
        let Self { make, show_driver, show_instance, means } = self;
        let make = move || -> Box<dyn AnyDriver> {
            let (show_driver, show_instance) = (show_driver.clone(), show_instance.clone());
            Box::new(Observable { driver: Arc::new(make()), show_driver, show_instance })
        };
        run(Box::new(make), means)
    }
}

impl<W: LatentWorker> fmt::Debug for Subject<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("name", &self.means.name).finish_non_exhaustive()
    }
}
