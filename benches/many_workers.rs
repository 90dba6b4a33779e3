//! Workers that are configured and not used: what each costs, and what they cost a build that they cannot take.

mod support;

use std::time::Instant;

use latent_worker::{Build, BuildResult, IdlePolicy, Labels, Master, WorkerConfig};
use support::{Figure, Line, Nothing, Plan, Process, Report, Side, in_earnest, in_own_process, part, take_turns};

/// Why a worker cannot take the build.
#[derive(Clone, Copy)]
enum Unable {
    /// All have the same other label.
    OtherLabel,
    /// Each has a label of its own.
    OwnLabel,
    /// Each has one of the two labels that are needed, and one of its own.
    HalfOfIt,
    /// They have both labels, but are paused.
    Paused,
}

const ALL: [(Unable, &str); 4] = [
    (Unable::OtherLabel, "another label"),
    (Unable::OwnLabel, "a label each"),
    (Unable::HalfOfIt, "one label of two"),
    (Unable::Paused, "paused"),
];
const NEEDED: [&str; 2] = ["needed", "also-needed"];

fn main() {
    if let Some(part) = part() {
        return print_cost_of_adding(ALL[part.parse::<usize>().expect("a number")].0);
    }
    let mut report = Report::new("many workers");
    for (number, (_, name)) in ALL.iter().enumerate() {
        let numbers = in_own_process(&number.to_string());
        let [bytes, threads, seconds] = numbers[..] else { panic!("three numbers, not {numbers:?}") };
        let many = many();
        report.add(Line::new(format!("{name}: memory of each of {many}"), Figure::Bytes(bytes)).at_most(2048.0));
        report.add(Line::new(format!("{name}: threads of {many}"), Figure::Count(threads)).at_most(0.0));
        report.add(Line::new(format!("{name}: adding {many}"), Figure::Seconds(seconds)).at_most(2.0));
    }
    for (unable, name) in ALL {
        dispatch_beside(unable, name, &mut report);
    }
    report.print();
}

fn many() -> usize {
    if in_earnest() { 100_000 } else { 1_000 }
}

fn add(master: &Master, number: usize, unable: Unable, needed: &Labels) {
    let config = WorkerConfig::new(format!("worker-{number}"));
    let config = match unable {
        Unable::OtherLabel => config.with_label("other"),
        Unable::OwnLabel => config.with_label(format!("label-{number}")),
        Unable::HalfOfIt => config.with_label(NEEDED[number % 2]).with_label(format!("label-{number}")),
        Unable::Paused => config.with_labels(needed.clone()),
    };
    let worker = master.add_worker(config, Nothing).expect("a new name");
    if let Unable::Paused = unable {
        worker.pause();
    }
}

/// Prints the bytes of each worker, how many threads there are more, and the seconds for all.
fn print_cost_of_adding(unable: Unable) {
    let many = many();
    let master = Master::new();
    let needed = NEEDED.into_iter().collect();
    let before = Process::now();
    let start = Instant::now();
    (0..many).for_each(|number| add(&master, number, unable, &needed));
    let seconds = start.elapsed().as_secs_f64();
    let cost = Process::now().since(before);
    println!("{} {} {seconds}", cost.resident as f64 / many as f64, cost.threads);
}

/// Measures one build from its submission to its end on the one worker that can take it, whose agent is attached.
fn dispatch_beside(unable: Unable, name: &str, report: &mut Report) {
    let numbers = if in_earnest() { [10, 1_000, 10_000, 100_000] } else { [1, 2, 3, 4] };
    let needed: Labels = NEEDED.into_iter().collect();
    let masters = numbers.map(|others| {
        let master = Master::new();
        (0..others / 2).for_each(|number| add(&master, number, unable, &needed));
        let able = WorkerConfig::new("able").with_labels(needed.clone()).with_idle(IdlePolicy::Never);
        let able = master.add_worker(able, Nothing).expect("a new name");
        (others / 2..others).for_each(|number| add(&master, number, unable, &needed));
        able.warm_up().wait().expect("it attaches");
        master
    });
    let build = NEEDED.into_iter().fold(Build::new("build"), Build::with_label);
    let sides: [Side<'_>; 4] = std::array::from_fn(|i| {
        let (master, build) = (&masters[i], &build);
        Side::new(format!("{name}: a build beside {}", numbers[i]), move || {
            let lease = master.submit(build.clone()).wait().expect("a lease");
            lease.finish(BuildResult::Succeeded);
        })
    });
    let plan = Plan { turns: 200, samples: 5, operations: 100 };
    let [few, between @ .., most] = take_turns(&plan, sides);
    report.add(Line::new(&few.0, Figure::Times(few.1)));
    between.iter().for_each(|times| report.beside(&few, times));
    // Logarithmic growth: as the logarithms of the numbers of workers.
    let logarithms = (numbers[3] as f64).ln() / (numbers[0].max(2) as f64).ln();
    report.add(Line::new(&most.0, Figure::Times(most.1)).ratio(most.1.ratio_to(&few.1)).at_most(logarithms));
}
