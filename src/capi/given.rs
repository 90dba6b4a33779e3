//! What C is given to keep until it frees it with `lw_free`: texts, and structures that point to texts and bytes.
//!
//! All of it stays in a table of ours, so that freeing twice, or something that was never given, is told and not done.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::boundary::{Failure, Result, c_text};
use super::code::lw_code::LW_ERROR_HANDLE;

static GIVEN: Mutex<BTreeMap<usize, Box<dyn Any + Send>>> = Mutex::new(BTreeMap::new());

/// A structure that C may look at, with all that it points to. Neither moves nor changes as long as this lives.
pub(super) struct View<T> {
    /// Not a `Box`, whose moves end what was said of its address.
    view: Arc<T>,
    _texts: Texts,
}

// SAFETY: the pointers in `view` lead to what is owned beside it, which nobody changes; it is only dropped here.
unsafe impl<T> Send for View<T> {}

impl<T> View<T> {
    /// Makes the structure out of pointers into `Texts`.
    pub(super) fn new(make: impl FnOnce(&mut Texts) -> T) -> Self {
        let mut texts = Texts::default();
        let view = Arc::new(make(&mut texts));
        Self { view, _texts: texts }
    }

    pub(super) fn as_ptr(&self) -> *const T {
        Arc::as_ptr(&self.view)
    }
}

/// What a [`View`] under construction points to.
#[derive(Default)]
pub(super) struct Texts {
    /// What an item owns stays where it is when this grows.
    bytes: Vec<Vec<u8>>,
}

impl Texts {
    pub(super) fn text(&mut self, text: &str) -> *const c_char {
        self.bytes(c_text(text).into_bytes_with_nul()).cast()
    }

    pub(super) fn optional(&mut self, text: Option<&str>) -> *const c_char {
        text.map_or(ptr::null(), |text| self.text(text))
    }

    pub(super) fn bytes(&mut self, bytes: Vec<u8>) -> *const u8 {
        let pointer = bytes.as_ptr();
        self.bytes.push(bytes);
        pointer
    }
}

/// Hands a structure out.
pub(super) fn give<T: 'static>(view: View<T>) -> *const T {
    let pointer = view.as_ptr();
    keep(pointer.addr(), Box::new(view));
    pointer
}

/// Hands a text out.
pub(super) fn give_text(text: &str) -> *const c_char {
    let text = c_text(text).into_bytes_with_nul();
    let pointer = text.as_ptr();
    keep(pointer.addr(), Box::new(text));
    pointer.cast()
}

fn keep(address: usize, what: Box<dyn Any + Send>) {
    #[cfg(test)]
    super::tests::passage();
    let before = GIVEN.lock().insert(address, what);
    debug_assert!(before.is_none(), "memory that is in use was given out again");
}

/// Takes it back.
pub(super) fn take_back(pointer: *const c_void) -> Result<()> {
    if pointer.is_null() {
        return Ok(());
    }
    #[cfg(test)]
    super::tests::passage();
    let taken = GIVEN.lock().remove(&pointer.addr());
    match taken {
        Some(_) => Ok(()),
        None => {
            let message = "this was freed already, or is not from this library";
            Err(Failure::new(LW_ERROR_HANDLE, message))
        }
    }
}

pub(super) fn count() -> usize {
    #[cfg(test)]
    super::tests::passage();
    GIVEN.lock().len()
}
