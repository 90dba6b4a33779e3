//! The fence around every call into user code: a panic becomes a message, and the caller goes on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::printable::printable;

/// Calls `user_code`; a panic comes back as `<what> panicked: <message>`.
///
/// Unwind safety is asserted because nothing of ours is borrowed by what is called, and a driver that panicked is only
/// called again for things that it must be able to do after a failure.
pub(crate) fn fenced<T>(what: &str, user_code: impl FnOnce() -> T) -> Result<T, Arc<str>> {
    catch_unwind(AssertUnwindSafe(user_code)).map_err(|payload| {
        let message = message(payload.as_ref());
        // The payload is user code as well: its `Drop` may panic.
        match catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => printable(&format!("{what} panicked: {message}")).into(),
            Err(_) => format!("{what} panicked, and so did what it panicked with").into(),
        }
    })
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::fenced;

    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the payload's drop");
        }
    }

    #[test]
    fn w14_a_panic_becomes_a_message() {
        assert_eq!(fenced("it", || 1).unwrap(), 1);
        assert_eq!(&*fenced("it", || panic!("boom")).unwrap_err(), "it panicked: boom");
        let text = String::from("formatted");
        assert_eq!(&*fenced("it", || panic!("{text}")).unwrap_err(), "it panicked: formatted");
    }

    #[test]
    fn w14_a_payload_that_panics_when_dropped_does_no_harm() {
        let result = fenced("it", || std::panic::panic_any(Bomb));
        assert_eq!(&*result.unwrap_err(), "it panicked, and so did what it panicked with");
    }
}
