//! Finds the registry of an image.
//!
//! Pure. References are parsed as engines parse them (github.com/distribution/reference).

use core::net::Ipv6Addr;
use std::borrow::Cow;
use std::fmt;

const DOCKER_HUB: &str = "docker.io";
/// The hosts from which engines pull images of `docker.io`.
const NAMES_OF_DOCKER_HUB: [&str; 3] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];
const HTTPS_PORT: u16 = 443;

/// A registry, identified by its host and port: two names of the same registry are equal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Registry {
    /// In lower case; an IPv6 address has brackets.
    host: String,
    /// `None` means the default port of HTTPS.
    port: Option<u16>,
}

impl Registry {
    /// Parses the registry that a user names: `host[:port]`, or a URL with no path except the version of the API.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let end = ["/v1/", "/v1", "/v2/", "/v2", "/"].into_iter().find(|end| rest.ends_with(end)).unwrap_or_default();
        // The error does not repeat the text: there may be a password before an @.
        Self::of_host(&rest[..rest.len() - end.len()])
            .ok_or_else(|| "invalid registry: expected a host such as ghcr.io or localhost:5000".into())
    }

    /// The registry of an image. `None` if the reference is malformed.
    pub(super) fn of_image(reference: &str) -> Option<Self> {
        let registry = match reference.split_once('/') {
            Some((first, _)) if names_a_registry(first) => first,
            Some(("", _)) => return None,
            None if reference.is_empty() => return None,
            _ => DOCKER_HUB,
        };
        Self::of_host(registry)
    }

    fn of_host(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let plain =
                    host.chars().all(|character| character.is_ascii_alphanumeric() || "-._".contains(character));
                if host.is_empty() || !plain {
                    return None;
                }
                (host.to_ascii_lowercase(), port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => HTTPS_PORT,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            _ => return None,
        };
        let port = (port != HTTPS_PORT).then_some(port);
        match port.is_none() && NAMES_OF_DOCKER_HUB.contains(&host.as_str()) {
            true => Some(Self { host: DOCKER_HUB.into(), port }),
            false => Some(Self { host, port }),
        }
    }

    /// Returns the name of the registry in the credentials files of engines.
    pub(super) fn server_address(&self) -> String {
        match self.host.as_str() {
            DOCKER_HUB if self.port.is_none() => "https://index.docker.io/v1/".into(),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// The name of an image with its registry.
pub(super) fn with_registry(name: &str) -> Cow<'_, str> {
    match name.split_once('/') {
        Some((first, _)) if names_a_registry(first) => name.into(),
        Some(_) => format!("{DOCKER_HUB}/{name}").into(),
        None => format!("{DOCKER_HUB}/library/{name}").into(),
    }
}

/// Returns whether the first part of a reference with a slash is a registry, and not a user of Docker Hub.
fn names_a_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.contains(|character: char| character.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_registry_are_equal() {
        for (names, shown) in [
            (
                &[
                    "docker.io",
                    "Docker.io",
                    "index.docker.io",
                    "registry-1.docker.io:443",
                    "https://index.docker.io/v1/",
                    "https://docker.io",
                ][..],
                "docker.io",
            ),
            (&["ghcr.io", "GHCR.IO:443", "https://ghcr.io/", "http://ghcr.io/v2/", "ghcr.io/v2"], "ghcr.io"),
            (&["localhost:5000", "LOCALHOST:05000"], "localhost:5000"),
            (&["[::1]:5000", "[0:0::1]:5000"], "[::1]:5000"),
            (&["docker.io:5000"], "docker.io:5000"),
        ] {
            for name in names {
                assert_eq!(Registry::parse(name).unwrap().to_string(), shown, "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_host_is_no_registry() {
        for bad in [
            "",
            "https://",
            "a b",
            "ghcr.io/team",
            "user@ghcr.io",
            "user:word@ghcr.io",
            "ghcr.io:x",
            "ghcr.io:70000",
            "ghcr.io:+1",
            "ghcr.io:",
            "[::1",
            "[x]",
            "[::1]5000",
            "ghcr.io\n",
            "*.io",
            "https://https://ghcr.io",
        ] {
            assert!(Registry::parse(bad).is_err(), "{bad:?}");
        }
    }
}
