//! How a thread waits for a lock that is held for a fraction of a microsecond at a time, by threads that want it again
//! soon.

use parking_lot::{Mutex, MutexGuard};

/// So often a thread looks at a lock that is taken, before it lets the system put it to sleep. To sleep and to be woken
/// takes longer than many turns of the others, and they take turns faster while nobody has to be woken.
const LOOKS: u32 = 32;

/// Hints to the processor between two looks, about a microsecond. A thread that looks all the time takes the lock after each
/// turn of another one, and then all that the lock protects moves from one cache to the other. This way the other one has
/// a few turns in a row.
const PAUSE: u32 = 64;

/// Takes the lock. A thread that has to wait keeps its processor busy for some tens of microseconds at most.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..LOOKS {
        if let Some(guard) = mutex.try_lock() {
            return guard;
        }
        (0..PAUSE).for_each(|_| std::hint::spin_loop());
    }
    mutex.lock()
}
