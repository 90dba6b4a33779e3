//! A profile of the shared files: an access key, or a role that is taken on with somebody else's.

use super::super::error::AwsError;
use super::super::profile::Profiles;
use super::role::{Role, assume, assume_with_token};
use super::{AwsCredentials, Found, Sources, container, environment, failed, machine};
use crate::Secret;

/// What is written in profiles and not understood here.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("credential_process", "programs that print credentials"),
    ("sso_session", "single sign-on"),
    ("sso_start_url", "single sign-on"),
    ("mfa_serial", "a second factor"),
    ("login_session", "log-ins of the console"),
];

pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let around = sources.metadata.around;
    let named = match sources.profile {
        Some(profile) => Some(profile.to_owned()),
        None => around.named_profile().map_err(failed)?,
    };
    let profiles = around.profiles().map_err(failed)?;
    let name = named.as_deref().unwrap_or("default");
    if profiles.has(name) {
        return of_profile(sources, &profiles, name, &mut Vec::new());
    }
    match named {
        Some(name) => Err(failed(profiles.missing(&name))),
        None => Ok(Found::Nothing(profiles.missing(name))),
    }
}

/// `chain` has the profiles that lead to this one.
fn of_profile(
    sources: &Sources<'_>,
    profiles: &Profiles,
    name: &str,
    chain: &mut Vec<String>,
) -> Result<Found, AwsError> {
    let get = |key| profiles.get(name, key);
    let key = || -> Result<Option<AwsCredentials>, AwsError> {
        let key = profiles.key(name).map_err(failed)?;
        Ok(key.map(|key| AwsCredentials {
            session_token: key.session_token.map(Secret::new),
            ..AwsCredentials::new(key.id, Secret::new(key.secret))
        }))
    };
    let seen = chain.iter().any(|earlier| earlier == name);
    chain.push(name.to_owned());
    // One that takes on a role with its own key names itself as its source.
    if seen {
        return match key()? {
            Some(credentials) if chain.len() >= 2 && chain[chain.len() - 2] == name => {
                Ok(Found::Credentials(credentials))
            }
            _ => Err(failed(format!("profiles lead in a circle: {}", chain.join(" -> ")))),
        };
    }
    let Some(arn) = get("role_arn") else {
        if let Some(credentials) = key()? {
            return Ok(Found::Credentials(credentials));
        }
        let unsupported = UNSUPPORTED.iter().find(|(key, _)| get(key).is_some());
        return match unsupported {
            Some((key, what)) => Err(failed(format!("profile {name:?} has {key}: {what} are not supported"))),
            None if chain.len() > 1 => Err(failed(format!("profile {name:?} has no access key, and no role"))),
            None => Ok(Found::Nothing(format!("profile {name:?} has no access key, and no role"))),
        };
    };
    if get("mfa_serial").is_some() {
        return Err(failed(format!("profile {name:?} has mfa_serial: a second factor is not supported")));
    }
    let role = Role {
        arn,
        session: get("role_session_name"),
        external_id: get("external_id"),
        seconds: get("duration_seconds"),
    };
    if let Some(file) = get("web_identity_token_file") {
        return assume_with_token(sources, &role, file).map(Found::Credentials);
    }
    let source = match (get("source_profile"), get("credential_source")) {
        (Some(source), None) if profiles.has(source) || source == name => of_profile(sources, profiles, source, chain)?,
        (Some(_), None) => {
            return Err(failed(format!("profile {name:?}: the profile that source_profile names was not found")));
        }
        (None, Some("Environment")) => environment::find(&Sources { profile: None, ..*sources })?,
        (None, Some("EcsContainer")) => container::find(sources)?,
        (None, Some("Ec2InstanceMetadata")) => machine::find(sources)?,
        (None, Some(_)) => {
            let valid = "use Environment, EcsContainer or Ec2InstanceMetadata";
            return Err(failed(format!("profile {name:?} has an invalid credential_source: {valid}")));
        }
        _ => {
            let what = "it needs one of source_profile, credential_source and web_identity_token_file";
            return Err(failed(format!("profile {name:?} has a role to be taken on: {what}")));
        }
    };
    match source {
        Found::Credentials(source) => assume(sources, &role, &source).map(Found::Credentials),
        Found::Nothing(why) => Err(failed(format!("profile {name:?}: its source has no credentials: {why}"))),
    }
}
