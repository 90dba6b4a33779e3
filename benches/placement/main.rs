//! How well placement does: starts and waits of four workloads beside two other rules, the choice between them at
//! several patiences, and what a decision costs.
//!
//! `TEST_WORKLOADS` names the folder with `metacentrum-2013.csv` without it that part is missing. `-- --costs` measures the
//! costs alone.

#[path = "../support/mod.rs"]
mod support;

mod costs;
mod rules;
mod workloads;

use std::time::Duration;

use latent_worker::simulation::{Distribution, Job, Pool, Simulation};
use latent_worker::{Build, IdlePolicy, PlacementConfig, WorkerConfig};
use rules::Rule;
use support::{Figure, Line, Report, in_earnest};
use workloads::{IDLE, START, STOP, Workload};

/// What came of a workload; times in seconds.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Outcome {
    starts: f64,
    mean: f64,
    p99: f64,
    maximum: f64,
    makespan: f64,
}

impl Outcome {
    pub(crate) fn new(starts: usize, mut waits: Vec<f64>, makespan: f64) -> Self {
        waits.sort_by(f64::total_cmp);
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        let (p99, maximum) = (waits[waits.len() * 99 / 100], waits[waits.len() - 1]);
        Self { starts: starts as f64, mean, p99, maximum, makespan }
    }

    /// The medians.
    fn of(outcomes: &[Self]) -> Self {
        let median = |part: fn(&Self) -> f64| {
            let mut parts: Vec<f64> = outcomes.iter().map(part).collect();
            parts.sort_by(f64::total_cmp);
            parts[parts.len() / 2]
        };
        Self {
            starts: median(|outcome| outcome.starts),
            mean: median(|outcome| outcome.mean),
            p99: median(|outcome| outcome.p99),
            maximum: median(|outcome| outcome.maximum),
            makespan: median(|outcome| outcome.makespan),
        }
    }

    fn figure(&self, name: &str) -> (f64, Figure) {
        let seconds = match name {
            "starts" => return (self.starts, Figure::Count(self.starts)),
            "mean wait" => self.mean,
            "p99 wait" => self.p99,
            "longest wait" => self.maximum,
            "makespan" => self.makespan,
            other => unreachable!("no figure {other}"),
        };
        (seconds, Figure::Seconds(seconds))
    }
}

/// A workload by seed, and what is wanted of it: the figure, and the most that it may be of that of strict age.
type Subject<'a> = (Box<dyn Fn(u64) -> Workload + 'a>, u64, &'a [(&'static str, f64)]);

fn main() {
    if std::env::args().any(|argument| argument == "--costs") {
        return costs::print();
    }
    let seeds = if in_earnest() { 10 } else { 1 };
    let metacentrum = metacentrum();
    let mut subjects: Vec<Subject<'_>> = vec![
        (Box::new(workloads::at_once), seeds, &[("starts", 0.07), ("makespan", 0.55)]),
        (
            Box::new(|seed| workloads::steady(seed, 0.9)),
            seeds,
            &[("mean wait", 0.07), ("p99 wait", 0.11), ("longest wait", 0.15)],
        ),
        (Box::new(|seed| workloads::steady(seed, 0.6)), seeds, &[("starts", 0.6), ("mean wait", 0.75)]),
    ];
    if let Some(text) = metacentrum.as_deref().filter(|_| in_earnest()) {
        let wanted = &[("starts", 0.55), ("mean wait", 0.83), ("longest wait", 1.1)];
        subjects.push((Box::new(|_| workloads::metacentrum(text)), 1, wanted));
    }
    let mut report = Report::new("placement");
    let mut frontier = Report::new("patience");
    for (workload, seeds, wanted) in &subjects {
        let all: Vec<Workload> = (0..*seeds).map(workload).collect();
        let of_rule = |rule| {
            let outcomes: Vec<Outcome> =
                all.iter().zip(0..).map(|(workload, seed)| rules::run(workload, rule, seed + 1000)).collect();
            Outcome::of(&outcomes)
        };
        let ours = |patience: Option<f64>| {
            let outcomes: Vec<Outcome> =
                all.iter().zip(0..).map(|(workload, seed)| ours(workload, seed, patience)).collect();
            Outcome::of(&outcomes)
        };
        let strict = of_rule(Rule::StrictAge);
        let name = all[0].name;
        let (buildbot, default) = (of_rule(Rule::Buildbot), ours(None));
        for (figure, target) in *wanted {
            let (peer, shown) = strict.figure(figure);
            report.add(Line::new(format!("{name}: {figure}, strict age"), shown));
            let (value, shown) = buildbot.figure(figure);
            report.add(Line::new(format!("{name}: {figure}, Buildbot's rule"), shown).ratio(value / peer));
            let (value, shown) = default.figure(figure);
            report.add(Line::new(format!("{name}: {figure}, ours"), shown).ratio(value / peer).at_most(*target));
        }
        for patience in [0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 16.0] {
            let outcome = ours(Some(patience));
            for figure in ["starts", "mean wait", "longest wait", "makespan"] {
                let (value, shown) = outcome.figure(figure);
                let what = format!("{name}: {figure} with patience {patience}");
                frontier.add(Line::new(what, shown).ratio(value / strict.figure(figure).0));
            }
        }
    }
    report.print();
    frontier.print();
    costs::print();
}

/// The text of the real workload.
fn metacentrum() -> Option<String> {
    let Some(folder) = std::env::var_os("TEST_WORKLOADS") else {
        eprintln!("placement: without metacentrum-2013.csv: set TEST_WORKLOADS to its folder");
        return None;
    };
    let path = std::path::Path::new(&folder).join("metacentrum-2013.csv");
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => panic!("cannot read {}: {error}", path.display()),
    }
}

fn ours(workload: &Workload, seed: u64, patience: Option<f64>) -> Outcome {
    let config = WorkerConfig::new("worker").with_idle(IdlePolicy::After(IDLE));
    let pool =
        Pool::new(config, workload.workers).with_start(Distribution::fixed(START)).with_stop(Distribution::fixed(STOP));
    let seconds = Duration::from_secs_f64;
    let jobs = workload.jobs.iter().map(|job| {
        let build = Build::new("build").with_property("kind", job.kind.to_string());
        Job::new(seconds(job.arrival), build, seconds(job.duration))
    });
    let simulation = Simulation::new().with_pool(pool).with_jobs(jobs).with_seed(seed);
    let report = patience
        .map_or(simulation.clone(), |patience| {
            simulation.with_placement(PlacementConfig::new().with_patience(patience))
        })
        .run();
    assert_eq!(report.finished, workload.jobs.len(), "{report}");
    Outcome {
        starts: report.starts as f64,
        mean: report.waits.mean.as_secs_f64(),
        p99: report.waits.p99.as_secs_f64(),
        maximum: report.waits.maximum.as_secs_f64(),
        makespan: report.makespan.as_secs_f64(),
    }
}
