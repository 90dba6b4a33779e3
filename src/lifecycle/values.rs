//! What goes into a lifecycle and what comes out of it, as plain values.

use std::sync::Arc;
use std::time::Instant;

use crate::build::{BuildId, Epoch};
use crate::error::{LeaseEnd, SubstantiateError};
use crate::event::{EventKind, StartFailure, StopCause};

/// A request to be told when the worker is attached; unique within the worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct RequestId(pub(crate) u64);

/// A lease; unique within the worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct LeaseId(pub(super) u64);

/// A connection that was accepted; unique within the worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ConnectionId(pub(super) u64);

/// What a worker could do with one more build.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub(crate) enum Standing {
    /// Nothing, for this reason.
    Closed(Closure),
    /// It would start an instance.
    Down,
    /// A start is under way, or follows the stop that is under way.
    Starting,
    /// The instance is being stopped.
    Stopping,
    /// The agent is attached. `open`: the instance takes builds.
    Attached { leases: usize, open: bool },
    /// The agent is gone since then, and may attach again.
    Detached { since: Instant },
}

/// Why a worker does nothing for builds.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub(crate) enum Closure {
    ShutDown,
    Paused,
    /// What an earlier attempt has left behind is in the way.
    LeftBehind,
    Quarantined,
}

/// What the worker does when an instance is up that may not suit the build.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub(crate) enum Fit {
    /// It always suits; the driver is never asked.
    Always,
    /// The driver is asked, and an instance that is incompatible refuses.
    Ask,
    /// The driver is asked again, and an unused instance that is still incompatible makes place for a new one.
    AskOrRecycle,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) want: Want,
    pub(crate) fit: Fit,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Want {
    /// A place of an instance that is up.
    Lease,
    /// An instance that is up.
    Instance,
    /// Whether the instance that is up fits.
    Answer,
}

/// What the queue calls a start for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Occasion {
    pub(crate) build: BuildId,
    /// The build or its kind has been found guilty already: a failure of this attempt says nothing about the worker.
    pub(crate) blameless: bool,
}

/// The good answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Grant {
    pub(crate) epoch: Epoch,
    pub(crate) lease: Option<LeaseId>,
}

pub(crate) type Answer = Result<Grant, SubstantiateError>;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Input {
    /// Somebody gives up a request.
    Cancel(RequestId),
    /// Somebody wants the instance stopped: after its builds, or at once when `fast`.
    Insubstantiate {
        fast: bool,
    },
    /// As before, and for ever.
    Shutdown {
        fast: bool,
    },
    /// The queue needs the place of the unused instance of this attempt for another one.
    Replace(Epoch),
    /// The instance of this attempt takes no more builds, for this cause.
    Drain(Epoch, StopCause),
    /// The holder of the lease has found that the instance is bad, for this reason: it takes no more builds.
    Retire {
        lease: LeaseId,
        reason: Arc<str>,
    },
    /// The worker is not to blame for the failure of the attempt of this epoch.
    Forgive(Epoch),
    Pause,
    Unpause,
    /// Nothing that earlier attempts have left behind is in the way any more.
    Reclaimed,
    /// The instance thread of this attempt runs and would call the start now.
    ThreadReady(Epoch, Option<Occasion>),
    /// There is no thread to be had for this attempt.
    NoThread(Epoch, Arc<str>),
    StartReturned(Epoch, Result<Vec<String>, StartFailure>),
    CheckReturned(Epoch, Result<(), Arc<str>>),
    CompatibleReturned(Epoch, Result<bool, Arc<str>>),
    StopReturned(Epoch, Result<(), Arc<str>>),
    Detach(ConnectionId, Arc<str>),
    /// A lease comes back; its build is finished, or wants another one.
    Release {
        lease: LeaseId,
        finished: bool,
    },
    /// The build of the queue has been cancelled: its lease has ended, and takes its place until it comes back.
    CancelLease(BuildId),
    /// Nobody has taken the lease of this build of the queue, which has ended like this.
    Abandon(BuildId, LeaseEnd),
    /// Time has passed: do what is due.
    Time,
}

/// What is to be done after a transition, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Make an instance thread; it reports [`Input::ThreadReady`].
    SpawnThread(Epoch),
    /// Nobody waits for the start in flight any more.
    CancelStart,
    CallStart,
    CallCheck,
    /// Ask the driver about the build of this request.
    CallCompatible(RequestId),
    CallStop {
        fast: bool,
    },
    /// The stop in flight has become a fast one.
    HurryStop,
    Answer(RequestId, Answer),
    /// All leases of this attempt are over.
    EndLeases(LeaseEnd),
    /// No instance of the attempts so far is left.
    Gone,
}

/// Something to tell observers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Occurrence {
    pub(crate) epoch: Epoch,
    pub(crate) build: Option<BuildId>,
    pub(crate) kind: EventKind,
}

/// What comes out of a transition.
#[derive(Default, Debug)]
pub(crate) struct Effects {
    pub(crate) orders: Vec<Effect>,
    /// Empty when nobody observes.
    pub(crate) occurrences: Vec<Occurrence>,
    pub(super) observed: bool,
}

impl Effects {
    pub(crate) fn new(observed: bool) -> Self {
        Self { observed, ..Self::default() }
    }

    /// Whether there is nothing to do and nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.occurrences.is_empty()
    }

    /// Tells observers something that happened beside the transition.
    pub(crate) fn tell(&mut self, epoch: Epoch, kind: EventKind) {
        if self.observed {
            self.occurrences.push(Occurrence { epoch, build: None, kind });
        }
    }
}
