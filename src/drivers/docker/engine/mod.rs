//! The Docker Engine API, as far as a driver of containers needs it; Podman's compatible socket speaks it too.
//!
//! Every call blocks on the thread that makes it, until it is answered, its [`Patience`] ends, or it is cancelled. What an
//! answer means for an instance is decided by the driver.

mod address;
mod containers;
mod context;
mod credentials;
mod error;
mod http;
mod ignore;
mod images;
mod log;
mod names;
mod networks;
mod patience;
mod progress;
mod registry;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod version;
mod watch;

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};

use self::context::tar_file;
use self::http::Lines;
use self::version::ApiVersion;

pub use address::{EngineAddress, EngineAddressError};
pub(super) use containers::{Ended, State};
pub(super) use context::BuildContext;
pub(super) use credentials::Keyring;
pub use credentials::{RegistryCredentials, RegistryCredentialsError};
pub(super) use error::EngineError;
pub(super) use images::{Image, ImageBuild, Pull};
pub(super) use patience::Patience;

/// One Docker engine. Cheap to clone; usable from many threads. The clones share its idle connections.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lines: Arc<Lines>,
    /// The version of the API that was agreed on.
    api: Mutex<Option<ApiVersion>>,
}

impl Engine {
    /// Does not connect yet; which version of the API is spoken is agreed on with the first call.
    pub(super) fn new(address: EngineAddress) -> Self {
        Self { shared: Arc::new(Shared { lines: Arc::new(Lines::new(address)), api: Mutex::default() }) }
    }

    pub(super) fn address(&self) -> &EngineAddress {
        self.shared.lines.address()
    }
}

/// Podman sends `null` for what is empty.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

/// The longest beginning of a text that has no more bytes than this. (In std since Rust 1.91.)
fn floor_char_boundary(text: &str, most: usize) -> usize {
    let is_boundary = |end: &usize| text.is_char_boundary(*end);
    (0..=most.min(text.len())).rev().find(is_boundary).unwrap_or_default()
}

#[cfg(test)]
mod tests;
