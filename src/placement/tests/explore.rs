//! Every order of events in small worlds, and long random histories in larger ones.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use super::super::Labels;
use super::farm::SAYS;
use super::for_seeds;
use super::world::{BuildSetup, Driver, Setting, Step, WorkerSetup, World};
use crate::worker::IdlePolicy;

pub(super) fn labels(words: &str) -> Labels {
    words.split_whitespace().collect()
}

fn worker(words: &str, driver: Driver, max_builds: usize) -> WorkerSetup {
    WorkerSetup { labels: labels(words), driver, max_builds }
}

fn build(kind: &'static str, priority: i32) -> BuildSetup {
    BuildSetup { labels: Labels::new(), priority, kind, max_attempts: NonZeroU32::new(2) }
}

/// Explores at least to this many transitions, if there are as many, unless `LATENT_WORKER_TRANSITIONS` says otherwise.
const ENOUGH_TRANSITIONS: u64 = 4_000;

/// Breadth first, until nothing new appears or enough was seen.
fn explore(name: &str, setting: Setting) {
    let first = World::new(setting, Instant::now());
    let mut seen = HashSet::from([first.key()]);
    let mut origins: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut frontier = VecDeque::from([(0, first)]);
    let mut transitions = 0;
    let enough = std::env::var("LATENT_WORKER_TRANSITIONS")
        .map_or(ENOUGH_TRANSITIONS, |enough| enough.parse().expect("LATENT_WORKER_TRANSITIONS is a number"));
    while let Some((origin, world)) = frontier.pop_front() {
        if transitions >= enough {
            break;
        }
        for step in world.steps() {
            transitions += 1;
            let next = guarded(&origins, origin, step, || {
                let mut next = world.clone();
                next.take(step);
                next
            });
            if seen.insert(next.key()) {
                origins.push((origin, Some(step)));
                guarded(&origins, origin, step, || next.clone().run_out(Duration::from_secs(600)));
                frontier.push_back((origins.len() - 1, next));
            }
        }
    }
    let complete = if frontier.is_empty() { "complete" } else { "not complete" };
    println!("placement, {name}: {} states, {transitions} transitions, {complete}", seen.len());
}

/// Runs a check; if it fails, prints how its state was reached.
fn guarded<R>(origins: &[(usize, Option<Step>)], origin: usize, step: Step, check: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let mut way = Vec::new();
        let mut at = origin;
        while let (parent, Some(step)) = &origins[at] {
            way.push(format!("{step:?}"));
            at = *parent;
        }
        way.reverse();
        eprintln!("violated after\n  {}\n  and then {step:?}", way.join("\n  "));
        resume_unwind(panic)
    })
}

fn two_workers(first: Driver, second: Driver) -> Setting {
    Setting {
        workers: vec![worker("", first, 1), worker("", second, 1)],
        builds: vec![build("a", 0), build("b", 0)],
        ..Setting::default()
    }
}

fn late(setting: Setting) -> Setting {
    Setting { late_orders: true, late_answers: true, late_facts: true, ..setting }
}

#[test]
fn b7_explore_messages_in_any_order() {
    explore("every message late", Setting { cancels: true, ..late(two_workers(Driver::Any, Driver::Any)) });
}

#[test]
fn b8_explore_messages_that_overtake_each_other() {
    let setting =
        Setting { overtaking: true, stale_facts: true, cancels: true, ..two_workers(Driver::Any, Driver::Any) };
    explore("messages overtake", late(setting));
}

#[test]
fn b7_explore_calls_that_hang() {
    let setting = Setting { hangs: true, cancels: true, ..two_workers(Driver::Any, Driver::Asked) };
    explore("calls hang", Setting { late_facts: true, ..setting });
}

#[test]
fn b2_explore_failures_and_retries() {
    let setting = Setting { failures: true, losses: true, ..two_workers(Driver::Any, Driver::Any) };
    explore("every failure", setting);
}

#[test]
fn w11_explore_drivers_that_are_asked() {
    let setting = Setting { failures: true, cancels: true, ..two_workers(Driver::Asked, Driver::Asked) };
    explore("drivers are asked", Setting { late_answers: true, ..setting });
}

#[test]
fn b7_explore_drivers_that_say_kinds() {
    let says = Driver::Says { refuses: Some('b') };
    let setting = Setting { retries: true, ..two_workers(says, Driver::Says { refuses: None }) };
    explore("drivers say kinds", Setting { late_orders: true, late_answers: true, ..setting });
}

#[test]
fn b5_explore_two_kinds_on_workers_with_room() {
    let mut setting = two_workers(Driver::Asked, Driver::Says { refuses: None });
    setting.workers.iter_mut().for_each(|worker| worker.max_builds = 2);
    setting.builds = vec![build("a1", 0), build("b", 1), build("a2", 0)];
    let expected = Some((Duration::from_secs(10), Duration::from_secs(5)));
    explore("room for two builds", Setting { expected, ..setting });
}

#[test]
fn b5_explore_labels_and_priorities() {
    let setting = Setting {
        workers: vec![worker("x", Driver::Any, 1), worker("x y", Driver::Asked, 1)],
        builds: vec![
            build("a", 0),
            BuildSetup { labels: labels("y"), ..build("b", 0) },
            BuildSetup { labels: labels("x"), ..build("b", 1) },
        ],
        idle: IdlePolicy::AfterBuild,
        ..Setting::default()
    };
    explore("labels", Setting { late_facts: true, cancels: true, ..setting });
}

#[test]
fn b6_explore_workers_that_are_used_beside_the_queue() {
    let setting = Setting { direct: true, pauses: true, late_orders: true, ..two_workers(Driver::Any, Driver::Any) };
    explore("used beside the queue", Setting { idle: IdlePolicy::After(Duration::from_secs(30)), ..setting });
}

#[test]
fn b10_explore_instances_that_are_retired() {
    let setting = Setting { retires: true, cancels: true, ..two_workers(Driver::Any, Driver::Asked) };
    explore("instances are retired", Setting { late_facts: true, late_orders: true, ..setting });
}

#[test]
fn b4_explore_leases_that_nobody_takes() {
    let placement = Setting::default().placement.with_claim_timeout(Duration::from_secs(20));
    let setting = Setting { claims: true, cancels: true, placement, ..two_workers(Driver::Any, Driver::Any) };
    explore("leases are not taken", late(setting));
}

#[test]
fn s1_explore_a_shutdown() {
    let setting = Setting { shutdowns: true, retries: true, ..two_workers(Driver::Any, SAYS) };
    explore("a shutdown", late(setting));
}

#[test]
fn b9_explore_workers_that_share_a_driver() {
    let mut setting = Setting { shared_drivers: true, failures: true, ..two_workers(SAYS, SAYS) };
    setting.workers.push(worker("", Driver::Any, 1));
    explore("a shared driver", Setting { late_answers: true, ..setting });
}

/// Thousands of random events with a dozen workers; then everything works.
fn random_history(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    fn some_labels(random: &mut fastrand::Rng, most: usize) -> Labels {
        let count = random.usize(..=most);
        random.choose_multiple(["x", "y", "z"], count).into_iter().collect()
    }
    fn some_worker(random: &mut fastrand::Rng) -> WorkerSetup {
        let driver = match random.u8(..5) {
            0 | 1 => Driver::Any,
            2 | 3 => Driver::Asked,
            _ => Driver::Says { refuses: [None, Some('a'), Some('b')][random.usize(..3)] },
        };
        WorkerSetup { labels: some_labels(random, 3), driver, max_builds: random.usize(1..=3) }
    }
    fn some_build(random: &mut fastrand::Rng) -> BuildSetup {
        BuildSetup {
            labels: some_labels(random, 2),
            priority: random.i32(-1..=1),
            kind: ["a1", "a2", "b", "c"][random.usize(..4)],
            max_attempts: NonZeroU32::new(random.u32(..4)),
        }
    }
    let only = random.bool().then_some(Driver::Any);
    let mut setting = Setting {
        workers: (0..random.usize(2..8)).map(|_| some_worker(&mut random)).collect(),
        builds: (0..random.usize(2..20)).map(|_| some_build(&mut random)).collect(),
        idle: [IdlePolicy::AfterBuild, IdlePolicy::After(Duration::from_secs(30)), IdlePolicy::Never]
            [random.usize(..3)],
        expected: random.bool().then_some((Duration::from_secs(10), Duration::from_secs(random.u64(1..60)))),
        late_orders: random.bool(),
        late_answers: random.bool(),
        late_facts: random.bool(),
        overtaking: random.bool(),
        stale_facts: random.bool(),
        cancels: true,
        retries: true,
        failures: random.bool(),
        hangs: random.bool(),
        losses: random.bool(),
        pauses: random.bool(),
        direct: random.bool(),
        retires: random.bool(),
        claims: random.bool(),
        shutdowns: random.bool(),
        shared_drivers: random.bool(),
        endless: true,
        ..Setting::default()
    };
    setting.workers.iter_mut().for_each(|worker| worker.driver = only.unwrap_or(worker.driver));
    let mut world = World::new(setting, Instant::now());
    let mut last = VecDeque::new();
    for number in 0..STEPS {
        if number % 500 == 250 && world.workers.len() < 12 && !world.shut_down {
            world.add_worker(some_worker(&mut random));
        }
        let step = *random.choice(&world.steps()).expect("something can always happen");
        let rare = matches!(step, Step::Hang(_) | Step::Pause(_) | Step::Lose(_) | Step::Deadline);
        let too_early = matches!(step, Step::Shutdown { .. }) && number < STEPS - STEPS / 10;
        if rare && random.u8(..8) > 0 || too_early {
            continue;
        }
        last.push_back(step);
        if last.len() > 30 {
            last.pop_front();
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
            if let Step::Submit(slot) = step {
                world.redefine(slot, some_build(&mut random));
            }
            world.take(step);
            if number % 50 == 49 {
                world.clone().run_out(LONGEST_QUARANTINES);
            }
        })) {
            eprintln!("violated at {number} by the last of {last:?} in {:#?}", world.setting);
            resume_unwind(panic);
        }
    }
    world.run_out(LONGEST_QUARANTINES);
}

/// After a long history of failures, workers and drivers pause for up to an hour each.
const LONGEST_QUARANTINES: Duration = Duration::from_secs(6 * 3600);

/// Of a random history.
const STEPS: usize = 3000;

#[test]
fn b4_random_histories_give_every_build_one_end() {
    for_seeds(8, random_history);
}
