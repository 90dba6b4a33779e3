//! Workers as a simulation plays them: how long their drivers' calls take, and how they fail.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::workload::Distribution;
use crate::build::Properties;
use crate::error::BoxError;
use crate::worker::{Kind, WorkerConfig};

/// Which builds an instance serves.
#[derive(Clone)]
pub(super) enum Serves {
    Everything,
    Kinds(Arc<KindOf>),
    Asked(Arc<Compatible>),
}

type KindOf = dyn Fn(&Properties) -> Result<Kind, BoxError> + Send + Sync;
type Compatible = dyn Fn(&Properties, &Properties) -> bool + Send + Sync;

/// Workers with one configuration and one driver, as a simulation plays them.
///
/// By default a start takes 60 s, a stop 2 s, nothing fails, and an instance serves builds with the same properties as
/// the one that it was started for.
#[derive(Clone)]
pub struct Pool {
    pub(super) config: WorkerConfig,
    pub(super) workers: usize,
    pub(super) serves: Serves,
    pub(super) start: Distribution,
    pub(super) attach: Distribution,
    pub(super) stop: Distribution,
    pub(super) cancel: Distribution,
    pub(super) failing_starts: f64,
    pub(super) failing_stops: f64,
    pub(super) lost_after: Option<Distribution>,
}

impl Pool {
    /// `workers` workers with this configuration. They are named after it, with numbers from 1 if there are several.
    pub fn new(config: WorkerConfig, workers: usize) -> Self {
        let at_once = Distribution::fixed(Duration::ZERO);
        Self {
            config,
            workers,
            serves: Serves::Kinds(Arc::new(|properties| Ok(Kind::new(properties.to_string())))),
            start: Distribution::fixed(Duration::from_secs(60)),
            attach: at_once.clone(),
            stop: Distribution::fixed(Duration::from_secs(2)),
            cancel: at_once,
            failing_starts: 0.0,
            failing_stops: 0.0,
            lost_after: None,
        }
    }

    /// An instance serves every build.
    #[must_use]
    pub fn with_one_kind(mut self) -> Self {
        self.serves = Serves::Everything;
        self
    }

    /// An instance serves the builds of the kind that it was started for; as
    /// [`LatentWorker::kind`](crate::LatentWorker::kind), with the same meaning of an error.
    #[must_use]
    pub fn with_kinds(mut self, kind: impl Fn(&Properties) -> Result<Kind, BoxError> + Send + Sync + 'static) -> Self {
        self.serves = Serves::Kinds(Arc::new(kind));
        self
    }

    /// The driver is asked whether an instance, given by the properties that it was started for, serves a build, given
    /// by its properties; as [`LatentWorker::is_compatible_with_build`](crate::LatentWorker::is_compatible_with_build).
    #[must_use]
    pub fn with_compatibility(
        mut self,
        compatible: impl Fn(&Properties, &Properties) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.serves = Serves::Asked(Arc::new(compatible));
        self
    }

    /// How long `start_instance` takes. The default is always 60 s.
    #[must_use]
    pub fn with_start(mut self, start: Distribution) -> Self {
        self.start = start;
        self
    }

    /// How long the agent takes to attach after the start has returned. The default is no time at all.
    #[must_use]
    pub fn with_attach(mut self, attach: Distribution) -> Self {
        self.attach = attach;
        self
    }

    /// How long `stop_instance` takes. The default is always 2 s.
    #[must_use]
    pub fn with_stop(mut self, stop: Distribution) -> Self {
        self.stop = stop;
        self
    }

    /// How long a start goes on after it was cancelled. The default is no time at all.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Distribution) -> Self {
        self.cancel = cancel;
        self
    }

    /// The probability (0 to 1) that a start fails after it has taken its time. The default is 0.
    #[must_use]
    pub fn with_failing_starts(mut self, probability: f64) -> Self {
        self.failing_starts = probability;
        self
    }

    /// The probability (0 to 1) that a stop fails after it has taken its time. The default is 0.
    #[must_use]
    pub fn with_failing_stops(mut self, probability: f64) -> Self {
        self.failing_stops = probability;
        self
    }

    /// How long after its attach the connection to an agent is lost. The default is never. A build that runs is
    /// submitted again by its owner, as with [`Lease::retry`](crate::Lease::retry), and runs for its whole duration.
    #[must_use]
    pub fn with_lost_agents(mut self, after: Distribution) -> Self {
        self.lost_after = Some(after);
        self
    }

    pub(super) fn name(&self, number: usize) -> Arc<str> {
        if self.workers == 1 { self.config.name.clone() } else { format!("{}-{}", self.config.name, number + 1).into() }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("config", &self.config).field("workers", &self.workers).finish_non_exhaustive()
    }
}
