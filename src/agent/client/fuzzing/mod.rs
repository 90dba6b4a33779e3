//! An agent's session against any master, and both sessions against each other.

mod client;
mod talk;

pub use client::client;
pub use talk::talk;
