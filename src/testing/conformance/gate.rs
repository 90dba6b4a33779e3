//! Where the kit holds a start at a chosen moment: before it has begun, or while it records what it has made.
//!
//! A crash is a moment at which both the journal and the provider stand still. So the start is held within its call to
//! [`record`](crate::StartRequest::record), before the record is in the file.

use std::convert::Infallible;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::JournalStep;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Mode {
    #[default]
    Open,
    /// The driver is not called before its start was cancelled.
    CallWhenCancelled,
    /// The driver is not called before the check lets it.
    HoldStart,
    /// What the start records cannot be written.
    RefuseRecords,
    /// The first record of the start is held until the check lets it go, and is then written.
    HoldRecord,
    /// The first record of the start is held until the check lets it go; it and all others cannot be written then.
    HoldAndRefuseRecords,
}

pub(super) struct Gate {
    patience: Duration,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    mode: Mode,
    in_start: bool,
    /// How many records of a start came here.
    records: u64,
    held: bool,
    let_go: bool,
}

impl Gate {
    pub(super) fn new(mode: Mode, patience: Duration) -> Self {
        Self { patience, inner: Mutex::new(Inner { mode, ..Inner::default() }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A start is about to be called.
    pub(super) fn before_start(&self, cancelled: &Receiver<Infallible>) {
        let mode = self.lock().mode;
        match mode {
            Mode::CallWhenCancelled => _ = cancelled.recv_timeout(self.patience),
            Mode::HoldStart => self.hold(),
            _ => {}
        }
        self.lock().in_start = true;
    }

    pub(super) fn after_start(&self) {
        self.lock().in_start = false;
        self.changed.notify_all();
    }

    /// Something is done to the journal.
    pub(super) fn reach(&self, step: JournalStep) -> io::Result<()> {
        let mode = {
            let mut inner = self.lock();
            if step != JournalStep::BeforeWrite || !inner.in_start {
                return Ok(());
            }
            inner.records += 1;
            inner.mode
        };
        let refused = || Err(io::Error::other("the conformance kit lets nothing be recorded here"));
        match mode {
            Mode::RefuseRecords => refused(),
            Mode::HoldRecord => {
                self.hold();
                Ok(())
            }
            Mode::HoldAndRefuseRecords => {
                self.hold();
                refused()
            }
            Mode::Open | Mode::CallWhenCancelled | Mode::HoldStart => Ok(()),
        }
    }

    fn hold(&self) {
        let mut inner = self.lock();
        inner.held = true;
        self.changed.notify_all();
        let wait = self.changed.wait_timeout_while(inner, self.patience, |inner| !inner.let_go);
        wait.unwrap_or_else(PoisonError::into_inner).0.held = false;
    }

    /// Waits until a start is held. False when it has returned without, or the time is over.
    pub(super) fn wait_until_held(&self, returned: impl Fn() -> bool) -> bool {
        let step = Duration::from_millis(20);
        let mut left = self.patience;
        let mut inner = self.lock();
        loop {
            if inner.held {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            let slept = left.min(step);
            left -= slept;
            inner = self.changed.wait_timeout(inner, slept).unwrap_or_else(PoisonError::into_inner).0;
            if !inner.held {
                drop(inner);
                if returned() {
                    return self.lock().held;
                }
                inner = self.lock();
            }
        }
    }

    /// Lets go what is held, and all that comes.
    pub(super) fn let_go(&self) {
        self.lock().let_go = true;
        self.changed.notify_all();
    }

    pub(super) fn records(&self) -> u64 {
        self.lock().records
    }
}
