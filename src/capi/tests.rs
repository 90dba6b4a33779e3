//! The boundary and what is behind it, called as C would.

use std::cell::Cell;

thread_local! {
    static PANIC_NEXT: Cell<bool> = const { Cell::new(false) };
}

/// Within every call that goes through the boundary.
pub(super) fn panic_if_wanted() {
    if PANIC_NEXT.take() {
        panic!("provoked");
    }
}
