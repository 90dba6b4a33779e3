//! Which version of the API is spoken, and what an engine says about itself.

use std::fmt;
use std::str::FromStr;

use super::http::{Answer, Body, Request};
use super::{Engine, EngineError, Patience};

/// The oldest that knows all that is used here: `platform` of a container (Docker 20.10, Podman 4).
const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 41 };
/// The newest that is asked for (Docker 29): the changes up to it touch nothing that is used here
/// (moby/moby, `api/docs/CHANGELOG.md`).
const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 52 };

/// The first in which images are looked at for a platform (Docker 28.1).
const PLATFORMS_OF_IMAGES: ApiVersion = ApiVersion { major: 1, minor: 49 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApiVersion {
    major: u32,
    minor: u32,
}

impl FromStr for ApiVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.trim().split_once('.').ok_or(())?;
        Ok(Self { major: major.parse().map_err(drop)?, minor: minor.parse().map_err(drop)? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The newest version that both know.
fn common(engine: ApiVersion) -> Option<ApiVersion> {
    (engine >= OLDEST).then(|| engine.min(NEWEST))
}

/// Engines refuse a version that they do not speak with 400 and, at least, these words.
fn is_about_version(error: &EngineError) -> bool {
    match error {
        EngineError::Status { status: 400, message, .. } => {
            message.contains("client version") && (message.contains("too new") || message.contains("too old"))
        }
        _ => false,
    }
}

impl Engine {
    /// Asks in the version that both know. An engine that was replaced by one of another version is asked again for that.
    pub(super) fn call(&self, mut request: Request<'_>, patience: Patience<'_>) -> Result<Answer, EngineError> {
        let api = self.agreed(patience)?;
        match self.shared.lines.call(&mut request, &format!("/v{api}"), patience) {
            Err(error) if is_about_version(&error) => {
                *self.shared.api.lock() = None;
                let now = self.agree(patience)?;
                // What was streamed is gone; whoever streams asks for the version before.
                if now == api || matches!(request.body, Body::Tar(_)) {
                    let engine = self.address();
                    return Err(EngineError::Version(format!(
                        "the Docker engine at {engine} and this library have no version of the API in common: {error}"
                    )));
                }
                self.shared.lines.call(&mut request, &format!("/v{now}"), patience)
            }
            result => result,
        }
    }

    /// The version that is spoken.
    fn agreed(&self, patience: Patience<'_>) -> Result<ApiVersion, EngineError> {
        let known = *self.shared.api.lock();
        known.map_or_else(|| self.agree(patience), Ok)
    }

    /// Whether images can be looked at for one platform of several.
    pub(super) fn knows_platforms_of_images(&self, patience: Patience<'_>) -> Result<bool, EngineError> {
        Ok(self.agreed(patience)? >= PLATFORMS_OF_IMAGES)
    }

    /// Asks the engine for its version now, and chooses.
    pub(super) fn agree(&self, patience: Patience<'_>) -> Result<ApiVersion, EngineError> {
        let mut ping = Request::get("/_ping", "greet the Docker engine");
        // What refuses a greeting is no engine, or not one that is spoken to in this way: whatever was to be asked of it.
        let answer = self.shared.lines.call(&mut ping, "", patience).map_err(|error| match error {
            EngineError::Status { status, message, .. } if status != 429 => EngineError::Unreachable(format!(
                "what listens at {} does not greet like a Docker engine: {message} (status {status}); is this its \
                 address, and is TLS needed?",
                self.address()
            )),
            error => error,
        })?;
        let said =
            answer.headers.get("api-version").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let Ok(engine) = said.parse::<ApiVersion>() else {
            return Err(answer.malformed("it names no version of the API; is this a Docker engine?"));
        };
        answer.done()?;
        let api = common(engine).ok_or_else(|| {
            EngineError::Version(format!(
                "the Docker engine at {} speaks version {engine} of the API; at least {OLDEST} is needed (Docker 20.10)",
                self.address()
            ))
        })?;
        *self.shared.api.lock() = Some(api);
        Ok(api)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ApiVersion {
        text.parse().unwrap()
    }

    #[test]
    fn the_newest_version_is_chosen_that_both_know() {
        assert_eq!(common(version("1.41")), Some(version("1.41")));
        assert_eq!(common(version("1.52")), Some(NEWEST));
        // Today's engines refuse what is older than 1.44, and tomorrow's will be newer than this library.
        assert_eq!(common(version("1.99")), Some(NEWEST));
        assert_eq!(common(version("2.0")), Some(NEWEST));
        assert_eq!(common(version("1.40")), None);
        // By number, not by text.
        assert_eq!(common(version("1.9")), None);
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "1", "1.", ".41", "v1.41", "1.41.2"] {
            assert!(text.parse::<ApiVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn engines_say_that_they_do_not_speak_a_version() {
        let answered = |status, message: &str| {
            is_about_version(&EngineError::Status {
                doing: String::new(),
                status,
                message: message.into(),
                retry_after: None,
            })
        };
        // Docker 20.10 and 29.
        assert!(answered(400, "client version 1.55 is too new. Maximum supported API version is 1.41"));
        assert!(answered(400, "client version 1.1 is too old. Minimum supported API version is 1.12, please upgrade"));
        assert!(!answered(400, "invalid reference format"));
        assert!(!answered(500, "client version 1.55 is too new. Maximum supported API version is 1.41"));
    }
}
