//! Agents that come over a network: any stock `buildbot-worker` 4.x attaches over WebSocket and runs builds.
//!
//! | part | what it does |
//! |---|---|
//! | [`codec`] | messages and their bytes; pure |
//! | [`session`] | the master's side of one connection, as a value; pure |
//! | [`listener`] | accepts connections, bounds what is not attached yet, ends everything |
//! | [`handshake`] | from the first byte to an upgraded connection or a refusal |
//! | [`link`] | one upgraded connection: its two threads, and the [`Agent`](crate::Agent) that leases use |
//! | [`outbox`], [`sink`] | what waits for a socket, and what waits for the reader of a command's output |
//! | [`threads`] | the threads of one listener: named, counted, joined with a bound |
//!
//! Threads: `lw listen` for each address; for each attached agent `lw agent` (handshake, then reading) and
//! `lw agent out` (writing, heartbeat); for each open handshake one. No lock is held while a thread waits for a socket,
//! for a reader of output or in the runtime.
//!
//! TLS, file transfer and an agent of our own are not here.

mod codec;
mod handshake;
mod link;
mod listener;
mod outbox;
mod session;
mod sink;
mod threads;

pub use link::ConnectedAgent;
pub use listener::{AgentListener, AgentListenerBuilder};
