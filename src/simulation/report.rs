//! What a simulation has found.

use std::fmt;
use std::time::Duration;

/// What happened in a simulation. Its `Display` is a small table.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Builds that were submitted.
    pub submitted: usize,
    /// Builds that have run to their end.
    pub finished: usize,
    /// Builds that ended with an error instead: no worker fits, or all attempts have failed.
    pub not_run: usize,
    /// How long builds waited for their first place.
    pub waits: Waits,
    /// From the beginning of the simulation to the end of the last build.
    pub makespan: Duration,
    /// Starts that were called.
    pub starts: usize,
    /// Starts that failed.
    pub failed_starts: usize,
    /// Starts that were cancelled because nobody needed them any more.
    pub cancelled_starts: usize,
    /// Stops that failed.
    pub failed_stops: usize,
    /// Connections that were lost.
    pub lost_agents: usize,
    /// Attempts of builds that failed: their start failed, or their agent was lost.
    pub failed_attempts: usize,
    /// From the call of each start to the return of its stop, or to the end of the simulation, of all instances.
    pub instance_time: Duration,
    /// The part of it in which at least one build ran on the instance.
    pub busy_time: Duration,
}

/// How long builds waited from their submission to their first place. Builds that never got one do not count.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Waits {
    /// The mean.
    pub mean: Duration,
    /// Half of the builds waited no longer.
    pub median: Duration,
    /// Of 100 builds 99 waited no longer.
    pub p99: Duration,
    /// The longest wait.
    pub maximum: Duration,
}

impl Waits {
    /// All zero if there are none.
    pub(super) fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let at = |percent: usize| waits.get(waits.len() * percent / 100).copied();
        let (Some(median), Some(p99), Some(&maximum)) = (at(50), at(99), waits.last()) else { return Self::default() };
        let sum: f64 = waits.iter().map(Duration::as_secs_f64).sum();
        Self { mean: Duration::from_secs_f64(sum / waits.len() as f64), median, p99, maximum }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("builds", format!("{} of {} finished, {} not run", self.finished, self.submitted, self.not_run)),
            ("makespan", time(self.makespan)),
            ("mean wait", time(self.waits.mean)),
            ("median wait", time(self.waits.median)),
            ("99 % waited", format!("at most {}", time(self.waits.p99))),
            ("longest wait", time(self.waits.maximum)),
            ("starts", format!("{}, {} failed, {} cancelled", self.starts, self.failed_starts, self.cancelled_starts)),
            ("instance time", format!("{}, {} busy", time(self.instance_time), time(self.busy_time))),
            ("failures", self.failures()),
        ];
        for (number, (name, value)) in rows.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{name:<13}  {value}")?;
        }
        Ok(())
    }
}

impl Report {
    fn failures(&self) -> String {
        format!("attempts {}, stops {}, connections {}", self.failed_attempts, self.failed_stops, self.lost_agents)
    }
}

/// In the unit that suits it.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 600.0 { format!("{seconds:.1} s") } else { format!("{:.2} h", seconds / 3600.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_nobody_are_zero_and_quantiles_are_those_of_the_sorted_waits() {
        assert_eq!(Waits::of(Vec::new()), Waits::default());
        let seconds = Duration::from_secs;
        let waits = Waits::of((1..=200).rev().map(seconds).collect());
        assert_eq!(waits.mean, Duration::from_millis(100_500));
        assert_eq!((waits.median, waits.p99, waits.maximum), (seconds(101), seconds(199), seconds(200)));
    }
}
