//! The role of the machine that this runs on, from its metadata service, in the second version, which wants a token.

use ureq::http::Method;

use super::super::error::AwsError;
use super::super::http::Asking;
use super::super::sign::Header;
use super::super::surroundings::Surroundings;
use super::metadata::{Metadata, NoMetadata};
use super::{Found, Sources, failed, of_json};

const DEFAULT: &str = "http://169.254.169.254";
const DEFAULT_OF_IPV6: &str = "http://[fd00:ec2::254]";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const REGION: &str = "/latest/meta-data/placement/region";
/// In seconds: the longest that there is ("Use the Instance Metadata Service", EC2 User Guide).
const TOKEN_LIFE: &str = "21600";

/// None when it is switched off.
fn service(around: &dyn Surroundings) -> Option<String> {
    let is = |name, value| around.variable(name).is_some_and(|set| set.eq_ignore_ascii_case(value));
    if is("AWS_EC2_METADATA_DISABLED", "true") {
        return None;
    }
    let default = if is("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6") { DEFAULT_OF_IPV6 } else { DEFAULT };
    let set = around.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    Some(set.map_or_else(|| default.to_owned(), |set| set.trim_end_matches('/').to_owned()))
}

fn token(metadata: &Metadata<'_>, service: &str) -> Result<Header, NoMetadata> {
    let uri = format!("{service}/latest/api/token");
    let headers = [("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE.to_owned())];
    let token = metadata.ask(&Asking { method: Method::PUT, uri: &uri, headers: &headers, body: b"" })?;
    Ok(("x-aws-ec2-metadata-token", token))
}

pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let metadata = &sources.metadata;
    let Some(service) = service(metadata.around) else {
        return Ok(Found::Nothing("AWS_EC2_METADATA_DISABLED is set".into()));
    };
    let token = match token(metadata, &service) {
        Ok(token) => [token],
        Err(NoMetadata::Nothing(why)) => {
            return Ok(Found::Nothing(format!("no metadata service at {service}: {why}")));
        }
        Err(NoMetadata::Ended(error)) => return Err(error),
    };
    let role = match metadata.get(&format!("{service}{ROLES}"), &token) {
        Ok(roles) => roles.lines().next().unwrap_or_default().trim().to_owned(),
        Err(NoMetadata::Nothing(why)) => return Ok(Found::Nothing(format!("the machine has no role: {why}"))),
        Err(NoMetadata::Ended(error)) => return Err(error),
    };
    if role.is_empty() {
        return Ok(Found::Nothing("the machine has no role".into()));
    }
    let why = match metadata.get(&format!("{service}{ROLES}{role}"), &token) {
        Ok(answer) => match of_json(&answer) {
            Ok(credentials) => return Ok(Found::Credentials(credentials.of(format!("machine's role {role}")))),
            Err(why) => why,
        },
        Err(NoMetadata::Nothing(why)) => why,
        Err(NoMetadata::Ended(error)) => return Err(error),
    };
    Err(failed(format!("the role {role} of this machine has none: {why}")))
}

/// The region that this machine is in; none when nobody says so.
pub(in super::super) fn region(metadata: &Metadata<'_>) -> Result<Option<String>, AwsError> {
    let Some(service) = service(metadata.around) else { return Ok(None) };
    let asked = token(metadata, &service).and_then(|token| metadata.get(&format!("{service}{REGION}"), &[token]));
    match asked {
        Ok(region) => Ok(Some(region.trim().to_owned())),
        Err(NoMetadata::Nothing(_)) => Ok(None),
        Err(NoMetadata::Ended(error)) => Err(error),
    }
}
