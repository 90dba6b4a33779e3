//! Tools for tests of code that uses this library: scripted workers and agents, a clock that is moved by hand, waits for
//! events and states, and a checker of the event record.
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
//! # Overview
//!
//! | for | use |
//! |---|---|
//! | a driver that does what the test says, or hangs | [`ScriptedWorker`] and its [`Script`] |
//! | an agent that does what the test says, hangs, or refuses | [`ScriptedAgent`] and its [`AgentScript`] |
//! | time that moves only when the test advances it | [`ManualClock`] |
//! | waiting for an event, a state or a quiet master | [`Watch`] |
//! | checking that a driver was not called | [`Script::expect_no_call`] |
//! | checking that the library kept all promises that events can show | [`EventChecker`] |
//! | a driver of your own, with faults injected | [`conformance`] and [`FaultyHttp`] |
//!
//! # A first test of a driver
//!
//! ```
//! use latent_worker::testing::{EventChecker, Watch};
//! use latent_worker::{
//!     Attachment, Build, BuildResult, IdlePolicy, LatentWorker, Master, StartError, StartRequest, Started, StopError,
//!     StopRequest, WorkerConfig,
//! };
//!
//! struct MyDriver;
//!
//! impl LatentWorker for MyDriver {
//!     type Instance = Attachment;
//!
//!     fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Attachment>, StartError> {
//!         Ok(Started::new(start.attacher().attach(())?))
//!     }
//!
//!     fn stop_instance(&self, _: StopRequest<Attachment>) -> Result<(), StopError> {
//!         Ok(())
//!     }
//! }
//!
//! let master = Master::new();
//! let watch = Watch::new(&master);
//! master.add_worker(WorkerConfig::new("w").with_idle(IdlePolicy::AfterBuild), MyDriver).unwrap();
//! for _ in 0..3 {
//!     let lease = master.submit(Build::new("a build")).wait().unwrap();
//!     lease.finish(BuildResult::Succeeded);
//!     watch.wait_event("stop_returned"); // every build has an instance of its own
//! }
//! let summary = watch.shut_down_and_check(&EventChecker::new().with_max_builds(1));
//! assert_eq!((summary.builds, summary.total_starts()), (3, 3));
//! ```
//!
//! A first test of a scheduler is at [`Watch`].
//!
//! # Order of drops
//!
//! Create the [`Script`] after the master, so that it is dropped first. This lets all hanging calls return, and the
//! drop of the master does not wait for them.

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
