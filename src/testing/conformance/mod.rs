//! The conformance kit for drivers: runs any [`LatentWorker`](crate::LatentWorker) through what the library promises
//! wherever a driver has a part in it, and prints a table of what holds and what does not.
//!
//! The driver is used as users use it: by a real [`Master`](crate::Master), with its threads, its journal and its
//! clock. The kit plays the scheduler, the agent, the crash and the bad network, takes notes of every call, and after
//! everything it does it asks the provider itself what is still there.
//!
//! # A whole one
//!
//! The kit needs three things: a name, how to make a driver, and the provider's own list of what exists.
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//! use latent_worker::testing::conformance::{Fault, Injection, Subject};
//! use latent_worker::{
//!     Build, FailureCause, Health, LatentWorker, Leftover, Reclaimed, StartError, StartRequest, Started, StopError,
//!     StopRequest,
//! };
//!
//! // The provider: names of machines, and whether it has had enough of our requests.
//! #[derive(Clone, Default)]
//! struct Cloud {
//!     machines: Arc<Mutex<BTreeSet<String>>>,
//!     throttles: Arc<Mutex<u64>>,
//! }
//!
//! // The driver. Everything goes by the name, and the name by the key of the attempt: so a stop that has no instance,
//! // and a reclaim after a crash, find what a start has made, whatever that start has heard of it.
//! struct CloudWorker(Cloud);
//!
//! impl CloudWorker {
//!     fn machines(&self) -> Result<std::sync::MutexGuard<'_, BTreeSet<String>>, StartError> {
//!         let throttled = &mut *self.0.throttles.lock().unwrap();
//!         if *throttled > 0 {
//!             *throttled += 1;
//!             let cause = FailureCause::Throttled { retry_after: Some(Duration::from_secs(1)) };
//!             return Err(StartError::failed(cause, "too many requests"));
//!         }
//!         Ok(self.0.machines.lock().unwrap())
//!     }
//!
//!     fn remove(&self, key: &str) -> Result<(), StopError> {
//!         let mut machines = self.machines().map_err(|error| StopError::new(error.to_string()))?;
//!         machines.remove(&format!("machine-{key}")); // what is gone already is gone
//!         Ok(())
//!     }
//! }
//!
//! impl LatentWorker for CloudWorker {
//!     type Instance = String;
//!
//!     fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<String>, StartError> {
//!         if start.properties().get("image") == Some("none") {
//!             return Err(StartError::cannot("there is no such image"));
//!         }
//!         let name = format!("machine-{}", start.key());
//!         start.record(&name)?; // before it exists: a crash can come at any moment
//!         self.machines()?.insert(name.clone());
//!         if start.properties().get("image") == Some("broken") {
//!             return Err(StartError::infrastructure("it does not boot")); // the stop removes it, by the key
//!         }
//!         Ok(Started::new(name.clone()).detail(name))
//!     }
//!
//!     fn stop_instance(&self, stop: StopRequest<String>) -> Result<(), StopError> {
//!         self.remove(stop.key())
//!     }
//!
//!     fn check_instance(&self, name: &String) -> Health {
//!         match self.machines() {
//!             Ok(machines) if !machines.contains(name) => Health::bad("the machine is gone"),
//!             _ => Health::Good, // that nobody answers does not mean that it is bad
//!         }
//!     }
//!
//!     fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
//!         self.remove(leftover.key())?;
//!         Ok(Reclaimed::Gone)
//!     }
//! }
//!
//! // The test: here begins what the author of a driver writes for the kit.
//! let cloud = Cloud::default();
//! let (make, list, destroy, throttle) = (cloud.clone(), cloud.clone(), cloud.clone(), cloud);
//! let image = |image: &str| Build::new(image).with_property("image", image);
//! let report = Subject::new(
//!     "cloud",
//!     move || CloudWorker(make.clone()),
//!     move || list.machines.lock().unwrap().iter().cloned().collect(),
//! )
//! .destroy(move |name| _ = destroy.machines.lock().unwrap().remove(name))
//! .failing(image("broken"))
//! .impossible(image("none"))
//! .fault(Fault::Throttled, move || {
//!     *throttle.throttles.lock().unwrap() = 1;
//!     let (counted, ended) = (throttle.clone(), Ended(throttle.clone()));
//!     Injection::new(ended).counted(move || counted.throttles.lock().unwrap().saturating_sub(1))
//! })
//! # .settle(Duration::from_millis(10))
//! .run();
//! println!("{report}");
//!
//! // Nothing is broken, and these are not tried, for the subject has no means for them.
//! report.expect_all_but(&[
//!     "w11_incompatible_build",
//!     "d6_error_after_create",
//!     "d6_error_after_remove",
//!     "d6_unavailable_start",
//!     "d6_unavailable_stop",
//!     "d6_lagging_list",
//!     "d6_lagging_reclaim",
//!     "d6_vanishes",
//!     "d5_cancelled_slow_start",
//! ]);
//!
//! // The fault ends with this.
//! struct Ended(Cloud);
//! impl Drop for Ended {
//!     fn drop(&mut self) {
//!         *self.0.throttles.lock().unwrap() = 0;
//!     }
//! }
//! ```
//!
//! The table begins like this. `println!("{}", report.to_json())` has the same for machines.
//!
//! ```text
//! conformance of cloud: 29 hold, 0 broken, 9 not tried
//! result     promises  check                    what was done                                             time
//! holds      D1        d1_whole_life            start, attach, a build, stop: all gone                  0.00 s
//! holds      A1        a1_process_arguments     no process shows the secret in its arguments            0.00 s
//! ...
//! not tried  W11       w11_incompatible_build   a build that does not fit recycles the instance         0.00 s
//!                        the subject has no build that an instance does not fit (Subject::incompatible)
//! ```
//!
//! # What the kit has to be told
//!
//! *The list* is the measure of everything: what a stop or a reclaim has left behind, and whether a neighbour's
//! instance survives. It must not go through the driver, and not through a proxy that injects faults. Names may be
//! anything, as long as a name stays the same while its thing exists: container ids, volumes and networks together,
//! `volume: x`, paths. On a provider that others use, too, filter by something that only this test's drivers set: a
//! label, a prefix, a directory. A list that shows nothing while an instance is up is a broken check.
//!
//! *The driver* is made anew for each check; those that come after a crash are new ones, too. So it must find what an
//! earlier one has made by key, owner and recorded ids alone.
//!
//! *The agent.* By default the kit attaches one that does nothing, as soon as the start has returned: the instance needs
//! no program that connects to the master, and an image with `sleep` will do. (The driver is told that the master is at
//! `127.0.0.1:9`, where nobody listens.) A driver that attaches its agent
//! [itself](Subject::attaches_by_itself), as one within this process does, says so.
//!
//! *Builds* make the driver do other things than to succeed: [`failing`](Subject::failing),
//! [`impossible`](Subject::impossible), [`dying`](Subject::dying), [`silent`](Subject::silent) and
//! [`incompatible`](Subject::incompatible). *Faults* are what the provider or the way to it does.
//!
//! Whatever is not given is *not tried*, and never said to hold; [`Report::expect_all_but`] has a test fail when that
//! changes.
//!
//! # Faults for a driver that speaks HTTP
//!
//! Have the driver talk to [`FaultyHttp`](super::FaultyHttp) in front of the real thing, and give one rule for each
//! fault. The kit counts how often a rule was met: a fault that was never met proves nothing, and its check says so.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use latent_worker::LatentWorker;
//! use latent_worker::testing::conformance::{Fault, Subject};
//! use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule};
//!
//! fn with_http_faults<W: LatentWorker>(mut subject: Subject<W>, proxy: &Arc<FaultyHttp>) -> Subject<W> {
//!     let minute = Duration::from_secs(60);
//!     let faults = [
//!         // It is created, and the driver hears of an error. `CutAfter` is the same without an answer.
//!         (Fault::ErrorAfterCreate, HttpRule::new(HttpFault::StatusAfter(500)).method("POST").path_contains("/create")),
//!         (Fault::ErrorAfterRemove, HttpRule::new(HttpFault::CutAfter).method("DELETE").times(1)),
//!         (Fault::SlowStart, HttpRule::new(HttpFault::DelayBefore(minute)).path_contains("/create")),
//!         (Fault::Throttled, HttpRule::new(HttpFault::TooManyRequests { retry_after: Duration::from_secs(1) })),
//!         (Fault::Unavailable, HttpRule::new(HttpFault::CutBefore)),
//!     ];
//!     for (fault, rule) in faults {
//!         let proxy = proxy.clone();
//!         subject = subject.fault(fault, move || proxy.inject(rule.clone()));
//!     }
//!     subject
//! }
//! # _ = with_http_faults::<latent_worker::testing::ScriptedWorker>;
//! ```
//!
//! # When a check is broken
//!
//! Its name begins with the promise it is about, and its reason says what was seen. [`Subject::only`] runs one check
//! alone. Each check begins with what the provider lists at that moment, so that what one has left behind does not
//! break the next one; what appears *after* its start and stop have returned may be found by a later check, and by
//! `d2_nothing_appears_late` at the end.
//!
//! A driver that hangs does not hang the kit: after the [patience](Subject::patience) the check is broken, the thread
//! that hangs is left alone, and the next check is tried.

mod arguments;
mod checks;
mod gate;
mod observed;
mod record;
mod report;
mod run;
mod stage;
mod subject;

pub use report::{Finding, Report, Verdict};
pub use subject::{Fault, Injection, Subject};

use run::run;
