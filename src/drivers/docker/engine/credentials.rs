//! What proves to a registry who pulls.

use std::fmt;

use data_encoding::BASE64URL;

use crate::Secret;

/// A user of a container registry, and what proves it. Never shown, nor logged.
///
/// ```
/// use latent_worker::{RegistryCredentials, Secret};
///
/// let credentials = RegistryCredentials::new("robot", Secret::new("hunter2"));
/// assert!(!format!("{credentials:?}").contains("hunter2"));
/// ```
#[derive(Clone)]
pub struct RegistryCredentials {
    user: String,
    password: Secret,
}

impl RegistryCredentials {
    /// A user and a password, or an access token in its place.
    pub fn new(user: impl Into<String>, password: Secret) -> Self {
        Self { user: user.into(), password }
    }

    /// `X-Registry-Auth` (Docker Engine API, "Authentication").
    pub(super) fn header(&self) -> String {
        let json = serde_json::json!({ "username": self.user, "password": self.password.expose() });
        BASE64URL.encode(json.to_string().as_bytes())
    }
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCredentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_base64_that_is_safe_in_a_header() {
        let header = RegistryCredentials::new("u", Secret::new("p\u{fbff}\u{3ff}??>>")).header();
        assert!(header.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte)), "{header}");
        let json: serde_json::Value = serde_json::from_slice(&BASE64URL.decode(header.as_bytes()).unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({"username": "u", "password": "p\u{fbff}\u{3ff}??>>"}));
    }

    #[test]
    fn the_password_is_not_shown() {
        let shown = format!("{:?}", RegistryCredentials::new("robot", Secret::new("hunter2")));
        assert!(shown.contains("robot") && !shown.contains("hunter2"), "{shown}");
    }
}
