//! The one way out: every function of the host that is called back is called within [`call_out`].

use std::cell::Cell;

use super::fork;

thread_local! {
    /// How many callbacks this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Calls a function of the host.
pub(super) fn call_out<R>(callback: impl FnOnce() -> R) -> R {
    DEPTH.set(DEPTH.get() + 1);
    let answer = callback();
    DEPTH.set(DEPTH.get() - 1);
    if fork::is_forked() {
        // A copy of the process has come back instead of ending: it would go on as a second master.
        std::process::abort();
    }
    answer
}

/// Whether this thread is in a callback: what would wait for the end of that must not.
pub(super) fn is_within() -> bool {
    DEPTH.get() > 0
}
