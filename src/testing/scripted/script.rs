//! Controls a scripted worker from a test.

use std::fmt;
use std::sync::{Arc, MutexGuard};

use super::PATIENCE;
#[allow(unused_imports, reason = "named by the documentation")]
use super::ScriptedWorker;
use super::call::{Call, CheckCall, CompatibleCall, ReclaimCall, StartCall, StopCall};
use super::stage::{Inner, Stage};
use crate::testing::Watch;
use crate::{DriverCall, Epoch};

/// What a test holds of a [`ScriptedWorker`]: each call into the driver waits until the test has taken it out with one
/// of the `expect_` methods and has answered it.
///
/// A call that is taken out and not answered *hangs*; that is how a test makes a driver hang. One that is dropped
/// without an answer fails and says so. When the script itself is dropped, starts fail and say so, and all other calls
/// go well, so that nothing hangs at the end of a test.
pub struct Script {
    pub(super) stage: Arc<Stage>,
    /// Describes the master in the messages of failures.
    pub(super) watch: Option<Watch>,
}

/// A call into the driver that was made; see [`Script::calls`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ScriptedCall {
    /// Which one.
    pub call: DriverCall,
    /// The name of the worker.
    pub worker: String,
    /// The attempt.
    pub epoch: Epoch,
}

impl fmt::Display for ScriptedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} (attempt {})", self.call, self.worker, self.epoch)
    }
}

impl Script {
    /// Waits for a call of `start_instance`.
    ///
    /// # Panics
    /// Like all `expect_` methods, panics if there is no such call within [`PATIENCE`], or within the patience of the
    /// [`Watch`] that created the script. The message lists the calls that were made.
    pub fn expect_start(&self) -> StartCall {
        self.expect()
    }

    /// Waits for a call of `check_instance`.
    pub fn expect_check(&self) -> CheckCall {
        self.expect()
    }

    /// Waits for a call of `is_compatible_with_build`.
    pub fn expect_compatible(&self) -> CompatibleCall {
        self.expect()
    }

    /// Waits for a call of `stop_instance`.
    pub fn expect_stop(&self) -> StopCall {
        self.expect()
    }

    /// Waits for a call of `reclaim`; see [`ScriptedWorker::reclaims`].
    pub fn expect_reclaim(&self) -> ReclaimCall {
        self.expect()
    }

    fn expect<C: Call>(&self) -> C {
        match &self.watch {
            Some(watch) => self.stage.expect(watch.patience(), || format!("\n{watch}")),
            None => self.stage.expect(PATIENCE, String::new),
        }
    }

    /// Waits until the master is [quiet](Watch::wait_quiet), and asserts that an `expect_` method has returned every
    /// call of this kind. The library makes no other call before the test does something or a deadline passes. Calls
    /// that an [automated](Script::automate) script has answered also count as unexpected.
    ///
    /// ```
    /// use latent_worker::testing::{ManualClock, Watch};
    /// use latent_worker::{Build, DriverCall, Master, WorkerConfig};
    ///
    /// let master = Master::builder().clock(ManualClock::new()).build();
    /// let watch = Watch::new(&master);
    /// let (worker, script) = watch.add_scripted(WorkerConfig::new("w"));
    /// worker.pause();
    /// let ticket = master.submit(Build::new("waits"));
    /// script.expect_no_call(DriverCall::Start, &watch); // a paused worker starts nothing
    /// worker.unpause();
    /// script.expect_start().succeed_attached();
    /// drop(ticket.wait().unwrap());
    /// script.automate_all();
    /// ```
    ///
    /// # Panics
    /// Panics if there was such a call, or if the master does not become quiet in time.
    pub fn expect_no_call(&self, call: DriverCall, watch: &Watch) {
        watch.follow(self);
        watch.wait_quiet();
        let unexpected = self.stage.untaken(call);
        if unexpected > 0 {
            let calls: Vec<_> = self.calls().iter().map(ToString::to_string).collect();
            let calls = calls.join(", ");
            watch.fail(&format!("{call} was called unexpectedly, calls: {unexpected}; all calls: [{calls}]"));
        }
    }

    /// Waits until the master is [quiet](Watch::wait_quiet), and asserts that this call was made `count` times in
    /// total, expected or not.
    ///
    /// # Panics
    /// Panics if the number of calls is different, or if the master does not become quiet in time.
    pub fn expect_count(&self, call: DriverCall, count: usize, watch: &Watch) {
        watch.follow(self);
        watch.wait_quiet();
        let made = self.count(call);
        if made != count {
            watch.fail(&format!("{call} was called {made} times, expected {count}"));
        }
    }

    /// All calls that were made so far, in their order, answered or not.
    pub fn calls(&self) -> Vec<ScriptedCall> {
        self.stage.lock().calls.clone()
    }

    /// How often `call` was made so far.
    pub fn count(&self, call: DriverCall) -> usize {
        self.stage.lock().calls.iter().filter(|made| made.call == call).count()
    }

    /// From now on calls of this kind go well by themselves, and so do those that wait already: an agent attaches and
    /// the start succeeds; a check is good; every build is compatible; a stop succeeds; a leftover is gone.
    pub fn automate(&self, call: DriverCall) {
        let mut inner = self.stage.lock();
        inner.automatic.insert(call);
        match call {
            DriverCall::Start => release::<StartCall>(inner),
            DriverCall::Check => release::<CheckCall>(inner),
            DriverCall::Compatible => release::<CompatibleCall>(inner),
            DriverCall::Stop => release::<StopCall>(inner),
            DriverCall::Reclaim => release::<ReclaimCall>(inner),
            // Never by hand: see [`ScriptedWorker::kinds`].
            DriverCall::Kind => {}
        }
    }

    /// [Automates](Script::automate) calls of every kind.
    pub fn automate_all(&self) {
        use DriverCall::{Check, Compatible, Reclaim, Start, Stop};
        for call in [Start, Check, Compatible, Stop, Reclaim] {
            self.automate(call);
        }
    }

    /// From now on calls of this kind wait for the test again.
    pub fn by_hand(&self, call: DriverCall) {
        self.stage.lock().automatic.remove(&call);
    }
}

/// Lets all calls of one kind that wait go well.
fn release<C: Call>(mut inner: MutexGuard<'_, Inner>) {
    let waiting = std::mem::take(C::waiting(&mut inner));
    drop(inner);
    waiting.into_iter().for_each(C::go_well);
}

impl Drop for Script {
    fn drop(&mut self) {
        let starts = {
            let mut inner = self.stage.lock();
            inner.abandoned = true;
            std::mem::take(&mut inner.starts)
        };
        drop(starts);
        release::<CheckCall>(self.stage.lock());
        release::<CompatibleCall>(self.stage.lock());
        release::<StopCall>(self.stage.lock());
        release::<ReclaimCall>(self.stage.lock());
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("calls", &self.calls()).finish_non_exhaustive()
    }
}
