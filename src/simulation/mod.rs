//! "What would my farm do with this workload?", answered without a farm.
//!
//! A [`Simulation`] runs the real queue and the real lives of workers, those that a [`Master`](crate::Master) has, on
//! virtual time: the drivers' calls and the builds take as long as [`Distribution`]s say, and weeks pass in a second.
//! It decides nothing itself. The result depends on nothing but the simulation and its seed.
//!
//! A hundred builds of two images arrive at once, and four workers have to do them:
//!
//! ```
//! use std::time::Duration;
//! use latent_worker::simulation::{Distribution, Job, Pool, Simulation};
//! use latent_worker::{Build, IdlePolicy, WorkerConfig};
//!
//! let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
//! let config = WorkerConfig::new("builder").with_idle(IdlePolicy::After(minutes(10)));
//! let pool = Pool::new(config, 4)
//!     .with_start(Distribution::uniform(minutes(1), minutes(2)))
//!     .with_failing_starts(0.05);
//! let jobs = (0..100).map(|number| {
//!     let image = if number % 3 == 0 { "rust:1.89" } else { "python:3.13" };
//!     Job::new(Duration::ZERO, Build::new("test").with_property("image", image), minutes(5))
//! });
//! let report = Simulation::new().with_pool(pool).with_jobs(jobs).with_seed(7).run();
//!
//! println!("{report}");
//! assert_eq!(report.finished, 100);
//! assert!(report.starts < 15, "{report}");
//! assert!(report.makespan < minutes(150), "{report}");
//! ```
//!
//! [`Simulation::observed`] calls a function with the same [`Event`]s that a master tells its observers.

mod pool;
mod random;
mod report;
mod run;
mod worker;
mod workload;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use pool::Pool;
pub use report::{Report, Waits};
pub use run::Run;
pub use workload::{Distribution, Job};

use crate::event::Event;
use crate::placement::PlacementConfig;

/// A farm and its workload, to be simulated.
#[derive(Clone, Debug, Default)]
pub struct Simulation {
    pools: Vec<Pool>,
    jobs: Vec<Job>,
    seed: u64,
    placement: PlacementConfig,
    end: Option<Duration>,
}

impl Simulation {
    /// A simulation without workers and builds, with the seed 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pool; pools that are added first have the first workers.
    #[must_use]
    pub fn with_pool(mut self, pool: Pool) -> Self {
        self.pools.push(pool);
        self
    }

    /// Adds builds. Builds that arrive at the same time arrive in the order in which they are added.
    #[must_use]
    pub fn with_jobs(mut self, jobs: impl IntoIterator<Item = Job>) -> Self {
        self.jobs.extend(jobs);
        self
    }

    /// Sets the seed of the random numbers. The default is 0.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets how builds are placed. The default is that of a master.
    #[must_use]
    pub fn with_placement(mut self, placement: PlacementConfig) -> Self {
        self.placement = placement;
        self
    }

    /// Ends the simulation after this time. By default it ends with its last build.
    #[must_use]
    pub fn with_end(mut self, end: Duration) -> Self {
        self.end = Some(end);
        self
    }

    /// Runs the simulation to its end.
    pub fn run(self) -> Report {
        let mut run = self.begin();
        while run.step().is_some() {}
        run.report()
    }

    /// Runs the simulation to its end and calls `observer` with every event, in order, on this thread.
    pub fn observed(self, observer: impl FnMut(Event) + Send + 'static) -> Report {
        let mut run = Run::new(self, Some(Box::new(observer)));
        while run.step().is_some() {}
        run.report()
    }

    /// Begins the simulation, to be run step by step.
    pub fn begin(self) -> Run {
        Run::new(self, None)
    }
}
