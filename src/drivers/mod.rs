//! The kinds of workers that come with the library, one feature each. They use nothing but what every user can.

#[cfg(all(feature = "local", unix))]
pub(crate) mod local;
