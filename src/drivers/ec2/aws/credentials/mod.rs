//! Who asks: where credentials are looked for, in which order, and how long they are used.
//!
//! The order is that of the AWS SDKs ("Standardized credential providers"): given ones, the environment, a profile, a
//! container's endpoint, a token of a web identity, the machine's own role.

mod container;
mod environment;
pub(super) mod machine;
mod profile;
mod role;

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use ureq::http::Method;

use super::error::{AwsError, Class};
use super::http::{Answer, Asking, NoAnswer, Wire};
use super::patience::Patience;
use super::surroundings::Surroundings;
use super::time::Timestamp;
use crate::Secret;

/// For errors.
const DOING: &str = "find credentials";
/// They are replaced when they expire within this, so that no request is on its way when they do.
const EARLY: i64 = 300;
/// So often somebody who waits for others to bring them looks whether that is still wanted.
const TICK: Duration = Duration::from_millis(100);

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

/// With whom a source speaks.
pub(super) struct Sources<'a> {
    pub(super) around: &'a dyn Surroundings,
    /// To services of this machine, and next to it.
    pub(super) metadata: &'a dyn Wire,
    /// To the provider.
    pub(super) provider: &'a dyn Wire,
    /// Where roles are taken on, and in which region that is.
    pub(super) sts: &'a str,
    pub(super) region: &'a str,
    /// The profile that the user has named.
    pub(super) profile: Option<&'a str>,
    pub(super) patience: &'a Patience<'a>,
    /// What the provider's clock is ahead.
    pub(super) skew: i64,
}

impl Sources<'_> {
    /// The first source that has any. One that is set up and fails ends the search: others would be somebody else.
    fn find(&self) -> Result<AwsCredentials, AwsError> {
        let sources: [(&str, fn(&Self) -> Result<Found, AwsError>); 5] = [
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

    fn now(&self) -> Timestamp {
        Timestamp(self.patience.wall().0.saturating_add(self.skew))
    }

    /// What a metadata service answers with 200. Asked twice, because one that is busy answers with 5xx or not at all.
    fn metadata(&self, asking: &Asking<'_>) -> Result<Answer, String> {
        let mut why = String::new();
        for _ in 0..2 {
            let left = self.patience.left(DOING).map_err(|error| error.to_string())?;
            why = match self.metadata.ask(asking, left, self.patience.cancel()) {
                Ok(answer) if answer.status == 200 => return Ok(answer),
                Ok(answer) if answer.status < 500 => return Err(format!("it answers with status {}", answer.status)),
                Ok(answer) => format!("it answers with status {}", answer.status),
                Err(NoAnswer::Cancelled { .. }) => return Err("cancelled".into()),
                Err(NoAnswer::TimedOut) => "it does not answer".into(),
                Err(NoAnswer::Unreachable(why) | NoAnswer::Lost(why)) => why,
            };
        }
        Err(why)
    }

    fn get(&self, uri: &str, headers: &[(&'static str, String)]) -> Result<Answer, String> {
        self.metadata(&Asking { method: Method::GET, uri, headers, body: b"" })
    }
}

fn failed(message: impl Into<String>) -> AwsError {
    AwsError::new(Class::Credentials, DOING, message)
}

/// Credentials as the services of containers and machines write them.
fn of_json(text: &str) -> Result<AwsCredentials, String> {
    // Without the text, which has the secrets in it.
    let json: serde_json::Value = serde_json::from_str(text).map_err(|_| "its answer is no JSON")?;
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
        Some(text) => Some(Timestamp::from_iso8601(text).ok_or("its answer has a time in it that is none")?),
        None => None,
    };
    Ok(credentials)
}

/// The credentials in use.
#[derive(Debug, Default)]
pub(super) struct Cache {
    held: Mutex<Option<AwsCredentials>>,
    /// Held by the one who brings new ones. The others use what there is as long as it is good.
    bringing: Mutex<()>,
}

impl Cache {
    /// Those that are held, or new ones when these will expire soon.
    pub(super) fn get(&self, sources: &Sources<'_>) -> Result<AwsCredentials, AwsError> {
        let held = |seconds| self.held.lock().clone().filter(|credentials| credentials.last(sources.now(), seconds));
        loop {
            if let Some(credentials) = held(EARLY) {
                return Ok(credentials);
            }
            let bringing = self.bringing.try_lock();
            match (bringing, held(0)) {
                (Some(_bringing), still_good) => {
                    // Somebody else may just have done it.
                    if let Some(credentials) = held(EARLY) {
                        return Ok(credentials);
                    }
                    return match (sources.find(), still_good) {
                        (Ok(found), _) => {
                            *self.held.lock() = Some(found.clone());
                            Ok(found)
                        }
                        (Err(error), Some(still_good)) => {
                            log::warn!("credentials that expire soon could not be replaced: {error}");
                            Ok(still_good)
                        }
                        (Err(error), None) => Err(error),
                    };
                }
                (None, Some(still_good)) => return Ok(still_good),
                (None, None) => sources.patience.wait(TICK, DOING)?,
            }
        }
    }

    /// The provider does not take these any more. Whether there may be others.
    pub(super) fn rejected(&self, credentials: &AwsCredentials) {
        let mut held = self.held.lock();
        if held.as_ref().is_some_and(|held| held.access_key_id == credentials.access_key_id) {
            *held = None;
        }
    }
}

#[cfg(test)]
mod tests;
