//! What the scenario tests share: a master whose time is moved by hand, and bounded waits for everything.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "every test binary uses its own part of this")]

mod clock;
mod world;

pub use clock::GatedClock;
pub use world::{SECOND, World, answer, bounded, eventually, reaches};
