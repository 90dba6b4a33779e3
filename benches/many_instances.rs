//! Many instances at once: the resident memory of each, its thread's stack and its worker included.

mod support;

use latent_worker::{Build, Master, WorkerConfig};
use support::{Figure, Line, Nothing, Process, Report, in_earnest, in_own_process, part};

fn main() {
    match part().as_deref() {
        Some("idle") => return print_cost(false),
        Some("leased") => return print_cost(true),
        _ => {}
    }
    let mut report = Report::new("many instances");
    for state in ["idle", "leased"] {
        let numbers = in_own_process(state);
        let [bytes, threads] = numbers[..] else { panic!("two numbers, not {numbers:?}") };
        let many = many();
        let what = format!("memory of each of {many}, attached and {state}");
        report.add(Line::new(what, Figure::Bytes(bytes)).at_most(32.0 * 1024.0));
        report.add(Line::new(format!("threads of {many}"), Figure::Count(threads)));
    }
    report.print();
}

fn many() -> usize {
    if in_earnest() { 2_000 } else { 20 }
}

/// Prints the bytes of each instance and the number of their threads.
fn print_cost(leased: bool) {
    let many = many();
    let master = Master::new();
    let before = Process::now();
    let workers: Vec<_> = (0..many)
        .map(|number| master.add_worker(WorkerConfig::new(format!("worker-{number}")), Nothing).expect("a new name"))
        .collect();
    let build = Build::new("build");
    let cost = if leased {
        let requests: Vec<_> = workers.iter().map(|worker| worker.substantiate(&build)).collect();
        let leases: Vec<_> = requests.into_iter().map(|request| request.wait().expect("a lease")).collect();
        let cost = Process::now().since(before);
        drop(leases);
        cost
    } else {
        let requests: Vec<_> = workers.iter().map(|worker| worker.warm_up()).collect();
        requests.into_iter().for_each(|request| request.wait().expect("it attaches"));
        Process::now().since(before)
    };
    println!("{} {}", cost.resident as f64 / many as f64, cost.threads);
}
