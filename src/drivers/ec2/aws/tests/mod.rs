//! The client as a whole: in a time of the test's own, and against a server that speaks the provider's API.

mod behaviour;
pub(super) mod botocore;
pub(super) mod fake;
mod logged;
#[cfg(feature = "testing")]
mod moto;
#[cfg(feature = "testing")]
mod moto_server;
pub(super) mod support;
