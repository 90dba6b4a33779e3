//! What C holds: handles. A handle looks like a typed pointer and is the number of an entry in a table.
//!
//! A pointer, so that the compiler of C tells a master from a lease, and every foreign function interface can pass it on
//! (not all of them pass structures by value). A number, so that nothing of ours is reached through what a caller may
//! have freed, mistaken or made up: no number is given out twice, so that a handle that was freed is known for ever to
//! be none, and each entry knows of what kind it is.

use std::any::{Any, TypeId};
use std::ptr;
use std::sync::Arc;

use parking_lot::RwLock;

use super::boundary::{Failure, Result};
use super::code::lw_code::LW_ERROR_HANDLE;

/// A kind of handle: the type that C sees, which has no values.
pub(super) trait Kind {
    /// What is behind it: for each kind a type of its own.
    type Value: Send + Sync + 'static;
    /// With its article, as in "a lease".
    const NAME: &'static str;
}

#[derive(Clone)]
struct Entry {
    kind: &'static str,
    value: Arc<dyn Any + Send + Sync>,
}

/// The entries by the lower bits of their numbers. The upper bits count how often a slot was used, from 1.
#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
    live: usize,
}

struct Slot {
    /// The handle that leads here now, or the last one that did.
    number: usize,
    entry: Option<Entry>,
}

/// There may be 2^24 handles at once, and each slot is used 2^40 times; where a pointer has 32 bits, 2^16 of both.
const INDEX_BITS: u32 = if usize::BITS == 64 { 24 } else { 16 };
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;

static TABLE: RwLock<Table> = RwLock::new(Table { slots: Vec::new(), free: Vec::new(), live: 0 });

impl Table {
    #[inline]
    fn get(&self, number: usize) -> Option<&Entry> {
        let slot = self.slots.get(number & INDEX_MASK)?;
        slot.entry.as_ref().filter(|_| slot.number == number)
    }

    /// # Panics
    /// When there is no number left that was not given out yet.
    fn insert(&mut self, entry: Entry) -> usize {
        if let Some(index) = self.free.pop() {
            self.live += 1;
            let slot = &mut self.slots[index];
            slot.number += 1 << INDEX_BITS;
            slot.entry = Some(entry);
            return slot.number;
        }
        let index = self.slots.len();
        assert!(index <= INDEX_MASK, "no handle is left");
        let number = 1 << INDEX_BITS | index;
        self.live += 1;
        self.slots.push(Slot { number, entry: Some(entry) });
        number
    }

    /// Takes an entry out if this is the type of its value. Any other stays; what is returned tells which.
    #[inline]
    fn remove(&mut self, number: usize, value: TypeId) -> Option<Entry> {
        let index = number & INDEX_MASK;
        let slot = self.slots.get_mut(index).filter(|slot| slot.number == number)?;
        if slot.entry.as_ref()?.value.as_ref().type_id() != value {
            return slot.entry.clone();
        }
        let entry = slot.entry.take();
        self.live -= 1;
        // A slot whose numbers are used up is left alone.
        if number.checked_add(1 << INDEX_BITS).is_some() {
            self.free.push(index);
        }
        entry
    }
}

/// Gives a handle out for the value.
pub(super) fn insert<K: Kind>(value: K::Value) -> *mut K {
    insert_shared::<K>(Arc::new(value))
}

pub(super) fn insert_shared<K: Kind>(value: Arc<K::Value>) -> *mut K {
    #[cfg(test)]
    super::tests::passage();
    let entry = Entry { kind: K::NAME, value };
    ptr::without_provenance_mut(TABLE.write().insert(entry))
}

/// What is behind the handle. It lives as long as somebody uses it, also when another thread frees the handle.
#[inline]
pub(super) fn get<K: Kind>(handle: *mut K) -> Result<Arc<K::Value>> {
    #[cfg(test)]
    super::tests::passage();
    let found = TABLE.read().get(handle.addr()).cloned();
    typed::<K>(handle, found)
}

/// Takes the handle back: it is none from now on.
#[inline]
pub(super) fn remove<K: Kind>(handle: *mut K) -> Result<Arc<K::Value>> {
    #[cfg(test)]
    super::tests::passage();
    let found = TABLE.write().remove(handle.addr(), TypeId::of::<K::Value>());
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
    #[cfg(test)]
    super::tests::passage();
    TABLE.read().live
}

#[inline]
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

#[cfg(test)]
mod tests {
    use std::any::TypeId;
    use std::sync::Arc;

    use super::{Entry, INDEX_BITS, Table};

    const OURS: TypeId = TypeId::of::<()>();

    fn entry() -> Entry {
        Entry { kind: "a test", value: Arc::new(()) }
    }

    #[test]
    fn no_number_is_given_out_twice() {
        let mut table = Table::default();
        let (first, second) = (table.insert(entry()), table.insert(entry()));
        assert!(first != 0 && first != second);
        assert!(table.remove(first, TypeId::of::<u8>()).is_some() && table.get(first).is_some());
        assert!(table.remove(first, OURS).is_some());
        assert!(table.get(first).is_none() && table.remove(first, OURS).is_none());
        let third = table.insert(entry());
        assert!(third != first && table.get(first).is_none() && table.get(third).is_some());
        assert_eq!((table.live, table.slots.len()), (2, 2), "the slot is used again");
    }

    #[test]
    fn a_slot_whose_numbers_are_used_up_is_left_alone() {
        let mut table = Table::default();
        table.insert(entry());
        let last = usize::MAX << INDEX_BITS;
        table.slots[0].number = last;
        assert!(table.remove(last, OURS).is_some());
        let next = table.insert(entry());
        assert_eq!(next, 1 << INDEX_BITS | 1);
        assert!(table.get(last).is_none());
    }

    #[test]
    fn what_was_never_given_out_is_none() {
        let mut table = Table::default();
        let number = table.insert(entry());
        for other in [0, 1, usize::MAX, number + 1, number + (1 << INDEX_BITS), number - (1 << INDEX_BITS)] {
            assert!(table.get(other).is_none() && table.remove(other, OURS).is_none(), "{other:#x}");
        }
    }
}
