//! What C passes in, read once and checked: texts, lists, bytes and structures that may grow.
//!
//! What can be told from a pointer alone is told: NULL, alignment, lengths that cannot be. That there is memory behind a
//! pointer is the caller's promise; the header says so.

use std::ffi::{CStr, c_char, c_void};
use std::mem::{MaybeUninit, size_of};
use std::time::Duration;

use super::boundary::{Failure, Result};

/// The most items that a list may have, and the most bytes that may be passed at once: 65 536, and 1 GiB.
const MOST_ITEMS: usize = 1 << 16;
const MOST_BYTES: usize = 1 << 30;
/// More than any structure here will ever have; a `size` beyond it was never set.
const LARGEST_STRUCTURE: usize = 4096;

/// To wait without a limit.
pub const LW_FOREVER: u64 = u64::MAX;

/// A structure that begins with its `size` and may get more fields at its end.
///
/// # Safety
/// Any bytes are a value of it, zeros among them: it consists of integers, raw pointers and optional function pointers,
/// and its first field is `size: usize`.
pub(super) unsafe trait Growing: Copy {}

/// The place for a result, cleared, so that nothing is taken for one after an error.
pub(super) fn place<'a, T>(what: &str, place: Option<&'a mut MaybeUninit<T>>, empty: T) -> Result<&'a mut T> {
    match place {
        Some(place) => Ok(place.write(empty)),
        None => Err(Failure::argument(format!("{what} must not be NULL: it is where the result goes"))),
    }
}

/// A text that must be there.
pub(super) fn text<'a>(what: &str, pointer: *const c_char) -> Result<&'a str> {
    optional_text(what, pointer)?.ok_or_else(|| Failure::argument(format!("{what} must not be NULL")))
}

/// A text, or none when it is NULL.
pub(super) fn optional_text<'a>(what: &str, pointer: *const c_char) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; that it ends with a NUL and lives as long as the call is the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    match text.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(Failure::argument(format!("{what} is not UTF-8 after {} bytes", error.valid_up_to()))),
    }
}

/// A list of texts.
pub(super) fn texts<'a>(what: &str, pointer: *const *const c_char, count: usize) -> Result<Vec<&'a str>> {
    items(what, pointer, count)?.iter().map(|item| text(what, *item)).collect()
}

/// A list of plain things.
pub(super) fn items<'a, T: Copy>(what: &str, pointer: *const T, count: usize) -> Result<&'a [T]> {
    slice(what, pointer, count, MOST_ITEMS)
}

/// Bytes.
pub(super) fn bytes<'a>(what: &str, pointer: *const u8, length: usize) -> Result<&'a [u8]> {
    slice(what, pointer, length, MOST_BYTES)
}

fn slice<'a, T: Copy>(what: &str, pointer: *const T, count: usize, most: usize) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check_pointer(what, pointer)?;
    if count > most {
        return Err(Failure::argument(format!("{what}: {count} is more than the {most} that are allowed")));
    }
    // SAFETY: not NULL, aligned, of a size far below the limit of slices; that there are so many initialised items that
    // nobody changes during the call is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Room that C provides for bytes. It need not be initialised.
pub(super) fn room<'a>(what: &str, pointer: *mut u8, length: usize) -> Result<&'a mut [MaybeUninit<u8>]> {
    if length == 0 {
        return Err(Failure::argument(format!("{what} has no room")));
    }
    check_pointer(what, pointer)?;
    // SAFETY: not NULL, and cut to what a slice may have; that there is so much room that nobody else uses during the
    // call is the caller's promise. Nothing is said about what is in it.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer.cast(), length.min(MOST_BYTES)) })
}

/// The address that a context pointer stands for. It is only ever handed back.
#[derive(Clone, Copy)]
pub(super) struct Opaque(pub(super) *mut c_void);

// SAFETY: nothing of ours looks behind it, and the header says that it may be handed back on any thread.
unsafe impl Send for Opaque {}
// SAFETY: as above.
unsafe impl Sync for Opaque {}

/// One of the choices that the header has a name for.
pub(super) fn choice<T: Copy>(what: &str, number: i32, all: &[T], number_of: fn(T) -> i32) -> Result<T> {
    let found = all.iter().copied().find(|choice| number_of(*choice) == number);
    found.ok_or_else(|| Failure::argument(format!("{what}: {number} is none of the choices")))
}

/// A structure of C, which may be shorter or longer than the one that this library knows. What is missing at its end is
/// zero, which always means the default; what is there beyond must be zero, for nobody here would do it.
pub(super) fn structure<T: Growing>(what: &str, pointer: *const T) -> Result<T> {
    let size = structure_size(what, pointer)?;
    // SAFETY: so many bytes are there, as `size` says.
    let given = unsafe { std::slice::from_raw_parts(pointer.cast::<MaybeUninit<u8>>(), size) };
    let known = size.min(size_of::<T>());
    // SAFETY: padding beyond what we know may be uninitialised for a compiler of C, but is memory with some bytes in it.
    if given[known..].iter().any(|byte| unsafe { (&raw const *byte).cast::<u8>().read_volatile() } != 0) {
        let message = format!(
            "{what}: something is set that this version of the library does not know (ABI {})",
            super::LW_ABI_VERSION
        );
        return Err(Failure::argument(message));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both are at least `known` bytes long and do not overlap. Any bytes are a value of `T`.
    unsafe {
        pointer.cast::<u8>().copy_to_nonoverlapping(value.as_mut_ptr().cast(), known);
        Ok(value.assume_init())
    }
}

/// The same, but NULL is a structure of zeros: all defaults.
pub(super) fn optional_structure<T: Growing>(what: &str, pointer: *const T) -> Result<T> {
    if pointer.is_null() {
        // SAFETY: zeros are a value of `T`.
        return Ok(unsafe { std::mem::zeroed() });
    }
    structure(what, pointer)
}

/// Fills a structure of C with as much of `value` as it has room for; its `size` stays. What is there beyond is cleared:
/// a caller that knows more finds nothing there, and not what lay there before.
pub(super) fn fill<T: Growing>(what: &str, pointer: *mut T, value: &T) -> Result<()> {
    let skipped = size_of::<usize>();
    let size = structure_size(what, pointer)?;
    let known = size.min(size_of::<T>());
    // SAFETY: so many bytes are there, as `size` says; `value` has as many as are known.
    unsafe {
        let (from, to) = ((&raw const *value).cast::<u8>(), pointer.cast::<u8>());
        from.add(skipped).copy_to_nonoverlapping(to.add(skipped), known - skipped);
        to.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

fn structure_size<T: Growing>(what: &str, pointer: *const T) -> Result<usize> {
    check_pointer(what, pointer)?;
    // SAFETY: not NULL and aligned; that the structure begins with its size is the caller's promise.
    let size = unsafe { pointer.cast::<usize>().read() };
    if (size_of::<usize>()..=LARGEST_STRUCTURE).contains(&size) {
        return Ok(size);
    }
    Err(Failure::argument(format!("{what}: {size} is no size; set it to sizeof of the structure")))
}

fn check_pointer<T>(what: &str, pointer: *const T) -> Result<()> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{what} must not be NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{what} is not aligned")));
    }
    Ok(())
}

/// A wait in milliseconds; [`LW_FOREVER`] has no end that anybody lives to see.
pub(super) fn milliseconds(number: u64) -> Duration {
    if number == LW_FOREVER { Duration::MAX } else { Duration::from_millis(number) }
}

/// A setting in milliseconds, of which 0 is the default.
pub(super) fn setting_ms(number: u64) -> Option<Duration> {
    (number != 0).then(|| milliseconds(number))
}
