//! A clock moved by hand that can also hold the instance threads up: the way to look at a worker between the request
//! and the call of its start.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use latent_worker::Clock;
use latent_worker::testing::{ManualClock, PATIENCE};

/// Holds every instance thread (whose name begins with `lw ` and is not the timer's) that asks for the time while the
/// gate is shut. The library asks on such a thread before it calls the start.
#[derive(Clone)]
pub struct GatedClock {
    pub clock: ManualClock,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl GatedClock {
    pub fn shut() -> Self {
        Self { clock: ManualClock::new(), gate: Arc::default() }
    }

    pub fn open(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Clock for GatedClock {
    fn now(&self) -> Instant {
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| name.starts_with("lw ") && name != "lw timer") {
            let (open, opened) = &*self.gate;
            drop(opened.wait_timeout_while(open.lock().unwrap(), PATIENCE, |open| !*open).unwrap());
        }
        self.clock.now()
    }

    fn real_time_until(&self, deadline: Instant) -> Option<Duration> {
        self.clock.real_time_until(deadline)
    }

    fn subscribe(&self, on_jump: Box<dyn Fn() + Send + Sync>) {
        self.clock.subscribe(on_jump);
    }
}
