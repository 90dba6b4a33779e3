//! The context pointer of a table of callbacks, which is released exactly once.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::argument::Opaque;
use super::callback::call_out;

pub(super) type Release = Option<unsafe extern "C" fn(context: *mut c_void)>;

/// A context. It is released when the last copy is dropped, on whatever thread that happens.
#[derive(Clone)]
pub(super) struct Context(Arc<Owned>);

struct Owned {
    pointer: Opaque,
    release: Release,
    is_kept: AtomicBool,
}

impl Context {
    pub(super) fn new(pointer: *mut c_void, release: Release) -> Self {
        Self(Arc::new(Owned { pointer: Opaque(pointer), release, is_kept: AtomicBool::new(false) }))
    }

    pub(super) fn pointer(&self) -> *mut c_void {
        self.0.pointer.0
    }

    /// It is not taken over after all: the caller keeps it, and it is not released.
    pub(super) fn keep(&self) {
        self.0.is_kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(release) = self.release.filter(|_| !*self.is_kept.get_mut()) {
            // SAFETY: the caller's promise: it may be called once, on any thread, with the context that came with it.
            call_out(|| unsafe { release(self.pointer.0) });
        }
    }
}
