//! What a farm has to do: builds that arrive, and how long things take.

use std::time::Duration;

use super::random::Random;
use crate::build::Build;

/// How long something takes: a value for each time that it happens.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::simulation::Distribution;
///
/// let start = Distribution::uniform(Duration::from_secs(40), Duration::from_secs(80));
/// // One start in a hundred hangs for an hour.
/// let start = start.or(0.01, Distribution::fixed(Duration::from_secs(3600)));
/// assert_eq!(start.mean(), Duration::from_millis(95_400));
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Distribution(Shape);

#[derive(Clone, PartialEq, Debug)]
enum Shape {
    Fixed(Duration),
    Uniform(Duration, Duration),
    Exponential(Duration),
    Mixed { probability: f64, often: Box<Shape>, seldom: Box<Shape> },
}

impl Distribution {
    /// Always the same duration.
    pub fn fixed(duration: Duration) -> Self {
        Self(Shape::Fixed(duration))
    }

    /// Each duration from `least` to `most` is equally likely.
    pub fn uniform(least: Duration, most: Duration) -> Self {
        Self(Shape::Uniform(least.min(most), most.max(least)))
    }

    /// Exponentially distributed: most are short, a few are several times as long as the mean.
    pub fn exponential(mean: Duration) -> Self {
        Self(Shape::Exponential(mean))
    }

    /// With this `probability` (0 to 1), a duration of `other`.
    #[must_use]
    pub fn or(self, probability: f64, other: Self) -> Self {
        Self(Shape::Mixed { probability, often: Box::new(self.0), seldom: Box::new(other.0) })
    }

    /// The mean of all durations.
    pub fn mean(&self) -> Duration {
        Duration::try_from_secs_f64(self.0.mean()).unwrap_or(Duration::MAX)
    }

    pub(super) fn sample(&self, random: &mut Random) -> Duration {
        self.0.sample(random)
    }
}

impl Shape {
    /// In seconds.
    fn mean(&self) -> f64 {
        match self {
            Self::Fixed(duration) | Self::Exponential(duration) => duration.as_secs_f64(),
            Self::Uniform(least, most) => (least.as_secs_f64() + most.as_secs_f64()) / 2.0,
            Self::Mixed { probability, often, seldom } => {
                often.mean() * (1.0 - probability) + seldom.mean() * probability
            }
        }
    }

    fn sample(&self, random: &mut Random) -> Duration {
        match self {
            Self::Fixed(duration) => *duration,
            Self::Uniform(least, most) => *least + (*most - *least).mul_f64(random.fraction()),
            Self::Exponential(mean) => {
                let times = -(1.0 - random.fraction()).ln();
                Duration::try_from_secs_f64(mean.as_secs_f64() * times).unwrap_or(Duration::MAX)
            }
            Self::Mixed { probability, often, seldom } => {
                if random.chance(*probability) {
                    seldom.sample(random)
                } else {
                    often.sample(random)
                }
            }
        }
    }
}

/// A build that arrives at some time and runs for some time.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    pub(super) arrival: Duration,
    pub(super) build: Build,
    pub(super) duration: Duration,
    pub(super) starts_fail: bool,
}

impl Job {
    /// A build that is submitted at `arrival`, counted from the beginning of the simulation, and keeps its place for
    /// `duration`. Its properties, labels, priority and limit of attempts count as in a real farm.
    pub fn new(arrival: Duration, build: Build, duration: Duration) -> Self {
        Self { arrival, build, duration, starts_fail: false }
    }

    /// Every start that is called for this build fails: its image does not exist, say.
    #[must_use]
    pub fn with_failing_starts(mut self) -> Self {
        self.starts_fail = true;
        self
    }
}
