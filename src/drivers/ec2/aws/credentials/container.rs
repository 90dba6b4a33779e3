//! The endpoint that ECS and EKS give to a container ("Container credential provider" of the SDKs' reference guide).

use ureq::http::Uri;

use super::super::error::AwsError;
use super::super::place::is_this_machine;
use super::metadata::NoMetadata;
use super::{Found, Sources, failed, of_json};

const OF_ECS: &str = "http://169.254.170.2";
/// Whom a token may be told without TLS: ECS, EKS.
const ALLOWED: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

const RELATIVE_URI: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";

/// Without a token, the path of the endpoint is as good as a password; errors do not repeat it.
pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let uri = match (sources.word(RELATIVE_URI)?, sources.word(FULL_URI)?) {
        (Some(relative), _) if relative.starts_with('/') => format!("{OF_ECS}{relative}"),
        (Some(_), _) => return Err(failed(format!("{RELATIVE_URI} must begin with a slash"))),
        (None, Some(full)) if is_allowed(&full) => full,
        (None, Some(_)) => {
            return Err(failed(format!(
                "{FULL_URI} is not allowed: without TLS only this machine and the container's own services may be asked, \
                 and no address may contain a user or a password"
            )));
        }
        (None, None) => return Ok(Found::Nothing(format!("{RELATIVE_URI} is not set"))),
    };
    let token = match sources.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")? {
        Some(file) => Some(sources.token_file(&file)?),
        None => sources.word("AWS_CONTAINER_AUTHORIZATION_TOKEN")?,
    };
    let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
    let host = uri.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let why = match sources.metadata.get(&uri, &headers) {
        Ok(answer) => match of_json(&answer) {
            Ok(credentials) => return Ok(Found::Credentials(credentials.of(format!("container {host}")))),
            Err(why) => why,
        },
        Err(NoMetadata::Nothing(why)) => why,
        Err(NoMetadata::Ended(error)) => return Err(error),
    };
    Err(failed(format!("the container's endpoint at {host} has no credentials: {why}")))
}

fn is_allowed(uri: &str) -> bool {
    let Ok(uri) = uri.parse::<Uri>() else { return false };
    let Some(host) = uri.host() else { return false };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return false;
    }
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_this_machine(host) || ALLOWED.contains(&host.trim_start_matches('[').trim_end_matches(']')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn a_token_is_told_to_nobody_else() {
        for good in [
            "https://anywhere/x",
            "http://localhost/x",
            "http://127.0.0.1:80/x",
            "http://[::1]:80/x",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "http://10.0.0.1/x",
            "http://localhost.example.org/",
            "http://localhost@evil/",
            "ftp://localhost/",
            "",
            "https://u:p@anywhere/",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
