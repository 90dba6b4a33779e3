//! The role of the machine that this runs on, from its metadata service, in the second version, which wants a token.

use ureq::http::Method;

use super::super::error::AwsError;
use super::super::http::Asking;
use super::super::surroundings::Surroundings;
use super::{Found, Sources, failed, of_json};

const DEFAULT: &str = "http://169.254.169.254";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const REGION: &str = "/latest/meta-data/placement/region";
/// In seconds: the longest that there is ("Use the Instance Metadata Service", EC2 User Guide).
const TOKEN_LIFE: &str = "21600";

/// None when it is switched off.
fn service(around: &dyn Surroundings) -> Option<String> {
    let disabled = around.variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let set = around.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    (!disabled).then(|| set.map_or_else(|| DEFAULT.to_owned(), |set| set.trim_end_matches('/').to_owned()))
}

/// The token, and with it the text at a path.
fn token(sources: &Sources<'_>, service: &str) -> Result<(&'static str, String), String> {
    let uri = format!("{service}/latest/api/token");
    let headers = [("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE.to_owned())];
    let answer = sources.metadata(&Asking { method: Method::PUT, uri: &uri, headers: &headers, body: b"" })?;
    Ok(("x-aws-ec2-metadata-token", answer.body))
}

pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let Some(service) = service(sources.around) else {
        return Ok(Found::Nothing("AWS_EC2_METADATA_DISABLED is set".into()));
    };
    let token = match token(sources, &service) {
        Ok(token) => [token],
        Err(why) => {
            sources.patience.left(super::DOING)?;
            return Ok(Found::Nothing(format!("no metadata service at {service}: {why}")));
        }
    };
    let role = match sources.get(&format!("{service}{ROLES}"), &token) {
        Ok(answer) => answer.body.lines().next().unwrap_or_default().trim().to_owned(),
        Err(why) => {
            sources.patience.left(super::DOING)?;
            return Ok(Found::Nothing(format!("the machine has no role ({why})")));
        }
    };
    if role.is_empty() {
        return Ok(Found::Nothing("the machine has no role".into()));
    }
    match sources.get(&format!("{service}{ROLES}{role}"), &token).and_then(|answer| of_json(&answer.body)) {
        Ok(credentials) => Ok(Found::Credentials(credentials.of(format!("machine's role {role}")))),
        Err(why) => {
            sources.patience.left(super::DOING)?;
            Err(failed(format!("the role {role} of this machine has none: {why}")))
        }
    }
}

/// The region that this machine is in; none when nobody says so.
pub(in crate::drivers::ec2::aws) fn region(sources: &Sources<'_>) -> Option<String> {
    let service = service(sources.around)?;
    let token = [token(sources, &service).ok()?];
    Some(sources.get(&format!("{service}{REGION}"), &token).ok()?.body.trim().to_owned())
}
