//! Who asks: where credentials are looked for, in which order, and how long they are used.
//!
//! Given ones, the environment, a profile, a container's endpoint, a token of a web identity, the machine's own role: nearly
//! the order of the AWS SDKs, some of which look for the web identity before the profile.

mod cache;
mod container;
mod environment;
mod machine;
mod metadata;
mod profile;
mod role;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::time::Instant;

use super::error::{AwsError, Class};
use super::http::Wire;
use super::place::Endpoint;
use super::skew::Skew;
use super::time::Timestamp;
use crate::Secret;
use crate::drivers::given::check_word;

pub(super) use self::cache::Cache;
pub(super) use self::machine::region as region_of_machine;
pub(super) use self::metadata::Metadata;

/// For errors.
const DOING: &str = "find credentials";

/// An access key, and a token with it if it is a temporary one. Never logged, nor shown but for the end of the key's id.
///
/// ```
/// use latent_worker::{AwsCredentials, Secret};
///
/// let credentials = AwsCredentials::new("AKIDEXAMPLE", Secret::new("hunter2"));
/// assert!(!format!("{credentials:?}").contains("hunter2"));
/// ```
#[derive(Clone)]
pub struct AwsCredentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Secret,
    pub(super) session_token: Option<Secret>,
    pub(super) expires: Option<Timestamp>,
    /// Who it is, also after they were replaced by newer ones of the same.
    pub(super) identity: String,
}

impl AwsCredentials {
    /// An access key of a user.
    pub fn new(access_key_id: impl Into<String>, secret_access_key: Secret) -> Self {
        let access_key_id = access_key_id.into();
        let identity = format!("key {access_key_id}");
        Self { access_key_id, secret_access_key, session_token: None, expires: None, identity }
    }

    /// With the token of temporary ones. They are used as long as the provider takes them.
    #[must_use]
    pub fn with_session_token(mut self, token: Secret) -> Self {
        self.session_token = Some(token);
        self
    }

    /// Checks that the credentials can be sent in a header: otherwise the request would fail, and look like a network
    /// error.
    pub(super) fn check(&self) -> Result<(), String> {
        let token = self.session_token.as_ref().map(Secret::expose);
        let parts = [
            ("the access key id", Some(self.access_key_id.as_str())),
            ("the secret access key", Some(self.secret_access_key.expose())),
            ("the session token", token),
        ];
        for (what, part) in parts {
            part.map_or(Ok(()), check_word).map_err(|problem| format!("{what} {problem}"))?;
        }
        Ok(())
    }

    fn of(self, identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), ..self }
    }

    /// Whether they are good for this long.
    fn last(&self, now: Timestamp, seconds: i64) -> bool {
        self.expires.is_none_or(|expires| expires.0.saturating_sub(now.0) > seconds)
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.access_key_id.len().saturating_sub(4);
        let end = self.access_key_id.get(start..).unwrap_or_default();
        f.debug_struct("AwsCredentials").field("access_key_id", &format_args!("...{end}")).finish_non_exhaustive()
    }
}

/// What a source has.
enum Found {
    Credentials(AwsCredentials),
    /// It is not used here: why.
    Nothing(String),
}

type Source = fn(&Sources<'_>) -> Result<Found, AwsError>;

/// With whom a source speaks.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) metadata: Metadata<'a>,
    /// To the provider.
    pub(super) provider: &'a dyn Wire,
    /// Where roles are taken on, and in which region that is.
    pub(super) sts: &'a Endpoint,
    pub(super) region: &'a str,
    /// The profile that the user has named.
    pub(super) profile: Option<&'a str>,
    pub(super) skew: &'a Skew,
}

impl Sources<'_> {
    /// The first source that has any. One that is set up and fails ends the search: others would be somebody else.
    fn find(&self) -> Result<AwsCredentials, AwsError> {
        let sources: [(&str, Source); 5] = [
            ("environment", environment::find),
            ("profile", profile::find),
            ("container", container::find),
            ("web identity", role::find),
            ("machine", machine::find),
        ];
        let mut nothing = Vec::new();
        for (name, find) in sources {
            match find(self)? {
                Found::Credentials(credentials) => return Ok(credentials),
                Found::Nothing(why) => nothing.push(format!("{name}: {why}")),
            }
        }
        Err(failed(format!("there are none: {}", nothing.join("; "))))
    }

    /// See [`Surroundings::variable`](super::surroundings::Surroundings).
    fn variable(&self, name: &str) -> Result<Option<String>, AwsError> {
        self.metadata.around.variable(name).map_err(failed)
    }

    /// See [`Surroundings::word`](super::surroundings::Surroundings).
    fn word(&self, name: &str) -> Result<Option<String>, AwsError> {
        self.metadata.around.word(name).map_err(failed)
    }

    /// Reads a token from a file.
    fn token_file(&self, path: &str) -> Result<String, AwsError> {
        // A text that is not an absolute path may be the token itself, passed instead of the path of its file.
        let shown = if Path::new(path).is_absolute() { path } else { "a file with a relative path" };
        let error = |why: &dyn fmt::Display| failed(format!("cannot use the token in {shown}: {why}"));
        let text = self.metadata.around.file(Path::new(path)).map_err(|why| error(&why))?;
        let token = text.trim();
        check_word(token).map_err(|problem| error(&format_args!("it {problem}")))?;
        Ok(token.into())
    }

    fn now(&self) -> Instant {
        self.metadata.patience.now()
    }

    /// By the provider's clock.
    fn time(&self) -> Timestamp {
        self.skew.corrected(self.metadata.patience.wall())
    }
}

fn failed(message: impl Into<String>) -> AwsError {
    AwsError::new(Class::Credentials, DOING, message)
}

/// Credentials as the services of containers and machines write them.
fn of_json(text: &str) -> Result<AwsCredentials, String> {
    // Without the text, which has the secrets in it.
    let json: serde_json::Value = serde_json::from_str(text).map_err(|_| "its answer is not JSON")?;
    let field = |name: &str| json.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
    if let Some(code) = field("Code").filter(|code| *code != "Success") {
        return Err(format!("it says {code}: {}", field("Message").unwrap_or_default()));
    }
    let (Some(id), Some(secret)) = (field("AccessKeyId"), field("SecretAccessKey")) else {
        return Err("its answer has no access key in it".into());
    };
    let mut credentials = AwsCredentials::new(id, Secret::new(secret));
    credentials.session_token = field("Token").or_else(|| field("SessionToken")).map(Secret::new);
    credentials.expires = match field("Expiration") {
        Some(text) => Some(Timestamp::from_iso8601(text).ok_or("its answer has an invalid expiry time")?),
        None => None,
    };
    credentials.check()?;
    Ok(credentials)
}
