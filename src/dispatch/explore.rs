//! Every order of inputs to [`Dispatch`](super::Dispatch) in small worlds, and long random histories in larger ones.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU32;

use super::Labels;
use super::world::{Action, JobSetup, Scenario, WorkerSetup, World};

fn labels(words: &str) -> Labels {
    words.split_whitespace().collect()
}

fn worker(words: &str, asked: bool, capacity: u32) -> WorkerSetup {
    WorkerSetup { labels: labels(words), asked, capacity }
}

fn job(words: &str, priority: i32, kind: u8, max_attempts: u32) -> JobSetup {
    JobSetup { labels: labels(words), priority, kind, max_attempts: NonZeroU32::new(max_attempts) }
}

/// Breadth first, until no new state appears; a round follows every input.
fn explore(name: &str, scenario: Scenario) {
    let world = World::new(scenario);
    let mut seen = HashSet::from([world.key()]);
    let mut frontier = VecDeque::from([world]);
    let (mut transitions, mut quiet) = (0u64, 0u64);
    while let Some(world) = frontier.pop_front() {
        for action in world.actions() {
            transitions += 1;
            let mut next = world.clone();
            next.step(action);
            next.round();
            if seen.insert(next.key()) {
                next.check(true);
                quiet += u64::from(next.is_quiet());
                frontier.push_back(next);
            }
        }
    }
    println!("{name}: {} states, {quiet} of them quiet, {transitions} transitions", seen.len());
}

/// One worker that is never asked and two that may be incompatible; two kinds of build, one of them urgent.
fn three_by_three() -> Scenario {
    Scenario {
        workers: vec![worker("", false, 1), worker("", true, 1), worker("", true, 1)],
        jobs: vec![job("", 0, 0, 2), job("", 0, 1, 2), job("", 1, 0, 2)],
        ..Scenario::default()
    }
}

#[test]
fn b1_explore_messages_in_any_order() {
    let late = Scenario { late_facts: true, late_reports: true, late_answers: true, ..three_by_three() };
    explore("3 workers, 3 builds, every message late", late);
}

#[test]
fn b4_explore_cancel_and_shutdown_anywhere() {
    let base = Scenario { cancels: true, ..three_by_three() };
    explore("cancel, facts late", Scenario { late_facts: true, ..base.clone() });
    let late = Scenario { late_reports: true, late_answers: true, shutdown: true, ..base };
    explore("cancel and shutdown, reports and answers late", late);
}

#[test]
fn b2_explore_failures_and_retries() {
    let base = Scenario { failures: true, retries: true, losses: true, ..three_by_three() };
    let mut once = Scenario { cancels: true, shutdown: true, ..base.clone() };
    once.jobs.iter_mut().for_each(|job| job.max_attempts = NonZeroU32::new(1));
    explore("every failure, one attempt each", once);
    let mut two = Scenario { late_answers: true, cancels: true, ..base };
    two.workers.truncate(2);
    two.jobs.truncate(2);
    explore("every failure, two attempts each, 2 workers and 2 builds", two);
}

#[test]
fn b5_explore_labels() {
    let labelled = Scenario {
        workers: vec![worker("a", false, 1), worker("a b", true, 1), worker("b", true, 1)],
        jobs: vec![job("a", 0, 0, 2), job("b", 0, 1, 2), job("", 1, 0, 2)],
        late_reports: true,
        late_answers: true,
        cancels: true,
        ..Scenario::default()
    };
    explore("labels", labelled);
}

#[test]
fn w11_explore_room_for_two() {
    let roomy = Scenario {
        workers: vec![worker("", false, 2), worker("", true, 2), worker("", true, 1)],
        late_facts: true,
        late_answers: true,
        ..three_by_three()
    };
    explore("room for two builds", roomy);
}

/// Ten thousand random inputs to a dozen workers, with messages that overtake each other; then the end of everything.
fn random_history(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    fn some_labels(random: &mut fastrand::Rng, most: usize) -> Labels {
        let count = random.usize(..=most);
        random.choose_multiple(["a", "b", "c", "d", "e", "f", "g", "h"], count).into_iter().collect()
    }
    fn some_worker(random: &mut fastrand::Rng) -> WorkerSetup {
        // Half of them share their labels with others.
        let common = random.choice(["a b c", "a b c d e f g h"]).map(labels).filter(|_| random.bool());
        let labels = common.unwrap_or_else(|| some_labels(random, 8));
        WorkerSetup { labels, asked: random.u8(..3) > 0, capacity: random.u32(1..=3) }
    }
    fn some_job(random: &mut fastrand::Rng) -> JobSetup {
        JobSetup {
            labels: some_labels(random, 4),
            priority: random.i32(-1..=1),
            kind: random.u8(..3),
            max_attempts: NonZeroU32::new(random.u32(..4)),
        }
    }
    let scenario = Scenario {
        workers: (0..8).map(|_| some_worker(&mut random)).collect(),
        jobs: (0..40).map(|_| some_job(&mut random)).collect(),
        late_facts: random.bool(),
        late_reports: random.bool(),
        late_answers: random.bool(),
        stale_facts: true,
        cancels: true,
        retries: true,
        failures: true,
        losses: true,
        pauses: true,
        shutdown: true,
        endless: true,
    };
    let mut world = World::new(scenario);
    let mut step = |world: &mut World, inputs: usize, wanted: &dyn Fn(&Action) -> bool| {
        let actions: Vec<Action> = world.actions().into_iter().filter(wanted).collect();
        let Some(&action) = random.choice(&actions) else { return false };
        if let Action::Submit(slot) = action {
            world.redefine(slot, some_job(&mut random));
        }
        if inputs % 1000 == 999 {
            world.add_worker(some_worker(&mut random));
        }
        world.step(action);
        // Not every input is followed by a round.
        let round = random.u8(..4) > 0;
        if round {
            world.round();
        }
        if inputs.is_multiple_of(16) {
            world.check(round);
        }
        true
    };
    for inputs in 0..10_000 {
        assert!(step(&mut world, inputs, &|action| *action != Action::Shutdown));
    }
    world.round();
    world.check(true);
    world.step(Action::Shutdown);
    for inputs in 0.. {
        world.check(false);
        if !step(&mut world, inputs, &|action| {
            !matches!(action, Action::Submit(_) | Action::Pause(_) | Action::Unpause(_))
        }) {
            break;
        }
        assert!(inputs < 10_000, "it never ends");
    }
    assert!(world.is_quiet() && world.is_over());
}

#[test]
fn b4_random_histories_give_every_build_one_end() {
    for run in 0..5 {
        let seed = match std::env::var("DISPATCH_SEED") {
            Ok(seed) => seed.parse().expect("DISPATCH_SEED is a number"),
            Err(_) => fastrand::u64(..) ^ run,
        };
        if let Err(panic) = std::panic::catch_unwind(|| random_history(seed)) {
            eprintln!("the history of DISPATCH_SEED={seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}
