//! What the farms of this bench have to do.

use std::time::Duration;

/// A build: when it arrives and how long it runs, in seconds, and its kind.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Job {
    pub(crate) arrival: f64,
    pub(crate) duration: f64,
    pub(crate) kind: usize,
}

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) workers: usize,
    pub(crate) jobs: Vec<Job>,
}

/// How long a start and a stop take, and how long an idle instance is kept.
pub(crate) const START: Duration = Duration::from_secs(60);
pub(crate) const STOP: Duration = Duration::from_secs(2);
pub(crate) const IDLE: Duration = Duration::from_secs(600);

fn exponential(random: &mut fastrand::Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

/// 800 builds of 8 kinds that arrive at once, for 8 workers; 60 s each, exponentially distributed.
pub(crate) fn at_once(seed: u64) -> Workload {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut job = || Job { arrival: 0.0, duration: exponential(&mut random, 60.0), kind: random.usize(0..8) };
    Workload { name: "800 at once", workers: 8, jobs: (0..800).map(|_| job()).collect() }
}

/// 3 000 builds of 8 kinds, few of which are frequent, for 16 workers that are busy for this part of their time; 120 s
/// each, exponentially distributed.
pub(crate) fn steady(seed: u64, load: f64) -> Workload {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut arrival = 0.0;
    let mut job = || {
        arrival += exponential(&mut random, 120.0 / 16.0 / load);
        let duration = exponential(&mut random, 120.0);
        Job { arrival, duration, kind: (exponential(&mut random, 2.0) as usize).min(7) }
    };
    let name = if load > 0.75 { "load 0.9" } else { "load 0.6" };
    Workload { name, workers: 16, jobs: (0..3000).map(|_| job()).collect() }
}

/// The workload of a real cluster, for 64 workers. `text`: lines of arrival, duration and kind.
pub(crate) fn metacentrum(text: &str) -> Workload {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let job = |line: &str| {
        let mut fields = line.split(',').map(|field| field.parse::<f64>().expect("a field is a number"));
        let mut field = || fields.next().expect("a line has three fields");
        Job { arrival: field(), duration: field(), kind: field() as usize }
    };
    let mut jobs: Vec<Job> = lines.map(job).collect();
    jobs.sort_by(|a, b| a.arrival.total_cmp(&b.arrival));
    Workload { name: "metacentrum-2013", workers: 64, jobs }
}
