//! An access key in the environment.

use super::super::error::AwsError;
use super::{AwsCredentials, Found, Sources, failed};
use crate::Secret;

const ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";

pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    // A profile that was named in the settings is meant to be used.
    if sources.profile.is_some() {
        return Ok(Found::Nothing("a profile is named in the settings".into()));
    }
    match (sources.word(ID)?, sources.word(SECRET)?) {
        (Some(id), Some(secret)) => {
            let mut credentials = AwsCredentials::new(id, Secret::new(secret));
            credentials.session_token = sources.word("AWS_SESSION_TOKEN")?.map(Secret::new);
            Ok(Found::Credentials(credentials))
        }
        (None, None) => Ok(Found::Nothing(format!("{ID} is not set"))),
        (id, _) => {
            let (set, missing) = if id.is_some() { (ID, SECRET) } else { (SECRET, ID) };
            Err(failed(format!("{set} is set in the environment, and {missing} is not")))
        }
    }
}
