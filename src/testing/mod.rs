//! For tests of code that uses this library: a worker that does what the test says, and a clock that is moved by hand.
//!
//! Threads, queue, deadlines and events are the real ones. Only the driver and the time are the test's own, so that any
//! order of things, however rare in production, is a few lines, takes no time and comes out the same every time.
//!
//! ```
//! use std::time::Duration;
//! use latent_worker::{Build, Master, SubstantiateError, WorkerConfig};
//! use latent_worker::testing::{ManualClock, ScriptedWorker};
//!
//! // What becomes of a request when the instance comes up, but its agent never attaches?
//! let clock = ManualClock::new();
//! let master = Master::builder().clock(clock.clone()).build();
//! let (driver, script) = ScriptedWorker::new();
//! let config = WorkerConfig::new("silent").with_missing_timeout(Duration::from_secs(300));
//! let worker = master.add_worker(config, driver).unwrap();
//!
//! let request = worker.substantiate(&Build::new("nightly"));
//! let start = script.expect_start(); // start_instance is called on the library's thread, and waits for this test
//! assert_eq!(start.build().unwrap().name().as_ref(), "nightly");
//! start.succeed();
//! clock.advance(Duration::from_secs(300)); // no agent, for five minutes
//!
//! assert!(matches!(request.wait(), Err(SubstantiateError::TimedOut { .. })));
//! assert!(worker.status().quarantine.is_some());
//! let stop = script.expect_stop();
//! assert!(stop.had_instance());
//! stop.succeed();
//! ```
//!
//! Make the [`Script`] after the master: it is dropped first then, and the master's drop finds nobody hanging.
//!
//! For authors of drivers there is a kit that runs a driver through all that the library promises of it,
//! [`conformance`], and a proxy that goes wrong when a test wants it, [`FaultyHttp`].

mod agent;
mod checker;
mod clock;
pub mod conformance;
mod faulty_http;
mod scripted;
mod watch;

pub use agent::{AgentScript, CommandCall, ScriptedAgent};
pub use checker::{EventChecker, EventSummary, Rule, Violation, Violations};
pub use clock::ManualClock;
pub use faulty_http::{FaultyHttp, HttpFault, HttpRule, InjectedFault};
pub use scripted::{
    CheckCall, CompatibleCall, PATIENCE, ReclaimCall, Script, ScriptedCall, ScriptedInstance, ScriptedWorker,
    StartCall, StopCall,
};
pub use watch::Watch;
