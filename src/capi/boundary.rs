//! The one way in: every exported function does its work within [`boundary`], which keeps panics and forked processes
//! out and says what went wrong.
//!
//! A function that has something to return returns it through a pointer: its own value is always a code.

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::code::lw_code;
use super::fork;

/// What a call came to when it did not do what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: lw_code,
    pub(super) message: Cow<'static, CStr>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.to_string_lossy())
    }
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn new(code: lw_code, message: impl ToString) -> Self {
        Self { code, message: c_text(&message.to_string()).into() }
    }

    /// What is no news, such as that nothing is there yet: it is made in no time.
    pub(super) fn expected(code: lw_code, message: &'static CStr) -> Self {
        Self { code, message: message.into() }
    }

    /// The caller has passed something that makes no sense.
    pub(super) fn argument(message: impl ToString) -> Self {
        Self::new(lw_code::LW_ERROR_ARGUMENT, message)
    }

    /// This build of the library does not have it.
    #[allow(dead_code, reason = "a build with all features has everything")]
    pub(super) fn not_built(what: &str, feature: &str) -> Self {
        let message = format!("{what}: this library was built without the feature `{feature}`");
        Self::new(lw_code::LW_ERROR_UNSUPPORTED, message)
    }
}

const FORKED: &CStr = c"this process was forked after the library had been used: its threads are in the parent; use the library in the parent, or after an exec";

thread_local! {
    /// What the last call on this thread that failed has to say.
    static LAST_MESSAGE: RefCell<Cow<'static, CStr>> = const { RefCell::new(Cow::Borrowed(c"")) };
}

/// Does the work of one exported function. Everything goes through here.
///
/// Unwind safety is asserted as in the runtime's own fence: what is shared between calls is behind locks that know no
/// poison, and is changed in single steps.
pub(super) fn boundary(work: impl FnOnce() -> Result<()>) -> lw_code {
    if fork::is_forked() {
        // Without any lock: whoever held it is not in this process.
        return lw_code::LW_ERROR_FORKED;
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        #[cfg(test)]
        super::tests::passage();
        work()
    }));
    let failure = match outcome {
        Ok(Ok(())) => return lw_code::LW_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::new(lw_code::LW_ERROR_PANIC, format!("the library panicked: {}", message_of(payload))),
    };
    // On a thread that is ending there may be no place for it any more.
    let _ = LAST_MESSAGE.try_with(|last| last.replace(failure.message));
    failure.code
}

/// What the last failed call on this thread has to say; it lives until the next one that fails.
pub(super) fn last_message() -> *const c_char {
    if fork::is_forked() {
        return FORKED.as_ptr();
    }
    LAST_MESSAGE.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// As C has texts. A NUL within becomes the replacement character, so that nothing is cut off in silence.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default())
}

/// The message of a panic. Its payload may panic when it is dropped.
fn message_of(payload: Box<dyn Any + Send>) -> String {
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no message".to_owned(),
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    message
}
