//! What C holds: handles. A handle looks like a typed pointer and is the number of an entry in a table.
//!
//! A pointer, so that the compiler of C tells a master from a lease, and every foreign function interface can pass it on
//! (not all of them pass structures by value). A number, so that nothing of ours is reached through what a caller may
//! have freed, mistaken or made up: no number is given out twice, so that a handle that was freed is known for ever to
//! be none, and each entry knows of what kind it is.

use std::any::Any;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
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

type Table = HashMap<usize, Entry, BuildHasherDefault<Number>>;

static TABLE: RwLock<Table> = RwLock::new(HashMap::with_hasher(BuildHasherDefault::new()));
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// Numbers in a row need no hash.
#[derive(Default)]
struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        // The table takes its slot from the lower bits and a tag from the upper ones.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.0 = number as u64;
    }
}

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
