//! The memory that a run of a target takes, so that a length which a peer only announces is never believed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Memory for each byte of input: a variable in a map takes most, four bytes of input make a string in a tree.
const PER_BYTE: usize = 256;
/// Memory whatever the input is.
const ALWAYS: usize = 64 << 10;

/// Runs `target`, which must take no more memory than is due to the length of its input, and give it back.
pub fn bounded(target: impl Fn(&[u8]), input: &[u8]) {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    target(input);
    let most = MOST.load(Relaxed) - before;
    assert!(most <= ALWAYS + PER_BYTE * input.len(), "{most} bytes of memory for {} of input", input.len());
    assert!(NOW.load(Relaxed) <= before, "memory was not given back");
}
