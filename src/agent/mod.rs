//! Agents that come over a network: any stock `buildbot-worker` 4.x attaches over WebSocket and runs builds.
//!
//! | part | what it does |
//! |---|---|
//! | [`msgpack`] | values and their bytes; pure |
//! | [`codec`] | messages as the master reads and writes them; pure |
//! | [`session`] | the master's side of one connection, as a value; pure |
//! | [`listener`] | accepts connections, bounds what is not attached yet, ends everything |
//! | [`handshakes`] | which connections make room for others before they have logged in; pure |
//! | [`handshake`] | from the first byte to an upgraded connection or a refusal |
//! | [`link`] | the master's side of one upgraded connection: its two threads, its commands |
//! | [`connected`] | the [`Agent`](crate::Agent) that leases use |
//! | [`sink`] | what waits for the reader of a command's output |
//! | [`client`] | the other side: an agent that connects to a master |
//! | [`budget`] | the memory that large messages of all connections share |
//! | [`wire`], [`outbox`] | either side of an upgraded connection: what waits to be written, and the reader of messages |
//! | [`errno`] | what the codes of failed file commands mean |
//! | [`transport`], `tls` | the bytes of a connection, in the clear or not |
//! | `fuzzing` | what a fuzzer drives: the pure parts of both sides; only there for that and its replay |
//! | [`threads`] | the threads of one listener or client: named, counted, joined with a bound |
//!
//! Threads of a listener: `lw listen` for each address; for each attached agent `lw agent` (handshake, then reading) and
//! `lw agent out` (writing, heartbeat); for each open handshake one. No lock is held while a thread waits for a socket,
//! for a reader of output or in the runtime.

mod budget;
mod client;
mod codec;
mod connected;
mod errno;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake;
mod handshakes;
mod link;
mod listener;
mod msgpack;
mod outbox;
mod session;
mod sink;
mod threads;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod wire;

pub use client::{AgentClient, AgentClientBuilder, AgentClientError, AgentEnd, AgentStopper};
pub use connected::ConnectedAgent;
pub use listener::{AgentListener, AgentListenerBuilder};
