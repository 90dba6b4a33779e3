//! What C holds: handles. A handle looks like a typed pointer and is the number of an entry in a table.
//!
//! A pointer, so that the compiler of C tells a master from a lease, and every foreign function interface can pass it on
//! (not all of them pass structures by value). A number, so that nothing of ours is reached through what a caller may
//! have freed, mistaken or made up: no number is given out twice, so that a handle that was freed is known for ever to
//! be none, and each entry knows of what kind it is.

use std::any::Any;
use std::collections::BTreeMap;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::boundary::{Failure, Result};
use super::code::lw_code::LW_ERROR_HANDLE;

/// A kind of handle: the type that C sees, which has no values.
pub(super) trait Kind {
    /// What is behind it.
    type Value: Send + Sync + 'static;
    /// With its article, as in "a lease".
    const NAME: &'static str;
}

#[derive(Clone)]
struct Entry {
    kind: &'static str,
    value: Arc<dyn Any + Send + Sync>,
}

static TABLE: RwLock<BTreeMap<usize, Entry>> = RwLock::new(BTreeMap::new());
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// Gives a handle out for the value.
pub(super) fn insert<K: Kind>(value: K::Value) -> *mut K {
    insert_shared::<K>(Arc::new(value))
}

pub(super) fn insert_shared<K: Kind>(value: Arc<K::Value>) -> *mut K {
    let entry = Entry { kind: K::NAME, value };
    let mut table = TABLE.write();
    let number = loop {
        // Where a pointer has 32 bits the numbers begin again some day.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number != 0 && !table.contains_key(&number) {
            break number;
        }
    };
    table.insert(number, entry);
    ptr::without_provenance_mut(number)
}

/// What is behind the handle. It lives as long as somebody uses it, also when another thread frees the handle.
pub(super) fn get<K: Kind>(handle: *mut K) -> Result<Arc<K::Value>> {
    let found = TABLE.read().get(&handle.addr()).cloned();
    typed::<K>(handle, found)
}

/// Takes the handle back: it is none from now on.
pub(super) fn remove<K: Kind>(handle: *mut K) -> Result<Arc<K::Value>> {
    let mut table = TABLE.write();
    let found = match table.get(&handle.addr()) {
        Some(entry) if entry.kind == K::NAME => table.remove(&handle.addr()),
        other => other.cloned(),
    };
    drop(table);
    typed::<K>(handle, found)
}

/// Takes a handle back as C's `free` does: NULL is none, and no error.
pub(super) fn free<K: Kind>(handle: *mut K) -> Result<()> {
    if handle.is_null() {
        return Ok(());
    }
    // Dropped here, with no lock held.
    remove(handle).map(drop)
}

pub(super) fn count() -> usize {
    TABLE.read().len()
}

fn typed<K: Kind>(handle: *mut K, entry: Option<Entry>) -> Result<Arc<K::Value>> {
    let failure = |what: String| Failure::new(LW_ERROR_HANDLE, format!("this is not {}: {what}", K::NAME));
    if handle.is_null() {
        return Err(failure("it is NULL".to_owned()));
    }
    match entry {
        None => Err(failure("it was freed, or never given out".to_owned())),
        Some(Entry { kind, value }) => value.downcast().map_err(|_| failure(format!("it is {kind}"))),
    }
}
