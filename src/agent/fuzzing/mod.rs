//! What a fuzzer drives, and what is replayed of it: either side of the wire against a peer that does as it likes, and
//! both against each other.
//!
//! Each function takes any bytes, reads them as the steps of one connection, and panics when the side under test does
//! what it must not. The fuzzer is the unpublished package in `fuzz/`; the inputs that it found worth keeping are in
//! `corpus/`, one file for each function, and a test runs them all. This module exists for the two alone. Bytes mean what
//! `steps` makes of them: after a change there the corpus is to be found anew.

mod master;
mod steps;

pub use super::client::fuzzing::{client, talk};
pub use master::master;
pub(super) use master::{command, file_command, is_accepted};
pub(super) use steps::Steps;

#[cfg(test)]
mod tests;
