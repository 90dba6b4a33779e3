//! How builds are placed, as far as it can be set.

use std::num::NonZeroU32;
use std::time::Duration;

/// How builds are placed on workers; see [`MasterBuilder::placement`](crate::MasterBuilder::placement).
///
/// ```
/// use std::time::Duration;
/// use latent_worker::PlacementConfig;
///
/// // Strict order: an older build never waits for a younger one of another kind.
/// let strict = PlacementConfig::new().with_patience(0.0).with_minimum_patience(Duration::ZERO);
/// assert_ne!(strict, PlacementConfig::default());
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct PlacementConfig {
    pub(crate) patience: f64,
    pub(crate) minimum_patience: Duration,
    pub(crate) ageing: Option<Duration>,
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
    pub(crate) max_attempts: NonZeroU32,
    pub(crate) claim_timeout: Duration,
    pub(crate) reattach_timeout: Duration,
    pub(crate) driver_pause: (Duration, Duration),
    pub(crate) overdue: Overdue,
    /// Of expected starts.
    pub(crate) horizon: f64,
    /// Of expected builds.
    pub(crate) stalled: f64,
    pub(crate) crowding: Crowding,
    pub(crate) suspicion: Suspicion,
}

/// When a kind has so many builds that it does not wait for its patience.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Crowding {
    /// Its builds would keep one more instance than it has busy for so many expected starts.
    pub(crate) starts: f64,
    /// It gets the place of a kind whose other instances are busy for less than this part of that.
    pub(crate) part: f64,
}

/// When failures are the fault of a build, a kind or a driver.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Suspicion {
    /// As many workers have failed, and of a kind as many builds.
    pub(crate) failures: usize,
    /// An instance that has been attached for so long proves that its kind and its driver work.
    pub(crate) proof: Duration,
}

/// When a call of a driver takes too long.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Overdue {
    /// A multiple of the expected duration.
    pub(crate) times: f64,
    pub(crate) at_least: Duration,
    /// Where nothing is known of the duration; not of a start.
    pub(crate) unknown: Duration,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            patience: 6.0,
            minimum_patience: Duration::from_secs(1),
            ageing: None,
            first_pause: Self::RETRY_PAUSE,
            longest_pause: Self::LONGEST_RETRY_PAUSE,
            max_attempts: const { NonZeroU32::new(10).unwrap() },
            claim_timeout: Duration::from_secs(3600),
            reattach_timeout: Duration::from_secs(60),
            driver_pause: (Duration::from_secs(10), Duration::from_secs(3600)),
            overdue: Overdue { times: 4.0, at_least: Duration::from_secs(30), unknown: Duration::from_secs(60) },
            horizon: 1.5,
            stalled: 8.0,
            crowding: Crowding { starts: 40.0, part: 1.0 / 3.0 },
            suspicion: Suspicion { failures: 2, proof: Duration::from_secs(1) },
        }
    }
}

impl PlacementConfig {
    /// The pause after the first failed attempt unless [set](PlacementConfig::with_retry_pause).
    pub const RETRY_PAUSE: Duration = Duration::from_secs(1);
    /// The longest pause unless [set](PlacementConfig::with_retry_pause).
    pub const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(300);

    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets for how long an older build lets younger builds of another kind use the instances that are up, as a multiple
    /// of the expected duration of a start. Then it gets the next place that becomes free: an unused instance is
    /// replaced, one with several places is drained. A greater patience means fewer starts and longer waits of some
    /// builds. A build of higher priority needs no patience.
    ///
    /// 6 by default. Negative values and NaN count as 0.
    #[must_use]
    pub fn with_patience(mut self, starts: f64) -> Self {
        // The maximum of NaN and 0 is 0.
        self.patience = starts.max(0.0);
        self
    }

    /// Sets the lower bound of the patience; 1 s by default.
    #[must_use]
    pub fn with_minimum_patience(mut self, time: Duration) -> Self {
        self.minimum_patience = time;
        self
    }

    /// Lets old builds overtake younger ones of higher priority: a build that was submitted `per_priority` earlier than
    /// another one counts as if its priority were higher by 1. Zero counts as 1 ms. Without ageing by default.
    #[must_use]
    pub fn with_ageing(mut self, per_priority: Duration) -> Self {
        self.ageing = Some(per_priority.max(Duration::from_millis(1)));
        self
    }

    /// Sets the pause of a build after its first failed attempt, and the longest pause. It doubles with each further
    /// attempt, and is shortened at random by up to a quarter. The pauses of a kind whose starts keep failing have the
    /// same lengths.
    ///
    /// 1 s and 5 min by default.
    #[must_use]
    pub fn with_retry_pause(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }

    /// Sets the number of attempts for builds without [`Build::with_max_attempts`](crate::Build::with_max_attempts); 10
    /// by default.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets for how long a lease may wait to be taken out of its ticket or inbox. Then it is given back, and its build ends
    /// as [`BuildResult::Abandoned`](crate::BuildResult::Abandoned).
    ///
    /// 1 h by default.
    #[must_use]
    pub fn with_claim_timeout(mut self, time: Duration) -> Self {
        self.claim_timeout = time;
        self
    }

    /// Sets for how long the agent of an instance under [`IdlePolicy::Never`](crate::IdlePolicy::Never) may be gone while a
    /// build waits. Then the instance is replaced.
    ///
    /// 60 s by default.
    #[must_use]
    pub fn with_reattach_timeout(mut self, time: Duration) -> Self {
        self.reattach_timeout = time;
        self
    }

    /// Sets for how long nothing is started with a driver value after its starts have failed on two workers and none has
    /// succeeded. Then one instance is tried at a time. The pause doubles with each further failure, up to `longest`,
    /// and is shortened at random by up to a quarter.
    ///
    /// 10 s and 1 h by default, as the quarantine of a worker.
    #[must_use]
    pub fn with_driver_pause(mut self, first: Duration, longest: Duration) -> Self {
        self.driver_pause = (first, longest);
        self
    }

    /// Sets when a call of a driver is overdue: after `times` its expected duration, and after `at_least` at the soonest. A
    /// call of which nothing has been learned is overdue after `unknown`, and a start after a tenth of the worker's
    /// [`missing_timeout`](crate::WorkerConfig::with_missing_timeout). Builds do not wait for a worker with an overdue
    /// call if another one fits, and one further start may be made beside an overdue one.
    ///
    /// 4.0, 30 s and 60 s by default. Negative values and NaN count as 0.
    #[must_use]
    pub fn with_overdue(mut self, times: f64, at_least: Duration, unknown: Duration) -> Self {
        self.overdue = Overdue { times: times.max(0.0), at_least, unknown };
        self
    }

    /// Sets when a build waits for a busy instance of its kind instead of a start: when that is expected to become free
    /// within `starts` times the expected duration of a start. With 0, each build that waits causes a start. When no place
    /// has become free in that time, nor in `builds` times the time in which the next of the running builds should have
    /// ended, none is expected any more, and an instance is started.
    ///
    /// 1.5 and 8.0 by default. Negative values and NaN count as 0.
    #[must_use]
    pub fn with_horizon(mut self, starts: f64, builds: f64) -> Self {
        self.horizon = starts.max(0.0);
        self.stalled = builds.max(0.0);
        self
    }

    /// Sets when a kind is crowded: when its waiting builds would keep one more instance than it has busy for `starts` times
    /// the expected duration of a start. Then it does not need patience to get the next place of a kind whose builds would
    /// keep the other instances of that kind busy for less than `part` of that time.
    ///
    /// 40.0 and a third by default. Negative values and NaN count as 0; an infinite `starts` turns the rule off.
    #[must_use]
    pub fn with_crowding(mut self, starts: f64, part: f64) -> Self {
        self.crowding = Crowding { starts: starts.max(0.0), part: part.max(0.0) };
        self
    }

    /// Sets on how many workers a build has to fail, and of a kind also how many builds, until that and not the workers is
    /// to blame; and the starts of a driver until that pauses. `proof`: for how long an instance has to stay attached to
    /// prove that its driver and its kind work.
    ///
    /// 2 and 1 s by default.
    #[must_use]
    pub fn with_suspicion(mut self, failures: NonZeroU32, proof: Duration) -> Self {
        self.suspicion = Suspicion { failures: failures.get() as usize, proof };
        self
    }

    /// The pause after this many failures in a row, at least 1. `chance`: between 0 and 1.
    pub(super) fn pause(&self, failures: u32, chance: f64) -> Duration {
        spread(doubled(self.first_pause, self.longest_pause, failures), chance)
    }
}

/// `first`, doubled with each failure after the first one.
pub(super) fn doubled(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    first.saturating_mul(1 << doublings).min(longest)
}

/// No pause is longer than a year, which every clock can add.
const FARTHEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Between three quarters and all of `time`, so that what failed together does not come back together.
pub(super) fn spread(time: Duration, chance: f64) -> Duration {
    time.min(FARTHEST).mul_f64(0.75 + chance.clamp(0.0, 1.0) / 4.0)
}
