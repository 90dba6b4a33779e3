//! Breadth-first exploration: every order of everything that can happen to a worker, with the promises checked in every
//! state, until no new state appears; and long random histories.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use super::world::{IDLE, Setting, Step, World};
use super::*;

/// Where a state was first reached from, to print the way to a violation.
struct Origin {
    parent: usize,
    step: Option<Step>,
}

/// Explores until nothing new appears, or at least to this many transitions.
const ENOUGH_TRANSITIONS: u64 = 10_000_000;

fn explore(name: &str, setting: Setting) {
    let start = Instant::now();
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut seen = HashSet::new();
    let first = World::new(setting, start);
    seen.insert(hasher.hash_one(first.normalised(start)));
    let mut origins = vec![Origin { parent: 0, step: None }];
    let mut layer = vec![(0, first)];
    let mut transitions = 0_u64;
    let mut depth = 0;
    while !layer.is_empty() && transitions < ENOUGH_TRANSITIONS {
        depth += 1;
        let mut next_layer = Vec::new();
        for (origin, world) in layer {
            for (fast, driver_works) in [(false, true), (true, false)] {
                let check = || world.clone().shut_down(fast, driver_works);
                guarded(&origins, origin, None, check);
            }
            for step in world.steps() {
                transitions += 1;
                let mut next = world.clone();
                guarded(&origins, origin, Some(&step), || next.take(&step));
                if next.life.epoch().0 <= setting.attempts && seen.insert(hasher.hash_one(next.normalised(start))) {
                    origins.push(Origin { parent: origin, step: Some(step) });
                    next_layer.push((origins.len() - 1, next));
                }
            }
        }
        layer = next_layer;
    }
    let complete = if layer.is_empty() { "complete" } else { "not complete" };
    println!("lifecycle {name}: {} states, {transitions} transitions, depth {depth}, {complete}", origins.len());
    assert!(layer.is_empty() || transitions >= ENOUGH_TRANSITIONS);
}

/// Runs a check; if it fails, prints how its state was reached.
fn guarded(origins: &[Origin], origin: usize, step: Option<&Step>, check: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
        let mut way = Vec::new();
        let mut at = origin;
        while let Some(step) = &origins[at].step {
            way.push(format!("{step:?}"));
            at = origins[at].parent;
        }
        way.reverse();
        eprintln!("violated after\n  {}\n  and then {step:?} (none: a shutdown)", way.join("\n  "));
        resume_unwind(panic);
    }
}

fn setting(idle: IdlePolicy) -> Setting {
    Setting {
        idle,
        may_be_incompatible: false,
        max_builds: 1,
        warm_up: false,
        queue: false,
        requests: 2,
        attempts: 2,
        connections: 2,
        held: false,
        checks_attached: false,
    }
}

#[test]
fn w1_w2_w3_w7_hold_in_every_order_of_events_with_idle_after_build() {
    explore("after build", setting(IdlePolicy::AfterBuild));
}

#[test]
fn w1_w2_w3_w7_hold_in_every_order_of_events_with_two_places_and_an_idle_time() {
    explore("idle time, two places", Setting { max_builds: 2, ..setting(IdlePolicy::After(IDLE)) });
}

#[test]
fn w1_w2_w3_w7_hold_in_every_order_of_events_with_reattaching() {
    explore("never idle, three connections", Setting { connections: 3, ..setting(IdlePolicy::Never) });
}

#[test]
fn w1_w2_w3_w7_hold_in_every_order_of_events_with_a_request_without_a_build() {
    explore("with warm-up", Setting { warm_up: true, ..setting(IdlePolicy::AfterBuild) });
}

#[test]
fn b9_b10_w1_w2_w3_w7_hold_in_every_order_of_events_with_the_orders_of_the_queue() {
    explore("orders of the queue", Setting { queue: true, ..setting(IdlePolicy::After(IDLE)) });
}

#[test]
fn w1_w2_w3_w7_w11_hold_in_every_order_of_events_with_incompatible_builds() {
    let asked = Setting { may_be_incompatible: true, max_builds: 2, ..setting(IdlePolicy::After(IDLE)) };
    explore("incompatible builds", asked);
}

#[test]
fn j3_w1_w2_w3_w7_hold_in_every_order_of_events_with_something_left_behind() {
    explore("left behind", Setting { held: true, ..setting(IdlePolicy::AfterBuild) });
}

#[test]
fn w10_w1_w2_w3_w7_hold_in_every_order_of_events_with_checks_after_the_attach() {
    let checked = Setting { checks_attached: true, may_be_incompatible: true, ..setting(IdlePolicy::After(IDLE)) };
    explore("checks after the attach", checked);
}

#[test]
fn w1_w2_w3_w7_hold_in_random_histories_of_10_000_inputs() {
    let seeds = match std::env::var("LATENT_WORKER_SEED") {
        Ok(seed) => vec![seed.parse().expect("LATENT_WORKER_SEED is a number")],
        Err(_) => (0..24).map(|_| fastrand::u64(..)).collect::<Vec<_>>(),
    };
    for seed in seeds {
        let run = catch_unwind(|| random_history(seed));
        if let Err(panic) = run {
            eprintln!("violated with LATENT_WORKER_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

fn random_history(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let idle = [IdlePolicy::AfterBuild, IdlePolicy::After(IDLE), IdlePolicy::Never];
    let setting = Setting {
        idle: idle[random.usize(..3)],
        may_be_incompatible: random.bool(),
        max_builds: random.usize(1..5),
        warm_up: random.bool(),
        queue: random.bool(),
        requests: u64::MAX,
        attempts: u64::MAX,
        connections: u64::MAX,
        held: random.bool(),
        checks_attached: random.bool(),
    };
    let mut world = World::new(setting, Instant::now());
    for _ in 0..10_000 {
        let steps = world.steps();
        let step = random.choice(&steps).expect("something can always happen");
        // What ends a history would end almost all of them early.
        if matches!(step, Step::Input(Input::Shutdown { .. }))
            || (matches!(step, Step::Input(Input::Pause)) && random.u8(..) > 8)
        {
            continue;
        }
        let step = step.clone();
        world.take(&step);
        world.forget_the_past();
    }
    world.shut_down(random.bool(), random.bool());
}
