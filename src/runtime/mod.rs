//! The only place with threads, locks, a clock and calls into user code.
//!
//! # Threads
//!
//! | thread | how many | what it does |
//! |---|---|---|
//! | `lw <worker>` | one for each live instance, and a moment longer | its driver calls, one after the other ([`instance`]) |
//! | `lw kinds` | one for each driver value with open questions | asks the driver for kinds ([`questions`]) |
//! | `lw reclaim` | one for each leftover that is being reclaimed | calls drivers for them ([`leftovers`]) |
//! | `lw timer` | one for each master | all deadlines; never calls user code ([`timer`]) |
//! | `lw log` | one for each master, if there is a logger | writes events to the log ([`log_thread`]) |
//! | the user's | | requests, leases, commands; whatever follows from them that needs no driver |
//!
//! # Locks
//!
//! A lock is held for one turn of the state behind it: never across a call into user code (a driver, an agent, a clock,
//! a logger, a `Drop` of theirs), a blocking send or a system call that waits. What follows from a turn is put on an
//! [`Agenda`](shared::Agenda) and carried out without any lock.
//!
//! | while this is held | these may be taken |
//! |---|---|
//! | deadlines being handled ([`timer`], reentrant; who moves a clock by hand waits for it) | all below |
//! | the list of workers | queue, leftovers |
//! | the queue's turn ([`queue`]) | a build (to tell its end and to deliver its lease), a worker's turn (to take a place and to give it back), threads (count only), timer, dirty list, observers |
//! | a build ([`queue`]) | a worker's turn, observers |
//! | a worker's turn ([`cell`]) | leftovers, threads (count only), timer, observers |
//! | the list of leftovers | threads (count only), timer |
//! | dirty list, threads, timer, observers, end signals, a driver's questions, a build's submitter (but for its outbox) | none |
//!
//! The journal has locks of its own, one of which is held across writes and syncs. Nobody comes to it with a lock in
//! hand.
//!
//! Two workers' locks are never held at once.

mod call_signal;
mod cell;
mod clock;
mod connection;
mod drivers;
mod entropy;
mod fence;
mod handle;
mod instance;
mod lease;
mod leftovers;
mod log_thread;
mod master;
mod observers;
mod outbox;
mod questions;
mod queue;
mod shared;
mod short_lock;
mod threads;
mod ticket;
mod timer;

pub use handle::{Insubstantiation, Substantiation, Worker};
pub use lease::{Finished, Lease, LeaseFiles, Running};
pub use master::{Master, MasterBuilder, RunError, ShutdownMode, ShutdownReport};
pub use ticket::{Inbox, Ticket};
