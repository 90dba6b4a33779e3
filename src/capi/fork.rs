//! Whether this process is a fork of the one in which the library was used first.
//!
//! A forked process has the memory of its parent but none of its other threads: whatever lock they held stays held, and
//! nobody meets a deadline. So every call answers that instead of hanging. The system tells us at the fork
//! (`pthread_atfork`); to ask for the process's number at each call instead would be a system call each time.

use std::ffi::c_int;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_FORKED: AtomicBool = AtomicBool::new(false);
static WATCHED: Once = Once::new();

/// Begins to watch at the first call. Costs two loads after that.
pub(super) fn is_forked() -> bool {
    // In this order: the `Once` of a process that was forked in the middle of it would never be done.
    IS_FORKED.load(Ordering::Relaxed) || {
        WATCHED.call_once(watch);
        false
    }
}

#[cfg(unix)]
fn watch() {
    type Handler = extern "C" fn();
    unsafe extern "C" {
        fn pthread_atfork(prepare: Option<Handler>, parent: Option<Handler>, child: Option<Handler>) -> c_int;
    }
    extern "C" fn in_child() {
        IS_FORKED.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler stores one word, which is allowed after a fork, and lives as long as the library, which must
    // not be unloaded (as the header says).
    let error = unsafe { pthread_atfork(None, None, Some(in_child)) };
    assert!(error == 0, "pthread_atfork: error {error}");
}

#[cfg(not(unix))]
fn watch() {}
