//! What all benches share: a loop that measures several sides of one question in the same run, and a table of the
//! outcome beside the targets.
//!
//! On a shared machine two runs of the same code differ by more than most changes do. So the sides take turns, A B A B …,
//! and what counts is the ratio of their medians. Nothing here ever fails: a target that is missed is a word in a table.
//!
//! `cargo bench --bench NAME -- --json` prints one JSON object a line instead. Run by `cargo test --benches`, every side
//! takes a few turns only, which shows that it works and nothing else.

#![allow(dead_code, unused_imports, reason = "no bench uses all of it")]

mod driver;
mod process;
mod table;

use std::time::{Duration, Instant};

pub(crate) use driver::Nothing;
pub(crate) use process::{Process, in_own_process, part};
pub(crate) use table::{Figure, Line, Report};

/// How much is measured.
pub(crate) struct Plan {
    /// How many turns each side takes.
    pub(crate) turns: usize,
    /// How many samples a side takes in one turn.
    pub(crate) samples: usize,
    /// How many operations are timed together as one sample: enough that reading the clock does not count.
    pub(crate) operations: u32,
}

/// One of the things that are compared: what it is called, and one operation of it.
pub(crate) struct Side<'a> {
    pub(crate) name: String,
    operation: Box<dyn FnMut() + 'a>,
}

impl<'a> Side<'a> {
    pub(crate) fn new(name: impl Into<String>, operation: impl FnMut() + 'a) -> Self {
        Self { name: name.into(), operation: Box::new(operation) }
    }
}

/// How long one operation of a side took.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) minimum: Duration,
    pub(crate) median: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
}

impl Times {
    pub(crate) fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
        Self { minimum: at(0), median: at(50), p90: at(90), p99: at(99) }
    }

    /// The ratio of the medians.
    pub(crate) fn ratio_to(&self, peer: &Times) -> f64 {
        self.median.as_secs_f64() / peer.median.as_secs_f64()
    }
}

/// Whether a benchmark was asked for, and not only whether it still runs.
pub(crate) fn in_earnest() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Lets the sides take turns. The first turns, until everything is warm, do not count.
pub(crate) fn take_turns<const N: usize>(plan: &Plan, mut sides: [Side<'_>; N]) -> [(String, Times); N] {
    let (turns, warming) = if in_earnest() { (plan.turns, plan.turns / 10 + 1) } else { (1, 0) };
    let mut taken = sides.each_ref().map(|_| Vec::with_capacity(turns * plan.samples));
    for turn in 0..warming + turns {
        for (side, taken) in sides.iter_mut().zip(&mut taken) {
            for _ in 0..plan.samples {
                let start = Instant::now();
                for _ in 0..plan.operations {
                    (side.operation)();
                }
                let sample = start.elapsed();
                if turn >= warming {
                    taken.push(sample / plan.operations);
                }
            }
        }
    }
    let mut taken = taken.into_iter();
    sides.map(|side| (side.name, Times::of(taken.next().expect("as many samples as sides"))))
}
