//! The promises of placement: every order of events in small worlds, long random histories in larger ones, and
//! scenarios on virtual time.

mod alternatives;
mod blame;
mod claims;
mod explore;
mod farm;
mod messages;
mod promises;
mod scenarios;
mod setting;
mod world;

use std::panic::{catch_unwind, resume_unwind};

/// Runs a test with so many seeds, or with `LATENT_WORKER_SEED`.
fn for_seeds(count: u64, run: fn(u64)) {
    let seeds = match std::env::var("LATENT_WORKER_SEED") {
        Ok(seed) => vec![seed.parse().expect("LATENT_WORKER_SEED is a number")],
        Err(_) => (0..count).collect(),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(|| run(seed)) {
            eprintln!("violated with LATENT_WORKER_SEED={seed}");
            resume_unwind(panic);
        }
    }
}
