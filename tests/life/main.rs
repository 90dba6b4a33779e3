//! The life of one worker: promises W1 to W13 and W15 (W14 is in `user_code`), over the real runtime with real threads,
//! and time that is moved by hand.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod attach;
mod calls;
mod connection;
mod edges;
mod fit;
mod health;
mod idle;
mod quarantine;
mod retire;
mod status;
