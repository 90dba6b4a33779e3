//! The credentials of registries, and for which images they are sent.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64URL;

use super::registry::Registry;
use crate::Secret;

/// A user of one container registry, and the user's password. The password is sent for images of that registry only. It
/// is never shown or logged.
///
/// ```
/// use latent_worker::{RegistryCredentials, Secret};
///
/// # fn main() -> Result<(), latent_worker::RegistryCredentialsError> {
/// let credentials = RegistryCredentials::new("ghcr.io", "robot", Secret::new("hunter2"))?;
/// assert!(!format!("{credentials:?}").contains("hunter2"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RegistryCredentials {
    registry: Registry,
    user: String,
    password: Secret,
}

/// Why [`RegistryCredentials`] cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("invalid registry credentials: {0}")]
pub struct RegistryCredentialsError(String);

impl RegistryCredentials {
    /// Creates credentials of a user with a password, or with an access token in place of the password.
    ///
    /// `registry` is the host of the registry, with its port if that is not 443: `ghcr.io`, `localhost:5000`. Docker Hub
    /// is `docker.io`; its other names, such as `https://index.docker.io/v1/`, mean the same.
    ///
    /// # Errors
    ///
    /// Returns an error if the registry is not a host, or the user or the password is empty or contains control
    /// characters.
    pub fn new(
        registry: impl AsRef<str>,
        user: impl Into<String>,
        password: Secret,
    ) -> Result<Self, RegistryCredentialsError> {
        let registry = Registry::parse(registry.as_ref()).map_err(RegistryCredentialsError)?;
        let user = user.into();
        for (what, text) in [("user", user.as_str()), ("password", password.expose())] {
            let problem = match text {
                "" => "is empty",
                text if text.contains(char::is_control) => "contains control characters, such as a line break",
                _ => continue,
            };
            return Err(RegistryCredentialsError(format!("the {what} for {registry} {problem}")));
        }
        Ok(Self { registry, user, password })
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "username": self.user,
            "password": self.password.expose(),
            "serveraddress": self.registry.server_address(),
        })
    }
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCredentials")
            .field("registry", &format_args!("{}", self.registry))
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The credentials of a driver, at most one for each registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring(Vec<RegistryCredentials>);

impl Keyring {
    /// Adds credentials. Returns the name of the registry as an error if it already has credentials.
    pub(crate) fn add(&mut self, credentials: RegistryCredentials) -> Result<(), String> {
        if self.0.iter().any(|known| known.registry == credentials.registry) {
            return Err(credentials.registry.to_string());
        }
        self.0.push(credentials);
        Ok(())
    }

    /// Returns whether there are credentials for the registry of an image.
    pub(crate) fn has_for(&self, reference: &str) -> bool {
        self.of(reference).is_some()
    }

    /// Returns the value of `X-Registry-Auth` for a pull of this image (Docker Engine API, "Authentication"). `None` if
    /// there are no credentials for its registry.
    pub(super) fn pull_header(&self, reference: &str) -> Option<String> {
        self.of(reference).map(|credentials| header(&credentials.json()))
    }

    /// Returns the value of `X-Registry-Config` for a build (Docker Engine API, "Build an image"). The recipe may start
    /// from images of any registry: the engine uses only the credentials of the registry that it connects to.
    pub(super) fn build_header(&self) -> Option<String> {
        let all = self.0.iter().map(|credentials| (credentials.registry.server_address(), credentials.json()));
        let all: BTreeMap<_, _> = all.collect();
        (!all.is_empty()).then(|| header(&serde_json::json!(all)))
    }

    fn of(&self, reference: &str) -> Option<&RegistryCredentials> {
        let registry = Registry::of_image(reference)?;
        self.0.iter().find(|credentials| credentials.registry == registry)
    }
}

fn header(json: &serde_json::Value) -> String {
    BASE64URL.encode(json.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrecy::{assert_reveals_nothing, shown};

    fn credentials(registry: &str, password: &str) -> RegistryCredentials {
        RegistryCredentials::new(registry, "robot", Secret::new(password)).unwrap()
    }

    fn decoded(header: &str) -> serde_json::Value {
        assert!(header.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte)), "{header}");
        serde_json::from_slice(&BASE64URL.decode(header.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn the_header_is_base64_that_is_safe_in_a_header() {
        let mut keyring = Keyring::default();
        keyring.add(credentials("h:1", "p\u{fbff}\u{3ff}??>>")).unwrap();
        let header = decoded(&keyring.pull_header("h:1/x").unwrap());
        let expected = serde_json::json!({
            "username": "robot", "password": "p\u{fbff}\u{3ff}??>>", "serveraddress": "h:1",
        });
        assert_eq!(header, expected);
    }

    #[test]
    fn a1_credentials_are_for_one_registry_alone() {
        let mut keyring = Keyring::default();
        keyring.add(credentials("https://index.docker.io/v1/", "of the hub")).unwrap();
        keyring.add(credentials("Registry.example:5000", "of mine")).unwrap();
        let password = |image: &str| keyring.pull_header(image).map(|header| decoded(&header)["password"].clone());
        for image in ["rust", "rust:1", "team/rust", "docker.io/team/rust", "index.docker.io/rust", "DOCKER.IO/rust"] {
            assert_eq!(password(image).unwrap(), "of the hub", "{image}");
        }
        for image in ["registry.example:5000/x", "REGISTRY.example:5000/a/b@sha256:01", "registry.example:05000/x:1"] {
            assert_eq!(password(image).unwrap(), "of mine", "{image}");
        }
        for image in [
            "evil.example/x",
            "evil.example/docker.io/x",
            "evil.example/registry.example:5000/x",
            "registry.example/x",
            "registry.example:443/x",
            "registry.example:5001/x",
            "registry.example.:5000/x",
            "xregistry.example:5000/x",
            "registry.example:5000.evil.example/x",
            "registry.example:5000@evil.example/x",
            "docker.io.evil.example/x",
            "docker.io:5000/x",
            "docker.io@evil.example/x",
            "user:docker.io@evil.example/x",
            "evildocker.io/x",
            "localhost/x",
            "LOCAL/x",
            "[::1]/x",
            "a:b/x",
            "",
            "/",
        ] {
            assert_eq!(password(image), None, "{image}");
        }
    }

    #[test]
    fn a_build_has_the_credentials_of_all_registries_by_their_address() {
        let mut keyring = Keyring::default();
        assert_eq!(keyring.build_header(), None);
        keyring.add(credentials("docker.io", "of the hub")).unwrap();
        keyring.add(credentials("[0::1]:5000", "of mine")).unwrap();
        let all = decoded(&keyring.build_header().unwrap());
        assert_eq!(all["https://index.docker.io/v1/"]["password"], "of the hub");
        assert_eq!(all["[::1]:5000"]["password"], "of mine");
        assert_eq!(all.as_object().unwrap().len(), 2);
    }

    #[test]
    fn two_for_one_registry_are_refused() {
        let mut keyring = Keyring::default();
        keyring.add(credentials("docker.io", "a")).unwrap();
        assert_eq!(keyring.add(credentials("registry-1.docker.io:443", "b")).unwrap_err(), "docker.io");
    }

    #[test]
    fn a1_a_password_is_in_no_error_and_not_shown() {
        let secret = "tr0ub4dor&3";
        let mut random = fastrand::Rng::with_seed(10);
        let mut refused = 0;
        for number in 0..2_000 {
            let password = crate::secrecy::damaged(secret.as_bytes(), &mut random);
            let password = String::from_utf8_lossy(&password).into_owned();
            // The password in the wrong place, too, as people paste `user:password@host`.
            let registry = if number % 2 == 0 { "ghcr.io".into() } else { format!("robot:{password}@ghcr.io") };
            match RegistryCredentials::new(registry, "robot", Secret::new(password)) {
                Ok(credentials) => assert_reveals_nothing(&format!("{credentials:?}"), secret.as_bytes()),
                Err(error) => {
                    refused += 1;
                    assert_reveals_nothing(&shown(&error), secret.as_bytes());
                }
            }
        }
        assert!(refused > 1_000, "{refused}");
        for (user, password) in [("", "x"), ("x", ""), ("x\n", "x"), ("x", "x\r\n"), ("x", "x\0")] {
            assert!(RegistryCredentials::new("ghcr.io", user, Secret::new(password)).is_err());
        }
    }
}
