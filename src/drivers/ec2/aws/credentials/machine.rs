//! The role of the machine that this runs on, from its metadata service, in the second version, which wants a token.

use ureq::http::{Method, Uri};

use super::super::error::AwsError;
use super::super::http::Asking;
use super::super::sign::Header;
use super::super::surroundings::Surroundings;
use super::metadata::{Metadata, NoMetadata};
use super::{Found, Sources, failed, of_json};
use crate::drivers::given::check_word;

const DEFAULT: &str = "http://169.254.169.254";
const DEFAULT_OF_IPV6: &str = "http://[fd00:ec2::254]";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const REGION: &str = "/latest/meta-data/placement/region";
/// In seconds: the longest that there is ("Use the Instance Metadata Service", EC2 User Guide).
const TOKEN_LIFE: &str = "21600";

/// None when it is switched off.
fn service(around: &dyn Surroundings) -> Result<Option<String>, String> {
    const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
    const MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
    const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    if around.variable(DISABLED)?.is_some_and(|set| set.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    if let Some(set) = around.word(ENDPOINT)? {
        let uri: Option<Uri> = set.parse().ok();
        let is_address = |uri: &Uri| {
            let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
            is_http && uri.authority().is_some_and(|host| !host.as_str().contains('@')) && uri.query().is_none()
        };
        return match uri.is_some_and(|uri| is_address(&uri)) {
            true => Ok(Some(set.trim_end_matches('/').to_owned())),
            false => Err(format!("{ENDPOINT} is invalid: use http://host[:port]")),
        };
    }
    match around.variable(MODE)?.map(|mode| mode.to_ascii_lowercase()).as_deref() {
        None | Some("ipv4") => Ok(Some(DEFAULT.into())),
        Some("ipv6") => Ok(Some(DEFAULT_OF_IPV6.into())),
        Some(_) => Err(format!("{MODE} is invalid: use IPv4 or IPv6")),
    }
}

fn token(metadata: &Metadata<'_>, service: &str) -> Result<Header, NoMetadata> {
    let uri = format!("{service}/latest/api/token");
    let headers = [("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE.to_owned())];
    let token = metadata.ask(&Asking { method: Method::PUT, uri: &uri, headers: &headers, body: b"" })?;
    // A value that cannot be sent back is not a token: another server answers at that address.
    let token = token.trim();
    check_word(token).map_err(|problem| NoMetadata::Nothing(format!("its token {problem}")))?;
    Ok(("x-aws-ec2-metadata-token", token.into()))
}

pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let metadata = &sources.metadata;
    let Some(service) = service(metadata.around).map_err(failed)? else {
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
    // The name becomes a part of an address.
    let is_name = |character: char| character.is_ascii_alphanumeric() || "+=,.@_-".contains(character);
    if !role.chars().all(is_name) {
        return Err(failed("the metadata service returned a role with an invalid name"));
    }
    let why = match metadata.get(&format!("{service}{ROLES}{role}"), &token) {
        Ok(answer) => match of_json(&answer) {
            Ok(credentials) => return Ok(Found::Credentials(credentials.of(format!("machine's role {role}")))),
            Err(why) => why,
        },
        Err(NoMetadata::Nothing(why)) => why,
        Err(NoMetadata::Ended(error)) => return Err(error),
    };
    Err(failed(format!("the role {role} of this machine has no credentials: {why}")))
}

/// The region that this machine is in; none when nobody says so.
pub(in super::super) fn region(metadata: &Metadata<'_>) -> Result<Option<String>, AwsError> {
    let Some(service) = service(metadata.around).map_err(failed)? else { return Ok(None) };
    let asked = token(metadata, &service).and_then(|token| metadata.get(&format!("{service}{REGION}"), &[token]));
    match asked {
        Ok(region) => Ok(Some(region.trim().to_owned())),
        Err(NoMetadata::Nothing(_)) => Ok(None),
        Err(NoMetadata::Ended(error)) => Err(error),
    }
}
